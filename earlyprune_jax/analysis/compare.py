"""Workdirs side by side: what differs between them, when to prune in each, and what that gives.

python -m earlyprune_jax.analysis.compare runs/first runs/second [--output DIR]

Writes compare.csv, a row per workdir and curve, and figures/compare.png and .svg. Workdirs of this
version and of earlier ones may be mixed. In the table metrics are in their own unit, percents as
fractions.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earlyprune_jax import spec
from earlyprune_jax.analysis import curves, drawing, peaks, results, words
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.places import CURVE, NAMES, SETTING, Place, varying
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import columns, stats
from earlyprune_jax.analysis.study import Swept, frozen
from earlyprune_jax.validate import InvalidInput, expected, unexpected

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE, STEM = "compare.csv", "compare"
MAX_PANELS = 6
SHOWN = 12
"""Lines of the table on the terminal."""
MAX_DIFFERING = 6
"""Differing keys with a column each on the terminal; of more only the names are printed."""
LONGEST = 24
"""Characters of a config's value on the terminal."""


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """A workdir among those compared.

    Attributes:
        name: tells it from the others.
        curves: of finished forks; of runs that pruned themselves where there are no forks.
        config: "section.key" -> value of all keys that decide numbers.
    """

    name: str
    runs: Runs
    dense: Table
    curves: tuple[Curve, ...]
    config: dict[str, Any]

    @property
    def num_unfinished(self) -> int:
        """Runs that have not ended."""
        return int((self.runs.frame["status"] == "unfinished").sum())


def compare(*workdirs: str | Path) -> Table:
    """Lays workdirs side by side: a row per workdir and curve.

    Columns: the workdir; what differs between the configs; where the curve lies, with every key
    that is swept in any of the workdirs; the best fork epoch, chosen as everywhere, and the epochs
    that may be as good; mean, std and n of the primary test metric there, of the dense runs, and of
    the paired difference to them with half its 95 % confidence interval (Student's t); the peak
    epoch of every headline signal.

    Args:
        workdirs: directories of experiments, with finished forks.

    Returns:
        The table; NaN or None where there is no value.

    Raises:
        InvalidInput: a workdir holds no finished forks or is given twice, or the primary metrics
            differ.

    Example:
        >>> compare("none")
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected WORKDIR='none' to hold runs of an experiment.
    """
    sides = _read(workdirs)
    swept, differing = _swept(sides), _differing(sides)
    return results.frame_of(
        _aligned([row for side in sides for row in _rows(side, swept, differing)])
    )


def write(workdirs: Sequence[str | Path], output: str | Path) -> list[Path]:
    """Writes compare.csv and the figure.

    Args:
        workdirs: as of `compare`.
        output: a directory, made if need be.

    Returns:
        The paths.

    Raises:
        InvalidInput: as `compare`.
    """
    table, sides = compare(*workdirs), _read(workdirs)
    Path(output).mkdir(parents=True, exist_ok=True)
    path = results.save(Path(output) / TABLE, table)
    return [path, *drawing.save_all(output, {STEM: _figure(sides)})]


def _read(workdirs: Sequence[str | Path]) -> list[Side]:
    resolved = [Path(workdir).resolve() for workdir in workdirs]
    twice = next((str(path) for path in workdirs if resolved.count(Path(path).resolve()) > 1), None)
    if twice is not None:
        raise unexpected("WORKDIR", twice, "to be given once")
    short = [path.name for path in resolved]
    names = short if len(set(short)) == len(short) else [str(workdir) for workdir in workdirs]
    sides = [_side(Path(workdir), name) for workdir, name in zip(workdirs, names, strict=True)]
    metrics = {side.runs.metric: side.name for side in sides}
    if len(metrics) > 1:
        told = ", ".join(f"{metric.name} in {name}" for metric, name in metrics.items())
        allowed = f"to be the same in all workdirs ({told})"
        raise unexpected("primary metric", next(iter(metrics)).name, allowed)
    return sides


def _side(workdir: Path, name: str) -> Side:
    runs = results.read_runs(workdir)
    if not len(runs):
        raise unexpected("WORKDIR", str(workdir), "to hold runs of an experiment")
    found = curves.without_baselines(curves.fork_curves(runs), runs.config)
    found = found or curves.fork_curves(runs, "online")
    if not found:
        raise unexpected("WORKDIR", str(workdir), "to hold finished forks")
    return Side(name, runs, curves.dense_runs(runs), tuple(found), _deciding(runs))


def _deciding(runs: Runs) -> dict[str, Any]:
    """The config's keys that decide numbers, under the names of this version."""
    config = {
        section: dict(keys) for section, keys in runs.config.items() if isinstance(keys, dict)
    }
    for key in NAMES.values():
        section, leaf = key.split(".")
        # Earlier versions had lists of these.
        listed = config.get(section, {}).pop(f"{leaf}s", None)
        if listed:
            config[section].setdefault(leaf, listed[0] if len(listed) == 1 else listed)
    return {
        key: frozen(value) for key, value in spec.deciding(config, "data", "trunk", "fork").items()
    }


def _swept(sides: Sequence[Side]) -> Swept:
    """Keys that any of the workdirs sweeps."""
    trunk = dict.fromkeys(key for side in sides for key in side.runs.swept.trunk)
    fork = dict.fromkeys(key for side in sides for key in side.runs.swept.fork)
    return Swept(tuple(trunk), tuple(key for key in fork if key not in trunk))


def _differing(sides: Sequence[Side]) -> list[str]:
    """Keys with different values in workdirs that have them, but for those with columns of their
    own."""
    swept = _swept(sides)
    own = {*NAMES.values(), *swept.trunk, *swept.fork}
    keys = dict.fromkeys(key for side in sides for key in side.config)
    values = {key: {side.config[key] for side in sides if key in side.config} for key in keys}
    return [key for key in keys if len(values[key]) > 1 and key not in own]


def _place(side: Side, curve: Curve, swept: Swept) -> Place:
    """Where a curve lies among those of all workdirs: what its own does not sweep is as its config
    says."""
    axes = (*SETTING, *swept.trunk, *CURVE, *swept.fork)
    return Place.of(axes, (curve.place.named.get(axis, side.config.get(axis)) for axis in axes))


def _rows(side: Side, swept: Swept, differing: Sequence[str]) -> Iterator[dict[str, Any]]:
    groups, test = results.by_setting(side.runs), side.runs.metric.column("test")
    found = {setting: peaks.mean_peaks(own) for setting, own in groups.items()}
    for curve in side.curves:
        own, ranking = curves.own_dense(curve, side.dense), curve.ranking
        is_grid = curve.runs["kind"].iloc[0] == "fork"
        best = ranking.best if is_grid else None
        against = curve.against(side.dense, ranking.best) if is_grid else None
        yield {
            "workdir": side.name,
            **{key: side.config.get(key) for key in differing},
            **_place(side, curve, swept).named,
            "best_fork_epoch": best,
            "as_good_fork_epochs": " ".join(map(str, sorted(ranking.rivals))) if is_grid else None,
            "num_fork_epochs": len(ranking.epochs),
            "chosen_on": side.runs.metric.column(curve.split) if is_grid else None,
            **columns(test, curve.test(best)),
            **columns(f"dense_{test}", stats(own[test]) if len(own) else None),
            **columns("difference", against),
            "difference_half_width_95": against.half_width() if against and against.std else None,
            **{f"{peak.signal}_peak_epoch": peak.epoch for peak in found[curve.setting]},
        }


def _aligned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the same columns: not every workdir has measured every signal."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _figure(sides: Sequence[Side]) -> "Figure":
    swept = _swept(sides)
    placed = [(side, curve, _place(side, curve, swept)) for side in sides for curve in side.curves]
    kinds = sorted({_kind(place) for _, _, place in placed})
    lines = {(side.name, place.setting): None for side, _, place in placed}
    shown = kinds[:MAX_PANELS]
    num_columns = min(len(shown), 3)
    num_rows = -(-len(shown) // num_columns)
    figure = drawing.blank(max(7.0, 1.2 + 4.6 * num_columns), 1.6 + 3.6 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True, sharex=True).ravel()
    handles: dict[str, Any] = {}
    axes_names = varying(kinds)
    settings = varying(setting for _, setting in lines)
    for axes, kind in zip(grid, shown, strict=False):
        for side, curve, place in placed:
            if _kind(place) == kind:
                style = list(lines).index((side.name, place.setting))
                label = ", ".join(filter(None, (side.name, _label(place.setting, settings))))
                handles[label] = _draw(axes, curve, side, style, label)
        axes.set_title(_label(kind, axes_names or kind.axes), loc="left", fontsize=9.5)
        axes.set_xlabel("fork epoch", fontsize=9)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    metric = sides[0].runs.metric
    grid[0].set_ylabel(words.with_unit(words.named(metric), metric.unit), fontsize=9)
    more = f"; {len(shown)} of {len(kinds)} kinds of forks, the others are in {TABLE}" * (
        len(kinds) > len(shown)
    )
    about = f"mean ± one standard deviation over runs; star: best fork epoch; dashed: dense{more}"
    drawing.head(
        figure, f"When to prune: {metric.name.replace('_', ' ')} of {len(sides)} workdirs", about
    )
    drawing.add_legend(figure, list(handles.values()))
    return figure


def _kind(place: Place) -> Place:
    return place.without(*place.setting.axes)


def _label(place: Place, axes: Sequence[str]) -> str:
    """Names a place; an earlier version may not have had a key that is swept now."""
    return words.label(place.without(*(axis for axis, value in place.items if value is None)), axes)


def _draw(axes: "Axes", curve: Curve, side: Side, index: int, label: str) -> Any:
    scale, color = curve.metric.scale, drawing.COLORS[index % len(drawing.COLORS)]
    cells = [curve.test(epoch) for epoch in curve.epochs]
    own = curves.own_dense(curve, side.dense)[curve.metric.column("test")]
    if len(own):
        axes.axhline(scale * own.mean(), color=color, linestyle="--", linewidth=1.0, alpha=0.8)
    best = curve.ranking.best
    style = {
        "color": color,
        "markeredgecolor": "white",
        "marker": "*",
        "markersize": 13,
        "zorder": 5,
    }
    axes.plot([best], [scale * curve.test(best).mean], linestyle="", **style)
    return axes.errorbar(
        list(curve.epochs),
        [scale * cell.mean for cell in cells],
        yerr=[scale * (cell.std or 0.0) for cell in cells]
        if any(cell.std for cell in cells)
        else None,
        color=color,
        marker=drawing.MARKERS[index % len(drawing.MARKERS)],
        markersize=4,
        linewidth=1.6,
        elinewidth=0.9,
        capsize=2,
        label=label,
    )


def _report(workdirs: Sequence[str], output: str) -> str:
    """Writes the files, and gives what is printed."""
    sides = _read(workdirs)
    metric = sides[0].runs.metric
    swept, differing = _swept(sides), _differing(sides)
    axes = varying(_place(side, curve, swept) for side in sides for curve in side.curves)
    shown = differing if len(differing) <= MAX_DIFFERING else []
    headings = (*axes, *shown, "best epoch", words.named(metric), "n", "dense", "against dense")
    rows = [
        (
            side.name,
            *_cells(_place(side, curve, swept), axes),
            *_config_cells(side, shown),
            *_numbers(side, curve),
        )
        for side in sides
        for curve in side.curves
    ]
    parts = [words.aligned([("workdir", *headings), *rows[:SHOWN]])]
    parts += (
        [f"  and {words.plural(len(rows) - SHOWN, 'more row')} in {TABLE}"]
        if len(rows) > SHOWN
        else []
    )
    if len(differing) > len(shown):
        parts.append(words.wrapped(f"Configs differ in {', '.join(differing)}: see {TABLE}."))
    for side in sides:
        if side.num_unfinished:
            parts.append(
                f"{side.name} is not finished: {words.plural(side.num_unfinished, 'run')} left out."
            )
    return "\n".join([*parts, f"Files: {', '.join(map(str, write(workdirs, output)))}"])


def _cells(place: Place, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cell(axis, place[axis]) for axis in axes)


def _config_cells(side: Side, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cell(key, side.config.get(key)) for key in keys)


def _cell(axis: str, value: Any) -> str:
    """A value on the terminal: a dash where there is none, of a long one its beginning."""
    if value is None:
        return "-"
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    text = words.short(Place(((axis, value),)))
    is_long = "." in axis and len(text) > LONGEST
    return f"{text[: LONGEST - 3]}..." if is_long else text


def _numbers(side: Side, curve: Curve) -> tuple[str, ...]:
    best, metric = curve.ranking.best, curve.metric
    found, own = curve.test(best), curves.own_dense(curve, side.dense)[metric.column("test")]
    return (
        str(best),
        words.amount(found, metric),
        str(found.n),
        words.amount(stats(own) if len(own) else None, metric),
        words.difference(curve.against(side.dense, best), metric, decimals=1),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files. Returns 0, or 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.analysis.compare",
        description="Lay finished workdirs side by side: what differs, when to prune, what that gives.",
    )
    parser.add_argument("workdirs", metavar="WORKDIR", nargs="+", help="an experiment's directory")
    parser.add_argument(
        "--output", metavar="DIR", default=".", help="where compare.csv and figures/ go"
    )
    flags = parser.parse_args(arguments)
    try:
        print(_report(flags.workdirs, flags.output))
    except InvalidInput as error:
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        print(f"- {expected('--output', flags.output, allowed)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
