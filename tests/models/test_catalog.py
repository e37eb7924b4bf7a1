"""Names, sizes, widths and refusals of `models.build`."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from earlyprune_jax import models
from earlyprune_jax.models.catalog import scaled
from earlyprune_jax.validate import InvalidInput

OPTION_A_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
PRERESNET_PARAMETERS = {
    "": {20: 272_282, 38: 563_930, 44: 661_146, 56: 855_578, 110: 1_730_522},
    "_rethinking": {20: 175_066, 38: 369_498, 44: 404_954, 56: 590_426, 110: 1_146_842},
    "_lottery": {20: 272_282, 38: 563_930, 44: 683_162, 56: 868_634, 110: 1_703_258},
}
CIFAR10_PARAMETERS = {
    "resnet18": 11_173_962,
    **{f"resnet{depth}": count for depth, count in OPTION_A_PARAMETERS.items()},
    **{
        f"preresnet{depth}{variant}": count
        for variant, counts in PRERESNET_PARAMETERS.items()
        for depth, count in counts.items()
    },
}


def abstract_params(
    name, num_classes=10, image_shape=(1, 32, 32, 3), **options
) -> dict[tuple[str, ...], Any]:
    module = models.build(name, num_classes=num_classes, **options)
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    return traverse_util.flatten_dict(variables["params"])


def count(params):
    return sum(leaf.size for leaf in params.values())


def test_every_published_name_is_known_and_no_other():
    assert set(models.names()) == {
        "resnet8",
        "resnet14",
        "preresnet8",
        "preresnet14",
        *CIFAR10_PARAMETERS,
    }


@pytest.mark.parametrize("name", CIFAR10_PARAMETERS)
def test_parameter_count_on_cifar10_equals_the_published_one(name):
    assert count(abstract_params(name)) == CIFAR10_PARAMETERS[name]


@pytest.mark.parametrize("depth", [20, 56])
def test_parameter_count_of_option_a_on_cifar100_is_5850_larger(depth):
    assert count(abstract_params(f"resnet{depth}", 100)) == OPTION_A_PARAMETERS[depth] + 5_850


def test_parameter_count_of_resnet18_on_cifar100_and_of_its_convolutions():
    params = abstract_params("resnet18", 100)
    assert count(params) == 11_220_132
    assert count({path: leaf for path, leaf in params.items() if leaf.ndim == 4}) == 11_159_232


def test_resnet8_and_resnet14_follow_the_closed_form():
    # A block of width c costs 2 * (9 c^2 + 2 c); the first of a stage has c / 2 channels in.
    def closed_form(n):
        stem_and_classifier = 27 * 16 + 2 * 16 + 64 * 10 + 10
        blocks = sum(n * (18 * c * c + 4 * c) for c in (16, 32, 64))
        narrower_inputs = sum(9 * c * (c // 2) for c in (32, 64))
        return stem_and_classifier + blocks - narrower_inputs

    assert closed_form(3) == OPTION_A_PARAMETERS[20]
    assert count(abstract_params("resnet8")) == closed_form(1)
    assert count(abstract_params("resnet14")) == closed_form(2)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "preresnet20", "preresnet44_lottery"])
def test_names_of_parameters_tell_convolutions_norms_and_the_classifier(name):
    for path, leaf in abstract_params(name).items():
        *_, module, kind = path
        expected_ranks = {"conv": {"kernel": 4}, "norm": {"scale": 1, "bias": 1}}
        expected_ranks["classifier"] = {"kernel": 2, "bias": 1}
        role = re.fullmatch(r"(?:stem_|final_|shortcut_)?(conv|norm)\d?|(classifier)", module)
        assert role, path
        assert expected_ranks[role[1] or role[2]][kind] == leaf.ndim, path
        assert leaf.dtype == jnp.float32


def test_paths_are_the_documented_ones():
    paths = {"/".join(path) for path in abstract_params("resnet18")}
    assert {
        "stem_conv/kernel",
        "stem_norm/scale",
        "stage1_block0/conv1/kernel",
        "stage4_block1/norm2/bias",
        "stage2_block0/shortcut_conv/kernel",
        "stage2_block0/shortcut_norm/scale",
        "classifier/kernel",
    } <= paths
    assert "stage1_block0/shortcut_conv/kernel" not in paths
    preresnet_paths = {"/".join(path) for path in abstract_params("preresnet44_lottery")}
    assert {
        "final_norm/scale",
        "stage1_block0/shortcut_conv/kernel",
        "stage1_block0/conv3/kernel",
    } <= (preresnet_paths)


def test_width_multiplier_rounds_half_up_and_keeps_at_least_one_channel():
    assert scaled((16, 32, 64), 0.03125) == (1, 1, 2)  # 0.5, 1, 2
    assert scaled((16, 32, 64), 0.001) == (1, 1, 1)
    assert scaled((16, 32, 64), 0.53) == (8, 17, 34)  # 8.48, 16.96, 33.92
    assert scaled((64, 128), 2) == (128, 256)


def test_width_multiplier_scales_every_layer():
    params = abstract_params("preresnet44_lottery", width_multiplier=0.53)
    assert params["stem_conv", "kernel"].shape == (3, 3, 3, 8)
    assert params["stage2_block0", "conv2", "kernel"].shape == (3, 3, 17, 17)
    assert params["stage2_block0", "shortcut_conv", "kernel"].shape == (1, 1, 32, 68)
    assert params["classifier", "kernel"].shape == (4 * 34, 10)
    odd = abstract_params("resnet8", width_multiplier=0.53)
    assert odd["stage3_block0", "conv1", "kernel"].shape == (3, 3, 17, 34)


def test_image_channels_come_from_the_images():
    params = abstract_params("resnet8", image_shape=(1, 8, 8, 1))
    assert params["stem_conv", "kernel"].shape == (3, 3, 1, 16)


def test_equal_arguments_give_equal_modules_so_that_jit_compiles_once():
    first, second = (
        models.build("resnet20", num_classes=10, dtype=d) for d in (jnp.float32, "float32")
    )
    assert first == second
    assert hash(first) == hash(second)
    assert first != models.build("resnet20", num_classes=10, dtype="bfloat16")


def test_an_unknown_name_lists_the_choices_and_names_the_nearest():
    with pytest.raises(InvalidInput) as error:
        models.build("resnet200", num_classes=10)
    message = str(error.value)
    assert message.startswith("Expected model.name='resnet200' to be one of resnet8, resnet14, ")
    assert "Did you mean 'resnet20'?" in message
    assert models.check("resnet200") == [message]
    assert models.check("preresnet44_lottery") == []


def test_all_problems_of_the_arguments_come_at_once():
    with pytest.raises(InvalidInput) as error:
        models.build("resnet9", num_classes=1, width_multiplier=float("nan"), dtype="float16")
    things = [problem.split("=")[0] for problem in error.value.problems]
    assert things == [
        "Expected model.name",
        "Expected num_classes",
        "Expected model.width_multiplier",
        "Expected dtype",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"num_classes": -3},
        {"num_classes": 10.0},
        {"num_classes": True},
        {"num_classes": "10"},
        {"width_multiplier": 0},
        {"width_multiplier": -1.0},
        {"width_multiplier": 1e-320},
        {"width_multiplier": float("inf")},
        {"width_multiplier": "wide"},
        {"width_multiplier": True},
        {"dtype": "floaty"},
        {"dtype": None},
        {"dtype": jnp.int32},
    ],
)
def test_an_invalid_argument_is_refused_alone(options):
    with pytest.raises(InvalidInput) as error:
        models.build("resnet8", **({"num_classes": 10} | options))
    assert len(error.value.problems) == 1


def test_numpy_numbers_are_accepted():
    numbers: Any = {"num_classes": np.int64(10), "width_multiplier": np.float32(1)}
    assert models.build("resnet8", **numbers) == models.build("resnet8", num_classes=10)
