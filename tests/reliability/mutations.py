"""Edits of any file of a workdir: what readers then say, and what the study comes to."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.reliability.commands import without_privileges
from tests.reliability.harness import (
    BAD_INPUT,
    DONE,
    EXACT,
    FAILED,
    NAMED,
    OTHER,
    SILENT,
    Room,
    Verdict,
)

BASES = (
    *("grid", "grid-early", "grid-late", "grid-late", "online", "online-early", "online-late"),
    *("budget-early", "budget-late"),
)
FILES = (
    *("*/*/run.json", "*/*/result.json", "*/*/metrics.jsonl", "*/*/metrics.jsonl"),
    *("*/*/attempts.json", "study.json", "config.json", "plan.json", "env.json"),
    *("signal_budgets/*", "*/*/checkpoints/*/**/*", "*/*/checkpoints/*/**/*", "*.csv"),
    *(".lock", "*/*/.lock", "*/*", "*/*/checkpoints", "*/*/checkpoints/*", "*"),
)
"""Patterns, each as likely as another."""
READERS = ("status", "rules", "compare", "verify")
EARLIER = ("result.json", "attempts.json")
"""Without one of these, a member is as it was before it ended."""
MINE = "notes of mine.txt"
SAME_STUDY = "to hold the same study"


class Unfit(Exception):
    """An edit that makes no sense of a file."""


def mutate(room: Room) -> Verdict:
    """Edits one file of a study, finished or not; asks a reader; runs the study again."""
    base = room.rng.choice(BASES)
    room.copy(base)
    room.note(base)
    path, edit = _edited(room)
    name = path.relative_to(room.workdir).as_posix()
    # What is written anew each time is named each time.
    names = [
        *([] if path.suffix == ".csv" else [name]),
        *map(str, list(Path(name).parents)[:-2]),
        f"{room.workdir}/{name}",
        SAME_STUDY,
    ]
    room.note(f"{edit} {name}")
    mine = _contents(room)
    from earlyprune_jax.cli import COMMANDS

    reader = room.rng.choice([name for name in READERS if name in COMMANDS])
    seen = _reading(
        room, base, reader, names, is_earlier=_is_earlier(path, room.lab.base(base) / name)
    )
    ended = room.settled(base, names, first=without_privileges)
    if _contents(room) != mine:
        return Verdict(SILENT, "what a link points to, or a file of the user's, was changed")
    if SILENT in (seen.outcome, ended.outcome) or ended.outcome == OTHER:
        return seen if seen.outcome == SILENT else ended
    if seen.outcome == OTHER:
        return seen
    if reader == "verify" and seen.outcome == EXACT != ended.outcome and path.suffix != ".csv":
        return Verdict(OTHER, f"verify found nothing, run did: {ended.outcome}")
    return ended if ended.outcome != EXACT else seen


def _edited(room: Room) -> tuple[Path, str]:
    """Edits a file; says which, and how."""
    while True:
        found = sorted(room.workdir.glob(room.rng.choice(FILES)))
        if not found:
            continue
        path, edit = room.rng.choice(found), room.rng.choice(EDITS)
        try:
            if path.is_dir() and edit not in OF_FOLDERS:
                raise Unfit
            edit(room, path)
        except (Unfit, UnicodeDecodeError, json.JSONDecodeError):
            continue
        return path, edit.__name__.strip("_")


def _is_earlier(path: Path, original: Path) -> bool:
    """Tells whether a member is now as it was at an earlier moment, of which no reader can tell."""
    if path.name in EARLIER or original.is_dir():
        return not path.exists()
    if path.name != "metrics.jsonl" or (path.parent / "result.json").exists():
        return False
    if not path.exists():
        return True
    whole = path.is_file() and not path.is_symlink()
    return whole and original.read_bytes().startswith(path.read_bytes())


def _reading(room: Room, base: str, reader: str, names: list[str], *, is_earlier: bool) -> Verdict:
    """Asks a reader; compares what it says with what it says of the undamaged workdir."""
    ended = room.run(reader, str(room.workdir), first=without_privileges)
    said = _without_paths(ended.said, room, room.workdir)
    is_named = any(name.replace(str(room.workdir), "DIR") in said for name in names)
    if is_named and ended.code in (DONE, BAD_INPUT, FAILED if reader == "verify" else DONE):
        return Verdict(NAMED)
    if said == _undisturbed(room, base, reader):
        return Verdict(EXACT)
    if ended.code == DONE:
        if is_earlier or reader == "verify":
            return Verdict(EXACT)
        return Verdict(SILENT, f"{reader} says something else, and does not name the damage")
    fault = room.expect(ended, BAD_INPUT)
    return fault or Verdict(OTHER, f"{reader} does not name the damage")


def _undisturbed(room: Room, base: str, reader: str) -> str:
    kept = room.lab.scratch / f"{base}.{reader}"
    if not kept.is_file():
        whole = room.copy(base, room.directory / "undisturbed" / "run")
        kept.write_text(_without_paths(room.run(reader, str(whole)).said, room, whole))
    return kept.read_text()


def _without_paths(said: str, room: Room, workdir: Path) -> str:
    return said.replace(str(workdir), "DIR").replace(str(room.directory), "ROOM")


def _contents(room: Room) -> dict[str, bytes]:
    """Reads what is not the study's: what links point to, and the user's own file."""
    found = [*room.directory.glob("outside/**/*"), *room.workdir.rglob(MINE)]
    return {str(path): path.read_bytes() for path in found if path.is_file()}


# Edits of bytes


def _flip(room: Room, path: Path) -> None:
    data = bytearray(_bytes(path))
    for _ in range(room.rng.choice((1, 1, 8))):
        data[room.rng.randrange(len(data))] ^= 1 << room.rng.randrange(8)
    path.write_bytes(data)


def _truncate(room: Room, path: Path) -> None:
    data = _bytes(path)
    path.write_bytes(data[: room.rng.randrange(len(data))])


def _empty(room: Room, path: Path) -> None:
    _bytes(path)
    path.write_bytes(b"")


def _huge(room: Room, path: Path) -> None:
    path.write_bytes(
        room.rng.choice((path.read_bytes() + 2**26 * b" ", 2**20 * b"[", 2**26 * b"1"))
    )


def _garbage(room: Room, path: Path) -> None:
    path.write_bytes(room.rng.randbytes(200) + room.rng.choice((b"", b"\n", b"\0")))


def _bytes(path: Path) -> bytes:
    if not (data := path.read_bytes()):
        raise Unfit
    return data


# Edits of lines


def _delete_line(room: Room, path: Path) -> None:
    lines = _lines(path)
    del lines[room.rng.randrange(len(lines))]
    path.write_text("".join(lines))


def _double_line(room: Room, path: Path) -> None:
    lines = _lines(path)
    at = room.rng.randrange(len(lines))
    path.write_text("".join([*lines[: at + 1], *lines[at:]]))


def _swap_lines(room: Room, path: Path) -> None:
    lines = _lines(path)
    first, second = room.rng.sample(range(len(lines)), 2)
    if lines[first] == lines[second]:
        raise Unfit
    lines[first], lines[second] = lines[second], lines[first]
    path.write_text("".join(lines))


def _lines(path: Path) -> list[str]:
    if len(lines := path.read_text().splitlines(keepends=True)) < 2:
        raise Unfit
    return lines


# Edits of values: what is left is JSON


def _change_number(room: Room, path: Path) -> None:
    def changed(value: Any) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Unfit
        return value + room.rng.choice((1, -1)) if isinstance(value, int) else value * 1.5 + 0.01

    _change(room, path, changed)


def _not_finite(room: Room, path: Path) -> None:
    _change(room, path, lambda value: float(room.rng.choice(("nan", "inf", "-inf"))))


def _other_type(room: Room, path: Path) -> None:
    _change(room, path, lambda value: room.rng.choice(([], {}, "x", None, True, -1, 1e400, 10**30)))


def _drop_key(room: Room, path: Path) -> None:
    def drop(container: Any, key: Any) -> None:
        del container[key]

    _rewrite(room, path, drop)


def _change(room: Room, path: Path, changed: Callable[[Any], Any]) -> None:
    def change(container: Any, key: Any) -> None:
        container[key] = changed(container[key])

    _rewrite(room, path, change)


def _rewrite(room: Room, path: Path, edit: Callable[[Any, Any], None]) -> None:
    """Edits one value of a JSON file, or of a line of it."""
    is_lines = path.suffix == ".jsonl"
    lines = _bytes(path).decode().splitlines() if is_lines else [_bytes(path).decode()]
    at = room.rng.randrange(len(lines))
    value = json.loads(lines[at])
    places = list(_places(value))
    if not places:
        raise Unfit
    edit(*room.rng.choice(places))
    lines[at] = json.dumps(value, indent=None if is_lines else 2)
    path.write_text("\n".join(lines) + "\n")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every container with each of its keys."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


# Edits of names: files and folders


def _delete(room: Room, path: Path) -> None:
    _remove(path)


def _from_another(room: Room, path: Path) -> None:
    """Puts in its place a file or folder of the same name, or of another run or epoch."""
    name, study = path.relative_to(room.workdir), room.notes[0].partition("-")[0]
    pattern = "/".join([*("*" for _ in name.parts[:-1]), path.name])
    others = [one for one in sorted(room.workdir.glob(pattern)) if one != path]
    others += [one for one in path.parent.iterdir() if one != path and path.parent != room.workdir]
    for form in sorted({"grid", "online", "budget"} - {study}):
        others += sorted(room.lab.base(form).glob(pattern))
    fit = [one for one in others if one.is_dir() == path.is_dir()]
    different = [one for one in fit if one.is_dir() or one.read_bytes() != path.read_bytes()]
    if not different:
        raise Unfit
    other = room.rng.choice(different)
    copied = room.directory / "copied"
    shutil.copytree(other, copied) if other.is_dir() else shutil.copy(other, copied)
    _remove(path)
    copied.rename(path)


def _link(room: Room, path: Path) -> None:
    """Moves it elsewhere, and links to it there."""
    outside = room.directory / "outside"
    outside.mkdir()
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def _link_elsewhere(room: Room, path: Path) -> None:
    _remove(path)
    path.symlink_to(room.rng.choice(("/dev/null", "/dev/full", "/dev/zero", "nowhere", path.name)))


def _unreadable(room: Room, path: Path) -> None:
    path.chmod(0)


def _folder_instead(room: Room, path: Path) -> None:
    _remove(path)
    path.mkdir()


def _file_instead(room: Room, path: Path) -> None:
    if not path.is_dir():
        raise Unfit
    _remove(path)
    path.write_text("x")


def _pipe_instead(room: Room, path: Path) -> None:
    _remove(path)
    os.mkfifo(path)


def _file_beside(room: Room, path: Path) -> None:
    """Puts a file of the user's into a folder; it must stay, but for one inside a checkpoint."""
    if not path.is_dir() or "checkpoints" in path.parent.parts:
        raise Unfit
    (path / MINE).write_text("mine")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


OF_FOLDERS = (
    _delete,
    _from_another,
    _link,
    _link_elsewhere,
    _unreadable,
    _file_instead,
    _file_beside,
)
EDITS = (
    *(_flip, _flip, _truncate, _empty, _huge, _garbage, _delete_line, _double_line, _swap_lines),
    *(_change_number, _change_number, _change_number, _not_finite, _other_type, _drop_key),
    *(_delete, _from_another, _from_another, _link, _link_elsewhere, _unreadable),
    *(_folder_instead, _file_instead, _pipe_instead, _file_beside),
)
