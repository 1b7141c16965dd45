"""Spam or ham: a sequence in, one label out (document 001, many-to-one).

The document names the task and gives no data and no model: both are ours. SMS Spam Collection; identical messages are
kept once, so that none stands in two parts.

Source: Almeida, Gómez Hidalgo, Yamakami 2011, "Contributions to the Study of SMS Spam Filtering", DocEng.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxseq
from experiments.experiment import Data, Experiment, Run, Saved, Trained, UserError, Variant, some, summarize
from experiments.inputs import text_or_file
from jaxseq.datasets import sms, synthetic
from jaxseq.text import Tokenizer, words
from jaxseq.vocabulary import Vocabulary

_WORDS = 3_000  # indices: the commonest of the training messages, each seen twice at least
_MAXLEN = 60  # words: 99 % of the messages have 53 or fewer
_PARTS = (0.8, 0.1, 0.1)  # training, validation, test
_WRONG = 12  # messages in the table of mistakes


def distinct(texts: Sequence[str]) -> np.ndarray:
    """The first of all messages that are the same word for word, case and punctuation aside: rows, int [N]."""
    first: dict[tuple[str, ...], int] = {}
    for row, text in enumerate(texts):
        first.setdefault(tuple(words(text)), row)
    return np.array(list(first.values()))


def stratified(targets: np.ndarray, shares: Sequence[float], rng: np.random.Generator) -> list[np.ndarray]:
    """Cuts each class into `shares`, at random, and joins them: rows of each part, int [N]."""
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for label in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == label))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for part, of_class in zip(parts, np.split(rows, cuts), strict=True):
            part.append(of_class)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def _encode(vocabulary: Vocabulary, texts: Sequence[str]) -> np.ndarray:
    rows = [vocabulary.encode(text) for text in texts]
    return jaxseq.pad_sequences(rows, _MAXLEN, padding="post", truncating="post")


@functools.cache
def _load(is_synthetic: bool, smoke: bool) -> Data:
    messages = synthetic.sms(np.random.default_rng(0), 1_200) if is_synthetic else sms.load()
    kept = distinct(messages.texts)
    texts, targets = [messages.texts[row] for row in kept], messages.targets[kept]
    parts = stratified(targets, _PARTS, np.random.default_rng(0))
    index = Tokenizer.fit([texts[row] for row in parts[0]]).word_index
    vocabulary = Vocabulary.from_word_index(index, index_from=2, num_words=_WORDS)
    train, validation, test = (
        some(jaxseq.examples(_encode(vocabulary, [texts[row] for row in part]), targets[part]), smoke) for part in parts
    )
    longer = sum(len(words(text)) > _MAXLEN for text in texts)
    seen = {row.tobytes() for row in train.arrays[0]}
    alike = sum(row.tobytes() in seen for row in test.arrays[0])
    return Data(
        train=train,
        validation=validation,
        test=test,
        source=messages.source.as_dict(),
        notes=(
            "the document names the task only: data, split (80/10/10, as much spam in each) and model are ours",
            f"of {len(messages.texts):,} messages {len(texts):,} are different word for word; each is kept once, so "
            "that none is in two parts",
            f"{longer} of them are longer than {_MAXLEN} words and lose their end",
            f"{alike} of the {len(test.rows)} test messages read like a training message where only words that the "
            f"vocabulary lacks, such as telephone numbers, tell them apart",
        ),
        encoding={"words": list(vocabulary.words)},
    )


def _classifier(cell: jaxseq.Cell, label: str = "", smoke: bool = True) -> Variant:
    """Embedding(3000, 32), padding masked → recurrent layer → Dense(1, sigmoid)."""
    return Variant(
        load=_load,
        model=jaxseq.SequenceClassifier(cell, vocabulary_size=_WORDS, embedding_size=32, padding_index=0, classes=1),
        loss=jaxseq.losses.binary_cross_entropy,
        metrics={"accuracy": jaxseq.losses.binary_accuracy},
        optimizer=jaxseq.adam(),
        epochs=15,
        batch_size=32,
        label=label,
        smoke=smoke,
    )


def confusion(called: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """How often each label [true, called] came: int [2, 2], ham first."""
    counts = np.zeros((2, 2), int)
    np.add.at(counts, (targets.astype(int), called.astype(int)), 1)
    return counts


def scores(counts: np.ndarray) -> dict[str, float]:
    """Accuracy, and precision, recall and F1 of spam; 0 where a quotient has nothing to divide by."""
    found, called, spam = int(counts[1, 1]), int(counts[:, 1].sum()), int(counts[1].sum())
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "precision": found / max(called, 1),
        "recall": found / max(spam, 1),
        "F1": 2 * found / max(called + spam, 1),
    }


def _called(trained: Trained, seed: int) -> np.ndarray:
    """What a seed's best parameters call the test messages: bool [N], True for spam."""
    assert trained.data.test is not None
    inputs = trained.data.test.arrays[0][trained.data.test.rows]
    return jaxseq.predict(trained.variant.model, trained.best[seed], inputs)[:, 0] > 0


def _study(run: Run) -> dict[str, Any]:
    """How much spam is found, and how much of what is called spam is spam, on the test messages."""
    assert run.data.test is not None and run.data.encoding is not None
    inputs, targets = (array[run.data.test.rows] for array in run.data.test.arrays)
    majority = scores(confusion(np.zeros(len(targets)), targets))
    figures: dict[str, Any] = {"always ham: accuracy": majority["accuracy"]}
    rows: list[list[Any]] = [["always ham", *majority.values()]]
    counted = []
    for trained in run.trained:
        name = trained.variant.label or "LSTM(32)"
        seeds = range(len(trained.result["seeds"]))
        counts = [confusion(_called(trained, seed), targets) for seed in seeds]
        of_seeds = [scores(one) for one in counts]
        summarized = {quantity: summarize([one[quantity] for one in of_seeds]) for quantity in of_seeds[0]}
        figures |= {f"{name}: {quantity}": figure for quantity, figure in summarized.items()}
        rows.append([name, *summarized.values()])
        for label, row in zip(sms.LABELS, np.moveaxis(np.array(counts), 0, -1).tolist(), strict=True):
            counted.append([name, label, *(summarize(times) for times in row)])
    called = _called(run.variant(), 0)
    vocabulary = Vocabulary(tuple(run.data.encoding["words"]))
    wrong = [
        [sms.LABELS[targets[row]], sms.LABELS[int(called[row])], vocabulary.decode(inputs[row], special=False)]
        for row in np.flatnonzero(called != targets)[:_WRONG]
    ]
    return {
        "figures": figures,
        "tables": {
            "test messages: accuracy, and precision, recall and F1 of spam": [["model", *majority], *rows],
            "test messages, mean over the seeds": [["model", "truly", "called ham", "called spam"], *counted],
            "test messages that the LSTM's first seed calls wrong, as it reads them": [
                ["truly", "called", "message"],
                *wrong,
            ],
        },
    }


def _predict(saved: Saved, text: str) -> str:
    """Spam or ham, and how sure the model is."""
    message = text_or_file(text)
    if not words(message):
        raise UserError(f"TEXT must be a message of at least one word, got {message!r:.80}")
    logit = saved.apply(_encode(Vocabulary(tuple(saved.encoding["words"])), [message]))[0, 0]
    probability = 1 / (1 + np.exp(-np.abs(logit)))  # of the likelier label
    return f"{sms.LABELS[int(logit > 0)]} (probability {100 * probability:.1f} %)"


EXPERIMENTS = [
    Experiment(
        name="many_to_one",
        document="001_7cf08e2a96f4f12b.txt",
        title="a message → spam or ham: Embedding(3000, 32) → LSTM(32) → Dense(1)",
        documented="many-to-one: a sequence in, one label out (no figure)",
        variants=(
            _classifier(jaxseq.LSTM(32)),
            _classifier(jaxseq.SimpleRNN(32), label="SimpleRNN(32)", smoke=False),
        ),
        study=_study,
        predict=_predict,
        predicts="a message, or a text file with one -> spam or ham, with the probability",
    ),
]
