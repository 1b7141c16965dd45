"""Flax modules: the same numbers as the engine, the documents' parameter counts, masks, dropout, errors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from jaxseq import layers, model_summary, models
from tests.test_compilation import find_equations

KEY = jax.random.key(0)
FEATURES = jax.random.normal(jax.random.key(1), (3, 7, 5))
TOKENS = jax.random.randint(jax.random.key(2), (3, 7), 1, 20)
LENGTHS = jnp.array([7, 3, 0])
MASK = jnp.arange(7) < LENGTHS[:, None]  # [B, T]
pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.mark.parametrize("time_major", [False, True])
def test_recurrent_is_the_engine(time_major):
    layer = jaxseq.Recurrent(jaxseq.LSTM(4), reverse=True, time_major=time_major)
    inputs, mask = (FEATURES.swapaxes(0, 1), MASK.T) if time_major else (FEATURES, MASK)
    variables = layer.init(KEY, inputs)
    state, outputs = layer.apply(variables, inputs, mask=mask)
    expected_state, expected = jaxseq.scan(
        jaxseq.LSTM(4), variables["params"]["cell"], FEATURES.swapaxes(0, 1), mask=MASK.T, reverse=True
    )
    np.testing.assert_allclose(outputs if time_major else outputs.swapaxes(0, 1), expected, rtol=1e-6)
    np.testing.assert_allclose(state.carry, expected_state.carry, rtol=1e-6)


def test_recurrent_dropout_needs_training_and_is_one_mask_a_sequence():
    layer = jaxseq.Recurrent(jaxseq.SimpleRNN(4, activation="linear"), dropout=0.5)
    ones = jnp.ones((64, 7, 5))
    variables = layer.init(KEY, ones)
    plain = layer.apply(variables, ones)[1]
    np.testing.assert_array_equal(layer.apply(variables, ones, rngs={"dropout": KEY})[1], plain)
    dropped = layer.apply(variables, ones, train=True, rngs={"dropout": KEY})[1]
    assert not np.allclose(dropped, plain)
    # A linear cell without its recurrence gives x W: equal at every step if the mask is.
    params = variables["params"]["cell"]._replace(w_hidden=jnp.zeros((4, 4)))
    steps = layer.apply({"params": {"cell": params}}, ones, train=True, rngs={"dropout": KEY})[1]
    np.testing.assert_array_equal(steps, np.broadcast_to(steps[:, :1], steps.shape))
    assert len(np.unique(np.asarray(steps[:, 0, 0]))) > 4  # but another one for each sequence


@pytest.mark.parametrize("merge", ["concatenate", "sum", "average", "multiply", None])
def test_bidirectional_is_the_engine(merge):
    layer = jaxseq.Bidirectional(jaxseq.GRU(4), jaxseq.LSTM(4), merge=merge)
    variables = layer.init(KEY, FEATURES)
    params = variables["params"]
    states, outputs = layer.apply(variables, FEATURES, mask=MASK)
    expected_states, expected = jaxseq.bidirectional(
        (jaxseq.GRU(4), jaxseq.LSTM(4)),
        (params["forward"]["cell"], params["backward"]["cell"]),
        FEATURES.swapaxes(0, 1),
        mask=MASK.T,
        merge=merge,
    )
    for a, b in zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a.swapaxes(0, 1), b, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(expected_states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_classifier_reads_each_direction_at_its_own_last_real_step():
    model = jaxseq.SequenceClassifier(
        jaxseq.GRU(4), vocabulary_size=20, embedding_size=3, padding_index=0, bidirectional=True, classes=2
    )
    padded = jnp.where(MASK, TOKENS, 0)
    variables = model.init(KEY, padded)
    logits = model.apply(variables, padded)
    alone = model.apply(variables, padded[1:2, :3])
    # The batch is multiplied in another order; a logit of 1e-4 is what is left of terms a hundred times as large.
    np.testing.assert_allclose(logits[1], alone[0], rtol=1e-5, atol=1e-8)
    head = variables["params"]["head"]
    np.testing.assert_allclose(logits[2], head["bias"], atol=1e-7)  # nothing was read


def test_a_padded_batch_with_a_mask_argument_is_the_same_as_with_a_padding_index():
    settings = {"vocabulary_size": 20, "embedding_size": 3, "classes": 2}
    padded = jnp.where(MASK, TOKENS, 0)
    by_index = jaxseq.SequenceTagger(jaxseq.GRU(4), padding_index=0, **settings)
    by_mask = jaxseq.SequenceTagger(jaxseq.GRU(4), **settings)
    variables = by_index.init(KEY, padded)
    np.testing.assert_array_equal(by_index.apply(variables, padded), by_mask.apply(variables, padded, mask=MASK))


def test_the_tagger_labels_every_step_from_what_came_before():
    model = jaxseq.SequenceTagger((jaxseq.LSTM(4), jaxseq.GRU(3)), vocabulary_size=20, embedding_size=3, classes=5)
    variables = model.init(KEY, TOKENS)
    logits = model.apply(variables, TOKENS)
    assert logits.shape == (3, 7, 5)
    changed = model.apply(variables, TOKENS.at[:, 4].set((TOKENS[:, 4] % 19) + 1))
    np.testing.assert_array_equal(changed[:, :4], logits[:, :4])
    assert not np.allclose(changed[:, 4:], logits[:, 4:])


def test_the_regressor_takes_features():
    model = jaxseq.SequenceRegressor(jaxseq.GRU(4), outputs=2)
    assert model.init_with_output(KEY, FEATURES)[0].shape == (3, 2)


def test_stacked_layers_are_the_engine_with_a_rate_for_each():
    model = jaxseq.SequenceEncoder((jaxseq.GRU(4), jaxseq.GRU(6)), recurrent_dropout=(0.0, 0.5))
    variables = model.init(KEY, FEATURES)
    params = variables["params"]
    last, outputs = model.apply(variables, FEATURES)
    _, expected = jaxseq.stack(
        (jaxseq.GRU(4), jaxseq.GRU(6)),
        (params["layer_0"]["cell"], params["layer_1"]["cell"]),
        FEATURES.swapaxes(0, 1),
    )
    np.testing.assert_allclose(outputs.swapaxes(0, 1), expected, rtol=1e-6)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-6)


def test_a_learned_initial_state_is_trained():
    model = jaxseq.SequenceRegressor(jaxseq.LearnedState(jaxseq.LSTM(4)))
    variables = model.init(KEY, FEATURES)
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, FEATURES) ** 2))(variables)
    assert float(jnp.abs(gradient["params"]["layer_0"]["cell"].initial_state.carry).max()) > 0


def test_the_encoder_decoder_writes_what_it_was_asked_to_and_stops():
    """Greedy decoding is teacher forcing on what it wrote itself; after the stop token only that."""
    model = jaxseq.EncoderDecoder((jaxseq.GRU(6), jaxseq.LSTM(5)), 20, 11, 4)
    variables = model.init(KEY, TOKENS, TOKENS[:, :2] % 11)
    written = np.asarray(models.greedy_decode(model, variables, TOKENS, start=1, stop=2, max_steps=6))
    forced = np.concatenate([np.full((3, 1), 1), written[:, :-1]], axis=1)
    likeliest = np.asarray(model.apply(variables, TOKENS, jnp.asarray(forced))).argmax(-1)
    for row, (ours, theirs) in enumerate(zip(written, likeliest, strict=True)):
        ended = int(np.argmax(ours == 2)) if (ours == 2).any() else 6
        np.testing.assert_array_equal(ours[: ended + 1], theirs[: ended + 1], err_msg=str(row))
        assert (ours[ended:] == 2).all()


def test_the_encoder_ignores_padding():
    model = jaxseq.EncoderDecoder(jaxseq.GRU(6), 20, 11, 4)
    target = TOKENS[:, :3] % 11
    variables = model.init(KEY, TOKENS, target)
    longer = jnp.pad(TOKENS, ((0, 0), (0, 4)))
    np.testing.assert_allclose(
        model.apply(variables, longer, target), model.apply(variables, TOKENS, target), rtol=1e-5, atol=1e-6
    )


def shape(*sizes, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(sizes, dtype)


@pytest.mark.parametrize("layers, total", [(1, 322_080), (4, 328_320)])
def test_the_documents_summaries_come_out(layers, total):
    """Codes 6-19 to 6-21: Embedding(10000, 32) and one SimpleRNN(32), its last or all outputs; four stacked."""
    cells = (jaxseq.SimpleRNN(32),) * layers
    encoder = jaxseq.SequenceEncoder(cells, vocabulary_size=10_000, embedding_size=32)
    rows = model_summary.layers(encoder, shape(1, 500))
    assert [row.parameters for row in rows] == [320_000] + [2_080] * layers
    last, outputs = jax.eval_shape(encoder.init_with_output, KEY, shape(2, 500))[0]
    assert (last.shape, outputs.shape) == ((2, 32), (2, 500, 32))  # both are there, whatever is used
    text = jaxseq.summary(encoder, shape(1, 500))
    assert text.splitlines()[-1].split() == ["Total", f"{total:,}"]


def test_a_summary_of_one_layer_and_of_parameters_of_a_models_own():
    assert model_summary.layers(jaxseq.Recurrent(jaxseq.GRU(8)), shape(1, 5, 3, dtype=jnp.float32)) == [
        model_summary.Layer("Recurrent", "Recurrent", "(1, 5, 8)", 288)
    ]

    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(2)(inputs) * self.param("scale", nn.initializers.ones, (2,))

    rows = model_summary.layers(Scaled(), shape(1, 3, dtype=jnp.float32))
    assert [(row.name, row.parameters) for row in rows] == [("Dense_0", 8), ("scale", 2)]


def test_keras_initialisers_are_the_default():
    embedding = layers.Embedding(2000, 50).init(KEY, TOKENS)["params"]["embedding"]
    assert -0.05 <= float(embedding.min()) < -0.0499 and 0.0499 < float(embedding.max()) <= 0.05
    for layer, inputs, fans in ((layers.Dense(30), (1, 50), (50, 30)), (layers.Conv1D(30, 7), (1, 9, 50), (350, 210))):
        variables = layer.init(KEY, jnp.zeros(inputs))["params"]
        limit = np.sqrt(6 / sum(fans))
        assert limit * 0.98 < float(jnp.abs(variables["kernel"]).max()) <= limit
        assert not variables["bias"].any()
    assert layers.Conv1D(30, 7).apply({"params": variables}, jnp.zeros((1, 9, 50))).shape == (1, 3, 30)  # valid


@pytest.mark.parametrize("features", [3, 6])  # fewer than the inputs', and more
@pytest.mark.parametrize(
    "shape, settings",
    [
        ((3, 9, 5), {}),
        ((9, 5), {}),
        ((2, 3, 9, 5), {"padding": "SAME", "kernel_dilation": 2}),
        ((3, 9, 5), {"padding": "CAUSAL", "kernel_dilation": 3}),
        ((3, 9, 5), {"padding": [(1, 4)], "use_bias": False}),
        ((3, 4, 5), {}),
        ((0, 9, 7), {}),
        ((3, 3, 5), {}),  # shorter than the kernel: nothing comes out
        ((3, 9, 5), {"strides": 2, "padding": "SAME"}),
        ((3, 9, 5), {"input_dilation": 2, "padding": [(0, 1)]}),
        ((3, 9, 5), {"padding": [(-1, 2)]}),
        ((3, 9, 5), {"feature_group_count": 5, "features": 10}),
    ],
)
def test_convolution_is_flax_own(shape, settings, features):
    inputs = jax.random.normal(KEY, shape)
    settings = {"features": features, **settings}
    ours = layers.Conv1D(width=4, **settings)
    reference = nn.Conv(kernel_size=(4,), **{"padding": "VALID", **settings})
    variables = reference.init(KEY, inputs)
    assert jax.tree.structure(ours.init(KEY, inputs)) == jax.tree.structure(variables)

    def results(layer, variables, inputs):
        outputs, pull_back = jax.vjp(layer.apply, variables, inputs)
        return outputs, pull_back(jnp.cos(outputs))

    both = (jax.jit(functools.partial(results, layer))(variables, inputs) for layer in (ours, reference))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, strict=True), *both)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere XLA's convolution is the fast one")
@pytest.mark.parametrize("layer", [layers.Conv1D(6, 4), layers.Conv1D(3, 4), layers.Dense(6)], ids=str)
def test_layers_over_all_steps_are_products_of_rows_on_a_cpu(layer):
    """XLA takes several times as long for a gradient that sums over two axes, batch and steps."""
    variables = layer.init(KEY, FEATURES)
    gradient = jax.grad(lambda variables: layer.apply(variables, FEATURES).sum())
    jaxpr = jax.make_jaxpr(gradient)(variables).jaxpr
    products = list(find_equations(jaxpr, "dot_general"))
    assert len(products) == 2 and not list(find_equations(jaxpr, "conv_general_dilated"))
    assert all(len(axes) == 1 for one in products for axes in one.params["dimension_numbers"][0])


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: jaxseq.Recurrent(jaxseq.GRU(2)).init(KEY, jnp.zeros((3, 4))),
            r"inputs must have three axes.*\(3, 4\)",
        ),
        (lambda: classifier().init(KEY, TOKENS + 30), "token indices from 0 to 19, got 4"),
        (lambda: classifier().init(KEY, TOKENS - 30), "token indices from 0 to 19, got -"),
        (lambda: classifier().init(KEY, FEATURES), "must be token indices"),
        (lambda: translate(source=TOKENS + 30), "^source must be token indices from 0 to 19, got 4"),
        (lambda: translate(target=TOKENS + 30), "^target must be token indices from 0 to 10, got 4"),
        (lambda: dropped(TOKENS[..., None]), "^inputs must be floating point, got dtype int32"),
        (lambda: classifier(vocabulary_size=None).init(KEY, TOKENS), "must be features"),
        (lambda: classifier(embedding_size=None).init(KEY, TOKENS), "embedding_size must be set"),
        (lambda: classifier(vocabulary_size=None, padding_index=0).init(KEY, FEATURES), "padding_index"),
        (lambda: classifier(cells=()).init(KEY, TOKENS), "cells must hold at least one"),
        (lambda: classifier(dropout=(0.1, 0.2)).init(KEY, TOKENS), "dropout must be one rate or one for each of 1"),
        (lambda: classifier(dropout=1.0).init(KEY, TOKENS, train=True), "dropout must be at least 0 and below 1"),
        (lambda: decode(max_steps=0), "max_steps must be an integer of at least 1"),
    ],
)
def test_what_a_user_can_get_wrong_is_named(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def classifier(**settings):
    return jaxseq.SequenceClassifier(**{"cells": jaxseq.GRU(2), "vocabulary_size": 20, "embedding_size": 3, **settings})


def translate(source=None, target=None):
    tokens = jnp.zeros((2, 3), jnp.int32)
    model = jaxseq.EncoderDecoder(jaxseq.GRU(6), 20, 11, 4)
    return model.init(KEY, tokens if source is None else source, tokens if target is None else target)


def dropped(inputs):
    layer = jaxseq.Recurrent(jaxseq.GRU(2), dropout=0.5)
    variables = layer.init(KEY, jnp.ones((1, 1, inputs.shape[-1])))
    return layer.apply(variables, inputs, train=True, rngs={"dropout": KEY})


def decode(max_steps):
    model = jaxseq.EncoderDecoder(jaxseq.GRU(6), 20, 11, 4)
    return models.greedy_decode(model, {}, TOKENS, start=1, stop=2, max_steps=max_steps)
