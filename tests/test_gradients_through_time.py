"""Gradients by every state and by every step's parameters, against NumPy's backward loop and products of Jacobians."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from tests.examples import CELLS, B, F, T, assert_close, expected, random_dropout, random_params, random_state

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")
TOLERANCE = 1e-12


def random_call(name):
    """A cell, parameters, inputs, options of `scan`, and cotangents of (final state, outputs)."""
    cell, rng = CELLS[name], np.random.default_rng(0)
    params, inputs = random_params(cell, F), jnp.asarray(rng.normal(size=(T, B, F)))
    inner = cell.cell if isinstance(cell, jaxseq.LearnedState) else cell
    options = {
        "state": random_state(cell, params, (B,)),
        "mask": jnp.asarray(rng.random((T, B)) < 0.7),
        "resets": jnp.asarray(rng.random((T, B)) < 0.3),
        "dropout_masks": random_dropout(inner, (B,), F),
    }
    cotangents = random_state(cell, params, (B,), seed=3), jnp.asarray(rng.normal(size=(T, B, cell.hidden_size)))
    return cell, params, inputs, options, cotangents


def weighed(cotangents):
    """The loss whose gradient by (final state, outputs) the cotangents are."""

    def loss(state, outputs):
        return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), cotangents, (state, outputs))))

    return loss


@functools.partial(jax.jit, static_argnames=("cell", "loss", "reverse"))
def both(cell, params, inputs, loss=None, *, reverse=False, **options):
    """The gradients by the states and by each step's parameters."""
    return tuple(
        function(cell, params, inputs, loss, reverse=reverse, **options)
        for function in (jaxseq.gradient_flow, jaxseq.gradient_paths)
    )


def by_hand(cell, params, inputs, options, cotangents):
    """(gradients by the states, gradients by each step's parameters): NumPy runs up to, at and after every step."""
    inputs, cotangents = np.asarray(inputs), jax.tree.map(np.asarray, cotangents)
    (by_final, by_outputs), state, mask = cotangents, options["state"], np.asarray(options["mask"])
    zeros = jax.tree.map(np.zeros_like, by_outputs)

    def part(steps, state, by_final, by_outputs):
        flags = {name: np.asarray(options[name][steps]) for name in ("mask", "resets")}
        arguments = cell, params, inputs[steps], (by_final, by_outputs[steps])
        (after, _), (by_params, _, by_state) = expected(
            *arguments, state=state, dropout_masks=options["dropout_masks"], **flags
        )
        return after, by_params, by_state

    gradients, paths = [], []
    for time in range(T):
        this, rest = slice(time, time + 1), slice(time + 1, T)
        before, state = state, part(this, state, by_final, zeros)[0]
        leaves, structure = jax.tree.flatten(part(rest, state, by_final, by_outputs)[2])
        leaves[0] = leaves[0] + by_outputs[time] * mask[time][:, None]  # the output is the first leaf
        gradients.append(jax.tree.unflatten(structure, leaves))
        paths.append(part(this, before, gradients[-1], zeros)[1])
    return tuple(jax.tree.map(lambda *leaves: np.stack(leaves), *trees) for trees in (gradients, paths))


@pytest.mark.parametrize("name", CELLS)
def test_both_are_what_numpy_gets_step_by_step(name):
    cell, params, inputs, options, cotangents = random_call(name)
    gradients, paths = by_hand(cell, params, inputs, options, cotangents)
    loss = weighed(cotangents)
    flow, actual = both(cell, params, inputs, loss, **options)
    assert_close(flow.gradients, gradients, TOLERANCE)
    squares = [np.sum(np.square(leaf), axis=-1) for leaf in jax.tree.leaves(gradients)]
    assert_close(jax.tree.leaves(flow.norms), [np.sqrt(square) for square in squares], TOLERANCE)
    assert_close(flow.total, np.sqrt(sum(squares)), TOLERANCE)
    assert_close(actual, paths, TOLERANCE)
    whole = expected(cell, params, inputs, cotangents, **options)[1][0]
    assert_close(jax.tree.map(lambda leaf: np.sum(leaf, axis=0), actual), whole, TOLERANCE)


def test_paths_sum_to_the_gradient_that_autodiff_takes_through_scan():
    cell, params, inputs, options, cotangents = random_call("learned_lstm")
    options |= {"state": None, "reverse": True}  # without a state the learned one has its part
    loss = weighed(cotangents)
    _, paths = both(cell, params, inputs, loss, **options)
    whole = jax.jit(jax.grad(lambda params: loss(*jaxseq.scan(cell, params, inputs, **options))))(params)
    assert_close(jax.tree.map(lambda leaf: np.sum(leaf, axis=0), paths), whole, TOLERANCE)


@pytest.mark.parametrize("name", ["lstm", "minimal_gated_unit"])
def test_a_loss_of_the_last_output_comes_back_through_a_product_of_jacobians(name):
    cell = CELLS[name]
    params, inputs = random_params(cell, F), jnp.asarray(np.random.default_rng(0).normal(size=(T, F)))
    state = cell.initial_state(params, ())
    flat, unravel = jax.flatten_util.ravel_pytree(state)

    def one_step(flat, one_input):
        return jax.flatten_util.ravel_pytree(jaxseq.step(cell, params, unravel(flat), one_input)[0])[0]

    states, jacobians = [], []
    for one_input in inputs:
        jacobians.append(jax.jacfwd(one_step)(flat, one_input))
        flat = one_step(flat, one_input)
        states.append(flat)
    gradient = jax.grad(lambda flat: jnp.sum(jaxseq.state_output(cell, params, unravel(flat)) ** 2))(flat)
    products = [gradient]
    for jacobian in jacobians[:0:-1]:
        products.append(products[-1] @ jacobian)
    flow = jaxseq.gradient_flow(cell, params, inputs)
    wanted = jnp.stack(products[::-1])
    assert_close(jax.vmap(lambda tree: jax.flatten_util.ravel_pytree(tree)[0])(flow.gradients), wanted, TOLERANCE)
    assert_close(flow.total, jnp.linalg.norm(wanted, axis=-1), TOLERANCE)


def test_reverse_is_the_sequence_turned_round():
    cell, params, inputs, options, cotangents = random_call("minimal_gated_unit")
    by_final, by_outputs = cotangents
    resets = options["resets"]
    turned = {
        **options,
        "mask": options["mask"][::-1],
        "resets": jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])[::-1],
    }
    actual = both(cell, params, inputs, weighed(cotangents), reverse=True, **options)
    wanted = both(cell, params, inputs[::-1], weighed((by_final, by_outputs[::-1])), **turned)
    assert_close(actual, jax.tree.map(lambda leaf: leaf[::-1], wanted), TOLERANCE)


def test_vmap_over_sequences_is_the_batch():
    cell = CELLS["gru"]
    params, inputs = random_params(cell, F), jnp.asarray(np.random.default_rng(0).normal(size=(T, B, F)))
    flow, paths = both(cell, params, inputs)
    each, each_paths = jax.jit(jax.vmap(functools.partial(both, cell, params), in_axes=1))(inputs)
    assert_close(jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), each), flow, TOLERANCE)
    assert_close(jax.tree.map(lambda leaf: leaf.sum(0), each_paths), paths, TOLERANCE)


def test_padding_holds_the_gradient_and_adds_no_path():
    cell = jaxseq.LSTM(5)
    params, inputs = random_params(cell, F), np.random.default_rng(0).normal(size=(3, T, F))
    mask = np.arange(T) < np.asarray([[T], [3], [0]])
    padded = np.where(mask[..., None], inputs, np.nan)
    flow, paths = jax.jit(jax.vmap(lambda inputs, mask: both(cell, params, inputs, mask=mask)))(padded, mask)
    total = np.asarray(flow.total)
    np.testing.assert_array_equal(total[1, 3:], total[1, 2])
    assert len(set(total[0])) == T and len(set(total[1, :3])) == 3
    np.testing.assert_array_equal(total[2], 0)  # the last output is the initial state's: zero
    for leaf in map(np.asarray, paths):
        np.testing.assert_array_equal(leaf[1, 3:], 0)
        np.testing.assert_array_equal(leaf[2], 0)
        assert np.isfinite(leaf).all() and (leaf[0, 1:] != 0).any()


def test_a_gradient_that_has_all_but_vanished_has_a_norm():
    """In float32 the squares of what is left here are zero."""
    cell = jaxseq.SimpleRNN(2, activation="linear")
    params = jaxseq.cells.simple_rnn.SimpleRNNParams(jnp.ones((1, 2)), 1e-3 * jnp.eye(2), jnp.zeros(2))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    flow, _ = both(cell, params, jnp.ones((10, 1), jnp.float32))
    np.testing.assert_allclose(flow.total, np.sqrt(8) * 1.001001 * 1e-3 ** np.arange(9, -1, -1.0), rtol=1e-5)


def test_a_gradient_that_leaves_float32_is_infinite():
    cell = jaxseq.SimpleRNN(1, activation="linear")
    params = jaxseq.cells.simple_rnn.SimpleRNNParams(jnp.ones((1, 1)), jnp.full((1, 1), 1e20), jnp.zeros(1))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    flow = jaxseq.gradient_flow(cell, params, jnp.zeros((4, 1), jnp.float32), loss=lambda _, outputs: outputs[-1].sum())
    np.testing.assert_allclose(flow.total, [np.inf, np.inf, 1e20, 1], rtol=1e-5)


def test_without_a_past_the_first_step_adds_nothing_to_the_recurrent_weights():
    cell = jaxseq.SimpleRNN(5)
    params, inputs = random_params(cell, F), jnp.asarray(np.random.default_rng(0).normal(size=(4, F)))
    _, paths = both(cell, params, inputs)
    paths = jax.tree.map(np.asarray, paths)
    assert [bool(path.any()) for path in paths.w_hidden] == [False, True, True, True]
    assert paths.w_input.any(axis=(1, 2)).all()


@dataclasses.dataclass(frozen=True)
class Counting:
    """A third party's cell: its state counts steps, its output is read off with weights of its own."""

    hidden_size: int
    wrong: bool = False

    def init(self, key, input_size):
        size = self.hidden_size
        return {"w": jnp.ones((input_size, size)), "v": jnp.ones((size, 2)), "version": jnp.int32(1)}

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size), params["w"].dtype), jnp.zeros(batch_shape, jnp.int32)

    def project(self, params, inputs, masks):
        return inputs @ params["w"]

    def step(self, params, state, drive, masks):
        hidden, count = state
        state = jnp.sin(drive + hidden), count + jnp.int32(1)
        return state, state[0] if self.wrong else self.output(params, state)

    def output(self, params, state):
        return state[0] @ params["v"]


def by_scan(cell, params, inputs):
    """The last output, and the gradient of its squared norm as autodiff takes it through `scan`."""

    def loss(params):
        last = jaxseq.scan(cell, params, inputs)[1][-1]
        return jnp.sum(last**2), last

    gradient, last = jax.grad(loss, has_aux=True, allow_int=True)(params)
    return last, gradient


def test_a_cell_with_whole_numbers_and_outputs_of_its_own():
    cell, inputs = Counting(3), jnp.asarray(np.random.default_rng(0).normal(size=(T, B, F)))
    params = random_params(cell, F) | {"version": jnp.int32(1)}
    flow, paths = both(cell, params, inputs)
    np.testing.assert_array_equal(flow.gradients[1], np.zeros((T, B)))
    assert_close(flow.total, flow.norms[0], TOLERANCE)
    last, whole = jax.jit(lambda params: by_scan(cell, params, inputs))(params)
    assert_close(flow.gradients[0][-1], 2 * np.asarray(last) @ np.asarray(params["v"]).T, TOLERANCE)
    for field in ("w", "v"):
        assert_close(np.sum(paths[field], axis=0), whole[field], TOLERANCE)
    np.testing.assert_array_equal(paths["version"], np.zeros(T))
    with pytest.raises(ValueError, match="the output that belongs to a state of Counting must have"):
        jaxseq.gradient_flow(Counting(3, wrong=True), params, inputs)


@pytest.mark.parametrize("function", [jaxseq.gradient_flow, jaxseq.gradient_paths])
def test_what_a_caller_can_get_wrong(function):
    cell = jaxseq.SimpleRNN(5)
    params, inputs = random_params(cell, F), jnp.ones((T, F))
    with pytest.raises(ValueError, match=r"loss must return a single number, got shape \(5,\)"):
        function(cell, params, inputs, lambda state, outputs: outputs[-1])
    with pytest.raises(ValueError, match=r"mask must have shape \(5,\)"):
        function(cell, params, inputs, mask=jnp.ones(3, bool))
    with pytest.raises(ValueError, match="inputs must have"):
        function(cell, params, jnp.ones((T, F + 1)))


def test_no_step_has_no_path():
    cell = jaxseq.SimpleRNN(5)
    params = random_params(cell, F)
    assert jaxseq.gradient_flow(cell, params, jnp.ones((0, B, F))).total.shape == (0, B)
    with pytest.raises(ValueError, match=r"inputs must hold at least one step \[T, F\] or \[T, B, F\], got shape"):
        jaxseq.gradient_paths(cell, params, jnp.ones((0, B, F)))
