"""Put the page together and write it with its data: whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from napari_point_defects.baselines.column_intensity import ColumnIntensities, column_intensities
from napari_point_defects.census import cells_table
from napari_point_defects.detections import Analysis
from napari_point_defects.errors import PointDefectsError, stop_if
from napari_point_defects.json_files import read_json
from napari_point_defects.labels.images import content_hash
from napari_point_defects.materials import DefectClass, get_material
from napari_point_defects.outputs import write_json, write_overlay, write_table, write_together
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.report import sections
from napari_point_defects.report.markup import POLICY, STYLE, Markup, element, joined
from napari_point_defects.report.plots import Histogram, histogram
from napari_point_defects.weights import SHIPPED, version_of

SUFFIXES = (".html", ".htm")
"""How the name of a report may end."""

_DATA = {
    "cells": ("cells.csv", "every unit cell: place, class, probabilities"),
    "census": ("census.json", "census with settings and versions"),
    "overlay": ("overlay.png", "overlay at full size"),
    "columns": ("columns.csv", "intensity of every column"),
}
_MOST_SIDE_PX = 1800
"""Of the picture in the page; the one beside it is larger."""
_NOTE = (
    "Cells on a logarithmic axis, for defects are rare. A perfect column is 1, relative to its "
    "neighbours, whose tails are taken out; dashed: the thresholds of the column-intensity rule, "
    "which checks the network and does not decide."
)
_COLUMN_EDGES = np.linspace(-0.3, 1.7, 61)
_CONFIDENCE_EDGES = np.linspace(0, 1, 41)


def report_path(text: str | Path) -> Path:
    """Return where a report goes, ending in ``.html``.

    Raises
    ------
    PointDefectsError
        If the name ends otherwise.
    """
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise PointDefectsError(f"{path.name}: a report's name ends in .html")
    return path


def report_paths(path: Path, written: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Return the files that a report writes: ``report``, and its data where not written yet."""
    data = {
        kind: path.with_name(f"{path.stem}_{ending}")
        for kind, (ending, _) in _DATA.items()
        if kind not in (written or {})
    }
    return {"report": path, **data}


def write_report(
    analysis: Analysis,
    path: str | Path,
    overwrite: bool = False,
    *,
    written: Mapping[str, Path] | None = None,
    decided: Mapping[str, int] | None = None,
    when: datetime | None = None,
    on_progress: Callable[[float, str], None] = lambda share, text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Path]:
    """Write one HTML page of an analysis, and its data beside it.

    The page holds its pictures and loads nothing, so that it opens anywhere and may be mailed.

    Parameters
    ----------
    analysis : Analysis
    path : str or Path
        Of the page, ending in ``.html``; its data are called after it.
    overwrite : bool
    written : mapping of str to Path, optional
        Data that were written before, ``cells``, ``census`` or ``overlay``: they are linked.
    decided : mapping of str to int, optional
        How many cells a person decided on, by what they did.
    when : datetime, optional
        Default: now.
    on_progress, should_stop : callable

    Returns
    -------
    dict of Path
        ``report``, ``cells``, ``census``, ``overlay`` and ``columns``.

    Raises
    ------
    PointDefectsError
        If a file exists and may not be overwritten, or cannot be written.
    Stopped
        If ``should_stop`` said yes; nothing is left behind.
    """
    path = report_path(path)
    own = report_paths(path, written)
    material = get_material(analysis.census["material"])
    below = float(analysis.census["settings"]["unsure_below"])
    with write_together(own, overwrite) as temporary:
        on_progress(0.0, "Measuring the columns")
        cells, columns = _columns_of(analysis)
        stop_if(should_stop)
        on_progress(0.3, "Drawing the overlay")
        table = cells_table(analysis.cells, material, unsure_below=below)
        overlay = temporary.get("overlay")
        if overlay is not None:
            write_overlay(
                analysis.image,
                analysis.cells,
                analysis.detection.lattice,
                material,
                overlay,
                True,
                pixel_size_nm=analysis.detection.pixel_size_nm,
                unsure=table["unsure"].to_numpy(bool),
                where=analysis.detection.domain_map,
            )
        stop_if(should_stop)
        on_progress(0.8, "Writing")
        write_table(_columns_table(analysis, columns), temporary["columns"], True)
        if "cells" in temporary:
            write_table(table, temporary["cells"], True)
        if "census" in temporary:
            write_json(analysis.census, temporary["census"], True)
        everything = {**(written or {}), **own}
        page = report_page(
            analysis,
            picture=_data_uri(overlay or everything["overlay"]),
            histograms=_histograms(analysis, cells, columns),
            links={words: _relative(everything[k], path) for k, (_, words) in _DATA.items()},
            decided=decided,
            when=when or datetime.now(UTC),
        )
        temporary["report"].write_text(page, encoding="utf-8")
    return everything


def report_page(
    analysis: Analysis,
    *,
    picture: str,
    histograms: list[Histogram],
    links: Mapping[str, str],
    decided: Mapping[str, int] | None,
    when: datetime,
) -> str:
    """Return the page; ``picture`` is the overlay as a data URI, ``links`` are relative paths."""
    census = analysis.census
    names = get_material(census["material"]).class_labels
    colours = list(colours_in_use().values())
    title = f"Point defects in {analysis.image.name}"
    version = census["weights"].get("classifier", "")
    several = len(analysis.detection.domain_map.domains) > 1
    note = _NOTE + (" Columns of the main domain only." if several else "")
    written = f"{census['material']}, written {when:%Y-%m-%d %H:%M} UTC"
    body = joined(
        [
            element("h1", title),
            element("p", written, class_="quiet"),
            sections.headline(census),
            sections.overlay_section(picture, census),
            sections.census_section(census, colours),
            sections.quality_section(census, decided),
            sections.histogram_section(histograms, colours, names, note),
            sections.measured_section(analysis),
            sections.classifier_section(_card(census), version, names, colours),
            sections.settings_section(census, _image_rows(analysis.image)),
            sections.data_section(links),
        ]
    )
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            element("title", title),
            Markup(f"<style>{STYLE}</style>"),
        ]
    )
    html = element("html", joined([element("head", head), element("body", body)]), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _columns_of(analysis: Analysis) -> tuple[UnitCells, ColumnIntensities]:
    """Measure the columns of the main domain: one lattice says where they are."""
    cells = analysis.detection.in_main_domain(analysis.cells)
    material = get_material(analysis.census["material"])
    lattice = analysis.detection.lattice
    return cells, column_intensities(analysis.image.data, lattice, cells, material, unmixed=True)


def _columns_table(analysis: Analysis, columns: ColumnIntensities) -> pd.DataFrame:
    where = analysis.detection.domain_map
    main = where.of_cells(analysis.cells) == where.domains[0].number
    return pd.DataFrame(
        {
            "cell_id": np.flatnonzero(main),
            "chalcogen_intensity": columns.chalcogen,
            "metal_intensity": columns.metal,
        }
    )


def _histograms(
    analysis: Analysis, cells: UnitCells, columns: ColumnIntensities
) -> list[Histogram]:
    material = get_material(analysis.census["material"])
    n = len(DefectClass)
    none, one = columns.chalcogen_thresholds
    return [
        histogram(
            columns.chalcogen, cells.classes, _COLUMN_EDGES, n,
            title=f"Intensity of the {material.chalcogen}₂ columns by class",
            x_label="intensity over a perfect column's",
            marks={f"0 | 1 {material.chalcogen}": none, f"1 | 2 {material.chalcogen}": one},
        ),
        histogram(
            columns.metal, cells.classes, _COLUMN_EDGES, n,
            title=f"Intensity of the {material.metal} columns by class",
            x_label="intensity over a perfect column's",
            marks={f"0 | 1 {material.metal}": columns.metal_threshold},
        ),
        histogram(
            analysis.cells.confidence, analysis.cells.classes, _CONFIDENCE_EDGES, n,
            title="Probability of each cell's most probable class",
            x_label="probability",
            marks={"unsure | sure": float(analysis.census["settings"]["unsure_below"])},
        ),
    ]  # fmt: skip


def _card(census: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the model card of the classifier that was used; None where it is not there now."""
    chosen = census["settings"].get("classifier_weights")
    path = Path(chosen) if chosen else SHIPPED["classifier"]
    try:
        card = read_json(path.with_suffix(".json"))
        version = version_of(path, card)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if version == census["weights"].get("classifier") else None


def _image_rows(image: StemImage) -> list[list[str]]:
    """Name an image and its hashes; the name alone, for a path tells of the user's folders."""
    rows = [["name", image.name]]
    if image.path is not None:
        rows.append(["file", image.path.name])
        try:
            with image.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            rows.append(["SHA-256 of the file", digest])
        except OSError:
            rows.append(["SHA-256 of the file", "the file is not there any more"])
    if image.signal:
        rows.append(["signal", image.signal])
    rows.append(["SHA-256 of the pixels", content_hash(image.data)])
    height, width = image.data.shape
    rows.append(["size", f"{height} rows × {width} columns"])
    return rows


def _data_uri(path: Path) -> str:
    """Return a picture, reduced, as text that stands for it in a page."""
    # our own file, however large the image was
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((_MOST_SIDE_PX, _MOST_SIDE_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    # full colour resolution: outlines are thin
    picture.save(content, "JPEG", quality=88, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _relative(target: Path, page: Path) -> str:
    try:
        return Path(os.path.relpath(target.absolute(), page.absolute().parent)).as_posix()
    except ValueError:  # on another drive
        return target.name
