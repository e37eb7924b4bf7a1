"""The verdict, in three lines: when to prune and how sure that is, what it costs, what a rule would
have chosen."""

from collections.abc import Sequence

from earlyprune_jax import triggers
from earlyprune_jax.analysis import formatting, replay
from earlyprune_jax.analysis.best_epoch import MIN_REPEATS
from earlyprune_jax.analysis.curves import Curve, Setting, all_curves
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.replay import Outcome
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.metrics import PERCENT

TOLERANCE = 0.01
"""Of several sparsities the highest that loses at most this much against dense is recommended: a
point of percents, of other metrics this share of dense."""

TOO_MUCH = 0.5
"""Pruning that loses more than this share of dense is not recommended, whatever the metric."""

MASKED_COST = (
    "(a masked epoch takes as long as a dense one: compute is saved only where the network gets "
    "smaller, docs/pruning.md)"
)


def recommend(runs: Runs, settings: Sequence[Setting], outcomes: Sequence[Outcome]) -> list[str]:
    """Writes the verdict; its first line starts with "Recommendation: ".

    The fork epoch is chosen as everywhere, on validation where there is any; numbers named
    are of the test set at the last epoch, mean +- std over runs. Several curves: see
    `chosen_curve`. A run that pruned itself is described, not recommended; nor is a baseline beside
    the grid, see `curves.Setting.curves`.

    Args:
        runs: of `results.read_runs`, of all settings.
        settings: of `curves.settings_of`, for these runs.
        outcomes: of `rules.replay_settings`, for these settings.

    Returns:
        Lines; none where there are no runs.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> recommend(read_runs("no/such/workdir"), [], [])
        []
    """
    curves = all_curves(settings)
    if not curves:
        online = [curve for setting in settings for curve in setting.online]
        why = f" {_of_online_runs(online)}" if online else _why_none(runs)
        return [f"Recommendation: none{why}."] if len(runs) else []
    curve, why = chosen_curve(curves)
    num_epochs, best, metric = curve.setting.num_epochs, curve.ranking.best, curve.metric
    axes = {"criterion", "scope", *varying(one.place for one in curves)} - {"sparsity"}
    sparsity = formatting.removed(curve.place["sparsity"])
    when = f"after epoch {best} of {num_epochs}" if best else "before training"
    what = f"prune {sparsity} % ({formatting.label(curve.place, axes)}) {when}"
    test = curve.test(best)
    number = f"{formatting.amount(test, metric)} {formatting.named(metric)} (n = {test.n})"
    lost = curve.against_dense(best, curve.split)
    if lost and -metric.sign * lost.mean > TOO_MUCH * abs(_dense_mean(curve)):
        what = f"none: each fork epoch loses over half of what dense reaches; best was to {what}"
    parts = [f"{what}: {number}", why, _how_sure(curve)]
    earlier = f"dense training ends {formatting.plural(num_epochs - best, 'epoch')} earlier"
    cost = [_against_dense(curve), f"{earlier} {MASKED_COST}"]
    return [
        f"Recommendation: {'; '.join(filter(None, parts))}.",
        f"Cost: {'; '.join(filter(None, cost))}.",
        f"Rules: {_rule_text([one for one in outcomes if one.curve is curve])}.",
    ]


def chosen_curve(curves: Sequence[Curve]) -> tuple[Curve, str]:
    """Chooses the curve to recommend, and says by what; nothing of a single one.

    Judged at each curve's best fork epoch, on what it was chosen on, against the best dense runs of
    any setting: the highest sparsity that loses at most `TOLERANCE`, and among its curves the one
    that loses least; if none does, the one that loses least. A setting whose dense runs train badly
    is no reason to prune there. Only curves trained on the most data count: what loses little on a
    part of it is no reason to train on that part.

    Args:
        curves: at least one, of all settings.

    Returns:
        The curve, and a part of a sentence.
    """
    if len(curves) == 1:
        return curves[0], ""
    most = max(curve.place["train_fraction"] for curve in curves)
    on_most = [curve for curve in curves if curve.place["train_fraction"] == most]
    known = [one for one in on_most if one.against_dense(one.ranking.best, one.split)]
    among = known or on_most
    metric = curves[0].metric
    best_dense = max((metric.sign * _dense_mean(curve) for curve in known), default=0.0)
    losses = {curve: _loss(curve, best_dense) for curve in among}
    tolerance = TOLERANCE * (1 if metric.unit == PERCENT else abs(best_dense))
    cheap = [curve for curve in known if losses[curve] <= tolerance]
    data = " on the most data" if len(on_most) < len(curves) else ""
    if len(among) == 1:
        return among[0], f"the only curve{data}"
    count = f"of {len(among)} curves{data}"
    if not cheap:
        return min(among, key=losses.__getitem__), f"{count} the one that loses least"
    best = min(cheap, key=lambda curve: (-curve.place["sparsity"], losses[curve]))
    least = "one point" if metric.unit == PERCENT else f"{formatting.share(TOLERANCE)} of dense"
    several = len({curve.setting for curve in known}) > 1
    against = " against the best dense runs" if several else ""
    return best, f"{count} the hardest pruning that loses at most {least} on {best.split}{against}"


def _loss(curve: Curve, best_dense: float) -> float:
    """Returns what the best fork loses on what it was chosen on, larger = worse.

    That is the paired loss against the dense runs of its setting, and what these lose against the
    best of any setting (larger = better); without dense runs its badness.
    """
    best, sign = curve.ranking.best, curve.metric.sign
    difference = curve.against_dense(best, curve.split)
    if difference is None:
        return -sign * stats(curve.at(best)[curve.metric.column(curve.split)]).mean
    return best_dense - sign * _dense_mean(curve) - sign * difference.mean


def _dense_mean(curve: Curve) -> float:
    return float(curve.setting.dense[curve.metric.column(curve.split)].dropna().mean())


def _against_dense(curve: Curve) -> str:
    difference, metric = curve.against_dense(curve.ranking.best), curve.metric
    if difference is None:
        return ""
    if round(difference.mean, 12) == 0 and not difference.std:
        return "as good as dense"
    size = Stats(abs(difference.mean), difference.std, difference.n)
    text = formatting.difference(size, metric, decimals=1, sign=False)
    return f"{text} {'better' if metric.sign * difference.mean > 0 else 'worse'} than dense"


def _how_sure(curve: Curve) -> str:
    """Says whether the best fork epoch leads the others by more than the noise, and what else
    limits it."""
    ranking = curve.ranking
    if len(ranking.epochs) == 1:
        return "it is the only fork epoch tried, so nothing says that it is the best"
    repeats = formatting.plural(ranking.num_repeats, curve.grid.repeat_kind)
    where = f"on {curve.split} (95 %, n = {repeats})"
    if ranking.num_repeats < MIN_REPEATS:
        text = f"with {repeats} nothing is known of the noise, so take it as a guess"
    elif ranking.rivals:
        rivals = formatting.listed(ranking.rivals, at_most=4)
        epochs = f"epoch{'s' * (len(ranking.rivals) > 1)}"
        text = f"not settled: {epochs} {rivals} may be as good {where}"
    else:
        text = f"it leads every other fork epoch by more than the noise {where}"
    if ranking.edge:
        text += f"; it is the {ranking.edge} epoch tried"
    beyond = {"earliest": ("an earlier", 0), "latest": ("a later", curve.setting.num_epochs)}
    for edge, (other, end) in beyond.items():
        if ranking.edge == edge and ranking.best != end:
            text += f", and {other} one may be better"
    return text


def _rule_text(outcomes: Sequence[Outcome]) -> str:
    """Says what the best rule would have done, or why none can be judged."""
    tried = [one for one in outcomes if one.kind == "rule"]
    if not tried:
        return "no signal was recorded that a rule could have used"
    best = next((one for one in tried if one.complete), None)
    if best is None:
        fired = any(one.count("never") < len(one.choices) for one in tried)
        return "none chose an epoch among the forks in every seed" if fired else "none fired"
    num_rules = len({one.trigger for one in tried})
    interpolated = " (interpolated)" if best.count("interpolated") else ""
    fixed = replay.baseline(outcomes, "best fixed epoch")
    own = f"; the recommended epoch's own regret is {formatting.regret(fixed)}" if fixed else ""
    chosen = f"{formatting.epochs(best.epochs)}, regret {formatting.regret(best)}"
    what = f"would have chosen {chosen}{interpolated}{own}"
    name, random_time = formatting.rule_name(best), replay.baseline(outcomes, "random time")
    if random_time and not _beats(best, random_time):
        worse = f"no better than a random time (regret {formatting.regret(random_time)})"
        if num_rules == 1:
            return f"the only one, {name}, is {worse}: it {what}"
        return f"all {num_rules} are {worse}: the least bad in hindsight, {name}, {what}"
    which = f"the best of {num_rules} rules in hindsight" if num_rules > 1 else "the only one"
    return f"{name}, {which}, {what}"


def _beats(rule: Outcome, baseline: Outcome) -> bool:
    """Tells whether the rule's mean regret is lower; without one it is not."""
    own, other = rule.over_seeds("regret"), baseline.over_seeds("regret")
    return own is not None and other is not None and round(own.mean - other.mean, 12) < 0


def _of_online_runs(curves: Sequence[Curve]) -> str:
    """Describes runs that pruned themselves: one choice without a comparison recommends nothing."""
    epochs = formatting.epochs(sorted(epoch for curve in curves for epoch in curve.epochs))
    length, trigger = curves[0].setting.num_epochs, curves[0].runs["trigger"].iloc[0]
    pruned = f"it pruned itself after {epochs} of {length} (rule {triggers.label(trigger)})"
    return f"from this run alone; {pruned}; whether that was best only a grid of forks would tell"


def _why_none(runs: Runs) -> str:
    frame = runs.frame
    stays = frame[(frame["kind"] == "online") & frame["fork_epoch"].isna()]
    if len(stays) and (frame.loc[frame["kind"] != "trunk", "status"] == "skipped").all():
        rule = triggers.label(stays["trigger"].iloc[0])
        return f": the rule {rule} never fired, so nothing was pruned"
    is_running = bool((frame["status"] == "unfinished").any())
    return f"{' yet' * is_running}: no fork of the grid has finished"
