"""Copy and save what the cell inspector shows."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QMimeData
from qtpy.QtGui import QGuiApplication, QImage
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_point_defects.profile_outputs import (
    profile_figure,
    profile_table,
    write_profile_csv,
    write_profile_figure,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from napari_point_defects.napari_ui.inspected_cell import InspectedCell
    from napari_point_defects.profiles import BondProfile, ProfileComparison


@dataclass(frozen=True, slots=True)
class Shown:
    """A profile as it is on the screen.

    Attributes
    ----------
    profile : BondProfile
    comparison : ProfileComparison or None
        None while the simulated profiles are not known.
    cell : InspectedCell
    image_name : str
    """

    profile: BondProfile
    comparison: ProfileComparison | None
    cell: InspectedCell
    image_name: str

    @property
    def stem(self) -> str:
        """Name for a file of it."""
        image = re.sub(r"[^\w.+-]+", "_", self.image_name).strip("_.") or "image"
        return f"{image}_cell{self.cell.cell_id}_profile"

    def table(self) -> pd.DataFrame:
        """Return it as a table."""
        return profile_table(
            self.profile,
            self.comparison,
            self.cell.material,
            image=self.image_name,
            cell_id=self.cell.cell_id,
        )

    def figure(self) -> Figure:
        """Draw it on white paper."""
        title = f"{self.image_name}, cell {self.cell.cell_id} ({self.cell.label})"
        return profile_figure(self.profile, self.comparison, self.cell.material, title=title)


def copy_profile(shown: Shown) -> None:
    """Put a profile on the clipboard: tab-separated text and a picture."""
    picture = io.BytesIO()
    shown.figure().savefig(picture, format="png", dpi=150)
    mime = QMimeData()
    mime.setText(shown.table().to_csv(sep="\t", index=False, float_format="%.7g"))
    mime.setImageData(QImage.fromData(picture.getvalue()))
    QGuiApplication.clipboard().setMimeData(mime)


def save_table(shown: Shown, path: Path, overwrite: bool) -> None:
    """Write a profile as CSV."""
    write_profile_csv(shown.table(), path, overwrite)


def save_figure(shown: Shown, path: Path, overwrite: bool) -> None:
    """Write a profile as a figure of the kind that the file's ending says."""
    write_profile_figure(shown.figure(), path, overwrite)


def ask_path(parent: QWidget, title: str, name: str, kinds: str) -> tuple[Path, bool] | None:
    """Ask where to save.

    Returns
    -------
    (Path, bool) or None
        The file, and whether the user agreed to replace it; None if the user cancelled.
    """
    chosen, _ = QFileDialog.getSaveFileName(parent, title, name, kinds)
    if not chosen:
        return None
    path = Path(chosen)
    if not path.suffix:  # the dialog asked about another name than the one to be written
        return path.with_name(path.name + Path(name).suffix), False
    return path, path.exists()
