"""What the documents claim, sentence by sentence, and what tests each: 70 rules, no typed-in verdicts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments import report
from experiments.judging import (
    CONFIRMED,
    NOT_TESTABLE,
    REFUTED,
    RISE,
    RULES,
    VERDICTS,
    Figure,
    Judge,
    Judgement,
    Results,
    Source,
    alike,
    apply,
    at_least,
    at_most,
    changes,
    constant,
    every,
    find_variant,
    greater,
    least_epoch,
    least_loss,
    less,
    near,
    opposite,
    ratio,
    rise,
    studied,
    tabled,
    trained,
    untestable,
    within,
)

INTRODUCTION = (
    "Every sentence of the documents that can be checked, and what the results of this report say of it. The verdicts "
    "are computed from the figures, by the rules below."
)
_DOCUMENTS = {
    "000": "000_4f71939621a73aa8.txt",
    "001": "001_7cf08e2a96f4f12b.txt",
    "002": "002_591456a3025ae101.txt",
    "003": "003_02921b636a63a0ce.txt",
    "004": "004_7f588d106a56461e.txt",
}


class Claim(NamedTuple):
    """A sentence of the documents.

    Attributes:
      number: as the list of claims has it.
      documents: the files that say so.
      sentence: what they say.
      tests: what tests it: experiments, variants, figures.
      rule: the judge.
    """

    number: int
    documents: tuple[str, ...]
    sentence: str
    tests: str
    rule: Judge

    def judge(self, results: Results) -> Judgement:
        """What the results (name -> result) say of it."""
        return apply(self.rule, results)


def judge(results: Results) -> list[tuple[Claim, Judgement]]:
    """Every claim with what the results (name -> result) say of it."""
    return [(claim, claim.judge(results)) for claim in CLAIMS]


def count(judged: Sequence[tuple[Claim, Judgement]]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {verdict: sum(one.verdict == verdict for _, one in judged) for verdict in VERDICTS}


def markdown(results: Results) -> str:
    """The table of all claims."""
    judged = judge(results)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in count(judged).items())
    rows = [
        [
            claim.number,
            ", ".join(document[:3] for document in claim.documents),
            claim.sentence,
            claim.tests,
            one.measured or "–",
            one.verdict,
            one.why,
        ]
        for claim, one in judged
    ]
    header = ("#", "document", "claim", "tested by", "measured", "verdict", "why")
    aligned = ("---:", *["---"] * (len(header) - 1))
    files = ", ".join(f"{prefix} = {file}" for prefix, file in _DOCUMENTS.items())
    lines = [INTRODUCTION, "", f"{len(judged)} claims: {counts}. Documents: {files}.", ""]
    lines += report.table(header, rows, aligned)
    return "\n".join([*lines, "", "The rules:", "", *[f"- {rule}" for rule in RULES]])


# The claims

_TEST, _LAST, _LAST_TEST = "test accuracy", "final val_accuracy", "test_final accuracy"
_MAE = "best val_loss"
_NAIVE = trained("jena_naive", "final val_loss")
_GUESSING = 1 / 6  # squared error in the adding problem of who always answers 1


_ANALOGIES = "analogies in GloVe (the words asked with left out of the answer)"
_CONVNET_FASTER = less(
    studied("imdb_conv1d", "seconds an epoch and seed, convnet"),
    studied("imdb_conv1d", "seconds an epoch and seed, LSTM"),
)


_LEFT = "log₁₀ ‖∂L/∂s‖ relative to the last step's"
_NUMBERS, _WORDS = "cells on random numbers", "cells on embedded words"


def _left(of: str) -> Source:
    """How much of a gradient is left 100 steps, or layers, back."""
    return studied("gradient_flow", f"{_LEFT}, 100 steps back, {of}")


def _adding(steps: int, cell: str) -> Source:
    return trained("long_term_dependency", "test loss", f"adding {steps} {cell}")


def _copying(delay: int, cell: str) -> Source:
    return trained("long_term_dependency", "test accuracy", f"copying {delay} {cell}")


def _forgets() -> Judge:
    """A vanilla RNN adds over 10 steps, and over 200 no better than who guesses."""
    return every(
        {
            "learns over 10 steps": at_most(_adding(10, "SimpleRNN"), 0.1 * _GUESSING),
            "over 200 it is no better than guessing": at_least(_adding(200, "SimpleRNN"), 0.9 * _GUESSING),
        }
    )


def _of_the_document(source: Source) -> Source:
    """A figure to which it makes no difference that the vectors of GloVe are not all there: none is read for it."""
    return lambda results: source(results)._replace(other_data=False)


def _on_the_documents_data(experiment: str, rule: Judge, why: str) -> Judge:
    """The rule, where an experiment ran on the document's own data; else not testable, and why."""

    def on_them(results: Results) -> Judgement:
        one = rule(results)
        return one._replace(verdict=NOT_TESTABLE, why=why) if report.other_data(results[experiment]) else one

    return on_them


def _draws_differ(results: Results) -> Judgement:
    """Whether the means of five draws differ twice as much as their seeds alone would make them differ."""
    draws = studied("imdb_glove_frozen", "validation accuracy, frozen, over 5 draws")(results)
    within_draw = studied("imdb_glove_frozen", "deviation over seeds of one draw, validation accuracy, frozen")(results)
    result = find_variant(results, "imdb_glove_frozen", "")
    of_draws = result["study"]["figures"]["validation accuracy, frozen, over 5 draws"]["deviation"]
    by_seeds = within_draw.mean / math.sqrt(len(result["seeds"]))
    words = f"the draws' means deviate by {100 * of_draws:.1f} points, their seeds alone make {100 * by_seeds:.1f}"
    verdict = CONFIRMED if of_draws > 2 * by_seeds else REFUTED
    return Judgement(f"{draws.name}: {draws.words}", verdict, f"{words}; twice as much asked")


def _recurrent_parameters(results: Results) -> Figure:
    """A bidirectional LSTM's over an LSTM's: all but the embedding (10,000 × 32) and the head."""
    both, one = (find_variant(results, name, "")["parameters"]["total"] for name in ("imdb_bilstm", "imdb_lstm"))
    recurrent = both - 320_000 - 65, one - 320_000 - 33
    words = f"{recurrent[0]:,} over {recurrent[1]:,}"
    return Figure("recurrent parameters of imdb_bilstm over imdb_lstm's", recurrent[0] / recurrent[1], 0.0, words)


def _claim(number: int, documents: str, sentence: str, tests: str, rule: Judge) -> Claim:
    """A claim of the documents that begin so."""
    return Claim(number, tuple(_DOCUMENTS[document] for document in documents.split()), sentence, tests, rule)


CLAIMS: tuple[Claim, ...] = (
    _claim(
        1,
        "000",
        "one-hot input is about 500 times as large as the indices",
        "imdb500_onehot_rnn: bytes of the training input, one-hot over indices",
        within(studied("imdb500_onehot_rnn", "one-hot bytes over those of the indices"), 475, 525),
    ),
    _claim(
        2,
        "000",
        "feeding large integers gives large activations (and 004 claims an RNN needs no one-hot: they contradict)",
        "imdb500_onehot_rnn: mean size of what the activation function gets before training, indices as numbers "
        "against one-hot words (for what 004 says see 69)",
        greater(
            studied("imdb500_onehot_rnn", "mean |pre-activation| at initialisation, indices as numbers"),
            studied("imdb500_onehot_rnn", "mean |pre-activation| at initialisation, one-hot"),
        ),
    ),
    _claim(
        3,
        "000",
        "the end of a review carries more information than its beginning",
        "imdb500_onehot_rnn and imdb500_embedding_rnn, the last 100 words against the first 100: test accuracy",
        every(
            {
                name: greater(trained(experiment, _TEST), trained(experiment, _TEST, "first 100 words"))
                for name, experiment in (("one-hot", "imdb500_onehot_rnn"), ("embedding", "imdb500_embedding_rnn"))
            }
        ),
    ),
    _claim(
        4,
        "000",
        "an embedding often does better than one-hot,",
        "imdb500_embedding_rnn against imdb500_onehot_rnn: best val_accuracy",
        greater(trained("imdb500_embedding_rnn"), trained("imdb500_onehot_rnn")),
    ),
    _claim(
        5,
        "000 003",
        "and is far smaller",
        "imdb500_embedding_rnn: bytes of the training input, one-hot over embedded (ten times at least)",
        at_least(studied("imdb500_embedding_rnn", "one-hot bytes over embedded ones"), 10),
    ),
    _claim(
        6,
        "001",
        "the total error is the sum over steps",
        "gradient_flow: ∂E/∂W by autodiff against the sum of every step's, in float64",
        at_most(trained("gradient_flow", "final Σₜ ∂Eₜ/∂W − ∂E/∂W"), 1e-10),
    ),
    _claim(
        7,
        "001",
        "∂E₃/∂W is the sum over k = 0..3",
        "gradient_flow: ∂E₃/∂W by autodiff against the sum of its paths, and those against the equation, in float64",
        every(
            {
                "the sum": at_most(trained("gradient_flow", "final Σₖ paths − ∂E₃/∂W"), 1e-10),
                "each path is the equation's": at_most(trained("gradient_flow", "final paths − equation"), 1e-10),
            }
        ),
    ),
    _claim(
        8,
        "001",
        "gradients vanish as the path gets longer",
        "gradient_flow: what is left of a SimpleRNN's gradient 100 steps back, log₁₀ (-1, a tenth, at most)",
        every(
            {
                "random numbers": at_most(_left(f"{_NUMBERS}: SimpleRNN"), -1),
                "embedded words": at_most(_left(f"{_WORDS}: SimpleRNN"), -1),
            }
        ),
    ),
    _claim(
        9,
        "001",
        "a vanilla RNN loses early information",
        "long_term_dependency: SimpleRNN on the adding problem over 10 and 200 steps, on copy memory over 10 and 100",
        every(
            {
                "adding": _forgets(),
                "copying": less(_copying(100, "SimpleRNN"), _copying(10, "SimpleRNN")),
            }
        ),
    ),
    _claim(
        10,
        "001",
        "LSTM and GRU remedy it",
        "long_term_dependency: LSTM and GRU against SimpleRNN, adding over 200 steps, copying over 100",
        every(
            {
                "LSTM, adding": less(_adding(200, "LSTM"), _adding(200, "SimpleRNN")),
                "GRU, adding": less(_adding(200, "GRU"), _adding(200, "SimpleRNN")),
                "LSTM, copying": greater(_copying(100, "LSTM"), _copying(100, "SimpleRNN")),
                "GRU, copying": greater(_copying(100, "GRU"), _copying(100, "SimpleRNN")),
            }
        ),
    ),
    _claim(
        11,
        "001",
        "the output is the activation of the hidden state, not the state",
        "gradient_flow: a network's output y against softmax(V s) and against the state s (that a recurrent layer "
        "itself hands on its state is no contradiction: V and softmax are the next layer)",
        every(
            {
                "is its activation": at_most(
                    studied("gradient_flow", "network's output y − softmax(V s), largest difference"), 1e-10
                ),
                "is not the state": at_least(
                    studied("gradient_flow", "network's output y − state s, smallest ‖·‖ of ten steps"), 0.01
                ),
            }
        ),
    ),
    _claim(
        12,
        "002",
        "an RNN's gradients vanish worse than other networks'",
        "gradient_flow: what is left of the gradient 100 steps back in a SimpleRNN, and 100 layers back in a tanh "
        "network drawn the same way, log₁₀",
        every(
            {
                name: less(
                    _left(f"{kind}: SimpleRNN"),
                    _left("tanh networks of 200 layers: orthogonal, a matrix for each layer"),
                )
                for name, kind in (("random numbers", _NUMBERS), ("embedded words", _WORDS))
            }
        ),
    ),
    _claim(
        13,
        "002",
        "LSTM solves it",
        "long_term_dependency: LSTM against SimpleRNN, adding over 200 steps, and what is left of the gradient at the "
        "first of them, trained; gradient_flow: what is left of it 100 steps back, as drawn",
        every(
            {
                "learns to add over 200 steps": less(_adding(200, "LSTM"), _adding(200, "SimpleRNN")),
                "gradient, trained": greater(
                    *(
                        studied("long_term_dependency", f"{_LEFT}, at the first step, adding 200, trained: {cell}")
                        for cell in ("LSTM", "SimpleRNN")
                    )
                ),
                "gradient as drawn, random numbers": greater(
                    _left(f"{_NUMBERS}: LSTM"), _left(f"{_NUMBERS}: SimpleRNN")
                ),
                "gradient as drawn, embedded words": greater(_left(f"{_WORDS}: LSTM"), _left(f"{_WORDS}: SimpleRNN")),
            }
        ),
    ),
    _claim(
        14,
        "002",
        "Reuters: test accuracy about 70 %",
        "reuters_lstm: val_accuracy of the last epoch, which is on the test part",
        near(trained("reuters_lstm", "final val_accuracy"), 0.70),
    ),
    _claim(
        15,
        "002",
        "words that come earlier change the output",
        "reuters_lstm: a word of a wire's first half replaced: how far the probabilities move (a hundredth at least), "
        "and how many wires are told otherwise",
        every(
            {
                "probabilities move": at_least(
                    studied(
                        "reuters_lstm", "one word of the first half replaced: total variation of the probabilities"
                    ),
                    0.01,
                ),
                "topics change": greater(
                    studied("reuters_lstm", "one word of the first half replaced: share of wires told otherwise"),
                    constant(0, "none"),
                ),
            }
        ),
    ),
    _claim(
        16,
        "003",
        "hashing saves memory",
        "text_vectorization: bytes of a dictionary from word to index, against none",
        less(
            studied("text_vectorization", "bytes of an index when words are hashed"),
            studied("text_vectorization", "bytes of a dictionary from word to index"),
        ),
    ),
    _claim(
        17,
        "003",
        "collisions fall as the hash space grows",
        "text_vectorization: share of IMDB's words that collide, in 15 hash spaces",
        every(
            {
                "at every doubling": at_least(
                    studied("text_vectorization", "collisions fall with every doubling of the hash space"), 1
                ),
                "ten times the space": less(
                    studied("text_vectorization", "share of colliding words, hash space of 10 vocabularies"),
                    studied("text_vectorization", "share of colliding words, hash space as large as the vocabulary"),
                ),
            }
        ),
    ),
    _claim(
        18,
        "003",
        "the tokenizer's one-hot is a bag of 1-grams",
        "text_vectorization: texts whose binary matrix is their bag of 1-grams",
        at_least(studied("text_vectorization", "texts whose binary matrix is their bag of 1-grams"), 1),
    ),
    _claim(
        19,
        "003",
        "a random embedding has no structure; training gives it some",
        "imdb_lstm: cosine of words of one feeling less that of words of opposite ones, before and after training",
        every(
            {
                "none before": alike(
                    studied("imdb_lstm", "cosine within a feeling minus between feelings, before training"),
                    constant(0, "none"),
                    margin=0.05,
                ),
                "some after": greater(
                    studied("imdb_lstm", "cosine within a feeling minus between feelings, after training"),
                    studied("imdb_lstm", "cosine within a feeling minus between feelings, before training"),
                ),
            }
        ),
    ),
    _claim(
        20,
        "003",
        "synonyms lie near each other (GloVe)",
        "imdb_glove_frozen: cosine of synonyms, and of the same words paired otherwise",
        greater(
            studied("imdb_glove_frozen", "cosine, synonyms"),
            studied("imdb_glove_frozen", "cosine, the same words, paired otherwise"),
        ),
    ),
    _claim(
        21,
        "003",
        "king + female = queen, and there is a plural direction",
        "imdb_glove_frozen: place of queen among the words nearest to king + female; how often the other pairs' mean "
        "step leads from a word to its plural, and how often the plural is the nearest word anyway",
        every(
            {
                "king + female": at_most(
                    tabled("imdb_glove_frozen", _ANALOGIES, "king + female", "place of the expected"), 1
                ),
                "plural, most words": at_least(
                    studied("imdb_glove_frozen", "plural, share where the others' mean step leads to the word"), 0.5
                ),
                "plural, more than without the step": greater(
                    studied("imdb_glove_frozen", "plural, share where the others' mean step leads to the word"),
                    studied("imdb_glove_frozen", "plural, share where it is the nearest neighbour anyway"),
                ),
            }
        ),
    ),
    _claim(
        22,
        "003",
        "cat → tiger is the same vector as dog → wolf",
        "imdb_glove_frozen: cosine of the two steps, where the four words have vectors",
        at_least(tabled("imdb_glove_frozen", _ANALOGIES, "cat → tiger, dog → ?", "cosine of the two steps"), 0.9),
    ),
    _claim(
        23,
        "003",
        "with 20 tokens no review needs padding",
        "imdb_embedding_flatten: reviews of fewer than 20 tokens",
        every(
            {
                part: at_most(studied("imdb_embedding_flatten", f"{part} reviews shorter than 20 words"), 0)
                for part in ("training", "test")
            }
        ),
    ),
    _claim(
        24,
        "003",
        "embedding + flatten: validation about 75 %",
        "imdb_embedding_flatten: best val_accuracy",
        near(trained("imdb_embedding_flatten"), 0.75),
    ),
    _claim(
        25,
        "003",
        'it treats "this movie is a bomb" and "the bomb" alike',
        "imdb_embedding_flatten: both logits; what 'the' for 'a' adds to them, before bomb and before masterpiece",
        every(
            {
                "a bomb is bad": at_most(studied("imdb_embedding_flatten", "logit, this movie is a bomb"), 0),
                "the bomb is bad": at_most(studied("imdb_embedding_flatten", "logit, this movie is the bomb"), 0),
                "the article counts by itself": at_most(
                    studied("imdb_embedding_flatten", "greatest difference between what 'the' for 'a' adds to the two"),
                    1e-4,
                ),
            }
        ),
    ),
    _claim(
        26,
        "003",
        "GloVe with 200 reviews overfits at once, with a large gap",
        "imdb_glove_frozen: epoch of the least validation loss (3 at most), training minus validation accuracy at the "
        "last epoch (10 points at least)",
        every(
            {
                "at once": at_most(least_epoch("imdb_glove_frozen"), 3),
                "a large gap": at_least(
                    studied("imdb_glove_frozen", "training minus validation accuracy, last epoch"), 0.1
                ),
            }
        ),
    ),
    _claim(
        27,
        "003",
        "its validation accuracy is in the high 50s",
        "imdb_glove_frozen: val_accuracy of the last epoch",
        within(trained("imdb_glove_frozen", _LAST), 0.545, 0.605),
    ),
    _claim(
        28,
        "003",
        "the result depends on which 200 reviews were drawn",
        "imdb_glove_frozen: how much five draws differ, against what the seeds of a draw leave in its mean",
        _draws_differ,
    ),
    _claim(
        29,
        "003",
        "without GloVe: low 50s",
        "imdb_glove_scratch: val_accuracy of the last epoch",
        within(trained("imdb_glove_scratch", _LAST), 0.495, 0.555),
    ),
    _claim(
        30,
        "003",
        "so GloVe beats scratch at 200",
        "imdb_glove_frozen: val_accuracy of the last epoch, frozen minus learned, over five draws of 200 reviews",
        greater(
            studied("imdb_glove_frozen", "validation accuracy, frozen minus learned, over 5 draws"),
            constant(0, "no difference"),
        ),
    ),
    _claim(
        31,
        "003",
        "more samples turn that round; scratch with 2,000 reaches nearly 70 %",
        "imdb_glove_scratch_2000: val_accuracy of the last epoch, and the same with GloVe frozen, 2,000 reviews",
        every(
            {
                "turned round": greater(
                    trained("imdb_glove_scratch_2000", _LAST),
                    trained("imdb_glove_scratch_2000", _LAST, "GloVe frozen, 2,000 reviews"),
                ),
                "nearly 70 %, or more": at_least(_of_the_document(trained("imdb_glove_scratch_2000", _LAST)), 0.67),
            }
        ),
    ),
    _claim(
        32,
        "003",
        "training the embedding along destroys what it knew",
        "imdb_glove_scratch_2000: GloVe trainable against frozen, 200 reviews: share of the ten nearest words kept "
        "(half at most), val_accuracy of the last epoch",
        every(
            {
                "its neighbours": at_most(
                    studied("imdb_glove_scratch_2000", "share of the ten nearest words kept in training, 200 reviews"),
                    0.5,
                ),
                "its accuracy": less(
                    trained("imdb_glove_scratch_2000", _LAST, "GloVe trainable, 200 reviews"),
                    trained("imdb_glove_scratch_2000", _LAST, "GloVe frozen, 200 reviews"),
                ),
            }
        ),
    ),
    _claim(
        33,
        "003",
        "GloVe's test accuracy is about 50 %",
        "imdb_glove_frozen: test accuracy of the last epoch",
        near(trained("imdb_glove_frozen", _LAST_TEST), 0.50),
    ),
    _claim(
        34,
        "003",
        "the dense baseline tests at 87 %",
        "imdb_dense_baseline: test accuracy of the last epoch",
        near(trained("imdb_dense_baseline", _LAST_TEST), 0.87),
    ),
    _claim(
        35,
        "003",
        "SimpleRNN: validation about 85 %, below the baseline",
        "imdb_simple_rnn: best val_accuracy; its test accuracy against imdb_dense_baseline's",
        every(
            {
                "about 85 %": near(trained("imdb_simple_rnn"), 0.85),
                "below the baseline": less(
                    trained("imdb_simple_rnn", _TEST), trained("imdb_dense_baseline", _LAST_TEST)
                ),
            }
        ),
    ),
    _claim(
        36,
        "003",
        "because it sees only 500 words",
        "imdb_dense_baseline, whole reviews and the last 500 words: if the 500 words are the cause, the baseline falls "
        "to imdb_simple_rnn's test accuracy with them",
        every(
            {
                "500 words cost accuracy": less(
                    trained("imdb_dense_baseline", _LAST_TEST, "last 500 words"),
                    trained("imdb_dense_baseline", _LAST_TEST),
                ),
                "with them the baseline is no better": opposite(
                    greater(
                        trained("imdb_dense_baseline", _LAST_TEST, "last 500 words"), trained("imdb_simple_rnn", _TEST)
                    )
                ),
            }
        ),
    ),
    _claim(
        37,
        "003",
        "SimpleRNN cannot learn long dependencies; gradients vanish or explode",
        "long_term_dependency: SimpleRNN, adding over 10 and 200 steps; gradient_flow: what is left of the gradient "
        "100 steps back, log₁₀, of a SimpleRNN as drawn and of one with twice the recurrent matrix",
        every(
            {
                "cannot learn": _forgets(),
                "vanish": at_most(_left(f"{_NUMBERS}: SimpleRNN"), -1),
                "explode": at_least(_left("SimpleRNN on embedded words, recurrent matrix: 2.0 × orthogonal"), 1),
            }
        ),
    ),
    _claim(
        38,
        "003",
        "LSTM: about 88 %, better than SimpleRNN",
        "imdb_lstm against imdb_simple_rnn: best val_accuracy",
        every(
            {
                "about 88 %": near(trained("imdb_lstm"), 0.88),
                "better than SimpleRNN": greater(trained("imdb_lstm"), trained("imdb_simple_rnn")),
            }
        ),
    ),
    _claim(
        39,
        "003",
        "and a little better than the baseline",
        "imdb_lstm against imdb_dense_baseline: test accuracy",
        greater(trained("imdb_lstm", _TEST), trained("imdb_dense_baseline", _LAST_TEST)),
    ),
    _claim(
        40,
        "003",
        "sentiment hangs on which words occur, not on their order",
        "imdb_lstm, its words shuffled, against in order; imdb_dense_baseline, a bag of words, against imdb_lstm: test "
        "accuracy",
        every(
            {
                "shuffled as in order": alike(
                    trained("imdb_lstm", _TEST, "words shuffled"), trained("imdb_lstm", _TEST)
                ),
                "a bag of words as the LSTM": alike(
                    trained("imdb_dense_baseline", _LAST_TEST), trained("imdb_lstm", _TEST)
                ),
            }
        ),
    ),
    _claim(
        41,
        "003",
        "temperature has a yearly and a daily period",
        "jena_naive: share of the temperature's variance in a wave of a year (a quarter at least), and of a day (ten "
        "times that of 17 hours)",
        every(
            {
                "yearly": _on_the_documents_data(
                    "jena_naive",
                    at_least(
                        studied("jena_naive", "share of the variance in a wave of a year (first recording)"), 0.25
                    ),
                    "a single recorded year cannot show that it comes back",
                ),
                "daily": at_least(
                    ratio(
                        studied("jena_naive", "the same after a year's wave is taken out, day"),
                        studied("jena_naive", "the same after a year's wave is taken out, 17 hours"),
                        "jena_naive, variance in a wave of a day over that of 17 hours, a year's wave taken out",
                    ),
                    10,
                ),
            }
        ),
    ),
    _claim(
        42,
        "003",
        "naive forecast: MAE 0.29, 2.57 °C",
        "jena_naive: val_loss",
        near(_NAIVE, 0.29, 0.005),
    ),
    _claim(
        43,
        "003",
        "the dense network is near it and unstable",
        "jena_dense against jena_naive: least val_loss; its change from epoch to epoch (5 % at least)",
        every(
            {
                "near it": alike(trained("jena_dense", _MAE), _NAIVE),
                "unstable": at_least(changes("jena_dense"), 0.05),
            }
        ),
    ),
    _claim(
        44,
        "003",
        "GRU: under 0.265, 2.35 °C; beats both",
        "jena_gru against jena_naive and jena_dense: least val_loss",
        every(
            {
                "under 0.265": within(trained("jena_gru", _MAE), -math.inf, 0.265),
                "beats the naive forecast": less(trained("jena_gru", _MAE), _NAIVE),
                "beats the dense network": less(trained("jena_gru", _MAE), trained("jena_dense", _MAE)),
            }
        ),
    ),
    _claim(
        45,
        "003",
        "a GRU is cheaper than an LSTM",
        "jena_further: parameters, and seconds an epoch measured in turns, GRU 32 units against LSTM 32 units",
        every(
            {
                "parameters": less(
                    studied("jena_further", "parameters, GRU 32 units"),
                    studied("jena_further", "parameters, LSTM 32 units"),
                ),
                "seconds": less(
                    studied("jena_further", "seconds per epoch, GRU 32 units"),
                    studied("jena_further", "seconds per epoch, LSTM 32 units"),
                ),
            }
        ),
    ),
    _claim(
        46,
        "003",
        "the GRU overfits after a few epochs",
        "jena_gru: epoch of the least val_loss (10 at most), and the rise after it",
        every(
            {
                "a few epochs": at_most(least_epoch("jena_gru"), 10),
                "overfits": at_least(rise("jena_gru"), RISE),
            }
        ),
    ),
    _claim(
        47,
        "003",
        "dropout before a recurrent layer hinders more than it helps",
        "jena_gru, dropout before the layer, against none: least val_loss",
        greater(trained("jena_gru", _MAE, "dropout before the layer"), trained("jena_gru", _MAE)),
    ),
    _claim(
        48,
        "003",
        "a mask constant in time beats a new one at each step",
        "jena_gru_dropout against new mask each step: least val_loss of the first 20 epochs",
        less(
            least_loss("jena_gru_dropout", until=20),
            least_loss("jena_gru_dropout", "new mask each step", until=20),
        ),
    ),
    _claim(
        49,
        "003",
        "dropout makes convergence slower",
        "jena_gru_dropout against jena_gru: epoch of the least val_loss",
        greater(least_epoch("jena_gru_dropout"), least_epoch("jena_gru")),
    ),
    _claim(
        50,
        "003",
        "no overfitting before epoch 30; steadier, not better",
        "jena_gru_dropout: rise of val_loss until epoch 30; its change from epoch to epoch and least val_loss, against "
        "jena_gru's",
        every(
            {
                "no overfitting before epoch 30": at_most(rise("jena_gru_dropout", until=30), RISE),
                "steadier": less(changes("jena_gru_dropout"), changes("jena_gru")),
                "not better": opposite(less(trained("jena_gru_dropout", _MAE), trained("jena_gru", _MAE))),
            }
        ),
    ),
    _claim(
        51,
        "003",
        "stacking: a little better, costlier, still not overfitting",
        "jena_stacked_gru against jena_gru_dropout: least val_loss, seconds an epoch measured in turns; rise of "
        "val_loss until the last epoch",
        every(
            {
                "better": less(trained("jena_stacked_gru", _MAE), trained("jena_gru_dropout", _MAE)),
                "costlier": greater(
                    studied("jena_stacked_gru", "seconds per epoch, this model"),
                    studied("jena_stacked_gru", "seconds per epoch, one layer"),
                ),
                "not overfitting": at_most(rise("jena_stacked_gru"), RISE),
            }
        ),
    ),
    _claim(
        52,
        "003",
        "reversed weather is worse than naive",
        "jena_reversed_gru against jena_naive: least val_loss",
        greater(trained("jena_reversed_gru", _MAE), _NAIVE),
    ),
    _claim(
        53,
        "003",
        "a GRU remembers the recent past best",
        "jena_gru, the newest step last, against jena_reversed_gru, the newest first: least val_loss; "
        "long_term_dependency: a GRU's copying over 10 steps against 100; gradient_flow: share of its gradients in the "
        "last 10 of 200 steps (half at least)",
        every(
            {
                "gradient": at_least(
                    studied("gradient_flow", f"share of Σₜ ‖∂L/∂sₜ‖ in the last 10 steps, {_WORDS}: GRU"), 0.5
                ),
                "weather": less(trained("jena_gru", _MAE), trained("jena_reversed_gru", _MAE)),
                "copying": greater(_copying(10, "GRU"), _copying(100, "GRU")),
            }
        ),
    ),
    _claim(
        54,
        "003",
        "reversed reviews do as well as reviews in order",
        "imdb_reversed_lstm, reversed against in order: best val_accuracy",
        alike(trained("imdb_reversed_lstm"), trained("imdb_reversed_lstm", label="reviews in order")),
    ),
    _claim(
        55,
        "003",
        "the two learn different representations, so an ensemble helps",
        "imdb_reversed_lstm: agreement of a reversed and an in-order model, against that of two seeds in order; what "
        "an ensemble of them gains on the test reviews, against two seeds in order",
        every(
            {
                "different": less(
                    studied("imdb_reversed_lstm", "agreement, reversed with in order"),
                    studied("imdb_reversed_lstm", "agreement, two seeds in order"),
                ),
                "an ensemble helps": greater(
                    studied("imdb_reversed_lstm", "ensemble's gain over its members' mean, reversed with in order"),
                    constant(0, "no gain"),
                ),
                "more than two seeds do": greater(
                    studied("imdb_reversed_lstm", "ensemble's gain over its members' mean, reversed with in order"),
                    studied("imdb_reversed_lstm", "ensemble's gain over its members' mean, two seeds in order"),
                ),
            }
        ),
    ),
    _claim(
        56,
        "003",
        "BiLSTM: about 88 %, a little above the LSTM",
        "imdb_bilstm, as printed (reversed) and reviews in order, against imdb_lstm: best val_accuracy",
        every(
            {
                "about 88 %": near(trained("imdb_bilstm"), 0.88),
                "above the LSTM, as printed": greater(trained("imdb_bilstm"), trained("imdb_lstm")),
                "above the LSTM, in order": greater(
                    trained("imdb_bilstm", label="reviews in order"), trained("imdb_lstm")
                ),
            }
        ),
    ),
    _claim(
        57,
        "003",
        "it overfits earlier, having twice the recurrent parameters",
        "imdb_bilstm, reviews in order, against imdb_lstm: epoch of the least validation loss; recurrent parameters",
        every(
            {
                "earlier": less(least_epoch("imdb_bilstm", "reviews in order"), least_epoch("imdb_lstm")),
                "twice the parameters": at_least(_recurrent_parameters, 2),
            }
        ),
    ),
    _claim(
        58,
        "003",
        "with regularisation the BiLSTM suits the task better",
        "imdb_bilstm, regularised, against imdb_lstm: best val_accuracy",
        greater(trained("imdb_bilstm", label="regularised"), trained("imdb_lstm")),
    ),
    _claim(
        59,
        "003",
        "a bidirectional GRU does as a GRU on weather: the forward half does it all",
        "jena_bigru against jena_gru, and jena_reversed_gru against it: least val_loss",
        every(
            {
                "as a GRU": alike(trained("jena_bigru", _MAE), trained("jena_gru", _MAE)),
                "the other half alone is worse": greater(trained("jena_reversed_gru", _MAE), trained("jena_gru", _MAE)),
            }
        ),
    ),
    _claim(
        60,
        "003",
        "attention and masking do not suit the temperature task",
        "jena_gru with attention against without: least val_loss",
        every(
            {
                "attention": opposite(less(trained("jena_gru", _MAE, "attention"), trained("jena_gru", _MAE))),
                "masking": untestable("no window of the series has a step to mask: all are full"),
            }
        ),
    ),
    _claim(
        61,
        "003",
        "random windows reduce overfitting",
        "jena_gru, windows at random, against windows in order: rise of val_loss until the last epoch",
        less(rise("jena_gru"), rise("jena_gru", "windows in order")),
    ),
    _claim(
        62,
        "003",
        "a 1D convnet is translation-invariant",
        "imdb_conv1d: test reviews told the same when moved among their padding, by 5 words, as far as a pooled window "
        "is wide, and by 1 (99 % at least)",
        every(
            {
                f"by {words}": at_least(
                    studied("imdb_conv1d", f"share of short test reviews told the same, moved by {words}"), 0.99
                )
                for words in ("5 words", "1 word")
            }
        ),
    ),
    _claim(
        63,
        "003",
        "the IMDB convnet is a little below the LSTM, and faster",
        "imdb_conv1d against imdb_lstm: best val_accuracy (within 3 points), seconds an epoch measured in turns",
        every(
            {
                "below": less(trained("imdb_conv1d"), trained("imdb_lstm")),
                "a little": alike(trained("imdb_conv1d"), trained("imdb_lstm"), margin=0.03),
                "faster": _CONVNET_FASTER,
            }
        ),
    ),
    _claim(
        64,
        "003",
        "a convnet ignores order; on weather MAE in the 0.40s, worse than naive",
        "jena_conv1d against jena_naive, and against a causal dilated convnet, which minds the order: least val_loss",
        every(
            {
                "in the 0.40s": within(trained("jena_conv1d", _MAE), 0.395, 0.505),
                "worse than naive": greater(trained("jena_conv1d", _MAE), _NAIVE),
                "one that minds the order is better": less(
                    trained("jena_conv1d", _MAE, "dilated, causal"), trained("jena_conv1d", _MAE)
                ),
            }
        ),
    ),
    _claim(
        65,
        "003",
        "conv + GRU is not as good as the regularised GRU, and much faster",
        "jena_conv_gru against jena_gru_dropout: least val_loss, seconds an epoch measured in turns (half at most)",
        every(
            {
                "not as good": greater(trained("jena_conv_gru", _MAE), trained("jena_gru_dropout", _MAE)),
                "much faster": at_most(
                    ratio(
                        studied("jena_conv_gru", "seconds per epoch, this model"),
                        studied("jena_conv_gru", "seconds per epoch, regularised GRU"),
                        "jena_conv_gru, seconds an epoch over the regularised GRU's",
                    ),
                    0.5,
                ),
            }
        ),
    ),
    _claim(
        66,
        "003",
        "where order does not matter a convnet is at least as good, and cheaper",
        "imdb_conv1d against imdb_lstm: test accuracy, seconds an epoch measured in turns",
        every(
            {
                "as good": opposite(less(trained("imdb_conv1d", _TEST), trained("imdb_lstm", _TEST))),
                "cheaper": _CONVNET_FASTER,
            }
        ),
    ),
    _claim(
        67,
        "004",
        "the RNN: 0.7742 / 0.5300",
        "imdb100_rnn: training and test accuracy of the last epoch",
        every(
            {
                "training": near(trained("imdb100_rnn", "final accuracy"), 0.7742),
                "test": near(trained("imdb100_rnn", _LAST_TEST), 0.53),
            }
        ),
    ),
    _claim(
        68,
        "004",
        'the LSTM: 0.8172 / 0.6100, "far better"',
        "imdb100_lstm: training and test accuracy of the last epoch, against imdb100_rnn",
        every(
            {
                "training": near(trained("imdb100_lstm", "final accuracy"), 0.8172),
                "test": near(trained("imdb100_lstm", _LAST_TEST), 0.61),
                "far better": greater(trained("imdb100_lstm", _LAST_TEST), trained("imdb100_rnn", _LAST_TEST)),
            }
        ),
    ),
    _claim(
        69,
        "004",
        "an RNN needs no one-hot (see 2)",
        "imdb500_onehot_rnn, indices as numbers, as 004 feeds them, against one-hot words: test accuracy",
        opposite(
            greater(trained("imdb500_onehot_rnn", _TEST), trained("imdb500_onehot_rnn", _TEST, "indices as numbers"))
        ),
    ),
    _claim(
        70,
        "004",
        "an RNN is weak on old information",
        "long_term_dependency: SimpleRNN on the adding problem over 10 and 200 steps",
        _forgets(),
    ),
)
