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
    figure_module = _matplotlib()
    shown = [result, *result.get("variants", [])]
    names = [name for name in shown[0]["history"][0] if not name.startswith("val_")]
    figure = figure_module.Figure(figsize=(4.6 * len(names), 3.4 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(names), squeeze=False)
    for row, variant in zip(axes, shown, strict=True):
        for axis, name in zip(row, names, strict=True):
            for key, label, color in (
                (name, "training", _TRAINING),
                (f"val_{name}", "validation", _VALIDATION),
            ):
                histories = [run[key] for run in variant["history"] if key in run]
                if histories:
                    _spread(axis, histories, label, color)
            axis.set_xlabel("epoch")
            axis.set_ylabel(name)
            axis.grid(alpha=0.25)
        row[0].legend(frameon=False)
        row[0].set_title(variant.get("label") or "documented variant", loc="left", fontsize=9)
    seeds = len(result["seeds"])
    kind = "" if result["data"]["kind"] == "real" else " — SYNTHETIC data"
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
            means = np.array([figures["mean"] for _, figures in points])
            low = means - [min(figures["seeds"]) for _, figures in points]
            high = [max(figures["seeds"]) for _, figures in points] - means
            axis.errorbar(positions, means, yerr=[low, high], fmt=style, label=name, capsize=3, markersize=4)
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
