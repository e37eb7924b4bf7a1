"""Files of `pruning.save_sparse` and `save_dense` that are damaged: refused by name, or equal."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.reliability import mutations
from tests.reliability.harness import BAD_INPUT, DONE, EXACT, NAMED, OTHER, SILENT, Room, Verdict

DIFFERENT = 9
EDITS = (mutations._flip, mutations._flip, mutations._flip, mutations._truncate, mutations._empty)
EDITS += (mutations._garbage, mutations._unreadable, mutations._folder_instead)
EDITS += (mutations._link_elsewhere, mutations._pipe_instead)


def export(room: Room) -> Verdict:
    """Saves two networks, damages one's file or swaps the files, and loads it in a process."""
    is_sparse, edit = room.rng.random() < 0.7, room.rng.choice((*EDITS, None))
    path, other = room.directory / "saved.safetensors", room.directory / "other.safetensors"
    room.note(f"{'sparse' if is_sparse else 'dense'} {edit.__name__[1:] if edit else 'swapped'}")
    saved = room.run("save", first=_ending(lambda: _save(path, other, is_sparse)))
    if fault := room.expect(saved, DONE):
        return fault
    edit(room, path) if edit else other.replace(path)
    ended = room.run("load", first=_ending(lambda: _load(path, is_sparse)))
    if ended.code == DIFFERENT:
        return Verdict(SILENT, "other values than were saved")
    if fault := room.expect(ended, DONE, BAD_INPUT):
        return fault
    if ended.code == DONE:
        return Verdict(EXACT)
    return Verdict(NAMED) if path.name in ended.said else Verdict(OTHER, "the file is not named")


def _ending(work: Callable[[], int]) -> Callable[[], Any]:
    """Has a process do some work in place of a command."""
    return lambda: sys.exit(work())


def _networks() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((7, 5), np.float32), "b": {"c": np.arange(11, dtype="f2")}}
    return params, {"a": rng.random((7, 5)) < 0.5, "b": {"c": np.arange(11) % 3 > 0}}


def _save(path: Path, other: Path, is_sparse: bool) -> int:
    from earlyprune_jax import pruning

    params, mask = _networks()
    save = pruning.save_sparse if is_sparse else pruning.save_dense
    save(path, params, mask)
    # Of the same network, one step on: only what it holds tells it apart, so it is of other shapes.
    save(other, params | {"a": params["a"][:, :4]}, mask | {"a": mask["a"][:, :4]})
    return DONE


def _load(path: Path, is_sparse: bool) -> int:
    from earlyprune_jax import pruning
    from earlyprune_jax.validate import InvalidInput

    params, mask = _networks()
    wanted = [np.where(mask["a"], params["a"], 0), np.where(mask["b"]["c"], params["b"]["c"], 0)]
    try:
        loaded = (
            pruning.load_sparse(path, params) if is_sparse else [pruning.load_dense(path, params)]
        )
    except InvalidInput as error:
        print(error)
        return BAD_INPUT
    values = [leaf for tree in loaded for leaf in (tree["a"], tree["b"]["c"])]
    masks = [mask["a"], mask["b"]["c"]] if is_sparse else []
    return DONE if all(map(np.array_equal, [*wanted, *masks], values)) else DIFFERENT
