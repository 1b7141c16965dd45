"""Forward alone: what a call runs where nothing is differentiated.

What a backward pass gains from may cost the forward one: products hoisted out of the loop, or whole gates side by side.
So the two are chosen apart.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def differentiated_as(
    differentiated: Callable[..., Any], alone: Callable[..., Any], constants: Any, state: Any, steps: Any
) -> Any:
    """What `alone` gives; where derivatives are taken, what `differentiated` does.

    Args:
      differentiated: (constants, state, steps) -> the same numbers as `alone`; static, closing over no array.
      alone: (constants, state, steps) -> the result; static, closing over no array.
      constants: what is the same at every step.
      state: what to start from.
      steps: what differs.
    """
    del differentiated
    return alone(constants, state, steps)


@functools.partial(differentiated_as.defjvp, symbolic_zeros=True)
def _derivative(
    differentiated: Callable[..., Any], alone: Callable[..., Any], primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """By the arguments that change alone: inputs that are data cost no product."""
    del alone
    leaves, tree = jax.tree.flatten(primals)
    changes = jax.tree.leaves(tangents)
    moving = [not isinstance(change, SymbolicZero) for change in changes]

    def run(*moved: Any) -> Any:
        left = iter(moved)
        return differentiated(
            *tree.unflatten(next(left) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True))
        )

    return jax.jvp(run, tuple(itertools.compress(leaves, moving)), tuple(itertools.compress(changes, moving)))


class _Apart(NamedTuple):
    """What was one array [T, ..., G·H] of a drive."""

    gates: tuple[jax.Array, ...]  # G of them, [T, ..., H]


def part_gates(drive: Any, gates: int) -> Any:
    """Keeps a hoisted drive as one array for each gate: [T, ..., G·H] as G arrays [T, ..., H].

    From one array for all gates XLA reads number by number where it makes several gates in one go, as it does on a CPU
    where none of them is stored for a backward pass: an LSTM's forward loop takes 1.4 to 2 times as long.
    """

    def parted(leaf: jax.Array) -> Any:
        fits = leaf.ndim > 1 and leaf.shape[-1] % gates == 0  # of rank 1 it is one number a step
        return _Apart(tuple(jnp.split(leaf, gates, axis=-1))) if fits else leaf

    return jax.tree.map(parted, drive)


def join_gates(drive: Any) -> Any:
    """One step of what `part_gates` gave, as the cell made it."""

    def joined(leaf: Any) -> Any:
        return jnp.concatenate(leaf.gates, axis=-1) if isinstance(leaf, _Apart) else leaf

    return jax.tree.map(joined, drive, is_leaf=lambda leaf: isinstance(leaf, _Apart))
