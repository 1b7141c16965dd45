"""Files made to do harm, each a real one: nothing in them runs, reaches other files, or takes all memory.

What the single readers refuse stands with them, in test_datasets_*.py; here are attacks that go round a reader's rules,
and the files that a loader or a command meets: data sets, word indexes, weather, results, encodings, checkpoints.
"""

import copy
import copyreg
import gzip
import io
import itertools
import json
import os
import pickle
import pickletools
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_datasets_arrays import npy_of, npz, npz_of
from test_datasets_jena import make_csv
from test_experiments_report import NASTY, _Page, made

import benchmarks
import experiments
import jaxseq
from experiments import captions, claims, experiment, judging, result_form
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from jaxseq import checkpoints
from jaxseq.datasets import archives, arrays, files, fra_eng, glove, imdb, jena, reuters, sms, ud_ewt
from jaxseq.datasets.archives import gunzip, tar_members, zip_member
from jaxseq.datasets.arrays import read_arrays
from jaxseq.text import Tokenizer
from jaxseq.word_vectors import read_word_vectors
from tests.examples import objects


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty $JAXSEQ_DATA, no cache, no network."""
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAXSEQ_OFFLINE", "1")
    return tmp_path


def test_no_source_can_run_what_a_file_says():
    """No free unpickling, no evaluation, no shell, nothing extracted to disk, in any module of the three packages."""
    forbidden = re.compile(
        r"(?<![\w.])(?:eval|exec|__import__)\(|\b(?:extractall|unpack_archive|memmap|fromfile|[pP]open|import_module)\("
        r"|(?:allow_pickle|shell)=True|\b(?:np|torch|pickle|marshal)\.loads?\("
        r"|^ *(?:import|from) (?:pickle|marshal|shelve|dill|cloudpickle|subprocess)\b.*",
        re.MULTILINE,
    )
    packages = [Path(package.__file__).parent for package in (jaxseq, experiments, benchmarks)]  # wherever installed
    found = {
        (str(path.relative_to(package.parent)), match)
        for package in packages
        for path in package.glob("**/*.py")
        for match in forbidden.findall(path.read_text())
    }
    assert found == {
        ("jaxseq/datasets/arrays.py", "import pickle"),  # for a restricted unpickler
        ("benchmarks/peers/peer.py", "import_module("),  # of the source's own names, as below
        ("benchmarks/__main__.py", "import_module("),
    }


# Pickles


def refused(pickled: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"x must hold arrays, lists and numbers only: .*{message}") as error:
        read_arrays(npz_of(pickled), ("x",))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


ADMITTED = (
    "BINBYTES BINGET BININT BININT1 BININT2 BINFLOAT BINPUT BINSTRING BINUNICODE BUILD EMPTY_LIST EMPTY_TUPLE FRAME "
    "GLOBAL LIST LONG1 LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE NONE APPEND APPENDS PROTO REDUCE "
    "SHORT_BINBYTES SHORT_BINSTRING SHORT_BINUNICODE STACK_GLOBAL STOP TUPLE TUPLE1 TUPLE2 TUPLE3"
).split()


def test_only_these_ops_are_admitted():
    admitted = set()
    for op, operand in itertools.product(pickletools.opcodes, (b"\0", b"\2")):
        try:
            arrays._check_ops(b"\x80\x04" + op.code.encode("latin-1") + operand * 10 + b"." * 300, 0)
        except ValueError as error:
            if str(error) == f"its pickle uses the op {op.name}":
                continue
        admitted.add(op.name)
    assert admitted == set(ADMITTED)


def test_ops_hidden_behind_a_false_list_are_read_too():
    """The operand of one op looks like a list's opening: cut out as rows, it would shift what follows by some bytes."""
    for hidden in (b"}", b"0", b"2", b"I"):
        refused(b"\x80\x03J]]M?GaN12" + hidden + b"K\x01\x85.", "uses the op")
    refused(b"\x80\x03J]]M?GaN12r\xff\xff\xff(.", "uses the op LONG_BINPUT")  # a memo of 10 GB


@pytest.mark.parametrize(
    "module, name",
    [
        ("numpy", "ndarray.__class__.__base__.__subclasses__"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("numpy", "load"),
        ("numpy", ""),
        ("", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct.__self__"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy.core", "multiarray._reconstruct"),
        ("numpy ", "ndarray"),
        ("NUMPY", "ndarray"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("copyreg", "_reconstructor"),
        ("posix", "system"),
        ("jaxseq.datasets.arrays", "os"),
        ("jaxseq.datasets.arrays", "_StandIn"),
    ],
)
def test_no_other_name_and_no_chain_of_attributes(module, name):
    named, attribute = module.encode(), name.encode()
    stacked = b"\x8c" + bytes([len(named)]) + named + b"\x8c" + bytes([len(attribute)]) + attribute + b"\x93"
    refused(b"\x80\x02c" + named + b"\n" + attribute + b"\n.", "names the global")
    refused(b"\x80\x04" + stacked + b"\x85R.", "names the global")
    refused(b"\x80\x04(i" + named + b"\n" + attribute + b"\n.", "uses the op INST")


@pytest.mark.parametrize("op", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
def test_registered_extensions_are_not_reached(op):
    copyreg.add_extension("os", "system", 0xF0)
    try:
        refused(b"\x80\x02" + op + b"X\x04\x00\x00\x00true\x85R.", "uses the op EXT")
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.parametrize(
    "pickled, message",
    [
        # BUILD: attributes of what may be named, of what is recorded, of plain values
        (b"\x80\x02cnumpy\nndarray\n(X\x05\x00\x00\x00__doc__K\x01tb.", "truncated|tries to change|uses the op"),
        (b"\x80\x02]N(X\x01\x00\x00\x00aK\x01t\x86b.", "damaged|op"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R(K\x01tb(K\x02tb.", "no array does"),
        (b"\x80\x02K\x01K\x02b.", "damaged"),
        # REDUCE of what is no global, of a recorded dtype, of too much
        (b"\x80\x02K\x01)R.", "damaged|op"),
        (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R)R.", "damaged|op|EMPTY"),
        (b"\x80\x02cnumpy\nndarray\ncnumpy\nndarray\n\x85R.", "calls numpy.ndarray"),
        # a memo read before it is written, a stack that is empty, two stops
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02..", "damaged"),
        (b"cos\nsystem\n(S'true'\ntR.", "names the global"),
    ],
)
def test_ops_where_they_do_not_belong(pickled, message):
    refused(pickled, message)


def test_a_pickle_that_would_make_millions_of_objects(monkeypatch):
    """A byte makes one of 64 bytes: as many as the largest honest file has bytes would take 16 GB."""
    monkeypatch.setattr(arrays, "_MAX_OPS", 1000)
    monkeypatch.setattr(arrays, "_MAX_ROWS", 1000)
    refused(b"\x80\x02(" + b")" * 1000 + b"t.", "more than 1000 bytes of ops")
    refused(b"\x80\x02(" + b"X\0\0\0\0" * 1000 + b"t.", "more than 1000 bytes of ops")
    refused(b"\x80\x02](" + b"]" * 1002 + b"et.", "at most 1000 rows")


@pytest.mark.parametrize(
    "descr", ["'|S0'", "'|V0'", "'<U7'", "[('a', '<i8'), ('b', '|O')]", "'<M8[s]'", "('<i8', (9,))"]
)
def test_arrays_of_anything_but_numbers(descr):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (10000000000,), }}\n".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError, match="x must be a NumPy array: it must hold numbers or objects"):
        read_arrays(io.BytesIO(stream.getvalue()), ("x",))


class Bomb:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.remove, (str(self.victim),)


def hostile_npz(victim, form: str) -> bytes:
    """A file named like an honest one that holds a bomb."""
    bomb, stream = pickle.dumps(Bomb(victim)), io.BytesIO()
    if form == "a bare pickle":
        return bomb
    if form == "a bare object array":
        return npy_of(bomb)
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("x", "y", "x_train", "y_train", "x_test", "y_test"):
            if form == "a pickle for an array":
                archive.writestr(f"{name}.npy", bomb)
            elif form == "a pickle without a name's end":
                archive.writestr(name, bomb)
            elif form == "an archive for an array":
                archive.writestr(f"{name}.npy", npz(x=objects([Bomb(victim)])).getvalue())
            else:
                archive.writestr(f"{name}.npy", npy_of(bomb))
    return stream.getvalue()


@pytest.mark.parametrize(
    "form",
    [
        "objects",
        "a bare pickle",
        "a bare object array",
        "a pickle for an array",
        "a pickle without a name's end",
        "an archive for an array",
    ],
)
@pytest.mark.parametrize("name, load", [("imdb.npz", imdb.load), ("reuters.npz", reuters.load)])
def test_a_data_set_that_is_a_bomb(directory, tmp_path, name, load, form):
    victim = tmp_path / "victim"
    victim.write_text("alive")
    (directory / name).write_bytes(hostile_npz(victim, form))
    with pytest.raises(ValueError, match=f"{name}"):
        load()
    assert victim.read_text() == "alive"


def test_the_command_line_tells_a_bomb_in_one_line(directory, tmp_path, capsys):
    victim = tmp_path / "victim"
    victim.write_text("alive")
    (directory / "reuters.npz").write_bytes(hostile_npz(victim, "objects"))
    (directory / "reuters_word_index.json").write_text('{"the": 1}')
    assert main(["run", "reuters_lstm", "--data", "real", "--out", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ") and "names the global" in line and victim.read_text() == "alive"


# Archives


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT, **settings) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=form, compresslevel=1, **settings) as archive:
        for info, contents in members:
            archive.addfile(info, io.BytesIO(contents))
    return io.BytesIO(stream.getvalue())


def entry(name: str, length: int = 0, kind: bytes = tarfile.REGTYPE, **fields: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = length, kind, fields
    return info


def tar_read(stream) -> dict[str, bytes]:
    return dict(tar_members(stream, lambda name: name.endswith(".txt"), title="it.tar.gz"))


def raw_tar(*blocks: bytes) -> io.BytesIO:
    return io.BytesIO(gzip.compress(b"".join(blocks) + bytes(1024), 1))


def header(info: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    return info.tobuf(form)


def resized(block: bytes, field: bytes) -> bytes:
    """A header with another size, its checksum put right."""
    block = block[:124] + field + block[136:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def test_tar_members_that_are_larger_than_what_they_take():
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.txt"}
    holes = b"1\n9999999\n0\n".ljust(512, b"\0")
    bomb = entry("a.txt", len(holes), **sparse, **{"GNU.sparse.realsize": "60000000"})
    with pytest.raises(ValueError, match="'a.txt' is a special file"):
        tar_read(tar_of((bomb, holes)))
    old = bytearray(header(entry("a.txt", 0, tarfile.GNUTYPE_SPARSE)))
    old[483:495] = b"00345450000\0"  # the real size, of which nothing is stored
    with pytest.raises(ValueError, match="'a.txt' is a special file"):
        tar_read(raw_tar(resized(bytes(old), b"00000000000\0")))


@pytest.mark.parametrize("field", [b"\xff" * 12, b"\xff" * 10 + b"\xfe\x00", b"-0000001000\0"])
def test_tar_members_of_negative_size(field):
    with pytest.raises(ValueError, match="it.tar.gz must"):
        tar_read(raw_tar(resized(header(entry("a.txt", 3)), field), b"abc".ljust(512, b"\0")))


def test_a_negative_size_does_not_end_an_archive():
    """Where it leads back to the start, tarfile takes the archive for read."""
    back = resized(header(entry("a.bin")), b"\xff" * 10 + b"\xfe\x00")
    with pytest.raises(ValueError, match="'a.bin' is a special file|is damaged: invalid offset"):  # since Python 3.13
        tar_read(raw_tar(back, header(entry("b.txt"))))


@pytest.mark.parametrize("size", ["-1", "-512", "-1536", "99999999999999999999", "9" * 5000])
def test_tar_members_whose_size_stands_in_a_second_header(size):
    with pytest.raises(ValueError, match="it.tar.gz"):
        tar_read(tar_of((entry("a.txt", 3, size=size), b"abc"), (entry("b.txt", 3), b"abc")))


def test_tar_headers_that_would_grow():
    for name in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
        long = header(entry("x", 1 << 20, name))
        with pytest.raises(ValueError, match="a header of 1048576 bytes"):
            tar_read(raw_tar(long, bytes(1 << 20), header(entry("a.txt"))))
    fields = {f"k{number}": "v" for number in range(100)}
    with pytest.raises(ValueError, match="a header for the whole archive"):
        tar_read(tar_of((entry("a.txt"), b""), pax_headers=fields))
    chain = header(entry("x", 5, tarfile.GNUTYPE_LONGNAME)) + b"name\0".ljust(512, b"\0")
    with pytest.raises(ValueError, match="must be a whole .tar.gz"):
        tar_read(raw_tar(*[chain] * 5000, header(entry("a.txt"))))
    # An honest long name, in either form, stays readable.
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = "d/" * 150 + "ü.txt"
        assert tar_read(tar_of((entry(name, 1), b"x"), form=form)) == {name: b"x"}


def test_many_tar_members_take_no_memory_and_are_limited(monkeypatch):
    peaks = []
    for count in (10, 10, 1000):  # the first imports what it needs
        stream = tar_of(*((entry(f"{number}.bin"), b"") for number in range(count)))
        tracemalloc.start()
        assert tar_read(stream) == {}
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + (1 << 17)  # tarfile's own list of them would be six times that
    monkeypatch.setattr(archives, "_MAX_TAR_MEMBERS", 999)
    stream.seek(0)
    with pytest.raises(ValueError, match="at most 999 files and directories"):
        tar_read(stream)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.BLKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_data_set_with_links_devices_or_paths_outside(directory, kind):
    path = directory / "aclImdb_v1.tar.gz"
    review = (entry("aclImdb/train/pos/1.txt", 2), b"ok")
    path.write_bytes(tar_of(review, (entry("aclImdb/train/neg/1.txt", 0, kind, linkpath="/etc/passwd"), b"")).read())
    with pytest.raises(ValueError, match="must hold files and directories only"):
        imdb.load_texts()
    for name in (
        "../../evil.txt",
        "/tmp/evil.txt",
        "aclImdb\\..\\..\\evil.txt",
        "C:/evil.txt",
        "aclImdb/train/pos/../../../x.txt",
    ):
        path.write_bytes(tar_of(review, (entry(name, 4), b"evil")).read())
        with pytest.raises(ValueError, match="must hold paths inside the archive only"):
            imdb.load_texts()
        path.write_bytes(tar_of(review, (entry("a.txt", 4, path=name), b"evil")).read())  # the name in a second header
        with pytest.raises(ValueError, match="must hold paths inside the archive only"):
            imdb.load_texts()
    assert sorted(one.name for one in directory.iterdir()) == ["aclImdb_v1.tar.gz"]


def test_an_array_that_is_there_twice():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"")
        archive.writestr("x", b"")
    with pytest.raises(ValueError, match="must name each array once"):
        read_arrays(stream, ("x",))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(method):
    """LZMA takes as much memory as a file asks for."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x.npy", b"hello")
    for read in (lambda: zip_member(stream, "x.npy"), lambda: read_arrays(stream, ("x",))):
        stream.seek(0)
        with pytest.raises(ValueError, match="'x.npy' must be stored or deflated"):
            read()


def test_a_zip_of_many_files():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"")
    contents = stream.getvalue()
    begin, end = contents.index(b"PK\x01\x02"), contents.index(b"PK\x05\x06")
    entries = contents[begin:end] * 10_001
    tail = contents[end:-10] + struct.pack("<II", len(entries), begin) + b"\0\0"  # its count still says one
    hostile = io.BytesIO(contents[:begin] + entries + tail)
    for read in (lambda: zip_member(hostile, "x.npy"), lambda: read_arrays(hostile, ("x",))):
        hostile.seek(0)
        with pytest.raises(ValueError, match="must hold at most 10000 files, got 10001"):
            read()
    honest = io.BytesIO()
    with zipfile.ZipFile(honest, "w") as archive:
        for number in range(10_000):
            archive.writestr(f"{number}", b"")
    assert zip_member(io.BytesIO(honest.getvalue()), "9999") == b""


def test_zip_sizes_that_lie():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(1 << 20))
    contents = stream.getvalue()
    true = struct.pack("<I", 1 << 20)
    for lie in (10, (1 << 20) - 1, (1 << 20) + 1, 1 << 29):
        hostile = contents.replace(true, struct.pack("<I", lie))
        tracemalloc.start()
        with pytest.raises(ValueError, match="z must be a whole .zip|declared size"):
            zip_member(io.BytesIO(hostile), "a.txt", title="z")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
        with pytest.raises(ValueError, match="z"):
            zip_member(io.BytesIO(hostile), "a.txt", title="z", max_bytes=5)


def test_an_archive_in_an_archive_stays_packed():
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(1 << 22))
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", inner.getvalue())
    outer.seek(0)
    assert zip_member(outer, "a.txt", max_bytes=len(inner.getvalue())) == inner.getvalue()
    twice = gzip.compress(gzip.compress(bytes(1 << 22)))
    assert gunzip(twice, title="t", max_bytes=10_000) == gzip.decompress(twice)


def test_damage_to_a_zip_is_named(tmp_path):
    """Bytes changed, cut off at either end: the contents, or one line that names the file."""
    stream, rng = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"hello" * 30)
        archive.writestr("ü.txt", b"x")
    contents = np.frombuffer(stream.getvalue(), np.uint8)
    for _ in range(2000):
        damaged = contents.copy()
        damaged[rng.integers(len(damaged), size=2)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)], 2)
        damaged = damaged[rng.integers(len(damaged)) * (rng.random() < 0.1) :]
        try:
            assert zip_member(io.BytesIO(damaged.tobytes()), "a.txt", title="z") == b"hello" * 30
        except ValueError as error:
            assert str(error).startswith("z")


def test_a_packed_line_without_end(tmp_path):
    path = tmp_path / "vectors.txt"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for _ in range(64):
            stream.write(b"word " + b"1" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="vectors.txt, line 1: must have fewer than 1048576 bytes"):
        read_word_vectors(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "name, load",
    [
        ("fra.txt", fra_eng.load),
        ("SMSSpamCollection", sms.load),
        ("glove.6B.50d.txt", lambda: glove.load(50)),
        ("en_ewt-ud-train.conllu", ud_ewt.load),
        ("mpi_roof.csv", lambda: jena.read_csv(jena.read_contents(Path(os.environ["JAXSEQ_DATA"]) / "mpi_roof.csv"))),
        ("imdb_word_index.json", imdb.word_index),
    ],
)
@pytest.mark.parametrize(
    "contents",
    [b"", b"\0" * 999, b"\x1f\x8b", gzip.compress(b"x" * 99, mtime=0)[:-1], "ham\tx".encode("utf-16"), b"\xff\xfe"],
)
def test_text_files_that_are_none(directory, name, load, contents):
    for gone in ("en_ewt-ud-train.conllu", "en_ewt-ud-dev.conllu", "en_ewt-ud-test.conllu"):
        (directory / gone).write_bytes(contents)
    (directory / name).write_bytes(contents)
    with pytest.raises(ValueError) as error:
        load()
    assert "\n" not in str(error.value)


# The bytes that are verified are the bytes that are read


@pytest.mark.parametrize("size", [10, 100])
def test_what_changes_after_it_was_verified_is_not_read(directory, monkeypatch, size):
    monkeypatch.setattr(files, "_SPOOLED", 50)  # the copy in memory, and on the disk
    path = directory / "file.bin"
    path.write_bytes(b"a" * size)
    found = files.find(files.DataFile("file.bin"))
    with found.open() as stream:
        path.write_bytes(b"b" * size)
        assert stream.read() == b"a" * size
    with pytest.raises(ValueError, match="must not change while it is read"):
        found.open()


def test_no_loader_reads_a_file_that_was_changed_behind_it(directory, monkeypatch):
    """Exchanged between `find`, which verifies, and the reader: a loader that opened the path itself would read it."""
    honest = npz(x=objects([[1]]), y=[0], x_train=objects([[1]]), y_train=[0], x_test=objects([[1]]), y_test=[1])
    with zipfile.ZipFile(directory / "fra-eng.zip", "w") as archive:
        archive.writestr("fra.txt", "Go.\tVa !")
    with zipfile.ZipFile(directory / "glove.6B.zip", "w") as archive:
        archive.writestr("glove.6B.50d.txt", "the" + " 1" * 50)
    (directory / "imdb.npz").write_bytes(honest.getvalue())
    (directory / "reuters.npz").write_bytes(honest.getvalue())
    (directory / "SMSSpamCollection").write_text("ham\tx")
    (directory / "imdb_word_index.json").write_text('{"the": 1}')
    row = (entry(f"aclImdb/{part}/{label}/1.txt", 1) for part in ("train", "test") for label in ("pos", "neg"))
    (directory / "aclImdb_v1.tar.gz").write_bytes(tar_of(*((one, b"x") for one in row)).read())
    loaders = {
        fra_eng: [fra_eng.load],
        glove: [lambda: glove.load(50)],
        imdb: [imdb.load, imdb.load_texts, imdb.word_index],
        reuters: [reuters.load],
        sms: [sms.load],
    }
    for load in itertools.chain(*loaders.values()):
        load()

    def exchanged(file, **options):
        found = files.find(file, **options)
        found.path.write_bytes(found.path.read_bytes() + b"\n")
        return found

    for module, loads in loaders.items():
        monkeypatch.setattr(module, "find", exchanged)
        for load in loads:
            with pytest.raises(ValueError, match="must not change while it is read"):
                load()


# Word indexes, weather


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 10000000000}', "ranks from 1 to 10000000"),  # a vocabulary of so many places
        ('{"a": 0}', "ranks from 1"),
        ('{"a": -5}', "ranks from 1"),
        ('{"a": ' + "9" * 5000 + "}", "must be JSON"),
        ('{"a": ' + "9" * 400 + "}", "ranks from 1"),
        ('{"a": NaN}', "whole numbers"),
        ('{"a": 1e400}', "whole numbers"),
        ('{"a": {"b": 1}}', "whole numbers"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "must be (a )?JSON"),  # Python 3.13 reads it
        ('{"__class__": "os.system"}', "whole numbers"),
    ],
)
def test_word_indexes(directory, text, message):
    (directory / "imdb_word_index.json").write_text(text)
    with pytest.raises(ValueError, match=f"imdb_word_index.json must .*{message}|{message}") as error:
        imdb.word_index()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("01.01.2020 00:30:00", "2020-01-01T00:00Z  ", "line 4 must start with a date"),
        ("01.01.2020 00:30:00", "2020-01-01 00:00+01", "line 4 must start with a date"),
        ("01.01.2020 00:30:00", "-020-01-01 00:00:00", "line 4 must start with a date"),
        ("01.01.2020 00:30:00", "30.02.2020 00:30:00", "line 4 must start with a date"),
        ("01.01.2020 00:30:00", "\u0660\u0661.01.2020 00:30:00", "must have|line 4 must start with a date"),
        ("T (degC)", "p (mbar)", "lacks T"),
        ("wd (deg)", "wd (deg),T (degC)", "must have each of the 14 columns once, got T"),
        ("5.01", "1e39", "finite readings of float32, got 1e\\+39"),
        ("5.01", "-1e400", "finite readings"),
        ("5.01", "0x10", "a number in every field"),
        ("5.01", "5\x000", "a number in every field|fields"),
        ("5.01", '"5.0"', "a number in every field"),
        ("5.01", "", "a number in every field"),
        ("\n", "\r", "lacks wd|must have rows"),
    ],
)
def test_weather(old, new, message):
    values = np.full((9, 14), 5.0)
    values[3, 3] = 5.01
    text = make_csv(values, newline="\n").decode()
    assert old in text
    with pytest.raises(ValueError, match=f"^it.csv .*(?:{message})") as error:
        jena.read_csv(text.replace(old, new).encode(), "it.csv")
    assert "\n" not in str(error.value)


# Results


def written(tmp_path, result: dict, name: str | None = None) -> Path:
    """DIR with a result in it."""
    path = tmp_path / "runs" / (name or result["name"]) / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return tmp_path / "runs"


def full_result() -> dict:
    """A result with every field there is."""
    study = {"figures": {"counted": "9 of 10", "share of x": {"mean": 0.5, "deviation": 0.1, "seeds": [1, 2]}}}
    study["tables"] = {"words": [["word", "n"], ["x", 1.5], ["y", None]]}
    more = {
        "units": {"unit": "°C", "one": 2.0},
        "device": {"kind": "cpu", "platform": "cpu", "processor": "p", "cores": 2, "devices": 1},
        "versions": {"jax": "0.10"},
        "date": "2026-11-21",
        "study": study,
        "notes": ["a note"],
    }
    result = made("imdb_lstm", epochs=10, **copy.deepcopy(more))
    return result | {"variants": [made("imdb_lstm", **copy.deepcopy(more)) | {"label": "control"}]}


def leaves(value, path=()):
    """Every place in a tree, inner ones too."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from leaves(value[key], (*path, key))


def replaced(tree, path, value):
    """The tree with another value in one place; without it where the value is `...`."""
    tree = copy.deepcopy(tree)
    at = tree
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return tree


def test_whatever_a_result_holds_the_report_is_shown_or_says_why_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "CLAIMS", [claim for claim in claims.CLAIMS if "imdb_lstm" in claim.tests])
    honest = full_result()
    odd = [
        ...,
        None,
        True,
        -1,
        0,
        1e308,
        10**400,
        float("nan"),
        "",
        NASTY,
        [],
        [[]],
        {},
        {"mean": 1},
        [1e99] * 3,
        "a b",
    ]
    shown, turn = 0, itertools.cycle(odd)
    commands = itertools.cycle([["--html", str(tmp_path / "page.html")], ["--html", str(tmp_path / "page.html")], []])
    for path in list(leaves(honest))[1:]:
        for value in itertools.islice(turn, 2):
            directory = written(tmp_path, replaced(honest, path, value), "imdb_lstm")
            code, said = main(["report", str(directory), *next(commands)]), capsys.readouterr()
            assert code in (0, 2), (path, value)
            assert (code == 2) == said.err.startswith("error: "), (path, value, said.err)
            assert len(said.err.splitlines()) <= 1
            shown += code == 0
    assert 50 < shown < 500  # a value of the right form is shown


@pytest.mark.parametrize("run", [{"val_loss": [0.0]}, {"val_loss": []}, {}, {"val_loss": ["a"]}])
def test_a_history_that_decides_nothing(run):
    """Divided by zero, missing, of another kind: the claim is not testable, and the report goes on."""
    found = {"a": made("a", history=[{"loss": [0.5]} | run])}
    assert judging.apply(judging.at_most(judging.rise("a"), 1), found).verdict == judging.NOT_TESTABLE


def test_lists_in_lists_are_not_walked_without_end(tmp_path, capsys):
    deep: list = []
    for _ in range(300):
        deep = [deep]
    directory = written(tmp_path, made("imdb_lstm", study={"figures": {"deep": deep}}))
    assert main(["report", str(directory)]) == 2
    assert "at most 4 lists in lists" in capsys.readouterr().err


def test_every_text_of_a_result_is_escaped(tmp_path, capsys):
    honest = full_result()
    names = {"imdb_lstm", "real", "best val_accuracy"}
    changed = copy.deepcopy(honest)
    for path in leaves(honest):
        at = honest
        for key in path:
            at = at[key]
        if isinstance(at, str) and at not in names:
            changed = replaced(changed, path, NASTY + "\x1b]0;owned\x07\x9b31m\u202e</script><style>")
    for place in ("figures", "tables"):
        changed["study"][place] = {f"{name} {NASTY}": value for name, value in changed["study"][place].items()}
    changed["figures"]["best"][NASTY] = changed["figures"]["best"]["val_accuracy"]
    changed["versions"] = {NASTY: NASTY}
    directory = written(tmp_path, changed)
    assert main(["report", str(directory), "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    read = _Page(page)
    assert not {"script", "b"} & {tag for tag, _ in read.elements if tag != "b"} and "<script" not in page
    assert sum(tag == "style" for tag, _ in read.elements) == 1 and not any(
        "on" == name[:2] for _, at in read.elements for name in at
    )
    assert read.text.count("alert(1)") > 20
    assert main(["report", str(directory)]) == 0
    for text in (page, capsys.readouterr().out):
        assert not any(one < " " and one not in "\n\t" or "\x7f" <= one < "\xa0" for one in text)


@pytest.mark.parametrize("name", ["../secret", "../../secret", "/", "a/b", "imdb_gru", "", "..\\secret", "\x00"])
def test_a_name_leads_to_no_other_directory(tmp_path, name, capsys):
    """A page shows the pictures of DIR/NAME: with a name of its own, a result would show another directory's."""
    (tmp_path / "secret").mkdir()
    picture = b"\x89PNG\r\n\x1a\n" + bytes(30)
    (tmp_path / "secret" / "private.png").write_bytes(picture)
    directory = written(tmp_path, made(name), "imdb_lstm")
    assert main(["report", str(directory), "--html", str(tmp_path / "page.html")]) == 2
    assert "the name" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    written(tmp_path, made("imdb_lstm"))
    (directory / "imdb_lstm" / "curves.png").symlink_to(tmp_path / "secret" / "private.png")
    assert main(["report", str(directory), "--html", str(tmp_path / "page.html")]) == 0
    assert "data:image" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    "contents",
    [b"", b"[" * 100_000, b"{" * 100_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff", b"null", b"1e999", b"[]"],
)
def test_results_that_are_none(tmp_path, contents, capsys):
    directory = written(tmp_path, made("imdb_lstm"))
    (directory / "imdb_lstm" / "result.json").write_bytes(contents)
    for command in (["report", str(directory)], ["run", "imdb_lstm", "--out", str(directory)]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and "must be a result written by `run`" in line


def test_a_result_of_any_size_is_not_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(result_form, "_MAX_BYTES", 500)
    assert main(["report", str(written(tmp_path, made("imdb_lstm")))]) == 2
    assert "more than 500 bytes" in capsys.readouterr().err


# What was trained elsewhere


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"words": [], "input": [[[2147483647], "int32"]]}', "'input' must be of at most 10000000 numbers"),
        ('{"words": [], "input": [[[9999, 9999, 9999], "int32"]]}', "'input' must be of at most 10000000 numbers"),
        ('{"words": [], "maxlen": 2000000000, "input": [[[5], "int32"]]}', "sizes up to 10000000"),
        ('{"words": [], "windows": {"lookback": -1000000000}, "input": [[[5], "int32"]]}', "sizes up to 10000000"),
        ('{"words": [], "input": [[[-5], "int32"]]}', "'input' must be of shapes"),
        ('{"words": [], "input": [[["5"], "int32"]]}', "'input' must be of shapes"),
        ('{"words": [], "input": [[[5], "O"]]}', "a numeric dtype"),
        ('{"words": [], "input": [[[5], ["int32", "O"]]]}', "a numeric dtype"),
        ('{"words": [], "input": [[[5]]]}', "'input' must be of shapes and dtypes"),
        ('{"words": [], "input": {}}', "'input' must be a list"),
        ('{"words": []}', "an object with 'input'"),
        ('{"mean": [NaN], "input": [[[5], "int32"]]}', "finite"),
        ("[" * 100_000, "lists within lists"),
        ('{"a":' * 500 + "1" + "}" * 500, "object with 'input'|lists in lists"),
        ("[]", "must be an object"),
    ],
)
def test_encodings(tmp_path, text, message, capsys):
    one = EXPERIMENTS["imdb_lstm"]
    place = experiment.checkpoints_of(tmp_path / one.name, one.variants[0])
    place.mkdir(parents=True)
    (place / experiment.ENCODING).write_text(text)
    assert main(["predict", one.name, "--from", str(tmp_path), "a film"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --from must hold a trained imdb_lstm, got ")
    with pytest.raises(ValueError, match=message):
        result_form.read_encoding(place / experiment.ENCODING)


@pytest.mark.parametrize("name", [one.name for one in EXPERIMENTS.values() if one.predict is not None])
@pytest.mark.parametrize(
    "encoding", [{}, {"words": 5, "english": [], "windows": [], "maxlen": "5"}, {"words": [["a"]], "windows": {}}]
)
def test_encodings_of_another_program(tmp_path, monkeypatch, name, encoding, capsys):
    one = EXPERIMENTS[name]
    place = experiment.checkpoints_of(tmp_path / name, one.variants[0])
    place.mkdir(parents=True)
    (place / experiment.ENCODING).write_text(json.dumps(encoding | {"input": []}))
    (tmp_path / "it.csv").write_bytes(make_csv(np.zeros((9, 14))))
    monkeypatch.setattr(experiment.jaxseq, "restore_best", lambda *_: {"a": np.zeros((1, 1))})
    assert main(["predict", name, "--from", str(tmp_path), str(tmp_path / "it.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def vouched(path: Path) -> None:
    """Makes a checkpoint's manifest right again: an attacker can, too."""
    checkpoints._write_manifest(path)


def test_a_checkpoint_that_is_a_bomb(tmp_path):
    """No file of a checkpoint is unpickled, whatever it holds; what Orbax cannot read is named."""
    victim, tree = tmp_path / "victim", {"a": np.arange(6.0, dtype=np.float32)}
    victim.write_text("alive")
    path = checkpoints.save(tmp_path / "run", 1, tree, {"epoch": 1})
    contents = (pickle.dumps(Bomb(victim)), b"[" * 100_000, b"null", b"{}")
    honest = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "manifest.json"}
    readable = 0
    for number, file in enumerate(honest):
        texts = contents if file.name.startswith(("_METADATA", "metadata")) else (contents[number % 4], contents[0])
        for text in dict.fromkeys(texts):
            file.write_bytes(text)
            vouched(path)
            try:
                restored = checkpoints.restore(tmp_path / "run", tree)
                assert restored is not None and restored.tree["a"].tolist() == tree["a"].tolist()
                readable += 1
            except ValueError as error:
                assert str(error)
            file.write_bytes(honest[file])
    vouched(path)
    assert checkpoints.restore(tmp_path / "run", tree) is not None and victim.read_text() == "alive"
    assert readable < len(honest) * 2


@pytest.mark.parametrize(
    "manifest",
    [
        {"../../victim": "0" * 64},
        {"/etc/passwd": "0" * 64},
        {"\x1b]0;owned\x07": "0" * 64},
        {"a": {"b": 1}},
        [],
        "text",
    ],
)
def test_a_manifest_leads_nowhere(tmp_path, manifest):
    """Its names are compared with those of the files that are there; no file is opened by it."""
    path = tmp_path / "run" / "step_00000001"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps(manifest))
    for name in ("step_00000001x", "step_²", "step_../..", "step_99999999999999999999999"):
        (tmp_path / "run" / name.replace("/", "_")).mkdir()
    with pytest.warns(UserWarning, match="is damaged") as warned:
        assert checkpoints.find_intact(tmp_path / "run") is None
    assert not any("\x1b" in str(one.message) for one in warned)
    (path / "manifest.json").write_text("[" * 100_000)
    assert checkpoints.find_damage(path) == "manifest.json is missing or unreadable"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"type":' * 100_000, '{"config":' * 100_000])
@pytest.mark.parametrize("read", [jaxseq.cell_from_json, Tokenizer.from_json])
def test_what_is_written_down_as_json(read, text):
    with pytest.raises(ValueError, match="^text must be a"):
        read(text)


def png(*headers: tuple[int, int], first: bytes = b"") -> bytes:
    """A PNG of one or more headers, and no pixels."""
    chunks = first
    for width, height in headers:
        chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


SMALL = b"teSt" + struct.pack(">II", 1, 1)  # a chunk that stands where a header would, and looks like a small one
SMALL = struct.pack(">I", 8) + SMALL + struct.pack(">I", zlib.crc32(SMALL))


@pytest.mark.parametrize("first", [b"", SMALL], ids=["", "after another chunk"])
@pytest.mark.parametrize("headers", [[(100_000, 100_000)], [(32, 32), (50_000, 50_000)], [(32, 32)], [(0, 0)], []])
def test_pictures_that_declare_what_they_do_not_hold(tmp_path, headers, first):
    path = tmp_path / "image.png"
    path.write_bytes(png(*headers, first=first))
    tracemalloc.start()
    with pytest.raises(experiment.UserError, match="TEXT must be the path of a PNG file, got"):
        captions._read_image(str(path))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
