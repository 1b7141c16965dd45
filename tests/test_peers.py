"""500 steps against the reference, Keras 3, Flax and, where it is installed, PyTorch.

Outputs and the gradients by every weight, the inputs and the final state; weights from Keras' initialisers,
biases random; right padding, one row of length 1; forward and reverse.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.backend.common import dtypes

import jaxseq
from jaxseq.conversions import from_keras, from_torch, to_keras, to_torch
from tests.examples import assert_close, expected, run_and_back

T, B, F, H = 500, 3, 6, 8
LENGTHS = np.array([T, 340, 1])
MASK = np.arange(T)[:, None] < LENGTHS
CELLS = {
    "simple_rnn": (jaxseq.SimpleRNN(H), keras.layers.SimpleRNN),
    "lstm": (jaxseq.LSTM(H), keras.layers.LSTM),
    "gru": (jaxseq.GRU(H), functools.partial(keras.layers.GRU, reset_after=False)),
    "gru_reset_after": (jaxseq.GRUResetAfter(H), keras.layers.GRU),
}
every_cell = pytest.mark.parametrize("name", CELLS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
run = functools.partial(jaxseq.scan, implementation=None)


@pytest.fixture(autouse=True)
def keras_float(precision, monkeypatch):
    """On JAX Keras 3 rounds every sum to float32, whatever the layer's dtype: one line of its table of dtypes."""
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    before = keras.config.floatx()
    keras.config.set_floatx(precision[0])
    yield
    keras.config.set_floatx(before)


def keras_layer(name, dtype, **settings):
    """A layer with weights from its initialisers and random biases."""
    keras.utils.set_random_seed(0)
    layer = CELLS[name][1](H, return_sequences=True, return_state=True, dtype=dtype, **settings)
    layer.build((None, T, F))
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        if variable.name == "bias":
            variable.assign(rng.normal(size=variable.shape))
    return layer


@functools.cache
def data(name, dtype):
    """Parameters, inputs and cotangents in NumPy; they are zero on padding, where the peers differ."""
    layer = keras_layer(name, dtype)
    params = from_keras(CELLS[name][0], [np.asarray(v.value) for v in layer.trainable_variables])
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(T, B, F)).astype(dtype)
    d_outputs = (rng.normal(size=(T, B, H)) * MASK[..., None]).astype(dtype)
    state = CELLS[name][0].initial_state(params, (B,))
    d_final = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), state)
    params = type(params)(*(np.asarray(leaf, dtype) for leaf in params))
    return params, inputs, (d_final, d_outputs)


@functools.cache
def ours(name, dtype, reverse):
    """(final, outputs), (gradients by params, by inputs, None) of `jaxseq.scan`."""
    params, inputs, cotangents = jax.tree.map(jnp.asarray, data(name, dtype))
    cell = CELLS[name][0]
    results = run_and_back(run, cell, params, inputs, cotangents, state=None, mask=MASK, reverse=reverse)
    return jax.tree.map(np.asarray, results)


@both_directions
@every_cell
def test_the_reference(name, precision, reverse):
    dtype, tolerance = precision
    wanted = expected(CELLS[name][0], *data(name, dtype), mask=MASK, reverse=reverse)
    assert_close(ours(name, dtype, reverse), wanted, tolerance)


@both_directions
@every_cell
def test_keras(name, precision, reverse):
    dtype, tolerance = precision
    cell = CELLS[name][0]
    params, inputs, (d_final, d_outputs) = data(name, dtype)
    layer = keras_layer(name, dtype, go_backwards=reverse)
    layer.set_weights(to_keras(cell, params))
    others = [variable.value for variable in layer.non_trainable_variables]

    def order(array):  # jaxseq's time-major order, and Keras', whose outputs are in the order they were made
        return array[:, ::-1] if reverse else array

    @jax.jit
    def forward_and_back(weights, inputs):
        def forward(weights, inputs):
            batch_major = inputs.transpose(1, 0, 2)
            results, _ = layer.stateless_call(weights, others, batch_major, mask=jnp.asarray(MASK.T))
            outputs, *final = results
            return tuple(final), order(outputs).transpose(1, 0, 2)

        results, pull_back = jax.vjp(forward, weights, inputs)
        return results, pull_back((tuple(d_final), d_outputs))

    weights = [variable.value for variable in layer.trainable_variables]
    (final, outputs), (d_weights, d_inputs) = forward_and_back(weights, jnp.asarray(inputs))
    (our_final, our_outputs), (our_d_params, our_d_inputs, _) = ours(name, dtype, reverse)
    assert_close(tuple(our_final), final, tolerance)
    assert_close(our_outputs[MASK], outputs[MASK], tolerance)
    assert_close(to_keras(cell, our_d_params), d_weights, tolerance)
    assert_close(our_d_inputs, d_inputs, tolerance)


FLAX_CELLS = {
    "simple_rnn": nn.SimpleCell,
    "lstm": nn.OptimizedLSTMCell,
    "gru_reset_after": nn.GRUCell,  # its reset gate scales a product with a bias of its own, as cuDNN's
}
FLAX_GATES = {"simple_rnn": [""], "lstm": list("ifgo"), "gru_reset_after": list("rzn")}


def flax_params(name, params):
    """Flax's tree: a kernel for each gate; the GRU has no recurrent bias but the candidate's."""
    letters = FLAX_GATES[name]
    tree = {}
    for part, weights in (("i", params.w_input), ("h", params.w_hidden)):
        for letter, kernel in zip(letters, np.split(weights, len(letters), axis=-1), strict=True):
            tree[part + letter] = {"kernel": kernel}
    part = "h" if name == "lstm" else "i"
    bias = params.bias_input if name == "gru_reset_after" else params.bias
    for letter, values in zip(letters, np.split(bias, len(letters)), strict=True):
        tree[part + letter]["bias"] = values
    if name == "gru_reset_after":
        tree["hn"]["bias"] = np.split(params.bias_hidden, 3)[2]
    return {"params": {"cell": tree}}


@both_directions
@pytest.mark.parametrize("name", FLAX_CELLS)
def test_flax(name, precision, reverse):
    dtype, tolerance = precision
    cell = CELLS[name][0]
    params, inputs, (d_final, d_outputs) = data(name, dtype)
    if name == "gru_reset_after":  # the biases that Flax lacks
        bias = params.bias_hidden.copy()
        bias[: 2 * H] = 0
        params = params._replace(bias_hidden=bias)
    flax_cell = FLAX_CELLS[name](H, dtype=dtype, param_dtype=dtype)
    layer = nn.RNN(flax_cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)

    @jax.jit
    def forward_and_back(variables, inputs):
        def forward(variables, inputs):
            carry, outputs = layer.apply(variables, inputs, seq_lengths=jnp.asarray(LENGTHS))
            final = carry[::-1] if name == "lstm" else (carry,)  # Flax's carry is (c, h)
            return tuple(final), outputs

        results, pull_back = jax.vjp(forward, variables, inputs)
        return results, pull_back((tuple(d_final), d_outputs))

    (final, outputs), (d_params, d_inputs) = forward_and_back(flax_params(name, params), jnp.asarray(inputs))
    (our_final, our_outputs), (our_d_params, our_d_inputs, _) = run_and_back(
        run, cell, params, inputs, (d_final, d_outputs), state=None, mask=MASK, reverse=reverse
    )
    assert_close(tuple(our_final), final, tolerance)
    assert_close(our_outputs[MASK], outputs[MASK], tolerance)
    assert_close(flax_params(name, our_d_params), d_params, tolerance)
    assert_close(our_d_inputs, d_inputs, tolerance)


@pytest.mark.parametrize("name", ["simple_rnn", "lstm", "gru_reset_after"])
def test_pytorch_in_both_directions(name, precision):
    torch = pytest.importorskip("torch", reason="PyTorch is an optional peer (the extra `peers`), never in CI")
    dtype, tolerance = precision
    cell = CELLS[name][0]
    layer_class = {"simple_rnn": "RNN", "lstm": "LSTM", "gru_reset_after": "GRU"}[name]
    params, inputs, (_, d_outputs) = data(name, dtype)
    backward = type(params)(*(leaf[..., ::-1].copy() for leaf in params))
    d_outputs = np.concatenate([d_outputs, d_outputs[..., ::-1]], axis=-1)
    layer = getattr(torch.nn, layer_class)(F, H, bidirectional=True, dtype=getattr(torch, dtype))
    weights = to_torch(cell, params) | to_torch(cell, backward, suffix="_l0_reverse")
    layer.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in weights.items()})
    given = torch.from_numpy(inputs).requires_grad_()
    outputs, _ = layer(given)
    outputs.backward(torch.from_numpy(d_outputs))
    gradients = {key: weight.grad.numpy() for key, weight in layer.named_parameters()}

    @jax.jit
    def forward_and_back(params, inputs):
        def forward(params, inputs):
            return jaxseq.bidirectional(cell, params, inputs)[1]

        results, pull_back = jax.vjp(forward, params, inputs)
        return results, pull_back(d_outputs)

    our_outputs, (our_d_params, our_d_inputs) = forward_and_back((params, backward), inputs)
    assert_close(our_outputs, outputs.detach().numpy(), tolerance)
    assert_close(our_d_inputs, given.grad.numpy(), tolerance)
    for suffix, own, own_grads in (("", params, our_d_params[0]), ("_reverse", backward, our_d_params[1])):
        wanted = {key: gradients[key] for key in to_torch(cell, own, suffix="_l0" + suffix)}
        actual = to_torch(cell, own_grads, suffix="_l0" + suffix)
        if name != "gru_reset_after":  # two biases that add up have one and the same gradient
            actual["bias_hh_l0" + suffix] = actual["bias_ih_l0" + suffix]
        assert_close(actual, wanted, tolerance)
        read = from_torch(cell, layer.state_dict(), suffix="_l0" + suffix)
        assert_close(read, type(own)(*(leaf.astype("float32") for leaf in own)), 0)
