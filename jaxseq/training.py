"""Training: data on the device, whole stretches of an epoch in one compiled call, several seeds at once.

An epoch's order is derived from (seed, epoch), a step's dropout from (seed, step), so that a run that stopped and
resumed draws what it would have drawn. Seeds share one state with a leading axis: side by side (`vmap`) on an
accelerator, one after another (`lax.map`) on a CPU, where that is faster. The batch is sharded over the devices.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxseq import checkpoints
from jaxseq.interrupts import Interrupted, interrupts_noted
from jaxseq.losses import weighted_sum

Values = Callable[[jax.Array, jax.Array], jax.Array]  # (predictions, targets) -> unreduced values


@struct.dataclass
class TrainState:
    """All that a training step changes, of one seed or, with a leading axis S, of several."""

    step: jax.Array  # steps taken, int32 []
    params: Any
    opt_state: Any
    key: jax.Array  # the seed's random key; never advanced, folded with step and epoch


class Examples(NamedTuple):
    """A data set on the device, and how examples are gathered from it by index, inside `jit`.

    `take(arrays, rows)` gives (inputs, targets) or (inputs, targets, weights); inputs may be a tuple of several
    model arguments. `rows` are the indices that make up the set.
    """

    arrays: Any
    rows: np.ndarray  # int [N]
    take: Callable[[Any, jax.Array], tuple[Any, ...]]
    draws: int | None = None  # examples an epoch, drawn with replacement; None: each once


def examples(inputs: Any, targets: Any, weights: Any = None) -> Examples:
    """Examples held as arrays whose leading axis counts them.

    Args:
      inputs: an array [N, ...], or a tuple of them.
      targets: [N, ...].
      weights: float or bool [N] or [N, T], what each value of the loss counts; None: 1.
    Returns:
      Examples.
    Raises:
      ValueError: there are none, their numbers differ, or a value is NaN or infinite.
    """
    arrays = (inputs, targets) if weights is None else (inputs, targets, weights)
    arrays = jax.tree.map(np.asarray, arrays)
    sizes = [leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(arrays)]
    if len(set(sizes)) != 1:
        raise ValueError(f"inputs, targets and weights must hold equally many examples, got {sizes}")
    if not sizes[0]:
        raise ValueError("inputs must hold at least one example, got an empty set")
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            name = ("inputs", "targets", "weights")[path[0].idx]
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(leaf))[0])
            raise ValueError(f"{name} must be finite, got {leaf[index]} at index {index}")
    return Examples(arrays, np.arange(sizes[0], dtype=np.int32), take_rows)


def take_rows(arrays: Any, rows: jax.Array) -> Any:
    """Gathers rows of every array."""
    return jax.tree.map(lambda array: array[rows], arrays)


class Fit(NamedTuple):
    """What `fit` returns; S seeds, E epochs."""

    state: TrainState  # after the last epoch, each leaf [S, ...]
    best_params: Any  # of each seed's best epoch, each leaf [S, ...]
    best_epoch: list[int]  # [S], counted from 1
    history: list[dict[str, list[float]]]  # [S] of {quantity: [epochs run]}; a stopped seed's is shorter
    seconds: float  # spent training and validating, over all sessions of the run
    steps_per_epoch: int


def select(tree: Any, seed: int) -> Any:
    """One seed's part of a tree whose leaves are [S, ...]."""
    return jax.tree.map(lambda leaf: leaf[seed], tree)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained: a model, its loss and what is reported beside it.

    Attributes:
      model: a Linen module; called as `model(*inputs, train=...)`.
      loss: (predictions, targets) -> unreduced values, as in `jaxseq.losses`.
      metrics: more of the same, by name.
    """

    model: Any
    loss: Values
    metrics: Mapping[str, Values] = dataclasses.field(default_factory=dict)


def fit(
    task: Task,
    train: Examples,
    validation: Examples | None = None,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    seeds: int | Sequence[int] = 1,
    monitor: str = "loss",
    maximize: bool = False,
    patience: int | None = None,
    directory: str | Path | None = None,
    resume: bool = False,
    save_every: float = 30.0,
    devices: Sequence[Any] | None = None,
    progress: bool | None = None,
    label: str = "fit",
) -> Fit:
    """Trains S seeds of a model, keeps each one's best parameters, and can be stopped and resumed.

    >>> task = jaxseq.Task(model, jaxseq.losses.binary_cross_entropy, {"accuracy": jaxseq.losses.binary_accuracy})
    >>> result = jaxseq.fit(task, train, validation, optimizer=jaxseq.rmsprop(), epochs=10, batch_size=128)
    >>> result.history[0]["val_accuracy"]

    Args:
      task: model, loss and metrics.
      train: the training examples, in a new order every epoch; the smaller last batch is kept.
      validation: evaluated after every epoch; None: the training loss is monitored.
      optimizer: an Optax transformation.
      epochs: how many.
      batch_size: B.
      seeds: how many seeds (0, 1, …), or which.
      monitor: the quantity whose best epoch is kept: "loss" or a metric's name, of the validation.
      maximize: the monitored quantity is the better the larger it is.
      patience: stop a seed after this many epochs without a better value; None: never.
      directory: where checkpoints go: `latest/`, with everything a resumed run needs, and `best/`; None: nowhere.
      resume: go on from the newest intact checkpoint in `directory`, if there is one.
      save_every: seconds between checkpoints; one is always written at the end and when interrupted.
      devices: to shard every batch over; None: all.
      progress: show a progress bar; None: if stderr is a terminal.
      label: the bar's name.
    Returns:
      Fit(state, best_params, best_epoch, history, seconds, steps_per_epoch).
    Raises:
      ValueError: an argument is out of range, or the checkpoint belongs to another run.
      TrainingDiverged: the loss became NaN or infinite.
      Interrupted: SIGINT or SIGTERM came; the run was saved if it has a directory.
    """
    seed_list = _check_seeds(seeds)
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if monitor != "loss" and monitor not in task.metrics:
        raise ValueError(f'monitor must be "loss" or one of {sorted(task.metrics)}, got {monitor!r}')
    if resume and directory is None:
        raise ValueError("resume needs a directory to resume from, got directory=None")
    for name, data in (("train", train), ("validation", validation)):
        if data is not None and not len(data.rows):
            raise ValueError(f"{name} must hold at least one example, got an empty set")

    for data in (train, validation):
        _check_inputs(task.model, data)

    mesh = make_mesh(devices)
    run_chunk = _make_train_chunk(task, train, optimizer, batch_size, mesh)
    run_evaluation = None if validation is None else _make_evaluation(task, validation, batch_size, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    arrays, rows = jax.device_put((train.arrays, np.asarray(train.rows, np.int32)), replicated)
    held_out: tuple[Any, ...] = ()
    if validation is not None:  # windows of one series share it: once on the device is enough
        shared = arrays if validation.arrays is train.arrays else validation.arrays
        held_out = jax.device_put((shared, np.asarray(validation.rows, np.int32)), replicated)

    one_input = jax.eval_shape(train.take, train.arrays, jax.ShapeDtypeStruct((1,), jnp.int32))[0]
    initialize = jax.jit(functools.partial(_initialize, task.model, one_input, optimizer))
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[initialize(seed) for seed in seed_list])
    run = _Run.start(state, task, seed_list)
    settings = {"seeds": seed_list, "batch_size": batch_size, "monitor": monitor, "devices": mesh.size}
    if directory is not None and resume:
        run = _resume(Path(directory), run, settings)
    elif directory is not None and checkpoints.steps(Path(directory) / "latest"):
        raise ValueError(f"directory must hold no checkpoints unless resume=True, got {directory}")
    run = dataclasses.replace(run, **jax.device_put(run.arrays(), replicated))

    steps = steps_per_epoch(train, batch_size)
    bar = tqdm(
        total=epochs * steps,
        initial=min(run.epoch * steps + run.position, epochs * steps),
        desc=label,
        unit="step",
        disable=None if progress is None else not progress,
        dynamic_ncols=True,
    )
    clock, last_save = time.monotonic(), time.monotonic()
    pace = _Pace(steps)
    prefix = "" if validation is None else "val_"
    with bar, interrupts_noted() as interrupted:
        while run.epoch < epochs and not all(run.stopped):
            stop = min(run.position + pace.steps, steps)
            running = ~np.asarray(run.stopped)
            started = time.monotonic()
            run.state, run.totals = run_chunk(
                run.state,
                run.totals,
                ~running,
                arrays,
                rows,
                np.int32(run.epoch),
                np.int32(run.position),
                np.int32(stop),
            )
            means = _means(run.totals)
            pace.note(stop - run.position, time.monotonic() - started)
            bar.update(stop - run.position)
            run.position = stop
            _check_finite(means["loss"], run, directory)
            if run.position == steps:
                if run_evaluation is not None:
                    totals = run_evaluation(run.state.params, *held_out)
                    means |= {f"val_{name}": value for name, value in _means(totals).items()}
                run.end_epoch(means, means[prefix + monitor], maximize, patience)
                run.totals = jax.tree.map(jnp.zeros_like, run.totals)
            bar.set_postfix({name: f"{value[running].mean():.4f}" for name, value in means.items()}, refresh=False)

            now = time.monotonic()
            done = run.epoch == epochs or all(run.stopped)
            if directory is not None and (interrupted or done or (run.position == 0 and now - last_save >= save_every)):
                run.seconds += now - clock
                clock = now
                _save(Path(directory), run, settings)
                last_save = time.monotonic()
            if interrupted:
                raise Interrupted(interrupted[0], directory)
    run.seconds += time.monotonic() - clock
    return Fit(run.state, run.best_params, run.best_epoch, run.history, run.seconds, steps)


def evaluate(
    task: Task,
    params: Any,
    data: Examples,
    *,
    batch_size: int,
    devices: Sequence[Any] | None = None,
) -> dict[str, np.ndarray]:
    """Loss and metrics over all examples, for S seeds' parameters at once.

    Args:
      task: model, loss and metrics.
      params: parameters, each leaf [S, ...], as `Fit.best_params`.
      data: the examples.
      batch_size: how many at a time; it does not change the result.
      devices: to shard over; None: all.
    Returns:
      {"loss": float [S], metric: float [S], …}.
    Raises:
      ValueError: there are no examples.
    """
    if not len(data.rows):
        raise ValueError("data must hold at least one example, got an empty set")
    _check_inputs(task.model, data)
    mesh = make_mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    run = _make_evaluation(task, data, batch_size, mesh)
    return _means(run(*jax.device_put((params, data.arrays, np.asarray(data.rows, np.int32)), replicated)))


def predict(model: Any, params: Any, inputs: Any, *, batch_size: int = 128) -> np.ndarray:
    """Applies a model to many inputs, batch by batch.

    Args:
      model: a Linen module.
      params: one seed's parameters.
      inputs: an array [N, ...], or a tuple of them.
      batch_size: how many at a time; it does not change the result.
    Returns:
      The predictions [N, ...].
    Raises:
      ValueError: there are no inputs.
    """
    data = examples(inputs, np.zeros(len(jax.tree.leaves(inputs)[0]), np.float32))
    _check_inputs(model, data)
    rows = _batches(jnp.asarray(data.rows), batch_size, 1)[0]
    arrays = jax.tree.map(jnp.asarray, data.arrays[0])

    @jax.jit
    def run(params: Any, rows: jax.Array) -> jax.Array:
        return model.apply({"params": params}, *_as_arguments(take_rows(arrays, rows)))

    predictions = np.concatenate([np.asarray(run(params, batch)) for batch in rows])
    return predictions[: len(data.rows)]


def steps_per_epoch(data: Examples, batch_size: int) -> int:
    """Batches in an epoch, the smaller last one included."""
    return math.ceil((data.draws or len(data.rows)) / batch_size)


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """The devices as one axis, "batch"."""
    devices = list(devices) if devices is not None else jax.devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


class TrainingDiverged(FloatingPointError):
    """The loss became NaN or infinite."""


def _initialize(model: Any, one_input: Any, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one_input)
    variables = model.init(init_key, *_as_arguments(inputs))
    if set(variables) - {"params"}:
        raise ValueError(f"model must keep all its variables in the collection 'params', got {sorted(variables)}")
    params = variables.get("params", {})
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), train_key)


def _check_inputs(model: Any, data: Examples | None) -> None:
    """Lets a model look at inputs that lie there as arrays; inside `jit` their values are unknown."""
    if data is not None and data.take is take_rows and hasattr(model, "check_inputs"):
        model.check_inputs(*_as_arguments(data.arrays[0]))


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _batches(rows: jax.Array, batch_size: int, devices: int) -> tuple[jax.Array, jax.Array]:
    """Cuts rows into batches, filled up with weight zero at the end and to a multiple of the devices.

    Returns:
      (rows int [steps, B'], weights float32 [steps, B']), B' ≥ batch_size divisible by `devices`.
    """
    steps = math.ceil(rows.size / batch_size)
    width = math.ceil(batch_size / devices) * devices
    fill = jnp.full(steps * batch_size - rows.size, rows[0])
    filled = jnp.concatenate([rows, fill]).reshape(steps, batch_size)
    weights = (jnp.arange(steps * batch_size) < rows.size).reshape(steps, batch_size)
    pad = ((0, 0), (0, width - batch_size))
    return jnp.pad(filled, pad, mode="edge"), jnp.pad(weights, pad).astype(jnp.float32)


def _local(batch: jax.Array, mesh: Mesh) -> jax.Array:
    """This device's share of a batch [B', ...], inside `shard_map`."""
    share = batch.shape[0] // mesh.size
    return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index("batch") * share, share)


def _over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps over the leading axis: side by side on an accelerator, one after another on a CPU."""
    if jax.default_backend() == "cpu":
        return lambda *trees: jax.lax.map(lambda leaves: function(*leaves), trees)
    return jax.vmap(function)


def _score(
    task: Task, data: Examples, params: Any, arrays: Any, rows: jax.Array, weights: jax.Array, **settings: Any
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Σ w v of the loss and each metric over some rows, and Σ w."""
    inputs, targets, *more = data.take(arrays, rows)
    predictions = task.model.apply({"params": params}, *_as_arguments(inputs), **settings)
    if more:
        weights = more[0] * weights.reshape(weights.shape + (1,) * (more[0].ndim - 1))
    sums, weight = {}, jnp.zeros(())
    for name, values in {"loss": task.loss, **task.metrics}.items():
        sums[name], weight = weighted_sum(values(predictions, targets).astype(jnp.float32), weights)
    return sums, weight


def _make_train_chunk(
    task: Task, data: Examples, optimizer: optax.GradientTransformation, batch_size: int, mesh: Mesh
) -> Callable[..., Any]:
    """Compiles: (state, totals, stopped, arrays, rows, epoch, start, stop) -> (state, totals)."""

    def one_seed(state: TrainState, totals: Any, stopped: Any, arrays: Any, rows: Any, epoch, start, stop) -> Any:
        order_key, step_key = jax.random.split(state.key)
        order_key = jax.random.fold_in(order_key, epoch)
        if data.draws is None:
            order = jax.random.permutation(order_key, rows)
        else:
            order = rows[jax.random.randint(order_key, (data.draws,), 0, rows.size)]
        batches, batch_weights = _batches(order, batch_size, mesh.size)

        def one_step(index: Any, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, totals = carry
            weights = _local(batch_weights[index], mesh)
            key = jax.random.fold_in(step_key, state.step)
            key = jax.random.fold_in(key, jax.lax.axis_index("batch"))

            def local_sum(params: Any) -> tuple[jax.Array, Any]:
                sums, weight = _score(
                    task,
                    data,
                    params,
                    arrays,
                    _local(batches[index], mesh),
                    weights,
                    train=True,
                    rngs={"dropout": key},
                )
                return sums["loss"], (sums, weight)

            # One exchange a step: sums of gradients and of metrics, divided by the weight afterwards.
            gradients, (sums, weight) = jax.lax.psum(jax.grad(local_sum, has_aux=True)(state.params), "batch")
            gradients = jax.tree.map(lambda leaf: leaf / jnp.maximum(weight, 1e-9).astype(leaf.dtype), gradients)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            totals = jax.tree.map(jnp.add, totals, sums | {"weight": weight})
            return TrainState(state.step + 1, params, opt_state, state.key), totals

        return jax.lax.fori_loop(start, stop, one_step, (state, totals))

    def all_seeds(state: Any, totals: Any, stopped: Any, arrays: Any, rows: Any, epoch, start, stop) -> Any:
        def run(state: TrainState, totals: Any, stopped: jax.Array) -> Any:
            return jax.lax.cond(
                stopped,
                lambda state, totals: (state, totals),
                lambda state, totals: one_seed(state, totals, stopped, arrays, rows, epoch, start, stop),
                state,
                totals,
            )

        return _over_seeds(run)(state, totals, stopped)

    return jax.jit(_on_every_device(all_seeds, mesh), donate_argnums=(0, 1))


def _make_evaluation(task: Task, data: Examples, batch_size: int, mesh: Mesh) -> Callable[..., Any]:
    """Compiles: (params, arrays, rows) -> totals."""

    def all_seeds(params: Any, arrays: Any, rows: jax.Array) -> Any:
        batches, batch_weights = _batches(rows, batch_size, mesh.size)

        def one_seed(params: Any) -> Any:
            def one_batch(index: Any, totals: Any) -> Any:
                weights = _local(batch_weights[index], mesh)
                sums, weight = _score(task, data, params, arrays, _local(batches[index], mesh), weights)
                return jax.tree.map(jnp.add, totals, sums | {"weight": weight})

            totals = jax.lax.fori_loop(0, batches.shape[0], one_batch, _zero_totals(task))
            return jax.lax.psum(totals, "batch")

        return _over_seeds(one_seed)(params)

    return jax.jit(_on_every_device(all_seeds, mesh))


def _on_every_device(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Runs a function on replicated arguments on every device; it takes its own share of each batch.

    By hand, not by the partitioner: that would add up the weight gradient over the devices at every time step
    inside the recurrence (measured at B128 T500 H32 on two CPU devices: 148 ms against 82).
    """
    replicated = PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=replicated, out_specs=replicated, check_vma=False)


def _zero_totals(task: Task) -> dict[str, jax.Array]:
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", *task.metrics, "weight")}


def _means(totals: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    host = jax.device_get(dict(totals))
    weight = np.maximum(host.pop("weight"), 1e-9)
    return {name: value / weight for name, value in host.items()}


@dataclasses.dataclass
class _Run:
    """A run in progress: the arrays on the device, the rest on the host."""

    state: Any
    totals: Any  # sums since the epoch began, each [S]
    best_params: Any
    best_value: list[float | None]
    best_epoch: list[int]
    waited: list[int]  # epochs without a better value
    stopped: list[bool]
    history: list[dict[str, list[float]]]
    epoch: int = 0
    position: int = 0  # steps taken in this epoch
    seconds: float = 0.0

    @classmethod
    def start(cls, state: Any, task: Task, seeds: list[int]) -> "_Run":
        size = len(seeds)
        totals = jax.tree.map(lambda leaf: jnp.zeros((size,), leaf.dtype), _zero_totals(task))
        best = jax.tree.map(jnp.copy, state.params)
        return cls(state, totals, best, [None] * size, [0] * size, [0] * size, [False] * size, [{} for _ in seeds])

    def arrays(self) -> dict[str, Any]:
        return {"state": self.state, "totals": self.totals, "best_params": self.best_params}

    def bookkeeping(self) -> dict[str, Any]:
        names = ("best_value", "best_epoch", "waited", "stopped", "history", "epoch", "position", "seconds")
        return {name: getattr(self, name) for name in names}

    def end_epoch(
        self, means: Mapping[str, np.ndarray], values: np.ndarray, maximize: bool, patience: int | None
    ) -> None:
        self.epoch, self.position = self.epoch + 1, 0
        improved = np.zeros(len(self.stopped), bool)
        for seed, value in enumerate(values.tolist()):
            if self.stopped[seed]:
                continue
            for name, mean in means.items():
                self.history[seed].setdefault(name, []).append(float(mean[seed]))
            best = self.best_value[seed]
            if best is None or (value > best if maximize else value < best):
                improved[seed] = True
                self.best_value[seed], self.best_epoch[seed], self.waited[seed] = value, self.epoch, 0
            else:
                self.waited[seed] += 1
                self.stopped[seed] = patience is not None and self.waited[seed] >= patience
        if improved.any():
            self.best_params = _replace_seeds(self.best_params, self.state.params, improved)


@jax.jit
def _replace_seeds(old: Any, new: Any, chosen: jax.Array) -> Any:
    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(chosen.reshape(chosen.shape + (1,) * (a.ndim - 1)), b, a)

    return jax.tree.map(pick, old, new)


class _Pace:
    """How many steps one compiled call takes: as many as fill about half a second, for the bar and Ctrl-C."""

    def __init__(self, steps_per_epoch: int) -> None:
        self.limit = steps_per_epoch
        self.steps = 1
        self.compiled = False

    def note(self, steps: int, seconds: float) -> None:
        if self.compiled:  # the first call's time is the compiler's
            self.steps = int(min(max(0.5 * steps / max(seconds, 1e-6), 1), self.limit, 8 * self.steps))
        self.compiled = True


def _check_finite(loss: np.ndarray, run: _Run, directory: str | Path | None) -> None:
    for seed, value in enumerate(loss.tolist()):
        if not math.isfinite(value) and not run.stopped[seed]:
            saved = checkpoints.steps(Path(directory) / "latest") if directory is not None else []
            where = f"; the last good checkpoint is step {saved[-1]} in {directory}" if saved else ""
            raise TrainingDiverged(
                f"loss must stay finite, got {value} in epoch {run.epoch + 1} by step {run.position} "
                f"(seed number {seed}){where}; try a smaller learning rate, or optax.clip_by_global_norm(1.0)"
            )


def _check_seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        return list(range(seeds))
    listed = [int(seed) for seed in seeds]  # type: ignore[union-attr]
    if not listed or min(listed) < 0 or len(set(listed)) != len(listed):
        raise ValueError(f"seeds must be at least one, different and not negative, got {listed}")
    return listed


def _save(directory: Path, run: _Run, settings: dict[str, Any]) -> None:
    step = int(np.max(jax.device_get(run.state.step)))
    metadata = {"settings": settings, "run": run.bookkeeping()}
    checkpoints.save(directory / "latest", step, run.arrays(), metadata)
    checkpoints.save(directory / "best", step, run.best_params, {"epochs": run.best_epoch}, keep=1)


def _resume(directory: Path, run: _Run, settings: dict[str, Any]) -> _Run:
    newest = checkpoints.find_intact(directory / "latest")
    if newest is None:
        return run
    stored = checkpoints.read_metadata(newest)["settings"]
    for name, value in settings.items():
        if name != "devices" and stored.get(name) != value:
            raise ValueError(
                f"{name} must be {stored.get(name)!r}, as in the run to resume in {directory}, got {value!r}"
            )
    if stored["devices"] != settings["devices"]:
        tqdm.write(
            f"resuming on {settings['devices']} devices what ran on {stored['devices']}: "
            "the last bits of the result will differ"
        )
    restored = checkpoints.restore(directory / "latest", run.arrays())
    assert restored is not None  # it was intact a moment ago
    return dataclasses.replace(run, **restored.tree, **restored.metadata["run"])
