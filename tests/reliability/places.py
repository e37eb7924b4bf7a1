"""Workdirs moved, of earlier formats, on strange paths; numbers that are not finite."""

import json
import shutil

import numpy as np

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
    tables,
)
from tests.reliability.study import write_data

NAMES = (
    *(
        "[x]",
        "a*b",
        "a?b",
        "{x}",
        "back\\slash",
        "gs:",
        "s3:",
        "http:",
        "file:",
        "%41",
        "~",
        "$HOME",
    ),
    *("with space", " lead", "trail ", "-flag", "--help", "new\nline", "tab\tx", "ünïcode", "漢字"),
    *(
        "😀",
        "e\u0301",
        "'quote'",
        '"quote"',
        ";x",
        "a&b",
        "#",
        "@1",
        "a=b",
        "a,b",
        "...",
        ".hidden",
    ),
    *(
        "n" * 255,
        "n" * 256,
        "ü" * 127,
        "ü" * 128,
        "\udcff",
        "x.orbax-checkpoint-tmp",
        "1",
        "trunks",
    ),
)


def place(room: Room) -> Verdict:
    """A workdir at a strange path, moved there half done, or of an earlier format."""
    if room.index < len(NAMES):
        return _strange(room, NAMES[room.index])
    return _old(room) if room.index % 3 == 0 else _moved(room)


def _strange(room: Room, name: str) -> Verdict:
    """Either the path is refused before anything is written, or the study is exact there."""
    room.note(f"named {name!a}")
    parent = room.rng.random() < 0.5
    workdir = room.directory / name / "run" if parent else room.directory / name
    ended = room.run(*room.study("grid", workdir=workdir))
    if ended.code == BAD_INPUT:
        is_named = "--workdir" in ended.said
        return Verdict(NAMED) if is_named else Verdict(OTHER, "exit code 2 without --workdir")
    if fault := room.expect(ended, DONE):
        return fault
    if room.differing("grid", workdir):
        return Verdict(SILENT, "other tables")
    shutil.rmtree(workdir)
    # Gone on with there: checkpoints are read too.
    shutil.copytree(room.lab.base("grid-late"), workdir)
    for reader in ("status", "rules"):
        argument = str(workdir) if reader == "rules" else workdir.name
        told = room.run(reader, f"{workdir}") if argument else ended
        if fault := room.expect(told, DONE):
            return fault
    return room.settled("grid", workdir=workdir)


def _moved(room: Room) -> Verdict:
    base = room.rng.choice(("grid-early", "grid-late", "online-late", "grid", "online"))
    room.note(f"{base}, moved")
    room.copy(base)
    room.workdir = room.workdir.rename(room.directory / "moved")
    if room.rng.random() < 0.5:
        link = room.directory / "link"
        link.symlink_to(room.workdir)
        room.note("by a link")
        return room.settled(base, workdir=link)
    return room.settled(base)


def _old(room: Room) -> Verdict:
    """Of an earlier format: `run` refuses, naming the format; readers read it or say why not."""
    room.copy("grid")
    path = room.workdir / "study.json"
    study = json.loads(path.read_text())
    number = room.rng.choice((1, 2, 3, 99, -1))
    room.note(f"format {number}")
    for record in room.workdir.rglob("*.json"):
        if isinstance(value := json.loads(record.read_text()), dict):
            value.pop("checksum", None)
            record.write_text(json.dumps(value, indent=2))
    for record in room.workdir.rglob("metrics.jsonl"):
        entries = [json.loads(line) for line in record.read_text().splitlines()]
        lines = [{k: v for k, v in entry.items() if k != "checksum"} for entry in entries]
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study.pop("checksum", None)
    path.write_text(json.dumps(study | {"format": number}))
    before = tables(room.workdir)
    told = room.run("rules", str(room.workdir))
    fault = room.expect(told, DONE, BAD_INPUT)
    if told.code == DONE and tables(room.workdir) != before:
        return Verdict(SILENT, "rules: other tables")
    ended = room.run(*room.study("grid"))
    fault = fault or room.expect(ended, BAD_INPUT)
    return fault or Verdict(
        *((NAMED,) if "format" in ended.said else (OTHER, "no word of formats"))
    )


def not_finite(room: Room) -> Verdict:
    """Losses, gradients, weights and images that are not finite: refused, or said to diverge."""
    flags, kind = [], room.rng.choice(("image", "rate", "NanLoss", "NanGradient", "InfWeights"))
    room.note(kind)
    if kind == "image":
        value = room.rng.choice((np.nan, np.inf, -np.inf, 1e300, 3e38))
        split = room.rng.choice(("train", "test"))
        images = np.random.default_rng(0).random((40 if split == "train" else 16, 8, 8, 1))
        images[room.rng.randrange(len(images)), 0, 0, 0] = value
        room.note(f"{value} in {split}")
        others = {
            f"x_{s}": np.zeros((n, 8, 8, 1)) + np.arange(n)[:, None, None, None] / n
            for s, n in (("train", 40), ("test", 16))
        }
        path = write_data(room.directory / "bad.npz", **(others | {f"x_{split}": images}))
        flags.append(f"--config.data.name=npz:{path}")
    elif kind == "rate":
        rate = room.rng.choice((1e10, 1e20, 1e38))
        flags.append(f"--config.optim.learning_rate={rate}")
        room.note(str(rate))
    else:
        flags.append(f"--config.model.name=reliability.networks:{kind}")
    ended = room.run(*room.study(room.rng.choice(("grid", "online")), *flags))
    if fault := room.expect(ended, DONE, FAILED, BAD_INPUT):
        return fault
    if ended.code == BAD_INPUT:
        is_named = "data.name" in ended.said or "optim." in ended.said or kind in ended.said
        return Verdict(NAMED) if is_named else Verdict(OTHER, "nothing is named")
    rows = tables(room.workdir)["results.csv"]
    if ended.code == FAILED:
        lost = [row for row in rows if row["status"] in ("diverged", "failed")]
        is_said = lost and all(row["diverged_epoch"] or row["reason"] for row in lost)
        return Verdict(NAMED) if is_said else Verdict(OTHER, "no run is said to have diverged")
    numbers = [row["test_loss"] for row in rows if row["status"] == "finished"]
    is_finite = all(np.isfinite(float(number or "nan")) for number in numbers)
    return Verdict(EXACT) if is_finite else Verdict(SILENT, "a loss that is not finite, and code 0")
