"""Encoded arrays come back bit for bit, take the bytes they should, and are refused when
damaged."""

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.pruning.encodings import (
    decode,
    encode,
    matrix_shape,
    num_bytes,
    smallest_unsigned,
)
from earlyprune_jax.validate import InvalidInput

DTYPES = [
    np.dtype(name) for name in ("?", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")
] + [np.dtype(extra) for extra in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4)]


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@st.composite
def masked_arrays(draw):
    """Random bit patterns (NaN payloads, -0.0, subnormals, infinities), any mask, axes of length 0
    too."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = int(np.prod(shape))
    if dtype.kind == "b":
        array = generator.random(shape) < 0.5
    elif dtype == ml_dtypes.int4:
        array = generator.integers(-8, 8, shape).astype(dtype)
    else:
        array = (
            generator.integers(0, 256, size * dtype.itemsize, dtype=np.uint8)
            .view(dtype)
            .reshape(shape)
        )
    kept = generator.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    return array, kept


@settings(max_examples=400, deadline=None)
@given(masked_arrays(), st.sampled_from(["bitmask", "csr"]))
def test_kept_bits_survive_removed_ones_are_zero_and_the_size_is_as_computed(masked, encoding):
    array, kept = masked
    parts = encode(array, kept, encoding)
    used = "dense" if kept.all() else encoding
    decoded, mask = decode("w", parts, array.shape, array.dtype, used)
    assert (decoded.dtype, decoded.shape, mask.shape) == (array.dtype, array.shape, array.shape)
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_array_equal(bits(decoded[kept]), bits(array[kept]))
    assert not bits(decoded[~kept]).any()
    assert sum(part.nbytes for part in parts.values()) == num_bytes(
        kept, array.dtype.itemsize, encoding
    )


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(7,), (4, 9), (3, 3, 4, 5), (2, 300)]),
    st.floats(0, 0.99),
)
def test_rows_are_those_of_scipy(seed, shape, kept_fraction):
    generator = np.random.default_rng(seed)
    kept = generator.random(shape) < kept_fraction
    kept.reshape(-1)[0] = False
    array = np.where(kept, generator.uniform(1, 2, shape), 0).astype(np.float32)
    reference = scipy.sparse.csr_array(array.reshape(matrix_shape(shape)))
    parts = encode(array, kept, "csr")
    np.testing.assert_array_equal(parts["#columns"], reference.indices)
    np.testing.assert_array_equal(parts["#rows"], reference.indptr)
    np.testing.assert_array_equal(parts["#values"], reference.data)


@pytest.mark.parametrize(
    ("columns", "num_kept", "column_type", "row_type"),
    [
        (256, 255, "u1", "u1"),
        (257, 256, "u2", "u2"),
        (65536, 65535, "u2", "u2"),
        (65537, 65536, "u4", "u4"),
    ],
)
def test_indices_take_the_smallest_type_that_holds_them(columns, num_kept, column_type, row_type):
    kept = np.zeros((2, columns), bool)
    kept.reshape(-1)[-num_kept:] = True
    parts = encode(np.ones(kept.shape, np.int8), kept, "csr")
    assert parts["#columns"].dtype == np.dtype(column_type)
    assert parts["#rows"].dtype == np.dtype(row_type)
    decoded, mask = decode("w", parts, kept.shape, np.dtype(np.int8), "csr")
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_array_equal(decoded, kept)


def test_the_largest_index_types():
    assert [
        smallest_unsigned(n).itemsize for n in (0, 2**8 - 1, 2**8, 2**16, 2**32 - 1, 2**32)
    ] == [*(1, 1, 2, 4, 4, 8)]


def test_rows_beat_the_bitmask_below_an_eighth_kept_and_lose_above():
    generator = np.random.default_rng(0)
    for fraction, smaller in ((0.05, "csr"), (0.25, "bitmask")):
        kept = generator.random((1152, 128)) < fraction
        sizes = {encoding: num_bytes(kept, 4, encoding) for encoding in ("bitmask", "csr")}
        assert min(sizes, key=lambda encoding: sizes[encoding]) == smaller


KEPT = np.array([[True, False, True], [False, True, False]])


@pytest.mark.parametrize(
    ("encoding", "suffix", "damaged"),
    [
        ("bitmask", "#bits", np.zeros(2, np.uint8)),
        ("bitmask", "#bits", np.array([255], np.uint8)),
        ("bitmask", "#bits", np.zeros(1, np.int8)),
        ("bitmask", "#values", np.ones(2, np.float32)),
        ("bitmask", "#values", np.ones(3, np.float64)),
        ("csr", "#columns", np.array([0, 2, 3], np.uint8)),
        ("csr", "#columns", np.array([2, 0, 1], np.uint8)),
        ("csr", "#columns", np.array([0, 2, 1], np.uint16)),
        ("csr", "#rows", np.array([0, 2], np.uint8)),
        ("csr", "#rows", np.array([0, 4, 3], np.uint8)),
        ("csr", "#rows", np.array([1, 2, 3], np.uint8)),
        ("csr", "#rows", np.array([0, 2, 2], np.uint8)),
        ("csr", "#values", np.ones((3, 1), np.float32)),
    ],
)
def test_damaged_parts_are_refused_by_name(encoding, suffix, damaged):
    parts = encode(np.ones((2, 3), np.float32), KEPT, encoding)
    with pytest.raises(InvalidInput, match="conv/kernel.*damaged"):
        decode("conv/kernel", {**parts, suffix: damaged}, (2, 3), np.dtype(np.float32), encoding)
