"""The dock widget *Calibrate*: how tall and how wide a pixel of an image is, and who says so."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QGroupBox,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_point_defects.calibration import (
    TOLERANCE,
    disagreement,
    lattice_pixel_size_nm,
    length_text,
    seen_lattice,
)
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import Material, get_material
from napari_point_defects.napari_ui.calibration_steps import calibrate_in
from napari_point_defects.napari_ui.image_layers import (
    calibration_of,
    check_image,
    is_micrograph,
    pixel_size_nm,
    stem_image,
)
from napari_point_defects.napari_ui.layer_calibration import (
    file_calibration,
    with_length,
)
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import HexagonsLink, link_of, own_layer
from napari_point_defects.napari_ui.material_editors import MaterialEditor
from napari_point_defects.napari_ui.pane import Pane
from napari_point_defects.napari_ui.remembered import Remembered, editor_part
from napari_point_defects.napari_ui.ruler import Ruler
from napari_point_defects.napari_ui.ruler_panel import RulerPanel
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel, report_error
from napari_point_defects.napari_ui.size_editor import SizeEditor
from napari_point_defects.napari_ui.viewers import own_viewer
from napari_point_defects.records import Calibration, Lattice

SOURCES = {
    "file": "from the file",
    "user": "set by hand",
    "lattice": "from the lattice",
    "none": "",
}
SQUARE, KEEP, BOTH = "square pixels", "height to width as now", "height and width apart"
_EQUAL = 5e-4  # rounds to 0.0 %


class CalibrateWidget(Pane):
    """Shows the pixel size of an image and lets the user set it.

    By hand, from the lattice and the material, along a line of known length, or back to what the
    file says. Layers drawn on the image follow, and the census of its cells.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer = own_viewer(napari_viewer)
        self._lattices: dict[tuple[Hashable, str], Lattice] = {}
        self.images = LayerChooser(viewer, is_micrograph, "open an image")
        self.material = MaterialEditor()
        self.material.setToolTip("<p>Its lattice constant is the ruler.</p>")
        self.size, self.lattice_line, self.warning = QLabel(), QLabel(), QLabel()
        self.message = QLabel()
        for label in (self.size, self.lattice_line, self.warning, self.message):
            label.setWordWrap(True)
            label.setTextFormat(Qt.TextFormat.RichText)
        self.warning.setStyleSheet(WARNING_STYLE)
        self.from_file = QPushButton("Back to the file's")
        self.from_file.setToolTip(
            "<p>Take the pixel size that the image's file states; none where it states none.</p>"
        )
        self.aspect = QComboBox()
        self.aspect.addItems([SQUARE, KEEP, BOTH])
        self.aspect.setToolTip(
            "<p>The lattice gives the area of a pixel. Square pixels leave a stretch of the "
            "lattice to drift; the last choice takes it for pixels that are not square.</p>"
        )
        self.find = RunPanel(
            "Set from the lattice",
            "<p>Find the lattice and make its constant the material's.</p>",
        )
        self.compare = QPushButton("Compare with the lattice")
        self.compare.setToolTip("<p>Find the lattice, and change nothing.</p>")
        self.editor = SizeEditor()
        self.set_by_hand = QPushButton("Set by hand")
        self.ruler = Ruler(viewer, self)
        self.ruler_panel = RulerPanel()
        parts = (editor_part("material", self.material), editor_part("aspect", self.aspect))
        Remembered("calibrate", self.find, *parts)
        self._lay_out()

        self.images.layer_changed.connect(self._on_image)
        self.images.scale_changed.connect(self._on_scale)
        self.material.changed.connect(self.refresh)
        self.from_file.clicked.connect(self._take_files)
        self.compare.clicked.connect(lambda: self._find(apply=False))
        self.find.run_requested.connect(lambda: self._find(apply=True))
        self.set_by_hand.clicked.connect(self._take_hand)
        self.ruler.changed.connect(self._show_line)
        self.ruler_panel.draw_requested.connect(self._draw_line)
        self.ruler_panel.set_requested.connect(self._take_line)
        listen(self, self.refresh, viewer.layers.events.inserted, viewer.layers.events.removed)
        self._on_image()

    @property
    def material_(self) -> Material:
        """The chosen material."""
        return get_material(self.material.get())

    def lattice(self) -> Lattice | None:
        """Return the lattice of the image: as detected, or as found here; None if neither."""
        layer, formula = self.images.layer, self.material.get()
        if layer is None:
            return None
        hexagons = own_layer(self._viewer.layers, layer.unique_id, HexagonsLink)
        if hexagons is not None:
            link = link_of(hexagons, HexagonsLink)
            if link.settings.material == formula:
                return link.detection.lattice
        return self._lattices.get((layer.unique_id, formula))

    def set_calibration(self, calibration: Calibration, told: str) -> None:
        """Give the image a pixel size, and say what was done."""
        calibrate_in(self._viewer, check_image(self.images.layer), calibration)
        self.refresh()
        self._say(f"{told} Ctrl+Z on the image takes it back.")

    def refresh(self, event: Any = None) -> None:
        """Show the image's pixel size, and what the lattice makes of it."""
        layer = self.images.layer
        for widget in (self.from_file, self.compare, self.find, self.set_by_hand, self.ruler_panel):
            widget.setEnabled(layer is not None)
        self.warning.clear()
        self.lattice_line.clear()
        if layer is None:
            self.size.setText("No image is open.")
        else:
            try:
                self._show(calibration_of(layer), self.lattice())
            except PointDefectsError as error:
                self.size.setText(str(error))
        self.lattice_line.setVisible(bool(self.lattice_line.text()))
        self.warning.setVisible(bool(self.warning.text()))
        self._show_line()

    def _show(self, calibration: Calibration, lattice: Lattice | None) -> None:
        size, material = calibration.pixel_size_nm, self.material_
        if size is None:
            self.size.setText("<b>Pixel size: none</b>")
        else:
            self.size.setText(
                f"<b>Pixel {size[0]:.6g} × {size[1]:.6g} nm</b> "
                f"(height × width), {SOURCES[calibration.source]}"
            )
        if lattice is None:
            return
        lines = [f"Lattice constant {lattice.a_px:.2f} px"]
        if size is not None:
            seen, stretch = seen_lattice(size, lattice)
            lines[0] += f" = {seen:.4f} nm"
            error = abs(seen / material.lattice_constant_nm - 1)
            lines.append(
                f"{material.formula} has {material.lattice_constant_nm:.4f} nm: "
                f"{disagreement(seen, material) if error > _EQUAL else 'they agree'}"
            )
            lines.append(f"stretch {stretch:+.1%} (x against y), shear {lattice.shear:+.1%}")
            if error > TOLERANCE:
                self.warning.setText(
                    f"⚠ The lattice says "
                    f"{length_text(lattice_pixel_size_nm(lattice, material, size[0] / size[1]))}."
                )
        else:
            square = length_text(lattice_pixel_size_nm(lattice, material))
            lines.append(f"{material.formula} has {material.lattice_constant_nm:.4f} nm: {square}")
        self.lattice_line.setText("<br>".join(lines))

    def _on_image(self) -> None:
        """Follow the chosen image."""
        layer = self.images.layer
        self.ruler.remove()
        self._say("")
        if layer is not None:
            hexagons = own_layer(self._viewer.layers, layer.unique_id, HexagonsLink)
            if hexagons is not None:
                formula = link_of(hexagons, HexagonsLink).settings.material
                self.material.set(formula)
        self._on_scale()

    def _on_scale(self) -> None:
        """Show the pixel size in the editor too, so that one can change it from there."""
        self._say("")
        if self.images.layer is not None:
            self.editor.set_nm(pixel_size_nm(self.images.layer))
        self.refresh()

    def _take_files(self) -> None:
        try:
            layer = check_image(self.images.layer)
            calibration = file_calibration(layer)
            if calibration.pixel_size_nm is None:
                told = calibration.problem or "the file states no pixel size"
                told = f"{told[:1].upper()}{told[1:]}: the image has none now."
            else:
                size = length_text(calibration.pixel_size_nm)
                told = f"The pixel size is the file's again, {size}."
            self.set_calibration(calibration, told)
        except PointDefectsError as error:
            self._fail(error)

    def _take_hand(self) -> None:
        size = self.editor.get_nm()
        try:
            if min(size) <= 0:
                raise PointDefectsError("give a pixel size above 0, or go back to the file's")
            self.set_calibration(
                Calibration(size, "user"), f"The pixel size is now {length_text(size)}."
            )
        except PointDefectsError as error:
            self._fail(error)

    def _find(self, *, apply: bool) -> None:
        """Find the lattice in the background unless it is known; then show or take it."""
        if self.find.is_running:
            return
        try:
            layer = check_image(self.images.layer)
            image, material = stem_image(layer), self.material_
        except PointDefectsError as error:
            self._fail(error)
            return
        self._say("")
        key = layer.unique_id, material.formula

        def work(on_progress: Any, should_stop: Any) -> Lattice:
            on_progress(0.1, "Finding the lattice")
            return find_lattice(image.data, material)

        def done(lattice: Lattice) -> None:
            self._lattices[key] = lattice
            self.find.say("")
            if layer is not self.images.layer or key[1] != self.material.get():
                return
            self.refresh()
            if apply:
                self._take_lattice(lattice)

        known = self.lattice()
        if known is not None:
            done(known)
        else:
            self.find.start(f"Find the lattice of {layer.name}", work, done)

    def _take_lattice(self, lattice: Lattice) -> None:
        now = calibration_of(self.images.layer).pixel_size_nm
        ratio = {
            SQUARE: 1.0,
            KEEP: now[0] / now[1] if now else 1.0,
            BOTH: 1 + lattice.stretch,
        }[self.aspect.currentText()]
        size = lattice_pixel_size_nm(lattice, self.material_, ratio)
        self.set_calibration(
            Calibration(size, "lattice"),
            f"The pixel size is now the lattice's, {length_text(size)}.",
        )

    def _draw_line(self) -> None:
        try:
            self.ruler.draw(check_image(self.images.layer))
        except PointDefectsError as error:
            self._fail(error)

    def _show_line(self) -> None:
        """Say how long the drawn line is."""
        image = self.images.layer
        ends = None if image is None else self.ruler.ends_px(image)
        if ends is None:
            text = "Drag the mouse from one end to the other." if self.ruler.layer else ""
            self.ruler_panel.show_line(text, False)
            return
        text = f"The line is {np.linalg.norm(ends[1] - ends[0]):.1f} px long"
        size = pixel_size_nm(image)
        if size is not None:
            text += f", {np.linalg.norm((ends[1] - ends[0]) * size):.4g} nm now"
        self.ruler_panel.show_line(f"{text}.", True)

    def _take_line(self) -> None:
        try:
            image = check_image(self.images.layer)
            ends = self.ruler.ends_px(image)
            length = self.ruler_panel.length_nm(self.material_)
            if ends is None:
                raise PointDefectsError("draw a line over a known length first")
            if length <= 0:
                raise PointDefectsError("say how long the line is: a number above 0")
            size = with_length(ends, length, calibration_of(image))
            self.set_calibration(
                Calibration(size, "user"),
                f"The line is {length:.6g} nm long: the pixel size is now {length_text(size)}.",
            )
        except PointDefectsError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._say(report_error(error))

    def _say(self, text: str) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))

    def _lay_out(self) -> None:
        head = QWidget()
        form = QFormLayout(head)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Image", self.images)
        form.addRow("Material", self.material)
        self.stack(
            head,
            _group(
                "Pixel size",
                self.size,
                self.lattice_line,
                self.warning,
                self.message,
                self.compare,
                self.from_file,
            ),
            _group("From the lattice", self.aspect, self.find),
            _group("By hand", self.editor, self.set_by_hand),
            _group("Along a line", self.ruler_panel),
        )


def _group(title: str, *widgets: Any) -> QGroupBox:
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(6, 6, 6, 6)
    for widget in widgets:
        layout.addWidget(widget)
    return box
