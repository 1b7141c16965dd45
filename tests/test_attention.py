"""Attention: NumPy float64 references, Flax and JAX as second oracles, masks, derivatives, errors, the decoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxseq
from jaxseq import attention

pytestmark = pytest.mark.usefixtures("compiled_quickly")

B, T, S, H, A = 3, 4, 6, 5, 7
LENGTHS = np.array([6, 3, 0])
MASK = np.arange(S) < LENGTHS[:, None]
TOKENS = np.array([[5, 9, 3, 7, 2, 8], [4, 4, 6, 0, 0, 0], [7, 1, 0, 0, 0, 0]])
TARGETS = np.array([[1, 4, 3, 7], [1, 6, 2, 2], [1, 9, 10, 5]])

QUICK = {"optimizer": jaxseq.adam(2e-2), "progress": False, "devices": jax.devices()[:1]}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def score_of(name, query_size=H, key_size=H):
    """(ours, in float64 NumPy): the same scores of (queries, keys)."""
    if name == "dot":
        return attention.dot_scores, lambda q, k: np.array([[a @ b for b in k] for a in q])
    if name == "general":
        weights = draw(1, query_size, key_size)
        ours = functools.partial(attention.general_scores, jnp.asarray(weights))
        return ours, lambda q, k: np.array([[a @ weights @ b for b in k] for a in q])
    w_query, w_key, w_score = draw(1, query_size, A), draw(2, key_size, A), draw(3, A)
    ours = functools.partial(attention.additive_scores, attention.AdditiveParams(w_query, w_key, w_score))
    return ours, lambda q, k: np.array([[w_score @ np.tanh(a @ w_query + b @ w_key) for b in k] for a in q])


def reference(score, queries, keys, values, lengths):
    """Row by row, only over the real steps."""
    contexts = np.zeros((len(queries), queries.shape[1], values.shape[2]))
    weights = np.zeros((len(queries), queries.shape[1], keys.shape[1]))
    for row, length in enumerate(lengths):
        if length:
            scores = np.exp(score(queries[row], keys[row, :length]))
            weights[row, :, :length] = scores / scores.sum(1, keepdims=True)
            contexts[row] = weights[row, :, :length] @ values[row, :length]
    return contexts, weights


@pytest.mark.parametrize("name", attention.SCORES)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_the_reference(x64, name, masked):
    sizes = (H, H) if name == "dot" else (H + 2, H)
    queries, keys, values = draw(4, B, T, sizes[0]), draw(5, B, S, sizes[1]), draw(6, B, S, 8)
    ours, theirs = score_of(name, *sizes)
    contexts, weights = attention.attend(ours, queries, keys, jnp.asarray(values), mask=MASK if masked else None)
    expected = reference(theirs, queries, keys, values, LENGTHS if masked else [S] * B)
    np.testing.assert_allclose(contexts, expected[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(weights, expected[1], rtol=1e-12, atol=1e-13)
    if masked:
        assert (np.asarray(weights)[~np.broadcast_to(MASK[:, None], weights.shape)] == 0).all()
        assert not contexts[2].any()  # nothing real: nothing read


def test_jax_and_flax_agree_where_something_is_real(x64):
    queries, keys, values = draw(4, 2, T, H), draw(5, 2, S, H), draw(6, 2, S, H)
    mask = MASK[:2]
    contexts, weights = attention.attend(attention.dot_scores, queries, keys, jnp.asarray(values), mask=mask)
    heads = [array[:, :, None] for array in (queries, keys, values)]
    theirs = jax.nn.dot_product_attention(*heads, mask=mask[:, None, None], scale=1.0)
    np.testing.assert_allclose(contexts, theirs[:, :, 0], rtol=1e-5, atol=1e-6)  # its softmax is float32
    theirs = nn.dot_product_attention_weights(heads[0] * H**0.5, heads[1], mask=mask[:, None, None])
    np.testing.assert_allclose(weights, theirs[:, 0], rtol=1e-12, atol=1e-15)


def test_one_sequence_is_a_row_of_the_batch():
    queries, keys = draw(4, B, T, H), draw(5, B, S, H)
    whole = attention.attend(attention.dot_scores, queries, keys, mask=MASK)
    for row in range(B):
        one = attention.attend(attention.dot_scores, queries[row], keys[row], mask=MASK[row])
        for ours, theirs in zip(one, whole, strict=True):
            np.testing.assert_allclose(ours, theirs[row], rtol=1e-6, atol=1e-7)
    mapped = jax.vmap(lambda q, k, m: attention.attend(attention.dot_scores, q, k, mask=m))(queries, keys, MASK)
    np.testing.assert_allclose(mapped[0], whole[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", attention.SCORES)
def test_derivatives_are_right_twice(x64, name):
    """With a sequence of length 0 in the batch, in forward and reverse mode, first and second order."""
    score = score_of(name)[0]
    queries, keys = jnp.asarray(draw(4, B, T, H)), jnp.asarray(draw(5, B, S, H))
    contexts = jax.jit(lambda q, k: attention.attend(score, q, k, mask=MASK)[0])
    check_grads(contexts, (queries, keys), order=2, rtol=1e-5)


@pytest.mark.parametrize("name", attention.SCORES)
def test_nan_in_padding_reaches_nothing_and_padding_gets_no_gradient(name):
    module = jaxseq.Attention(name)
    queries, keys = jnp.asarray(draw(4, B, T, H), jnp.float32), jnp.asarray(draw(5, B, S, H), jnp.float32)
    spoilt = jnp.where(MASK[..., None], keys, jnp.nan)
    variables = module.init(jax.random.key(0), queries, keys)

    def loss(variables, queries, keys):
        contexts, weights = module.apply(variables, queries, keys, mask=MASK)
        return jnp.sum(contexts**3) + jnp.sum(weights**2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    clean, dirty = gradient(variables, queries, keys), gradient(variables, queries, spoilt)
    for ours, theirs in zip(jax.tree.leaves(dirty), jax.tree.leaves(clean), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(ours).all()
    assert not np.asarray(dirty[2])[~MASK].any() and np.asarray(dirty[2])[MASK].any()
    assert not dirty[1][2].any()  # of an empty sequence nothing was asked


def test_masked_softmax_needs_no_nan_on_the_way():
    scores = jnp.array([[1.0, 2.0, jnp.inf], [jnp.nan, -jnp.inf, 3.0], [1e4, -1e4, 0.0]])
    mask = jnp.array([[True, True, False], [False] * 3, [True] * 3])
    expected = [[1 / (1 + np.e), np.e / (1 + np.e), 0], [0, 0, 0], [1, 0, 0]]
    with jax.debug_nans(True):
        np.testing.assert_allclose(attention.masked_softmax(scores, mask), expected, rtol=1e-6)
        gradient = jax.grad(lambda s: (attention.masked_softmax(s, mask) ** 2).sum())(scores)
    assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0, 2] == 0


def test_pooling_is_the_reference_and_ignores_padding():
    module = jaxseq.AttentionPooling(size=A)
    outputs = jnp.asarray(draw(5, B, S, H), jnp.float32)
    variables = module.init(jax.random.key(0), outputs)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    params["key"]["bias"] = draw(7, A)
    summary, weights = module.apply({"params": params}, jnp.where(MASK[..., None], outputs, jnp.nan), mask=MASK)
    for row, length in enumerate(LENGTHS[:2]):
        steps = np.asarray(outputs, np.float64)[row, :length]
        scores = np.exp(np.tanh(steps @ params["key"]["kernel"] + params["key"]["bias"]) @ params["query"][0])
        np.testing.assert_allclose(weights[row, :length], scores / scores.sum(), rtol=1e-5)
        np.testing.assert_allclose(summary[row], (scores / scores.sum()) @ steps, rtol=1e-4, atol=1e-6)
    assert not np.asarray(weights)[~MASK].any() and not np.asarray(summary)[2].any()


def test_pooling_over_a_recurrent_network_learns_which_step_counts():
    """The label stands at a marked step, anywhere: the weights find it."""

    class Classifier(nn.Module):
        def setup(self):
            self.layer, self.pooling, self.head = (
                jaxseq.Recurrent(jaxseq.GRU(8)),
                jaxseq.AttentionPooling(),
                nn.Dense(1),
            )

        def __call__(self, inputs, *, train=False):
            return self.head(self.pooling(self.layer(inputs)[1])[0])

        def weights(self, inputs):
            return self.pooling(self.layer(inputs)[1])[1]

    rng = np.random.default_rng(0)
    labels, places = rng.integers(0, 2, 256), rng.integers(0, 16, 256)
    inputs = np.zeros((256, 16, 2), np.float32)
    inputs[np.arange(256), places] = np.stack([np.ones(256), 2 * labels - 1], axis=1)
    task = jaxseq.Task(Classifier(), jaxseq.losses.binary_cross_entropy, {"accuracy": jaxseq.losses.binary_accuracy})
    result = jaxseq.fit(task, jaxseq.examples(inputs, labels), epochs=12, batch_size=32, **QUICK)
    assert result.history[0]["accuracy"][-1] > 0.95
    weights = Classifier().apply({"params": jaxseq.select(result.best_params, 0)}, inputs, method="weights")
    before = np.arange(16) < places[:, None]  # where there was nothing to know yet
    assert np.asarray(weights)[before].mean() < 0.5 * np.asarray(weights)[~before].mean()


def encoder_decoder(form, **settings):
    return jaxseq.EncoderDecoder(**{"cells": (jaxseq.GRU(6), jaxseq.LSTM(5)), "attention": form} | settings | SIZES)


SIZES = {"source_vocabulary_size": 20, "target_vocabulary_size": 11, "embedding_size": 4}


@pytest.mark.parametrize("form", attention.SCORES)
def test_the_decoder_attends_as_luong_has_it(form):
    """c = attention(h, s), logits = head(tanh(W [c; h])), over the outputs that the engine gives."""
    model = encoder_decoder(form)
    variables = model.init(jax.random.key(0), TOKENS, TARGETS)
    params = variables["params"]

    def run(half, embedded, states, mask):
        ends = []
        for index, cell in enumerate(model.cells):
            end, embedded = jaxseq.scan(
                cell, params[f"{half}_{index}"]["cell"], embedded, state=states[index], mask=mask
            )
            ends.append(end)
        return ends, embedded

    source = params["source_embedding"]["embedding"][TOKENS.T]
    states, encoded = run("encoder", source, [None, None], TOKENS.T != 0)
    _, decoded = run("decoder", params["target_embedding"]["embedding"][TARGETS.T], states, None)
    keys, queries = encoded.swapaxes(0, 1), decoded.swapaxes(0, 1)
    score = {
        "dot": attention.dot_scores,
        "general": lambda q, k: attention.general_scores(params["reader"]["score"], q, k),
        "additive": lambda q, k: attention.additive_scores(params["reader"]["score"], q, k),
    }[form]
    contexts, weights = attention.attend(score, queries, keys, mask=TOKENS != 0)
    both = jnp.concatenate([contexts, queries], axis=-1)
    logits = jnp.tanh(both @ params["combine"]["kernel"]) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(model.apply(variables, TOKENS, TARGETS), logits, rtol=1e-5, atol=1e-6)
    ours = model.apply(variables, TOKENS, TARGETS, method="attention_weights")
    np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-5)
    assert not np.asarray(ours)[np.broadcast_to((TOKENS == 0)[:, None], ours.shape)].any()


def test_greedy_decoding_is_teacher_forcing_on_what_was_written():
    model = encoder_decoder("additive")
    variables = model.init(jax.random.key(0), TOKENS, TARGETS)
    # Untrained logits hardly differ from step to step: larger parameters make the comparison mean something.
    variables = jax.tree.map(lambda leaf: 3 * leaf + 0.1, variables)
    written = np.asarray(jaxseq.greedy_decode(model, variables, TOKENS, start=1, stop=2, max_steps=6))
    forced = np.pad(written[:, :-1], ((0, 0), (1, 0)), constant_values=1)
    likeliest = np.asarray(model.apply(variables, TOKENS, forced)).argmax(-1)
    for ours, theirs in zip(written, likeliest, strict=True):
        ended = int(np.argmax(ours == 2)) if (ours == 2).any() else 6
        np.testing.assert_array_equal(ours[: ended + 1], theirs[: ended + 1])
        assert (ours[ended:] == 2).all()


def test_the_attending_decoder_ignores_padding_and_sees_no_later_token():
    model = encoder_decoder("general")
    variables = model.init(jax.random.key(0), TOKENS, TARGETS)
    logits = model.apply(variables, TOKENS, TARGETS)
    longer = np.pad(TOKENS, ((0, 0), (0, 4)))
    np.testing.assert_allclose(model.apply(variables, longer, TARGETS), logits, rtol=1e-5, atol=1e-6)
    changed = TARGETS.copy()
    changed[:, 2] = (changed[:, 2] + 1) % 11
    after = model.apply(variables, TOKENS, changed)
    np.testing.assert_array_equal(after[:, :2], logits[:, :2])
    assert not np.allclose(after[:, 2:], logits[:, 2:])
    empty = np.zeros_like(TOKENS)
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(model.apply(v, empty, TARGETS) ** 2)))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_attention_reverses_what_a_bottleneck_cannot_hold():
    """Sequences read backwards: a decoder of few units needs to look again (without attention: 0.68)."""
    rng = np.random.default_rng(0)
    source = rng.integers(3, 13, (1000, 8)).astype(np.int32)
    target = source[:, ::-1]
    data = jaxseq.examples((source, np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=1)), target)
    model = jaxseq.EncoderDecoder(jaxseq.GRU(16), 13, 13, 12, attention="general")
    metrics = {"accuracy": jaxseq.losses.categorical_accuracy}
    task = jaxseq.Task(model, jaxseq.losses.categorical_cross_entropy, metrics)
    result = jaxseq.fit(task, data, epochs=10, batch_size=50, **QUICK)
    assert result.history[0]["accuracy"][-1] > 0.85


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: attend(np.zeros((B, T, 3))), "queries must be as wide as keys \\(5\\).*got 3"),
        (lambda: attend(np.zeros((2, T, H))), "same leading axes"),
        (lambda: attend(np.zeros(H)), "queries must have two axes or more"),
        (lambda: attend(values=np.zeros((B, 2, H))), "values must have one entry for each of the keys"),
        (lambda: attend(mask=np.ones((B, T), bool)), r"mask must be bool \(3, 6\), got bool \(3, 4\)"),
        (lambda: attend(mask=np.ones((B, S))), "mask must be bool.*got float64"),
        (
            lambda: jaxseq.Attention("cosine").init(jax.random.key(0), np.zeros((B, T, H)), np.zeros((B, S, H))),
            "score must be one of dot, general, additive, got 'cosine'",
        ),
        (lambda: jaxseq.AttentionPooling().init(jax.random.key(0), np.zeros((S, H))), "must have three axes"),
        (lambda: encoder_decoder("luong").init(jax.random.key(0), TOKENS, TARGETS), "attention must be None or one of"),
        (
            lambda: encoder_decoder(None).apply({"params": {}}, TOKENS, TARGETS, method="attention_weights"),
            "attention must be set",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_named(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def attend(queries=None, values=None, mask=None):
    queries = np.zeros((B, T, H)) if queries is None else queries
    return attention.attend(attention.dot_scores, queries, np.zeros((B, S, H)), values, mask=mask)
