"""Random keys that draw one device's rows of a batch: the values that one device alone would draw for them.

JAX's generator makes each value from the key and the value's position in the array that is asked for. A key of rows
asks for its own rows' positions in the whole batch's array, so that what is drawn does not depend on how many devices
the batch is sharded over, and no device draws for another. Being a key like any other, it goes through `jax.random`,
Flax's `make_rng` and every transformation; models need not know of it.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import random as generators

_threefry = generators.threefry_prng_impl


class _Layout(NamedTuple):
    """How a batch lies on the devices, and in the arrays that are drawn for it."""

    rows: int  # of one device, padding included
    batch_size: int  # of all devices, without padding
    axis: int  # of the arrays drawn, which counts the batch's rows


def rows_key(key: jax.Array, device: Any, rows: int, batch_size: int) -> jax.Array:
    """A key that draws for the rows of one device.

    What it draws goes by the array's shape:

    - the first axis is `rows` long, or a multiple (each row several times): this device's part of what `key` draws for
      the whole batch;
    - the first axis is 1 long while `rows` is not, or there is no axis: what `key` draws, the same for every device
      (one mask for the whole batch), unless the key comes from a split into as many as `rows`, or a multiple, which
      may be one for each row;
    - else, or with 2³² values or more for the whole batch: this device's own, independent of the others'. So are all
      where JAX's generator is not its default one.

    Args:
      key: the whole batch's random key, of `jax.random.key`.
      device: whose rows, int [], counted from 0; it may be traced.
      rows: how many rows each device has; those over `batch_size` are padding, what they get is arbitrary.
      batch_size: how many rows all devices have together.
    Returns:
      A random key.
    """
    by_position = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if jax.random.key_impl(key) != "threefry2x32" or not by_position:
        return jax.random.fold_in(key, device)
    whole = jax.random.key_data(key)
    data = _join(whole, whole, jnp.asarray(device, jnp.uint32))
    return jax.random.wrap_key_data(data, impl=_generator(_Layout(rows, batch_size, axis=0)))


def along_axis(key: jax.Array, axis: int) -> jax.Array:
    """A key of rows for arrays that count the batch's rows by another axis than the first; any other key as it is."""
    layout = _layouts.get(jax.random.key_impl(key))
    if layout is None:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_generator(layout._replace(axis=axis)))


_layouts: dict[Any, _Layout] = {}  # by generator


@functools.cache
def _generator(layout: _Layout) -> Any:
    """JAX's generator for keys of one layout, uint32 [5].

    They are threefry's key for arrays with rows [2], that for arrays without [2], and the device.
    """
    made = generators.define_prng_impl(
        key_shape=(5,),
        seed=_refuse_seed,
        split=functools.partial(_split, layout),
        fold_in=_fold_in,
        random_bits=functools.partial(_random_bits, layout),
        name=f"rows_{layout.rows}_of_{layout.batch_size}_axis_{layout.axis}",
        tag="rows",
    )
    _layouts[made] = layout
    return made


def _random_bits(layout: _Layout, data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Unsigned integers of some bits and shape."""
    with_rows, without, device = data[:2], data[2:4], data[4]
    own = shape[layout.axis] if layout.axis < len(shape) else 1
    if own == 1 and (layout.rows > 1 or len(shape) <= layout.axis):
        return _threefry.random_bits(without, bit_width, shape)
    whole = [*shape]
    whole[layout.axis] = own // layout.rows * layout.batch_size
    if own % layout.rows or math.prod(whole) >= 2**32:
        return _threefry.random_bits(_threefry.fold_in(without, device), bit_width, shape)

    position = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        if axis == layout.axis:
            index += device * jnp.uint32(own)
        position += index * jnp.uint32(math.prod(whole[axis + 1 :]))
    high, low = generators.threefry2x32_p.bind(*with_rows, jnp.zeros_like(position), position)
    if bit_width == 64:
        return (high.astype(jnp.uint64) << jnp.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{bit_width}")


def _split(layout: _Layout, data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    with_rows, without, device = data[:2], data[2:4], data[4]
    if math.prod(shape) % layout.rows == 0:  # one for each row perhaps: then no device's may be another's
        without = _threefry.fold_in(without, device)
    return _join(_threefry.split(with_rows, shape), _threefry.split(without, shape), device)


def _fold_in(data: jax.Array, number: Any) -> jax.Array:
    return _join(_threefry.fold_in(data[:2], number), _threefry.fold_in(data[2:4], number), data[4])


def _join(with_rows: jax.Array, without: jax.Array, device: jax.Array) -> jax.Array:
    """The parts of keys, [..., 2], [..., 2] and []: [..., 5]."""
    return jnp.concatenate([with_rows, without, jnp.broadcast_to(device, (*without.shape[:-1], 1))], axis=-1)


def _refuse_seed(seed: Any) -> Any:
    raise TypeError(f"a key of rows is made from another key, got the seed {seed}")
