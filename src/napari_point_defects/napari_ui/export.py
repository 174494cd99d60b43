"""Write the cells as they stand in the layer: table, census, overlay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_point_defects import appraisal, results
from napari_point_defects.napari_ui.links import CellsLink
from napari_point_defects.records import StemImage, UnitCells


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
    name = QFileDialog.getExistingDirectory(parent, title)
    if not name:
        return None
    there = [path.name for path in paths_in(Path(name)) if path.exists()]
    if there:
        question = f"The folder already holds {', '.join(there)}. Replace?"
        answer = QMessageBox.question(parent, "Replace results?", question)
        if answer != QMessageBox.StandardButton.Yes:
            return None
    return Path(name), bool(there)


def writer(
    image: StemImage, link: CellsLink, cells: UnitCells, folder: Path, *, overwrite: bool
) -> Callable[..., None]:
    """Return the function that counts and writes, for a background thread."""

    def work(on_progress: Callable[[float, str], None], should_stop: Any) -> None:
        on_progress(0.0, "Writing")
        analysis = appraisal.appraise(image, link.detection, cells, link.settings)
        results.write_results(analysis, folder, overwrite=overwrite)

    return work
