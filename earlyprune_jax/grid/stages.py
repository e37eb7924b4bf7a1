"""A study cut into parts for many machines: the trunks, then what starts from them.

A part is what one batch job trains. Cells stay whole, for a comparison needs all replicates of its
own; cells of one shape stay together, for they share a compilation and may train as one batch.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Member, Pruned, Trunk, trunk_of
from earlyprune_jax.spec import RunSpec, Setting


@dataclasses.dataclass(frozen=True)
class Part:
    """What one job is to do.

    Attributes:
        members: its own: no other part has them.
        trunks: those its members start from. They should have ended before; where one has not,
            because its job was killed, the first that needs it trains it.
    """

    members: tuple[Member, ...]
    trunks: tuple[Trunk, ...] = ()


@dataclasses.dataclass(frozen=True)
class Stages:
    """The parts of the first stage, a trunk each, and of the second, which needs the first."""

    trunks: tuple[Part, ...]
    pruned: tuple[Part, ...]


def cut(
    spec: RunSpec, left: Iterable[Member], most: int, steps_per_epoch: Callable[[Setting], int]
) -> Stages:
    """Cuts what is left of a study into parts.

    The cells, in the order of `plan.groups`, are cut where the longest part is shortest, counted in
    training steps; that may need fewer parts than allowed.

    Args:
        spec: of the study.
        left: members that have not ended; the others are nobody's.
        most: parts of the second stage, at most.
        steps_per_epoch: of a setting's data.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> found = cut(spec, plan.members(spec), 4, lambda setting: 1)
        >>> len(found.trunks), [len(part.members) for part in found.pruned]
        (3, [4, 5, 6, 12])
    """
    trunks, cells = [], {}
    for member in left:
        if isinstance(member, Trunk):
            trunks.append(member)
        else:
            cells.setdefault(_cell(member), []).append(member)
    groups = plan.groups(spec, cells)
    ordered = [(cell, group.num_epochs) for group in groups for cell in group.runs]
    costs = [length * steps_per_epoch(cell.setting) * len(cells[cell]) for cell, length in ordered]
    parts, start = [], 0
    for count in balanced(costs, most):
        own = [member for cell, _ in ordered[start : start + count] for member in cells[cell]]
        parts.append(Part(tuple(own), tuple(dict.fromkeys(map(trunk_of, own)))))
        start += count
    return Stages(tuple(Part((trunk,)) for trunk in trunks), tuple(parts))


def _cell(member: Pruned | Comparison) -> Pruned:
    """Replicate 0 stands for its cell."""
    if isinstance(member, Comparison):
        return member.forks()[0]
    return dataclasses.replace(member, replicate=0)


def balanced(costs: Sequence[int], most: int) -> list[int]:
    """Cuts a sequence into at most so many runs of neighbours, the dearest as cheap as can be.

    Returns:
        How many elements each run has.

    Example:
        >>> balanced([5, 1, 1, 1, 5], 3)
        [1, 3, 1]
    """
    if not costs:
        return []
    low, high = max(costs), sum(costs)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(costs, middle)) <= most:
            high = middle
        else:
            low = middle + 1
    return _filled(costs, low)


def _filled(costs: Sequence[int], at_most: int) -> list[int]:
    """Runs filled up one after another."""
    counts, room = [], 0
    for cost in costs:
        if not counts or cost > room:
            counts.append(0)
            room = at_most
        counts[-1] += 1
        room -= cost
    return counts
