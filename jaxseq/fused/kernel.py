"""A loop over time as one GPU kernel: the recurrent matrices stay on the chip, and so does the state.

One program (a thread block) runs all T steps of `ROWS` sequences. It reads the weights once, into shared memory; the
state lives in registers; of each step it reads and writes what differs from step to step, and reads one step ahead.

Arrays come packed: cut into tiles side by side along the last axis (`tiles`), [rows, columns] for a constant that
all sequences share, [B, columns] for one that they do not and for what is carried, [T, B, columns] for a stream.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl

from jaxseq.fused.tiles import BATCH, ROWS, CannotFuse, Layout, padded

# Of a multiprocessor's 227 KB of shared memory, what matrices may take: the rest is for tiles on their way between
# threads. Those that do not fit are read again at each step, from the second-level cache, through the room of one tile.
RESIDENT = 192 * 1024
LARGEST = 256 * 1024  # all matrices: LSTM of H 128 in float32


def check_fits(size: int, exact: bool) -> None:
    """Raises CannotFuse for matrices that the chip has no room for.

    Args:
      size: of all together, in bytes.
      exact: whether products are of all bits of float32, which tensor cores do not do: then nothing is read again.
    """
    room = RESIDENT if exact else LARGEST
    if size > room:
        precision = ' at jax_default_matmul_precision="highest"' if exact else ""
        raise CannotFuse(f"its matrices take {size >> 10} KB, where {room >> 10} KB fit on the chip{precision}")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["layout"])
@dataclasses.dataclass(frozen=True)
class Packed:
    """An array, or None where nobody reads it, and how it lies."""

    array: Any
    layout: Layout


def pack(array: jax.Array, shape: tuple[int, ...], layout: Layout, lead: int = 0) -> jax.Array:
    """An array of a shape with `BATCH`, behind `lead` more axes, as a kernel reads it: padded, but for the batch."""
    if layout.rows is None:
        array = jnp.moveaxis(array, lead + shape.index(BATCH), lead)
        array = array.reshape(*array.shape[: lead + 1], sum(layout.columns))
        return _pad(array, lead + 1, layout.columns)
    array = array.reshape(sum(layout.rows), sum(layout.columns))
    return _pad(_pad(array, 1, layout.columns), 0, layout.rows)


def unpack(array: jax.Array, shape: tuple[int, ...], layout: Layout) -> jax.Array:
    """The reverse of `pack`, for arrays of a batch behind any further axes."""
    lead, columns = array.shape[:-1], layout.columns
    array = array.reshape(*lead, len(columns), padded(columns[0]))[..., : columns[0]]
    axis = shape.index(BATCH)
    rest = (*shape[:axis], *shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(*lead, *rest), len(lead) - 1, len(lead) - 1 + axis)


def side_by_side(tiles: Sequence[tuple[jax.Array, int]], layout: Layout, length: int) -> jax.Array:
    """An array [T, B, columns] of tiles out of others, (array, column); an array [B, columns] is so at all T steps."""
    width, (first, *others) = padded(layout.columns[0]), (array for array, _ in tiles)
    columns = [column for _, column in tiles]
    if all(other is first for other in others) and columns == list(range(first.shape[-1] // width)):
        array = first
    else:
        array = jnp.concatenate([array[..., column * width : (column + 1) * width] for array, column in tiles], -1)
    return jnp.broadcast_to(array, (length, *array.shape[-2:]))


def _pad(array: jax.Array, axis: int, widths: tuple[int, ...]) -> jax.Array:
    missing = padded(widths[0]) - widths[0]  # parts of one array are of one size
    if not missing:
        return array
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    array = array.reshape(*before, len(widths), widths[0], *after)
    array = jnp.pad(array, [(0, missing if place == axis + 1 else 0) for place in range(array.ndim)])
    return array.reshape(*before, -1, *after)


def loop(
    body: Callable[..., tuple[list[Any], list[Any]]],
    constants: Sequence[Packed],
    carry: Sequence[Packed],
    stream: Sequence[Packed],
    emitted: Sequence[tuple[Layout, Any]],
    *,
    length: int,
    reverse: bool,
    interpret: bool,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Runs a step over time in one kernel.

    Args:
      body: (constants, carry, stream) to (carry, emitted), lists of tiles in the order of the arrays; for an array that
        is None it gets as many None.
      constants: arrays [rows, columns] or [B, columns].
      carry: arrays [B, columns], in the kernel float32.
      stream: arrays [T, B, columns].
      emitted: layouts and dtypes of what each step writes.
      length: T, at least 1.
      reverse: from the last step to the first.
      interpret: on any platform, slowly.
    Returns:
      (carry, emitted): the carry after all steps, in its dtypes; arrays [T, B, columns].
    """
    call = functools.partial(_call, body=body, emitted=emitted, length=length, reverse=reverse, interpret=interpret)
    batchable = custom_vmap(call)

    @batchable.def_vmap
    def _(size: int, batched: Any, constants: Any, carry: Any, stream: Any) -> Any:
        """More sequences are more rows; only weights of their own, a seed's, ask for programs of their own."""
        shared = [one.layout.rows is not None for one in constants]
        if any(one.array for one, is_shared in zip(batched[0], shared, strict=True) if is_shared):
            axes = jax.tree.map(lambda one: 0 if one else None, tuple(batched))
            results = jax.vmap(call, axes, 0, axis_size=size)(constants, carry, stream)
        else:

            def merge(lead: int, array: jax.Array, one: bool) -> jax.Array:
                array = jnp.moveaxis(array, 0, lead) if one else jnp.stack([array] * size, lead)
                return array.reshape(*array.shape[:lead], -1, array.shape[-1])

            def part(lead: int, array: jax.Array) -> jax.Array:
                array = array.reshape(*array.shape[:lead], size, -1, array.shape[-1])
                return jnp.moveaxis(array, lead, 0)

            rows, over_time = functools.partial(merge, 0), functools.partial(merge, 1)
            triples = zip(constants, batched[0], shared, strict=True)
            constants = [one if is_shared else jax.tree.map(rows, one, flag) for one, flag, is_shared in triples]
            carry, stream = jax.tree.map(rows, carry, batched[1]), jax.tree.map(over_time, stream, batched[2])
            carried, written = batchable(constants, carry, stream)
            results = [part(0, array) for array in carried], [part(1, array) for array in written]
        return results, jax.tree.map(lambda _: True, results)

    return batchable(list(constants), list(carry), list(stream))


def _call(
    constants: list[Packed],
    carry: list[Packed],
    stream: list[Packed],
    *,
    body: Callable[..., tuple[list[Any], list[Any]]],
    emitted: Sequence[tuple[Layout, Any]],
    length: int,
    reverse: bool,
    interpret: bool,
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The kernel itself; the batch is padded to whole tiles here, and cut again."""
    batch = carry[0].array.shape[0]
    programs = -(-batch // ROWS)
    rows = functools.partial(_pad_batch, programs * ROWS)
    constants = [one if one.layout.rows is not None else jax.tree.map(rows, one) for one in constants]
    carry, stream = jax.tree.map(rows, carry), jax.tree.map(rows, stream)
    present = [[one for one in group if one.array is not None] for group in (constants, carry, stream)]
    stays = _resident(constants)

    def kernel(*references: Any) -> None:
        remaining = iter(references)
        weights, started, read = (
            [None if one.array is None else next(remaining) for one in group] for group in (constants, carry, stream)
        )
        ended, written = ([next(remaining) for _ in group] for group in (carry, emitted))
        places = _places(weights, [one.layout for one in constants])
        kept = [_load(place) if stay else None for place, stay in zip(places, stays, strict=True)]

        def index(time: Any) -> Any:
            return length - 1 - time if reverse else time

        def at(time: Any) -> list[Any]:
            return [_load(place, index(time)) for place in _places(read, [one.layout for one in stream])]

        def step(time: Any, carried: Any) -> Any:
            tiles, now = carried
            ahead = at(jnp.minimum(time + 1, length - 1))  # arrives while this step computes
            all_weights = [
                tile if stay else _load(place) for tile, place, stay in zip(kept, places, stays, strict=True)
            ]
            tiles, results = body(all_weights, tiles, now)
            _store(written, [layout for layout, _ in emitted], results, index(time))
            return tiles, ahead

        tiles = [_load(place).astype(jnp.float32) for place in _places(started, [one.layout for one in carry])]
        tiles, _ = lax.fori_loop(jnp.int32(0), jnp.int32(length), step, (tiles, at(jnp.int32(0))))
        _store(ended, [one.layout for one in carry], tiles)

    def specification(array: Any, layout: Layout) -> pl.BlockSpec:
        if layout.rows is not None:
            return pl.BlockSpec(array.shape, lambda program: (0, 0))
        if array.ndim == 2:
            return pl.BlockSpec((ROWS, array.shape[1]), lambda program: (program, 0))
        return pl.BlockSpec((length, ROWS, array.shape[2]), lambda program: (0, program, 0))

    shapes = [one.array for one in carry] + [
        jax.ShapeDtypeStruct((length, programs * ROWS, sum(map(padded, layout.columns))), dtype)
        for layout, dtype in emitted
    ]
    layouts = [one.layout for one in carry] + [layout for layout, _ in emitted]
    widest = max(padded(width) for group in present for one in group for width in one.layout.columns)
    results = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(one.shape, one.dtype) for one in shapes],
        grid=(programs,),
        in_specs=[specification(one.array, one.layout) for group in present for one in group],
        out_specs=[specification(one, layout) for one, layout in zip(shapes, layouts, strict=True)],
        interpret=interpret,
        compiler_params=None if interpret else _compiler_params(widest),
        name="jaxseq_fused",
    )(*(one.array for group in present for one in group))
    carried, written = results[: len(carry)], results[len(carry) :]
    return [array[:batch] for array in carried], [array[:, :batch] for array in written]


def _compiler_params(widest: int) -> Any:
    """Of Pallas' Triton back end: enough warps that each has 8 columns of the widest tile, the width of a product's."""
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=max(1, min(widest // 8, 8)), num_stages=1)


def _resident(constants: Sequence[Packed]) -> list[bool]:
    """Which tiles stay on the chip: all, where they fit, else the first, beside room for the largest of the rest."""
    sizes = []
    for one in constants:
        itemsize = 0 if one.array is None or one.layout.rows is None else one.array.dtype.itemsize
        sizes += [height * width * itemsize for height, width in one.layout.tiles]
    if sum(sizes) <= RESIDENT:
        return [True] * len(sizes)
    totals = np.cumsum(sizes)
    return [bool(total + max(sizes) <= RESIDENT) for total in totals]


def _pad_batch(batch: int, array: jax.Array) -> jax.Array:
    missing = batch - array.shape[-2]
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing), (0, 0)]) if missing else array


def _places(references: Sequence[Any], layouts: Sequence[Layout]) -> list[Any]:
    """Where each tile lies: (reference, index), or None."""
    places = []
    for reference, layout in zip(references, layouts, strict=True):
        heights = [ROWS] if layout.rows is None else [padded(layout.rows[0])] * len(layout.rows)
        width = padded(layout.columns[0])
        places += [
            None if reference is None else (reference, (pl.ds(row * height, height), pl.ds(column * width, width)))
            for row, height in enumerate(heights)
            for column in range(len(layout.columns))
        ]
    return places


def _load(place: Any, *lead: Any) -> Any:
    if place is None:
        return None
    reference, index = place
    return reference[(*lead, *index)]


def _store(references: Sequence[Any], layouts: Sequence[Layout], tiles: Sequence[Any], *lead: Any) -> None:
    for (reference, index), tile in zip(_places(references, layouts), tiles, strict=True):
        reference[(*lead, *index)] = tile.astype(reference.dtype)
