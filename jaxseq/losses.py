"""Losses and metrics: one value for each example or step, and their mean over what is real.

Every function here takes (predictions, targets) and returns unreduced values, so that one rule of weighting,
`weighted_mean`, serves padding, masks and the last, smaller batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxseq import arguments


def weighted_mean(values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """Mean over the real entries: Σ w v / Σ w.

    Args:
      values: float [...].
      weights: None, or bool or float [...] of the same shape, or of its leading axes.
    Returns:
      float []; 0 where no entry is real, or there is none.
    Raises:
      ValueError: the shapes do not match.
    """
    arguments.is_array("values", values)
    if weights is None:
        return values.mean() if values.size else jnp.zeros((), values.dtype)
    total, weight = weighted_sum(values, weights)
    return total / jnp.where(weight > 0, weight, 1)


def weighted_sum(values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Σ w v and Σ w, both float []; a value of weight zero counts for nothing, NaN included.

    Raises:
      ValueError: `weights` has neither the shape of `values` nor that of its leading axes.
    """
    arguments.is_array("values", values)
    arguments.is_array("weights", weights)
    if weights.shape != values.shape[: weights.ndim]:
        raise ValueError(
            f"weights must have the shape of values {values.shape} or of its leading axes, got {weights.shape}"
        )
    weights = weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))
    weights = jnp.broadcast_to(weights, values.shape).astype(values.dtype)
    return jnp.sum(jnp.where(weights != 0, weights * values, 0)), jnp.sum(weights)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of the logit, in nats.

    Args:
      logits: float [...] or [..., 1].
      targets: 0 or 1, [...].
    Returns:
      float [...].
    Raises:
      ValueError: the shapes do not match.
    """
    logits = _match(logits, targets)
    return optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype))


def categorical_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of C classes from logits, in nats.

    Args:
      logits: float [..., C].
      targets: class indices, int [...].
    Returns:
      float [...].
    Raises:
      ValueError: the shapes do not match, or `targets` are not integers in [0, C) (where their values are known).
    """
    _check_classes(logits, targets)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """|prediction − target|; its mean is the MAE. Shapes [...] or [..., 1] against [...]."""
    return jnp.abs(_match(predictions, targets) - targets)


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """(prediction − target)²; its mean is the MSE. Shapes [...] or [..., 1] against [...]."""
    return jnp.square(_match(predictions, targets) - targets)


def binary_accuracy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the logit's sign says the target (a logit over 0 is class 1), else 0: float [...]."""
    logits = _match(logits, targets)
    return ((logits > 0) == (targets > 0.5)).astype(jnp.float32)


def categorical_accuracy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the largest of C logits is the target's, else 0: float [...]."""
    _check_classes(logits, targets)
    return (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)


def _match(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    arguments.is_array("predictions", predictions)
    arguments.is_array("targets", targets)
    if predictions.shape == (*targets.shape, 1):
        return predictions[..., 0]
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions must have the shape of targets {targets.shape}, or one more axis of 1, "
            f"got {predictions.shape}"
        )
    return predictions


def _check_classes(logits: jax.Array, targets: jax.Array) -> None:
    arguments.is_array("logits", logits)
    arguments.is_array("targets", targets)
    if logits.ndim != targets.ndim + 1 or logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits must have shape {targets.shape} and a class axis, as targets, got {logits.shape}")
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be class indices, integers, got dtype {targets.dtype}")
    if not isinstance(targets, Tracer) and targets.size:
        values = np.asarray(targets)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= logits.shape[-1]:
            outside = low if low < 0 else high
            raise ValueError(f"targets must be class indices from 0 to {logits.shape[-1] - 1}, got {outside}")
