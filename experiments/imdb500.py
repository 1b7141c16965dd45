"""IMDB with 500 words and 100 steps: one-hot inputs against an embedding (document 000)."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from experiments import imdb
from experiments.experiment import Data, Experiment, Run, Variant, some, summarize
from jaxseq import arguments
from jaxseq.layers import Dense
from jaxseq.sequences import Side

_DOCUMENT = "000_4f71939621a73aa8.txt"
_VALIDATION = 0.2  # the first of a permutation, as scikit-learn's train_test_split takes them
_NUM_WORDS = 500
_MAXLEN = 100
_BATCH = 64
_EMBEDDING = 16
_NUMBERS = "indices as numbers"


@functools.cache
def _examples(is_synthetic: bool, smoke: bool, truncating: Side, as_numbers: bool) -> list[jaxseq.Examples]:
    """All training reviews and all test reviews, 100 words each; `as_numbers` float32 [N, 100, 1], else int32."""
    read = imdb.reviews(is_synthetic, smoke, _NUM_WORDS)
    parts = []
    for sequences, targets in ((read.train_inputs, read.train_targets), (read.test_inputs, read.test_targets)):
        inputs = jaxseq.pad_sequences(sequences, _MAXLEN, truncating=truncating)
        parts.append(jaxseq.examples(inputs[..., None].astype(np.float32) if as_numbers else inputs, targets))
    return parts


@functools.cache
def _load(is_synthetic: bool, smoke: bool, truncating: Side = "pre", as_numbers: bool = False) -> Data:
    whole, test = _examples(is_synthetic, smoke, truncating, as_numbers)
    order = np.random.RandomState(42).permutation(len(whole.rows)).astype(np.int32)
    held_out = int(len(order) * _VALIDATION)
    return Data(
        train=some(whole._replace(rows=order[held_out:]), smoke),
        validation=some(whole._replace(rows=order[:held_out]), smoke),
        test=some(test, smoke),
        source=imdb.reviews(is_synthetic, smoke, _NUM_WORDS).source.as_dict(),
        encoding=imdb.encoding(is_synthetic, _NUM_WORDS, _MAXLEN, truncating=truncating),
    )


# One-hot without the array


@dataclasses.dataclass(frozen=True)
class Driven:
    """A cell whose inputs are drives: what `cell.project` made of inputs of `input_size` before the engine got them."""

    cell: Any
    input_size: int

    @property
    def hidden_size(self) -> int:
        """H of the cell."""
        return self.cell.hidden_size

    @property
    def dtype(self) -> Any:
        """What the cell computes in."""
        return getattr(self.cell, "dtype", None)

    def init(self, key: jax.Array, input_size: int) -> Any:
        """The cell's parameters, whatever the width of the drives."""
        return self.cell.init(key, self.input_size)

    def initial_state(self, params: Any, batch_shape: tuple[int, ...]) -> Any:
        """The cell's."""
        return self.cell.initial_state(params, batch_shape)

    def project(self, params: Any, inputs: jax.Array, masks: Any) -> jax.Array:
        """The inputs as they are."""
        return inputs

    def step(self, params: Any, state: Any, drive: jax.Array, masks: Any) -> tuple[Any, Any]:
        """The cell's."""
        return self.cell.step(params, state, drive, masks)


class OneHotClassifier(nn.Module):
    """One-hot words → cell → Dense(1), the logit; the one-hot array is never made.

    The product of a one-hot row and a matrix is a row of the matrix. So the projection of the identity is a table of
    all drives there are, [V, G·H], and the drives of a text are rows of it.

    Attributes:
      cell: any cell.
      vocabulary_size: V.
    """

    cell: Any
    vocabulary_size: int

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float [B, 1] of tokens int [B, T]."""
        params = self.param("cell", self.cell.init, self.vocabulary_size)
        state, _ = jaxseq.scan(Driven(self.cell, self.vocabulary_size), params, self.drives(params, inputs))
        return Dense(1, name="head")(jaxseq.state_output(self.cell, params, state))

    def drives(self, params: Any, inputs: jax.Array) -> jax.Array:
        """What the cell is driven with at each step: tokens int [B, T] to float [T, B, G·H]."""
        table = self.cell.project(params, jnp.eye(self.vocabulary_size), None)
        return table[inputs.T]

    def check_inputs(self, inputs: jax.Array) -> None:
        """Raises ValueError where a token lies outside the vocabulary; `fit` calls it before tracing."""
        arguments.tokens("inputs", inputs, self.vocabulary_size)


# Studies


def _study_onehot(run: Run) -> dict[str, Any]:
    figures, sizes = _sizes(run)
    figures |= _working_memory(run) | _activations(run) | imdb.accuracies(run)
    figures |= imdb.review_lengths(run, _NUM_WORDS, _MAXLEN)
    return {"figures": figures, "tables": {"bytes of the training input": sizes}}


def _study_embedding(run: Run) -> dict[str, Any]:
    figures, sizes = _sizes(run)
    return {"figures": figures | imdb.accuracies(run), "tables": {"bytes of the training input": sizes}}


def _sizes(run: Run) -> tuple[dict[str, Any], list[list[Any]]]:
    """Bytes of the training reviews in each form: counted, for the one-hot array is not made."""
    indices = len(run.data.train.rows) * _MAXLEN
    number = np.dtype(np.float32).itemsize
    sizes = {
        "indices, int32": indices * np.dtype(np.int32).itemsize,
        "one-hot array, float32": indices * _NUM_WORDS * number,
        "embedded, float32": indices * _EMBEDDING * number,
    }
    least = sizes["indices, int32"]
    figures: dict[str, Any] = {f"bytes, {name}": size for name, size in sizes.items()}
    figures["one-hot bytes over those of the indices"] = sizes["one-hot array, float32"] / least
    figures["one-hot bytes over embedded ones"] = sizes["one-hot array, float32"] / sizes["embedded, float32"]
    figures["bytes, embedding matrix"] = _NUM_WORDS * _EMBEDDING * number
    return figures, [["form", "bytes", "times the indices"], *([name, n, n / least] for name, n in sizes.items())]


def _working_memory(run: Run) -> dict[str, Any]:
    """Bytes that one gradient of a batch needs beside its arguments, compiled: by lookup, and with the array."""
    model = run.trained[0].variant.model
    tokens = jax.ShapeDtypeStruct((_BATCH, _MAXLEN), np.int32)
    params = jax.eval_shape(lambda: imdb.initial_params(run.trained[0], 0))

    def by_lookup(params: Any, tokens: jax.Array) -> jax.Array:
        return model.apply({"params": params}, tokens).sum()

    def with_array(params: Any, tokens: jax.Array) -> jax.Array:
        state, _ = jaxseq.scan(model.cell, params["cell"], jax.nn.one_hot(tokens.T, _NUM_WORDS))
        return (state.hidden @ params["head"]["kernel"] + params["head"]["bias"]).sum()

    figures = {}
    for name, loss in (("lookup", by_lookup), ("one-hot array", with_array)):
        memory = jax.jit(jax.grad(loss)).lower(params, tokens).compile().memory_analysis()
        assert memory is not None
        figures[f"bytes of work for the gradient of a batch, {name}"] = memory.temp_size_in_bytes
    return figures


def _activations(run: Run) -> dict[str, Any]:
    """How far the first layer is driven before any training: by one-hot words, and by their indices as numbers."""
    one_hot, numbers = run.trained[0], run.variant(_NUMBERS)
    model, cell = one_hot.variant.model, one_hot.variant.model.cell
    tokens, _ = imdb.gathered(one_hot.data.validation, 1000)

    def of_words(seed: int) -> tuple[Any, jax.Array]:
        params = imdb.initial_params(one_hot, seed)["cell"]
        return params, model.drives(params, tokens)

    def of_numbers(seed: int) -> tuple[Any, jax.Array]:
        params = imdb.initial_params(numbers, seed)["layer_0"]["cell"]
        return params, cell.project(params, jnp.asarray(tokens.T[..., None], jnp.float32), None)

    figures = {}
    for name, driven in (("one-hot", of_words), (_NUMBERS, of_numbers)):
        sizes, saturated = [], []
        for seed in one_hot.result["seeds"]:
            params, drives = driven(seed)
            _, outputs = jaxseq.scan(Driven(cell, params.w_input.shape[0]), params, drives)
            before = jnp.concatenate([jnp.zeros_like(outputs[:1]), outputs[:-1]])
            sizes.append(float(jnp.abs(drives + before @ params.w_hidden).mean()))
            saturated.append(float((jnp.abs(outputs) > 0.99).mean()))
        figures[f"mean |pre-activation| at initialisation, {name}"] = summarize(sizes)
        figures[f"share of outputs beyond ±0.99 at initialisation, {name}"] = summarize(saturated)
    return figures


# Models


def _classifier(model: Any, parameters: int | None, *, label: str = "", smoke: bool = True, **load: Any) -> Variant:
    """RMSprop at 1e-4, batches of 64, until the validation loss has not improved for three epochs."""
    return Variant(
        load=functools.partial(_load, **load),
        model=model,
        loss=jaxseq.losses.binary_cross_entropy,
        metrics={"accuracy": jaxseq.losses.binary_accuracy},
        optimizer=jaxseq.rmsprop(1e-4),
        epochs=100,
        batch_size=_BATCH,
        parameters=parameters,
        patience=3,
        label=label,
        smoke=smoke,
    )


_ONE_HOT = OneHotClassifier(jaxseq.SimpleRNN(8), _NUM_WORDS)
_EMBEDDED = jaxseq.SequenceClassifier(jaxseq.SimpleRNN(8), vocabulary_size=_NUM_WORDS, embedding_size=_EMBEDDING)

EXPERIMENTS = [
    Experiment(
        name="imdb500_onehot_rnn",
        document=_DOCUMENT,
        title="reviews of 100 words: one-hot (100, 500) → SimpleRNN(8) → Dense(1)",
        documented="no figure; the input is about 500 times as large as the indices",
        variants=(
            _classifier(_ONE_HOT, 4_081),
            _classifier(_ONE_HOT, 4_081, truncating="post", label="first 100 words", smoke=False),
            _classifier(jaxseq.SequenceClassifier(jaxseq.SimpleRNN(8)), None, as_numbers=True, label=_NUMBERS),
        ),
        study=_study_onehot,
        predict=imdb.predict_sentiment,
        predicts=imdb.PREDICTS,
    ),
    Experiment(
        name="imdb500_embedding_rnn",
        document=_DOCUMENT,
        title="reviews of 100 words: Embedding(500, 16) → SimpleRNN(8) → Dense(1)",
        documented="no figure; often better than one-hot, and far smaller",
        variants=(
            _classifier(_EMBEDDED, 8_209),
            _classifier(_EMBEDDED, 8_209, truncating="post", label="first 100 words", smoke=False),
        ),
        study=_study_embedding,
        predict=imdb.predict_sentiment,
        predicts=imdb.PREDICTS,
    ),
]
