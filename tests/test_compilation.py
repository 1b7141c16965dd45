"""What is compiled: one program a shape, and how many products it does in each step."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import jaxseq
from tests.examples import CELLS, MinimalGatedUnit, random_params

every_cell = pytest.mark.parametrize("name", CELLS)
RECURRENT_PRODUCTS = {
    "simple_rnn": 1,
    "lstm": 1,
    "gru": 2,  # the gates', and the candidate's, which needs the reset gate first
    "gru_reset_after": 1,
    "learned_lstm": 1,
    "minimal_gated_unit": 2,
}
T, B, F = 5, 3, 4


def inner_jaxprs(equation):
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
    ):
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            yield value


def find_equations(jaxpr, primitive, *, loops=True):
    """Equations of a primitive, those of loop bodies once or not at all."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation
        elif loops or equation.primitive.name != "scan":
            for inner in inner_jaxprs(equation):
                yield from find_equations(inner, primitive, loops=loops)


def count_equations(jaxpr, primitive, shape=None, *, loops=True):
    """How many there are, of one output shape or of any."""
    found = find_equations(jaxpr, primitive, loops=loops)
    return sum(shape is None or sorted(one.outvars[0].aval.shape) == sorted(shape) for one in found)


def count_dots(jaxpr, shape=None, *, loops=True):
    return count_equations(jaxpr, "dot_general", shape, loops=loops)


def loop_bodies(jaxpr):
    bodies = []
    for equation in jaxpr.eqns:
        inner = list(inner_jaxprs(equation))
        if equation.primitive.name == "scan":
            bodies += inner
        else:
            bodies += [body for sub in inner for body in loop_bodies(sub)]
    return bodies


def loop_lengths(jaxpr):
    """How many times each loop runs, an outer one before those inside it."""
    lengths = []
    for equation in jaxpr.eqns:
        lengths += [equation.params["length"]] if equation.primitive.name == "scan" else []
        lengths += [length for inner in inner_jaxprs(equation) for length in loop_lengths(inner)]
    return lengths


def programs(cell, implementation):
    """Jaxprs of a run over a native batch and of a vmap over its rows, each with the params first."""
    params = random_params(cell, F, dtype="float32")
    run = functools.partial(jaxseq.scan, cell, implementation=implementation)
    rows = jax.vmap(run, (None, 1), (0, 1))
    return params, {"batch": run, "vmap": rows}


@every_cell
def test_products_in_each_step(name):
    recurrent = RECURRENT_PRODUCTS[name]
    for implementation, inside, outside in (("scan", 1, 0), ("hoisted", 0, 1)):
        params, runs = programs(CELLS[name], implementation)
        for run in runs.values():
            jaxpr = jax.make_jaxpr(run)(params, jnp.ones((T, B, F))).jaxpr
            (body,) = loop_bodies(jaxpr)
            assert count_dots(body) == recurrent + inside
            assert count_dots(jaxpr, loops=False) == outside


@every_cell
def test_one_product_for_each_weight_gradient_of_a_whole_batch(name):
    cell, recurrent = CELLS[name], RECURRENT_PRODUCTS[name]
    for implementation in ("scan", "hoisted"):
        params, runs = programs(cell, implementation)
        for run in runs.values():

            def loss(params, inputs, run=run):
                return run(params, inputs)[1].sum()

            jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((T, B, F))).jaxpr
            _, body = loop_bodies(jaxpr)
            hoisted = implementation == "hoisted"
            # the gradients by the recurrent weights, by h, and, where it was not hoisted, by the input weights
            assert count_dots(body) == 2 * recurrent + (not hoisted)
            by_w_input = cell.gates * cell.hidden_size, F
            assert count_dots(body, by_w_input) == (not hoisted)
            assert count_dots(jaxpr, by_w_input, loops=False) == hoisted


class WithoutGateProduct(MinimalGatedUnit):
    def project(self, params, inputs, masks):
        return inputs @ params.w_input + params.bias


@pytest.mark.parametrize("implementation", ["hoisted", "deferred"])
@pytest.mark.parametrize(
    ("cell", "dropout"),
    [(cell, dropout) for cell in CELLS.values() for dropout in (0.0, 0.5)] + [(WithoutGateProduct(5), 0.0)],
)
def test_no_product_of_all_steps_sums_over_two_axes(cell, dropout, implementation):
    """On a CPU XLA takes several times as long for one that does."""
    params, inputs, masks = random_params(cell, F, dtype="float32"), jnp.ones((T, B, F)), None
    if dropout:
        masks = jaxseq.dropout_masks(jax.random.key(0), cell, F, (B,), dropout=dropout, recurrent_dropout=dropout)

    def loss(params, inputs):
        return jaxseq.scan(cell, params, inputs, dropout_masks=masks, implementation=implementation)[1].sum()

    with jax.default_device(jax.devices("cpu")[0]):
        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, inputs).jaxpr
    products = list(find_equations(jaxpr, "dot_general", loops=False))
    assert len(products) >= 3  # the drive, and its gradients by the weights and the inputs
    assert all(len(axes) == 1 for one in products for axes in one.params["dimension_numbers"][0])


@pytest.mark.parametrize("implementation", ["scan", "joint"])
def test_padding_costs_no_pass_over_the_inputs_nor_their_gradients(implementation):
    """They are zeroed where a step reads them."""
    cell, inputs, mask = jaxseq.LSTM(2), jnp.ones((T, B, F)), jnp.ones((T, B), bool)
    params = random_params(cell, F, dtype="float32")

    def loss(params, inputs):
        return jaxseq.scan(cell, params, inputs, mask=mask, implementation=implementation)[1].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, inputs).jaxpr
    count = functools.partial(count_equations, jaxpr, "select_n")
    assert count((T, B, F), loops=False) == 0
    assert count((B, F)) >= 2  # of the inputs forward, of their gradients backward, and what is made again there


@every_cell
def test_deferred_takes_every_weight_gradient_after_the_loop_in_one_product(name):
    cell, recurrent = CELLS[name], RECURRENT_PRODUCTS[name]
    params, runs = programs(cell, "deferred")
    for run in runs.values():

        def loss(params, inputs, run=run):
            return run(params, inputs)[1].sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params, jnp.ones((T, B, F))).jaxpr
        jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        forward, backward = loop_bodies(jaxpr)
        assert count_dots(forward) == recurrent
        assert count_dots(backward) == recurrent  # the gradients by h alone
        # outside: the drive, one gradient for each recurrent product, and the input weights'
        assert count_dots(jaxpr, loops=False) == 1 + recurrent + 1


@pytest.mark.parametrize("kind", [jaxseq.SimpleRNN, jaxseq.LSTM, jaxseq.GRU, MinimalGatedUnit])
def test_forward_alone_and_what_is_differentiated_are_chosen_apart(kind):
    """A few sequences: hoisted forward, and weight gradients after the loop where there are any."""
    cell, shape = kind(64), (T, 2, 24)  # F is 12 B
    params, inputs = random_params(cell, 24, dtype="float32"), jnp.ones(shape)

    def program(implementation, differentiate):
        run = functools.partial(jaxseq.scan, cell, implementation=implementation)
        wanted = jax.grad(lambda *arguments: run(*arguments)[1].sum()) if differentiate else run
        return jax.make_jaxpr(wanted)(params, inputs).jaxpr

    with jax.default_device(jax.devices("cpu")[0]):
        for differentiate in (False, True):
            choice = jaxseq.explain(cell, shape, gradient=differentiate).implementation
            assert choice == ("deferred" if differentiate else "hoisted")
            chosen, forced = (program(one, differentiate) for one in (None, choice))
            assert count_dots(chosen) == count_dots(forced)
            assert count_dots(chosen, loops=False) == count_dots(forced, loops=False)
        assert count_dots(program(None, True)) != count_dots(program("scan", True))


@every_cell
def test_what_is_not_differentiated_costs_no_product(name):
    """Inputs that are data have no gradient, and none is made for them on the way to the parameters'."""
    cell = CELLS[name]
    params, inputs = random_params(cell, F, dtype="float32"), jnp.ones((T, B, F))
    run = functools.partial(jaxseq.scan, cell, implementation="hoisted")
    jaxpr = jax.make_jaxpr(jax.grad(lambda params: run(params, inputs)[1].sum()))(params).jaxpr
    before, after = 1, 1  # the drives, and the gradient of the weights
    assert count_dots(jaxpr, loops=False) == before + after


def test_unrolled_has_no_loop():
    params, runs = programs(CELLS["lstm"], "unrolled")
    jaxpr = jax.make_jaxpr(runs["batch"])(params, jnp.ones((T, B, F))).jaxpr
    assert loop_bodies(jaxpr) == []
    assert count_dots(jaxpr) == 2 * T


def test_without_dropout_a_gate_costs_no_product_of_its_own():
    cell = CELLS["lstm"]
    params, inputs = random_params(cell, F, dtype="float32"), jnp.ones((T, B, F))
    masks = jaxseq.dropout_masks(jax.random.key(0), cell, F, (B,), recurrent_dropout=0.5)
    jaxpr = jax.make_jaxpr(functools.partial(jaxseq.scan, cell, dropout_masks=masks))(params, inputs)
    (body,) = loop_bodies(jaxpr.jaxpr)
    assert count_dots(body, (B, 4 * cell.hidden_size)) == 1  # the input's: no dropout there
    assert count_dots(body, (B, cell.hidden_size)) == 4  # one a gate


@pytest.mark.parametrize(
    "build",
    [
        lambda: jaxseq.SimpleRNN(3),
        lambda: jaxseq.LSTM(3, dtype=jnp.float32),
        lambda: jaxseq.GRU(3, activation="relu"),
        lambda: jaxseq.GRUResetAfter(3),
        lambda: jaxseq.LearnedState(jaxseq.GRU(3)),
        lambda: MinimalGatedUnit(3),
    ],
)
def test_one_compilation_a_shape(build):
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(cell, params, inputs, mask):
        traces.append(inputs.shape)
        return jaxseq.scan(cell, params, inputs, mask=mask)[1]

    params = random_params(build(), F, dtype="float32")
    for filler in (0.0, 1.0):
        run(build(), params, jnp.full((T, B, F), filler), jnp.full((T, B), bool(filler)))
    assert traces == [(T, B, F)] and run._cache_size() == 1
    run(build(), params, jnp.ones((T + 1, B, F)), jnp.ones((T + 1, B), bool))
    assert len(traces) == 2 and run._cache_size() == 2


def test_scan_traces_the_cell_once_however_long_the_sequence():
    calls = []

    class Counting(MinimalGatedUnit):
        def step(self, *arguments):
            calls.append(1)
            return super().step(*arguments)

    cell = Counting(3)
    params = random_params(cell, F, dtype="float32")
    counts = []
    for steps in (2, 200):
        calls.clear()
        jax.make_jaxpr(functools.partial(jaxseq.scan, cell))(params, jnp.ones((steps, F)))
        counts.append(len(calls))
    assert counts[0] == counts[1]


def test_importing_creates_no_array():
    # The number of CPU devices can be set until the first array exists; that is the caller's to do.
    import subprocess
    import sys

    program = (
        "import jaxseq, jaxseq.conversions, jax; jaxseq.LSTM(3); jax.config.update('jax_num_cpu_devices', 3); "
        "print(len(jax.devices('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3"]


STORED = {  # arrays [T, B, H] beside the inputs: what the derivative of one step cannot do without
    "simple_rnn": 2,  # h, h'
    "lstm": 7,  # h, c, i, f, g, o, tanh(c')
    "gru": 4,  # h, r, z, n
    "gru_reset_after": 5,  # the same, and of the product of all gates what the reset gate scales
    "learned_lstm": 7,
    "minimal_gated_unit": 3,  # h, f, n
}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@every_cell
def test_what_a_step_stores_for_the_backward_pass(name, dropout):
    cell = CELLS[name]
    params, inputs = random_params(cell, F, dtype="float32"), jnp.ones((T, B, F))
    masks = None
    if dropout and hasattr(cell, "gates"):
        masks = jaxseq.dropout_masks(jax.random.key(0), cell, F, (B,), dropout=dropout, recurrent_dropout=dropout)
    run = functools.partial(jaxseq.scan, cell, dropout_masks=masks, implementation="scan")
    _, backward = jax.vjp(run, params, inputs)
    stored = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[:2] == (T, B)]
    assert sum(leaf.size for leaf in stored) == T * B * (STORED[name] * cell.hidden_size + F)


@pytest.mark.parametrize(
    ("implementation", "length", "batch", "lengths"),
    [
        ("deferred", 500, 8, [500]),  # 2¹⁸ numbers of drives and fewer are one segment: 500 · 8 · 64
        ("deferred", 500, 16, [2, 250]),  # the longest that divides T and is not above 256
        ("deferred", 500, 512, [15, 32, 20]),  # of at least 32, and what is left over
        ("deferred", 512, 512, [16, 32]),
        ("hoisted", 500, 512, [5, 100]),  # of at least 100
        ("hoisted", 30, 512, [30]),
        ("scan", 500, 512, [500]),
    ],
)
def test_segments_have_as_many_steps_as_their_drives_have_room_for(implementation, length, batch, lengths):
    cell = jaxseq.LSTM(16)
    params, inputs = random_params(cell, F, dtype="float32"), jax.ShapeDtypeStruct((length, batch, F), "float32")
    run = functools.partial(jaxseq.scan, cell, implementation=implementation)
    with jax.default_device(jax.devices("cpu")[0]):
        jaxpr = jax.make_jaxpr(lambda params, inputs: jax.vjp(run, params, inputs)[0])(params, inputs).jaxpr
    jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    assert loop_lengths(jaxpr) == lengths


@pytest.mark.parametrize("reverse", [False, True])
def test_remat_stores_two_roots_of_the_steps(reverse):
    cell, length = CELLS["lstm"], 110  # 10 segments of 11: √110 rounded up
    params, inputs = random_params(cell, F, dtype="float32"), jnp.ones((length, B, F))
    run = functools.partial(jaxseq.scan, cell, reverse=reverse, remat=True)
    _, backward = jax.vjp(run, params, inputs)
    stored = sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.ndim > 2)
    assert stored == inputs.size + 10 * 2 * B * cell.hidden_size  # h and c before each segment
