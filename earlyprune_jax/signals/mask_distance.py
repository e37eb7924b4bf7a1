"""Early-Bird's mask distance: how much the mask one would prune with still changes."""

from collections.abc import Sequence
from typing import Any

from earlyprune_jax.array_types import Mask
from earlyprune_jax.pruning.comparison import hamming
from earlyprune_jax.validate import unexpected


def mask_distance(first: Mask, second: Mask, where: Any = None) -> float:
    """The fraction of prunable entries in which two masks differ, the normalised Hamming distance.

    |A xor B| / n, in [0, 1]; n counts the entries of the marked leaves. Two masks of sparsity s
    differ in at most 2 min(s, 1 - s), two independent random ones in 2 s (1 - s) on average: at 95
    % sparsity every distance is at most 0.1. Masks of any criterion, scope or pattern will do.

    Cost: one pass over the masks, on the host; making a mask costs more.

    Args:
        first: bool leaves.
        second: bool leaves of the same structure and shapes.
        where: the structure of the masks with Python bools, from `select`: the prunable leaves.
            None counts all entries, of which those that are never pruned dilute the distance.

    Raises:
        InvalidInput: the trees do not fit together, by path; no entries to compare.

    Source: You et al. 2020, "Drawing Early-Bird Tickets", section 3.2 (there between channel
    masks).

    Example:
        >>> import numpy as np
        >>> a, b = {"w": np.array([True, True, False, False])}, {"w": np.array([True, False, True, False])}
        >>> mask_distance(a, b)
        0.5
    """
    return hamming(first, second, where)


def early_bird_distance(newest: Mask, older: Sequence[Mask], where: Any = None) -> float:
    """The largest distance of the newest mask from any of the older ones.

    Early-Bird keeps the masks of the last 5 epochs and draws its ticket once the newest differs
    from EACH of the 4 older ones by at most 0.1, that is, once this is at most 0.1. (Distances
    between neighbours would add up to more.) In [0, 2 min(s, 1 - s)] at equal sparsity s.

    Cost: one `mask_distance` for each older mask.

    Args:
        newest: bool leaves.
        older: at least one mask of the same structure, in any order; Early-Bird's are 4.
        where: as in `mask_distance`.

    Raises:
        InvalidInput: as `mask_distance`; no older mask.

    Source: You et al. 2020, "Drawing Early-Bird Tickets", section 3.2 and Algorithm 1.

    Example:
        >>> import numpy as np
        >>> new, same = np.array([True, False, False, False]), np.array([True, False, False, False])
        >>> early_bird_distance(new, [same, np.array([False, True, False, False])])
        0.5
    """
    if not isinstance(older, Sequence) or not len(older):
        remedy = "Keep the masks of the last epochs; there is no distance before the second."
        given = type(older).__name__ if not isinstance(older, Sequence) else older
        raise unexpected("older", given, "to be a list of at least one mask", remedy)
    return max(mask_distance(newest, mask, where) for mask in older)
