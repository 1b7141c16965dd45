"""Jena: tomorrow's temperature from ten days of weather (document 003, section 6.3)."""

import functools
from typing import Any

import numpy as np

import jaxseq
from experiments.experiment import SMOKE_EXAMPLES, Data, Experiment, Variant, summarize
from jaxseq.datasets import jena, synthetic

_DOCUMENT = "003_02921b636a63a0ce.txt"
_WINDOWS = jaxseq.Windows(lookback=1440, delay=144, step=6, target=jena.TEMPERATURE)
_BATCH = 128
_DRAWS = 500 * _BATCH  # training windows an epoch, drawn with replacement


@functools.cache
def _series(is_synthetic: bool, smoke: bool) -> jena.JenaSeries:
    if is_synthetic:
        return synthetic.jena(np.random.default_rng(0), 9_000 if smoke else 60_000)
    return jena.load()


@functools.cache
def _load(is_synthetic: bool, smoke: bool) -> Data:
    """Windows of the normalised series; all of it lies on the device once, windows are gathered there."""
    series = _series(is_synthetic, smoke)
    scaler = jaxseq.Scaler.fit(series.values[series.parts.train])
    values = scaler.transform(series.values).astype(np.float32)
    parts = series.parts
    passes = _DRAWS / len(_rows(series, parts.train))
    notes = [f"{_DRAWS:,} windows an epoch are {passes:.1f} passes over the training part"]
    if series.name == "jena_weather_2020+mpi_roof_2024":
        notes.append(
            "not the document's 2009-2016 file: trained on 2020, validated and tested on the halves of summer and "
            "autumn 2024, same station; compare findings, not figures"
        )
    if series.irregularities.missing:
        notes.append(f"missing readings filled in: {series.irregularities.missing}")

    def part(rows: np.ndarray, draws: int | None = None) -> jaxseq.Examples:
        if smoke:
            rows, draws = rows[:SMOKE_EXAMPLES], draws and SMOKE_EXAMPLES
        return jaxseq.Examples(values, rows, _WINDOWS.take, draws)

    return Data(
        train=part(_rows(series, parts.train), _DRAWS),
        validation=part(_in_order(series, parts.validation)),
        test=part(_in_order(series, parts.test)),
        source=series.source.as_dict(),
        notes=tuple(notes),
        units=("°C", float(scaler.deviation[jena.TEMPERATURE])),
    )


def _end(series: jena.JenaSeries, part: slice) -> int:
    """Where a part's windows end. Code 6-33 lets the last targets lie `delay` rows beyond the part; where the
    next part is another recording, or there is none, they must not."""
    beyond = part.stop in (*series.starts, len(series.values))
    return part.stop - _WINDOWS.delay - 1 if beyond else part.stop


def _rows(series: jena.JenaSeries, part: slice) -> np.ndarray:
    return _WINDOWS.rows(part.start, _end(series, part), length=len(series.values))


def _in_order(series: jena.JenaSeries, part: slice) -> np.ndarray:
    return _WINDOWS.batches(part.start, _end(series, part), batch_size=_BATCH, length=len(series.values)).reshape(-1)


def _naive(data: Data) -> dict[str, Any]:
    """The error of repeating the newest temperature."""
    assert data.test is not None

    def error(examples: jaxseq.Examples) -> float:
        forecast = _WINDOWS.naive(examples.arrays, examples.rows)
        truth = examples.arrays[examples.rows + _WINDOWS.delay, _WINDOWS.target]
        return float(np.mean(np.abs(np.asarray(forecast, np.float64) - truth)))

    return {
        "final": {"val_loss": summarize([error(data.validation)])},
        "test": {"loss": summarize([error(data.test)])},
    }


def _forecaster(model: Any, parameters: int, *, epochs: int) -> Variant:
    """RMSprop on the MAE, 500 steps of 128 windows an epoch."""
    return Variant(
        load=_load,
        model=model,
        loss=jaxseq.losses.absolute_error,
        metrics={},
        optimizer=jaxseq.rmsprop(),
        epochs=epochs,
        batch_size=_BATCH,
        parameters=parameters,
    )


EXPERIMENTS = [
    Experiment(
        name="jena_naive",
        document=_DOCUMENT,
        title="tomorrow's temperature is today's",
        documented="validation MAE 0.29 (2.57 °C)",
        figure=("final val_loss", 0.29),
        measure=_naive,
        data=_load,
    ),
    Experiment(
        name="jena_gru",
        document=_DOCUMENT,
        title="ten days of hourly weather: GRU(32) → Dense(1)",
        documented="validation MAE under 0.265 (2.35 °C)",
        figure=("best val_loss", 0.265),
        variants=(_forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32)), 4_545, epochs=20),),
    ),
]
