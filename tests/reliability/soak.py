"""One process that trains 300 forks: what it holds does not grow."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from tests.reliability import commands
from tests.reliability.harness import DONE, EXACT, OTHER, Room, Verdict, tables

NUM_FORKS, SETTLED_AT = 300, 60
MOST_GROWTH_MB = 40.0
"""From the 60th fork to the last: 170 kB a fork."""
MOST_MORE = 3
"""File descriptors and threads: a pool may start one late, but not one a fork."""


class Held(NamedTuple):
    """What a process holds at a moment."""

    forks: int
    megabytes: float
    files: int
    threads: int


def soak(room: Room) -> Verdict:
    """Compares memory, file descriptors and threads after 60 forks and at the last."""
    started = room.start(*room.study("soak"))
    seen: list[Held] = []

    def look() -> bool:
        forks = len(list(room.workdir.glob("forks/*/result.json")))
        with contextlib.suppress(OSError, IndexError):
            if forks >= (seen[-1].forks + 10 if seen else SETTLED_AT):
                seen.append(_held(started.pid, forks))
        return started.poll()

    commands.wait_until(look, 1800)
    if fault := room.expect(room.end(started), DONE):
        return fault
    first, last = seen[0], seen[-1]
    room.note(f"{first} to {last}")
    runs = tables(room.workdir)["results.csv"]
    finished = sum(row["kind"] == "fork" and row["status"] == "finished" for row in runs)
    if finished != NUM_FORKS:
        return Verdict(OTHER, f"{finished} forks of {NUM_FORKS}")
    grown = [
        name
        for name, most in (
            ("megabytes", MOST_GROWTH_MB),
            ("files", MOST_MORE),
            ("threads", MOST_MORE),
        )
        if getattr(last, name) > getattr(first, name) + most
    ]
    return Verdict(OTHER, f"grown: {', '.join(grown)}") if grown else Verdict(EXACT)


def _held(pid: int, forks: int) -> Held:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    files, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return Held(forks, pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files, threads)
