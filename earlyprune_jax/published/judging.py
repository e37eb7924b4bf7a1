"""Judges the claims of paper A on the runs of a workdir: one function for each kind of claim.

Each takes an `evidence.Source` and yields a `Finding` for every curve, or group of curves, that can
speak to the claim. Every statistic is one of `analysis`: the ranking of fork epochs, the
selection-corrected test, the margin of equality.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import formatting
from earlyprune_jax.analysis.best_epoch import MIN_REPEATS
from earlyprune_jax.analysis.curves import Curve, Setting
from earlyprune_jax.analysis.places import CURVE, shared
from earlyprune_jax.analysis.regimes import transition
from earlyprune_jax.analysis.regimes.similarity import MIN_PAIRS
from earlyprune_jax.analysis.stats import Stats, spearman
from earlyprune_jax.published.evidence import (
    NOT_TESTED,
    PROTOCOLS,
    Finding,
    Placed,
    Region,
    Source,
    best_parts,
    best_text,
    decide,
    groups,
    joined,
    p_against,
    p_before,
    p_larger,
    p_outside,
    parts,
    peaks_of,
    region_of_peak,
    repeats,
    too_few,
    unsettled,
)

Located = tuple[Curve, Region | str]
Order = Callable[[Any], float | None]
"""A value of an axis -> its place in a claimed order, the earliest first; None leaves it out."""


def early(source: Source, *retrainings: str) -> Iterator[Finding]:
    """Judges whether the best fork lies before half of training, curve by curve."""
    for curve in _exponential(source, retrainings or PROTOCOLS["A"]):
        yield _located(source, [(curve, _first_half(curve))], best_text)


def early_at_every_size(source: Source) -> Iterator[Finding]:
    """Judges whether the best fork lies before half of training at each size of the network."""
    for group in groups(_exponential(source, PROTOCOLS["A"]), "model"):
        located = [(curve, _first_half(curve)) for curve in group]
        yield _located(source, located, lambda curve: f"{curve.place['model']} {best_text(curve)}")


def near(source: Source, signal: str, criterion: str = "magnitude") -> Iterator[Finding]:
    """Judges whether the best fork lies near a signal's peak, curve by curve."""
    for curve in source.curves(criterion=criterion):
        yield from near_each(source, [curve], signal)


def near_at_every_sparsity(source: Source) -> Iterator[Finding]:
    """Judges whether the best fork lies near the peak of tr(F) at each sparsity."""
    for group in groups(source.curves(), "sparsity"):
        yield from near_each(source, group, "fisher_trace")


def cheap(source: Source) -> Iterator[Finding]:
    """Judges whether the best fork loses less than the margin of equality against dense."""
    for curve in source.curves():
        margin = transition.default_margin(curve.setting.runs)
        against = curve.against_dense(curve.ranking.best)
        if margin is None or against is None:
            continue
        dense = curve.setting.dense.set_index("trunk_seed").reindex(list(curve.grid.repeats))
        below = [
            curve.metric.sign * dense[curve.metric.column(split)].to_numpy(float, na_value=np.nan)
            for split in (curve.split, "test")
        ]
        ps = p_against(curve.grid, 0, below[0], below[1], margin)
        verdict, p = decide(*([p] if curve.grid.repeat_kind == "seed" else [None] for p in ps))
        within = formatting.difference(Stats(margin, None, 1), curve.metric, sign=False)
        yield Finding(
            where=source.where(curve.place),
            ours=f"{formatting.difference(against, curve.metric)} (margin {within})",
            n=formatting.plural(against.n, "seed"),
            verdict=verdict,
            reason=too_few(against.n) if verdict == NOT_TESTED else "",
            p=p,
            chosen_on=curve.split,
        )


def peaks_ordered(source: Source, signal: str, axis: str, order: Order) -> Iterator[Finding]:
    """Judges whether peaks come in a claimed order along an axis of the settings.

    Args:
        source: a workdir.
        signal: a column of signals.csv.
        axis: of the settings.
        order: of the values of the axis.
    """
    for group in _in_order(_images(source), axis, order):
        found = {str(one.place[axis]): (one.num_epochs, peaks_of(one, signal)) for one in group}
        by_seed = {
            value: {peak.trunk_seed or 0: peak.epoch / whole for peak in tops}
            for value, (whole, tops) in found.items()
            if tops
        }
        edges = [
            f"at {value} largest at the {peak.edge} epoch measured: no peak"
            for value, (_, tops) in found.items()
            for peak in tops
            if peak.edge
        ]
        where = source.where(shared([one.place for one in group]), without=CURVE)
        yield from ordered(source, where, by_seed, edges)


def forks_ordered(source: Source, axis: str, order: Order) -> Iterator[Finding]:
    """Judges whether the best forks come in a claimed order along an axis; as `peaks_ordered`."""
    for group in _in_order(source.curves(), axis, order):
        pairs = list(zip(group, group[1:], strict=False))
        verdict, p = decide(
            [p_before(earlier, later) for earlier, later in pairs],
            [p_before(later, earlier) for earlier, later in pairs],
        )
        num = min(curve.ranking.num_repeats for curve in group)
        why = "each epoch of a curve may be the best" if num >= MIN_REPEATS else too_few(num)
        yield Finding(
            where=source.where(shared([curve.place for curve in group])),
            ours="; ".join(f"{curve.place[axis]}: {best_text(curve)}" for curve in group),
            n=joined(repeats(curve.grid) for curve in group),
            verdict=verdict,
            reason=why if verdict == NOT_TESTED else "",
            p=p,
            chosen_on=group[0].split,
        )


def correlated(source: Source) -> Iterator[Finding]:
    """Judges whether KL_uniform and tr(F) rise and fall together along training."""
    for setting in _images(source):
        table, names = setting.signals, ("fisher_trace", "kl_uniform_bits")
        if not set(names) <= {*table.columns}:
            continue
        found = {
            int(seed): coefficient
            for seed, rows in table.groupby("trunk_seed")
            if (coefficient := spearman(*(rows[name] for name in names), at_least=MIN_PAIRS))
            is not None
        }
        zeros = dict.fromkeys(found, 0.0)
        yield from _compared(source, setting, found, zeros, "rank correlation ")


def costs(source: Source) -> Iterator[Finding]:
    """Judges whether KL_uniform takes fewer seconds than tr(F), as recorded."""
    for setting in _images(source):
        fisher, uniform = (_seconds(setting, name) for name in ("fisher_trace", "kl_uniform"))
        shares = {seed: uniform[seed] / fisher[seed] for seed in fisher.keys() & uniform.keys()}
        ones = dict.fromkeys(shares, 1.0)
        yield from _compared(
            source, setting, ones, shares, "seconds of KL_uniform / tr(F) ", shares
        )


def _images(source: Source) -> list[Setting]:
    return [] if source.is_translation else source.settings


def _exponential(source: Source, retrainings: Sequence[str]) -> list[Curve]:
    """Lists the curves of the schedule that paper A says most of."""
    return [c for c in source.curves(retrainings) if c.place["schedule"] == "exponential"]


def _first_half(curve: Curve) -> Region:
    half = curve.setting.num_epochs / 2
    return Region(inside=lambda epoch: epoch < half, outside=lambda epoch: epoch >= half)


def near_each(source: Source, curves: Sequence[Curve], signal: str) -> Iterator[Finding]:
    """Judges whether the best forks of all curves lie near the peak; of those with the signal."""
    regions = [(curve, region_of_peak(curve, signal)) for curve in curves]
    located = [(curve, region) for curve, region in regions if region is not None]
    several = len(curves) > 1

    def text(curve: Curve) -> str:
        named = f"{formatting.removed(curve.place['sparsity'])} %: " if several else ""
        return f"{named}{_apart_text(curve, signal)}"

    if len(located) > several:
        yield _located(source, located, text)


def _located(source: Source, located: Sequence[Located], text: Callable[[Curve], str]) -> Finding:
    """Judges whether the best fork of every curve lies in its region."""
    p_for, p_against = zip(*(_p_of(curve, region) for curve, region in located), strict=True)
    verdict, p = decide(p_for, p_against)
    untested = zip(located, p_for, strict=True)
    reason = joined(_why(*one) for one, p_one in untested if p_one is None)
    curves = [curve for curve, _ in located]
    return Finding(
        where=source.where(shared([curve.place for curve in curves])),
        ours=joined(map(text, curves)),
        n=joined(repeats(curve.grid) for curve in curves),
        verdict=verdict,
        reason=reason if verdict == NOT_TESTED else "",
        p=p,
        chosen_on=curves[0].split,
    )


def _p_of(curve: Curve, region: Region | str) -> tuple[float | None, float | None]:
    """Tests that the best fork lies elsewhere, and that it lies in the region."""
    if isinstance(region, str):
        return None, None
    is_tried = any(map(region.inside, curve.epochs))
    elsewhere = p_outside(curve.ranking, region.inside) if is_tried else None
    return elsewhere, p_outside(curve.ranking, region.outside)


def _why(curve: Curve, region: Region | str) -> str:
    """Says why nothing could be tested."""
    if isinstance(region, str):
        return region
    num, kind = curve.ranking.num_repeats, curve.grid.repeat_kind
    if num < MIN_REPEATS:
        return too_few(num, kind)
    if not any(map(region.inside, curve.epochs)):
        return "no fork was tried there, as well as that is known"
    if all(map(region.inside, curve.epochs)):
        return "no fork was tried elsewhere"
    return f"fork epochs with fewer than {MIN_REPEATS} {kind}s"


def _apart_text(curve: Curve, signal: str) -> str:
    """Writes the best fork epoch, the peak, and how far the one lies from the other."""
    whole = curve.setting.num_epochs
    tops = {one.trunk_seed: one.epoch / whole for one in peaks_of(curve.setting, signal)}
    bests = best_parts(curve.grid, 0, whole)
    apart = parts(bests[seed] - tops[seed] for seed in bests.keys() & tops.keys())
    return f"{best_text(curve)}, peak at {parts(tops.values())}, apart {apart}"


def _in_order(members: Sequence[Placed], axis: str, order: Order) -> list[list[Placed]]:
    """Groups what differs in an axis alone, each group in the claimed order."""

    def place(member: Placed) -> float | None:
        return order(member.place.named.get(axis))

    known = [member for member in members if place(member) is not None]
    return [sorted(group, key=lambda one: place(one) or 0.0) for group in groups(known, axis)]


def ordered(
    source: Source,
    where: str,
    by_seed: Mapping[str, Mapping[int, float]],
    problems: Sequence[str],
    chosen_on: str = "",
    ends_only: bool = False,
) -> Iterator[Finding]:
    """Judges whether neighbours, or the two ends, come in order, paired over seeds.

    Args:
        source: a workdir.
        where: which curves.
        by_seed: name -> seed -> part of training, the earliest claimed first.
        problems: why there is no test.
        chosen_on: as of `Finding`.
        ends_only: compare the first with the last alone.
    """
    if len(by_seed) < 2:
        return
    names = list(by_seed)
    pairs = [(names[0], names[-1])] if ends_only else list(zip(names, names[1:], strict=False))
    p_for = [p_larger(by_seed[later], by_seed[earlier]) for earlier, later in pairs]
    p_against = [p_larger(by_seed[earlier], by_seed[later]) for earlier, later in pairs]
    verdict, p = (NOT_TESTED, None) if problems else decide(p_for, p_against)
    num = min(len(by_seed[first].keys() & by_seed[second].keys()) for first, second in pairs)
    reason = joined([*problems, unsettled(verdict, p, num)])
    ours = ", ".join(
        f"{name}: {parts(own.values())}" if own else name for name, own in by_seed.items()
    )
    n = formatting.plural(num, "seed")
    yield Finding(where, ours, n, verdict, reason, p, chosen_on)


def _compared(
    source: Source,
    setting: Setting,
    larger: Mapping[int, float],
    smaller: Mapping[int, float],
    label: str,
    shown: Mapping[int, float] | None = None,
) -> Iterator[Finding]:
    """Judges whether one number per seed is larger than another."""
    if not larger:
        return
    verdict, p = decide([p_larger(larger, smaller)], [p_larger(smaller, larger)])
    reason = unsettled(verdict, p, len(larger))
    where = source.where(setting.place, without=CURVE)
    ours = f"{label}{parts((shown or larger).values())}"
    yield Finding(where, ours, formatting.plural(len(larger), "seed"), verdict, reason, p)


def _seconds(setting: Setting, signal: str) -> dict[int, float]:
    """Takes the median seconds of a signal over the epochs of each trunk."""
    trunks = setting.runs.of_kind("trunk").frame
    measured = {
        int(seed): [
            entry["signal_seconds"][signal]
            for entry in setting.runs.entries[name]
            if (entry.get("signal_seconds") or {}).get(signal)
        ]
        for seed, name in zip(trunks["trunk_seed"], trunks["name"], strict=True)
    }
    return {seed: statistics.median(own) for seed, own in measured.items() if own}
