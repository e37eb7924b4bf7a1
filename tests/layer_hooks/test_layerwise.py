"""Layerwise per-example squares of every supported layer against vmapped gradients, and every
trap."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax import layer_hooks
from earlyprune_jax.models import forward

NUM_EXAMPLES, NUM_CLASSES = 5, 3

# Compiling takes longer than running here.
QUICK = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def images(*shape):
    return np.random.default_rng(0).standard_normal((NUM_EXAMPLES, *shape)).astype(np.float32)


TOKENS = np.random.default_rng(0).integers(0, 7, (NUM_EXAMPLES, 4)).astype(np.int32)


def pooled(x):
    """[B, ..., C] -> [B, C]"""
    return jnp.tanh(x.reshape(x.shape[0], -1, x.shape[-1])).mean(1)


class Network(nn.Module):
    """Some layers one after the other, then a dense layer without bias."""

    layers: Any

    @nn.compact
    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return nn.Dense(NUM_CLASSES, use_bias=False, name="head")(pooled(x))


class Branches(nn.Module):
    """Layers side by side, each with an input of its own."""

    layers: Any

    @nn.compact
    def __call__(self, inputs):
        features = [pooled(self.layers[name](inputs[name])) for name in self.layers]
        return nn.Dense(NUM_CLASSES, use_bias=False, name="head")(jnp.concatenate(features, axis=1))


def drawn(module, x):
    """Variables with no parameter at 0 or 1, variances positive."""
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = 0.5 * rng.standard_normal(leaf.shape)
        return jnp.asarray(np.abs(values) + 0.3 if path[-1].key == "var" else values, leaf.dtype)

    return jax.tree.map_with_path(draw, shapes)


def squares(module, x, given=None):
    """(path -> [B] by hooks, path -> [B] by vmap, notes)."""
    variables: Any = drawn(module, x) if given is None else given
    apply: Any = module.apply
    covered = layer_hooks.coverage(apply, variables, x)
    labels = jnp.arange(NUM_EXAMPLES) % NUM_CLASSES

    @QUICK
    def by_hooks(variables, x):
        logits, backward = layer_hooks.hooked_pass(apply, variables, x, covered)
        gradients = backward(jax.nn.one_hot(labels, NUM_CLASSES) - jax.nn.softmax(logits))
        return {index: gradient.squares() for index, gradient in gradients.items()}

    @QUICK
    def by_vmap(variables, x):
        def gradient(example, label):
            def log_prob(params):
                logits = apply(
                    {**variables, "params": params}, jax.tree.map(lambda leaf: leaf[None], example)
                )
                return jax.nn.log_softmax(logits)[0, label]

            return jax.grad(log_prob)(variables["params"])

        gradients = jax.vmap(gradient)(x, labels)
        return jax.tree.map(lambda g: jnp.sum(g**2, axis=tuple(range(1, g.ndim))), gradients)

    found, sums = by_hooks(variables, x), by_vmap(variables, x)
    names = ["/".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(sums)]
    wanted = dict(zip(names, jax.tree.leaves(sums), strict=True))
    return {names[index]: own for index, own in found.items()}, wanted, covered.notes


def agree(found, wanted):
    for name, own in found.items():
        np.testing.assert_allclose(own, wanted[name], rtol=1e-5, atol=1e-9, err_msg=name)


LAYERS = {
    "images": {
        "same": (nn.Conv(6, (3, 3)), (7, 6, 4)),
        "symmetric_stride": (nn.Conv(6, (3, 3), strides=2, padding=1), (8, 6, 4)),
        "valid_uneven_stride": (nn.Conv(6, (3, 2), strides=(2, 1), padding="VALID"), (7, 6, 4)),
        "listed_padding": (nn.Conv(6, (3, 2), strides=(3, 2), padding=[(0, 2), (1, 0)]), (8, 6, 4)),
        "negative_padding": (nn.Conv(6, (2, 2), padding=((-1, 0), (1, -1))), (7, 6, 4)),
        "kernel_dilation": (nn.Conv(6, (3, 3), kernel_dilation=(2, 1)), (9, 6, 4)),
        "input_dilation": (nn.Conv(6, (3, 3), padding=(1, 2), input_dilation=(2, 3)), (4, 3, 4)),
        "without_bias": (nn.Conv(6, (1, 1), use_bias=False, strides=2), (7, 6, 4)),
        "circular": (nn.Conv(6, (3, 3), padding="CIRCULAR", strides=2), (7, 6, 4)),
        "reflect": (nn.Conv(6, (3, 3), padding="REFLECT"), (7, 6, 4)),
    },
    "groups and other ranks": {
        "groups": (nn.Conv(6, (3, 3), feature_group_count=2), (7, 6, 4)),
        "depthwise": (nn.Conv(8, (3, 3), feature_group_count=4, strides=2), (7, 6, 4)),
        "few_positions": (nn.Conv(24, (3, 3), strides=4), (8, 8, 24)),
        "few_positions_groups": (nn.Conv(24, (3, 3), strides=4, feature_group_count=2), (8, 8, 24)),
        "one_position": (nn.Conv(6, (5, 5), padding="VALID"), (5, 5, 4)),
        "many_kernel_positions": (nn.Conv(5, (8, 8), strides=8, padding="VALID"), (16, 16, 2)),
        "plain_number": (nn.Conv(6, 4, strides=3), (11, 4)),
        "causal": (nn.Conv(6, (3,), padding="CAUSAL", kernel_dilation=2), (11, 4)),
        "volumes": (nn.Conv(5, (2, 3, 2), strides=(1, 2, 1)), (4, 5, 3, 3)),
        "extra_axes": (nn.Conv(6, (3, 3)), (2, 5, 4, 3)),
    },
    "products": {
        "dense": (nn.Dense(6), (4,)),
        "positions": (nn.Dense(6), (3, 2, 4)),
        "flat_product": (nn.Dense(6, dot_general=forward.flat_product), (3, 2, 4)),
        "more_positions_than_weights": (nn.Dense(2), (40, 3)),
        "general": (nn.DenseGeneral((2, 3)), (4, 5)),
        "general_axes": (nn.DenseGeneral((2, 3), axis=(-1, 1)), (3, 2, 4)),
        "general_all_axes": (nn.DenseGeneral(6, axis=(1, 2), use_bias=False), (3, 4)),
    },
    "norms": {
        "batch": (nn.BatchNorm(use_running_average=True), (3, 2, 4)),
        "batch_axis": (nn.BatchNorm(use_running_average=True, axis=1), (3, 2, 4)),
        "batch_scale_only": (nn.BatchNorm(use_running_average=True, use_bias=False), (4,)),
        "layer": (nn.LayerNorm(), (3, 4)),
        "layer_axes": (nn.LayerNorm(reduction_axes=(1, 2), feature_axes=(1, 3)), (3, 2, 4)),
        "layer_bias_only": (nn.LayerNorm(use_scale=False), (3, 4)),
        "root_mean_square": (nn.RMSNorm(), (3, 4)),
        "group": (nn.GroupNorm(num_groups=2), (3, 2, 4)),
    },
}


@pytest.mark.parametrize("group", LAYERS)
def test_squares_of_every_layer_are_those_of_vmapped_gradients(group):
    layers = {name: layer for name, (layer, _) in LAYERS[group].items()}
    inputs = {name: images(*shape) for name, (_, shape) in LAYERS[group].items()}
    found, wanted, notes = squares(Branches(layers), inputs)
    assert not notes
    assert found.keys() == wanted.keys()
    agree(found, wanted)


@pytest.mark.parametrize("num_embeddings", [7, 1])
def test_an_embedding_adds_the_positions_of_one_token_before_squaring(num_embeddings):
    tokens = np.array(
        [[0, 1, 1, 3], [2, 2, 2, 2], [6, 5, 0, -1], [0, 1, 2, 3], [4, 4, 5, 5]], np.int32
    )
    found, wanted, notes = squares(Network((nn.Embed(num_embeddings, 4),)), tokens)
    assert not notes
    agree(found, wanted)


class Tied(nn.Module):
    """An embedding that is looked up twice and attended to twice, or attended to only."""

    is_looked_up: bool = True
    is_used_elsewhere: bool = False

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(7, 4, name="table")
        x = nn.Embed(7, 4, name="other")(tokens)
        if self.is_looked_up:
            x = x * table(tokens) * table(tokens[:, ::-1])
        logits = table.attend(x) + table.attend(jnp.tanh(x))
        if self.is_used_elsewhere:
            logits = logits + table.embedding.sum()
        return nn.Dense(NUM_CLASSES, name="head")(pooled(logits))


@pytest.mark.parametrize("is_looked_up", [True, False])
def test_an_embedding_that_is_the_output_layer_too_is_hooked(is_looked_up):
    found, wanted, notes = squares(Tied(is_looked_up), TOKENS)
    assert not notes and found.keys() == wanted.keys()
    agree(found, wanted)


def test_an_embedding_whose_matrix_is_used_by_itself_is_left_to_vmap():
    found, wanted, notes = squares(Tied(is_used_elsewhere=True), TOKENS)
    assert notes == ("table (embedding) by vmap: its parameters are also used outside it",)
    assert found.keys() == wanted.keys() - {"table/embedding"}
    agree(found, wanted)


class Shared(nn.Module):
    """A convolution, a norm and a dense layer, each called twice at different sizes."""

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv(4, (3, 3), strides=2, name="conv")
        norm = nn.BatchNorm(use_running_average=True, name="norm")
        x = norm(conv(norm(conv(x))))
        dense = nn.Dense(4, name="dense")
        return nn.Dense(NUM_CLASSES, name="head")(dense(jnp.tanh(dense(x))).mean((1, 2)))


def test_gradients_of_a_layer_called_twice_add_up_before_squaring():
    found, wanted, notes = squares(Shared(), images(9, 8, 4))
    assert not notes
    assert found.keys() == wanted.keys()
    agree(found, wanted)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.Dense(x.shape[-1], name="dense")(jnp.tanh(nn.LayerNorm(name="norm")(x)))
        return (x, None) if _ is not None else x


class Lifted(nn.Module):
    """Blocks under the lifted transformations that carry every collection."""

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block)(name="rematerialised")
        x = block(block(x))
        x = nn.jit(Block)(name="compiled")(x)
        x = nn.jit(Block)(name="compiled_alike")(x)
        return nn.Dense(NUM_CLASSES, name="head")(pooled(x))


def test_layers_inside_remat_and_jit_are_hooked():
    found, wanted, notes = squares(Lifted(), images(3, 4))
    assert not notes
    assert found.keys() == wanted.keys()
    agree(found, wanted)


class Scanned(nn.Module):
    """Layers inside nn.scan and nn.vmap beside one outside."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="before")(x)
        scan = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        x, _ = scan(name="scanned")(x, jnp.zeros(2))
        lift: Any = nn.vmap
        heads = lift(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=1,
            axis_size=2,
        )
        x = heads(4, name="heads")(x)
        return nn.Dense(NUM_CLASSES, name="head")(pooled(x))


def test_layers_inside_scan_and_vmap_are_left_to_the_caller_with_a_note():
    found, wanted, notes = squares(Scanned(), images(3, 4))
    assert set(found) == {"before/kernel", "before/bias", "head/kernel", "head/bias"}
    assert sorted(note.split(" (")[0] for note in notes) == [
        "heads",
        "scanned/dense",
        "scanned/norm",
    ]
    assert all(
        "no call of a supported layer, outside nn.scan and nn.vmap, holds it" in note
        for note in notes
    )
    agree(found, wanted)


class Repeated(nn.Module):
    """A layer called once outside nn.scan and twice inside it, by parameters broadcast into it."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4, name="dense")
        scan = nn.scan(
            lambda layer, x, _: (jnp.tanh(layer(x)), None),
            variable_broadcast="params",
            split_rngs={"params": False},
            length=2,
        )
        x, _ = scan(dense, dense(x), jnp.zeros(2))
        return nn.Dense(NUM_CLASSES, name="head")(x)


def test_a_layer_called_inside_and_outside_scan_is_not_hooked():
    found, wanted, (note,) = squares(Repeated(), images(4))
    assert set(found) == {"head/kernel", "head/bias"}
    assert note == "dense (bias, kernel) by vmap: its parameters are also used outside it"
    agree(found, wanted)


def test_attention_is_covered_by_its_dense_layers():
    attention = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4)
    found, wanted, notes = squares(Network((attention,)), images(3, 4))
    assert not notes
    assert found.keys() == wanted.keys()
    agree(found, wanted)


class TiedByHand(nn.Module):
    """A dense layer whose kernel another product reads; a scale that a penalty on the logits
    reads."""

    @nn.compact
    def __call__(self, x):
        dense, norm = nn.Dense(4, name="dense"), nn.LayerNorm(name="norm")
        x = norm(dense(x))
        x = x @ dense.variables["params"]["kernel"].T
        logits = nn.Dense(NUM_CLASSES, name="head")(x)
        return logits * jnp.sum(norm.variables["params"]["scale"])


def test_parameters_used_outside_their_layer_are_not_hooked():
    found, _, notes = squares(TiedByHand(), images(4))
    assert set(found) == {"head/kernel", "head/bias"}
    assert notes == tuple(
        f"{name} ({leaves}) by vmap: its parameters are also used outside it"
        for name, leaves in (("dense", "bias, kernel"), ("norm", "bias, scale"))
    )


def half(tree):
    return jax.tree.map(lambda leaf: leaf / 2, tree)


class Normalised(nn.Module):
    """Kernels transformed before their layers see them."""

    @nn.compact
    def __call__(self, x):
        x = nn.WeightNorm(nn.Dense(4, name="dense"), name="weight_norm")(x)
        halved = nn.map_variables(nn.Dense, "params", half, init=self.is_initializing())
        return nn.Dense(NUM_CLASSES, name="head")(halved(4, name="halved")(x))


def test_parameters_transformed_before_their_layer_sees_them_are_not_hooked():
    found, wanted, notes = squares(Normalised(), images(4))
    assert set(found) == {"head/kernel", "head/bias"}
    assert len(notes) == len({name.rpartition("/")[0] for name in wanted}) - 1
    agree(found, wanted)


class Doubled(nn.Dense):
    """A subclass: what it does to its kernel is its own affair."""

    @nn.compact
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


class WithOwn(nn.Module):
    """A parameter of its own beside a layer."""

    @nn.compact
    def __call__(self, x):
        gain = self.param("gain", nn.initializers.ones, (1,))
        return nn.Dense(NUM_CLASSES, name="dense")(jnp.square(gain)[:, None] * x)


def test_subclasses_and_parameters_outside_layers_are_not_hooked():
    found, wanted, notes = squares(Network((Doubled(4), WithOwn())), images(4))
    assert set(found) == {"layers_1/dense/kernel", "layers_1/dense/bias", "head/kernel"}
    assert [note.split(" by")[0] for note in notes] == [
        "layers_0 (bias, kernel)",
        "layers_1 (gain)",
    ]
    agree(found, wanted)


def own_promotion(*arrays, dtype=None, inexact=True):
    return list(arrays)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            nn.Conv(2, (3,), mask=np.ones((3, 4, 2), np.float32)),
            (5, 4),
            "its attribute mask is set",
        ),
        (nn.Dense(2, dot_general=jax.lax.dot_general), (4,), "its attribute dot_general is set"),
        (nn.Dense(2, promote_dtype=own_promotion), (4,), "promote_dtype of its own"),
        (nn.ConvTranspose(2, (3,)), (5, 4), "no call of a supported layer"),
    ],
)
def test_options_that_no_rule_knows_are_not_hooked(layer, shape, words):
    found, wanted, (note,) = squares(Network((layer,)), images(*shape))
    assert set(found) == {"head/kernel"}
    assert words in note
    agree(found, wanted)


class Transposed(nn.Module):
    """A layer that has the examples along axis 1, where there are as many steps as examples."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="steps_first")(x.swapaxes(0, 1)).swapaxes(0, 1)
        x = nn.Dense(4, name="merged")(x.reshape(-1, 4)).reshape(x.shape)
        position = nn.Embed(NUM_EXAMPLES, 4, name="positions")(jnp.arange(x.shape[1]))
        return nn.Dense(NUM_CLASSES, name="head")(pooled(x + position[None]))


def test_layers_whose_batch_axis_is_not_axis_0_are_not_hooked():
    found, wanted, notes = squares(Transposed(), images(NUM_EXAMPLES, 4))
    assert set(found) == {"head/kernel", "head/bias"}
    assert all("has not the examples along axis 0 alone" in note for note in notes)
    assert len(notes) == 3
    agree(found, wanted)


class Reaching(nn.Module):
    """A layer that a branch of nn.cond reaches past the transformation."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="before")(x)
        reached, head = nn.Dense(4, name="reached"), nn.Dense(NUM_CLASSES, name="head")
        if self.is_initializing():
            return head(reached(x))
        return head(nn.cond(True, lambda _, x: reached(x), lambda _, x: x, self, x))


def test_layers_reached_past_nn_cond_are_not_hooked():
    found, wanted, (note,) = squares(Reaching(), images(4))
    assert set(found) == {"before/kernel", "before/bias", "head/kernel", "head/bias"}
    assert "reached (bias, kernel) by vmap: it is called where its variables do not reach" in note
    agree(found, wanted)


class Doubling(nn.Module):
    """Doubles what its dense layers put out, by an interceptor of its own."""

    @nn.compact
    def __call__(self, x):
        def double(next_call, args, kwargs, context):
            return 2 * next_call(*args, **kwargs)

        with nn.intercept_methods(double):
            x = nn.Dense(4, name="inner")(x)
        return nn.Dense(NUM_CLASSES, name="head")(jnp.tanh(x))


class Differentiating(nn.Module):
    """Puts a layer's derivative into what it computes."""

    @nn.compact
    def __call__(self, x):
        y, backward = nn.vjp(lambda module, x: jnp.tanh(module(x)), nn.Dense(4, name="inner"), x)
        return nn.Dense(NUM_CLASSES, name="head")(backward(jnp.ones_like(y))[1] + y)


def test_layers_that_something_of_the_networks_own_surrounds_are_not_hooked():
    for network, words in (
        (Doubling(), "interceptor of the network's own"),
        (Differentiating(), "inside a transformation of the network's own"),
    ):
        found, wanted, (note,) = squares(network, images(4))
        assert set(found) == {"head/kernel", "head/bias"}
        assert note.startswith("inner")
        assert words in note
        agree(found, wanted)


class OwnBackward(nn.Module):
    """A layer whose backward pass is given."""

    @nn.compact
    def __call__(self, x):
        def run(module, x):
            return module(x)

        def forward(module, x):
            return nn.vjp(run, module, x)

        def backward(pullback, cotangent):
            return pullback(cotangent)

        wrapped = nn.custom_vjp(run, forward_fn=forward, backward_fn=backward)
        return nn.Dense(NUM_CLASSES, name="head")(wrapped(nn.Dense(4, name="inner"), x))


def test_a_network_with_a_backward_pass_of_its_own_is_not_hooked():
    module, x = OwnBackward(), images(4)
    variables = module.init(jax.random.key(0), x)
    covered = layer_hooks.coverage(module.apply, variables, x)
    assert not covered.hooks
    assert all("jax.custom_vjp" in note for note in covered.notes)


def test_norms_over_the_batch_axis_are_not_hooked():
    found, _, notes = squares(Network([nn.LayerNorm(reduction_axes=(0, 1))]), images(4))
    assert set(found) == {"head/kernel"}
    assert "it normalises over the batch axis" in notes[0]


class Uneven(nn.Module):
    """A layer made in one branch of nn.cond: only that branch has records."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(NUM_CLASSES, name="dense")(x)

        def branch(module, x):
            return nn.Dense(NUM_CLASSES, name="inside")(x)

        if self.is_initializing():
            return branch(self, x)
        return nn.cond(True, branch, lambda module, x: x, self, x)


def test_a_network_that_cannot_be_hooked_is_left_whole_with_what_was_wrong():
    found, _, notes = squares(Uneven(), images(4))
    assert not found
    assert [note.split(":")[0] for note in notes] == [
        "dense (bias, kernel) by vmap",
        "inside (bias, kernel) by vmap",
    ]
    assert all("the network cannot be hooked (" in note for note in notes)


class HalfPrecision(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), dtype=self.dtype, name="conv")(x)
        x = pooled(nn.LayerNorm(dtype=self.dtype, name="norm")(x)).astype(jnp.float32)
        return nn.Dense(NUM_CLASSES, name="head")(x)


def test_bfloat16_layers_are_accumulated_in_float32():
    x = images(32, 32, 4)
    variables = drawn(HalfPrecision(jnp.float32), x)
    found, _, notes = squares(HalfPrecision(jnp.bfloat16), x, variables)
    _, wanted, _ = squares(HalfPrecision(jnp.float32), x, variables)
    assert not notes
    for name, own in found.items():
        assert own.dtype == jnp.float32
        # Sums over 1,024 positions, of terms rounded to 8 bits; added up in 8 bits they are off by
        # half.
        np.testing.assert_allclose(own, wanted[name], rtol=0.05, err_msg=name)


def test_partitioned_parameters_are_found_in_their_boxes():
    boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    module = nn.Dense(NUM_CLASSES, kernel_init=boxed)
    variables = module.init(jax.random.key(0), images(4))
    covered = layer_hooks.coverage(module.apply, variables, images(4))  # type: ignore
    assert covered.places == {0, 1}
