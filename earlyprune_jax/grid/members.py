"""What a study consists of: dense runs, pruned runs, comparisons; what they are called on disk.

A member is a value that names its axes. Its directory is these axes in words, and a hash of all
that decides its numbers. Two members of one name are the same computation, whichever grid asked for
them; so a later, larger grid finds what an earlier one has trained. Which keys are swept decides no
name.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable
from typing import Any, ClassVar

import jax

from earlyprune_jax import records, references
from earlyprune_jax.spec import RunSpec, Setting, content_hash, deciding, without_grid
from earlyprune_jax.training import retraining

NUM_DIGITS = 8
LONGEST_PART = 40


@dataclasses.dataclass(frozen=True)
class Trunk:
    """A dense run; its setting holds no key that decides forks only."""

    kind: ClassVar[str] = "trunk"
    setting: Setting
    trunk_seed: int

    def num_epochs(self, spec: RunSpec) -> int:
        """Returns how long it trains, by the spec of its setting."""
        return spec.train.num_epochs


@dataclasses.dataclass(frozen=True)
class Fork:
    """A pruned run that starts from its trunk's weights.

    Attributes:
        fork_epoch: of these weights; None = a run that prunes itself: its trunk stops when the
            trigger fires, and what is left of the trunk's epochs is trained pruned. All cells of a
            seed share that dense part.
    """

    setting: Setting
    trunk_seed: int
    fork_epoch: int | None
    criterion: str
    scope: str
    sparsity: float
    retraining: str
    replicate: int

    @property
    def kind(self) -> str:
        """Its name in run.json, tables and messages."""
        return "online" if self.fork_epoch is None else "fork"

    def num_epochs(self, spec: RunSpec) -> int:
        """Returns how long it trains, by the spec of its setting; at most, if it prunes itself."""
        fork_epoch = 1 if self.fork_epoch is None else self.fork_epoch
        return retraining.length(spec, self.retraining, fork_epoch)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How alike the replicates of one cell are; trains nothing."""

    kind: ClassVar[str] = "comparison"
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


Run = Trunk | Fork
Member = Run | Comparison


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
    seed = f"{member.kind}{where} seed {member.trunk_seed}"
    if isinstance(member, Trunk):
        return seed
    at = "" if member.fork_epoch is None else f" at {member.fork_epoch}"
    number = getattr(member, "replicate", 0)
    return f"{seed}{at}, {_curve(member)}{f' #{number}' if number else ''}"


def row(member: Member) -> str:
    """Names what a member has in common with those of other seeds, fork epochs and replicates.

    Example:
        >>> row(Fork(Setting(), 3, 2, "magnitude", "global", 0.5, "paper_a", 1))
        'magnitude global 0.5 paper_a'
        >>> row(Trunk(Setting((("optim.weight_decay", 0.1),)), 0))
        'optim.weight_decay=0.1 dense'
    """
    last = "dense" if isinstance(member, Trunk) else _curve(member)
    return f"{member.setting.words()} {last}".lstrip()


def _curve(member: Fork | Comparison) -> str:
    return f"{member.criterion} {member.scope} {member.sparsity!r} {member.retraining}"


def directory(spec: RunSpec, member: Member) -> str:
    """Returns where a member lives, relative to the workdir.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> directory(spec, Trunk(Setting(), 0)).rpartition("-")[0]
        'trunks/resnet8_0.625_exponential_seed-0'
    """
    own = spec.at(member.setting)
    parts = [slug(own.model.name), f"{own.data.train_fraction:.10g}", slug(own.schedule.name)]
    parts.append(f"seed-{member.trunk_seed}")
    if not isinstance(member, Trunk):
        parts += [] if member.fork_epoch is None else [f"epoch-{member.fork_epoch}"]
        parts += [slug(member.criterion), slug(member.scope), f"s{member.sparsity!r}"]
        is_comparison = isinstance(member, Comparison)
        last = f"n{member.num_replicates}" if is_comparison else f"r{member.replicate}"
        parts += [slug(member.retraining), last]
    return f"{records.FOLDERS[member.kind]}/{'_'.join(parts)}-{member_id(spec, member)}"


def slug(text: str) -> str:
    """Turns a reference into a part of a file's name; the hash that follows tells long ones apart.

    Example:
        >>> slug("resnet20"), slug("lab.nets:Net(depth=3)")
        ('resnet20', 'lab.nets-Net-depth-3')
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-")[:LONGEST_PART]


def member_id(spec: RunSpec, member: Member) -> str:
    """Returns eight hex digits of the SHA-256 of what decides the member's numbers.

    Of a trunk that is its data, network, training, signals, the user's code that these name, and
    its seed. Of everything that starts from it: its id, the keys that decide forks, and the cell.
    The axes of the grid are not among them.
    """
    trunk = trunk_of(member)
    dense = {"setting": _setting_hash(spec, trunk.setting), "seed": trunk.trunk_seed}
    trunk_id = content_hash(dense)[:NUM_DIGITS]
    if isinstance(member, Trunk):
        return trunk_id
    decided: dict[str, Any] = {
        "trunk": trunk_id,
        "kind": member.kind.capitalize(),
        **_axes(member),
        "fork": _fork_hash(spec, member.setting),
        "code": _code_digests(spec, [member.criterion, member.scope, member.retraining]),
    }
    if isinstance(member, Comparison):
        decided["measures"] = sorted(spec.fork.comparisons)
    return content_hash(decided)[:NUM_DIGITS]


def described(spec: RunSpec, member: Member, first_epoch: int, num_epochs: int) -> dict[str, Any]:
    """Returns what run.json says: kind, every axis (null where there is none), epochs, config.

    The config is without what only says which other runs there are.

    Args:
        spec: of the study.
        member: what is described.
        first_epoch: epochs before its start.
        num_epochs: how long it trains.

    Returns:
        Plain data for JSON.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> found = described(config.resolve(digits.get_config()), Trunk(Setting(), 0), 0, 40)
        >>> found["kind"], found["model"], found["sparsity"], found["last_epoch"]
        ('trunk', 'resnet8', None, 40)
    """
    own = spec.at(member.setting)
    axes = (field.name for field in dataclasses.fields(Fork) if field.name != "setting")
    replicates = {}
    if isinstance(member, Comparison):
        replicates = {"replicates": list(range(member.num_replicates))}
    return {
        "kind": member.kind,
        "model": own.model.name,
        "train_fraction": own.data.train_fraction,
        "schedule": own.schedule.name,
        **dict.fromkeys(axes),
        **_axes(member),
        **replicates,
        "first_epoch": first_epoch,
        "last_epoch": first_epoch + num_epochs,
        "config": without_grid(own.to_dict()),
    }


def _axes(member: Member) -> dict[str, Any]:
    values = vars(member).items()
    return {name: value for name, value in values if name != "setting" and value is not None}


@functools.lru_cache(maxsize=1024)
def _setting_hash(spec: RunSpec, setting: Setting) -> str:
    """Hashes all that decides a trunk's numbers but its seed."""
    own = deciding(spec.at(setting).to_dict(), "data", "trunk")
    return content_hash([own, _code_digests(spec, own.values())])


@functools.lru_cache(maxsize=1024)
def _fork_hash(spec: RunSpec, setting: Setting) -> str:
    return content_hash(deciding(spec.at(setting).to_dict(), "fork"))


def _code_digests(spec: RunSpec, values: Iterable[Any]) -> dict[str, str]:
    """Returns import path -> digest of the user's code that some values of a config name."""
    if not spec.code:
        return {}
    texts = (leaf for leaf in jax.tree.leaves(list(values)) if isinstance(leaf, str))
    paths = {path for text in texts for path in references.import_paths(text)}
    return {path: digest for path, digest in sorted(spec.code) if path in paths}
