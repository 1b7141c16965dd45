"""Flax: any cell as a Linen module, and the model shapes that people build every day.

Embedding, dense, convolution, pooling and dropout are Flax's own; `Recurrent` and what wraps it are ours.
Models take batch-major arrays [B, T, ...], as Flax's do, and gather their embedding time-major.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxseq.masks import dropout_masks
from jaxseq.recurrence import Cell, Implementation, merge_outputs, scan, state_output

_glorot_uniform = nn.initializers.glorot_uniform()


def keras_embedding(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Keras' embedding initialiser, uniform in (-0.05, 0.05)."""
    return jax.random.uniform(key, shape, dtype, -0.05, 0.05)


def Dense(features: int, **settings: Any) -> nn.Dense:
    """Flax's `Dense` with Keras' initialiser, Glorot uniform."""
    return nn.Dense(features, **{"kernel_init": _glorot_uniform, **settings})


def Conv1D(features: int, width: int, **settings: Any) -> nn.Conv:
    """Flax's `Conv` over time with Keras' defaults: no padding, Glorot uniform. [B, T, F] to [B, T', features]."""
    return nn.Conv(features, (width,), **{"padding": "VALID", "kernel_init": _glorot_uniform, **settings})


def Embedding(size: int, features: int, **settings: Any) -> nn.Embed:
    """Flax's `Embed` with Keras' initialiser, uniform in (-0.05, 0.05)."""
    return nn.Embed(size, features, **{"embedding_init": keras_embedding, **settings})


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
      implementation: as in `jaxseq.scan`.
    """

    cell: Cell
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    reverse: bool = False
    time_major: bool = False
    unroll: int = 1
    implementation: Implementation | None = None

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        *,
        state: Any = None,
        mask: jax.Array | None = None,
        resets: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[Any, Any]:
        """Runs the layer.

        Args:
          inputs: float [B, T, F] ([T, B, F] if `time_major`).
          state: what to start from, or None.
          mask: bool [B, T] ([T, B]), True where a step is real, or None.
          resets: bool [B, T] ([T, B]), True where a new sequence starts, or None.
          train: apply dropout.
        Returns:
          (state, outputs [B, T, H] ([T, B, H])).
        Raises:
          ValueError: as in `jaxseq.scan`.
        """
        if inputs.ndim != 3:
            raise ValueError(f"inputs must have three axes [B, T, F], got shape {inputs.shape}")
        if not self.time_major:
            inputs = jnp.swapaxes(inputs, 0, 1)
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
                dtype=inputs.dtype,
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
      implementation: as in `jaxseq.scan`.
    """

    cell: Cell
    backward_cell: Cell | None = None
    merge: str | None = "concatenate"
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    time_major: bool = False
    unroll: int = 1
    implementation: Implementation | None = None

    def setup(self) -> None:
        """Makes the two layers."""
        make = functools.partial(
            Recurrent,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            time_major=self.time_major,
            unroll=self.unroll,
            implementation=self.implementation,
        )
        self.forward = make(self.cell)
        self.backward = make(self.backward_cell or self.cell, reverse=True)

    def __call__(
        self,
        inputs: jax.Array,
        *,
        state: tuple[Any, Any] | None = None,
        mask: jax.Array | None = None,
        resets: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[tuple[Any, Any], Any]:
        """Runs both directions; arguments as in `Recurrent`, states as (forward, backward)."""
        states = (None, None) if state is None else state
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
        cells = tuple(self.cells) if isinstance(self.cells, (list, tuple)) else (self.cells,)
        if not cells:
            raise ValueError("cells must hold at least one cell, got none")
        inputs = jnp.asarray(inputs)
        self.check_inputs(inputs)
        if self.vocabulary_size is None:
            if self.padding_index is not None:
                raise ValueError("padding_index needs vocabulary_size: features have no padding index")
            outputs = jnp.swapaxes(inputs, 0, 1)
        else:
            if self.embedding_size is None:
                raise ValueError(f"embedding_size must be set with vocabulary_size={self.vocabulary_size}")
            if self.padding_index is not None:
                real = inputs != self.padding_index
                mask = real if mask is None else mask & real
            outputs = Embedding(self.vocabulary_size, self.embedding_size, name="embedding")(inputs.T)
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
            check_tokens(inputs, self.vocabulary_size)
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
        _, outputs, _ = self.encode(inputs, mask=mask, train=train)
        return jnp.swapaxes(Dense(self.classes, name="head")(outputs), 0, 1)


class EncoderDecoder(nn.Module):
    """A sequence in, another out: the decoder starts from the encoder's final state and sees what came before.

    Attributes:
      cells: a cell, or several: the layers of both halves, each with parameters of its own.
      source_vocabulary_size: of the sequence read.
      target_vocabulary_size: of the sequence written.
      embedding_size: E, of both.
      padding_index: the source's token that is padding; masked.

    Source: Sutskever, Vinyals & Le 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078.
    """

    cells: Any
    source_vocabulary_size: int
    target_vocabulary_size: int
    embedding_size: int
    padding_index: int = 0

    def setup(self) -> None:
        """Makes the layers."""
        cells = tuple(self.cells) if isinstance(self.cells, (list, tuple)) else (self.cells,)
        self.source_embedding = Embedding(self.source_vocabulary_size, self.embedding_size)
        self.target_embedding = Embedding(self.target_vocabulary_size, self.embedding_size)
        self.encoder = [Recurrent(cell, time_major=True) for cell in cells]
        self.decoder = [Recurrent(cell, time_major=True) for cell in cells]
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
          ValueError: a token lies outside its vocabulary.
        """
        del train
        _, logits = self.decode(self.encode(source), target)
        return logits

    def check_inputs(self, source: jax.Array, target: jax.Array) -> None:
        """Raises ValueError where a token lies outside its vocabulary; `fit` calls it before tracing."""
        check_tokens(source, self.source_vocabulary_size)
        check_tokens(target, self.target_vocabulary_size)

    def encode(self, source: jax.Array) -> list[Any]:
        """Reads the source [B, S]; the layers' final states."""
        check_tokens(source, self.source_vocabulary_size)
        mask = (source != self.padding_index).T
        outputs, states = self.source_embedding(source.T), []
        for layer in self.encoder:
            state, outputs = layer(outputs, mask=mask)
            states.append(state)
        return states

    def decode(self, states: list[Any], target: jax.Array) -> tuple[list[Any], jax.Array]:
        """Goes on from `states` over target tokens [B, T]; (states, logits [B, T, vocabulary])."""
        check_tokens(target, self.target_vocabulary_size)
        outputs, ends = self.target_embedding(target.T), []
        for layer, state in zip(self.decoder, states, strict=True):
            end, outputs = layer(outputs, state=state)
            ends.append(end)
        return ends, jnp.swapaxes(self.head(outputs), 0, 1)


def greedy_decode(
    model: EncoderDecoder, variables: Any, source: jax.Array, *, start: int, stop: int, max_steps: int
) -> jax.Array:
    """Writes the likeliest token at each step until `stop`.

    Args:
      model: an encoder-decoder.
      variables: its parameters, {"params": ...}.
      source: int [B, S].
      start: the token that the decoder starts from.
      stop: the token that ends a sequence.
      max_steps: T, the most tokens written.
    Returns:
      int [B, T], `stop` from a sequence's end on.
    Raises:
      ValueError: `max_steps` is below 1, or a token lies outside its vocabulary.
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    states = model.apply(variables, source, method="encode")

    def write(carry: Any, _: None) -> tuple[Any, jax.Array]:
        states, token, ended = carry
        decoded: Any = model.apply(variables, states, token[:, None], method="decode")
        states, logits = decoded
        token = jnp.where(ended, stop, jnp.argmax(logits[:, 0], axis=-1).astype(token.dtype))
        return (states, token, ended | (token == stop)), token

    tokens = jnp.full(source.shape[:1], start, jnp.int32)
    _, written = jax.lax.scan(write, (states, tokens, tokens != tokens), None, length=max_steps)
    return written.T


def check_tokens(tokens: Any, vocabulary_size: int) -> None:
    """Raises ValueError unless tokens are int [B, T] and, where their values are known, in the vocabulary."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"inputs must be token indices, int [B, T], got {tokens.dtype} {tokens.shape}")
    if isinstance(tokens, Tracer) or not tokens.size:
        return
    values = np.asarray(tokens)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"inputs must be token indices from 0 to {vocabulary_size - 1}, got {low if low < 0 else high}"
        )


def _per_layer(name: str, rates: float | Sequence[float], layers: int) -> Sequence[float]:
    if isinstance(rates, (int, float)):
        return [rates] * layers
    if len(rates) != layers:
        raise ValueError(f"{name} must be one rate or one for each of {layers} layers, got {len(rates)}")
    return rates
