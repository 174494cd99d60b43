"""The cell inspector's pictures: the crop, the network's input, the probabilities."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_point_defects.classification.crops import WINDOW_A
from napari_point_defects.materials import (
    BOND,
    CELL_AREA,
    CHALCOGEN_SITES,
    METAL_SITES,
    DefectClass,
    Material,
)
from napari_point_defects.palettes import colours_in_use
from napari_point_defects.profiles import LENGTH_A

_BOND_VECTOR = METAL_SITES[0] - CHALCOGEN_SITES[0]
_ALONG = _BOND_VECTOR / BOND
_ACROSS = _ALONG[::-1] * [1, -1]
_CONTRAST = (0.5, 99.5)  # percentiles of the crop: a hot pixel must not darken the rest


def grey_image(pixels: np.ndarray, low: float, high: float) -> QImage:
    """Return pixels, shape (h, w), as a picture; transparent where they are NaN."""
    known = np.isfinite(pixels)
    scaled = (np.nan_to_num(pixels) - low) * (255 / max(high - low, 1e-30))
    rgba = np.empty((*pixels.shape, 4), np.uint8)
    rgba[..., :3] = np.clip(scaled, 0, 255).astype(np.uint8)[..., None]
    rgba[..., 3] = 255 * known
    height, width = pixels.shape
    image = QImage(rgba.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
    return image.copy()  # the bytes go, the picture stays


class CropView(QWidget):
    """The cell and its surroundings in the canonical frame, with its outline and its bond."""

    SIDE = 216

    def __init__(self) -> None:
        super().__init__()
        self.setFixedSize(self.SIDE, self.SIDE)
        self.setToolTip(
            f"<p>The cell in its surroundings, {WINDOW_A} lattice constants wide, with a lattice "
            "row along x. Rectangle: the unit cell, a × (√3/2) a. Dashed: the band that the "
            "profile is averaged over, from X to M and beyond.</p>"
        )
        self._image: QImage | None = None
        self._colour, self._names, self._width_a = "#ffffff", ("X", "M"), 0.0

    def show_crop(self, window: np.ndarray | None, colour: str, material: Material | None) -> None:
        """Show a window, shape (h, w), NaN outside the image, and outline the cell in a colour."""
        self._image = None
        if window is not None:
            known = window[np.isfinite(window)]
            low, high = np.percentile(known, _CONTRAST) if known.size else (0.0, 1.0)
            self._image = grey_image(window, low, high)
            self._colour = colour
            self._names = (f"{material.chalcogen}₂", material.metal)
        self.update()

    def show_band(self, width_a: float) -> None:
        """Show another width of the band, in units of a."""
        self._width_a = width_a
        self.update()

    def paintEvent(self, event: object) -> None:
        """Draw the crop, the cell, the band and the two columns."""
        with QPainter(self) as painter:
            painter.setRenderHints(
                QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform
            )
            painter.fillRect(self.rect(), QColor("#000000"))
            if self._image is None:
                return
            painter.drawImage(QRectF(self.rect()), self._image)
            half = np.array([CELL_AREA, 1.0]) / 2
            cell = self._place(np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * half)
            for colour, width in (("#000000", 4.0), (self._colour, 2.0)):
                painter.setPen(QPen(QColor(colour), width))
                painter.drawPolygon(cell)
            along, across = _ALONG * LENGTH_A / 2, _ACROSS * self._width_a / 2
            band = np.array([s * along + t * across for s, t in _CORNERS])
            painter.setPen(QPen(QColor("#ffffff"), 1.0, Qt.PenStyle.DashLine))
            painter.drawPolygon(self._place(band))
            painter.setPen(QColor("#ffffff"))
            for name, end in zip(self._names, (-1, 1), strict=True):
                self._write(painter, name, end)

    def _write(self, painter: QPainter, name: str, end: int) -> None:
        """Mark a column, the X at end −1 or the M at end 1, and name it outside the cell."""
        (place,) = self._place(end * _BOND_VECTOR[None] / 2)
        painter.drawEllipse(place, 3.0, 3.0)
        metrics = painter.fontMetrics()
        width, height = metrics.horizontalAdvance(name) + 6, metrics.height()
        (corner,) = self._place(end * np.array([[-CELL_AREA, 1.0]]) / 2)
        left = corner.x() - width if end < 0 else corner.x()
        top = corner.y() + 3 if end < 0 else corner.y() - height - 3
        box = QRectF(left, top, width, height)
        painter.fillRect(box, QColor(0, 0, 0, 150))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, name)

    def _place(self, points: np.ndarray) -> QPolygonF:
        """Map canonical points (N, 2), from the bond's middle, to the widget."""
        pixels = (points / WINDOW_A + 0.5) * self.SIDE
        return QPolygonF([QPointF(x, y) for y, x in pixels])


_CORNERS = ((-1, -1), (-1, 1), (1, 1), (1, -1))


class ChannelsView(QWidget):
    """The paper's input: the X₂ half and the M half of the cell, each made square."""

    SIDE = 84

    def __init__(self) -> None:
        super().__init__()
        self._images: list[QImage] = []
        self._names = ("", "")
        self.setToolTip(
            "<p>The two-channel input of the paper (Fig. 3a): the X₂ half and the M half of the "
            "unit cell, each stretched to a square. The shipped network sees a wider window.</p>"
        )
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """Ask for two squares and their titles."""
        return QSize(self.SIDE, 2 * (self.SIDE + self.fontMetrics().height() + 4))

    def show_halves(self, halves: np.ndarray | None, material: Material | None) -> None:
        """Show both halves, shape (2, h, w), 0 to 1."""
        self._images = [] if halves is None else [grey_image(half, 0.0, 1.0) for half in halves]
        if material is not None:
            self._names = (f"{material.chalcogen}₂ half", f"{material.metal} half")
        self.update()

    def paintEvent(self, event: object) -> None:
        """Draw one half above the other."""
        line = self.fontMetrics().height()
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
            painter.setPen(self.palette().windowText().color())
            for i, name in enumerate(self._names):
                top = i * (self.SIDE + line + 4)
                painter.drawText(QRectF(0, top, self.SIDE, line), Qt.AlignmentFlag.AlignLeft, name)
                square = QRectF(0, top + line, self.SIDE, self.SIDE)
                painter.fillRect(square, QColor("#000000"))
                if self._images:
                    painter.drawImage(square, self._images[i])


class ProbabilityBars(QWidget):
    """The network's probability of each class, as bars in the classes' colours."""

    _GAP = 4

    def __init__(self) -> None:
        super().__init__()
        self._labels: tuple[str, ...] = ()
        self._values = np.full(len(DefectClass), np.nan)
        self._chosen = ""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "<p>The network's probability of each class; bold: the class that counts.</p>"
        )

    @property
    def values(self) -> np.ndarray:
        """What is shown, shape (6,); NaN where the network has not seen the cell."""
        return self._values

    def show_values(self, labels: tuple[str, ...], values: np.ndarray, chosen: str) -> None:
        """Show probabilities, shape (6,), of the classes of those names; one of them counts."""
        self._labels, self._values, self._chosen = labels, np.asarray(values, float), chosen
        self.update()

    def sizeHint(self) -> QSize:
        """Ask for six lines."""
        return QSize(260, len(DefectClass) * self._line)

    def minimumSizeHint(self) -> QSize:
        """Keep six lines, and the names readable."""
        return QSize(180, len(DefectClass) * self._line)

    @property
    def _line(self) -> int:
        return self.fontMetrics().height() + self._GAP

    def paintEvent(self, event: object) -> None:
        """Draw a name, a bar and a number for each class."""
        if not self._labels:
            return
        font = self.font()
        font.setBold(True)
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            painter.setFont(font)
            metrics = painter.fontMetrics()
            names = max(metrics.horizontalAdvance(label) for label in self._labels) + 10
            numbers = metrics.horizontalAdvance("0.000") + 8
            room = self.width() - names - numbers
            ink = self.palette().windowText().color()
            rows = zip(self._labels, self._values, colours_in_use().values(), strict=True)
            for i, (label, value, colour) in enumerate(rows):
                font.setBold(label == self._chosen)
                painter.setFont(font)
                top, height = i * self._line, self._line - self._GAP
                painter.setPen(ink)
                middle = Qt.AlignmentFlag.AlignVCenter
                painter.drawText(QRectF(0, top, names, height), middle, label)
                painter.setPen(Qt.PenStyle.NoPen)
                ground = QColor(ink)
                ground.setAlpha(30)
                painter.setBrush(ground)
                painter.drawRoundedRect(QRectF(names, top + 3, room, height - 6), 2, 2)
                known = bool(np.isfinite(value))
                if known:
                    painter.setBrush(QColor(colour))
                    bar = QRectF(names, top + 3, max(room * value, 1.5), height - 6)
                    painter.drawRoundedRect(bar, 2, 2)
                painter.setPen(ink)
                number = QRectF(names + room, top, numbers, height)
                text = f"{value:.3f}" if known else "–"
                painter.drawText(number, middle | Qt.AlignmentFlag.AlignRight, text)
