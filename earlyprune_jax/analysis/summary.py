"""The closing text of an experiment: the verdict, a table of forks, a table of signals and rules,
what else the reader must know, and the files that hold the rest."""

import collections
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import formatting, recommendation, regimes, results, rules, rules_text
from earlyprune_jax.analysis.curves import Curve, Setting, all_curves, settings_of
from earlyprune_jax.analysis.notebook import Report
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.regimes import similarity
from earlyprune_jax.analysis.runs import KINDS, LOST, Runs, each, groups_of

MAX_NAMED = 6
MAX_RULES = 4
REASON_LENGTH = 60
STATUSES = ("finished", "diverged", "skipped", "failed", "unfinished")
ALWAYS_COUNTED = STATUSES[:3]
BASELINES = ("random time", "best fixed epoch", "fixed 30 %")


def summarize(workdir: str | Path, *, runs: Runs | None = None) -> Report:
    """Says in plain text when to prune, what that costs, and how much the signals knew of it.

    Numbers are last-epoch test metrics: mean +- sample standard deviation (n - 1) over runs. A fork
    epoch is chosen on last-epoch validation where every run of its curve has it; otherwise on the
    test metric that is reported, and the text says so. A lead over another epoch counts as more
    than noise where `best_epoch.selection_test` says so. Settings have rows of their own, since
    their trunks cannot be averaged or paired.

    Args:
        workdir: The experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        Lines, without a trailing newline: of at most 100 characters but for rows of tables. A
        notebook shows them with the figures and tables that the workdir holds.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> print(summarize("no/such/workdir"))
        Runs: none yet.
    """
    runs = results.read_runs(workdir) if runs is None else runs
    settings = settings_of(runs)
    outcomes = rules.replay_settings(settings)
    compared = similarity.read(workdir, runs.swept)
    verdict = recommendation.recommend(runs, settings, outcomes)
    chosen: list[tuple[Setting, Curve | None]] = [
        (one, recommendation.chosen_curve(one.curves)[0] if one.curves else None)
        for one in settings
    ]
    shown = (MAX_RULES, BASELINES) if len(settings) == 1 else (1, BASELINES[:1])
    tables = [
        *forks_table([curve for setting in settings for curve in setting.pruned]),
        *rules_text.signals_table(chosen, outcomes, *shown),
    ]
    rest = [
        *_dense_lines(settings),
        *regimes.paragraphs(regimes.analyse(workdir, runs, compared)),
        *_runs_lines(runs, compared),
        *_selection(all_curves(settings)),
        *_cost_of_signals(runs),
        *_subsampled(workdir),
        *rules.notes(settings, outcomes),
        *_files(Path(workdir)),
    ]
    first = list(map(formatting.wrapped, verdict))
    lines = [*first, *tables, *map(formatting.wrapped, rest)]
    return Report("\n".join(lines), workdir, verdict="\n".join(first))


def forks_table(curves: Sequence[Curve], axes: Sequence[str] | None = None) -> Iterator[str]:
    """Writes one row per curve: its best fork epoch, what comes of it, what may be as good.

    Args:
        curves: of any settings.
        axes: the first columns; None for those on which the curves differ.

    Yields:
        Lines; none without curves.
    """
    if not curves:
        return
    places, metric = [curve.place for curve in curves], curves[0].metric
    axes = varying(places) or ["sparsity"] if axes is None else axes
    same = formatting.label(shared(places).kind.without(*axes))
    test = formatting.axis_label(metric)
    yield formatting.wrapped(
        f"Forks{f' ({same})' * bool(same)}: {test} at the best of the epochs tried, mean +- std "
        "over n runs; difference: to dense; as good: epochs that the best does not clearly beat "
        "(95 %):"
    )
    headings = (*axes, "epoch", "tried", "test", "n", "dense", "difference", "as good")
    rows = [
        (*(formatting.cell(axis, curve.place[axis]) for axis in axes), *_fork_row(curve))
        for curve in curves
    ]
    yield formatting.aligned([headings, *rows])


def _fork_row(curve: Curve) -> tuple[str, ...]:
    ranking, metric, num_epochs = curve.ranking, curve.metric, len(curve.epochs)
    dense = formatting.amount(curve.setting.dense_test, metric, unit=False)
    is_online = curve.runs["kind"].iloc[0] == "online"
    test = curve.test(None if is_online else ranking.best)
    number = formatting.amount(test, metric, decimals=2, unit=False)
    if is_online:
        epoch = f"{formatting.span(curve.epochs, '-')} (pruned itself)"
        return epoch, "-", number, str(test.n), dense, "-", "-"
    epoch = f"{ranking.best}{f' ({ranking.edge})' if ranking.edge else ''}"
    difference = formatting.difference(curve.against_dense(ranking.best), metric, unit=False)
    as_good = formatting.listed(ranking.rivals, at_most=2) if ranking.rivals else "none"
    if not ranking.is_tested:
        as_good = "unknown" if num_epochs > 1 else "-"
    return epoch, str(num_epochs), number, str(test.n), dense, difference, as_good


def _dense_lines(settings: Sequence[Setting]) -> Iterator[str]:
    """Names the dense runs where no curve's row does."""
    for setting in settings:
        mean, metric = setting.dense_test, setting.metric
        if mean and not setting.pruned:
            number = f"{formatting.amount(mean, metric, decimals=2)} {formatting.named(metric)}"
            label = formatting.label(setting.place)
            yield f"Dense, never pruned ({label}): {number} (n = {mean.n})."


def _runs_lines(runs: Runs, compared: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Counts runs and comparisons by how they ended, and names those that the numbers lack."""
    if not len(runs):
        yield "Runs: none yet."
        return
    frame = runs.frame
    counted = _counted(frame["status"], ALWAYS_COUNTED)
    yield f"Runs: {counted}{' (not in results.csv)' if 'unfinished' in counted else ''}."
    if runs.num_missing:
        yield f"Planned, and not begun or lost: {formatting.plural(runs.num_missing, 'run')}."
    if runs.num_more:
        yield f"Counted, and not of the last session: {formatting.plural(runs.num_more, 'run')}."
    if missing := _missing(runs):
        yield f"Not in these numbers: {'; '.join(missing)}."
    failed = [row["reason"] or "no reason given" for row in compared if row["status"] == "failed"]
    if failed:
        counted = _counted(row["status"] for row in compared)
        yield f"Comparisons: {counted} ({_shortened('; '.join(dict.fromkeys(failed)))})."


def _counted(statuses: Iterable[str], always: Sequence[str] = ()) -> str:
    counts = collections.Counter(statuses)
    return ", ".join(f"{counts[n]} {n}" for n in STATUSES if n in always or counts[n])


def _missing(runs: Runs) -> list[str]:
    """Names the runs that have not finished; where they are many, by curve."""
    groups = groups_of(runs.frame, ["kind", *runs.curve_axes])
    groups = sorted(groups, key=lambda group: KINDS.index(group[0]["kind"]))
    axes = {"sparsity", *varying([place for place, rows in groups if place["kind"] != "trunk"])}
    named, counted = list[str](), list[str]()
    for place, rows in groups:
        shown = place.without("kind").only(axes)
        words = [formatting.cell(axis, value) for axis, value in shown.items if value is not None]
        where = " ".join([*["dense"] * (place["kind"] == "trunk"), *words])
        missing = rows[rows["status"] != "finished"]
        named += [f"{where}{_named(run)}" for run in each(missing)]
        if len(missing):
            how = _counted(missing["status"])
            counted.append(f"{len(missing)} of {len(rows)} runs: {where} ({how})")
    return named if len(named) <= MAX_NAMED else counted


def _named(run: Any) -> str:
    """Says which run of a curve this is, and how it ended; if it was lost, of what."""
    where = "" if run.fork_epoch is None else f" epoch {run.fork_epoch}"
    reason = f" ({_shortened(run.reason)})" if run.reason and run.status in LOST else ""
    return f"{where} seed {run.trunk_seed} {run.status}{reason}"


def _shortened(reason: str) -> str:
    return textwrap.shorten(reason, REASON_LENGTH, placeholder=" ...")


def _selection(curves: Sequence[Curve]) -> Iterator[str]:
    """Says where best fork epochs were chosen on test, for want of a validation split."""
    on_test = [curve for curve in curves if len(curve.epochs) > 1 and curve.split == "test"]
    if on_test:
        yield (
            f"The best fork epochs of {formatting.plural(len(on_test), 'curve')} are selected on "
            f"test, for want of {formatting.named(on_test[0].metric, 'validation')}: expect them "
            "to look a little better than they are."
        )


def _cost_of_signals(runs: Runs) -> Iterator[str]:
    """Compares the signals' seconds with those of training.

    An epoch's seconds are the median over a trunk: in older records the first epoch's also hold the
    compilation. A signal that is measured every k epochs counts k times less.
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
    named = [f"{_short(str(name))} {formatting.share(part)}" for name, part in shares.items()]
    total = formatting.share(shares.sum())
    yield f"Signals took {total} of the training time ({', '.join(named[:MAX_NAMED])})."


def _subsampled(workdir: str | Path) -> Iterator[str]:
    """Says what the budgets of the signals have left out."""
    for path in sorted(Path(workdir).glob("signal_budgets/*.json")):
        name = f"signal_budgets/{path.name}"
        budget = records.read_of_study(Path(workdir), name, remedy=records.BUDGET_REMEDY) or {}
        total, parts = budget.get("num_examples"), []
        for name, chosen in budget.get("signals", {}).items():
            fewer, every = chosen.get("num_examples") or total, chosen.get("every_epochs", 1)
            if fewer != total or every > 1:
                looked = f"{_short(name)} looked at {fewer} of {total} examples"
                parts.append(f"{looked}, every {formatting.plural(every, 'epoch')}")
        if parts:
            limit = formatting.share(budget["max_overhead_fraction"])
            yield f"To stay within {limit}, {'; '.join(parts)}."


def _short(signal: str) -> str:
    return formatting.signal_label(signal, {}, short=True)


def _files(workdir: Path) -> Iterator[str]:
    """Lists the tables and figures there are."""
    present = [name for name in results.TABLES if (workdir / name).exists()]
    drawn = sorted({path.stem for path in workdir.glob("figures/[!.]*")})
    if drawn:
        present.append(f"figures/ ({formatting.listed(drawn, at_most=MAX_NAMED)})")
    reproduced = sorted(path.name for path in workdir.glob(f"{results.REPRODUCED}/[!.]*"))
    if reproduced:
        present.append(
            f"{results.REPRODUCED}/ ({formatting.listed(reproduced, at_most=MAX_NAMED)})"
        )
    if present:
        yield f"Files in {workdir}: {', '.join(present)}."
