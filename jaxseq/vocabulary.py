"""Index ↔ word, for sequences that came with a word index (IMDB, Reuters)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from jaxseq import arguments
from jaxseq.text import text_words


@dataclass(frozen=True)
class Vocabulary:
    """The word at every index, and the index of every word.

    Attributes:
      words: the word at each index, special words among them. Unused indices hold `UNUSED`.
      padding, start, unknown: the special words, at indices 0, 1 and 2.

    Example:
      >>> vocabulary = Vocabulary.from_word_index({"the": 1, "film": 2})
      >>> vocabulary.encode("The film bored"), vocabulary.decode([1, 4, 5, 2])
      ([4, 5, 2], '<START> the film <UNK>')
    """

    UNUSED: ClassVar[str] = "<UNUSED>"
    LARGEST: ClassVar[int] = 1 << 24  # no language has more words; a rank beyond is a mistake, or made to fill memory

    words: tuple[str, ...] = field(repr=False)
    padding: str = "<PAD>"
    start: str = "<START>"
    unknown: str = "<UNK>"

    def __post_init__(self) -> None:
        """Checks that the special words stand where they must and that no word has two indices."""
        arguments.instance("words", self.words, tuple, "a tuple of words")
        for word in self.words:
            if not isinstance(word, str):
                raise ValueError(f"words must be strings, got {word!r:.60}")
        if self.words[:3] != (self.padding, self.start, self.unknown):
            raise ValueError(f"words must begin with padding, start and unknown, got {self.words[:3]}")
        used = [word for word in self.words if word != self.UNUSED]
        if len(set(used)) < len(used):
            twice = Counter(used).most_common(1)[0][0]
            raise ValueError(f"words must have one index each, got {twice!r} more than once")

    @classmethod
    def from_word_index(
        cls,
        word_index: Mapping[str, int],
        *,
        index_from: int = 3,
        padding: str = "<PAD>",
        start: str = "<START>",
        unknown: str = "<UNK>",
        num_words: int | None = None,
    ) -> "Vocabulary":
        """Builds the vocabulary of a data set whose ranks were shifted, as those of `keras.datasets` are.

        The word of rank r has index r + `index_from`; 0 is padding, 1 the start of a text, 2 an unknown word,
        and 3 (with the usual shift) is unused, as is any rank missing from `word_index`.

        Args:
          word_index: word to rank, from 1.
          index_from: the shift, at least 2.
          padding, start, unknown: what the special indices are called.
          num_words: only indices below it are used; words beyond are unknown. None for all.

        Returns:
          The vocabulary, of `num_words` words or fewer.

        Raises:
          ValueError: a rank is below 1, given twice or so large that indices pass `LARGEST`, a special word is in
            `word_index`, or `index_from` or `num_words` is too small.
        """
        arguments.mapping("word_index", word_index, "a mapping from word to rank")
        index_from = arguments.integer("index_from", index_from, at_least=2)
        num_words = arguments.optional_integer("num_words", num_words)
        if num_words is not None and num_words <= index_from:
            raise ValueError(f"num_words must be None or above index_from ({index_from}), got {num_words!r}")
        odd = next((rank for rank in word_index.values() if not isinstance(rank, int | np.integer)), None)
        if odd is not None:
            raise ValueError(f"word_index must hold ranks that are integers, got {odd!r:.60}")
        size = index_from + 1 + max(word_index.values(), default=0)
        size = size if num_words is None else min(size, num_words)
        if size > cls.LARGEST:
            raise ValueError(
                f"word_index must hold ranks that give at most {cls.LARGEST:,} indices, or num_words bound them, "
                f"got {size:,}"
            )
        listed = [padding, start, unknown] + [cls.UNUSED] * (size - 3)
        ranks: dict[int, str] = {}
        for word, rank in word_index.items():
            if rank < 1 or ranks.setdefault(rank, word) != word:
                raise ValueError(f"word_index must give words own ranks from 1, got {rank} for {word!r}")
            if word in (padding, start, unknown, cls.UNUSED):
                raise ValueError(f"word_index must not hold a special word, got {word!r}")
            if rank + index_from < size:
                listed[rank + index_from] = word
        return cls(tuple(listed), padding, start, unknown)

    def __len__(self) -> int:
        """The number of indices: the rows an embedding needs."""
        return len(self.words)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words) if word != self.UNUSED}

    def word(self, index: int) -> str:
        """The word at an index.

        Raises:
          ValueError: the index is not one of this vocabulary.
        """
        if arguments.integer("index", index) >= len(self.words):
            raise ValueError(f"index must be in [0, {len(self.words)}), got {index}")
        return self.words[index]

    def index(self, word: str) -> int:
        """The index of a word; `encode` is the forgiving form.

        Raises:
          ValueError: the word is not in this vocabulary.
        """
        if arguments.text("word", word) not in self._indices:
            raise ValueError(f"word must be one of the vocabulary's {len(self.words)}, got {word!r}")
        return self._indices[word]

    def encode(self, text: str | Iterable[str], *, start: bool = False) -> list[int]:
        """Numbers the words of a text.

        Args:
          text: a string, cut by `jaxseq.text.words`, or the words themselves.
          start: whether to begin with the start word, as the sequences of IMDB and Reuters do.

        Returns:
          The indices; that of the unknown word for words outside the vocabulary.
        """
        tokens = text_words(text)
        arguments.flag("start", start)
        unknown = self._indices[self.unknown]
        first = [self._indices[self.start]] if start else []
        return first + [self._indices.get(token, unknown) for token in tokens]

    def decode(self, sequence: Iterable[int], *, special: bool = True) -> str:
        """Puts the words of a sequence back, with spaces between them.

        Args:
          sequence: indices.
          special: whether to keep padding and start words.

        Raises:
          ValueError: an index is not one of this vocabulary.
        """
        arguments.flag("special", special)
        left_out = () if special else (self.padding, self.start)
        return " ".join(word for word in map(self.word, sequence) if word not in left_out)
