"""Disturbs studies in every way we know, and counts what comes of it.

    python -m tests.reliability                     two minutes of everything
    python -m tests.reliability --full              the counts of docs/reliability.md: hours
    python -m tests.reliability --case=mutate:137   one case again, with all that was said
    python -m tests.reliability --chapter=kill --count=20

Ends with 1 where anything was silently wrong, unexplained, or a stack trace. What such a case has
left is kept below --scratch.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.reliability import exports, harness, inputs, interrupts, mutations, places, soak, storage
from tests.reliability.harness import OTHER, OUTCOMES, SILENT, Lab, Room, Verdict

CHAPTERS: dict[str, tuple[Callable[[Room], Verdict], int]] = {
    "kill": (interrupts.kill, 100),
    "stop": (interrupts.stop, 100),
    "start_twice": (interrupts.start_twice, 50),
    "mutate": (mutations.mutate, 500),
    "export": (exports.export, 100),
    "storage": (storage.refuse, 100),
    "place": (places.place, 60),
    "not_finite": (places.not_finite, 30),
    "config": (inputs.config, 300),
    "data": (inputs.data, 52),
    "soak": (soak.soak, 1),
}
"""Chapter -> what tries one case, and how many --full has."""
Tried = dict[str, Any]


def main() -> int:
    """Tries cases, prints the table, and returns the exit code."""
    flags = _parser().parse_args()
    scratch = Path(flags.scratch or tempfile.mkdtemp(prefix="reliability-")).absolute()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    harness.import_package(scratch)
    lab = harness.make_lab(scratch)
    minutes = math.inf if flags.full or flags.case or flags.count else flags.minutes
    work = [(lab, chapter, flags.seed, index) for chapter, index in _cases(flags)]
    tried = list(_tried(work, flags.jobs, time.time() + 60 * minutes))
    print(_table(tried), flush=True)
    if flags.json:
        Path(flags.json).write_text(json.dumps(tried, indent=1) + "\n")
    if is_bad := any(map(_is_bad, tried)):
        print(f"Kept: {scratch / 'cases'}")
    elif not flags.scratch:
        shutil.rmtree(scratch)
    return int(is_bad)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--full", action="store_true", help="all cases")
    made.add_argument("--minutes", type=float, default=2.0, help="begin no case later; default 2")
    made.add_argument("--chapter", choices=CHAPTERS, action="append", help="only these")
    made.add_argument("--count", type=int, help="so many cases of each chapter, whatever the time")
    made.add_argument("--case", metavar="CHAPTER:INDEX", help="one case, all it says")
    made.add_argument("--seed", type=int, default=0, help="of all random numbers")
    made.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at once")
    made.add_argument("--scratch", help="a folder, which is emptied; default: a temporary one")
    made.add_argument("--json", metavar="FILE", help="writes every case")
    return made


def _cases(flags: argparse.Namespace) -> list[tuple[str, int]]:
    """Lists cases, in an order that spreads every chapter over the whole time."""
    if flags.case:
        chapter, _, index = flags.case.partition(":")
        return [(chapter, int(index))]
    placed = []
    for chapter in flags.chapter or CHAPTERS:
        count = min(flags.count or math.inf, CHAPTERS[chapter][1])
        placed += [((index + 0.5) / count, chapter, index) for index in range(int(count))]
    return [(chapter, index) for _, chapter, index in sorted(placed)]


def _tried(work: list[Any], jobs: int, deadline: float) -> Iterable[Tried]:
    # A fork has all modules; with more threads than one it would not be safe.
    with multiprocessing.get_context("fork").Pool(jobs, _set_deadline, (deadline,)) as pool:
        for tried in filter(None, pool.imap_unordered(_try, work)):
            print(end=".", file=sys.stderr, flush=True)
            if _is_bad(tried) or len(work) == 1:
                print(_report(tried), flush=True)
            yield tried


_deadline = math.inf


def _set_deadline(deadline: float) -> None:
    global _deadline
    _deadline = deadline


def _try(given: tuple[Lab, str, int, int]) -> Tried | None:
    lab, chapter, seed, index = given
    if time.time() > _deadline:
        return None
    room = Room(lab, chapter, seed, index)
    try:
        outcome, why = CHAPTERS[chapter][0](room)
    except Exception:
        outcome, why = OTHER, f"the suite itself failed: {traceback.format_exc()}"
    tried = {"chapter": chapter, "index": index, "seed": seed, "outcome": outcome, "why": why}
    tried |= {"notes": room.notes, "tracebacks": room.tracebacks}
    tried["commands"] = [ended._asdict() for ended in room.ended]
    if not _is_bad(tried):
        shutil.rmtree(room.directory, ignore_errors=True)
    return tried


def _is_bad(tried: Tried) -> bool:
    return tried["outcome"] in (OTHER, SILENT) or tried["tracebacks"] > 0


def _report(tried: Tried) -> str:
    """Says what a case did and how it went, with the last that was said."""
    again = f"python -m tests.reliability --case={tried['chapter']}:{tried['index']}"
    head = f"{again} --seed={tried['seed']}: {tried['outcome']} {tried['why']}"
    lines = [head, f"  {'; '.join(tried['notes'])}; {tried['tracebacks']} stack traces"]
    for ended in tried["commands"]:
        lines.append(f"  $ earlyprune {ended['command'][:300]}  -> {ended['code']}")
        lines += [f"    | {line[:300]}" for line in ended["said"].splitlines()[-8:]]
    return "\n".join(lines)


def _table(tried: list[Tried]) -> str:
    names = ("tried", *OUTCOMES, "tracebacks")
    rows: list[tuple[str, ...]] = [("chapter", *names)]
    for chapter in (*CHAPTERS, "all"):
        own = [one for one in tried if chapter in (one["chapter"], "all")]
        if not own:
            continue
        counts = Counter(one["outcome"] for one in own)
        numbers = (len(own), *map(counts.get, OUTCOMES), sum(one["tracebacks"] for one in own))
        rows.append((chapter, *(str(number or 0) for number in numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
