"""The report: rules on made-up results, the list of claims, the Markdown, and the page as a browser would read it."""

import copy
import hashlib
import html.parser
import itertools
import json
import re

import numpy as np
import pytest

from experiments import claims, judging, page, plots, report
from experiments.__main__ import main
from experiments.catalogue import EXPERIMENTS
from experiments.experiment import UserError, summarize
from experiments.judging import CONFIRMED, NOT_RUN, NOT_TESTABLE, REFUTED

HISTORY = [{"loss": [0.5, 0.3, 0.2], "val_loss": [0.6, 0.4, 0.5 + seed / 10]} for seed in range(3)]


def made(name="made", accuracies=(0.8, 0.8, 0.8), **fields):
    """A result as `run` writes it, of three seeds and a best validation accuracy."""
    figures = {"best": {"val_accuracy": summarize(accuracies)}, "final": {"val_loss": summarize([0.5, 0.6, 0.7])}}
    result = {
        "name": name,
        "title": "made up",
        "document": "000_4f71939621a73aa8.txt",
        "documented": "validation accuracy about 80 %",
        "figure": {"quantity": "best val_accuracy", "value": 0.8},
        "smoke": False,
        "label": "",
        "data": {"kind": "real", "name": "data", "files": [{"name": "file", "sha256": "0" * 64, "published": True}]},
        "notes": [],
        "units": None,
        "parameters": {"total": 1_320_065, "trainable": 320_065, "documented": None},
        "seeds": list(range(len(accuracies))),
        "epochs": 3,
        "training_seconds": 9.0,
        "history": HISTORY[: len(accuracies)],
        "figures": figures,
        "variants": [],
        "seconds": 10.0,
    }
    return result | fields


def results(**accuracies):
    return {name: made(name, values) for name, values in accuracies.items()}


def verdict(rule, found):
    return judging.apply(rule, found).verdict


# Rules


A, B = judging.trained("a"), judging.trained("b")


@pytest.mark.parametrize(
    "a, b, more, fewer",
    [
        ((0.80, 0.81, 0.79), (0.70, 0.71, 0.69), CONFIRMED, REFUTED),
        ((0.70, 0.71, 0.69), (0.80, 0.81, 0.79), REFUTED, CONFIRMED),
        ((0.800, 0.801, 0.799), (0.801, 0.799, 0.800), REFUTED, REFUTED),  # no difference, and one would have shown
        ((0.70, 0.80, 0.90), (0.60, 0.80, 0.95), NOT_TESTABLE, NOT_TESTABLE),  # the seeds differ too much
        ((0.80,), (0.70,), NOT_TESTABLE, NOT_TESTABLE),  # one seed
    ],
)
def test_a_difference_counts_beyond_twice_its_standard_error(a, b, more, fewer):
    found = results(a=a, b=b)
    assert verdict(judging.greater(A, B), found) == more
    assert verdict(judging.less(A, B), found) == fewer
    opposite = {CONFIRMED: REFUTED, REFUTED: CONFIRMED, NOT_TESTABLE: NOT_TESTABLE}
    assert verdict(judging.opposite(judging.greater(A, B)), found) == opposite[more]


def test_the_standard_error_is_that_of_both_means():
    # deviations 0.03 and 0.04, three seeds each: √(0.03²/3 + 0.04²/3) = 0.0289, twice that is 0.0577
    a, b = (0.77, 0.80, 0.83), (0.76, 0.80, 0.84)
    shifted = tuple(value - 0.057 for value in b)
    assert verdict(judging.greater(A, B), results(a=a, b=shifted)) == NOT_TESTABLE
    shifted = tuple(value - 0.059 for value in b)
    assert verdict(judging.greater(A, B), results(a=a, b=shifted)) == CONFIRMED


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((0.80, 0.81, 0.79), (0.81, 0.82, 0.80), CONFIRMED),
        ((0.80, 0.81, 0.79), (0.90, 0.91, 0.89), REFUTED),
        ((0.70, 0.80, 0.90), (0.60, 0.80, 1.00), CONFIRMED),
        ((0.70, 0.80, 0.90), (0.65, 0.75, 0.85), NOT_TESTABLE),
    ],
)
def test_alike_is_within_two_points(a, b, expected):
    assert verdict(judging.alike(A, B), results(a=a, b=b)) == expected


def test_documented_figures_and_limits():
    found = results(a=(0.88, 0.89, 0.87))
    assert verdict(judging.near(A, 0.90), found) == CONFIRMED
    assert verdict(judging.near(A, 0.901), found) == REFUTED
    assert verdict(judging.within(A, 0.55, 0.60), found) == REFUTED
    assert verdict(judging.at_least(A, 0.88), found) == CONFIRMED
    assert verdict(judging.at_most(A, 0.87), found) == REFUTED
    other = {"a": made("a", (0.88, 0.89, 0.87), notes=["not the document's file, but another"])}
    assert verdict(judging.near(A, 0.90), other) == NOT_TESTABLE
    assert verdict(judging.at_least(A, 0.88), other) == CONFIRMED  # a limit of ours holds on any data


@pytest.mark.parametrize(
    "changed",
    [
        {"smoke": True},
        {"data": {"kind": "synthetic", "name": "data", "files": []}},
        {"figures": {"best": {}}},
    ],
)
def test_what_says_nothing_is_not_run(changed):
    assert verdict(judging.near(A, 0.8), {}) == NOT_RUN
    assert verdict(judging.near(A, 0.8), {"a": made("a") | changed}) == NOT_RUN
    assert verdict(judging.near(judging.trained("a", label="none"), 0.8), {"a": made("a")}) == NOT_RUN
    assert verdict(judging.at_most(judging.studied("a", "none"), 1), {"a": made("a")}) == NOT_RUN


def test_a_result_of_too_few_epochs_is_not_run():
    source = judging.trained("imdb_lstm")
    short = {"imdb_lstm": made("imdb_lstm", epochs=9)}
    assert verdict(judging.near(source, 0.8), short) == NOT_RUN
    assert "9 of 10 epochs" in judging.apply(judging.near(source, 0.8), short).why
    assert verdict(judging.near(source, 0.8), {"imdb_lstm": made("imdb_lstm", epochs=10)}) == CONFIRMED
    study = {"figures": {"lengths": 3}, "tables": {"title": [["row", "place"], ["found", 2]]}}
    for source in (judging.studied("imdb_lstm", "lengths"), judging.tabled("imdb_lstm", "title", "found", "place")):
        for epochs, expected in ((9, NOT_RUN), (10, CONFIRMED), (11, NOT_RUN)):
            found = {"imdb_lstm": made("imdb_lstm", epochs=epochs, study=study)}
            assert verdict(judging.at_most(source, 3), found) == expected


def test_a_claim_of_several_parts():
    found = results(a=(0.80, 0.81, 0.79), b=(0.70, 0.71, 0.69))
    good, bad = judging.greater(A, B), judging.less(A, B)
    missing, open_ = judging.near(judging.trained("c"), 1), judging.untestable("none could")
    for parts, expected in (
        ({"one": good, "two": good}, CONFIRMED),
        ({"one": good, "two": open_}, NOT_TESTABLE),
        ({"one": open_, "two": missing}, NOT_RUN),
        ({"one": missing, "two": bad}, REFUTED),
    ):
        judged = judging.apply(judging.every(parts), found)
        assert judged.verdict == expected
        assert [name for name, _ in judged.parts] == list(parts)


def test_sources_read_studies_tables_and_histories():
    study = {
        "figures": {"plain": 3, "of seeds": summarize([1.0, 2.0, 3.0]), "counted": "9 of 10", "yes": True},
        "tables": {"title": [["row", "place"], ["found", 2], ["missing", None]]},
    }
    found = {"a": made("a", study=study)}
    assert judging.studied("a", "plain")(found).mean == 3
    assert judging.studied("a", "of seeds")(found).error == pytest.approx(1 / 3**0.5)
    assert judging.studied("a", "counted")(found).mean == 0.9
    assert judging.studied("a", "yes")(found).mean == 1
    assert judging.tabled("a", "title", "found", "place")(found).mean == 2
    assert verdict(judging.at_most(judging.tabled("a", "title", "missing", "place"), 1), found) == NOT_TESTABLE
    assert verdict(judging.at_most(judging.tabled("a", "title", "none", "place"), 1), found) == NOT_RUN
    ratio = judging.ratio(judging.studied("a", "plain"), judging.studied("a", "of seeds"), "ratio")
    assert ratio(found).mean == 1.5
    assert judging.least_epoch("a")(found).mean == 2
    assert judging.rise("a")(found).mean == pytest.approx((0.5 + 0.6 + 0.7) / 3 / 0.4 - 1)
    assert judging.rise("a", until=2)(found).mean == 0
    assert judging.changes("a")(found).mean == pytest.approx((0.2 + (0.1 + 0.2 + 0.3) / 3) / 2 / 0.4)
    assert judging.least_loss("a", until=1)(found).mean == pytest.approx(0.6)


def test_a_figure_without_seeds_is_exact_and_one_of_a_single_seed_is_not():
    naive = made("naive", (0.5,), seeds=[], history=[])
    single = made("single", (0.5,))
    found = {"naive": naive, "single": single, "a": made("a", (0.80, 0.81, 0.79))}
    assert verdict(judging.greater(A, judging.trained("naive")), found) == CONFIRMED
    assert verdict(judging.greater(A, judging.trained("single")), found) == NOT_TESTABLE


# Claims


def test_all_claims_are_there_once_with_the_documents_sentences():
    assert [claim.number for claim in claims.CLAIMS] == list(range(1, 71))
    listed = "\n".join(
        f"{claim.number}|{', '.join(d[:3] for d in claim.documents)}|{claim.sentence}" for claim in claims.CLAIMS
    )
    digest = hashlib.sha256(listed.encode()).hexdigest()  # of the list that the sentences were taken from
    assert digest == "6558cd948d7c84a338b0e7478561ccae4f33994644e888c969ea036e27d53414"


def test_every_claim_is_tested_by_experiments_of_the_catalogue():
    for claim in claims.CLAIMS:
        named = re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", claim.tests)
        named = [name for name in named if not name.startswith("val_")]
        assert named and set(named) <= set(EXPERIMENTS), claim


def test_verdicts_are_computed():
    nothing = claims.judge({})
    assert claims.count(nothing)[CONFIRMED] == claims.count(nothing)[REFUTED] == 0
    good = {"reuters_lstm": made("reuters_lstm", epochs=20)}
    good["reuters_lstm"]["figures"]["final"]["val_accuracy"] = summarize([0.70, 0.71, 0.69])
    bad = copy.deepcopy(good)
    bad["reuters_lstm"]["figures"]["final"]["val_accuracy"] = summarize([0.50, 0.51, 0.49])
    of_reuters = claims.CLAIMS[13]
    assert of_reuters.judge(good).verdict == CONFIRMED
    assert of_reuters.judge(bad).verdict == REFUTED
    assert of_reuters.judge({}).verdict == NOT_RUN


def test_the_claims_alone_are_one_table(directory, capsys):
    assert main(["report", str(directory), "--claims"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 70
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


# Markdown


def test_frozen_parameters_old_results_and_test_at_the_last_epoch():
    new, old = made("new"), made("old")
    new["figures"]["test_final"] = {"accuracy": summarize([0.71, 0.72, 0.73])}
    del old["parameters"]["trainable"]
    header, _, first, second = (line.split(" | ") for line in report.markdown([new, old]).splitlines()[:4])
    column = header.index("measured: test, last epoch")
    assert first[column] == "accuracy 72.0 ± 1.0 %" and second[column] == "–"
    column = header.index("parameters")
    assert first[column] == "1,320,065 (320,065 trainable)" and second[column] == "1,320,065"


def test_a_documented_figure_never_stands_unmarked_beside_a_synthetic_one():
    synthetic = made("synthetic", data={"kind": "synthetic", "name": "made up", "files": []})
    smoke = made("smoke", smoke=True)
    for result, mark in ((synthetic, "SYNTHETIC"), (smoke, "SMOKE")):
        (shown,) = [line for line in report.markdown([result]).splitlines() if line.startswith("| `")]
        cells = shown.split(" | ")
        assert mark in cells[1] and mark in cells[4] and "not comparable" in cells[4]
        assert "not comparable" in report.outcome(result)


@pytest.mark.parametrize(
    "accuracies, notes, expected",
    [
        ((0.82, 0.82, 0.82), [], "reached, better by 2.0 points"),
        ((0.75, 0.79, 0.83), [], "short of it by 1.0 points, within the deviation over the seeds"),
        ((0.70, 0.70, 0.70), [], "not reached, worse by 10.0 points"),
        (
            (0.70, 0.70, 0.70),
            ["not the document's"],
            "not reached, worse by 10.0 points, on other data than the document's",
        ),
    ],
)
def test_whether_a_documented_figure_was_reached(accuracies, notes, expected):
    assert report.outcome(made(accuracies=accuracies, notes=notes)) == expected


def test_a_figure_of_other_epochs_is_not_comparable():
    for epochs, expected in ((9, "not comparable, 9 of 10 epochs"), (10, "reached"), (40, "not comparable, 40 of 10 ")):
        result = made("imdb_lstm", epochs=epochs)
        assert report.outcome(result).startswith(expected)
        assert report.outcome(result) in report.against_document(result)


def test_the_short_table_marks_generated_data_and_lacks_what_the_result_lacks():
    generated = made("one_to_many", data={"kind": "generated", "name": "images", "files": []})
    bare = made("bare", figures={})
    lines = report.brief([generated, bare]).splitlines()[2:]
    assert lines[0].startswith("| `one_to_many` (generated data) |") and lines[1].endswith("| – | – | – |")


def test_an_error_is_better_when_it_is_less():
    result = made(figure={"quantity": "final val_loss", "value": 0.7})
    assert report.outcome(result) == "reached, better by 0.1"
    result = made(figure={"quantity": "final a figure with spaces", "value": 0.7})
    result["figures"]["final"]["a figure with spaces"] = summarize([0.5])
    assert report.outcome(result) == "reached, better by 0.2" and "0.5000" in report.against_document(result)
    assert judging.trained("made", "final a figure with spaces")({"made": result}).mean == 0.5
    result = made(figure={"quantity": "test_final accuracy", "value": 0.7})
    assert report.outcome(result) == "not measured: there is no test_final accuracy"


def test_studies_and_controls_are_in_the_markdown():
    control = made("made") | {"label": "a | b", "notes": ["shuffled"]}
    study = {"figures": {"test accuracy": 0.5, "bytes": 123456}, "tables": {"words": [["word", "n"], ["x|y\nz", 1.5]]}}
    lines = report.markdown([made(study=study, variants=[control])]).splitlines()
    assert any(line.startswith("| `made`, a \\| b |") and "(control)" in line for line in lines)
    assert {"| test accuracy | 50.0 % |", "| bytes | 123,456 |", "| x\\|y z | 1.500 |"} <= set(lines)
    assert "- made: shuffled (a | b)" in lines


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("bytes", 1_000_000, "1,000,000"),
        ("x", 0.123456, "0.1235"),
        ("x", 1.2e-9, "1.2e-09"),
        ("x", 1234.5678, "1,235"),
        ("x", 2.0, "2"),
        ("x", True, "yes"),
        ("x", None, "–"),
        ("x", summarize([1.0, 2.0, 3.0]), "2.0 ± 1.0"),
        ("test accuracy", summarize([0.5, 0.6]), "55.0 ± 7.1 %"),
        ("test accuracy", summarize([-0.5]), "-50.0 %"),
        ("x", ["a", 1], "a, 1"),
    ],
)
def test_figures_as_text(name, value, expected):
    assert report.text(name, value) == expected


# The page


class _Page(html.parser.HTMLParser):
    """Checks that every element is closed where it must be, and keeps what tests ask for."""

    VOID = {"meta", "img", "br", "input", "link", "hr"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag not in self.VOID and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return "".join(self.words)


def test_a_busy_machine_draws_every_plot_without_a_warning(tmp_path, monkeypatch):
    """Matplotlib warns where looking for a legend's default place takes a second, as another program may make it."""
    from matplotlib import legend

    monkeypatch.setattr(legend.time, "perf_counter", itertools.count(step=10).__next__)
    plots.curves(made("imdb_lstm"), tmp_path / "curves.png")
    figures = [(1, {"mean": 0.5, "seeds": [0.4, 0.6]}), (10, {"mean": 0.7, "seeds": [0.6, 0.8]})]
    plots.against({"title": {"line": figures}}, tmp_path / "against.png", xlabel="x")
    days = np.arange("2020-01-01", "2020-01-11", dtype="datetime64[D]")
    plots.series({"title": {"line": (days, np.arange(10.0))}}, tmp_path / "series.png")
    plots.histogram(np.arange(10.0), tmp_path / "histogram.png", xlabel="x", marks={"five": 5})
    plots.profiles({"title": {"line": np.ones((2, 10))}}, tmp_path / "profiles.png", xlabel="x", ylabel="y")


NASTY = "<script>alert(1)</script> & \"quoted\" 'too' <b>"


@pytest.fixture
def directory(tmp_path):
    """Results of a real, a synthetic and a smoke run, with a picture each and hostile text."""
    study = {
        "figures": {f"accuracy {NASTY}": summarize([0.1, 0.2, 0.3]), "\x00\ud800": 1},
        "tables": {f"table {NASTY}": [["a", NASTY], *[[number, NASTY] for number in range(30)]]},
    }
    control = made("imdb_lstm") | {"label": f"control {NASTY}", "notes": [NASTY]}
    listed = [
        made("imdb_lstm", epochs=10, study=study, variants=[control], notes=[NASTY], title=NASTY, documented=NASTY),
        made("jena_gru", data={"kind": "synthetic", "name": "made up", "files": []}),
        made("reuters_lstm", smoke=True),
    ]
    for result in listed:
        of_result = tmp_path / "runs" / result["name"]
        of_result.mkdir(parents=True)
        (of_result / "result.json").write_text(json.dumps(result))
    plots.curves(listed[2], tmp_path / "runs" / "reuters_lstm" / "curves.png")
    (tmp_path / "runs" / "reuters_lstm" / "broken.png").write_text("no picture")
    return tmp_path / "runs"


@pytest.fixture
def written(directory, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert main(["report", str(directory), "--html", str(path)]) == 0
    assert str(path) in capsys.readouterr().err
    assert {one.name for one in tmp_path.iterdir()} == {"page.html", "runs"}  # nothing half written is left
    return path.read_bytes().decode("utf-8")


def test_the_page_is_well_formed_and_needs_nothing_else(written):
    read = _Page(written)
    assert written.startswith("<!DOCTYPE html>")
    assert {"charset": "utf-8"} in read.all("meta")
    for tag, attributes in read.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    (style,) = re.findall(r"<style>(.*?)</style>", written, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {attributes["href"][1:] for attributes in read.all("a")} <= set(identifiers)


def test_a_figure_of_the_page_stays_in_one_line():
    assert page._escape("5.6e-16 ± 1 % of de-10") == "5.6e-\u206016\xa0±\xa01\xa0% of de-10"


def test_the_page_escapes_all_text(written):
    read = _Page(written)
    assert "<script" not in written and "<b>" not in written.replace("<b>documented", "").replace("<b>measured", "")
    assert read.text.count(NASTY) > 30
    assert "\x00" not in written


def test_the_page_fits_a_phone_and_the_dark(written):
    read = _Page(written)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in read.all("meta")
    (style,) = re.findall(r"<style>(.*?)</style>", written, re.DOTALL)
    assert "prefers-color-scheme: dark" in style and "max-width: 100%" in style and "overflow-x: auto" in style
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)(?:rem|em)", style)]
    assert "font: 100%" in style and min(sizes) >= 1  # no text below 16 px
    tables = written.count("<table")
    assert tables and tables == len(re.findall(r'<div class="scroll"[^>]*><table', written))


def test_the_page_shows_pictures_tables_claims_and_marks(written):
    read = _Page(written)
    (picture,) = read.all("img")  # the broken one is left out
    assert int(picture["width"]) > 100 and "reuters_lstm: SMOKE: training and validation" in picture["alt"]
    assert sum(attributes.get("id", "").startswith("claim-") for attributes in read.all("tr")) == 70
    counts = claims.count(claims.judge({"imdb_lstm": made("imdb_lstm", epochs=10)}))
    for verdict_, number in counts.items():
        assert f"{verdict_} {number}" in " ".join(read.text.split())
    loud = [attributes for attributes in read.all("span") if "loud" in attributes.get("class", "")]
    assert len(loud) >= 4  # in the overview and in each section
    warnings = [attributes for attributes in read.all("p") if attributes.get("class") == "warning"]
    assert len(warnings) == 3  # above all, and in each section
    assert read.all("details")  # the long table is folded


@pytest.mark.parametrize("where", ["missing/page.html", "", "/proc/page.html"])
def test_a_page_that_cannot_be_written_is_one_line(directory, tmp_path, capsys, where):
    assert main(["report", str(directory), "--html", str(tmp_path / where)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: --html must be a file in a directory that can be written")
    assert {one.name for one in tmp_path.iterdir()} == {"runs"}


def test_an_old_page_stays_where_a_new_one_fails(directory, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        page.write(directory, path)
    assert path.read_text() == "old" and {one.name for one in tmp_path.iterdir()} == {"page.html", "runs"}


def test_claims_and_page_exclude_each_other(directory, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(directory), "--claims", "--html", "page.html"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_report_says_what_all_training_took():
    """Documented variants and controls, every result once."""
    results = [
        {"training_seconds": 3000.0, "variants": [{"training_seconds": 600.0}]},
        {"variants": []},
    ]
    said = "3,600 s (1.0 hours) of training in all"
    assert report.in_all(results) == f"{said}, 3,000 s of them for the documents' own models"
    assert report.in_all([{"training_seconds": 3600.0, "variants": []}]) == said
