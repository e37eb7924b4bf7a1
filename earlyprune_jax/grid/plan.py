"""From a spec to the members it asks for, the groups that share a compilation, and what they
cost."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, SelfPruningRun, Trunk
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training.engine import engine_id

Cell = tuple[int, float]
"""Fork epoch and sparsity."""

Curve = tuple[str, str, str]
"""Criterion, scope and retraining."""

BASELINES: dict[str, Callable[[RunSpec], tuple[int, str, str]]] = {
    "prune_at_init": lambda spec: (0, spec.pruning.criteria[0], "matched_budget"),
    "prune_at_end": lambda spec: (spec.train.num_epochs, spec.pruning.criteria[0], "constant"),
    "random_at_init": lambda spec: (0, "random", "matched_budget"),
    "random_at_end": lambda spec: (spec.train.num_epochs, "random", "constant"),
}
"""Name -> fork epoch, criterion and retraining; all train T + fork.constant_num_epochs epochs."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one shape: one compilation serves them, and a device may train them side by side.

    Attributes:
        engine: the `engine_id` of their setting: network, data and all that is compiled.
        num_epochs: how long each trains.
        runs: the members.
    """

    engine: str
    num_epochs: int
    runs: tuple[Run, ...]


def members(spec: RunSpec) -> list[Member]:
    """Every member of the full grid, each trunk directly before what starts from it.

    Replicates of a cell follow one another, and then their comparison. No member occurs twice,
    though a baseline may be a cell of the grid.
    """
    return from_trunks(spec, lambda setting, seed: _everything(spec, setting, seed))


def from_trunks(spec: RunSpec, starting: Callable[[Setting, int], list[Member]]) -> list[Member]:
    """Every trunk, each directly before what starts from it: (setting, seed) -> members."""
    planned: list[Member] = []
    for setting, seed in itertools.product(spec.settings(), spec.train.seeds):
        planned += [Trunk(setting.trunk, seed), *starting(setting, seed)]
    return list(dict.fromkeys(planned))


def _everything(spec: RunSpec, setting: Setting, seed: int) -> list[Member]:
    if spec.fork.when == "trigger":
        return [SelfPruningRun(setting, seed, *cell) for cell in _online_cells(spec)]
    lattice = itertools.product(spec.fork.epochs, spec.pruning.sparsities)
    axes = itertools.product(lattice, curves(spec))
    planned = [run for cell, curve in axes for run in replicates(spec, setting, seed, cell, curve)]
    return planned + baselines(spec, setting, seed)


def curves(spec: RunSpec) -> list[Curve]:
    """Every criterion, scope and retraining."""
    return list(itertools.product(spec.pruning.criteria, spec.pruning.scopes, spec.fork.retraining))


def replicates(
    spec: RunSpec, setting: Setting, seed: int, cell: Cell, curve: Curve
) -> list[Member]:
    """The forks of one trunk at one cell, and then their comparison if there is one."""
    (epoch, sparsity), (criterion, scope, retraining) = cell, curve
    axes, count = (epoch, criterion, scope, sparsity, retraining), spec.fork.num_replicates
    runs: list[Member] = [Fork(setting, seed, *axes, number) for number in range(count)]
    return [*runs, Comparison(setting, seed, *axes, count)] if spec.fork.comparisons else runs


def baselines(spec: RunSpec, setting: Setting, seed: int) -> list[Member]:
    """The forks of one trunk that `fork.baselines` puts beside the grid."""
    axes = itertools.product(spec.fork.baselines, spec.pruning.scopes, spec.pruning.sparsities)
    planned: list[Member] = []
    for name, scope, sparsity in axes:
        epoch, criterion, retraining = BASELINES[name](spec)
        planned += replicates(
            spec, setting, seed, (epoch, sparsity), (criterion, scope, retraining)
        )
    return planned


def _online_cells(spec: RunSpec) -> list[tuple[Any, ...]]:
    pruning, numbers = spec.pruning, range(spec.fork.num_replicates)
    return list(
        itertools.product(
            pruning.criteria, pruning.scopes, pruning.sparsities, spec.fork.retraining, numbers
        )
    )


def groups(spec: RunSpec, runs: Iterable[Run]) -> list[Group]:
    """The runs by engine and length, in their order.

    A trunk, which is watched, is a group of its own.

    Args:
        spec: of the study.
        runs: its runs.
    """
    engines: dict[Setting, str] = {}
    found: dict[tuple[str, int, Trunk | None], list[Run]] = {}
    for run in runs:
        own = spec.at(run.setting)
        if run.setting not in engines:
            engines[run.setting] = engine_id(own)
        length = run.num_epochs(own)
        alone = run if isinstance(run, Trunk) else None
        found.setdefault((engines[run.setting], length, alone), []).append(run)
    return [Group(engine, length, tuple(own)) for (engine, length, _), own in found.items()]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a plan takes, at most: runs that prune themselves share their trunk's epochs.

    Attributes:
        num_epochs: over all runs.
        num_steps: training steps over all runs.
        num_checkpoints: left on disk at the end.
        disk_bytes: of those checkpoints, uncompressed.
    """

    num_epochs: int
    num_steps: int
    num_checkpoints: int
    disk_bytes: int


def cost(spec: RunSpec, planned: Iterable[Run], *, steps_per_epoch: int, state_bytes: int) -> Cost:
    """Estimates the runs of one setting from their lengths and the size of one state.

    Args:
        spec: of the setting.
        planned: its runs.
        steps_per_epoch: of its data.
        state_bytes: of its network.
    """
    planned = list(planned)
    num_epochs = sum(run.num_epochs(spec) for run in planned)
    trunks = sum(isinstance(run, Trunk) for run in planned)
    if spec.fork.when == "trigger":
        # A trunk that never stops leaves nothing for its pruned runs; one that stops at once, the
        # most.
        num_epochs -= trunks * (spec.train.num_epochs - 1)
    kept = kept_epochs(spec)
    num_kept = spec.train.num_epochs + 1 if kept is None else len({*kept, spec.train.num_epochs})
    num_checkpoints = trunks * num_kept + len(planned) - trunks
    return Cost(
        num_epochs, num_epochs * steps_per_epoch, num_checkpoints, num_checkpoints * state_bytes
    )


def kept_epochs(spec: RunSpec) -> frozenset[int] | None:
    """The trunk checkpoints that stay on disk, so far as it is known beforehand; None = all."""
    if spec.train.keep_checkpoints == "all":
        return None
    if spec.fork.when == "epochs":
        return fork_epochs(spec)
    # Any epoch may turn out to be the one to go back to.
    return (
        frozenset(range(spec.train.num_epochs)) if spec.fork.prune_at == "rewind" else frozenset()
    )


def fork_epochs(spec: RunSpec) -> frozenset[int]:
    """Every epoch at which a fork leaves its trunk, baselines among them."""
    return frozenset(
        (*spec.fork.epochs, *(BASELINES[name](spec)[0] for name in spec.fork.baselines))
    )


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves; shapes and types are enough.

    Example:
        >>> tree_bytes({"w": jax.ShapeDtypeStruct((2, 3), np.float32)})
        24
    """
    return sum(
        int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )
