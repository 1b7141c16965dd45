"""Which implementation of a recurrence a call takes, by rules that were measured.

How they fare is in benchmarks/results/implementations.md and implementations_forward.md, which `python -m benchmarks
implementations` wrote.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax

from jaxseq import arguments
from jaxseq.cells.products import summed_gates

Implementation = Literal["scan", "joint", "hoisted", "deferred", "tabulated", "unrolled", "fused"]
IMPLEMENTATIONS = ("scan", "joint", "hoisted", "deferred", "tabulated", "unrolled", "fused")
_WIDE = 12  # F / H or F / B from which one product of all inputs, before the loop, was measured to pay on a CPU
_FEW, _SOME = 8, 16  # B up to which deferring pays: always; without masks, or on one of several devices
_ROWS = 8  # (F + H) / B from which hoisting pays on one of several devices,
_LARGE = 512  # and deferring, if F + H is so much: from twice as many rows, or for few gates
_GATES, _LEAST_GATES = 2048, 1024  # numbers of a step's gates, B G H, up to which it pays too; beside "joint"
_WIDE_GATES = 2**14  # and up to which one device hoists wide inputs
_MANY = 32  # B up to which hoisting pays on one device
_LONG = 250  # T from which deferring does, of what cannot be joined: 100 and 500 were measured
_JOINED_GATES, _JOINED = 2**13, 128  # B G H and B up to which "joint" pays on one device; for H of 16 always
_LOOKUPS = 3  # in a table for each of its rows, from which projecting the table pays
_GATES_UNKNOWN = 4  # of a cell that does not say


class Choice(NamedTuple):
    """What `jaxseq.explain` answers: the implementation that a call takes, and why."""

    implementation: Implementation
    reason: str


_ACCELERATOR = Choice("hoisted", "on an accelerator one large product beats T small ones and their launches")
_EMPTY = Choice("scan", "there are no features, sequences or units")
_SCAN = Choice("scan", "on a CPU the input product stays in the cache inside the loop")
_HOISTED = Choice(
    "hoisted",
    "on a CPU one product of all inputs pays where F is large against H and B, or B or H small and no product joined",
)
_DEFERRED = Choice("deferred", "on a CPU weight gradients wait for one product where B or B H is small, or F + H large")
_DEFERRED_LONG = Choice("deferred", "on a CPU weight gradients of many small steps wait for one product")
_TABULATED = Choice("tabulated", "on a CPU one product of a table's rows beats those of more rows looked up in it")
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
    sharded: bool | None = None,
    table_size: int | None = None,
) -> Choice:
    """Picks an implementation, or takes the one that is forced.

    Args:
      implementation: the one that is forced, or None.
      cell: the cell.
      shape: of the inputs, (T, F) or (T, B, F).
      dropout: whether the inputs have dropout masks.
      recurrent_dropout: whether the recurrent products have.
      gradient: whether the call is differentiated.
      sharded: whether other devices take the machine's cores meanwhile; None: see `is_sharded`.
      table_size: the rows of the table that the inputs are looked up in; None: they are not.
    Returns:
      Choice(implementation, reason).
    Raises:
      ValueError: `implementation` is unknown, or not one for this cell.
    """
    sums = summed_gates(cell)
    if implementation is None:
        masked = dropout or recurrent_dropout
        # Where one of the two has masks the other is a single product, and a joint one would be several.
        products = None if sums is None else len(sums) if dropout == recurrent_dropout else 0
        gates = getattr(cell, "gates", _GATES_UNKNOWN)
        sharded = is_sharded() if sharded is None else sharded
        if table_size is not None and not dropout and _tabulates(shape, table_size, cell.hidden_size, gates, gradient):
            return _TABULATED
        return _fastest(platform(), shape, cell.hidden_size, gates, products, masked, gradient, sharded)
    arguments.one_of("implementation", implementation, IMPLEMENTATIONS, f"None or one of {IMPLEMENTATIONS}")
    if implementation == "joint" and sums is None:
        raise ValueError(
            f'implementation must not be "joint" for {type(cell).__name__}, which has no `summed_gates` beside its '
            f"`step`, got {implementation!r}"
        )
    if implementation == "tabulated" and (table_size is None or dropout):
        raise ValueError(
            f'implementation must not be "tabulated" but for inputs that are a Lookup and have no dropout masks, got '
            f"{implementation!r}"
        )
    return Choice(implementation, "forced by the caller")  # type: ignore[arg-type]  # just checked


def platform() -> str:
    """The platform that this call will run on, as far as is known while tracing."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]  # defined at run time
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def is_sharded() -> bool:
    """Whether this call is traced inside a `shard_map`: the other devices run the same at the same time."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in mesh.manual_axes) > 1


@functools.cache
def _fastest(
    platform: str,
    shape: tuple[int, ...],
    hidden_size: int,
    gates: int,
    joint_products: int | None,
    masked: bool,
    gradient: bool,
    sharded: bool,
) -> Choice:
    """The implementation that was measured fastest.

    `joint_products`: of a step that joins them; 0 where these masks keep it from that, None where the cell cannot. Of
    one sequence [T, F] nobody knows how many a `vmap` runs beside it: it is taken for one of a large batch.
    """
    if platform != "cpu":
        return _ACCELERATOR
    steps, features = shape[0], shape[-1]
    batch = math.prod(shape[1:-1]) if len(shape) > 2 else math.inf
    if not features or not batch or not hidden_size:
        return _EMPTY
    if gradient:
        return _differentiated_on_a_cpu(steps, features, batch, hidden_size, gates, joint_products, masked, sharded)
    return _forward_on_a_cpu(features, batch, hidden_size, gates, joint_products, masked, sharded)


def _tabulates(shape: tuple[int, ...], table_size: int, hidden: int, gates: int, gradient: bool) -> bool:
    """Whether all rows of a table are projected, not those looked up in it.

    Reading drives costs more than reading inputs where these are narrow. Of one sequence [T, F] nobody knows how many
    a `vmap` runs beside it: what it looks up alone has to be worth it.
    """
    *steps, features = shape
    if platform() != "cpu" or not features or not hidden or math.prod(steps) < _LOOKUPS * table_size:
        return False
    if gradient:
        return features >= 64 or features * gates * hidden >= 1024
    return features >= max(hidden, 64)


def _forward_on_a_cpu(
    features: int, batch: float, hidden: int, gates: int, joint_products: int | None, masked: bool, sharded: bool
) -> Choice:
    """A joint product halves the calls of small products; hoisting reads the input weights once, and costs drives.

    Of several devices each has a core of its own for the one product of all inputs, which then pays for little alone.
    """
    small, times = _is_small(features, batch, hidden), features / min(hidden, batch)
    wide = times >= _WIDE and not sharded and not masked
    if joint_products is None:  # hoisting is all that spares it a product
        if sharded:
            fits = batch <= _SOME or small if masked else batch <= _FEW or hidden <= 16
        else:
            fits = small or wide or (features >= hidden and batch * hidden <= 4096)
        return _HOISTED if fits else _SCAN_MASKED if masked else _SCAN
    if masked and gates > 1 and batch <= (_FEW if sharded else _MANY) and features >= 4 * max(hidden, batch):
        return _HOISTED
    if masked:  # of one gate it is one product for another
        return _JOINT_MASKED if joint_products and (gates > 1 or small) else _SCAN_MASKED
    if small:
        return _JOINT
    if wide or (times >= 4 and batch * hidden <= (256 if sharded else 4096)):
        return _HOISTED
    return _SCAN


def _differentiated_on_a_cpu(
    steps: int,
    features: int,
    batch: float,
    hidden: int,
    gates: int,
    joint_products: int | None,
    masked: bool,
    sharded: bool,
) -> Choice:
    """As forward; and deferring saves reading and writing (F + H) G H numbers of weights' gradients at every step.

    It costs a pass over the gates' gradients, B G H. One device takes all cores for a product of many steps; one of
    several has a core of its own, and gains less.
    """
    numbers = batch * gates * hidden  # of a step's gates
    if masked:
        otherwise = _JOINT_MASKED if joint_products and features + hidden <= 128 else _SCAN_MASKED
    else:
        fits = sharded or hidden <= 16 or (batch <= _JOINED and numbers <= _JOINED_GATES)
        otherwise = _JOINT if joint_products == 1 and features + hidden <= 64 and fits else _SCAN
    many = batch * features > 4096  # of a step's inputs: the product of all steps' reads them from memory
    most = _LEAST_GATES if many or otherwise in (_JOINT, _JOINT_MASKED) else _GATES
    if batch <= _FEW or numbers <= most or (batch <= _SOME and (sharded or not masked)):
        return _DEFERRED
    rows = features + hidden  # of all weights
    outnumber = rows >= _ROWS * batch
    few = numbers <= _WIDE_GATES
    if outnumber and rows >= _LARGE and (few or rows >= 2 * _ROWS * batch):
        return _DEFERRED
    if sharded:
        return _HOISTED if outnumber else otherwise
    wide = features >= 4 * hidden and few
    wide |= not masked and features >= _WIDE * min(hidden, batch)
    if wide or (batch <= _MANY and rows >= 128):
        return _HOISTED
    if batch <= _MANY and joint_products is None and features >= hidden:
        return _DEFERRED_LONG if steps >= _LONG else _HOISTED
    return otherwise


def _is_small(features: int, batch: float, hidden: int) -> bool:
    """Whether a step's calls cost more than its products, and its drives nothing."""
    return features + hidden <= 64 and batch * hidden <= 512
