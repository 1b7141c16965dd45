"""Flax: any cell as a Linen module, and the model shapes that people build every day.

Embedding, dense, convolution, pooling and dropout are Flax's own; `Recurrent` and what wraps it are ours.
Models take batch-major arrays [B, T, ...], as Flax's do, and gather their embedding time-major.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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


class SequenceEncoder(nn.Module):
    """What the models below share: an embedding, or features as they are, and recurrent layers on it.

    Attributes:
      cells: a cell, or several: the layers, the lowest first.
      vocabulary_size: of token inputs; None for inputs that are features [B, T, F].
      embedding_size: E, with `vocabulary_size`.
      padding_index: a token index to mask; None masks nothing (the documents' models never do).
      bidirectional: run every layer in both directions, concatenated.
      dropout: share of each layer's inputs dropped in training; one rate, or one a layer.
      recurrent_dropout: share of each layer's recurrent product dropped; one rate, or one a layer.
    """

    cells: Any
    vocabulary_size: int | None = None
    embedding_size: int | None = None
    padding_index: int | None = None
    bidirectional: bool = False
    dropout: float | Sequence[float] = 0.0
    recurrent_dropout: float | Sequence[float] = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> Any:
        """(last output [B, H], outputs [B, T, H]); arguments as in `encode`."""
        last, outputs, _ = self.encode(inputs, mask=mask, train=train)
        return last, jnp.swapaxes(outputs, 0, 1)

    def encode(
        self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, jax.Array, list[Any]]:
        """Runs embedding and layers.

        Args:
          inputs: tokens int [B, T], or features float [B, T, F].
          mask: bool [B, T], or None; with `padding_index` the padding is masked as well.
          train: apply dropout.
        Returns:
          (last output [B, H], outputs [T, B, H], the layers' final states).
        Raises:
          ValueError: inputs are not of the kind that the settings say, or a token lies outside the vocabulary.
        """
        cells = _layers(self.cells)
        arguments.flag("bidirectional", self.bidirectional)
        for name in ("vocabulary_size", "embedding_size"):
            arguments.optional_integer(name, getattr(self, name), at_least=1)
        arguments.optional_integer("padding_index", self.padding_index)
        if not isinstance(inputs, np.ndarray):  # whose values are known under `jit` too
            inputs = arguments.array("inputs", inputs)
        self.check_inputs(inputs)
        inputs = arguments.array("inputs", inputs)
        if mask is not None:
            mask = check_flags("mask", mask, inputs.shape[:2])
        if self.vocabulary_size is None:
            if self.padding_index is not None:
                raise ValueError("padding_index needs vocabulary_size: features have no padding index")
            outputs: Any = jnp.swapaxes(inputs, 0, 1)
        else:
            if self.embedding_size is None:
                raise ValueError(f"embedding_size must be set with vocabulary_size={self.vocabulary_size}")
            if self.padding_index is not None:
                if self.padding_index >= self.vocabulary_size:
                    raise ValueError(
                        f"padding_index must be below vocabulary_size {self.vocabulary_size}, got {self.padding_index}"
                    )
                real = inputs != self.padding_index
                mask = real if mask is None else mask & real
            outputs = Embedding(self.vocabulary_size, self.embedding_size, name="embedding").lookup(inputs.T)
        rates = _per_layer("dropout", self.dropout, len(cells))
        recurrent_rates = _per_layer("recurrent_dropout", self.recurrent_dropout, len(cells))
        states, last = [], outputs
        for index, cell in enumerate(cells):
            layer = (Bidirectional if self.bidirectional else Recurrent)(
                cell,
                dropout=rates[index],
                recurrent_dropout=recurrent_rates[index],
                time_major=True,
                name=f"layer_{index}",
            )
            state, outputs = layer(outputs, mask=None if mask is None else mask.T, train=train)
            states.append(state)
            last = layer.last_output(state)
        return last, outputs, states

    def check_inputs(self, inputs: jax.Array) -> None:
        """Checks inputs before they are traced, where a token's value is still known; `fit` calls it.

        Raises:
          ValueError: inputs are not of the kind that the settings say, or a token lies outside the vocabulary.
        """
        if self.vocabulary_size is not None:
            check_tokens("inputs", inputs, self.vocabulary_size)
        elif inputs.ndim != 3:
            raise ValueError(
                f"inputs must be features, float [B, T, F], where no vocabulary_size is set, got shape {inputs.shape}"
            )


class SequenceClassifier(SequenceEncoder):
    """One label a sequence: (embedding →) recurrent layers → last output → Dense(classes), logits.

    >>> model = jaxseq.SequenceClassifier(jaxseq.LSTM(32), vocabulary_size=10_000, embedding_size=32, classes=1)
    >>> logits = model.apply(variables, tokens)                                          # [B, T] -> [B, 1]

    Attributes:
      classes: C; 1 for a binary label, whose sigmoid is the probability of class 1.
    """

    classes: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Logits float [B, C]; arguments as in `SequenceEncoder.encode`."""
        arguments.integer("classes", self.classes, at_least=1)
        last, _, _ = self.encode(inputs, mask=mask, train=train)
        return Dense(self.classes, name="head")(last)


class SequenceRegressor(SequenceEncoder):
    """Numbers from a sequence, a forecast: recurrent layers → last output → Dense(outputs).

    Attributes:
      outputs: how many numbers.
    """

    outputs: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Predictions float [B, outputs]; arguments as in `SequenceEncoder.encode`."""
        arguments.integer("outputs", self.outputs, at_least=1)
        last, _, _ = self.encode(inputs, mask=mask, train=train)
        return Dense(self.outputs, name="head")(last)


class SequenceTagger(SequenceEncoder):
    """One label a step: (embedding →) recurrent layers → Dense(classes) on every output, logits.

    Attributes:
      classes: C.
    """

    classes: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Logits float [B, T, C]; arguments as in `SequenceEncoder.encode`."""
        arguments.integer("classes", self.classes, at_least=1)
        _, outputs, _ = self.encode(inputs, mask=mask, train=train)
        return jnp.swapaxes(Dense(self.classes, name="head")(outputs), 0, 1)


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


class Memory(NamedTuple):
    """What an encoder-decoder's decoder goes on from."""

    states: list[Any]  # of the layers: the encoder's last, then the decoder's own
    outputs: jax.Array  # of the encoder, float [B, S, H]
    mask: jax.Array  # True where a source token is real, bool [B, S]


class EncoderDecoder(nn.Module):
    """A sequence in, another out: the decoder starts from the encoder's final state and sees what came before.

    With attention it also reads the encoder's outputs s₁ … at each of its own, hₜ:

      cₜ = Σₛ αₜₛ s̄ₛ with α from score(hₜ, s̄ₛ)        h̃ₜ = tanh(W [cₜ; hₜ])        logits = head(h̃ₜ)

    Only the head sees h̃ₜ (no input feeding, and a query of the same step, not the step before as Bahdanau et al.
    have it), so that the engine runs the decoder over all steps at once.

    Attributes:
      cells: a cell, or several: the layers of both halves, each with parameters of its own.
      source_vocabulary_size: of the sequence read.
      target_vocabulary_size: of the sequence written.
      embedding_size: E, of both.
      padding_index: the source's token that is padding; masked.
      attention: None, or how to score: "dot", "general" or "additive".

    Source: Sutskever, Vinyals & Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; with attention Luong,
      Pham & Manning 2015, arXiv:1508.04025, section 3.1.
    """

    cells: Any
    source_vocabulary_size: int
    target_vocabulary_size: int
    embedding_size: int
    padding_index: int = 0
    attention: str | None = None

    def setup(self) -> None:
        """Makes the layers; raises ValueError where what they are made of is none of it."""
        cells = _layers(self.cells)
        for name in ("source_vocabulary_size", "target_vocabulary_size", "embedding_size"):
            arguments.integer(name, getattr(self, name), at_least=1)
        arguments.integer("padding_index", self.padding_index)
        if self.attention is not None:
            arguments.one_of("attention", self.attention, attention.SCORES, f"None or one of {attention.SCORES}")
        self.source_embedding = Embedding(self.source_vocabulary_size, self.embedding_size)
        self.target_embedding = Embedding(self.target_vocabulary_size, self.embedding_size)
        self.encoder = [Recurrent(cell, time_major=True) for cell in cells]
        self.decoder = [Recurrent(cell, time_major=True) for cell in cells]
        if self.attention is not None:
            self.reader = Attention(self.attention)
            self.combine = Dense(cells[-1].hidden_size, use_bias=False)
        self.head = Dense(self.target_vocabulary_size)

    def __call__(self, source: jax.Array, target: jax.Array, *, train: bool = False) -> jax.Array:
        """Teacher forcing: the logits of each next target token.

        Args:
          source: int [B, S].
          target: int [B, T], starting with the start token; step t sees target[:, : t + 1].
          train: as in the other models; there is no dropout here.
        Returns:
          logits float [B, T, target_vocabulary_size].
        Raises:
          ValueError: a token lies outside its vocabulary, or `attention` is none of the known forms.
        """
        del train
        _, logits = self.decode(self.encode(source), target)
        return logits

    def check_inputs(self, source: jax.Array, target: jax.Array) -> None:
        """Raises ValueError where a token lies outside its vocabulary; `fit` calls it before tracing."""
        check_tokens("source", source, self.source_vocabulary_size)
        check_tokens("target", target, self.target_vocabulary_size)

    def encode(self, source: jax.Array) -> Memory:
        """Reads the source [B, S]."""
        check_tokens("source", source, self.source_vocabulary_size)
        mask = source != self.padding_index
        outputs: Any = self.source_embedding.lookup(source.T)
        states = []
        for layer in self.encoder:
            state, outputs = layer(outputs, mask=mask.T)
            states.append(state)
        return Memory(states, jnp.swapaxes(outputs, 0, 1), mask)

    def decode(self, memory: Memory, target: jax.Array) -> tuple[Memory, jax.Array]:
        """Goes on from `memory` over target tokens [B, T]; (memory, logits [B, T, vocabulary])."""
        states, outputs = self._run_decoder(memory, target)
        if self.attention is not None:
            contexts, _ = self.reader(outputs, memory.outputs, mask=memory.mask)
            outputs = nn.tanh(self.combine(jnp.concatenate([contexts, outputs], axis=-1)))
        return memory._replace(states=states), self.head(outputs)

    def attention_weights(self, source: jax.Array, target: jax.Array) -> jax.Array:
        """How much of each source token each step reads, arguments as in `__call__`: float [B, T, S].

        Raises:
          ValueError: the model has no attention, or a token lies outside its vocabulary.
        """
        if self.attention is None:
            raise ValueError("attention must be set for a model to have attention weights, got None")
        memory = self.encode(source)
        _, outputs = self._run_decoder(memory, target)
        return self.reader(outputs, memory.outputs, mask=memory.mask)[1]

    def _run_decoder(self, memory: Memory, target: jax.Array) -> tuple[list[Any], jax.Array]:
        """The decoder's layers over target tokens [B, T]: (final states, outputs [B, T, H])."""
        check_tokens("target", target, self.target_vocabulary_size)
        outputs: Any = self.target_embedding.lookup(target.T)
        states = []
        for layer, state in zip(self.decoder, memory.states, strict=True):
            end, outputs = layer(outputs, state=state)
            states.append(end)
        return states, jnp.swapaxes(outputs, 0, 1)


def greedy_decode(
    model: nn.Module, variables: Any, source: jax.Array, *, start: int, stop: int, max_steps: int
) -> jax.Array:
    """Writes the likeliest token at each step until `stop`.

    Args:
      model: an `EncoderDecoder`, or any module with its two methods: encode(source) -> memory, a NamedTuple whose
        field `states` is all that changes from step to step, and decode(memory, tokens) -> (memory, logits).
      variables: its parameters, {"params": ...}.
      source: int [B, S], or what else the model reads, B leading.
      start: the token that the decoder starts from.
      stop: the token that ends a sequence.
      max_steps: T, the most tokens written.
    Returns:
      int [B, T], `stop` from a sequence's end on.
    Raises:
      ValueError: `max_steps` is below 1, or a token lies outside its vocabulary.
    """
    arguments.model("model", model)
    arguments.mapping("variables", variables, '{"params": ...}')
    max_steps = arguments.integer("max_steps", max_steps, at_least=1)
    size = getattr(model, "target_vocabulary_size", math.inf)
    for name, token in (("start", start), ("stop", stop)):
        if arguments.integer(name, token) >= size:
            raise ValueError(f"{name} must be a token from 0 to {size - 1}, got {token}")
    source = arguments.array("source", source)
    memory: Any = model.apply(variables, source, method="encode")

    def write(carry: Any, _: None) -> tuple[Any, jax.Array]:
        states, token, ended = carry
        decoded: Any = model.apply(variables, memory._replace(states=states), token[:, None], method="decode")
        after, logits = decoded
        token = jnp.where(ended, stop, jnp.argmax(logits[:, 0], axis=-1).astype(token.dtype))
        return (after.states, token, ended | (token == stop)), token

    tokens = jnp.full(source.shape[:1], start, jnp.int32)
    _, written = jax.lax.scan(write, (memory.states, tokens, tokens != tokens), None, length=max_steps)
    return written.T


def check_tokens(name: str, tokens: Any, vocabulary_size: int) -> None:
    """Raises ValueError unless tokens are int [B, T] and, where their values are known, in the vocabulary."""
    arguments.is_array(name, tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} must be token indices, int [B, T], got {tokens.dtype} {tokens.shape}")
    if isinstance(tokens, Tracer) or not tokens.size:
        return
    values = np.asarray(tokens)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"{name} must be token indices from 0 to {vocabulary_size - 1}, got {low if low < 0 else high}"
        )


def _layers(cells: Any) -> tuple[Cell, ...]:
    """The cells of a model's layers, one or several."""
    several = isinstance(cells, list | tuple) and not hasattr(cells, "_fields")  # a cell may be a NamedTuple
    layers: tuple[Any, ...] = tuple(cells) if several else (cells,)
    if not layers:
        raise ValueError("cells must hold at least one cell, got none")
    for cell in layers:
        arguments.cell("cells", cell)
    return layers


def _per_layer(name: str, rates: float | Sequence[float], layers: int) -> Sequence[float]:
    if not isinstance(rates, (list, tuple)):
        return [arguments.rate(name, rates)] * layers
    if len(rates) != layers:
        raise ValueError(f"{name} must be one rate or one for each of {layers} layers, got {len(rates)}")
    return rates
