"""Generated twins of the real data sets: same types, same shapes, and something to learn in each.

They let everything run anywhere in a minute. What is to be learned is really there (a model that reads the
words beats chance, one that reads the weather beats the naive forecast), but no figure taken on them says
anything about the real data: every `source` has the kind "synthetic".

All randomness comes from the `rng` passed in: `numpy.random.default_rng(seed)`.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseq import arguments
from jaxseq.datasets.arrays import Ragged
from jaxseq.datasets.files import Source
from jaxseq.datasets.fra_eng import SentencePairs
from jaxseq.datasets.glove import GloveVectors
from jaxseq.datasets.imdb import ImdbSequences, ImdbTexts
from jaxseq.datasets.imdb import arrange as arrange_imdb
from jaxseq.datasets.jena import COLUMNS, Irregularities, JenaSeries, Parts
from jaxseq.datasets.reuters import TOPICS, ReutersSequences
from jaxseq.datasets.reuters import arrange as arrange_reuters
from jaxseq.datasets.reuters import check_options as check_reuters_options
from jaxseq.datasets.sms import SmsMessages
from jaxseq.datasets.ud_ewt import TaggedSentence, TaggedSentences
from jaxseq.datasets.word_sequences import WordOptions
from jaxseq.word_vectors import WordVectors

VOCABULARY_SIZE = 12_000
# Real newswires by topic, so that the classes are as skewed as they are there.
_TOPIC_COUNTS = (
    "67 537 100 3972 2423 22 71 19 177 154 153 473 62 263 25 68 543 51 105 432 302 62 15 63 41 119 40 15 20 "
    "45 53 69 48 19 61 23 65 32 25 23 13 10 15 27 23 21"
)


def _source(name: str) -> Source:
    return Source("synthetic", name)


# Words. Rank r (1 = most frequent) has one spelling and, one rank in ten, a feeling: the same in the reviews
# as indices, as texts, and in the word vectors.


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    onsets = "b d f g k l m n p r s t v z br st tr pl".split()
    syllables = [onset + vowel for onset in onsets for vowel in "aeiou"]
    two = [a + b for a in syllables for b in syllables]
    three = (a + b for a in two for b in syllables)
    words = [*syllables, *two]
    while len(words) < VOCABULARY_SIZE:
        words.append(next(three))
    return tuple(words)


def _feelings() -> np.ndarray:
    """+1, -1 or 0 for each rank; index 0 is rank 1."""
    ranks = np.arange(1, VOCABULARY_SIZE + 1)
    return np.where(ranks % 20 == 0, 1, np.where(ranks % 20 == 10, -1, 0))


@functools.cache
def _frequencies() -> np.ndarray:
    weights = 1 / (np.arange(1, VOCABULARY_SIZE + 1) + 2.7)  # Zipf's law with Mandelbrot's shift
    return weights / weights.sum()


def _texts_from(rng: np.random.Generator, weights: np.ndarray, classes: np.ndarray, mean_length: int) -> Ragged:
    """Ranks drawn from `weights[class]` for each text."""
    lengths = np.clip(rng.lognormal(np.log(mean_length), 0.5, len(classes)), 5, 10 * mean_length).astype(np.int64)
    cumulative = np.cumsum(weights, axis=1)
    values = np.empty(int(lengths.sum()), np.int32)
    of_class = np.repeat(classes, lengths)
    for label in np.unique(classes):
        chosen = np.flatnonzero(of_class == label)
        drawn = np.searchsorted(cumulative[label] / cumulative[label, -1], rng.random(len(chosen)), side="right")
        values[chosen] = np.minimum(drawn, weights.shape[1] - 1) + 1
    return Ragged(values, lengths)


def _review_ranks(rng: np.random.Generator, examples: int, mean_length: int) -> tuple[Ragged, np.ndarray]:
    labels = (np.arange(examples) % 2).astype(np.int32)
    # Words of the right feeling come six times as often as those of the wrong one: no word alone is certain.
    tilt = np.stack([np.sqrt(6.0) ** -_feelings(), np.sqrt(6.0) ** _feelings()])
    return _texts_from(rng, _frequencies() * tilt, labels, mean_length), labels


def imdb(
    rng: np.random.Generator,
    examples: int = 2_000,
    *,
    mean_length: int = 100,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start: int | None = 1,
    out_of_vocabulary: int | None = 2,
    index_from: int = 3,
) -> ImdbSequences:
    """Reviews whose sentiment lies in the words, in whatever order; half of them are positive.

    Args:
      rng: source of all randomness.
      examples: reviews in each of the two parts.
      mean_length: words in a typical review.
      num_words: this and the other options are those of `jaxseq.datasets.imdb.load`.
      skip_top: see there.
      maxlen: see there.
      seed: see there.
      start: see there.
      out_of_vocabulary: see there.
      index_from: see there.
    Returns:
      ImdbSequences, as `jaxseq.datasets.imdb.load`.
    """
    options = WordOptions(num_words, skip_top, maxlen, seed, start, out_of_vocabulary, index_from)
    options.check()
    arguments.integer("examples", examples, at_least=2)
    arguments.integer("mean_length", mean_length, at_least=1)
    parts = [_review_ranks(rng, examples, mean_length) for _ in range(2)]
    return arrange_imdb(parts, options, _source("imdb"))


def imdb_word_index() -> dict[str, int]:
    """The rank of every synthetic word, 1 = most frequent; the twin of `jaxseq.datasets.imdb.word_index`."""
    return {word: rank for rank, word in enumerate(_vocabulary(), 1)}


def imdb_texts(rng: np.random.Generator, examples: int = 2_000, *, mean_length: int = 100) -> ImdbTexts:
    """Reviews as texts, all negative ones first; the twin of `jaxseq.datasets.imdb.load_texts`.

    Args:
      rng: source of all randomness.
      examples: reviews in each of the two parts.
      mean_length: words in a typical review.
    Returns:
      ImdbTexts.
    """
    arguments.integer("examples", examples, at_least=2)
    arguments.integer("mean_length", mean_length, at_least=1)
    vocabulary = np.array(_vocabulary(), object)
    parts: list = []
    for _ in range(2):
        ranks, labels = _review_ranks(rng, examples, mean_length)
        order = np.argsort(labels, kind="stable")
        rows = ranks.take(order).rows()
        parts += [[" ".join(vocabulary[row - 1]).capitalize() + "." for row in rows], labels[order]]
    return ImdbTexts._make([*parts, _source("imdb")])


def glove(rng: np.random.Generator, dimensions: int = 100) -> GloveVectors:
    """Vectors of the synthetic reviews' words: words of one feeling lie on one side of a direction.

    Args:
      rng: source of all randomness.
      dimensions: of each vector.
    Returns:
      GloveVectors, as `jaxseq.datasets.glove.load`.
    """
    arguments.integer("dimensions", dimensions, at_least=2)
    direction = rng.normal(size=dimensions)
    direction /= np.linalg.norm(direction)
    vectors = rng.normal(0, 0.3, (VOCABULARY_SIZE, dimensions))
    # Three deviations along the direction: told apart by it, yet not by any single coordinate.
    vectors += 1.5 * _feelings()[:, None] * direction
    return GloveVectors(WordVectors(_vocabulary(), vectors.astype(np.float32)), VOCABULARY_SIZE, _source("glove"))


def reuters(
    rng: np.random.Generator,
    examples: int = 2_000,
    *,
    mean_length: int = 60,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    test_split: float = 0.2,
    seed: int = 113,
    start: int | None = 1,
    out_of_vocabulary: int | None = 2,
    index_from: int = 3,
) -> ReutersSequences:
    """Wires of 46 topics, as skewed as the real ones; each topic has words of its own.

    Args:
      rng: source of all randomness.
      examples: wires in all, of which every topic has at least two.
      mean_length: words in a typical wire.
      num_words: this and the other options are those of `jaxseq.datasets.reuters.load`.
      skip_top: see there.
      maxlen: see there.
      test_split: see there.
      seed: see there.
      start: see there.
      out_of_vocabulary: see there.
      index_from: see there.
    Returns:
      ReutersSequences, as `jaxseq.datasets.reuters.load`.
    """
    options = WordOptions(num_words, skip_top, maxlen, seed, start, out_of_vocabulary, index_from)
    check_reuters_options(options, test_split)
    classes = len(TOPICS)
    arguments.integer("examples", examples, at_least=2 * classes)
    arguments.integer("mean_length", mean_length, at_least=1)
    weights = np.array(_TOPIC_COUNTS.split(), float)
    labels = np.concatenate(
        [
            np.repeat(np.arange(classes), 2),
            rng.choice(classes, examples - 2 * classes, p=weights / weights.sum()),
        ]
    ).astype(np.int32)
    topics = np.tile(_frequencies(), (classes, 1))
    for label in range(classes):
        # Every 46th word from rank 50 on belongs to the topic: some below any num_words worth trying.
        own = np.arange(50 + label, VOCABULARY_SIZE, classes)
        topics[label, own] *= 15
    ranks = [(_texts_from(rng, topics, labels, mean_length), labels)]
    return arrange_reuters(ranks, options, test_split, _source("reuters"))


def reuters_word_index() -> dict[str, int]:
    """The rank of every synthetic word; the twin of `jaxseq.datasets.reuters.word_index`."""
    return imdb_word_index()


def jena(rng: np.random.Generator, rows: int = 40_000) -> JenaSeries:
    """Weather every ten minutes: a year, a day, and fronts that the pressure announces a day ahead.

    The temperature is a yearly and a daily wave plus an air mass that comes and goes within days. Its change
    follows the pressure of the day before, so a model that reads the pressure beats both the naive forecast
    and one that reads the temperature alone. The other columns follow from these by physics.

    Args:
      rng: source of all randomness.
      rows: how many; half train, a quarter validates, a quarter tests.
    Returns:
      JenaSeries, as `jaxseq.datasets.jena.load`.
    """
    arguments.integer("rows", rows, at_least=100)
    minutes = 10 * np.arange(rows)
    year = 2 * np.pi * (minutes / (1440 * 365.25) - 20 / 365.25)
    day = 2 * np.pi * (minutes / 1440 - 15 / 24)

    def wander(hours: float, deviation: float, start: np.ndarray | None = None) -> np.ndarray:
        """A first-order autoregression with this memory and deviation."""
        keep = np.exp(-1 / (6 * hours))
        noise = rng.normal(0, deviation * np.sqrt(1 - keep**2), rows).tolist()
        values, state = [], rng.normal(0, deviation)
        for shock in noise:
            state = keep * state + shock
            values.append(state)
        return np.array(values)

    pressure = 988 + wander(60, 8)
    delayed = np.concatenate([np.full(min(144, rows), 0.0), (pressure - 988)[: max(rows - 144, 0)]])
    clouds = 1 / (1 + np.exp(-wander(20, 1.5)))
    air_mass = 0.45 * delayed + wander(50, 2.0)
    temperature = 9.5 - 9.5 * np.cos(year) + (5.5 - 3.5 * clouds) * np.cos(day) + air_mass + rng.normal(0, 0.1, rows)
    saturation = 6.112 * np.exp(17.62 * temperature / (243.12 + temperature))  # Magnus' formula, mbar
    humidity = np.clip(76 - 14 * np.cos(day) + 12 * (clouds - 0.5) + wander(12, 6), 15, 100)
    vapour = saturation * humidity / 100
    ratio = np.log(vapour / 6.112)
    wind = np.abs(2.1 + 0.7 * np.cos(day) + wander(8, 1.2))
    columns = {
        "p (mbar)": pressure,
        "T (degC)": temperature,
        "Tpot (K)": (temperature + 273.15) * (1000 / pressure) ** 0.286,
        "Tdew (degC)": 243.12 * ratio / (17.62 - ratio),
        "rh (%)": humidity,
        "VPmax (mbar)": saturation,
        "VPact (mbar)": vapour,
        "VPdef (mbar)": saturation - vapour,
        "sh (g/kg)": 622 * vapour / (pressure - 0.378 * vapour),
        "H2OC (mmol/mol)": 1000 * vapour / pressure,
        "rho (g/m**3)": 1e5 * (pressure - 0.378 * vapour) / (287.05 * (temperature + 273.15)),
        "wv (m/s)": wind,
        "max. wv (m/s)": 1.5 * wind + np.abs(rng.normal(0, 0.4, rows)),
        "wd (deg)": (190 + 2.5 * (pressure - 988) + wander(10, 50)) % 360,
    }
    values = np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.float32)
    times = np.datetime64("2001-01-01T00:10:00", "s") + minutes.astype("timedelta64[m]")
    parts = Parts(slice(0, rows // 2), slice(rows // 2, rows * 3 // 4), slice(rows * 3 // 4, rows))
    nothing = Irregularities({}, np.empty(0, np.int64), np.empty(0, np.int64))
    return JenaSeries(values, times, COLUMNS, parts, (0,), "synthetic", nothing, _source("jena"))


def sms(rng: np.random.Generator, examples: int = 1_000) -> SmsMessages:
    """Short messages, one in seven spam: an offer, a number to call; some ham has one of the two.

    Args:
      rng: source of all randomness.
      examples: how many.
    Returns:
      SmsMessages, as `jaxseq.datasets.sms.load`.
    """
    arguments.integer("examples", examples, at_least=7)
    common = "i you to the a and is in me my it for at ok so are we when come now later going good day".split()
    ham = "lunch mum sorry sleep class dinner love bus see meeting home tomorrow lol wait tonight".split()
    spam = "free win prize claim urgent cash award reply txt mobile guaranteed offer winner ringtone".split()
    targets = rng.permutation((np.arange(examples) % 7 == 0).astype(np.int32))
    texts = []
    for target in targets:
        words = list(rng.choice(common, rng.integers(4, 14)))
        if target:
            words += list(rng.choice(spam, rng.integers(2, 5))) + [
                "call",
                f"0{rng.integers(8 * 10**9, 9 * 10**9)}",
            ]
        else:
            words += list(rng.choice(ham, rng.integers(1, 5)))
            if rng.random() < 0.1:
                words += [str(rng.choice(spam))] if rng.random() < 0.5 else ["call", "me"]
        texts.append(" ".join(words[i] for i in rng.permutation(len(words))))
    return SmsMessages(texts, targets, _source("sms"))


# Words that stand for two tags: only the sentence tells which ("the run" / "they run").
_LEXICON = {
    "DET": "the a every this some".split(),
    "ADJ": "old red small happy green loud light open cold".split(),
    "NOUN": "dog house run walk light play book plan answer garden river child".split(),
    "VERB": "run walk play book plan answer see open like find".split(),
    "ADP": "in on near with under like".split(),
    "ADV": "quickly often here never well".split(),
    "PRON": "they we you i she".split(),
    "AUX": "will can must may".split(),
    "PUNCT": [".", "!"],
}


def ud_ewt(rng: np.random.Generator, examples: int = 1_000) -> TaggedSentences:
    """Sentences of a small grammar, in which many words have a tag only by what stands around them.

    Args:
      rng: source of all randomness.
      examples: training sentences; validation and test get a fifth as many each.
    Returns:
      TaggedSentences, as `jaxseq.datasets.ud_ewt.load`.
    """
    arguments.integer("examples", examples, at_least=5)

    def noun_phrase() -> list[str]:
        if rng.random() < 0.3:
            return ["PRON"]
        return ["DET", *["ADJ"] * int(rng.integers(0, 3)), "NOUN"]

    def sentence() -> TaggedSentence:
        tags = [*noun_phrase(), *(["AUX"] if rng.random() < 0.4 else []), "VERB"]
        tags += noun_phrase() if rng.random() < 0.7 else ["ADV"]
        if rng.random() < 0.5:
            tags += ["ADP", "DET", "NOUN"]
        tags.append("PUNCT")
        return TaggedSentence(tuple(str(rng.choice(_LEXICON[tag])) for tag in tags), tuple(tags))

    sizes = (examples, examples // 5, examples // 5)
    train, validation, test = ([sentence() for _ in range(size)] for size in sizes)
    return TaggedSentences(train, validation, test, _source("ud_ewt"))


_NOUNS = {  # French, and its gender: 0 masculine, 1 feminine
    "cat": ("chat", 0),
    "dog": ("chien", 0),
    "book": ("livre", 0),
    "garden": ("jardin", 0),
    "horse": ("cheval", 0),
    "house": ("maison", 1),
    "car": ("voiture", 1),
    "table": ("table", 1),
    "flower": ("fleur", 1),
    "city": ("ville", 1),
}
_ADJECTIVES = {
    "green": ("vert", "verte"),
    "black": ("noir", "noire"),
    "red": ("rouge", "rouge"),
    "white": ("blanc", "blanche"),
}
_SUBJECTS = {"I": ("je", 0), "you": ("tu", 1), "he": ("il", 2), "we": ("nous", 3), "they": ("ils", 4)}
_VERBS = {
    "look at": "regarde regardes regarde regardons regardent",
    "find": "trouve trouves trouve trouvons trouvent",
    "carry": "porte portes porte portons portent",
}
_THIRD = {"look at": "looks at", "find": "finds", "carry": "carries"}


def fra_eng(rng: np.random.Generator, examples: int = 2_000) -> SentencePairs:
    """Sentences of a small grammar and their French: verbs agree, adjectives agree and follow their noun.

    Args:
      rng: source of all randomness.
      examples: how many pairs; the shortest come first, as in the real file.
    Returns:
      SentencePairs, as `jaxseq.datasets.fra_eng.load`.
    """
    arguments.integer("examples", examples, at_least=1)
    pairs = []
    for _ in range(examples):
        subject, verb, noun = (str(rng.choice(list(table))) for table in (_SUBJECTS, _VERBS, _NOUNS))
        (pronoun, person), (nom, gender) = _SUBJECTS[subject], _NOUNS[noun]
        conjugated = _THIRD[verb] if subject == "he" else verb
        definite = rng.random() < 0.5
        article = ("le", "la")[gender] if definite else ("un", "une")[gender]
        english, french = (
            [subject, conjugated, "the" if definite else "a"],
            [pronoun, _VERBS[verb].split()[person], article],
        )
        adjective = str(rng.choice(list(_ADJECTIVES))) if rng.random() < 0.6 else None
        english += [adjective, noun] if adjective else [noun]
        french += [nom, _ADJECTIVES[adjective][gender]] if adjective else [nom]
        end = "." if rng.random() < 0.8 else "!"
        text = " ".join(english)
        # French puts a narrow no-break space before the exclamation mark, as the real file does.
        pairs.append(
            (
                text[0].upper() + text[1:] + end,
                " ".join(french).capitalize() + {".": ".", "!": "\u202f!"}[end],
            )
        )
    pairs.sort(key=lambda pair: len(pair[0]))
    return SentencePairs([english for english, _ in pairs], [french for _, french in pairs], _source("fra_eng"))


class AddingProblem(NamedTuple):
    """inputs float32 [N, T, 2]: a number in 0..1, and 1 at the two numbers to add; targets float32 [N]."""

    inputs: np.ndarray
    targets: np.ndarray


def adding_problem(rng: np.random.Generator, examples: int, steps: int) -> AddingProblem:
    """Add the two marked numbers of a long sequence; one mark lies in each half.

    Always answering 1 has a mean squared error of 1/6.

    Args:
      rng: source of all randomness.
      examples: N.
      steps: T, at least 2.
    Returns:
      AddingProblem(inputs, targets).
    Raises:
      ValueError: `examples` or `steps` is too small.
    Source: Hochreiter, Schmidhuber 1997, "Long Short-Term Memory", 5.4, in the form of Arjovsky, Shah, Bengio
      2016, arXiv:1511.06464, 4.2.
    """
    arguments.integer("examples", examples, at_least=1)
    arguments.integer("steps", steps, at_least=2)
    inputs = np.zeros((examples, steps, 2), np.float32)
    inputs[:, :, 0] = rng.random((examples, steps), np.float32)
    row = np.arange(examples)
    first, second = rng.integers(0, steps // 2, examples), rng.integers(steps // 2, steps, examples)
    inputs[row, first, 1] = inputs[row, second, 1] = 1
    return AddingProblem(inputs, inputs[row, first, 0] + inputs[row, second, 0])


class CopyMemory(NamedTuple):
    """tokens and targets, int32 [N, delay + 2·length], of symbols + 2 different tokens."""

    tokens: np.ndarray
    targets: np.ndarray


def copy_memory(rng: np.random.Generator, examples: int, delay: int, symbols: int = 8, length: int = 10) -> CopyMemory:
    """Repeat the symbols seen at the start, once a mark comes `delay` steps after they ended.

    Tokens: `length` symbols of 0..symbols-1, then blanks (`symbols`), a mark (`symbols + 1`) as the last of
    the delay, `length` blanks. Targets: blanks, and at the last `length` steps the symbols. Without memory
    the best cross-entropy per step is length·log(symbols) / (delay + 2·length).

    Args:
      rng: source of all randomness.
      examples: N.
      delay: steps between the last symbol and the first step to answer, the mark included.
      symbols: how many different ones.
      length: how many to remember.
    Returns:
      CopyMemory(tokens, targets).
    Raises:
      ValueError: a number is too small.
    Source: Hochreiter, Schmidhuber 1997; Arjovsky, Shah, Bengio 2016, arXiv:1511.06464, 4.1.
    """
    for name, value in (("examples", examples), ("delay", delay), ("symbols", symbols), ("length", length)):
        arguments.integer(name, value, at_least=1)
    tokens = np.full((examples, delay + 2 * length), symbols, np.int32)
    targets = tokens.copy()
    tokens[:, :length] = targets[:, -length:] = rng.integers(0, symbols, (examples, length))
    tokens[:, length + delay - 1] = symbols + 1
    return CopyMemory(tokens, targets)


# Captioned images. A caption says how many, how large, of which colour and shape, and where.
IMAGE_SIZE = 32
COLOURS = {
    "red": (215, 45, 40),
    "green": (45, 175, 65),
    "blue": (50, 95, 230),
    "yellow": (235, 210, 55),
    "purple": (165, 65, 205),
    "white": (235, 235, 235),
}
SHAPES = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
COUNTS = ("a", "two", "three")
SIZES = {"small": 2.5, "": 3.5, "large": 4.5}  # radius, pixels; what is neither small nor large goes unsaid
PLACES = ("on the left", "in the middle", "on the right")
CAPTION_WORDS = tuple(sorted({*COUNTS, *SIZES, *COLOURS, *SHAPES, *SHAPES.values(), *" ".join(PLACES).split()} - {""}))


class CaptionedImages(NamedTuple):
    """images uint8 [N, 32, 32, 3], red, green, blue; captions: N strings of `CAPTION_WORDS`."""

    images: np.ndarray
    captions: list[str]


def captioned_images(
    rng: np.random.Generator, examples: int, combinations: Sequence[tuple[str, ...]] | None = None
) -> CaptionedImages:
    """One to three equal objects on a dark ground, and what an image shows: "two large red circles on the left".

    Objects lie wholly in their third of the image and never overlap. Within that, place, size, shade of the colour,
    ground and every pixel vary at random, so no two images are alike.

    Args:
      rng: source of all randomness.
      examples: N.
      combinations: what may be shown, each as likely as any other: (count, size, colour, shape, place) of `COUNTS`,
        `SIZES`, `COLOURS`, `SHAPES` and `PLACES`; None: all that there are.
    Returns:
      CaptionedImages(images, captions).
    Raises:
      ValueError: `examples` is too small, or there is no combination or one of other words.
    """
    arguments.integer("examples", examples, at_least=1)
    every = list(itertools.product(COUNTS, SIZES, COLOURS, SHAPES, PLACES))
    combinations = every if combinations is None else combinations
    if not combinations or not set(combinations) <= set(every):
        raise ValueError(f"combinations must be (count, size, colour, shape, place), got {combinations!r:.80}")
    drawn = [combinations[index] for index in rng.integers(len(combinations), size=examples)]
    counts, sizes, colours, shapes, places = (list(words) for words in zip(*drawn, strict=True))
    count = np.array([COUNTS.index(word) + 1 for word in counts])
    place = np.array([PLACES.index(words) for words in places])

    largest, third = len(COUNTS), IMAGE_SIZE / len(PLACES)
    radius = np.array([SIZES[word] for word in sizes])[:, None] + rng.uniform(-0.2, 0.2, (examples, largest))  # [N, 3]
    room = 2 * radius.max(axis=1, keepdims=True)  # [N, 1]: what each object takes
    present = np.arange(largest) < count[:, None]
    # Gaps between objects one above the other: what is left over, cut at random.
    left_over = IMAGE_SIZE - room * count[:, None]
    above = np.sort(np.where(present, rng.random((examples, largest)) * left_over, np.inf), axis=1)
    rows = above + room * (np.arange(largest) + 0.5)
    columns = third * place[:, None] + room / 2 + rng.random((examples, largest)) * (third - room)

    paint = np.array([COLOURS[word] for word in colours]) + rng.normal(0, 8, (examples, 3))
    images = rng.standard_normal((examples, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)  # float32 and in place: memory
    images *= 10
    images += rng.uniform(0, 60, (examples, 1, 1, 3)).astype(np.float32)
    pixels = np.arange(IMAGE_SIZE) + 0.5
    for shape in SHAPES:
        of_shape = np.array([word == shape for word in shapes])
        for number in range(largest):
            chosen = np.flatnonzero(of_shape & present[:, number])
            across = np.abs(pixels[None, None, :] - columns[chosen, number, None, None])
            down = pixels[None, :, None] - rows[chosen, number, None, None]
            distance = _distance(shape, across, down, radius[chosen, number, None, None])
            covered = np.clip(0.5 - distance, 0, 1)[..., None]  # of each pixel, so that edges are smooth
            images[chosen] += covered * (paint[chosen, None, None] - images[chosen])
    images = np.clip(images, 0, 255, out=images).astype(np.uint8)

    captions = [
        " ".join([count, *size.split(), colour, shape if count == "a" else SHAPES[shape], place])
        for count, size, colour, shape, place in drawn
    ]
    return CaptionedImages(images, captions)


def _distance(shape: str, across: np.ndarray, down: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """About how far, in pixels, a point lies outside a shape (negative: inside); `across` is without its sign."""
    if shape == "circle":
        return np.hypot(across, down) - radius
    if shape == "square":
        return np.maximum(across, np.abs(down)) - 0.85 * radius
    if shape == "triangle":  # corners at the top and at the two ends of the bottom
        return np.maximum(down - 0.75 * radius, 0.879 * across - 0.477 * (down + radius))
    thickness, height = 0.3 * radius, np.abs(down)
    return np.minimum(np.maximum(across - thickness, height - radius), np.maximum(across - radius, height - thickness))
