"""Attention over a recurrent network's outputs: which steps to read again, and how much of each.

Every query (a decoder's outputs, or one learned vector) is scored against every key (an encoder's outputs); the
softmax of its scores says how much of each value it takes:

  αₜₛ = softmaxₛ(score(qₜ, kₛ))        cₜ = Σₛ αₜₛ vₛ

  dot       score(q, k) = q · k
  general   score(q, k) = q · W k
  additive  score(q, k) = w · tanh(q W_query + k W_key)

`jax.nn.dot_product_attention` does not serve here: it gives no weights, and of a sequence of length 0 the mean of the
padding. The softmax is `jax.nn.softmax`.

Axis letters: T steps of the queries, S steps of keys and values, Q, K and V their features, A the additive form's
width. What is said of [T, Q] holds of batches [B, T, Q], and of any further leading axes, too.

Source: dot, general: Luong, Pham & Manning 2015, arXiv:1508.04025, eq. 7-8; additive: Bahdanau, Cho & Bengio 2015,
arXiv:1409.0473, appendix A.1.2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq import arguments

SCORES = ("dot", "general", "additive")
_glorot_uniform = jax.nn.initializers.glorot_uniform()


class AdditiveParams(NamedTuple):
    """Parameters of `additive_scores`."""

    w_query: jax.Array  # [Q, A]
    w_key: jax.Array  # [K, A]
    w_score: jax.Array  # [A]


def init_general(key: jax.Array, query_size: int, key_size: int) -> jax.Array:
    """Draws the matrix of `general_scores`, float [Q, K], Glorot uniform."""
    _check_init(key, query_size=query_size, key_size=key_size)
    return _glorot_uniform(key, (query_size, key_size))


def init_additive(key: jax.Array, query_size: int, key_size: int, size: int) -> AdditiveParams:
    """Draws the parameters of `additive_scores`, A = `size`, Glorot uniform."""
    _check_init(key, query_size=query_size, key_size=key_size, size=size)
    keys = jax.random.split(key, 3)
    return AdditiveParams(
        _glorot_uniform(keys[0], (query_size, size)),
        _glorot_uniform(keys[1], (key_size, size)),
        _glorot_uniform(keys[2], (size, 1))[:, 0],
    )


def _check_init(key: jax.Array, **sizes: int) -> None:
    arguments.key("key", key)
    for name, size in sizes.items():
        arguments.integer(name, size, at_least=1)


def dot_scores(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Scores q · k: float [T, H] and [S, H] to [T, S].

    Raises:
      ValueError: queries and keys differ in width.
    """
    _check_steps(queries=queries, keys=keys)
    if queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"queries must be as wide as keys ({keys.shape[-1]}) for dot scores, got {queries.shape[-1]}; "
            "general and additive scores take any widths"
        )
    return jnp.einsum("...th,...sh->...ts", queries, keys)


def _check_steps(**steps: jax.Array) -> None:
    for name, value in steps.items():
        arguments.is_array(name, value)
        if value.ndim < 2:
            raise ValueError(f"{name} must have two axes or more, steps and features, got shape {value.shape}")


def general_scores(weights: jax.Array, queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Scores q · W k with `weights` W [Q, K]: float [T, Q] and [S, K] to [T, S]."""
    _check_steps(queries=queries, keys=keys)
    arguments.is_array("weights", weights)
    if weights.shape != (queries.shape[-1], keys.shape[-1]):
        shape = (queries.shape[-1], keys.shape[-1])
        raise ValueError(f"weights must have shape {shape}, for these queries and keys, got {weights.shape}")
    return dot_scores(queries @ weights, keys)


def additive_scores(params: AdditiveParams, queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Scores w · tanh(q W_query + k W_key): float [T, Q] and [S, K] to [T, S]; holds [T, S, A] on the way."""
    _check_steps(queries=queries, keys=keys)
    arguments.instance("params", params, AdditiveParams, "AdditiveParams")
    for name, rows in (("w_query", queries.shape[-1]), ("w_key", keys.shape[-1])):
        shape = (rows, *jnp.shape(params.w_score))
        if jnp.shape(getattr(params, name)) != shape:
            raise ValueError(f"params.{name} must have shape {shape}, got {jnp.shape(getattr(params, name))}")
    query = (queries @ params.w_query)[..., :, None, :]
    key = (keys @ params.w_key)[..., None, :, :]
    return jnp.tanh(query + key) @ params.w_score


def masked_softmax(scores: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Softmax over the last axis, over what is real.

    Args:
      scores: float [..., S].
      mask: bool, True where real, of a shape that broadcasts to that of `scores`; None: all is.
    Returns:
      float [..., S]: exactly zero at padding, else ≥ 0 with sum 1; all zero where nothing is real. Scores of padding
      get a gradient of exactly zero, whatever they are, NaN included.
    """
    arguments.is_array("scores", scores)
    if not scores.ndim:
        raise ValueError("scores must have an axis of steps, got shape ()")
    if mask is None:
        return jax.nn.softmax(scores)
    arguments.is_array("mask", mask)
    pairs = zip(reversed(mask.shape), reversed(scores.shape), strict=False)
    if mask.dtype != bool or mask.ndim > scores.ndim or any(size not in (1, wanted) for size, wanted in pairs):
        raise ValueError(f"mask must be bool and broadcast to {scores.shape}, got {mask.dtype} {mask.shape}")
    # Where nothing is real the softmax runs over zeros: 0/0 would not reach the result, but `jax_debug_nans` sees it.
    summed = mask | ~mask.any(axis=-1, keepdims=True)
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, 0), where=summed), 0)


def attend(
    score: Callable[[jax.Array, jax.Array], jax.Array],
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array | None = None,
    *,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Reads the values, each query as its scores say.

    >>> contexts, weights = attend(dot_scores, decoder_outputs, encoder_outputs, mask=mask)
    >>> contexts, weights = attend(functools.partial(additive_scores, params), decoder_outputs, encoder_outputs)

    Args:
      score: (queries, keys) -> scores [T, S]; one of those above, its parameters given, or your own.
      queries: float [T, Q].
      keys: float [S, K].
      values: float [S, V]; None: the keys.
      mask: bool [S], True where a step is real; None: all are. With leading axes, as `keys`.
    Returns:
      (contexts [T, V], weights [T, S]). Padding has weight zero and gets a gradient of exactly zero, NaN in it reaches
      nothing; where no step is real the context is zero.
    Raises:
      ValueError: the leading axes, the steps of keys and values, or the mask do not match.
    """
    arguments.function("score", score)
    _check_steps(queries=queries, keys=keys)
    if queries.shape[:-2] != keys.shape[:-2]:
        raise ValueError(
            f"queries [..., T, Q] and keys [..., S, K] must have the same leading axes, got {queries.shape} and "
            f"{keys.shape}"
        )
    if values is not None:
        _check_steps(values=values)
    if values is not None and values.shape[:-1] != keys.shape[:-1]:
        raise ValueError(f"values must have one entry for each of the keys {keys.shape}, got {values.shape}")
    if mask is not None:
        arguments.is_array("mask", mask)
        if mask.shape != keys.shape[:-1] or mask.dtype != bool:
            raise ValueError(f"mask must be bool {keys.shape[:-1]}, got {mask.dtype} {mask.shape}")
        # Before the products: in their derivatives NaN in padding would meet weights of zero, and 0 · NaN is NaN.
        keys = jnp.where(mask[..., None], keys, 0)
        values = None if values is None else jnp.where(mask[..., None], values, 0)
    weights = masked_softmax(score(queries, keys), None if mask is None else mask[..., None, :])
    contexts: Any = jnp.einsum("...ts,...sv->...tv", weights, keys if values is None else values)
    return contexts, weights
