"""All results as Markdown: documented beside measured, what the studies found, and on what it all ran."""

import math
import re
from pathlib import Path
from typing import Any

from experiments.experiment import UserError, read_result

_HEADER = (
    "experiment",
    "data",
    "parameters",
    "seeds × epochs",
    "documented",
    "measured: final",
    "measured: best epoch",
    "measured: test, best epoch",
    "measured: test, last epoch",
    "seconds",
    "seconds an epoch and seed",
)
_ALIGNED = ("---", "---", "---:", "---:", "---", "---", "---", "---", "---", "---:", "---:")
EXPLANATION = (
    "Mean ± standard deviation over the seeds (n − 1); best epoch by the monitored validation quantity. A row marked "
    "SYNTHETIC ran on generated stand-in data, and a smoke row on a few examples: neither is comparable with the "
    "document's figure. (control) marks what is ours and not the document's."
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates are no characters either
OTHER_DATA = "not the document's"  # so begins the note of a result whose data are others than the document's


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Reads DIR/*/result.json, in the order of the documents.

    Raises:
      UserError: there are none, or one is not readable.
    """
    from experiments.catalogue import EXPERIMENTS  # every family; only who reads results needs it

    paths = sorted(directory.glob("*/result.json"))
    if not paths:
        raise UserError(f"DIR must hold results (NAME/result.json), got {directory} with none")
    order = {name: place for place, name in enumerate(EXPERIMENTS)}
    results = [read_result(path) for path in paths]
    return sorted(results, key=lambda one: (one.get("document", ""), order.get(one["name"], len(order)), one["name"]))


def markdown(results: list[dict[str, Any]]) -> str:
    """The table, a row for each variant of each result; then notes, and each study's figures and tables."""
    lines = table(_HEADER, [row(result, variant) for result in results for variant in variants(result)], _ALIGNED)
    lines += ["", EXPLANATION]
    distances = [f"- `{result['name']}`: {text}" for result in results if (text := against_document(result))]
    if distances:
        lines += ["", "The documented figure:", "", *distances]
    of_results = [f"- {result['name']}: {note}" for result in results for note in notes(result)]
    if of_results:
        lines += ["", "Notes:", "", *of_results]
    lines += ["", f"Ran on ({in_all(results)}):", ""]
    lines += [f"- {result['name']}: {ran_on(result)}" for result in results]
    for result in results:
        lines += _study(result)
    return "\n".join(lines)


def brief(results: list[dict[str, Any]]) -> str:
    """A short table of the documents' own models alone, one row each: the README's."""
    header = ("experiment", "parameters", "documented", "best epoch, validation", "last epoch, validation", "test")
    rows = []
    for result in results:
        if runs_of(result) and not result.get("label"):
            figures, units = result["figures"], result.get("units")
            test = shown(figures.get("test", figures.get("test_final")), units)
            measured = [shown(figures.get(part), units, "val_") for part in ("best", "final")]
            name = f"`{result['name']}`{marks(result)}" + " (generated data)" * (result["data"]["kind"] == "generated")
            rows.append([name, parameters(result), result["documented"], *measured, test])
    return "\n".join(table(header, rows, ("---", "---:", "---", "---:", "---:", "---:")))


def table(header: tuple[str, ...] | list[Any], rows: list[Any], aligned: tuple[str, ...] = ()) -> list[str]:
    """The lines of a Markdown table; cells are escaped."""
    lines = [list(header), list(aligned or ["---"] * len(header))]
    lines += [[text(str(name), cell) for name, cell in zip(header, one, strict=False)] for one in rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(words: Any) -> str:
    return " ".join(str(words).split()).replace("|", "\\|")


def _study(result: dict[str, Any]) -> list[str]:
    study = result.get("study", {})
    figures, tables = study.get("figures", {}), study.get("tables", {})
    lines = []
    if figures or tables:
        lines += ["", f"### {result['name']}{marks(result)}"]
    if figures:
        found = [[name, text(name, value)] for name, value in figures.items()]
        lines += ["", *table(("study", "figure"), found, ("---", "---:"))]
    for title, (header, *rows) in tables.items():
        lines += ["", title, "", *table(header, rows)]
    return lines


def variants(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was trained, the documented one first. One that is older than a field of all is given it."""
    return [result, *({"smoke": result.get("smoke")} | variant for variant in result.get("variants", []))]


def row(result: dict[str, Any], variant: dict[str, Any]) -> list[str]:
    """The table's row for a variant of a result."""
    figures, units = variant["figures"], variant.get("units")
    runs = runs_of(variant)
    label = f", {variant['label']}" if variant.get("label") else ""
    documented = "(control)"
    if variant is result:
        documented = result["documented"]
        if marks(result):
            documented = f"not comparable ({marks(result).strip()}): {documented}"
    return [
        f"`{result['name']}`{label}",
        data(variant),
        parameters(variant),
        f"{len(variant['seeds'])} × {variant['epochs']}" if runs else "–",
        documented,
        *(shown(figures.get(part), units) for part in ("final", "best", "test", "test_final")),
        f"{variant['training_seconds']:,.0f}" if runs else "–",
        f"{variant['training_seconds'] / runs:.1f}" if runs else "–",
    ]


def runs_of(variant: dict[str, Any]) -> int:
    """Epochs times seeds; a seed that stopped early counts the epochs that it ran."""
    return sum(len(run["loss"]) for run in variant.get("history", []))


def data(variant: dict[str, Any]) -> str:
    """The name of the data, and what is to be known of it."""
    source = variant["data"]
    other = source["kind"] == "real" and not all(file["published"] for file in source["files"])
    return source["name"] + marks(variant) + " (rebuilt or other file, see its checksum)" * other


def marks(result: dict[str, Any]) -> str:
    """ " SYNTHETIC", " SMOKE", both or nothing."""
    return " SYNTHETIC" * (result["data"]["kind"] == "synthetic") + " SMOKE" * bool(result.get("smoke"))


def parameters(variant: dict[str, Any]) -> str:
    """All parameters, and how many are trained where some are frozen."""
    total = variant["parameters"]["total"]
    trainable = variant["parameters"].get("trainable", total)
    return f"{total:,}" if trainable == total else f"{total:,} ({trainable:,} trainable)"


def notes(result: dict[str, Any]) -> list[str]:
    """The notes of all variants, each once, with the variants' labels where they are not of all."""
    labels: dict[str, list[str]] = {}
    of_variants = variants(result)
    for variant in of_variants:
        for note in variant["notes"]:
            labels.setdefault(note, []).append(variant.get("label") or "as documented")
    return [
        note if len(of) == len(of_variants) or of[0] == "as documented" else f"{note} ({', '.join(of)})"
        for note, of in labels.items()
    ]


def other_epochs(experiment: str, variant: dict[str, Any]) -> str:
    """Of how many epochs a variant ran, where these are not its documented ones; else ""."""
    from experiments.catalogue import EXPERIMENTS  # every family; only who reads results needs it

    label = variant.get("label", "")
    variants = EXPERIMENTS[experiment].variants if experiment in EXPERIMENTS else ()
    documented = next((one.epochs for one in variants if one.label == label), variant["epochs"])
    return "" if variant["epochs"] == documented else f"{variant['epochs']} of {documented} epochs"


def against_document(result: dict[str, Any]) -> str:
    """The documented figure, the measured one, and what that makes; "" where the document has none."""
    figure, how = result.get("figure"), outcome(result)
    if not figure or not how.startswith(("reached", "short", "not reached")):
        return how
    part, name = figure["quantity"].split(" ", 1)
    documented = mean(name, {"mean": figure["value"], "deviation": None}, None)
    measured = mean(name, result["figures"][part][name], result.get("units"))
    return f"documented {figure['quantity']} {documented}, measured {measured}: {how}"


def outcome(result: dict[str, Any]) -> str:
    """Whether the documented figure was reached, and by how much not; "" where the document has none."""
    figure = result.get("figure")
    if not figure:
        return ""
    if marks(result):
        return f"not comparable,{marks(result)}"
    if other := other_epochs(result["name"], result):
        return f"not comparable, {other}"
    part, name = figure["quantity"].split(" ", 1)
    measured = result["figures"].get(part, {}).get(name)
    if measured is None:
        return f"not measured: there is no {figure['quantity']}"
    sign = 1 if name.endswith("accuracy") else -1
    ahead = sign * (measured["mean"] - figure["value"])
    size = f"{100 * abs(ahead):.1f} points" if name.endswith("accuracy") else f"{abs(ahead):.3g}"
    where = ", on other data than the document's" if other_data(result) else ""
    if ahead >= 0:
        return f"reached, better by {size}{where}"
    if -ahead <= (measured["deviation"] or 0):
        return f"short of it by {size}, within the deviation over the seeds{where}"
    return f"not reached, worse by {size}{where}"


def other_data(result: dict[str, Any]) -> bool:
    """Whether it ran on other data than the document did, as a note of its says."""
    return any(note.startswith(OTHER_DATA) for note in result["notes"])


def in_all(results: list[dict[str, Any]]) -> str:
    """What training all of it took; a resumed run counts the seconds of every session."""
    seconds = sum(one.get("training_seconds", 0) for result in results for one in variants(result))
    documented = sum(result.get("training_seconds", 0) for result in results)
    text = f"{seconds:,.0f} s ({seconds / 3600:.1f} hours) of training in all"
    return text if documented == seconds else f"{text}, {documented:,.0f} s of them for the documents' own models"


def ran_on(result: dict[str, Any]) -> str:
    """Seconds, device and versions."""
    device, versions = result.get("device", {}), result.get("versions", {})
    parts = [f"{result['seconds']:,.0f} s in all"] if "seconds" in result else []
    if device:
        count = f"{device['devices']} device{'s' * (device['devices'] != 1)}"
        parts.append(f"{device['kind']} ({device['processor']}, {device['cores']} cores, {count})")
    parts += [f"{name} {version}" for name, version in versions.items()]
    parts += [result["date"]] if "date" in result else []
    return ", ".join(parts)


def shown(figures: dict[str, Any] | None, units: dict[str, Any] | None, only: str = "") -> str:
    """Validation figures where there are any, else all, of names that begin with `only`; accuracies in percent."""
    names = [name for name in figures or {} if name.startswith("val_")] or [n for n in figures or {} if n != "epoch"]
    names = [name for name in names if name.startswith(only)]
    if figures is None or not names:
        return "–"
    if any(name.endswith("accuracy") for name in names):
        names = [name for name in names if name.endswith("accuracy")]
    if only:
        return ", ".join(mean(name, figures[name], units) for name in names)
    return ", ".join(f"{name} {mean(name, figures[name], units)}" for name in names)


def mean(name: str, figure: dict[str, Any], units: dict[str, Any] | None) -> str:
    """A trained model's figure: an accuracy in percent, another with its unit."""
    value, deviation = figure["mean"], figure["deviation"]
    if name.endswith("accuracy"):
        return f"{100 * value:.1f} %" if deviation is None else f"{100 * value:.1f} ± {100 * deviation:.1f} %"
    form = ".4f" if value == 0 or abs(value) >= 0.001 else ".6f" if abs(value) >= 1e-6 else ".1e"
    words = f"{value:{form}}" if deviation is None else f"{value:{form}} ± {deviation:{form}}"
    return (
        words if units is None or not name.endswith("loss") else f"{words} ({value * units['one']:.2f} {units['unit']})"
    )


def text(name: str, value: Any) -> str:
    """A study's figure or a table's cell: a number, a summarized one, or words; an accuracy in percent."""
    if isinstance(value, dict) and "mean" in value:
        middle, deviation = value["mean"], value.get("deviation")
        if is_share(name) and abs(middle) <= 1:
            return mean("accuracy", {"mean": middle, "deviation": deviation}, None)
        if deviation is None:
            return _number(middle)
        # Two digits of the deviation, and of the mean as many as belong to them.
        places = (
            min(max(0, 1 - math.floor(math.log10(deviation))), _places(middle) + 2) if deviation else _places(middle)
        )
        return f"{middle:.3g} ± {deviation:.2g}" if places > 7 else f"{middle:,.{places}f} ± {deviation:,.{places}f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if isinstance(value, float) and is_share(name) and abs(value) <= 1:
            return mean("accuracy", {"mean": value, "deviation": None}, None)
        return _number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {text(key, one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(name, one) for one in value)
    return "–" if value is None else str(value)


def printable(words: str) -> str:
    """Text without control characters, which a terminal would obey and HTML forbids: each becomes a space."""
    return _CONTROL.sub(" ", words)


def is_share(name: str) -> bool:
    """Whether a figure of this name is a share, to be shown in percent."""
    return any(word in name for word in ("accuracy", "share of", "agreement"))


def _number(value: float) -> str:
    """Four significant digits; integers whole."""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    places = _places(value)
    return f"{value:.3g}" if places > 7 else f"{value:,.{places}f}"


def _places(value: float) -> int:
    """Decimal places that show four significant digits."""
    return 0 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
