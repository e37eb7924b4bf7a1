"""What a run leaves on disk besides checkpoints: run.json, metrics.jsonl, result.json."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The file's value, or None if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class RunRecords:
    """The records of one run directory; one JSON line an epoch, flushed to the disk.

    Example:
        >>> import tempfile
        >>> records = RunRecords(Path(tempfile.mkdtemp()))
        >>> records.append({"epoch": 1, "test_accuracy": 0.5})
        >>> records.epochs(), records.result()
        ([{'epoch': 1, 'test_accuracy': 0.5}], None)
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._metrics = directory / "metrics.jsonl"

    def start(self, identity: dict[str, Any]) -> None:
        """Makes the directory and says in run.json what runs here."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "run.json", identity)

    def epochs(self) -> list[dict[str, Any]]:
        """The finished epochs' entries; a torn last line, left by a crash, is not one."""
        if not self._metrics.is_file():
            return []
        *whole, _torn = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in whole]

    def append(self, entry: dict[str, Any]) -> None:
        """Adds one epoch."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, num_entries: int) -> None:
        """Keeps the first entries only: those a resumed run will not train again."""
        lines = [json.dumps(entry) + "\n" for entry in self.epochs()[:num_entries]]
        temporary = self._metrics.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(self._metrics)

    def result(self) -> dict[str, Any] | None:
        """How the run ended, or None while it is unfinished."""
        return read_json(self.directory / "result.json")

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as ended: it will not be trained again."""
        write_json(self.directory / "result.json", result)
