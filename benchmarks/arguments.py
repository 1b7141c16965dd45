"""Types of command-line arguments, for argparse, that benchmarks share."""

import argparse
import math
from collections.abc import Callable, Iterable

from benchmarks import measuring
from experiments.arguments import positive


def number_of_devices(text: str) -> int | None:
    """Reads how many, or `all`: None."""
    try:
        return None if text == "all" else positive(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("must be", "must be all or", 1)) from None


def positives(text: str) -> tuple[int, ...]:
    """Reads numbers with commas between, each at least 1; ascending, each once."""
    try:
        return tuple(sorted({positive(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be integers of at least 1 with commas between, got {text!r}") from None


def add_positives(
    parser: argparse.ArgumentParser, name: str, letter: str, default: tuple[int, ...], about: str = ""
) -> None:
    """Adds an option that takes numbers of at least 1."""
    parser.add_argument(
        f"--{name}",
        type=positives,
        default=default,
        metavar=f"{letter},...",
        help=f"{about}default: {','.join(map(str, default))}",
    )


def add_limit(parser: argparse.ArgumentParser, default: float) -> None:
    """Adds `--limit`, after how long a case ends."""
    parser.add_argument(
        "--limit",
        type=seconds,
        default=default,
        metavar="SECONDS",
        help=f"a case begins no new round of samples after so many, but always takes {measuring.LEAST_ROUNDS} "
        "(default: %(default)g)",
    )


def seconds(text: str) -> float:
    """Reads a time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return value


def some_of(choices: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """Reads some of the choices, with commas between; in the order of the choices, each once."""
    choices = tuple(choices)

    def read(text: str) -> tuple[str, ...]:
        asked = set(text.split(","))
        if not asked <= set(choices):
            raise argparse.ArgumentTypeError(f"must be some of {','.join(choices)}, got {text!r}")
        return tuple(choice for choice in choices if choice in asked)

    return read


def add_some_of(
    parser: argparse.ArgumentParser, name: str, choices: Iterable[str], default: tuple[str, ...] | None = None
) -> None:
    """Adds an option that takes some of the choices; by default all."""
    choices = tuple(choices)
    parser.add_argument(
        f"--{name}",
        type=some_of(choices),
        default=choices if default is None else default,
        metavar="NAME,...",
        help=f"some of {','.join(choices)} (default: {'all' if default is None else ','.join(default)})",
    )
