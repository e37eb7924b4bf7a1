"""An experiment as plain data: its config, resolved, and what of it decides which runs.

A `RunSpec` is made by `config.resolve` and handed downwards; nothing below reads a
ConfigDict. It has no defaults: a config file shows every key, as `spec_sections` declares it.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from earlyprune_jax import user_code
from earlyprune_jax.references import frozen
from earlyprune_jax.spec_sections import KEYS, SECTIONS, Sections, decides
from earlyprune_jax.validate import unexpected

Row = tuple[tuple[str, Any], ...]
"""(key, value) pairs, sorted by key."""
Axis = tuple[Row, ...]
"""What a sweep runs through: values that belong together a row, each row of the same keys."""


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """One combination of the swept keys' values; empty where nothing is swept.

    Attributes:
        values: (key, value) pairs, sorted by key.

    Example:
        >>> Setting((("fork.length", 5), ("optim.weight_decay", 0.1))).trunk
        Setting(values=(('optim.weight_decay', 0.1),))
    """

    values: Row = ()

    @property
    def trunk(self) -> "Setting":
        """Returns what decides a trunk: trunks of two settings that differ elsewhere are one."""
        return Setting(tuple(row for row in self.values if decides(row[0]) in ("data", "trunk")))

    def words(self) -> str:
        """Writes the setting in words.

        Example:
            >>> Setting((("optim.weight_decay", 0.1),)).words()
            'optim.weight_decay=0.1'
        """
        return ", ".join(f"{name}={value}" for name, value in self.values)


def sweep_axes(swept: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Reads the section `sweep` of a config: keys with their values, and `rows`.

    Example:
        >>> sweep_axes({"optim.momentum": [0, 0.9]})
        (((('optim.momentum', 0),), (('optim.momentum', 0.9),)),)
    """
    lists = {key: [{key: value} for value in swept[key]] for key in sorted(swept) if key != "rows"}
    axes = [*lists.values(), *([swept["rows"]] if "rows" in swept else [])]
    return tuple(
        tuple(tuple(sorted((key, frozen(value)) for key, value in row.items())) for row in axis)
        for axis in axes
    )


def combined(axes: tuple[Axis, ...]) -> tuple[Setting, ...]:
    """Combines the rows of all axes; one empty setting where nothing is swept.

    Example:
        >>> len(combined(sweep_axes({"optim.momentum": [0, 0.9], "fork.length": [1, 2]})))
        4
    """
    return tuple(
        Setting(tuple(sorted(itertools.chain(*rows), key=lambda pair: pair[0])))
        for rows in itertools.product(*axes)
    )


@dataclasses.dataclass(frozen=True)
class RunSpec(Sections):
    """A whole experiment: one trunk a setting and seed, and every fork of the grid.

    Attributes:
        sweep: axes of keys that take several values; a swept key's own value is its first.
        code: (import path, digest) of the user's code that the keys name; see `user_code.digest`.
        folder: where that code is looked for beside the Python path; decides nothing.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> config.resolve(digits.get_config()).train.num_epochs
        40
    """

    sweep: tuple[Axis, ...] = ()
    code: tuple[tuple[str, str], ...] = ()
    folder: str = ""

    def __hash__(self) -> int:
        # Of a few fields, for equal specs have equal ones: there may be thousands of seeds, and
        # what is kept for a spec is looked up for every member.
        return hash((self.data, self.model, self.optim))

    def value(self, name: str) -> Any:
        """Returns the value of a key, `section.key`."""
        section, leaf = name.split(".")
        return getattr(getattr(self, section), leaf)

    def replace(self, values: Mapping[str, Any]) -> "RunSpec":
        """Returns the spec with some keys changed: `section.key` -> value."""
        changed: dict[str, Any] = {}
        for name, value in values.items():
            section, leaf = name.split(".")
            before = changed.get(section, getattr(self, section))
            changed[section] = dataclasses.replace(before, **{leaf: value})
        return dataclasses.replace(self, **changed)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON data: section -> key -> value, tuples as lists; `sweep` where keys are
        swept."""
        values = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        for axis in self.sweep:
            swept = values.setdefault("sweep", {})
            if len(axis[0]) > 1:
                swept["rows"] = [dict(row) for row in axis]
            else:
                swept |= {name: [row[0][1] for row in axis] for name, _ in axis[0]}
        return json.loads(json.dumps(values))

    def study_id(self) -> str:
        """Hashes all that decides runs but the grid, eight hex digits: grids of one study may share
        a workdir.

        A swept key counts with its first value, so that a sweep may grow, and the user's code does
        not count.
        """
        return content_hash(fixed_keys(self.to_dict()))[:8]

    def settings(self) -> tuple[Setting, ...]:
        """Lists every combination of the swept keys' values, in the order of the config."""
        return combined(self.sweep)

    @functools.cached_property
    def _at(self) -> dict[Setting, "RunSpec"]:
        return {}

    def at(self, setting: Setting) -> "RunSpec":
        """Returns the spec of one setting, in which nothing is swept."""
        if setting not in self._at:
            self._at[setting] = dataclasses.replace(self.replace(dict(setting.values)), sweep=())
        return self._at[setting]


ONLINE_KEYS = ("fork.trigger", "fork.prune_at", "fork.fallback_epoch")
"""Keys that decide runs with fork.when=trigger, and otherwise only what is replayed over a grid."""


def deciding(values: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
    """Selects the keys of a config that decide one of the kinds: `section.key` -> value.

    With fork.when=trigger what a run obeys decides its trunk, and how it is pruned the fork.

    Args:
        values: section -> key -> value, as of `RunSpec.to_dict`.
        kinds: what keys decide, see `SWEPT_BY`.
    """
    is_online = values.get("fork", {}).get("when") == "trigger"
    selected = {}
    for name in KEYS:
        kind = decides(name)
        if is_online and name in ONLINE_KEYS:
            kind = "fork" if name == "fork.prune_at" else "trunk"
        section, leaf = name.split(".")
        if kind in kinds and leaf in values.get(section, {}):
            selected[name] = values[section][leaf]
    return selected


def without_grid(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Leaves out the keys of a config that only say which runs there are, thousands of seeds
    perhaps: of fork.when it depends what others decide.

    Args:
        values: as of `RunSpec.to_dict`, nothing swept.
    """
    return {
        section: {
            leaf: value
            for leaf, value in leaves.items()
            if (name := f"{section}.{leaf}") == "fork.when" or decides(name) != "grid"
        }
        for section, leaves in values.items()
    }


def fixed_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Selects what all runs of a workdir have in common unless it is swept: `section.key` -> value.

    Args:
        values: as of `RunSpec.to_dict`.
    """
    fixed = deciding(values, "data", "trunk", "fork")
    return fixed | {"fork.when": values.get("fork", {}).get("when")}


def content_hash(value: Any) -> str:
    """Returns the SHA-256 of plain data as canonical JSON, hexadecimal.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def use_code(spec: RunSpec) -> None:
    """Makes the user's code that a spec names importable, and sees that it is what the spec was
    made with.

    Raises:
        InvalidInput: the code here is another.
    """
    user_code.use_folder(spec.folder)
    user_code.refresh()
    changed = [path for path, digest in spec.code if user_code.digest(path) != digest]
    if changed:
        allowed = "to be the code that the experiment was started with"
        remedy = "It has changed meanwhile: start the command again."
        raise unexpected("code", ", ".join(changed), allowed, remedy)
