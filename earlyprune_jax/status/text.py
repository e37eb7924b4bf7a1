"""What is said of a workdir that is being worked on."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from earlyprune_jax import records
from earlyprune_jax.metrics import Metric, duration
from earlyprune_jax.status.reading import BEGUN, FINISHED, RUNNING, Cell, Status, numbers
from earlyprune_jax.validate import shortened

MOST_LINES = 10
"""Of a list."""
COMPARISONS = records.FOLDERS["comparison"]


def lines(status: Status) -> list[str]:
    """Describes a workdir, for the terminal."""
    losses = shortened(list(_losses(status)), MOST_LINES)
    left = f"Time left: {_time_left(status)}."
    return [*_counts(status), *_at_work(status), *losses, *_best(status), left]


def _counts(status: Status) -> Iterator[str]:
    is_known = status.cells is not None
    for kind, folder in records.FOLDERS.items():
        cells = [cell for cell in status.cells or () if cell.kind == kind]
        names = {name for cell in cells for name in cell.members}
        here = {name for name in status.found if name.startswith(f"{folder}/")}
        if here or names:
            counted = here & names if is_known else here
            states = Counter(status.found[name].state for name in counted)
            total = len(names) if is_known else None
            yield f"{folder:<12} {_count(states, total, is_search=status.is_search)}"
        if is_known and (more := len(here - names)):
            yield f"{'':<12} {more} more, of earlier grids"
    if not is_known:
        yield f"How many are planned is not known: there is no {records.PLAN}."


def _count(states: Counter[str], total: int | None, *, is_search: bool) -> str:
    """Writes how many members are in each state.

    Args:
        states: how many are, of those that have been begun.
        total: how many are planned; None where that is not known.
        is_search: whether these are the most there may be.

    Returns:
        The words.

    Example:
        >>> _count(Counter(finished=3, running=1, begun=1, failed=1), 9, is_search=False)
        '3 of 9 done, 1 failed, 1 running, 4 left (1 interrupted)'
    """
    of_all = "" if total is None else f" of {'at most ' if is_search else ''}{total}"
    others = sorted(states.keys() - {FINISHED, BEGUN})
    parts = [f"{states[FINISHED]}{of_all} done", *(f"{states[name]} {name}" for name in others)]
    left = states[BEGUN] + (0 if total is None or is_search else total - states.total())
    begun = f" ({states[BEGUN]} interrupted)" if states[BEGUN] else ""
    return ", ".join([*parts, *([f"{left} left{begun}"] if left else [])])


def _at_work(status: Status) -> Iterator[str]:
    if known := sorted(filter(None, status.processes)):
        more = f", and {len(known) - MOST_LINES} more" if len(known) > MOST_LINES else ""
        yield f"At work (host:process): {', '.join(known[:MOST_LINES])}{more}."


def _losses(status: Status) -> Iterator[str]:
    """Lists failed and diverged runs with their reasons."""
    for name, found in sorted(status.found.items()):
        if found.state not in (FINISHED, RUNNING, BEGUN):
            epoch, reason = found.number("epoch"), found.result.get("reason")
            where = "" if epoch is None else f" in epoch {epoch}"
            yield f"{found.state}{where}: {name}{f': {reason}' if reason else ''}"


class _Score(NamedTuple):
    cell: Cell
    chosen_by: float
    test: float
    n: int


def _best(status: Status) -> list[str]:
    """Names the best fork epoch of every row so far, by the mean over its runs."""
    metric, splits = status.metric, ("validation", "test")
    split, scores = next(
        ((s, found) for s in splits if (found := _scores(status, metric, s))), ("", [])
    )
    best: dict[str, _Score] = {}
    for score in scores:
        last = best.get(score.cell.row)
        if last is None or metric.sign * (score.chosen_by - last.chosen_by) > 0:
            best[score.cell.row] = score
    if not best:
        return [f"Best so far: not known until a run has finished and says its test {metric.name}."]
    chosen = {"test": "the same test metric: there is no validation split"}.get(split, split)
    width = max(map(len, best))
    rows = [f"  {row:<{width}}  {_words(score, metric)}" for row, score in best.items()]
    header = f"Best so far by mean test {metric.name} (chosen on {chosen}):"
    return [header, *shortened(rows, MOST_LINES)]


def _scores(status: Status, metric: Metric, split: str) -> list[_Score]:
    """Averages a metric of a split over the runs of each cell that has one."""
    scores = []
    for cell in status.trained:
        # A trunk that its trigger has stopped is no dense run to compare with.
        runs = [one for one in status.finished(cell) if "fired" not in one.result]
        values, test = (numbers(runs, "last", metric.column(s)) for s in (split, "test"))
        if values and test:
            means = sum(values) / len(values), sum(test) / len(test)
            scores.append(_Score(cell, *means, len(test)))
    return scores


def _words(score: _Score, metric: Metric) -> str:
    at = "" if score.cell.fork_epoch is None else f"at {score.cell.fork_epoch}"
    return f"{at:<7} {metric.written(score.test):>8}  (n = {score.n} of {len(score.cell.members)})"


def _time_left(status: Status) -> str:
    """Estimates the time of what is left, from the seconds of what has finished."""
    if status.is_closed:
        return "nothing is left to train"
    if status.cells is None or status.is_search:
        return "unknown, because the number of runs is unknown"
    paces, seconds = _paces(status), 0.0
    for cell in status.trained:
        if left := _num_left(status, cell):
            pace = paces.get((cell.kind, cell.row), paces.get((cell.kind, "")))
            if pace is None:
                folder = records.FOLDERS[cell.kind]
                return f"not known until one of the {folder} has finished and says how long it took"
            seconds += left * cell.num_epochs * pace
    if not seconds:
        return "nothing is left to train"
    if not (count := len(status.processes)):
        return f"about {duration(seconds)} for one process, but none is at work"
    processes = "the process" if count == 1 else f"the {count} processes"
    return f"about {duration(seconds / count)} for {processes} at work"


def _paces(status: Status) -> dict[tuple[str, str], float]:
    """Returns seconds an epoch by kind and row, and by kind alone, whose row is empty."""
    seconds: Counter[tuple[str, str]] = Counter()
    epochs: Counter[tuple[str, str]] = Counter()
    for cell in status.trained:
        taken = numbers(status.finished(cell), "seconds")
        for key in ((cell.kind, cell.row), (cell.kind, "")):
            seconds[key] += sum(taken)  # pyright: ignore[reportArgumentType]
            epochs[key] += len(taken) * cell.num_epochs
    return {key: seconds[key] / count for key, count in epochs.items() if count}


def _num_left(status: Status, cell: Cell) -> float:
    """Counts a cell's runs that have not ended; of one that runs, half is taken as done."""
    found = [status.found[name] for name in cell.members if name in status.found]
    is_running = [one.state == RUNNING for one in found]
    ended = [not one.is_open for one in found]
    return len(cell.members) - sum(ended) - 0.5 * sum(is_running)
