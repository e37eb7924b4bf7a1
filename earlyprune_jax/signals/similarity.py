"""How alike two networks are on the same examples: predictions, labels, features.

All on the host in float64, from arrays the networks have already produced in evaluation mode.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.pruning.trees import refuse
from earlyprune_jax.validate import expected, unexpected, unknown_choice

KINDS = ("probabilities", "log_probabilities")
SMALLEST_MEAN = 1e-7
ROW_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class ModelSimilarity:
    """Paper B's model similarity, under names that say which way it points.

    Attributes:
        divergence: mean over examples (and pairs) of the Jensen-Shannon divergence, nats, in
            [0, ln 2 = 0.6931]. Larger = LESS similar. This is what the paper calls model
            similarity.
        standard_error: of `divergence`: sample standard deviation over examples / sqrt(examples);
            for pairs, of each example's mean over them. None for one example. It says nothing about
            other fine-tuning seeds.
        per_pair: (i, j), i < j, numbers of the networks from 0 -> their divergence.
    """

    divergence: float
    standard_error: float | None
    per_pair: Mapping[tuple[int, int], float]

    @property
    def similarity(self) -> float:
        """Returns -divergence, in [-ln 2, 0]: larger = more similar."""
        return -self.divergence


def model_similarity(*networks: Any, given: str = "probabilities") -> ModelSimilarity:
    """Measures the mean Jensen-Shannon divergence between networks' predictions.

    For two networks (1/N) sum_i JSD(p_1(x_i), p_2(x_i)); for k of them the mean of that over the
    k (k - 1) / 2 pairs. JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2, natural log, with
    m = (p + q) / 2 raised to 1e-7 where it is smaller, as the published code does (it changes the
    result by less than C times 4e-8). The paper: one pruned network fine-tuned with 3 seeds, 3
    pairs, evaluation mode, the whole training set.

    Cost: k forward passes over the examples, by the caller; k (k - 1) / 2 passes over [N, C] here.

    Args:
        networks: two or more arrays [N, C], NumPy or JAX; row i of each belongs to example i.
        given: `probabilities`, or `log_probabilities` (natural log).

    Raises:
        InvalidInput: an unknown kind; fewer than two networks; shapes that are not equal or not
            [N >= 1, C >= 1]; entries that are not finite (log-probabilities may be -inf) or not
            probabilities, rows that do not sum to 1 within 1e-3: with the network and the example.

    Source: paper B, Eq. (1) and section 6.1.

    Example:
        >>> measured = model_similarity([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
        >>> round(measured.divergence, 6), round(measured.similarity, 6)
        (0.346574, -0.346574)
    """
    pairs = PairwiseSimilarity(given=given)
    pairs.add(*networks)
    return pairs.result()


class PairwiseSimilarity:
    """Accumulates `model_similarity` and `disagreement` of networks over batches of examples.

    Args:
        given: as of `model_similarity`.

    Example:
        >>> pairs = PairwiseSimilarity()
        >>> pairs.add([[1.0, 0.0]], [[0.0, 1.0]])
        >>> pairs.add([[0.5, 0.5]], [[0.5, 0.5]])
        >>> round(pairs.result().divergence, 6), pairs.disagreement, pairs.num_examples
        (0.346574, 0.5, 2)
    """

    def __init__(self, given: str = "probabilities"):
        self._given = given
        self.num_examples = 0
        self._sums: dict[tuple[int, int], float] = collections.defaultdict(float)
        self._unlike: dict[tuple[int, int], int] = collections.defaultdict(int)
        # Mean, and sum of squared distances to it, of each example's mean over the pairs.
        self._mean, self._squares = 0.0, 0.0

    def add(self, *networks: Any) -> None:
        """Adds a batch: an array [B, C] of each network, in the same order every time.

        Raises:
            InvalidInput: as `model_similarity`; examples are counted from the batch's first.
        """
        probabilities = _probabilities(networks, self._given)
        classes = [array.argmax(axis=1) for array in probabilities]
        per_example = []
        for (i, first), (j, second) in itertools.combinations(enumerate(probabilities), 2):
            of_pair = jensen_shannon(first, second, smallest_mean=SMALLEST_MEAN)
            per_example.append(of_pair)
            self._sums[i, j] += float(of_pair.sum())
            self._unlike[i, j] += int(np.sum(classes[i] != classes[j]))
        # Chan, Golub and LeVeque's update of a mean and its squares by another set's.
        values = np.mean(per_example, axis=0)
        size, mean = len(values), float(values.mean())
        total, apart = self.num_examples + size, mean - self._mean
        between = apart**2 * self.num_examples * size / total
        self._squares += float(np.sum((values - mean) ** 2)) + between
        self._mean += apart * size / total
        self.num_examples = total

    @property
    def disagreement(self) -> float:
        """Returns the fraction of examples that two networks class otherwise, over all pairs."""
        return sum(self._unlike.values()) / (len(self._unlike) * self.num_examples)

    def result(self) -> ModelSimilarity:
        """Returns the similarity over all batches, of which there must be one at least."""
        size = self.num_examples
        return ModelSimilarity(
            divergence=self._mean,
            standard_error=math.sqrt(self._squares / (size - 1) / size) if size > 1 else None,
            per_pair={pair: total / size for pair, total in self._sums.items()},
        )


def disagreement(first: Any, second: Any) -> float:
    """Measures the fraction of examples for which two networks predict different classes.

    In [0, 1]. The prediction is the class of the largest entry, the first among equals; with one
    class all agree. Two networks of errors e1 and e2 disagree on at least |e1 - e2| of the
    examples.

    Args:
        first: [N, C] logits, probabilities or log-probabilities, NumPy or JAX.
        second: the same shape, the same examples.

    Raises:
        InvalidInput: shapes that are not equal or not [N >= 1, C >= 1], nan or +inf (with the
            example).

    Source: Fort et al. 2019, "Deep Ensembles: A Loss Landscape Perspective", section 4.

    Example:
        >>> disagreement([[2.0, 1.0], [0.0, 3.0]], [[1.0, 2.0], [0.0, 1.0]])
        0.5
    """
    named, allowed = {"first": first, "second": second}, "to be below infinity and not nan"
    a, b = (array.argmax(axis=1) for array in _matrices(named, lambda x: x < np.inf, allowed))
    return float(np.mean(a != b))


def linear_cka(first: Any, second: Any) -> float:
    """Measures the linear centred kernel alignment of two sets of features, in [0, 1].

    ||Y' X||_F^2 / (||X' X||_F ||Y' Y||_F), X and Y of the same examples, with the mean over them
    taken off every feature. 1 if one is the other up to rotation, reflection, scale and shift. Not
    invariant to other invertible linear maps. Computed from whichever is smaller, the features'
    products (d1 x d2) or the examples' Gram matrices (N x N); it is the same number. It is the
    biased estimate: with few examples and many features unrelated features come near 1; take N well
    above both widths.

    Args:
        first: X [N, d1], NumPy or JAX, N >= 2. Flatten feature maps first.
        second: Y [N, d2], the same examples in the same order.

    Raises:
        InvalidInput: not two axes, different N, fewer than 2 examples, entries that are not finite
            (with the example), features that are the same for every example (0 / 0).

    Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", section
    3.

    Example:
        >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> round(linear_cka(x, -3 * x[:, ::-1] + 5), 6)
        1.0
    """
    named = {"first": first, "second": second}
    arrays = _matrices(named, np.isfinite, "to be finite", are_predictions=False)
    x, y = (_centred(name, array) for name, array in zip(named, arrays, strict=True))
    if len(x) < max(x.shape[1], y.shape[1]):
        x_gram, y_gram = x @ x.T, y @ y.T
        cross = float(np.vdot(x_gram, y_gram))
        norms = np.linalg.norm(x_gram) * np.linalg.norm(y_gram)
    else:
        cross = float(np.sum(np.square(y.T @ x)))
        norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return min(max(cross / float(norms), 0.0), 1.0)


def _centred(name: str, array: np.ndarray) -> np.ndarray:
    """Features less their means, largest entry 1."""
    centred = array - array.mean(axis=0)
    size, largest = np.abs(array).max(initial=0.0), np.abs(centred).max(initial=0.0)
    # Rounding of the mean leaves about 1e-16 of a constant.
    if largest <= 1e-13 * size:
        remedy = "All its features are the same for every example: there is nothing to align."
        raise unexpected(f"spread of {name}", 0.0, "to be positive", remedy)
    return centred / largest


def _probabilities(networks: Sequence[Any], given: str) -> list[np.ndarray]:
    problems = [] if given in KINDS else [unknown_choice("given", given, KINDS)]
    if len(networks) < 2:
        remedy = "Give one array [N, C] for each network."
        problems.append(expected("number of networks", len(networks), "to be at least 2", remedy))
    refuse(problems)
    if given == "log_probabilities":
        networks = [np.exp(np.minimum(_read("network", array), 1.0)) for array in networks]
    named = {f"network {number} (from 0)": array for number, array in enumerate(networks)}
    allowed = f"to be finite and, given as {given}, at least 0"
    arrays = _matrices(named, lambda array: np.isfinite(array) & (array >= 0), allowed)
    for name, array in zip(named, arrays, strict=True):
        sums = array.sum(axis=1)
        good = np.abs(sums - 1) <= ROW_SUM_TOLERANCE
        if not good.all():
            row, count = int(np.argmin(good)), int((~good).sum())
            remedy = f"Of example {row}; {count} in all. Take softmax in float32; given={given!r}."
            raise unexpected(f"sum of {name} over classes", float(sums[row]), "to be 1", remedy)
    return arrays


def _read(name: str, array: Any) -> np.ndarray:
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise unexpected(name, array, "to be an array of numbers") from error


def _matrices(
    named: Mapping[str, Any],
    is_good: Callable[[np.ndarray], np.ndarray],
    allowed: str,
    *,
    are_predictions: bool = True,
) -> list[np.ndarray]:
    """Reads matrices of the same examples as float64.

    Args:
        named: name -> array.
        is_good: array -> which entries are good.
        allowed: what they should be, in words.
        are_predictions: of one example or more, and of the same classes; features are of two
            examples or more, and their number may differ.

    Raises:
        InvalidInput: shapes that are not allowed or do not fit together, or entries, by example.
    """
    arrays = {name: _read(name, array) for name, array in named.items()}
    least = 1 if are_predictions else 2
    axes = f"[examples, {'classes' if are_predictions else 'features'}], {least} or more examples"
    refuse(
        expected(f"shape of {name}", array.shape, f"to be {axes}")
        for name, array in arrays.items()
        if array.ndim != 2 or not array.size or len(array) < least
    )
    shapes = [array.shape for array in arrays.values()]
    if len({shape[: 1 + are_predictions] for shape in shapes}) > 1:
        remedy = "All on the same examples and classes."
        raise unexpected("shapes", shapes, "to be equal", remedy)
    bad = {name: np.flatnonzero(~is_good(a).all(axis=1))[:8] for name, a in arrays.items()}
    refuse(
        expected(f"{name} at example", rows.tolist(), allowed)
        for name, rows in bad.items()
        if len(rows)
    )
    return list(arrays.values())


def jensen_shannon(first: Any, second: Any, *, smallest_mean: float = 0.0) -> np.ndarray:
    """Computes the Jensen-Shannon divergence of distributions along the last axis, in nats.

    JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2, m = (p + q) / 2. 0 if p = q, ln 2 if they share no
    outcome; 0 ln 0 = 0. Never negative, never above ln 2.

    Args:
        first: p [..., C], non-negative, summing to 1 along the last axis.
        second: q, of a shape that broadcasts with p's.
        smallest_mean: m is raised to this where it is smaller. Published code takes 1e-7, which
            changes the result by less than C times 4e-8.

    Returns:
        [...] float64.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".

    Example:
        >>> float(jensen_shannon([0.5, 0.5], [0.5, 0.5]))
        0.0
        >>> round(float(jensen_shannon([1.0, 0.0], [0.0, 1.0])), 6)
        0.693147
    """
    p, q = np.broadcast_arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    mean = np.maximum((p + q) / 2, smallest_mean)
    ratios = [np.divide(x, mean, out=np.ones_like(x), where=x > 0) for x in (p, q)]
    divergence = (p * np.log(ratios[0]) + q * np.log(ratios[1])).sum(-1) / 2
    # The terms are of both signs: rounding, and a raised mean, can push the sum past either end.
    return np.clip(divergence, 0, np.log(2))
