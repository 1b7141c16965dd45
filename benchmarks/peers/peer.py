"""What a peer is: a table that says how one library's layer is made, called, and compared.

Axis letters: T time, B batch, F input features, H hidden, G gates, D = H or, in both directions, 2H.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np

from benchmarks.peers.work import Work

# (weights, inputs, lengths, dropout masks) -> (final hidden state [B, D], outputs), of one layer
Run = Callable[[Any, jax.Array, Any, Any], tuple[jax.Array, jax.Array]]

# Why some have no such cell or option
RESETS_AFTER = "its GRU resets after the product only"
NO_DROPOUT = "it has no recurrent dropout"
NO_LENGTHS = "its loop takes neither lengths nor a mask"


class Missing(Exception):
    """A peer that is not installed, or not so that it can be compared; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """One library, as it is used here.

    Attributes:
      title: its name in tables.
      module, package, extra: what is imported, what is installed, and the extra of jaxseq that installs it.
      note: how it is used, and its layout.
      cannot: a cell or an option -> why it has none.
      weights: (cell, params) -> its own weights of one cell.
      gradients: (cell, those weights, or their gradients) -> the same as `standard` writes them.
      layer: (work, features, hidden, reverse) -> run(weights, inputs, lengths, masks) -> (final [B, H], outputs).
      both: (work, features, hidden) -> the same for two directions, where it has a layer of its own for that.
      variables: of the environment, set before it is imported.
      prepare: sets the module up once it is imported; raises Missing where it cannot be compared.
      batch_major: sequences are [B, T, F] in place of [T, B, F].
      has_threads: it is no JAX program, and takes the cores with threads of its own.
    """

    title: str
    module: str
    package: str
    extra: str
    note: str
    weights: Callable[[Any, Any], Any]
    gradients: Callable[[Any, Any], dict[str, np.ndarray]]
    layer: Callable[..., Any]
    both: Callable[..., Any] | None = None
    cannot: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prepare: Callable[[Any], None] = lambda module: None
    batch_major: bool = False
    has_threads: bool = False

    def reason(self, work: Work) -> str:
        """Why it cannot do this work; empty where it can."""
        return self.cannot.get(work.cell) or self.cannot.get(work.option) or ""

    def load(self) -> Any:
        """Imports it.

        Returns:
          The module.
        Raises:
          Missing: it is not installed, or not so that it can be compared.
        """
        os.environ.update(self.variables)
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise Missing(f"not installed ({error}): pip install {self.package}, or jaxseq[{self.extra}]") from None
        self.prepare(module)
        return module

    def version(self) -> str:
        """The version that is installed."""
        return metadata.version(self.package)


def standard(w_input: Any, w_hidden: Any, bias: Any, candidate: Any = None) -> dict[str, np.ndarray]:
    """One cell's weights, or their gradients, as they are compared: jaxseq's layout and order of gates.

    Args:
      w_input: [F, G·H].
      w_hidden: [H, G·H].
      bias: [G·H].
      candidate: [H], the second bias of the GRU that resets after the product, of its candidate only: that of the
        other two gates adds to `bias`. None: there is none.
    Returns:
      Those that there are, by name.
    """
    parts = {"w_input": w_input, "w_hidden": w_hidden, "bias": bias, "candidate": candidate}
    return {name: np.asarray(part) for name, part in parts.items() if part is not None}
