"""The figure of the rules: the epochs each chose against the best ones, and what that cost.

One row per rule, lowest mean regret first; baselines are grey squares. Matplotlib is imported on
use, pyplot never.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import drawing, formatting, replay
from earlyprune_jax.analysis.curves import Curve, Setting
from earlyprune_jax.analysis.drawing import COLORS, GREYS
from earlyprune_jax.analysis.replay import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "rules"
MAX_CURVES = 3
ROW_INCHES = 0.27
LINE_LENGTH = 46
BAND: dict[str, Any] = {"color": "#009E73", "alpha": 0.18, "linewidth": 0}
KEY = (
    "Filled marks: a fork was measured there; hollow: between two forks; crosses: outside of all, "
    "no value; ticks: the forks; band: range of the seeds' best forks. Grey squares: baselines; "
    "dotted: random time's regret."
)
BASELINES = {
    "oracle": "oracle: each seed's best fork",
    "best fixed epoch": "best fixed epoch, in hindsight",
    "end": "end: the last fork",
}


def draw(workdir: str | Path, outcomes: Sequence[Outcome]) -> list[Path]:
    """Draws figures/rules.png and .svg: two panels for each of the first three curves.

    Of several settings each has its own figure, rules_SETTING.png and .svg.

    Left: every seed's chosen epoch (filled: a fork was measured there; hollow: between two; cross:
    outside of all), over the range of the seeds' best forks. Right: mean regret, +- one
    sample standard deviation; the dotted line is random time's.

    Args:
        workdir: where `figures` lies or is made.
        outcomes: curve by curve, as `rules.replay` gives them.

    Returns:
        The paths, two a setting; nothing is written, and the list is empty, without outcomes.

    Example:
        >>> draw("no/such/workdir", ())
        []
    """
    by_setting: dict[Setting, dict[Curve, list[Outcome]]] = {}
    for one in outcomes:
        by_setting.setdefault(one.curve.setting, {}).setdefault(one.curve, []).append(one)
    stems = [drawing.stem(STEM, setting.place) for setting in by_setting]
    several = len(stems) > 1
    drawn = [_figure(setting, groups, named=several) for setting, groups in by_setting.items()]
    pictures = dict(zip(stems if several else [STEM], drawn, strict=False))
    return drawing.save_all(workdir, pictures, possible=[STEM, *stems])


def _figure(setting: Setting, groups: dict[Curve, list[Outcome]], *, named: bool) -> "Figure":
    # A rewind of what never fired is the same empty row again.
    shown = {
        curve: [one for one in group if one.mode == "now" or one.count("never") < len(one.choices)]
        for curve, group in list(groups.items())[:MAX_CURVES]
    }
    sizes = [len(group) for group in shown.values()]
    figure = drawing.blank(9.6, sum(ROW_INCHES * size + 1.15 for size in sizes) + 0.75)
    panels = figure.subplots(
        len(shown),
        2,
        squeeze=False,
        height_ratios=[size + 1.2 for size in sizes],
        width_ratios=(1.25, 1),
    )
    for (curve, group), (left, right) in zip(shown.items(), panels, strict=True):
        right.sharey(left)
        _draw_epochs(left, curve, group)
        _draw_regrets(right, curve, group)
        _name_rows(left, right, group)
    unit = formatting.difference_unit(setting.metric)
    panels[-1, 0].set_xlabel("chosen epoch, one mark per seed")
    regret = "regret against each seed's best fork"
    panels[-1, 1].set_xlabel(formatting.with_unit(regret, unit))
    more = f" ({len(shown)} of {len(groups)} curves; the others are in rules.csv)"
    where = f": {formatting.label(setting.place)}" if named else ""
    title = f"Which rule would have chosen well{where}{more * (len(groups) > len(shown))}"
    drawing.head(figure, title, KEY)
    return figure


def _draw_epochs(axes: "Axes", curve: Curve, group: Sequence[Outcome]) -> None:
    if oracle := replay.baseline(group, "oracle"):
        # Half an epoch to both sides: a single best epoch is a band too.
        axes.axvspan(oracle.epochs[0] - 0.5, oracle.epochs[-1] + 0.5, zorder=0, **BAND)
    for row, outcome in enumerate(group):
        marks: dict[str, list[tuple[float, float]]] = {}
        for index, choice in enumerate(outcome.choices):
            if choice.epoch is not None:
                # Seeds stand a little apart, or equal choices would look like one.
                height = row + 0.36 * ((index + 0.5) / len(outcome.choices) - 0.5)
                marks.setdefault(choice.status, []).append((choice.epoch, height))
        color = _color(outcome)
        for status, marked in marks.items():
            # One collection for many marks: each costs milliseconds, however few marks it holds.
            shape = _shape(outcome)
            style: dict[str, Any] = {"marker": shape if status == "measured" else "x"}
            style["color"] = color
            if status == "interpolated":
                style = {"marker": shape, "facecolors": "white", "edgecolors": color}
            axes.scatter(*zip(*marked, strict=True), s=22, linewidths=1.1, zorder=3, **style)
    top = axes.get_xaxis_transform()
    ones = [1.0] * len(curve.epochs)
    axes.plot(curve.epochs, ones, "|", color=GREYS[1], markersize=7, transform=top)
    num_epochs = curve.setting.num_epochs
    drawing.epoch_axis(axes, num_epochs)
    size = f"{formatting.plural(len(group[0].choices), 'seed')}, T = {num_epochs}"
    axes.set_title(f"{formatting.label(curve.place.kind)}; {size}", loc="left", fontsize=9.5)


def _draw_regrets(axes: "Axes", curve: Curve, group: Sequence[Outcome]) -> None:
    metric = curve.metric
    random_time = replay.baseline(group, "random time")
    if random_time and (reference := random_time.over_seeds("regret")):
        style: dict[str, Any] = {"color": GREYS[1], "linestyle": ":", "linewidth": 1.2}
        axes.axvline(metric.scale * reference.mean, zorder=1, **style)
    largest = metric.scale * 0.001
    for row, outcome in enumerate(group):
        regret, color = outcome.over_seeds("regret"), _color(outcome)
        if regret is None:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            remarks = formatting.remarks(outcome)
            axes.text(0, row, remarks, va="center", fontsize=8, color=color, bbox=box)
            continue
        mean, deviation = metric.scale * regret.mean, metric.scale * (regret.std or 0.0)
        largest = max(largest, mean + deviation)
        whiskers = {"xerr": [deviation] if deviation else None, "capsize": 2.5, "elinewidth": 1.1}
        mark = {"color": color, "marker": _shape(outcome), "markersize": 4.5, "zorder": 3}
        axes.errorbar([mean], [row], **mark, **whiskers)
        number = drawing.plus_minus(formatting.regret(outcome, unit=False))
        if not outcome.complete:
            number += f" ({outcome.num_evaluated} of {len(outcome.choices)} seeds)"
        beside = axes.get_yaxis_transform()
        axes.text(1.01, row, number, color=color, transform=beside, va="center", fontsize=8)
    axes.set_xlim(-0.03 * largest, 1.06 * largest)


def _name_rows(left: "Axes", right: "Axes", group: Sequence[Outcome]) -> None:
    left.set_ylim(len(group) - 0.4, -0.6)
    left.set_yticks(range(len(group)), [_name(outcome) for outcome in group])
    for tick, outcome in zip(left.get_yticklabels(), group, strict=True):
        tick.set_color(_color(outcome))
        tick.set_fontsize(7 if "\n" in tick.get_text() else 8.5)
    right.tick_params(axis="y", left=False, labelleft=False)
    for axes in (left, right):
        drawing.tidy(axes)
        axes.grid(axis="x", color="#ececec", linewidth=0.7)


def _name(outcome: Outcome) -> str:
    """Names the rule, shortened; a baseline with what it is, for its colour says that it is one."""
    if outcome.kind == "baseline":
        return BASELINES.get(outcome.trigger, outcome.trigger)
    name = formatting.rule_name(outcome)
    if len(name) <= LINE_LENGTH:
        return name
    # A long rule keeps its beginning and its end, which says whether it rewinds.
    return f"{name[:LINE_LENGTH]}\n... {name[4 - LINE_LENGTH :]}"


def _color(outcome: Outcome) -> str:
    return GREYS[1] if outcome.kind == "baseline" else COLORS[0]


def _shape(outcome: Outcome) -> str:
    return "s" if outcome.kind == "baseline" else "o"
