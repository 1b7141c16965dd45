"""How everything here is measured: compile, check that results are equal, warm up, time, interleaved.

A case is first compiled, apart from any run; then its result is compared with a reference; only then are all
cases timed, one sample of each in every round, in an order that changes from round to round, so that what else
the machine does falls on all of them alike.

Axis letters: T time, B batch, F input features, H hidden.
"""

import datetime
import functools
import math
import os
import platform
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from jaxseq import environment

CELLS = {
    "lstm": jaxseq.LSTM,
    "gru": jaxseq.GRU,
    "gru_reset_after": jaxseq.GRUResetAfter,
    "simple_rnn": jaxseq.SimpleRNN,
}
PASSES = ("forward", "gradient")
PASS_TITLES = {"forward": "forward", "gradient": "forward + backward"}
NOTES = {
    "forward": "the final state and all outputs",
    "gradient": "forward and backward, with respect to the parameters and the inputs",
    "seconds": "wall clock of one call, median and quartiles over interleaved samples after a warm-up",
    "compile_seconds": "tracing, lowering and compiling, once, the persistent compilation cache off",
    "memory": "per device, XLA's estimate (compiled.memory_analysis()), not a measured peak; "
    "temporary_bytes is what a run needs beside its arguments and results",
    "difference": "max|a - b| / max|b| against the first case, the greatest over all arrays",
}

VARIABLES = ("XLA_FLAGS", "GLIBC_TUNABLES")  # that change what is measured, and are to be seen in the result
LEAST_ROUNDS = 3  # of samples, however long they take: quartiles of fewer say nothing

_orders = random.Random(0)
_SECONDS_PER_SAMPLE = 0.05  # a shorter call is repeated within a sample, or one blip of a shared machine is a sample
_SECONDS = ("median", "lower_quartile", "upper_quartile")
_DOUBLES = 2**24  # compared at a time: float64 copies of a whole array of gigabytes would not fit
_TOLERANCE = {"cpu": 1e-4}
_ACCELERATOR_TOLERANCE = 2e-2  # products there are TF32 or bfloat16 unless asked otherwise


class WrongArgument(ValueError):
    """A command-line argument that only a benchmark could judge."""


class UnequalResults(Exception):
    """Two cases that should compute the same do not: nothing is timed."""


class Program(NamedTuple):
    """A compiled function with its arguments."""

    run: Callable[[], Any]
    compile_seconds: float
    memory: dict[str, int]
    call: Callable[..., Any]  # the same with other arguments of their shapes


class Timing(NamedTuple):
    """Seconds of one call."""

    median: float
    lower_quartile: float
    upper_quartile: float
    samples: int
    calls_per_sample: int

    def of_one(self, steps: int) -> "Timing":
        """The timing of one of the steps that a call takes."""
        return self._replace(**{name: getattr(self, name) / steps for name in _SECONDS})


class Layer(NamedTuple):
    """Random data for one recurrent layer, the batch spread over the devices."""

    params: Any
    inputs: jax.Array  # [T, B, F]
    cotangents: jax.Array  # [T, B, H], what the gradient of the outputs is


def make_mesh(devices: int) -> jax.sharding.Mesh:
    """The first so many devices as one axis, "batch"."""
    return jax.make_mesh((devices,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])


def random_layer(
    cell: jaxseq.Cell,
    length: int,
    batch: int,
    features: int,
    *,
    devices: int,
    seed: int = 0,
) -> Layer:
    """Draws a layer's parameters and data.

    Args:
      cell: the cell.
      length: T.
      batch: B.
      features: F.
      devices: how many devices share the batch.
      seed: of everything drawn.
    Returns:
      The layer, on its devices.
    Raises:
      WrongArgument: the batch does not divide over the devices.
    """
    mesh = make_mesh(devices)
    if batch % devices:
        raise WrongArgument(f"argument --batch: must be a multiple of --devices, {devices}, got {batch}")
    everywhere = jax.NamedSharding(mesh, jax.P())
    by_batch = jax.NamedSharding(mesh, jax.P(None, "batch"))
    draw = np.random.default_rng(seed).standard_normal
    inputs, cotangents = (draw((length, batch, size), np.float32) for size in (features, cell.hidden_size))
    return Layer(
        jax.device_put(cell.init(jax.random.key(seed), features), everywhere),
        jax.device_put(inputs, by_batch),
        jax.device_put(cotangents, by_batch),
    )


def layer_function(cell: jaxseq.Cell, measured: str, **how: Any) -> Callable[..., Any]:
    """The function of a `Layer`'s fields that a benchmark of one layer compiles.

    Args:
      cell: the cell.
      measured: one of `PASSES`.
      **how: `jaxseq.scan`'s keyword arguments.
    Returns:
      For "forward" a function to (state, outputs), for "gradient" one to the gradients of the parameters and of
      the inputs.
    """

    def forward(params: Any, inputs: jax.Array, _: jax.Array) -> Any:
        return jaxseq.scan(cell, params, inputs, **how)

    def loss(params: Any, inputs: jax.Array, cotangents: jax.Array) -> jax.Array:
        _, outputs = forward(params, inputs, cotangents)
        return jnp.vdot(cotangents, outputs)

    return forward if measured == "forward" else jax.grad(loss, argnums=(0, 1))


def compile_program(function: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles a function for its arguments, and times that."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    compiled = _interruptible(lowered.compile)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return Program(
        run=functools.partial(compiled, *arguments),
        compile_seconds=seconds,
        memory={
            "temporary_bytes": memory.temp_size_in_bytes,
            "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
        },
        call=compiled,
    )


def warm_up_compiler() -> None:
    """Compiles something small, so that the first program measured does not pay for starting the compiler."""
    layer = random_layer(jaxseq.SimpleRNN(2), 2, 1, 2, devices=1)
    for measured in PASSES:
        compile_program(layer_function(jaxseq.SimpleRNN(2), measured), *layer)


def check_equal(name: str, result: Any, reference: Any) -> float:
    """Compares two results, array by array.

    Args:
      name: of what is compared, for the error.
      result: a tree of arrays.
      reference: what it should be.
    Returns:
      max|a − b| / max|b|, the greatest over the arrays.
    Raises:
      UnequalResults: that is above the tolerance, or not a number.
    """
    differences = jax.tree.map(_difference, result, reference)
    worst = float(np.max(jax.tree.leaves(differences)))  # NaN, if there is one
    tolerance = _TOLERANCE.get(jax.default_backend(), _ACCELERATOR_TOLERANCE)
    if not worst <= tolerance:
        raise UnequalResults(f"{name} must equal the first case within {tolerance:g}, differs by {worst:.3g}")
    return worst


def time_interleaved(
    runs: Mapping[Any, Callable[[], Any]], repeats: int, *, seconds: float = math.inf
) -> dict[Any, Timing]:
    """Times functions side by side: every round takes one sample of each.

    Args:
      runs: functions of no arguments, each called before, to be warm.
      repeats: rounds.
      seconds: no new round begins after so many, once there are LEAST_ROUNDS.
    Returns:
      One timing for each function.
    """
    calls = dict.fromkeys(runs, 1)
    samples: dict[Any, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for number in range(repeats):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in in_any_order(runs):
            once = seconds_per_call(runs[name], calls[name])
            if once * calls[name] < _SECONDS_PER_SAMPLE:
                calls[name] = math.ceil(2 * _SECONDS_PER_SAMPLE / once)
                once = seconds_per_call(runs[name], calls[name])
            samples[name].append(once)
    return {name: timing(samples[name], calls[name]) for name in runs}


def in_any_order(names: Iterable[Any]) -> list[Any]:
    """Names in an order that differs from call to call: what follows what would else be the same in every case."""
    order = list(names)
    _orders.shuffle(order)
    return order


def seconds_per_call(run: Callable[[], Any], calls: int) -> float:
    """Calls a function so many times, waits for what it gives, and divides."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) / calls


def timing(samples: Sequence[float], calls: int) -> Timing:
    """Median and quartiles of samples, seconds of one call each."""
    lower, median, upper = (float(value) for value in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Timing(median, lower, upper, len(samples), calls)


def describe_machine(devices: int) -> dict[str, Any]:
    """What the measurement ran on: device, versions, cores, date, and those of VARIABLES that are set."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "processor": environment.processor(),
        "cores": environment.cores(),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        **environment.versions("jax", "jaxlib", "numpy", "jaxseq"),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def describe_error(error: Exception) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split("\n", 1)[0].split())


def rounded(tree: Any) -> Any:
    """Nested dictionaries with floats of five digits: more say nothing of a time, and fill a file."""
    if isinstance(tree, dict):
        return {name: rounded(node) for name, node in tree.items()}
    return float(f"{tree:.5g}") if isinstance(tree, float) else tree


def progress(text: str) -> None:
    """Says on stderr what goes on; stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the columns padded so that it can be read as it stands."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def milliseconds(seconds: Mapping[str, Any]) -> str:
    """A timing for a table: `median (lower quartile-upper quartile)`, in ms."""
    median, lower, upper = (significant(1e3 * seconds[name]) for name in _SECONDS)
    return f"{median} ({lower}-{upper})"


def significant(value: float) -> str:
    """A number with three significant digits and no exponent: 1234, 12.3, 0.00123."""
    if not value:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _interruptible(work: Callable[[], Any]) -> Any:
    """Calls `work` in a thread of its own: Ctrl-C must not wait for a compiler that takes minutes."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.extend((work(), None))
        except BaseException as error:  # goes on to the thread that waits
            outcome.extend((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    result, error = outcome
    if error is not None:
        raise error
    return result


def _difference(a: Any, b: Any) -> float:
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return math.inf
    difference = scale = np.float64(0)
    parts = math.ceil(max(a.size, 1) / _DOUBLES)
    for of_a, of_b in zip(np.array_split(a.ravel(), parts), np.array_split(b.ravel(), parts), strict=True):
        doubles = np.asarray(of_b, np.float64)
        difference = np.maximum(difference, np.max(np.abs(of_a - doubles), initial=0))  # NaN goes through
        scale = np.maximum(scale, np.max(np.abs(doubles), initial=0))
    return float(difference / (scale or 1))
