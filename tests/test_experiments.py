"""The command line end to end, the documents' parameter counts, and what a user can get wrong."""

import json
import re

import jax
import numpy as np
import pytest

import jaxseq
from experiments import claims, judging, report
from experiments import experiment as experiment_module
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import Request, summarize
from experiments.report import read_results
from jaxseq.epochs import as_arguments

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TRAINED = [experiment for experiment in EXPERIMENTS.values() if experiment.variants]


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """As on a machine without data or network."""
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAXSEQ_OFFLINE", "1")


@pytest.mark.parametrize("experiment", TRAINED, ids=lambda experiment: experiment.name)
def test_parameter_counts_are_the_documents(experiment):
    for variant in experiment.variants:
        data = variant.load(True, True)
        variables = jax.eval_shape(variant.model.init, jax.random.key(0), *as_arguments(data.train.one_input))
        if variant.parameters is not None:
            assert jaxseq.count_parameters(variables) == variant.parameters


@pytest.fixture(scope="module")
def smoked(tmp_path_factory):
    """Every experiment once, in seconds, on synthetic data."""
    out = tmp_path_factory.mktemp("runs")
    assert main(["run", "all", "--smoke", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda experiment: experiment.name)
def test_every_experiment_runs_and_writes_the_contract(smoked, experiment):
    directory = smoked / experiment.name
    result = json.loads((directory / "result.json").read_text())
    assert result["name"] == experiment.name
    assert result["document"] == experiment.document and result["documented"]
    assert result["data"]["kind"] in ("synthetic", "generated") and result["smoke"]
    assert {"parameters", "seeds", "device", "versions", "seconds", "history", "figures", "date"} <= set(result)
    assert "final" in result["figures"] or "study" in result
    if experiment.variants:
        assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert list(directory.glob("checkpoints/*/latest/step_*/manifest.json"))
        assert list(directory.glob("checkpoints/*/best/step_*/manifest.json"))
        measured = ["loss", "val_loss"] if result["validated"] else ["loss"]
        assert set(measured) <= set(result["history"][0])
        for part in ("final", "best"):
            assert {"mean", "deviation", "seeds"} == set(result["figures"][part][measured[-1]])
        expected = experiment.variants[0].parameters
        assert expected is None or result["parameters"]["total"] == expected


def test_the_report_begins_with_one_table_that_marks_what_is_not_comparable(smoked, capsys):
    assert main(["report", str(smoked)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[: lines.index("")]
    rows = [line for line in table if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} == set(EXPERIMENTS)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    assert all("SMOKE" in row for row in rows)
    kinds = {result["name"]: result["data"]["kind"] for result in read_results(smoked)}
    assert all("SYNTHETIC" in row for row in rows if kinds[row.split("`")[1]] == "synthetic")


# Figures of variants, seeds, lengths and words that a smoke run has not got, and its seconds, which say nothing.
ONLY_IN_FULL_RUNS = ("adding 200, trained", "100 steps back", "cosine, synonyms", "plural, share", "over 5 draws")
ONLY_IN_FULL_RUNS += ("two seeds in order", "LSTM 32 units", "seconds an epoch", "seconds per epoch", "moved by")


def test_every_figure_that_a_claim_needs_is_there(smoked, monkeypatch):
    """Taken as if they were of full runs on real data, the smoked results lack only what a smoke run leaves out."""
    monkeypatch.setattr(report, "marks", lambda result: "")
    monkeypatch.setattr(report, "other_epochs", lambda experiment, variant: "")
    results = {result["name"]: result for result in read_results(smoked)}
    left_out = {
        f"{experiment.name} has no variant {variant.label!r}"
        for experiment in TRAINED
        for variant in experiment.variants
        if not variant.smoke
    }
    for claim, judgement in claims.judge(results):
        for part in [judgement, *(part for _, part in judgement.parts)]:
            if part.verdict == judging.NOT_RUN and not part.parts and part.why not in left_out:
                assert any(words in part.why for words in ONLY_IN_FULL_RUNS), f"claim {claim.number}: {part.why}"


def test_a_finished_experiment_is_not_run_again_unless_asked(smoked, capsys):
    path = smoked / "jena_naive" / "result.json"
    before = path.stat().st_mtime_ns
    assert main(["run", "jena_naive", "--smoke", "--out", str(smoked)]) == 0
    assert "is finished" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before
    assert main(["run", "jena_naive", "--smoke", "--again", "--out", str(smoked)]) == 0
    assert path.stat().st_mtime_ns != before


def test_list_names_every_experiment(capsys):
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(EXPERIMENTS)
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["parameters"] for row in rows}["imdb_lstm"] == 328_353


def test_without_data_auto_says_loudly_that_it_is_synthetic(tmp_path, capsys):
    assert main(["run", "jena_naive", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "NOTICE" in captured.err and "SYNTHETIC" in captured.err and "JAXSEQ_DATA" in captured.err
    assert json.loads((tmp_path / "jena_naive" / "result.json").read_text())["data"]["kind"] == "synthetic"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["run", "imdb_lstn"],
            "NAME must be an experiment, a pattern or all, got 'imdb_lstn'; did you mean imdb_lstm?",
        ),
        (["run", "x*"], "got 'x*'"),
        (["run", "jena_naive", "--data", "real"], "JAXSEQ_DATA"),
        (["report", "nowhere"], "DIR must hold results"),
        (["run", "imdb_lstm", "--out", "/proc/nowhere"], "--out must be a directory that can be written"),
        (["run", "imdb_lstm", "--out", __file__], "--out must be a directory that can be written"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "COMMAND"),
        (["run"], "NAME"),
        (["run", "imdb_lstm", "--seeds", "0"], "--seeds: must be an integer of at least 1, got '0'"),
        (["run", "imdb_lstm", "--epochs", "x"], "--epochs: must be an integer of at least 1, got 'x'"),
        (["run", "imdb_lstm", "--data", "fake"], "--data"),
        (["dance"], "dance"),
    ],
)
def test_usage_errors_name_the_option(arguments, words, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and words in capsys.readouterr().err


def test_a_result_that_is_not_one_is_never_replaced_unasked(tmp_path, capsys):
    path = tmp_path / "jena_naive" / "result.json"
    path.parent.mkdir()
    for text in ("{", '{"smoke": false}'):
        path.write_text(text)
        assert main(["run", "jena_naive", "--smoke", "--out", str(tmp_path)]) == 2
        assert "--again" in capsys.readouterr().err
        assert path.read_text() == text
    assert main(["report", str(tmp_path)]) == 2


def test_another_result_is_not_replaced_unasked(smoked, capsys):
    assert main(["run", "imdb_lstm", "--out", str(smoked)]) == 2
    assert "--out must not hold another result of imdb_lstm" in capsys.readouterr().err


def test_what_trains_nothing_is_finished_whatever_the_epochs(tmp_path, capsys):
    arguments = ["run", "jena_naive", "--data", "synthetic", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--epochs", "5", "--resume"]) == 0
    assert "is finished" in capsys.readouterr().err


def test_a_run_that_is_not_gone_on_with_keeps_its_encoding(tmp_path, monkeypatch):
    """`fit` refuses other data; what says how to read a new input must then be as the saved weights know it."""
    request = Request(out=tmp_path, seeds=1, epochs=1, resume=True)
    experiment = EXPERIMENTS["jena_dense"]
    [variant] = experiment.variants
    path = experiment_module.checkpoints_of(tmp_path, variant) / experiment_module.ENCODING
    path.parent.mkdir(parents=True)
    path.write_text("as it was")

    def refuse(*_, **__):
        raise ValueError("other data")

    monkeypatch.setattr(jaxseq, "fit", refuse)
    with pytest.raises(ValueError, match="other data"):
        experiment_module._train(experiment, variant, request, tmp_path, True)
    assert path.read_text() == "as it was"


@pytest.mark.parametrize(
    ("name", "gates"),
    [("imdb_lstm", "sigmoid"), ("one_to_many", "sigmoid"), ("imdb_simple_rnn", None), ("jena_dense", None)],
)
def test_the_gates_activation_is_the_cells(name, gates):
    assert experiment_module._gates(EXPERIMENTS[name].variants[0].model) == gates


def test_mean_and_deviation_are_those_of_the_seeds():
    figure = summarize([1.0, 2.0, 6.0])
    assert figure["mean"] == 3 and figure["deviation"] == pytest.approx(np.sqrt(7))
    assert summarize([2.0])["deviation"] is None
