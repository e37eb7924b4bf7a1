"""The closing text of an experiment: what came out, how sure that is, where the files are."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import (
    curves,
    labels,
    online_text,
    recommendation,
    regret,
    results,
    rules,
    rules_text,
    signal_cost,
    signals_text,
)
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.analysis.results import Run

WIDTH = 100
FIGURES = tuple(
    f"figures/{name}.{extension}"
    for name in ("accuracy_vs_fork_epoch", "rules")
    for extension in ("png", "svg")
)
TABLES = ("results.csv", "signals.csv", "rules.csv", "rule_choices.csv", "signal_correlations.csv")
FILES = (*TABLES, *FIGURES)
MAX_RULE_LINES = 4


def summarize(workdir: str | Path) -> str:
    """Says in plain text which fork epoch was best, at what cost, where the signals peaked, what to do.

    Accuracies are last-epoch test accuracies in percent: mean +- sample standard deviation (n - 1)
    over runs. A fork epoch is chosen on last-epoch validation accuracy where every run of its
    curve has one; otherwise on the test accuracy that is reported, and the text says so. A lead
    over the runner-up counts as more than noise when it exceeds the half width of the 95 %
    confidence interval (Student's t) of the per-seed differences. The last paragraph is one
    sentence, the recommendation.

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
    data = regret.grid(runs, config)
    online = curves.fork_curves(runs, "online")
    outcomes = rules.replay_grid(data, config)
    paragraphs = [
        _runs_text(runs),
        _dense_text(runs),
        *signals_text.paragraphs(runs, config),
        signal_cost.sentence(runs, signal_cost.read_budget(workdir)),
        _selection_text(data.curves),
        *(text for curve in data.curves for text in _curve_paragraphs(curve, runs, config, data)),
        *(text for curve in online for text in _online_paragraphs(curve, runs)),
        *_rule_paragraphs(data, outcomes),
        _files_text(Path(workdir)),
        recommendation.recommend(runs, outcomes, data.num_epochs),
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
        pruned_itself = any(run.kind == "online" and run.fork_epoch is not None for run in runs)
        # Every trunk that its trigger has ended is no baseline, and never will be.
        return "No dense run has finished yet." if runs and not pruned_itself else None
    accuracy = curves.stats(run.last("test_accuracy") for run in dense)
    number = labels.percent(accuracy, decimals=2, plus_minus="+-")
    meaning = "one seed" if accuracy.std is None else f"mean +- std, n = {accuracy.n}"
    return f"Dense, never pruned: {number} test accuracy at the last epoch ({meaning})."


def _curve_paragraphs(
    curve: Curve, runs: Sequence[Run], config: Mapping[str, Any], data: Grid
) -> Iterator[str | None]:
    mean_peaks = signals_text.mean_peaks(runs)
    ranked = curves.ranked_epochs(curve)
    yield f"Forks: {labels.curve_label(curve)}"
    yield f"  {_best_text(curve, ranked)}"
    yield _against_dense_text(curve, ranked[0], curves.dense_runs(runs))
    if len(ranked) > 1:
        yield f"  {_runner_up_text(curve, ranked)}"
        yield f"  {_worst_text(curve)}"
    if mean_peaks:
        yield f"  {signals_text.distance_sentence(ranked[0], mean_peaks, config)}"
    signals = [peak.signal for peak in mean_peaks]
    if related := signals_text.correlation_sentence(curve, signals, config, data):
        yield f"  {related}"
    yield _missing_text(curve, runs)


def _online_paragraphs(curve: Curve, runs: Sequence[Run]) -> Iterator[str | None]:
    yield from online_text.paragraphs(curve)
    yield _missing_text(curve, runs, "online")


def _missing_text(curve: Curve, runs: Sequence[Run], kind: str = "fork") -> str | None:
    """Which runs of this curve its means do not contain."""
    axes = tuple(getattr(curve, axis) for axis in curves.CURVE_AXES)
    own = [r for r in runs if r.kind == kind and tuple(getattr(r, a) for a in curves.CURVE_AXES) == axes]
    missing = [run for run in own if run.status != "finished"]
    if not missing:
        return None
    where = ("" if run.fork_epoch is None else f"epoch {run.fork_epoch} " for run in missing)
    named = [f"{place}seed {run.trunk_seed} {run.status}" for place, run in zip(where, missing, strict=True)]
    more = f", and {len(missing) - 6} more" if len(missing) > 6 else ""
    return f"  Not in these numbers: {', '.join(named[:6])}{more}."


def _rule_paragraphs(data: Grid, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A line a curve: the best rule against random time and a fixed fraction."""
    grouped = [[one for one in outcomes if one.curve == curve] for curve in data.curves]
    if len(grouped) == 1:
        yield f"Rules, replayed on the signals: {rules_text.rules_sentence(grouped[0])}"
    elif grouped:
        yield "Rules, replayed on the signals:"
        axes = curves.varying(data.curves)
        for curve, own in list(zip(data.curves, grouped, strict=True))[:MAX_RULE_LINES]:
            yield f"  {labels.curve_label(curve, axes)}: {rules_text.rules_sentence(own)}"
        if len(grouped) > MAX_RULE_LINES:
            yield f"  {len(grouped) - MAX_RULE_LINES} more curves in rules.csv."


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


def _files_text(workdir: Path) -> str | None:
    present = [name for name in FILES if (workdir / name).exists()]
    return f"Files in {workdir}: {', '.join(present)}" if present else None


def _accuracy(accuracy: Stats) -> str:
    return f"{labels.percent(accuracy, decimals=2, plus_minus='+-')} (n = {accuracy.n})"


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
