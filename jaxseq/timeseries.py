"""Long series cut into windows: split by time, scale, and gather batches of windows on the device.

A series is an array [rows, F] in the order of time, one row per reading. All counts are in rows. B is the
batch, T = lookback / step the steps of a window, F the features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxseq import arguments


def chronological_split(
    length: int,
    fractions: Sequence[float] = (0.5, 0.25, 0.25),
    *,
    boundaries: Sequence[int] | None = None,
) -> tuple[slice, ...]:
    """Splits a series by time: training first, validation and test later.

    Args:
      length: rows of the series.
      fractions: the share of each part, in order; what is left of 1 belongs to no part.
      boundaries: the rows at which a new part begins, in place of `fractions`; (200_000, 300_000) gives
        three parts, the last to the end.

    Returns:
      One slice per part, adjacent and in order.

    Raises:
      ValueError: the fractions exceed 1, the boundaries do not ascend within the series, or a part is empty.

    Example:
      >>> chronological_split(1000)
      (slice(0, 500, None), slice(500, 750, None), slice(750, 1000, None))
    """
    length = arguments.integer("length", length, at_least=1)
    if boundaries is None:
        arguments.instance("fractions", fractions, (list, tuple), "a list of shares")
        if not fractions:
            raise ValueError(f"fractions must be in (0, 1], at least one, got {fractions}")
        for fraction in fractions:
            arguments.number("fractions", fraction, "in (0, 1]", lambda found: 0 < found <= 1)
        if math.fsum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must sum to at most 1, got {math.fsum(fractions)}")
        # Halves go up, rounding errors too: to the even neighbour, as `round` does, a part of one row could vanish.
        ends = [length * math.fsum(fractions[:end]) for end in range(1, len(fractions) + 1)]
        edges = [0, *(min(math.floor(end + 0.5 + 1e-9), length) for end in ends)]
        rule, given = "fractions", fractions
    else:
        arguments.instance("boundaries", boundaries, (list, tuple, np.ndarray), "a list of rows")
        edges = [0, *(arguments.integer("boundaries", boundary, at_least=1) for boundary in boundaries), length]
        rule, given = "boundaries", boundaries
    if any(later <= earlier for earlier, later in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"{rule} must leave at least one of {length} rows to every part, got {given}")
    return tuple(slice(earlier, later) for earlier, later in zip(edges, edges[1:], strict=False))


class Scaler(NamedTuple):
    """Brings every feature to mean 0 and deviation 1, by what was measured on the training rows.

    Attributes:
      mean: of each feature, float64 [F].
      deviation: population standard deviation of each feature, float64 [F]; 1 for a feature that is constant
        on the training rows, which then becomes 0 there and keeps its unit elsewhere.

    Example:
      >>> scaler = Scaler.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
      >>> scaler.transform(np.array([[4.0, 6.0]])).tolist()
      [[2.0, 1.0]]
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, series: ArrayLike) -> "Scaler":
        """Measures mean and deviation.

        Args:
          series: the training rows only, [rows, F].

        Returns:
          The scaler.

        Raises:
          ValueError: the series is not [rows, F] with at least one row, or a value is not finite.
        """
        rows = arguments.host_array("series", series, np.float64)
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"series must have shape [rows, F] with at least one row, got {rows.shape}")
        odd = np.argwhere(~np.isfinite(rows))
        if len(odd):
            row, column = odd[0]
            raise ValueError(f"series must be finite, got {rows[row, column]} in row {row}, column {column}")
        constant = rows.max(axis=0) == rows.min(axis=0)
        return cls(rows.mean(axis=0), np.where(constant, 1.0, rows.std(axis=0)))

    def transform(self, series: ArrayLike) -> np.ndarray:
        """Scales a series [..., F]; computed in float64, float32 out."""
        values = self._checked("series", series)
        return ((values - self.mean) / self.deviation).astype(np.float32)

    def inverse(self, values: ArrayLike, *, column: int | None = None) -> np.ndarray:
        """Puts scaled values back into their units.

        Args:
          values: a scaled series [..., F], or values of one feature of any shape, with `column`.
          column: the feature, if `values` are those of one feature, such as predictions.

        Returns:
          The values in units, float32, shaped as `values`. An error has no mean: multiply it by `deviation`.

        Raises:
          ValueError: `values` does not end in F, or `column` is not one of the F features.
        """
        if column is None:
            return (self._checked("values", values) * self.deviation + self.mean).astype(np.float32)
        column = _column("column", column, len(self.mean))
        units = arguments.host_array("values", values, np.float64) * self.deviation[column] + self.mean[column]
        return units.astype(np.float32)

    def _checked(self, name: str, series: ArrayLike) -> np.ndarray:
        values = arguments.host_array(name, series, np.float64)
        if values.shape[-1:] != self.mean.shape:
            raise ValueError(f"{name} must have shape [..., {len(self.mean)}], got {values.shape}")
        return values


@dataclass(frozen=True)
class Windows:
    """Which rows a forecast sees and which it predicts.

      inputs(r) = series[r − lookback], series[r − lookback + step], …, series[r − step]
      target(r) = series[r + delay, target]

    The newest input is one step before row r, so the forecast looks `delay` + `step` rows ahead. Windows are
    gathered from the series when they are needed; all of them together would be T times its size.

    Attributes:
      lookback: rows from the oldest input to row r, a multiple of `step`.
      delay: rows from row r to the target.
      step: rows from one input to the next.
      target: column of the series to predict.

    Example:
      >>> windows = Windows(lookback=4, delay=1, step=2)
      >>> inputs, targets = windows.take(np.arange(10.0)[:, None], np.array([4, 5]))
      >>> inputs[..., 0].tolist(), targets.tolist()
      ([[0.0, 2.0], [1.0, 3.0]], [5.0, 6.0])
    """

    lookback: int
    delay: int
    step: int = 1
    target: int = 0

    def __post_init__(self) -> None:
        """Checks the counts."""
        for name, least in (("lookback", 1), ("delay", 0), ("step", 1), ("target", 0)):
            object.__setattr__(self, name, arguments.integer(name, getattr(self, name), at_least=least))
        if self.lookback % self.step:
            raise ValueError(f"lookback must be a multiple of step ({self.step}), got {self.lookback}")

    @property
    def steps(self) -> int:
        """T, the inputs of one window."""
        return self.lookback // self.step

    @property
    def horizon(self) -> int:
        """Rows from the newest input to the target."""
        return self.delay + self.step

    def rows(self, start: int, stop: int | None = None, *, length: int | None = None) -> np.ndarray:
        """Lists the rows of one part of a series that have a window inside it: [start + lookback, stop).

        Inputs never come from before `start`. Targets lie up to `delay` rows beyond the last row listed, so
        those of one part's last rows belong to the next part (code 6-33 of the documents has it so); end a
        part `delay` rows earlier to keep them apart.

        Args:
          start: first row of the part.
          stop: end of the part; None for the end of the series, as code 6-33 takes it: length − delay − 1.
          length: rows of the series. Needed without `stop`; with it, checks that every target exists.

        Returns:
          The rows, ascending, int32.

        Raises:
          ValueError: the part is too short for one window, or reaches beyond the series.
        """
        start = arguments.integer("start", start, at_least=0)
        if length is not None:
            length = arguments.integer("length", length, at_least=1)
        stop = arguments.optional_integer("stop", stop)
        if stop is None:
            if length is None:
                raise ValueError("length must be given where stop is None, got None")
            stop = length - self.delay - 1
        elif length is not None and stop > length - self.delay:
            raise ValueError(f"stop must be at most length − delay ({length - self.delay}), got {stop}")
        if stop <= start + self.lookback:
            raise ValueError(f"stop must be above start + lookback ({start + self.lookback}), got {stop}")
        return np.arange(start + self.lookback, stop, dtype=np.int32)

    def batches(
        self,
        start: int,
        stop: int | None = None,
        *,
        batch_size: int,
        steps: int | None = None,
        length: int | None = None,
    ) -> np.ndarray:
        """Lists the rows of a part in order, in full batches, as code 6-33 draws them for validation.

        A last, smaller batch is left out, and one that ends exactly at `stop` too, as there; after the last
        batch the first comes again (the documents' 930 test batches are 929 and the first).

        Args:
          start, stop, length: the part, see `rows`.
          batch_size: windows in a batch.
          steps: number of batches; None for each batch once.

        Returns:
          The rows, int32 [steps, batch_size].

        Raises:
          ValueError: the part does not fill one batch, or see `rows`.
        """
        rows = self.rows(start, stop, length=length)
        batch_size = arguments.integer("batch_size", batch_size, at_least=1)
        if len(rows) < batch_size:
            raise ValueError(f"batch_size must be at most the part's {len(rows)} rows, got {batch_size}")
        full = max((len(rows) - 1) // batch_size, 1)
        steps = full if steps is None else arguments.integer("steps", steps, at_least=1)
        return rows[: full * batch_size].reshape(full, batch_size)[np.arange(steps) % full]

    def take(self, series: ArrayLike, rows: ArrayLike, *, time_major: bool = False) -> tuple[jax.Array, jax.Array]:
        """Gathers windows: inputs and targets of some rows. Pure; works under jit, vmap and scan.

        Args:
          series: the scaled series, float [length, F].
          rows: integers [B] (or of any shape).
          time_major: whether time leads in the inputs. They are gathered in that order, not transposed.

        Returns:
          (inputs, targets): inputs [B, T, F], or [T, B, F] with `time_major`; targets [B].

        Raises:
          ValueError: the series is not float [length, F], rows are not integers, or a window or target lies
            outside. Rows that jit traces cannot be checked: what lies outside then is NaN.
        """
        time_major = arguments.flag("time_major", time_major)
        series, rows = self._checked(series, rows)
        offsets = jnp.arange(-self.lookback, 0, self.step, dtype=jnp.int32)
        if time_major:
            index = offsets.reshape(-1, *[1] * rows.ndim) + rows[None]
        else:
            index = rows[..., None] + offsets.reshape(*[1] * rows.ndim, -1)
        inputs = series.at[index].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return inputs, self._targets(series, rows + self.delay)

    def naive(self, series: ArrayLike, rows: ArrayLike) -> jax.Array:
        """Forecasts that nothing changes: the newest input of the target column, for rows [B], as [B].

        Raises:
          ValueError: as `take`.
        """
        series, rows = self._checked(series, rows)
        return self._targets(series, rows - self.step)

    def _targets(self, series: jax.Array, rows: jax.Array) -> jax.Array:
        return series.at[rows, self.target].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def _checked(self, series: ArrayLike, rows: ArrayLike) -> tuple[jax.Array, jax.Array]:
        series = arguments.array("series", series)
        if series.ndim != 2 or not jnp.issubdtype(series.dtype, jnp.floating):
            raise ValueError(f"series must be float [length, F], got {series.dtype} {series.shape}")
        _column("target", self.target, series.shape[1])
        if isinstance(rows, jax.core.Tracer):
            concrete, dtype = np.zeros(0, np.int32), rows.dtype
        else:
            concrete = arguments.host_array("rows", rows)
            dtype = concrete.dtype
        if not jnp.issubdtype(dtype, jnp.integer):
            raise ValueError(f"rows must be integers, got {dtype}")
        low, high = self.lookback, len(series) - self.delay
        outside = concrete[(concrete < low) | (concrete >= high)]
        if outside.size:
            raise ValueError(f"rows must be in [{low}, {high}) for every window to exist, got {outside[0]}")
        return series, jnp.asarray(rows, jnp.int32)


def _column(name: str, column: int, count: int) -> int:
    column = arguments.integer(name, column, at_least=0)
    if column >= count:
        raise ValueError(f"{name} must be one of the {count} columns, from 0, got {column}")
    return column
