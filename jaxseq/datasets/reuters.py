"""Reuters: 11,228 newswires on one of 46 topics each.

Source: Reuters-21578, D. D. Lewis; the indices are Keras'.
"""

from typing import NamedTuple

import numpy as np

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
    "reuters.npz",
    urls=(_KERAS + "reuters.npz",),
    sha256="d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916",
    size=2110848,
)
WORD_INDEX = DataFile(
    "reuters_word_index.json",
    urls=(_KERAS + "reuters_word_index.json",),
    md5="4d44cc38712099c9e383dc6e5f11a921",
    size=550378,
)
TOPICS = tuple(
    "cocoa grain veg-oil earn acq wheat copper housing money-supply coffee sugar trade reserves ship cotton"
    " carcass crude nat-gas cpi money-fx interest gnp meal-feed alum oilseed gold tin strategic-metal"
    " livestock retail ipi iron-steel rubber heat jobs lei bop zinc orange pet-chem dlr gas silver wpi hog"
    " lead".split()
)
"""The name of each class, in the order of the targets."""


class ReutersSequences(NamedTuple):
    """Newswires as word indices.

    Inputs are object arrays [N] of int32 arrays [length]; targets int32 [N], an index into `TOPICS`.
    """

    train_inputs: np.ndarray
    train_targets: np.ndarray
    test_inputs: np.ndarray
    test_targets: np.ndarray
    source: Source


def load(
    *,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    test_split: float = 0.2,
    seed: int = 113,
    start: int | None = 1,
    out_of_vocabulary: int | None = 2,
    index_from: int = 3,
) -> ReutersSequences:
    """Reads the newswires as word indices: the numbers of `keras.datasets.reuters.load_data`.

    Args:
      num_words: indices below it are kept; None keeps all but the largest, as Keras does.
      skip_top: indices below it are not kept.
      maxlen: wires of fewer words than this, start mark included, are kept.
      test_split: share of the wires, the last ones after the shuffle, that are for testing.
      seed: of the order, as Keras draws it.
      start: index put before every wire, or None.
      out_of_vocabulary: index in place of a word that is not kept, or None to drop the word.
      index_from: added to every word's rank.
    Returns:
      ReutersSequences(train_inputs, train_targets, test_inputs, test_targets, source).
    Raises:
      ValueError: an option makes no sense, no wire is left, or the file is not what it should be.
      DataNotFound: the file is not here and cannot be had.
    """
    options = WordOptions(num_words, skip_top, maxlen, seed, start, out_of_vocabulary, index_from)
    check_options(options, test_split)
    found = find(SEQUENCES)
    title = str(found.path)
    with found.open() as stream:
        arrays = read_arrays(stream, ("x", "y"), title=title)
    ranks = [check_words(arrays.pop("x"), arrays["y"], len(TOPICS), title)]
    return arrange(ranks, options, test_split, Source("real", "reuters", (found.record(),)))


def check_options(options: WordOptions, test_split: float) -> None:
    """Raises ValueError, naming it, for an option that makes no sense."""
    options.check()
    if isinstance(test_split, bool) or not isinstance(test_split, (int, float)) or not 0 <= test_split <= 1:
        raise ValueError(f"test_split must be a share from 0 to 1, got {test_split!r}")


def arrange(
    ranks: list[tuple[Ragged, np.ndarray]], options: WordOptions, test_split: float, source: Source
) -> ReutersSequences:
    """Shuffles, marks, limits and splits ranks, one (words, labels), as Keras' `load_data` does.

    Empties `ranks`, as `imdb.arrange`.
    """
    words, labels = shuffled(*ranks.pop(), np.random.RandomState(options.seed))
    words, labels = shorter(marked(words, options), labels, options.maxlen)
    if not len(words):
        raise ValueError(f"maxlen must leave some wires, got {options.maxlen}")
    inputs = limited(words, options, int(words.values.max(initial=0)))
    split = int(len(inputs) * (1 - test_split))
    return ReutersSequences(inputs[:split], labels[:split], inputs[split:], labels[split:], source)


def word_index() -> dict[str, int]:
    """The rank of every word, 1 = most frequent; `load` adds `index_from` to it.

    Raises:
      ValueError: the file is not a JSON object of whole numbers.
      DataNotFound: it is not here and cannot be had.
    """
    found = find(WORD_INDEX)
    return read_word_index(found.read(), str(found.path))
