"""What a grid is made of: dense runs, pruned runs, comparisons; each a value that names its
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
        """How long it trains, by the spec of its setting."""
        return spec.train.num_epochs


@dataclasses.dataclass(frozen=True)
class Fork:
    """A pruned run that leaves its trunk after `fork_epoch` epochs."""

    setting: Setting
    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    replicate: int

    def num_epochs(self, spec: RunSpec) -> int:
        """How long it trains, by the spec of its setting."""
        return retraining.length(spec, self.rule, self.fork_epoch)


@dataclasses.dataclass(frozen=True)
class Online:
    """A run that prunes itself: its trunk watches its signals, and stops when the trigger fires.

    The dense part is the trunk's, shared by all cells of a seed; what is left of the trunk's epochs
    is trained pruned.
    """

    setting: Setting
    trunk_seed: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    replicate: int

    def num_epochs(self, spec: RunSpec) -> int:
        """The longest it can get, while nobody knows when the trigger will fire: see
        `pruned_at`."""
        return retraining.length(spec, self.rule, 1)

    def pruned_at(self, epoch: int) -> Fork:
        """The fork this becomes, once it is known from which epoch's weights."""
        cell = (self.criterion, self.scope, self.sparsity, self.rule, self.replicate)
        return Fork(self.setting, self.trunk_seed, epoch, *cell)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike the replicates of one cell are; trains nothing."""

    setting: Setting
    trunk_seed: int
    fork_epoch: int
    criterion: str
    scope: str
    sparsity: float
    rule: str
    num_replicates: int

    def forks(self) -> tuple[Fork, ...]:
        """The replicates that are compared."""
        cell = (self.fork_epoch, self.criterion, self.scope, self.sparsity, self.rule)
        return tuple(
            Fork(self.setting, self.trunk_seed, *cell, number)
            for number in range(self.num_replicates)
        )


Pruned = Fork | Online
Run = Trunk | Fork | Online
Member = Run | Comparison


def trunk_of(member: Member) -> Trunk:
    """The dense run a member starts from, or is.

    Example:
        >>> trunk_of(Fork(Setting(), 3, 2, "magnitude", "global", 0.5, "paper_a", 0))
        Trunk(setting=Setting(values=()), trunk_seed=3)
    """
    return member if isinstance(member, Trunk) else Trunk(member.setting.trunk, member.trunk_seed)


def label(member: Member) -> str:
    """What progress calls a member.

    Example:
        >>> label(Trunk(Setting(), 0))
        'trunk seed 0'
    """
    where = f" {member.setting.words()}" if member.setting.values else ""
    if isinstance(member, Trunk):
        return f"trunk{where} seed {member.trunk_seed}"
    kind = type(member).__name__.lower()
    at = f" at {member.fork_epoch}" if isinstance(member, Fork | Comparison) else ""
    cell = f"{member.criterion} {member.scope} {member.sparsity!r} {member.rule}"
    number = getattr(member, "replicate", 0)
    return f"{kind}{where} seed {member.trunk_seed}{at}, {cell}" + f" #{number}" * bool(number)
