"""What a cell's fields must be, how it prints, and how it is written down: one place for every cell."""

import dataclasses
import json
import numbers
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxseq.cells.activations import activation
from jaxseq.cells.initializers import initializer


def check_settings(cell: Any) -> None:
    """Checks a cell's fields by their names and replaces dtypes by their names; for `__post_init__`.

    Raises:
      ValueError: `hidden_size` is no positive integer, or an activation, initialiser or dtype is unknown.
    """
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if field.name == "hidden_size":
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"hidden_size must be an integer of at least 1, got {value!r}")
            object.__setattr__(cell, field.name, int(value))  # NumPy's too
        elif field.name.endswith("activation"):
            _name_the_field(field.name, activation, value)
        elif field.name.endswith("initializer"):
            _name_the_field(field.name, initializer, value)
        elif field.name.endswith("dtype") and not (field.name == "dtype" and value is None):
            object.__setattr__(cell, field.name, _float_name(field.name, value))


def _name_the_field(name: str, look_up: Any, value: Any) -> None:
    try:
        look_up(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None


def _float_name(name: str, dtype: Any) -> str:
    try:
        found = None if dtype is None else jnp.dtype(dtype)  # NumPy's dtype(None) is float64
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"{name} must be a floating-point dtype, got {dtype!r}")
    return found.name


def describe(self: Any) -> str:
    """Prints a cell with the fields that differ from their defaults: `LSTM(hidden_size=128)`."""
    changed = [
        f"{field.name}={getattr(self, field.name)!r}"
        for field in dataclasses.fields(self)
        if getattr(self, field.name) != field.default
    ]
    return f"{type(self).__name__}({', '.join(changed)})"


def to_json(cell: Any) -> str:
    """Writes a cell down: its class by name, its fields by value.

    Raises:
      ValueError: a field is a function (only named activations and initialisers can be written), or the cell
        is no dataclass.
    """
    if not dataclasses.is_dataclass(cell) or isinstance(cell, type):
        raise ValueError(f"cell must be an instance of a dataclass to be saved, got {cell!r}")
    fields = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    for name, value in fields.items():
        if dataclasses.is_dataclass(value):
            fields[name] = json.loads(to_json(value))
        elif callable(value):
            raise ValueError(
                f"{name} must be given by name to be saved, got the function {value!r}; "
                "functions have no name that another process could look up"
            )
    return json.dumps({"type": type(cell).__name__, **fields})


def from_json(text: str, cells: Iterable[type]) -> Any:
    """Reads back what `to_json` wrote, for the given cell classes.

    Raises:
      ValueError: the text names none of `cells`, or fields that its class does not have.
    """
    classes = {cell.__name__: cell for cell in cells}
    return _from_fields(json.loads(text), classes)


def _from_fields(fields: Any, classes: dict[str, type]) -> Any:
    if not isinstance(fields, dict):
        raise ValueError(f"a cell must be written as a JSON object, got {fields!r}")
    fields = dict(fields)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"type must be one of {sorted(classes)}, got {name!r}")
    nested = {key: _from_fields(value, classes) if isinstance(value, dict) else value for key, value in fields.items()}
    try:
        return classes[name](**nested)
    except TypeError as error:
        raise ValueError(f"{name} could not be read: {error}") from None
