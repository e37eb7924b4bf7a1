"""What the Fisher functions refuse, and what they say."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax.pruning.scores.fisher import check_options
from earlyprune_jax.signals.fisher import METHODS, fisher_trace
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(0)
ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1])
DENSE = nn.Dense(3)
VARIABLES: Any = DENSE.init(KEY, ROWS)


def message(*args, **options):
    with pytest.raises(InvalidInput) as caught:
        fisher_trace(*args, **{"key": KEY, **options})
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"estimator": "sample"},
            "estimator='sample' to be one of exact, sampled, argmax, empirical. Did you",
        ),
        ({"method": "layer"}, "method='layer' to be one of vmap, layerwise, batch"),
        (
            {"method": "batch", "estimator": "argmax"},
            "to be sampled with method batch. Only labels drawn",
        ),
        ({"microbatch_size": 0}, "microbatch_size=0 to be an integer of at least 1"),
        ({"microbatch_size": 2.0}, "microbatch_size=2.0 to be an integer"),
        ({"estimator": "empirical"}, "labels=None to be [5] integers, one for each image"),
        ({"estimator": "empirical", "labels": LABELS[:4]}, "labels='int64[4]' to be [5] integers"),
        (
            {"estimator": "empirical", "labels": LABELS / 2},
            "labels='float64[5]' to be [5] integers",
        ),
        (
            {"estimator": "empirical", "labels": LABELS + 2},
            "labels[1] and 2 more=3 in [0, 3), as the logits have",
        ),
        ({"estimator": "empirical", "labels": LABELS - 1}, "labels[0] and 1 more=-1 in [0, 3)"),
        ({"layers": "conv_kernels"}, "layers='conv_kernels' to select at least one parameter"),
        ({"layers": "kernels"}, "layers='kernels' to be one of conv_kernels"),
        ({"key": 3}, "key=3 to be one PRNG key"),
        ({"mutable": ["batch_stats"]}, "apply option mutable"),
        ({"rngs": {"dropout": KEY}}, "In evaluation nothing may change or be random"),
    ],
)
def test_wrong_options_are_named(options, words):
    assert words in message(DENSE, VARIABLES, ROWS, **options)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (ROWS[:0], "images={'': 'float32[0, 4]'} to be arrays of floats or integers [N, ...]"),
        (ROWS[0], "images={'': 'float32[4]'} to be arrays of floats or integers"),
        (ROWS.astype(complex), "images={'': 'complex128[5, 4]'} to be arrays of floats"),
        (ROWS.astype(str), "to be arrays of floats or integers"),
        ([[1.0, 2.0]], "images={'0/0': 'float[]', '0/1': 'float[]'} to be arrays of floats"),
        ({}, "images={} to be arrays of floats"),
        ({"a": ROWS, "b": ROWS[:3]}, "Every array holds the same N >= 1 examples along axis 0"),
    ],
)
def test_wrong_images_are_named(images, words):
    assert words in message(DENSE, VARIABLES, images)


def test_all_problems_come_at_once():
    broken = {
        "params": {"kernel": np.full((4, 3), np.nan, np.float32), "bias": np.zeros(3, np.float32)}
    }
    bad_key: Any = None
    with pytest.raises(InvalidInput) as caught:
        fisher_trace(
            DENSE,
            broken,
            ROWS[:0],
            key=bad_key,
            estimator="no",
            method="no",
            microbatch_size=-1,
            rngs={},
        )
    assert len(caught.value.problems) == 7
    assert "variables at params/kernel='not finite' to be finite" in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            VARIABLES["params"],
            "variables=['bias', 'kernel'] to be {\"params\": ..., \"batch_stats\": ...}",
        ),
        (3.0, "variables=3.0 to be"),
        ({"params": {}}, "params={} to hold at least one floating-point array"),
        (
            {"params": {"kernel": VARIABLES["params"]["kernel"]}},
            "Give all of module.init's variables",
        ),
        (
            {"params": {**VARIABLES["params"], "kernel": np.ones((2, 3), np.float32)}},
            "images of the size it",
        ),
    ],
)
def test_wrong_variables_are_named(variables, words):
    assert words in message(DENSE, variables, ROWS)


def test_a_model_that_is_nothing_is_refused():
    assert "model='str' to be a Linen module or a function" in message("resnet20", VARIABLES, ROWS)


class Normed(nn.Module):
    """A norm that is told its mode by an argument, or by none."""

    always_training: bool = False

    @nn.compact
    def __call__(self, x, is_training=True):
        x = nn.BatchNorm(
            use_running_average=not (is_training or self.always_training), name="norm"
        )(x)
        return nn.Dense(3)(x)


def test_a_missing_collection_is_named():
    variables: Any = Normed().init(KEY, ROWS, is_training=False)
    assert fisher_trace(Normed(), variables, ROWS, key=KEY).total > 0
    found = message(Normed(), {"params": variables["params"]}, ROWS)
    assert 'from collection "batch_stats" in "/norm"' in found
    assert "Give all of module.init's variables" in found


def test_training_mode_is_refused():
    variables: Any = Normed().init(KEY, ROWS)
    words = (
        "to run in evaluation mode with these variables. Ask for evaluation mode, e.g. train=False"
    )
    assert words in message(Normed(always_training=True), variables, ROWS)
    assert words in message(Normed(), variables, ROWS, is_training=True)


def test_active_dropout_is_refused():
    module = nn.Sequential([nn.Dropout(0.5, deterministic=False), DENSE.clone()])
    variables = module.init({"params": KEY, "dropout": KEY}, ROWS)
    said = message(module, variables, ROWS)
    assert 'PRNG for "dropout"' in said and "Ask for evaluation mode" in said


def test_other_interceptors_are_refused():
    with nn.intercept_methods(lambda next_call, args, kwargs, context: next_call(*args, **kwargs)):
        assert "interceptors of nn.intercept_methods=1 to be none" in message(
            DENSE, VARIABLES, ROWS
        )


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (lambda params, x: (x @ params)[:, 0], "logits='float32[2]' to be floats [B, C]"),
        (
            lambda params, x: (x @ params).mean(0, keepdims=True),
            "logits='float32[1, 3]' to be floats [B, C]",
        ),
        (
            lambda params, x: (x @ params, x),
            "logits=('float32[2, 3]', 'float32[2, 4]') to be floats",
        ),
        (
            lambda params, x: (x @ params)[:, :1],
            "logits='float32[2, 1]' to be floats [B, C], B=2 as in the batch, and C >= 2",
        ),
        (lambda params, x: (x @ params) > 0, "logits='bool[2, 3]' to be floats"),
    ],
)
def test_wrong_logits_are_named(logits, words):
    assert words in message(logits, np.ones((4, 3), np.float32), ROWS)


class Exploding(nn.Module):
    """Its second layer overflows for large inputs."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, kernel_init=nn.initializers.ones, name="first")(x)
        x = nn.Dense(4, kernel_init=nn.initializers.constant(1e20), name="second")(x)
        return nn.Dense(3, name="third")(jnp.tanh(x) + 0 * x)


@pytest.mark.parametrize("method", ["layerwise", "vmap", "batch"])
def test_logits_that_are_not_finite_name_the_layer_and_the_image(method):
    images = ROWS.copy()
    images[3] = 1e19
    found = message(
        Exploding(), Exploding().init(KEY, ROWS), images, method=method, microbatch_size=2
    )
    assert "logits of images[3]='not finite' to be finite" in found
    assert "The first output that is not finite is that of the layer second." in found
    images[3, 0] = np.nan
    found = message(Exploding(), Exploding().init(KEY, ROWS), images, method=method)
    assert "That image itself is not finite." in found


def test_a_functions_layers_cannot_be_named():
    images = np.where(np.arange(5)[:, None] > 2, np.float32(1e30), ROWS)
    found = message(lambda params, x: x @ params, np.full((4, 3), 1e20, np.float32), images)
    assert "logits of images[3] and of 1 more near it='not finite'" in found
    assert "No single layer could be named" in found


def test_gradients_that_are_not_finite_name_the_parameter_and_the_image():
    images = ROWS.copy()
    images[2] = 0

    def logits(params, x):
        length = jnp.sqrt(jnp.sum(jnp.square(x * params["gain"][None]), axis=1, keepdims=True))
        return length * params["kernel"][None]

    params = {"gain": np.ones(4, np.float32), "kernel": np.arange(3, dtype=np.float32)}
    found = message(logits, params, images, microbatch_size=2)
    assert "gradient at gain='not finite' to be finite. First for images[2]" in found


def test_parameters_that_are_not_finite_are_named():
    params = [np.ones((4, 3), np.float32), np.full(3, np.inf, np.float32)]
    found = message(lambda params, x: x @ params[0] + params[1], params, ROWS)
    assert (
        "params at 1='not finite' to be finite. Measure a network that has not diverged." in found
    )


def test_a_model_without_batch_norm_and_fewer_images_than_a_microbatch_are_fine():
    assert fisher_trace(DENSE, VARIABLES, ROWS, key=KEY, microbatch_size=64).num_examples == 5


def test_options_are_checked_by_one_rule():
    assert check_options("sampled", "batch", METHODS) == []
    assert len(check_options("all", "fast", METHODS)) == 2
