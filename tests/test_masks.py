"""Lengths, packing and dropout masks as data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from tests.examples import CELLS, random_params, wrapped

pytestmark = pytest.mark.usefixtures("strict_promotion", "compiled_quickly")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_length_mask_marks_the_first_steps(dtype):
    # 300 steps: more than the narrow dtypes can count
    lengths = np.array([0, 1, 100], dtype)
    wanted = np.arange(300)[:, None] < lengths.astype(int)
    np.testing.assert_array_equal(jaxseq.length_mask(lengths, 300), wanted)
    np.testing.assert_array_equal(jax.jit(jaxseq.length_mask, static_argnums=1)(lengths, 300), wanted)


def test_length_mask_of_one_sequence_of_none_and_of_all():
    assert jaxseq.length_mask(2, 3).tolist() == [True, True, False]
    assert jaxseq.length_mask([0, 3], 3).tolist() == [[False, True]] * 3
    assert jaxseq.length_mask(np.zeros(0, int), 3).shape == (3, 0)
    assert jaxseq.length_mask([0], 0).shape == (0, 1)


def test_packing_resets_mark_every_start_and_the_padding():
    assert jaxseq.packing_resets([2, 1, 3], 8).tolist() == [True, False, True, True, False, False, True, False]
    assert jaxseq.packing_resets([2, 1], 3).tolist() == [True, False, True]
    assert jaxseq.packing_resets([], 2).tolist() == [True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxseq.length_mask([-1, 2], 3), "lengths must lie between 0 and 3, got -1"),
        (lambda: jaxseq.length_mask([1, 4], 3), "lengths must lie between 0 and 3, got 4"),
        (lambda: jaxseq.length_mask([1.0], 3), "lengths must be integers, got dtype float32"),
        (lambda: jaxseq.length_mask([True], 3), "lengths must be integers, got dtype bool"),
        (lambda: jaxseq.packing_resets([0, 1], 3), "lengths must be at least 1, got 0"),
        (lambda: jaxseq.packing_resets([2, 2], 3), "lengths must add up to at most 3, got 4"),
        (lambda: jaxseq.packing_resets([1.5], 3), "lengths must be integers, got dtype float64"),
        (lambda: jaxseq.packing_resets([[1], [1]], 3), r"lengths must have shape \[N\], got \(2, 1\)"),
    ],
)
def test_lengths_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


DRAWN = {"dropout": 0.3, "recurrent_dropout": 0.6}


@pytest.mark.parametrize("name", CELLS)
def test_dropout_masks_are_one_a_gate_and_sequence_scaled_to_a_mean_of_one(name):
    cell = CELLS[name]
    masks = jaxseq.dropout_masks(jax.random.key(0), cell, 40, (50,), **DRAWN)
    shapes = {"input": (cell.gates, 50, 40), "recurrent": (cell.gates, 50, cell.hidden_size)}
    for (field, shape), rate in zip(shapes.items(), DRAWN.values(), strict=True):
        mask = np.asarray(getattr(masks, field))
        assert mask.shape == shape
        kept = mask != 0
        np.testing.assert_allclose(mask[kept], 1 / (1 - rate), rtol=1e-6)
        deviation = (rate * (1 - rate) / mask.size) ** 0.5
        assert abs(kept.mean() - (1 - rate)) < 5 * deviation  # seed fixed; 5 σ of a fair draw
        flat = kept.reshape(cell.gates * 50, -1)
        if shape[-1] == 40:  # with 5 units two sequences may well agree
            assert len({row.tobytes() for row in flat}) == len(flat)


def test_input_and_recurrent_masks_are_drawn_apart():
    cell = jaxseq.GRU(64)
    same_rate = jaxseq.dropout_masks(jax.random.key(1), cell, 64, dropout=0.5, recurrent_dropout=0.5)
    assert np.any(same_rate.input != same_rate.recurrent)


def test_a_rate_of_zero_draws_nothing():
    key, cell = jax.random.key(0), jaxseq.LSTM(3)
    assert jaxseq.dropout_masks(key, cell, 4) is None
    only_input = jaxseq.dropout_masks(key, cell, 4, dropout=0.5)
    assert only_input.input.shape == (4, 4) and only_input.recurrent is None
    only_recurrent = jaxseq.dropout_masks(key, cell, 4, recurrent_dropout=0.5, dtype=jnp.bfloat16)
    assert only_recurrent.input is None and only_recurrent.recurrent.dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout"])
def test_rates_that_cannot_be(name, rate):
    with pytest.raises(ValueError, match=f"^{name} must be at least 0 and below 1, got {rate}"):
        jaxseq.dropout_masks(jax.random.key(0), jaxseq.LSTM(3), 4, **{name: rate})


class Leaky:
    """A cell that takes no masks: it has no `gates`."""

    hidden_size = 3

    def init(self, key, input_size):
        return jnp.full((input_size, 3), 0.5)

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, 3), params.dtype)

    def project(self, params, inputs, masks):
        return inputs @ params

    def step(self, params, state, drive, masks):
        state = 0.5 * state + drive
        return state, state


@pytest.mark.parametrize("cell", [Leaky(), jaxseq.LearnedState(Leaky())], ids=["plain", "learned"])
def test_dropout_on_a_cell_that_takes_no_masks_raises(cell):
    message = f"{type(cell).__name__} has no `gates`"
    with pytest.raises(ValueError, match=message):
        jaxseq.dropout_masks(jax.random.key(0), cell, 4, dropout=0.5)
    params = cell.init(jax.random.key(0), 4)
    masks = jaxseq.DropoutMasks(jnp.ones((1, 4)), None)
    with pytest.raises(ValueError, match=message):
        jaxseq.scan(cell, params, jnp.ones((2, 4)), dropout_masks=masks)
    assert jaxseq.scan(cell, params, jnp.ones((2, 4)))[1].tolist() == [[2.0] * 3, [3.0] * 3]


@pytest.mark.parametrize("name", CELLS)
def test_each_gate_reads_its_own_mask_at_every_step(name):
    # A mask that drops all of one gate's inputs is that gate's weights set to zero: at every step, no other gate.
    cell = CELLS[name]
    inner, params = wrapped(cell), random_params(cell, 4, dtype="float32")
    own = params.cell if inner is not cell else params
    inputs = jax.random.normal(jax.random.key(1), (6, 4))
    run = jax.jit(lambda params, masks: jaxseq.scan(cell, params, inputs, dropout_masks=masks)[1])
    size = cell.hidden_size
    for gate in range(cell.gates):
        columns = slice(gate * size, (gate + 1) * size)
        for field, weights, width in (("input", "w_input", 4), ("recurrent", "w_hidden", size)):
            masks = jaxseq.DropoutMasks(jnp.ones((cell.gates, 4)), jnp.ones((cell.gates, size)))
            ones = masks
            masks = masks._replace(**{field: getattr(masks, field).at[gate].set(jnp.zeros(width))})
            cut = own._replace(**{weights: getattr(own, weights).at[:, columns].set(0)})
            cut = params._replace(cell=cut) if inner is not cell else cut
            np.testing.assert_allclose(run(params, masks), run(cut, ones), rtol=1e-5, atol=1e-6)
