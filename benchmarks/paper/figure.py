"""One picture of the comparisons, drawn from their figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from napari_point_defects.materials import DefectClass, get_material

_OURS, _PAPER = "#3b6ea5", "#c9c9c9"


def draw(report: dict, path: Path) -> None:
    """Draw what the report has of Figs. 2c, 2d and e, 3e, 4b, 5 and 6c."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(key, panel) for key, panel in _PANELS.items() if key in report]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns, 3.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.ravel()[len(panels) :]:
        axis.set_axis_off()
    for axis, (key, panel) in zip(axes.ravel(), panels, strict=False):
        panel(axis, report[key])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _crops(axis, result: dict) -> None:
    table = result["mean_iou"]
    alphas, betas = list(table), list(next(iter(table.values())))
    values = np.array([[table[a][b] for b in betas] for a in alphas])
    axis.imshow(values, cmap="Blues", vmin=0.6, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        shade = "white" if value > 0.85 else "black"
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, size=8)
    axis.set_xticks(range(len(betas)), betas)
    axis.set_yticks(range(len(alphas)), alphas)
    axis.set(xlabel="β", ylabel="α")
    axis.set_title(f"2c  mean IoU; from the columns {result['fitted']:.3f}", size=9)


def _detection(axis, result: dict) -> None:
    methods = result["methods"]
    _bars(
        axis,
        list(methods),
        [row["found"] for row in methods.values()],
        [result["paper"].get(name, np.nan) for name in methods],
    )
    axis.set_xlim(0.9, 1.01)
    axis.set_title("2d, e  cells found, IoU > 0.5", size=9)


def _inputs(axis, result: dict) -> None:
    inputs = result["inputs"]
    shown = [c.name for c in DefectClass]
    values = np.array([[row["recall"].get(c, np.nan) for c in shown] for row in inputs.values()])
    axis.imshow(values, cmap="Blues", vmin=0.3, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        shade = "white" if value > 0.75 else "black"
        axis.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade, size=7)
    labels = get_material("MoTe2").class_labels
    axis.set_xticks(range(len(shown)), labels, rotation=30, ha="right", size=7)
    axis.set_yticks(range(len(inputs)), list(inputs), size=7)
    axis.set_title("3e  recall by class and input", size=9)


def _noise(axis, result: dict) -> None:
    paper = {
        f"{symbol} {name}": value
        for symbol, values in result["paper"].items()
        for name, value in values.items()
    }
    found = result["trained_with"]
    _bars(
        axis,
        list(found),
        [row["accuracy_balanced"] for row in found.values()],
        [paper.get(name, np.nan) for name in found],
    )
    axis.set_title("4b  accuracy, all classes alike, by training noise", size=9)


def _pixels(axis, result: dict) -> None:
    methods = result["experiments"]["methods"]
    paper = result["paper"]["accuracy"]
    _bars(
        axis,
        list(methods),
        [row["accuracy"] for row in methods.values()],
        [{"FCN": paper["FCN"], "this program": paper["2DIP-Net"]}.get(m, np.nan) for m in methods],
    )
    axis.set_title("5  accuracy on Perfect, V_X1, V_X2", size=9)


def _concentrations(axis, result: dict) -> None:
    rows = result["units"]["classes"]
    places = np.arange(len(rows))
    found = np.array([row["lattice_area_per_cm2"] for row in rows.values()])
    ends = np.array([row["interval95_per_cm2"] for row in rows.values()])
    right = [row["units_right_per_cm2"] for row in rows.values()]
    below_above = np.abs(ends.T - found)
    axis.errorbar(places, found, below_above, fmt="o", color=_OURS, capsize=4, label="lattice area")
    axis.plot(places, right, "s", color="#8a8a8a", mfc="none", label="the paper's area")
    axis.set_yscale("log")
    axis.set_xticks(places, list(rows))
    axis.set_xlim(-0.5, len(rows) - 0.5)
    axis.set_ylabel("per cm²")
    axis.legend(frameon=False, fontsize=8)
    axis.set_title("6c  concentrations, units set right", size=9)


def _bars(axis, names: list[str], ours: list[float], paper: list[float]) -> None:
    """Draw ours as bars, and the paper's as a grey one behind."""
    places = np.arange(len(names))[::-1]
    axis.barh(places, paper, 0.8, color=_PAPER, label="paper")
    axis.barh(places, ours, 0.4, color=_OURS, label="here")
    for place, value in zip(places, ours, strict=True):
        axis.text(value, place, f" {value:.3f}", va="center", size=7)
    axis.set_yticks(places, names, size=7)
    axis.set_xlim(0, 1.12)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 2}
    axis.legend(frameon=False, fontsize=7, **below)


_PANELS: dict[str, Callable[..., None]] = {
    "fig2c": _crops,
    "fig2de": _detection,
    "fig3e": _inputs,
    "fig4b": _noise,
    "fig5": _pixels,
    "fig6c": _concentrations,
}
