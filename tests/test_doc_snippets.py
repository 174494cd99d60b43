"""Every command and snippet of the documentation is one that the program takes; quick ones run."""

import io
import shlex
import tomllib
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
import pytest
from doc_blocks import (
    PAGES,
    Wrong,
    blocks,
    check_command,
    check_inline,
    check_output,
    check_python,
    inline_codes,
    parse,
    shell_commands,
)
from typer.testing import CliRunner

from napari_point_defects.cli import app
from napari_point_defects.labels.store import LabelStore
from napari_point_defects.labels.tables import CELLS, POSITION_COLUMNS, complete, table_changes
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.simulation.presets import load_settings

QUICK = ("--version", "labels", "materials")
"""Commands that are run wherever a page gives them."""
LANGUAGES = {"bash", "python", "toml", "text"}
DIRECTIVES = ("{toctree}", "{eval-rst}", "{settings}", "{command-line}")


def of(language):
    """The blocks of a language, each with its page."""
    return [
        pytest.param(block, id=f"{page}-{n}")
        for page in PAGES
        for n, block in enumerate(blocks(page))
        if block.language == language
    ]


def test_there_are_pages_with_blocks():
    assert len(PAGES) > 20
    assert min(len(of("bash")), 2 * len(of("python")), 4 * len(of("toml"))) >= 8


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    languages = {block.language for block in blocks(page)}
    assert {name for name in languages if name not in DIRECTIVES} <= LANGUAGES


@pytest.mark.parametrize("block", of("bash"))
def test_every_command_can_be_given(block):
    commands = list(shell_commands(block.text))
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_within_lines_exist(page):
    for code in inline_codes(page):
        check_inline(code)


@pytest.mark.parametrize("block", of("python"))
def test_every_snippet_finds_what_it_names(block):
    check_python(block.text)


@pytest.mark.parametrize("block", of("toml"))
def test_every_settings_file_is_one(block, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(block.text, encoding="utf-8")
    settings = load_settings(path)
    said = tomllib.loads(block.text)
    assert {name: settings.model_dump(mode="json")[name] for name in said} == said


# --- quick ones are run ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the labels of a project and the tables of a batch."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    image = StemImage(np.arange(4096, dtype=np.float32).reshape(64, 64), "field")
    with LabelStore(folder / "my-project") as store:
        entry = store.register(
            image,
            material="MoS2",
            lattice=Lattice(np.zeros(2), 20 * np.eye(2)),
            pixel_size_nm=None,
            pixel_size_source="none",
        )
        table = pd.DataFrame({"cell_id": [0, 1], "state": ["confirmed", "predicted"], "label": 1})
        table[list(POSITION_COLUMNS)] = [[3.0, 4, 5, 6], [23.0, 24, 25, 26]]
        table = complete(table.assign(predicted=1, votes=2, confidence=0.9), CELLS)
        nothing = complete(table.iloc[:0], CELLS)
        store.write(entry.id, cells=table_changes(nothing, table), author="ada")
    (folder / "results").mkdir()
    cells = pd.DataFrame({"image": ["a.tif"] * 3, "label": ["Perfect", "Perfect", "V_S1"]})
    cells.to_parquet(folder / "results" / "cells.parquet")
    return folder


def run(words):
    """Run the program in this process; return what it prints."""
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}\n{done.exception!r}"
    return done.stdout


def run_python(text):
    """Run a snippet; return what it prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(text, "<snippet>", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def is_quick(words):
    return words[0] == "point-defects" and (words[1] in QUICK or "--save-settings" in words)


def quick(page):
    """The quick commands of a page, in their order."""
    every = [b.text for b in blocks(page) if b.language == "bash"]
    return [words for text in every for words in shell_commands(text) if is_quick(words)]


@pytest.mark.parametrize("page", filter(quick, PAGES))
def test_quick_commands_do_what_they_should(page, folder):
    for words in quick(page):
        run(words[1:])


def test_some_commands_are_quick():
    assert sum(len(quick(page)) for page in PAGES) >= 7


def test_the_tables_of_a_batch_are_read_as_shown(folder):
    (block,) = (block for block in blocks("docs/batches.md") if block.language == "python")
    assert "Perfect    2" in run_python(block.text)


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    checked = 0
    for block in blocks("docs/tutorial.md"):
        printed = ""
        if block.language == "bash":
            for words in shell_commands(block.text):
                printed += run(words[1:]) if "demo" in words else ""
        elif block.language == "python":
            printed = run_python(block.text)
        if block.language != "text" and block.output:
            check_output(block.output, printed)
            checked += 1
    assert checked == 2
    assert (folder / "MoTe2_contaminated.tif").is_file()


@pytest.mark.slow
def test_the_snippet_of_the_python_pages_runs(folder):
    (block,) = (block for block in blocks("docs/api/index.md") if block.language == "python")
    assert "83." in run_python(block.text)


# --- what is wrong is found --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("point-defects analyse image.tif -o results", "No such command"),
        ("point-defects analyze image.tif --materials MoS2 -o results", "No such option"),
        ("point-defects analyze image.tif", "Missing option"),
        ("point-defects analyze -o results", "Missing argument"),
        ("point-defects analyze image.tif -o a --alpha wide", "Invalid value for .--alpha"),
        ("point-defects study one.tif two.tif -o results", "unexpected extra argument"),
        ("point-defects labels stats", "Missing argument"),
        ('pip install -e ".[gui]"', "no such extra: gui"),
        ("pip install napari-point-defects[batches]", "no such extra"),
        ("python -m benchmarks.nothing", "no module"),
        ("python -m benchmarks.accuracy --fast", "has no option --fast"),
        ("python docs/make_nothing.py", "is not there"),
        ("bash .ci/walk", "is not there"),
        ('pytest -m "not quick"', "no such marker: quick"),
        ("dask worker tcp://10.0.0.1:8786 --processes 2", "No such option"),
        ("dask nanny", "no such command"),
        ("frobnicate image.tif", "unknown program"),
        ("pip install -e . && point-defects analyse", "No such command"),
    ],
)
def test_a_wrong_command_is_found(line, match):
    *_, words = shell_commands(line)
    with pytest.raises(Wrong, match=match):
        check_command(words)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("--materials", "no command has the option"),
        ("train classifier --preset", "requires an argument"),
        ("materials forget NbSe2", "No such command"),
        ("point-defects movie FILE --doses 1", "No such option"),
    ],
)
def test_a_wrong_command_within_a_line_is_found(code, match):
    with pytest.raises(Wrong, match=match):
        check_inline(code)


@pytest.mark.parametrize(
    "code",
    ["point-defects movie FILE", "materials add … --replace", "point-defects COMMAND --help"],
)
def test_a_command_within_a_line_may_be_abbreviated(code):
    check_inline(code)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("print('", "unterminated"),
        ("import napari_point_defects.nothing", "No module named"),
        ("from napari_point_defects.io import read_images", "has no read_images"),
        ("import pandas as pd\npd.read_parquets('x')", "has no read_parquets"),
    ],
)
def test_a_wrong_snippet_is_found(text, match):
    with pytest.raises(Wrong, match=match):
        check_python(text)


@pytest.mark.parametrize(
    ("told", "printed"),
    [
        ("779 cells", "600 cells"),
        ("779 cells", "779 hexagons"),
        ("one\ntwo", "two\none"),
        ("V_Mo 1", "│ V_Mo │ 2 │"),
    ],
)
def test_output_that_is_not_printed_is_found(told, printed):
    with pytest.raises(Wrong, match="not printed"):
        check_output(told, printed)


def test_output_is_compared_without_frames_and_by_nearly_equal_numbers():
    check_output(
        "class   cells\n…\nV_Mo  1,000  4.0e+12", "┃ class ┃ cells ┃\n\n│ V_Mo │ 1003 │ 4.1e+12 │"
    )


def test_commands_are_told_apart():
    text = "a b \\\n    c  # why\n\npy -m venv x; .venv\\Scripts\\pip install y && $(z) d\n"
    assert [shlex.join(words) for words in shell_commands(text)] == [
        "a b c",
        "py -m venv x",
        ".venv/Scripts/pip install y",
        "d",
    ]


def test_parsing_does_nothing_and_tells_what_would_be_called(folder):
    assert parse(["analyze", "no-such-file.tif", "-o", "results"]) == ["analyze"]
    assert parse(["--material-file", "none.toml", "materials", "list"]) == ["list"]
