"""Any pytree: names, what may be pruned and why not, structure kept by masks."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning import trees
from earlyprune_jax.validate import InvalidInput


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


class NNXNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    layers: list
    activation: Any
    num_calls: int
    scale: float
    table: jax.Array
    name: str = eqx.field(static=True)


def linen_params():
    return LinenNet().init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]


def nnx_params():
    return nnx.state(NNXNet(nnx.Rngs(0)), nnx.Param)


def equinox_net() -> EquinoxNet:
    keys = jax.random.split(jax.random.key(0), 3)
    layers = [eqx.nn.Linear(4, 4, key=keys[1]), jax.nn.relu, eqx.nn.Linear(4, 3, key=keys[2])]
    conv = eqx.nn.Conv2d(2, 4, 3, key=keys[0])
    return EquinoxNet(conv, layers, jnp.tanh, 7, 0.5, jnp.arange(3), "net")


def mixed_list():
    return [jnp.ones((2, 3)), (jnp.arange(4), jnp.arange(4.0)), 3, jnp.tanh]


def bare_array():
    return jnp.arange(1.0, 7.0).reshape(2, 3)


TREES = {
    "linen": (linen_params, "all_kernels", {"conv/kernel", "head/kernel"}),
    "nnx": (nnx_params, "all_kernels", {"conv/kernel", "head/kernel"}),
    "equinox": (equinox_net, "all_kernels", {"conv/weight", "layers/0/weight", "layers/2/weight"}),
    "list": (mixed_list, "regex:^[01]", {"0", "1/1"}),
    "bare": (bare_array, lambda path, leaf: leaf.ndim == 2, {""}),
}  # fmt: skip
any_tree = pytest.mark.parametrize("kind", list(TREES))


def chosen(tree, layers) -> set[str]:
    return {name for name, take in trees.named_leaves(pruning.select(tree, layers)) if take}


@any_tree
def test_the_weights_meant_are_selected_and_every_other_leaf_has_a_reason(kind):
    make, layers, names = TREES[kind]
    tree = make()
    reasons = pruning.exclusions(tree, layers)
    assert chosen(tree, layers) == names
    assert names | set(reasons) == {name for name, _ in trees.named_leaves(tree)}
    assert not names & set(reasons)
    assert all(reasons.values())


@any_tree
@pytest.mark.filterwarnings("ignore:All scores are equal")
def test_masks_keep_the_structure_and_are_true_wherever_nothing_is_prunable(kind):
    make, layers, names = TREES[kind]
    tree = make()
    mask = pruning.prune(tree, sparsity=0.5, layers=layers)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    pruning.check(mask, tree)
    removed = 0
    for (name, keep), leaf in zip(trees.named_leaves(mask), jax.tree.leaves(tree), strict=True):
        assert isinstance(keep, jax.Array)
        assert keep.dtype == bool
        assert keep.shape == np.shape(leaf)
        if name in names:
            removed += int((~keep).sum())
        else:
            assert keep.all()
    assert removed == round(
        0.5 * sum(leaf.size for name, leaf in trees.named_leaves(tree) if name in names)
    )
    assert removed == pruning.count_removed(mask)


@any_tree
@pytest.mark.filterwarnings("ignore:All scores are equal")
def test_applying_a_mask_zeroes_weights_and_leaves_other_leaves_as_they_are(kind):
    make, layers, names = TREES[kind]
    tree = make()
    mask = pruning.prune(tree, sparsity=0.5, layers=layers)
    masked = pruning.apply(mask, tree)
    assert jax.tree.structure(masked) == jax.tree.structure(tree)
    for (name, now), before, keep in zip(
        trees.named_leaves(masked), jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True
    ):
        if name in names:
            np.testing.assert_array_equal(now, np.where(keep, before, 0))
        elif trees.is_weight(before):
            np.testing.assert_array_equal(now, before)
        else:
            assert now is before


def test_linen_and_nnx_give_the_same_network_the_same_names_and_reasons():
    linen, state = linen_params(), nnx_params()
    assert [name for name, _ in trees.named_leaves(linen)] == [
        name for name, _ in trees.named_leaves(state)
    ]
    for layers in ("conv_kernels", "dense_kernels", "all_kernels", "regex:conv"):
        assert pruning.exclusions(linen, layers) == pruning.exclusions(state, layers)


def test_the_state_of_nnx_split_is_pruned_and_merged_back():
    graph, state = nnx.split(NNXNet(nnx.Rngs(0)))
    mask = pruning.prune(state, sparsity=0.75, layers="all_kernels")
    net = nnx.merge(graph, pruning.apply(mask, state))
    zeros = sum(int((np.asarray(layer.kernel[...]) == 0).sum()) for layer in (net.conv, net.head))
    assert zeros == round(0.75 * (3 * 3 * 2 * 4 + 4 * 3)) == pruning.count_removed(mask)


def test_an_equinox_module_works_on_with_its_weights_masked():
    net = equinox_net()
    pruned = pruning.apply(pruning.prune(net, sparsity=0.5, layers="dense_kernels"), net)
    assert pruned.activation is jnp.tanh
    assert (pruned.num_calls, pruned.scale, pruned.name) == (7, 0.5, "net")
    assert pruned.layers[2](pruned.layers[1](pruned.layers[0](jnp.ones(4)))).shape == (3,)


def test_shapes_are_enough_to_select():
    shapes = jax.eval_shape(linen_params)
    assert pruning.select(shapes, "conv_kernels") == pruning.select(linen_params(), "conv_kernels")


def test_reasons_by_hand():
    tree = {
        "conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)},
        "dense": {"weight": jnp.ones((2, 2)), "kernel": jnp.ones(2)},
        "count": jnp.arange(2),
        "key": jax.random.key(0),
        "half": 0.5,
    }
    name, not_named = "is not named kernel or weight", "not a floating-point array"
    shared = {
        "conv/bias": name,
        "count": f"is of type int32, {not_named}",
        "key": f"is of type key<fry>, {not_named}",
        "half": f"is of type float, {not_named}",
        "dense/kernel": "has fewer than 2 axes, kernels have 2 or more",
    }
    assert pruning.exclusions(tree, "all_kernels") == shared
    assert pruning.exclusions(tree, "conv_kernels") == shared | {
        "dense/weight": "has no spatial axis (OI), conv kernels have"
    }
    assert pruning.exclusions(tree, "dense_kernels") == shared | {
        "conv/kernel": "has spatial axes (HWIO), dense kernels have none"
    }
    by_regex = pruning.exclusions(tree, "regex:conv|half|count|key")
    assert by_regex["dense/weight"] == "does not match conv|half|count|key"
    assert "conv/bias" not in by_regex
    assert {"half", "count", "key"} < set(by_regex)
    by_predicate = pruning.exclusions(tree, lambda path, leaf: path == "conv/bias")
    assert by_predicate["conv/kernel"] == "the predicate left it out"


def test_a_predicate_is_asked_about_weights_only():
    asked = []
    pruning.select(
        {"w": jnp.ones(2), "n": 3, "f": jnp.tanh}, lambda path, leaf: asked.append(path) or True
    )
    assert asked == ["w"]


def test_a_regular_expression_selects_by_path():
    model = models.build("resnet8", num_classes=10)
    params = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )["params"]
    names = chosen(params, "regex:stage2.*conv")
    assert names
    assert all("stage2" in name and "conv" in name for name in names)
    assert names == {
        name for name, _ in trees.named_leaves(params) if "stage2" in name and "conv" in name
    }


@pytest.mark.parametrize(
    "layers", [None, 3, ["conv_kernels"], "", "conv", b"conv_kernels", ("regex:a",)]
)
def test_an_unknown_set_is_refused_with_the_choices(layers):
    for function in (pruning.select, pruning.exclusions):
        with pytest.raises(
            InvalidInput, match="to be one of conv_kernels, dense_kernels, all_kernels"
        ):
            function({"kernel": jnp.ones((2, 2))}, layers)


def test_selecting_nothing_is_refused_with_the_reasons():
    with pytest.raises(
        InvalidInput, match="Of 2 leaves none belongs: a has 1 axes|a is not named kernel"
    ):
        pruning.select({"a": jnp.ones(2), "n": 1}, "all_kernels")
    with pytest.raises(InvalidInput, match="there are none"):
        pruning.select({}, "all_kernels")
    with pytest.raises(InvalidInput, match="the predicate left it out"):
        pruning.select(jnp.ones(2), lambda path, leaf: False)


def test_weights_are_floating_point_or_complex_arrays_of_any_library_and_their_shapes():
    weights = [
        jnp.ones(2, jnp.bfloat16),
        np.ones(2),
        np.ones(2, complex),
        jax.ShapeDtypeStruct((2,), jnp.float32),
    ]
    others = [
        3,
        0.5,
        True,
        None,
        "kernel",
        jnp.tanh,
        jnp.arange(2),
        np.ones(2, bool),
        jax.random.key(0),
        object(),
    ]
    assert all(map(trees.is_weight, weights))
    assert not any(map(trees.is_weight, others))


def test_split_weights_gives_the_weights_alone_and_puts_them_back():
    net = equinox_net()
    weights, merge = trees.split_weights(net)
    assert len(weights) == 6
    assert all(map(trees.is_weight, weights))
    doubled = merge([2 * weight for weight in weights])
    assert jax.tree.structure(doubled) == jax.tree.structure(net)
    np.testing.assert_array_equal(doubled.conv.weight, 2 * net.conv.weight)
    assert doubled.activation is net.activation
    gradients = jax.grad(lambda ws: sum((weight**2).sum() for weight in ws))(weights)
    np.testing.assert_array_equal(gradients[0], doubled.conv.weight)
    with pytest.raises(ValueError, match="zip"):
        merge(weights[:-1])


def test_map_weights_gives_zeros_of_their_shape_elsewhere():
    tree = {"w": jnp.array([-1.0, 2.0]), "n": jnp.arange(3), "f": jnp.tanh, "k": 4}
    mapped = trees.map_weights(lambda leaf, other: leaf * other, tree, tree)
    assert mapped["w"].tolist() == [1, 4]
    assert mapped["n"].tolist() == [0, 0, 0]
    assert mapped["f"].shape == mapped["k"].shape == ()
    assert jax.tree.structure(mapped) == jax.tree.structure(tree)
