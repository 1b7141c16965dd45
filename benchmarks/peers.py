"""The peers: one recurrent network in every library, with the same weights, inputs, lengths and dropout masks.

A `Peer` is a table: what it cannot do and why, how its weights are written, and its layer as its documentation has it,
in the layout that spares it transposes. This file is the only one that imports the peers, and only when asked to.

What is compared is brought to one layout, jaxseq's: see `standard`. Biases that add up count as one.

Axis letters: T time, B batch, F input features, H hidden, G gates, D = H or, in both directions, 2H.
"""

import dataclasses
import importlib
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from benchmarks import measuring
from jaxseq import conversions, environment
from jaxseq.recurrence import state_output

OURS = "jaxseq"
OPTIONS = ("plain", "lengths", "dropout")
_RATE = 0.2  # of what is dropped, of the inputs and of the recurrent product


# (weights, inputs, lengths, dropout masks) -> (final hidden state [B, D], outputs), of one layer
Run = Callable[[Any, jax.Array, Any, Any], tuple[jax.Array, jax.Array]]


class Missing(Exception):
    """A peer that is not installed, or not so that it can be compared; the message says what to do."""


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
      batch_major: sequences are [B, T, F] in place of [T, B, F].
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
    batch_major: bool = False

    def reason(self, work: Work) -> str:
        """Why it cannot do this work; empty where it can."""
        return self.cannot.get(work.cell) or self.cannot.get(work.option) or ""


def draw(work: Work, *, seed: int = 0) -> Data:
    """Draws weights and data of a piece of work.

    Biases are random, or nobody would see a peer's swapped. The second bias of the GRU that resets after the product is
    zero, as at the start of a training: Flax Linen, Equinox and PyTorch have it, the first two in part, Flax NNX not.
    """
    normal = np.random.default_rng(seed).standard_normal
    key = jax.random.key(seed)
    rate = _RATE if work.option == "dropout" else 0.0
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


def load(name: str) -> Any:
    """Imports a peer.

    Args:
      name: of PEERS.
    Returns:
      The module.
    Raises:
      Missing: it is not installed, or not so that it can be compared.
    """
    peer = PEERS[name]
    if name == "keras":
        os.environ["KERAS_BACKEND"] = "jax"  # read when it is imported for the first time
    try:
        module = importlib.import_module(peer.module)
    except ImportError as error:
        raise Missing(f"not installed ({error}): pip install {peer.package}, or jaxseq[{peer.extra}]") from None
    if name == "keras" and module.config.backend() != "jax":
        raise Missing(f"already imported with its backend {module.config.backend()}: set KERAS_BACKEND=jax")
    if name == "pytorch":
        if jax.default_backend() == "gpu" and not module.cuda.is_available():
            raise Missing("this PyTorch finds no GPU: pip install its build for CUDA")
        module.set_num_threads(environment.cores())
    return module


def version(name: str) -> str:
    """The version of an installed peer."""
    return metadata.version(PEERS[name].package)


# jaxseq


def _own(cell: Any, params: Any) -> Any:
    del cell
    return params


def _jaxseq_gradients(cell: Any, params: Any) -> dict[str, np.ndarray]:
    del cell
    w_input, w_hidden, bias, *second = params
    return standard(w_input, w_hidden, bias, np.split(np.asarray(second[0]), 3)[2] if second else None)


def _jaxseq_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    cell = measuring.CELLS[work.cell](hidden)

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        real = None if lengths is None else jaxseq.length_mask(lengths, len(inputs))
        state, outputs = jaxseq.scan(cell, params, inputs, mask=real, dropout_masks=masks, reverse=reverse)
        return state_output(cell, params, state), outputs

    return run


def _jaxseq_both(work: Work, features: int, hidden: int) -> Run:
    del features
    cell = measuring.CELLS[work.cell](hidden)

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        real = None if lengths is None else jaxseq.length_mask(lengths, len(inputs))
        states, outputs = jaxseq.bidirectional(cell, params, inputs, mask=real, dropout_masks=masks)
        finals = [state_output(cell, own, state) for own, state in zip(params, states, strict=True)]
        return jnp.concatenate(finals, axis=-1), outputs

    return run


# A plain scan, written by hand: the textbook's equations, autodiff's derivative, nothing else.


def _product(values: jax.Array, weights: jax.Array, masks: jax.Array | None) -> jax.Array:
    """One product for all gates; with masks [G, B, n] one for each."""
    if masks is None:
        return values @ weights
    parts = jnp.split(weights, len(masks), axis=-1)
    return jnp.concatenate([(values * mask) @ part for mask, part in zip(masks, parts, strict=True)], axis=-1)


def _simple_rnn_by_hand(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    return (jnp.tanh(_product(x, params.w_input, of_inputs) + _product(h, params.w_hidden, of_state) + params.bias),)


def _lstm_by_hand(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    (h, c), (of_inputs, of_state) = state, masks
    gates = _product(x, params.w_input, of_inputs) + _product(h, params.w_hidden, of_state) + params.bias
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru_by_hand(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    of_gates, of_candidate = (None, None) if of_state is None else (of_state[:2], of_state[2:])
    u_gates, u_candidate = jnp.split(params.w_hidden, [2 * h.shape[-1]], axis=-1)
    r_x, z_x, n_x = jnp.split(_product(x, params.w_input, of_inputs) + params.bias, 3, axis=-1)
    r_h, z_h = jnp.split(_product(h, u_gates, of_gates), 2, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + _product(r * h, u_candidate, of_candidate))
    return (z * h + (1 - z) * n,)


def _gru_reset_after_by_hand(params: Any, state: Any, x: jax.Array, masks: Any) -> Any:
    [h], (of_inputs, of_state) = state, masks
    r_x, z_x, n_x = jnp.split(_product(x, params.w_input, of_inputs) + params.bias_input, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(_product(h, params.w_hidden, of_state) + params.bias_hidden, 3, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    return (z * h + (1 - z) * jnp.tanh(n_x + r * n_h),)


_BY_HAND = {
    "simple_rnn": _simple_rnn_by_hand,
    "lstm": _lstm_by_hand,
    "gru": _gru_by_hand,
    "gru_reset_after": _gru_reset_after_by_hand,
}


def _by_hand_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    step = _BY_HAND[work.cell]

    def run(params: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        masks = (None, None) if masks is None else masks
        real = None if lengths is None else jnp.arange(len(inputs))[:, None] < lengths

        def body(state: Any, now: Any) -> Any:
            x, real = now
            new = step(params, state, x, masks)
            if real is None:
                return new, new[0]
            held = tuple(jnp.where(real[:, None], after, before) for after, before in zip(new, state, strict=True))
            return held, jnp.where(real[:, None], new[0], 0)

        zeros = jnp.zeros((inputs.shape[1], hidden))
        start = (zeros, zeros) if work.cell == "lstm" else (zeros,)
        state, outputs = jax.lax.scan(body, start, (inputs, real), reverse=reverse)
        return state[0], outputs

    return run


# Flax Linen: a kernel for each gate, named by its letter

_FLAX_CELLS = {"simple_rnn": "SimpleCell", "lstm": "OptimizedLSTMCell", "gru_reset_after": "GRUCell"}
_LETTERS = {1: ("",), 3: ("r", "z", "n"), 4: ("i", "f", "g", "o")}  # by the number of gates


def _linen_weights(cell: Any, params: Any) -> Any:
    w_input, w_hidden, bias, *second = params
    letters, biased = _LETTERS[cell.gates], "h" if cell.gates == 4 else "i"
    tree: dict[str, dict[str, Any]] = {}
    for part, weights in (("i", w_input), ("h", w_hidden)):
        for letter, kernel in zip(letters, np.split(weights, cell.gates, axis=-1), strict=True):
            tree[part + letter] = {"kernel": kernel}
    for letter, values in zip(letters, np.split(bias, cell.gates), strict=True):
        tree[biased + letter]["bias"] = values
    if second:
        tree["hn"]["bias"] = np.split(second[0], 3)[2]
    return tree


def _linen_gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    letters, biased = _LETTERS[cell.gates], "h" if cell.gates == 4 else "i"
    w_input, w_hidden = (
        np.concatenate([tree[part + letter]["kernel"] for letter in letters], axis=-1) for part in "ih"
    )
    bias = np.concatenate([tree[biased + letter]["bias"] for letter in letters])
    return standard(w_input, w_hidden, bias, tree["hn"]["bias"] if cell.gates == 3 else None)


def _linen_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    linen = load("flax_linen")
    cell = getattr(linen, _FLAX_CELLS[work.cell])(hidden)
    layer = linen.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del masks
        carry, outputs = layer.apply({"params": {"cell": weights}}, inputs, seq_lengths=lengths)
        return carry[1] if work.cell == "lstm" else carry, outputs

    return run


# Flax NNX: jaxseq's order of gates


def _nnx_weights(cell: Any, params: Any) -> Any:
    w_input, w_hidden, bias, *_ = params
    tree = {"dense_i": {"kernel": w_input}, "dense_h": {"kernel": w_hidden}}
    tree["dense_h" if cell.gates == 4 else "dense_i"]["bias"] = bias
    return tree


def _nnx_gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    bias = tree["dense_h" if cell.gates == 4 else "dense_i"]["bias"]
    return standard(tree["dense_i"]["kernel"], tree["dense_h"]["kernel"], bias)


def _nnx_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    nnx = load("flax_nnx")
    cell = getattr(nnx, _FLAX_CELLS[work.cell])(features, hidden, rngs=nnx.Rngs(0))
    layer = nnx.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
    graph, state, others = nnx.split(layer, nnx.Param, ...)

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del masks
        own = jax.tree.map(lambda leaf: leaf, state)  # a copy, to be written to
        nnx.replace_by_pure_dict(own, {"cell": weights})
        carry, outputs = nnx.merge(graph, own, others, copy=True)(inputs, seq_lengths=lengths)
        return carry[1] if work.cell == "lstm" else carry, outputs

    return run


# Keras


def _keras_gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    return _jaxseq_gradients(cell, conversions.from_keras(cell, weights))


def keras_layer(cell: str, hidden: int, **settings: Any) -> Any:
    """The Keras layer of a cell of measuring.CELLS, not built; `settings` are Keras' own."""
    layers = load("keras").layers
    if cell in ("gru", "gru_reset_after"):
        return layers.GRU(hidden, reset_after=cell == "gru_reset_after", **settings)
    return {"simple_rnn": layers.SimpleRNN, "lstm": layers.LSTM}[cell](hidden, **settings)


def _keras_run(layer: Any, work: Work, features: int, cells: Callable[[], list[Any]]) -> Callable[..., Any]:
    """Builds a layer: (weights, inputs, lengths, masks of each of its cells) -> [outputs, *states]."""
    layer.build((None, None, features))
    others = [variable.value for variable in layer.non_trainable_variables]

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> Any:
        real = None if lengths is None else jnp.arange(inputs.shape[1]) < lengths[:, None]
        if work.option == "dropout":  # these masks in place of those that it would draw, once for a call
            for cell, (of_inputs, of_state) in zip(cells(), masks, strict=True):
                cell._dropout_mask = _keras_masks(work, of_inputs)
                cell._recurrent_dropout_mask = _keras_masks(work, of_state)
        results, _ = layer.stateless_call(weights, others, inputs, mask=real, training=work.option == "dropout")
        return results

    return run


def _keras_masks(work: Work, masks: jax.Array) -> Any:
    """Masks [G, B, n] in Keras' order of gates; of its SimpleRNN only one."""
    if work.cell == "simple_rnn":
        return masks[0]
    return [masks[gate] for gate in ((0, 1, 2, 3) if work.cell == "lstm" else (1, 0, 2))]


def _keras_settings(work: Work) -> dict[str, Any]:
    rate = _RATE if work.option == "dropout" else 0.0
    return {"dropout": rate, "recurrent_dropout": rate, "return_sequences": True, "return_state": True}


def _keras_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    layer = keras_layer(work.cell, hidden, go_backwards=reverse, **_keras_settings(work))
    call = _keras_run(layer, work, features, lambda: [layer.cell])

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        outputs, final, *_ = call(weights, inputs, lengths, [masks])
        return final, jnp.flip(outputs, axis=1) if reverse else outputs

    return run


def _keras_both(work: Work, features: int, hidden: int) -> Run:
    layer = load("keras").layers.Bidirectional(keras_layer(work.cell, hidden, **_keras_settings(work)))
    call = _keras_run(layer, work, features, lambda: [layer.forward_layer.cell, layer.backward_layer.cell])

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        outputs, *states = call([*weights[0], *weights[1]], inputs, lengths, masks)
        finals = [states[0], states[len(states) // 2]]  # h of one direction, then h of the other
        return jnp.concatenate(finals, axis=-1), outputs

    return run


# Haiku


def _haiku_weights(cell: Any, params: Any) -> Any:
    if cell.gates == 3:  # order z r n, and z is one minus jaxseq's: σ(−a) = 1 − σ(a)
        r_z_n = (np.split(leaf, 3, axis=-1) for leaf in params)
        return {
            "gru": dict(
                zip(("w_i", "w_h", "b"), (np.concatenate([-z, r, n], axis=-1) for r, z, n in r_z_n), strict=True)
            )
        }
    w = np.concatenate([params.w_input, params.w_hidden])  # it multiplies x and h side by side
    b = params.bias - np.repeat(
        np.array([0, 1, 0, 0], np.float32), cell.hidden_size
    )  # it adds 1 to the forget gate itself
    return {"lstm/linear": {"w": _swap_middle(w), "b": _swap_middle(b)}}


def _haiku_gradients(cell: Any, tree: Any) -> dict[str, np.ndarray]:
    if cell.gates == 3:
        parts = (np.split(np.asarray(tree["gru"][name]), 3, axis=-1) for name in ("w_i", "w_h", "b"))
        return standard(*(np.concatenate([r, -z, n], axis=-1) for z, r, n in parts))
    w, b = (_swap_middle(np.asarray(tree["lstm/linear"][name])) for name in ("w", "b"))
    return standard(w[: -cell.hidden_size], w[-cell.hidden_size :], b)


def _swap_middle(gates: np.ndarray) -> np.ndarray:
    """Jaxseq's i f g o as Haiku's i g f o, and back."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)


def _haiku_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    haiku = load("haiku")

    def unroll(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        core = haiku.LSTM(hidden) if work.cell == "lstm" else haiku.GRU(hidden)
        outputs, state = haiku.dynamic_unroll(core, inputs, core.initial_state(inputs.shape[1]), reverse=reverse)
        return state.hidden if work.cell == "lstm" else state, outputs

    transformed = haiku.without_apply_rng(haiku.transform(unroll))

    def run(weights: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del lengths, masks
        return transformed.apply(weights, inputs)

    return run


# Equinox: its cells are their own weights, transposed


def _equinox_weights(cell: Any, params: Any) -> Any:
    equinox = load("equinox")
    make = equinox.nn.LSTMCell if cell.gates == 4 else equinox.nn.GRUCell
    w_input, w_hidden, *biases = params
    leaves = [w_input.T, w_hidden.T, biases[0]]
    if cell.gates == 3:
        leaves.append(np.split(biases[1], 3)[2])
    empty = make(len(w_input), cell.hidden_size, key=jax.random.key(0))
    return equinox.tree_at(_equinox_leaves, empty, leaves)


def _equinox_leaves(cell: Any) -> list[Any]:
    return [cell.weight_ih, cell.weight_hh, cell.bias, *([cell.bias_n] if hasattr(cell, "bias_n") else [])]


def _equinox_gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    del cell
    w_input, w_hidden, *biases = map(np.asarray, _equinox_leaves(weights))
    return standard(w_input.T, w_hidden.T, *biases)


def _equinox_layer(work: Work, features: int, hidden: int, reverse: bool) -> Run:
    del features
    lstm = work.cell == "lstm"

    def run(cell: Any, inputs: jax.Array, lengths: Any, masks: Any) -> tuple[jax.Array, jax.Array]:
        del lengths, masks

        def one_sequence(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
                state = cell(x, state)
                return state, state[0] if lstm else state

            zeros = jnp.zeros(hidden)
            state, outputs = jax.lax.scan(step, (zeros, zeros) if lstm else zeros, inputs, reverse=reverse)
            return state[0] if lstm else state, outputs

        return jax.vmap(one_sequence, in_axes=1, out_axes=(0, 1))(inputs)

    return run


# PyTorch: not JAX; `comparison` runs its modules


def _torch_gradients(cell: Any, weights: Any) -> dict[str, np.ndarray]:
    w_input, w_hidden, bias, second = weights  # in the order of conversions.TORCH_WEIGHTS
    candidate = np.split(second, 3)[2] if cell.gates == 3 else None  # the others only repeat `bias`
    return standard(w_input.T, w_hidden.T, bias, candidate)


def _torch_weights(cell: Any, params: Any) -> Any:
    return list(conversions.to_torch(cell, params).values())


def torch_layer(cell: str, features: int, hidden: int, *, bidirectional: bool = False) -> Any:
    """The PyTorch module of a cell of measuring.CELLS."""
    nn = load("pytorch").nn
    make = {"simple_rnn": nn.RNN, "lstm": nn.LSTM, "gru_reset_after": nn.GRU}[cell]
    return make(features, hidden, bidirectional=bidirectional)


def _torch_layer(work: Work, features: int, hidden: int, reverse: bool) -> Any:
    del reverse  # the module has both directions where the work has
    return torch_layer(work.cell, features, hidden, bidirectional=work.bidirectional)


_RESETS_AFTER = "its GRU resets after the product only"
_RESETS_BEFORE = "its GRU resets before the product only"
_NO_LENGTHS = "its loop takes neither lengths nor a mask"
_NO_DROPOUT = "it has no recurrent dropout"

PEERS = {
    OURS: Peer(
        title="jaxseq",
        module="jaxseq",
        package="jaxseq",
        extra="dev",
        note="scan and bidirectional, implementation=None; [T, B, F]",
        weights=_own,
        gradients=_jaxseq_gradients,
        layer=_jaxseq_layer,
        both=_jaxseq_both,
    ),
    "plain_scan": Peer(
        title="plain scan",
        module="jax",
        package="jax",
        extra="dev",
        note="jax.lax.scan over the textbook's equations, written by hand, with its own derivative; [T, B, F]",
        weights=_own,
        gradients=_jaxseq_gradients,
        layer=_by_hand_layer,
    ),
    "flax_linen": Peer(
        title="Flax Linen",
        module="flax.linen",
        package="flax",
        extra="dev",
        note="nn.RNN(time_major=True) of SimpleCell, OptimizedLSTMCell, GRUCell; both directions as its Bidirectional "
        "runs them; [T, B, F]",
        weights=_linen_weights,
        gradients=_linen_gradients,
        layer=_linen_layer,
        cannot={"gru": _RESETS_AFTER, "dropout": _NO_DROPOUT},
    ),
    "flax_nnx": Peer(
        title="Flax NNX",
        module="flax.nnx",
        package="flax",
        extra="dev",
        note="nnx.RNN(time_major=True) of the same cells, merged inside jit (nnx.jit costs more a call); its GRU has "
        "no second bias, and one gradient less; [T, B, F]",
        weights=_nnx_weights,
        gradients=_nnx_gradients,
        layer=_nnx_layer,
        cannot={"gru": _RESETS_AFTER, "dropout": _NO_DROPOUT},
    ),
    "keras": Peer(
        title="Keras (JAX)",
        module="keras",
        package="keras",
        extra="dev",
        note="layers.SimpleRNN, LSTM, GRU and Bidirectional by stateless_call; dropout masks are given, not drawn; it "
        "takes only [B, T, F]",
        weights=conversions.to_keras,
        gradients=_keras_gradients,
        layer=_keras_layer,
        both=_keras_both,
        batch_major=True,
    ),
    "haiku": Peer(
        title="Haiku",
        module="haiku",
        package="dm-haiku",
        extra="peers",
        note="hk.dynamic_unroll of hk.LSTM, hk.GRU; [T, B, F]",
        weights=_haiku_weights,
        gradients=_haiku_gradients,
        layer=_haiku_layer,
        cannot={
            "simple_rnn": "its VanillaRNN is a ReLU network, without tanh",
            "gru_reset_after": _RESETS_BEFORE,
            "lengths": _NO_LENGTHS,
            "dropout": _NO_DROPOUT,
        },
    ),
    "equinox": Peer(
        title="Equinox",
        module="equinox",
        package="equinox",
        extra="peers",
        note="jax.lax.scan over eqx.nn.LSTMCell, GRUCell of one sequence, as its documentation has it, under vmap over "
        "axis 1; [T, B, F]",
        weights=_equinox_weights,
        gradients=_equinox_gradients,
        layer=_equinox_layer,
        cannot={
            "simple_rnn": "it has no such cell",
            "gru": _RESETS_AFTER,
            "lengths": "it has no loop over time: its cells are scanned by hand, without lengths",
            "dropout": _NO_DROPOUT,
        },
    ),
    "pytorch": Peer(
        title="PyTorch",
        module="torch",
        package="torch",
        extra="peers",
        note="nn.RNN, nn.LSTM, nn.GRU, lengths by pack_padded_sequence(enforce_sorted=False); on a CPU oneDNN with as "
        "many threads as cores, on a GPU cuDNN; forward under no_grad; [T, B, F]",
        weights=_torch_weights,
        gradients=_torch_gradients,
        layer=_torch_layer,
        cannot={"gru": _RESETS_AFTER, "dropout": _NO_DROPOUT},
    ),
}
