"""What the engine chooses by itself: rules set from measurements, which these tables repeat where each one begins."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxseq
from tests.examples import CELLS, B, F, MinimalGatedUnit, T


def test_explain_says_what_scan_takes():
    assert jaxseq.explain(CELLS["lstm"], (T, B, F), implementation="unrolled").implementation == "unrolled"
    choice = jaxseq.explain(CELLS["lstm"], (T, B, F))
    assert choice.implementation in ("scan", "joint", "hoisted", "deferred") and choice.reason


BY_ITSELF = [  # H, the inputs' shape, what an LSTM takes forward and differentiated, and on one of several devices
    (32, (T, 129, 383), "scan scan scan scan"),
    (32, (T, 129, 384), "hoisted hoisted scan scan"),  # F is 12 H
    (100, (T, 33, 395), "hoisted scan scan hoisted"),  # B H is below 4096
    (100, (T, 33, 396), "hoisted hoisted scan hoisted"),  # F is 12 B
    (256, (T, 64, 255), "scan scan scan scan"),
    (256, (T, 64, 256), "scan scan scan hoisted"),  # F + H is 8 B
    (256, (T, 65, 263), "scan scan scan scan"),
    (256, (T, 65, 264), "scan scan scan hoisted"),
    (256, (T, 33, 271), "scan scan scan hoisted"),
    (256, (T, 33, 272), "scan deferred scan deferred"),  # F + H is 16 B
    (32, (T, 128, 127), "scan scan scan scan"),
    (32, (T, 128, 128), "hoisted hoisted scan scan"),  # F is 4 H, B H 4096, B G H 2¹⁴
    (32, (T, 129, 128), "scan scan scan scan"),
    (32, (T, 32, 95), "scan scan scan scan"),
    (32, (T, 32, 96), "scan hoisted scan scan"),  # F + H is 128, B 32
    (32, (T, 33, 96), "scan scan scan scan"),
    (128, (T, 32, 127), "scan hoisted scan scan"),
    (128, (T, 32, 128), "hoisted hoisted scan hoisted"),  # F + H is 8 B; F is 4 B, B H 4096
    (32, (T, 32, 128), "hoisted hoisted scan scan"),  # F is 4 B and 4 H, B 32
    (32, (T, 33, 128), "hoisted hoisted scan scan"),
    (32, (T, 16, 32), "joint deferred joint deferred"),  # F + H is 64, B H 512, B 16
    (32, (T, 17, 32), "scan joint scan joint"),
    (32, (T, 64, 32), "scan joint scan joint"),  # B G H is 2¹³
    (32, (T, 65, 32), "scan scan scan joint"),
    (16, (T, 999, 32), "scan joint scan joint"),
    (17, (T, 999, 32), "scan scan scan joint"),
    (32, (T, 17, 33), "scan scan scan scan"),
    (33, (T, 16, 32), "scan deferred scan deferred"),  # B is 16
    (33, (T, 17, 32), "scan scan scan scan"),
    (8, (T, 32, 16), "joint deferred joint deferred"),  # B G H is 1024
    (8, (T, 33, 16), "joint joint joint joint"),
    (8, (T, 64, 57), "hoisted deferred scan deferred"),  # F + H is 65, B G H 2048
    (8, (T, 65, 57), "hoisted hoisted scan scan"),
    (8, (T, 64, 64), "hoisted deferred scan deferred"),  # B F is 4096
    (8, (T, 64, 65), "hoisted hoisted scan scan"),
    (8, (T, 32, 57), "hoisted deferred hoisted deferred"),  # B H is 256
    (8, (T, 33, 57), "hoisted deferred scan deferred"),
    (64, (T, 4, 4, 14), "scan deferred scan deferred"),  # every batch axis counts
    (64, (T, 4, 5, 14), "scan scan scan scan"),
    (64, (T, 1, 16), "hoisted deferred hoisted deferred"),
    (512, (T, 14), "scan scan scan scan"),  # how many sequences a vmap runs beside this one is unknown
    (8, (T, 96), "hoisted hoisted scan scan"),
    (32, (T, 32), "scan scan scan joint"),
    (64, (T, 0, 11), "scan scan scan scan"),
]
MASKED_BY_ITSELF = [  # the same with a mask for each gate, of inputs and state
    (32, (T, 129, 384), "joint scan joint scan"),
    (32, (T, 128, 384), "joint hoisted joint scan"),  # F is above 4 H, B G H 2¹⁴
    (32, (T, 32, 127), "joint hoisted joint scan"),  # F + H is above 128
    (128, (T, 32, 128), "joint hoisted joint hoisted"),  # F + H is 8 B
    (256, (T, 64, 256), "joint scan joint hoisted"),
    (256, (T, 33, 271), "joint scan joint hoisted"),
    (256, (T, 33, 272), "joint deferred joint deferred"),  # F + H is 16 B
    (32, (T, 32, 128), "hoisted hoisted joint scan"),  # F is 4 B and 4 H, B 32
    (32, (T, 33, 128), "joint hoisted joint scan"),
    (32, (T, 128, 96), "joint joint joint joint"),  # F + H is 128
    (32, (T, 128, 97), "joint scan joint scan"),
    (8, (T, 32, 16), "joint deferred joint deferred"),  # B G H is 1024
    (8, (T, 65, 16), "joint joint joint joint"),
    (8, (T, 33, 121), "joint deferred joint deferred"),  # F + H is 129, B F 3993
    (8, (T, 34, 121), "joint hoisted joint scan"),  # B F is 4114
    (26, (T, 19, 103), "joint deferred joint deferred"),  # B G H is 1976
    (32, (T, 8, 128), "hoisted deferred hoisted deferred"),  # F is 4 H, B 8
    (32, (T, 9, 128), "hoisted deferred joint deferred"),
    (512, (T, 8, 14), "joint deferred joint deferred"),  # B is 8
    (64, (T, 9, 14), "joint joint joint deferred"),
    (64, (T, 4, 4, 14), "joint joint joint deferred"),  # B is 16
    (64, (T, 4, 5, 14), "joint joint joint joint"),
    (512, (T, 14), "joint scan joint scan"),
    (32, (T, 32), "joint joint joint joint"),
    (64, (T, 0, 11), "scan scan scan scan"),
]


def explained(cell, shape, **what):
    """What is taken forward and differentiated, and the same on one of several devices."""
    explain = functools.partial(jaxseq.explain, cell, shape, **what)
    kinds = [{"gradient": gradient, "sharded": sharded} for sharded in (False, True) for gradient in (False, True)]
    with jax.default_device(jax.devices("cpu")[0]):
        return [explain(**kind).implementation for kind in kinds]


@pytest.mark.parametrize(("hidden", "shape", "wanted"), BY_ITSELF)
def test_what_explain_picks_on_a_cpu(hidden, shape, wanted):
    assert explained(jaxseq.LSTM(hidden), shape) == wanted.split()


def test_a_cell_of_one_gate_is_deferred_up_to_1024_numbers_where_it_could_be_joined():
    assert explained(jaxseq.SimpleRNN(32), (T, 32, 14)) == ["scan", "deferred"] * 2
    assert explained(jaxseq.SimpleRNN(32), (T, 33, 14)) == ["scan", "joint"] * 2
    assert explained(jaxseq.SimpleRNN(32), (T, 128, 14)) == ["scan", "joint"] * 2
    assert explained(jaxseq.SimpleRNN(32), (T, 129, 14)) == ["scan", "scan", "scan", "joint"]


def test_a_large_cell_of_one_gate_is_deferred_up_to_16384_numbers():
    assert explained(jaxseq.SimpleRNN(256), (T, 64, 256)) == ["scan", "deferred"] * 2
    assert explained(jaxseq.SimpleRNN(256), (T, 65, 264)) == ["scan", "scan", "scan", "hoisted"]


def test_a_masked_cell_of_one_gate_is_joined_forward_where_all_is_small():
    both = {"dropout": True, "recurrent_dropout": True}
    assert explained(jaxseq.SimpleRNN(32), (T, 16, 14), **both) == ["joint", "deferred"] * 2
    assert explained(jaxseq.SimpleRNN(32), (T, 17, 14), **both) == ["scan", "deferred"] * 2


@pytest.mark.parametrize(
    ("hidden", "shape", "plain", "masked"),
    [
        (32, (T, 8, 32), "hoisted deferred hoisted deferred", "hoisted deferred hoisted deferred"),
        (32, (T, 16, 32), "hoisted deferred scan deferred", "hoisted deferred hoisted deferred"),
        (32, (T, 22, 32), "hoisted hoisted scan scan", "hoisted hoisted scan scan"),  # B G H is above 2048
        (32, (T, 22, 31), "scan scan scan scan", "scan scan scan scan"),  # F is below H
        (32, (T, 33, 32), "hoisted scan scan scan", "hoisted scan scan scan"),  # B is above 32
        (32, (T, 128, 32), "hoisted scan scan scan", "hoisted scan scan scan"),  # B H is 4096
        (32, (T, 129, 32), "scan scan scan scan", "scan scan scan scan"),
        (16, (T, 64, 64), "hoisted hoisted hoisted scan", "hoisted hoisted scan scan"),  # F is 4 H
        (17, (T, 64, 64), "hoisted scan scan scan", "hoisted scan scan scan"),
        (8, (T, 64, 16), "hoisted deferred hoisted deferred", "hoisted deferred hoisted deferred"),  # B H is 512
        (128, (T, 129, 904), "scan scan scan hoisted", "scan scan scan hoisted"),  # F + H is 8 B
        (128, (T, 129, 903), "scan scan scan scan", "scan scan scan scan"),
        (32, (T, 171, 384), "hoisted hoisted scan scan", "scan scan scan scan"),  # F is 12 H
        (32, (T, 171, 383), "scan scan scan scan", "scan scan scan scan"),
    ],
)
def test_what_cannot_be_joined_is_hoisted_or_left_as_it_is(hidden, shape, plain, masked):
    gru = jaxseq.GRUResetAfter(hidden)
    assert explained(gru, shape) == plain.split()
    assert explained(gru, shape, dropout=True, recurrent_dropout=True) == masked.split()


@pytest.mark.parametrize("masks", [{}, {"dropout": True, "recurrent_dropout": True}], ids=["plain", "masked"])
def test_what_cannot_be_joined_is_deferred_where_it_is_long(masks):
    def short_and_long(batch, features):
        return [explained(jaxseq.GRUResetAfter(32), (steps, batch, features), **masks)[1] for steps in (249, 250)]

    assert short_and_long(22, 32) == short_and_long(32, 64) == ["hoisted", "deferred"]
    for batch, features in ((33, 32), (32, 31), (32, 96)):  # B is above 32, F below H, F + H 128
        assert len(set(short_and_long(batch, features))) == 1


@pytest.mark.parametrize(("hidden", "shape", "wanted"), MASKED_BY_ITSELF)
def test_what_explain_picks_on_a_cpu_with_both_dropouts(hidden, shape, wanted):
    both = {"dropout": True, "recurrent_dropout": True}
    assert explained(jaxseq.LSTM(hidden), shape, **both) == wanted.split()
    for one in both:  # a mask alone has few products
        assert explained(jaxseq.LSTM(hidden), shape, **{one: True}) == wanted.replace("joint", "scan").split()


def test_a_cell_that_does_not_say_how_many_gates_it_has_is_taken_to_have_four():
    class Silent(MinimalGatedUnit):
        @property
        def gates(self):
            raise AttributeError("it does not say")

    assert explained(MinimalGatedUnit(32), (T, 32, 14))[1] == "deferred"
    assert explained(Silent(32), (T, 32, 14))[1] == "scan"


def test_two_recurrent_products_are_joined_forward_or_where_they_are_masked():
    gru, both = jaxseq.GRU(32), {"dropout": True, "recurrent_dropout": True}
    assert explained(gru, (T, 16, 32)) == ["joint", "deferred"] * 2
    assert explained(gru, (T, 17, 32))[0] == "scan"
    assert explained(gru, (T, 22, 32)) == ["scan"] * 4
    assert explained(gru, (T, 17, 32), **both) == ["joint"] * 4


def test_the_choice_knows_whether_other_devices_take_the_cores():
    """Inside a `shard_map`: there one product of many steps has one core."""
    cell, shape = jaxseq.LSTM(128), (T, 16, 32)
    devices = jax.devices("cpu")[:2]
    mesh = jax.make_mesh((len(devices),), ("batch",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))
    chosen = []

    def run(values):
        chosen.append(jaxseq.explain(cell, shape).implementation)
        return values

    spec = jax.P("batch")
    jax.eval_shape(jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)), jnp.ones(len(devices)))
    assert chosen == [jaxseq.explain(cell, shape, sharded=len(devices) > 1).implementation]
    assert jaxseq.explain(cell, shape) == jaxseq.explain(cell, shape, sharded=False)


@pytest.mark.parametrize(
    ("cell", "shape", "table_size", "wanted"),
    [  # forward and differentiated
        (jaxseq.LSTM(32), (60, 5, 64), 100, "tabulated tabulated"),  # three lookups a row
        (jaxseq.LSTM(32), (60, 5, 64), 101, "hoisted deferred"),
        (jaxseq.LSTM(32), (300, 32), 100, "scan tabulated"),  # one sequence: what it looks up alone
        (jaxseq.LSTM(32), (299, 32), 100, "scan scan"),
        (jaxseq.LSTM(64), (60, 50, 64), 100, "tabulated tabulated"),
        (jaxseq.LSTM(65), (60, 50, 64), 100, "scan tabulated"),  # F below H
        (jaxseq.LSTM(16), (60, 50, 16), 100, "scan tabulated"),  # F G H is 1024
        (jaxseq.LSTM(16), (60, 50, 15), 100, "scan joint"),
        (jaxseq.SimpleRNN(8), (60, 50, 64), 100, "tabulated tabulated"),
        (jaxseq.SimpleRNN(8), (60, 50, 63), 100, "hoisted deferred"),
        (jaxseq.LSTM(32), (60, 50, 0), 1, "scan scan"),
        (jaxseq.LSTM(32), (60, 0, 64), 1, "scan scan"),
    ],
)
def test_a_small_table_is_projected_where_that_saves_much(cell, shape, table_size, wanted):
    explain = functools.partial(jaxseq.explain, cell, shape, table_size=table_size)
    with jax.default_device(jax.devices("cpu")[0]):
        assert [explain(gradient=gradient).implementation for gradient in (False, True)] == wanted.split()
        for masked in (explain(dropout=True), explain(dropout=True, recurrent_dropout=True)):
            assert masked.implementation != "tabulated"
        recurrent = [explain(recurrent_dropout=True, gradient=gradient).implementation for gradient in (False, True)]
        assert [one == "tabulated" for one in recurrent] == [one == "tabulated" for one in wanted.split()]
