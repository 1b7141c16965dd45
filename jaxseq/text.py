"""Text to numbers and back: words, tokenizer, n-grams, characters and the hashing trick.

NumPy and the standard library only. Everything here runs once, before training. For data sets that come as
indices see `jaxseq.vocabulary`, for padding, one-hot and buckets `jaxseq.sequences`, for GloVe
`jaxseq.word_vectors`.

Words are numbered from 1: index 0 belongs to padding, and no word ever has it. N is the number of texts,
W the width of a matrix of word indices (`num_words`, or one more than the number of words).
"""

import hashlib
import json
import operator
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from jaxseq import arguments

KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
"""The characters Keras turns into separators: all ASCII punctuation but the apostrophe, tab, line feed."""

MatrixMode = Literal["binary", "count", "freq", "tfidf"]


def words(text: str, *, filters: str = KERAS_FILTERS, lower: bool = True, split: str = " ") -> list[str]:
    """Splits a text into words, as Keras' `text_to_word_sequence` does.

    Args:
      text: the text.
      filters: characters that separate words and are dropped.
      lower: whether to put the text in lower case first.
      split: the separator; every character of `filters` becomes one.

    Returns:
      The words in order, none of them empty.

    Raises:
      ValueError: `text` is not a string or `split` is empty.

    Example:
      >>> words("The cat sat on the mat.")
      ['the', 'cat', 'sat', 'on', 'the', 'mat']
    """
    arguments.text("text", text)
    arguments.text("filters", filters)
    lower = arguments.flag("lower", lower)
    if not isinstance(split, str) or not split:
        raise ValueError(f"split must be a string of at least one character, got {split!r}")
    if lower:
        text = text.lower()
    separated = text.translate(str.maketrans(dict.fromkeys(filters, split)))
    return [word for word in separated.split(split) if word]


def _check_texts(texts: Iterable[object], name: str) -> None:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        got = "one string" if isinstance(texts, str) else type(texts).__name__
        raise ValueError(f"{name} must be a list with one entry per text, got {got}")


@dataclass(frozen=True)
class Tokenizer:
    """Words numbered by frequency: what `Tokenizer.fit` learned from some texts, never changed afterwards.

    Numbers words as Keras' `Tokenizer` does: the most frequent is 1, words equally frequent keep the order in
    which they first appeared. With an `oov_token` that token is 1 and the words follow. It differs in one
    place: where the texts themselves contain the `oov_token` it still is 1, not a second, later number
    (which in Keras may even lie beyond `num_words`).

    A text is a string, or a list of tokens, which is taken as it is but for `lower`.

    Attributes:
      word_counts: how often each word occurred, in order of first appearance.
      document_counts: in how many texts each word occurred.
      document_count: the number of texts.
      num_words: only indices below it are used, so at most `num_words` − 1 words; None for all.
      filters, lower, split: how a string is cut into words, see `words`.
      char_level: whether the tokens are characters; `filters` and `split` then have no effect.
      oov_token: stands for every word that has no index; None to drop such words.

    Example:
      >>> tokenizer = Tokenizer.fit(["The cat sat on the mat.", "The dog ate my homework."])
      >>> tokenizer.word_index["the"], tokenizer.texts_to_sequences(["The dog sat."])
      (1, [[1, 6, 3]])
    """

    word_counts: Mapping[str, int] = field(repr=False, hash=False)
    document_counts: Mapping[str, int] = field(repr=False, hash=False)
    document_count: int
    num_words: int | None = None
    filters: str = KERAS_FILTERS
    lower: bool = True
    split: str = " "
    char_level: bool = False
    oov_token: str | None = None

    def __post_init__(self) -> None:
        """Checks the settings and makes the counts read-only."""
        object.__setattr__(self, "num_words", arguments.optional_integer("num_words", self.num_words, at_least=2))
        if self.oov_token is not None:
            arguments.text("oov_token", self.oov_token)
        for name in ("filters", "split"):
            arguments.text(name, getattr(self, name))
        for name in ("lower", "char_level"):
            arguments.flag(name, getattr(self, name))
        for name in ("word_counts", "document_counts"):
            arguments.mapping(name, getattr(self, name), "a mapping from word to count")
        if not self.word_counts:
            raise ValueError(f"texts must hold at least one word, got none in {self.document_count} texts")
        object.__setattr__(self, "word_counts", MappingProxyType(dict(self.word_counts)))
        object.__setattr__(self, "document_counts", MappingProxyType(dict(self.document_counts)))

    def __reduce__(self):
        """Pickles and copies through JSON: read-only mappings do not pickle."""
        return Tokenizer.from_json, (self.to_json(),)

    @classmethod
    def fit(
        cls,
        texts: Iterable[str | Sequence[str]],
        *,
        num_words: int | None = None,
        filters: str = KERAS_FILTERS,
        lower: bool = True,
        split: str = " ",
        char_level: bool = False,
        oov_token: str | None = None,
    ) -> "Tokenizer":
        """Counts the words of `texts`.

        Args:
          texts: strings, or lists of tokens; read once, so a generator will do.
          num_words: only the `num_words` − 1 most frequent words get used; None for all.
          filters: characters that separate words.
          lower: whether case is ignored.
          split: the separator of words.
          char_level: whether to count characters in place of words.
          oov_token: stands for unknown words; None drops them.

        Returns:
          The fitted tokenizer.

        Raises:
          ValueError: `texts` is one string or holds no word, or a setting is not valid.
        """
        _check_texts(texts, "texts")
        word_counts: Counter[str] = Counter()
        document_counts: Counter[str] = Counter()
        document_count = 0
        for text in texts:
            tokens = _tokens(text, filters, lower, split, char_level)
            word_counts.update(tokens)
            document_counts.update(list(dict.fromkeys(tokens)))
            document_count += 1
        return cls(
            word_counts,
            document_counts,
            document_count,
            num_words=num_words,
            filters=filters,
            lower=lower,
            split=split,
            char_level=char_level,
            oov_token=oov_token,
        )

    @cached_property
    def word_index(self) -> Mapping[str, int]:
        """The index of every word, from 1; `num_words` does not shorten it."""
        ranked = sorted(self.word_counts, key=self.word_counts.__getitem__, reverse=True)
        if self.oov_token is not None:
            ranked = [self.oov_token] + [word for word in ranked if word != self.oov_token]
        return MappingProxyType({word: index for index, word in enumerate(ranked, start=1)})

    @property
    def matrix_size(self) -> int:
        """W, one more than the largest index in use: the columns of a matrix, the rows of an embedding."""
        return self.num_words or len(self.word_index) + 1

    @cached_property
    def _used_index(self) -> dict[str, int]:
        return {word: index for word, index in self.word_index.items() if index < self.matrix_size}

    @cached_property
    def _used_word(self) -> dict[int, str]:
        return {index: word for word, index in self._used_index.items()}

    @cached_property
    def _inverse_document_frequency(self) -> np.ndarray:
        documents = np.zeros(self.matrix_size)
        for word, index in self._used_index.items():
            documents[index] = self.document_counts.get(word, 0)
        return np.log(1 + self.document_count / (1 + documents))

    def texts_to_sequences(self, texts: Iterable[str | Sequence[str]]) -> list[list[int]]:
        """Numbers the words of each text.

        Args:
          texts: strings, or lists of tokens.

        Returns:
          One list of indices in [1, W) per text. A word without an index below `num_words` becomes the
          `oov_token`'s, or is left out where there is none.

        Raises:
          ValueError: `texts` is one string.
        """
        _check_texts(texts, "texts")
        lookup = self._used_index
        unknown = None if self.oov_token is None else self.word_index[self.oov_token]
        sequences = []
        for text in texts:
            tokens = _tokens(text, self.filters, self.lower, self.split, self.char_level)
            indices = (lookup.get(token, unknown) for token in tokens)
            sequences.append([index for index in indices if index is not None])
        return sequences

    def sequences_to_texts(self, sequences: Iterable[Iterable[int]]) -> list[str]:
        """Puts words back for indices, with spaces between them.

        Args:
          sequences: one iterable of indices per text. Take padding off first: index 0 is as unknown as any
            index without a word.

        Returns:
          One string per sequence; an unknown index becomes the `oov_token`, or nothing where there is none.
        """
        _check_texts(sequences, "sequences")
        texts = []
        for sequence in sequences:
            try:
                indices = [operator.index(index) for index in sequence]
            except TypeError:
                raise ValueError(f"sequences must hold lists of integers, got {sequence!r:.60}") from None
            found = (self._used_word.get(index, self.oov_token) for index in indices)
            texts.append(" ".join(word for word in found if word is not None))
        return texts

    def texts_to_matrix(self, texts: Iterable[str | Sequence[str]], mode: MatrixMode = "binary") -> np.ndarray:
        """Turns each text into one row over the vocabulary; see `sequences_to_matrix`."""
        return self.sequences_to_matrix(self.texts_to_sequences(texts), mode)

    def sequences_to_matrix(self, sequences: Iterable[Sequence[int]], mode: MatrixMode = "binary") -> np.ndarray:
        """Turns each sequence into one row over the vocabulary: a bag of words, its order lost.

          binary  1                        count  c
          freq    c / length               tfidf  (1 + log c) · log(1 + D / (1 + d))

        for a word that occurs c times in the sequence and in d of the D texts fitted on.

        Args:
          sequences: N sequences of indices; indices of W and above are ignored (they still count as length).
          mode: which of the four.

        Returns:
          The matrix, float32 [N, W].

        Raises:
          ValueError: `mode` is none of the four, or an index is negative.
        """
        arguments.one_of("mode", mode, get_args(MatrixMode), f"one of {', '.join(get_args(MatrixMode))}")
        _check_texts(sequences, "sequences")
        rows = [arguments.host_array("sequences", sequence) for sequence in sequences]
        rows = [row if row.size else np.zeros(0, int) for row in rows]
        matrix = np.zeros((len(rows), self.matrix_size), np.float32)
        for number, row in enumerate(rows):
            if row.dtype.kind not in "iu" or row.ndim != 1 or (row.size and row.min() < 0):
                raise ValueError(f"sequences must hold integers of at least 0, got {row.tolist()!r:.60} at {number}")
            indices, counts = np.unique(row[row < self.matrix_size], return_counts=True)
            if mode == "binary":
                matrix[number, indices] = 1
            elif mode == "count":
                matrix[number, indices] = counts
            elif mode == "freq":
                matrix[number, indices] = counts / max(len(row), 1)
            else:
                matrix[number, indices] = (1 + np.log(counts)) * self._inverse_document_frequency[indices]
        return matrix

    def to_json(self) -> str:
        """Writes the tokenizer in the format of Keras' `Tokenizer.to_json`, which Keras can read too."""
        index = dict(self.word_index)
        config = {
            "num_words": self.num_words,
            "filters": self.filters,
            "lower": self.lower,
            "split": self.split,
            "char_level": self.char_level,
            "oov_token": self.oov_token,
            "document_count": self.document_count,
            "word_counts": json.dumps(dict(self.word_counts)),
            "word_docs": json.dumps(dict(self.document_counts)),
            "index_docs": json.dumps({index[word]: count for word, count in self.document_counts.items()}),
            "index_word": json.dumps({number: word for word, number in index.items()}),
            "word_index": json.dumps(index),
        }
        return json.dumps({"class_name": "Tokenizer", "config": config})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Reads what `to_json` wrote, here or in Keras.

        Raises:
          ValueError: the text is not such a tokenizer, or its index is not the one its counts give (as after
            Keras' `fit_on_sequences`, or with an `oov_token` that occurs in the texts).
        """
        try:
            config = json.loads(text)["config"]
            parts = {
                name: json.loads(config.pop(name))
                for name in ("word_counts", "word_docs", "index_docs", "index_word", "word_index")
            }
            tokenizer = cls(parts["word_counts"], parts["word_docs"], **config)
        except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"text must be a tokenizer's JSON, as of to_json, got {reason}") from error
        index = tokenizer.word_index
        document_counts = {str(index[word]): count for word, count in tokenizer.document_counts.items()}
        if parts["word_index"] != index or parts["index_docs"] != document_counts:
            raise ValueError("text must hold the word index that its word counts give, got another index")
        return tokenizer


def _tokens(text: str | Sequence[str], filters: str, lower: bool, split: str, char_level: bool) -> Sequence[str]:
    if isinstance(text, str) and not char_level:
        return words(text, filters=filters, lower=lower, split=split)
    if isinstance(text, str):
        return text.lower() if lower else text
    if not isinstance(text, (list, tuple)) or not all(isinstance(token, str) for token in text):
        raise ValueError(f"texts must hold strings or lists of strings, got {text!r:.60}")
    return [token.lower() for token in text] if lower else text


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Lists the runs of n consecutive tokens.

    Args:
      tokens: words, or a string for its characters.
      n: tokens in a run, at least 1.

    Returns:
      The runs in order, none where there are fewer than n tokens.

    Raises:
      ValueError: `n` is below 1.
    """
    n = arguments.integer("n", n, at_least=1)
    arguments.instance("tokens", tokens, (str, list, tuple), "a list of words, or a string")
    return list(zip(*(tokens[offset:] for offset in range(n)), strict=False))


def bag_of_ngrams(tokens: Sequence[str], n: int, *, separator: str = " ") -> Counter[str]:
    """Counts all runs of up to n consecutive tokens: the bag of n-grams.

    Args:
      tokens: words, or a string for its characters (then with `separator=""`).
      n: the longest run; shorter ones are in the bag too.
      separator: stands between the tokens of a run.

    Returns:
      Run to count, single tokens first.

    Raises:
      ValueError: `n` is below 1.

    Example:
      >>> sorted(bag_of_ngrams(["the", "cat", "sat"], 2))
      ['cat', 'cat sat', 'sat', 'the', 'the cat']
    """
    n = arguments.integer("n", n, at_least=1)
    arguments.instance("tokens", tokens, (str, list, tuple), "a list of words, or a string")
    arguments.text("separator", separator)
    return Counter(separator.join(run) for size in range(1, n + 1) for run in ngrams(tokens, size))


def encode_characters(text: str, *, alphabet: str = string.printable) -> list[int]:
    """Numbers the characters of a text by their place in an alphabet.

    Args:
      text: the text.
      alphabet: each character once.

    Returns:
      Indices from 1; 0 for a character outside the alphabet.

    Raises:
      ValueError: a character is twice in `alphabet`.
    """
    arguments.text("text", text)
    arguments.text("alphabet", alphabet)
    index = {character: number for number, character in enumerate(alphabet, start=1)}
    if len(index) < len(alphabet):
        twice = Counter(alphabet).most_common(1)[0][0]
        raise ValueError(f"alphabet must hold each character once, got {twice!r} more than once")
    return [index.get(character, 0) for character in text]


def text_words(text: str | Iterable[str], **settings: Any) -> list[str]:
    """The words of a string, cut by `words`, or of a list as they are."""
    if isinstance(text, str):
        return words(text, **settings)
    tokens = list(text) if isinstance(text, Iterable) else []
    if not isinstance(text, Iterable) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"text must be a string or a list of words, got {arguments.shown(text)}")
    return tokens


def hash_words(
    text: str | Iterable[str],
    size: int,
    *,
    filters: str = KERAS_FILTERS,
    lower: bool = True,
    split: str = " ",
) -> list[int]:
    """Numbers words without a vocabulary: the hashing trick, md5(word) mod (size − 1) + 1.

    The same in every process and on every machine (Python's own `hash` is not), and the same as Keras'
    `hashing_trick(hash_function="md5")`. Different words may share an index.

    Args:
      text: a string, cut by `words`, or the words themselves.
      size: the indices to use, 0 included; at least 2.
      filters, lower, split: how a string is cut; words are taken as they are.

    Returns:
      Indices in [1, size).

    Raises:
      ValueError: `size` is below 2.
    """
    size = arguments.integer("size", size, at_least=2)
    tokens = text_words(text, filters=filters, lower=lower, split=split)
    digests = (hashlib.md5(token.encode(), usedforsecurity=False).digest() for token in tokens)
    return [int.from_bytes(digest, "big") % (size - 1) + 1 for digest in digests]
