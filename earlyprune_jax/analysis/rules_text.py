"""The replay of rules in words and plain tables: for the terminal and the summary."""

from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis import correlation, words
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.regret import Grid, Outcome

NOTES = """\
Mean +- std over seeds. [Brackets]: baselines; oracle: each seed's best measured fork. {Metric}
and regret are on the test set; the best fixed epoch was chosen on validation, where there is any.
end: the last measured fork; random time: the mean over all epochs from the first fork to the last.
Between two measured forks the {metric} is interpolated; outside of them there is none.
Rewind: the fork at the epoch that the rule marks. All epochs up to the firing were trained dense,
and a run that rewinds itself has only the epochs after the firing left; that fork had more.
"""
STATUSES = {
    "never": "never fired",
    "outside": "outside the forks",
    "diverged": "at a fork that diverged",
    "interpolated": "interpolated",
}


def table(outcomes: Iterable[Outcome]) -> str:
    """Writes a table per curve: a row per rule, lowest mean regret first; baselines in brackets.

    Example:
        >>> table([])
        'No fork has finished yet: nothing to replay.'
    """
    groups = by_curve(outcomes)
    if not groups:
        return "No fork has finished yet: nothing to replay."
    places, metric = [own[0].curve.place for own in groups], groups[0][0].curve.metric
    test, lost = words.named(metric), words.difference_unit(metric)
    headings = (
        "rule",
        "pruned after epoch",
        ", ".join(filter(None, (test, metric.unit))),
        ", ".join(filter(None, ("regret", lost))),
        "dense epochs saved",
        "remarks",
    )
    parts = []
    for place, own in zip(places, groups, strict=True):
        seeds = words.plural(len(own[0].choices), "seed")
        label = words.label(place, [*place.kind.axes, *varying(places)])
        parts.append(f"Forks: {label}; {seeds}, T = {own[0].num_epochs} epochs")
        parts.append(words.aligned([headings, *map(_row, own)]))
    name = metric.name.replace("_", " ")
    return "\n".join([*parts, NOTES.format(Metric=name.capitalize(), metric=name)])


def _row(outcome: Outcome) -> tuple[str, ...]:
    metric = outcome.curve.metric
    return (
        name(outcome),
        words.amount(outcome.over_seeds("epoch")),
        words.amount(outcome.over_seeds("test"), metric, unit=False),
        regret_words(outcome, unit=False),
        words.amount(outcome.saved_epochs),
        remarks(outcome),
    )


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
    axes, parts = varying(curve.place for _, curve in curves), []
    headings = ("signal", "Spearman's rho", "of the epoch itself", "fork epochs")
    for data, curve in curves:
        metric, label = curve.metric, words.label(curve.place, [*curve.place.kind.axes, *axes])
        better = "" if metric.larger_is_better else " (1: larger where the forks are better)"
        parts.append(f"Rank correlation with fork {metric.name}{better}: {label}")
        rows = [
            (
                one.signal,
                words.amount(one.over_seeds, decimals=2),
                words.amount(one.epoch_itself, decimals=2),
                str(one.num_epochs),
            )
            for one in correlation.correlations(data, curve)
        ]
        parts.append(words.aligned([headings, *rows]))
    return "\n".join(parts)


def name(outcome: Outcome) -> str:
    """Names the rule with its mode; baselines in brackets."""
    if outcome.kind == "baseline":
        return f"[{outcome.trigger}]"
    return f"{outcome.trigger}, rewind" if outcome.mode == "rewind" else outcome.trigger


def remarks(outcome: Outcome) -> str:
    """Says what the means do not: seeds without a choice, without a value, with an interpolated
    one."""
    seeds = words.plural(len(outcome.choices), "seed")
    counts = {status: outcome.count(status) for status in STATUSES}
    return ", ".join(
        f"{STATUSES[status]} in {count} of {seeds}" for status, count in counts.items() if count
    )


def regret_words(outcome: Outcome, *, unit: bool = True) -> str:
    """Writes the mean regret. A mean of 0 without spread is exact, not noise."""
    regret = outcome.over_seeds("regret")
    return words.difference(regret, outcome.curve.metric, decimals=1, sign=False, unit=unit)


def best_rule(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Finds the rule, no baseline, of the lowest mean regret among those with a value in every
    seed."""
    return next((one for one in outcomes if one.kind == "rule" and one.complete), None)


def baseline(outcomes: Sequence[Outcome], trigger: str) -> Outcome | None:
    """Finds the baseline of that name if it has a value in every seed."""
    return next((one for one in outcomes if one.trigger == trigger and one.complete), None)


def epochs_chosen(outcome: Outcome) -> list[int]:
    """Lists the whole epochs that the seeds chose, ascending."""
    return sorted({round(choice.epoch) for choice in outcome.choices if choice.epoch is not None})
