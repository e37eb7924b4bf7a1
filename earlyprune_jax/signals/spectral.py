"""random_distance: how far the spectra of the weights are from those of shuffled weights.

Trained weights carry structure that their order holds and their values alone do not: shuffling the
entries of a matrix leaves their distribution as it is and destroys the rest.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401 (JAX's LAPACK, whose threads are limited below if it is loaded)
from threadpoolctl import threadpool_limits

from earlyprune_jax.array_types import Array, Params, PRNGKey, accurate
from earlyprune_jax.pruning.layouts import Layout, Layouts, find, warn_of_guesses
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems, require_key
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.pruning.trees import marked_leaves, refuse
from earlyprune_jax.signals.signal import WeightSignal
from earlyprune_jax.signals.similarity import jensen_shannon
from earlyprune_jax.validate import InvalidInput, expected, shortened, unexpected, unknown_choice

READINGS = ("sqrt", "plain")


@dataclasses.dataclass(frozen=True)
class RandomDistance:
    """Distances of layers from their shuffled selves; one number for each and one for all.

    Attributes:
        value: the plain mean over layers, whatever their sizes, of the mean over permutations.
        spread: sample standard deviation over permutations of the mean over layers (of `value` with
            one permutation); that of `value` itself is smaller by sqrt(num_permutations). None for
            one permutation.
        per_layer: path -> mean over permutations.
        per_layer_spread: path -> sample standard deviation over permutations; None for one.
        skipped: path of a chosen leaf that is not in the mean -> why.
    """

    value: float
    spread: float | None
    per_layer: Mapping[str, float]
    per_layer_spread: Mapping[str, float | None]
    skipped: Mapping[str, str]


def random_distance(
    params: Params,
    *,
    key: PRNGKey,
    num_permutations: int = 5,
    reading: str = "sqrt",
    layers: Layers = "all_kernels",
    min_eigenvalues: int = 0,
    layouts: Layouts | None = None,
) -> RandomDistance:
    """Measures how far each layer's spectrum is from that of its shuffled entries.

    The Jensen-Shannon distance of the two.

    A kernel of whatever layout is prod(spatial) matrices [in, out], a dense one a single matrix;
    attention's heads and features are one axis (`pruning.layouts.find` says which axes are what).
    A layer's eigenvalues are the squared singular values of its matrices, pooled and sorted:
    prod(spatial) * min(in, out) of them. p is that vector divided by its sum, q the same after the
    entries have been permuted at random inside each matrix; they are paired by rank, without a
    histogram.

    `sqrt`: sqrt(JSD(p, q)), as the tool computes it that the paper used, in [0, 0.8326) = sqrt(ln
    2). `plain`: JSD(p, q), as its Eq. (2) reads, in [0, 0.6931). Both in nats.

    0 is not what random weights have: for independent entries p and q still differ by chance. In
    the `sqrt` reading that floor is .040 for a 3x3 kernel of 3 x 16 channels, .024 for 16 x 16,
    .007 for 64 x 64 (means over 4000, 1500, 150 draws; a single one scatters by .010, .004, .001).
    A layer with one eigenvalue always has 0: `min_eigenvalues=2` leaves such layers out.

    A layer's value is a function of its weights, its path (`weight` counts as `kernel`), the key
    and the number of permutations, whatever else the tree holds; it does not depend on the scale
    of the weights. Pruned entries are zeros like any other and are shuffled with the rest.

    Cost: num_permutations + 1 singular value decompositions of each matrix, on the default device
    in float32; permutations, sorting and JSD on the host add a fifth. ResNet-18 with 5
    permutations: 5 s on 2 CPU cores, compilation included. No probe images.

    Args:
        params: any pytree.
        key: a PRNG key.
        num_permutations: over which the mean is taken; the published tool takes one, unseeded.
        reading: `sqrt` or `plain`.
        layers: as in `select`. Embeddings count as matrices in the published tool:
            `"regex:(kernel|weight|embedding)$"`.
        min_eigenvalues: layers with fewer are skipped (0 in the tool's releases up to 0.5.6, 50 in
            0.5.7 to 0.6.8.5, 10 later).
        layouts: as in `select`.

    Returns:
        A `RandomDistance`.

    Raises:
        InvalidInput: an option out of range, a weight that is not finite (by path), no layer chosen
            or all of them skipped (and why).

    Source: paper B, Eq. (2); the algorithm is that of WeightWatcher's `rand_distance`.

    Example:
        >>> low_rank = jnp.outer(jnp.arange(8.0), jnp.arange(8.0))
        >>> measured = random_distance({"dense": {"kernel": low_rank}}, key=jax.random.key(0))
        >>> 0.2 < measured.value < 0.8326, list(measured.per_layer)
        (True, ['dense/kernel'])
    """
    problems = [] if reading in READINGS else [unknown_choice("reading", reading, READINGS)]
    problems += count_problems(1, num_permutations=num_permutations)
    refuse(problems + count_problems(0, min_eigenvalues=min_eigenvalues))
    require_key(key)
    measured = _divergences(params, key, num_permutations, layers, min_eigenvalues, layouts)
    return _summary(*measured, reading)


def signal(
    num_permutations: int = 5, min_eigenvalues: int = 0, layouts: Layouts | None = None
) -> WeightSignal:
    """Makes random_distance of all kernels, both readings from one set of decompositions.

    Columns: `random_distance` (sqrt, nats; in [0, 0.8326)), `random_distance_std` (sample standard
    deviation over permutations; None for one) and `random_distance_plain` (without the square
    root). Means over layers. The key of an epoch draws its permutations. Cost and source:
    `random_distance`.

    Args:
        num_permutations: as of `random_distance`.
        min_eigenvalues: likewise.
        layouts: likewise.

    Returns:
        The signal.

    Example:
        >>> measured = signal().measure({"kernel": jnp.eye(4)}, jax.random.key(0))
        >>> list(measured)
        ['random_distance', 'random_distance_std', 'random_distance_plain']
    """

    def measure(params: Params, key: PRNGKey) -> dict[str, float | None]:
        options = num_permutations, "all_kernels", min_eigenvalues, layouts
        measured = _divergences(params, key, *options)
        distance, plain = (_summary(*measured, reading) for reading in READINGS)
        return dict(zip(columns, (distance.value, distance.spread, plain.value), strict=True))

    columns = ("random_distance", "random_distance_std", "random_distance_plain")
    return WeightSignal("random_distance", columns, measure)


def check(params: Params, *, min_eigenvalues: int = 0, layouts: Layouts | None = None) -> list[str]:
    """Lists why the kernels of a tree of arrays or shapes have no random_distance, or nothing.

    Args:
        params: arrays, or their shapes and types.
        min_eigenvalues: as of `random_distance`.
        layouts: likewise.

    Returns:
        The problems, a sentence each.

    Example:
        >>> check({"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}, min_eigenvalues=4)
        []
    """
    found, selected = find(params, layouts), select(params, "all_kernels", layouts)
    kernels = marked_leaves(params, selected)
    unfit = {name: _unfit(leaf.shape, found[name], min_eigenvalues) for name, leaf in kernels}
    return [] if not all(unfit.values()) else [_no_spectrum("all_kernels", unfit)]


def _no_spectrum(layers: Layers, skipped: Mapping[str, str]) -> str:
    why = shortened([f"{name or 'the root'} {reason}" for name, reason in skipped.items()])
    return expected("layers", layers, "to hold a matrix with a spectrum", f"{'; '.join(why)}.")


def _divergences(
    params: Params,
    key: PRNGKey,
    num_permutations: int,
    layers: Layers,
    min_eigenvalues: int,
    layouts: Layouts | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Computes each permutation's JSD [num_permutations] by path, and why leaves are skipped."""
    leaves = marked_leaves(params, select(params, layers, layouts))
    found = find(params, layouts)
    warn_of_guesses((name, leaf.shape, found[name]) for name, leaf in leaves)
    refuse(nonfinite_problems("params", leaves))
    divergences, skipped = {}, {}
    # LAPACK on CPU: a second thread gains nothing at these sizes, and beside another busy process
    # the two wait for each other: ten times slower.
    with threadpool_limits(limits=1, user_api="blas"):
        for name, leaf in leaves:
            array = np.asarray(leaf).astype(accurate(leaf.dtype))
            largest = np.abs(array).max(initial=0.0)
            if reason := _unfit(array.shape, found[name], min_eigenvalues, is_zero=not largest):
                skipped[name] = reason
                continue
            # Unscaled, squares of float32 overflow or vanish long before the weights do.
            stack = found[name].matrices(array) / largest
            # The same kernel has the same permutations, whichever library named it.
            path = re.sub("(^|/)weight$", r"\1kernel", name.removesuffix("/value"))
            divergences[name] = _layer_divergences(stack, path, key, num_permutations)
    if not divergences:
        raise InvalidInput([_no_spectrum(layers, skipped)])
    if lost := [name for name, values in divergences.items() if not np.isfinite(values).all()]:
        remedy = "The singular value decomposition did not converge."
        raise unexpected("spectrum at", lost, "to be finite", remedy)
    return divergences, skipped


def _unfit(
    shape: tuple[int, ...], layout: Layout, min_eigenvalues: int, *, is_zero: bool = False
) -> str:
    """Says why an array has no spectrum to speak of, or nothing if it has."""
    if len(shape) < 2:
        return f"has {len(shape)} axes, a matrix has 2"
    if is_zero:
        return "is 0 throughout"
    sides = layout.sizes(shape)[-2:]
    if min(sides) == 1:
        return "is made of single rows or columns, whose only singular value no shuffling changes"
    count = math.prod(shape) // max(sides)
    if count < min_eigenvalues:
        return f"has {count} eigenvalues, fewer than {min_eigenvalues}"
    return ""


def _layer_divergences(
    stack: np.ndarray, name: str, key: PRNGKey, num_permutations: int
) -> np.ndarray:
    """Computes the JSD between a layer's spectrum and that of each of its permutations."""
    # XLA's own sorts shuffle some ten times slower on CPU than NumPy.
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    words = np.asarray(jax.random.key_data(key) if typed else key).tolist()
    flat, shuffled = stack.reshape(len(stack), -1), []
    for index in range(num_permutations):
        generator = np.random.default_rng([*words, zlib.crc32(name.encode()), index])
        shuffled.append(_spectrum(generator.permuted(flat, axis=1).reshape(stack.shape)))
    return jensen_shannon(_spectrum(stack)[None], np.stack(shuffled))


@jax.jit
def _singular_values(stack: Array) -> Array:
    """[matrices, min(in, out)].

    Not the eigenvalues of the Gram matrices: no faster on CPU, and in float32 their squared
    condition number cost up to 6e-5 of the distance where this cost 3e-8.
    """
    return jnp.linalg.svd(stack, compute_uv=False)


def _spectrum(stack: np.ndarray) -> np.ndarray:
    """Returns all eigenvalues of a layer, sorted, as fractions of their sum."""
    eigenvalues = np.sort(np.square(np.asarray(_singular_values(stack), np.float64)), axis=None)
    return eigenvalues / eigenvalues.sum()


def _summary(
    divergences: Mapping[str, np.ndarray], skipped: Mapping[str, str], reading: str
) -> RandomDistance:
    values = {name: np.sqrt(d) if reading == "sqrt" else d for name, d in divergences.items()}
    means = np.mean(list(values.values()), axis=0)
    return RandomDistance(
        value=float(means.mean()),
        spread=_spread(means),
        per_layer={name: float(value.mean()) for name, value in values.items()},
        per_layer_spread={name: _spread(value) for name, value in values.items()},
        skipped=skipped,
    )


def _spread(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
