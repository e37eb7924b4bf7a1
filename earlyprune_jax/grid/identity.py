"""What a member is called on disk: its axes in words, and a hash of all that decides its numbers.

Two members of one name are the same computation, whichever grid asked for them; so a later, larger
grid finds what an earlier one has trained. Which keys are swept decides no name.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.grid.members import (
    KINDS,
    Comparison,
    Fork,
    Member,
    SelfPruningRun,
    Trunk,
    trunk_of,
)
from earlyprune_jax.spec import RunSpec, Setting, content_hash, deciding

NUM_DIGITS = 8
LONGEST_PART = 40
FOLDERS = {
    Trunk: "trunks",
    Fork: "forks",
    SelfPruningRun: "online",
    Comparison: "comparisons",
}


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
    setting = f"{slug(own.model.name)}_{own.data.train_fraction:.10g}_{slug(own.schedule.name)}"
    parts = [f"{setting}_seed-{member.trunk_seed}"]
    if isinstance(member, Fork | Comparison):
        parts.append(f"epoch-{member.fork_epoch}")
    if not isinstance(member, Trunk):
        parts += [slug(member.criterion), slug(member.scope), f"s{member.sparsity!r}"]
        parts.append(slug(member.retraining))
    if isinstance(member, Comparison):
        parts.append(f"n{member.num_replicates}")
    elif not isinstance(member, Trunk):
        parts.append(f"r{member.replicate}")
    return f"{FOLDERS[type(member)]}/{'_'.join(parts)}-{member_id(spec, member)}"


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
        "kind": KINDS[type(member)].capitalize(),
        **_axes(member),
        "fork": _fork_hash(spec, member.setting),
        "code": _code_digests(spec, [member.criterion, member.scope, member.retraining]),
    }
    if isinstance(member, Comparison):
        decided["measures"] = sorted(spec.fork.comparisons)
    return content_hash(decided)[:NUM_DIGITS]


def described(spec: RunSpec, member: Member, first_epoch: int, num_epochs: int) -> dict[str, Any]:
    """Returns what run.json says: kind, every axis (null where there is none), epochs, config.

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
    replicates = (
        {"replicates": list(range(member.num_replicates))} if isinstance(member, Comparison) else {}
    )
    return {
        "kind": KINDS[type(member)],
        "model": own.model.name,
        "train_fraction": own.data.train_fraction,
        "schedule": own.schedule.name,
        **dict.fromkeys(axes),
        **_axes(member),
        **replicates,
        "first_epoch": first_epoch,
        "last_epoch": first_epoch + num_epochs,
        "config": own.to_dict(),
    }


def _axes(member: Member) -> dict[str, Any]:
    return {name: value for name, value in vars(member).items() if name != "setting"}


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
    known = dict(spec.code)
    paths: set[str] = set()
    for value in values:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                paths.update(references.import_paths(text))
    return {path: known[path] for path in sorted(paths) if path in known}
