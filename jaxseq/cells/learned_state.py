"""A learned initial state, for any cell."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq import arguments
from jaxseq.cells.products import summed_gates


class LearnedStateParams(NamedTuple):
    """Parameters of `LearnedState`: the wrapped cell's, and the state that a sequence starts from."""

    cell: Any
    initial_state: Any  # the wrapped cell's state without batch axes, each leaf [H]; None for whole numbers and flags


@dataclasses.dataclass(frozen=True)
class LearnedState:
    """Any cell, starting from a learned state in place of zeros.

    >>> cell = jaxseq.LearnedState(jaxseq.GRU(hidden_size=32))

    Args:
      cell: the cell, of the `jaxseq.Cell` protocol.
    """

    cell: Any

    def __post_init__(self) -> None:
        """Raises ValueError unless `cell` is a cell."""
        arguments.cell("cell", self.cell)

    @property
    def hidden_size(self) -> int:
        """The wrapped cell's H."""
        return self.cell.hidden_size

    @property
    def summed_gates(self) -> tuple[int, ...] | None:
        """What the wrapped cell says it adds up, if anything."""
        return summed_gates(self.cell)

    def __getattr__(self, name: str) -> Any:
        """Optional parts of the protocol (`gates`, `dtype`, `output`) are the wrapped cell's."""
        if name in ("gates", "dtype"):
            return getattr(self.cell, name)
        if name == "output":
            output = self.cell.output
            return lambda params, state: output(params.cell, state)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def init(self, key: jax.Array, input_size: int) -> LearnedStateParams:
        """Draws the cell's parameters; the state starts where the cell's own does."""
        params = self.cell.init(key, input_size)

        def learned(leaf: jax.Array) -> jax.Array | None:
            return leaf if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else None

        return LearnedStateParams(params, jax.tree.map(learned, self.cell.initial_state(params, ())))

    def initial_state(self, params: LearnedStateParams, batch_shape: tuple[int, ...]) -> Any:
        """The learned state, broadcast to [*batch_shape, ...]; whole numbers and flags are the wrapped cell's."""

        def start(own: jax.Array, learned: jax.Array | None) -> jax.Array:
            return own if learned is None else jnp.broadcast_to(learned, (*batch_shape, *learned.shape))

        return jax.tree.map(start, self.cell.initial_state(params.cell, batch_shape), params.initial_state)

    def project(self, params: LearnedStateParams, inputs: jax.Array, masks: Any) -> Any:
        """The wrapped cell's projection."""
        return self.cell.project(params.cell, inputs, masks)

    def step(self, params: LearnedStateParams, state: Any, drive: Any, masks: Any) -> tuple[Any, Any]:
        """The wrapped cell's step."""
        return self.cell.step(params.cell, state, drive, masks)
