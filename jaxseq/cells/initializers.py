"""Weight initialisers by name: Keras' defaults, and the field's other common ones.

An initialiser is a function `(key, shape, dtype) -> array`, as in `jax.nn.initializers`. It sees the whole
matrix of all gates, [F, G·H] or [H, G·H], as Keras' does.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

Initializer = str | Callable[..., jax.Array]

INITIALIZERS: dict[str, Callable[..., Any]] = {
    "glorot_normal": initializers.glorot_normal(),
    "glorot_uniform": initializers.glorot_uniform(),
    "he_normal": initializers.he_normal(),
    "he_uniform": initializers.he_uniform(),
    "lecun_normal": initializers.lecun_normal(),
    "lecun_uniform": initializers.lecun_uniform(),
    "ones": initializers.ones,
    "orthogonal": initializers.orthogonal(),
    "zeros": initializers.zeros,
}


def initializer(initializer: Initializer) -> Callable[..., Any]:
    """Looks an initialiser up by name; a function is returned as it is.

    Raises:
      ValueError: the name is none of `INITIALIZERS`.
    """
    if callable(initializer):
        return initializer
    if not isinstance(initializer, str) or initializer not in INITIALIZERS:
        raise ValueError(f"initializer must be a function or one of {sorted(INITIALIZERS)}, got {initializer!r}")
    return INITIALIZERS[initializer]


def draw(initializer_: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Draws an array; half precision is drawn in float32 and rounded (a QR has no half precision)."""
    wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)
    return initializer(initializer_)(key, shape, wide).astype(dtype)
