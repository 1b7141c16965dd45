"""Training: `fit` runs epochs, validates, keeps the best parameters, stops early, saves and resumes."""

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from jaxseq import arguments, checkpoints, runs
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
)
from jaxseq.interrupts import Interrupted, interrupts_noted
from jaxseq.processes import Processes

_log = logging.getLogger("jaxseq")


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

    The logger "jaxseq" says what happens, an epoch a line, at level INFO.

    How many devices there are changes nothing but the last bits: what a model draws for dropout is the same (what is
    drawn in other ways than Flax's and ours: as in `jaxseq.row_keys`). Under `jax.distributed` every process makes this
    call with the same arguments and data, and gets the same result; the first alone uses the directory and shows a bar.

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
      save_every: seconds between checkpoints, in the midst of an epoch too; one is always written at the end and when
        interrupted.
      devices: to train on; None: all, of all processes. Every batch is sharded over them; but on a CPU, without
        `patience`, as many seeds as devices or more are dealt out to them.
      progress: show a progress bar; None: if stderr is a terminal.
      label: the bar's name.
    Returns:
      Fit(state, best_params, best_epoch, history, seconds, steps_per_epoch).
    Raises:
      ValueError: an argument is out of range, the checkpoint belongs to another run, or another run writes there now.
      OSError: a checkpoint could not be written; those before stay.
      TrainingDiverged: the loss or a parameter became NaN or infinite.
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
    run_chunk = make_train_chunk(task, train, optimizer, batch_size, mesh, apart=patience is None)
    run_evaluation = None if validation is None else make_evaluation(task, validation, batch_size, mesh)
    processes = Processes(mesh)
    arrays, rows = processes.replicate((train.arrays, np.asarray(train.rows, np.int32)))
    held_out: tuple[Any, ...] = ()
    if validation is not None:  # windows of one series share it: once on the device is enough
        shared = arrays if validation.arrays is train.arrays else validation.arrays
        held_out = processes.replicate((shared, np.asarray(validation.rows, np.int32)))

    initialize_seed = jax.jit(
        functools.partial(initialize, task.model, train.one_input, optimizer, pretrained=pretrained)
    )
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[initialize_seed(seed) for seed in seed_list])
    run = runs.Run.start(state, task, seed_list)
    settings: dict[str, Any] = {"seeds": seed_list, "batch_size": batch_size, "monitor": monitor}
    if directory is not None or processes.several:
        settings |= {"devices": mesh.size, "data_checksum": runs.checksum(train, validation)}
    processes.check_same(
        **settings,
        epochs=epochs,
        maximize=maximize,
        patience=patience,
        directory=directory is not None,
        parameters=arguments.leaf_shapes(state),
    )
    with contextlib.ExitStack() as held:
        open_directory = functools.partial(runs.open_directory, held, directory, resume, run, settings, label)
        run, still_held = processes.only_first(open_directory, (run, None))
        run = dataclasses.replace(run, **processes.from_first(run.bookkeeping()))
        if (run.epoch, run.position) > (epochs, 0):
            raise ValueError(
                f"epochs must be at least {run.epoch + (run.position > 0)}, as far as the run to resume in "
                f"{directory} is, got {epochs}"
            )
        run = dataclasses.replace(run, **processes.replicate(processes.arrays_from_first(run.arrays())))

        steps = steps_per_epoch(train, batch_size)
        _log.info("%s: seeds %s, %d epochs of %d steps, devices %d", label, seed_list, epochs, steps, mesh.size)
        bar = held.enter_context(
            tqdm(
                total=epochs * steps,
                initial=min(run.epoch * steps + run.position, epochs * steps),
                desc=label,
                unit="step",
                disable=(None if progress is None else not progress) if processes.first else True,
                dynamic_ncols=True,
            )
        )
        interrupted = held.enter_context(interrupts_noted(directory))
        clock = last_save = epoch_began = time.monotonic()
        pace = _Pace(steps)
        prefix = "" if validation is None else "val_"
        while run.epoch < epochs and not all(run.stopped):
            stop = min(run.position + pace.steps, steps)
            running = ~np.asarray(run.stopped)
            started = time.monotonic()
            run.state, run.totals, diverged = run_chunk(
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
            [seconds] = processes.largest([time.monotonic() - started])
            pace.note(stop - run.position, seconds)
            bar.update(stop - run.position)
            run.position = stop
            check_finite = functools.partial(_check_finite, run, seed_list, directory)
            check_finite("loss", figures["loss"], np.asarray(diverged))
            check_finite("parameters", np.asarray(_zero_or_nan(run.state)))
            if run.position == steps:
                if run_evaluation is not None:
                    totals = run_evaluation(run.state.params, *held_out)
                    figures |= {f"val_{name}": value for name, value in means(totals).items()}
                for name in (prefix + "loss", prefix + monitor):
                    check_finite(name, figures[name])
                run.end_epoch(figures, figures[prefix + monitor], maximize, patience)
                run.totals = jax.tree.map(jnp.zeros_like, run.totals)
                _log_epoch(label, run, epochs, figures, running, seed_list, time.monotonic() - epoch_began)
                epoch_began = time.monotonic()
            bar.set_postfix({name: f"{value[running].mean():.4f}" for name, value in figures.items()}, refresh=False)

            now = time.monotonic()
            done = run.epoch == epochs or all(run.stopped)
            number, due = processes.largest([interrupted[0] if interrupted else 0, now - last_save >= save_every])
            if directory is not None and (number or done or due):
                run.seconds += now - clock
                clock = now
                copy = dataclasses.replace(run, **processes.own(run.arrays()))
                processes.only_first(functools.partial(runs.save, directory, copy, settings, still_held))
                last_save = time.monotonic()
            if number:
                raise Interrupted(int(number), directory)
    run.seconds += time.monotonic() - clock
    state, best_params = processes.own((run.state, run.best_params))
    return Fit(state, best_params, run.best_epoch, run.history, run.seconds, steps)


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
      devices: to shard over; None: all, of all processes, each of which makes this call.
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
    run = make_evaluation(task, data, batch_size, mesh)
    return means(run(*Processes(mesh).replicate((params, data.arrays, np.asarray(data.rows, np.int32)))))


def predict(model: Any, params: Any, inputs: Any, *, batch_size: int = 128) -> Any:
    """Applies a model to many inputs, batch by batch.

    Args:
      model: a Linen module.
      params: one seed's parameters.
      inputs: an array [N, ...], or a tuple of them.
      batch_size: how many at a time; it does not change the result.
    Returns:
      The predictions [N, ...]; a tree of them where the model gives one.
    Raises:
      ValueError: there are no inputs, one is not finite, or `params` are another model's.
    """
    arguments.model("model", model)
    batch_size = arguments.integer("batch_size", batch_size, at_least=1)
    counts = [np.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)]
    data = examples(inputs, np.zeros(counts[0] if counts else 0, np.float32))
    check_inputs(model, data)
    _check_params(model, params, data.one_input)
    rows = cut_batches(jnp.asarray(data.rows), min(batch_size, len(data.rows)), 1)[0]  # one input is not padded to 128
    arrays = jax.tree.map(jnp.asarray, data.arrays[0])

    @jax.jit
    def run(params: Any, rows: jax.Array) -> Any:
        return model.apply({"params": params}, *as_arguments(take_rows(arrays, rows)))

    batches = [jax.device_get(run(params, batch)) for batch in rows]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(data.rows)], *batches)


def restore_best(directory: str | Path, model: Any, one_input: Any) -> Any:
    """Reads the best parameters that `fit` saved, for use.

    Args:
      directory: what `fit` got as `directory`.
      model: the Linen module that was trained.
      one_input: an input, or a tuple of them, of the shape and dtype that it was trained on; values do not matter.
    Returns:
      Parameters of all seeds, each leaf [S, ...]; `select` takes one seed's. Where those in `best/` are damaged, which
      a warning says, they are the copy in `latest/`.
    Raises:
      ValueError: there is no intact checkpoint in `directory`, or it holds another model's parameters.
    """
    directory = arguments.path("directory", directory)
    arguments.model("model", model)
    latest = checkpoints.find_intact(directory / "latest")
    if latest is None:
        raise ValueError(f"directory must hold a checkpoint written by fit, got {directory} with none that is intact")
    seeds = len(runs.stored_metadata(latest)["settings"]["seeds"])
    shapes = jax.eval_shape(functools.partial(initialize, model, one_input, optax.identity()), 0).params
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), shapes)
    restored = checkpoints.restore(directory / "best", target)
    if restored is not None:
        return restored.tree
    return checkpoints.read(latest, {"best_params": target}, partial=True).tree["best_params"]


class TrainingDiverged(FloatingPointError):
    """The loss or a parameter became NaN or infinite."""


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


@jax.jit
def _zero_or_nan(state: TrainState) -> jax.Array:
    """Zero for each seed whose parameters are all finite, NaN for the others, [S]."""
    finite = [jnp.isfinite(leaf).all(range(1, leaf.ndim)) for leaf in jax.tree.leaves((state.step, state.params))]
    return jnp.where(jnp.stack(finite).all(0), 0.0, jnp.nan)


def _check_finite(
    run: runs.Run,
    seeds: list[int],
    directory: Path | None,
    name: str,
    values: np.ndarray,
    diverged: np.ndarray | None = None,
) -> None:
    """Raises TrainingDiverged where a running seed's value is not; `diverged` as `make_train_chunk` gives it."""
    for index, value in enumerate(values.tolist()):
        if math.isfinite(value) or run.stopped[index]:
            continue
        step = int(np.asarray(run.state.step)[index])
        if diverged is not None and diverged[index] >= 0:
            step = int(diverged[index]) + 1
        good = None if directory is None else checkpoints.find_intact(directory / "latest")
        raise TrainingDiverged(
            f"{name} must stay finite, got {value} at step {step} in epoch {run.epoch + 1} (seed {seeds[index]}); "
            f"{'no checkpoint was saved' if good is None else f'the last good checkpoint is {good}'}; try a smaller "
            "learning rate, or clip gradients, as jaxseq.rmsprop(clip_norm=1.0) does"
        )


def _log_epoch(
    label: str,
    run: runs.Run,
    epochs: int,
    figures: Mapping[str, np.ndarray],
    running: np.ndarray,
    seeds: list[int],
    seconds: float,
) -> None:
    """A line for the epoch that ended, and one for each seed that stopped with it."""
    means_of_seeds = ", ".join(f"{name} {value[running].mean():.4f}" for name, value in figures.items())
    of = f", mean of {running.sum()} seeds" if running.sum() > 1 else ""
    _log.info("%s: epoch %d of %d: %s%s; %.1f s", label, run.epoch, epochs, means_of_seeds, of, seconds)
    for index in np.flatnonzero(running & np.asarray(run.stopped)):
        _log.info("%s: seed %d stops; its best epoch was %d", label, seeds[index], run.best_epoch[index])


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
