"""Per-example squared gradients of a Linen network in one backward pass, without the gradients."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array
from earlyprune_jax.taps import interception
from earlyprune_jax.taps.coverage import Coverage, abstract_taps
from earlyprune_jax.taps.gradients import Gradient
from earlyprune_jax.taps.interception import Apply, calls_of
from earlyprune_jax.taps.layers import RULES


@dataclasses.dataclass(frozen=True)
class TappedPass:
    """A forward pass whose backward pass gives per-example gradients.

    Attributes:
        logits: [B, C], in the network's own type.
        gradients: cotangent of the logits -> place of each covered leaf among those of the params
            -> its per-example gradients.
    """

    logits: Array
    gradients: Callable[[Array], dict[int, Gradient]]


def tapped_pass(
    apply: Apply, variables: Mapping[str, Any], batch: Any, covered: Coverage
) -> TappedPass:
    """Runs a network with its covered layers tapped; inside jit.

    The gradient of a layer's parameters is a function of its input and of the cotangent of its
    output. The latter is the gradient with respect to zeros added to the output, so one backward
    pass, which computes no parameter's gradient, gives them all.

    Args:
        apply: (variables, batch, **Linen's options) -> logits.
        variables: {"params": ..., ...}.
        batch: arrays with a leading example axis.
        covered: what `coverage` found for this network.
    """
    num_examples = jax.tree.leaves(batch)[0].shape[0]
    made = abstract_taps(covered.taps, variables["params"], num_examples)
    zeros = {
        path: tuple(jnp.zeros(z.shape, z.dtype) for z in outputs)
        for path, (_, outputs) in made.items()
    }

    def forward(zeros: Any) -> Any:
        taps = {path: (parameters, zeros[path]) for path, (parameters, _) in made.items()}
        return interception.tapped(apply, variables, taps, batch)

    logits, backward, records = jax.vjp(forward, zeros, has_aux=True)

    def gradients(cotangent: Array) -> dict[int, Gradient]:
        (cotangents,) = backward(cotangent.astype(logits.dtype))
        found: dict[int, Gradient] = {}
        for path, tap in covered.taps.items():
            calls = calls_of(records[path], cotangents[path])
            made_here = RULES[type(calls[0].layer)].gradients(calls)
            found |= {place: made_here[name] for name, place in tap.places.items()}
        return found

    return TappedPass(logits, gradients)
