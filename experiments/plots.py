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
    columns = min(len(panels), 2 if len(panels) <= 8 else 3)
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
        _legend(axis)
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
        _legend(axis)
    figure.savefig(path, dpi=110)


def series(panels: dict[str, Any], path: Path) -> None:
    """Draws one wide panel for each title, below one another: {line: (times, values)}; NaN breaks a line.

    Args:
      panels: title -> line -> (times datetime64 [N], values [N]); a line without a name has no legend.
      path: the PNG to write.
    """
    figure = _matplotlib().Figure(figsize=(9.2, 3.0 * len(panels)), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        for name, (times, values) in lines.items():
            axis.plot(times, values, linewidth=1.0, label=name)
        axis.set_title(title, loc="left", fontsize=9)
        axis.tick_params(axis="x", labelrotation=20)
        axis.grid(alpha=0.25)
        if any(lines):
            _legend(axis)
    figure.savefig(path, dpi=110)


def pictures(images: Any, titles: list[str], path: Path) -> None:
    """Draws images in a grid, each under its title.

    Args:
      images: N images, uint8 [height, width, 3].
      titles: N, one or more lines each.
      path: the PNG to write.
    """
    columns = min(len(titles), 4)
    rows = -(-len(titles) // columns)
    figure = _matplotlib().Figure(figsize=(3.2 * columns, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def histogram(values: Any, path: Path, *, xlabel: str, marks: dict[str, float]) -> None:
    """Draws how often values occur, and marks some places.

    Args:
      values: [N].
      path: the PNG to write.
      xlabel: what they are.
      marks: name -> where a line is drawn.
    """
    figure = _matplotlib().Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    axis.hist(values, bins=60, color=_TRAINING)
    for name, place in marks.items():
        axis.axvline(place, color=_VALIDATION, label=name)
    axis.set_xlabel(xlabel)
    axis.set_ylabel("how many")
    axis.grid(alpha=0.25)
    _legend(axis)
    figure.savefig(path, dpi=110)


def heatmaps(panels: list[tuple[Any, Any, Any]], path: Path, *, rows: str, columns: str) -> None:
    """Draws matrices of shares, 0 to 1, side by side, each row and column under its name.

    Args:
      panels: (names of the rows, names of the columns, values [rows, columns]).
      path: the PNG to write.
      rows: what the rows are.
      columns: what the columns are.
    """
    figure = _matplotlib().Figure(figsize=(4.2 * len(panels), 4.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (row_names, column_names, values) in zip(axes, panels, strict=True):
        axis.imshow(values, vmin=0, vmax=1, cmap="Blues")
        axis.set_xticks(
            range(len(column_names)), column_names, rotation=60, ha="left", rotation_mode="anchor", fontsize=9
        )
        axis.set_yticks(range(len(row_names)), row_names, fontsize=9)
        axis.xaxis.tick_top()
        axis.set_xlabel(columns)
        axis.set_ylabel(rows)
    figure.savefig(path, dpi=110)


def profiles(panels: dict[str, Any], path: Path, *, xlabel: str, ylabel: str, columns: int = 3) -> None:
    """Draws one panel for each title, a line for each name: its mean over the seeds, least to greatest shaded.

    Args:
      panels: title -> line -> values [seeds, N] at x = 0, 1, … N − 1.
      path: the PNG to write.
      xlabel: what x is.
      ylabel: what the values are.
      columns: how many panels stand side by side.
    """
    columns = min(len(panels), columns)
    rows = -(-len(panels) // columns)
    figure = _matplotlib().Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for name, values in lines.items():
            x = np.arange(np.shape(values)[1])
            (line,) = axis.plot(x, np.mean(values, axis=0), label=name)
            axis.fill_between(
                x, np.min(values, axis=0), np.max(values, axis=0), color=line.get_color(), alpha=0.2, linewidth=0
            )
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        axis.set_title(title, loc="left", fontsize=9)
        axis.grid(alpha=0.25)
        _legend(axis, fontsize=7)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.savefig(path, dpi=110)


def _legend(axis: Any, **options: Any) -> None:
    """A legend where it covers least: asked for by name, since as the default it warns of a busy machine's second."""
    axis.legend(loc="best", frameon=False, **options)


def _spread(axis: Any, histories: list[list[float]], label: str, color: str) -> None:
    """Mean over seeds as a line, least to greatest as a band, while all train; what goes on longer, each for itself."""
    together = min(len(history) for history in histories)
    table = np.array([history[:together] for history in histories])
    epochs = np.arange(1, together + 1)
    marker = "o" if max(len(history) for history in histories) <= 25 else None
    axis.plot(epochs, table.mean(axis=0), label=label, color=color, marker=marker, markersize=3)
    axis.fill_between(epochs, table.min(axis=0), table.max(axis=0), color=color, alpha=0.2, linewidth=0)
    for history in histories:
        if len(history) > together:
            alone = np.arange(together, len(history) + 1)
            axis.plot(alone, history[together - 1 :], color=color, linewidth=0.8, linestyle="--")


def _matplotlib() -> Any:
    """Matplotlib's figure module, without a window system: imported only by who draws."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import figure

    return figure
