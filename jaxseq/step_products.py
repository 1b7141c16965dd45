"""What a step multiplies: found by tracing it once, outside its loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from jaxseq.cells.products import product, products_through
from jaxseq.invariants import depending_on

Body = Callable[[Any, Any, Any], tuple[Any, Any]]  # (constants, state, step) -> (state, output)


class StepProduct(NamedTuple):
    """One `gate_product` of a step."""

    weights: jax.Array  # [H, G·H]
    mask: jax.Array | None  # [G, B, H]
    result: jax.Array  # [B, G·H]


def find_products(body: Body, constants: Any, state: Any, step: Any) -> list[StepProduct]:
    """The products of one step, in the order in which it takes them."""
    found = []

    def multiply(value: jax.Array, weights: jax.Array, mask: jax.Array | None) -> jax.Array:
        result = product(value, weights, mask)
        found.append(StepProduct(weights, mask, result))
        return result

    with products_through(multiply):
        body(constants, state, step)
    return found


def find_constant(body: Body, constants: Any, state: Any, step: Any) -> list[bool]:
    """Of each product of a step, whether its weights and mask are the same at every step."""

    def weights_and_masks(constants: Any, state: Any, step: Any) -> list[Any]:
        return [(one.weights, one.mask) for one in find_products(body, constants, state, step)]

    closed, shapes = jax.make_jaxpr(weights_and_masks, return_shape=True)(constants, state, step)
    jaxpr = closed.jaxpr
    known = depending_on(jaxpr.eqns, [*jaxpr.constvars, *jaxpr.invars[: len(jax.tree.leaves(constants))]])
    same = iter([isinstance(one, Literal) or one in known for one in jaxpr.outvars])
    return [all([next(same) for _ in jax.tree.leaves(one)]) for one in shapes]
