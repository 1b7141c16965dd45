"""The product of a vector with the weights of all gates, with or without a dropout mask per gate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class DropoutMasks(NamedTuple):
    """Dropout masks of one layer, constant in time: 0 where dropped, 1 / (1 - rate) where kept.

    Either field may be None: no dropout there. Drawn by `jaxseq.dropout_masks`.
    """

    input: jax.Array | None  # [G, ..., F]
    recurrent: jax.Array | None  # [G, ..., H]


def gate_product(values: jax.Array, weights: jax.Array, mask: jax.Array | None, *, name: str = "inputs") -> jax.Array:
    """Multiplies `values` with the weights of G gates that lie side by side.

    Without a mask that is one product, with masks one for each gate: gate g sees `values * mask[g]`.

    Args:
      values: float [..., F].
      weights: float [F, G·H].
      mask: None, or float [G, ..., F].
      name: what the caller calls `values`, for the error.
    Returns:
      float [..., G·H].
    Raises:
      ValueError: `values` does not end in F.
    """
    if values.shape[-1] != weights.shape[0]:
        raise ValueError(f"{name} must have {weights.shape[0]} features on the last axis, got shape {values.shape}")
    if mask is None:
        return values @ weights
    parts = jnp.split(weights, mask.shape[0], axis=-1)
    return jnp.concatenate([(values * mask[gate]) @ part for gate, part in enumerate(parts)], axis=-1)


def check_drive(drive: jax.Array, gates: int, hidden_size: int) -> None:
    """Raises ValueError unless `drive` ends in `gates * hidden_size`."""
    if drive.shape[-1] != gates * hidden_size:
        raise ValueError(f"drive must have {gates} x {hidden_size} values on the last axis, got shape {drive.shape}")
