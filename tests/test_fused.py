"""The fused kernel gives the scan's numbers and gradients; on a machine without a GPU, under Pallas' interpreter."""

import contextlib
import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

import jaxseq
from jaxseq import fused, recurrence
from tests.examples import CELLS, MinimalGatedUnit, assert_close, random_dropout, random_params, random_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")  # what it compiles is Pallas' interpreter

T, B, F = 4, 3, 4
TOLERANCE = 1e-5


def kernel():
    """On a GPU its own compiler, elsewhere the interpreter."""
    return contextlib.nullcontext() if jax.default_backend() == "gpu" else fused.interpreted()


def compiled(function):
    """Compiled in half the time, where the program runs once."""
    quick = {} if jax.default_backend() == "gpu" else {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=quick)


def draw(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def both_ways(implementation, cell, options, params, inputs, state, cotangents):
    """Final state, outputs, and the gradients by (params, inputs, state)."""
    run = functools.partial(jaxseq.scan, cell, implementation=implementation, **options)
    results, pull_back = jax.vjp(lambda params, inputs, state: run(params, inputs, state=state), params, inputs, state)
    return results, pull_back(cotangents)


def check(cell, shape=(T, B, F), tolerance=TOLERANCE, dtype="float32", **options):
    params = random_params(cell, shape[-1], dtype=dtype)
    state = jax.tree.map(lambda leaf: leaf.astype(dtype), random_state(cell, params, shape[1:-1]))
    ends = random_state(cell, params, shape[1:-1], seed=3), draw(*shape[:-1], cell.hidden_size, dtype=dtype)
    arguments = params, draw(*shape, seed=1, dtype=dtype), state, ends
    with kernel():
        found = compiled(functools.partial(both_ways, "fused", cell, options))(*arguments)
    wide = jax.tree.map(lambda leaf: leaf.astype("float32"), (arguments, options.get("dropout_masks")))
    options = {**options, "dropout_masks": wide[1]}
    assert_close(found, compiled(functools.partial(both_ways, "scan", cell, options))(*wide[0]), tolerance)


@pytest.mark.parametrize("name", ["simple_rnn", "learned_lstm", "gru", "gru_reset_after", "minimal_gated_unit"])
def test_values_and_gradients_are_the_scans_with_everything_at_once(name):
    """Odd sizes, reverse, masks, NaN in the padding, resets, input and recurrent dropout, a state to start from."""
    rng, cell = np.random.default_rng(4), CELLS[name]
    masks = random_dropout(cell, (B,), F, dtype="float32")
    check(
        cell,
        mask=jnp.asarray(rng.random((T, B)) < 0.7),
        resets=jnp.asarray(rng.random((T, B)) < 0.3),
        dropout_masks=masks,
        reverse=True,
    )


@pytest.mark.parametrize(
    ("cell", "shape", "options"),
    [
        (jaxseq.GRU(16), (2, 17, 16), dict(tolerance=2e-2, dtype="bfloat16")),
        (jaxseq.SimpleRNN(33, activation="relu"), (1, 1, 2), {}),
        (MinimalGatedUnit(4), (2, 2, 2, 3), {}),
    ],
)
def test_bfloat16_many_tiles_one_step_and_more_batch_axes(cell, shape, options):
    check(cell, shape, **options)


class NormalisedParams(NamedTuple):
    w_input: jax.Array  # [F, H]
    w_hidden: jax.Array  # [H, H]
    scale: jax.Array  # [H]
    attention: jax.Array  # [H]
    temperature: jax.Array  # []


@dataclasses.dataclass(frozen=True)
class Normalised:
    """A cell of what the others have not: layer normalisation, a vector and a number for parameters, two outputs."""

    hidden_size: int
    gates: ClassVar[int] = 1

    def init(self, key, input_size):
        size = self.hidden_size
        return NormalisedParams(
            *(jnp.ones(shape) for shape in ((input_size, size), (size, size), (size,), (size,), ()))
        )

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size), params.scale.dtype)

    def project(self, params, inputs, masks):
        return inputs @ params.w_input

    def step(self, params, h, drive, masks):
        z = drive + jnp.einsum("kh,...h->...k", jnp.tanh(params.w_hidden), h)
        z = (z - z.mean(-1, keepdims=True)) * jax.lax.rsqrt(z.var(-1, keepdims=True) + 0.1) * params.scale
        gate = jax.nn.sigmoid((h @ params.attention) * params.temperature)[..., None]
        h = gate * h + (1 - gate) * z
        return h, h


def test_reductions_vectors_and_numbers():
    check(Normalised(5))


def test_what_is_infinite_in_the_padding_stays_there():
    check(jaxseq.SimpleRNN(5, activation=lambda x: jnp.log(jnp.abs(x))), (3, B, F))


def test_without_derivatives_it_keeps_nothing():
    cell = jaxseq.LSTM(5)
    params, inputs = random_params(cell, F, dtype="float32"), draw(T, B, F)
    with kernel():
        run = functools.partial(jaxseq.scan, cell, implementation="fused")
        found = compiled(run)(params, inputs)
        outputs = [calls_of(jax.make_jaxpr(f)(params, inputs)) for f in (run, jax.grad(lambda *a: run(*a)[1].sum()))]
    assert_close(found, jaxseq.scan(cell, params, inputs), TOLERANCE)
    assert [len(one) for one in outputs] == [1, 2]  # forward; forward and backward
    assert outputs[0] == [3]  # h, c, outputs
    assert outputs[1] == [3 + 5 + 2, 2 + 1]  # and gates, tanh(c'), h, c; d h, d c, d drive


def calls_of(closed):
    """How many arrays each kernel of a program writes."""
    found = []
    for equation in closed.jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            found.append(len(equation.outvars))
        else:
            inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr"))
            found += [one for leaf in inner if hasattr(leaf, "jaxpr") for one in calls_of(leaf)]
    return found


def vmapped_rows(run, params, inputs):
    return jax.grad(lambda *a: jnp.sin(jax.vmap(run, (None, 1))(*a)).sum(), (0, 1))(params, inputs)


def gradients_of_rows(run, params, inputs):
    return jax.vmap(jax.grad(lambda *a: jnp.sin(run(*a)).sum(), (0, 1)), (None, 1))(params, inputs)


def seeds(run, params, inputs):
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), params)
    return jax.vmap(jax.grad(lambda *a: jnp.sin(run(*a)).sum(), (0, 1)), (0, None))(both, inputs)


def sharded(run, params, inputs):
    mesh = jax.make_mesh((3,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:3])
    gradient = jax.grad(lambda *a: jnp.sin(run(*a)).sum())
    return jax.shard_map(
        lambda *a: jax.lax.psum(gradient(*a), "batch"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(None, "batch")),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(params, inputs)


def rematerialised(run, params, inputs):
    return jax.grad(lambda *a: jnp.sin(run(*a, remat=True)).sum())(params, inputs)


@pytest.mark.parametrize("transformed", [vmapped_rows, gradients_of_rows, seeds, sharded, rematerialised])
def test_under_transformations(transformed):
    cell = jaxseq.SimpleRNN(5)
    params, inputs = random_params(cell, F, dtype="float32"), draw(T, B, F)
    if transformed is sharded and jax.device_count() < 3:
        pytest.skip("three devices are needed")

    def run(implementation, params, inputs, **options):
        return jaxseq.scan(cell, params, inputs, implementation=implementation, **options)[1]

    with kernel():
        found = compiled(functools.partial(transformed, functools.partial(run, "fused")))(params, inputs)
    expected = compiled(functools.partial(transformed, functools.partial(run, "scan")))(params, inputs)
    assert_close(found, expected, TOLERANCE)


@pytest.mark.parametrize(
    ("derivative", "kind"),
    [
        (lambda f: jax.jacfwd(f), "in forward mode"),
        (lambda f: jax.jacfwd(jax.jit(f)), "in forward mode"),
        (lambda f: jax.jit(jax.jacfwd(f)), "in forward mode"),
        (lambda f: jax.jacrev(jax.grad(f)), "twice"),
        (lambda f: jax.jacfwd(jax.grad(f)), "in forward mode"),
    ],
)
def test_other_derivatives_name_the_scan(derivative, kind):
    cell = jaxseq.SimpleRNN(3)
    params, inputs = random_params(cell, F, dtype="float32"), draw(2, F)

    def loss(inputs):
        return jaxseq.scan(cell, params, inputs, implementation="fused")[1].sum()

    with kernel(), pytest.raises(ValueError, match=f'"fused" must not be differentiated {kind}; .*"scan"'):
        derivative(loss)(inputs)


class Other(MinimalGatedUnit):
    """A cell whose step does something else."""

    def __init__(self, hidden_size, instead):
        super().__init__(hidden_size)
        object.__setattr__(self, "instead", instead)

    def step(self, params, h, drive, masks):
        h = h + self.instead(drive[..., : self.hidden_size] + h, params)
        return h, h


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        (lambda x, params: jnp.cumsum(x, -1), "it uses `cumsum`"),
        (lambda x, params: x - x.mean(0), "it couples the sequences of a batch"),
        (lambda x, params: x.at[..., 0].set(0), "it uses `scatter`"),
        (lambda x, params: 2 * x if x.shape[0] == B else x, "it does something else for a batch of another size"),
        (lambda x, params: x[..., 1:2], r"it takes 1:2 of \[5\]; slices must end at multiples of 5"),
        (lambda x, params: x[..., None].repeat(2, -1).sum(-1), r"an array of shape .* has too many axes"),
        (lambda x, params: (x + np.arange(5, dtype="float32")) @ params.w_hidden @ jnp.ones((10, 5)), None),
    ],
)
def test_what_a_kernel_cannot_do_is_named(instead, reason):
    cell = Other(5, instead)
    params, inputs = random_params(cell, F, dtype="float32"), draw(T, B, F)
    refused = pytest.raises(ValueError, match=f'"fused" cannot run Other.step: {reason}.*; use implementation="scan"')
    with kernel(), refused if reason else contextlib.nullcontext():
        jax.eval_shape(functools.partial(jaxseq.scan, cell, implementation="fused"), params, inputs)


@pytest.mark.parametrize(
    ("cell", "dtype", "options", "message"),
    [
        (jaxseq.LSTM(129), "float32", {}, "must have a hidden_size from 2 to 128, got 129"),
        (jaxseq.LSTM(128), "float32", {}, 'its matrices take 256 KB, where 192 KB fit on the chip at .*="highest"'),
        (jaxseq.LSTM(128), "bfloat16", {}, None),
        (jaxseq.GRU(4), "float64", {}, "must compute in float32 or bfloat16, got float64"),
        (jaxseq.GRU(4), "float32", dict(unroll=2), '^unroll must be 1 with implementation="fused", got 2'),
    ],
)
def test_what_does_not_fit_is_named(cell, dtype, options, message, x64):
    params = jax.eval_shape(lambda key: cell.init(key, F), jax.random.key(0))
    params, inputs = jax.tree.map(
        lambda leaf: leaf.update(dtype=dtype), (params, jax.ShapeDtypeStruct((T, B, F), dtype))
    )
    with kernel(), pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        jax.eval_shape(functools.partial(jaxseq.scan, cell, implementation="fused", **options), params, inputs)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="where there is a GPU, it runs")
def test_without_a_gpu_it_says_so():
    cell = jaxseq.GRU(4)
    with pytest.raises(ValueError, match="must run on a GPU .* got platform 'cpu'; use implementation=\"scan\""):
        jaxseq.scan(cell, random_params(cell, F, dtype="float32"), draw(T, F), implementation="fused")


def test_nothing_to_run():
    cell = jaxseq.LSTM(4)
    params = random_params(cell, F, dtype="float32")
    for shape in ((0, B, F), (T, 0, F)):
        with kernel():
            found = jaxseq.scan(cell, params, draw(*shape), implementation="fused")
        assert_close(found, jaxseq.scan(cell, params, draw(*shape)), TOLERANCE)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("cell", "dtype"), [(jaxseq.LSTM(128), "float32"), (jaxseq.GRU(20), "bfloat16")])
def test_it_lowers_for_cuda_without_a_gpu(cell, dtype, monkeypatch):
    """Up to Triton's own program; what compiles that, ptxas included, comes with JAX's plugin for CUDA."""
    monkeypatch.setattr(recurrence, "platform", lambda: "gpu")
    flags, masks = jnp.ones((T, B), bool), random_dropout(cell, (B,), F, dtype=dtype)
    options = dict(mask=flags, resets=flags, dropout_masks=masks, implementation="fused")
    params, inputs = random_params(cell, F, dtype=dtype), draw(T, B, F, dtype=dtype)

    def loss(params, inputs):
        with jax.default_matmul_precision("default"):
            return jaxseq.scan(cell, params, inputs, **options)[1].sum()

    platform = ("gpu",) if jax.version.__version_info__ > (0, 10, 0) else ()
    device = AbstractDevice("NVIDIA H100 80GB HBM3", None, *platform)  # what the lowering asks about, since jax 0.11
    mesh = AbstractMesh((1,), ("one",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        program = jax.jit(jax.grad(loss)).trace(params, inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("@__gpu$xla.gpu.triton(") == 2
