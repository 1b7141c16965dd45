"""What a user can get wrong: one line that names the argument, the rule and the value."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from tests.examples import MinimalGatedUnit, random_params

CELL = jaxseq.LSTM(5)
T, B, F = 4, 3, 2


def params():
    return random_params(CELL, F, dtype="float32")


def scan(inputs=(T, B, F), **options):
    inputs = jnp.ones(inputs) if isinstance(inputs, tuple) else inputs
    return jaxseq.scan(options.pop("cell", CELL), options.pop("params", params()), inputs, **options)


def state(*batch_shape):
    return CELL.initial_state(params(), batch_shape)


def masks(input=(4, B, F), recurrent=(4, B, 5)):
    return jaxseq.DropoutMasks(jnp.ones(input), jnp.ones(recurrent))


SCAN = [
    (dict(inputs=(F,)), r"^inputs must have shape \[T, F\] or \[T, B, F\], got \(2,\)$"),
    (dict(inputs=jnp.float32(1)), r"^inputs must have shape .*got \(\)$"),
    (dict(inputs=(T, B, F + 1)), r"^inputs must have 2 features on the last axis, got shape \(4, 3, 3\)"),
    (dict(inputs=jnp.ones((T, F), int)), "^inputs must be floating point, got dtype int32$"),
    (dict(inputs=jnp.ones((T, F), bool)), "^inputs must be floating point, got dtype bool$"),
    (dict(inputs=jnp.ones((T, F), complex)), "^inputs must be floating point, got dtype complex64$"),
    (dict(mask=np.ones((T, B + 1), bool)), r"^mask must have shape \(4, 3\) .*got \(4, 4\)$"),
    (dict(mask=np.ones(T, bool)), r"^mask must have shape \(4, 3\) .*got \(4,\)$"),
    (dict(mask=np.ones((B, T), bool)), r"^mask must have shape \(4, 3\) .*got \(3, 4\)$"),
    (dict(mask=np.ones((T, B, 1), bool)), r"^mask must have shape \(4, 3\) .*got \(4, 3, 1\)$"),
    (dict(mask=np.ones((T, B), np.float32)), "^mask must be boolean, got dtype float32$"),
    (dict(resets=np.ones((T + 1, B), bool)), r"^resets must have shape \(4, 3\) .*got \(5, 3\)$"),
    (dict(resets=np.ones((T, B), np.int32)), "^resets must be boolean, got dtype int32$"),
    (dict(state=lambda: state(B + 1)), r"^state must have leaves of shape \(3, 5\), got \(4, 5\)$"),
    (dict(state=lambda: state()), r"^state must have leaves of shape \(3, 5\), got \(5,\)$"),
    (dict(state=lambda: state(B).hidden), "^state must have the structure .*LSTMState.*, got "),
    (dict(state=lambda: tuple(state(B))), "^state must have the structure .*LSTMState.*, got "),
    *(
        (dict(unroll=unroll), f"^unroll must be an integer of at least 1, got {unroll!r}$")
        for unroll in (0, -1, 1.5, True, "2")
    ),
    (dict(implementation="loop"), "^implementation must be None or one of .*'unrolled'.*, got 'loop'$"),
    (dict(implementation="unrolled", unroll=2), '^unroll must be 1 with implementation="unrolled", got 2$'),
    (dict(remat=2), "^remat must be True or False, got 2$"),
    (dict(implementation="unrolled", remat=True), '^remat must be False with implementation="unrolled", which keeps'),
    (dict(dropout_masks=lambda: masks((4, B, F + 1))), r"^dropout_masks.input must have shape \(4, 3, 2\)"),
    (dict(dropout_masks=lambda: masks((1, B, F))), r"^dropout_masks.input .*got \(1, 3, 2\)$"),
    (dict(dropout_masks=lambda: masks(recurrent=(4, 5))), r"^dropout_masks.recurrent .*got \(4, 5\)$"),
    (dict(dropout_masks=lambda: tuple(masks())), "^dropout_masks must be a DropoutMasks, got tuple$"),
    (dict(cell=jaxseq.LSTM(6)), r"^params.w_input must have shape \(2, 24\), as LSTM.init draws it, got \(2, 20\)$"),
]


@pytest.mark.parametrize(("options", "message"), SCAN)
def test_scan(options, message):
    made = {name: value() if callable(value) else value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        scan(**made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(inputs=jnp.float32(1)), r"^inputs must have shape \[F\] or \[B, F\], got \(\)$"),
        (dict(inputs=np.ones(F, int)), "^inputs must be floating point"),
        (dict(inputs=np.ones(F + 1, np.float32)), "^inputs must have 2 features"),
        (dict(state=lambda: state(1)), r"^state must have leaves of shape \(5,\), got \(1, 5\)$"),
        (dict(mask=np.ones(1, bool)), r"^mask must have shape \(\) .*got \(1,\)$"),
        (dict(reset=np.ones(1, bool)), r"^reset must have shape \(\) .*got \(1,\)$"),
        (dict(reset=1), "^reset must be boolean, got dtype int32$"),
    ],
)
def test_step(options, message):
    made = {name: value() if callable(value) else value for name, value in options.items()}
    arguments = {"state": state(), "inputs": np.ones(F, np.float32), **made}
    with pytest.raises(ValueError, match=message):
        jaxseq.step(CELL, params(), arguments.pop("state"), arguments.pop("inputs"), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(merge="add"), r"^merge must be one of \('concatenate', .*None\), got 'add'$"),
        (dict(cells=(CELL,)), r"^cells must be a pair \(forward, backward\), got 1 entries$"),
        (dict(params=params), r"^params must be a pair \(forward, backward\), got LSTMParams$"),
        (dict(params=lambda: [params(), params()]), "^params must be a pair .*got list$"),
        (dict(params=lambda: (params(),) * 3), "^params must be a pair .*got 3 entries$"),
        (dict(state=lambda: state(B)), "^state must be a pair .*got LSTMState$"),
        (dict(dropout_masks=masks), "^dropout_masks must be a pair .*got DropoutMasks$"),
        (dict(mask=np.ones(T, bool)), "^mask must have shape"),
    ],
)
def test_bidirectional(options, message):
    made = {name: value() if callable(value) else value for name, value in options.items()}
    arguments = {"cells": CELL, "params": (params(), params()), "inputs": jnp.ones((T, B, F)), **made}
    with pytest.raises(ValueError, match=message):
        jaxseq.bidirectional(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(cells=[]), "^cells must hold at least one cell, got none$"),
        (dict(params=[]), "^params must have one entry for each of 1 cells, got 0$"),
        (dict(state=lambda: [state(B)] * 2), "^state must have one entry for each of 1 cells, got 2$"),
        (dict(dropout_masks=[None] * 3), "^dropout_masks must have one entry for each of 1 cells, got 3$"),
    ],
)
def test_stack(options, message):
    made = {name: value() if callable(value) else value for name, value in options.items()}
    arguments = {"cells": [CELL], "params": [params()], "inputs": jnp.ones((T, B, F)), **made}
    with pytest.raises(ValueError, match=message):
        jaxseq.stack(**arguments)


def test_others():
    with pytest.raises(ValueError, match="^merge must be one of"):
        jaxseq.merge_outputs(jnp.ones(2), jnp.ones(2), "max")
    with pytest.raises(ValueError, match=r"^inputs_shape must be \(T, F\) or \(T, B, F\), got \(4,\)$"):
        jaxseq.explain(CELL, (T,))
    with pytest.raises(ValueError, match="^implementation must be"):
        jaxseq.explain(CELL, (T, F), implementation="fast")
    with pytest.raises(ValueError, match="^LSTM must have a method output"):
        jaxseq.state_output(CELL, params(), (jnp.ones(2), jnp.ones(2)))


class Widening(MinimalGatedUnit):
    """A cell with a bug: its state changes from step to step."""

    def step(self, params, h, drive, masks):
        h, output = super().step(params, h, drive, masks)
        return jnp.concatenate([h, h], -1), output


class Promoting(MinimalGatedUnit):
    """Another: it computes in float32 whatever comes in."""

    def step(self, params, h, drive, masks):
        h, output = super().step(params, h, drive, masks)
        return h.astype(jnp.float32), output


def test_a_cell_whose_state_changes_shape_or_dtype_is_told_so():
    inputs = jnp.ones((T, B, F))
    with pytest.raises(ValueError, match=r"^the state that Widening.step returns must have .*\(3, 5\), got"):
        jaxseq.scan(Widening(5), random_params(Widening(5), F, dtype="float32"), inputs)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(Promoting(5), F, dtype="float32"))
    with pytest.raises(ValueError, match=r"^the state that Promoting.step returns must have dtype bfloat16"):
        jaxseq.scan(Promoting(5), half, inputs.astype(jnp.bfloat16))


class Counting(MinimalGatedUnit):
    """Its state is (h, steps taken): a whole number among numbers."""

    def initial_state(self, params, batch_shape):
        return super().initial_state(params, batch_shape), jnp.zeros(batch_shape, jnp.int32)

    def step(self, params, state, drive, masks):
        h, output = super().step(params, state[0], drive, masks)
        return (h, state[1] + 1), output


def test_a_state_has_the_dtypes_of_the_cells():
    cell, inputs = Counting(5), jnp.ones((T, B, F))
    params = random_params(MinimalGatedUnit(5), F, dtype="float32")
    hidden, count = cell.initial_state(params, (B,))
    (_, steps), _ = jaxseq.scan(cell, params, inputs, state=(hidden, count + 2))
    np.testing.assert_array_equal(steps, np.full(B, T + 2))
    with pytest.raises(ValueError, match="^state must have dtype int32 where the cell's has, got float"):
        jaxseq.scan(cell, params, inputs, state=(hidden, hidden[:, 0]))
    with pytest.raises(ValueError, match="^state must have floating-point leaves, got dtype int32"):
        jaxseq.scan(cell, params, inputs, state=(hidden.astype(jnp.int32), count))


def test_a_learned_state_learns_numbers_and_leaves_counts_alone():
    cell, inputs = jaxseq.LearnedState(Counting(5)), jnp.ones((T, B, F))
    params = cell.init(jax.random.key(0), F)
    assert [leaf.dtype for leaf in jax.tree.leaves(params.initial_state)] == [jnp.float32]

    def loss(params):
        (_, steps), outputs = jaxseq.scan(cell, params, inputs)
        return jnp.sum(outputs**2), steps

    gradient, steps = jax.grad(loss, has_aux=True)(params)
    np.testing.assert_array_equal(steps, np.full(B, T))
    assert float(jnp.abs(gradient.initial_state[0]).max()) > 0 and gradient.initial_state[1] is None


class Wide(NamedTuple):
    """A cell that is a NamedTuple, equal to any other of the same fields."""

    hidden_size: int

    def init(self, key, input_size):
        return jax.random.normal(key, (input_size, self.hidden_size))

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def project(self, params, inputs, masks):
        return inputs @ params

    def step(self, params, state, drive, masks):
        return state + drive, state + drive


class Tall(NamedTuple):
    """Another, with other parameters."""

    hidden_size: int
    initial_state, project, step = Wide.initial_state, lambda self, params, x, masks: x @ params.T, Wide.step

    def init(self, key, input_size):
        return jax.random.normal(key, (self.hidden_size, input_size))


def test_cells_of_two_classes_are_two_cells():
    assert Wide(5) == Tall(5)
    outputs = [jaxseq.scan(cell, cell.init(jax.random.key(0), F), jnp.ones((T, F)))[1] for cell in (Wide(5), Tall(5))]
    assert outputs[0].shape == outputs[1].shape == (T, 5)
    model = jaxseq.SequenceEncoder(Wide(5))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((B, T, F)))
    assert shapes["params"]["layer_0"]["cell"].shape == (F, 5)


def test_a_state_read_back_from_a_device_has_its_output():
    assert jaxseq.state_output(Wide(5), None, np.ones((B, 5), np.float32)).shape == (B, 5)


def test_no_mask_for_any_gate_is_no_mask():
    with pytest.raises(ValueError, match=r"^mask must have shape \[G, ...\] where G divides 4"):
        jaxseq.gate_product(jnp.ones(3), jnp.ones((3, 4)), jnp.ones((0, 3)))
