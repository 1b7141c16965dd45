"""Memory: how gradients go back through time, and how far back SimpleRNN, LSTM and GRU remember (document 001).

`gradient_flow` takes backpropagation through time apart (section 2) and measures what is left of a gradient k steps
back. Nothing is trained: parameters are as they are drawn.

`long_term_dependency` trains on two generated tasks at growing delay (section 3). Adding: the sum of two marked
numbers, one in each half of the sequence; always answering 1 has a squared error of 1/6. Copying: ten symbols of
eight, asked for after a delay; guessing is right in 1/8.

Source: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; Hochreiter & Schmidhuber 1997; Arjovsky, Shah & Bengio 2016,
arXiv:1511.06464.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxseq
from experiments import plots
from experiments.experiment import Data, Experiment, Run, Trained, Variant, summarize
from jaxseq.cells.simple_rnn import SimpleRNNParams, SimpleRNNState
from jaxseq.datasets import synthetic
from jaxseq.epochs import initialize, take_rows

_DOCUMENT = "001_7cf08e2a96f4f12b.txt"
_SIZE = 32  # H, and F where nothing else is said
_WORDS = "embedded words"
_LEFT = "log₁₀ ‖∂L/∂s‖ relative to the last step's"
_IN_LAST = "share of Σₜ ‖∂L/∂sₜ‖ in the last 10 steps"
_BACK = (1, 10, 50, 100, 199)  # steps before the last one, in the tables

_CELLS = (jaxseq.SimpleRNN(_SIZE), jaxseq.LSTM(_SIZE), jaxseq.GRU(_SIZE))
_ADDING_STEPS = (10, 30, 100, 200)
_COPY_DELAYS = (10, 30, 100)
_EXAMPLES = 10_000
_SOURCE = {"kind": "generated", "name": "adding problem, copy memory", "files": []}
_OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), jaxseq.adam(3e-3))


def _parts(smoke: bool, kind: int, delay: int) -> list[tuple[np.random.Generator, int]]:
    """A generator and a size for training, validation and test: the same data whatever ran before."""
    sizes = (96, 96, 96) if smoke else (_EXAMPLES, _EXAMPLES // 10, _EXAMPLES // 10)
    return [(np.random.default_rng((kind, delay, part)), size) for part, size in enumerate(sizes)]


@functools.cache
def _adding(is_synthetic: bool, smoke: bool, steps: int) -> Data:
    del is_synthetic  # always generated
    parts = [jaxseq.examples(*synthetic.adding_problem(rng, size, steps)) for rng, size in _parts(smoke, 0, steps)]
    return Data(parts[0], parts[1], parts[2], _SOURCE)


@functools.cache
def _copying(is_synthetic: bool, smoke: bool, delay: int) -> Data:
    """The loss counts at the last ten steps, where the symbols are asked for."""
    del is_synthetic  # always generated
    parts = []
    for rng, size in _parts(smoke, 1, delay):
        tokens, targets = synthetic.copy_memory(rng, size, delay)
        asked = np.arange(tokens.shape[1]) >= tokens.shape[1] - 10
        parts.append(jaxseq.examples(tokens, targets, np.broadcast_to(asked, tokens.shape)))
    return Data(parts[0], parts[1], parts[2], _SOURCE)


def _variants() -> tuple[Variant, ...]:
    variants = []
    for cell in _CELLS:
        name = type(cell).__name__
        for steps in _ADDING_STEPS:
            variants.append(
                Variant(
                    load=functools.partial(_adding, steps=steps),
                    model=jaxseq.SequenceRegressor(cell),
                    loss=jaxseq.losses.squared_error,
                    metrics={},
                    optimizer=_OPTIMIZER,
                    epochs=20,
                    batch_size=64,
                    smoke=steps == _ADDING_STEPS[0],
                    label=f"adding {steps} {name}",
                )
            )
        for delay in _COPY_DELAYS:
            variants.append(
                Variant(
                    load=functools.partial(_copying, delay=delay),
                    model=jaxseq.SequenceTagger(cell, vocabulary_size=10, embedding_size=10, classes=10),
                    loss=jaxseq.losses.categorical_cross_entropy,
                    metrics={"accuracy": jaxseq.losses.categorical_accuracy},
                    optimizer=_OPTIMIZER,
                    epochs=20,
                    batch_size=64,
                    monitor="accuracy",
                    maximize=True,
                    smoke=delay == _COPY_DELAYS[0] and cell == _CELLS[0],
                    label=f"copying {delay} {name}",
                )
            )
    return tuple(variants)


def _plot(result: dict[str, Any], directory: Path) -> None:
    """Test figure against the delay, a line a cell."""
    lines: dict[str, dict[str, list[tuple[int, dict[str, Any]]]]] = {"adding": {}, "copying": {}}
    for variant in [result, *result["variants"]]:
        task, delay, cell = variant["label"].split()
        quantity = "loss" if task == "adding" else "accuracy"
        lines[task].setdefault(cell, []).append((int(delay), variant["figures"]["test"][quantity]))
    plots.against(
        {
            "adding problem: squared error (guessing: 0.167)": lines["adding"],
            "copy memory: accuracy of the symbols (guessing: 0.125)": lines["copying"],
        },
        directory / "memory.png",
        xlabel="steps to remember over",
    )


@functools.cache
def _sequences(is_synthetic: bool, smoke: bool) -> Data:
    """Sequences to send a gradient back through, [seeds, N, T, F] of each kind: numbers drawn from a normal
    distribution; words as frequent as a text's, embedded as Keras does before training, uniform in (-0.05, 0.05)."""
    del is_synthetic  # always generated
    seeds, examples, steps = (2, 4, 30) if smoke else (10, 16, 200)
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(seeds, examples, steps, _SIZE))
    reviews = synthetic.imdb(rng, 2 * examples * seeds, mean_length=steps, num_words=10_000)
    tokens = np.concatenate(list(reviews.train_inputs))[: seeds * examples * steps].reshape(seeds, examples * steps)
    embeddings = rng.uniform(-0.05, 0.05, (seeds, 10_000, _SIZE))
    words = np.take_along_axis(embeddings, tokens[..., None], axis=1).reshape(numbers.shape)
    arrays = ({"random numbers": numbers, _WORDS: words}, np.zeros(seeds))
    source = {"kind": "generated", "name": "random sequences", "files": []}
    return Data(jaxseq.Examples(arrays, np.arange(seeds), take_rows), None, None, source)


class _Sums(NamedTuple):
    """Document 001's example, section 2: four steps, y = softmax(V s), Eₜ the cross-entropy of step t, s₋₁ not zero.

    W is the recurrent matrix [H, H]. Arrays, with a leading axis [seeds].
    """

    paths: Any  # of ∂Eₜ/∂W through step k, [t, k, H, H]
    from_zero: Any  # of ∂E₃/∂W, where s₋₁ = 0: [k, H, H]
    equation: Any  # of ∂E₃/∂W, by the equation written out, [k, H, H]
    total: Any  # ∂E/∂W as autodiff takes it, E = Σₜ Eₜ
    third: Any  # ∂E₃/∂W as autodiff takes it


@functools.cache
def _sums(seeds: int) -> _Sums:
    rng, cell = np.random.default_rng(0), jaxseq.SimpleRNN(_SIZE)

    def matrices(*shape: int) -> np.ndarray:
        return rng.normal(0, _SIZE**-0.5, (seeds, *shape))

    params = SimpleRNNParams._make([matrices(_SIZE, _SIZE), matrices(_SIZE, _SIZE), matrices(_SIZE)])
    inputs, starts = rng.normal(size=(seeds, 4, _SIZE)), np.tanh(rng.normal(size=(seeds, _SIZE)))
    heads, targets = matrices(_SIZE, 5), rng.integers(0, 5, (seeds, 4))

    def of_seed(params: Any, inputs: Any, start: Any, head: Any, targets: Any) -> _Sums:
        def errors(outputs: jax.Array) -> jax.Array:
            return -jax.nn.log_softmax(outputs @ head)[jnp.arange(4), targets]

        def paths(step: jax.Array, start: jax.Array) -> jax.Array:
            return jaxseq.gradient_paths(
                cell, params, inputs, lambda _, outputs: errors(outputs)[step], state=SimpleRNNState(start)
            ).w_hidden

        def autodiff(weights: jax.Array) -> jax.Array:
            def weighted(params: Any) -> jax.Array:
                return weights @ errors(jaxseq.scan(cell, params, inputs, state=SimpleRNNState(start))[1])

            return jax.grad(weighted)(params).w_hidden

        of_each_error = jax.vmap(paths)(jnp.asarray([0, 1, 2, 3, 3]), jnp.stack([start] * 4 + [0 * start]))
        total, third = jax.vmap(autodiff)(jnp.asarray([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]))
        equation = _paths_of_the_equation(params, inputs, start, head, targets[3])
        return _Sums(of_each_error[:4], of_each_error[4], equation, total, third)

    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(of_seed))(params, inputs, starts, heads, targets)
        return jax.tree.map(np.asarray, found)


def _paths_of_the_equation(params: Any, inputs: Any, start: Any, head: Any, target: Any) -> Any:
    """∂E₃/∂y₃ · ∂y₃/∂s₃ · ∂s₃/∂sₖ · ∂sₖ/∂W for k = 0..3, no autodiff: sₖ = tanh(xₖ U + sₖ₋₁ W + b). [4, H, H]."""
    states = [start]
    for x in inputs:
        states.append(jnp.tanh(x @ params.w_input + states[-1] @ params.w_hidden + params.bias))
    by_state = head @ (jax.nn.softmax(states[-1] @ head) - jax.nn.one_hot(target, head.shape[1]))
    paths = []
    for before, after in zip(states[-2::-1], states[:0:-1], strict=True):
        by_sum = by_state * (1 - after**2)
        paths.append(jnp.outer(before, by_sum))
        by_state = params.w_hidden @ by_sum
    return jnp.stack(paths[::-1])


def _identities(data: Data) -> dict[str, Any]:
    """Document 001's two sums, over every seed: the largest difference, in units of the largest entry; float64."""
    sums = _sums(len(data.train.rows))

    def differences(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        pairs = zip(ours, theirs, strict=True)
        return summarize([float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs])

    return {
        "final": {
            "Σₜ ∂Eₜ/∂W − ∂E/∂W": differences(sums.paths.sum(axis=(1, 2)), sums.total),
            "Σₖ paths − ∂E₃/∂W": differences(sums.paths[:, 3].sum(axis=1), sums.third),
            "paths − equation": differences(sums.paths[:, 3], sums.equation),
        }
    }


def _paths_table(seeds: int) -> list[list[Any]]:
    """‖the path of ∂E₃/∂W through step k‖ for k = 0..3."""
    sums = _sums(seeds)
    columns = [np.linalg.norm(paths, axis=(-2, -1)) for paths in (sums.paths[:, 3], sums.from_zero)]
    rows = [[f"k = {k}", *(summarize(column[:, k].tolist()) for column in columns)] for k in range(4)]
    wholes = [np.linalg.norm(paths.sum(axis=1), axis=(-2, -1)) for paths in (sums.paths[:, 3], sums.from_zero)]
    return [["path", "s₋₁ drawn", "s₋₁ = 0"], *rows, ["their sum, ∂E₃/∂W", *(summarize(w.tolist()) for w in wholes)]]


def _outputs() -> dict[str, float]:
    """The output is the activation of the state, y = softmax(V s), not the state: document 001, end of section 1."""
    with jax.enable_x64(True):
        rng, cell = np.random.default_rng(0), jaxseq.SimpleRNN(_SIZE)
        params = cell.init(jax.random.key(0), _SIZE)
        head, inputs = rng.normal(0, _SIZE**-0.5, (_SIZE, _SIZE)), rng.normal(size=(10, _SIZE))
        model = jaxseq.SequenceTagger(cell, classes=_SIZE)
        weights = {"layer_0": {"cell": params}, "head": {"kernel": head, "bias": np.zeros(_SIZE)}}
        outputs = np.asarray(jax.nn.softmax(jax.jit(model.apply)({"params": weights}, inputs[None])[0]))
        of_layer = np.asarray(jax.jit(functools.partial(jaxseq.scan, cell))(params, inputs)[1])
    u, w, b = (np.asarray(leaf, np.float64) for leaf in params)
    states = [np.zeros(_SIZE)]
    for x in inputs:  # the states by NumPy
        states.append(np.tanh(x @ u + states[-1] @ w + b))
    states = np.stack(states[1:])
    exponentials = np.exp(states @ head)
    return {
        "network's output y − softmax(V s), largest difference": float(
            np.max(np.abs(outputs - exponentials / exponentials.sum(axis=-1, keepdims=True)))
        ),
        "network's output y − state s, smallest ‖·‖ of ten steps": float(
            np.linalg.norm(outputs - states, axis=-1).min()
        ),
        "recurrent layer's own output − state s, largest difference": float(np.max(np.abs(of_layer - states))),
    }


@dataclasses.dataclass(frozen=True)
class _Layers:
    """A deep tanh network, h' = tanh(h W), seen as a cell: the input of each "step" is that layer's W, flattened."""

    hidden_size: int

    def init(self, key: jax.Array, input_size: int) -> tuple[()]:
        """Nothing: the weights are the inputs."""
        del key, input_size
        return ()

    def initial_state(self, params: Any, batch_shape: tuple[int, ...]) -> jax.Array:
        """Zeros; what the network reads is given as the state."""
        return jnp.zeros((*batch_shape, self.hidden_size), float)

    def project(self, params: Any, inputs: jax.Array, masks: Any) -> jax.Array:
        """The weights [..., H, H]."""
        return inputs.reshape(*inputs.shape[:-1], self.hidden_size, self.hidden_size)

    def step(self, params: Any, state: jax.Array, drive: jax.Array, masks: Any) -> tuple[jax.Array, jax.Array]:
        """One layer."""
        state = jnp.tanh(state @ drive)
        return state, state


@functools.partial(jax.jit, static_argnames="cell")
def _norms(cell: jaxseq.Cell, params: Any, inputs: jax.Array, state: Any = None) -> jax.Array:
    """‖∂L/∂sₜ‖ [S, T, N] for the squared norm L of the last output, from S sets of parameters.

    inputs: [S, T, N, F], or [S, T, F] with a state of leaves [S, N, H] from which N sequences start.
    """
    if state is None:
        return jax.vmap(lambda params, inputs: jaxseq.gradient_flow(cell, params, inputs).total)(params, inputs)

    def of_one(inputs: jax.Array, state: Any) -> jax.Array:
        return jaxseq.gradient_flow(cell, params, inputs, state=state).total

    return jax.vmap(jax.vmap(of_one, (None, 0), 1))(inputs, state)


def _cells_back(cells: dict[str, tuple[Any, Any]], inputs: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """How much of a gradient is left k steps back, as parameters are drawn: {inputs: {name: `_logarithms`}}.

    Args:
      cells: name -> (the cell that draws the parameters, the cell that runs; equal ones are compiled once).
      inputs: kind -> [seeds, N, T, F].
    """
    seeds = len(next(iter(inputs.values())))
    both = np.concatenate([one.swapaxes(1, 2) for one in inputs.values()])
    lines: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in inputs}
    with jax.enable_x64(True):  # in float32 a gradient would be zero long before 200 steps
        for name, (draws, runs) in cells.items():
            drawn = jax.vmap(draws.init, (0, None))(_keys(seeds), _SIZE)
            params = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(inputs)), drawn)
            logarithms = np.split(_logarithms(_norms(runs, params, both)), len(inputs))
            for of_cells, one in zip(lines.values(), logarithms, strict=True):
                of_cells[name] = one
    return lines


def _layers_back(seeds: int, layers: int) -> dict[str, np.ndarray]:
    """The same for deep tanh networks, their layers with matrices of their own or all with one."""
    rng = np.random.default_rng(0)

    def glorot(count: int) -> np.ndarray:
        return rng.uniform(-1, 1, (seeds, count, _SIZE, _SIZE)) * np.sqrt(6 / (2 * _SIZE))

    def orthogonal(count: int) -> np.ndarray:
        return np.linalg.qr(rng.normal(size=(seeds, count, _SIZE, _SIZE)))[0]

    lines = {}
    with jax.enable_x64(True):
        for name, draw in (("Glorot", glorot), ("orthogonal", orthogonal)):
            for count, whose in ((layers, "a matrix for each layer"), (1, "one matrix for all")):
                weights = np.broadcast_to(draw(count), (seeds, layers, _SIZE, _SIZE)).reshape(seeds, layers, -1)
                starts = rng.normal(size=(seeds, 16, _SIZE))
                lines[f"{name}, {whose}"] = _logarithms(_norms(_Layers(_SIZE), (), weights, starts))
    return lines


def _keys(seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(np.arange(seeds))


def _logarithms(norms: Any) -> np.ndarray:
    """Norms [..., T, N] as log₁₀ relative to the last step, mean over N, the last step first: [..., T]."""
    logarithms = np.log10(np.maximum(np.asarray(norms), np.finfo(np.float64).tiny))
    return (logarithms - logarithms[..., -1:, :]).mean(axis=-1)[..., ::-1]


def _in_last_steps(logarithms: np.ndarray, steps: int = 10) -> dict[str, Any]:
    """The share of Σₜ ‖∂L/∂sₜ‖ that the last steps have, over the seeds."""
    norms = 10.0**logarithms
    return summarize((norms[:, :steps].sum(axis=1) / norms.sum(axis=1)).tolist())


def _by_steps(lines: dict[str, np.ndarray]) -> list[list[Any]]:
    """A table of logarithms [seeds, T]: a row for each line, a column for each of some numbers of steps back."""
    furthest = min(line.shape[1] for line in lines.values()) - 1
    back = [steps for steps in _BACK if steps < furthest] + [furthest]
    rows = [
        [name, *(summarize(line[:, k].tolist()) for k in back), _in_last_steps(line)] for name, line in lines.items()
    ]
    return [["", *(f"{k} back" for k in back), _IN_LAST], *rows]


def _flow(run: Run) -> dict[str, Any]:
    """Gradients through time as parameters are drawn: cells, recurrent matrices scaled up and down, deep networks."""
    inputs: dict[str, np.ndarray] = run.data.train.arrays[0]
    seeds, _, steps, _ = inputs[_WORDS].shape
    rnn, lstm, gru = (
        functools.partial(cell, _SIZE, param_dtype="float64") for cell in (jaxseq.SimpleRNN, jaxseq.LSTM, jaxseq.GRU)
    )
    cells = {
        "SimpleRNN": (rnn(), rnn()),
        "SimpleRNN, Glorot": (rnn(recurrent_initializer="glorot_uniform"), rnn()),
        "LSTM": (lstm(), lstm()),
        "LSTM, forget bias 0": (lstm(forget_bias=0.0), lstm()),
        "LSTM, forget bias 4": (lstm(forget_bias=4.0), lstm()),
        "GRU": (gru(), gru()),
    }
    scaled = {
        f"{gain} × orthogonal": (rnn(recurrent_initializer=jax.nn.initializers.orthogonal(scale=gain)), rnn())
        for gain in (0.5, 0.9, 1.0, 1.1, 1.5, 2.0)
    }
    panels = {f"cells on {kind}": lines for kind, lines in _cells_back(cells, inputs).items()}
    panels[f"tanh networks of {steps} layers"] = _layers_back(seeds, steps)
    panels |= {f"SimpleRNN on {kind}, recurrent matrix": lines for kind, lines in _cells_back(scaled, inputs).items()}
    plots.profiles(panels, run.directory / "gradient_norms.png", xlabel="steps (layers) before the last", ylabel=_LEFT)
    back, figures = min(100, steps - 1), {}
    for title, lines in panels.items():
        for name, logarithms in lines.items():
            if name in ("SimpleRNN", "LSTM", "GRU"):
                figures[f"{_IN_LAST}, {title}: {name}"] = _in_last_steps(logarithms)
            figures[f"{_LEFT}, {back} steps back, {title}: {name}"] = summarize(logarithms[:, back].tolist())
    tables = {"‖path of ∂E₃/∂W through step k‖": _paths_table(seeds)}
    tables |= {f"{_LEFT}, {title}": _by_steps(lines) for title, lines in panels.items()}
    return {"figures": figures | _outputs(), "tables": tables}


def _trained_flow(run: Run) -> dict[str, Any]:
    """What is left of the gradient k steps back on the adding problem, before and after training."""
    panels: dict[str, dict[str, np.ndarray]] = {}
    for one in run.trained:
        task, steps, cell = one.variant.label.split()
        if task == "adding":
            for when, logarithms in _before_and_after(one).items():
                panels.setdefault(f"adding {steps}, {when}", {})[cell] = logarithms
    plots.profiles(
        panels, run.directory / "gradient_norms.png", xlabel="steps before the last", ylabel=_LEFT, columns=2
    )
    figures = {
        f"{_LEFT}, at the first step, {title}: {cell}": summarize(logarithms[:, -1].tolist())
        for title, lines in panels.items()
        for cell, logarithms in lines.items()
    }
    return {"figures": figures, "tables": {f"{_LEFT}, {title}": _by_steps(lines) for title, lines in panels.items()}}


def _before_and_after(one: Trained) -> dict[str, np.ndarray]:
    """`_logarithms` [seeds, T] of the loss's gradient on test sequences: as drawn, and at the best epoch."""
    assert one.data.test is not None
    cell, (inputs, targets) = one.variant.model.cells, one.data.test.arrays
    inputs, targets = inputs[:64].astype(np.float64).swapaxes(0, 1), targets[:64].astype(np.float64)

    @jax.jit
    def norms(params: Any) -> jax.Array:
        def loss(_: Any, outputs: jax.Array) -> jax.Array:
            predictions = outputs[-1] @ params["head"]["kernel"] + params["head"]["bias"]
            return jnp.sum(jnp.square(predictions[:, 0] - targets))

        return jaxseq.gradient_flow(cell, params["layer_0"]["cell"], inputs, loss).total

    trained = jax.tree.map(np.asarray, one.fit.best_params)
    one_input = jax.ShapeDtypeStruct((1, *inputs.shape[::2]), np.float32)
    drawn = [
        initialize(one.variant.model, one_input, one.variant.optimizer, seed).params for seed in one.result["seeds"]
    ]
    with jax.enable_x64(True):
        return {
            "as drawn": np.stack([_logarithms(norms(params)) for params in drawn]),
            "trained": np.stack([_logarithms(norms(jaxseq.select(trained, seed))) for seed in range(len(drawn))]),
        }


EXPERIMENTS = [
    Experiment(
        name="gradient_flow",
        document=_DOCUMENT,
        title="backpropagation through time taken apart; gradients through 200 steps of SimpleRNN, LSTM and GRU",
        documented="∂E₃/∂W is a sum over k = 0..3; gradients vanish as the path gets longer (no figure)",
        measure=_identities,
        data=_sequences,
        study=_flow,
    ),
    Experiment(
        name="long_term_dependency",
        document=_DOCUMENT,
        title="adding problem and copy memory at growing delay: SimpleRNN, LSTM and GRU of 32 units",
        documented="the vanilla RNN loses early information; LSTM and GRU remedy it (no figure)",
        variants=_variants(),
        plot=_plot,
        study=_trained_flow,
    ),
]
