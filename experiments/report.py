"""One table over all results: documented beside measured."""

from pathlib import Path
from typing import Any

from experiments.experiment import UserError, read_result


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Reads DIR/*/result.json.

    Raises:
      UserError: there are none, or one is not readable.
    """
    paths = sorted(directory.glob("*/result.json"))
    if not paths:
        raise UserError(f"DIR must hold results (NAME/result.json), got {directory} with none")
    results = []
    for path in paths:
        results.append(read_result(path))
    return results


def markdown(results: list[dict[str, Any]]) -> str:
    """The table, a row for each variant of each result."""
    lines = [
        "| experiment | data | parameters | seeds × epochs | documented | measured: final | measured: best epoch "
        "| measured: test | seconds an epoch and seed |",
        "| --- | --- | ---: | ---: | --- | --- | --- | --- | ---: |",
    ]
    for result in results:
        lines.append(_row(result, _title(result["name"], result), result["documented"]))
        for variant in result.get("variants", []):
            lines.append(_row(variant, _title(result["name"], variant), "(control)"))
    notes = {f"- {result['name']}: {note}" for result in results for note in result["notes"]}
    if notes:
        lines += ["", "Notes:", "", *sorted(notes)]
    lines += [
        "",
        "Mean ± standard deviation over the seeds (n − 1); best epoch by the monitored validation quantity, test at "
        "that epoch. A row marked SYNTHETIC ran on generated data and is not comparable with the document's figure.",
    ]
    return "\n".join(lines)


def _title(name: str, variant: dict[str, Any]) -> str:
    return f"{name}, {variant['label']}" if variant.get("label") else name


def _row(result: dict[str, Any], name: str, documented: str) -> str:
    synthetic = result["data"]["kind"] == "synthetic"
    data = result["data"]["name"] + (" SYNTHETIC" if synthetic else "")
    if not synthetic and not all(file["published"] for file in result["data"]["files"]):
        data += " (rebuilt or other file, see its checksum)"
    if result.get("smoke"):
        data += ", smoke"
    figures = result["figures"]
    runs = len(result["seeds"]) * result["epochs"]
    seconds = f"{result['training_seconds'] / runs:.1f}" if runs else "–"
    cells = [
        f"`{name}`",
        data,
        f"{result['parameters']['total']:,}",
        f"{len(result['seeds'])} × {result['epochs']}" if runs else "–",
        documented,
        *(_shown(figures.get(part), result.get("units")) for part in ("final", "best", "test")),
        seconds,
    ]
    return "| " + " | ".join(cells) + " |"


def _shown(figures: dict[str, Any] | None, units: dict[str, Any] | None) -> str:
    """Validation figures where there are any, else all; accuracies in percent."""
    if not figures:
        return "–"
    names = [name for name in figures if name.startswith("val_")] or [n for n in figures if n != "epoch"]
    if any(name.endswith("accuracy") for name in names):
        names = [name for name in names if name.endswith("accuracy")]
    return ", ".join(f"{name} {_mean(name, figures[name], units)}" for name in names)


def _mean(name: str, figure: dict[str, Any], units: dict[str, Any] | None) -> str:
    mean, deviation = figure["mean"], figure["deviation"]
    if name.endswith("accuracy"):
        return f"{100 * mean:.1f} %" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f} %"
    text = f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
    return text if units is None else f"{text} ({mean * units['one']:.2f} {units['unit']})"
