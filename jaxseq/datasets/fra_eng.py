"""English sentences and their French translations, shortest first.

Source: Tatoeba, as distributed by manythings.org/anki; the archive of 2017 has 142,787 pairs.
"""

from typing import NamedTuple

from jaxseq.datasets.archives import gunzip, text_lines, zip_member
from jaxseq.datasets.files import DataFile, Source, find

PAIRS = DataFile("fra-eng.zip", alternatives=("fra.txt",), home="https://www.manythings.org/anki/fra-eng.zip")


class SentencePairs(NamedTuple):
    """Sentences and translations, `english[i]` with `french[i]`, in the file's order."""

    english: list[str]
    french: list[str]
    source: Source


def load() -> SentencePairs:
    """Reads the pairs. An English sentence stands once for each of its translations.

    Returns:
      SentencePairs(english, french, source).
    Raises:
      ValueError: the archive is damaged, or a line is not two sentences with a tab between.
      DataNotFound: the file is not here and cannot be had.
    """
    found = find(PAIRS)
    title = str(found.path)
    if found.path.suffix == ".zip":
        with found.open() as stream:
            contents = zip_member(stream, "fra.txt", title=title, max_bytes=1 << 28)
    else:
        contents = gunzip(found.read(), title=title, max_bytes=1 << 28)
    english, french = [], []
    for number, line in text_lines(contents, title=title):
        if not line:
            continue
        fields = line.split("\t")  # newer archives add a third field, the attribution
        if len(fields) < 2 or not fields[0] or not fields[1]:
            raise ValueError(f"{title} line {number} must be two sentences with a tab between, got {line[:40]!r}")
        english.append(fields[0])
        french.append(fields[1])
    if not english:
        raise ValueError(f"{title} must hold sentence pairs, got none")
    return SentencePairs(english, french, Source("real", "fra_eng", (found.record(),)))
