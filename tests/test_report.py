"""The report: one page that holds everything, loads nothing, and opens in a browser."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from napari_point_defects import weights
from napari_point_defects.census import census_dict, take_census
from napari_point_defects.concentrations import class_shares
from napari_point_defects.detections import Analysis, Detection
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.labels.images import content_hash
from napari_point_defects.materials import CLASS_COLOURS, DefectClass, get_material
from napari_point_defects.measurement.image import nothing_measured
from napari_point_defects.records import StemImage
from napari_point_defects.report import sections
from napari_point_defects.report.markup import element, scientific, table
from napari_point_defects.report.plots import histogram, histogram_svg
from napari_point_defects.report.writing import report_path, report_paths, write_report

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
EVIL = '<script>alert("x")</script> & "co'
CARD = json.loads(weights.SHIPPED["classifier"].with_suffix(".json").read_text())
VERSION = f"classifier-compact@{CARD['sha256'][:12]}"


class Page(HTMLParser):
    """Tags, attributes and texts of a page, and whether every element is closed in its turn."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, heading):
        """Return the first row that begins so, its spaces plain."""
        plain = [[cell.replace("\xa0", " ").strip() for cell in row] for row in self.rows]
        return next(row for row in plain if row and row[0] == heading)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def analysis(stem_data, lattice, hexagons, cells, tmp_path):
    """An analysis with an image's name that would do harm if it were not escaped."""
    material = get_material("MoTe2")
    image = StemImage(stem_data.astype(np.float32), "field", path=tmp_path / "gone.tif")
    census = census_dict(
        take_census(cells, lattice, material, (0.01, 0.01)),
        lattice,
        (0.01, 0.01),
        "lattice",
        warnings=[f"odd: {EVIL}"],
        weights={"detector": "detector-compact@0", "classifier": VERSION},
        versions={"napari-point-defects": "0.1.0"},
        settings={"image": EVIL, "unsure_below": 0.95, "alpha": 0.65, "classifier_weights": None},
        estimates=class_shares(cells.probabilities, np.full(6, 1 / 6)),
    )
    detection = Detection(lattice, hexagons, (0.01, 0.01), "lattice")
    measured = nothing_measured((2.5, 4.2), "too few cells to measure")
    return Analysis(image, detection, cells, census, measured)


@pytest.fixture
def page(analysis, tmp_path):
    paths = write_report(analysis, tmp_path / "r.html", when=WHEN, decided={"corrected": 2})
    return Page(paths["report"].read_text(encoding="utf-8"))


def test_everything_is_on_the_page(page, analysis, cells):
    census = analysis.census
    counts = np.bincount(cells.classes, minlength=6)
    for label, count in zip(get_material("MoTe2").class_labels, counts, strict=True):
        row = page.row(label)
        assert row[1] == f"{count:,}"
        found = census["classes"][label]
        assert row[4] == scientific(found["density_per_cm2"]).replace("\xa0", " ")
        low, high = found["density_per_cm2_interval95"]
        assert row[5] == scientific(low, high).replace("\xa0", " ")
    assert page.row("all defects")[1] == str(census["defects"]["count"])
    assert f"Analysed area: {census['area_nm2']:,.2f} nm²" in page.text
    assert "written 2026-01-02 03:04 UTC" in page.text
    assert "2 corrected" in page.text
    assert page.row("SHA-256 of the pixels")[1] == content_hash(analysis.image.data)
    assert page.row("SHA-256 of the file")[1] == "the file is not there any more"
    assert page.row("α") == [
        "α",
        "0.65",
        "Width of the paper's crop of a unit cell over its hexagon's",
    ]
    assert page.row("weights, classifier")[1] == VERSION
    assert page.row("napari-point-defects")[1] == "0.1.0"
    assert "too few cells to measure" in page.text


def test_the_confusion_matrix_is_the_model_cards(page):
    matrix = np.array(CARD["metrics"]["val_confusion"])
    rows = [row for row in page.rows if len(row) == 8 and row[-1].strip() != "cells"]
    shown = np.array([[float(x) for x in row[1:7]] for row in rows[-6:]])
    assert np.allclose(shown, 100 * matrix / matrix.sum(axis=1, keepdims=True), atol=0.051)
    assert f"{matrix.sum():,} cells held out" in page.text


@pytest.mark.parametrize(
    "card",
    [
        None,
        {},
        {"metrics": {}},
        *({"metrics": {"val_confusion": odd}} for odd in ([[1]], "no", [[np.nan] * 6] * 6)),
    ],
)
def test_a_card_without_a_matrix_is_said(card):
    assert sections.confusion_of(card, 6) is None
    text = sections.classifier_section(card, "w@1", ["a"] * 6, ["#000000"] * 6)
    assert "holds no confusion matrix" in text


def test_weights_that_changed_since_lend_no_matrix(analysis, tmp_path):
    analysis.census["weights"]["classifier"] = "classifier-compact@other"
    paths = write_report(analysis, tmp_path / "r.html")
    assert "holds no confusion matrix" in paths["report"].read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_nothing(page):
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            value = attributes.get(name, "")
            assert not re.match(r"(?i)(https?|ftp|file|javascript):|//", value)
    (image,) = page.all("img")
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert image["alt"]
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")


def test_what_is_not_ours_is_escaped(page, tmp_path, analysis):
    assert EVIL in page.text
    named = replace(analysis, image=replace(analysis.image, name=EVIL, path=None))
    text = write_report(named, tmp_path / "evil.html")["report"].read_text(encoding="utf-8")
    assert "<script" not in text
    assert EVIL in Page(text).text


def test_links_lead_to_the_data_beside_the_page(tmp_path, analysis, cells):
    odd = tmp_path / "a: b%20#?&.html"
    paths = write_report(analysis, odd)
    hrefs = [a["href"] for a in Page(odd.read_text(encoding="utf-8")).all("a")]
    assert {(tmp_path / unquote(href)).resolve() for href in hrefs} == {
        p for kind, p in paths.items() if kind != "report"
    }
    assert all(href.startswith("./") for href in hrefs)
    assert set(paths) == {"report", "cells", "census", "overlay", "columns"}
    columns = pd.read_csv(paths["columns"])
    assert len(columns) == len(pd.read_csv(paths["cells"])) == len(cells)
    whole = columns["chalcogen_intensity"][cells.classes == DefectClass.PERFECT]
    assert abs(whole.median() - 1) < 0.1
    assert json.loads(paths["census"].read_text())["n_cells"] == len(cells)


def test_data_that_are_there_are_linked_and_not_written_again(tmp_path, analysis):
    first = write_report(analysis, tmp_path / "one" / "r.html")
    data = {kind: first[kind] for kind in ("cells", "census", "overlay")}
    page = tmp_path / "two" / "r.html"
    second = write_report(analysis, page, written=data)
    assert sorted(p.name for p in page.parent.iterdir()) == ["r.html", "r_columns.csv"]
    assert second["cells"] == first["cells"]
    hrefs = [a["href"] for a in Page(page.read_text(encoding="utf-8")).all("a")]
    assert "../one/r_cells.csv" in hrefs


def test_nothing_is_overwritten_unasked_and_nothing_is_left_half_done(
    tmp_path, analysis, monkeypatch
):
    path = tmp_path / "r.html"
    for target in report_paths(path).values():
        target.write_text("mine")
        with pytest.raises(PointDefectsError, match="exists"):
            write_report(analysis, path)
        assert target.read_text() == "mine"
        target.unlink()
    with pytest.raises(Stopped):
        write_report(analysis, path, should_stop=lambda: True)
    monkeypatch.setattr(sections, "headline", lambda census: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(analysis, path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PointDefectsError, match=r"ends in \.html"):
        report_path("report.pdf")


def test_histograms_count_every_cell_that_is_seen():
    values = np.array([0.1, 0.1, 0.9, np.nan, 7.0, -3.0])
    classes = np.array([0, 1, 0, 0, 1, 1])
    found = histogram(values, classes, np.linspace(0, 1, 11), 2, title="t", x_label="x")
    assert found.counts.sum(axis=1).tolist() == [2, 3]
    assert found.counts[1, [0, 1, 9]].tolist() == [1, 1, 1]
    page = Page(histogram_svg(found, ["#000000", "#ffffff"], ["a", "b"]))
    assert [p["fill"] for p in page.all("polygon")] == ["#ffffff", "#000000"]  # the rarer in front
    assert "b: 3 cells" in page.text
    empty = histogram(values[:0], classes[:0], np.linspace(0, 1, 3), 2, title="t", x_label="x")
    assert not Page(histogram_svg(empty, ["#0", "#1"], ["a", "b"])).all("polygon")


def test_numbers_are_written_as_people_read_them():
    plain = [scientific(*v).replace("\xa0", " ") for v in [(5.147e13,), (0, 4.4e12), (0,), (0, 0)]]
    assert plain == ["5.15 × 10¹³", "0 – 4.40 × 10¹²", "0", "0 – 0"]
    assert scientific(float("nan")) == "–"
    assert element("p", "a<b", class_="x", id=None) == '<p class="x">a&lt;b</p>'
    page = Page(table(("a", "b"), [["x", "1"], ["all", "2"]], totals=1))
    assert [tr.get("class") for tr in page.all("tr")] == [None, None, "total"]


def test_it_opens_in_a_browser(tmp_path, analysis):
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("needs Chromium")
    path = write_report(analysis, tmp_path / "r.html")["report"]
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000",
    ]  # fmt: skip
    shown = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{scheme}.png"
        done = subprocess.run(
            [*command, f"--blink-settings=preferredColorScheme={number}", f"--screenshot={picture}",
             "--window-size=1000,1600", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert picture.is_file(), done.stderr[-500:]
        from PIL import Image

        with Image.open(picture) as image:
            shown[scheme] = np.asarray(image.convert("RGB")).astype(int)
    # the paper, top left, follows the user's scheme; the picture in the page is drawn in both
    assert shown["dark"][5, 5].max() < 60
    assert shown["light"][5, 5].min() > 240
    red = np.array([int(CLASS_COLOURS[DefectClass.V_X1][i : i + 2], 16) for i in (1, 3, 5)])
    for pixels in shown.values():
        assert (np.abs(pixels - red).sum(axis=-1) < 60).sum() > 50
    # what the browser makes of it has the same rows
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert Page(done.stdout).rows == Page(path.read_text(encoding="utf-8")).rows
