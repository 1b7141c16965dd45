"""Jena: tomorrow's temperature from ten days of weather (document 003, sections 6.3 and 6.4)."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from experiments import plots, timing
from experiments.experiment import (
    SMOKE_EXAMPLES,
    Data,
    Experiment,
    Run,
    Saved,
    UserError,
    Variant,
    summarize,
)
from jaxseq.datasets import jena, synthetic
from jaxseq.layers import Conv1D, Dense

_DOCUMENT = "003_02921b636a63a0ce.txt"
_WINDOWS = jaxseq.Windows(lookback=1440, delay=144, step=6, target=jena.TEMPERATURE)
_HALF_HOURS = jaxseq.Windows(lookback=1440, delay=144, step=3, target=jena.TEMPERATURE)  # code 6-48
_BATCH = 128
_DRAWS = 500 * _BATCH  # training windows an epoch, drawn with replacement
_DAY = 144  # rows, ten minutes apart


@functools.cache
def _series(is_synthetic: bool, smoke: bool) -> jena.JenaSeries:
    if is_synthetic:
        return synthetic.jena(np.random.default_rng(0), 9_000 if smoke else 60_000)
    return jena.load()


@functools.cache
def _load(
    is_synthetic: bool,
    smoke: bool,
    windows: jaxseq.Windows = _WINDOWS,
    *,
    reverse: bool = False,
    in_order: bool = False,
    tested: bool = True,
) -> Data:
    """Windows of the normalised series; all of it lies on the device once, windows are gathered there.

    Args:
      is_synthetic: generated weather in place of the station's.
      smoke: a few windows.
      windows: how they are cut.
      reverse: turn every window round in time, `samples[:, ::-1, :]` in the last line of code 6-33.
      in_order: train on every window once an epoch, from the first to the last, in place of windows drawn at random.
      tested: give the test part too.
    """
    series = _series(is_synthetic, smoke)
    scaler = jaxseq.Scaler.fit(series.values[series.parts.train])
    values = scaler.transform(series.values).astype(np.float32)
    parts = series.parts
    passes = 1 if in_order else _DRAWS / len(_rows(series, parts.train))
    notes = [f"{passes:.1f} passes over the training part an epoch"]
    if series.name == "jena_weather_2020+mpi_roof_2024":
        notes.append(
            "not the document's 2009-2016 file: trained on 2020, validated and tested on the halves of summer and "
            "autumn 2024, same station; compare findings, not figures"
        )
    if series.name == "jena_climate_2009_2016":
        batches = len(_in_order(series, parts.test)) // _BATCH
        notes.append(f"tested on every window once, {batches} batches; the document's 930th is the first again")
    if series.irregularities.missing:
        notes.append(f"missing readings filled in: {series.irregularities.missing}")

    def part(rows: np.ndarray, draws: int | None = None) -> jaxseq.Examples:
        if smoke:
            rows, draws = rows[:SMOKE_EXAMPLES], draws and SMOKE_EXAMPLES
        return jaxseq.Examples(values, rows, _reversed_windows if reverse else windows.take, draws, not in_order)

    return Data(
        train=part(_rows(series, parts.train), None if in_order else _DRAWS),
        validation=part(_in_order(series, parts.validation)),
        test=part(_in_order(series, parts.test)) if tested else None,
        source=series.source.as_dict() | ({} if is_synthetic else {"name": series.name}),
        notes=tuple(notes),
        units=("°C", float(scaler.deviation[jena.TEMPERATURE])),
        encoding={
            "columns": list(series.columns),
            "mean": scaler.mean.tolist(),
            "deviation": scaler.deviation.tolist(),
            "windows": dataclasses.asdict(windows),
            "reverse": reverse,
        },
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


class _DropoutBefore(nn.Module):
    """Dropout(0.2) of its own at every step → GRU(32) → Dense(1): dropout before the layer, not inside it."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        inputs = nn.Dropout(0.2, deterministic=not train)(inputs)
        layer = jaxseq.Recurrent(jaxseq.GRU(32))
        state, _ = layer(inputs)
        return Dense(1)(layer.last_output(state))


class _AttentiveGRU(nn.Module):
    """GRU(32), all outputs → attention over them, beside the last one → Dense(1)."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        layer = jaxseq.Recurrent(jaxseq.GRU(32))
        state, outputs = layer(inputs)
        summary, _ = jaxseq.AttentionPooling()(outputs)
        return Dense(1)(jnp.concatenate([layer.last_output(state), summary], axis=-1))


@dataclasses.dataclass(frozen=True)
class _MasksWithInputs:
    """A cell whose dropout masks come with each input, [features | input masks | recurrent masks], not once."""

    cell: jaxseq.GRU
    features: int

    @property
    def hidden_size(self) -> int:
        """The wrapped cell's H."""
        return self.cell.hidden_size

    def init(self, key: jax.Array, input_size: int) -> Any:
        """The wrapped cell's parameters; the masks have none."""
        del input_size
        return self.cell.init(key, self.features)

    def initial_state(self, params: Any, batch_shape: tuple[int, ...]) -> Any:
        """The wrapped cell's."""
        return self.cell.initial_state(params, batch_shape)

    def project(self, params: Any, inputs: jax.Array, masks: Any) -> tuple[jax.Array, jax.Array]:
        """The wrapped cell's projection, and the recurrent masks for `step`."""
        gates, size = self.cell.gates, self.features
        features, input_masks, recurrent = jnp.split(inputs, [size, size + gates * size], axis=-1)
        drive = self.cell.project(params, features, jaxseq.DropoutMasks(_by_gate(input_masks, gates), None))
        return drive, recurrent

    def step(self, params: Any, state: Any, drive: Any, masks: Any) -> tuple[Any, Any]:
        """The wrapped cell's step with this step's masks."""
        drive, recurrent = drive
        return self.cell.step(params, state, drive, jaxseq.DropoutMasks(None, _by_gate(recurrent, self.cell.gates)))


def _by_gate(masks: jax.Array, gates: int) -> jax.Array:
    """Masks [..., G·n] as [G, ..., n]."""
    return jnp.stack(jnp.split(masks, gates, axis=-1))


class _NewMaskEachStep(nn.Module):
    """GRU(32) → Dense(1) with dropout 0.2 and recurrent dropout 0.2, masks drawn anew at every step."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        cell, features = jaxseq.GRU(32), inputs.shape[-1]
        shape = (*inputs.shape[:-1], cell.gates * (features + cell.hidden_size))
        masks = jnp.ones(shape, inputs.dtype)
        if train:
            masks = jax.random.bernoulli(self.make_rng("dropout"), 0.8, shape) / 0.8
        layer = jaxseq.Recurrent(_MasksWithInputs(cell, features))
        state, _ = layer(jnp.concatenate([inputs, masks], axis=-1))
        return Dense(1)(layer.last_output(state))


class _DilatedConvnet(nn.Module):
    """Causal Conv1D(2) of dilation 1, 2, …, 128, gated, with residual and skip connections → Dense(1) at the last step.

    The last output sees 256 steps, all 240 of a window, and knows where each lies.

    Source: van den Oord et al. 2016, WaveNet, arXiv:1609.03499, sections 2.1 to 2.4.
    """

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        features = Conv1D(16, 1)(inputs)
        skips = jnp.zeros((len(inputs), 32), inputs.dtype)
        for level in range(8):
            both = Conv1D(32, 2, padding="CAUSAL", kernel_dilation=2**level)(features)
            values, gates = jnp.split(both, 2, axis=-1)
            gated = nn.tanh(values) * nn.sigmoid(gates)
            features += Conv1D(16, 1)(gated)
            skips += Dense(32)(gated[:, -1])  # WaveNet's at every step; the forecast needs the last
        return Dense(1)(nn.relu(Dense(32)(nn.relu(skips))))


class _LargerHead(nn.Module):
    """GRU(32, dropout 0.2, recurrent dropout 0.2) → Dense(64, relu) → Dense(32, relu) → Dense(1)."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        layer = jaxseq.Recurrent(jaxseq.GRU(32), dropout=0.2, recurrent_dropout=0.2)
        state, _ = layer(inputs, train=train)
        hidden = nn.relu(Dense(64)(layer.last_output(state)))
        return Dense(1)(nn.relu(Dense(32)(hidden)))


def _regularised(cell: jaxseq.Cell) -> nn.Module:
    """A cell with dropout 0.2 and recurrent dropout 0.2 → Dense(1), as code 6-40 has it."""
    return jaxseq.SequenceRegressor(cell, dropout=0.2, recurrent_dropout=0.2)


def _forecaster(
    model: Any,
    parameters: int | None,
    *,
    epochs: int,
    label: str = "",
    learning_rate: float = 1e-3,
    smoke: bool = True,
    **load: Any,
) -> Variant:
    """RMSprop on the MAE, 500 steps of 128 windows an epoch."""
    return Variant(
        load=functools.partial(_load, **load),
        model=model,
        loss=jaxseq.losses.absolute_error,
        metrics={},
        optimizer=jaxseq.rmsprop(learning_rate),
        epochs=epochs,
        batch_size=_BATCH,
        parameters=parameters,
        label=label,
        smoke=smoke,
    )


def _weather(run: Run) -> dict[str, Any]:
    """Figures 6-18 and 6-19, and what repeats: how much of the temperature is a wave of a day or of a year."""
    series = _series(run.synthetic, run.smoke)
    temperature = series.values[:, jena.TEMPERATURE].astype(np.float64)
    first = slice(0, series.starts[1] if len(series.starts) > 1 else len(temperature))  # one recording, without a jump
    gaps = np.isin(np.arange(len(temperature)), [*series.starts, *series.irregularities.gaps])
    plots.series(
        {
            "whole temperature, °C (figure 6-18)": {
                name: (series.times[part], np.where(gaps, np.nan, temperature)[part])
                for name, part in series.parts._asdict().items()
            },
            "its first ten days, °C (figure 6-19)": {"": (series.times[:1440], temperature[:1440])},
        },
        run.directory / "temperature.png",
    )
    hours = (series.times[first] - series.times[0]) / np.timedelta64(1, "h")
    year = 365.25 * 24
    beside_the_year = _without(temperature[first], hours, year)
    return {
        "figures": {
            "share of the variance in a wave of a year (first recording)": _share(temperature[first], hours, year),
            "share of the variance in a wave of a day (first recording)": _share(temperature[first], hours, 24),
            "the same after a year's wave is taken out, day": _share(beside_the_year, hours, 24),
            "the same after a year's wave is taken out, 17 hours": _share(beside_the_year, hours, 17),
        }
    }


def _without(values: np.ndarray, hours: np.ndarray, period: float) -> np.ndarray:
    """What is left of values when the best wave of this period, and the mean, are taken out."""
    phase = 2 * np.pi * hours / period
    waves = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase)], axis=1)
    return values - waves @ np.linalg.lstsq(waves, values, rcond=None)[0]


def _share(values: np.ndarray, hours: np.ndarray, period: float) -> float:
    """The share of the variance that a wave of this period explains."""
    return float(1 - np.var(_without(values, hours, period)) / np.var(values))


def _forecasts(run: Run) -> dict[str, Any]:
    """Ten days of the test part: truth, naive forecast, and every seed's forecast an hour."""
    one = run.trained[0]
    encoding, test = run.data.encoding, run.data.test
    assert encoding is not None and test is not None
    windows = jaxseq.Windows(**encoding["windows"])
    rows = test.rows[:: _WINDOWS.step][: 10 * _DAY // _WINDOWS.step]
    series = _series(run.synthetic, run.smoke)
    inputs = np.asarray(test.take(test.arrays, jnp.asarray(rows))[0])
    forecasts = [jaxseq.predict(one.variant.model, params, inputs)[:, 0] for params in one.best]
    degrees = _scaler(encoding).inverse(np.stack(forecasts), column=jena.TEMPERATURE)
    times = series.times[rows + windows.delay]
    truth = series.values[rows + windows.delay, jena.TEMPERATURE]
    lines = {"truth": (times, truth), "naive": (times, series.values[rows - windows.step, jena.TEMPERATURE])}
    lines["forecast, mean of the seeds"] = (times, degrees.mean(axis=0))
    hours = windows.horizon / 6
    title = f"{one.variant.label or 'as documented'}: forecast {hours:g} hours ahead, start of the test part, °C"
    plots.series({title: lines}, run.directory / "forecasts.png")
    return {}


def _scaler(encoding: dict[str, Any]) -> jaxseq.Scaler:
    """The scale that the training part gave."""
    return jaxseq.Scaler(np.array(encoding["mean"]), np.array(encoding["deviation"]))


def _choice(run: Run) -> dict[str, Any]:
    """Section 6.3.9: the variant with the least validation error, and only that one, on the test part."""
    best = min(run.trained, key=lambda one: one.result["figures"]["best"]["val_loss"]["mean"])
    test = _load(run.synthetic, run.smoke).test
    assert test is not None
    scores = jaxseq.evaluate(best.variant.task, best.fit.best_params, test, batch_size=_BATCH)
    error = summarize(scores["loss"].tolist())
    best.result["figures"]["test"] = {"loss": error}
    models = {one.variant.label: (one.variant, one.data) for one in run.trained}
    seconds = {} if run.smoke else timing.seconds_per_epoch(models)  # a smoke run's would say nothing
    return {
        "figures": {f"test MAE of the chosen one ({best.variant.label})": error}
        | {f"seconds per epoch, {label}": figure for label, figure in seconds.items()}
        | {f"parameters, {one.variant.label}": one.result["parameters"]["total"] for one in run.trained},
    }


def _cost(run: Run, others: dict[str, Variant]) -> dict[str, Any]:
    """Seconds an epoch of this experiment's model beside others', measured in one run."""
    if run.smoke:  # they would say nothing
        return {}
    mine = run.trained[0]
    models = {"this model": (mine.variant, mine.data)}
    models |= {name: (variant, variant.load(run.synthetic, run.smoke)) for name, variant in others.items()}
    return {
        "figures": {f"seconds per epoch, {name}": seconds for name, seconds in timing.seconds_per_epoch(models).items()}
    }


def _tomorrow(saved: Saved, text: str) -> str:
    """Reads the station's CSV and forecasts the temperature a day after its last row."""
    path = Path(text.strip())
    if not path.is_file():
        raise UserError(f"TEXT must be the path of a CSV file of the station, got {text.strip()!r:.80}")
    values, times, irregularities = jena.read_csv(jena.read_contents(path), str(path))
    encoding = saved.encoding
    windows = jaxseq.Windows(**encoding["windows"])
    if len(values) < windows.lookback:
        raise UserError(f"TEXT must be a file of at least {windows.lookback:,} rows (ten days), got {len(values):,}")
    scaler = _scaler(encoding)
    inputs = scaler.transform(values[len(values) - windows.lookback :: windows.step])[None]
    if encoding["reverse"]:
        inputs = inputs[:, ::-1]
    forecast = scaler.inverse(saved.apply(inputs)[0], column=windows.target).item()
    newest, target = times[len(times) - windows.step], times[-1] + np.timedelta64(10 * (windows.delay + 1), "m")
    now = values[len(values) - windows.step, windows.target]
    remarks = [f"newest reading used, {newest}: {now:.1f} °C"]
    first = len(values) - windows.lookback
    if breaks := sum(int(np.sum(rows > first)) for rows in (irregularities.gaps, irregularities.repeated)):
        remarks.append(f"times jump {breaks} time{'s' * (breaks > 1)} among the readings used")
    if irregularities.missing:
        remarks.append(f"missing readings of the file were filled in: {irregularities.missing}")
    return f"{target}: {forecast:.1f} °C ({'; '.join(remarks)})"


_PREDICTS = "a CSV file of the station with its last ten days -> the temperature a day after its last row"


_GRU = _forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32)), 4_545, epochs=20)
_GRU_DROPOUT = _forecaster(_regularised(jaxseq.GRU(32)), 4_545, epochs=40)


def _trained(*, study: Any = _forecasts, **settings: Any) -> Experiment:
    """An experiment on the station's weather whose model forecasts."""
    return Experiment(document=_DOCUMENT, study=study, predict=_tomorrow, predicts=_PREDICTS, **settings)


def _forecasts_and_cost(run: Run, **others: Variant) -> dict[str, Any]:
    return _forecasts(run) | _cost(run, {name.replace("_", " "): variant for name, variant in others.items()})


EXPERIMENTS = [
    Experiment(
        name="jena_naive",
        document=_DOCUMENT,
        title="tomorrow's temperature is today's",
        documented="validation MAE 0.29 (2.57 °C)",
        figure=("final val_loss", 0.29),
        measure=_naive,
        data=_load,
        study=_weather,
    ),
    _trained(
        name="jena_dense",
        title="ten days of hourly weather: Flatten → Dense(32, relu) → Dense(1)",
        documented="near the naive forecast (validation MAE 0.29), unstable",
        variants=(_forecaster(_DenseNetwork(), 107_585, epochs=20),),
    ),
    _trained(
        name="jena_gru",
        title="ten days of hourly weather: GRU(32) → Dense(1)",
        documented="validation MAE under 0.265 (2.35 °C)",
        figure=("best val_loss", 0.265),
        variants=(
            _GRU,
            _forecaster(_DropoutBefore(), 4_545, epochs=20, label="dropout before the layer", smoke=False),
            _forecaster(_GRU.model, 4_545, epochs=20, label="windows in order", in_order=True, smoke=False),
            _forecaster(_AttentiveGRU(), None, epochs=20, label="attention", smoke=False),
        ),
    ),
    _trained(
        name="jena_gru_dropout",
        title="GRU(32, dropout 0.2, recurrent dropout 0.2) → Dense(1)",
        documented="no overfitting up to epoch 30; steadier than jena_gru, not better",
        variants=(
            _GRU_DROPOUT,
            _forecaster(_NewMaskEachStep(), 4_545, epochs=20, label="new mask each step", smoke=False),
        ),
    ),
    _trained(
        name="jena_stacked_gru",
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
        study=functools.partial(_forecasts_and_cost, one_layer=_GRU_DROPOUT),
    ),
    _trained(
        name="jena_reversed_gru",
        title="jena_gru on windows turned round in time",
        documented="worse than the naive forecast",
        variants=(_forecaster(_GRU.model, 4_545, epochs=20, reverse=True),),
    ),
    _trained(
        name="jena_bigru",
        title="Bidirectional(GRU(32)) → Dense(1)",
        documented="like jena_gru",
        variants=(_forecaster(jaxseq.SequenceRegressor(jaxseq.GRU(32), bidirectional=True), 9_089, epochs=40),),
    ),
    _trained(
        name="jena_conv1d",
        title="Conv1D(32, 5) → MaxPooling1D(3), twice → Conv1D(32, 5) → GlobalMaxPooling1D → Dense(1)",
        documented="validation MAE in the 0.40s, worse than the naive forecast",
        variants=(
            _forecaster(_Convnet(), 12_609, epochs=20),
            _forecaster(_DilatedConvnet(), None, epochs=10, label="dilated, causal", smoke=False),
        ),
        study=functools.partial(_forecasts_and_cost, GRU=_GRU),
    ),
    _trained(
        name="jena_conv_gru",
        title="half-hourly: Conv1D(32, 5) → MaxPooling1D(3) → Conv1D(32, 5) → GRU(32, dropout) → Dense(1)",
        documented="not as good as the regularised GRU, much faster",
        variants=(_forecaster(_ConvolutionalGRU(), 13_697, epochs=20, windows=_HALF_HOURS),),
        study=functools.partial(_forecasts_and_cost, regularised_GRU=_GRU_DROPOUT),
    ),
    _trained(
        name="jena_further",
        title="section 6.3.9's list, from the regularised GRU: units, learning rate, LSTM, a larger dense head",
        documented="confirm the best, by validation, on the test part (no figure)",
        variants=tuple(
            _forecaster(model, None, epochs=10, label=label, tested=False, smoke=smoke, **settings)
            for label, model, smoke, settings in (
                ("GRU 32 units", _regularised(jaxseq.GRU(32)), True, {}),
                ("GRU 64 units", _regularised(jaxseq.GRU(64)), False, {}),
                ("learning rate 0.0003", _regularised(jaxseq.GRU(32)), False, {"learning_rate": 3e-4}),
                ("LSTM 32 units", _regularised(jaxseq.LSTM(32)), False, {}),
                ("larger dense head", _LargerHead(), False, {}),
            )
        ),
        study=_choice,
    ),
]
