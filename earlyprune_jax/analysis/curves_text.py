"""The forks of one setting in words: a block per curve, or of many curves a line each."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from earlyprune_jax.analysis import curves, online_text, signals_text, words
from earlyprune_jax.analysis.best_epoch import Ranking
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.panels import kind_of
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.places import Place, shared, varying
from earlyprune_jax.analysis.regret import Grid
from earlyprune_jax.analysis.runs import Runs, Table, each
from earlyprune_jax.analysis.stats import Stats, is_zero
from earlyprune_jax.metrics import Metric

MAX_BLOCKS = 4
MAX_NAMED = 6
REASON_LENGTH = 60
NOTES = (
    "In the table of forks: the best of so many fork epochs (e: it is the earliest or the latest of them), "
    "{test} there, mean +- std over n runs, the difference to dense{unit}, mean +- std over seeds, and "
    "whether its lead over every other is more than the noise (95 %, three seeds at least)."
)


def notes(metric: Metric) -> str:
    """Explains the columns of `table`: to be said once, however many tables there are."""
    unit = words.difference_unit(metric)
    return NOTES.format(test=words.named(metric), unit=f" in {unit}" if unit else "")


def paragraphs(data: Grid, runs: Runs, mean_peaks: Sequence[Peak]) -> Iterator[str]:
    """Says what came of every curve of forks: where it was best, at what cost, how sure that is.

    Args:
        data: of `regret.grid`, of these runs.
        runs: of one setting.
        mean_peaks: of the signals along its trunks.
    """
    dense, missing = curves.dense_runs(runs), _missing(runs, "fork")
    for curve in data.curves:
        yield from _block(curve, dense, runs, data, mean_peaks)
        if lost := missing.get(curve.place):
            yield _missing_text(lost)


def online_paragraphs(online: Sequence[Curve], runs: Runs) -> Iterator[str]:
    """Says what came of the runs that pruned themselves.

    Args:
        online: of `curves.fork_curves`, of these runs.
        runs: of one setting.
    """
    missing = _missing(runs, "online")
    if len(online) > MAX_BLOCKS:
        yield from online_text.lines(online)
        if missing:
            yield _missing_text(
                [run for lost in missing.values() for run in lost], by_sparsity=True
            )
        return
    for curve in online:
        yield from online_text.paragraphs(curve)
        if lost := missing.get(curve.place):
            yield _missing_text(lost)


def _block(
    curve: Curve, dense: Table, runs: Runs, data: Grid, mean_peaks: Sequence[Peak]
) -> Iterator[str]:
    ranking = curve.ranking
    yield f"Forks: {words.label(kind_of(curve))}"
    yield f"  {_best_text(curve, ranking)}"
    if against := _against_dense_text(curve, ranking.best, dense):
        yield against
    if len(ranking.epochs) > 1:
        yield f"  {_runner_up_text(curve, ranking)}"
        yield f"  {_worst_text(curve)}"
    if mean_peaks:
        yield f"  {signals_text.distance_sentence(ranking.best, mean_peaks, runs.config)}"
    signals = [peak.signal for peak in mean_peaks]
    if related := signals_text.correlation_sentence(curve, signals, runs.config, data):
        yield f"  {related}"


def table(all_curves: Sequence[Curve], runs: Runs) -> Iterator[str]:
    """Says the same in a line per curve, for more than `MAX_BLOCKS` of them; `notes` explains its
    columns.

    Args:
        all_curves: of `curves.fork_curves`, of these runs.
        runs: of one setting.
    """
    if not all_curves:
        return
    kinds, metric = [kind_of(curve) for curve in all_curves], runs.metric
    axes, dense = varying(kinds) or ["sparsity"], curves.dense_runs(runs)
    same = words.label(shared(kinds).without(*axes))
    yield f"Forks{f': {same}' * bool(same)}; the best fork epoch of every curve:"
    test = ", ".join(filter(None, ("test", metric.unit)))
    headings = (", ".join(axes), "epoch", "of", test, "n", "against dense", "lead")
    rows = [(words.short(kind_of(curve).only(axes)), *_row(curve, dense)) for curve in all_curves]
    yield from words.aligned([headings, *rows]).split("\n")
    if missing := _missing(runs, "fork"):
        yield _missing_text([run for lost in missing.values() for run in lost], by_sparsity=True)


def _row(curve: Curve, dense: Table) -> tuple[str, ...]:
    ranking, metric = curve.ranking, curve.metric
    found = curve.test(ranking.best)
    against = words.difference(curve.against(dense, ranking.best), metric)
    return (
        f"{ranking.best}{' e' * bool(ranking.edge)}",
        str(len(ranking.epochs)),
        words.amount(found, metric, decimals=2, unit=False),
        str(found.n),
        against.removesuffix(f" {words.difference_unit(metric)}"),
        _lead_words(ranking),
    )


def _lead_words(ranking: Ranking) -> str:
    if len(ranking.epochs) == 1:
        return "-"
    if all(lead is None or lead.p is None for lead in ranking.leads.values()):
        return "unknown"
    return "unsettled" if ranking.rivals else "clear"


def _missing(runs: Runs, kind: str) -> dict[Place, list[Any]]:
    """Place of a curve -> its runs that have not finished."""
    frame, axes = runs.frame, list(runs.curve_axes)
    lost = frame[(frame["kind"] == kind) & (frame["status"] != "finished")]
    found: dict[Place, list[Any]] = {}
    for values, run in zip(lost[axes].itertuples(index=False, name=None), each(lost), strict=True):
        found.setdefault(Place.of(axes, values), []).append(run)
    return found


def _missing_text(missing: Sequence[Any], *, by_sparsity: bool = False) -> str:
    """Which runs the means do not contain."""
    named = ", ".join(_named(run, by_sparsity) for run in missing[:MAX_NAMED])
    more = f", and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return f"  Not in these numbers: {named}{more}."


def _named(run: Any, by_sparsity: bool) -> str:
    where = f"{words.removed(run.sparsity)} % " if by_sparsity else ""
    where += "" if run.fork_epoch is None else f"epoch {run.fork_epoch} "
    return f"{where}seed {run.trunk_seed} {ending(run)}"


def ending(run: Any) -> str:
    """Says how a run ended; if it failed, of what."""
    if run.status != "failed" or not run.reason:
        return run.status
    return f"failed ({textwrap.shorten(run.reason, REASON_LENGTH, placeholder=' ...')})"


def _best_text(curve: Curve, ranking: Ranking) -> str:
    found, test = _amount(curve, curve.test(ranking.best)), words.named(curve.metric)
    if len(ranking.epochs) == 1:
        return f"Only fork epoch: {ranking.best}, {test} {found}."
    text = f"Best of {len(ranking.epochs)} fork epochs: {ranking.best}, {test} {found}."
    if ranking.edge:
        beyond = "earlier" if ranking.edge == "earliest" else "later"
        text += f" It is the {ranking.edge} one tried: a better one may lie {beyond}."
    return text


def _against_dense_text(curve: Curve, best: int, dense: Table) -> str | None:
    found = curve.against(dense, best)
    if found is None:
        return None
    size = words.difference(found, curve.metric)
    if found.std is None:
        return f"  Against dense: {size} (one seed: no estimate of the noise)."
    return f"  Against dense: {size} (std of the {found.n} per-seed differences)."


def _runner_up_text(curve: Curve, ranking: Ranking) -> str:
    second = ranking.epochs[1]
    gap, lead, metric = (
        ranking.gaps[second],
        ranking.leads[second],
        words.named(curve.metric, curve.split),
    )
    text = f"Runner-up: {second}"
    if gap is None:
        return f"{text}; no {ranking.repeat_kind} has both, so the lead cannot be judged."
    if is_zero(gap.mean):
        return f"{text}, with the same {metric}: neither is better."
    size = words.difference(Stats(gap.mean, None, gap.n), curve.metric, sign=False)
    text += f"; the best leads by {size} of {metric}"
    repeats = words.plural(gap.n, ranking.repeat_kind)
    # Equal differences of a few seeds are chance (shares are multiples of 1/n), not certainty.
    if lead is None or lead.p is None or not lead.difference.std or is_zero(lead.difference.std):
        return f"{text}. With {repeats.replace('1 ', 'one ', 1)} the noise is unknown: take neither as settled."
    if lead.is_clear:
        return f"{text}, more than the noise ({words.p_value(lead.p)}, {repeats})."
    return f"{text}, less than the noise ({words.p_value(lead.p)}, {repeats}): not settled which is better."


def _worst_text(curve: Curve) -> str:
    found, metric = {epoch: curve.test(epoch) for epoch in curve.epochs}, curve.metric
    worst = min(found, key=lambda epoch: (metric.sign * found[epoch].mean, epoch))
    means = [cell.mean for cell in found.values()]
    apart = words.difference(Stats(max(means) - min(means), None, 1), metric, sign=False)
    return (
        f"Worst fork epoch: {worst}, {words.named(metric)} {_amount(curve, found[worst])}; "
        f"{apart} between the highest and the lowest mean."
    )


def _amount(curve: Curve, found: Stats) -> str:
    return f"{words.amount(found, curve.metric, decimals=2)} (n = {found.n})"
