"""The two parts of the figure: accuracies above (left axis), signals below (right axis).

Each part takes its share of the height of one pair of axes, and returns its legend handles.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import curves, labels, peaks
from earlyprune_jax.analysis.curve_styles import COLORS, DASHES, MANY, MARKERS, styles
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREYS = ("#404040", "#767676", "#595959", "#8c8c8c")
SIGNAL_SHARE = 0.40  # of the height, where there are accuracies too
HEADROOM = 0.10  # of the height, for the label of the best fork epoch


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything the figure shows: the runs of one setting."""

    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    dense: tuple[Run, ...]
    curves: tuple[Curve, ...]
    online: tuple[Curve, ...]
    signal_rows: tuple[dict[str, Any], ...]
    signals: tuple[str, ...]
    num_epochs: int

    @property
    def shows_single_runs(self) -> bool:
        """Whether every run is a dot beside its mean: the dots of many curves would hide them."""
        return len(self.curves) <= MANY

    @property
    def has_accuracy(self) -> bool:
        """Whether there is anything for the upper part."""
        return bool(self.dense or self.curves or self.online)


def signal_share(content: Content) -> float:
    """The part of the height, from below, that belongs to the signals."""
    if not content.signals:
        return 0.0
    return SIGNAL_SHARE if content.has_accuracy else 1.0


def draw_accuracy(axes: "Axes", content: Content, share: float) -> list[Any]:
    """Draws forks and baseline in the upper part and returns their legend handles."""
    low, high = _accuracy_range(content)
    _place(axes, low, high, share + (0.03 if share else 0.04), 1 - HEADROOM, max_ticks=6)
    axes.set_ylabel("test accuracy (%)\nat the last epoch", y=(share + 1 - HEADROOM) / 2)
    handles = [_draw_curve(axes, content, index, curve) for index, curve in enumerate(content.curves)]
    handles += [_draw_online(axes, content, index) for index in range(len(content.online))]
    if any(len(curve.runs) > 1 for curve in content.curves):
        handles.append(_draw_best(axes, content))
    elif not content.curves and not content.online:
        words = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": GREYS[1]}
        axes.text(0.5, 1 - HEADROOM / 2, "no fork of the grid has finished yet", **words)
    return [*handles, _draw_dense(axes, content)] if content.dense else handles


def _accuracy_range(content: Content) -> tuple[float, float]:
    """The lowest and highest accuracy drawn (%), whiskers included, kept apart if nearly equal."""
    cells = [curve.test(epoch) for curve in content.curves for epoch in curve.runs]
    pruned = (*content.curves, *content.online)
    cells += [curves.stats(run.last("test_accuracy") for run in content.dense)] if content.dense else []
    members = [run for curve in pruned for group in curve.runs.values() for run in group]
    ends = [cell.mean + sign * (cell.std or 0.0) for cell in cells for sign in (-1, 1)]
    ends += [run.last("test_accuracy") or 0.0 for run in members]
    low, high = 100 * min(ends), 100 * max(ends)
    lacking = max(0.0, (0.5 if pruned else 5.0) - (high - low)) / 2
    return low - lacking, high + lacking


def _draw_dense(axes: "Axes", content: Content) -> Any:
    dense = curves.stats(run.last("test_accuracy") for run in content.dense)
    mean, std = 100 * dense.mean, 100 * (dense.std or 0.0)
    if std:
        axes.axhspan(mean - std, mean + std, color="black", alpha=0.10, linewidth=0, zorder=1)
    label = f"dense baseline, never pruned: {labels.percent(dense)}"
    line = axes.axhline(mean, color="black", linewidth=1.4, zorder=2, label=label)
    axes.annotate(
        f"dense\n{100 * dense.mean:.1f} %",
        (1.0, mean),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
    )
    return line


def _draw_curve(axes: "Axes", content: Content, index: int, curve: Curve) -> Any:
    style = styles(content.curves)[index]
    epochs = np.array(list(curve.runs))
    cells = [curve.test(int(epoch)) for epoch in epochs]
    # Several curves stand a little beside their epoch, or their whiskers would hide one another.
    x = epochs + _dodge(content, index)
    best = curves.ranked_epochs(curve)[0]
    name = labels.curve_label(curve, curves.varying(content.curves)) or "pruned forks"
    drawn = axes.errorbar(
        x,
        [100 * cell.mean for cell in cells],
        yerr=[100 * (cell.std or 0.0) for cell in cells] if any(cell.std for cell in cells) else None,
        color=style.color,
        marker=style.marker,
        markersize=6 if len(content.curves) <= 3 else 5 if len(content.curves) <= MANY else 4,
        linewidth=2.0 if len(content.curves) <= 3 else 1.5,
        linestyle=style.dashes,
        elinewidth=1.0,
        capsize=2.5,
        zorder=4,
        label=f"{name}: {'best ' * (len(epochs) > 1)}{labels.percent(curve.test(best))} at epoch {best}",
    )
    for place, epoch in zip(x, epochs, strict=True) if content.shows_single_runs else ():
        members = curve.runs[int(epoch)]
        if len(members) > 1:
            values = [100 * (run.last("test_accuracy") or 0.0) for run in members]
            # Beside the whisker, which would hide them.
            beside = place + (0.011 if len(content.curves) == 1 else 0.006) * content.num_epochs
            axes.scatter(
                [beside] * len(values), values, s=12, color=style.color, alpha=0.5, linewidths=0, zorder=3
            )
    return drawn


def _draw_online(axes: "Axes", content: Content, index: int) -> Any:
    """A mark for every run that pruned itself, at the epoch it chose."""
    curve, place = content.online[index], len(content.curves) + index
    members = [run for group in curve.runs.values() for run in group]
    epochs = sorted(curve.runs)
    name = labels.curve_label(curve, curves.varying((*content.curves, *content.online)))
    where = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
    accuracy = labels.percent(curves.stats(run.last("test_accuracy") for run in members))
    (drawn,) = axes.plot(
        [epoch for epoch, group in curve.runs.items() for _ in group],
        [100 * (run.last("test_accuracy") or 0.0) for run in members],
        linestyle="",
        color=COLORS[place % len(COLORS)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=7,
        zorder=5,
        label=f"{f'{name}, ' if name else ''}pruned itself: {accuracy} at {where}",
    )
    return drawn


def _dodge(content: Content, index: int) -> float:
    count = len(content.curves)
    forks = sorted({epoch for curve in content.curves for epoch in curve.runs})
    gap = min(np.diff(forks), default=content.num_epochs / 10)
    return 0.0 if count == 1 else (index / (count - 1) - 0.5) * min(0.45 * gap, 0.03 * content.num_epochs)


def _draw_best(axes: "Axes", content: Content) -> Any:
    """A star at each curve's best fork epoch; with one curve also a line down the figure and words."""
    from matplotlib.lines import Line2D

    places = [curves.ranked_epochs(curve)[0] for curve in content.curves]
    heights = [100 * curve.test(best).mean for curve, best in zip(content.curves, places, strict=True)]
    metrics = {curves.selection_metric(curve) for curve in content.curves}
    chosen = " and ".join(sorted(metric.split("_")[0] for metric in metrics))
    axes.scatter(
        [best + _dodge(content, index) for index, best in enumerate(places)],
        heights,
        marker="*",
        s=190,
        color=[style.color for style in styles(content.curves)],
        edgecolors="white",
        linewidths=0.8,
        zorder=6,
    )
    if len(content.curves) == 1:
        axes.axvline(places[0], color=COLORS[0], linewidth=1.0, alpha=0.7, zorder=1)
        words = f"best fork epoch: {places[0]} ({heights[0]:.1f} %)"
        _text_beside(axes, content, places[0], 1 - HEADROOM / 2, words, color=COLORS[0], weight="bold")
    star: dict[str, Any] = {"marker": "*", "markersize": 12, "linestyle": "", "markeredgecolor": "white"}
    color = COLORS[0] if len(places) == 1 else "#333333"
    return Line2D([], [], color=color, label=f"best fork epoch (highest mean {chosen} accuracy)", **star)


def draw_signals(axes: "Axes", content: Content, share: float) -> list[Any]:
    """Draws the signals on a second axis and returns their legend handles."""
    right = axes.twinx()
    # The accuracies stay on top although the second axis is drawn later.
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    num_labels = min(len(content.signals), 3)
    top = share - 0.02 - 0.05 * num_labels
    scaled = [_scaled(content, name) for name in content.signals]
    lowest = min(0.0, *(float(values.min()) for _, values in scaled))
    _place(right, lowest, 1.0, 0.02, top, max_ticks=3)
    right.set_ylabel("signal /\nits maximum", y=(0.02 + top) / 2, color=GREYS[0], labelpad=8)
    right.tick_params(axis="y", colors=GREYS[0])
    handles = []
    for index, (name, (epochs, values)) in enumerate(zip(content.signals, scaled, strict=True)):
        handles.append(_draw_signal(right, content, index, epochs, values))
        if index < num_labels:
            peak = _peak(content, name)
            words = f"{labels.signal_label(name, content.config, short=True)} {labels.peak_words(peak)}"
            height = top + 0.03 + 0.05 * (num_labels - 1 - index)
            _text_beside(axes, content, peak.epoch, height, words, color=GREYS[index])
    right.spines[["top", "left", "bottom"]].set_visible(False)
    return handles


def _scaled(content: Content, name: str) -> tuple[np.ndarray, np.ndarray]:
    epochs, values = peaks.mean_curve(content.signal_rows, name)
    peak = float(np.max(values))
    # A signal that is nowhere positive has no maximum to divide by; its size serves then.
    return epochs, values / (peak if peak > 0 else float(np.max(np.abs(values))) or 1.0)


def _draw_signal(right: "Axes", content: Content, index: int, epochs: np.ndarray, values: np.ndarray) -> Any:
    color, dashes = GREYS[index % len(GREYS)], DASHES[index % len(DASHES)]
    name = content.signals[index]
    peak = _peak(content, name)
    marker = "Ddhp"[index % 4]
    label = f"{labels.signal_label(name, content.config)}: {labels.peak_label(peak)}"
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
    peak = peaks.mean_peak(content.signal_rows, name)
    assert peak is not None, "read_content keeps signals with a finite value only"
    return peak


def _text_beside(
    axes: "Axes",
    content: Content,
    epoch: int,
    height: float,
    words: str,
    *,
    color: str,
    weight: str = "normal",
) -> None:
    """Words right of an epoch's vertical line, left of it in the right part of the figure."""
    left = epoch > 0.62 * content.num_epochs
    axes.annotate(
        words,
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


def _place(axes: "Axes", low: float, high: float, bottom: float, top: float, *, max_ticks: int) -> None:
    """Maps [low, high] to the part [bottom, top] of the axes' height, with ticks and spine there only."""
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
