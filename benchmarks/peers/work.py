"""The work that implementations are compared on: a recurrent network over one batch, its weights and data.

Axis letters: T time, B batch, F input features, H hidden, G gates, D = H or, in both directions, 2H.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseq
from benchmarks import measuring

OPTIONS = ("plain", "lengths", "dropout")
RATE = 0.2  # of what is dropped, of the inputs and of the recurrent product


class Work(NamedTuple):
    """What every implementation computes: a recurrent network over one batch."""

    cell: str  # of measuring.CELLS
    option: str  # of OPTIONS
    batch: int  # B
    length: int  # T
    features: int  # F
    hidden: tuple[int, ...]  # H of each layer, the lowest first
    bidirectional: bool = False

    @property
    def directions(self) -> tuple[bool, ...]:
        """For each direction, whether it is the reverse one."""
        return (False, True) if self.bidirectional else (False,)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """F and H of each layer."""
        widths = [self.features, *(len(self.directions) * hidden for hidden in self.hidden)]
        return list(zip(widths[:-1], self.hidden, strict=True))

    @property
    def shape(self) -> str:
        """The shape in words, `B128 T500 F32 H32`."""
        hidden = "+".join(map(str, self.hidden))
        both = ", both directions" if self.bidirectional else ""
        return f"B{self.batch} T{self.length} F{self.features} H{hidden}{both}"

    def __str__(self) -> str:
        """All of it in words."""
        return f"{self.cell}, {self.shape}, {self.option}"


class Data(NamedTuple):
    """Weights and data of a piece of work, in NumPy and jaxseq's layout."""

    params: Any  # tuple over layers of tuples over directions
    inputs: np.ndarray  # [T, B, F]
    lengths: np.ndarray | None  # int32 [B], each at least 1
    masks: Any  # like `params`, of DropoutMasks; None without dropout
    cotangents: np.ndarray  # of the outputs, [T, B, D], zero in padding
    final_cotangents: np.ndarray  # of the last layer's final hidden state, [B, D]

    @property
    def real(self) -> np.ndarray:
        """bool [T, B, 1], False in padding."""
        steps = np.arange(len(self.inputs))[:, None, None]
        return np.broadcast_to(
            True if self.lengths is None else steps < self.lengths[:, None], (*self.inputs.shape[:2], 1)
        )


def draw(work: Work, *, seed: int = 0) -> Data:
    """Draws weights and data of a piece of work.

    Biases are random, or nobody would see a peer's swapped. The second bias of the GRU that resets after the product is
    zero, as at the start of a training: Flax Linen, Equinox and PyTorch have it, the first two in part, Flax NNX not.
    """
    normal = np.random.default_rng(seed).standard_normal
    key = jax.random.key(seed)
    rate = RATE if work.option == "dropout" else 0.0
    params, masks = [], []
    for index, (features, hidden) in enumerate(work.layers):
        cell = measuring.CELLS[work.cell](hidden)
        keys = [jax.random.split(jax.random.fold_in(key, 2 * index + reverse)) for reverse in work.directions]
        drawn = [cell.init(init_key, features) for init_key, _ in keys]
        params.append(tuple(jax.tree.map(np.asarray, _with_bias(one, normal)) for one in drawn))
        masks.append(
            tuple(
                jaxseq.dropout_masks(key, cell, features, (work.batch,), dropout=rate, recurrent_dropout=rate)
                for _, key in keys
            )
        )
    lengths = None
    if work.option == "lengths":
        least = max(1, work.length // 4)
        lengths = np.random.default_rng(seed).integers(least, work.length + 1, work.batch).astype(np.int32)
        lengths[0] = work.length
    width = len(work.directions) * work.hidden[-1]
    data = Data(
        params=tuple(params),
        inputs=normal((work.length, work.batch, work.features), np.float32),
        lengths=lengths,
        masks=jax.tree.map(np.asarray, tuple(masks)) if rate else None,
        cotangents=normal((work.length, work.batch, width), np.float32),
        final_cotangents=normal((work.batch, width), np.float32),
    )
    return data._replace(cotangents=data.cotangents * data.real)


def _with_bias(params: Any, normal: Callable[..., Any]) -> Any:
    name = params._fields[2]
    bias = getattr(params, name)
    return params._replace(**{name: bias + 0.1 * normal(bias.shape, np.float32)})
