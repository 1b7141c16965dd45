"""Text to numbers, step by step: what document 003 works through in sections 6.1.1, 6.1.2 and 6.2, printed as tables.

Nothing is trained. Beside the document's two sentences only a real vocabulary is needed, for hashing: IMDB's words.
"""

import functools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from experiments import plots
from experiments.experiment import Data, Experiment, Run, summarize
from jaxseq.cells.simple_rnn import SimpleRNNParams
from jaxseq.datasets import imdb, synthetic
from jaxseq.datasets.files import Source, find
from jaxseq.layers import Embedding
from jaxseq.model_summary import count_parameters, layers
from jaxseq.text import MatrixMode, Tokenizer, bag_of_ngrams, encode_characters, hash_words, ngrams, words

SAMPLES = ("The cat sat on the mat.", "The dog ate my homework.")
# As the document prints them.
BAG_OF_2_GRAMS = "The|The cat|cat|cat sat|sat|sat on|on|on the|the|the mat|mat".split("|")
BAG_OF_3_GRAMS = (
    "The|The cat|cat|cat sat|The cat sat|sat|sat on|on|cat sat on|on the|the|sat on the|the mat|mat|on the mat"
).split("|")
_HASH_SIZES = tuple(2**power for power in range(10, 25))


class Step(NamedTuple):
    """One value that the document prints, or that follows from its code."""

    name: str
    documented: Any
    computed: Any

    @property
    def agrees(self) -> bool:
        """Whether they are the same."""
        return self.documented == self.computed


# Codes 6-1 to 6-4


def word_rows() -> np.ndarray:
    """Code 6-1: words cut at spaces, numbered from 1 as they first occur; float32 [2, 10, 11]."""
    index = {word: number for number, word in enumerate(_cut_at_spaces(), start=1)}
    return jaxseq.one_hot([[index[word] for word in sample.split()] for sample in SAMPLES], len(index) + 1, maxlen=10)


def _cut_at_spaces() -> list[str]:
    return list(dict.fromkeys(word for sample in SAMPLES for word in sample.split()))


def character_rows() -> np.ndarray:
    """Code 6-2: the 100 printable characters; float32 [2, 50, 101]."""
    return jaxseq.one_hot([encode_characters(sample) for sample in SAMPLES], 101, maxlen=50)


def hashed_rows(size: int = 1000) -> np.ndarray:
    """Code 6-4, with a hash that is the same in every process, which Python's is not; float32 [2, 10, size]."""
    return jaxseq.one_hot([hash_words(sample.split(), size) for sample in SAMPLES], size, maxlen=10)


# Code 6-21


def forward(inputs: np.ndarray, w: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Code 6-21 as printed: inputs [T, F], W [H, F], U [H, H], b [H] to outputs [T, H]."""
    state_t = np.zeros(len(b))
    successive_outputs = []
    for input_t in inputs:
        output_t = np.tanh(np.dot(w, input_t) + np.dot(u, state_t) + b)
        successive_outputs.append(output_t)
        state_t = output_t
    return np.stack(successive_outputs, axis=0)


def by_the_cell(inputs: np.ndarray, w: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same by `jaxseq.SimpleRNN`, whose weights stand the other way round, in float32."""
    params = SimpleRNNParams(*(jnp.asarray(array, jnp.float32) for array in (w.T, u.T, b)))
    _, outputs = jaxseq.scan(jaxseq.SimpleRNN(len(b)), params, jnp.asarray(inputs, jnp.float32))
    return np.asarray(outputs)


@functools.cache
def _recurrences() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Outputs by NumPy and by the cell; once with the document's weights, once with weights that leave room."""
    rng = np.random.default_rng(0)
    inputs, w, u, b = (rng.random(shape) for shape in ((100, 32), (64, 32), (64, 64), (64,)))
    printed = (inputs, w, u, b)
    centred = (inputs - 0.5, w - 0.5, (u - 0.5) / 4, b - 0.5)
    return {
        "as printed": (forward(*printed), by_the_cell(*printed)),
        "weights centred": (forward(*centred), by_the_cell(*centred)),
    }


# The steps


_ONE = jaxseq.SequenceEncoder(jaxseq.SimpleRNN(32), vocabulary_size=10_000, embedding_size=32)
_FOUR = jaxseq.SequenceEncoder((jaxseq.SimpleRNN(32),) * 4, vocabulary_size=10_000, embedding_size=32)
_TOKENS = jax.ShapeDtypeStruct((128, 500), np.int32)


@functools.cache
def steps() -> tuple[Step, ...]:
    """The document's values beside ours; sets and shapes as strings and lists, as JSON has them."""
    cut = words(SAMPLES[0], lower=False)
    tokenizer = Tokenizer.fit(SAMPLES, num_words=1000)
    embedding = jax.eval_shape(Embedding(1000, 64).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    listed = [
        Step("bag of 2-grams of 'The cat sat on the mat.'", sorted(BAG_OF_2_GRAMS), sorted(bag_of_ngrams(cut, 2))),
        Step("bag of 3-grams of 'The cat sat on the mat.'", sorted(BAG_OF_3_GRAMS), sorted(bag_of_ngrams(cut, 3))),
        Step("6-1, words, one-hot", [2, 10, 11], list(word_rows().shape)),
        Step("6-2, characters, one-hot", [2, 50, 101], list(character_rows().shape)),
        Step("6-3, tokens found", 9, len(tokenizer.word_index)),
        *(
            Step(f"6-3, matrix, {mode}", [2, 1000], list(tokenizer.texts_to_matrix(SAMPLES, mode).shape))
            for mode in get_args(MatrixMode)
        ),
        Step("6-4, words, hashed", [2, 10, 1000], list(hashed_rows().shape)),
        Step("6-5, parameters of Embedding(1000, 64)", 64_000, count_parameters(embedding)),
        Step("6-21, outputs of the recurrence", [100, 64], list(_recurrences()["as printed"][1].shape)),
    ]
    last, outputs = _shapes(_ONE)
    four, _ = _shapes(_FOUR)
    listed += [
        Step("SimpleRNN(32), parameters", 322_080, _parameters(_ONE)),
        Step("SimpleRNN(32), output", ["None", 32], last),
        Step("SimpleRNN(32) with all outputs, parameters", 322_080, _parameters(_ONE)),
        Step("SimpleRNN(32) with all outputs, output", ["None", "None", 32], outputs),
        Step("four stacked SimpleRNN(32), parameters", 328_320, _parameters(_FOUR)),
        Step("four stacked SimpleRNN(32), output", ["None", 32], four),
    ]
    return tuple(listed)


def _shapes(model: Any) -> tuple[list[Any], list[Any]]:
    """Of the last output and of all outputs; batch and time are "None", as Keras prints them."""
    (last, outputs), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), _TOKENS)
    assert last.shape[:-1] == _TOKENS.shape[:1] and outputs.shape[:-1] == _TOKENS.shape
    return ["None", last.shape[-1]], ["None", "None", outputs.shape[-1]]


def _parameters(model: Any) -> int:
    return count_parameters(jax.eval_shape(model.init, jax.random.key(0), _TOKENS))


# Data: a vocabulary


@functools.cache
def _vocabulary(is_synthetic: bool, smoke: bool) -> tuple[list[str], Source]:
    """IMDB's words, the most frequent first."""
    if is_synthetic:
        ranks = synthetic.imdb_word_index()
        return sorted(ranks, key=ranks.__getitem__)[: 2_000 if smoke else None], Source("synthetic", "imdb vocabulary")
    ranks = imdb.word_index()
    record = find(imdb.WORD_INDEX).record()
    return sorted(ranks, key=ranks.__getitem__), Source("real", "imdb vocabulary", (record,))


@functools.cache
def _load(is_synthetic: bool, smoke: bool) -> Data:
    """The document's two sentences as word indices; nothing is trained on them."""
    vocabulary, source = _vocabulary(is_synthetic, smoke)
    indices = Tokenizer.fit(SAMPLES).texts_to_sequences(SAMPLES)
    return Data(
        train=jaxseq.examples(jaxseq.pad_sequences(indices), np.zeros(len(SAMPLES), np.float32)),
        validation=None,
        test=None,
        source=source.as_dict(),
        notes=(f"nothing is trained; the vocabulary, {len(vocabulary):,} words, is for the hashing trick",),
    )


def _measure(data: Data) -> dict[str, Any]:
    """The share of the document's values that come out."""
    del data
    agreeing = [step.agrees for step in steps()]
    return {"final": {"agreement": summarize([float(np.mean(agreeing))])}}


# Study


def collisions(vocabulary: Sequence[str], size: int) -> float:
    """The share of words that share their index with another word, of `size` indices."""
    indices = np.array(hash_words(vocabulary, size))
    return float(np.mean(np.bincount(indices)[indices] > 1))


def expected_collisions(count: int, size: int) -> float:
    """The same for a hash that throws `count` words at random; index 0 is no word's."""
    return 1 - (1 - 1 / (size - 1)) ** (count - 1)


def vocabulary_bytes(vocabulary: Sequence[str]) -> int:
    """What a dictionary from word to index holds in memory: the table, its words and its numbers."""
    index = {word: number for number, word in enumerate(vocabulary, start=1)}
    return sys.getsizeof(index) + sum(sys.getsizeof(word) + sys.getsizeof(number) for word, number in index.items())


def _study(run: Run) -> dict[str, Any]:
    vocabulary, _ = _vocabulary(run.synthetic, run.smoke)
    count = len(vocabulary)
    measured = {size: collisions(vocabulary, size) for size in _HASH_SIZES}
    expected = {size: expected_collisions(count, size) for size in _HASH_SIZES}
    plots.against(
        {
            f"share of {count:,} words that share their index": {
                "md5": [(size, summarize([share])) for size, share in measured.items()],
                "a random hash, expected": [(size, summarize([share])) for size, share in expected.items()],
            }
        },
        run.directory / "collisions.png",
        xlabel="hash space, indices",
    )
    least = next((size for size in _HASH_SIZES if measured[size] < 0.1), None)
    held = vocabulary_bytes(vocabulary)
    figures = {
        f"words in the vocabulary, {run.data.source['name']}": count,
        "bytes of a dictionary from word to index": held,
        "bytes a word": held / count,
        "bytes of an index when words are hashed": 0,
        "collisions fall with every doubling of the hash space": bool(np.all(np.diff(list(measured.values())) <= 0)),
        "share of colliding words, hash space as large as the vocabulary": collisions(vocabulary, count + 1),
        "share of colliding words, hash space of 10 vocabularies": collisions(vocabulary, 10 * count + 1),
        "least hash space tried with fewer than 10 % of words colliding": least,
        "bytes of one word's one-hot row of float32, vocabulary": 4 * (count + 1),
        "bytes of one word's one-hot row of float32, that hash space": least and 4 * least,
        "texts whose binary matrix is their bag of 1-grams": _equal_bags(vocabulary),
    }
    for name, (by_numpy, by_cell) in _recurrences().items():
        figures[f"6-21 {name}: greatest difference between NumPy (float64) and the cell (float32)"] = float(
            np.abs(by_numpy - by_cell).max()
        )
        figures[f"6-21 {name}: share of outputs over 0.999 in size"] = float(np.mean(np.abs(by_numpy) > 0.999))
    return {
        "figures": figures,
        "tables": {
            "the document's values": [
                ["step", "documented", "computed", "agree"],
                *[[step.name, _shown(step.documented), _shown(step.computed), step.agrees] for step in steps()],
            ],
            **_encodings(),
            **{f"summary, {name}": _summary(model) for name, model in (("one layer", _ONE), ("four layers", _FOUR))},
            "collisions of the hashing trick": [
                ["hash space", "indices a word", "share of words that collide", "expected of a random hash"],
                *[[size, size / count, measured[size], expected[size]] for size in _HASH_SIZES],
            ],
        },
    }


def _equal_bags(vocabulary: Sequence[str]) -> float:
    """The share of texts, the two sentences and 200 of random words, whose matrices are their bags of 1-grams."""
    rng = np.random.default_rng(0)
    texts = [*SAMPLES, *(" ".join(rng.choice(vocabulary[:1000], 50)) for _ in range(200))]
    tokenizer = Tokenizer.fit(texts)
    at = ["", *tokenizer.word_index]
    equal = 0
    for text, marked, counted in zip(
        texts, tokenizer.texts_to_matrix(texts, "binary"), tokenizer.texts_to_matrix(texts, "count"), strict=True
    ):
        bag = bag_of_ngrams(words(text), 1)
        counts = Counter({at[index]: int(counted[index]) for index in np.flatnonzero(counted)})
        equal += {at[index] for index in np.flatnonzero(marked)} == set(bag) and counts == bag
    return equal / len(texts)


def _encodings() -> dict[str, list[list[Any]]]:
    """What becomes of the two sentences: their n-grams, and their words in codes 6-1 to 6-4."""
    cut = words(SAMPLES[0], lower=False)
    tokenizer = Tokenizer.fit(SAMPLES, num_words=1000)
    modes = get_args(MatrixMode)
    matrices = [tokenizer.texts_to_matrix(SAMPLES, mode) for mode in modes]
    places = np.argmax(word_rows(), axis=-1)
    letters = [character for character in SAMPLES[0][:7]]
    return {
        f"n-grams of {SAMPLES[0]!r}": [
            ["n", "n-grams", "bag of n-grams"],
            *[
                [n, ", ".join(" ".join(run) for run in ngrams(cut, n)), ", ".join(sorted(bag_of_ngrams(cut, n)))]
                for n in (1, 2, 3)
            ],
        ],
        "6-1 and 6-4: words cut at spaces": [
            ["word", "one-hot at", "hashed to, of 1,000"],
            *[[word, place, hash_words([word], 1000)[0]] for place, word in enumerate(_cut_at_spaces(), start=1)],
        ],
        "6-1: the sentences": [
            ["sentence", "one-hot at (0: past its end)"],
            *[[sample, ", ".join(map(str, row))] for sample, row in zip(SAMPLES, places, strict=True)],
        ],
        f"6-2: the first characters of {SAMPLES[0]!r}": [
            ["character", "one-hot at"],
            *[
                [repr(letter), index]
                for letter, index in zip(letters, encode_characters("".join(letters)), strict=True)
            ],
        ],
        "6-3: the tokenizer's words, and both sentences' rows": [
            ["word", "index", *(f"{mode}, sentence {number}" for mode in modes for number in (1, 2))],
            *[
                [word, index, *(round(float(value), 4) for matrix in matrices for value in matrix[:, index])]
                for word, index in tokenizer.word_index.items()
            ],
        ],
    }


def _summary(model: Any) -> list[list[Any]]:
    """The layers as `jaxseq.summary` prints them; inside a model shapes are time-major."""
    listed = layers(model, _TOKENS)
    total = ["total", "", sum(layer.parameters for layer in listed)]
    rows = [[f"{layer.name} ({layer.kind})", layer.output_shape, layer.parameters] for layer in listed]
    return [["layer", "output shape", "parameters"], *rows, total]


def _shown(value: Any) -> Any:
    """A shape in brackets, a set of words in braces, a number as it is."""
    if not isinstance(value, list):
        return value
    inside = ", ".join(map(str, value))
    return f"({inside})" if isinstance(value[-1], int) else "{" + inside + "}"


EXPERIMENTS = [
    Experiment(
        name="text_vectorization",
        document="003_02921b636a63a0ce.txt",
        title="n-grams, one-hot, tokenizer, hashing, Embedding, an RNN in NumPy: the document's worked steps",
        documented="shapes, token and parameter counts as printed",
        measure=_measure,
        data=_load,
        study=_study,
    ),
]
