"""How to cite, what the workflows call, and what a source archive holds."""

import re
import tomllib
from datetime import date

import pytest
import yaml
from doc_blocks import PROJECT, ROOT, Wrong, check_command, shell_commands

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w.-]+/[\w.-]+@(v\d[\w.]*|release/v\d+|[0-9a-f]{40})")


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps():
    return [
        pytest.param(step, id=f"{path.stem}-{name}-{n}")
        for path in WORKFLOWS
        for name, job in loaded(path)["jobs"].items()
        for n, step in enumerate(job["steps"])
    ]


# --- CITATION.cff ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def citation():
    return loaded(ROOT / "CITATION.cff")


def test_the_citation_is_of_this_version(citation):
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]
    assert citation["message"]


def test_the_citation_names_the_paper(citation):
    (paper,) = citation["references"]
    assert paper["type"] == "article"
    assert paper["doi"] == "10.1039/d3mh01500a"
    assert (paper["year"], paper["volume"], paper["start"]) == (2024, 11, 747)
    assert all(set(author) == {"given-names", "family-names"} for author in paper["authors"])
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    flat = " ".join(page.replace("\n> ", " ").split())
    assert paper["title"] in flat
    assert paper["doi"] in flat
    assert all(author["family-names"] in flat for author in paper["authors"])


def test_the_changelog_has_a_section_for_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (when,) = re.findall(rf"^## {re.escape(PROJECT['version'])} \((.+)\)$", text, re.MULTILINE)
    assert when == "unreleased" or date.fromisoformat(when)


# --- workflows ---------------------------------------------------------------------------------


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == {"release", "test", "weekly"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_whole(path):
    workflow = loaded(path)
    assert workflow["name"] == path.stem
    assert workflow[True]  # YAML 1.1 reads "on" so
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        needs = job.get("needs", [])
        needs = {needs} if isinstance(needs, str) else set(needs)
        assert needs <= set(workflow["jobs"]), name
        assert job["runs-on"]


@pytest.mark.parametrize("step", steps())
def test_what_a_step_calls_exists(step):
    assert ("uses" in step) != ("run" in step)
    if "uses" in step:
        assert PINNED.fullmatch(step["uses"]), step["uses"]
        return
    for words in shell_commands(step["run"]):
        if words[0] not in ("test", "twine", "uv", "pip-audit"):
            check_command(words)


def test_a_step_that_calls_nothing_is_found():
    for line in ('python -m pip install -e ".[qt]"', "bash .ci/walk", "pytset"):
        with pytest.raises(Wrong):
            check_command(next(shell_commands(line)))


def test_the_matrix_holds_the_python_versions_that_are_promised():
    matrix = loaded(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]["strategy"][
        "matrix"
    ]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert set(promised) <= set(matrix["python"])
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert {"pyqt6"} | {each["qt"] for each in matrix["include"]} == {"pyqt6", "pyside6"}


def test_publishing_keeps_no_password():
    job = loaded(ROOT / ".github" / "workflows" / "release.yml")["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"}
    (publish,) = (step for step in job["steps"] if "pypi-publish" in step.get("uses", ""))
    assert "password" not in publish.get("with", {})


# --- manifest and source archive ----------------------------------------------------------------


def test_the_icon_is_in_the_package():
    package, _, name = loaded(ROOT / "napari.yaml")["icon"].partition(":")
    assert (ROOT / "src" / package / name).read_text(encoding="utf-8").startswith("<svg")


def test_the_source_archive_takes_what_the_wheel_and_the_tests_need():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    taken = build["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name.lstrip("/")).exists() for name in taken)
    needed = ["src", "tests", "sample_data", "napari.yaml", "hatch_build.py", "benchmarks", "docs"]
    assert {f"/{name}" for name in [*needed, "CITATION.cff", "CHANGELOG.md"]} <= set(taken)
