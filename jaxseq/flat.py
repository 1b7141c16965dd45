"""Products of all steps at once, on a CPU over T·B rows in place of [T, B].

The gradient of their weights is a sum over T and B. There XLA takes two to five times as long for a sum over two axes
as for one over both joined: it first copies both factors, to bring the two axes side by side.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxseq.cells.products import DropoutMasks, product, products_through
from jaxseq.choice import platform
from jaxseq.lookup import lies_sharded


def project_all(cell: Any, params: Any, inputs: jax.Array, masks: DropoutMasks | None) -> Any:
    """`cell.project` of the inputs of all steps, [T, ..., F]."""
    if masks is not None:  # these are of a batch, and fit to no rows
        with products_through(flat_product):
            return cell.project(params, inputs, masks)
    if not _should_be_flat(inputs):
        return cell.project(params, inputs, None)
    *leading, _ = inputs.shape
    drive = cell.project(params, _rows(inputs), None)
    return jax.tree.map(lambda leaf: leaf.reshape(*leading, *leaf.shape[1:]), drive)


def flat_matmul(values: jax.Array, weights: jax.Array, **settings: Any) -> jax.Array:
    """`jnp.matmul` of values [..., F] and weights [F, H]."""
    if not _should_be_flat(values):
        return jnp.matmul(values, weights, **settings)
    products = jnp.matmul(_rows(values), weights, **settings)
    return products.reshape(*values.shape[:-1], weights.shape[-1])


flat_product = functools.partial(product, matmul=flat_matmul)  # of values [T, ..., F]


def _should_be_flat(values: jax.Array) -> bool:
    """Not axes that are sharded explicitly, which do not become one."""
    return values.ndim > 2 and platform() == "cpu" and not lies_sharded(values)


def _rows(values: jax.Array) -> jax.Array:
    *leading, size = values.shape
    return values.reshape(math.prod(leading), size)
