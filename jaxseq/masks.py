"""Masks as data: real steps from lengths, starts of packed sequences, dropout drawn before the loop.

Axis letters, here and everywhere: T time, B batch, F input features, H hidden, G gates.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxseq import arguments
from jaxseq.cells import DropoutMasks
from jaxseq.row_keys import along_axis


def length_mask(lengths: jax.Array | np.ndarray, steps: int) -> jax.Array:
    """Marks the first `lengths` steps as real (right padding).

    >>> jaxseq.length_mask([2, 0], 3)            # [T, B]
    [[ True False] [ True False] [False False]]

    Args:
      lengths: real steps of each sequence, int [] or [B], each 0 to T.
      steps: T.
    Returns:
      bool [T] or [T, B], True where the step is real.
    Raises:
      ValueError: a length is negative or over T (where the values are known), or not an integer; T is none.
    """
    lengths, steps = arguments.array("lengths", lengths), arguments.integer("steps", steps)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths must be integers, got dtype {lengths.dtype}")
    if not isinstance(lengths, Tracer) and lengths.size:
        values = np.asarray(lengths)  # under jit even a constant would become a tracer in jnp
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > steps:
            raise ValueError(f"lengths must lie between 0 and {steps}, got {low if low < 0 else high}")
    lengths = lengths.astype(jnp.int32)  # int8 could not count the steps
    return jnp.arange(steps, dtype=jnp.int32).reshape((steps,) + (1,) * lengths.ndim) < lengths


def packing_resets(lengths: list[int] | np.ndarray, steps: int) -> np.ndarray:
    """Marks the first step of each of several sequences packed into one row.

    Args:
      lengths: the sequences' lengths in the order they are packed, int [N], each at least 1.
      steps: T, at least their sum.
    Returns:
      bool [T], True where a sequence starts, and where the padding after the last one does: the final state of the row
      is then that of the padding.
    Raises:
      ValueError: a length is below 1 or no integer, or they do not fit into T; T is no integer.
    """
    lengths, steps = arguments.host_array("lengths", lengths), arguments.integer("steps", steps)
    if lengths.ndim != 1:
        raise ValueError(f"lengths must have shape [N], got {lengths.shape}")
    if lengths.size and not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(f"lengths must be integers, got dtype {lengths.dtype}")
    lengths = lengths.astype(np.int64)
    if lengths.size and lengths.min() < 1:
        raise ValueError(f"lengths must be at least 1, got {lengths.min()}")
    if lengths.sum() > steps:
        raise ValueError(f"lengths must add up to at most {steps}, got {lengths.sum()}")
    resets = np.zeros(steps, bool)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    resets[starts[starts < steps]] = True
    return resets


def dropout_masks(
    key: jax.Array,
    cell: Any,
    input_size: int,
    batch_shape: tuple[int, ...] = (),
    *,
    dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    dtype: Any = jnp.float32,
) -> DropoutMasks | None:
    """Draws variational dropout masks: one a sequence and gate, the same at every step.

    Args:
      key: the random key.
      cell: a cell that takes masks (it has `gates`).
      input_size: F.
      batch_shape: () for one sequence, (B,) for a batch.
      dropout: the share of input features dropped, in [0, 1).
      recurrent_dropout: the share of hidden units dropped in the recurrent product, in [0, 1).
      dtype: of the masks.
    Returns:
      DropoutMasks(input [G, *batch_shape, F], recurrent [G, *batch_shape, H]), values 0 or 1 / (1 - rate),
      a field None where its rate is 0; None where both are.
    Raises:
      ValueError: a rate lies outside [0, 1), the cell takes no masks, or another argument is not as above.

    Source: Gal & Ghahramani 2016, arXiv:1512.05287; Keras 2's one mask a gate.
    """
    arguments.key("key", key)
    arguments.cell("cell", cell)
    input_size = arguments.integer("input_size", input_size, at_least=1)
    batch_shape = arguments.shape("batch_shape", batch_shape)
    dropout, recurrent_dropout = (
        arguments.rate(name, rate) for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout))
    )
    dtype = arguments.float_dtype("dtype", dtype)
    if not dropout and not recurrent_dropout:
        return None
    check_takes_masks(cell)
    input_key, recurrent_key = jax.random.split(along_axis(key, 1))  # `fit` shards the batch over the devices

    def draw(key: jax.Array, rate: float, size: int) -> jax.Array | None:
        if not rate:
            return None
        kept = jax.random.bernoulli(key, 1 - rate, (cell.gates, *batch_shape, size))
        return jnp.where(kept, jnp.asarray(1 / (1 - rate), dtype), jnp.zeros((), dtype))

    return DropoutMasks(
        input=draw(input_key, dropout, input_size),
        recurrent=draw(recurrent_key, recurrent_dropout, cell.hidden_size),
    )


def check_takes_masks(cell: Any) -> None:
    """Raises ValueError unless the cell says by `gates` how many dropout masks it takes."""
    if not hasattr(cell, "gates"):
        raise ValueError(
            f"dropout needs a cell that takes masks: {type(cell).__name__} has no `gates` "
            "(the number of masks that its project and step apply)"
        )
