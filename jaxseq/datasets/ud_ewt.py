"""English Web Treebank: sentences as words, each with its part of speech (17 universal tags).

Source: Silveira et al. 2014, "A Gold Standard Dependency Corpus for English", LREC; Universal Dependencies.
"""

import itertools
from typing import NamedTuple

from jaxseq.datasets.archives import gunzip, text_lines
from jaxseq.datasets.files import DataFile, Source, find

_HOME = "https://github.com/UniversalDependencies/UD_English-EWT"
TRAIN, DEVELOPMENT, TEST = (DataFile(f"en_ewt-ud-{part}.conllu.gz", home=_HOME) for part in ("train", "dev", "test"))
TAGS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())


class TaggedSentence(NamedTuple):
    """A sentence: its words, and of each its tag, one of `TAGS`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class TaggedSentences(NamedTuple):
    """The three published parts."""

    train: list[TaggedSentence]
    validation: list[TaggedSentence]
    test: list[TaggedSentence]
    source: Source


def load() -> TaggedSentences:
    """Reads the treebank's words and tags.

    Returns:
      TaggedSentences(train, validation, test, source).
    Raises:
      ValueError: a line is not CoNLL-U, or a tag is not one of `TAGS`.
      DataNotFound: a file is not here and cannot be had.
    """
    parts: list = []
    records = []
    for file in (TRAIN, DEVELOPMENT, TEST):
        found = find(file)
        title = str(found.path)
        parts.append(read_conllu(gunzip(found.read(), title=title, max_bytes=1 << 28), title))
        records.append(found.record())
    return TaggedSentences._make([*parts, Source("real", "ud_ewt", tuple(records))])


def read_conllu(contents: bytes, title: str) -> list[TaggedSentence]:
    """The sentences of a CoNLL-U file; multiword ranges (3-4) and empty nodes (3.1) are not words."""
    sentences, words, tags = [], [], []
    for number, line in itertools.chain(text_lines(contents, title=title), [(0, "")]):
        if not line:
            if words:
                sentences.append(TaggedSentence(tuple(words), tuple(tags)))
                words, tags = [], []
        elif line[0] != "#":
            fields = line.split("\t")
            if len(fields) != 10:
                raise ValueError(f"{title} line {number} must have 10 tab-separated fields, got {len(fields)}")
            if not fields[0].isdigit():
                continue
            if fields[3] not in TAGS:
                raise ValueError(f"{title} line {number} must have a universal tag, got {fields[3]!r}")
            words.append(fields[1])
            tags.append(fields[3])
    if not sentences:
        raise ValueError(f"{title} must hold sentences, got none")
    return sentences
