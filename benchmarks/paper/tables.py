"""The comparisons' figures as tables, see :mod:`benchmarks.tables`."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.markdown import number, percent, table
from napari_point_defects.materials import DefectClass


def crops_table(result: dict) -> str:
    """Fig. 2c: mean IoU by α and β."""
    mean_iou = result["mean_iou"]
    betas = list(next(iter(mean_iou.values())))
    rows = [[f"**{alpha}**", *(f"{row[b]:.3f}" for b in betas)] for alpha, row in mean_iou.items()]
    best = result["best"]
    return table(["α \\ β", *betas], rows) + (
        f"\n\nBest: {best['iou']:.3f} at α = {best['alpha']:g}, β = {best['beta']:g}, over "
        f"{result['crops']:,} crops; with crops placed from the fitted columns "
        f"**{result['fitted']:.3f}**, over {result['cells']:,} cells."
    )


def detection_table(result: dict) -> str:
    """Fig. 2d, e: what detectors find."""
    rows = [
        [
            name,
            f"{row['cells']:,}",
            f"{row['found']:.4f}",
            number(row.get("whole_cells"), ",d"),
            number(row.get("whole_found"), ".4f"),
            f"{row['false_positives']:,}",
            f"{row['mean_iou']:.3f}",
            f"{min(row['found_by_class'].values()):.4f}",
            number(result["paper"].get(name), ".3f"),
        ]
        for name, row in result["methods"].items()
    ]
    heads = ["", "cells", "found", "uncut", "found", "false", "mean IoU", "worst class", "paper"]
    return table(heads, rows)


def inputs_table(result: dict) -> str:
    """Fig. 3e: recall by class and input."""
    return _recalls(result["inputs"])


def noise_table(result: dict) -> str:
    """Fig. 4b: accuracy by training noise."""
    paper = {
        f"{symbol} {name}": value
        for symbol, values in result["paper"].items()
        for name, value in values.items()
    }
    rows = [
        [
            name,
            "{:.0f}–{:.0f}".format(*row["poisson_lambda"]),
            f"{row['gaussian_mu']:.0f}",
            percent(row["accuracy_balanced"]),
            percent(row["accuracy_paper_mix"]),
            percent(paper.get(name)),
        ]
        for name, row in result["trained_with"].items()
    ]
    heads = ["trained with", "λ", "μ", "classes alike", "the paper's mix", "paper"]
    return table(heads, rows)


def pixels_table(result: dict) -> str:
    """Fig. 5: accuracy on Perfect, V_X1 and V_X2, and what doubtful cells are called."""
    places = {"multislice fields": result["experiments"]}
    places |= {f"known columns, {dose}": row for dose, row in result["known_columns"].items()}
    rows = [
        [
            place,
            name,
            percent(row["accuracy"]),
            percent(row["doubtful_called_right"]),
            " : ".join(f"{100 * v:.1f}" for v in row.get("V_X1_to_V_X2_in_doubt", ())) or "–",
        ]
        for place, found in places.items()
        for name, row in found["methods"].items()
    ]
    return table(["images", "method", "accuracy", "doubtful, right", "V_X1 : V_X2"], rows)


def confusion_tables(result: dict) -> str:
    """Fig. 5: confusion matrices on the multislice fields."""
    found = result["experiments"]
    parts = []
    for name, row in found["methods"].items():
        lines = [
            [label, *(f"{count:,}" for count in counts)]
            for label, counts in zip(found["cells"], row["confusion"], strict=True)
        ]
        parts.append(f"*{name}*\n\n" + table(["truth \\ called", *found["columns"]], lines))
    return "\n\n".join(parts)


def units_table(result: dict) -> str:
    """Fig. 6c: the paper's concentrations, and what they are."""
    rows = [
        [
            name,
            str(row["count"]),
            *(
                f"{row[key]:.2e}"
                for key in ("printed_per_cm2", "units_right_per_cm2", "lattice_area_per_cm2")
            ),
            "{:.2e} – {:.2e}".format(*row["interval95_per_cm2"]),
        ]
        for name, row in result["units"]["classes"].items()
    ]
    heads = ["", "count", "printed", "units right", "and area right", "95 % interval"]
    return table(heads, rows)


def coverage_table(result: dict) -> str:
    """Fig. 6c: how often intervals cover the truth."""
    rows = [
        [
            name,
            f"{row['censuses']:,}",
            percent(row["covered"]),
            percent(row["too_low_an_interval"]),
            percent(row["too_high_an_interval"]),
        ]
        for name, row in result["coverage"].items()
    ]
    return table(["classes", "censuses", "cover", "too low", "too high"], rows)


def times_table(report: dict) -> str:
    """Say how each was run, and how long it took."""
    rows = [[f"`{row['command']}`", f"{row['seconds'] / 60:.1f}"] for row in report.values()]
    return table(["command", "minutes"], rows)


TABLES: dict[str, tuple[str, Callable[[dict], str]]] = {
    "fig2c": ("fig2c", crops_table),
    "fig2de": ("fig2de", detection_table),
    "fig3e": ("fig3e", inputs_table),
    "fig4b": ("fig4b", noise_table),
    "fig5": ("fig5", pixels_table),
    "fig5-confusion": ("fig5", confusion_tables),
    "fig6c": ("fig6c", units_table),
    "fig6c-coverage": ("fig6c", coverage_table),
}


def tables(report: dict) -> dict[str, str]:
    """Return the tables of a report of ``benchmarks.paper`` by the name of their block."""
    found = {block: write(report[key]) for block, (key, write) in TABLES.items() if key in report}
    return found | {"paper-times": times_table(report)}


def _recalls(found: dict) -> str:
    shown = [c.name for c in DefectClass]
    rows = [
        [
            name,
            *(percent(row["recall"].get(cls)) for cls in shown),
            percent(row["accuracy_balanced"]),
            percent(row["accuracy_paper_mix"]),
        ]
        for name, row in found.items()
    ]
    support = next(iter(found.values()))["support"]
    heads = ["", *(f"{cls} ({support[cls]:,})" for cls in shown), "classes alike", "paper's mix"]
    return table(heads, rows)
