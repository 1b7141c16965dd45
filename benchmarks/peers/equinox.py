"""Equinox: its cells are their own weights, transposed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.peer import NO_DROPOUT, RESETS_AFTER, Peer, Run, standard
from benchmarks.peers.work import Work


def _weights(cell: Any, params: Any) -> Any:
    equinox = PEER.load()
    make = equinox.nn.LSTMCell if cell.gates == 4 else equinox.nn.GRUCell
    w_input, w_hidden, *biases = params
    leaves = [w_input.T, w_hidden.T, biases[0]]
    if cell.gates == 3:
        leaves.append(np.split(biases[1], 3)[2])
    empty = make(len(w_input), cell.hidden_size, key=jax.random.key(0))
    return equinox.tree_at(_leaves, empty, leaves)


def _leaves(cell: Any) -> list[Any]:
    return [cell.weight_ih, cell.weight_hh, cell.bias, *([cell.bias_n] if hasattr(cell, "bias_n") else [])]


def _gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    del cell
    w_input, w_hidden, *biases = map(np.asarray, _leaves(weights))
    return standard(w_input.T, w_hidden.T, *biases)


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    lstm = work.cell == "lstm"

    def run(cell: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del lengths, masks

        def one_sequence(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
                state = cell(x, state)
                return state, state[0] if lstm else state

            zeros = jnp.zeros(hidden)
            state, outputs = jax.lax.scan(step, (zeros, zeros) if lstm else zeros, inputs, reverse=reverse)
            return state[0] if lstm else state, outputs

        return jax.vmap(one_sequence, in_axes=1, out_axes=(0, 1))(inputs)

    return run


PEER = Peer(
    title="Equinox",
    module="equinox",
    package="equinox",
    extra="peers",
    note="jax.lax.scan over eqx.nn.LSTMCell, GRUCell of one sequence, as its documentation has it, under vmap over "
    "axis 1; [T, B, F]",
    weights=_weights,
    gradients=_gradients,
    layer=_layer,
    cannot={
        "simple_rnn": "it has no such cell",
        "gru": RESETS_AFTER,
        "lengths": "it has no loop over time: its cells are scanned by hand, without lengths",
        "dropout": NO_DROPOUT,
    },
)
