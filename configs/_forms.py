"""Forms of a config, and how figures of both papers are shrunken: a stretched time, smaller
networks, fewer pixels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

TIMES = (
    *("fork.epochs", "fork.fallback_epoch", "fork.constant_num_epochs", "fork.length"),
    "schedule.step_boundaries_epochs",
)
"""Keys in epochs, which keep their ratio to the length of the trunk."""
DIGITS = {
    name: {"data.name": "digits", "data.num_classes": 10, "data.split_seed": seed}
    for seed, name in enumerate(("cifar10", "cifar100"))
}
"""In place of CIFAR data that come with the package: two different draws of them."""
FEW_DIGITS = {
    "data.image_size": 4,
    "data.crop_padding": 0,
    "data.horizontal_flip": False,
    "data.mean": (),
    "data.std": (),
    "data.train_fraction": 0.5,
    "train.batch_size": 64,
    "model.width_multiplier": 0.1,
    "signals.num_examples": 64,
    "signals.max_overhead_fraction": 0.0,
    "pruning.num_examples": 64,
}
"""Keys of a run of seconds on them."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """A scale of a family of figures.

    Attributes:
        num_epochs: length of a trunk; fork epochs, boundaries and constant lengths keep their ratio
            to it, the exponential schedule its last rate.
        values: key -> value -> what takes its place, also where the key is swept.
        changes: keys and values besides.
        data_sets: name -> keys and values of what takes its place.
    """

    num_epochs: int
    values: Mapping[str, Mapping[Any, Any]]
    changes: Mapping[str, Any]
    data_sets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Shrinks keys and values that belong together."""
        made = {key: self.values.get(key, {}).get(value, value) for key, value in row.items()}
        return made | dict(self.data_sets.get(row.get("data.name", ""), {}))


def scaled(config: ConfigDict, scale: Scale | None) -> ConfigDict:
    """Shrinks a config, in place.

    Args:
        config: at full scale.
        scale: None = as it is.
    """
    if scale is None:
        return config
    values = config.to_dict()
    factor = scale.num_epochs / values["train"]["num_epochs"]
    changes: dict[str, Any] = {"train.num_epochs": scale.num_epochs}
    rate = values["schedule"]["exponential_decay_rate"]
    changes["schedule.exponential_decay_rate"] = rate ** (1 / factor)
    changes |= {key: _times(_of(values, key), factor) for key in TIMES}
    own = {key: _of(values, key) for key in (*scale.values, "data.name")}
    if sweep := values.get("sweep", {}):
        changes["sweep"] = {name: _swept(name, held, scale) for name, held in sweep.items()}
    config.update_from_flattened_dict({**changes, **scale.changes, **scale.row(own)})
    return config


def _of(values: Mapping[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return values[section][name]


def _swept(section: str, held: Any, scale: Scale) -> Any:
    """Shrinks the values of a section's swept keys, or the rows of a sweep."""
    if section == "rows":
        return tuple(map(dict, dict.fromkeys(tuple(scale.row(row).items()) for row in held)))
    others = {name: scale.values.get(f"{section}.{name}", {}) for name in held}
    return {
        name: tuple(dict.fromkeys(others[name].get(value, value) for value in values))
        for name, values in held.items()
    }


def _times(epochs: Any, factor: float) -> Any:
    """Scales epochs, one or several, to at least 1; 0 stays."""
    if isinstance(epochs, tuple):
        return tuple(dict.fromkeys(_times(each, factor) for each in epochs))
    return max(round(epochs * factor), 1) if epochs else 0


def in_form(config: ConfigDict, form: str, forms: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Changes the keys of a form.

    Args:
        config: changed in place.
        form: its name; empty = none.
        forms: name -> keys and values.

    Raises:
        ValueError: there is no such form.
    """
    if form not in forms:
        names = ", ".join(filter(None, forms))
        raise ValueError(f"Expected form {form!r} to be one of {names}, or none.")
    config.update_from_flattened_dict(dict(forms[form]))
    return config
