"""Weight gradients after the loop, of cells that are not as ours are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from tests.examples import B, F, T, assert_close

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")


@dataclasses.dataclass(frozen=True)
class Elman:
    """h' = tanh(x W + h U), its recurrent product taken as the subclass likes."""

    hidden_size: int

    def init(self, key, input_size):
        keys = jax.random.split(key, 3)
        normal = functools.partial(jax.random.normal, dtype="float64")
        size = self.hidden_size
        return {
            "input": normal(keys[0], (input_size, size)),
            "hidden": normal(keys[1], (size, size)),
            "scale": normal(keys[2], (size,)),
        }

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size), params["hidden"].dtype)

    def project(self, params, inputs, masks):
        return inputs @ params["input"]

    def step(self, params, state, drive, masks):
        state = jnp.tanh(drive + self.product(params, state, drive))
        return state, state


class PlainProduct(Elman):
    def product(self, params, state, drive):
        return state @ params["hidden"]


class ScaledWeights(Elman):
    def product(self, params, state, drive):
        return jaxseq.gate_product(state, params["scale"][:, None] * params["hidden"], None)


class WeightsOfTheStep(Elman):
    def product(self, params, state, drive):
        return jaxseq.gate_product(state, params["hidden"] * jnp.tanh(drive.sum()), None)


class CompiledProduct(Elman):
    @functools.partial(jax.jit, static_argnums=0)
    def product(self, params, state, drive):
        return jaxseq.gate_product(state, params["hidden"], None)


class RepeatedProduct(Elman):
    def product(self, params, state, drive):
        def again(_, value):
            return jaxseq.gate_product(value, params["hidden"], None)

        return jax.lax.fori_loop(0, 2, again, state)


class SecondProductOfTheFirst(Elman):
    def product(self, params, state, drive):
        first = jnp.sin(jaxseq.gate_product(state, params["hidden"], None))
        return jaxseq.gate_product(first, params["hidden"].T, None) + first @ params["hidden"]


CELLS = (PlainProduct, ScaledWeights, WeightsOfTheStep, CompiledProduct, RepeatedProduct, SecondProductOfTheFirst)


@pytest.mark.parametrize("cell", [cell(3) for cell in CELLS], ids=[cell.__name__ for cell in CELLS])
def test_gradients_are_those_of_the_plain_scan(cell):
    params = cell.init(jax.random.key(0), F)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, F)))

    @functools.partial(jax.jit, static_argnums=1)
    def back(params, implementation):
        def loss(params, inputs):
            state, outputs = jaxseq.scan(cell, params, inputs, implementation=implementation)
            return jnp.sum(outputs**2) + jnp.sum(state)

        return jax.value_and_grad(loss, (0, 1))(params, inputs)

    for _ in range(2):  # a compiled product is traced the first time only
        assert_close(back(params, "deferred"), back(params, "scan"), 1e-12)
        jax.clear_caches()


def test_a_failing_step_leaves_no_product_intercepted():
    class Failing(Elman):
        def product(self, params, state, drive):
            raise RuntimeError("no product today")

    cell = Failing(3)
    params, inputs = Elman(3).init(jax.random.key(0), F), jnp.ones((T, B, F))
    with pytest.raises(RuntimeError, match="no product today"):
        jax.grad(lambda params: jaxseq.scan(cell, params, inputs, implementation="deferred")[1].sum())(params)
    np.testing.assert_array_equal(jaxseq.gate_product(jnp.ones((1, 2)), jnp.ones((2, 3)), None), np.full((1, 3), 2.0))
