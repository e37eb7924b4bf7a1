"""Files: bit-exact round trips of every kind of tree, sizes on disk, and refusals that name what is
wrong."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import earlyprune_jax
from earlyprune_jax import models
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.files import (
    load_dense,
    load_sparse,
    save_dense,
    save_sparse,
)
from earlyprune_jax.pruning.trees import is_weight
from earlyprune_jax.validate import InvalidInput


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def random_mask(params, kept_fraction, seed=0):
    generator = np.random.default_rng(seed)

    def keep(leaf):
        return jnp.asarray(
            generator.random(np.shape(leaf)) < (kept_fraction if is_weight(leaf) else 1)
        )

    return jax.tree.map(keep, params)


def assert_round_trip(path, params, mask, like=None):
    saved = save_sparse(path, params, mask)
    loaded, loaded_mask = load_sparse(path, params if like is None else like)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    masks.check(loaded_mask, loaded)
    for leaf, keep, new, new_keep in zip(
        *map(jax.tree.leaves, (params, mask, loaded, loaded_mask)), strict=True
    ):
        np.testing.assert_array_equal(new_keep, keep)
        if not hasattr(leaf, "dtype"):
            assert new is leaf
            continue
        assert (type(new), new.dtype, new.shape) == (type(leaf), leaf.dtype, leaf.shape)
        old, new, keep = np.asarray(leaf), np.asarray(new), np.asarray(keep)
        np.testing.assert_array_equal(bits(new[keep]), bits(old[keep]))
        assert not bits(new[~keep]).any()
    return saved


@pytest.fixture(scope="module")
def resnet():
    module = models.build("resnet20", num_classes=10)
    images = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))["params"]
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), jnp.float32), shapes
    )


def test_a_resnet20_at_90_percent_comes_back_and_is_smaller_on_disk(tmp_path, resnet):
    mask = random_mask(resnet, 0.1)
    path = tmp_path / "resnet20.safetensors"
    saved = assert_round_trip(path, resnet, mask)
    assert saved.bytes_on_disk == path.stat().st_size
    assert (
        saved.dense_bytes == 4 * sum(leaf.size for leaf in jax.tree.leaves(resnet)) == 4 * 269_722
    )
    assert saved.bytes_on_disk < 0.2 * saved.dense_bytes
    dense = save_dense(tmp_path / "dense.safetensors", resnet, mask)
    assert (
        dense.bytes_on_disk == (tmp_path / "dense.safetensors").stat().st_size > dense.dense_bytes
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_random_trees_of_any_dtype_and_shape_come_back_bit_for_bit(tmp_path_factory, data):
    names = ("f2", "f4", "f8", ml_dtypes.bfloat16)
    dtypes = [np.dtype(name) for name in names]
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def leaf():
        dtype = data.draw(st.sampled_from(dtypes))
        shape = data.draw(st.sampled_from([(), (0,), (5,), (3, 4), (2, 0, 3), (2, 3, 4), (1, 300)]))
        raw = generator.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
        return raw.view(dtype).reshape(shape)

    params = {"b": [leaf(), (leaf(), np.arange(4, dtype=np.uint16))], "a/c": {"kernel": leaf()}}
    mask = jax.tree.map(
        lambda leaf: generator.random(leaf.shape) < data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        params,
    )
    mask["b"][1] = (mask["b"][1][0], np.ones(4, bool))
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    assert_round_trip(path, params, mask)


def test_every_bit_of_kept_values_survives_and_removed_ones_become_plus_zero(tmp_path):
    words = np.array(
        [0x80000000, 0x7F800000, 0xFFC12345, 0x7F800001, 0x00000001, 0x3F800000], np.uint32
    )
    params = {"w": jnp.asarray(np.concatenate([words, words]).view(np.float32))}
    mask = {"w": jnp.arange(12) < 6}
    save_sparse(tmp_path / "f", params, mask)
    found = np.asarray(load_sparse(tmp_path / "f", params)[0]["w"]).view(np.uint32)
    assert found.tolist() == [*words.tolist(), 0, 0, 0, 0, 0, 0]
    save_dense(tmp_path / "f", params, mask)
    found = np.asarray(load_dense(tmp_path / "f", params)["w"]).view(np.uint32)
    assert found.tolist() == [*words.tolist(), 0, 0, 0, 0, 0, 0]


class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    activation: object
    counts: jax.Array
    key: jax.Array
    rate: float


def test_an_equinox_module_keeps_its_functions_numbers_keys_and_integers(tmp_path):
    conv = eqx.nn.Conv2d(2, 4, 3, key=jax.random.key(1))
    net = Net(conv, jax.nn.gelu, jnp.arange(3), jax.random.key(7), 0.5)
    mask = random_mask(net, 0.5)
    saved = save_sparse(tmp_path / "net", net, mask)
    assert dict(saved.encodings) == {
        "conv/weight": "bitmask",
        "conv/bias": "bitmask",
        "counts": "dense",
    }
    other = Net(
        jax.tree.map(jnp.zeros_like, conv), jax.nn.gelu, jnp.zeros(3, int), jax.random.key(8), 0.25
    )
    loaded, loaded_mask = load_sparse(tmp_path / "net", other)
    assert loaded.activation is jax.nn.gelu and loaded.rate == 0.25 and loaded.key is other.key
    assert loaded.counts.tolist() == [0, 1, 2]
    pruned = np.where(mask.conv.weight, conv.weight, 0)
    np.testing.assert_array_equal(loaded.conv.weight, pruned)
    masks.check(loaded_mask, net)
    assert load_dense(save_dense_at(tmp_path / "dense", net, mask), other).activation is jax.nn.gelu


def save_dense_at(path, params, mask):
    save_dense(path, params, mask)
    return path


def test_an_nnx_state_comes_back_under_the_names_of_linen_and_fits_its_model(tmp_path):
    model = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    mask = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 2 == 0, state)
    saved = assert_round_trip(tmp_path / "nnx", state, mask)
    assert set(saved.encodings) == {"kernel", "bias"}
    nnx.update(model, load_sparse(tmp_path / "nnx", state)[0])
    assert not np.asarray(model.kernel[...]).reshape(-1)[1::2].any()
    linen = {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)}
    np.testing.assert_array_equal(
        load_sparse(tmp_path / "nnx", linen)[0]["kernel"], model.kernel[...]
    )


def test_lists_tuples_and_a_bare_array_come_back(tmp_path):
    for params in ([jnp.ones(3), (jnp.arange(6.0).reshape(2, 3),)], jnp.arange(5.0)):
        assert_round_trip(tmp_path / "f", params, random_mask(params, 0.5))


def test_shapes_are_enough_to_load_into(tmp_path):
    params = {"w": jnp.arange(6.0, dtype=jnp.bfloat16), "wide": np.arange(3.0)}
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert_round_trip(tmp_path / "f", params, random_mask(params, 0.5), like=like)


def test_memory_in_another_order_is_saved_as_it_reads(tmp_path):
    params = {"dense": np.arange(6.0).reshape(2, 3).T, "sparse": np.arange(6.0).reshape(2, 3).T}
    mask = {"dense": np.ones((3, 2), bool), "sparse": (np.arange(6) % 2).reshape(2, 3).T > 0}
    assert_round_trip(tmp_path / "f", params, mask)
    save_dense(tmp_path / "f", params, jax.tree.map(np.ones_like, mask))
    np.testing.assert_array_equal(
        safetensors.numpy.load_file(tmp_path / "f")["dense"], params["dense"]
    )


def test_arrays_of_the_other_byte_order_keep_their_values(tmp_path):
    params, mask = {"w": np.arange(4.0).astype(">f4")}, {"w": np.arange(4) > 1}
    save_sparse(tmp_path / "f", params, mask)
    assert load_sparse(tmp_path / "f", params)[0]["w"].tolist() == [0, 0, 2, 3]
    save_dense(tmp_path / "f", params, mask)
    assert load_dense(tmp_path / "f", params)["w"].tolist() == [0, 0, 2, 3]


def test_the_metadata_tells_format_version_and_every_leaf(tmp_path):
    params = {"b": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}, "a": jnp.ones(2)}
    save_sparse(tmp_path / "f", params, random_mask(params, 0.0))
    with safetensors.safe_open(tmp_path / "f", framework="np") as file:
        metadata = file.metadata()
    assert metadata["file_format"] == "earlyprune_jax/sparse"
    assert metadata["file_version"] == "1"
    assert metadata["written_by"] == f"earlyprune_jax {earlyprune_jax.__version__}"
    assert json.loads(metadata["tensors"]) == {
        "a": {"encoding": "bitmask", "shape": [2], "dtype": "float32"},
        "b/kernel": {"encoding": "bitmask", "shape": [2, 3], "dtype": "bfloat16"},
    }


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16", "int32"])
def test_a_dense_file_is_read_by_safetensors_itself_with_zeros_where_removed(tmp_path, dtype):
    array = np.arange(1, 7).reshape(2, 3).astype(jnp.dtype(dtype))
    mask = np.arange(6).reshape(2, 3) % 2 == 0 if dtype != "int32" else np.ones((2, 3), bool)
    save_dense(tmp_path / "f", {"conv": {"kernel": array}}, {"conv": {"kernel": mask}})
    with safetensors.safe_open(tmp_path / "f", framework="np") as file:
        read = file.get_tensor("conv/kernel")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, np.where(mask, array, 0))
    loaded = load_dense(tmp_path / "f", {"conv": {"kernel": np.zeros((2, 3), jnp.dtype(dtype))}})
    np.testing.assert_array_equal(loaded["conv"]["kernel"], read)


@pytest.mark.slow
def test_a_dense_file_is_read_by_torch(tmp_path):
    import safetensors.torch

    save_dense(
        tmp_path / "f",
        {"w": jnp.arange(3.0, dtype=jnp.bfloat16)},
        {"w": jnp.array([True, True, False])},
    )
    read = safetensors.torch.load_file(tmp_path / "f")["w"]
    assert str(read.dtype) == "torch.bfloat16" and read.tolist() == [0.0, 1.0, 0.0]


def test_a_file_that_others_wrote_is_loaded_by_its_names(tmp_path):
    safetensors.numpy.save_file({"conv/kernel": np.ones((2, 2), np.float32)}, tmp_path / "f")
    loaded = load_dense(tmp_path / "f", {"conv": {"kernel": jnp.zeros((2, 2)), "act": len}})
    assert loaded["conv"]["kernel"].tolist() == [[1, 1], [1, 1]]


PARAMS = {"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.ones(4, np.float32)}
MASK = {"a": {"kernel": np.tri(2, 3) > 0}, "b": np.ones(4, bool)}


@pytest.mark.parametrize("load", [load_sparse, load_dense])
def test_every_missing_extra_and_different_leaf_is_named_at_once(tmp_path, load):
    save = save_sparse if load is load_sparse else save_dense
    params = {**PARAMS, "c": np.ones(2, np.float32), "d": np.ones(2, np.float32)}
    save(tmp_path / "f", params, {**MASK, "c": np.ones(2, bool), "d": np.ones(2, bool)})
    like = {
        "a": {"kernel": np.ones((3, 2), np.float32)},
        "b": np.ones(4, np.float16),
        "d": params["d"],
        "e": 1,
    }
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path / "f", {**like, "f": np.ones(1)})
    said = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "Expected a/kernel='float32[2, 3]' to be float32[3, 2], as in `like`." in said
    assert "Expected b='float32[4]' to be float16[4]," in said
    assert "Expected c='float32[2]' to be absent," in said
    assert "Expected f='missing' to be float64[1]," in said
    assert str(tmp_path / "f") in said


@pytest.mark.parametrize("load", [load_sparse, load_dense])
@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_truncated_files_are_refused(tmp_path, load, cut):
    save = save_sparse if load is load_sparse else save_dense
    save(tmp_path / "f", PARAMS, MASK)
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:cut])
    with pytest.raises(InvalidInput, match="whole safetensors file.*truncated"):
        load(tmp_path / "f", PARAMS)


@pytest.mark.parametrize("load", [load_sparse, load_dense])
def test_other_files_and_no_files_are_refused(tmp_path, load):
    (tmp_path / "text").write_text("not tensors, but long enough to hold a header's length")
    with pytest.raises(InvalidInput, match="whole safetensors file"):
        load(tmp_path / "text", PARAMS)
    with pytest.raises(InvalidInput, match="readable file. No such file"):
        load(tmp_path / "nothing", PARAMS)
    with pytest.raises(InvalidInput, match="readable file"):
        load(tmp_path, PARAMS)


def rewrite(
    path, change_metadata=lambda metadata: metadata, change_tensors=lambda tensors: tensors
):
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
    tensors = safetensors.numpy.load_file(path)
    kept = {name: text for name, text in metadata.items() if name != "sha256"}
    content = safetensors.numpy.save(change_tensors(tensors), change_metadata(kept))
    path.write_bytes(content)


def test_another_format_or_version_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "f"
    save_dense(path, PARAMS, MASK)
    with pytest.raises(InvalidInput, match="to be earlyprune_jax/sparse. Read it with load_dense"):
        load_sparse(path, PARAMS)
    save_sparse(path, PARAMS, MASK)
    with pytest.raises(InvalidInput, match="to be earlyprune_jax/dense. Read it with load_sparse"):
        load_dense(path, PARAMS)
    rewrite(
        path, lambda metadata: {**metadata, "file_version": "2", "written_by": "earlyprune_jax 9.1"}
    )
    with pytest.raises(
        InvalidInput, match="version.*'2' to be 1. It was written by earlyprune_jax 9.1"
    ):
        load_sparse(path, PARAMS)
    safetensors.numpy.save_file({"b": np.ones(4)}, path)
    with pytest.raises(InvalidInput, match="format of .*None to be earlyprune_jax/sparse"):
        load_sparse(path, PARAMS)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"b": 3}', '{"b": {"shape": 1, "dtype": "f", "encoding": "rows"}}']
)
def test_damaged_metadata_is_refused(tmp_path, text):
    save_sparse(tmp_path / "f", PARAMS, MASK)
    rewrite(tmp_path / "f", lambda metadata: {**metadata, "tensors": text})
    with pytest.raises(InvalidInput, match="metadata"):
        load_sparse(tmp_path / "f", PARAMS)


def test_tensors_that_the_metadata_does_not_know_and_those_it_misses_are_named(tmp_path):
    save_sparse(tmp_path / "f", PARAMS, MASK)
    rewrite(
        tmp_path / "f", change_tensors=lambda found: {"b": found["b"], "x": found["a/kernel#bits"]}
    )
    with pytest.raises(InvalidInput) as caught:
        load_sparse(tmp_path / "f", PARAMS)
    assert [problem.split("Expected ")[1].split("=")[0] for problem in caught.value.problems] == [
        *("a/kernel#bits", "a/kernel#values", "x")
    ]


@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [
        ("#bits", np.zeros(2, np.uint8)),
        ("#bits", np.array([255], np.uint8)),
        ("#bits", np.zeros(1, np.int8)),
        ("#values", np.ones(2, np.float32)),
        ("#values", np.ones(3, np.float64)),
        ("#values", np.ones((3, 1), np.float32)),
    ],
)
def test_damaged_parts_are_named_with_the_file(tmp_path, suffix, damaged):
    save_sparse(tmp_path / "f", PARAMS, MASK)
    rewrite(tmp_path / "f", change_tensors=lambda found: {**found, f"a/kernel{suffix}": damaged})
    with pytest.raises(InvalidInput, match="f: Expected (values|bits) of a/kernel.*damaged"):
        load_sparse(tmp_path / "f", PARAMS)


def test_a_path_that_cannot_be_written_is_refused_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(InvalidInput, match="No such file or directory. Give a file in an existing"):
        save_sparse(tmp_path / "none" / "f", PARAMS, MASK)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="Not a directory"):
        save_dense(tmp_path / "file" / "f", PARAMS, MASK)
    (tmp_path / "directory").mkdir()
    with pytest.raises(InvalidInput, match="Is a directory"):
        save_sparse(tmp_path / "directory", PARAMS, MASK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file"]


def test_a_save_that_is_refused_leaves_the_old_file_as_it_was(tmp_path):
    save_sparse(tmp_path / "f", PARAMS, MASK)
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(InvalidInput):
        save_sparse(tmp_path / "f", PARAMS, {**MASK, "b": np.ones(3, bool)})
    assert (tmp_path / "f").read_bytes() == before


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"a/b": np.ones(2), "a": {"b": np.ones(2)}}, "path='a/b' to be that of one leaf"),
        ({"a": np.ones(2), "a#bits": np.ones(2)}, "name='a#bits' to name one leaf"),
        ({"__metadata__": np.ones(2)}, "name='__metadata__' to name one leaf"),
        ({"a": np.array(["x"])}, "params at a='array of <U1' of a type safetensors has"),
    ],
)
def test_trees_that_no_file_can_hold_are_refused_by_path(tmp_path, params, words):
    mask = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), params)
    for name in {"a#bits", "__metadata__"} & mask.keys():
        mask[name] = np.ones(2, bool)
    with pytest.raises(InvalidInput) as caught:
        save_sparse(tmp_path / "f", params, mask)
    assert words in str(caught.value)
    assert not (tmp_path / "f").exists()


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="params at w='array of complex64' of a type"):
        save_sparse(tmp_path / "f", {"w": np.ones(1, "c8")}, {"w": np.ones(1, bool)})
    steps = {"steps": np.arange(2)}, {"steps": np.array([True, False])}
    with pytest.raises(InvalidInput, match="mask at steps.*no weights"):
        save_sparse(tmp_path / "f", *steps)


@pytest.mark.parametrize("save", [save_sparse, save_dense])
def test_any_flipped_bit_of_the_numbers_is_found(tmp_path, save):
    path = tmp_path / "f"
    save(path, PARAMS, MASK)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    load = load_sparse if save is save_sparse else load_dense
    for place in range(start, len(content), max(1, (len(content) - start) // 40)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match="sha256|damaged"):
            load(path, PARAMS)
