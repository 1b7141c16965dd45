"""The cells that tests run over, a cell as a user would write it, data, and comparisons."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from jaxseq.cells import gate_product
from tests import references


def objects(rows):
    """An object array, as NumPy saves rows of different lengths."""
    array = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


class MinimalGatedUnitParams(NamedTuple):
    w_input: jax.Array  # [F, 2H], gate order f n
    w_hidden: jax.Array  # [H, 2H]
    bias: jax.Array  # [2H]


@dataclasses.dataclass(frozen=True)
class MinimalGatedUnit:
    """A third party's cell (Zhou et al. 2016): all that the engine needs to serve it. Its state is h itself."""

    hidden_size: int
    gates: ClassVar[int] = 2
    summed_gates: ClassVar[tuple[int, ...]] = (1, 1)

    def init(self, key, input_size):
        keys = jax.random.split(key)
        glorot = jax.nn.initializers.glorot_uniform()
        return MinimalGatedUnitParams(
            glorot(keys[0], (input_size, 2 * self.hidden_size)),
            glorot(keys[1], (self.hidden_size, 2 * self.hidden_size)),
            jnp.zeros(2 * self.hidden_size),
        )

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size), params.bias.dtype)

    def project(self, params, inputs, masks):
        return gate_product(inputs, params.w_input, masks and masks.input) + params.bias

    def step(self, params, h, drive, masks):
        masks = (None, None) if masks is None or masks.recurrent is None else jnp.split(masks.recurrent, 2)
        (drive_f, drive_n), (u_f, u_n) = jnp.split(drive, 2, -1), jnp.split(params.w_hidden, 2, -1)
        f = jax.nn.sigmoid(drive_f + gate_product(h, u_f, masks[0]))
        h = (1 - f) * h + f * jnp.tanh(drive_n + gate_product(f * h, u_n, masks[1]))
        return h, h


CELLS = {
    "simple_rnn": jaxseq.SimpleRNN(5),
    "lstm": jaxseq.LSTM(5),
    "gru": jaxseq.GRU(5),
    "gru_reset_after": jaxseq.GRUResetAfter(5),
    "learned_lstm": jaxseq.LearnedState(jaxseq.LSTM(5, activation="sigmoid")),
    "minimal_gated_unit": MinimalGatedUnit(5),
}
T, B, F = 5, 3, 4  # 5 steps: neither `unroll=3` nor two halves divide them


def wrapped(cell):
    """The cell itself, out of a `LearnedState`."""
    return cell.cell if isinstance(cell, jaxseq.LearnedState) else cell


def random_params(cell, input_size, seed=0, dtype=None, scale=0.6):
    """Parameters of which every number, biases and learned states too, is drawn."""
    shapes = jax.eval_shape(lambda key: cell.init(key, input_size), jax.random.key(0))
    rng = np.random.default_rng(seed)
    dtype = dtype or jnp.float64
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), dtype), shapes)


def random_state(cell, params, batch_shape, seed=1):
    """A state to start from."""
    shapes = jax.eval_shape(lambda params: cell.initial_state(params, batch_shape), params)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)


def random_dropout(cell, batch_shape, input_size, rate=0.4, seed=2, dtype=None):
    """Dropout masks drawn by NumPy."""
    rng, dtype = np.random.default_rng(seed), dtype or jnp.float64
    return jaxseq.DropoutMasks(
        *(
            jnp.asarray((rng.random((cell.gates, *batch_shape, size)) >= rate) / (1 - rate), dtype)
            for size in (input_size, cell.hidden_size)
        )
    )


def situation(cell, *, with_state=True, flags=True, dropout=False):
    """(params, inputs, cotangents) and options; masks have holes, resets fall on masked steps too."""
    rng, params = np.random.default_rng(5), random_params(cell, F)
    cotangents = random_state(cell, params, (B,), seed=3), jnp.asarray(rng.normal(size=(T, B, cell.hidden_size)))
    options = {
        "state": random_state(cell, params, (B,)) if with_state else None,
        "mask": jnp.asarray(rng.random((T, B)) < 0.7) if flags else None,
        "resets": jnp.asarray(rng.random((T, B)) < 0.3) if flags else None,
        "dropout_masks": random_dropout(cell, (B,), F) if dropout else None,
    }
    return (params, jnp.asarray(rng.normal(size=(T, B, F))), cotangents), options


def expected(cell, params, inputs, cotangents, *, state=None, dropout_masks=None, **options):
    """What the reference gives, in jaxseq's shapes: (final, outputs), gradients by (params, inputs, state)."""
    inner, learned = wrapped(cell), isinstance(cell, jaxseq.LearnedState)
    name = type(inner).__name__
    leaves = references.ROWS[name].leaves

    def by_leaf(tree):
        return dict(zip(leaves, map(np.asarray, jax.tree.leaves(tree)), strict=True))

    for field in ("activation", "gate_activation"):
        if hasattr(inner, field):
            options[field] = getattr(inner, field)
    result = references.run(
        name,
        params.cell if learned else params,
        np.asarray(inputs),
        np.asarray(cotangents[1]),
        by_leaf(cotangents[0]),
        initial=by_leaf(params.initial_state) if learned else None,
        state=None if state is None else by_leaf(state),
        input_masks=dropout_masks and dropout_masks.input,
        recurrent_masks=dropout_masks and dropout_masks.recurrent,
        **options,
    )

    def like(tree, by_leaf):
        return jax.tree.unflatten(jax.tree.structure(tree), [by_leaf[leaf] for leaf in leaves])

    grads = type(params.cell if learned else params)(**result.grads)
    if learned:
        grads = type(params)(grads, like(params.initial_state, result.d_initial))
    d_state = None if state is None else like(state, result.d_state)
    return (like(cotangents[0], result.state), result.outputs), (grads, result.d_inputs, d_state)


def assert_close(actual, wanted, tolerance):
    """max|a - b| <= tolerance · max|b| for each array of two trees; zeros must be met exactly."""
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    paths = jax.tree_util.tree_leaves_with_path(actual)
    for (path, a), b in zip(paths, jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        error, size = np.max(np.abs(a - b), initial=0.0), np.max(np.abs(b), initial=0.0)
        assert error <= tolerance * size, f"{jax.tree_util.keystr(path)}: {error:.2g} of {size:.2g}"


@functools.partial(jax.jit, static_argnames=("run", "cell", "reverse"))
def run_and_back(run, cell, params, inputs, cotangents, *, state, reverse=False, **options):
    """(final, outputs) of `run`, and the gradients by (params, inputs, state)."""

    def forward(params, inputs, state):
        return run(cell, params, inputs, state=state, reverse=reverse, **options)

    results, pull_back = jax.vjp(forward, params, inputs, state)
    return results, pull_back(cotangents)
