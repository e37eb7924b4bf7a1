"""The two parts of the main figure: forks and dense runs above (left axis), signals below (right
axis).

Each part takes its share of the height of one pair of axes, and returns its legend handles.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import peaks, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.drawing import COLORS, DASHES, GREYS, MANY, MARKERS, Style, spread
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.places import Place, varying
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNAL_SHARE = 0.40  # of the height, where there are forks or dense runs too
HEADROOM = 0.10  # of the height, for the label of the best fork epoch


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """Everything a panel shows: the runs of one setting."""

    runs: Runs
    dense: Table
    curves: tuple[Curve, ...]
    online: tuple[Curve, ...]
    signal_table: Table
    signals: tuple[str, ...]
    num_epochs: int

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.runs.metric

    @property
    def pruned(self) -> tuple[Curve, ...]:
        """All curves."""
        return (*self.curves, *self.online)

    @property
    def shows_single_runs(self) -> bool:
        """Whether every run is a dot beside its mean: the dots of many curves would hide them."""
        return len(self.curves) <= MANY

    @property
    def has_results(self) -> bool:
        """Whether there is anything for the upper part."""
        return bool(len(self.dense) or self.pruned)

    @property
    def dense_stats(self) -> Stats:
        """Of the dense runs' test metric."""
        return stats(self.dense[self.metric.column("test")])


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """What the panels of a figure share.

    Attributes:
        low: the lowest value drawn, in the metric's unit.
        high: the highest.
        share: the part of the height, from below, that belongs to the signals.
        num_epochs: T, the length of the axis.
        styles: of the curves, by their place within the setting.
        is_alone: whether there is a single panel, whose legend has room for numbers.
    """

    low: float
    high: float
    share: float
    num_epochs: int
    styles: Mapping[Place, Style]
    is_alone: bool

    def style(self, curve: Curve) -> Style:
        """Gives a curve's style."""
        return self.styles[kind_of(curve)]


def kind_of(curve: Curve) -> Place:
    """Gives a curve's place within its setting."""
    return curve.place.without(*curve.setting.axes)


def value_range(contents: Sequence[Content]) -> tuple[float, float]:
    """Finds the lowest and highest value drawn, whiskers included, kept apart if nearly equal."""
    ends: list[float] = []
    for content in contents:
        cells = [curve.test(epoch) for curve in content.curves for epoch in curve.epochs]
        cells += [content.dense_stats] if len(content.dense) else []
        ends += [cell.mean + sign * (cell.std or 0.0) for cell in cells for sign in (-1, 1)]
        for curve in content.pruned:
            ends += curve.runs[content.metric.column("test")].tolist()
    if not ends:
        return 0.0, 1.0
    scale, is_percent = contents[0].metric.scale, contents[0].metric.scale != 1
    low, high = scale * min(ends), scale * max(ends)
    pruned = any(content.pruned for content in contents)
    least = (
        (0.5 if pruned else 5.0) if is_percent else (0.01 if pruned else 0.1) * (abs(high) or 1.0)
    )
    lacking = max(0.0, least - (high - low)) / 2
    return low - lacking, high + lacking


def draw_results(axes: "Axes", content: Content, frame: Frame) -> list[Any]:
    """Draws forks and baseline in the upper part and returns their legend handles."""
    share, metric = frame.share, content.metric
    bounds = share + (0.03 if share else 0.04), 1 - HEADROOM
    _place(axes, frame.low, frame.high, *bounds, max_ticks=6)
    unit = words.with_unit(words.named(metric), metric.unit)
    axes.set_ylabel(f"{unit}\nat the last epoch", y=(share + 1 - HEADROOM) / 2)
    handles = [_draw_curve(axes, content, frame, index) for index in range(len(content.curves))]
    handles += [_draw_online(axes, content, index) for index in range(len(content.online))]
    if any(len(curve.epochs) > 1 for curve in content.curves):
        handles.append(_draw_best(axes, content, frame))
    elif not content.pruned:
        style = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": GREYS[1]}
        axes.text(0.5, 1 - HEADROOM / 2, "no fork of the grid has finished yet", **style)
    return [*handles, _draw_dense(axes, content, frame)] if len(content.dense) else handles


def _draw_dense(axes: "Axes", content: Content, frame: Frame) -> Any:
    dense, metric = content.dense_stats, content.metric
    mean, std = metric.scale * dense.mean, metric.scale * (dense.std or 0.0)
    if std:
        axes.axhspan(mean - std, mean + std, color="black", alpha=0.10, linewidth=0, zorder=1)
    number = f": {spread(words.amount(dense, metric))}" if frame.is_alone else ""
    label = f"dense baseline, never pruned{number}"
    line = axes.axhline(mean, color="black", linewidth=1.4, zorder=2, label=label)
    axes.annotate(
        f"dense\n{words.amount(Stats(dense.mean, None, 1), metric)}",
        (1.0, mean),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
    )
    return line


def _draw_curve(axes: "Axes", content: Content, frame: Frame, index: int) -> Any:
    curve, metric = content.curves[index], content.metric
    style = frame.style(curve)
    epochs = np.array(curve.epochs)
    cells = [curve.test(int(epoch)) for epoch in epochs]
    # Several curves stand a little beside their epoch, or their whiskers would hide one another.
    x = epochs + _dodge(content, index)
    best, count = curve.ranking.best, len(content.curves)
    name = words.label(kind_of(curve), varying(map(kind_of, content.curves))) or "pruned forks"
    number = f"{'best ' * (len(epochs) > 1)}{spread(words.amount(curve.test(best), metric))} at epoch {best}"
    spreads = [metric.scale * (cell.std or 0.0) for cell in cells]
    drawn = axes.errorbar(
        x,
        [metric.scale * cell.mean for cell in cells],
        yerr=spreads if any(spreads) else None,
        color=style.color,
        marker=style.marker,
        markersize=6 if count <= 3 else 5 if count <= MANY else 4,
        linewidth=2.0 if count <= 3 else 1.5,
        linestyle=style.dashes,
        elinewidth=1.0,
        capsize=2.5,
        zorder=4,
        label=f"{name}: {number}" if frame.is_alone else name,
    )
    for place, epoch in zip(x, epochs, strict=True) if content.shows_single_runs else ():
        values = metric.scale * curve.at(int(epoch))[metric.column("test")].to_numpy()
        if len(values) > 1:
            # Beside the whisker, which would hide them.
            beside = place + (0.011 if count == 1 else 0.006) * frame.num_epochs
            marks = {"s": 12, "color": style.color, "alpha": 0.5, "linewidths": 0, "zorder": 3}
            axes.scatter([beside] * len(values), values, **marks)
    return drawn


def draw_others(axes: "Axes", others: Sequence[Content]) -> list[Any]:
    """Draws the means of the other panels' curves in light grey, to be compared with; returns a
    handle."""
    drawn = []
    for curve in (curve for content in others for curve in content.curves):
        means = [curve.metric.scale * curve.test(epoch).mean for epoch in curve.epochs]
        style = {
            "color": "#c4c4c4",
            "linewidth": 1.1,
            "zorder": 1.5,
            "label": "the other panels' forks",
        }
        drawn = axes.plot(curve.epochs, means, **style)
    return drawn


def _draw_online(axes: "Axes", content: Content, index: int) -> Any:
    """A mark for every run that pruned itself, at the epoch it chose."""
    curve, place = content.online[index], len(content.curves) + index
    name = words.label(kind_of(curve), varying(map(kind_of, content.pruned)))
    number = spread(words.amount(curve.test(), content.metric))
    (drawn,) = axes.plot(
        curve.runs["fork_epoch"].astype(int),
        content.metric.scale * curve.runs[content.metric.column("test")],
        linestyle="",
        color=COLORS[place % len(COLORS)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=7,
        zorder=5,
        label=f"{f'{name}, ' if name else ''}pruned itself: {number} at {words.epochs(curve.epochs)}",
    )
    return drawn


def _dodge(content: Content, index: int) -> float:
    count = len(content.curves)
    forks = sorted({epoch for curve in content.curves for epoch in curve.epochs})
    gap = min(np.diff(forks), default=content.num_epochs / 10)
    return (
        0.0
        if count == 1
        else (index / (count - 1) - 0.5) * min(0.45 * gap, 0.03 * content.num_epochs)
    )


def _draw_best(axes: "Axes", content: Content, frame: Frame) -> Any:
    """A star at each curve's best fork epoch; with one curve also a line down the figure and
    words."""
    from matplotlib.lines import Line2D

    metric = content.metric
    places = [curve.ranking.best for curve in content.curves]
    bests = [curve.test(best) for curve, best in zip(content.curves, places, strict=True)]
    chosen = " and ".join(sorted({curve.split for curve in content.curves}))
    axes.scatter(
        [best + _dodge(content, index) for index, best in enumerate(places)],
        [metric.scale * cell.mean for cell in bests],
        marker="*",
        s=190,
        color=[frame.style(curve).color for curve in content.curves],
        edgecolors="white",
        linewidths=0.8,
        zorder=6,
    )
    if len(content.curves) == 1:
        axes.axvline(places[0], color=COLORS[0], linewidth=1.0, alpha=0.7, zorder=1)
        told = (
            f"best fork epoch: {places[0]} ({words.amount(Stats(bests[0].mean, None, 1), metric)})"
        )
        _text_beside(axes, frame, places[0], 1 - HEADROOM / 2, told, color=COLORS[0], weight="bold")
    star: dict[str, Any] = {
        "marker": "*",
        "markersize": 12,
        "linestyle": "",
        "markeredgecolor": "white",
    }
    color = COLORS[0] if len(places) == 1 else "#333333"
    extreme = "highest" if metric.larger_is_better else "lowest"
    label = f"best fork epoch ({extreme} mean {words.named(metric, chosen)})"
    return Line2D([], [], color=color, label=label, **star)


def draw_signals(axes: "Axes", content: Content, frame: Frame) -> list[Any]:
    """Draws the signals on a second axis and returns their legend handles."""
    right = axes.twinx()
    # The forks stay on top although the second axis is drawn later.
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    num_named = min(len(content.signals), 3)
    top = frame.share - 0.02 - 0.05 * num_named
    scaled = [_scaled(content, name) for name in content.signals]
    lowest = min(0.0, *(float(values.min()) for _, values in scaled))
    _place(right, lowest, 1.0, 0.02, top, max_ticks=3)
    right.set_ylabel("signal /\nits maximum", y=(0.02 + top) / 2, color=GREYS[0], labelpad=8)
    right.tick_params(axis="y", colors=GREYS[0])
    handles = []
    for index, (name, (epochs, values)) in enumerate(zip(content.signals, scaled, strict=True)):
        handles.append(_draw_signal(right, content, frame, index, epochs, values))
        if index < num_named:
            peak = _peak(content, name)
            told = (
                f"{words.signal_label(name, content.runs.config, short=True)} {_peak_words(peak)}"
            )
            height = top + 0.03 + 0.05 * (num_named - 1 - index)
            _text_beside(axes, frame, peak.epoch, height, told, color=GREYS[index])
    right.spines[["top", "left", "bottom"]].set_visible(False)
    return handles


def _scaled(content: Content, name: str) -> tuple[np.ndarray, np.ndarray]:
    epochs, values = peaks.mean_curve(content.signal_table, name)
    peak = float(np.max(values))
    # A signal that is nowhere positive has no maximum to divide by; its size serves then.
    return epochs, values / (peak if peak > 0 else float(np.max(np.abs(values))) or 1.0)


def _draw_signal(
    right: "Axes",
    content: Content,
    frame: Frame,
    index: int,
    epochs: np.ndarray,
    values: np.ndarray,
) -> Any:
    color, dashes = GREYS[index % len(GREYS)], DASHES[index % len(DASHES)]
    name = content.signals[index]
    peak = _peak(content, name)
    marker = "Ddhp"[index % 4]
    label = words.signal_label(name, content.runs.config)
    label += f": {words.peak_label(peak)}" if frame.is_alone else ""
    place = int(np.searchsorted(epochs, peak.epoch))
    (line,) = right.plot(
        epochs,
        values,
        dashes,
        color=color,
        linewidth=1.4,
        marker=marker,
        markersize=6,
        markevery=[place],
        label=label,
    )
    right.axvline(peak.epoch, color=color, linestyle=":", linewidth=1.1)
    return line


def _peak(content: Content, name: str) -> Peak:
    peak = peaks.mean_peak(content.signal_table, name)
    assert peak is not None, "figures.gather keeps signals with a finite value only"
    return peak


def _peak_words(peak: Peak) -> str:
    if peak.edge:
        return f"is largest at the {peak.edge} epoch, {peak.epoch}"
    if peak.flat:
        return f"is flat over epochs {words.span(peak.plateau, '-')}"
    return f"peaks at epoch {peak.epoch}"


def _text_beside(
    axes: "Axes",
    frame: Frame,
    epoch: int,
    height: float,
    text: str,
    *,
    color: str,
    weight: str = "normal",
) -> None:
    """Words right of an epoch's vertical line, left of it in the right part of the figure."""
    left = epoch > 0.62 * frame.num_epochs
    axes.annotate(
        text,
        (epoch, height),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=9.5,
        color=color,
        weight=weight,
        # A box, not an outline: outlined words would be paths in the SVG, which nobody can search.
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        zorder=7,
    )


def _place(
    axes: "Axes", low: float, high: float, bottom: float, top: float, *, max_ticks: int
) -> None:
    """Maps [low, high] to the part [bottom, top] of the axes' height, with ticks and spine there
    only."""
    from matplotlib.ticker import MaxNLocator

    unit = (high - low) / (top - bottom)
    axes.set_ylim(low - bottom * unit, high + (1 - top) * unit)
    ticks = MaxNLocator(max_ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [tick for tick in ticks if low - 0.03 * unit <= tick <= high + 0.03 * unit]
    axes.set_yticks(ticks)
    for side in ("left", "right"):
        axes.spines[side].set_bounds(low - 0.03 * unit, high + 0.03 * unit)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
