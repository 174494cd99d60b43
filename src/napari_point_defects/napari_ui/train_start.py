"""Which network to train, and the weights it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui.settings_form import FileField
from napari_point_defects.retraining.settings import PRESETS

KINDS = {"Classifier: what each cell lacks": "classifier", "Detector: where cells are": "detector"}
SHIPPED, OWN, SCRATCH = STARTS = ("Shipped weights", "Own weights", "From scratch")


class StartForm(QWidget):
    """Shows only the fields that belong to the choice."""

    kind_changed = Signal()
    changed = Signal()
    """Something else is chosen, the network or its start."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = QComboBox()
        for title, kind in KINDS.items():
            self.kind.addItem(title, kind)
        self.start = QComboBox()
        self.start.addItems(STARTS)
        self.start.setToolTip("<p>Labels are learned gently by weights that know a lot.</p>")
        self.weights = FileField("a .safetensors file")
        self.preset = QComboBox()
        self.preset.setToolTip("<p>compact: the plugin's own; paper: as published, and slow.</p>")
        self.form = QFormLayout(self)
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for title, editor in (
            ("Train", self.kind),
            ("Start from", self.start),
            ("Weights", self.weights),
            ("Network", self.preset),
        ):
            self.form.addRow(title, editor)
        self.kind.currentIndexChanged.connect(self._on_kind)
        self.start.currentIndexChanged.connect(self._on_start)
        self.preset.currentIndexChanged.connect(lambda _: self.changed.emit())
        self._on_kind()
        self._on_start()

    @property
    def from_scratch(self) -> bool:
        """Whether to start from random weights."""
        return self.start.currentText() == SCRATCH

    @property
    def chosen_kind(self) -> str:
        """The network to train."""
        return self.kind.currentData()

    def values(self) -> dict[str, Any]:
        """Return the fields of the settings that are chosen here.

        Raises
        ------
        PointDefectsError
            If own weights are wanted and none are named.
        """
        chosen = self.start.currentText()
        text = self.weights.line.text().strip()
        if chosen == OWN and not text:
            raise PointDefectsError("choose the weights to start from, a .safetensors file")
        return {
            "kind": self.chosen_kind,
            "start": Path(text).expanduser() if chosen == OWN else None,
            "from_scratch": self.from_scratch,
            "preset": self.preset.currentText() if self.from_scratch else None,
        }

    def _on_kind(self) -> None:
        self.preset.clear()
        self.preset.addItems(list(PRESETS[self.chosen_kind]))
        self.kind_changed.emit()

    def _on_start(self) -> None:
        self.form.setRowVisible(self.weights, self.start.currentText() == OWN)
        self.form.setRowVisible(self.preset, self.from_scratch)
        self.changed.emit()
