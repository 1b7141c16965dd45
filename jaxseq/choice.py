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
_WIDE = 12  # F / H or F / B from which one product of all inputs, before the loop, was measured to pay on a CPU
_HIDDEN = 64  # H from which deferring pays for more than a few sequences
_FEW, _SOME = 8, 16  # B up to which it pays for any H, and for a large one


class Choice(NamedTuple):
    """What `jaxseq.explain` answers: the implementation that a call takes, and why."""

    implementation: Implementation
    reason: str


_ACCELERATOR = Choice("hoisted", "on an accelerator one large product beats T small ones and their launches")
_EMPTY = Choice("scan", "there are no features, sequences or units")
_SCAN = Choice("scan", "on a CPU the input product stays in the cache inside the loop")
_HOISTED = Choice(
    "hoisted", "on a CPU one product of all inputs pays where F is large against H and B, or all is small"
)
_DEFERRED = Choice("deferred", "on a CPU weight gradients wait for one product where B is small against F + H")
_JOINT = Choice("joint", "on a CPU one product of [x, h] inside the loop beats two where they are small")
_JOINT_MASKED = Choice("joint", "on a CPU one product a gate, of [x, h] with both masks, beats two inside the loop")
_SCAN_MASKED = Choice("scan", "on a CPU products with a mask for each gate stay in the cache inside the loop")


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
        masked = dropout or recurrent_dropout
        # Where one of the two has masks the other is a single product, and a joint one would be several.
        products = len(sums) if sums is not None and dropout == recurrent_dropout else 0
        return _fastest(platform(), shape, cell.hidden_size, products, masked, gradient)
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
    platform: str, shape: tuple[int, ...], hidden_size: int, joint_products: int, masked: bool, gradient: bool
) -> Choice:
    """The implementation that was measured fastest; `joint_products`: of a step that joins them, else 0.

    Of one sequence [T, F] nobody knows how many a `vmap` runs beside it: it is taken for one of a large batch.
    """
    if platform != "cpu":
        return _ACCELERATOR
    features, batch = shape[-1], math.prod(shape[1:-1]) if len(shape) > 2 else math.inf
    if not features or not batch or not hidden_size:
        return _EMPTY
    on_a_cpu = _differentiated_on_a_cpu if gradient else _forward_on_a_cpu
    return on_a_cpu(features, batch, hidden_size, joint_products, masked)


def _forward_on_a_cpu(features: int, batch: float, hidden: int, joint_products: int, masked: bool) -> Choice:
    """A joint product halves the calls of small products; hoisting reads the input weights once, and costs drives."""
    if masked:
        return _masked(features, batch, hidden, joint_products)
    if _is_small(features, batch, hidden):
        return _JOINT if joint_products else _HOISTED
    times = features / min(hidden, batch)
    if times >= _WIDE or (times >= 4 and batch * hidden <= 4096):
        return _HOISTED
    return _SCAN


def _differentiated_on_a_cpu(features: int, batch: float, hidden: int, joint_products: int, masked: bool) -> Choice:
    """As forward; and deferring saves reading and writing (F + H) G H numbers of weights' gradients at every step.

    It costs a pass over the gates' gradients, B G H.
    """
    if batch == 1 and 4 * features >= hidden:
        return _HOISTED
    if batch <= _FEW and hidden < _HIDDEN:
        return _HOISTED if features >= _WIDE * batch else _DEFERRED
    if masked:
        return _masked(features, batch, hidden, joint_products)
    if _is_wide(features, batch, hidden):
        return _HOISTED
    if batch <= _SOME and hidden >= _HIDDEN:
        return _DEFERRED
    if features >= _WIDE * min(hidden, batch):
        return _HOISTED
    if batch <= 32 and hidden >= _HIDDEN and features + hidden >= 8 * batch and 2 * features >= hidden:
        return _DEFERRED
    if joint_products == 1 and features + hidden <= 64:
        return _JOINT
    return _HOISTED if _is_small(features, batch, hidden) else _SCAN


def _masked(features: int, batch: float, hidden: int, joint_products: int) -> Choice:
    """With a mask for each gate, forward and differentiated alike."""
    if _is_wide(features, batch, hidden):
        return _HOISTED
    return _JOINT_MASKED if joint_products and features + hidden <= 128 else _SCAN_MASKED


def _is_wide(features: int, batch: float, hidden: int) -> bool:
    """Whether hoisting paid, with masks too, for a gradient too: of 64 sequences it does not on several devices."""
    return batch <= 32 and features >= 4 * max(hidden, batch)


def _is_small(features: int, batch: float, hidden: int) -> bool:
    """Whether a step's calls cost more than its products, and its drives nothing."""
    return features + hidden <= 64 and batch * hidden <= 512
