"""What all runs of a workdir share, as its study.json says."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.metrics import Metric
from earlyprune_jax.spec import deciding
from earlyprune_jax.validate import unexpected

SPLITS = ("train", "validation", "test")
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
        settings: key -> value in JSON of all that decides runs, of each setting.

    Example:
        >>> Study((LOSS,), LOSS).columns
        ('train_loss', 'validation_loss', 'test_loss')
    """

    metrics: tuple[Metric, ...]
    primary: Metric
    folder: str | None = None
    code: tuple[tuple[str, str], ...] = ()
    settings: tuple[Mapping[str, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all metrics, split by split."""
        return tuple(metric.column(split) for split in SPLITS for metric in self.metrics)

    def require_own(self, directory: Path, described: Mapping[str, Any]) -> None:
        """Refuses a run of another study, which somebody has put here.

        Args:
            directory: of the run.
            described: what its run.json says.

        Raises:
            InvalidInput: no setting decides such a run; names the keys that differ.
        """
        if not self.settings or "config" not in described:
            return
        kinds = ("data", "trunk") if described["kind"] == "trunk" else ("data", "trunk", "fork")
        decided = deciding(described["config"], *kinds)
        values = {key: json.dumps(value) for key, value in decided.items()}
        others = [{k for k in values if one.get(k) != values[k]} for one in self.settings]
        if all(others):
            listed = ", ".join(f"{key}={values[key]}" for key in sorted(min(others, key=len)))
            allowed = f"to be of this study, which has no {listed}"
            raise unexpected("run", str(directory), allowed, "Move it away.")


def read_study(workdir: str | Path) -> Study | None:
    """Reads study.json; None where no study has been begun.

    Raises:
        InvalidInput: the file does not name metrics and the primary one.

    Example:
        >>> read_study("no/such/workdir") is None
        True
    """
    path = Path(workdir) / records.STUDY
    held = records.read_of_study(Path(workdir), records.STUDY)
    if held is None:
        return None
    try:
        metrics = tuple(Metric(**metric) for metric in held["metrics"])
        (primary,) = (metric for metric in metrics if metric.name == held["primary"])
        hash(metrics)
        settings = tuple(map(dict, held.get("settings", ())))
        code = tuple(sorted((held.get("code") or {}).items()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        allowed = "to name metrics and the primary one"
        raise unexpected(str(path), sorted(held), allowed, records.REMEDY) from error
    return Study(metrics, primary, held.get("folder"), code, settings)
