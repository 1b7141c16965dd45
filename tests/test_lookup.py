"""Inputs looked up in a table: the same numbers as of the rows, whether these are projected or the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from jaxseq import layers
from tests.examples import CELLS, MinimalGatedUnit, assert_close, random_dropout, random_params, random_state
from tests.test_compilation import count_dots, loop_bodies

V, T, B, F = 7, 5, 3, 4
TOKENS = np.array([[1, 6, 1], [0, 0, 2], [5, 6, 1], [2, 1, 3], [0, 3, 6]])  # of all rows but one, which has no gradient
TOLERANCE = 1e-12
KEY = jax.random.key(0)
every_cell = pytest.mark.parametrize("name", CELLS)
pytestmark = pytest.mark.usefixtures("compiled_quickly")


def table(dtype="float64"):
    return jnp.asarray(np.random.default_rng(8).normal(size=(V, F)), dtype)


def both(cell, **options):
    """Functions of (params, table) to (state, outputs): of the rows, and of a lookup whose table is projected."""
    run = functools.partial(jaxseq.scan, cell, **options)

    def of_rows(params, table):
        return run(params, table[TOKENS], implementation="scan")

    def tabulated(params, table):
        return run(params, jaxseq.Lookup(table, TOKENS), implementation="tabulated")

    return of_rows, tabulated


@pytest.mark.usefixtures("strict_promotion", "x64")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@every_cell
def test_a_table_projected_gives_the_numbers_and_gradients_of_its_rows(name, reverse):
    cell, rng = CELLS[name], np.random.default_rng(1)
    params = random_params(cell, F)
    masks = None if name == "minimal_gated_unit" else random_dropout(cell, (B,), F)._replace(input=None)
    options = {
        "state": random_state(cell, params, (B,)),
        "mask": jnp.asarray(rng.random((T, B)) < 0.7),
        "resets": jnp.asarray(rng.random((T, B)) < 0.3),
        "dropout_masks": masks,
        "reverse": reverse,
    }
    found, wanted = [], []
    for run, results in zip(both(cell, **options), (wanted, found), strict=True):
        result, pull = jax.vjp(run, params, table())
        change = jax.tree.map(lambda leaf: jnp.asarray(np.random.default_rng(3).normal(size=leaf.shape)), result)
        results += [result, jax.jit(run)(params, table()), pull(change)]
    assert_close(found, wanted, TOLERANCE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{"remat": True}, {"unroll": 2}, {"remat": True, "reverse": True}], ids=str)
def test_remat_and_unroll_change_nothing(options):
    params = random_params(CELLS["gru"], F)
    gradients = [
        jax.grad(lambda *given, run=run: run(*given)[1].sum(), (0, 1))(params, table())
        for run in both(CELLS["gru"], **options)
    ]
    assert_close(gradients[1], gradients[0], TOLERANCE)


@pytest.mark.usefixtures("x64")
def test_forward_mode_and_second_derivatives():
    params = random_params(CELLS["lstm"], F)
    changes = random_params(CELLS["lstm"], F, seed=4), table()[::-1]
    tangents, curvatures = [], []
    for run in both(CELLS["lstm"]):
        slope = jax.grad(lambda *given, run=run: jnp.sum(run(*given)[1] ** 2), (0, 1))
        tangents.append(jax.jvp(run, (params, table()), changes))
        curvatures.append(jax.jvp(slope, (params, table()), changes))
    assert_close(tangents[1], tangents[0], TOLERANCE)
    assert_close(curvatures[1], curvatures[0], TOLERANCE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", [None, "tabulated", "scan", "joint", "deferred", "unrolled"])
def test_one_sequence_and_many_by_vmap(implementation):
    cell = CELLS["lstm"]
    params = random_params(cell, F)
    _, wanted = jaxseq.scan(cell, params, table()[TOKENS])

    def run(tokens):
        return jaxseq.scan(cell, params, jaxseq.Lookup(table(), tokens), implementation=implementation)[1]

    assert_close(jax.vmap(run, 1, 1)(TOKENS), wanted, TOLERANCE)
    assert_close(run(TOKENS[:, 0]), wanted[:, 0], TOLERANCE)


@pytest.mark.parametrize("index", [-V - 1, V, 10**6])
@pytest.mark.parametrize("implementation", ["scan", "tabulated"])
def test_an_index_outside_the_table_gives_nan_unless_its_step_is_masked(implementation, index):
    cell, tokens = CELLS["gru"], TOKENS.copy()
    params, mask = random_params(cell, F, dtype="float32"), np.ones((T, B), bool)
    tokens[3, 1], mask[3, 1] = index, False
    run = functools.partial(jaxseq.scan, cell, params, implementation=implementation)
    _, outputs = run(jaxseq.Lookup(table("float32"), tokens))
    assert np.isnan(outputs[3:, 1]).all() and np.isfinite(outputs[:, [0, 2]]).all()

    def loss(table, tokens):
        return run(jaxseq.Lookup(table, tokens), mask=mask)[1].sum()

    wanted = jax.value_and_grad(loss)(table("float32"), TOKENS)
    assert_close(jax.value_and_grad(loss)(table("float32"), tokens), wanted, 1e-6)


def test_a_table_is_multiplied_once_and_nothing_is_in_the_loops():
    cell = CELLS["gru"]
    params = random_params(cell, F, dtype="float32")
    recurrent = 2
    for run, projections in zip(both(cell), (1, 0), strict=True):
        jaxpr = jax.make_jaxpr(jax.grad(lambda *given, run=run: run(*given)[1].sum(), (0, 1)))(params, table("float32"))
        forward, backward = loop_bodies(jaxpr.jaxpr)
        assert count_dots(forward) == recurrent + projections
        assert count_dots(backward) == 2 * (recurrent + projections)
        outside = 0 if projections else 3  # the drives, and the gradients of the table and of the weights
        assert count_dots(jaxpr.jaxpr, loops=False) == outside


def test_no_drive_of_a_step_is_stored_where_derivatives_are_taken():
    """[T, B, G·H] is what hoisting would keep: the loop reads the table instead."""
    cell, tokens = jaxseq.LSTM(16), np.zeros((64, 8), int)
    params = random_params(cell, 48, dtype="float32")

    def bytes_needed(inputs, implementation, table):
        def loss(params, table):
            return jaxseq.scan(cell, params, inputs(table), implementation=implementation)[0].hidden.sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(params, table).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    rows = jnp.ones((V, 48))
    tabulated = bytes_needed(lambda table: jaxseq.Lookup(table, tokens), "tabulated", rows)
    assert tabulated < bytes_needed(lambda table: table[tokens], "scan", rows)


def test_input_dropout_takes_the_rows_and_refuses_the_table():
    cell = CELLS["lstm"]
    params, masks = random_params(cell, F, dtype="float32"), random_dropout(cell, (B,), F, dtype="float32")
    lookup = jaxseq.Lookup(table("float32"), TOKENS)
    _, found = jaxseq.scan(cell, params, lookup, dropout_masks=masks)
    assert_close(found, jaxseq.scan(cell, params, lookup.rows, dropout_masks=masks)[1], 1e-6)
    message = 'implementation must not be "tabulated" but for inputs that are a Lookup and have no dropout masks, got '
    with pytest.raises(ValueError, match=message):
        jaxseq.scan(cell, params, lookup, dropout_masks=masks, implementation="tabulated")
    with pytest.raises(ValueError, match=message):
        jaxseq.scan(cell, params, lookup.rows, implementation="tabulated")
    with pytest.raises(ValueError, match=message):
        jaxseq.explain(cell, (T, B, F), implementation="tabulated")


def test_gradient_flow_takes_a_lookup():
    cell = CELLS["lstm"]
    params, lookup = random_params(cell, F, dtype="float32"), jaxseq.Lookup(table("float32"), TOKENS)
    assert_close(jaxseq.gradient_flow(cell, params, lookup), jaxseq.gradient_flow(cell, params, lookup.rows), 1e-6)


def test_stacks_and_both_directions_take_a_lookup():
    cells = [jaxseq.GRU(4), MinimalGatedUnit(4)]
    params = [random_params(cell, F, dtype="float32") for cell in cells]
    lookup = jaxseq.Lookup(table("float32"), TOKENS)
    assert_close(jaxseq.stack(cells, params, lookup), jaxseq.stack(cells, params, lookup.rows), 1e-6)
    pair, both_params = (cells[0], cells[0]), (params[0], params[0])
    run = functools.partial(jaxseq.bidirectional, pair, both_params)
    assert_close(run(lookup, implementation="tabulated"), run(lookup.rows), 1e-6)


# Flax


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("module", [jaxseq.Recurrent, jaxseq.Bidirectional])
def test_layers_take_a_lookup(module, time_major):
    layer, rows = module(CELLS["gru"], time_major=time_major), table("float32")
    tokens = TOKENS if time_major else TOKENS.T
    variables = layer.init(KEY, rows[tokens])
    again = layer.init(KEY, jaxseq.Lookup(rows, tokens))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, again)
    assert_close(layer.apply(variables, jaxseq.Lookup(rows, tokens)), layer.apply(variables, rows[tokens]), 1e-6)
    with pytest.raises(ValueError, match=r"^inputs must have three axes \[B, T, F\], got shape \(5, 4\)"):
        layer.apply(variables, jaxseq.Lookup(rows, TOKENS[:, 0]))


def test_an_encoder_looks_up_as_its_embedding_does_and_its_summary_says_so(monkeypatch):
    monkeypatch.setattr("jaxseq.choice._tabulates", lambda *_: True)  # at this size too
    model = jaxseq.SequenceEncoder(CELLS["lstm"], vocabulary_size=V, embedding_size=F, padding_index=0)
    variables = model.init(KEY, TOKENS.T)
    params = variables["params"]

    def embedded(params):
        rows = layers.Embedding(V, F).apply({"params": params["embedding"]}, TOKENS)
        state, outputs = jaxseq.scan(CELLS["lstm"], params["layer_0"]["cell"], rows, mask=TOKENS != 0)
        return state.hidden, jnp.swapaxes(outputs, 0, 1)

    assert_close(model.apply(variables, TOKENS.T), embedded(params), 1e-6)
    found, wanted = (
        jax.grad(lambda params, run=run: sum(jnp.sum(part**2) for part in run(params)))(params)
        for run in (lambda params: model.apply({"params": params}, TOKENS.T), embedded)
    )
    assert_close(found, wanted, 1e-5)
    line = next(line for line in jaxseq.summary(model, TOKENS.T).splitlines() if line.startswith("embedding"))
    assert line.split() == ["embedding", "(Embed)", f"({T},", f"{B},", f"{F})", str(V * F)]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_embedding_looked_up_is_of_the_dtype_that_it_gives(dtype):
    embedding = layers.Embedding(V, F, dtype=None if dtype is None else jnp.dtype(dtype))
    variables = embedding.init(KEY, TOKENS)
    lookup = embedding.apply(variables, TOKENS, method="lookup")
    assert_close(lookup.rows, embedding.apply(variables, TOKENS), 0)
    assert lookup.rows.dtype == lookup.dtype == embedding.apply(variables, TOKENS).dtype
    assert lookup.shape == (T, B, F)
