"""The reference's hand-written derivatives, against differences of its own values."""

import jax
import numpy as np
import pytest

from tests.examples import CELLS, B, F, T, expected, random_dropout, random_params, random_state


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("with_state", [False, True], ids=["initial", "state"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_the_slope_of_the_values(name, with_state, reverse, x64):
    cell, rng = CELLS[name], np.random.default_rng(0)
    params, inputs = random_params(cell, F), rng.normal(size=(T, B, F))
    state = random_state(cell, params, (B,))
    cotangents = random_state(cell, params, (B,), seed=3), rng.normal(size=(T, B, cell.hidden_size))
    options = {
        "mask": rng.random((T, B)) < 0.7,
        "resets": rng.random((T, B)) < 0.3,
        "dropout_masks": random_dropout(cell, (B,), F),
        "reverse": reverse,
    }

    def run(params, inputs, state):
        state = state if with_state else None
        (final, outputs), grads = expected(cell, params, inputs, cotangents, state=state, **options)
        pairs = zip(jax.tree.leaves(cotangents), jax.tree.leaves((final, outputs)), strict=True)
        return sum(np.sum(np.asarray(a) * b) for a, b in pairs), grads

    point = jax.tree.map(np.asarray, (params, inputs, state))
    grads = run(*point)[1]
    for argument in range(3 if with_state else 2):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), point[argument])

        def moved(distance, argument=argument, direction=direction):
            ahead = list(point)
            ahead[argument] = jax.tree.map(lambda a, b: a + distance * b, point[argument], direction)
            return run(*ahead)[0]

        slope = (8 * (moved(1e-3) - moved(-1e-3)) - (moved(2e-3) - moved(-2e-3))) / 12e-3
        pairs = zip(jax.tree.leaves(grads[argument]), jax.tree.leaves(direction), strict=True)
        assert sum(np.sum(g * d) for g, d in pairs) == pytest.approx(slope, rel=1e-7)
