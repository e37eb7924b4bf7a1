"""Records: JSON files of a workdir that end with a checksum of their text and of where they belong.

A file is replaced in one step and reaches the disk before it does. One that was changed all the
same, or copied from another run, is named, with the remedy.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earlyprune_jax import storage
from earlyprune_jax.validate import InvalidInput, expected, unexpected

FOLDERS = {"trunk": "trunks", "fork": "forks", "online": "online", "comparison": "comparisons"}
"""Kind of member -> its folder in a workdir. `online` is a run that prunes itself."""
OF_RUNS = ("run.json", "metrics.jsonl", "result.json", "attempts.json")
"""The records that every run has in its directory; see `run_records`."""
CONFIG, STUDY, ENVIRONMENT = "config.json", "study.json", "env.json"
"""The resolved config; the study's id, format and metrics; the sessions that have worked on it."""
PLAN = "plan.json"
"""The members of the last session's grid, cell by cell, for who looks on."""
REMEDY = "Restore the file, or delete its directory: the same command then makes it again."
STUDY_REMEDY = "Restore the file, or choose another --workdir."
PLAN_REMEDY = "Delete this file: the next session writes it again."
BUDGET_REMEDY = "Delete this file alone: the budget is then divided anew."
"""For a damaged file of signal_budgets/, which lies in no run's directory."""
FORMAT = 5
"""Of the files of a workdir; study.json holds it."""
NUM_DIGITS = 16
"""Hexadecimal digits of a checksum, the first of a SHA-256."""
ENDING = ',\n  "checksum": "'
"""What comes before the checksum."""


def write_json(path: Path, value: dict[str, Any], *, study: str = "") -> None:
    """Writes a record: strict JSON and its checksum, replacing the file in one step.

    Args:
        path: of the file.
        value: what it holds.
        study: the id of the study it belongs to; see `write_of_study`.
    """
    text = json.dumps(value, indent=2, allow_nan=False).removesuffix("\n}")
    storage.replace_file(path, seal(text, place(path, study)).encode())


def read_json(path: Path, *, remedy: str = REMEDY, study: str = "") -> dict[str, Any] | None:
    """Reads a record.

    Args:
        path: of the file.
        remedy: what to do about a damaged one, for the message.
        study: the id of the study it belongs to.

    Returns:
        Its value without the checksum, or None if there is no such file.

    Raises:
        InvalidInput: it cannot be read, is no JSON object, or is not what was written there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> write_json(path, {"kind": "trunk"})
        >>> read_json(path), read_json(path.with_name("none.json"))
        ({'kind': 'trunk'}, None)
        >>> _ = path.write_text(path.read_text().replace("trunk", "fork"))
        >>> read_json(path)                 # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected .../run.json='{ "kind": "fork",...
    """
    text = storage.read_text(path)
    if text is None:
        return None
    value = parse(text, str(path), remedy)
    if path.name == STUDY and (number := value.get("format")) != FORMAT:
        allowed = f"to be {FORMAT}, that of this version"
        remedy = "Use the version that made it, or train the study again in another --workdir."
        raise unexpected(f"format in {path}", number, allowed, remedy)
    value.pop("checksum", None)
    body, _, _ = text.rpartition(ENDING)
    # Compared as a whole: what stands behind a checksum is not covered by it.
    if text != seal(body, place(path, study)):
        allowed = "to match its checksum" + " and be of this study.json" * bool(study)
        raise unexpected(str(path), start_of(text), allowed, remedy)
    return value


def seal(text: str, where: str) -> str:
    """Ends the text of a record, but for its last brace, with its checksum."""
    return f'{text}{ENDING}{checksum(where, text)}"\n}}\n'


def study_id(workdir: Path) -> str | None:
    """Reads the id of a workdir's study, which its other records are sealed with.

    Returns:
        None where no study has been begun.

    Raises:
        InvalidInput: study.json is damaged, of another version, or lost while there are runs.
    """
    study = read_json(workdir / STUDY, remedy=STUDY_REMEDY)
    if study is None and holds_study(workdir):
        raise InvalidInput([expected("file", str(workdir / STUDY), "to exist", STUDY_REMEDY)])
    return None if study is None else study.get("id", "")


def read_of_study(workdir: Path, name: str, *, remedy: str = STUDY_REMEDY) -> dict[str, Any] | None:
    """Reads a record of a workdir that belongs to no run; see `read_json`.

    Args:
        workdir: of the study.
        name: of the file, within the workdir.
        remedy: as of `read_json`.

    Returns:
        As `read_json`; None where no study has been begun.

    Raises:
        InvalidInput: as of `read_json` and of `study_id`.
    """
    study = study_id(workdir)
    if study is None:
        return None
    return read_json(workdir / name, remedy=remedy, study="" if name == STUDY else study)


def planned(workdir: Path) -> set[str] | None:
    """Names the members of the last session's grid, FOLDER/NAME; none where a search asks for some
    of them only; None where there is no plan.json."""
    plan = read_of_study(workdir, PLAN, remedy=PLAN_REMEDY)
    if plan is None:
        return None
    with sound(workdir / PLAN):
        cells = plan["cells"] if plan.get("search") == "all" else ()
        return {f"{FOLDERS[cell['kind']]}/{name}" for cell in cells for name in cell["members"]}


def planned_rates(workdir: Path) -> dict[str, list[float]]:
    """Returns setting, in words -> the learning rate at the start of each epoch of its dense runs;
    empty where the last session was of no published figure."""
    plan = read_of_study(workdir, PLAN, remedy=PLAN_REMEDY) or {}
    return plan.get("learning_rates", {})


def described(workdir: Path) -> set[str]:
    """Names the members that have a run.json, FOLDER/NAME."""
    return {
        f"{folder}/{directory.name}"
        for kind, folder in FOLDERS.items()
        for directory in run_directories(workdir, kind)
        if os.path.lexists(directory / "run.json")
    }


def write_of_study(workdir: Path, name: str, value: dict[str, Any]) -> None:
    """Writes a record of a workdir that belongs to no run: one of another workdir is none of it."""
    own = "" if name == STUDY else study_id(workdir) or ""
    write_json(workdir / name, value, study=own)


def place(path: Path, study: str = "") -> str:
    """Names where a record belongs, wherever the workdir is: so it cannot stand in for another."""
    parts = str(path).rsplit("/", 3)
    return "/".join(parts[-3:] if parts[-1] in OF_RUNS else filter(None, (study, parts[-1])))


def checksum(before: str, text: str) -> str:
    """Returns the checksum of a text that belongs to a place, or continues another checksum."""
    return hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:NUM_DIGITS]


def run_directories(workdir: Path, kind: str) -> list[Path]:
    """Lists the directories of a workdir's members of a kind, sorted.

    Raises:
        InvalidInput: the folder cannot be read, or holds a file in place of a directory.

    Example:
        >>> run_directories(Path("no/such/workdir"), "trunk")
        []
    """
    folder = workdir / FOLDERS[kind]
    with storage.using(folder):
        paths = sorted(folder.iterdir()) if folder.exists() else []
        visible = [path for path in paths if not path.name.startswith(".")]
        if files := [str(path) for path in visible if not path.is_dir()]:
            raise unexpected("run", files[0], "to be a directory", "Move it away.")
    return visible


def holds_study(workdir: Path) -> bool:
    """Tells whether a study has been begun in a directory."""
    return any((workdir / name).exists() for name in (STUDY, *FOLDERS.values()))


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


def parse(text: str, source: str, remedy: str = REMEDY) -> dict[str, Any]:
    """Reads a JSON object; NaN and Infinity are no numbers of JSON.

    Raises:
        InvalidInput: the text is none; names the source.
    """
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise unexpected(source, start_of(text), f"to be JSON ({error})", remedy) from error
    if not isinstance(value, dict):
        raise unexpected(source, start_of(text), "to hold a JSON object", remedy)
    return value


def parse_sealed(text: str) -> dict[str, Any]:
    """Reads a JSON object whose checksum was right: what `json` has written, character by
    character."""
    return _DECODER.raw_decode(text)[0]


def start_of(text: str) -> str:
    """Shortens a damaged text for a message."""
    return " ".join(text[:60].split())


def no_constant(name: str) -> Any:
    """Refuses NaN and Infinity, for a reader of JSON."""
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=no_constant)
