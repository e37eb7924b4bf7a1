"""Words for numbers, places and signals: tables, figures and text speak alike."""

import math
import textwrap
from collections.abc import Container, Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.replay import Outcome
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats
from earlyprune_jax.metrics import PERCENT, Metric

WIDTH = 100
LONGEST = 24
"""Characters of a config's value in a table."""
STATUSES = {
    "never": "never fired",
    "outside": "outside the forks",
    "diverged": "at a fork that diverged",
    "interpolated": "interpolated",
}
"""What is remarked of a rule's choices, by their status."""


def amount(
    found: Stats | None,
    metric: Metric | None = None,
    *,
    decimals: int = 1,
    sign: bool = False,
    unit: bool = True,
    points: bool = False,
) -> str:
    """Writes mean +- std in a metric's unit; the spread only where there is one, a dash without a
    mean.

    Args:
        found: in the metric's own direction, fractions where it is shown in percent.
        metric: None for numbers without a unit.
        decimals: at least; small numbers of other units than percent get more.
        sign: write + before positive means.
        unit: write the unit behind.
        points: of a difference: percents are points.

    Returns:
        The text.

    Example:
        >>> amount(Stats(0.946, 0.012, 3), Metric("score", "%")), amount(None)
        ('94.6 +- 1.2 %', '-')
        >>> amount(Stats(0.0312, None, 1), Metric("loss", "nats"), sign=True)
        '+0.031 nats'
    """
    if found is None:
        return "-"
    scale = metric.scale if metric else 1.0
    mean, std = scale * found.mean, None if found.std is None else scale * found.std
    if metric and metric.unit != PERCENT:
        decimals = max(decimals, 2)
        if mean:
            # Two digits at least of a small number.
            decimals = min(max(decimals, 1 - math.floor(math.log10(abs(mean)))), 6)
    spread = "" if std is None else f" +- {std:.{decimals}f}"
    behind = (difference_unit(metric) if points else metric.unit) if unit and metric else ""
    return f"{mean:{'+' if sign else ''}.{decimals}f}{spread} {behind}".rstrip()


def difference(found: Stats | None, metric: Metric, **options: Any) -> str:
    """Writes a difference of metrics: in points where they are percents.

    Args:
        found: in the metric's own unit: fractions where it is shown in percent.
        metric: of both.
        **options: of `amount`; two decimals and a sign if these are not given.

    Returns:
        The text.

    Example:
        >>> difference(Stats(0.0123, 0.004, 3), Metric("score", "%"))
        '+1.23 +- 0.40 points'
        >>> difference(Stats(-0.0123, None, 1), Metric("loss", "nats"))
        '-0.012 nats'
    """
    return amount(found, metric, points=True, **({"decimals": 2, "sign": True} | options))


def difference_unit(metric: Metric) -> str:
    """Names the unit of a difference: points for percents.

    Example:
        >>> difference_unit(Metric("score", "%")), difference_unit(Metric("grade"))
        ('points', '')
    """
    return "points" if metric.unit == PERCENT else metric.unit


def named(metric: Metric, split: str = "test") -> str:
    """Names the metric of a split.

    Example:
        >>> named(Metric("word_error", "%"), "validation")
        'validation word error'
    """
    return f"{split} {metric.name.replace('_', ' ')}"


def with_unit(text: str, unit: str) -> str:
    """Puts a unit in parentheses behind a text, as on an axis.

    Example:
        >>> with_unit("test loss", "nats"), with_unit("test grade", "")
        ('test loss (nats)', 'test grade')
    """
    return f"{text} ({unit})" if unit else text


def axis_label(metric: Metric, split: str = "test") -> str:
    """Names the metric of a split and its unit.

    Example:
        >>> axis_label(Metric("loss", "nats", larger_is_better=False))
        'test loss (nats)'
    """
    return with_unit(named(metric, split), metric.unit)


def share(fraction: float) -> str:
    """Writes a share in percent: below ten with two digits, so that little is not called nothing.

    Example:
        >>> share(0.244), share(0.0012)
        ('24 %', '0.12 %')
    """
    return f"{100 * fraction:.0f} %" if fraction >= 0.095 else f"{100 * fraction:.2g} %"


def plural(number: int, noun: str) -> str:
    """Writes a number and its noun.

    Example:
        >>> plural(1, "seed"), plural(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def coverage(runs: Runs) -> list[str]:
    """Says how many runs no table and no mean holds, and how many the last session did not plan;
    nothing where all that is planned is there, and ended."""
    unfinished = int((runs.frame["status"] == "unfinished").sum())
    parts = [plural(unfinished, "unfinished run")] if unfinished else []
    if runs.num_missing:
        parts.append(f"{plural(runs.num_missing, 'planned run')} not begun, or lost")
    sentences = [f"Left out: {', '.join(parts)}."] if parts else []
    if runs.num_missing is None:
        sentences.append("How many runs are planned is not known: there is no plan.json.")
    if runs.num_more:
        sentences.append(f"Counted, and not of the last session: {plural(runs.num_more, 'run')}.")
    return sentences


def listed(values: Sequence[Any], at_most: int = 1000) -> str:
    """Joins values as in a sentence; of more than `at_most` the first ones.

    Example:
        >>> listed([90, 93, 95]), listed([90]), listed([4, 8, 12, 16, 20], at_most=3)
        ('90, 93 and 95', '90', '4, 8, 12 and 2 more')
    """
    texts = [str(value) for value in values]
    if len(texts) > at_most:
        texts = [*texts[:at_most], f"{len(texts) - at_most} more"]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))


def span(values: Sequence[Any], joined: str = " to ") -> str:
    """Writes the range of sorted values; a single one as it is.

    Example:
        >>> span([5, 7, 9]), span([8, 8])
        ('5 to 9', '8')
    """
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]}{joined}{values[-1]}"


def epochs(values: Sequence[int]) -> str:
    """Writes sorted epochs: epoch 8, or epochs 5 to 9.

    Example:
        >>> epochs([5, 7, 9]), epochs([8])
        ('epochs 5 to 9', 'epoch 8')
    """
    return f"epoch{'s' * (values[0] != values[-1])} {span(values)}"


def removed(sparsity: float) -> str:
    """Writes a sparsity in percent, without a sign.

    Example:
        >>> removed(0.95), removed(0.9975)
        ('95', '99.75')
    """
    return f"{100 * sparsity:.6g}"


def percents(sparsities: Sequence[float]) -> str:
    """Writes sparsities as in a sentence.

    Example:
        >>> percents([0.9, 0.95])
        '90 and 95 %'
    """
    return f"{listed([removed(sparsity) for sparsity in sparsities])} %"


def label(place: Place, axes: Container[str] | None = None) -> str:
    """Says where runs, a curve or a grid lie, on all or some of the axes where it has a value.

    Example:
        >>> setting = (("model", "resnet8"), ("train_fraction", 0.1), ("optim.weight_decay", 5e-4))
        >>> fork = (("criterion", "magnitude"), ("sparsity", 0.97), ("retraining", "paper_a"))
        >>> place = Place((*setting, *fork))
        >>> label(place.setting)
        'resnet8, 10 % of the training data, weight_decay 0.0005'
        >>> label(place, ["criterion", "sparsity", "retraining"])
        'magnitude, 97 % removed, retrained by paper_a'
    """
    return ", ".join(
        _word(axis, value)
        for axis, value in place.items
        if value is not None and (axes is None or axis in axes)
    )


def cell(axis: str, value: Any) -> str:
    """Writes the value of an axis in a table: a dash where there is none, of a long one its
    beginning.

    Example:
        >>> cell("sparsity", 0.97), cell("optim.betas", (0.9, 0.99)), cell("optim.momentum", None)
        ('97 %', '0.9 0.99', '-')
    """
    if value is None:
        return "-"
    if axis == "sparsity":
        return f"{removed(value)} %"
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    is_long = "." in axis and len(text) > LONGEST
    return f"{text[: LONGEST - 3]}..." if is_long else text


def _word(axis: str, value: Any) -> str:
    if axis == "train_fraction":
        return f"{f'{100 * value:.6g} % of the' if value != 1 else 'all'} training data"
    if axis == "schedule":
        return f"{value} schedule"
    if axis == "sparsity":
        return f"{removed(value)} % removed"
    if axis == "retraining":
        return f"retrained by {value}"
    section, _, leaf = axis.partition(".")
    return f"{section if leaf == 'name' else leaf} {value}" if leaf else str(value)


def signal_label(name: str, config: Mapping[str, Any], *, short: bool = False) -> str:
    """Names a signal for readers.

    Args:
        name: a column of signals.csv.
        config: of the study, {section: {key: value}}.
        short: leave out which parameters it sums over.

    Returns:
        The name; that of a signal not known here without its unit.

    Example:
        >>> signal_label("fisher_trace", {"signals": {"fisher_layers": "conv_kernels"}})
        'tr(F), conv kernels'
        >>> signal_label("fisher_trace", {"signals": {"fisher_layers": ""}})
        'tr(F)'
        >>> signal_label("kl_uniform_bits", {})
        'KL_uniform'
    """
    layers = config.get("signals", {}).get("fisher_layers", "prunable kernels").replace("_", " ")
    known = {
        "fisher_trace": ("tr(F)", f", {layers}" if layers else ""),
        "fisher_trace_all": ("tr(F)", ", all parameters"),
        "kl_uniform_bits": ("KL_uniform", ""),
        "kl_uniform": ("KL_uniform", ""),
        "random_distance": ("random distance", ""),
    }
    base, detail = known.get(name, (name.removesuffix(_unit_suffix(name)), ""))
    return base if short else base + detail


def quantity(value: float, signal: str) -> str:
    """Writes a signal's value with three digits at least, and its unit.

    Example:
        >>> quantity(1291.2, "fisher_trace"), quantity(14.04, "kl_uniform_bits")
        ('1291', '14.0 bits')
    """
    magnitude = abs(value)
    digits = f"{value:.0f}" if 100 <= magnitude < 1e6 else f"{value:#.3g}"
    return digits.rstrip(".") + _unit_suffix(signal).replace("_", " ")


def peak_label(peak: Peak) -> str:
    """Says how large the signal gets, and where; and where that is no interior peak.

    Example:
        >>> peak_label(Peak("fisher_trace", None, 10, 186.2, None, (9, 11), False))
        'peak 186 at epoch 10'
        >>> peak_label(Peak("kl_uniform_bits", None, 40, 3.0, "last", (36, 40), False))
        'maximum 3.00 bits at last epoch 40 (no peak)'
        >>> peak_label(Peak("kl_uniform_bits", None, 32, 3.0, None, (21, 40), True))
        'maximum 3.00 bits at epoch 32 (flat 21-40)'
    """
    value = quantity(peak.value, peak.signal)
    if peak.edge:
        return f"maximum {value} at {peak.edge} epoch {peak.epoch} (no peak)"
    if peak.flat:
        return f"maximum {value} at epoch {peak.epoch} (flat {span(peak.plateau, '-')})"
    return f"peak {value} at epoch {peak.epoch}"


def rule_name(outcome: Outcome) -> str:
    """Names the rule with its mode; baselines in brackets."""
    if outcome.kind == "baseline":
        return f"[{outcome.trigger}]"
    return f"{outcome.label}, rewind" if outcome.mode == "rewind" else outcome.label


def remarks(outcome: Outcome) -> str:
    """Says what the mean does not: that there are seeds, all or some, without a choice, without a
    value, or with an interpolated one."""
    total = len(outcome.choices)
    counts = ((words, outcome.count(status)) for status, words in STATUSES.items())
    return ", ".join(
        words if count == total else f"{words} in {count} of {total}"
        for words, count in counts
        if count
    )


def regret(outcome: Outcome, *, unit: bool = True) -> str:
    """Writes the mean regret. A mean of 0 without spread is exact, not noise."""
    mean = outcome.over_seeds("regret")
    return difference(mean, outcome.curve.metric, decimals=1, sign=False, unit=unit)


def _unit_suffix(name: str) -> str:
    return next((suffix for suffix in ("_bits", "_nats") if name.endswith(suffix)), "")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Sets rows as columns of equal width, indented.

    Example:
        >>> print(aligned([("a", "b"), ("long", "c")]))
          a     b
          long  c
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def wrapped(paragraph: str) -> str:
    """Fills a paragraph to lines of 100 characters; what follows its first line is indented."""
    indent = " " * (len(paragraph) - len(paragraph.lstrip()))
    # A long path must stay in one piece, to be copied.
    return textwrap.fill(
        paragraph,
        WIDTH,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
