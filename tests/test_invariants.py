"""Weights and biases cut before the loop: none is cut inside, whatever the cell, and the numbers stay the same."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from jaxseq.cells.products import summed_gates
from tests import test_deferral
from tests.examples import CELLS, B, F, T, assert_close, random_dropout, random_params
from tests.test_compilation import inner_jaxprs, loop_bodies

H = 5
IMPLEMENTATIONS = ("scan", "hoisted", "joint", "deferred")


class SplitWeights(test_deferral.Elman):
    """A third party's cell that cuts its weights and knows nothing of `gate_product`."""

    def product(self, params, state, drive):
        halves = zip(jnp.split(state, [2], axis=-1), jnp.split(params["hidden"], [2]), strict=True)
        return sum(value @ weights for value, weights in halves)


ODD_CELLS = [kind(H) for kind in (SplitWeights, *test_deferral.CELLS)]


def equations(jaxpr):
    for equation in jaxpr.eqns:
        inner = list(inner_jaxprs(equation))
        yield from (one for each in inner for one in equations(each)) if inner else [equation]


def readers_of_weights(body):
    """What reads a matrix of weights in a loop: of the sizes here only these have F or H rows."""
    return {
        equation.primitive.name
        for equation in equations(body)
        for atom in equation.invars
        if atom.aval.ndim == 2 and atom.aval.shape[0] in (F, H, F + H)
    }


def readers_of_biases(body):
    """What reads numbers without a batch in a loop."""
    return {
        equation.primitive.name
        for equation in equations(body)
        for atom in equation.invars
        if atom.aval.ndim == 1 and jnp.issubdtype(atom.aval.dtype, jnp.floating)
    }


def gradient_loops(cell, params, **how):
    def loss(params, inputs):
        return jaxseq.scan(cell, params, inputs, **how)[1].sum()

    inputs = jnp.ones((T, B, F), jax.tree.leaves(params)[0].dtype)
    return loop_bodies(jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, inputs).jaxpr)


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        (name, implementation)
        for name, implementation in itertools.product(CELLS, IMPLEMENTATIONS)
        if implementation != "joint" or summed_gates(CELLS[name]) is not None
    ],
)
def test_only_products_read_weights_in_a_loop_and_only_broadcasts_biases(name, implementation, dropout):
    cell = CELLS[name]
    masks = random_dropout(cell, (B,), F, dtype="float32") if dropout else None
    params = random_params(cell, F, dtype="float32")
    forward, *backward = gradient_loops(cell, params, dropout_masks=masks, implementation=implementation)
    assert readers_of_weights(forward) <= {"dot_general"}
    assert readers_of_biases(forward) <= {"broadcast_in_dim"}
    for body in backward:
        assert readers_of_weights(body) <= {"dot_general", "transpose", "add_any", "copy"}
        assert readers_of_biases(body) <= {"broadcast_in_dim", "reshape", "add_any", "copy"}


@pytest.mark.usefixtures("x64")
def test_a_third_partys_weights_are_cut_outside_the_loop():
    cell = SplitWeights(H)
    params = cell.init(jax.random.key(0), F)
    for body in gradient_loops(cell, params, implementation="hoisted"):
        assert not {"split", "slice", "pad", "concatenate"} & {
            equation.primitive.name for equation in equations(body) if equation.outvars[0].aval.shape[-2:-1] == (H,)
        }


@pytest.mark.usefixtures("x64")
def test_what_a_step_does_beside_its_equation_is_done_at_every_step():
    seen = []

    class Told(SplitWeights):
        def step(self, params, state, drive, masks):
            jax.debug.callback(lambda value: seen.append(float(value)), drive.sum())
            return super().step(params, state, drive, masks)

    cell = Told(H)
    params, inputs = cell.init(jax.random.key(0), F), jnp.asarray(np.random.default_rng(0).normal(size=(T, B, F)))
    jax.block_until_ready(jax.jit(functools.partial(jaxseq.scan, cell, implementation="scan"))(params, inputs))
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), sorted((inputs @ params["input"]).sum((1, 2))), rtol=1e-12)


@pytest.mark.usefixtures("strict_promotion", "x64")
@pytest.mark.parametrize("cell", ODD_CELLS, ids=[type(cell).__name__ for cell in ODD_CELLS])
def test_numbers_are_those_of_single_steps(cell):
    params = cell.init(jax.random.key(0), F)
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(T, B, F)))

    def by_steps(params, inputs):
        state, outputs = cell.initial_state(params, (B,)), []
        for one in inputs:
            state, output = jaxseq.step(cell, params, state, one)
            outputs.append(output)
        return state, jnp.stack(outputs)

    def back(run):
        def loss(*arguments):
            state, outputs = run(*arguments)
            return jnp.sum(outputs**2) + jnp.sum(state), outputs

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, inputs)

    assert_close(back(functools.partial(jaxseq.scan, cell, implementation="scan")), back(by_steps), 1e-12)
