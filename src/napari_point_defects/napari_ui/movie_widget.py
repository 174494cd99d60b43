"""The dock widget *Analyse movie*: cells followed through a stack, and when vacancies were made."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import napari
from napari.layers import Points
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.movies.analysis import Movie, analyze_movie
from napari_point_defects.movies.results import movie_paths, write_movie
from napari_point_defects.movies.settings import MovieSettings
from napari_point_defects.movies.tables import findings
from napari_point_defects.napari_ui.colours import watch_palette
from napari_point_defects.napari_ui.image_layers import pixel_size_nm
from napari_point_defects.napari_ui.lifetime import listen
from napari_point_defects.napari_ui.links import (
    MovieLink,
    image_layer,
    link_of,
    own_layers,
    replace_layer,
)
from napari_point_defects.napari_ui.material_editors import MaterialEditor
from napari_point_defects.napari_ui.movie_layers import (
    births_points,
    defects_points,
    is_movie,
    stack_of,
)
from napari_point_defects.napari_ui.movie_plot import MoviePlot
from napari_point_defects.napari_ui.remembered import Remembered, form_part
from napari_point_defects.napari_ui.result_pane import ResultPane
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel
from napari_point_defects.napari_ui.settings_editors import NumberEditor, OptionalEditor
from napari_point_defects.napari_ui.settings_form import SettingsForm, advanced_box, make_settings

FRAME_FIELDS = ("material", "pixel_size_nm")
DOSE_FIELDS = ("dose_per_frame_e_nm2", "beam_current_pa", "dwell_us")
MORE_FRAME_FIELDS = ("sublattice_rank", "min_score", "device")
MORE_FIELDS = ("frame_time_s", "largest_drift_a", "least_link", "misjudged")
_MOST_LINES = 6


def _number(low: float, high: float, typical: float, unit: str) -> OptionalEditor:
    editor = NumberEditor(low, high, typical=typical, unit=unit)
    editor.set(typical)
    return OptionalEditor(editor)


class MovieWidget(ResultPane[Movie]):
    """Follows every unit cell through a stack of frames.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__(napari_viewer, is_movie, "open a stack (T, Y, X)")
        self.form = SettingsForm(
            AnalysisSettings, FRAME_FIELDS, editors={"material": MaterialEditor}
        )
        self.dose = SettingsForm(
            MovieSettings,
            DOSE_FIELDS,
            editors={
                "dose_per_frame_e_nm2": partial(_number, 1e-3, 1e12, 1e5, "e/nm²"),
                "beam_current_pa": partial(_number, 1e-3, 1e6, 20.0, "pA"),
                "dwell_us": partial(_number, 1e-3, 1e6, 4.0, "µs"),
            },
        )
        self.more_frame = SettingsForm(
            AnalysisSettings, MORE_FRAME_FIELDS, choices={"device": ("auto", "cpu", "cuda", "mps")}
        )
        self.more = SettingsForm(
            MovieSettings,
            MORE_FIELDS,
            editors={
                "frame_time_s": partial(_number, 1e-6, 1e6, 1.0, "s"),
                "largest_drift_a": partial(_number, 1e-3, 1e3, 0.45, "a"),
            },
        )
        self.run = RunPanel(
            "Analyse movie",
            "<p>Find and classify the unit cells of every frame, link them from frame to frame, "
            "and tell when vacancies were made, changed and healed. Takes as long as the frames "
            "would one by one.</p>",
        )
        self.findings, self.warnings = QLabel(), QLabel()
        self.export = QPushButton("Export…")
        self.plot = MoviePlot(self._viewer.theme)
        self.results = QWidget()
        forms = (self.form, self.dose, self.more_frame, self.more)
        Remembered("movie", self.run, *map(form_part, forms))
        self._lay_out()

        self.run.run_requested.connect(self.analyse)
        self.images.scale_changed.connect(self._show_pixel_size)
        self.export.clicked.connect(self._ask)
        listen(self, self._on_step, self._viewer.dims.events.current_step)
        watch_palette(self._viewer)
        self._begin()

    def settings(self) -> tuple[AnalysisSettings, MovieSettings]:
        """Return the settings that the forms show.

        Raises
        ------
        PointDefectsError
            If one is not allowed.
        """
        frames = {**self.form.values(), **self.more_frame.values()}
        movie = {**self.dose.values(), **self.more.values()}
        options = make_settings(MovieSettings, movie)
        options.check_dose()
        return make_settings(AnalysisSettings, frames), options

    def analyse(self) -> None:
        """Start a run, or say why it cannot start."""
        layer = self.images.layer
        try:
            stack = stack_of(layer)
            settings, options = self.settings()
        except PointDefectsError as error:
            self.run.fail(error)
            return
        self.run.start(
            f"Analyse {layer.name}",
            lambda **callbacks: analyze_movie(stack, settings, options, **callbacks),
            lambda found: self._take(found, layer.unique_id),
            cancel_tip="Stop; what was found before stays",
        )

    def look(self) -> None:
        """Show what is known of the chosen stack."""
        self._show_pixel_size()
        super().look()

    def export_to(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write tables, summary and figure, as ``point-defects movie`` does."""
        found = self.shown
        title = f"Export {found.stack.name}"
        self._write(title, folder, lambda: write_movie(found, folder, overwrite))

    def _take(self, found: Movie, image_id: Hashable) -> None:
        image = image_layer(self._viewer.layers, image_id)
        if image is None:
            raise PointDefectsError("the movie was closed while it was analysed")
        drawn = {
            link.kind: layer for layer, link in own_layers(self._viewer.layers, image_id, MovieLink)
        }
        for points in (births_points(found, image), defects_points(found, image)):
            new = Points(**points)
            replace_layer(self._viewer, drawn.get(link_of(new, MovieLink).kind), new)
        self._keep(found, image_id)

    def _show(self, found: Movie | None) -> None:
        self.shown = found
        self.results.setVisible(found is not None)
        self.plot.setVisible(found is not None)
        self.findings.setVisible(found is not None)
        self.warnings.setVisible(False)
        if found is None:
            return
        self.findings.setText("<br>".join(f"• {escape(line)}" for line in findings(found)))
        lines = [f"frame {r.index} skipped: {r.reason}" for r in found.refusals]
        lines += found.warnings()
        if len(lines) > _MOST_LINES:
            rest = len(lines) - _MOST_LINES
            lines = [*lines[:_MOST_LINES], f"and {rest} more: see the exported table of frames"]
        self.warnings.setText("\n".join(f"⚠ {line}" for line in lines))
        self.warnings.setVisible(bool(lines))
        self.plot.show_movie(found)
        self._on_step()

    def _on_step(self, event: Any = None) -> None:
        """Follow the viewer's frame in the plot."""
        image = self.images.layer
        if self.shown is None or image is None:
            return
        at = image.world_to_data(self._viewer.dims.point)
        self.plot.show_frame(min(max(round(float(at[-3])), 0), len(self.shown.stack) - 1))

    def _ask(self) -> None:
        name = self.shown.stack.name
        self._ask_where_to_export(
            "Export the movie's results to", lambda folder: movie_paths(name, folder).values()
        )

    def _show_pixel_size(self) -> None:
        layer = self.images.layer
        size = pixel_size_nm(layer) if layer is not None else None
        text = f"auto ({size[0]:.5f} in the movie)" if size else "auto (from the lattice)"
        self.form.set_empty_text("pixel_size_nm", text)

    def _lay_out(self) -> None:
        self.form.layout_.insertRow(0, "Movie", self.images)
        for label in (self.findings, self.warnings):
            label.setWordWrap(True)
        self.warnings.setStyleSheet(WARNING_STYLE)
        self.findings.setToolTip(
            "<p>A cell that is defective when it comes into view was not made in the movie. Rings "
            "mark cells that became defective: blue in the frame in which they did, white "
            "afterwards.</p>"
        )
        self.export.setToolTip(
            "<p>Write events, frames and cells (csv), a summary (json) and a figure (png) to a "
            "folder.</p>"
        )
        row = QHBoxLayout(self.results)
        row.setContentsMargins(0, 0, 0, 0)
        row.addStretch()
        row.addWidget(self.export)
        self.stack(
            self.form,
            self.dose,
            advanced_box(self.more_frame, "Advanced: frames"),
            advanced_box(self.more, "Advanced: movie"),
            self.run,
            self.findings,
            self.warnings,
            self.plot,
            self.results,
        )
