"""What makes the plugin feel at home in napari: shortcuts, tooltips, time left, cancel."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)

from app_model.types import KeyBinding
from napari.utils.theme import get_theme
from qtpy.QtWidgets import QDoubleSpinBox

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import Stopped
from napari_point_defects.movies.settings import MovieSettings
from napari_point_defects.napari_ui import (
    adapt_widget,
    classify_widget,
    detect_widget,
    movie_widget,
    simulate_form,
    train_widget,
)
from napari_point_defects.napari_ui.history import REDO_KEY, UNDO_KEY
from napari_point_defects.napari_ui.measure_table import ODD_COLOUR
from napari_point_defects.napari_ui.pace import TimeLeft
from napari_point_defects.napari_ui.review_session import shown_key
from napari_point_defects.napari_ui.run_panel import WARNING_STYLE, RunPanel
from napari_point_defects.napari_ui.settings_form import SettingsForm, tooltip_of
from napari_point_defects.retraining.adapting import AdaptSettings
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.simulation.presets import MicroscopeSettings, TrainingSetSettings

pytestmark = pytest.mark.gui

FORMS = {
    "detect": (AnalysisSettings, detect_widget.MAIN_FIELDS + detect_widget.ADVANCED_FIELDS),
    "classify": (AnalysisSettings, classify_widget.FIELDS),
    "movie frames": (
        AnalysisSettings,
        movie_widget.FRAME_FIELDS + movie_widget.MORE_FRAME_FIELDS,
    ),
    "movie": (MovieSettings, movie_widget.DOSE_FIELDS + movie_widget.MORE_FIELDS),
    "adapt": (AdaptSettings, adapt_widget.ADVANCED_FIELDS),
    "train": (RetrainSettings, train_widget.ADVANCED_FIELDS),
    "simulate": (
        TrainingSetSettings,
        simulate_form.MAIN_FIELDS
        + simulate_form.SIZE_FIELDS
        + sum(simulate_form.SECTIONS.values(), ()),
    ),
    "microscope": (MicroscopeSettings, tuple(MicroscopeSettings.model_fields)),
}
UNITS = {
    "_nm": "nm", "_px": "px", "_a": "a", "_deg": "°", "_s": "s", "_us": "µs", "_pa": "pA",
    "_ev": "eV", "_mrad": "mrad", "_e_nm2": "e/nm²",
}  # fmt: skip
"""What the end of a field's name promises, and what stands in its description in brackets."""


@pytest.mark.parametrize("name", FORMS)
def test_every_field_says_what_it_is_and_in_which_unit(name):
    model, fields = FORMS[name]
    for field in fields:
        info = model.model_fields[field]
        assert info.title, field
        assert len(info.description or "") > 4, field
        ends = [unit for end, unit in UNITS.items() if field.endswith(end)]
        if ends:
            assert f"[{ends[-1]}]" in info.description, (field, info.description)


def test_tooltips_give_bounds_default_and_unit(qtbot):
    form = SettingsForm(AnalysisSettings, ("pixel_size_nm", "min_score", "trust_pixel_size"))
    qtbot.addWidget(form)
    tip = form.editors["min_score"].toolTip()
    assert "Hexagons with a lower score" in tip
    assert "≥ 0, ≤ 1; default 0.4" in tip
    assert "default" not in form.editors["trust_pixel_size"].toolTip()
    size = form.editors["pixel_size_nm"]
    assert "&gt; 0 nm" in size.toolTip()
    assert form.layout_.labelForField(size).toolTip() == size.toolTip()
    assert isinstance(size, QDoubleSpinBox)
    assert size.text() == "default"
    size.setValue(0.0123)
    assert size.text().endswith(" nm")
    assert form.values()["pixel_size_nm"] == pytest.approx(0.0123)
    assert "<b>" not in tooltip_of({"description": "a <b> c"})


def test_the_listed_shortcuts_are_those_that_are_bound(classify, classified):
    session, panel = classify.census.session, classify.census.review
    bound = {str(KeyBinding.validate(str(key))) for key in classified.keymap}
    listed = {str(KeyBinding.from_str(key.replace("-", "+"))) for key in session.shortcuts}
    assert listed <= bound
    ours = bound - listed
    assert not ours, f"bound, but not listed: {ours}"
    text = panel.keys.text()
    for key, meaning in session.shortcuts.items():
        assert f"<b>{shown_key(key)}</b>" in text
        assert meaning in text
    assert {UNDO_KEY, REDO_KEY} <= set(session.shortcuts)
    assert shown_key("Control-Shift-Z") == "Ctrl+Shift+Z"
    assert "set to V_Te1" in text
    assert not panel.shortcuts.isExpanded()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_time_left_follows_the_pace_of_late():
    clock = Clock()
    left = TimeLeft(clock)
    assert left.describe(0.0) == ""
    clock.now += 2
    assert left.describe(0.1) == ""  # too early to be of use
    for _ in range(8):
        clock.now += 2
        text = left.describe(left._seen[-1][1] + 0.05)
    assert text == "about 18 s left"  # half is done in 18 s
    for _ in range(60):  # slower now
        clock.now += 2
        text = left.describe(left._seen[-1][1] + 0.005)
    minutes = re.fullmatch(r"about (\d+) s left", text)
    assert 70 <= int(minutes[1]) <= 90
    clock.now += 1000
    assert "left" in left.describe(0.81) or "so far" in left.describe(0.81)


def test_a_task_that_does_not_know_its_share_says_how_long_it_runs():
    clock = Clock()
    left = TimeLeft(clock)
    for _ in range(20):
        clock.now += 1
        text = left.describe(0.0)
    assert text == "20 s so far"
    left.describe(0.9)
    clock.now += 1
    left.describe(0.1)  # another stage counts anew
    clock.now += 10
    assert re.fullmatch(r"about \d+ (s|min) left", left.describe(0.2))


@pytest.fixture
def panel(qtbot):
    panel = RunPanel("Go", "tip")
    qtbot.addWidget(panel)
    return panel


def test_the_panel_shows_the_time_left_and_offers_cancel(panel, qtbot, monkeypatch):
    go = threading.Event()

    def work(on_progress, should_stop):
        on_progress(0.25, "Half way")
        while not go.wait(0.005):
            if should_stop():
                raise Stopped
        return 1

    panel.start("t", work, lambda _: None)
    monkeypatch.setattr(panel._left, "describe", lambda share: f"about {share:g} s left")
    qtbot.waitUntil(lambda: panel.message.text() == "Half way… about 0.25 s left")
    assert panel.button.text() == "Cancel"
    panel.button.click()
    qtbot.waitUntil(lambda: not panel.is_running)
    assert panel.message.text() == "Cancelled: nothing was changed."


@pytest.mark.parametrize("keeps_late", [False, True])
def test_a_cancel_that_comes_too_late_is_not_said_to_have_worked(panel, qtbot, keeps_late):
    entered, go, results = threading.Event(), threading.Event(), []

    def work(on_progress, should_stop):
        entered.set()
        go.wait(5)  # as a file that is being written
        return "written"

    panel.start("t", work, results.append, keeps_late=keeps_late)
    assert entered.wait(5)
    panel.cancel()
    go.set()
    qtbot.waitUntil(lambda: not panel.is_running)
    assert results == (["written"] if keeps_late else [])
    assert panel.was_cancelled is not keeps_late


def test_warnings_can_be_read_in_both_themes():
    def luminance(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])  # WCAG 2

    for theme in ("dark", "light"):
        ground = luminance(get_theme(theme).background.as_hex())
        for colour in (re.search("#[0-9a-f]{6}", WARNING_STYLE)[0], ODD_COLOUR):
            dim, bright = sorted((ground, luminance(colour)))
            assert (bright + 0.05) / (dim + 0.05) > 3
