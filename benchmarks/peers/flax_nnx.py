"""Flax NNX: jaxseq's order of gates."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers.flax_linen import CELLS
from benchmarks.peers.peer import NO_DROPOUT, RESETS_AFTER, Peer, Run, standard
from benchmarks.peers.work import Work


def _weights(cell: Any, params: Any) -> Any:
    w_input, w_hidden, bias, *_ = params
    tree = {"dense_i": {"kernel": w_input}, "dense_h": {"kernel": w_hidden}}
    tree["dense_h" if cell.gates == 4 else "dense_i"]["bias"] = bias
    return tree


def _gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    bias = tree["dense_h" if cell.gates == 4 else "dense_i"]["bias"]
    return standard(tree["dense_i"]["kernel"], tree["dense_h"]["kernel"], bias)


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    nnx = PEER.load()
    cell = getattr(nnx, CELLS[work.cell])(features, hidden, rngs=nnx.Rngs(0))
    layer = nnx.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
    graph, state, others = nnx.split(layer, nnx.Param, ...)

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del masks
        own = jax.tree.map(lambda leaf: leaf, state)  # a copy, to be written to
        nnx.replace_by_pure_dict(own, {"cell": weights})
        carry, outputs = nnx.merge(graph, own, others, copy=True)(inputs, seq_lengths=lengths)
        return carry[1] if work.cell == "lstm" else carry, outputs

    return run


PEER = Peer(
    title="Flax NNX",
    module="flax.nnx",
    package="flax",
    extra="dev",
    note="nnx.RNN(time_major=True) of the same cells, merged inside jit (nnx.jit costs more a call); its GRU has "
    "no second bias, and one gradient less; [T, B, F]",
    weights=_weights,
    gradients=_gradients,
    layer=_layer,
    cannot={"gru": RESETS_AFTER, "dropout": NO_DROPOUT},
)
