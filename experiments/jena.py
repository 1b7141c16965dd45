"""Jena: tomorrow's temperature from ten days of weather (document 003, sections 6.3 and 6.4)."""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import jaxseq
from experiments.experiment import SMOKE_EXAMPLES, Data, Experiment, Variant, summarize
from jaxseq.datasets import jena, synthetic
from jaxseq.models import Conv1D, Dense

_DOCUMENT = "003_02921b636a63a0ce.txt"
_WINDOWS = jaxseq.Windows(lookback=1440, delay=144, step=6, target=jena.TEMPERATURE)
_HALF_HOURS = jaxseq.Windows(lookback=1440, delay=144, step=3, target=jena.TEMPERATURE)  # code 6-48
_BATCH = 128
_DRAWS = 500 * _BATCH  # training windows an epoch, drawn with replacement


@functools.cache
def _series(is_synthetic: bool, smoke: bool) -> jena.JenaSeries:
    if is_synthetic:
        return synthetic.jena(np.random.default_rng(0), 9_000 if smoke else 60_000)
    return jena.load()


@functools.cache
def _load(is_synthetic: bool, smoke: bool, windows: jaxseq.Windows = _WINDOWS, reverse: bool = False) -> Data:
    """Windows of the normalised series; all of it lies on the device once, windows are gathered there.

    `reverse` turns every window round in time: what the last line of code 6-33 gives with `samples[:, ::-1, :]`.
    """
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
        return jaxseq.Examples(values, rows, _reversed_windows if reverse else windows.take, draws)

    return Data(
        train=part(_rows(series, parts.train), _DRAWS),
        validation=part(_in_order(series, parts.validation)),
        test=part(_in_order(series, parts.test)),
        source=series.source.as_dict() | {"name": series.name},
        notes=tuple(notes),
        units=("°C", float(scaler.deviation[jena.TEMPERATURE])),
    )


def _reversed_windows(values: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, targets = _WINDOWS.take(values, rows)
    return inputs[:, ::-1], targets


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
    assert data.validation is not None and data.test is not None

    def error(examples: jaxseq.Examples) -> float:
        forecast = _WINDOWS.naive(examples.arrays, examples.rows)
        truth = examples.arrays[examples.rows + _WINDOWS.delay, _WINDOWS.target]
        return float(np.mean(np.abs(np.asarray(forecast, np.float64) - truth)))

    return {
        "final": {"val_loss": summarize([error(data.validation)])},
        "test": {"loss": summarize([error(data.test)])},
    }


class _DenseNetwork(nn.Module):
    """Flatten → Dense(32, relu) → Dense(1), code 6-37."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        hidden = nn.relu(Dense(32)(inputs.reshape(len(inputs), -1)))
        return Dense(1)(hidden)


class _Convnet(nn.Module):
    """Conv1D(32, 5, relu) → MaxPooling1D(3), twice → Conv1D(32, 5, relu) → GlobalMaxPooling1D → Dense(1), code 6-47."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        for _ in range(2):
            inputs = nn.max_pool(nn.relu(Conv1D(32, 5)(inputs)), (3,), (3,))
        features = nn.relu(Conv1D(32, 5)(inputs))
        return Dense(1)(features.max(axis=1))


class _ConvolutionalGRU(nn.Module):
    """Conv1D(32, 5, relu) → MaxPooling1D(3) → Conv1D(32, 5, relu) → GRU(32, dropout) → Dense(1), code 6-49."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        pooled = nn.max_pool(nn.relu(Conv1D(32, 5)(inputs)), (3,), (3,))
        features = nn.relu(Conv1D(32, 5)(pooled))
        layer = jaxseq.Recurrent(jaxseq.GRU(32), dropout=0.1, recurrent_dropout=0.5)
        state, _ = layer(features, train=train)
        return Dense(1)(layer.last_output(state))


def _forecaster(model: Any, parameters: int | None, *, epochs: int, label: str = "", **load: Any) -> Variant:
    """RMSprop on the MAE, 500 steps of 128 windows an epoch."""
    return Variant(
        load=functools.partial(_load, **load),
        model=model,
        loss=jaxseq.losses.absolute_error,
        metrics={},
        optimizer=jaxseq.rmsprop(),
        epochs=epochs,
        batch_size=_BATCH,
        parameters=parameters,
        label=label,
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
        name="jena_dense",
        document=_DOCUMENT,
        title="ten days of hourly weather: Flatten → Dense(32, relu) → Dense(1)",
        documented="near the naive forecast (validation MAE 0.29), unstable",
        variants=(_forecaster(_DenseNetwork(), 107_585, epochs=20),),
    ),
    Experiment(
        name="jena_gru",
        document=_DOCUMENT,
        title="ten days of hourly weather: GRU(32) → Dense(1)",
        documented="validation MAE under 0.265 (2.35 °C)",
        figure=("best val_loss", 0.265),
        variants=(_forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32)), 4_545, epochs=20),),
    ),
    Experiment(
        name="jena_gru_dropout",
        document=_DOCUMENT,
        title="GRU(32, dropout 0.2, recurrent dropout 0.2) → Dense(1)",
        documented="no overfitting up to epoch 30; steadier than jena_gru, not better",
        variants=(
            _forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32), dropout=0.2, recurrent_dropout=0.2), 4_545, epochs=40),
        ),
    ),
    Experiment(
        name="jena_stacked_gru",
        document=_DOCUMENT,
        title="GRU(32) → GRU(64, relu), dropout 0.1, recurrent dropout 0.5 → Dense(1)",
        documented="a little better than one layer",
        variants=(
            _forecaster(
                jaxseq.SequenceRegressor(
                    (jaxseq.GRU(32), jaxseq.GRU(64, activation="relu")), dropout=0.1, recurrent_dropout=0.5
                ),
                23_201,
                epochs=40,
            ),
        ),
    ),
    Experiment(
        name="jena_reversed_gru",
        document=_DOCUMENT,
        title="jena_gru on windows turned round in time",
        documented="worse than the naive forecast",
        variants=(_forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32)), 4_545, epochs=20, reverse=True),),
    ),
    Experiment(
        name="jena_bigru",
        document=_DOCUMENT,
        title="Bidirectional(GRU(32)) → Dense(1)",
        documented="like jena_gru",
        variants=(_forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32), bidirectional=True), 9_089, epochs=40),),
    ),
    Experiment(
        name="jena_conv1d",
        document=_DOCUMENT,
        title="Conv1D(32, 5) → MaxPooling1D(3), twice → Conv1D(32, 5) → GlobalMaxPooling1D → Dense(1)",
        documented="validation MAE in the 0.40s, worse than the naive forecast",
        variants=(_forecaster(_Convnet(), 12_609, epochs=20),),
    ),
    Experiment(
        name="jena_conv_gru",
        document=_DOCUMENT,
        title="half-hourly: Conv1D(32, 5) → MaxPooling1D(3) → Conv1D(32, 5) → GRU(32, dropout) → Dense(1)",
        documented="not as good as the regularised GRU, much faster",
        variants=(_forecaster(_ConvolutionalGRU(), 13_697, epochs=20, windows=_HALF_HOURS),),
    ),
]
