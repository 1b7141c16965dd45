"""Derivatives of every kind: forward and reverse mode, second order, remat, causality, vmap over parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxseq
from tests.examples import CELLS, B, F, T, assert_close, expected, random_params, random_state

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")
every_cell = pytest.mark.parametrize("name", CELLS)
TOLERANCE = 1e-12


@every_cell
def test_no_output_depends_on_what_comes_later(name):
    cell = CELLS[name]
    params, inputs = random_params(cell, F), jnp.asarray(np.random.default_rng(0).normal(size=(T, F)))

    @jax.jit
    def jacobians(inputs):
        forward = functools.partial(jaxseq.scan, cell, params)
        backward = functools.partial(jaxseq.scan, cell, params, reverse=True, implementation="hoisted")
        return [
            mode(lambda inputs, run=run: run(inputs)[1])(inputs)
            for run in (forward, backward)
            for mode in (jax.jacrev, jax.jacfwd)
        ]

    results = jacobians(inputs)
    for reverse, (by_reverse, by_forward) in enumerate((results[:2], results[2:])):
        assert_close(by_forward, by_reverse, TOLERANCE)
        moved = np.any(np.asarray(by_reverse) != 0, axis=(1, 3))  # [output step, input step]
        causal = np.tril(np.ones((T, T), bool))
        np.testing.assert_array_equal(moved, causal.T if reverse else causal)


def scalar(cell, params, inputs, state, options, cotangents):
    final, outputs = jaxseq.scan(cell, params, inputs, state=state, **options)
    pairs = zip(jax.tree.leaves(cotangents), jax.tree.leaves((final, outputs)), strict=True)
    return sum(jnp.sum(a * b) for a, b in pairs)


@pytest.mark.parametrize("implementation", ["scan", "deferred"])
@every_cell
def test_second_order_in_three_ways_is_the_slope_of_the_references_gradient(name, implementation):
    cell, rng = CELLS[name], np.random.default_rng(0)
    params, inputs = random_params(cell, F), jnp.asarray(rng.normal(size=(T, B, F)))
    state = random_state(cell, params, (B,))
    point = params, inputs, state
    cotangents = random_state(cell, params, (B,), seed=3), jnp.asarray(rng.normal(size=(T, B, cell.hidden_size)))
    options = {
        "mask": jnp.asarray(rng.random((T, B)) < 0.7),
        "resets": jnp.asarray(rng.random((T, B)) < 0.3),
    }
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), point)

    @jax.jit
    def hessian_times(point, direction):
        def value(point):
            return scalar(cell, *point, options | {"implementation": implementation}, cotangents)

        def along(point):
            return jax.jvp(value, (point,), (direction,))[1]

        def inner(point):
            pairs = zip(*map(jax.tree.leaves, (jax.grad(value)(point), direction)), strict=True)
            return sum(jnp.sum(a * b) for a, b in pairs)

        forward_over_reverse = jax.jvp(jax.grad(value), (point,), (direction,))[1]
        return forward_over_reverse, jax.grad(along)(point), jax.grad(inner)(point)

    def gradient(distance):
        ahead = jax.tree.map(lambda a, d: np.asarray(a) + distance * np.asarray(d), point, direction)
        return expected(cell, *ahead[:2], cotangents, state=ahead[2], **options)[1]

    step = 1e-3
    slope = jax.tree.map(
        lambda a, b, c, d: (8 * (a - b) - (c - d)) / (12 * step),
        *(gradient(distance) for distance in (step, -step, 2 * step, -2 * step)),
    )
    for product in hessian_times(point, direction):
        assert_close(product, slope, 1e-7)  # the differences' own error


@pytest.mark.parametrize(
    ("name", "shape", "implementation", "modes"),
    [
        ("lstm", (3, 2), "scan", ["rev"]),
        ("gru", (2, 2, 3), "hoisted", ["fwd"]),
        ("gru_reset_after", (1, 2, 2), "scan", ["fwd", "rev"]),
        ("gru", (2, 2, 2), "deferred", ["fwd"]),
    ],
)
def test_jaxs_own_check_finds_no_fault_up_to_second_order(name, shape, implementation, modes):
    cell, rng = CELLS[name], np.random.default_rng(0)
    params, inputs = random_params(cell, shape[-1]), jnp.asarray(rng.normal(size=shape))
    mask = jnp.asarray(np.arange(shape[0]) < 2).reshape((-1,) + (1,) * (len(shape) - 2))
    mask = jnp.broadcast_to(mask, shape[:-1])

    def value(params, inputs):
        _, outputs = jaxseq.scan(cell, params, inputs, mask=mask, implementation=implementation)
        return jnp.sum(jnp.sin(outputs))

    check_grads(jax.jit(value), (params, inputs), order=2, modes=modes, rtol=1e-5, atol=1e-5)


@every_cell
def test_rematerialised_gradients_are_the_gradients(name):
    cell, rng = CELLS[name], np.random.default_rng(0)
    params, inputs = random_params(cell, F), jnp.asarray(rng.normal(size=(T, B, F)))
    final = random_state(cell, params, (B,), seed=3)
    cotangents = final, jnp.asarray(rng.normal(size=(T, B, cell.hidden_size)))
    mask = jnp.asarray(rng.random((T, B)) < 0.7)

    @jax.jit
    def back(params, inputs):
        run = jax.checkpoint(functools.partial(jaxseq.scan, cell))
        results, pull_back = jax.vjp(lambda *arguments: run(*arguments, mask=mask), params, inputs)
        return results, (*pull_back(cotangents), None)

    assert_close(back(params, inputs), expected(cell, params, inputs, cotangents, mask=mask), TOLERANCE)


@every_cell
def test_seeds_are_one_more_vmap(name):
    cell, rng = CELLS[name], np.random.default_rng(0)
    seeds = [random_params(cell, F, seed) for seed in range(3)]
    inputs = jnp.asarray(rng.normal(size=(T, B, F)))
    cotangents = random_state(cell, seeds[0], (B,), seed=3), jnp.ones((T, B, cell.hidden_size))

    @jax.jit
    def back(params):
        results, pull_back = jax.vjp(lambda params: jaxseq.scan(cell, params, inputs), params)
        return results, pull_back(cotangents)[0]

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.vmap(back)(stacked)
    for seed, params in enumerate(seeds):
        results, (d_params, _, _) = expected(cell, params, inputs, cotangents)
        alone = jax.tree.map(lambda leaf: leaf[seed], together)  # noqa: B023
        assert_close(alone, (results, d_params), TOLERANCE)
