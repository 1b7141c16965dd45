"""Experiments on IMDB's indices: what is fed to the models, one-hot without the array, and what their studies count."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxseq
from experiments import imdb, imdb100, imdb500
from experiments.experiment import Run, Saved, UserError, summarize
from jaxseq.datasets import synthetic
from jaxseq.epochs import initialize

pytestmark = pytest.mark.usefixtures("compiled_quickly")

KEY = jax.random.key(0)
VARIANTS = {
    f"{experiment.name} {variant.label}".strip(): variant
    for family in (imdb, imdb100, imdb500)
    for experiment in family.EXPERIMENTS
    for variant in experiment.variants
}


# What is fed


def test_reviews_in_order_and_reversed_are_padded_at_the_front():
    raw = synthetic.imdb(np.random.default_rng(0), 300, num_words=10_000)
    sequence = raw.train_inputs[3]
    (in_order, _), (reversed_, _) = (imdb._inputs(True, True, order) for order in ("in order", "reversed"))
    np.testing.assert_array_equal(in_order[3, -len(sequence) :], sequence)
    np.testing.assert_array_equal(reversed_[3, -len(sequence) :], sequence[::-1])
    assert not in_order[3, : -len(sequence)].any() and not reversed_[3, : -len(sequence)].any()


def test_shuffled_reviews_lose_their_order_and_nothing_else():
    long = np.r_[1, np.arange(10, 700)]
    short = np.r_[1, np.arange(10, 60)]
    of_long, of_short = imdb._arranged([long, short], "shuffled", 500)
    np.testing.assert_array_equal(np.sort(of_long), long[-500:])  # the words that the model sees in order
    assert of_short[0] == 1 and sorted(of_short) == sorted(short)
    assert not np.array_equal(of_long, long[-500:]) and not np.array_equal(of_short, short)
    again = imdb._arranged([long, short], "shuffled", 500)
    np.testing.assert_array_equal(of_short, again[1])
    np.testing.assert_array_equal(long, np.r_[1, np.arange(10, 700)])  # the reviews themselves stay as they were


def test_the_second_training_of_the_convnet_is_on_every_training_review():
    load = VARIANTS["imdb_conv1d 4 epochs, all training reviews"].load
    data, documented = load(True, False), VARIANTS["imdb_conv1d"].load(True, False)
    assert data.validation is None and len(data.train.rows) == 4000
    assert documented.validation is not None
    assert (len(documented.train.rows), len(documented.validation.rows)) == (3200, 800)


def test_500_words_are_split_as_scikit_learn_does():
    data = VARIANTS["imdb500_onehot_rnn"].load(True, False)
    order = np.random.RandomState(42).permutation(4000)
    assert data.validation is not None
    np.testing.assert_array_equal(data.validation.rows, order[:800])
    np.testing.assert_array_equal(np.sort(np.r_[data.train.rows, data.validation.rows]), np.arange(4000))


def test_first_100_words_are_the_beginning_and_numbers_are_the_indices():
    raw = synthetic.imdb(np.random.default_rng(0), 300, num_words=500)
    position = next(i for i, sequence in enumerate(raw.train_inputs) if len(sequence) > 120)
    names = ("imdb500_onehot_rnn", "imdb500_onehot_rnn first 100 words", "imdb500_onehot_rnn indices as numbers")
    last, first, numbers = (VARIANTS[name].load(True, True).train.arrays[0][position] for name in names)
    np.testing.assert_array_equal(last, raw.train_inputs[position][-100:])
    np.testing.assert_array_equal(first, raw.train_inputs[position][:100])
    np.testing.assert_array_equal(numbers[:, 0], last.astype(np.float32), strict=True)


def test_100_reviews_as_printed_are_one_step_of_888_numbers_and_repaired_888_steps():
    printed, repaired = (VARIANTS[name].load(True, False) for name in ("imdb100_rnn", "imdb100_repaired"))
    inputs, targets = imdb.gathered(printed.train)
    assert (inputs.shape, inputs.dtype, targets.shape) == ((100, 1, 888), np.float32, (100,))
    words, _ = imdb.gathered(repaired.train)
    held_out, _ = imdb.gathered(repaired.validation)
    np.testing.assert_array_equal(inputs[:, 0], np.concatenate([words, held_out]).astype(np.float32))
    assert len(held_out) == 20 and (words[:, 0] == 1).all()  # the start mark: padding comes after the words
    assert len(printed.test.rows) == len(repaired.test.rows) == 100


def test_the_printed_model_has_no_recurrence():
    model = VARIANTS["imdb100_lstm"].model
    inputs = jax.random.uniform(KEY, (4, 1, 888))
    params = jax.jit(model.init)(KEY, inputs)["params"]
    gradient = jax.jit(jax.grad(lambda params: model.apply({"params": params}, inputs).sum()))(params)
    of_cell = gradient["layer"]["cell"]
    assert not of_cell.w_hidden.any() and of_cell.w_input.any()


def test_only_93_reviews_give_both_printed_training_accuracies():
    def possible(accuracy):
        return {size for size in range(1, 129) for right in range(size + 1) if round(right / size, 4) == accuracy}

    assert possible(0.7742) & possible(0.8172) == {93}
    assert (round(72 / 93, 4), round(76 / 93, 4)) == (0.7742, 0.8172)


# One-hot without the array


@pytest.mark.parametrize("cell", [jaxseq.SimpleRNN(6), jaxseq.GRU(6)], ids=repr)
def test_the_lookup_is_the_one_hot_product(cell):
    tokens = jax.random.randint(KEY, (3, 11), 0, 20)
    model = imdb500.OneHotClassifier(cell, 20)
    params = jax.jit(model.init)(KEY, tokens)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), params)  # a bias that counts

    def by_lookup(params):
        return model.apply({"params": params}, tokens)

    def with_array(params):
        state, _ = jaxseq.scan(cell, params["cell"], jax.nn.one_hot(tokens.T, 20))
        return state.hidden @ params["head"]["kernel"] + params["head"]["bias"]

    def score(logits, params):
        values = logits(params)
        return jnp.sin(values).sum(), values

    pairs = []
    for logits in (by_lookup, with_array):
        gradient, values = jax.jit(jax.grad(lambda params, logits=logits: score(logits, params), has_aux=True))(params)
        pairs.append((values, gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *pairs)


def test_the_lookup_makes_no_one_hot_array():
    tokens = jnp.zeros((64, 100), jnp.int32)
    model = imdb500._ONE_HOT
    params = jax.eval_shape(model.init, KEY, tokens)
    text = str(jax.make_jaxpr(jax.grad(lambda params: model.apply(params, tokens).sum()))(params))
    assert "f32[500,8]" in text and "f32[100,64,8]" in text
    assert "100,64,500]" not in text and "64,100,500]" not in text and "[64,500]" not in text


def test_bytes_are_those_of_the_arrays():
    data = VARIANTS["imdb500_onehot_rnn"].load(True, True)
    figures, table = imdb500._sizes(Run([], data, None, True, True))
    tokens, _ = imdb.gathered(data.train)
    assert figures["bytes, indices, int32"] == tokens.nbytes
    assert figures["bytes, one-hot array, float32"] == jaxseq.one_hot(tokens, 500).nbytes
    embedded = jaxseq.layers.Embedding(500, 16).init_with_output(KEY, tokens)[0]
    assert figures["bytes, embedded, float32"] == embedded.nbytes
    assert [row[2] for row in table[1:]] == [1, 500, 16]


# A review typed in


def saved(name):
    """An untrained model with what is kept beside its checkpoints."""
    variant = VARIANTS[name]
    data = variant.load(True, True)
    inputs, _ = imdb.gathered(data.train, 1)
    params = jax.jit(lambda: initialize(variant.model, inputs, optax.identity(), 0).params)()
    assert data.encoding is not None
    return Saved(variant, params, data.encoding | {"input": [[list(inputs.shape[1:]), str(inputs.dtype)]]})


@pytest.mark.parametrize(
    "name",
    ["imdb_bilstm", "imdb500_onehot_rnn first 100 words", "imdb500_onehot_rnn indices as numbers", "imdb100_rnn"],
)
def test_a_typed_review_is_read_as_the_training_reviews_were(name):
    one = saved(name)
    data = one.variant.load(True, True)
    num_words = one.encoding["num_words"]
    sequences = imdb.reviews(True, True, num_words).train_inputs
    row = next(row for row in data.train.rows if len(sequences[row]) > 150)
    # As text, in which the words that are beyond the vocabulary are some word or other.
    words = [imdb.vocabulary(True, num_words).word(index) for index in sequences[row][1:]]
    text = ", ".join("zzyzx" if word == "<UNK>" else word.upper() for word in words) + "!"
    inputs, _ = data.train.take(data.train.arrays, np.array([row]))
    expected = float(jax.nn.sigmoid(one.apply(inputs)[0, 0]))
    answer = imdb.predict_sentiment(one, text).splitlines()
    assert answer[0] == f"{'positive' if expected > 0.5 else 'negative'}, probability {max(expected, 1 - expected):.3f}"
    assert any("zzyzx" in line for line in answer[1:]) == ("<UNK>" in words)
    assert ("the model reads 100 of them" in answer[-1]) == name.startswith("imdb500")


def test_a_review_may_lie_in_a_file_and_must_hold_words(tmp_path):
    one = saved("imdb100_rnn")
    word = imdb.vocabulary(True, 1000).word(10)
    (tmp_path / "review.txt").write_text(f"{word}?\n\t{word}")
    assert imdb.predict_sentiment(one, str(tmp_path / "review.txt")) == imdb.predict_sentiment(one, f"{word} {word}")
    with pytest.raises(UserError, match=r"TEXT must hold at least one word, got ' \?!'"):
        imdb.predict_sentiment(one, " ?!")


# Studies


def trained(label, accuracies, val_losses=((1.0,),)):
    result = {
        "figures": {"test": {"accuracy": summarize(accuracies)}},
        "history": [{"val_loss": list(losses)} for losses in val_losses],
    }
    return SimpleNamespace(variant=SimpleNamespace(label=label), result=result, data=SimpleNamespace(validation=1))


def test_variants_are_compared_seed_by_seed():
    run = SimpleNamespace(
        trained=[trained("", [0.8, 0.9], [[3.0, 1.0, 2.0], [1.0, 2.0]]), trained("shuffled", [0.7, 0.6])]
    )
    figures = imdb.accuracies(run)
    assert figures["test accuracy, as documented"]["mean"] == pytest.approx(0.85)
    np.testing.assert_allclose(figures["test accuracy, shuffled, minus as documented"]["seeds"], [-0.1, -0.3])
    assert imdb.least_losses(run)["epoch of least validation loss, as documented"]["seeds"] == [2, 1]


def test_ensembles_are_compared_with_those_of_one_direction(monkeypatch):
    targets = np.array([1, 1, 0, 0])
    by_label = {
        "": np.array([[0.9, 0.4, 0.1, 0.1], [0.9, 0.4, 0.1, 0.1]]),  # wrong at the second, both seeds
        "reviews in order": np.array([[0.9, 0.9, 0.1, 0.6], [0.9, 0.9, 0.1, 0.6]]),  # at the fourth
    }
    monkeypatch.setattr(imdb, "_probabilities", lambda one, inputs: by_label[one.variant.label])
    test = jaxseq.examples(np.zeros((4, 2), np.int32), targets)
    run = SimpleNamespace(
        trained=[trained("", [0.75, 0.75]), trained("reviews in order", [0.75, 0.75])],
        data=SimpleNamespace(test=test),
        variant=lambda label: SimpleNamespace(variant=SimpleNamespace(label=label), data=SimpleNamespace(test=test)),
    )
    figures = imdb._study_reversed(run)["figures"]
    assert figures["agreement, reversed with in order"]["seeds"] == [0.5, 0.5]
    assert figures["agreement, two seeds in order"]["seeds"] == [1.0]
    assert figures["ensemble's test accuracy, reversed with in order"]["seeds"] == [1.0, 1.0]
    assert figures["ensemble's gain over its members' mean, reversed with in order"]["seeds"] == [0.25, 0.25]
    assert figures["ensemble's gain over its members' mean, two seeds reversed"]["seeds"] == [0.0]


def test_reviews_move_into_their_padding(monkeypatch):
    inputs = np.zeros((3, 20), np.int32)
    inputs[0, 5:], inputs[1, 10:], inputs[2, 4:] = 7, 8, 9  # the third has no room to move by 5
    seen = []

    def probabilities(one, moved):
        seen.append(moved)
        return np.array([[0.9, 0.9 if moved[1, 5] else 0.1]])  # the second is told otherwise once it has moved by 5

    monkeypatch.setattr(imdb, "_probabilities", probabilities)
    data = SimpleNamespace(test=jaxseq.examples(inputs, np.zeros(3)))
    figures = imdb._moved(SimpleNamespace(data=data, trained=[None]))
    assert [figure["mean"] for figure in figures.values()] == [0.5, 1.0]
    np.testing.assert_array_equal(seen[0], inputs[:2])
    np.testing.assert_array_equal(seen[1], np.roll(inputs[:2], -5, axis=1))
    np.testing.assert_array_equal(seen[2], np.roll(inputs[:2], -1, axis=1))


def test_a_feeling_in_an_embedding_is_found():
    """Vectors that are the words' feelings: 1 within a feeling, -1 between opposite ones."""
    run = SimpleNamespace(synthetic=True)
    known = imdb.vocabulary(True, 10_000)
    positive, negative, neutral = imdb._marked_words(run)
    matrix = np.random.default_rng(0).normal(0, 1e-3, (10_000, 4))
    matrix[[known.index(word) for word in positive], 0] += 1
    matrix[[known.index(word) for word in negative], 0] -= 1
    [(name, figure)] = imdb._feeling(run, {"after training": [matrix, matrix]}).items()
    assert name.endswith("after training") and figure["mean"] == pytest.approx(2, abs=1e-3)
    rows = imdb._neighbours(run, {"after training": matrix})
    assert len(rows) == 1 + len(positive) + len(negative) + len(neutral)
    row = next(row for row in rows if row[0] == positive[0])
    assert {part.split()[0] for part in row[1].split(", ")} <= {*positive} | {
        known.word(index) for index in range(4, 10_000) if matrix[index, 0] > 0
    }
    assert set(positive[1:]) <= {part.split()[0] for part in row[1].split(", ")}
