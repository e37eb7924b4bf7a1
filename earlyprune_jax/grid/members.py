"""What a study consists of: dense runs, pruned runs, comparisons; each a value that names its
axes."""

import dataclasses

from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import retraining


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A dense run; its setting holds no key that decides forks only."""

    setting: Setting
    trunk_seed: int

    def num_epochs(self, spec: RunSpec) -> int:
        """Returns how long it trains, by the spec of its setting."""
        return spec.train.num_epochs


@dataclasses.dataclass(frozen=True)
class Fork:
    """A pruned run that starts from its trunk's weights after `fork_epoch` epochs."""

    setting: Setting
    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    retraining: str
    replicate: int

    def num_epochs(self, spec: RunSpec) -> int:
        """Returns how long it trains, by the spec of its setting."""
        return retraining.length(spec, self.retraining, self.fork_epoch)


@dataclasses.dataclass(frozen=True)
class SelfPruningRun:
    """A run that decides itself when to prune: its trunk stops when the trigger fires.

    All cells of a seed share that dense part. What is left of the trunk's epochs is trained pruned.
    """

    setting: Setting
    trunk_seed: int
    criterion: str
    scope: str
    sparsity: float
    retraining: str
    replicate: int

    def num_epochs(self, spec: RunSpec) -> int:
        """Returns the most epochs it can have, as long as the trigger has not fired."""
        return retraining.length(spec, self.retraining, 1)

    def pruned_at(self, epoch: int) -> Fork:
        """Returns the fork this becomes, once the epoch of its weights is known."""
        return Fork(fork_epoch=epoch, **vars(self))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike the replicates of one cell are; trains nothing."""

    setting: Setting
    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    retraining: str
    num_replicates: int

    def forks(self) -> tuple[Fork, ...]:
        """Returns the replicates that are compared."""
        cell = {name: value for name, value in vars(self).items() if name != "num_replicates"}
        return tuple(Fork(**cell, replicate=number) for number in range(self.num_replicates))


PrunedRun = Fork | SelfPruningRun
Run = Trunk | Fork | SelfPruningRun
Member = Run | Comparison

KINDS: dict[type, str] = {
    Trunk: "trunk",
    Fork: "fork",
    SelfPruningRun: "online",
    Comparison: "comparison",
}
"""Kind of member -> its name in run.json, tables and messages."""


def trunk_of(member: Member) -> Trunk:
    """Returns the dense run that a member starts from, or is.

    Example:
        >>> trunk_of(Fork(Setting(), 3, 2, "magnitude", "global", 0.5, "paper_a", 0))
        Trunk(setting=Setting(values=()), trunk_seed=3)
    """
    return member if isinstance(member, Trunk) else Trunk(member.setting.trunk, member.trunk_seed)


def label(member: Member) -> str:
    """Names a member in messages.

    Example:
        >>> label(Trunk(Setting(), 0))
        'trunk seed 0'
        >>> label(Fork(Setting(), 3, 2, "magnitude", "global", 0.5, "paper_a", 1))
        'fork seed 3 at 2, magnitude global 0.5 paper_a #1'
    """
    where = f" {member.setting.words()}" if member.setting.values else ""
    seed = f"{KINDS[type(member)]}{where} seed {member.trunk_seed}"
    if isinstance(member, Trunk):
        return seed
    at = f" at {member.fork_epoch}" if isinstance(member, Fork | Comparison) else ""
    cell = f"{member.criterion} {member.scope} {member.sparsity!r} {member.retraining}"
    number = getattr(member, "replicate", 0)
    return f"{seed}{at}, {cell}{f' #{number}' if number else ''}"
