"""What a training epoch of several models costs, measured in one run, one after another in turns."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.experiment import Data, Variant, summarize
from jaxseq.epochs import initialize, make_mesh, make_train_chunk, steps_per_epoch, zero_totals

_ROUND = 1.0  # seconds that a model trains before the next one's turn


def seconds_per_epoch(models: Mapping[str, tuple[Variant, Data]], *, rounds: int = 5) -> dict[str, dict[str, Any]]:
    """Times training steps of each model, in turns, so that a slow moment of the machine meets all of them.

    Args:
      models: what to train, on what, by name.
      rounds: how many turns each has, after its compilation.
    Returns:
      name -> seconds an epoch and seed, summarized over the rounds, with their median.
    """
    runs = {name: _Timed(variant, data) for name, (variant, data) in models.items()}
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            measured[name].append(run.seconds_per_epoch())
    return {name: summarize(values) | {"median": statistics.median(values)} for name, values in measured.items()}


class _Timed:
    """A model in training, warmed up; every turn takes the same number of steps."""

    def __init__(self, variant: Variant, data: Data) -> None:
        mesh = make_mesh()
        self.steps_per_epoch = steps_per_epoch(data.train, variant.batch_size)
        self.arrays = jax.device_put((data.train.arrays, np.asarray(data.train.rows, np.int32)))
        self.chunk = make_train_chunk(variant.task, data.train, variant.optimizer, variant.batch_size, mesh)
        state = initialize(variant.model, data.train.one_input, variant.optimizer, 0)
        self.carry = jax.tree.map(lambda leaf: leaf[None], state), zero_totals(variant.task, 1)
        self.steps = 1
        self._run()  # compiles
        self.steps = int(min(max(_ROUND / self._run(), 1), self.steps_per_epoch))

    def seconds_per_epoch(self) -> float:
        return self._run() / self.steps * self.steps_per_epoch

    def _run(self) -> float:
        started = time.perf_counter()
        stopped = np.zeros(1, bool)
        epoch, first, last = np.int32(0), np.int32(0), np.int32(self.steps)
        self.carry = jax.block_until_ready(self.chunk(*self.carry, stopped, *self.arrays, epoch, first, last))[:2]
        return time.perf_counter() - started
