"""The figure of runs that prune themselves: the test metric over training, with the drop where the
rule fired and what came back after it. Matplotlib is imported on use, pyplot never."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax import records, triggers
from earlyprune_jax.analysis import drawing, formatting, results
from earlyprune_jax.analysis.curves import Curve, settings_of
from earlyprune_jax.analysis.drawing import COLORS, MARKERS
from earlyprune_jax.analysis.places import shared, varying
from earlyprune_jax.analysis.runs import Runs, each
from earlyprune_jax.run_records import RunRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEM = "{primary}_vs_epoch"
MAX_PANELS = 6
MAX_DESCRIBED = 4
"""Of more runs in a panel, or more panels, the legend names the seeds only."""
FIRED = "dashed: dense; dotted: the rule fired"
FALLBACK = "; dash-dotted: fallback, as the rule had not fired"
KEY = (
    "; first mark: the weights that were pruned. A pruned network is first measured after an epoch "
    "of retraining."
)
NUMBERS = " Three numbers: dense, after the first pruned epoch, at the end."
DENSE: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 1.2)), "alpha": 0.8}
PRUNED: dict[str, Any] = {"linewidth": 2.0, "markersize": 7, "markevery": 8}
STOPS: dict[bool, dict[str, Any]] = {
    True: {"linewidth": 1.1, "linestyle": ":"},
    False: {"linewidth": 1.1, "linestyle": "-."},
}
"""The line where dense training ended, by whether the rule fired."""
Points = list[tuple[int, float]]
"""(epoch, value in the metric's unit)."""


def draw(workdir: str | Path, *, runs: Runs | None = None) -> list[Path]:
    """Draws figures/METRIC_vs_epoch.png and .svg, where runs have pruned themselves.

    One panel per curve, six at most, and one colour per trunk seed: the dense epochs (dashed) up to
    the one at which the rule fired (a dotted line) or `fork.fallback_epoch` ended them (a
    dash-dotted one), then the pruned ones, whose first mark is on the weights that were pruned.
    Epochs are counted as they were trained: with `fork.prune_at=rewind` that mark lies before the
    dotted line. A pruned network is first measured after an epoch of retraining, so the fall ends
    there.

    Args:
        workdir: The experiment's directory, which holds the epochs of these runs.
        runs: Of `results.read_runs`, where they have been read already.

    Returns:
        The paths; empty where no such run has finished.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> draw("no/such/workdir")
        []
    """
    runs = results.read_runs(workdir) if runs is None else runs
    curves = [curve for setting in settings_of(runs) for curve in setting.online]
    name = STEM.format(primary=runs.metric.name)
    return drawing.save_all(workdir, {name: _figure(Path(workdir), curves) if curves else None})


def _figure(workdir: Path, curves: Sequence[Curve]) -> "Figure":
    shown, metric = curves[:MAX_PANELS], curves[0].metric
    figure, panels = drawing.panels(len(shown), *((7.4, 3.0) if len(shown) == 1 else (4.4, 2.7)))
    places = [curve.place for curve in curves]
    seeds = sorted({int(seed) for curve in curves for seed in curve.runs["trunk_seed"]})
    described = len(shown) == 1 and len(shown[0].runs) <= MAX_DESCRIBED
    for axes, curve in zip(panels, shown, strict=True):
        for run in each(curve.runs):
            _draw_run(axes, curve, run, workdir, seeds.index(run.trunk_seed), described=described)
        axes.set_title(formatting.label(curve.place, varying(places)), loc="left", fontsize=9)
        axes.set_xlabel("epochs trained, dense and pruned", fontsize=9)
        axes.set_ylabel(formatting.axis_label(metric), fontsize=9)
        drawing.tidy(axes)
        drawing.epoch_axis(axes, curve.setting.num_epochs)
    more = f" ({len(shown)} of {len(curves)} curves)" * (len(curves) > len(shown))
    title = f"Runs that prune themselves: {metric.name.replace('_', ' ')} over training{more}"
    rules = dict.fromkeys(sorted(rule for one in curves for rule in one.runs["trigger"]))
    has_fallback = any(one.runs["fired_epoch"].isna().any() for one in shown)
    key = FIRED + FALLBACK * has_fallback + KEY + NUMBERS * described
    named = formatting.listed(list(map(triggers.label, rules)))
    drawing.head(figure, title, f"{formatting.label(shared(places))}\nRule: {named}; {key}")
    drawing.add_legend(figure)
    return figure


def _draw_run(
    axes: "Axes", curve: Curve, run: Any, workdir: Path, number: int, *, described: bool
) -> None:
    folder = workdir / records.FOLDERS["online"] / run.name
    has_fired = run.fired_epoch is not None
    end = run.fired_epoch if has_fired else run.fork_epoch
    dense = _points(curve, curve.setting.histories.get(run.trunk_seed, ()))
    pruned = _points(curve, RunRecords(folder).epochs(), later=end - run.fork_epoch)
    if not pruned:
        return
    # A network pruned before its first epoch has no value before.
    pruned = [*(point for point in dense if point[0] == run.fork_epoch), *pruned]
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    label = f"seed {run.trunk_seed}"
    if described:
        values = " \N{RIGHTWARDS ARROW} ".join(f"{pruned[i][1]:.1f}" for i in (0, 1, -1))
        rewound = f", rewound to {run.fork_epoch}" if run.fork_epoch != end else ""
        fallback = "" if has_fired else " (fallback)"
        label += f": pruned after epoch {end}{fallback}{rewound}: {values}"
    axes.axvline(end, color=color, zorder=1, **STOPS[has_fired])
    axes.plot(*zip(*dense, strict=True), color=color, **DENSE)
    axes.plot(*zip(*pruned, strict=True), color=color, marker=marker, label=label, **PRUNED)


def _points(curve: Curve, entries: Iterable[Mapping[str, Any]], later: int = 0) -> Points:
    """Lists the test metric along epochs, which are counted from that of the pruning on."""
    column, scale = curve.metric.column("test"), curve.metric.scale
    known = ((entry["epoch"] + later, entry.get(column)) for entry in entries)
    return [(epoch, scale * value) for epoch, value in known if value is not None]
