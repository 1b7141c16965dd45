"""Sequences of different lengths as arrays: padding, lengths, length buckets, one-hot and multi-hot.

N is the number of sequences, T the number of steps, F the features of a step.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from jaxseq import arguments

Side = Literal["pre", "post"]


def _arrays(sequences: Iterable[Sequence[int]], maxlen: int | None, truncating: Side) -> list[np.ndarray]:
    """Each sequence as an array of at most `maxlen` entries: the last ones ("pre") or the first ("post")."""
    _check_iterable(sequences)
    maxlen = arguments.optional_integer("maxlen", maxlen, at_least=1)
    part = slice(None) if maxlen is None else slice(-maxlen, None) if truncating == "pre" else slice(maxlen)
    arrays = []
    for position, sequence in enumerate(sequences):
        if isinstance(sequence, str) or not hasattr(sequence, "__len__"):
            raise ValueError(f"sequences must hold sequences of numbers, got {sequence!r:.60} at {position}")
        try:
            arrays.append(np.asarray(sequence[part]))
        except ValueError as error:
            raise ValueError(f"sequences must have steps of one shape, got at {position}: {error}") from error
        except (TypeError, KeyError):  # no list: a dictionary, a set
            raise ValueError(f"sequences must hold sequences of numbers, got {sequence!r:.60} at {position}") from None
    if not arrays:
        raise ValueError("sequences must hold at least one sequence, got none")
    return arrays


def _check_iterable(sequences: object) -> None:
    if isinstance(sequences, str) or not isinstance(sequences, Iterable) or getattr(sequences, "shape", None) == ():
        raise ValueError(f"sequences must be a list of sequences, got {type(sequences).__name__}")


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """All entries one after another, [sum of lengths, ...]; the type of empty sequences does not count."""
    filled = [array for array in arrays if len(array)]
    if not filled:
        return np.zeros(0, int)
    for position, array in enumerate(arrays):
        if len(array) and array.shape[1:] != filled[0].shape[1:]:
            shapes = f"{array.shape[1:]} at {position} and {filled[0].shape[1:]} before"
            raise ValueError(f"sequences must have steps of one shape, got {shapes}")
    return np.concatenate(filled)


def _lengths(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.fromiter(map(len, arrays), np.int64, len(arrays))


def _check_kept(values: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raises where storing numbers as `dtype` would change more than their precision."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers, got {values.dtype}")
    if dtype.kind not in "iu" or not values.size or values.dtype == dtype:
        return
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.trunc(values))
        if not whole.all():
            odd = values[~whole].flat[0]
            raise ValueError(f"{name} must hold whole numbers for dtype {dtype}, got {odd}")
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        extreme = values.min() if values.min() < limits.min else values.max()
        raise ValueError(f"{name} must be in [{limits.min}, {limits.max}] for dtype {dtype}, got {extreme}")


def pad_sequences(
    sequences: Iterable[Sequence[int]],
    maxlen: int | None = None,
    *,
    dtype: DTypeLike = "int32",
    padding: Side = "pre",
    truncating: Side = "pre",
    value: float = 0,
) -> np.ndarray:
    """Brings sequences to one length, as `keras.utils.pad_sequences` does.

    Args:
      sequences: N sequences of numbers, or of steps [F].
      maxlen: T, steps; None for the longest sequence's length.
      dtype: numeric type of the result.
      padding: "pre" puts padding before a short sequence, "post" after it. `jaxseq` takes its masks from
        lengths, so "post" is the natural side there.
      truncating: "pre" cuts the beginning off a long sequence, "post" its end.
      value: the padding.

    Returns:
      The array, [N, T] or [N, T, F].

    Raises:
      ValueError: there is no sequence, `maxlen` is below 1, `padding` or `truncating` is neither of the two,
        steps differ in shape, or an integer `dtype` would change a number (a fraction, NaN, out of range).

    Example:
      >>> pad_sequences([[1], [2, 3, 4]], maxlen=2).tolist()
      [[0, 1], [3, 4]]
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        arguments.one_of(name, side, ("pre", "post"), "'pre' or 'post'")
    dtype = arguments.numeric_dtype("dtype", dtype)
    if np.ndim(value):
        raise ValueError(f"value must be a single number, got {arguments.shown(value)}")
    _check_kept(np.asarray(value), dtype, "value")
    arrays = _arrays(sequences, maxlen, truncating)
    joined = _joined(arrays)
    _check_kept(joined, dtype, "sequences")
    lengths = _lengths(arrays)
    steps = int(lengths.max()) if maxlen is None else int(maxlen)
    padded = np.full((len(arrays), steps, *joined.shape[1:]), value, dtype)
    places = np.arange(steps) if padding == "post" else np.arange(steps - 1, -1, -1)
    padded[places < lengths[:, None]] = joined
    return padded


def sequence_lengths(sequences: Iterable[Sequence[int]], maxlen: int | None = None) -> np.ndarray:
    """Counts the steps of each sequence.

    Args:
      sequences: N sequences.
      maxlen: what they are or will be truncated to, steps; None for no limit.

    Returns:
      The lengths, int32 [N].

    Raises:
      ValueError: `maxlen` is below 1 or an entry has no length.
    """
    _check_iterable(sequences)
    maxlen = arguments.optional_integer("maxlen", maxlen, at_least=1)
    try:
        lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    except TypeError as error:
        raise ValueError(f"sequences must hold sequences, got an {error}") from error
    return lengths if maxlen is None else np.minimum(lengths, np.int32(maxlen))


class LengthBucket(NamedTuple):
    """Examples to be padded to one length.

    Attributes:
      padded_length: steps, at least the length of every example in it.
      indices: the examples, int32, ascending.
    """

    padded_length: int
    indices: np.ndarray


def length_buckets(
    lengths: Sequence[int] | np.ndarray,
    *,
    boundaries: Sequence[int] | None = None,
    count: int | None = None,
) -> list[LengthBucket]:
    """Groups examples by length, so that the batches of a group carry little padding.

    With `count` the boundaries are those that leave the least padding in all (found exactly among up to 512
    different lengths, evenly thinned out above).

    Args:
      lengths: steps of each example, integers [N]; a length of 0 goes with the shortest.
      boundaries: the padded lengths, ascending, the last at least the longest length.
      count: how many buckets at most, in place of `boundaries`.

    Returns:
      The buckets with an example in them, shortest first; every example is in exactly one.

    Raises:
      ValueError: both or neither of `boundaries` and `count` are given, a length is negative, or `boundaries`
        do not ascend or end below the longest length.

    Example:
      >>> [(b.padded_length, b.indices.tolist()) for b in length_buckets([3, 9, 4, 10], count=2)]
      [(4, [0, 2]), (10, [1, 3])]
    """
    lengths = arguments.host_array("lengths", lengths)
    if lengths.ndim != 1 or not lengths.size or lengths.dtype.kind not in "iu" or lengths.min() < 0:
        raise ValueError(f"lengths must be integers [N] of at least 0, N at least 1, got {lengths!r:.80}")
    if (boundaries is None) == (count is None):
        raise ValueError(f"boundaries or count must be given, not both, got {boundaries!r} and {count!r}")
    count = arguments.optional_integer("count", count, at_least=1)
    limits = arguments.host_array("boundaries", boundaries) if count is None else _least_padding(lengths, count)
    if limits.ndim != 1 or limits.dtype.kind not in "iu" or limits[:1].sum() < 1 or (np.diff(limits) <= 0).any():
        raise ValueError(f"boundaries must be integers that ascend from at least 1, got {limits.tolist()!r:.80}")
    if limits[-1] < lengths.max():
        raise ValueError(f"boundaries must reach the longest length, {lengths.max()}, got {limits.tolist()!r:.80}")
    bucket = np.searchsorted(limits, lengths)
    groups = ((int(limit), np.flatnonzero(bucket == number)) for number, limit in enumerate(limits))
    return [LengthBucket(limit, indices.astype(np.int32)) for limit, indices in groups if indices.size]


def _least_padding(lengths: np.ndarray, count: int) -> np.ndarray:
    """The up to `count` boundaries that minimise the sum of padded lengths, by dynamic programming."""
    candidates = np.unique(np.maximum(lengths, 1)).astype(np.int64)
    if len(candidates) > 512:
        candidates = candidates[np.linspace(0, len(candidates) - 1, 512).round().astype(int)]
    within = np.searchsorted(np.sort(lengths), candidates, side="right")  # examples up to each candidate
    # cost[i, j]: padded steps of the examples above candidate i − 1, up to candidate j, in one bucket.
    examples = within[None, :] - np.concatenate([[0], within[:-1]])[:, None]
    cost = np.where(examples > 0, examples * candidates, np.inf)
    best, cuts = cost[0], []
    for _ in range(min(count, len(candidates)) - 1):
        total = np.concatenate([[0.0], best[:-1]])[:, None] + cost
        cuts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    end, limits = len(candidates) - 1, [candidates[-1]]
    for cut in reversed(cuts):
        if cut[end] == 0:
            break
        end = cut[end] - 1
        limits.append(candidates[end])
    return np.array(limits[::-1])


def _indices(arrays: list[np.ndarray], size: int) -> np.ndarray:
    """All indices one after another, int64 [sum of lengths], each checked to be in [0, size)."""
    size = arguments.integer("size", size, at_least=1)
    joined = _joined(arrays)
    if joined.ndim != 1 or joined.dtype.kind not in "iu":
        raise ValueError(f"sequences must hold integers, got {joined.dtype} of shape {joined.shape}")
    outside = (joined < 0) | (joined >= size)
    if outside.any():
        raise ValueError(f"sequences must hold indices in [0, {size}), got {joined[outside][0]}")
    return joined


def one_hot(sequences: Iterable[Sequence[int]], size: int, *, maxlen: int | None = None) -> np.ndarray:
    """Turns each index into a row with a single 1.

    Args:
      sequences: N sequences of indices in [0, size).
      size: the width of a row.
      maxlen: T, steps; only the first `maxlen` indices of a sequence are used. None for the longest length.

    Returns:
      float32 [N, T, size]; rows past the end of a sequence are zero.

    Raises:
      ValueError: an index is outside [0, size), or there is no sequence.

    Example:
      >>> one_hot([[1], [2, 0]], 3).tolist()
      [[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    arrays = _arrays(sequences, maxlen, "post")
    indices = _indices(arrays, size)
    lengths = _lengths(arrays)
    encoded = np.zeros((len(arrays), int(lengths.max()) if maxlen is None else int(maxlen), size), np.float32)
    row, step = np.nonzero(np.arange(encoded.shape[1]) < lengths[:, None])
    encoded[row, step, indices] = 1
    return encoded


def multi_hot(sequences: Iterable[Sequence[int]], size: int) -> np.ndarray:
    """Marks which indices occur in each sequence: a bag of words, its order and counts lost.

    Args:
      sequences: N sequences of indices in [0, size).
      size: the width of a row.

    Returns:
      float32 [N, size].

    Raises:
      ValueError: an index is outside [0, size), or there is no sequence.
    """
    arrays = _arrays(sequences, None, "post")
    indices = _indices(arrays, size)
    encoded = np.zeros((len(arrays), size), np.float32)
    encoded[np.repeat(np.arange(len(arrays)), _lengths(arrays)), indices] = 1
    return encoded
