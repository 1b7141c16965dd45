"""More than one device: the batch is sharded, the result is one device's; several processes train as one."""

import functools
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxseq
from jaxseq import epochs, losses, recurrence, training
from jaxseq.epochs import cut_batches, make_mesh
from jaxseq.processes import Processes
from jaxseq.row_keys import along_axis, rows_key
from tests.examples import CELLS, random_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(37, 4, 3)).astype(np.float32)
TARGETS = RNG.normal(size=37).astype(np.float32)
TRAIN = jaxseq.examples(INPUTS[:23], TARGETS[:23])
VALIDATION = jaxseq.examples(INPUTS[23:], TARGETS[23:])


class Drawing(nn.Module):
    """All the ways in which a model draws: dropout of Flax's and of ours, masks of its own, one draw for the batch."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        outputs = nn.Dropout(0.3, deterministic=not train)(inputs)
        if train:
            outputs += 0.1 * jax.random.normal(self.make_rng("dropout"), outputs.shape)
            outputs *= jax.random.uniform(self.make_rng("dropout"), minval=0.5)
        _, outputs = jaxseq.Recurrent(jaxseq.GRU(3), dropout=0.2, recurrent_dropout=0.2)(outputs, train=train)
        rows = outputs.reshape(-1, 3)  # each sequence's steps as so many rows
        rows = nn.Dropout(0.3, broadcast_dims=(1,), deterministic=not train)(rows)
        return nn.Dense(1)(rows.reshape(outputs.shape).mean(axis=1))


TASK = jaxseq.Task(Drawing(), losses.squared_error, {"mae": losses.absolute_error})
BATCH_SIZE = 7  # on 2 devices 4 and 3; on 4: 2, 2, 2, 1; on 8: seven times 1, and 0
FIT = functools.partial(
    jaxseq.fit, TASK, TRAIN, VALIDATION, optimizer=optax.sgd(0.1), epochs=2, batch_size=BATCH_SIZE, progress=False
)


@pytest.fixture(scope="module")
def alone():
    return FIT(devices=jax.devices()[:1])


def check_agree(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6)


def check_same_run(one, other):
    check_agree(one.state.params, other.state.params)
    check_agree(one.best_params, other.best_params)
    assert one.best_epoch == other.best_epoch
    for run, other_run in zip(one.history, other.history, strict=True):
        for name, values in run.items():
            np.testing.assert_allclose(other_run[name], values, rtol=1e-5, err_msg=name)


def first_devices(count):
    """So many devices; a test that this machine has too few for is skipped, and says so."""
    if jax.device_count() < count:
        pytest.skip(f"{count} devices are needed")
    return jax.devices()[:count]


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_several_devices_give_the_single_device_result(devices, alone):
    check_same_run(alone, FIT(devices=first_devices(devices)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_of_a_device_and_seeds_of_all_are_one_devices(seeds):
    check_same_run(*(FIT(devices=first_devices(count), seeds=seeds) for count in (1, 2)))


def lowered_chunk(seeds, devices, **settings):
    """A training's program on so many devices."""
    optimizer = optax.sgd(0.1)
    states = [epochs.initialize(TASK.model, TRAIN.one_input, optimizer, seed) for seed in range(seeds)]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    totals = epochs.zero_totals(TASK, seeds)
    chunk = epochs.make_train_chunk(TASK, TRAIN, optimizer, BATCH_SIZE, make_mesh(devices), **settings)
    return chunk.lower(state, totals, np.zeros(seeds, bool), TRAIN.arrays, TRAIN.rows, 0, 0, 4).as_text()


@pytest.mark.parametrize(
    ("seeds", "settings", "exchanges"), [(1, {}, 1), (2, {}, 0), (3, {}, 0), (3, {"apart": False}, 1)]
)
def test_devices_exchange_once_a_step_and_nothing_of_a_seed_of_their_own(seeds, settings, exchanges):
    if jax.default_backend() != "cpu":
        pytest.skip("only CPU devices take seeds of their own")
    assert lowered_chunk(seeds, first_devices(2), **settings).count("stablehlo.all_reduce") == exchanges


def test_what_runs_is_chosen_for_the_devices_that_are_given(monkeypatch):
    """CPU devices where JAX's default is a GPU: seeds dealt out, gradients joined, and the CPU's implementation."""
    devices, programs = jax.devices("cpu")[:2], []
    for default in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda default=default: default)
        programs.append([lowered_chunk(seeds, devices) for seeds in (1, 2)])
    assert programs[0] == programs[1]


def gradient_on_an_explicit_mesh(mesh, function, params, *of_batch):
    """Of arrays whose types say how they are sharded, as `jax.make_mesh` makes meshes."""
    by_batch = jax.NamedSharding(mesh, jax.P(None, "batch"))
    of_batch = [jax.device_put(one, by_batch) for one in of_batch]
    return jax.jit(jax.grad(function))(jax.device_put(params, jax.NamedSharding(mesh, jax.P())), *of_batch)


def gradient_of_a_shard_map(mesh, function, params, *of_batch):
    """With JAX's check of what differs from device to device, and the sum of the gradients left to its derivative."""
    specs = jax.P(), *[jax.P(None, "batch")] * len(of_batch)
    whole = jax.shard_map(
        lambda *arguments: jax.lax.psum(function(*arguments), "batch"), mesh=mesh, in_specs=specs, out_specs=jax.P()
    )
    return gradient_on_an_explicit_mesh(mesh, whole, params, *of_batch)


@pytest.mark.parametrize("gradient", [gradient_on_an_explicit_mesh, gradient_of_a_shard_map])
@pytest.mark.parametrize(
    ("name", "dropout", "options"),
    [
        *[("lstm", 0.0, {"implementation": one}) for one in ("scan", "joint", "hoisted", "deferred")],
        *[("gru", 0.5, {"implementation": one}) for one in ("scan", "joint", "hoisted", "deferred")],
        *[(name, 0.0, {}) for name in CELLS],
        ("gru", 0.0, {"remat": True, "reverse": True}),
    ],
)
def test_a_scan_over_a_mesh_of_the_users_is_one_devices(name, dropout, options, gradient, monkeypatch):
    """Its zeros to start from are no device's, its inputs are: a loop must carry what a step gives."""
    monkeypatch.setattr(recurrence, "_SEGMENT", 1)  # segments of 32 and 100 steps
    cell, rng = CELLS[name], np.random.default_rng(1)
    params = random_params(cell, 3, dtype="float32")
    inputs = jnp.asarray(rng.normal(size=(101, 4, 3)), jnp.float32)
    of_batch = [inputs, jnp.asarray(rng.random((101, 4)) < 0.7), jnp.asarray(rng.random((101, 4)) < 0.1)]
    if dropout:
        key = jax.random.key(1)
        of_batch.append(jaxseq.dropout_masks(key, cell, 3, (4,), dropout=dropout, recurrent_dropout=dropout))

    def loss(params, inputs, mask, resets, dropout_masks=None):
        flags = {"mask": mask, "resets": resets}
        state, outputs = jaxseq.scan(cell, params, inputs, dropout_masks=dropout_masks, **flags, **options)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jaxseq.state_output(cell, params, state) ** 2)

    whole = jax.jit(jax.grad(loss))(params, *of_batch)
    mesh = jax.make_mesh((2,), ("batch",), devices=first_devices(2))
    check_agree(gradient(mesh, loss, params, *of_batch), whole)


@pytest.mark.parametrize("gradient", [gradient_on_an_explicit_mesh, gradient_of_a_shard_map])
@pytest.mark.parametrize("implementation", ["scan", "tabulated"])
def test_a_lookup_over_a_mesh_of_the_users_is_one_devices(implementation, gradient):
    """Its table is the same on all devices, its indices are not."""
    cell, rng = CELLS["lstm"], np.random.default_rng(1)
    params = random_params(cell, 3, dtype="float32"), jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, 7, (9, 4)))

    def loss(params, tokens):
        params, table = params
        _, outputs = jaxseq.scan(cell, params, jaxseq.Lookup(table, tokens), implementation=implementation)
        return jnp.sum(jnp.sin(outputs))

    mesh = jax.make_mesh((2,), ("batch",), devices=first_devices(2))
    check_agree(gradient(mesh, loss, params, tokens), jax.jit(jax.grad(loss))(params, tokens))


def test_sums_over_devices_are_those_of_each_array():
    """Of several dtypes, large ones and empty ones."""
    rng = np.random.default_rng(0)
    shapes = [((3, 2), jnp.float32), ((), jnp.float32), ((2**18 + 1,), jnp.float32), ((4,), jnp.bfloat16)]
    shapes += [((0, 3), jnp.float32), ((5,), jnp.int32), ((2, 2), jnp.bfloat16)]
    tree = {
        str(number): jnp.asarray(10 * rng.standard_normal((2, *shape)), dtype)
        for number, (shape, dtype) in enumerate(shapes)
    }
    mesh = make_mesh(first_devices(2))

    def one_device(tree):
        return epochs.sum_over_devices(jax.tree.map(lambda leaf: leaf[0], tree), 2)

    whole = jax.jit(jax.shard_map(one_device, mesh=mesh, in_specs=jax.P("batch"), out_specs=jax.P(), check_vma=False))
    result = whole(tree)
    for name, leaf in tree.items():
        assert result[name].dtype == leaf.dtype
        np.testing.assert_array_equal(result[name], leaf[0] + leaf[1], err_msg=name)
    assert epochs.sum_over_devices(tree, 1) is tree
    if jax.default_backend() == "cpu":  # bfloat16, int32, float32, the large one
        assert whole.lower(tree).as_text().count("stablehlo.all_reduce") == 4


@pytest.mark.parametrize("size, batch_size, devices", [(5, 2, 4), (5, 2, 1), (6, 3, 2), (1, 4, 3), (4, 4, 4)])
def test_batches_are_filled_up_with_rows_of_theirs_that_weigh_nothing(size, batch_size, devices):
    own = np.arange(size)[::-1] + 3  # a row that is not theirs may be no row at all: a window before the series
    rows, weights = cut_batches(jnp.asarray(own), batch_size, devices)
    assert rows.shape == weights.shape and rows.shape[1] % devices == 0
    assert rows.shape[1] - batch_size < devices and len(rows) == math.ceil(size / batch_size)
    np.testing.assert_array_equal(rows[weights == 1], own)
    assert set(np.unique(weights)) <= {0, 1} and set(np.asarray(rows).ravel()) == set(own)


@pytest.mark.parametrize(
    ("seeds", "devices"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (16, 2), (3, 3), (5, 3), (6, 4), (9, 8), (16, 8)]
)
def test_every_part_of_every_seed_is_dealt_out_once_and_in_order(seeds, devices):
    seed_of, part_of, parts = epochs.make_rounds(seeds, devices)
    assert seed_of.shape == part_of.shape == (seeds * parts // devices, devices) and parts <= devices
    assert all(len(set(row)) == devices for row in seed_of.tolist())  # no seed at two devices
    for seed in range(seeds):
        assert part_of[seed_of == seed].tolist() == list(range(parts))  # row by row: as time goes


def test_one_device_draws_what_a_plain_loop_draws(alone):
    """Step n's key is the seed's folded with n, then with 0: what results that lie there were trained with."""
    init_key, key = jax.random.split(jax.random.key(0))
    order_key, step_key = jax.random.split(key)
    params = TASK.model.init(init_key, INPUTS[:1])["params"]

    @jax.jit
    def take_step(params, inputs, targets, weights, step):
        key = jax.random.fold_in(jax.random.fold_in(step_key, step), 0)

        def loss(params):
            predictions = TASK.model.apply({"params": params}, inputs, train=True, rngs={"dropout": key})[:, 0]
            return jnp.sum(weights * (predictions - targets) ** 2) / weights.sum()

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    for epoch in range(2):
        order = np.pad(jax.random.permutation(jax.random.fold_in(order_key, epoch), 23), (0, 5))
        weights = np.arange(28) < 23
        for index in range(4):
            part = slice(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
            rows = order[part]
            params = take_step(params, INPUTS[rows], TARGETS[rows], weights[part], 4 * epoch + index)
    check_agree(jaxseq.select(alone.state.params, 0), params)


def derive(key):
    """What a model does with its key before it draws."""
    return jax.random.split(jax.random.fold_in(key, 5), 3)[1]


ROWS, BATCH = 2, 7  # on 4 devices, the last row padding


def draw(key, shape):
    floats, bits = jax.random.split(key)
    return (
        jax.random.bernoulli(floats, 0.3, shape),
        jax.random.uniform(key, shape),
        jax.random.bits(bits, shape, "uint8"),
    )


def test_a_key_of_rows_draws_its_part_of_the_whole_batch(x64):
    key = jax.random.key(3)
    cases = [(0, (ROWS,)), (0, (3 * ROWS, 5)), (1, (3, ROWS, 4))]  # axis of the batch, shape

    @jax.jit
    def draw_both(device):
        drawn = []
        for axis, shape in cases:
            whole = (*shape[:axis], shape[axis] // ROWS * BATCH, *shape[axis + 1 :])
            mine = along_axis(rows_key(key, device, ROWS, BATCH), axis)
            drawn.append((draw(derive(key), whole), draw(derive(mine), shape)))
        return drawn

    devices = [draw_both(device) for device in range(4)]
    for case, (axis, _) in enumerate(cases):
        for kind, whole in enumerate(devices[0][case][0]):
            parts = np.concatenate([device[case][1][kind] for device in devices], axis)
            np.testing.assert_array_equal(parts.take(range(whole.shape[axis]), axis), whole)


def test_a_key_of_rows_draws_the_rest_once_or_for_each_device():
    key = jax.random.key(3)

    @jax.jit
    def draw_rest(device):
        mine = rows_key(key, device, ROWS, BATCH)
        shared = [jax.random.uniform(derive(from_), shape) for from_ in (key, mine) for shape in ((), (1, 5))]
        for_each_row = jax.vmap(jax.random.uniform)(jax.random.split(mine, ROWS))
        with jax.threefry_partitionable(False):
            unpositioned = jax.random.uniform(rows_key(key, device, ROWS, BATCH), (ROWS, 4))
        not_rows = jax.random.uniform(derive(along_axis(mine, 1)), (4, ROWS + 1))
        return shared, [not_rows, for_each_row, unpositioned]

    shared, own = zip(*[draw_rest(device) for device in range(4)], strict=True)
    for once, once_more, mine, mine_more in shared:
        np.testing.assert_array_equal(mine, once)
        np.testing.assert_array_equal(mine_more, once_more)
    for drawn in map(np.stack, zip(*own, strict=True)):
        assert len(np.unique(drawn)) == drawn.size
    assert along_axis(key, 1) is key
    with pytest.raises(TypeError, match="a key of rows is made from another key, got the seed"):
        jax.random.key(0, impl=jax.random.key_impl(rows_key(key, 0, ROWS, BATCH)))


def take_part(rank, port, directory, cache):
    """One of two processes that train together; SIGTERM comes to the second, twice, within the first epoch."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    with pytest.raises(ValueError, match="batch_size must be the same in every process"):
        FIT(batch_size=7 + rank)
    with pytest.raises(ValueError, match="devices must be of this process, or of all 2, equally many of each"):
        FIT(devices=jax.devices()[:3])
    processes = Processes(make_mesh())
    with pytest.raises(OSError, match="no room"):
        processes.only_first(functools.partial(open, "/no room/at all", "w"))
    sent = processes.arrays_from_first({"values": np.full((3, 2), rank + 0.5), "key": jax.random.key(rank)})
    assert (sent["values"] == 0.5).all() and sent["key"] == jax.random.key(0)

    note, calls = training._Pace.note, []

    def noting(self, steps, seconds):
        note(self, steps, seconds)
        self.steps = 1
        calls.append(steps)
        if len(calls) == 2 and rank == 1:
            signal.raise_signal(signal.SIGTERM)

    training._Pace.note = noting
    code = 0
    for resume in (False, True):
        calls.clear()
        try:
            FIT(directory=directory, save_every=1e9, resume=resume)
        except jaxseq.Interrupted as error:
            print(error)
            code = error.exit_code
    sys.exit(code)


def test_two_processes_train_one_model_and_one_alone_goes_on(tmp_path, alone):
    """Only the first writes; a signal to the second stops both, at the same step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cache = jax.config.jax_compilation_cache_dir
    code = f"from tests import test_devices; test_devices.take_part({{}}, {port}, {str(tmp_path)!r}, {cache!r})"
    root = Path(__file__).parent.parent
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code.format(rank)],
            cwd=root,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [143, 143], "\n".join(printed)
    assert printed[0].count("SIGTERM, saved in") == 2
    assert jaxseq.checkpoints.steps(tmp_path / "latest")[-1] == 4
    check_same_run(alone, FIT(directory=tmp_path, resume=True, devices=jax.devices()[:1]))
