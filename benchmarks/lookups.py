"""Inputs looked up in a table, as an embedding's: is it faster to project the table's rows, or those looked up?

One recurrent layer over the rows that tokens name, by what the engine takes of inputs that are at hand ("rows"), and
with all rows of the table projected once, their drives looked up ("tabulated"): forward, one call from Python, and
forward and backward, the gradients of table and weights, inside a training loop. Two placements: one device, and the
batch sharded over all. Tokens are drawn as words are, the k-th likeliest in proportion to 1/k. The engine's choice
(`jaxseq.explain`) is set from the results.
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from benchmarks import arguments, comparison, measuring
from benchmarks.record import Record
from experiments.arguments import positive
from jaxseq.choice import Implementation
from jaxseq.epochs import sum_over_devices

WAYS = ("forward", "loop")
CANDIDATES: dict[str, Implementation | None] = {"rows": None, "tabulated": "tabulated"}
SETTINGS = ("cells", "length", "batches", "features", "hidden", "lookups", "repeats", "limit", "devices")
SMOKE = {
    "cells": ("gru",),
    "length": 3,
    "batches": (2,),
    "features": (3,),
    "hidden": (2,),
    "lookups": (1, 2),
    "repeats": 2,
    "devices": 1,
}


class Work(NamedTuple):
    """What is measured."""

    cell: str
    batch: int
    length: int
    features: int
    hidden: int
    table_size: int  # V

    def __str__(self) -> str:
        """`gru, B32 T200 F16 H32 V400`."""
        return f"{self.cell}, {self.shape}"

    @property
    def shape(self) -> str:
        """`B32 T200 F16 H32 V400`."""
        return f"B{self.batch} T{self.length} F{self.features} H{self.hidden} V{self.table_size}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    arguments.add_some_of(parser, "cells", measuring.CELLS, default=("lstm", "gru_reset_after", "simple_rnn"))
    parser.add_argument("--length", type=positive, default=200, metavar="T", help="default: %(default)s")
    arguments.add_positives(parser, "batches", "B", (32, 128))
    arguments.add_positives(parser, "features", "F", (16, 64))
    arguments.add_positives(parser, "hidden", "H", (8, 32, 128))
    arguments.add_positives(parser, "lookups", "N", (4, 16), "T B over the rows of the table, V; ")
    arguments.add_limit(parser, 2.0)
    parser.set_defaults(devices="all")


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures both candidates at every shape.

    Returns:
      {"notes", "cases"}: a case has its work, `loop_steps`, for each candidate, way and placement compile_seconds,
      memory, difference and seconds, and `tabulates`, for each way and placement whether the engine takes "tabulated".
    """
    measuring.warm_up_compiler()
    works = [
        Work(cell, batch, options.length, features, hidden, max(1, batch * options.length // lookups))
        for cell, batch, features, hidden, lookups in itertools.product(
            options.cells, options.batches, options.features, options.hidden, options.lookups
        )
    ]
    cases = []
    for number, work in enumerate(works, 1):
        measuring.progress(f"{number}/{len(works)}: {work}")
        places = comparison.placements(work.batch, options.devices)
        measured = functools.partial(_measure_case, work, places, options.repeats, options.limit)
        case = record.case(work._asdict(), measured)
        tabulates = {way: {name: _tabulates(work, devices, way) for name, devices in places.items()} for way in WAYS}
        cases.append({**case, "tabulates": tabulates})
    return {"notes": comparison.NOTES, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """Markdown: how the engine's choice fares, then for each way and placement a row a case."""
    parts = [
        "Float32; B is of all devices together. Ratios: the time of the rows projected over that of the table, above 1 "
        "the table is faster. Times and ratios: median (quartiles).",
        measuring.markdown_table(
            ["what", "chosen", "cases", "ratio: least", "median", "greatest", "surely below 1", "surely above 1"],
            [
                [comparison.view_title(*view), "tabulated" if taken else "rows", *_fares(result["cases"], *view, taken)]
                for view in _views(result)
                for taken in (True, False)
            ],
        ),
    ]
    header = ["cell", "shape", "T B over V", "rows, ms", "tabulated, ms", "ratio", "memory: rows over tabulated"]
    for way, placement in _views(result):
        rows = []
        for case in _cases(result["cases"], placement):
            both = [case["implementations"][name][way][placement] for name in CANDIDATES]
            bytes_needed = [one["memory"]["temporary_bytes"] for one in both]
            rows.append(
                [case["cell"], _work(case).shape, f"{_lookups(case):.0f}"]
                + [measuring.milliseconds(one["seconds"]) for one in both]
                + [str(_ratio(case, way, placement)), f"{bytes_needed[0] / max(bytes_needed[1], 1):.2f}"]
                + ["tabulated" if case["tabulates"][way][placement] else "rows"]
            )
        parts += [f"### {comparison.view_title(way, placement)}", measuring.markdown_table([*header, "chosen"], rows)]
    return "\n\n".join(parts)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws the ratio over H, a panel a way, placement and cell, a line for each B, F and V."""
    from matplotlib import figure, lines  # only who draws pays for the import

    settings, about = result["settings"], result["environment"]
    views, cells = _views(result), settings["cells"]
    picture = figure.Figure(figsize=(3 + 3.2 * len(cells), 1.5 + 2.4 * len(views)), layout="constrained")
    axes = picture.subplots(len(views), len(cells), sharex=True, sharey=True, squeeze=False)
    markers = dict(zip(settings["lookups"], itertools.cycle("os^vDP"), strict=False))
    colors = {features: f"C{number}" for number, features in enumerate(settings["features"])}
    styles: dict[int, Any] = dict(zip(settings["batches"], itertools.cycle(("--", "-", ":")), strict=False))
    for row, (way, placement) in zip(axes, views, strict=True):
        for axis, cell in zip(row, cells, strict=True):
            for features, batch, lookups in itertools.product(colors, styles, markers):
                kind = (cell, features, batch, max(1, batch * settings["length"] // lookups))
                ratios = {
                    case["hidden"]: _ratio(case, way, placement).median
                    for case in _cases(result["cases"], placement)
                    if tuple(case[name] for name in ("cell", "features", "batch", "table_size")) == kind
                }
                look = {"color": colors[features], "linestyle": styles[batch], "marker": markers[lookups]}
                axis.plot(list(ratios), list(ratios.values()), markersize=4, **look)
            comparison.draw_axis(axis, cell, settings["hidden"])
        row[0].set_ylabel(comparison.view_title(way, placement).replace(", ", "\n"), fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("H")
    keys = [lines.Line2D([], [], color=color, label=f"F {features}") for features, color in colors.items()]
    keys += [lines.Line2D([], [], color="black", linestyle=one, label=f"B {batch}") for batch, one in styles.items()]
    keys += [
        lines.Line2D([], [], color="black", linestyle="", marker=marker, label=f"T B = {lookups} V")
        for lookups, marker in markers.items()
    ]
    picture.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False)
    picture.suptitle(
        f"A table's rows projected: times as fast as the rows looked up, T {settings['length']}\n"
        f"{about['devices']} x {about['device']}, {about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=80)


def _measure_case(work: Work, places: Mapping[str, int], repeats: int, limit: float) -> dict[str, Any]:
    """Compiles and compares both candidates in every way and placement, then times them all."""
    found: dict[str, Any] = {name: {way: {} for way in WAYS} for name in CANDIDATES}
    calls: dict[tuple[str, str, str], Callable[[int], Any]] = {}
    references: dict[str, Any] = {}
    for name, way, placement in itertools.product(CANDIDATES, WAYS, places):
        program, result, call = _compile(work, CANDIDATES[name], way, places[placement])
        label = f"{name}, {way}, {placement}, of {work}"
        found[name][way][placement] = {
            "compile_seconds": program.compile_seconds,
            "memory": program.memory,
            "difference": measuring.check_equal(label, result, references.setdefault(way, result)),
        }
        calls[name, way, placement] = call
    return comparison.time_in_turns(found, calls, repeats, limit)


def _compile(
    work: Work, implementation: Implementation | None, way: str, devices: int
) -> tuple[measuring.Program, Any, Callable[[int], Any]]:
    """One candidate: its program, what it gives, and a call of so many steps."""
    cell = measuring.CELLS[work.cell](work.hidden)
    rng = np.random.default_rng(0)
    likelihoods = 1 / np.arange(1, work.table_size + 1)
    tokens = rng.choice(work.table_size, (work.length, work.batch), p=likelihoods / likelihoods.sum()).astype(np.int32)
    cotangents = rng.standard_normal((work.length, work.batch, work.hidden), np.float32)
    moved = (
        rng.standard_normal((work.table_size, work.features), np.float32),
        cell.init(jax.random.key(0), work.features),
    )

    def forward(moved: Any, tokens: jax.Array) -> jax.Array:
        rows, params = moved
        inputs = rows[tokens] if implementation is None else jaxseq.Lookup(rows, tokens)
        return jaxseq.scan(cell, params, inputs, implementation=implementation)[1]

    def gradient(moved: Any, tokens: jax.Array, cotangents: jax.Array) -> Any:
        slopes = jax.grad(lambda moved: jnp.vdot(cotangents, forward(moved, tokens)))(moved)
        return sum_over_devices(slopes, devices)

    def loop(moved: Any, tokens: jax.Array, cotangents: jax.Array, rate: jax.Array, steps: jax.Array) -> Any:
        return comparison.take_steps(lambda moved: gradient(moved, tokens, cotangents), moved, rate, steps)

    everywhere, by_batch = jax.P(), jax.P(None, "batch")
    function: Callable[..., Any] = forward if way == "forward" else loop
    inputs = (moved, tokens) if way == "forward" else (moved, tokens, cotangents)
    checked = () if way == "forward" else (np.float32(comparison.CHECKED_RATE), np.int32(1))
    specs = (everywhere, by_batch, by_batch)[: len(inputs)]
    mesh = measuring.make_mesh(devices)
    if devices > 1:
        function = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(*specs, *[everywhere] * len(checked)),
            out_specs=by_batch if way == "forward" else everywhere,
            check_vma=False,
        )
    placed = [jax.device_put(one, jax.NamedSharding(mesh, spec)) for one, spec in zip(inputs, specs, strict=True)]
    program = measuring.compile_program(function, *placed, *checked)
    result = jax.tree.map(np.asarray, program.run())
    if way == "forward":
        return program, result, lambda _: program.run()
    slopes = jax.tree.map(lambda before, after: (before - after) / comparison.CHECKED_RATE, moved, result)
    return program, slopes, lambda steps: program.call(*placed, np.float32(comparison.TINY_RATE), np.int32(steps))


def _tabulates(work: Work, devices: int, way: str) -> bool:
    choice = jaxseq.explain(
        measuring.CELLS[work.cell](work.hidden),
        (work.length, work.batch // devices, work.features),
        gradient=way == "loop",
        sharded=devices > 1,
        table_size=work.table_size,
    )
    return choice.implementation == "tabulated"


def _work(case: Mapping[str, Any]) -> Work:
    return Work(*(case[field] for field in Work._fields))


def _lookups(case: Mapping[str, Any]) -> float:
    return case["length"] * case["batch"] / case["table_size"]


def _views(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Way and placement of all that was measured."""
    return [view for view in itertools.product(WAYS, comparison.PLACEMENTS) if _cases(result["cases"], view[1])]


def _cases(cases: Sequence[dict[str, Any]], placement: str) -> list[dict[str, Any]]:
    return [case for case in cases if placement in case["tabulates"]["forward"]]


def _ratio(case: Mapping[str, Any], way: str, placement: str) -> comparison.Ratio:
    tabulated, rows = (case["implementations"][name][way][placement]["seconds"] for name in ("tabulated", "rows"))
    return comparison.ratio(tabulated, rows)


def _fares(cases: Sequence[dict[str, Any]], way: str, placement: str, taken: bool) -> list[str]:
    """How fast "tabulated" is where the engine takes it, or does not."""
    ratios = [
        _ratio(case, way, placement) for case in _cases(cases, placement) if case["tabulates"][way][placement] == taken
    ]
    if not ratios:
        return ["0"] + ["–"] * 5
    medians = [one.median for one in ratios]
    values = (min(medians), statistics.median(medians), max(medians))
    counts = (sum(one.verdict == verdict for one in ratios) for verdict in ("behind", "ahead"))
    return [str(len(ratios)), *(f"{value:.2f}" for value in values), *map(str, counts)]
