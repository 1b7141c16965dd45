"""The Jena family: windows, controls, studies, and a forecast from a CSV file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from experiments import jena as family
from experiments import timing
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from jaxseq.datasets import jena, synthetic

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_masks_that_come_with_the_inputs_are_the_cells_own():
    rng = np.random.default_rng(0)
    cell, batch, steps, features = jaxseq.GRU(5), 3, 7, 4
    params = cell.init(jax.random.key(0), features)
    inputs = jnp.asarray(rng.normal(size=(steps, batch, features)), jnp.float32)
    masks = jaxseq.dropout_masks(jax.random.key(1), cell, features, (batch,), dropout=0.4, recurrent_dropout=0.4)
    flat = jnp.concatenate([*masks.input, *masks.recurrent], axis=-1)
    with_masks = jnp.concatenate([inputs, jnp.broadcast_to(flat, (steps, *flat.shape))], axis=-1)
    expected, _ = jaxseq.scan(cell, params, inputs, dropout_masks=masks)
    state, _ = jaxseq.scan(family._MasksWithInputs(cell, features), params, with_masks)
    np.testing.assert_allclose(state.hidden, expected.hidden, rtol=1e-6, atol=1e-7)


def test_new_masks_at_every_step_need_training_and_the_same_parameters():
    inputs = jnp.ones((2, 6, 14))
    model, plain = family._NewMaskEachStep(), jaxseq.SequenceRegressor(jaxseq.GRU(32))
    variables = model.init(jax.random.key(0), inputs)
    params = variables["params"]
    same = {"layer_0": params["Recurrent_0"], "head": params["Dense_0"]}
    np.testing.assert_allclose(model.apply(variables, inputs), plain.apply({"params": same}, inputs), rtol=1e-5)
    dropped = model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(0)})
    assert not np.allclose(dropped[0], dropped[1])  # equal inputs, masks of their own


def test_the_dilated_convnet_sees_the_whole_window_and_pools_nothing():
    model, inputs = family._DilatedConvnet(), jax.random.normal(jax.random.key(0), (1, 240, 14))
    variables = model.init(jax.random.key(1), inputs)
    gradient = jax.grad(lambda inputs: model.apply(variables, inputs).sum())(inputs)
    assert (jnp.abs(gradient).sum(-1) > 0).all()
    shifted = jnp.roll(inputs, 1, axis=1)
    assert not np.allclose(model.apply(variables, inputs), model.apply(variables, shifted))


def test_reversed_windows_are_the_windows_turned_round():
    forward, backward = family._load(True, True), family._load(True, True, reverse=True)
    rows = jnp.asarray(forward.train.rows[:3])
    (inputs, targets), (turned, same) = (data.train.take(data.train.arrays, rows) for data in (forward, backward))
    np.testing.assert_array_equal(inputs[:, ::-1], turned)
    np.testing.assert_array_equal(targets, same)


def test_windows_in_order_are_trained_on_in_order(tmp_path):
    """One step a batch of one example: the loss of each step follows the rows."""
    arrays = (np.arange(4.0, dtype=np.float32)[:, None], np.zeros(4, np.float32))
    seen = []

    def loss(predictions, targets):
        jax.debug.callback(lambda value: seen.append(float(value)), predictions[0, 0], ordered=False)
        return jaxseq.losses.absolute_error(predictions, targets)

    class Identity(family.nn.Module):
        @family.nn.compact
        def __call__(self, inputs, *, train=False):
            return inputs + 0 * self.param("w", family.nn.initializers.zeros, ())

    data = jaxseq.examples(*arrays)._replace(shuffled=False)
    task = jaxseq.Task(Identity(), loss)
    jaxseq.fit(task, data, optimizer=jaxseq.rmsprop(), epochs=2, batch_size=1, devices=jax.devices()[:1])
    jax.effects_barrier()
    assert seen == [0.0, 1.0, 2.0, 3.0] * 2


def test_waves_explain_what_they_are():
    hours = np.arange(0, 24 * 60, 1 / 6)
    wave = 3 + np.sin(2 * np.pi * hours / 24 + 0.3)
    assert family._share(wave, hours, 24) == pytest.approx(1)
    assert family._share(wave, hours, 17) < 0.01
    assert np.abs(family._without(wave, hours, 24)).max() < 1e-9


def test_costs_are_measured_in_turns():
    variant = EXPERIMENTS["jena_dense"].variants[0]
    seconds = timing.seconds_per_epoch({"a": (variant, variant.load(True, True))}, rounds=3)
    assert len(seconds["a"]["seeds"]) == 3 and min(seconds["a"]["seeds"]) > 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    assert main(["run", "jena_dense", "--smoke", "--out", str(out)]) == 0
    return out


def write_csv(path, series, rows):
    lines = [",".join(['"Date Time"', *(f'"{name}"' for name in jena.COLUMNS)])]
    for time, values in zip(series.times[rows], series.values[rows], strict=True):
        lines.append(",".join([str(time).replace("T", " "), *(f"{value:.3f}" for value in values)]))
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")


def test_a_forecast_from_a_csv_file_is_the_models(trained, tmp_path, capsys):
    series = synthetic.jena(np.random.default_rng(0), 9_000)
    path = tmp_path / "weather.csv"
    write_csv(path, series, slice(0, 1500))
    assert main(["predict", "jena_dense", "--from", str(trained), str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(str(series.times[1499] + np.timedelta64(1450, "m"))) and said.count(";") == 0

    data = family._load(True, True)
    model = EXPERIMENTS["jena_dense"].variants[0].model
    inputs, _ = data.train.take(data.train.arrays, jnp.asarray([1500]))
    params = jaxseq.restore_best(trained / "jena_dense" / "checkpoints" / "documented", model, inputs)
    forecast = jaxseq.predict(model, jaxseq.select(params, 0), np.asarray(inputs))[0, 0]
    encoding = data.encoding
    degrees = forecast * encoding["deviation"][jena.TEMPERATURE] + encoding["mean"][jena.TEMPERATURE]
    assert float(said.split(": ")[1].split(" °C")[0]) == pytest.approx(degrees, abs=0.06)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*range(0, 40), *range(50, 1550)], "°C)\n"),  # before the ten days
        ([*range(0, 800), *range(850, 1550)], "; times jump 1 time among the readings used)\n"),
        ([*range(0, 800), *range(799, 900), *range(950, 1550)], "; times jump 2 times among the readings used)\n"),
    ],
)
def test_a_forecast_says_where_its_readings_are_not_ten_minutes_apart(trained, tmp_path, capsys, rows, words):
    path = tmp_path / "weather.csv"
    write_csv(path, synthetic.jena(np.random.default_rng(0), 9_000), np.asarray(rows))
    assert main(["predict", "jena_dense", "--from", str(trained), str(path)]) == 0
    assert capsys.readouterr().out.endswith(words)


def test_a_forecast_says_that_readings_were_filled_in(trained, tmp_path, capsys):
    series = synthetic.jena(np.random.default_rng(0), 9_000)
    series.values[1400, jena.TEMPERATURE] = np.nan
    path = tmp_path / "weather.csv"
    write_csv(path, series, slice(0, 1500))
    assert main(["predict", "jena_dense", "--from", str(trained), str(path)]) == 0
    assert "missing readings of the file were filled in: {'T (degC)': 1})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["jena_dense", "nowhere.csv"], "TEXT must be the path of a CSV file of the station, got 'nowhere.csv'"),
        (["jena_dense", "--seed", "3", "x"], "--seed must be from 0 to 0"),
        (["jena_dense", "--variant", "x", "x"], "--variant must be one of [''], got 'x'"),
        (["jena_naive", "x"], "NAME must be an experiment with a model to use, got jena_naive"),
        (["jena_gru", "x"], "--from must hold a trained jena_gru"),
        (["jena_dens", "x"], "did you mean jena_dense?"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_one_line(trained, arguments, words, capsys):
    assert main(["predict", *arguments[:1], "--from", str(trained), *arguments[1:]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


def test_a_file_with_too_few_rows_is_refused(trained, tmp_path, capsys):
    path = tmp_path / "weather.csv"
    write_csv(path, synthetic.jena(np.random.default_rng(0), 200), slice(0, 200))
    assert main(["predict", "jena_dense", "--from", str(trained), str(path)]) == 2
    assert "at least 1,440 rows (ten days), got 200" in capsys.readouterr().err
