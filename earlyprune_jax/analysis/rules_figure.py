"""The figure of the rules: the epochs each chose against the best ones, and what that cost.

A row a rule, lowest mean regret first; baselines grey. Matplotlib is imported on use, pyplot never.
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
BAND = "#009E73"
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
    grid = figure.add_gridspec(
        len(shown), 2, height_ratios=[size + 1.2 for size in sizes], width_ratios=(1.25, 1)
    )
    for row, group in enumerate(shown):
        left = figure.add_subplot(grid[row, 0])
        right = figure.add_subplot(grid[row, 1], sharey=left)
        _draw_epochs(left, group, is_last=row == len(shown) - 1)
        _draw_regrets(right, group, is_last=row == len(shown) - 1)
        _name_rows(left, right, group)
    hidden = len(groups) - len(shown)
    more = f" ({len(shown)} of {len(groups)} curves; the others are in rules.csv)" if hidden else ""
    where = f": {words.label(outcomes[0].curve.setting)}" if named else ""
    figure.suptitle(
        f"Which rule would have chosen well{where}{more}", x=0.01, ha="left", weight="bold"
    )
    figure.legend(handles=_legend(), loc="outside lower left", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _draw_epochs(axes: "Axes", group: Sequence[Outcome], *, is_last: bool) -> None:
    oracle = rules_text.baseline(group, "oracle")
    best = [choice.epoch for choice in oracle.choices if choice.epoch is not None] if oracle else []
    if best:
        # Half an epoch to both sides: a single best epoch is a band too.
        axes.axvspan(
            min(best) - 0.5, max(best) + 0.5, color=BAND, alpha=0.18, linewidth=0, zorder=0
        )
    for row, outcome in enumerate(group):
        marks: dict[str, list[tuple[float, float]]] = {}
        for index, choice in enumerate(outcome.choices):
            if choice.epoch is not None:
                # Seeds stand a little apart, or equal choices would look like one.
                height = row + 0.36 * ((index + 0.5) / len(outcome.choices) - 0.5)
                marks.setdefault(choice.status, []).append((choice.epoch, height))
        for status, places in marks.items():
            # One collection for many marks: each costs milliseconds, however few marks it holds.
            axes.scatter(
                *zip(*places, strict=True),
                s=22,
                linewidths=1.1,
                zorder=3,
                **_style(status, outcome),
            )
    forks = list(group[0].curve.epochs)
    axes.plot(
        forks,
        [1.0] * len(forks),
        "|",
        color=GREYS[1],
        transform=axes.get_xaxis_transform(),
        markersize=7,
    )
    drawing.epoch_axis(axes, group[0].num_epochs)
    size = f"{words.plural(len(group[0].choices), 'seed')}, T = {group[0].num_epochs}"
    place = group[0].curve.place
    axes.set_title(
        f"{words.label(place.without(*place.setting.axes))}; {size}", loc="left", fontsize=9.5
    )
    axes.set_xlabel("chosen epoch, one mark a seed" if is_last else "")


def _draw_regrets(axes: "Axes", group: Sequence[Outcome], *, is_last: bool) -> None:
    metric = group[0].curve.metric
    random_time = rules_text.baseline(group, "random time")
    reference = random_time.over_seeds("regret") if random_time else None
    if reference:
        axes.axvline(
            metric.scale * reference.mean, color=GREYS[1], linestyle=":", linewidth=1.2, zorder=1
        )
    ends = [metric.scale * 0.001]
    for row, outcome in enumerate(group):
        found = outcome.over_seeds("regret")
        place, told = (0.015, row), rules_text.remarks(outcome)
        if found:
            mean, std = metric.scale * found.mean, metric.scale * (found.std or 0.0)
            style = {
                "color": _color(outcome),
                "marker": "o",
                "markersize": 4.5,
                "capsize": 2.5,
                "zorder": 3,
            }
            axes.errorbar([mean], [row], xerr=[std] if std else None, elinewidth=1.1, **style)
            ends.append(mean + std)
            lost = words.difference(found, metric, decimals=1, sign=False)
            place, told = (
                (1.01, row),
                drawing.spread(lost.removesuffix(f" {words.difference_unit(metric)}")),
            )
            told += (
                ""
                if outcome.complete
                else f" ({outcome.num_evaluated} of {len(outcome.choices)} seeds)"
            )
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6} if found is None else None
        axes.annotate(
            told,
            place,
            bbox=box,
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=_color(outcome),
        )
    axes.set_xlim(-0.03 * max(ends), 1.06 * max(ends))
    unit = ", ".join(
        filter(None, ("regret against each seed's best fork", words.difference_unit(metric)))
    )
    axes.set_xlabel(unit if is_last else "")


def _name_rows(left: "Axes", right: "Axes", group: Sequence[Outcome]) -> None:
    left.set_ylim(len(group) - 0.4, -0.6)
    left.set_yticks(range(len(group)), [_name(outcome) for outcome in group])
    for tick, outcome in zip(left.get_yticklabels(), group, strict=True):
        tick.set_color(_color(outcome))
        tick.set_fontsize(7 if "\n" in tick.get_text() else 8.5)
    right.tick_params(axis="y", left=False, labelleft=False)
    for axes in (left, right):
        axes.grid(axis="both", color="#ececec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def _name(outcome: Outcome) -> str:
    """The rule's name, shortened; a baseline's with what it is, for its colour says that it is
    one."""
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


def _style(status: str, outcome: Outcome) -> dict[str, Any]:
    """How a choice of that status is marked."""
    color = _color(outcome)
    if status == "interpolated":
        return {"marker": "o", "facecolors": "white", "edgecolors": color}
    return {"marker": "o" if status == "measured" else "x", "color": color}


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    dark = GREYS[0]
    return [
        Line2D([], [], marker="o", linestyle="", color=COLORS[0], label="rule"),
        Line2D([], [], marker="o", linestyle="", color=GREYS[1], label="baseline"),
        Line2D(
            [],
            [],
            marker="|",
            linestyle="",
            color=GREYS[1],
            markersize=8,
            label="measured fork epoch",
        ),
        Patch(color=BAND, alpha=0.18, linewidth=0, label="range of the seeds' best forks"),
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            color=dark,
            markerfacecolor="white",
            label="between forks",
        ),
        Line2D([], [], marker="x", linestyle="", color=dark, label="outside all forks: no value"),
        Line2D([], [], linestyle=":", color=GREYS[1], label="random time's regret"),
    ]
