"""What word vectors know of words: which lie near each other, and whether one direction means one thing.

The pairs of words are ours; those without an index or a vector are left out, and each figure counts what is left.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseq.word_vectors import WordVectors, nearest

SYNONYMS = """
  accurate exact, afraid scared, also too, amazing astonishing, area region, army military, author writer, awful
  terrible, begin start, begins starts, big large, boat ship, boring dull, buy purchase, car vehicle, cars vehicles,
  choose select, close near, comments remarks, cop policeman, country nation, crazy insane, dad father, declined
  fell, difficult hard, dropped fell, effort attempt, end finish, entire whole, film movie, films movies, firm
  company, funny hilarious, goal aim, great excellent, growth rise, guy man, hard tough, house home, huge large,
  huge massive, injured wounded, job work, kids children, lawyer attorney, leader chief, main primary, major
  important, mom mother, money cash, murder killing, nearly almost, perhaps maybe, photo picture, pretty beautiful,
  quick fast, quickly rapidly, received got, rich wealthy, rubbish garbage, sad unhappy, scary frightening, sea
  ocean, seems appears, several many, simple easy, smart clever, soldiers troops, speak talk, story tale, strange
  weird, street road, study research, stupid dumb, sure certain, talks negotiations, town city, try attempt, vessel
  ship, weapons arms, win victory, winner champion, wonderful marvelous, world global
"""
ANTONYMS = """
  attack defense, bad good, before after, best worst, big small, black white, buy sell, dark light, day night, death
  life, early late, east west, easy difficult, far near, first last, gain loss, high low, hot cold, inside outside,
  left right, long short, male female, more less, old new, old young, open closed, positive negative, public
  private, rich poor, rise fall, success failure, top bottom, up down, war peace, win lose
"""
GENDERS = """
  man woman, king queen, boy girl, father mother, son daughter, brother sister, he she, him her, his her, husband wife,
  male female, men women, boys girls, actor actress, uncle aunt, prince princess, spokesman spokeswoman
"""
PLURALS = """
  king kings, army armies, artist artists, authority authorities, award awards, bank banks, book books, boy boys,
  brother brothers, building buildings, car cars, city cities, club clubs, company companies, country countries,
  court courts, day days, doctor doctors, event events, family families, film films, friend friends, game games,
  girl girls, goal goals, government governments, group groups, hour hours, house houses, island islands, job jobs,
  lawyer lawyers, leader leaders, member members, minute minutes, month months, movie movies, nation nations,
  party parties, picture pictures, player players, price prices, problem problems, project projects, region regions,
  road roads, rule rules, school schools, ship ships, soldier soldiers, song songs, state states, story stories,
  street streets, student students, study studies, system systems, teacher teachers, team teams, town towns,
  vehicle vehicles, village villages, week weeks, word words, writer writers, year years
"""


def pairs_of(text: str, known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs of words of which both are known."""
    pairs = [tuple(pair.split()) for pair in text.split(",")]
    return [(first, second) for first, second in pairs if first in known and second in known]


def synonym_rows(index: Mapping[str, int]) -> np.ndarray:
    """The synonyms that an index knows, as rows of an embedding: int [N, 2]."""
    rows = [(index[first], index[second]) for first, second in pairs_of(SYNONYMS, index)]
    return np.array(rows, int).reshape(-1, 2)


def row_cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Row by row: float [N, D] and [N, D] to [N]."""
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return np.sum(first * second, axis=-1) / lengths


def random_pairs(rows: Sequence[int] | np.ndarray, count: int = 5_000) -> np.ndarray:
    """Pairs of different rows, int [count, 2]."""
    rng = np.random.default_rng(0)
    first = rng.integers(len(rows), size=count)
    second = (first + rng.integers(1, len(rows), size=count)) % len(rows)
    return np.asarray(rows)[np.stack([first, second], axis=1)]


def _alike(directions: np.ndarray) -> float:
    """Mean cosine between different rows of [N, D], N at least 2."""
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    count = len(units)
    return float((np.sum(units @ units.T) - count) / (count * (count - 1)))


def neighbours_kept(before: np.ndarray, after: np.ndarray, k: int = 10) -> float:
    """The share of each row's k nearest rows before that are among its k nearest after."""

    def nearest_rows(matrix: np.ndarray) -> np.ndarray:
        units = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        similarities = units @ units.T
        np.fill_diagonal(similarities, -np.inf)
        return np.argpartition(-similarities, k, axis=1)[:, :k]

    pairs = zip(nearest_rows(before), nearest_rows(after), strict=True)
    return float(np.mean([len(np.intersect1d(old, new)) / k for old, new in pairs]))


def study(vectors: WordVectors) -> dict[str, Any]:
    """Synonyms, gender, plurals and pets in pretrained vectors, each beside what chance or a plain neighbour gives."""
    figures: dict[str, Any] = {}
    groups: list[list[Any]] = [
        ["pairs of words", "pairs", "mean cosine", "deviation", "share of pairs among the ten nearest"]
    ]
    synonyms, antonyms = pairs_of(SYNONYMS, vectors), pairs_of(ANTONYMS, vectors)
    for name, pairs in (
        ("synonyms", synonyms),
        ("the same words, paired otherwise", _otherwise(synonyms)),
        ("antonyms", antonyms),
    ):
        if pairs:
            cosines = row_cosines(*_of(vectors, pairs))
            near = np.mean([second in dict(vectors.nearest(first, 10)) for first, second in pairs])
            groups.append([name, len(pairs), float(cosines.mean()), float(cosines.std()), float(near)])
            figures[f"cosine, {name}"] = float(cosines.mean())
    random = random_pairs(range(len(vectors)))
    cosines = row_cosines(vectors.matrix[random[:, 0]], vectors.matrix[random[:, 1]])
    groups.append(["random words", len(random), float(cosines.mean()), float(cosines.std()), None])
    figures["cosine, random words"] = float(cosines.mean())
    differences = vectors.matrix[random[:500, 0]] - vectors.matrix[random[:500, 1]]
    figures["cosine between differences of random words"] = _alike(differences)
    for name, text in (("gender", GENDERS), ("plural", PLURALS)):
        pairs = pairs_of(text, vectors)
        if len(pairs) > 1:
            figures |= _direction(vectors, pairs, name)
    return {
        "figures": figures,
        "tables": {
            "cosines in GloVe": groups,
            "analogies in GloVe (the words asked with left out of the answer)": _analogies(vectors),
        },
    }


def _otherwise(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first word of each pair with the second of another, which shares no word with it."""
    turned = [(pairs[i][0], pairs[(i + len(pairs) // 2) % len(pairs)][1]) for i in range(len(pairs))]
    return [pair for pair in turned if pair[0] != pair[1] and pair not in pairs]


def _of(vectors: WordVectors, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the first and of the second words: [N, D] each."""
    return np.stack([vectors[first] for first, _ in pairs]), np.stack([vectors[second] for _, second in pairs])


def _direction(vectors: WordVectors, pairs: list[tuple[str, str]], name: str) -> dict[str, float]:
    """Whether one direction leads from the first word of every pair to the second.

    It is tried on each pair with the mean step of the others; beside it what the first word's nearest neighbour gives.
    """
    first, second = _of(vectors, pairs)
    steps = second - first
    led = near = 0
    for number, (word, expected) in enumerate(pairs):
        others = np.array([expected != other and word != start for start, other in pairs])
        query = first[number] + steps[others].mean(axis=0)
        found = nearest(query, vectors.matrix, 1, exclude=[vectors.words.index(word)])[0]
        led += vectors.words[found.row] == expected
        near += vectors.nearest(word, 1)[0][0] == expected
    return {
        f"{name}, pairs": len(pairs),
        f"{name}, cosine between the pairs' differences": _alike(steps),
        f"{name}, share where the others' mean step leads to the word": led / len(pairs),
        f"{name}, share where it is the nearest neighbour anyway": near / len(pairs),
    }


def _analogies(vectors: WordVectors) -> list[list[Any]]:
    """The document's sums of words, and gender by man → woman for every pair; what cannot be asked says why."""
    asked = [("king + female", ["king", "female"], [], "queen"), ("cat → tiger, dog → ?", *_step("cat tiger dog wolf"))]
    asked += [("man → woman, king → ?", *_step("man woman king queen"))]
    for pair in GENDERS.split(",")[2:]:
        first, second = pair.split()
        if first in vectors and second in vectors:
            asked.append((f"man → woman, {first} → ?", *_step(f"man woman {first} {second}")))
    rows: list[list[Any]] = [["asked", "expected", "found", "place of the expected", "cosine of the two steps"]]
    for name, positive, negative, expected in asked:
        missing = [word for word in (*negative, *positive, expected) if word not in vectors]
        if missing:
            rows.append([name, expected, f"not testable, no vector for {', '.join(missing)}", None, None])
            continue
        found = [word for word, _ in vectors.analogy(positive, negative, len(vectors))]
        steps = None
        if negative:
            source, (start, target) = negative[0], positive
            one, other = vectors[target] - vectors[source], vectors[expected] - vectors[start]
            steps = float(row_cosines(one, other))
        rows.append([name, expected, ", ".join(found[:3]), found.index(expected) + 1, steps])
    return rows


def _step(words: str) -> tuple[list[str], list[str], str]:
    """a → b, c → d as what is added, what is taken away, and what is expected."""
    source, target, start, expected = words.split()
    return [start, target], [source], expected
