"""SMS Spam Collection: 5,574 short messages, 747 of them spam.

Source: Almeida, Gómez Hidalgo, Yamakami 2011, "Contributions to the Study of SMS Spam Filtering", DocEng.
"""

from typing import NamedTuple

import numpy as np

from jaxseq.datasets.archives import gunzip, text_lines
from jaxseq.datasets.files import DataFile, Source, find

MESSAGES = DataFile("SMSSpamCollection", home="https://archive.ics.uci.edu/dataset/228/sms+spam+collection")
LABELS = ("ham", "spam")


class SmsMessages(NamedTuple):
    """Messages in the file's order; targets int32 [N], 1 = spam."""

    texts: list[str]
    targets: np.ndarray
    source: Source


def load() -> SmsMessages:
    """Reads the messages.

    Returns:
      SmsMessages(texts, targets, source).
    Raises:
      ValueError: a line is not `ham` or `spam`, a tab, a text.
      DataNotFound: the file is not here and cannot be had.
    """
    found = find(MESSAGES)
    title = str(found.path)
    contents = gunzip(found.read(), title=title, max_bytes=1 << 26)
    texts, targets = [], []
    for number, line in text_lines(contents, title=title):
        if not line:
            continue
        label, tab, text = line.partition("\t")
        if label not in LABELS or not tab:
            raise ValueError(f"{title} line {number} must be 'ham' or 'spam', a tab, a text, got {line[:40]!r}")
        texts.append(text)
        targets.append(LABELS.index(label))
    if not texts:
        raise ValueError(f"{title} must hold messages, got none")
    return SmsMessages(texts, np.array(targets, np.int32), Source("real", "sms", (found.record(),)))
