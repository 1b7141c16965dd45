"""One of the documents' experiments, trained by jaxseq, by Keras and by PyTorch from the same weights.

Three classes with one face: `parameters`, how many are trained; `losses(batches)`, after so many unshuffled ones; and,
of the peers, `cannot(experiment)`, `note` and `epoch()`.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxseq
from benchmarks import measuring, peers
from experiments import catalogue
from jaxseq import conversions
from jaxseq.epochs import initialize, steps_per_epoch


class Code(NamedTuple):
    """What the documents' code says and our experiments do not, in Keras' names."""

    optimizer: str
    loss: str
    activation: str | None  # of the last layer
    metrics: tuple[str, ...]


_SENTIMENT = Code("rmsprop", "binary_crossentropy", "sigmoid", ("acc",))
_FORECAST = Code("rmsprop", "mae", None, ())
CODES = {
    "imdb_lstm": _SENTIMENT,
    "imdb_simple_rnn": _SENTIMENT,
    "reuters_lstm": Code("adam", "categorical_crossentropy", "softmax", ("accuracy",)),
    "jena_gru": _FORECAST,
    "jena_gru_dropout": _FORECAST,
    "jena_stacked_gru": _FORECAST,
}


class Experiment:
    """One of CODES: its data read, its first weights drawn."""

    def __init__(self, name: str, synthetic: bool, smoke: bool) -> None:
        """Reads the data as `python -m experiments run` does; raises DataNotFound where there are none."""
        self.name, self.code = name, CODES[name]
        self.variant = catalogue.find_one(name).variants[0]
        self.data = self.variant.load(synthetic, smoke)
        assert self.data.validation is not None  # all of CODES have one
        self.train, self.validation = self.data.train, self.data.validation
        self.batch_size, self.model = self.variant.batch_size, self.variant.model
        state = initialize(self.model, self.train.one_input, self.variant.optimizer, 0)
        self.params = jax.tree.map(np.asarray, state.params)
        windows = (self.data.encoding or {}).get("windows")
        self.windows = jaxseq.Windows(**windows) if windows else None

    @property
    def cells(self) -> tuple[Any, ...]:
        """The model's cells, the lowest first."""
        return self.model.cells if isinstance(self.model.cells, tuple) else (self.model.cells,)

    @property
    def outputs(self) -> int:
        """The width of the last layer."""
        return len(self.params["head"]["bias"])

    @property
    def drops_out(self) -> bool:
        """Whether its training draws dropout masks."""
        return bool(self.model.dropout or self.model.recurrent_dropout)

    @property
    def one_hot(self) -> bool:
        """Whether Keras' loss takes classes as rows of zeros with a one."""
        return self.code.loss == "categorical_crossentropy"

    def first(self, part: jaxseq.Examples, batches: int) -> jaxseq.Examples:
        """The first batches of a part, always in order."""
        return part._replace(rows=part.rows[: batches * self.batch_size], draws=None, shuffled=False)


class Fit:
    """`jaxseq.fit`, called as experiments/ calls it."""

    def __init__(self, experiment: Experiment, devices: int) -> None:
        """On the first so many devices."""
        self.experiment, self.devices = experiment, jax.devices()[:devices]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.params))

    def fit(
        self, train: jaxseq.Examples, validation: jaxseq.Examples | None, *, epochs: int, seeds: int = 1
    ) -> tuple[list[float], jaxseq.Fit]:
        """Trains from the experiment's weights: (seconds of each epoch, compiling in the first; what came out)."""
        variant = self.experiment.variant
        with _Epochs() as clock:
            result = jaxseq.fit(
                variant.task,
                train,
                validation,
                optimizer=variant.optimizer,
                epochs=epochs,
                batch_size=variant.batch_size,
                seeds=seeds,
                pretrained=lambda _: self.experiment.params,
                devices=self.devices,
                progress=False,
            )
        return clock.seconds(epochs), result

    def losses(self, batches: int) -> dict[str, float]:
        """Mean training loss over the first batches, and the validation's after them."""
        experiment = self.experiment
        train, validation = (experiment.first(part, batches) for part in (experiment.train, experiment.validation))
        _, result = self.fit(train, validation, epochs=1)
        return {name: result.history[0][name][0] for name in ("loss", "val_loss")}


class _Epochs(logging.Handler):
    """Notes when epochs end: `fit` logs a line then, whatever the number of seeds, its figures on the host already."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._logger = logging.getLogger("jaxseq")
        self._times: list[float] = []

    def __enter__(self) -> "_Epochs":
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)
        self._times.append(time.perf_counter())
        return self

    def __exit__(self, *_: Any) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Notes the time of a line that tells of an epoch's end."""
        if record.getMessage().partition(": ")[2].startswith(f"epoch {len(self._times)} of "):
            self._times.append(time.perf_counter())

    def seconds(self, epochs: int) -> list[float]:
        """What each of so many epochs took; of the first, from the beginning."""
        assert len(self._times) == epochs + 1, f"a line for each of {epochs} epochs, got {len(self._times) - 1}"
        return np.diff(self._times).tolist()


class Keras:
    """The documents' code: `model.fit`; for Jena fed by their generator."""

    note = ""

    def __init__(self, experiment: Experiment) -> None:
        """Builds and compiles the model."""
        self.experiment, self.keras = experiment, peers.keras.PEER.load()
        self.model = self._model()
        self.parameters = self.model.count_params()
        if experiment.windows is None:
            self.arguments = self._arrays(experiment.train, experiment.validation, shuffle=True)
        else:
            self.arguments = self._generators(experiment.windows)

    @staticmethod
    def cannot(experiment: Experiment) -> str:
        """Why it cannot run an experiment; empty where it can."""
        del experiment
        return ""

    def epoch(self) -> tuple[float, float]:
        """Trains and validates once: (seconds from the epoch's begin to its end, the training loss)."""
        times: list[float] = []
        clock = self.keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda *_: times.append(time.perf_counter()),
            on_epoch_end=lambda *_: times.append(time.perf_counter()),
        )
        history = self.model.fit(**self.arguments, epochs=1, verbose=0, callbacks=[clock]).history
        return times[1] - times[0], history["loss"][0]

    def losses(self, batches: int) -> dict[str, float]:
        """As `Fit.losses`."""
        experiment = self.experiment
        train, validation = (experiment.first(part, batches) for part in (experiment.train, experiment.validation))
        history = self._model().fit(**self._arrays(train, validation, shuffle=False), epochs=1, verbose=0).history
        return {name: history[name][0] for name in ("loss", "val_loss")}

    def _model(self) -> Any:
        experiment, layers = self.experiment, self.keras.layers
        ours, code, params = experiment.model, experiment.code, experiment.params
        model = self.keras.Sequential()
        weights = []
        if ours.vocabulary_size is not None:
            model.add(layers.Embedding(ours.vocabulary_size, ours.embedding_size))
            weights.append(params["embedding"]["embedding"])
        last = len(experiment.cells) - 1
        for index, cell in enumerate(experiment.cells):
            settings = {
                "activation": cell.activation,
                "dropout": ours.dropout,
                "recurrent_dropout": ours.recurrent_dropout,
                "return_sequences": index < last,
            }
            model.add(peers.keras.make_layer(_cell_name(cell), cell.hidden_size, **settings))
            weights += conversions.to_keras(cell, params[f"layer_{index}"]["cell"])
        model.add(layers.Dense(experiment.outputs, activation=code.activation))
        model.compile(optimizer=code.optimizer, loss=code.loss, metrics=list(code.metrics))
        model.build((None, *experiment.train.one_input.shape[1:]))
        model.set_weights([*weights, params["head"]["kernel"], params["head"]["bias"]])
        return model

    def _arrays(self, train: jaxseq.Examples, validation: jaxseq.Examples, *, shuffle: bool) -> dict[str, Any]:
        """What `model.fit` gets where the examples lie in arrays."""
        (inputs, targets), held_out = (self._gather(part) for part in (train, validation))
        batch_size = self.experiment.batch_size
        settings = {"batch_size": batch_size, "validation_batch_size": batch_size, "shuffle": shuffle}
        return {"x": inputs, "y": targets, "validation_data": held_out, **settings}

    def _gather(self, part: jaxseq.Examples) -> tuple[np.ndarray, np.ndarray]:
        rows: Any = part.rows
        inputs, targets = (np.asarray(array) for array in part.take(part.arrays, rows))
        if self.experiment.one_hot:
            targets = self.keras.utils.to_categorical(targets, self.experiment.outputs)
        return inputs, targets

    def _generators(self, windows: jaxseq.Windows) -> dict[str, Any]:
        """What `model.fit` gets where the documents' generator cuts windows."""
        experiment = self.experiment

        def generate(part: jaxseq.Examples, max_index: int, *, shuffle: bool) -> Iterator[Any]:
            min_index = int(part.rows[0]) - windows.lookback
            sizes = {"batch_size": experiment.batch_size, "step": windows.step}
            return generator(part.arrays, windows.lookback, windows.delay, min_index, max_index, shuffle, **sizes)

        train, validation = experiment.train, experiment.validation
        return {
            "x": generate(train, int(train.rows[-1]) + 1, shuffle=True),
            "steps_per_epoch": steps_per_epoch(train, experiment.batch_size),
            # It leaves out a last batch that ends at max_index, which these rows do not have.
            "validation_data": generate(validation, int(validation.rows[-1]) + 2, shuffle=False),
            "validation_steps": steps_per_epoch(validation, experiment.batch_size),
            "shuffle": False,
        }


def generator(data, lookback, delay, min_index, max_index, shuffle=False, batch_size=128, step=6):
    """Code 6-33, word for word, but for the column of the target being 1 there as here."""
    if max_index is None:
        max_index = len(data) - delay - 1
    i = min_index + lookback
    while 1:
        if shuffle:
            rows = np.random.randint(min_index + lookback, max_index, size=batch_size)
        else:
            if i + batch_size >= max_index:
                i = min_index + lookback
            rows = np.arange(i, min(i + batch_size, max_index))
            i += len(rows)

        samples = np.zeros((len(rows), lookback // step, data.shape[-1]))
        targets = np.zeros((len(rows),))
        for j, _ in enumerate(rows):
            indices = range(rows[j] - lookback, rows[j], step)
            samples[j] = data[indices]
            targets[j] = data[rows[j] + delay][1]
        yield samples, targets


class PyTorch:
    """A plain loop over batches of tensors that lie in memory; time-major, without metrics."""

    def __init__(self, experiment: Experiment) -> None:
        """Builds the model and puts the data on the device."""
        self.experiment, self.torch = experiment, peers.pytorch.PEER.load()
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        resets = any(isinstance(cell, jaxseq.GRU) for cell in experiment.cells)
        self.note = "its GRU resets after the product: another equation of the same size" if resets else ""
        parts = (experiment.train, experiment.validation)
        self.train, self.validation = (self._batches(part, experiment.windows) for part in parts)
        self.random = np.random.default_rng(0)
        self._restart()
        self.parameters = sum(leaf.numel() for leaf in self.leaves)

    @staticmethod
    def cannot(experiment: Experiment) -> str:
        """Why it cannot run an experiment; empty where it can."""
        if experiment.drops_out:
            return peers.pytorch.PEER.cannot["dropout"]
        others = [cell.activation for cell in experiment.cells if cell.activation != "tanh"]
        return f"its layers have no {others[0]}" if others else ""

    def epoch(self) -> tuple[float, float]:
        """Trains and validates once: (seconds, the training loss)."""
        start, train = time.perf_counter(), self.experiment.train
        if train.draws is None:
            rows = self.random.permutation(train.rows)
        else:
            rows = self.random.choice(train.rows, train.draws)
        loss = self._pass(self.train, rows, training=True)
        self._pass(self.validation, self.experiment.validation.rows, training=False)
        return time.perf_counter() - start, loss

    def losses(self, batches: int) -> dict[str, float]:
        """As `Fit.losses`."""
        experiment = self.experiment
        train, validation = (experiment.first(part, batches) for part in (experiment.train, experiment.validation))
        self._restart()
        loss = self._pass(self.train, train.rows, training=True)
        found = {"loss": loss, "val_loss": self._pass(self.validation, validation.rows, training=False)}
        self._restart()
        return found

    def _restart(self) -> None:
        """Layers with the experiment's weights, and a new optimizer."""
        torch, experiment = self.torch, self.experiment
        nn, params, ours = torch.nn, experiment.params, experiment.model
        self.embedding = nn.Identity()
        if ours.vocabulary_size is not None:
            self.embedding = nn.Embedding(ours.vocabulary_size, ours.embedding_size)
            _fill(self.embedding, {"weight": params["embedding"]["embedding"]}, self._tensor)
        self.layers = [self._layer(cell, params[f"layer_{i}"]["cell"]) for i, cell in enumerate(experiment.cells)]
        self.head = nn.Linear(*params["head"]["kernel"].shape)
        _fill(self.head, {"weight": params["head"]["kernel"].T, "bias": params["head"]["bias"]}, self._tensor)
        modules = nn.ModuleList([self.embedding, *self.layers, self.head]).to(self.device)
        self.leaves = [leaf for leaf in modules.parameters() if leaf.requires_grad]
        self.loss = {"mae": nn.L1Loss, "binary_crossentropy": nn.BCEWithLogitsLoss}.get(
            experiment.code.loss, nn.CrossEntropyLoss
        )()
        self.optimizer = {
            "adam": lambda: torch.optim.Adam(self.leaves, lr=1e-3, eps=1e-7),
            "rmsprop": lambda: torch.optim.RMSprop(self.leaves, lr=1e-3, alpha=0.9, eps=1e-7),
        }[experiment.code.optimizer]()

    def _layer(self, cell: Any, params: Any) -> Any:
        """A recurrent layer with one trained bias, as the others have."""
        if isinstance(cell, jaxseq.GRU):
            cell = jaxseq.GRUResetAfter(cell.hidden_size)
            params = conversions.PARAMS[jaxseq.GRUResetAfter](*params, np.zeros_like(params.bias))
        layer = peers.pytorch.make_layer(_cell_name(cell), len(params.w_input), cell.hidden_size)
        _fill(layer, conversions.to_torch(cell, params), self._tensor)
        layer.bias_hh_l0.requires_grad_(False)
        return layer

    def _tensor(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.array(array)).to(self.device)

    def _batches(self, part: jaxseq.Examples, windows: jaxseq.Windows | None) -> Callable[[Any], tuple[Any, Any]]:
        """A function of rows [B] to inputs [T, B] or [T, B, F], and targets [B]."""
        if windows is None:
            inputs, targets = (self._tensor(array) for array in part.arrays)
            targets = targets.to(self.torch.int64 if self.experiment.one_hot else self.torch.float32)
            return lambda rows: (inputs[rows].T, targets[rows])
        series = self._tensor(part.arrays)
        offsets = self.torch.arange(-windows.lookback, 0, windows.step, device=self.device)[:, None]
        return lambda rows: (series[offsets + rows], series[rows + windows.delay, windows.target])

    def _pass(self, batches: Callable[[Any], tuple[Any, Any]], rows: np.ndarray, *, training: bool) -> float:
        """The mean loss over the rows, batch by batch."""
        total = 0.0
        for batch in self._tensor(rows.astype(np.int64)).split(self.experiment.batch_size):
            inputs, targets = batches(batch)
            with self.torch.set_grad_enabled(training):
                predictions = self._network(inputs)
                loss = self.loss(predictions if self.experiment.one_hot else predictions[:, 0], targets)
            if training:
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            total += loss.item() * len(batch)
        return total / len(rows)

    def _network(self, inputs: Any) -> Any:
        """Inputs [T, B] or [T, B, F] to predictions [B, outputs]."""
        outputs, state = self.embedding(inputs), None
        for layer in self.layers:
            outputs, state = layer(outputs)
        hidden: Any = state[0] if isinstance(state, tuple) else state
        return self.head(hidden[-1])


def _fill(module: Any, arrays: dict[str, np.ndarray], tensor: Callable[[np.ndarray], Any]) -> None:
    module.load_state_dict({name: tensor(array) for name, array in arrays.items()})


def _cell_name(cell: Any) -> str:
    return next(name for name, kind in measuring.CELLS.items() if type(cell) is kind)


PEERS: dict[str, Any] = {"keras": Keras, "pytorch": PyTorch}
