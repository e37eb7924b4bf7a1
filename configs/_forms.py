"""Forms of a config, and how figures of both papers are shrunken: a stretched time, smaller
networks, fewer pixels."""

import dataclasses
from collections.abc import Iterable, Mapping
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
    factor = scale.num_epochs / config.train.num_epochs
    for key in TIMES:
        section, name = key.split(".")
        config[section][name] = _times(config[section][name], factor)
    config.schedule.exponential_decay_rate **= 1 / factor
    config.train.num_epochs = scale.num_epochs
    sweep = config.get("sweep", {})
    for key, others in scale.values.items():
        section, name = key.split(".")
        if name in (swept := sweep.get(section, {})):
            swept[name] = tuple(dict.fromkeys(others.get(value, value) for value in swept[name]))
    if "rows" in sweep:
        sweep.rows = tuple(dict(items) for items in _once(map(scale.row, sweep.rows)))
    own = {
        key: config[key.split(".")[0]][key.split(".")[1]] for key in (*scale.values, "data.name")
    }
    config.update_from_flattened_dict({**scale.changes, **scale.row(own)})
    return config


def _times(epochs: Any, factor: float) -> Any:
    """Scales epochs, one or several, to at least 1; 0 stays."""
    if isinstance(epochs, tuple):
        return tuple(dict.fromkeys(_times(each, factor) for each in epochs))
    return max(round(epochs * factor), 1) if epochs else 0


def _once(rows: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, Any], ...]]:
    return list(dict.fromkeys(tuple(row.items()) for row in rows))


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
