"""Which parameters of a Linen network the hooks cover exactly, and their per-example gradients.

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

from earlyprune_jax.array_types import Array
from earlyprune_jax.layer_hooks import interception
from earlyprune_jax.layer_hooks.dependence import primitives, unchanged_input, used_inputs
from earlyprune_jax.layer_hooks.gradients import Gradient
from earlyprune_jax.layer_hooks.interception import Apply, Path
from earlyprune_jax.layer_hooks.layers import RULES, Call
from earlyprune_jax.pruning.trees import is_weight, named_leaves

SIZES = 2, 4
"""The batch sizes of the two traces. What is 2 long in both is no batch axis."""

COMPUTED, UNTRACED = -1, -2
"""Origins that are no place."""

NOT_CALLED = "no call of a supported layer, outside nn.scan and nn.vmap, holds it"
USED_ELSEWHERE = "its parameters are also used outside it"
OWN_BACKWARD_PASS = "the network has a backward pass of its own, by jax.custom_vjp"
UNREACHED = "it is called where its variables do not reach, as by a function that nn.cond was given"


@dataclasses.dataclass(frozen=True)
class Hook:
    """A covered layer.

    Attributes:
        places: parameter name -> its place among the leaves of the params.
        outputs: the shape and type of each call's output, for one example.
        activation_floats: how many numbers its inputs and outputs for one example are.
        gradient_floats: the most numbers that the per-example squares of one of its parameters, or
            (second) the diagonal made of them, need for one example beside these.
    """

    places: Mapping[str, int]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    activation_floats: int
    gradient_floats: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What can be hooked.

    Attributes:
        hooks: the covered layers by path.
        notes: for every module with weights that are not covered: their names, and why.
    """

    hooks: Mapping[Path, Hook]
    notes: tuple[str, ...]

    @property
    def places(self) -> frozenset[int]:
        """Of the covered leaves among those of the params."""
        return frozenset(place for hook in self.hooks.values() for place in hook.places.values())

    def floats(self, *, diagonal: bool) -> int:
        """Counts the numbers held at once for one example of a hooked pass."""
        gradients = [hook.gradient_floats[diagonal] for hook in self.hooks.values()]
        activations = sum(hook.activation_floats for hook in self.hooks.values())
        return activations + max(gradients, default=0)


def coverage(apply: Apply, variables: Mapping[str, Any], batch: Any) -> Coverage:
    """Finds what can be hooked.

    Args:
        apply: (variables, batch, **Linen's options) -> outputs.
        variables: arrays or shapes.
        batch: arrays or shapes with a leading example axis of any length.
    """
    shapes = jax.tree.map(_shape, dict(variables))
    params = shapes.pop("params")
    small, large = (jax.tree.map(lambda leaf, n=size: _resized(leaf, n), batch) for size in SIZES)
    results: dict[Path, Hook | str] = {}
    otherwise = NOT_CALLED
    try:
        results = _looked_at(apply, params, shapes, small, large)
        while used := _used_elsewhere(apply, params, shapes, small, _hooks(results)):
            results |= dict.fromkeys(used, USED_ELSEWHERE)
    except Exception as error:  # the network runs without hooks; whatever this is, so it still does
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        results, otherwise = {}, f"the network cannot be hooked ({message})"
    return Coverage(_hooks(results), _notes(params, results, otherwise))


@dataclasses.dataclass(frozen=True)
class HookedPass:
    """A forward pass whose backward pass gives per-example gradients.

    Attributes:
        logits: [B, C], in the network's own type.
        gradients: cotangent of the logits -> place of each covered leaf among those of the params
            -> its per-example gradients.
    """

    logits: Array
    gradients: Callable[[Array], dict[int, Gradient]]


def hooked_pass(
    apply: Apply, variables: Mapping[str, Any], batch: Any, covered: Coverage
) -> HookedPass:
    """Runs a network with its covered layers hooked; inside jit.

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
    given = _abstract_hooks(covered.hooks, variables["params"], num_examples)
    zeros = {
        path: tuple(jnp.zeros(z.shape, z.dtype) for z in outputs)
        for path, (_, outputs) in given.items()
    }

    def forward(zeros: Any) -> Any:
        hooks = {path: (parameters, zeros[path]) for path, (parameters, _) in given.items()}
        return interception.hooked(apply, variables, hooks, batch)

    logits, backward, calls = jax.vjp(forward, zeros, has_aux=True)

    def gradients(cotangent: Array) -> dict[int, Gradient]:
        (cotangents,) = backward(cotangent.astype(logits.dtype))
        found: dict[int, Gradient] = {}
        for path, hook in covered.hooks.items():
            of_layer = _gradients(calls[path], cotangents[path])
            found |= {place: of_layer[name] for name, place in hook.places.items()}
        return found

    return HookedPass(logits, gradients)


def _gradients(calls: tuple[Call, ...], cotangents: tuple[Array, ...]) -> dict[str, Gradient]:
    """What a layer's rule makes of its calls and the cotangents of their outputs."""
    pairs = zip(calls, cotangents, strict=True)
    complete = [dataclasses.replace(call, cotangent=cotangent) for call, cotangent in pairs]
    return RULES[type(calls[0].layer)].gradients(complete)


def _shape(leaf: Any) -> Any:
    has_shape = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if has_shape else leaf


def _resized(leaf: Any, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)


def _hooks(results: Mapping[Path, Hook | str]) -> dict[Path, Hook]:
    return {path: result for path, result in results.items() if isinstance(result, Hook)}


def _looked_at(
    apply: Apply, params: Any, rest: Any, small: Any, large: Any
) -> dict[Path, Hook | str]:
    """Path of every known layer that is called -> its hook, or why it cannot be hooked."""

    def run(params: Any, rest: Any, batch: Any) -> Any:
        return interception.recorded(apply, {**rest, "params": params}, batch)[1]

    closed, records = jax.make_jaxpr(run, return_shape=True)(params, rest, small)
    jaxpr = closed.jaxpr
    if any(name.startswith("custom_vjp") for name in primitives(jaxpr)):
        # It is traced elsewhere: what a layer inside it has seen cannot come out.
        return dict.fromkeys(records, OWN_BACKWARD_PASS)
    larger = jax.eval_shape(run, params, rest, large)
    leaves, treedef = jax.tree.flatten(params)

    def origin(result: int) -> int:
        """The place of the params' leaf that an array of the records is, COMPUTED or UNTRACED."""
        # Tracers that belong to a trace inside this one come out of it as constants.
        if jaxpr.outvars[result] in jaxpr.constvars:
            return UNTRACED
        place = unchanged_input(jaxpr, result)
        return COMPUTED if place is None or place >= len(leaves) else place

    found = [origin(result) for result in range(len(jaxpr.outvars))]
    origins = jax.tree.unflatten(jax.tree.structure(records), found)
    places = jax.tree.unflatten(treedef, range(len(leaves)))
    results: dict[Path, Hook | str] = {}
    for path, calls in records.items():
        own = {
            name: jax.tree.leaves(_subtree(places, (*path[:-1], name)))
            for name in calls[0].parameters
        }
        reason = _call_reason(calls, larger.get(path, ())) or _origin_reason(own, origins[path])
        results[path] = reason or _hook_of(
            calls, {name: place for name, (place,) in own.items()}, leaves
        )
    return results


def _call_reason(calls: tuple[Call, ...], larger: tuple[Call, ...]) -> str:
    """Why the calls are not understood, or do not hold the examples along axis 0 and there only."""
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
    """Why what the calls saw is not the network's own: parameters, and arrays of this very
    trace."""
    if any(UNTRACED in jax.tree.leaves((call.input, call.output)) for call in origins):
        return UNREACHED
    if any(len(places) != 1 for places in own.values()):
        return "its parameters are not among the network's"
    if any(jax.tree.leaves(call.parameters) != jax.tree.leaves(own) for call in origins):
        return "its parameters are transformed before it sees them"
    return ""


def _hook_of(calls: tuple[Call, ...], places: dict[str, int], leaves: list[Any]) -> Hook | str:
    """The hook of a layer that may have one, if the gradients of its rule fit its parameters."""
    gradients: dict[str, Gradient] = {}

    def run(calls: Any, outputs: Any) -> Any:
        gradients.update(_gradients(calls, outputs))
        return [gradient.squares() for gradient in gradients.values()]

    jax.eval_shape(run, calls, tuple(call.output for call in calls))
    wanted = {name: leaves[place].shape for name, place in places.items()}
    shapes = {name: gradient.shape for name, gradient in gradients.items()}
    if shapes != wanted:
        return f"its gradients have shapes {shapes}, not {wanted}"
    arrays = [array for call in calls for array in (call.input, call.output)]
    squares, diagonal = (
        max((gradient.size(diagonal=wanted) for gradient in gradients.values()), default=0)
        for wanted in (False, True)
    )
    return Hook(
        places,
        tuple(jax.ShapeDtypeStruct(c.output.shape[1:], c.output.dtype) for c in calls),
        sum(math.prod(array.shape[1:]) for array in arrays),
        (squares, diagonal),
    )


def _used_elsewhere(
    apply: Apply, params: Any, rest: Any, batch: Any, hooks: Mapping[Path, Hook]
) -> list[Path]:
    """The hooks whose parameters the outputs depend on in another way than through their layer."""

    def run(params: Any, rest: Any, given: Any, batch: Any) -> Any:
        return interception.hooked(apply, {**rest, "params": params}, given, batch)[0]

    given = _abstract_hooks(hooks, params, SIZES[0])
    closed = jax.make_jaxpr(run)(params, rest, given, batch)
    used = used_inputs(closed.jaxpr, range(len(closed.jaxpr.outvars)))
    return [path for path, hook in hooks.items() if used.intersection(hook.places.values())]


def _abstract_hooks(hooks: Mapping[Path, Hook], params: Any, size: int) -> dict[Path, Any]:
    """What `interception.hooked` takes, as shapes, for a batch of that size."""
    return {
        path: (
            {name: _subtree(params, (*path[:-1], name)) for name in hook.places},
            tuple(jax.ShapeDtypeStruct((size, *out.shape), out.dtype) for out in hook.outputs),
        )
        for path, hook in hooks.items()
    }


def _subtree(tree: Any, path: Path) -> Any:
    """What is at a path of nested mappings; None if it is not there."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def _notes(params: Any, results: Mapping[Path, Hook | str], otherwise: str) -> tuple[str, ...]:
    """One line for every module with weights that are not covered."""
    covered = Coverage(_hooks(results), ()).places
    reasons = {"/".join(path[:-1]): why for path, why in results.items() if isinstance(why, str)}
    left: dict[str, list[str]] = {}
    for place, (path, leaf) in enumerate(named_leaves(params)):
        if place not in covered and is_weight(leaf):
            module, _, name = path.rpartition("/")
            left.setdefault(module, []).append(name)
    return tuple(
        f"{module or 'the root'} ({', '.join(names)}) by vmap: {reasons.get(module, otherwise)}"
        for module, names in left.items()
    )
