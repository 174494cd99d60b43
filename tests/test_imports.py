"""Imports point one way, and the core loads neither Qt nor napari."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import napari_point_defects

PACKAGE = "napari_point_defects"
ROOT = Path(napari_point_defects.__file__).parent
USER_INTERFACE = {"napari", "magicgui", "qtpy", "superqt", "PyQt5", "PyQt6", "PySide2", "PySide6"}

# DESIGN.md: a module may import from rows above its own, and from its own part of its own row.
ROWS = [
    {
        "analysed_area",
        "errors",
        "json_files",
        "material_files",
        "materials",
        "measured",
        "palettes",
        "records",
        "threads",
    },
    # what reads, writes and transforms records: these may use each other
    {
        "analysis_settings",
        "blurring",
        "calibration",
        "canonical",
        "cluster_worker",
        "clusters",
        "dask_workers",
        "bending_fields",
        "devices",
        "dm_files",
        "domains",
        "fitting",
        "folded_networks",
        "hdf5_files",
        "io",
        "lattice",
        "lattice_bending",
        "lattice_harmonics",
        "lattice_nodes",
        "lattice_search",
        "lattice_sites",
        "lattice_surface",
        "lattice_windows",
        "many_devices",
        "matching",
        "measured_quantities",
        "netcasting",
        "occupancy",
        "outputs",
        "own_materials",
        "profile_outputs",
        "profiles",
        "readers",
        "region",
        "region_limits",
        "review",
        "settings_files",
        "signals",
        "stacks",
        "tiff_files",
        "training_set",
        "training_set_journal",
        "training_set_survey",
        "training_views",
        "vision",
        "weights",
    },
    {"simulation", "measurement", "detection", "classification", "baselines", "labels"},
    {
        "census",
        "concentrations",
        "networks",
        "quality",
        "spatial_statistics",
        "strain",
        "structures",
    },
    {
        "appraisal",
        "batch",
        "detections",
        "evaluation",
        "image_matching",
        "image_twin",
        "movies",
        "pipeline",
        "report",
        "results",
        "retraining",
        "study",
        "study_figure",
        "training_check",
    },
    {"cli", "napari_ui"},
]
SIBLINGS = ROWS[2] | ROWS[5]
"""Parts that never import each other."""
OPENS_THE_WINDOW = ("cli", "napari_ui")
"""The one exception: ``demo`` ends in napari, and imports it only then."""


def run_fresh(code):
    """Run code in a new interpreter and return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


def modules():
    """Yield the part (first name below the package), dotted name and syntax tree of each module."""
    for path in sorted(ROOT.rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        if names[0] == "sample_data":
            continue
        yield names[0], ".".join((PACKAGE, *names)), ast.parse(path.read_text())


def imported(tree, *, top_level=False):
    """Yield the dotted names that a module imports; those of type checking alone left out."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(tree, **options):
    """Return the parts of this package that a module imports."""
    names = (name.split(".") for name in imported(tree, **options))
    return {name[1] for name in names if name[0] == PACKAGE and len(name) > 1}


def row_of(part):
    return next(i for i, row in enumerate(ROWS) if part in row)


def test_importing_the_package_loads_next_to_nothing():
    loaded = run_fresh(f"import {PACKAGE}, sys, json; print(json.dumps(sorted(sys.modules)))")
    heavy = USER_INTERFACE | {"torch", "torchvision", "lightning", "numpy", "abtem", "matplotlib"}
    assert PACKAGE in loaded
    assert not heavy & set(loaded)


def test_the_command_line_starts_without_torch():
    loaded = run_fresh(f"import {PACKAGE}.cli, sys, json; print(json.dumps(sorted(sys.modules)))")
    heavy = {"torch", "lightning", "abtem", "dask", "distributed", "pyarrow"}
    assert not (USER_INTERFACE | heavy) & set(loaded)


def test_the_whole_core_loads_no_user_interface():
    names = [name for part, name, _ in modules() if part not in ("napari_ui", "__init__")]
    names = [name.removesuffix(".__init__") for name in names]
    assert len(names) > 25
    code = (
        f"import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = set(run_fresh(code))
    assert set(names) <= loaded
    assert not USER_INTERFACE & loaded
    # only a simulation of new columns needs it
    assert "abtem" not in loaded


@pytest.mark.parametrize(
    ("part", "name", "tree"), [pytest.param(*m, id=m[1]) for m in modules() if m[0] != "__init__"]
)
def test_imports_point_one_way(part, name, tree):
    for other in own_parts(tree) - {part, "__version__", "errors"}:
        if (part, other) == OPENS_THE_WINDOW:
            continue
        assert other in set().union(*ROWS), f"{other} has no place in the design"
        assert row_of(other) <= row_of(part), f"{name} imports {other}"
        if part in SIBLINGS:
            assert other not in SIBLINGS or row_of(other) < row_of(part), f"{name} imports {other}"


def test_every_module_has_a_place():
    parts = {part for part, _, _ in modules()} - {"__init__"}
    places = set().union(*ROWS)
    assert parts <= places
    assert places == parts


def test_only_the_user_interface_imports_qt_and_napari():
    users = set()
    for part, name, tree in modules():
        if {n.split(".")[0] for n in imported(tree)} & USER_INTERFACE:
            assert part == "napari_ui", name
            users.add(name)
    assert len(users) > 5


def test_only_the_simulation_of_columns_imports_abtem():
    users = {
        name for _, name, tree in modules() if "abtem" in {n.split(".")[0] for n in imported(tree)}
    }
    assert users == {f"{PACKAGE}.simulation.columns"}


def test_nothing_imports_the_command_line_or_the_panels():
    for part, name, tree in modules():
        parts = own_parts(tree)
        assert part == "cli" or "cli" not in parts, name
        if part == "cli":
            assert "napari_ui" not in own_parts(tree, top_level=True)
        elif part != "napari_ui":
            assert "napari_ui" not in parts, name


def test_modules_of_a_row_do_not_import_each_other_in_circles():
    graph = {}
    for part, _, tree in modules():
        graph.setdefault(part, set()).update(own_parts(tree) & set().union(*ROWS) - {part})
    graph.pop("__init__")
    graph["cli"].discard("napari_ui")
    while graph:
        leaves = {part for part, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {part: needs for part, needs in graph.items() if part not in leaves}
