"""Per-example gradients of one parameter, in the forms that their squares are cheapest from."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array

# An accelerator's default product rounds its operands to fewer bits.
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

SMALL_PRODUCT = 4
"""Matrices of so few elements are multiplied elementwise: depthwise convolutions."""


@dataclasses.dataclass(frozen=True)
class Explicit:
    """The gradients themselves: biases, scales.

    Attributes:
        values: [B, *axes], as many numbers as the parameter has.
    """

    values: Array

    def squares(self) -> Array:
        """Sums every example's squared entries: [B]."""
        return jnp.sum(jnp.square(self.values), axis=tuple(range(1, self.values.ndim)))


@dataclasses.dataclass(frozen=True)
class Product:
    """G[b] = sum_t inputs[b, t] (outer) cotangents[b, t]: kernels, t running over positions.

    Attributes:
        inputs: blocks [B, T, groups, I_k]: what the kernel's rows multiply, sum_k I_k = all rows of
            a group (a convolution has one block for every few positions of its kernel).
        cotangents: [B, T, groups, O].
    """

    inputs: tuple[Array, ...]
    cotangents: Array

    def squares(self) -> Array:
        """Computes ||G[b]||^2, [B], from G or from the products of positions with one another."""
        if self.cotangents.shape[1] == 1:
            norms = sum(jnp.sum(jnp.square(block), axis=(1, 3)) for block in self.inputs)
            return jnp.sum(norms * jnp.sum(jnp.square(self.cotangents), axis=(1, 3)), axis=1)
        # ||G||^2 = sum_{t,u} (inputs_t . inputs_u)(cotangents_t . cotangents_u), where that is
        # cheaper.
        positions, width = self.cotangents.shape[1], self.cotangents.shape[3]
        rows = sum(block.shape[-1] for block in self.inputs)
        if positions * (rows + width) < rows * width:
            among_inputs: Any = sum(
                einsum("btgi,bugi->bgtu", block, block) for block in self.inputs
            )
            among_cotangents = einsum("btgo,bugo->bgtu", self.cotangents, self.cotangents)
            return jnp.sum(among_inputs * among_cotangents, axis=(1, 2, 3))
        products = (self._product(block) for block in self.inputs)
        total: Any = sum(jnp.sum(jnp.square(product), axis=(1, 2, 3)) for product in products)
        return total

    def _product(self, block: Array) -> Array:
        """[B, groups, I_k, O]."""
        if block.shape[-1] * self.cotangents.shape[-1] <= SMALL_PRODUCT:
            return jnp.sum(block[..., :, None] * self.cotangents[..., None, :], axis=1)
        return einsum("btgi,btgo->bgio", block, self.cotangents)


@dataclasses.dataclass(frozen=True)
class Scatter:
    """G[b, v] = sum of cotangents[b, t] over the positions t whose index is v: embeddings.

    Attributes:
        indices: [B, T] int.
        cotangents: [B, T, D].
    """

    indices: Array
    cotangents: Array

    def squares(self) -> Array:
        """Sums cotangents_t . G[index_t], [B]: every pair of positions with one index once."""
        same = self.indices[:, :, None] == self.indices[:, None, :]
        rows = einsum("btu,bud->btd", same.astype(self.cotangents.dtype), self.cotangents)
        return jnp.sum(self.cotangents * rows, axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class Tied:
    """The sum of both: of an embedding that is looked up, and is the output layer too.

    Attributes:
        looked_up: of the lookups.
        attended: of the products; its one block of inputs has the embedding's rows.
    """

    looked_up: Scatter
    attended: Product

    def squares(self) -> Array:
        """Adds twice the product of the two to their squares, [B].

        sum_{t,u} rows_u[index_t] (cotangents_t . queries_u), without a gradient of all rows.
        """
        (block,), indices = self.attended.inputs, self.looked_up.indices
        rows = jnp.take_along_axis(block[:, :, 0], indices[:, None], axis=2)
        queries = self.attended.cotangents[:, :, 0]
        both = einsum("bud,btd->but", queries, self.looked_up.cotangents)
        between = jnp.sum(rows * both, axis=(1, 2))
        return self.looked_up.squares() + self.attended.squares() + 2 * between


Gradient = Explicit | Product | Scatter | Tied
