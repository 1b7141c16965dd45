"""Forward alone, which runs another program than what is differentiated: the same numbers, of any cell."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from tests.examples import CELLS, F, T, assert_close, situation

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")
TOLERANCE = 1e-12
RNG = np.random.default_rng(7)


@jax.custom_vjp
def rounded(x):
    """Straight through: a derivative that only reverse mode knows."""
    return jnp.round(x, 2)


rounded.defvjp(lambda x: (rounded(x), None), lambda _, change: (2 * change,))


@dataclasses.dataclass(frozen=True)
class Rounding:
    """A third party's cell with a derivative of its own."""

    hidden_size: int

    def init(self, key, input_size):
        keys = jax.random.split(key)
        draw = jax.nn.initializers.glorot_uniform(dtype=jnp.float64)
        return draw(keys[0], (input_size, self.hidden_size)), draw(keys[1], (self.hidden_size, self.hidden_size))

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size), params[0].dtype)

    def project(self, params, inputs, masks):
        del masks
        return inputs @ params[0]

    def step(self, params, state, drive, masks):
        del masks
        state = jnp.tanh(rounded(drive) + jaxseq.gate_product(state, params[1], None))
        return state, state


@dataclasses.dataclass(frozen=True)
class Scaled(Rounding):
    """A third party's cell of two gates whose drive is a tree: a list, and one number a step."""

    gates: ClassVar[int] = 2

    def project(self, params, inputs, masks):
        del masks
        return {"gates": [inputs @ params[0]], "scale": inputs.mean(-1)}

    def step(self, params, state, drive, masks):
        del masks
        recurrent = jaxseq.gate_product(state, params[1], None)
        state = jnp.tanh(drive["gates"][0] + recurrent) * drive["scale"][..., None]
        return state, state


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("implementation", ["hoisted", "deferred"])
@pytest.mark.parametrize("name", CELLS)
def test_forward_alone_gives_what_is_differentiated_gives(name, implementation, reverse):
    cell = CELLS[name]
    (params, inputs, _), options = situation(cell, dropout=True)
    run = functools.partial(jaxseq.scan, cell, reverse=reverse, **options)
    alone = functools.partial(run, implementation=implementation)
    expected = jax.jit(functools.partial(run, implementation="scan"))(params, inputs)
    assert_close(jax.jit(alone)(params, inputs), expected, TOLERANCE)
    differentiated, _ = jax.jit(functools.partial(jax.vjp, alone))(params, inputs)
    assert_close(differentiated, expected, TOLERANCE)


@pytest.mark.parametrize("shape", [(6, F), (6, 2, F), (6, 2, 3, F)], ids=len)
@pytest.mark.parametrize("implementation", ["hoisted", "deferred"])
def test_a_drive_may_be_any_tree(implementation, shape):
    """Of one sequence a number a step is [T], of which gates make nothing."""
    cell, inputs = Scaled(4), jnp.asarray(RNG.normal(size=shape))
    params = cell.init(jax.random.key(0), F)
    expected = jaxseq.scan(cell, params, inputs, implementation="scan")
    assert_close(jaxseq.scan(cell, params, inputs, implementation=implementation), expected, TOLERANCE)


@pytest.mark.parametrize("implementation", [None, "hoisted", "deferred"])
def test_a_cell_may_have_a_derivative_of_its_own(implementation):
    cell, inputs = Rounding(64), jnp.asarray(RNG.normal(size=(T, 2, 24)))
    params = cell.init(jax.random.key(0), 24)

    def gradient(implementation):
        def loss(params, inputs):
            return jnp.sum(jaxseq.scan(cell, params, inputs, implementation=implementation)[1] ** 2)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs)

    assert_close(gradient(implementation), gradient("scan"), TOLERANCE)
