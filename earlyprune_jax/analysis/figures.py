"""The figure people come for: the test metric against fork epoch, with the trunk's signals below.

One pair of axes over one epoch scale. Forks (left axis, colour) take the upper part, signals (right
axis, grey) the lower, so that neither hides the other and a signal's peak can be compared with the
best fork epoch by looking up. Several settings have a panel each, over one scale.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import curves, drawing, panels, peaks, regret, results, words
from earlyprune_jax.analysis.drawing import MANY
from earlyprune_jax.analysis.panels import Content, Frame, kind_of
from earlyprune_jax.analysis.places import Place, shared, varying
from earlyprune_jax.analysis.runs import LOST, Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "{primary}_vs_fork_epoch"
MAX_PANELS = 6
"""Of more settings each has a figure of its own."""


def draw_main(workdir: str | Path, *, runs: Runs | None = None, name: str = STEM) -> list[Path]:
    """Draws figures/METRIC_vs_fork_epoch.png and .svg, of more than six settings one of each per
    setting.

    Left axis: the primary test metric at the last epoch: mean over trunk seeds and replicates, +-
    one sample standard deviation (n - 1), every run as a dot, one curve per (criterion, scope,
    sparsity, rule, swept keys of forks), a star at the best fork epoch (chosen on validation where
    every run has it), the dense baseline as a line with its +- std band; runs that pruned
    themselves as single marks; baselines beside the grid are left out, see
    `curves.without_baselines`. Right axis: each headline signal's mean over trunk seeds divided by
    its largest magnitude, its peak marked. Diverged and failed runs are left out and counted in the
    subtitle. Panels of several settings share both scales, and show the others' forks in grey. The
    same files give the same bytes with the same matplotlib.

    Args:
        workdir: The experiment's directory.
        runs: Of `results.read_runs`, where they have been read already.
        name: How the names of the files begin.

    Returns:
        The paths; nothing is written and the list is empty where nothing can be drawn yet.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> draw_main("no/such/workdir")
        []
    """
    runs = results.read_runs(workdir) if runs is None else runs
    gathered = {setting: gather(own) for setting, own in results.by_setting(runs).items()}
    contents = {
        setting: content
        for setting, content in gathered.items()
        if content.has_results or content.signals
    }
    name = name.format(primary=runs.metric.name)
    if len(gathered) <= MAX_PANELS:
        pictures = {name: _draw(contents)} if contents else {}
    else:
        pictures = {
            drawing.stem(name, setting): _draw({setting: content}, named=True)
            for setting, content in contents.items()
        }
    possible = [name, *(drawing.stem(name, setting) for setting in gathered)]
    return drawing.save_all(workdir, pictures, possible=possible)


def gather(runs: Runs) -> Content:
    """Gathers what the figure shows of the runs of one setting."""
    table = peaks.comparable_epochs(runs)
    drawable = [name for name in peaks.headline_signals([table]) if peaks.mean_peak(table, name)]
    return Content(
        runs=runs,
        dense=curves.dense_runs(runs),
        curves=tuple(curves.without_baselines(curves.fork_curves(runs), runs.config)),
        online=tuple(curves.fork_curves(runs, "online")),
        signal_table=table,
        signals=tuple(drawable),
        num_epochs=regret.num_epochs(runs) or 1,
    )


def _draw(contents: Mapping[Place, Content], *, named: bool = False) -> "Figure":
    every = list(contents.values())
    low, high = panels.value_range(every)
    has_results = any(content.has_results for content in every)
    signals = panels.SIGNAL_SHARE if has_results else 1.0
    frame = Frame(
        low=low,
        high=high,
        share=signals if any(content.signals for content in every) else 0.0,
        num_epochs=max(content.num_epochs for content in every),
        styles=drawing.styles(kind_of(curve) for content in every for curve in content.curves),
        is_alone=len(every) == 1,
    )
    if frame.is_alone:
        ((setting, content),) = contents.items()
        return _draw_alone(content, frame, setting if named else setting.only(["model"]))
    return _draw_panels(contents, frame)


def _draw_alone(content: Content, frame: Frame, trunk: Place) -> "Figure":
    figure = drawing.blank(8.0, 4.9)
    axes = figure.add_subplot()
    handles = _draw_panel(axes, content, frame)
    axes.set_xlabel("fork epoch: epochs trained dense before pruning")
    _dress(axes, content, _subtitle([content], words.label(trunk)))
    num_legend_rows = drawing.add_legend(figure, handles)
    taller = 1.6 if len(content.curves) > MANY else 0.0
    figure.set_size_inches(8.0, 4.9 + taller + 0.2 * num_legend_rows)
    return figure


def _draw_panels(contents: Mapping[Place, Content], frame: Frame) -> "Figure":
    axes_names, every = varying(contents), list(contents.values())
    num_columns = len(every) if len(every) <= 3 else math.ceil(len(every) / 2)
    num_rows = math.ceil(len(every) / num_columns)
    figure = drawing.blank(1.0 + 4.5 * num_columns, 1.9 + 4.2 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    few = all(len(content.curves) <= 2 for content in every)
    for axes, (setting, content) in zip(grid, contents.items(), strict=False):
        own = _draw_panel(axes, content, frame)
        own += panels.draw_others(axes, [one for one in every if one is not content]) if few else []
        handles |= {
            handle.get_label(): handle for handle in own if handle.get_label() not in handles
        }
        axes.set_title(words.label(setting, axes_names), loc="left", fontsize=10)
        axes.set_xlabel("fork epoch")
    for axes in grid[len(every) :]:
        axes.set_axis_off()
    trunk = words.label(shared(list(contents)).only(["model"]))
    drawing.head(figure, _title(every[0]), "\n".join(_subtitle(every, trunk)), fontsize=10)
    drawing.add_legend(figure, list(handles.values()))
    return figure


def _draw_panel(axes: "Axes", content: Content, frame: Frame) -> list[Any]:
    if content.has_results:
        handles = panels.draw_results(axes, content, frame)
    else:
        handles = []
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    handles += panels.draw_signals(axes, content, frame) if content.signals else []
    drawing.epoch_axis(axes, frame.num_epochs)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _title(content: Content) -> str:
    return f"When to prune: {content.metric.name.replace('_', ' ')} against the epoch of pruning"


def _dress(axes: "Axes", content: Content, lines: Sequence[str]) -> None:
    """Title and subtitle."""
    subtitle = "\n".join(textwrap.fill(line, 96) for line in lines)
    num_lines = subtitle.count("\n") + 1
    axes.set_title(_title(content), loc="left", weight="bold", pad=10 + 12.5 * num_lines)
    axes.annotate(
        subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        va="bottom",
        fontsize=9,
        color="#444444",
        annotation_clip=False,
    )


def _subtitle(contents: Sequence[Content], trunk: str) -> list[str]:
    """Lines: what does not vary; on how many seeds, and what was left out."""
    data = contents[0].runs.config.get("data", {}).get("name")
    length = words.span(sorted(content.num_epochs for content in contents))
    parts = [", ".join(str(part) for part in (data, trunk, f"T = {length} epochs") if part)]
    pruned = [kind_of(curve) for content in contents for curve in content.pruned]
    if pruned:
        fixed = words.label(shared(pruned))
        parts.append(f"forks: {fixed}" if fixed else "")
    statuses = [status for content in contents for status in content.runs.frame["status"]]
    counts = {status: statuses.count(status) for status in LOST}
    left_out = [f"{words.plural(n, f'{status} run')} left out" for status, n in counts.items() if n]
    lines = parts, [_seeds_text(contents), *left_out]
    return ["; ".join(part for part in line if part) for line in lines if any(line)]


def _seeds_text(contents: Sequence[Content]) -> str:
    pruned = [curve for content in contents for curve in content.pruned]
    frames = [*(curve.runs for curve in pruned), *(content.dense for content in contents)]
    seeds = {seed for frame in frames for seed in frame["trunk_seed"]}
    sizes = [count for curve in pruned for count in curve.runs["fork_epoch"].value_counts()]
    sizes += [len(content.dense) for content in contents]
    text = words.plural(len(seeds), "seed") if seeds else ""
    if max(sizes) < 2:
        return f"{text}, so the noise is unknown" if len(seeds) == 1 else text
    dots = "; dots are single runs" if pruned and all(c.shows_single_runs for c in contents) else ""
    return f"{text}: mean ± one standard deviation{dots}"
