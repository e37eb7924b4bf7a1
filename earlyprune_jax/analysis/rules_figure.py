"""The figure of the rules: the epochs each chose against the best ones, and what that cost.

One row per rule, lowest mean regret first; baselines grey. Matplotlib is imported on use, pyplot
never.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import drawing, rules_text, words
from earlyprune_jax.analysis.drawing import COLORS, GREYS
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regret import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "rules"
MAX_CURVES = 3
ROW_INCHES = 0.27
LINE_LENGTH = 46
BAND: dict[str, Any] = {"color": "#009E73", "alpha": 0.18, "linewidth": 0}
BASELINES = {
    "oracle": "oracle: each seed's best fork",
    "best fixed epoch": "best fixed epoch, in hindsight",
    "end": "end: the last fork",
}


def draw(workdir: str | Path, outcomes: Sequence[Outcome], *, several: bool = False) -> list[Path]:
    """Draws figures/rules.png and .svg: two panels for each of the first three curves.

    Of several settings each has its own figure, rules_SETTING.png and .svg.

    Left: every seed's chosen epoch (filled: a fork was measured there; hollow: between two; cross:
    outside of all), over the range of the seeds' best forks. Right: mean regret, +- one
    sample standard deviation; the dotted line is random time's.

    Args:
        workdir: where `figures` lies or is made.
        outcomes: curve by curve, as `rules.replay` gives them.
        several: whether the workdir holds more than one setting.

    Returns:
        The paths, two a setting; nothing is written, and the list is empty, without outcomes.

    Example:
        >>> draw("no/such/workdir", ())
        []
    """
    by_setting: dict[Place, list[Outcome]] = {}
    for outcome in outcomes:
        by_setting.setdefault(outcome.curve.setting, []).append(outcome)
    pictures = {
        drawing.stem(STEM, setting if several else None): _figure(own, named=several)
        for setting, own in by_setting.items()
    }
    possible = [STEM, *(drawing.stem(STEM, setting) for setting in by_setting)]
    return drawing.save_all(workdir, pictures, possible=possible)


def _figure(outcomes: Sequence[Outcome], *, named: bool) -> "Figure":
    # A rewind of what never fired is the same empty row again.
    groups = [
        [one for one in group if one.mode == "now" or one.count("never") < len(one.choices)]
        for group in rules_text.by_curve(outcomes)
    ]
    shown = groups[:MAX_CURVES]
    sizes = [len(group) for group in shown]
    figure = drawing.blank(9.6, sum(ROW_INCHES * size + 1.15 for size in sizes) + 0.75)
    ratios: dict[str, Any] = {
        "height_ratios": [size + 1.2 for size in sizes],
        "width_ratios": (1.25, 1),
    }
    panels = figure.subplots(len(shown), 2, squeeze=False, gridspec_kw=ratios)
    for group, (left, right) in zip(shown, panels, strict=True):
        right.sharey(left)
        _draw_epochs(left, group)
        _draw_regrets(right, group)
        _name_rows(left, right, group)
    unit = words.difference_unit(outcomes[0].curve.metric)
    panels[-1, 0].set_xlabel("chosen epoch, one mark per seed")
    panels[-1, 1].set_xlabel(
        ", ".join(filter(None, ("regret against each seed's best fork", unit)))
    )
    hidden = len(groups) - len(shown)
    more = f" ({len(shown)} of {len(groups)} curves; the others are in rules.csv)" if hidden else ""
    where = f": {words.label(outcomes[0].curve.setting)}" if named else ""
    title = f"Which rule would have chosen well{where}{more}"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    drawing.add_legend(figure, _legend())
    return figure


def _draw_epochs(axes: "Axes", group: Sequence[Outcome]) -> None:
    curve, num_epochs = group[0].curve, group[0].num_epochs
    oracle = rules_text.baseline(group, "oracle")
    best = [choice.epoch for choice in oracle.choices if choice.epoch is not None] if oracle else []
    if best:
        # Half an epoch to both sides: a single best epoch is a band too.
        axes.axvspan(min(best) - 0.5, max(best) + 0.5, zorder=0, **BAND)
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
            style: dict[str, Any] = {"marker": "o" if status == "measured" else "x", "color": color}
            if status == "interpolated":
                style = {"marker": "o", "facecolors": "white", "edgecolors": color}
            axes.scatter(*zip(*marked, strict=True), s=22, linewidths=1.1, zorder=3, **style)
    ticks: dict[str, Any] = {
        "color": GREYS[1],
        "markersize": 7,
        "transform": axes.get_xaxis_transform(),
    }
    axes.plot(curve.epochs, [1.0] * len(curve.epochs), "|", **ticks)
    drawing.epoch_axis(axes, num_epochs)
    size = f"{words.plural(len(group[0].choices), 'seed')}, T = {num_epochs}"
    place = words.label(curve.place.without(*curve.setting.axes))
    axes.set_title(f"{place}; {size}", loc="left", fontsize=9.5)


def _draw_regrets(axes: "Axes", group: Sequence[Outcome]) -> None:
    metric = group[0].curve.metric
    random_time = rules_text.baseline(group, "random time")
    reference = random_time.over_seeds("regret") if random_time else None
    if reference:
        line: dict[str, Any] = {"color": GREYS[1], "linestyle": ":", "linewidth": 1.2, "zorder": 1}
        axes.axvline(metric.scale * reference.mean, **line)
    largest = metric.scale * 0.001
    for row, outcome in enumerate(group):
        regret, color = outcome.over_seeds("regret"), _color(outcome)
        if regret is None:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            remarks = rules_text.remarks(outcome)
            axes.text(0, row, remarks, va="center", fontsize=8, color=color, bbox=box)
            continue
        mean, deviation = metric.scale * regret.mean, metric.scale * (regret.std or 0.0)
        largest = max(largest, mean + deviation)
        style: dict[str, Any] = {
            "marker": "o",
            "markersize": 4.5,
            "capsize": 2.5,
            "elinewidth": 1.1,
            "zorder": 3,
        }
        axes.errorbar([mean], [row], xerr=[deviation] if deviation else None, color=color, **style)
        lost = words.difference(regret, metric, decimals=1, sign=False)
        lost = drawing.spread(lost.removesuffix(f" {words.difference_unit(metric)}"))
        of_seeds = f" ({outcome.num_evaluated} of {len(outcome.choices)} seeds)"
        lost += "" if outcome.complete else of_seeds
        beside: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "va": "center",
            "fontsize": 8,
        }
        axes.annotate(lost, (1.01, row), color=color, **beside)
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
    name = rules_text.name(outcome)
    if len(name) <= LINE_LENGTH:
        return name
    lines = textwrap.wrap(name, LINE_LENGTH)
    # A long rule keeps its beginning and its end, which says whether it rewinds.
    return f"{lines[0]}\n{lines[1] if len(lines) == 2 else '... ' + name[4 - LINE_LENGTH :]}"


def _color(outcome: Outcome) -> str:
    return GREYS[1] if outcome.kind == "baseline" else COLORS[0]


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dark, grey = GREYS[:2]
    marks: dict[str, dict[str, Any]] = {
        "rule": {"marker": "o", "color": COLORS[0]},
        "baseline": {"marker": "o", "color": grey},
        "measured fork epoch": {"marker": "|", "color": grey, "markersize": 8},
        "between forks": {"marker": "o", "color": dark, "markerfacecolor": "white"},
        "outside all forks: no value": {"marker": "x", "color": dark},
    }
    handles = [Line2D([], [], linestyle="", label=label, **mark) for label, mark in marks.items()]
    random_time = Line2D([], [], linestyle=":", color=grey, label="random time's regret")
    return [*handles, Patch(label="range of the seeds' best forks", **BAND), random_time]
