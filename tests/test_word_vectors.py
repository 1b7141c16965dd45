"""Reading GloVe files, sound and damaged; filling an embedding; neighbours."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseq.text import Tokenizer
from jaxseq.word_vectors import WordVectors, embedding_matrix, nearest, read_word_vectors


def written(tmp_path, data: bytes):
    path = tmp_path / "vectors.txt"
    path.write_bytes(data)
    return path


def glove_text(words, matrix) -> bytes:
    numbers = [" ".join(f"{value:.6g}" for value in row) for row in matrix]
    return "".join(f"{word} {row}\n" for word, row in zip(words, numbers, strict=True)).encode()


WORDS = ("the", ",", "2", ". . .", "at name@domain.com", "naïve", "a\u00a0b", "x\u0085y", "1/2", "東京")
MATRIX = np.random.default_rng(0).normal(size=(len(WORDS), 5))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("change", [bytes, lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b" \r\n")])
def test_reads_words_and_numbers(tmp_path, pack, change):
    vectors = read_word_vectors(written(tmp_path, pack(change(glove_text(WORDS, MATRIX)))))
    assert vectors.words == WORDS
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_allclose(vectors.matrix, MATRIX, rtol=1e-5)
    assert list(vectors) == list(WORDS) and len(vectors) == len(WORDS) and vectors.size == 5
    np.testing.assert_array_equal(vectors["naïve"], vectors.matrix[5])
    assert vectors.get("absent") is None and "absent" not in vectors
    assert repr(vectors) == "WordVectors(10 words, size 5)"


def test_agrees_with_code_6_10(tmp_path):
    path = written(tmp_path, glove_text(WORDS[:2], MATRIX[:2]))
    embeddings_index = {}
    with open(path, encoding="utf8") as file:
        for line in file:
            values = line.split()
            embeddings_index[values[0]] = np.asarray(values[1:], dtype="float32")
    vectors = read_word_vectors(path)
    assert vectors.keys() == embeddings_index.keys()
    for word, vector in embeddings_index.items():
        np.testing.assert_array_equal(vectors[word], vector)


def test_keeps_only_the_words_asked_for(tmp_path):
    path = written(tmp_path, glove_text(WORDS, MATRIX))
    vectors = read_word_vectors(path, words={"東京", "the", "absent"})
    assert vectors.words == ("the", "東京")
    np.testing.assert_allclose(vectors.matrix, MATRIX[[0, -1]], rtol=1e-5)
    assert read_word_vectors(path, words=()).matrix.shape == (0, 5)


GOOD = b"the 0.1 0.2 0.3\nof 0.4 0.5 0.6\n"


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"", 1, "empty"),
        (GOOD + b"and 0.1 0.2\n", 3, "3 columns"),
        (GOOD + b"and 0.1 0.2 0.3 0.4\n", 3, "5 columns"),
        (GOOD + b"and 0.1\n", 3, "2 columns"),
        (GOOD + b"\nand 0.1 0.2 0.3\n", 3, "1 columns"),
        (GOOD + b"and 0.1 0.2 nan\n", 3, "finite"),
        (GOOD + b"and nan 0.2 0.3\n", 3, "finite"),
        (GOOD + b"and 0.1 -inf 0.3\n", 3, "finite"),
        (GOOD + b"and 0.1 1e39 0.3\n", 3, "finite"),
        (GOOD + b"and 0.1 zero 0.3\n", 3, "zero"),
        (GOOD + b"the 0.1 0.2 0.3\n", 3, "'the' of line 1"),
        (GOOD + b" 0.1 0.2 0.3\n", 3, "empty"),
        (GOOD + b"caf\xe9 0.1 0.2 0.3\n", 3, "utf-8"),
        (b"the\n" + GOOD, 1, "its numbers"),
        (b"400000 3\n" + GOOD, 2, "1 numbers"),
    ],
)
def test_damaged_files_name_file_and_line(tmp_path, data, line, says):
    path = written(tmp_path, data)
    with pytest.raises(ValueError, match=rf"vectors\.txt, line {line}: .*{says}"):
        read_word_vectors(path)


def test_every_truncation_of_a_gzip_is_an_error(tmp_path):
    packed = gzip.compress(glove_text(WORDS, MATRIX))
    for length in range(2, len(packed), 7):
        path = written(tmp_path, packed[:length])
        with pytest.raises(ValueError, match=r"vectors\.txt, (after )?line \d+: "):
            read_word_vectors(path)


def test_a_flipped_bit_in_a_gzip_is_an_error(tmp_path):
    packed = bytearray(gzip.compress(glove_text(WORDS, MATRIX)))
    packed[-6] ^= 1  # in the checksum
    with pytest.raises(ValueError, match=r"vectors\.txt, after line 10: .*damaged"):
        read_word_vectors(written(tmp_path, bytes(packed)))


def test_words_must_not_be_one_string(tmp_path):
    with pytest.raises(ValueError, match="^words must"):
        read_word_vectors(written(tmp_path, GOOD), words="the")


@given(st.permutations(range(1, 9)), st.integers(2, 10), st.sets(st.integers(0, 7)))
def test_embedding_is_code_6_11(ranks, size, known):
    words = [f"w{number}" for number in range(8)]
    word_index = dict(zip(words, ranks, strict=True))
    source = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    vectors = {words[number]: source[number] for number in known} | {"other": source[0]}
    expected = np.zeros((size, 3))
    for word, i in word_index.items():
        if i < size:
            vector = vectors.get(word)
            if vector is not None:
                expected[i] = vector
    matrix, coverage = embedding_matrix(word_index, vectors, size)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, expected)
    by_index = sorted((index, word) for word, index in word_index.items() if index < size)
    absent = [word for _, word in by_index if word not in vectors]
    assert coverage.asked == len(by_index)
    assert coverage.found == len(by_index) - len(absent)
    assert coverage.missing == tuple(absent)
    assert coverage.fraction == pytest.approx(coverage.found / coverage.asked)
    assert coverage.token_fraction is None


def test_coverage_counts_tokens_and_prints():
    tokenizer = Tokenizer.fit(["a a a b b c"])
    vectors = {"a": np.ones(2), "c": np.ones(2)}
    _, coverage = embedding_matrix(tokenizer.word_index, vectors, 4, counts=tokenizer.word_counts)
    assert coverage.token_fraction == pytest.approx(4 / 6)
    assert str(coverage) == "2 of 3 words have a vector (66.7%), 66.7% of all tokens; missing: b"
    _, coverage = embedding_matrix(tokenizer.word_index, vectors, 3, counts=tokenizer.word_counts, examples=0)
    assert coverage.token_fraction == pytest.approx(3 / 6)  # c is beyond the size
    assert str(coverage) == "1 of 2 words have a vector (50.0%), 50.0% of all tokens"


def test_padding_row_stays_zero():
    matrix, coverage = embedding_matrix({"<PAD>": 0, "a": 1}, {"<PAD>": np.ones(2), "a": np.ones(2)}, 2)
    assert matrix.tolist() == [[0, 0], [1, 1]]
    assert coverage.asked == 1


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_nearest_is_the_sorted_cosine(seed, k):
    source = np.random.default_rng(seed)
    matrix = source.normal(size=(9, 4))
    matrix[3] = 0
    query = source.normal(size=4)
    cosines = {
        row: float(query @ vector / np.sqrt((query @ query) * (vector @ vector)))
        for row, vector in enumerate(matrix)
        if row not in (3, 5)
    }
    expected = sorted(cosines, key=cosines.__getitem__, reverse=True)[:k]
    found = nearest(query, matrix, k, exclude=[5])
    assert [neighbour.row for neighbour in found] == expected
    similarities = [neighbour.similarity for neighbour in found]
    np.testing.assert_allclose(similarities, [cosines[row] for row in expected], rtol=1e-10, atol=1e-12)
    by_row = nearest(0, matrix, k)
    assert by_row == nearest(matrix[0], matrix, k, exclude=[0])


def test_king_minus_man_plus_woman():
    gender, royalty, noise = np.eye(3)
    words = ("king", "queen", "man", "woman", "apple")
    rows = (royalty - gender, royalty + gender, 0.1 * royalty - gender, 0.1 * royalty + gender, noise)
    vectors = WordVectors(words, np.stack(rows))
    assert vectors.analogy(["king", "woman"], ["man"], 1)[0][0] == "queen"
    assert vectors.nearest("king", 1)[0][0] == "man"
    assert [word for word, _ in vectors.nearest(vectors["king"], 2)] == ["king", "man"]


def test_an_analogy_is_the_sum_of_words_of_length_1():
    words = tuple("abcdefghijklmno")
    matrix = np.random.default_rng(1).normal(size=(len(words), 4))
    units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    asked = units[0] + units[1] - units[2] - units[3]
    cosines = dict(zip(words[4:], units[4:] @ asked / np.linalg.norm(asked), strict=True))
    expected = sorted(cosines.items(), key=lambda item: -item[1])[:10]
    found = WordVectors(words, matrix).analogy(["a", "b"], ["c", "d"])
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([cosine for _, cosine in found], [cosine for _, cosine in expected], rtol=1e-10)
    assert len(WordVectors(words, matrix).nearest("a")) == len(nearest(0, matrix)) == 10


def test_word_vectors_are_compared_by_identity():
    one, other = (WordVectors(("a", "b"), np.eye(2)) for _ in range(2))
    assert one == one and one != other and len({one, other, one}) == 2
    assert dict(one).keys() == {"a", "b"} and len(one) == 2


@pytest.mark.parametrize(
    ("call", "named", "value"),
    [
        (lambda: nearest(4, np.eye(3)), "query", "4"),
        (lambda: nearest(-1, np.eye(3)), "query", "-1"),
        (lambda: nearest(np.ones(2), np.eye(3)), "query", r"\(2,\)"),
        (lambda: nearest(np.zeros(3), np.eye(3)), "query", "zeros"),
        (lambda: nearest(0, np.eye(3), 0), "k", "0"),
        (lambda: nearest(0, np.ones(3)), "matrix", r"\(3,\)"),
        (lambda: WordVectors(("a",), np.eye(2)), "matrix", r"\(2, 2\)"),
        (lambda: WordVectors(("a", "a"), np.eye(2)), "words", "1"),
        (lambda: WordVectors(("a", "b"), np.eye(2)).nearest("c"), "word", "'c'"),
        (lambda: WordVectors(("a", "b"), np.eye(2)).analogy(["c"]), "word", "'c'"),
        (lambda: WordVectors(("a", "b"), np.eye(2)).analogy("a"), "positive", "'a'"),
        (lambda: WordVectors(("a", "b"), np.eye(2)).analogy([]), "positive", r"\[\]"),
        (lambda: embedding_matrix({"a": 1}, {"a": np.ones(2)}, 1), "size", "1"),
        (lambda: embedding_matrix({"a": 1}, {}, 3), "vectors", "none"),
        (lambda: embedding_matrix({"a": -1}, {"a": np.ones(2)}, 3), "word_index", "-1 for 'a'"),
        (lambda: embedding_matrix({"a": 1, "b": 1}, {"a": np.ones(2)}, 3), "word_index", "1 for 'b'"),
        (lambda: embedding_matrix({"a": 7}, {"a": np.ones(2)}, 3), "word_index", "none"),
        (lambda: embedding_matrix({"a": 1}, {"a": np.ones((2, 2))}, 3), "vectors", r"\(2, 2\)"),
        (lambda: embedding_matrix({"a": 1, "b": 2}, {"a": np.ones(2), "b": np.ones(3)}, 3), "vectors", "'b'"),
    ],
)
def test_errors_name_argument_and_value(call, named, value):
    with pytest.raises(ValueError, match=rf"^{named} .*must .*{value}|^{named} must .*{value}"):
        call()
