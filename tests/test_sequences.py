"""Padding against Keras, buckets against all partitions, one-hot and multi-hot against loops."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ["KERAS_BACKEND"] = "jax"
import keras

from jaxseq.sequences import length_buckets, multi_hot, one_hot, pad_sequences, sequence_lengths

sides = st.sampled_from(["pre", "post"])
ragged = st.lists(st.lists(st.integers(-1000, 1000), max_size=9), min_size=1, max_size=8)
indices = st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=6)
maxlens = st.none() | st.integers(1, 12)


@settings(max_examples=300)
@given(ragged, maxlens, sides, sides, st.sampled_from(["int32", "int64", "float32"]), st.integers(-3, 3))
def test_padding_is_keras_padding(sequences, maxlen, padding, truncating, dtype, value):
    options = {"dtype": dtype, "padding": padding, "truncating": truncating, "value": value}
    expected = keras.utils.pad_sequences(sequences, maxlen, **options)
    for given_as in (sequences, [np.array(sequence, "int64") for sequence in sequences]):
        padded = pad_sequences(given_as, maxlen, **options)
        assert padded.dtype == expected.dtype
        np.testing.assert_array_equal(padded, expected)


@given(ragged, maxlens)
def test_defaults_are_keras_defaults(sequences, maxlen):
    padded = pad_sequences(sequences, maxlen)
    expected = keras.utils.pad_sequences(sequences, maxlen)
    assert padded.dtype == expected.dtype
    np.testing.assert_array_equal(padded, expected)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), maxlens, sides, sides, st.integers(0, 99))
def test_padding_of_steps_with_features(lengths, maxlen, padding, truncating, seed):
    source = np.random.default_rng(seed)
    sequences = [source.normal(size=(length, 3)) for length in lengths]
    options = {"dtype": "float32", "padding": padding, "truncating": truncating, "value": 0.5}
    if any(lengths):
        expected = keras.utils.pad_sequences(sequences, maxlen, **options)
        np.testing.assert_array_equal(pad_sequences(sequences, maxlen, **options), expected)


def test_padding_reads_object_arrays_as_imdb_has_them():
    reviews = np.empty(2, object)
    reviews[:] = [[1, 2, 3], [4]]
    assert pad_sequences(reviews, 2).tolist() == [[2, 3], [0, 4]]


@given(ragged, maxlens)
def test_lengths_are_what_padding_keeps(sequences, maxlen):
    lengths = sequence_lengths(sequences, maxlen)
    assert lengths.dtype == np.int32
    ones = [[1] * len(sequence) for sequence in sequences]
    np.testing.assert_array_equal(lengths, pad_sequences(ones, maxlen).sum(axis=1))


def padded_steps(buckets):
    return sum(bucket.padded_length * len(bucket.indices) for bucket in buckets)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.integers(1, 5))
def test_every_example_is_in_one_bucket_that_holds_it(lengths, count):
    for buckets in (length_buckets(lengths, count=count), length_buckets(lengths, boundaries=[1, 7, 20, 40])):
        everyone = np.concatenate([bucket.indices for bucket in buckets])
        assert sorted(everyone.tolist()) == list(range(len(lengths)))
        shorter = 0
        for bucket in buckets:
            assert bucket.indices.dtype == np.int32 and (np.diff(bucket.indices) > 0).all()
            inside = np.asarray(lengths)[bucket.indices]
            assert inside.max() <= bucket.padded_length
            assert max(inside.min(), 1) > shorter
            shorter = bucket.padded_length
    assert len(length_buckets(lengths, count=count)) <= count


@given(st.lists(st.integers(0, 12), min_size=1, max_size=15), st.integers(1, 4))
def test_counted_buckets_leave_the_least_padding_of_all(lengths, count):
    longest = max(max(lengths), 1)
    inner = range(1, longest)
    least = min(
        padded_steps(length_buckets(lengths, boundaries=[*cuts, longest]))
        for number in range(min(count, longest))
        for cuts in itertools.combinations(inner, number)
    )
    assert padded_steps(length_buckets(lengths, count=count)) == least


def test_many_different_lengths_still_bucket_well():
    lengths = np.random.default_rng(0).permutation(5000) + 1
    buckets = length_buckets(lengths, count=10)
    assert sum(len(bucket.indices) for bucket in buckets) == 5000
    assert padded_steps(buckets) / lengths.sum() < 1.105  # ten even buckets, the best for even lengths: 1.1


@given(indices, maxlens)
def test_one_hot_is_a_loop(sequences, maxlen):
    steps = max(map(len, sequences)) if maxlen is None else maxlen
    expected = np.zeros((len(sequences), steps, 7), np.float32)
    for i, sequence in enumerate(sequences):
        for j, index in list(enumerate(sequence))[:steps]:
            expected[i, j, index] = 1
    encoded = one_hot(sequences, 7, maxlen=maxlen)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, expected)


@given(indices)
def test_multi_hot_is_a_loop(sequences):
    expected = np.zeros((len(sequences), 7), np.float32)
    for i, sequence in enumerate(sequences):
        for index in sequence:
            expected[i, index] = 1
    encoded = multi_hot(sequences, 7)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize(
    ("call", "named", "value"),
    [
        (lambda: pad_sequences([]), "sequences", "none"),
        (lambda: pad_sequences("abc"), "sequences", "str"),
        (lambda: pad_sequences([1, 2]), "sequences", "1 at 0"),
        (lambda: pad_sequences([[1], "ab"]), "sequences", "'ab' at 1"),
        (lambda: pad_sequences([["a"]]), "sequences", "U1"),
        (lambda: pad_sequences([[1, [2]]]), "sequences", "inhomogeneous"),
        (lambda: pad_sequences([[[1, 2]], [[1, 2, 3]]]), "sequences", r"\(3,\) at 1"),
        (lambda: pad_sequences([[1]], 0), "maxlen", "0"),
        (lambda: pad_sequences([[1]], -3), "maxlen", "-3"),
        (lambda: pad_sequences([[1]], 1.5), "maxlen", "1.5"),
        (lambda: pad_sequences([[1]], padding="left"), "padding", "'left'"),
        (lambda: pad_sequences([[1]], truncating="right"), "truncating", "'right'"),
        (lambda: pad_sequences([[1]], dtype=object), "dtype", "object"),
        (lambda: pad_sequences([[1.0, float("nan")]]), "sequences", "nan"),
        (lambda: pad_sequences([[1.0, float("inf")]]), "sequences", "inf"),
        (lambda: pad_sequences([[1.0, 0.25]]), "sequences", "0.25"),
        (lambda: pad_sequences([[2**31]]), "sequences", "2147483648"),
        (lambda: pad_sequences([[3, -1]], dtype="uint8"), "sequences", "-1"),
        (lambda: pad_sequences([[1]], value=0.5), "value", "0.5"),
        (lambda: sequence_lengths([[1], 2]), "sequences", "int"),
        (lambda: sequence_lengths([[1]], 0), "maxlen", "0"),
        (lambda: one_hot([[1, 5]], 5), "sequences", "5"),
        (lambda: one_hot([[1, -1]], 5), "sequences", "-1"),
        (lambda: one_hot([[1.5]], 5), "sequences", "float64"),
        (lambda: one_hot([[1]], 0), "size", "0"),
        (lambda: one_hot([], 5), "sequences", "none"),
        (lambda: multi_hot([[7]], 7), "sequences", "7"),
        (lambda: length_buckets([], count=2), "lengths", ""),
        (lambda: length_buckets([1, -1], count=2), "lengths", "-1"),
        (lambda: length_buckets([1.5], count=2), "lengths", "1.5"),
        (lambda: length_buckets([1]), "boundaries or count", "None"),
        (lambda: length_buckets([1], boundaries=[3], count=2), "boundaries or count", "2"),
        (lambda: length_buckets([1], count=0), "count", "0"),
        (lambda: length_buckets([9], boundaries=[3, 8]), "boundaries", "8"),
        (lambda: length_buckets([1], boundaries=[3, 3]), "boundaries", "3"),
        (lambda: length_buckets([1], boundaries=[0, 3]), "boundaries", "0"),
    ],
)
def test_errors_name_argument_and_value(call, named, value):
    with pytest.raises(ValueError, match=rf"^{named} must (?s:.*){value}"):
        call()


def test_float_padding_may_hold_anything():
    padded = pad_sequences([[1.5], [np.nan, 2.5]], dtype="float32", value=np.nan)
    np.testing.assert_array_equal(padded, np.array([[np.nan, 1.5], [np.nan, 2.5]], np.float32))
