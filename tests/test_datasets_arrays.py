"""The restricted reader of `.npz`: what it reads, and that nothing hostile runs, grows or crashes."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq.datasets.arrays import Ragged, read_arrays
from tests.examples import objects


def npz(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    stream.seek(0)
    return stream


def npy_of(pickled: bytes, shape="(1,)") -> bytes:
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + pickled


def npz_of(pickled: bytes, shape="(1,)", path=None):
    stream = path or io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_of(pickled, shape))
    if path:
        return path.open("rb")
    stream.seek(0)
    return stream


def rows_of(stream):
    result = read_arrays(stream, ("x",))["x"]
    assert isinstance(result, Ragged) and result.values.dtype == np.int32
    return [row.tolist() for row in result.rows()]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 1001, 2500])
@pytest.mark.parametrize("kind", [list, np.array])
def test_reads_rows(count, kind):
    rng = np.random.default_rng(count)
    rows = [rng.integers(-300, 100_000, [0, 1, 7, 1100][i % 4]).tolist() for i in range(count)]
    rows += [[-(2**31), 2**31 - 1, 0, 255, 256, 65535, 65536, -1]] * (count == 1)
    typed = [kind(row, np.int64) if kind is np.array else list(row) for row in rows]
    assert rows_of(npz(x=objects(typed))) == rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40), max_size=8), st.sampled_from([3, 4]))
def test_reads_any_rows_in_any_protocol(rows, protocol):
    pickled = pickle.dumps(objects([list(row) for row in rows]), protocol=protocol)
    assert rows_of(npz_of(pickled, f"({len(rows)},)")) == rows


def test_reads_what_python_2_wrote():
    # Protocol 2 with byte strings, as NumPy under Python 2 saved object arrays.
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
        b"(K\x01K\x02\x85q\x07cnumpy\ndtype\nq\x08U\x02O8q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01|q\x0cNNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK?tq\rb\x89]q\x0e(]q\x0f(K\x05M\x00\x01e]q\x10K\x07aetq\x11b."
    )
    assert rows_of(npz_of(pickled, "(2L,)")) == [[5, 256], [7]]


def test_number_arrays_and_other_members():
    arrays = read_arrays(npz(x=np.arange(5), y=np.ones((2, 3), np.float32), z=objects([{"not": "read"}])), ("x", "y"))
    assert set(arrays) == {"x", "y"}
    np.testing.assert_array_equal(arrays["x"], np.arange(5))
    assert arrays["y"].shape == (2, 3)


@pytest.mark.parametrize("version, is_known", [((1, 0), True), ((2, 0), True), ((3, 0), False)])
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_versions_of_the_format(version, is_known):
    stream, written = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(written, np.arange(3), version=version)
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", written.getvalue())
    if is_known:
        assert read_arrays(stream, ("x",))["x"].tolist() == [0, 1, 2]
    else:
        with pytest.raises(ValueError, match=r"version \(3, 0\) is not known"):
            read_arrays(stream, ("x",))


@pytest.mark.parametrize("count", [0, 2, 4, 2**40])
def test_arrays_of_more_or_fewer_bytes_than_they_say(count):
    honest = pickle.dumps(objects([np.array([7, 8, 9], "<i4")]), protocol=3)
    items = honest.index(b"\x07\x00\x00\x00")
    says = honest.rindex(b"K\x03\x85", 0, items)  # the shape, (3,)
    size = count.to_bytes(6, "little")
    forged = honest[:says] + b"\x8a\x06" + size + b"\x85" + honest[says + 3 :]
    with pytest.raises(ValueError, match=f"an array of int32 and shape .{count},. must have as many bytes"):
        rows_of(npz_of(forged))
    assert rows_of(npz_of(honest)) == [[7, 8, 9]]


def test_ragged_take():
    ragged = Ragged(np.arange(6), np.array([1, 0, 3, 2]))
    assert [row.tolist() for row in ragged.take(np.array([2, 1, 0])).rows()] == [[1, 2, 3], [], [0]]
    with pytest.raises(ValueError, match="lengths must add up"):
        Ragged(np.arange(6), np.array([1, 2]))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([[1, 2.5]], "lists of integers"),
        ([[1], "text"], "all be lists"),
        ([[2**40]], "32 bits"),
        ([[1, [2]]], "lists of integers"),
        ([(1, 2)], "one is a tuple"),
        ([{1: 2}], "EMPTY_DICT"),
        ([None], "one is a nonetype"),
        ([[True]], "lists of integers"),
        ([np.zeros(2)], "float64 stands where"),
        ([np.array([2**40])], "32 bits"),
        ([[1], np.array([1])], "all be lists"),
        ([np.array([1]), [1]], "all be lists"),
        ([np.zeros((1, 1), int)], "one dimension"),
        ([np.array([1, 2], ">i8").astype("M8[s]")], "forges a dtype|EMPTY_DICT"),  # NumPy 2.0 pickles it so
    ],
)
def test_other_contents_are_refused(rows, message):
    with pytest.raises(ValueError, match=f"x must hold arrays, lists and numbers only: .*{message}") as error:
        read_arrays(npz(x=objects(rows)), ("x",), title="bad.npz")
    assert "\n" not in str(error.value)


class Bomb:
    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["whole", "row", "number", "nested"])
@pytest.mark.parametrize("call", [os.system, eval, exec, getattr, __import__, os.remove])
def test_pickle_bombs_do_not_go_off(tmp_path, protocol, place, call):
    victim = tmp_path / "victim"
    victim.write_text("alive")
    argument = str(victim) if call is os.remove else f"__import__('os').remove({str(victim)!r})"
    bomb = Bomb(call, f"rm {victim}" if call is os.system else argument)
    content = {
        "whole": bomb,
        "row": objects([[1], bomb]),
        "number": objects([[1, bomb]]),
        "nested": objects([Bomb(np.array, [Bomb(list, (bomb,))])]),
    }[place]
    hostile = npz_of(pickle.dumps(content, protocol=protocol), "(2,)", path=tmp_path / "hostile.npz")
    with hostile, pytest.raises(ValueError, match="names the global|uses the op") as error:
        read_arrays(hostile, ("x",))
    assert victim.read_text() == "alive" and "\n" not in str(error.value)


def test_the_global_is_named():
    # `os.system` written under its short name, by hand: GLOBAL, and STACK_GLOBAL of a later protocol.
    for pickled in (
        b"\x80\x03cos\nsystem\n(X\x04\x00\x00\x00truetR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    ):
        with pytest.raises(ValueError, match="names the global 'os.system'"):
            read_arrays(npz_of(pickled), ("x",))


def array_state(dtype_state: bytes, code=b"O8", data=b"]K\x01a", shape=b"K\x01\x85") -> bytes:
    """An array's pickle with a dtype state, data and shape of our own making."""
    text = b"X" + struct.pack("<I", len(code)) + code
    return (
        b"\x80\x03cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\n" + text + b"\x89\x88\x87R" + dtype_state + b"\x89" + data + b"tb."
    )


GOOD_STATE = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"


@pytest.mark.parametrize(
    "pickled, message",
    [
        # flags that say "no objects inside": NumPy would take the bytes that follow for pointers
        (array_state(GOOD_STATE.replace(b"K?t", b"K\x00t"), data=b"C\x08AAAAAAAA"), "forges a dtype"),
        (array_state(GOOD_STATE.replace(b"K?t", b"K\x00t"), data=b"]]K\x01aa"), "forges a dtype"),
        (
            array_state(GOOD_STATE.replace(b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f"), data=b"]]K\x01aa"),
            "forges a dtype",
        ),
        (array_state(GOOD_STATE, code=b"V8", data=b"]]K\x01aa"), "forges a dtype"),
        (array_state(GOOD_STATE + GOOD_STATE, data=b"]]K\x01aa"), "no array does"),
        (array_state(GOOD_STATE, shape=b"J\xff\xff\xff\x7f\x85", data=b"]]K\x01aa"), "as many items|shape"),
        (array_state(GOOD_STATE, shape=b"J\xff\xff\xff\xff\x85", data=b"]]K\x01aa"), "as many items|shape"),
        (array_state(GOOD_STATE, shape=b"N", data=b"]]K\x01aa"), "no array does"),
        (array_state(GOOD_STATE, shape=b")", data=b"]]K\x01aa"), "one dimension"),
        # ndarray called directly: with a real one this allocates 2**62 bytes, or reads a buffer as pointers
        (b"\x80\x03cnumpy\nndarray\n\x8a\x08\x00\x00\x00\x00\x00\x00\x00@\x85\x85R.", "calls numpy.ndarray"),
        (b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.", "_reconstruct"),
        # a state set on the stand-ins themselves would outlive this file
        (b"\x80\x03cnumpy\ndtype\n(NX\x01\x00\x00\x00aK\x01dtb.", "uses the op DICT"),
        (b"\x80\x03cnumpy\ndtype\nK\x01b.", "tries to change dtype"),
        (b"\x80\x03cnumpy\nndarray\n.", "not an array"),
        (b"\x80\x03K\x01.", "not an array"),
        (b"\x80\x03K\x01Q.", "BINPERSID"),
        (b"\x80\x03]K\x01a.", ""),
        # sizes meant to make the reader allocate before it reads
        (b"\x80\x03r\xff\xff\xff\xff.", "LONG_BINPUT"),
        (b"\x80\x03X\xff\xff\xff\x7f.", "truncated"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", ""),
        (b"\x80\x03cnumpy", "names the global"),
        (b"\x80\x03", "truncated"),
        (b"", "truncated"),
        (b"\xff\xff", "uses the op"),
        (b"\x80\x03ah.", "truncated"),
        (b"\x80\x03a.", "damaged"),
        (b"\x80\x03" + b"(" * 200_000 + b"t" * 200_000 + b".", "not an array"),
    ],
)
def test_forged_pickles(pickled, message):
    with pytest.raises(ValueError, match=f"only: .*(?:{message})") as error:
        read_arrays(npz_of(pickled), ("x",))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_many_names_for_one_row_do_not_grow():
    one = np.zeros(1_000_000, np.int8)
    with pytest.raises(ValueError, match="must fit 100000000 bytes"):
        read_arrays(npz(x=objects([one] * 1_000)), ("x",), max_bytes=10**8)
    # Tuples that name one another twice: 2**60 items if anything ever prints or walks them.
    pickled = b"\x80\x03)" + b"".join(b"q\x00h\x00\x86" for _ in range(60)) + b"."
    with pytest.raises(ValueError, match="not an array"):
        read_arrays(npz_of(pickled), ("x",))


def test_row_limit():
    with pytest.raises(ValueError, match="at most 65536 numbers"):
        read_arrays(npz(x=objects([[1] * 70_000, [2]])), ("x",))


def test_header_and_pickle_must_agree():
    pickled = pickle.dumps(objects([[1], [2]]), protocol=3)
    with pytest.raises(ValueError, match="shape"):
        read_arrays(npz_of(pickled, "(3,)"), ("x",))
    with pytest.raises(ValueError, match="must be a NumPy array"):
        read_arrays(npz_of(pickled, "(__import__('os'),)"), ("x",))


def test_every_truncation_and_every_flipped_byte_is_a_value_error():
    contents = npy_of(pickle.dumps(objects([[1, 300, 70_000], [5], []]), protocol=3), "(3,)")

    def read(member: bytes):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("x.npy", member)
        stream.seek(0)
        return read_arrays(stream, ("x",))["x"]

    assert len(read(contents)) == 3
    for end in range(len(contents) - 1):
        with pytest.raises(ValueError):
            read(contents[:end])
    rng = np.random.default_rng(0)
    for position in range(len(contents)):
        for value in rng.integers(0, 256, 3).tolist():
            damaged = bytearray(contents)
            damaged[position] = value
            try:
                read(bytes(damaged))
            except ValueError as error:
                assert "\n" not in str(error)


def test_wrong_keys():
    with pytest.raises(ValueError, match="it.npz must have the arrays x, y, but lacks y"):
        read_arrays(npz(x=np.arange(3)), ("x", "y"), title="it.npz")


def test_truncated_zip(tmp_path):
    contents = npz(x=objects([[1, 2]] * 1)).getvalue()
    for end in (0, 10, len(contents) // 2, len(contents) - 1):
        path = tmp_path / "short.npz"
        path.write_bytes(contents[:end])
        with path.open("rb") as stream, pytest.raises(ValueError, match="must be a whole .npz file"):
            read_arrays(stream, ("x",))


def test_damaged_zip():
    contents = bytearray(npz(x=np.random.default_rng(0).integers(0, 9, 1000)).getvalue())
    contents[200] ^= 0xFF
    with pytest.raises(ValueError, match="must be a whole .npz file"):
        read_arrays(io.BytesIO(bytes(contents)), ("x",))


def test_zip_bomb(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w") as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    with (
        path.open("rb") as stream,
        pytest.raises(ValueError, match="must unpack to at most 1048576 bytes, but declares"),
    ):
        read_arrays(stream, ("x",), max_bytes=1 << 20)
    # The same, with a lie about its size in both headers: read no further than what was declared.
    contents = path.read_bytes().replace(struct.pack("<I", 64 << 20), struct.pack("<I", 1000))
    with pytest.raises(ValueError):
        read_arrays(io.BytesIO(contents), ("x",), max_bytes=1 << 20)


def test_a_header_that_declares_more_than_fits():
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    stream.seek(0)
    with pytest.raises(ValueError, match="must fit"):
        read_arrays(stream, ("x",))
