"""Every public function and command-line option with what it cannot take: one line that names the argument, always."""

import functools
import re
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import benchmarks.__main__
import experiments.__main__
import jaxseq
from jaxseq import arguments, attention, checkpoints, conversions, losses, text
from jaxseq.vocabulary import Vocabulary
from jaxseq.word_vectors import WordVectors, embedding_matrix, nearest, read_word_vectors
from tests.examples import MinimalGatedUnit, random_params

pytestmark = pytest.mark.usefixtures("compiled_quickly")
T, B, F, H = 4, 2, 2, 3
NAN, INF, HUGE = float("nan"), float("inf"), 10**40  # no int32, nor a C long
NO_SIZES = [0, -1, 1.5, "2", None, NAN, True, HUGE, -(10**5000), [3], jnp.ones(2)]  # for an integer of at least 1
NO_COUNTS = [-1, 1.5, "2", None, NAN, False, HUGE]  # for one of at least 0
NO_RATES = [-0.1, 1, 2, NAN, INF, "x", None, True, [0.5], 1j]
NO_FLAGS = ["yes", None, 2, NAN, 1]
NO_KEYS = [None, 1, "k", 1.5, np.ones(2), np.zeros((2, 2), np.uint32)]
NO_CELLS = [None, "lstm", 3, jaxseq.LSTM]
NO_FLOAT_DTYPES = [int, "abc", bool, None]

KEY = jax.random.key(0)
CELL, GRU = jaxseq.LSTM(H), jaxseq.GRU(H)
PARAMS = jax.tree.map(np.asarray, random_params(CELL, F, dtype="float32"))
X = np.ones((T, B, F), np.float32)
BATCH = np.ones((6, T, F), np.float32)
TOKENS = np.ones((2, 4), np.int32)
MODEL = jaxseq.SequenceRegressor(jaxseq.GRU(2))
MODEL_PARAMS = jax.tree.map(
    lambda leaf: np.zeros(leaf.shape, np.float32), jax.eval_shape(MODEL.init, KEY, BATCH[:1])["params"]
)
TASK = jaxseq.Task(MODEL, losses.absolute_error)
DATA = jaxseq.examples(BATCH, BATCH[:, 0, :1])
WINDOWS = jaxseq.Windows(lookback=4, delay=1)
SERIES = np.linspace(0, 1, 40).reshape(20, 2)
SCALER = jaxseq.Scaler.fit(SERIES)
TOKENIZER = text.Tokenizer.fit(["a b", "b c"])
VOCABULARY = Vocabulary.from_word_index({"the": 1, "film": 2})
VECTORS = WordVectors(("a", "b"), np.eye(2))
TRANSLATOR = jaxseq.EncoderDecoder(GRU, 5, 6, 2)
KERAS = conversions.to_keras(CELL, PARAMS)
ADDITIVE = attention.AdditiveParams(np.ones((3, 4)), np.ones((2, 4)), np.ones(4))


class Function(NamedTuple):
    """A function, the arguments of a call that it takes, and for each some values in place of that."""

    call: Any
    good: dict[str, Any]
    bad: dict[str, list[Any]]
    named: dict[str, str] = {}  # what the message calls an argument, a regular expression, where it is not its name


def module(kind, *inputs, **settings):
    """Makes a Flax module and draws its parameters, abstractly: what is wrong must be seen while tracing."""
    return jax.eval_shape(lambda: kind(**settings).init(KEY, *inputs))


MASKS = {
    "mask": ["m", 1, np.ones((T, B)), np.ones(T, bool), np.ones((B, T), bool), [True], np.ones((T, B, 1), bool)],
    "dropout_masks": [1, "d", (None, None), jaxseq.DropoutMasks(np.ones((4, B, 3)), None)],
}
ENGINE = {
    "unroll": NO_SIZES,
    "remat": NO_FLAGS,
    "implementation": ["fast", 3, True, "SCAN", ["scan"]],
}
BAD_PARAMS = [
    None,
    (),
    "x",
    [1],
    PARAMS[:2],
    {"w": PARAMS.w_input},
    PARAMS._replace(bias=PARAMS.bias[:1]),
    PARAMS._replace(bias=np.float32(0)),
    PARAMS._replace(w_hidden=PARAMS.w_hidden.T),
    random_params(jaxseq.LSTM(H + 1), F, dtype="float32"),
]
BAD_INPUTS = [None, "abc", 1.0, [], np.ones(3), X.astype(int), X.astype(complex), X[..., :1], np.array([["a"]])]
BAD_STATES = [1.0, "s", (PARAMS,), np.zeros((2, 3)), jaxseq.cells.LSTMState(np.zeros((3, 3)), np.zeros((3, 3)))]
INTEGER_STATE = jaxseq.cells.LSTMState(np.zeros((B, H), int), np.zeros((B, H), int))

FUNCTIONS = {
    # The engine
    "scan": Function(
        jaxseq.scan,
        dict(cell=CELL, params=PARAMS, inputs=X),
        dict(
            cell=NO_CELLS,
            params=BAD_PARAMS,
            inputs=BAD_INPUTS,
            state=[*BAD_STATES, INTEGER_STATE],
            resets=["m", 1, np.ones((T, B)), np.ones((B, T), bool)],
            reverse=NO_FLAGS,
            **MASKS,
            **ENGINE,
        ),
    ),
    "scan of another input size": Function(
        jaxseq.scan,
        dict(cell=CELL, params=PARAMS, inputs=X),
        dict(params=[PARAMS._replace(w_input=PARAMS.w_input[:1])]),
        {"params": "inputs must have 1 features .* or params be drawn for 2"},
    ),
    "step": Function(
        jaxseq.step,
        dict(cell=CELL, params=PARAMS, state=None, inputs=X[0]),
        dict(
            cell=NO_CELLS,
            params=BAD_PARAMS,
            inputs=[None, 1.0, "a", X[0].astype(int), X[0, :, :1]],
            state=[1, (1, 2), *BAD_STATES],
            mask=[1, np.ones(2), np.ones(3, bool)],
            reset=["r", np.ones(1, bool)],
        ),
    ),
    "bidirectional": Function(
        jaxseq.bidirectional,
        dict(cells=CELL, params=(PARAMS, PARAMS), inputs=X),
        dict(
            cells=[None, (CELL,), (CELL,) * 3, [CELL, CELL], (CELL, None), "lstm"],
            params=[None, PARAMS, [PARAMS, PARAMS], (PARAMS,), (PARAMS, None)],
            inputs=BAD_INPUTS,
            state=[1, (None,), "ab"],
            merge=["add", 1, "Sum", ["sum"]],
            dropout_masks=[1, (1,)],
            **ENGINE,
        ),
    ),
    "merge_outputs": Function(
        jaxseq.merge_outputs,
        dict(forward=X, backward=X, merge="sum"),
        dict(forward=[None, "a", 3], backward=[None, X[:1], X[..., :1]], merge=["x", 3]),
    ),
    "stack": Function(
        jaxseq.stack,
        dict(cells=[CELL], params=[PARAMS], inputs=X),
        dict(
            cells=[[], None, CELL, [None]],
            params=[[], None, PARAMS, [PARAMS] * 2, 3],
            inputs=BAD_INPUTS,
            state=[[], [None] * 2, 3, "a"],
            dropout_masks=[[None] * 2, 3],
            reverse=NO_FLAGS,
            **ENGINE,
        ),
        {"cells": "cells? must"},
    ),
    "state_output": Function(
        jaxseq.state_output,
        dict(cell=GRU, params=PARAMS, state=jnp.zeros(3)),
        dict(cell=NO_CELLS, state=["a", None, (1, 2)]),
        {"state": "GRU must have .* got a state of type"},
    ),
    "explain": Function(
        jaxseq.explain,
        dict(cell=CELL, inputs_shape=(T, B, F)),
        dict(
            cell=NO_CELLS,
            inputs_shape=[(), (3,), 3, "ab", None, (4, -1, 2), (4.5, 2), (NAN, 2), (HUGE, 2), (True, 2)],
            dropout=NO_FLAGS,
            recurrent_dropout=NO_FLAGS,
            gradient=NO_FLAGS,
            table_size=[0, -1, 1.5, "x", True, HUGE],
            implementation=["x", 3, "tabulated"],
        ),
    ),
    "Lookup": Function(
        lambda table, indices: jaxseq.scan(CELL, PARAMS, jaxseq.Lookup(table, indices)),
        dict(table=X[0], indices=np.zeros((T, B), int)),
        dict(
            table=[
                None,
                "abc",
                1.0,
                [],
                np.ones(3),
                X[0][:0],
                X,
                X[0].astype(int),
                X[0].astype(complex),
                X[0][..., :1],
            ],
            indices=[None, "abc", np.zeros((T, B)), np.zeros((T, B), bool), 1, [[1], [1, 2]]],
        ),
        {"table": "inputs", "indices": "inputs"},
    ),
    "gradient_flow": Function(
        jaxseq.gradient_flow,
        dict(cell=CELL, params=PARAMS, inputs=X),
        dict(
            cell=NO_CELLS,
            params=BAD_PARAMS[:6],
            inputs=BAD_INPUTS,
            loss=[3, "x", lambda s, o: o, lambda s, o: "a", lambda s, o: 1],
            reverse=NO_FLAGS,
        ),
        {"loss": "(what )?loss"},
    ),
    "gradient_paths": Function(
        jaxseq.gradient_paths,
        dict(cell=CELL, params=PARAMS, inputs=X),
        dict(
            cell=NO_CELLS,
            params=BAD_PARAMS[:6],
            inputs=[*BAD_INPUTS, X[:0]],
            loss=[3, lambda s, o: o, lambda s, o: None],
            reverse=NO_FLAGS,
        ),
        {"loss": "(what )?loss"},
    ),
    # Masks
    "length_mask": Function(
        jaxseq.length_mask,
        dict(lengths=[1, 2], steps=3),
        dict(lengths=[[-1], [4], [1.5], "a", None, [NAN], [True], [HUGE], {}], steps=NO_COUNTS),
    ),
    "packing_resets": Function(
        jaxseq.packing_resets,
        dict(lengths=[1, 2], steps=3),
        dict(lengths=[[0], [4], [1.5], 3, "a", None, [-1], [NAN]], steps=NO_COUNTS),
    ),
    "dropout_masks": Function(
        jaxseq.dropout_masks,
        dict(key=KEY, cell=CELL, input_size=F, batch_shape=(B,), dropout=0.5),
        dict(
            key=NO_KEYS,
            cell=NO_CELLS,
            input_size=NO_SIZES,
            batch_shape=[3, (-1,), ("a",), None, (1.5,)],
            dropout=NO_RATES,
            recurrent_dropout=NO_RATES,
            dtype=NO_FLOAT_DTYPES,
        ),
    ),
    # Cells
    "LSTM": Function(
        jaxseq.LSTM,
        dict(hidden_size=H),
        dict(
            hidden_size=NO_SIZES,
            activation=["tan", None, 3, ["tanh"]],
            gate_activation=["x", 0],
            forget_bias=["a", None, NAN, INF],
            input_initializer=["x", 3],
            recurrent_initializer=["x", None],
            bias_initializer=["x", {}],
            dtype=["int32", int, "x"],
            param_dtype=["int8", None],
        ),
    ),
    **{
        kind.__name__: Function(kind, dict(hidden_size=H), dict(hidden_size=[0, "a", None], activation=["x"]))
        for kind in (jaxseq.SimpleRNN, jaxseq.GRU, jaxseq.GRUResetAfter)
    },
    **{
        f"{type(cell).__name__}.init": Function(
            cell.init, dict(key=KEY, input_size=F), dict(key=NO_KEYS, input_size=NO_SIZES)
        )
        for cell in (CELL, GRU, jaxseq.SimpleRNN(H), jaxseq.GRUResetAfter(H), jaxseq.LearnedState(GRU))
    },
    "LearnedState": Function(jaxseq.LearnedState, dict(cell=CELL), dict(cell=NO_CELLS)),
    "cell_to_json": Function(
        jaxseq.cell_to_json,
        dict(cell=CELL),
        dict(cell=[3, None, jaxseq.LSTM, jaxseq.LSTM(3, activation=jnp.sin)]),
        {"cell": "cell|activation must be given by name"},
    ),
    "cell_from_json": Function(
        jaxseq.cell_from_json,
        dict(text=jaxseq.cell_to_json(CELL)),
        dict(text=["", "[]", "nan", None, 3, "{", "{}", '{"type": "X"}', '{"type": "LSTM", "hidden_size": 0}']),
        {"text": "text|type|hidden_size"},
    ),
    "gate_product": Function(
        jaxseq.gate_product,
        dict(values=X, weights=np.ones((2, 6), np.float32), mask=None),
        dict(
            values=[np.ones((2, 3)), None, np.float32(1)],
            weights=[np.ones(2), None, np.ones((2, 2, 2)), np.ones((3, 6))],
            mask=[np.ones((4, 2, 2)), np.ones((2, 2, 5)), 3.0, np.float32(1)],
        ),
        {"values": "inputs", "weights": "weights|inputs must have 3 features"},
    ),
    # Attention
    "attend": Function(
        attention.attend,
        dict(score=attention.dot_scores, queries=np.ones((3, 2)), keys=np.ones((4, 2))),
        dict(
            score=[None, "dot"],
            queries=[None, np.ones(2), np.ones((2, 3, 2)), np.ones((3, 5))],
            keys=[None, "a", np.ones(2), np.ones((4, 3))],
            values=[1, np.ones((5, 2)), np.ones(4)],
            mask=[1, np.ones(4), np.ones(3, bool), np.ones((4, 2), bool)],
        ),
        {"keys": "keys|queries must be as wide as keys"},
    ),
    "general_scores": Function(
        attention.general_scores,
        dict(weights=np.ones((3, 2)), queries=np.ones((3, 3)), keys=np.ones((4, 2))),
        dict(weights=[None, np.ones((2, 3)), np.ones(3), 3], queries=[None, 1.0], keys=[None, np.ones(2)]),
    ),
    "additive_scores": Function(
        attention.additive_scores,
        dict(params=ADDITIVE, queries=np.ones((3, 3)), keys=np.ones((4, 2))),
        dict(
            params=[None, (1, 2, 3), ADDITIVE._replace(w_query=np.ones((2, 4))), ADDITIVE._replace(w_key=1)],
            queries=[None, 1.0],
            keys=[None, np.ones(2)],
        ),
    ),
    "init_general": Function(
        attention.init_general,
        dict(key=KEY, query_size=2, key_size=3),
        dict(key=NO_KEYS, query_size=NO_SIZES, key_size=[0, "a"]),
    ),
    "init_additive": Function(
        attention.init_additive, dict(key=KEY, query_size=2, key_size=3, size=4), dict(key=[None], size=NO_SIZES)
    ),
    "masked_softmax": Function(
        attention.masked_softmax,
        dict(scores=np.ones((2, 3))),
        dict(
            scores=[None, "a", np.float32(1)],
            mask=[1, np.ones((2, 3)), np.ones((2, 4), bool), np.ones((2, 2, 3), bool)],
        ),
    ),
    # Models
    "Recurrent": Function(
        functools.partial(module, jaxseq.Recurrent, BATCH),
        dict(cell=CELL),
        dict(
            cell=NO_CELLS,
            dropout=NO_RATES,
            recurrent_dropout=NO_RATES,
            reverse=NO_FLAGS,
            time_major=NO_FLAGS,
            unroll=[0, "a", 1.5],
            remat=[1],
            implementation=["x"],
        ),
    ),
    "Recurrent.__call__": Function(
        lambda **given: jax.eval_shape(lambda: jaxseq.Recurrent(CELL).init(KEY, **given)),
        dict(inputs=BATCH),
        dict(
            inputs=[None, "a", np.ones(3), BATCH.astype(int), BATCH[..., None]],
            mask=[1, "m", np.ones((6, T)), np.ones((T, 6), bool), np.ones(6, bool)],
            resets=[1, np.ones((6, T))],
            state=[1, np.zeros((6, 3))],
            train=NO_FLAGS,
        ),
    ),
    "Bidirectional": Function(
        functools.partial(module, jaxseq.Bidirectional, BATCH),
        dict(cell=CELL),
        dict(cell=NO_CELLS, backward_cell=["a", 3, 0], merge=["x", 3], dropout=[1, NAN], time_major=[2], remat=["a"]),
    ),
    "Bidirectional.__call__": Function(
        lambda **given: jax.eval_shape(lambda: jaxseq.Bidirectional(CELL).init(KEY, BATCH, **given)),
        dict(),
        dict(state=[1, (None,), "ab"], mask=["m", np.ones((6, T))], train=["a"]),
    ),
    **{
        kind.__name__: Function(
            functools.partial(module, kind, TOKENS),
            dict(cells=CELL, vocabulary_size=5, embedding_size=2),
            dict(
                cells=[None, [], 3, [None]],
                vocabulary_size=[0, -1, 1.5, "a", True, 1],
                embedding_size=[0, -1, 1.5, None, "a"],
                padding_index=[-1, 5, 1.5, "a"],
                bidirectional=NO_FLAGS,
                dropout=[*(rate for rate in NO_RATES if rate != [0.5]), (0.1, 0.2), [1.5]],  # [0.5]: of one layer
                recurrent_dropout=[NAN, "a", (0.1, 0.2)],
                **more,
            ),
            {"vocabulary_size": "vocabulary_size|inputs must be token indices from 0 to 0, got 1"},
        )
        for kind, more in [
            (jaxseq.SequenceEncoder, {}),
            (jaxseq.SequenceClassifier, {"classes": NO_SIZES}),
            (jaxseq.SequenceTagger, {"classes": [0, -1, 1.5]}),
            (jaxseq.SequenceRegressor, {"outputs": NO_SIZES}),
        ]
    },
    "SequenceClassifier.__call__": Function(
        lambda **given: jax.eval_shape(
            lambda: jaxseq.SequenceClassifier(CELL, vocabulary_size=5, embedding_size=2).init(KEY, **given)
        ),
        dict(inputs=TOKENS),
        dict(
            inputs=[None, "a", TOKENS[0], TOKENS.astype(float), TOKENS + 4, TOKENS - 2],
            mask=[1, np.ones((2, 4)), np.ones((4, 2), bool)],
            train=NO_FLAGS,
        ),
    ),
    "EncoderDecoder": Function(
        functools.partial(module, jaxseq.EncoderDecoder, TOKENS, TOKENS),
        dict(cells=GRU, source_vocabulary_size=5, target_vocabulary_size=6, embedding_size=2),
        dict(
            cells=[None, [], 3],
            source_vocabulary_size=[0, "a", 1.5],
            target_vocabulary_size=NO_SIZES,
            embedding_size=[0, None, 1.5],
            padding_index=[-1, "a"],
            attention=["luong", 3, True],
        ),
    ),
    "Attention": Function(
        functools.partial(module, jaxseq.Attention, np.ones((2, 3, 4)), np.ones((2, 5, 4))),
        dict(score="additive"),
        dict(score=["cosine", None, 3], size=[0, -1, 1.5, "a"]),
    ),
    "AttentionPooling": Function(
        functools.partial(module, jaxseq.AttentionPooling, BATCH), dict(), dict(size=[0, -1, 1.5, "a"])
    ),
    "greedy_decode": Function(
        jaxseq.greedy_decode,
        dict(
            model=TRANSLATOR,
            variables=jax.tree.map(
                lambda leaf: np.zeros(leaf.shape, np.float32), jax.eval_shape(TRANSLATOR.init, KEY, TOKENS, TOKENS)
            ),
            source=TOKENS,
            start=1,
            stop=2,
            max_steps=3,
        ),
        dict(
            model=[None, 3],
            variables=[None, 3],
            source=[None, "a", TOKENS[0], TOKENS + 9],
            start=[*NO_COUNTS, 6],
            stop=[*NO_COUNTS, 6],
            max_steps=NO_SIZES,
        ),
        {"source": "source|inputs must be token indices"},
    ),
    "summary": Function(
        lambda model, inputs: jaxseq.summary(model, *inputs),
        dict(model=MODEL, inputs=(BATCH,)),
        dict(model=[None, 3], inputs=[(), ("a",), (3,)]),
    ),
    "count_parameters": Function(
        jaxseq.count_parameters, dict(params={"a": np.ones(2)}), dict(params=["a", 3, {"a": 1.0}])
    ),
    # Losses and optimisers
    **{
        loss.__name__: Function(
            loss,
            {name: np.ones((3, 1), np.float32), "targets": np.ones((3, 1), np.float32)},
            {name: [None, "a", np.ones((2, 2))], "targets": [None, "a", np.ones((4, 1))]},
            {name: "predictions", "targets": "targets|predictions must have the shape of targets"},
        )
        for loss, name in [
            (losses.binary_cross_entropy, "logits"),
            (losses.binary_accuracy, "logits"),
            (losses.absolute_error, "predictions"),
            (losses.squared_error, "predictions"),
        ]
    },
    **{
        loss.__name__: Function(
            loss,
            dict(logits=np.ones((3, 4), np.float32), targets=np.ones(3, int)),
            dict(
                logits=[None, "a", np.ones(3), np.float32(1)],
                targets=[None, "a", np.ones(4, int), np.ones(3), np.array([7, 0, 0]), np.array([0, -1, 0])],
            ),
            {"targets": "targets|logits must have shape .* as targets"},
        )
        for loss in (losses.categorical_cross_entropy, losses.categorical_accuracy)
    },
    "weighted_mean": Function(
        losses.weighted_mean,
        dict(values=np.ones((3, 2), np.float32), weights=np.ones(3, bool)),
        dict(values=[None, "a", 3], weights=["a", 3, np.ones(2), np.ones((3, 2, 1))]),
    ),
    "rmsprop": Function(
        jaxseq.rmsprop,
        dict(),
        dict(
            learning_rate=[-1, 0, NAN, INF, "a", None, True, jnp.ones(2)],
            decay=[-1, 1, NAN, "a"],
            epsilon=[-1, NAN],
            clip_norm=[0, -1, NAN, INF, "a"],
        ),
    ),
    "adam": Function(
        jaxseq.adam,
        dict(),
        dict(
            learning_rate=[-1, 0, NAN, INF, "a", None],
            beta1=[-1, 1, NAN],
            beta2=[1.5, "a"],
            epsilon=[-1, None],
            clip_norm=[0, NAN, True],
        ),
    ),
    "freeze": Function(
        lambda optimizer, modules: jaxseq.freeze(optimizer, modules).init({"a": jnp.ones(2)}),
        dict(optimizer=optax.adam(1e-3), modules=["a"]),
        dict(optimizer=[None, "adam"], modules=[["x"], "a", None, 3]),
    ),
    # Training
    "Task": Function(
        jaxseq.Task,
        dict(model=MODEL, loss=losses.absolute_error),
        dict(
            model=[None, 3, jaxseq.SequenceRegressor],
            loss=[None, "mae"],
            metrics=[None, [1], {"a": 1}, {1: losses.absolute_error}, {"weight": losses.absolute_error}],
        ),
    ),
    "examples": Function(
        jaxseq.examples,
        dict(inputs=BATCH, targets=BATCH[:, 0, :1]),
        dict(
            inputs=[None, "a", 1.0, BATCH[:2], BATCH * NAN, np.ones((0, 2)), np.array(["a"] * 6), ()],
            targets=[None, "a", np.ones(3), np.full(6, INF)],
            weights=["a", np.ones(3), np.full(6, NAN), -np.ones(6)],
        ),
        {"targets": "(inputs, )?targets", "weights": "(inputs, targets and )?weights"},
    ),
    "fit": Function(
        jaxseq.fit,
        dict(task=TASK, train=DATA, optimizer=optax.adam(1e-3), epochs=1, batch_size=2, progress=False),
        dict(
            task=[None, MODEL],
            train=[None, BATCH, DATA._replace(rows=DATA.rows[:0])],
            validation=[BATCH, 3],
            optimizer=[None, "adam", optax.adam],
            epochs=NO_SIZES,
            batch_size=NO_SIZES,
            seeds=[0, -1, [], [1, 1], [-1], "a", 1.5, None, True, [1.5], [HUGE]],
            monitor=["acc", None, 3],
            maximize=NO_FLAGS,
            patience=[0, -1, 1.5, "a", True],
            directory=[3, ["a"]],
            resume=[True, 1, "a"],
            pretrained=[3, "a", lambda params: {}],
            save_every=[-1, "a", NAN, None],
            devices=[[], 3, "cpu", ["cpu"]],
            progress=["a", 1],
        ),
    ),
    "evaluate": Function(
        jaxseq.evaluate,
        dict(task=TASK, params=jax.tree.map(lambda leaf: leaf[None], MODEL_PARAMS), data=DATA, batch_size=2),
        dict(
            task=[None, MODEL],
            params=[None, {}, MODEL_PARAMS, "a", {"layer_0": 1}],
            data=[None, BATCH],
            batch_size=NO_SIZES,
            devices=[[], 3],
        ),
    ),
    "predict": Function(
        jaxseq.predict,
        dict(model=MODEL, params=MODEL_PARAMS, inputs=BATCH),
        dict(
            model=[None, 3],
            params=[None, {}, "a", jax.tree.map(lambda leaf: leaf[None], MODEL_PARAMS)],
            inputs=[None, BATCH[:0], "a", 3.0, BATCH[0], BATCH * NAN],
            batch_size=NO_SIZES,
        ),
    ),
    "select": Function(
        jaxseq.select,
        dict(tree={"a": np.ones((2, 3))}, seed=0),
        dict(tree=["a", {"a": 1}], seed=[2, *NO_COUNTS]),
        {"tree": "tree's leaves"},
    ),
    "restore_best": Function(
        jaxseq.restore_best,
        dict(directory="nowhere", model=MODEL, one_input=BATCH),
        dict(directory=["nowhere", 3, None], model=[None, 3]),
    ),
    "checkpoints.save": Function(
        checkpoints.save,
        dict(directory="unused", step=0, tree={"a": np.ones(2)}, metadata={}),
        dict(
            directory=[None, 3],
            step=NO_COUNTS,
            tree=[{"a": "text"}, {"a": object()}],
            metadata=[None, {"a": object()}, [1]],
            keep=NO_SIZES,
        ),
    ),
    "checkpoints.restore": Function(
        checkpoints.restore, dict(directory="nowhere", target={}), dict(directory=[None, 3, b"a"])
    ),
    "checkpoints.steps": Function(checkpoints.steps, dict(directory="nowhere"), dict(directory=[None, 3])),
    # Series and sequences
    "chronological_split": Function(
        jaxseq.chronological_split,
        dict(length=10),
        dict(
            length=[0, -1, 1.5, "a", None, True, HUGE],
            fractions=[None, "a", (), (0.5, NAN), (-1,), (2.0,), ("a",), 0.5, (1e-9, 0.5), (0.6, 0.6)],
            boundaries=[(0,), "a", 5, (5, 5), (20,), (1.5,), (NAN,)],
        ),
    ),
    "Scaler.fit": Function(
        jaxseq.Scaler.fit,
        dict(series=SERIES),
        dict(series=[None, "a", [], SERIES[:0], SERIES * NAN, SERIES[None], 3.0, SERIES * 1j, [["1"]], [[1], [1, 2]]]),
    ),
    "Scaler.transform": Function(
        SCALER.transform, dict(series=SERIES), dict(series=[None, "a", SERIES[:, :1], 3.0, SERIES * 1j])
    ),
    "Scaler.inverse": Function(
        SCALER.inverse,
        dict(values=SERIES, column=0),
        dict(values=[None, "a"], column=[2, -1, 1.5, "a", True]),
    ),
    "Windows": Function(
        jaxseq.Windows,
        dict(lookback=4, delay=1),
        dict(lookback=NO_SIZES, delay=NO_COUNTS, step=[0, -1, 1.5, 3], target=["a", 1.5, -1]),
        {"step": "step|lookback must be a multiple of step"},
    ),
    "Windows.rows": Function(
        WINDOWS.rows,
        dict(start=0, stop=10),
        dict(start=[*NO_COUNTS, 100], stop=[0, -1, 1.5, "a", None, NAN], length=[0, -1, 1.5, "a", 10]),
        {
            "start": "start|stop must be above start",
            "stop": "stop|length must be given where stop is None",
            "length": "length|stop",
        },
    ),
    "Windows.batches": Function(
        WINDOWS.batches,
        dict(start=0, stop=10, batch_size=2),
        dict(batch_size=[*NO_SIZES, 100], steps=[0, -1, 1.5, "a"]),
    ),
    **{
        f"Windows.{name}": Function(
            getattr(WINDOWS, name),
            dict(series=SERIES, rows=[5]),
            dict(series=[None, "a", SERIES[0], SERIES.astype(int), 3], rows=[None, "a", [3], [19], [5.0], [NAN], [-5]]),
        )
        for name in ("take", "naive")
    },
    "pad_sequences": Function(
        jaxseq.pad_sequences,
        dict(sequences=[[1, 2], [3]], maxlen=3),
        dict(
            sequences=[
                None,
                3,
                "ab",
                [1, 2],
                [[1.5]],
                [["a"]],
                [[NAN]],
                [],
                [{1, 2}],
                [{"a": 1}],
                [[1, [2]]],
                [[HUGE]],
            ],
            maxlen=[0, -1, 1.5, "3", NAN, True],
            dtype=["x", object, str],
            padding=["left", None, 3],
            truncating=["x"],
            value=["a", NAN, 1.5, [1, 2]],
        ),
    ),
    "sequence_lengths": Function(
        jaxseq.sequence_lengths,
        dict(sequences=[[1]]),
        dict(sequences=[None, 3, [1], "ab"], maxlen=[0, -1, 1.5, "a"]),
    ),
    "length_buckets": Function(
        jaxseq.length_buckets,
        dict(lengths=[1, 2, 3], count=2),
        dict(lengths=[None, "a", [-1], [1.5], [[1]], []], count=[0, -1, 1.5, "2", True], boundaries=[[3]]),
    ),
    "length_buckets between boundaries": Function(
        jaxseq.length_buckets,
        dict(lengths=[1, 2, 3], boundaries=[3]),
        dict(boundaries=["a", 3, [0], [2], [3, 3], [3.5], [NAN], [], [[3]]]),
    ),
    "one_hot": Function(
        jaxseq.one_hot,
        dict(sequences=[[1, 2]], size=3),
        dict(sequences=[None, [[3]], [[-1]], [[0.5]], 3, []], size=NO_SIZES, maxlen=[0, "a", 1.5]),
    ),
    "multi_hot": Function(
        jaxseq.multi_hot,
        dict(sequences=[[1, 2]], size=3),
        dict(sequences=[None, [[3]], [[-1]], [[0.5]], []], size=NO_SIZES),
    ),
    # Text
    "words": Function(
        text.words,
        dict(text="a b"),
        dict(text=[None, 3, ["a"]], filters=[None, 3], lower=NO_FLAGS, split=["", None, 3]),
    ),
    "Tokenizer.fit": Function(
        text.Tokenizer.fit,
        dict(texts=["a b"]),
        dict(
            texts=[None, "a b", [], [3], [[3]], 3],
            num_words=[0, 1, -1, 1.5, "a", True],
            filters=[None, 3],
            lower=NO_FLAGS,
            split=["", None],
            char_level=["a", None],
            oov_token=[3, ["a"]],
        ),
    ),
    "Tokenizer.texts_to_sequences": Function(
        TOKENIZER.texts_to_sequences, dict(texts=["a"]), dict(texts=["a b", None, [3]])
    ),
    "Tokenizer.sequences_to_texts": Function(
        TOKENIZER.sequences_to_texts, dict(sequences=[[1]]), dict(sequences=["a", None, [[1.5]], [["a"]], [[NAN]]])
    ),
    "Tokenizer.sequences_to_matrix": Function(
        TOKENIZER.sequences_to_matrix,
        dict(sequences=[[1]]),
        dict(sequences=["a", None, [[-1]], [[1.5]], [3], [[[1]]]], mode=["x", None, 3]),
    ),
    "Tokenizer.from_json": Function(
        text.Tokenizer.from_json, dict(text=TOKENIZER.to_json()), dict(text=["", "{}", "[]", None, 3, "nan"])
    ),
    "ngrams": Function(text.ngrams, dict(tokens=["a", "b"], n=1), dict(tokens=[None, 3], n=NO_SIZES)),
    "bag_of_ngrams": Function(
        text.bag_of_ngrams, dict(tokens=["a", "b"], n=1), dict(tokens=[None], n=NO_SIZES, separator=[None, 3])
    ),
    "encode_characters": Function(
        text.encode_characters, dict(text="a"), dict(text=[None, 3], alphabet=["aa", None, 3])
    ),
    "hash_words": Function(text.hash_words, dict(text="a", size=5), dict(text=[None, 3, [3]], size=[*NO_SIZES, 1])),
    "Vocabulary.from_word_index": Function(
        Vocabulary.from_word_index,
        dict(word_index={"a": 1}),
        dict(
            word_index=[None, ["a"], {"a": 0}, {"a": 1.5}, {"a": "1"}, {"a": 1, "b": 1}, {"<PAD>": 1}],
            index_from=[1, -1, 1.5, "a", None],
            num_words=[0, 3, 1.5, "a"],
        ),
    ),
    "Vocabulary": Function(
        Vocabulary, dict(words=("<PAD>", "<START>", "<UNK>")), dict(words=[None, (), "abc", ("a", "b", "c"), (1, 2, 3)])
    ),
    "Vocabulary.word": Function(VOCABULARY.word, dict(index=4), dict(index=[*NO_COUNTS, 99])),
    "Vocabulary.index": Function(VOCABULARY.index, dict(word="the"), dict(word=["x", None, 3, ["a"]])),
    "Vocabulary.encode": Function(
        VOCABULARY.encode, dict(text="the"), dict(text=[None, 3, [3], [["a"]]], start=NO_FLAGS)
    ),
    "Vocabulary.decode": Function(
        VOCABULARY.decode,
        dict(sequence=[1, 4]),
        dict(sequence=[[99], [-1], [1.5], ["a"], [None]], special=NO_FLAGS),
        {"sequence": "index"},
    ),
    "nearest": Function(
        nearest,
        dict(query=0, matrix=np.eye(3)),
        dict(
            query=[5, -1, "a", None, True, np.ones(2), np.zeros(3), np.full(3, NAN)],
            matrix=[None, "a", np.ones(3), 3],
            k=NO_SIZES,
            exclude=[None, "a", [9], [-1], [1.5], 3],
        ),
    ),
    "WordVectors": Function(
        WordVectors,
        dict(words=("a", "b"), matrix=np.eye(2)),
        dict(words=[None, ("a",), ("a", "a"), "ab"], matrix=[None, 3, np.ones(2), np.ones((3, 2))]),
        {"words": "words|matrix must have shape"},
    ),
    "WordVectors.nearest": Function(
        VECTORS.nearest, dict(query="a"), dict(query=["x", None, np.ones(3)], k=[0, 1.5]), {"query": "word|query"}
    ),
    "WordVectors.analogy": Function(
        VECTORS.analogy,
        dict(positive=["a"]),
        dict(positive=["a", [], ["x"], [3], None], negative=["a", ["x"]], k=[0, "a"]),
        {"positive": "positive|word", "negative": "positive and negative|word"},
    ),
    "read_word_vectors": Function(read_word_vectors, dict(path="/dev/null"), dict(path=[None, 3], words=["abc", 3])),
    "embedding_matrix": Function(
        embedding_matrix,
        dict(word_index={"a": 1}, vectors={"a": np.ones(2)}, size=3),
        dict(
            word_index=[None, {}, {"a": -1}, {"a": 1.5}, {"a": "1"}, {"a": 9}, {"a": 1, "b": 1}],
            vectors=[None, {}, {"a": np.ones((2, 2))}, {"a": 3}, {"a": ["x"]}],
            size=[*NO_SIZES, 1],
            counts=[3, ["a"]],
            examples=NO_COUNTS,
        ),
    ),
    # Conversions
    "from_keras": Function(
        conversions.from_keras,
        dict(cell=CELL, weights=KERAS),
        dict(
            cell=[*NO_CELLS, jaxseq.LearnedState(CELL), GRU],
            weights=[None, [], 3, KERAS[:2], ["a", "b", "c"], [KERAS[1], KERAS[0], KERAS[2]], [*KERAS[:2], KERAS[0]]],
        ),
        {"cell": "cell|kernel must have shape", "weights": "weights|kernel|recurrent_kernel|bias"},
    ),
    "to_keras": Function(
        conversions.to_keras,
        dict(cell=CELL, params=PARAMS),
        dict(cell=NO_CELLS, params=[None, {}, tuple(PARAMS), PARAMS._replace(bias="a")]),
    ),
    "to_keras of other shapes": Function(
        conversions.to_keras,
        dict(cell=CELL, params=PARAMS),
        dict(params=[PARAMS._replace(bias=np.ones(3)), PARAMS._replace(w_input=np.ones(3))]),
        {"params": "bias|w_input"},
    ),
    "from_torch": Function(
        conversions.from_torch,
        dict(cell=CELL, weights=conversions.to_torch(CELL, PARAMS)),
        dict(cell=[*NO_CELLS, GRU], weights=[None, {}, [], 3, ["a"] * 4, [1] * 4], suffix=[None, 3]),
        {"weights": "weights|weight_ih"},
    ),
    "to_torch": Function(
        conversions.to_torch,
        dict(cell=CELL, params=PARAMS),
        dict(cell=[*NO_CELLS, GRU], params=[None, {}, tuple(PARAMS)], suffix=[None, 3]),
    ),
}

NO_NUMBERS = ["0", "-1", "1.5", "x", "", "nan", "1e3", str(HUGE)]  # for an integer of at least 1
EXPERIMENTS = [
    ([], "COMMAND"),
    (["dance"], "COMMAND"),
    (["run"], "NAME"),
    (["run", "imdb_lstn"], "NAME"),
    (["run", "jena_naive", "--dat"], "--dat"),
    (["run", "jena_naive", "--data", "fake"], "--data"),
    *((["run", "jena_naive", option, text], option) for option in ("--seeds", "--epochs") for text in NO_NUMBERS),
    (["run", "jena_naive", "--smoke", "--out", "/proc/nowhere"], "--out"),
    (["run", "jena_naive", "--smoke=1"], "--smoke"),
    (["run", "jena_naive", "--sead", "1"], "--sead"),
    (["run", "jena_naive", "--seed", "1"], "--seed"),  # no option is cut short
    *((["predict", "imdb_lstm", "a", f"--seed={text}"], "--seed") for text in NO_NUMBERS[1:]),
    (["predict", "imdb_lstm", "a", "--variant", "x"], "--variant"),
    (["predict", "imdb_lstm", "a", "--from", "/proc/nowhere"], "--from"),
    (["predict", "imdb_lstn", "a"], "NAME"),
    (["predict", "jena_naive", "a"], "NAME"),
    (["report", "/proc/nowhere"], "DIR"),
    (["report", "--html"], "--html"),
    (["report", "--brief", "--claims"], "--claims"),
    (["list", "x"], "x"),
]
BENCHMARKS = [
    ([], "COMMAND"),
    (["dance"], "COMMAND"),
    (["list", "x"], "x"),
    *(
        (["implementations", "--smoke", f"--{name}={text}"], f"--{name}")
        for name in ("repeats", "devices")
        for text in NO_NUMBERS
    ),
    (["implementations", "--smoke", "--plot", "x.pdf"], "--plot"),
    *((["lookups", "--smoke", f"--lookups={text}"], "--lookups") for text in ("0", "x", "1,,2", "-1", "")),
    (["lookups", "--smoke", "--cells", "lstn"], "--cells"),
    (["implementations", "--smoke", "--json", "/proc/nowhere/x.json"], "--json"),
    *((["implementations", "--smoke", f"--length={text}"], "--length") for text in NO_NUMBERS[:6]),
    *((["scan_vs_unrolled", "--smoke", f"--batch={text}"], "--batch") for text in NO_NUMBERS[:6]),
    *((["scan_vs_unrolled", "--smoke", f"--lengths={text}"], "--lengths") for text in ("0", "x", "1,,2", "-1", "")),
    (["scan_vs_unrolled", "--smoke", "--cell", "lstn"], "--cell"),
    *((["scan_vs_unrolled", "--smoke", f"--limit={text}"], "--limit") for text in ("0", "-1", "x", "nan")),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_bad_argument_is_named_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = FUNCTIONS[name]
    for argument, values in function.bad.items():
        for value in values:
            case = f"{argument}={arguments.shown(value)}"
            try:
                function.call(**{**function.good, argument: value})
            except Exception as error:
                assert type(error) is ValueError, f"{case} raised {type(error).__name__}: {error!s:.300}"
                message = str(error)
            else:
                pytest.fail(f"{case} was taken")
            assert "\n" not in message and len(message) < 300, f"{case}: {message}"
            assert re.match(function.named.get(argument, re.escape(argument)), message), f"{case}: {message}"
            assert re.search(r"\b(must|needs)\b", message), f"{case}: {message}"


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if name not in ("checkpoints.save", "restore_best", "read_word_vectors")]
)
def test_the_good_arguments_are_good(name):
    """So that what is refused above is refused for the one argument that differs."""
    FUNCTIONS[name].call(**FUNCTIONS[name].good)


@pytest.mark.parametrize(("program", "table"), [(experiments.__main__, EXPERIMENTS), (benchmarks.__main__, BENCHMARKS)])
def test_a_bad_option_is_named_in_one_line_with_exit_code_2(program, table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for options, option in table:
        try:
            code = program.main(options)
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr().err
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in printed, f"{options}: {code}, {printed}"
        assert option in lines[0] and printed.endswith(lines[0] + "\n"), f"{options}: {printed}"


def test_at_least_200_inputs_are_tried():
    inputs = sum(len(values) for function in FUNCTIONS.values() for values in function.bad.values())
    assert inputs >= 900 and len(EXPERIMENTS) + len(BENCHMARKS) >= 60


def test_every_public_name_is_tried_or_has_no_arguments_of_its_own():
    none = {"Cell", "Choice", "Examples", "Fit", "GradientFlow", "Interrupted", "TrainState", "TrainingDiverged"}
    none |= {"DropoutMasks", "Scaler", "attention", "checkpoints", "conversions", "losses"}
    assert set(jaxseq.__all__) - none <= set(FUNCTIONS)


def test_whole_numbers_of_numpy_and_jax_are_taken():
    scan = functools.partial(jaxseq.scan, CELL, PARAMS, X)
    state, _ = scan(unroll=np.int64(2), reverse=np.bool_(False))
    np.testing.assert_allclose(state.hidden, scan()[0].hidden, rtol=1e-6)
    assert jaxseq.LSTM(jnp.int32(3)) == jaxseq.LSTM(np.int8(3)) == CELL
    assert jaxseq.length_mask(np.array([1, 2]), np.int64(3)).shape == (3, 2)
    masks = jaxseq.dropout_masks(KEY, CELL, np.int32(2), (np.int64(2),), dropout=np.float32(0.5), dtype="bfloat16")
    assert masks is not None and masks.input is not None and masks.input.shape == (4, 2, 2)
    assert jaxseq.pad_sequences([[1]], np.int64(2)).shape == (1, 2)


def test_what_is_traced_is_taken():
    optimizer = optax.inject_hyperparams(jaxseq.adam)(learning_rate=optax.linear_schedule(0.0, 1.0, 2))
    state = jax.jit(optimizer.init)({"w": jnp.ones(2)})
    jax.jit(optimizer.update)({"w": jnp.ones(2)}, state)

    @jax.jit
    def run(params, inputs, lengths, targets, key):
        masks = jaxseq.dropout_masks(key, CELL, F, (B,), dropout=0.5)
        mask = jaxseq.length_mask(lengths, T)
        _, outputs = jaxseq.scan(CELL, params, inputs, mask=mask, resets=mask, dropout_masks=masks)
        return losses.weighted_mean(losses.categorical_cross_entropy(outputs, targets), mask)

    targets = np.zeros((T, B), int)
    assert np.isfinite(run(PARAMS, X, np.array([1, 4]), targets, KEY))
    batches = jax.vmap(run, in_axes=(None, 0, None, None, None))(PARAMS, X[None], np.array([1, 4]), targets, KEY)
    assert batches.shape == (1,)


class Drawn(MinimalGatedUnit):
    """A cell that draws with NumPy: what `init` makes is not known before a key is."""

    def init(self, key, input_size):
        np.random.default_rng(int(jax.random.bits(key)))
        return super().init(key, input_size)


class Unhashable(MinimalGatedUnit):
    __hash__ = None  # type: ignore[assignment]


def test_cells_of_others_are_taken():
    params = random_params(MinimalGatedUnit(H), F, dtype="float32")
    for cell in (Drawn(H), Unhashable(H)):
        assert jaxseq.scan(cell, params, X)[1].shape == (T, B, H)
    with pytest.raises(ValueError, match=r"^params.w_hidden must have shape \(3, 6\), as Unhashable.init draws it"):
        jaxseq.scan(Unhashable(H), params._replace(w_hidden=np.ones((3, 5))), X)
    learned = jaxseq.LearnedState(MinimalGatedUnit(H))
    start = jaxseq.cells.LearnedStateParams(params, np.ones(H, np.float32))
    assert jaxseq.scan(learned, start, X)[1].shape == (T, B, H)
    with pytest.raises(ValueError, match=r"^params.initial_state must have shape \(3,\), as LearnedState.init draws"):
        jaxseq.scan(learned, start._replace(initial_state=np.ones((B, H), np.float32)), X)


class Dictionary(MinimalGatedUnit):
    """A cell whose parameters are a dictionary."""

    def init(self, key, input_size):
        return super().init(key, input_size)._asdict()

    def initial_state(self, params, batch_shape):
        return jnp.zeros((*batch_shape, self.hidden_size))

    def project(self, params, inputs, masks):
        return jaxseq.gate_product(inputs, params["w_input"], None) + params["bias"]

    def step(self, params, h, drive, masks):
        h = jnp.tanh(drive[..., : self.hidden_size] + h)
        return h, h


def test_one_kind_of_mapping_is_as_good_as_another():
    params = Dictionary(H).init(KEY, F)
    plain = jaxseq.scan(Dictionary(H), params, X)[1]
    np.testing.assert_array_equal(jaxseq.scan(Dictionary(H), flax.core.freeze(params), X)[1], plain)
