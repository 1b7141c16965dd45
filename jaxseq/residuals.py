"""What a forward step stores for the backward pass: results that cost something, never what a multiplication remakes.

Left alone, autodiff stores a factor for every product of the chain rule: of an LSTM's step 13 arrays [B, H], of one
with recurrent dropout 19. Eight determine them all: the four gates, tanh(c'), c, h and x. Memory is what a long
recurrence on a CPU waits for, so that storing less is faster too (CHANGELOG.md), for a cell of anybody's.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

# Elementwise and free beside a read from memory. What is not named here is stored where the backward pass needs it.
_REMADE = frozenset(
    "abs add add_any and broadcast_in_dim clamp concatenate convert_element_type copy eq expand_dims ge gt imag "
    "integer_pow iota is_finite le lt max min mul ne neg not or pad real reshape rev select_n sign slice split square "
    "squeeze stop_gradient sub transpose xor".split()
)


def _is_stored(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _REMADE


def economical(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a loop whose cheap intermediate results are computed again in the backward pass, not stored.

    Values and derivatives of every order and mode are the step's own.
    """
    return jax.checkpoint(step, policy=_is_stored, prevent_cse=False)  # a loop's body has nothing to share with


def scan_in_segments(step: Callable[..., Any], state: Any, steps: Any, *, reverse: bool, unroll: int) -> Any:
    """`jax.lax.scan` that stores the state before every segment of √T steps, and runs each segment again going back.

    The backward pass then needs memory for 2 √T steps in place of T, and one more forward pass.

    Args:
      step: (state, step) -> (state, output).
      state: each leaf [B, ...].
      steps: each leaf [T, ...].
      reverse: from the last step to the first.
      unroll: as in `jax.lax.scan`.
    Returns:
      (state, outputs).
    Source: Chen et al. 2016, arXiv:1604.06174, section 4.
    """

    def run(state: Any, steps: Any) -> tuple[Any, Any]:
        return jax.lax.scan(step, state, steps, reverse=reverse, unroll=unroll)

    segment = jax.checkpoint(run, prevent_cse=False)
    length = jax.tree.leaves(steps)[0].shape[0]
    size = math.isqrt(max(length - 1, 0)) + 1  # √T, rounded up
    segments = length // size
    whole = segments * size
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(segments, size, *leaf.shape[1:]), steps)
    rest = jax.tree.map(lambda leaf: leaf[whole:], steps)
    if reverse:
        state, tail = segment(state, rest)
        state, outputs = jax.lax.scan(segment, state, parts, reverse=True)
    else:
        state, outputs = jax.lax.scan(segment, state, parts)
        state, tail = segment(state, rest)

    def joined(first: jax.Array, last: jax.Array) -> jax.Array:
        return jax.numpy.concatenate([first.reshape(whole, *first.shape[2:]), last])

    return state, jax.tree.map(joined, outputs, tail)
