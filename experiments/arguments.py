"""Types of command-line arguments, for argparse."""

import argparse


def positive(text: str) -> int:
    """Reads a number of things, at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value
