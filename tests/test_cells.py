"""The cells themselves: what they draw, print, compare and save, and what they refuse."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from jaxseq.cells.activations import ACTIVATIONS
from jaxseq.cells.initializers import INITIALIZERS
from jaxseq.cells.products import summed_gates
from tests.examples import CELLS, MinimalGatedUnit, assert_close, expected, random_params, wrapped

pytestmark = pytest.mark.usefixtures("strict_promotion")
CLASSES = (jaxseq.SimpleRNN, jaxseq.LSTM, jaxseq.GRU, jaxseq.GRUResetAfter)
every_class = pytest.mark.parametrize("cell_class", CLASSES)


@every_class
def test_init_draws_what_keras_draws(cell_class):
    size, features = 48, 80
    cell = cell_class(size)
    params = jax.jit(cell.init, static_argnums=1)(jax.random.key(0), features)
    shapes = {name: leaf.shape for name, leaf in params._asdict().items() if name in ("w_input", "w_hidden")}
    assert shapes == {"w_input": (features, cell.gates * size), "w_hidden": (size, cell.gates * size)}
    # Glorot uniform over the whole matrix of all gates, orthogonal rows
    bound = (6 / (features + cell.gates * size)) ** 0.5
    assert 0.98 * bound < jnp.abs(params.w_input).max() <= bound
    assert abs(float(jnp.std(params.w_input)) / (bound / 3**0.5) - 1) < 0.05
    np.testing.assert_allclose(params.w_hidden @ params.w_hidden.T, np.eye(size), atol=2e-6)
    for name, leaf in params._asdict().items():
        if name.startswith("bias"):
            wanted = np.zeros(cell.gates * size)
            if cell_class is jaxseq.LSTM:
                wanted[size : 2 * size] = 1  # the forget gate
            np.testing.assert_array_equal(leaf, wanted)


@every_class
def test_init_draws_each_array_and_key_anew(cell_class):
    keys = []

    def initializer(key, shape, dtype):
        keys.append(jax.random.key_data(key).tobytes())
        return jax.random.normal(key, shape, dtype)

    cell = cell_class(
        6, **dict.fromkeys(("input_initializer", "recurrent_initializer", "bias_initializer"), initializer)
    )
    first, _ = (cell.init(jax.random.key(seed), 6) for seed in (0, 1))
    assert len(set(keys)) == len(keys) == 2 * len(first)
    chex.assert_trees_all_equal(first, cell.init(jax.random.key(0), 6))


@every_class
def test_half_precision_is_drawn_in_full_and_rounded(cell_class):
    narrow, wide = (cell_class(6, param_dtype=dtype).init(jax.random.key(0), 5) for dtype in ("bfloat16", "float32"))
    chex.assert_trees_all_equal(narrow, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide))


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_every_initializer_draws_every_dtype(name):
    for dtype in ("float32", "bfloat16"):
        cell = jaxseq.SimpleRNN(4, input_initializer=name, recurrent_initializer=name, param_dtype=dtype)
        params = jax.eval_shape(lambda key, cell=cell: cell.init(key, 3), jax.random.key(0))
        assert {leaf.dtype.name for leaf in params} == {dtype}


@every_class
def test_states_start_at_zero_in_the_parameters_dtype(cell_class):
    cell = cell_class(4, param_dtype="bfloat16")
    state = cell.initial_state(random_params(cell, 3, dtype="bfloat16"), (2,))
    assert {(leaf.shape, leaf.dtype.name) for leaf in state} == {((2, 4), "bfloat16")}
    assert not any(np.any(leaf) for leaf in state)


def test_a_learned_state_starts_where_the_cells_own_does_and_can_be_donated():
    cell = jaxseq.LearnedState(jaxseq.LSTM(4))
    params = cell.init(jax.random.key(0), 3)
    assert params.initial_state.hidden.shape == params.initial_state.carry.shape == (4,)
    assert not any(np.any(leaf) for leaf in params.initial_state)
    # hidden and carry must not be one buffer: a training step donates its parameters
    jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)(params)


def test_cells_print_what_a_user_would_write():
    assert repr(jaxseq.LSTM(hidden_size=128)) == "LSTM(hidden_size=128)"
    assert repr(jaxseq.GRU(64, activation="relu", dtype=jnp.bfloat16)) == (
        "GRU(hidden_size=64, activation='relu', dtype='bfloat16')"
    )
    assert repr(jaxseq.LearnedState(jaxseq.SimpleRNN(8))) == "LearnedState(cell=SimpleRNN(hidden_size=8))"


@pytest.mark.parametrize("name", CELLS)
def test_cells_compare_and_hash_by_value(name):
    cell = CELLS[name]
    again = dataclasses.replace(cell)
    assert again is not cell and again == cell and hash(again) == hash(cell)
    wider = dataclasses.replace(wrapped(cell), hidden_size=6)
    assert wider != wrapped(cell)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.hidden_size = 3


def test_sizes_and_dtypes_are_kept_in_one_form():
    assert jaxseq.LSTM(np.int64(4), dtype=jnp.float32) == jaxseq.LSTM(4, dtype="float32")
    assert type(jaxseq.LSTM(np.int64(4)).hidden_size) is int
    assert jaxseq.LSTM(4) != jaxseq.GRU(4)
    for number in (np.float32(0.5), jnp.float32(0.5)):
        cell = jaxseq.LSTM(4, forget_bias=number)
        assert hash(cell) == hash(jaxseq.LSTM(4, forget_bias=0.5)) and type(cell.forget_bias) is float
        assert jaxseq.cell_from_json(jaxseq.cell_to_json(cell)) == cell


@dataclasses.dataclass(frozen=True)
class WithSizes(MinimalGatedUnit):
    """A third party's cell with a setting that JSON has no type for."""

    sizes: tuple = ()


@pytest.mark.parametrize("name", CELLS)
def test_cells_can_be_written_down_and_read_back(name):
    cell = CELLS[name]
    text = jaxseq.cell_to_json(cell)
    assert jaxseq.cell_from_json(text, (*jaxseq.cells.CELLS, MinimalGatedUnit)) == cell


def test_settings_are_written_down_too():
    cell = jaxseq.LSTM(3, activation="relu", forget_bias=0.5, dtype="bfloat16", param_dtype="float64")
    assert jaxseq.cell_from_json(jaxseq.cell_to_json(cell)) == cell
    nested = jaxseq.LearnedState(cell)
    assert jaxseq.cell_from_json(jaxseq.cell_to_json(nested)) == nested
    several = WithSizes(4, (2, (3, 4)))
    assert jaxseq.cell_from_json(jaxseq.cell_to_json(several), (WithSizes,)) == several


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jaxseq.cell_to_json(jaxseq.LSTM(3, activation=jnp.sin)), "activation must be given by name"),
        (
            lambda: jaxseq.cell_to_json(jaxseq.LearnedState(jaxseq.GRU(3, bias_initializer=jnp.zeros))),
            "bias_initializer must be given by name",
        ),
        (lambda: jaxseq.cell_to_json(object()), "cell must be an instance of a dataclass"),
        (lambda: jaxseq.cell_from_json('{"type": "LSTM2"}'), "type must be one of .*'LSTM'.*got 'LSTM2'"),
        (lambda: jaxseq.cell_from_json("{}"), "type must be one of .*got None"),
        (lambda: jaxseq.cell_from_json("3"), "must be written as a JSON object, got 3"),
        (lambda: jaxseq.cell_from_json("not JSON"), "Expecting value"),
        (lambda: jaxseq.cell_from_json('{"type": "LSTM"}'), "LSTM could not be read: .*hidden_size"),
        (lambda: jaxseq.cell_from_json('{"type": "LSTM", "hidden_size": 3, "x": 1}'), "LSTM could not be .*x"),
        (lambda: jaxseq.cell_from_json('{"type": "LSTM", "hidden_size": 0}'), "hidden_size must be"),
        (lambda: jaxseq.cell_from_json(jaxseq.cell_to_json(MinimalGatedUnit(3))), "got 'MinimalGatedUnit'"),
    ],
)
def test_what_cannot_be_written_or_read(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({"hidden_size": size}, f"hidden_size must be an integer of at least 1, got {size!r}")
            for size in (0, -1, 1.5, True, "4", None)
        ),
        ({"activation": "tahn"}, "activation: activation must be a function or one of .*got 'tahn'"),
        ({"activation": None}, "activation: .*got None"),
        ({"input_initializer": "glorot"}, "input_initializer: initializer must be .*got 'glorot'"),
        ({"recurrent_initializer": 3}, "recurrent_initializer: .*got 3"),
        ({"bias_initializer": []}, "bias_initializer: "),
        ({"dtype": "int32"}, "dtype must be a floating-point dtype, got 'int32'"),
        ({"dtype": "float31"}, "dtype must be a floating-point dtype, got 'float31'"),
        ({"param_dtype": None}, "param_dtype must be a floating-point dtype, got None"),
        ({"param_dtype": bool}, "param_dtype must be a floating-point dtype"),
    ],
)
@every_class
def test_settings_that_cannot_be(cell_class, settings, message):
    with pytest.raises(ValueError, match=message):
        cell_class(**{"hidden_size": 4, **settings})


@pytest.mark.parametrize("cell_class", [jaxseq.LSTM, jaxseq.GRU, jaxseq.GRUResetAfter])
def test_gate_activations_are_checked_too(cell_class):
    with pytest.raises(ValueError, match="gate_activation: .*got 'hard'"):
        cell_class(4, gate_activation="hard")


@every_class
def test_a_drive_or_state_of_another_width_raises(cell_class):
    cell = cell_class(4)
    params, state = random_params(cell, 3, dtype="float32"), None
    state = cell.initial_state(params, ())
    with pytest.raises(ValueError, match=f"drive must have {cell.gates} x 4 values"):
        cell.step(params, state, jnp.ones(4 * cell.gates + 1), None)
    short = jax.tree.map(lambda leaf: leaf[:3], state)
    with pytest.raises(ValueError, match=r"state.hidden must have 4 features .*got shape \(3,\)"):
        cell.step(params, short, jnp.ones(4 * cell.gates), None)


def test_every_activation_is_a_function_of_its_name(x64):
    values = jnp.linspace(-4.0, 4.0, 17)
    numpy = {
        "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
        "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
        "exponential": np.exp,
        "gelu": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
        "hard_tanh": lambda x: np.clip(x, -1, 1),
        "keras2_hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
        "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
        "linear": lambda x: x,
        "relu": lambda x: np.maximum(x, 0),
        "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "softplus": lambda x: np.log1p(np.exp(x)),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "tanh": np.tanh,
    }
    assert numpy.keys() == ACTIVATIONS.keys()
    for name, function in numpy.items():
        actual = ACTIVATIONS[name](values)
        np.testing.assert_allclose(actual, function(np.asarray(values)), rtol=1e-12, atol=1e-12)


@every_class
def test_other_activations_go_where_the_equations_say(cell_class, x64):
    settings = {"activation": "relu"}
    if cell_class is not jaxseq.SimpleRNN:
        settings["gate_activation"] = "tanh"
    cell, rng = cell_class(4, **settings), np.random.default_rng(0)
    params, inputs = random_params(cell, 3), jnp.asarray(rng.normal(size=(5, 2, 3)))
    cotangents = cell.initial_state(params, (2,)), jnp.zeros((5, 2, 4))
    actual = jax.jit(lambda params, inputs: jaxseq.scan(cell, params, inputs))(params, inputs)
    assert_close(actual, expected(cell, params, inputs, cotangents)[0], 1e-12)
    function = dataclasses.replace(cell, activation=jax.nn.relu)  # a function is as good as its name
    assert_close(jaxseq.scan(function, params, inputs), actual, 1e-12)


IMPLEMENTATIONS = ("scan", "hoisted", "deferred", "unrolled")


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "inputs", "computed"),
    [
        (None, "float32", "float32", "float32"),
        (None, "bfloat16", "bfloat16", "bfloat16"),
        (None, "bfloat16", "float32", "float32"),
        (None, "float32", "bfloat16", "float32"),
        (None, "float32", "float64", "float64"),
        (None, "float64", "float16", "float64"),
        ("bfloat16", "float32", "float32", "bfloat16"),
        ("float32", "bfloat16", "bfloat16", "float32"),
        ("float64", "float32", "bfloat16", "float64"),
    ],
)
@every_class
def test_dtypes(cell_class, dtype, param_dtype, inputs, computed, x64):
    cell = cell_class(4, dtype=dtype, param_dtype=param_dtype)
    for wrapper in (cell, jaxseq.LearnedState(cell)):
        for implementation in (*IMPLEMENTATIONS, *(("joint",) if summed_gates(cell) else ())):

            def back(key, values, wrapper=wrapper, implementation=implementation):
                params = wrapper.init(key, 3)
                masks = jaxseq.dropout_masks(key, wrapper, 3, (2,), dropout=0.5, recurrent_dropout=0.5)
                flags = {"mask": jnp.ones((3, 2), bool), "resets": jnp.ones((3, 2), bool)}

                def run(params, values):
                    return jaxseq.scan(
                        wrapper, params, values, dropout_masks=masks, implementation=implementation, **flags
                    )

                results, pull_back = jax.vjp(run, params, values)
                again = jaxseq.step(wrapper, params, results[0], values[0])  # the state comes back as it is
                return results, again, pull_back(results)

            # Under strict promotion mixing inputs and parameters raises, as everywhere in JAX.
            mixed = dtype is None and inputs != param_dtype
            with jax.numpy_dtype_promotion("standard" if mixed else "strict"):
                shapes = jax.eval_shape(back, jax.random.key(0), jax.ShapeDtypeStruct((3, 2, 3), inputs))
            results, again, (d_params, d_inputs) = shapes
            assert {leaf.dtype.name for leaf in jax.tree.leaves((results, again))} == {computed}
            assert {leaf.dtype.name for leaf in jax.tree.leaves(d_params)} == {param_dtype}
            assert d_inputs.dtype.name == inputs


@every_class
def test_bfloat16_is_the_reference_to_its_own_precision(cell_class):
    cell, rng = cell_class(8, dtype="bfloat16"), np.random.default_rng(0)
    params = random_params(cell, 6, dtype="float32", scale=0.3)
    inputs = jnp.asarray(rng.normal(size=(10, 2, 6)), jnp.float32)
    cotangents = cell.initial_state(params, (2,)), jnp.zeros((10, 2, 8))
    actual = jax.jit(lambda params, inputs: jaxseq.scan(cell, params, inputs))(params, inputs)
    # 8 bits of mantissa round to 2^-9 at each of several operations a step
    assert_close(actual, expected(cell, params, inputs, cotangents)[0], 0.03)
