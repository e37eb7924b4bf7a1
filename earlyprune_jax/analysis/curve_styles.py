"""How the curves of a figure are told apart: colour, marker, dashes."""

import dataclasses
from collections.abc import Sequence

from earlyprune_jax.analysis.curves import Curve

# Okabe and Ito's colours without yellow and black, then two of Tol's: apart for colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288", "#882255")
MARKERS = "os^DvPX<"
DASHES = ("-", "--", "-.", ":")
MANY = 4
"""More curves than this are drawn with less about each."""


@dataclasses.dataclass(frozen=True)
class Style:
    """A curve's colour (hexadecimal), marker and dashes, in Matplotlib's words."""

    color: str
    marker: str
    dashes: str = "-"


def styles(all_curves: Sequence[Curve]) -> tuple[Style, ...]:
    """A style a curve; no two alike up to 8 curves, or 4 kinds of forks at any number of sparsities.

    Of more than 8 curves the colour tells the sparsity, from dark (little removed) to light, and the
    dashes the criterion, scope and rule: that many unordered colours could not be told apart.

    Example:
        >>> curves = [Curve("magnitude", "global", s / 10, "paper_a", {}) for s in range(9)]
        >>> styles(curves[:2])[1]
        Style(color='#D55E00', marker='s', dashes='-')
        >>> len({style.color for style in styles(curves)})
        9
    """
    if len(all_curves) <= len(COLORS):
        return tuple(Style(COLORS[index], MARKERS[index]) for index in range(len(all_curves)))
    sparsities = sorted({curve.sparsity for curve in all_curves})
    kinds = sorted({_kind(curve) for curve in all_curves})
    shades = _shades(len(sparsities))
    return tuple(
        Style(
            shades[sparsities.index(curve.sparsity)],
            MARKERS[sparsities.index(curve.sparsity) % len(MARKERS)],
            DASHES[kinds.index(_kind(curve)) % len(DASHES)],
        )
        for curve in all_curves
    )


def _kind(curve: Curve) -> tuple[str, str, str]:
    return curve.criterion, curve.scope, curve.rule


def _shades(count: int) -> list[str]:
    """Colours of one scale, which also grows lighter in grey; its palest end is left out."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["viridis"]
    return [to_hex(scale(0.88 * index / max(count - 1, 1))) for index in range(count)]
