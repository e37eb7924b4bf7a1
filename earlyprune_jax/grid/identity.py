"""What a member is called on disk: its axes in words, and a hash of all that decides its numbers.

Two members of one name are the same computation, whichever grid asked for them; so a later, larger
grid finds what an earlier one has trained. Which keys are swept decides no name.
"""

import dataclasses
import functools
import re
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.grid.members import Comparison, Fork, Member, Online, Trunk, trunk_of
from earlyprune_jax.spec import RunSpec, Setting, content_hash, deciding

NUM_DIGITS = 8
LONGEST_PART = 40
FOLDERS = {Trunk: "trunks", Fork: "forks", Online: "online", Comparison: "comparisons"}


def directory(spec: RunSpec, member: Member) -> str:
    """Where a member lives, relative to the workdir.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> directory(spec, Trunk(Setting(), 0)).rpartition("-")[0]
        'trunks/resnet8_0.625_exponential_seed-0'
    """
    return f"{words(spec, member)}-{member_id(spec, member)}"


def words(spec: RunSpec, member: Member) -> str:
    """A member's directory up to its hash: its kind and its axes."""
    parts = [f"{setting_words(spec.at(member.setting))}_seed-{member.trunk_seed}"]
    if isinstance(member, Fork | Comparison):
        parts.append(f"epoch-{member.fork_epoch}")
    if not isinstance(member, Trunk):
        parts += [
            slug(member.criterion),
            slug(member.scope),
            f"s{member.sparsity!r}",
            slug(member.rule),
        ]
    if isinstance(member, Comparison):
        parts.append(f"n{member.num_replicates}")
    elif not isinstance(member, Trunk):
        parts.append(f"r{member.replicate}")
    return f"{FOLDERS[type(member)]}/{'_'.join(parts)}"


def setting_words(spec: RunSpec) -> str:
    """Network, data fraction and schedule of a setting, as part of a file's name."""
    return f"{slug(spec.model.name)}_{spec.data.train_fraction:.10g}_{slug(spec.schedule.name)}"


def slug(text: str) -> str:
    """A reference as part of a file's name; what tells long ones apart is the hash that follows.

    Example:
        >>> slug("resnet20"), slug("lab.nets:Net(depth=3)")
        ('resnet20', 'lab.nets-Net-depth-3')
    """
    return re.sub(r"[^\w.]+", "-", text).strip("-")[:LONGEST_PART]


def member_id(spec: RunSpec, member: Member) -> str:
    """Eight hex digits of the SHA-256 of what decides the member's numbers.

    Of a trunk that is its data, network, training, signals, the user's code that these name, and
    its seed; of everything that starts from it, its id, the keys that decide forks, and the cell.
    The axes of the grid it stands in are not among them.
    """
    trunk = _trunk_id(spec, trunk_of(member))
    if isinstance(member, Trunk):
        return trunk
    decided: dict[str, Any] = {"trunk": trunk, "kind": type(member).__name__} | _axes(member)
    decided["fork"] = _fork_hash(spec, member.setting)
    decided["code"] = _codes(spec, [member.criterion, member.scope, member.rule])
    if isinstance(member, Comparison):
        decided["measures"] = sorted(spec.fork.comparisons)
    return content_hash(decided)[:NUM_DIGITS]


def described(spec: RunSpec, member: Member, first_epoch: int, num_epochs: int) -> dict[str, Any]:
    """What run.json says: kind, every axis (null where there is none), epochs, every resolved
    value.

    Args:
        spec: of the study.
        member: what is described.
        first_epoch: epochs that lie behind its start.
        num_epochs: it trains.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> found = described(config.resolve(digits.get_config()), Trunk(Setting(), 0), 0, 40)
        >>> found["kind"], found["model"], found["sparsity"], found["last_epoch"]
        ('trunk', 'resnet8', None, 40)
    """
    own = spec.at(member.setting)
    unset = dict.fromkeys(
        field.name for field in dataclasses.fields(Fork) if field.name != "setting"
    )
    return {
        "kind": type(member).__name__.lower(),
        "model": own.model.name,
        "train_fraction": own.data.train_fraction,
        "schedule": own.schedule.name,
        **unset,
        **_axes(member),
        **(
            {"replicates": list(range(member.num_replicates))}
            if isinstance(member, Comparison)
            else {}
        ),
        "first_epoch": first_epoch,
        "last_epoch": first_epoch + num_epochs,
        "config": own.to_dict(),
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
    own = deciding(spec.at(setting).to_dict(), "data", "trunk")
    return content_hash([own, _codes(spec, own.values())])


@functools.lru_cache(maxsize=1024)
def _fork_hash(spec: RunSpec, setting: Setting) -> str:
    return content_hash(deciding(spec.at(setting).to_dict(), "fork"))


def _codes(spec: RunSpec, values: Any) -> dict[str, str]:
    """Import path -> digest of the user's code among some values of a config."""
    known = dict(spec.code)
    flat = [
        text for value in values for text in (value if isinstance(value, list | tuple) else [value])
    ]
    paths = {
        path for text in flat if isinstance(text, str) for path in references.import_paths(text)
    }
    return {path: known[path] for path in sorted(paths) if path in known}
