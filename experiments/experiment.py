"""What an experiment is, and how one is run: data, training, figures, files."""

import dataclasses
import functools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxseq
from experiments import plots, result_form
from jaxseq import environment
from jaxseq.datasets.files import DataNotFound
from jaxseq.epochs import as_arguments

ENCODING = "encoding.json"  # beside a variant's checkpoints: how a new input is read
SMOKE_EXAMPLES = 96  # of each part, in a smoke run


class Request(NamedTuple):
    """What the command line asks of a run."""

    data: str = "auto"  # auto, real or synthetic
    seeds: int = 3
    epochs: int | None = None  # None: as documented
    out: Path = Path("runs")
    resume: bool = False
    again: bool = False
    smoke: bool = False


class Data(NamedTuple):
    """The parts of a data set, ready to train on."""

    train: jaxseq.Examples
    validation: jaxseq.Examples | None
    test: jaxseq.Examples | None
    source: dict[str, Any]  # kind, name, files with checksums
    notes: tuple[str, ...] = ()  # how the data differ from the document's, what was left out
    units: tuple[str, float] | None = None  # (unit, what one unit of the loss is in it)
    encoding: dict[str, Any] | None = None  # vocabulary, length, scale: how a new input is read; JSON can hold it


@dataclasses.dataclass(frozen=True)
class Variant:
    """One model on one data set: the documented one, or a control beside it.

    Attributes:
      load: (synthetic, smoke) -> Data.
      model: the Linen module.
      loss, metrics: as in `jaxseq.Task`.
      optimizer: an Optax transformation.
      epochs, batch_size: as documented.
      parameters: the documented number of parameters, frozen ones included; None: the document gives none.
      monitor, maximize, patience: as in `jaxseq.fit`.
      label: what tells a control from the documented variant, whose label is empty.
      smoke: whether a smoke run trains it too.
      pretrained: (data, params) -> params with values learned elsewhere, as in `jaxseq.fit`.
      frozen: names of the modules that are not trained.
    """

    load: Callable[[bool, bool], Data]
    model: Any
    loss: Callable[..., Any]
    metrics: dict[str, Callable[..., Any]]
    optimizer: optax.GradientTransformation
    epochs: int
    batch_size: int
    parameters: int | None = None
    monitor: str = "loss"
    maximize: bool = False
    patience: int | None = None
    label: str = ""
    smoke: bool = True
    pretrained: Callable[[Data, Any], Any] | None = None
    frozen: tuple[str, ...] = ()

    @property
    def task(self) -> jaxseq.Task:
        """Model, loss and metrics, as `jaxseq.fit` takes them."""
        return jaxseq.Task(self.model, self.loss, self.metrics)


class Trained(NamedTuple):
    """A variant after its training."""

    variant: Variant
    data: Data
    fit: jaxseq.Fit  # best_params and state.params of all seeds, each leaf [S, ...]
    result: dict[str, Any]  # its part of result.json

    @property
    def best(self) -> list[Any]:
        """The best parameters, seed by seed."""
        return [jaxseq.select(self.fit.best_params, seed) for seed in range(len(self.result["seeds"]))]


class Run(NamedTuple):
    """What a study looks at, once everything is trained."""

    trained: list[Trained]  # in the order of the variants; empty where nothing is trained
    data: Data  # of the documented variant
    directory: Path  # DIR/NAME/, for pictures
    synthetic: bool
    smoke: bool

    def variant(self, label: str = "") -> Trained:
        """The variant of this label; the documented one has none."""
        return next(one for one in self.trained if one.variant.label == label)


class Saved(NamedTuple):
    """A trained variant as it lies on the disk."""

    variant: Variant
    params: Any  # of one seed
    encoding: dict[str, Any]

    def apply(self, inputs: Any) -> np.ndarray:
        """The model's predictions [N, ...] for inputs [N, ...]."""
        return jaxseq.predict(self.variant.model, self.params, inputs)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of the documents' table.

    Attributes:
      name: as on the command line.
      document: the file that it reproduces.
      title: one line for `list`.
      documented: what the document reports, in words.
      figure: the quantity to put beside it, e.g. "best val_accuracy", and the document's value; None where it has none.
      variants: the documented one first, then controls.
      measure: in place of training: data -> figures; it goes with `data`.
      data: what `measure` measures, as a variant's `load`.
      plot: draws one more picture: (result, directory) -> None.
      study: looks at what was trained, and draws into the run's directory. Returns what JSON can hold:
        {"figures": {name: number or `summarize`d}, "tables": {title: [header, row, …]}}, each optional.
      predict: (saved, text) -> what the model says of it, as text to print.
      predicts: what `predict` takes and gives, in words: "a review -> its sentiment".
    """

    name: str
    document: str
    title: str
    documented: str
    figure: tuple[str, float] | None = None
    variants: tuple[Variant, ...] = ()
    measure: Callable[[Data], dict[str, Any]] | None = None
    data: Callable[[bool, bool], Data] | None = None
    plot: Callable[[dict[str, Any], Path], None] | None = None
    study: Callable[[Run], dict[str, Any]] | None = None
    predict: Callable[[Saved, str], str] | None = None
    predicts: str = ""

    def load(self, synthetic: bool, smoke: bool) -> Data:
        """The data of the documented variant; loaders keep what they read."""
        return (self.data or self.variants[0].load)(synthetic, smoke)


class UserError(ValueError):
    """Something the user can put right: printed in one line, exit code 2."""


def run(experiment: Experiment, request: Request) -> dict[str, Any]:
    """Runs an experiment and writes `result.json`, `curves.png` and the checkpoints into DIR/NAME/.

    Args:
      experiment: which.
      request: how.
    Returns:
      The result, as written.
    Raises:
      UserError: the directory cannot be written, or holds a run that neither `resume` nor `again` asks about.
      ValueError: another run writes there now.
      DataNotFound: real data was asked for and is not to be had.
      OSError: the disk is full, or the directory vanished.
    """
    directory = request.out / experiment.name
    check_directory(directory, request)
    with jaxseq.checkpoints.exclusive(directory):
        return _run(experiment, request, directory)


def _run(experiment: Experiment, request: Request, directory: Path) -> dict[str, Any]:
    synthetic = request.smoke or request.data == "synthetic"
    started = time.monotonic()
    if not synthetic:
        try:
            experiment.load(False, False)
        except DataNotFound as error:
            if request.data == "real":
                raise
            synthetic = True
            print(
                f"NOTICE: {experiment.name} runs on SYNTHETIC data, its figures say nothing about the documents': "
                f"{error}",
                file=sys.stderr,
                flush=True,
            )
    result: dict[str, Any] = {
        "name": experiment.name,
        "title": experiment.title,
        "document": experiment.document,
        "documented": experiment.documented,
        "figure": experiment.figure and {"quantity": experiment.figure[0], "value": experiment.figure[1]},
        "smoke": request.smoke,
    }
    data = experiment.load(synthetic, request.smoke)
    tidy(directory, request)
    trained: list[Trained] = []
    if experiment.variants:
        variants = [variant for variant in experiment.variants if variant.smoke or not request.smoke]
        trained = [_train(experiment, variant, request, directory, synthetic) for variant in variants]
        result |= trained[0].result
        result["variants"] = [one.result for one in trained[1:]]
    else:
        figures = experiment.measure(data) if experiment.measure is not None else {}
        result |= _of_data(data) | {"parameters": {"total": 0, "trainable": 0, "documented": 0}}
        result |= {"seeds": [], "epochs": 0, "history": [], "figures": figures, "variants": []}
    if experiment.study is not None:
        result["study"] = experiment.study(Run(trained, data, directory, synthetic, request.smoke))
    result |= machine()
    result["seconds"] = time.monotonic() - started
    result["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if result["history"]:
        plots.curves(result, directory / "curves.png")
    if experiment.plot is not None:
        experiment.plot(result, directory)
    write_json(directory / "result.json", result)
    return result


def _train(experiment: Experiment, variant: Variant, request: Request, directory: Path, synthetic: bool) -> Trained:
    data = variant.load(synthetic, request.smoke)
    epochs = request.epochs or (1 if request.smoke else variant.epochs)
    seeds = 1 if request.smoke else request.seeds
    checkpoints = checkpoints_of(directory, variant)
    # Before the training: what is saved on the way can be used too. A run that goes on has its own, and `fit` may
    # refuse to go on with these data.
    if data.encoding is not None and not (request.resume and (checkpoints / ENCODING).exists()):
        checkpoints.mkdir(parents=True, exist_ok=True)
        shapes = [[list(leaf.shape[1:]), str(leaf.dtype)] for leaf in as_arguments(data.train.one_input)]
        write_json(checkpoints / ENCODING, data.encoding | {"input": shapes})
    fit = jaxseq.fit(
        variant.task,
        data.train,
        data.validation,
        optimizer=jaxseq.freeze(variant.optimizer, variant.frozen) if variant.frozen else variant.optimizer,
        epochs=epochs,
        batch_size=variant.batch_size,
        seeds=seeds,
        monitor=variant.monitor,
        maximize=variant.maximize,
        patience=variant.patience,
        directory=checkpoints,
        resume=request.resume,
        pretrained=variant.pretrained and functools.partial(variant.pretrained, data),
        label=f"{experiment.name} ({variant.label})" if variant.label else experiment.name,
    )
    figures = {
        "final": _figures([{name: values[-1] for name, values in run.items()} for run in fit.history]),
        "best": _figures(
            [
                {name: values[best - 1] for name, values in run.items()}
                for run, best in zip(fit.history, fit.best_epoch, strict=True)
            ]
        ),
    }
    figures["best"]["epoch"] = summarize([float(epoch) for epoch in fit.best_epoch])
    if data.test is not None:
        both = jax.tree.map(lambda *leaves: np.concatenate(leaves), fit.best_params, fit.state.params)
        scores = jaxseq.evaluate(variant.task, both, data.test, batch_size=variant.batch_size)  # one compilation
        for part, of in (("test", slice(0, seeds)), ("test_final", slice(seeds, None))):
            figures[part] = {name: summarize(values[of].tolist()) for name, values in scores.items()}
    total = _count(fit.best_params)
    frozen = sum(_count(fit.best_params[module]) for module in variant.frozen)
    result = {
        "label": variant.label,
        **_of_data(data),
        "parameters": {"total": total, "trainable": total - frozen, "documented": variant.parameters},
        "gates": _gates(variant.model),
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "batch_size": variant.batch_size,
        "steps_per_epoch": fit.steps_per_epoch,
        "monitor": variant.monitor,
        "maximize": variant.maximize,
        "validated": data.validation is not None,
        "training_seconds": fit.seconds,
        "history": fit.history,
        "figures": figures,
    }
    return Trained(variant, data, fit, result)


def _gates(model: Any) -> str | None:
    """The activation of the gates of a model's cells; None where it has no gates."""
    fields = [getattr(model, field.name) for field in dataclasses.fields(model)]
    cells = [cell for value in fields for cell in (value if isinstance(value, list | tuple) else (value,))]
    found = {str(cell.gate_activation) for cell in cells if hasattr(cell, "gate_activation")}
    return ", ".join(sorted(found)) or None


def _count(params: Any) -> int:
    """Parameters of one seed."""
    return sum(int(leaf[0].size) for leaf in jax.tree.leaves(params))


def checkpoints_of(directory: Path, variant: Variant) -> Path:
    """Where a variant's checkpoints lie in DIR/NAME/."""
    return directory / "checkpoints" / (slug(variant.label) or "documented")


def _of_data(data: Data) -> dict[str, Any]:
    """What a result says of its data."""
    units = data.units and {"unit": data.units[0], "one": data.units[1]}
    return {"data": data.source, "notes": list(data.notes), "units": units}


def _figures(of_seeds: list[dict[str, float]]) -> dict[str, Any]:
    return {name: summarize([figures[name] for figures in of_seeds]) for name in of_seeds[0]}


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (n − 1; None of a single seed), and the values themselves."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "seeds": list(values)}


def machine() -> dict[str, Any]:
    """What it ran on: device, cores, versions."""
    device = jax.devices()[0]
    names = ("jaxseq", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "devices": len(jax.devices()),
            "processor": environment.processor(),
            "cores": environment.cores(),
        },
        "versions": environment.versions(*names),
    }


def check_directory(directory: Path, request: Request) -> None:
    """Makes DIR/NAME/ and checks that it can be written and holds no run that would be lost.

    Raises:
      UserError: neither is so.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out must be a directory that can be written, got {request.out}: {error.strerror}") from None
    if (directory / "checkpoints").exists() and not (request.resume or request.again):
        raise UserError(
            f"--out must not hold an unfinished run of {directory.name}, got {directory}: "
            "--resume goes on with it, --again starts over"
        )


def tidy(directory: Path, request: Request) -> None:
    """Removes what killed runs left half done and, where `again` asks for it, the former run."""
    checkpoints = directory / "checkpoints"
    if request.again:  # the result first: a run that is killed from here on is an unfinished one
        (directory / "result.json").unlink(missing_ok=True)
        if checkpoints.exists():
            checkpoints.rename(directory / f".replaced-{os.getpid()}")
    for left in (*directory.glob(".replaced-*"), *checkpoints.glob("*/*/.step_*")):
        shutil.rmtree(left, ignore_errors=True)
    for half in (*directory.glob(".result.json.*"), *checkpoints.glob(f"*/.{ENCODING}.*")):
        half.unlink()


def finished(experiment: Experiment, request: Request) -> dict[str, Any] | None:
    """The result that a run with this request would only repeat, or None.

    Raises:
      UserError: there is a result of another kind, which a run would replace without being asked to.
    """
    path = request.out / experiment.name / "result.json"
    if request.again or not path.exists():
        return None
    result = read_result(path)
    kind = (result["smoke"], result["data"]["kind"], len(result["seeds"]), result["epochs"])
    epochs = (request.epochs or experiment.variants[0].epochs) if experiment.variants else 0
    same = not result["smoke"] and kind[3] == epochs
    same = same and (not experiment.variants or kind[2] == request.seeds)
    same = same and (request.data in ("auto", kind[1]) or kind[1] == "generated")
    if request.smoke != kind[0] or not (request.smoke or same):
        raise UserError(
            f"--out must not hold another result of {experiment.name}, got {path} with {kind[2]} seeds, "
            f"{kind[3]} epochs, {kind[1]} data{', smoke' * kind[0]}; --again replaces it"
        )
    return result


def read_result(path: Path) -> dict[str, Any]:
    """Reads a result that `run` wrote.

    Raises:
      UserError: it is none.
    """
    try:
        return result_form.read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} must be a result written by `run`, got {error}; `run --again` replaces it") from None


def read_saved(experiment: Experiment, directory: Path, label: str, seed: int) -> Saved:
    """Reads a trained variant from DIR/NAME/.

    Args:
      experiment: which.
      directory: DIR, what `run` got as --out.
      label: the variant's label; empty for the documented one.
      seed: which of its seeds, from 0.
    Returns:
      Saved(variant, params, encoding).
    Raises:
      UserError: nothing is predicted with it, or it was not trained, or there is no such variant or seed.
    """
    if experiment.predict is None:
        raise UserError(f"NAME must be an experiment with a model to use, got {experiment.name}, which has none")
    variants = {variant.label: variant for variant in experiment.variants}
    if label not in variants:
        raise UserError(f"--variant must be one of {sorted(variants)}, got {label!r}")
    checkpoints = checkpoints_of(directory / experiment.name, variants[label])
    try:
        encoding = result_form.read_encoding(checkpoints / ENCODING)
    except (OSError, ValueError) as error:
        how = f"without {checkpoints / ENCODING}" if isinstance(error, OSError) else f"with {ENCODING}: {error}"
        raise UserError(
            f"--from must hold a trained {experiment.name}, got {directory} {how}; "
            f"`python -m experiments run {experiment.name} --out {directory}` trains it"
        ) from None
    one_input = tuple(np.zeros((1, *shape), dtype) for shape, dtype in encoding["input"])
    params = jaxseq.restore_best(checkpoints, variants[label].model, one_input)
    seeds = len(jax.tree.leaves(params)[0])
    if not 0 <= seed < seeds:
        raise UserError(f"--seed must be from 0 to {seeds - 1}, as many as were trained, got {seed}")
    return Saved(variants[label], jaxseq.select(params, seed), encoding)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name and renames it: the old file or the new one, never half of one."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def slug(label: str) -> str:
    """A label as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def some(data: jaxseq.Examples, smoke: bool) -> jaxseq.Examples:
    """All examples, or in a smoke run the first few."""
    if not smoke:
        return data
    draws = None if data.draws is None else SMOKE_EXAMPLES
    return data._replace(rows=data.rows[:SMOKE_EXAMPLES], draws=draws)
