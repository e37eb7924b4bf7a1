"""The replay of rules in words and plain tables: for the terminal and the summary."""

from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis import correlation
from earlyprune_jax.analysis.curves import Curve, Stats
from earlyprune_jax.analysis.labels import curve_label, setting_label, varying_settings
from earlyprune_jax.analysis.regret import Grid, Outcome

HEADINGS = (
    "rule",
    "pruned after epoch",
    "test accuracy, %",
    "regret, points",
    "dense epochs saved",
    "remarks",
)

NOTES = """Mean +- std over seeds. [Brackets]: baselines; oracle: each seed's best measured fork. Accuracy and
regret are on the test set; the best fixed epoch was chosen on validation, where there is such a split.
end: the last measured fork; random time: the mean over all epochs from the first fork to the last.
Between two measured forks accuracy is interpolated; outside of them there is none.
Rewind: the fork at the epoch that the rule marks. All epochs up to the firing were trained dense,
and a run that rewinds itself has only the epochs after the firing left; that fork had more.
"""


def table(outcomes: Iterable[Outcome]) -> str:
    """A table a curve: a row a rule, lowest mean regret first; baselines in brackets.

    Example:
        >>> table([])
        'No fork has finished yet: nothing to replay.'
    """
    groups = by_curve(outcomes)
    if not groups:
        return "No fork has finished yet: nothing to replay."
    axes = varying_settings(found[0].curve.setting for found in groups)
    parts = []
    for found in groups:
        seeds, epochs, label = len(found[0].choices), found[0].num_epochs, _label(found[0].curve, axes)
        parts.append(f"Forks: {label}; {seeds} seed{'s' * (seeds != 1)}, T = {epochs} epochs")
        parts.append(aligned([HEADINGS, *map(_row, found)]))
    return "\n".join([*parts, NOTES])


def by_curve(outcomes: Iterable[Outcome]) -> list[list[Outcome]]:
    """The outcomes of each curve, in their order.

    Example:
        >>> by_curve([])
        []
    """
    groups: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.curve.key, []).append(outcome)
    return list(groups.values())


def correlation_tables(grids: Sequence[Grid]) -> str:
    """Rank correlation of every measured column with fork accuracy, a line a curve and column."""
    curves = [(data, curve) for data in grids for curve in data.curves]
    axes = varying_settings(curve.setting for _, curve in curves)
    parts = []
    for data, curve in curves:
        parts.append(f"Rank correlation with fork accuracy: {_label(curve, axes)}")
        rows = [
            (
                one.signal,
                plus_minus(one.over_seeds, decimals=2),
                plus_minus(one.epoch_itself, decimals=2),
                str(one.num_epochs),
            )
            for one in correlation.correlations(data, curve)
        ]
        parts.append(aligned([("signal", "Spearman's rho", "of the epoch itself", "fork epochs"), *rows]))
    return "\n".join(parts)


def name(outcome: Outcome) -> str:
    """The rule with its mode; baselines in brackets."""
    if outcome.kind == "baseline":
        return f"[{outcome.trigger}]"
    return f"{outcome.trigger}, rewind" if outcome.mode == "rewind" else outcome.trigger


def phrase(outcome: Outcome) -> str:
    """The rule with its mode, within a sentence."""
    return f"{outcome.trigger} with a rewind" if outcome.mode == "rewind" else outcome.trigger


def remarks(outcome: Outcome) -> str:
    """What the means do not say: seeds without a choice, without an accuracy, with an interpolated one."""
    num_seeds = len(outcome.choices)
    parts = [
        f"{words} in {count} of {num_seeds} seed{'s' * (num_seeds != 1)}"
        for status, words in (
            ("never", "never fired"),
            ("outside", "outside the forks"),
            ("diverged", "at a fork that diverged"),
            ("interpolated", "interpolated"),
        )
        if (count := outcome.count(status))
    ]
    return ", ".join(parts)


def plus_minus(found: Stats | None, *, decimals: int = 1, scale: float = 1.0) -> str:
    """Mean +- std, or a dash.

    Example:
        >>> plus_minus(Stats(0.0123, 0.004, 3), scale=100), plus_minus(None)
        ('1.2 +- 0.4', '-')
    """
    if found is None:
        return "-"
    spread = "" if found.std is None else f" +- {scale * found.std:.{decimals}f}"
    return f"{scale * found.mean:.{decimals}f}{spread}"


def regret_words(outcome: Outcome) -> str:
    """The regret in points.

    A mean of 0 without spread is exact, not noise.
    """
    interpolated = " (interpolated)" if outcome.count("interpolated") else ""
    return f"{plus_minus(outcome.over_seeds('regret'), scale=100)} points{interpolated}"


def best_rule(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The rule, no baseline, of the lowest mean regret among those with an accuracy in every seed."""
    return next((one for one in outcomes if one.kind == "rule" and one.complete), None)


def baseline(outcomes: Sequence[Outcome], trigger: str) -> Outcome | None:
    """The baseline of that name if it has an accuracy in every seed."""
    return next((one for one in outcomes if one.trigger == trigger and one.complete), None)


def rules_sentence(outcomes: Sequence[Outcome]) -> str:
    """One curve's outcomes in a sentence: the best rule against random time and fixed fractions."""
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
    """The epochs chosen: epoch 8, or epochs 5 to 9.

    A random time has no epoch of its own.
    """
    chosen = sorted({round(choice.epoch) for choice in outcome.choices if choice.epoch is not None})
    if not chosen:
        return "no epoch"
    return f"epoch {chosen[0]}" if len(chosen) == 1 else f"epochs {chosen[0]} to {chosen[-1]}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of equal width, indented.

    Example:
        >>> print(aligned([("a", "b"), ("long", "c")]))
          a     b
          long  c
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _label(curve: Curve, setting_axes: Sequence[str]) -> str:
    """The curve's place; its setting first, where there are several."""
    setting = setting_label(curve.setting, setting_axes) if setting_axes else ""
    return ", ".join(filter(None, (setting, curve_label(curve))))


def _row(outcome: Outcome) -> tuple[str, ...]:
    return (
        name(outcome),
        plus_minus(outcome.over_seeds("epoch")),
        plus_minus(outcome.over_seeds("test_accuracy"), scale=100),
        plus_minus(outcome.over_seeds("regret"), scale=100),
        plus_minus(outcome.saved_epochs),
        remarks(outcome),
    )
