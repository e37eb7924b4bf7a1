"""Words for grids, sparsities and their noise: figures and text speak alike."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from earlyprune_jax.analysis.curves import Stats
from earlyprune_jax.analysis.regimes.grids import KEY, RegimeGrid


class Named(Protocol):
    """A grid, or a series of grids: what it is by axis of the key."""

    @property
    def named(self) -> Mapping[str, Any]: ...


def removed(sparsity: float) -> str:
    """A sparsity in percent, without a sign.

    Example:
        >>> removed(0.95), removed(0.9975)
        ('95', '99.75')
    """
    return f"{100 * sparsity:.6g}"


def grid_label(grid: RegimeGrid, axes: Sequence[str] = KEY) -> str:
    """A grid's place on the given axes of its key."""
    named = grid.named
    words = {
        "model": named["model"],
        "train_fraction": f"{100 * named['train_fraction']:.6g} % of the data",
        "schedule": f"{named['schedule']} schedule",
        "criterion": named["criterion"],
        "scope": named["scope"],
        "rule": f"rule {named['rule']}",
    }
    return ", ".join(words[axis] for axis in KEY if axis in axes)


def slug(one: Named, axes: Sequence[str]) -> str:
    """The end of a file's name: tells grids, or series, that differ on `axes` apart; empty without axes."""
    return "".join(f"_{one.named[axis]}" for axis in KEY if axis in axes)


def slugs(one: Named) -> set[str]:
    """All that `slug` may say of a grid, or series, whichever others there are beside it."""
    subsets = (itertools.combinations(KEY, size) for size in range(len(KEY) + 1))
    return {slug(one, axes) for axes in itertools.chain(*subsets) if set(axes) <= set(one.named)}


def varying(several: Sequence[Named]) -> list[str]:
    """The axes of the key on which grids, or series over the same axis, differ.

    Example:
        >>> varying([])
        []
    """
    return [axis for axis in KEY if len({one.named.get(axis) for one in several}) > 1]


def repeats(grid: RegimeGrid) -> str:
    """On how much the grid rests: seeds and replicates."""
    seeds = plural(len(grid.seeds), "seed")
    more = f" x {plural(grid.num_replicates, 'replicate')}" if grid.num_replicates > 1 else ""
    return f"{seeds}{more}"


def early(grid: RegimeGrid) -> str:
    """The verdict "early"; of a single trunk seed, whose noise is that of fine-tuning alone, it says so."""
    return "early (this trunk)" if grid.repeat_kind == "replicate" else "early"


def chosen(grid: RegimeGrid) -> str:
    """What best epochs were chosen on."""
    if grid.metric == "validation_accuracy":
        return "chosen on validation accuracy"
    return "chosen on test accuracy (no validation split)"


def plural(number: int, noun: str) -> str:
    """A number and its noun.

    Example:
        >>> plural(1, "seed"), plural(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def points(found: Stats) -> str:
    """A difference of accuracies in points: mean, std where there is one, and n.

    Example:
        >>> points(Stats(0.0123, 0.004, 3)), points(Stats(-0.0123, None, 1))
        ('+1.23 +- 0.40 points (n = 3)', '-1.23 points (n = 1)')
    """
    spread = "" if found.std is None else f" +- {100 * found.std:.2f}"
    return f"{100 * found.mean:+.2f}{spread} points (n = {found.n})"


def listed(values: Sequence[Any]) -> str:
    """Values joined as in a sentence.

    Example:
        >>> listed([90, 93, 95]), listed([90])
        ('90, 93 and 95', '90')
    """
    texts = [str(value) for value in values]
    return " and ".join(texts) if len(texts) < 3 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def percents(sparsities: Sequence[float]) -> str:
    """Sparsities as in a sentence.

    Example:
        >>> percents([0.9, 0.95])
        '90 and 95 %'
    """
    return f"{listed([removed(sparsity) for sparsity in sparsities])} %"


def p_value(p: float) -> str:
    """A p-value with two digits.

    Example:
        >>> p_value(0.0312), p_value(0.00005)
        ('p = .031', 'p < .001')
    """
    return "p < .001" if p < 0.001 else f"p = {p:.2g}".replace("0.", ".", 1)
