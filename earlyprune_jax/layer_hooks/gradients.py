"""Per-example gradients of one parameter, in the forms that their squares are cheapest from."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array
from earlyprune_jax.pruning.scores.fisher import weighted_squares

# An accelerator's default product rounds its operands to fewer bits.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

SMALL_PRODUCT = 4
"""Matrices of so few elements are multiplied elementwise: depthwise convolutions."""


@dataclasses.dataclass(frozen=True)
class Explicit:
    """The gradients themselves: biases, scales.

    Attributes:
        values: [B, *shape of the parameter].
    """

    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the parameter's shape."""
        return self.values.shape[1:]

    def size(self, *, diagonal: bool) -> int:
        """Counts the numbers held at once for one example."""
        return math.prod(self.shape)

    def squares(self) -> Array:
        """Sums every example's squared entries: [B]."""
        return jnp.sum(jnp.square(self.values), axis=tuple(range(1, self.values.ndim)))

    def diagonal(self, weights: Array) -> Array:
        """Sums weights_b gradient_b^2 over examples: the parameter's shape."""
        return weighted_squares(weights, self.values)


@dataclasses.dataclass(frozen=True)
class Product:
    """G[b] = sum_t inputs[b, t] (outer) cotangents[b, t]: kernels, t running over positions.

    Attributes:
        inputs: blocks [B, T, groups, I_k]: what the kernel's rows multiply, sum_k I_k = all rows of
            a group (a convolution has one block for every few positions of its kernel).
        cotangents: [B, T, groups, O].
        rows: the leading axes of the parameter, whose product is that of the rows.
        columns: its trailing axes, whose product is groups * O.
    """

    inputs: tuple[Array, ...]
    cotangents: Array
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the parameter's shape."""
        return (*self.rows, *self.columns)

    def size(self, *, diagonal: bool) -> int:
        """Counts the numbers held at once for one example."""
        _, positions, groups, width = self.cotangents.shape
        if positions == 1:
            return groups * (width + sum(block.shape[-1] for block in self.inputs))
        if self._by_positions() and not diagonal:
            return 2 * groups * positions**2
        return groups * width * max(block.shape[-1] for block in self.inputs)

    def squares(self) -> Array:
        """Computes ||G[b]||^2, [B], from G or from the products of positions with one another."""
        if self.cotangents.shape[1] == 1:
            norms = sum(jnp.sum(jnp.square(block), axis=(1, 3)) for block in self.inputs)
            return jnp.sum(norms * jnp.sum(jnp.square(self.cotangents), axis=(1, 3)), axis=1)
        if self._by_positions():
            among_inputs: Any = sum(
                einsum("btgi,bugi->bgtu", block, block) for block in self.inputs
            )
            among_cotangents = einsum("btgo,bugo->bgtu", self.cotangents, self.cotangents)
            return jnp.sum(among_inputs * among_cotangents, axis=(1, 2, 3))
        products = (self._product(block) for block in self.inputs)
        total: Any = sum(jnp.sum(jnp.square(product), axis=(1, 2, 3)) for product in products)
        return total

    def diagonal(self, weights: Array) -> Array:
        """Sums weights_b G[b]^2 over examples: the parameter's shape."""
        if self.cotangents.shape[1] == 1:
            squares = weights[:, None, None] * jnp.square(self.cotangents[:, 0])
            blocks = [
                einsum("bgi,bgo->gio", jnp.square(block[:, 0]), squares) for block in self.inputs
            ]
        else:
            products = (self._product(block) for block in self.inputs)
            blocks = [einsum("b,bgio->gio", weights, jnp.square(product)) for product in products]
        # [groups, rows, O] -> [rows, groups, O]: a kernel's columns are ordered by group.
        return jnp.concatenate(blocks, axis=1).swapaxes(0, 1).reshape(self.shape)

    def _product(self, block: Array) -> Array:
        """[B, groups, I_k, O]."""
        if block.shape[-1] * self.cotangents.shape[-1] <= SMALL_PRODUCT:
            return jnp.sum(block[..., :, None] * self.cotangents[..., None, :], axis=1)
        return einsum("btgi,btgo->bgio", block, self.cotangents)

    def _by_positions(self) -> bool:
        """Tells whether products of positions are cheaper.

        ||G||^2 = sum_{t,u} (inputs_t . inputs_u)(cotangents_t . cotangents_u).
        """
        positions, width = self.cotangents.shape[1], self.cotangents.shape[3]
        rows = sum(block.shape[-1] for block in self.inputs)
        return positions * (rows + width) < rows * width


@dataclasses.dataclass(frozen=True)
class Scatter:
    """G[b, v] = sum of cotangents[b, t] over the positions t whose index is v: embeddings.

    Attributes:
        indices: [B, T] int in [0, V).
        cotangents: [B, T, D].
        num_rows: V.
    """

    indices: Array
    cotangents: Array
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the parameter's shape."""
        return (self.num_rows, self.cotangents.shape[-1])

    def size(self, *, diagonal: bool) -> int:
        """Counts the numbers held at once for one example."""
        _, positions, width = self.cotangents.shape
        return positions * (positions + width)

    def squares(self) -> Array:
        """Sums cotangents_t . G[index_t], [B]: every pair of positions with one index once."""
        return jnp.sum(self.cotangents * self._rows_met(), axis=(1, 2))

    def diagonal(self, weights: Array) -> Array:
        """Sums weights_b G[b]^2 over examples: [V, D]."""
        places = jnp.arange(self.indices.shape[1])
        first = jnp.argmax(self._same(), axis=2) == places[None]
        squares = weights[:, None, None] * first[..., None] * jnp.square(self._rows_met())
        zeros = jnp.zeros(self.shape, squares.dtype)
        return zeros.at[self.indices].add(squares)

    def _same(self) -> Array:
        """Tells whether two positions have one index: [B, T, T]."""
        return self.indices[:, :, None] == self.indices[:, None, :]

    def _rows_met(self) -> Array:
        """Computes G[b, index of position t]: [B, T, D]."""
        return einsum("btu,bud->btd", self._same().astype(self.cotangents.dtype), self.cotangents)


Gradient = Explicit | Product | Scatter
