"""The engine: every cell and every implementation against the reference, and what masks and resets mean."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxseq
from jaxseq import recurrence
from jaxseq.cells import gate_product
from tests.examples import (
    CELLS,
    B,
    F,
    T,
    assert_close,
    expected,
    random_dropout,
    random_params,
    random_state,
    run_and_back,
    situation,
)

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")
every_cell = pytest.mark.parametrize("name", CELLS)
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
TOLERANCE = 1e-12


def streaming(cell, params, inputs, *, state, reverse, mask=None, resets=None, dropout_masks=None):
    assert not reverse
    if state is None:
        state = cell.initial_state(params, inputs.shape[1:-1])
    outputs = []
    for time in range(len(inputs)):
        state, output = jaxseq.step(
            cell,
            params,
            state,
            inputs[time],
            mask=None if mask is None else mask[time],
            reset=None if resets is None else resets[time],
            dropout_masks=dropout_masks,
        )
        outputs.append(output)
    return state, jnp.stack(outputs)


def vmapped(cell, params, inputs, *, state, reverse, mask, resets, dropout_masks):
    def run_one(inputs, state, mask, resets, dropout_masks):
        return jaxseq.scan(
            cell,
            params,
            inputs,
            state=state,
            mask=mask,
            resets=resets,
            dropout_masks=dropout_masks,
            reverse=reverse,
        )

    axes = (1, None if state is None else 0, 1, 1, 1)
    return jax.vmap(run_one, axes, (0, 1))(inputs, state, mask, resets, dropout_masks)


def tabulated(cell, params, inputs, **options):
    """Every input is a row of the table; which is not empty where there is none."""
    steps, features = inputs.shape[:-1], inputs.shape[-1]
    count = math.prod(steps)
    table = inputs.reshape(count, features) if count else jnp.zeros((1, features))
    lookup = jaxseq.Lookup(table, jnp.arange(count).reshape(steps))
    return jaxseq.scan(cell, params, lookup, implementation="tabulated", **options)


IMPLEMENTATIONS = {
    "scan": functools.partial(jaxseq.scan, implementation="scan"),
    "hoisted": functools.partial(jaxseq.scan, implementation="hoisted"),
    "deferred": functools.partial(jaxseq.scan, implementation="deferred"),
    "unrolled": functools.partial(jaxseq.scan, implementation="unrolled"),
    "remat": functools.partial(jaxseq.scan, implementation="hoisted", remat=True),
    "unroll_3": functools.partial(jaxseq.scan, unroll=3),
    "tabulated": tabulated,
    "vmapped": vmapped,
    "streaming": streaming,
}
SCAN = IMPLEMENTATIONS["scan"]


def check_against_reference(run, cell, data, options):
    assert_close(run_and_back(run, cell, *data, **options), expected(cell, *data, **options), TOLERANCE)


@every_cell
def test_a_plain_run_is_the_reference(name):
    data, options = situation(CELLS[name], with_state=False, flags=False)
    check_against_reference(SCAN, CELLS[name], data, options)


@both_directions
@every_cell
def test_masks_resets_and_state_are_the_reference(name, reverse):
    data, options = situation(CELLS[name])
    check_against_reference(SCAN, CELLS[name], data, {**options, "reverse": reverse})


@pytest.mark.parametrize(
    ("implementation", "reverse"),
    [(which, False) for which in ("scan", "hoisted", "deferred", "remat", "vmapped", "streaming")]
    + [(which, True) for which in ("hoisted", "deferred", "tabulated", "remat", "unrolled", "unroll_3")],
)
@pytest.mark.parametrize("name", [name for name in CELLS if name != "learned_lstm"])
def test_every_implementation_is_the_reference(name, implementation, reverse):
    # From the initial state one way, so that its gradient is compared; from a given one the other way.
    data, options = situation(CELLS[name], with_state=reverse, dropout=not reverse)
    run = IMPLEMENTATIONS[implementation]
    check_against_reference(run, CELLS[name], data, {**options, "reverse": reverse})


bits = hnp.arrays(bool, (T, B))


@pytest.mark.parametrize("implementation", ["scan", "hoisted", "deferred", "remat", "vmapped", "streaming"])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "learned_lstm"])
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 1e-200, 1e-3, 1.0, 30.0]), mask=bits, resets=bits)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # x64 for all
def test_any_values_masks_and_resets_are_the_references(name, implementation, seed, scale, mask, resets):
    """Programs that are compiled above; NaN in the padding reaches nothing, and nothing comes back to it."""
    cell, rng = CELLS[name], np.random.default_rng(seed)
    params = random_params(cell, F, seed=seed)
    cotangents = random_state(cell, params, (B,), seed=seed), jnp.asarray(rng.normal(size=(T, B, cell.hidden_size)))
    inputs = jnp.asarray(scale * rng.normal(size=(T, B, F)))
    options = {
        "state": None,
        "mask": jnp.asarray(mask),
        "resets": jnp.asarray(resets),
        "dropout_masks": random_dropout(cell, (B,), F, seed=seed),
    }
    spoilt = jnp.where(mask[..., None], inputs, jnp.nan)
    found = run_and_back(IMPLEMENTATIONS[implementation], cell, params, spoilt, cotangents, **options)
    wanted = expected(cell, params, inputs, cotangents, **options)
    _, (_, to_inputs, _) = found
    assert not np.asarray(to_inputs)[~mask].any()
    # Driven that hard, slopes are 1 - tanh² of nearly 1, of which rounding leaves no digit; values have all theirs.
    kept = slice(1) if scale > 1 else slice(None)
    assert_close(found[kept], wanted[kept], TOLERANCE)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def without_resets(options):
    return {**options, "resets": jnp.zeros((T, B), bool)}


@every_cell
def test_padding_leaves_the_sequence_alone_whatever_it_holds(name):
    cell = CELLS[name]
    (params, inputs, cotangents), options = situation(cell)
    results = []
    for filler in (0.0, 1e30, np.nan, -np.inf):
        filled = jnp.where(options["mask"][..., None], inputs, filler)
        results.append(run_and_back(SCAN, cell, params, filled, cotangents, **options))
    for other in results[1:]:
        chex.assert_trees_all_equal(results[0], other)
    d_inputs = results[0][1][1]
    assert np.all(np.asarray(d_inputs)[~np.asarray(options["mask"])] == 0.0)
    assert np.all(np.asarray(results[0][0][1])[~np.asarray(options["mask"])] == 0.0)


PATTERNS = {
    "right": np.arange(T)[:, None] < [0, 1, T],
    "left": np.arange(T)[:, None] >= [T, T - 1, 0],
    "holes": np.arange(T)[:, None] % [2, 3, 5] == 0,
}


@both_directions
@pytest.mark.parametrize("pattern", PATTERNS)
@every_cell
def test_a_masked_row_is_its_real_steps_alone(name, pattern, reverse):
    cell, mask = CELLS[name], PATTERNS[pattern]
    (params, inputs, cotangents), options = situation(cell)
    options = without_resets(options) | {"mask": jnp.asarray(mask), "reverse": reverse}
    (final, outputs), grads = run_and_back(SCAN, cell, params, inputs, cotangents, **options)
    for row in range(B):
        real, pick = mask[:, row], slice(row, row + 1)
        (alone_final, alone_outputs), alone_grads = expected(
            cell,
            params,
            inputs[real, pick],
            (jax.tree.map(lambda leaf: leaf[pick], cotangents[0]), cotangents[1][real, pick]),  # noqa: B023
            state=jax.tree.map(lambda leaf: leaf[pick], options["state"]),  # noqa: B023
            reverse=reverse,
        )
        assert_close(outputs[real, pick], alone_outputs, TOLERANCE)
        assert_close(jax.tree.map(lambda leaf: leaf[pick], final), alone_final, TOLERANCE)  # noqa: B023
        assert_close(grads[1][real, pick], alone_grads[1], TOLERANCE)
        assert_close(jax.tree.map(lambda leaf: leaf[pick], grads[2]), alone_grads[2], TOLERANCE)  # noqa: B023


@every_cell
def test_a_row_without_a_real_step_returns_the_state_it_started_from(name):
    (params, inputs, cotangents), options = situation(CELLS[name])
    options = without_resets(options) | {"mask": jnp.zeros((T, B), bool)}
    (final, outputs), grads = run_and_back(SCAN, CELLS[name], params, inputs, cotangents, **options)
    chex.assert_trees_all_equal(final, options["state"])
    assert not np.any(outputs)
    chex.assert_trees_all_equal(grads[2], cotangents[0])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads[:2]))


@both_directions
@every_cell
def test_packed_sequences_are_separate_runs(name, reverse):
    cell = CELLS[name]
    (params, inputs, _), options = situation(cell)
    cotangents = random_state(cell, params, (B,), seed=3), jnp.ones((T, B, cell.hidden_size))
    lengths = [[2, 1, 1], [1, 1, 3], [3]]
    resets = np.stack([jaxseq.packing_resets(row, T) for row in lengths], axis=1)
    mask = np.arange(T)[:, None] < [sum(row) for row in lengths]
    options = options | {"mask": jnp.asarray(mask), "resets": jnp.asarray(resets), "reverse": reverse}
    (final, outputs), _ = run_and_back(SCAN, cell, params, inputs, cotangents, **options)
    for row, row_lengths in enumerate(lengths):
        start, pick = 0, slice(row, row + 1)
        for length in row_lengths:
            stop = start + length
            one = jax.tree.map(lambda leaf: leaf[pick], cotangents[0])  # noqa: B023
            # In reverse the row's last sequence starts from `state`, if no padding comes between.
            first = reverse and stop == T
            state = jax.tree.map(lambda leaf: leaf[pick], options["state"]) if first else None  # noqa: B023
            (end, alone), _ = expected(
                cell,
                params,
                inputs[start:stop, pick],
                (one, cotangents[1][start:stop, pick]),
                state=state,
                reverse=reverse,
            )
            assert_close(outputs[start:stop, pick], alone, TOLERANCE)
            if start == 0 if reverse else stop == T:
                assert_close(jax.tree.map(lambda leaf: leaf[pick], final), end, TOLERANCE)  # noqa: B023
            start = stop


@every_cell
def test_reverse_is_the_flip_of_the_flipped(name):
    (params, inputs, (d_final, d_outputs)), options = situation(CELLS[name])
    options = without_resets(options)
    backward = run_and_back(SCAN, CELLS[name], params, inputs, (d_final, d_outputs), **options, reverse=True)
    (final, outputs), (d_params, d_inputs, d_state) = run_and_back(
        SCAN,
        CELLS[name],
        params,
        inputs[::-1],
        (d_final, d_outputs[::-1]),
        **options | {"mask": options["mask"][::-1]},
        reverse=False,
    )
    assert_close(backward, ((final, outputs[::-1]), (d_params, d_inputs[::-1], d_state)), TOLERANCE)


@every_cell
def test_segments_carry_the_state_over(name):
    cell = CELLS[name]
    (params, inputs, cotangents), _ = situation(cell)
    run = jax.jit(functools.partial(jaxseq.scan, cell))
    (final, outputs), _ = expected(cell, params, inputs, cotangents)
    state, pieces = None, []
    for segment in (inputs[:2], inputs[2:]):
        state, piece = run(params, segment, state=state)
        pieces.append(piece)
    assert_close((state, jnp.concatenate(pieces)), (final, outputs), TOLERANCE)


@every_cell
def test_one_sequence_needs_no_batch_axis(name):
    cell = CELLS[name]
    (params, inputs, cotangents), _ = situation(cell)
    (final, outputs), _ = expected(cell, params, inputs, cotangents)
    state, alone = jax.jit(functools.partial(jaxseq.scan, cell))(params, inputs[:, 1])
    assert_close((state, alone), (jax.tree.map(lambda leaf: leaf[1], final), outputs[:, 1]), TOLERANCE)
    # ... and more than one batch axis is as good as one
    state, squares = jax.jit(functools.partial(jaxseq.scan, cell))(params, inputs[:, None])
    assert_close((state, squares), (jax.tree.map(lambda a: a[None], final), outputs[:, None]), TOLERANCE)


class Clock:
    """A cell that takes nothing from its inputs but how many there are."""

    hidden_size = 5

    def init(self, key, input_size):
        return jax.random.normal(key, (5, 5))

    def initial_state(self, params, batch_shape):
        return jnp.full((*batch_shape, 5), 0.1, params.dtype)

    def project(self, params, inputs, masks):
        return None

    def step(self, params, state, drive, masks):
        state = jnp.tanh(gate_product(state, params, masks and masks.recurrent))
        return state, state


@pytest.mark.parametrize("implementation", [None, "hoisted", "deferred", "tabulated", "remat", "unrolled"])
@pytest.mark.parametrize("flags", [False, True], ids=["plain", "masked"])
def test_a_cell_may_take_nothing_from_its_inputs(implementation, flags):
    cell, inputs = Clock(), jnp.ones((T, B, F))
    params = cell.init(jax.random.key(0), F)
    rows = jnp.ones((T, B), bool).at[1].set(False).at[2, 0].set(False) if flags else None
    options = {"state": None, "mask": rows, "resets": None, "dropout_masks": None}
    cotangents = jnp.ones((B, 5)), jnp.ones((T, B, 5))
    run = IMPLEMENTATIONS[implementation] if implementation else jaxseq.scan
    results = [run_and_back(one, cell, params, inputs, cotangents, **options) for one in (run, SCAN)]
    assert_close(results[0], results[1], TOLERANCE)
    if not flags:
        _, outputs = run(cell, params, inputs)
        last = functools.reduce(lambda h, _: jnp.tanh(h @ params), range(T), jnp.full((B, 5), 0.1))
        assert_close(outputs[-1], last, TOLERANCE)


@pytest.mark.parametrize("shape", [(0, B), (T, 0), (1, B)], ids=["T=0", "B=0", "T=1"])
@pytest.mark.parametrize("implementation", ["scan", "hoisted", "deferred", "tabulated", "remat", "unrolled"])
@pytest.mark.parametrize("name", ["lstm", "learned_lstm", "minimal_gated_unit"])
def test_empty_and_single(name, implementation, shape):
    cell = CELLS[name]
    params, inputs = random_params(cell, F), jnp.ones((*shape, F))
    cotangents = random_state(cell, params, shape[1:]), jnp.ones((*shape, cell.hidden_size))
    actual = run_and_back(
        IMPLEMENTATIONS[implementation],
        cell,
        params,
        inputs,
        cotangents,
        state=None,
        mask=jnp.ones(shape, bool),
        resets=jnp.zeros(shape, bool),
        dropout_masks=None,
    )
    if shape[1]:
        assert_close(actual, expected(cell, params, inputs, cotangents), TOLERANCE)
    else:
        assert actual[0][1].shape == (*shape, cell.hidden_size)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(actual[1]))


@pytest.mark.parametrize("merge", ["concatenate", "sum", "average", "multiply", None])
@pytest.mark.parametrize("pair", [("lstm", "lstm"), ("gru", "learned_lstm")], ids="-".join)
def test_bidirectional_is_two_runs_merged(pair, merge):
    cells = tuple(CELLS[name] for name in pair)
    (_, inputs, _), options = situation(cells[0])
    mask, resets = options["mask"], options["resets"]
    params = tuple(random_params(cell, F, seed) for seed, cell in enumerate(cells))
    state = tuple(random_state(cell, own, (B,)) for cell, own in zip(cells, params, strict=True))
    dropout = tuple(random_dropout(cell, (B,), F, seed=seed) for seed, cell in enumerate(cells))
    run = jax.jit(functools.partial(jaxseq.bidirectional, cells, merge=merge))
    states, outputs = run(params, inputs, state=state, mask=mask, resets=resets, dropout_masks=dropout)
    wanted = []
    for direction in (0, 1):
        final, alone = expected(
            cells[direction],
            params[direction],
            inputs,
            (state[direction], jnp.zeros((T, B, cells[direction].hidden_size))),
            state=state[direction],
            mask=mask,
            resets=resets,
            dropout_masks=dropout[direction],
            reverse=direction == 1,
        )[0]
        assert_close(states[direction], final, TOLERANCE)
        wanted.append(alone)
    merged = {
        "concatenate": np.concatenate(wanted, -1),
        "sum": wanted[0] + wanted[1],
        "average": (wanted[0] + wanted[1]) / 2,
        "multiply": wanted[0] * wanted[1],
        None: tuple(wanted),
    }[merge]
    assert_close(outputs, merged, TOLERANCE)


def test_bidirectional_takes_one_cell_for_both_directions():
    cell, inputs = CELLS["gru"], jnp.ones((T, F))
    params = random_params(cell, F, 0), random_params(cell, F, 1)
    one = jaxseq.bidirectional(cell, params, inputs)
    chex.assert_trees_all_equal(one, jaxseq.bidirectional((cell, cell), params, inputs))


@both_directions
def test_stack_is_layer_after_layer(reverse):
    cells = CELLS["lstm"], CELLS["gru"], CELLS["learned_lstm"]
    (_, inputs, _), options = situation(cells[0])
    flags = {"mask": options["mask"], "resets": options["resets"]}
    params = [random_params(cell, F if not layer else 5, layer) for layer, cell in enumerate(cells)]
    state = [random_state(cell, own, (B,)) for cell, own in zip(cells, params, strict=True)]
    dropout = [random_dropout(cells[0], (B,), F), None, random_dropout(cells[2], (B,), 5)]
    run = jax.jit(functools.partial(jaxseq.stack, cells, reverse=reverse))
    states, outputs = run(params, inputs, state=state, dropout_masks=dropout, **flags)
    layer_inputs = inputs
    for layer, cell in enumerate(cells):
        (final, layer_inputs), _ = expected(
            cell,
            params[layer],
            layer_inputs,
            (state[layer], jnp.zeros((T, B, 5))),
            state=state[layer],
            dropout_masks=dropout[layer],
            reverse=reverse,
            **flags,
        )
        assert_close(states[layer], final, TOLERANCE)
    assert_close(outputs, layer_inputs, TOLERANCE)


@every_cell
def test_the_final_states_output_is_the_last_real_output(name):
    cell = CELLS[name]
    (params, inputs, _), _ = situation(cell)
    lengths = np.array([2, T, 1])
    run = jax.jit(functools.partial(jaxseq.scan, cell))
    state, outputs = run(params, inputs, mask=jaxseq.length_mask(lengths, T))
    last = outputs[lengths - 1, np.arange(B)]
    assert_close(jaxseq.state_output(cell, params, state), last, TOLERANCE)


@both_directions
@pytest.mark.parametrize("length", [64, 70, 101, 120])
@pytest.mark.parametrize("which", ["deferred", "hoisted", "remat"])
def test_segments_are_the_whole(which, length, reverse, monkeypatch):
    """Segments of 32 or 100 steps: a whole of more numbers of drives than this would take long."""
    monkeypatch.setattr(recurrence, "_SEGMENT", 1)
    cell, rng = CELLS["gru"], np.random.default_rng(0)
    params, inputs = random_params(cell, F), jnp.asarray(rng.normal(size=(length, B, F)))
    cotangents = random_state(cell, params, (B,), seed=3), jnp.asarray(rng.normal(size=(length, B, cell.hidden_size)))
    options = {
        "state": random_state(cell, params, (B,)),
        "mask": jnp.asarray(rng.random((length, B)) < 0.7),
        "resets": jnp.asarray(rng.random((length, B)) < 0.1),
        "dropout_masks": random_dropout(cell, (B,), F),
        "reverse": reverse,
    }
    check_against_reference(IMPLEMENTATIONS[which], cell, (params, inputs, cotangents), options)


@pytest.mark.usefixtures("compiled_as_by_users")
@every_cell
def test_a_stream_of_100_000_steps_does_not_drift(name):
    """The same 1,000 inputs 100 times over: the last round ends as far from float64 as the second, no further."""
    cell, rng = CELLS[name], np.random.default_rng(6)
    params = random_params(cell, F, scale=0.4)
    inputs = jnp.asarray(rng.normal(size=(1_000, F)))

    @functools.partial(jax.jit, static_argnames="dtype")
    def rounds(params, inputs, dtype):
        params, inputs = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, inputs))

        def one_round(state, _):
            state, outputs = jax.lax.scan(lambda *at: jaxseq.step(cell, params, *at), state, inputs)
            return state, (state, outputs.astype("float64"))

        return jax.lax.scan(one_round, cell.initial_state(params, ()), length=100)[1]

    states, outputs = rounds(params, inputs, "float64")
    assert_close(outputs[-1], outputs[1], TOLERANCE)
    for dtype in ("float32", "bfloat16"):
        found, rounded = rounds(params, inputs, dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
        error = np.abs(rounded - outputs).max(axis=(1, 2))
        assert error[-1] <= error[1] <= 5 * jnp.finfo(dtype).eps
        jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[-1], leaf[1]), found)
