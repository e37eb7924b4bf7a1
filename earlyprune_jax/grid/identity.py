"""What a member is called on disk: its axes in words, and a hash of all that decides its numbers.

Two members of one name are the same computation, whichever grid asked for them; so a later, larger
grid finds what an earlier one has trained.
"""

import dataclasses
import functools
from typing import Any

from earlyprune_jax.grid.members import Comparison, Fork, Member, Online, Trunk, trunk_of
from earlyprune_jax.spec import RunSpec, Setting, content_hash
from earlyprune_jax.training.fork_rules import FIXED_LENGTH

NUM_DIGITS = 8
FOLDERS = {Trunk: "trunks", Fork: "forks", Online: "online", Comparison: "comparisons"}


def directory(spec: RunSpec, member: Member) -> str:
    """Where a member lives, relative to the workdir.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> len(directory(spec, Trunk(spec.settings()[0], 0)).rpartition("-")[2])
        8
    """
    return f"{words(member)}-{member_id(spec, member)}"


def words(member: Member) -> str:
    """A member's directory up to its hash: its kind and its axes.

    Example:
        >>> words(Trunk(Setting("resnet8", 1.0, "cosine"), 0))
        'trunks/resnet8_1_cosine_seed-0'
    """
    parts = [f"{member.setting.slug}_seed-{member.trunk_seed}"]
    if isinstance(member, Fork | Comparison):
        parts.append(f"epoch-{member.fork_epoch}")
    if not isinstance(member, Trunk):
        parts += [member.criterion, member.scope, f"s{member.sparsity!r}", member.rule]
    if isinstance(member, Comparison):
        parts.append(f"n{member.num_replicates}")
    elif not isinstance(member, Trunk):
        parts.append(f"r{member.replicate}")
    return f"{FOLDERS[type(member)]}/{'_'.join(parts)}"


def member_id(spec: RunSpec, member: Member) -> str:
    """Eight hex digits of the SHA-256 of what decides the member's numbers.

    Of a trunk that is its data, network, training, signals and seed; of everything that starts from
    it, its id and the cell. The axes of the grid it stands in are not among them.
    """
    trunk = _trunk_id(spec, trunk_of(member))
    if isinstance(member, Trunk):
        return trunk
    decided: dict[str, Any] = {"trunk": trunk, "kind": type(member).__name__} | _axes(member)
    decided["layers"] = spec.pruning.layers
    if isinstance(member, Online):
        decided["prune_at"] = spec.fork.prune_at
    if isinstance(member, Comparison):
        decided["measures"] = sorted(spec.fork.comparisons)
    if member.rule in FIXED_LENGTH:
        names = ("constant_learning_rate", "constant_num_epochs")
        decided |= {name: getattr(spec.fork, name) for name in names}
    return content_hash(decided)[:NUM_DIGITS]


def described(member: Member, first_epoch: int, num_epochs: int) -> dict[str, Any]:
    """What run.json says: kind and every axis (null where there is none), first and last epoch.

    Example:
        >>> found = described(Trunk(Setting("resnet8", 1.0, "cosine"), 0), 0, 40)
        >>> found["kind"], found["model"], found["sparsity"], found["last_epoch"]
        ('trunk', 'resnet8', None, 40)
    """
    unset = dict.fromkeys(field.name for field in dataclasses.fields(Fork) if field.name != "setting")
    return {
        "kind": type(member).__name__.lower(),
        **dataclasses.asdict(member.setting),
        **unset,
        **_axes(member),
        **({"replicates": list(range(member.num_replicates))} if isinstance(member, Comparison) else {}),
        "first_epoch": first_epoch,
        "last_epoch": first_epoch + num_epochs,
    }


def _axes(member: Member) -> dict[str, Any]:
    fields = (field.name for field in dataclasses.fields(member))
    return {name: getattr(member, name) for name in fields if name != "setting"}


def _trunk_id(spec: RunSpec, trunk: Trunk) -> str:
    decided = {"setting": _setting_hash(spec, trunk.setting), "seed": trunk.trunk_seed}
    return content_hash(decided)[:NUM_DIGITS]


@functools.lru_cache(maxsize=1024)
def _setting_hash(spec: RunSpec, setting: Setting) -> str:
    """Of all that decides a trunk's numbers but its seed."""
    fixed = spec.fixed()
    decided: dict[str, Any] = {name: fixed[name] for name in ("data", "model", "train", "optim", "schedule")}
    decided |= {"setting": dataclasses.asdict(setting), "signals": fixed["signals"]}
    if "mask_distance" in spec.signals.names:
        decided["mask"] = (fixed["pruning"], *first_cell(spec))
    if spec.fork.when == "trigger":
        decided["trigger"] = (spec.fork.trigger, spec.fork.fallback_epoch)
    return content_hash(decided)


def first_cell(spec: RunSpec) -> tuple[str, str, float]:
    """The criterion, scope and sparsity of the masks that the signal mask_distance compares."""
    return spec.pruning.criteria[0], spec.pruning.scopes[0], spec.pruning.sparsities[0]
