"""The two axes of a panel of the main figure: forks and dense runs above, signals below."""

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """Everything a panel shows: the runs of one setting.

    Attributes:
        dense: rows of `Runs.frame`, the baseline.
        curves: of the forks of the grid.
        online: of the runs that pruned themselves.
        signal_table: of `peaks.comparable_epochs`.
        signal_peaks: of the signals drawn, means over trunk seeds.
        num_epochs: T, the length of the axis.
    """

    runs: Runs
    dense: Table
    curves: tuple[Curve, ...]
    online: tuple[Curve, ...]
    signal_table: Table
    signal_peaks: tuple[Peak, ...]
    num_epochs: int

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
        """Whether there is anything for the upper axes."""
        return bool(len(self.dense) or self.pruned)


def kind_of(curve: Curve) -> Place:
    """Gives a curve's place within its setting."""
    return curve.place.without(*curve.setting.axes)


def draw_results(
    axes: "Axes", content: Content, styles: Mapping[Place, Style], *, is_alone: bool
) -> None:
    """Draws forks, runs that pruned themselves and the baseline.

    Args:
        axes: The upper axes of a panel.
        content: What is drawn.
        styles: By `kind_of` a curve.
        is_alone: Whether there is a single panel, whose legend has room for numbers.
    """
    metric = content.runs.metric
    unit = words.with_unit(words.named(metric), metric.unit)
    axes.set_ylabel(f"{unit}\nat the last epoch")
    names = varying(map(kind_of, content.curves))
    for index, curve in enumerate(content.curves):
        label = words.label(kind_of(curve), names) or "pruned forks"
        if is_alone:
            number = spread(words.amount(curve.test(curve.ranking.best), metric))
            label += f": {'best ' * (len(curve.epochs) > 1)}{number} at epoch {curve.ranking.best}"
        # Curves stand a little beside one another, or their whiskers would hide each other.
        shift = 0.004 * content.num_epochs * (index - (len(content.curves) - 1) / 2)
        _draw_curve(axes, content, curve, styles[kind_of(curve)], shift, label)
    for index in range(len(content.online)):
        _draw_online(axes, content, index)
    if len(content.dense):
        _draw_dense(axes, content, is_alone)
    if not content.pruned:
        axes.set_title("no fork of the grid has finished yet", fontsize=9.5, color=GREYS[1])


def _draw_curve(
    axes: "Axes", content: Content, curve: Curve, style: Style, shift: float, label: str
) -> None:
    """Draws means with whiskers, a star at the best epoch, and dots for single runs."""
    metric, epochs = curve.metric, np.array(curve.epochs)
    cells = [curve.test(int(epoch)) for epoch in epochs]
    means = [metric.scale * cell.mean for cell in cells]
    deviations = [metric.scale * (cell.std or 0.0) for cell in cells]
    is_thin = len(content.curves) > MANY
    axes.errorbar(
        epochs + shift,
        means,
        yerr=deviations if any(deviations) else None,
        color=style.color,
        marker=style.marker,
        markersize=4 if is_thin else 6,
        linewidth=1.5 if is_thin else 2.0,
        linestyle=style.dashes,
        elinewidth=1.0,
        capsize=2.5,
        zorder=4,
        label=label,
    )
    if len(epochs) > 1:
        place = curve.epochs.index(curve.ranking.best)
        star: dict[str, Any] = {
            "marker": "*",
            "s": 190,
            "edgecolors": "white",
            "linewidths": 0.8,
            "zorder": 6,
        }
        chosen = " and ".join(sorted({curve.split for curve in content.curves}))
        extreme = "highest" if metric.larger_is_better else "lowest"
        label = f"best fork epoch ({extreme} mean {words.named(metric, chosen)})"
        axes.scatter(epochs[place] + shift, means[place], color=style.color, label=label, **star)
    if content.shows_single_runs and curve.runs["fork_epoch"].duplicated().any():
        # Beside the whiskers, which would hide them.
        beside = curve.runs["fork_epoch"].astype(float) + shift + 0.007 * content.num_epochs
        values = metric.scale * curve.runs[metric.column("test")]
        dots: dict[str, Any] = {"s": 12, "alpha": 0.5, "linewidths": 0, "zorder": 3}
        axes.scatter(beside, values, color=style.color, **dots)


def _draw_online(axes: "Axes", content: Content, index: int) -> None:
    """Draws a mark for every run that pruned itself, at the epoch it chose."""
    curve, place = content.online[index], len(content.curves) + index
    metric = curve.metric
    name = words.label(kind_of(curve), varying(map(kind_of, content.pruned)))
    number = f"{spread(words.amount(curve.test(), metric))} at {words.epochs(curve.epochs)}"
    axes.plot(
        curve.runs["fork_epoch"].astype(int),
        metric.scale * curve.runs[metric.column("test")],
        linestyle="",
        color=COLORS[place % len(COLORS)],
        marker=MARKERS[place % len(MARKERS)],
        markersize=7,
        zorder=5,
        label=f"{f'{name}, ' if name else ''}pruned itself: {number}",
    )


def _draw_dense(axes: "Axes", content: Content, is_alone: bool) -> None:
    metric = content.runs.metric
    dense = stats(content.dense[metric.column("test")])
    mean, deviation = metric.scale * dense.mean, metric.scale * (dense.std or 0.0)
    if deviation:
        band: dict[str, Any] = {"color": "black", "alpha": 0.10, "linewidth": 0, "zorder": 1}
        axes.axhspan(mean - deviation, mean + deviation, **band)
    axes.annotate(
        f"dense\n{words.amount(Stats(dense.mean, None, 1), metric)}",
        (1.0, mean),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
    )
    number = f": {spread(words.amount(dense, metric))}" if is_alone else ""
    label = f"dense baseline, never pruned{number}"
    axes.axhline(mean, color="black", linewidth=1.4, zorder=2, label=label)


def mark_best(panel: Sequence["Axes"], content: Content) -> None:
    """Draws a line at the best fork epoch through a panel of a single curve, and names it above."""
    if len(content.curves) != 1 or len(content.curves[0].epochs) < 2:
        return
    (curve,) = content.curves
    best = curve.ranking.best
    for axes in panel:
        axes.axvline(best, color=COLORS[0], linewidth=1.0, alpha=0.7, zorder=1)
    amount = words.amount(Stats(curve.test(best).mean, None, 1), curve.metric)
    above: dict[str, Any] = {
        "transform": panel[0].get_xaxis_transform(),
        "ha": "center",
        "va": "bottom",
    }
    panel[0].text(best, 1.01, f"best fork epoch: {best} ({amount})", color=COLORS[0], **above)


def draw_others(axes: "Axes", others: Sequence[Content]) -> None:
    """Draws the means of the other panels' curves in light grey, to be compared with."""
    style = {"color": "#c4c4c4", "linewidth": 1.1, "zorder": 1.5}
    for curve in (curve for content in others for curve in content.curves):
        means = [curve.metric.scale * curve.test(epoch).mean for epoch in curve.epochs]
        axes.plot(curve.epochs, means, label="the other panels' forks", **style)


def draw_signals(axes: "Axes", content: Content) -> None:
    """Draws the mean of every signal over its maximum, with its peak, and a legend of their own."""
    lowest = 0.0
    for index, peak in enumerate(content.signal_peaks):
        epochs, values = peaks.mean_curve(content.signal_table, peak.signal)
        # A signal that is nowhere positive has no maximum to divide by; its size serves then.
        values = values / (peak.value if peak.value > 0 else np.abs(values).max() or 1.0)
        lowest = min(lowest, values.min())
        name = words.signal_label(peak.signal, content.runs.config)
        color = GREYS[index % len(GREYS)]
        axes.plot(
            epochs,
            values,
            DASHES[index % len(DASHES)],
            color=color,
            linewidth=1.4,
            marker="Ddhp"[index % 4],
            markevery=[int(np.searchsorted(epochs, peak.epoch))],
            label=f"{name}: {words.peak_label(peak)}",
        )
        axes.axvline(peak.epoch, color=color, linestyle=":", linewidth=1.1)
    axes.set_ylabel("signal /\nits maximum", color=GREYS[0])
    axes.tick_params(axis="y", colors=GREYS[0])
    # Room above the curves, where the legend hides nothing.
    share = 0.08 + 0.11 * len(content.signal_peaks)
    axes.set_ylim(lowest - 0.05, lowest + (1.05 - lowest) / (1 - share))
    axes.set_yticks([0.0, 0.5, 1.0] if not lowest else [-1.0, 0.0, 1.0])
    axes.legend(loc="upper left", edgecolor="none", fontsize=8, borderaxespad=0.2)
