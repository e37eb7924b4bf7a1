"""From a spec to the runs it asks for, with their names, lengths and cost."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np

from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import fork_rules
from earlyprune_jax.training.fork_rules import Training


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A dense run."""

    trunk_seed: int

    @property
    def directory(self) -> str:
        """Where the run lives, relative to the workdir."""
        return f"trunks/seed-{self.trunk_seed}"

    @property
    def label(self) -> str:
        """What progress calls the run."""
        return f"trunk seed {self.trunk_seed}"

    def training(self, spec: RunSpec, steps_per_epoch: int) -> Training:
        """Length, schedule and momentum."""
        return fork_rules.trunk(spec, steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class Fork:
    """A pruned run that leaves its trunk after `fork_epoch` epochs."""

    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    replicate: int

    @property
    def directory(self) -> str:
        """Where the run lives, relative to the workdir."""
        axes = f"{self.criterion}_{self.scope}_s{self.sparsity!r}_{self.rule}_r{self.replicate}"
        return f"forks/seed-{self.trunk_seed}_epoch-{self.fork_epoch}_{axes}"

    @property
    def label(self) -> str:
        """What progress calls the run."""
        axes = f"{self.criterion} {self.scope} {self.sparsity!r} {self.rule}"
        return f"fork seed {self.trunk_seed} at {self.fork_epoch}, {axes}" + (
            f" #{self.replicate}" * bool(self.replicate)
        )

    def training(self, spec: RunSpec, steps_per_epoch: int) -> Training:
        """Length, schedule and momentum."""
        return fork_rules.RULES[self.rule](spec, self.fork_epoch, steps_per_epoch)


@dataclasses.dataclass(frozen=True)
class Online:
    """A run that prunes itself: its trunk watches its signals, and stops when the trigger fires.

    The dense part is the trunk's, shared by all cells of a seed; what is left of the trunk's epochs
    is trained pruned.
    """

    trunk_seed: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    replicate: int

    @property
    def directory(self) -> str:
        """Where the pruned part lives, relative to the workdir."""
        axes = f"{self.criterion}_{self.scope}_s{self.sparsity!r}_{self.rule}_r{self.replicate}"
        return f"online/seed-{self.trunk_seed}_{axes}"

    @property
    def label(self) -> str:
        """What progress calls the run."""
        axes = f"{self.criterion} {self.scope} {self.sparsity!r} {self.rule}"
        return f"online seed {self.trunk_seed}, {axes}" + f" #{self.replicate}" * bool(self.replicate)

    def training(self, spec: RunSpec, steps_per_epoch: int) -> Training:
        """The longest it can get, while nobody knows when the trigger will fire: see `pruned_at`."""
        return fork_rules.RULES[self.rule](spec, 1, steps_per_epoch)

    def pruned_at(self, epoch: int) -> Fork:
        """The fork this becomes, once it is known from which epoch's weights."""
        return Fork(
            self.trunk_seed, epoch, self.criterion, self.scope, self.sparsity, self.rule, self.replicate
        )


AnyRun = Trunk | Fork | Online


def identity(run: AnyRun, first_epoch: int, num_epochs: int) -> dict[str, Any]:
    """What run.json says: kind and every axis (null where a run has none), first and last epoch.

    Example:
        >>> identity(Trunk(0), 0, 40)["kind"], identity(Trunk(0), 0, 40)["last_epoch"]
        ('trunk', 40)
    """
    axes = dict.fromkeys(field.name for field in dataclasses.fields(Fork)) | dataclasses.asdict(run)
    return {
        "kind": type(run).__name__.lower(),
        **axes,
        "first_epoch": first_epoch,
        "last_epoch": first_epoch + num_epochs,
    }


def runs(spec: RunSpec) -> list[AnyRun]:
    """Every run, each trunk directly before its forks: results.csv holds whole seeds early."""
    fork, pruning = spec.fork, spec.pruning
    axes = (
        pruning.criteria,
        pruning.scopes,
        pruning.sparsities,
        fork.rules,
        range(fork.num_replicates),
    )
    cells = list(itertools.product(*axes))
    if fork.when == "trigger":
        return [
            run
            for seed in spec.train.seeds
            for run in (Trunk(seed), *(Online(seed, *cell) for cell in cells))
        ]
    forked = itertools.product(fork.epochs, cells)
    places = [(epoch, *cell) for epoch, cell in forked]
    return [run for seed in spec.train.seeds for run in (Trunk(seed), *(Fork(seed, *at) for at in places))]


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


def cost(spec: RunSpec, *, steps_per_epoch: int, state_bytes: int) -> Cost:
    """Estimates a whole plan from its lengths and the size of one state."""
    planned = runs(spec)
    num_epochs = sum(run.training(spec, steps_per_epoch).num_epochs for run in planned)
    if spec.fork.when == "trigger":
        # A trunk that never stops leaves nothing for its pruned runs; one that stops at once, the most.
        num_epochs -= len(spec.train.seeds) * (spec.train.num_epochs - 1)
    kept = spec.train.num_epochs + 1
    if spec.train.keep_checkpoints == "fork_epochs":
        kept = len({*kept_epochs(spec), spec.train.num_epochs})
    num_checkpoints = sum(kept if isinstance(run, Trunk) else 1 for run in planned)
    return Cost(num_epochs, num_epochs * steps_per_epoch, num_checkpoints, num_checkpoints * state_bytes)


def kept_epochs(spec: RunSpec) -> frozenset[int]:
    """The trunk checkpoints that forks may start from, so far as it is known beforehand."""
    if spec.fork.when == "epochs":
        return frozenset(spec.fork.epochs)
    # Any epoch may turn out to be the one to go back to.
    return frozenset(range(spec.train.num_epochs)) if spec.fork.prune_at == "rewind" else frozenset()


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves; shapes and types are enough.

    Example:
        >>> tree_bytes({"w": jax.ShapeDtypeStruct((2, 3), np.float32)})
        24
    """
    return sum(int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
