"""The whole recurrence as one GPU kernel, forward and backward, for any cell of products and elementwise work.

Experimental: no GPU has run it yet. It is compiled for Hopper GPUs without one, and tested under Pallas' interpreter;
only `implementation="fused"` asks for it.

**One kernel for every cell.** `cell.step` itself is traced into the kernel, with its masks, resets and dropout; the
step backward is `jax.vjp` of the same step (`plan`). Both are computed on tiles (`tiles`), in a loop over
time inside one kernel (`kernel`). The input product comes before it and the weights' gradients after it, as
products of XLA's.

**What stays where, on an H100** (a multiprocessor has 227 KB of shared memory for a program). One program runs all
steps of 16 sequences, the least that tensor cores take: a batch of 128 is 8 programs, and larger batches, seeds and
directions fill the other multiprocessors. Matrices lie in shared memory, read once: 128 KB for an LSTM of H 128 in
bfloat16. In float32 it would be 256 KB; then two of its four tiles stay, and two are read again at each step from the
second-level cache. The state lives in registers, in float32, and what a step reads is fetched a step ahead.

**What is stored for the backward pass** is what the engine's scan stores: results that cost something, not the states
alone. Recomputing the step would read as many bytes (the drive in place of the gates) and write fewer. But a step waits
for latency more than for bandwidth, and would have to take the forward product and every activation once more.

**The gradient of a matrix** is left to one product over all steps, after the kernel. Added up on the chip it would take
as much room again as the matrix, in float32, and one more product a step. Of its two factors, the gradient at the
product is written in any case, since the input product's gradient needs it, and the other is mostly a stored state.

**The back end** is Pallas' Triton, deprecated since jax 0.11, and not yet Mosaic GPU, where Pallas is going. Of Mosaic
GPU's products, one takes references to shared memory and 64 rows or more, the other (since jax 0.11) values, for which
there is no interpreter; both ask for layouts chosen by hand, which a cell's own step has not. What the kernel needs is
little: loads, stores, `fori_loop`, elementwise work, products of two tiles. When Triton goes, the product and the call
have to be written anew, `tiles._dot_general` and `kernel._call`.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxseq.calls import Call, Step
from jaxseq.fused.kernel import Packed, check_fits, loop, pack, side_by_side, unpack
from jaxseq.fused.plan import Body, Plan, is_matrix, separate
from jaxseq.fused.tiles import BATCH, WIDEST, CannotFuse

_INSTEAD = 'use implementation="scan"'
_EXACT = {jax.lax.Precision.HIGHEST, jax.lax.DotAlgorithmPreset.F32_F32_F32}  # what tensor cores do not do
_interpreted = contextvars.ContextVar("interpreted", default=False)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Lets what is traced in this context run under Pallas' interpreter, on any platform: for tests, and very slow.

    >>> from jaxseq import fused
    >>> with fused.interpreted():
    ...     jaxseq.scan(cell, params, inputs, implementation="fused")
    """
    token = _interpreted.set(True)
    try:
        yield
    finally:
        _interpreted.reset(token)


def scan(
    advance: Callable[[Call, Any, Step], tuple[Any, Any]],
    call: Call,
    state: Any,
    steps: Step,
    *,
    cell: Any,
    batch_shape: tuple[int, ...],
    reverse: bool,
    platform: str,
) -> tuple[Any, Any]:
    """`jax.lax.scan` of a cell's steps, in one kernel.

    Args:
      advance: (call, state, step) to (state, output), of any batch.
      call: what is the same at every step: `params`, `initial_state`, `dropout_masks`.
      state: each leaf [*batch_shape, ...].
      steps: what differs, each leaf [T, *batch_shape, ...]; projected already.
      cell: the cell.
      batch_shape: of the sequences; () for one.
      reverse: from the last step to the first.
      platform: what the call will run on.
    Returns:
      (state, outputs).
    Raises:
      ValueError: this cell, dtype, size or platform cannot be had in a kernel; the message says which, and names the
        alternative. So do, when they are asked for, forward-mode and second derivatives.
    """
    interpret, name, hidden_size = _interpreted.get(), type(cell).__name__, cell.hidden_size
    dtype = jax.tree.leaves(steps)[0].dtype
    if not interpret and platform not in ("gpu", "cuda"):
        raise ValueError(
            f'implementation="fused" must run on a GPU (or, in tests, within jaxseq.fused.interpreted()), '
            f"got platform {platform!r}; {_INSTEAD}"
        )
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f'implementation="fused" must compute in float32 or bfloat16, got {dtype}; {_INSTEAD}')
    if not 2 <= hidden_size <= WIDEST:
        raise ValueError(
            f'implementation="fused" must have a hidden_size from 2 to {WIDEST}, got {hidden_size}; {_INSTEAD}'
        )
    length, batch = jax.tree.leaves(steps)[0].shape[0], math.prod(batch_shape)
    if not length or not batch:
        return jax.lax.scan(functools.partial(advance, call), state, steps)  # no step to take

    def merged(tree: Any, axis: int) -> list[Any]:
        """Leaves with all batch axes in one; for a single sequence, one of size 1."""
        leaves = jax.tree.leaves(tree)
        return [leaf.reshape(*leaf.shape[:axis], batch, *leaf.shape[axis + len(batch_shape) :]) for leaf in leaves]

    params, starts, masks = (getattr(call, field) for field in _INVARIANTS)
    structure, found = jax.tree.structure((params, starts, masks, state, steps)), []
    once = [(leaf, None) for leaf in jax.tree.leaves(params)]
    once += [(leaf, axis) for axis, tree in enumerate((starts, masks)) for leaf in merged(tree, axis)]
    once = [(leaf.astype(_computed(leaf.dtype)), axis) for leaf, axis in once]
    started, inputs = (
        [leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for leaf in merged(tree, axis)]
        for axis, tree in enumerate((state, steps))
    )

    def one_step(*leaves: Any) -> list[Any]:
        *invariants, state, step = jax.tree.unflatten(structure, leaves)
        results = advance(call._replace(**dict(zip(_INVARIANTS, invariants, strict=True))), state, step)
        found.append(jax.tree.structure(results))
        return jax.tree.leaves(results)

    def abstract(size: int) -> list[list[Any]]:
        return [
            [_abstract(leaf, axis, size) for leaf, axis in once],
            [_abstract(leaf, 0, size) for leaf in started],
            [_abstract(leaf[0], 0, size) for leaf in inputs],
        ]

    with _named(name):
        before, after = separate(one_step, abstract, batch)
        counts = len(after.jaxpr.invars) - len(started) - len(inputs), len(started), len(inputs)
        plan = Plan(after, counts, hidden_size, dtype)
        _check(plan)
        run = _differentiable(plan, batch, length, reverse, interpret, name)
    constants = jaxpr_as_fun(before)(*(leaf for leaf, _ in once))
    final, outputs = run(*(jax.tree.map(_guard.bind, leaves) for leaves in (constants, started, inputs)))
    final = [leaf.reshape(*batch_shape, *leaf.shape[1:]) for leaf in final]
    outputs = [leaf.reshape(length, *batch_shape, *leaf.shape[2:]) for leaf in outputs]
    return jax.tree.unflatten(found[0], [*final, *outputs])


_INVARIANTS = ("params", "initial_state", "dropout_masks")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except CannotFuse as error:
        raise ValueError(f'implementation="fused" cannot run {name}.step: {error}; {_INSTEAD}') from None


def _computed(dtype: Any) -> Any:
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype


def _abstract(leaf: Any, axis: int | None, size: int) -> jax.ShapeDtypeStruct:
    shape = leaf.shape if axis is None else (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, _computed(leaf.dtype))


def _check(plan: Plan) -> None:
    """Raises CannotFuse for what a kernel cannot carry, or has no room for."""
    if not plan.counts[1]:
        raise CannotFuse("it has no state")
    for atom in plan.loop.jaxpr.outvars:
        if not jnp.issubdtype(atom.aval.dtype, jnp.floating):
            raise CannotFuse(f"its state or output has dtype {atom.aval.dtype}; it must be floating point")
    tiles = [
        math.prod(tile) * jnp.dtype(plan.dtype).itemsize
        for shape, layout in zip(plan.shapes, plan.layouts(plan.shapes), strict=True)
        for tile in layout.tiles
        if is_matrix(shape)
    ]
    products = [equation for equation in plan.loop.jaxpr.eqns if equation.primitive.name == "dot_general"]
    exact = any(not _EXACT.isdisjoint(jax.tree.leaves(equation.params["precision"])) for equation in products)
    check_fits(sum(tiles), exact and plan.dtype == jnp.float32)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Wanted:
    """Which arguments' gradients are wanted: the forward rule knows, the backward rule has to."""

    flags: tuple[bool, ...]


def _differentiable(
    plan: Plan, batch: int, length: int, reverse: bool, interpret: bool, name: str
) -> Callable[..., tuple[list[jax.Array], list[jax.Array]]]:
    """The loop as a function (constants, state, steps) to (state, outputs), lists of arrays, with its gradient."""
    constant_shapes, state_shapes, step_shapes = plan.part(plan.shapes)
    output_shapes = plan.results[len(state_shapes) :]
    training = functools.cache(plan.training)  # the forward and the backward rule ask for the same
    inference = plan.inference()
    run_loop = functools.partial(loop, length=length, interpret=interpret)

    def packed(arrays: Sequence[Any], shapes: Sequence[tuple[int, ...]], lead: int = 0) -> list[Packed]:
        cast = [
            array.astype(plan.dtype) if array is not None and is_matrix(shape) else array
            for array, shape in zip(arrays, shapes, strict=True)
        ]
        return [
            Packed(None if array is None else pack(array, shape, layout, lead), layout)
            for array, shape, layout in zip(cast, shapes, plan.layouts(shapes), strict=True)
        ]

    def unpacked(arrays: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        pairs = zip(arrays, shapes, plan.layouts(shapes), strict=True)
        return [unpack(array, shape, layout) for array, shape, layout in pairs]

    def forward(body: Body, constants: Any, state: Any, steps: Any, stored: Sequence[Any] = ()) -> Any:
        final, emitted = run_loop(
            body.run,
            packed(_only(body.constants, constants), constant_shapes),
            packed(state, state_shapes),
            packed(_only(body.stream, steps), step_shapes, 1),
            [*((layout, plan.dtype) for layout in plan.layouts(output_shapes)), *stored],
            reverse=reverse,
        )
        outputs, kept = emitted[: len(output_shapes)], emitted[len(output_shapes) :]
        return (unpacked(final, state_shapes), unpacked(outputs, output_shapes)), kept

    @jax.custom_vjp
    def run(constants: Any, state: Any, steps: Any) -> Any:
        return forward(inference, constants, state, steps)[0]

    def run_forward(*arguments: Any) -> Any:
        constants, state, steps = jax.tree.map(_differentiable_once, custom_vjp_primal_tree_values(arguments))
        wanted = _Wanted(tuple(leaf.perturbed for leaves in arguments for leaf in leaves))
        with _named(name):
            plans = training(wanted.flags)
        results, stored = forward(plans.forward, constants, state, steps, plans.stored)
        read = plans.backward.stream[len(stored) : len(stored) + len(steps)]
        sources = [source for _, tiles in plans.factors for source in tiles]
        read = [flag or any(s.place == "step" and s.array == place for s in sources) for place, flag in enumerate(read)]
        return results, (wanted, constants, _only(read, steps), stored)

    def run_backward(kept: Any, cotangents: Any) -> Any:
        wanted, *arrays = kept
        plans = training(wanted.flags)
        cotangents = jax.tree.map(lambda leaf: None if _is_zero(leaf) else leaf, cotangents, is_leaf=_is_zero)
        constants, steps, stored, final, outputs = jax.tree.map(_differentiable_once, (*arrays, *cotangents))
        carried_shapes = state_shapes + [constant_shapes[place] for place in plans.own]
        carry = [
            jnp.zeros([batch if size == BATCH else size for size in shape], jnp.float32) if leaf is None else leaf
            for leaf, shape in zip([*final, *(None for _ in plans.own)], carried_shapes, strict=True)
        ]
        stream = [Packed(array, layout) for array, (layout, _) in zip(stored, plans.stored, strict=True)]
        stream += packed(steps, step_shapes, 1) + packed(outputs, output_shapes, 1)
        fixed = packed(constants, constant_shapes)
        carry, emitted = run_loop(
            plans.backward.run,
            [_if(flag, one) for flag, one in zip(plans.backward.constants, fixed, strict=True)],
            packed(carry, carried_shapes),
            [_if(flag, one) for flag, one in zip(plans.backward.stream, stream, strict=True)],
            [(layout, plan.dtype) for layout in plans.emitted],
            reverse=not reverse,
        )
        carry = unpacked(carry, carried_shapes)
        places = {
            "emitted": emitted,
            "stored": stored,
            "step": [one.array for one in stream[len(stored) :]],
            "constant": [one.array for one in fixed],
        }
        factor_shapes = [shape for shape, _ in plans.factors]
        factors = [
            side_by_side([(places[source.place][source.array], source.column) for source in sources], layout, length)
            for (_, sources), layout in zip(plans.factors, plan.layouts(factor_shapes), strict=True)
        ]
        factors = unpacked(factors, factor_shapes)
        found = dict(zip(plans.own, carry[len(state_shapes) :], strict=True))
        found.update(zip(plans.shared, plans.gradients(factors, constants), strict=True))
        of_step = [step_shapes[place] for place in plans.of_step]
        of_step = dict(zip(plans.of_step, unpacked(emitted[: len(of_step)], of_step), strict=True))
        return (
            [found.get(place) for place in range(len(constant_shapes))],
            [gradient.astype(plan.dtype) for gradient in carry[: len(state_shapes)]],
            [of_step.get(place) for place in range(len(step_shapes))],
        )

    run.defvjp(run_forward, run_backward, symbolic_zeros=True)
    return run


def _only(flags: Sequence[bool], leaves: Sequence[Any]) -> list[Any]:
    return [leaf if flag else None for leaf, flag in zip(leaves, flags, strict=True)]


def _if(flag: bool, one: Packed) -> Packed:
    return one if flag else Packed(None, one.layout)


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _refuse(kind: str) -> ValueError:
    return ValueError(f'implementation="fused" must not be differentiated {kind}; {_INSTEAD}')


def _refuse_forward_mode(*_: Any, **__: Any) -> Any:
    raise _refuse("in forward mode")


# An identity on the way to a kernel, whose tangent reverse mode transposes away, and forward mode has to evaluate.
_guard, _tangent = Primitive("jaxseq_fused_guard"), Primitive("jaxseq_fused_tangent")
for _primitive, _act in ((_guard, lambda leaf, **_: leaf), (_tangent, _refuse_forward_mode)):
    _primitive.def_impl(_act)
    _primitive.def_abstract_eval(lambda aval: aval)
mlir.register_lowering(_guard, lambda context, leaf: [leaf])
mlir.register_lowering(_tangent, _refuse_forward_mode)
batching.defvectorized(_guard)
batching.primitive_batchers[_tangent] = _refuse_forward_mode
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
ad.primitive_jvps[_guard] = lambda primals, tangents: (_guard.bind(*primals), _guarded_tangent(*tangents))


def _guarded_tangent(tangent: Any) -> Any:
    return tangent if isinstance(tangent, ad.Zero) else _tangent.bind(tangent)


@jax.custom_jvp
def _differentiable_once(leaf: jax.Array) -> jax.Array:
    return leaf


@_differentiable_once.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise _refuse("twice")
