"""The forks of one setting in words: a block a curve, or of many curves a line each."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis import curves, labels, online_text, rules_text, signals_text
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.regret import Grid
from earlyprune_jax.analysis.runs import Run

MAX_BLOCKS = 4
MAX_NAMED = 6
REASON_LENGTH = 60
HEADINGS = ("epoch", "of", "test, %", "n", "against dense", "lead")
NOTES = (
    "In the table of forks: the best of so many fork epochs (e: it is the earliest or the latest of them), "
    "test accuracy there, mean +- std over n runs, points against dense, mean +- std over seeds, and "
    "whether its lead over the runner-up is more than the noise (95 %, three seeds at least)."
)
"""What the columns of `table` are: to be said once, however many tables there are."""


def paragraphs(
    data: Grid, runs: Sequence[Run], config: Mapping[str, Any], mean_peaks: Sequence[Peak]
) -> Iterator[str]:
    """What came of every curve of forks: where it was best, at what cost, how sure that is.

    Args:
        data: of `regret.grid`, of these runs.
        runs: of one setting.
        config: of `results.read_config`.
        mean_peaks: of the signals along its trunks.
    """
    dense, missing = curves.dense_runs(runs), _missing(runs, "fork")
    for curve in data.curves:
        yield from _block(curve, dense, config, data, mean_peaks)
        if lost := missing.get(_axes(curve)):
            yield _missing_text(lost)


def online_paragraphs(online: Sequence[Curve], runs: Sequence[Run]) -> Iterator[str]:
    """What came of the runs that pruned themselves.

    Args:
        online: of `curves.fork_curves`, of these runs.
        runs: of one setting.
    """
    missing = _missing(runs, "online")
    if len(online) > MAX_BLOCKS:
        yield from online_text.lines(online)
        if missing:
            yield _missing_text([run for lost in missing.values() for run in lost], by_sparsity=True)
        return
    for curve in online:
        yield from online_text.paragraphs(curve)
        if lost := missing.get(_axes(curve)):
            yield _missing_text(lost)


def _block(
    curve: Curve, dense: Sequence[Run], config: Mapping[str, Any], data: Grid, mean_peaks: Sequence[Peak]
) -> Iterator[str]:
    ranked = curves.ranked_epochs(curve)
    yield f"Forks: {labels.curve_label(curve)}"
    yield f"  {_best_text(curve, ranked)}"
    if against := _against_dense_text(curve, ranked[0], dense):
        yield against
    if len(ranked) > 1:
        yield f"  {_runner_up_text(curve, ranked)}"
        yield f"  {_worst_text(curve)}"
    if mean_peaks:
        yield f"  {signals_text.distance_sentence(ranked[0], mean_peaks, config)}"
    signals = [peak.signal for peak in mean_peaks]
    if related := signals_text.correlation_sentence(curve, signals, config, data):
        yield f"  {related}"


def table(all_curves: Sequence[Curve], runs: Sequence[Run]) -> Iterator[str]:
    """The same in a line a curve, for more than `MAX_BLOCKS` of them; `NOTES` explains its columns.

    Args:
        all_curves: of `curves.fork_curves`, of these runs.
        runs: of one setting.
    """
    if not all_curves:
        return
    axes, dense = curves.varying(all_curves) or ["sparsity"], curves.dense_runs(runs)
    shared = labels.curve_label(all_curves[0], [axis for axis in curves.CURVE_AXES if axis not in axes])
    yield f"Forks{f': {shared}' * bool(shared)}; the best fork epoch of every curve:"
    rows = [(_place(curve, axes), *_row(curve, dense)) for curve in all_curves]
    yield from rules_text.aligned([(", ".join(axes), *HEADINGS), *rows]).split("\n")
    if missing := _missing(runs, "fork"):
        yield _missing_text([run for lost in missing.values() for run in lost], by_sparsity=True)


def _place(curve: Curve, axes: Sequence[str]) -> str:
    """Where the curve lies on the axes, in as few characters as possible."""
    return ", ".join(
        f"{100 * curve.sparsity:.6g} %" if axis == "sparsity" else getattr(curve, axis) for axis in axes
    )


def _row(curve: Curve, dense: Sequence[Run]) -> tuple[str, ...]:
    ranked = curves.ranked_epochs(curve)
    accuracy = curve.test(ranked[0])
    difference = curves.paired_difference(curve.runs[ranked[0]], dense, "test_accuracy")
    is_edge = len(ranked) > 1 and ranked[0] in (min(ranked), max(ranked))
    return (
        f"{ranked[0]}{' e' * is_edge}",
        str(len(ranked)),
        rules_text.plus_minus(accuracy, decimals=2, scale=100),
        str(accuracy.n),
        _signed(difference),
        _lead_words(curve, ranked),
    )


def _signed(difference: Stats | None) -> str:
    words = rules_text.plus_minus(difference, decimals=2, scale=100)
    return f"+{words}" if difference and difference.mean > 0 else words


def _lead_words(curve: Curve, ranked: Sequence[int]) -> str:
    if len(ranked) == 1:
        return "-"
    metric, (best, second) = curves.selection_metric(curve), ranked[:2]
    lead = curves.paired_difference(curve.runs[best], curve.runs[second], metric)
    if lead is None or lead.n < 3 or not lead.std:
        return "unknown"
    is_clear = curves.clearly_better(curve.runs[best], curve.runs[second], metric)
    return "clear" if is_clear else "unsettled"


def _missing(runs: Sequence[Run], kind: str) -> dict[tuple[Any, ...], list[Run]]:
    """Place of a curve -> its runs that have not finished."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if run.kind == kind and run.status != "finished":
            found.setdefault(_axes(run), []).append(run)
    return found


def _axes(one: Curve | Run) -> tuple[Any, ...]:
    return tuple(getattr(one, axis) for axis in curves.CURVE_AXES)


def _missing_text(missing: Sequence[Run], *, by_sparsity: bool = False) -> str:
    """Which runs the means do not contain."""
    named = ", ".join(_named(run, by_sparsity) for run in missing[:MAX_NAMED])
    more = f", and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return f"  Not in these numbers: {named}{more}."


def _named(run: Run, by_sparsity: bool) -> str:
    where = f"{100 * (run.sparsity or 0):.6g} % " if by_sparsity else ""
    where += "" if run.fork_epoch is None else f"epoch {run.fork_epoch} "
    return f"{where}seed {run.trunk_seed} {ending(run)}"


def ending(run: Run) -> str:
    """How a run ended; if it failed, of what."""
    if run.status != "failed" or not run.why:
        return run.status
    return f"failed ({textwrap.shorten(run.why, REASON_LENGTH, placeholder=' ...')})"


def _best_text(curve: Curve, ranked: Sequence[int]) -> str:
    accuracy = _accuracy(curve.test(ranked[0]))
    if len(ranked) == 1:
        return f"Only fork epoch: {ranked[0]}, test accuracy {accuracy}."
    text = f"Best of {len(ranked)} fork epochs: {ranked[0]}, test accuracy {accuracy}."
    if ranked[0] in (min(ranked), max(ranked)):
        side, beyond = ("earliest", "earlier") if ranked[0] == min(ranked) else ("latest", "later")
        text += f" It is the {side} one tried: a better one may lie {beyond}."
    return text


def _against_dense_text(curve: Curve, best: int, dense: Sequence[Run]) -> str | None:
    difference = curves.paired_difference(curve.runs[best], dense, "test_accuracy")
    if difference is None:
        return None
    points = f"  Against dense: {100 * difference.mean:+.2f} points"
    if difference.std is None:
        return f"{points} (one seed: no estimate of the noise)."
    return f"{points} +- {100 * difference.std:.2f} (std of the {difference.n} per-seed differences)."


def _runner_up_text(curve: Curve, ranked: Sequence[int]) -> str:
    best, second = ranked[:2]
    metric = curves.selection_metric(curve)
    difference = curves.paired_difference(curve.runs[best], curve.runs[second], metric)
    text = f"Runner-up: {second}"
    if difference is None:
        return f"{text}; no seed has both, so the lead cannot be judged."
    if curves.is_zero(difference.mean):
        return f"{text}, with the same {metric.replace('_', ' ')}: neither is better."
    text += f"; the best leads by {100 * difference.mean:.2f} points of {metric.replace('_', ' ')}"
    # Equal differences of two or three seeds are chance (accuracies are multiples of 1/n), not certainty.
    if difference.n < 3 or not difference.std:
        seeds = "one seed" if difference.n == 1 else f"{difference.n} seeds"
        return f"{text}. With {seeds} the noise is unknown: take neither as settled."
    noise = 100 * difference.half_width()
    verdict = (
        f"more than the noise (+- {noise:.2f}, 95 %, {difference.n} seeds)."
        if 100 * difference.mean > noise
        else f"less than the noise (+- {noise:.2f}, 95 %, {difference.n} seeds): not settled which is better."
    )
    return f"{text}, {verdict}"


def _worst_text(curve: Curve) -> str:
    accuracies = {epoch: curve.test(epoch) for epoch in curve.runs}
    worst = min(accuracies, key=lambda epoch: (accuracies[epoch].mean, epoch))
    spread = max(cell.mean for cell in accuracies.values()) - accuracies[worst].mean
    return (
        f"Worst fork epoch: {worst}, test accuracy {_accuracy(accuracies[worst])}; "
        f"{100 * spread:.2f} points between the highest and the lowest mean."
    )


def _accuracy(accuracy: Stats) -> str:
    return f"{labels.percent(accuracy, decimals=2, plus_minus='+-')} (n = {accuracy.n})"
