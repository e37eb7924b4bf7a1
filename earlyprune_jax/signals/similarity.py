"""How alike two networks are on the same examples: predictions, labels, features.

All on the host in float64, from arrays the networks have already produced in evaluation mode.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax import validate
from earlyprune_jax.signals.divergences import jensen_shannon
from earlyprune_jax.validate import InvalidInput, expected, unexpected

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
        """-divergence, in [-ln 2, 0]: larger = more similar."""
        return -self.divergence


def model_similarity(*networks: Any, given: str = "probabilities") -> ModelSimilarity:
    """The mean Jensen-Shannon divergence between networks' predictions, over examples and pairs.

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
        self._sums: dict[tuple[int, int], float] = {}
        self._unlike: dict[tuple[int, int], int] = {}
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
        for i, j in itertools.combinations(range(len(probabilities)), 2):
            own = jensen_shannon(probabilities[i], probabilities[j], smallest_mean=SMALLEST_MEAN)
            per_example.append(own)
            self._sums[i, j] = self._sums.get((i, j), 0.0) + float(own.sum())
            self._unlike[i, j] = self._unlike.get((i, j), 0) + int(np.sum(classes[i] != classes[j]))
        self._merge(np.mean(per_example, axis=0))

    def _merge(self, values: np.ndarray) -> None:
        """Chan, Golub and LeVeque's update of a mean and its squares by another set's."""
        size, mean = len(values), float(values.mean())
        total, apart = self.num_examples + size, mean - self._mean
        self._squares += (
            float(np.sum((values - mean) ** 2)) + apart**2 * self.num_examples * size / total
        )
        self._mean += apart * size / total
        self.num_examples = total

    @property
    def disagreement(self) -> float:
        """The mean over pairs of the fraction of examples that two networks put in different
        classes."""
        return sum(self._unlike.values()) / (len(self._unlike) * self.num_examples)

    def result(self) -> ModelSimilarity:
        """The similarity over all batches, of which there must be one at least."""
        size = self.num_examples
        return ModelSimilarity(
            divergence=self._mean,
            standard_error=math.sqrt(self._squares / (size - 1) / size) if size > 1 else None,
            per_pair={pair: total / size for pair, total in self._sums.items()},
        )


def disagreement(first: Any, second: Any) -> float:
    """The fraction of examples for which two networks predict different classes, in [0, 1].

    The prediction is the class of the largest entry, the first among equals; with one class all
    agree. Two networks of errors e1 and e2 disagree on at least |e1 - e2| of the examples.

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
    arrays = [np.asarray(array, np.float64) for array in (first, second)]
    names = ("first", "second")
    problems = _shape_problems(names, arrays) or [
        problem
        for name, array in zip(names, arrays, strict=True)
        for problem in _row_problems(name, array < np.inf, "to be below infinity and not nan")
    ]
    if problems:
        raise InvalidInput(problems)
    predictions = [array.argmax(axis=1) for array in arrays]
    return float(np.mean(predictions[0] != predictions[1]))


def linear_cka(first: Any, second: Any) -> float:
    """Linear centred kernel alignment of two sets of features on the same examples, in [0, 1].

    ||Y' X||_F^2 / (||X' X||_F ||Y' Y||_F), X and Y with the mean over examples taken off every feature.
    1 if one is the other up to rotation, reflection, scale and shift. Not invariant to other
    invertible linear maps. Computed from whichever is smaller, the features' products (d1 x d2) or
    the examples' Gram matrices (N x N); it is the same number. It is the biased estimate: with few
    examples and many features unrelated features come near 1; take N well above both widths.

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
    arrays = [np.asarray(array, np.float64) for array in (first, second)]
    problems = _feature_problems(arrays)
    if problems:
        raise InvalidInput(problems)
    x, y = (_centred(name, array) for name, array in zip(("first", "second"), arrays, strict=True))
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


def _feature_problems(arrays: Sequence[np.ndarray]) -> list[str]:
    problems = []
    for name, array in zip(("first", "second"), arrays, strict=True):
        if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
            remedy = "Flatten the axes after the first."
            problems.append(
                expected(
                    f"{name}.shape", array.shape, "to be [2 or more examples, features]", remedy
                )
            )
        else:
            problems += _row_problems(name, np.isfinite(array), "to be finite")
    if len({array.shape[:1] for array in arrays}) > 1:
        numbers = [array.shape[:1] for array in arrays]
        problems.append(expected("examples of first and second", numbers, "to be the same number"))
    return problems


def _probabilities(networks: Sequence[Any], given: str) -> list[np.ndarray]:
    if given not in KINDS:
        raise InvalidInput([validate.unknown_choice("given", given, KINDS)])
    if len(networks) < 2:
        remedy = "Give one array [N, C] for each network."
        raise unexpected("number of networks", len(networks), "to be at least 2", remedy)
    arrays = [np.asarray(network, np.float64) for network in networks]
    names = [f"network {number} (from 0)" for number in range(len(arrays))]
    if problems := _shape_problems(names, arrays):
        raise InvalidInput(problems)
    if given == "log_probabilities":
        arrays = [np.exp(np.minimum(array, 1.0)) for array in arrays]
    problems = [
        problem
        for name, array in zip(names, arrays, strict=True)
        for problem in _distribution_problems(name, array, given)
    ]
    if problems:
        raise InvalidInput(problems)
    return arrays


def _shape_problems(names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[str]:
    problems = [
        expected(f"shape of {name}", array.shape, "to be [examples, classes], at least one of each")
        for name, array in zip(names, arrays, strict=True)
        if array.ndim != 2 or not array.size
    ]
    if not problems and len({array.shape for array in arrays}) > 1:
        shapes = [array.shape for array in arrays]
        problems.append(
            expected("shapes", shapes, "to be equal", "All on the same examples and classes.")
        )
    return problems


def _distribution_problems(name: str, probabilities: np.ndarray, given: str) -> list[str]:
    """Why rows are no distributions: first what single entries are, then what they sum to."""
    problems = _row_problems(name, np.isfinite(probabilities), "to be finite")
    problems = problems or _row_problems(
        name, probabilities >= 0, "to be at least 0", f"Given as {given}."
    )
    sums = probabilities.sum(axis=1)
    good = np.abs(sums - 1) <= ROW_SUM_TOLERANCE
    if problems or good.all():
        return problems
    row = int(np.argmin(good))
    remedy = f"Example {row} does not, {int((~good).sum())} in all. Take softmax in float32; given={given!r}."
    return [expected(f"sum of {name} over classes", float(sums[row]), "to be 1", remedy)]


def _row_problems(name: str, good: np.ndarray, allowed: str, remedy: str = "") -> list[str]:
    """The problem of a matrix some of whose entries are not good: which rows."""
    rows = np.flatnonzero(~good.all(axis=1))
    if not len(rows):
        return []
    shown = rows[:8].tolist()
    return [expected(f"{name} at example", shown if len(rows) > 1 else shown[0], allowed, remedy)]
