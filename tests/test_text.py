"""Words, tokenizer, n-grams, characters, hashing: against Keras' own, and the documents' worked steps."""

import copy
import dataclasses
import os
import pickle
import string
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

os.environ["KERAS_BACKEND"] = "jax"
from keras.src.legacy.preprocessing import text as keras_text

from jaxseq.sequences import one_hot
from jaxseq.text import Tokenizer, bag_of_ngrams, encode_characters, hash_words, ngrams, words

SAMPLES = ["The cat sat on the mat.", "The dog ate my homework."]
MODES = ("binary", "count", "freq", "tfidf")

# Few letters, so that words repeat; upper case, punctuation, tabs, and characters whose lower case is longer.
strings = st.text("abAB' .,\t\nİß", max_size=24)
token_lists = st.lists(st.sampled_from(["a", "A", "b", "ab", "b.", ""]), max_size=8)
corpora = st.lists(strings | token_lists, min_size=1, max_size=6)
tokenizer_settings = st.fixed_dictionaries(
    {
        "num_words": st.none() | st.integers(2, 8),
        "lower": st.booleans(),
        "split": st.sampled_from([" ", "_", "b", ", "]),
        "filters": st.sampled_from([keras_text.Tokenizer().filters, "", "a.", " "]),
        "char_level": st.booleans(),
        "oov_token": st.sampled_from([None, "<unknown>"]),
    }
)


def fitted(texts, options):
    reference = keras_text.Tokenizer(**options)
    reference.fit_on_texts(texts)
    assume(reference.word_counts)
    return Tokenizer.fit(texts, **options), reference


@given(strings, st.booleans(), st.sampled_from([" ", "_", ", "]), st.sampled_from(["", ".,\t", "b"]))
def test_words_are_keras_words(text, lower, split, filters):
    expected = keras_text.text_to_word_sequence(text, filters=filters, lower=lower, split=split)
    assert words(text, filters=filters, lower=lower, split=split) == expected
    assert words(text) == keras_text.text_to_word_sequence(text)


@settings(max_examples=300)
@given(corpora, corpora, tokenizer_settings)
def test_tokenizer_is_keras_tokenizer(texts, others, options):
    tokenizer, reference = fitted(texts, options)
    assert list(tokenizer.word_index.items()) == list(reference.word_index.items())  # order too
    assert tokenizer.word_counts == reference.word_counts
    assert tokenizer.document_counts == dict(reference.word_docs)
    assert tokenizer.document_count == reference.document_count == len(texts)
    sequences = tokenizer.texts_to_sequences(others)
    assert sequences == reference.texts_to_sequences(others)
    assert tokenizer.sequences_to_texts(sequences) == reference.sequences_to_texts(sequences)
    for mode in MODES:
        expected = reference.texts_to_matrix(others, mode=mode)
        ours = tokenizer.texts_to_matrix(others, mode)
        assert ours.dtype == np.float32
        assert ours.shape == expected.shape == (len(others), tokenizer.matrix_size)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


@given(corpora, tokenizer_settings, st.lists(st.lists(st.integers(0, 30), max_size=10), max_size=4))
def test_any_sequences_are_treated_as_keras_does(texts, options, sequences):
    tokenizer, reference = fitted(texts, options)
    assert tokenizer.sequences_to_texts(sequences) == reference.sequences_to_texts(sequences)
    for mode in MODES:
        expected = reference.sequences_to_matrix(sequences, mode=mode)
        np.testing.assert_allclose(tokenizer.sequences_to_matrix(sequences, mode), expected, rtol=1e-6)


@given(corpora, corpora, tokenizer_settings)
def test_json_goes_both_ways_between_here_and_keras(texts, others, options):
    tokenizer, reference = fitted(texts, options)
    assert Tokenizer.from_json(tokenizer.to_json()) == tokenizer
    assert Tokenizer.from_json(reference.to_json()) == tokenizer
    theirs = keras_text.tokenizer_from_json(tokenizer.to_json())
    np.testing.assert_array_equal(theirs.texts_to_matrix(others, "tfidf"), reference.texts_to_matrix(others, "tfidf"))


def test_text_oov_token_keeps_index_one():
    """Penn Treebank's texts contain <unk>: it is one word with the token, never beyond num_words."""
    tokenizer = Tokenizer.fit(["a a a <unk> b b"], filters="", num_words=3, oov_token="<unk>")
    assert dict(tokenizer.word_index) == {"<unk>": 1, "a": 2, "b": 3}
    assert tokenizer.texts_to_sequences(["a <unk> b zebra"]) == [[2, 1, 1, 1]]
    assert tokenizer.sequences_to_texts([[2, 1, 3]]) == ["a <unk> <unk>"]


def test_tokenizer_is_immutable_hashable_and_copies():
    tokenizer = Tokenizer.fit(SAMPLES, num_words=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokenizer.num_words = 9  # pyright: ignore[reportAttributeAccessIssue]
    for mapping in (tokenizer.word_index, tokenizer.word_counts, tokenizer.document_counts):
        with pytest.raises(TypeError):
            mapping["new"] = 1
    again = Tokenizer.fit(SAMPLES, num_words=5)
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)), again):
        assert twin == tokenizer and hash(twin) == hash(tokenizer)
    assert tokenizer != Tokenizer.fit(SAMPLES, num_words=6)
    assert tokenizer != Tokenizer.fit(SAMPLES[:1] * 2, num_words=5)
    assert len(repr(tokenizer)) < 250


def test_texts_may_be_a_generator():
    assert Tokenizer.fit(text for text in SAMPLES) == Tokenizer.fit(SAMPLES)


# The documents' worked steps, by their own code where they print it.


def test_code_6_1_words_one_hot():
    token_index = {}
    for sample in SAMPLES:
        for word in sample.split():
            if word not in token_index:
                token_index[word] = len(token_index) + 1
    expected = np.zeros((len(SAMPLES), 10, max(token_index.values()) + 1))
    for i, sample in enumerate(SAMPLES):
        for j, word in list(enumerate(sample.split()))[:10]:
            expected[i, j, token_index[word]] = 1.0
    tokenizer = Tokenizer.fit(SAMPLES, filters="", lower=False)
    assert dict(tokenizer.word_index) == token_index
    encoded = one_hot(tokenizer.texts_to_sequences(SAMPLES), tokenizer.matrix_size, maxlen=10)
    assert encoded.shape == (2, 10, 11)
    np.testing.assert_array_equal(encoded, expected)


def test_code_6_2_characters_one_hot():
    token_index = dict(zip(string.printable, range(1, len(string.printable) + 1), strict=True))
    expected = np.zeros((len(SAMPLES), 50, max(token_index.values()) + 1))
    for i, sample in enumerate(SAMPLES):
        for j, character in enumerate(sample):
            expected[i, j, token_index[character]] = 1.0
    encoded = one_hot([encode_characters(sample) for sample in SAMPLES], 101, maxlen=50)
    assert encoded.shape == (2, 50, 101)
    np.testing.assert_array_equal(encoded, expected)


def test_code_6_3_nine_tokens():
    tokenizer = Tokenizer.fit(SAMPLES, num_words=1000)
    assert len(tokenizer.word_index) == 9
    assert tokenizer.texts_to_sequences(SAMPLES) == [[1, 2, 3, 4, 1, 5], [1, 6, 7, 8, 9]]
    binary = tokenizer.texts_to_matrix(SAMPLES)
    assert binary.shape == (2, 1000)
    assert np.flatnonzero(binary[0]).tolist() == [1, 2, 3, 4, 5]


def test_code_6_4_hashing():
    encoded = one_hot([hash_words(sample.split(), 1000) for sample in SAMPLES], 1000, maxlen=10)
    assert encoded.shape == (2, 10, 1000)
    assert encoded.sum(axis=(1, 2)).tolist() == [6, 5]


def test_bags_of_2_and_3_grams_of_the_document():
    tokens = words("The cat sat on the mat.", lower=False)
    two = {"The", "The cat", "cat", "cat sat", "sat", "sat on", "on", "on the", "the", "the mat", "mat"}
    three = {
        *("The", "The cat", "cat", "cat sat", "The cat sat", "sat", "sat on", "on", "cat sat on", "on the"),
        *("the", "sat on the", "the mat", "mat", "on the mat"),
    }
    assert set(bag_of_ngrams(tokens, 2)) == two
    assert set(bag_of_ngrams(tokens, 3)) == three


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 5))
def test_ngrams_and_bags_count_every_run(tokens, n):
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    assert ngrams(tokens, n) == runs
    expected = Counter()
    for size in range(1, n + 1):
        expected.update(" ".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
    assert bag_of_ngrams(tokens, n) == expected
    assert ngrams("".join(tokens), n) == runs


@given(strings, st.integers(2, 50), st.booleans())
def test_hashing_is_keras_md5(text, size, lower):
    expected = keras_text.hashing_trick(text, size, hash_function="md5", lower=lower)
    assert hash_words(text, size, lower=lower) == expected
    assert hash_words(words(text, lower=lower), size) == expected


def test_hashing_is_the_same_in_another_process():
    code = "from jaxseq.text import hash_words; print(hash_words('the cat sat', 1000))"
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == str(hash_words("the cat sat", 1000))


def test_characters_outside_the_alphabet_are_zero():
    assert encode_characters("cab!", alphabet="abc") == [3, 1, 2, 0]


@pytest.mark.parametrize(
    ("call", "named", "value"),
    [
        (lambda: words(7), "text", "7"),
        (lambda: words("a", split=""), "split", "''"),
        (lambda: Tokenizer.fit("one text"), "texts", "one string"),
        (lambda: Tokenizer.fit([]), "texts", "0 texts"),
        (lambda: Tokenizer.fit(["...", ""]), "texts", "2 texts"),
        (lambda: Tokenizer.fit([["a", 3]]), "texts", "3"),
        (lambda: Tokenizer.fit([5]), "texts", "5"),
        (lambda: Tokenizer.fit(["a"], num_words=1), "num_words", "1"),
        (lambda: Tokenizer.fit(["a"], num_words=2.5), "num_words", "2.5"),
        (lambda: Tokenizer.fit(["a"], oov_token=1), "oov_token", "1"),
        (lambda: Tokenizer.fit(["a"]).texts_to_sequences("a"), "texts", "one string"),
        (lambda: Tokenizer.fit(["a"]).texts_to_matrix(["a"], "tf"), "mode", "'tf'"),
        (lambda: Tokenizer.fit(["a"]).sequences_to_matrix([[1], [-1]]), "sequences", "-1"),
        (lambda: Tokenizer.fit(["a"]).sequences_to_matrix([[0.5]]), "sequences", "0.5"),
        (lambda: Tokenizer.from_json("{}"), "text", "KeyError"),
        (lambda: Tokenizer.from_json("nonsense"), "text", "JSONDecodeError"),
        (lambda: Tokenizer.from_json("[]"), "text", "TypeError"),
        (lambda: ngrams(["a"], 0), "n", "0"),
        (lambda: bag_of_ngrams(["a"], 0), "n", "0"),
        (lambda: encode_characters("a", alphabet="aba"), "alphabet", "'a'"),
        (lambda: hash_words("a", 1), "size", "1"),
    ],
)
def test_errors_name_argument_and_value(call, named, value):
    with pytest.raises(ValueError, match=rf"^{named} must .*{value}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_json_with_another_index_is_refused():
    reference = keras_text.Tokenizer()
    reference.fit_on_texts(SAMPLES)
    reference.word_index["cat"] = 77
    with pytest.raises(ValueError, match="word index"):
        Tokenizer.from_json(reference.to_json())
