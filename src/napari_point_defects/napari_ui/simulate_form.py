"""The form of a training set's settings: every field, the common ones first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_point_defects.materials import CLASS_NAMES, get_material
from napari_point_defects.napari_ui.material_editors import MaterialsEditor
from napari_point_defects.napari_ui.settings_form import (
    SettingsForm,
    advanced_box,
    make_settings,
)
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings

_MICROSCOPE = "microscope"
MAIN_FIELDS = (
    "preset",
    "materials",
    "a_px",
    "column_counts",
    "poisson_lambda",
    "gaussian_mu",
    "defect_rate",
    "contamination",
)
SIZE_FIELDS = ("train_images", "validation_images", "seed")
SECTIONS = {
    "Geometry": ("side_a", "angle_deg", "shear", "stretch", "one_cell"),
    "Defects": ("class_mix",),
    "Noise": ("gaussian_share", "black_level", "gain", "bits"),
    "Scan distortions": ("drift_a", "jitter_a"),
    "Contamination and vacuum": (
        "contamination_share",
        "contamination_length_nm",
        "vacuum_share",
        "vacuum_fraction",
    ),
    "Probe": (
        "source_fwhm_nm",
        "tail_fraction",
        "tail_fwhm_nm",
        "defocus_nm",
        "astigmatism_nm",
        "chalcogen_gain",
        "chalcogen_gain_sigma",
    ),
}


def class_names(materials: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the six classes' names, with elements where there is but one material."""
    if len(set(materials)) == 1:
        return get_material(materials[0]).class_labels
    return CLASS_NAMES


_CHOICES = {
    "preset": tuple(PRESETS),
    "class_mix": class_names()[1:],
}


class SimulateForm(QWidget):
    """Edits a :class:`TrainingSetSettings`.

    Attributes
    ----------
    size : SettingsForm
        Numbers of images and the seed: not in this widget, to be shown where the set is made.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.main = _form(MAIN_FIELDS)
        self.microscope = SettingsForm(
            MicroscopeSettings, tuple(MicroscopeSettings.model_fields), exact=True
        )
        self.sections = {title: _form(fields) for title, fields in SECTIONS.items()}
        self.size = _form(SIZE_FIELDS)
        self.forms = [self.main, self.size, *self.sections.values()]
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.main)
        self.boxes = {title: advanced_box(form, title) for title, form in self.sections.items()}
        self.boxes["Microscope"] = advanced_box(self.microscope, "Microscope")
        for box in self.boxes.values():
            layout.addWidget(box)
        for form in (*self.forms, self.microscope):
            form.changed.connect(self._on_change)
        self.main.editors["preset"].activated.connect(self._take_preset)
        self._silent = False
        self.set_settings(PRESETS["wide"])

    def values(self) -> dict[str, Any]:
        """Return what the editors hold, by field name."""
        values = {name: value for form in self.forms for name, value in form.values().items()}
        return values | {_MICROSCOPE: self.microscope.values()}

    def settings(self) -> TrainingSetSettings:
        """Return the settings that the form shows.

        Raises
        ------
        PointDefectsError
            If one is not allowed.
        """
        return make_settings(TrainingSetSettings, self.values())

    def set_settings(self, settings: TrainingSetSettings) -> None:
        """Show other settings."""
        self._silent = True
        for form in self.forms:
            form.set_values({name: getattr(settings, name) for name in form.editors})
        self.microscope.set_values(dict(settings.microscope))
        self._silent = False
        self._on_change()

    def _take_preset(self) -> None:
        preset = PRESETS.get(self.main.editors["preset"].get())
        if preset is not None:
            self.set_settings(preset)

    def _on_change(self) -> None:
        if self._silent:
            return
        self.main.editors["poisson_lambda"].setEnabled(
            self.main.editors["column_counts"].get() is None
        )
        self.changed.emit()


def _form(fields: tuple[str, ...]) -> SettingsForm:
    editors = {"materials": MaterialsEditor}
    return SettingsForm(TrainingSetSettings, fields, choices=_CHOICES, editors=editors, exact=True)
