"""A run of `fit`: what it has come to, and how that is saved and found again."""

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq import checkpoints
from jaxseq.epochs import Examples, Task, zero_totals

_log = logging.getLogger("jaxseq")
_BOOKKEEPING = ("best_value", "best_epoch", "waited", "stopped", "history", "epoch", "position", "seconds")


@dataclasses.dataclass
class Run:
    """A run in progress: the arrays on the device, the rest on the host."""

    state: Any
    totals: Any  # sums since the epoch began, each [S, 2]
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
    def start(cls, state: Any, task: Task, seeds: list[int]) -> "Run":
        """A run of which no step is taken yet; `state`'s leaves are [S, ...]."""
        size = len(seeds)
        totals, best = zero_totals(task, size), jax.tree.map(jnp.copy, state.params)
        return cls(state, totals, best, [None] * size, [0] * size, [0] * size, [False] * size, [{} for _ in seeds])

    def arrays(self) -> dict[str, Any]:
        """What is on the device, by field."""
        return {"state": self.state, "totals": self.totals, "best_params": self.best_params}

    def bookkeeping(self) -> dict[str, Any]:
        """What is on the host, by field; JSON holds it."""
        return {name: getattr(self, name) for name in _BOOKKEEPING}

    def end_epoch(
        self, figures: Mapping[str, np.ndarray], values: np.ndarray, maximize: bool, patience: int | None
    ) -> None:
        """Notes an epoch's figures, each [S], keeps the best parameters and stops the seeds that waited long enough.

        Args:
          figures: what goes into the history of every seed that runs.
          values: the monitored ones.
          maximize, patience: as of `fit`.
        """
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


def checksum(*parts: Examples | None) -> str:
    """Of all arrays and rows: a run is only resumed on the data that it began on."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([(part.arrays, part.rows, part.draws) for part in parts if part is not None]):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()[:16]


def open_directory(
    held: contextlib.ExitStack,
    directory: Path | None,
    resume: bool,
    run: Run,
    settings: dict[str, Any],
    label: str,
) -> tuple[Run, Callable[[], None] | None]:
    """The run to begin or go on with, and what checks that its directory is still held, if it has one."""
    if directory is None:
        return run, None
    still_held = held.enter_context(checkpoints.exclusive(directory))
    if resume:
        return _resume(directory, run, settings, label), still_held
    if checkpoints.steps(directory / "latest"):
        raise ValueError(f"directory must hold no checkpoints unless resume=True, got {directory}")
    return run, still_held


def save(directory: Path, run: Run, settings: dict[str, Any], still_held: Callable[[], None]) -> None:
    """Writes `best/` and `latest/`.

    Raises:
      OSError: they could not be written, with what there is to go on from.
    """
    step = int(np.max(jax.device_get(run.state.step)))
    metadata = {"settings": settings, "run": run.bookkeeping()}
    try:
        still_held()
        # First the best: a run that is killed in between does this again, and a finished one has both.
        checkpoints.save(directory / "best", step, run.best_params, {"epochs": run.best_epoch}, keep=1)
        checkpoints.save(directory / "latest", step, run.arrays(), metadata)
    except OSError as error:
        saved = checkpoints.steps(directory / "latest")
        left = f"--resume goes on from step {saved[-1]}" if saved else "it holds no checkpoint"
        raise OSError(
            error.errno,
            f"directory must be one that can be written, got {directory}: {error.strerror or error}; {left}",
        ) from error


def stored_metadata(checkpoint: Path) -> dict[str, Any]:
    """The metadata of a checkpoint in `latest/`."""
    metadata = checkpoints.read_metadata(checkpoint)
    parts = [metadata.get(part) if isinstance(metadata, dict) else None for part in ("settings", "run")]
    needed = ({"seeds", "devices"}, set(_BOOKKEEPING))
    if not all(isinstance(part, dict) and names <= set(part) for part, names in zip(parts, needed, strict=True)):
        raise ValueError(f"directory must hold a checkpoint written by fit, got {checkpoint}, which is another's")
    return metadata


def _resume(directory: Path, run: Run, settings: dict[str, Any], label: str) -> Run:
    newest = checkpoints.find_intact(directory / "latest")
    if newest is None:
        if checkpoints.steps(directory / "latest"):
            _log.warning("%s: no checkpoint in %s is intact; the run starts anew", label, directory)
        return run
    stored = stored_metadata(newest)["settings"]
    for name, value in settings.items():
        if name != "devices" and stored.get(name) != value:
            raise ValueError(
                f"{name} must be {stored.get(name)!r}, as in the run to resume in {directory}, got {value!r}"
            )
    if stored["devices"] != settings["devices"]:
        _log.warning(
            "%s: resuming on %d devices what ran on %d: the last bits of the result will differ",
            label,
            settings["devices"],
            stored["devices"],
        )
    restored = checkpoints.read(newest, run.arrays())
    bookkeeping = {name: restored.metadata["run"][name] for name in _BOOKKEEPING}
    run = dataclasses.replace(run, **restored.tree, **bookkeeping)
    _log.info("%s: resumed from %s, after %d whole epochs", label, newest, run.epoch)
    return run
