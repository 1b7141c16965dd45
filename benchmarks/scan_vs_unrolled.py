"""What does each way to run a recurrence cost as T grows, in time, compile time and memory?

Every implementation that the engine has, partial unrollings of the plain scan, and `remat`: one recurrent layer,
forward, and forward and backward with respect to parameters and inputs. All cases compute the same numbers, which is
checked before anything is timed. An implementation that cannot run here is named with its error.

A full unrolling compiles in a time that grows faster than T. What its compile time will be is predicted from the
shorter ones, and a case over --limit is not run: the table, the plot, the JSON and stderr say so.
"""

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jaxseq
from benchmarks import arguments, measuring
from benchmarks.record import Record
from experiments.arguments import positive
from jaxseq.choice import IMPLEMENTATIONS


class Case(NamedTuple):
    """One way to run a layer."""

    label: str
    implementation: str
    unroll: int
    remat: bool = False


CASES = (
    *(Case(name, name, 1) for name in IMPLEMENTATIONS if name not in ("unrolled", "tabulated")),
    Case("scan, remat", "scan", 1, remat=True),
    *(Case(f"scan, unroll {unroll}", "scan", unroll) for unroll in (2, 4, 8, 16)),
    Case("unrolled", "unrolled", 1),
)
SETTINGS = ("cell", "batch", "features", "hidden", "lengths", "repeats", "devices", "limit")
SMOKE = {"lengths": (2, 5), "batch": 2, "features": 3, "hidden": 4, "repeats": 2}

# Compile time grows as the copies of the step to the power of 0.8 to 2, as measured on a CPU, the more the longer.
# For a gradient of 2000 copies, 4 and 8 predict 6 minutes and 100 (which take 3) 19 hours: no prediction reaches far.
_STEEPEST = 2.0
_REACH = 4  # a prediction is for at most so many times the copies that were compiled
_RUNG = 3  # where that is not enough, a program of so many times the copies is compiled on the way
_PROBE = 10  # copies compiled first, where nothing shorter was asked for
_FEW_COPIES = 31  # compiled without a prediction: unroll 16 makes no more
_MARKERS = "os^vDPX<>*ph"
_COLORS = (*(f"C{number}" for number in range(10)), "black", "0.6")

_CompileTimes = defaultdict[tuple[Case, str], dict[int, float]]  # seconds by copies of the step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument(
        "--lengths",
        type=arguments.positives,
        default=(10, 30, 100, 300, 1000, 2000),
        metavar="T,T,...",
        help="T, taken in ascending order (default: 10,30,100,300,1000,2000)",
    )
    parser.add_argument("--cell", choices=tuple(measuring.CELLS), default="lstm", help="default: %(default)s")
    parser.add_argument("--batch", type=positive, default=128, metavar="B", help="default: %(default)s")
    parser.add_argument("--features", type=positive, default=32, metavar="F", help="default: %(default)s")
    parser.add_argument("--hidden", type=positive, default=32, metavar="H", help="default: %(default)s")
    parser.add_argument(
        "--limit",
        type=arguments.seconds,
        default=300.0,
        metavar="SECONDS",
        help="no case is compiled that is predicted to take longer (default: %(default)g)",
    )


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every case at every length.

    Returns:
      {"notes", "cases"}: a case has its length, label, implementation, unroll, whether it is `chosen` by
      `jaxseq.explain` for a call that is differentiated, and for "forward" and "gradient" either compile_seconds,
      memory, difference and seconds, or not_run, and predicted_compile_seconds where that was why.
    """
    cell = measuring.CELLS[options.cell](options.hidden)
    compiled: _CompileTimes = defaultdict(dict)
    cases = []
    measuring.warm_up_compiler()
    for length in options.lengths:
        earlier = record.earlier(length=length)
        _remember(earlier, compiled)
        measured = earlier or record.add(*_measure_length(cell, length, options, compiled))
        # Chosen now, also where an earlier run measured: the engine's rules may have changed since.
        choice = jaxseq.explain(cell, (length, options.batch, options.features))
        picked = (choice.implementation, 1, False)
        cases += [
            {**case, "chosen": (case["implementation"], case["unroll"], case["remat"]) == picked} for case in measured
        ]
    return {"notes": measuring.NOTES, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, a row a case, and what the columns mean."""
    header = ["T", "implementation"]
    header += [f"{measuring.PASS_TITLES[one]}, ms" for one in measuring.PASSES]
    header += ["compile, s", "temporary memory, MB"]
    rows = []
    for case in result["cases"]:
        passes = [case[one] for one in measuring.PASSES]
        rows.append(
            [
                str(case["length"]),
                f"**{case['label']}** (chosen)" if case["chosen"] else case["label"],
                *(_time_cell(one) for one in passes),
                " / ".join(_or_dash(one, "compile") for one in passes),
                " / ".join(_or_dash(one, "memory") for one in passes),
            ]
        )
    settings = result["settings"]
    about = (
        f"{settings['cell']}, B {settings['batch']}, F {settings['features']}, H {settings['hidden']}, "
        f"float32. Times: median (quartiles) of {settings['repeats']} samples. Compile time and memory: "
        "forward / forward + backward; memory is XLA's estimate, per device, not a measured peak. "
        "Chosen: what jaxseq.explain picks where a call is differentiated."
    )
    return f"{about}\n\n{measuring.markdown_table(header, rows)}"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws time, compile time and memory over T, forward above, forward and backward below."""
    from matplotlib import figure  # only who draws pays for the import
    from matplotlib.lines import Line2D

    settings, about = result["settings"], result["environment"]
    picture = figure.Figure(figsize=(14, 8.5), layout="constrained")
    axes = picture.subplots(2, 3, sharex=True)
    panels = (("seconds", "time of a call, ms"), ("compile", "compile time, s"), ("memory", "temporary memory, MB"))
    for row, measured in zip(axes, measuring.PASSES, strict=True):
        for axis, (quantity, title) in zip(row, panels, strict=True):
            for number, one in enumerate(CASES):
                cases = [case for case in result["cases"] if case["label"] == one.label]
                _draw_line(axis, cases, measured, quantity, color=_COLORS[number], marker=_MARKERS[number])
            axis.set(xscale="log", yscale="log", title=f"{title}, {measuring.PASS_TITLES[measured]}")
            axis.grid(alpha=0.25, which="both")
            axis.set_xticks(settings["lengths"], [str(length) for length in settings["lengths"]])
            axis.set_xticks([], minor=True)
        if settings["limit"] is not None:
            row[1].axhline(settings["limit"], color="black", linestyle=":", linewidth=1)
    for axis in axes[-1]:
        axis.set_xlabel("T, steps")
    handles = [
        Line2D([], [], color=_COLORS[number], marker=_MARKERS[number], label=one.label)
        for number, one in enumerate(CASES)
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=12,
            color="black",
            markerfacecolor="none",
            label="chosen by jaxseq.explain",
        ),
        Line2D([], [], linestyle="", marker="x", color="black", label="not run; its predicted compile time"),
        Line2D([], [], linestyle=":", color="black", label="limit of compile time"),
    ]
    picture.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    picture.suptitle(
        f"{settings['cell']}, B {settings['batch']}, F {settings['features']}, H {settings['hidden']}; "
        f"{about['devices']} x {about['device']}, {about['cores']} cores, jax {about['jax']}"
    )
    picture.savefig(path, dpi=110)


def _measure_length(
    cell: jaxseq.Cell, length: int, options: argparse.Namespace, compiled: _CompileTimes
) -> list[dict[str, Any]]:
    """Measures every case at one length: compiles, checks, then times them all."""
    layer = _layer(cell, length, options)
    found: dict[Case, dict[str, Any]] = {}
    programs: dict[tuple[Case, str], measuring.Program] = {}
    references: dict[str, Any] = {}
    measuring.progress(f"T {length}: compiling and comparing")
    for case in CASES:
        found[case] = {"length": length, **case._asdict()}
        for measured in measuring.PASSES:
            name = f"{case.label} at T {length}, {measuring.PASS_TITLES[measured]},"
            try:
                program, found[case][measured] = _compile_case(cell, case, measured, layer, options, compiled)
                if program is not None:
                    result = program.run()
                    reference = references.setdefault(measured, result)
                    found[case][measured]["difference"] = measuring.check_equal(name, result, reference)
                    programs[case, measured] = program
            except Exception as error:
                if case == CASES[0] or isinstance(error, measuring.UnequalResults):
                    raise
                found[case][measured] = {"not_run": measuring.describe_error(error)}
            if "not_run" in found[case][measured]:
                measuring.progress(f"{name} not run: {found[case][measured]['not_run']}")

    measuring.progress(f"T {length}: timing")
    timings = measuring.time_interleaved({key: program.run for key, program in programs.items()}, options.repeats)
    for (case, measured), timing in timings.items():
        found[case][measured]["seconds"] = timing._asdict()
    return list(found.values())


def _remember(cases: Sequence[dict[str, Any]], compiled: _CompileTimes) -> None:
    """Adds the compile times of cases that an earlier run measured."""
    for found, measured in itertools.product(cases, measuring.PASSES):
        if "compile_seconds" in found[measured]:
            case = Case(*(found[field] for field in Case._fields))
            compiled[case, measured][_copies(case, found["length"])] = found[measured]["compile_seconds"]


def _compile_case(
    cell: jaxseq.Cell,
    case: Case,
    measured: str,
    layer: measuring.Layer,
    options: argparse.Namespace,
    compiled: _CompileTimes,
) -> tuple[measuring.Program | None, dict[str, Any]]:
    """Compiles a case and says what that cost, or (None, why not) where it would take over the limit."""
    length = len(layer.inputs)
    known, copies = compiled[case, measured], _copies(case, length)
    climb(
        known,
        copies,
        options.limit,
        lambda rung: _compile(cell, case, measured, _layer(cell, rung, options)).compile_seconds,
    )
    predicted = predict_seconds(known, copies)
    if predicted is not None and predicted > options.limit:
        why = f"predicted compile time {predicted:.0f} s over the limit of {options.limit:g} s"
        return None, {"not_run": why, "predicted_compile_seconds": predicted}
    program = _compile(cell, case, measured, layer)
    known[copies] = program.compile_seconds
    return program, {"compile_seconds": program.compile_seconds, "memory": program.memory}


def _layer(cell: jaxseq.Cell, length: int, options: argparse.Namespace) -> measuring.Layer:
    return measuring.random_layer(cell, length, options.batch, options.features, devices=options.devices)


def _compile(cell: jaxseq.Cell, case: Case, measured: str, layer: measuring.Layer) -> measuring.Program:
    how = {"implementation": case.implementation, "unroll": case.unroll, "remat": case.remat}
    return measuring.compile_program(measuring.layer_function(cell, measured, **how), *layer)


def _copies(case: Case, length: int) -> int:
    """How many copies of the step a program holds: a compile time goes by these, not by T."""
    if case.implementation == "unrolled" or case.unroll > length:
        return length
    return case.unroll + length % case.unroll


def climb(known: dict[int, float], copies: int, limit: float, seconds_of: Callable[[int], float]) -> None:
    """Compiles shorter programs until a prediction reaches `copies`, or the next one would pass the limit.

    Args:
      known: seconds by copies of the step; added to.
      copies: how many a new program has.
      limit: seconds.
      seconds_of: compiles a program of so many copies, and times that.
    """
    if not known and copies > _FEW_COPIES:
        known[_PROBE] = seconds_of(_PROBE)
    while known and copies > _REACH * max(known):
        rung = _RUNG * max(known)
        if (predict_seconds(known, rung) or 0) > limit:
            return
        known[rung] = seconds_of(rung)


def predict_seconds(known: dict[int, float], copies: int) -> float | None:
    """Extends compile times by a power law through the two greatest.

    Args:
      known: seconds by copies of the step.
      copies: how many a new program has.
    Returns:
      Seconds, the exponent held between 1 and 2, and 2 where only one time is known; None where there is nothing to
      extend: no time is known, or that of as many copies is.
    """
    if not known or copies <= max(known):
        return None
    *shorter, last = sorted(known)
    exponent = _STEEPEST
    if shorter:
        exponent = math.log(known[last] / known[shorter[-1]]) / math.log(last / shorter[-1])
    return known[last] * (copies / last) ** min(max(exponent, 1.0), _STEEPEST)


def _time_cell(found: dict[str, Any]) -> str:
    return f"not run: {found['not_run']}" if "not_run" in found else measuring.milliseconds(found["seconds"])


def _or_dash(found: dict[str, Any], quantity: str) -> str:
    if "not_run" in found:
        return "–"
    return measuring.significant(_value(found, quantity))


def _value(found: dict[str, Any], quantity: str) -> float:
    """One quantity of a measurement, in the unit that is shown."""
    if quantity == "seconds":
        return 1e3 * found["seconds"]["median"]
    if quantity == "compile":
        return found["compile_seconds"]
    return found["memory"]["temporary_bytes"] / 1e6


def _draw_line(axis: Any, cases: list[dict[str, Any]], measured: str, quantity: str, **look: Any) -> None:
    """Draws one case over T, rings where it was chosen and crosses where it was not run."""
    values = {
        case["length"]: math.nan if "not_run" in case[measured] else _value(case[measured], quantity) for case in cases
    }
    axis.plot(list(values), list(values.values()), markersize=4, linewidth=1.2, **look)
    for case in cases:
        length = case["length"]
        if "not_run" in case[measured]:
            if quantity == "compile" and "predicted_compile_seconds" in case[measured]:
                axis.plot(length, case[measured]["predicted_compile_seconds"], "x", color=look["color"])
            else:
                axis.plot(length, 0.97, "x", color=look["color"], transform=axis.get_xaxis_transform())
        elif case["chosen"]:
            axis.plot(length, values[length], "o", markersize=12, markerfacecolor="none", color="black")
