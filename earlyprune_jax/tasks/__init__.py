"""What is learnt: the contract between the engine and data, network and loss.

    Task             a frozen bundle of pure functions; see docs/extending.md
    HostMeasurement  metrics measured outside of compiled code
    Metric           name, unit and direction of a metric
    plain, bucketed  batches of one shape, or of several
    build            the task of an experiment: `classification`, or module:function

A task's maker is a function (splits, model, **options) -> Task. Of batch_size, precision,
num_classes, mean, std, crop_padding and horizontal_flip, which are the config's, and assets, which
are the data's, it is given those that it takes by name.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from earlyprune_jax import data, models, references, user_code
from earlyprune_jax.metrics import Metric as Metric  # As in JAX: for others.
from earlyprune_jax.signals.signal import Network as Network
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.spec_sections import SECTIONS, DataSpec
from earlyprune_jax.tasks.batching import Batches as Batches
from earlyprune_jax.tasks.batching import Batching as Batching
from earlyprune_jax.tasks.batching import bucketed as bucketed
from earlyprune_jax.tasks.batching import gather as gather
from earlyprune_jax.tasks.batching import padded_batches as padded_batches
from earlyprune_jax.tasks.batching import plain as plain
from earlyprune_jax.tasks.classification import classification
from earlyprune_jax.tasks.task import HostMeasurement as HostMeasurement
from earlyprune_jax.tasks.task import Task, check
from earlyprune_jax.tasks.task import split_variables as split_variables
from earlyprune_jax.translation.task import translation
from earlyprune_jax.validate import expected, refuse, unexpected

KEY = "task.name"
TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "translation": translation,
}
FROM_SHAPES = ("classification",)
"""Tasks that can be made from the shapes of their data."""


def build(spec: RunSpec, source: data.Source) -> Task:
    """Makes the task of an experiment from its data.

    Args:
        spec: of one setting.
        source: of `data.read`.

    Raises:
        InvalidInput: the reference cannot be loaded, or what it makes is no sound task.
    """
    return _make(spec, data.split(source, spec.data), **_of_source(source, spec.data))


def abstract(spec: RunSpec) -> Task:
    """Makes the task as far as shapes go: what can be checked, and counted, before data are read.

    Only built-in tasks are made from shapes; the user's own sees its data.

    Args:
        spec: of one setting.

    Raises:
        InvalidInput: as `build`.
    """
    return _abstract(_seen(spec))


def forget() -> None:
    """Has `abstract` look at the data anew, and at code whose digest has changed."""
    _abstract.cache_clear()
    _own_data.cache_clear()


def _seen(spec: RunSpec) -> RunSpec:
    """Leaves out what no task is made from: settings that differ only there share one."""
    sections: dict[str, Any] = dict.fromkeys(SECTIONS)
    sections |= {"task": spec.task, "model": spec.model, "data": spec.data}
    sections["train"] = dataclasses.replace(
        spec.train, seeds=(), num_epochs=0, eval_batch_size=0, keep_checkpoints=""
    )
    return RunSpec(**sections)


@functools.lru_cache(maxsize=64)
def _abstract(spec: RunSpec) -> Task:
    if references.parse(spec.task.name).path not in FROM_SHAPES:
        splits, given = _own_data(spec.data)
        return _make(spec, splits, **given)
    paths = references.import_paths(spec.model.name)
    shapes = [
        (name, *jax.tree.flatten(outline)) for name, outline in data.shapes(spec.data).items()
    ]
    outlines = tuple((name, tuple(leaves), structure) for name, leaves, structure in shapes)
    # A notebook's own classes are in no file that a digest could tell apart.
    is_in_files = not any(path.startswith("__main__:") for path in paths)
    made = _from_shapes if is_in_files else _from_shapes.__wrapped__
    return made(spec, outlines, tuple(map(user_code.digest, paths)))


@functools.lru_cache(maxsize=64)
def _from_shapes(
    spec: RunSpec,
    outlines: tuple[tuple[str, tuple[jax.ShapeDtypeStruct, ...], Any], ...],
    code: tuple[str, ...],
) -> Task:
    """Makes a built-in task of a network, which is traced: once while neither the splits' outlines
    nor the digests of the code behind its name change."""
    del code
    splits = {name: jax.tree.unflatten(structure, leaves) for name, leaves, structure in outlines}
    # Only shapes matter, and one number serves all channels.
    neutral = (0.5,)
    return _make(spec, splits, mean=spec.data.mean or neutral, std=spec.data.std or neutral)


@functools.lru_cache(maxsize=1)
def _own_data(spec: DataSpec) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Reads what a task is made from that sees its data; tasks of several settings share a copy."""
    source = data.read(spec)
    return data.split(source, spec), _of_source(source, spec)


def _of_source(source: data.Source, spec: DataSpec) -> dict[str, Any]:
    """Returns what a task may be given of a source besides its splits."""
    mean, std = data.normalisation(source, spec)
    return {"mean": mean, "std": std, "assets": source.assets}


NEUTRAL = {
    "train.precision": "float32",
    "data.mean": (),
    "data.std": (),
    "data.crop_padding": 0,
    "data.horizontal_flip": False,
}
"""Keys that a task may take, and their values where it does not."""


def _make(spec: RunSpec, splits: Mapping[str, Any], **of_source: Any) -> Task:
    """Makes a task from its splits, or from their shapes.

    Raises:
        InvalidInput: no such task or network, keys that the task would ignore, or no sound task.
    """
    make = references.load(KEY, spec.task.name, TASKS)
    if not references.takes(make, 2):
        raise unexpected(KEY, spec.task.name, "to be a function (splits, model, **options) -> Task")
    model = models.factory(spec.model.name, width_multiplier=spec.model.width_multiplier)
    keys = ("train.batch_size", "data.num_classes", *NEUTRAL)
    options = {key.partition(".")[2]: spec.value(key) for key in keys} | of_source
    taken = references.accepted(make, options)
    refuse(
        expected(key, spec.value(key), f"to be {neutral!r}: {spec.task.name} does not take it")
        for key, neutral in NEUTRAL.items()
        if key.partition(".")[2] not in taken and spec.value(key) != neutral
    )
    key = KEY if references.is_import_path(spec.task.name) else "model.name"
    if not references.is_import_path(spec.value(key)):
        return make(splits, model, **taken)
    what = "to make a Task" if key == KEY else "to be applicable to the images"
    with references.guarded(key, spec.value(key), what):
        made = make(splits, model, **taken)
        problems = check(made)
    refuse(f"{key}: {spec.value(key)}: {problem}" for problem in problems)
    return made
