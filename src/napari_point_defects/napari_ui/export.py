"""Write the cells as they stand in the layer: table, census, overlay, and a page of all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_point_defects import appraisal, results
from napari_point_defects.errors import stop_if
from napari_point_defects.napari_ui import preferences
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.records import StemImage, UnitCells
from napari_point_defects.report.writing import SUFFIXES, report_paths, write_report

STOP_WRITING = "Stop; nothing is written then"


def ask_folder(
    parent: QWidget, title: str, paths_in: Callable[[Path], Iterable[Path]]
) -> tuple[Path, bool] | None:
    """Ask where to write, and whether to replace what is there.

    Parameters
    ----------
    parent : QWidget
    title : str
        Of the dialog.
    paths_in : callable
        Takes a folder and returns what would be written there.

    Returns
    -------
    (Path, bool) or None
        The folder and whether to overwrite; None if the user thought better of it.
    """
    name = QFileDialog.getExistingDirectory(parent, title, preferences.results_folder())
    if not name:
        return None
    agreed = _may_replace(parent, paths_in(Path(name)))
    return None if agreed is None else (Path(name), agreed)


def ask_report(parent: QWidget, name: str) -> tuple[Path, bool] | None:
    """Ask where a report goes, and whether to replace it or the data beside it.

    Returns
    -------
    (Path, bool) or None
        The page and whether to overwrite; None if the user thought better of it.
    """
    chosen, _ = QFileDialog.getSaveFileName(
        parent,
        "Export report to",
        str(Path(preferences.results_folder()) / f"{name}_report.html"),
        "Web page (*.html)",
        # asked below, for the data beside it too
        options=QFileDialog.Option.DontConfirmOverwrite,
    )
    if not chosen:
        return None
    path = Path(chosen)
    if path.suffix.lower() not in SUFFIXES:
        path = path.with_name(f"{path.name}.html")
    agreed = _may_replace(parent, report_paths(path).values())
    return None if agreed is None else (path, agreed)


def _may_replace(parent: QWidget, paths: Iterable[Path]) -> bool | None:
    """Return whether something is replaced; None if the user does not want it to be."""
    there = [path.name for path in paths if path.exists()]
    if there:
        question = f"The folder already holds {', '.join(there)}. Replace?"
        answer = QMessageBox.question(parent, "Replace results?", question)
        if answer != QMessageBox.StandardButton.Yes:
            return None
    return bool(there)


def writer(
    image: StemImage, link: CellsLink, cells: UnitCells, folder: Path, *, overwrite: bool
) -> Callable[..., None]:
    """Return the function that counts and writes, for a background thread."""

    def work(on_progress: Callable[[float, str], None], should_stop: Callable[[], bool]) -> bool:
        on_progress(0.0, "Measuring the image")
        analysis = appraisal.appraise(image, link.detection, cells, link.settings)
        stop_if(should_stop)
        on_progress(0.5, "Writing")
        results.write_results(analysis, folder, overwrite=overwrite)
        return True

    return work


def report_writer(
    image: StemImage,
    link: CellsLink,
    cells: UnitCells,
    path: Path,
    decided: Mapping[str, int],
    *,
    overwrite: bool,
) -> Callable[..., Path]:
    """Return the function that counts and writes a report, for a background thread."""

    def work(on_progress: Callable[[float, str], None], should_stop: Callable[[], bool]) -> Path:
        on_progress(0.0, "Measuring the image")
        analysis = appraisal.appraise(image, link.detection, cells, link.settings)
        written = write_report(
            analysis,
            path,
            overwrite,
            decided=decided,
            on_progress=lambda share, text: on_progress(0.4 + 0.6 * share, text),
            should_stop=should_stop,
        )
        return written["report"]

    return work
