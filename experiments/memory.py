"""Long-term dependency: how far back SimpleRNN, LSTM and GRU remember (document 001, section 3).

Two generated tasks at growing delay. Adding: the sum of two marked numbers, one in each half of the sequence; always
answering 1 has a squared error of 1/6. Copying: ten symbols of eight, asked for after a delay; guessing is right
in 1/8.

Source: Hochreiter & Schmidhuber 1997; Arjovsky, Shah & Bengio 2016, arXiv:1511.06464.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import optax

import jaxseq
from experiments import plots
from experiments.experiment import Data, Experiment, Variant
from jaxseq.datasets import synthetic

_CELLS = (jaxseq.SimpleRNN(32), jaxseq.LSTM(32), jaxseq.GRU(32))
_ADDING_STEPS = (10, 30, 100, 200)
_COPY_DELAYS = (10, 30, 100)
_EXAMPLES = 10_000
_SOURCE = {"kind": "generated", "name": "adding problem, copy memory", "files": []}
_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), jaxseq.adam(3e-3))


def _parts(smoke: bool, kind: int, delay: int) -> list[tuple[np.random.Generator, int]]:
    """A generator and a size for training, validation and test: the same data whatever ran before."""
    sizes = (96, 96, 96) if smoke else (_EXAMPLES, _EXAMPLES // 10, _EXAMPLES // 10)
    return [(np.random.default_rng((kind, delay, part)), size) for part, size in enumerate(sizes)]


@functools.cache
def _adding(is_synthetic: bool, smoke: bool, steps: int) -> Data:
    del is_synthetic  # always generated
    parts = [jaxseq.examples(*synthetic.adding_problem(rng, size, steps)) for rng, size in _parts(smoke, 0, steps)]
    return Data(parts[0], parts[1], parts[2], _SOURCE)


@functools.cache
def _copying(is_synthetic: bool, smoke: bool, delay: int) -> Data:
    """The loss counts at the last ten steps, where the symbols are asked for."""
    del is_synthetic  # always generated
    parts = []
    for rng, size in _parts(smoke, 1, delay):
        tokens, targets = synthetic.copy_memory(rng, size, delay)
        asked = np.arange(tokens.shape[1]) >= tokens.shape[1] - 10
        parts.append(jaxseq.examples(tokens, targets, np.broadcast_to(asked, tokens.shape)))
    return Data(parts[0], parts[1], parts[2], _SOURCE)


def _variants() -> tuple[Variant, ...]:
    variants = []
    for cell in _CELLS:
        name = type(cell).__name__
        for steps in _ADDING_STEPS:
            variants.append(
                Variant(
                    load=functools.partial(_adding, steps=steps),
                    model=jaxseq.SequenceRegressor(cell),
                    loss=jaxseq.losses.squared_error,
                    metrics={},
                    optimizer=_OPTIMIZER,
                    epochs=20,
                    batch_size=64,
                    smoke=steps == _ADDING_STEPS[0],
                    label=f"adding {steps} {name}",
                )
            )
        for delay in _COPY_DELAYS:
            variants.append(
                Variant(
                    load=functools.partial(_copying, delay=delay),
                    model=jaxseq.SequenceTagger(cell, vocabulary_size=10, embedding_size=10, classes=10),
                    loss=jaxseq.losses.categorical_cross_entropy,
                    metrics={"accuracy": jaxseq.losses.categorical_accuracy},
                    optimizer=_OPTIMIZER,
                    epochs=20,
                    batch_size=64,
                    monitor="accuracy",
                    maximize=True,
                    smoke=delay == _COPY_DELAYS[0],
                    label=f"copying {delay} {name}",
                )
            )
    return tuple(variants)


def _plot(result: dict[str, Any], directory: Path) -> None:
    """Test figure against the delay, a line a cell."""
    lines: dict[str, dict[str, list[tuple[int, dict[str, Any]]]]] = {"adding": {}, "copying": {}}
    for variant in [result, *result["variants"]]:
        task, delay, cell = variant["label"].split()
        quantity = "loss" if task == "adding" else "accuracy"
        lines[task].setdefault(cell, []).append((int(delay), variant["figures"]["test"][quantity]))
    plots.against(
        {
            "adding problem: squared error (guessing: 0.167)": lines["adding"],
            "copy memory: accuracy of the symbols (guessing: 0.125)": lines["copying"],
        },
        directory / "memory.png",
        xlabel="steps to remember over",
    )


EXPERIMENTS = [
    Experiment(
        name="long_term_dependency",
        document="001_7cf08e2a96f4f12b.txt",
        title="adding problem and copy memory at growing delay: SimpleRNN, LSTM and GRU of 32 units",
        documented="the vanilla RNN loses early information; LSTM and GRU remedy it (no figure)",
        variants=_variants(),
        plot=_plot,
    ),
]
