"""Does it pay to hoist the input product out of the loop, at which B, F and H?

One recurrent layer of 200 steps with the input product inside the loop ("scan") and before it ("hoisted"),
forward, and forward and backward with respect to parameters and inputs, over a grid of shapes. A winner is named
where the quartiles of the two do not overlap. The engine's choice is set from the result.
"""

import argparse
import collections
import functools
import itertools
from pathlib import Path
from typing import Any

import jaxseq
from benchmarks import measuring
from benchmarks.record import Record
from experiments.arguments import positive

IMPLEMENTATIONS = ("scan", "hoisted")
SETTINGS = ("cells", "length", "batches", "features", "hidden", "repeats", "seconds", "devices")
SMOKE = {"cells": ("gru",), "length": 3, "batches": (2,), "features": (3,), "hidden": (2, 4), "repeats": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options; the grid itself is fixed."""
    parser.add_argument("--length", type=positive, default=200, metavar="T", help="default: %(default)s")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=2,
        metavar="S",
        help="a shape is done with after so many, three samples at least (default: %(default)s)",
    )
    parser.set_defaults(cells=("lstm", "gru"), batches=(1, 32, 128), features=(14, 100, 512), hidden=(8, 32, 128, 512))


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures both implementations at every shape.

    Returns:
      {"notes", "cases"}: a case has its cell, batch, features and hidden, what `jaxseq.explain`
      picks (`chosen`), and for "forward" and "gradient" the two measurements by name, `ratio`, the time of
      scan over that of hoisted (above 1 where hoisting pays), and the `winner`.
    """
    grid = list(itertools.product(options.cells, options.batches, options.features, options.hidden))
    cases = []
    measuring.warm_up_compiler()
    for number, (name, batch, features, hidden) in enumerate(grid, 1):
        measuring.progress(f"{number}/{len(grid)}: {name}, B {batch}, F {features}, H {hidden}")
        cell = measuring.CELLS[name](hidden)
        layer = measuring.random_layer(cell, options.length, batch, features, devices=options.devices)
        work = {"cell": name, "batch": batch, "features": features, "hidden": hidden}
        cases.append(record.case(work, functools.partial(_measure_shape, cell, layer, options)))
    return {"notes": measuring.NOTES, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, a row a shape, and how often which won."""
    header = ["cell", "B", "F", "H"]
    for measured in measuring.PASSES:
        header += [f"{measuring.PASS_TITLES[measured]}: {name}, ms" for name in IMPLEMENTATIONS]
        header += ["scan / hoisted", "winner"]
    rows = []
    for case in result["cases"]:
        row = [case["cell"], str(case["batch"]), str(case["features"]), str(case["hidden"])]
        for measured in measuring.PASSES:
            found = case[measured]
            row += [measuring.milliseconds(found[name]["seconds"]) for name in IMPLEMENTATIONS]
            row += [f"{found['ratio']:.2f}", found["winner"]]
        rows.append(row)
    lines = [f"T {result['settings']['length']}, float32. Times: median (quartiles).", ""]
    lines += [measuring.markdown_table(header, rows), ""]
    for measured in measuring.PASSES:
        wins = collections.Counter(case[measured]["winner"] for case in result["cases"])
        counted = ", ".join(f"{winner} {number}" for winner, number in wins.most_common())
        lines.append(f"{measuring.PASS_TITLES[measured]}: {counted}, of {len(rows)} shapes.")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws the ratio over H, a panel a cell and batch, a line for each F."""
    from matplotlib import figure  # only who draws pays for the import

    settings, about = result["settings"], result["environment"]
    panels = list(itertools.product(settings["cells"], settings["batches"]))
    picture = figure.Figure(figsize=(max(8, 3 * len(panels)), 6.5), layout="constrained")
    axes = picture.subplots(2, len(panels), sharex=True, sharey=True, squeeze=False)
    for row, measured in zip(axes, measuring.PASSES, strict=True):
        for axis, (cell, batch) in zip(row, panels, strict=True):
            for features, marker in zip(settings["features"], "os^", strict=False):
                ratios = {
                    case["hidden"]: case[measured]["ratio"]
                    for case in result["cases"]
                    if (case["cell"], case["batch"], case["features"]) == (cell, batch, features)
                }
                axis.plot(list(ratios), list(ratios.values()), marker=marker, markersize=4, label=f"F {features}")
            axis.axhline(1, color="black", linewidth=1)
            axis.set(xscale="log", title=f"{cell}, B {batch}")
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_xticks(settings["hidden"], [str(hidden) for hidden in settings["hidden"]])
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.25, which="both")
        row[0].set_ylabel(f"{measuring.PASS_TITLES[measured]}\nscan / hoisted, times")
    for axis in axes[-1]:
        axis.set_xlabel("H")
    axes[0][0].legend(frameon=False)
    picture.suptitle(
        f"Above 1 hoisting pays: T {settings['length']}; {about['devices']} x {about['device']}, "
        f"{about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=110)


def _measure_shape(cell: jaxseq.Cell, layer: measuring.Layer, options: argparse.Namespace) -> dict[str, Any]:
    """Measures both implementations of one layer: compiles, checks, then times them side by side."""
    programs: dict[tuple[str, str], measuring.Program] = {}
    found: dict[str, Any] = {"chosen": jaxseq.explain(cell, layer.inputs.shape).implementation}
    for measured in measuring.PASSES:
        found[measured] = {}
        reference = None
        for name in IMPLEMENTATIONS:
            function = measuring.layer_function(cell, measured, implementation=name)
            program = measuring.compile_program(function, *layer)
            result = program.run()
            reference = result if reference is None else reference
            programs[measured, name] = program
            found[measured][name] = {
                "compile_seconds": program.compile_seconds,
                "memory": program.memory,
                "difference": measuring.check_equal(f"{name}, {measured}, of {cell}", result, reference),
            }

    timings = measuring.time_interleaved(
        {key: program.run for key, program in programs.items()}, options.repeats, seconds=options.seconds
    )
    for (measured, name), timing in timings.items():
        found[measured][name]["seconds"] = timing._asdict()
    for measured in measuring.PASSES:
        scan, hoisted = (timings[measured, name] for name in IMPLEMENTATIONS)
        found[measured]["ratio"] = scan.median / hoisted.median
        found[measured]["winner"] = _winner(scan, hoisted)
    return found


def _winner(scan: measuring.Timing, hoisted: measuring.Timing) -> str:
    if hoisted.upper_quartile < scan.lower_quartile:
        return "hoisted"
    if scan.upper_quartile < hoisted.lower_quartile:
        return "scan"
    return "neither"
