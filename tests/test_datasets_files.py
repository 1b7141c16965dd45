"""Finding and downloading: real files, a real server on 127.0.0.1, every way a download can go wrong."""

import hashlib
import http.server
import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from jaxseq.datasets import files
from jaxseq.datasets.files import DataFile, DataNotFound, Source, find

CONTENT = bytes(range(256)) * 4_000  # about a mebibyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty data directory and an empty cache."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JAXSEQ_OFFLINE", raising=False)
    monkeypatch.setattr(files, "_ALLOW_LOOPBACK_HTTP", True)
    monkeypatch.setattr(files, "_PAUSE", 0.0)
    return tmp_path / "data", tmp_path / "home" / "jaxseq"


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str | None] = []  # the Range of each
        self.content, self.ranges, self.break_after, self.breaks = CONTENT, True, 0, 0
        self.status, self.reason, self.location, self.announce = 200, None, "", True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.location:
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status, server.reason)
            return
        start = 0
        if wanted and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        if server.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: server.break_after]
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass


@pytest.fixture
def server():
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def published(server, **changes):
    return DataFile(**{"name": "file.bin", "urls": (server.url,), "sha256": SHA256, **changes})


def test_order_of_places(places, server):
    data, cache = places
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(CONTENT)
    assert find(published(server)).path == cache / "file.bin"
    (data / "file.bin").write_bytes(b"the user's own")
    found = find(published(server))
    assert (found.path, found.published) == (data / "file.bin", False)
    assert found.sha256 == hashlib.sha256(b"the user's own").hexdigest()
    assert found.read() == b"the user's own"
    assert server.requests == []


def test_published_by_sha256_or_md5(places):
    data, _ = places
    (data / "file.bin").write_bytes(CONTENT)
    assert find(DataFile("file.bin", sha256=SHA256)).published
    assert find(DataFile("file.bin", md5=MD5)).published
    assert not find(DataFile("file.bin")).published
    assert not find(DataFile("file.bin", md5="0" * 32)).published


@pytest.mark.parametrize("name", ["words.txt", "words.txt.gz", "other.csv", "other.csv.gz", "all.zip"])
def test_other_names(places, name):
    data, _ = places
    (data / name).write_bytes(b"x")
    assert find(DataFile("words.txt", alternatives=("other.csv", "all.zip"))).path.name == name


def test_a_gz_may_be_plain():
    assert DataFile("a.csv.gz").names == ("a.csv.gz", "a.csv")
    assert DataFile("a.tar.gz").names == ("a.tar.gz",)
    assert DataFile("a.npz").names == ("a.npz",)


def test_missing_says_what_to_put_where(places):
    data, cache = places
    with pytest.raises(DataNotFound) as error:
        find(DataFile("words.txt", home="https://example.org/words"))
    message = str(error.value)
    assert isinstance(error.value, FileNotFoundError) and "\n" not in message
    for part in ("words.txt", str(data), "JAXSEQ_DATA", str(cache), "https://example.org/words", "--data synthetic"):
        assert part in message
    assert "no checksum was published" in message


def test_without_published_checksum_nothing_is_downloaded(server):
    with pytest.raises(DataNotFound, match="no checksum"):
        find(published(server, sha256=None))
    assert server.requests == []


def test_data_directory_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFound, match="JAXSEQ_DATA must name a directory, got .*nowhere"):
        find(DataFile("words.txt"))


def test_unset_environment(monkeypatch):
    monkeypatch.delenv("JAXSEQ_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # not absolute: as if not set
    assert files.data_directory() is None
    assert files.cache_directory() == Path.home() / ".cache" / "jaxseq"
    with pytest.raises(DataNotFound, match="JAXSEQ_DATA \\(not set\\)"):
        find(DataFile("surely-not-there.bin"))


@pytest.mark.parametrize("checksum", [{"sha256": SHA256}, {"sha256": None, "md5": MD5}])
def test_download(places, server, checksum, capsys):
    _, cache = places
    found = find(published(server, **checksum, size=len(CONTENT)))
    assert (found.path, found.published, found.sha256) == (cache / "file.bin", True, SHA256)
    assert found.read() == CONTENT
    assert os.listdir(cache) == ["file.bin"]
    assert capsys.readouterr().err == ""  # quiet where nobody watches
    find(published(server, **checksum))
    assert len(server.requests) == 1


def test_progress_bar_on_a_terminal(server, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    find(published(server))
    assert "file.bin" in capsys.readouterr().err


def test_broken_off_download_goes_on(places, server):
    _, cache = places
    server.breaks, server.break_after = 2, 100_000
    assert find(published(server)).read() == CONTENT
    assert server.requests == [None, "bytes=100000-", "bytes=200000-"]
    assert os.listdir(cache) == ["file.bin"]


def test_broken_off_download_of_an_earlier_run_goes_on(places, server):
    _, cache = places
    server.breaks, server.break_after = 99, 100_000
    with pytest.raises(DataNotFound, match="broke off after 400000 of 1024000 bytes"):
        find(published(server))
    assert os.listdir(cache) == ["file.bin.part"]  # never under the final name
    server.breaks = 0
    assert find(published(server)).read() == CONTENT
    assert server.requests[-1] == "bytes=400000-"


def test_server_without_ranges_starts_again(places, server):
    server.ranges, server.breaks, server.break_after = False, 1, 100_000
    assert find(published(server)).read() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_server_that_announces_no_length(places, server):
    server.announce = False
    assert find(published(server)).read() == CONTENT


def test_broken_off_download_of_an_unannounced_length_goes_on(places, server):
    """Of a file of published size; without one the checksum alone tells, and it starts again."""
    server.announce, server.breaks, server.break_after = False, 1, 100_000
    assert find(published(server, size=len(CONTENT))).read() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


@pytest.mark.parametrize("stale", [b"x" * 1000, b"x" * 2_000_000])
def test_stale_part_is_thrown_away(places, server, stale):
    _, cache = places
    cache.mkdir(parents=True)
    (cache / "file.bin.part").write_bytes(stale)
    assert find(published(server)).read() == CONTENT


def test_whole_part_is_used(places, server):
    _, cache = places
    cache.mkdir(parents=True)
    (cache / "file.bin.part").write_bytes(CONTENT)  # killed between the last byte and the rename
    assert find(published(server)).read() == CONTENT
    assert server.requests == [f"bytes={len(CONTENT)}-"]


def test_wrong_checksum_leaves_nothing(places, server):
    _, cache = places
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DataNotFound, match=f"must have sha256 {SHA256}, got sha256"):
        find(published(server))
    assert os.listdir(cache) == []
    assert len(server.requests) == 1


def test_damaged_copy_in_the_cache_is_replaced(places, server):
    _, cache = places
    cache.mkdir(parents=True)
    (cache / "file.bin").write_bytes(CONTENT[:1000])
    assert find(published(server)).read() == CONTENT


@pytest.mark.parametrize("announce", [True, False])
def test_endless_download_is_cut_off(places, server, announce):
    _, cache = places
    server.announce = announce
    with pytest.raises(DataNotFound, match="must have at most 1000 bytes"):
        find(published(server, size=1000))
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/x",
        "HTTP://127.0.0.1.example.org/x",
        "//example.org/x",
        "http://127.0.0.1@example.org/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "data:text/plain,x",
        "gopher://127.0.0.1/",
    ],
)
def test_redirect_away_from_https_is_refused(places, server, location):
    server.location = location
    with pytest.raises(DataNotFound, match="must stay on https|not allowed"):
        find(published(server))
    assert len(server.requests) == 1 and os.listdir(places[1]) == []
    with pytest.raises(DataNotFound, match="must stay on https"):
        find(published(server, urls=(location,)))  # nor is it read where it stands in the source


def test_a_redirect_to_itself_ends(server):
    server.location = server.url
    with pytest.raises(DataNotFound, match="infinite loop"):
        find(published(server))
    assert len(server.requests) < 12


def test_a_servers_words_do_not_reach_the_terminal(server):
    server.status, server.reason = 404, "gone \x1b]0;owned\x07\x9b31m"
    with pytest.raises(DataNotFound, match="404: gone") as error:
        find(published(server))
    assert str(error.value).isprintable()


def test_plain_http_is_refused(server, monkeypatch):
    monkeypatch.setattr(files, "_ALLOW_LOOPBACK_HTTP", False)
    with pytest.raises(DataNotFound, match="must stay on https, got http://127.0.0.1"):
        find(published(server))
    assert server.requests == []


def test_server_errors(places, server):
    _, cache = places
    server.status = 404
    with pytest.raises(DataNotFound, match="404"):
        find(published(server))
    assert len(server.requests) == 1
    server.status = 503
    with pytest.raises(DataNotFound, match="503"):
        find(published(server))
    assert len(server.requests) == 5  # may pass: tried again
    assert os.listdir(cache) == []


def test_unreachable_fails_fast_then_the_second_home_serves(server):
    unreachable = "http://127.0.0.1:9/file.bin"
    with pytest.raises(DataNotFound, match="127.0.0.1:9"):
        find(published(server, urls=(unreachable,)))
    assert find(published(server, urls=(unreachable, server.url))).published


def test_silent_server_times_out(monkeypatch):
    import socket

    monkeypatch.setattr(files, "_TIMEOUT", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataNotFound, match="timed out"):
            find(DataFile("file.bin", urls=(f"http://127.0.0.1:{silent.getsockname()[1]}/",), sha256=SHA256))


def test_offline(server, monkeypatch):
    with pytest.raises(DataNotFound, match="switched off"):
        find(published(server), download=False)
    monkeypatch.setenv("JAXSEQ_OFFLINE", "1")
    with pytest.raises(DataNotFound, match="switched off"):
        find(published(server))
    assert server.requests == []


def test_two_at_once(places, server):
    _, cache = places
    results = []
    threads = [threading.Thread(target=lambda: results.append(find(published(server)).read())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 4
    assert os.listdir(cache) == ["file.bin"]
    assert len(server.requests) == 1  # the others waited for the first


def test_many_hold_a_part_one_after_another_whatever_its_holders_do_with_it(tmp_path):
    part, holders, wrong = tmp_path / "file.bin.part", [], []

    def hold(number):
        try:
            for turn in range(100):
                with files._locked(part):
                    holders.append(number)
                    part.stat()  # its name is there, whoever has just renamed or deleted one of this name
                    assert holders == [number]
                    holders.clear()  # from then on the next may hold a new one
                    if (number + turn) % 3 == 0:
                        os.replace(part, tmp_path / "file.bin")
                    elif (number + turn) % 3 == 1:
                        part.unlink()  # the third leaves it empty
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_that_changes_is_not_read(places):
    data, _ = places
    (data / "file.bin").write_bytes(b"one")
    found = find(DataFile("file.bin"))
    (data / "file.bin").write_bytes(b"two")
    with pytest.raises(ValueError, match="must not change while it is read"):
        found.read()


def test_source_is_json(places):
    data, _ = places
    (data / "file.bin").write_bytes(CONTENT)
    source = Source("real", "some", (find(DataFile("file.bin", sha256=SHA256)).record(),))
    assert json.loads(json.dumps(source.as_dict())) == {
        "kind": "real",
        "name": "some",
        "files": [{"name": "file.bin", "sha256": SHA256, "published": True}],
    }
    assert source.published and not Source("synthetic", "some").published
