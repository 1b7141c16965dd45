"""Flax: the model shapes that people build every day, of `layers`.

Models take batch-major arrays [B, T, ...], as Flax's do, and gather their embedding time-major.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import arguments, attention
from jaxseq.calls import check_flags
from jaxseq.layers import Attention, Bidirectional, Dense, Embedding, Recurrent
from jaxseq.recurrence import Cell


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
            arguments.tokens("inputs", inputs, self.vocabulary_size)
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
        arguments.tokens("source", source, self.source_vocabulary_size)
        arguments.tokens("target", target, self.target_vocabulary_size)

    def encode(self, source: jax.Array) -> Memory:
        """Reads the source [B, S]."""
        arguments.tokens("source", source, self.source_vocabulary_size)
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
        arguments.tokens("target", target, self.target_vocabulary_size)
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
