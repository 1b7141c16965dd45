"""The simple (Elman) recurrent cell."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.cells.activations import Activation, activation
from jaxseq.cells.initializers import Initializer, draw
from jaxseq.cells.products import DropoutMasks, check_drive, gate_product
from jaxseq.cells.settings import check_init, check_settings, describe


class SimpleRNNParams(NamedTuple):
    """Parameters of `SimpleRNN`; Keras' layout (kernel, recurrent kernel, bias)."""

    w_input: jax.Array  # [F, H]
    w_hidden: jax.Array  # [H, H]
    bias: jax.Array  # [H]


class SimpleRNNState(NamedTuple):
    """State of `SimpleRNN`."""

    hidden: jax.Array  # [..., H]


@dataclasses.dataclass(frozen=True)
class SimpleRNN:
    """Simple recurrent network: h' = tanh(x W + h U + b); the output is h'.

    Args:
      hidden_size: H.
      activation: a name of `jaxseq.cells.activations.ACTIVATIONS`, or a function.
      input_initializer: of `w_input`; a name, or a function (key, shape, dtype).
      recurrent_initializer: of `w_hidden`.
      bias_initializer: of `bias`.
      dtype: what the step is computed in; None promotes inputs and parameters.
      param_dtype: what `init` makes.

    Source: Elman 1990, "Finding structure in time"; defaults as in Keras' SimpleRNN.
    """

    hidden_size: int
    activation: Activation = "tanh"
    input_initializer: Initializer = "glorot_uniform"
    recurrent_initializer: Initializer = "orthogonal"
    bias_initializer: Initializer = "zeros"
    dtype: str | None = None
    param_dtype: str = "float32"

    gates: ClassVar[int] = 1
    summed_gates: ClassVar[tuple[int, ...]] = (1,)
    __post_init__ = check_settings
    __repr__ = describe

    def init(self, key: jax.Array, input_size: int) -> SimpleRNNParams:
        """Draws parameters for inputs of `input_size` features."""
        check_init(key, input_size)
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        size, dtype = self.hidden_size, jnp.dtype(self.param_dtype)
        return SimpleRNNParams(
            w_input=draw(self.input_initializer, input_key, (input_size, size), dtype),
            w_hidden=draw(self.recurrent_initializer, recurrent_key, (size, size), dtype),
            bias=draw(self.bias_initializer, bias_key, (size,), dtype),
        )

    def initial_state(self, params: SimpleRNNParams, batch_shape: tuple[int, ...]) -> SimpleRNNState:
        """Zeros [*batch_shape, H] in the parameters' dtype."""
        return SimpleRNNState(jnp.zeros((*batch_shape, self.hidden_size), params.bias.dtype))

    def project(self, params: SimpleRNNParams, inputs: jax.Array, masks: DropoutMasks | None) -> jax.Array:
        """x W + b: float [..., F] to float [..., H]."""
        return gate_product(inputs, params.w_input, masks and masks.input) + params.bias

    def step(
        self,
        params: SimpleRNNParams,
        state: SimpleRNNState,
        drive: jax.Array,
        masks: DropoutMasks | None,
    ) -> tuple[SimpleRNNState, jax.Array]:
        """One step.

        Args:
          params: the parameters.
          state: previous state, float [..., H].
          drive: projected input, float [..., H].
          masks: None, or dropout masks.
        Returns:
          (state, output), output float [..., H].
        Raises:
          ValueError: `drive` does not end in H.
        """
        check_drive(drive, self.gates, self.hidden_size)
        recurrent = gate_product(state.hidden, params.w_hidden, masks and masks.recurrent, name="state.hidden")
        hidden = activation(self.activation)(drive + recurrent)
        return SimpleRNNState(hidden), hidden
