"""Keras 3 on JAX, its dropout masks given to it in place of those that it would draw."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import ours
from benchmarks.peers.peer import Missing, Peer, Run
from benchmarks.peers.work import RATE, Work
from jaxseq import conversions


def _gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    return ours.PEER.gradients(cell, conversions.from_keras(cell, weights))


def make_layer(cell: str, hidden: int, **settings: Any) -> Any:
    """The Keras layer of a cell of measuring.CELLS, not built; `settings` are Keras' own."""
    layers = PEER.load().layers
    if cell in ("gru", "gru_reset_after"):
        return layers.GRU(hidden, reset_after=cell == "gru_reset_after", **settings)
    return {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM}[cell](hidden, **settings)


def _run(layer: Any, work: Work, features: int, cells: Callable[[], list[Any]]) -> Callable[..., Any]:
    """Builds a layer: (weights, inputs, lengths, masks of each of its cells) -> [outputs, *states]."""
    layer.build((None, None, features))
    others = [variable.value for variable in layer.non_trainable_variables]

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> Any:
        real = None if lengths is None else jnp.arange(inputs.shape[1]) < lengths[:, None]
        if work.option == "dropout":  # these masks in place of those that it would draw, once for a call
            for cell, (of_inputs, of_state) in zip(cells(), masks, strict=True):
                cell._dropout_mask = _masks(work, of_inputs)
                cell._recurrent_dropout_mask = _masks(work, of_state)
        results, _ = layer.stateless_call(weights, others, inputs, mask=real, training=work.option == "dropout")
        return results

    return run


def _masks(work: Work, masks: jax.Array) -> Any:
    """Masks [G, B, n] in Keras' order of gates; of its SimpleRNN only one."""
    if work.cell == "simple_rnn":
        return masks[0]
    return [masks[gate] for gate in ((0, 1, 2, 3) if work.cell == "lstm" else (1, 0, 2))]


def _settings(work: Work) -> dict[str, Any]:
    rate = RATE if work.option == "dropout" else 0.0
    return {"dropout": rate, "recurrent_dropout": rate, "return_sequences": True, "return_state": True}


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    layer = make_layer(work.cell, hidden, go_backwards=reverse, **_settings(work))
    call = _run(layer, work, features, lambda: [layer.cell])

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        outputs, final, *_ = call(weights, inputs, lengths, [masks])
        return final, jnp.flip(outputs, axis=1) if reverse else outputs

    return run


def _both(work: Work, features: int, hidden: int) -> Run:
    layer = PEER.load().layers.Bidirectional(make_layer(work.cell, hidden, **_settings(work)))
    call = _run(layer, work, features, lambda: [layer.forward_layer.cell, layer.backward_layer.cell])

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        outputs, *states = call([*weights[0], *weights[1]], inputs, lengths, masks)
        finals = [states[0], states[len(states) // 2]]  # h of one direction, then h of the other
        return jnp.concatenate(finals, axis=-1), outputs

    return run


def _prepare(module: Any) -> None:
    if module.config.backend() != "jax":
        raise Missing(f"already imported with its backend {module.config.backend()}: set KERAS_BACKEND=jax")


PEER = Peer(
    title="Keras (JAX)",
    module="keras",
    package="keras",
    extra="dev",
    note="layers.SimpleRNN, LSTM, GRU and Bidirectional by stateless_call; dropout masks are given, not drawn; it "
    "takes only [B, T, F]",
    weights=conversions.to_keras,
    gradients=_gradients,
    layer=_layer,
    both=_both,
    variables={"KERAS_BACKEND": "jax"},
    prepare=_prepare,
    batch_major=True,
)
