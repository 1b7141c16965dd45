"""What a cell's fields must be, how it prints, and how it is written down: one place for every cell."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from jaxseq import arguments
from jaxseq.cells.activations import activation
from jaxseq.cells.initializers import initializer


def check_settings(cell: Any) -> None:
    """Checks a cell's fields by their names and makes numbers and dtypes plain ones; for `__post_init__`.

    Raises:
      ValueError: `hidden_size` is no positive integer, a bias is no finite number, or an activation, initialiser or
        dtype is unknown.
    """
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if field.name == "hidden_size":
            object.__setattr__(cell, field.name, arguments.integer(field.name, value, at_least=1))
        elif field.name.endswith("activation"):
            _name_the_field(field.name, activation, value)
        elif field.name.endswith("initializer"):
            _name_the_field(field.name, initializer, value)
        elif field.name.endswith("dtype") and not (field.name == "dtype" and value is None):
            object.__setattr__(cell, field.name, arguments.float_dtype(field.name, value).name)
        elif field.name.endswith("bias"):
            object.__setattr__(cell, field.name, arguments.number(field.name, value, "a finite number"))


def _name_the_field(name: str, look_up: Any, value: Any) -> None:
    try:
        look_up(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None


def check_init(key: Any, input_size: Any) -> None:
    """Checks what every cell's `init` takes.

    Raises:
      ValueError: `key` is no random key, or `input_size` no positive integer.
    """
    arguments.key("key", key)
    arguments.integer("input_size", input_size, at_least=1)


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
    try:
        fields = json.loads(arguments.text("text", text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"text must be a cell's JSON, as of cell_to_json, got {arguments.shown(text)} ({error})"
        ) from None
    if not isinstance(fields, dict):
        raise ValueError(f"text must be written as a JSON object, got {arguments.shown(fields)}")
    return _from_fields(fields, classes)


def _from_fields(fields: dict[str, Any], classes: dict[str, type]) -> Any:
    fields = dict(fields)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"type must be one of {sorted(classes)}, got {name!r}")
    try:
        return classes[name](**{key: _from_value(value, classes) for key, value in fields.items()})
    except TypeError as error:
        raise ValueError(f"{name} could not be read: {error}") from None


def _from_value(value: Any, classes: dict[str, type]) -> Any:
    """A field's value: a cell within, or a tuple, which JSON does not know, since a list could not be hashed."""
    if isinstance(value, dict):
        return _from_fields(value, classes)
    return tuple(_from_value(one, classes) for one in value) if isinstance(value, list) else value
