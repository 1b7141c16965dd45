"""IMDB: SimpleRNN, LSTM and bidirectional LSTM on word indices (document 003, sections 6.2 and 6.4)."""

import functools

import numpy as np

import jaxseq
from experiments.experiment import Data, Experiment, Variant, some
from jaxseq.datasets import imdb, synthetic

_DOCUMENT = "003_02921b636a63a0ce.txt"
_VALIDATION = 0.2  # Keras' validation_split takes the last part of the training set


@functools.cache
def _sequences(is_synthetic: bool, smoke: bool, num_words: int, maxlen: int, reverse: bool) -> Data:
    """Reviews of `maxlen` words, padded and truncated at the front; `reverse` turns them round before."""
    if is_synthetic:
        reviews = synthetic.imdb(np.random.default_rng(0), 300 if smoke else 4000, num_words=num_words)
    else:
        reviews = imdb.load(num_words=num_words)

    def padded(sequences: np.ndarray) -> np.ndarray:
        turned = [sequence[::-1] for sequence in sequences] if reverse else sequences
        return jaxseq.pad_sequences(turned, maxlen)

    inputs, targets = padded(reviews.train_inputs), reviews.train_targets
    split = len(inputs) - int(len(inputs) * _VALIDATION)
    return Data(
        train=some(jaxseq.examples(inputs[:split], targets[:split]), smoke),
        validation=some(jaxseq.examples(inputs[split:], targets[split:]), smoke),
        test=some(jaxseq.examples(padded(reviews.test_inputs), reviews.test_targets), smoke),
        source=reviews.source.as_dict(),
    )


def _classifier(
    cell: jaxseq.Cell, parameters: int, *, bidirectional: bool = False, reverse: bool = False, label: str = ""
) -> Variant:
    """Embedding(10000, 32) → recurrent layer → Dense(1, sigmoid), as codes 6-23, 6-27 and 6-43 have it."""
    return Variant(
        load=functools.partial(_sequences, num_words=10_000, maxlen=500, reverse=reverse),
        model=jaxseq.SequenceClassifier(
            cell, vocabulary_size=10_000, embedding_size=32, bidirectional=bidirectional, classes=1
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
    )


EXPERIMENTS = [
    Experiment(
        name="imdb_simple_rnn",
        document=_DOCUMENT,
        title="reviews of 500 words: Embedding(10000, 32) → SimpleRNN(32) → Dense(1)",
        documented="validation accuracy about 85 %",
        figure=("best val_accuracy", 0.85),
        variants=(_classifier(jaxseq.SimpleRNN(32), 322_113),),
    ),
    Experiment(
        name="imdb_lstm",
        document=_DOCUMENT,
        title="reviews of 500 words: Embedding(10000, 32) → LSTM(32) → Dense(1)",
        documented="validation accuracy about 88 %",
        figure=("best val_accuracy", 0.88),
        variants=(_classifier(jaxseq.LSTM(32), 328_353),),
    ),
    Experiment(
        name="imdb_bilstm",
        document=_DOCUMENT,
        title="reversed reviews, as printed: Embedding(10000, 32) → Bidirectional(LSTM(32)) → Dense(1)",
        documented="validation accuracy about 88 %, a little above the LSTM",
        figure=("best val_accuracy", 0.88),
        variants=(
            _classifier(jaxseq.LSTM(32), 336_705, bidirectional=True, reverse=True),
            _classifier(jaxseq.LSTM(32), 336_705, bidirectional=True, label="reviews in order"),
        ),
    ),
]
