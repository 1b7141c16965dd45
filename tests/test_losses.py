"""Losses against the formulas in NumPy, and the one rule of weighting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq import losses

RNG = np.random.default_rng(0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_binary_cross_entropy_and_accuracy():
    logits = RNG.normal(size=(6, 1)).astype(np.float32) * 3
    targets = np.array([0, 1, 1, 0, 1, 0])
    p = sigmoid(logits[:, 0].astype(np.float64))
    expected = -np.where(targets == 1, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, targets), expected, rtol=1e-5)
    np.testing.assert_array_equal(losses.binary_accuracy(logits, targets), (p > 0.5) == targets)
    np.testing.assert_allclose(losses.binary_cross_entropy(logits[:, 0], targets), expected, rtol=1e-5)


def test_categorical_cross_entropy_and_accuracy():
    logits = RNG.normal(size=(4, 5, 3)).astype(np.float32)
    targets = RNG.integers(0, 3, (4, 5))
    exps = np.exp(logits.astype(np.float64))
    chosen = np.take_along_axis(exps / exps.sum(-1, keepdims=True), targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses.categorical_cross_entropy(logits, targets), -np.log(chosen), rtol=1e-5)
    np.testing.assert_array_equal(losses.categorical_accuracy(logits, targets), logits.argmax(-1) == targets)


def test_errors_of_forecasts():
    predictions, targets = RNG.normal(size=(7, 1)).astype(np.float32), RNG.normal(size=7).astype(np.float32)
    np.testing.assert_allclose(losses.absolute_error(predictions, targets), np.abs(predictions[:, 0] - targets))
    np.testing.assert_allclose(losses.squared_error(predictions, targets), (predictions[:, 0] - targets) ** 2)


def test_the_mean_is_over_real_entries_alone():
    values = jnp.array([[1.0, 2.0, jnp.nan], [4.0, jnp.nan, jnp.nan]])
    mask = jnp.array([[True, True, False], [True, False, False]])
    assert float(losses.weighted_mean(values, mask)) == pytest.approx(7 / 3)
    assert float(losses.weighted_mean(values, jnp.zeros((2, 3)))) == 0
    assert float(losses.weighted_mean(jnp.array([1.0, 3.0]), jnp.array([0.25, 0.75]))) == pytest.approx(2.5)
    assert float(losses.weighted_mean(jnp.array([1.0, 3.0]))) == 2
    assert float(losses.weighted_mean(jnp.zeros(0))) == float(losses.weighted_mean(jnp.zeros(0), jnp.zeros(0))) == 0


def test_a_weight_for_an_example_counts_for_each_of_its_steps():
    values = jnp.array([[1.0, 3.0], [10.0, 20.0]])
    assert float(losses.weighted_mean(values, jnp.array([1.0, 0.0]))) == 2


def test_what_is_masked_gets_no_gradient():
    mask = jnp.array([True, False])
    gradient = jax.grad(lambda v: losses.weighted_mean(v, mask))(jnp.array([1.0, jnp.nan]))
    np.testing.assert_array_equal(gradient, [1, 0])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: losses.binary_cross_entropy(jnp.zeros((3, 2)), jnp.zeros(3)), "predictions"),
        (lambda: losses.absolute_error(jnp.zeros((3, 1)), jnp.zeros((2,))), "predictions"),
        (lambda: losses.categorical_cross_entropy(jnp.zeros((3, 5)), jnp.zeros(4, int)), "logits"),
        (lambda: losses.weighted_mean(jnp.zeros(3), jnp.zeros(2)), "weights"),
    ],
)
def test_shapes_that_do_not_match_are_named(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
