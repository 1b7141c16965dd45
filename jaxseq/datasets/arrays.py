r"""Reads `.npz` files, object arrays included, without letting anything in them run.

An object array is stored as a pickle, and a pickle is a program. Ours may only say three things: NumPy
arrays, lists, numbers. Three walls, each enough against a bomb:

1. The stream is read op by op before it is run. Only ops that build lists, tuples, numbers, strings and calls
   are admitted, a bounded number of them, with bounded memo indices, and every global it names must be one of
   NumPy's three.
2. The globals are replaced by stand-ins which only record their arguments, so not even NumPy's own
   `dtype.__setstate__`, which trusts its caller with flags and sizes, sees what the file says.
3. What was recorded is checked: one dimension, known number types, lengths that fit, a bounded size.
"""

import io
import math
import pickle
import pickletools
import re
import reprlib
import warnings
from typing import Any, BinaryIO

import numpy as np

from jaxseq.datasets.archives import open_zip, zip_contents

_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
# Ops of fixed size, in one possessive run. The memo is an array as long as its largest index: hence a bound.
_FIXED_OPS = re.compile(
    rb"(?s:K.|M..|J....|G.{8}|[(e\]atl)\x85-\x87N\x88\x89Rb\x93\x94]|q.|h.|[rj]..[\x00-\x0f]\x00|\x95.{8}|\x80[\x02-\x04])*+"
)
# Ops followed by a length and so many bytes: op -> bytes of the length.
_COUNTED_OPS = {b"\x8a": 1, b"U": 1, b"C": 1, b"\x8c": 1, b"X": 4, b"B": 4, b"T": 4}
# A list's opening; a whole list of integers, its opening being group 1; what may stand between lists.
_LIST = re.compile(rb"(?s)\](?:q.|r....|\x94)?")
_ROW = re.compile(rb"(?s)(\](?:q.|r....|\x94)?)(?:\((?:K.|M..|J....|\x95.{8})*+e|(?:K.|M..|J....)a|\x95.{8})*+")
_MARKS = re.compile(rb"(?s)(?:[(ea]|\x95.{8})*+")
_OP_SIZES = np.ones(256, np.int64)
_OP_SIZES[[ord("K"), ord("M"), ord("J"), 0x95]] = 2, 3, 5, 9
_MAX_ROW = 1 << 16
_MAX_ROWS = 1 << 20
_MAX_OPS = 1 << 22  # bytes of ops, in what the unpickler runs: one byte can make an object of 64
_NUMBER_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
_MAX_BYTES = 1 << 28


class Ragged:
    """Rows of different lengths, in two arrays; `rows[i]` is a view.

    Args:
      values: all rows, one after another, [sum(lengths)].
      lengths: of each row, int64 [N].
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray):
        """Checks that the lengths add up."""
        if values.ndim != 1 or lengths.ndim != 1 or int(lengths.sum()) != len(values):
            raise ValueError(f"lengths must add up to {values.shape}, got {int(lengths.sum())}")
        self.values: np.ndarray = values
        self.lengths: np.ndarray = lengths.astype(np.int64)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def take(self, order: np.ndarray) -> "Ragged":
        """The rows `order` (int [M]) names, in that order."""
        starts = (np.cumsum(self.lengths) - self.lengths)[order]
        lengths = self.lengths[order]
        # Slices, not one index a value: that would take many times the memory of the values.
        slices = [self.values[at : at + length] for at, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
        return Ragged(np.concatenate([self.values[:0], *slices]), lengths)

    def rows(self) -> np.ndarray:
        """An object array [N] of one array a row: it can be sliced and permuted."""
        result = np.empty(len(self), object)
        ends = np.cumsum(self.lengths).tolist()
        start = 0
        for i, end in enumerate(ends):
            result[i] = self.values[start:end]
            start = end
        return result


def read_arrays(
    stream: BinaryIO, names: tuple[str, ...], *, title: str = "the file", max_bytes: int = _MAX_BYTES
) -> dict[str, np.ndarray | Ragged]:
    """Reads the named arrays of an `.npz`.

    Args:
      stream: the file.
      names: the arrays it must have; others are not touched.
      title: what error messages call the file.
      max_bytes: the size of all arrays together, uncompressed, and the memory rows of objects may take.
    Returns:
      a dict: a number array as a NumPy array; an object array, of lists or of arrays of integers, as Ragged,
        int32.
    Raises:
      ValueError: the file is damaged, too large, lacks a name, or holds anything but arrays, lists, numbers.
    """
    with open_zip(stream, title, ".npz") as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError(
                f"{title} must name each array once, got {len(archive.infolist())} of {len(members)} names"
            )
        missing = [name for name in names if name not in members]
        if missing:
            raise ValueError(f"{title} must have the arrays {', '.join(names)}, but lacks {', '.join(missing)}")
        declared = sum(members[name].file_size for name in names)
        if declared > max_bytes:
            raise ValueError(f"{title} must unpack to at most {max_bytes} bytes, but declares {declared}")
        return {
            name: _read_array(zip_contents(archive, members[name], title, max_bytes), f"{title}: {name}", max_bytes)
            for name in names
        }


def _read_array(contents: bytes, title: str, max_bytes: int) -> np.ndarray | Ragged:
    stream = io.BytesIO(contents)
    try:
        version = np.lib.format.read_magic(stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that Python 2 wrote the file
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            elif version == (2, 0):
                shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
            else:
                raise ValueError(f"version {version} is not known")
        if dtype != np.dtype(object):
            if dtype.kind not in "biuf":
                raise ValueError(f"it must hold numbers or objects, got {dtype}")
            if math.prod(shape) * dtype.itemsize > max_bytes:
                raise ValueError(f"its shape must fit {max_bytes} bytes, got {shape}")
            return np.lib.format.read_array(io.BytesIO(contents), allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python: whatever that raises, the file is to blame
        raise ValueError(f"{title} must be a NumPy array: {' '.join(str(error).split())}") from error
    try:
        return _read_objects(contents, stream.tell(), shape, max_bytes)
    except ValueError as error:
        raise ValueError(f"{title} must hold arrays, lists and numbers only: {error}") from error


class _StandIn:
    """In place of a global: may be named and called, nothing else. No attribute of it can be set."""

    __slots__ = ("_name",)
    _name: str

    def __init__(self, name: str):
        object.__setattr__(self, "_name", name)

    def __setattr__(self, name, value):
        raise ValueError(f"it tries to change {self._name}.{name}")

    def __setstate__(self, state):
        raise ValueError(f"it tries to change {self._name}")

    def __call__(self, *arguments):
        if self._name == "dtype":
            return _RecordedType(arguments)
        if self._name == "_reconstruct" and len(arguments) == 3:
            kind = arguments[0]
            if type(kind) is _StandIn and kind._name == "ndarray":
                return _RecordedArray()
        raise ValueError(f"it calls numpy.{self._name} as no array does")


class _Recorded:
    __slots__ = ("state",)
    state: tuple

    def __setstate__(self, state):
        # One attribute, once, of a known type: a pickle cannot build anything else here.
        if type(state) is not tuple or hasattr(self, "state"):
            raise ValueError("it rebuilds an array as no array does")
        self.state = state


class _RecordedArray(_Recorded):
    __slots__ = ()


class _RecordedType(_Recorded):
    __slots__ = ("arguments",)

    def __init__(self, arguments: tuple):
        self.arguments = arguments

    def dtype(self) -> np.dtype:
        code = self.arguments[0] if self.arguments else None
        state = getattr(self, "state", None)
        if code in ("O8", "O4", "O") and (
            state is None or state == (3, "|", None, None, None, -1, -1, 63) and type(state[1]) is str
        ):
            return np.dtype(object)
        if type(code) is str and code in _NUMBER_TYPES and state is not None and len(state) >= 8:
            # version, byte order, then what only structured types have, then size, alignment, flags.
            if state[0] == 3 and state[1] in ("<", ">", "|") and state[2:] == (None, None, None, -1, -1, 0):
                return np.dtype(code).newbyteorder(state[1])
        raise ValueError(f"it forges a dtype, {_short((code, state))}")


def _short(value: object) -> str:
    # repr() of tuples that name one another twice doubles at each level: reprlib stops.
    return reprlib.repr(value)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        _check_global(module, name)
        return _StandIn(name)

    def persistent_load(self, pid):
        raise ValueError("it names a persistent object")


def _check_global(module: str, name: str) -> None:
    if (module, name) not in _GLOBALS:
        raise ValueError(f"it names the global {_short(f'{module}.{name}')}")


def _op_name(code: str) -> str:
    return next((op.name for op in pickletools.opcodes if op.code == code), repr(code))


def _check_ops(stream: bytes, position: int, most: float = math.inf) -> int:
    """Raises unless every op is admitted, and `most` bytes of them at most; makes and calls nothing.

    Returns where the last run of ops of fixed size starts.
    """
    count = 0
    while True:
        run = position
        match = _FIXED_OPS.match(stream, position)
        position = match.end() if match else position
        count += position - run + 1
        if count > most:
            raise ValueError(f"its pickle has more than {most} bytes of ops")
        op = stream[position : position + 1]
        if op == b".":
            return run
        if op == b"c":
            end = stream.find(b"\n", stream.find(b"\n", position) + 1)
            names = stream[position + 1 : max(end, 0)].decode("latin-1").split("\n")
            _check_global(*names if len(names) == 2 else ("?", "?"))
            position = end + 1
        elif op in _COUNTED_OPS:
            width = _COUNTED_OPS[op]
            position += 1 + width + int.from_bytes(stream[position + 1 : position + 1 + width], "little")
            if position > len(stream):
                raise ValueError("its pickle is truncated")
        else:
            if not op:
                raise ValueError("its pickle is truncated")
            raise ValueError(f"its pickle uses the op {_op_name(op.decode('latin-1'))}")


def _read_objects(stream: bytes, begin: int, shape: tuple[int, ...], max_bytes: int) -> Ragged:
    position = _check_ops(stream, begin)
    rows = None
    opening = _LIST.match(stream, stream.find(b"]", position))
    if opening and _ROW.match(stream, _MARKS.match(stream, opening.end()).end()):  # type: ignore[union-attr]
        # Rows of integers, the bulk of the file: decoded in place, and cut out of what the unpickler sees.
        rows, end = _integer_rows(stream, opening.end())
        # The first frame's length would count what was cut out; a frame is only a hint to readers: it goes.
        header = stream[begin : opening.end()]
        header = header[:2] + header[11 if header[2:3] == b"\x95" else 2 :]
        stream, begin = header + stream[end:], 0
    # Again, of the very bytes that the unpickler gets: what looked like a list's opening may have been an op's operand.
    _check_ops(stream, begin, _MAX_OPS)
    try:
        # latin1 is how NumPy itself reads the byte strings that Python 2 wrote.
        recorded = _Unpickler(io.BytesIO(stream[begin:]), encoding="latin1").load()
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        TypeError,
    ) as e:
        raise ValueError(f"its pickle is damaged: {' '.join(str(e).split())[:80]}") from e
    items = _recorded_items(recorded, object)
    if rows is None:
        rows = _array_rows(items, max_bytes)
    elif items:
        raise ValueError("its rows must all be lists of integers")
    if not shape == recorded.state[1] == (len(rows),):
        raise ValueError(f"its header gives the shape {shape}, its pickle has {len(rows)} rows")
    return rows


def _integer_rows(stream: bytes, position: int) -> tuple[Ragged, int]:
    """Decodes lists of integers from `position` on; returns them, and where they end.

    All rows step from number to number side by side, so Python's loop is as long as the longest row.
    """
    starts, ends = [], []
    while True:
        position = _MARKS.match(stream, position).end()  # type: ignore[union-attr]
        row = _ROW.match(stream, position)
        if not row:
            break
        starts.append(row.end(1))
        ends.append(position := row.end())
        if len(starts) > _MAX_ROWS:
            raise ValueError(f"it must have at most {_MAX_ROWS} rows")
    op = stream[position : position + 1].decode("latin-1")
    if op not in "tN\x85\x86\x87":  # the ops that can follow an array's last row
        raise ValueError(
            "its rows must all be lists of integers of at most 32 bits, but one holds the op " + _op_name(op)
        )
    octets = np.frombuffer(stream, np.uint8)
    at, end = np.array(starts), np.array(ends)
    longest = int((end - at).max()) // 2
    if longest > _MAX_ROW:
        raise ValueError(f"a row must have at most {_MAX_ROW} numbers, got about {longest}")
    base = np.cumsum((end - at) // 2) - (end - at) // 2  # a number takes two bytes or more
    values = np.empty(int(((end - at) // 2).sum()), np.int32)
    counts = np.zeros(len(at), np.int64)
    row = np.arange(len(at))
    while True:
        alive = at < end[row]
        if not alive.all():
            row, at = row[alive], at[alive]
        if not len(row):
            break
        op = octets[at]
        size = _OP_SIZES[op]
        numbers = size % 8 > 1  # K 2, M 3, J 5; marks 1; frames 9
        for kind in (2, 3, 5):
            chosen = np.flatnonzero(size == kind)
            if len(chosen):
                where = at[chosen] + 1
                value = octets[where].astype(np.int32)
                for place in range(1, kind - 1):
                    value |= octets[where + place].astype(np.int32) << (8 * place)
                values[base[row[chosen]] + counts[row[chosen]]] = value
        counts[row] += numbers
        at = at + size
    used = 0
    for start, count in zip(base.tolist(), counts.tolist(), strict=True):  # close the gaps, in place
        values[used : used + count] = values[start : start + count]
        used += count
    return Ragged(values[:used], counts), position


def _array_rows(items: list, max_bytes: int) -> Ragged:
    """Rows that are arrays of integers themselves."""
    arrays, total = [], 0
    for item in items:
        if not isinstance(item, _RecordedArray):
            raise ValueError(
                "its rows must all be lists, or all be arrays, of integers of at most 32 bits,"
                f" but one is a {type(item).__name__.strip('_').lower()}"
            )
        values = _recorded_items(item, np.integer)
        # An array may be named many times: the rows may add up to far more than the file's bytes.
        total += len(values)
        if 4 * total > max_bytes:
            raise ValueError(f"its rows must fit {max_bytes} bytes")
        if len(values) and not (-(2**31) <= int(values.min()) and int(values.max()) < 2**31):
            raise ValueError("its integers must have at most 32 bits")
        arrays.append(values.astype(np.int32))
    lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
    return Ragged(np.concatenate([np.empty(0, np.int32), *arrays]), lengths)


def _recorded_items(recorded: object, kind: type) -> Any:
    """The items of a recorded 1-D array: for objects a list, of unchecked length, for numbers an array."""
    if not isinstance(recorded, _RecordedArray):
        raise ValueError(f"its pickle holds a {type(recorded).__name__}, not an array")
    state = getattr(recorded, "state", ())
    if len(state) != 5 or type(state[1]) is not tuple or not isinstance(state[2], _RecordedType):
        raise ValueError("it rebuilds an array as no array does")
    _, shape, recorded_type, _, items = state
    dtype = recorded_type.dtype()
    if len(shape) != 1 or type(shape[0]) is not int:
        raise ValueError(f"an array must have one dimension, got the shape {_short(shape)}")
    if not np.issubdtype(dtype, kind):
        raise ValueError(f"an array of {dtype} stands where {kind.__name__} should")
    if kind is object:
        if type(items) is not list:
            raise ValueError("an array of objects must have a list of them")
        return items
    if type(items) is str:
        items = items.encode("latin-1")
    if type(items) is not bytes or len(items) != shape[0] * dtype.itemsize:
        raise ValueError(f"an array of {dtype} and shape {_short(shape)} must have as many bytes")
    return np.frombuffer(items, dtype)
