"""Activation functions by name, so that a cell compares, hashes and serialises by value."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Activation = str | Callable[[jax.Array], jax.Array]


def keras2_hard_sigmoid(x: jax.Array) -> jax.Array:
    """Keras 2's gate activation, 0.2 x + 0.5 clipped to [0, 1] (JAX's and Keras 3's slope is 1/6)."""
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "celu": jax.nn.celu,
    "elu": jax.nn.elu,
    "exponential": jnp.exp,
    "gelu": jax.nn.gelu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_tanh": jax.nn.hard_tanh,
    "keras2_hard_sigmoid": keras2_hard_sigmoid,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
}


def activation(activation: Activation) -> Callable[[jax.Array], jax.Array]:
    """Looks an activation up by name; a function is returned as it is.

    Raises:
      ValueError: the name is none of `ACTIVATIONS`.
    """
    if callable(activation):
        return activation
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation must be a function or one of {sorted(ACTIVATIONS)}, got {activation!r}")
    return ACTIVATIONS[activation]
