"""What a run leaves on disk besides checkpoints: run.json, metrics.jsonl, result.json.

The one place that reads and writes these files, for the engine and for the analysis. A file
is replaced in one step and reaches the disk before it does; one that is damaged all the same
is named, with the remedy.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from earlyprune_jax import storage
from earlyprune_jax.validate import InvalidInput, unexpected

FOLDERS = {"trunk": "trunks", "fork": "forks", "online": "online", "comparison": "comparisons"}
"""Kind of member -> its folder in a workdir. `online` is a run that prunes itself."""
PLAN = "plan.json"
"""The members of the last session's grid, cell by cell, for who looks on."""
REMEDY = "Restore the file, or delete its directory: the same command then makes it again."
BUDGET_REMEDY = "Delete this file alone: the budget is then divided anew."
"""For a damaged file of signal_budgets/, which lies in no run's directory."""


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON, replacing the file in one step."""
    storage.replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, kind: type = dict, *, remedy: str = REMEDY) -> Any:
    """Reads a file's value.

    Args:
        path: of a JSON file.
        kind: of its value.
        remedy: what to do about a damaged one, for the message.

    Returns:
        The value, or None if there is no such file.

    Raises:
        InvalidInput: the file does not hold JSON of that kind.
    """
    text = storage.read_text(path)
    return None if text is None else _parse(text, kind, str(path), remedy)


def holds_study(workdir: Path) -> bool:
    """Tells whether runs have been begun in a directory, by this version or an earlier one."""
    return any((workdir / name).exists() for name in ("study.json", *FOLDERS.values()))


def require_workdir(path: str | Path) -> None:
    """Refuses what holds no experiment.

    Raises:
        InvalidInput: there is no such directory, it is empty, or another program's.

    Example:
        >>> require_workdir("none")         # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected DIR='none' to be a directory. There ...
    """
    folder = Path(path)
    if not folder.is_dir():
        remedy = "It is a file." if folder.exists() else "There is none of that name."
        raise unexpected("DIR", str(path), "to be a directory", remedy)
    if not holds_study(folder):
        remedy = "It holds other files only." if any(folder.iterdir()) else "It is empty."
        remedy += " Give what was the --workdir of a run."
        raise unexpected("DIR", str(path), "to hold runs of an experiment", remedy)


@contextlib.contextmanager
def sound(directory: Path) -> Iterator[None]:
    """Names the directory whose records are damaged.

    Raises:
        InvalidInput: what was done inside has failed for such a reason.
    """
    try:
        yield
    except InvalidInput:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        allowed = f"to hold the records of a run ({type(error).__name__}: {error})"
        raise unexpected("directory", str(directory), allowed, REMEDY) from error


def plain(value: Any) -> Any:
    """Returns the value with every non-finite number as None: JSON knows neither inf nor nan.

    Example:
        >>> plain({"a": [1.0, math.inf]})
        {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(entry: dict[str, Any]) -> dict[str, float | None]:
    """Flattens an epoch's entry: every number, those of its signals too, by column.

    What is not finite is None; numbers per parameter and the costs of signals are left out.

    Example:
        >>> signals = {"kl_uniform_bits": 2.0, "by": {"w": 1.0}}
        >>> flat({"epoch": 1, "train_loss": math.nan, "signals": signals})
        {'epoch': 1, 'train_loss': None, 'kl_uniform_bits': 2.0}
    """
    numbers = {**entry, **(entry.get("signals") or {})}
    return plain({name: value for name, value in numbers.items() if not isinstance(value, dict)})


def as_history(entries: Iterable[dict[str, Any]], num_epochs: int) -> list[dict[str, float | None]]:
    """Turns entries of metrics.jsonl into a trigger's history: flat, each with the planned length.

    Args:
        entries: of metrics.jsonl, ascending.
        num_epochs: what the dense run is planned for, pruned or not.

    Returns:
        A `triggers.History`.

    Example:
        >>> as_history([{"epoch": 1, "signals": {"fisher_trace": 2.0}}], 40)
        [{'epoch': 1, 'fisher_trace': 2.0, 'num_epochs': 40}]
    """
    return [flat(entry) | {"num_epochs": num_epochs} for entry in entries]


class RunRecords:
    """The records of one run directory; one JSON line an epoch, flushed to the disk.

    Example:
        >>> import tempfile
        >>> records = RunRecords(Path(tempfile.mkdtemp()))
        >>> _ = records.append({"epoch": 1, "test_accuracy": 0.5})
        >>> records.epochs(), records.result()
        ([{'epoch': 1, 'test_accuracy': 0.5}], None)
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"

    def start(self, identity: dict[str, Any]) -> None:
        """Makes the directory and says in run.json what runs here."""
        storage.make_directory(self.directory)
        write_json(self.directory / "run.json", identity)

    def epochs(self) -> list[dict[str, Any]]:
        """Reads the finished epochs' entries; a torn last line, left by a crash, is not one.

        Raises:
            InvalidInput: another line is damaged; names it.
        """
        *whole, _torn = (storage.read_text(self._metrics) or "").split("\n")
        return [
            _parse(line, dict, f"{self._metrics}, line {number}")
            for number, line in enumerate(whole, 1)
        ]

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Adds one epoch, and returns it; non-finite numbers become null in the file."""
        storage.append(self._metrics, json.dumps(plain(entry), allow_nan=False) + "\n")
        return entry

    def truncate(self, num_entries: int) -> None:
        """Keeps the first entries only: those a resumed run will not train again."""
        lines = [json.dumps(entry) + "\n" for entry in self.epochs()[:num_entries]]
        storage.replace_file(self._metrics, "".join(lines).encode())

    def result(self) -> dict[str, Any] | None:
        """Reads how the run ended, `status` and more, or None while it is unfinished."""
        path = self.directory / "result.json"
        result = read_json(path)
        if result is not None and "status" not in result:
            raise unexpected(str(path), result, "to have a status", REMEDY)
        return result

    def has_ended(self) -> bool:
        """Tells whether there is a result, without reading it."""
        return (self.directory / "result.json").is_file()

    def description(self) -> dict[str, Any] | None:
        """Reads what `start` has said; None before it has."""
        return read_json(self.directory / "run.json")

    def forget_result(self) -> None:
        """Takes back `finish`: the run goes on from where it is."""
        storage.remove(self.directory / "result.json")

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as ended: it will not be trained again."""
        write_json(self.directory / "result.json", result)


def _parse(text: str, kind: type, source: str, remedy: str = REMEDY) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise unexpected(source, text[:60], f"to be JSON ({error})", remedy) from error
    if not isinstance(value, kind):
        raise unexpected(source, text[:60], f"to hold a JSON {kind.__name__}", remedy)
    return value
