"""IMDB: embeddings flattened, GloVe on raw texts, and a bag of words (document 003, sections 6.1.2, 6.1.3 and 6.2.1).

No model here has a memory: they look at words, each by itself, and their studies ask what an embedding knows of them.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from experiments import imdb as sequences
from experiments import word_geometry
from experiments.experiment import Data, Experiment, Run, Saved, Trained, Variant, some, summarize
from jaxseq import arguments
from jaxseq.datasets import glove, imdb, synthetic
from jaxseq.datasets.files import Source
from jaxseq.layers import Dense, Embedding
from jaxseq.text import Tokenizer
from jaxseq.vocabulary import Vocabulary
from jaxseq.word_vectors import embedding_matrix, nearest

_DOCUMENT = "003_02921b636a63a0ce.txt"
_NUM_WORDS = 10_000
_LAST_WORDS = 20  # of a review, codes 6-6 and 6-7
_TEXT_WORDS = 100  # of a raw text, code 6-9
_MARKS = 4  # indices of Keras' IMDB below it are no words

_NEIGHBOURS_OF = ("great", "excellent", "wonderful", "awful", "boring", "worst", "accurate", "movie", "actor", "two")
_ANIMALS = ("cat", "tiger", "dog", "wolf")


# Reading: word indices


@functools.cache
def _load_last_words(is_synthetic: bool, smoke: bool) -> Data:
    """The last 20 words of each review; the last fifth of the training part validates, as `validation_split` has it."""
    read = sequences.reviews(is_synthetic, smoke, _NUM_WORDS)
    train = jaxseq.examples(jaxseq.pad_sequences(read.train_inputs, _LAST_WORDS), read.train_targets)
    split = len(train.rows) - len(train.rows) // 5
    return Data(
        train=some(train._replace(rows=train.rows[:split]), smoke),
        validation=some(train._replace(rows=train.rows[split:]), smoke),
        test=some(
            jaxseq.examples(jaxseq.pad_sequences(read.test_inputs, _LAST_WORDS), read.test_targets),
            smoke,
        ),
        source=read.source.as_dict(),
        encoding=sequences.encoding(is_synthetic, _NUM_WORDS, _LAST_WORDS),
    )


def _bags(reviews: Iterable[Sequence[int]], last: int | None) -> np.ndarray:
    """Which words each review holds, each once: int16 [N, K], padded with 0. `last`: of its last words only."""
    bags: Any = [np.unique(review[-last:] if last else review) for review in reviews]
    return jaxseq.pad_sequences(bags, dtype="int16")


@functools.cache
def _load_bags(is_synthetic: bool, smoke: bool, last: int | None = None) -> Data:
    """All training reviews as bags of words; nothing is held out."""
    read = sequences.reviews(is_synthetic, smoke, _NUM_WORDS)
    return Data(
        train=some(jaxseq.examples(_bags(read.train_inputs, last), read.train_targets), smoke),
        validation=None,
        test=some(jaxseq.examples(_bags(read.test_inputs, last), read.test_targets), smoke),
        source=read.source.as_dict(),
        notes=("trained on all training reviews, nothing is held out: measured on the test reviews",),
        encoding={"words": list(sequences.vocabulary(is_synthetic, _NUM_WORDS).words), "last": last},
    )


# Reading: raw texts and word vectors


class _Reader(NamedTuple):
    """One training of the model of code 6-12."""

    embedding: str  # "learned" from random values, "frozen" GloVe, or GloVe "trained along"
    reviews: int = 200
    draw: int = 1  # which reviews train: 1 are the first of the shuffled, others are drawn from those never used
    beside_glove: bool = True  # whether another variant needs GloVe: none is trained where it is not at hand


class _Texts(NamedTuple):
    train: jaxseq.Examples
    test: jaxseq.Examples
    tokenizer: Tokenizer
    source: Source


@functools.cache
def _texts(is_synthetic: bool, smoke: bool) -> _Texts:
    """The last 100 words of each raw text, by the ranks 1 to 9,999 of a tokenizer fitted on the training texts."""
    if is_synthetic:
        texts = synthetic.imdb_texts(np.random.default_rng(0), 2_200 if smoke else 4_000)
    else:
        texts = imdb.load_texts()
    tokenizer = Tokenizer.fit(texts.train_texts, num_words=_NUM_WORDS)
    train, test = (
        jaxseq.pad_sequences(tokenizer.texts_to_sequences(part), _TEXT_WORDS)
        for part in (texts.train_texts, texts.test_texts)
    )
    return _Texts(
        jaxseq.examples(train, texts.train_targets),
        jaxseq.examples(test, texts.test_targets),
        tokenizer,
        texts.source,
    )


@functools.cache
def _glove(is_synthetic: bool) -> glove.GloveVectors:
    return synthetic.glove(np.random.default_rng(0)) if is_synthetic else glove.load(100)


@functools.cache
def _load_texts(is_synthetic: bool, smoke: bool, reader: _Reader) -> Data:
    """One shuffle of all training reviews: the first train, the next 10,000 validate (fewer where there are fewer)."""
    texts = _texts(is_synthetic, smoke)
    held_out = (100 if smoke else 1_000) if is_synthetic else 10_000
    train, validation = _split(len(texts.train.rows), held_out, reader)
    words = ["", *itertools.islice(texts.tokenizer.word_index, _NUM_WORDS - 1)]
    source, notes = texts.source.as_dict(), []
    read = _glove(is_synthetic) if reader.beside_glove else None
    if read is not None and reader.embedding != "learned":
        source |= {"name": "imdb texts, glove", "files": source["files"] + read.source.as_dict()["files"]}
        if not (is_synthetic or read.complete):
            index, counts = texts.tokenizer.word_index, texts.tokenizer.word_counts
            _, coverage = embedding_matrix(index, read.vectors, _NUM_WORDS, counts=counts)
            notes.append(
                f"not the document's 400,000 word vectors: the first {read.words_in_file:,} of them are at hand, so "
                f"{coverage.found:,} of the {coverage.asked:,} words have one ({coverage.token_fraction:.1%} of all "
                "tokens), the others are zeros; compare findings, not figures"
            )
    return Data(
        train=some(texts.train._replace(rows=train), smoke),
        validation=some(texts.train._replace(rows=validation), smoke),
        test=some(texts.test, smoke),
        source=source,
        notes=tuple(notes),
        encoding={"words": words, "maxlen": _TEXT_WORDS},
    )


def _split(examples: int, held_out: int, reader: _Reader) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, validation rows). Every draw is validated on the same reviews, and no two draws share one."""
    order = np.random.default_rng(0).permutation(examples).astype(np.int32)
    first, others = order[: reader.reviews], order[reader.reviews + held_out :]
    start = (reader.draw - 2) * reader.reviews
    train = first if reader.draw == 1 else others[start : start + reader.reviews]
    return train, order[reader.reviews : reader.reviews + held_out]


def _vectors_for(data: Data) -> np.ndarray:
    """GloVe's vectors for the words of `data`, zeros for a word without one: float32 [10000, 100]."""
    assert data.encoding is not None
    index = {word: number for number, word in enumerate(data.encoding["words"]) if word}
    return embedding_matrix(index, _glove(data.source["kind"] == "synthetic").vectors, _NUM_WORDS)[0]


def _with_vectors(data: Data, params: Any) -> Any:
    """Code 6-13: `set_weights([embedding_matrix])`."""
    return {**params, "embedding": {"embedding": jnp.asarray(_vectors_for(data))}}


# Models


class _Flattened(nn.Module):
    """Embedding(10000, size) → Flatten → (Dense(hidden, relu) →) Dense(1), codes 6-7 and 6-12."""

    size: int
    hidden: int | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        features = Embedding(_NUM_WORDS, self.size, name="embedding")(tokens).reshape(len(tokens), -1)
        if self.hidden:
            features = nn.relu(Dense(self.hidden, name="hidden")(features))
        return Dense(1, name="head")(features)

    def check_inputs(self, tokens: jax.Array) -> None:
        """Raises ValueError where a token lies outside the vocabulary; `fit` calls it before tracing."""
        arguments.tokens("tokens", tokens, _NUM_WORDS)


class _BagOfWords(nn.Module):
    """Multi-hot of 10,000 → Dense(16, relu) → Dense(16, relu) → Dense(1).

    The multi-hot rows exist a batch at a time: of all reviews at once they would take a gigabyte.
    """

    @nn.compact
    def __call__(self, words: jax.Array, *, train: bool = False) -> jax.Array:
        hidden = nn.relu(Dense(16)(_multi_hot(words)))
        hidden = nn.relu(Dense(16)(hidden))
        return Dense(1)(hidden)

    def check_inputs(self, words: jax.Array) -> None:
        """Raises ValueError where an index lies outside the vocabulary; `fit` calls it before tracing."""
        arguments.tokens("words", words, _NUM_WORDS)


def _multi_hot(words: jax.Array) -> jax.Array:
    """Marks the words of each review: int [B, K], padded with 0, to float32 [B, 10000]."""
    marked = jnp.zeros((len(words), _NUM_WORDS)).at[jnp.arange(len(words))[:, None], words].set(1.0)
    return marked.at[:, 0].set(0.0)


def _classifier(model: Any, parameters: int, *, epochs: int = 10, batch_size: int = 32, **settings: Any) -> Variant:
    """RMSprop on the cross-entropy of a logit."""
    return Variant(
        model=model,
        loss=jaxseq.losses.binary_cross_entropy,
        metrics={"accuracy": jaxseq.losses.binary_accuracy},
        optimizer=jaxseq.rmsprop(),
        epochs=epochs,
        batch_size=batch_size,
        parameters=parameters,
        **settings,
    )


def _text_classifier(reader: _Reader, *, label: str = "", smoke: bool = True) -> Variant:
    """Code 6-12, its embedding random, or set to GloVe and frozen as by code 6-13, or set and not frozen."""
    return _classifier(
        _Flattened(100, hidden=32),
        1_320_065,
        load=functools.partial(_load_texts, reader=reader),
        monitor="accuracy",
        maximize=True,
        pretrained=None if reader.embedding == "learned" else _with_vectors,
        frozen=("embedding",) if reader.embedding == "frozen" else (),
        label=label,
        smoke=smoke,
    )


_DRAWS = range(1, 6)
_FROZEN = (
    {"": _Reader("frozen")}
    | {f"draw {draw}": _Reader("frozen", draw=draw) for draw in _DRAWS if draw > 1}
    | {f"embedding learned, draw {draw}": _Reader("learned", draw=draw) for draw in _DRAWS}
)
_SCRATCH_2000 = {
    "": _Reader("learned", 2_000),
    "GloVe frozen, 2,000 reviews": _Reader("frozen", 2_000),
    "GloVe trainable, 2,000 reviews": _Reader("trained along", 2_000),
    "embedding learned, 200 reviews": _Reader("learned"),
    "GloVe frozen, 200 reviews": _Reader("frozen"),
    "GloVe trainable, 200 reviews": _Reader("trained along"),
}
_SMOKED = ("", "GloVe trainable, 200 reviews")


def _text_classifiers(readers: Mapping[str, _Reader]) -> tuple[Variant, ...]:
    return tuple(_text_classifier(reader, label=label, smoke=label in _SMOKED) for label, reader in readers.items())


# A review typed in


def _predict_text(saved: Saved, text: str) -> str:
    """The sentiment of a review, its unknown words dropped as the tokenizer drops them."""
    review = sequences.review_words(text)
    index = {word: number for number, word in enumerate(saved.encoding["words"]) if word}
    sequence = [index[word] for word in review if word in index]
    inputs = jaxseq.pad_sequences([sequence], saved.encoding["maxlen"])
    return _verdict(saved, inputs, [word for word in review if word not in index])


def _predict_bag(saved: Saved, text: str) -> str:
    """The sentiment of a review of whatever length, as the set of its words."""
    review = sequences.review_words(text)
    known = Vocabulary(tuple(saved.encoding["words"]))
    inputs = _bags([known.encode(review, start=True)], saved.encoding["last"])
    return _verdict(saved, inputs, sequences.unknown_words(review, known))


def _verdict(saved: Saved, inputs: np.ndarray, unknown: list[str]) -> str:
    lines = [sequences.sentiment(saved, inputs)]
    if unknown:
        lines.append(f"unknown to the model: {', '.join(dict.fromkeys(unknown))}")
    return "\n".join(lines)


# Studies


def _study_flattened(run: Run) -> dict[str, Any]:
    """What training gave the embedding, which reviews needed padding, and what a model of single words can say."""
    one, known = run.variant(), sequences.vocabulary(run.synthetic, _NUM_WORDS)
    seeds = one.result["seeds"]
    matrices = {
        "before training": [
            np.asarray(sequences.initial_params(one, seed)["embedding"]["embedding"]) for seed in seeds
        ],
        "after training": list(np.asarray(one.fit.best_params["embedding"]["embedding"])),
    }
    groups = _groups(one.data.train, known)
    figures: dict[str, Any] = {}
    table: list[list[Any]] = [["pairs of words", "pairs", *(f"mean cosine {when}" for when in matrices)]]
    for name, pairs in groups.items():
        of_seeds = {
            when: summarize([float(np.mean(word_geometry.row_cosines(*matrix[pairs.T]))) for matrix in of_when])
            for when, of_when in matrices.items()
        }
        figures |= {f"cosine, {name}, {when}": value for when, value in of_seeds.items()}
        table.append([name, len(pairs), *of_seeds.values()])
    if all(word in known.words for word in _ANIMALS):
        cat, tiger, dog, wolf = (known.index(word) for word in _ANIMALS)
        for when, of_when in matrices.items():
            steps = [
                word_geometry.row_cosines(matrix[tiger] - matrix[cat], matrix[wolf] - matrix[dog]) for matrix in of_when
            ]
            figures[f"cosine of cat → tiger and dog → wolf, {when}"] = summarize([float(step) for step in steps])
    of_bombs, bombs = _bombs(one, known)
    figures |= _padded(run) | _single_words(one) | of_bombs
    neighbours = _neighbours(known, {when: of_when[0] for when, of_when in matrices.items()})
    return {
        "figures": figures,
        "tables": {
            "cosines in the embedding": table,
            "nearest neighbours in the embedding, first seed": neighbours,
            "a bomb and the bomb": bombs,
        },
    }


def _groups(train: jaxseq.Examples, known: Vocabulary) -> dict[str, np.ndarray]:
    """Pairs of words, int [N, 2]: synonyms, words that tell the same class or the other one, random words."""
    inputs, targets = train.take(train.arrays, jnp.asarray(train.rows))
    counts = [np.bincount(np.ravel(inputs[targets == label]), minlength=_NUM_WORDS)[_MARKS:] for label in (0, 1)]
    # How many deviations more often in positive than in negative reviews: rare words are near 0.
    telling = (
        np.argsort((counts[1] - counts[0]) / np.sqrt(np.maximum(counts[0] + counts[1], 1)), kind="stable") + _MARKS
    )
    negative, positive = telling[:50].tolist(), telling[-50:].tolist()
    index = {word: number for number, word in enumerate(known.words)}
    alike = [*itertools.combinations(positive, 2), *itertools.combinations(negative, 2)]
    groups = {
        "synonyms": word_geometry.synonym_rows(index),
        "the 50 words that most tell one class": alike,
        "one that tells positive, one that tells negative": list(itertools.product(positive, negative)),
    }
    pairs = {name: np.array(pairs) for name, pairs in groups.items() if len(pairs)}
    return pairs | {"random words": word_geometry.random_pairs(range(_MARKS, len(known)))}


def _neighbours(known: Vocabulary, matrices: Mapping[str, np.ndarray]) -> list[list[str]]:
    """A row a word: its five nearest words in each matrix."""
    asked = [word for word in _NEIGHBOURS_OF if word in known.words]
    asked = asked or list(known.words[_MARKS : _MARKS + 5])  # the generated reviews have words of their own
    rows = [["word", *matrices]]
    for word in asked:
        cells = []
        for matrix in matrices.values():
            near = nearest(known.index(word), matrix, 5, exclude=range(_MARKS))
            cells.append(", ".join(f"{known.word(row)} {cosine:.2f}" for row, cosine in near))
        rows.append([word, *cells])
    return rows


def _padded(run: Run) -> dict[str, Any]:
    """How many reviews are shorter than 20 words, start mark included."""
    read = sequences.reviews(run.synthetic, run.smoke, _NUM_WORDS)
    figures = {}
    for part, reviews in (("training", read.train_inputs), ("test", read.test_inputs)):
        short = jaxseq.sequence_lengths(reviews) < _LAST_WORDS
        figures[f"{part} reviews shorter than 20 words"] = int(short.sum())
        figures[f"share of {part} reviews shorter than 20 words"] = float(short.mean())
    return figures


def _word_scores(params: Any) -> tuple[np.ndarray, float]:
    """What each word adds to the logit at each place, float64 [20, 10000], and what is there without words."""
    embedding = np.asarray(params["embedding"]["embedding"], np.float64)
    kernel = np.asarray(params["head"]["kernel"], np.float64).reshape(_LAST_WORDS, -1)
    return kernel @ embedding.T, float(params["head"]["bias"][0])


def _single_words(one: Trained) -> dict[str, Any]:
    """Whether the model is a sum of scores, one for each word at its place: the greatest difference of a test logit."""
    assert one.data.test is not None
    inputs = np.asarray(one.data.test.take(one.data.test.arrays, jnp.asarray(one.data.test.rows[:1000]))[0])
    differences = []
    for params in one.best:
        scores, bias = _word_scores(params)
        logits = jaxseq.predict(one.variant.model, params, inputs)[:, 0]
        sums = scores[np.arange(_LAST_WORDS), inputs].sum(axis=1) + bias
        differences.append(float(np.abs(sums - logits).max()))
    return {"greatest difference between a test logit and the sum of its words' scores": max(differences)}


def _bombs(one: Trained, known: Vocabulary) -> tuple[dict[str, Any], list[list[Any]]]:
    """The document's two sentences, and two more: what "the" for "a" changes must not depend on the word behind it."""
    figures: dict[str, Any] = {}
    rows: list[list[Any]] = [["text", "logit", "by the mean logit"]]
    steps = []
    for word in ("bomb", "masterpiece"):
        texts = [f"this movie is {article} {word}" for article in ("a", "the")]
        inputs = jaxseq.pad_sequences([known.encode(text, start=True) for text in texts], _LAST_WORDS)
        logits = np.stack([jaxseq.predict(one.variant.model, params, inputs)[:, 0] for params in one.best])
        steps.append(logits[:, 1] - logits[:, 0])
        figures[f"what 'the' for 'a' adds to the logit, {word}"] = summarize(steps[-1].tolist())
        for text, column in zip(texts, logits.T, strict=True):
            figures[f"logit, {text}"] = summarize(column.tolist())
            rows.append([text, summarize(column.tolist()), "positive" if column.mean() > 0 else "negative"])
    figures["greatest difference between what 'the' for 'a' adds to the two"] = float(np.abs(steps[1] - steps[0]).max())
    return figures, rows


def _final(one: Trained, part: str, name: str) -> dict[str, Any]:
    return one.result["figures"][part][name]


def _gap(one: Trained) -> dict[str, Any]:
    """Training minus validation accuracy after the last epoch."""
    return summarize([run["accuracy"][-1] - run["val_accuracy"][-1] for run in one.result["history"]])


def _less(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The difference of two figures, seed by seed."""
    return summarize([a - b for a, b in zip(first["seeds"], second["seeds"], strict=True)])


def _overfitting(one: Trained) -> dict[str, Any]:
    histories = one.result["history"]
    return {
        "training minus validation accuracy, last epoch": _gap(one),
        "epoch of least validation loss": summarize([float(np.argmin(run["val_loss"]) + 1) for run in histories]),
    }


def _by_epoch(one: Trained) -> list[list[Any]]:
    rows: list[list[Any]] = [["epoch", "training accuracy", "validation accuracy", "difference"]]
    for epoch in range(one.result["epochs"]):
        training = [run["accuracy"][epoch] for run in one.result["history"]]
        validation = [run["val_accuracy"][epoch] for run in one.result["history"]]
        both = summarize(training), summarize(validation)
        rows.append([epoch + 1, *both, _less(*both)])
    return rows


def _study_frozen(run: Run) -> dict[str, Any]:
    """Overfitting, which 200 reviews were drawn against which seed, GloVe against none; and what GloVe knows."""
    figures = _overfitting(run.variant())
    by_reader = {_FROZEN[one.variant.label]: one for one in run.trained}
    table: list[list[Any]] = [["draw of 200 reviews", "embedding", "validation accuracy, last epoch", "test accuracy"]]
    for reader, one in by_reader.items():
        scores = [_final(one, "final", "val_accuracy"), _final(one, "test_final", "accuracy")]
        table.append([reader.draw, reader.embedding, *scores])
    for quantity, part, name in (
        ("validation accuracy", "final", "val_accuracy"),
        ("test accuracy", "test_final", "accuracy"),
    ):
        for embedding in ("frozen", "learned"):
            draws = [_final(one, part, name) for reader, one in by_reader.items() if reader.embedding == embedding]
            if len(draws) > 1:
                figures[f"{quantity}, {embedding}, over {len(draws)} draws"] = summarize([one["mean"] for one in draws])
                if len(draws[0]["seeds"]) > 1:
                    within = float(np.sqrt(np.mean([one["deviation"] ** 2 for one in draws])))
                    figures[f"deviation over seeds of one draw, {quantity}, {embedding}"] = within
        more = [
            _less(_final(one, part, name), _final(by_reader[reader._replace(embedding="learned")], part, name))["mean"]
            for reader, one in by_reader.items()
            if reader.embedding == "frozen" and reader._replace(embedding="learned") in by_reader
        ]
        if more:
            figures[f"{quantity}, frozen minus learned, over {len(more)} draws"] = summarize(more)
    known = word_geometry.study(_glove(run.synthetic).vectors)
    return {
        "figures": figures | known["figures"],
        "tables": {"accuracy by epoch": _by_epoch(run.variant()), "accuracy by draw": table} | known["tables"],
    }


def _study_scratch(run: Run) -> dict[str, Any]:
    return {"figures": _overfitting(run.variant()), "tables": {"accuracy by epoch": _by_epoch(run.variant())}}


def _study_scratch_2000(run: Run) -> dict[str, Any]:
    """Learned, frozen and trainable embeddings at 200 and 2,000 reviews, and what training did to GloVe."""
    by_reader = {_SCRATCH_2000[one.variant.label]: one for one in run.trained}
    table: list[list[Any]] = [
        [
            "embedding",
            "reviews",
            "validation accuracy, last epoch",
            "test accuracy, last epoch",
            "training − validation",
        ]
    ]
    figures: dict[str, Any] = {}
    for reader, one in by_reader.items():
        scores = [_final(one, "final", "val_accuracy"), _final(one, "test_final", "accuracy")]
        table.append([reader.embedding, reader.reviews, *scores, _gap(one)])
        for other in ("learned", "trained along"):
            frozen = by_reader.get(reader._replace(embedding="frozen"))
            if reader.embedding == other and frozen is not None:
                for quantity, part, name in (
                    ("validation accuracy", "final", "val_accuracy"),
                    ("test accuracy", "test_final", "accuracy"),
                ):
                    less = _less(_final(one, part, name), _final(frozen, part, name))
                    figures[f"{quantity}, {other} minus frozen, {reader.reviews:,} reviews"] = less
        if reader.embedding == "trained along":
            figures |= {f"{name}, {reader.reviews:,} reviews": value for name, value in _changed(one).items()}
    return {"figures": figures, "tables": {"learned, frozen, trained along": table}}


def _changed(one: Trained) -> dict[str, Any]:
    """How far training moved the pretrained vectors: of the 2,000 most frequent words that have one."""
    assert one.data.encoding is not None
    before = _vectors_for(one.data)
    rows = np.flatnonzero(before.any(axis=1))[:2000]
    index = {one.data.encoding["words"][row]: row for row in rows}
    pairs = word_geometry.synonym_rows(index)
    seeds = [np.asarray(matrix) for matrix in one.fit.state.params["embedding"]["embedding"]]
    kept = [word_geometry.neighbours_kept(before[rows], after[rows]) for after in seeds]
    turned = [float(np.mean(word_geometry.row_cosines(before[rows], after[rows]))) for after in seeds]
    figures: dict[str, Any] = {
        "share of the ten nearest words kept in training": summarize(kept),
        "cosine of a word's vector before and after training": summarize(turned),
    }
    if len(pairs):
        figures["cosine, synonyms, GloVe"] = float(np.mean(word_geometry.row_cosines(*before[pairs.T])))
        figures["cosine, synonyms, after training"] = summarize(
            [float(np.mean(word_geometry.row_cosines(*after[pairs.T]))) for after in seeds]
        )
    return figures


def _study_dense(run: Run) -> dict[str, Any]:
    """All words against the last 500, on all test reviews and on those that are longer; what the inputs weigh."""
    read = sequences.reviews(run.synthetic, run.smoke, _NUM_WORDS)
    figures: dict[str, Any] = {}
    for part, reviews in (("training", read.train_inputs), ("test", read.test_inputs)):
        longer = jaxseq.sequence_lengths(reviews) > 500
        figures[f"share of {part} reviews longer than 500 words"] = float(longer.mean())
    scores = {}
    for one in run.trained:
        name = one.variant.label or "all words"
        figures[f"test accuracy, {name}"] = scores[name] = _final(one, "test_final", "accuracy")
        assert one.data.test is not None
        rows = one.data.test.rows[longer[one.data.test.rows]]
        if len(rows):
            of_long = jaxseq.evaluate(
                one.variant.task, one.fit.state.params, one.data.test._replace(rows=rows), batch_size=500
            )
            scores[f"{name}, long"] = summarize(of_long["accuracy"].tolist())
            figures[f"test accuracy, {name}, reviews longer than 500"] = scores[f"{name}, long"]
    for part, name in (("", ""), (", long", ", reviews longer than 500")):
        if f"all words{part}" in scores and f"{_LAST_500}{part}" in scores:
            less = _less(scores[f"all words{part}"], scores[f"{_LAST_500}{part}"])
            figures[f"test accuracy, all words minus the last 500{name}"] = less
    words = run.data.train.arrays[0]
    figures["bytes of the training reviews as bags of indices"] = int(words.nbytes)
    figures["bytes of the training reviews as a multi-hot array of float32"] = len(words) * _NUM_WORDS * 4
    return {"figures": figures}


_LAST_500 = "last 500 words"


def _bag_classifier(*, last: int | None = None, label: str = "", smoke: bool = True) -> Variant:
    return _classifier(
        _BagOfWords(),
        160_305,
        load=functools.partial(_load_bags, last=last),
        epochs=4,
        batch_size=512,
        label=label,
        smoke=smoke,
    )


EXPERIMENTS = [
    Experiment(
        name="imdb_embedding_flatten",
        document=_DOCUMENT,
        title="the last 20 words of a review: Embedding(10000, 8) → Flatten → Dense(1)",
        documented="validation accuracy about 75 %",
        figure=("best val_accuracy", 0.75),
        variants=(_classifier(_Flattened(8), 80_161, load=_load_last_words, monitor="accuracy", maximize=True),),
        study=_study_flattened,
        predict=sequences.predict_sentiment,
        predicts=sequences.PREDICTS,
    ),
    Experiment(
        name="imdb_glove_frozen",
        document=_DOCUMENT,
        title="200 raw reviews of 100 words: GloVe (10000, 100), frozen → Flatten → Dense(32, relu) → Dense(1)",
        documented="validation accuracy in the high 50s %, test accuracy about 50 %, last epoch",
        figure=("test_final accuracy", 0.50),
        variants=_text_classifiers(_FROZEN),
        study=_study_frozen,
        predict=_predict_text,
        predicts=sequences.PREDICTS,
    ),
    Experiment(
        name="imdb_glove_scratch",
        document=_DOCUMENT,
        title="200 raw reviews of 100 words: Embedding(10000, 100) → Flatten → Dense(32, relu) → Dense(1)",
        documented="validation accuracy in the low 50s %, last epoch",
        variants=_text_classifiers({"": _Reader("learned", beside_glove=False)}),
        study=_study_scratch,
        predict=_predict_text,
        predicts=sequences.PREDICTS,
    ),
    Experiment(
        name="imdb_glove_scratch_2000",
        document=_DOCUMENT,
        title="2,000 raw reviews of 100 words: Embedding(10000, 100) → Flatten → Dense(32, relu) → Dense(1)",
        documented="validation accuracy close to 70 %, last epoch",
        figure=("final val_accuracy", 0.70),
        variants=_text_classifiers(_SCRATCH_2000),
        study=_study_scratch_2000,
        predict=_predict_text,
        predicts=sequences.PREDICTS,
    ),
    Experiment(
        name="imdb_dense_baseline",
        document=_DOCUMENT,
        title="which words a review holds: multi-hot of 10,000 → Dense(16, relu) → Dense(16, relu) → Dense(1)",
        documented="test accuracy 87 %",
        figure=("test_final accuracy", 0.87),
        variants=(_bag_classifier(), _bag_classifier(last=500, label=_LAST_500, smoke=False)),
        study=_study_dense,
        predict=_predict_bag,
        predicts=sequences.PREDICTS,
    ),
]
