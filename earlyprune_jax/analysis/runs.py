"""The runs of a workdir as one frame: a row per run, with all its axes, swept keys and numbers.

Of trunks every epoch is kept, for its signals; of the runs pruned from them, which are many, only
the last and the best. Pandas is imported on use: a process that trains needs none of it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import run_files
from earlyprune_jax.analysis import study as studies
from earlyprune_jax.analysis.places import CURVE, SETTING, Place, order
from earlyprune_jax.analysis.run_files import Files
from earlyprune_jax.analysis.study import Study, Swept
from earlyprune_jax.metrics import Metric

ONLINE = ("trigger", "fired_epoch", "marked_epoch", "mode")
"""What run.json says of a run that pruned itself; `fork_epoch` is then the epoch of its weights."""
Table = Any
"""A pandas.DataFrame: its methods are typed for all kinds of columns at once, which helps no
checker."""
KINDS = ("trunk", "fork", "online")
LOST = ("diverged", "failed")
"""How a run ends without a result: its numbers were no longer finite, or it raised."""
TEXTS = (
    "name",
    "kind",
    "model",
    "schedule",
    "criterion",
    "scope",
    "rule",
    "status",
    "reason",
    "trigger",
    "mode",
)
FRACTIONS = ("train_fraction", "sparsity", "achieved_sparsity", "final_lr", "seconds")
"""Columns of text and of numbers; of the others those of metrics hold numbers, swept keys
anything."""


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a workdir, trunks first, then sorted by all axes.

    Attributes:
        study: the metrics.
        config: of `study.read_config`.
        swept: the swept keys; each has a column of its full name.
        frame: a row per run: its directory's name, axes, status, metrics of the last epoch, the
            best epochs. `end_epoch` is the last finished epoch; `complete` says that the run has
            finished and was trained to the last epoch planned. No value is NA, None or NaN.
        entries: a trunk's directory -> its finished epochs, without values per parameter.
    """

    study: Study
    config: Mapping[str, Any]
    swept: Swept
    frame: Table
    entries: Mapping[str, Sequence[Mapping[str, Any]]]

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Any]:
        """Yields a named tuple per run."""
        return each(self.frame)

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.study.primary

    @property
    def setting_axes(self) -> tuple[str, ...]:
        """The columns that tell settings apart."""
        return (*SETTING, *self.swept.trunk)

    @property
    def curve_axes(self) -> tuple[str, ...]:
        """The columns that tell curves apart, those of the setting first."""
        return (*self.setting_axes, *CURVE, *self.swept.fork)

    @property
    def axes(self) -> tuple[str, ...]:
        """All axes, in the order of the tables and of sorting."""
        return axes_of(self.swept)

    def where(self, mask: Any) -> "Runs":
        """Keeps the rows of a mask."""
        return dataclasses.replace(self, frame=self.frame[mask])

    def of_kind(self, kind: str) -> "Runs":
        """Keeps the runs of one kind: trunk, fork or online."""
        return self.where(self.frame["kind"] == kind)

    def histories(self) -> dict[int, Sequence[Mapping[str, Any]]]:
        """Trunk seed -> its epochs; of one setting only."""
        trunks = self.of_kind("trunk").frame
        return {
            int(seed): self.entries[name]
            for seed, name in zip(trunks["trunk_seed"], trunks["name"], strict=True)
        }


def each(frame: Table) -> Iterator[Any]:
    """Yields a named tuple per row, None where there is no value.

    Example:
        >>> import pandas as pd
        >>> [run.x for run in each(pd.DataFrame({"x": pd.Series([1, None], dtype="Int64")}))]
        [1, None]
    """
    return frame.astype("object").where(frame.notna(), None).itertuples(index=False)


def axes_of(swept: Swept) -> tuple[str, ...]:
    """Lists all axes of runs, in the order of the tables.

    Example:
        >>> axes_of(Swept(fork=("fork.length",)))[4:]
        ('fork_epoch', 'criterion', 'scope', 'sparsity', 'rule', 'fork.length', 'replicate')
    """
    return (*SETTING, *swept.trunk, "trunk_seed", "fork_epoch", *CURVE, *swept.fork, "replicate")


def read_runs(workdir: str | Path) -> Runs:
    """Reads every run of a workdir, of this version or of an earlier one.

    A directory without run.json is not a run; any of `trunks`, `forks` and `online` may be absent.
    The last line of metrics.jsonl may be torn (a crash while writing) and is then dropped.

    Args:
        workdir: The experiment's directory.

    Returns:
        The runs, ended or not.

    Raises:
        InvalidInput: A file that a finished write cannot have left; names file and line.

    Example:
        >>> len(read_runs("no/such/workdir"))
        0
    """
    config, files = studies.read_config(workdir), run_files.read(workdir)
    swept = studies.swept_keys(config, files.configs)
    _add_swept(files, swept)
    read = sorted(files.runs, key=lambda run: _sort_key(run.row, axes_of(swept)))
    frame = _frame([run.row for run in read], files.study, swept)
    trunks = {run.row["name"]: run.entries for run in read if run.entries is not None}
    return Runs(files.study, config, swept, frame, trunks)


def by_setting(runs: Runs) -> dict[Place, Runs]:
    """Gives the runs of each setting, in their order; the settings sorted.

    Example:
        >>> by_setting(read_runs("no/such/workdir"))
        {}
    """
    axes = list(runs.setting_axes)
    groups = runs.frame.groupby(axes, sort=False, dropna=False) if len(runs) else ()
    found = {Place.of(axes, values): frame for values, frame in groups}
    return {place: dataclasses.replace(runs, frame=found[place]) for place in sorted(found)}


def result_columns(study: Study, swept: Swept) -> tuple[str, ...]:
    """Lists the columns of results.csv.

    Example:
        >>> from earlyprune_jax.analysis.study import LOSS
        >>> result_columns(Study((LOSS,), LOSS), Swept())[-13:-9]
        ('test_loss', 'best_test_loss', 'best_test_epoch', 'validation_epoch')
    """
    primary = study.primary.column("test")
    return (
        "kind",
        *axes_of(swept),
        *("status", "achieved_sparsity", "epochs_trained", "final_lr"),
        *study.columns,
        *(f"best_{primary}", "best_test_epoch", "validation_epoch", f"validation_epoch_{primary}"),
        *("diverged_epoch", "diverged_step", "seconds", "reason"),
        *ONLINE,
    )


def _add_swept(files: Files, swept: Swept) -> None:
    """Adds the values of swept keys to the rows; those of forks say nothing of a trunk."""
    of_trunk = [{key: studies.value_of(one, key) for key in swept.trunk} for one in files.configs]
    of_fork = [{key: studies.value_of(one, key) for key in swept.fork} for one in files.configs]
    for run in files.runs if swept != Swept() else ():
        is_trunk = run.row["kind"] == "trunk"
        run.row.update(of_trunk[run.config], **({} if is_trunk else of_fork[run.config]))


def _sort_key(row: Mapping[str, Any], axes: Sequence[str]) -> tuple[Any, ...]:
    kind = KINDS.index(row["kind"]) if row["kind"] in KINDS else len(KINDS)
    return (kind, *(order(row.get(axis)) for axis in axes))


def _frame(rows: Sequence[Mapping[str, Any]], study: Study, swept: Swept) -> Table:
    import pandas as pd

    columns = (
        "name",
        *result_columns(study, swept),
        "first_epoch",
        "last_epoch",
        "end_epoch",
        "complete",
    )
    primary = study.primary.column("test")
    floats = {*FRACTIONS, *study.columns, f"best_{primary}", f"validation_epoch_{primary}"}
    kinds = dict.fromkeys((*TEXTS, *swept.trunk, *swept.fork), "object") | {"complete": "bool"}
    return pd.DataFrame(
        {
            column: pd.Series(
                [row.get(column) for row in rows],
                dtype=kinds.get(column, "float64" if column in floats else "Int64"),
            )
            for column in columns
        }
    )
