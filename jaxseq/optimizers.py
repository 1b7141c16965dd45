"""RMSprop and Adam that take Keras 3's steps, number for number, as Optax transformations; frozen parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxseq import arguments


def rmsprop(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    decay: float = 0.9,
    epsilon: float = 1e-7,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """RMSprop: v ← ρ v + (1 − ρ) g², θ ← θ − η g / √(v + ε).

    Args:
      learning_rate: η, a number or a schedule of the step.
      decay: ρ.
      epsilon: ε, inside the root as in Keras 3 (Keras 2 had it outside).
      clip_norm: gradients whose norm, of all parameters together, is larger are scaled down to it; None: never.
    Returns:
      An Optax transformation.
    Raises:
      ValueError: a number is not finite, or outside its range; of an array of JAX only the shape is looked at.
    Source: Tieleman & Hinton 2012, lecture 6.5; defaults as in Keras.
    """
    _check_learning_rate(learning_rate)
    _check("decay", decay, "at least 0 and below 1", lambda found: 0 <= found < 1)
    _check("epsilon", epsilon, "a finite number of at least 0", lambda found: 0 <= found < math.inf)
    steps = optax.rmsprop(learning_rate, decay=decay, eps=epsilon, eps_in_sqrt=True, initial_scale=0.0)
    return _clipped(steps, clip_norm)


class AdamState(NamedTuple):
    """State of `adam`."""

    steps: jax.Array  # taken so far, int32 []
    first: Any  # mean of g
    second: Any  # mean of g²


def adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-7,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam with ε beside the uncorrected root: θ ← θ − η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε).

    `optax.adam` adds ε to the corrected root, the paper's algorithm 1; Keras (and the paper's faster form) adds
    it before the correction, which at the first steps is up to 30 times as much.

    Args:
      learning_rate: η, a number or a schedule of the step.
      beta1: β₁.
      beta2: β₂.
      epsilon: ε.
      clip_norm: gradients whose norm, of all parameters together, is larger are scaled down to it; None: never.
    Returns:
      An Optax transformation.
    Raises:
      ValueError: a number is not finite, or outside its range; of an array of JAX only the shape is looked at.
    Source: Kingma & Ba 2015, arXiv:1412.6980, end of section 2; defaults as in Keras.
    """
    _check_learning_rate(learning_rate)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        _check(name, beta, "at least 0 and below 1", lambda found: 0 <= found < 1)
    _check("epsilon", epsilon, "a finite number of at least 0", lambda found: 0 <= found < math.inf)

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        del params
        steps = state.steps + 1
        first = jax.tree.map(lambda m, g: m + (g - m) * (1 - beta1), state.first, updates)
        second = jax.tree.map(lambda v, g: v + (jnp.square(g) - v) * (1 - beta2), state.second, updates)
        count = steps.astype(jnp.float32)
        scale = jnp.sqrt(1 - beta2**count) / (1 - beta1**count)

        def change(m: jax.Array, v: jax.Array) -> jax.Array:
            return (scale * m / (jnp.sqrt(v) + epsilon)).astype(m.dtype)

        return jax.tree.map(change, first, second), AdamState(steps, first, second)

    steps = optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))
    return _clipped(steps, clip_norm)


def _clipped(optimizer: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    if norm is None:
        return optimizer
    _check("clip_norm", norm, "a finite number above 0, or None", lambda found: 0 < found < math.inf)
    return optax.chain(optax.clip_by_global_norm(norm), optimizer)


def freeze(optimizer: optax.GradientTransformation, modules: Sequence[str]) -> optax.GradientTransformation:
    """Leaves the parameters of some modules as they are, and keeps no state for them.

    >>> optimizer = jaxseq.freeze(jaxseq.rmsprop(), ["embedding"])

    Args:
      optimizer: what trains all the others.
      modules: names in the parameters' outermost dictionary.
    Returns:
      An Optax transformation; its `init` raises ValueError where there is no module of such a name.
    Raises:
      ValueError: `optimizer` is none, or `modules` is no list.
    """
    arguments.with_methods("optimizer", optimizer, ("init", "update"), "an Optax transformation")
    arguments.instance("modules", modules, (list, tuple, set, frozenset), "a list of names")

    def labels(params: Any) -> Any:
        arguments.mapping("params", params, "a dictionary of modules")
        for module in modules:
            if module not in params:
                raise ValueError(f"modules must be names in the parameters {sorted(params)}, got {module!r}")
        return {name: "frozen" if name in modules else "trained" for name in params}

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def _check_learning_rate(learning_rate: Any) -> None:
    if not callable(learning_rate):
        rule = "a finite number above 0, or a schedule"
        _check("learning_rate", learning_rate, rule, lambda found: 0 < found < math.inf)


def _check(name: str, value: Any, rule: str, within: Callable[[float], bool]) -> None:
    """Looks at a number's value, unless it is an array of JAX: `optax.inject_hyperparams` has it change."""
    if not isinstance(value, jax.Array):
        arguments.number(name, value, rule, within)
    elif value.shape or not jnp.issubdtype(value.dtype, jnp.number):
        raise ValueError(f"{name} must be {rule}, got {arguments.shown(value)}")
