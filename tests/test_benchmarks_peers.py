"""Every peer computes what jaxseq computes; what cannot be compared is named; ratios, loops and slopes are right."""

import dataclasses
import functools
import itertools
import json
import sys
import types

import jax
import numpy as np
import pytest

from benchmarks import __main__ as entry
from benchmarks import against_peers, comparison, measuring, peers, record, scaling
from benchmarks.peers import OURS, PEERS, Work
from jaxseq.choice import IMPLEMENTATIONS

pytestmark = pytest.mark.usefixtures("compiled_quickly")

OTHERS = [name for name in PEERS if name != OURS]


def imported(name):
    """Skips where an optional peer is not installed: CI installs Flax and Keras only."""
    pytest.importorskip(PEERS[name].module, reason=f"{name} comes with the extra {PEERS[name].extra}")
    return name


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """LLVM's effort is for speed, which these programs do not need: it takes nearly half of their time."""
    quick = types.SimpleNamespace(**vars(jax))
    quick.jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    monkeypatch.setattr(measuring, "jax", quick)


@functools.cache
def data_and_reference(work, way):
    """The work's data, and what jaxseq makes of them."""
    placed, references = comparison._Placed(peers.draw(work)), {}
    comparison._compile_and_compare(PEERS[OURS], work, placed, (way,), {"one": 1}, references)
    return placed, references


def compare(name, work, way):
    """Raises UnequalResults where a peer gives something else than jaxseq."""
    placed, references = data_and_reference(work, way)
    found, _ = comparison._compile_and_compare(PEERS[name], work, placed, (way,), {"one": 1}, references)
    [measured] = found[way].values()
    assert measured["difference"] < 1e-5


# A plain call is one with lengths less the mask, and is compared by the runs below: here only by who has no lengths.
@pytest.mark.parametrize("option", ["lengths", "dropout"])
@pytest.mark.parametrize("cell", measuring.CELLS)
@pytest.mark.parametrize("name", OTHERS)
def test_a_peer_gives_what_jaxseq_gives_or_says_why_it_cannot(name, cell, option):
    peer = PEERS[imported(name)]
    if option == "lengths" and option in peer.cannot:
        option = "plain"
    work = Work(cell, option, 2, 2, 3, (2,))
    assert bool(peer.reason(work)) == (cell in peer.cannot or option in peer.cannot)
    if not peer.reason(work):
        compare(name, work, "forward" if option == "dropout" else "gradient")  # the masks have no gradients


@pytest.mark.parametrize(
    ("name", "option", "way"),
    [
        ("plain_scan", "lengths", "forward"),
        ("keras", "dropout", "forward"),
        ("keras", "plain", "gradient"),
        ("pytorch", "plain", "gradient"),
        ("pytorch", "lengths", "loop"),
    ],
)
def test_two_layers_in_both_directions(name, option, way):
    compare(imported(name), Work("simple_rnn", option, 2, 2, 3, (2, 3), bidirectional=True), way)


def test_only_jaxseq_keras_and_a_scan_by_hand_drop_out():
    able = [name for name in PEERS if not PEERS[name].reason(Work("lstm", "dropout", 1, 1, 1, (1,)))]
    assert able == [OURS, "plain_scan", "keras"]


def test_padding_counts_for_nothing():
    data = peers.draw(Work("lstm", "lengths", 6, 8, 2, (2,)))
    assert data.lengths is not None and data.lengths.max() == 8 and data.lengths.min() < 8
    assert not data.cotangents[~data.real[..., 0]].any() and data.cotangents[data.real[..., 0]].all()


# The benchmark


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs a benchmark on the devices and with the compilation cache that the tests have."""
    monkeypatch.setattr(entry, "_make_devices", lambda number: number or 1)

    def run_once(*arguments):
        code = entry.main([*arguments, "--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")])
        result = json.loads((tmp_path / "r.json").read_text())
        assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
        return code, result, capsys.readouterr()

    return run_once


SMOKE = ("against_peers", "--smoke")
VERDICTS = ((1.5, "ahead"), (0.8, "even"), (0.9, "behind"))


def test_a_run_that_ends_early_is_gone_on_with(run, monkeypatch):
    arguments = (*SMOKE, "--ways", "forward", "--peers", "plain_scan", "--cells", "simple_rnn,lstm")
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    _, late, printed = run(*arguments, "--total", "1e-9")
    assert ["not_run" in case for case in late["cases"]] == [True, True]
    assert printed.out.count("not run: the run's 1e-09 s were over") == 2

    right, asked = comparison.measure_work, []

    def interrupted(work, *others, **settings):
        asked.append(work.cell)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return right(work, *others, **settings)

    monkeypatch.setattr(comparison, "measure_work", interrupted)
    code, stopped, printed = run(*arguments, "--resume")
    assert code == 130 and [case["cell"] for case in stopped["cases"]] == ["lstm"] == asked[:1]
    assert "1 cases are in" in printed.err and "--resume" in printed.err
    _, whole, _ = run(*arguments, "--resume")
    assert asked == ["lstm", "simple_rnn", "simple_rnn"]
    assert whole["cases"][0] == stopped["cases"][0] and len(whole["cases"]) == 2 and whole["failures"] == []
    assert run(*arguments, "--resume")[1]["cases"] == whole["cases"] and len(asked) == 3
    more = ("--shapes", "1x2x2x2,2x3x2x2")  # of two shapes in place of one
    _, longer, _ = run(*arguments, *more, "--resume")
    assert longer["cases"][2:] == whole["cases"] and len(asked) == 5
    code, _, printed = run(*arguments, "--resume")  # of fewer: cases would be lost
    words = "must be of some of the settings.shapes, ['2x3x2x2'], got ['1x2x2x2', '2x3x2x2']"
    assert code == 2 and words in printed.err
    assert run(*arguments)[1]["cases"] != whole["cases"] and len(asked) == 7  # unasked, nothing is kept


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", "is not the result of a benchmark"),
        ('{"benchmark": "epoch", "cases": []}', "is not the result of a benchmark"),
        ({"benchmark": "epoch"}, "must be of the same benchmark, 'scaling', got 'epoch'"),
        ({"settings": {"repeats": 3}}, "must be of the same settings.repeats, 5, got 3; --json FILE begins another"),
        ({"environment": {"date": "x", "jax": "0.1"}}, "must be of the same environment.jax, '0.2', got '0.1'"),
        (
            {"environment": {"date": "x", "jax": "0.2", "XLA_FLAGS": "--y"}},
            "must be of the same environment.XLA_FLAGS, None, got '--y'",
        ),
    ],
)
def test_only_cases_of_the_same_machine_and_settings_are_kept(tmp_path, before, words):
    path = tmp_path / "r.json"
    about = {
        "benchmark": "scaling",
        "settings": {"repeats": 5},
        "environment": {"date": "y", "load_average_before": 1.0, "jax": "0.2"},
    }
    assert record.Record(path, about, resume=True).earlier() == []  # no file yet
    path.write_text(before if isinstance(before, str) else json.dumps({**about, "cases": [], **before}))
    with pytest.raises(measuring.WrongArgument) as error:
        record.Record(path, about, resume=True)
    assert str(error.value).startswith(f"argument --resume: {path} {words}")
    about["environment"] |= {"date": "x", "load_average_before": 2.0}
    record.Record(path, about).add({"size": (1, 2), "found": 3})
    again = record.Record(path, {**about, "environment": {**about["environment"], "date": "z"}}, resume=True)
    assert again.case({"size": (1, 2)}, lambda: pytest.fail("measured")) == {"size": [1, 2], "found": 3}
    assert again.earlier(size=(1, 3)) == [] and again.measured == 0


def test_cases_beside_other_peers_are_not_kept(tmp_path):
    path, about = tmp_path / "r.json", {"benchmark": "scaling", "settings": {}, "environment": {}}
    first = record.Record(path, about)
    assert first.add_about("peers", {"keras": {"version": "3.1"}}) == {"keras": {"version": "3.1"}}
    first.add({"found": 3})
    again = record.Record(path, about, resume=True)
    with pytest.raises(measuring.WrongArgument, match=r"must be of the same peers\.keras, .*3\.2.*, got .*3\.1"):
        again.add_about("peers", {"keras": {"version": "3.2"}})
    again.add_about("peers", {"keras": {"version": "3.1"}})
    assert again.earlier() == [{"found": 3}]


def test_against_peers_has_every_quantity_of_every_way_and_placement(run):
    code, result, printed = run(*SMOKE, "--devices", "2", "--peers", "plain_scan", "--limit", "inf")
    assert code == 0 and result["failures"] == []
    assert result["settings"]["limit"] is None  # JSON knows no infinity
    assert result["environment"]["devices"] == result["settings"]["devices"] == 2
    [case] = result["cases"]
    for placement in comparison.PLACEMENTS:
        [layer] = case["chosen"][placement]
        assert layer in IMPLEMENTATIONS
    for name in (OURS, "plain_scan"):
        assert result["peers"][name]["version"]
        for way in against_peers.SMOKE["ways"]:
            for placement in comparison.PLACEMENTS:
                found = case["implementations"][name][way][placement]
                seconds = found["seconds"]
                assert 0 < seconds["lower_quartile"] <= seconds["median"] <= seconds["upper_quartile"]
                assert seconds["samples"] == 2 and found["compile_seconds"] > 0
                assert found["memory"]["temporary_bytes"] > 0 and found["difference"] < 1e-5
    ours, theirs = (
        case["implementations"][name]["loop"]["sharded"]["seconds"]["median"] for name in (OURS, "plain_scan")
    )
    ratios = case["ratios"]["forward + backward in a training loop, sharded"]
    assert ratios["plain_scan"]["median"] == pytest.approx(theirs / ours, rel=1e-3)
    used = case["implementations"]["plain_scan"]["gradient"]["one"]["seconds"]["median"] / ours
    assert case["ratios"][against_peers.AS_USED.title]["plain_scan"]["median"] == pytest.approx(used, rel=1e-3)
    for heading in (against_peers.AS_USED.title, "temporary memory, MB", "compile time, s"):
        assert f"### {heading}" in printed.out


def test_every_way_of_one_device(run):
    code, result, printed = run(*SMOKE, "--peers", "plain_scan")
    assert code == 0 and list(result["cases"][0]["chosen"]) == ["one"]
    assert f"### {against_peers.AS_USED.title}" in printed.out  # ours of one device, where no batch can be sharded


def test_a_missing_peer_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "haiku", None)  # as if it were not installed
    code, result, printed = run(*SMOKE, "--peers", "haiku", "--ways", "gradient")
    assert code == 0
    assert "pip install dm-haiku" in result["peers"]["haiku"]["missing"]
    assert "Haiku: MISSING: not installed" in printed.out and "Haiku: not installed" in printed.err
    assert list(result["cases"][0]["implementations"]) == [OURS]


def test_what_a_peer_cannot_do_is_named(run):
    code, result, printed = run(*SMOKE, "--peers", "flax_linen", "--cells", "gru", "--ways", "gradient")
    assert code == 0
    assert result["cases"][0]["implementations"]["flax_linen"] == {"cannot": PEERS["flax_linen"].cannot["gru"]}
    assert "Flax Linen cannot: gru, plain: its GRU resets after the product only" in printed.out


def test_a_peer_that_differs_is_not_timed_and_the_run_fails(run, monkeypatch):
    def with_a_mistake(cell, params):
        right = PEERS[OURS].gradients(cell, params)
        return {**right, "bias": 1.01 * right["bias"]}

    wrong = dataclasses.replace(PEERS["plain_scan"], gradients=with_a_mistake)
    monkeypatch.setitem(PEERS, "plain_scan", wrong)
    code, result, printed = run(*SMOKE, "--peers", "plain_scan", "--ways", "gradient")
    assert code == 1
    [failure] = result["failures"]
    assert failure.startswith(
        "plain scan, lstm, B2 T3 F2 H2, plain: UnequalResults: plain scan, gradient, one, of lstm"
    )
    assert list(result["cases"][0]["implementations"]["plain_scan"]) == ["failed"]
    assert "FAILED, not timed" in printed.out and "FAILED" not in printed.err and failure in printed.err


def test_every_loss_is_listed_the_greatest_first():
    def case(batch, median, verdict):
        one = {"median": median, "lower": 0.5, "upper": 1.5, "verdict": verdict}
        return {
            **Work("lstm", "plain", batch, 3, 2, (2,))._asdict(),
            "ratios": {against_peers.VIEWS[0].title: {"keras": one}},
        }

    cases = [case(1, 0.9, "behind"), case(2, 0.99, "even"), case(3, 0.8, "behind"), case(4, 1.2, "ahead")]
    lines = against_peers._losses({"cases": cases}).splitlines()[4:]
    assert ["B3" in lines[0], "0.80 (0.50-1.50) behind" in lines[0], "B1" in lines[1]] == [True] * 3 and len(lines) == 2
    assert against_peers._losses({"cases": cases[1::2]}) == ""


def test_behind_any_of_a_group_is_behind():
    ahead, even, behind = ({"median": median, "verdict": verdict} for median, verdict in VERDICTS)
    assert against_peers._verdict([ahead]) == "ahead" and against_peers._verdict([ahead, even]) == "even"
    assert against_peers._verdict([ahead, even, behind]) == "behind"  # though even has the least median


def test_cases_that_were_behind_are_measured_again(run, tmp_path):
    def earlier(*cases):
        path = tmp_path / "earlier.json"
        found = [
            {**Work(cell, "plain", 2, 3, 2, (2,))._asdict(), "ratios": {view: {peer: {"verdict": verdict}}}}
            for cell, view, peer, verdict in cases
        ]
        path.write_text(json.dumps({"cases": [*found, {**found[0], "not_run": "late"}]}))
        return str(path)

    titles = {(view.ours, view.theirs): view.title for view in against_peers.VIEWS}
    loop, called, sharded = (
        titles[(place, place)] for place in (("loop", "one"), ("gradient", "one"), ("loop", "sharded"))
    )
    path = earlier(
        ("lstm", loop, "plain_scan", "behind"),
        ("gru", loop, "plain_scan", "even"),
        ("gru_reset_after", loop, "keras", "behind"),
        ("gru_reset_after", called, "plain_scan", "behind"),
        ("simple_rnn", sharded, "plain_scan", "behind"),
    )
    cells = ",".join(measuring.CELLS)
    arguments = (*SMOKE, "--ways", "loop", "--peers", "plain_scan", "--cells", cells, "--behind", path)
    code, result, _ = run(*arguments)
    assert code == 0 and [case["cell"] for case in result["cases"]] == ["lstm"]
    assert result["settings"]["behind"] == path and result["cases"][0]["ratios"][loop]
    _, result, _ = run(*arguments, "--devices", "2")
    assert [case["cell"] for case in result["cases"]] == ["lstm", "simple_rnn"]


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "must be JSON that against_peers wrote, got {} (FileNotFoundError"),
        ("{", "must be JSON that against_peers wrote, got {} (JSONDecodeError"),
        ('{"cases": [1]}', "must be JSON that against_peers wrote, got {} (AttributeError"),
        ('{"cases": []}', "no case asked for is behind in {}"),
    ],
)
def test_only_cases_of_an_earlier_result_are_measured_again(contents, words, tmp_path, capsys):
    path = tmp_path / "earlier.json"
    if contents is not None:
        path.write_text(contents)
    assert entry.main([*SMOKE, "--peers", "plain_scan", "--behind", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: argument --behind: {words.format(path)}") and printed.out == ""


def test_cases_after_the_total_time_are_named(run):
    code, result, printed = run(*SMOKE, "--peers", "plain_scan", "--cells", "lstm,gru", "--total", "1e-9")
    assert code == 0
    assert [case["not_run"] for case in result["cases"]] == ["the run's 1e-09 s were over"] * 2
    assert printed.out.count("not run: the run's") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "all"], ("--shapes", "documents,grid", "'all'")),
        (["--shapes", "1x2x3"], ("--shapes", "128x240x14x32+64", "'1x2x3'")),
        (["--shapes", "1x2x3x4x5"], ("--shapes", "'1x2x3x4x5'")),
        (["--cells", "rnn"], ("--cells", "simple_rnn", "'rnn'")),
        (["--peers", "jaxseq"], ("--peers", "keras", "'jaxseq'")),
        (["--total", "0"], ("--total", "above 0", "'0'")),
    ],
)
def test_a_wrong_argument_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        entry.main([*SMOKE, *arguments])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert all(word in printed.err for word in words)


def test_a_run_that_ends_early_has_something_of_every_shape_and_kind():
    kinds = [(cell, option) for cell in measuring.CELLS for option in peers.OPTIONS]
    small, alike, large = shapes = against_peers._shapes(("2x9x4x4", "3x9x4x4", "128x2000x512x512"))
    works = against_peers.in_turn(shapes, kinds)
    assert set(works) == {Work(*kind, *shape) for shape in shapes for kind in kinds}
    assert len(works) == len(shapes) * len(kinds)
    assert [work[2:] for work in works] == [small, alike] * len(kinds) + [large] * len(kinds)
    assert works[0][:2] != works[1][:2]


def test_shapes_by_name_and_by_size():
    assert len(against_peers._shapes(("documents",))) == 6 and len(against_peers._shapes(("grid",))) == 27
    stack, both = against_peers._shapes(("128x240x14x32+64", "128x500x32x32x2"))
    assert stack == (128, 240, 14, (32, 64), False) and both == (128, 500, 32, (32,), True)
    assert Work("gru", "plain", *stack).layers == [(14, 32), (32, 64)]
    assert Work("lstm", "plain", 1, 1, 3, (4, 5), bidirectional=True).layers == [(3, 4), (8, 5)]


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ((1.0, 2.0, 3.0), (4.0, 6.0, 8.0), (3.0, 4 / 3, 8.0, "ahead")),
        ((1.0, 2.0, 3.0), (2.5, 3.0, 4.0), (1.5, 2.5 / 3, 4.0, "even")),
        ((4.0, 6.0, 8.0), (1.0, 2.0, 3.0), (1 / 3, 1 / 8, 3 / 4, "behind")),
    ],
)
def test_ratio(ours, theirs, expected):
    names = ("lower_quartile", "median", "upper_quartile")
    found = comparison.ratio(dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True)))
    assert found[:3] == pytest.approx(expected[:3]) and found.verdict == expected[3]


@pytest.mark.parametrize(("seconds", "steps"), [(1e-4, 2000), (0.1, 8), (0.5, 8), (1.0, 4), (3.0, 1), (30.0, 1)])
def test_a_loop_is_long_enough_to_hide_its_call_and_short_enough_to_wait_for(seconds, steps):
    assert comparison.loop_steps(seconds) == steps


@pytest.mark.parametrize(("batch", "devices", "sharded"), [(128, 2, 2), (6, 4, 3), (1, 8, None), (7, 2, None)])
def test_a_batch_is_sharded_over_as_many_devices_as_divide_it(batch, devices, sharded):
    found = comparison.placements(batch, devices)
    assert found == {"one": 1} | ({} if sharded is None else {"sharded": sharded})


# Scaling


def test_scaling_fits_slopes_to_every_size(run, monkeypatch):
    def measure_work(work, candidates, *, ways, placements, repeats, seconds):
        assert placements == {"one": 1}
        time = dict.fromkeys(("lower_quartile", "median", "upper_quartile"), work.length * work.batch**0.5)
        memory = {"temporary_bytes": 10**6 * work.hidden[0] ** 2}
        found = {way: {"one": {"memory": memory, "seconds": time}} for way in ways}
        return {"implementations": dict.fromkeys(candidates, found) | {"pytorch": {"cannot": "it is absent"}}}

    monkeypatch.setattr(comparison, "measure_work", measure_work)
    monkeypatch.setattr(measuring, "warm_up_compiler", lambda: None)
    code, result, printed = run("scaling", "--peers", "plain_scan", "--points", "3")
    assert code == 0
    assert [case["size"] for case in result["cases"]] == [40, 400, 4000, 8, 80, 800, 8, 80, 800]
    slopes = {(one["axis"], one["implementation"], one["quantity"]): one["slope"] for one in result["slopes"]}
    expected = {("T", "seconds"): 1, ("B", "seconds"): 0.5, ("H", "seconds"): 0, ("H", "memory"): 2, ("T", "memory"): 0}
    for name, ((axis, quantity), value) in itertools.product((OURS, "plain_scan"), expected.items()):
        assert slopes[axis, name, quantity] == pytest.approx(value, abs=1e-9)
    assert "| lstm | H     | forward            | temporary memory | 2.00   | 2.00       |" in printed.out


def test_slope_is_the_exponent_of_a_power_law():
    assert scaling.slope({size: 3 * size**1.5 for size in (2, 7, 200)}) == pytest.approx(1.5)
    assert scaling.slope({2: 1.0}) is None and scaling.slope({2: 0.0, 4: 1.0}) is None


def test_sizes_grow_by_the_same_factor():
    assert scaling.sizes(40, 100, 5) == [40, 126, 400, 1265, 4000]
    assert scaling.sizes(1, 2, 5) == [1, 2]
    assert np.prod(scaling.sizes(8, 100, 2)) == 8 * 800
