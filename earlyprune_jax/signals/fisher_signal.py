"""tr(F) along a trunk: the same sums as `fisher_trace`, over probe batches inside the grid's
step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, PRNGKey
from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.signals.fisher_checks import check_options
from earlyprune_jax.signals.fisher_squares import (
    Examples,
    batch_squares,
    label_rule,
    standard_error,
)
from earlyprune_jax.signals.signal import Network, ProbeSignal
from earlyprune_jax.validate import InvalidInput

COLUMNS = (
    "fisher_trace",
    "fisher_trace_standard_error",
    "fisher_trace_all",
    "fisher_trace_all_standard_error",
)


def signal(
    *, estimator: str, method: str, counted: Any, num_classes: int, num_examples: int
) -> ProbeSignal:
    """tr(F), the mean over probe images, as a signal of the grid.

    Columns: `fisher_trace` (the counted leaves), `fisher_trace_all` (every leaf), each with its
    standard error (None where there are fewer than two units, which are examples, or the batches
    for method `batch`), and the mapping `fisher_trace_by_parameter` (path -> value, whose sum over
    any subset of leaves is the trace of that subset).

    Cost: see `fisher_trace`; `exact` visits the probe images C times.

    Args:
        estimator, method: as `fisher_trace`; `layerwise` is `vmap` where the network is no Linen
            module.
        counted: the structure of the params with Python bools: the leaves summed into
            `fisher_trace`; paper A plots the conv kernels.
        num_classes: C.
        num_examples: the most probe images there can be; their `numbers` are below it, or they are
            padding. Every image has its own place in the sums, because the squares of its labels
            are added up over passes before their spread is taken.

    Raises:
        InvalidInput: an estimator and a method that do not go together.
    """
    if problems := check_options(estimator, method):
        raise InvalidInput(problems)

    def zero_sums(params: Params) -> Any:
        leaves = {name: jnp.zeros(()) for name, leaf in named_leaves(params) if is_weight(leaf)}
        units = {name: jnp.zeros(num_examples) for name in ("sizes", "counted", "all")}
        return {"leaves": leaves, "units": units}

    def batch_sums(
        network: Network, params: Params, batch: Any, key: PRNGKey, pass_index: Array
    ) -> Any:
        # Only the empirical estimator looks at the data's labels.
        labels = batch.get("labels", jnp.zeros_like(batch["numbers"]))
        examples = Examples(batch["numbers"], labels, batch["weights"])
        choose = label_rule(estimator, key, pass_index)
        squares = batch_squares(network, params, batch, examples, method=method, choose=choose)
        values = squares.values
        # A batch that is one unit is entered at its first image, which is never padding.
        places = batch["numbers"][: values.shape[1]]
        totals = {
            "sizes": squares.sizes * (pass_index == 0),
            "counted": jnp.sum(values * _flags(counted, params)[:, None], axis=0),
            "all": jnp.sum(values, axis=0),
        }
        units = {
            name: jnp.zeros(num_examples).at[places].add(total, mode="drop")
            for name, total in totals.items()
        }
        names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
        return {"leaves": dict(zip(names, jnp.sum(values, axis=1), strict=True)), "units": units}

    def numbers(sums: Any, size: int) -> dict[str, Any]:
        units = {name: np.asarray(total, np.float64) for name, total in sums["units"].items()}
        means = {name: float(units[name].sum()) / size for name in ("counted", "all")}
        errors = {name: standard_error(units[name], units["sizes"]) for name in means}
        found = (means["counted"], errors["counted"], means["all"], errors["all"])
        by_parameter = {name: float(leaf) / size for name, leaf in sums["leaves"].items()}
        return {**dict(zip(COLUMNS, found, strict=True)), "fisher_trace_by_parameter": by_parameter}

    num_passes = num_classes if estimator == "exact" else 1
    return ProbeSignal("fisher_trace", COLUMNS, num_passes, zero_sums, batch_sums, numbers)


def _flags(counted: Any, params: Params) -> Array:
    """[weights] 1 for a counted leaf, 0 for another."""
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(counted), strict=True)
    return jnp.array([float(take) for leaf, take in leaves if is_weight(leaf)])
