"""Several processes that train as one, under `jax.distributed`: what each would decide for itself, they agree on.

Every process runs the same program on the same data and has its own devices; the first of them, number 0, is the one
that reads and writes. A mesh of this process's own devices needs no other process, and nothing here waits for one.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes whose devices a mesh has."""

    mesh: Mesh

    def __post_init__(self) -> None:
        """Raises ValueError unless the devices are this process's, or all processes', equally many of each."""
        found = [device.process_index for device in self.mesh.devices.flat]
        if set(found) == {jax.process_index()}:
            return
        counts = {found.count(process) for process in range(jax.process_count())}
        if len(counts) != 1:
            raise ValueError(
                f"devices must be of this process, or of all {jax.process_count()}, equally many of each, got those of "
                f"processes {found}"
            )

    @functools.cached_property
    def several(self) -> bool:
        """Whether other processes take part."""
        return len({device.process_index for device in self.mesh.devices.flat}) > 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that reads, writes and shows."""
        return not self.several or jax.process_index() == 0

    def replicate(self, tree: Any) -> Any:
        """Puts arrays, the same in every process, on every device."""
        sharding = NamedSharding(self.mesh, PartitionSpec())
        if not self.several:
            return jax.device_put(tree, sharding)
        put = functools.partial(jax.make_array_from_process_local_data, sharding)
        return with_key_data(lambda leaf: put(np.asarray(leaf), np.shape(leaf)), tree)

    def own(self, tree: Any) -> Any:
        """This process's copy of replicated arrays, for what it does alone."""
        return with_key_data(lambda leaf: leaf.addressable_data(0), tree) if self.several else tree

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest that any process has of each value."""
        if not self.several:
            return list(values)
        own = np.array(values, np.float64).view(np.uint8)  # as bytes: JAX would make float32 of it
        return multihost_utils.process_allgather(own).view(np.float64).max(axis=0).tolist()

    def check_same(self, **values: Any) -> None:
        """Raises ValueError, in every process, where a value is not the same in all."""
        digests = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
        numbers = [int.from_bytes(digest[:6]) for digest in digests]  # exact in a float
        low, high = (self.largest([sign * number for number in numbers]) for sign in (-1, 1))
        for name, a, b in zip(values, low, high, strict=True):
            if -a != b:
                raise ValueError(f"{name} must be the same in every process, got others")

    def only_first(self, function: Callable[[], Any], otherwise: Any = None) -> Any:
        """Calls a function in the first process, and waits for it in the others, which get `otherwise`.

        Raises:
          ValueError, OSError, RuntimeError: in every process, what the function raised in the first.
        """
        if not self.several:
            return function()
        result, error = otherwise, None
        if self.first:
            try:
                result = function()
            except Exception as raised:
                error = raised
        kind = next((kind for kind in (ValueError, OSError) if isinstance(error, kind)), RuntimeError)
        told = self.from_first(None if error is None else {"kind": kind.__name__, "text": str(error)})
        if error is not None:
            raise error
        if told is not None:
            raise {"ValueError": ValueError, "OSError": OSError}.get(told["kind"], RuntimeError)(told["text"])
        return result

    def from_first(self, value: Any) -> Any:
        """What the first process has, anything that JSON can hold."""
        if not self.several:
            return value
        return json.loads(_broadcast(json.dumps(value).encode()))

    def arrays_from_first(self, tree: Any) -> Any:
        """The arrays that the first process has, bit for bit; those of the others say their shapes and dtypes."""
        if not self.several:
            return tree

        def share(leaf: Any) -> np.ndarray:
            array = np.asarray(leaf)
            return np.frombuffer(_broadcast(array.tobytes()), array.dtype).reshape(array.shape)

        return with_key_data(share, tree)


def _broadcast(message: bytes) -> bytes:
    """The first process's bytes, in every process."""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    buffer = np.zeros(-(-length // 1024) * 1024, np.uint8)  # few shapes, few compilations
    sent = np.frombuffer(message, np.uint8)[:length]
    buffer[: sent.size] = sent
    return multihost_utils.broadcast_one_to_all(buffer).tobytes()[:length]


def with_key_data(function: Callable[[Any], Any], tree: Any) -> Any:
    """Maps over a tree's arrays, random keys by their data."""

    def apply(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return function(leaf)
        return jax.random.wrap_key_data(function(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))

    return jax.tree.map(apply, tree)
