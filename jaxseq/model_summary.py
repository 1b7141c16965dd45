"""A model's layers, output shapes and parameter counts as a table, as Keras' `model.summary()` prints it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxseq import arguments
from jaxseq.lookup import Lookup


class Layer(NamedTuple):
    """One row of a summary."""

    name: str
    kind: str  # the module's class
    output_shape: str
    parameters: int


def layers(model: nn.Module, *inputs: Any) -> list[Layer]:
    """Lists a model's layers: its direct submodules in the order they are called; a layer alone lists itself.

    Args:
      model: a Linen module.
      *inputs: arguments of its call, arrays or `jax.ShapeDtypeStruct`; nothing is computed.
    Returns:
      One Layer for each; a layer called twice, or of parameters only, is listed once.
    """
    arguments.model("model", model)
    if not inputs:
        raise ValueError("inputs must be given, the arguments of the model's call, got none")
    for value in jax.tree.leaves(inputs):
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise ValueError(f"inputs must be arrays or shapes, got {arguments.shown(value)}")
    called: dict[tuple[str, ...], tuple[str, str]] = {}

    def note(call: Any, arguments: Any, settings: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*arguments, **settings)
        path = context.module.path
        if len(path) <= 1 and path not in called and context.method_name in ("__call__", "lookup"):
            called[path] = (type(context.module).__name__, _shapes(result))
        return result

    with nn.intercept_methods(note):
        variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    params = variables.get("params", {})
    names = [path[0] for path in called if path]
    if not names:
        return [Layer(model.name or type(model).__name__, *called[()], count_parameters(params))]
    names += [name for name in params if name not in names]
    return [Layer(name, *called.get((name,), ("–", "–")), count_parameters(params.get(name, {}))) for name in names]


def summary(model: nn.Module, *inputs: Any) -> str:
    """Prints the layers of a model with their parameter counts, and the total.

    >>> print(jaxseq.summary(model, tokens))
    Layer (type)           Output shape    Parameters
    embedding (Embed)      (500, 1, 32)       320,000
    …

    Args:
      model: a Linen module.
      *inputs: arguments of its call, arrays or `jax.ShapeDtypeStruct`; nothing is computed.
    Returns:
      The table. Shapes inside a model are time-major where the model works so.
    """
    listed = layers(model, *inputs)
    rows = [("Layer (type)", "Output shape", "Parameters")]
    rows += [(f"{row.name} ({row.kind})", row.output_shape, f"{row.parameters:,}") for row in listed]
    rows.append(("Total", "", f"{sum(row.parameters for row in listed):,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    rule = "─" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def count_parameters(params: Any) -> int:
    """The number of values in a tree of arrays or shapes.

    Raises:
      ValueError: a leaf is neither.
    """
    for leaf in jax.tree.leaves(params):
        if not hasattr(leaf, "shape"):
            raise ValueError(f"params must be a tree of arrays or shapes, got {arguments.shown(leaf)}")
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _shapes(result: Any) -> str:
    """The output's shape; of a recurrent layer's (state, outputs), that of the outputs."""
    if isinstance(result, Lookup):
        return str(result.shape)
    if isinstance(result, tuple) and len(result) == 2 and not hasattr(result, "_fields"):
        result = result[1]
    return ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(result))
