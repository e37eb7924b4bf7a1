"""Which channels go together, and the masks that remove them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from earlyprune_jax import models
from earlyprune_jax.pruning import PruningWarning
from earlyprune_jax.pruning.channels.groups import channel_groups, channel_mask
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput


def conv(x, kernel, stride=1, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def norm(x, variables, name):
    scale, bias, mean, var = (
        variables[f"{name}_{part}"] for part in ("scale", "bias", "mean", "var")
    )
    return (x - mean[None, None, None]) * (lax.rsqrt(var + 1e-5) * scale)[None, None, None] + bias[
        None, None, None
    ]


def normed(name, size):
    return {f"{name}_{part}": (size,) for part in ("scale", "bias", "mean", "var")}


def filled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape), jnp.float32)
        if not name.endswith(("var", "scale"))
        else jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32)
        for name, shape in shapes.items()
    }


def chain(v, x):
    x = jax.nn.relu(norm(conv(x, v["a_kernel"]) + v["a_bias"][None, None, None], v, "a"))
    x = norm(conv(x, v["b_kernel"]), v, "b")
    return x.mean(axis=(1, 2)) @ v["c_kernel"] + v["c_bias"][None]


CHAIN = (
    {
        "a_kernel": (3, 3, 3, 4),
        "a_bias": (4,),
        "b_kernel": (3, 3, 4, 5),
        "c_kernel": (5, 2),
        "c_bias": (2,),
    }
    | normed("a", 4)
    | normed("b", 5)
)


def residual(v, x):
    x = jax.nn.relu(norm(conv(x, v["stem_kernel"]), v, "stem"))
    y = jax.nn.relu(norm(conv(x, v["a_kernel"], 2), v, "a"))
    y = norm(conv(y, v["b_kernel"]), v, "b")
    x = jax.nn.relu(y + norm(conv(x, v["s_kernel"], 2), v, "s"))
    return x.mean(axis=(1, 2)) @ v["c_kernel"]


RESIDUAL = (
    {
        "stem_kernel": (3, 3, 3, 3),
        "a_kernel": (3, 3, 3, 2),
        "b_kernel": (3, 3, 2, 4),
        "s_kernel": (1, 1, 3, 4),
    }
    | {"c_kernel": (4, 2)}
    | normed("stem", 3)
    | normed("a", 2)
    | normed("b", 4)
    | normed("s", 4)
)


def padded(v, x):
    """The parameter-free shortcut: channel c of the stem is added to channel c + 1 of the block."""
    x = jax.nn.relu(conv(x, v["stem_kernel"]))
    y = jax.nn.relu(conv(x, v["a_kernel"], 2))
    y = conv(y, v["b_kernel"])
    x = jnp.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (1, 1)))
    return jax.nn.relu(x + y).mean(axis=(1, 2)) @ v["c_kernel"]


PADDED = {
    "stem_kernel": (3, 3, 3, 2),
    "a_kernel": (3, 3, 2, 3),
    "b_kernel": (3, 3, 3, 4),
    "c_kernel": (4, 2),
}


def flattened(v, x):
    x = lax.reduce_window(
        jax.nn.relu(conv(x, v["a_kernel"])), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return jnp.tanh(x.reshape(x.shape[0], -1) @ v["b_kernel"] + v["b_bias"][None]) @ v["c_kernel"]


FLATTENED = {"a_kernel": (3, 3, 3, 3), "b_kernel": (12, 4), "b_bias": (4,), "c_kernel": (4, 2)}

INPUTS = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 3)), jnp.float32)


def channel(index, *members):
    """One group in which every member is a single index: (name, axis) or (name, axis, index)."""
    return frozenset((m[0], m[1], (m[2] if len(m) > 2 else index,)) for m in members)


def behind_norm(name):
    return [(f"{name}_{part}", 0) for part in ("scale", "bias", "mean", "var")]


def derived(apply, shapes):
    found = channel_groups(apply, filled(shapes), INPUTS)
    return {frozenset((s.path, s.axis, s.indices) for s in group.members) for group in found.groups}


def test_a_chain_couples_kernel_bias_norm_and_the_next_kernels_input():
    first = [
        channel(i, ("a_kernel", 3), ("a_bias", 0), *behind_norm("a"), ("b_kernel", 2))
        for i in range(4)
    ]
    second = [channel(i, ("b_kernel", 3), *behind_norm("b"), ("c_kernel", 0)) for i in range(5)]
    assert derived(chain, CHAIN) == {*first, *second}


def test_a_residual_addition_couples_both_of_its_sides():
    stem = ("stem_kernel", 3), *behind_norm("stem"), ("a_kernel", 2), ("s_kernel", 2)
    both = ("b_kernel", 3), *behind_norm("b"), ("s_kernel", 3), *behind_norm("s"), ("c_kernel", 0)
    inner = ("a_kernel", 3), *behind_norm("a"), ("b_kernel", 2)
    wanted = [channel(i, *stem) for i in range(3)] + [channel(i, *both) for i in range(4)]
    assert derived(residual, RESIDUAL) == {*wanted, *(channel(i, *inner) for i in range(2))}


def test_a_padded_shortcut_couples_shifted_channels_and_leaves_the_padding_free():
    def end(i):
        return ("b_kernel", 3, i), ("c_kernel", 0, i)

    stem = [channel(i, ("stem_kernel", 3), ("a_kernel", 2), *end(i + 1)) for i in range(2)]
    inner = [channel(i, ("a_kernel", 3), ("b_kernel", 2)) for i in range(3)]
    assert derived(padded, PADDED) == {*stem, *inner, channel(0, *end(0)), channel(3, *end(3))}


def test_flattening_couples_a_channel_with_its_rows_at_every_pixel():
    # Row (h * 2 + w) * 3 + c of the dense kernel reads channel c.
    first = [
        frozenset(
            {("a_kernel", 3, (c,)), ("b_kernel", 0, tuple(3 * pixel + c for pixel in range(4)))}
        )
        for c in range(3)
    ]
    second = [channel(i, ("b_kernel", 1), ("b_bias", 0), ("c_kernel", 0)) for i in range(4)]
    assert derived(flattened, FLATTENED) == {*first, *second}


def test_a_depthwise_kernel_goes_with_its_input_channels():
    def apply(v, x):
        x = conv(conv(x, v["a_kernel"]), v["depth_kernel"], groups=2)
        return jax.nn.relu(x).mean(axis=(1, 2)) @ v["c_kernel"]

    shapes = {"a_kernel": (1, 1, 3, 2), "depth_kernel": (3, 3, 1, 4), "c_kernel": (4, 2)}
    wanted = {
        frozenset(
            {
                ("a_kernel", 3, (i,)),
                *((n, a, (2 * i, 2 * i + 1)) for n, a in [("depth_kernel", 3), ("c_kernel", 0)]),
            }
        )
        for i in range(2)
    }
    assert derived(apply, shapes) == wanted


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "preresnet20"])
def test_channels_of_the_named_networks_are_as_many_as_their_definition_says(name):
    model = models.build(name, num_classes=10)
    variables, apply = abstract(model)
    groups = channel_groups(apply, variables, INPUTS)
    # Groups of the residual streams, and of the inside of every block.
    count = {
        "resnet20": 64 + 3 * (16 + 32 + 64),
        "resnet18": 64 + 128 + 256 + 512 + 2 * (64 + 128 + 256 + 512),
        "preresnet20": 16 + 32 + 64 + 3 * (16 + 32 + 64),
    }[name]
    assert len(groups.groups) == count


def abstract(model):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), INPUTS, train=False))
    return variables, lambda variables, images: model.apply(variables, images, train=False)


@pytest.mark.parametrize(
    ("apply", "shapes"),
    [(chain, CHAIN), (residual, RESIDUAL), (flattened, FLATTENED)],
    ids=["chain", "residual", "flat"],
)
def test_the_masked_network_computes_what_the_same_code_does_on_arrays_without_the_channels(
    apply, shapes
):
    variables = filled(shapes)
    groups = channel_groups(apply, variables, INPUTS)
    run = jax.jit(apply)
    for group in groups.groups[::3]:
        without = {name: np.asarray(leaf) for name, leaf in variables.items()}
        keep = {name: np.ones(shapes[name], bool) for name in shapes}
        for name in shapes:
            for slices in (s for s in group.members if s.path == name):
                without[name] = np.delete(without[name], slices.indices, axis=slices.axis)
                np.moveaxis(keep[name], slices.axis, 0)[list(slices.indices)] = False
        masked = {name: np.where(keep[name], leaf, 0) for name, leaf in variables.items()}
        np.testing.assert_allclose(
            run(masked, INPUTS), apply(without, INPUTS), atol=1e-5, rtol=1e-5
        )


def test_padded_shortcuts_masked_equal_a_forward_without_the_channels_by_hand():
    variables = filled(PADDED)
    masked = jax.tree.map(np.array, variables)
    for name, axis, index in [
        ("stem_kernel", 3, 1),
        ("a_kernel", 2, 1),
        ("b_kernel", 3, 2),
        ("c_kernel", 0, 2),
    ]:
        np.moveaxis(masked[name], axis, 0)[index] = 0
    v = {
        "stem_kernel": variables["stem_kernel"][..., :1],
        "a_kernel": variables["a_kernel"][:, :, :1],
        "b_kernel": np.delete(variables["b_kernel"], 2, axis=3),
        "c_kernel": np.delete(variables["c_kernel"], 2, axis=0),
    }
    x = jax.nn.relu(conv(INPUTS, v["stem_kernel"]))
    y = conv(jax.nn.relu(conv(x, v["a_kernel"], 2)), v["b_kernel"])
    # Channels 0 and 3 of the block get nothing from the stem, 1 gets the stem's first.
    x = np.concatenate(
        [np.zeros_like(x[:, ::2, ::2]), x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], axis=3
    )
    small = jax.nn.relu(x + y).mean(axis=(1, 2)) @ v["c_kernel"]
    np.testing.assert_allclose(padded(masked, INPUTS), small, atol=1e-5, rtol=1e-5)


def layer_norm(x):
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (layer_norm, "is reduced over by reduce_sum"),
        (lambda x: jax.nn.softmax(x, axis=-1), "is reduced over by reduce_max"),
        (
            lambda x: x.reshape(2, 4, 4, 2, 2)[..., ::-1, :].reshape(x.shape),
            "is split or mixed, from [2, 4, 4, 4] to",
        ),
        (lambda x: lax.sort(x, dimension=3), "goes through sort, for which there is no rule"),
        (lambda x: lax.cumsum(x, axis=3), "goes through cumsum, for which there is no rule"),
        (lambda x: x + INPUTS.sum() * jnp.log(jnp.abs(x)), "is divided by, or the like, in log"),
        (
            lambda x: conv(x, jnp.ones((1, 1, 2, 4)), groups=2),
            "goes through conv_general_dilated, in groups",
        ),
    ],
    ids=["layer_norm", "softmax", "split", "sort", "cumsum", "log", "grouped"],
)  # fmt: skip
def test_what_cannot_be_followed_is_pinned_with_the_reason(between, reason):
    def apply(v, x):
        return between(conv(x, v["a_kernel"])).mean(axis=(1, 2)) @ v["c_kernel"]

    groups = channel_groups(apply, filled({"a_kernel": (3, 3, 3, 4), "c_kernel": (4, 2)}), INPUTS)
    assert not groups.groups
    reasons = {(s.path, s.axis): s.reason for s in groups.pinned}
    assert reasons["a_kernel", 3].startswith(reason)
    assert reasons["a_kernel", 2] == "belongs to the inputs"
    assert reasons["a_kernel", 0] == "is a window of a convolution"
    assert reasons["c_kernel", 1] == "belongs to the outputs"


def test_a_product_of_activations_is_pinned_unless_one_of_them_is_zero_when_masked():
    def apply(activation):
        def inner(v, x):
            x = x.mean(axis=(1, 2))
            return jnp.einsum(
                "nd,md->nm", activation(x @ v["a_kernel"]), activation(x @ v["b_kernel"])
            )

        return inner

    shapes = {"a_kernel": (3, 4), "b_kernel": (3, 4)}
    assert derived(apply(jnp.tanh), shapes) == {
        channel(i, ("a_kernel", 1), ("b_kernel", 1)) for i in range(4)
    }
    groups = channel_groups(apply(jax.nn.sigmoid), filled(shapes), INPUTS)
    reasons = {(s.path, s.axis): s.reason for s in groups.pinned}
    assert reasons["a_kernel", 1] == "is summed over with values that are not zero when masked"


def test_heads_and_head_features_of_attention_and_hidden_units_behind_it():
    def apply(v, x):
        x = x.mean(axis=2)
        q, k, values = (jnp.einsum("ntc,chd->nthd", x, v[f"{name}_kernel"]) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("nthd,nshd->nhts", q, k), axis=-1)
        x = x + jnp.einsum("nhts,nshd,hdc->ntc", weights, values, v["o_kernel"])
        return x + jax.nn.gelu(x @ v["a_kernel"]) @ v["b_kernel"]

    shapes = {f"{name}_kernel": (3, 2, 4) for name in "qkv"} | {"o_kernel": (2, 4, 3)}
    heads = [
        channel(i, *((f"{name}_kernel", 1) for name in "qkv"), ("o_kernel", 0)) for i in range(2)
    ]
    keys = [channel(i, ("q_kernel", 2), ("k_kernel", 2)) for i in range(4)]
    values = [channel(i, ("v_kernel", 2), ("o_kernel", 1)) for i in range(4)]
    units = [channel(i, ("a_kernel", 1), ("b_kernel", 0)) for i in range(5)]
    found = derived(apply, shapes | {"a_kernel": (3, 5), "b_kernel": (5, 3)})
    assert found == {*heads, *keys, *values, *units}


def test_a_broadcast_weight_does_not_count_as_zero():
    def apply(v, x):
        hidden = jax.nn.sigmoid(x.mean(axis=(1, 2)) @ v["a_kernel"]) * v["gain"][None]
        return jnp.einsum("nd,nd->n", hidden, hidden)

    assert not channel_groups(apply, filled({"a_kernel": (3, 4), "gain": (1,)}), INPUTS).groups


def test_weights_that_the_outputs_do_not_need_are_pinned():
    def apply(v, x):
        _ = conv(x, v["unused_kernel"])
        return x.mean(axis=(1, 2)) @ v["c_kernel"]

    groups = channel_groups(
        apply, filled({"unused_kernel": (1, 1, 3, 2), "c_kernel": (3, 2)}), INPUTS
    )
    assert {s.reason for s in groups.pinned if s.path == "unused_kernel"} == {"is not used"}


@pytest.fixture(scope="module")
def net():
    variables = as_kernels(filled(RESIDUAL))
    return variables, channel_groups(lambda v, x: residual(as_flat(v), x), variables, INPUTS)


def as_kernels(flat):
    """{"a_kernel": ...} -> {"a": {"kernel": ...}}."""
    tree: dict = {}
    for name, leaf in flat.items():
        module, field = name.rsplit("_", 1)
        tree.setdefault(module, {})[field] = leaf
    return tree


def as_flat(tree):
    return {
        f"{module}_{field}": leaf
        for module, fields in tree.items()
        for field, leaf in fields.items()
    }


def residual_scores(variables):
    """Mean magnitudes by hand: {(set, channel): score}."""
    kernel = {
        name: np.abs(variables[name]["kernel"], dtype=np.float64)
        for name in ("stem", "a", "b", "s")
    }
    scores = {("stem", i): kernel["stem"][..., i].mean() for i in range(3)}
    scores |= {("a", i): kernel["a"][..., i].mean() for i in range(2)}
    both = [np.append(kernel["b"][..., i], kernel["s"][..., i]).mean() for i in range(4)]
    return scores | {("b", i): both[i] for i in range(4)}


def removed_outputs(mask):
    return {
        (name, int(i)) for name in ("stem", "a", "b") for i in np.flatnonzero(~mask[name]["scale"])
    }


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.4, 0.6])
def test_global_removes_exactly_the_lowest_mean_scores_over_all_coupled_kernels(net, sparsity):
    variables, groups = net
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=sparsity, min_kept=0)
    scores = residual_scores(variables)
    assert removed_outputs(mask) == set(
        sorted(scores, key=lambda key: scores[key])[: round(sparsity * 9)]
    )


def test_local_removes_the_same_fraction_of_every_coupled_set(net):
    variables, groups = net
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=0.5, scope="local")
    scores = residual_scores(variables)
    wanted = set()
    for name, count in (("stem", 2), ("a", 1), ("b", 2)):
        own = sorted((key for key in scores if key[0] == name), key=lambda key: scores[key])
        wanted |= set(own[:count])
    assert removed_outputs(mask) == wanted


def test_the_mask_is_false_exactly_at_the_members_of_removed_groups(net):
    variables, groups = net
    mask = channel_mask(jax.tree.map(np.abs, variables), groups, sparsity=0.3)
    gone = removed_outputs(mask)
    wanted = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    readers = {"stem": [("a", 2), ("s", 2)], "a": [("b", 2)], "b": [("c", 0), ("s", 3)]}
    for name, i in gone:
        modules = [name, "s"] if name == "b" else [name]
        for module, part in itertools.product(modules, ("scale", "bias", "mean", "var")):
            wanted[module][part][i] = False
        for module, axis in [(name, 3), *readers[name]]:
            np.moveaxis(wanted[module]["kernel"], axis, 0)[i] = False
    assert gone
    assert jax.tree.structure(mask) == jax.tree.structure(variables)
    for (path, leaf), expected in zip(named_leaves(mask), jax.tree.leaves(wanted), strict=True):
        assert leaf.dtype == bool
        np.testing.assert_array_equal(leaf, expected, err_msg=path)


def test_equal_scores_go_in_the_order_of_the_tree(net):
    variables, groups = net
    with pytest.warns(PruningWarning, match="All scores are equal at all prunable"):
        mask = channel_mask(
            jax.tree.map(jnp.ones_like, variables), groups, sparsity=0.34, min_kept=1
        )
    # Of a one stays; the stem's channels come next, as the input slices of a's kernel.
    assert removed_outputs(mask) == {("a", 0), ("stem", 0), ("stem", 1)}


def test_only_channels_of_the_chosen_layers_go(net):
    variables, groups = net
    mask = channel_mask(
        jax.tree.map(np.abs, variables), groups, sparsity=0.66, layers="regex:^stem/kernel"
    )
    assert {name for name, _ in removed_outputs(mask)} == {"stem"}
    assert len(removed_outputs(mask)) == 2


# Scores that are all equal are warned of, and that is another test.
@pytest.mark.filterwarnings("ignore::earlyprune_jax.pruning.PruningWarning")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=9, max_size=9),
    st.floats(0, 0.66),
    st.sampled_from(["global", "local"]),
)
def test_counts_are_exact_and_every_set_keeps_one_channel(net, values, sparsity, scope):
    variables, groups = net
    scores = jax.tree.map(lambda leaf: np.zeros(leaf.shape), variables)
    cursor = iter(values)
    for name, count in (("stem", 3), ("a", 2), ("b", 4)):
        for i in range(count):
            scores[name]["kernel"][..., i] = next(cursor)
    mask = channel_mask(scores, groups, sparsity=sparsity, scope=scope)
    gone = removed_outputs(mask)
    sizes = {"stem": 3, "a": 2, "b": 4}
    left = {
        name: size - sum(1 for other, _ in gone if other == name) for name, size in sizes.items()
    }
    if scope == "global":
        assert len(gone) == round(sparsity * 9)
    else:
        assert left == {name: size - round(sparsity * size) for name, size in sizes.items()}
    assert min(left.values()) >= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "Expected sparsity=1.0 in [0, 1)"),
        ({"sparsity": -0.1}, "Expected sparsity=-0.1 in [0, 1)"),
        ({"sparsity": float("nan")}, "Expected sparsity=nan in [0, 1)"),
        ({"sparsity": 0.5, "scope": "globl"}, "Did you mean 'global'?"),
        ({"sparsity": 0.5, "min_kept": -1}, "Expected min_kept=-1 to be an integer of at least 0"),
        (
            {"sparsity": 0.8},
            "every layer. It would remove 7 of 9 at all layers (at most 6)",
        ),
        (
            {"sparsity": 0.8, "scope": "local"},
            "to leave 1 in every layer. It would remove 2 of 2 at a/kernel (at most 1)",
        ),
        ({"sparsity": 0.8, "scope": "local"}, "or let scope global or uniform share it out"),
        ({"sparsity": 0.5, "layers": "dense_kernels"}, "c/kernel, axis 1: belongs to the outputs"),
        ({"sparsity": 0.5, "layers": "conv"}, "Expected layers='conv' to be one of conv_kernels"),
    ],
)
def test_bad_options_are_refused_with_path_and_remedy(net, options, words):
    variables, groups = net
    with pytest.raises(InvalidInput) as caught:
        channel_mask(jax.tree.map(np.abs, variables), groups, **options)
    assert words in str(caught.value)


def test_a_whole_layer_goes_only_where_allowed(net):
    variables, groups = net
    scores = jax.tree.map(jnp.ones_like, variables) | {
        "a": jax.tree.map(jnp.zeros_like, variables["a"])
    }
    kept = channel_mask(scores, groups, sparsity=0.23)
    assert ("a", 1) not in removed_outputs(kept)
    with pytest.warns(
        PruningWarning, match=r"Nothing is kept at a/kernel \(all 2 removed\). min_kept=1"
    ):
        gone = channel_mask(scores, groups, sparsity=0.23, min_kept=0)
    assert removed_outputs(gone) == {("a", 0), ("a", 1)}


def test_scores_of_another_shape_or_with_nan_are_refused_by_path(net):
    variables, groups = net
    scores = jax.tree.map(np.abs, variables)
    wrong = scores | {"a": {"kernel": scores["a"]["kernel"][:1]}}
    with pytest.raises(InvalidInput) as caught:
        channel_mask(wrong, groups, sparsity=0.5)
    assert "shape of scores at a/kernel=(1, 3, 3, 2) to be (3, 3, 3, 2)" in str(caught.value)
    assert "shape of scores at a/scale=None to be (2,)" in str(caught.value)
    nan = scores["a"]["kernel"].copy()
    nan[0, 0, 0, 0] = np.nan
    broken = scores | {"a": scores["a"] | {"kernel": nan}}
    with pytest.raises(InvalidInput, match="scores at a/kernel='1 NaN' without NaN"):
        channel_mask(broken, groups, sparsity=0.5)
