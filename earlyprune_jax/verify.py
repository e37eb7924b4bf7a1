"""Checks every record and every checkpoint of a study, and says what is damaged.

    earlyprune verify DIR

Reads all and writes nothing. Exit code 0: all is sound; 1: something is damaged; 2: DIR is no study
of this version. What is being trained at the moment is not looked at.
"""

import argparse
import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from earlyprune_jax import assets, records, storage, validate
from earlyprune_jax.analysis import formatting
from earlyprune_jax.analysis.formatting import plural
from earlyprune_jax.analysis.study import read_study
from earlyprune_jax.grid.locks import is_held
from earlyprune_jax.run_records import Recorded, RunRecords
from earlyprune_jax.training import execution
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.validate import InvalidInput, expected, gathering, problems_of

OF_STUDY = (records.CONFIG, records.STUDY, records.PLAN, records.ENVIRONMENT)
"""The records that every workdir has."""
DAMAGED = 1
"""Exit code."""
REMEDY = (
    "`earlyprune run` with the study's config and --workdir makes damaged runs again, from what is "
    "sound, and plan.json; of other files each sentence says what to do. What no run needs any "
    "more, such as a checkpoint of one that has ended, may be deleted."
)


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("workdir", metavar="DIR", help="the --workdir of a study")
    return made


def main(arguments: list[str]) -> int:
    """Verifies the study that the arguments name; returns the exit code."""
    workdir, problems = Path(parser().parse_args(arguments).workdir), list[str]()

    def report() -> str:
        records.require_workdir(workdir)
        records.study_id(workdir)
        execution.require_jax()
        print(f"Checking {workdir} ...", file=sys.stderr, flush=True)
        counts = verify(workdir, problems)
        counted = formatting.listed([plural(number, kind) for kind, number in counts.items()])
        lines = [f"- {problem}" for problem in dict.fromkeys(problems)]
        found = f"Damaged: {len(lines)}. {REMEDY}" if lines else "All are sound."
        return "\n".join([*lines, f"Checked: {counted}. {found}", *_not_begun(workdir)])

    return validate.answer(report) or DAMAGED * bool(problems)


def verify(workdir: Path, problems: list[str]) -> Counter[str]:
    """Checks a study.

    Args:
        workdir: of the study.
        problems: takes a sentence for all that is damaged.

    Returns:
        What was checked -> how many of it.
    """
    counts: Counter[str] = Counter()
    problems += _lock_problems(workdir)
    budgets = (f"signal_budgets/{path.name}" for path in workdir.glob("signal_budgets/*.json"))
    for name in (*OF_STUDY, *budgets):
        counts["record"] += 1
        with gathering(problems):
            storage.refuse_link(workdir / name)
            if records.read_of_study(workdir, name) is None:
                problems.append(expected("file", str(workdir / name), "to exist", REMEDY))
    study, kept = None, set[str]()
    with gathering(problems):
        study = read_study(workdir)
    for kind in records.FOLDERS:
        for directory in records.run_directories(workdir, kind):
            problems += _lock_problems(directory)
            if is_held(directory):
                continue  # It is being written.
            counts["run"] += 1
            # What is read through a link is refused when it is to be written.
            for name in records.OF_RUNS:
                problems += problems_of(functools.partial(storage.refuse_link, directory / name))
            # Not among what tables are made of.
            run = RunRecords(directory)
            problems += problems_of(run.attempts)
            with gathering(problems), records.sound(directory):
                recorded = run.read()
                problems += _origin_problems(workdir, recorded)
                kept |= set((recorded.description or {}).get(assets.KEY, {}).values())
                if recorded.description and study:
                    study.require_own(directory, recorded.description)
            with gathering(problems):
                counts["checkpoint"] += _verify_checkpoints(directory, problems)
    for path in sorted(kept):
        counts["asset"] += 1
        with gathering(problems):
            problems += filter(None, [assets.problem(workdir, path)])
    return counts


def _lock_problems(directory: Path) -> list[str]:
    """Checks that the file that is locked is one that can be."""
    if not storage.is_there(directory / ".lock"):
        return []
    return problems_of(lambda: storage.open_lock(directory, makes=False).close())


def _not_begun(workdir: Path) -> Iterator[str]:
    """Says how many members of the last session's grid have no directory."""
    with contextlib.suppress(InvalidInput):  # What is damaged is named.
        if lost := (records.planned(workdir) or set()) - records.described(workdir):
            yield f"Of the planned runs {len(lost)} are not there: not begun, or lost."


def _origin_problems(workdir: Path, run: Recorded) -> list[str]:
    """Checks that what a run has started from is there: a trunk's budget, the checkpoint that its
    trunk has of a pruned run."""
    described = run.description or {}
    limit = described.get("config", {}).get("signals", {}).get("max_overhead_fraction")
    budget = workdir / str(described.get("signal_budget"))
    if run.epochs and "signals" in run.epochs[0] and limit and not budget.is_file():
        return [expected("file", str(budget), "to exist", records.BUDGET_REMEDY)]
    epoch, wanted = described.get("fork_epoch"), described.get("parent_sha256")
    if wanted is None or epoch is None:
        return []
    store = CheckpointStore(workdir / described["parent"] / "checkpoints")
    stored = store.sha256(epoch) if store.has(epoch) else None
    if stored in (None, wanted):
        return []
    allowed = f"to be the one from which forks started, of SHA-256 {wanted[:12]}..."
    remedy = "The trunk was trained again since, on other hardware or with other versions."
    return [expected("checkpoint", str(store.directory / str(epoch)), allowed, remedy)]


def _verify_checkpoints(directory: Path, problems: list[str]) -> int:
    """Checks the checkpoints of a run, and returns how many there are.

    Raises:
        InvalidInput: their folder is a link or a file, or may not be read.
    """
    store = CheckpointStore(directory / "checkpoints")
    store.interrupted()
    epochs = store.epochs()
    if epochs and not (directory / "run.json").exists():
        problems.append(expected("file", str(directory / "run.json"), "to exist", records.REMEDY))
    for epoch in epochs:
        with gathering(problems):
            problems += filter(None, [store.problem(epoch)])
    return len(epochs)
