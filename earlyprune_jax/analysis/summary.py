"""The closing text of an experiment: the verdict, a table of forks, a table of signals and rules,
what else the reader must know, and the files that hold the rest."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import (
    comparisons,
    correlation,
    peaks,
    publish,
    recommendation,
    regimes,
    results,
    rules,
    rules_text,
    words,
)
from earlyprune_jax.analysis.comparisons import Comparison
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.analysis.runs import Runs, each
from earlyprune_jax.analysis.stats import Stats, stats

MAX_NAMED = 6
MAX_RULES = 4
REASON_LENGTH = 60
ALWAYS_COUNTED = ("finished", "diverged", "skipped")
BASELINES = ("random time", "best fixed epoch", "fixed 30 %")


def summarize(workdir: str | Path, *, runs: Runs | None = None) -> str:
    """Says in plain text when to prune, what that costs, and how much the signals knew of it.

    Numbers are last-epoch test metrics: mean +- sample standard deviation (n - 1) over runs. A fork
    epoch is chosen on last-epoch validation where every run of its curve has it; otherwise on the
    test metric that is reported, and the text says so. A lead over another epoch counts as more
    than noise where the test of `lead.lead` says so. Settings have rows of their own, since their
    trunks cannot be averaged or paired.

    Args:
        workdir: The experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        Lines, without a trailing newline: of at most 100 characters but for rows of tables.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> print(summarize("no/such/workdir"))
        Runs: none yet.
    """
    runs = results.read_runs(workdir) if runs is None else runs
    grids = rules.grids_of(runs)
    outcomes = rules.replay_grids(grids)
    compared = comparisons.read(workdir, runs.swept)
    verdict = recommendation.recommend(runs, grids, outcomes)
    forks = [(data, curve) for data in grids for curve in (*data.curves, *data.online)]
    tables = [*forks_table(forks), *_signals_table(grids, outcomes)]
    rest = [
        *_dense_lines(grids),
        *regimes.paragraphs(regimes.analyse(workdir, runs, compared)),
        *_runs_lines(runs, compared),
        *_selection(grids),
        *_cost_of_signals(runs),
        *_subsampled(workdir, runs),
        *rules.notes(grids),
        *_files(Path(workdir)),
    ]
    return "\n".join([*map(words.wrapped, verdict), *tables, *map(words.wrapped, rest)])


def forks_table(
    forks: Sequence[tuple[Grid, Curve]], axes: Sequence[str] | None = None
) -> Iterator[str]:
    """Writes one row per curve: its best fork epoch, what comes of it, what may be as good.

    Args:
        forks: the curves, each with the runs of its setting.
        axes: the first columns; None for those on which the curves differ.

    Yields:
        Lines; none without curves.
    """
    if not forks:
        return
    places, metric = [curve.place for _, curve in forks], forks[0][1].metric
    axes = varying(places) or ["sparsity"] if axes is None else axes
    same = words.label(shared(places).kind.without(*axes))
    test = words.with_unit(words.named(metric), metric.unit)
    yield words.wrapped(
        f"Forks{f' ({same})' * bool(same)}: {test} at the best of so many epochs, mean +- std over "
        "n runs; difference: to dense; as good: epochs that the best does not clearly beat (95 %):"
    )
    headings = (*axes, "epoch", "of", "test", "n", "dense", "difference", "as good")
    rows = [
        (*(words.cell(axis, curve.place[axis]) for axis in axes), *_fork_row(data, curve))
        for data, curve in forks
    ]
    yield from words.aligned([headings, *rows]).split("\n")


def _fork_row(data: Grid, curve: Curve) -> tuple[str, ...]:
    ranking, metric = curve.ranking, curve.metric
    dense = data.dense[metric.column("test")]
    dense_text = words.amount(stats(dense) if len(dense) else None, metric, unit=False)
    if curve.runs["kind"].iloc[0] == "online":
        test = curve.test()
        number = words.amount(test, metric, decimals=2, unit=False)
        epochs = f"{words.span(curve.epochs, '-')} (pruned itself)"
        return (epochs, "-", number, str(test.n), dense_text, "-", "-")
    test, num_epochs = curve.test(ranking.best), len(ranking.epochs)
    is_known = any(lead and lead.p is not None for lead in ranking.leads.values())
    as_good = words.listed(ranking.rivals, at_most=2) if ranking.rivals else "none"
    return (
        f"{ranking.best}{f' ({ranking.edge})' if ranking.edge else ''}",
        str(num_epochs),
        words.amount(test, metric, decimals=2, unit=False),
        str(test.n),
        dense_text,
        words.difference(curve.against(data.dense, ranking.best), metric, unit=False),
        "-" if num_epochs == 1 else as_good if is_known else "unknown",
    )


def _dense_lines(grids: Sequence[Grid]) -> Iterator[str]:
    """Names the dense runs where no curve's row does."""
    for data in grids:
        if len(data.dense) and not data.curves and not data.online:
            place, metric = data.runs.setting, data.runs.metric
            found = stats(data.dense[metric.column("test")])
            number = f"{words.amount(found, metric, decimals=2)} {words.named(metric)}"
            yield f"Dense, never pruned ({words.label(place)}): {number} (n = {found.n})."


def _signals_table(grids: Sequence[Grid], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Writes one row per signal, and one per rule replayed on them: the best, and baselines."""
    chosen = [
        recommendation.chosen_curve(data.curves, data.dense)[0] for data in grids if data.curves
    ]
    axes = varying([curve.place for curve in chosen] or [data.runs.setting for data in grids])
    metric, rows = grids[0].runs.metric if grids else None, []
    for data in grids:
        curve = next((curve for curve in chosen if curve in data.curves), None)
        place = curve.place if curve else data.runs.setting
        where = tuple(words.cell(axis, place.named.get(axis)) for axis in axes)
        own = [one for one in outcomes if one.curve is curve]
        num_rules, baselines = (MAX_RULES, BASELINES) if len(grids) == 1 else (1, BASELINES[:1])
        replayed = _rule_rows(own, num_rules, baselines)
        rows += [(*where, *row) for row in (*_signal_rows(data, curve), *replayed)]
    if not rows or metric is None:
        return
    same = f" ({words.label(chosen[0].place.kind.without(*axes))})" if chosen else ""
    yield words.wrapped(f"Signals along the dense runs, and rules replayed on them{same}:")
    headings = (*axes, "signal or rule", "epoch (seeds)", "forks", "remarks")
    yield from words.aligned([headings, *rows]).split("\n")
    if chosen:
        quality = metric.name.replace("_", " ") if metric.larger_is_better else "quality"
        unit = words.with_unit("", words.difference_unit(metric))
        yield words.wrapped(
            f"  rho: rank correlation with fork {quality}; regret{unit}: what is lost against each "
            "seed's best fork; [baselines] look at no signal."
        )


def _signal_rows(data: Grid, curve: Curve | None) -> Iterator[tuple[str, ...]]:
    table, control = peaks.comparable_epochs(data.runs), None
    for peak in data.peaks:
        epochs = sorted(own.epoch for own in peaks.seed_peaks(table, peak.signal))
        measured = table.loc[table[peak.signal].notna(), "epoch"].nunique()
        every = table["epoch"].nunique()
        parts = [
            words.quantity(peak.value, peak.signal),
            f"{peak.edge} epoch: no peak" if peak.edge and measured > 1 else "",
            f"flat over {words.span(peak.plateau, '-')}" if peak.flat and not peak.edge else "",
            f"measured at {measured} of {every} epochs" if measured < every else "",
        ]
        found = correlation.correlation(data, curve, peak.signal) if curve else None
        control = control or (found and found.epoch_itself)
        label = words.signal_label(peak.signal, data.runs.config)
        where = f"{peak.epoch} ({words.span(epochs, '-')})"
        yield label, where, _rho(found and found.over_seeds), ", ".join(filter(None, parts))
    if control:
        yield "epoch number itself", "-", _rho(control), ""


def _rho(found: Stats | None) -> str:
    return f"rho {words.amount(found, decimals=2)}" if found else "-"


def _rule_rows(
    outcomes: Sequence[Outcome], num_rules: int, baselines: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """The outcomes of one curve: those of the best rules, and of baselines."""
    tried = [one for one in outcomes if one.kind == "rule"][:num_rules]
    for one in outcomes:
        if one in tried or one.trigger in baselines:
            # A random time has no epoch of its own.
            chosen = [] if one.trigger == "random time" else rules_text.epochs_chosen(one)
            epochs = words.span(chosen, "-") if chosen else "-"
            regret = (
                f"regret {rules_text.regret_words(one, unit=False)}" if one.num_evaluated else "-"
            )
            remarks = [told for status, told in rules_text.STATUSES.items() if one.count(status)]
            yield rules_text.name(one), epochs, regret, ", ".join(remarks)


def _runs_lines(runs: Runs, compared: Sequence[Comparison]) -> Iterator[str]:
    """Counts runs and comparisons by how they ended, and names those that the numbers lack."""
    if not len(runs):
        yield "Runs: none yet."
        return
    frame = runs.frame
    counted = _counted(frame["status"], ALWAYS_COUNTED)
    yield f"Runs: {counted}{' (not in results.csv)' if 'unfinished' in counted else ''}."
    missing = list(each(frame[frame["status"] != "finished"]))
    if missing:
        named = words.listed([_named(run) for run in missing], at_most=MAX_NAMED)
        yield f"Not in these numbers: {named}."
    failed = [one for one in compared if one.status == "failed"]
    if failed:
        reasons = dict.fromkeys(one.reason or "no reason given" for one in failed)
        why = textwrap.shorten("; ".join(reasons), REASON_LENGTH, placeholder=" ...")
        yield f"Comparisons: {_counted([one.status for one in compared])} ({why})."


def _counted(statuses: Iterable[str], always: Sequence[str] = ()) -> str:
    statuses = list(statuses)
    names = (*ALWAYS_COUNTED, "failed", "unfinished")
    return ", ".join(
        f"{statuses.count(name)} {name}" for name in names if name in always or name in statuses
    )


def _named(run: Any) -> str:
    """Says which run this is, and how it ended; if it failed, of what."""
    where = "dense" if run.kind == "trunk" else f"{words.removed(run.sparsity)} %"
    where += "" if run.fork_epoch is None else f" epoch {run.fork_epoch}"
    why = textwrap.shorten(run.reason or "", REASON_LENGTH, placeholder=" ...")
    reason = f" ({why})" if why and run.status == "failed" else ""
    return f"{where} seed {run.trunk_seed} {run.status}{reason}"


def _selection(grids: Sequence[Grid]) -> Iterator[str]:
    """Says where best fork epochs were chosen on test, for want of a validation split."""
    tried = [curve for data in grids for curve in data.curves if len(curve.epochs) > 1]
    on_test = [curve for curve in tried if curve.split == "test"]
    if on_test:
        name = on_test[0].metric.name.replace("_", " ")
        which = "" if len(on_test) == len(tried) else f" of {len(on_test)} curves"
        yield (
            f"The best fork epochs{which} are selected on test, for want of validation {name}: "
            "expect them to look a little better than they are."
        )


def _cost_of_signals(runs: Runs) -> Iterator[str]:
    """Gives the signals' seconds over those of training.

    An epoch's seconds are the median over a trunk: the first epoch's also hold the compilation. A
    signal that is measured every k epochs counts k times less.
    """
    import pandas as pd

    timed = [
        {"trunk": name, "training": entry["train_seconds"], **entry["signal_seconds"]}
        for name in runs.of_kind("trunk").frame["name"]
        for entry in runs.entries[name]
        if entry.get("train_seconds") and entry.get("signal_seconds")
    ]
    if not timed:
        return
    groups = pd.DataFrame(timed).set_index("trunk").astype(float).groupby("trunk")
    seconds = (groups.median() * groups.count()).sum()
    shares = (seconds / seconds["training"]).drop("training").sort_values(ascending=False)
    named = [f"{_short(str(name))} {words.share(part)}" for name, part in shares.items()]
    yield (
        f"Signals took {words.share(shares.sum())} of the training time "
        f"({', '.join(named[:MAX_NAMED])})."
    )


def _subsampled(workdir: str | Path, runs: Runs) -> Iterator[str]:
    """Says what the budget of the signals has left out."""
    budgets = {}
    for trunk in runs.of_kind("trunk").frame["name"]:
        described = records.read_json(Path(workdir) / "trunks" / trunk / "run.json") or {}
        # A workdir of an earlier version has a file for each network and data fraction.
        name = f"{described.get('model')}_{described.get('train_fraction', 0):.10g}.json"
        path = described.get("signal_budget") or f"signal_budgets/{name}"
        if path not in budgets:
            budgets[path] = records.read_json(Path(workdir) / path) or {}
    for budget in budgets.values():
        total, parts = budget.get("num_examples"), []
        for name, chosen in budget.get("signals", {}).items():
            fewer, every = chosen.get("num_examples") or total, chosen.get("every_epochs", 1)
            looked = [f"looked at {fewer} of {total} examples"] * (fewer != total)
            looked += [f"was measured every {every} epochs"] * (every > 1)
            parts += [f"{_short(name)} {' and '.join(looked)}"] * bool(looked)
        if parts:
            limit = words.share(budget["max_overhead_fraction"])
            yield f"To stay within {limit}, {'; '.join(parts)}."


def _short(signal: str) -> str:
    return words.signal_label(signal, {}, short=True)


def _files(workdir: Path) -> Iterator[str]:
    """Lists the tables and figures there are."""
    present = [name for name in publish.tables() if (workdir / name).exists()]
    drawn = sorted({path.stem for path in workdir.glob("figures/[!.]*")})
    if drawn:
        present.append(f"figures/ ({words.listed(drawn, at_most=MAX_NAMED)})")
    if present:
        yield f"Files in {workdir}: {', '.join(present)}."
