"""The input product taken together with the recurrent ones, of any cell that says what it adds up."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import jaxseq
from jaxseq.cells.products import summed_gates
from tests.examples import (
    CELLS,
    B,
    F,
    MinimalGatedUnit,
    T,
    assert_close,
    expected,
    random_params,
    run_and_back,
    situation,
)
from tests.test_compilation import RECURRENT_PRODUCTS, count_dots, loop_bodies

pytestmark = pytest.mark.usefixtures("strict_promotion", "x64", "compiled_quickly")
TOLERANCE = 1e-12
JOINING = [name for name, cell in CELLS.items() if summed_gates(cell)]
every_cell = pytest.mark.parametrize("name", JOINING)
joint = functools.partial(jaxseq.scan, implementation="joint")


def test_the_cells_that_add_what_they_multiply_say_so():
    assert {*CELLS} - {*JOINING} == {"gru_reset_after"}, "it multiplies a recurrent product before it adds"


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("dropout", ["none", "both", "input", "recurrent"])
@every_cell
def test_values_and_gradients_are_the_references(name, dropout, reverse):
    data, options = situation(CELLS[name], dropout=dropout != "none")
    options["reverse"] = reverse
    if dropout in ("input", "recurrent"):
        other = {"input": "recurrent", "recurrent": "input"}[dropout]
        options["dropout_masks"] = options["dropout_masks"]._replace(**{other: None})
    found = run_and_back(joint, CELLS[name], *data, **options)
    assert_close(found, expected(CELLS[name], *data, **options), TOLERANCE)


@every_cell
def test_segments_rows_of_a_vmap_and_no_step_at_all(name):
    cell = CELLS[name]
    (params, inputs, _), _ = situation(cell)
    whole = jaxseq.scan(cell, params, inputs, implementation="scan")
    assert_close(joint(cell, params, inputs, remat=True), whole, TOLERANCE)
    assert_close(joint(cell, params, inputs, unroll=3), whole, TOLERANCE)
    assert_close(jax.vmap(functools.partial(joint, cell, params), 1, (0, 1))(inputs), whole, TOLERANCE)
    none = joint(cell, params, inputs[:0])
    assert_close(none, jaxseq.scan(cell, params, inputs[:0], implementation="scan"), 0)


@every_cell
def test_forward_mode_and_second_derivatives(name):
    cell = CELLS[name]
    (params, inputs, (_, weights)), options = situation(cell, dropout=True)

    def second(implementation):
        def loss(params, inputs):
            return jnp.sum(
                weights * jaxseq.scan(cell, params, inputs, implementation=implementation, **options)[1] ** 2
            )

        gradient = jax.grad(loss, argnums=(0, 1))
        return jax.jit(lambda *point: jax.jvp(gradient, point, jax.tree.map(jnp.ones_like, point)))(params, inputs)

    assert_close(second("joint"), second("scan"), TOLERANCE)


@pytest.mark.parametrize("dropout", [False, True])
@every_cell
def test_half_as_many_products_in_each_step(name, dropout):
    cell = CELLS[name]
    (params, inputs, _), options = situation(cell, dropout=dropout)
    run = functools.partial(joint, cell, dropout_masks=options["dropout_masks"])
    products = sum(cell.summed_gates) if dropout else RECURRENT_PRODUCTS[name]  # with masks a product for each gate
    (body,) = loop_bodies(jax.make_jaxpr(run)(params, inputs).jaxpr)
    assert count_dots(body) == products
    gradient = jax.make_jaxpr(jax.grad(lambda *both: run(*both)[1].sum(), argnums=(0, 1)))(params, inputs).jaxpr
    gradient, _ = dce_jaxpr(gradient, [True] * len(gradient.outvars))
    forward, backward = loop_bodies(gradient)
    assert count_dots(forward) == products and count_dots(backward) == 2 * products
    assert count_dots(gradient, loops=False) == 0


@dataclasses.dataclass(frozen=True)
class Mistaken(MinimalGatedUnit):
    """Says that one product holds both gates, but takes two."""

    summed_gates: ClassVar[tuple[int, ...]] = (2,)


@dataclasses.dataclass(frozen=True)
class Unseen(MinimalGatedUnit):
    """Says what it adds, but multiplies where the engine cannot see it."""

    summed_gates: ClassVar[tuple[int, ...]] = (1, 1)

    def project(self, params, inputs, masks):
        return inputs @ params.w_input + params.bias

    def step(self, params, h, drive, masks):
        h = jnp.tanh(drive[..., : self.hidden_size] + h @ params.w_hidden[:, : self.hidden_size])
        return h, h


@dataclasses.dataclass(frozen=True)
class Nothing(Unseen):
    """Says that there is nothing to add."""

    summed_gates: ClassVar[tuple[int, ...]] = ()


@dataclasses.dataclass(frozen=True)
class Normalized(jaxseq.LSTM):
    """Does more with its product than to add it; what the LSTM says holds of the LSTM's step alone."""

    def step(self, params, state, drive, masks):
        recurrent = jaxseq.gate_product(state.hidden, params.w_hidden, masks and masks.recurrent)
        recurrent = recurrent / (1 + jnp.abs(recurrent))
        return super().step(params._replace(w_hidden=jnp.zeros_like(params.w_hidden)), state, drive + recurrent, None)


@dataclasses.dataclass(frozen=True)
class Renamed(jaxseq.LSTM):
    """A class derived from a cell that writes no step of its own."""

    note: str = ""


def test_a_class_derived_from_a_cell_speaks_for_its_own_step():
    cell = Normalized(5)
    (params, inputs, _), options = situation(jaxseq.LSTM(5), dropout=True)
    for dropout in (False, True):
        explain = functools.partial(
            jaxseq.explain, inputs_shape=(T, 128, F), dropout=dropout, recurrent_dropout=dropout
        )
        for derived, wanted in ((cell, "scan"), (Renamed(5), "joint")):
            assert explain(derived).implementation == wanted
            assert explain(jaxseq.LearnedState(derived)).implementation == wanted
    plain = jaxseq.scan(cell, params, inputs, implementation="scan", **options)
    assert_close(jaxseq.scan(cell, params, inputs, **options), plain, TOLERANCE)
    assert float(jnp.abs(plain[1] - jaxseq.scan(jaxseq.LSTM(5), params, inputs, **options)[1]).max()) > 1e-3


def test_a_cell_that_says_something_else_or_nothing_is_an_error():
    cell = Mistaken(5)
    params, inputs = random_params(MinimalGatedUnit(5), F), jnp.ones((T, B, F))
    with pytest.raises(ValueError, match=r"^summed_gates must tell .* got \(2,\) for products of widths \[5, 5\]"):
        joint(cell, params, inputs)
    for other in (Unseen(5), Nothing(5)):
        with pytest.raises(ValueError, match=r"^summed_gates must tell .* for products of widths \[\] and a drive of"):
            joint(other, params, inputs)
    with pytest.raises(ValueError, match='^implementation must not be "joint" for Normalized, which has no `summed_g'):
        joint(Normalized(5), random_params(jaxseq.LSTM(5), F), inputs)
    with pytest.raises(ValueError, match='^implementation must not be "joint" for GRUResetAfter'):
        jaxseq.explain(jaxseq.GRUResetAfter(5), (T, F), implementation="joint")
