"""Pre-trained word vectors: read GloVe's text format, fill an embedding, find neighbours and analogies.

V is the number of words, D the size of a vector.
"""

import gzip
import zlib
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from os import PathLike
from typing import NamedTuple

import numpy as np

from jaxseq import arguments


class Neighbour(NamedTuple):
    """A row of an embedding and the cosine of its angle to what was asked for."""

    row: int
    similarity: float


def nearest(
    query: int | np.ndarray, matrix: np.ndarray, k: int = 10, *, exclude: Collection[int] = ()
) -> list[Neighbour]:
    """Finds the rows of an embedding that point in the most similar direction.

    Args:
      query: a row's index (that row is left out of the answer), or a vector [D].
      matrix: the embedding, float [V, D].
      k: how many neighbours.
      exclude: further rows to leave out. Rows of zeros, which have no direction, always are.

    Returns:
      At most k neighbours, the most similar first.

    Raises:
      ValueError: `query` is outside the matrix, of another size or zero, or `k` is below 1.
    """
    matrix = arguments.host_array("matrix", matrix)
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have shape [V, D], got {matrix.shape}")
    k = arguments.integer("k", k, at_least=1)
    arguments.instance("exclude", exclude, (list, tuple, set, frozenset, range, np.ndarray), "a list of rows")
    left_out = [arguments.integer("exclude", row) for row in exclude]
    if any(row >= len(matrix) for row in left_out):
        raise ValueError(f"exclude must hold rows in [0, {len(matrix)}), got {max(left_out)}")
    if isinstance(query, (int, np.integer)) and not isinstance(query, bool):
        if not 0 <= query < len(matrix):
            raise ValueError(f"query must be an index in [0, {len(matrix)}), got {query}")
        left_out.append(int(query))
        query = matrix[query]
    query = arguments.host_array("query", query)
    if query.shape != matrix.shape[1:]:
        raise ValueError(f"query must have shape {matrix.shape[1:]}, got {query.shape}")
    if not np.isfinite(query).all():
        raise ValueError(f"query must be finite, got {query[~np.isfinite(query)][0]}")
    if not query.any():
        raise ValueError("query must have a direction, got a vector of zeros")
    lengths = np.linalg.norm(matrix, axis=1)
    similarities = matrix @ (query / np.linalg.norm(query)) / np.where(lengths > 0, lengths, 1)
    similarities[lengths == 0] = -np.inf
    similarities[left_out] = -np.inf
    order = np.argsort(-similarities, kind="stable")[:k]
    found = order[similarities[order] > -np.inf]
    return [Neighbour(int(row), float(similarities[row])) for row in found]


@dataclass(frozen=True, eq=False)
class WordVectors(Mapping[str, np.ndarray]):
    """Words and their vectors; also a read-only mapping from word to vector [D].

    Attributes:
      words: the words, each once.
      matrix: their vectors, float [V, D].

    Example:
      >>> vectors = WordVectors(("up", "down", "north"), np.array([[0.0, 1], [0, -1], [0.1, 1]]))
      >>> [word for word, similarity in vectors.nearest("up", 1)]
      ['north']
    """

    words: tuple[str, ...]
    matrix: np.ndarray

    def __post_init__(self) -> None:
        """Checks that words and rows match."""
        arguments.is_array("matrix", self.matrix)
        arguments.instance("words", self.words, tuple, "a tuple of words")
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.words):
            raise ValueError(f"matrix must have shape [{len(self.words)}, D], got {self.matrix.shape}")
        if len(self._rows) < len(self.words):
            raise ValueError(f"words must differ, got {len(self.words) - len(self._rows)} repeated")

    def __eq__(self, other: object) -> bool:
        """Identity: a mapping's own comparison would ask arrays for their truth value."""
        return self is other

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """By identity, as `==`."""
        return id(self)

    def __repr__(self) -> str:
        """Says the sizes only."""
        return f"WordVectors({len(self.words)} words, size {self.size})"

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words)}

    @property
    def size(self) -> int:
        """D, the length of a vector."""
        return self.matrix.shape[1]

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of a word, [D]; KeyError without one, as for any mapping."""
        return self.matrix[self._rows[word]]

    def __iter__(self) -> Iterator[str]:
        """The words in order."""
        return iter(self.words)

    def __len__(self) -> int:
        """V, the number of words."""
        return len(self.words)

    def nearest(self, query: str | np.ndarray, k: int = 10) -> list[tuple[str, float]]:
        """Finds the k words most similar to a word (itself left out) or to a vector [D].

        Returns:
          (word, cosine), the most similar first.

        Raises:
          ValueError: the word has no vector.
        """
        row = self._row(query) if isinstance(query, str) else query
        return [(self.words[row], similarity) for row, similarity in nearest(row, self.matrix, k)]

    def analogy(self, positive: Sequence[str], negative: Sequence[str] = (), k: int = 10) -> list[tuple[str, float]]:
        """Finds the words nearest to a sum of words: king − man + woman ≈ queen.

        The vectors are brought to length 1 before they are added, and the words asked with are left out of
        the answer, as is usual; without that the answer to most analogies is one of its own words.

        Args:
          positive: words to add.
          negative: words to subtract.
          k: how many answers.

        Returns:
          (word, cosine), the most similar first.

        Raises:
          ValueError: a word has no vector, or none is given.
        """
        if isinstance(positive, str) or isinstance(negative, str) or not (positive or negative):
            raise ValueError(f"positive and negative must be lists of words, got {positive!r}, {negative!r}")
        rows = [self._row(word) for word in (*positive, *negative)]
        units = self.matrix[rows] / np.linalg.norm(self.matrix[rows], axis=1, keepdims=True)
        signs = np.array([1] * len(positive) + [-1] * len(negative), units.dtype)
        found = nearest(signs @ units, self.matrix, k, exclude=rows)
        return [(self.words[row], similarity) for row, similarity in found]

    def _row(self, word: str) -> int:
        if arguments.text("word", word) not in self._rows:
            raise ValueError(f"word must be one of the {len(self.words)} with a vector, got {word!r}")
        return self._rows[word]


def read_word_vectors(path: str | PathLike[str], *, words: Iterable[str] | None = None) -> WordVectors:
    """Reads word vectors in GloVe's text format, plain or gzipped: a line is a word and D numbers.

    D is that of the first line. A word may contain spaces (`. . .` in glove.840B): the last D columns are the
    numbers. A byte order mark and CRLF line ends are accepted.

    Args:
      path: the file; compression is told from its first bytes, not its name.
      words: keep these only; None for all. Numbers of other words are not read, which is much faster.

    Returns:
      The words and their vectors, float32 [V, D], in the order of the file.

    Raises:
      ValueError: a line has another number of columns, a value that is not a finite number (in float32),
        a mebibyte or text that is not UTF-8, a word stands twice, the file is empty, or its compression is
        damaged or cut off; the message names file and line.
      OSError: there is no such file.
    """
    arguments.path("path", path)
    if words is not None and not isinstance(words, Iterable):
        raise ValueError(f"words must be a collection of words, got {words!r}")
    if isinstance(words, str):
        raise ValueError(f"words must be a collection of words, got one string, {words!r}")
    wanted = None if words is None else frozenset(words)
    lines: dict[str, int] = {}  # every word of the file, to its line
    kept: list[str] = []
    values = array("f")
    size = 0
    with open(path, "rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw, mode="rb") if compressed else raw
        number = 0
        try:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE), b""), start=1):
                if len(line) == _LONGEST_LINE:  # a packed file could hold one of any length
                    raise ValueError(f"must have fewer than {_LONGEST_LINE} bytes")
                line = line.rstrip(b" \r\n")
                pieces = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).split(b" ")
                size = size or _trailing_numbers(pieces)
                word = _word(pieces, size)
                if word in lines:
                    raise ValueError(f"must name each word once, got {word!r} of line {lines[word]} again")
                lines[word] = number
                if wanted is None or word in wanted:
                    numbers = [float(piece) for piece in pieces[-size:]]
                    if not all(-_LARGEST <= x <= _LARGEST for x in numbers):  # NaN fails too
                        raise ValueError(f"must hold finite float32 numbers, got another for {word!r}")
                    kept.append(word)
                    values.extend(numbers)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}, after line {number}: damaged compressed data: {error}") from error
    if not lines:
        raise ValueError(f"{path}, line 1: the file must hold word vectors, got an empty file")
    return WordVectors(tuple(kept), np.asarray(values, np.float32).reshape(len(kept), size))


_LARGEST = float(np.finfo(np.float32).max)
_LONGEST_LINE = 1 << 20  # bytes


def _is_number(piece: bytes) -> bool:
    try:
        float(piece)
    except ValueError:
        return False
    return True


def _trailing_numbers(pieces: list[bytes]) -> int:
    """D: how many columns at the end of the first line are numbers, at least one column being the word."""
    size = 0
    while size < len(pieces) - 1 and _is_number(pieces[-1 - size]):
        size += 1
    if not size:
        raise ValueError(f"must be a word and its numbers, got {b' '.join(pieces)[:60]!r}")
    return size


def _word(pieces: list[bytes], size: int) -> str:
    """What stands before the last `size` columns; a number among it means that the line is too long."""
    parts = pieces[:-size]
    if not parts or (len(parts) > 1 and _is_number(parts[-1])):
        raise ValueError(f"must have a word and {size} numbers, got {len(pieces)} columns")
    word = b" ".join(parts).decode()
    if not word:
        raise ValueError("must begin with a word, got an empty one")
    return word


class EmbeddingCoverage(NamedTuple):
    """Which words of a vocabulary got a vector.

    Attributes:
      asked: words with an index in [1, size).
      found: those of them that have a vector.
      missing: the first few others, by index, which is the most frequent for a tokenizer's index.
      token_fraction: share of all tokens that have a vector; None where no counts were given.
    """

    asked: int
    found: int
    missing: tuple[str, ...]
    token_fraction: float | None

    @property
    def fraction(self) -> float:
        """Share of the words asked for that have a vector."""
        return self.found / self.asked

    def __str__(self) -> str:
        """One line to print."""
        tokens = "" if self.token_fraction is None else f", {self.token_fraction:.1%} of all tokens"
        missing = f"; missing: {', '.join(self.missing)}" if self.missing else ""
        more = ", …" if self.missing and self.asked - self.found > len(self.missing) else ""
        words = f"{self.found:,} of {self.asked:,} words have a vector ({self.fraction:.1%})"
        return words + tokens + missing + more


def embedding_matrix(
    word_index: Mapping[str, int],
    vectors: Mapping[str, np.ndarray],
    size: int,
    *,
    counts: Mapping[str, int] | None = None,
    examples: int = 10,
) -> tuple[np.ndarray, EmbeddingCoverage]:
    """Fills an embedding with pre-trained vectors.

    Args:
      word_index: word to index. Words of index `size` and above are left out, and so is index 0: it belongs
        to padding and its row stays zero.
      vectors: word to vector [D], such as `WordVectors`.
      size: rows of the matrix.
      counts: how often each word occurs (`Tokenizer.word_counts`), for the share of tokens. Words left out by
        `size` count as tokens without a vector.
      examples: how many missing words to name.

    Returns:
      (matrix, coverage), matrix float32 [size, D]. A word without a vector has a row of zeros.

    Raises:
      ValueError: an index is negative or belongs to two words, the vectors differ in shape or there are none,
        or no word has an index in [1, size).
    """
    size = arguments.integer("size", size, at_least=2)
    examples = arguments.integer("examples", examples)
    arguments.mapping("word_index", word_index, "a mapping from word to index")
    arguments.mapping("vectors", vectors, "a mapping from word to vector")
    if counts is not None:
        arguments.mapping("counts", counts, "a mapping from word to count")
    if not len(vectors):
        raise ValueError("vectors must hold at least one vector, got none")
    asked: dict[int, str] = {}
    for word, index in word_index.items():
        if not isinstance(index, int | np.integer) or index < 0:
            raise ValueError(f"word_index must hold indices of at least 0, got {index} for {word!r}")
        if 1 <= index < size and asked.setdefault(index, word) != word:
            raise ValueError(f"word_index must have an index for each word alone, got {index} for {word!r}")
    if not asked:
        raise ValueError(f"word_index must have an index in [1, {size}), got none")
    shape = np.shape(next(iter(vectors.values())))
    if len(shape) != 1:
        raise ValueError(f"vectors must have shape [D], got {shape}")
    matrix = np.zeros((size, *shape), np.float32)
    found: list[str] = []
    missing: list[str] = []
    for index, word in sorted(asked.items()):
        vector = vectors.get(word)
        if vector is None:
            missing.append(word)
            continue
        if np.shape(vector) != shape:
            raise ValueError(f"vectors must all have shape {shape}, got {np.shape(vector)} for {word!r}")
        matrix[index] = arguments.host_array("vectors", vector)
        found.append(word)
    token_fraction = None
    if counts is not None:
        token_fraction = sum(counts.get(word, 0) for word in found) / max(sum(counts.values()), 1)
    return matrix, EmbeddingCoverage(len(asked), len(found), tuple(missing[:examples]), token_fraction)
