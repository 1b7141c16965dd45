"""What a caller can get wrong: each check raises ValueError, one line that names the argument, the rule and the value.

  unroll must be an integer of at least 1, got 0

Only what is known before a program runs is looked at: types, shapes and dtypes, and values that are not traced.
Nothing here becomes part of a program, so that it costs nothing in compiled code.
"""

import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_CELL = ("init", "initial_state", "project", "step")  # the methods of `jaxseq.Cell`, which has `hidden_size` too
_LARGEST = 2**31 - 1  # a larger size or index JAX does not count


def shown(value: Any) -> str:
    """A value as an error tells it: on one line, an array by dtype and shape."""
    if isinstance(value, jax.Array | np.ndarray) and (value.ndim or isinstance(value, Tracer)):
        return f"{'a traced' if isinstance(value, Tracer) else 'an'} array {value.dtype} {value.shape}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer too long to print, an object whose own code fails
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _wrong(name: str, rule: str, value: Any) -> ValueError:
    return ValueError(f"{name} must be {rule}, got {shown(value)}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


def integer(name: str, value: Any, *, at_least: int = 0) -> int:
    """An integer that is known now, of NumPy's or JAX's too, as Python's; a bool is none."""
    try:
        found = None if _is_bool(value) else operator.index(value)
    except TypeError:
        found = None
    if found is None or found < at_least:
        raise _wrong(name, f"an integer of at least {at_least}", value)
    if found > _LARGEST:
        raise _wrong(name, f"an integer of at most {_LARGEST}", value)
    return found


def optional_integer(name: str, value: Any, *, at_least: int = 0) -> int | None:
    """As `integer`, or None."""
    return None if value is None else integer(name, value, at_least=at_least)


def number(name: str, value: Any, rule: str, within: Callable[[float], bool] = math.isfinite) -> float:
    """A number that is known now and `within` a range, of NumPy's or JAX's too, as Python's; a bool is none."""
    found = math.nan
    if not (_is_bool(value) or isinstance(value, str | bytes | Tracer)):
        try:
            found = math.nan if np.ndim(value) or np.iscomplexobj(value) else float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    if math.isnan(found) or not within(found):
        raise _wrong(name, rule, value)
    return found


def rate(name: str, value: Any) -> float:
    """A share to drop, in [0, 1)."""
    return number(name, value, "at least 0 and below 1", lambda found: 0 <= found < 1)


def flag(name: str, value: Any) -> bool:
    """True or False, NumPy's too, as Python's."""
    if not isinstance(value, bool | np.bool_):
        raise _wrong(name, "True or False", value)
    return bool(value)


def text(name: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise _wrong(name, "a string", value)
    return value


def one_of(name: str, value: Any, choices: Collection[Any], rule: str = "") -> None:
    """One of some strings (or None); `rule` where they are told in another way than as they stand there."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise _wrong(name, rule or f"one of {choices}", value)


def function(name: str, value: Any) -> None:
    """Something that can be called."""
    if not callable(value):
        raise _wrong(name, "a function", value)


def instance(name: str, value: Any, kind: type | tuple[type, ...], rule: str) -> None:
    """An object of a class."""
    if not isinstance(value, kind):
        raise _wrong(name, rule, value)


def with_methods(name: str, value: Any, methods: Iterable[str], rule: str) -> None:
    """An object, no class, that has some methods."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise _wrong(name, rule, value)


def cell(name: str, value: Any) -> None:
    """A cell, of the `jaxseq.Cell` protocol."""
    rule = f"a cell, an object with {', '.join(_CELL)} and hidden_size"
    with_methods(name, value, _CELL, rule)
    if not hasattr(value, "hidden_size"):
        raise _wrong(name, rule, value)


def model(name: str, value: Any) -> None:
    """A Flax Linen module."""
    with_methods(name, value, ("init", "apply"), "a model, a Flax Linen module")


def path(name: str, value: Any) -> Path:
    """A file's or directory's path."""
    if not isinstance(value, str | os.PathLike):
        raise _wrong(name, "a path", value)
    return Path(value)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """A shape: a tuple of integers of at least 0."""
    if not isinstance(value, tuple | list):
        raise _wrong(name, "a tuple of integers of at least 0", value)
    for size in value:
        try:
            integer(name, size)
        except ValueError:
            raise _wrong(name, "a tuple of integers of at least 0", value) from None
    return tuple(map(int, value))


def float_dtype(name: str, value: Any) -> jnp.dtype:
    """A floating-point dtype, or its name."""
    try:
        found = None if value is None else jnp.dtype(value)  # NumPy's dtype(None) is float64
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise _wrong(name, "a floating-point dtype", value)
    return found


def numeric_dtype(name: str, value: Any) -> np.dtype:
    """A dtype of numbers or booleans, or its name."""
    try:
        found = np.dtype(value)
    except TypeError:
        found = None
    if found is None or not _is_numeric(found):
        raise _wrong(name, "a numeric dtype", value)
    return found


def array(name: str, value: Any) -> jax.Array:
    """Numbers or booleans, traced too, as an array of JAX."""
    try:
        if not isinstance(value, str | bytes):
            return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _wrong(name, "an array of numbers", value)


def is_array(name: str, value: Any) -> None:
    """An array of numbers or booleans already, of NumPy or JAX, traced too."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and _is_numeric(value.dtype)):
        raise _wrong(name, "an array of numbers", value)


def host_array(name: str, value: Any, dtype: Any = None) -> np.ndarray:
    """Numbers or booleans, not traced, as an array of NumPy."""
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, OverflowError):  # traced, ragged
        raise _wrong(name, "an array of numbers", value) from None
    if not _is_numeric(found.dtype) or (dtype is not None and np.iscomplexobj(found)):
        raise _wrong(name, "an array of numbers", value)
    return found if dtype is None else found.astype(dtype, copy=False)


def _is_numeric(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)


def tokens(name: str, value: Any, vocabulary_size: int) -> None:
    """Token indices, int [B, T], and in the vocabulary where their values are known."""
    is_array(name, value)
    if value.ndim != 2 or not jnp.issubdtype(value.dtype, jnp.integer):
        raise ValueError(f"{name} must be token indices, int [B, T], got {value.dtype} {value.shape}")
    if isinstance(value, Tracer) or not value.size:
        return
    values = np.asarray(value)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= vocabulary_size:
        wrong = low if low < 0 else high
        raise ValueError(f"{name} must be token indices from 0 to {vocabulary_size - 1}, got {wrong}")


def key(name: str, value: Any) -> None:
    """A single random key, of `jax.random.key` or `jax.random.PRNGKey`."""
    dtype, ndim = getattr(value, "dtype", None), getattr(value, "ndim", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and ndim == 0
    if not typed and not (dtype == np.uint32 and ndim == 1):
        raise _wrong(name, "a random key, as of jax.random.key", value)


def mapping(name: str, value: Any, rule: str) -> None:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise _wrong(name, rule, value)


def leaf_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree's leaves by their names, which are the same for one kind of mapping and another."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
