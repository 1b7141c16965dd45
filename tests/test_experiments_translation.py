"""Translation: tokens, BLEU, the split, and what a run writes and predicts."""

import dataclasses
import json
import math

import numpy as np
import pytest

import jaxseq
from experiments import experiment, translation
from experiments.translation import bleu

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """As on a machine without data or network."""
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAXSEQ_OFFLINE", "1")


@pytest.mark.parametrize(
    "written, expected",
    [
        ("Qu’est-ce que c'est\u202f?", "qu' est -ce que c' est ?"),
        ("Y a-t-il quelqu'un, là-bas ?", "y a -t -il quelqu' un , là -bas ?"),
        ("I don't know.", "i don' t know ."),
    ],
)
def test_tokens_keep_apostrophe_and_hyphen(written, expected):
    assert translation.tokens(written) == tuple(expected.split())


def test_a_french_sentence_comes_back_as_it_is_written():
    for written in ("Qu'est-ce que c'est ?", "Y a-t-il quelqu'un, là-bas ?", "C'est l'été."):
        assert translation.sentence(translation.tokens(written)) == written


def sentences(*texts):
    return [tuple(text.split()) for text in texts]


def test_bleu_counts_a_word_as_often_as_a_reference_has_it():
    """Papineni et al.'s example: of seven "the" two are right; no pair of words is, so BLEU itself is 0."""
    references = sentences("the cat is on the mat", "there is a cat on the mat")
    assert bleu(sentences("the the the the the the the"), [references]) == 0
    # By hand: unigrams 5/6 (one "the" too many is none here), bigrams 4/5, trigrams 3/4, 4-grams 2/3.
    written = sentences("the cat is on the rug")
    product = 5 / 6 * 4 / 5 * 3 / 4 * 2 / 3
    assert bleu(written, [references]) == pytest.approx(100 * product**0.25)


def test_bleu_of_a_corpus_sums_before_it_divides():
    """Counts of both sentences together: unigrams 9/10, bigrams 7/8, trigrams 5/6, 4-grams 3/4."""
    written = sentences("a b c d e", "f g h i j")
    references = [sentences("a b c d e"), sentences("f g h i k")]
    assert bleu(written, references) == pytest.approx(100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25)


def test_bleu_punishes_brevity_by_the_nearest_reference():
    written = sentences("a b c d e f")
    assert bleu(written, [sentences("a b c d e f g h")]) == pytest.approx(100 * math.exp(1 - 8 / 6))
    # 5 and 7 are equally near: the shorter counts, and nothing is too short.
    assert bleu(written, [sentences("a b c d e f g", "a b c d e")]) == pytest.approx(100)
    assert bleu(written, [sentences("a b c d e f g", "a b c")]) == pytest.approx(100 * math.exp(1 - 7 / 6))
    longer = bleu(written, [sentences("a b c d e")])  # too long costs precision alone
    assert longer == pytest.approx(100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25)


def test_bleu_is_a_hundred_only_for_a_reference_and_zero_for_nothing():
    references = [sentences("a b c d", "e f g h i")]
    assert bleu(sentences("e f g h i"), references) == pytest.approx(100)
    assert bleu([()], references) == 0
    assert bleu(sentences("a b"), [sentences("a b")]) == 0  # no 4-gram was written at all
    with pytest.raises(ValueError, match="references must hold one or more for each of 1"):
        bleu(sentences("a"), [[]])
    with pytest.raises(ValueError, match="references must hold one or more for each of 1"):
        bleu(sentences("a"), [])


def test_no_english_sentence_is_in_two_parts_and_every_pair_is_the_files():
    corpus = translation._corpus(True)
    words = {
        name: {tuple(filter(str.isalnum, english)) for english, _ in pairs} for name, pairs in corpus.parts.items()
    }
    assert not words["training"] & words["test"] and not words["training"] & words["validation"]
    assert not words["validation"] & words["test"] and min(map(len, words.values())) > 20
    for pairs in corpus.parts.values():
        assert all(french in corpus.references[english] for english, french in pairs)
    known = {token for english, _ in corpus.parts["training"] for token in english}
    assert set(corpus.english.words[4:]) == known  # of the training part alone


def test_targets_are_the_sentence_and_the_decoder_sees_it_one_step_late():
    corpus, data = translation._corpus(True), translation._load(True, False)
    (sources, before), targets, weights = data.test.arrays
    assert (before[:, 0] == corpus.french.index("<START>")).all()
    np.testing.assert_array_equal(before[:, 1:], targets[:, :-1])
    stop = corpus.french.index("<STOP>")
    for row, (english, french) in enumerate(corpus.parts["test"][:50]):
        real = targets[row][weights[row]]
        assert real[-1] == stop and len(real) == len(french) + 1
        assert corpus.french.decode(real[:-1]) == " ".join(french)
        assert corpus.english.decode(sources[row][sources[row] != 0]) == " ".join(english)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The experiment with smaller models, trained for some epochs on the synthetic grammar: (experiment, out)."""
    corpus = translation._corpus(True)
    [whole] = translation.EXPERIMENTS
    model = jaxseq.EncoderDecoder(jaxseq.GRU(32), len(corpus.english), len(corpus.french), 32)
    variants = [
        dataclasses.replace(
            variant,
            model=model.copy(attention=variant.model.attention),
            optimizer=jaxseq.adam(1e-2),
            epochs=epochs,
            batch_size=64,
        )
        for variant, epochs in zip(whole.variants, (1, 8), strict=True)
    ]
    one = dataclasses.replace(whole, variants=tuple(variants))
    out = tmp_path_factory.mktemp("runs")
    experiment.run(one, experiment.Request(data="synthetic", seeds=1, out=out))
    return one, out


def test_the_study_sets_attention_beside_no_attention(small):
    """And whole sentences that were never seen come out right: the attending model trained for longer."""
    directory = small[1] / "sequence_to_sequence"
    result = json.loads((directory / "result.json").read_text())
    assert [variant["label"] for variant in result["variants"]] == ["attention"]
    figures, tables = result["study"]["figures"], result["study"]["tables"]
    for quantity, least in (("BLEU-4", 80), ("exact match (%)", 60)):
        attending, without = (figures[f"{quantity} {name} attention"]["mean"] for name in ("with", "without"))
        assert figures[f"{quantity}: gained by attention, seed by seed"]["mean"] == pytest.approx(attending - without)
        assert attending > max(least, without)
    (scores, samples) = tables.values()
    assert {len(row) for row in scores} == {6} and {len(row) for row in samples} == {4}
    assert scores[1][0] == "all" and scores[1][1] == sum(row[1] for row in scores[2:])
    assert samples[0] == ["English", "reference", "without attention", "with attention"]
    right = {translation.sentence(one): one for refs in translation._corpus(True).references.values() for one in refs}
    assert all(row[1] in right for row in samples[1:])
    assert (directory / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_predict_translates_and_names_unknown_words(small, tmp_path):
    corpus = translation._corpus(True)
    english = next(one for one, _ in corpus.parts["test"] if len(one) == 5)
    for label in ("", "attention"):
        saved = experiment.read_saved(*small, label, 0)
        assert len(translation._predict(saved, " ".join(english)).splitlines()) == 1
        unknown = translation._predict(saved, " ".join((*english[:-2], "zeppelin"))).splitlines()
        assert unknown[1:] == [f"not among the {len(corpus.english)} English words known: zeppelin"]
    # The mark that every sentence in training ends with need not be typed, and a file may hold the sentence.
    (tmp_path / "sentence.txt").write_text(" ".join(english[:-1]) + "\n")
    typed = translation._predict(saved, " ".join((*english[:-1], ".")))
    assert translation._predict(saved, str(tmp_path / "sentence.txt")) == typed
    for text, words in (("?!", "at least one English word"), ("a " * 9, "at most 8 words and marks, got 10")):
        with pytest.raises(experiment.UserError, match=words):
            translation._predict(saved, text)
