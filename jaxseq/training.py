"""Training: `fit` runs epochs, validates, keeps the best parameters, stops early, saves and resumes."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxseq import arguments, checkpoints
from jaxseq.epochs import (
    Examples,
    Task,
    TrainState,
    as_arguments,
    check_inputs,
    cut_batches,
    examples,
    initialize,
    make_evaluation,
    make_mesh,
    make_train_chunk,
    means,
    steps_per_epoch,
    take_rows,
    zero_totals,
)
from jaxseq.interrupts import Interrupted, interrupts_noted


class Fit(NamedTuple):
    """What `fit` returns; S seeds, E epochs."""

    state: TrainState  # after the last epoch, each leaf [S, ...]
    best_params: Any  # of each seed's best epoch, each leaf [S, ...]
    best_epoch: list[int]  # [S], counted from 1
    history: list[dict[str, list[float]]]  # [S] of {quantity: [epochs run]}; a stopped seed's is shorter
    seconds: float  # spent training and validating, over all sessions of the run
    steps_per_epoch: int


def select(tree: Any, seed: int) -> Any:
    """One seed's part of a tree whose leaves are [S, ...].

    Raises:
      ValueError: `seed` is none of 0 … S − 1.
    """
    seed = arguments.integer("seed", seed)
    for leaf in jax.tree.leaves(tree):
        arguments.is_array("tree's leaves", leaf)
        if not leaf.ndim or seed >= len(leaf):
            raise ValueError(f"seed must be one of tree's leading axis, in shape {leaf.shape}, got {seed}")
    return jax.tree.map(lambda leaf: leaf[seed], tree)


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
    pretrained: Callable[[Any], Any] | None = None,
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
      pretrained: params -> params, puts values learned elsewhere into a seed's freshly drawn parameters; None: none.
      save_every: seconds between checkpoints; one is always written at the end and when interrupted.
      devices: to shard every batch over; None: all. Another number of them changes the last bits, and where the
        model drops out, which values.
      progress: show a progress bar; None: if stderr is a terminal.
      label: the bar's name.
    Returns:
      Fit(state, best_params, best_epoch, history, seconds, steps_per_epoch).
    Raises:
      ValueError: an argument is out of range, the checkpoint belongs to another run, or another run writes there now.
      TrainingDiverged: the loss became NaN or infinite.
      Interrupted: SIGINT or SIGTERM came; the run was saved if it has a directory.
    """
    seed_list = _check_seeds(seeds)
    _check_task(task)
    _check_data("train", train)
    if validation is not None:
        _check_data("validation", validation)
    arguments.with_methods("optimizer", optimizer, ("init", "update"), "an Optax transformation")
    epochs = arguments.integer("epochs", epochs, at_least=1)
    batch_size = arguments.integer("batch_size", batch_size, at_least=1)
    patience = arguments.optional_integer("patience", patience, at_least=1)
    arguments.number("save_every", save_every, "a number of seconds of at least 0", lambda found: found >= 0)
    for name, value in (("maximize", maximize), ("resume", resume)):
        arguments.flag(name, value)
    if progress is not None:
        arguments.flag("progress", progress)
    if pretrained is not None:
        arguments.function("pretrained", pretrained)
    if directory is not None:
        directory = arguments.path("directory", directory)
    arguments.text("monitor", monitor)
    if monitor != "loss" and monitor not in task.metrics:
        raise ValueError(f'monitor must be "loss" or one of {sorted(task.metrics)}, got {monitor!r}')
    if resume and directory is None:
        raise ValueError("resume needs a directory to resume from, got directory=None")
    for data in (train, validation):
        check_inputs(task.model, data)

    mesh = make_mesh(devices)
    run_chunk = make_train_chunk(task, train, optimizer, batch_size, mesh)
    run_evaluation = None if validation is None else make_evaluation(task, validation, batch_size, mesh)
    replicated = NamedSharding(mesh, PartitionSpec())
    arrays, rows = jax.device_put((train.arrays, np.asarray(train.rows, np.int32)), replicated)
    held_out: tuple[Any, ...] = ()
    if validation is not None:  # windows of one series share it: once on the device is enough
        shared = arrays if validation.arrays is train.arrays else validation.arrays
        held_out = jax.device_put((shared, np.asarray(validation.rows, np.int32)), replicated)

    initialize_seed = jax.jit(
        functools.partial(initialize, task.model, train.one_input, optimizer, pretrained=pretrained)
    )
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[initialize_seed(seed) for seed in seed_list])
    run = _Run.start(state, task, seed_list)
    settings: dict[str, Any] = {"seeds": seed_list, "batch_size": batch_size, "monitor": monitor}
    if directory is not None:
        settings |= {"devices": mesh.size, "data_checksum": _checksum(train, validation)}
    with contextlib.ExitStack() as held:
        if directory is not None:
            held.enter_context(checkpoints.exclusive(directory))
        if directory is not None and resume:
            run = _resume(directory, run, settings)
        elif directory is not None and checkpoints.steps(directory / "latest"):
            raise ValueError(f"directory must hold no checkpoints unless resume=True, got {directory}")
        run = dataclasses.replace(run, **jax.device_put(run.arrays(), replicated))

        steps = steps_per_epoch(train, batch_size)
        bar = held.enter_context(
            tqdm(
                total=epochs * steps,
                initial=min(run.epoch * steps + run.position, epochs * steps),
                desc=label,
                unit="step",
                disable=None if progress is None else not progress,
                dynamic_ncols=True,
            )
        )
        interrupted = held.enter_context(interrupts_noted())
        clock, last_save = time.monotonic(), time.monotonic()
        pace = _Pace(steps)
        prefix = "" if validation is None else "val_"
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
            figures = means(run.totals)
            pace.note(stop - run.position, time.monotonic() - started)
            bar.update(stop - run.position)
            run.position = stop
            _check_finite(figures["loss"], run, directory)
            if run.position == steps:
                if run_evaluation is not None:
                    totals = run_evaluation(run.state.params, *held_out)
                    figures |= {f"val_{name}": value for name, value in means(totals).items()}
                run.end_epoch(figures, figures[prefix + monitor], maximize, patience)
                run.totals = jax.tree.map(jnp.zeros_like, run.totals)
            bar.set_postfix({name: f"{value[running].mean():.4f}" for name, value in figures.items()}, refresh=False)

            now = time.monotonic()
            done = run.epoch == epochs or all(run.stopped)
            if directory is not None and (interrupted or done or (run.position == 0 and now - last_save >= save_every)):
                run.seconds += now - clock
                clock = now
                _save(directory, run, settings)
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
      ValueError: there are no examples, `params` are another model's or lack the axis S, or another argument is not
        as above.
    """
    _check_task(task)
    _check_data("data", data)
    batch_size = arguments.integer("batch_size", batch_size, at_least=1)
    check_inputs(task.model, data)
    _check_params(task.model, params, data.one_input, seeds=True)
    mesh = make_mesh(devices)
    replicated = NamedSharding(mesh, PartitionSpec())
    run = make_evaluation(task, data, batch_size, mesh)
    return means(run(*jax.device_put((params, data.arrays, np.asarray(data.rows, np.int32)), replicated)))


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
      ValueError: there are no inputs, or `params` are another model's.
    """
    arguments.model("model", model)
    batch_size = arguments.integer("batch_size", batch_size, at_least=1)
    counts = [np.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)]
    data = examples(inputs, np.zeros(counts[0] if counts else 0, np.float32))
    check_inputs(model, data)
    _check_params(model, params, data.one_input)
    rows = cut_batches(jnp.asarray(data.rows), batch_size, 1)[0]
    arrays = jax.tree.map(jnp.asarray, data.arrays[0])

    @jax.jit
    def run(params: Any, rows: jax.Array) -> jax.Array:
        return model.apply({"params": params}, *as_arguments(take_rows(arrays, rows)))

    predictions = np.concatenate([np.asarray(run(params, batch)) for batch in rows])
    return predictions[: len(data.rows)]


def restore_best(directory: str | Path, model: Any, one_input: Any) -> Any:
    """Reads the best parameters that `fit` saved, for use.

    Args:
      directory: what `fit` got as `directory`.
      model: the Linen module that was trained.
      one_input: an input, or a tuple of them, of the shape and dtype that it was trained on; values do not matter.
    Returns:
      Parameters of all seeds, each leaf [S, ...]; `select` takes one seed's.
    Raises:
      ValueError: there is no intact checkpoint in `directory`, or it holds another model's parameters.
    """
    directory = arguments.path("directory", directory)
    arguments.model("model", model)
    latest = checkpoints.find_intact(directory / "latest")
    if latest is None:
        raise ValueError(f"directory must hold a checkpoint written by fit, got {directory} with none that is intact")
    seeds = len(checkpoints.read_metadata(latest)["settings"]["seeds"])
    shapes = jax.eval_shape(functools.partial(initialize, model, one_input, optax.identity()), 0).params
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), shapes)
    restored = checkpoints.restore(directory / "best", target)
    if restored is None:
        raise ValueError(f"directory must hold best parameters, got {directory} with none that are intact")
    return restored.tree


class TrainingDiverged(FloatingPointError):
    """The loss became NaN or infinite."""


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
        totals = jax.tree.map(lambda leaf: jnp.zeros((size,), leaf.dtype), zero_totals(task))
        best = jax.tree.map(jnp.copy, state.params)
        return cls(state, totals, best, [None] * size, [0] * size, [0] * size, [False] * size, [{} for _ in seeds])

    def arrays(self) -> dict[str, Any]:
        return {"state": self.state, "totals": self.totals, "best_params": self.best_params}

    def bookkeeping(self) -> dict[str, Any]:
        names = ("best_value", "best_epoch", "waited", "stopped", "history", "epoch", "position", "seconds")
        return {name: getattr(self, name) for name in names}

    def end_epoch(
        self, figures: Mapping[str, np.ndarray], values: np.ndarray, maximize: bool, patience: int | None
    ) -> None:
        self.epoch, self.position = self.epoch + 1, 0
        improved = np.zeros(len(self.stopped), bool)
        for seed, value in enumerate(values.tolist()):
            if self.stopped[seed]:
                continue
            for name, mean in figures.items():
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
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        return list(range(seeds))
    arguments.instance("seeds", seeds, (Sequence, np.ndarray), "a number of seeds, or a list of them")
    listed = [arguments.integer("seeds", seed) for seed in seeds]  # type: ignore[union-attr]
    if not listed or len(set(listed)) != len(listed):
        raise ValueError(f"seeds must be at least one, different and not negative, got {listed}")
    return listed


def _check_task(task: Any) -> None:
    arguments.instance("task", task, Task, "a jaxseq.Task")


def _check_data(name: str, data: Any) -> None:
    arguments.instance(name, data, Examples, "Examples, as of jaxseq.examples")
    if not len(data.rows):
        raise ValueError(f"{name} must hold at least one example, got an empty set")


def _check_params(model: Any, params: Any, one_input: Any, *, seeds: bool = False) -> None:
    """Raises ValueError unless parameters, of one seed or several, have the names and shapes that the model draws."""
    drawn = jax.eval_shape(functools.partial(initialize, model, one_input, optax.identity()), 0).params
    wanted, found = arguments.leaf_shapes(drawn), arguments.leaf_shapes(params)
    missing = [name for name in wanted if name not in found]  # of more parameters than it needs a model takes its own
    if missing:
        raise ValueError(
            f"params must hold {', '.join(missing):.120}, as the model draws them, got {arguments.shown(params)}"
        )
    leading = next(iter(found.values()), ())[:1] or (0,)  # S
    for name, shape in wanted.items():
        if found[name] != ((*leading, *shape) if seeds else shape):
            axis = " behind an axis of seeds" if seeds else ""
            raise ValueError(f"params{name} must have shape {shape}{axis}, as the model draws it, got {found[name]}")


def _checksum(*parts: Examples | None) -> str:
    """Of all arrays and rows: a run is only resumed on the data that it began on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([(part.arrays, part.rows, part.draws) for part in parts if part is not None]):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()[:16]


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
