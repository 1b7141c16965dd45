"""The cells once more, in NumPy float64: one row and one step at a time, derivatives by hand.

Nothing is shared with `jaxseq`: the weights are each gate's own matrices, the loops are Python's, and the
gradient through time is written out from the equations. `split` and `join` alone know how `jaxseq` lays the
gates side by side.

Letters: T time, B batch, F input features, H hidden. k is a gate, aₖ what its activation is applied to.
"""

import dataclasses

import numpy as np

GATES = {"SimpleRNN": "h", "LSTM": "ifgo", "GRU": "rzn", "GRUResetAfter": "rzn", "MinimalGatedUnit": "fn"}


def _sigmoid(a):
    """1 / (1 + e⁻ᵃ), with no power of e above 1: inputs may be of any size."""
    return np.where(a < 0, np.exp(-abs(a)), 1) / (1 + np.exp(-abs(a)))


# (function, derivative by its argument)
ACTIVATIONS = {
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "sigmoid": (_sigmoid, lambda a: _sigmoid(a) * _sigmoid(-a)),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0) * 1.0),
}


@dataclasses.dataclass
class Gate:
    """One gate's weights, or the gradients by them."""

    w: np.ndarray  # [F, H]
    u: np.ndarray  # [H, H]
    b: np.ndarray  # [H]
    c: np.ndarray  # [H], a second bias, inside the recurrent product; GRUResetAfter alone


def split(name, params):
    """One `Gate` for each letter of `GATES[name]`, from the parameters of jaxseq's cell."""
    letters = GATES[name]

    def parts(array):
        return np.split(np.asarray(array, np.float64), len(letters), axis=-1)

    b = params.bias_input if name == "GRUResetAfter" else params.bias
    c = params.bias_hidden if name == "GRUResetAfter" else np.zeros_like(b)
    columns = zip(parts(params.w_input), parts(params.w_hidden), parts(b), parts(c), strict=True)
    return {letter: Gate(*column) for letter, column in zip(letters, columns, strict=True)}


def join(name, gates):
    """The inverse of `split`: a dict of jaxseq's fields."""
    biases = {"bias": "b"} if name != "GRUResetAfter" else {"bias_input": "b", "bias_hidden": "c"}
    fields = {"w_input": "w", "w_hidden": "u", **biases}
    return {
        field: np.concatenate([getattr(gates[letter], part) for letter in GATES[name]], axis=-1)
        for field, part in fields.items()
    }


class Row:
    """One sequence of one cell: `forward` a step, `backward` a step.

    Args:
      gates: the weights.
      activation, gate_activation: names of `ACTIVATIONS`.
      input_masks, recurrent_masks: for each gate what x and h are multiplied with, [F] and [H].
    """

    def __init__(self, gates, activation, gate_activation, input_masks, recurrent_masks):
        self.gates = gates
        self.f, self.df = ACTIVATIONS[activation]
        self.s, self.ds = ACTIVATIONS[gate_activation]
        self.mx, self.mh = input_masks, recurrent_masks
        self.grads = {
            k: Gate(*(np.zeros_like(array) for array in (gate.w, gate.u, gate.b, gate.c))) for k, gate in gates.items()
        }

    def from_input(self, k, x):
        return (x * self.mx[k]) @ self.gates[k].w + self.gates[k].b

    def from_hidden(self, k, h):
        return (h * self.mh[k]) @ self.gates[k].u + self.gates[k].c

    def back_input(self, k, x, da):
        self.grads[k].w += np.outer(x * self.mx[k], da)
        self.grads[k].b += da
        return self.mx[k] * (self.gates[k].w @ da)

    def back_hidden(self, k, h, da):
        self.grads[k].u += np.outer(h * self.mh[k], da)
        self.grads[k].c += da
        return self.mh[k] * (self.gates[k].u @ da)


class SimpleRNN(Row):
    """h' = f(x W + h U + b)."""

    leaves = ("hidden",)

    def forward(self, x, state):
        (h,) = state
        a = self.from_input("h", x) + self.from_hidden("h", h)
        return (self.f(a),), (x, h, a)

    def backward(self, tape, grad):
        x, h, a = tape
        da = grad[0] * self.df(a)
        return self.back_input("h", x, da), (self.back_hidden("h", h, da),)


class LSTM(Row):
    """c' = σ(a_f) c + σ(a_i) f(a_g), h' = σ(a_o) f(c')."""

    leaves = ("hidden", "carry")

    def forward(self, x, state):
        h, c = state
        a = {k: self.from_input(k, x) + self.from_hidden(k, h) for k in "ifgo"}
        new_c = self.s(a["f"]) * c + self.s(a["i"]) * self.f(a["g"])
        return (self.s(a["o"]) * self.f(new_c), new_c), (x, h, c, a, new_c)

    def backward(self, tape, grad):
        x, h, c, a, new_c = tape
        dh, dc = grad
        dc = dc + dh * self.s(a["o"]) * self.df(new_c)
        da = {
            "i": dc * self.f(a["g"]) * self.ds(a["i"]),
            "f": dc * c * self.ds(a["f"]),
            "g": dc * self.s(a["i"]) * self.df(a["g"]),
            "o": dh * self.f(new_c) * self.ds(a["o"]),
        }
        dx = sum(self.back_input(k, x, da[k]) for k in "ifgo")
        dh = sum(self.back_hidden(k, h, da[k]) for k in "ifgo")
        return dx, (dh, dc * self.s(a["f"]))


class GRU(Row):
    """h' = z h + (1 - z) n with n = f(x W_n + b_n + (r h) U_n)."""

    leaves = ("hidden",)

    def forward(self, x, state):
        (h,) = state
        a = {k: self.from_input(k, x) + self.from_hidden(k, h) for k in "rz"}
        r, z = self.s(a["r"]), self.s(a["z"])
        a["n"] = self.from_input("n", x) + self.from_hidden("n", r * h)
        return (z * h + (1 - z) * self.f(a["n"]),), (x, h, r, z, a)

    def backward(self, tape, grad):
        x, h, r, z, a = tape
        (d,) = grad
        da = {"z": d * (h - self.f(a["n"])) * self.ds(a["z"]), "n": d * (1 - z) * self.df(a["n"])}
        d_gated = self.back_hidden("n", r * h, da["n"])
        da["r"] = d_gated * h * self.ds(a["r"])
        dx = sum(self.back_input(k, x, da[k]) for k in "rzn")
        return dx, (d * z + d_gated * r + sum(self.back_hidden(k, h, da[k]) for k in "rz"),)


class GRUResetAfter(Row):
    """h' = z h + (1 - z) n with n = f(x W_n + b_n + r (h U_n + c_n))."""

    leaves = ("hidden",)

    def forward(self, x, state):
        (h,) = state
        a = {k: self.from_input(k, x) + self.from_hidden(k, h) for k in "rz"}
        r, z, q = self.s(a["r"]), self.s(a["z"]), self.from_hidden("n", h)
        a["n"] = self.from_input("n", x) + r * q
        return (z * h + (1 - z) * self.f(a["n"]),), (x, h, r, z, q, a)

    def backward(self, tape, grad):
        x, h, r, z, q, a = tape
        (d,) = grad
        da = {"z": d * (h - self.f(a["n"])) * self.ds(a["z"]), "n": d * (1 - z) * self.df(a["n"])}
        da["r"] = da["n"] * q * self.ds(a["r"])
        dx = sum(self.back_input(k, x, da[k]) for k in "rzn")
        dh = d * z + self.back_hidden("n", h, da["n"] * r)
        return dx, (dh + sum(self.back_hidden(k, h, da[k]) for k in "rz"),)


class MinimalGatedUnit(Row):
    """f = σ(a_f), h' = (1 - f) h + f n with n = f(x W_n + b_n + (f h) U_n): tests/examples.py's own cell."""

    leaves = ("hidden",)

    def forward(self, x, state):
        (h,) = state
        a_f = self.from_input("f", x) + self.from_hidden("f", h)
        f = self.s(a_f)
        a_n = self.from_input("n", x) + self.from_hidden("n", f * h)
        return ((1 - f) * h + f * self.f(a_n),), (x, h, f, a_f, a_n)

    def backward(self, tape, grad):
        x, h, f, a_f, a_n = tape
        (d,) = grad
        da_n = d * f * self.df(a_n)
        d_gated = self.back_hidden("n", f * h, da_n)
        da_f = (d * (self.f(a_n) - h) + d_gated * h) * self.ds(a_f)
        dx = self.back_input("n", x, da_n) + self.back_input("f", x, da_f)
        return dx, (d * (1 - f) + d_gated * f + self.back_hidden("f", h, da_f),)


ROWS = {row.__name__: row for row in (SimpleRNN, LSTM, GRU, GRUResetAfter, MinimalGatedUnit)}


@dataclasses.dataclass
class Result:
    """What one run gives; gradients are those of Σ outputs ⊙ d_outputs + Σ final state ⊙ d_state."""

    outputs: np.ndarray  # [T, B, H]
    state: dict  # final state, each leaf [B, H]
    grads: dict  # by jaxseq's parameter fields
    d_inputs: np.ndarray  # [T, B, F]
    d_initial: dict  # by the state that resets, and rows without `state`, start from; each leaf [H]
    d_state: dict  # by `state`, each leaf [B, H]; zeros without one


def run(
    name,
    params,
    inputs,
    d_outputs,
    d_final,
    *,
    activation="tanh",
    gate_activation="sigmoid",
    initial=None,
    state=None,
    mask=None,
    resets=None,
    input_masks=None,
    recurrent_masks=None,
    reverse=False,
):
    """Runs a cell over inputs [T, B, F] and back.

    Args:
      name: a key of `GATES`.
      params: jaxseq's NamedTuple, of any array type.
      inputs, d_outputs: [T, B, F] and [T, B, H].
      d_final: for each leaf of the state, [B, H].
      activation, gate_activation: names of `ACTIVATIONS`.
      initial: the learned initial state, each leaf [H]; None: zeros.
      state: the state to start from, each leaf [B, H]; None: `initial`.
      mask, resets: bool [T, B].
      input_masks, recurrent_masks: dropout masks [gates, B, F] and [gates, B, H].
      reverse: from the last step to the first.
    """
    gates, leaves = split(name, params), ROWS[name].leaves
    inputs = np.asarray(inputs, np.float64)
    steps, batch, features = inputs.shape
    size = gates[GATES[name][0]].u.shape[0]
    initial = {leaf: np.zeros(size) for leaf in leaves} if initial is None else initial
    outputs = np.zeros((steps, batch, size))
    final = {leaf: np.zeros((batch, size)) for leaf in leaves}
    d_inputs = np.zeros(inputs.shape)
    d_initial = {leaf: np.zeros(size) for leaf in leaves}
    d_state = {leaf: np.zeros((batch, size)) for leaf in leaves}
    total = None
    for row in range(batch):
        own_masks = [
            {k: 1.0 if masks is None else np.asarray(masks, np.float64)[g, row] for g, k in enumerate(gates)}
            for masks in (input_masks, recurrent_masks)
        ]
        cell = ROWS[name](gates, activation, gate_activation, *own_masks)
        source = initial if state is None else {leaf: state[leaf][row] for leaf in leaves}
        now = tuple(np.asarray(source[leaf], np.float64) for leaf in leaves)
        times = range(steps)[::-1] if reverse else range(steps)
        tapes = {}
        for time in times:
            if _starts_anew(resets, time, row, reverse):
                now = tuple(np.asarray(initial[leaf], np.float64) for leaf in leaves)
            if mask is None or mask[time, row]:
                now, tapes[time] = cell.forward(inputs[time, row], now)
                outputs[time, row] = now[0]
        for leaf, value in zip(leaves, now, strict=True):
            final[leaf][row] = value

        grad = tuple(np.asarray(d_final[leaf], np.float64)[row] for leaf in leaves)
        for time in times[::-1]:
            if time in tapes:
                grad = (grad[0] + d_outputs[time, row], *grad[1:])
                d_inputs[time, row], grad = cell.backward(tapes[time], grad)
            if _starts_anew(resets, time, row, reverse):
                for leaf, value in zip(leaves, grad, strict=True):
                    d_initial[leaf] += value
                grad = tuple(np.zeros(size) for _ in leaves)
        for leaf, value in zip(leaves, grad, strict=True):
            if state is None:
                d_initial[leaf] += value
            else:
                d_state[leaf][row] = value
        row_grads = join(name, cell.grads)
        total = row_grads if total is None else {field: total[field] + row_grads[field] for field in total}
    return Result(outputs, final, total, d_inputs, d_initial, d_state)


def _starts_anew(resets, time, row, reverse):
    """Whether the state goes back to the initial one before this step is taken."""
    if resets is None:
        return False
    if reverse:  # the sequence that starts at time + 1 has just been left
        return time + 1 < len(resets) and bool(resets[time + 1, row])
    return bool(resets[time, row])
