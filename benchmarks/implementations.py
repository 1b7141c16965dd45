"""Which implementation is fastest, at which B, F and H, and does the engine pick it?

One recurrent layer, plain or with input and recurrent dropout, by the plain scan, with the input product and the
recurrent one in one ("joint", of the cells that have it), with the input product before the loop ("hoisted"), and with
the weights' gradients after it too ("deferred"): forward, and forward and backward with respect to parameters and
inputs, over a grid of shapes. With `--devices N` the batch is shared by so many, as `jaxseq.fit` does it. The engine's
choices (`jaxseq.explain`) are set from the results.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import jaxseq
from benchmarks import arguments, measuring, peers
from benchmarks.peers.work import RATE
from benchmarks.record import Record
from experiments.arguments import positive
from jaxseq.cells.products import summed_gates

IMPLEMENTATIONS = ("scan", "joint", "hoisted", "deferred")
OPTIONS = tuple(option for option in peers.OPTIONS if option != "lengths")  # these cost all implementations the same
SETTINGS = ("cells", "options", "length", "batches", "features", "hidden", "repeats", "seconds", "devices")
SMOKE = {
    "cells": ("gru",),
    "options": ("dropout",),
    "length": 3,
    "batches": (2,),
    "features": (3,),
    "hidden": (2, 4),
    "repeats": 2,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    arguments.add_some_of(parser, "cells", measuring.CELLS, default=("lstm", "gru"))
    arguments.add_some_of(parser, "options", OPTIONS)
    parser.add_argument("--length", type=positive, default=100, metavar="T", help="default: %(default)s")
    for name, letter, default in (
        ("batches", "B", (1, 8, 32, 128)),
        ("features", "F", (14, 100, 512)),
        ("hidden", "H", (8, 32, 128, 512)),
    ):
        parser.add_argument(
            f"--{name}",
            type=arguments.positives,
            default=default,
            metavar=f"{letter},...",
            help=f"default: {','.join(map(str, default))}",
        )
    parser.add_argument(
        "--seconds",
        type=positive,
        default=2,
        metavar="S",
        help="a shape is done with after so many, three samples at least (default: %(default)s)",
    )


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every implementation at every shape.

    Returns:
      {"notes", "cases"}: a case has its cell, option, batch, features and hidden, and for "forward" and "gradient" the
      measurements by name, what `jaxseq.explain` picks (`chosen`), and what is surely the fastest (`fastest`): None
      where the quartiles of two overlap.
    """
    grid = list(itertools.product(options.options, options.cells, options.batches, options.features, options.hidden))
    cases = []
    measuring.warm_up_compiler()
    for number, (option, name, batch, features, hidden) in enumerate(grid, 1):
        measuring.progress(f"{number}/{len(grid)}: {name}, {option}, B {batch}, F {features}, H {hidden}")
        work = {"cell": name, "option": option, "batch": batch, "features": features, "hidden": hidden}
        case = record.case(work, functools.partial(_measure_shape, **work, options=options))
        for measured in measuring.PASSES:  # asked now, of cases that an earlier run measured too
            case[measured]["chosen"] = _chosen(options.length, **work, measured=measured, devices=options.devices)
        cases.append(case)
    return {"notes": measuring.NOTES, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: a row a shape, and how the engine's choice fares."""
    header = ["cell", "option", "B", "F", "H"]
    for measured in measuring.PASSES:
        header += [f"{measuring.PASS_TITLES[measured]}: {name}, ms" for name in IMPLEMENTATIONS]
        header += ["surely fastest", "chosen"]
    rows = []
    for case in result["cases"]:
        row = [case["cell"], case["option"], *(str(case[name]) for name in ("batch", "features", "hidden"))]
        for measured in measuring.PASSES:
            found = case[measured]
            row += [
                measuring.milliseconds(found[name]["seconds"]) if name in found else "–" for name in IMPLEMENTATIONS
            ]
            row += [found["fastest"] or "–", found["chosen"]]
        rows.append(row)
    lines = [
        f"T {result['settings']['length']}, float32. Times: median (quartiles). Surely fastest: its upper quartile is "
        "below the others' lower ones.",
        "",
        measuring.markdown_table(header, rows),
        "",
        *(
            _summary([case for case in result["cases"] if case["option"] == option], option, measured)
            for option in result["settings"]["options"]
            for measured in measuring.PASSES
        ),
    ]
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws the plain scan's time over that of the others, a panel a cell and batch, a line for each F."""
    from matplotlib import figure, lines  # only who draws pays for the import

    settings, about = result["settings"], result["environment"]
    panels = list(itertools.product(settings["cells"], settings["batches"]))
    rows = list(itertools.product(settings["options"], measuring.PASSES))
    size = (max(8, 2.6 * len(panels)), 1 + 2.75 * len(rows))
    picture = figure.Figure(figsize=size, layout="constrained")
    axes = picture.subplots(len(rows), len(panels), sharex=True, sharey=True, squeeze=False)
    markers = dict(zip(settings["features"], itertools.cycle("os^vDP"), strict=False))
    styles: dict[str, tuple[str, Any]] = {"joint": ("C2", ":"), "hoisted": ("C0", "--"), "deferred": ("C1", "-")}
    for row, (option, measured) in zip(axes, rows, strict=True):
        for axis, (cell, batch) in zip(row, panels, strict=True):
            kind = (cell, option, batch)
            cases = [case for case in result["cases"] if (case["cell"], case["option"], case["batch"]) == kind]
            for features, marker in markers.items():
                for name, (color, style) in styles.items():
                    ratios = {
                        case["hidden"]: _median(case, measured, "scan") / _median(case, measured, name)
                        for case in cases
                        if case["features"] == features and name in case[measured]
                    }
                    axis.plot(list(ratios), list(ratios.values()), style, marker=marker, markersize=4, color=color)
            axis.axhline(1, color="black", linewidth=1)
            axis.set(xscale="log", title=f"{cell}, B {batch}")
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_xticks(settings["hidden"], [str(hidden) for hidden in settings["hidden"]])
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.25, which="both")
        row[0].set_ylabel(f"{option}, {measuring.PASS_TITLES[measured]}\ntimes as fast as the plain scan")
    for axis in axes[-1]:
        axis.set_xlabel("H")
    keys = [lines.Line2D([], [], color=color, linestyle=style, label=name) for name, (color, style) in styles.items()]
    keys += [
        lines.Line2D([], [], color="black", linestyle="", marker=marker, label=f"F {features}")
        for features, marker in markers.items()
    ]
    picture.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    picture.suptitle(
        f"Above 1 it pays: T {settings['length']}; {about['devices']} x {about['device']}, "
        f"{about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=110)


def _measure_shape(
    cell: str, option: str, batch: int, features: int, hidden: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measures every implementation of one layer: compiles, checks, then times them side by side."""
    layer_cell, drops = measuring.CELLS[cell](hidden), option == "dropout"
    sizes = (options.length, batch, features)
    layer = measuring.random_layer(layer_cell, *sizes, devices=options.devices, dropout=RATE if drops else 0.0)
    names = [name for name in IMPLEMENTATIONS if name != "joint" or summed_gates(layer_cell)]
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    found: dict[str, Any] = {}
    for measured in measuring.PASSES:
        found[measured] = {}
        reference = None
        for name in names:
            function = _sharded(
                measuring.layer_function(layer_cell, measured, implementation=name), measured, options.devices
            )
            program = measuring.compile_program(function, *layer)
            result = program.run()
            reference = result if reference is None else reference
            runs[measured, name] = program.run
            found[measured][name] = {
                "compile_seconds": program.compile_seconds,
                "memory": program.memory,
                "difference": measuring.check_equal(f"{name}, {measured}, of {layer_cell}", result, reference),
            }

    timings = measuring.time_interleaved(runs, options.repeats, seconds=options.seconds)
    for measured in measuring.PASSES:
        for name in names:
            found[measured][name]["seconds"] = timings[measured, name]._asdict()
        found[measured]["fastest"] = _surely_fastest({name: timings[measured, name] for name in names})
    return measuring.rounded(found)


def _sharded(function: Callable[..., Any], measured: str, devices: int) -> Callable[..., Any]:
    """A `measuring.layer_function` whose batch so many devices share, each by itself until gradients are added up."""
    if devices == 1:
        return function
    weights, sequences = jax.P(), jax.P(None, "batch")

    def gradient(*layer: Any) -> Any:
        of_params, of_inputs = function(*layer)
        return jax.lax.psum(of_params, "batch"), of_inputs

    return jax.shard_map(
        function if measured == "forward" else gradient,
        mesh=measuring.make_mesh(devices),
        in_specs=(weights, sequences, sequences, sequences),
        out_specs=(jax.P("batch") if measured == "forward" else weights, sequences),
        check_vma=False,
    )


def _chosen(
    length: int, cell: str, option: str, batch: int, features: int, hidden: int, measured: str, devices: int
) -> str:
    """What the engine takes for a shape."""
    drops = option == "dropout"
    choice = jaxseq.explain(
        measuring.CELLS[cell](hidden),
        (length, batch // devices, features),
        dropout=drops,
        recurrent_dropout=drops,
        gradient=measured == "gradient",
        sharded=devices > 1,
    )
    return choice.implementation


def _surely_fastest(timings: dict[str, measuring.Timing]) -> str | None:
    first = min(timings, key=lambda name: timings[name].upper_quartile)
    others = (timing.lower_quartile for name, timing in timings.items() if name != first)
    return first if timings[first].upper_quartile < min(others) else None


def _median(case: dict[str, Any], measured: str, name: str) -> float:
    return case[measured][name]["seconds"]["median"]


def _summary(cases: list[dict[str, Any]], option: str, measured: str) -> str:
    """How much is lost to the fastest, and gained over the plain scan, by what the engine picks."""
    lost = [
        _median(case, measured, case[measured]["chosen"])
        / min(_median(case, measured, name) for name in IMPLEMENTATIONS if name in case[measured])
        for case in cases
    ]
    gained = [_median(case, measured, "scan") / _median(case, measured, case[measured]["chosen"]) for case in cases]
    beaten = sum(case[measured]["fastest"] not in (None, case[measured]["chosen"]) for case in cases)
    return (
        f"- {option}, {measuring.PASS_TITLES[measured]}, {len(cases)} shapes: another is surely faster than the chosen "
        f"one at {beaten}; the chosen one takes {statistics.fmean(lost):.2f} times the fastest's time in the mean, "
        f"{max(lost):.2f} at most; the plain scan takes {min(gained):.2f} to {max(gained):.2f} times the chosen one's, "
        f"{statistics.fmean(gained):.2f} in the mean."
    )
