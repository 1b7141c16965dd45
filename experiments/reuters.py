"""Reuters: an LSTM that tells 46 topics apart (document 002)."""

import functools
from typing import Any, NamedTuple

import numpy as np

import jaxseq
from experiments import plots
from experiments.experiment import Data, Experiment, Run, Saved, UserError, Variant, some, summarize
from experiments.inputs import text_or_file
from jaxseq.datasets import reuters, synthetic
from jaxseq.text import words
from jaxseq.vocabulary import Vocabulary

_MAXLEN, _NUM_WORDS = 100, 1000
_CHANGED = 200  # wires in which words are changed
_SHOWN = 20  # topics in the picture of confusions, and rows in its table


@functools.cache
def _read(is_synthetic: bool, smoke: bool) -> reuters.ReutersSequences:
    if is_synthetic:
        return synthetic.reuters(np.random.default_rng(0), 300 if smoke else 4000, num_words=_NUM_WORDS)
    return reuters.load(num_words=_NUM_WORDS, test_split=0.2)


@functools.cache
def _wires(is_synthetic: bool, smoke: bool) -> Data:
    """Wires of 100 words of the 1,000 most frequent; validated on the test part, as the document does."""
    wires = _read(is_synthetic, smoke)
    train = jaxseq.pad_sequences(wires.train_inputs, _MAXLEN)
    test = jaxseq.pad_sequences(wires.test_inputs, _MAXLEN)
    word_index = synthetic.reuters_word_index() if is_synthetic else reuters.word_index()
    vocabulary = Vocabulary.from_word_index(word_index, num_words=_NUM_WORDS)
    return Data(
        train=some(jaxseq.examples(train, wires.train_targets), smoke),
        validation=some(jaxseq.examples(test, wires.test_targets), smoke),
        test=None,
        source=wires.source.as_dict(),
        notes=(
            "the document validates on the test part, so val_accuracy is the test accuracy; its figure is of the "
            "last epoch, the best epoch is chosen on the test part itself",
        ),
        encoding={"words": list(vocabulary.words), "maxlen": _MAXLEN, "topics": list(reuters.TOPICS)},
    )


class _Confusions(NamedTuple):
    """What the last epoch's parameters take the test part's wires for."""

    counts: np.ndarray  # int [seeds, true, predicted]

    @property
    def wires(self) -> np.ndarray:
        """Wires of each topic, int [topics]."""
        return self.counts[0].sum(axis=1)

    @property
    def shares(self) -> np.ndarray:
        """Of each topic's wires those taken for each, mean over seeds, [true, predicted]; 0 where there are none."""
        return self.counts.mean(axis=0) / np.maximum(self.wires, 1)[:, None]


def _study(run: Run) -> dict[str, Any]:
    """Topics taken for one another, lengths, and what a word that came earlier changes."""
    trained = run.variant()
    seeds = [jaxseq.select(trained.fit.state.params, seed) for seed in range(len(trained.result["seeds"]))]
    confusions = _confuse(run, seeds)
    commonest = np.argsort(-confusions.wires, kind="stable")[:_SHOWN]
    names = [reuters.TOPICS[topic] for topic in commonest]
    shares = confusions.shares[np.ix_(commonest, commonest)]
    plots.heatmaps([(names, names, shares)], run.directory / "confusions.png", rows="topic", columns="told as")
    changes, by_place = _change_words(run, seeds)
    return {
        "figures": _lengths(run) | changes,
        "tables": {
            "one word replaced, by its place": by_place,
            "topics of the test part, last epoch": _by_topic(confusions),
            "wires most often taken for another topic's, test part, last epoch": _mistaken(confusions),
        },
    }


def _confuse(run: Run, seeds: list[Any]) -> _Confusions:
    inputs, targets = _test_part(run)
    counts = np.zeros((len(seeds), len(reuters.TOPICS), len(reuters.TOPICS)), int)
    for of_seed, params in zip(counts, seeds, strict=True):
        predicted = jaxseq.predict(run.variant().variant.model, params, inputs).argmax(axis=-1)
        np.add.at(of_seed, (targets, predicted), 1)
    return _Confusions(counts)


def _test_part(run: Run) -> tuple[np.ndarray, np.ndarray]:
    assert run.data.validation is not None
    inputs, targets = run.data.validation.arrays
    return inputs[run.data.validation.rows], targets[run.data.validation.rows]


def _by_topic(confusions: _Confusions) -> list[list[Any]]:
    """The share of each topic's wires that are told right, the commonest topic first."""
    rows = []
    for topic in np.argsort(-confusions.wires, kind="stable"):
        right, wires = confusions.counts[:, topic, topic], int(confusions.wires[topic])
        told = summarize((right / wires).tolist()) if wires else None
        rows.append(
            [reuters.TOPICS[topic], wires, told, summarize(confusions.counts[:, :, topic].sum(axis=1).tolist())]
        )
    return [["topic", "wires", "share told right", "wires taken for it"], *rows]


def _mistaken(confusions: _Confusions) -> list[list[Any]]:
    """The pairs (true topic, another) that most wires fell into."""
    mean = confusions.counts.mean(axis=0)
    np.fill_diagonal(mean, 0)
    rows = []
    for flat in np.argsort(-mean, axis=None, kind="stable")[:_SHOWN]:
        true, other = np.unravel_index(flat, mean.shape)
        if mean[true, other]:
            wires = summarize(confusions.counts[:, true, other].tolist())
            share = float(confusions.shares[true, other])
            rows.append([reuters.TOPICS[true], reuters.TOPICS[other], wires, share])
    return [["topic", "taken for", "wires", "share of the topic's"], *rows]


def _lengths(run: Run) -> dict[str, float]:
    """How long wires are, and how many lose their beginning."""
    wires = _read(run.synthetic, run.smoke)
    lengths = np.array([len(wire) for wire in (*wires.train_inputs, *wires.test_inputs)])
    plots.histogram(
        np.minimum(lengths, 1_000),
        run.directory / "lengths.png",
        xlabel="indices in a wire (1,000 stands for more, too)",
        marks={f"kept: the last {_MAXLEN}": _MAXLEN},
    )
    return {
        "wires: median of their length": float(np.median(lengths)),
        f"wires: share longer than {_MAXLEN}, which lose their beginning": float(np.mean(lengths > _MAXLEN)),
    }


def _change_words(run: Run, seeds: list[Any]) -> tuple[dict[str, Any], list[list[Any]]]:
    """How the output changes when one word of a wire is replaced by one of another wire, for every place.

    Only words that a wire kept count: most of those chosen lost their beginning. The last word of nearly all is the
    same, the "3" of the agency's sign-off "reuter 3".
    """
    inputs, _ = _test_part(run)
    count = 8 if run.synthetic else _CHANGED
    wires = inputs[np.argsort(-np.count_nonzero(inputs, axis=1), kind="stable")[:count]]  # full ones, where there are
    drawn = np.random.default_rng(0).choice(wires[wires > 0], wires.shape)
    changed = (wires > 0) & (drawn != wires)  # [N, places]
    one_changed = np.where(np.eye(_MAXLEN, dtype=bool), drawn[:, None], wires[:, None])  # [N, places, places]
    places = np.flatnonzero(changed.any(axis=0))[::-1]  # the last word first
    effects = [_effects(run, params, wires, one_changed, changed)[:, places] for params in seeds]
    moved, flipped, logits = np.stack(effects, axis=1)  # [seeds, places]

    title = f"one word replaced, in {len(wires)} wires of the test part"
    lines = {"total variation of the probabilities": moved, "share of wires told otherwise": flipped}
    plots.profiles({title: lines}, run.directory / "earlier_words.png", xlabel="words after it", ylabel="change")
    middle = len(places) // 2
    figures = {}
    for name, part in (("last half", slice(0, middle)), ("first half", slice(middle, None))):
        for quantity, values in (*lines.items(), ("mean change of a logit", logits)):
            figures[f"one word of the {name} replaced: {quantity}"] = summarize(values[:, part].mean(axis=1).tolist())
    rows = []
    for after in [after for after in (0, 1, 2, 5, 10, 20, 50, 75, 99) if after < len(places)]:
        rows.append([after, *(summarize(values[:, after].tolist()) for values in (moved, flipped, logits))])
    return figures, [["words after it", *lines, "mean change of a logit"], *rows]


def _effects(run: Run, params: Any, wires: np.ndarray, one_changed: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Total variation of the probabilities, share told otherwise, mean change of a logit: [3, places], over wires."""
    rows = np.concatenate([wires[:, None], one_changed], axis=1)
    logits = jaxseq.predict(run.variant().variant.model, params, rows.reshape(-1, _MAXLEN)).astype(np.float64)
    logits = logits.reshape(*rows.shape[:2], -1)
    probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    effects = np.stack(
        [
            np.abs(probabilities[:, 1:] - probabilities[:, :1]).sum(axis=-1) / 2,
            logits[:, 1:].argmax(axis=-1) != logits[:, :1].argmax(axis=-1),
            np.abs(logits[:, 1:] - logits[:, :1]).mean(axis=-1),
        ]
    )
    return (effects * changed).sum(axis=1) / np.maximum(changed.sum(axis=0), 1)


def _predict(saved: Saved, text: str) -> str:
    """The three likeliest topics of a wire."""
    wire = text_or_file(text)
    if not words(wire):
        raise UserError(f"TEXT must be a wire of at least one word, got {wire!r:.80}")
    encoded = Vocabulary(tuple(saved.encoding["words"])).encode(wire, start=True)
    logits = saved.apply(jaxseq.pad_sequences([encoded], saved.encoding["maxlen"]))[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    first, *others = (
        f"{saved.encoding['topics'][topic]} ({100 * probabilities[topic]:.1f} %)"
        for topic in np.argsort(-probabilities, kind="stable")[:3]
    )
    return f"{first}, then {' and '.join(others)}"


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
        study=_study,
        predict=_predict,
        predicts="a newswire, or a text file with one -> its topic, and the two next likely, with probabilities",
    ),
]
