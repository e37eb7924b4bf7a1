"""Running a Linen network with its layers hooked.

What the hooks give and take travels in two variable collections, not in Python closures: it then
passes through `nn.remat` and `nn.jit` as any variable does, and is absent inside `nn.scan` and
`nn.vmap`, which do not carry it; layers there run as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn
from flax.linen import module as linen_module
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.core import Tracer

from earlyprune_jax.layer_hooks.layers import RULES, Call, Held, Rule, read_call

Apply = Callable[..., Any]
"""(variables, batch, **Linen's options) -> outputs."""

Path = tuple[str, ...]
"""A module's path, and the name of its hook at the end."""

HOOKS = "layer_hooks"
"""Read by hooked layers: their parameters, and zeros that are added to their outputs."""

RECORDS = "layer_records"
"""Written by hooked layers: one `Call` for each."""

HOOK_PREFIX = "hook of "
"""Before the class name in both collections: no module or parameter has such a name."""


def recorded(apply: Apply, variables: Mapping[str, Any], batch: Any) -> tuple[Any, dict[Path, Any]]:
    """Runs a network unchanged: (outputs, hook -> its calls, outputs and parameters included)."""
    return _intercepted(_record, apply, variables, batch)


def hooked(
    apply: Apply, variables: Mapping[str, Any], hooks: Mapping[Path, Any], batch: Any
) -> tuple[Any, dict[Path, Any]]:
    """Runs a network, each layer of `hooks` with the parameters given there.

    The hooked layers do not touch their own entries in `variables`: whatever depends on those, uses
    the parameters some other way. The outputs' gradient with respect to the zeros is the cotangent
    of each call's output.

    Args:
        apply: the network.
        variables: {"params": ..., ...}.
        hooks: hook -> (parameters, one array of zeros in the output's shape for every call).
        batch: arrays with a leading example axis.

    Returns:
        The outputs, and hook -> its calls.
    """
    return _intercepted(_hook(), apply, {**variables, HOOKS: unflatten_dict(hooks)}, batch)


def _intercepted(interceptor: Any, apply: Apply, variables: Mapping[str, Any], batch: Any) -> Any:
    with nn.intercept_methods(interceptor):
        outputs, updated = apply(variables, batch, mutable=[RECORDS])
    return outputs, flatten_dict(updated.get(RECORDS, {}))


def _record(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    outputs = next_call(*args, **kwargs)
    layer, method, rule = context.module, context.method_name, _rule_of(context)
    if rule is None or not _is_recording(layer):
        return outputs
    x, refusal = read_call(rule, layer, method, args, kwargs)
    refusal = refusal or _surroundings_refusal(x)
    own, state = _variables_of(layer)
    # Only what the rule knows: a scope shared with other modules holds theirs too.
    parameters = {name: own[name] for name in rule.parameters(layer) if name in own}
    _append(layer, Call(x, outputs, parameters, state, _unbound(layer), method, refusal))
    return outputs


def _surroundings_refusal(x: Any) -> str:
    """Why a layer cannot be hooked where it is called."""
    if num_interceptors() > 1:
        return "an interceptor of the network's own changes what it does"
    # What is differentiated or mapped inside the network uses the parameters in ways no hook sees.
    if isinstance(x, Tracer) and type(x).__name__ != "DynamicJaxprTracer":
        return "it is called inside a transformation of the network's own, such as nn.vjp"
    return ""


def num_interceptors() -> int:
    """How many contexts of `nn.intercept_methods` are active here."""
    return len(getattr(linen_module, "_global_interceptor_stack", ()))


def _hook() -> Callable[..., Any]:
    inside = False

    def hook(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal inside
        layer, method, rule = context.module, context.method_name, _rule_of(context)
        if inside or rule is None:
            return next_call(*args, **kwargs)
        given = layer.scope.get_variable(HOOKS, _hook_name(layer))
        # Without a record the layer uses its ordinary parameters, which shows.
        if given is None or not _is_recording(layer):
            return next_call(*args, **kwargs)
        parameters, zeros = given
        _, state = _variables_of(layer)
        unbound, inside = _unbound(layer), True
        try:
            outputs = unbound.layer.apply(
                {**state, "params": parameters}, *args, method=method, **kwargs
            )
        finally:
            inside = False
        x, _ = read_call(rule, layer, method, args, kwargs)
        number = _append(layer, Call(x, None, None, state, unbound, method))
        return outputs + zeros[number]

    return hook


def _rule_of(context: Any) -> Rule | None:
    """The rule of a method that is called, if it has one."""
    rule = RULES.get(type(context.module))
    return rule if rule is not None and context.method_name in rule.arguments else None


def _is_recording(layer: Any) -> bool:
    return layer.scope.is_mutable_collection(RECORDS)


def _append(layer: Any, call: Call) -> int:
    """Adds a call to those beside the layer's parameters; returns how many there were before."""
    earlier = layer.scope.get_variable(RECORDS, _hook_name(layer), ())
    layer.scope.put_variable(RECORDS, _hook_name(layer), (*earlier, call))
    return len(earlier)


def _variables_of(layer: Any) -> tuple[Any, dict[str, Any]]:
    """(parameters, the other collections) of a layer."""
    variables = layer.variables
    state = {
        name: values for name, values in variables.items() if name not in ("params", HOOKS, RECORDS)
    }
    return variables.get("params", {}), state


def _unbound(layer: Any) -> Held:
    return Held(layer.clone(parent=None, name=None))


def _hook_name(layer: Any) -> str:
    return f"{HOOK_PREFIX}{type(layer).__name__}"
