"""The figure people come for: the test metric against fork epoch, with the trunk's signals below.

Forks above, signals below, over one epoch scale: a signal's peak can be compared
with the best fork epoch by looking up. Several settings have a panel each, over one scale.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import drawing, formatting, peaks, results
from earlyprune_jax.analysis.curves import Curve, Setting, settings_of
from earlyprune_jax.analysis.drawing import COLORS, GREYS, MARKERS, Style, plus_minus
from earlyprune_jax.analysis.places import Place, shared, varying
from earlyprune_jax.analysis.runs import LOST, Runs
from earlyprune_jax.analysis.stats import Stats
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "{primary}_vs_fork_epoch"
MAX_PANELS = 6
"""Of more settings each has a figure of its own."""
MANY = 4
"""More curves than this are drawn with less about each."""


def draw_main(workdir: str | Path, *, runs: Runs | None = None) -> list[Path]:
    """Draws figures/METRIC_vs_fork_epoch.png and .svg, of more than six settings one of each per
    setting. Runs that pruned themselves, without a grid of forks, have a figure of their own only:
    see `online_figure`.

    Above: the primary test metric at the last epoch: mean over trunk seeds and replicates, +-
    one sample standard deviation (n - 1), every run as a dot, one curve per (criterion, scope,
    sparsity, retraining, swept keys of forks), a star at the best fork epoch (chosen on
    validation where every run has it), the epochs that nothing clearly beats shaded (of two to
    four curves in strips of their colours; see `best_epoch.Ranking`), the dense baseline as a line
    with its +- std band; runs that pruned themselves as single marks; baselines beside the grid are
    left out, see `curves.Setting.curves`. Below: each headline signal's mean over trunk seeds
    divided by its largest magnitude, its peak marked. Diverged and failed runs are left out and
    counted in the subtitle. Panels of several settings share both scales, and show the others'
    forks in grey. The same files give the same bytes with the same matplotlib.

    Args:
        workdir: The experiment's directory.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        The paths; nothing is written and the list is empty where nothing can be drawn yet.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> draw_main("no/such/workdir")
        []
    """
    settings = settings_of(results.read_runs(workdir) if runs is None else runs)
    has_grid = any(setting.curves for setting in settings)
    if not has_grid and any(setting.online for setting in settings):
        return []
    return draw(workdir, settings)


def draw(workdir: str | Path, every: Sequence[Setting], name: str = STEM) -> list[Path]:
    """Draws the same of any settings, in their order.

    Args:
        workdir: Where `figures` lies or is made.
        every: Settings of the same metric.
        name: How the names of the files begin.

    Returns:
        As `draw_main`.
    """
    settings = [setting for setting in every if _has_results(setting) or setting.peaks]
    if not settings:
        return []
    name = name.format(primary=settings[0].metric.name)
    stems = {setting: drawing.stem(name, setting.place) for setting in every}
    if len(every) <= MAX_PANELS:
        pictures = {name: _draw(settings)}
    else:
        pictures = {stems[setting]: _draw([setting], named=True) for setting in settings}
    return drawing.save_all(workdir, pictures, possible=[name, *stems.values()])


def _has_results(setting: Setting) -> bool:
    """Tells whether there is anything for the upper axes."""
    return bool(len(setting.dense) or setting.pruned)


def _draw(settings: Sequence[Setting], *, named: bool = False) -> "Figure":
    num_columns = len(settings) if len(settings) <= 3 else math.ceil(len(settings) / 2)
    num_rows = math.ceil(len(settings) / num_columns)
    has_results = any(map(_has_results, settings))
    heights = [3.0] * has_results + [1.8] * any(setting.peaks for setting in settings)
    figure = drawing.blank(1.0 + 4.5 * num_columns, 1.9 + 4.2 * num_rows)
    rows, ratios = num_rows * len(heights), heights * num_rows
    grid = figure.subplots(rows, num_columns, squeeze=False, sharex=True, height_ratios=ratios)
    # [panels, axes of a panel]
    blocks = grid.reshape(num_rows, len(heights), num_columns).swapaxes(1, 2)
    blocks = blocks.reshape(num_rows * num_columns, len(heights))
    styles = drawing.styles(curve.place.kind for one in settings for curve in one.curves)
    for index, (panel, setting) in enumerate(zip(blocks, settings, strict=False)):
        others = [other for other in settings if other is not setting]
        if index and has_results:
            panel[0].sharey(blocks[0, 0])
        _draw_panel(panel, setting, others, styles)
        if others:
            panel[0].set_title(_panel_title(setting, settings), loc="left", pad=18)
        for axes in panel if index % num_columns else ():
            axes.set_ylabel("")
    for axes in blocks[len(settings) :].ravel():
        axes.set_axis_off()
    handles = drawing.labelled(blocks[:, 0]) if has_results else []
    if len(settings) == 1:
        figure.set_size_inches(8.0, 5.4 + 0.12 * len(handles))
    trunk = shared([setting.place for setting in settings])
    about = _subtitle(settings, formatting.label(trunk if named else trunk.only(["model"])))
    name = settings[0].metric.name.replace("_", " ")
    drawing.head(figure, f"When to prune: {name} against the epoch of pruning", about, fontsize=10)
    drawing.add_legend(figure, handles)
    return figure


def _panel_title(setting: Setting, settings: Sequence[Setting]) -> str:
    """Names what tells a panel from the others: its setting, and what all its curves share."""
    varied = varying(one.place for one in settings)
    varied += varying(curve.place.kind for one in settings for curve in one.pruned)
    common = shared([curve.place for curve in setting.pruned] or [setting.place])
    return formatting.label(common, varied)


def _draw_panel(
    panel: Any, setting: Setting, others: Sequence[Setting], styles: Mapping[Place, Style]
) -> None:
    """Draws one setting on its axes [1 or 2]."""
    every = [setting, *others]
    if any(map(_has_results, every)):
        _draw_results(panel[0], setting, others, styles)
        if all(len(one.curves) <= 2 for one in every):
            for curve in (curve for other in others for curve in other.curves):
                means = [curve.metric.scale * curve.test(epoch).mean for epoch in curve.epochs]
                style: dict[str, Any] = {"color": "#c4c4c4", "linewidth": 1.1, "zorder": 1.5}
                panel[0].plot(curve.epochs, means, label="the other panels' forks", **style)
        if len(setting.curves) == 1 and len(setting.curves[0].epochs) > 1:
            _mark_best(panel, setting.curves[0])
        _shade_as_good(panel, setting.curves, styles)
    if setting.peaks:
        _draw_signals(panel[-1], setting)
    for axes in panel:
        drawing.tidy(axes)
    drawing.epoch_axis(panel[-1], max(one.num_epochs or 1 for one in every))
    panel[-1].set_xlabel("fork epoch: epochs trained dense before pruning")
    panel[-1].tick_params(labelbottom=True)


def _draw_results(
    axes: "Axes", setting: Setting, others: Sequence[Setting], styles: Mapping[Place, Style]
) -> None:
    """Draws forks, runs that pruned themselves and the baseline; a single panel's legend has room
    for numbers, that of several names a curve alike in all."""
    metric, curves, is_alone = setting.metric, setting.curves, not others
    axes.set_ylabel(f"{formatting.axis_label(metric)}\nat the last epoch")
    every = (setting, *others)
    names = varying(curve.place.kind for one in every for curve in one.curves)
    for index, curve in enumerate(curves):
        label = formatting.label(curve.place.kind, names) or "pruned forks"
        if is_alone:
            best = curve.ranking.best
            number = plus_minus(formatting.amount(curve.test(best), metric))
            label += f": {'best ' * (len(curve.epochs) > 1)}{number} at epoch {best}"
        # Curves stand a little beside one another, or their whiskers would hide each other.
        shift = 0.004 * setting.num_epochs * (index - (len(curves) - 1) / 2)
        _draw_curve(axes, curve, styles[curve.place.kind], shift, label)
    names = varying(curve.place.kind for one in every for curve in one.pruned)
    for index, curve in enumerate(setting.online, start=len(curves)):
        itself = "pruned itself"
        if is_alone:
            number = plus_minus(formatting.amount(curve.test(), metric))
            itself += f": {number} at {formatting.epochs(curve.epochs)}"
        style = Style(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], "")
        epochs = curve.runs["fork_epoch"].astype(int)
        values = metric.scale * curve.runs[metric.column("test")]
        label = ", ".join(filter(None, (formatting.label(curve.place.kind, names), itself)))
        axes.plot(epochs, values, markersize=7, zorder=5, label=label, **style.options)
    if setting.dense_test:
        _draw_dense(axes, setting.dense_test, metric, is_alone)
    if not setting.pruned:
        axes.set_title("no fork of the grid has finished yet", fontsize=9.5, color=GREYS[1])


def _draw_curve(axes: "Axes", curve: Curve, style: Style, shift: float, label: str) -> None:
    """Draws means with whiskers, a star at the best epoch, and dots for single runs."""
    metric, epochs, siblings = curve.metric, np.array(curve.epochs), curve.setting.curves
    cells = [curve.test(epoch) for epoch in curve.epochs]
    means = [metric.scale * cell.mean for cell in cells]
    deviations = [metric.scale * (cell.std or 0.0) for cell in cells]
    is_thin = len(siblings) > MANY
    options: dict[str, Any] = {"linewidth": 1.5, "markersize": 4} if is_thin else {"linewidth": 2.0}
    options |= {"yerr": deviations if any(deviations) else None, "elinewidth": 1.0, "capsize": 2.5}
    axes.errorbar(epochs + shift, means, zorder=4, label=label, **style.options, **options)
    if len(epochs) > 1:
        best = curve.epochs.index(curve.ranking.best)
        chosen = " and ".join(sorted({sibling.split for sibling in siblings}))
        extreme = "highest" if metric.larger_is_better else "lowest"
        label = f"best fork epoch ({extreme} mean {formatting.named(metric, chosen)})"
        star = {"marker": "*", "s": 190, "edgecolors": "white", "linewidths": 0.8, "zorder": 6}
        axes.scatter(epochs[best] + shift, means[best], color=style.color, label=label, **star)
    if not is_thin and curve.runs["fork_epoch"].duplicated().any():
        # Beside the whiskers, which would hide them.
        beside = curve.runs["fork_epoch"].astype(float) + shift + 0.007 * curve.setting.num_epochs
        values = metric.scale * curve.runs[metric.column("test")]
        axes.scatter(beside, values, color=style.color, s=12, alpha=0.5, linewidths=0, zorder=3)


def _draw_dense(axes: "Axes", dense: Stats, metric: Metric, is_alone: bool) -> None:
    mean, deviation = metric.scale * dense.mean, metric.scale * (dense.std or 0.0)
    if deviation:
        low, high = mean - deviation, mean + deviation
        axes.axhspan(low, high, color="black", alpha=0.10, linewidth=0, zorder=1)
    text = f"dense\n{formatting.amount(Stats(dense.mean, None, 1), metric)}"
    axes.text(1.01, mean, text, transform=axes.get_yaxis_transform(), va="center")
    number = f": {plus_minus(formatting.amount(dense, metric))}" if is_alone else ""
    label = f"dense baseline, never pruned{number}"
    axes.axhline(mean, color="black", linewidth=1.4, zorder=2, label=label)


def _mark_best(panel: Sequence["Axes"], curve: Curve) -> None:
    """Draws a line at the best fork epoch through a panel of a single curve, and names it above."""
    best = curve.ranking.best
    for axes in panel:
        axes.axvline(best, color=COLORS[0], linewidth=1.0, alpha=0.7, zorder=1)
    amount = formatting.amount(Stats(curve.test(best).mean, None, 1), curve.metric)
    text = f"best fork epoch: {best} ({amount})"
    above = panel[0].get_xaxis_transform()
    panel[0].text(best, 1.01, text, color=COLORS[0], transform=above, ha="center", va="bottom")


def _shade_as_good(
    panel: Sequence["Axes"], curves: Sequence[Curve], styles: Mapping[Place, Style]
) -> None:
    """Shades the fork epochs that may be the best: of one curve through all axes of the panel, of
    a few in a strip per curve at its foot."""
    tested = [curve for curve in curves if curve.ranking.is_tested]
    if len(curves) > MANY:
        return
    for row, curve in enumerate(tested):
        kept = {curve.ranking.best, *curve.ranking.rivals}
        color, beyond = styles[curve.place.kind].color, 0.008 * curve.setting.num_epochs
        look: dict[str, Any] = {"alpha": 0.13, "label": drawing.AS_GOOD}
        if len(curves) > 1:
            look = {"alpha": 0.6, "ymin": 0.025 * row, "ymax": 0.025 * row + 0.02}
            look["label"] = f"strips: {drawing.AS_GOOD}"
        for is_kept, group in itertools.groupby(curve.epochs, kept.__contains__):
            epochs = list(group)
            for axes in panel[: 1 if len(curves) > 1 else None] if is_kept else ():
                span = epochs[0] - beyond, epochs[-1] + beyond
                axes.axvspan(*span, color=color, linewidth=0, zorder=0.5, **look)


def _draw_signals(axes: "Axes", setting: Setting) -> None:
    """Draws the mean of every signal over its maximum, with its peak, and a legend of their own."""
    lowest, styles = 0.0, drawing.signal_styles([peak.signal for peak in setting.peaks])
    handles = []
    for peak in setting.peaks:
        epochs, values = peaks.mean_curve(setting.signals, peak.signal)
        # A signal that is nowhere positive has no maximum to divide by; its size serves then.
        values = values / (peak.value if peak.value > 0 else np.abs(values).max() or 1.0)
        lowest, style = min(lowest, values.min()), styles[peak.signal]
        at_peak, label = int(np.searchsorted(epochs, peak.epoch)), formatting.peak_label(peak)
        name = formatting.signal_label(peak.signal, setting.runs.config)
        mark = {"markersize": 8, "markeredgecolor": "white", "markevery": [at_peak]}
        handles += axes.plot(
            epochs, values, linewidth=1.6, label=f"{name}: {label}", **mark, **style.options
        )
        axes.axvline(peak.epoch, color=style.color, linestyle=":", linewidth=1.1)
    axes.set_ylabel("signal /\nits maximum", color=GREYS[0])
    axes.tick_params(axis="y", colors=GREYS[0])
    # Room above the curves, where the legend hides nothing.
    share = 0.08 + 0.11 * len(setting.peaks)
    axes.set_ylim(lowest - 0.05, lowest + (1.05 - lowest) / (1 - share))
    axes.set_yticks([0.0, 0.5, 1.0] if not lowest else [-1.0, 0.0, 1.0])
    place: dict[str, Any] = {"loc": "upper left", "borderaxespad": 0.2, "handlelength": 3.2}
    axes.legend(handles=handles, edgecolor="none", fontsize=8, **place)


def _subtitle(settings: Sequence[Setting], trunk: str) -> str:
    """Writes two lines: what does not vary; on how many seeds, and what was left out."""
    data = settings[0].runs.config.get("data", {}).get("name")
    length = formatting.span(sorted(setting.num_epochs or 1 for setting in settings))
    pruned = [curve for setting in settings for curve in setting.pruned]
    fixed = formatting.label(shared([curve.place.kind for curve in pruned])) if pruned else ""
    fixed = f"; forks: {fixed}" if fixed else ""
    first = ", ".join(str(part) for part in (data, trunk, f"T = {length} epochs") if part) + fixed
    statuses = [status for setting in settings for status in setting.runs.frame["status"]]
    counts = {status: statuses.count(status) for status in LOST if status in statuses}
    lost = [f"{formatting.plural(n, f'{status} run')} left out" for status, n in counts.items()]
    return f"{first}\n{'; '.join(filter(None, [_seeds_text(settings, pruned), *lost]))}"


def _seeds_text(settings: Sequence[Setting], pruned: Sequence[Curve]) -> str:
    counts = sorted(filter(None, map(_num_seeds, settings)))
    sizes = [count for curve in pruned for count in curve.runs["fork_epoch"].value_counts()]
    sizes += [len(setting.dense) for setting in settings]
    text = f"{formatting.span(counts)} seed{'s' * (counts[-1] > 1)}" if counts else ""
    if max(sizes) < 2:
        return f"{text}, so the noise is unknown" if counts == [1] else text
    has_dots = pruned and all(len(setting.curves) <= MANY for setting in settings)
    return f"{text}: mean ± one standard deviation{'; dots are single runs' * bool(has_dots)}"


def _num_seeds(setting: Setting) -> int:
    """Counts the trunk seeds of what is drawn above."""
    frames = [setting.dense, *(curve.runs for curve in setting.pruned)]
    return len({seed for frame in frames for seed in frame["trunk_seed"]})
