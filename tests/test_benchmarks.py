"""The benchmarks run on tiny sizes and say what they should; nothing here depends on how fast anything is."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseq
from benchmarks import implementations, lookups, measuring, scan_vs_unrolled
from benchmarks.__main__ import RESULTS, main
from jaxseq.choice import IMPLEMENTATIONS

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parent.parent
# A limit that nothing of more than a few steps meets: what is predicted is not run, and must be seen everywhere.
SCAN_VS_UNROLLED = ["scan_vs_unrolled", "--smoke", "--cell", "simple_rnn", "--lengths", "9,2", "--limit", "1e-9"]


@pytest.fixture(scope="module", autouse=True)
def jax_as_it_was():
    """The command line sets up JAX for a process of its own; here others use the same."""
    jax.devices()  # from now on their number is fixed
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a benchmark once: (result, stdout, stderr, directory)."""

    def run_once(arguments):
        directory = tmp_path_factory.mktemp("benchmark")
        outputs = ["--json", str(directory / "new" / "r.json"), "--plot", str(directory / "r.png")]
        with pytest.MonkeyPatch.context() as patch:
            out, err = directory / "out", directory / "err"
            with out.open("w") as stdout, err.open("w") as stderr:
                patch.setattr(sys, "stdout", stdout)
                patch.setattr(sys, "stderr", stderr)
                assert main([*arguments, *outputs]) == 0
        result = json.loads((directory / "new" / "r.json").read_text())
        return result, out.read_text(), err.read_text(), directory

    return run_once


@pytest.fixture(scope="module")
def scanned(run):
    return run(SCAN_VS_UNROLLED)


@pytest.fixture(scope="module")
def compared(run):
    return run(["implementations", "--smoke"])


def check_measurement(found):
    seconds = found["seconds"]
    assert 0 < seconds["lower_quartile"] <= seconds["median"] <= seconds["upper_quartile"]
    assert seconds["samples"] == 2 and seconds["calls_per_sample"] >= 1
    assert found["compile_seconds"] > 0
    assert {"temporary_bytes", "argument_bytes", "output_bytes"} == set(found["memory"])
    assert 0 <= found["difference"] <= 1e-5


def test_scan_vs_unrolled_has_every_case_with_every_quantity(scanned):
    result, _, _, _ = scanned
    assert result["settings"]["lengths"] == [2, 9]  # ascending, whatever was asked
    assert result["settings"]["batch"] == scan_vs_unrolled.SMOKE["batch"]
    labels = [(case["length"], case["label"]) for case in result["cases"]]
    assert labels == [(length, case.label) for length in (2, 9) for case in scan_vs_unrolled.CASES]
    for case in result["cases"]:
        for measured in measuring.PASSES:
            if "not_run" not in case[measured]:
                check_measurement(case[measured])


def test_scan_vs_unrolled_names_what_was_not_run(scanned):
    result, out, err, _ = scanned
    not_run = [
        (case["label"], measured, case[measured])
        for case in result["cases"]
        for measured in measuring.PASSES
        if "not_run" in case[measured]
    ]
    predicted = [one for one in not_run if "predicted_compile_seconds" in one[2]]
    # at T 9 unroll 2 holds three copies of the step where at T 2 it held two; the loops hold as many as there
    labels = ("scan, unroll 2", "scan, unroll 4", "scan, unroll 8", "scan, unroll 16", "unrolled")
    assert {one[:2] for one in predicted} == set(itertools.product(labels, measuring.PASSES))
    assert all(found["predicted_compile_seconds"] > result["settings"]["limit"] for _, _, found in predicted)
    for text in (out, err):
        assert text.count("not run: predicted compile time") == len(predicted)
        assert text.count("not run: ") == len(not_run)


def test_scan_vs_unrolled_marks_the_chosen_one_at_each_length(scanned):
    result, out, _, _ = scanned
    chosen = [case["label"] for case in result["cases"] if case["chosen"]]
    assert len(chosen) == 2 and out.count("(chosen)") == 2


def test_scan_vs_unrolled_goes_on_with_the_lengths_that_are_there(scanned, tmp_path, monkeypatch, capsys):
    whole, _, _, _ = scanned
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**whole, "cases": [case for case in whole["cases"] if case["length"] == 2]}))
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    assert main([*SCAN_VS_UNROLLED, "--resume", "--json", str(path)]) == 0
    again = json.loads(path.read_text())
    assert "T 9: compiling" in (err := capsys.readouterr().err) and "T 2: compiling" not in err
    assert [case["label"] for case in again["cases"]] == [case["label"] for case in whole["cases"]]
    assert again["cases"][: len(scan_vs_unrolled.CASES)] == whole["cases"][: len(scan_vs_unrolled.CASES)]
    predicted = [  # from the compile times of the earlier run
        [case["gradient"].get("predicted_compile_seconds") for case in result["cases"]] for result in (whole, again)
    ]
    assert predicted[0] == predicted[1] and any(predicted[0])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_result_is_shown_again(path, tmp_path, capsys):
    assert main(["show", str(path), "--plot", str(tmp_path / "r.png")]) == 0
    shown, result = capsys.readouterr().out, json.loads(path.read_text())
    assert shown.startswith(result["question"]) and result["environment"]["date"] in shown
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    page = path.with_suffix(".md")
    assert not page.exists() or page.read_text() == shown


def test_a_result_is_shown_as_it_was_printed(scanned, tmp_path, capsys):
    result, out, _, directory = scanned
    assert main(["show", str(directory / "new" / "r.json")]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("contents", [None, "", "[]", "{}", '{"benchmark": "epoch"}', '{"benchmark": "os"}'])
def test_only_a_result_is_shown(contents, tmp_path, capsys):
    if contents is not None:  # else there is no such file
        (tmp_path / "r.json").write_text(contents)
    assert main(["show", str(tmp_path / "r.json")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(
        "error: argument FILE: must be JSON that a benchmark wrote, got"
    )
    assert printed.err.count("\n") == 1


def test_every_implementation_is_a_case():
    assert {case.implementation for case in scan_vs_unrolled.CASES} == set(IMPLEMENTATIONS) - {
        "tabulated"
    }  # of inputs at hand
    assert len({case.label for case in scan_vs_unrolled.CASES}) == len(scan_vs_unrolled.CASES)
    assert len(scan_vs_unrolled.CASES) <= len(scan_vs_unrolled._MARKERS)


def test_scan_vs_unrolled_names_an_implementation_that_cannot_run_here(run, monkeypatch):
    right = measuring.layer_function

    def without_a_kernel(cell, measured, **how):
        if how["implementation"] == "hoisted":
            raise NotImplementedError("no kernel for\nthis device")
        return right(cell, measured, **how)

    cases = [case for case in scan_vs_unrolled.CASES if case.label in ("scan", "hoisted", "scan, remat")]
    monkeypatch.setattr(scan_vs_unrolled, "CASES", cases)
    monkeypatch.setattr(measuring, "layer_function", without_a_kernel)
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    result, out, err, _ = run(["scan_vs_unrolled", "--smoke", "--cell", "simple_rnn", "--lengths", "4"])
    found = {case["label"]: case["gradient"] for case in result["cases"]}
    assert found["hoisted"] == {"not_run": "NotImplementedError: no kernel for"}
    assert "seconds" in found["scan"] and "seconds" in found["scan, remat"]
    assert out.count("not run: NotImplementedError: no kernel for") == 2 == err.count("not run: NotImplementedError")


def test_a_result_says_what_it_was_measured_on(scanned):
    result, out, _, directory = scanned
    about = result["environment"]
    for name in ("date", "platform", "device", "processor", "python", "jax", "jaxlib", "numpy", "jaxseq"):
        assert isinstance(about[name], str) and about[name]
    assert about["devices"] == 1 and about["cores"] >= 1
    assert f"jax {about['jax']}" in out
    assert "XLA's estimate" in result["notes"]["memory"]
    assert (directory / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_result_says_which_variables_changed_what_was_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    about = measuring.describe_machine(1)
    assert about["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1" and "XLA_FLAGS" not in about
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**json.loads((RESULTS / "scaling.json").read_text()), "environment": about}))
    assert main(["show", str(path)]) == 0
    assert ", GLIBC_TUNABLES=glibc.malloc.hugetlb=1\n" in capsys.readouterr().out


def test_implementations_are_compared_at_every_shape(compared):
    result, out, _, directory = compared
    assert [case["hidden"] for case in result["cases"]] == [[hidden] for hidden in implementations.SMOKE["hidden"]]
    assert {case["option"] for case in result["cases"]} == {"dropout"} and result["failures"] == []
    for case in result["cases"]:
        assert list(case["implementations"]) == list(implementations.IMPLEMENTATIONS)
        for way in implementations.WAYS:
            for found in case["implementations"].values():
                check_measurement(found[way]["one"])
            seconds = {name: found[way]["one"]["seconds"] for name, found in case["implementations"].items()}
            surely = [
                name
                for name, own in seconds.items()
                if all(own["upper_quartile"] < seconds[other]["lower_quartile"] for other in {*seconds} - {name})
            ]
            pick = case["picks"][way]["one"]
            assert pick["chosen"] in implementations.IMPLEMENTATIONS and [pick["fastest"]] == (surely or [None])
    assert out.count("| gru ") == len(implementations.WAYS) * len(result["cases"])
    assert (directory / "r.png").read_bytes().startswith(b"\x89PNG")


def timings(**medians):
    """Implementations timed in a loop on one device, their quartiles a tenth around."""
    return {
        name: {
            "loop": {
                "one": {"seconds": {"median": value, "lower_quartile": 0.9 * value, "upper_quartile": 1.1 * value}}
            }
        }
        for name, value in medians.items()
    }


def test_implementations_say_how_the_choice_fares():
    picks = [
        (timings(scan=2.0, joint=1.0), "joint", "joint"),
        (timings(scan=1.0, joint=1.05), "joint", None),
        (timings(scan=1.0, joint=2.0, hoisted=3.0), "joint", "scan"),
        ({**timings(scan=1.0), "joint": {"failed": "it differs"}}, "joint", None),  # it is named, and has no time
        ({**timings(scan=1.0), "joint": {"loop": {}}}, "scan", None),
        (timings(scan=2.0, joint=1.0, hoisted=1.0), "scan", None),  # both are surely faster, and neither surely first
    ]
    cases = []
    for found, chosen, fastest in picks:
        assert implementations._surely_fastest(implementations._timings(found, "loop", "one")) == fastest
        cases.append({"implementations": found, "picks": {"loop": {"one": {"chosen": chosen, "fastest": fastest}}}})
    count, mean, most, beaten, least, middle, greatest, slower = implementations._fares(cases, "loop", "one")
    assert (count, beaten, slower) == ("5", "2", "1") and (most, least, greatest) == ("2.00", "0.50", "2.00")
    assert float(mean) == pytest.approx((1 + 1.05 + 2 + 1 + 2) / 5, abs=0.01)
    assert float(middle) == pytest.approx((2 + 1 / 1.05 + 0.5 + 1 + 1) / 5, abs=0.01)
    assert implementations._fares(cases[3:4], "loop", "one")[0] == "0"
    assert implementations._fares(cases, "loop", "sharded")[0] == "0"


def test_lookups_compares_a_table_with_the_rows_looked_up(run):
    result, out, _, directory = run(["lookups", "--smoke", "--devices", str(min(2, len(jax.devices())))])
    assert [case["table_size"] for case in result["cases"]] == [6, 3]  # T B is 6
    placements = {"one", "sharded"} if len(jax.devices()) > 1 else {"one"}
    for case in result["cases"]:
        assert list(case["implementations"]) == list(lookups.CANDIDATES)
        for found, way in itertools.product(case["implementations"].values(), lookups.WAYS):
            assert set(found[way]) == set(case["tabulates"][way]) == placements
            for measured in found[way].values():
                check_measurement(measured)
        assert not any(any(taken.values()) for taken in case["tabulates"].values())  # of so small a layer
    assert out.count("| gru ") == 2 * len(lookups.WAYS) * len(placements)
    assert (directory / "r.png").read_bytes().startswith(b"\x89PNG")


def test_lookups_say_how_the_choice_fares():
    cases = []
    for rows, tabulated, taken in ((2.0, 1.0, True), (1.0, 1.05, True), (1.0, 2.0, True), (1.0, 3.0, False)):
        tabulates = {"forward": {"one": False}, "loop": {"one": taken}}
        cases.append({"implementations": timings(rows=rows, tabulated=tabulated), "tabulates": tabulates})
    assert lookups._fares(cases, "loop", "one", True) == ["3", "0.50", "0.95", "2.00", "1", "1"]
    assert lookups._fares(cases, "loop", "one", False) == ["1", "0.33", "0.33", "0.33", "1", "0"]
    assert lookups._fares(cases, "loop", "sharded", True) == ["0"] + ["–"] * 5


def test_lookups_of_a_table_that_differs_end_the_run(monkeypatch, capsys):
    right = jaxseq.scan

    def with_a_mistake(cell, params, inputs, *, implementation):
        state, outputs = right(cell, params, inputs, implementation=implementation)
        return state, outputs if implementation is None else 1.01 * outputs

    monkeypatch.setattr(jaxseq, "scan", with_a_mistake)
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    assert main(["lookups", "--smoke"]) == 1
    error = "error: tabulated, forward, one, of gru, B2 T3 F3 H2 V6 must equal the first case within"
    assert capsys.readouterr().err.splitlines()[-1].startswith(error)


def test_an_implementation_that_differs_is_not_timed_and_the_run_fails(monkeypatch, tmp_path, capsys):
    right = jaxseq.scan

    def with_a_mistake(cell, params, inputs, *, implementation, **how):
        state, outputs = right(cell, params, inputs, implementation=implementation, **how)
        return state, outputs if implementation == "scan" else 1.01 * outputs

    monkeypatch.setattr(jaxseq, "scan", with_a_mistake)
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    path = tmp_path / "r.json"
    assert main(["implementations", "--smoke", "--ways", "forward", "--hidden", "2", "--json", str(path)]) == 1
    [case] = json.loads(path.read_text())["cases"]
    assert [list(found) for found in case["implementations"].values()] == [["forward"], *[["failed"]] * 3]
    error = "error: joint, gru, B2 T3 F3 H2, dropout: UnequalResults: joint, forward, one, of gru"
    assert capsys.readouterr().err.splitlines()[-3].startswith(error)


def test_list_names_every_benchmark(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["against_peers", "epoch", "implementations", "lookups", "scaling", "scan_vs_unrolled"]
    assert all(line.endswith("?") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ("COMMAND",)),
        (["show"], ("FILE",)),
        (["nothing"], ("COMMAND", "scan_vs_unrolled", "'nothing'")),
        (["scan_vs_unrolled", "--lengths", "3,0"], ("--lengths", "at least 1", "'3,0'")),
        (["scan_vs_unrolled", "--lengths", ""], ("--lengths", "at least 1", "''")),
        (["scan_vs_unrolled", "--batch", "x"], ("--batch", "at least 1", "'x'")),
        (["scan_vs_unrolled", "--repeats", "0"], ("--repeats", "at least 1", "'0'")),
        (["scan_vs_unrolled", "--cell", "rnn"], ("--cell", "simple_rnn", "'rnn'")),
        (["scan_vs_unrolled", "--limit", "nan"], ("--limit", "above 0", "'nan'")),
        (["scan_vs_unrolled", "--plot", "a.pdf"], ("--plot", ".png", "'a.pdf'")),
        (["scan_vs_unrolled", "--json", "/proc/none/a.json"], ("--json", "written", "/proc/none/a.json")),
        (["scan_vs_unrolled", "--json", "/"], ("--json", "written", "directory")),
        (["scan_vs_unrolled", "--smoke", "--devices", "99"], ("--devices", "at most", "99")),
        (["implementations", "--smoke", "--devices", "0"], ("--devices", "all or", "at least 1", "'0'")),
        (["implementations", "--smoke", "--length", "-1"], ("--length", "at least 1", "'-1'")),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, words, capsys):
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    assert code == 2 and printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert all(word in printed.err for word in words)


def test_unequal_results_are_an_error_and_nothing_is_timed(monkeypatch, capsys):
    right = measuring.layer_function

    def with_a_mistake(cell, measured, *, implementation, **how):
        function = right(cell, measured, implementation=implementation, **how)
        if implementation == "scan":
            return function
        return lambda *arguments: jax.tree.map(lambda leaf: 1.01 * leaf, function(*arguments))

    def never(*_, **__):
        raise AssertionError("timed")

    monkeypatch.setattr(measuring, "layer_function", with_a_mistake)
    monkeypatch.setattr(measuring, "time_interleaved", never)
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    assert main(["scan_vs_unrolled", "--smoke", "--cell", "simple_rnn", "--lengths", "4"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("error: joint at T 4, forward, must equal the first case within")


@pytest.mark.parametrize("wrong", [1.001, np.nan])
def test_check_equal(wrong):
    reference = {"a": jnp.array([1.0, -2.0]), "b": jnp.zeros(3)}
    assert measuring.check_equal("copy", reference, reference) == 0
    with pytest.raises(measuring.UnequalResults, match="copy"):
        measuring.check_equal("copy", {**reference, "a": jnp.array([wrong, -2.0])}, reference)


@pytest.mark.parametrize(
    ("known", "copies", "seconds"),
    [
        ({}, 10, None),
        ({10: 2.0}, 10, None),
        ({10: 2.0}, 5, None),
        ({10: 2.0}, 30, 18.0),  # one time: the square
        ({10: 2.0, 20: 4.0}, 40, 8.0),  # linear
        ({10: 2.0, 20: 2.0}, 40, 4.0),  # at least linear
        ({10: 2.0, 20: 80.0}, 40, 320.0),  # at most the square
        ({5: 9.0, 20: 4.0, 10: 2.0}, 40, 8.0),  # the two greatest
    ],
)
def test_predicted_compile_time(known, copies, seconds):
    assert scan_vs_unrolled.predict_seconds(known, copies) == (seconds and pytest.approx(seconds))


@pytest.mark.parametrize(
    ("known", "copies", "limit", "rungs"),
    [
        ({}, 31, 300, []),  # few enough to compile at once
        ({}, 40, 300, [10]),
        ({}, 2000, 300, [10, 30, 90, 270]),  # 30 s at 90 copies, 270 s at 270: a next one is over the limit
        ({}, 2000, 250, [10, 30, 90]),
        ({}, 2000, 0.1, [10]),
        ({100: 37.0}, 400, 300, []),
        ({100: 37.0}, 401, 300, []),  # 300 copies are over the limit already
        ({2: 0.1}, 30, 300, [6, 18]),
    ],
)
def test_predictions_reach_no_further_than_was_compiled(known, copies, limit, rungs):
    compiled = []

    def seconds_of(rung):
        compiled.append(rung)
        return 0.3 + rung**2 / 270

    scan_vs_unrolled.climb(known, copies, limit, seconds_of)
    assert compiled == rungs


@pytest.mark.parametrize("repeats", [1, 5])
def test_every_round_samples_every_run(repeats):
    called = {"a": 0, "b": 0}

    def run(name):
        called[name] += 1
        time.sleep(1.2 * measuring._SECONDS_PER_SAMPLE)  # one call each

    timings = measuring.time_interleaved({name: lambda name=name: run(name) for name in called}, repeats)
    assert called == {"a": repeats, "b": repeats}
    assert all(timing.samples == repeats for timing in timings.values())


def test_a_short_call_is_repeated_within_a_sample():
    timing = measuring.time_interleaved({"a": lambda: None}, 3)["a"]
    assert timing.samples == 3 and timing.calls_per_sample > 100


def test_rounds_end_after_the_seconds_given_but_not_before_three():
    timings = measuring.time_interleaved({"a": lambda: time.sleep(0.03)}, 100, seconds=0.01)
    assert timings["a"].samples == 3


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_devices_share_the_batch(compared, tmp_path):
    command = ["implementations", "--smoke", "--devices", "2", "--json", str(tmp_path / "r.json")]
    process = start(*command, JAX_DISABLE_MOST_OPTIMIZATIONS="1")  # as conftest's `compiled_quickly`
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["environment"]["devices"] == result["settings"]["devices"] == 2
    for case in result["cases"]:
        for way in implementations.WAYS:
            for found in case["implementations"].values():
                check_measurement(found[way]["sharded"])
                sizes = [found[way][placement]["memory"]["argument_bytes"] for placement in ("one", "sharded")]
                assert sizes[1] < sizes[0]
    assert all("sharded" not in case["picks"]["loop"] for case in compared[0]["cases"])


@pytest.mark.parametrize(("name", "default"), [("implementations", "all"), ("scan_vs_unrolled", "1")])
def test_help_says_how_many_devices_are_taken(name, default, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    _, _, about_devices = capsys.readouterr().out.partition("\n  --devices N")
    about_devices, _, _ = about_devices.partition("\n  --")
    assert " ".join(about_devices.split()).endswith(f"(default: {default})")


def test_ctrl_c_is_one_line_and_does_not_wait_for_the_compiler(tmp_path):
    # thirty copies of the step compile for many seconds
    process = start(
        "scan_vs_unrolled", "--lengths", "30", "--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")
    )
    for line in process.stderr:
        if line.startswith("T 30: compiling"):
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)  # at once on an idle machine; a loaded one takes its time
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted") and "Traceback" not in err
    assert not list(tmp_path.iterdir())
