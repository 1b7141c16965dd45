"""Jena: a weather station's 14 readings, every ten minutes.

`load` takes the eight years 2009-2016 (420,551 rows) where that file is at hand, else two files of the same
station and columns: 2020 for training, and 2024, whose first half validates and whose second half tests.

Source: Max Planck Institute for Biogeochemistry, Jena; Chollet 2017, "Deep Learning with Python", 6.3.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseq.datasets.archives import gunzip, zip_member
from jaxseq.datasets.files import DataFile, DataNotFound, Found, Source, find

_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
EIGHT_YEARS = DataFile(
    "jena_climate_2009_2016.csv",
    alternatives=("jena_climate_2009_2016.csv.zip",),
    home=_KERAS + "jena_climate_2009_2016.csv.zip",
)
YEAR_2020 = DataFile("jena_weather_2020.csv.gz", home="https://www.bgc-jena.mpg.de/wetter")
SUMMER_2024 = DataFile("mpi_roof.csv", home="https://www.bgc-jena.mpg.de/wetter")
COLUMNS = (
    "p (mbar)",
    "T (degC)",
    "Tpot (K)",
    "Tdew (degC)",
    "rh (%)",
    "VPmax (mbar)",
    "VPact (mbar)",
    "VPdef (mbar)",
    "sh (g/kg)",
    "H2OC (mmol/mol)",
    "rho (g/m**3)",
    "wv (m/s)",
    "max. wv (m/s)",
    "wd (deg)",
)
TEMPERATURE = COLUMNS.index("T (degC)")
_WIND = (COLUMNS.index("wv (m/s)"), COLUMNS.index("max. wv (m/s)"))
_MISSING = -9999.0
_MOST_MISSING = 0.01  # share of a column's rows: beyond it, filling in would be inventing
_STEP = np.timedelta64(10, "m")
_MARK = b"\xef\xbb\xbf"  # byte-order
_AT_ONCE = 4_096  # lines read at a time: as text a file is many times its size
_MAX_BYTES = 1 << 28


class Parts(NamedTuple):
    """Which rows belong to which part. A window *and its target* belong inside one part."""

    train: slice
    validation: slice
    test: slice


class Irregularities(NamedTuple):
    """What is not as it should be; rows are never dropped or moved, only the missing readings are filled in.

    Args:
      missing: readings that were -9999 or NaN, by column; wind speeds became 0, others were interpolated.
      repeated: rows whose time is that of the row before or earlier, int64.
      gaps: rows before which more than ten minutes passed, within one file, int64.
    """

    missing: dict[str, int]
    repeated: np.ndarray
    gaps: np.ndarray


class JenaSeries(NamedTuple):
    """The readings, ten minutes apart.

    Args:
      values: float32 [N, 14], in the units of `columns`.
      times: datetime64[s] [N], local time of the station.
      columns: the names of the 14 columns.
      parts: rows for training, validation, test.
      starts: rows at which another recording starts, the first being 0.
      name: "jena_climate_2009_2016", "jena_weather_2020+mpi_roof_2024" or "synthetic".
      irregularities: missing readings, repeated and missing times.
      source: the files.
    """

    values: np.ndarray
    times: np.ndarray
    columns: tuple[str, ...]
    parts: Parts
    starts: tuple[int, ...]
    name: str
    irregularities: Irregularities
    source: Source


def load() -> JenaSeries:
    """Reads the eight years if they are at hand, else 2020 and 2024.

    The eight years' parts are the documents': rows 0 to 199,999 train, 200,001 to 299,999 validate (769
    batches of 128 windows), 300,001 to the end test (929 batches; the document takes a 930th, the first again).

    Returns:
      JenaSeries(values, times, columns, parts, starts, name, irregularities, source).
    Raises:
      ValueError: a file lacks a column, a row is damaged, or too much of a column is missing.
      DataNotFound: the files are not here (no checksum was published for any, so none is downloaded).
    """
    try:
        found = find(EIGHT_YEARS)
    except DataNotFound as error:
        missing = error
    else:
        values, times, irregularities = read_csv(_contents(found), str(found.path))
        if len(values) <= 300_001:
            raise ValueError(f"{found.path} must have more than 300,001 rows, got {len(values)}")
        parts = Parts(slice(0, 200_000), slice(200_001, 300_000), slice(300_001, len(values)))
        source = Source("real", "jena", (found.record(),))
        return JenaSeries(values, times, COLUMNS, parts, (0,), "jena_climate_2009_2016", irregularities, source)
    try:
        pair = [find(YEAR_2020), find(SUMMER_2024)]
    except DataNotFound as error:
        names = f"{YEAR_2020.name} and {SUMMER_2024.name}, from {YEAR_2020.home},"
        raise DataNotFound(f"{missing}; {names} together would do as well, but {error.args[0].split(':')[0]}") from None
    first, second = (read_csv(_contents(found), str(found.path)) for found in pair)
    train, total = len(first[0]), len(first[0]) + len(second[0])
    middle = train + len(second[0]) // 2
    irregularities = Irregularities(
        {
            name: first[2].missing.get(name, 0) + second[2].missing.get(name, 0)
            for name in COLUMNS
            if name in first[2].missing or name in second[2].missing
        },
        np.concatenate([first[2].repeated, second[2].repeated + train]),
        np.concatenate([first[2].gaps, second[2].gaps + train]),
    )
    return JenaSeries(
        np.concatenate([first[0], second[0]]),
        np.concatenate([first[1], second[1]]),
        COLUMNS,
        Parts(slice(0, train), slice(train, middle), slice(middle, total)),
        (0, train),
        "jena_weather_2020+mpi_roof_2024",
        irregularities,
        Source("real", "jena", tuple(found.record() for found in pair)),
    )


def _contents(found: Found) -> bytes:
    if found.path.suffix == ".zip":
        with found.open() as stream:
            return zip_member(stream, EIGHT_YEARS.name, title=str(found.path), max_bytes=_MAX_BYTES)
    return gunzip(found.read(), title=str(found.path), max_bytes=_MAX_BYTES)


def read_contents(path: Path) -> bytes:
    """The bytes of a CSV file, unpacked if it is a `.gz`.

    Raises:
      ValueError: it is damaged or too large.
    """
    return gunzip(path.read_bytes(), title=str(path), max_bytes=_MAX_BYTES)


def read_csv(contents: bytes, title: str = "the file") -> tuple[np.ndarray, np.ndarray, Irregularities]:
    """Reads the station's CSV: either date form, LF or CRLF, with or without a byte-order mark.

    Args:
      contents: the file, ISO-8859-1 or UTF-8; a date first, then at least the 14 columns, in any order.
      title: what error messages call it.
    Returns:
      (values float32 [N, 14], times datetime64[s] [N], Irregularities).
    Raises:
      ValueError: a column is missing, a row is damaged, or more than 1 % of a column is missing.
    """
    start = len(_MARK) if contents.startswith(_MARK) else 0
    while contents[start : start + 1] in (b"\r", b"\n"):
        start += 1
    end = len(contents)
    while end > start and contents[end - 1 : end] in (b"\r", b"\n"):
        end -= 1
    rows, stream = contents.count(b"\n", start, end), io.BytesIO(contents)
    stream.seek(start)
    names = [name.strip().strip('"') for name in stream.readline().decode("latin-1").split(",")]
    absent = [name for name in COLUMNS if name not in names]
    if absent:
        raise ValueError(f"{title} must have the 14 columns of the Jena data, but lacks {', '.join(absent)}")
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise ValueError(f"{title} must have each of the 14 columns once, got {', '.join(twice)} more than once")
    if not rows:
        raise ValueError(f"{title} must have rows of readings, got none")
    values, times = np.empty((rows, len(COLUMNS))), np.empty(rows, "datetime64[s]")
    for first in range(0, rows, _AT_ONCE):
        part = slice(first, min(first + _AT_ONCE, rows))
        lines = [line.decode("latin-1").rstrip("\r\n") for line in itertools.islice(stream, part.stop - first)]
        values[part], times[part] = _read_lines(lines, names, first + 2, title)
    missing = _fill_missing(values, title)
    steps = np.diff(times)
    irregularities = Irregularities(
        missing,
        np.flatnonzero(steps <= np.timedelta64(0, "s")) + 1,
        np.flatnonzero(steps > _STEP) + 1,
    )
    return values.astype(np.float32), times, irregularities


def _read_lines(lines: list[str], names: list[str], number: int, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Some lines, of which the first has a number in the file, as float64 [N, 14] and datetime64[s] [N]."""
    for line, place in zip(lines, itertools.count(number), strict=False):
        if line.count(",") != len(names) - 1:
            raise ValueError(f"{title} line {place} must have {len(names)} fields, got {line.count(',') + 1}")
    times = _read_times([line.partition(",")[0] for line in lines], number, title)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            columns = [names.index(name) for name in COLUMNS]
            values = np.loadtxt(lines, delimiter=",", usecols=columns, ndmin=2, comments=None)
    except (ValueError, Warning) as error:
        found = re.sub(r"at row (\d+)", lambda at: f"in line {int(at[1]) + number}", " ".join(str(error).split()))
        raise ValueError(f"{title} must have a number in every field: {found}") from error
    if (np.abs(values) > np.finfo(np.float32).max).any():  # infinite ones too
        raise ValueError(f"{title} must have finite readings of float32, got {np.nanmax(np.abs(values)):.3g}")
    return values, times


def _read_times(dates: list[str], number: int, title: str) -> np.ndarray:
    """`01.02.2009 00:10:00` or `2020-02-01 00:10:00` as datetime64[s]; the first stands in line `number`."""

    def require(good: Iterable[bool]) -> None:
        for date, (line, is_good) in zip(dates, enumerate(good, number), strict=True):
            if not is_good:
                raise ValueError(f"{title} line {line} must start with a date and time, got {date!r:.40}")

    require(len(date) == 19 for date in dates)
    characters = np.array(dates, "U19").view("U1").reshape(-1, 19)
    dotted = characters[:, 2] == "."
    order = np.array([6, 7, 8, 9, 5, 3, 4, 2, 0, 1, *range(10, 19)])
    characters = np.where(dotted[:, None], characters[:, order], characters)
    if dotted.any():
        characters[np.ix_(dotted, [4, 7])] = "-"
    characters[:, 10] = "T"
    # NumPy reads more: a time zone in place of seconds, years before 0.
    digits = (characters >= "0") & (characters <= "9")
    require((np.where(digits, "0", characters) == list("0000-00-00T00:00:00")).all(axis=1))
    joined = np.ascontiguousarray(characters).view("U19")[:, 0]
    try:
        return joined.astype("datetime64[s]")
    except ValueError:
        require(map(_is_date, joined))
        raise


def _is_date(text: str) -> bool:
    """Whether the calendar and the clock have it."""
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True


def _fill_missing(values: np.ndarray, title: str) -> dict[str, int]:
    """Fills in readings of -9999 or NaN: wind speeds with 0, the others linearly between their neighbours."""
    counts = {}
    absent = np.isnan(values) | (values == _MISSING)
    for column in np.flatnonzero(absent.any(0)).tolist():
        rows = absent[:, column]
        count = int(rows.sum())
        if column in _WIND:
            values[rows, column] = 0.0
        elif count > _MOST_MISSING * len(values):
            raise ValueError(
                f"{title} must have at most {_MOST_MISSING:.0%} of {COLUMNS[column]} missing,"
                f" got {count} of {len(values)} rows"
            )
        else:
            present = np.flatnonzero(~rows)
            values[rows, column] = np.interp(np.flatnonzero(rows), present, values[present, column])
        counts[COLUMNS[column]] = count
    return counts
