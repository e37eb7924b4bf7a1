"""The closing text of an experiment: what came out, how sure that is, where the files are."""

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import (
    comparisons,
    curves,
    curves_text,
    labels,
    recommendation,
    regimes,
    regret,
    results,
    rules,
    rules_text,
    signal_cost,
    signals_text,
)
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.analysis.runs import Run

WIDTH = 100
FIGURES = tuple(
    (name, extension) for name in ("accuracy_vs_fork_epoch", "rules") for extension in ("png", "svg")
)
REGIME_FIGURES = tuple(
    (name, extension) for name in ("regimes", "training_curve") for extension in ("png", "svg")
)
"""How the names of the regimes' figures begin."""
TABLES = (
    "results.csv",
    "signals.csv",
    "rules.csv",
    "rule_choices.csv",
    "signal_correlations.csv",
    "regimes.csv",
    "regime_cells.csv",
    "regime_alignment.csv",
    "regime_baselines.csv",
    "comparisons.csv",
)
MAX_NAMED = 6
MAX_RULE_LINES = 4


@dataclasses.dataclass(frozen=True)
class Layout:
    """How much is said of a setting, which depends on how many there are.

    Attributes:
        several: whether how forks are selected has been said for all settings at once.
        many_curves: whether a curve gets a line, not a block: counted over all settings.
        num_rule_lines: of how many curves the rules are compared.
    """

    several: bool
    many_curves: bool
    num_rule_lines: int


def summarize(workdir: str | Path, *, runs: Sequence[Run] | None = None) -> str:
    """Says in plain text which fork epoch was best, at what cost, where the signals peaked, what to do.

    Accuracies are last-epoch test accuracies in percent: mean +- sample standard deviation (n - 1)
    over runs. A fork epoch is chosen on last-epoch validation accuracy where every run of its
    curve has one; otherwise on the test accuracy that is reported, and the text says so. A lead
    over the runner-up counts as more than noise when it exceeds the half width of the 95 %
    confidence interval (Student's t) of the per-seed differences. Of several settings each has a
    part of its own, since their trunks cannot be averaged or paired. The last paragraph is one
    sentence, the recommendation.

    Args:
        workdir: The experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        Lines of at most 100 characters, without a trailing newline.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> print(summarize("no/such/workdir"))
        Runs: none yet.
    """
    runs = results.read_runs(workdir) if runs is None else runs
    config = results.read_config(workdir)
    groups = results.by_setting(runs)
    grids = {setting: regret.grid(own, config) for setting, own in groups.items()}
    outcomes = {setting: rules.replay_grid(data, config) for setting, data in grids.items()}
    paragraphs: list[str | None] = [_runs_text(runs), _comparisons_text(workdir)]
    several = len(groups) > 1
    layout = Layout(
        several=several,
        many_curves=sum(len(data.curves) for data in grids.values()) > curves_text.MAX_BLOCKS,
        num_rule_lines=1 if several else MAX_RULE_LINES,
    )
    if several:
        every_curve = [curve for data in grids.values() for curve in data.curves]
        paragraphs += _how_chosen(every_curve, layout)
    for setting, own in groups.items():
        paragraphs += [f"Trunks: {labels.setting_label(setting)}"] if several else []
        budget = signal_cost.read_budget(workdir, setting)
        paragraphs += _block(own, config, grids[setting], outcomes[setting], budget, layout)
    paragraphs += regimes.paragraphs(regimes.analyse(workdir, runs))
    every = [outcome for found in outcomes.values() for outcome in found]
    num_epochs = max((data.num_epochs for data in grids.values()), default=0)
    paragraphs += [_files_text(Path(workdir)), recommendation.recommend(runs, every, num_epochs, config)]
    return "\n".join(_wrap(paragraph) for paragraph in paragraphs if paragraph is not None)


def _block(
    runs: Sequence[Run],
    config: Mapping[str, Any],
    data: Grid,
    outcomes: Sequence[Outcome],
    budget: Mapping[str, Any],
    layout: Layout,
) -> Iterator[str | None]:
    """What is said of one setting."""
    mean_peaks = signals_text.mean_peaks(runs)
    yield _dense_text(runs)
    yield _failed_text(runs)
    yield from signals_text.paragraphs(runs, config, mean_peaks)
    yield signal_cost.sentence(runs, budget)
    if not layout.several:
        yield from _how_chosen(data.curves, layout)
    if layout.many_curves:
        yield from curves_text.table(data.curves, runs)
    else:
        yield from curves_text.paragraphs(data, runs, config, mean_peaks)
    yield from curves_text.online_paragraphs(curves.fork_curves(runs, "online"), runs)
    yield from _rule_paragraphs(data, outcomes, layout.num_rule_lines)


def _runs_text(runs: Sequence[Run]) -> str:
    if not runs:
        return "Runs: none yet."
    counts = Counter(run.status for run in runs)
    named = [f"{counts[status]} {status}" for status in ("finished", "diverged", "skipped")]
    if counts["failed"]:
        named.append(f"{counts['failed']} failed")
    if counts["unfinished"]:
        named.append(f"{counts['unfinished']} unfinished (not in results.csv)")
    return f"Runs: {', '.join(named)}."


def _comparisons_text(workdir: str | Path) -> str | None:
    """How the comparisons of replicates ended, where one failed."""
    found = comparisons.read(workdir)
    failed = [one for one in found if one.status == "failed"]
    if not failed:
        return None
    counts = Counter(one.status for one in found)
    named = [f"{counts[name]} {name}" for name in ("finished", "skipped", "unfinished") if counts[name]]
    reasons = dict.fromkeys(one.reason or "no reason given" for one in failed)
    why = textwrap.shorten("; ".join(reasons), curves_text.REASON_LENGTH, placeholder=" ...")
    return f"Comparisons: {', '.join([*named, f'{len(failed)} failed'])} ({why})."


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


def _failed_text(runs: Sequence[Run]) -> str | None:
    """The trunks that raised: their forks are missing for that reason."""
    failed = [run for run in runs if run.kind == "trunk" and run.status == "failed"]
    named = ", ".join(f"seed {run.trunk_seed} {curves_text.ending(run)}" for run in failed[:MAX_NAMED])
    more = f", and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
    return f"Dense runs that did not finish: {named}{more}." if failed else None


def _rule_paragraphs(data: Grid, outcomes: Sequence[Outcome], num_lines: int) -> Iterator[str]:
    """A line a curve: the best rule against random time and a fixed fraction."""
    grouped = rules_text.by_curve(outcomes)
    if len(grouped) == 1:
        yield f"Rules, replayed on the signals: {rules_text.rules_sentence(grouped[0])}"
    elif grouped:
        yield "Rules, replayed on the signals:"
        axes = curves.varying(data.curves)
        for own in grouped[:num_lines]:
            yield f"  {labels.curve_label(own[0].curve, axes)}: {rules_text.rules_sentence(own)}"
        if rest := len(grouped[num_lines:]):
            yield f"  {rest} more curve{'s' * (rest > 1)} in rules.csv."


def _how_chosen(all_curves: Sequence[Curve], layout: Layout) -> Iterator[str | None]:
    """What holds of the forks of all settings: how the best were chosen, and what their table means."""
    yield _selection_text(all_curves)
    if layout.many_curves:
        yield curves_text.NOTES


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


def _files_text(workdir: Path) -> str | None:
    """The tables and figures there are; of several settings' figures of one kind the pattern."""
    present = [name for name in TABLES if (workdir / name).exists()]
    for name, extension in FIGURES:
        if (workdir / f"figures/{name}.{extension}").exists():
            present.append(f"figures/{name}.{extension}")
        elif any(workdir.glob(f"figures/{name}_*.{extension}")):
            present.append(f"figures/{name}_*.{extension}")
    for name, extension in REGIME_FIGURES:
        drawn = sorted(path.name for path in workdir.glob(f"figures/{name}*.{extension}"))
        shown = drawn if len(drawn) < 2 else [f"{name}*.{extension}"]
        present += [f"figures/{one}" for one in shown]
    return f"Files in {workdir}: {', '.join(present)}" if present else None


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
