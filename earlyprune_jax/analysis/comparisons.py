"""Comparisons between the replicates of a cell: how alike networks fine-tuned from one mask are.

The engine writes them to comparisons/<name>/run.json and result.json; here they are read and
tabled.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import publish, results
from earlyprune_jax.analysis import study as studies
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.runs import axes_of, is_number
from earlyprune_jax.analysis.study import Swept
from earlyprune_jax.validate import InvalidInput, shortened, unexpected

NUMBERS = ("num_examples", "model_similarity", "model_similarity_standard_error", "disagreement")


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The replicates of one cell against one another.

    Attributes:
        cell: what it is about: a run's axes without the replicate, for it is between replicates.
        status: finished, skipped, failed, or unfinished where no result has been written.
        numbers: every number of result.json, by name. `model_similarity` is the mean Jensen-Shannon
            divergence over examples and pairs of replicates, nats, 0 to ln 2: the larger, the LESS
            alike (its name is paper B's); `disagreement` the share of examples on which two
            replicates predict different classes.
    """

    cell: Place
    replicates: tuple[int, ...]
    status: str
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str | None = None

    @property
    def model_similarity(self) -> float | None:
        """The divergence; None unless finished, and measured."""
        return self.numbers.get("model_similarity")


def read(workdir: str | Path, swept: Swept | None = None) -> list[Comparison]:
    """Reads the comparisons of a workdir, one per cell, sorted by cell.

    A cell that was compared again, with other replicates or by other measures, has several
    directories. A finished one counts before others, then the most replicates, the most numbers,
    the last by name.

    Args:
        workdir: an experiment's directory; one without comparisons has none.
        swept: of its runs: keys that are axes of the cells too.

    Returns:
        The comparisons, ended or not.

    Raises:
        InvalidInput: files that a finished write cannot have left; names each.

    Example:
        >>> read("no/such/workdir")
        []
    """
    found: dict[Place, Comparison] = {}
    problems: list[str] = []
    for path in sorted(Path(workdir).glob("comparisons/*/run.json")):
        try:
            one = _read_one(path, swept or Swept())
        except InvalidInput as error:
            problems += error.problems
            continue
        # Of equals the last by name.
        if one.cell not in found or _worth(one) >= _worth(found[one.cell]):
            found[one.cell] = one
    if problems:
        raise InvalidInput(shortened(sorted(problems)))
    return [found[cell] for cell in sorted(found)]


def rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Gives the rows of comparisons.csv: one per ended comparison; replicates joined by spaces.

    Numbers of measures that are not known here have columns of their own, sorted by name.

    Example:
        >>> rows([])
        []
    """
    ended = [one for one in comparisons if one.status != "unfinished"]
    others = sorted({name for one in ended for name in one.numbers} - set(NUMBERS))
    return [
        {
            **one.cell.named,
            "replicates": " ".join(map(str, one.replicates)),
            "status": one.status,
            **{name: one.numbers.get(name) for name in (*NUMBERS, *others)},
            "reason": one.reason,
        }
        for one in ended
    ]


def write(workdir: str | Path, comparisons: Sequence[Comparison]) -> list[Path]:
    """Writes comparisons.csv where a comparison has ended.

    Example:
        >>> write("no/such/workdir", [])
        []
    """
    found = rows(comparisons)
    return [results.save(Path(workdir) / publish.COMPARISONS, found)] if found else []


def _worth(one: Comparison) -> tuple[bool, int, int]:
    """What is kept of two comparisons of one cell: the one of more worth."""
    return one.status == "finished", len(one.replicates), len(one.numbers)


def _read_one(path: Path, swept: Swept) -> Comparison:
    described = studies.with_current_names(records.read_json(path) or {})
    axes = axes_of(swept)[:-1]
    needed = [name for name in (*axes, "replicates") if "." not in name]
    if missing := [name for name in needed if described.get(name) is None]:
        raise unexpected(str(path), sorted(described), f"to have {missing}", records.REMEDY)
    config = described.get("config") or {}
    values = (studies.value_of(config, axis) if "." in axis else described[axis] for axis in axes)
    cell, replicates = Place.of(axes, values), tuple(described["replicates"])
    result = records.RunRecords(path.parent).result()
    if result is None:
        return Comparison(cell, replicates, "unfinished")
    _check(path.with_name("result.json"), result)
    numbers = {name: value for name, value in result.items() if is_number(value)}
    return Comparison(cell, replicates, result["status"], numbers, result.get("reason"))


def _check(path: Path, result: Mapping[str, Any]) -> None:
    divergence = result.get("model_similarity")
    # An experiment may compare by other measures alone; a few roundings beyond the ends are no
    # damage.
    if "model_similarity" in result and not (
        is_number(divergence) and -1e-4 <= divergence <= math.log(2) + 1e-4
    ):
        allowed = "to be a divergence in nats, 0 to ln 2"
        raise unexpected(f"{path}: model_similarity", divergence, allowed, records.REMEDY)
    if result["status"] == "finished" and not any(map(is_number, result.values())):
        raise unexpected(str(path), result, "to hold the number of a measure", records.REMEDY)
