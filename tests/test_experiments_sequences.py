"""One-to-many, many-to-one, many-to-many: what the three families compute beside training, and what users type in."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image as matplotlib_image

import jaxseq
from experiments import captions, experiment, spam, tagging
from experiments.experiment import Request, Saved, UserError, read_saved
from experiments.inputs import text_or_file
from jaxseq.datasets import synthetic
from jaxseq.datasets.ud_ewt import TAGS, TaggedSentence

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def trained(family, out):
    """The documented variant after two epochs of large steps on synthetic data, and its saved model."""
    [one] = family.EXPERIMENTS
    variant = dataclasses.replace(one.variants[0], optimizer=jaxseq.adam(1e-2))
    one = dataclasses.replace(one, variants=(variant,))
    result = experiment.run(one, Request(data="synthetic", seeds=1, epochs=2, out=out))
    return result, read_saved(one, out, "", 0)


def saved_captioner():
    variant = captions.EXPERIMENTS[0].variants[0]
    inputs = (np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 8), np.int32))
    return Saved(variant, variant.model.init(jax.random.key(0), *inputs)["params"], {})


# Captions


def test_the_convolution_is_flax_s():
    images = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    ours, theirs = captions.Convolution(5), nn.Conv(5, (3, 3))
    kernel, bias = theirs.init(jax.random.key(1), images)["params"]["kernel"], jnp.arange(5.0)
    of_ours = {"params": {"Dense_0": {"kernel": kernel.reshape(27, 5), "bias": bias}}}
    assert jax.tree.map(jnp.shape, of_ours) == jax.tree.map(jnp.shape, ours.init(jax.random.key(1), images))
    convolved = nn.relu(theirs.apply({"params": {"kernel": kernel, "bias": bias}}, images))
    expected = nn.max_pool(convolved, (2, 2), (2, 2))
    np.testing.assert_allclose(ours.apply(of_ours, images), expected, rtol=1e-5, atol=1e-5)


def test_what_is_unseen_is_in_no_other_part():
    shown = captions.combinations()
    sizes = {name: len(of_name) for name, of_name in shown.items()}
    assert sizes == {"training": 389, "unseen combinations": 97, "unseen pairs": 162}
    assert len(set(itertools.chain(*shown.values()))) == 648
    # Of the unseen combinations every two words stand together in training too; of the unseen pairs one two never does.
    pairs = {name: {two for one in shown[name] for two in itertools.combinations(one, 2)} for name in shown}
    assert pairs["unseen combinations"] <= pairs["training"]
    assert pairs["unseen pairs"] - pairs["training"] == set(captions.UNSEEN_PAIRS)
    of_parts = {name: set(captions._part(name, True).captions) for name in captions._SIZES}
    for unseen in ("unseen combinations", "unseen pairs"):
        assert not of_parts[unseen] & set.union(*(of_parts[name] for name in of_parts if name != unseen))
    assert of_parts["training"] & of_parts["test"]


def test_caption_examples_teach_the_next_word():
    part = captions._Part(np.zeros((1, 32, 32, 3), np.uint8), ["a red circle on the left"])
    (_, before), targets, weights = part.examples().arrays
    words = ["a", "red", "circle", "on", "the", "left", "<END>"]
    assert captions._VOCABULARY.decode(targets[0]).split() == [*words, "<PAD>"]
    assert captions._VOCABULARY.decode(before[0]).split() == ["<START>", *words]
    np.testing.assert_array_equal(weights, [[1, 1, 1, 1, 1, 1, 1, 0]])


def test_what_is_written_is_what_teacher_forcing_finds_likeliest():
    saved = saved_captioner()
    # Larger parameters, so that captions differ and some end before the last step.
    params = jax.tree.map(lambda leaf: 3 * leaf, saved.params)
    images = synthetic.captioned_images(np.random.default_rng(0), 16).images
    written = np.asarray(captions._write(saved.variant.model, params, images))
    before = np.pad(written[:, :-1], ((0, 0), (1, 0)), constant_values=1)
    likeliest = jaxseq.predict(saved.variant.model, params, (images, before)).argmax(axis=-1)
    stop = captions._VOCABULARY.index("<END>")
    ended = np.cumsum(before == stop, axis=1) > 0
    np.testing.assert_array_equal(written, np.where(ended, stop, likeliest))
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_agreement_names_what_is_wrong():
    written = [["two red circles on the left", "a small red cross on the right"]]
    true = ["two red circles on the left", "a red cross in the middle"]
    shares = {name: figure["mean"] for name, figure in captions._agreement(written, true).items()}
    assert shares == {"the whole caption": 0.5, "count": 1, "size": 0.5, "colour": 1, "shape": 1, "place": 0.5}


def test_an_image_file_is_read_as_it_was_written(tmp_path):
    saved = saved_captioner()
    image, sample = captions._part("test").images[5], str(tmp_path / "image.png")
    matplotlib_image.imsave(sample, image)
    np.testing.assert_array_equal(captions._read_image(sample), image)
    caption = captions._predict(saved, sample)
    assert captions._predict(saved, "sample 5") == f"{caption} (truly: {captions._part('test').captions[5]})"


@pytest.mark.parametrize(
    "text, words",
    [
        ("sample 1000", "TEXT must be 'sample 0' to 'sample 999'"),
        ("nowhere.png", "TEXT must be the path of a PNG file"),
        ("text.png", "TEXT must be the path of a PNG file"),
        ("large.png", "TEXT must be a colour image of 32 by 32 pixels, got shape (33, 32, 4)"),
    ],
)
def test_what_is_no_image_is_said(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    matplotlib_image.imsave("large.png", np.zeros((33, 32, 3), np.uint8))
    with pytest.raises(UserError) as error:
        captions._predict(saved_captioner(), text)
    assert str(error.value).startswith(words)


# Spam


def test_messages_alike_word_for_word_are_kept_once():
    texts = ["Call now!", "call NOW", "now call", "call  now 1", "now call."]
    assert spam.distinct(texts).tolist() == [0, 2, 3]


def test_parts_share_no_message_and_as_much_spam():
    targets = np.arange(1_000) % 7 == 0
    parts = spam.stratified(targets, (0.8, 0.1, 0.1), np.random.default_rng(0))
    assert [len(part) for part in parts] == [800, 100, 100]
    assert sorted(np.concatenate(parts)) == list(range(1_000))
    assert [int(targets[part].sum()) for part in parts] == [114, 15, 14]
    data = spam._load(True, False)
    rows = [{tuple(row) for row in part.arrays[0].tolist()} for part in (data.train, data.validation, data.test)]
    # Different messages may read alike where their only difference is a number that the vocabulary does not hold.
    assert not rows[0] & rows[2] and not rows[1] & rows[2]


def test_the_vocabulary_is_the_training_part_s():
    known = spam._load(True, False).encoding["words"]
    assert known[:3] == ["<PAD>", "<START>", "<UNK>"] and len(set(known)) == len(known)
    digits = sum(word.isdigit() for word in known)
    # Every spam has a telephone number of its own, 171 of them; those of the other parts are not in it.
    assert digits == sum(spam._load(True, False).train.arrays[1])


def test_scores_of_spam():
    called, targets = np.array([1, 1, 0, 0, 0, 1]), np.array([1, 0, 0, 0, 1, 1])
    counts = spam.confusion(called, targets)
    assert counts.tolist() == [[2, 1], [1, 2]]
    assert spam.scores(counts) == pytest.approx({"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3})
    assert spam.scores(np.array([[3, 0], [1, 0]])) == {"accuracy": 0.75, "precision": 0, "recall": 0, "F1": 0}


def test_spam_is_told_from_ham(tmp_path):
    result, saved = trained(spam, tmp_path)
    figures = result["study"]["figures"]
    assert figures["LSTM(32): accuracy"]["mean"] > figures["always ham: accuracy"] + 0.1
    of_test = result["figures"]["test"]["accuracy"]["mean"]
    assert figures["LSTM(32): accuracy"]["mean"] == pytest.approx(of_test)
    message = "you win a prize claim the cash award call 08712345678"
    (tmp_path / "message.txt").write_text(message)
    prediction = spam._predict(saved, message)
    assert prediction.startswith("spam (probability ") and 50 < float(prediction.split()[2]) <= 100
    assert spam._predict(saved, str(tmp_path / "message.txt")) == prediction
    assert spam._predict(saved, "are you home for dinner tonight mum").startswith("ham")
    with pytest.raises(UserError, match="^TEXT must be a message of at least one word, got '!!'"):
        spam._predict(saved, "!!")


# Tags


def test_long_sentences_are_cut_and_nothing_is_lost():
    sentence = TaggedSentence(tuple(map(str, range(130))), ("NUM",) * 130)
    cut = tagging.pieces([sentence, TaggedSentence(("a",), ("DET",))], 60)
    assert [len(piece.words) for piece in cut] == [60, 60, 10, 1]
    assert sum((piece.words for piece in cut[:3]), ()) == sentence.words
    assert sum((piece.tags for piece in cut[:3]), ()) == sentence.tags


def test_tag_examples_count_every_word_once():
    data, corpus = tagging._load(True, True), tagging._corpus(True, True)
    inputs, targets, weights = data.test.arrays
    sentences = corpus.parts["test"]
    assert weights.sum() == sum(len(sentence.words) for sentence in sentences)
    assert [TAGS[tag] for tag in targets[weights]] == [tag for sentence in sentences for tag in sentence.tags]
    assert corpus.vocabulary.decode(inputs[3][weights[3]]) == " ".join(sentences[3].words).lower()


def test_the_commonest_tag_of_a_word():
    sentences = [
        TaggedSentence(("The", "run", "plan"), ("DET", "NOUN", "NOUN")),
        TaggedSentence(("the", "run", "they", "Run"), ("DET", "VERB", "PRON", "VERB")),
    ]
    commonest = tagging.Commonest.fit(sentences)
    assert [commonest.tag(word) for word in ("RUN", "the", "plan")] == ["VERB", "DET", "NOUN"]
    assert commonest.tag("never") == "NOUN"  # of the words that came once, plan and they, the first


def test_tags_come_from_their_context(tmp_path):
    result, saved = trained(tagging, tmp_path)
    figures = result["study"]["figures"]
    accuracy = figures["accuracy, every word: both directions"]["mean"]
    assert accuracy == pytest.approx(result["figures"]["test"]["accuracy"]["mean"], abs=1e-6)
    several = "accuracy, words with several tags in training: "
    assert figures[several + "both directions"]["mean"] > figures[several + "commonest tag of each word"]["mean"] + 0.1
    header, *rows = result["study"]["tables"]["tag by tag, both directions"]
    assert header[1] == "test words"
    right = sum(row[1] * row[3]["mean"] for row in rows)
    assert right / sum(row[1] for row in rows) == pytest.approx(accuracy, abs=1e-6)
    lines = tagging._predict(saved, "They run; the run!").splitlines()
    assert [line.split() for line in lines][1] == ["run", "VERB"]
    assert [line.split() for line in lines][4] == ["run", "NOUN"]
    assert [line.split()[0] for line in lines] == ["They", "run", ";", "the", "run", "!"]
    with pytest.raises(UserError, match="^TEXT must be a sentence of at least one word"):
        tagging._predict(saved, "  ")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("She didn't pay $3.50, did she?", "She did n't pay $ 3.50 , did she ?"),
        (
            "I can’t... we'll see: it's a well-known 'plan'.",
            "I ca n't ... we 'll see : it 's a well - known ' plan ' .",
        ),
        ("Don't won't N'T 10,000 at 9:30", "Do n't wo n't N'T 10,000 at 9:30"),
        ("", ""),
    ],
)
def test_sentences_are_cut_as_the_treebank_cuts(text, expected):
    assert tagging.tokens(text) == expected.split()


# What is typed in


def test_a_text_or_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("from a file")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    assert text_or_file(f" {tmp_path / 'a.txt'}\n") == "from a file"
    for text in ("a text", "x" * 5_000, "a\0b", str(tmp_path)):
        assert text_or_file(text) == text
    with pytest.raises(UserError, match="^TEXT must be a text, or a file of one in UTF-8, got "):
        text_or_file(str(tmp_path / "b.txt"))
