"""Which axes of a kernel are inputs and outputs is held against the layer's own derivative."""

import itertools
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from earlyprune_jax import pruning, signals
from earlyprune_jax.pruning import layouts
from earlyprune_jax.pruning.layouts import find, told_by
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(0)
IMAGES, WORDS, HEADS = (2, 4, 5, 3), (2, 5, 6), (2, 5, 2, 3)
EINSUMS = {
    "...d,dhk->...hk": ((6, 2, 4), WORDS, 1, 2),
    "...hk,hkd->...d": ((2, 3, 4), HEADS, 2, 1),
    "...hk,hdk->...d": ((2, 4, 3), HEADS, 2, 1),
    "...d,hdk->...hk": ((2, 6, 4), WORDS, 1, 2),
}


def linen_layers(bias):
    options = {"use_bias": bias}
    two = {"features": 4, "axis": (-2, -1)}
    layers = {
        "Dense": (nn.Dense(4, **options), WORDS, 1, 1),
        "DenseGeneral out": (nn.DenseGeneral((2, 4), **options), WORDS, 1, 2),
        "DenseGeneral in": (nn.DenseGeneral(**two, **options), HEADS, 2, 1),
        "Conv1d": (nn.Conv(4, (3,), **options), WORDS, 1, 1),
        "Conv2d": (nn.Conv(4, (3, 2), **options), IMAGES, 1, 1),
        "ConvTranspose": (nn.ConvTranspose(4, (2, 2), **options), IMAGES, 1, 1),
        "transposed kernel": (
            nn.ConvTranspose(4, (2, 2), transpose_kernel=True, **options), IMAGES, 1, 1
        ),
    }  # fmt: skip
    layers |= {
        text: (nn.Einsum(shape, text, **options), *rest) for text, (shape, *rest) in EINSUMS.items()
    }
    return layers


def nnx_layers(bias):
    options = {"use_bias": bias, "rngs": nnx.Rngs(0)}
    layers = {
        "Linear": (nnx.Linear(6, 4, **options), WORDS, 1, 1),
        "LinearGeneral out": (nnx.LinearGeneral(6, (2, 4), **options), WORDS, 1, 2),
        "LinearGeneral in": (
            nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), **options), HEADS, 2, 1
        ),
        "Conv2d": (nnx.Conv(3, 4, (3, 2), **options), IMAGES, 1, 1),
        "transposed kernel": (
            nnx.ConvTranspose(3, 4, (2, 2), transpose_kernel=True, **options), IMAGES, 1, 1
        ),
    }  # fmt: skip
    rngs = nnx.Rngs(0)
    return layers | {
        text: (nnx.Einsum(text, shape, rngs=rngs), *rest)
        for text, (shape, *rest) in EINSUMS.items()
    }


def equinox_layers():
    return {
        "Linear": (eqx.nn.Linear(6, 4, key=KEY), (6,)),
        "Conv2d": (eqx.nn.Conv2d(3, 4, (3, 2), key=KEY), (3, 4, 5)),
        "ConvTranspose2d": (eqx.nn.ConvTranspose2d(3, 4, (3, 2), key=KEY), (3, 4, 5)),
    }


def check_against_derivative(apply, kernel, layout, x, num_in, num_out, *, first=False):
    """A kernel entry that meets an input feature, or makes an output feature, has its index.

    Features are the last axes of inputs and outputs; `first`: the first one.
    """
    jacobian = jax.jit(jax.jacobian(apply))
    sizes = x.shape[:num_in] if first else x.shape[x.ndim - num_in :]
    for index in itertools.product(*map(range, sizes)):
        at = index if first else (..., *index)
        met = np.asarray(jacobian(kernel, jnp.zeros_like(x).at[at].set(x[at]))) != 0
        entries = np.argwhere(met.any(axis=tuple(range(met.ndim - kernel.ndim))))
        assert {tuple(entry[list(layout.inputs)]) for entry in entries} == {index}
    made = np.asarray(jacobian(kernel, x)) != 0
    num_axes = made.ndim - kernel.ndim
    places = range(num_out) if first else range(num_axes - num_out, num_axes)
    made = np.moveaxis(made, places, range(num_out))
    for index in itertools.product(*map(range, made.shape[:num_out])):
        others = tuple(range(num_axes - num_out))
        entries = np.argwhere(made[index].any(axis=others))
        assert {tuple(entry[list(layout.outputs)]) for entry in entries} == {index}
    rest = set(range(kernel.ndim)) - {*layout.inputs, *layout.outputs}
    assert rest == set(layout.spatial)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", linen_layers(bias=True))
def test_linen_layers_say_which_axes_are_inputs_and_outputs(name, bias):
    layer, shape, num_in, num_out = linen_layers(bias)[name]
    x = 1 + jax.random.uniform(KEY, shape)
    params = layer.init(KEY, x)["params"]
    layout = find(params, told_by(layer, KEY, x))["kernel"]
    apply = lambda kernel, x: layer.apply({"params": params | {"kernel": kernel}}, x)  # noqa: E731
    check_against_derivative(apply, params["kernel"], layout, x, num_in, num_out)


@pytest.mark.parametrize("name", nnx_layers(bias=True))
def test_nnx_layers_say_it_of_themselves_and_of_their_state(name):
    layer, shape, num_in, num_out = nnx_layers(bias=False)[name]
    x = 1 + jax.random.uniform(KEY, shape)
    graph, state, rest = nnx.split(layer, nnx.Param, ...)
    layout = find(state, told_by(layer))["kernel"]
    (own,) = (kind for path, kind in find(layer).items() if path.startswith("kernel"))
    assert own == layout

    def with_kernel(kernel, x):
        module = nnx.merge(graph, state, rest)
        module.kernel = nnx.Param(kernel)
        return module(x)

    check_against_derivative(with_kernel, layer.kernel[...], layout, x, num_in, num_out)


@pytest.mark.parametrize("name", equinox_layers())
def test_equinox_layers_say_it_of_themselves(name):
    layer, shape = equinox_layers()[name]
    x = 1 + jax.random.uniform(KEY, shape)
    apply = lambda w, x: eqx.tree_at(lambda m: m.weight, layer, w)(x)  # noqa: E731
    check_against_derivative(apply, layer.weight, find(layer)["weight"], x, 1, 1, first=True)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(6, use_bias=False, name="b")(x), None


class Deep(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=5
        )
        return scan(name="blocks")(x, None)[0]


@pytest.mark.parametrize(("axis", "letters"), [(0, "SIO"), (1, "ISO"), (2, "IOS")])
def test_scanned_layers_without_a_bias_are_stacks_along_the_axis_of_the_scan(axis, letters):
    x = jnp.ones((2, 6))
    params = Deep(axis).init(KEY, x)["params"]
    assert find(params)["blocks/b/kernel"].is_guess
    layout = find(params, told_by(Deep(axis), KEY, x))["blocks/b/kernel"]
    assert (str(layout), layout.is_guess) == (letters, False)
    # Five matrices, cut by hand, have the pooled spectrum that random_distance looks at.
    kernel = np.asarray(params["blocks"]["b"]["kernel"])
    np.testing.assert_array_equal(layout.matrices(kernel), np.moveaxis(kernel, axis, 0))


class Attention(nn.Module):
    use_bias: bool

    @nn.compact
    def __call__(self, x, _=None):
        options = {"num_heads": 2, "qkv_features": 8, "use_bias": self.use_bias}
        return nn.MultiHeadDotProductAttention(**options)(x), None


def scanned(module, length, axis):
    split = {"variable_axes": {"params": axis}, "split_rngs": {"params": True}}
    return nn.scan(module, length=length, **split)


def filled(shapes):
    """A tree of these shapes, with numbers of few strong directions."""
    rng = np.random.default_rng(3)

    def fill(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) ** 5, jnp.float32)

    return jax.tree.map(fill, shapes)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("length", "axis"), [(3, 0), (3, 1), (2, 0), (2, 1)])
def test_scanned_attention_is_a_stack_of_matrices_of_all_heads(length, axis, use_bias):
    network, x = scanned(Attention, length, axis)(use_bias), jnp.ones((2, 3, 6))
    params = filled(jax.eval_shape(network.init, KEY, x, None)["params"])
    told, by_path = find(params, told_by(network, KEY, x, None)), find(params)
    for path, leaf in named_leaves(params):
        if path.endswith("kernel"):
            # By hand, also with as many layers as there are heads: 2.
            sides = (8, 6) if "/out/" in path else (6, 8)
            wanted = np.moveaxis(leaf, axis, 0).reshape(length, *sides)
            assert not told[path].is_guess
            np.testing.assert_array_equal(told[path].matrices(leaf), wanted)
            # Without the module it is the same, or said to be a guess.
            if not by_path[path].is_guess:
                np.testing.assert_array_equal(by_path[path].matrices(leaf), wanted)
    assert pruning.exclusions(params, "conv_kernels").keys() >= told.keys()


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return scanned(Block, 3, 0)(name="inner")(x, None)[0], None


def ensemble(layer, axis, **options):
    """Five NNX layers along an axis of their kernels, and five by themselves."""
    keys = jax.random.split(KEY, 5)
    make = lambda key: layer(**options, rngs=nnx.Rngs(key))  # noqa: E731
    axes = nnx.StateAxes({nnx.Param: axis, ...: 0})
    return nnx.vmap(make, in_axes=0, out_axes=axes)(keys), [make(key).kernel[...] for key in keys]


DENSE = {"in_features": 6, "out_features": 8}
CONV = {"in_features": 3, "out_features": 8, "kernel_size": (3, 3), "use_bias": False}


@pytest.mark.parametrize(
    ("layer", "options", "axis", "letters"),
    [
        (nnx.Linear, DENSE, 0, "SIO"),
        (nnx.Linear, DENSE, 1, "ISO"),
        (nnx.Conv, CONV, 0, "SHWIO"),
        (nnx.Conv, CONV, 1, "HSWIO"),
        (nnx.LinearGeneral, DENSE | {"batch_axis": {0: 2}}, 1, "SSIO"),
    ],
)
def test_nnx_layers_stacked_along_any_axis_are_their_own_matrices(layer, options, axis, letters):
    stacked, single = ensemble(layer, axis, **options)
    state = nnx.state(stacked, nnx.Param)
    layout = find(state, told_by(stacked))["kernel"]
    (own,) = (kind for path, kind in find(stacked).items() if path.startswith("kernel"))
    assert own == layout == layouts.Layout(letters)
    sides = single[0].shape[-2:]
    wanted = sorted(np.concatenate([kernel.reshape(-1, *sides) for kernel in single]).tolist())
    assert sorted(np.asarray(layout.matrices(stacked.kernel[...])).tolist()) == wanted


@pytest.mark.parametrize(("axis", "letters"), [(0, "SOI"), (1, "OSI"), (-1, "OIS")])
def test_equinox_layers_stacked_along_any_axis_are_their_own_matrices(axis, letters):
    keys = jax.random.split(KEY, 5)
    make = lambda key: eqx.nn.Linear(3, 4, key=key)  # noqa: E731
    stacked = eqx.filter_vmap(make, out_axes=axis)(keys)
    assert list(told_by(stacked).values()) == [letters]
    layout = find(stacked, told_by(stacked))["weight"]
    assert find(stacked)["weight"] == layout
    wanted = np.stack([make(key).weight.T for key in keys])
    np.testing.assert_array_equal(layout.matrices(stacked.weight), wanted)


def test_scans_within_scans_are_told_axis_by_axis():
    network, x = scanned(Nested, 5, 1)(), jnp.ones((2, 6))
    params = filled(jax.eval_shape(network.init, KEY, x, None)["params"])
    ((path, layout),) = find(params, told_by(network, KEY, x, None)).items()
    assert (path, str(layout)) == ("inner/b/kernel", "SSIO")
    kernel = np.asarray(params["inner"]["b"]["kernel"])
    np.testing.assert_array_equal(layout.matrices(kernel), kernel.reshape(15, 6, 6))


def test_an_einsum_that_sums_nothing_says_nothing():
    scale = nnx.Einsum("...hd,hd->...hd", (6, 2), rngs=nnx.Rngs(0))
    assert told_by(scale) == {}
    assert str(find(nnx.state(scale))["kernel"]) == "IO"


def test_tied_nnx_layers_are_told_by_the_path_that_the_state_has():
    class Tied(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.b = self.a

    told = told_by(Tied())
    assert {path: str(kind) for path, kind in find(nnx.state(Tied(), nnx.Param), told).items()} == {
        "a/bias": "", "a/kernel": "IO"
    }  # fmt: skip


def test_axes_of_one_size_that_no_other_leaf_tells_apart_stay_a_guess():
    network, x = scanned(Block, 6, 1)(), jnp.ones((2, 6))
    params = filled(jax.eval_shape(network.init, KEY, x, None)["params"])
    told = told_by(network, KEY, x, None)
    assert list(told.values()) == ["SIO?"]
    with pytest.warns(pruning.PruningWarning, match="are a guess: others would fit"):
        signals.random_distance(params, key=KEY, layouts=told)
    signals.random_distance(params, key=KEY, layouts={"kernel": "ISO", **told})


def test_layers_of_a_stack_that_have_no_bias_are_a_guess_without_their_module():
    class Cells(nn.Module):
        @nn.compact
        def __call__(self, x):
            split = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            axes: Any = ((None, None), None)
            cells = nn.vmap(nn.LSTMCell, axis_size=3, in_axes=axes, **split)(4)
            return cells((jnp.ones((2, 4)), jnp.ones((2, 4))), x)

    x = jnp.ones((2, 6))
    params = jax.eval_shape(Cells().init, KEY, x)["params"]
    kinds = {str(kind) for path, kind in find(params).items() if path.endswith("kernel")}
    assert kinds == {"SIO", "WIO?"}
    assert set(told_by(Cells(), KEY, x).values()) == {"SIO"}


def test_recurrent_weights_of_equinox_are_kernels_out_in():
    for cell in (eqx.nn.LSTMCell(6, 4, key=KEY), eqx.nn.GRUCell(6, 4, key=KEY)):
        found = find(cell)
        assert {path: str(found[path]) for path in ("weight_ih", "weight_hh")} == {
            "weight_ih": "OI", "weight_hh": "OI"
        }  # fmt: skip
        mask = pruning.prune(
            cell, sparsity=0.5, scope="local", pattern=pruning.NM(1, 2), layers="dense_kernels"
        )
        # By hand: of two weights beside each other along the input, the last axis, the larger.
        pairs = np.abs(np.asarray(cell.weight_ih)).reshape(-1, 2)
        wanted = pairs == pairs.max(axis=1, keepdims=True)
        np.testing.assert_array_equal(np.asarray(mask.weight_ih).reshape(-1, 2), wanted)


@pytest.mark.parametrize(
    ("shapes", "letters"),
    [
        ({"weight": (4, 6), "bias": (4,)}, "OI"),
        ({"weight": (6, 4), "bias": (4,)}, "IO"),
        ({"weight": (4, 6, 3, 3), "bias": (4,)}, "OIHW"),
        ({"weight": (6, 4, 3, 3), "bias": (4,)}, "IOHW"),
        ({"weight": (3, 3, 6, 4), "bias": (4,)}, "HWIO"),
        ({"weight": (5, 4, 6), "bias": (5, 4)}, "SOI"),
        ({"kernel": (3, 3, 4, 6), "bias": (4,)}, "HWOI"),
        ({"kernel": (6, 5, 4), "bias": (4, 5)}, "ISO"),
        ({"kernel": (5, 3, 6, 4), "bias": (5, 3, 4)}, "SSIO"),
        ({"kernel": (3, 3, 3, 4, 8), "bias": (3, 8)}, "SHWIO"),
        ({"weight_ih_l0": (16, 6), "weight_hh_l0": (16, 4)}, "OI"),
        ({"in_proj_weight": (18, 6)}, "OI"),
    ],
)
def test_a_bias_tells_which_axis_is_the_output(shapes, letters):
    tree = {"layer": {name: jnp.ones(shape) for name, shape in shapes.items()}}
    kinds = {str(kind) for path, kind in find(tree).items() if not path.endswith("bias")}
    assert kinds == {letters}


@pytest.mark.parametrize(
    ("layer", "kind"),
    [("emb", "embedding"), ("word_embeddings", "embedding"), ("wpe", "embedding"),
     ("ln_f", "norm"), ("input_layernorm", "norm"), ("q_norm", "norm"), ("member", "OI"),
     ("embed_tokens", "embedding"),
     ("embed_proj", "OI"), ("patch_embed", "OI"), ("prenorm_mlp", "OI"), ("lnear", "OI")],
)  # fmt: skip
def test_names_of_pytorch_models_tell_embeddings_and_norms(layer, kind):
    assert str(find({layer: {"weight": jnp.ones((7, 4))}})[f"{layer}/weight"]) == kind


@pytest.mark.parametrize(
    ("layer", "shapes", "letters"),
    [
        ("mix", {"kernel": (4, 8, 4, 8), "bias": (4, 8)}, "NINO?"),
        ("ens", {"kernel": (10, 10, 8), "bias": (10, 8)}, "INO?"),
        ("out", {"kernel": (12, 4, 16, 64)}, "HWIO?"),
        ("qkv", {"kernel": (64, 3, 4, 16)}, "HWIO?"),
        ("proj", {"kernel": (12, 4, 16, 64)}, "HWIO?"),
        ("convs", {"kernel": (3, 5, 3, 3, 8)}, "DHWIO?"),
        ("conv", {"w": (16, 8, 3, 3)}, "HWIO?"),
        ("moe", {"w_in": (10, 10, 8)}, "WIO?"),
    ],
)
def test_what_more_than_one_reading_fits_is_a_guess_and_no_convolution(layer, shapes, letters):
    params = {layer: filled({name: jnp.ones(shape) for name, shape in shapes.items()})}
    path = f"{layer}/{next(iter(shapes))}"
    assert str(find(params)[path]) == letters
    assert path in pruning.exclusions(params, "conv_kernels")
    chosen = f"regex:{path}"
    account = pruning.ledger(params, pruning.full(params), layers=chosen)
    assert letters in {row.layout for row in account.rows}
    with pytest.warns(pruning.PruningWarning, match=f"The axes of {path} .* are a guess"):
        signals.random_distance(params, key=KEY, num_permutations=1, layers=chosen)


def test_a_guess_is_shown_and_warned_of_where_a_result_depends_on_it():
    params = {"mix": {"kernel": jax.random.normal(KEY, (5, 2, 8))}}
    assert str(find(params)["mix/kernel"]) == "WIO?"
    assert (
        pruning.ledger(params, pruning.full(params), layers="all_kernels").rows[0].layout == "WIO?"
    )
    options = {"sparsity": 0.5, "layers": "all_kernels"}
    fours = options | {"scope": "local", "pattern": pruning.NM(1, 2)}
    wide = {"mix": {"kernel": jax.random.normal(KEY, (4, 2, 8))}}
    with_conv = params | {"conv": {"kernel": jnp.ones((3, 3, 2, 8))}}
    for call in (
        lambda layouts: pruning.select(with_conv, "conv_kernels", layouts)["mix"]["kernel"],
        lambda layouts: pruning.prune(params, **options, scope="erk", layouts=layouts),
        lambda layouts: pruning.prune(wide, **fours, layouts=layouts),
        lambda layouts: signals.random_distance(params, key=KEY, layouts=layouts),
    ):
        with pytest.warns(pruning.PruningWarning, match="are a guess: others would fit"):
            assert call(None) is not True
        assert call({"mix": "WIO"}) is not False
    # A global ranking does not ask what axes mean.
    pruning.prune(params, **options)
    with pytest.raises(InvalidInput, match=r"may be no convolution \(WIO\?\), `layouts` can say"):
        pruning.select(params, "conv_kernels")


def test_what_is_no_module_is_refused():
    with pytest.raises(InvalidInput, match="to be a module of Linen, NNX or Equinox"):
        layouts.told_by({"kernel": jnp.ones((2, 2))})
