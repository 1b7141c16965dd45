"""Reuters' study and prediction, where the answer is known."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import reuters as family
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import Run, Saved, Trained, UserError
from jaxseq.datasets.reuters import TOPICS

VARIANT = EXPERIMENTS["reuters_lstm"].variants[0]


class LastButTwo(nn.Module):
    """Takes a wire for the topic that its last word but two numbers."""

    @nn.compact
    def __call__(self, inputs, *, train=False):
        sharpness = self.param("sharpness", nn.initializers.constant(20.0), ())
        return sharpness * jax.nn.one_hot(inputs[:, -3] % len(TOPICS), len(TOPICS))


def run_of(model, params, directory):
    """A run whose seeds have these parameters."""
    data = family._wires(True, True)
    fit = types.SimpleNamespace(state=types.SimpleNamespace(params=params))
    trained = Trained(dataclasses.replace(VARIANT, model=model), data, fit, {"seeds": [0, 1]})
    return Run([trained], data, directory, True, True)


def test_only_the_words_that_a_model_reads_change_its_output(tmp_path):
    run = run_of(LastButTwo(), {"sharpness": jnp.full(2, 20.0)}, tmp_path)
    study = family._study(run)
    header, *rows = study["tables"]["one word replaced, by its place"]
    assert header[0] == "words after it" and [row[0] for row in rows][:4] == [0, 1, 2, 5]
    for after, moved, told_otherwise, logit in rows:
        reads = after == 2
        assert (moved["mean"] > 0.5) == (told_otherwise["mean"] > 0.5) == (logit["mean"] > 0.5) == reads
        assert reads or not (moved["mean"] or told_otherwise["mean"] or logit["mean"])
    figures = study["figures"]
    assert figures["one word of the last half replaced: share of wires told otherwise"]["mean"] > 0
    assert figures["one word of the first half replaced: share of wires told otherwise"]["mean"] == 0
    for picture in ("confusions", "earlier_words", "lengths"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_confusions_are_counted_for_every_seed(tmp_path):
    run = run_of(LastButTwo(), {"sharpness": jnp.asarray([20.0, -20.0])}, tmp_path)
    seeds = [{"sharpness": np.float32(20)}, {"sharpness": np.float32(-20)}]
    counts = family._confuse(run, seeds).counts
    inputs, targets = family._test_part(run)
    said = inputs[:, -3] % len(TOPICS)
    assert counts.sum(axis=(1, 2)).tolist() == [len(targets)] * 2
    assert all(
        counts[0, topic, other] == ((targets == topic) & (said == other)).sum() for topic, other in [(3, 3), (4, 5)]
    )
    np.testing.assert_array_equal(counts.sum(axis=2), [np.bincount(targets, minlength=len(TOPICS))] * 2)


def test_tables_of_confusions():
    counts = np.zeros((2, 46, 46), int)
    counts[:, 3, 3] = (6, 8)
    counts[:, 3, 4] = (4, 2)
    counts[:, 0, 3] = (1, 1)
    confusions = family._Confusions(counts)
    _, earn, cocoa, *others = family._by_topic(confusions)
    assert earn[:2] == ["earn", 10] and earn[2]["seeds"] == [0.6, 0.8] and earn[3]["seeds"] == [7, 9]
    assert cocoa[:2] == ["cocoa", 1] and cocoa[2]["mean"] == 0
    assert all(row[1:3] == [0, None] for row in others)
    _, *rows = family._mistaken(confusions)
    assert [(row[0], row[1], row[2]["seeds"], row[3]) for row in rows] == [
        ("earn", "acq", [4, 2], pytest.approx(0.3)),
        ("cocoa", "earn", [1, 1], pytest.approx(1.0)),
    ]


def test_a_wire_gets_its_three_likeliest_topics(tmp_path):
    encoding = family._wires(True, True).encoding
    words = encoding["words"]
    assert len(words) == 1000 and encoding["topics"] == list(TOPICS)
    saved = Saved(dataclasses.replace(VARIANT, model=LastButTwo()), {"sharpness": np.float32(2)}, encoding)
    topic = TOPICS[50 % len(TOPICS)]
    probability = np.exp(2) / (np.exp(2) + len(TOPICS) - 1)
    said = family._predict(saved, f"{words[60]} {words[50].upper()}, {words[40]} unheard?")
    assert said == f"{topic} ({100 * probability:.1f} %), then cocoa (1.9 %) and grain (1.9 %)"
    wire = tmp_path / "wire.txt"
    wire.write_text(f"{words[50]} {words[40]} {words[41]}")
    assert family._predict(saved, str(wire)).startswith(f"{topic} (")
    assert family._predict(saved, "unknown words only").startswith(f"{TOPICS[2]} (")  # index 2
    with pytest.raises(UserError, match="TEXT must be a wire of at least one word"):
        family._predict(saved, " ?! ")
