"""What all chapters share: studies to copy and to compare with, a room per case, verdicts."""

import csv
import dataclasses
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests.reliability import commands
from tests.reliability.commands import ROOT, Action, Ended, Started
from tests.reliability.study import write_data

HERE = Path(__file__).parent
DONE, FAILED, BAD_INPUT, UNFINISHED, STORAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143
"""The exit codes that the documents promise."""
TRACEBACK = "Traceback (most recent call last)"
EXACT, MENDED, NAMED, OTHER, SILENT = "exact", "mended", "named", "unexplained", "silently wrong"
OUTCOMES = {
    EXACT: "the tables of an undisturbed study",
    MENDED: "the same, and the damage was said",
    NAMED: "refused, with a sentence that names what is wrong",
    OTHER: "an exit code or a sentence that is not promised",
    SILENT: "other numbers, and no word of it",
}


class Verdict(NamedTuple):
    """How a case went, and why."""

    outcome: str
    why: str = ""


def import_package(scratch: Path) -> None:
    """Sets what JAX reads when it starts, and imports all but JAX's backend."""
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    sys.path.append(str(ROOT / "tests"))
    # Studies of seconds compile for longer than they run.
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
    }
    import matplotlib.figure

    import earlyprune_jax.config
    import earlyprune_jax.experiment
    import earlyprune_jax.slurm.submission  # noqa: F401

    # Drawing takes longer than a study; what is compared are the tables beside the figures.
    matplotlib.figure.Figure.savefig = lambda *arguments, **options: None


def tables(workdir: Path) -> dict[str, list[dict[str, str]]]:
    """Reads every table of a workdir, times aside."""
    found = {}
    for path in filter(Path.is_file, sorted(workdir.glob("*.csv"))):
        with path.open(newline="", errors="replace") as file:
            rows = [
                {k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
            ]
        found[path.name] = rows
    return found


@dataclasses.dataclass
class Lab:
    """What cases copy, made once.

    Attributes:
        scratch: the folder of it all.
        data: the array file.
        tables: base -> its tables once it has finished, undisturbed.
        changes: form -> how many changes of folders an undisturbed study makes.
        seconds: form -> how long it takes.
    """

    scratch: Path
    data: Path
    tables: dict[str, Any]
    changes: dict[str, int]
    seconds: dict[str, float]

    def base(self, name: str) -> Path:
        """Returns a workdir to copy: `FORM`, finished, or `FORM-early` and `FORM-late`, killed."""
        return self.scratch / "bases" / name

    def study(self, form: str, workdir: Path, *more: str) -> list[str]:
        """Returns the command of a study."""
        config, data = f"--config={HERE / 'study.py'}:{form}", f"--config.data.name=npz:{self.data}"
        return ["run", config, data, f"--workdir={workdir}", *more]


def make_lab(scratch: Path) -> Lab:
    """Trains the studies that cases start from, and those that they are compared with."""
    (scratch / "bases").mkdir(parents=True)
    lab = Lab(scratch, write_data(scratch / "data.npz"), {}, {}, {})
    for form in ("grid", "online", "budget"):
        _finish(lab, form, f"{form}-cold")
        changes = scratch / f"{form}.changes"
        with changes.open("wb", buffering=0) as file:
            count = commands.at_change(0, lambda *event, to=file: to.write(b"."), and_after=True)
            started = time.monotonic()
            _finish(lab, form, form, count)
        lab.seconds[form] = time.monotonic() - started
        lab.changes[form] = changes.stat().st_size
        for name, part in (("early", 0.2), ("late", 0.6)):
            _kill(lab, form, f"{form}-{name}", part)
    # What is measured within a budget depends on the machine's speed; once written down, no more.
    for name in ("budget-early", "budget-late"):
        shutil.copytree(lab.base(name), lab.base(f"{name}-done"))
        _finish(lab, "budget", f"{name}-done")
        lab.tables[name] = tables(lab.base(f"{name}-done"))
    return lab


def _finish(lab: Lab, form: str, name: str, first: Action = lambda: None) -> None:
    log = lab.scratch / f"{name}.log"
    ended = commands.start(lab.study(form, lab.base(name)), log, first=first).ended()
    if ended.code != DONE:
        raise SystemExit(f"An undisturbed study failed:\n{ended.said}")
    lab.tables[name] = tables(lab.base(name))


def _kill(lab: Lab, form: str, name: str, part: float) -> None:
    number = int(part * lab.changes[form])
    kill = commands.at_change(number, commands.signalled(signal.SIGKILL))
    log = lab.scratch / f"{name}.log"
    commands.start(lab.study(form, lab.base(name)), log, first=kill).ended()
    lab.tables[name] = lab.tables[form]


class Room:
    """The folder, the random numbers and the commands of one case."""

    def __init__(self, lab: Lab, chapter: str, seed: int, index: int):
        self.lab, self.index = lab, index
        self.rng = random.Random(f"{chapter} {seed} {index}")
        self.directory = lab.scratch / "cases" / f"{chapter}-{index}"
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self.workdir = self.directory / "run"
        self.ended: list[Ended] = []
        self.notes: list[str] = []

    def copy(self, name: str, workdir: Path | None = None) -> Path:
        """Copies a workdir of the lab's."""
        shutil.copytree(self.lab.base(name), workdir or self.workdir, symlinks=True)
        return workdir or self.workdir

    def start(self, *arguments: str, **how: Any) -> Started:
        """Starts a command: see `commands.start`."""
        log = self.directory / f"{len(list(self.directory.glob('*.log')))}.log"
        log.touch()
        return commands.start(list(arguments), log, **how)

    def end(self, started: Started, seconds: float = commands.SECONDS_TO_END) -> Ended:
        """Waits for a command."""
        self.ended.append(started.ended(seconds))
        return self.ended[-1]

    def run(self, *arguments: str, **how: Any) -> Ended:
        """Runs a command to its end."""
        return self.end(self.start(*arguments, **how))

    def study(self, form: str, *more: str, workdir: Path | None = None) -> list[str]:
        """Returns the command of a study in this room."""
        return self.lab.study(form, workdir or self.workdir, *more)

    def note(self, text: str) -> None:
        """Says what is done in this case, for who reads of a failure."""
        self.notes.append(text)

    @property
    def tracebacks(self) -> int:
        """Counts stack traces in all that was said, and in the logs of workdirs."""
        logs = [path for path in self.directory.rglob("*.log") if path.parent != self.directory]
        said = [ended.said for ended in self.ended] + [p.read_text(errors="replace") for p in logs]
        return sum(text.count(TRACEBACK) for text in said)

    def moment(self, form: str, act: Action) -> Action:
        """Draws a change of a folder, just before which something happens."""
        number = self.rng.randint(1, self.lab.changes[form])
        self.note(f"before change {number} of {self.lab.changes[form]}")
        return commands.at_change(number, act)

    # Verdicts

    def expect(self, ended: Ended, *codes: int) -> Verdict | None:
        """Finds fault with how a command has ended; None where there is none to find."""
        if ended.orphans:
            return Verdict(OTHER, f"{ended.orphans} processes outlived the command")
        if ended.code not in codes:
            return Verdict(
                OTHER, f"exit code {ended.code}, expected {' or '.join(map(str, codes))}"
            )
        return None

    def settled(
        self,
        base: str,
        names: Iterable[str] = (),
        *,
        workdir: Path | None = None,
        first: Action = lambda: None,
    ) -> Verdict:
        """Runs a study to its end, and compares its tables with the undisturbed ones.

        Args:
            base: what the workdir was, or its form.
            names: of what was damaged; one of them must be said where anything is.
            workdir: if not the room's own.
            first: what the process does first.
        """
        ended = self.run(*self.study(base.partition("-")[0], workdir=workdir), first=first)
        differing = self.differing(base, workdir or self.workdir)
        return self.expect(ended, DONE, FAILED, BAD_INPUT) or judged(ended, differing, names)

    def differing(self, base: str, workdir: Path) -> str:
        """Names the tables that are not those of an undisturbed study."""
        wanted, found = self.lab.tables[base], tables(workdir)
        return ", ".join(name for name in wanted if found.get(name) != wanted[name])


def judged(ended: Ended, differing: str, names: Iterable[str]) -> Verdict:
    """Judges a command by its exit code, by what differs, and by whether it names the damage."""
    is_named = any(name in ended.said for name in names)
    if ended.code == DONE and not differing:
        return Verdict(MENDED if is_named else EXACT)
    if ended.code == DONE:
        outcome = OTHER if is_named else SILENT
        return Verdict(outcome, f"exit code 0, but others: {differing}")
    if is_named and ended.code in (FAILED, BAD_INPUT):
        return Verdict(NAMED)
    return Verdict(OTHER, f"exit code {ended.code}, and the damage is not named")
