"""Write the benchmarks' figures into the tables of the documentation.

    python -m benchmarks.tables

A table in ``docs`` stands between ``<!-- name -->`` and ``<!-- /name -->`` and comes from a report
in ``benchmarks/results``: none of its numbers is typed by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from benchmarks.markdown import number, percent, table, with_blocks
from benchmarks.paper.tables import tables as paper_tables
from napari_point_defects.materials import MATERIALS, DefectClass

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


def accuracy_tables(report: dict) -> dict[str, str]:
    """Hexagons, cells and classes on multislice fields."""
    groups = report["groups"]
    order = [name for name in ("all", *MATERIALS, *groups) if name in groups]
    rows = []
    for name in dict.fromkeys(order):
        row = groups[name]
        perfect = row["confusion"][DefectClass.PERFECT]
        rows.append(
            [
                name,
                f"{row['images']:,}",
                f"{row['cells']:,}",
                *(
                    f"{row[key]:.4f}"
                    for key in ("hexagon_recall", "hexagon_precision", "cell_recall", "accuracy")
                ),
                *(f"{row['class_recall'][c.name]:.3f}" for c in DefectClass if c),
                f"{sum(perfect[1:])} of {sum(perfect):,}",
            ]
        )
    heads = ["", "images", "cells", "hexagon recall", "hexagon precision", "cell recall"]
    heads += ["accuracy", *(_class_name(c) for c in DefectClass if c), "false defects"]
    return {"accuracy": table(heads, rows)}


def speed_tables(report: dict) -> dict[str, str]:
    """What was aimed at, seconds and memory by the image's size, and others on the same image."""
    aims = [
        [name, f"{row['measured']:g}", f"{row['aim']:g}", "yes" if row["met"] else "no"]
        for name, row in report["targets"].items()
    ]
    found = {"speed": table(["", "measured", "aim", "met"], aims)}
    sizes = report.get("sizes", {})
    rows = []
    for side, each in sizes.items():
        best = min(each["runs"], key=lambda run: run["wall_seconds"]["all"])["wall_seconds"]
        seconds = [sum(best.get(stage, 0.0) for stage in stages) for stages in _STAGES.values()]
        rows.append(
            [
                f"{side}²",
                f"{each['cells']:,}",
                f"{best['all']:.2f}",
                *(f"{value:.2f}" for value in seconds),
                f"{each['wall_seconds_per_megapixel']:.2f}",
                f"{each['peak_above_mb']:,}",
            ]
        )
    heads = ["pixels", "cells", "seconds", *_STAGES, "seconds per megapixel", "memory [MB]"]
    found["speed-sizes"] = table(heads, rows)
    if rivals := report.get("rivals"):
        rows = [
            [
                name,
                f"{row['wall_seconds']:.2f}",
                f"{row['cpu_seconds']:.2f}",
                f"{row['times_this_program']:.2f}",
            ]
            for name, row in rivals["methods"].items()
        ]
        heads = ["", "seconds", "of processor", "times this program"]
        found["speed-rivals"] = table(heads, rows)
    return found


_STAGES = {
    "lattice and domains": ("lattice", "domains"),
    "CNN-1": ("resample", "cnn1", "net-casting"),
    "evidence": ("evidence",),
    "CNN-2": ("crop", "cnn2"),
    "measurement and census": ("measurement", "census"),
    "writing": ("write",),
}
"""Of the stopwatch, by what the documentation calls them."""


def limit_tables(report: dict) -> dict[str, str]:
    """Errors of the networks, the ideal observer and the rule along every curve."""
    found = {}
    for name, points in report["curves"].items():
        dose = "dose" in name
        factor = "counts" if dose else name
        rows = [
            [
                f"{point['conditions'][factor]:g}" if dose else str(point["conditions"][factor]),
                f"{point['cells']:,}",
                *(str(point[judge]["errors"]) for judge in ("ideal", "networks", "rule")),
                number(point["networks_over_ideal"], ".2f"),
                str(point["networks"]["false_defects"]),
            ]
            for point in points
        ]
        heads = [
            factor,
            "cells",
            "ideal observer",
            "2DIP-Net",
            "column intensity",
            "2DIP-Net / ideal",
        ]
        found[f"limit: {name}"] = table([*heads, "false defects"], rows)
    return found


def specimen_tables(rows: list[dict]) -> dict[str, str]:
    """Grains, twins, holes and the rest: what was counted that should not, and the reverse."""
    lines = []
    for name in dict.fromkeys(row["specimen"] for row in rows):
        of_kind = [row for row in rows if row["specimen"] == name]
        seen = [row for row in of_kind if "refused" not in row]
        right = sum(row["domains"] == row["true_domains"] for row in seen)
        angles = [angle for row in seen for angle in row["orientation_error_deg"]]
        lines.append(
            [
                name,
                f"{right} of {len(of_kind)}",
                *(
                    f"{percent(mean(r[key] for r in seen), 1)} "
                    f"({percent(max(r[key] for r in seen), 1)})"
                    for key in ("invented", "lost_inside")
                ),
                f"{max(angles):.2f}°",
            ]
        )
    heads = ["", "domains right", "invented, mean (worst)", "lost, mean (worst)", "worst angle"]
    return {"specimens": table(heads, lines)}


def shift_tables(report: dict) -> dict[str, str]:
    """What fifty labels bring on a microscope of another kind."""
    runs = {(run["seed"], run["how"]): run for run in report["runs"]}
    rows = []
    for seed in dict.fromkeys(run["seed"] for run in report["runs"]):
        row = [str(seed)]
        for how in ("queue", "random"):
            run = runs[seed, how]
            row += [
                f"{run['labels']['wrong']} of {run['labels']['judged']}",
                f"{run['after']['errors']} (−{100 * run['reduction']:.0f} %)",
                f"{run['points_lost']:.2f}",
            ]
        rows.append(row)
    heads = ["seed", "queue: corrections", "errors left", "points lost"]
    heads += ["random: corrections", "errors left", "points lost"]
    return {"domain-shift": table(heads, rows)}


def calibration_tables(report: dict) -> dict[str, str]:
    """How sure cells are against how often they are right."""
    names = {
        "wide": "inside the training range (preset `wide`, seed of its own)",
        "held-out": "multislice fields, 20–2,500 counts",
    }
    rows = []
    for name, found in report["sets"].items():
        cells = found["by_dose"]["all"]
        rows.append(
            [
                names[name],
                str(found["images"]),
                f"{cells['cells']:,}",
                percent(cells["error"]),
                f"{cells['ece_top']:.4f}",
                f"{cells['ece_top_by_chance']:.4f}",
                percent(cells["unsure_share"], 1),
                percent(cells["errors_among_unsure"], 0),
            ]
        )
    heads = ["", "images", "cells", "wrong", "calibration error", "by chance"]
    return {"calibration": table([*heads, "flagged unsure", "of the errors among them"], rows)}


def own_material_tables(report: dict) -> dict[str, str]:
    """Errors of materials that were learned and of ones that were not."""
    found = {(row["material"], row["column_counts"]): row["error"] for row in report["rows"]}
    learned = {row["material"]: row["learned"] for row in report["rows"]}
    counts = sorted({counts for _, counts in found})
    rows = [
        [
            f"{name} ({'learned' if learned[name] else 'new'})",
            *(percent(found[name, dose], 1) for dose in counts),
        ]
        for name in learned
    ]
    heads = ["error at counts in a full X₂ column", *(f"{dose:,.0f}" for dose in counts)]
    return {"own-material": table(heads, rows)}


def adapting_tables(report: dict) -> dict[str, str]:
    """Errors before and after adapting to one image of a microscope, and the time."""
    rows = []
    for name, found in report.items():
        for run in found["runs"]:
            rows.append(
                [
                    name,
                    str(run["seed"]),
                    f"{found['before']['errors']} of {found['before']['cells']:,}",
                    f"{run['after']['errors']} of {run['after']['cells']:,}",
                    f"{run['total_seconds']:.0f} s",
                ]
            )
    heads = ["microscope", "image adapted to", "errors before", "after", "time"]
    return {"adapting": table(heads, rows)}


def batch_tables(report: dict) -> dict[str, str]:
    """What an image costs, and what many need in machines and hours."""
    costs, needs = [], []
    share = min(report["scaling"]["two_workers_over_one"] / 2, 1)
    for side, found in report["sizes"].items():
        bare, drawn = found["without_overlay"], found["with_overlay"]
        costs.append(
            [
                f"{side}²",
                str(found["cells"]),
                f"{bare['cpu_seconds']:.1f} s",
                f"{drawn['cpu_seconds']:.1f} s",
                f"{bare['kilobytes']:,} kB",
                f"{drawn['kilobytes']:,} kB",
                f"{found['worker_peak_mb']:,} MB",
            ]
        )
        for power in (4, 6, 8):
            hours = 10**power * bare["cpu_seconds"] / 3600 / share
            needs.append(
                [
                    f"10{'⁰¹²³⁴⁵⁶⁷⁸'[power]} of {side}²",
                    f"{float(f'{hours:.2g}'):,.0f}",
                    _duration(hours / 16),
                    f"{max(1, math.ceil(hours / 16 / 12)):,}",
                    _size(10**power * bare["kilobytes"] / 1e6),
                    _size(10**power * drawn["kilobytes"] / 1e6),
                ]
            )
    heads = ["image", "cells", "processor", "with overlay", "on disk", "with overlay"]
    many = ["frames", "core hours", "one machine of 16 cores", "machines for one night (12 h)"]
    many += ["on disk", "with overlays"]
    return {
        "batches: cost": table([*heads, "memory of a worker"], costs),
        "batches: need": table(many, needs),
    }


def _size(gigabytes: float) -> str:
    number = gigabytes if gigabytes < 1000 else gigabytes / 1000
    return f"{float(f'{number:.2g}'):g} {'GB' if gigabytes < 1000 else 'TB'}"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min"
    if hours < 48:
        return f"{hours:.0f} h"
    return f"{hours / 24:.0f} days" if hours < 24 * 700 else f"{hours / 24 / 365:.0f} years"


def movie_tables(report: dict) -> dict[str, str]:
    """Links, births and times of simulated movies, and how honest their intervals are."""
    rows, times = [], []
    for name, row in report["movies"].items():
        low, high = row["rate_interval95"]
        rows.append(
            [
                name,
                f"{row['frames_linked']} of {row['frames']}",
                str(row["frames_linked_wrongly"]),
                f"{row['history_errors']} of {row['cell_frames']:,}",
                f"{row['births_found']} of {row['births_true']}",
                f"{row['birth_frame_exact']:.0f}",
                number(row["false_births_per_1000_cell_frames"], ".2f"),
                f"{row['rate']:.4f} ({low:.4f}–{high:.4f})",
                f"{row['seconds_per_frame']:.1f}",
                f"{row['lattice_seconds_cold']:.2f} / {row['lattice_seconds_warm']:.2f}",
            ]
        )
        times.append(row["warm_against_cold_px"])
    heads = ["", "frames linked", "linked wrongly", "cells of wrong class", "births found"]
    heads += ["in the right frame", "false births per 1000 cell-frames", "rate (95 %)"]
    heads += ["s per frame", "lattice, cold / warm [s]"]
    apart = f"\n\nLattices from a cold and from a warm start differ by at most {max(times):.4f} px."
    keys = ("pairs", "right", "sure", "sure_right")
    pairs = table(
        ["", "pairs", "best offset right", "sure (≥ 95 %)", "sure and right"],
        [
            [name, *(f"{row['pairs'][key]:,}" for key in keys)]
            for name, row in report["movies"].items()
            if "pairs" in row
        ],
    )
    coverage = [
        [
            str(row["births_per_cell_and_frame"]),
            str(row["separation"]),
            percent(row["misjudged"], 1),
            str(row["movies"]),
            percent(row["covered"], 1),
            f"{row['births_true']:,}",
            f"{row['births_called']:,}",
            str(row["births_false"]),
        ]
        for row in report["coverage"]
    ]
    titles = ["births per cell and frame", "separation", "misjudged", "movies", "interval holds it"]
    titles += ["true births", "births reported"]
    titles += ["false"]
    return {
        "movies": table(heads, rows) + apart,
        "movie pairs": pairs,
        "movie coverage": table(titles, coverage),
    }


TABLES: tuple[tuple[str, str, Callable[..., dict[str, str]]], ...] = (
    ("accuracy.md", "accuracy", accuracy_tables),
    ("accuracy.md", "calibration", calibration_tables),
    ("accuracy.md", "speed", speed_tables),
    ("limits.md", "physical_limit", limit_tables),
    ("domains.md", "specimens", specimen_tables),
    ("correcting.md", "domain_shift", shift_tables),
    ("own_material.md", "own_material", own_material_tables),
    ("simulating.md", "adapting", adapting_tables),
    ("batches.md", "batches", batch_tables),
    ("movies.md", "movies", movie_tables),
    ("paper.md", "paper", paper_tables),
)
"""Page of the documentation, report in ``results``, and what makes the page's tables of it."""


def pages() -> list[str]:
    """Return the pages of which all reports are there."""
    missing = {page for page, report, _ in TABLES if not (RESULTS / f"{report}.json").exists()}
    return [page for page in dict.fromkeys(row[0] for row in TABLES) if page not in missing]


def written(page: str) -> str:
    """Return a page of the documentation as its reports have it."""
    text = (DOCS / page).read_text()
    for of_page, report, tables in TABLES:
        if of_page == page:
            text = with_blocks(text, tables(json.loads((RESULTS / f"{report}.json").read_text())))
    return text


def main() -> None:
    """Write all pages whose reports are there."""
    for page in pages():
        (DOCS / page).write_text(written(page))


def _class_name(cls: DefectClass) -> str:
    return cls.name.replace("_V_M", "+V_M")


if __name__ == "__main__":
    main()
