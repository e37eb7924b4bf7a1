"""A study as its workdir describes it: which metrics it reports, and which keys it sweeps."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records, spec
from earlyprune_jax.analysis.places import NAMES
from earlyprune_jax.metrics import PERCENT, Metric
from earlyprune_jax.validate import unexpected

SPLITS = ("train", "validation", "test")
EARLIER_NAMES = {"rule": "retraining", "rules": "retraining"}
LOSS = Metric("loss", "nats", larger_is_better=False)


@dataclasses.dataclass(frozen=True)
class Study:
    """What all runs of a workdir share.

    Attributes:
        metrics: in the order of the tables.
        primary: decides which fork epoch is best.
        folder: where code of the user's is found; None where that is not known.
        code: (import path, digest) of the user's code that the runs were made with; see
            `references.digest`.

    Example:
        >>> Study((LOSS,), LOSS).columns
        ('train_loss', 'validation_loss', 'test_loss')
    """

    metrics: tuple[Metric, ...]
    primary: Metric
    folder: str | None = None
    code: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all metrics, split by split."""
        return tuple(metric.column(split) for split in SPLITS for metric in self.metrics)

    def metric_of(self, column: str) -> Metric | None:
        """The metric that a column of records is of; None for other columns."""
        return next((m for m in self.metrics if column in map(m.column, SPLITS)), None)


@dataclasses.dataclass(frozen=True)
class Swept:
    """Keys that have several values in a workdir, by what they tell apart; `NAMES` are left out.

    Attributes:
        trunk: tell trunks apart, and so settings.
        fork: tell forks of one trunk apart, and so curves.
    """

    trunk: tuple[str, ...] = ()
    fork: tuple[str, ...] = ()


def read_config(workdir: str | Path) -> dict[str, dict[str, Any]]:
    """Reads the resolved config {section: {key: value}}; empty where config.json is absent.

    Example:
        >>> read_config("no/such/workdir")
        {}
    """
    config = records.read_json(Path(workdir) / "config.json") or {}
    fork = config.get("fork")
    return config | {"fork": with_current_names(fork)} if isinstance(fork, dict) else config


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Renames what earlier versions called otherwise.

    Example:
        >>> with_current_names({"rule": "paper_a", "sparsity": 0.9})
        {'retraining': 'paper_a', 'sparsity': 0.9}
    """
    return {EARLIER_NAMES.get(name, name): value for name, value in values.items()}


def read_study(workdir: str | Path) -> Study | None:
    """Reads study.json; None for a workdir of an earlier version, which has none.

    Raises:
        InvalidInput: the file does not name metrics and the primary one.

    Example:
        >>> read_study("no/such/workdir") is None
        True
    """
    path = Path(workdir) / "study.json"
    held = records.read_json(path)
    if held is None:
        return None
    try:
        metrics = tuple(map(Metric.from_json, held["metrics"]))
        (primary,) = (metric for metric in metrics if metric.name == held["primary"])
    except (KeyError, TypeError, ValueError) as error:
        allowed = "to name metrics and the primary one"
        raise unexpected(str(path), sorted(held), allowed, records.REMEDY) from error
    code = held.get("code") or {}
    return Study(metrics, primary, held.get("folder"), tuple(sorted(code.items())))


def recorded_study(entries: Iterable[Mapping[str, Any]]) -> Study:
    """Tells the metrics of a workdir without study.json from what its runs have recorded.

    Earlier versions trained classifiers only: a loss in nats, and fractions shown in percent, of
    which the first is the primary one.

    Args:
        entries: epochs of runs.

    Example:
        >>> entry = {"epoch": 1, "train_loss": 0.1, "train_seconds": 2.0, "test_f1": 0.9}
        >>> study = recorded_study([entry])
        >>> study.primary, study.columns[-2:]
        (Metric(name='f1', unit='%', larger_is_better=True), ('test_loss', 'test_f1'))
    """
    columns = dict.fromkeys(column for entry in entries for column in entry)
    parts = (column.partition("_") for column in columns)
    names = dict.fromkeys(name for split, _, name in parts if split in SPLITS and name != "seconds")
    others = tuple(Metric(name, PERCENT) for name in names if name and name != LOSS.name)
    return Study((LOSS, *others), others[0] if others else LOSS)


def swept_keys(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> Swept:
    """Finds the keys that tell settings, and those that tell curves apart.

    Args:
        config: of `read_config`: what its `sweep` names is swept, whatever has been trained yet.
        configs: the distinct configs of the runs; keys whose values differ between them are swept.

    Example:
        >>> swept_keys({"sweep": {"optim.weight_decay": [0.0, 0.1]}}, [])
        Swept(trunk=('optim.weight_decay',), fork=())
    """
    sweep = config.get("sweep") or {}
    named = {*sweep, *(key for row in sweep.get("rows", ()) for key in row)} - {"rows"}
    found = []
    for kinds in (("data", "trunk"), ("fork",)):
        decided = [spec.deciding(one, *kinds) for one in configs]
        keys = dict.fromkeys(key for one in decided for key in one)
        known = (key for key in sorted(named) if key in spec.KEYS)
        keys |= dict.fromkeys(key for key in known if spec.decides(key) in kinds)
        values = {key: {frozen(one[key]) for one in decided if key in one} for key in keys}
        swept = [key for key in keys if key in named or len(values[key]) > 1]
        found.append([key for key in swept if key not in NAMES.values()])
    trunk, fork = found
    return Swept(tuple(trunk), tuple(key for key in fork if key not in trunk))


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Gives a config's value of "section.key", lists as tuples; None where it has none.

    Example:
        >>> value_of({"optim": {"weight_decay": 0.1}}, "optim.weight_decay")
        0.1
    """
    section, leaf = key.split(".")
    return frozen(config.get(section, {}).get(leaf))


def frozen(value: Any) -> Any:
    """Makes a JSON value hashable: lists become tuples.

    Example:
        >>> frozen([1, [2]])
        (1, (2,))
    """
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value
