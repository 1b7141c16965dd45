"""Checkpoints by Orbax, with what it lacks: a checksum of every file, verified before anything is restored.

A checkpoint is a directory `step_00000012/` with Orbax's `arrays/`, `metadata.json`, and `manifest.json`: the
sha256 of every file. It is written under a temporary name, manifest last, and renamed: what has its final name
is whole. One that was damaged later is named in a warning and passed over for the one before.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxseq import arguments

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_MANIFEST = "manifest.json"


class Restored(NamedTuple):
    """What `restore` read."""

    step: int
    tree: Any  # NumPy arrays in the target's structure
    metadata: dict[str, Any]


def save(directory: str | Path, step: int, tree: Any, metadata: dict[str, Any], *, keep: int = 2) -> Path:
    """Writes a checkpoint, whole or not at all, and removes all but the newest.

    Args:
      directory: where the checkpoints of one run lie.
      step: the number that orders them, at least 0.
      tree: arrays; typed random keys are stored by their data.
      metadata: anything JSON can hold.
      keep: how many checkpoints stay.
    Returns:
      The checkpoint's path.
    Raises:
      ValueError: `step` is negative or `keep` below 1.
      OSError: the directory cannot be written; what was there stays as it was.
    """
    directory = arguments.path("directory", directory)
    step = arguments.integer("step", step)
    keep = arguments.integer("keep", keep, at_least=1)
    arguments.mapping("metadata", metadata, "a dictionary")
    try:
        written = json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be what JSON can hold, got {arguments.shown(metadata)} ({error})") from None
    arrays = _flatten(tree)
    from orbax import checkpoint as orbax  # 2 s to import: only who saves or restores pays

    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"step_{step:08d}"
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=directory))
    try:
        with orbax.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "arrays", arrays)
            checkpointer.wait_until_finished()
        (temporary / "metadata.json").write_text(written)
        _write_manifest(temporary)
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in steps(directory)[:-keep]:
        shutil.rmtree(directory / f"step_{old:08d}", ignore_errors=True)
    for left in directory.glob(".step_*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    return final


@contextlib.contextmanager
def exclusive(directory: str | Path) -> Iterator[None]:
    """Holds a directory, made if need be, against other runs, in this process and in others.

    The lock goes with the process that holds it, however that ends. Where the system has no such locks, there is none.

    Raises:
      ValueError: another run holds it.
    """
    path = arguments.path("directory", directory) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                raise ValueError(
                    f"directory must not be in use by another run, got {directory}, which process {holder} writes"
                ) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def steps(directory: str | Path) -> list[int]:
    """The steps of the checkpoints in a directory, oldest first; unfinished ones do not count."""
    listed = arguments.path("directory", directory).glob("step_*")
    return sorted(int(path.name[5:]) for path in listed if path.name[5:].isdigit())


def restore(directory: str | Path, target: Any) -> Restored | None:
    """Reads the newest checkpoint that is intact.

    Args:
      directory: where the checkpoints lie; it need not exist.
      target: a tree of arrays or `jax.ShapeDtypeStruct` of the same structure, as `jax.eval_shape` gives it.
    Returns:
      Restored(step, tree, metadata), or None where there is no intact checkpoint.
    Raises:
      ValueError: the newest intact checkpoint does not hold what `target` asks for.
    """
    path = find_intact(directory)
    if path is None:
        return None
    return Restored(int(path.name[5:]), _read(path / "arrays", target), read_metadata(path))


def find_intact(directory: str | Path) -> Path | None:
    """The newest checkpoint that is intact; damaged ones are named in a warning and passed over."""
    directory = arguments.path("directory", directory).absolute()
    for step in reversed(steps(directory)):
        path = directory / f"step_{step:08d}"
        damage = find_damage(path)
        if damage is None:
            return path
        warnings.warn(f"checkpoint {path} is damaged ({damage}) and passed over", stacklevel=3)
    return None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of one checkpoint."""
    return json.loads((Path(path) / "metadata.json").read_text())


def find_damage(path: str | Path) -> str | None:
    """Compares a checkpoint with its manifest: what is wrong with it, or None."""
    path = Path(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError):
        return f"{_MANIFEST} is missing or unreadable"
    if not isinstance(manifest, dict):
        return f"{_MANIFEST} is unreadable"
    found = _checksums(path)
    for name in sorted(set(manifest) | set(found)):
        if name not in found:
            return f"{name} is missing"
        if name not in manifest:
            return f"{name} is not in the manifest"
        if found[name] != manifest[name]:
            return f"{name} does not match its sha256"
    return None


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path): arguments.host_array(f"tree{jax.tree_util.keystr(path)}", _plain(leaf))
        for path, leaf in leaves
    }


def _read(path: Path, target: Any) -> Any:
    from orbax import checkpoint as orbax

    leaves, structure = jax.tree_util.tree_flatten_with_path(target)
    for key, leaf in leaves:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(f"target{jax.tree_util.keystr(key)} must be an array or its shape, got {leaf!r:.60}")
    wanted = {jax.tree_util.keystr(key): jax.eval_shape(_plain, leaf) for key, leaf in leaves}
    with orbax.StandardCheckpointer() as checkpointer:
        item = checkpointer.metadata(path).item_metadata
        stored = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in item.tree.items()}
        asked = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in wanted.items()}
        for name in sorted(set(stored) | set(asked)):
            if stored.get(name) != asked.get(name):
                raise ValueError(
                    f"checkpoint {path.parent} must hold {name} as {asked.get(name)}, got {stored.get(name)}"
                )
        arrays = checkpointer.restore(path, {name: np.empty(shape, dtype) for name, (shape, dtype) in asked.items()})
    restored = [_typed(arrays[jax.tree_util.keystr(key)], leaf) for key, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, restored)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(array: np.ndarray, leaf: Any) -> Any:
    return jax.random.wrap_key_data(jax.numpy.asarray(array)) if _is_key(leaf) else array


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _write_manifest(path: Path) -> None:
    for file in path.rglob("*"):
        if file.is_file():
            _sync(file)
    (path / _MANIFEST).write_text(json.dumps(_checksums(path), indent=1))
    _sync(path / _MANIFEST)
    _sync(path)


def _checksums(path: Path) -> dict[str, str]:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != _MANIFEST]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _sync(path: Path) -> None:
    """Brings a file, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
