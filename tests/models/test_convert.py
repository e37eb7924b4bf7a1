"""PyTorch state dicts: round trips, inferred sizes, and one message for all that is wrong."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import models
from earlyprune_jax.validate import InvalidInput

NAMES = [
    "resnet8",
    "resnet20",
    "resnet18",
    "preresnet20",
    "preresnet44_rethinking",
    "preresnet44_lottery",
]


def random_variables(name, num_classes=10, channels=3, width_multiplier=0.25):
    module = models.build(name, num_classes=num_classes, width_multiplier=width_multiplier)
    images = jnp.zeros((1, 8, 8, channels))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact_and_sizes_are_read_off_the_arrays(name):
    # At 0.53 the stages are 8, 17, 34 wide: no multiplier gives them back from the widest alone.
    variables = random_variables(name, num_classes=7, channels=1, width_multiplier=0.53)
    back = models.from_torch(name, models.to_torch(name, variables))
    chex.assert_trees_all_equal(back, variables)
    assert all(
        isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(back)
    )


def test_resnet20_has_the_97_published_keys_and_shapes():
    arrays = models.to_torch("resnet20", random_variables("resnet20", width_multiplier=1.0))
    assert len(arrays) == 97
    shapes = {key: array.shape for key, array in arrays.items()}
    assert shapes["conv1.weight"] == (16, 3, 3, 3)
    assert shapes["layer2.0.conv1.weight"] == (32, 16, 3, 3)
    assert shapes["layer3.2.bn2.running_var"] == (64,)
    assert shapes["linear.weight"] == (10, 64)


def test_resnet18_and_preresnet_use_the_key_names_of_their_published_code():
    resnet18 = models.to_torch("resnet18", random_variables("resnet18"))
    assert {"bn1.running_mean", "layer4.1.conv2.weight", "layer2.0.shortcut.0.weight",
            "layer2.0.shortcut.1.running_var", "linear.bias"} <= resnet18.keys()  # fmt: skip
    preresnet = models.to_torch("preresnet44_lottery", random_variables("preresnet44_lottery"))
    assert {
        "conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.6.conv3.weight",
        "layer1.0.bn3.bias",
        "layer1.0.downsample.0.weight",
        "bn.running_mean",
        "fc.weight",
    } <= preresnet.keys()
    assert "bn1.weight" not in preresnet


def test_kernels_are_transposed_from_out_in_height_width():
    variables = random_variables("resnet8")
    arrays = models.to_torch("resnet8", variables)
    kernel = variables["params"]["stage2_block0"]["conv1"]["kernel"]
    assert arrays["layer2.0.conv1.weight"][5, 1, 0, 2] == kernel[0, 2, 1, 5]
    assert arrays["linear.weight"][3, 7] == variables["params"]["classifier"]["kernel"][7, 3]


def test_data_parallel_prefix_and_batch_counters_are_ignored_and_types_cast():
    variables = random_variables("resnet8")
    arrays = {
        f"module.{k}": v.astype(np.float64)
        for k, v in models.to_torch("resnet8", variables).items()
    }
    arrays["module.bn1.num_batches_tracked"] = np.array(391)
    chex.assert_trees_all_equal(models.from_torch("resnet8", arrays), variables)


def test_every_problem_of_a_state_dict_is_reported_at_once():
    arrays = models.to_torch("resnet8", random_variables("resnet8"))
    del arrays["bn1.weight"], arrays["layer1.0.bn2.bias"]
    arrays["fc.weight"] = np.zeros((10, 16))
    arrays["layer2.0.conv1.weight"] = np.zeros((9, 4, 3, 3))
    arrays["linear.bias"] = np.array(["a"] * 10)
    with pytest.raises(InvalidInput) as error:
        models.from_torch("resnet8", arrays)
    assert error.value.problems == (
        "Expected 2 more keys in arrays: layer1.0.bn2.bias, bn1.weight.",
        "Expected arrays without 1 of their keys: fc.weight.",
        "Expected arrays['linear.bias'].dtype='<U1' to be numbers.",
        "Expected arrays['layer2.0.conv1.weight'].shape=(9, 4, 3, 3) to be (8, 4, 3, 3).",
    )


def test_arrays_of_another_depth_or_family_are_refused_with_the_keys_named():
    deeper = models.to_torch("resnet14", random_variables("resnet14"))
    with pytest.raises(InvalidInput, match=r"without 30 of their keys: .*layer1\.1\.conv1\.weight"):
        models.from_torch("resnet8", deeper)
    with pytest.raises(InvalidInput, match=r"Expected 30 more keys"):
        models.from_torch("resnet14", models.to_torch("resnet8", random_variables("resnet8")))
    with pytest.raises(InvalidInput, match=r"more keys in arrays: .*downsample"):
        models.from_torch("preresnet20", deeper)


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros((0, 3, 3, 3)), np.zeros(16)])
def test_an_array_of_absurd_shape_is_refused_not_tripped_over(array):
    arrays = models.to_torch("resnet8", random_variables("resnet8"))
    for key in ("conv1.weight", "linear.weight"):
        with pytest.raises(InvalidInput, match=rf"arrays\['{key}'\].shape"):
            models.from_torch("resnet8", arrays | {key: array})


def test_no_arrays_at_all_are_missing_keys_of_the_standard_network():
    with pytest.raises(InvalidInput, match=r"^Expected 97 more keys in arrays: "):
        models.from_torch("resnet20", {})


@pytest.mark.parametrize("convert", [models.from_torch, models.to_torch])
def test_an_unknown_name_is_refused_in_both_directions(convert):
    with pytest.raises(InvalidInput, match=r"model\.name='resnet19'.*Did you mean"):
        convert("resnet19", {})
