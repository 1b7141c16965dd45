"""The generated twins: the right types, the same for the same seed, and really something to learn."""

import inspect

import numpy as np
import pytest

from jaxseq.datasets import fra_eng, glove, imdb, jena, reuters, sms, synthetic, ud_ewt

TWINS = [
    (synthetic.imdb, imdb.ImdbSequences),
    (synthetic.imdb_texts, imdb.ImdbTexts),
    (synthetic.reuters, reuters.ReutersSequences),
    (synthetic.jena, jena.JenaSeries),
    (synthetic.glove, glove.GloveVectors),
    (synthetic.sms, sms.SmsMessages),
    (synthetic.ud_ewt, ud_ewt.TaggedSentences),
    (synthetic.fra_eng, fra_eng.SentencePairs),
]


def flat(value):
    if isinstance(value, np.ndarray):
        return [row.tolist() for row in value] if value.dtype == object else value.tolist()
    return [flat(item) for item in value] if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("generate, kind", TWINS, ids=lambda twin: twin.__name__)
def test_twins(generate, kind):
    one, two, other = (generate(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert type(one) is kind
    assert one.source.as_dict()["kind"] == "synthetic" and one.source.files == ()
    if kind is glove.GloveVectors:
        one, two, other = one.vectors.matrix, two.vectors.matrix, other.vectors.matrix
    assert flat(one) == flat(two) != flat(other)


@pytest.mark.parametrize("name", ["imdb", "reuters"])
def test_options_are_the_loaders(name):
    loader = inspect.signature({"imdb": imdb, "reuters": reuters}[name].load).parameters
    twin = inspect.signature(getattr(synthetic, name)).parameters
    for option, parameter in loader.items():
        assert twin[option].default == parameter.default


def naive_bayes(data, size, classes):
    counts = np.ones((classes, size))
    for row, label in zip(data.train_inputs, data.train_targets, strict=True):
        np.add.at(counts[label], row, 1)
    odds = np.log(counts / counts.sum(1, keepdims=True))
    prior = np.log(np.bincount(data.train_targets, minlength=classes) / len(data.train_targets))
    guesses = [np.argmax(odds[:, row].sum(1) + prior) for row in data.test_inputs]
    return np.mean(guesses == data.test_targets)


@pytest.mark.parametrize("num_words", [500, 10_000])
def test_sentiment_lies_in_the_words(num_words):
    data = synthetic.imdb(np.random.default_rng(0), num_words=num_words)
    assert data.train_targets.mean() == data.test_targets.mean() == 0.5
    assert max(row.max() for row in data.train_inputs) < num_words
    assert 0.85 < naive_bayes(data, num_words, 2) < 0.999


def test_topics_lie_in_the_words():
    data = synthetic.reuters(np.random.default_rng(0), num_words=1_000)
    counts = np.bincount(np.concatenate([data.train_targets, data.test_targets]), minlength=46)
    assert counts.min() >= 2 and reuters.TOPICS[counts.argmax()] == "earn" and len(data.train_inputs) == 1_600
    majority = np.mean(data.test_targets == counts.argmax())
    assert naive_bayes(data, 1_000, 46) > majority + 0.2


def test_texts_and_vectors_agree_with_the_indices():
    index = synthetic.imdb_word_index()
    assert (
        list(index.values()) == list(range(1, synthetic.VOCABULARY_SIZE + 1))
        and index == synthetic.reuters_word_index()
    )
    data = synthetic.imdb_texts(np.random.default_rng(0), 400)
    assert data.train_targets.tolist() == [0] * 200 + [1] * 200
    vectors = synthetic.glove(np.random.default_rng(0)).vectors
    texts = [text.lower().rstrip(".").split() for text in data.train_texts]
    assert all(word in index and word in vectors for text in texts for word in text)
    # The mean vector of a review tells its sentiment, along one direction.
    means = np.stack([np.mean([vectors[word] for word in text], axis=0) for text in texts])
    direction = means[200:].mean(0) - means[:200].mean(0)
    scores = means @ direction
    assert np.mean((scores > np.median(scores)) == data.train_targets) > 0.85


def test_weather_can_be_forecast():
    series = synthetic.jena(np.random.default_rng(0))
    assert series.values.shape == (40_000, 14) and series.values.dtype == np.float32
    assert np.isfinite(series.values).all() and (np.diff(series.times) == np.timedelta64(10, "m")).all()
    column = dict(zip(series.columns, series.values.T, strict=True))
    assert (column["Tdew (degC)"] <= column["T (degC)"] + 1e-3).all() and (column["rh (%)"] <= 100).all()
    scaled = (series.values - series.values[series.parts.train].mean(0)) / series.values[series.parts.train].std(0)

    def windows(part, columns):
        row = np.arange(part.start + 1440, part.stop - 144)
        lags = [scaled[row - lag][:, columns] for lag in (6, 72, 144, 150)]
        return np.concatenate([*lags, np.ones((len(row), 1))], 1), scaled[row + 144, 1], scaled[row - 6, 1]

    errors = {}
    for columns in ([1], [0, 1]):
        inputs, target, _ = windows(series.parts.train, columns)
        weights = np.linalg.lstsq(inputs, target, rcond=None)[0]
        inputs, target, last = windows(series.parts.validation, columns)
        errors[len(columns)] = np.abs(inputs @ weights - target).mean()
        errors["naive"] = np.abs(last - target).mean()
    assert errors[2] < 0.8 * errors["naive"] and errors[2] < 0.9 * errors[1]


def test_spam():
    data = synthetic.sms(np.random.default_rng(0), 700)
    assert data.targets.sum() == 100
    has_number = np.array([any(word.isdigit() for word in text.split()) for text in data.texts])
    assert np.mean(has_number == data.targets) == 1


def test_tags_need_their_context():
    data = synthetic.ud_ewt(np.random.default_rng(0))
    assert (len(data.train), len(data.validation), len(data.test)) == (1_000, 200, 200)
    tags = {}
    for sentence in data.train:
        assert len(sentence.words) == len(sentence.tags) and set(sentence.tags) <= set(ud_ewt.TAGS)
        for word, tag in zip(*sentence, strict=True):
            tags.setdefault(word, []).append(tag)
    assert set(tags["run"]) == {"NOUN", "VERB"} and set(tags["like"]) == {"ADP", "VERB"}


def test_pairs():
    data = synthetic.fra_eng(np.random.default_rng(0))
    lengths = [len(text) for text in data.english]
    assert lengths == sorted(lengths) and len(data.french) == len(data.english) == 2_000
    # A sentence has one translation.
    assert len(set(zip(data.english, data.french, strict=True))) == len(set(data.english))
    assert any(text.endswith("\u202f!") for text in data.french)


def test_images_show_what_their_captions_say():
    images, captions = synthetic.captioned_images(np.random.default_rng(0), 600)
    assert images.shape == (600, 32, 32, 3) and images.dtype == np.uint8 and len(np.unique(images, axis=0)) == 600
    names = list(synthetic.COLOURS)
    areas, right = {}, np.zeros(2)
    for image, caption in zip(images.astype(float), captions, strict=True):
        words = caption.split()
        assert set(words) <= set(synthetic.CAPTION_WORDS)
        count = synthetic.COUNTS.index(words[0]) + 1
        ground = np.median(image, axis=(0, 1))
        [colour] = [word for word in words if word in names]
        paint = np.array(synthetic.COLOURS[colour])
        # A pixel belongs to an object if it lies more than halfway from the ground to the paint.
        covered = (image - ground) @ (paint - ground) / np.sum((paint - ground) ** 2) > 0.5
        [shape] = [one for one, plural in synthetic.SHAPES.items() if (one if count == 1 else plural) in words]
        mean = image[covered].mean(axis=0)
        right[0] += (
            names[np.argmin([np.abs(mean - np.array(other)).sum() for other in synthetic.COLOURS.values()])] == colour
        )
        third = [" ".join(words[-3:]) == place for place in synthetic.PLACES].index(True)
        columns = np.nonzero(covered)[1]
        right[1] += np.mean((columns + 0.5) // (32 / 3) == third) > 0.9
        size = next((word for word in ("small", "large") if word in words), "")
        areas.setdefault((shape, size), []).append(covered.sum() / count)
    assert (right / 600 > 0.97).all()
    for shape in synthetic.SHAPES:  # sizes do not overlap
        small, middle, large = (areas[shape, size] for size in ("small", "", "large"))
        assert np.percentile(small, 95) < np.percentile(middle, 5) and np.percentile(middle, 95) < np.percentile(
            large, 5
        )


def test_objects_are_as_many_as_the_caption_says():
    images, captions = synthetic.captioned_images(
        np.random.default_rng(0), 200, [(count, "", "white", "circle", "in the middle") for count in synthetic.COUNTS]
    )
    assert set(captions) == {
        "a white circle in the middle",
        "two white circles in the middle",
        "three white circles in the middle",
    }
    counts = []
    for image in images:
        bright = (image.min(axis=-1) > 140).any(axis=1)  # rows with paint in them: objects lie one above the other
        counts.append(int(np.diff(bright, prepend=False)[bright].sum()))
    stated = np.array([synthetic.COUNTS.index(caption.split()[0]) + 1 for caption in captions])
    # Neighbours that touch look like one here; never more than there are.
    assert (counts <= stated).all() and np.mean(counts == stated) > 0.75
    assert np.bincount(stated, minlength=4)[1:].min() > 40


def test_adding_problem():
    inputs, targets = synthetic.adding_problem(np.random.default_rng(0), 2_000, 51)
    assert inputs.shape == (2_000, 51, 2) and inputs.dtype == targets.dtype == np.float32
    assert ((inputs[..., 0] >= 0) & (inputs[..., 0] < 1)).all() and set(np.unique(inputs[..., 1])) == {0, 1}
    assert (inputs[:, :25, 1].sum(1) == 1).all() and (inputs[:, 25:, 1].sum(1) == 1).all()
    np.testing.assert_allclose(targets, (inputs[..., 0] * inputs[..., 1]).sum(1), rtol=1e-6)
    assert np.mean((targets - 1) ** 2) == pytest.approx(1 / 6, rel=0.05)
    assert synthetic.adding_problem(np.random.default_rng(0), 1, 2).inputs[0, :, 1].tolist() == [1, 1]


def test_copy_memory():
    tokens, targets = synthetic.copy_memory(np.random.default_rng(0), 100, 7, symbols=4, length=3)
    assert tokens.shape == targets.shape == (100, 13) and tokens.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(tokens[:, :3], targets[:, -3:])
    assert set(np.unique(tokens[:, :3])) == {0, 1, 2, 3}
    assert (tokens[:, 3:9] == 4).all() and (tokens[:, 9] == 5).all() and (tokens[:, 10:] == 4).all()
    assert (targets[:, :-3] == 4).all()
    # The mark comes `delay` steps after the last symbol, the answer right after the mark.
    assert synthetic.copy_memory(np.random.default_rng(0), 1, 1, length=1).tokens[0, 1:].tolist() == [9, 8]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda rng: synthetic.imdb(rng, 1), "examples must be an integer of at least 2, got 1"),
        (lambda rng: synthetic.imdb(rng, num_words=-1), "num_words must be"),
        (lambda rng: synthetic.imdb(rng, mean_length=0), "mean_length must be"),
        (lambda rng: synthetic.reuters(rng, 91), "examples must be an integer of at least 92, got 91"),
        (lambda rng: synthetic.reuters(rng, test_split=2), "test_split must be"),
        (lambda rng: synthetic.imdb_texts(rng, 2.5), "examples must be"),
        (lambda rng: synthetic.jena(rng, 3), "rows must be"),
        (lambda rng: synthetic.glove(rng, 1), "dimensions must be"),
        (lambda rng: synthetic.sms(rng, 0), "examples must be"),
        (lambda rng: synthetic.ud_ewt(rng, "10"), "examples must be"),
        (lambda rng: synthetic.fra_eng(rng, True), "examples must be"),
        (lambda rng: synthetic.captioned_images(rng, 0), "examples must be an integer of at least 1, got 0"),
        (lambda rng: synthetic.captioned_images(rng, 1, []), "combinations must be"),
        (lambda rng: synthetic.captioned_images(rng, 1, [("pink", "cross")]), "combinations must be"),
        (lambda rng: synthetic.adding_problem(rng, 5, 1), "steps must be an integer of at least 2, got 1"),
        (lambda rng: synthetic.copy_memory(rng, 5, 0), "delay must be an integer of at least 1, got 0"),
        (lambda rng: synthetic.copy_memory(rng, 5, 5, symbols=0), "symbols must be"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(np.random.default_rng(0))
