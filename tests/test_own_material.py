"""A material of one's own through everything: add, simulate, train, analyze, label."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_point_defects import cli, material_files, materials
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.labels.exchange import export_labels, import_labels
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.lattice import find_lattice
from napari_point_defects.lattice_sites import expected_brightness_ratio
from napari_point_defects.materials import (
    MATERIALS,
    define_material,
    get_material,
    own_definitions,
)
from napari_point_defects.outputs import write_json
from napari_point_defects.own_materials import add_material, remove_material
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.retraining.apart import retrain_apart
from napari_point_defects.retraining.settings import RetrainSettings
from napari_point_defects.simulation import columns as columns_module
from napari_point_defects.simulation.columns import (
    MicroscopeSettings,
    cache_folder,
    columns_are_known,
    load_columns,
)
from napari_point_defects.simulation.images import simulate_image
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.presets import PRESETS, TrainingSetSettings, load_settings
from napari_point_defects.simulation.process import make_set_apart
from napari_point_defects.simulation.recipes import Recipe, simulate_recipe
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.simulation.sets import find_set, simulate_training_set
from napari_point_defects.training_set import TrainingSet
from napari_point_defects.weights import load_weights
from napari_point_defects.weights.trained_on import (
    materials_to_replay,
    shipped_materials,
    trained_materials,
    untrained_warning,
    with_current_warning,
)

NBSE2 = define_material("Nb", "Se", 0.3442, 0.3337, "a test")
GUIDE = Path(__file__).parents[1] / "docs" / "own_material.md"


@pytest.fixture
def multislice(monkeypatch, tmp_path):
    """abTEM replaced: what is asked for, answered with MoSe₂'s columns."""
    monkeypatch.setenv("POINT_DEFECTS_CACHE", str(tmp_path / "cache"))
    asked = []

    def simulate(material, microscope):
        asked.append((material, microscope))
        return load_columns(MATERIALS["MoSe2"])

    monkeypatch.setattr(columns_module, "simulate_columns", simulate)
    return asked


@pytest.fixture
def nbse2(multislice):
    """NbSe₂ added, its columns in the cache."""
    add_material(NBSE2)
    load_columns(NBSE2)
    multislice.clear()
    return NBSE2


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the program as its entry point does; return its exit code and what it wrote."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["point-defects", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capfd.readouterr()

    return command


def small_set(**changes):
    values = {
        "materials": ("NbSe2",),
        "side_a": 6.0,
        "a_px": (12.0, 12.0),
        "train_images": 2,
        "validation_images": 1,
        "vacuum_share": 0.0,
        "defect_rate": (0.2, 0.3),
    }
    return TrainingSetSettings(**(values | changes))


def field(material, seed=3, **changes):
    """A simulated image and its scene."""
    scene = SceneSettings(material=material, height_px=200, width_px=200, a_px=20, angle_deg=13)
    noise = NoiseSettings(poisson_lambda=60, bits=16)
    recipe = Recipe(scene=scene.model_copy(update=changes), noise=noise, seed=seed)
    return simulate_recipe(recipe)


# --- the command line ------------------------------------------------------------------------


def test_add_list_remove(run, multislice, materials_toml):
    code, out, _ = run("materials", "add", "NbSe2", "--a", "0.3442", "--source", "Marezio 1972")
    assert (code, materials_toml.is_file()) == (0, True)
    assert "estimated" in out
    code, out, _ = run("materials", "list")
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
    assert list(rows) == [*MATERIALS, "NbSe2"]
    assert re.search(r"0\.3442 .*0\.1987 .*0\.10260 .*not yet .*not trained on it", rows["NbSe2"])
    assert "Marezio 1972" in rows["NbSe2"]
    assert re.search(r"shipped │ trained on it", rows["WTe2"])
    load_columns(get_material("NbSe2"))
    assert "simulated" in run("materials", "list")[1]
    assert run("materials", "remove", "NbSe2")[0] == 0
    with pytest.raises(PointDefectsError, match="unknown material"):
        get_material("NbSe2")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["add", "NbSe2", "--a", "3.442"], "3.442 nm is not possible.*1 nm is 10 Å"),
        (["add", "NbSe2", "--a", "0.3442", "--x-x", "1.2"], "X–X distance of 1.2 nm"),
        (["add", "NbSe2", "--a", "nan"], "lattice constant is missing or no number"),
        (["add", "MoSSe", "--a", "0.32"], "Janus layers MXY are not supported"),
        (["add", "QqSe2", "--a", "0.32"], "metal 'Qq' is no element"),
        (["add", "SeNb2", "--a", "0.32"], "write the metal first"),
        (["add", "MoS2", "--a", "0.32"], "MoS2 is shipped, with a = 0.316 nm"),
        (["remove", "MoS2"], "MoS2 is shipped"),
        (["remove", "NbSe2"], "'NbSe2' is not in .*: your own materials are none"),
    ],
)
def test_mistakes_are_answered_in_one_line(run, materials_toml, arguments, match):
    code, _, err = run("materials", *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert re.search(match, err)
    assert not materials_toml.exists()


def test_another_file_for_one_command(run, materials_toml, tmp_path):
    other = tmp_path / "project.toml"
    assert run("--material-file", other, "materials", "add", "TaS2", "--a", "0.3314")[0] == 0
    assert not materials_toml.exists()
    assert "TaS2" in run("--material-file", other, "materials", "list")[1]
    assert "TaS2" not in run("materials", "list")[1]


# --- the guide -------------------------------------------------------------------------------

SMALLER = {
    "--images": "2",
    "--validation-images": "1",
    "--epochs": "1",
    "--images-per-epoch": "2",
}


def guide_commands():
    """The commands of the guide, in order, with sizes for a test."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["point-defects"]:
            pairs = zip(["", *words], words, strict=False)
            yield [SMALLER.get(before, word) for before, word in pairs][1:]


@pytest.mark.slow
def test_the_guide_works(run, multislice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = list(guide_commands())
    assert [c[0] for c in commands] == ["materials", "materials", "simulate", "train", "analyze"]
    for command in commands:
        if command[0] == "simulate":
            # small images, and columns that need no abTEM: not what the guide is about
            load_columns(get_material("NbSe2"))
            Path("small.toml").write_text("side_a = 6.0\na_px = [12.0, 12.0]\n")
            command += ["--settings", "small.toml", "--workers", "1"]
        if command[0] == "train":
            command += ["--device", "cpu"]
        if command[0] == "analyze":
            tifffile.imwrite("image.tif", field("NbSe2")[0])
        code, _, err = run(*command)
        assert code == 0, err
    assert "learned NbSe2" not in err
    assert "the detector learned MoTe2" in err  # it was not trained, and needs no training
    card = load_weights("classifier", Path("nbse2/classifier-compact.safetensors")).card
    assert card["training_set"]["material_definitions"][0]["lattice_constant_nm"] == 0.3442
    census = json.loads(Path("results/image_census.json").read_text())
    assert census["material_definition"] == get_material("NbSe2").definition()
    assert census["lattice"]["a_nm"] == pytest.approx(0.3442)
    assert set(census["classes"]) == {
        "Perfect", "V_Se1", "V_Se2", "V_Nb", "V_Se1+V_Nb", "V_Se2+V_Nb",
    }  # fmt: skip
    assert set(census["vacancies"]) == {"Se", "Nb"}


# --- analysis --------------------------------------------------------------------------------


def test_analysis_uses_its_lattice_constant_and_says_it_is_new(run, nbse2, tmp_path):
    image, scene = field("NbSe2")
    tifffile.imwrite(tmp_path / "field.tif", image)
    code, _, err = run("analyze", tmp_path / "field.tif", "--material", "nbse2", "-o", tmp_path)
    assert code == 0
    assert re.search("detector and the classifier learned MoTe2, .* not NbSe2: .*own_material", err)
    census = json.loads((tmp_path / "field_census.json").read_text())
    assert census["material"] == "NbSe2"
    assert census["pixel_size_nm"] == pytest.approx([0.3442 / 20] * 2, rel=2e-3)
    assert census["area_nm2"] == pytest.approx(census["n_cells"] * nbse2.cell_area_nm2)
    assert any("not NbSe2" in warning for warning in census["warnings"])
    share = (scene.classes > 0).mean()
    assert census["defects"]["fraction"] == pytest.approx(share, abs=0.02)


def test_no_warning_for_what_was_learned():
    both = {"detector": None, "classifier": None}
    assert set(shipped_materials()) == set(MATERIALS)
    assert not any(untrained_warning(formula, both) for formula in MATERIALS)


@pytest.mark.parametrize(
    ("record", "known"),
    [
        ({"materials": ["MoS2", "NbSe2"]}, ("MoS2", "NbSe2")),
        ({"sets": [{"materials": ["WS2"]}, {"materials": ["WS2", "MoS2"]}]}, ("WS2", "MoS2")),
        ({"sets": [{"materials": ["WS2"]}], "materials": ["NbSe2"]}, ("NbSe2", "WS2")),
        ({}, ()),
        (None, ()),
    ],
)
def test_what_a_card_says_was_learned(tmp_path, record, known):
    assert trained_materials({"training_set": record}) == known
    write_json({"training_set": record}, tmp_path / "mine.json")
    warning = untrained_warning("NbSe2", {"classifier": tmp_path / "mine.safetensors"})
    assert bool(warning) == (bool(known) and "NbSe2" not in known)


def test_the_warning_is_that_of_the_weights_in_use(tmp_path):
    write_json({"training_set": {"materials": ["NbSe2"]}}, tmp_path / "mine.json")
    shipped = {"detector": None, "classifier": None}
    mine = {"detector": None, "classifier": tmp_path / "mine.safetensors"}
    first = with_current_warning(["a stretch"], "NbSe2", shipped)
    assert re.match("the detector and the classifier learned", first[1])
    later = with_current_warning(first, "NbSe2", mine)
    assert later[0] == "a stretch"
    assert re.match("the detector learned", later[1])
    assert len(later) == 2
    assert with_current_warning(later, "MoTe2", shipped) == ["a stretch"]


def test_what_was_learned_is_replayed():
    assert materials_to_replay(None) == materials_to_replay({"training_set": {}})
    assert materials_to_replay(None) == tuple(MATERIALS)
    own = {"materials": ["NbSe2", "MoS2"], "material_definitions": [NBSE2.definition()]}
    card = {"training_set": {"sets": [own], "labels": {"images": 2}, "materials": ["WS2"]}}
    assert materials_to_replay(card) == ("WS2", "NbSe2", "MoS2")
    assert get_material("NbSe2") == NBSE2


@pytest.mark.slow
def test_a_window_trains_on_a_set_of_somebody_elses(nbse2, tmp_path):
    simulate_training_set(small_set(), tmp_path / "set", workers=1)
    remove_material("NbSe2")
    settings = RetrainSettings(
        data=(tmp_path / "set",), epochs=1, images_per_epoch=2, validation_images=1,
        device="cpu", loader_workers=0,
    )  # fmt: skip
    done = retrain_apart(settings, tmp_path / "run")
    assert trained_materials(done.weights.card) == ("NbSe2",)
    materials._adopted.clear()
    materials_to_replay(done.weights.card)
    assert get_material("NbSe2") == nbse2


@pytest.mark.parametrize(
    ("pair", "a_nm", "ratio"),
    # from the palest X to the brightest: from W and S, past equal columns, to Sc and Te
    [("HfS", 0.3622, 0.16), ("WTe", 0.355, 1.1), ("TiSe", 0.354, 4.2), ("ScTe", 0.38, 9.3)],
)
def test_sites_are_named_rightly_however_bright_x_is(pair, a_nm, ratio):
    material = define_material(*re.findall("[A-Z][a-z]?", pair), a_nm)
    assert expected_brightness_ratio(material) == pytest.approx(ratio, rel=0.1)
    rng = np.random.default_rng(5)
    true = Lattice(np.array([90.0, 91.0]), 18.0 * np.eye(2))
    steps = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 2), -1).reshape(-1, 2)
    nodes = steps @ materials.LATTICE_VECTORS
    y, x = np.mgrid[:180, :180]
    image = np.zeros((180, 180))
    heights = {"X": ratio, "M": 1.0}
    for kind, site in (("X", materials.CHALCOGEN_SITES[0]), ("M", materials.METAL_SITES[0])):
        for cy, cx in true.to_image(nodes + site):
            if -20 < cy < 200 and -20 < cx < 200:
                image += heights[kind] * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 3.2**2))
    image = rng.poisson(60 * image / image.max())
    found = find_lattice(image.astype(np.float32), material)
    # a hollow stays a hollow, and X is where X is: both up to whole steps of the lattice
    for site in ([0.0, 0.0], materials.CHALCOGEN_SITES[0], materials.METAL_SITES[0]):
        there = true.to_canonical(found.to_image(np.array(site))) - site
        steps = there @ np.linalg.inv(materials.LATTICE_VECTORS)
        if ratio != 1.1:  # nearly equal columns cannot be told apart by their brightness
            assert steps == pytest.approx(np.rint(steps), abs=0.08)
    assert found.a_px == pytest.approx(18.0, rel=0.01)


# --- sets ------------------------------------------------------------------------------------


def test_a_set_says_what_its_formula_means(nbse2, tmp_path):
    settings = small_set()
    simulate_training_set(settings, tmp_path / "set", workers=1)
    record = json.loads((tmp_path / "set" / "settings.json").read_text())
    assert record["material_definitions"] == [nbse2.definition()]
    remove_material("NbSe2")  # as on another computer
    found = find_set(tmp_path / "set")
    assert found.is_whole
    assert found.settings == settings
    assert get_material("NbSe2") == nbse2
    assert load_settings(tmp_path / "set" / "settings.json") == settings
    images = TrainingSet(tmp_path / "set" / "train")
    assert images[0].material == "NbSe2"


def test_a_set_of_unknown_elements_can_still_be_learned(nbse2, tmp_path):
    simulate_training_set(small_set(), tmp_path / "set", workers=1)
    remove_material("NbSe2")
    assert TrainingSet(tmp_path / "set" / "train")[0].material == "NbSe2"


def test_a_set_of_other_lengths_is_not_resumed(nbse2, tmp_path):
    simulate_training_set(small_set(), tmp_path / "set", workers=1)
    add_material(define_material("Nb", "Se", 0.35, 0.3337), replace=True)
    with pytest.raises(PointDefectsError, match=r"made with NbSe2 of a = 0\.3442.*a = 0\.35 nm"):
        simulate_training_set(small_set(), tmp_path / "set", workers=1, resume=True)


def test_shipped_materials_leave_records_and_bytes_as_they_were(nbse2, tmp_path):
    settings = small_set(materials=("MoTe2", "WS2"), seed=8)
    simulate_training_set(settings, tmp_path / "set", workers=1)
    record = json.loads((tmp_path / "set" / "settings.json").read_text())
    assert record.keys() == {"program", *TrainingSetSettings.model_fields}
    before = [simulate_image(PRESETS["wide"].model_copy(update=SMALL), 0, i) for i in range(2)]
    remove_material("NbSe2")
    after = [simulate_image(PRESETS["wide"].model_copy(update=SMALL), 0, i) for i in range(2)]
    for one, other in zip(before, after, strict=True):
        assert one.pixels.tobytes() == other.pixels.tobytes()
        assert one.material == other.material


SMALL = {"side_a": 6.0, "a_px": (12.0, 12.0)}


def test_processes_know_what_this_one_knows(multislice, tmp_path, monkeypatch):
    # adopted from a file: neither the environment nor the user's file tells the processes of it
    materials.adopt_definitions([NBSE2.definition()], "a test")
    load_columns(NBSE2)
    counts = simulate_training_set(small_set(), tmp_path / "spawned", workers=2)
    apart = make_set_apart(small_set(), tmp_path / "apart", workers=1)
    np.testing.assert_array_equal(counts, apart)
    for name in ("spawned", "apart"):
        record = json.loads((tmp_path / name / "settings.json").read_text())
        assert record["material_definitions"] == [NBSE2.definition()]
    one, other = (tmp_path / n / "train" / "annotations.json" for n in ("spawned", "apart"))
    assert one.read_bytes() == other.read_bytes()


def test_a_file_changed_meanwhile_is_nothing_to_a_process():
    code = (
        "from napari_point_defects import materials as m\n"
        f"m.pin_materials([{NBSE2.definition()!r}])\n"
        "print(m.get_material('NbSe2').lattice_constant_nm, len(m.known_materials()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.3442", "7"]


def test_saved_settings_carry_the_definition(run, nbse2, tmp_path):
    for name in ("mine.toml", "mine.json"):
        code, _, err = run("simulate", "--material", "nbse2", "--save-settings", tmp_path / name)
        assert code == 0, err
    remove_material("NbSe2")
    for name in ("mine.toml", "mine.json"):
        assert load_settings(tmp_path / name).materials == ("NbSe2",)
        assert own_definitions(["NbSe2"]) == [nbse2.definition()]


def test_columns_do_not_depend_on_the_lattice_constant(nbse2, multislice):
    wider = define_material("Nb", "Se", 0.36, 0.3337, "another paper")
    assert columns_are_known(wider, MicroscopeSettings())
    load_columns(wider)
    assert multislice == []
    thicker = define_material("Nb", "Se", 0.3442, 0.36)
    load_columns(thicker)
    assert [m.chalcogen_distance_nm for m, _ in multislice] == [0.36]
    assert len(list(cache_folder().glob("*NbSe2*.json"))) == 2


def test_columns_of_a_changed_material_are_not_mixed_up(nbse2):
    first = field("NbSe2")[1].pair_volume_px
    add_material(define_material("Nb", "Se", 0.4, 0.36), replace=True)
    load_columns(get_material("NbSe2"))
    # the same pixels per lattice constant are larger pixels: fewer of them see the column
    assert field("NbSe2")[1].pair_volume_px < 0.85 * first


# --- labels ----------------------------------------------------------------------------------


def test_labels_are_understood_where_the_material_is_not_known(nbse2, tmp_path, materials_toml):
    image, scene = field("NbSe2")
    stem = StemImage(image.astype(np.float32), "field")
    with LabelStore(tmp_path / "mine") as store:
        entry = store.register(
            stem, material="NbSe2", lattice=scene.lattice, pixel_size_nm=None,
            pixel_size_source="lattice",
        )  # fmt: skip
        export_labels(store, tmp_path / "sent")
    remove_material("NbSe2")
    with LabelStore(tmp_path / "theirs") as store:
        import_labels(store, tmp_path / "sent")
        assert [found.material for found in store.images()] == ["NbSe2"]
    assert get_material("NbSe2") == nbse2
    assert get_material("NbSe2").class_labels[4] == "V_Se1+V_Nb"
    materials._adopted.clear()
    with LabelStore(tmp_path / "mine", create=False) as store:
        assert store.images()[0].sha256 == entry.sha256
    assert get_material("NbSe2") == nbse2
    # what the user has added since then is left alone
    add_material(define_material("Nb", "Se", 0.35))
    with LabelStore(tmp_path / "mine", create=False) as store:
        store.images()
    assert get_material("NbSe2").lattice_constant_nm == 0.35


# --- the file --------------------------------------------------------------------------------


def test_the_file_may_be_written_by_hand(materials_toml):
    materials_toml.parent.mkdir()
    text = '# mine\n[[material]]\nmetal = "ta"\nchalcogen = "S"\nlattice_constant_nm = 0.3314\n'
    materials_toml.write_text(text)
    assert get_material("TaS2").chalcogen_distance_nm == pytest.approx(0.312, rel=0.02)
    add_material(NBSE2)
    assert materials_toml.read_text(encoding="utf-8").startswith(text)
    assert list(materials.own_materials()) == ["TaS2", "NbSe2"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[[material]\n", "cannot read materials from .*materials.toml"),
        ("a = 3\n", r"begin each material with a line \[\[material\]\]"),
        ('[[material]]\nmetal = "Nb"\n', "material 1: the chalcogen is missing"),
        ('[[material]]\nmetal = "Nb"\nchalcogen = "Se"\n', "the lattice constant is missing"),
        ('[[material]]\nname = "Nb"\n', "a material has no 'name'"),
        (
            '[[material]]\nmetal = "Mo"\nchalcogen = "S"\nlattice_constant_nm = 0.32\n',
            "MoS2 is shipped",
        ),
        (
            2 * '[[material]]\nmetal = "Nb"\nchalcogen = "S"\nlattice_constant_nm = 0.33\n',
            "NbS2 stands there twice",
        ),
    ],
)
def test_a_broken_file_harms_no_shipped_material(materials_toml, text, match):
    materials_toml.parent.mkdir()
    materials_toml.write_text(text)
    assert get_material("mos2") is MATERIALS["MoS2"]
    assert materials.definitions_to_pin() == []
    with pytest.raises(PointDefectsError, match=match) as caught:
        get_material("NbSe2")
    assert "\n" not in str(caught.value)
    assert materials_toml.read_text() == text


def test_one_taken_out_of_the_file_elsewhere_stays_known_here(materials_toml):
    add_material(NBSE2)
    assert get_material("NbSe2") == NBSE2
    materials_toml.write_text("# another program has emptied this\n")
    assert get_material("NbSe2") == NBSE2
    remove = pytest.raises(PointDefectsError, match="is not in")
    with remove:
        remove_material("NbSe2")


def test_where_the_file_lies(monkeypatch, tmp_path):
    monkeypatch.delenv(material_files.ENVIRONMENT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert material_files.materials_file().parent == tmp_path / "napari-point-defects"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert material_files.materials_file().is_relative_to(tmp_path / "me" / ".config")
