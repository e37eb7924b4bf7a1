"""Which parameters of a Linen network hooks cover exactly, and their per-example gradients.

A layer is covered if its rule holds at every call, its inputs and outputs have the examples along
axis 0 and nowhere else, the parameters it sees are the network's own, unchanged, and nothing else
uses them. All of that is read off the network's trace at two batch sizes, without computing
anything.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer
from jax.interpreters.partial_eval import dce_jaxpr

from earlyprune_jax.array_types import Array
from earlyprune_jax.layer_hooks.gradients import Gradient
from earlyprune_jax.layer_hooks.layers import RULES, Call, Held, read_call
from earlyprune_jax.models.forward import num_interceptors
from earlyprune_jax.pruning.channels.compact import INLINED, body_of
from earlyprune_jax.pruning.channels.running import WITH_DERIVATIVE
from earlyprune_jax.pruning.trees import is_weight, named_leaves

Apply = Callable[..., Any]
"""(variables, batch, **Linen's options) -> outputs."""

Path = tuple[str, ...]
"""A module's path, and the name of its hook at the end."""

# What hooks give and take travels in two variable collections, not in Python closures: it then
# passes through `nn.remat` and `nn.jit` as any variable does, and is absent inside `nn.scan` and
# `nn.vmap`, which do not carry it; layers there run as they are.
HOOKS = "layer_hooks"
"""Read by hooked layers: their parameters, and zeros that are added to their outputs."""

RECORDS = "layer_records"
"""Written by hooked layers: one `Call` for each."""

SIZES = 2, 4
"""The batch sizes of the two traces. What is 2 long in both is no batch axis."""

COMPUTED, UNTRACED = -1, -2
"""Origins that are no index of a leaf."""

NOT_CALLED = "no call of a supported layer, outside nn.scan and nn.vmap, holds it"
USED_ELSEWHERE = "its parameters are also used outside it"
OWN_BACKWARD_PASS = "the network has a backward pass of its own, by jax.custom_vjp"
UNREACHED = "it is called where its variables do not reach, as by a function that nn.cond was given"


@dataclasses.dataclass(frozen=True)
class Hook:
    """A covered layer.

    Attributes:
        places: parameter name -> its index among the leaves of the params.
        outputs: the shape and type of each call's output, for one example.
        activation_floats: how many numbers its inputs and outputs for one example are.
    """

    places: Mapping[str, int]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    activation_floats: int


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What hooks cover.

    Attributes:
        hooks: the covered layers by path.
        notes: for every module with weights that are not covered: their names, and why.
    """

    hooks: Mapping[Path, Hook]
    notes: tuple[str, ...]

    @property
    def places(self) -> frozenset[int]:
        """Returns the indices of the covered leaves among those of the params."""
        return frozenset(index for hook in self.hooks.values() for index in hook.places.values())


def coverage(apply: Apply, variables: Mapping[str, Any], batch: Any) -> Coverage:
    """Finds the layers that hooks cover.

    Args:
        apply: (variables, batch, **Linen's options) -> outputs.
        variables: arrays or shapes.
        batch: arrays or shapes with a leading example axis of any length.

    Returns:
        The covered layers, and why the others are not.
    """
    shapes = jax.eval_shape(lambda variables: variables, dict(variables))
    params = shapes.pop("params")
    small, large = (
        jax.tree.map(lambda a, n=size: jax.ShapeDtypeStruct((n, *a.shape[1:]), a.dtype), batch)
        for size in SIZES
    )
    otherwise = NOT_CALLED
    try:
        hooks, reasons = _layers(apply, params, shapes, small, large)
        while used := _used_elsewhere(apply, params, shapes, small, hooks):
            reasons |= dict.fromkeys(used, USED_ELSEWHERE)
            hooks = {path: hook for path, hook in hooks.items() if path not in used}
    except Exception as error:  # the network runs without hooks; whatever this is, so it still does
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        hooks, reasons, otherwise = {}, {}, f"the network cannot be hooked ({message})"
    covered = Coverage(hooks, ()).places
    of_modules = {"/".join(path[:-1]): why for path, why in reasons.items()}
    left: dict[str, list[str]] = {}
    for index, (path, leaf) in enumerate(named_leaves(params)):
        if index not in covered and is_weight(leaf):
            module, _, name = path.rpartition("/")
            left.setdefault(module, []).append(name)
    notes = (
        f"{module or 'the root'} ({', '.join(names)}) by vmap: {of_modules.get(module, otherwise)}"
        for module, names in left.items()
    )
    return Coverage(hooks, tuple(notes))


def hooked_pass(
    apply: Apply, variables: Mapping[str, Any], batch: Any, covered: Coverage
) -> tuple[Array, Callable[[Array], dict[int, Gradient]]]:
    """Runs a network with hooks in its covered layers; inside jit.

    The gradient of a layer's parameters is a function of its input and of the cotangent of its
    output. The latter is the gradient with respect to zeros added to the output, so one backward
    pass, which computes no parameter's gradient, gives them all.

    Args:
        apply: (variables, batch, **Linen's options) -> logits.
        variables: {"params": ..., ...}.
        batch: arrays with a leading example axis.
        covered: what `coverage` found for this network.

    Returns:
        The logits [B, C], in the network's own type; and the function from their cotangent to the
        per-example gradients of each covered leaf, by its index among the leaves of the params.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    abstract = _abstract_hooks(covered.hooks, variables["params"], size)
    zeros = {path: jax.tree.map(jnp.zeros_like, outputs) for path, (_, outputs) in abstract.items()}

    def forward(zeros: Any) -> Any:
        given = {path: (parameters, zeros[path]) for path, (parameters, _) in abstract.items()}
        return _run_hooked(apply, variables, batch, given)

    logits, backward, calls = jax.vjp(forward, zeros, has_aux=True)

    def gradients(cotangent: Array) -> dict[int, Gradient]:
        (cotangents,) = backward(cotangent.astype(logits.dtype))
        by_index: dict[int, Gradient] = {}
        for path, hook in covered.hooks.items():
            pairs = zip(calls[path], cotangents[path], strict=True)
            complete = [call.replace(cotangent=cotangent) for call, cotangent in pairs]
            of_layer = RULES[type(complete[0].layer)].gradients(complete)
            by_index |= {index: of_layer[name] for name, index in hook.places.items()}
        return by_index

    return logits, gradients


def _run_hooked(
    apply: Apply, variables: Mapping[str, Any], batch: Any, given: Mapping[Path, Any] | None = None
) -> tuple[Any, dict[Path, Any]]:
    """Runs a network and records the calls of its layers.

    Where hooks are given, the layers do not touch their own entries in `variables`: whatever
    depends on those, uses the parameters some other way. The outputs' gradient with respect to the
    zeros is the cotangent of each call's output.

    Args:
        apply: the network.
        variables: {"params": ..., ...}.
        batch: arrays with a leading example axis.
        given: hook -> (parameters, one array of zeros in the output's shape for every call), of
            each layer that runs with these; the others are not recorded. None: every known layer
            runs unchanged, and its outputs and parameters are recorded too.

    Returns:
        The outputs, and hook -> its calls.
    """

    def hook(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer, method = context.module, context.method_name
        rule = RULES.get(type(layer))
        # Without a record the layer uses its ordinary parameters, which shows.
        if (
            not rule
            or not rule.argument_of(method)
            or not layer.scope.is_mutable_collection(RECORDS)
        ):
            return next_call(*args, **kwargs)
        # No module or parameter has such a name.
        name, unbound = f"hook of {type(layer).__name__}", layer.clone(parent=None, name=None)
        earlier = layer.scope.get_variable(RECORDS, name, ())
        inside = layer.variables
        state = {key: inside[key] for key in inside if key not in ("params", HOOKS, RECORDS)}
        x, refusal = read_call(rule, layer, method, args, kwargs)
        if given is None:
            outputs = next_call(*args, **kwargs)
            # Only what the rule knows: a scope shared with other modules holds theirs too.
            own = layer.variables.get("params", {})
            parameters = {key: own[key] for key in rule.parameters(layer) if key in own}
            refusal = refusal or _surroundings_refusal(x)
            call = Call(x, outputs, parameters, state, Held(unbound), refusal, method)
        elif hooked := layer.scope.get_variable(HOOKS, name):
            parameters, zeros = hooked
            with_these = {**state, "params": parameters}
            outputs = unbound.apply(with_these, *args, method=method, **kwargs)
            outputs = outputs + zeros[len(earlier)]
            call = Call(x, None, None, state, Held(unbound), method=method)
        else:
            return next_call(*args, **kwargs)
        layer.scope.put_variable(RECORDS, name, (*earlier, call))
        return outputs

    if given is not None:
        variables = {**variables, HOOKS: unflatten_dict(given)}
    with nn.intercept_methods(hook):
        outputs, updated = apply(variables, batch, mutable=[RECORDS])
    return outputs, flatten_dict(updated.get(RECORDS, {}))


def _surroundings_refusal(x: Any) -> str:
    """Says why a layer cannot be hooked where it is called, or nothing."""
    if num_interceptors() > 1:
        return "an interceptor of the network's own changes what it does"
    # What is differentiated or mapped inside the network uses the parameters in ways no hook sees.
    if isinstance(x, Tracer) and type(x).__name__ != "DynamicJaxprTracer":
        return "it is called inside a transformation of the network's own, such as nn.vjp"
    return ""


def _layers(
    apply: Apply, params: Any, rest: Any, small: Any, large: Any
) -> tuple[dict[Path, Hook], dict[Path, str]]:
    """Finds the hook of every known layer that is called, or why it can have none."""

    def run(params: Any, rest: Any, batch: Any) -> Any:
        return _run_hooked(apply, {**rest, "params": params}, batch)[1]

    closed, records = jax.make_jaxpr(run, return_shape=True)(params, rest, small)
    if "custom_vjp_call" in str(closed):
        # It is traced elsewhere: what a layer inside it has seen cannot come out.
        return {}, dict.fromkeys(records, OWN_BACKWARD_PASS)
    larger = jax.eval_shape(run, params, rest, large)
    jaxpr, (leaves, treedef) = closed.jaxpr, jax.tree.flatten(params)

    def origin(result: Any) -> int:
        """Finds the index of the params' leaf that an array of the records is, or its origin."""
        # Tracers that belong to a trace inside this one come out of it as constants.
        if result in jaxpr.constvars:
            return UNTRACED
        index = _source(jaxpr, result)
        return COMPUTED if index is None or index >= len(leaves) else index

    origins = jax.tree.unflatten(jax.tree.structure(records), map(origin, jaxpr.outvars))
    indices = jax.tree.unflatten(treedef, range(len(leaves)))
    hooks, reasons = {}, {}
    for path, calls in records.items():
        own = {
            name: jax.tree.leaves(_subtree(indices, (*path[:-1], name)))
            for name in calls[0].parameters
        }
        reason = _call_reason(calls, larger.get(path, ())) or _origin_reason(own, origins[path])
        if reason:
            reasons[path] = reason
        else:
            arrays = [array for call in calls for array in (call.input, call.output)]
            hooks[path] = Hook(
                {name: index for name, (index,) in own.items()},
                tuple(jax.ShapeDtypeStruct(c.output.shape[1:], c.output.dtype) for c in calls),
                sum(math.prod(array.shape[1:]) for array in arrays),
            )
    return hooks, reasons


def _source(jaxpr: Any, atom: Any) -> int | None:
    """Finds the input that an atom is, handed through calls without any operation."""
    if atom in jaxpr.invars:
        return jaxpr.invars.index(atom)
    eqn = next((eqn for eqn in jaxpr.eqns if atom in eqn.outvars), None)
    if eqn is None or eqn.primitive.name not in (*INLINED, *WITH_DERIVATIVE):
        return None
    body, _ = body_of(eqn)
    inner = _source(body, body.outvars[eqn.outvars.index(atom)])
    return None if inner is None else _source(jaxpr, eqn.invars[inner])


def _call_reason(calls: tuple[Call, ...], larger: tuple[Call, ...]) -> str:
    """Says why calls are not understood, or have not the examples along axis 0 alone."""
    if refused := [call.refusal for call in calls if call.refusal]:
        return refused[0]
    if len(calls) != len(larger):
        return "how often it is called depends on the batch size"
    for call, other in zip(calls, larger, strict=True):
        for name in ("input", "output"):
            shape, larger_shape = getattr(call, name).shape, getattr(other, name).shape
            if (shape[:1], larger_shape) != (SIZES[:1], (SIZES[1], *shape[1:])):
                return f"its {name} has not the examples along axis 0 alone"
    return ""


def _origin_reason(own: dict[str, list[int]], origins: tuple[Call, ...]) -> str:
    """Says why what calls saw are not the network's own parameters, or arrays of its trace."""
    if any(UNTRACED in jax.tree.leaves((call.input, call.output)) for call in origins):
        return UNREACHED
    if any(len(indices) != 1 for indices in own.values()):
        return "its parameters are not among the network's"
    if any(jax.tree.leaves(call.parameters) != jax.tree.leaves(own) for call in origins):
        return "its parameters are transformed before it sees them"
    return ""


def _used_elsewhere(
    apply: Apply, params: Any, rest: Any, batch: Any, hooks: Mapping[Path, Hook]
) -> list[Path]:
    """Finds hooks whose parameters the outputs depend on otherwise than through their layer."""

    def run(params: Any, rest: Any, given: Any, batch: Any) -> Any:
        return _run_hooked(apply, {**rest, "params": params}, batch, given)[0]

    given = _abstract_hooks(hooks, params, SIZES[0])
    jaxpr = jax.make_jaxpr(run)(params, rest, given, batch).jaxpr
    _, is_used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return [path for path, hook in hooks.items() if any(is_used[i] for i in hook.places.values())]


def _abstract_hooks(hooks: Mapping[Path, Hook], params: Any, size: int) -> dict[Path, Any]:
    """Makes what `_run_hooked` takes, with shapes for outputs, for a batch of that size."""
    return {
        path: (
            {name: _subtree(params, (*path[:-1], name)) for name in hook.places},
            tuple(jax.ShapeDtypeStruct((size, *out.shape), out.dtype) for out in hook.outputs),
        )
        for path, hook in hooks.items()
    }


def _subtree(tree: Any, path: Path) -> Any:
    """Looks up a path of nested mappings; None if it is not there."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree
