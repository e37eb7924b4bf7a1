"""The grid's signal against `fisher_trace` on the same images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax.pruning import select
from earlyprune_jax.signals import Network
from earlyprune_jax.signals.fisher import fisher_trace
from earlyprune_jax.signals.fisher_squares import signal
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.PRNGKey(5)
NUM_EXAMPLES, NUM_CLASSES = 7, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((NUM_EXAMPLES, 4, 4, 2)).astype(np.float32)
LABELS = np.arange(NUM_EXAMPLES) % NUM_CLASSES


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        return nn.Dense(NUM_CLASSES, name="classifier")(x.mean((1, 2)))


VARIABLES = jax.tree.map(lambda leaf: leaf + 0.1, Small().init(jax.random.key(0), IMAGES))


def apply(variables, batch, **linen_options):
    return Small().apply(variables, batch["images"], **linen_options)


def measured(estimator, method, batch_size, *, is_linen=True):
    """The columns, from batches as the grid makes them: equal, the last filled up with image 0."""
    params = VARIABLES["params"]
    made = signal(
        estimator=estimator,
        method=method,
        counted=select(params, "conv_kernels"),
        num_classes=NUM_CLASSES,
        num_examples=NUM_EXAMPLES,
    )
    network = Network(apply, {"batch_stats": VARIABLES["batch_stats"]}, is_linen)

    @jax.jit
    def step(sums, batch, index):
        return jax.tree.map(jnp.add, sums, made.batch_sums(network, params, batch, KEY, index))

    sums = made.zero_sums(params)
    for start in range(0, NUM_EXAMPLES, batch_size):
        numbers = np.arange(start, start + batch_size)
        places = np.where(numbers < NUM_EXAMPLES, numbers, 0)
        weights = (numbers < NUM_EXAMPLES).astype(np.float32)
        batch = {
            "images": IMAGES[places],
            "labels": LABELS[places],
            "numbers": numbers,
            "weights": weights,
        }
        for index in range(made.num_passes):
            sums = step(sums, batch, jnp.int32(index))
    found = made.numbers(jax.device_get(sums), NUM_EXAMPLES)
    assert (*made.columns, "fisher_trace_by_parameter") == tuple(found)
    return found


@pytest.mark.parametrize(
    ("estimator", "method", "batch_size"),
    [
        ("exact", "layerwise", 3),
        ("sampled", "layerwise", 4),
        ("argmax", "vmap", 7),
        ("empirical", "vmap", 3),
        ("sampled", "batch", 3),
    ],
)
def test_the_columns_are_the_numbers_of_fisher_trace(estimator, method, batch_size):
    found = measured(estimator, method, batch_size)
    options = {
        "estimator": estimator,
        "method": method,
        "microbatch_size": batch_size,
        "labels": LABELS,
    }
    everything = fisher_trace(Small(), VARIABLES, IMAGES, key=KEY, **options)
    convolutions = fisher_trace(
        Small(), VARIABLES, IMAGES, key=KEY, layers="conv_kernels", **options
    )
    wanted = {
        "fisher_trace": convolutions.total,
        "fisher_trace_standard_error": convolutions.standard_error,
        "fisher_trace_all": everything.total,
        "fisher_trace_all_standard_error": everything.standard_error,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    assert found["fisher_trace_by_parameter"] == pytest.approx(
        everything.per_parameter, rel=1e-5, abs=1e-8
    )


def test_a_network_that_is_no_linen_module_is_measured_by_vmap():
    found = measured("sampled", "layerwise", 4, is_linen=False)
    wanted = measured("sampled", "vmap", 4)
    assert found["fisher_trace_all"] == wanted["fisher_trace_all"]


def test_one_batch_has_no_standard_error_by_method_batch():
    found = measured("sampled", "batch", 8)
    assert found["fisher_trace_standard_error"] is None
    assert found["fisher_trace_all"] > 0


def test_an_estimator_and_a_method_that_do_not_go_together_are_refused():
    with pytest.raises(InvalidInput, match="to be sampled with method batch"):
        signal(estimator="exact", method="batch", counted=None, num_classes=2, num_examples=1)
