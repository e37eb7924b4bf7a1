"""From a spec to the members it asks for, and what they cost."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax

from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, Trunk
from earlyprune_jax.spec import RunSpec, Setting

Cell = tuple[int | None, float]
"""Fork epoch and sparsity; the epoch of a run that prunes itself is None."""

Curve = tuple[str, str, str]
"""Criterion, scope and retraining."""

BASELINES: dict[str, Callable[[RunSpec], tuple[int, str, str]]] = {
    "prune_at_init": lambda spec: (0, spec.pruning.criteria[0], "matched_budget"),
    "prune_at_end": lambda spec: (spec.train.num_epochs, spec.pruning.criteria[0], "constant"),
    "random_at_init": lambda spec: (0, "random", "matched_budget"),
    "random_at_end": lambda spec: (spec.train.num_epochs, "random", "constant"),
}
"""Name -> fork epoch, criterion and retraining; all train T + fork.constant_num_epochs epochs."""


def members(
    spec: RunSpec, cells: Mapping[tuple[Setting, Curve], Collection[Cell]] | None = None
) -> list[Member]:
    """Lists members, each trunk directly before what starts from it.

    Replicates of a cell follow one another, and then their comparison. No member occurs twice,
    though a baseline may be a cell of the grid.

    Args:
        spec: of the study.
        cells: setting and curve -> the cells that are wanted; None = the full grid.

    Returns:
        The members.
    """
    epochs = spec.fork.epochs if spec.fork.when == "epochs" else (None,)
    lattice = list(itertools.product(epochs, spec.pruning.sparsities))
    planned: list[Member] = []
    for setting, seed in itertools.product(spec.settings(), spec.train.seeds):
        planned.append(Trunk(setting.trunk, seed))
        for cell, curve in itertools.product(lattice, curves(spec)):
            if cells is None or cell in cells[setting, curve]:
                planned += replicates(spec, setting, seed, cell, curve)
        planned += baselines(spec, setting, seed)
    return list(dict.fromkeys(planned))


def curves(spec: RunSpec) -> list[Curve]:
    """Lists every criterion, scope and retraining."""
    return list(itertools.product(spec.pruning.criteria, spec.pruning.scopes, spec.fork.retraining))


def replicates(
    spec: RunSpec, setting: Setting, seed: int, cell: Cell, curve: Curve
) -> list[Member]:
    """Lists the forks of one trunk at one cell, and then their comparison if there is one.

    Args:
        spec: of the study.
        setting: of the forks.
        seed: of the trunk.
        cell: fork epoch and sparsity.
        curve: criterion, scope and retraining.

    Returns:
        The forks, by number, and the comparison.
    """
    (epoch, sparsity), (criterion, scope, retraining) = cell, curve
    axes, count = (criterion, scope, sparsity, retraining), spec.fork.num_replicates
    runs: list[Member] = [Fork(setting, seed, epoch, *axes, number) for number in range(count)]
    if spec.fork.comparisons and epoch is not None:
        runs.append(Comparison(setting, seed, epoch, *axes, count))
    return runs


def baselines(spec: RunSpec, setting: Setting, seed: int) -> list[Member]:
    """Lists the forks of one trunk that `fork.baselines` puts beside the grid.

    Args:
        spec: of the study.
        setting: of the forks.
        seed: of the trunk.

    Returns:
        The forks, some of which may be cells of the grid too.
    """
    axes = itertools.product(spec.fork.baselines, spec.pruning.scopes, spec.pruning.sparsities)
    planned: list[Member] = []
    for name, scope, sparsity in axes:
        epoch, criterion, retraining = BASELINES[name](spec)
        cell, curve = (epoch, sparsity), (criterion, scope, retraining)
        planned += replicates(spec, setting, seed, cell, curve)
    return planned


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

    Returns:
        Totals over the runs.
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
    """Lists the trunk checkpoints that stay on disk, as far as known beforehand; None = all."""
    if spec.train.keep_checkpoints == "all":
        return None
    if spec.fork.when == "epochs":
        return fork_epochs(spec)
    # Any epoch may turn out to be the one to go back to.
    return frozenset(range(spec.train.num_epochs) if spec.fork.prune_at == "rewind" else ())


def fork_epochs(spec: RunSpec) -> frozenset[int]:
    """Lists every epoch at which a fork leaves its trunk, baselines among them."""
    return frozenset(spec.fork.epochs).union(
        BASELINES[name](spec)[0] for name in spec.fork.baselines
    )


def tree_bytes(tree: Any) -> int:
    """Counts the bytes of all leaves; shapes and types are enough.

    Example:
        >>> tree_bytes({"w": jax.ShapeDtypeStruct((2, 3), "float32")})
        24
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
