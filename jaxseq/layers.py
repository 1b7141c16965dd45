"""Flax: any cell as a Linen module, and the layers that stand beside it.

Embedding, dense and convolution are Flax's own with Keras' initialisers, laid out for a CPU; `Recurrent` and what wraps
it, and attention, are ours. Layers take batch-major arrays [B, T, ...], as Flax's do.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq import arguments, attention
from jaxseq.calls import check_flags
from jaxseq.choice import Implementation, platform
from jaxseq.flat import flat_matmul
from jaxseq.lookup import Lookup, checked
from jaxseq.masks import dropout_masks
from jaxseq.recurrence import MERGES, Cell, merge_outputs, scan, state_output

_glorot_uniform = nn.initializers.glorot_uniform()


def keras_embedding(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Keras' embedding initialiser, uniform in (-0.05, 0.05)."""
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


def Dense(features: int, **settings: Any) -> nn.Dense:
    """Flax's `Dense` with Keras' initialiser, Glorot uniform; on a CPU over all of a batch's steps as rows."""
    return nn.Dense(features, **{"kernel_init": _glorot_uniform, "dot_general": _multiply_rows, **settings})


def _multiply_rows(inputs: jax.Array, kernel: jax.Array, dimensions: Any, **settings: Any) -> jax.Array:
    del dimensions  # Dense's: the last of the inputs' and the first of the kernel's
    return flat_matmul(inputs, kernel, **settings)


def Conv1D(features: int, width: int, **settings: Any) -> nn.Conv:
    """Flax's `Conv` over time with Keras' defaults: no padding, Glorot uniform. [B, T, F] to [B, T', features]."""
    defaults = {"padding": "VALID", "kernel_init": _glorot_uniform, "conv_general_dilated": _convolve}
    return nn.Conv(features, (width,), **{**defaults, **settings})


def _convolve(inputs: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **settings: Any) -> jax.Array:
    """`jax.lax.conv_general_dilated` over time, on a CPU as one product whose parts are shifted and added.

    Inside a loop, and every training step runs inside one, XLA's own convolution takes a slow path on a CPU. Forward
    and backward at B64 T500 F128, 32 features, width 7, on 2 cores: 4,673 ms of processor time in a loop (103 outside);
    a product for each step of the kernel 142 ms, windows side by side 148, one product 87. At B128 T240 F14, 32
    features, width 5, on two devices: 14, 8 and 17. Strides and groups are left to XLA.
    """
    [dilation], groups = settings["rhs_dilation"], settings["feature_group_count"]
    width, _, features = kernel.shape
    span = (width - 1) * dilation  # steps from a window's first to its last
    named = isinstance(padding, str)
    [pads] = jax.lax.padtype_to_pads(inputs.shape[1:2], (span + 1,), strides, padding) if named else padding
    plain = (*strides, *settings["lhs_dilation"], groups) == (1, 1, 1) and min(pads) >= 0
    if platform() != "cpu" or not plain or not len(inputs) or inputs.shape[1] + sum(pads) <= span:
        return jax.lax.conv_general_dilated(inputs, kernel, strides, padding, **settings)

    multiply = functools.partial(flat_matmul, precision=settings["precision"])
    inputs = jnp.pad(inputs, ((0, 0), pads, (0, 0)))
    batch, steps, size = inputs.shape
    starts = range(0, span + 1, dilation)
    if size < features:
        # Windows side by side, [B, T', width · F]: narrower than the products below.
        windows = jnp.concatenate([inputs[:, start : start + steps - span] for start in starts], axis=-1)
        return multiply(windows, kernel.reshape(width * size, features))
    # Every step times every step of the kernel, sequences end to end: [B·T, F] by [F, width · features]. What belongs
    # to one window then lies `dilation` rows apart; windows that run over the end of a sequence are dropped.
    rows, windows = inputs.reshape(batch * steps, size), batch * steps - span
    products = multiply(rows, jnp.swapaxes(kernel, 0, 1).reshape(size, width * features))
    parts = jnp.split(products, width, axis=1)
    shifted = [part[start : start + windows] for part, start in zip(parts, starts, strict=True)]
    outputs = jnp.pad(sum(shifted[1:], shifted[0]), ((0, span), (0, 0)))
    return outputs.reshape(batch, steps, features)[:, : steps - span]


class Embed(nn.Embed):
    """Flax's `Embed`, which a recurrent layer can also look up in for itself."""

    def lookup(self, tokens: jax.Array) -> Lookup:
        """What the module would give for tokens int [T, B], float [T, B, F], not looked up yet."""
        dtype = jnp.result_type(self.embedding) if self.dtype is None else self.dtype
        return Lookup(self.embedding.astype(dtype), tokens)


def Embedding(size: int, features: int, **settings: Any) -> Embed:
    """Flax's `Embed` with Keras' initialiser, uniform in (-0.05, 0.05)."""
    return Embed(size, features, **{"embedding_init": keras_embedding, **settings})


class Recurrent(nn.Module):
    """A recurrent layer: any cell over time. Returns `(state, outputs)`, always both.

    >>> state, outputs = jaxseq.Recurrent(jaxseq.LSTM(128))(inputs)       # [B, T, F] -> [B, T, 128]

    Attributes:
      cell: the cell.
      dropout: share of input features dropped in training; needs the rng stream "dropout".
      recurrent_dropout: share of hidden units dropped in the recurrent product in training.
      reverse: run from the last step to the first.
      time_major: inputs, mask, resets and outputs are [T, B, ...] in place of [B, T, ...].
      unroll: as in `jaxseq.scan`.
      remat: as in `jaxseq.scan`.
      implementation: as in `jaxseq.scan`.
    """

    cell: Cell
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reverse: bool = False
    time_major: bool = False
    unroll: int = 1
    remat: bool = False
    implementation: Implementation | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array | Lookup,
        *,
        state: Any = None,
        mask: jax.Array | None = None,
        resets: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Any, Any]:
        """Runs the layer.

        Args:
          inputs: float [B, T, F] ([T, B, F] if `time_major`), or a `Lookup` by indices [B, T] ([T, B]).
          state: what to start from, or None.
          mask: bool [B, T] ([T, B]), True where a step is real, or None.
          resets: bool [B, T] ([T, B]), True where a new sequence starts, or None.
          train: apply dropout.
        Returns:
          (state, outputs [B, T, H] ([T, B, H])).
        Raises:
          ValueError: as in `jaxseq.scan`.
        """
        arguments.cell("cell", self.cell)
        for name in ("dropout", "recurrent_dropout"):
            arguments.rate(name, getattr(self, name))
        for name, value in (("reverse", self.reverse), ("time_major", self.time_major), ("train", train)):
            arguments.flag(name, value)
        inputs = checked("inputs", inputs)
        if len(inputs.shape) != 3:
            raise ValueError(f"inputs must have three axes [B, T, F], got shape {inputs.shape}")
        mask, resets = (
            None if flags is None else check_flags(name, flags, inputs.shape[:2])
            for name, flags in (("mask", mask), ("resets", resets))
        )
        if not self.time_major:
            inputs = inputs.swapaxes(0, 1)
            mask, resets = (None if flags is None else jnp.swapaxes(flags, 0, 1) for flags in (mask, resets))
        params = self.param("cell", self.cell.init, inputs.shape[-1])
        masks = None
        if train and (self.dropout or self.recurrent_dropout):
            masks = dropout_masks(
                self.make_rng("dropout"),
                self.cell,
                inputs.shape[-1],
                inputs.shape[1:-1],
                dropout=self.dropout,
                recurrent_dropout=self.recurrent_dropout,
                dtype=jnp.promote_types(inputs.dtype, jnp.float32),
            )
        state, outputs = scan(
            self.cell,
            params,
            inputs,
            state=state,
            mask=mask,
            resets=resets,
            dropout_masks=masks,
            reverse=self.reverse,
            unroll=self.unroll,
            remat=self.remat,
            implementation=self.implementation,
        )
        if not self.time_major:
            outputs = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), outputs)
        return state, outputs

    def last_output(self, state: Any) -> jax.Array:
        """The output [B, H] that belongs to the final state; call it after the layer."""
        return state_output(self.cell, self.get_variable("params", "cell"), state)


class Bidirectional(nn.Module):
    """Two recurrent layers over the same sequence, one forward and one backward.

    >>> (forward, backward), outputs = jaxseq.Bidirectional(jaxseq.LSTM(32))(inputs)      # outputs [B, T, 64]

    Attributes:
      cell: the forward cell.
      backward_cell: the backward cell; None: the same as `cell`, with parameters of its own.
      merge: of the outputs: "concatenate", "sum", "average", "multiply", or None for both apart.
      dropout: as in `Recurrent`; each direction draws its own masks.
      recurrent_dropout: as in `Recurrent`.
      time_major: as in `Recurrent`.
      unroll: as in `jaxseq.scan`.
      remat: as in `jaxseq.scan`.
      implementation: as in `jaxseq.scan`.
    """

    cell: Cell
    backward_cell: Cell | None = None
    merge: str | None = "concatenate"
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    time_major: bool = False
    unroll: int = 1
    remat: bool = False
    implementation: Implementation | None = None

    def setup(self) -> None:
        """Makes the two layers; raises ValueError where what they are made of is none of it."""
        arguments.cell("cell", self.cell)
        if self.backward_cell is not None:
            arguments.cell("backward_cell", self.backward_cell)
        arguments.one_of("merge", self.merge, MERGES)
        make = functools.partial(
            Recurrent,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            time_major=self.time_major,
            unroll=self.unroll,
            remat=self.remat,
            implementation=self.implementation,
        )
        self.forward = make(self.cell)
        self.backward = make(self.cell if self.backward_cell is None else self.backward_cell, reverse=True)

    def __call__(
        self,
        inputs: jax.Array | Lookup,
        *,
        state: tuple[Any, Any] | None = None,
        mask: jax.Array | None = None,
        resets: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[tuple[Any, Any], Any]:
        """Runs both directions; arguments as in `Recurrent`, states as (forward, backward)."""
        states = (None, None) if state is None else state
        if type(states) is not tuple or len(states) != 2:  # an LSTMState is no pair
            raise ValueError(f"state must be a pair (forward, backward), got {arguments.shown(state)}")
        settings = {"mask": mask, "resets": resets, "train": train}
        forward_state, forward = self.forward(inputs, state=states[0], **settings)
        backward_state, backward = self.backward(inputs, state=states[1], **settings)
        return (forward_state, backward_state), merge_outputs(forward, backward, self.merge)

    def last_output(self, state: tuple[Any, Any]) -> Any:
        """What each direction gave at its own last step, merged: [B, 2H] when concatenated."""
        forward, backward = self.forward.last_output(state[0]), self.backward.last_output(state[1])
        return merge_outputs(forward, backward, self.merge)


class Attention(nn.Module):
    """Attention with parameters of its own: queries read keys, as `jaxseq.attention.attend` does.

    >>> contexts, weights = jaxseq.Attention("additive")(decoder_outputs, encoder_outputs, mask=mask)

    Attributes:
      score: "dot" (no parameters; queries and keys equally wide), "general" or "additive".
      size: A, the width of the additive form; None: that of the keys.
    """

    score: str = "dot"
    size: int | None = None

    @nn.compact
    def __call__(
        self, queries: jax.Array, keys: jax.Array, *, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Reads the keys, each query as its scores say.

        Args:
          queries: float [B, T, Q].
          keys: float [B, S, K], which are the values too.
          mask: bool [B, S], True where a key is real, or None.
        Returns:
          (contexts [B, T, K], weights [B, T, S]); padding has weight zero, a context of no real key is zero.
        Raises:
          ValueError: `score` is none of the three, or the shapes do not match.
        """
        arguments.one_of("score", self.score, attention.SCORES, f"one of {', '.join(attention.SCORES)}")
        arguments.optional_integer("size", self.size, at_least=1)
        arguments.is_array("queries", queries)
        arguments.is_array("keys", keys)
        score: Any = attention.dot_scores
        widths = (queries.shape[-1], keys.shape[-1])
        if self.score == "general":
            score = functools.partial(attention.general_scores, self.param("score", attention.init_general, *widths))
        elif self.score == "additive":
            params = self.param("score", attention.init_additive, *widths, self.size or keys.shape[-1])
            score = functools.partial(attention.additive_scores, params)
        return attention.attend(score, queries, keys, mask=mask)


class AttentionPooling(nn.Module):
    """A sequence's summary: the sum of its steps, each as much as a learned query asks for.

      uₜ = tanh(W hₜ + b)        αₜ = softmaxₜ(q · uₜ)        summary = Σₜ αₜ hₜ

    >>> _, outputs = jaxseq.Recurrent(jaxseq.GRU(32))(inputs, mask=mask)
    >>> summary, weights = jaxseq.AttentionPooling()(outputs, mask=mask)       # [B, T, 32] -> [B, 32], [B, T]

    Attributes:
      size: A, the width of u and q; None: that of the steps.

    Source: Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", NAACL, eq. 5-7.
    """

    size: int | None = None

    @nn.compact
    def __call__(self, outputs: jax.Array, *, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Sums up each sequence.

        Args:
          outputs: float [B, T, H].
          mask: bool [B, T], True where a step is real, or None.
        Returns:
          (summary [B, H], weights [B, T]); padding has weight zero, a sequence of length 0 the summary zero.
        Raises:
          ValueError: `outputs` does not have three axes, or `mask` not their first two.
        """
        arguments.optional_integer("size", self.size, at_least=1)
        arguments.is_array("outputs", outputs)
        if outputs.ndim != 3:
            raise ValueError(f"outputs must have three axes [B, T, H], got shape {outputs.shape}")
        size = self.size or outputs.shape[-1]
        query = self.param("query", nn.initializers.normal(size**-0.5), (1, size))
        key = Dense(size, name="key")

        def score(queries: jax.Array, outputs: jax.Array) -> jax.Array:
            return attention.dot_scores(queries, nn.tanh(key(outputs)))

        queries = jnp.broadcast_to(query, (len(outputs), 1, size))
        summary, weights = attention.attend(score, queries, outputs, mask=mask)
        return summary[:, 0], weights[:, 0]
