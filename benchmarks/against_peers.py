"""How fast is a recurrent layer beside its peers, and beside a plain scan, on the same work in the same run?

Every implementation has the same weights, inputs, lengths and dropout masks, in its own layout; what it gives is
compared with jaxseq's before anything is timed; all are timed in turns. Three ways: one call forward; one call
forward and backward; the latter inside a training loop. Two placements: one device, and the batch sharded over all.
The result's notes say more. A peer that cannot do a piece of work, or is not installed, is named.

The ratio "as used" sets our training loop, sharded, beside a peer's call from Python on one device: how `jaxseq.fit`
runs a layer, and how the peers' users run theirs.
"""

import argparse
import collections
import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import arguments, comparison, measuring
from benchmarks.comparison import WAYS, Ratio
from benchmarks.peers import OPTIONS, OURS, PEERS, Work
from benchmarks.record import Record

SETTINGS = ("shapes", "cells", "options", "ways", "peers", "repeats", "limit", "devices", "behind")
GROWING = ("shapes", "cells", "options")
SMOKE = {
    "shapes": ("2x3x2x2",),
    "cells": ("lstm",),
    "options": ("plain",),
    "ways": ("gradient", "loop"),
    "repeats": 2,
    "devices": 1,
}


class Shape(NamedTuple):
    """A shape of work: all but its cell and option."""

    batch: int
    length: int
    features: int
    hidden: tuple[int, ...]
    bidirectional: bool = False


SHAPES = {
    "documents": (
        Shape(128, 500, 32, (32,)),  # IMDB
        Shape(128, 240, 14, (32,)),  # Jena
        Shape(100, 100, 100, (100,)),  # Reuters
        Shape(64, 100, 16, (8,)),  # IMDB, 500 words
        Shape(128, 500, 32, (32,), bidirectional=True),
        Shape(128, 240, 14, (32, 64)),
    ),
    "grid": tuple(  # the cheapest first
        sorted(
            (
                Shape(batch, length, hidden, (hidden,))
                for batch, length, hidden in itertools.product((1, 32, 128), (100, 500, 2000), (32, 128, 512))
            ),
            key=lambda shape: math.prod(shape[:3]) * shape.features,
        )
    ),
}


class View(NamedTuple):
    """What is set beside what: our way and placement, the peers' way and placement."""

    title: str
    ours: tuple[str, str]
    theirs: tuple[str, str]


AS_USED = View(
    "as used: our training loop, sharded; the peers' call, one device", ("loop", "sharded"), ("gradient", "one")
)
VIEWS = (
    *(
        View(comparison.view_title(way, placement), (way, placement), (way, placement))
        for way in WAYS
        for placement in comparison.PLACEMENTS
    ),
    AS_USED,
)
_COMPILING = 5e8  # a case's compilations take as long as so many multiplications, 10 s of 2 CPU cores
_GROUPS = {
    "every JAX peer": tuple(name for name in PEERS if name not in (OURS, "pytorch")),
    "a plain scan": ("plain_scan",),
    "PyTorch": ("pytorch",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    parser.add_argument(
        "--shapes",
        type=_shape_names,
        default=("documents",),
        metavar="SHAPE,...",
        help="documents, grid, or BxTxFxH, where H may be H+H for a stack, and x2 at its end means both directions "
        "(default: documents); with --resume, more than before",
    )
    for name, choices in (("cells", measuring.CELLS), ("options", OPTIONS), ("ways", WAYS)):
        arguments.add_some_of(parser, name, choices)
    arguments.add_some_of(parser, "peers", [name for name in PEERS if name != OURS])
    arguments.add_limit(parser, 60.0)
    parser.add_argument(
        "--total",
        type=arguments.seconds,
        default=math.inf,
        metavar="SECONDS",
        help="no case begins after so many; those not run are named, and --resume runs them (default: no limit)",
    )
    parser.add_argument(
        "--behind",
        metavar="FILE.json",
        help="only cases where jaxseq is behind one of the peers by this earlier result: was it chance?",
    )
    parser.set_defaults(devices="all")


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every case.

    Returns:
      {"notes", "peers", "cases", "failures"}: a peer has title, version and note, or `missing`. A case has
      its work, by placement what `jaxseq.explain` picks for each layer where it is differentiated (`chosen`), and
      either `not_run`, or what `comparison.measure_work` gives and `ratios`: for each view, the ratios to every peer by
      name.
    """
    shapes, kinds = _shapes(options.shapes), list(itertools.product(options.cells, options.options))
    works = in_turn(shapes, kinds)
    if options.behind is not None:
        behind = _behind(options)
        works = [work for work in works if work in behind]
        if not works:
            raise measuring.WrongArgument(f"argument --behind: no case asked for is behind in {options.behind}")
        if options.json is None and not options.smoke:
            raise measuring.WrongArgument(
                "argument --behind: needs --json FILE, not to replace the result of all cases"
            )
    measuring.warm_up_compiler()
    found_peers = record.add_about("peers", comparison.find(options.peers))
    names = [name for name, peer in found_peers.items() if "missing" not in peer]
    started, cases = time.monotonic(), {}
    for number, work in enumerate(works, 1):
        measuring.progress(f"{number}/{len(works)}: {work}")
        late = time.monotonic() - started > options.total
        case = record.case(work._asdict(), functools.partial(_measure_case, work, names, options, late))
        if "not_run" in case:
            measuring.progress(f"  not run: {case['not_run']}")
        cases[work] = case
    return {
        "notes": comparison.NOTES,
        "peers": found_peers,
        "cases": [cases[work] for shape in shapes for kind in kinds if (work := Work(*kind, *shape)) in cases],
        "failures": comparison.failures(list(cases.values())),
    }


def in_turn(shapes: Sequence[Shape], kinds: Sequence[tuple[str, str]]) -> list[Work]:
    """Every shape of every kind (cell, option), so that a run that ends early has something of each.

    Each shape takes the kinds in turn and has the same share of the time: what costs much comes seldom, and late.
    """
    turns = []
    for number, shape in enumerate(shapes):
        works = [Work(*kinds[(number + turn) % len(kinds)], *shape) for turn in range(len(kinds))]
        turns += [(turn * _cost(work), number, work) for turn, work in enumerate(works, 1)]
    return [work for _, _, work in sorted(turns)]


def _behind(options: argparse.Namespace) -> set[Work]:
    """The work of an earlier result in which jaxseq is behind a peer asked for, in a view that this run takes."""
    try:
        earlier = json.loads(Path(options.behind).read_bytes())["cases"]
        losses = [
            (comparison.work_of(case), view)
            for case in earlier
            for view in VIEWS
            for name, one in case.get("ratios", {}).get(view.title, {}).items()
            if name in options.peers and one["verdict"] == "behind"
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = measuring.describe_error(error)
        raise measuring.WrongArgument(
            f"argument --behind: must be JSON that against_peers wrote, got {options.behind} ({why})"
        ) from None
    return {
        work
        for work, view in losses
        for places in [comparison.placements(work.batch, options.devices)]
        if all(way in options.ways and placement in places for way, placement in (view.ours, view.theirs))
    }


def _cost(work: Work) -> float:
    """What a case takes, in multiplications of one gate's products, those of its compilations' time included."""
    sizes = sum((features + hidden) * hidden for features, hidden in work.layers)
    return _COMPILING + work.batch * work.length * len(work.directions) * sizes


def table(result: dict[str, Any]) -> str:
    """Markdown: who took part, a summary, losses, a table for each view, compile time and memory, what was not run."""
    parts = [comparison.peers_list(result["peers"]), _summary(result), _losses(result)]
    parts += [_view_table(result, view) for view in VIEWS if any(view.title in one for one in _all_ratios(result))]
    parts += [_quantity_table(result, *quantity) for quantity in _QUANTITIES]
    parts.append(_not_run(result))
    return "\n\n".join(filter(None, parts))


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws for each view the ratio to the fastest peer, a row a shape, a column a cell and option."""
    from matplotlib import colormaps, colors, figure  # only who draws pays for the import

    views = [view for view in VIEWS if any(view.title in one for one in _all_ratios(result))]
    cases = [case for case in result["cases"] if "not_run" not in case]
    rows = list(dict.fromkeys(_shape(case) for case in cases))
    columns = list(dict.fromkeys((case["cell"], case["option"]) for case in cases))
    wide = min(2, max(len(views), 1))  # a placement each; without peers an empty picture
    tall = max(math.ceil(len(views) / wide), 1)
    size = (2.4 + wide * (1.2 + 0.5 * len(columns)), 1.8 + tall * (1.9 + 0.3 * len(rows)))
    picture = figure.Figure(figsize=size, layout="constrained")
    axes = picture.subplots(tall, wide, squeeze=False, sharex=True, sharey=True).ravel()
    norm = colors.TwoSlopeNorm(0, -1, 1)  # of log2: blue twice as fast as the fastest peer, red half as fast
    shades = colormaps["RdBu"].with_extremes(bad="0.85")
    image = None
    for axis, view in zip(axes, views, strict=False):
        values = [[math.nan] * len(columns) for _ in rows]
        for case in cases:
            ratios = case["ratios"].get(view.title)
            if ratios:
                least = min(one["median"] for one in ratios.values())
                row, column = rows.index(_shape(case)), columns.index((case["cell"], case["option"]))
                values[row][column] = math.log2(least)
                shade = "white" if abs(math.log2(least)) > 0.7 else "black"
                axis.text(column, row, f"{least:.2f}", ha="center", va="center", fontsize=7, color=shade)
        image = axis.imshow(values, norm=norm, cmap=shades, aspect="auto")
        axis.set_title(view.title.replace(": ", ":\n").replace("; ", ";\n"), fontsize=9)
        axis.set_xticks(range(len(columns)), [f"{cell}, {option}" for cell, option in columns], rotation=90, fontsize=8)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
    for axis in axes[len(views) :]:
        axis.set_axis_off()
    for axis in axes[max(len(views) - wide, 0) : len(views)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    if image is not None:
        bar = picture.colorbar(image, ax=list(axes), ticks=[-1, 0, 1], shrink=0.6, extend="both")
        bar.ax.set_yticklabels(["half as fast", "as fast", "twice as fast"], fontsize=8)
    about = result["environment"]
    names = ", ".join(peer["title"] for name, peer in result["peers"].items() if name != OURS and "version" in peer)
    picture.suptitle(
        f"jaxseq's speed over that of the fastest peer (grey: not measured); of {names}\n"
        f"{about['devices']} x {about['device']}, {about['processor']}, {about['cores']} cores, jax {about['jax']}",
        fontsize=10,
    )
    picture.savefig(path, dpi=110)


def _measure_case(work: Work, names: Sequence[str], options: argparse.Namespace, late: bool) -> dict[str, Any]:
    """What is known of one piece of work; only our choice where it is late."""
    places = comparison.placements(work.batch, options.devices)
    case: dict[str, Any] = {"chosen": {name: comparison.chosen(work, devices) for name, devices in places.items()}}
    if late:
        return {**case, "not_run": f"the run's {options.total:g} s were over"}
    case |= comparison.measure_work(
        work,
        {name: PEERS[name] for name in names},
        ways=options.ways,
        placements=places,
        repeats=options.repeats,
        seconds=options.limit,
    )
    ratios = {view.title: _ratios(case["implementations"], view) for view in VIEWS}
    case["ratios"] = {
        title: {name: measuring.rounded(one._asdict()) for name, one in of_view.items()}
        for title, of_view in ratios.items()
        if of_view
    }
    return case


def _shape_names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in SHAPES:
            _read_shape(name)
    return names


def _shapes(names: Sequence[str]) -> list[Shape]:
    return list(dict.fromkeys(shape for name in names for shape in SHAPES.get(name) or (_read_shape(name),)))


def _read_shape(text: str) -> Shape:
    try:
        batch, length, features, hidden, *both = text.split("x")
        if both not in ([], ["2"]):
            raise ValueError
        layers = tuple(arguments.positive(size) for size in hidden.split("+"))
        sizes = (arguments.positive(size) for size in (batch, length, features))
        return Shape(*sizes, hidden=layers, bidirectional=bool(both))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(
            f"must be some of {','.join(SHAPES)} or shapes such as 128x500x32x32, 128x240x14x32+64 or 128x500x32x32x2, "
            f"got {text!r}"
        ) from None


def _ratios(implementations: Mapping[str, Any], view: View) -> dict[str, Ratio]:
    """Every peer's time over ours; empty where one of the two was not measured."""
    ours = _ours(implementations, view)
    if ours is None:
        return {}
    timings = {
        name: comparison.timing_of(found, *view.theirs) for name, found in implementations.items() if name != OURS
    }
    return {name: comparison.ratio(ours, timing) for name, timing in timings.items() if timing is not None}


def _ours(implementations: Mapping[str, Any], view: View) -> dict[str, Any] | None:
    """Our timing; that of one device where the batch of a view that mixes placements could not be sharded."""
    ours = comparison.timing_of(implementations[OURS], *view.ours)
    if ours is None and view is AS_USED:
        return comparison.timing_of(implementations[OURS], "loop", "one")
    return ours


def _all_ratios(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [case["ratios"] for case in result["cases"] if "ratios" in case]


def _shape(case: dict[str, Any]) -> str:
    return comparison.work_of(case).shape


def _summary(result: dict[str, Any]) -> str:
    """How often jaxseq is ahead, even or behind the fastest of each group, and by how much."""
    rows = []
    for view in VIEWS:
        for group, names in _GROUPS.items():
            of_cases = [
                [ratios[name] for name in names if name in ratios]
                for ratios in (one.get(view.title, {}) for one in _all_ratios(result))
            ]
            found = [ratios for ratios in of_cases if ratios]
            if found:
                verdicts = collections.Counter(_verdict(ratios) for ratios in found)
                medians = [min(one["median"] for one in ratios) for ratios in found]
                rows.append(
                    [view.title, group, *(str(verdicts[verdict]) for verdict in ("ahead", "even", "behind"))]
                    + [f"{value:.2f}" for value in (min(medians), statistics.median(medians), max(medians))]
                )
    header = ["what", "against the fastest of", "ahead", "even", "behind", "least ratio", "median", "greatest"]
    about = (
        "Ratios: a peer's time over jaxseq's, above 1 jaxseq is faster. Behind: beyond the quartiles, of any of the "
        "group. Even: the quartiles overlap; of one sample, which has none, no case is."
    )
    return f"{about}\n\n{measuring.markdown_table(header, rows)}" if rows else ""


def _verdict(ratios: Sequence[dict[str, Any]]) -> str:
    """Of one case beside a group: behind any of it, else what is said of the one of the least median."""
    if any(one["verdict"] == "behind" for one in ratios):
        return "behind"
    return min(ratios, key=lambda one: one["median"])["verdict"]


def _losses(result: dict[str, Any]) -> str:
    """Every peer that is ahead of jaxseq, where and by how much, the greatest loss of each view first."""
    rows = []
    for view in VIEWS:
        behind = [
            (Ratio(**one), PEERS[name].title, case)
            for case in result["cases"]
            for name, one in case.get("ratios", {}).get(view.title, {}).items()
            if one["verdict"] == "behind"
        ]
        behind.sort(key=lambda loss: loss[0].median)
        rows += [[view.title, _shape(case), case["cell"], case["option"], peer, str(one)] for one, peer, case in behind]
    header = ["what", "shape", "cell", "option", "peer", "its time over jaxseq's (quartiles)"]
    return f"### Where a peer is ahead\n\n{measuring.markdown_table(header, rows)}" if rows else ""


def _view_table(result: dict[str, Any], view: View) -> str:
    others = [name for name, peer in result["peers"].items() if name != OURS and "version" in peer]
    header = ["shape", "cell", "option", "chosen", "samples", "jaxseq, ms", "fastest peer"]
    header += ["its time over jaxseq's (quartiles)"]
    header += [PEERS[name].title for name in others]
    rows = []
    for case in result["cases"]:
        ratios = case.get("ratios", {}).get(view.title)
        if not ratios:
            continue
        ours = _ours(case["implementations"], view)
        assert ours is not None  # or there were no ratios
        fastest = min(ratios, key=lambda name: ratios[name]["median"])
        chosen = case["chosen"].get(view.ours[1], case["chosen"]["one"])
        rows.append(
            [_shape(case), case["cell"], case["option"], "+".join(dict.fromkeys(chosen))]
            + [str(ours["samples"]), measuring.milliseconds(ours)]
            + [PEERS[fastest].title, str(Ratio(**ratios[fastest]))]
            + [f"{ratios[name]['median']:.2f}" if name in ratios else "–" for name in others]
        )
    about = f"### {view.title}\n\nTimes: median (quartiles) of at most {result['settings']['repeats']} samples."
    return f"{about}\n\n{measuring.markdown_table(header, rows)}"


_QUANTITIES = (
    ("temporary memory, MB", lambda found: (found["memory"] or {}).get("temporary_bytes"), 1e-6),
    ("compile time, s", lambda found: found["compile_seconds"], 1.0),
)


def _quantity_table(result: dict[str, Any], title: str, read: Any, unit: float) -> str:
    """A quantity of every implementation: of the gradient on one device, called, or else inside the loop."""
    names = [name for name, peer in result["peers"].items() if "version" in peer and name != "pytorch"]
    rows = []
    for case in result["cases"]:
        found = {
            name: read(places["one"])
            for name, implementation in case.get("implementations", {}).items()
            if name in names and (places := implementation.get("gradient") or implementation.get("loop"))
        }
        if found:
            plain = [f"{found['plain_scan'] / max(found[OURS], 1e-9):.2f}" if "plain_scan" in found else "–"]
            values = [measuring.significant(unit * found[name]) if name in found else "–" for name in names]
            rows.append([_shape(case), case["cell"], case["option"], *plain, *values])
    if not rows:
        return ""
    header = ["shape", "cell", "option", "plain scan's over jaxseq's", *(PEERS[name].title for name in names)]
    about = (
        f"### {title}: forward + backward, one device\n\nOf one call; where none was measured, of the whole training "
        "loop. PyTorch compiles nothing and has no estimate of its memory."
    )
    return f"{about}\n\n{measuring.markdown_table(header, rows)}"


def _not_run(result: dict[str, Any]) -> str:
    """All that was not measured, and why; what was cut short."""
    lines = []
    reasons: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for case in result["cases"]:
        if "not_run" in case:
            lines.append(f"- {comparison.work_of(case)}: not run: {case['not_run']}")
        for name, found in case.get("implementations", {}).items():
            if "cannot" in found:
                work = f"{case['cell']}, {case['option']}"
                reasons[PEERS[name].title, found["cannot"]].append(work)
            if "failed" in found:
                lines.append(f"- {PEERS[name].title}, {comparison.work_of(case)}: FAILED, not timed: {found['failed']}")
    for (title, reason), works in reasons.items():
        lines.append(f"- {title} cannot: {'; '.join(dict.fromkeys(works))}: {reason}")
    measured = [case for case in result["cases"] if "implementations" in case]
    short = [case for case in measured if _samples(case) < result["settings"]["repeats"]]
    if short:
        settings = result["settings"]
        lines.append(
            f"- {len(short)} of {len(measured)} cases have fewer samples than {settings['repeats']}, cut short by the "
            f"limit of {settings['limit']:g} s: see the column `samples`"
        )
    return "\n".join(["### Not measured, or cut short", "", *lines]) if lines else ""


def _samples(case: dict[str, Any]) -> int:
    return next(iter(next(iter(case["implementations"][OURS].values())).values()))["seconds"]["samples"]
