"""The answer, in one sentence: when to prune, what that costs, how sure it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis import curves, labels, online_text, rules_text
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.regret import Outcome
from earlyprune_jax.analysis.runs import LOST, Run

TOLERANCE = 0.01
"""Of several sparsities the highest that loses at most this much accuracy against dense is recommended."""
NUMBER_WORDS = {1: "one seed", 2: "two seeds"}


def recommend(
    runs: Sequence[Run],
    outcomes: Sequence[Outcome],
    num_epochs: int,
    config: Mapping[str, Any] | None = None,
) -> str | None:
    """One sentence that starts with "Recommendation: "; None where there are no runs.

    The fork epoch is chosen as everywhere, on validation accuracy where there is any; accuracies named
    are test accuracies at the last epoch, mean +- std over runs. Several curves: the hardest pruning
    that loses at most one point against dense, or else what loses least; every curve against the dense
    runs of its setting, and only those trained on the most data. A run that pruned itself is
    described, not recommended; nor is a baseline beside the grid, see `curves.without_baselines`.

    Args:
        runs: of `results.read_runs`, of all settings.
        outcomes: of `rules.replay`, for the same runs.
        num_epochs: T.
        config: of `results.read_config`: tells baselines from the grid.

    Example:
        >>> recommend([], [], 40) is None
        True
    """
    if not runs:
        return None
    every = curves.fork_curves(runs)
    forks = curves.without_baselines(every, config or {})
    online = curves.fork_curves(runs, "online")
    if forks:
        return f"Recommendation: {_grid_text(forks, curves.dense_runs(runs), outcomes, num_epochs)}."
    if online:
        return f"Recommendation: {online_text.sentence(online, runs, num_epochs)}."
    why = " yet: only baselines beside the grid have finished" if every else _why_none(runs)
    return f"Recommendation: none{why}."


def chosen_curve(forks: Sequence[Curve], dense: Sequence[Run]) -> tuple[Curve, str]:
    """The curve to recommend, and by what it was chosen; the latter is empty for a single one.

    Judged at each curve's best fork epoch, on its selection metric against the dense runs' of its
    setting where there are any: the highest sparsity that loses at most `TOLERANCE`, and among its
    curves the one that loses least; if none does, the one that loses least.
    """
    if len(forks) == 1:
        return forks[0], ""
    forks, count = _candidates(forks, dense)
    losses = [_loss(curve, curves.own_dense(curve, dense)) for curve in forks]
    cheap = [index for index, loss in enumerate(losses) if loss <= TOLERANCE] if dense else []
    if cheap:
        best = min(cheap, key=lambda index: (-forks[index].sparsity, losses[index]))
        where = curves.selection_metric(forks[best]).split("_")[0]
        return forks[best], f"of {count} the hardest pruning that loses at most one point on {where}"
    best = min(range(len(forks)), key=lambda index: losses[index])
    return forks[best], f"of {count} the one that loses least"


def _candidates(forks: Sequence[Curve], dense: Sequence[Run]) -> tuple[list[Curve], str]:
    """The curves to choose among, and how many these are, in words.

    What loses little on a part of the data is no reason to train on that part. A loss is known only
    where the dense runs have finished.
    """
    most = max(curve.setting.train_fraction for curve in forks)
    on_most = [curve for curve in forks if curve.setting.train_fraction == most]
    found = [curve for curve in on_most if curves.own_dense(curve, dense)] or on_most
    settings = {curve.setting for curve in found}
    if len(settings) == 1 and len(found) == len(forks):
        return found, f"{len(found)} settings"
    part = " on the most data" if len(on_most) < len(forks) else ""
    where = f", {len(settings)} kinds of trunks," if len(settings) > 1 else ""
    return found, f"{_counted(len(found), 'curve')}{part}{where}"


def _loss(curve: Curve, dense: Sequence[Run]) -> float:
    """What the best fork loses against its dense runs, on what it was chosen on; without any, its error."""
    metric, best = curves.selection_metric(curve), curve.runs[curves.ranked_epochs(curve)[0]]
    lead = curves.paired_difference(dense, best, metric)
    return lead.mean if lead else 1.0 - curves.stats(run.last(metric) for run in best).mean


def _grid_text(
    forks: Sequence[Curve], dense: Sequence[Run], outcomes: Sequence[Outcome], num_epochs: int
) -> str:
    curve, why = chosen_curve(forks, dense)
    dense = curves.own_dense(curve, dense)
    best = curves.ranked_epochs(curve)[0]
    when = f"after epoch {best} of {num_epochs}" if best else "before training"
    parts = [
        f"prune {_what(curve, forks)} {when}: {_accuracy(curve.test(best))}",
        _against_dense(curves.paired_difference(curve.runs[best], dense, "test_accuracy")),
        f"{_counted(num_epochs - best, 'epoch')} of dense training saved",
    ]
    own = [one for one in outcomes if one.curve.key == curve.key]
    if len(curve.runs) > 1 and (fixed := rules_text.baseline(own, "best fixed epoch")):
        parts.append(f"regret {rules_text.regret_words(fixed)}")
    claims = [", ".join(part for part in parts if part), why, _how_sure(curve)]
    claims.append(_rule_text(own))
    return "; ".join(claim for claim in claims if claim)


def _what(curve: Curve, forks: Sequence[Curve]) -> str:
    """How much is removed and how; the learning-rate rule and the setting where the forks have several."""
    axes = ["criterion", "scope"] + (["rule"] if "rule" in curves.varying(forks) else [])
    setting_axes = labels.varying_settings(one.setting for one in forks)
    setting = f"; {labels.setting_label(curve.setting, setting_axes)}" if setting_axes else ""
    return f"{100 * curve.sparsity:.6g} % ({labels.curve_label(curve, axes)}{setting})"


def _against_dense(difference: Stats | None) -> str:
    if difference is None:
        return ""
    if curves.is_zero(difference.mean) and not difference.std:
        return "as good as dense"
    points = rules_text.plus_minus(Stats(abs(difference.mean), difference.std, difference.n), scale=100)
    return f"{points} points {'above' if difference.mean > 0 else 'below'} dense"


def _how_sure(curve: Curve) -> str:
    """Whether the best fork epoch leads the others by more than the noise, and what else limits it."""
    ranked, metric = curves.ranked_epochs(curve), curves.selection_metric(curve)
    best, others = ranked[0], ranked[1:]
    if not others:
        return "it is the only fork epoch tried, so nothing says that it is the best"
    num_seeds = len(curves.by_seed(curve.runs[best], metric))
    words = metric.split("_")[0]
    text = _lead_text(curve, best, others, metric) if num_seeds > 2 else ""
    if num_seeds <= 2:
        text = f"with {NUMBER_WORDS[num_seeds]} nothing is known of the noise, so take it as a guess"
    if best in (min(curve.runs), max(curve.runs)):
        side, beyond = ("earliest", "an earlier") if best == min(curve.runs) else ("latest", "a later")
        text += f"; {best} is the {side} epoch tried, and {beyond} one may be better"
    return text if words == "validation" else f"{text}; chosen on the test set itself, so a little optimistic"


def _lead_text(curve: Curve, best: int, others: Sequence[int], metric: str) -> str:
    where = metric.split("_")[0]
    seeds = f"n = {len(curves.by_seed(curve.runs[best], metric))} seeds"
    rivals = [
        epoch for epoch in others if not curves.clearly_better(curve.runs[best], curve.runs[epoch], metric)
    ]
    if not rivals:
        return f"it leads every other fork epoch on {where} by more than the noise (95 %, {seeds})"
    lead = curves.paired_difference(curve.runs[best], curve.runs[rivals[0]], metric)
    if lead is not None and curves.is_zero(lead.mean):
        return f"not settled: epoch {rivals[0]} is as good on {where} ({seeds})"
    if lead is not None and not lead.std:
        return (
            f"not settled: the lead over epoch {rivals[0]} is the same in all seeds, by chance, so that its "
            f"noise is unknown ({seeds})"
        )
    noun, verb = ("epoch", "is") if len(rivals) == 1 else ("epochs", "are")
    return f"not settled: {noun} {_listed(rivals)} {verb} within the noise on {where} (95 %, {seeds})"


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


def _why_none(runs: Sequence[Run]) -> str:
    pruned = [run for run in runs if run.kind != "trunk"]
    if not pruned:
        running = any(run.status == "unfinished" for run in runs)
        return f" yet: {'the dense runs are still being trained' if running else 'no fork has been trained'}"
    stayed_dense = [run for run in pruned if run.kind == "online" and run.fork_epoch is None]
    if len(stayed_dense) == len(pruned) and not any(run.status in LOST for run in runs):
        return f": the rule {stayed_dense[0].trigger} never fired, so nothing was pruned"
    counts = [
        f"{number} {status}"
        for status in ("unfinished", *LOST, "skipped")
        if (number := sum(run.status == status for run in pruned))
    ]
    yet = " yet" if any(run.status == "unfinished" for run in runs) else ""
    return f"{yet}: no fork has finished ({', '.join(counts)})" if counts else ": no fork has a test accuracy"


def _accuracy(accuracy: Stats) -> str:
    return f"{labels.percent(accuracy, plus_minus='+-')} test accuracy"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _listed(epochs: Sequence[int]) -> str:
    """A few epochs by name, the best first; of many the first three."""
    if len(epochs) > 4:
        return f"{', '.join(map(str, epochs[:3]))} and {len(epochs) - 3} more"
    return " and ".join(filter(None, (", ".join(map(str, epochs[:-1])), str(epochs[-1]))))
