"""Which implementation of a recurrence a call takes, by rules that were measured.

What they rest on is in benchmarks/results/implementations.json, which `python -m benchmarks implementations` wrote.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax

from jaxseq import arguments
from jaxseq.cells.products import summed_gates

Implementation = Literal["scan", "joint", "hoisted", "deferred", "unrolled", "fused"]
IMPLEMENTATIONS = ("scan", "joint", "hoisted", "deferred", "unrolled", "fused")
_FEW = 16  # B up to which, and H / B from which, deferring was measured to pay on a CPU
_LARGE = 64  # H from which it does
_SMALL = 64  # F + H up to which one product of both was measured to pay on a CPU
_WIDE = 12  # F / H or F / B from which hoisting was measured to pay on a CPU


class Choice(NamedTuple):
    """What `jaxseq.explain` answers: the implementation that a call takes, and why."""

    implementation: Implementation
    reason: str


def choose(
    implementation: str | None,
    cell: Any,
    shape: tuple[int, ...],
    *,
    dropout: bool,
    recurrent_dropout: bool,
    gradient: bool,
) -> Choice:
    """Picks an implementation, or takes the one that is forced.

    Args:
      implementation: the one that is forced, or None.
      cell: the cell.
      shape: of the inputs, (T, F) or (T, B, F).
      dropout: whether the inputs have dropout masks.
      recurrent_dropout: whether the recurrent products have.
      gradient: whether the call is differentiated.
    Raises:
      ValueError: `implementation` is unknown, or not one for this cell.
    """
    sums = summed_gates(cell)
    if implementation is None:
        joins = sums is not None and dropout == recurrent_dropout  # where one has masks, the other is one product
        return _fastest(platform(), shape, cell.hidden_size, joins, dropout, gradient)
    arguments.one_of("implementation", implementation, IMPLEMENTATIONS, f"None or one of {IMPLEMENTATIONS}")
    if implementation == "joint" and sums is None:
        raise ValueError(
            f'implementation must not be "joint" for {type(cell).__name__}, which has no `summed_gates` beside its '
            f"`step`, got {implementation!r}"
        )
    return Choice(implementation, "forced by the caller")  # type: ignore[arg-type]  # just checked


def platform() -> str:
    """The platform that this call will run on, as far as is known while tracing."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]  # defined at run time
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


@functools.cache
def _fastest(
    platform: str, shape: tuple[int, ...], hidden_size: int, joins: bool, dropout: bool, gradient: bool
) -> Choice:
    """The implementation that was measured fastest.

    On a CPU: deferring saves the reading and writing of the weights' gradients, (F + H) · G · H numbers, at every
    step, and costs a pass over those of the gates, B · G · H; hoisting costs a pass over all drives, and wins
    where inputs are so much wider that reading them together saves more; a joint product costs a copy of x and h. Of
    one sequence [T, F] nobody knows how many a `vmap` runs beside it: it is never taken for a small batch.
    """
    if platform != "cpu":
        return Choice("hoisted", "on an accelerator one large product beats T small ones and their launches")
    features, batch = shape[-1], math.prod(shape[1:-1]) if len(shape) > 2 else math.inf
    if gradient and 0 < batch <= _FEW and hidden_size >= max(_FEW * batch, _LARGE):
        return Choice(
            "deferred",
            f"on a CPU weight gradients wait for one product where B is {_FEW} at most and H {_FEW} times B, or "
            f"{_LARGE}, and more",
        )
    if features >= _WIDE * min(hidden_size, batch) > 0 and not dropout:
        return Choice("hoisted", f"on a CPU one large product pays where F is {_WIDE} times H, or B, and more")
    if joins and dropout:
        return Choice("joint", "on a CPU one product a gate, of [x, h] with both masks, beats two inside the loop")
    if joins and gradient and features + hidden_size <= _SMALL:
        return Choice(
            "joint", f"on a CPU one product of [x, h] inside the loop beats two where F + H is {_SMALL} at most"
        )
    return Choice("scan", "on a CPU the input product stays in the cache inside the loop")
