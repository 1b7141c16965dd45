"""Every experiment by its name."""

import difflib
import fnmatch

from experiments import imdb, jena, memory, reuters
from experiments.experiment import Experiment, UserError

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for family in (imdb, jena, memory, reuters) for experiment in family.EXPERIMENTS
}


def find(pattern: str) -> list[Experiment]:
    """The experiments that a name, a pattern like `jena_*`, or `all` means.

    Raises:
      UserError: none is meant.
    """
    names = list(EXPERIMENTS) if pattern == "all" else fnmatch.filter(EXPERIMENTS, pattern)
    if not names:
        close = difflib.get_close_matches(pattern, EXPERIMENTS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`python -m experiments list` names them"
        raise UserError(f"NAME must be an experiment, a pattern or all, got {pattern!r}; {hint}")
    return [EXPERIMENTS[name] for name in names]
