"""The scrolling frame that both dock widgets are built in."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QStyle, QVBoxLayout, QWidget

from napari_point_defects.napari_ui import preferences

_MOST_OF_SCREEN = 0.5
"""Share of the screen's height that one pane may insist on."""


class Pane(QScrollArea):
    """A column of widgets that scrolls where the window is too low for it.

    Without it two docks on a laptop's screen push the window beyond the screen's edge.
    """

    def __init__(self) -> None:
        super().__init__()
        preferences.begin()
        self._column = QWidget()
        self._column.setLayout(QVBoxLayout())
        self._column.layout().setSpacing(8)
        self._column.installEventFilter(self)
        self.setWidget(self._column)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def stack(self, *widgets: QWidget) -> None:
        """Put widgets below each other."""
        for widget in widgets:
            self._column.layout().addWidget(widget)
        self._column.layout().addStretch()

    def sizeHint(self) -> QSize:
        """Ask for the room that the column needs."""
        return self._column.sizeHint() + QSize(self._bar_width, 0)

    def minimumSizeHint(self) -> QSize:
        """Show all of the column, unless the screen is too low."""
        needed = self._column.minimumSizeHint()
        most = int(_MOST_OF_SCREEN * self.screen().availableGeometry().height())
        return QSize(needed.width() + self._bar_width, min(needed.height(), most))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Pass a change of the column's size on to the dock."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)

    @property
    def _bar_width(self) -> int:
        return self.style().pixelMetric(QStyle.PixelMetric.PM_ScrollBarExtent)
