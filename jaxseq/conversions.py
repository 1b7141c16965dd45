"""Weights to and from Keras and PyTorch: exact, and nothing but transposes and the order of gates.

What the three call the parts, and where they differ:

  cell            jaxseq   Keras                                PyTorch
  SimpleRNN       -        SimpleRNN                            nn.RNN
  LSTM            i f g o  LSTM, i f c o, the same              nn.LSTM, the same
  GRU             r z n    GRU(reset_after=False), z r h        none: nn.GRU resets after the product
  GRUResetAfter   r z n    GRU(reset_after=True), z r h         nn.GRU, the same

Keras stores as jaxseq does, [F, G·H] and [H, G·H]; PyTorch the transpose. PyTorch's two biases of nn.RNN and
nn.LSTM, which add up, become jaxseq's one: `from_torch` adds them, `to_torch` leaves the second at zero.

Axis letters: F input features, H hidden, G gates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseq import arguments
from jaxseq.cells import (
    GRU,
    LSTM,
    GRUParams,
    GRUResetAfter,
    GRUResetAfterParams,
    LSTMParams,
    SimpleRNN,
    SimpleRNNParams,
)

Convertible = SimpleRNN | LSTM | GRU | GRUResetAfter
Params = SimpleRNNParams | LSTMParams | GRUParams | GRUResetAfterParams

PARAMS = {SimpleRNN: SimpleRNNParams, LSTM: LSTMParams, GRU: GRUParams, GRUResetAfter: GRUResetAfterParams}
KERAS_WEIGHTS = ("kernel", "recurrent_kernel", "bias")
TORCH_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def from_keras(cell: Convertible, weights: Sequence[Any]) -> Any:
    """Reads the weights of a Keras layer (`layer.get_weights()`) into parameters of `cell`.

    Keras' gate order is i f c o for LSTM, which is jaxseq's i f g o, and z r h for GRU, jaxseq's r z n. The
    bias of GRU(reset_after=True) is [2, 3H], the input's and the recurrent one: `bias_input`, `bias_hidden`.

    >>> params = from_keras(jaxseq.GRUResetAfter(32), keras_layer.get_weights())

    Args:
      cell: the cell; its settings (activations) must be the layer's.
      weights: kernel [F, G·H], recurrent kernel [H, G·H], bias [G·H] or [2, G·H].
    Returns:
      The cell's parameters, in its `param_dtype`.
    Raises:
      ValueError: the cell has no Keras twin, or an array has the wrong shape.
    """
    _check_cell(cell)
    arguments.instance("weights", weights, (list, tuple), "[kernel, recurrent_kernel, bias]")
    if len(weights) != 3:
        raise ValueError(f"weights must be [kernel, recurrent_kernel, bias], got {len(weights)} arrays")
    arrays = [arguments.host_array(name, array) for name, array in zip(KERAS_WEIGHTS, weights, strict=True)]
    width = cell.gates * cell.hidden_size
    bias_shape = (2, width) if isinstance(cell, GRUResetAfter) else (width,)
    shapes = [(_rows("kernel", arrays[0], 0), width), (cell.hidden_size, width), bias_shape]
    for name, array, shape in zip(KERAS_WEIGHTS, arrays, shapes, strict=True):
        _check_shape(name, array, shape)
    w_input, w_hidden, bias = (_swap_keras_gates(cell, array) for array in arrays)
    return _params(cell, w_input, w_hidden, *(bias if isinstance(cell, GRUResetAfter) else [bias]))


def to_keras(cell: Convertible, params: Any) -> list[np.ndarray]:
    """Writes parameters as `keras_layer.set_weights` reads them; the inverse of `from_keras`.

    Args:
      cell: the cell.
      params: its parameters, or anything of their shape (gradients).
    Returns:
      [kernel [F, G·H], recurrent kernel [H, G·H], bias [G·H] or, for GRUResetAfter, [2, 3H]].
    Raises:
      ValueError: the cell has no Keras twin, or `params` are not its own.
    """
    w_input, w_hidden, *biases = _checked_leaves(cell, params)
    bias = np.stack(biases) if isinstance(cell, GRUResetAfter) else biases[0]
    return [_swap_keras_gates(cell, array) for array in (w_input, w_hidden, bias)]


def from_torch(cell: Convertible, weights: Mapping[str, Any] | Sequence[Any], *, suffix: str = "_l0") -> Any:
    """Reads the weights of nn.RNN, nn.LSTM or nn.GRU into parameters of `cell`.

    PyTorch's gate order is i f g o for LSTM and r z n for GRU, as here; its matrices are transposed.

    >>> params = from_torch(jaxseq.LSTM(32), torch_layer.state_dict())
    >>> backward = from_torch(jaxseq.LSTM(32), torch_layer.state_dict(), suffix="_l0_reverse")

    Args:
      cell: the cell; its settings (activations) must be the layer's.
      weights: a state dict, or the four arrays (weight_ih [G·H, F], weight_hh [G·H, H], bias_ih [G·H], bias_hh
        [G·H]).
      suffix: which layer and direction of the state dict; "" for an nn.LSTMCell and its like.
    Returns:
      The cell's parameters, in its `param_dtype`; for SimpleRNN and LSTM the bias is bias_ih + bias_hh.
    Raises:
      ValueError: the cell has no PyTorch twin, an array is missing or has the wrong shape.
    """
    _check_torch_cell(cell)
    arguments.text("suffix", suffix)
    names = TORCH_WEIGHTS
    if isinstance(weights, Mapping):
        names = tuple(name + suffix for name in TORCH_WEIGHTS)
        missing = [name for name in names if name not in weights]
        if missing:
            raise ValueError(f"weights must have the entries {list(names)}, got {sorted(weights)}")
        weights = [weights[name] for name in names]
    arguments.instance("weights", weights, (list, tuple), f"a state dict, or [{', '.join(TORCH_WEIGHTS)}]")
    if len(weights) != 4:
        raise ValueError(f"weights must be [{', '.join(TORCH_WEIGHTS)}], got {len(weights)} arrays")
    arrays = [arguments.host_array(name, array) for name, array in zip(names, weights, strict=True)]
    width = cell.gates * cell.hidden_size
    shapes = [(width, _rows(names[0], arrays[0], 1)), (width, cell.hidden_size), (width,), (width,)]
    for name, array, shape in zip(names, arrays, shapes, strict=True):
        _check_shape(name, array, shape)
    weight_ih, weight_hh, bias_ih, bias_hh = arrays
    biases = [bias_ih, bias_hh] if isinstance(cell, GRUResetAfter) else [bias_ih + bias_hh]
    return _params(cell, weight_ih.T, weight_hh.T, *biases)


def to_torch(cell: Convertible, params: Any, *, suffix: str = "_l0") -> dict[str, np.ndarray]:
    """Writes parameters under the names of a PyTorch state dict; `from_torch` reads them back.

    >>> state = {name: torch.from_numpy(array) for name, array in to_torch(cell, params).items()}
    >>> torch_layer.load_state_dict(state)

    Args:
      cell: the cell.
      params: its parameters.
      suffix: of the names, as in `from_torch`.
    Returns:
      weight_ih [G·H, F], weight_hh [G·H, H], bias_ih [G·H], bias_hh [G·H]; for SimpleRNN and LSTM bias_ih is
      the whole bias and bias_hh zero.
    Raises:
      ValueError: the cell has no PyTorch twin, or `params` are not its own.
    """
    _check_torch_cell(cell)
    arguments.text("suffix", suffix)
    w_input, w_hidden, *biases = _checked_leaves(cell, params)
    if len(biases) == 1:
        biases.append(np.zeros_like(biases[0]))
    arrays = [np.ascontiguousarray(w_input.T), np.ascontiguousarray(w_hidden.T), *biases]
    return {name + suffix: array for name, array in zip(TORCH_WEIGHTS, arrays, strict=True)}


def _check_cell(cell: Any) -> None:
    if type(cell) not in PARAMS:
        names = [known.__name__ for known in PARAMS]
        raise ValueError(f"cell must be one of {names}, got {cell!r} (convert a wrapped cell's own parameters)")


def _check_torch_cell(cell: Any) -> None:
    _check_cell(cell)
    if isinstance(cell, GRU):
        raise ValueError(
            f"cell must not be a GRU that resets before the product, got {cell!r}: PyTorch has none; "
            "its nn.GRU is jaxseq.GRUResetAfter"
        )


def _rows(name: str, array: np.ndarray, axis: int) -> int:
    """F, which the cell does not know; the other shapes follow from it."""
    if array.ndim != 2:
        raise ValueError(f"{name} must have two axes, got shape {array.shape}")
    return array.shape[axis]


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _checked_leaves(cell: Any, params: Any) -> list[np.ndarray]:
    _check_cell(cell)
    if not isinstance(params, PARAMS[type(cell)]):
        raise ValueError(f"params must be a {PARAMS[type(cell)].__name__}, got {type(params).__name__}")
    arrays = [arguments.host_array(f"params.{name}", leaf) for name, leaf in zip(params._fields, params, strict=True)]
    width = cell.gates * cell.hidden_size
    shapes = [(_rows("w_input", arrays[0], 0), width), (cell.hidden_size, width), (width,), (width,)]
    for name, array, shape in zip(params._fields, arrays, shapes, strict=False):
        _check_shape(name, array, shape)
    return arrays


def _swap_keras_gates(cell: Any, array: np.ndarray) -> np.ndarray:
    """r z n to Keras' z r h, and back: the same swap."""
    if not isinstance(cell, GRU | GRUResetAfter):
        return array
    first, second, candidate = np.split(array, 3, axis=-1)
    return np.concatenate([second, first, candidate], axis=-1)


def _params(cell: Any, *arrays: np.ndarray) -> Params:
    return PARAMS[type(cell)](*(jnp.asarray(array, cell.param_dtype) for array in arrays))
