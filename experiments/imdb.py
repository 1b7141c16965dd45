"""IMDB: recurrent networks and a convnet on word indices (document 003, sections 6.2 and 6.4).

What the other experiments on IMDB's indices share is here too: reading the reviews, the words behind the indices, a
review typed in, and figures that compare variants.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

import jaxseq
from experiments import plots, timing
from experiments.experiment import Data, Experiment, Run, Saved, Trained, UserError, Variant, some, summarize
from experiments.inputs import text_or_file
from jaxseq import arguments
from jaxseq.datasets import imdb, synthetic
from jaxseq.epochs import initialize
from jaxseq.layers import Conv1D, Dense, Embedding
from jaxseq.text import words as split_words
from jaxseq.vocabulary import Vocabulary
from jaxseq.word_vectors import nearest

_DOCUMENT = "003_02921b636a63a0ce.txt"
_VALIDATION = 0.2  # Keras' validation_split takes the last part of the training set
_NUM_WORDS = 10_000
_MAXLEN = 500
INDEX_FROM = 3  # the word of rank r has index r + 3
_START = 1
PREDICTS = "a review, typed in or a file -> its sentiment, and which of its words the model does not know"

# Words whose feeling is plain, for what an embedding learned of them.
_POSITIVE = ("good", "great", "excellent", "wonderful", "best")
_NEGATIVE = ("bad", "terrible", "awful", "boring", "worst")
_NEUTRAL = ("actor", "film", "music", "two")


# Reading


@functools.cache
def reviews(is_synthetic: bool, smoke: bool, num_words: int) -> imdb.ImdbSequences:
    """The reviews as word indices below `num_words`."""
    if is_synthetic:
        return synthetic.imdb(np.random.default_rng(0), 300 if smoke else 4000, num_words=num_words)
    return imdb.load(num_words=num_words)


@functools.cache
def vocabulary(is_synthetic: bool, num_words: int) -> Vocabulary:
    """The words behind the indices of `reviews`."""
    ranks = synthetic.imdb_word_index() if is_synthetic else imdb.word_index()
    return Vocabulary.from_word_index(ranks, index_from=INDEX_FROM, num_words=num_words)


def encoding(
    is_synthetic: bool,
    num_words: int,
    maxlen: int,
    *,
    order: str = "in order",
    padding: str = "pre",
    truncating: str = "pre",
) -> dict[str, Any]:
    """What `predict_sentiment` needs to read a review as the training reviews were read."""
    return {
        "words": list(vocabulary(is_synthetic, num_words).words),
        "num_words": num_words,
        "index_from": INDEX_FROM,
        "maxlen": maxlen,
        "order": order,
        "padding": padding,
        "truncating": truncating,
    }


def _arranged(sequences: Iterable[Sequence[int]], order: str, maxlen: int) -> list[Any]:
    """Reviews "in order", "reversed", or "shuffled".

    Shuffled are the words that the model gets to see in order, the last `maxlen`, and only they: it loses their order
    and nothing else. The start mark, where it is among them, stays in front.
    """
    if order == "in order":
        return [np.asarray(sequence) for sequence in sequences]
    if order == "reversed":
        return [np.asarray(sequence)[::-1] for sequence in sequences]
    rng, arranged = np.random.default_rng(0), []
    for sequence in sequences:
        kept = np.array(sequence[-maxlen:])
        rng.shuffle(kept[int(kept[0] == _START) :])
        arranged.append(kept)
    return arranged


@functools.cache
def _inputs(is_synthetic: bool, smoke: bool, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and test reviews, int32 [N, 500], padded and truncated at the front."""
    read = reviews(is_synthetic, smoke, _NUM_WORDS)
    train, test = (
        jaxseq.pad_sequences(_arranged(part, order, _MAXLEN), _MAXLEN) for part in (read.train_inputs, read.test_inputs)
    )
    return train, test


@functools.cache
def _load(is_synthetic: bool, smoke: bool, order: str = "in order", validated: bool = True) -> Data:
    """Reviews of 500 words; `validated` holds the last fifth of the training part out."""
    read = reviews(is_synthetic, smoke, _NUM_WORDS)
    inputs, test_inputs = _inputs(is_synthetic, smoke, order)
    targets = read.train_targets
    split = len(inputs) - int(len(inputs) * _VALIDATION) if validated else len(inputs)
    held_out = some(jaxseq.examples(inputs[split:], targets[split:]), smoke) if validated else None
    return Data(
        train=some(jaxseq.examples(inputs[:split], targets[:split]), smoke),
        validation=held_out,
        test=some(jaxseq.examples(test_inputs, read.test_targets), smoke),
        source=read.source.as_dict(),
        encoding=encoding(is_synthetic, _NUM_WORDS, _MAXLEN, order=order),
    )


# A review typed in


def predict_sentiment(saved: Saved, text: str) -> str:
    """The sentiment of a review, read as `saved.encoding` says.

    Args:
      saved: a model of one logit a review.
      text: the review, or the path of a file that holds it.
    Returns:
      The sentiment with its probability, and the words that the model does not know.
    Raises:
      UserError: there is no word in it, or the file is not text.
    """
    read = saved.encoding
    words = review_words(text)
    known = Vocabulary(tuple(read["words"]))
    sequence = known.encode(words, start=True)
    padded = jaxseq.pad_sequences(
        _arranged([sequence], read["order"], read["maxlen"]),
        read["maxlen"],
        padding=read["padding"],
        truncating=read["truncating"],
    )
    [[shape, dtype]] = read["input"]  # most models read indices, some numbers
    lines = [sentiment(saved, padded.reshape(1, *shape).astype(dtype))]
    if unknown := unknown_words(words, known):
        lines.append(f"not among the {read['num_words']:,} words known: {', '.join(dict.fromkeys(unknown))}")
    if len(sequence) > read["maxlen"]:
        lines.append(f"{len(words)} words; the model reads {read['maxlen']} of them")
    return "\n".join(lines)


def review_words(text: str) -> list[str]:
    """The words of a review, typed in or in a file.

    Raises:
      UserError: there is none, or the file is not text.
    """
    words = split_words(text_or_file(text))
    if not words:
        raise UserError(f"TEXT must hold at least one word, got {text!r:.60}")
    return words


def unknown_words(words: Sequence[str], known: Vocabulary) -> list[str]:
    """Those of the words that a vocabulary does not know."""
    unknown = known.index(Vocabulary.unknown)
    return [word for word, index in zip(words, known.encode(words), strict=True) if index == unknown]


def sentiment(saved: Saved, inputs: Any) -> str:
    """What a model of one logit a review says of one, and how sure it is."""
    probability = float(jax.nn.sigmoid(saved.apply(inputs)[0, 0]))
    says, certainty = ("positive", probability) if probability > 0.5 else ("negative", 1 - probability)
    return f"{says}, probability {certainty:.3f}"


# Figures


def accuracies(run: Run) -> dict[str, Any]:
    """Test accuracy of each variant, and what a control has more than the documented one, seed by seed."""
    figures: dict[str, Any] = {}
    documented = run.trained[0].result["figures"]["test"]["accuracy"]
    for one in run.trained:
        accuracy, label = one.result["figures"]["test"]["accuracy"], one.variant.label
        figures[f"test accuracy, {label or 'as documented'}"] = accuracy
        if label:
            more = [a - b for a, b in zip(accuracy["seeds"], documented["seeds"], strict=True)]
            figures[f"test accuracy, {label}, minus as documented"] = summarize(more)
    return figures


def least_losses(run: Run) -> dict[str, Any]:
    """The epoch after which each validated variant overfits: that of its least validation loss."""
    return {
        f"epoch of least validation loss, {one.variant.label or 'as documented'}": summarize(
            [float(np.argmin(history["val_loss"]) + 1) for history in one.result["history"]]
        )
        for one in run.trained
        if one.data.validation is not None
    }


def review_lengths(run: Run, num_words: int, maxlen: int) -> dict[str, Any]:
    """How long the training reviews are and what `maxlen` cuts off; draws `lengths.png`."""
    lengths = jaxseq.sequence_lengths(reviews(run.synthetic, run.smoke, num_words).train_inputs)
    plots.histogram(
        np.minimum(lengths, 1500),
        run.directory / "lengths.png",
        xlabel="indices of a training review, start mark included (1,500 and more together)",
        marks={f"{maxlen} are kept": maxlen},
    )
    return {
        "indices of a training review, mean": float(lengths.mean()),
        "indices of a training review, median": float(np.median(lengths)),
        f"share of training reviews longer than {maxlen}": float(np.mean(lengths > maxlen)),
        f"share of all words beyond {maxlen} a review": float(np.maximum(lengths - maxlen, 0).sum() / lengths.sum()),
    }


def gathered(part: jaxseq.Examples | None, limit: int | None = None) -> tuple[Any, Any]:
    """(inputs, targets) of a part of the data, or of its first `limit` examples."""
    assert part is not None
    rows: Any = part.rows[:limit]
    inputs, targets = part.take(part.arrays, rows)
    return inputs, targets


def initial_params(one: Trained, seed: int) -> Any:
    """A seed's parameters before its first step."""
    return initialize(one.variant.model, one.data.train.one_input, optax.identity(), seed).params


# Studies


def _study_lstm(run: Run) -> dict[str, Any]:
    embeddings = _embeddings(run)
    figures = review_lengths(run, _NUM_WORDS, _MAXLEN) | accuracies(run) | least_losses(run)
    figures |= _feeling(run, embeddings)
    neighbours = _neighbours(run, {when: matrices[0] for when, matrices in embeddings.items()})
    return {"figures": figures, "tables": {"nearest neighbours in the embedding, first seed": neighbours}}


def _study_bilstm(run: Run) -> dict[str, Any]:
    return {"figures": accuracies(run) | least_losses(run)}


def _study_reversed(run: Run) -> dict[str, Any]:
    """Whether reversed reviews teach something else: agreement, and ensembles over against those of one direction."""
    backward, forward = (
        _probabilities(one, gathered(one.data.test)[0]) for one in map(run.variant, ("", "reviews in order"))
    )
    _, targets = gathered(run.data.test)
    seeds = range(len(forward))
    pairs = {
        "reversed with in order": [(backward[seed], forward[seed]) for seed in seeds],
        "two seeds in order": list(itertools.combinations(forward, 2)),
        "two seeds reversed": list(itertools.combinations(backward, 2)),
    }
    figures = accuracies(run)
    for name, members in pairs.items():
        if members:  # a single seed makes no pair
            alone = [np.mean([_accuracy(one, targets) for one in pair]) for pair in members]
            together = [_accuracy(np.mean(pair, axis=0), targets) for pair in members]
            agreement = [float(np.mean((one > 0.5) == (other > 0.5))) for one, other in members]
            gain = [float(both - one) for both, one in zip(together, alone, strict=True)]
            figures[f"agreement, {name}"] = summarize(agreement)
            figures[f"ensemble's test accuracy, {name}"] = summarize(together)
            figures[f"ensemble's gain over its members' mean, {name}"] = summarize(gain)
    return {"figures": figures}


def _study_convnet(run: Run) -> dict[str, Any]:
    """Its invariance to where a review stands, its second training's accuracy, and its speed beside the LSTM's."""
    figures = accuracies(run) | least_losses(run) | _moved(run)
    if run.smoke:  # its seconds would say nothing, and the second training is left out
        return {"figures": figures}
    again = run.variant(_FOUR_EPOCHS).result["figures"]["test_final"]["accuracy"]
    in_order = _load(run.synthetic, run.smoke, order="in order")
    models = {
        "convnet": (run.trained[0].variant, run.data),
        "LSTM": (_recurrent(jaxseq.LSTM(32), 328_353), in_order),
        "LSTM on an embedding as wide as the convnet's": (
            _recurrent(jaxseq.LSTM(32), 1_300_641, embedding_size=128),
            in_order,
        ),
    }
    seconds = timing.seconds_per_epoch(models)
    figures |= {f"test accuracy, {_FOUR_EPOCHS}, last epoch": again}
    figures |= {f"seconds an epoch and seed, {name}": value for name, value in seconds.items()}
    figures |= {"LSTM's seconds over the convnet's": seconds["LSTM"]["median"] / seconds["convnet"]["median"]}
    return {"figures": figures}


def _moved(run: Run) -> dict[str, Any]:
    """How many reviews keep their sentiment when their words move towards the front, into the padding."""
    inputs, _ = gathered(run.data.test, 5000)
    short = inputs[(inputs[:, :5] == 0).all(axis=1)]
    told = _probabilities(run.trained[0], short) > 0.5
    figures = {}
    for words, steps in (("5 words", 5), ("1 word", 1)):
        moved = np.pad(short[:, steps:], ((0, 0), (0, steps)))
        same = (_probabilities(run.trained[0], moved) > 0.5) == told
        name = f"share of short test reviews told the same, moved by {words}"
        figures[name] = summarize(same.mean(axis=1).tolist())
    return figures


def _probabilities(one: Trained, inputs: np.ndarray) -> np.ndarray:
    """Of class 1, by each seed's best epoch: [S, N] of inputs [N, T]."""
    logits = [jaxseq.predict(one.variant.model, params, inputs, batch_size=500)[:, 0] for params in one.best]
    return np.asarray(jax.nn.sigmoid(np.stack(logits)))


def _accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean((probabilities > 0.5) == (targets > 0.5)))


def _embeddings(run: Run) -> dict[str, list[np.ndarray]]:
    """The documented variant's embedding matrix of every seed, before and after training."""
    one = run.trained[0]
    seeds = one.result["seeds"]
    return {
        "before training": [np.asarray(initial_params(one, seed)["embedding"]["embedding"]) for seed in seeds],
        "after training": list(np.asarray(one.fit.best_params["embedding"]["embedding"])),
    }


def _marked_words(run: Run) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Positive, negative and neutral words; the generated reviews have words, and feelings, of their own."""
    if not run.synthetic:
        return _POSITIVE, _NEGATIVE, _NEUTRAL
    of_rank = vocabulary(True, _NUM_WORDS).words[INDEX_FROM:]
    return of_rank[20:101:20], of_rank[10:91:20], of_rank[1:5]


def _neighbours(run: Run, matrices: dict[str, np.ndarray]) -> list[list[str]]:
    """A row a word: its five nearest words before training and after, with cosines."""
    known = vocabulary(run.synthetic, _NUM_WORDS)
    marks = range(INDEX_FROM + 1)
    rows = [["word", *matrices]]
    for word in itertools.chain(*_marked_words(run)):
        found = [nearest(known.index(word), matrix, 5, exclude=marks) for matrix in matrices.values()]
        rows.append([word, *(", ".join(f"{known.word(row)} {cosine:.2f}" for row, cosine in near) for near in found)])
    return rows


def _feeling(run: Run, embeddings: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Cosine between words of one feeling, less that between words of opposite ones, before and after training."""
    known = vocabulary(run.synthetic, _NUM_WORDS)
    positive, negative, _ = ([known.index(word) for word in words] for words in _marked_words(run))
    figures = {}
    for when, matrices in embeddings.items():
        margins = []
        for matrix in matrices:
            vectors = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
            plus, minus = vectors[positive], vectors[negative]
            alike = [group @ group.T for group in (plus, minus)]
            off_diagonal = ~np.eye(len(plus), dtype=bool)
            margins.append(float(np.mean([a[off_diagonal] for a in alike]) - np.mean(plus @ minus.T)))
        figures[f"cosine within a feeling minus between feelings, {when}"] = summarize(margins)
    return figures


# Models


class _Convnet(nn.Module):
    """Embedding → Conv1D(32, 7) → MaxPooling1D(5) → Conv1D(32, 7) → GlobalMaxPooling1D → Dense(1), code 6-46."""

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        embedded = Embedding(_NUM_WORDS, 128)(inputs)
        pooled = nn.max_pool(nn.relu(Conv1D(32, 7)(embedded)), (5,), (5,))
        features = nn.relu(Conv1D(32, 7)(pooled))
        return Dense(1)(features.max(axis=1))

    def check_inputs(self, inputs: jax.Array) -> None:
        """Raises ValueError where a token lies outside the vocabulary; `fit` calls it before tracing."""
        arguments.tokens("inputs", inputs, _NUM_WORDS)


def _recurrent(
    cell: jaxseq.Cell,
    parameters: int,
    *,
    embedding_size: int = 32,
    order: str = "in order",
    label: str = "",
    smoke: bool = True,
    **settings: Any,
) -> Variant:
    """Embedding(10000, 32) → recurrent layer → Dense(1, sigmoid), as codes 6-23, 6-27, 6-42 and 6-43 have it."""
    return Variant(
        load=functools.partial(_load, order=order),
        model=jaxseq.SequenceClassifier(
            cell, vocabulary_size=_NUM_WORDS, embedding_size=embedding_size, classes=1, **settings
        ),
        loss=jaxseq.losses.binary_cross_entropy,
        metrics={"accuracy": jaxseq.losses.binary_accuracy},
        optimizer=jaxseq.rmsprop(),
        epochs=10,
        batch_size=128,
        parameters=parameters,
        monitor="accuracy",
        maximize=True,
        label=label,
        smoke=smoke,
    )


def _convolutional(*, epochs: int, validated: bool = True, label: str = "") -> Variant:
    """Code 6-46, trained on the logit: the printed one has a linear output under a loss of probabilities."""
    return Variant(
        load=functools.partial(_load, validated=validated),
        model=_Convnet(),
        loss=jaxseq.losses.binary_cross_entropy,
        metrics={"accuracy": jaxseq.losses.binary_accuracy},
        optimizer=jaxseq.rmsprop(1e-4),
        epochs=epochs,
        batch_size=128,
        parameters=1_315_937,
        monitor="accuracy",
        maximize=True,
        label=label,
        smoke=validated,
    )


_FOUR_EPOCHS = "4 epochs, all training reviews"

EXPERIMENTS = [
    Experiment(
        name="imdb_simple_rnn",
        document=_DOCUMENT,
        title="reviews of 500 words: Embedding(10000, 32) → SimpleRNN(32) → Dense(1)",
        documented="validation accuracy about 85 %",
        figure=("best val_accuracy", 0.85),
        variants=(_recurrent(jaxseq.SimpleRNN(32), 322_113),),
        predict=predict_sentiment,
        predicts=PREDICTS,
    ),
    Experiment(
        name="imdb_lstm",
        document=_DOCUMENT,
        title="reviews of 500 words: Embedding(10000, 32) → LSTM(32) → Dense(1)",
        documented="validation accuracy about 88 %",
        figure=("best val_accuracy", 0.88),
        variants=(
            _recurrent(jaxseq.LSTM(32), 328_353),
            _recurrent(jaxseq.LSTM(32), 328_353, order="shuffled", label="words shuffled", smoke=False),
        ),
        study=_study_lstm,
        predict=predict_sentiment,
        predicts=PREDICTS,
    ),
    Experiment(
        name="imdb_reversed_lstm",
        document=_DOCUMENT,
        title="reversed reviews: Embedding(10000, 128) → LSTM(32) → Dense(1)",
        documented="about the same as in order",
        variants=(
            _recurrent(jaxseq.LSTM(32), 1_300_641, embedding_size=128, order="reversed"),
            _recurrent(jaxseq.LSTM(32), 1_300_641, embedding_size=128, label="reviews in order"),
        ),
        study=_study_reversed,
        predict=predict_sentiment,
        predicts=PREDICTS,
    ),
    Experiment(
        name="imdb_bilstm",
        document=_DOCUMENT,
        title="reversed reviews, as printed: Embedding(10000, 32) → Bidirectional(LSTM(32)) → Dense(1)",
        documented="validation accuracy about 88 %, a little above the LSTM",
        figure=("best val_accuracy", 0.88),
        variants=(
            _recurrent(jaxseq.LSTM(32), 336_705, bidirectional=True, order="reversed"),
            _recurrent(jaxseq.LSTM(32), 336_705, bidirectional=True, label="reviews in order", smoke=False),
            _recurrent(
                jaxseq.LSTM(32),
                336_705,
                bidirectional=True,
                dropout=0.2,
                recurrent_dropout=0.2,
                label="regularised",
                smoke=False,
            ),
        ),
        study=_study_bilstm,
        predict=predict_sentiment,
        predicts=PREDICTS,
    ),
    Experiment(
        name="imdb_conv1d",
        document=_DOCUMENT,
        title="Embedding(10000, 128) → Conv1D(32, 7) → MaxPooling1D(5) → Conv1D(32, 7) → GlobalMaxPooling1D → Dense(1)",
        documented="validation accuracy a little below the LSTM's, and faster",
        variants=(
            _convolutional(epochs=10),
            _convolutional(epochs=4, validated=False, label=_FOUR_EPOCHS),
        ),
        study=_study_convnet,
        predict=predict_sentiment,
        predicts=PREDICTS,
    ),
]
