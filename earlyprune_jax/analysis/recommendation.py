"""The verdict, in three lines: when to prune and how sure that is, what it costs, what a rule would
have chosen."""

from collections.abc import Sequence

from earlyprune_jax.analysis import curves, rules_text, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.lead import MIN_REPEATS
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.analysis.runs import LOST, Runs, Table
from earlyprune_jax.analysis.stats import Stats, is_zero, stats
from earlyprune_jax.metrics import PERCENT, Metric

TOLERANCE = 0.01
"""Of several sparsities the highest that loses at most this much against dense is recommended: a
point of percents, of other metrics this share of dense."""


def recommend(runs: Runs, grids: Sequence[Grid], outcomes: Sequence[Outcome]) -> list[str]:
    """Writes the verdict; its first line starts with "Recommendation: ".

    The fork epoch is chosen as everywhere, on validation where there is any; numbers named
    are of the test set at the last epoch, mean +- std over runs. Several curves: see
    `chosen_curve`. A run that pruned itself is described, not recommended; nor is a baseline beside
    the grid, see `curves.without_baselines`.

    Args:
        runs: of `results.read_runs`, of all settings.
        grids: of `rules.grids_of`, for these runs.
        outcomes: of `rules.replay_grids`, for these grids.

    Returns:
        Lines; none where there are no runs.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> recommend(read_runs("no/such/workdir"), [], [])
        []
    """
    forks = [curve for data in grids for curve in data.curves]
    if forks:
        return _of_forks(forks, runs, grids, outcomes)
    if any(data.online for data in grids):
        return _of_online_runs(grids)
    return [f"Recommendation: none{_why_none(runs)}."] if len(runs) else []


def chosen_curve(forks: Sequence[Curve], dense: Table) -> tuple[Curve, str]:
    """Chooses the curve to recommend, and says by what; nothing of a single one.

    Judged at each curve's best fork epoch, on what it was chosen on, against the best dense runs of
    any setting: the highest sparsity that loses at most `TOLERANCE`, and among its curves the one
    that loses least; if none does, the one that loses least. A setting whose dense runs train badly
    is no reason to prune there. Only curves trained on the most data count: what loses little on a
    part of it is no reason to train on that part.

    Args:
        forks: at least one.
        dense: of `curves.dense_runs`, of all settings.

    Returns:
        The curve, and a part of a sentence.
    """
    if len(forks) == 1:
        return forks[0], ""
    most = max(curve.place["train_fraction"] for curve in forks)
    on_most = [curve for curve in forks if curve.place["train_fraction"] == most]
    known = [one for one in on_most if one.against(dense, one.ranking.best, one.split)]
    among = known or on_most
    metric = forks[0].metric
    best_dense = max((metric.sign * _dense_mean(curve, dense) for curve in known), default=0.0)
    losses = {curve.place: _loss(curve, dense, best_dense) for curve in among}
    tolerance = TOLERANCE * (1 if metric.unit == PERCENT else abs(best_dense))
    cheap = [curve for curve in known if losses[curve.place] <= tolerance]
    data = " on the most data" if len(on_most) < len(forks) else ""
    if len(among) == 1:
        return among[0], f"the only curve{data}"
    count = f"of {len(among)} curves{data}"
    if not cheap:
        return min(
            among, key=lambda curve: losses[curve.place]
        ), f"{count} the one that loses least"
    best = min(cheap, key=lambda curve: (-curve.place["sparsity"], losses[curve.place]))
    least = "one point" if metric.unit == PERCENT else f"{words.share(TOLERANCE)} of dense"
    several = len({curve.setting for curve in known}) > 1
    against = " against the best dense runs" if several else ""
    return best, f"{count} the hardest pruning that loses at most {least} on {best.split}{against}"


def _loss(curve: Curve, dense: Table, best_dense: float) -> float:
    """Returns what the best fork loses on what it was chosen on, larger = worse.

    Args:
        curve: with a best fork epoch.
        dense: of `curves.dense_runs`.
        best_dense: the mean of the best dense runs of any setting, larger = better.

    Returns:
        The paired loss against the dense runs of its setting, and what these lose against the best;
        without dense runs its badness.
    """
    best, sign = curve.ranking.best, curve.metric.sign
    difference = curve.against(dense, best, curve.split)
    if difference is None:
        return -sign * stats(curve.at(best)[curve.metric.column(curve.split)]).mean
    return best_dense - sign * _dense_mean(curve, dense) - sign * difference.mean


def _dense_mean(curve: Curve, dense: Table) -> float:
    column = curve.metric.column(curve.split)
    return float(curves.own_dense(curve, dense)[column].dropna().mean())


def _of_forks(
    forks: Sequence[Curve], runs: Runs, grids: Sequence[Grid], outcomes: Sequence[Outcome]
) -> list[str]:
    dense = curves.dense_runs(runs)
    curve, why = chosen_curve(forks, dense)
    num_epochs = next(data.num_epochs for data in grids if curve in data.curves)
    best, metric, kind = curve.ranking.best, curve.metric, curve.place.kind
    own = [one for one in outcomes if one.curve is curve]
    axes = {"criterion", "scope", *varying(one.place for one in forks)} - {"sparsity"}
    what = f"{words.removed(kind['sparsity'])} % ({words.label(curve.place, axes)})"
    when = f"after epoch {best} of {num_epochs}" if best else "before training"
    test = curve.test(best)
    number = f"{words.amount(test, metric)} {words.named(metric)} (n = {test.n})"
    cost = _against_dense(curve.against(dense, best), metric)
    saved = f"{words.plural(num_epochs - best, 'epoch')} of dense training saved"
    return [
        f"Recommendation: {'; '.join(filter(None, (f'prune {what} {when}: {number}', why)))}; "
        f"{_how_sure(curve)}.",
        f"Cost: {'; '.join(filter(None, (cost, saved)))}.",
        f"Rules: {_rule_text(own)}.",
    ]


def _against_dense(found: Stats | None, metric: Metric) -> str:
    if found is None:
        return ""
    if is_zero(found.mean) and not found.std:
        return "as good as dense"
    size = Stats(abs(found.mean), found.std, found.n)
    is_better = metric.sign * found.mean > 0
    text = words.difference(size, metric, decimals=1, sign=False)
    return f"{text} {'better' if is_better else 'worse'} than dense"


def _how_sure(curve: Curve) -> str:
    """Says whether the best fork epoch leads the others by more than the noise, and what else
    limits it."""
    ranking = curve.ranking
    if len(ranking.epochs) == 1:
        return "it is the only fork epoch tried, so nothing says that it is the best"
    repeats = words.plural(ranking.num_repeats, ranking.repeat_kind)
    where = f"on {curve.split} (95 %, n = {repeats})"
    if ranking.num_repeats < MIN_REPEATS:
        text = f"with {repeats} nothing is known of the noise, so take it as a guess"
    elif ranking.rivals:
        rivals = f"epoch{'s' * (len(ranking.rivals) > 1)} {words.listed(ranking.rivals, at_most=4)}"
        text = f"not settled: {rivals} may be as good {where}"
    else:
        text = f"it leads every other fork epoch by more than the noise {where}"
    if ranking.edge:
        beyond = "an earlier" if ranking.edge == "earliest" else "a later"
        text += f"; it is the {ranking.edge} epoch tried, and {beyond} one may be better"
    return text


def _rule_text(outcomes: Sequence[Outcome]) -> str:
    """Says what the best rule would have done, or why none can be judged."""
    tried = [one for one in outcomes if one.kind == "rule"]
    best = rules_text.best_rule(outcomes)
    fixed = rules_text.baseline(outcomes, "best fixed epoch")
    regret = f"; this epoch's own is {rules_text.regret_words(fixed)}" if fixed else ""
    if best is None:
        if not tried:
            return "no signal was recorded that a rule could have used"
        if all(choice.status == "never" for one in tried for choice in one.choices):
            return "none fired"
        return "none chose an epoch among the forks in every seed"
    num_rules = len({one.trigger for one in tried})
    which = f"the best of {num_rules} in hindsight" if num_rules > 1 else "the only one"
    text = f"{rules_text.name(best)}, {which}, would have chosen"
    chosen = words.epochs(rules_text.epochs_chosen(best))
    interpolated = " (interpolated)" if best.count("interpolated") else ""
    return f"{text} {chosen}, regret {rules_text.regret_words(best)}{interpolated}{regret}"


def _of_online_runs(grids: Sequence[Grid]) -> list[str]:
    """Describes runs that pruned themselves: one choice without a comparison recommends nothing."""
    import pandas as pd

    rows: Table = pd.concat([curve.runs for data in grids for curve in data.online])
    # Runs of several sparsities share a trunk, and so its epoch.
    trunks = rows.drop_duplicates([*grids[0].runs.setting_axes, "trunk_seed"])
    num_never = int(trunks["fired_epoch"].isna().sum())
    is_rewound = bool((rows["fork_epoch"] < rows["fired_epoch"]).any())
    num_epochs = max(data.num_epochs for data in grids)
    dense = trunks["fired_epoch"].fillna(trunks["fork_epoch"]).tolist()
    pruned = sorted(rows["fork_epoch"].tolist())
    saved = sorted(num_epochs - epochs for epochs in dense)
    rule = f"{rows['trigger'].iloc[0]}{', rewound' * is_rewound}"
    seeds = words.plural(len(trunks), "seed" if len(grids) == 1 else "trunk")
    parts = [
        f"it pruned itself after {words.epochs(pruned)} of {num_epochs} (rule {rule})",
        f"the rule never fired in {num_never} of {seeds}" if num_never else "",
        "whether that was best cannot be known from this run alone: a grid of forks would tell",
    ]
    return [
        f"Recommendation: none from this run alone; {'; '.join(filter(None, parts))}.",
        f"Cost: {words.span(saved)} epoch{'s' * (saved[-1] != 1)} of dense training saved.",
    ]


def _why_none(runs: Runs) -> str:
    frame = runs.frame
    pruned = frame[frame["kind"] != "trunk"]
    is_running = bool((frame["status"] == "unfinished").any())
    if not len(pruned):
        dense = "the dense runs are still being trained"
        return f" yet: {dense if is_running else 'no fork has been trained'}"
    if curves.fork_curves(runs):
        return " yet: only baselines beside the grid have finished"
    stays = pruned[(pruned["kind"] == "online") & pruned["fork_epoch"].isna()]
    if len(stays) == len(pruned) and not frame["status"].isin(LOST).any():
        return f": the rule {stays['trigger'].iloc[0]} never fired, so nothing was pruned"
    return f"{' yet' * is_running}: no fork has finished with a {words.named(runs.metric)}"
