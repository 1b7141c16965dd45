"""jaxseq, in whose layout everything is compared."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from benchmarks import measuring
from benchmarks.peers.peer import Peer, Run, standard
from benchmarks.peers.work import Work
from jaxseq.choice import Implementation
from jaxseq.recurrence import state_output


def _own(cell: Any, params: Any) -> Any:
    del cell
    return params


def _gradients(cell: Any, params: Any) -> dict[str, np.ndarray]:
    del cell
    w_input, w_hidden, bias, *second = params
    return standard(w_input, w_hidden, bias, np.split(np.asarray(second[0]), 3)[2] if second else None)


def _layer(
    work: Work, features: int, hidden: int, reverse: bool, *, implementation: Implementation | None = None
) -> Run:
    del features
    cell = measuring.CELLS[work.cell](hidden)

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        real = None if lengths is None else jaxseq.length_mask(lengths, len(inputs))
        state, outputs = jaxseq.scan(
            cell,
            params,
            inputs,
            mask=real,
            dropout_masks=masks,
            reverse=reverse,
            implementation=implementation,
        )
        return state_output(cell, params, state), outputs

    return run


def _both(work: Work, features: int, hidden: int) -> Run:
    del features
    cell = measuring.CELLS[work.cell](hidden)

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        real = None if lengths is None else jaxseq.length_mask(lengths, len(inputs))
        states, outputs = jaxseq.bidirectional(cell, params, inputs, mask=real, dropout_masks=masks)
        finals = [state_output(cell, own, state) for own, state in zip(params, states, strict=True)]
        return jnp.concatenate(finals, axis=-1), outputs

    return run


PEER = Peer(
    title="jaxseq",
    module="jaxseq",
    package="jaxseq",
    extra="dev",
    note="scan and bidirectional, implementation=None; [T, B, F]",
    weights=_own,
    gradients=_gradients,
    layer=_layer,
    both=_both,
)


def forced(implementation: Implementation) -> Peer:
    """jaxseq by one implementation, where the engine is not asked for its choice."""
    return dataclasses.replace(
        PEER, title=implementation, layer=functools.partial(_layer, implementation=implementation), both=None
    )
