"""Comparisons between the replicates of a cell: how alike networks fine-tuned from one mask are.

The engine writes them to comparisons/<name>/run.json and result.json; here they are read and tabled.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import results, runs
from earlyprune_jax.validate import InvalidInput, expected, shortened

CELL = (*results.SETTING, "trunk_seed", "fork_epoch", "criterion", "scope", "sparsity", "rule")
"""What a comparison is about: a run's axes without the replicate, for it is between replicates."""
NUMBERS = ("num_examples", "model_similarity", "model_similarity_standard_error", "disagreement")
COLUMNS = (*CELL, "replicates", "status", *NUMBERS)
"""Of the table; further measures follow, then the reason."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The replicates of one cell against one another.

    Attributes:
        model_similarity: mean Jensen-Shannon divergence over images and pairs of replicates, nats, 0 to
            ln 2: the larger, the LESS alike (its name is paper B's). None unless finished, and measured.
        disagreement: share of images on which two replicates predict different classes.
        status: finished, skipped, failed, or unfinished where no result has been written.
        others: every further number of result.json, by name: measures that are not known here.
    """

    model: str
    train_fraction: float
    schedule: str
    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    replicates: tuple[int, ...]
    status: str
    num_examples: int | None = None
    model_similarity: float | None = None
    model_similarity_standard_error: float | None = None
    disagreement: float | None = None
    reason: str | None = None
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def cell(self) -> tuple[Any, ...]:
        """What it is about, in the order of `CELL`."""
        return tuple(getattr(self, axis) for axis in CELL)

    @property
    def num_measured(self) -> int:
        """How many numbers it came to."""
        return len(self.others) + sum(getattr(self, name) is not None for name in NUMBERS)


def read(workdir: str | Path) -> list[Comparison]:
    """The comparisons of a workdir, one a cell, sorted by cell.

    A cell that was compared again, with other replicates or by other measures, has several directories.
    A finished one counts before others, then the most replicates, the most numbers, the last by name.

    Args:
        workdir: an experiment's directory; one without comparisons has none.

    Returns:
        The comparisons, ended or not.

    Raises:
        InvalidInput: files that a finished write cannot have left; names each.

    Example:
        >>> read("no/such/workdir")
        []
    """
    found: dict[tuple[Any, ...], Comparison] = {}
    problems: list[str] = []
    for path in sorted(Path(workdir).glob("comparisons/*/run.json")):
        try:
            one = _read_one(path.parent)
        except InvalidInput as error:
            problems += error.problems
            continue
        # Of equals the last by name.
        if one.cell not in found or _worth(one) >= _worth(found[one.cell]):
            found[one.cell] = one
    if problems:
        raise InvalidInput(shortened(sorted(problems)))
    return [found[cell] for cell in sorted(found)]


def table(comparisons: Iterable[Comparison]) -> str:
    """The text of comparisons.csv: a row an ended comparison; replicates joined by spaces.

    Numbers of measures that are not known here have columns of their own, sorted by name.

    Example:
        >>> table([]).startswith("model,train_fraction,schedule,trunk_seed,fork_epoch,")
        True
    """
    ended = [one for one in comparisons if one.status != "unfinished"]
    names = sorted({name for one in ended for name in one.others})
    rows = (
        {
            **{name: getattr(one, name) for name in (*COLUMNS, "reason")},
            "replicates": " ".join(map(str, one.replicates)),
            **{name: one.others.get(name) for name in names},
        }
        for one in ended
    )
    return results.csv_text((*COLUMNS, *names, "reason"), rows)


def _worth(one: Comparison) -> tuple[bool, int, int]:
    """What is kept of two comparisons of one cell: the one of more worth."""
    return one.status == "finished", len(one.replicates), one.num_measured


def _read_one(directory: Path) -> Comparison:
    path = directory / "run.json"
    described = records.read_json(path)
    if missing := [name for name in (*CELL, "replicates") if described.get(name) is None]:
        raise InvalidInput([expected(str(path), sorted(described), f"to have {missing}", records.REMEDY)])
    cell: dict[str, Any] = {name: described[name] for name in CELL}
    replicates = tuple(described["replicates"])
    result = records.RunRecords(directory).result()
    if result is None:
        return Comparison(**cell, replicates=replicates, status="unfinished")
    numbers: dict[str, Any] = {name: result.get(name) for name in NUMBERS}
    # An experiment may compare by other measures alone.
    if "model_similarity" in result and not _is_divergence(numbers["model_similarity"]):
        place = f"{directory / 'result.json'}: model_similarity"
        allowed = "to be a divergence in nats, 0 to ln 2"
        raise InvalidInput([expected(place, numbers["model_similarity"], allowed, records.REMEDY)])
    if result["status"] == "finished" and not any(map(runs.is_number, result.values())):
        place = str(directory / "result.json")
        raise InvalidInput([expected(place, result, "to hold the number of a measure", records.REMEDY)])
    others = {name: value for name, value in result.items() if runs.is_number(value) and name not in NUMBERS}
    return Comparison(
        **cell,
        replicates=replicates,
        status=result["status"],
        **numbers,
        reason=result.get("reason"),
        others=others,
    )


def _is_divergence(value: Any) -> bool:
    # A few float32 roundings beyond the ends are no damage.
    return isinstance(value, int | float) and -1e-4 <= value <= math.log(2) + 1e-4
