"""Windows against the documents' generator (code 6-33) and Keras' TimeseriesGenerator; splits; scaling."""

import functools
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

os.environ["KERAS_BACKEND"] = "jax"
from keras.src.legacy.preprocessing.sequence import TimeseriesGenerator

from benchmarks.trainers import generator  # the documents' code 6-33
from jaxseq.timeseries import Scaler, Windows, chronological_split

pytestmark = pytest.mark.usefixtures("compiled_quickly")  # examples of many shapes


def random_series(length, features=3, seed=0):
    return np.random.default_rng(seed).normal(size=(length, features)).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    steps=st.integers(1, 5),
    step=st.integers(1, 3),
    delay=st.integers(0, 6),
    start=st.integers(0, 9),
    part=st.integers(1, 25),
    batch_size=st.integers(1, 6),
    to_the_end=st.booleans(),
)
def test_ordered_batches_are_the_generators(steps, step, delay, start, part, batch_size, to_the_end):
    windows = Windows(steps * step, delay, step, target=1)
    stop = start + windows.lookback + part + batch_size
    series = random_series(stop + delay + 1)
    end = None if to_the_end else stop
    drawn = generator(series, windows.lookback, delay, start, end, False, batch_size, step)
    batches = windows.batches(start, end, batch_size=batch_size, steps=7, length=len(series))
    assert batches.dtype == np.int32
    for rows, (samples, targets) in zip(batches, itertools.islice(drawn, 7), strict=True):
        inputs, wanted = windows.take(series, rows)
        np.testing.assert_array_equal(inputs, samples.astype(np.float32))
        np.testing.assert_array_equal(wanted, targets.astype(np.float32))
        np.testing.assert_array_equal(windows.naive(series, rows), samples[:, -1, 1].astype(np.float32))


def test_drawn_rows_are_the_generators_range():
    """Every row the shuffling generator can draw is listed, and no other."""
    windows = Windows(lookback=4, delay=2, step=2, target=1)
    series = np.arange(60, dtype=np.float32).reshape(30, 2)
    np.random.seed(0)
    _, targets = next(generator(series, 4, 2, 3, 20, True, 2000, 2))
    drawn = {int(target - 1) // 2 - 2 for target in targets}
    assert windows.rows(3, 20).tolist() == sorted(drawn)


def test_jena_counts_of_the_document():
    """420,551 rows: 1,440 to 199,999 to draw from, 769 validation batches, 930 test batches, 25 hours."""
    windows = Windows(lookback=1440, delay=144, step=6, target=1)
    training = windows.rows(0, 200_000, length=420_551)
    assert (training[0], training[-1], windows.steps) == (1440, 199_999, 240)
    assert windows.horizon == 150 and Windows(720, 144, 3).horizon == 147
    validation = windows.batches(200_001, 300_000, batch_size=128)
    assert validation.shape == (769, 128) == ((300_000 - 200_001 - 1440) // 128, 128)
    assert validation[0, 0] == 201_441 and (np.diff(validation.ravel()) == 1).all()
    steps = (420_551 - 300_001 - 1440) // 128
    test = windows.batches(300_001, batch_size=128, length=420_551, steps=steps)
    assert test.shape == (930, 128)
    assert (test[929] == test[0]).all() and test.max() + 144 < 420_551
    assert len(windows.batches(300_001, batch_size=128, length=420_551)) == 929


@pytest.mark.parametrize(("lookback", "step", "delay"), [(6, 2, 0), (5, 1, 3), (12, 4, 2)])
def test_windows_are_keras_timeseries_generator(lookback, step, delay):
    series = random_series(40)
    windows = Windows(lookback, delay, step, target=2)
    length = len(series) - delay
    # Keras predicts row r itself: moving its targets back by `delay` gives row r + delay.
    samples, targets = TimeseriesGenerator(
        series[:length], series[delay:, 2], lookback, sampling_rate=step, batch_size=64
    )[0]
    rows = windows.rows(0, length, length=len(series))
    inputs, wanted = windows.take(series, rows)
    np.testing.assert_array_equal(inputs, samples)
    np.testing.assert_array_equal(wanted, targets)


def test_time_major_jit_vmap_and_scan_gather_the_same():
    windows = Windows(lookback=6, delay=2, step=3, target=1)
    series = jnp.asarray(random_series(30))
    rows = np.random.default_rng(1).permutation(windows.rows(0, length=30))[:8]
    inputs, targets = windows.take(series, rows)
    assert inputs.shape == (8, 2, 3) and targets.shape == (8,)
    leading, same = windows.take(series, rows, time_major=True)
    np.testing.assert_array_equal(leading, np.swapaxes(inputs, 0, 1))
    np.testing.assert_array_equal(same, targets)
    for take in (
        jax.jit(windows.take),
        jax.vmap(windows.take, (None, 0)),
        lambda series, rows: jax.lax.scan(lambda _, row: (None, windows.take(series, row)), None, rows)[1],
    ):
        for ours, expected in zip(take(series, jnp.asarray(rows)), (inputs, targets), strict=True):
            np.testing.assert_array_equal(ours, expected)
    grid, _ = windows.take(series, rows.reshape(2, 4), time_major=True)
    np.testing.assert_array_equal(grid, np.asarray(leading).reshape(2, 2, 4, 3))


def test_gather_transposes_nothing_and_makes_no_more_than_the_batch():
    windows = Windows(lookback=6, delay=2, step=3)
    for time_major in (False, True):
        take = functools.partial(windows.take, time_major=time_major)
        program = jax.make_jaxpr(take)(jnp.zeros((5000, 3)), jnp.arange(10, 14, dtype=jnp.int32))
        assert "transpose" not in str(program)
        sizes = [int(np.prod(out.aval.shape)) for equation in program.eqns for out in equation.outvars]
        assert max(sizes) <= 4 * windows.steps * 3


def test_traced_rows_outside_give_nan_not_another_window():
    windows = Windows(lookback=4, delay=2, target=1)
    series = jnp.asarray(random_series(20))
    inputs, targets = jax.jit(windows.take)(series, jnp.array([3, 17, 18, 21]))
    assert np.isnan(inputs[0, 0]).all() and np.isfinite(inputs[0, 1:]).all()
    assert np.isfinite(inputs[1]).all() and np.isfinite(targets[1])
    assert np.isfinite(inputs[2]).all() and np.isnan(targets[2])
    assert np.isnan(inputs[3, -1]).all()
    naive = jax.jit(windows.naive)(series, jnp.array([4, 0, 21]))
    assert np.isfinite(naive[0]) and np.isnan(naive[1:]).all()


def test_inputs_never_see_the_target_or_later():
    """Changing everything from row r on leaves the inputs of row r as they were."""
    windows = Windows(lookback=6, delay=0, step=2)
    series = random_series(30)
    changed = series.copy()
    changed[12:] += 1
    np.testing.assert_array_equal(windows.take(series, [12])[0], windows.take(changed, [12])[0])
    changed[11 - 1] += 1
    assert not np.array_equal(windows.take(series, [12])[0], windows.take(changed, [12])[0])


@given(st.integers(1, 500), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_splits_are_adjacent_and_of_the_right_size(length, weights):
    fractions = [weight / sum(weights) for weight in weights]
    if length * min(fractions) < 1:
        return
    parts = chronological_split(length, fractions)
    assert parts[0].start == 0 and parts[-1].stop == length
    assert all(one.stop == next.start for one, next in itertools.pairwise(parts))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(part.stop - part.start - length * fraction) <= 1


def test_a_part_of_one_row_does_not_vanish_between_two_halves():
    parts = chronological_split(6, [weight / 24 for weight in (4, 5, 5, 4, 6)])
    assert [part.stop - part.start for part in parts] == [1, 1, 2, 1, 1]


def test_splits_by_default_in_part_and_by_boundaries():
    assert chronological_split(1000) == (slice(0, 500), slice(500, 750), slice(750, 1000))
    assert chronological_split(10, (0.5, 0.2)) == (slice(0, 5), slice(5, 7))
    assert chronological_split(420_551, boundaries=(200_000, 300_000)) == (
        slice(0, 200_000),
        slice(200_000, 300_000),
        slice(300_000, 420_551),
    )


def test_scaler_is_code_6_32_and_comes_back():
    data = np.random.default_rng(2).normal(loc=[990, 10, -3], scale=[8, 9, 0.1], size=(400, 3))
    scaler = Scaler.fit(data[:200])
    expected = data.copy()
    mean = expected[:200].mean(axis=0)
    expected -= mean
    std = expected[:200].std(axis=0)
    expected /= std
    scaled = scaler.transform(data)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaler.deviation, std, rtol=1e-12)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-5)
    close(scaler.inverse(scaled), data)
    close(scaler.inverse(jnp.asarray(scaled[:, 1]), column=1), data[:, 1])
    close(scaler.inverse(scaled.reshape(4, 100, 3)), data.reshape(4, 100, 3))


def test_constant_columns_become_zero():
    data = np.stack([np.full(50, 0.1), np.arange(50.0)], axis=1)
    assert data[:, 0].std() > 0  # rounding: a constant is not told from its computed deviation
    scaler = Scaler.fit(data)
    assert scaler.deviation[0] == 1
    np.testing.assert_allclose(scaler.transform(data)[:, 0], 0, atol=1e-7)
    np.testing.assert_allclose(scaler.transform(data + 2)[:, 0], 2, rtol=1e-6)


SERIES = np.zeros((20, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "named", "value"),
    [
        (lambda: chronological_split(0), "length", "0"),
        (lambda: chronological_split(10, (0.5, 0.6)), "fractions", "1.1"),
        (lambda: chronological_split(10, (0.5, -0.1)), "fractions", "-0.1"),
        (lambda: chronological_split(10, ()), "fractions", r"\(\)"),
        (lambda: chronological_split(2, (0.5, 0.1, 0.4)), "fractions", "0.1"),
        (lambda: chronological_split(10, (float("nan"),)), "fractions", "nan"),
        (lambda: chronological_split(10, boundaries=(5, 5)), "boundaries", r"\(5, 5\)"),
        (lambda: chronological_split(10, boundaries=(5, 10)), "boundaries", r"\(5, 10\)"),
        (lambda: chronological_split(10, boundaries=(0, 5)), "boundaries", "at least 1, got 0"),
        (lambda: Scaler.fit(np.zeros((0, 3))), "series", r"\(0, 3\)"),
        (lambda: Scaler.fit(np.zeros(3)), "series", r"\(3,\)"),
        (lambda: Scaler.fit(np.array([[0.0, 1], [2, np.nan]])), "series", "nan in row 1, column 1"),
        (lambda: Scaler.fit(np.array([[0.0, np.inf]])), "series", "inf in row 0, column 1"),
        (lambda: Scaler.fit(SERIES).transform(np.zeros((4, 3))), "series", r"\(4, 3\)"),
        (lambda: Scaler.fit(SERIES).inverse(np.zeros(4), column=2), "column", "2"),
        (lambda: Scaler.fit(SERIES).inverse(np.zeros(4), column=-1), "column", "-1"),
        (lambda: Windows(0, 1), "lookback", "0"),
        (lambda: Windows(4, -1), "delay", "-1"),
        (lambda: Windows(4, 1, 0), "step", "0"),
        (lambda: Windows(4, 1, 3), "lookback", "4"),
        (lambda: Windows(4, 1, target=-1), "target", "-1"),
        (lambda: Windows(4.5, 1), "lookback", "4.5"),
        (lambda: Windows(4, 1).rows(-1, 10), "start", "-1"),
        (lambda: Windows(4, 1).rows(0), "length", "None"),
        (lambda: Windows(4, 1).rows(0, 4), "stop", "4"),
        (lambda: Windows(4, 1).rows(0, 20, length=20), "stop", "20"),
        (lambda: Windows(4, 1).batches(0, 10, batch_size=7), "batch_size", "7"),
        (lambda: Windows(4, 1).batches(0, 10, batch_size=2, steps=0), "steps", "0"),
        (lambda: Windows(4, 1).take(SERIES, [3]), "rows", "3"),
        (lambda: Windows(4, 1).take(SERIES, [5, 19]), "rows", "19"),
        (lambda: Windows(4, 1).naive(SERIES, [-5]), "rows", "-5"),
        (lambda: Windows(4, 1).take(SERIES, [5.0]), "rows", "float64"),
        (lambda: Windows(4, 1).take(SERIES[:, 0], [5]), "series", r"\(20,\)"),
        (lambda: Windows(4, 1).take(SERIES.astype(int), [5]), "series", "int"),
        (lambda: Windows(4, 1, target=2).take(SERIES, [5]), "target", "2"),
    ],
)
def test_errors_name_argument_and_value(call, named, value):
    with pytest.raises(ValueError, match=rf"^{named} must .*{value}"):
        call()


def test_windows_print_compare_and_hash_by_value():
    windows = Windows(1440, 144, 6, 1)
    assert repr(windows) == "Windows(lookback=1440, delay=144, step=6, target=1)"
    assert windows == Windows(np.int64(1440), 144, 6, 1) and hash(windows) == hash(Windows(1440, 144, 6, 1))
