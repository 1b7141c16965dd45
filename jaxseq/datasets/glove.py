"""GloVe: word vectors trained on six billion words of Wikipedia and newswire.

Source: Pennington, Socher, Manning 2014, "GloVe: Global Vectors for Word Representation", EMNLP.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxseq.datasets.archives import gunzip, zip_member
from jaxseq.datasets.files import DataFile, Source, find
from jaxseq.word_vectors import WordVectors, read_word_vectors

DIMENSIONS = (50, 100, 200, 300)
PUBLISHED_WORDS = 400_000
_HOME = "https://nlp.stanford.edu/data/glove.6B.zip (862 MB, all four sizes)"
_MAX_BYTES = 1 << 31


class GloveVectors(NamedTuple):
    """The vectors, and how much of the published file they come from.

    Args:
      vectors: words, most frequent first, and their vectors float32 [V, D]; a mapping from word to vector.
      words_in_file: lines of the file. Fewer than 400,000: a part of it, with weaker results than published.
      source: the file.
    """

    vectors: WordVectors
    words_in_file: int
    source: Source

    @property
    def complete(self) -> bool:
        """Whether the file holds as many words as the published one."""
        return self.words_in_file >= PUBLISHED_WORDS


def load(dimensions: int = 100, *, words: Iterable[str] | None = None) -> GloveVectors:
    """Reads the vectors from `glove.6B.<dimensions>d.txt`, its `.gz`, or `glove.6B.zip`.

    Args:
      dimensions: 50, 100, 200 or 300.
      words: keep these only, which is faster; None for all.
    Returns:
      GloveVectors(vectors, words_in_file, source).
    Raises:
      ValueError: no such dimensions, or the file is damaged.
      DataNotFound: the file is not here (no checksum was published for it, so it is not downloaded).
    """
    if dimensions not in DIMENSIONS:
        raise ValueError(f"dimensions must be one of {', '.join(map(str, DIMENSIONS))}, got {dimensions!r}")
    name = f"glove.6B.{dimensions}d.txt"
    found = find(DataFile(name, alternatives=("glove.6B.zip",), home=_HOME))
    title = str(found.path)
    if found.path.suffix == ".zip":
        with found.open() as stream:
            contents = zip_member(stream, name, title=title, max_bytes=_MAX_BYTES)
    else:
        contents = gunzip(found.read(), title=title, max_bytes=_MAX_BYTES)
    lines = contents.count(b"\n") + (not contents.endswith(b"\n"))
    with tempfile.TemporaryDirectory(prefix="jaxseq-") as directory:
        # The very bytes that were measured and verified, unpacked, for a reader that takes a path.
        unpacked = Path(directory) / name
        unpacked.write_bytes(contents)
        del contents
        try:
            vectors = read_word_vectors(unpacked, words=words)
        except ValueError as error:
            raise ValueError(str(error).replace(str(unpacked), title)) from error
    if vectors.size != dimensions:
        raise ValueError(f"{title} must have {dimensions} numbers a line, got {vectors.size}")
    return GloveVectors(vectors, lines, Source("real", "glove", (found.record(),)))
