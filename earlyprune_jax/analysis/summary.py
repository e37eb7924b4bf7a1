"""The closing text of an experiment: what came out, how sure that is, where the files are."""

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import (
    comparisons,
    curves,
    curves_text,
    peaks,
    publish,
    recommendation,
    regimes,
    results,
    rules,
    rules_text,
    signals_text,
    words,
)
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.panels import kind_of
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.analysis.runs import Runs, each
from earlyprune_jax.analysis.stats import stats

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


def summarize(workdir: str | Path, *, runs: Runs | None = None) -> str:
    """Says in plain text which fork epoch was best, at what cost, where the signals peaked, what to
    do.

    Numbers are last-epoch test metrics: mean +- sample standard deviation (n - 1) over runs. A fork
    epoch is chosen on last-epoch validation where every run of its curve has it; otherwise on the
    test metric that is reported, and the text says so. A lead over another epoch counts as more
    than noise where the test of `lead.lead` says so. Of several settings each has a part of its
    own, since their trunks cannot be averaged or paired. The last paragraph is one sentence, the
    recommendation.

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
    groups = results.by_setting(runs)
    grids = dict(zip(groups, rules.grids_of(runs), strict=True))
    outcomes = {setting: rules.replay_grid(data, runs) for setting, data in grids.items()}
    compared = comparisons.read(workdir, runs.swept)
    paragraphs: list[str | None] = [_runs_text(runs), _comparisons_text(compared)]
    several = len(groups) > 1
    layout = Layout(
        several=several,
        many_curves=sum(len(data.curves) for data in grids.values()) > curves_text.MAX_BLOCKS,
        num_rule_lines=1 if several else MAX_RULE_LINES,
    )
    if several:
        every_curve = [curve for data in grids.values() for curve in data.curves]
        paragraphs += _how_chosen(every_curve, runs, layout)
    for setting, own in groups.items():
        paragraphs += [f"Trunks: {words.label(setting)}"] if several else []
        budget = signals_text.read_budget(workdir, own)
        paragraphs += _block(own, grids[setting], outcomes[setting], budget, layout)
    paragraphs += rules.notes(runs, list(grids.values()))
    paragraphs += regimes.paragraphs(regimes.analyse(workdir, runs, compared))
    every = [outcome for found in outcomes.values() for outcome in found]
    num_epochs = max((data.num_epochs for data in grids.values()), default=0)
    paragraphs += [_files_text(Path(workdir)), recommendation.recommend(runs, every, num_epochs)]
    return "\n".join(words.wrapped(paragraph) for paragraph in paragraphs if paragraph is not None)


def _block(
    runs: Runs, data: Grid, outcomes: Sequence[Outcome], budget: Mapping[str, Any], layout: Layout
) -> Iterator[str | None]:
    """What is said of one setting."""
    mean_peaks = peaks.mean_peaks(runs)
    yield _dense_text(runs)
    yield _failed_text(runs)
    yield from signals_text.paragraphs(runs, mean_peaks)
    yield signals_text.cost_sentence(runs, budget)
    if not layout.several:
        yield from _how_chosen(data.curves, runs, layout)
    if layout.many_curves:
        yield from curves_text.table(data.curves, runs)
    else:
        yield from curves_text.paragraphs(data, runs, mean_peaks)
    yield from curves_text.online_paragraphs(curves.fork_curves(runs, "online"), runs)
    yield from _rule_paragraphs(data, outcomes, layout.num_rule_lines)


def _counted(statuses: Iterable[str], always: Sequence[str], others: Sequence[str]) -> str:
    counts = Counter(statuses)
    return ", ".join(
        f"{counts[name]} {name}" for name in (*always, *others) if name in always or counts[name]
    )


def _runs_text(runs: Runs) -> str:
    if not len(runs):
        return "Runs: none yet."
    text = _counted(
        runs.frame["status"], ("finished", "diverged", "skipped"), ("failed", "unfinished")
    )
    return f"Runs: {text}{' (not in results.csv)' if 'unfinished' in text else ''}."


def _comparisons_text(compared: Sequence[comparisons.Comparison]) -> str | None:
    """How the comparisons of replicates ended, where one failed."""
    failed = [one for one in compared if one.status == "failed"]
    if not failed:
        return None
    text = _counted(
        (one.status for one in compared), (), ("finished", "skipped", "unfinished", "failed")
    )
    reasons = dict.fromkeys(one.reason or "no reason given" for one in failed)
    why = textwrap.shorten("; ".join(reasons), curves_text.REASON_LENGTH, placeholder=" ...")
    return f"Comparisons: {text} ({why})."


def _dense_text(runs: Runs) -> str | None:
    dense = curves.dense_runs(runs)
    if not len(dense):
        frame = runs.frame
        pruned_itself = ((frame["kind"] == "online") & frame["fork_epoch"].notna()).any()
        # Every trunk that its trigger has ended is no baseline, and never will be.
        return None if pruned_itself else "No dense run has finished yet."
    found = stats(dense[runs.metric.column("test")])
    meaning = "one seed" if found.std is None else f"mean +- std, n = {found.n}"
    number = f"{words.amount(found, runs.metric, decimals=2)} {words.named(runs.metric)}"
    return f"Dense, never pruned: {number} at the last epoch ({meaning})."


def _failed_text(runs: Runs) -> str | None:
    """The trunks that raised: their forks are missing for that reason."""
    frame = runs.frame
    failed = list(each(frame[(frame["kind"] == "trunk") & (frame["status"] == "failed")]))
    named = ", ".join(
        f"seed {run.trunk_seed} {curves_text.ending(run)}" for run in failed[:MAX_NAMED]
    )
    more = f", and {len(failed) - MAX_NAMED} more" if len(failed) > MAX_NAMED else ""
    return f"Dense runs that did not finish: {named}{more}." if failed else None


def _rule_paragraphs(data: Grid, outcomes: Sequence[Outcome], num_lines: int) -> Iterator[str]:
    """A line per curve: the best rule against random time and a fixed fraction."""
    grouped = rules_text.by_curve(outcomes)
    if len(grouped) == 1:
        yield f"Rules, replayed on the signals: {rules_text.rules_sentence(grouped[0])}"
    elif grouped:
        yield "Rules, replayed on the signals:"
        axes = varying(map(kind_of, data.curves))
        for own in grouped[:num_lines]:
            yield f"  {words.label(kind_of(own[0].curve), axes)}: {rules_text.rules_sentence(own)}"
        if rest := len(grouped[num_lines:]):
            yield f"  {words.plural(rest, 'more curve')} in rules.csv."


def _how_chosen(all_curves: Sequence[Curve], runs: Runs, layout: Layout) -> Iterator[str | None]:
    """What holds of the forks of all settings: how the best were chosen, and what their table
    means."""
    yield _selection_text(all_curves, runs.metric.name.replace("_", " "))
    if layout.many_curves:
        yield curves_text.notes(runs.metric)


def _selection_text(all_curves: Sequence[Curve], name: str) -> str | None:
    splits = {curve.split for curve in all_curves if len(curve.epochs) > 1}
    if not splits:
        return None
    if splits == {"validation"}:
        return f"Best fork epochs are selected on mean validation {name}; what is reported is test {name}."
    where = f" where validation {name} is missing" if len(splits) > 1 else " (no validation split)"
    return (
        f"Best fork epochs are selected on test, on the {name} reported{where}: "
        "expect them to look a little better than they are."
    )


def _files_text(workdir: Path) -> str | None:
    """The tables and figures there are; of several figures of one kind the pattern."""
    present = [name for name in publish.tables() if (workdir / name).exists()]
    for stem in publish.figure_stems(workdir):
        for extension in ("png", "svg"):
            drawn = sorted(path.name for path in workdir.glob(f"figures/{stem}*.{extension}"))
            pattern = (
                f"{stem}*.{extension}"
                if f"{stem}.{extension}" in drawn
                else f"{stem}_*.{extension}"
            )
            present += [f"figures/{one}" for one in (drawn if len(drawn) < 2 else [pattern])]
    return f"Files in {workdir}: {', '.join(present)}" if present else None
