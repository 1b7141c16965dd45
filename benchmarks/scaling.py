"""How do time and memory grow as T, B and H each grow by 100 times?

From one small shape, T, B or H alone grows, in steps of the same factor. The engine and peers do the same work, checked
to give the same; forward, and forward and backward, one call on one device. A slope is the exponent of a power law, by
least squares through the logarithms: 1 means in proportion. Small work is all overhead, so that slopes begin low.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arguments, comparison, measuring
from benchmarks.peers import OURS, PEERS, Work
from benchmarks.record import Record
from experiments.arguments import positive

SETTINGS = ("cells", "peers", "length", "batch", "features", "hidden", "growth", "points", "repeats", "limit")
SMOKE = {
    "cells": ("lstm",),
    "batch": 1,
    "length": 2,
    "features": 2,
    "hidden": 2,
    "growth": 4,
    "points": 2,
    "repeats": 2,
}

AXES = {"T": "length", "B": "batch", "H": "hidden"}
_WAYS = ("forward", "gradient")
_QUANTITIES = {"seconds": "time of a call, ms", "memory": "temporary memory, MB"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    arguments.add_some_of(parser, "cells", measuring.CELLS, default=("lstm",))
    others = [name for name in PEERS if name != OURS]
    arguments.add_some_of(parser, "peers", others, default=("flax_linen", "pytorch"))
    for name, letter, size in (("length", "T", 40), ("batch", "B", 8), ("features", "F", 32), ("hidden", "H", 8)):
        parser.add_argument(
            f"--{name}", type=positive, default=size, metavar=letter, help="the smallest (default: %(default)s)"
        )
    parser.add_argument("--growth", type=positive, default=100, metavar="N", help="default: %(default)s times")
    parser.add_argument(
        "--points", type=positive, default=5, metavar="N", help="sizes on the way, both ends in (default: %(default)s)"
    )
    arguments.add_limit(parser, 60.0)


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every size.

    Returns:
      {"notes", "peers", "cases", "slopes", "failures"}: a case has `axis`, the size it grew to, its work
      and what `comparison.measure_work` gives; a slope has cell, axis, implementation, way, quantity and value, None
      where the quantity is unknown.
    """
    if options.devices != 1:
        raise measuring.WrongArgument(f"argument --devices: must be 1, on which all sizes run, got {options.devices}")
    measuring.warm_up_compiler()
    found = record.add_about("peers", comparison.find(options.peers))
    names = [name for name, peer in found.items() if "missing" not in peer]
    cases = []
    for cell, axis in itertools.product(options.cells, AXES):
        for size in sizes(getattr(options, AXES[axis]), options.growth, options.points):
            shape = {name: getattr(options, name) for name in ("batch", "length", "features", "hidden")}
            shape[AXES[axis]] = size
            shape["hidden"] = (shape["hidden"],)
            work = Work(cell, "plain", **shape)
            measuring.progress(str(work))
            measure_work = functools.partial(
                comparison.measure_work,
                work,
                {name: PEERS[name] for name in names},
                ways=_WAYS,
                placements={"one": 1},
                repeats=options.repeats,
                seconds=options.limit,
            )
            case = record.case(work._asdict(), measure_work)  # the smallest, which is on every axis, is measured once
            cases.append({**case, "axis": axis, "size": size})
    return {
        "notes": comparison.NOTES,
        "peers": found,
        "cases": cases,
        "slopes": [
            {"cell": cell, "axis": axis, "implementation": name, "way": way, "quantity": quantity, "slope": slope_of}
            for cell, axis, name, way, quantity in itertools.product(options.cells, AXES, names, _WAYS, _QUANTITIES)
            for slope_of in [slope(_points(cases, cell, axis, name, way, quantity))]
        ],
        "failures": comparison.failures(cases),
    }


def sizes(smallest: int, growth: int, points: int) -> list[int]:
    """Sizes from the smallest to `growth` times that, in steps of the same factor."""
    steps = [growth ** (point / max(points - 1, 1)) for point in range(points)]
    return sorted({round(smallest * step) for step in steps})


def slope(points: Mapping[int, float]) -> float | None:
    """The exponent of the power law through points {size: value}, by least squares of the logarithms.

    None where there are fewer than two with a value above zero.
    """
    logs = [(math.log(size), math.log(value)) for size, value in points.items() if value > 0]
    if len(logs) < 2:
        return None
    x, y = np.transpose(logs)
    return float(np.polyfit(x, y, 1)[0])


def table(result: dict[str, Any]) -> str:
    """Markdown: the slopes, then every size."""
    names = [name for name, peer in result["peers"].items() if "version" in peer]
    titles = [PEERS[name].title for name in names]
    slopes = {
        (one["cell"], one["axis"], one["way"], one["quantity"], one["implementation"]): one["slope"]
        for one in result["slopes"]
    }
    rows = [
        [cell, axis, measuring.PASS_TITLES[way], _QUANTITIES[quantity].split(",")[0]]
        + ["–" if (found := slopes[cell, axis, way, quantity, name]) is None else f"{found:.2f}" for name in names]
        for cell, axis, way, quantity in itertools.product(result["settings"]["cells"], AXES, _WAYS, _QUANTITIES)
    ]
    parts = [
        comparison.peers_list(result["peers"]),
        "Slopes: the exponent of the growth, by least squares of the logarithms.",
        measuring.markdown_table(["cell", "grows", "pass", "of", *titles], rows),
        "Times: median (quartiles). Memory: XLA's estimate of what a run needs beside arguments and results.",
    ]
    rows = []
    for case in result["cases"]:
        work = comparison.work_of(case)
        for way in _WAYS:
            found = [case["implementations"][name] for name in names]
            rows.append(
                [case["axis"], work.cell, work.shape, measuring.PASS_TITLES[way]]
                + [_shown(one, way, "seconds") for one in found]
                + [_shown(one, way, "memory") for one in found]
            )
    header = ["grows", "cell", "shape", "pass"]
    header += [f"{title}, {unit}" for unit in ("ms", "MB") for title in titles]
    parts.append(measuring.markdown_table(header, rows))
    return "\n\n".join(parts)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws time above and memory below over T, B and H, a line an implementation, with its slope."""
    from matplotlib import figure  # only who draws pays for the import

    names = [name for name, peer in result["peers"].items() if "version" in peer]
    settings, about = result["settings"], result["environment"]
    picture = figure.Figure(figsize=(13, 4 * 2 * len(settings["cells"])), layout="constrained")
    axes = picture.subplots(2 * len(settings["cells"]), len(AXES), squeeze=False)
    for row, (cell, quantity) in zip(axes, itertools.product(settings["cells"], _QUANTITIES), strict=True):
        for axis, letter in zip(row, AXES, strict=True):
            for number, name in enumerate(names):
                for way, line in zip(_WAYS, ("--", "-"), strict=True):
                    points = _points(result["cases"], cell, letter, name, way, quantity)
                    found = slope(points)
                    if found is not None:
                        scale = 1e3 if quantity == "seconds" else 1e-6
                        label = f"{PEERS[name].title}, {measuring.PASS_TITLES[way]}: {found:.2f}"
                        values = [scale * value for value in points.values()]
                        axis.plot(list(points), values, line, marker="o", markersize=3, color=f"C{number}", label=label)
            axis.set(xscale="log", yscale="log", xlabel=letter, title=f"{cell}: {_QUANTITIES[quantity]}, over {letter}")
            axis.grid(alpha=0.25)
            axis.legend(loc="best", frameon=False, fontsize=7, title="slopes", title_fontsize=7)
    shape = f"B {settings['batch']}, T {settings['length']}, F {settings['features']}, H {settings['hidden']}"
    picture.suptitle(
        f"From {shape}, one size grows {settings['growth']} times; {about['devices']} x {about['device']}, "
        f"{about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=110)


def _points(
    cases: Sequence[dict[str, Any]], cell: str, axis: str, name: str, way: str, quantity: str
) -> dict[int, float]:
    """{size: value} of what was measured; memory in bytes."""
    points = {}
    for case in cases:
        measured = case["implementations"][name].get(way)
        if (case["cell"], case["axis"]) == (cell, axis) and measured:
            value = _value(measured, quantity)
            if value is not None:
                points[case["size"]] = value
    return points


def _value(measured: Mapping[str, Any], quantity: str) -> float | None:
    [placement] = measured.values()
    if quantity == "seconds":
        return placement["seconds"]["median"]
    return placement["memory"] and placement["memory"]["temporary_bytes"]


def _shown(found: Mapping[str, Any], way: str, quantity: str) -> str:
    if way not in found:
        return found.get("cannot") or f"FAILED: {found['failed']}"
    if quantity == "seconds":
        [placement] = found[way].values()
        return measuring.milliseconds(placement["seconds"])
    value = _value(found[way], quantity)
    return "–" if value is None else measuring.significant(1e-6 * value)
