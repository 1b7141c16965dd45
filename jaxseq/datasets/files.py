"""Finds a data file: in `$JAXSEQ_DATA`, in the user's cache, else at its public home.

The rules:

- What the user put into `$JAXSEQ_DATA` is read whatever its checksum; the checksum is recorded.
- What lies in the cache under a name for which a checksum was published must have that checksum: anything
  else is damaged, and is fetched again. (A file without a published checksum may be put there by hand.)
- Only a file with a published checksum is downloaded: without one, nobody could tell the right file from
  another one, so the error says where to get it and where to put it.
- A download goes to a `.part` file in the cache, over https only, goes on where it broke off, is verified as
  it lies on disk, and only then takes its final name. `JAXSEQ_OFFLINE=1` forbids downloads.
"""

import hashlib
import http.client
import os
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from tqdm import tqdm

_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 4  # per address; each goes on where the one before broke off
_PAUSE = 1.0  # seconds before the second attempt, doubled each time
_CHUNK = 1 << 20
_SPOOLED = 1 << 27  # bytes: a larger file is opened as a private copy on the disk
_MAX_BYTES = 2 << 30  # of a download whose published size is not known
_ALLOW_LOOPBACK_HTTP = False  # tests set it, to serve files from http://127.0.0.1


class DataNotFound(FileNotFoundError):
    """A data set that is neither here nor to be had; the message says what to put where."""


class FileRecord(NamedTuple):
    """One file that was read: its name, its sha256, and whether that is the published checksum."""

    name: str
    sha256: str
    published: bool


@dataclass(frozen=True)
class Source:
    """Where data came from; `as_dict()` can be written as JSON.

    Args:
      kind: "real" or "synthetic".
      name: the data set, e.g. "imdb".
      files: the files that were read; none for synthetic data.
    """

    kind: str
    name: str
    files: tuple[FileRecord, ...] = ()

    @property
    def published(self) -> bool:
        """Whether every file is, byte for byte, the one whose checksum was published."""
        return bool(self.files) and all(file.published for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        """The record as dicts, lists, strings and booleans."""
        return {"kind": self.kind, "name": self.name, "files": [file._asdict() for file in self.files]}


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Args:
      name: its published name; `name.gz` (or, for a `.gz`, the plain name) is accepted for it.
      urls: its public homes, https; tried in order when a checksum is published.
      sha256: published checksum, lower-case hex.
      md5: published checksum where no sha256 was published.
      size: published size in bytes; a longer download is cut off.
      alternatives: other names under which the same content is accepted.
      home: where a person gets the file by hand, for the error message.
    """

    name: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    alternatives: tuple[str, ...] = ()
    home: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every accepted name, the published one first."""
        names = []
        for name in (self.name, *self.alternatives):
            names.append(name)
            if name.endswith(".gz") and not name.endswith(".tar.gz"):
                names.append(name.removesuffix(".gz"))
            elif not name.endswith((".gz", ".zip", ".npz")):
                names.append(name + ".gz")
        return tuple(dict.fromkeys(names))

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum was published."""
        return bool(self.sha256 or self.md5)


class Found(NamedTuple):
    """A file on this machine: its path, its sha256, and whether it is the published one, byte for byte."""

    path: Path
    sha256: str
    published: bool

    def record(self) -> FileRecord:
        """What a `Source` says of it."""
        return FileRecord(self.path.name, self.sha256, self.published)

    def read(self) -> bytes:
        """The file's bytes, the very ones whose checksum `sha256` is.

        Raises:
          ValueError: the file changed since it was found.
        """
        contents = self.path.read_bytes()
        self._check(hashlib.sha256(contents).hexdigest())
        return contents

    def open(self) -> BinaryIO:
        """The bytes of `read`, as a file: a copy that nobody else can change, in memory or, if large, on the disk."""
        copy, sha256 = tempfile.SpooledTemporaryFile(_SPOOLED, prefix="jaxseq-"), hashlib.sha256()
        try:
            with self.path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    sha256.update(chunk)
                    copy.write(chunk)
            self._check(sha256.hexdigest())
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
        return cast(BinaryIO, copy)

    def _check(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise ValueError(f"{self.path} must not change while it is read, but its sha256 is now another")


def data_directory() -> Path | None:
    """The directory named by `$JAXSEQ_DATA`, or None where it is not set.

    Raises:
      DataNotFound: it names no directory.
    """
    named = os.environ.get("JAXSEQ_DATA", "")
    if not named:
        return None
    directory = Path(named).expanduser()
    if not directory.is_dir():
        raise DataNotFound(f"JAXSEQ_DATA must name a directory, got {named!r}")
    return directory


def cache_directory() -> Path:
    """The user's cache, `$XDG_CACHE_HOME/jaxseq` or `~/.cache/jaxseq`; it need not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules: a relative path counts as not set.
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "jaxseq"


def find(file: DataFile, *, download: bool = True) -> Found:
    """Finds `file` on this machine, or downloads it.

    Args:
      file: what to find.
      download: whether it may be fetched; `JAXSEQ_OFFLINE=1` forbids it too.
    Returns:
      Found(path, sha256, published).
    Raises:
      DataNotFound: it is not here and could not be had; the message says what to put where.
    """
    directory = data_directory()
    if directory is not None:
        path = _first_present(directory, file.names)
        if path is not None:
            return _found(path, file)
    cache = cache_directory()
    path = _first_present(cache, file.names)
    damaged = False
    if path is not None:
        found = _found(path, file)
        if found.published or not file.has_checksum:
            return found
        damaged = True
    failure = "the copy in the cache does not have the published checksum" if damaged else ""
    if not file.has_checksum:
        failure = "no checksum was published for it, so it is not downloaded unasked"
    elif not download or os.environ.get("JAXSEQ_OFFLINE", "") not in ("", "0"):
        failure = "; ".join(filter(None, [failure, "downloads are switched off"]))
    else:
        for url in file.urls:
            try:
                return _download(url, file, cache)
            except (OSError, ValueError, http.client.HTTPException) as error:
                failure = f"{url}: {_one_line(error)}"
    place = f"{directory} (JAXSEQ_DATA)" if directory else "a directory named by JAXSEQ_DATA (not set)"
    home = file.home or (file.urls[0] if file.urls else "")
    raise DataNotFound(
        f"{file.name} not found: put {' or '.join(file.names)}"
        + (f", from {home}," if home else "")
        + f" into {place} or {cache}, or use synthetic data (--data synthetic)"
        + (f" [{failure}]" if failure else "")
    )


def _first_present(directory: Path, names: tuple[str, ...]) -> Path | None:
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _found(path: Path, file: DataFile) -> Found:
    sha256, md5 = _checksums(path, with_md5=file.md5 is not None)
    published = sha256 == file.sha256 if file.sha256 else file.md5 is not None and md5 == file.md5
    return Found(path, sha256, published)


def _checksums(path: Path, *, with_md5: bool) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            if with_md5:
                md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def _one_line(error: BaseException) -> str:
    # A server's own words may stand in it: nothing that a terminal would obey.
    text = "".join(one if one.isprintable() else " " for one in str(error))
    return " ".join(text.split()) or type(error).__name__


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    loopback = _ALLOW_LOOPBACK_HTTP and parts.scheme == "http" and parts.hostname == "127.0.0.1"
    if parts.scheme != "https" and not loopback:
        raise ValueError(f"a download must stay on https, got {parts.scheme}://{parts.netloc}")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, file: DataFile, cache: Path) -> Found:
    """Fetches `url` into the cache, verifies it, gives it its name."""
    _check_url(url)
    cache.mkdir(parents=True, exist_ok=True)
    final, part = cache / file.name, cache / (file.name + ".part")
    with _locked(part):
        if final.is_file() and (found := _found(final, file)).published:
            return found  # another process was faster
        for fresh in (False, True):
            if fresh:
                os.truncate(part, 0)  # not deleted: a new file of this name would not be the one that we hold
            resumed = part.stat().st_size > 0
            _fetch(url, part, file)
            found = _found(part, file)
            if found.published:
                with part.open("rb+") as stream:
                    os.fsync(stream.fileno())
                os.replace(part, final)
                _sync_directory(cache)
                return found._replace(path=final)  # whoever reads it verifies these bytes again
            if not resumed:
                break  # what came was whole and wrong: fetching it again would not help
        part.unlink()
    expected = f"sha256 {file.sha256}" if file.sha256 else f"md5 {file.md5}"
    raise ValueError(f"{file.name} must have {expected}, got sha256 {found.sha256}; the download was deleted")


def _fetch(url: str, part: Path, file: DataFile) -> None:
    """Appends to `part` until the server has no more to give."""
    for attempt in range(_ATTEMPTS):
        before = part.stat().st_size
        try:
            _fetch_once(url, part, file)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:
                # The part is as long as the file (the checksum will tell), or nonsense.
                return
            if error.code < 500 or attempt == _ATTEMPTS - 1:
                raise
        except (OSError, http.client.HTTPException):
            # A server that never answered is not tried again: offline must fail fast.
            if attempt == _ATTEMPTS - 1 or part.stat().st_size == before == 0:
                raise
        time.sleep(_PAUSE * 2**attempt)


def _fetch_once(url: str, part: Path, file: DataFile) -> None:
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"User-Agent": "jaxseq", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_HttpsRedirects())
    with opener.open(request, timeout=_TIMEOUT) as response:
        if start and not _continues(response, start):
            start = 0  # the server starts again, so do we
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else file.size
        limit = file.size if file.size is not None else _MAX_BYTES
        if total is not None and total > limit:
            raise ValueError(f"{file.name} must have at most {limit} bytes, but the server announces {total}")
        quiet = not sys.stderr.isatty()
        progress = tqdm(
            total=total, initial=start, desc=file.name, unit="B", unit_scale=True, disable=quiet, leave=False
        )
        with progress, part.open("rb+") as stream:
            stream.seek(start)
            stream.truncate()
            while chunk := response.read(_CHUNK):
                start += len(chunk)
                if start > limit:
                    stream.truncate(0)
                    raise ValueError(f"{file.name} must have at most {limit} bytes, but the server sends more")
                stream.write(chunk)
                progress.update(len(chunk))
        if total is not None and start < total:
            raise ConnectionError(f"the connection broke off after {start} of {total} bytes")


def _continues(response, start: int) -> bool:
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Holds `part`, created if need be, against other processes; waits for them."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system: the atomic rename still keeps the final name whole
        part.touch()
        yield
        return
    while True:
        with part.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # While we waited, its holder may have renamed or deleted it: then lock the new one.
            if _is_named(stream, part):
                try:
                    yield
                    return
                finally:
                    # It may be gone, and one of this name another process's, which is not ours to delete.
                    if _is_named(stream, part) and os.fstat(stream.fileno()).st_size == 0:
                        part.unlink()


def _is_named(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that has this name now: another process may take it away at any moment."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_directory(directory: Path) -> None:
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:  # a directory cannot be opened on every system
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
