"""The ledger against brute force, its sentences word for word, and its table as plain text."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from earlyprune_jax import models
from earlyprune_jax.pruning import get_mask, one_shot, selection, transform
from earlyprune_jax.pruning.account import ledger
from earlyprune_jax.pruning.costs import NO_WEIGHTS, macs
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput


@pytest.fixture(scope="module")
def network():
    module = models.build("resnet20", num_classes=10)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    statistics = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes["batch_stats"])
    counts = macs(
        lambda params, x: module.apply(
            {"params": params, "batch_stats": statistics}, x, train=False
        ),
        shapes["params"],
        images,
    )
    return shapes["params"], counts


def random_mask(params, sparsity, seed=0):
    """A random 1 - sparsity of every conv kernel is kept; one kernel has lost channels on both
    sides."""
    generator = np.random.default_rng(seed)
    mask = jax.tree.map(
        lambda leaf: generator.random(leaf.shape) >= (sparsity if leaf.ndim == 4 else 0), params
    )
    kernel = mask["stage2_block1"]["conv1"]["kernel"]
    kernel[..., :3] = False
    kernel[:, :, 5, :] = False
    return mask


def test_every_number_of_a_resnet20_agrees_with_counting(network):
    params, counts = network
    mask = random_mask(params, 0.97)
    account = ledger(params, mask, macs=counts)
    leaves, kept = dict(named_leaves(params)), dict(named_leaves(mask))
    assert [row.path for row in account.rows] == list(leaves)
    for row in account.rows:
        keep, leaf = kept[row.path], leaves[row.path]
        assert (row.shape, row.dtype, row.size) == (leaf.shape, "float32", leaf.size)
        assert (row.kept, row.removed) == (keep.sum(), (~keep).sum())
        assert row.sparsity == (~keep).mean()
        assert bool(row.excluded) == (leaf.ndim != 4)
        assert row.macs == counts.get(row.path, 0)
        assert row.macs_left == row.macs * keep.sum() / keep.size
        if leaf.ndim == 4:
            assert row.dead_outputs == sum(not keep[:, :, :, i].any() for i in range(keep.shape[3]))
            assert row.dead_inputs == sum(not keep[:, :, i, :].any() for i in range(keep.shape[2]))
        else:
            assert row.dead_outputs is row.dead_inputs is None
    convs = [keep for keep in kept.values() if keep.ndim == 4]
    assert account.prunable.size == sum(keep.size for keep in convs) == 267_696
    assert account.prunable.removed == sum((~keep).sum() for keep in convs)
    assert account.prunable.sparsity == account.prunable.removed / 267_696
    assert account.everything.size == 269_722
    assert account.everything.macs == 40_551_040
    assert (
        account.everything.macs_left
        == sum(row.macs_left or 0 for row in account.rows if not row.excluded) + 640
    )
    assert account.prunable.macs == 40_551_040 - 640
    pruned = next(row for row in account.rows if row.path == "stage2_block1/conv1/kernel")
    assert (pruned.dead_outputs or 0) >= 3 and (pruned.dead_inputs or 0) >= 1


def test_the_reason_of_every_exclusion_is_that_of_the_selection(network):
    params, _ = network
    account = ledger(params, random_mask(params, 0.5))
    reasons = selection.exclusions(params, "conv_kernels")
    assert {row.path: row.excluded for row in account.rows if row.excluded} == reasons


def sentences(mask, **options):
    params = mask_to_params(mask)
    return list(ledger(params, mask, **options).warnings)


def conv_mask(shape=(3, 3, 16, 16)):
    return {"conv2": {"bias": np.ones(shape[-1], bool), "kernel": np.ones(shape, bool)}}


def test_nothing_is_said_of_a_sound_mask():
    assert sentences(conv_mask(), requested=0.0) == []


def test_a_collapsed_layer_is_named_with_its_weights_and_its_channels_are_not_listed_again():
    mask = conv_mask()
    mask["conv2"]["kernel"][...] = False
    assert sentences(mask) == [
        "conv2/kernel lost all of its 2304 weights: nothing passes through it. "
        "Prune with min_kept=1, or scope='erk'."
    ]


def test_dead_channels_are_counted_on_both_sides():
    mask = conv_mask()
    mask["conv2"]["kernel"][..., [1, 7]] = False
    mask["conv2"]["kernel"][:, :, 4] = False
    assert sentences(mask) == [
        "conv2/kernel has channels without a weight: 2 of 16 outputs and 1 of 16 inputs."
    ]


def test_a_leaf_named_weight_has_its_output_axis_first():
    keep = np.ones((5, 4, 3, 3), bool)
    keep[0] = keep[1] = False
    keep[:, 2] = False
    row = ledger({"weight": np.ones(keep.shape, np.float32)}, {"weight": keep}).rows[0]
    assert (row.dead_outputs, row.dead_inputs) == (2, 1)


def test_weights_removed_from_a_leaf_that_may_not_be_pruned_are_told_in_one_sentence():
    mask = conv_mask()
    mask["conv2"]["bias"][:3] = False
    (said,) = sentences(mask, layers="conv_kernels")
    assert said.startswith(
        "The mask also removes entries of leaves that `layers` excludes: conv2/bias (3 of 16)."
    )


def test_a_mask_on_integers_is_told():
    params = {"kernel": np.ones((2, 2), np.float32), "steps": np.arange(4), "act": len}
    mask = {"kernel": np.ones((2, 2), bool), "steps": np.arange(4) > 1, "act": np.array(True)}
    account = ledger(params, mask, layers="all_kernels")
    (warning,) = account.warnings
    assert "leaves that `layers` excludes: steps (2 of 4)." in warning
    assert [(row.path, row.size, row.dtype) for row in account.rows] == [
        ("act", 0, "builtin_function_or_method"),
        ("kernel", 4, "float32"),
        ("steps", 0, "int64"),
    ]


def mixed_mask():
    """Two conv kernels, a dense one, biases and an embedding, all kept."""
    shapes = {
        "conv1": {"kernel": (3, 3, 4, 8), "bias": (8,)},
        "conv2": {"kernel": (3, 3, 8, 8)},
        "head": {"kernel": (8, 10), "bias": (10,)},
        "table": {"embedding": (20, 8)},
    }
    return jax.tree.map(
        lambda shape: np.ones(shape, bool), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def prunable_in(account):
    return {row.path for row in account.rows if not row.excluded}


@pytest.mark.parametrize(
    ("pruned", "read_off", "prunable"),
    [
        ([], "conv_kernels", {"conv1/kernel", "conv2/kernel"}),
        # Of a layer that lost nothing by chance the request holds all the same.
        (["conv1/kernel"], "conv_kernels", {"conv1/kernel", "conv2/kernel"}),
        (["head/kernel"], "dense_kernels", {"head/kernel"}),
        (
            ["conv1/kernel", "head/kernel"],
            "all_kernels",
            {"conv1/kernel", "conv2/kernel", "head/kernel"},
        ),
        (["table/embedding"], "the leaves that it prunes", {"table/embedding"}),
    ],
)
def test_without_layers_they_are_read_off_the_mask_and_the_table_says_so(
    pruned, read_off, prunable
):
    mask = mixed_mask()
    for name, keep in named_leaves(mask):
        keep.reshape(-1)[:5] = name not in pruned
    account = ledger(mask_to_params(mask), mask)
    assert prunable_in(account) == prunable
    assert account.warnings == ()
    assert f"Prunable, read off the mask: {read_off}." in str(account).splitlines()


@pytest.mark.parametrize("layers", ["all_kernels", "conv_kernels", "dense_kernels"])
def test_a_mask_that_transform_has_made_needs_no_layers(layers):
    params = mask_to_params(mixed_mask())
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: noise.normal(size=leaf.shape).astype(np.float32), params)
    optimizer = transform(optax.sgd(0.0), one_shot(0.5, at=0), layers=layers)
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update(jax.tree.map(np.zeros_like, params), state, params)
    account = ledger(params, get_mask(state), requested=0.5)
    assert account.warnings == ()
    chosen = dict(named_leaves(selection.select(params, layers)))
    assert prunable_in(account) == {name for name, is_in in chosen.items() if is_in}


def test_layers_that_are_given_win_and_what_is_pruned_outside_of_them_is_told():
    mask = mixed_mask()
    for name in ("conv1", "head"):
        mask[name]["kernel"].reshape(-1)[:5] = False
    account = ledger(mask_to_params(mask), mask, layers="conv_kernels")
    assert prunable_in(account) == {"conv1/kernel", "conv2/kernel"}
    (said,) = account.warnings
    assert "leaves that `layers` excludes: head/kernel (5 of 80)." in said
    assert "read off" not in str(account)


def test_masks_of_some_layers_are_compared_with_all_of_their_kind_until_layers_are_given():
    mask = mixed_mask()
    kernel = mask["conv2"]["kernel"]
    kernel[...] = np.indices(kernel.shape).sum(axis=0) % 2 == 0
    (said,) = sentences(mask, requested=0.5)
    assert said == (
        "prunable: 288 of 864 weights are removed (0.333333), not 432 as requested (0.5). "
        "If the mask was made with other `layers`, give them."
    )
    assert sentences(mask, requested=0.5, layers="regex:conv2") == []


def test_pruned_norms_beside_kernels_are_told_as_masks_of_channels_prune_them():
    mask = mixed_mask()
    for name in ("kernel", "bias"):
        mask["conv1"][name][..., 0] = False
    (dead, said) = sentences(mask)
    assert "channels without a weight" in dead
    assert "leaves that conv_kernels excludes: conv1/bias (1 of 8)." in said


def test_a_notebook_shows_the_table():
    class Printer:
        def __init__(self):
            self.shown = []
            self.text = self.shown.append

    mask, printer = conv_mask(), Printer()
    account = ledger(mask_to_params(mask), mask)
    account._repr_pretty_(printer, cycle=False)
    assert printer.shown == [str(account)]


def test_an_empty_selection_is_told():
    mask = {"bias": np.ones(3, bool)}
    said = "No leaf may be pruned: `layers` selects none."
    assert sentences(mask, layers="conv_kernels") == [said]
    said = "No leaf may be pruned: the mask prunes no weights, and none is a kernel."
    assert sentences(mask) == [said]


@pytest.mark.parametrize("removed", [1151, 1152, 1153])
def test_a_total_request_is_met_by_exactly_the_rounded_count(removed):
    mask = conv_mask()
    mask["conv2"]["kernel"].reshape(-1)[:removed] = False
    every = sentences(mask, layers="conv_kernels", requested=0.5002)
    missed = [said for said in every if "as requested" in said]
    found = (
        f"prunable: {removed} of 2304 weights are removed ({removed / 2304:.6g}), "
        "not 1152 as requested (0.5002)."
    )
    assert missed == ([] if removed == 1152 else [found])


def test_a_request_per_leaf_is_compared_leaf_by_leaf():
    kernel = np.ones((3, 3, 4, 5), bool)
    mask = {"a": {"kernel": kernel.copy()}, "b": {"kernel": kernel.copy()}, "c": {"kernel": kernel}}
    mask["a"]["kernel"].reshape(-1)[::2] = False
    mask["b"]["kernel"].reshape(-1)[::2] = False
    params = mask_to_params(mask)
    account = ledger(params, mask, requested={"a/kernel": 0.5, "b/kernel": 0.25})
    assert account.warnings == (
        "b/kernel: 90 of 180 weights are removed (0.5), not 45 as requested (0.25).",
    )
    assert [row.requested for row in account.rows] == [0.5, 0.25, 0.0]
    assert account.requested is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requested": 1.5}, "requested: Expected sparsity=1.5 in [0, 1)"),
        ({"requested": {"conv2/kernel": -1}}, "sparsity['conv2/kernel']=-1 in [0, 1)"),
        ({"requested": {"conv2/kernle": 0.5}}, "The paths begin: conv2/kernel."),
        ({"requested": {"conv2/bias": 0.5}}, "to match the path of some prunable layer"),
        ({"requested": {"(": 0.5}}, "valid regular expression"),
        ({"macs": {"conv3/kernel": 5}}, "macs for='conv3/kernel' to be the path of a leaf"),
        ({"layers": "conv_kernel"}, "Did you mean 'conv_kernels'?"),
    ],
)
def test_bad_options_are_refused_with_the_remedy(options, words):
    with pytest.raises(InvalidInput) as caught:
        sentences(conv_mask(), **options)
    assert words in str(caught.value)


def test_a_mask_of_another_shape_is_refused_by_path():
    with pytest.raises(InvalidInput, match="conv2/kernel"):
        ledger(conv_mask((3, 3, 16, 8)), conv_mask((3, 3, 8, 16)))


def test_a_leaf_of_no_weights_is_neither_collapsed_nor_dead():
    mask = {"kernel": np.ones((3, 3, 0, 4), bool), "other": {"kernel": np.ones((3, 3, 2, 4), bool)}}
    assert sentences(mask, requested=0.0) == []


def test_the_dict_is_json_and_holds_what_the_ledger_holds(network):
    params, counts = network
    mask = random_mask(params, 0.9)
    counts = {name: np.int64(count) for name, count in counts.items()} | {NO_WEIGHTS: 7}
    from_numpy: Any = {"requested": np.float32(0.9), "macs": counts}
    account = ledger(params, mask, **from_numpy)
    read = json.loads(json.dumps(account.as_dict(), allow_nan=False))
    assert read == account.as_dict()
    assert read["everything"]["macs"] == 40_551_047
    assert read["prunable"]["removed"] == account.prunable.removed
    assert [row["path"] for row in read["rows"]] == [row.path for row in account.rows]
    assert read["warnings"] == list(account.warnings)


def test_the_text_has_no_colour_codes_no_wrapping_and_every_prunable_layer(network, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    params, counts = network
    account = ledger(params, random_mask(params, 0.9), requested=0.9, macs=counts)
    lines = str(account).splitlines()
    assert "\x1b" not in str(account)
    for row in account.rows:
        shown = [
            line for line in lines if line.startswith(row.path + " ") and "Warning" not in line
        ]
        assert len(shown) == (0 if row.excluded else 1)
        if shown:
            assert f"{row.kept:,}" in shown[0] and f"{row.macs_left:,}" in shown[0]
    assert any(
        line.startswith("prunable") and "267,696" in line and "0.9000" in line for line in lines
    )
    assert any(
        line.startswith("all weights") and "269,722" in line and "40,551,040" in line
        for line in lines
    )


def test_a_path_that_looks_like_markup_is_shown_as_it_is():
    mask = {"[red]": {"kernel": np.ones((1, 1, 1, 1), bool)}}
    assert "[red]/kernel" in str(ledger(mask_to_params(mask), mask))


def mask_to_params(mask):
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), mask)
