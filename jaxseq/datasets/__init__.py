"""Data sets: found, verified and read; each with a generated twin of the same type.

A loader looks for its files in the directory named by `$JAXSEQ_DATA`, then in the user's cache
(`$XDG_CACHE_HOME/jaxseq` or `~/.cache/jaxseq`), then downloads them from their public home if, and only if,
a checksum was published for them. Nothing in a file can run as code: the readers are in `arrays` (`.npz`) and
`archives` (`.tar.gz`, `.zip`, `.gz`). Every result has a `source` that records which files were read, their
sha256 and whether it is the published one.

  imdb         reviews as word indices, and as texts; sentiment
  reuters      newswires as word indices; 46 topics
  jena         a weather station's 14 readings, every ten minutes
  glove        pretrained word vectors
  sms          short messages, spam or not
  ud_ewt       English words with their part of speech
  fra_eng      English sentences and their French translations
  synthetic    a generated twin of each, the adding problem, copy memory
"""

from jaxseq.datasets import fra_eng, glove, imdb, jena, reuters, sms, synthetic, ud_ewt
from jaxseq.datasets.files import DataNotFound, FileRecord, Source

__all__ = [
    "DataNotFound",
    "FileRecord",
    "Source",
    "fra_eng",
    "glove",
    "imdb",
    "jena",
    "reuters",
    "sms",
    "synthetic",
    "ud_ewt",
]
