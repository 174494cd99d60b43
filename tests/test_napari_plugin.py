"""The manifest, the reader and the samples, as npe2 and napari see them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("napari")
pytest.importorskip("npe2")

from napari.layers import Image, Layer
from npe2 import PluginManifest

from napari_point_defects import io
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.napari_ui import reader, samples
from napari_point_defects.records import Calibration, StemImage

ROOT = Path(__file__).parents[1]
MENUS = {
    "metadata": ("calibrate",),
    "segment": ("detect",),
    "classify": ("classify", "adapt", "train", "simulate"),
    "measure": ("measure", "study", "inspect"),
    "track": ("movie",),
    "annotate": ("labels",),
}
"""What stands under Layers in napari's menu bar."""
FORMATS = ROOT.parent / "shared" / "data" / "formats"
"""Example files of other projects; see its README. They are not part of this one."""


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest.from_file(ROOT / "napari.yaml")


@pytest.fixture
def stem_emd(tmp_path, stem_data):
    """A Berkeley EMD file with two images, a stack and a spectrum."""
    path = tmp_path / "field.emd"
    with h5py.File(path, "w") as file:
        file.attrs.update(version_major=0, version_minor=2)
        signals = {
            "HAADF": (stem_data, 0.02),
            "BF": (1 - stem_data, 0.02),
            "stack": (np.stack([stem_data] * 3), 0.02),
            "line": (stem_data[0], 0.02),
        }
        for name, (data, step) in signals.items():
            group = file.create_group(f"signals/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = data
            for axis, length in enumerate(data.shape, start=1):
                group[f"dim{axis}"] = step * np.arange(length)
                group[f"dim{axis}"].attrs.update(name="yxz"[axis - 1], units="[n_m]")
    return path


def test_every_command_can_be_imported(manifest):
    manifest.validate_imports()


def test_manifest_names(manifest):
    assert manifest.name == "napari-point-defects"
    widgets = {widget.display_name for widget in manifest.contributions.widgets}
    assert widgets == {
        "Calibrate",
        "Detect unit cells",
        "Classify point defects",
        "Cell inspector",
        "Labels",
        "Measure image",
        "Simulate training set",
        "Adapt to image",
        "Study defects",
        "Analyse movie",
        "Train",
    }
    commands = {command.id for command in manifest.contributions.commands}
    menus = manifest.contributions.menus.items()
    assert {name: [item.command for item in items] for name, items in menus} == {
        f"napari/layers/{menu}": [f"napari-point-defects.{name}" for name in names]
        for menu, names in MENUS.items()
    }
    assert sum(MENUS.values(), ()) == tuple(dict.fromkeys(sum(MENUS.values(), ())))
    assert len(sum(MENUS.values(), ())) == len(widgets)  # each widget has its place
    assert {"napari-point-defects.detect", "napari-point-defects.classify"} <= commands


@pytest.mark.parametrize("name", ["a.dm3", "b.DM4", "c.emd", "d.ser", "e.emi", "f.MRC"])
def test_reader_takes_microscope_files(npe2pm, manifest, name):
    npe2pm.register(manifest)
    readers = [reader.command for reader in npe2pm.iter_compatible_readers([name])]
    assert readers == ["napari-point-defects.read"]
    assert reader.get_reader(name) is reader.read
    assert reader.get_reader([name, "picture.jpg"]) is None


def test_reader_makes_one_calibrated_layer_per_image(stem_emd, stem_data):
    layers = [Layer.create(*data) for data in reader.read(str(stem_emd))]
    assert [layer.name for layer in layers] == ["field BF", "field HAADF"]
    for layer in layers:
        assert isinstance(layer, Image)
        np.testing.assert_allclose(layer.scale, [0.02, 0.02])
        assert [str(unit) for unit in layer.units] == ["nanometer", "nanometer"]
        assert layer.axis_labels == ("y", "x")
    np.testing.assert_array_equal(layers[1].data, stem_data)


def test_reader_says_what_a_file_without_an_image_holds(tmp_path):
    text = tmp_path / "notes.dm3"
    text.write_text("not an image")
    with pytest.raises(PointDefectsError, match="notes") as caught:
        reader.read(str(text))
    assert "\n" not in str(caught.value)


@pytest.mark.gui
def test_plugin_in_napari(make_napari_viewer, npe2pm, manifest, stem_emd, monkeypatch, stem_data):
    """Menus, widgets, reader and samples through napari's own paths."""
    from napari._app_model import get_app_model
    from napari._app_model.constants._menus import is_menu_contributable

    from napari_point_defects.napari_ui.measure_widget import MeasureWidget

    npe2pm.register(manifest)
    titles = {w.command: w.display_name for w in manifest.contributions.widgets}
    viewer = make_napari_viewer(strict_qt="raise")
    for name in ("Detect unit cells", "Classify point defects"):
        _, widget = viewer.window.add_plugin_dock_widget("napari-point-defects", name)
        assert widget.run.button.text() == name
    app = get_app_model()
    for menu, names in MENUS.items():
        if not is_menu_contributable(f"napari/layers/{menu}"):
            assert menu not in ("classify", "segment", "measure")
            continue  # a napari that has no such menu
        shown = {
            item.command.title: item.command.id
            for item in app.menus.get_menu(f"napari/layers/{menu}")
            if hasattr(item, "command") and "Point Defects" in item.command.title
        }
        assert set(shown) == {
            f"{titles[f'napari-point-defects.{name}']} (Point Defects)" for name in names
        }
        if menu == "measure":
            app.commands.execute_command(shown["Measure image (Point Defects)"])
    docks = viewer.window._qt_window.findChildren(MeasureWidget)
    assert len(docks) == 1

    viewer.open(stem_emd, plugin="napari-point-defects")
    assert [layer.name for layer in viewer.layers] == ["field BF", "field HAADF"]

    def read_image(path, **_):
        return StemImage(stem_data, Path(path).stem, Calibration((0.02, 0.02), "file"))

    monkeypatch.setattr(io, "read_image", read_image)
    for contribution in manifest.contributions.sample_data:
        if _sample_is_there(contribution.key):
            viewer.open_sample("napari-point-defects", contribution.key)


SAMPLES = {
    "mote2_pristine": samples.pristine,
    "mote2_contaminated": samples.contaminated,
    "mote2_rotated_17deg": samples.rotated,
}


def _sample_is_there(key):
    try:
        SAMPLES[key]()
    except PointDefectsError:
        return False
    return True


def test_manifest_and_functions_name_the_same_samples(manifest):
    assert {sample.key for sample in manifest.contributions.sample_data} == set(SAMPLES)


@pytest.mark.parametrize("key", SAMPLES)
def test_samples_open_with_their_pixel_size(key):
    if not any((ROOT / "sample_data").glob("*.tif")):
        pytest.skip("the samples are not there")
    ((data, kwargs, kind),) = SAMPLES[key]()
    assert kind == "image"
    assert data.shape == (2048, 2048)
    assert 0.001 < kwargs["scale"][0] < 0.05
    assert kwargs["units"] == ("nm", "nm")


def _microscope_files():
    files = (p for p in FORMATS.rglob("*") if p.suffix.lower() in reader.NOT_NAPARIS)
    return sorted(files) if FORMATS.is_dir() else []


def test_files_from_microscopes_open_or_are_refused_in_one_line():
    if not (files := _microscope_files()):
        pytest.skip("the folder of example files is not there")
    opened, stacks, refusals = 0, 0, []
    for path in files:
        try:
            layers = [Layer.create(*data) for data in reader.read(str(path))]
        except PointDefectsError as error:
            refusals.append(str(error))
            continue
        opened += 1
        for layer in layers:
            assert layer.axis_labels == ("t", "y", "x")[-layer.ndim :]
            assert layer.ndim == 2 or len(layers) == 1
            assert all(str(unit) in ("nanometer", "pixel") for unit in layer.units[-2:])
            assert str(layer.units[0]) in ("nanometer", "pixel", "second")
            assert (layer.scale > 0).all()
            assert np.asarray(layer.data[0]).shape == layer.data.shape[1:]
            stacks += layer.ndim == 3
    assert opened > len(files) / 4
    assert stacks > 3
    assert refusals
    assert not any("\n" in refusal for refusal in refusals)
