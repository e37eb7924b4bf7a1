"""Judges the claims of paper B, and the controls beside both papers.

By the verdicts of the regimes, series of grids, baselines and replayed rules; as `judging`, which
has paper A's claims.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import formatting
from earlyprune_jax.analysis.curves import CellGrid, Curve, find_grids
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import Findings, controls, findings
from earlyprune_jax.analysis.replay import Outcome, outcomes
from earlyprune_jax.analysis.stats import best_of, holm, of_columns, plain_difference
from earlyprune_jax.published.evidence import (
    HELD,
    NOT_HELD,
    NOT_SETTLED,
    NOT_TESTED,
    PROTOCOLS,
    Finding,
    Source,
    best_parts,
    decide,
    joined,
    of_protocol,
    p_against,
    p_larger,
    repeats,
    too_few,
    unsettled,
)
from earlyprune_jax.published.judging import near_each, ordered
from earlyprune_jax.triggers import Peak

ENDS = ((-1, "early"), (0, "converged"))
"""Rows of a grid, the heaviest and the lightest, and what paper B says of them."""
FIXED = "fixed 30 %"
RULE = Peak("fisher_trace")


def marked(source: Source) -> Iterator[Finding]:
    """Judges whether random_distance's peak marks the best epoch of the most pruned networks."""
    heaviest: dict[Place, Curve] = {}
    for curve in source.curves(PROTOCOLS["B"]):
        heaviest[curve.place.without("sparsity")] = curve  # sorted: the sparsest is the last
    for curve in heaviest.values():
        yield from near_each(source, [curve], "random_distance")


def regime(source: Source, *, row: int, wanted: str, constant: bool = False) -> Iterator[Finding]:
    """Judges the verdict of the regimes at one end of the sparsities of each grid.

    Args:
        source: a workdir.
        row: of the grid: -1 the heaviest sparsity, 0 the lightest.
        wanted: the claimed verdict, early or converged.
        constant: judge trunks of a constant rate, and no others; else the others.
    """
    for found in () if source.is_translation else source.regimes:
        if constant == (found.grid.place["schedule"] == "constant"):
            yield _regime(source, found, found.rows[row], wanted)


def translations(source: Source) -> Iterator[Finding]:
    """Judges whether translation has both regimes."""
    for found in source.regimes if source.is_translation else ():
        ends = [_regime(source, found, found.rows[row], wanted) for row, wanted in ENDS]
        verdicts = [end.verdict for end in ends]
        verdict = next((v for v in (NOT_HELD, NOT_TESTED, NOT_SETTLED) if v in verdicts), HELD)
        ours = "; ".join(f"{end.where.rpartition(', ')[2]}: {end.ours}" for end in ends)
        yield _of_grid(source, found, ours, verdict, joined(end.reason for end in ends))


def between(source: Source) -> Iterator[Finding]:
    """Judges whether translation has a region between the regimes where both are as good."""
    for found in source.regimes if source.is_translation else ():
        light, heavy, equal = (found.judged(v) for v in ("converged", "early", "equal"))
        verdicts = [row["verdict"] for row in found.rows]
        reason = ""
        if light and heavy and any(light[0] < sparsity < heavy[-1] for sparsity in equal):
            verdict = HELD
        elif "untested" in verdicts:
            verdict, reason = NOT_TESTED, joined(row["reason"] or "" for row in found.rows)
        else:
            verdict = NOT_SETTLED if "not settled" in verdicts else NOT_HELD
        ours = f"equal at {f'{formatting.percents(equal)} removed' if equal else 'none'}"
        yield _of_grid(source, found, ours, verdict, reason)


def grows(source: Source, axis: str, sign: int) -> Iterator[Finding]:
    """Judges whether the best epoch moves along a series of grids, between its two ends.

    Args:
        source: a workdir.
        axis: of `findings.series`.
        sign: 1: the best epoch is claimed to be later at larger values; -1: earlier.
    """
    every = () if source.is_translation else findings.series(source.regimes)
    for series in (one for one in every if one.axis == axis):
        sparsities, split = series.high_sparsities(), series.findings[0].grid.split
        pairs = list(zip(series.values, series.findings, strict=True))[::sign]
        by_seed = {series.label(value): _mean_best(found, sparsities) for value, found in pairs}
        where = f"{source.where(series.place)}, {formatting.percents(sparsities)} removed"
        yield from ordered(source, where, by_seed, [], chosen_on=split, ends_only=True)


def alike(source: Source) -> Iterator[Finding]:
    """Judges whether similarity's line parts the sparsities as the regimes' tests do."""
    for found in () if source.is_translation else source.regimes:
        row = found.rows[0]
        same, num = row["agreement_same_class"], row["agreement_num_classed"]
        if num is None:  # nothing was compared
            continue
        line, own = row["similarity_transition_sparsity"], row["transition_sparsity"]
        lines = " and ".join(f"{formatting.removed(s)} %" if s else "none" for s in (line, own))
        ours = f"lines {lines} removed, by similarity and metric; {same} of {num} sides agree"
        yield _of_grid(source, found, ours, *_alike(found, line, same, num))


def _alike(found: Findings, line: float | None, same: int, num: int) -> tuple[str, str]:
    reasons = joined(row["reason"] or "" for row in found.rows)
    if line is None:
        return NOT_TESTED, joined([reasons, "similarity has no line"])
    if same < num:
        return NOT_HELD, ""
    if found.judged("early") and found.judged("converged"):
        return HELD, ""
    return (NOT_TESTED, reasons) if reasons else (NOT_SETTLED, "")


def sparse_from_start(source: Source) -> Iterator[Finding]:
    """Judges whether the best fork beats networks that were sparse before training."""
    others = [grid for grid in find_grids(source.whole) if 0 in grid.epochs]
    for grid in find_grids(source.runs):
        if of_protocol(grid.place, (*PROTOCOLS["A"], *PROTOCOLS["B"])):
            for other in others:
                if grid.repeat_kind == other.repeat_kind and _is_beside(other.place, grid.place):
                    yield from _against(source, grid, other)


def _is_beside(other: Place, place: Place) -> bool:
    """Tells whether forks are of one budget: pruned alike or at random, retrained alike or more."""
    return (
        other.without("criterion", "retraining") == place.without("criterion", "retraining")
        and other["criterion"] in (place["criterion"], controls.RANDOM)
        and other["retraining"] in (place["retraining"], controls.MATCHED)
    )


def _against(source: Source, grid: CellGrid, other: CellGrid) -> Iterator[Finding]:
    """Judges a grid against forks that were pruned before training, at each sparsity."""
    sparsities = [sparsity for sparsity in grid.sparsities if sparsity in other.sparsities]
    tested = []
    for sparsity in sparsities:
        row, at = grid.sparsities.index(sparsity), other.sparsities.index(sparsity)
        # The first column is epoch 0.
        values = zip(other.repeats, other.chosen_on[at, 0], other.test[at, 0], strict=True)
        of_repeat = {repeat: (chosen_on, test) for repeat, chosen_on, test in values}
        absent = (np.nan, np.nan)
        below = np.array([of_repeat.get(repeat, absent) for repeat in grid.repeats]).T
        best = best_of(grid.chosen_on[row], range(len(grid.epochs)))
        measured = np.vstack([grid.test[row], below[1]])
        difference = plain_difference(measured, best, len(grid.epochs))
        tested.append((difference, *p_against(grid, row, *below)))
    adjusted = (holm([one[side] for one in tested]) for side in (1, 2))
    how = f"{other.place['criterion']} before training, {other.place['retraining']}"
    for sparsity, (difference, *_), *ps in zip(sparsities, tested, *adjusted, strict=True):
        if difference is None:
            continue
        verdict, p = decide(*([one] for one in ps))
        yield Finding(
            where=_at_sparsity(source, grid, sparsity) + f", against {how}",
            ours=formatting.difference(difference, grid.metric),
            n=repeats(grid),
            verdict=verdict,
            reason=too_few(difference.n, grid.repeat_kind) if verdict == NOT_TESTED else "",
            p=p,
            chosen_on=grid.split,
        )


def beats_fixed(source: Source) -> Iterator[Finding]:
    """Judges whether pruning at the peak of tr(F) loses less than at a fixed 30 % of training."""
    for curve in source.curves():
        if RULE.column not in curve.setting.columns:
            continue
        replayed = outcomes(curve, [RULE])
        peak = next(one for one in replayed if one.kind == "rule" and one.mode == "rewind")
        fixed = next(one for one in replayed if one.trigger == FIXED)
        verdict, p = decide(
            [p_larger(_regrets(fixed), _regrets(peak))], [p_larger(_regrets(peak), _regrets(fixed))]
        )
        num = len(_regrets(peak).keys() & _regrets(fixed).keys())
        texts = [formatting.regret(one) if one.num_evaluated else "none" for one in (peak, fixed)]
        ours = f"regret {texts[0]} at the peak, {texts[1]} at 30 %"
        reason = joined([formatting.remarks(peak), unsettled(verdict, p, num)])
        n = formatting.plural(num, "seed")
        yield Finding(source.where(curve.place), ours, n, verdict, reason, p, "test")


def _regrets(outcome: Outcome) -> dict[int, float]:
    return {one.trunk_seed: one.regret for one in outcome.choices if one.regret is not None}


def _mean_best(found: Findings, sparsities: Sequence[float]) -> dict[int, float]:
    """Averages each seed's best epochs over sparsities, as parts of training."""
    grid, whole = found.grid, found.num_epochs or max(found.grid.epochs)
    rows = [best_parts(grid, grid.sparsities.index(sparsity), whole) for sparsity in sparsities]
    seeds = [seed for seed in grid.seeds if rows and all(seed in row for row in rows)]
    return {seed: statistics.fmean(row[seed] for row in rows) for seed in seeds}


def _at_sparsity(source: Source, grid: CellGrid, sparsity: float) -> str:
    return f"{source.where(grid.place)}, {formatting.removed(sparsity)} % removed"


def _of_grid(source: Source, found: Findings, ours: str, verdict: str, reason: str) -> Finding:
    grid = found.grid
    where = source.where(grid.place)
    return Finding(where, ours, repeats(grid), verdict, reason, chosen_on=grid.split)


def _regime(source: Source, found: Findings, row: Mapping[str, Any], wanted: str) -> Finding:
    """Puts a verdict of the regimes to a claim."""
    grid, verdict = found.grid, row["verdict"]
    open_ones = {"untested": NOT_TESTED, "not settled": NOT_SETTLED, wanted: HELD}
    lead = of_columns("left_out_early", row) or of_columns("advantage", row)
    whole = found.num_epochs or max(grid.epochs)
    best = "-" if row["best_epoch"] is None else f"{row['best_epoch'] / whole:.2f}"
    leads = f", early leads by {formatting.difference(lead, grid.metric)}" if lead else ""
    p = row[f"p_{verdict}_holm"] if verdict in ("early", "converged", "equal") else None
    return Finding(
        where=_at_sparsity(source, grid, row["sparsity"]),
        ours=f"best at {best}{leads}",
        n=repeats(grid),
        verdict=open_ones.get(verdict, NOT_HELD),
        reason=row["reason"] or (f"it is {verdict}" if verdict not in open_ones else ""),
        p=p,
        chosen_on=grid.split,
    )
