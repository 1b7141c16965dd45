"""A step of a cell, computed on tiles: what a GPU kernel can hold, from what the cell wrote for arrays of any size.

A kernel works on blocks whose sides are powers of two and, in a product, at least 16. So every array of a step is cut
along multiples of H, gate by gate, and each part padded: [B, G·H] becomes G tiles [rows, P], [H, G·H] becomes G tiles
[P, P]. Cutting at the gates is more than bookkeeping: each thread then holds the same row and column of every gate, and
splitting the gates costs nothing. What stands in the padding is never read: zeros meet it in every product.

Traced, the batch has the size `BATCH`, which no other axis has: so it is known wherever a cell moves it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

BATCH = 65_537
WIDEST = 128  # a tile [P, P] of float32 is then 64 KB of a multiprocessor's 227 KB
ROWS = 16  # of the batch in one tile: the least that tensor cores take

# Primitives that act on each number alone, and that Pallas lowers for GPUs (jax 0.10 to 0.12).
_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos cosh div "
    "eq exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not "
    "one_minus_square or pow rem rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)
_CALLS = ("jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")


class CannotFuse(Exception):
    """A step does something that the kernel cannot; the message says what."""


class Tiled(NamedTuple):
    """An array of a step, as tiles: a grid of objects, with one axis for each `wide` axis of the array.

    A tile is a number, or [ROWS, P] with the batch, [P, P] for a matrix, [1, P] for a vector, [1, 1] for a scalar;
    along an axis on which all its values are the same it may have size 1.
    """

    shape: tuple[int, ...]
    tiles: np.ndarray


def wide(shape: Sequence[int]) -> list[int]:
    """The sizes that are cut into tiles: neither the batch's nor 1."""
    return [size for size in shape if size not in (1, BATCH)]


def parts(size: int, hidden_size: int) -> list[int]:
    """How an axis is cut: at the multiples of H, if it is one."""
    return [hidden_size] * (size // hidden_size) if size % hidden_size == 0 else [size]


def padded(width: int) -> int:
    """The side of a tile that holds `width` numbers."""
    return 1 if width == 1 else max(ROWS, 2 ** math.ceil(math.log2(width)))


class Layout(NamedTuple):
    """How an array lies in a kernel's memory: its parts side by side, each padded to a tile."""

    rows: tuple[int, ...] | None  # their sizes; None: the batch
    columns: tuple[int, ...]

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """The shapes of the tiles, in row-major order."""
        heights = [ROWS] if self.rows is None else [padded(width) for width in self.rows]
        return [(height, padded(width)) for height in heights for width in self.columns]


def lay_out(shape: tuple[int, ...], hidden_size: int) -> Layout:
    """How an array of this shape lies.

    Raises:
      CannotFuse: the array has too many axes, or one is too wide.
    """
    sides = [tuple(parts(size, hidden_size)) for size in wide(shape)]
    if len(sides) > (1 if BATCH in shape else 2):
        raise CannotFuse(f"an array of shape {readable(shape)} has too many axes for a tile")
    if any(max(side) > WIDEST for side in sides):
        raise CannotFuse(f"an array of shape {readable(shape)} is wider than {WIDEST}, the widest tile")
    if BATCH in shape:
        return Layout(None, sides[0] if sides else (1,))
    return Layout(sides[0] if len(sides) == 2 else (1,), sides[-1] if sides else (1,))


def readable(shape: Sequence[int]) -> str:
    """A shape for a message, with the letter B for the batch."""
    return f"[{', '.join('B' if size == BATCH else str(size) for size in shape)}]"


def assemble(shape: tuple[int, ...], tiles: Sequence[Any], hidden_size: int) -> Tiled:
    """The tiles of an array, given in row-major order, as `Tiled`."""
    blocks = [len(parts(size, hidden_size)) for size in wide(shape)]
    return Tiled(shape, np.fromiter(tiles, object, len(tiles)).reshape(blocks))


def evaluate(jaxpr: Jaxpr, consts: Sequence[Any], arguments: Sequence[Tiled], hidden_size: int) -> list[Tiled]:
    """Computes a step on tiles.

    Args:
      jaxpr: the step, traced with a batch of `BATCH`.
      consts: its constants; only numbers can be had in a kernel.
      arguments: its arguments.
      hidden_size: H, where axes are cut.
    Returns:
      Its results. A tile may be smaller than it should be along an axis on which all its values are the same.
    Raises:
      CannotFuse: the step does what tiles cannot.
    """
    environment: dict[Any, Tiled] = dict(zip(jaxpr.invars, arguments, strict=True))
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        environment[variable] = _number(value)

    def read(atom: Any) -> Tiled:
        return _number(atom.val) if isinstance(atom, Literal) else environment[atom]

    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, [read(atom) for atom in equation.invars]
        if name in _CALLS:
            inner = next(equation.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in equation.params)
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            results = evaluate(closed.jaxpr, closed.consts, operands, hidden_size)
        elif name in _ELEMENTWISE:
            results = [_elementwise(equation, operands)]
        elif name in _RULES:
            results = _RULES[name](equation, operands, hidden_size)
        else:
            raise CannotFuse(f"it uses `{name}`, which the kernel has not")
        environment.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _number(value: Any) -> Tiled:
    if np.shape(value):
        raise CannotFuse(f"it holds an array of its own, of shape {np.shape(value)}; arrays must come as parameters")
    return Tiled((), np.fromiter([value], object, 1).reshape(()))


def _each(function: Callable[..., Any], shape: tuple[int, ...], *grids: np.ndarray) -> Tiled:
    """A function of corresponding tiles; a grid of one tile corresponds to all."""
    grids = np.broadcast_arrays(*grids)
    result = np.empty(grids[0].shape, object)
    for index in np.ndindex(result.shape):
        result[index] = function(*(grid[index] for grid in grids))
    return Tiled(shape, result)


def full(tile: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """A tile, or a number, at its full size."""
    if not isinstance(tile, jax.Array):
        return lax.full(shape, tile, dtype)
    return tile if tile.shape == shape else lax.broadcast_in_dim(tile, shape, (0, 1))


def _elementwise(equation: Any, operands: list[Tiled]) -> Tiled:
    dtypes = [atom.aval.dtype for atom in equation.invars]
    adds = equation.primitive.name in ("add", "add_any")

    def apply(*tiles: Any) -> Any:
        nonzero = [tile for tile in tiles if isinstance(tile, jax.Array) or tile != 0]
        if adds and len(nonzero) == 1 and isinstance(nonzero[0], jax.Array):
            return nonzero[0]  # a gradient beside the zeros that stand in for the other gates'
        shapes = [tile.shape for tile in tiles if isinstance(tile, jax.Array)]
        shape = np.broadcast_shapes(*shapes) if shapes else (1, 1)
        same = [full(tile, shape, dtype) for tile, dtype in zip(tiles, dtypes, strict=True)]
        return equation.primitive.bind(*same, **equation.params)

    return _each(apply, equation.outvars[0].aval.shape, *(operand.tiles for operand in operands))


def _broadcast_in_dim(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    operand, shape = operands[0], equation.outvars[0].aval.shape
    lay_out(shape, hidden_size)
    axes = [axis for axis, size in enumerate(shape) if size not in (1, BATCH)]
    if BATCH not in shape and len(axes) == 2 and len(wide(operand.shape)) == 1:
        raise CannotFuse(f"it makes a matrix {readable(shape)} of a vector")
    to = equation.params["broadcast_dimensions"]
    come = [to[axis] for axis, size in enumerate(operand.shape) if size not in (1, BATCH)]
    blocks = [len(parts(shape[axis], hidden_size)) for axis in axes]
    grid = operand.tiles.reshape([count if axis in come else 1 for axis, count in zip(axes, blocks, strict=True)])
    return [Tiled(shape, np.broadcast_to(grid, blocks))]


def _reshape(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    operand, shape = operands[0], equation.outvars[0].aval.shape
    before, after = ([size for size in sizes if size != 1] for sizes in (operand.shape, shape))
    if before != after:
        raise CannotFuse(f"it reshapes {readable(operand.shape)} to {readable(shape)}; split the last axis instead")
    return [Tiled(shape, operand.tiles)]


def _transpose(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    operand, shape = operands[0], equation.outvars[0].aval.shape
    axes = [axis for axis in equation.params["permutation"] if operand.shape[axis] not in (1, BATCH)]
    if axes == sorted(axes):  # a batch's rows are rows of its tiles wherever its axis stands
        return [Tiled(shape, operand.tiles)]
    return [_each(lambda tile: lax.transpose(tile, (1, 0)), shape, operand.tiles.T)]


def _cut(operand: Tiled, axis: int, start: int, limit: int, hidden_size: int) -> Tiled:
    """A slice along one axis, which must end where tiles end."""
    size = operand.shape[axis]
    if limit - start == size:
        return operand
    edges = np.cumsum([0, *parts(size, hidden_size)]).tolist()
    if size == BATCH or start not in edges or limit not in edges:
        raise CannotFuse(
            f"it takes {start}:{limit} of {readable([size])}; slices must end at multiples of {hidden_size}"
        )
    index = [slice(None)] * operand.tiles.ndim
    index[len(wide(operand.shape[:axis]))] = slice(edges.index(start), edges.index(limit))
    return Tiled((*operand.shape[:axis], limit - start, *operand.shape[axis + 1 :]), operand.tiles[tuple(index)])


def _slice(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    (operand,), parameters = operands, equation.params
    if any(stride != 1 for stride in parameters["strides"] or ()):
        raise CannotFuse("it takes a slice with a stride")
    for axis, (start, limit) in enumerate(zip(parameters["start_indices"], parameters["limit_indices"], strict=True)):
        operand = _cut(operand, axis, int(start), int(limit), hidden_size)
    return [operand]


def _split(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    edges = np.cumsum([0, *equation.params["sizes"]]).tolist()
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return [_cut(operands[0], equation.params["axis"], start, limit, hidden_size) for start, limit in pairs]


def _concatenate(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    return [_join(operands, equation.params["dimension"], hidden_size)]


def _join(operands: list[Tiled], axis: int, hidden_size: int) -> Tiled:
    sizes = [operand.shape[axis] for operand in operands]
    widths = [width for size in sizes for width in parts(size, hidden_size)]
    if BATCH in sizes or 1 in sizes or parts(sum(sizes), hidden_size) != widths:
        raise CannotFuse(f"it joins {readable(sizes)} along an axis; each must be a multiple of {hidden_size}")
    shape = (*operands[0].shape[:axis], sum(sizes), *operands[0].shape[axis + 1 :])
    return Tiled(shape, np.concatenate([operand.tiles for operand in operands], axis=len(wide(shape[:axis]))))


def _pad(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    operand, value = operands
    for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
        if interior or low < 0 or high < 0:
            raise CannotFuse(f"it pads {readable(operand.shape)} with something else than zeros at the ends")

        def filled(count: int, operand: Tiled = operand, axis: int = axis) -> Tiled:
            shape = (*operand.shape[:axis], count, *operand.shape[axis + 1 :])
            blocks = [len(parts(size, hidden_size)) for size in wide(shape)]
            return Tiled(shape, np.broadcast_to(value.tiles, blocks))

        pieces = [filled(int(low))] * bool(low) + [operand] + [filled(int(high))] * bool(high)
        operand = _join(pieces, axis, hidden_size) if len(pieces) > 1 else operand
    return [operand]


def _clean(tile: Any, width: int, dtype: Any, instead: float = 0.0) -> jax.Array:
    """A whole tile with something harmless in its padding: what was computed there may be infinite."""
    tile = full(tile, (ROWS, padded(width)), dtype)
    column = lax.broadcasted_iota(jnp.int32, tile.shape, 1)
    return tile if tile.shape[1] == width else jnp.where(column < width, tile, instead)


def _reduce(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    (operand,), shape, dtype = operands, equation.outvars[0].aval.shape, equation.invars[0].aval.dtype
    sizes = wide(operand.shape)
    if BATCH in operand.shape and BATCH not in shape:
        raise CannotFuse("it couples the sequences of a batch")
    if sizes == wide(shape):
        return [Tiled(shape, operand.tiles)]
    if BATCH not in shape:
        raise CannotFuse(f"it reduces {readable(operand.shape)}, which belongs to no sequence")
    reduce, combine, neutral = _REDUCTIONS[equation.primitive.name]
    widths = parts(sizes[0], hidden_size)
    whole = [_clean(tile, width, dtype, neutral) for tile, width in zip(operand.tiles, widths, strict=True)]
    total = functools.reduce(combine, [reduce(tile, axis=1, keepdims=True) for tile in whole])
    return [assemble(shape, [total], hidden_size)]


_REDUCTIONS = {"reduce_max": (jnp.max, lax.max, -jnp.inf), "reduce_sum": (jnp.sum, lax.add, 0.0)}


def _dot_general(equation: Any, operands: list[Tiled], hidden_size: int) -> list[Tiled]:
    contracted, batched = equation.params["dimension_numbers"]
    of_batch = [BATCH in operand.shape for operand in operands]
    if batched[0] or len(contracted[0]) > 1 or of_batch.count(True) != 1:
        shown = " with ".join(readable(operand.shape) for operand in operands)
        raise CannotFuse(f"it multiplies {shown}; a product must be of a state and a matrix of parameters")
    place = of_batch.index(True)
    values, weights, shape = operands[place], operands[1 - place], equation.outvars[0].aval.shape
    if not contracted[0]:  # the gradient of a state's product with a vector
        lay_out(shape, hidden_size)
        return [_each(lambda tile, other: tile * other, shape, values.tiles, weights.tiles)]
    (values_axis,), (weights_axis,) = contracted[place], contracted[1 - place]
    size = values.shape[values_axis]
    if size in (1, BATCH):
        raise CannotFuse(f"it contracts an axis of size {readable([size])}")
    pairs, dtype = zip(values.tiles, parts(size, hidden_size), strict=True), equation.invars[place].aval.dtype
    whole, axis = [_clean(*pair, dtype) for pair in pairs], len(wide(weights.shape[:weights_axis]))

    def product(tile: jax.Array, weight: jax.Array) -> jax.Array:
        if weights.tiles.ndim == 1:  # a vector: tensor cores have no product that narrow
            return jnp.sum(tile * weight, axis=1, keepdims=True)
        return lax.dot_general(
            tile.astype(weight.dtype),
            weight,
            (((1,), (axis,)), ((), ())),
            precision=equation.params["precision"],
            preferred_element_type=jnp.float32,
        )

    columns = [weights.tiles] if weights.tiles.ndim == 1 else np.moveaxis(weights.tiles, axis, 0).T
    tiles = [functools.reduce(lax.add, map(product, whole, column)) for column in columns]
    return [assemble(shape, tiles, hidden_size)]


_RULES: dict[str, Callable[[Any, list[Tiled], int], list[Tiled]]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "pad": _pad,
    "reduce_max": _reduce,
    "reduce_sum": _reduce,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "transpose": _transpose,
}
