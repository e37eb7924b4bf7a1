"""The replay of rules in words and plain tables: for the terminal and the summary."""

from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis import correlation, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.regret import Grid, Outcome
from earlyprune_jax.metrics import Metric

NOTES = """Mean +- std over seeds. [Brackets]: baselines; oracle: each seed's best measured fork. {Metric} and
regret are on the test set; the best fixed epoch was chosen on validation, where there is such a split.
end: the last measured fork; random time: the mean over all epochs from the first fork to the last.
Between two measured forks the {metric} is interpolated; outside of them there is none.
Rewind: the fork at the epoch that the rule marks. All epochs up to the firing were trained dense,
and a run that rewinds itself has only the epochs after the firing left; that fork had more.
"""


def table(outcomes: Iterable[Outcome]) -> str:
    """Writes a table per curve: a row per rule, lowest mean regret first; baselines in brackets.

    Example:
        >>> table([])
        'No fork has finished yet: nothing to replay.'
    """
    groups = by_curve(outcomes)
    if not groups:
        return "No fork has finished yet: nothing to replay."
    axes = varying(found[0].curve.setting for found in groups)
    metric, parts = groups[0][0].curve.metric, []
    for found in groups:
        seeds, num_epochs = words.plural(len(found[0].choices), "seed"), found[0].num_epochs
        parts.append(f"Forks: {_label(found[0].curve, axes)}; {seeds}, T = {num_epochs} epochs")
        parts.append(words.aligned([_headings(metric), *(_row(one, metric) for one in found)]))
    name = metric.name.replace("_", " ")
    return "\n".join([*parts, NOTES.format(Metric=name.capitalize(), metric=name)])


def _headings(metric: Metric) -> tuple[str, ...]:
    test = ", ".join(filter(None, (words.named(metric), metric.unit)))
    lost = ", ".join(filter(None, ("regret", words.difference_unit(metric))))
    return "rule", "pruned after epoch", test, lost, "dense epochs saved", "remarks"


def by_curve(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """Groups outcomes by curve, in their order.

    Example:
        >>> by_curve([])
        []
    """
    groups: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.curve.place, []).append(outcome)
    return list(groups.values())


def correlation_tables(grids: Sequence[Grid]) -> str:
    """Tables the rank correlation of every measured column with fork quality, curve by curve."""
    curves = [(data, curve) for data in grids for curve in data.curves]
    axes = varying(curve.setting for _, curve in curves)
    parts = []
    for data, curve in curves:
        parts.append(
            f"Rank correlation with fork {curve.metric.name}{_better(curve)}: {_label(curve, axes)}"
        )
        rows = [
            (
                one.signal,
                words.amount(one.over_seeds, decimals=2),
                words.amount(one.epoch_itself, decimals=2),
                str(one.num_epochs),
            )
            for one in correlation.correlations(data, curve)
        ]
        headings = ("signal", "Spearman's rho", "of the epoch itself", "fork epochs")
        parts.append(words.aligned([headings, *rows]))
    return "\n".join(parts)


def _better(curve: Curve) -> str:
    return "" if curve.metric.larger_is_better else " (1: larger where the forks are better)"


def name(outcome: Outcome) -> str:
    """Names the rule with its mode; baselines in brackets."""
    if outcome.kind == "baseline":
        return f"[{outcome.trigger}]"
    return f"{outcome.trigger}, rewind" if outcome.mode == "rewind" else outcome.trigger


def phrase(outcome: Outcome) -> str:
    """Names the rule with its mode, within a sentence."""
    return f"{outcome.trigger} with a rewind" if outcome.mode == "rewind" else outcome.trigger


def remarks(outcome: Outcome) -> str:
    """Says what the means do not: seeds without a choice, without a value, with an interpolated
    one."""
    num_seeds = len(outcome.choices)
    parts = [
        f"{told} in {count} of {words.plural(num_seeds, 'seed')}"
        for status, told in (
            ("never", "never fired"),
            ("outside", "outside the forks"),
            ("diverged", "at a fork that diverged"),
            ("interpolated", "interpolated"),
        )
        if (count := outcome.count(status))
    ]
    return ", ".join(parts)


def regret_words(outcome: Outcome) -> str:
    """Writes the regret with its unit.

    A mean of 0 without spread is exact, not noise.
    """
    interpolated = " (interpolated)" if outcome.count("interpolated") else ""
    lost = words.difference(
        outcome.over_seeds("regret"), outcome.curve.metric, decimals=1, sign=False
    )
    return f"{lost}{interpolated}"


def best_rule(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Finds the rule, no baseline, of the lowest mean regret among those with a value in every
    seed."""
    return next((one for one in outcomes if one.kind == "rule" and one.complete), None)


def baseline(outcomes: Sequence[Outcome], trigger: str) -> Outcome | None:
    """Finds the baseline of that name if it has a value in every seed."""
    return next((one for one in outcomes if one.trigger == trigger and one.complete), None)


def rules_sentence(outcomes: Sequence[Outcome]) -> str:
    """Sums one curve's outcomes up: the best rule against random time and fixed fractions."""
    num_rules = len({one.trigger for one in outcomes if one.kind == "rule"})
    best = best_rule(outcomes)
    if best is None:
        text = (
            "no rule chose an epoch among the measured forks in every seed"
            if num_rules
            else "no rule to replay"
        )
    else:
        hindsight = f"best of {num_rules} in hindsight" if num_rules > 1 else "the only rule"
        text = f"{phrase(best)} ({hindsight}): {epochs_words(best)}, regret {regret_words(best)}"
    others = [one for key in ("random time", "fixed 30 %") if (one := baseline(outcomes, key))]
    compared = ", ".join(f"{one.trigger} {regret_words(one)}" for one in others)
    return f"{text}; {compared}." if compared else f"{text}."


def epochs_words(outcome: Outcome) -> str:
    """Writes the epochs chosen: epoch 8, or epochs 5 to 9.

    A random time has no epoch of its own.
    """
    chosen = sorted({round(choice.epoch) for choice in outcome.choices if choice.epoch is not None})
    return words.epochs(chosen) if chosen else "no epoch"


def _label(curve: Curve, setting_axes: Sequence[str]) -> str:
    """The curve's place; its setting first, where there are several."""
    hidden = [axis for axis in curve.setting.axes if axis not in setting_axes]
    return words.label(curve.place.without(*hidden))


def _row(outcome: Outcome, metric: Metric) -> tuple[str, ...]:
    return (
        name(outcome),
        words.amount(outcome.over_seeds("epoch")),
        words.amount(outcome.over_seeds("test"), metric, unit=False),
        words.difference(outcome.over_seeds("regret"), metric, decimals=1, sign=False).removesuffix(
            f" {words.difference_unit(metric)}"
        ),
        words.amount(outcome.saved_epochs),
        remarks(outcome),
    )
