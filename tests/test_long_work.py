"""What runs for hours or reads much: memory and compilations do not grow, loaders hold little more than the data."""

import gc
import gzip
import io
import json
import logging
import os
import resource
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import jaxseq
from jaxseq import losses
from jaxseq.datasets import fra_eng, glove, imdb, jena, reuters, ud_ewt
from tests.examples import objects

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 12, (48, 6)).astype(np.int32)
MEBIBYTE = 1 << 20


class Watch(logging.Handler):
    """After every so many epochs: bytes that the process holds, arrays that JAX does, programs made so far."""

    def __init__(self, every):
        super().__init__(logging.INFO)
        self.every, self.epochs = every, 0
        self.made, self.memory, self.arrays, self.programs = 0, [], [], []
        jax.monitoring.register_event_duration_secs_listener(self.note)

    def note(self, event, seconds, **_):
        self.made += event.startswith("/jax/core/compile/")

    def emit(self, record):
        self.epochs += " epoch " in record.getMessage()
        if self.epochs % self.every == 0 and self.epochs:
            gc.collect()  # takes longer than the epoch
            self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
            self.arrays.append(len(jax.live_arrays()))
            self.programs.append(self.made)


def train(epochs, every, **settings):
    """Trains two seeds of a tiny model, watched."""
    model = jaxseq.SequenceClassifier(jaxseq.SimpleRNN(3), 12, 2, dropout=0.2, recurrent_dropout=0.2)
    task = jaxseq.Task(model, losses.binary_cross_entropy, {"accuracy": losses.binary_accuracy})
    data = [jaxseq.examples(TOKENS[rows], TOKENS[rows, 0] % 2) for rows in (slice(0, 36), slice(36, 48))]
    optimizer = jaxseq.rmsprop(1e-3, clip_norm=1.0)
    log, watch = logging.getLogger("jaxseq"), Watch(every)
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    try:
        result = jaxseq.fit(
            task,
            *data,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=8,
            seeds=2,
            devices=jax.devices()[:1],
            progress=False,
            **settings,
        )
    finally:
        log.removeHandler(watch)
        jax.monitoring.unregister_event_duration_listener(watch.note)
        log.setLevel(logging.NOTSET)
    assert [len(run["loss"]) for run in result.history] == [epochs] * 2
    return watch


def test_epochs_take_no_more_memory_and_no_more_compilations(tmp_path):
    """See the soak below for a thousand."""
    plain, saved = train(200, every=20), train(10, every=1, directory=tmp_path, save_every=0)
    for watch in (plain, saved):
        assert len(watch.memory) == 10
        assert 0 < watch.programs[3] == watch.programs[-1]
        assert max(watch.arrays[5:]) <= max(watch.arrays[:5])
    assert plain.memory[-1] - plain.memory[1] < 2 * MEBIBYTE


def report(directory, **settings):
    """Of a thousand epochs, as JSON: in a process of its own."""
    watch = train(1000, every=10, directory=directory, **settings)
    print(json.dumps([watch.memory, watch.arrays, watch.programs]))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (", save_every=1e9", 2),  # MiB
        # Of what Orbax does 2,000 times, some kilobytes each stay, in no object of Python's: 10 MiB in one run.
        (", save_every=0", 16),
    ],
    ids=["saved at the end", "saved every epoch"],
)
def test_a_thousand_epochs_take_no_more_memory(tmp_path, settings, most):
    code = f"from tests.test_long_work import report; report({str(tmp_path)!r}{settings})"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    memory, arrays, programs = json.loads(done.stdout)
    growth = (max(memory[90:]) - max(memory[10:20])) / MEBIBYTE
    print(f"{memory[0] / MEBIBYTE:.1f} MiB after ten epochs, {memory[-1] / MEBIBYTE:.1f} after a thousand;")
    print(f"{growth:.1f} more in the last hundred than in the second")
    assert len(memory) == 100 and growth < most
    assert max(arrays[10:]) <= max(arrays[:10]) and len(set(programs[10:])) == 1


def write_reviews(directory, count):
    """An archive as IMDB's: as many reviews to train on as to test on, and twice as many without a label."""
    words = np.array([f"w{i}" for i in range(20_000)])
    size = 0
    with tarfile.open(directory / imdb.TEXTS.name, "w:gz", compresslevel=1) as archive:
        for folder in ("test/neg", "test/pos", "train/neg", "train/pos", *["train/unsup"] * 4):
            for _ in range(count // 2):
                text = " ".join(words[RNG.integers(0, len(words), 220)]).encode()
                member = tarfile.TarInfo(f"aclImdb/{folder}/{len(archive.getmembers())}_1.txt")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
                size += len(text) * (folder != "train/unsup")
    return size


def write_readings(directory, rows):
    """Two files as the Jena station's."""
    minutes = np.arange(rows) * np.timedelta64(600, "s")
    header = ",".join(f'"{name}"' for name in ("Date Time", *jena.COLUMNS))
    lines = [header]
    for time, values in zip(np.datetime64("2020-01-01T00:00:00") + minutes, RNG.normal(0, 50, (rows, 14)), strict=True):
        lines.append(f"{str(time).replace('T', ' ')},{','.join(f'{value:.2f}' for value in values)}")
    text = "\n".join(lines) + "\n"
    for name in ("jena_weather_2020.csv", "mpi_roof.csv"):
        (directory / name).write_text(text)
    return 2 * len(text)


def make_texts(count):
    """As lists of word ranks, in an object array."""
    return objects([RNG.zipf(1.3, length).clip(1, 20_000).tolist() for length in RNG.integers(100, 340, count)])


def write_imdb(directory, rows):
    """A file as Keras' of IMDB, half of the reviews in each part."""
    parts = {f"x_{part}": make_texts(rows // 2) for part in ("train", "test")}
    labels = {f"y_{part}": RNG.integers(0, 2, rows // 2) for part in ("train", "test")}
    np.savez(directory / "imdb.npz", **parts, **labels)
    return (directory / "imdb.npz").stat().st_size


def write_reuters(directory, rows):
    """A file as Keras' of Reuters."""
    np.savez(directory / "reuters.npz", x=make_texts(rows), y=RNG.integers(0, 46, rows))
    return (directory / "reuters.npz").stat().st_size


def write_vectors(directory, rows):
    """A file as GloVe's, packed."""
    lines = (f"w{i} {' '.join(f'{value:.5f}' for value in RNG.normal(size=100))}\n" for i in range(rows))
    text = "".join(lines).encode()
    (directory / "glove.6B.100d.txt.gz").write_bytes(gzip.compress(text, 1))
    return len(text)


def write_pairs(directory, rows):
    """A file as the Tatoeba project's, in no archive."""
    words = ("Tom", "déjà", "said", "où", "we", "were", "parti", "at", "œuvre", "home")
    lines = ("\t".join(" ".join(RNG.choice(words, 6)) for _ in range(2)) for _ in range(rows))
    text = "\n".join(lines).encode()
    (directory / "fra.txt").write_bytes(text)
    return len(text)


def write_treebank(directory, rows):
    """The English Web Treebank's three files, packed: so many sentences of 16 words in all."""
    words = "".join(f"{i}\tw{i}\tw{i}\tNOUN\tNN\tNumber=Sing\t0\troot\t0:root\tSpaceAfter=No\n" for i in range(1, 17))
    text = f"# sent_id = one\n# text = {'word ' * 16}\n{words}\n".encode() * (rows // 3)
    for part in ("train", "dev", "test"):
        (directory / f"en_ewt-ud-{part}.conllu.gz").write_bytes(gzip.compress(text, 1))
    return 3 * len(text)


class Loader(NamedTuple):
    """A loader, a writer of files for it, how much to write here, and how much to be as large as the real data."""

    write: Callable[[Path, int], int]
    load: Callable[[], Any]
    few: int
    real: int
    returns_more: bool = False  # than the file holds: its numbers are small, its strings short

    def size(self, in_file, returned):
        """Bytes of the data."""
        return max(in_file, returned) if self.returns_more else in_file


LOADERS = {
    "imdb.load_texts": Loader(write_reviews, imdb.load_texts, 1200, 25_000),
    "imdb.load": Loader(write_imdb, imdb.load, 5_000, 50_000, returns_more=True),
    "reuters.load": Loader(write_reuters, reuters.load, 5_000, 11_228, returns_more=True),
    "jena.load": Loader(write_readings, jena.load, 10_000, 210_000),
    "glove.load": Loader(write_vectors, glove.load, 3_000, 400_000),
    "fra_eng.load": Loader(write_pairs, fra_eng.load, 20_000, 142_787, returns_more=True),
    "ud_ewt.load": Loader(write_treebank, ud_ewt.load, 3_000, 16_622, returns_more=True),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_hold_less_than_three_times_the_data(name, tmp_path, monkeypatch):
    """All that Python and NumPy allocate, for some megabytes.

    The data are the file, unpacked; for loaders that return more than it holds, what they return.
    """
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    loader = LOADERS[name]
    size = loader.write(tmp_path, loader.few)
    gc.collect()
    tracemalloc.start()
    try:
        data = loader.load()
        returned, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data and peak < 3 * loader.size(size, returned), (
        f"{peak}, {peak / size:.2f} times {size}, returned {returned}"
    )


@pytest.mark.soak
@pytest.mark.parametrize("name", LOADERS)
def test_loaders_hold_less_than_three_times_data_of_the_real_size(name, tmp_path):
    """All that the process holds, in a process without JAX."""
    loader = LOADERS[name]
    size = loader.write(tmp_path, loader.real)
    code = (  # VmHWM, not ru_maxrss, which begins at the parent's
        "import sys, types, re; package = types.ModuleType('jaxseq'); package.__path__ = [sys.argv[1]];"
        f"sys.modules['jaxseq'] = package; from jaxseq.datasets import {name.partition('.')[0]};"
        "import ctypes, numpy.random;"
        r"bytes_of = lambda name: 1024 * int(re.search(name + r':\s+(\d+)', open('/proc/self/status').read())[1]);"
        f"before = bytes_of('VmHWM'); data = {name}();"
        "ctypes.CDLL(None).malloc_trim(0);"  # what is kept, without what was freed
        "print(bytes_of('VmHWM') - before, bytes_of('VmRSS') - before)"
    )
    environment = os.environ | {"JAXSEQ_DATA": str(tmp_path)}
    command = [sys.executable, "-c", code, str(Path(jaxseq.__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak, returned = map(int, done.stdout.split())
    print(f"{name}: {peak / size:.2f} times {size} bytes; {returned} remain")
    assert peak < 3 * loader.size(size, returned)
