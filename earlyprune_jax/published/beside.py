"""A published figure's curves beside those of a workdir, over a common axis: the part of training.

Ours are paired with the published ones by their order: data sets, networks from small to large,
weight decays from large to small, schedules, sparsities from small to large. So a shrunken figure
has the published one beside it too; where it has fewer curves, nothing is paired.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import drawing, formatting, peaks, results
from earlyprune_jax.analysis.curves import Curve, Setting, settings_of
from earlyprune_jax.analysis.places import varying
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.published.curves import AccuracyCurve, accuracy_curves, three_regime_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEM = "published"
TABLE = "published.csv"
COLUMNS = (
    *("panel", "curve", "row", "part_of_training", "epoch"),
    *("ours", "std", "n", "last_epoch", "published", "difference"),
)
SCHEDULES = ("exponential", "cosine", "linear")
FAINT: dict[str, Any] = {"alpha": 0.45, "linewidth": 1.2, "linestyle": "--"}
"""How published curves look."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """One of our curves, and the published one; None where there is none, or none it belongs to."""

    ours: Curve
    published: AccuracyCurve | None


def curves_of(name: str) -> tuple[AccuracyCurve, ...]:
    """Lists the published curves of a figure, in the order that pairs them.

    Args:
        name: of the figure, as `figure.name`: A 6 is A 6a, A 6b and A 6c.

    Example:
        >>> [curve.dense.schedule for curve in curves_of("A 6")]
        ['exponential', 'cosine', 'linear']
        >>> len(curves_of("A 3")), len(curves_of("B follow_up")), len(curves_of("B 3a"))
        (4, 9, 0)
    """
    paper, _, number = name.partition(" ")
    if name == "B follow_up":
        return three_regime_curves()
    panel = re.compile(rf"{re.escape(number)}[a-z]?")
    found = [curve for curve in accuracy_curves() if any(map(panel.fullmatch, curve.panels))]
    return tuple(sorted(found, key=_published_order)) if paper == "A" else ()


def _published_order(curve: AccuracyCurve) -> tuple[Any, ...]:
    dense = curve.dense
    schedule = SCHEDULES.index(dense.schedule) if dense.schedule in SCHEDULES else -1
    return dense.dataset, _size(dense.network), -dense.weight_decay, schedule, curve.sparsity


def _order(curve: Curve) -> tuple[Any, ...]:
    config = curve.setting.runs.config
    values = {"data.name": "", "data.split_seed": 0, "optim.weight_decay": 0.0}
    found = {
        key: curve.place.named.get(key, config.get(section, {}).get(leaf, value))
        for key, value in values.items()
        for section, _, leaf in [key.partition(".")]
    }
    schedule, network = curve.place["schedule"], _size(curve.place["model"])
    order = SCHEDULES.index(schedule) if schedule in SCHEDULES else -1
    data = found["data.name"], found["data.split_seed"]
    return *data, network, -found["optim.weight_decay"], order, curve.place["sparsity"]


def _size(network: str) -> int:
    """Returns the number in a network's name."""
    return int((re.findall(r"\d+", network) or [0])[0])


def pairs(name: str, settings: Sequence[Setting]) -> list[Pair]:
    """Pairs the curves of a workdir with those of a published figure.

    Args:
        name: of the figure.
        settings: of the workdir.
    """
    ours = sorted((curve for setting in settings for curve in setting.curves), key=_order)
    published = curves_of(name)
    beside = published if len(published) == len(ours) else [None] * len(ours)
    return [Pair(own, other) for own, other in zip(ours, beside, strict=True)]


def write(into: str | Path, *, runs: Runs) -> list[Path]:
    """Writes published.csv and figures/published.png and .svg.

    Accuracies are the best over epochs on test, as the papers report them; `last_epoch` is ours at
    the last one. `row` says what a row is of: fork (a fork epoch), dense (the dense run), peak (of
    a signal: `part_of_training` is where it lies, ours and published as parts too).

    Args:
        into: the folder.
        runs: those of one figure.

    Returns:
        The paths; none where the figure has no published curves, or nothing has finished yet.
    """
    config = runs.config.get("figure", {})
    found = pairs(config.get("name", ""), settings_of(runs))
    if not any(pair.published for pair in found):
        return []
    rows = [row | {"changed": "; ".join(config["changed"])} for row in _rows(found)]
    table = results.save(Path(into) / TABLE, rows, [*COLUMNS, "changed"])
    return [table, *_draw(into, config, found)]


def _rows(found: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    axes = varying(pair.ours.place for pair in found)
    for pair in found:
        if other := pair.published:
            panels = " ".join(other.panels)
            named = {"panel": panels, "curve": formatting.label(pair.ours.place, axes)}
            for row in _rows_of(pair.ours, other):
                yield dict.fromkeys(COLUMNS) | named | row


def _rows_of(ours: Curve, other: AccuracyCurve) -> Iterator[dict[str, Any]]:
    whole, theirs = ours.setting.num_epochs, other.dense.num_epochs
    near = {round(epoch / theirs, 2): value for epoch, value in _points(other)}
    for epoch in ours.epochs:
        row = {"row": "fork", "part_of_training": epoch / whole, "epoch": epoch}
        last = ours.metric.scale * ours.test(epoch).mean
        yield row | _compared(_best(ours, epoch), near.get(round(epoch / whole, 2)), last)
    dense = ours.setting.dense
    if len(dense):
        last = ours.metric.scale * stats(dense[ours.metric.column("test")]).mean
        best = _scaled(ours, dense[_best_column(ours)])
        yield {"row": "dense", **_compared(best, other.dense.accuracy, last)}
    for peak in ours.setting.peaks:
        if peak.signal == other.dense.signal:
            published = (other.dense.peak_epoch or 0) / theirs
            seeds = peaks.seed_peaks(ours.setting.signals, peak.signal)
            spread = stats(one.epoch / whole for one in seeds).std
            own = Stats(peak.epoch / whole, spread, len(seeds))
            yield {"row": f"peak {peak.signal}", "epoch": peak.epoch, **_compared(own, published)}


def _compared(ours: Stats, published: float | None, last: float | None = None) -> dict[str, Any]:
    difference = None if published is None else ours.mean - published
    return {
        **{"ours": ours.mean, "std": ours.std, "n": ours.n, "last_epoch": last},
        **{"published": published, "difference": difference},
    }


def _points(curve: AccuracyCurve) -> Iterator[tuple[int, float]]:
    return zip(curve.fork_epochs, curve.accuracies, strict=True)


def _best_column(curve: Curve) -> str:
    return f"best_{curve.metric.column('test')}"


def _best(curve: Curve, epoch: int) -> Stats:
    """Averages the best test metric over epochs, of the forks of one epoch."""
    return _scaled(curve, curve.at(epoch)[_best_column(curve)])


def _scaled(curve: Curve, values: Any) -> Stats:
    return stats(curve.metric.scale * float(value) for value in values)


def _draw(into: str | Path, config: dict[str, Any], found: Sequence[Pair]) -> list[Path]:
    """Draws a panel for each setting: accuracies above, signals below."""
    settings = list(dict.fromkeys(pair.ours.setting for pair in found))
    num = len(settings)
    figure = drawing.blank(1.0 + 4.6 * num, 6.4)
    upper, lower = figure.subplots(2, num, squeeze=False, sharex=True, height_ratios=(3, 1.8))
    styles = drawing.styles(pair.ours.place.kind for pair in found)
    axes = varying(setting.place for setting in settings)
    for place, setting in enumerate(settings):
        own = [pair for pair in found if pair.ours.setting is setting]
        _draw_accuracies(upper[place], own, styles, config)
        _draw_signals(lower[place], own)
        upper[place].set_title(formatting.label(setting.place, axes), loc="left", fontsize=9)
    about = "Best test accuracy over epochs, mean ± one standard deviation; faint: published"
    paper, _, number = config["name"].partition(" ")
    drawing.head(figure, f"Paper {paper}, figure {number}", about)
    drawing.add_legend(figure)
    return drawing.save_all(into, {STEM: figure})


def _draw_accuracies(axes: "Axes", own: Sequence[Pair], styles: Any, config: Any) -> None:
    """Draws our curves; the published ones on an axis of their own where ours are shrunken."""
    theirs = axes if config["scale"] == "full" else axes.twinx()
    whole = own[0].ours.setting.num_epochs
    for pair in own:
        ours, style = pair.ours, styles[pair.ours.place.kind]
        cells = [_best(ours, epoch) for epoch in ours.epochs]
        label = formatting.label(ours.place.kind.only(["criterion", "scope", "sparsity"]))
        means, errors = [cell.mean for cell in cells], [cell.std or 0.0 for cell in cells]
        parts = [epoch / whole for epoch in ours.epochs]
        axes.errorbar(parts, means, errors, label=label, capsize=2.5, **style.options)
        if other := pair.published:
            points = [(epoch / other.dense.num_epochs, value) for epoch, value in _points(other)]
            theirs.plot(*zip(*points, strict=True), color=style.color, **FAINT)
    axes.plot([], [], color=drawing.GREYS[1], label="published", **FAINT)
    _draw_dense(axes, theirs, own[0])
    axes.set_ylabel("ours (%)")
    if theirs is not axes:
        theirs.set_ylabel("published (%)", color=drawing.GREYS[1])
        theirs.spines["top"].set_visible(False)
    drawing.tidy(axes)


def _draw_dense(axes: "Axes", theirs: "Axes", pair: Pair) -> None:
    dense, other = pair.ours.setting.dense, pair.published
    if len(dense):
        level = _scaled(pair.ours, dense[_best_column(pair.ours)]).mean
        axes.axhline(level, color="black", linewidth=1.3, label="dense, never pruned")
    if other and other.dense.accuracy is not None:
        theirs.axhline(other.dense.accuracy, color="black", **FAINT)


def _draw_signals(axes: "Axes", own: Sequence[Pair]) -> None:
    """Draws signals over their maxima; of the published run the one that it has."""
    setting, other = own[0].ours.setting, own[0].published
    names = [peak.signal for peak in setting.peaks]
    styles = drawing.signal_styles(names)
    for peak in setting.peaks:
        epochs, values = peaks.mean_curve(setting.signals, peak.signal)
        name, look = formatting.signal_label(peak.signal, setting.runs.config), styles[peak.signal]
        parts, color = epochs / setting.num_epochs, look.color
        shown = values / (abs(values).max() or 1.0)
        axes.plot(parts, shown, color=color, label=f"{name} / maximum")
        axes.axvline(peak.epoch / setting.num_epochs, color=color, linestyle=":", linewidth=1.0)
    if other and other.dense.values:
        run = other.dense
        color = styles[run.signal].color if run.signal in styles else drawing.GREYS[1]
        largest = max(run.values)
        parts = [epoch / run.num_epochs for epoch in run.epochs]
        axes.plot(parts, [value / largest for value in run.values], color=color, **FAINT)
    axes.set_xlabel("part of training before pruning, t / T")
    axes.set_xlim(-0.02, 1.02)
    drawing.tidy(axes)
