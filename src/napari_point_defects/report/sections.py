"""The parts of the page, each from what the analysis already holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.detections import Analysis
from napari_point_defects.materials import get_material
from napari_point_defects.measured_quantities import quantities
from napari_point_defects.report.markup import (
    Markup,
    element,
    joined,
    safe,
    scientific,
    section,
    swatch,
    table,
)
from napari_point_defects.report.plots import Histogram, histogram_svg

_SOURCES = {"user": "given by the user", "file": "the file's", "lattice": "from the lattice"}


def headline(census: Mapping[str, Any]) -> Markup:
    """Say in one sentence what was counted."""
    defects = census["defects"]
    estimate = defects.get("estimate", defects)
    low, high = estimate["density_per_cm2_interval95"]
    return element(
        "p",
        f"{defects['count']:,} defective of {census['n_cells']:,} unit cells on "
        f"{census['area_nm2']:,.1f} nm²: {scientific(estimate['density_per_cm2'])} cm⁻² "
        f"(95 % interval {scientific(low, high)} cm⁻²)",
        class_="headline",
    )


def overlay_section(picture: str, census: Mapping[str, Any]) -> Markup:
    """Show the image with its defective cells outlined; ``picture`` is a data URI."""
    defects, cells = census["defects"]["count"], census["n_cells"]
    words = f"The image with its {defects:,} defective cells outlined"
    image = Markup(f'<img src="{safe(picture)}" alt="{safe(words)}">')
    caption = (
        f"Outlined: {defects:,} defective of {cells:,} unit cells, in the colour of their class. "
        "Dashed: the classifier is unsure."
    )
    figure = element("figure", joined([image, element("figcaption", caption)]))
    return section("Image", figure)


def census_section(census: Mapping[str, Any], colours: Sequence[str]) -> Markup:
    """Show counts and densities of every class with their intervals."""
    rows = [
        [swatch(colour, label), *_census_row(row, f"{row['unsure']:,}")]
        for (label, row), colour in zip(census["classes"].items(), colours, strict=True)
    ]
    rows.append(["all defects", *_census_row(census["defects"], "")])
    headings = (
        "class", "cells", "unsure", "%", "counted, cm⁻²", "95 % interval, cm⁻²",
        "estimate, cm⁻²", "95 % interval, cm⁻²",
    )  # fmt: skip
    note = f"Counted: {census['interval']}."
    if "estimate" in census:
        note += f" Estimate: {census['estimate']}."
    vacancies = [
        [f"missing {element_}", f"{v['count']:,}", f"{100 * v['fraction']:.2f}"]
        + [f"{v['density_per_nm2']:.4f}", scientific(v["density_per_cm2"])]
        for element_, v in census["vacancies"].items()
    ]
    return section(
        "Census",
        element("p", f"Analysed area: {census['area_nm2']:,.2f} nm² ({census['n_cells']:,} cells)"),
        table(headings, rows, caption=note, totals=1),
        table(("atoms", "number", "% of sites", "nm⁻²", "cm⁻²"), vacancies),
        *_area_parts(census),
    )


def _census_row(row: Mapping[str, Any], unsure: str) -> list[str]:
    estimate = row.get("estimate")
    shown = "–"
    if estimate:
        value = estimate["density_per_cm2"]
        shown = scientific(value) if value >= 1 else "< 1"
    return [
        f"{row['count']:,}",
        unsure,
        f"{100 * row['fraction']:.2f}",
        scientific(row["density_per_cm2"]),
        scientific(*row["density_per_cm2_interval95"]),
        shown,
        scientific(*estimate["density_per_cm2_interval95"]) if estimate else "–",
    ]


def _area_parts(census: Mapping[str, Any]) -> list[Markup]:
    """Say what of the image was left out, and how the rest is divided."""
    area = census.get("area") or {}
    left_out = {k: v for k, v in area.get("left_out_nm2", {}).items() if v > 0}
    parts = []
    if left_out:
        rows = [[name, f"{nm2:,.2f}"] for name, nm2 in left_out.items()]
        parts.append(table(("left out", "nm²"), rows))
    domains = census.get("domains") or ()
    if len(domains) > 1:
        rows = [
            [d["number"], f"{d['lattice']['angle_deg']:.2f}", f"{d['n_cells']:,}"]
            + [f"{d['area_nm2']:,.2f}"]
            for d in domains
        ]
        parts.append(table(("domain", "angle, °", "cells", "area, nm²"), rows))
    return parts


def quality_section(census: Mapping[str, Any], decided: Mapping[str, int] | None = None) -> Markup:
    """Say how far the census can be trusted, and what a person decided."""
    quality = census["quality"]
    parts: list[Markup] = []
    if quality:
        parts.append(element("p", quality["line"], class_=quality["verdict"]))
        rows = [
            [
                element("span", f["verdict"] or "–", class_=f["verdict"]),
                f["text"],
            ]
            for f in quality["figures"].values()
        ]
        parts.append(table(("verdict", "figure"), rows, texts=2))
    if decided is not None:
        counted = ", ".join(f"{n:,} {state}" for state, n in decided.items() if n)
        told = f"A person decided on cells: {counted}." if counted else "No cell was corrected."
        parts.append(element("p", told))
    warnings = census["warnings"]
    if warnings:
        items = joined(element("li", line) for line in warnings)
        parts += [element("p", "Remarks:"), element("ul", items)]
    else:
        parts.append(element("p", "No remarks."))
    return section("Quality", *parts)


def histogram_section(
    histograms: Sequence[Histogram], colours: Sequence[str], names: Sequence[str], note: str
) -> Markup:
    """Show the histograms with one legend."""
    legend = Markup(" &nbsp; ".join(swatch(c, n) for c, n in zip(colours, names, strict=True)))
    figures = [
        element(
            "figure",
            joined([element("figcaption", h.title), histogram_svg(h, colours, names)]),
        )
        for h in histograms
    ]
    return section("Histograms", element("p", legend), *figures, element("p", note, class_="quiet"))


def measured_section(analysis: Analysis) -> Markup:
    """Show what was measured in the image."""
    found = analysis.measurement
    title = "Measured in the image"
    if found is None:
        return section(title, element("p", "The image was not measured."))
    width, material = analysis.detection.pixel_size_nm[1], analysis.census["material"]
    rows = [
        [row.name, *(text or "–" for text in row.written()), row.unit]
        for _, group in quantities(found, width, material)
        for row in group
    ]
    remarks = [element("li", remark) for remark in found.remarks]
    return section(
        title,
        table(
            ("quantity", "value", "95 % interval", "unit"),
            rows,
            caption=f"Measured on {found.cells:,} perfect cells; a dash: the image does not tell.",
        ),
        *([element("ul", joined(remarks))] if remarks else []),
    )


def classifier_section(
    card: Mapping[str, Any] | None, version: str, names: Sequence[str], colours: Sequence[str]
) -> Markup:
    """Show the classifier's confusion matrix, as its model card gives it."""
    title = "Classifier"
    confusion = confusion_of(card, len(names))
    if confusion is None:
        told = f"{version}: its model card holds no confusion matrix."
        return section(title, element("p", told))
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    rows = []
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        shares = confusion[i] / totals[i]
        cells = [f"{100 * share:.1f}" for share in shares]
        rows.append([swatch(colour, name), *cells, f"{int(confusion[i].sum()):,}"])
    accuracy = np.trace(confusion) / max(confusion.sum(), 1)
    caption = (
        f"Rows: true class; columns: predicted class; per cent of the row. {confusion.sum():,} "
        f"cells held out in training, {accuracy:.1%} of them right. They are not of this image: "
        "this says how the network fails, not how often it does so here."
    )
    headings = ("true class", *(f"→ {name}, %" for name in names), "cells")
    return section(
        title, element("p", f"Weights {version}"), table(headings, rows, caption=caption)
    )


def confusion_of(card: Mapping[str, Any] | None, n_classes: int) -> np.ndarray | None:
    """Return the matrix of a model card; None where it has none, or one of another shape."""
    try:
        matrix = np.array((card or {})["metrics"]["val_confusion"], float)
    except (KeyError, TypeError, ValueError):
        return None
    if matrix.shape != (n_classes, n_classes) or not np.isfinite(matrix).all():
        return None
    return np.maximum(matrix, 0).astype(int)


def settings_section(census: Mapping[str, Any], image_rows: Sequence[Sequence[str]]) -> Markup:
    """List image, calibration, lattice, settings, weights and versions."""
    size, lattice = census["pixel_size_nm"], census["lattice"]
    source = census["pixel_size_source"]
    calibration = [
        ["pixel size", f"{size[0]:.6g} × {size[1]:.6g} nm, {_SOURCES.get(source, source)}"],
        ["lattice constant", f"{lattice['a_px']:.3f} px, {lattice['a_nm']:.4f} nm"],
        ["lattice angle", f"{lattice['angle_deg']:.3f}°"],
        ["shear and stretch", f"{lattice['shear']:.4f}, {lattice['stretch']:.4f}"],
    ]
    settings = [
        [_title(name), _written(value), _description(name)]
        for name, value in census["settings"].items()
        if name not in ("image", "signal")
    ]
    if census.get("region"):
        settings.append(["Region", "drawn by the user", _description("region")])
    versions = [
        *([f"weights, {kind}", name] for kind, name in census["weights"].items()),
        *([name, version] for name, version in census["versions"].items()),
    ]
    material = get_material(census["material"])
    return section(
        "Image, settings and versions",
        table(("image", ""), [*image_rows, ["material", material.formula], *calibration], texts=2),
        table(("setting", "value", "meaning"), settings, texts=3),
        table(("program", "version"), versions, texts=2),
    )


def _title(name: str) -> str:
    field = AnalysisSettings.model_fields.get(name)
    return (field.title if field else None) or name


def _description(name: str) -> str:
    field = AnalysisSettings.model_fields.get(name)
    return (field.description if field else None) or ""


def _written(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return str(value)


def data_section(links: Mapping[str, str]) -> Markup:
    """Link the tables that lie beside the page; by what they are, relative paths."""
    items = joined(
        element(
            "li",
            joined([safe(f"{what}: "), element("a", href.rsplit("/", 1)[-1], href=_url(href))]),
        )
        for what, href in links.items()
    )
    told = "Files beside this page; everything on the page itself stays if they are moved."
    return section("Data", element("ul", items), element("p", told, class_="quiet"))


def _url(relative: str) -> str:
    from urllib.parse import quote

    # the dot keeps a colon in a name from reading as a scheme
    path = quote(relative)
    return path if path.startswith(".") else f"./{path}"
