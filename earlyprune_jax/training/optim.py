"""SGD with momentum and weight decay; the learning rate is applied by the step itself."""

from typing import Any

import jax
import optax

from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.spec import OptimSpec


def decayed_leaves(params: Any, weight_decay_on: str) -> Any:
    """The structure of `params` with Python bools: which leaves decay.

    Args:
        params: any parameter pytree.
        weight_decay_on: `all` (paper A: BN and biases too) or `kernels` (leaves named `kernel`).
    """
    return jax.tree.map_with_path(
        lambda path, _: weight_decay_on == "all" or path_name(path).rsplit("/", 1)[-1] == "kernel", params
    )


def sgd(spec: OptimSpec) -> optax.GradientTransformation:
    """SGD as PyTorch defines it, up to the learning rate: v <- mu v + (g + wd p), update = v.

    The step multiplies the update by minus the learning rate, which it takes as an argument:
    trunk and forks with different schedules then share one compilation.

    Args:
        spec: momentum, nesterov, weight decay and what it applies to.
    """
    parts = []
    if spec.weight_decay:
        mask = lambda params: decayed_leaves(params, spec.weight_decay_on)  # noqa: E731
        parts.append(optax.add_decayed_weights(spec.weight_decay, mask=mask))
    if spec.momentum:
        parts.append(optax.trace(spec.momentum, nesterov=spec.nesterov))
    return optax.chain(*parts) if parts else optax.identity()
