"""What a forward step stores for the backward pass: results that cost something, never what a multiplication remakes.

Left alone, autodiff stores a factor for every product of the chain rule: of an LSTM's step 13 arrays [B, H], of one
with recurrent dropout 19. Eight determine them all: the four gates, tanh(c'), c, h and x. Memory is what a long
recurrence on a CPU waits for, so that storing less is faster too (CHANGELOG.md), for a cell of anybody's.
"""

from collections.abc import Callable
from typing import Any

import jax

# Elementwise and free beside a read from memory. What is not named here is stored where the backward pass needs it.
_REMADE = frozenset(
    "abs add add_any and broadcast_in_dim clamp concatenate convert_element_type copy eq expand_dims ge gt imag "
    "integer_pow iota is_finite le lt max min mul ne neg not one_minus_square or pad real reshape rev select_n sign "
    "slice square squeeze stop_gradient sub transpose xor".split()
)  # one_minus_square: tanh's derivative, since jax 0.12. No split: one gate is less to store than the product of all.


def _is_stored(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _REMADE


def economical(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step of a loop whose cheap intermediate results are computed again in the backward pass, not stored.

    Values and derivatives of every order and mode are the step's own.
    """
    return jax.checkpoint(step, policy=_is_stored, prevent_cse=False)  # a loop's body has nothing to share with


def scan_in_segments(
    run: Callable[[Any, Any], tuple[Any, Any]], state: Any, steps: Any, *, size: int, reverse: bool
) -> tuple[Any, Any]:
    """A loop over segments of a sequence, each of which `run` runs: what `run` stores or hoists is one segment's.

    Args:
      run: (state, steps) -> (state, outputs), over any number of steps, in the direction of `reverse`.
      state: each leaf [B, ...].
      steps: each leaf [T, ...]; T at least 1.
      size: steps in a segment; what T leaves over is a shorter one.
      reverse: from the last step to the first.
    Returns:
      (state, outputs).
    """
    length = jax.tree.leaves(steps)[0].shape[0]
    if size >= length:
        return run(state, steps)
    segments = length // size
    whole = segments * size
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(segments, size, *leaf.shape[1:]), steps)
    rest = jax.tree.map(lambda leaf: leaf[whole:], steps)
    tail: Any = None
    if reverse and whole < length:
        state, tail = run(state, rest)
    state, outputs = jax.lax.scan(run, state, parts, reverse=reverse)
    outputs = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), outputs)
    if whole == length:
        return state, outputs
    if not reverse:
        state, tail = run(state, rest)
    return state, jax.tree.map(lambda *ends: jax.numpy.concatenate(ends), outputs, tail)
