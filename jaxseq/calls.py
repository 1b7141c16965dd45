"""One call of the engine: its arguments checked, and brought to one dtype.

Axis letters: T time, B batch, F input features, H hidden, G gates.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq import arguments
from jaxseq.cells import DropoutMasks
from jaxseq.lookup import Lookup, checked
from jaxseq.masks import check_takes_masks


class Step(NamedTuple):
    """What the loop reads at one step (or, stacked, at all)."""

    inputs: Any  # [B, F]; where the projection was hoisted, the drive; of a lookup, the index [B]
    mask: jax.Array | None  # bool [B]
    reset: jax.Array | None  # bool [B]

    @property
    def real_inputs(self) -> jax.Array:
        """The inputs where the mask is True, else zeros: a NaN that was projected would make all gradients NaN."""
        if self.mask is None:
            return self.inputs
        return or_zeros(self.mask, self.inputs)


class Call(NamedTuple):
    """The checked arguments of one call, all floats in the dtype of the computation."""

    params: Any
    state: Any
    initial_state: Any  # what a reset goes back to; None without resets
    steps: Step
    dropout_masks: DropoutMasks | None
    table: Any = None  # [V, F], or the drives of its rows [V, G·H]: where the steps' inputs are indices of it


def prepare(
    cell: Any,
    params: Any,
    inputs: Any,
    state: Any,
    mask: Any,
    resets: Any,
    dropout_masks: DropoutMasks | None,
    reverse: bool,
) -> Call:
    """Checks the arguments of a call and brings them to one dtype.

    Raises:
      ValueError: one has another type, rank, size or dtype than it must; the message says which.
    """
    arguments.cell("cell", cell)
    inputs = checked("inputs", inputs)
    inputs = inputs.rows if isinstance(inputs, Lookup) else inputs
    if inputs.ndim < 2:
        raise ValueError(f"inputs must have shape [T, F] or [T, B, F], got {inputs.shape}")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(f"inputs must be floating point, got dtype {inputs.dtype}")
    reverse = arguments.flag("reverse", reverse)
    batch_shape = inputs.shape[1:-1]
    _check_params(cell, params, inputs.shape)
    dtype = _compute_dtype(cell, params, inputs)
    params, inputs = _cast(params, dtype), inputs.astype(dtype)

    initial_state = None
    if state is None or resets is not None:
        initial_state = _cast(cell.initial_state(params, batch_shape), dtype)
    if state is None:
        state = initial_state
    else:
        expected = jax.eval_shape(lambda params: cell.initial_state(params, batch_shape), params)
        check_state("state", state, expected)
        for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
            found = jnp.result_type(leaf)
            if jnp.issubdtype(wanted.dtype, jnp.floating):
                if not jnp.issubdtype(found, jnp.floating):
                    raise ValueError(f"state must have floating-point leaves, got dtype {found}")
            elif found != wanted.dtype:
                raise ValueError(f"state must have dtype {wanted.dtype} where the cell's has, got {found}")
        state = _cast(state, dtype)

    if mask is not None:
        mask = check_flags("mask", mask, inputs.shape[:-1])
    if resets is not None:
        resets = check_flags("resets", resets, inputs.shape[:-1])
        if reverse:  # the sequence that starts at t ends, for the backward run, before t - 1
            resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    if dropout_masks is not None:
        dropout_masks = _check_dropout_masks(cell, dropout_masks, inputs, dtype)
    return Call(
        params,
        state,
        initial_state if resets is not None else None,
        Step(inputs, mask, resets),
        dropout_masks,
    )


def look_up_later(call: Call, lookup: Lookup) -> Call:
    """The call whose inputs are rows of a table, with indices in their place."""
    indices = lookup.indices
    if call.steps.mask is not None:  # what is not real may be no index
        indices = jnp.where(call.steps.mask, indices, 0)
    return call._replace(table=lookup.table.astype(call.steps.inputs.dtype), steps=call.steps._replace(inputs=indices))


def _check_params(cell: Any, params: Any, inputs_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless parameters have the names and shapes that `cell.init` gives them for these inputs.

    Their dtypes are their own, and one kind of mapping is as good as another.
    """
    features, found = inputs_shape[-1], arguments.leaf_shapes(params)
    try:
        hash(cell)
    except TypeError:  # against the protocol, but it runs
        wanted = _drawn_shapes(cell, features)
    else:
        wanted = _known_shapes(cell, features)
    if wanted is None or found == wanted:
        return
    if list(found) != list(wanted):
        names = ", ".join(name.lstrip(".") for name in wanted)
        raise ValueError(
            f"params must hold {names}, as {type(cell).__name__}.init draws them, got {arguments.shown(params)}"
        )
    name, shape = next((name, shape) for name, shape in wanted.items() if found[name] != shape)
    for size, own in zip(found[name], shape, strict=False):
        if own == features and _drawn_shapes(cell, size) == found:
            raise ValueError(
                f"inputs must have {size} features on the last axis, got shape {inputs_shape}, or params be drawn "
                f"for {features}"
            )
    raise ValueError(f"params{name} must have shape {shape}, as {type(cell).__name__}.init draws it, got {found[name]}")


def _drawn_shapes(cell: Any, input_size: int) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a cell's parameters by name; None where its `init` cannot be traced, and it must be trusted."""
    try:
        return arguments.leaf_shapes(jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size)))
    except Exception:  # whatever a third party's `init` does with a key whose value is unknown
        return None


_known_shapes = functools.lru_cache(typed=True)(_drawn_shapes)  # NamedTuples of two classes may be equal


def _compute_dtype(cell: Any, params: Any, inputs: jax.Array) -> Any:
    dtype = getattr(cell, "dtype", None)
    if dtype is not None:
        return jnp.dtype(dtype)
    dtype = inputs.dtype
    for leaf in jax.tree.leaves(params):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            dtype = jnp.promote_types(dtype, jnp.result_type(leaf))
    return dtype


def _cast(tree: Any, dtype: Any) -> Any:
    def cast(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def where(flags: jax.Array, chosen: Any, other: Any) -> Any:
    """`jnp.where` over trees: flags [B] against leaves [B, ...]."""

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(flags.reshape(flags.shape + (1,) * (a.ndim - flags.ndim)), a, b)

    return jax.tree.map(pick, chosen, other)


def or_zeros(flags: jax.Array, tree: Any) -> Any:
    """A tree's leaves [B, ...] where flags [B] are True, else zeros."""
    return where(flags, tree, jax.tree.map(jnp.zeros_like, tree))


def check_flags(name: str, flags: Any, shape: tuple[int, ...]) -> jax.Array:
    """Flags as a boolean array; raises ValueError unless they are that, and of this shape."""
    flags = arguments.array(name, flags)
    if flags.shape != shape:
        raise ValueError(f"{name} must have shape {shape} (that of inputs without features), got {flags.shape}")
    if flags.dtype != jnp.bool_:
        raise ValueError(f"{name} must be boolean, got dtype {flags.dtype}")
    return flags


def check_state(name: str, state: Any, expected: Any, *, dtypes: bool = False) -> None:
    """Raises ValueError unless a state has the structure and shapes (and dtypes) expected of it."""
    structures = jax.tree.structure(state), jax.tree.structure(expected)
    if structures[0] != structures[1]:
        raise ValueError(f"{name} must have the structure {structures[1]!s:.120}, got {structures[0]!s:.120}")
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        if jnp.shape(leaf) != wanted.shape:
            raise ValueError(f"{name} must have leaves of shape {wanted.shape}, got {jnp.shape(leaf)}")
        if dtypes and jnp.result_type(leaf) != wanted.dtype:
            raise ValueError(f"{name} must have dtype {wanted.dtype}, got {jnp.result_type(leaf)}")


def _check_dropout_masks(cell: Any, masks: DropoutMasks, inputs: jax.Array, dtype: Any) -> DropoutMasks:
    check_takes_masks(cell)
    if not isinstance(masks, DropoutMasks):
        raise ValueError(f"dropout_masks must be a DropoutMasks, got {type(masks).__name__}")
    batch_shape = inputs.shape[1:-1]
    sizes = {"input": inputs.shape[-1], "recurrent": cell.hidden_size}
    for name, size in sizes.items():
        mask = getattr(masks, name)
        shape = (cell.gates, *batch_shape, size)
        if mask is not None and jnp.shape(mask) != shape:
            raise ValueError(f"dropout_masks.{name} must have shape {shape}, got {jnp.shape(mask)}")
    return _cast(masks, dtype)
