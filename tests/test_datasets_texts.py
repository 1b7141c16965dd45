"""GloVe, SMS, the treebank and the sentence pairs: real files where at hand, small ones of their formats anywhere."""

import gzip
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxseq.datasets import DataNotFound, fra_eng, glove, sms, ud_ewt

REAL = Path(os.environ["JAXSEQ_DATA"]) if os.environ.get("JAXSEQ_DATA") else None
CONLLU = """# text = We don't run
1\tWe\twe\tPRON\tPRP\t_\t3\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\trun\trun\tVERB\tVB\t_\t0\troot\t_\t_
4.1\trun\trun\tVERB\tVB\t_\t_\t_\t_\t_

# next
1\tHi\thi\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def real(name):
    return pytest.mark.skipif(
        REAL is None or not (REAL / name).is_file(), reason=f"{name} is not in $JAXSEQ_DATA: generated files only"
    )


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("form", ["glove.6B.50d.txt", "glove.6B.50d.txt.gz", "glove.6B.zip"])
def test_glove(directory, form):
    vectors = np.random.default_rng(0).normal(size=(3, 50)).round(4)
    lines = [" ".join([word, *map(str, row)]) for word, row in zip(("the", ",", "naïve"), vectors, strict=True)]
    contents = ("\n".join(lines) + "\n").encode()
    if form.endswith(".zip"):
        with zipfile.ZipFile(directory / form, "w") as archive:
            archive.writestr("glove.6B.50d.txt", contents)
            archive.writestr("glove.6B.100d.txt", b"")
    else:
        (directory / form).write_bytes(gzip.compress(contents) if form.endswith(".gz") else contents)
    read = glove.load(50)
    assert read.vectors.words == ("the", ",", "naïve")
    np.testing.assert_allclose(read.vectors.matrix, vectors, rtol=1e-6)
    assert read.words_in_file == 3 and not read.complete
    assert read.source.files[0].name == form
    some = glove.load(50, words=["naïve", "absent"])
    assert some.vectors.words == ("naïve",) and some.words_in_file == 3


def test_glove_errors(directory):
    for value in (42, "100", None):
        with pytest.raises(ValueError, match="dimensions must be one of 50, 100, 200, 300, got"):
            glove.load(value)
    with pytest.raises(DataNotFound, match="glove.6B.100d.txt.gz or glove.6B.zip, from .*862 MB"):
        glove.load()
    path = directory / "glove.6B.100d.txt"
    path.write_text("the 1 2 3\n")
    with pytest.raises(ValueError, match="must have 100 numbers a line, got 3"):
        glove.load()
    path.write_text("the " + "1 " * 99 + "nan\n")
    with pytest.raises(ValueError) as error:
        glove.load()
    assert str(path) in str(error.value)
    path.unlink()
    (directory / "glove.6B.100d.txt.gz").write_bytes(gzip.compress(b"the 1 2 3\n")[:-3])
    with pytest.raises(ValueError, match="must be a whole gzip file"):
        glove.load()


@real("glove.6B.100d.txt.gz")
def test_real_glove():
    read = glove.load()
    assert read.vectors.size == 100 and len(read.vectors) == read.words_in_file >= 2_604
    assert read.vectors.words[:3] == ("the", ",", ".")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_sms(directory, newline, mark):
    text = mark + f"ham\tHi, \tyou £{newline}spam\tWIN{newline}{newline}"
    (directory / "SMSSpamCollection").write_bytes(text.encode())
    read = sms.load()
    assert read.texts == ["Hi, \tyou £", "WIN"]
    assert read.targets.tolist() == [0, 1] and read.targets.dtype == np.int32


@pytest.mark.parametrize(
    "contents, message",
    [
        (b"ham\tx\neggs\tx", "line 2 must be 'ham' or"),
        (b"ham", "line 1"),
        (b"", "hold messages"),
        (b"ham\t\xff", "UTF-8"),
    ],
)
def test_bad_sms(directory, contents, message):
    (directory / "SMSSpamCollection").write_bytes(contents)
    with pytest.raises(ValueError, match=f"SMSSpamCollection .*{message}"):
        sms.load()


@real("SMSSpamCollection")
def test_real_sms():
    read = sms.load()
    assert (len(read.texts), int(read.targets.sum())) == (5_574, 747)


@pytest.mark.parametrize("packed", [True, False])
def test_treebank(directory, packed):
    for part in ("train", "dev", "test"):
        contents = CONLLU.replace("\n", "\r\n" if part == "dev" else "\n").encode()
        name = f"en_ewt-ud-{part}.conllu" + (".gz" if packed else "")
        (directory / name).write_bytes(gzip.compress(contents) if packed else contents)
    read = ud_ewt.load()
    expected = [(("We", "do", "n't", "run"), ("PRON", "AUX", "PART", "VERB")), (("Hi",), ("INTJ",))]
    assert read.train == read.validation == read.test == expected
    assert len(read.source.files) == 3 and len(ud_ewt.TAGS) == 17


@pytest.mark.parametrize(
    "contents, message",
    [
        (b"1\tWe\tPRON\n", "line 1 must have 10 tab-separated fields, got 3"),
        (CONLLU.replace("VERB", "RUN").encode(), "line 6 must have a universal tag, got 'RUN'"),
        (b"# nothing\n", "must hold sentences"),
        (b"# one\n\xff", "line 2 must be UTF-8"),
    ],
)
def test_bad_treebank(contents, message):
    with pytest.raises(ValueError, match=f"^it {message}"):
        ud_ewt.read_conllu(contents, "it")


@real("en_ewt-ud-train.conllu.gz")
def test_real_treebank():
    read = ud_ewt.load()
    sizes = [(len(part), sum(len(sentence.words) for sentence in part)) for part in read[:3]]
    assert sizes == [(12_544, 204_577), (2_001, 25_147), (2_077, 25_094)]


@pytest.mark.parametrize("form", ["fra-eng.zip", "fra.txt", "fra.txt.gz"])
def test_pairs(directory, form):
    contents = "Go.\tVa !\nRun!\tCours\u202f!\tCC-BY 2.0\n".encode()
    if form.endswith(".zip"):
        with zipfile.ZipFile(directory / form, "w") as archive:
            archive.writestr("fra.txt", contents)
    else:
        (directory / form).write_bytes(gzip.compress(contents) if form.endswith(".gz") else contents)
    read = fra_eng.load()
    assert read.english == ["Go.", "Run!"] and read.french == ["Va !", "Cours\u202f!"]


@pytest.mark.parametrize(
    "contents, message",
    [(b"Go.", "line 1 must be two"), (b"Go.\t", "line 1"), (b"", "hold sentence"), (b"\xff", "UTF-8")],
)
def test_bad_pairs(directory, contents, message):
    (directory / "fra.txt").write_bytes(contents)
    with pytest.raises(ValueError, match=f"fra.txt .*{message}"):
        fra_eng.load()


@real("fra-eng.zip")
def test_real_pairs():
    read = fra_eng.load()
    assert len(read.english) == len(read.french) == 142_787
    assert (read.english[0], read.french[0]) == ("Go.", "Va !")
