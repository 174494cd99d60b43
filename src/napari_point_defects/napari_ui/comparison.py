"""Two images side by side at the same scale, contrast stretched alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QResizeEvent, QWheelEvent
from qtpy.QtWidgets import QSizePolicy, QWidget

_GAP_PX = 4
_LABEL_PX = 18
_SMALLEST_FIELD = 0.1
_PERCENTILES = 0.5, 99.5


@dataclass(frozen=True, slots=True)
class Picture:
    """An image and how large it is.

    Attributes
    ----------
    pixels : ndarray of shape (M, N)
    field : (float, float)
        Height and width in a unit that both pictures share.
    title : str
    """

    pixels: np.ndarray
    field: tuple[float, float]
    title: str


class Comparison(QWidget):
    """Paints two pictures; the wheel enlarges both alike about their middles."""

    zoomed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._pictures: list[tuple[QImage, Picture] | None] = [None, None]
        self._texts = ["", ""]
        self.field = 0.0
        """Side of what is shown of each, in the pictures' unit; 0 for all of the first."""
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(260)
        self.setToolTip(
            "<p>Left simulated, right your image in the middle of the view, at the same scale and "
            "with the same contrast stretch. The wheel enlarges both.</p>"
        )

    def show_picture(self, place: int, picture: Picture | None, text: str = "") -> None:
        """Show a picture on the left (0) or right (1), or a text where there is none."""
        image = None if picture is None else (_grey_image(picture.pixels), picture)
        self._pictures[place], self._texts[place] = image, text
        self.update()

    def picture(self, place: int) -> Picture | None:
        """Return the picture on the left (0) or right (1)."""
        shown = self._pictures[place]
        return shown and shown[1]

    @property
    def shown_field(self) -> float:
        """Side of what is shown of each picture, in their unit."""
        whole = self.picture(0) or self.picture(1)
        largest = max(whole.field) if whole else 0.0
        return min(self.field, largest) or largest

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep both squares square."""
        self.setFixedHeight((self.width() - _GAP_PX) // 2 + _LABEL_PX)
        super().resizeEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Show less or more of both."""
        if not self.shown_field:
            return
        whole = max(self.picture(0).field if self.picture(0) else self.picture(1).field)
        wanted = self.shown_field * 0.8 ** (event.angleDelta().y() / 120)
        self.field = 0.0 if wanted >= whole else max(wanted, _SMALLEST_FIELD * whole)
        self.update()
        self.zoomed.emit()
        event.accept()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Paint both pictures and their titles."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        side = (self.width() - _GAP_PX) / 2
        ink = self.palette().text().color()
        for place in (0, 1):
            left = place * (side + _GAP_PX)
            square = QRectF(left, _LABEL_PX, side, side)
            painter.fillRect(square, QColor(0, 0, 0, 90))
            painter.setPen(ink)
            shown = self._pictures[place]
            if shown is None:
                painter.drawText(
                    square.adjusted(6, 6, -6, -6),
                    int(Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap),
                    self._texts[place],
                )
                continue
            image, picture = shown
            label = QRectF(left, 0, side, _LABEL_PX - 2)
            title = painter.fontMetrics().elidedText(
                picture.title, Qt.TextElideMode.ElideMiddle, int(side)
            )
            painter.drawText(label, int(Qt.AlignmentFlag.AlignLeft), title)
            self._paint(painter, square, image, picture)

    def _paint(self, painter: QPainter, square: QRectF, image: QImage, picture: Picture) -> None:
        """Paint the middle of a picture so that the square is as large as the field shown."""
        per_unit = square.width() / self.shown_field
        height, width = (n * per_unit for n in picture.field)
        middle = square.center()
        target = QRectF(middle.x() - width / 2, middle.y() - height / 2, width, height)
        if width < image.width():
            # painting alone would pick pixels, and show more noise than there is
            image = image.scaled(
                max(round(width), 1),
                max(round(height), 1),
                Qt.AspectRatioMode.IgnoreAspectRatio,
                Qt.TransformationMode.SmoothTransformation,
            )
        painter.save()
        painter.setClipRect(square)
        painter.drawImage(target, image)
        painter.restore()


def _grey_image(pixels: np.ndarray) -> QImage:
    """Stretch an image between its lowest and highest half per cent."""
    pixels = np.asarray(pixels, np.float32)
    finite = pixels[np.isfinite(pixels)]
    low, high = np.percentile(finite, _PERCENTILES) if len(finite) else (0.0, 1.0)
    grey = (np.nan_to_num(pixels, nan=low) - low) * (255 / max(high - low, 1e-30))
    grey = np.ascontiguousarray(np.clip(grey, 0, 255).astype(np.uint8))
    height, width = grey.shape
    # copied: Qt does not keep the array alive
    return QImage(grey.data, width, height, width, QImage.Format.Format_Grayscale8).copy()
