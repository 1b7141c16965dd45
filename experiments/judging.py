"""How a claim is judged by results: figures read from them, and a few rules applied to those.

A `Source` reads a figure from the results (name -> result, as `run` wrote it), a `Judge` says what they mean for a
claim. The rules, in words, are `RULES`: they are few, so that no claim is judged by a measure of its own.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments import report

CONFIRMED, REFUTED, NOT_TESTABLE, NOT_RUN = "confirmed", "refuted", "not testable", "not run"
VERDICTS = (CONFIRMED, REFUTED, NOT_TESTABLE, NOT_RUN)
RULES = (
    "More, less: a difference of two means is clear when it exceeds twice its standard error √(s₁²/n₁ + s₂²/n₂) over "
    "the seeds. A clear difference in the claimed direction confirms; a clear one in the other refutes. If no clear "
    "difference is seen, the claim is refuted where a difference worth the name would have shown (twice the standard "
    "error is at most one point of accuracy, or 5 % of another quantity), and not testable where the seeds differ too "
    "much to tell.",
    "As good, like, near: confirmed when the means differ by at most two points of accuracy, or 5 % of another "
    "quantity; refuted when they differ by more, and clearly; else not testable.",
    'A documented figure ("about 88 %") is reached within two points of accuracy; "high 50s" is 55 to 60 %, "low 50s" '
    "50 to 55 %, both with half a point of rounding. On other data than the document's a figure is not testable; which "
    "of two models is better still is.",
    "A limit (of an epoch, a share, a rounding error) is met or not by the mean over the seeds; it stands in the "
    "claim's verdict.",
    "Overfitting is read off the validation loss: the epoch of its least value, and how far it then rises until the "
    "last epoch; a rise of more than 5 % is overfitting.",
    "A claim of several parts is refuted if one part is, else not run if one part is not, else not testable if one "
    "part is not; it is confirmed if all are.",
    "Not run: a result that the claim needs is missing, incomplete, SYNTHETIC, or of a smoke run.",
)
_ACCURACY_MARGIN, _OTHER_MARGIN = 0.01, 0.05  # a difference worth the name: one point; a share of the other figure
_ALIKE = 0.02  # accuracies that are "about" a figure, or like each other
RISE = 0.05  # of the validation loss over its least value: overfitting

Results = Mapping[str, dict[str, Any]]


class Figure(NamedTuple):
    """A measured quantity.

    Attributes:
      name: where it is from.
      mean: its value.
      error: standard error of the mean; 0 where nothing is random, None of a single seed.
      words: the value as shown.
      is_accuracy: whether it is a share of right answers.
      other_data: whether it was measured on other data than the document's.
    """

    name: str
    mean: float
    error: float | None
    words: str
    is_accuracy: bool = False
    other_data: bool = False


class Judgement(NamedTuple):
    """What was measured, what it says of the claim, and why; a claim of several parts has one of each."""

    measured: str
    verdict: str
    why: str
    parts: tuple[tuple[str, "Judgement"], ...] = ()


Source = Callable[[Results], Figure]
Judge = Callable[[Results], Judgement]


# Figures


class NotRun(Exception):
    """A result that is needed is missing or says nothing."""


class NotTestable(Exception):
    """The results cannot decide."""


def trained(experiment: str, quantity: str = "best val_accuracy", label: str = "") -> Source:
    """A trained model's figure: the part and the quantity, as in `Experiment.figure`."""

    def source(results: Results) -> Figure:
        variant = find_variant(results, experiment, label)
        part, name = quantity.split(" ", 1)
        figure = variant["figures"].get(part, {}).get(name)
        if figure is None:
            raise NotRun(f"{experiment} has no {quantity}")
        return _figure(f"{_title(experiment, label)}, {quantity}", figure, variant, exact=not variant["seeds"], of=name)

    return source


def studied(experiment: str, name: str) -> Source:
    """A figure of an experiment's study."""

    def source(results: Results) -> Figure:
        result = find_variant(results, experiment, "")
        figures = result.get("study", {}).get("figures", {})
        value = figures.get(name)
        if value is None:
            raise NotRun(f"{experiment} has no figure {name!r}")
        return _figure(f"{experiment}, {name}", value, result)

    return source


def over_epochs(experiment: str, name: str, of: Callable[[dict[str, Any]], float], label: str = "") -> Source:
    """A figure of each seed's history, e.g. an epoch."""

    def source(results: Results) -> Figure:
        variant = find_variant(results, experiment, label)
        values = [of(run) for run in variant["history"]]
        middle = sum(values) / len(values)
        spread = math.sqrt(sum((value - middle) ** 2 for value in values) / max(len(values) - 1, 1))
        figure = {"mean": middle, "deviation": spread if len(values) > 1 else None, "seeds": values}
        return _figure(f"{_title(experiment, label)}, {name}", figure, variant)

    return source


def constant(value: float, name: str) -> Source:
    """A number to compare with, such as what guessing gives."""
    return lambda results: Figure(name, value, 0.0, report.text("", value))


def tabled(experiment: str, title: str, row: str, column: str) -> Source:
    """A number in a table of an experiment's study; words in the row say why there is none."""

    def source(results: Results) -> Figure:
        result = find_variant(results, experiment, "")
        table = result.get("study", {}).get("tables", {}).get(title)
        found = [dict(zip(table[0], line, strict=False)) for line in table[1:] if line[0] == row] if table else []
        if not found:
            raise NotRun(f"{experiment} has no row {row!r} in a table {title!r}")
        value = found[0].get(column)
        if value is None:
            raise NotTestable(f"{experiment}: " + ", ".join(str(one) for one in found[0].values() if one is not None))
        return _figure(f"{experiment}, {row}, {column}", value, result)

    return source


def ratio(first: Source, second: Source, name: str) -> Source:
    """One figure over another, as if both were exact."""

    def source(results: Results) -> Figure:
        over, under = first(results), second(results)
        value = over.mean / under.mean
        words = f"{report.text('', value)} ({over.words} over {under.words})"
        return Figure(name, value, 0.0, words, other_data=over.other_data or under.other_data)

    return source


def _figure(name: str, figure: Any, result: dict[str, Any], *, exact: bool = False, of: str = "") -> Figure:
    is_accuracy = report.is_share(of or name)
    words = report.mean(of, figure, result.get("units")) if of else report.text(name, figure)
    other = report.other_data(result)
    if isinstance(figure, str) and (counted := re.fullmatch(r"(\d+) of (\d+)", figure)):
        return Figure(name, int(counted[1]) / int(counted[2]), 0.0, words, is_accuracy, other)
    if not isinstance(figure, dict):
        return Figure(name, float(figure), 0.0, words, is_accuracy, other)
    runs = len(figure["seeds"])
    error = None if figure["deviation"] is None else figure["deviation"] / math.sqrt(runs)
    return Figure(name, figure["mean"], 0.0 if exact else error, words, is_accuracy, other)


def _title(experiment: str, label: str) -> str:
    return f"{experiment} ({label})" if label else experiment


def find_result(results: Results, experiment: str) -> dict[str, Any]:
    """A result that says something.

    Raises:
      NotRun: there is none, or it is of a smoke run or of synthetic data.
    """
    if experiment not in results:
        raise NotRun(f"there is no result of {experiment}")
    result = results[experiment]
    if report.marks(result):
        raise NotRun(f"the result of {experiment} is{report.marks(result)}")
    return result


def find_variant(results: Results, experiment: str, label: str) -> dict[str, Any]:
    """A variant's part of a result; the first where no label is given.

    Raises:
      NotRun: there is none, or it was not trained for as many epochs as documented.
    """
    of_result = report.variants(find_result(results, experiment))
    variant = next((one for one in of_result if not label or one.get("label") == label), None)
    if variant is None:
        raise NotRun(f"{experiment} has no variant {label!r}")
    if other := report.other_epochs(experiment, variant):
        raise NotRun(f"{_title(experiment, label)} ran for {other}")
    return variant


# Rules


def greater(first: Source, second: Source) -> Judge:
    """The first mean is clearly the greater."""
    return lambda results: _ordered(first(results), second(results), 1)


def less(first: Source, second: Source) -> Judge:
    """The first mean is clearly the less."""
    return lambda results: _ordered(first(results), second(results), -1)


def _ordered(first: Figure, second: Figure, sign: int) -> Judgement:
    measured = f"{first.name}: {first.words}; {second.name}: {second.words}"
    difference, error = _difference(first, second)
    words = f"the difference is {_size(difference, first, error)} (standard error)"
    if sign * difference > 2 * error:
        return Judgement(measured, CONFIRMED, words)
    if -sign * difference > 2 * error:
        return Judgement(measured, REFUTED, f"{words}: the other way round")
    margin = _ACCURACY_MARGIN if first.is_accuracy else _OTHER_MARGIN * abs(second.mean)
    if 2 * error <= margin:
        return Judgement(measured, REFUTED, f"no difference seen: {words}, and {_size(margin, first)} would have shown")
    return Judgement(measured, NOT_TESTABLE, f"no difference seen: {words}; the seeds differ too much to tell")


def alike(first: Source, second: Source, margin: float | None = None) -> Judge:
    """The means differ by no more than the margin: two points of accuracy, or 5 % of the second, unless given."""

    def rule(results: Results) -> Judgement:
        one, other = first(results), second(results)
        measured = f"{one.name}: {one.words}; {other.name}: {other.words}"
        difference, error = _difference(one, other)
        allowed = margin or (_ALIKE if one.is_accuracy else _OTHER_MARGIN * abs(other.mean))
        words = f"the difference is {_size(difference, one, error)} (standard error)"
        if abs(difference) <= allowed:
            return Judgement(measured, CONFIRMED, f"{words}, within {_size(allowed, one)}")
        if abs(difference) > 2 * error:
            return Judgement(measured, REFUTED, f"{words}, more than {_size(allowed, one)}")
        return Judgement(measured, NOT_TESTABLE, f"{words}; the seeds differ too much to tell")

    return rule


def _difference(first: Figure, second: Figure) -> tuple[float, float]:
    """Of the means, and its standard error."""
    for figure in (first, second):
        if figure.error is None:
            raise NotTestable(f"{figure.name}: one seed says nothing of how much seeds differ")
    assert first.error is not None and second.error is not None
    return first.mean - second.mean, math.hypot(first.error, second.error)


def _size(value: float, figure: Figure, error: float | None = None) -> str:
    """A difference of figures like this one, with its error where there is one."""
    if figure.is_accuracy:
        words = f"{100 * value:.1f}{'' if error is None else f' ± {100 * error:.1f}'} points"
    else:
        words = f"{value:.3g}{'' if error is None else f' ± {error:.2g}'}"
    return words.replace("-", "−")


def opposite(rule: Judge) -> Judge:
    """Confirmed where the rule is refuted, and the other way round: "not better", "at least as good"."""

    def turned(results: Results) -> Judgement:
        one = rule(results)
        verdict = {CONFIRMED: REFUTED, REFUTED: CONFIRMED}.get(one.verdict, one.verdict)
        return one._replace(verdict=verdict, why=one.why.removesuffix(": the other way round"))

    return turned


def near(source: Source, value: float, tolerance: float = _ALIKE) -> Judge:
    """A documented figure is reached, to the tolerance."""
    return within(source, value - tolerance, value + tolerance)


def within(source: Source, low: float, high: float) -> Judge:
    """A documented figure: the mean lies in the range."""

    def rule(results: Results) -> Judgement:
        figure = source(results)
        measured = f"{figure.name}: {figure.words}"
        span = (
            f"{_bound(low, figure)} to {_bound(high, figure)}" if low > -math.inf else f"under {_bound(high, figure)}"
        )
        if figure.other_data:
            return Judgement(measured, NOT_TESTABLE, f"documented: {span}; measured on other data than the document's")
        inside = low - 1e-9 <= figure.mean <= high + 1e-9
        return Judgement(measured, CONFIRMED if inside else REFUTED, f"{'within' if inside else 'outside'} {span}")

    return rule


def at_most(source: Source, limit: float) -> Judge:
    """The mean meets a limit that is ours, whatever the data."""
    return lambda results: _limited(source(results), limit, -1)


def at_least(source: Source, limit: float) -> Judge:
    """The mean meets a limit that is ours, whatever the data."""
    return lambda results: _limited(source(results), limit, 1)


def _limited(figure: Figure, limit: float, sign: int) -> Judgement:
    met = sign * (figure.mean - limit) >= 0
    words = f"{'at least' if sign > 0 else 'at most'} {_bound(limit, figure)} asked: {'met' if met else 'not met'}"
    return Judgement(f"{figure.name}: {figure.words}", CONFIRMED if met else REFUTED, words)


def _bound(value: float, figure: Figure) -> str:
    return f"{100 * value:.3g} %" if figure.is_accuracy else f"{value:.3g}"


def untestable(why: str) -> Judge:
    """No result could decide it."""
    return lambda results: Judgement("", NOT_TESTABLE, why)


def every(parts: Mapping[str, Judge]) -> Judge:
    """All parts, each under its name; the verdict is the first of those below that a part has."""

    def rule(results: Results) -> Judgement:
        judged = {name: apply(part, results) for name, part in parts.items()}
        verdict = next(
            verdict
            for verdict in (REFUTED, NOT_RUN, NOT_TESTABLE, CONFIRMED)
            if any(one.verdict == verdict for one in judged.values())
        )
        measured = dict.fromkeys(piece for one in judged.values() for piece in one.measured.split("; ") if piece)
        why = "; ".join(f"{name}: {one.verdict} ({one.why})" for name, one in judged.items())
        if all(one.verdict == NOT_RUN for one in judged.values()):
            why = "; ".join(dict.fromkeys(one.why for one in judged.values()))
        return Judgement("; ".join(measured), verdict, why, tuple(judged.items()))

    return rule


def apply(rule: Judge, results: Results) -> Judgement:
    """What the results say, or that they say nothing."""
    try:
        return rule(results)
    except NotRun as error:
        return Judgement("", NOT_RUN, str(error))
    except NotTestable as error:
        return Judgement("", NOT_TESTABLE, str(error))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a result that another program wrote
        return Judgement("", NOT_TESTABLE, f"the results hold no such figures ({type(error).__name__}: {error})")


# What a history says


def least_epoch(experiment: str, label: str = "") -> Source:
    """The epoch of the least validation loss: what comes after is overfitting."""

    def of(run: dict[str, Any]) -> float:
        return 1.0 + run["val_loss"].index(min(run["val_loss"]))

    return over_epochs(experiment, "epoch of the least validation loss", of, label)


def rise(experiment: str, label: str = "", until: int | None = None) -> Source:
    """How far the validation loss has risen over its least value at the last epoch, or at an earlier one."""

    def of(run: dict[str, Any]) -> float:
        losses = run["val_loss"][:until]
        return losses[-1] / min(losses) - 1

    when = f"epoch {until}" if until else "the last epoch"
    return over_epochs(experiment, f"rise of the validation loss over its least value until {when}, ratio", of, label)


def changes(experiment: str, label: str = "") -> Source:
    """Mean change of the validation loss from an epoch to the next, over its least value: how unsteady it is."""

    def of(run: dict[str, Any]) -> float:
        losses = run["val_loss"]
        steps = [abs(after - before) for before, after in itertools.pairwise(losses)]
        return sum(steps) / max(len(steps), 1) / min(losses)

    return over_epochs(
        experiment, "change of the validation loss from epoch to epoch over its least value, ratio", of, label
    )


def least_loss(experiment: str, label: str = "", *, until: int) -> Source:
    """The least validation loss of the first epochs."""

    def of(run: dict[str, Any]) -> float:
        return min(run["val_loss"][:until])

    return over_epochs(experiment, f"least validation loss of the first {until} epochs", of, label)
