"""Norms of layer inputs against explicit patches and NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax import layer_hooks, models
from earlyprune_jax.pruning.scores.weights import wanda
from earlyprune_jax.validate import InvalidInput

IMAGES = np.random.default_rng(0).standard_normal((5, 7, 6, 4)).astype(np.float32)


def measured(module, x, **options):
    """(norms of the one kernel, the kernel's shape), over two batches of unequal size."""
    variables: Any = module.init(jax.random.key(0), x)
    norms = layer_hooks.input_norms(module, variables, [x[:3], x[3:]], **options)
    assert list(norms) == ["kernel"]
    return norms["kernel"], variables["params"]["kernel"].shape


def by_patches(x, size, strides, padding, dilation=(1, 1)):
    """[kh, kw, in]: the norm of every entry of the patches that the convolution multiplies."""
    patches = jax.lax.conv_general_dilated_patches(
        x, size, strides, padding, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # The patches' features are ordered (channel, height, width).
    norms = np.sqrt(np.sum(np.asarray(patches) ** 2, axis=(0, 1, 2)))
    return norms.reshape(x.shape[-1], *size).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("strides", "padding", "dilation"),
    [
        ((1, 1), "SAME", (1, 1)),
        ((2, 2), ((1, 1), (1, 1)), (1, 1)),
        ((2, 1), "VALID", (1, 2)),
        ((3, 2), ((0, 2), (1, 0)), (2, 1)),
    ],
)
def test_a_convolution_counts_for_each_kernel_position_the_pixels_it_sees(
    strides, padding, dilation
):
    module = nn.Conv(2, (3, 2), strides=strides, padding=padding, kernel_dilation=dilation)
    norms, shape = measured(module, IMAGES)
    assert norms.shape == (3, 2, 4, 1)
    assert shape == (3, 2, 4, 2)
    wanted = by_patches(IMAGES, (3, 2), strides, padding, dilation)
    np.testing.assert_allclose(norms[..., 0], wanted, rtol=1e-5)


def test_with_feature_groups_every_output_has_the_norms_of_its_own_group():
    module = nn.Conv(6, (3, 3), padding="SAME", feature_group_count=2)
    norms, shape = measured(module, IMAGES)
    assert norms.shape == shape == (3, 3, 2, 6)
    for output in range(6):
        channels = slice(0, 2) if output < 3 else slice(2, 4)
        wanted = by_patches(IMAGES[..., channels], (3, 3), (1, 1), "SAME")
        np.testing.assert_allclose(norms[..., output], wanted, rtol=1e-5)


def test_circular_padding_counts_the_pixels_that_wrap_around():
    norms, _ = measured(nn.Conv(2, (3, 3), padding="CIRCULAR"), IMAGES)
    # Every kernel position sees every pixel once.
    wanted = np.broadcast_to(np.sqrt((IMAGES**2).sum(axis=(0, 1, 2))), (3, 3, 4))
    np.testing.assert_allclose(norms[..., 0], wanted, rtol=1e-5)


def test_a_one_dimensional_convolution_with_a_plain_kernel_size():
    sequences = IMAGES.reshape(5, 42, 4)
    norms, shape = measured(nn.Conv(3, 2, padding="VALID"), sequences)
    assert norms.shape == (2, 4, 1)
    for position in range(2):
        seen = sequences[:, position : 41 + position]
        np.testing.assert_allclose(
            norms[position, :, 0], np.sqrt((seen**2).sum(axis=(0, 1))), rtol=1e-5
        )


def test_a_dense_layer_counts_every_position():
    norms, _ = measured(nn.Dense(3), IMAGES)
    np.testing.assert_allclose(norms, np.sqrt((IMAGES**2).sum(axis=(0, 1, 2)))[:, None], rtol=1e-5)


def test_dense_general_keeps_the_contracted_axes_in_the_kernels_order():
    norms, shape = measured(nn.DenseGeneral((2, 3), axis=(-1, 1)), IMAGES)
    assert shape == (7, 4, 2, 3)
    np.testing.assert_allclose(
        norms, np.sqrt((IMAGES**2).sum(axis=(0, 2)))[..., None, None], rtol=1e-5
    )


def test_dense_general_keeps_batch_axes():
    x = IMAGES.transpose(1, 0, 2, 3)
    module = nn.DenseGeneral(3, axis=-1, batch_dims=(0,))
    variables: Any = module.init(jax.random.key(0), x)
    norms = layer_hooks.input_norms(module, variables, [x])["kernel"]
    assert variables["params"]["kernel"].shape == (7, 4, 3)
    np.testing.assert_allclose(norms, np.sqrt((x**2).sum(axis=(1, 2)))[..., None], rtol=1e-5)


class Doubled(nn.Dense):
    """A subclass with parameters of its parent."""

    @nn.compact
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class Shared(nn.Module):
    """One layer called twice, by position and by name."""

    @nn.compact
    def __call__(self, x):
        layer = Doubled(4, name="layer")
        return layer(inputs=layer(x))


def test_a_module_called_twice_counts_both_inputs_and_a_subclass_counts_as_its_parent():
    variables: Any = Shared().init(jax.random.key(0), IMAGES)
    layer = variables["params"]["layer"]
    second = 2 * (IMAGES @ layer["kernel"])
    norms = layer_hooks.input_norms(Shared(), variables, [IMAGES[:2], IMAGES[2:]])
    wanted = np.sqrt(
        (IMAGES**2).sum(axis=(0, 1, 2)) + (np.asarray(second) ** 2).sum(axis=(0, 1, 2))
    )
    np.testing.assert_allclose(norms["layer/kernel"][:, 0], wanted, rtol=1e-5)


class Scaling(nn.Conv):
    """A subclass that changes its input before it multiplies."""

    @nn.compact
    def __call__(self, inputs):
        return super().__call__(3 * inputs)


def test_a_subclass_that_changes_its_input_counts_what_it_multiplies():
    norms, _ = measured(Scaling(2, (3, 3)), IMAGES)
    wanted = by_patches(3 * IMAGES, (3, 3), (1, 1), "SAME")
    np.testing.assert_allclose(norms[..., 0], wanted, rtol=1e-5)


class OwnProduct(nn.Dense):
    """A subclass that never calls its parent."""

    @nn.compact
    def __call__(self, inputs):
        return inputs @ self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features))


def test_a_subclass_with_its_own_product_counts_what_it_is_called_with():
    norms, _ = measured(OwnProduct(2), IMAGES)
    np.testing.assert_allclose(norms[:, 0], np.sqrt((IMAGES**2).sum(axis=(0, 1, 2))), rtol=1e-5)


class Rematerialised(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(nn.Dense)(3, name="layer")(x)


def test_a_rematerialised_layer_is_hooked():
    variables = Rematerialised().init(jax.random.key(0), IMAGES)
    norms = layer_hooks.input_norms(Rematerialised(), variables, [IMAGES])
    wanted = np.sqrt((IMAGES**2).sum(axis=(0, 1, 2)))
    np.testing.assert_allclose(norms["layer/kernel"][:, 0], wanted, rtol=1e-5)


def test_attention_is_covered_by_its_dense_layers():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
    x = IMAGES[:, 0]
    variables: Any = module.init(jax.random.key(0), x)
    norms = layer_hooks.input_norms(module, variables, [x])
    kernels = {
        "query/kernel": (4, 1, 1),
        "key/kernel": (4, 1, 1),
        "value/kernel": (4, 1, 1),
        "out/kernel": (2, 2, 1),
    }
    assert {name: norm.shape for name, norm in norms.items()} == kernels


def test_bfloat16_inputs_are_squared_and_summed_in_float32():
    x = jnp.ones((600, 1), jnp.bfloat16)
    module = nn.Dense(1, dtype=jnp.bfloat16)
    norms = layer_hooks.input_norms(module, module.init(jax.random.key(0), x), [x])
    assert norms["kernel"].item() == pytest.approx(np.sqrt(600), rel=1e-6)


@pytest.fixture(scope="module")
def resnet():
    """(module, variables, batches)."""
    module, rng = (
        models.build("resnet8", num_classes=3, width_multiplier=0.25),
        np.random.default_rng(1),
    )
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), image)
    variables: Any = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes
    )
    batches = [{"images": rng.standard_normal((3, 8, 8, 1)).astype(np.float32)} for _ in range(2)]
    return module, variables, batches


def images_of(batch):
    return (batch["images"],)


def test_every_kernel_of_a_resnet_has_norms_and_wanda_scores_them(resnet):
    module, variables, batches = resnet
    norms = layer_hooks.input_norms(module, variables, batches, inputs=images_of, train=False)
    params = variables["params"]
    found: Any = wanda(params, norms)
    kernels = [path for path, leaf in jax.tree.leaves_with_path(params) if leaf.ndim > 1]
    assert len(norms) == len(kernels)
    images = np.concatenate([batch["images"] for batch in batches])
    wanted = by_patches(images, (3, 3), (1, 1), ((1, 1), (1, 1)))[..., None]
    stem = params["stem_conv"]["kernel"]
    np.testing.assert_allclose(found["stem_conv"]["kernel"], np.abs(stem) * wanted, rtol=1e-5)
    assert all((norm > 0).any() for norm in norms.values())


def test_layers_choose_what_is_measured():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
    x = IMAGES[:, 0]
    norms = layer_hooks.input_norms(
        module, module.init(jax.random.key(0), x), [x], layers="regex:out/kernel"
    )
    assert list(norms) == ["out/kernel"]


def test_training_mode_is_refused(resnet):
    module, variables, batches = resnet
    with pytest.raises(InvalidInput, match=r"Ask for evaluation mode, e.g. train=False"):
        layer_hooks.input_norms(module, variables, batches, inputs=images_of, train=True)


class Unsupported(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="head")(nn.ConvTranspose(2, (3, 3), name="up")(x))


def test_a_kernel_that_no_hook_covers_is_named_and_can_be_left_out():
    variables = Unsupported().init(jax.random.key(0), IMAGES)
    with pytest.raises(InvalidInput) as caught:
        layer_hooks.input_norms(Unsupported(), variables, [IMAGES])
    assert len(caught.value.problems) == 1
    assert "input norms at='up/kernel' to be hooked. No nn.Conv" in str(caught.value)
    assert list(
        layer_hooks.input_norms(Unsupported(), variables, [IMAGES], layers="regex:head/kernel")
    ) == ["head/kernel"]


def test_a_parameter_that_is_not_a_kernel_has_no_norm():
    module = nn.Dense(2)
    with pytest.raises(InvalidInput, match="'bias' to be hooked"):
        layer_hooks.input_norms(
            module, module.init(jax.random.key(0), IMAGES), [IMAGES], layers="regex:bias"
        )


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "to give at least one batch"),
        (IMAGES, "Wrap a single batch in a list"),
        ([IMAGES, IMAGES[:0]], "examples in batch 1 (from 0)={'its root': 0}"),
        (
            [IMAGES, np.full_like(IMAGES, np.inf)],
            "input norm at kernel='not finite' to be finite. At batch 1",
        ),
    ],
)
def test_bad_batches_are_refused_by_number(batches, words):
    module = nn.Dense(2)
    with pytest.raises(InvalidInput) as caught:
        layer_hooks.input_norms(module, module.init(jax.random.key(0), IMAGES), batches)
    assert words in str(caught.value)


def test_mutable_collections_are_refused():
    module = nn.Dense(2)
    with pytest.raises(InvalidInput, match="apply option mutable"):
        layer_hooks.input_norms(
            module, module.init(jax.random.key(0), IMAGES), [IMAGES], mutable=["batch_stats"]
        )
