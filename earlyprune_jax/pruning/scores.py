"""Scores that rank weights: higher = keep. Each is a pure function of the parameters."""

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Params, Scores


def magnitude(params: Params) -> Scores:
    """The absolute value of every weight.

    Source: Han et al. 2015, "Learning both weights and connections"; paper A, section 3.

    Example:
        >>> magnitude({"w": jnp.array([-2.0, 1.0])})["w"].tolist()
        [2.0, 1.0]
    """
    return jax.tree.map(jnp.abs, params)


CRITERIA = {"magnitude": magnitude}
