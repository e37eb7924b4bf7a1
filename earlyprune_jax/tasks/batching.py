"""Which examples make which batches: an epoch's order, batches of any subset, and how one is
taken."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax import data
from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data.source import num_examples


@dataclasses.dataclass(frozen=True)
class Batches:
    """Consecutive batches of one kind, and so of one shape: one compiled step serves all of a kind.

    Attributes:
        kind: its name; "" where there is one kind only.
        indices: [n, B] int32, rows of the split's arrays of that kind.
        weights: [n, B] float32: 0 for what only fills a batch up; None = nothing does.
    """

    kind: str
    indices: Any
    weights: Any


Take = Callable[[str, Any, Array, Any, Any], Any]
"""(kind, split, indices [B], weights [B] or None, key or None) -> batch, a dict of arrays; inside
jit."""


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a task's examples become batches.

    Attributes:
        num_examples: split -> how many examples it has; they are numbered from 0.
        kinds: the names of the batches' kinds, each compiled once.
        steps_per_epoch: training steps an epoch, the same in every epoch.
        epoch: (on the host) (key, epoch) -> an epoch's training batches in their order: a function
            of both alone, so that a resumed run needs no earlier epoch.
        subset: (on the host) (split, numbers of examples, batch size, multiple of) -> batches of
            these examples, each once, in ascending order within a kind; a batch's size is a
            multiple of the last argument, which is the number of devices.
        take: one batch of a split; a key augments it, None does not.
    """

    num_examples: Mapping[str, int]
    kinds: tuple[str, ...]
    steps_per_epoch: int
    epoch: Callable[[PRNGKey, int], Sequence[Batches]]
    subset: Callable[[str, np.ndarray, int, int], Sequence[Batches]]
    take: Take


def gather(kind: str, split: Any, indices: Array, weights: Any, key: Any) -> dict[str, Any]:
    """Takes the rows of a split's arrays, and `weights` where there are any: a batch without
    augmentation.

    Args:
        kind: a name in `split`, or "" for the whole of it.
        split: a dict of arrays with a leading axis of examples.
        indices: [B].
        weights: [B] or None.
        key: not used.

    Returns:
        A dict of arrays [B, ...].
    """
    del key
    arrays = split[kind] if kind else split
    batch = jax.tree.map(lambda leaf: leaf[indices], dict(arrays))
    return batch if weights is None else {**batch, "weights": weights}


def plain(splits: Mapping[str, Any], batch_size: int, take: Take = gather) -> Batching:
    """Makes batches of one shape: every epoch a fresh permutation, cut into full batches.

    The last num_train % batch_size examples of an epoch sit it out, others each time; see
    `data.epoch_order`.

    Args:
        splits: name -> pytree of arrays with a common leading axis.
        batch_size: examples per training step.
        take: how a batch is taken.

    Returns:
        Batches of one kind, "".

    Raises:
        InvalidInput: there is no full batch.

    Example:
        >>> splits = {"train": {"x": np.zeros((5, 2))}, "test": {"x": np.zeros((3, 2))}}
        >>> made = plain(splits, 2)
        >>> made.steps_per_epoch, made.epoch(jax.random.PRNGKey(0), 0)[0].indices.shape
        (2, (2, 2))
        >>> made.subset("test", np.arange(3), 2, 1)[0].weights.tolist()
        [[1.0, 1.0], [1.0, 0.0]]
    """
    counts = {name: {"": num_examples(arrays)} for name, arrays in splits.items()}

    def epoch(key: PRNGKey, number: int) -> list[Batches]:
        return [Batches("", _permuted(key, number, counts["train"][""], batch_size), None)]

    return _batching(counts, {"": batch_size}, epoch, take)


def bucketed(
    splits: Mapping[str, Mapping[str, Any]],
    batch_sizes: Mapping[str, int],
    take: Take = gather,
    chunk: int | None = None,
) -> Batching:
    """Makes batches of several shapes: examples lie in buckets, and a batch is of one bucket.

    Within a bucket every epoch is a fresh permutation cut into full batches. Batches of a bucket
    follow one another in chunks, and the order of the chunks is drawn anew for each epoch. A
    bucket's remainder sits the epoch out.

    Args:
        splits: name -> bucket -> pytree of arrays with a common leading axis; all splits have the
            same buckets, of which some may be empty in other splits than train.
        batch_sizes: bucket -> examples per training step.
        take: how a batch is taken.
        chunk: batches of a chunk at most, above 0; None = all of a bucket make one chunk.

    Returns:
        Batches of a kind per bucket.

    Raises:
        InvalidInput: a bucket has no full training batch.

    Example:
        >>> train = {"short": {"x": np.zeros((5, 2))}, "long": {"x": np.zeros((4, 9))}}
        >>> made = bucketed({"train": train, "test": train}, {"short": 2, "long": 1})
        >>> made.steps_per_epoch, sorted(made.kinds)
        (6, ['long', 'short'])
    """
    kinds = tuple(batch_sizes)
    counts = {
        name: {kind: num_examples(arrays[kind]) for kind in kinds}
        for name, arrays in splits.items()
    }

    def epoch(key: PRNGKey, number: int) -> list[Batches]:
        chunks = []
        for index, kind in enumerate(kinds):
            kind_key = jax.random.fold_in(key, 1 + index)
            rows = _permuted(kind_key, number, counts["train"][kind], batch_sizes[kind])
            starts = range(0, len(rows), chunk or len(rows))
            chunks += [Batches(kind, rows[i : i + starts.step], None) for i in starts]
        turn = jax.random.permutation(jax.random.fold_in(key, number), len(chunks))
        return [chunks[index] for index in np.asarray(turn).tolist()]

    return _batching(counts, batch_sizes, epoch, take)


_permuted = jax.jit(data.epoch_order, static_argnums=(2, 3))


def _batching(
    counts: Mapping[str, Mapping[str, int]],
    batch_sizes: Mapping[str, int],
    epoch: Callable[[PRNGKey, int], Sequence[Batches]],
    take: Take,
) -> Batching:
    """Makes batches of given kinds; examples are numbered kind after kind.

    Args:
        counts: split -> kind -> examples.
        batch_sizes: kind -> examples per training step.
        epoch: of the result.
        take: of the result.

    Raises:
        InvalidInput: a kind has no full training batch.
    """
    steps = [data.steps_per_epoch(counts["train"][kind], batch_sizes[kind]) for kind in batch_sizes]

    def subset(split: str, examples: np.ndarray, size: int, multiple_of: int) -> list[Batches]:
        start, batches = 0, []
        for kind in batch_sizes:
            end = start + counts[split][kind]
            rows = examples[(examples >= start) & (examples < end)] - start
            if len(rows):
                batches.append(Batches(kind, *padded_batches(rows, size, multiple_of=multiple_of)))
            start = end
        return batches

    return Batching(
        num_examples={name: sum(of_kind.values()) for name, of_kind in counts.items()},
        kinds=tuple(batch_sizes),
        steps_per_epoch=sum(steps),
        epoch=epoch,
        subset=subset,
        take=take,
    )


def padded_batches(
    indices: np.ndarray, batch_size: int, *, multiple_of: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts indices into equal batches; the last is filled with index 0 at weight 0.

    Args:
        indices: [num] of the examples.
        batch_size: at most; above 0.
        multiple_of: what a batch's size is a multiple of.

    Returns:
        indices [n, B] int32 and weights [n, B] float32, B = min(batch_size, len(indices)), raised
        to a multiple of `multiple_of`.

    Example:
        >>> indices, weights = padded_batches(np.arange(3), 2)
        >>> indices.tolist(), weights.tolist()
        ([[0, 1], [2, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """
    batch_size = -(-min(batch_size, len(indices)) // multiple_of) * multiple_of
    num_batches = -(-len(indices) // batch_size)
    filled = np.zeros(num_batches * batch_size, np.int32)
    filled[: len(indices)] = indices
    weights = (np.arange(filled.size) < len(indices)).astype(np.float32)
    return filled.reshape(num_batches, batch_size), weights.reshape(num_batches, batch_size)


def places(batches: Batches, before: int) -> tuple[np.ndarray, int]:
    """Finds each batch's first place among all examples, and how many examples there are by now.

    Args:
        batches: of `Batching.subset`.
        before: how many examples earlier batches hold.

    Returns:
        int32 [n], and a number.

    Example:
        >>> places(Batches("", np.zeros((2, 2)), np.array([[1.0, 1.0], [1.0, 0.0]])), 10)
        (array([10, 12], dtype=int32), 13)
    """
    counts = np.sum(np.asarray(batches.weights) > 0, axis=1)
    ends = before + np.cumsum(counts)
    return (ends - counts).astype(np.int32), int(ends[-1])


def shapes_of(splits: Any) -> Any:
    """Returns the shapes and types of some arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), splits)
