"""Gated recurrent unit, reset after the recurrent product: cuDNN's, PyTorch's and Keras 3's default."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.cells.activations import Activation, activation
from jaxseq.cells.gru import GRUState
from jaxseq.cells.initializers import Initializer, draw
from jaxseq.cells.products import DropoutMasks, check_drive, gate_product
from jaxseq.cells.settings import check_init, check_settings, describe


class GRUResetAfterParams(NamedTuple):
    """Parameters of `GRUResetAfter`; gate order r z n (reset, update, candidate), as PyTorch's.

    Two biases, since the reset gate scales the second. Keras' gate order is z r n.
    """

    w_input: jax.Array  # [F, 3H]
    w_hidden: jax.Array  # [H, 3H]
    bias_input: jax.Array  # [3H]
    bias_hidden: jax.Array  # [3H]


@dataclasses.dataclass(frozen=True)
class GRUResetAfter:
    """Gated recurrent unit, reset after the recurrent product; the output is h'.

      r, z = σ(x W + b + h U + c)       n = tanh(x W_n + b_n + r ⊙ (h U_n + c_n))
      h' = z ⊙ h + (1 − z) ⊙ n

    Args:
      hidden_size: H.
      activation: of the candidate; a name of `ACTIVATIONS`, or a function.
      gate_activation: of the two gates.
      input_initializer: of `w_input`; a name, or a function (key, shape, dtype).
      recurrent_initializer: of `w_hidden`.
      bias_initializer: of `bias_input` and `bias_hidden`.
      dtype: what the step is computed in; None promotes inputs and parameters.
      param_dtype: what `init` makes.

    Source: Cho et al. 2014, arXiv:1406.1078, eq. 5-8; the reset's position is cuDNN's. Keras' GRU with
    reset_after=True, PyTorch's nn.GRU.
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
    __post_init__ = check_settings
    __repr__ = describe

    def init(self, key: jax.Array, input_size: int) -> GRUResetAfterParams:
        """Draws parameters for inputs of `input_size` features."""
        check_init(key, input_size)
        keys = jax.random.split(key, 4)
        size, dtype = self.hidden_size, jnp.dtype(self.param_dtype)
        return GRUResetAfterParams(
            w_input=draw(self.input_initializer, keys[0], (input_size, 3 * size), dtype),
            w_hidden=draw(self.recurrent_initializer, keys[1], (size, 3 * size), dtype),
            bias_input=draw(self.bias_initializer, keys[2], (3 * size,), dtype),
            bias_hidden=draw(self.bias_initializer, keys[3], (3 * size,), dtype),
        )

    def initial_state(self, params: GRUResetAfterParams, batch_shape: tuple[int, ...]) -> GRUState:
        """Zeros [*batch_shape, H] in the parameters' dtype."""
        return GRUState(jnp.zeros((*batch_shape, self.hidden_size), params.bias_input.dtype))

    def project(self, params: GRUResetAfterParams, inputs: jax.Array, masks: DropoutMasks | None) -> jax.Array:
        """x W + b, and c of the gates, which no reset scales: float [..., F] to float [..., 3H]."""
        of_gates = params.bias_hidden.at[2 * self.hidden_size :].set(0)  # here, where a bias is added anyway
        return gate_product(inputs, params.w_input, masks and masks.input) + (params.bias_input + of_gates)

    def step(
        self, params: GRUResetAfterParams, state: GRUState, drive: jax.Array, masks: DropoutMasks | None
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
        hidden = state.hidden
        recurrent = gate_product(hidden, params.w_hidden, masks and masks.recurrent, name="state.hidden")
        r_x, z_x, n_x = jnp.split(drive, 3, axis=-1)
        r_h, z_h, n_h = jnp.split(recurrent, 3, axis=-1)
        gate = activation(self.gate_activation)
        r, z = gate(r_x + r_h), gate(z_x + z_h)  # not one gate of both side by side, slower (CHANGELOG.md)
        n = activation(self.activation)(n_x + r * (n_h + params.bias_hidden[2 * self.hidden_size :]))
        hidden = z * hidden + (1 - z) * n
        return GRUState(hidden), hidden
