"""Physically smaller networks compute what the masked ones do."""

import functools
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import export, lax

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning.channels.compact import compact
from earlyprune_jax.pruning.channels.groups import channel_groups, channel_mask
from earlyprune_jax.pruning.scores.weights import magnitude
from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.validate import InvalidInput

RNG = np.random.default_rng(0)


def images(batch_size=3, size=8, seed=1):
    return jnp.asarray(
        np.random.default_rng(seed).normal(size=(batch_size, size, size, 3)), jnp.float32
    )


def randomised(variables, seed=0):
    """Kernels of unit gain, norms and statistics far from 0 and 1."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, shape.shape), shape.dtype)
        gain = np.sqrt(1 / np.prod(shape.shape[:-1])) if len(shape.shape) > 1 else 0.3
        return jnp.asarray(rng.normal(0, gain, shape.shape), shape.dtype)

    return jax.tree.map_with_path(leaf, variables)


def build(name, **options):
    model = models.build(name, num_classes=10, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images(1), train=False))
    return randomised(shapes), lambda variables, x: model.apply(variables, x, train=False)


def masked(mask, variables):
    """On the host: one XLA program for every shape would take longer than the tests."""
    return jax.tree.map(
        lambda keep, leaf: np.where(keep, leaf, np.zeros_like(leaf)), mask, variables
    )


def num_weights(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if is_weight(leaf))


def num_left(mask):
    """Counted without any graph: a slice is gone where the mask is False throughout it."""
    return sum(
        np.prod([len(left_indices(leaf, axis)) for axis in range(leaf.ndim)])
        for leaf in map(np.asarray, jax.tree.leaves(mask))
    )


def left_indices(keep, axis):
    others = tuple(other for other in range(keep.ndim) if other != axis)
    return np.flatnonzero(np.asarray(keep).any(axis=others))


def cut_out(tree, mask):
    """The entries of a tree that are in no slice which the mask removes."""
    return jax.tree.map(
        lambda leaf, keep: np.asarray(leaf)[
            np.ix_(*(left_indices(keep, a) for a in range(keep.ndim)))
        ],
        tree,
        mask,
    )


def assert_equal(got, wanted):
    scale = max(1.0, float(np.abs(wanted).max()))
    np.testing.assert_allclose(got, wanted, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet8", "preresnet8"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet20", "resnet18", "preresnet20")),
    ],
)
def test_compact_equals_the_masked_network_on_the_named_networks(name):
    variables, apply = build(name)
    groups = channel_groups(apply, variables, images())
    dense = jax.jit(apply)
    for sparsity, scope in ((0.3, "global"), (0.6, "local")):
        mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=sparsity, scope=scope)
        # Traced for one batch size, run with another; the variables are not masked beforehand.
        compact_apply, smaller = compact(apply, variables, images(1), mask)
        wanted = dense(masked(mask, variables), images())
        assert 0.3 < np.abs(wanted).max() < 30
        # The least that was measured is 5.7e-4, of the preresnet8; compared is to 1e-5.
        assert wanted.std(axis=0).min() > 5e-4
        assert_equal(jax.jit(compact_apply)(smaller, images()), wanted)
        assert num_weights(smaller) == num_left(mask) < (1 - sparsity) * num_weights(variables)
        for left, expected in zip(
            jax.tree.leaves(smaller), jax.tree.leaves(cut_out(variables, mask)), strict=True
        ):
            np.testing.assert_array_equal(left, expected)


def test_gradients_agree_on_the_entries_that_are_left():
    variables, apply = build("resnet8", width_multiplier=0.5)
    mask = channel_mask(
        jax.tree.map(np.abs, variables), channel_groups(apply, variables, images()), sparsity=0.5
    )
    compact_apply, smaller = compact(apply, variables, images(), mask)

    def loss(apply):
        return jax.jit(jax.grad(lambda v: jnp.sum(jnp.sin(apply(v, images())))))

    dense = cut_out(loss(apply)(masked(mask, variables)), mask)
    for (path, got), wanted in zip(
        named_leaves(loss(compact_apply)(smaller)), jax.tree.leaves(dense), strict=True
    ):
        np.testing.assert_allclose(
            got, wanted, atol=1e-4 * max(1, np.abs(wanted).max()), err_msg=path
        )


@jax.custom_vjp
def rounded(x):
    return jnp.round(x)


rounded.defvjp(lambda x: (rounded(x), None), lambda _, cotangent: (cotangent,))


@pytest.mark.parametrize(
    "activation", [jax.nn.relu, jax.nn.relu6, jax.nn.silu, rounded, jax.checkpoint(jnp.tanh)]
)
def test_calls_keep_the_derivative_that_was_written_for_them(activation):
    # Relu of exactly 0, where its own derivative is 0 and the maximum's would be 1/2.
    params = {"a": jnp.array([[1.0, 2.0, 0.0, 9.5]]), "b": jnp.array([[1.0], [2.0], [3.0], [4.0]])}

    def apply(params, x):
        return activation(x @ params["a"]) @ params["b"]

    mask = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    mask = {"a": mask["a"].at[:, 1].set(False), "b": mask["b"].at[1].set(False)}
    compact_apply, smaller = compact(apply, params, jnp.ones((1, 1)), mask)
    assert smaller["a"].shape == (1, 3)
    x = jnp.array([[0.7], [-0.3]])
    dense = cut_out(jax.grad(lambda v: apply(v, x).sum())(pruning.apply(mask, params)), mask)
    got = jax.grad(lambda v: compact_apply(v, x).sum())(smaller)
    for name in params:
        np.testing.assert_allclose(got[name], dense[name], rtol=1e-6)


def test_products_with_the_hessian_pass_too():
    def apply(params, x):
        return jax.nn.silu(x @ params["a"]) @ params["b"]

    params = {"a": jnp.array([[1.0, 2.0, 0.5]]), "b": jnp.ones((3, 1))}
    mask = {"a": jnp.array([[True, False, True]]), "b": jnp.array([[True], [False], [True]])}
    compact_apply, smaller = compact(apply, params, jnp.ones((1, 1)), mask)
    ones = jax.tree.map(jnp.ones_like, smaller)

    def product(function):
        gradient = jax.grad(lambda v: function(v, jnp.ones((2, 1))).sum())
        return jax.jvp(gradient, (smaller,), (ones,))[1]

    for got, wanted in zip(
        *map(jax.tree.leaves, map(product, (compact_apply, apply))), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def conv(x, kernel, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, **options)


OFFSETS = np.linspace(-1, 1, 8, dtype=np.float32)[None, None, None]

OPERATIONS = {
    "depthwise": lambda x, v: conv(x, v["depth"]["kernel"], feature_group_count=8),
    "constant": lambda x, v: x * OFFSETS + jnp.arange(8.0)[None, None, None],
    "concatenate": lambda x, v: jnp.concatenate(
        [x, jnp.tanh(x)[..., ::-1], jnp.ones_like(x)], axis=-1
    ),
    "split": lambda x, v: jnp.concatenate([y + 1 for y in jnp.split(x, 4, axis=-1)], axis=-1),
    "slices": lambda x, v: lax.slice_in_dim(x, 1, 8, 3, axis=3) * lax.slice_in_dim(x, 2, 5, axis=3),
    "pad": lambda x, v: jnp.pad(
        x[:, ::2, 1::2], ((0, 0), (0, 0), (0, 0), (3, 1)), constant_values=2.0
    ),
    "flatten": lambda x, v: x[:, :2, :2].reshape(x.shape[0], 1, 1, -1),
    "transpose": lambda x, v: jnp.einsum("nhwc->chwn", x).squeeze().T.reshape(-1, 1, 1, 8)
    if x.shape[1] == 1
    else x.transpose(0, 2, 1, 3),
    "pool": lambda x, v: nn.avg_pool(nn.max_pool(x, (2, 2), (2, 2)), (2, 2)),
    "cast": lambda x, v: (
        jnp.where(x > 0, jnp.exp(x).astype(jnp.float16), 0).astype(jnp.float32) ** 2
    ),
    "softplus": lambda x, v: jax.nn.softplus(x) / (1 + jnp.abs(x)),
    "dynamic": lambda x, v: lax.dynamic_slice_in_dim(x, x.shape[0] - 1, 1, axis=0),
    "empty": lambda x, v: jnp.concatenate(
        [nn.max_pool(y, (2, 2)) for y in jnp.split(x, 8, 3)], axis=3
    ),
    "merge": lambda x, v: x.transpose(0, 3, 1, 2).reshape(-1, 32, 4).transpose(0, 2, 1)[:, None],
    "take": lambda x, v: jnp.take(x, jnp.array([0, 1, 0]), axis=1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::earlyprune_jax.pruning.PruningWarning")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_that_passes_channels_on_gives_the_masked_result(operation):
    def hidden(v, x):
        return OPERATIONS[operation](
            conv(x, v["a"]["kernel"]) + v["a"]["bias"][None, None, None], v
        )

    def apply(v, x):
        return jnp.tanh(hidden(v, x)).mean(axis=(1, 2)) @ v["c"]["kernel"]

    shapes = {"a": {"kernel": (3, 3, 3, 8), "bias": (8,)}, "depth": {"kernel": (3, 3, 1, 16)}}
    shapes = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )
    width = jax.eval_shape(hidden, shapes, images(2, 4)).shape[-1]
    variables = randomised(
        shapes | {"c": {"kernel": jax.ShapeDtypeStruct((width, 5), jnp.float32)}}
    )
    groups = channel_groups(apply, variables, images(2, 4))
    first = [group for group in groups.groups if any(s.path == "a/kernel" for s in group.outputs)]
    # Reversing ties channel c to 7 - c.
    assert (
        sum(len(s.indices) for group in first for s in group.outputs if s.path == "a/kernel") == 8
    )
    mask = channel_mask(
        jax.tree.map(np.abs, variables), groups, sparsity=0.6, layers="conv_kernels", min_kept=0
    )
    compact_apply, smaller = compact(apply, variables, images(2, 4), mask)
    assert smaller["a"]["kernel"].shape[-1] < 8
    assert num_weights(smaller) == num_left(mask)
    x = images(5, 4)
    assert_equal(jax.jit(compact_apply)(smaller, x), jax.jit(apply)(masked(mask, variables), x))


def shapes_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", ["resnet8", "preresnet8"])
def test_a_network_exported_with_a_symbolic_batch_equals_the_one_here_at_every_size(name):
    variables, apply = build(name, width_multiplier=0.5)
    groups = channel_groups(apply, variables, images())
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=0.5)
    compact_apply, smaller = compact(apply, variables, images(), mask)
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8, 8, 3"), jnp.float32)
    made = export.export(jax.jit(compact_apply))(shapes_of(smaller), x)
    # What writes the file is an extra of JAX.
    is_written = find_spec("flatbuffers") is not None
    exported = export.deserialize(made.serialize()) if is_written else made
    for size in (1, 2, 7, 48):
        wanted = apply(masked(mask, variables), images(size))
        assert_equal(exported.call(smaller, images(size)), wanted)
    assert num_weights(smaller) == num_left(mask)


SIZES_BY_NAME = {
    "flattened": lambda x: x.reshape(x.shape[0] * 16, -1).reshape(-1, 1, 16, x.shape[-1]),
    "mean_over_the_batch": lambda x: x - x.mean(axis=0, keepdims=True),
    "counted": lambda x: x * (1 + jnp.arange(x.shape[0]))[:, None, None, None] / x.shape[0],
    "doubled": lambda x: jnp.concatenate([x, jnp.zeros_like(x)])[: x.shape[0]],
    # Slices are gathers there.
    "halves": lambda x: x[..., :4] * jax.nn.sigmoid(x[..., 4:]),
    "strided": lambda x: x[..., 1::3],
    "reversed": lambda x: x[..., ::-1],
    "one_row": lambda x: x[:, 0][:, None],
    "one_channel": lambda x: x * x[..., :1] * x[..., 7, None],
}  # fmt: skip


@pytest.mark.parametrize("hidden", SIZES_BY_NAME.values(), ids=SIZES_BY_NAME)
def test_what_asks_for_the_batch_size_is_exported_with_a_symbolic_one(hidden):
    def apply(v, x):
        return jnp.tanh(hidden(conv(x, v["a"]))).mean(axis=(1, 2)) @ v["c"]

    width = jax.eval_shape(hidden, jnp.ones((2, 4, 4, 8))).shape[-1]
    rng = np.random.default_rng(3)
    variables = {"a": rng.normal(size=(3, 3, 3, 8)), "c": rng.normal(size=(width, 5))}
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)
    mask = pruning.full(variables)
    mask["a"] = mask["a"].at[..., jnp.array([1, 2, 5, 6])].set(False)
    compact_apply, smaller = compact(apply, variables, images(2, 4), mask)
    assert smaller["a"].shape[-1] < 8
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 4, 4, 3"), jnp.float32)
    exported = export.export(jax.jit(compact_apply))(shapes_of(smaller), x)
    for size in (1, 5):
        wanted = apply(masked(mask, variables), images(size, 4))
        assert_equal(exported.call(smaller, images(size, 4)), wanted)


def test_a_mask_of_the_parameters_alone_removes_the_same_channels():
    variables, apply = build("resnet8")
    mask = channel_mask(
        jax.tree.map(np.abs, variables), channel_groups(apply, variables, images()), sparsity=0.4
    )
    _, wanted = compact(apply, variables, images(), mask)
    _, smaller = compact(
        apply, variables, images(), mask | {"batch_stats": pruning.full(variables["batch_stats"])}
    )
    for left, other in zip(jax.tree.leaves(smaller), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(left, other)


TWO_LAYERS = {
    "a": jnp.array([[1.0, 2.0, 3.0]]),
    "bias": jnp.array([0.5, 0.5, 0.5]),
    "b": jnp.array([[1.0], [10.0], [100.0]]),
}


def two_layers(params, x):
    return jnp.maximum(x @ params["a"] + params["bias"][None], 0) @ params["b"]


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ({"a": [1], "bias": [1], "b": [1]}, 2),
        ({"a": [1], "bias": [1]}, 2),
        ({"b": [1]}, 2),
        ({"a": [1]}, 3),
        ({"bias": [1]}, 3),
        ({"a": [0, 2], "b": [1]}, 2),
        ({"a": [0, 1, 2], "bias": [0, 1, 2]}, 1),
        ({}, 3),
    ],
    ids=["whole", "producers", "readers", "bias_left", "weight_left", "mixed", "layer", "nothing"],
)
def test_a_channel_goes_only_if_nothing_can_show_it(removed, left):
    mask = {
        "a": jnp.array([[i not in removed.get("a", []) for i in range(3)]]),
        "bias": jnp.array([i not in removed.get("bias", []) for i in range(3)]),
        "b": jnp.array([[i not in removed.get("b", [])] for i in range(3)]),
    }
    compact_apply, smaller = compact(two_layers, TWO_LAYERS, jnp.ones((1, 1)), mask)
    assert smaller["bias"].shape == (left,)
    x = jnp.array([[1.0], [-2.0]])
    assert (
        compact_apply(smaller, x).tolist()
        == two_layers(pruning.apply(mask, TWO_LAYERS), x).tolist()
    )


def test_unstructured_masks_give_the_same_outputs_too():
    variables, apply = build("resnet8", width_multiplier=0.25)
    mask = jax.tree.map(lambda leaf: jnp.asarray(RNG.uniform(size=leaf.shape) > 0.5), variables)
    compact_apply, smaller = compact(apply, variables, images(), mask)
    wanted = jax.jit(apply)(masked(mask, variables), images())
    assert_equal(jax.jit(compact_apply)(smaller, images()), wanted)


def test_what_is_pinned_stays_whatever_the_mask():
    def apply(v, x):
        x = conv(x, v["a"]["kernel"])
        x = x - x.mean(axis=-1, keepdims=True)
        return (lax.sort(x, dimension=3)).mean(axis=(1, 2)) @ v["c"]["kernel"]

    shapes = {"a": {"kernel": (3, 3, 3, 4)}, "c": {"kernel": (4, 2)}}
    variables = randomised(
        jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
            shapes,
            is_leaf=lambda s: isinstance(s, tuple),
        )
    )
    mask = pruning.full(variables)
    mask["a"]["kernel"] = mask["a"]["kernel"].at[..., 1].set(False)
    mask["c"]["kernel"] = mask["c"]["kernel"].at[2].set(False)
    compact_apply, smaller = compact(apply, variables, images(), mask)
    assert num_weights(smaller) == num_weights(variables)
    wanted = jax.jit(apply)(masked(mask, variables), images())
    assert_equal(jax.jit(compact_apply)(smaller, images()), wanted)


class EquinoxNet(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    classifier: eqx.nn.Linear
    activation: Callable[[jax.Array], jax.Array]
    name: str

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 8, 3, key=keys[0])
        self.second = eqx.nn.Conv2d(8, 6, 3, key=keys[1])
        self.classifier = eqx.nn.Linear(6 * 16, 4, key=keys[2])
        self.activation = jax.nn.relu
        self.name = "net"

    def __call__(self, x):
        x = self.activation(self.second(self.activation(self.first(x))))
        return self.classifier(x.reshape(-1))


def test_an_equinox_module_with_functions_and_text_as_leaves():
    model, x = EquinoxNet(jax.random.key(0)), images().transpose(0, 3, 1, 2)

    def apply(model, x):
        return jax.vmap(model)(x)

    groups = channel_groups(apply, model, x)
    assert len(groups.groups) == 8 + 6
    mask = channel_mask(magnitude(model), groups, sparsity=0.5)
    compact_apply, smaller = compact(apply, model, x, mask)
    assert isinstance(smaller, EquinoxNet)
    assert smaller.first.weight.shape[0] + smaller.second.weight.shape[0] == 7
    assert smaller.classifier.weight.shape == (4, 16 * smaller.second.weight.shape[0])
    wanted = eqx.filter_jit(apply)(pruning.apply(mask, model), x)
    assert_equal(eqx.filter_jit(compact_apply)(smaller, x), wanted)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.classifier((x + self.second(x)).mean(axis=(1, 2)))


def test_an_nnx_module_as_a_pair_of_parameters_and_statistics():
    model = NNXNet(nnx.Rngs(0))
    model.eval()
    graph, params, stats = nnx.split(model, nnx.Param, ...)
    stats = jax.tree.map(lambda leaf: leaf + 0.5, stats)

    def apply(variables, x):
        return nnx.merge(graph, *variables)(x)

    variables = (params, stats)
    groups = channel_groups(apply, variables, images())
    # The addition ties the outputs of both convolutions.
    assert len(groups.groups) == 8
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=0.4)
    compact_apply, smaller = compact(apply, variables, images(), mask)
    assert num_weights(smaller) == num_left(mask)
    assert smaller[0]["second"]["kernel"].shape == (3, 3, 5, 5)
    wanted = jax.jit(apply)(masked(mask, variables), images())
    assert_equal(jax.jit(compact_apply)(smaller, images()), wanted)


CALL_IN_A_NEW_PROCESS = """
import pickle, sys
import numpy as np

with open(sys.argv[1], "rb") as file:
    compact_apply, smaller, x = pickle.load(file)
np.save(sys.argv[2], compact_apply(smaller, x))
"""


def test_a_pickled_compact_network_computes_the_same_in_another_process(tmp_path):
    model = models.build("resnet8", num_classes=10, width_multiplier=0.25)
    variables, _ = build("resnet8", width_multiplier=0.25)
    apply = functools.partial(model.apply, train=False)
    groups = channel_groups(apply, variables, images())
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=0.5)
    compact_apply, smaller = compact(apply, variables, images(), mask)
    file, answer = tmp_path / "network.pickle", tmp_path / "outputs.npy"
    file.write_bytes(pickle.dumps((compact_apply, smaller, images())))
    command = [sys.executable, "-c", CALL_IN_A_NEW_PROCESS, str(file), str(answer)]
    subprocess.run(command, check=True, timeout=300)
    assert_equal(np.load(answer), apply(masked(mask, variables), images()))


def batched(model, x):
    return jax.vmap(model)(x)


def test_the_function_of_a_compact_equinox_module_pickles():
    model, x = EquinoxNet(jax.random.key(0)), images().transpose(0, 3, 1, 2)
    mask = channel_mask(magnitude(model), channel_groups(batched, model, x), sparsity=0.5)
    compact_apply, smaller = compact(batched, model, x, mask)
    # Its activation, a leaf that does not pickle, is no part of the function.
    again = pickle.loads(pickle.dumps(compact_apply))
    np.testing.assert_array_equal(again(smaller, x), compact_apply(smaller, x))


def test_integer_leaves_and_bfloat16_pass_unchanged():
    params = {
        "w": jnp.ones((2, 3), jnp.bfloat16),
        "v": jnp.ones((3, 1), jnp.bfloat16),
        "steps": jnp.arange(2),
    }

    def apply(params, x):
        return {"out": (x @ params["w"]) @ params["v"], "steps": params["steps"]}

    mask = pruning.full(params)
    mask = mask | {"w": mask["w"].at[:, 0].set(False), "v": mask["v"].at[0].set(False)}
    compact_apply, smaller = compact(apply, params, jnp.ones((1, 2), jnp.bfloat16), mask)
    outputs = jax.jit(compact_apply)(smaller, jnp.ones((1, 2), jnp.bfloat16))
    assert (outputs["out"].dtype, outputs["out"].tolist()) == (jnp.bfloat16, [[4.0]])
    assert smaller["w"].dtype == jnp.bfloat16
    assert outputs["steps"].tolist() == smaller["steps"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": jnp.ones(4, bool)}, "shape of mask at bias=(4,) to be (3,)"),
        ({"bias": jnp.ones(3)}, "dtype of mask at bias='float32' to be bool"),
        ({"extra": jnp.ones(3, bool)}, "mask at='extra' not to be there"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_path(change, words):
    with pytest.raises(InvalidInput) as caught:
        compact(two_layers, TWO_LAYERS, jnp.ones((1, 1)), pruning.full(TWO_LAYERS) | change)
    assert words in str(caught.value)


def test_the_unpruned_variables_are_refused_by_the_compact_network():
    mask = {"a": jnp.array([[True, False, True]]), "bias": jnp.array([True, False, True])}
    mask["b"] = jnp.array([[True], [False], [True]])
    compact_apply, _ = compact(two_layers, TWO_LAYERS, jnp.ones((1, 1)), mask)
    with pytest.raises(InvalidInput, match=r"shape at bias=\(3,\) to be \(2,\)"):
        compact_apply(TWO_LAYERS, jnp.ones((1, 1)))
    with pytest.raises(InvalidInput, match="structure of variables"):
        compact_apply([1.0], jnp.ones((1, 1)))
