"""Reuters: an LSTM that tells 46 topics apart (document 002)."""

import functools

import numpy as np

import jaxseq
from experiments.experiment import Data, Experiment, Variant, some
from jaxseq.datasets import reuters, synthetic


@functools.cache
def _wires(is_synthetic: bool, smoke: bool) -> Data:
    """Wires of 100 words of the 1,000 most frequent; validated on the test part, as the document does."""
    if is_synthetic:
        wires = synthetic.reuters(np.random.default_rng(0), 300 if smoke else 4000, num_words=1000)
    else:
        wires = reuters.load(num_words=1000, test_split=0.2)
    train = jaxseq.pad_sequences(wires.train_inputs, 100)
    test = jaxseq.pad_sequences(wires.test_inputs, 100)
    return Data(
        train=some(jaxseq.examples(train, wires.train_targets), smoke),
        validation=some(jaxseq.examples(test, wires.test_targets), smoke),
        test=None,
        source=wires.source.as_dict(),
        notes=(
            "the document validates on the test part, so val_accuracy is the test accuracy; its figure is of the "
            "last epoch, the best epoch is chosen on the test part itself",
        ),
    )


EXPERIMENTS = [
    Experiment(
        name="reuters_lstm",
        document="002_591456a3025ae101.txt",
        title="newswires of 100 words: Embedding(1000, 100) → LSTM(100) → Dense(46)",
        documented="test accuracy about 70 %, last epoch",
        figure=("final val_accuracy", 0.70),
        variants=(
            Variant(
                load=_wires,
                model=jaxseq.SequenceClassifier(jaxseq.LSTM(100), vocabulary_size=1000, embedding_size=100, classes=46),
                loss=jaxseq.losses.categorical_cross_entropy,
                metrics={"accuracy": jaxseq.losses.categorical_accuracy},
                optimizer=jaxseq.adam(),
                epochs=20,
                batch_size=100,
                parameters=185_046,
                monitor="accuracy",
                maximize=True,
            ),
        ),
    ),
]
