"""IMDB and Reuters against Keras, option by option, on the real files where they are at hand."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxseq.datasets import DataNotFound, imdb, reuters
from jaxseq.datasets.reuters import TOPICS
from tests.examples import objects

REAL = Path(os.environ["JAXSEQ_DATA"]) if os.environ.get("JAXSEQ_DATA") else None


def real(name):
    return pytest.mark.skipif(
        REAL is None or not (REAL / name).is_file(), reason=f"{name} is not in $JAXSEQ_DATA: generated files only"
    )


@pytest.fixture(scope="module")
def keras_datasets():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    return keras.src.datasets


def make_rows(rng, count):
    return objects([rng.zipf(1.3, n).clip(1, 500).tolist() for n in rng.integers(1, 60, count)])


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Small files of the real ones' formats."""
    rng = np.random.default_rng(5)
    np.savez(
        tmp_path / "imdb.npz",
        x_train=make_rows(rng, 60),
        y_train=rng.integers(0, 2, 60),
        x_test=make_rows(rng, 50),
        y_test=rng.integers(0, 2, 50),
    )
    np.savez(tmp_path / "reuters.npz", x=make_rows(rng, 90), y=rng.integers(0, 46, 90))
    for name in ("imdb", "reuters"):
        (tmp_path / f"{name}_word_index.json").write_text(json.dumps({"the": 1, "café": 2}))
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as archive:
        for part in ("train", "test"):
            for label in ("pos", "neg", "unsup"):
                for number in (10, 9, 0):
                    text = f"{part} {label} {number} \x96 é".encode()
                    info = tarfile.TarInfo(f"aclImdb/{part}/{label}/{number}_1.txt")
                    info.size = len(text)
                    archive.addfile(info, io.BytesIO(text))
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    monkeypatch.setenv("JAXSEQ_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


OURS = {"start": "start_char", "out_of_vocabulary": "oov_char"}
OPTIONS = [
    {},
    {"num_words": 50},
    {"num_words": 50, "skip_top": 7},
    {"maxlen": 20, "num_words": 100},
    {"maxlen": 20, "start": None},
    {"out_of_vocabulary": None, "num_words": 30, "skip_top": 5},
    {"start": None, "index_from": 0},
    {"start": 7, "index_from": 10, "out_of_vocabulary": 9, "num_words": 60},
    {"seed": 7},
]


def assert_same(ours, keras):
    (train_inputs, train_targets), (test_inputs, test_targets) = keras
    assert [row.tolist() for row in ours.train_inputs] == [list(row) for row in train_inputs]
    assert [row.tolist() for row in ours.test_inputs] == [list(row) for row in test_inputs]
    np.testing.assert_array_equal(ours.train_targets, train_targets)
    np.testing.assert_array_equal(ours.test_targets, test_targets)
    for inputs in (ours.train_inputs, ours.test_inputs):
        assert inputs.dtype == object and all(row.dtype == np.int32 for row in inputs)
    assert ours.train_targets.dtype == ours.test_targets.dtype == np.int32


def keras_load(module, path, options, monkeypatch):
    monkeypatch.setattr(module, "get_file", lambda *args, **kwargs: str(path))
    return module.load_data(**{OURS.get(name, name): value for name, value in options.items()})


@pytest.mark.parametrize("options", OPTIONS)
def test_imdb_equals_keras(small, options, keras_datasets, monkeypatch):
    theirs = keras_load(keras_datasets.imdb, small / "imdb.npz", options, monkeypatch)
    assert_same(imdb.load(**options), theirs)


@pytest.mark.parametrize("options", [*OPTIONS, {"test_split": 0.35}, {"test_split": 0.0}, {"test_split": 1.0}])
def test_reuters_equals_keras(small, options, keras_datasets, monkeypatch):
    theirs = keras_load(keras_datasets.reuters, small / "reuters.npz", options, monkeypatch)
    assert_same(reuters.load(**options), theirs)


@real("imdb.npz")
def test_real_imdb(keras_datasets, monkeypatch):
    assert REAL
    data = imdb.load(num_words=10_000, maxlen=400)
    assert_same(
        data, keras_load(keras_datasets.imdb, REAL / "imdb.npz", {"num_words": 10_000, "maxlen": 400}, monkeypatch)
    )
    data = imdb.load()
    assert data.train_inputs[0][:7].tolist() == [1, 14, 22, 16, 43, 530, 973] and len(data.train_inputs[0]) == 218
    assert data.train_targets[:10].tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 1, 0]
    lengths = np.array([len(row) for row in np.concatenate([data.train_inputs, data.test_inputs])])
    # The published figures are Keras' without the start mark.
    assert lengths.mean() == pytest.approx(234.75892, abs=1e-9)
    assert lengths.std() == pytest.approx(172.911495, abs=1e-6)
    assert len(data.train_inputs) == len(data.test_inputs) == 25_000
    (file,) = data.source.files
    assert file.sha256 == hashlib.sha256((REAL / "imdb.npz").read_bytes()).hexdigest()
    assert file.published == (file.sha256 == imdb.SEQUENCES.sha256)
    assert data.source.kind == "real"


@real("reuters.npz")
@pytest.mark.parametrize("options", [{}, {"num_words": 1000, "maxlen": 100, "test_split": 0.2}])
def test_real_reuters(options, keras_datasets, monkeypatch):
    assert REAL
    data = reuters.load(**options)
    assert_same(data, keras_load(keras_datasets.reuters, REAL / "reuters.npz", options, monkeypatch))
    if not options:
        assert (len(data.train_inputs), len(data.test_inputs)) == (8_982, 2_246)
        assert data.train_inputs[0][:5].tolist() == [1, 27595, 28842, 8, 43] and len(data.train_inputs[0]) == 87
        counts = np.bincount(np.concatenate([data.train_targets, data.test_targets]))
        assert TOPICS[counts.argmax()] == "earn" and len(counts) == len(TOPICS) == 46


@real("imdb_word_index.json")
def test_real_word_indexes():
    assert (len(imdb.word_index()), len(reuters.word_index())) == (88_584, 30_979)
    assert imdb.word_index()["the"] == reuters.word_index()["the"] == 1


@real("aclImdb_v1.tar.gz")
def test_real_texts():
    data = imdb.load_texts()
    assert len(data.train_texts) == len(data.test_texts) == 25_000
    assert data.train_targets.tolist() == data.test_targets.tolist() == [0] * 12_500 + [1] * 12_500
    assert data.train_texts[0].startswith("Story of a man who has unnatural feelings for a pig.")


def test_topics_are_keras(keras_datasets):
    assert keras_datasets.reuters.get_label_names() == TOPICS


def test_word_index(small):
    assert imdb.word_index() == reuters.word_index() == {"the": 1, "café": 2}
    for contents in ("[1]", '{"a": "b"}', "{", '{"a": true}', "[" * 10_000):
        (small / "imdb_word_index.json").write_text(contents)
        with pytest.raises(ValueError, match="imdb_word_index.json must be (?:a )?JSON"):
            imdb.word_index()


def test_texts(small):
    data = imdb.load_texts()
    order = [f"{label} {number}" for label in ("neg", "pos") for number in (0, 10, 9)]
    assert data.train_texts == [f"train {text} \x96 é" for text in order]
    assert data.test_texts == [f"test {text} \x96 é" for text in order]
    assert data.train_targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.source.as_dict()["files"][0]["name"] == "aclImdb_v1.tar.gz"


@pytest.mark.parametrize("name, contents", [("aclImdb/train/neg/1.txt", b"fine"), ("aclImdb/train/neg/1.txt", b"\xff")])
def test_bad_texts(small, name, contents):
    with tarfile.open(small / "aclImdb_v1.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(contents)
        archive.addfile(info, io.BytesIO(contents))
    with pytest.raises(
        ValueError, match="must be UTF-8" if contents == b"\xff" else "must hold reviews in aclImdb/train/pos"
    ):
        imdb.load_texts()


@pytest.mark.parametrize("load", [imdb.load, reuters.load])
@pytest.mark.parametrize(
    "option, value",
    [
        ("num_words", 0),
        ("num_words", -1),
        ("num_words", 1.5),
        ("num_words", "500"),
        ("num_words", True),
        ("skip_top", -1),
        ("skip_top", None),
        ("maxlen", 0),
        ("maxlen", float("nan")),
        ("seed", -1),
        ("seed", None),
        ("start", -1),
        ("out_of_vocabulary", 2**40),
        ("index_from", -3),
    ],
)
def test_bad_options(small, load, option, value):
    with pytest.raises(ValueError, match=f"^{option} must be an integer from .*, got "):
        load(**{option: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.2", None, True])
def test_bad_test_split(small, value):
    with pytest.raises(ValueError, match="^test_split must be a share from 0 to 1, got"):
        reuters.load(test_split=value)


@pytest.mark.parametrize("load", [imdb.load, reuters.load])
def test_nothing_left(small, load):
    with pytest.raises(ValueError, match="maxlen must leave some"):
        load(maxlen=1)


@pytest.mark.parametrize(
    "words, labels, message",
    [
        (np.arange(3), np.arange(3), "object array"),
        (objects([[1], [2, 3]]), np.arange(3), "one integer label per text"),
        (objects([[1], [2, 3]]), np.ones(2), "one integer label per text"),
        (objects([[1], [2, 3]]), np.array([0, 46]), "labels from 0 to 45, got 0 to 46"),
        (objects([[1], [2, -3]]), np.array([0, 1]), "word ranks"),
        (objects([[1], [2, 2**31 - 1]]), np.array([0, 1]), "word ranks"),
    ],
)
def test_files_that_are_not_what_they_should_be(small, words, labels, message):
    np.savez(small / "reuters.npz", x=words, y=labels)
    with pytest.raises(ValueError, match=f"reuters.npz must .*{message}"):
        reuters.load()


def test_rank_0_is_a_rank(small):
    np.savez(small / "reuters.npz", x=objects([[0, 2], [2, 0, 1], [1]]), y=np.array([0, 45, 7]))
    read = reuters.load(test_split=0, num_words=10)
    assert sorted(text.tolist() for text in read.train_inputs) == [[1, 3, 5], [1, 4], [1, 5, 3, 4]]


def test_absent(small):
    (small / "imdb.npz").unlink()
    with pytest.raises(DataNotFound, match="^imdb.npz not found: put imdb.npz, from https://storage"):
        imdb.load()


@real("imdb.npz")
def test_peak_memory():
    """Near three times the 45 MiB of the result (128 MiB measured); Keras takes 560, in lists of Python integers."""
    import subprocess
    import sys

    code = (  # VmHWM, not ru_maxrss, which begins at the parent's
        "import sys, types, re; package = types.ModuleType('jaxseq'); package.__path__ = [sys.argv[1]];"
        "sys.modules['jaxseq'] = package; from jaxseq.datasets import imdb;"
        r"peak = lambda: int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]); before = peak();"
        "data = imdb.load(); print((peak() - before) // 1024)"
    )
    package = str(Path(imdb.__file__).parent.parent)
    run = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 160, "MiB"
