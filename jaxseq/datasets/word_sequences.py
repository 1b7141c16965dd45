"""Texts as sequences of word indices, under the options of Keras' `load_data`.

Index 0 is padding; by default 1 starts a text, 2 stands for words outside the vocabulary, and the word of
rank r (1 = most frequent) has index r + 3. The functions here are what `imdb`, `reuters` and their synthetic
twins share.
"""

import json
from typing import NamedTuple

import numpy as np

from jaxseq.datasets.archives import gunzip
from jaxseq.datasets.arrays import Ragged

_LARGEST = 2**30  # of any option: its sum with a rank must fit 32 bits
_LARGEST_RANK = 10_000_000  # of a word index: a vocabulary has a place for every rank below the largest


class WordOptions(NamedTuple):
    """What becomes of the words; see `jaxseq.datasets.imdb.load` for each."""

    num_words: int | None = None
    skip_top: int = 0
    maxlen: int | None = None
    seed: int = 113
    start: int | None = 1
    out_of_vocabulary: int | None = 2
    index_from: int = 3

    def check(self) -> None:
        """Raises ValueError, naming it, for an option that makes no sense."""
        for name, value, least, optional in (
            ("num_words", self.num_words, 1, True),
            ("skip_top", self.skip_top, 0, False),
            ("maxlen", self.maxlen, 1, True),
            ("seed", self.seed, 0, False),
            ("start", self.start, 0, True),
            ("out_of_vocabulary", self.out_of_vocabulary, 0, True),
            ("index_from", self.index_from, 0, False),
        ):
            if value is None and optional:
                continue
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if value is None or not whole or not least <= value <= _LARGEST:
                rule = f"an integer from {least} to {_LARGEST}" + (" or None" if optional else "")
                raise ValueError(f"{name} must be {rule}, got {value!r}")


def shuffled(words: Ragged, labels: np.ndarray, random: np.random.RandomState) -> tuple[Ragged, np.ndarray]:
    """Both in the order that Keras' `load_data` draws: `RandomState(seed).shuffle(arange(N))`, part after part."""
    order = np.arange(len(words))
    random.shuffle(order)
    return words.take(order), labels[order]


def marked(words: Ragged, options: WordOptions) -> Ragged:
    """Shifts every word by `index_from` and puts `start` before every text."""
    if options.start is None:
        return Ragged(words.values + options.index_from, words.lengths)
    is_word = np.ones(len(words.values) + len(words), bool)
    is_word[np.cumsum(words.lengths) - words.lengths + np.arange(len(words))] = False
    values = np.full(len(is_word), options.start, words.values.dtype)
    values[is_word] = words.values
    np.add(values, options.index_from, out=values, where=is_word)  # in place: a sum would be all words once more
    return Ragged(values, words.lengths + 1)


def shorter(words: Ragged, labels: np.ndarray, maxlen: int | None) -> tuple[Ragged, np.ndarray]:
    """The texts of fewer than `maxlen` words, start mark included: Keras' rule, which drops `maxlen` too."""
    if maxlen is None:
        return words, labels
    keep = np.flatnonzero(words.lengths < maxlen)
    return words.take(keep), labels[keep]


def limited(words: Ragged, options: WordOptions, largest: int) -> np.ndarray:
    """Replaces (or drops) every index outside skip_top..num_words-1; an object array of int32 arrays.

    `largest` is the largest index anywhere: Keras takes it for `num_words` when none is given, so that the
    one rarest word goes too. The start mark counts as a word here, as it does in Keras.
    """
    num_words = largest if options.num_words is None else options.num_words
    keep = (words.values >= options.skip_top) & (words.values < num_words)
    if options.out_of_vocabulary is None:
        before = np.concatenate([[0], np.cumsum(keep)])
        ends = np.cumsum(words.lengths)
        kept = Ragged(words.values[keep], before[ends] - before[ends - words.lengths])
    else:
        words.values[~keep] = options.out_of_vocabulary  # in place: `marked` made these values
        kept = words
    return Ragged(kept.values.astype(np.int32, copy=False), kept.lengths).rows()


def check_words(words: object, labels: object, classes: int, title: str) -> tuple[Ragged, np.ndarray]:
    """Words as int32 ranks, labels as int32 [N] below `classes`, or ValueError."""
    if not isinstance(words, Ragged):
        raise ValueError(f"{title} must hold its texts as an object array of lists")
    labels = np.asarray(labels)
    if labels.shape != (len(words),) or labels.dtype.kind not in "iu":
        raise ValueError(f"{title} must have one integer label per text, got {labels.dtype} {labels.shape}")
    if len(labels) and not (0 <= labels.min() and labels.max() < classes):
        raise ValueError(f"{title} must have labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    if len(words.values) and not (0 <= words.values.min() and words.values.max() < _LARGEST):
        raise ValueError(f"{title} must have word ranks from 0 to 2**30")
    return words, labels.astype(np.int32)


def read_word_index(contents: bytes, title: str) -> dict[str, int]:
    """A word index, `{"word": rank}`, from its JSON; ValueError if it is anything else."""
    contents = gunzip(contents, title=title, max_bytes=1 << 26)
    try:
        index = json.loads(contents.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{title} must be JSON, {error}") from error
    if not isinstance(index, dict) or set(map(type, index.values())) - {int}:
        raise ValueError(f'{title} must be a JSON object of whole numbers, {{"word": rank}}')
    if index and not 1 <= min(index.values()) <= max(index.values()) <= _LARGEST_RANK:
        least, largest = str(min(index.values())), str(max(index.values()))
        raise ValueError(f"{title} must have ranks from 1 to {_LARGEST_RANK}, got {least:.20} to {largest:.20}")
    return index
