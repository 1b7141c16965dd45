"""Weight gradients after the loop: the backward pass carries the state's gradient, and no weight's.

A step multiplies its state with weights that never change: z_t = v_t U. Autodiff adds up dU = Σ v_tᵀ dz_t in the
backward loop, reading and writing all of dU at every step. Taken once, from all v_t and dz_t, it is one product over
T·B.

Here the derivative of the loop is written so. Each `gate_product` of a step has a tap: a term that is zero, whose
tangent is v_t dU. All v_t are known after the forward loop, so that the tangents of all taps are one product before the
tangent's loop, which is linear; transposed, that loop gives all dz_t, and the product the whole of dU after it. Forward
mode, second derivatives and `vmap` follow. Whatever a cell computes otherwise, with weights that change from step to
step, or inside a `jit` or a loop of its own, is differentiated as ever.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from jaxseq.cells.products import product, products_through
from jaxseq.flat import flat_product
from jaxseq.invariants import with_weights_cut
from jaxseq.residuals import economical
from jaxseq.step_products import Body, StepProduct, find_constant, find_products


def scan(body: Body, constants: Any, state: Any, steps: Any, *, reverse: bool, unroll: int) -> tuple[Any, Any]:
    """`jax.lax.scan` of `body`, with the gradients of weights that `gate_product` multiplies taken after the loop.

    Args:
      body: (constants, state, step) -> (state, output); static, closing over no array.
      constants: what is the same at every step, parameters and masks.
      state: each leaf [B, ...].
      steps: what differs, each leaf [T, ...]; T at least 1.
      reverse: from the last step to the first.
      unroll: as in `jax.lax.scan`.
    Returns:
      (state, outputs).
    """
    return _scan(body, reverse, unroll, constants, state, steps)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _scan(body: Body, reverse: bool, unroll: int, constants: Any, state: Any, steps: Any) -> tuple[Any, Any]:
    return jax.lax.scan(functools.partial(body, constants), state, steps, reverse=reverse, unroll=unroll)


@_scan.defjvp
def _scan_jvp(body: Body, reverse: bool, unroll: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    constants, state, steps = primals
    first = jax.tree.map(lambda leaf: leaf[0], steps)
    is_deferred = find_constant(body, constants, state, first)

    def deferred(constants: Any) -> list[StepProduct]:
        return list(itertools.compress(find_products(body, constants, state, first), is_deferred))

    def run(constants: Any, state: Any, steps: Any, taps: Any) -> tuple[Any, Any]:
        def tapped(known: Any, state: Any, step_and_taps: Any) -> tuple[Any, Any]:
            constants, products = known
            step, taps = step_and_taps
            values, chosen, left = [], iter(is_deferred), iter(zip(products, taps, strict=True))

            def multiply(value: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
                if not next(chosen):
                    return product(value, weights, mask)
                values.append(value)
                one, tap = next(left)
                # The weights as seen outside: no part of what is linearised, but of what a second derivative sees.
                return _tap(product(value, one.weights, mask), tap)

            with products_through(multiply):
                state, output = body(constants, state, step)
            return state, (output, values)

        one_step = economical(with_weights_cut(tapped, (constants, products), state, (steps, taps)))
        state, (outputs, values) = jax.lax.scan(one_step, state, (steps, taps), reverse=reverse, unroll=unroll)
        return (state, outputs), values

    products, changes = jax.jvp(deferred, (constants,), (tangents[0],))
    length = jax.tree.leaves(steps)[0].shape[0]
    # Over a mesh of devices of the type of the products: sharded, or varying.
    taps = [jnp.broadcast_to(jnp.zeros_like(one.result), (length, *one.result.shape)) for one in products]
    result, linear, values = jax.linearize(run, constants, state, steps, taps, has_aux=True)
    taps_dot = [
        flat_product(value, change.weights, one.mask)
        for value, change, one in zip(values, changes, products, strict=True)
    ]
    return result, linear(*tangents, taps_dot)


@jax.custom_jvp
def _tap(result: jax.Array, tap: jax.Array) -> jax.Array:
    """`result + tap` of a tap that is zero and never read."""
    del tap
    return result


@_tap.defjvp
def _tap_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[0] + tangents[1]
