"""From scores to masks: exact counts for every scope, type and tie pattern; every bad input."""

import math
import warnings

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning import trees
from earlyprune_jax.pruning.allocation import ranking
from earlyprune_jax.validate import InvalidInput

SCOPES = ("global", "local", "uniform", "erk", "lamp")
DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SHAPES = ((1,), (3,), (2, 3), (0, 2), (1, 1), (2, 2, 2, 1), (7,))
MEANT = pytest.mark.filterwarnings("ignore::earlyprune_jax.pruning.PruningWarning")


def values_of(dtype) -> st.SearchStrategy:
    """One tie pattern: all equal, few values, signed zeros, infinities, subnormals, anything."""
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    return st.sampled_from(
        [
            st.just(0.25),
            st.sampled_from([1.0, 0.0, 2.0]),
            st.sampled_from([0.0, -0.0, tiny]),
            st.sampled_from([np.inf, 0.0, 1.0]),
            st.sampled_from([-np.inf, np.inf, -1.0]),
            st.integers(-3, 3).map(lambda number: number * tiny),
            st.floats(-60000, 60000, allow_subnormal=False),
        ]
    )


@st.composite
def trees_of_scores(draw, positive: bool = False) -> dict[str, np.ndarray]:
    dtype = draw(st.sampled_from(DTYPES))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5))
    sizes = [math.prod(shape) for shape in shapes]
    pattern = draw(
        draw(
            values_of(dtype).map(
                lambda values: st.lists(values, min_size=sum(sizes), max_size=sum(sizes))
            )
        )
    )
    flat = np.asarray(pattern, np.float64).astype(dtype)
    flat = np.abs(flat) if positive else flat
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return {
        f"layer{index}": part.reshape(shape)
        for index, (part, shape) in enumerate(zip(parts, shapes, strict=True))
    }


sparsities = st.floats(0, 1, exclude_max=True)


def lowest(leaves: list[np.ndarray], count: int) -> list[np.ndarray]:
    """True where kept, by a stable sort: ties by index, leaves in the order of the tree."""
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:count]] = False
    parts = np.split(kept, np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    return [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]


def allocate(scores, **options) -> list[np.ndarray]:
    mask = pruning.allocate(scores, jax.tree.map(lambda _: True, scores), **options)
    assert jax.tree.structure(mask) == jax.tree.structure(scores)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(mask)]


def num_removed(kept: list[np.ndarray]) -> list[int]:
    return [int(np.size(keep) - np.count_nonzero(keep)) for keep in kept]


def ranked_by(leaves: list[np.ndarray], scope: str) -> list[np.ndarray]:
    """What a scope ranks; LAMP's values are held to the paper's formula in test_ranking."""
    return [ranking.lamp(leaf.astype(np.float64)) for leaf in leaves] if scope == "lamp" else leaves


def assert_same(kept, wanted):
    for one, other in zip(kept, wanted, strict=True):
        assert one.dtype == np.bool_
        np.testing.assert_array_equal(one, other)


@MEANT
@settings(max_examples=150, deadline=None)
@given(trees_of_scores(), sparsities)
def test_global_removes_exactly_the_lowest_of_all(scores, sparsity):
    leaves = list(scores.values())
    total = sum(leaf.size for leaf in leaves)
    count = round(sparsity * total)
    if count and count == total:
        with pytest.raises(InvalidInput, match="to leave one in the network"):
            allocate(scores, sparsity=sparsity)
    else:
        assert_same(allocate(scores, sparsity=sparsity), lowest(leaves, count))


@MEANT
@settings(max_examples=150, deadline=None)
@given(trees_of_scores(), sparsities)
def test_local_removes_exactly_the_lowest_of_every_layer(scores, sparsity):
    counts = {name: round(sparsity * leaf.size) for name, leaf in scores.items()}
    emptied = [name for name, count in counts.items() if count and count == scores[name].size]
    if emptied:
        with pytest.raises(InvalidInput) as caught:
            allocate(scores, sparsity=sparsity, scope="local")
        assert all(
            f"{counts[name]} of {counts[name]} at {name}" in str(caught.value) for name in emptied
        )
    else:
        wanted = [lowest([leaf], counts[name])[0] for name, leaf in scores.items()]
        assert_same(allocate(scores, sparsity=sparsity, scope="local"), wanted)


@MEANT
@settings(max_examples=150, deadline=None)
@given(trees_of_scores(), sparsities, st.sampled_from(["uniform", "erk"]))
def test_uniform_and_erk_are_exact_in_total_and_remove_the_lowest_of_every_layer(
    scores, sparsity, scope
):
    leaves = list(scores.values())
    count = round(sparsity * sum(leaf.size for leaf in leaves))
    if count > sum(max(0, leaf.size - 1) for leaf in leaves):
        with pytest.raises(InvalidInput, match="to leave 1 in every layer"):
            allocate(scores, sparsity=sparsity, scope=scope)
        return
    kept = allocate(scores, sparsity=sparsity, scope=scope)
    counts = num_removed(kept)
    assert sum(counts) == count
    assert_same(
        kept, [lowest([leaf], number)[0] for leaf, number in zip(leaves, counts, strict=True)]
    )
    assert all(keep.any() for keep in kept if keep.size)


@MEANT
@settings(max_examples=150, deadline=None)
@given(trees_of_scores(positive=True), sparsities)
def test_lamp_is_exact_in_total_and_leaves_a_weight_in_every_layer_that_has_any_score(
    scores, sparsity
):
    leaves = list(scores.values())
    total = sum(leaf.size for leaf in leaves)
    count = round(sparsity * total)
    if count and count == total:
        return
    kept = allocate(scores, sparsity=sparsity, scope="lamp")
    assert sum(num_removed(kept)) == count
    assert_same(kept, lowest(ranked_by(leaves, "lamp"), count))
    if count <= total - len(leaves):
        assert all(keep.any() for keep, leaf in zip(kept, leaves, strict=True) if leaf.any())


def test_lamp_is_a_global_ranking_of_the_papers_scores():
    rng = np.random.default_rng(0)
    leaves = [np.abs(rng.normal(scale=scale, size=(4, 5))) for scale in (1, 10, 0.1)]
    by_definition = [
        np.array([[value**2 / (leaf[leaf >= value] ** 2).sum() for value in row] for row in leaf])
        for leaf in leaves
    ]
    for sparsity in (0.1, 0.5, 0.9, 0.95):
        kept = allocate(leaves, sparsity=sparsity, scope="lamp")
        assert_same(kept, lowest(by_definition, round(sparsity * 60)))
        assert all(keep.any() for keep in kept)


@MEANT
@settings(max_examples=100, deadline=None)
@given(
    trees_of_scores(),
    st.dictionaries(
        st.sampled_from(["layer0", "layer[12]", "[3-9]", "layer"]), sparsities, min_size=1
    ),
)
def test_a_mapping_gives_every_layer_the_sparsity_of_the_first_expression_found(scores, targets):
    def first(name: str) -> float:
        found = {"layer0": "0", "layer[12]": "12", "[3-9]": "3456789", "layer": "0123456789"}
        return next((value for key, value in targets.items() if name[-1] in found[key]), 0.0)

    counts = [round(first(name) * leaf.size) for name, leaf in scores.items()]
    try:
        kept = allocate(scores, sparsity=targets, scope="local")
    except InvalidInput as error:
        idle = "to be the first pattern to match" in str(error)
        emptied = any(
            count and count == leaf.size
            for count, leaf in zip(counts, scores.values(), strict=True)
        )
        assert idle or emptied
    else:
        wanted = [
            lowest([leaf], count)[0] for leaf, count in zip(scores.values(), counts, strict=True)
        ]
        assert_same(kept, wanted)


@MEANT
@settings(max_examples=150, deadline=None)
@given(trees_of_scores(positive=True), sparsities, st.integers(1, 4), st.sampled_from(SCOPES))
def test_the_minimum_of_every_layer_holds_and_the_count_stays_exact(
    scores, sparsity, min_kept, scope
):
    leaves = list(scores.values())
    counts = [round(sparsity * leaf.size) for leaf in leaves]
    room = [max(0, leaf.size - min_kept) for leaf in leaves]
    total = round(sparsity * sum(leaf.size for leaf in leaves))
    local_fits = all(count <= free for count, free in zip(counts, room, strict=True))
    if not (local_fits if scope == "local" else total <= sum(room)):
        with pytest.raises(InvalidInput, match="to leave"):
            allocate(scores, sparsity=sparsity, scope=scope, min_kept=min_kept)
        return
    kept = allocate(scores, sparsity=sparsity, scope=scope, min_kept=min_kept)
    assert sum(num_removed(kept)) == (sum(counts) if scope == "local" else total)
    for keep, leaf, count in zip(kept, ranked_by(leaves, scope), num_removed(kept), strict=True):
        assert np.count_nonzero(keep) >= min(min_kept, leaf.size)
        np.testing.assert_array_equal(keep, lowest([leaf], count)[0])


@MEANT
@settings(max_examples=100, deadline=None)
@given(trees_of_scores(), sparsities, st.integers(1, 4))
def test_with_a_minimum_global_removes_the_lowest_of_what_may_go(scores, sparsity, min_kept):
    leaves = list(scores.values())
    protected = [lowest([leaf], max(0, leaf.size - min_kept))[0] for leaf in leaves]
    count = round(sparsity * sum(leaf.size for leaf in leaves))
    if count > sum(num_removed(protected)):
        return
    free = [
        np.asarray(leaf, np.float64)[~keep] for leaf, keep in zip(leaves, protected, strict=True)
    ]
    for keep, decided in zip(protected, lowest(free, count), strict=True):
        keep[~keep] = decided
    assert_same(allocate(scores, sparsity=sparsity, min_kept=min_kept), protected)


@MEANT
@settings(max_examples=100, deadline=None)
@given(trees_of_scores(), sparsities, sparsities, st.sampled_from(["global", "local"]))
def test_what_a_higher_sparsity_keeps_a_lower_one_keeps_too(scores, one, other, scope):
    try:
        many = allocate(scores, sparsity=max(one, other), scope=scope)
    except InvalidInput:
        return
    few = allocate(scores, sparsity=min(one, other), scope=scope)
    assert all((~high | low).all() for high, low in zip(many, few, strict=True))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_jax_array_of_half_precision_is_ranked_as_its_values(scope):
    scores = {"a": jnp.arange(8, dtype=jnp.bfloat16), "b": jnp.ones((2, 4), jnp.bfloat16)}
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pruning.PruningWarning)
        assert_same(
            allocate(scores, sparsity=0.5, scope=scope), allocate(wide, sparsity=0.5, scope=scope)
        )


def test_whole_numbers_are_ranked_exactly():
    assert_same(allocate([np.array([2**25 + 1, 2**25])], sparsity=0.5), [np.array([True, False])])


def test_the_scores_are_left_as_they_were():
    scores = {"a": np.array([3.0, 1.0, 2.0], np.float32), "b": np.arange(4.0)}
    copies = jax.tree.map(np.copy, scores)
    for scope in SCOPES:
        allocate(scores, sparsity=0.4, scope=scope, min_kept=1)
    chex.assert_trees_all_equal(scores, copies)


@pytest.fixture(scope="module")
def params():
    model = models.build("resnet8", num_classes=10)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes["params"])


@pytest.mark.parametrize("sparsity", [0.0, 0.123, 0.5, 0.8, 0.97])
def test_global_pruning_of_a_resnet_removes_the_smallest_weights_exactly(params, sparsity):
    mask = pruning.prune(params, sparsity=sparsity, scope="global")
    conv = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    total = sum(leaf.size for leaf in conv)
    assert pruning.count_removed(mask) == round(sparsity * total)
    kept = np.concatenate([np.asarray(m).ravel() for m in jax.tree.leaves(mask) if m.ndim == 4])
    magnitudes = np.abs(np.concatenate([leaf.ravel() for leaf in conv]))
    if sparsity > 0:
        assert magnitudes[~kept].max() <= magnitudes[kept].min()


def test_local_pruning_removes_the_same_ratio_in_every_layer(params):
    mask = pruning.prune(params, sparsity=0.8, scope="local")
    for leaf, keep in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        expected = round(0.8 * leaf.size) if leaf.ndim == 4 else 0
        assert np.size(keep) - np.count_nonzero(keep) == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_classifier_norms_and_biases_are_never_pruned_by_default(params, scope):
    mask = pruning.prune(params, sparsity=0.9, scope=scope)
    for (path, leaf), keep in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True
    ):
        if leaf.ndim != 4:
            assert np.all(keep), trees.path_name(path)


@pytest.mark.parametrize("scope", SCOPES)
def test_sparsity_zero_is_the_all_true_mask(params, scope):
    pruned, full = pruning.prune(params, sparsity=0.0, scope=scope), pruning.full(params)
    chex.assert_trees_all_equal(pruned, full)


@pytest.mark.parametrize("scope", ["global", "uniform", "erk", "lamp"])
def test_a_thousandth_of_a_resnet_can_stay(params, scope):
    mask = pruning.prune(params, sparsity=0.999, scope=scope, min_kept=1)
    total = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 4)
    assert pruning.count_removed(mask) == round(0.999 * total)
    assert all(np.any(keep) for keep in jax.tree.leaves(mask))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", [1, 97, -0.1, math.nan, True, "0.5", None])
def test_a_sparsity_that_is_no_fraction_is_refused(params, sparsity, scope):
    with pytest.raises(InvalidInput) as caught:
        pruning.prune(params, sparsity=sparsity, scope=scope)
    assert f"sparsity={sparsity!r} in [0, 1)" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 0.5, "scope": "locl"}, "global, local"),
        ({"sparsity": 0.5, "layers": "conv_kernel"}, "Did you mean 'conv_kernels'?"),
        ({"sparsity": 0.5, "layers": "regex:nothing"}, "to select at least one parameter"),
        ({"sparsity": 0.5, "layers": "regex:("}, "valid regular expression"),
        ({"sparsity": 0.999, "scope": "local"}, "144 of 144 at stem_conv/kernel"),
        ({"sparsity": {"stem": 0.999}, "scope": "local"}, "144 of 144 at stem_conv/kernel"),
        ({"sparsity": {"stem": 0.5}}, "scope='global' to be local"),
        (
            {"sparsity": {"nowhere": 0.5}, "scope": "local"},
            "The paths begin: stage1_block0/conv1/kernel",
        ),
        ({"sparsity": {"(": 0.5}, "scope": "local"}, "valid regular expression"),
        ({"sparsity": 0.5, "min_kept": -1}, "min_kept=-1"),
        ({"sparsity": 0.5, "min_kept": True}, "min_kept=True"),
        ({"sparsity": 0.5, "min_kept": 10**6}, "Lower it or min_kept"),
    ],
)
def test_bad_options_are_refused_with_the_remedy(params, options, words):
    with pytest.raises(InvalidInput) as caught:
        pruning.prune(params, **options)
    assert words in str(caught.value)


def test_all_bad_options_are_named_at_once(params):
    with pytest.raises(InvalidInput) as caught:
        pruning.prune(params, sparsity=2, scope="locl", min_kept=-1)
    assert len(caught.value.problems) == 3


def test_nan_scores_are_refused_by_path_and_number(params):
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["stem_conv"] = {"kernel": broken["stem_conv"]["kernel"].at[0, 0, 0, :3].set(jnp.nan)}
    broken["stage1_block0"] = broken["stage1_block0"] | {
        "conv1": {"kernel": jnp.full((3, 3, 16, 16), jnp.nan)}
    }
    for scope in SCOPES:
        with pytest.raises(InvalidInput) as caught:
            pruning.prune(broken, sparsity=0.5, scope=scope)
        assert len(caught.value.problems) == 2
        assert "stem_conv/kernel='3 NaN'" in str(caught.value)
        assert "stage1_block0/conv1/kernel='2304 NaN'" in str(caught.value)


def test_nan_where_nothing_is_pruned_is_not_looked_at():
    scores = {"w": np.arange(4.0), "b": np.array([np.nan])}
    mask = pruning.allocate(scores, {"w": True, "b": False}, sparsity=0.5)
    assert mask["w"].tolist() == [False, False, True, True]
    assert mask["b"].tolist() == [True]


def test_negative_scores_are_refused_by_lamp_only():
    scores = {"a": np.array([1.0, -2.0, 3.0])}
    with pytest.raises(InvalidInput, match="lowest score at a=-2.0 to be 0 or more"):
        allocate(scores, sparsity=0.4, scope="lamp")
    for scope in ("global", "local", "uniform", "erk"):
        assert_same(allocate(scores, sparsity=0.4, scope=scope), [np.array([True, False, True])])


def test_complex_scores_are_refused():
    with pytest.raises(InvalidInput, match="scores at a='complex64' to be real"):
        allocate({"a": np.ones(3, np.complex64)}, sparsity=0.4)


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_scores_go_by_index_with_a_warning(scope):
    with pytest.warns(pruning.PruningWarning, match="the index alone decides"):
        kept = allocate({"a": np.ones((2, 4), np.float32)}, sparsity=0.375, scope=scope)
    assert kept[0].ravel().tolist() == [False] * 3 + [True] * 5


def test_equal_scores_are_no_matter_where_nothing_is_removed():
    scores = {"one": np.ones(1), "equal": np.ones(3), "other": np.arange(4.0)}
    assert num_removed(allocate(scores, sparsity=0.0)) == [0, 0, 0]
    assert num_removed(allocate(scores, sparsity={"other": 0.5}, scope="local")) == [0, 0, 2]
    with pytest.warns(pruning.PruningWarning, match="equal at equal: the index"):
        assert num_removed(allocate(scores, sparsity=0.4, scope="local")) == [1, 0, 2]


def test_a_layer_that_loses_everything_is_warned_of_and_saved_by_a_minimum():
    scores = {"low": np.array([1.0, 2.0]), "high": np.arange(10.0, 18.0)}
    with pytest.warns(pruning.PruningWarning, match=r"Nothing is kept at low \(all 2 removed\)"):
        assert num_removed(allocate(scores, sparsity=0.5)) == [3, 2]
    assert num_removed(allocate(scores, sparsity=0.5, min_kept=1)) == [4, 1]


def test_nothing_prunable_is_refused():
    with pytest.raises(InvalidInput, match="prunable='no leaf' to mark at least one"):
        pruning.allocate({"a": np.ones(3)}, {"a": False}, sparsity=0.5)
    with pytest.raises(InvalidInput, match="prunable='no leaf'"):
        pruning.allocate({}, {}, sparsity=0.5)


@pytest.mark.parametrize(
    ("prunable", "words"),
    [
        ({"a": True}, ["prunable at='b' to be there"]),
        ({"a": True, "b": True, "c": False}, ["prunable at='c' not to be there"]),
        (
            [True, False],
            [
                *(f"'{name}' to be there" for name in "ab"),
                *(f"'{n}' not to be there" for n in "01"),
            ],
        ),
        (True, ["'a' to be there", "'b' to be there", "prunable at='' not to be there"]),
        ({"params": {"a": True, "b": True}}, ["is one only a part, such as its ['params']?"] * 4),
        ({"a": True, "b": np.array([True, False, True, False])}, ["prunable at b=array([ True"]),
        ({"a": 1, "b": True}, ["prunable at a=1 to be True or False"]),
    ],
)
def test_a_choice_of_other_leaves_than_the_scores_is_refused_by_path(prunable, words):
    scores = {"a": np.arange(4.0), "b": np.arange(4.0)}
    with pytest.raises(InvalidInput) as caught:
        pruning.allocate(scores, prunable, sparsity=0.5)
    assert len(caught.value.problems) == len(words)
    assert all(word in str(caught.value) for word in words)


def test_a_score_that_is_no_array_is_kept():
    mask = pruning.allocate({"a": np.arange(4.0), "n": 3}, {"a": True, "n": False}, sparsity=0.5)
    assert mask["n"].shape == ()


def test_scores_that_do_not_fit_the_parameters_are_refused_by_path(params):
    scores = jax.tree.map(jnp.abs, params)
    with pytest.raises(InvalidInput, match="scores at='stem_conv/kernel' to be there"):
        pruning.prune(
            params, sparsity=0.5, scores={key: scores[key] for key in scores if key != "stem_conv"}
        )
    turned = scores | {"stem_conv": {"kernel": scores["stem_conv"]["kernel"].T}}
    with pytest.raises(InvalidInput, match=r"scores at stem_conv/kernel.*\(16, 1, 3, 3\)"):
        pruning.prune(params, sparsity=0.5, scores=turned)


def test_given_scores_decide_instead_of_magnitudes():
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
    scores = {"kernel": jnp.array([[9.0, 1.0], [8.0, 2.0]])}
    mask = pruning.prune(params, scores=scores, sparsity=0.5, layers="all_kernels")
    assert mask["kernel"].tolist() == [[True, False], [True, False]]


def test_complex_weights_are_ranked_by_their_modulus():
    params = {"kernel": jnp.array([[3 + 4j, 1j], [-2.0, 6.0]], jnp.complex64)}
    mask = pruning.prune(params, sparsity=0.5, layers="all_kernels")
    assert mask["kernel"].tolist() == [[True, False], [False, True]]


def test_host_and_traced_ranking_agree_on_a_whole_network(params):
    leaves = [jnp.abs(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    count = round(0.8 * sum(leaf.size for leaf in leaves))
    traced = jax.jit(ranking.keep_highest_traced)(leaves, count)
    assert_same(
        [np.asarray(keep) for keep in traced],
        ranking.keep_highest([np.asarray(one) for one in leaves], count),
    )


def test_two_leaves_of_one_path_are_refused_by_name():
    tree = {"a/kernel": np.ones(3), "a": {"kernel": np.arange(3.0)}}
    with pytest.raises(InvalidInput, match="path='a/kernel' to be that of one leaf"):
        pruning.allocate(tree, jax.tree.map(lambda _: True, tree), sparsity=0.5)
    with pytest.raises(InvalidInput, match="path='a/kernel' to be that of one leaf"):
        pruning.select(tree, "regex:.")


def test_a_pattern_written_as_text_is_refused():
    with pytest.raises(InvalidInput, match="pattern='2:4' to be UNSTRUCTURED, Blocks"):
        pruning.prune(
            {"kernel": np.ones((4, 4))},
            sparsity=0.5,
            pattern="2:4",  # type: ignore[arg-type]
            layers="all_kernels",
        )


def test_every_wrong_argument_of_prune_is_named_at_once():
    with pytest.raises(InvalidInput) as caught:
        pruning.prune(
            {"kernel": np.ones((4, 4))},
            sparsity=1.5,
            scope="bogus",
            layers="kernels",
            pattern=pruning.NM,  # type: ignore[arg-type]
            min_kept=-1,
        )
    for thing in ("sparsity=1.5", "scope='bogus'", "layers='kernels'", "pattern=", "min_kept=-1"):
        assert thing in str(caught.value)
