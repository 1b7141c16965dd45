"""Pictures of results, as PNG."""

from pathlib import Path
from typing import Any

import numpy as np

_TRAINING, _VALIDATION = "#1f77b4", "#d95f02"


def curves(result: dict[str, Any], path: Path) -> None:
    """Draws every quantity over the epochs, training and validation, the spread over seeds shaded.

    Args:
      result: a result with a history.
      path: the PNG to write.
    """
    shown = [result, *result.get("variants", [])]
    panels = [(variant, name) for variant in shown for name in variant["history"][0] if not name.startswith("val_")]
    columns = min(len(panels), 2 if len(panels) <= 8 else 5)
    rows = -(-len(panels) // columns)
    figure = _matplotlib().Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (variant, name) in zip(axes, panels, strict=False):
        for key, label, color in ((name, "training", _TRAINING), (f"val_{name}", "validation", _VALIDATION)):
            histories = [run[key] for run in variant["history"] if key in run]
            if histories:
                _spread(axis, histories, label, color)
        axis.set_xlabel("epoch")
        axis.locator_params(axis="x", integer=True)
        axis.set_ylabel(name)
        axis.set_title(variant.get("label") or "as documented", loc="left", fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    for axis in axes[len(panels) :]:
        axis.remove()
    seeds = len(result["seeds"])
    kind = " — SYNTHETIC data" if result["data"]["kind"] == "synthetic" else ""
    figure.suptitle(f"{result['name']}, {seeds} seed{'s' * (seeds != 1)}{kind}")
    figure.savefig(path, dpi=110)


def against(panels: dict[str, Any], path: Path, *, xlabel: str) -> None:
    """Draws one panel for each title: {line: [(x, summarized figure)]}, mean with the spread over seeds.

    Args:
      panels: title -> line -> points.
      path: the PNG to write.
      xlabel: what x is.
    """
    figure = _matplotlib().Figure(figsize=(5.2 * len(panels), 3.8), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for (name, points), style in zip(lines.items(), ("o-", "s--", "^:", "d-."), strict=False):
            positions = [x for x, _ in points]
            means = [figures["mean"] for _, figures in points]
            low = [min(figures["seeds"]) for _, figures in points]
            high = [max(figures["seeds"]) for _, figures in points]
            (line,) = axis.plot(positions, means, style, label=name, markersize=4)
            axis.vlines(positions, low, high, colors=line.get_color(), linewidth=1.5, alpha=0.6)
        axis.set_xscale("log")
        axis.set_xlabel(xlabel)
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def _spread(axis: Any, histories: list[list[float]], label: str, color: str) -> None:
    """Mean over seeds as a line, least to greatest as a band; a stopped seed counts while it ran."""
    longest = max(len(history) for history in histories)
    table = np.full((len(histories), longest), np.nan)
    for row, history in zip(table, histories, strict=True):
        row[: len(history)] = history
    epochs = np.arange(1, longest + 1)
    marker = "o" if longest <= 25 else None
    axis.plot(epochs, np.nanmean(table, axis=0), label=label, color=color, marker=marker, markersize=3)
    axis.fill_between(epochs, np.nanmin(table, axis=0), np.nanmax(table, axis=0), color=color, alpha=0.2, linewidth=0)


def _matplotlib() -> Any:
    """Matplotlib's figure module, without a window system: imported only by who draws."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import figure

    return figure
