"""Every experiment by its name."""

import difflib
import fnmatch

from experiments import (
    captions,
    imdb,
    imdb100,
    imdb500,
    imdb_words,
    jena,
    memory,
    reuters,
    spam,
    tagging,
    text_vectorization,
    translation,
)
from experiments.experiment import Experiment, UserError

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for family in (
        captions,
        imdb,
        imdb100,
        imdb500,
        imdb_words,
        jena,
        memory,
        reuters,
        spam,
        tagging,
        text_vectorization,
        translation,
    )
    for experiment in family.EXPERIMENTS
}


def find(pattern: str) -> list[Experiment]:
    """The experiments that a name, a pattern like `jena_*`, or `all` means.

    Raises:
      UserError: none is meant.
    """
    names = list(EXPERIMENTS) if pattern == "all" else fnmatch.filter(EXPERIMENTS, pattern)
    if not names:
        raise UserError(f"NAME must be an experiment, a pattern or all, got {pattern!r}; {_hint(pattern)}")
    return [EXPERIMENTS[name] for name in names]


def find_one(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
      UserError: there is none.
    """
    if name not in EXPERIMENTS:
        raise UserError(f"NAME must be an experiment, got {name!r}; {_hint(name)}")
    return EXPERIMENTS[name]


def _hint(name: str) -> str:
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    return f"did you mean {close[0]}?" if close else "`python -m experiments list` names them"
