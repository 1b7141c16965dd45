"""Reads members of archives as bytes; nothing is ever extracted to disk.

An archive is refused whole if any member looked at has a path that leads outside it, is a link or a device,
or is larger than the limits: an honest one has none of these. An archive within an archive is bytes, and stays packed.
"""

import codecs
import gzip
import io
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tarfile import HeaderError
from typing import BinaryIO, cast

_DAMAGE = (
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    OSError,
)
_ZIP_ENTRY = b"PK\x01\x02"  # what every entry of a zip's directory begins with
_MAX_ZIP_ENTRIES = 10_000
_MAX_TAR_MEMBERS = 1 << 18  # aclImdb has 100,000 reviews
_CHUNK = 1 << 20  # bytes read at a time
_MAX_TAR_HEADER = 1 << 16  # bytes of a long name or of extended fields
_TAR_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def check_name(name: str, title: str) -> None:
    """Raises ValueError unless `name` is a relative path that stays inside its archive."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name or not name:
        raise ValueError(f"{title} must hold paths inside the archive only, got {name!r:.80}")


class _Limited(io.RawIOBase):
    """A stream that raises when more than `limit` bytes were read from it."""

    def __init__(self, stream: io.BufferedIOBase | gzip.GzipFile, limit: int, title: str):
        self.stream, self.limit, self.title, self.count = stream, limit, title, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        room = self.limit + 1 - self.count
        data = self.stream.read(room if size is None or size < 0 else min(size, room))
        self.count += len(data)
        if self.count > self.limit:
            raise ValueError(f"{self.title} must unpack to at most {self.limit} bytes")
        return data


class _Member(tarfile.TarInfo):
    """Raises at a damaged header, which tarfile takes for the end of the archive, and at one that would grow."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """What tarfile does once it knows a header's type and size, in every version; not all ask `frombuf`."""
        if self.type in _TAR_HEADERS and self.size > _MAX_TAR_HEADER:
            raise EOFError(f"a header of {self.size} bytes")
        if self.type == tarfile.XGLTYPE:  # tarfile would keep its fields, and those of all others
            raise EOFError("a header for the whole archive")
        return super()._proc_member(archive)  # type: ignore[misc]  # typeshed lacks what tarfile.py says to override

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise EOFError(str(error)) from error
            raise


def gunzip(contents: bytes, *, title: str, max_bytes: int) -> bytes:
    """The bytes of a gzip file, or `contents` as they are if they are not one.

    Raises:
      ValueError: truncated, damaged, or larger than `max_bytes` unpacked.
    """
    if contents[:2] != b"\x1f\x8b":
        if len(contents) > max_bytes:
            raise ValueError(f"{title} must have at most {max_bytes} bytes, got {len(contents)}")
        return contents
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(contents), mode="rb") as stream:
            unpacked, limited = io.BytesIO(), _Limited(stream, max_bytes, title)
            while chunk := limited.read(_CHUNK):  # read() at once would reserve `max_bytes`, whatever there is
                unpacked.write(chunk)
            return unpacked.getvalue()
    except _DAMAGE as error:
        raise ValueError(f"{title} must be a whole gzip file, but is damaged: {error}") from error


def text_lines(contents: bytes, *, title: str) -> Iterator[tuple[int, str]]:
    """Yields (number, line) of a UTF-8 text, from 1 and without line ends; a byte-order mark and CRLF are accepted.

    Raises:
      ValueError: a line is not UTF-8.
    """
    for number, line in enumerate(io.BytesIO(contents), 1):  # line by line: all as text at once are four times as much
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            yield number, line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{title} line {number} must be UTF-8, {error}") from error


def tar_members(
    stream: BinaryIO,
    wanted: Callable[[str], bool],
    *,
    title: str = "the archive",
    max_member_bytes: int = 1 << 26,
    max_bytes: int = 1 << 30,
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, contents) of the wanted files of a `.tar.gz`, in one pass.

    Args:
      stream: the file.
      wanted: which names to yield; all names are checked.
      title: what error messages call the file.
      max_member_bytes: the largest file yielded.
      max_bytes: the whole archive, unpacked.
    Raises:
      ValueError: damaged, truncated, too large, or a member that is a link, a device or outside the archive.
    """
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as unzipped:
            limited = _Limited(unzipped, max_bytes, title)
            with tarfile.open(fileobj=cast(BinaryIO, limited), mode="r|", tarinfo=_Member) as archive:
                for count, member in enumerate(archive, 1):
                    vars(archive)["members"] = []  # tarfile would keep every member it ever saw
                    if count > _MAX_TAR_MEMBERS:
                        raise ValueError(f"{title} must hold at most {_MAX_TAR_MEMBERS} files and directories")
                    check_name(member.name, title)
                    if member.isdir():
                        continue
                    if not member.isreg() or member.issparse() or member.size < 0:  # a sparse file's holes cost nothing
                        kind = "a link" if member.issym() or member.islnk() else "a special file"
                        rule = f"must hold files and directories only, but {member.name!r:.80} is {kind}"
                        raise ValueError(f"{title} {rule}")
                    if not wanted(member.name):
                        continue
                    if member.size > max_member_bytes:
                        rule = f"must have at most {max_member_bytes} bytes, got {member.size}"
                        raise ValueError(f"{title}: {member.name!r:.80} {rule}")
                    contents = archive.extractfile(member)
                    data = contents.read() if contents else b""
                    if len(data) != member.size:
                        raise ValueError(f"{title} must be whole, but ends within {member.name!r:.80}")
                    yield member.name, data
            while limited.read(_CHUNK):  # to the end, where gzip's own checksum is
                pass
    except (*_DAMAGE, RecursionError) as error:  # a header may announce a header, which may announce a header
        raise ValueError(f"{title} must be a whole .tar.gz file, but is damaged: {error}") from error


@contextmanager
def _blamed() -> Iterator[None]:
    """What zipfile raises ValueError of is damage too: places before the file's start, names that are no text.

    So is what it only warns of, since Python 3.13: entries that overlap, as those of a bomb do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            yield
        except (ValueError, UserWarning) as error:
            raise zipfile.BadZipFile(str(error)) from error


@contextmanager
def open_zip(stream: BinaryIO, title: str, kind: str = ".zip") -> Iterator[zipfile.ZipFile]:
    """Opens a `.zip`, or a file of its format; what is damaged in it, or encrypted, is a ValueError.

    Raises:
      ValueError: that, or too many files in it: zipfile makes an object of each before it can be asked how many.
    """
    try:
        entries, rest = 0, b""
        while chunk := stream.read(_CHUNK):
            entries += (rest + chunk).count(_ZIP_ENTRY)
            rest = (rest + chunk)[-3:]  # no whole mark fits
        if entries > _MAX_ZIP_ENTRIES:
            raise ValueError(f"{title} must hold at most {_MAX_ZIP_ENTRIES} files, got {entries}")
        stream.seek(0)
        with _blamed():
            archive = zipfile.ZipFile(stream)
        with archive:
            yield archive
    except (*_DAMAGE, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{title} must be a whole {kind} file, but is damaged: {error}") from error


def zip_contents(archive: zipfile.ZipFile, info: zipfile.ZipInfo, title: str, max_bytes: int) -> bytes:
    """The contents of one entry of an open `.zip`: never more bytes than it declares.

    Raises:
      ValueError: it declares more than `max_bytes`, has another size, or is packed otherwise than by deflate.
    """
    name = f"{info.filename!r:.80}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA takes the memory that it asks for
        raise ValueError(f"{title}: {name} must be stored or deflated, got the method {info.compress_type}")
    if info.file_size > max_bytes:
        raise ValueError(f"{title}: {name} must have at most {max_bytes} bytes, declares {info.file_size}")
    with _blamed(), archive.open(info) as member:
        contents = member.read(info.file_size + 1)
    if len(contents) != info.file_size:
        raise ValueError(f"{title}: {name} must have its declared size {info.file_size}")
    return contents


def zip_member(stream: BinaryIO, name: str, *, title: str = "the archive", max_bytes: int = 1 << 30) -> bytes:
    """The contents of one file of a `.zip`.

    Args:
      stream: the file.
      name: the member.
      title: what error messages call the file.
      max_bytes: its size, unpacked.
    Raises:
      ValueError: damaged, encrypted, too large, no such member, a link, or a path outside the archive.
    """
    with open_zip(stream, title) as archive:
        for info in archive.infolist():
            check_name(info.filename, title)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"{title} must hold files only, but {info.filename!r:.80} is a link")
        matches = [info for info in archive.infolist() if info.filename == name]
        if len(matches) != 1:
            raise ValueError(f"{title} must hold {name!r} once, got {len(matches)} times")
        return zip_contents(archive, matches[0], title, max_bytes)
