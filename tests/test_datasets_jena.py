"""The weather station's files: both date forms, Latin-1, CRLF, byte-order mark, missing values and times."""

import contextlib
import gzip
import os
import zipfile
from pathlib import Path

import chex
import numpy as np
import pytest

from jaxseq.datasets import DataNotFound, jena
from jaxseq.datasets.jena import COLUMNS, TEMPERATURE, read_csv

REAL = Path(os.environ["JAXSEQ_DATA"]) if os.environ.get("JAXSEQ_DATA") else None


def make_csv(
    values, *, dotted=True, header="Date Time", extra=(), newline="\r\n", quoted=False, start="2020-01-01T00:10"
):
    times = np.datetime64(start, "s") + np.arange(len(values)) * np.timedelta64(600, "s")
    names = [header, *COLUMNS, *extra]
    lines = [",".join(f'"{name}"' if quoted else name for name in names)]
    for moment, row in zip(times.tolist(), values, strict=True):
        date = moment.strftime("%d.%m.%Y %H:%M:%S" if dotted else "%Y-%m-%d %H:%M:%S")
        lines.append(",".join([date, *(f"{x:.2f}" for x in row), *("1.0" for _ in extra)]))
    return (newline.join(lines) + newline).encode("latin-1")


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(5, 3, (40, 14)).round(2)


@pytest.mark.parametrize("dotted", [True, False])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("extra", [(), ("SWDR (W/m²)", "max. PAR (µmol/m²/s)")])
def test_forms(values, dotted, newline, mark, extra):
    contents = mark + make_csv(values, dotted=dotted, newline=newline, extra=extra, quoted=not dotted)
    read, times, irregularities = read_csv(contents)
    np.testing.assert_allclose(read, values, rtol=1e-6)
    assert read.dtype == np.float32 and times.dtype == np.dtype("datetime64[s]")
    assert times[0] == np.datetime64("2020-01-01T00:10:00") and times[-1] == np.datetime64("2020-01-01T06:40:00")
    assert irregularities.missing == {} and len(irregularities.repeated) == len(irregularities.gaps) == 0


def test_columns_in_another_order(values):
    lines = make_csv(values, newline="\n").decode().splitlines()
    swapped = [",".join([fields[0], *fields[:0:-1]]) for fields in (line.split(",") for line in lines)]
    np.testing.assert_allclose(read_csv("\n".join(swapped).encode())[0], values, rtol=1e-6)


def test_day_and_month_are_not_confused(values):
    times = read_csv(make_csv(values, start="2009-02-01T00:10"))[1]
    assert times[0] == np.datetime64("2009-02-01T00:10:00")


def test_missing_values(values):
    values[3, 11] = values[4, 12] = -9999  # wind speed, highest wind speed
    values = np.concatenate([values] * 10)
    values[100, TEMPERATURE] = values[101, TEMPERATURE] = -9999
    values[99, TEMPERATURE], values[102, TEMPERATURE] = 1.0, 4.0
    values[0, 0] = -9999
    read, _, irregularities = read_csv(make_csv(values))
    assert irregularities.missing == {"p (mbar)": 1, "T (degC)": 2, "wv (m/s)": 10, "max. wv (m/s)": 10}
    assert read[3, 11] == read[4, 12] == 0
    np.testing.assert_allclose(read[99:103, TEMPERATURE], [1, 2, 3, 4])
    assert read[0, 0] == read[1, 0]  # nothing before it: the next one
    assert (read != -9999).all()


def test_too_much_missing(values):
    values[:2, TEMPERATURE] = -9999
    with pytest.raises(ValueError, match=r"at most 1% of T \(degC\) missing, got 2 of 40 rows"):
        read_csv(make_csv(values))


def test_repeated_and_missing_times(values):
    lines = make_csv(values, newline="\n").splitlines()
    lines = [*lines[:6], lines[5], *lines[6:20], *lines[23:]]
    read, times, irregularities = read_csv(b"\n".join(lines))
    assert len(read) == 38  # kept as they are
    assert irregularities.repeated.tolist() == [5] and irregularities.gaps.tolist() == [20]
    assert times[20] - times[19] == np.timedelta64(40, "m")
    # A block that comes twice, as in the real eight years: time runs back once.
    irregularities = read_csv(b"\n".join([*lines[:5], *lines[1:5], *lines[5:]]))[2]
    assert irregularities.repeated.tolist() == [4, 9]
    # A reading that comes early is none that is repeated.
    irregularities = read_csv(make_csv(values).replace(b" 00:20:00", b" 00:10:01"))[2]
    assert irregularities.repeated.tolist() == [] and irregularities.gaps.tolist() == [2]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("T (degC),", "T (K),").replace("rh (%)", "humidity"), r"lacks T \(degC\), rh \(%\)"),
        (lambda text: text.split("\n")[0], "must have rows"),
        (lambda text: "", "lacks p"),
        (lambda text: text.replace("\n", ",1\n", 3).replace(",1", "", 1), "line 2 must have 15 fields, got 16"),
        (lambda text: text + "01.01.2020 10:00:00,1,2", "must have 15 fields, got 3"),
        (lambda text: text + "\n\n" + text.split("\n")[1], "fields, got 1"),
        (lambda text: text.replace("01.01.2020 00:30:00", "01.13.2020 00:30:00"), "line 4 must start with a date"),
        (lambda text: text.replace("01.01.2020 00:30:00", "yesterday"), "line 4 must start with a date"),
        (lambda text: text.replace("01.01.2020 00:30:00", "                   "), "line 4 must start with a date"),
        (lambda text: text.replace("01.01.2020 00:30:00", "0x.01.2020 00:30:00"), "line 4 must start with a date"),
        (
            lambda text: text[: text.index(",", 400)] + ",inf" + text[text.index(",", text.index(",", 400) + 1) :],
            "finite",
        ),
        (
            lambda text: text[: text.index(",", 400)] + ",x" + text[text.index(",", text.index(",", 400) + 1) :],
            "a number",
        ),
        (
            lambda text: text[: text.index(",", 400)] + "," + text[text.index(",", text.index(",", 400) + 1) :],
            "a number",
        ),
    ],
)
def test_damaged_files(values, change, message):
    text = change(make_csv(values, newline="\n").decode())
    with pytest.raises(ValueError, match=f"^it.csv .*{message}") as error:
        read_csv(text.encode(), "it.csv")
    assert "\n" not in str(error.value)


def test_files_are_read_in_parts(values, monkeypatch):
    contents = make_csv(values, newline="\n")
    whole = read_csv(contents)
    monkeypatch.setattr(jena, "_AT_ONCE", 3)
    chex.assert_trees_all_equal(read_csv(contents)[:2], whole[:2])
    lines = contents.decode().split("\n")
    for place, message in ((0, "line 6 must start"), (5, "string 'x' to float64 in line 6, column 6")):
        fields = lines[5].split(",")
        fields[place] = "x"
        damaged = "\n".join([*lines[:5], ",".join(fields), *lines[6:]]).encode()
        with pytest.raises(ValueError, match=message):
            read_csv(damaged)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_two_files_make_one_series(directory, values):
    values[7, 11] = values[30, 12] = -9999  # the second is in the first file only
    first = make_csv(values, dotted=False, header="date", extra=("OT",)).splitlines(keepends=True)
    (directory / "jena_weather_2020.csv.gz").write_bytes(gzip.compress(b"".join([*first[:5], first[4], *first[5:]])))
    (directory / "mpi_roof.csv").write_bytes(make_csv(values[:21], start="2024-06-09T11:40"))
    series = jena.load()
    assert series.name == "jena_weather_2020+mpi_roof_2024" and series.columns == COLUMNS
    assert series.values.shape == (62, 14) and series.starts == (0, 41)
    assert series.parts == (slice(0, 41), slice(41, 51), slice(51, 62))
    assert series.irregularities.missing == {"wv (m/s)": 2, "max. wv (m/s)": 1}
    assert series.irregularities.repeated.tolist() == [4]
    assert [file.name for file in series.source.files] == ["jena_weather_2020.csv.gz", "mpi_roof.csv"]
    assert str(series.times[41]) == "2024-06-09T11:40:00"


@pytest.mark.parametrize("name", ["jena_climate_2009_2016.csv", "jena_climate_2009_2016.csv.zip"])
def test_eight_years(directory, name):
    body = b"01.01.2009 00:10:00" + b",1.5" * 14 + b"\n"
    contents = ('"Date Time",' + ",".join(f'"{column}"' for column in COLUMNS) + "\n").encode() + body * 420_551
    if name.endswith(".zip"):
        with zipfile.ZipFile(directory / name, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("jena_climate_2009_2016.csv", contents)
    else:
        (directory / name).write_bytes(contents)
    series = jena.load()
    assert series.name == "jena_climate_2009_2016" and series.values.shape == (420_551, 14)
    for part, batches in ((series.parts.validation, 769), (series.parts.test, 930)):
        assert (part.stop - part.start - 1440) // 128 == batches  # the documents' counts
    assert series.starts == (0,)
    assert series.parts.train == slice(0, 200_000) and series.parts.validation.start == 200_001


def test_eight_years_must_be_eight_years(directory, values, monkeypatch):
    (directory / "jena_climate_2009_2016.csv").write_bytes(make_csv(values))
    with pytest.raises(ValueError, match="more than 300,001 rows, got 40"):
        jena.load()
    for rows, has_test_part in ((300_001, False), (300_002, True)):
        read = np.zeros((rows, 14), np.float32), np.zeros(rows, "datetime64[s]"), None
        monkeypatch.setattr(jena, "read_csv", lambda *_, read=read: read)
        with contextlib.nullcontext() if has_test_part else pytest.raises(ValueError, match="rows, got 300001"):
            assert jena.load().parts.test == slice(300_001, 300_002)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "csv.zip"])
def test_files_are_limited(directory, values, monkeypatch, form):
    path, contents = directory / f"jena_climate_2009_2016.{form}", make_csv(values)
    monkeypatch.setattr(jena, "_MAX_BYTES", len(contents) - 1)
    if form == "csv.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("jena_climate_2009_2016.csv", contents)
    else:
        path.write_bytes(gzip.compress(contents) if form == "csv.gz" else contents)
    with pytest.raises(ValueError, match=f"must .*at most {len(contents) - 1} bytes"):
        jena.load()


def test_absent(directory):
    with pytest.raises(DataNotFound) as error:
        jena.load()
    message = str(error.value)
    for name in (
        "jena_climate_2009_2016.csv",
        "jena_climate_2009_2016.csv.zip",
        "jena_weather_2020.csv.gz",
        "mpi_roof.csv",
        "https://www.bgc-jena.mpg.de/wetter",
    ):
        assert name in message
    assert "\n" not in message


@pytest.mark.skipif(
    REAL is None or not (REAL / "jena_weather_2020.csv.gz").is_file(),
    reason="jena_weather_2020.csv.gz is not in $JAXSEQ_DATA",
)
def test_real_files():
    series = jena.load()
    if series.name != "jena_weather_2020+mpi_roof_2024":
        pytest.skip("the eight years are at hand, the pair is not read")
    assert len(series.values) == 52_696 + 19_132
    assert series.irregularities.missing == {"wv (m/s)": 1}
    assert series.times[series.irregularities.repeated].tolist() == [np.datetime64("2020-05-12T06:00:00").tolist()]
    (gap,) = series.irregularities.gaps
    assert str(series.times[gap - 1]) == "2020-05-29T09:30:00"
    assert series.times[gap] - series.times[gap - 1] == np.timedelta64(100, "m")
    # The naive forecasts that the data's notes give: every third window, 25 hours ahead.
    train = series.values[series.parts.train, TEMPERATURE]
    for part, expected in ((series.parts.validation, 0.378), (series.parts.test, 0.347)):
        row = np.arange(part.start + 1440, part.stop - 144, 3)
        error = np.abs(series.values[row + 144, TEMPERATURE] - series.values[row - 6, TEMPERATURE]).mean()
        assert error / train.std() == pytest.approx(expected, abs=0.001)
