"""Optimizers by name or import path; the learning rate is an argument of their step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax import references
from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.pruning.layouts import Layouts, find
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.spec_sections import OptimSpec
from earlyprune_jax.validate import expected, refuse, unexpected

KEY = "optim.name"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer whose learning rate comes with every step: trunk and forks share one
    compilation.

    Attributes:
        init: params -> state.
        update: (grads, state, params, learning rate) -> (updates to be added to the params, state).
    """

    init: Callable[[Params], Any]
    update: Callable[[Any, Any, Params, Array], tuple[Any, Any]]


def _decay_mask(spec: OptimSpec, layouts: Layouts | None) -> Callable[[Any], Any]:
    """Makes params -> bools, the leaves that decay: all (paper A: BN and biases), or kernels."""

    def decays(params: Any) -> Any:
        is_all = spec.weight_decay_on == "all"
        found = {} if is_all else find(params, layouts)
        kernels = {path for path, layout in found.items() if layout.kind == "kernel"}
        return jax.tree.map_with_path(lambda p, _: is_all or path_name(p) in kernels, params)

    return decays


def _decay(spec: OptimSpec, layouts: Layouts | None) -> list[optax.GradientTransformation]:
    if not spec.weight_decay:
        return []
    return [optax.add_decayed_weights(spec.weight_decay, mask=_decay_mask(spec, layouts))]


def sgd(spec: OptimSpec, layouts: Layouts | None = None) -> optax.GradientTransformation:
    """Makes SGD as PyTorch defines it, up to the rate: v <- mu v + (g + wd p), update = v.

    Args:
        spec: momentum, nesterov, weight decay and what it applies to.
        layouts: as of `make`.
    """
    momentum = [optax.trace(spec.momentum, nesterov=spec.nesterov)] if spec.momentum else []
    parts = [*_decay(spec, layouts), *momentum]
    return optax.chain(*parts) if parts else optax.identity()


def adam(
    spec: OptimSpec, layouts: Layouts | None = None, **options: Any
) -> optax.GradientTransformation:
    """Makes Adam, up to the learning rate; weight decay is added to the gradient.

    Args:
        spec: weight decay and what it applies to.
        layouts: as of `make`.
        options: b1, b2, eps and more, as of `optax.scale_by_adam`.

    Source: Kingma and Ba 2015.
    """
    return optax.chain(*_decay(spec, layouts), optax.scale_by_adam(**options))


def adamw(
    spec: OptimSpec, layouts: Layouts | None = None, **options: Any
) -> optax.GradientTransformation:
    """Makes Adam with decoupled weight decay, up to the learning rate.

    Args:
        spec: weight decay and what it applies to.
        layouts: as of `make`.
        options: as of `optax.scale_by_adam`.

    Source: Loshchilov and Hutter 2019.
    """
    return optax.chain(optax.scale_by_adam(**options), *_decay(spec, layouts))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
}


def make(spec: OptimSpec, default: str = "sgd", layouts: Layouts | None = None) -> Optimizer:
    """Makes the optimizer that a config names.

    A built-in is a direction that the step multiplies by minus the learning rate. A factory of the
    user's that takes `learning_rate`, as Optax's do, gets each step's rate
    (`optax.inject_hyperparams`); one that does not is a direction too. A factory gets
    `weight_decay`, and a `mask` for it, where it takes them.

    Args:
        spec: name, weight decay, momentum.
        default: the name where the spec gives none: that of the task.
        layouts: what the task says leaves are, for weight decay on kernels.

    Raises:
        InvalidInput: no such optimizer, or options that it does not take.

    Example:
        >>> plain = make(OptimSpec("sgd", 0.1, 0.0, False, 0.0, "all"))
        >>> params = jnp.ones(1)
        >>> plain.update(params, plain.init(params), params, jnp.float32(0.5))[0].tolist()
        [-0.5]
    """
    name = spec.name or default
    factory = references.load(KEY, name, OPTIMIZERS)
    given: dict[str, Any] = {"spec": spec, "layouts": layouts}
    is_own = references.is_import_path(name)
    if is_own:
        offered = {"weight_decay": spec.weight_decay, "mask": _decay_mask(spec, layouts)}
        if spec.weight_decay_on == "all":
            del offered["mask"]
        given = references.accepted(factory, offered)
    refuse(_problems(dataclasses.replace(spec, name=name), given))

    def made(**rate: Any) -> optax.GradientTransformation:
        with references.guarded(KEY, name, "to be makeable"):
            optimizer = factory(**given, **rate)
        if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
            found = type(optimizer).__name__
            raise unexpected(KEY, name, f"to make an Optax transformation, not a {found}")
        return optimizer

    if is_own and references.accepted(factory, {"learning_rate": 1.0}):
        of_rate = optax.inject_hyperparams(lambda learning_rate: made(learning_rate=learning_rate))
        injected = of_rate(learning_rate=1.0)

        def update_at(grads, opt_state, params, learning_rate):
            rate = jnp.asarray(learning_rate, opt_state.hyperparams["learning_rate"].dtype)
            given = opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})
            return injected.update(grads, given, params)

        return Optimizer(injected.init, update_at)
    direction = made()

    def update(grads, opt_state, params, learning_rate):
        updates, new_state = direction.update(grads, opt_state, params)
        return jax.tree.map(lambda leaf: -learning_rate * leaf, updates), new_state

    return Optimizer(direction.init, update)


def _problems(spec: OptimSpec, given: Mapping[str, Any]) -> list[str]:
    """Lists options that the optimizer would ignore; `given` is what its factory gets."""
    is_own, only = references.is_import_path(spec.name), {}
    if references.parse(spec.name).path != "sgd":
        only |= {"momentum": 0.0, "nesterov": False}
    if is_own and "weight_decay" not in given:
        only["weight_decay"] = 0
    if is_own and "mask" not in given and spec.weight_decay:
        only["weight_decay_on"] = "all"
    where = f"with optim.name={spec.name}"
    remedy = "Give it to an optimizer that takes it, or as an argument of this one."
    problems = [
        expected(f"optim.{key}", getattr(spec, key), f"to be {value} {where}", remedy)
        for key, value in only.items()
        if getattr(spec, key) != value
    ]
    if is_own and "learning_rate" in references.bound(KEY, spec.name, OPTIMIZERS):
        remedy = "It is optim.learning_rate, by the schedule; give other arguments by name."
        problems.append(expected(KEY, spec.name, "to have no learning_rate", remedy))
    return problems


def check(spec: OptimSpec, default: str, params: Any) -> list[str]:
    """Lists what is wrong with an optimizer; a step of the user's own, or of a built-in with
    arguments, is traced, nothing is compiled.

    Args:
        spec: as of `make`.
        default: as of `make`.
        params: shapes of a network's parameters.

    Returns:
        One message per problem.

    Raises:
        InvalidInput: as `make`, or the step raises.
    """
    made, name = make(spec, default), spec.name or default
    reference = references.parse(name)
    if not (reference.module or reference.arguments or reference.options):
        return []
    with references.guarded(KEY, name, "to make updates"):
        state = jax.eval_shape(made.init, params)
        rate = jax.ShapeDtypeStruct((), jnp.float32)
        updates, _ = jax.eval_shape(made.update, params, state, params, rate)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
        return [expected(KEY, name, "to keep no random key in its state: it cannot be saved")]
    if jax.tree.structure(updates) != jax.tree.structure(params):
        return [expected(KEY, name, "to make updates of the structure of the params")]
    return []
