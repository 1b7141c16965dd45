"""The engine: runs any cell over time.

A cell is one equation, split in two: `project`, all that does not depend on the state, and `step`, the rest.
The engine owns everything else: time, batches, masks, resets, dropout, direction, dtype and speed.

Axis letters: T time, B batch, F input features, H hidden, G gates. Time leads; what is said of [T, B, F]
holds of one sequence [T, F] and of any further batch axes too.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import arguments, deferral, joint
from jaxseq.calls import Call, Step, check_flags, check_state, look_up_later, or_zeros, prepare, where
from jaxseq.cells import DropoutMasks
from jaxseq.cells.products import summed_gates
from jaxseq.choice import Choice, Implementation, choose, platform
from jaxseq.flat import project_all
from jaxseq.forward import differentiated_as, join_gates, part_gates
from jaxseq.invariants import with_weights_cut
from jaxseq.lookup import Lookup, checked, lies_sharded, rows_of
from jaxseq.residuals import economical, scan_in_segments

_SEGMENT = 2**18  # numbers of drives, on a CPU: more leave the cache before they are read, and are more to store
# But so many steps at least, or a segment costs more than it saves.
_SEGMENT_STEPS = {"hoisted": 100, "deferred": 32, "tabulated": 100}
MERGES = ("concatenate", "sum", "average", "multiply", None)


class Cell(Protocol):
    """What the engine asks of a cell: a hashable object without arrays, of pure methods.

    Optional attributes: `gates: int`, how many dropout masks `project` and `step` take (without it, dropout
    raises); `summed_gates: tuple[int, ...]`, of the class or a property, to how many gates of the drive `step` adds
    each of its recurrent `gate_product`s, in the order of both, where neither serves for anything else (the engine may
    then take the product of the inputs together with them; a derived class that writes another `step` says it anew);
    `dtype`, what to compute in (None: promote inputs and parameters); `output(params, state)`, the output that belongs
    to a state, where it is not `state.hidden` or the state itself.
    """

    @property
    def hidden_size(self) -> int:
        """H, the width of the recurrent dropout masks."""
        ...

    def init(self, key: jax.Array, input_size: int) -> Any:
        """Draws parameters for inputs of `input_size` features."""
        ...

    def initial_state(self, params: Any, batch_shape: tuple[int, ...]) -> Any:
        """The state before the first step, each leaf [*batch_shape, ...]: zeros, or learned."""
        ...

    def project(self, params: Any, inputs: jax.Array, masks: DropoutMasks | None) -> Any:
        """All that does not depend on the state, over any leading axes: [..., F] to a drive [..., G·H], or None."""
        ...

    def step(self, params: Any, state: Any, drive: Any, masks: DropoutMasks | None) -> tuple[Any, Any]:
        """The rest, once a step: (state, output)."""
        ...


def scan(
    cell: Cell,
    params: Any,
    inputs: jax.Array | Lookup,
    *,
    state: Any = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    dropout_masks: DropoutMasks | None = None,
    reverse: bool = False,
    unroll: int = 1,
    remat: bool = False,
    implementation: Implementation | None = None,
) -> tuple[Any, Any]:
    """Runs a cell over a sequence.

    >>> state, outputs = jaxseq.scan(cell, params, inputs)
    >>> states, outputs = jax.vmap(functools.partial(jaxseq.scan, cell, params))(batch)      # [B, T, F]

    Args:
      cell: the cell; static under `jit`.
      params: its parameters, from `cell.init`.
      inputs: float [T, F], or time-major [T, B, F]; or a `Lookup` of them in a table.
      state: what to start from, each leaf [B, ...]; None: `cell.initial_state`. It carries over from an
        earlier segment; in reverse, from a later one, though not to a row in which that begins with a reset.
      mask: bool [T] or [T, B], True where a step is real. Elsewhere the state is held, the output is zero,
        and the inputs, NaN too, reach neither values nor gradients. A reset holds there too.
      resets: bool [T] or [T, B], True where a new sequence starts: at that step the state is
        `cell.initial_state` again, never `state`. In reverse the same flags separate the same sequences.
      dropout_masks: from `jaxseq.dropout_masks`; the same at every step.
      reverse: run from the last step to the first; outputs stay in the inputs' order.
      unroll: steps in one iteration of the loop, as in `jax.lax.scan`.
      remat: store the state before every segment of √T steps only, and run each again in the backward pass: memory
        for 2 √T steps in place of T, for the time of one more forward pass.
      implementation: "scan" (the input product inside the loop), "joint" (there too, in one with the recurrent
        product; of a cell with `summed_gates`), "hoisted" (one product for all steps before the loop), "deferred"
        (hoisted, and the recurrent weights' gradients as one product after it; on a CPU for a segment at a time),
        "tabulated" (of a `Lookup`, without dropout of the inputs: one product for all rows of its table),
        "unrolled" (a Python loop), "fused" (one GPU kernel, experimental: first derivatives only, by reverse mode,
        see `jaxseq.fused`); None picks, see `explain`, for forward alone and for a call that is differentiated
        apart, and never "fused". All give the same numbers.
    Returns:
      (state, outputs): the state after the last step taken, each leaf [B, ...]; the outputs [T, B, H].
      A sequence without a real step returns the state it started from, or was reset to.
    Raises:
      ValueError: an argument has the wrong rank, width, dtype or name; the message says which.
    """
    inputs = checked("inputs", inputs)
    call = prepare(cell, params, inputs, state, mask, resets, dropout_masks, reverse)
    unroll = arguments.integer("unroll", unroll, at_least=1)
    dropout, recurrent_dropout = (mask is not None for mask in call.dropout_masks or (None, None))
    pick = functools.partial(
        choose,
        implementation,
        cell,
        call.steps.inputs.shape,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        table_size=len(inputs.table) if isinstance(inputs, Lookup) else None,
    )
    chosen, forward = pick(gradient=True).implementation, pick(gradient=False).implementation
    remat = arguments.flag("remat", remat)
    if chosen in ("unrolled", "fused") and unroll != 1:
        raise ValueError(f'unroll must be 1 with implementation="{chosen}", got {unroll}')
    if remat and chosen == "unrolled":
        raise ValueError('remat must be False with implementation="unrolled", which keeps every step')

    # Traced once outside the loop, so that an error tells the shape that the caller knows.
    jax.eval_shape(cell.project, call.params, call.steps.inputs, call.dropout_masks)
    call = call._replace(state=_as_steps_give_it(cell, call))
    if isinstance(inputs, Lookup) and "tabulated" in (chosen, forward):
        call = look_up_later(call, inputs)
    run = functools.partial(_run, cell, reverse=reverse, unroll=unroll, remat=remat)
    constants = call._replace(state=None, steps=None)
    if platform() != "cpu" or (chosen == forward and chosen not in _SEGMENT_STEPS):
        return run(chosen, constants, call.state, call.steps)
    alone = functools.partial(run, "hoisted" if forward == "deferred" else forward, gates_apart=True)
    # Where a step adds products to the drive the gradient of these is the drive's; elsewhere it is one more to make,
    # gate by gate for less, unless it is so small that what counts is how many are made.
    apart = chosen != "tabulated" and summed_gates(cell) is None and inputs.shape[1:-1] != (1,)
    run_differentiated = functools.partial(run, chosen, gates_apart=apart)
    return differentiated_as(run_differentiated, alone, constants, call.state, call.steps)


def step(
    cell: Cell,
    params: Any,
    state: Any,
    inputs: jax.Array,
    *,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    dropout_masks: DropoutMasks | None = None,
) -> tuple[Any, Any]:
    """Takes one step, for streaming: the same numbers as the whole sequence at once.

    >>> state = cell.initial_state(params, ())
    >>> for one_input in stream:
    ...     state, output = jaxseq.step(cell, params, state, one_input)

    Args:
      cell: the cell.
      params: its parameters.
      state: the state so far; None: `cell.initial_state`.
      inputs: float [F] or [B, F].
      mask: bool [] or [B]; False holds the state and gives a zero output.
      reset: bool [] or [B]; True starts a new sequence at this step.
      dropout_masks: as in `scan`.
    Returns:
      (state, output), output [H] or [B, H].
    Raises:
      ValueError: as in `scan`.
    """
    inputs = arguments.array("inputs", inputs)
    if inputs.ndim < 1:
        raise ValueError(f"inputs must have shape [F] or [B, F], got {inputs.shape}")
    real, starts = (
        None if flags is None else check_flags(name, flags, inputs.shape[:-1])[None]
        for name, flags in (("mask", mask), ("reset", reset))
    )
    call = prepare(cell, params, inputs[None], state, real, starts, dropout_masks, False)
    first = jax.tree.map(lambda leaf: leaf[0], call.steps)
    return _advance(cell, call, call.state, first, project=True)


def bidirectional(
    cells: Cell | tuple[Cell, Cell],
    params: tuple[Any, Any],
    inputs: jax.Array | Lookup,
    *,
    state: tuple[Any, Any] | None = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    dropout_masks: tuple[DropoutMasks | None, DropoutMasks | None] | None = None,
    merge: str | None = "concatenate",
    unroll: int = 1,
    remat: bool = False,
    implementation: Implementation | None = None,
) -> tuple[tuple[Any, Any], Any]:
    """Runs one cell forward and one backward over the same sequence.

    Args:
      cells: one cell for both directions, or (forward, backward).
      params: (forward, backward).
      inputs: as in `scan`.
      state: (forward, backward) or None.
      mask: as in `scan`.
      resets: as in `scan`.
      dropout_masks: (forward, backward) or None.
      merge: of the outputs: "concatenate", "sum", "average", "multiply", or None for (forward, backward).
      unroll: as in `scan`.
      remat: as in `scan`.
      implementation: as in `scan`.
    Returns:
      ((forward state, backward state), outputs): the forward state has seen all up to the last step, the
      backward state all down to the first.
    Raises:
      ValueError: as in `scan`; `merge` is unknown; a pair is no pair.
    Source: Schuster & Paliwal 1997.
    """
    pair: Any = (cells, cells) if not isinstance(cells, tuple) or hasattr(cells, "_fields") else cells
    if len(pair) == 2:
        for name, cell in zip(("cells[0]", "cells[1]"), pair, strict=True):
            arguments.cell("cells" if pair[0] is pair[1] else name, cell)
    pairs = {"cells": pair, "params": params, "state": state, "dropout_masks": dropout_masks}
    for name, value in pairs.items():
        optional = name in ("state", "dropout_masks") and value is None
        if not optional and (type(value) is not tuple or len(value) != 2):  # an LSTMState is no pair
            raise ValueError(f"{name} must be a pair (forward, backward), got {_size(value)}")
    arguments.one_of("merge", merge, MERGES)
    states, outputs = [], []
    for direction in (0, 1):
        end, output = scan(
            pair[direction],
            params[direction],
            inputs,
            state=None if state is None else state[direction],
            mask=mask,
            resets=resets,
            dropout_masks=None if dropout_masks is None else dropout_masks[direction],
            reverse=direction == 1,
            unroll=unroll,
            remat=remat,
            implementation=implementation,
        )
        states.append(end)
        outputs.append(output)
    return (states[0], states[1]), merge_outputs(outputs[0], outputs[1], merge)


def merge_outputs(forward: Any, backward: Any, merge: str | None) -> Any:
    """Merges what two directions gave: arrays [..., H] each, by one of `MERGES`.

    Raises:
      ValueError: `merge` is unknown.
    """
    arguments.one_of("merge", merge, MERGES)
    if merge is None:
        return forward, backward
    arguments.is_array("forward", forward)
    arguments.is_array("backward", backward)
    if forward.shape != backward.shape and (merge != "concatenate" or forward.shape[:-1] != backward.shape[:-1]):
        raise ValueError(f"backward must have the shape of forward {forward.shape} to {merge}, got {backward.shape}")
    if merge == "concatenate":
        return jnp.concatenate([forward, backward], axis=-1)
    if merge == "multiply":
        return forward * backward
    total = forward + backward
    return total if merge == "sum" else total / 2


def stack(
    cells: Sequence[Cell],
    params: Sequence[Any],
    inputs: jax.Array | Lookup,
    *,
    state: Sequence[Any] | None = None,
    mask: jax.Array | None = None,
    resets: jax.Array | None = None,
    dropout_masks: Sequence[DropoutMasks | None] | None = None,
    reverse: bool = False,
    unroll: int = 1,
    remat: bool = False,
    implementation: Implementation | None = None,
) -> tuple[tuple[Any, ...], Any]:
    """Runs layers one after another, each over the whole output sequence of the one below.

    Args:
      cells: L cells, the lowest first.
      params: L parameter sets.
      inputs: as in `scan`.
      state: L states, or None.
      mask: as in `scan`, for every layer.
      resets: as in `scan`, for every layer.
      dropout_masks: L of them, or None.
      reverse: as in `scan`, for every layer.
      unroll: as in `scan`.
      remat: as in `scan`.
      implementation: as in `scan`.
    Returns:
      (states, outputs): a tuple of L states, the top layer's outputs.
    Raises:
      ValueError: as in `scan`; no cells; arguments of different lengths.
    """
    arguments.instance("cells", cells, (list, tuple), "a list of cells")
    if not cells:
        raise ValueError("cells must hold at least one cell, got none")
    for name, value in (("params", params), ("state", state), ("dropout_masks", dropout_masks)):
        if value is not None or name == "params":
            _check_entries(name, value, len(cells))
    states: list[Any] = []
    outputs: Any = inputs
    for layer, cell in enumerate(cells):
        end, outputs = scan(
            cell,
            params[layer],
            outputs,
            state=None if state is None else state[layer],
            mask=mask,
            resets=resets,
            dropout_masks=None if dropout_masks is None else dropout_masks[layer],
            reverse=reverse,
            unroll=unroll,
            remat=remat,
            implementation=implementation,
        )
        states.append(end)
    return tuple(states), outputs


def state_output(cell: Cell, params: Any, state: Any) -> jax.Array:
    """The output that belongs to a state: what a classifier reads off the last one.

    It is `cell.output(params, state)` where the cell has that, else `state.hidden`, else the state itself.
    Reading it off the final state costs nothing; `outputs[-1]` is wrong where a sequence ends in padding.

    Raises:
      ValueError: the state is none of these.
    """
    arguments.cell("cell", cell)
    if hasattr(cell, "output"):
        return cell.output(params, state)  # type: ignore[attr-defined]  # optional in the protocol
    if hasattr(state, "hidden"):
        return state.hidden
    if isinstance(state, jax.Array | np.ndarray):
        return jnp.asarray(state)
    raise ValueError(
        f"{type(cell).__name__} must have a method output(params, state), or a state that is an array or has "
        f"a field `hidden`, got a state of type {type(state).__name__}"
    )


def explain(
    cell: Cell,
    inputs_shape: tuple[int, ...],
    *,
    dropout: bool = False,
    recurrent_dropout: bool = False,
    gradient: bool = True,
    sharded: bool | None = None,
    table_size: int | None = None,
    implementation: Implementation | None = None,
) -> Choice:
    """Says which implementation `scan` takes for inputs of this shape on this machine, and why.

    Args:
      cell: the cell.
      inputs_shape: (T, F) or (T, B, F).
      dropout: whether the inputs have dropout masks.
      recurrent_dropout: whether the recurrent products have.
      gradient: whether the call is differentiated, as in training; False: forward alone.
      sharded: whether several devices of this machine run it side by side, each on a batch as in `inputs_shape`, as
        `jaxseq.fit` does; None: whether this is called inside a `shard_map`.
      table_size: V, where the inputs are a `Lookup` in a table of so many rows.
      implementation: as in `scan`.
    Returns:
      Choice(implementation, reason).
    Raises:
      ValueError: `implementation` is unknown, or the shape has under two axes.
    """
    arguments.cell("cell", cell)
    dropout = arguments.flag("dropout", dropout)
    recurrent_dropout = arguments.flag("recurrent_dropout", recurrent_dropout)
    gradient = arguments.flag("gradient", gradient)
    sharded = None if sharded is None else arguments.flag("sharded", sharded)
    table_size = arguments.optional_integer("table_size", table_size, at_least=1)
    inputs_shape = arguments.shape("inputs_shape", inputs_shape)
    if len(inputs_shape) < 2:
        raise ValueError(f"inputs_shape must be (T, F) or (T, B, F), got {inputs_shape}")
    return choose(
        implementation,
        cell,
        inputs_shape,
        dropout=dropout,
        recurrent_dropout=recurrent_dropout,
        gradient=gradient,
        sharded=sharded,
        table_size=table_size,
    )


def _run(
    cell: Cell,
    implementation: Implementation,
    constants: Call,
    state: Any,
    steps: Step,
    *,
    reverse: bool,
    unroll: int,
    remat: bool,
    gates_apart: bool = False,
) -> tuple[Any, Any]:
    """Runs a cell by one implementation.

    Args:
      cell: the cell.
      implementation: which.
      constants: a call without its state and steps.
      state: what to start from.
      steps: the steps, T of them, their inputs not projected yet.
      reverse: as in `scan`.
      unroll: as in `scan`.
      remat: as in `scan`.
      gates_apart: keep hoisted drives as `part_gates` has them; and hoist what is tabulated. (Where derivatives are
        taken a table is read in the loop: there XLA adds up its gradient in place, and no drive is stored.)
    """
    if constants.table is not None:
        if implementation == "tabulated":
            table = cell.project(constants.params, constants.table, constants.dropout_masks)
            constants = constants._replace(table=table)
        else:
            steps = steps._replace(inputs=rows_of(constants.table, steps.inputs))
            constants = constants._replace(table=None)
    length, batch_shape = steps.inputs.shape[0], steps.inputs.shape[1:-1]
    is_hoisted = implementation in ("hoisted", "deferred", "fused") or (implementation == "tabulated" and gates_apart)
    all_drives = functools.partial(_drive, functools.partial(project_all, cell))
    drives = jax.tree.leaves(jax.eval_shape(all_drives, constants, steps)) if is_hoisted else []
    is_hoisted = bool(drives)  # of a cell that takes nothing from its inputs it is these that count the steps
    gates = getattr(cell, "gates", 1) if gates_apart and is_hoisted else 1

    def one_step(call: Call, state: Any, step: Step) -> tuple[Any, Any]:
        if gates > 1:
            step = step._replace(inputs=join_gates(step.inputs))
        return _advance(cell, call, state, step, project=not is_hoisted)

    def run(state: Any, steps: Step) -> tuple[Any, Any]:
        if is_hoisted:
            drive = all_drives(constants, steps)
            steps = steps._replace(inputs=drive if gates == 1 else part_gates(drive, gates))
        if implementation == "joint" and length:
            sums: Any = summed_gates(cell)  # a cell without them was refused above
            return joint.scan(one_step, constants, state, steps, summed_gates=sums, reverse=reverse, unroll=unroll)
        if implementation == "deferred" and length:
            return deferral.scan(one_step, constants, state, steps, reverse=reverse, unroll=unroll)
        if implementation == "fused":
            from jaxseq import fused  # here, since importing Pallas takes a second

            return fused.scan(
                one_step,
                constants,
                state,
                steps,
                cell=cell,
                batch_shape=batch_shape,
                reverse=reverse,
                platform=platform(),
            )
        cut = with_weights_cut(one_step, constants, state, steps) if length else functools.partial(one_step, constants)
        body = economical(cut)
        if implementation == "unrolled":
            return _python_loop(body, state, steps, reverse)
        return jax.lax.scan(body, state, steps, reverse=reverse, unroll=unroll)

    if remat and length:
        run, size = jax.checkpoint(run, prevent_cse=False), math.isqrt(length - 1) + 1  # √T, rounded up
    elif is_hoisted and implementation in _SEGMENT_STEPS and length and platform() == "cpu":
        numbers = sum(math.prod(drive.shape) for drive in drives)
        most = max(_SEGMENT_STEPS[implementation], _SEGMENT * length // max(numbers, 1))
        # None left over is best: a shorter segment is a program of its own.
        size = next((size for size in range(min(most, length), 31, -1) if length % size == 0), most)
    else:
        return run(state, steps)
    return scan_in_segments(run, state, steps, size=size, reverse=reverse)


def _as_steps_give_it(cell: Cell, call: Call) -> Any:
    """The state to start from, over a mesh of devices of the type that a step gives it, as a loop must carry it.

    Zeros are the same on all devices. A state of sharded inputs is sharded (explicit axes), or differs from device to
    device (inside a `shard_map`).
    """
    is_alone = jax.sharding.get_abstract_mesh().empty and not any(map(lies_sharded, jax.tree.leaves(call)))
    if is_alone or not call.steps.inputs.shape[0]:
        return call.state

    def one_step(call: Call) -> Any:
        first = jax.tree.map(lambda leaf: leaf[0], call.steps)
        return _advance(cell, call, call.state, first, project=True)[0]

    types = jax.make_jaxpr(one_step)(call).out_avals
    if [jax.typeof(leaf) for leaf in jax.tree.leaves(call.state)] == types:
        return call.state
    # Nobody computes the step: of a choice that is constant XLA keeps the state alone.
    return where(jnp.zeros((), bool), jax.lax.stop_gradient(one_step(call)), call.state)


def _advance(cell: Cell, call: Call, state: Any, step: Step, *, project: bool) -> tuple[Any, Any]:
    """One step of any call: reset, project, step, hold."""
    if step.reset is not None:
        state = where(step.reset, call.initial_state, state)
    drive = _drive(cell.project, call, step) if project else step.inputs
    new_state, output = cell.step(call.params, state, drive, call.dropout_masks)
    check_state(f"the state that {type(cell).__name__}.step returns", new_state, state, dtypes=True)
    if step.mask is not None:
        new_state = where(step.mask, new_state, state)
        output = or_zeros(step.mask, output)
    return new_state, output


def _drive(project: Callable[..., Any], call: Call, step: Step) -> Any:
    """The drive of one step, by the cell's `project`, or of all, by `project_all`."""
    if call.table is not None:
        return rows_of(call.table, step.inputs)
    return project(call.params, step.real_inputs, call.dropout_masks)


def _python_loop(body: Any, state: Any, steps: Step, reverse: bool) -> tuple[Any, Any]:
    """`jax.lax.scan` without the loop: one copy of the body for each step."""
    length = steps.inputs.shape[0]
    if not length:
        return jax.lax.scan(body, state, steps)  # nothing to unroll; scan knows the shape of no outputs
    order = range(length)
    outputs = [None] * length
    for time in reversed(order) if reverse else order:
        state, outputs[time] = body(state, jax.tree.map(lambda leaf: leaf[time], steps))  # noqa: B023
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _check_entries(name: str, value: Any, count: int) -> None:
    arguments.instance(name, value, (list, tuple), f"a list with one entry for each of {count} cells")
    if len(value) != count:
        raise ValueError(f"{name} must have one entry for each of {count} cells, got {len(value)}")


def _size(value: Any) -> str:
    return f"{len(value)} entries" if type(value) is tuple else type(value).__name__
