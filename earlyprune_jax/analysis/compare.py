"""Workdirs side by side: what differs between them, when to prune in each, and what that gives.

earlyprune compare runs/first runs/second [--output DIR]

The workdir is one more axis of the runs, and so is every key in which the configs differ: the table
of forks and the main figure are those of one workdir. Writes compare.csv, one row per workdir and
curve, and figures/compare.png and .svg (of many settings one each, named after it). In
compare.csv metrics are in their own unit, percents as fractions.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records, spec
from earlyprune_jax.analysis import figures, formatting, results, summary
from earlyprune_jax.analysis.curves import Curve, all_curves, settings_of
from earlyprune_jax.analysis.places import CURVE, NAMES, SETTING, Swept, frozen, varying
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import columns
from earlyprune_jax.storage import StorageError
from earlyprune_jax.validate import InvalidInput, answer, expected, unexpected

TABLE, STEM, WORKDIR = "compare.csv", "compare", "workdir"
SHOWN = 12
"""Lines of the table on the terminal."""
MAX_DIFFERING = 6
"""Differing keys with a column each on the terminal; of more only the names are printed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Workdirs:
    """Workdirs whose runs have the same axes.

    Attributes:
        runs: workdir by workdir, under the name that tells it from the others; baselines beside a
            grid are left out.
        curves: of all workdirs, in their order; of one without a grid those of its runs that pruned
            themselves.
        differing: keys with different values in the configs, but for those that have an axis of
            their own in one of the workdirs.
        swept: the keys that are swept in any of the workdirs.
    """

    runs: dict[str, Runs]
    curves: list[Curve]
    differing: tuple[str, ...]
    swept: Swept

    @property
    def axes(self) -> tuple[str, ...]:
        """The first columns of compare.csv."""
        return (WORKDIR, *self.differing, *SETTING, *self.swept.trunk, *CURVE, *self.swept.fork)


def compare(*workdirs: str | Path) -> Table:
    """Lays workdirs side by side: one row per workdir and curve.

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
        >>> compare("none")                 # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected DIR='none' to be a directory. There ...
    """
    return _table(_read(workdirs))


def _write(compared: Workdirs, output: str | Path) -> list[Path]:
    import pandas as pd

    Path(output).mkdir(parents=True, exist_ok=True)
    path = results.save(Path(output) / TABLE, _table(compared))
    every = list(compared.runs.values())
    together = dataclasses.replace(
        every[0],
        # The workdirs tell what differs in their configs apart.
        swept=Swept((WORKDIR, *compared.swept.trunk), compared.swept.fork),
        config=_common([runs.config for runs in every]),
        frame=pd.concat([runs.frame for runs in every], ignore_index=True),
        entries={name: entries for runs in every for name, entries in runs.entries.items()},
    )
    given = list(compared.runs)
    settings = sorted(settings_of(together), key=lambda one: given.index(one.place[WORKDIR]))
    return [path, *figures.draw(output, settings, STEM)]


def _read(workdirs: Sequence[str | Path]) -> Workdirs:
    paths = [Path(workdir).resolve() for workdir in workdirs]
    for workdir, path in zip(workdirs, paths, strict=True):
        if paths.count(path) > 1:
            raise unexpected("DIR", str(workdir), "to be given once")
    is_unique = len({path.name for path in paths}) == len(paths)
    names = [path.name for path in paths] if is_unique else map(str, workdirs)
    read = {name: _of_grid(workdir) for name, workdir in zip(names, workdirs, strict=True)}
    metrics = {runs.metric: name for name, runs in read.items()}
    if len(metrics) > 1:
        listed = ", ".join(f"{metric.name} in {name}" for metric, name in metrics.items())
        allowed = f"to be the same in all workdirs ({listed})"
        raise unexpected("primary metric", next(iter(metrics)).name, allowed)
    configs = {name: _deciding(runs) for name, runs in read.items()}
    trunk = dict.fromkeys(key for runs in read.values() for key in runs.swept.trunk)
    fork = dict.fromkeys(key for runs in read.values() for key in runs.swept.fork)
    swept = Swept(tuple(trunk), tuple(key for key in fork if key not in trunk))
    values: dict[str, set[Any]] = {}
    for key, value in (item for config in configs.values() for item in config.items()):
        values.setdefault(key, set()).add(value)
    named = {*NAMES.values(), *trunk, *fork}
    differing = tuple(key for key in values if len(values[key]) > 1 and key not in named)
    axes = Swept((WORKDIR, *differing, *swept.trunk), swept.fork)
    every = {name: _aligned(runs, name, configs[name], axes) for name, runs in read.items()}
    settings = [setting for runs in every.values() for setting in settings_of(runs)]
    curves = [curve for setting in settings for curve in setting.curves or setting.online]
    return Workdirs(every, curves, differing, swept)


def _of_grid(workdir: str | Path) -> Runs:
    """Reads the runs of a workdir but for baselines beside its grid; where it has forks of a grid,
    but for runs that pruned themselves too."""
    records.require_workdir(workdir)
    runs = results.read_runs(workdir)
    if not len(runs):
        raise unexpected("DIR", str(workdir), "to hold runs of an experiment")
    settings = settings_of(runs)
    every = [curve for one in settings for curve in (*one.forks, *one.online)]
    kept = all_curves(settings) or [curve for one in settings for curve in one.online]
    if not kept:
        raise unexpected("DIR", str(workdir), "to hold finished forks")
    dropped = {name for curve in every if curve not in kept for name in curve.runs["name"]}
    return runs.where(~runs.frame["name"].isin(dropped))


def _aligned(runs: Runs, name: str, config: dict[str, Any], axes: Swept) -> Runs:
    """Gives runs further axes: what their own workdir does not sweep is as its config says."""
    keys = [key for key in (*axes.trunk, *axes.fork) if key not in runs.frame]
    values = {key: [name if key == WORKDIR else config.get(key)] * len(runs) for key in keys}
    # Runs of two workdirs may have the same name.
    named = {"name": [f"{name}/{own}" for own in runs.frame["name"]]}
    frame = runs.frame.assign(**(values | named)).astype(dict.fromkeys(keys, "object"))
    entries = {f"{name}/{own}": kept for own, kept in runs.entries.items()}
    return dataclasses.replace(runs, swept=axes, frame=frame, entries=entries)


def _deciding(runs: Runs) -> dict[str, Any]:
    """Returns the config's keys that decide numbers, under the names of this version."""
    config = {section: dict(keys) for section, keys in runs.config.items()}
    for key in NAMES.values():
        section, leaf = key.split(".")
        # Earlier versions had lists of these.
        listed = config.get(section, {}).pop(f"{leaf}s", None)
        if listed:
            config[section].setdefault(leaf, listed[0] if len(listed) == 1 else listed)
    deciding = spec.deciding(config, "data", "trunk", "fork")
    return {key: frozen(value) for key, value in deciding.items()}


def _common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what configs have in common, but for their grids: those are in the runs."""
    first, *others = configs
    return {
        section: {
            key: value
            for key, value in first[section].items()
            if all(other.get(section, {}).get(key) == value for other in others)
        }
        for section in ("data", "signals", "train")
        if section in first
    }


def _table(compared: Workdirs) -> Table:
    import pandas as pd

    # Not every workdir has measured every signal.
    return pd.DataFrame([_row(compared, curve) for curve in compared.curves], dtype="object")


def _row(compared: Workdirs, curve: Curve) -> dict[str, Any]:
    ranking, metric = curve.ranking, curve.metric
    test, is_grid = metric.column("test"), curve in curve.setting.curves
    best = ranking.best if is_grid else None
    against = curve.against_dense(ranking.best) if is_grid else None
    return {
        **{axis: curve.place[axis] for axis in compared.axes},
        "best_fork_epoch": best,
        "as_good_fork_epochs": " ".join(map(str, sorted(ranking.rivals))) if is_grid else None,
        "num_fork_epochs": len(ranking.epochs),
        "chosen_on": metric.column(curve.split) if is_grid else None,
        **columns(test, curve.test(best)),
        **columns(f"dense_{test}", curve.setting.dense_test),
        **columns("difference", against),
        "difference_half_width_95": against.half_width() if against and against.std else None,
        **{f"{peak.signal}_peak_epoch": peak.epoch for peak in curve.setting.peaks},
    }


def _report(workdirs: Sequence[str], output: str) -> str:
    """Writes the files, and returns what is printed."""
    compared = _read(workdirs)
    hidden = compared.differing if len(compared.differing) > MAX_DIFFERING else ()
    varied = {WORKDIR, *varying(curve.place for curve in compared.curves)} - {*hidden}
    axes = [axis for axis in compared.axes if axis in varied]
    parts = list(summary.forks_table(compared.curves[:SHOWN], axes))
    if (more := len(compared.curves) - SHOWN) > 0:
        parts.append(f"  and {formatting.plural(more, 'more row')} in {TABLE}")
    if hidden:
        parts.append(formatting.wrapped(f"Configs differ in {', '.join(hidden)}: see {TABLE}."))
    for name, runs in compared.runs.items():
        parts += [f"{name}: {sentence}" for sentence in formatting.coverage(runs)]
    try:
        paths = _write(compared, output)
    except StorageError:
        raise
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        raise InvalidInput([expected("--output", output, allowed)]) from error
    folder = Path(output).resolve()
    names = ", ".join(str(path.resolve().relative_to(folder)) for path in paths)
    return "\n".join([*parts, f"Files in {folder}: {names}"])


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune compare",
        description="Lays studies side by side: what differs, and when to prune.",
    )
    made.add_argument("workdirs", metavar="DIR", nargs="+", help="a study's directory")
    made.add_argument(
        "--output",
        metavar="DIR",
        default=".",
        help="where compare.csv and figures/ go; default: the current folder",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files. Returns 0, or 2 where the input cannot be used."""
    flags = parser().parse_args(arguments)
    return answer(lambda: _report(flags.workdirs, flags.output))
