"""Models of single words on IMDB, what their studies measure, and the worked steps of text vectorization."""

import collections
import functools
import json
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from experiments import imdb, text_vectorization, word_geometry
from experiments import imdb_words as family
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import Run, Saved, Trained, UserError, summarize
from jaxseq.datasets import synthetic
from jaxseq.word_vectors import WordVectors

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# Bags of words


def test_bags_marked_in_a_batch_are_the_multi_hot_rows():
    reviews = [[1, 5, 5, 9_999], [7], [3, 2, 3, 8, 4, 4]]
    bags = family._bags(reviews, None)
    assert bags.shape == (3, 4)  # each word once
    np.testing.assert_array_equal(family._multi_hot(jnp.asarray(bags)), jaxseq.multi_hot(reviews, 10_000))
    np.testing.assert_array_equal(
        family._multi_hot(jnp.asarray(family._bags(reviews, 3))), jaxseq.multi_hot([r[-3:] for r in reviews], 10_000)
    )


def test_the_bag_model_is_the_documents_dense_network_on_multi_hot_rows():
    reviews = [[1, 5, 5, 900], [7, 8], [3, 2, 3, 8, 4, 4]]
    model, bags = family._BagOfWords(), jnp.asarray(family._bags(reviews, None))
    params = model.init(jax.random.key(0), bags)["params"]
    rows = jaxseq.multi_hot(reviews, 10_000)
    for layer, activation in (("Dense_0", True), ("Dense_1", True), ("Dense_2", False)):
        rows = rows @ np.asarray(params[layer]["kernel"]) + np.asarray(params[layer]["bias"])
        rows = np.maximum(rows, 0) if activation else rows
    np.testing.assert_allclose(model.apply({"params": params}, bags), rows, rtol=1e-5, atol=1e-6)


# Which reviews train


def test_draws_share_their_validation_reviews_and_no_training_review():
    draws = [family._split(25_000, 10_000, family._Reader("frozen", draw=draw)) for draw in family._DRAWS]
    train = np.concatenate([rows for rows, _ in draws])
    assert [len(rows) for rows, _ in draws] == [200] * 5 and len(np.unique(train)) == 1_000
    for rows, validation in draws:
        assert len(np.unique(validation)) == 10_000 and not np.isin(rows, validation).any()
        np.testing.assert_array_equal(validation, draws[0][1])


def test_more_reviews_begin_with_the_same_ones():
    few, _ = family._split(25_000, 10_000, family._Reader("learned"))
    many, validation = family._split(25_000, 10_000, family._Reader("learned", 2_000))
    np.testing.assert_array_equal(many[:200], few)
    assert len(many) == 2_000 and len(validation) == 10_000 and not np.isin(many, validation).any()


# GloVe in an embedding


def _variant(name, label=""):
    return next(variant for variant in EXPERIMENTS[name].variants if variant.label == label)


def test_the_embedding_holds_each_words_vector():
    data = family._load_texts(True, True, family._Reader("frozen"))
    words, vectors = data.encoding["words"], family._glove(True).vectors
    tokenizer = family._texts(True, True).tokenizer
    assert [tokenizer.word_index[word] for word in words[1:4]] == [1, 2, 3]
    params = {"embedding": {"embedding": np.ones((10_000, 100))}, "head": 7}
    filled = family._with_vectors(data, params)
    assert filled["head"] == 7
    matrix = np.asarray(filled["embedding"]["embedding"])
    np.testing.assert_array_equal(matrix[5], vectors[words[5]])
    assert not matrix[0].any()


@pytest.mark.parametrize(
    "label, moves", [("GloVe frozen, 2,000 reviews", False), ("GloVe trainable, 200 reviews", True)]
)
def test_a_frozen_embedding_stays_as_it_was_and_a_trainable_one_does_not(label, moves):
    variant = _variant("imdb_glove_scratch_2000", label)
    data = variant.load(True, True)
    fit = jaxseq.fit(
        variant.task,
        data.train,
        optimizer=jaxseq.freeze(variant.optimizer, variant.frozen) if variant.frozen else variant.optimizer,
        epochs=1,
        batch_size=variant.batch_size,
        pretrained=functools.partial(variant.pretrained, data),
    )
    after = np.asarray(fit.state.params["embedding"]["embedding"][0])
    assert (not np.array_equal(after, family._vectors_for(data))) == moves


# What embeddings know


def _made_vectors():
    """Gender and plural are directions; cold is hot turned round."""
    rng = np.random.default_rng(0)
    gender, plural = rng.normal(size=(2, 50))
    words = {"female": gender}
    for first, second in (("man", "woman"), ("king", "queen"), ("boy", "girl")):
        words[first] = rng.normal(size=50)
        words[second] = words[first] + gender
    for first, second in (("car", "cars"), ("word", "words"), ("city", "cities")):
        words[first] = rng.normal(size=50)
        words[second] = words[first] + plural
    for pair, noise in ((("big", "large"), 0.1), (("film", "movie"), 0.1)):
        words[pair[0]] = rng.normal(size=50)
        words[pair[1]] = words[pair[0]] + noise * rng.normal(size=50)
    words["hot"] = rng.normal(size=50)
    words["cold"] = -words["hot"]
    return WordVectors(tuple(words), np.stack(list(words.values())))


def test_the_study_of_vectors_finds_what_is_there_and_says_what_is_missing():
    study = word_geometry.study(_made_vectors())
    figures, tables = study["figures"], study["tables"]
    assert figures["cosine, synonyms"] > 0.9 and figures["cosine, antonyms"] == pytest.approx(-1)
    assert abs(figures["cosine, the same words, paired otherwise"]) < 0.5
    assert figures["gender, pairs"] == 3 and figures["plural, pairs"] == 3
    for name in ("gender", "plural"):
        assert figures[f"{name}, cosine between the pairs' differences"] == pytest.approx(1)
        assert figures[f"{name}, share where the others' mean step leads to the word"] == 1
    (analogies,) = (rows for title, rows in tables.items() if title.startswith("analogies"))
    by_name = {row[0]: row[1:] for row in analogies[1:]}
    assert by_name["cat → tiger, dog → ?"][1] == "not testable, no vector for cat, dog, tiger, wolf"
    # The vectors of an analogy are brought to length 1 first, so an exact sum need not be an exact answer.
    assert by_name["man → woman, king → ?"][2] == 1 and by_name["man → woman, king → ?"][3] == pytest.approx(1)
    json.dumps(study)


def test_a_direction_that_is_none_leads_nowhere():
    rng = np.random.default_rng(0)
    names = "king kings car cars city cities word words day days week weeks".split()
    vectors = WordVectors(tuple(names), rng.normal(size=(len(names), 50)))
    figures = word_geometry._direction(
        vectors, [(a, b) for a, b in zip(names[::2], names[1::2], strict=True)], "plural"
    )
    assert abs(figures["plural, cosine between the pairs' differences"]) < 0.2
    assert figures["plural, share where the others' mean step leads to the word"] < 0.5


def test_pairs_made_otherwise_are_none_of_the_pairs():
    pairs = word_geometry.pairs_of(
        word_geometry.SYNONYMS, dict.fromkeys(word_geometry.SYNONYMS.replace(",", " ").split())
    )
    otherwise = word_geometry._otherwise(pairs)
    assert len(pairs) > 60 and len(otherwise) > 60 and not set(otherwise) & set(pairs)
    assert {first for first, _ in otherwise} <= {first for first, _ in pairs}


@pytest.mark.parametrize(
    "text", [word_geometry.SYNONYMS, word_geometry.ANTONYMS, word_geometry.GENDERS, word_geometry.PLURALS]
)
def test_lists_of_words_are_pairs_each_once(text):
    pairs = [frozenset(pair.split()) for pair in text.split(",")]
    assert {len(pair) for pair in pairs} == {2} and len(set(pairs)) == len(pairs)


def test_neighbours_kept():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(60, 20))
    assert word_geometry.neighbours_kept(before, 3 * before) == 1
    assert word_geometry.neighbours_kept(before, rng.normal(size=(60, 20))) < 0.4
    half = np.concatenate([before, before[:, :1]], axis=1)  # another axis, the same for all but for size
    assert 0.5 < word_geometry.neighbours_kept(before, half) <= 1


def test_the_flattened_model_is_a_sum_of_scores_of_words_at_their_places():
    model, rng = family._Flattened(8), np.random.default_rng(0)
    tokens = rng.integers(0, 10_000, (5, 20))
    params = model.init(jax.random.key(0), jnp.asarray(tokens))["params"]
    params["head"]["bias"] = jnp.asarray([0.25])
    scores, bias = family._word_scores(params)
    sums = [sum(scores[place, word] for place, word in enumerate(review)) + bias for review in tokens]
    np.testing.assert_allclose(model.apply({"params": params}, jnp.asarray(tokens))[:, 0], sums, atol=1e-6)
    with_hidden = family._Flattened(8, hidden=4)
    assert "hidden" in with_hidden.init(jax.random.key(0), jnp.asarray(tokens))["params"]


def test_words_that_tell_a_class_are_found():
    """Words 10 to 59 stand in positive reviews only, 60 to 109 in negative ones."""
    rng = np.random.default_rng(0)
    targets = np.arange(400) % 2
    inputs = np.where(targets[:, None] == 1, rng.integers(10, 60, (400, 20)), rng.integers(60, 110, (400, 20)))
    groups = family._groups(jaxseq.examples(inputs, targets), imdb.vocabulary(True, 10_000))
    opposite = groups["one that tells positive, one that tells negative"]
    assert set(opposite[:, 0].tolist()) == set(range(10, 60)) and set(opposite[:, 1].tolist()) == set(range(60, 110))
    alike = groups["the 50 words that most tell one class"]
    assert ((alike[:, 0] < 60) == (alike[:, 1] < 60)).all() and len(alike) == 2 * 50 * 49 // 2


def test_draws_are_compared_with_seeds_and_with_no_glove():
    def one(label, values):
        history = [{"accuracy": [0.9], "val_accuracy": [value], "val_loss": [0.7]} for value in values]
        figures = {"final": {"val_accuracy": summarize(values)}, "test_final": {"accuracy": summarize(values)}}
        result = {"history": history, "figures": figures, "epochs": 1}
        return Trained(_variant("imdb_glove_frozen", label), None, None, result)  # pyright: ignore

    trained = [
        one("", [0.5, 0.6]),
        one("draw 2", [0.7, 0.8]),
        one("embedding learned, draw 1", [0.5, 0.5]),
        one("embedding learned, draw 2", [0.5, 0.6]),
    ]
    study = family._study_frozen(Run(trained, None, None, True, True))  # pyright: ignore
    figures = study["figures"]
    assert figures["validation accuracy, frozen, over 2 draws"]["seeds"] == pytest.approx([0.55, 0.75])
    assert figures["deviation over seeds of one draw, validation accuracy, frozen"] == pytest.approx(0.1 / np.sqrt(2))
    assert figures["test accuracy, frozen minus learned, over 2 draws"]["seeds"] == pytest.approx([0.05, 0.2])
    assert figures["training minus validation accuracy, last epoch"]["mean"] == pytest.approx(0.35)


# A review typed in


def _saved(name, label=""):
    variant = _variant(name, label)
    data = variant.load(True, True)
    params = variant.model.init(jax.random.key(0), jnp.asarray(data.train.arrays[0][:1]))["params"]
    return Saved(variant, jax.tree.map(lambda leaf: 3 * leaf, params), data.encoding)


def _said(saved, row):
    probability = float(jax.nn.sigmoid(saved.apply(row[None])[0, 0]))
    return f"{max(probability, 1 - probability):.3f}", "positive" if probability > 0.5 else "negative"


def test_a_raw_review_typed_in_is_read_as_the_training_reviews_were(tmp_path):
    saved = _saved("imdb_glove_scratch")
    texts = synthetic.imdb_texts(np.random.default_rng(0), 2_200)
    path = tmp_path / "review.txt"
    path.write_text(texts.train_texts[7])
    certainty, sentiment = _said(saved, family._texts(True, True).train.arrays[0][7])
    for given in (texts.train_texts[7], str(path)):
        assert family._predict_text(saved, given).startswith(f"{sentiment}, probability {certainty}")
    assert "unknown" not in family._predict_text(saved, "ba be")
    assert family._predict_text(saved, "ba, Unheard be!").endswith("unknown to the model: unheard")


@pytest.mark.parametrize("label", ["", "last 500 words"])
def test_a_review_typed_in_as_a_bag_is_read_as_the_training_reviews_were(label):
    saved = _saved("imdb_dense_baseline", label)
    known, review = imdb.vocabulary(True, 10_000), imdb.reviews(True, True, 10_000).train_inputs[3]
    certainty, sentiment = _said(saved, family._bags([review], saved.encoding["last"])[0])
    answer = family._predict_bag(saved, known.decode(review, special=False))
    assert answer.startswith(f"{sentiment}, probability {certainty}")
    with pytest.raises(UserError, match="TEXT must hold at least one word"):
        family._predict_bag(saved, "... !")


# Text vectorization


def test_every_value_of_the_document_comes_out():
    assert [step.name for step in text_vectorization.steps() if not step.agrees] == []


def test_one_hot_rows_are_those_of_codes_6_1_and_6_2():
    """The document's own loops."""
    samples, token_index = text_vectorization.SAMPLES, {}
    for sample in samples:
        for word in sample.split():
            if word not in token_index:
                token_index[word] = len(token_index) + 1
    results = np.zeros((len(samples), 10, max(token_index.values()) + 1))
    for i, sample in enumerate(samples):
        for j, word in list(enumerate(sample.split()))[:10]:
            results[i, j, token_index[word]] = 1.0
    np.testing.assert_array_equal(text_vectorization.word_rows(), results)
    characters = dict(zip(string.printable, range(1, len(string.printable) + 1), strict=True))
    results = np.zeros((len(samples), 50, max(characters.values()) + 1))
    for i, sample in enumerate(samples):
        for j, character in enumerate(sample):
            results[i, j, characters[character]] = 1.0
    np.testing.assert_array_equal(text_vectorization.character_rows(), results)


def test_hashed_rows_mark_one_index_a_word_and_equal_words_alike():
    rows = text_vectorization.hashed_rows()
    assert rows.sum() == 11 and (rows.sum(-1) <= 1).all()
    np.testing.assert_array_equal(rows[0, 0], rows[1, 0])  # "The"
    assert rows[0, 0].argmax() != rows[0, 4].argmax()  # "the": case is kept


def test_the_cell_agrees_with_the_documents_numpy_where_outputs_are_not_all_one():
    by_numpy, by_cell = text_vectorization._recurrences()["weights centred"]
    assert np.abs(by_numpy).max() < 0.999
    np.testing.assert_allclose(by_cell, by_numpy, atol=2e-6)
    saturated, _ = text_vectorization._recurrences()["as printed"]
    assert saturated.min() > 0.999


def test_collisions_are_counted_and_expected():
    vocabulary = [f"word{number}" for number in range(300)]
    counts = collections.Counter(jaxseq.text.hash_words(vocabulary, 100))
    assert text_vectorization.collisions(vocabulary, 100) == pytest.approx(
        sum(count for count in counts.values() if count > 1) / 300
    )
    assert text_vectorization.collisions(vocabulary, 2) == 1
    rng = np.random.default_rng(0)
    thrown = [np.bincount(rng.integers(1, 1000, 300), minlength=1000) for _ in range(200)]
    simulated = np.mean([counts[counts > 1].sum() / 300 for counts in thrown])
    assert text_vectorization.expected_collisions(300, 1000) == pytest.approx(simulated, abs=0.01)


def test_a_vocabularys_bytes_grow_with_its_words():
    short, long = ([letter * length for letter in "abcdef"] for length in (1, 101))
    assert text_vectorization.vocabulary_bytes(long) - text_vectorization.vocabulary_bytes(short) == 600


def test_text_vectorization_predicts_nothing_and_is_listed(capsys):
    assert main(["predict", "text_vectorization", "a text"]) == 2
    assert "NAME must be an experiment with a model to use" in capsys.readouterr().err
    assert main(["list"]) == 0
    assert "text_vectorization" in capsys.readouterr().out
