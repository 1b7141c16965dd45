"""Training: what a step computes, seeds, stopping, resuming; several devices are in test_devices.py."""

import functools
import re
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tqdm import tqdm

import jaxseq
from jaxseq import epochs as compiled
from jaxseq import losses, training

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ONE_DEVICE = jax.devices()[:1]
RNG = np.random.default_rng(0)
INPUTS = RNG.integers(0, 20, (50, 6)).astype(np.int32)
TARGETS = (INPUTS[:, 0] < 10).astype(np.int32)
MODEL = jaxseq.SequenceClassifier(
    jaxseq.GRU(5), vocabulary_size=20, embedding_size=4, dropout=0.2, recurrent_dropout=0.2
)
PLAIN = jaxseq.SequenceClassifier(jaxseq.GRU(5), vocabulary_size=20, embedding_size=4)


def make_task(model=MODEL):
    return jaxseq.Task(model, losses.binary_cross_entropy, {"accuracy": losses.binary_accuracy})


TRAIN = jaxseq.examples(INPUTS[:37], TARGETS[:37])
VALIDATION = jaxseq.examples(INPUTS[37:], TARGETS[37:])
FIT_ANY = functools.partial(jaxseq.fit, batch_size=8, devices=ONE_DEVICE, progress=False)
FIT = functools.partial(FIT_ANY, make_task(), TRAIN, VALIDATION)


def rmsprop():
    return jaxseq.rmsprop(1e-2)


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def uninterrupted():
    return FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2)


def test_an_epoch_is_the_steps_that_a_plain_loop_takes():
    """Every example once, in batches, the smaller last one by its own mean; figures weighted by examples."""
    task = make_task(PLAIN)
    result = FIT_ANY(task, TRAIN, optimizer=optax.sgd(0.5), epochs=2, seeds=[3])
    init_key, key = jax.random.split(jax.random.key(3))
    params = PLAIN.init(init_key, INPUTS[:1])["params"]

    def loss(params, rows):
        logits = PLAIN.apply({"params": params}, INPUTS[rows])[:, 0]
        p = 1 / (1 + jnp.exp(-logits))
        return -jnp.mean(jnp.where(TARGETS[rows] == 1, jnp.log(p), jnp.log(1 - p)))

    for epoch in range(2):
        order = jax.random.permutation(jax.random.fold_in(jax.random.split(key)[0], epoch), 37)
        assert sorted(order.tolist()) == list(range(37))
        total = 0.0
        for start in range(0, 37, 8):
            rows = order[start : start + 8]
            value, gradient = jax.value_and_grad(loss)(params, rows)
            params = jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)
            total += float(value) * len(rows)
        assert result.history[0]["loss"][epoch] == pytest.approx(total / 37, rel=1e-5)
    for a, b in zip(jax.tree.leaves(jaxseq.select(result.state.params, 0)), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert int(result.state.step[0]) == 10 and result.steps_per_epoch == 5


def test_it_learns(uninterrupted):
    first, last = (np.mean([run["loss"][i] for run in uninterrupted.history]) for i in (0, -1))
    assert last < first


@pytest.mark.usefixtures("compiled_as_by_users")
def test_seeds_together_are_the_seeds_alone():
    """Two programs, compiled by XLA's older emitters a loss was off by its last bit."""
    fit = functools.partial(jaxseq.fit, make_task(), *FIT.args[1:], **FIT.keywords, epochs=6, patience=2)
    together = fit(optimizer=rmsprop(), seeds=2)
    for seed in (0, 1):
        alone = fit(optimizer=rmsprop(), seeds=[seed])
        assert alone.history[0] == together.history[seed]
        same(jaxseq.select(alone.best_params, 0), jaxseq.select(together.best_params, seed))


def test_the_same_call_gives_the_same_bits_and_another_seed_others(uninterrupted):
    again = FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2)
    same(again.state, uninterrupted.state)
    assert again.history == uninterrupted.history
    assert again.history[0] != again.history[1]


def test_resumed_between_epochs_is_uninterrupted_bit_for_bit(tmp_path, uninterrupted):
    FIT(optimizer=rmsprop(), epochs=2, seeds=2, patience=2, directory=tmp_path)
    resumed = FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2, directory=tmp_path, resume=True)
    same(resumed.state, uninterrupted.state)
    same(resumed.best_params, uninterrupted.best_params)
    assert resumed.history == uninterrupted.history
    assert resumed.best_epoch == uninterrupted.best_epoch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_within_an_epoch_is_saved_and_resumed_bit_for_bit(tmp_path, monkeypatch, uninterrupted, number):
    note, calls = training._Pace.note, []

    def interrupting(self, steps, seconds):
        note(self, steps, seconds)
        self.steps = 2  # so that the signal comes within an epoch
        calls.append(steps)
        if len(calls) == 5:
            signal.raise_signal(number)

    monkeypatch.setattr(training._Pace, "note", interrupting)
    with pytest.raises(jaxseq.Interrupted, match="--resume") as error:
        FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2, directory=tmp_path)
    assert error.value.exit_code == 128 + number
    assert sum(calls) % 5 != 0
    taken, bars = sum(calls), []
    monkeypatch.setattr(training, "tqdm", lambda **bar: bars.append(bar) or tqdm(**bar))
    resumed = FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2, directory=tmp_path, resume=True)
    assert [(bar["initial"], bar["total"]) for bar in bars] == [(taken, 6 * 5)]
    same(resumed.state, uninterrupted.state)
    same(resumed.best_params, uninterrupted.best_params)
    assert resumed.history == uninterrupted.history


def test_a_call_takes_half_a_second_or_an_epoch():
    pace = training._Pace(100)
    for steps, seconds, following in (
        (1, 9.0, 1),  # the compiler's
        (1, 0.25, 2),
        (2, 0.01, 16),  # no more than 8 times as many
        (16, 0.5, 16),
        (16, 0.0, 100),
        (100, 80.0, 1),
    ):
        pace.note(steps, seconds)
        assert pace.steps == following


def test_a_directory_that_vanishes_is_named_and_not_made_anew(tmp_path, monkeypatch, uninterrupted):
    directory, elsewhere, calls = tmp_path / "run", tmp_path / "elsewhere", []

    def note(self, steps, seconds):
        self.steps = 5
        calls.append(steps)
        if len(calls) == 6:
            directory.rename(elsewhere)

    monkeypatch.setattr(training._Pace, "note", note)
    settings = dict(optimizer=rmsprop(), epochs=6, seeds=2, patience=2, directory=directory)
    message = f"directory must be one that can be written, got {directory}: .* must stay where it is; .*no checkpoint$"
    with pytest.raises(FileNotFoundError, match=message):
        FIT(**settings, save_every=0)
    assert not directory.exists() and len(jaxseq.checkpoints.steps(elsewhere / "latest")) == 2
    elsewhere.rename(directory)
    resumed = FIT(**settings, resume=True)
    same(resumed.state, uninterrupted.state)
    assert resumed.history == uninterrupted.history


def test_saved_within_an_epoch_when_it_is_time(tmp_path, monkeypatch):
    saved, save = [], training.checkpoints.save
    monkeypatch.setattr(
        training.checkpoints, "save", lambda *args, **named: saved.append(args[:2]) or save(*args, **named)
    )
    monkeypatch.setattr(training._Pace, "note", lambda self, steps, seconds: setattr(self, "steps", 2))
    FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path, save_every=0)
    steps = [(tmp_path / part, step) for step in (1, 3, 5) for part in ("best", "latest")]
    assert saved == steps  # the best first: a run that is finished has both


def test_a_run_is_not_resumed_to_an_epoch_that_it_has_passed(tmp_path):
    FIT(optimizer=rmsprop(), epochs=2, directory=tmp_path)
    with pytest.raises(ValueError, match=f"^epochs must be at least 2, as far as the run to resume in {tmp_path} is"):
        FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path, resume=True)
    assert FIT(optimizer=rmsprop(), epochs=2, directory=tmp_path, resume=True).history[0]["loss"]


def test_a_checkpoint_that_another_program_wrote_is_refused(tmp_path):
    jaxseq.checkpoints.save(tmp_path / "latest", 1, {"a": np.ones(2)}, {"settings": {"seeds": [0]}})
    with pytest.raises(ValueError, match=f"^directory must hold a checkpoint written by fit, got {tmp_path}/latest/"):
        FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path, resume=True)


def test_a_run_without_an_intact_checkpoint_says_that_it_starts_anew(tmp_path, caplog):
    FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path, save_every=0)
    for manifest in (tmp_path / "latest").glob("*/manifest.json"):
        manifest.write_text("{}")
    with pytest.warns(UserWarning, match="is damaged"):
        FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path, resume=True, save_every=0)
    assert f"no checkpoint in {tmp_path} is intact; the run starts anew" in caplog.text
    jaxseq.restore_best(tmp_path, MODEL, INPUTS[:1])  # nothing damaged is left


def test_best_parameters_that_are_damaged_are_read_from_the_latest_checkpoint(tmp_path):
    result = FIT(optimizer=rmsprop(), epochs=3, seeds=2, directory=tmp_path)
    metadata = next((tmp_path / "best").glob("*/metadata.json"))
    metadata.write_text(metadata.read_text() + " ")
    with pytest.warns(UserWarning, match="'metadata.json' does not match its sha256"):
        same(jaxseq.restore_best(tmp_path, MODEL, INPUTS[:1]), result.best_params)


def test_what_a_run_does_is_logged(tmp_path, caplog):
    caplog.set_level("INFO", "jaxseq")
    result = FIT(optimizer=rmsprop(), epochs=30, seeds=3, patience=2, directory=tmp_path, label="tiny")
    lines = caplog.messages
    assert lines[0] == "tiny: seeds [0, 1, 2], 30 epochs of 5 steps, devices 1"
    losses_ = np.mean([run["loss"][1] for run in result.history])
    assert re.match(f"tiny: epoch 2 of 30: .*loss {losses_:.4f}, .*val_loss .*, mean of 3 seeds; ", lines[2])
    for seed, (run, best) in enumerate(zip(result.history, result.best_epoch, strict=True)):
        if len(run["loss"]) < 30:
            assert f"tiny: seed {seed} stops; its best epoch was {best}" in lines
    for seeds, of in ((1, ""), (2, ", mean of 2 seeds")):
        caplog.clear()
        FIT(optimizer=rmsprop(), epochs=1, seeds=seeds, label="few")
        assert re.match(rf"few: epoch 1 of 1: [^;]*val_loss [\d.]+{of}; ", caplog.messages[1])


def test_early_stopping_stops_each_seed_where_keras_would():
    result = FIT(optimizer=rmsprop(), epochs=30, seeds=3, patience=2)
    lengths = set()
    for run, best in zip(result.history, result.best_epoch, strict=True):
        values, waited, wanted, low = run["val_loss"], 0, None, np.inf
        for epoch, value in enumerate(values, 1):  # Keras' EarlyStopping, in words
            if value < low:
                low, waited, wanted = value, 0, epoch
            else:
                waited += 1
        assert best == wanted == int(np.argmin(values)) + 1
        assert len(values) == 30 or waited == 2
        lengths.add(len(values))
    assert min(lengths) < 30
    scores = jaxseq.evaluate(make_task(), result.best_params, VALIDATION, batch_size=8, devices=ONE_DEVICE)
    for seed, run in enumerate(result.history):
        assert float(scores["loss"][seed]) == min(run["val_loss"])  # the weights kept are the best epoch's


def test_evaluate_and_predict_do_not_depend_on_the_batch_size():
    params = PLAIN.init(jax.random.key(0), INPUTS[:1])["params"]
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    logits = np.asarray(PLAIN.apply({"params": params}, INPUTS))
    expected = np.mean((logits[:, 0] > 0) == TARGETS)
    for batch_size in (1, 7, 50, 64):
        data = jaxseq.examples(INPUTS, TARGETS)
        scores = jaxseq.evaluate(make_task(PLAIN), stacked, data, batch_size=batch_size)
        assert float(scores["accuracy"][0]) == pytest.approx(expected)
        np.testing.assert_allclose(
            jaxseq.predict(PLAIN, params, INPUTS, batch_size=batch_size), logits, rtol=1e-5, atol=1e-6
        )


def test_draws_with_replacement_fill_an_epoch():
    data = TRAIN._replace(draws=100)
    result = FIT_ANY(make_task(PLAIN), data, optimizer=rmsprop(), epochs=1)
    assert result.steps_per_epoch == 13 and int(result.state.step[0]) == 13


def test_weights_count_steps_and_leave_the_rest_out():
    tags = INPUTS % 3
    mask = np.arange(6) < 4
    spoiled = np.where(mask, tags, 0).astype(np.int32)
    task = jaxseq.Task(
        jaxseq.SequenceTagger(jaxseq.GRU(5), vocabulary_size=20, embedding_size=4, classes=3),
        losses.categorical_cross_entropy,
    )
    histories = []
    for targets in (tags.astype(np.int32), spoiled):
        data = jaxseq.examples(INPUTS, targets, np.broadcast_to(mask, tags.shape))
        result = FIT_ANY(task, data, optimizer=rmsprop(), epochs=2)
        histories.append(result.history)
    assert histories[0] == histories[1]


def test_a_metric_of_another_shape_than_the_loss_has_its_own_weights():
    """A loss of every output [B, 3], a metric of every example [B]: neither divides by the other's weights."""
    inputs, targets = RNG.normal(size=(20, 6, 2)).astype(np.float32), RNG.normal(size=(20, 3)).astype(np.float32)
    model, data = jaxseq.SequenceRegressor(jaxseq.GRU(4), outputs=3), jaxseq.examples(inputs, targets)
    worst = {"worst": lambda predictions, targets: jnp.abs(predictions - targets).max(-1)}
    runs = [
        FIT_ANY(
            jaxseq.Task(model, losses.squared_error, metrics),
            data,
            data,
            optimizer=optax.sgd(0.1),
            epochs=2,
        )
        for metrics in ({}, worst)
    ]
    same(runs[0].state.params, runs[1].state.params)
    history = runs[1].history[0]
    assert {name: history[name] for name in ("loss", "val_loss")} == runs[0].history[0]
    predictions = jaxseq.predict(model, jaxseq.select(runs[1].state.params, 0), inputs)
    assert history["val_loss"][-1] == pytest.approx(np.mean((predictions - targets) ** 2), rel=1e-5)
    assert history["val_worst"][-1] == pytest.approx(np.mean(np.abs(predictions - targets).max(-1)), rel=1e-5)


def test_gradients_of_float16_are_divided_by_any_weight():
    """Weights that sum to more than float16 knows: the step is that of as many times less."""
    model = jaxseq.SequenceRegressor(jaxseq.GRU(4, param_dtype="float16"))
    inputs, targets = RNG.normal(size=(8, 3, 2)).astype(np.float16), RNG.normal(size=8).astype(np.float16)
    ends = []
    for weight in (1.0, 16384.0):
        data = jaxseq.examples(inputs, 1e-3 * targets, np.full(8, weight, np.float32))
        result = FIT_ANY(
            jaxseq.Task(model, losses.absolute_error),
            data,
            optimizer=optax.sgd(0.5),
            epochs=1,
            pretrained=lambda params: jax.tree.map(lambda leaf: 1e-2 * leaf, params),
        )
        ends.append(jaxseq.select(result.state.params, 0))
    for once, often in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(once, often, rtol=2e-3, atol=1e-4)  # of float16 gradients, 2^-11 each


def test_a_model_of_several_outputs_predicts_all_of_them():
    model = jaxseq.SequenceEncoder(jaxseq.GRU(4))
    inputs = RNG.normal(size=(5, 6, 2)).astype(np.float32)
    params = model.init(jax.random.key(0), inputs)["params"]
    found, wanted = jaxseq.predict(model, params, inputs, batch_size=2), model.apply({"params": params}, inputs)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_count_by_their_ratios():
    weights = np.random.default_rng(3).uniform(0.1, 1, len(TARGETS)).astype(np.float32)
    results = []
    for scale in (1.0, 2.0**-20):  # a power of two: nothing is rounded
        data = jaxseq.examples(INPUTS, TARGETS, scale * weights)
        settings = dict(optimizer=rmsprop(), epochs=2, batch_size=8, devices=ONE_DEVICE, progress=False)
        results.append(jaxseq.fit(make_task(PLAIN), data, data, **settings))
    assert results[0].history == results[1].history
    same(results[0].state.params, results[1].state.params)
    params = jax.tree.map(lambda leaf: leaf[0], results[0].state.params)
    each = losses.binary_cross_entropy(PLAIN.apply({"params": params}, INPUTS), TARGETS)
    assert results[0].history[0]["val_loss"][-1] == pytest.approx(np.average(each, weights=weights), rel=1e-5)


def test_a_state_takes_the_place_of_the_one_before(monkeypatch):
    made, gone = training.make_train_chunk, []

    def watched(*arguments, **settings):
        chunk = made(*arguments, **settings)

        def run(state, totals, *more):
            following = chunk(state, totals, *more)
            gone.append(all(leaf.is_deleted() for leaf in jax.tree.leaves((state, totals))))
            return following

        return run

    monkeypatch.setattr(training, "make_train_chunk", watched)
    FIT(optimizer=rmsprop(), epochs=1)
    assert gone and all(gone)


def test_more_epochs_do_not_compile_more():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train=False):
            traces.append(train)
            return nn.Dense(1)(inputs.astype(jnp.float32))

    def count(epochs):
        traces.clear()
        FIT_ANY(
            make_task(Counted()),
            TRAIN,
            VALIDATION,
            optimizer=rmsprop(),
            epochs=epochs,
        )
        return len(traces)

    assert count(1) == count(5)


class Exploding(nn.Module):
    """A linear model of one weight."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.ones)(inputs)


def explode(optimizer, validation=None, **settings):
    task = jaxseq.Task(Exploding(), losses.squared_error)
    ones = np.ones((40, 1), np.float32)
    data = [jaxseq.examples(x, np.zeros(len(x), np.float32)) for x in (ones, validation) if x is not None]
    settings = {"epochs": 9, "batch_size": 8, "devices": ONE_DEVICE, "progress": False, "seeds": [3], **settings}
    return jaxseq.fit(task, *data, optimizer=optimizer, **settings)


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path, monkeypatch):
    """The weight is multiplied by −999 at each step: its square leaves float32 at the eighth, w = −999⁷."""
    assert 8 * 999.0**12 < float(np.finfo(np.float32).max) < 999.0**14
    message = "^loss must stay finite, got inf at step 8 in epoch 2 .seed 3.; {}; try a smaller learning rate, or clip"
    with pytest.raises(jaxseq.TrainingDiverged, match=message.format("no checkpoint was saved")):
        explode(optax.sgd(500.0))
    for pace in (1, 5):
        monkeypatch.setattr(training._Pace, "note", lambda self, *_, pace=pace: setattr(self, "steps", pace))
        directory = tmp_path / str(pace)
        good = directory / "latest" / f"step_{ {1: 7, 5: 5}[pace]:08d}"
        with pytest.raises(jaxseq.TrainingDiverged, match=message.format(f"the last good checkpoint is {good}")):
            explode(optax.sgd(500.0), directory=directory, save_every=0)
    resumed = explode(jaxseq.rmsprop(clip_norm=1.0), directory=tmp_path / "clipped", epochs=1)
    assert np.isfinite(resumed.history[0]["loss"]).all()


def test_parameters_and_a_validation_that_are_not_finite_stop_the_run(tmp_path):
    """The last step's loss may be finite and what it leaves not; nothing of that is saved."""
    with pytest.raises(jaxseq.TrainingDiverged, match="^parameters must stay finite, got nan at step 1 in epoch 1"):
        explode(optax.chain(optax.sgd(1.0), optax.scale(np.inf)), epochs=1, batch_size=40, directory=tmp_path)
    assert not jaxseq.checkpoints.steps(tmp_path / "latest")
    with pytest.raises(jaxseq.TrainingDiverged, match="^val_loss must stay finite, got inf at step 5 in epoch 1"):
        explode(optax.sgd(1e-3), validation=np.full((2, 1), 1e30, np.float32))


def test_batch_statistics_are_refused():
    class Normalised(nn.Module):
        @nn.compact
        def __call__(self, inputs, *, train=False):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(1)(inputs.astype(jnp.float32)))

    with pytest.raises(ValueError, match="collection 'params'.*batch_stats"):
        jaxseq.fit(make_task(Normalised()), TRAIN, optimizer=rmsprop(), epochs=1, batch_size=8, progress=False)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": 1.5}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"patience": 0}, "patience must be"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"monitor": "f1"}, "monitor must be"),
        ({"resume": True}, "resume needs a directory"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words) as error:
        FIT(**{"optimizer": rmsprop(), "epochs": 1, **settings})
    assert "\n" not in str(error.value)


def test_a_directory_with_checkpoints_is_not_overwritten(tmp_path):
    FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path)
    with pytest.raises(ValueError, match="directory must hold no checkpoints unless resume=True"):
        FIT(optimizer=rmsprop(), epochs=1, directory=tmp_path)
    with (
        pytest.raises(ValueError, match="directory must not be in use by another run"),
        jaxseq.checkpoints.exclusive(tmp_path),
    ):
        FIT(optimizer=rmsprop(), epochs=2, directory=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"seeds must be \[0\]"):
        FIT(optimizer=rmsprop(), epochs=1, seeds=2, directory=tmp_path, resume=True)
    other = jaxseq.examples(INPUTS[:37], 1 - TARGETS[:37])
    with pytest.raises(ValueError, match="data_checksum must be"):
        FIT_ANY(
            make_task(),
            other,
            VALIDATION,
            optimizer=rmsprop(),
            epochs=2,
            directory=tmp_path,
            resume=True,
        )


@pytest.mark.parametrize(
    "arrays, words",
    [
        ((np.zeros((0, 3)), np.zeros(0)), "empty set"),
        ((np.zeros((2, 3)), np.zeros(3)), "equally many"),
        ((np.array([[0.0, np.nan]]), np.zeros(1)), r"inputs must be finite, got nan at index \(0, 1\)"),
        ((jnp.full((1, 2), jnp.nan, jnp.bfloat16), np.zeros(1)), "inputs must be finite, got nan at index"),
        ((np.zeros((2, 3)), np.array([0, np.inf])), r"targets must be finite, got inf at index \(1,\)"),
        (((np.zeros((1, 2)), np.full((1, 2), np.inf)), np.zeros(1)), "inputs must be finite"),
    ],
)
def test_bad_data_is_named(arrays, words):
    with pytest.raises(ValueError, match=words):
        jaxseq.examples(*arrays)


def test_a_token_outside_the_vocabulary_is_named_before_training():
    bad = INPUTS.copy()
    bad[3, 2] = 20
    data = jaxseq.examples(bad, TARGETS)
    params = PLAIN.init(jax.random.key(0), INPUTS[:1])["params"]
    stacked = jax.tree.map(lambda leaf: leaf[None], params)
    for call in (
        lambda: jaxseq.fit(make_task(), TRAIN, data, optimizer=rmsprop(), epochs=1, batch_size=8, progress=False),
        lambda: jaxseq.fit(make_task(), data, optimizer=rmsprop(), epochs=1, batch_size=8, progress=False),
        lambda: jaxseq.evaluate(make_task(), stacked, data, batch_size=8),
        lambda: jaxseq.predict(PLAIN, params, bad),
    ):
        with pytest.raises(ValueError, match="token indices from 0 to 19, got 20"):
            call()


def test_checkpoints_hold_the_best_parameters_apart(tmp_path):
    result = FIT(optimizer=rmsprop(), epochs=3, seeds=2, directory=tmp_path)
    best = jaxseq.checkpoints.restore(tmp_path / "best", result.best_params)
    assert best is not None and best.metadata == {"epochs": result.best_epoch}
    same(best.tree, result.best_params)


def test_seeds_side_by_side_are_seeds_one_after_another(monkeypatch, uninterrupted):
    """The accelerator's way, `vmap`, takes the same steps as the CPU's, `lax.map`, and freezes a stopped seed."""
    monkeypatch.setattr(compiled, "_over_seeds", jax.vmap)
    result = FIT(optimizer=rmsprop(), epochs=6, seeds=2, patience=2)
    for ours, theirs in zip(result.history, uninterrupted.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
    assert result.best_epoch == uninterrupted.best_epoch
    assert result.state.step.tolist() == uninterrupted.state.step.tolist()


def test_pretrained_values_are_what_training_starts_from():
    table = np.full((20, 4), 0.25, np.float32)

    def pretrained(params):
        return params | {"embedding": {"embedding": jnp.asarray(table)}}

    optimizer = jaxseq.freeze(rmsprop(), ["embedding"])
    result = FIT(optimizer=optimizer, epochs=2, seeds=2, pretrained=pretrained)
    for seed in range(2):
        np.testing.assert_array_equal(jaxseq.select(result.state.params, seed)["embedding"]["embedding"], table)
    heads = result.state.params["head"]["kernel"]
    assert not np.allclose(heads[0], heads[1])  # the rest is drawn for each seed


def test_pretrained_values_of_another_shape_are_refused():
    def pretrained(params):
        return params | {"embedding": {"embedding": jnp.zeros((19, 4))}}

    with pytest.raises(ValueError, match="pretrained must keep the parameters' structure"):
        FIT(optimizer=rmsprop(), epochs=1, pretrained=pretrained)


def test_the_best_parameters_are_restored_for_use(tmp_path):
    result = FIT(optimizer=rmsprop(), epochs=2, seeds=2, directory=tmp_path)
    restored = jaxseq.restore_best(tmp_path, MODEL, INPUTS[:1])
    same(restored, result.best_params)
    with pytest.raises(ValueError, match="must hold"):
        jaxseq.restore_best(tmp_path, jaxseq.SequenceClassifier(jaxseq.GRU(6), 20, 4), INPUTS[:1])
    with pytest.raises(ValueError, match="directory must hold a checkpoint written by fit, got .*nowhere"):
        jaxseq.restore_best(tmp_path / "nowhere", MODEL, INPUTS[:1])
