"""Whole epochs: the three trainers train the same, every quantity is there, and what cannot be compared is named."""

import json
import types

import numpy as np
import pytest

import jaxseq
from benchmarks import __main__ as entry
from benchmarks import epoch, trainers
from benchmarks.peers import OURS, PEERS
from experiments import catalogue

pytestmark = [
    pytest.mark.usefixtures("compiled_quickly"),
    pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning"),  # by Keras 3.15 of jax 0.12
]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A smoke run beside Keras, on the devices and with the compilation cache that the tests have."""
    directory = tmp_path_factory.mktemp("epoch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "_make_devices", lambda number: number or 1)
        outputs = ["--json", str(directory / "r.json"), "--plot", str(directory / "r.png")]
        code = entry.main(["epoch", "--smoke", "--peers", "keras", *outputs])
    assert (directory / "r.png").read_bytes().startswith(b"\x89PNG")
    return code, json.loads((directory / "r.json").read_text())


def test_an_epoch_has_every_quantity(smoke):
    code, result = smoke
    assert code == 0 and result["failures"] == []
    [case] = result["cases"]
    assert case["experiment"] == "jena_gru" and case["data"]["kind"] == "synthetic"
    assert case["parameters"] == {OURS: 4545, "keras": 4545}
    for name in (OURS, "keras"):
        timed = case["epochs"][name]
        assert timed["first_seconds"] > 0 and timed["seconds"]["samples"] == 1 and timed["loss"] > 0
    ours, theirs = (case["epochs"][name]["seconds"]["median"] for name in (OURS, "keras"))
    assert case["ratios"]["keras"]["median"] == pytest.approx(theirs / ours)
    one, two = (case["seeds"][number]["seconds"]["median"] for number in ("1", "2"))
    assert case["seeds"]["2"]["over_one"] == pytest.approx(two / one)


def test_a_finished_run_is_gone_on_with(smoke, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(smoke[1]))
    monkeypatch.setattr(entry, "_make_devices", lambda number: number or 1)
    monkeypatch.setattr(epoch, "_measure_experiment", lambda *_: pytest.fail("measured"))
    assert entry.main(["epoch", "--smoke", "--peers", "keras", "--json", str(path), "--resume"]) == 0
    result = json.loads(path.read_text())
    assert result["cases"] == smoke[1]["cases"] and result["peers"] == smoke[1]["peers"]


def test_keras_and_jaxseq_agree_after_the_same_batches(smoke):
    [case] = smoke[1]["cases"]
    for quantity in ("loss", "val_loss"):
        assert case["agreement"][OURS][quantity] == pytest.approx(case["agreement"]["keras"][quantity], rel=1e-4)


def test_disagreeing_losses_are_named():
    losses = {OURS: {"loss": 1.0, "val_loss": 2.0}, "keras": {"loss": 1.0, "val_loss": 2.01}}
    [text] = epoch.disagreements(losses)
    assert text.startswith("val_loss must equal Keras' within 0.001, got 2 and 2.01")
    assert epoch.disagreements({OURS: {"loss": 1.0}, "keras": {"loss": np.nan}})
    assert not epoch.disagreements({OURS: {"loss": 1.0}})


def test_the_documents_generator_draws_the_windows_that_jaxseq_gathers():
    windows = jaxseq.Windows(lookback=12, delay=3, step=2, target=1)
    series = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    rows = windows.batches(0, 60, batch_size=8)
    batches = trainers.generator(series, 12, 3, 0, int(rows.max()) + 2, batch_size=8, step=2)
    for wanted in (*rows, rows[0]):  # after the last batch the first comes again
        for made, gathered in zip(next(batches), windows.take(series, wanted), strict=True):
            np.testing.assert_array_equal(made.astype(np.float32), gathered)


@pytest.mark.parametrize("name", trainers.CODES)
def test_pytorch_trains_what_has_neither_recurrent_dropout_nor_another_activation(name):
    model = catalogue.find_one(name).variants[0].model
    experiment = types.SimpleNamespace(
        drops_out=False, cells=model.cells if name == "jena_stacked_gru" else [model.cells]
    )
    other = "its layers have no relu" if name == "jena_stacked_gru" else ""
    assert trainers.PyTorch.cannot(experiment) == other
    experiment.drops_out = True
    assert trainers.PyTorch.cannot(experiment) == PEERS["pytorch"].cannot["dropout"]


def test_pytorch_trains_the_same_losses():
    pytest.importorskip("torch", reason="PyTorch comes with the extra `peers`, never in CI")
    experiment = trainers.Experiment("reuters_lstm", True, True)
    torch, keras = (kind(experiment) for kind in (trainers.PyTorch, trainers.Keras))
    assert torch.parameters == keras.parameters == 185_046
    losses = torch.losses(1), keras.losses(1)
    for quantity in ("loss", "val_loss"):  # before a step, and after one of an Adam whose epsilon lies elsewhere
        assert losses[0][quantity] == pytest.approx(losses[1][quantity], rel=1e-3)
