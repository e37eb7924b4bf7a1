"""Configs and data files that no one should give: refused by name, and nothing is written."""

import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.reliability.commands import Ended
from tests.reliability.harness import BAD_INPUT, DONE, EXACT, NAMED, OTHER, Room, Verdict
from tests.reliability.study import write_data

HERE = Path(__file__).parent


def _text(name: str) -> str:
    """Reads a file that spells what no editor shows as \\x1b or \\udcff."""
    text = (HERE / name).read_text(encoding="utf-8")
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


VALUES, FLAGS = (_text(name).splitlines() for name in ("values.txt", "flags.txt"))
"""What any key may be given; flags that make no sense."""
CONFIGS: dict[str, str] = {
    part.partition("\n")[0]: part.partition("\n")[2]
    for part in _text("configs.txt").split("=== ")[1:]
}
"""Kind -> what a config file may hold."""


def config(room: Room) -> Verdict:
    """A value of a key, a flag, or a whole config file that cannot be used."""
    if room.index % 6 == 1:
        return _file(room)
    if room.index % 6 == 4:
        flag = room.rng.choice(FLAGS)
        room.note(flag)
        ended = room.run(*room.study("grid", flag, "--dry_run"))
        key = flag.partition("=")[0].removeprefix("--config.")
        return _refused(room, ended, [key, key.partition(".")[0]])
    from earlyprune_jax.spec_sections import KEYS

    flags, keys = [], room.rng.sample(sorted(KEYS), room.rng.choice((1, 1, 2)))
    for key in keys:
        flags.append(f"--config.{key}={room.rng.choice(VALUES)}")
        room.note(flags[-1][:80])
    ended = room.run(*room.study("grid", *flags, "--dry_run"))
    return _refused(room, ended, keys)


def _file(room: Room) -> Verdict:
    kind = list(CONFIGS)[room.index // 6 % len(CONFIGS)]
    room.note(f"a config file: {kind}")
    suffix = ".json" if kind == "json" else ".py"
    path = room.directory / f"hostile{suffix}"
    path.write_text(CONFIGS[kind], encoding="utf-8", errors="surrogateescape")
    ended = room.run("run", f"--config={path}", f"--workdir={room.workdir}")
    return _refused(room, ended, ["hostile", "get_config", "train."], must=True)


def data(room: Room) -> Verdict:
    """A data set that is damaged, of another kind, or full of nonsense."""
    kind = list(DATA)[room.index % len(DATA)]
    room.note(kind)
    path = room.directory / "hostile.npz"
    name = DATA[kind](room, path) or f"npz:{path}"
    ended = room.run(*room.study(room.rng.choice(("grid", "online")), f"--config.data.name={name}"))
    if ended.code == DONE and not kind.startswith("flip"):
        return Verdict(OTHER, f"accepted: {kind}")
    if ended.code == DONE:
        return Verdict(EXACT)
    return _refused(room, ended, ["hostile", "data.", name], must=True)


def _refused(room: Room, ended: Ended, names: list[str], *, must: bool = False) -> Verdict:
    """Wants exit code 2 with a name, or, where it need not, an exit code 0; nothing is written."""
    if fault := room.expect(ended, BAD_INPUT, *((DONE,) if not must else ())):
        return fault
    if room.workdir.exists():
        return Verdict(OTHER, "the workdir was written")
    if ended.code == DONE:
        return Verdict(EXACT)
    return (
        Verdict(NAMED) if any(name in ended.said for name in names) else Verdict(OTHER, "no name")
    )


# Data

Maker = Callable[[Room, Path], str | None]


def _with(**changes: object) -> Maker:
    """Writes the arrays of the study, some of them changed: by a function or to a value."""

    def make(room: Room, path: Path) -> None:
        with np.load(room.lab.data) as held:
            arrays = dict(held)
        for name, change in changes.items():
            arrays[name] = change(arrays[name]) if callable(change) else change
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    return make


def _bytes(edit: Callable[[Room, bytes], bytes]) -> Maker:
    """Writes the study's array file, its bytes changed."""

    def make(room: Room, path: Path) -> None:
        path.write_bytes(edit(room, room.lab.data.read_bytes()))

    return make


def _flipped(room: Room, held: bytes) -> bytes:
    changed = bytearray(held)
    changed[room.rng.randrange(len(held))] ^= 1 << room.rng.randrange(8)
    return bytes(changed)


def _huge_header(room: Room, path: Path) -> None:
    """An array file whose header promises a terabyte."""
    write_data(path)
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 32, 32, 1), }"
    packed = header.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(
            "x_train.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(packed)) + packed
        )


def _special(make: Callable[[Path], object]) -> Maker:
    def special(room: Room, path: Path) -> None:
        make(path)

    return special


def _folder(edit: Callable[[Path], object]) -> Maker:
    """Writes an image folder of two classes, and spoils it."""

    def make(room: Room, path: Path) -> str:
        from PIL import Image

        folder = room.directory / "hostile"
        with np.load(room.lab.data) as held:
            for split in ("train", "test"):
                for at, (image, label) in enumerate(
                    zip(held[f"x_{split}"], held[f"y_{split}"], strict=True)
                ):
                    file = folder / split / f"class {label}" / f"{at}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image[..., 0]).save(file)
        edit(folder)
        return f"folder:{folder}"

    return make


def _giant_png(folder: Path) -> None:
    """A PNG of a few bytes that claims to be 100,000 pixels wide and high."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    (folder / "train" / "class 0" / "0.png").write_bytes(content)


def _first(folder: Path) -> Path:
    return folder / "train" / "class 0" / "0.png"


def _returns(text: str) -> Maker:
    """A function of the user's, by import path."""

    def make(room: Room, path: Path) -> str:
        (room.directory / "hostile.py").write_text(f"import numpy as np, sys\ndef data(): {text}\n")
        return "hostile:data"

    return make


DATA: dict[str, Maker] = {
    **{f"flip {number}": _bytes(_flipped) for number in range(10)},
    "truncated": _bytes(lambda room, held: held[: room.rng.randrange(len(held))]),
    "truncated by one": _bytes(lambda room, held: held[:-1]),
    "empty": _bytes(lambda room, held: b""),
    "random": _bytes(lambda room, held: room.rng.randbytes(5000)),
    "text": _bytes(lambda room, held: b"x_train,y_train\n1,2\n"),
    "zip of nothing": _bytes(lambda room, held: b"PK\x05\x06" + bytes(18)),
    "one array": _special(lambda path: np.save(path.open("wb"), np.zeros(3))),
    "no test images": _with(x_test=None),
    "fewer labels": _with(y_train=lambda labels: labels[:-1]),
    "negative labels": _with(y_train=lambda labels: labels - 1),
    "labels too large": _with(y_test=lambda labels: labels + 1),
    "fractions as labels": _with(y_train=lambda labels: labels + 0.5),
    "text as labels": _with(y_train=lambda labels: labels.astype(str)),
    "objects as labels": _with(y_train=lambda labels: labels.astype(object)),
    "flat images": _with(x_train=lambda images: images.reshape(40, -1)),
    "five axes": _with(x_train=lambda images: images[..., None]),
    "other size in test": _with(x_test=lambda images: images[:, :4]),
    "no pixels": _with(x_train=lambda images: images[:, :0], x_test=lambda images: images[:, :0]),
    "no examples": _with(x_train=lambda images: images[:0], y_train=lambda labels: labels[:0]),
    "complex images": _with(x_train=lambda images: images * 1j),
    "dates as images": _with(x_train=lambda images: images.astype("datetime64[s]")),
    "NaN images": _with(x_train=lambda images: images * np.nan),
    "huge images": _with(x_train=lambda images: images * 1e300),
    "one class": _with(y_train=lambda labels: labels * 0),
    "huge header": _huge_header,
    "folder instead": _special(lambda path: path.mkdir()),
    "link to itself": _special(lambda path: path.symlink_to(path.name)),
    "link to /dev/zero": _special(lambda path: path.symlink_to("/dev/zero")),
    "pipe": _special(os.mkfifo),
    "image truncated": _folder(lambda at: _first(at).write_bytes(_first(at).read_bytes()[:-30])),
    "image empty": _folder(lambda at: _first(at).write_bytes(b"")),
    "image of text": _folder(lambda at: _first(at).write_text("x")),
    "image giant": _folder(_giant_png),
    "class empty": _folder(lambda at: (at / "train" / "class 2").mkdir()),
    "no test folder": _folder(lambda at: shutil.rmtree(at / "test")),
    "image is a pipe": _folder(lambda at: (_first(at).unlink(), os.mkfifo(_first(at)))),
    "image is a folder": _folder(lambda at: (_first(at).unlink(), _first(at).mkdir())),
    "function raises": _returns("raise RuntimeError('mine')"),
    "function leaves": _returns("sys.exit(7)"),
    "function gives nothing": _returns("return None"),
    "function gives NaN": _returns("return {'train': {'images': np.nan}}"),
    "function gives a function": _returns("return lambda: 0"),
}
"""Kind -> what writes it, and returns the name of the data where that is not the array file."""
