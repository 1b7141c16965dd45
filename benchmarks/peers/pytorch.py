"""PyTorch: not JAX; `comparison` runs its modules."""

from typing import Any

import jax
import numpy as np

from benchmarks.peers.peer import NO_DROPOUT, RESETS_AFTER, Missing, Peer, standard
from benchmarks.peers.work import Work
from jaxseq import conversions, environment


def _gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    w_input, w_hidden, bias, second = weights  # in the order of conversions.TORCH_WEIGHTS
    candidate = np.split(second, 3)[2] if cell.gates == 3 else None  # the others only repeat `bias`
    return standard(w_input.T, w_hidden.T, bias, candidate)


def _weights(cell: Any, params: Any) -> Any:
    return list(conversions.to_torch(cell, params).values())


def make_layer(cell: str, features: int, hidden: int, *, bidirectional: bool = False) -> Any:
    """The PyTorch module of a cell of measuring.CELLS."""
    nn = PEER.load().nn
    make = {"simple_rnn": nn.RNN, "lstm": nn.LSTM, "gru_reset_after": nn.GRU}[cell]
    return make(features, hidden, bidirectional=bidirectional)


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Any:
    del reverse  # the module has both directions where the work has
    return make_layer(work.cell, features, hidden, bidirectional=work.bidirectional)


def _prepare(module: Any) -> None:
    if jax.default_backend() == "gpu" and not module.cuda.is_available():
        raise Missing("this PyTorch finds no GPU: pip install its build for CUDA")
    module.set_num_threads(environment.cores())


PEER = Peer(
    title="PyTorch",
    module="torch",
    package="torch",
    extra="peers",
    note="nn.RNN, nn.LSTM, nn.GRU; with lengths run through the padding, the last real state picked, which on a CPU "
    "is faster than what both directions need, pack_padded_sequence(enforce_sorted=False); on a CPU oneDNN with as "
    "many threads as cores, on a GPU cuDNN; forward under no_grad; [T, B, F]",
    weights=_weights,
    gradients=_gradients,
    layer=_layer,
    prepare=_prepare,
    cannot={"gru": RESETS_AFTER, "dropout": NO_DROPOUT},
    has_threads=True,
)
