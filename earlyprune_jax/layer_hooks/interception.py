"""Running a Linen network with hooks in its layers.

What the hooks give and take travels in two variable collections, not in Python closures: it then
passes through `nn.remat` and `nn.jit` as any variable does, and is absent inside `nn.scan` and
`nn.vmap`, which do not carry it; layers there run as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer

from earlyprune_jax.layer_hooks.layers import RULES, Call, Held, read_call
from earlyprune_jax.models.forward import num_interceptors

Apply = Callable[..., Any]
"""(variables, batch, **Linen's options) -> outputs."""

Path = tuple[str, ...]
"""A module's path, and the name of its hook at the end."""

HOOKS = "layer_hooks"
"""Read by hooked layers: their parameters, and zeros that are added to their outputs."""

RECORDS = "layer_records"
"""Written by hooked layers: one `Call` for each."""


def run(
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
            rule is None
            or method not in rule.arguments
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
            call = Call(x, outputs, parameters, state, Held(unbound), method, refusal)
        elif hooked := layer.scope.get_variable(HOOKS, name):
            parameters, zeros = hooked
            with_these = {**state, "params": parameters}
            outputs = unbound.apply(with_these, *args, method=method, **kwargs)
            outputs = outputs + zeros[len(earlier)]
            call = Call(x, None, None, state, Held(unbound), method)
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
