"""A plain scan, written by hand: the textbook's equations, autodiff's derivative, and weights cut before the loop."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers import ours
from benchmarks.peers.peer import Peer, Run
from benchmarks.peers.work import Work


def _product(values: jax.Array, weights: list[jax.Array], masks: jax.Array | None) -> jax.Array:
    """One product for all gates; with masks [G, B, n] one for each."""
    if masks is None:
        [whole] = weights
        return values @ whole
    return jnp.concatenate([(values * mask) @ part for mask, part in zip(masks, weights, strict=True)], axis=-1)


def _simple_rnn(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    return (jnp.tanh(_product(x, params.w_input, of_inputs) + _product(h, params.w_hidden, of_state) + params.bias),)


def _lstm(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    (h, c), (of_inputs, of_state) = state, masks
    gates = _product(x, params.w_input, of_inputs) + _product(h, params.w_hidden, of_state) + params.bias
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    of_gates, of_candidate = (None, None) if of_state is None else (of_state[:2], of_state[2:])
    *u_gates, u_candidate = params.w_hidden
    r_x, z_x, n_x = jnp.split(_product(x, params.w_input, of_inputs) + params.bias, 3, axis=-1)
    r_h, z_h = jnp.split(_product(h, u_gates, of_gates), 2, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + _product(r * h, [u_candidate], of_candidate))
    return (z * h + (1 - z) * n,)


def _gru_reset_after(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    r_x, z_x, n_x = jnp.split(_product(x, params.w_input, of_inputs) + params.bias_input, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(_product(h, params.w_hidden, of_state) + params.bias_hidden, 3, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    return (z * h + (1 - z) * jnp.tanh(n_x + r * n_h),)


_BY_HAND = {
    "simple_rnn": _simple_rnn,
    "lstm": _lstm,
    "gru": _gru,
    "gru_reset_after": _gru_reset_after,
}


def _cut(work: Work, params: Any, masks: Any) -> Any:
    """Parameters with the weights as lists of what a step multiplies: cut at every step, XLA would copy them."""
    of_inputs, of_state = masks
    width = params.w_hidden.shape[0]
    of_gru = [2 * width] if work.cell == "gru" else []
    return params._replace(
        w_input=[params.w_input] if of_inputs is None else jnp.split(params.w_input, len(of_inputs), axis=-1),
        w_hidden=jnp.split(params.w_hidden, of_gru if of_state is None else len(of_state), axis=-1),
    )


def _layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    step = _BY_HAND[work.cell]

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        masks = (None, None) if masks is None else masks
        params = _cut(work, params, masks)
        real = None if lengths is None else jnp.arange(len(inputs))[:, None] < lengths

        def body(state: Any, now: Any) -> Any:
            x, real = now
            new = step(params, state, x, masks)
            if real is None:
                return new, new[0]
            held = tuple(jnp.where(real[:, None], after, before) for after, before in zip(new, state, strict=True))
            return held, jnp.where(real[:, None], new[0], 0)

        zeros = jnp.zeros((inputs.shape[1], hidden))
        start = (zeros, zeros) if work.cell == "lstm" else (zeros,)
        state, outputs = jax.lax.scan(body, start, (inputs, real), reverse=reverse)
        return state[0], outputs

    return run


PEER = Peer(
    title="plain scan",
    module="jax",
    package="jax",
    extra="dev",
    note="jax.lax.scan over the textbook's equations, written by hand, with its own derivative, and the weights cut "
    "before it; [T, B, F]",
    weights=ours.PEER.weights,
    gradients=ours.PEER.gradients,
    layer=_layer,
)
