"""Archives made to do harm: each is a real file."""

import gzip
import io
import tarfile
import zipfile

import pytest

from jaxseq.datasets.archives import gunzip, tar_members, zip_member


def make_tar(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, contents, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(contents) if kind == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd"
            archive.addfile(info, io.BytesIO(contents))
    return path


def read(path, **limits):
    with path.open("rb") as stream:
        return dict(tar_members(stream, lambda name: name.endswith(".txt"), title=path.name, **limits))


FILE = tarfile.REGTYPE


def test_reads_wanted_members(tmp_path):
    path = make_tar(
        tmp_path / "a.tar.gz",
        ("a", b"", tarfile.DIRTYPE),
        ("a/1.txt", b"one", FILE),
        ("a/2.bin", b"two", FILE),
        ("a/3.txt", b"", FILE),
    )
    assert read(path) == {"a/1.txt": b"one", "a/3.txt": b""}


@pytest.mark.parametrize(
    "name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt", "..", "\\x"]
)
def test_paths_outside_are_refused(tmp_path, name):
    path = make_tar(tmp_path / "slip.tar.gz", ("good.txt", b"x", FILE), (name, b"x", FILE))
    with pytest.raises(ValueError, match="slip.tar.gz must hold paths inside the archive only"):
        read(path)
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("good.txt", b"x")
        archive.writestr(name, b"x")
    with (tmp_path / "slip.zip").open("rb") as stream, pytest.raises(ValueError, match="inside the archive only"):
        zip_member(stream, "good.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slip.tar.gz", "slip.zip"]


@pytest.mark.parametrize(
    "kind, word",
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "a special file"),
        (tarfile.CHRTYPE, "a special file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, kind, word):
    path = make_tar(tmp_path / "link.tar.gz", ("a.txt", b"", kind))
    with pytest.raises(ValueError, match=f"files and directories only, but 'a.txt' is {word}"):
        read(path)


def test_zip_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("a.txt")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with (tmp_path / "link.zip").open("rb") as stream, pytest.raises(ValueError, match="'a.txt' is a link"):
        zip_member(stream, "a.txt")


def test_limits(tmp_path):
    path = make_tar(tmp_path / "big.tar.gz", ("a.txt", bytes(1 << 20), FILE), ("b.txt", bytes(1 << 20), FILE))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="'a.txt' must have at most 1000 bytes, got 1048576"):
        read(path, max_member_bytes=1000)
    with pytest.raises(ValueError, match="must unpack to at most 1500000 bytes"):
        read(path, max_bytes=1_500_000)
    with pytest.raises(ValueError, match="must unpack to at most 1000 bytes"):
        gunzip(path.read_bytes(), title="bomb", max_bytes=1000)
    with pytest.raises(ValueError, match="must have at most 2 bytes, got 3"):
        gunzip(b"abc", title="plain", max_bytes=2)
    # What is just as large as it may be is taken.
    assert list(read(path, max_member_bytes=1 << 20)) == ["a.txt", "b.txt"]
    unpacked = len(gzip.decompress(path.read_bytes()))
    assert read(path, max_bytes=unpacked) and len(gunzip(path.read_bytes(), title="", max_bytes=unpacked)) == unpacked
    with pytest.raises(ValueError, match="must unpack to at most"):
        gunzip(path.read_bytes(), title="", max_bytes=unpacked - 1)


def test_every_truncation_is_noticed(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", ("a.txt", bytes(range(256)) * 9, FILE), ("b.txt", b"b", FILE))
    contents = path.read_bytes()
    for end in [*range(0, len(contents), 7), len(contents) - 1]:
        path.write_bytes(contents[:end])
        with pytest.raises(ValueError, match="must be a whole .tar.gz"):
            read(path)
        with pytest.raises(ValueError, match="must be a whole gzip"):
            gunzip(contents[: max(end, 2)], title="t", max_bytes=1 << 20)


def test_flipped_bits_are_noticed(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", ("a.txt", bytes(range(256)) * 9, FILE))
    contents = path.read_bytes()
    for position in range(20, len(contents), 11):  # before that stand the time and the name
        damaged = bytearray(contents)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ValueError):
            read(path)
            pytest.fail(f"byte {position}")


def test_damage_inside_a_sound_gzip(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", *((f"{i}.txt", bytes(1000), FILE) for i in range(100)))
    plain = bytearray(gzip.decompress(path.read_bytes()))
    plain[3 * 1536 + 10] ^= 1  # in the fourth header: tarfile would take it for the end
    path.write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match="damaged"):
        read(path)
    plain[3 * 1536 + 10] ^= 1
    for end in (10 * 1536 + 700, 10 * 1536 + 100):  # within a file, within a header
        path.write_bytes(gzip.compress(plain[:end]))
        with pytest.raises(ValueError, match="damaged"):
            read(path)


def test_not_an_archive(tmp_path):
    path = tmp_path / "a.tar.gz"
    for contents in (b"", b"hello", gzip.compress(b"hello" * 500)):
        path.write_bytes(contents)
        with pytest.raises(ValueError):
            read(path)
        with pytest.raises(ValueError, match="must be a whole .zip"):
            zip_member(io.BytesIO(contents), "a")


def test_zip(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"hello" * 1000)
    contents = path.read_bytes()
    assert zip_member(io.BytesIO(contents), "a.txt") == b"hello" * 1000
    with pytest.raises(ValueError, match="it must hold 'b.txt' once, got 0 times"):
        zip_member(io.BytesIO(contents), "b.txt", title="it")
    with pytest.raises(ValueError, match="at most 100 bytes, declares 5000"):
        zip_member(io.BytesIO(contents), "a.txt", max_bytes=100)
    assert len(zip_member(io.BytesIO(contents), "a.txt", max_bytes=5000)) == 5000
    damaged = bytearray(contents)
    damaged[40] ^= 0xFF
    with pytest.raises(ValueError, match="damaged"):
        zip_member(io.BytesIO(bytes(damaged)), "a.txt")
    encrypted = bytearray(contents)
    encrypted[6] |= 1  # the flag in the member's own header, and in the directory
    encrypted[contents.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match="damaged: .*encrypted"):
        zip_member(io.BytesIO(bytes(encrypted)), "a.txt")


def test_plain_passes_through_gunzip():
    assert gunzip(b"plain", title="t", max_bytes=10) == b"plain"
    assert gunzip(gzip.compress(b"packed"), title="t", max_bytes=10) == b"packed"
