"""Weights and biases cut before the loop: what a step multiplies by or broadcasts, where it is always the same.

An equation reads best where it cuts a gate's weights out of the matrix of all gates, in its step. Left there they are
copied at every step, and every step's gradient of them is widened to the whole matrix and added to it: at small
batches more work than the step's own. So are biases, which a step broadcasts over its batch.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

_PRODUCTS = ("dot_general", "conv_general_dilated")


def with_weights_cut(body: Callable[..., Any], constants: Any, state: Any, steps: Any) -> Callable[[Any, Any], Any]:
    """A step over given constants, whose products find their weights made, and whose sums their biases.

    Args:
      body: (constants, state, step) -> any results.
      constants: what is the same at every step.
      state: of a step.
      steps: its other inputs, each leaf [T, ...]; T at least 1.
    Returns:
      (state, step) -> the results. Only what a product takes is made early, and what is broadcast, before it is:
      whatever else depends on constants alone stays where it is, cheaper to make again than to read.
    """
    first = jax.tree.map(lambda leaf: leaf[0], steps)
    closed, shapes = jax.make_jaxpr(body, return_shape=True)(constants, state, first)
    jaxpr, count = closed.jaxpr, len(jax.tree.leaves(constants))
    given = [*jaxpr.constvars, *jaxpr.invars[:count]]
    known = depending_on(jaxpr.eqns, given)
    products = [equation for equation in jaxpr.eqns if equation.primitive.name in _PRODUCTS]
    taken = [atom for one in products for atom in variables(one.invars) if known.isdisjoint(one.outvars)]
    broadcasts = [equation for equation in jaxpr.eqns if equation.primitive.name == "broadcast_in_dim"]
    taken += [atom for one in broadcasts for atom in variables(one.invars)]
    weights = [atom for atom in dict.fromkeys(taken) if atom in known and atom not in given]
    if not weights:
        return functools.partial(body, constants)

    early = [equation for equation in jaxpr.eqns if known.issuperset(equation.outvars) and not equation.effects]
    before = jaxpr.replace(invars=jaxpr.invars[:count], outvars=weights, eqns=leading_to(early, weights)[0])
    late, _ = leading_to(jaxpr.eqns, jaxpr.outvars, weights)
    after = jaxpr.replace(invars=[*weights, *jaxpr.invars], eqns=late)
    leaves = jax.tree.leaves(constants)
    made = [*jaxpr_as_fun(ClosedJaxpr(before, closed.consts))(*leaves), *leaves]
    run, results = jaxpr_as_fun(ClosedJaxpr(after, closed.consts)), jax.tree.structure(shapes)
    return lambda state, step: results.unflatten(run(*made, *jax.tree.leaves((state, step))))


def variables(atoms: Iterable[Any]) -> list[Any]:
    """The atoms of a jaxpr that are no literals."""
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def depending_on(equations: Sequence[Any], given: Iterable[Any]) -> set[Any]:
    """What is given, and what equations make of nothing else, without an effect."""
    known = set(given)
    for equation in equations:
        if known.issuperset(variables(equation.invars)) and not equation.effects:
            known.update(equation.outvars)
    return known


def leading_to(
    equations: Sequence[Any], results: Iterable[Any], given: Iterable[Any] = ()
) -> tuple[list[Any], set[Any]]:
    """The equations that make the results from what is given, and all the variables that they and the results read.

    And those that have an effect, as a printing one.
    """
    given, read, kept = set(given), set(variables(results)), []
    for equation in reversed(equations):
        if equation.effects or any(variable in read and variable not in given for variable in equation.outvars):
            kept.append(equation)
            read.update(variables(equation.invars))
    return kept[::-1], read
