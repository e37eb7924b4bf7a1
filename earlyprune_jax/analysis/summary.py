"""The closing text of an experiment: what came out, how sure that is, where the files are."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import curves, labels, peaks, results
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.results import Run

WIDTH = 100
FIGURES = tuple(f"figures/accuracy_vs_fork_epoch.{extension}" for extension in ("png", "svg"))
FILES = ("results.csv", "signals.csv", *FIGURES)


def summarize(workdir: str | Path) -> str:
    """Says in plain text which fork epoch was best, at what cost, and where the signals peaked.

    Accuracies are last-epoch test accuracies in percent: mean +- sample standard deviation (n - 1)
    over runs. A fork epoch is chosen on last-epoch validation accuracy where every run of its
    curve has one; otherwise on the test accuracy that is reported, and the text says so. A lead
    over the runner-up counts as more than noise when it exceeds the half width of the 95 %
    confidence interval (Student's t) of the per-seed differences.

    Args:
        workdir: The experiment's directory, finished or not.

    Returns:
        Lines of at most 100 characters, without a trailing newline.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> print(summarize("no/such/workdir"))
        Runs: none yet.
    """
    runs = results.read_runs(workdir)
    config = results.read_config(workdir)
    mean_peaks = _mean_peaks(runs)
    all_curves = curves.fork_curves(runs)
    paragraphs = [
        _runs_text(runs),
        _dense_text(runs),
        *_signal_paragraphs(runs, config),
        _selection_text(all_curves),
        *(text for curve in all_curves for text in _curve_paragraphs(curve, runs, config, mean_peaks)),
        _files_text(Path(workdir)),
    ]
    return "\n".join(_wrap(paragraph) for paragraph in paragraphs if paragraph is not None)


def _runs_text(runs: Sequence[Run]) -> str:
    if not runs:
        return "Runs: none yet."
    counts = Counter(run.status for run in runs)
    named = [f"{counts[status]} {status}" for status in ("finished", "diverged", "skipped")]
    if counts["unfinished"]:
        named.append(f"{counts['unfinished']} unfinished (not in results.csv)")
    return f"Runs: {', '.join(named)}."


def _dense_text(runs: Sequence[Run]) -> str | None:
    dense = curves.dense_runs(runs)
    if not dense:
        return "No dense run has finished yet." if runs else None
    accuracy = curves.stats(run.last("test_accuracy") for run in dense)
    number = labels.percent(accuracy, decimals=2, plus_minus="+-")
    meaning = "one seed" if accuracy.std is None else f"mean +- std, n = {accuracy.n}"
    return f"Dense, never pruned: {number} test accuracy at the last epoch ({meaning})."


def _mean_peaks(runs: Sequence[Run]) -> list[Peak]:
    rows = results.signal_rows(peaks.comparable_trunks(runs))
    found = (peaks.mean_peak(rows, name) for name in peaks.headline_signals(rows))
    return [peak for peak in found if peak is not None]


def _signal_paragraphs(runs: Sequence[Run], config: Mapping[str, Any]) -> Iterator[str]:
    rows = results.signal_rows(peaks.comparable_trunks(runs))
    found = _mean_peaks(runs)
    if found:
        yield "Signals along the dense runs (mean over seeds):"
    for peak in found:
        epochs = sorted(own.epoch for own in peaks.seed_peaks(rows, peak.signal))
        seeds = f"; single seeds: {_range(epochs)}" if len(epochs) > 1 else ""
        yield f"  {labels.signal_label(peak.signal, config)}: {_peak_text(peak)}{seeds}."


def _peak_text(peak: Peak) -> str:
    value = labels.quantity(peak.value, peak.signal)
    if peak.edge == "last":
        text = f"largest at the last epoch, {peak.epoch} ({value}): an edge, so no peak was reached"
    elif peak.edge == "first":
        text = f"largest at the first epoch, {peak.epoch} ({value}): an edge, not an interior peak"
    else:
        text = f"{'maximum' if peak.flat else 'peak'} at epoch {peak.epoch} ({value})"
    if peak.flat:
        text += f"; flat, within 2 % of it over epochs {_range(peak.plateau)}"
    return text


def _curve_paragraphs(
    curve: Curve, runs: Sequence[Run], config: Mapping[str, Any], mean_peaks: Sequence[Peak]
) -> Iterator[str | None]:
    ranked = curves.ranked_epochs(curve)
    yield f"Forks: {labels.curve_label(curve)}"
    yield f"  {_best_text(curve, ranked)}"
    yield _against_dense_text(curve, ranked[0], curves.dense_runs(runs))
    if len(ranked) > 1:
        yield f"  {_runner_up_text(curve, ranked)}"
        yield f"  {_worst_text(curve)}"
    if mean_peaks:
        yield f"  {_distance_text(ranked[0], mean_peaks, config)}"
    yield _missing_text(curve, runs)


def _selection_text(all_curves: Sequence[Curve]) -> str | None:
    metrics = {curves.selection_metric(curve) for curve in all_curves if len(curve.runs) > 1}
    if not metrics:
        return None
    if metrics == {"validation_accuracy"}:
        return "Best fork epochs are selected on mean validation accuracy; what is reported is test accuracy."
    where = " where validation accuracies are missing" if len(metrics) > 1 else " (no validation split)"
    return (
        f"Best fork epochs are selected on test, on the accuracy reported{where}: "
        "expect them to look a little better than they are."
    )


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
    if difference.mean == 0:
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


def _distance_text(best: int, mean_peaks: Sequence[Peak], config: Mapping[str, Any]) -> str:
    words = []
    for peak in mean_peaks:
        distance = peak.epoch - best
        side = "after" if distance > 0 else "before" if distance < 0 else "at it"
        size = f"{abs(distance)} epoch{'s' * (abs(distance) != 1)} " if distance else ""
        caveat = " (an edge, no peak)" if peak.edge else " (flat)" if peak.flat else ""
        words.append(f"{labels.signal_label(peak.signal, config, short=True)} {size}{side}{caveat}")
    return f"Signal maxima relative to this epoch: {', '.join(words)}."


def _missing_text(curve: Curve, runs: Sequence[Run]) -> str | None:
    """Which forks of this curve its means do not contain."""
    axes = tuple(getattr(curve, axis) for axis in curves.CURVE_AXES)
    own = [r for r in runs if r.kind == "fork" and tuple(getattr(r, a) for a in curves.CURVE_AXES) == axes]
    missing = [run for run in own if run.status != "finished"]
    if not missing:
        return None
    named = [f"epoch {run.fork_epoch} seed {run.trunk_seed} {run.status}" for run in missing[:6]]
    more = f", and {len(missing) - 6} more" if len(missing) > 6 else ""
    return f"  Not in these numbers: {', '.join(named)}{more}."


def _files_text(workdir: Path) -> str | None:
    present = [name for name in FILES if (workdir / name).exists()]
    return f"Files in {workdir}: {', '.join(present)}" if present else None


def _accuracy(accuracy: Stats) -> str:
    return f"{labels.percent(accuracy, decimals=2, plus_minus='+-')} (n = {accuracy.n})"


def _range(epochs: Sequence[int]) -> str:
    return f"{epochs[0]}" if epochs[0] == epochs[-1] else f"{epochs[0]} to {epochs[-1]}"


def _wrap(paragraph: str) -> str:
    indent = " " * (len(paragraph) - len(paragraph.lstrip()))
    # A long path must stay in one piece, to be copied.
    return textwrap.fill(
        paragraph,
        WIDTH,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
