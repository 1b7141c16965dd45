"""Checkpoints by Orbax, with what it lacks: a checksum of every file, verified before anything is restored.

A checkpoint is a directory `step_00000012/` with Orbax's `arrays/`, `metadata.json`, and `manifest.json`: the
sha256 of every file. It is written under a temporary name, manifest last, and renamed: what has its final name
is whole. One that was damaged later is named in a warning and passed over for the one before.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
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
    """Writes a checkpoint, whole or not at all, and removes all but the newest before it, and damaged ones after it.

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
      OSError: the directory cannot be written, or its disk is full; what was there stays as it was.
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
    final = _path(directory, step)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=directory))
    try:
        _check_room(temporary / "room", sum(array.nbytes for array in arrays.values()))
        with _plain_errors(final), orbax.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            checkpointer.save(temporary / "arrays", arrays)
            checkpointer.wait_until_finished()
        (temporary / "metadata.json").write_text(written)
        _write_manifest(temporary)
        if final.exists():  # damaged, or all that a kill left of this step: it goes aside whole, and then at once
            os.replace(final, temporary.with_name(f"{temporary.name}.old"))
        os.replace(temporary, final)
        _sync(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    found = steps(directory)
    # Later ones that are damaged were passed over on resuming; left there, they would count as the newest.
    gone = [other for other in found if other > step and find_damage(_path(directory, other)) is not None]
    for other in [*gone, *[other for other in found if other <= step][:-keep]]:
        shutil.rmtree(_path(directory, other), ignore_errors=True)
    for left in directory.glob(".step_*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    return final


@contextlib.contextmanager
def exclusive(directory: str | Path) -> Iterator[Callable[[], None]]:
    """Holds a directory, made if need be, against other runs, in this process and in others.

    The lock goes with the process that holds it, however that ends. Where the system has no such locks, there is none.

    Yields:
      A function that raises FileNotFoundError if the directory is no longer the one that is held.
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

        def check() -> None:
            try:
                same = os.path.samestat(os.fstat(stream.fileno()), path.stat())
            except OSError:
                same = False
            if not same:  # made anew, it would be held by nobody
                raise FileNotFoundError(errno.ENOENT, "the directory of a run must stay where it is", str(directory))

        yield check


def steps(directory: str | Path) -> list[int]:
    """The steps of the checkpoints in a directory, oldest first; unfinished ones do not count."""
    listed = arguments.path("directory", directory).glob("step_*")
    return sorted(int(path.name[5:]) for path in listed if re.fullmatch("[0-9]{8,}", path.name[5:]))


def _path(directory: Path, step: int) -> Path:
    return directory / f"step_{step:08d}"


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
    return None if path is None else read(path, target)


def read(path: Path, target: Any, *, partial: bool = False) -> Restored:
    """Reads one checkpoint, that `find_intact` found.

    Args:
      path: the checkpoint.
      target: as of `restore`.
      partial: it may hold more than `target` asks for.
    Returns:
      Restored(step, tree, metadata).
    Raises:
      ValueError: the checkpoint does not hold what `target` asks for.
    """
    try:
        tree = _read(path / "arrays", target, partial)
    except (AttributeError, LookupError, TypeError, RecursionError) as error:  # Orbax, of what it did not write
        raise ValueError(f"checkpoint {path} must be one that save wrote, got another ({error})") from error
    return Restored(int(path.name[5:]), tree, read_metadata(path))


def find_intact(directory: str | Path) -> Path | None:
    """The newest checkpoint that is intact; damaged ones are named in a warning and passed over."""
    directory = arguments.path("directory", directory).absolute()
    for step in reversed(steps(directory)):
        path = _path(directory, step)
        damage = find_damage(path)
        if damage is None:
            return path
        warnings.warn(f"checkpoint {path} is damaged ({damage}) and passed over", stacklevel=3)
    return None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of one checkpoint.

    Raises:
      ValueError: they are no JSON; a manifest vouches for what it was written of, not for who wrote it.
    """
    try:
        return json.loads((Path(path) / "metadata.json").read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"checkpoint {path} must hold JSON in metadata.json, got another ({error})") from error


def find_damage(path: str | Path) -> str | None:
    """Compares a checkpoint with its manifest: what is wrong with it, or None."""
    path = Path(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return f"{_MANIFEST} is missing or unreadable"
    if not isinstance(manifest, dict):
        return f"{_MANIFEST} is unreadable"
    try:
        found = _checksums(path)
    except OSError as error:  # a bad sector
        return f"{error.filename or path} cannot be read: {error.strerror}"
    for name in sorted(set(manifest) | set(found)):
        if name not in found:
            return f"{name!r} is missing"
        if name not in manifest:
            return f"{name!r} is not in the manifest"
        if found[name] != manifest[name]:
            return f"{name!r} does not match its sha256"
    return None


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path): arguments.host_array(f"tree{jax.tree_util.keystr(path)}", _plain(leaf))
        for path, leaf in leaves
    }


def _read(path: Path, target: Any, partial: bool) -> Any:
    from orbax import checkpoint as orbax

    leaves, structure = jax.tree_util.tree_flatten_with_path(target)
    for key, leaf in leaves:
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise ValueError(f"target{jax.tree_util.keystr(key)} must be an array or its shape, got {leaf!r:.60}")
    wanted = {jax.tree_util.keystr(key): jax.eval_shape(_plain, leaf) for key, leaf in leaves}
    alone = dict(multiprocessing_options=_alone())
    with orbax.Checkpointer(orbax.PyTreeCheckpointHandler(**alone), **alone) as checkpointer:
        item = checkpointer.metadata(path).item_metadata
        stored = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in item.tree.items()}
        asked = {name: (tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in wanted.items()}
        for name in sorted(set(asked) if partial else set(stored) | set(asked)):
            if stored.get(name) != asked.get(name):
                raise ValueError(
                    f"checkpoint {path.parent} must hold {name} as {asked.get(name)}, got {stored.get(name)}"
                )
        targets = {name: np.empty(shape, dtype) for name, (shape, dtype) in asked.items()}
        how = orbax.checkpoint_utils.construct_restore_args(targets)
        arrays = checkpointer.restore(path, orbax.args.PyTreeRestore(targets, how, partial_restore=True))
    restored = [_typed(arrays[jax.tree_util.keystr(key)], leaf) for key, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, restored)


def _alone() -> Any:
    """Lets a process write and read by itself: Orbax would wait for all that train together."""
    from orbax import checkpoint as orbax

    if jax.process_count() == 1:
        return orbax.options.MultiprocessingOptions()
    index = jax.process_index()
    return orbax.options.MultiprocessingOptions(index, {index}, barrier_sync_key_prefix=f"process_{index}")


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(array: np.ndarray, leaf: Any) -> Any:
    return jax.random.wrap_key_data(jax.numpy.asarray(array)) if _is_key(leaf) else array


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _check_room(path: Path, size: int) -> None:
    """Raises OSError where a file of this many bytes has no room, before Orbax does, in pages of tracebacks."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size + 2**16)  # and what Orbax writes beside the data
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, str(path)) from None
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Makes an OSError of what TensorStore raises, a ValueError, where a file cannot be written.

    Orbax logs, with a traceback for each of its threads, what it raises as well: that is dropped.
    """
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
    finally:
        log.setLevel(level)


def _write_manifest(path: Path) -> None:
    for written in path.rglob("*"):
        _sync(written)
    (path / _MANIFEST).write_text(json.dumps(_checksums(path), indent=1))
    _sync(path / _MANIFEST)
    _sync(path)


def _checksums(path: Path) -> dict[str, str]:
    files = [file for file in path.rglob("*") if file.is_file() and file.name != _MANIFEST]
    return {str(file.relative_to(path)): _sha256(file) for file in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Brings a file, or a directory's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
