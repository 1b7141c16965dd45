"""Flax Linen: a kernel for each gate, named by its letter."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers.peer import NO_DROPOUT, RESETS_AFTER, Peer, Run, standard
from benchmarks.peers.work import Work

CELLS = {"simple_rnn": "SimpleCell", "lstm": "OptimizedLSTMCell", "gru_reset_after": "GRUCell"}
_LETTERS = {1: ("",), 3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}  # by the number of gates


def _weights(cell: Any, params: Any) -> Any:
    w_input, w_hidden, bias, *second = params
    letters, biased = _LETTERS[cell.gates], "h" if cell.gates == 4 else "i"
    tree: dict[str, dict[str, Any]] = {}
    for part, weights in (("i", w_input), ("h", w_hidden)):
        for letter, kernel in zip(letters, np.split(weights, cell.gates, axis=-1), strict=True):
            tree[part + letter] = {"kernel": kernel}
    for letter, values in zip(letters, np.split(bias, cell.gates), strict=True):
        tree[biased + letter]["bias"] = values
    if second:
        tree["hn"]["bias"] = np.split(second[0], 3)[2]
    return tree


def _gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    letters, biased = _LETTERS[cell.gates], "h" if cell.gates == 4 else "i"
    w_input, w_hidden = (
        np.concatenate([tree[part + letter]["kernel"] for letter in letters], axis=-1) for part in "ih"
    )
    bias = np.concatenate([tree[biased + letter]["bias"] for letter in letters])
    return standard(w_input, w_hidden, bias, tree["hn"]["bias"] if cell.gates == 3 else None)


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    linen = PEER.load()
    cell = getattr(linen, CELLS[work.cell])(hidden)
    layer = linen.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del masks
        carry, outputs = layer.apply({"params": {"cell": weights}}, inputs, seq_lengths=lengths)
        return carry[1] if work.cell == "lstm" else carry, outputs

    return run


PEER = Peer(
    title="Flax Linen",
    module="flax.linen",
    package="flax",
    extra="dev",
    note="nn.RNN(time_major=True) of SimpleCell, OptimizedLSTMCell, GRUCell; both directions as its Bidirectional "
    "runs them; [T, B, F]",
    weights=_weights,
    gradients=_gradients,
    layer=_layer,
    cannot={"gru": RESETS_AFTER, "dropout": NO_DROPOUT},
)
