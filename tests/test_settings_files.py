"""Settings as TOML and JSON: they read back as they were written."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import MATERIALS
from napari_point_defects.settings_files import make_settings, read_settings, write_settings
from napari_point_defects.simulation.columns import MicroscopeSettings
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings, load_settings
from napari_point_defects.simulation.recipes import Recipe
from napari_point_defects.simulation.scenes import SceneSettings


def numbers(low, high):
    return st.floats(low, high, allow_nan=False)


def ranges(low, high):
    return st.tuples(numbers(low, high), numbers(low, high)).map(lambda ends: tuple(sorted(ends)))


microscopes = st.builds(
    MicroscopeSettings,
    energy_ev=numbers(2e3, 1e6),
    semiangle_mrad=numbers(2, 100),
    inner_mrad=numbers(1, 100),
    outer_mrad=numbers(101, 400),
    thermal_sigma_nm=numbers(0, 0.02),
    phonon_configurations=st.integers(1, 64),
    seed=st.integers(0, 2**70),
)
sets = st.builds(
    TrainingSetSettings,
    preset=st.text(),
    materials=st.lists(st.sampled_from(sorted(MATERIALS)), min_size=1).map(tuple),
    microscope=microscopes,
    train_images=st.integers(1, 10**9),
    validation_images=st.integers(0, 10**9),
    seed=st.integers(0, 2**70),
    one_cell=st.booleans(),
    side_a=numbers(4, 40),
    a_px=ranges(4, 400),
    angle_deg=ranges(-1e6, 1e6),
    shear=ranges(-0.3, 0.3),
    drift_a=ranges(0, 10),
    class_mix=st.tuples(numbers(0.001, 10), *[numbers(0, 10)] * 4),
    column_counts=st.none() | ranges(1e-3, 1e9),
    poisson_lambda=ranges(0, 1e6),
    bits=st.lists(st.sampled_from([8, 16]), min_size=1).map(tuple),
)
recipes = st.builds(
    Recipe,
    scene=st.builds(
        SceneSettings,
        a_px=numbers(4, 400),
        vacuum=st.sampled_from(["none", "edge", "hole"]),
        material=st.sampled_from(sorted(MATERIALS)),
    ),
    noise=st.builds(NoiseSettings, poisson_lambda=numbers(0, 1e6), bits=st.sampled_from([8, 16])),
    microscope=microscopes,
    seed=st.integers(0),
)


@pytest.mark.parametrize("suffix", [".toml", ".json", ".TOML"])
@given(written=sets | recipes)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_read_is_what_was_written(tmp_path, suffix, written):
    path = tmp_path / f"mine{suffix}"
    write_settings(path, written, overwrite=True)
    assert make_settings(type(written), read_settings(path), "mine") == written
    if isinstance(written, TrainingSetSettings):
        assert load_settings(path) == written
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_readable_files(tmp_path, preset):
    path = tmp_path / "mine.toml"
    write_settings(path, PRESETS[preset])
    lines = path.read_text().splitlines()
    assert f'preset = "{preset}"' in lines
    assert "[microscope]" in lines
    assert ('column_counts = "none"' in lines) == (PRESETS[preset].column_counts is None)


def test_a_file_need_not_say_everything(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "paper-cnn1"\nseed = 7\na_px = [20, 22]\n')
    expected = PRESETS["paper-cnn1"].model_copy(update={"seed": 7, "a_px": (20.0, 22.0)})
    assert load_settings(path) == expected
    assert load_settings(path, "wide").materials == PRESETS["wide"].materials
    path.write_text("seed = 7\n[microscope]\nenergy_ev = 60e3\n")
    read = load_settings(path)
    assert read.microscope == MicroscopeSettings(energy_ev=60e3)
    assert read.model_copy(update={"microscope": MicroscopeSettings()}) == PRESETS[
        "wide"
    ].model_copy(update={"seed": 7})


def test_materials_are_read_as_they_are_typed(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('materials = ["mote2", "2H-WS₂"]\n', encoding="utf-8")
    assert load_settings(path).materials == ("MoTe2", "WS2")
    path.write_text('materials = ["MoTe2", "graphene"]\n')
    with pytest.raises(PointDefectsError, match="unknown material 'graphene'"):
        load_settings(path)


def test_a_sets_record_is_a_settings_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"program": "0.1.0", "seed": 3}')
    assert load_settings(path).seed == 3


def test_files_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 5\r\n")
    assert read_settings(path) == {"seed": 5}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("mine.toml", b"seed = ", "cannot read settings from .*mine.toml"),
        ("mine.json", b"{", "cannot read settings from .*mine.json"),
        ("mine.json", b"[1]", "must be a JSON object"),
        ("mine.toml", b"\xff\xfe\x00", "cannot read settings"),
        ("mine.toml", b"speed = 3", "mine.toml: speed: Extra"),
        ("mine.toml", b"seed = -1", "mine.toml: seed: Input should be greater"),
        ("mine.toml", b"shear = [0.0, 0.9]", "shear.1: Input should be less"),
        ("mine.toml", b"a_px = [30.0, 20.0]", "a_px: 30 to 20 is not a possible range"),
        ("mine.toml", b"[microscope]\nenergy_ev = nan", "microscope.energy_ev"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PointDefectsError, match=match):
        load_settings(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(PointDefectsError, match="cannot read settings"):
        read_settings(tmp_path / "none.toml")


def test_settings_are_not_overwritten_unasked(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = 1\n")
    with pytest.raises(PointDefectsError, match="exists"):
        write_settings(path, PRESETS["wide"])
    assert path.read_text() == "seed = 1\n"
    write_settings(path, PRESETS["wide"], overwrite=True)
    assert load_settings(path) == PRESETS["wide"]


def test_only_toml_and_json_are_written(tmp_path):
    with pytest.raises(PointDefectsError, match=r"end the name in \.toml or \.json"):
        write_settings(tmp_path / "mine.yaml", PRESETS["wide"])
    assert not list(tmp_path.iterdir())
