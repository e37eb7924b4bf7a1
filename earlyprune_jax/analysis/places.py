"""Places: values of some axes, by which runs, curves and grids of runs are told apart; and which
config keys are axes, because they are swept."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from earlyprune_jax import spec

SETTING = ("model", "train_fraction", "schedule")
"""Axes of every setting; swept keys that decide trunks are further ones."""
CURVE = ("criterion", "scope", "sparsity", "retraining")
"""Axes of every curve within a setting; swept keys that decide forks are further ones."""
NAMES = {
    "model": "model.name",
    "train_fraction": "data.train_fraction",
    "schedule": "schedule.name",
}
"""Config keys that have a column of another name."""


@dataclasses.dataclass(frozen=True)
class Swept:
    """Keys that have several values in a workdir, by what they tell apart; `NAMES` are left out.

    Attributes:
        trunk: tell trunks apart, and so settings.
        fork: tell forks of one trunk apart, and so curves.
    """

    trunk: tuple[str, ...] = ()
    fork: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Place:
    """Values by axis, in the order of the axes. The axes of the setting come first.

    Runs of two settings are never averaged, nor paired: their trunks differ.

    Example:
        >>> place = Place((("model", "resnet8"), ("criterion", "magnitude"), ("sparsity", 0.9)))
        >>> place["sparsity"], place.setting.axes, place.without("criterion").axes
        (0.9, ('model',), ('model', 'sparsity'))
    """

    items: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, axes: Iterable[str], values: Iterable[Any]) -> "Place":
        """Pairs axes with values; NaN, as pandas groups what has no value, is None."""
        present = (None if value != value else value for value in values)
        return cls(tuple(zip(axes, present, strict=True)))

    @functools.cached_property
    def named(self) -> dict[str, Any]:
        """The values by axis."""
        return dict(self.items)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes, in order."""
        return tuple(self.named)

    @property
    def setting(self) -> "Place":
        """The part that decides trunks: all axes before the criterion."""
        axes = self.axes
        return self.only(axes[: axes.index("criterion")] if "criterion" in axes else axes)

    @property
    def kind(self) -> "Place":
        """The part within the setting: criterion, scope, sparsity, rule, swept keys of forks."""
        return self.without(*self.setting.axes)

    def __getitem__(self, axis: str) -> Any:
        return self.named[axis]

    def __lt__(self, other: "Place") -> bool:
        return self._order < other._order

    @functools.cached_property
    def _order(self) -> tuple[Any, ...]:
        return tuple(order(value) for _, value in self.items)

    def only(self, axes: Container[str]) -> "Place":
        """Keeps some axes."""
        return Place(tuple(pair for pair in self.items if pair[0] in axes))

    def without(self, *axes: str) -> "Place":
        """Leaves some axes out."""
        return Place(tuple(pair for pair in self.items if pair[0] not in axes))

    def changed(self, **values: Any) -> "Place":
        """Replaces the values of some axes."""
        return Place(tuple((axis, values.get(axis, value)) for axis, value in self.items))

    def slug(self, axes: Container[str] | None = None) -> str:
        """Names the values on some axes as part of a file's name.

        Example:
            >>> place = Place((("model", "nets:Net(depth=3)"), ("train_fraction", 1.0),
            ...     ("optim.momentum", 0.9)))
            >>> place.slug(), place.slug(["train_fraction"])
            ('nets-Net-depth-3-f490c0_1_momentum-0.9', '1')
        """
        kept = self if axes is None else self.only(axes)
        values = (
            (axis, f"{value:.10g}" if isinstance(value, float) else str(value))
            for axis, value in kept.items
        )
        return "_".join(
            safe(f"{axis.split('.')[1]}-{value}" if "." in axis else value)
            for axis, value in values
        )


def order(value: Any) -> tuple[Any, ...]:
    """Makes values of any types comparable: None, then numbers, then everything else by its text,
    in which whole numbers count as such.

    Example:
        >>> sorted(["resnet14", "resnet8", 2.0, None, 1], key=order)
        [None, 1, 2.0, 'resnet8', 'resnet14']
    """
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return (1, value)
    # Every second part is a number, from the second on.
    texts = re.split(r"([0-9]+)", str(value))
    return (2, *(int(text) if at % 2 else text for at, text in enumerate(texts)))


def safe(text: str) -> str:
    """Makes a text part of a file's name; one that had to be changed ends in digits of its own.

    Example:
        >>> safe("resnet8"), safe("a/b"), safe("a b")
        ('resnet8', 'a-b-c14cdd', 'a-b-c8687a')
    """
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-")[:60]
    if kept == text:
        return text
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def varying(places: Iterable[Place]) -> list[str]:
    """Lists the axes on which places differ.

    Example:
        >>> varying([Place((("model", name), ("retraining", "x"))) for name in "ab"])
        ['model']
    """
    places = list(places)
    axes = dict.fromkeys(axis for place in places for axis in place.axes)
    return [axis for axis in axes if len({place.named.get(axis) for place in places}) > 1]


def shared(places: Sequence[Place]) -> Place:
    """Gives the part that several places have in common: that of the first, without what varies.

    Example:
        >>> shared([Place((("model", name), ("retraining", "x"))) for name in "ab"])
        Place(items=(('retraining', 'x'),))
    """
    return places[0].without(*varying(places))


def swept_keys(config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> Swept:
    """Finds the keys that tell settings, and those that tell curves apart.

    Args:
        config: of `runs.read_config`: what its `sweep` names is swept, whatever has been trained.
        configs: the distinct configs of the runs; keys whose values differ between them are swept.

    Example:
        >>> swept_keys({"sweep": {"optim.weight_decay": [0.0, 0.1]}}, [])
        Swept(trunk=('optim.weight_decay',), fork=())
    """
    sweep = config.get("sweep") or {}
    named = {*sweep, *(key for row in sweep.get("rows", ()) for key in row)} - {"rows"}
    found = []
    for kinds in (("data", "trunk"), ("fork",)):
        decided = [spec.deciding(one, *kinds) for one in configs]
        keys = dict.fromkeys(key for one in decided for key in one)
        known = (key for key in sorted(named) if key in spec.KEYS)
        keys |= dict.fromkeys(key for key in known if spec.decides(key) in kinds)
        values = {key: {frozen(one[key]) for one in decided if key in one} for key in keys}
        swept = [key for key in keys if key in named or len(values[key]) > 1]
        found.append([key for key in swept if key not in NAMES.values()])
    trunk, fork = found
    return Swept(tuple(trunk), tuple(key for key in fork if key not in trunk))


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Gives a config's value of "section.key", lists as tuples; None where it has none.

    Example:
        >>> value_of({"optim": {"weight_decay": 0.1}}, "optim.weight_decay")
        0.1
    """
    section, leaf = key.split(".")
    return frozen(config.get(section, {}).get(leaf))


def frozen(value: Any) -> Any:
    """Makes a JSON value hashable: lists become tuples.

    Example:
        >>> frozen([1, [2]])
        (1, (2,))
    """
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value
