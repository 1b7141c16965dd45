"""Weights to and from Keras and PyTorch: exact, the gates where they say, and the same outputs."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"
import keras

import jaxseq
from jaxseq.conversions import from_keras, from_torch, to_keras, to_torch
from tests.examples import MinimalGatedUnit, assert_close, random_params

CELLS = {
    "simple_rnn": jaxseq.SimpleRNN(3),
    "lstm": jaxseq.LSTM(3),
    "gru": jaxseq.GRU(3),
    "gru_reset_after": jaxseq.GRUResetAfter(3),
}
every_cell = pytest.mark.parametrize("name", CELLS)
every_torch_cell = pytest.mark.parametrize("name", [name for name in CELLS if name != "gru"])


def draw(name):
    return random_params(CELLS[name], 4, dtype="float32")


@every_cell
def test_keras_round_trip_is_exact(name):
    cell, params = CELLS[name], draw(name)
    weights = to_keras(cell, params)
    assert_close(from_keras(cell, weights), params, 0)
    assert_close(to_keras(cell, from_keras(cell, weights)), weights, 0)


@every_torch_cell
def test_pytorch_round_trip_is_exact(name):
    cell, params = CELLS[name], draw(name)
    weights = to_torch(cell, params)
    assert_close(from_torch(cell, weights), params, 0)
    assert_close(from_torch(cell, list(weights.values())), params, 0)
    assert all(array.flags.c_contiguous for array in weights.values())
    reverse = to_torch(cell, params, suffix="_l1_reverse")
    assert list(reverse) == [key.replace("_l0", "_l1_reverse") for key in weights]
    assert_close(from_torch(cell, {**weights, **reverse}, suffix="_l1_reverse"), params, 0)


def labelled(letters):
    """Gates that hold their own letter's code, three units each."""
    return np.repeat([float(ord(letter)) for letter in letters], 3)


def test_gates_lie_where_keras_puts_them():
    gru = jaxseq.GRUResetAfter(3)
    weights = [
        np.tile(labelled("zrn"), (4, 1)),
        np.tile(labelled("zrn"), (3, 1)),
        np.stack([labelled("zrn"), -labelled("zrn")]),
    ]
    params = from_keras(gru, weights)
    for leaf, sign in zip(params, (1, 1, 1, -1), strict=True):
        np.testing.assert_array_equal(np.atleast_2d(leaf)[0], sign * labelled("rzn"))
    lstm = from_keras(jaxseq.LSTM(3), [np.ones((4, 12)), np.ones((3, 12)), labelled("ifco")])
    np.testing.assert_array_equal(lstm.bias, labelled("ifco"))


def test_gates_lie_where_pytorch_puts_them():
    arrays = [np.tile(labelled("rzn")[:, None], 4), np.tile(labelled("rzn")[:, None], 3)]
    params = from_torch(jaxseq.GRUResetAfter(3), [*arrays, labelled("rzn"), -labelled("rzn")])
    for leaf, sign in zip(params, (1, 1, 1, -1), strict=True):
        np.testing.assert_array_equal(np.atleast_2d(leaf)[0], sign * labelled("rzn"))


@pytest.mark.parametrize("name", ["simple_rnn", "lstm"])
def test_pytorchs_two_biases_become_one(name):
    cell, params = CELLS[name], draw(name)
    weights = to_torch(cell, params)
    assert not np.any(weights["bias_hh_l0"])
    weights["bias_hh_l0"] = np.arange(len(params.bias), dtype=np.float32)
    np.testing.assert_array_equal(from_torch(cell, weights).bias, params.bias + weights["bias_hh_l0"])


def test_parameters_come_in_the_cells_dtype():
    cell = jaxseq.LSTM(3, param_dtype="bfloat16")
    params = from_keras(cell, to_keras(CELLS["lstm"], draw("lstm")))
    assert {leaf.dtype.name for leaf in params} == {"bfloat16"}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("simple_rnn", lambda: keras.layers.SimpleRNN(3, return_sequences=True)),
        ("lstm", lambda: keras.layers.LSTM(3, return_sequences=True)),
        ("gru", lambda: keras.layers.GRU(3, return_sequences=True, reset_after=False)),
        ("gru_reset_after", lambda: keras.layers.GRU(3, return_sequences=True)),
    ],
)
def test_keras_layers_give_the_same_outputs(name, layer):
    layer, inputs = layer(), np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    layer.build(inputs.shape)
    layer.set_weights(to_keras(CELLS[name], draw(name)))
    params = from_keras(CELLS[name], [variable.value for variable in layer.trainable_variables])
    _, outputs = jaxseq.scan(CELLS[name], params, jnp.swapaxes(inputs, 0, 1))
    assert_close(jnp.swapaxes(outputs, 0, 1), np.asarray(layer(inputs)), 1e-5)


KERAS = [np.ones((4, 12)), np.ones((3, 12)), np.ones(12)]
TORCH = [np.ones((12, 4)), np.ones((12, 3)), np.ones(12), np.ones(12)]


def replaced(arrays, index, shape):
    return [np.ones(shape) if at == index else array for at, array in enumerate(arrays)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lstm: from_keras(lstm, KERAS[:2]), r"^weights must be \[kernel, .*bias\], got 2 arrays$"),
        (lambda lstm: from_keras(lstm, replaced(KERAS, 0, 12)), r"^kernel must have two axes, got shape \(12,\)$"),
        (
            lambda lstm: from_keras(lstm, replaced(KERAS, 0, (4, 9))),
            r"^kernel must have shape \(4, 12\), got \(4, 9\)$",
        ),
        (lambda lstm: from_keras(lstm, replaced(KERAS, 1, (4, 12))), r"^recurrent_kernel must have shape \(3, 12\)"),
        (lambda lstm: from_keras(lstm, replaced(KERAS, 2, (2, 12))), r"^bias must have shape \(12,\), got \(2, 12\)$"),
        (
            lambda _: from_keras(jaxseq.GRUResetAfter(4), [np.ones((4, 12)), np.ones((4, 12)), np.ones(12)]),
            r"^bias must have shape \(2, 12\), got \(12,\)$",
        ),
        (lambda _: from_keras(MinimalGatedUnit(3), KERAS), "^cell must be one of .*'LSTM'.* got MinimalGatedUnit"),
        (lambda lstm: to_keras(jaxseq.LearnedState(lstm), None), r"^cell must be one of .* got LearnedState"),
        (lambda lstm: to_keras(lstm, draw("gru")), "^params must be a LSTMParams, got GRUParams$"),
        (lambda _: to_keras(jaxseq.LSTM(5), draw("lstm")), r"^w_input must have shape \(4, 20\), got \(4, 12\)$"),
        (lambda lstm: from_torch(lstm, TORCH[:3]), r"^weights must be \[weight_ih, .*\], got 3 arrays$"),
        (lambda lstm: from_torch(lstm, replaced(TORCH, 0, (4, 12))), r"^weight_ih must have shape \(12, 12\), got"),
        (lambda lstm: from_torch(lstm, replaced(TORCH, 3, (9,))), r"^bias_hh must have shape \(12,\), got \(9,\)$"),
        (
            lambda lstm: from_torch(lstm, {"weight_ih_l0": TORCH[0]}),
            r"^weights must have the entries \['weight_ih_l0', .*\], got \['weight_ih_l0'\]$",
        ),
        (lambda _: from_torch(jaxseq.GRU(4), TORCH), "^cell must not be a GRU that resets before .*GRUResetAfter$"),
        (lambda _: to_torch(jaxseq.GRU(4), None), "^cell must not be a GRU that resets before .*GRUResetAfter$"),
    ],
)
def test_what_cannot_be_converted(call, message):
    with pytest.raises(ValueError, match=message):
        call(jaxseq.LSTM(3))
