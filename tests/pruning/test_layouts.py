"""What leaves and axes are, in every library's layout: the same kernel gives the same answers."""

import dataclasses
import re
import zlib

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from earlyprune_jax import pruning, signals
from earlyprune_jax.pruning import layouts
from earlyprune_jax.pruning.allocation.allocate import prunable_shapes
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(0)
HWIO, IO = (3, 3, 16, 24), (40, 32)
# Trained kernels are not random: a few strong directions give a distance far from the noise floor.
CONV = np.random.default_rng(0).normal(size=HWIO) * np.arange(1, 17)[:, None] ** 2
DENSE = np.random.default_rng(1).normal(size=IO) * np.arange(1, 33)


def linen(dtype):
    return {
        "conv": {"kernel": jnp.asarray(CONV, dtype), "bias": jnp.zeros(24)},
        "head": {"kernel": jnp.asarray(DENSE, dtype), "bias": jnp.zeros(32)},
    }


class Net(nnx.Module):
    def __init__(self, dtype):
        self.conv = nnx.Conv(16, 24, (3, 3), rngs=nnx.Rngs(0))
        self.head = nnx.Linear(40, 32, rngs=nnx.Rngs(0))
        self.conv.kernel = nnx.Param(jnp.asarray(CONV, dtype))
        self.head.kernel = nnx.Param(jnp.asarray(DENSE, dtype))


def equinox(dtype):
    conv, head = eqx.nn.Conv2d(16, 24, 3, key=KEY), eqx.nn.Linear(40, 32, key=KEY)
    return {
        "conv": eqx.tree_at(
            lambda m: m.weight, conv, jnp.asarray(CONV, dtype).transpose(3, 2, 0, 1)
        ),
        "head": eqx.tree_at(lambda m: m.weight, head, jnp.asarray(DENSE, dtype).T),
    }


def torch_like(dtype):
    return {
        "conv": {"weight": jnp.asarray(CONV, dtype).transpose(3, 2, 0, 1)},
        "head": {"weight": jnp.asarray(DENSE, dtype).T},
    }


LIBRARIES = {
    "linen": linen,
    "nnx state": lambda dtype: nnx.state(Net(dtype), nnx.Param),
    "nnx module": Net,
    "equinox": equinox,
    "plain": torch_like,
}
every_library = pytest.mark.parametrize("library", LIBRARIES)
every_type = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


def as_in_linen(tree, library):
    """The conv and the head kernel of a tree, transposed by hand to [*spatial, in, out]."""
    by_layer = {
        name.split("/")[0]: np.asarray(leaf) for name, leaf in named_leaves(tree) if leaf.ndim > 1
        and "bias" not in name
    }  # fmt: skip
    if library in ("equinox", "plain"):
        return by_layer["conv"].transpose(2, 3, 1, 0), by_layer["head"].T
    return by_layer["conv"], by_layer["head"]


def distance_of_matrices(stack, path, dtype):
    """random_distance by NumPy alone, from matrices [positions, in, out] cut by hand."""

    def spectrum(matrices):
        values = np.linalg.svd(matrices.astype(np.float64), compute_uv=False) ** 2
        return np.sort(values, axis=None) / values.sum()

    words = np.asarray(jax.random.key_data(KEY)).tolist()
    generator = np.random.default_rng([*words, zlib.crc32(path.encode()), 0])
    stack = np.asarray(jnp.asarray(stack, dtype).astype(jnp.float32))
    flat = stack.reshape(len(stack), -1)
    p, q = spectrum(stack), spectrum(generator.permuted(flat, axis=1).reshape(stack.shape))
    middle = (p + q) / 2
    return np.sqrt((p * np.log(p / middle)).sum() / 2 + (q * np.log(q / middle)).sum() / 2)


def same_in_linen(measured, dtype):
    """The result for the Linen tree, under the paths of another."""
    wanted = signals.random_distance(linen(dtype), key=KEY, num_permutations=1)
    values = dict(zip(measured.per_layer, wanted.per_layer.values(), strict=True))
    return dataclasses.replace(
        wanted, per_layer=values, per_layer_spread=dict.fromkeys(values), skipped={}
    )


@every_type
@every_library
def test_random_distance_is_that_of_the_matrices_in_and_out(library, dtype):
    tree = LIBRARIES[library](dtype)
    measured = signals.random_distance(tree, key=KEY, num_permutations=1)
    wanted = [
        distance_of_matrices(CONV.reshape(9, 16, 24), "conv/kernel", dtype),
        distance_of_matrices(DENSE[None], "head/kernel", dtype),
    ]
    assert [path.split("/")[0] for path in measured.per_layer] == ["conv", "head"]
    assert measured == same_in_linen(measured, dtype)
    np.testing.assert_allclose(list(measured.per_layer.values()), wanted, atol=2e-5)


@every_type
@every_library
def test_masks_are_the_same_mask_transposed(library, dtype):
    tree = LIBRARIES[library](dtype)
    fours = pruning.NM(2, 4)
    mask = pruning.prune(tree, sparsity=0.5, scope="local", pattern=fours, layers="all_kernels")
    kept_conv, kept_head = as_in_linen(mask, library)
    for kept, kernel in ((kept_conv, CONV), (kept_head, DENSE)):
        # By hand: the two largest of every four along the input, the last axis but one.
        values = np.abs(np.asarray(jnp.asarray(kernel, dtype).astype(jnp.float32)))
        groups = np.moveaxis(values, -2, -1).reshape(-1, 4)
        order = np.argsort(groups, axis=1, kind="stable")
        wanted = np.ones(groups.shape, bool)
        np.put_along_axis(wanted, order[:, :2], False, axis=1)
        got = np.moveaxis(kept, -2, -1).reshape(-1, 4)
        np.testing.assert_array_equal(got, wanted)
    by_erk = pruning.prune(tree, sparsity=0.9, scope="erk", layers="all_kernels")
    # By hand: density = c (sum of axes) / (product of axes), c such that 10 % are kept.
    sizes = np.array([CONV.size, DENSE.size])
    raw = np.array([sum(HWIO), sum(IO)]) / sizes
    ideal = raw * 0.1 * sizes.sum() / (raw * sizes).sum() * sizes
    counts = [kept.sum() for kept in as_in_linen(by_erk, library)]
    np.testing.assert_allclose(counts, ideal, atol=1)
    assert sum(counts) == sizes.sum() - round(0.9 * sizes.sum())


def test_costs_do_not_depend_on_the_layout():
    images = jnp.ones((2, 8, 8, 16))

    def applied(spec, name):
        return lambda params, x: jax.lax.conv_general_dilated(
            x, params["conv"][name], (1, 1), "SAME", dimension_numbers=("NHWC", spec, "NHWC")
        )

    in_linen = pruning.macs(applied("HWIO", "kernel"), linen("float32"), images)
    in_torch = pruning.macs(applied("OIHW", "weight"), torch_like("float32"), images)
    assert in_linen == {"conv/kernel": 64 * 9 * 16 * 24}
    assert in_torch == {"conv/weight": 64 * 9 * 16 * 24}


@every_library
def test_the_ledger_shows_layouts_and_counts_dead_channels_along_them(library):
    tree = LIBRARIES[library]("float32")
    is_out_first = library in ("equinox", "plain")

    def kept(path, leaf):
        keep = np.ones(leaf.shape, bool)
        if re.search("(kernel|weight)(/value)?$", path):
            keep[(slice(None),) * (0 if is_out_first else leaf.ndim - 1) + ([0, 1],)] = False
            keep[(slice(None),) * (1 if is_out_first else leaf.ndim - 2) + ([3],)] = False
        return keep

    names = [name for name, _ in named_leaves(tree)]
    leaves = [kept(name, leaf) for name, leaf in named_leaves(tree)]
    mask = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    account = pruning.ledger(tree, mask, layers="all_kernels")
    rows = {row.path.split("/")[0]: row for row in account.rows if not row.excluded}
    assert len(names) == len(account.rows)
    assert [(row.dead_outputs, row.dead_inputs) for row in rows.values()] == [(2, 1), (2, 1)]
    assert (rows["conv"].layout, rows["head"].layout) == (
        ("OIHW", "OI") if is_out_first else ("HWIO", "IO")
    )
    assert rows["conv"].layout in str(account)


class Attention(nn.Module):
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(
            num_heads=2, qkv_features=8, use_bias=self.use_bias
        )
        return nn.Dense(3)(attend(x, x))


def attention(library, use_bias=True):
    if library == "linen":
        return Attention(use_bias).init(KEY, jnp.ones((1, 5, 6)))["params"]
    module = nnx.MultiHeadAttention(2, 6, 8, use_bias=use_bias, decode=False, rngs=nnx.Rngs(0))
    return module if library == "nnx module" else nnx.state(module, nnx.Param)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("library", ["linen", "nnx state", "nnx module"])
def test_attention_kernels_are_one_matrix_of_all_heads(library, use_bias):
    tree = attention(library, use_bias)
    found = {
        path.removesuffix("/value").split("/")[-2]: (path, str(layout))
        for path, layout in layouts.find(tree).items()
        if layout.kind == "kernel"
    }
    kinds = {name: kind for name, (_, kind) in found.items() if name != "Dense_0"}
    assert kinds == {"query": "INO", "key": "INO", "value": "INO", "out": "NIO"}
    leaves = dict(named_leaves(tree))
    measured = signals.random_distance(tree, key=KEY, num_permutations=1).per_layer
    shapes = prunable_shapes(tree, pruning.select(tree, "all_kernels"))
    for name, sides in {"query": (6, 8), "out": (8, 6)}.items():
        path = found[name][0]
        matrix = np.asarray(leaves[path]).reshape(1, *sides)
        wanted = distance_of_matrices(matrix, path.removesuffix("/value"), "float32")
        np.testing.assert_allclose(measured[path], wanted, atol=2e-5)
        assert shapes[path].layout.sizes(shapes[path].shape) == sides
    with pytest.raises(InvalidInput, match=r"has no spatial axis \(NIO\)"):
        pruning.select(tree, "conv_kernels")


def test_n_of_m_of_attention_runs_along_the_inputs_heads_and_features_together():
    tree = {"out": {"kernel": jax.random.normal(KEY, (2, 4, 6))}}
    mask = pruning.prune(
        tree,
        sparsity=0.5,
        scope="local",
        pattern=pruning.NM(4, 8),
        layers="all_kernels",
        layouts={"out": "NIO"},
    )
    groups = np.asarray(mask["out"]["kernel"]).reshape(8, 6)
    assert (groups.sum(axis=0) == 4).all()


class Dense2(nn.Module):
    use_bias: bool

    @nn.compact
    def __call__(self, x):
        x = nn.DenseGeneral((2, 5), use_bias=self.use_bias)(x)
        return nn.DenseGeneral(7, axis=(-2, -1), use_bias=self.use_bias)(x)


@pytest.mark.parametrize("use_bias", [True, False])
def test_general_dense_layers_are_told_by_bias_or_by_what_makes_their_heads(use_bias):
    params = Dense2(use_bias).init(KEY, jnp.ones((1, 6)))["params"]
    kinds = {path: str(layout) for path, layout in layouts.find(params).items()}
    assert kinds["DenseGeneral_0/kernel"] == "INO"
    assert kinds["DenseGeneral_1/kernel"] == "NIO"


def test_heads_in_and_out_are_one_matrix_although_a_stack_of_convolutions_would_fit_too():
    kernel = filled_by_rows(4, 8, 4, 8)
    params = {"mix": {"kernel": kernel, "bias": jnp.zeros((4, 8))}}
    with pytest.warns(pruning.PruningWarning, match="mix/kernel"):
        measured = signals.random_distance(params, key=KEY, num_permutations=1).per_layer
    wanted = distance_of_matrices(kernel.reshape(1, 32, 32), "mix/kernel", "float32")
    np.testing.assert_allclose(measured["mix/kernel"], wanted, atol=2e-5)


def filled_by_rows(*shape):
    rows = np.arange(1, shape[1] + 1).reshape(-1, *[1] * (len(shape) - 2)) ** 2
    return jnp.asarray(np.random.default_rng(3).normal(size=shape) * rows, jnp.float32)


def test_a_flat_state_dict_of_pytorch_is_read_as_a_nested_one():
    kernel = filled_by_rows(16, 8, 3, 3)
    params = {"conv.weight": kernel, "conv.bias": jnp.zeros(16), "norm.weight": jnp.ones((4, 5))}
    kinds = {path: str(kind) for path, kind in layouts.find(params).items()}
    assert kinds == {"conv.weight": "OIHW", "conv.bias": "", "norm.weight": "norm"}
    measured = signals.random_distance(params, key=KEY, num_permutations=1).per_layer
    matrices = kernel.transpose(2, 3, 1, 0).reshape(9, 8, 16)
    wanted = distance_of_matrices(matrices, "conv.weight", "float32")
    np.testing.assert_allclose(measured["conv.weight"], wanted, atol=2e-5)


def test_one_dimensional_convolutions_stay_convolutions():
    conv = lambda: {"kernel": jnp.ones((3, 4, 8)), "bias": jnp.ones(8)}  # noqa: E731
    params = {"query": conv(), "key": conv(), "value": conv(), "out": conv()}
    assert {layout.axes for layout in layouts.find(params).values()} == {"", "WIO"}
    module = nnx.Conv(4, 8, 3, rngs=nnx.Rngs(0))
    told = layouts.told_by(module)
    assert str(layouts.find(nnx.state(module, nnx.Param), told)["kernel"]) == "WIO"
    assert str(layouts.find({"conv": conv()})["conv/kernel"]) == "WIO"


def test_layers_stacked_by_scan_and_vmap_are_dense_with_a_stack():
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(
                lambda block, x, _: (block(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=5,
            )(nn.Dense(6, name="block"), x, None)[0]

    params = Deep().init(KEY, jnp.ones((1, 6)))["params"]
    stacked = eqx.filter_vmap(lambda key: eqx.nn.Conv2d(2, 4, 3, key=key))(jax.random.split(KEY, 5))
    assert str(layouts.find(params)["block/kernel"]) == "SIO"
    (layout,) = (kind for path, kind in layouts.find(stacked).items() if path == "weight")
    assert (str(layout), layout.sizes(stacked.weight.shape)) == ("SOIHW", (3, 3, 2, 4))


def test_norms_and_embeddings_are_no_kernels_whatever_their_rank():
    net = {
        "norm": eqx.nn.LayerNorm((4, 5, 6)),
        "rms": eqx.nn.RMSNorm((4, 5), use_bias=False),
        "words": eqx.nn.Embedding(5, 3, key=KEY),
        "conv": eqx.nn.Conv1d(3, 4, 2, key=KEY),
    }
    reasons = pruning.exclusions(net, "all_kernels")
    assert reasons["norm/weight"] == reasons["rms/weight"] == "is a norm"
    assert reasons["words/weight"] == "is an embedding"
    assert "conv/weight" not in reasons
    mask = pruning.prune(net, sparsity=0.5)
    assert bool(mask["norm"].weight.all())
    assert not bool(mask["conv"].weight.all())
    plain = {"a": {"weight": jnp.ones((4, 5, 6)), "bias": jnp.ones((4, 5, 6))}}
    assert layouts.find(plain)["a/weight"].kind == "norm"
    assert layouts.find({"layer_norm": {"weight": jnp.ones((4, 5))}})["layer_norm/weight"].kind


def test_a_transposed_nnx_convolution_says_itself_which_axis_is_the_output():
    layer = nnx.ConvTranspose(2, 5, (3,), transpose_kernel=True, rngs=nnx.Rngs(0))
    assert {str(layout) for layout in layouts.find(layer).values()} == {"", "WOI"}


def test_what_a_user_says_overrules_path_and_module():
    mix = jnp.arange(1.0, 65.0).reshape(4, 2, 8)
    params = {"mix": {"kernel": mix}, "table": jnp.arange(1.0, 13.0).reshape(3, 4)}
    assert pruning.exclusions(params, "dense_kernels")["mix/kernel"].startswith("has spatial")
    said = {"mix": "INO", "table": "OI"}
    assert pruning.exclusions(params, "dense_kernels", said) == {}
    mask = pruning.prune(
        params,
        sparsity=0.5,
        scope="local",
        pattern=pruning.NM(2, 4),
        layers="dense_kernels",
        layouts=said,
    )
    assert (np.asarray(mask["mix"]["kernel"]).sum(axis=0) == 2).all()
    assert (np.asarray(mask["table"]).sum(axis=1) == 2).all()
    account = pruning.ledger(params, mask, layouts=said)
    assert {row.layout for row in account.rows} == {"INO", "OI"}
    net = eqx.nn.Linear(4, 4, key=KEY)
    assert layouts.find(net, {"weight": "norm"})["weight"].kind == "norm"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kernel": "HWIO"}, "layout at kernel='HWIO' to have 2 letters"),
        ({"absent": "IO"}, "layouts='absent' to be found in the path of some leaf"),
        ({"kernel": "IX"}, "to be norm or embedding, or a letter per axis"),
        ({"kernel": "II"}, "I and O"),
        ({"kernel": "ION"}, "before one of them"),
        ({"kernel": 3}, "a letter per axis"),
        ({"(": "IO"}, "to hold a valid regular expression"),
        ("HWIO", "to map regular expressions to layouts"),
    ],
)
def test_wrong_layouts_are_refused_by_what_is_wrong(given, words):
    params = {"kernel": jnp.arange(1.0, 17.0).reshape(4, 4)}
    for call in (
        lambda: pruning.prune(params, sparsity=0.5, layers="all_kernels", layouts=given),
        lambda: signals.random_distance(params, key=KEY, layouts=given),
    ):
        with pytest.raises(InvalidInput) as refused:
            call()
        assert words in str(refused.value)


def test_transform_prunes_by_the_same_layouts_as_prune():
    params = {"mix": {"kernel": jax.random.normal(KEY, (4, 2, 8))}}
    options = {"scope": "local", "pattern": pruning.NM(2, 4), "layers": "dense_kernels"}
    options["layouts"] = {"mix": "INO"}
    optimizer = pruning.transform(optax.sgd(0.1), pruning.one_shot(0.5, at=0), **options)
    made = pruning.get_mask(optimizer.init(params))
    wanted = pruning.prune(params, sparsity=0.5, **options)
    np.testing.assert_array_equal(made["mix"]["kernel"], wanted["mix"]["kernel"])
