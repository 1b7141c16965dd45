"""The memory family: what its studies measure, where the answer is known, and the variants that runs resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxseq
from experiments import memory as family
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import Run, Trained

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def test_the_sums_of_document_001_hold_and_their_paths_are_the_equations():
    sums = family._sums(2)
    figures = family._identities(family._sequences(True, True))["final"]
    assert all(figure["mean"] < 1e-13 for figure in figures.values())
    for t in range(4):  # an error reaches no step after its own, and every step before it
        assert [bool(path.any()) for path in sums.paths[0, t]] == [k <= t for k in range(4)]
    assert not sums.from_zero[:, 0].any() and sums.from_zero[:, 1:].any(axis=(2, 3)).all()
    assert np.abs(sums.total - sums.third).max() > 0.1  # two different gradients, or one check would do for both


def test_the_output_is_the_activation_of_the_state():
    figures = list(family._outputs().values())
    assert figures[0] < 1e-12 and figures[1] > 1 and figures[2] < 1e-12


def test_logarithms_are_relative_to_the_last_step_which_comes_first():
    norms = np.stack([[1e-4, 1e-2, 1.0], [10.0, 1.0, 100.0]], axis=-1)  # [T, N]
    np.testing.assert_allclose(family._logarithms(norms), [0, -2, -2.5])
    share = family._in_last_steps(np.log10([[1.0, 0.5, 0.25, 0.25]]), steps=2)
    assert share["mean"] == pytest.approx(0.75)


def test_where_tanh_is_linear_the_gradient_shrinks_and_grows_with_the_recurrent_matrix():
    inputs = {"tiny": 1e-9 * np.random.default_rng(0).normal(size=(2, 3, 12, family._SIZE))}
    runs = jaxseq.SimpleRNN(family._SIZE, param_dtype="float64")
    cells = {
        str(gain): (dataclasses.replace(runs, recurrent_initializer=jax.nn.initializers.orthogonal(scale=gain)), runs)
        for gain in (0.5, 1.0, 1.5)
    }
    for gain, logarithms in family._cells_back(cells, inputs)["tiny"].items():
        np.testing.assert_allclose(logarithms, np.arange(12) * np.log10(float(gain)) * np.ones((2, 1)), atol=1e-9)


def test_a_deep_network_as_a_cell_is_the_network():
    rng = np.random.default_rng(0)
    weights, inputs = rng.normal(0, 0.4, (5, 4, 4)), rng.normal(size=(3, 4))
    with jax.enable_x64(True):
        norms = family._norms(family._Layers(4), (), weights.reshape(1, 5, 16), inputs[None])[0]  # [layers, N]

        def loss(hidden, layer):
            for matrix in weights[layer:]:
                hidden = jnp.tanh(hidden @ matrix)
            return jnp.sum(hidden**2)

        hidden = jnp.asarray(inputs)
        for layer, matrix in enumerate(weights):
            hidden = jnp.tanh(hidden @ matrix)
            expected = jnp.linalg.norm(jax.grad(loss)(hidden, layer + 1), axis=-1)
            np.testing.assert_allclose(norms[layer], expected, rtol=1e-12)


def test_parameters_as_drawn_are_those_that_training_began_with(tmp_path):
    """Trained at a rate of zero, nothing has changed."""
    variant = next(v for v in EXPERIMENTS["long_term_dependency"].variants if v.label == "adding 10 GRU")
    variant = dataclasses.replace(variant, optimizer=optax.sgd(0.0), model=jaxseq.SequenceRegressor(jaxseq.GRU(4)))
    data = variant.load(True, True)
    fit = jaxseq.fit(
        variant.task, data.train, data.validation, optimizer=variant.optimizer, epochs=1, batch_size=96, seeds=2
    )
    one = Trained(variant, data, fit, {"seeds": [0, 1]})
    both = family._before_and_after(one)
    assert both["as drawn"].shape == (2, 10) and (both["as drawn"][:, 1:] < 0).all()
    np.testing.assert_allclose(both["trained"], both["as drawn"], rtol=1e-12)
    assert not np.allclose(both["as drawn"][0], both["as drawn"][1])
    study = family._trained_flow(Run([one], data, tmp_path, True, True))
    assert (tmp_path / "gradient_norms.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = (value for name, value in study["figures"].items() if name.endswith("adding 10, trained: GRU"))
    assert figure["seeds"] == both["trained"][:, -1].tolist()


def test_the_variants_that_finished_runs_resume_are_what_they_were():
    labels = [
        f"{task} {delay} {cell}"
        for cell in ("SimpleRNN", "LSTM", "GRU")
        for task, delays in (("adding", (10, 30, 100, 200)), ("copying", (10, 30, 100)))
        for delay in delays
    ]
    assert [variant.label for variant in EXPERIMENTS["long_term_dependency"].variants] == labels
