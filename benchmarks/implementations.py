"""Which implementation is fastest, at which B, F and H, and does the engine pick it?

One recurrent layer by the plain scan, with the input product and the recurrent one in one ("joint", of the cells that
have it), with the input product before the loop ("hoisted"), and with the weights' gradients after it too ("deferred"):
forward, one call from Python, and forward and backward inside a training loop. Two placements: one device, and the
batch sharded over all, as `jaxseq.fit` does it. The engine's choices (`jaxseq.explain`) are set from the results.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arguments, comparison, measuring
from benchmarks.peers import OPTIONS, Peer, Work, ours
from benchmarks.record import Record
from experiments.arguments import positive
from jaxseq.cells.products import summed_gates
from jaxseq.choice import Implementation

IMPLEMENTATIONS: tuple[Implementation, ...] = ("scan", "joint", "hoisted", "deferred")
WAYS = ("forward", "loop")
SETTINGS = ("cells", "options", "ways", "length", "batches", "features", "hidden", "repeats", "limit", "devices")
SMOKE = {
    "cells": ("gru",),
    "options": ("dropout",),
    "length": 3,
    "batches": (2,),
    "features": (3,),
    "hidden": (2, 4),
    "repeats": 2,
    "devices": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    arguments.add_some_of(parser, "cells", measuring.CELLS, default=("lstm", "gru_reset_after", "simple_rnn"))
    arguments.add_some_of(parser, "options", OPTIONS, default=("plain", "dropout"))
    arguments.add_some_of(parser, "ways", WAYS)
    parser.add_argument("--length", type=positive, default=100, metavar="T", help="default: %(default)s")
    arguments.add_positives(parser, "batches", "B", (8, 32, 128))
    arguments.add_positives(parser, "features", "F", (32, 128))
    arguments.add_positives(parser, "hidden", "H", (8, 32, 128))
    arguments.add_limit(parser, 3.0)
    parser.set_defaults(devices="all")


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every implementation at every shape.

    Returns:
      {"notes", "cases", "failures"}: a case has its work, what `comparison.measure_work` gives, and `picks`, for every
      way and placement what the engine takes (`chosen`) and what is surely the fastest (`fastest`): None where the
      quartiles of two overlap.
    """
    measuring.warm_up_compiler()
    kinds = itertools.product(options.options, options.cells, options.batches, options.features, options.hidden)
    works = [
        Work(cell, option, batch, options.length, features, (hidden,))
        for option, cell, batch, features, hidden in kinds
    ]
    cases = []
    for number, work in enumerate(works, 1):
        measuring.progress(f"{number}/{len(works)}: {work}")
        places = comparison.placements(work.batch, options.devices)
        measure_work = functools.partial(
            comparison.measure_work,
            work,
            _candidates(work),
            ways=options.ways,
            placements=places,
            repeats=options.repeats,
            seconds=options.limit,
        )
        case = record.case(work._asdict(), measure_work)
        cases.append({**case, "picks": _picks(work, case["implementations"], options.ways, places)})
    return {"notes": comparison.NOTES, "cases": cases, "failures": comparison.failures(cases)}


def table(result: dict[str, Any]) -> str:
    """Markdown: how the engine's choice fares, then for each way and placement a row a case."""
    settings = result["settings"]
    views = _views(result)
    header = ["what", "option", "cases", "chosen over the fastest: mean", "most", "another is surely faster"]
    header += ["plain scan over the chosen: least", "mean", "most", "surely slower than the plain scan"]
    rows = [
        [comparison.view_title(*view), option, *_fares(cases, *view)]
        for view in views
        for option in settings["options"]
        for cases in [[case for case in result["cases"] if case["option"] == option]]
    ]
    parts = [
        f"T {settings['length']}, float32; B is of all devices together. Times: median (quartiles). Surely: the "
        "quartiles do not overlap.",
        measuring.markdown_table(header, rows),
    ]
    header = ["cell", "option", "shape", *(f"{name}, ms" for name in IMPLEMENTATIONS), "surely fastest", "chosen"]
    for view in views:
        rows = []
        for case in _cases(result["cases"], *view):
            pick = case["picks"][view[0]][view[1]]
            timings = _timings(case["implementations"], *view)
            rows.append(
                [case["cell"], case["option"], comparison.work_of(case).shape]
                + [measuring.milliseconds(timings[name]) if name in timings else "–" for name in IMPLEMENTATIONS]
                + [pick["fastest"] or "–", pick["chosen"]]
            )
        parts += [f"### {comparison.view_title(*view)}", measuring.markdown_table(header, rows)]
    return "\n\n".join(parts)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws the plain scan's time over that of the others, a panel a cell and batch, a line for each F."""
    from matplotlib import figure, lines  # only who draws pays for the import

    settings, about = result["settings"], result["environment"]
    panels = list(itertools.product(settings["cells"], settings["batches"]))
    rows = list(itertools.product(_views(result), settings["options"]))
    size = (max(8, 2.6 * len(panels)), 1 + 2.75 * len(rows))
    picture = figure.Figure(figsize=size, layout="constrained")
    axes = picture.subplots(len(rows), len(panels), sharex=True, sharey=True, squeeze=False)
    markers = dict(zip(settings["features"], itertools.cycle("os^vDP"), strict=False))
    styles: dict[str, tuple[str, Any]] = {"joint": ("C2", ":"), "hoisted": ("C0", "--"), "deferred": ("C1", "-")}
    for row, (view, option) in zip(axes, rows, strict=True):
        for axis, (cell, batch) in zip(row, panels, strict=True):
            kind = (cell, option, batch)
            cases = [
                case for case in _cases(result["cases"], *view) if (case["cell"], case["option"], case["batch"]) == kind
            ]
            for features, marker in markers.items():
                for name, (color, style) in styles.items():
                    ratios = {
                        case["hidden"][0]: _median(case, *view, "scan") / _median(case, *view, name)
                        for case in cases
                        if case["features"] == features and name in _timings(case["implementations"], *view)
                    }
                    axis.plot(list(ratios), list(ratios.values()), style, marker=marker, markersize=4, color=color)
            comparison.draw_axis(axis, f"{cell}, B {batch}", settings["hidden"])
        row[0].set_ylabel(f"{comparison.view_title(*view)}\n{option}".replace(", ", "\n"), fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("H")
    keys = [lines.Line2D([], [], color=color, linestyle=style, label=name) for name, (color, style) in styles.items()]
    keys += [
        lines.Line2D([], [], color="black", linestyle="", marker=marker, label=f"F {features}")
        for features, marker in markers.items()
    ]
    picture.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    picture.suptitle(
        f"Times as fast as the plain scan: T {settings['length']}; {about['devices']} x {about['device']}, "
        f"{about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=80)


def _candidates(work: Work) -> dict[str, Peer]:
    joins = summed_gates(measuring.CELLS[work.cell](*work.hidden))
    return {name: ours.forced(name) for name in IMPLEMENTATIONS if name != "joint" or joins}


def _picks(
    work: Work, implementations: Mapping[str, Any], ways: Sequence[str], places: Mapping[str, int]
) -> dict[str, Any]:
    """What the engine takes, and what is surely the fastest, for every way and placement."""
    picks: dict[str, Any] = {}
    for way in ways:
        picks[way] = {}
        for placement, devices in places.items():
            [chosen] = comparison.chosen(work, devices, gradient=way != "forward")
            fastest = _surely_fastest(_timings(implementations, way, placement))
            picks[way][placement] = {"chosen": chosen, "fastest": fastest}
    return picks


def _surely_fastest(timings: Mapping[str, Any]) -> str | None:
    first = min(timings, key=lambda name: timings[name]["upper_quartile"])
    others = (timing["lower_quartile"] for name, timing in timings.items() if name != first)
    return first if timings[first]["upper_quartile"] < min(others, default=0.0) else None


def _views(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Way and placement of all that was measured."""
    ways = result["settings"]["ways"]
    return [view for view in itertools.product(ways, comparison.PLACEMENTS) if _cases(result["cases"], *view)]


def _cases(cases: Sequence[dict[str, Any]], way: str, placement: str) -> list[dict[str, Any]]:
    """Those that were measured so: a batch that no devices divide is not sharded."""
    return [case for case in cases if placement in case["picks"][way]]


def _timings(implementations: Mapping[str, Any], way: str, placement: str) -> dict[str, Any]:
    """The timings by implementation; without those that failed, or that the cell does not have."""
    timings = {name: comparison.timing_of(found, way, placement) for name, found in implementations.items()}
    return {name: timing for name, timing in timings.items() if timing is not None}


def _median(case: dict[str, Any], way: str, placement: str, name: str) -> float:
    return _timings(case["implementations"], way, placement)[name]["median"]


def _fares(cases: Sequence[dict[str, Any]], way: str, placement: str) -> list[str]:
    """How much is lost to the fastest, and gained over the plain scan, by what the engine picks."""
    lost, gained, beaten, slower = [], [], 0, 0
    for case in _cases(cases, way, placement):
        timings, pick = _timings(case["implementations"], way, placement), case["picks"][way][placement]
        if pick["chosen"] not in timings:  # it failed, and is named
            continue
        own = timings[pick["chosen"]]
        lost.append(own["median"] / min(timing["median"] for timing in timings.values()))
        gained.append(timings["scan"]["median"] / own["median"])
        beaten += any(comparison.ratio(own, timing).verdict == "behind" for timing in timings.values())
        slower += comparison.ratio(own, timings["scan"]).verdict == "behind"
    if not lost:
        return ["0"] + ["–"] * 7
    ratios = [statistics.fmean(lost), max(lost), min(gained), statistics.fmean(gained), max(gained)]
    mean, most, least, *rest = (f"{ratio:.2f}" for ratio in ratios)
    return [str(len(lost)), mean, most, str(beaten), least, *rest, str(slower)]
