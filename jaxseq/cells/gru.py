"""Gated recurrent unit, reset before the recurrent product: the documents' and Keras 2.1's."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.cells.activations import Activation, activation
from jaxseq.cells.initializers import Initializer, draw
from jaxseq.cells.products import DropoutMasks, check_drive, gate_product
from jaxseq.cells.settings import check_init, check_settings, describe


class GRUParams(NamedTuple):
    """Parameters of `GRU`; gate order r z n (reset, update, candidate), as PyTorch's. Keras' is z r n."""

    w_input: jax.Array  # [F, 3H]
    w_hidden: jax.Array  # [H, 3H]
    bias: jax.Array  # [3H]


class GRUState(NamedTuple):
    """State of `GRU` and `GRUResetAfter`."""

    hidden: jax.Array  # [..., H]


@dataclasses.dataclass(frozen=True)
class GRU:
    """Gated recurrent unit, reset before the recurrent product; the output is h'.

      r, z = σ(x W + h U + b)           n = tanh(x W_n + (r ⊙ h) U_n + b_n)
      h' = z ⊙ h + (1 − z) ⊙ n

    Args:
      hidden_size: H.
      activation: of the candidate; a name of `ACTIVATIONS`, or a function.
      gate_activation: of the two gates.
      input_initializer: of `w_input`; a name, or a function (key, shape, dtype).
      recurrent_initializer: of `w_hidden`.
      bias_initializer: of `bias`.
      dtype: what the step is computed in; None promotes inputs and parameters.
      param_dtype: what `init` makes.

    Source: Cho et al. 2014, arXiv:1406.1078, eq. 5-8; Keras' GRU with reset_after=False.
    """

    hidden_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    input_initializer: Initializer = "glorot_uniform"
    recurrent_initializer: Initializer = "orthogonal"
    bias_initializer: Initializer = "zeros"
    dtype: str | None = None
    param_dtype: str = "float32"

    gates: ClassVar[int] = 3
    summed_gates: ClassVar[tuple[int, ...]] = (2, 1)
    __post_init__ = check_settings
    __repr__ = describe

    def init(self, key: jax.Array, input_size: int) -> GRUParams:
        """Draws parameters for inputs of `input_size` features."""
        check_init(key, input_size)
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        size, dtype = self.hidden_size, jnp.dtype(self.param_dtype)
        return GRUParams(
            w_input=draw(self.input_initializer, input_key, (input_size, 3 * size), dtype),
            w_hidden=draw(self.recurrent_initializer, recurrent_key, (size, 3 * size), dtype),
            bias=draw(self.bias_initializer, bias_key, (3 * size,), dtype),
        )

    def initial_state(self, params: GRUParams, batch_shape: tuple[int, ...]) -> GRUState:
        """Zeros [*batch_shape, H] in the parameters' dtype."""
        return GRUState(jnp.zeros((*batch_shape, self.hidden_size), params.bias.dtype))

    def project(self, params: GRUParams, inputs: jax.Array, masks: DropoutMasks | None) -> jax.Array:
        """x W + b: float [..., F] to float [..., 3H]."""
        return gate_product(inputs, params.w_input, masks and masks.input) + params.bias

    def step(
        self, params: GRUParams, state: GRUState, drive: jax.Array, masks: DropoutMasks | None
    ) -> tuple[GRUState, jax.Array]:
        """One step.

        Args:
          params: the parameters.
          state: previous state, float [..., H].
          drive: projected input, float [..., 3H], gate order r z n.
          masks: None, or dropout masks; what h' keeps of h is never masked.
        Returns:
          (state, output), output float [..., H].
        Raises:
          ValueError: `drive` does not end in 3 H.
        """
        check_drive(drive, self.gates, self.hidden_size)
        size, hidden = self.hidden_size, state.hidden
        mask = masks.recurrent if masks is not None else None
        gates_mask, candidate_mask = (None, None) if mask is None else (mask[:2], mask[2:])
        gates = gate_product(hidden, params.w_hidden[:, : 2 * size], gates_mask, name="state.hidden")
        r_x, z_x, n_x = jnp.split(drive, 3, axis=-1)
        r_h, z_h = jnp.split(gates, 2, axis=-1)
        gate = activation(self.gate_activation)
        r, z = gate(r_x + r_h), gate(z_x + z_h)  # not one gate of both side by side, slower (CHANGELOG.md)
        candidate = gate_product(r * hidden, params.w_hidden[:, 2 * size :], candidate_mask)
        n = activation(self.activation)(n_x + candidate)
        hidden = z * hidden + (1 - z) * n
        return GRUState(hidden), hidden
