"""Long short-term memory."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.cells.activations import Activation, activation
from jaxseq.cells.initializers import Initializer, draw
from jaxseq.cells.products import DropoutMasks, check_drive, gate_product
from jaxseq.cells.settings import check_init, check_settings, describe


class LSTMParams(NamedTuple):
    """Parameters of `LSTM`; gate order i f g o (input, forget, candidate, output), as Keras' and PyTorch's.

    One bias: PyTorch's and cuDNN's two add up to it.
    """

    w_input: jax.Array  # [F, 4H]
    w_hidden: jax.Array  # [H, 4H]
    bias: jax.Array  # [4H]


class LSTMState(NamedTuple):
    """State of `LSTM`."""

    hidden: jax.Array  # [..., H]
    carry: jax.Array  # [..., H]


@dataclasses.dataclass(frozen=True)
class LSTM:
    """Long short-term memory with a forget gate; the output is h'.

      i, f, o = σ(x W + h U + b)        g = tanh(x W_g + h U_g + b_g)
      c' = f ⊙ c + i ⊙ g                h' = o ⊙ tanh(c')

    Args:
      hidden_size: H.
      activation: of the candidate and the carry; a name of `ACTIVATIONS`, or a function.
      gate_activation: of the three gates.
      forget_bias: added to the forget gate's bias by `init`.
      input_initializer: of `w_input`; a name, or a function (key, shape, dtype).
      recurrent_initializer: of `w_hidden`.
      bias_initializer: of `bias`.
      dtype: what the step is computed in; None promotes inputs and parameters.
      param_dtype: what `init` makes.

    Source: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000; its bias of 1: Jozefowicz et al.
    2015; defaults as in Keras' LSTM.
    """

    hidden_size: int
    activation: Activation = "tanh"
    gate_activation: Activation = "sigmoid"
    forget_bias: float = 1.0
    input_initializer: Initializer = "glorot_uniform"
    recurrent_initializer: Initializer = "orthogonal"
    bias_initializer: Initializer = "zeros"
    dtype: str | None = None
    param_dtype: str = "float32"

    gates: ClassVar[int] = 4
    summed_gates: ClassVar[tuple[int, ...]] = (4,)
    __post_init__ = check_settings
    __repr__ = describe

    def init(self, key: jax.Array, input_size: int) -> LSTMParams:
        """Draws parameters for inputs of `input_size` features."""
        check_init(key, input_size)
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        size, dtype = self.hidden_size, jnp.dtype(self.param_dtype)
        bias = draw(self.bias_initializer, bias_key, (4 * size,), dtype)
        return LSTMParams(
            w_input=draw(self.input_initializer, input_key, (input_size, 4 * size), dtype),
            w_hidden=draw(self.recurrent_initializer, recurrent_key, (size, 4 * size), dtype),
            bias=bias.at[size : 2 * size].add(self.forget_bias),
        )

    def initial_state(self, params: LSTMParams, batch_shape: tuple[int, ...]) -> LSTMState:
        """Zeros [*batch_shape, H] in the parameters' dtype."""
        shape, dtype = (*batch_shape, self.hidden_size), params.bias.dtype
        return LSTMState(hidden=jnp.zeros(shape, dtype), carry=jnp.zeros(shape, dtype))  # no buffer in both: donation

    def project(self, params: LSTMParams, inputs: jax.Array, masks: DropoutMasks | None) -> jax.Array:
        """x W + b: float [..., F] to float [..., 4H]."""
        return gate_product(inputs, params.w_input, masks and masks.input) + params.bias

    def step(
        self, params: LSTMParams, state: LSTMState, drive: jax.Array, masks: DropoutMasks | None
    ) -> tuple[LSTMState, jax.Array]:
        """One step.

        Args:
          params: the parameters.
          state: previous state, hidden and carry float [..., H].
          drive: projected input, float [..., 4H], gate order i f g o.
          masks: None, or dropout masks; the carry is never masked.
        Returns:
          (state, output), output float [..., H].
        Raises:
          ValueError: `drive` does not end in 4 H.
        """
        check_drive(drive, self.gates, self.hidden_size)
        recurrent = gate_product(state.hidden, params.w_hidden, masks and masks.recurrent, name="state.hidden")
        candidate, gate = activation(self.activation), activation(self.gate_activation)
        i, f, g, o = map(jnp.add, jnp.split(drive, 4, axis=-1), jnp.split(recurrent, 4, axis=-1))
        carry = gate(f) * state.carry + gate(i) * candidate(g)
        hidden = gate(o) * candidate(carry)
        return LSTMState(hidden, carry), hidden
