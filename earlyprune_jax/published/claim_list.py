"""The claims of both papers, and the questions of the controls: what is said, what was published of
it, and what decides.

Published numbers are computed from `published.curves`, never typed in; paper B has published none.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Sequence

from earlyprune_jax.analysis.regimes.findings import DATA, DEPTH
from earlyprune_jax.published import judging, judging_grids, replay
from earlyprune_jax.published.beside import SCHEDULES, curves_of
from earlyprune_jax.published.curves import AccuracyCurve, accuracy_curves
from earlyprune_jax.published.evidence import NEAR, Finding, Source

NONE = "no number published"
Judge = Callable[[Source], Iterable[Finding]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of a paper, or a question of a control.

    Attributes:
        name: A or B and a number; C of controls.
        sentence: the claim.
        figures: that show it.
        published: says what the published curves have.
        test: what decides, in words.
        judge: gives the findings of a workdir.
    """

    name: str
    sentence: str
    figures: str
    published: Callable[[], str]
    test: str
    judge: Judge


def _best(curve: AccuracyCurve) -> float:
    """Finds a published curve's best fork epoch, as a part of training."""
    pairs = zip(curve.accuracies, curve.fork_epochs, strict=True)
    return max(pairs, key=lambda pair: pair[0])[1] / curve.dense.num_epochs


def _peak(curve: AccuracyCurve) -> float:
    return (curve.dense.peak_epoch or 0) / curve.dense.num_epochs


def _spread(values: Sequence[float], decimals: int = 2) -> str:
    ends = f"{min(values):.{decimals}f} to {max(values):.{decimals}f}"
    return f"{statistics.median(values):.{decimals}f} ({ends}; {len(values)} curves)"


def _halves(*figures: str) -> str:
    """Says where the best forks of figures lie; of none, those of the exponential schedule."""
    curves = [curve for figure in figures for curve in curves_of(figure)] or [
        curve
        for curve in accuracy_curves()
        if curve.dense.schedule == "exponential" and curve.criterion == "magnitude"
    ]
    before = sum(_best(curve) < 0.5 for curve in curves)
    return f"before T/2 in {before} of {len(curves)}; at {_spread(list(map(_best, curves)))}"


def _losses() -> str:
    curves = [c for c in accuracy_curves() if c.criterion == "magnitude" and c.dense.accuracy]
    differences = [max(curve.accuracies) - (curve.dense.accuracy or 0.0) for curve in curves]
    return f"{_spread(differences)} points against dense, best over epochs on test"


def _distances(*figures: str, signal: str = "fisher_trace") -> str:
    """Says how far the best forks of figures lie from the peak; of none, those by magnitude."""
    curves = [curve for figure in figures for curve in curves_of(figure)] or [
        curve for curve in accuracy_curves(signal) if curve.criterion == "magnitude"
    ]
    apart = [_best(curve) - _peak(curve) for curve in curves]
    near = sum(abs(each) <= NEAR + 1e-9 for each in apart)
    return f"within {NEAR} in {near} of {len(apart)}; best less peak {_spread(apart)}"


def _by(figure: str, key: str, value: Callable[[AccuracyCurve], float]) -> str:
    """Lists a number for each curve of a figure."""
    return ", ".join(
        f"{getattr(curve.dense, key)}: {value(curve):.2f}" for curve in curves_of(figure)
    )


@functools.cache
def _regrets() -> str:
    rows = {row["rule"]: row for row in replay.rule_rows(replay.replay("fisher_trace"))}
    peak, fixed = (rows[name]["regret_mean"] for name in ("largest value", judging_grids.FIXED))
    curves = rows["largest value"]["n"]
    return f"regret {peak:.2f} points at the peak, {fixed:.2f} at 30 % ({curves} curves)"


def _nothing() -> str:
    return NONE


SET = "the 95 % set of epochs that may be the best (selection-corrected, over repeats)"
HALF = f"{SET}: held if all of it lies before T/2, not held if none does"
CLOSE = (
    f"{SET} and the peak's 95 % interval: held if all of it lies within {NEAR} of training, not "
    "held if none does"
)
ALL = "; for all curves: each must pass, Holm against it"
PAIRED = "neighbours paired over seeds, one-sided; each must pass, Holm against it"
ENDS = "the two ends, best epochs averaged over the heavy sparsities, paired over seeds, one-sided"
REGIME = "`earlyprune regimes`: early against converged epochs, selection-corrected, Holm"
EQUAL = "; equal within 1 % of dense by two one-sided tests"
OVER_SEEDS = "paired over seeds, one-sided"

CLAIMS = (
    Claim(
        *("A1", "Under the exponential schedule the best fork lies before half of training."),
        *("A 1-4, 6, 8-13", _halves, HALF, judging.early),
    ),
    Claim(
        *("A2", "The best fork loses next to nothing against the dense network."),
        *("A 1-13", _losses),
        "forks chosen on the other seeds less dense: held if a loss of the margin (1 % of dense) "
        "or more is rejected, not held if a smaller one is",
        judging.cheap,
    ),
    Claim(
        *("A3", "The best fork lies near the peak of tr(F).", "A 1, 3, 4, 6, 9, 11-13", _distances),
        *(CLOSE, functools.partial(judging.near, signal="fisher_trace")),
    ),
    Claim(
        *("A4", "Early is best at every size of the network.", "A 2, 10"),
        functools.partial(_halves, "A 2", "A 10"),
        *(HALF + ALL, judging.early_at_every_size),
    ),
    Claim(
        *("A5", "At every sparsity the best fork lies near the peak of tr(F).", "A 3, 11"),
        functools.partial(_distances, "A 3", "A 11"),
        *(CLOSE + ALL, judging.near_at_every_sparsity),
    ),
    Claim(
        *("A6", "The larger the weight decay, the later tr(F) peaks.", "A 4, 12"),
        functools.partial(_by, "A 4", "weight_decay", _peak),
        PAIRED,
        functools.partial(
            judging.peaks_ordered,
            signal="fisher_trace",
            axis="optim.weight_decay",
            order=lambda value: value,
        ),
    ),
    Claim(
        *("A7", "tr(F) peaks first under the exponential schedule, then cosine, then linear."),
        *("A 6, 13", functools.partial(_by, "A 6", "schedule", _peak), PAIRED),
        functools.partial(
            judging.peaks_ordered,
            signal="fisher_trace",
            axis="schedule",
            order=dict(zip(SCHEDULES, range(3), strict=True)).get,
        ),
    ),
    Claim(
        *("A8", "The best fork comes first under the exponential schedule, then cosine, linear."),
        *("A 6, 13", functools.partial(_by, "A 6", "schedule", _best)),
        "97.5 % sets of epochs that may be the best: held if neighbours' are disjoint and in "
        "order; each must pass, Holm against it",
        functools.partial(
            judging.forks_ordered,
            axis="schedule",
            order=dict(zip(SCHEDULES, range(3), strict=True)).get,
        ),
    ),
    Claim(
        *("A9", "Pruned by Fisher information, the best fork lies near the peak of tr(F) too."),
        *("A 7", functools.partial(_distances, "A 7"), CLOSE),
        functools.partial(judging.near, signal="fisher_trace", criterion="fisher"),
    ),
    Claim(
        *("A10", "The best fork lies near the peak of KL_uniform.", "A 8"),
        functools.partial(_distances, "A 8"),
        *(CLOSE, functools.partial(judging.near, signal="kl_uniform_bits")),
    ),
    Claim(
        *("A11", "KL_uniform and tr(F) rise and fall together along training.", "A 8"),
        lambda: f"{NONE}: no dense run has both",
        f"Spearman over epochs against 0, {OVER_SEEDS}",
        judging.correlated,
    ),
    Claim(
        *("A12", "KL_uniform costs less than tr(F).", "A 8", _nothing),
        *(f"median seconds of an epoch as recorded, {OVER_SEEDS}", judging.costs),
    ),
    Claim(
        *("B1", "Heavily pruned, an early epoch is best.", "B 2, 3a, 8a", _nothing),
        *(f"{REGIME}{EQUAL}: at the heaviest sparsity",),
        functools.partial(judging_grids.regime, row=-1, wanted="early"),
    ),
    Claim(
        *("B2", "Lightly pruned, a converged epoch is best.", "B 2, 3a, 8a", _nothing),
        *(f"{REGIME}{EQUAL}: at the lightest sparsity",),
        functools.partial(judging_grids.regime, row=0, wanted="converged"),
    ),
    Claim(
        *("B3", "The deeper the network, the later the best epoch.", "B 4, 5a, 9", _nothing, ENDS),
        functools.partial(judging_grids.grows, axis=DEPTH, sign=1),
    ),
    Claim(
        *("B4", "The more data, the earlier the best epoch.", "B 4, 5b, 9", _nothing, ENDS),
        functools.partial(judging_grids.grows, axis=DATA, sign=-1),
    ),
    Claim(
        *("B5", "Similarity of fine-tuned networks tells the two regimes apart.", "B 6", _nothing),
        f"{REGIME}: held if every sparsity it settles lies on its side of similarity's line "
        "(itself not tested), not held if one does not",
        judging_grids.alike,
    ),
    Claim(
        *("B6", "random_distance's peak marks the best epoch of heavily pruned networks."),
        *("B 7", _nothing, f"{CLOSE}; at the heaviest sparsity", judging_grids.marked),
    ),
    Claim(
        *("B7", "Translation has both regimes.", "B 3b, 8b", _nothing),
        *(f"{REGIME}{EQUAL}: early at the heaviest, converged at the lightest sparsity",),
        judging_grids.translations,
    ),
    Claim(
        *("B8", "Translation has a region between the regimes where both are as good."),
        *("B 3b, 8b", _nothing, f"{REGIME}{EQUAL}: equal at a sparsity between the regimes"),
        judging_grids.between,
    ),
    Claim(
        *("C1", "Early stays best where each fork ends at the dense run's last rate."),
        *("control: matched_anneal", _nothing, HALF),
        lambda source: judging.early(source, "matched_anneal"),
    ),
    Claim(
        *("C2", "The best fork beats networks that were sparse from the start."),
        *("control: sparse_from_start", _nothing),
        "forks chosen on the other repeats less those, one-sided, Holm over sparsities",
        judging_grids.sparse_from_start,
    ),
    Claim(
        *("C3", "Heavily pruned, early stays best without any drop of the rate."),
        *("control: constant_rate", _nothing, f"{REGIME}{EQUAL}: at the heaviest sparsity"),
        functools.partial(judging_grids.regime, row=-1, wanted="early", constant=True),
    ),
    Claim(
        *("C4", "Pruning at the peak of tr(F) loses less than at a fixed 30 % of training."),
        *("control: fixed_fraction", _regrets, f"regrets of replayed rules on test, {OVER_SEEDS}"),
        judging_grids.beats_fixed,
    ),
)
