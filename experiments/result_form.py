"""What the JSON files of a run must hold to be shown or used: those from elsewhere may hold anything."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxseq import arguments

_MAX_BYTES = 1 << 26
_LARGEST = 1e100  # of a number: its square is finite
_DEEPEST = 4  # lists in lists that a study's figure may hold
_MOST = 10_000_000  # of what is counted in an encoding, and of numbers in an input: memory is taken for so many

_NUMBER, _SIZE, _TEXT, _FLAG, _ANY = "a number", "a number of at least 0", "text", "true or false", "numbers or text"


class _Absent(NamedTuple):
    """A field that may be absent."""

    form: Any


class _Null(NamedTuple):
    """A field that may be null."""

    form: Any


# A form is one of the above, a list of one (things of that form), or a dict of fields, ... being any further names.
_FIGURE = {"mean": _NUMBER, "deviation": _Null(_SIZE), "seeds": [_NUMBER]}
_VARIANT = {
    "label": _Absent(_TEXT),
    "data": {"kind": _TEXT, "name": _TEXT, "files": [{"published": _FLAG}]},
    "notes": [_TEXT],
    "units": _Absent(_Null({"unit": _TEXT, "one": _NUMBER})),
    "parameters": {"total": _SIZE, "trainable": _Absent(_SIZE)},
    "seeds": [_NUMBER],
    "epochs": _SIZE,
    "training_seconds": _Absent(_SIZE),
    "history": _Absent([{"loss": [_NUMBER], ...: [_NUMBER]}]),
    "figures": {...: {...: _FIGURE}},
}
_RESULT = _VARIANT | {
    "name": _TEXT,
    "title": _Absent(_TEXT),
    "document": _Absent(_TEXT),
    "documented": _TEXT,
    "figure": _Absent(_Null({"quantity": _TEXT, "value": _NUMBER})),
    "smoke": _FLAG,
    "variants": _Absent([_VARIANT]),
    "study": _Absent({"figures": _Absent({...: _ANY}), "tables": _Absent({...: [[_ANY]]})}),
    "device": _Absent({"kind": _TEXT, "processor": _TEXT, "cores": _SIZE, "devices": _SIZE}),
    "versions": _Absent({...: _TEXT}),
    "seconds": _Absent(_SIZE),
    "date": _Absent(_TEXT),
}


def read(path: Path) -> dict[str, Any]:
    """Reads DIR/NAME/result.json.

    Raises:
      ValueError: it is not what `run` writes there, or names another experiment than its directory does, whose files
        would then be shown as its own.
      OSError: it cannot be read.
    """
    result = _load(path)
    _check(result, _RESULT, "the file")
    for variant in (result, *result.get("variants", ())):
        if variant.get("history") and "training_seconds" not in variant:
            raise ValueError("a history without 'training_seconds'")
    if result.get("figure") and " " not in result["figure"]["quantity"]:
        raise ValueError(f"the quantity {result['figure']['quantity']!r:.60}")
    if not all(all(table) and table for table in result.get("study", {}).get("tables", {}).values()):
        raise ValueError("an empty table")
    if result["name"] != path.absolute().parent.name:
        raise ValueError(f"the name {result['name']!r:.60}")
    return result


def read_encoding(path: Path) -> dict[str, Any]:
    """Reads how a new input is encoded: "input", the shape and dtype of each array, and what else a variant needs.

    Raises:
      ValueError: it is not what `run` writes, or would take memory without end.
      OSError: it cannot be read.
    """
    encoding = _load(path)
    _check(encoding, {"input": [[_ANY]], ...: _ANY}, "the file")
    for one in encoding["input"]:
        _require(len(one) == 2 and isinstance(one[0], list), "'input'", "of shapes and dtypes", one)
        _require(all(isinstance(size, int) and size >= 0 for size in one[0]), "'input'", "of shapes", one)
        _require(math.prod(one[0]) <= _MOST, "'input'", f"of at most {_MOST} numbers", one)
        arguments.numeric_dtype("'input'", one[1])
    _require(all(abs(size) <= _MOST for size in _integers(encoding)), "the file", f"of sizes up to {_MOST}", encoding)
    return encoding


def _load(path: Path) -> Any:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("lists within lists without end") from None


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _integers(one)
    elif isinstance(value, int):
        yield value


def _check(value: Any, form: Any, where: str) -> None:
    if isinstance(form, _Null):
        if value is not None:
            _check(value, form.form, where)
    elif isinstance(form, list):
        _require(isinstance(value, list), where, "a list", value)
        for one in value:
            _check(one, form[0], where)
    elif isinstance(form, dict):
        _require(isinstance(value, dict), where, "an object", value)
        for name in [*form, *(value if ... in form else ())]:
            of_field = form.get(name, form.get(...))
            if name in value:
                _check(value[name], of_field.form if isinstance(of_field, _Absent) else of_field, f"{name!r:.40}")
            elif name is not ...:
                _require(isinstance(of_field, _Absent), where, f"an object with {name!r}", list(value))
    elif form == _ANY:
        _check_any(value, where, 0)
    elif form in (_NUMBER, _SIZE):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(
            is_number and (-_LARGEST if form == _NUMBER else 0) <= value <= _LARGEST, where, f"finite, {form}", value
        )
    else:
        _require(isinstance(value, str if form == _TEXT else bool), where, form, value)


def _check_any(value: Any, where: str, depth: int) -> None:
    """Numbers, text, nothing, and lists and objects of them; an object with a mean is a figure."""
    _require(depth <= _DEEPEST, where, f"at most {_DEEPEST} lists in lists", value)
    if isinstance(value, dict) and "mean" in value:
        _check(value, _FIGURE, where)
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_any(one, where, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check(value, _NUMBER, where)


def _require(holds: bool, where: str, rule: str, value: Any) -> None:
    if not holds:
        raise ValueError(f"{where} must be {rule}, got {arguments.shown(value)}")
