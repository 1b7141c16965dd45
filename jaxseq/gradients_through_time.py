"""Gradient through time: what a loss asks of the state at every step, and what every step adds to a gradient.

Backpropagation through time, taken apart. Both functions run a cell with the engine's own step and differentiate by
something that was not there before: a perturbation of each state, a copy of the parameters for each step.

Axis letters: T time, B batch, F input features, H hidden.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq import arguments
from jaxseq.calls import Call, Step, check_state, or_zeros, prepare
from jaxseq.cells import DropoutMasks
from jaxseq.recurrence import Cell, state_output, step

Loss = Callable[[Any, Any], jax.Array]  # (final state, outputs), as `jaxseq.scan` returns them -> a number


class GradientFlow(NamedTuple):
    """∂L/∂sₜ at every step t, where sₜ is the state after the step."""

    gradients: Any  # the state's tree, each leaf [T, B, ...]
    norms: Any  # of each leaf on its own, the state's tree, each leaf [T, B]
    total: jax.Array  # of all leaves together, [T, B]


def gradient_flow(
    cell: Cell,
    params: Any,
    inputs: jax.Array,
    loss: Loss | None = None,
    *,
    state: Any = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    dropout_masks: DropoutMasks | None = None,
    reverse: bool = False,
) -> GradientFlow:
    """The gradient of a loss by the state at every step, and its norm: does it vanish, or explode, on the way back?

      ∂L/∂sₜ = (∂L/∂yₜ) (∂yₜ/∂sₜ) + (∂L/∂sₜ₊₁) (∂sₜ₊₁/∂sₜ)        so from a loss of the last step n alone:
      ∂L/∂sₜ = (∂L/∂sₙ) (∂sₙ/∂sₙ₋₁) ⋯ (∂sₜ₊₁/∂sₜ)                 a product of n − t Jacobians

    A zero is added to the state after each step, and the loss differentiated by it. Works for any cell, under `jit` and
    `vmap`. The output yₜ is read off the state, see `state_output`.

    >>> flow = jaxseq.gradient_flow(jaxseq.LSTM(32), params, inputs)
    >>> flow.total[0] / flow.total[-1]                             # what reaches the first step, [B]

    Args:
      cell: the cell.
      params: its parameters.
      inputs: float [T, F], or time-major [T, B, F].
      loss: (final state, outputs [T, B, H]) -> a number; None: the squared norm of the last output, summed over the
        batch. With a cotangent: `lambda state, outputs: jnp.vdot(cotangent, outputs[-1])`.
      state: as in `scan`.
      mask: as in `scan`; where a step is not real the state is held, and so is its gradient.
      resets: as in `scan`; no gradient crosses one.
      dropout_masks: as in `scan`.
      reverse: as in `scan`; then the gradient flows from the first step to the last.
    Returns:
      GradientFlow(gradients, norms, total). A leaf of whole numbers has a gradient of zero.
    Raises:
      ValueError: as in `scan` and `state_output`; `loss` does not return a single number.
    Source: Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, eq. 3-5.
    """
    if loss is not None:
        arguments.function("loss", loss)
    call = prepare(cell, params, inputs, state, mask, resets, dropout_masks, reverse)
    length = len(call.steps.inputs)
    zeros = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), call.state)

    def perturbed_loss(perturbations: Any) -> jax.Array:
        def body(state: Any, now: tuple[Step, Any]) -> tuple[Any, Any]:
            state, taken = _take(cell, call, call.params, state, now[0])
            state = jax.tree.map(jnp.add, state, now[1])
            output = state_output(cell, call.params, state)
            check_state(f"the output that belongs to a state of {type(cell).__name__}", output, taken)
            if now[0].mask is not None:
                output = or_zeros(now[0].mask, output)
            return state, output

        end = jax.lax.scan(body, call.state, (call.steps, perturbations), reverse=reverse)
        return _value(cell, call.params, loss, *end)

    gradients = _gradient(perturbed_loss, zeros)
    axes = call.steps.inputs.ndim - 1  # T and those of the batch; what is left are the state's own
    norms = jax.tree.map(lambda leaf: _norm(leaf, tuple(range(axes, leaf.ndim))), gradients)
    return GradientFlow(gradients, norms, _norm(jnp.stack(jax.tree.leaves(norms)), (0,)))


def gradient_paths(
    cell: Cell,
    params: Any,
    inputs: jax.Array,
    loss: Loss | None = None,
    *,
    state: Any = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    dropout_masks: DropoutMasks | None = None,
    reverse: bool = False,
) -> Any:
    """What each step adds to the gradient by the parameters, which all steps share.

      ∂L/∂W = Σₖ (∂L/∂sₖ) (∂⁺sₖ/∂W)         ∂⁺: with sₖ₋₁ held fast

    and for an error E₃ of step 3, ∂E₃/∂W = Σₖ₌₀³ (∂E₃/∂s₃) (∂s₃/∂sₖ) (∂⁺sₖ/∂W): summed over the leading axis the
    result is the gradient that `jax.grad` takes through `scan`. Each step gets a copy of the parameters, and the loss
    is differentiated by the copies. It takes T times the parameters' memory; `jax.vmap` over single sequences gives
    each sequence's own paths.

    >>> paths = jaxseq.gradient_paths(jaxseq.SimpleRNN(32), params, inputs)
    >>> jnp.linalg.norm(paths.w_hidden, axis=(1, 2))               # by step, [T]

    Args:
      cell: the cell.
      params: its parameters.
      inputs: float [T, F], or time-major [T, B, F].
      loss: as in `gradient_flow`; what it does with parameters itself does not count.
      state: as in `scan`.
      mask: as in `scan`; a step that is not real adds nothing.
      resets: as in `scan`.
      dropout_masks: as in `scan`.
      reverse: as in `scan`.
    Returns:
      The parameters' tree, each leaf [T, ...]. A learned initial state counts to the step that it comes before; a
      leaf of whole numbers has a gradient of zero.
    Raises:
      ValueError: as in `scan`; `loss` does not return a single number; there is no step.
    Source: Werbos 1990; Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063, eq. 4.
    """
    if loss is not None:
        arguments.function("loss", loss)
    inputs = arguments.array("inputs", inputs)
    length = inputs.shape[0] if inputs.ndim else 0
    if not length:
        raise ValueError(f"inputs must hold at least one step [T, F] or [T, B, F], got shape {jnp.shape(inputs)}")
    prepare(cell, params, inputs, state, mask, resets, dropout_masks, reverse)  # to check them: below are copies
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (length, *jnp.shape(leaf))), params)
    first, last = (-1, 0) if reverse else (0, -1)

    def loss_of_copies(copies: Any) -> jax.Array:
        def of_step(time: int) -> Any:
            return jax.tree.map(lambda leaf: leaf[time], copies)

        call = prepare(cell, of_step(first), inputs, state, mask, resets, dropout_masks, reverse)

        def body(state: Any, now: tuple[Step, Any]) -> tuple[Any, Any]:
            return _take(cell, call, now[1], state, now[0])

        end = jax.lax.scan(body, call.state, (call.steps, copies), reverse=reverse)
        return _value(cell, of_step(last), loss, *end)

    return _gradient(loss_of_copies, copies)


def _take(cell: Cell, call: Call, params: Any, state: Any, now: Step) -> tuple[Any, Any]:
    """One step of a call, with these parameters."""
    return step(cell, params, state, now.inputs, mask=now.mask, reset=now.reset, dropout_masks=call.dropout_masks)


def _norm(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Euclidean norm; unscaled, the squares of a gradient that has all but vanished would be zero."""
    largest = jnp.max(jnp.abs(values), axes, keepdims=True, initial=0)
    unit = jnp.where((largest > 0) & (largest < jnp.inf), largest, jnp.ones_like(largest))
    return jnp.squeeze(largest, axes) * jnp.sqrt(jnp.sum(jnp.square(values / unit), axes))


def _gradient(function: Callable[[Any], jax.Array], tree: Any) -> Any:
    """`jax.grad`, with zeros, floating-point too, for leaves of whole numbers."""
    gradients = jax.grad(function, allow_int=True)(tree)
    floats = [leaf.dtype for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0]
    return jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, floats[0]) if leaf.dtype == jax.dtypes.float0 else leaf, gradients
    )


def _value(cell: Cell, params: Any, loss: Loss | None, state: Any, outputs: Any) -> jax.Array:
    if loss is None:
        return jnp.sum(jnp.square(state_output(cell, params, state)))
    value = arguments.array("what loss returns", loss(state, outputs))
    if value.shape:
        raise ValueError(f"loss must return a single number, got shape {value.shape}")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"loss must return a floating-point number, got dtype {value.dtype}")
    return value
