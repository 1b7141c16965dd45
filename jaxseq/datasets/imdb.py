"""IMDB: 50,000 film reviews, half of them positive.

`load` gives Keras' word indices, `load_texts` the reviews themselves.

Source: Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis", ACL; the indices are Keras'.
"""

from typing import NamedTuple

import numpy as np

from jaxseq.datasets.archives import tar_members
from jaxseq.datasets.arrays import Ragged, read_arrays
from jaxseq.datasets.files import DataFile, Source, find
from jaxseq.datasets.word_sequences import (
    WordOptions,
    check_words,
    limited,
    marked,
    read_word_index,
    shorter,
    shuffled,
)

_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
SEQUENCES = DataFile(
    "imdb.npz",
    urls=(_KERAS + "imdb.npz",),
    sha256="69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f",
    size=17464789,
)
WORD_INDEX = DataFile(
    "imdb_word_index.json",
    urls=(_KERAS + "imdb_word_index.json",),
    md5="bfafd718b763782e994055a2d397834f",
    size=1641221,
)
TEXTS = DataFile(
    "aclImdb_v1.tar.gz",
    urls=("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
    md5="7c2ac02c03563afcf9b574c7e56c153a",
    size=84125825,
)


class ImdbSequences(NamedTuple):
    """Reviews as word indices.

    Inputs are object arrays [N] of int32 arrays [length]; targets int32 [N], 1 = positive.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    source: Source


class ImdbTexts(NamedTuple):
    """Reviews as texts; targets int32 [N], 1 = positive. All negative ones first: shuffle before a split."""

    train_texts: list[str]
    train_targets: np.ndarray
    test_texts: list[str]
    test_targets: np.ndarray
    source: Source


def load(
    *,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start: int | None = 1,
    out_of_vocabulary: int | None = 2,
    index_from: int = 3,
) -> ImdbSequences:
    """Reads the reviews as word indices: the numbers of `keras.datasets.imdb.load_data`.

    Args:
      num_words: indices below it are kept; None keeps all but the largest, as Keras does.
      skip_top: indices below it are not kept.
      maxlen: reviews of fewer words than this, start mark included, are kept.
      seed: of the order, as Keras draws it.
      start: index put before every review, or None.
      out_of_vocabulary: index in place of a word that is not kept, or None to drop the word.
      index_from: added to every word's rank.
    Returns:
      ImdbSequences(train_inputs, train_targets, test_inputs, test_targets, source).
    Raises:
      ValueError: an option makes no sense, no review is left, or the file is not what it should be.
      DataNotFound: the file is not here and cannot be had.
    """
    options = WordOptions(num_words, skip_top, maxlen, seed, start, out_of_vocabulary, index_from)
    options.check()
    found = find(SEQUENCES)
    with found.open() as stream:
        arrays = read_arrays(stream, ("x_train", "y_train", "x_test", "y_test"), title=str(found.path))
    title = str(found.path)
    parts = [check_words(arrays.pop(f"x_{part}"), arrays[f"y_{part}"], 2, title) for part in ("train", "test")]
    return arrange(parts, options, Source("real", "imdb", (found.record(),)))


def arrange(ranks: list[tuple[Ragged, np.ndarray]], options: WordOptions, source: Source) -> ImdbSequences:
    """Shuffles, marks and limits ranks, (words, labels) of training and of test, as Keras' `load_data` does.

    Empties `ranks`: the words are the bulk of the memory, and must not be there three times.
    """
    parts = []
    random = np.random.RandomState(options.seed)  # one for both parts, as in Keras
    while ranks:
        words, labels = ranks.pop(0)
        words, labels = shuffled(words, labels, random)
        words, labels = shorter(marked(words, options), labels, options.maxlen)
        if not len(words):
            raise ValueError(f"maxlen must leave some reviews in each part, got {options.maxlen}")
        parts.append((words, labels))
    largest = max(int(words.values.max(initial=0)) for words, _ in parts)
    (train_words, train_targets), (test_words, test_targets) = parts
    return ImdbSequences(
        limited(train_words, options, largest),
        train_targets,
        limited(test_words, options, largest),
        test_targets,
        source,
    )


def word_index() -> dict[str, int]:
    """The rank of every word, 1 = most frequent; `load` adds `index_from` to it.

    Raises:
      ValueError: the file is not a JSON object of whole numbers.
      DataNotFound: it is not here and cannot be had.
    """
    found = find(WORD_INDEX)
    return read_word_index(found.read(), str(found.path))


def load_texts() -> ImdbTexts:
    """Reads the raw reviews: in each part all negative ones, then all positive ones, each by file name.

    Returns:
      ImdbTexts(train_texts, train_targets, test_texts, test_targets, source).
    Raises:
      ValueError: the archive is damaged, unsafe, or lacks a class.
      DataNotFound: it is not here and cannot be had.
    """
    found = find(TEXTS)
    title = str(found.path)
    folders = {f"aclImdb/{part}/{label}": {} for part in ("train", "test") for label in ("neg", "pos")}

    def wanted(name: str) -> bool:
        return name.endswith(".txt") and name.removeprefix("./").rpartition("/")[0] in folders

    with found.open() as stream:
        for name, contents in tar_members(stream, wanted, title=title):
            folder, _, file = name.removeprefix("./").rpartition("/")
            try:
                folders[folder][file] = contents.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{title}: {name} must be UTF-8, {error}") from error
    for folder, texts in folders.items():
        if not texts:
            raise ValueError(f"{title} must hold reviews in {folder}/, got none")
    parts: list = []
    for part in ("train", "test"):
        negative, positive = (folders[f"aclImdb/{part}/{label}"] for label in ("neg", "pos"))
        parts.append([texts[file] for texts in (negative, positive) for file in sorted(texts)])
        parts.append(np.repeat(np.array([0, 1], np.int32), [len(negative), len(positive)]))
    return ImdbTexts._make([*parts, Source("real", "imdb", (found.record(),))])
