"""Which parameters of a Linen network the taps cover exactly, found without computing anything.

A layer is covered if its rule holds at every call, its inputs and outputs have the examples along
axis 0 and nowhere else, the parameters it sees are the network's own, unchanged, and nothing else
uses them. All of that is read off the network's trace at two batch sizes.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.taps import interception
from earlyprune_jax.taps.dependence import primitives, unchanged_input, used_inputs
from earlyprune_jax.taps.gradients import Gradient
from earlyprune_jax.taps.interception import Apply, Path, Record, calls_of
from earlyprune_jax.taps.layers import RULES

SIZES = 2, 4
"""The batch sizes of the two traces. What is 2 long in both is no batch axis."""

COMPUTED, UNTRACED = -1, -2
"""Origins that are no place."""


@dataclasses.dataclass(frozen=True)
class Tap:
    """A covered layer.

    Attributes:
        places: parameter name -> its place among the leaves of the params.
        outputs: the shape and type of each call's output, for one example.
    """

    places: Mapping[str, int]
    outputs: tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What can be tapped.

    Attributes:
        taps: the covered layers by path.
        notes: for every module with weights that are not covered: their names, and why.
        activation_floats: how many numbers the tapped inputs and outputs of one example are.
        squares_floats, diagonal_floats: the most numbers that one parameter's per-example squares,
            or the diagonal made of them, need for one example beside these.
    """

    taps: Mapping[Path, Tap]
    notes: tuple[str, ...]
    activation_floats: int = 0
    squares_floats: int = 0
    diagonal_floats: int = 0

    @property
    def places(self) -> frozenset[int]:
        """Of the covered leaves among those of the params."""
        return frozenset(place for tap in self.taps.values() for place in tap.places.values())


def coverage(apply: Apply, variables: Mapping[str, Any], batch: Any) -> Coverage:
    """Finds what can be tapped.

    Args:
        apply: (variables, batch, **Linen's options) -> outputs.
        variables: arrays or shapes.
        batch: arrays or shapes with a leading example axis of any length.
    """
    shapes = jax.tree.map(_shape, dict(variables))
    small, large = (jax.tree.map(lambda leaf, n=size: _resized(leaf, n), batch) for size in SIZES)
    try:
        found, reasons = _usable(apply, shapes, small, large)
        while used := _used_elsewhere(
            apply, shapes, small, {path: tap for path, (tap, _) in found.items()}
        ):
            reasons |= dict.fromkeys(used, "its parameters are also used outside it")
            found = {path: entry for path, entry in found.items() if path not in used}
    except Exception as error:  # the network runs untapped; whatever this is, so it still does
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        return Coverage(
            {}, _notes(shapes["params"], {}, {}, f"the network cannot be tapped ({message})")
        )
    taps = {path: tap for path, (tap, _) in found.items()}
    otherwise = "no call of a supported layer, outside nn.scan and nn.vmap, holds it"
    notes = _notes(shapes["params"], taps, reasons, otherwise)
    return Coverage(taps, notes, *_sizes(found))


def _shape(leaf: Any) -> Any:
    has_shape = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if has_shape else leaf


def _resized(leaf: Any, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)


Found = dict[Path, tuple[Tap, tuple[Record, ...]]]


def _usable(apply: Apply, variables: Any, small: Any, large: Any) -> tuple[Found, dict[Path, str]]:
    """(tap -> (itself, its records), tap -> why it cannot be used)."""

    def run(variables: Any, batch: Any) -> Any:
        return interception.recorded(apply, variables, batch)[1]

    closed, records = jax.make_jaxpr(run, return_shape=True)(variables, small)
    if any(name.startswith("custom_vjp") for name in primitives(closed.jaxpr)):
        # Its backward pass is traced elsewhere: what a layer inside it has seen cannot come out.
        return {}, dict.fromkeys(
            records, "the network has a backward pass of its own, by jax.custom_vjp"
        )
    larger = jax.eval_shape(run, variables, large)
    origins = _origins(closed.jaxpr, records, variables)
    params: Any = variables["params"]
    places = _numbered(params)
    found: Found = {}
    reasons: dict[Path, str] = {}
    for path, calls in records.items():
        own = {
            name: jax.tree.leaves(subtree(places, (*path[:-1], name)))
            for name in calls[0].parameters
        }
        reason = _call_reason(calls, larger.get(path, ())) or _origin_reason(own, origins[path])
        if not reason:
            leaves = {name: jax.tree.leaves(params)[place].shape for name, (place,) in own.items()}
            shapes = {name: gradient.shape for name, gradient in _abstract_gradients(calls).items()}
            reason = "" if shapes == leaves else f"its gradients have shapes {shapes}, not {leaves}"
        if reason:
            reasons[path] = reason
        else:
            outputs = tuple(jax.ShapeDtypeStruct(c.output.shape[1:], c.output.dtype) for c in calls)
            found[path] = (Tap({name: place for name, (place,) in own.items()}, outputs), calls)
    return found, reasons


def _call_reason(calls: tuple[Record, ...], larger: tuple[Record, ...]) -> str:
    """Why the calls are not understood, or do not hold the examples along axis 0 and there only."""
    if refused := [call.refusal for call in calls if call.refusal]:
        return refused[0]
    if len(calls) != len(larger):
        return "how often it is called depends on the batch size"
    for call, other in zip(calls, larger, strict=True):
        for name, array, at_other_size in (
            ("input", call.input, other.input),
            ("output", call.output, other.output),
        ):
            small, large = SIZES
            along_first = array.shape[:1] == (small,) and at_other_size.shape == (
                large,
                *array.shape[1:],
            )
            if not along_first:
                return f"its {name} has not the examples along axis 0 alone"
    return ""


def _origin_reason(own: dict[str, list[int]], origins: tuple[Record, ...]) -> str:
    """Why what the calls saw is not the network's own: parameters, and arrays of this very
    trace."""
    if any(UNTRACED in jax.tree.leaves((call.input, call.output)) for call in origins):
        return (
            "it is called where its variables do not reach, as by a function that nn.cond was given"
        )
    if any(len(places) != 1 for places in own.values()):
        return "its parameters are not among the network's"
    if any(jax.tree.leaves(call.parameters) != jax.tree.leaves(own) for call in origins):
        return "its parameters are transformed before it sees them"
    return ""


def _origins(jaxpr: Any, records: Any, variables: Any) -> Any:
    """Like the records, for each array the place of the params' leaf that it is, COMPUTED or
    UNTRACED."""
    numbered = jax.tree.unflatten(
        jax.tree.structure(variables), range(len(jax.tree.leaves(variables)))
    )
    place_of = {number: place for place, number in enumerate(jax.tree.leaves(numbered["params"]))}

    def origin(result: int) -> int:
        # Tracers that belong to a trace inside this one come out of it as constants.
        if jaxpr.outvars[result] in jaxpr.constvars:
            return UNTRACED
        return place_of.get(unchanged_input(jaxpr, result), COMPUTED)

    found = [origin(result) for result in range(len(jaxpr.outvars))]
    return jax.tree.unflatten(jax.tree.structure(records), found)


def _numbered(params: Any) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    return jax.tree.unflatten(treedef, range(len(leaves)))


def subtree(tree: Any, path: Path) -> Any:
    """What is at a path of nested mappings; None if it is not there."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def _abstract_gradients(calls: tuple[Record, ...]) -> dict[str, Gradient]:
    """The rule's gradients of shapes alone."""
    made: dict[str, Gradient] = {}

    def run(records: Any, outputs: Any) -> Any:
        made.update(RULES[type(records[0].layer)].gradients(calls_of(records, outputs)))
        return [gradient.squares() for gradient in made.values()]

    jax.eval_shape(run, calls, tuple(call.output for call in calls))
    return made


def _used_elsewhere(
    apply: Apply, variables: Any, batch: Any, taps: Mapping[Path, Tap]
) -> list[Path]:
    """The taps whose parameters the outputs depend on in some way other than through their
    layer."""

    def run(params: Any, rest: Any, given: Any, batch: Any) -> Any:
        return interception.tapped(apply, {**rest, "params": params}, given, batch)[0]

    rest = {name: value for name, value in variables.items() if name != "params"}
    given = abstract_taps(taps, variables["params"], SIZES[0])
    closed = jax.make_jaxpr(run)(variables["params"], rest, given, batch)
    used = used_inputs(closed.jaxpr, range(len(closed.jaxpr.outvars)))
    return [path for path, tap in taps.items() if used.intersection(tap.places.values())]


def abstract_taps(taps: Mapping[Path, Tap], params: Any, size: int) -> dict[Path, Any]:
    """What `interception.tapped` takes, as shapes, for a batch of that size."""
    return {
        path: (
            {name: subtree(params, (*path[:-1], name)) for name in tap.places},
            tuple(jax.ShapeDtypeStruct((size, *out.shape), out.dtype) for out in tap.outputs),
        )
        for path, tap in taps.items()
    }


def _notes(
    params: Any, taps: Mapping[Path, Tap], reasons: Mapping[Path, str], otherwise: str
) -> tuple[str, ...]:
    """One line for every module with weights that are not covered."""
    covered = {place for tap in taps.values() for place in tap.places.values()}
    by_module = {"/".join(path[:-1]): reason for path, reason in reasons.items()}
    left: dict[str, list[str]] = {}
    for place, (name, leaf) in enumerate(named_leaves(params)):
        if place not in covered and is_weight(leaf):
            module, _, own = name.rpartition("/")
            left.setdefault(module, []).append(own)
    return tuple(
        f"{module or 'the root'} ({', '.join(names)}) by vmap: {by_module.get(module, otherwise)}"
        for module, names in left.items()
    )


def _sizes(found: Found) -> tuple[int, int, int]:
    """(activations, squares, diagonal): numbers for one example, as `Coverage` defines them."""
    arrays = [
        array
        for _, calls in found.values()
        for call in calls
        for array in (call.input, call.output)
    ]
    gradients = [
        gradient for _, calls in found.values() for gradient in _abstract_gradients(calls).values()
    ]
    return (
        sum(math.prod(array.shape[1:]) for array in arrays),
        max((gradient.size(diagonal=False) for gradient in gradients), default=0),
        max((gradient.size(diagonal=True) for gradient in gradients), default=0),
    )
