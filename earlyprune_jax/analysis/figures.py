"""The figure people come for: test accuracy against fork epoch, with the trunk's signals below.

One pair of axes over one epoch scale. Accuracies (left axis, colour) take the upper part,
signals (right axis, grey) the lower, so that neither hides the other and a signal's peak can be
compared with the best fork epoch by looking up. Matplotlib is imported on use, pyplot never.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax import records
from earlyprune_jax.analysis import curves, labels, panels, peaks, results
from earlyprune_jax.analysis.curve_styles import MANY
from earlyprune_jax.analysis.panels import Content
from earlyprune_jax.analysis.runs import LOST, Run, Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_accuracy_vs_fork_epoch(workdir: str | Path, *, runs: Sequence[Run] | None = None) -> list[Path]:
    """Draws figures/accuracy_vs_fork_epoch.png and .svg, for several settings one of each a setting.

    Left axis: test accuracy (%) at the last epoch: mean over trunk seeds and replicates, +- one
    sample standard deviation (n - 1), every run as a dot, one curve per (criterion, scope,
    sparsity, rule), a star at the best fork epoch (chosen on validation accuracy where every run
    has one), the dense baseline as a line with its +- std band; runs that pruned themselves as
    single marks; baselines beside the grid are left out, see `curves.without_baselines`. Right axis: each
    headline signal's mean over trunk seeds divided by its largest magnitude, its peak marked. Diverged
    and failed runs are left out and counted in the subtitle. The same files give the same bytes with the
    same matplotlib.

    Args:
        workdir: The experiment's directory.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        The paths, two a setting; nothing is written and the list is empty where nothing can be drawn yet.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> draw_accuracy_vs_fork_epoch("no/such/workdir")
        []
    """
    runs = results.read_runs(workdir) if runs is None else runs
    config, groups = results.read_config(workdir), results.by_setting(runs)
    contents = {setting: gather(own, config) for setting, own in groups.items()}
    several = len(groups) > 1
    pictures = {
        setting: _draw(content, labels.setting_label(setting, results.SETTING if several else ["model"]))
        for setting, content in contents.items()
        if content.has_accuracy or content.signals
    }
    return save(workdir, "accuracy_vs_fork_epoch", pictures, several=several)


def save(
    workdir: str | Path, name: str, pictures: Mapping[Setting, "Figure"], *, several: bool
) -> list[Path]:
    """Writes figures/NAME.png and .svg, or for several settings figures/NAME_SETTING.png and .svg.

    Then those without a setting in their name, of the time when there was only one, are removed: they
    would be taken for a picture of all.

    Args:
        workdir: Where `figures` lies or is made, if there is anything to write.
        name: Of the figure.
        pictures: A figure a setting.
        several: Whether the workdir holds more than one setting.

    Returns:
        The paths written.

    Example:
        >>> save("no/such/workdir", "rules", {}, several=False)
        []
    """
    directory, paths = Path(workdir) / "figures", []
    for setting, figure in pictures.items():
        directory.mkdir(exist_ok=True)
        for extension in ("png", "svg"):
            paths.append(directory / f"{name}{f'_{setting.slug}' * several}.{extension}")
            records.replace_file(paths[-1], render(figure, extension))
    for extension in ("png", "svg") if several and paths else ():
        (directory / f"{name}.{extension}").unlink(missing_ok=True)
    return paths


def gather(runs: Sequence[Run], config: Mapping[str, Any]) -> Content:
    """What the figure shows of the runs of one setting.

    Example:
        >>> gather([], {}).curves
        ()
    """
    rows = peaks.comparable_rows(runs)
    drawable = [name for name in peaks.headline_signals(rows) if peaks.mean_peak(rows, name)]
    last_epochs = [run.last_epoch for run in runs if run.kind == "trunk"] or [run.last_epoch for run in runs]
    return Content(
        config=config,
        runs=tuple(runs),
        dense=tuple(curves.dense_runs(runs)),
        curves=tuple(curves.without_baselines(curves.fork_curves(runs), config)),
        online=tuple(curves.fork_curves(runs, "online")),
        signal_rows=tuple(rows),
        signals=tuple(drawable),
        num_epochs=config.get("train", {}).get("num_epochs") or max(last_epochs, default=1),
    )


def _draw(content: Content, trunk: str) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    share = panels.signal_share(content)
    if content.has_accuracy:
        handles = panels.draw_accuracy(axes, content, share)
    else:
        handles = []
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    handles += panels.draw_signals(axes, content, share) if content.signals else []
    _dress(axes, _subtitle(content, trunk), content.num_epochs)
    num_legend_rows = _add_legend(figure, handles)
    taller = 1.6 if len(content.curves) > MANY else 0.0
    figure.set_size_inches(8.0, 4.9 + taller + 0.2 * num_legend_rows)
    return figure


def _add_legend(figure: "Figure", handles: list[Any]) -> int:
    """The legend below the axes; returns its number of rows."""
    lengths = [len(handle.get_label()) for handle in handles]
    half = math.ceil(len(handles) / 2)
    # About 102 characters and two keys fit in a line.
    num_columns = 2 if max(lengths[:half]) + max(lengths[half:], default=0) <= 102 else 1
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=num_columns,
        frameon=False,
        fontsize=9,
        columnspacing=1.6,
        handlelength=2.4,
    )
    return math.ceil(len(handles) / num_columns)


def _dress(axes: "Axes", lines: Sequence[str], num_epochs: int) -> None:
    """Axis of epochs, title and subtitle."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.02 * num_epochs, 1.02 * num_epochs)
    axes.set_xlabel("fork epoch: epochs trained dense before pruning")
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    subtitle = "\n".join(textwrap.fill(line, 96) for line in lines)
    num_lines = subtitle.count("\n") + 1
    title = "When to prune: accuracy against the epoch of pruning"
    axes.set_title(title, loc="left", weight="bold", pad=10 + 12.5 * num_lines)
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


def _subtitle(content: Content, trunk: str) -> list[str]:
    """Lines: what does not vary; on how many seeds, and what was left out."""
    data = content.config.get("data", {}).get("name")
    parts = [", ".join(str(part) for part in (data, trunk, f"T = {content.num_epochs} epochs") if part)]
    pruned = (*content.curves, *content.online)
    if pruned:
        shared = [axis for axis in curves.CURVE_AXES if axis not in curves.varying(pruned)]
        fixed = labels.curve_label(pruned[0], shared)
        parts.append(f"forks: {fixed}" if fixed else "")
    counts = {status: sum(run.status == status for run in content.runs) for status in LOST}
    left_out = [
        f"{count} {status} run{'s' * (count > 1)} left out" for status, count in counts.items() if count
    ]
    lines = parts, [_seeds_text(content), *left_out]
    return ["; ".join(part for part in line if part) for line in lines if any(line)]


def _seeds_text(content: Content) -> str:
    pruned = (*content.curves, *content.online)
    members = [run for curve in pruned for run in curve.members]
    seeds = {run.trunk_seed for run in (*members, *content.dense)}
    sizes = [len(group) for curve in pruned for group in curve.runs.values()] + [len(content.dense)]
    text = f"{len(seeds)} seed{'s' * (len(seeds) != 1)}" if seeds else ""
    if max(sizes) < 2:
        return f"{text}, so the noise is unknown" if len(seeds) == 1 else text
    dots = "; dots are single runs" if members and content.shows_single_runs else ""
    return f"{text}: mean ± one standard deviation{dots}"


def render(figure: "Figure", extension: str) -> bytes:
    """The bytes of a png or svg file: the same for the same figure, with the same matplotlib."""
    import matplotlib

    buffer = io.BytesIO()
    # Without a salt the ids in the SVG, and without a date its bytes, would differ from call to call.
    with matplotlib.rc_context({"svg.hashsalt": "earlyprune_jax", "svg.fonttype": "none"}):
        metadata: dict[str, Any] = {"Date": None} if extension == "svg" else {"Software": None}
        figure.savefig(buffer, format=extension, dpi=150, metadata=metadata)
    return buffer.getvalue()
