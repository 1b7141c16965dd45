"""Inputs that are rows of a table, as those of an embedding: what the engine may multiply before it looks up.

A cell's `project` takes every input by itself, so that a row's drive is a row of the table's drives:

  project(table[indices]) = project(table)[indices]

That is V products in place of T·B, forward and backward: fewer where a vocabulary is smaller than a batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq import arguments


class Lookup(NamedTuple):
    """Inputs of a recurrence that are rows of a table: row `indices[t, b]` at step t of sequence b.

    >>> state, outputs = jaxseq.scan(cell, params, jaxseq.Lookup(embedding, tokens))

    The same numbers as of `table[indices]`, and the same gradients, of the table too. The engine chooses whether to
    project the rows that are looked up, or all of the table's once ("tabulated"): then every row of it must be finite.
    An index outside of the table gives NaN, as `jnp.take` has it, but where a mask says that a step is not real.

    Attributes:
      table: float [V, F], of one row at least.
      indices: int [T], or time-major [T, B].
    """

    table: jax.Array
    indices: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the rows, [T, F] or [T, B, F]."""
        return (*self.indices.shape, self.table.shape[-1])

    @property
    def dtype(self) -> jnp.dtype:
        """That of the table."""
        return self.table.dtype

    def swapaxes(self, first: int, second: int) -> "Lookup":
        """The same with two axes of the indices swapped, as an array's method does it."""
        return self._replace(indices=self.indices.swapaxes(first, second))

    @property
    def rows(self) -> jax.Array:
        """What is looked up, float [T, F] or [T, B, F]."""
        return rows_of(self.table, self.indices)


def rows_of(table: Any, indices: jax.Array) -> Any:
    """The rows of a table, or of a tree of them, sharded as the indices are."""
    place = jax.typeof(indices).sharding

    def rows(leaf: jax.Array) -> jax.Array:
        spec = jax.P(*place.spec, *[None] * (leaf.ndim - 1))
        out = jax.NamedSharding(place.mesh, spec) if lies_sharded(indices) else None  # JAX asks for it there
        return leaf.at[indices].get(mode="fill", fill_value=jnp.nan, out_sharding=out)

    return jax.tree.map(rows, table)


def lies_sharded(array: jax.Array) -> bool:
    """Whether the type of an array says that it lies sharded: on a mesh with explicit axes."""
    return any(axes is not None for axes in jax.typeof(array).sharding.spec)


def checked(name: str, inputs: Any) -> Any:
    """Inputs as arrays, a `Lookup` as one of arrays.

    Raises:
      ValueError: they are none; a table is not float [V, F] of a row at least, or indices are no integers.
    """
    if not isinstance(inputs, Lookup):
        return arguments.array(name, inputs)
    table, indices = arguments.array(f"{name}.table", inputs.table), arguments.array(f"{name}.indices", inputs.indices)
    if table.ndim != 2 or not len(table) or not jnp.issubdtype(table.dtype, jnp.floating):
        raise ValueError(f"{name}.table must be float [V, F] of at least one row, got {table.dtype} {table.shape}")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"{name}.indices must be integers, got {indices.dtype} {indices.shape}")
    return Lookup(table, indices)
