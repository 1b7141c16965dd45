"""Haiku: other orders of gates, and a GRU whose update gate is one minus ours."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers.peer import NO_DROPOUT, NO_LENGTHS, Peer, Run, standard
from benchmarks.peers.work import Work


def _weights(cell: Any, params: Any) -> Any:
    if cell.gates == 3:  # order z r n, and z is one minus jaxseq's: σ(−a) = 1 − σ(a)
        r_z_n = (np.split(leaf, 3, axis=-1) for leaf in params)
        return {
            "gru": dict(
                zip(("w_i", "w_h", "b"), (np.concatenate([-z, r, n], axis=-1) for r, z, n in r_z_n), strict=True)
            )
        }
    w = np.concatenate([params.w_input, params.w_hidden])  # it multiplies x and h side by side
    b = params.bias - np.repeat(
        np.array([0, 1, 0, 0], np.float32), cell.hidden_size
    )  # it adds 1 to the forget gate itself
    return {"lstm/linear": {"w": _swap_middle(w), "b": _swap_middle(b)}}


def _gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    if cell.gates == 3:
        parts = (np.split(np.asarray(tree["gru"][name]), 3, axis=-1) for name in ("w_i", "w_h", "b"))
        return standard(*(np.concatenate([r, -z, n], axis=-1) for z, r, n in parts))
    w, b = (_swap_middle(np.asarray(tree["lstm/linear"][name])) for name in ("w", "b"))
    return standard(w[: -cell.hidden_size], w[-cell.hidden_size :], b)


def _swap_middle(gates: np.ndarray) -> np.ndarray:
    """Jaxseq's i f g o as Haiku's i g f o, and back."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    haiku = PEER.load()

    def unroll(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        core = haiku.LSTM(hidden) if work.cell == "lstm" else haiku.GRU(hidden)
        outputs, state = haiku.dynamic_unroll(core, inputs, core.initial_state(inputs.shape[1]), reverse=reverse)
        return state.hidden if work.cell == "lstm" else state, outputs

    transformed = haiku.without_apply_rng(haiku.transform(unroll))

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del lengths, masks
        return transformed.apply(weights, inputs)

    return run


PEER = Peer(
    title="Haiku",
    module="haiku",
    package="dm-haiku",
    extra="peers",
    note="hk.dynamic_unroll of hk.LSTM, hk.GRU; [T, B, F]",
    weights=_weights,
    gradients=_gradients,
    layer=_layer,
    cannot={
        "simple_rnn": "its VanillaRNN is a ReLU network, without tanh",
        "gru_reset_after": "its GRU resets before the product only",
        "lengths": NO_LENGTHS,
        "dropout": NO_DROPOUT,
    },
)
