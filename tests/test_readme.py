"""README's code runs as printed, and the cell that it has a reader write is served by the engine."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block):
    names = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_there_are_three_blocks_and_the_two_commands():
    assert len(BLOCKS) == 3
    for command in ("pip install -e . && python -m experiments run imdb_lstm", 'pip install -e ".[dev]" && pytest'):
        assert f"\n{command}\n" in README


def test_the_example_learns(capsys):
    names = run(BLOCKS[0])
    assert "Total" in capsys.readouterr().out
    assert len(BLOCKS[0].strip().splitlines()) <= 25
    best = [max(run["val_accuracy"]) for run in names["result"].history]
    assert len(best) == 3 and min(best) > 0.65  # one word in ten tells the class; guessing is 0.5
    assert ((0 < names["probability"]) & (names["probability"] < 1)).all()


def test_the_engine_as_functions(capsys):
    names = run(BLOCKS[1])
    state, outputs = jaxseq.scan(names["cell"], names["params"], names["sequence"][:3])
    np.testing.assert_allclose(names["output"], outputs[-1], rtol=1e-6, atol=1e-6)
    assert str(jaxseq.explain(names["cell"], names["batch"].shape)) in capsys.readouterr().out


@pytest.fixture(scope="module")
def cell():
    """The minimal gated unit that README writes."""
    return run(BLOCKS[2])["MGU"](hidden_size=4)


@pytest.mark.parametrize("implementation", ["scan", "hoisted", "deferred", "unrolled"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_readers_cell_against_its_equation(cell, implementation, reverse):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), cell.init(jax.random.key(0), 3))
    inputs, lengths = rng.normal(size=(6, 5, 3)), np.array([6, 3, 0, 1, 6])
    mask = np.arange(6)[:, None] < lengths
    expected, h = np.zeros((6, 5, 4)), np.zeros((5, 4))
    for t in reversed(range(6)) if reverse else range(6):
        z = inputs[t] @ params.w_input + params.bias
        f = 1 / (1 + np.exp(-(z[:, :4] + h @ params.w_hidden[:, :4])))
        n = np.tanh(z[:, 4:] + (f * h) @ params.w_hidden[:, 4:])
        h = np.where(mask[t][:, None], (1 - f) * h + f * n, h)
        expected[t] = np.where(mask[t][:, None], h, 0)
    state, outputs = jaxseq.scan(
        cell,
        jax.tree.map(jnp.float32, params),
        jnp.float32(inputs),
        mask=jnp.asarray(mask),
        reverse=reverse,
        implementation=implementation,
    )
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state, h, rtol=1e-5, atol=1e-6)


def test_the_readers_cell_has_no_masks_and_says_so(cell):
    with pytest.raises(ValueError, match="MGU has no `gates`"):
        jaxseq.dropout_masks(jax.random.key(0), cell, 3, dropout=0.5)


def test_the_readers_cell_in_a_model(cell):
    model = run(BLOCKS[2])["model"]
    tokens = jnp.ones((2, 5), jnp.int32)
    assert model.init_with_output(jax.random.key(0), tokens)[0].shape == (2, 1)


def test_the_results_are_those_that_are_committed():
    """The table of README is what the report prints of `experiments/results`, digit for digit."""
    from experiments import claims, report

    results = report.read_results(Path(__file__).parent.parent / "experiments" / "results")
    assert report.brief(results) in README
    # What `judging.apply` says of a result that another program wrote: of our own, a rule would be at fault.
    assert "no such figures" not in claims.markdown({result["name"]: result for result in results})
