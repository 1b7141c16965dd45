"""What a user hands to `predict`."""

import os
from pathlib import Path

from experiments.experiment import UserError


def text_or_file(text: str) -> str:
    """The text itself, or, where it is the path of a file, what that holds.

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    path = text.strip()
    if not os.path.isfile(path):  # unlike Path.is_file, False for a text too long to be a name
        return text
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"TEXT must be a text, or a file of one in UTF-8, got {path}: {error}") from None
