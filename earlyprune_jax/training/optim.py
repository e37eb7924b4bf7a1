"""Optimizers by name or import path; the learning rate is an argument of their step."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax import references
from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.spec import OptimSpec
from earlyprune_jax.validate import InvalidInput, expected, unexpected

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


def decayed_leaves(params: Any, weight_decay_on: str) -> Any:
    """The structure of `params` with Python bools: which leaves decay.

    Args:
        params: any parameter pytree.
        weight_decay_on: `all` (paper A: BN and biases too) or `kernels` (leaves named `kernel`).
    """
    return jax.tree.map_with_path(
        lambda path, _: weight_decay_on == "all" or path_name(path).rsplit("/", 1)[-1] == "kernel",
        params,
    )


def _decay(spec: OptimSpec) -> list[optax.GradientTransformation]:
    if not spec.weight_decay:
        return []
    mask = functools.partial(decayed_leaves, weight_decay_on=spec.weight_decay_on)
    return [optax.add_decayed_weights(spec.weight_decay, mask=mask)]


def sgd(spec: OptimSpec) -> optax.GradientTransformation:
    """SGD as PyTorch defines it, up to the learning rate: v <- mu v + (g + wd p), update = v.

    Args:
        spec: momentum, nesterov, weight decay and what it applies to.
    """
    momentum = [optax.trace(spec.momentum, nesterov=spec.nesterov)] if spec.momentum else []
    parts = [*_decay(spec), *momentum]
    return optax.chain(*parts) if parts else optax.identity()


def adam(spec: OptimSpec, **options: Any) -> optax.GradientTransformation:
    """Adam up to the learning rate; weight decay is added to the gradient.

    Args:
        spec: weight decay and what it applies to.
        options: b1, b2, eps and more, as of `optax.scale_by_adam`.

    Source: Kingma and Ba 2015.
    """
    return optax.chain(*_decay(spec), optax.scale_by_adam(**options))


def adamw(spec: OptimSpec, **options: Any) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, up to the learning rate.

    Args:
        spec: weight decay and what it applies to.
        options: as of `optax.scale_by_adam`.

    Source: Loshchilov and Hutter 2019.
    """
    return optax.chain(optax.scale_by_adam(**options), *_decay(spec))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
}


def make(spec: OptimSpec, default: str = "sgd") -> Optimizer:
    """Makes the optimizer that a config names.

    A built-in is a direction that the step multiplies by minus the learning rate. A factory of the
    user's that takes `learning_rate`, as Optax's do, gets each step's rate
    (`optax.inject_hyperparams`); one that does not is a direction too. A factory gets
    `weight_decay`, and a `mask` for it, where it takes them.

    Args:
        spec: name, weight decay, momentum.
        default: the name where the spec gives none: that of the task.

    Raises:
        InvalidInput: no such optimizer, or options that it does not take.

    Example:
        >>> plain = make(OptimSpec("sgd", 0.1, 0.0, False, 0.0, "all"))
        >>> updates, _ = plain.update(jnp.ones(1), plain.init(jnp.ones(1)), jnp.ones(1), jnp.float32(0.5))
        >>> updates.tolist()
        [-0.5]
    """
    name = spec.name or default
    factory = references.load(KEY, name, OPTIMIZERS)
    if references.is_import_path(name):
        return _of_factory(spec, name, factory)
    if references.parse(name).path != "sgd" and (problems := _momentum_problems(spec, name)):
        raise InvalidInput(problems)
    return _of_direction(_called(name, functools.partial(factory, spec)))


def check(spec: OptimSpec, default: str, params: Any) -> list[str]:
    """Traces a step of the optimizer, which compiles nothing, and lists what is wrong with it.

    Args:
        spec: as of `make`.
        default: as of `make`.
        params: shapes of a network's parameters.

    Raises:
        InvalidInput: as `make`, or the step raises.
    """
    made = make(spec, default)

    def step(params: Any, rate: Array) -> Any:
        return made.update(params, made.init(params), params, rate)[0]

    name = spec.name or default
    with references.guarded(KEY, name, "to make updates"):
        state = jax.eval_shape(made.init, params)
        updates = jax.eval_shape(step, params, jax.ShapeDtypeStruct((), jnp.float32))
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)):
        return [expected(KEY, name, "to keep no random key in its state: it cannot be saved")]
    if jax.tree.structure(updates) != jax.tree.structure(params):
        return [expected(KEY, name, "to make updates of the structure of the params")]
    return []


def _momentum_problems(spec: OptimSpec, name: str) -> list[str]:
    """Options of SGD that another optimizer would ignore."""
    remedy = f"It belongs to sgd; give {name} its own as arguments."
    given = {"momentum": (spec.momentum, 0.0), "nesterov": (spec.nesterov, False)}
    return [
        expected(f"optim.{key}", value, f"to be {neutral} with optim.name={name}", remedy)
        for key, (value, neutral) in given.items()
        if value != neutral
    ]


def _bound_problems(spec: OptimSpec, name: str) -> list[str]:
    """Arguments of the reference that are the config's to give."""
    bound, problems = references.bound(KEY, name, OPTIMIZERS), []
    if "learning_rate" in bound:
        remedy = "It is optim.learning_rate, by the schedule; give other arguments by name."
        problems.append(expected(KEY, name, "to have no learning_rate", remedy))
    if "weight_decay" in bound and spec.weight_decay:
        allowed = f"to be 0 where {name} has one of its own"
        problems.append(expected("optim.weight_decay", spec.weight_decay, allowed))
    return problems


def _of_factory(spec: OptimSpec, name: str, factory: Callable[..., Any]) -> Optimizer:
    mask = functools.partial(decayed_leaves, weight_decay_on=spec.weight_decay_on)
    offered: dict[str, Any] = {"weight_decay": spec.weight_decay}
    if spec.weight_decay_on != "all":
        offered["mask"] = mask
    taken = references.accepted(factory, offered)
    problems = _momentum_problems(spec, name) + _bound_problems(spec, name)
    if not problems and spec.weight_decay and "weight_decay" not in taken:
        remedy = "Give it to an optimizer that takes weight_decay, or set it to 0."
        problems.append(
            expected(
                "optim.weight_decay", spec.weight_decay, f"to be 0 with optim.name={name}", remedy
            )
        )
    if spec.weight_decay and "mask" in offered and "mask" not in taken:
        problems.append(
            expected(
                "optim.weight_decay_on", spec.weight_decay_on, f"to be all with optim.name={name}"
            )
        )
    if problems:
        raise InvalidInput(problems)
    if "learning_rate" not in references.accepted(factory, {"learning_rate": 1.0}):
        return _of_direction(_called(name, functools.partial(factory, **taken)))

    def of_rate(learning_rate: Any) -> optax.GradientTransformation:
        return _called(name, functools.partial(factory, learning_rate=learning_rate, **taken))

    injected = optax.inject_hyperparams(of_rate)(learning_rate=1.0)

    def update(grads, opt_state, params, learning_rate):
        rate = jnp.asarray(learning_rate, opt_state.hyperparams["learning_rate"].dtype)
        given = opt_state._replace(hyperparams={**opt_state.hyperparams, "learning_rate": rate})
        return injected.update(grads, given, params)

    return Optimizer(injected.init, update)


def _called(name: str, factory: Callable[[], Any]) -> optax.GradientTransformation:
    with references.guarded(KEY, name, "to be makeable"):
        made = factory()
    if not (hasattr(made, "init") and hasattr(made, "update")):
        found = type(made).__name__
        raise unexpected(KEY, name, f"to make an Optax transformation, not a {found}")
    return made


def _of_direction(direction: optax.GradientTransformation) -> Optimizer:
    def update(grads, opt_state, params, learning_rate):
        updates, new_state = direction.update(grads, opt_state, params)
        return jax.tree.map(lambda one: -learning_rate * one, updates), new_state

    return Optimizer(direction.init, update)
