"""The Transformer: sizes, masks, cached steps, modes and refusals."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from earlyprune_jax import models
from earlyprune_jax.data.vocabulary import BEGIN, END, PAD
from earlyprune_jax.layer_hooks import coverage
from earlyprune_jax.models import forward
from earlyprune_jax.models.transformer import Attention, Transformer, sinusoids
from earlyprune_jax.pruning.selection import select
from earlyprune_jax.validate import InvalidInput

SMALL = {"width": 16, "num_heads": 4, "feed_forward_width": 24}
SOURCE = np.array([[5, 6, 7, 8, END], [9, 4, END, 0, 0], [10, END, 0, 0, 0]], np.uint16)
TARGET = np.array([[4, 5, 6, END], [7, END, 0, 0], [12, 11, 10, END]], np.uint16)
BATCH = {"source": SOURCE, "target": TARGET}
FORMS = [("pre", "none"), ("post", "output"), ("pre", "all")]


def abstract_params(module) -> dict[str, Any]:
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), BATCH)
    variables = jax.eval_shape(lambda b: forward.init(module, jax.random.key(0), b), batch)
    return traverse_util.flatten_dict(variables["params"], sep="/")


@functools.cache
def small(norm="pre", tied="none", num_layers=1, **options):
    """A module in which no norm is an identity and no bias is 0, and its variables."""
    module = Transformer(13, 13, norm=norm, tied=tied, num_layers=num_layers, **SMALL, **options)
    rng = np.random.default_rng(0)
    params = {
        path: leaf_values(rng, path, leaf.shape) for path, leaf in abstract_params(module).items()
    }
    return module, {"params": traverse_util.unflatten_dict(params, sep="/")}


def leaf_values(rng, path, shape):
    centre, std = (1, 0.3) if path.endswith("scale") else (0, 0.4)
    return rng.normal(centre, std, shape).astype(np.float32)


@functools.cache
def logits_of(norm="pre", tied="none", **options):
    module, variables = small(norm, tied, **options)
    evaluate = jax.jit(functools.partial(forward.evaluate, module))
    return lambda batch: np.asarray(evaluate(variables, batch))


def base_count(source_size, target_size, norm, tied):
    """The formula: every linear layer has a bias, but for an output that is the embedding."""
    width, hidden = 512, 2048
    attention = 4 * (width * width + width)
    feed_forward = (width * hidden + hidden) + (hidden * width + width)
    layer_norm = 2 * width
    encoder = attention + feed_forward + 2 * layer_norm
    decoder = 2 * attention + feed_forward + 3 * layer_norm
    embeddings = width * (source_size if tied == "all" else source_size + target_size)
    output = width * target_size + target_size if tied == "none" else 0
    last_norms = 2 * layer_norm if norm == "pre" else 0
    return 6 * (encoder + decoder) + embeddings + output + last_norms


@pytest.mark.parametrize(("norm", "tied"), FORMS)
def test_parameter_count_of_base_size_is_that_of_the_formula(norm, tied):
    sizes = (1000, 1000) if tied == "all" else (1000, 700)
    params = abstract_params(Transformer(*sizes, norm=norm, tied=tied))
    assert sum(leaf.size for leaf in params.values()) == base_count(*sizes, norm, tied)
    assert {leaf.dtype for leaf in params.values()} == {np.dtype("float32")}


def test_the_97_linear_matrices_of_base_size_are_the_dense_kernels():
    params = abstract_params(Transformer(1000, 700))
    kernels = {path: leaf for path, leaf in params.items() if path.endswith("/kernel")}
    assert len(kernels) == 97
    assert sum(leaf.size for leaf in kernels.values()) == 44_040_192 + 512 * 700
    assert {leaf.ndim for leaf in kernels.values()} == {2}
    prunable = select(traverse_util.unflatten_dict(params, sep="/"), "dense_kernels")
    flags = traverse_util.flatten_dict(prunable, sep="/")
    assert {path for path, is_prunable in flags.items() if is_prunable} == set(kernels)
    names = {"encoder_0/self_attention/query", "decoder_5/source_attention/output", "output"}
    names |= {"encoder_5/feed_forward_in", "decoder_0/self_attention/key"}
    assert {f"{name}/kernel" for name in names} <= set(kernels)


def test_sinusoids_are_those_of_the_paper():
    found = sinusoids(jnp.arange(7), 6)
    for position in range(7):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(
                found[position, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6
            )


def test_attention_equals_a_loop_over_rows_heads_and_queries():
    rng = np.random.default_rng(1)
    module, x = Attention(6, 2, jnp.float32), rng.normal(size=(4, 1, 6)).astype(np.float32)
    source = rng.normal(size=(2, 5, 6)).astype(np.float32)
    is_token = np.arange(5)[None] < np.array([5, 3])[:, None]

    def attend(module, x, source, mask):
        return module(x, module.memory(source), mask)

    mask = is_token[:, None, None]
    run: Any = functools.partial(module.apply, method=attend)
    params = module.init(jax.random.key(0), x, source, mask, method=attend)["params"]
    kernels = {name: np.asarray(params[name]["kernel"]) for name in params}
    expected = np.zeros((4, 1, 6))
    for row in range(4):  # two rows to each source
        tokens = source[row // 2][is_token[row // 2]]
        for head in (slice(0, 3), slice(3, 6)):
            query = x[row, 0] @ kernels["query"][:, head]
            weights = np.exp(tokens @ kernels["key"][:, head] @ query / np.sqrt(3))
            value = weights @ (tokens @ kernels["value"][:, head]) / weights.sum()
            expected[row, 0] += value @ kernels["output"][head]
    np.testing.assert_allclose(run({"params": params}, x, source, mask), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "tied", "rows_per_source"),
    [("pre", "none", 1), ("post", "output", 3), ("pre", "all", 2)],
)
def test_cached_steps_equal_full_decoding_at_every_position(norm, tied, rows_per_source):
    module, variables = small(norm, tied, num_layers=2)
    rng = np.random.default_rng(2)
    ids = rng.integers(1, 13, (3 * rows_per_source, 6))
    ids[:, 0] = BEGIN

    @jax.jit
    def both(variables, ids):
        apply = functools.partial(module.apply, variables)
        encoded = apply(SOURCE, method="encode")
        tiled = apply(np.repeat(SOURCE, rows_per_source, axis=0), method="encode")
        full = apply(ids, tiled, method="decode")

        def step(cache, position):
            logits, cache = apply(ids[:, position], position, cache, encoded, method="step")
            return cache, logits

        cache = module.empty_cache(len(ids), length=9)
        return full, jax.lax.scan(step, cache, jnp.arange(6))[1]

    full, steps = both(variables, ids)
    np.testing.assert_allclose(np.swapaxes(steps, 0, 1), full, atol=2e-5)


def test_logits_are_those_of_decoding_begin_and_the_earlier_tokens():
    module, variables = small()
    shifted = np.concatenate([np.full((3, 1), BEGIN, np.uint16), TARGET[:, :-1]], axis=1)

    @jax.jit
    def direct(variables):
        encoded = module.apply(variables, SOURCE, method="encode")
        return module.apply(variables, shifted, encoded, method="decode")

    # Those of padding, which nobody looks at, are 0.
    wanted = np.where((TARGET != PAD)[..., None], direct(variables), 0.0)
    np.testing.assert_allclose(logits_of()(BATCH), wanted, atol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_padding_and_other_sentences_never_change_a_sentences_logits(norm):
    logits = logits_of(norm)
    found = logits(BATCH)
    alone = {"source": SOURCE[1:2, :3], "target": TARGET[1:2, :2]}
    np.testing.assert_allclose(logits(alone)[0], found[1, :2], atol=1e-5)


def test_logits_depend_on_every_earlier_token_and_on_no_later_one():
    whole = np.where(TARGET == PAD, 5, TARGET)
    found = logits_of()({**BATCH, "target": whole})
    for position in range(4):
        target = whole.copy()
        target[:, position] = 9
        changed = np.abs(logits_of()({**BATCH, "target": target}) - found).max((0, 2)) > 1e-6
        assert changed.tolist() == [t > position for t in range(4)]


def test_a_row_of_padding_alone_has_finite_logits_and_gradients():
    module, variables = small()
    nothing = jax.tree.map(jnp.zeros_like, BATCH)

    def total(params):
        return jnp.sum(forward.evaluate(module, {"params": params}, nothing))

    value, gradients = jax.jit(jax.value_and_grad(total))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradients)))


def test_dropout_acts_in_training_alone():
    module, variables = small()
    train = jax.jit(functools.partial(forward.train, module, variables["params"], {}))
    first, again, other = (train(BATCH, jax.random.PRNGKey(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    found = logits_of()(BATCH)
    assert np.abs(first - found).max() > 0.1


def test_bfloat16_computes_layers_alone():
    module, variables = small(dtype=jnp.bfloat16)
    found = logits_of(dtype=jnp.bfloat16)(BATCH)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits_of()(BATCH), atol=0.15)
    assert {leaf.dtype for leaf in abstract_params(module).values()} == {np.dtype("float32")}
    encode = functools.partial(module.apply, method="encode")
    memories, _ = jax.eval_shape(encode, variables, SOURCE)
    cached = jax.tree.leaves((memories, module.empty_cache(2, 3)))
    assert {leaf.dtype for leaf in cached} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize("tied", ["none", "output", "all"])
def test_layerwise_gradients_cover_every_layer_an_embedding_that_is_the_output_too(tied):
    module, variables = small(tied=tied)
    apply = functools.partial(forward.evaluate, module)
    assert coverage(apply, variables, BATCH).notes == ()


def test_a_config_names_it_with_literal_arguments():
    make = models.factory("transformer(num_layers=1, norm='post', width=16, num_heads=2)")
    module = make(source_size=9, target_size=8, dtype=jnp.dtype("bfloat16"))
    wanted = Transformer(
        9, 8, num_layers=1, norm="post", width=16, num_heads=2, dtype=jnp.dtype("bfloat16")
    )
    assert module == wanted
    assert hash(module) == hash(wanted)


def test_a_width_multiplier_is_refused_by_name():
    with pytest.raises(InvalidInput, match="transformer has no argument width_multiplier"):
        models.factory("transformer", width_multiplier=0.5)


def test_a_network_for_images_and_a_transformer_are_not_taken_for_one_another():
    with pytest.raises(InvalidInput, match="model.name='transformer' to be makeable"):
        models.factory("transformer")(num_classes=10)
    with pytest.raises(InvalidInput, match="model.name='resnet8' to be makeable"):
        models.factory("resnet8")(source_size=9, target_size=9)


@pytest.mark.parametrize(
    ("options", "things"),
    [
        ({"source_size": 3, "target_size": True}, ["source_size", "target_size"]),
        ({"num_layers": 0, "num_heads": 2.0}, ["num_layers", "num_heads"]),
        ({"norm": "mid", "tied": "both", "dropout": 1.0}, ["norm", "tied", "dropout"]),
        ({"width": 15, "num_heads": 3}, ["width"]),
        ({"width": 16, "num_heads": 3}, ["width"]),
        ({"tied": "all"}, ["target_size"]),
    ],
)
def test_unusable_arguments_are_refused_together(options, things):
    with pytest.raises(InvalidInput) as error:
        Transformer(**({"source_size": 9, "target_size": 8} | options))
    assert [problem.split()[1].split("=")[0] for problem in error.value.problems] == things
