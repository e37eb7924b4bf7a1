"""What a run leaves on disk besides checkpoints: run.json, metrics.jsonl, result.json, and
attempts.json, which says which process has begun it and how often in a row that was.

The one place that reads and writes these files, for the engine and for the analysis. The lines of
metrics.jsonl are chained: each continues the checksum of the line before, so one that was lost,
doubled or moved is found too; result.json holds the last of them.
"""

import contextlib
import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from earlyprune_jax import records, storage
from earlyprune_jax.validate import InvalidInput, expected, problems_of, unexpected

STATUSES = ("finished", "diverged", "failed", "skipped")
"""How a member ends, as result.json says."""
ENDING = ', "checksum": "'
"""What comes before the checksum of a line."""
LAST = "metrics_checksum"
"""The key of result.json that holds the checksum of the last epoch's line."""
DATA = "data_sha256"
"""The key of run.json, of the first epoch's line and of result.json that says which data they are
of: a run of the same name may have been trained on others elsewhere."""


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


def seal(text: str, checksum: str) -> str:
    """Ends the text of an epoch's line, but for its last brace, with its checksum."""
    return f'{text}{ENDING}{checksum}"}}'


def process_name(process: int) -> str:
    """Names a process of this host among those of all hosts: HOST:PROCESS."""
    return f"{platform.node()}:{process}"


class RunRecords:
    """The records of one run directory; one JSON line an epoch, flushed to the disk.

    Args:
        directory: of the run.

    Example:
        >>> import tempfile
        >>> run = RunRecords(Path(tempfile.mkdtemp()))
        >>> _ = run.append({"epoch": 1, "test_accuracy": 0.5})
        >>> run.epochs(), run.result()
        ([{'epoch': 1, 'test_accuracy': 0.5}], None)
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"
        self._attempts = directory / "attempts.json"
        # The checksum that the next line continues, once it is known.
        self._last: str | None = None

    def start(self, identity: dict[str, Any]) -> None:
        """Makes the directory and says in run.json what runs here."""
        storage.make_directory(self.directory)
        records.write_json(self.directory / "run.json", identity)
        self._last = None

    def epochs(self) -> list[dict[str, Any]]:
        """Reads the finished epochs' entries; a torn last line, left by a crash, is not one.

        Raises:
            InvalidInput: a line is damaged, lost, or not the next epoch; names it.
        """
        entries, _, problem = self._read()
        if problem:
            raise problem
        return entries

    def data(self) -> str | None:
        """Returns the digest of the run's data; None where run.json does not tell."""
        with contextlib.suppress(InvalidInput):
            return (self.description() or {}).get(DATA)
        return None

    def num_sound(self) -> int:
        """Counts the epochs on record, up to the first that is damaged."""
        return len(self._read()[0])

    def _read(
        self, data: str | None = None
    ) -> tuple[list[dict[str, Any]], list[str], InvalidInput | None]:
        """Reads metrics.jsonl up to its end, or to the first line that is not sound.

        Args:
            data: as of that method, if that is known already.

        Returns:
            The entries, their lines, and what is wrong with the next one.
        """
        entries: list[dict[str, Any]] = []
        lines: list[str] = []
        last = self._beginning()
        try:
            *lines, _torn = (storage.read_text(self._metrics) or "").split("\n")
            for line in lines:
                entry, last = self._entry(line, last, len(entries))
                self._require_next(entry, entries)
                if not entries:
                    self._require_data(self._line(0), entry.pop(DATA, None), data or self.data())
                entries.append(entry)
        except InvalidInput as error:
            return entries, lines[: len(entries)], error
        self._last = last
        return entries, lines, None

    def _entry(self, line: str, before: str, index: int) -> tuple[dict[str, Any], str]:
        """Reads a line.

        Returns:
            Its entry and its checksum.
        """
        text, _, _ = line.rpartition(ENDING)
        checksum = records.checksum(before, text)
        # Compared as a whole: what stands behind a checksum is not covered by it.
        if line != seal(text, checksum):
            records.parse(line, self._line(index))
            allowed = "to match its checksum, and to follow the line before"
            raise unexpected(self._line(index), records.start_of(line), allowed, records.REMEDY)
        entry = records.parse_sealed(line)
        del entry["checksum"]
        return entry, checksum

    def _require_next(self, entry: dict[str, Any], before: Sequence[dict[str, Any]]) -> None:
        epoch = entry.get("epoch")
        wanted = before[-1]["epoch"] + 1 if before else epoch
        if not isinstance(epoch, int) or epoch != wanted:
            allowed = f"to be of epoch {wanted}" if before else "to name an epoch"
            raise unexpected(self._line(len(before)), epoch, allowed, records.REMEDY)

    def _require_data(self, thing: str, found: str | None, wanted: str | None) -> None:
        if None not in (found, wanted) and found != wanted:
            allowed = f"to be of the data that run.json names ({wanted})"
            raise unexpected(thing, found, allowed, records.REMEDY)

    def _line(self, index: int) -> str:
        return f"{self._metrics}, line {index + 1}"

    def _beginning(self) -> str:
        """Returns what the first line continues."""
        return records.checksum(records.place(self._metrics), "")

    def _chained(self) -> str:
        """Returns what the next line continues."""
        if self._last is None:
            self.epochs()
        assert self._last is not None
        return self._last

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Adds one epoch, and returns it; non-finite numbers become null in the file."""
        before, held = self._chained(), plain(entry)
        if before == self._beginning() and (data := self.data()):
            held |= {DATA: data}
        text = json.dumps(held, allow_nan=False).removesuffix("}")
        checksum = records.checksum(before, text)
        storage.append(self._metrics, f"{seal(text, checksum)}\n")
        self._last = checksum
        return entry

    def truncate(self, num_entries: int) -> None:
        """Keeps the first entries only: those a resumed run will not train again.

        Raises:
            InvalidInput: as of `epochs`.
        """
        _, lines, problem = self._read()
        if problem:
            raise problem
        self._keep(lines[:num_entries])

    def _keep(self, lines: Iterable[str]) -> None:
        storage.replace_file(self._metrics, "".join(f"{line}\n" for line in lines).encode())
        self._last = None

    def result(self) -> dict[str, Any] | None:
        """Reads how the run ended, `status` and more, or None while it is unfinished.

        Raises:
            InvalidInput: it is damaged, or names no status that a run can have.
        """
        result = self._result()
        own = (LAST, DATA)
        return result and {name: value for name, value in result.items() if name not in own}

    def _result(self) -> dict[str, Any] | None:
        path = self.directory / "result.json"
        result = records.read_json(path)
        if result is None and self.has_ended():
            raise unexpected("record", str(path), "to be a file", "It is a link to nothing.")
        if result is not None and result.get("status") not in STATUSES:
            allowed = f"to be one of {', '.join(STATUSES)}"
            thing = f"status in {self.directory / 'result.json'}"
            raise unexpected(thing, result.get("status"), allowed, records.REMEDY)
        return result

    def has_ended(self) -> bool:
        """Tells whether there is a result, without reading it."""
        return storage.is_there(self.directory / "result.json")

    def description(self) -> dict[str, Any] | None:
        """Reads what `start` has said; None before it has."""
        return records.read_json(self.directory / "run.json")

    def forget_result(self) -> None:
        """Takes back `finish`: the run goes on from where it is."""
        storage.remove(self.directory / "result.json")

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as ended: it will not be trained again."""
        sealed = result | {LAST: self._chained()} | ({DATA: data} if (data := self.data()) else {})
        records.write_json(self.directory / "result.json", sealed)

    def attempts(self) -> dict[str, Any] | None:
        """Reads who works on the run now, or has died working on it; None where nobody does."""
        return records.read_json(self._attempts)

    def has_attempts(self) -> bool:
        """Tells whether there are any, without reading them."""
        return storage.is_there(self._attempts)

    def attempt(self, num_epochs: int) -> int:
        """Notes that this process begins the run with so many epochs on record.

        A count that grows while the epochs stay the same tells of a run that kills its process.

        Returns:
            How often it has been begun there, in a row.
        """
        last = self.attempts() or {}
        count = last.get("count", 0) + 1 if last.get("num_epochs") == num_epochs else 1
        begun = {"num_epochs": num_epochs, "count": count, "process": process_name(os.getpid())}
        records.write_json(self._attempts, begun)
        return count

    def forget_attempts(self) -> None:
        """Notes that the run was left in an orderly way."""
        storage.remove(self._attempts)

    def holder(self) -> str:
        """Returns which process has begun the run, as `process_name`; empty if that is not known.

        Example:
            >>> RunRecords(Path("no/such/run")).holder()
            ''
        """
        with contextlib.suppress(OSError, InvalidInput):
            return str((self.attempts() or {}).get("process", ""))
        return ""

    def read(self) -> "Recorded":
        """Reads all records of the run, and checks that they belong together.

        Raises:
            InvalidInput: one is damaged or lost, or says something else than the others.
        """
        described, result = self.description(), self._result()
        data = (described or {}).get(DATA)
        entries, _, problem = self._read(data)
        if problem:
            raise problem
        if described is None and (entries or result):
            missing = str(self.directory / "run.json")
            raise InvalidInput([expected("file", missing, "to exist", records.REMEDY)])
        first = (described or {}).get("first_epoch")
        if entries and entries[0]["epoch"] - 1 != first:
            allowed = f"to be the epoch after first_epoch={first} of run.json"
            raise unexpected(self._line(0), entries[0]["epoch"], allowed, records.REMEDY)
        self._require_data(
            str(self.directory / "result.json"), (result or {}).pop(DATA, None), data
        )
        if result and result.pop(LAST, None) != self._chained():
            allowed = "to hold the epochs after which result.json was written"
            raise unexpected(str(self._metrics), f"{len(entries)} lines", allowed, records.REMEDY)
        return Recorded(described, entries, result)

    def mend(self) -> list[str]:
        """Sets damaged records aside, as NAME.damaged, so that the run goes on from what is sound.

        Of metrics.jsonl the lines before the damage are kept. Only for who holds the run's lock.

        Returns:
            A sentence per damage; none where all is sound.

        Raises:
            InvalidInput: a file cannot be read at all.
        """
        for name in records.OF_RUNS:
            # What may not be read is no damage, and refused.
            storage.read_text(self.directory / name)
        _, lines, problem = self._read()
        problems = list(problem.problems) if problem else []
        if problem:
            storage.set_aside(self._metrics)
            self._keep(lines)
        readers = {"run.json": self.description, "attempts.json": self.attempts}
        # What all say together comes last: a result of other epochs is not to be believed.
        for name, read in (readers | {"result.json": self.read}).items():
            if found := problems_of(read):
                problems += found
                storage.set_aside(self.directory / name)
        return problems


class Recorded(NamedTuple):
    """What a run's records say.

    Attributes:
        description: of run.json; None where nothing has run.
        epochs: of metrics.jsonl, ascending.
        result: of result.json; None while the run is unfinished.
    """

    description: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    result: dict[str, Any] | None
