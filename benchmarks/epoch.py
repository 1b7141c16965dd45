"""What does one whole training epoch cost beside Keras and PyTorch, and what do more seeds cost?

The documents' experiments as a user runs them, validation included: jaxseq through `fit`, with the model, data and
optimizer of experiments/; Keras 3 on JAX with the documents' code (`model.fit`, for Jena fed by their generator); a
plain PyTorch loop over batches drawn from tensors in memory. All start from the same weights. Where nothing is drawn at
random, ours and Keras' losses after the same unshuffled batches are compared before anything is timed.

Ours is the time between the lines that `fit` logs at the end of each epoch; each turn is a `fit` of its own, whose
first epoch, which compiles, is told apart. A peer's first epoch is its first; later ones follow in turns.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arguments, comparison, measuring, trainers
from benchmarks.peers import OURS, PEERS
from benchmarks.record import Record
from benchmarks.trainers import CODES, Experiment, Fit
from experiments.arguments import positive
from jaxseq.datasets.files import DataNotFound
from jaxseq.epochs import steps_per_epoch

SETTINGS = ("experiments", "peers", "parts", "data", "repeats", "epochs", "seeds", "seed_steps")
SETTINGS += ("agreement_batches", "devices")
SMOKE = {
    "experiments": ("jena_gru",),
    "data": "synthetic",
    "repeats": 1,
    "epochs": 1,
    "seeds": (1, 2),
    "seed_steps": 1,
    "agreement_batches": 1,
    "devices": 1,
}
PARTS = ("agreement", "epochs", "seeds")
_TOLERANCE = 1e-3  # of a loss after some batches; RMSprop divides small gradients by their own size


NOTES = {
    "seconds": "of one epoch after the first, validation included; median and quartiles over `repeats` turns of "
    "`epochs` epochs each, the implementations one after another",
    "first_seconds": "of the first epoch, compiling included; jaxseq: the median over the turns",
    "ratios": comparison.NOTES["ratios"],
    "loss": "mean training loss of the first epoch: same weights at the start, but each shuffles for itself",
    "agreement": "losses after the same unshuffled batches from the same weights: ours and Keras' must be equal within "
    f"{_TOLERANCE:g}; PyTorch's optimizers have their epsilon elsewhere, its loss is only reported",
    "seeds": "seconds of an epoch of at most `seed_steps` steps, without validation, and those over one seed's; one "
    "seed in every turn, the others, which take longer, in one turn each",
    "pytorch": "one bias a cell, as the others: its second is held at zero. nn.GRU resets after the product, another "
    "equation of the same size",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this benchmark's options."""
    for name, choices in (("experiments", CODES), ("peers", trainers.PEERS), ("parts", PARTS)):
        arguments.add_some_of(parser, name, choices)
    parser.add_argument(
        "--data",
        choices=("auto", "real", "synthetic"),
        default="auto",
        help="auto (the default): real where it is found or can be downloaded, else synthetic, with a notice",
    )
    parser.add_argument(
        "--epochs", type=positive, default=2, metavar="N", help="epochs of each in a round (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=arguments.positives, default=(1, 3, 4, 16), metavar="S,...", help="default: 1,3,4,16"
    )
    parser.add_argument(
        "--seed-steps", type=positive, default=60, metavar="N", help="steps of an epoch of seeds (default: %(default)s)"
    )
    parser.add_argument(
        "--agreement-batches",
        type=positive,
        default=5,  # of a SimpleRNN rounding grows tenfold a step: ours on one and two devices are 6e-4 apart after 10
        metavar="N",
        help="batches after which losses are compared (default: %(default)s)",
    )
    parser.set_defaults(devices="all", repeats=3)


def measure(options: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Measures every experiment.

    Returns:
      {"notes", "peers", "cases", "failures"}: a case has experiment, data, steps, what is `wrong` with it, and, as far
      as asked for: parameters and `cannot` by implementation, agreement, epochs (first_seconds, seconds and loss by
      implementation), ratios by peer, seeds (seconds and over_one by number).
    """
    found = comparison.find(options.peers)
    for name, peer in found.items():
        peer["note"] = (Fit if name == OURS else trainers.PEERS[name]).__doc__ or ""
    record.add_about("peers", found)
    names = [name for name in options.peers if "missing" not in found[name]]
    cases = []
    for name in options.experiments:
        measuring.progress(name)
        cases.append(record.case({"experiment": name}, functools.partial(_measure_experiment, name, names, options)))
    return {
        "notes": NOTES,
        "peers": found,
        "cases": cases,
        "failures": [f"{case['experiment']}: {text}" for case in cases for text in case["wrong"]],
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: seconds an epoch and ratios, losses and parameters, seeds, and what was not run."""
    parts = [comparison.peers_list(result["peers"]), *filter(None, (_epochs_table(result), _checks_table(result)))]
    parts += filter(None, (_seeds_table(result), _remarks(result)))
    return "\n\n".join(parts)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws seconds an epoch of every implementation, and what more seeds cost."""
    from matplotlib import figure  # only who draws pays for the import

    about = result["environment"]
    names = [name for name, peer in result["peers"].items() if "version" in peer]
    picture = figure.Figure(figsize=(13, 5), layout="constrained")
    left, right = picture.subplots(1, 2, width_ratios=(2, 1))
    cases = [case for case in result["cases"] if "epochs" in case]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        for place, case in enumerate(cases):
            timed = case["epochs"].get(name)
            x = place + (number - (len(names) - 1) / 2) * width
            if timed is None:
                left.text(x, 0, "cannot", rotation=90, ha="center", va="bottom", fontsize=7, color="0.4")
                continue
            median = timed["seconds"]["median"]
            label = PEERS[name].title if place == 0 else None
            left.bar(x, median, width * 0.95, color=f"C{number}", label=label)
            ratio = case["ratios"].get(name)
            text = f"{median:.3g} s" + (f"\n{ratio['median']:.2f}" if ratio else "")
            left.text(x, median, text, ha="center", va="bottom", fontsize=7)
    left.set_xticks(range(len(cases)), [case["experiment"] for case in cases], fontsize=8)
    left.set(ylabel="seconds an epoch", title="One epoch with validation, and its time over jaxseq's")
    left.margins(y=0.15)
    left.legend(loc="best", frameon=False)
    for case in result["cases"]:
        if "seeds" in case:
            over_one = {int(seeds): one["over_one"] for seeds, one in case["seeds"].items()}
            right.plot(list(over_one), list(over_one.values()), marker="o", markersize=4, label=case["experiment"])
    counts = result["settings"]["seeds"]
    right.plot(counts, counts, color="black", linestyle=":", label="one after another")
    right.set(xlabel="seeds", ylabel="time over that of one seed", title="What seeds cost")
    right.grid(alpha=0.25)
    right.legend(loc="best", frameon=False, fontsize=8)
    picture.suptitle(f"{about['devices']} x {about['device']}, {about['cores']} cores, jax {about['jax']}")
    picture.savefig(path, dpi=110)


def _load(name: str, data: str, smoke: bool) -> Experiment:
    """The experiment on real data; on synthetic where it is asked for, or where `auto` finds no other."""
    if data != "synthetic":
        try:
            return Experiment(name, False, smoke)
        except DataNotFound as error:
            if data == "real":
                raise measuring.WrongArgument(f"argument --data: {error}") from None
            print(f"NOTICE: {name} runs on SYNTHETIC data: {error}", file=sys.stderr, flush=True)
    return Experiment(name, True, smoke)


def _measure_experiment(name: str, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for of one experiment, and what is wrong with it."""
    experiment = _load(name, options.data, options.smoke)
    kinds = {peer: trainers.PEERS[peer] for peer in names}
    cannot = {peer: reason for peer, kind in kinds.items() if (reason := kind.cannot(experiment))}
    ours = Fit(experiment, options.devices)
    theirs = {peer: kind(experiment) for peer, kind in kinds.items() if peer not in cannot}
    case: dict[str, Any] = {
        "data": experiment.data.source,
        "batch_size": experiment.batch_size,
        "steps": steps_per_epoch(experiment.train, experiment.batch_size),
        "validation_steps": steps_per_epoch(experiment.validation, experiment.batch_size),
        "parameters": {name: one.parameters for name, one in {OURS: ours, **theirs}.items()},
        "cannot": cannot,
        "peer_notes": {name: one.note for name, one in theirs.items() if one.note},
    }
    wrong = []
    if set(case["parameters"].values()) != {experiment.variant.parameters}:
        wrong.append(f"parameters must be {experiment.variant.parameters}, got {case['parameters']}")
    if "agreement" in options.parts and not experiment.drops_out:
        measuring.progress(f"{experiment.name}: comparing losses")
        losses = {name: one.losses(options.agreement_batches) for name, one in {OURS: ours, **theirs}.items()}
        case["agreement"] = losses
        wrong += disagreements(losses)
    if "epochs" in options.parts:
        case |= _time_epochs(experiment, ours, theirs, options)
    if "seeds" in options.parts:
        case["seeds"] = _time_seeds(experiment, ours, options)
    return {**case, "wrong": wrong}


def disagreements(losses: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What ours and Keras' losses differ in."""
    return [
        f"{quantity} must equal Keras' within {_TOLERANCE:g}, got {ours:.6g} and {theirs:.6g}"
        for quantity, ours in losses[OURS].items()
        if "keras" in losses and not abs(ours - (theirs := losses["keras"][quantity])) <= _TOLERANCE * abs(theirs)
    ]


def _time_epochs(
    experiment: Experiment, ours: Fit, theirs: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The first epoch of each, then turns of some epochs each, in an order that changes."""
    found: dict[str, dict[str, Any]] = {OURS: {}}
    for name, trainer in theirs.items():
        measuring.progress(f"{experiment.name}: first epoch of {PEERS[name].title}")
        start = time.perf_counter()
        _, loss = trainer.epoch()
        found[name] = {"first_seconds": time.perf_counter() - start, "loss": loss}
    samples: dict[str, list[float]] = {name: [] for name in found}
    firsts = []
    for turn in range(options.repeats):
        for name in measuring.in_any_order(found):
            measuring.progress(f"{experiment.name}: turn {turn + 1} of {options.repeats}, {PEERS[name].title}")
            if name == OURS:
                (first, *seconds), result = ours.fit(experiment.train, experiment.validation, epochs=1 + options.epochs)
                firsts.append(first)
                found[OURS]["loss"] = result.history[0]["loss"][0]
            else:
                seconds = [theirs[name].epoch()[0] for _ in range(options.epochs)]
            samples[name] += seconds
    found[OURS]["first_seconds"] = float(np.median(firsts))
    for name, measured in samples.items():
        found[name]["seconds"] = measuring.timing(measured, 1)._asdict()
    ratios = {name: comparison.ratio(found[OURS]["seconds"], found[name]["seconds"])._asdict() for name in theirs}
    return {"epochs": found, "ratios": ratios}


def _time_seeds(experiment: Experiment, ours: Fit, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a short epoch without validation of so many seeds, in turns, and over those of one."""
    count = options.seed_steps * experiment.batch_size
    draws = experiment.train.draws and min(experiment.train.draws, count)
    train = experiment.train._replace(rows=experiment.train.rows[: count if draws is None else None], draws=draws)
    numbers = sorted({1, *options.seeds})
    samples: dict[int, list[float]] = {number: [] for number in numbers}
    for turn, (index, number) in itertools.product(range(options.repeats), enumerate(numbers)):
        if number > 1 and index % options.repeats != turn:
            continue
        measuring.progress(f"{experiment.name}: turn {turn + 1} of {options.repeats}, {number} seeds")
        (_, *seconds), _ = ours.fit(train, None, epochs=1 + options.epochs, seeds=number)
        samples[number] += seconds
    timings = {number: measuring.timing(measured, 1) for number, measured in samples.items()}
    return {
        str(number): {"seconds": timing._asdict(), "over_one": timing.median / timings[1].median}
        for number, timing in timings.items()
    }


def _epochs_table(result: dict[str, Any]) -> str:
    names = [name for name, peer in result["peers"].items() if "version" in peer]
    others = [name for name in names if name != OURS]
    header = ["experiment", "steps", *(f"{PEERS[name].title}, s" for name in names)]
    header += ["fastest peer over jaxseq (quartiles)", *(f"{PEERS[name].title} over jaxseq" for name in others)]
    header += ["first epoch, s: " + ", ".join(PEERS[name].title for name in names)]
    rows = []
    for case in result["cases"]:
        if "epochs" not in case:
            continue
        timed, ratios = case["epochs"], case["ratios"]
        fastest = min(ratios, key=lambda name: ratios[name]["median"], default=None)
        rows.append(
            [case["experiment"], f"{case['steps']} + {case['validation_steps']}"]
            + [_spread(timed[name]["seconds"]) if name in timed else "cannot" for name in names]
            + [f"{PEERS[fastest].title} {comparison.Ratio(**ratios[fastest])}" if fastest else "–"]
            + [f"{ratios[name]['median']:.2f}" if name in ratios else "–" for name in others]
            + [", ".join(f"{timed[name]['first_seconds']:.3g}" if name in timed else "–" for name in names)]
        )
    if not rows:
        return ""
    about = "Seconds an epoch after the first: median (quartiles). Steps: training + validation. "
    return f"{about}Ratios: above 1 jaxseq is faster.\n\n{measuring.markdown_table(header, rows)}"


def _spread(seconds: Mapping[str, float]) -> str:
    return "{median:.3g} ({lower_quartile:.3g}-{upper_quartile:.3g})".format(**seconds)


def _checks_table(result: dict[str, Any]) -> str:
    names = [name for name, peer in result["peers"].items() if "version" in peer]
    header = ["experiment"]
    for title in ("parameters", "loss of the first epoch", "after the same batches: loss", "validation loss"):
        header.append(f"{title}: {', '.join(PEERS[name].title for name in names)}")

    def row(values: Mapping[str, Any], form: str) -> str:
        return ", ".join(format(values[name], form) if name in values else "–" for name in names)

    rows = [
        [
            case["experiment"],
            row(case["parameters"], ","),
            row({name: one["loss"] for name, one in case.get("epochs", {}).items()}, ".4f"),
            *(
                row({name: one[quantity] for name, one in case.get("agreement", {}).items()}, ".6f")
                for quantity in ("loss", "val_loss")
            ),
        ]
        for case in result["cases"]
    ]
    return measuring.markdown_table(header, rows)


def _seeds_table(result: dict[str, Any]) -> str:
    cases = [case for case in result["cases"] if "seeds" in case]
    if not cases:
        return ""
    numbers = list(cases[0]["seeds"])
    header = ["experiment", "one seed, s", *(f"{number} seeds over one" for number in numbers if number != "1")]
    rows = [
        [case["experiment"], _spread(case["seeds"]["1"]["seconds"])]
        + [f"{case['seeds'][number]['over_one']:.2f}" for number in numbers if number != "1"]
        for case in cases
    ]
    about = f"Seeds: an epoch of {result['settings']['seed_steps']} steps at most, without validation."
    return f"{about}\n\n{measuring.markdown_table(header, rows)}"


def _remarks(result: dict[str, Any]) -> str:
    lines = [
        f"- {case['experiment']}, {PEERS[name].title}: {text}"
        for case in result["cases"]
        for kind in ("cannot", "peer_notes")
        for name, text in case[kind].items()
    ]
    data = {case["experiment"]: case["data"]["kind"] for case in result["cases"]}
    lines.append("- data: " + ", ".join(f"{name} {kind}" for name, kind in data.items()))
    lines += [f"- FAILED: {failure}" for failure in result["failures"]]
    return "\n".join(lines)
