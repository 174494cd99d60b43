"""A live example of a training set beside the user's own image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import get_material
from napari_point_defects.napari_ui.comparison import Comparison, Picture
from napari_point_defects.napari_ui.image_layers import is_micrograph, pixel_size_nm
from napari_point_defects.napari_ui.layer_chooser import LayerChooser
from napari_point_defects.napari_ui.lifetime import listen, when_destroyed
from napari_point_defects.napari_ui.likeness_plot import LikenessPlot
from napari_point_defects.napari_ui.links import HexagonsLink, link_of, own_layer
from napari_point_defects.napari_ui.settings_form import advanced_box
from napari_point_defects.napari_ui.tasks import Task
from napari_point_defects.simulation.comparison import compare_images
from napari_point_defects.simulation.images import Example, simulate_example, unknown_columns

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_point_defects.image_matching import ImageMatch
    from napari_point_defects.simulation.presets import TrainingSetSettings

_SIMULATED_KEY = "napari-point-defects: simulated"
REFRESH_MS = 120
"""Rest after a change before an example is made: typing a number is one change."""
_MOST_PX = 512
_SHOWN_A = 12.0


class SimulatePreview(QWidget):
    """Shows what the settings make, soon after each change.

    Examples are made in a background thread, one at a time; one that comes too late to show the
    settings of now is dropped.

    Parameters
    ----------
    viewer : napari.Viewer
    settings : callable
        Returns the settings, or raises ``PointDefectsError``.
    """

    columns_wanted = Signal()
    """The user wants abTEM to run for this microscope."""
    match_wanted = Signal()
    """The user wants the settings to be those of the image chosen."""

    def __init__(self, viewer: Viewer, settings: Callable[[], TrainingSetSettings]) -> None:
        super().__init__()
        self._viewer, self._settings = viewer, settings
        self._task: Task | None = None
        self._running: list[Task] = []
        self._stale = False
        self.example: Example | None = None
        self.index = 0
        self._likeness: ImageMatch | None = None
        self._matched: tuple[Any, float] = None, 0.0  # a layer's unique_id and its a [px]

        self.canvas = Comparison()
        self.message = QLabel()
        self.message.setWordWrap(True)
        self.images = LayerChooser(viewer, _is_own_image, "open an image")
        self.images.setToolTip("<p>Your image, to compare with.</p>")
        self.match = QPushButton("Match this image")
        self.match.setToolTip(
            "<p>Measure your image (noise, probe, scan, contamination, contrast) and set all "
            "ranges narrowly around it. Cells that are in the viewer are taken as they stand; "
            "without any the image is analysed first.</p>"
        )
        self.plot = LikenessPlot(viewer.theme)
        self.plot_box = advanced_box(self.plot, "Histograms and power spectra")
        self.next = QPushButton("Another example")
        self.next.setToolTip("<p>The next image of the set: other draws from the same ranges.</p>")
        self.to_viewer = QPushButton("To viewer")
        self.to_viewer.setToolTip("<p>Add this example as a layer beside your image.</p>")
        self.columns = QPushButton("Simulate this microscope's columns")
        self.columns.setToolTip(
            "<p>Runs abTEM multislice, once: about a minute for each material.</p>"
        )
        self._lay_out()

        self._rest = QTimer(self, singleShot=True, interval=REFRESH_MS)
        self._rest.timeout.connect(self.render)
        self.next.clicked.connect(self._take_next)
        self.to_viewer.clicked.connect(self.add_layer)
        self.columns.clicked.connect(self.columns_wanted)
        self.match.clicked.connect(self.match_wanted)
        self.plot_box.toggled.connect(self._compare)
        self.canvas.zoomed.connect(self._show_own)
        self.images.layer_changed.connect(self._on_layer)
        listen(self, self._on_theme, viewer.events.theme)
        camera = viewer.scene.camera.events
        listen(self, self._move, camera.center)
        running = self._running
        when_destroyed(self, lambda: [task.stop() for task in running])
        self._show_own()

    def refresh(self) -> None:
        """Make a new example soon."""
        self._stale, self._likeness = True, None
        self._rest.start()

    def render(self) -> None:
        """Make an example of the settings in the background, unless one is being made."""
        if self._task is not None:
            return  # its end starts the next
        self._stale = False
        try:
            settings = self._settings()
            missing = unknown_columns(settings.materials, settings.microscope)
        except PointDefectsError as error:
            self._fail(str(error))
            return
        self.columns.setVisible(bool(missing))
        if missing:
            self._fail(
                f"abTEM has not simulated the columns of {', '.join(missing)} for this microscope "
                "yet"
            )
            return
        index = self.index

        def work(**callbacks: Any) -> Example:
            return simulate_example(settings, index, most_px=_MOST_PX)

        self._task = Task("Simulate an example", work)
        self._running[:] = [self._task]
        self._task.start(self._on_example)

    def show_likeness(self, match: ImageMatch, layer: Image) -> None:
        """Show the likeness of an image until a setting changes or another example is wanted."""
        self._rest.stop()
        self._stale, self._likeness = False, match
        self._matched = layer.unique_id, match.a_px
        material = get_material(match.example.scene.material)
        # columns are to be seen, however large the image is
        self.canvas.field = _SHOWN_A * material.lattice_constant_nm
        self._show(match.example)
        self.plot_box.expand(animate=False)
        self._compare()

    def add_layer(self) -> None:
        """Put the example into the viewer, to the right of the user's image."""
        if self.example is None:
            return
        layer, size = self.images.layer, self.example.scene.pixel_size_nm
        options: dict[str, Any] = {"scale": (size, size), "units": ("nm", "nm")}
        if layer is not None and pixel_size_nm(layer) is None:
            # without a unit of the user's there is nothing but pixels to share
            scale = self._own_a_px(layer) or self.example.scene.a_px
            options = {"scale": [scale / self.example.scene.a_px] * 2}
        if layer is not None:
            corner = layer.extent.world[1][-1] - layer.extent.world[0][-1]
            top, left = layer.extent.world[0][-2:]
            options["translate"] = (top, left + 1.03 * corner)
            if pixel_size_nm(layer) is not None:
                per_unit = pixel_size_nm(layer)[1] / abs(layer.scale[-1])
                options["translate"] = tuple(n * per_unit for n in options["translate"])
        name = f"simulated {self.example.scene.material}, {self._title().lower()}"
        self._viewer.add_image(
            self.example.image.pixels, name=name, metadata={_SIMULATED_KEY: True}, **options
        )
        if layer is not None:
            self._viewer.layers.selection.active = layer

    def _take_next(self) -> None:
        self.index += 1
        self.refresh()

    def _on_example(self) -> None:
        task, self._task = self._task, None
        self._running.clear()
        if task is None or task.stopped or self._likeness is not None:
            return
        if self._stale:
            self._rest.start(0)
        elif task.error is not None:
            self._fail(" ".join(str(task.error).split()))
        else:
            self._show(task.result)

    def _show(self, example: Example) -> None:
        self.example = example
        scene, noise = example.scene, example.noise
        size = scene.pixel_size_nm
        field = tuple(n * size for n in example.image.pixels.shape)
        self.canvas.show_picture(
            0, Picture(example.image.pixels, field, f"Simulated, {self._title().lower()}")
        )
        defects = int(np.count_nonzero(example.image.classes))
        dirt = f", contamination {scene.contamination:.2f}" if scene.contamination else ""
        self.message.setText(
            f"{scene.material}, a = {scene.a_px:.1f} px, {example.column_counts:,.0f} counts in "
            f"X₂ (λ = {noise.poisson_lambda:.3g}), μ = {noise.gaussian_mu:.0f}{dirt}; "
            f"{defects} of {len(example.image.classes)} cells defective"
        )
        self.to_viewer.setEnabled(True)
        self._show_own()
        self._compare()

    def _title(self) -> str:
        return f"Example {self.index + 1}" if self._likeness is None else "Likeness"

    def _compare(self, *args: Any) -> None:
        """Compare the middle of the user's image with the example, where that can be seen."""
        if not self.plot_box.isExpanded():
            return
        layer = self.images.layer
        if self._likeness is not None:
            self.plot.show_comparison(self._likeness.comparison)
            return
        a_px = None if layer is None or self.example is None else self._own_a_px(layer)
        if a_px is None:
            self.plot.show_comparison(None)
            return
        data = layer.data[0] if layer.multiscale else layer.data
        cut = tuple(slice(max((n - _MOST_PX) // 2, 0), (n + _MOST_PX) // 2) for n in data.shape)
        own_a_px = float(np.sqrt(np.prod(np.broadcast_to(a_px, 2))))
        self.plot.show_comparison(
            compare_images(
                np.asarray(data[cut]),
                self.example.image.pixels,
                own_a_px,
                self.example.scene.a_px,
            )
        )

    def _on_layer(self) -> None:
        self._show_own()
        self._compare()

    def _on_theme(self, event: Any = None) -> None:
        self.plot.set_theme(self._viewer.theme)

    def _fail(self, text: str) -> None:
        self.example = None
        self.to_viewer.setEnabled(False)
        self._compare()
        self.message.setText("")
        self.canvas.show_picture(0, None, text)

    def _move(self, event: Any = None) -> None:
        self._show_own()

    def _show_own(self) -> None:
        """Cut the middle of the view out of the user's image, as large as the example."""
        layer = self.images.layer
        if layer is None:
            self.canvas.show_picture(1, None, "Open an image to compare with")
            return
        data = layer.data[0] if layer.multiscale else layer.data
        if self.example is None:
            self.canvas.show_picture(1, None, "")
            return
        scene = self.example.scene
        a_nm = get_material(scene.material).lattice_constant_nm
        a_px, title = self._own_a_px(layer), layer.name
        if a_px is None:
            a_px, title = scene.a_px, f"{layer.name} (no scale: pixel for pixel)"
        per_px = np.broadcast_to(a_nm / np.asarray(a_px, float), 2)
        wanted = np.ceil(self.canvas.shown_field / per_px).astype(int)
        size = np.clip(wanted, 1, data.shape)
        centre = np.asarray(layer.world_to_data(self._viewer.scene.camera.center[-2:]))
        if not np.all((centre >= 0) & (centre < data.shape)):
            centre = np.array(data.shape) / 2
        corner = np.clip(np.rint(centre - size / 2).astype(int), 0, np.array(data.shape) - size)
        (y, x), (height, width) = corner, size
        cut = np.asarray(data[y : y + height, x : x + width])
        self.canvas.show_picture(1, Picture(cut, tuple(size * per_px), title))

    def _own_a_px(self, layer: Image) -> tuple[float, float] | float | None:
        """Lattice constant in the user's image [px]: as found in it, or by its pixel size."""
        found = own_layer(self._viewer.layers, layer.unique_id, HexagonsLink)
        if found is not None:
            return link_of(found, HexagonsLink).detection.lattice.a_px
        if self._matched[0] == layer.unique_id:
            return self._matched[1]
        size = pixel_size_nm(layer)
        if size is None or self.example is None:
            return None
        a_nm = get_material(self.example.scene.material).lattice_constant_nm
        return a_nm / size[0], a_nm / size[1]

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        buttons = QHBoxLayout()
        buttons.addWidget(self.next)
        buttons.addWidget(self.to_viewer)
        own = QHBoxLayout()
        own.addWidget(QLabel("Compare with"))
        own.addWidget(self.images, 1)
        own.addWidget(self.match)
        layout.addLayout(own)
        layout.addWidget(self.canvas)
        layout.addWidget(self.plot_box)
        layout.addWidget(self.message)
        layout.addWidget(self.columns)
        layout.addLayout(buttons)
        self.columns.hide()
        self.to_viewer.setEnabled(False)


def _is_own_image(layer: Layer) -> bool:
    grey = is_micrograph(layer) and layer.ndim == 2 and not layer.rgb
    return grey and _SIMULATED_KEY not in layer.metadata
