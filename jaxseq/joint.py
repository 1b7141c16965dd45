"""The input product and the recurrent one as one: [x, h] [W; U], in the loop.

Where a step adds x W to h U both are one product over F + H numbers: half as many products a step, forward and
backward, and one gradient of weights in place of two. With a dropout mask for each gate, which make G products of each,
it saves the most.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxseq.cells.products import product, products_through
from jaxseq.invariants import with_weights_cut
from jaxseq.residuals import economical
from jaxseq.step_products import Body, StepProduct, find_constant, find_products


def scan(
    body: Body, constants: Any, state: Any, steps: Any, *, summed_gates: Sequence[int], reverse: bool, unroll: int
) -> tuple[Any, Any]:
    """`jax.lax.scan` of `body`, its first `gate_product`, of the inputs, taken together with each of the others.

    Args:
      body: (constants, state, step) -> (state, output), whose first product is of the inputs; static, closing over no
        array.
      constants: what is the same at every step, parameters and masks.
      state: each leaf [B, ...].
      steps: what differs, each leaf [T, ...]; T at least 1.
      summed_gates: to how many gates of the first product each of the others is added, in the order of both.
      reverse: from the last step to the first.
      unroll: as in `jax.lax.scan`.
    Returns:
      (state, outputs).
    Raises:
      ValueError: the products are not what `summed_gates` says.
    """
    first = jax.tree.map(lambda leaf: leaf[0], steps)
    products = find_products(body, constants, state, first)
    drive, *widths = [one.weights.shape[-1] for one in products] or [0]
    size = drive // max(sum(summed_gates), 1)
    is_told = size and widths == [gates * size for gates in summed_gates]
    if not is_told or not all(find_constant(body, constants, state, first)):
        raise ValueError(
            f"summed_gates must tell the gates of each recurrent `gate_product` of a step, after that of its inputs, "
            f"whose weights are the same at every step, got {tuple(summed_gates)} for products of widths {widths} and "
            f"a drive of width {drive}"
        )
    of_input, *recurrent = products
    ends = [sum(summed_gates[: number + 1]) for number in range(len(summed_gates))]
    joined = [
        _join(of_input, one, end - gates, end, size)
        for one, gates, end in zip(recurrent, summed_gates, ends, strict=True)
    ]

    def joint(constants_and_joined: Any, state: Any, step: Any) -> tuple[Any, Any]:
        constants, joined = constants_and_joined
        inputs, left = [], iter(joined)

        def multiply(value: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
            if not inputs:
                inputs.append(value)
                return jnp.zeros((*value.shape[:-1], weights.shape[-1]), jnp.result_type(value, weights))
            both, masks = next(left)
            return product(jnp.concatenate([inputs[0], value], axis=-1), both, masks)

        with products_through(multiply):
            return body(constants, state, step)

    one_step = economical(with_weights_cut(joint, (constants, joined), state, steps))
    return jax.lax.scan(one_step, state, steps, reverse=reverse, unroll=unroll)


def _join(
    of_input: StepProduct, recurrent: StepProduct, begin: int, end: int, size: int
) -> tuple[jax.Array, jax.Array | None]:
    """The weights [F + H, g·H] and masks [g, B, F + H] of one joint product, of the gates from `begin` to `end`."""
    weights = jnp.concatenate([of_input.weights[:, begin * size : end * size], recurrent.weights])
    if of_input.mask is None and recurrent.mask is None:
        return weights, None
    sizes = of_input.weights.shape[0], recurrent.weights.shape[0]
    masks = [None if of_input.mask is None else of_input.mask[begin:end], recurrent.mask]
    leading = functools.reduce(jnp.broadcast_shapes, [mask.shape[:-1] for mask in masks if mask is not None])
    whole = [
        jnp.ones((*leading, width), weights.dtype) if mask is None else jnp.broadcast_to(mask, (*leading, width))
        for mask, width in zip(masks, sizes, strict=True)
    ]
    return weights, jnp.concatenate(whole, axis=-1)
