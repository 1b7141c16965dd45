"""Command lines: a parser that tells an error in one line, and types of arguments."""

import argparse
from typing import Any, NoReturn

_LARGEST = 2**31 - 1  # a larger size or seed JAX does not count


class Parser(argparse.ArgumentParser):
    """Argparse, with one line for an error in place of the usage and a line, and no options that are cut short."""

    def __init__(self, **settings: Any) -> None:
        """As argparse's; `--epoch 3` is an error, not `--epochs 3`."""
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Exits with code 2."""
        self.exit(2, f"error: {' '.join(message.split())}\n")


def positive(text: str) -> int:
    """Reads a number of things, at least 1."""
    return _integer(text, at_least=1)


def not_negative(text: str) -> int:
    """Reads a number, or which of several, at least 0."""
    return _integer(text, at_least=0)


def _integer(text: str, at_least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = at_least - 1
    if not at_least <= value <= _LARGEST:
        rule = f"of at least {at_least}" if value < at_least else f"of at most {_LARGEST}"
        raise argparse.ArgumentTypeError(f"must be an integer {rule}, got {text!r}")
    return value
