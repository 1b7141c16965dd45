"""Part-of-speech tags: a sequence in, a label for each of its words out (document 001, many-to-many).

The document names the task, beside the recognition of names, and gives no data and no model: both are ours. English Web
Treebank, 17 universal tags.

Source: Silveira et al. 2014, "A Gold Standard Dependency Corpus for English", LREC; Universal Dependencies.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import jaxseq
from experiments import plots
from experiments.experiment import SMOKE_EXAMPLES, Data, Experiment, Run, Saved, Trained, UserError, Variant, summarize
from experiments.inputs import text_or_file
from jaxseq.datasets import synthetic, ud_ewt
from jaxseq.datasets.ud_ewt import TAGS, TaggedSentence
from jaxseq.text import Tokenizer
from jaxseq.vocabulary import Vocabulary

_WORDS = 8_000  # indices: the commonest of the training words in lower case, each seen twice at least
_MAXLEN = 60  # words; 105 of 16,622 sentences have more
_CONFUSIONS = 12  # rows of the table
_SAMPLES = 4  # sentences in the table


class Corpus(NamedTuple):
    """Sentences of at most 60 words, by part, and what numbers their words."""

    parts: dict[str, list[TaggedSentence]]  # training, validation, test
    vocabulary: Vocabulary
    source: dict[str, Any]
    cut: int  # sentences that were cut into several


def pieces(sentences: Sequence[TaggedSentence], maxlen: int) -> list[TaggedSentence]:
    """Cuts longer sentences into several, so that none loses a word."""
    return [
        TaggedSentence(words[start : start + maxlen], tags[start : start + maxlen])
        for words, tags in sentences
        for start in range(0, len(words), maxlen)
    ]


@functools.cache
def _corpus(is_synthetic: bool, smoke: bool) -> Corpus:
    read = synthetic.ud_ewt(np.random.default_rng(0)) if is_synthetic else ud_ewt.load()
    kept = slice(SMOKE_EXAMPLES if smoke else None)
    whole = {"training": read.train[kept], "validation": read.validation[kept], "test": read.test[kept]}
    index = Tokenizer.fit([sentence.words for sentence in whole["training"]]).word_index  # in lower case
    return Corpus(
        {name: pieces(sentences, _MAXLEN) for name, sentences in whole.items()},
        Vocabulary.from_word_index(index, index_from=2, num_words=_WORDS),
        read.source.as_dict(),
        sum(len(sentence.words) > _MAXLEN for sentences in whole.values() for sentence in sentences),
    )


def _examples(corpus: Corpus, part: str) -> jaxseq.Examples:
    """Indices of the words and of their tags, padded at the end, where nothing counts."""
    sentences = corpus.parts[part]
    words = [_encode(corpus.vocabulary, sentence.words) for sentence in sentences]
    tags = [[TAGS.index(tag) for tag in sentence.tags] for sentence in sentences]
    inputs, targets = (jaxseq.pad_sequences(rows, _MAXLEN, padding="post") for rows in (words, tags))
    return jaxseq.examples(inputs, targets, inputs != 0)


def _encode(vocabulary: Vocabulary, words: Sequence[str]) -> list[int]:
    return vocabulary.encode(word.lower() for word in words)


@functools.cache
def _load(is_synthetic: bool, smoke: bool) -> Data:
    corpus = _corpus(is_synthetic, smoke)
    return Data(
        train=_examples(corpus, "training"),
        validation=_examples(corpus, "validation"),
        test=_examples(corpus, "test"),
        source=corpus.source,
        notes=(
            "the document names the task only, beside the recognition of names: data and model are ours",
            f"sentences of more than {_MAXLEN} words, {corpus.cut} of them, are cut into several; no word is left out",
        ),
        encoding={"words": list(corpus.vocabulary.words), "tags": list(TAGS)},
    )


def _tagger(*, bidirectional: bool, label: str = "", smoke: bool = True) -> Variant:
    """Embedding(8000, 64), padding masked → LSTM → Dense(17, softmax) at every word."""
    return Variant(
        load=_load,
        model=jaxseq.SequenceTagger(
            jaxseq.LSTM(64),
            vocabulary_size=_WORDS,
            embedding_size=64,
            padding_index=0,
            bidirectional=bidirectional,
            classes=len(TAGS),
        ),
        loss=jaxseq.losses.categorical_cross_entropy,
        metrics={"accuracy": jaxseq.losses.categorical_accuracy},
        optimizer=jaxseq.adam(),
        epochs=12,
        batch_size=32,
        monitor="accuracy",
        maximize=True,
        patience=2,
        label=label,
        smoke=smoke,
    )


class Commonest(NamedTuple):
    """The baseline: the tag that each word has most often in training."""

    counts: dict[str, Counter[str]]  # by word in lower case
    otherwise: str  # of words that never came: the commonest tag of those that came once

    @classmethod
    def fit(cls, sentences: Sequence[TaggedSentence]) -> "Commonest":
        """Counts the tags of each word."""
        counts: dict[str, Counter[str]] = {}
        for sentence in sentences:
            for word, tag in zip(*sentence, strict=True):
                counts.setdefault(word.lower(), Counter())[tag] += 1
        once = Counter(tag for tags in counts.values() if tags.total() == 1 for tag in tags)
        every = Counter(tag for sentence in sentences for tag in sentence.tags)
        return cls(counts, (once or every).most_common(1)[0][0])

    def tag(self, word: str) -> str:
        """The tag of a word, whatever stands around it."""
        tags = self.counts.get(word.lower())
        return self.otherwise if tags is None else tags.most_common(1)[0][0]


def _test_tags(trained: Trained, corpus: Corpus, seed: int) -> np.ndarray:
    """What a seed's best parameters call every word of the test part, one after another: int [words]."""
    assert trained.data.test is not None
    inputs, _, weights = trained.data.test.arrays
    return jaxseq.predict(trained.variant.model, trained.best[seed], inputs).argmax(axis=-1)[weights]


def confusion(called: np.ndarray, true: np.ndarray) -> np.ndarray:
    """How often each tag [true, called] came, int [tags, tags]."""
    counts = np.zeros((len(TAGS), len(TAGS)), int)
    np.add.at(counts, (true, called), 1)
    return counts


def _study(run: Run) -> dict[str, Any]:
    """Accuracy by kind of word against the commonest tag of each; tag by tag; what is taken for what; samples."""
    corpus = _corpus(run.synthetic, run.smoke)
    words = [word for sentence in corpus.parts["test"] for word in sentence.words]
    true = np.array([TAGS.index(tag) for sentence in corpus.parts["test"] for tag in sentence.tags])
    commonest = Commonest.fit(corpus.parts["training"])
    tags_of = [len(commonest.counts.get(word.lower(), ())) for word in words]
    kinds = {
        "every word": np.full(len(words), True),
        "words with one tag in training": np.array([tags == 1 for tags in tags_of]),
        "words with several tags in training": np.array([tags > 1 for tags in tags_of]),
        "words never seen in training": np.array([tags == 0 for tags in tags_of]),
    }
    kinds = {kind: chosen for kind, chosen in kinds.items() if chosen.any()}
    by_seed = {
        trained.variant.label or "both directions": [
            _test_tags(trained, corpus, seed) for seed in range(len(trained.result["seeds"]))
        ]
        for trained in run.trained
    }
    baseline = np.array([TAGS.index(commonest.tag(word)) for word in words])

    figures: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for model, called in {"commonest tag of each word": [baseline], **by_seed}.items():
        of_kinds = [summarize([np.mean((one == true)[chosen]) for one in called]) for chosen in kinds.values()]
        figures |= {f"accuracy, {kind}: {model}": figure for kind, figure in zip(kinds, of_kinds, strict=True)}
        rows.append([model, *of_kinds])
    rows.append(["(test words)", *(int(chosen.sum()) for chosen in kinds.values())])

    called = by_seed["both directions"]
    counts = [confusion(one, true) for one in called]
    mean = np.mean(counts, axis=0)
    present = [number for number in range(len(TAGS)) if mean[number].any() or mean[:, number].any()]
    names = [TAGS[number] for number in present]
    shares = mean / np.maximum(mean.sum(axis=1, keepdims=True), 1)
    plots.heatmaps(
        [(names, names, shares[np.ix_(present, present)])],
        run.directory / "confusions.png",
        rows="tag",
        columns="told as",
    )
    return {
        "figures": figures,
        "tables": {
            "accuracy on the test part, by kind of word": [["model", *(f"accuracy, {kind}" for kind in kinds)], *rows],
            "tag by tag, both directions": [
                ["tag", "test words", "precision", "recall", "recall of the commonest tag"],
                *_tag_by_tag(counts, confusion(baseline, true)),
            ],
            "what is most often taken for what, both directions": [
                ["true tag", "taken for", "test words, mean over the seeds", "share of the true tag", "examples"],
                *_confusions(mean, called[0], true, words),
            ],
            "the first test sentences, first seed": [
                ["word/tag, and what was written where it is wrong"],
                *_samples(corpus, called[0]),
            ],
        },
    }


def _tag_by_tag(counts: list[np.ndarray], of_baseline: np.ndarray) -> list[list[Any]]:
    def recall(one: np.ndarray, tag: int) -> float:
        return one[tag, tag] / max(one[tag].sum(), 1)

    return [
        [
            TAGS[tag],
            int(of_baseline[tag].sum()),
            summarize([one[tag, tag] / max(one[:, tag].sum(), 1) for one in counts]),
            summarize([recall(one, tag) for one in counts]),
            float(recall(of_baseline, tag)),
        ]
        for tag in np.flatnonzero(of_baseline.sum(axis=1)).tolist()
    ]


def _confusions(mean: np.ndarray, called: np.ndarray, true: np.ndarray, words: list[str]) -> list[list[Any]]:
    """The commonest mistakes, with the words that the first seed makes each at most often."""
    wrong = mean * (1 - np.eye(len(TAGS)))
    rows = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]:
        one, other = np.unravel_index(cell, wrong.shape)
        if wrong[one, other]:
            places = np.flatnonzero((true == one) & (called == other))
            examples = Counter(words[place].lower() for place in places).most_common(4)
            share = float(wrong[one, other] / mean[one].sum())
            rows.append(
                [TAGS[one], TAGS[other], float(wrong[one, other]), share, ", ".join(word for word, _ in examples)]
            )
    return rows


def _samples(corpus: Corpus, called: np.ndarray) -> list[list[str]]:
    """Sentences as word/TAG, and word/TAG→WRITTEN where that is another."""
    rows, place = [], 0
    for words, tags in corpus.parts["test"][:_SAMPLES]:
        written = [TAGS[tag] for tag in called[place : place + len(words)]]
        place += len(words)
        shown = [
            f"{word}/{tag}" + f"→{one}" * (one != tag) for word, tag, one in zip(words, tags, written, strict=True)
        ]
        rows.append([" ".join(shown)])
    return rows


# As the treebank cuts: "don't" is do + n't, "she's" she + 's; marks stand alone, but not those inside numbers.
_TOKEN = re.compile(r"\w+?(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,:]\d+)+|\w+|([^\w\s])\1*", re.IGNORECASE)


def tokens(text: str) -> list[str]:
    """Cuts a sentence into words and marks, about as the treebank does.

    Example:
      >>> tokens("She didn't pay $3.50, did she?")
      ['She', 'did', "n't", 'pay', '$', '3.50', ',', 'did', 'she', '?']
    """
    return [found.group() for found in _TOKEN.finditer(text.replace("’", "'"))]


def _predict(saved: Saved, text: str) -> str:
    """Every word of a sentence with its tag."""
    words = tokens(text_or_file(text))
    if not words:
        raise UserError(f"TEXT must be a sentence of at least one word, got {text!r:.80}")
    inputs = np.array([_encode(Vocabulary(tuple(saved.encoding["words"])), words)], np.int32)
    tags = [saved.encoding["tags"][tag] for tag in saved.apply(inputs)[0].argmax(axis=-1)]
    width = max(map(len, words))
    return "\n".join(f"{word:{width}}  {tag}" for word, tag in zip(words, tags, strict=True))


EXPERIMENTS = [
    Experiment(
        name="many_to_many",
        document="001_7cf08e2a96f4f12b.txt",
        title="a sentence → the part of speech of each word: Embedding(8000, 64) → Bidirectional(LSTM(64)) → Dense(17)",
        documented="many-to-many: a label for each step (no figure)",
        variants=(
            _tagger(bidirectional=True),
            _tagger(bidirectional=False, label="forward only", smoke=False),
        ),
        study=_study,
        predict=_predict,
        predicts="a sentence, or a text file with one -> its words, each with its part of speech",
    ),
]
