"""The product of a vector with the weights of all gates, with or without a dropout mask per gate."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state

from jaxseq import arguments

Multiply = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


class _Through(threading.local):
    multiply: Multiply | None = None  # what takes the products of a step that is being traced; None: `product`
    trace: Any = None  # the trace of that step


_through = _Through()


@contextlib.contextmanager
def products_through(multiply: Multiply) -> Iterator[None]:
    """While it lasts, `gate_product` leaves its product to `multiply`, which may look at it, or take it elsewhere.

    Not a product inside a `jit`, `vmap` or loop of the step's own: what it multiplies is unknown outside of that.
    """
    outer = _through.multiply, _through.trace
    _through.multiply, _through.trace = multiply, get_opaque_trace_state()
    try:
        yield
    finally:
        _through.multiply, _through.trace = outer


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
      ValueError: `values` does not end in F, or `mask` does not fit to it.
    """
    arguments.is_array(name, values)
    arguments.is_array("weights", weights)
    if weights.ndim != 2:
        raise ValueError(f"weights must have shape [F, G·H], got {weights.shape}")
    if values.shape[-1:] != weights.shape[:1]:
        raise ValueError(f"{name} must have {weights.shape[0]} features on the last axis, got shape {values.shape}")
    if mask is not None:
        _check_mask(mask, values.shape, weights.shape[1])
    if _through.multiply is None or _through.trace != get_opaque_trace_state():
        return product(values, weights, mask)
    return _through.multiply(values, weights, mask)


def _check_mask(mask: Any, shape: tuple[int, ...], width: int) -> None:
    arguments.is_array("mask", mask)
    gates = mask.shape[0] if mask.ndim else 0
    try:  # a mask of one vector serves a batch too
        fits = np.broadcast_shapes(mask.shape[1:], shape) == shape and gates > 0 and width % gates == 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask must have shape [G, ...] where G divides {width} and ... is {shape}, got {mask.shape}")


def product(
    values: jax.Array,
    weights: jax.Array,
    mask: jax.Array | None,
    *,
    matmul: Callable[[jax.Array, jax.Array], jax.Array] = jnp.matmul,
) -> jax.Array:
    """The product itself, or products, each by `matmul`: see `gate_product`."""
    if mask is None:
        return matmul(values, weights)
    parts = jnp.split(weights, mask.shape[0], axis=-1)
    return jnp.concatenate([matmul(values * mask[gate], part) for gate, part in enumerate(parts)], axis=-1)


def summed_gates(cell: Any) -> tuple[int, ...] | None:
    """What a cell says it adds up; None where it says nothing.

    What a class says holds for its own `project` and `step`, not for those that a class derived from it writes: these
    may do something else with the products, and would get wrong numbers in silence.
    """

    def place(name: str) -> int:
        classes = type(cell).__mro__
        return next((number for number, one in enumerate(classes) if name in vars(one)), len(classes))

    if place("summed_gates") > min(place("project"), place("step")):
        return None
    return getattr(cell, "summed_gates", None)


def check_drive(drive: jax.Array, gates: int, hidden_size: int) -> None:
    """Raises ValueError unless `drive` ends in `gates * hidden_size`."""
    if drive.shape[-1] != gates * hidden_size:
        raise ValueError(f"drive must have {gates} x {hidden_size} values on the last axis, got shape {drive.shape}")
