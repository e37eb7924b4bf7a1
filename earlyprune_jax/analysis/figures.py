"""The figure people come for: the test metric against fork epoch, with the trunk's signals below.

Forks (colour) above, signals (grey) below, over one epoch scale: a signal's peak can be compared
with the best fork epoch by looking up. Several settings have a panel each, over one scale.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import curves, drawing, panels, peaks, regret, results, words
from earlyprune_jax.analysis.drawing import Style
from earlyprune_jax.analysis.panels import Content, kind_of
from earlyprune_jax.analysis.places import Place, shared, varying
from earlyprune_jax.analysis.runs import LOST, Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEM = "{primary}_vs_fork_epoch"
MAX_PANELS = 6
"""Of more settings each has a figure of its own."""


def draw_main(workdir: str | Path, *, runs: Runs | None = None, name: str = STEM) -> list[Path]:
    """Draws figures/METRIC_vs_fork_epoch.png and .svg, of more than six settings one of each per
    setting.

    Above: the primary test metric at the last epoch: mean over trunk seeds and replicates, +-
    one sample standard deviation (n - 1), every run as a dot, one curve per (criterion, scope,
    sparsity, retraining, swept keys of forks), a star at the best fork epoch (chosen on
    validation where every run has it), the dense baseline as a line with its +- std band; runs that
    pruned themselves as single marks; baselines beside the grid are left out, see
    `curves.without_baselines`. Below: each headline signal's mean over trunk seeds divided by
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
        if content.has_results or content.signal_peaks
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
    found = (peaks.mean_peak(table, name) for name in peaks.headline_signals([table]))
    return Content(
        runs=runs,
        dense=curves.dense_runs(runs),
        curves=tuple(curves.without_baselines(curves.fork_curves(runs), runs.config)),
        online=tuple(curves.fork_curves(runs, "online")),
        signal_table=table,
        signal_peaks=tuple(peak for peak in found if peak is not None),
        num_epochs=regret.num_epochs(runs) or 1,
    )


def _draw(contents: Mapping[Place, Content], *, named: bool = False) -> "Figure":
    every = list(contents.values())
    num_columns = len(every) if len(every) <= 3 else math.ceil(len(every) / 2)
    num_rows = math.ceil(len(every) / num_columns)
    heights = [3.0] * any(content.has_results for content in every)
    heights += [1.8] * any(content.signal_peaks for content in every)
    figure = drawing.blank(1.0 + 4.5 * num_columns, 1.9 + 4.2 * num_rows)
    rows = num_rows * len(heights)
    grid = figure.subplots(
        rows, num_columns, squeeze=False, sharex=True, height_ratios=heights * num_rows
    )
    # [panels, axes of a panel]
    blocks = grid.reshape(num_rows, len(heights), num_columns).swapaxes(1, 2)
    blocks = blocks.reshape(num_rows * num_columns, len(heights))
    styles = drawing.styles(kind_of(curve) for content in every for curve in content.curves)
    for index, (panel, setting) in enumerate(zip(blocks, contents, strict=False)):
        others = [content for other, content in contents.items() if other != setting]
        if index and any(content.has_results for content in every):
            panel[0].sharey(blocks[0, 0])
        _draw_panel(panel, contents[setting], others, styles)
        if others:
            panel[0].set_title(words.label(setting, varying(contents)), loc="left", pad=18)
        if index % num_columns:
            for axes in panel:
                axes.set_ylabel("")
    for axes in blocks[len(every) :].ravel():
        axes.set_axis_off()
    handles = drawing.labelled(blocks[:, 0]) if any(c.has_results for c in every) else []
    if len(every) == 1:
        figure.set_size_inches(8.0, 5.4 + 0.12 * len(handles))
    trunk = shared(list(contents))
    about = _subtitle(every, words.label(trunk if named else trunk.only(["model"])))
    name = every[0].runs.metric.name.replace("_", " ")
    title = f"When to prune: {name} against the epoch of pruning"
    drawing.head(figure, title, "\n".join(about), fontsize=10)
    drawing.add_legend(figure, handles)
    return figure


def _draw_panel(
    panel: Any, content: Content, others: Sequence[Content], styles: Mapping[Place, Style]
) -> None:
    """Draws one setting on its axes [1 or 2]."""
    every = [content, *others]
    if any(one.has_results for one in every):
        panels.draw_results(panel[0], content, styles, is_alone=not others)
        if all(len(one.curves) <= 2 for one in every):
            panels.draw_others(panel[0], others)
        panels.mark_best(panel, content)
    if content.signal_peaks:
        panels.draw_signals(panel[-1], content)
    for axes in panel:
        drawing.tidy(axes)
    drawing.epoch_axis(panel[-1], max(one.num_epochs for one in every))
    panel[-1].set_xlabel("fork epoch: epochs trained dense before pruning")
    panel[-1].tick_params(labelbottom=True)


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
