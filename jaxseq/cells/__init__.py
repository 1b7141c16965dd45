"""Recurrent cells: one equation a file, each a frozen dataclass of static sizes with pure methods."""

from typing import Any

from jaxseq.cells.gru import GRU, GRUParams, GRUState
from jaxseq.cells.gru_reset_after import GRUResetAfter, GRUResetAfterParams
from jaxseq.cells.learned_state import LearnedState, LearnedStateParams
from jaxseq.cells.lstm import LSTM, LSTMParams, LSTMState
from jaxseq.cells.products import DropoutMasks, gate_product
from jaxseq.cells.settings import from_json, to_json
from jaxseq.cells.simple_rnn import SimpleRNN, SimpleRNNParams, SimpleRNNState

CELLS = (SimpleRNN, LSTM, GRU, GRUResetAfter, LearnedState)


def cell_from_json(text: str, cells: tuple[type, ...] = CELLS) -> Any:
    """Reads a cell that `cell_to_json` wrote.

    Args:
      text: what it wrote.
      cells: the classes that may be read; pass your own to read them too.
    Returns:
      The cell, equal to the one that was written.
    Raises:
      ValueError: the text names none of `cells`, or fields that its class does not have.
    """
    return from_json(text, cells)


cell_to_json = to_json

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "DropoutMasks",
    "GRUParams",
    "GRUResetAfter",
    "GRUResetAfterParams",
    "GRUState",
    "LSTMParams",
    "LSTMState",
    "LearnedState",
    "LearnedStateParams",
    "SimpleRNN",
    "SimpleRNNParams",
    "SimpleRNNState",
    "cell_from_json",
    "cell_to_json",
    "gate_product",
]
