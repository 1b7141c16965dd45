"""Index ↔ word for shifted word indexes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseq.vocabulary import Vocabulary

some_words = st.lists(st.text("abcdefg", min_size=1, max_size=4), unique=True, min_size=1, max_size=20)
word_indexes = some_words.flatmap(st.permutations).map(
    lambda listed: {word: rank for rank, word in enumerate(listed, start=1)}
)


@given(word_indexes, st.integers(2, 5), st.none() | st.integers(6, 12))
def test_ranks_are_shifted_and_limited(word_index, index_from, num_words):
    vocabulary = Vocabulary.from_word_index(word_index, index_from=index_from, num_words=num_words)
    size = index_from + len(word_index) + 1
    size = size if num_words is None else min(size, num_words)
    assert len(vocabulary) == size
    for word, rank in word_index.items():
        index = rank + index_from
        if index < size:
            assert vocabulary.index(word) == index and vocabulary.word(index) == word
            assert vocabulary.encode([word]) == [index] and vocabulary.decode([index]) == word
        else:
            assert vocabulary.encode([word]) == [2]
            with pytest.raises(ValueError, match="^word must"):
                vocabulary.index(word)
            with pytest.raises(ValueError, match="^index must"):
                vocabulary.decode([index])


def test_a_vocabulary_prints_without_its_words():
    printed = repr(Vocabulary.from_word_index({"the": 1}))
    assert printed == "Vocabulary(padding='<PAD>', start='<START>', unknown='<UNK>')"


def test_a_review_comes_back_as_text():
    """As keras.datasets.imdb stores it: 1 starts, ranks are shifted by 3, 2 is unknown, 0 pads."""
    vocabulary = Vocabulary.from_word_index({"the": 1, "film": 2, "great": 3, "was": 4})
    review = vocabulary.encode("The film was GREAT, truly!", start=True)
    assert review == [1, 4, 5, 7, 6, 2]
    assert vocabulary.decode(review) == "<START> the film was great <UNK>"
    assert vocabulary.decode([0, 0, *review], special=False) == "the film was great <UNK>"
    assert vocabulary.decode([0, 3]) == "<PAD> <UNUSED>"
    assert vocabulary.encode(vocabulary.UNUSED.split()) == [2]


def test_a_trimmed_index_leaves_unused_places():
    vocabulary = Vocabulary.from_word_index({"b": 4, "a": 2})
    assert vocabulary.words == ("<PAD>", "<START>", "<UNK>", "<UNUSED>", "<UNUSED>", "a", "<UNUSED>", "b")
    assert hash(vocabulary) == hash(Vocabulary.from_word_index({"a": 2, "b": 4}))


@pytest.mark.parametrize(
    ("call", "named", "value"),
    [
        (lambda: Vocabulary.from_word_index({"a": 0}), "word_index", "0 for 'a'"),
        (lambda: Vocabulary.from_word_index({"a": 1, "b": 1}), "word_index", "1 for 'b'"),
        (lambda: Vocabulary.from_word_index({"<PAD>": 1}), "word_index", "<PAD>"),
        (lambda: Vocabulary.from_word_index({"a": 1}, index_from=1), "index_from", "1"),
        (lambda: Vocabulary.from_word_index({"a": 1}, num_words=3), "num_words", "3"),
        (lambda: Vocabulary.from_word_index({"a": 10**12}), "word_index", "1,000,000,000,004"),
        (lambda: Vocabulary.from_word_index({"a": 1}).word(-1), "index", "-1"),
        (lambda: Vocabulary.from_word_index({"a": 1}).word(5), "index", "5"),
        (lambda: Vocabulary.from_word_index({"a": 1}).index("b"), "word", "'b'"),
        (lambda: Vocabulary(("a", "b")), "words", "'a'"),
        (lambda: Vocabulary(("<PAD>", "<START>", "<UNK>", "a", "a")), "words", "'a'"),
    ],
)
def test_errors_name_argument_and_value(call, named, value):
    with pytest.raises(ValueError, match=rf"^{named} must .*{value}"):
        call()
