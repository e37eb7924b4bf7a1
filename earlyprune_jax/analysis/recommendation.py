"""The answer, in one sentence: when to prune, what that costs, how sure it is."""

from collections.abc import Sequence

from earlyprune_jax.analysis import curves, online_text, rules_text, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.lead import MIN_REPEATS
from earlyprune_jax.analysis.panels import kind_of
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.regret import Outcome
from earlyprune_jax.analysis.runs import LOST, Runs, Table
from earlyprune_jax.analysis.stats import Stats, is_zero, stats
from earlyprune_jax.metrics import PERCENT, Metric

TOLERANCE = 0.01
"""Of several sparsities the highest that loses at most this much against dense is recommended: a
point of percents, of other metrics this share of dense."""


def recommend(runs: Runs, outcomes: Sequence[Outcome], num_epochs: int) -> str | None:
    """Writes one sentence that starts with "Recommendation: "; None where there are no runs.

    The fork epoch is chosen as everywhere, on validation where there is any; numbers named
    are of the test set at the last epoch, mean +- std over runs. Several curves: the hardest
    pruning that loses at most one point against dense, or else what loses least; every curve
    against the dense runs of its setting, and only those trained on the most data. A run that
    pruned itself is described, not recommended; nor is a baseline beside the grid, see
    `curves.without_baselines`.

    Args:
        runs: of `results.read_runs`, of all settings.
        outcomes: of `rules.replay`, for the same runs.
        num_epochs: T.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> recommend(read_runs("no/such/workdir"), [], 40) is None
        True
    """
    if not len(runs):
        return None
    every = curves.fork_curves(runs)
    forks = curves.without_baselines(every, runs.config)
    online = curves.fork_curves(runs, "online")
    if forks:
        return (
            f"Recommendation: {_grid_text(forks, curves.dense_runs(runs), outcomes, num_epochs)}."
        )
    if online:
        return f"Recommendation: {online_text.sentence(online, runs, num_epochs)}."
    why = " yet: only baselines beside the grid have finished" if every else _why_none(runs)
    return f"Recommendation: none{why}."


def chosen_curve(forks: Sequence[Curve], dense: Table) -> tuple[Curve, str]:
    """Chooses the curve to recommend, and says by what; nothing of a single one.

    Judged at each curve's best fork epoch, on what it was chosen on against the dense runs' of its
    setting where there are any: the highest sparsity that loses at most `TOLERANCE`, and among its
    curves the one that loses least; if none does, the one that loses least.
    """
    if len(forks) == 1:
        return forks[0], ""
    forks, count = _candidates(forks, dense)
    losses = [_loss(curve, dense) for curve in forks]
    limits = [_tolerance(curve, dense) for curve in forks]
    cheap = [i for i, loss in enumerate(losses) if loss <= limits[i]] if len(dense) else []
    if cheap:
        best = min(cheap, key=lambda index: (-forks[index].place["sparsity"], losses[index]))
        least = (
            "one point"
            if forks[best].metric.unit == PERCENT
            else f"{100 * TOLERANCE:.0f} % of dense"
        )
        return forks[
            best
        ], f"of {count} the hardest pruning that loses at most {least} on {forks[best].split}"
    best = min(range(len(forks)), key=lambda index: losses[index])
    return forks[best], f"of {count} the one that loses least"


def _candidates(forks: Sequence[Curve], dense: Table) -> tuple[list[Curve], str]:
    """The curves to choose among, and how many these are, in words.

    What loses little on a part of the data is no reason to train on that part. A loss is known only
    where the dense runs have finished.
    """
    most = max(curve.place["train_fraction"] for curve in forks)
    on_most = [curve for curve in forks if curve.place["train_fraction"] == most]
    found = [curve for curve in on_most if len(curves.own_dense(curve, dense))] or on_most
    settings = {curve.setting for curve in found}
    if len(settings) == 1 and len(found) == len(forks):
        return found, f"{len(found)} settings"
    part = " on the most data" if len(on_most) < len(forks) else ""
    where = f", {len(settings)} kinds of trunks," if len(settings) > 1 else ""
    return found, f"{words.plural(len(found), 'curve')}{part}{where}"


def _loss(curve: Curve, dense: Table) -> float:
    """What the best fork loses against its dense runs, on what it was chosen on; without any, its
    badness."""
    best, sign = curve.ranking.best, curve.metric.sign
    lead = curve.against(dense, best, curve.split)
    if lead is not None:
        return -sign * lead.mean
    return -sign * stats(curve.at(best)[curve.metric.column(curve.split)]).mean


def _tolerance(curve: Curve, dense: Table) -> float:
    if curve.metric.unit == PERCENT:
        return TOLERANCE
    own = curves.own_dense(curve, dense)[curve.metric.column(curve.split)].dropna()
    return TOLERANCE * abs(own.mean()) if len(own) else 0.0


def _grid_text(
    forks: Sequence[Curve], dense: Table, outcomes: Sequence[Outcome], num_epochs: int
) -> str:
    curve, why = chosen_curve(forks, dense)
    best = curve.ranking.best
    when = f"after epoch {best} of {num_epochs}" if best else "before training"
    parts = [
        f"prune {_what(curve, forks)} {when}: "
        f"{words.amount(curve.test(best), curve.metric)} {words.named(curve.metric)}",
        _against_dense(curve.against(dense, best), curve.metric),
        f"{words.plural(num_epochs - best, 'epoch')} of dense training saved",
    ]
    own = [one for one in outcomes if one.curve.place == curve.place]
    if len(curve.epochs) > 1 and (fixed := rules_text.baseline(own, "best fixed epoch")):
        parts.append(f"regret {rules_text.regret_words(fixed)}")
    claims = [", ".join(part for part in parts if part), why, _how_sure(curve), _rule_text(own)]
    return "; ".join(claim for claim in claims if claim)


def _what(curve: Curve, forks: Sequence[Curve]) -> str:
    """How much is removed and how; what varies besides, and the setting where the forks have
    several."""
    kind = kind_of(curve)
    axes = [
        "criterion",
        "scope",
        *(axis for axis in varying(map(kind_of, forks)) if axis != "sparsity"),
    ]
    setting = curve.setting.only(varying(one.setting for one in forks))
    where = f"; {words.label(setting)}" if setting.items else ""
    return f"{words.removed(kind['sparsity'])} % ({words.label(kind, axes)}{where})"


def _against_dense(found: Stats | None, metric: Metric) -> str:
    if found is None:
        return ""
    if is_zero(found.mean) and not found.std:
        return "as good as dense"
    size = words.difference(
        Stats(abs(found.mean), found.std, found.n), metric, decimals=1, sign=False
    )
    if metric.larger_is_better:
        return f"{size} {'above' if found.mean > 0 else 'below'} dense"
    return f"{size} {'worse' if found.mean > 0 else 'better'} than dense"


def _how_sure(curve: Curve) -> str:
    """Whether the best fork epoch leads the others by more than the noise, and what else limits
    it."""
    ranking = curve.ranking
    if len(ranking.epochs) == 1:
        return "it is the only fork epoch tried, so nothing says that it is the best"
    text = _lead_text(curve)
    if ranking.num_repeats < MIN_REPEATS:
        few = f"{'one' if ranking.num_repeats == 1 else 'two'} {ranking.repeat_kind}"
        few += "s" * (ranking.num_repeats > 1)
        text = f"with {few} nothing is known of the noise, so take it as a guess"
    if ranking.edge:
        beyond = "an earlier" if ranking.edge == "earliest" else "a later"
        text += (
            f"; {ranking.best} is the {ranking.edge} epoch tried, and {beyond} one may be better"
        )
    if curve.split == "validation":
        return text
    return f"{text}; chosen on the test set itself, so a little optimistic"


def _lead_text(curve: Curve) -> str:
    ranking, where = curve.ranking, curve.split
    repeats = f"n = {words.plural(ranking.num_repeats, ranking.repeat_kind)}"
    if not ranking.rivals:
        return (
            f"it leads every other fork epoch on {where} by more than the noise (95 %, {repeats})"
        )
    nearest = ranking.rivals[0]
    gap, lead = ranking.gaps[nearest], ranking.leads[nearest]
    if gap is not None and is_zero(gap.mean):
        return f"not settled: epoch {nearest} is as good on {where} ({repeats})"
    if lead is not None and is_zero(lead.difference.std or 0.0):
        return (
            f"not settled: the lead over epoch {nearest} is the same in all {ranking.repeat_kind}s, by "
            f"chance, so that its noise is unknown ({repeats})"
        )
    noun, verb = ("epoch", "is") if len(ranking.rivals) == 1 else ("epochs", "are")
    # A few epochs by name, the best first; of many the first three.
    named = words.listed(ranking.rivals, at_most=4 if len(ranking.rivals) <= 4 else 3)
    return f"not settled: {noun} {named} {verb} within the noise on {where} (95 %, {repeats})"


def _rule_text(outcomes: Sequence[Outcome]) -> str:
    """What the best rule would have done; says so where none can be judged."""
    tried = [one for one in outcomes if one.kind == "rule"]
    best = rules_text.best_rule(outcomes)
    if best is None:
        if not tried:
            return "no signal was recorded that a rule could have used"
        if all(choice.status == "never" for one in tried for choice in one.choices):
            return "no rule fired"
        return "no rule chose an epoch among the forks in every seed"
    num_rules = len({one.trigger for one in tried})
    which = f"the best of {num_rules} rules in hindsight" if num_rules > 1 else "the rule"
    regret = f"at a regret of {rules_text.regret_words(best)}"
    return f"{which}, {rules_text.phrase(best)}, would have chosen {rules_text.epochs_words(best)} {regret}"


def _why_none(runs: Runs) -> str:
    frame = runs.frame
    is_running = bool((frame["status"] == "unfinished").any())
    pruned = frame[frame["kind"] != "trunk"]
    if not len(pruned):
        return f" yet: {'the dense runs are still being trained' if is_running else 'no fork has been trained'}"
    stays = pruned[(pruned["kind"] == "online") & pruned["fork_epoch"].isna()]
    if len(stays) == len(pruned) and not frame["status"].isin(LOST).any():
        return f": the rule {stays['trigger'].iloc[0]} never fired, so nothing was pruned"
    counts = pruned["status"].value_counts()
    named = [f"{counts[one]} {one}" for one in ("unfinished", *LOST, "skipped") if one in counts]
    if not named:
        return f": no fork has a {words.named(runs.metric)}"
    return f"{' yet' * is_running}: no fork has finished ({', '.join(named)})"
