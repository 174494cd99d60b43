"""Movies of a known history: links, births, migration, rates, files and the command."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.cli import app
from napari_point_defects.domains.segmentation import find_domains
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.lattice import find_lattice, turn_between, turned_like
from napari_point_defects.materials import LATTICE_VECTORS, DefectClass, get_material
from napari_point_defects.movies import analysis
from napari_point_defects.movies.analysis import analyze_movie, follow, looks_of
from napari_point_defects.movies.chains import Chain, scaled
from napari_point_defects.movies.events import BORN, CHANGED, HEALED, find_events, with_migrations
from napari_point_defects.movies.frames import FrameReader, Refusal, frame_of
from napari_point_defects.movies.histories import Looks, find_histories, likelihoods
from napari_point_defects.movies.journal import FrameJournal
from napari_point_defects.movies.linking import link_frames
from napari_point_defects.movies.nodes import counted_nodes
from napari_point_defects.movies.rates import find_rates, without_migrations
from napari_point_defects.movies.results import journal_folder, movie_paths, write_movie
from napari_point_defects.movies.settings import MovieSettings
from napari_point_defects.movies.tables import cells_table, events_table, frames_table, summary
from napari_point_defects.records import Bending, UnitCells
from napari_point_defects.simulation.movies import MoviePlan, SimulatedMovie
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.stacks import array_stack

SHARES = np.array([0.92, 0.04, 0.02, 0.015, 0.003, 0.002])
MATERIAL = get_material("MoTe2")
SCENE = SceneSettings(
    height_px=300,
    width_px=300,
    a_px=19.0,
    angle_deg=57.0,
    contamination=0.1,
    defect_rates=(0.04, 0.02, 0.01, 0, 0),
)
HISTORY = {"births": 0.004, "growth": 0.02, "healing": 0.01, "hops": 0.02}


def movie_of(seed=0, scene=SCENE, frames=10, **moves):
    noise = NoiseSettings(poisson_lambda=8, gaussian_mu=4)
    return SimulatedMovie(
        MoviePlan(scene=scene, noise=noise, frames=frames, **HISTORY | moves), seed
    )


def probabilities_of(classes, rng, error=0.01):
    """Looks that are wrong now and then, and say how sure they are."""
    seen = np.where(rng.random(len(classes)) < error, rng.integers(0, 3, len(classes)), classes)
    p = np.full((len(classes), 6), 0.002) * SHARES
    p[np.arange(len(classes)), seen] = 1
    return p / p.sum(axis=1, keepdims=True)


def true_frame(simulated, index, error=0.01):
    """What an analysis would find, its lattice's origin any hollow, its nodes counted anew."""
    rng = np.random.default_rng([5, index])
    true = simulated.frame(index)
    vector = rng.integers(-4, 5, 2) @ LATTICE_VECTORS
    lattice = replace(true.lattice, origin_px=true.lattice.to_image(vector))
    p = probabilities_of(true.classes, rng, error)
    kept = rng.random(len(p)) > 0.03
    cells = UnitCells(true.chalcogen_px, true.metal_px, np.full(len(p), 2), p).take(kept)
    cells = replace(cells, domain=np.ones(len(cells), int))
    data = true.image.astype(np.float32)
    return frame_of(data, index, lattice, cells, SHARES, (0.0185, 0.0185)), true, kept


def truth_of(simulated, **options):
    found = [true_frame(simulated, index, **options) for index in range(len(simulated))]
    return [each[0] for each in found], found


def offsets_right(frames, links, found):
    """Tell of each linked frame whether all its cells have the nodes they should have."""
    base, right = None, []
    for frame, link, (_, true, _kept) in zip(frames, links.links, found, strict=True):
        if link.segment < 0:
            continue
        order = [
            np.flatnonzero((true.chalcogen_px == xy).all(axis=1))[0]
            for xy in frame.cells.chalcogen_px
        ]
        off = true.nodes[order] - links.nodes[link.tracks]
        base = off[0] if base is None else base
        right.append(bool((off == base).all()))
    return right, base


# ------------------------------------------------------------------ the lattice, frame to frame


def test_a_warm_start_finds_the_lattice_that_a_cold_one_does():
    simulated = movie_of(frames=3, drift_a=2.0, turn_deg=1.0, bend_a=0.05)
    before = None
    for true in simulated:
        data = true.image.astype(np.float32)
        cold = find_lattice(data, MATERIAL)
        if before is not None:
            warm = find_lattice(data, MATERIAL, start=before)
            points = np.stack(np.meshgrid([30, 150, 270], [30, 150, 270], indexing="ij"), -1)
            nodes = warm.to_canonical(points) @ np.linalg.inv(LATTICE_VECTORS)
            places = warm.to_image(np.rint(nodes) @ LATTICE_VECTORS)
            back = cold.to_canonical(places) @ np.linalg.inv(LATTICE_VECTORS)
            np.testing.assert_allclose(back, np.rint(back), atol=2e-3)
            angle, size = turn_between(warm, before)
            assert abs(angle) < 3
            assert abs(size) < 0.01
        before = cold if before is None else warm


def test_a_start_that_is_no_good_is_left_for_a_full_search():
    data = movie_of(frames=1).frame(0).image.astype(np.float32)
    cold = find_lattice(data, MATERIAL)
    wrong = replace(cold, matrix_px=cold.matrix_px * 1.4)
    warm = find_lattice(data, MATERIAL, start=wrong)
    assert warm.a_px == pytest.approx(cold.a_px, abs=1e-3)


def test_orientations_follow_the_frame_before():
    data = movie_of(frames=1).frame(0).image.astype(np.float32)
    cold = find_lattice(data, MATERIAL)
    c, s = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    turned = replace(cold, matrix_px=cold.matrix_px @ np.array([[c, s], [-s, c]]))
    assert abs(turn_between(turned_like(cold, turned), turned)[0]) < 1e-6
    domains, _ = find_domains(data, MATERIAL, start=turned)
    assert abs(turn_between(domains[0].lattice, turned)[0]) < 1


def test_nodes_are_counted_from_neighbour_to_neighbour():
    # a lattice drawn straight through cells that bend away from it by more than half a cell
    true = movie_of(frames=1).frame(0)
    y = np.linspace(0, 299, 7)
    field = np.zeros((7, 7, 2))
    field[..., 1] = 0.8 * 19 * ((y[:, None] - 150) / 150) ** 2
    bent = Bending(field, np.zeros(2), np.full(2, y[1]))
    middle = (true.chalcogen_px + true.metal_px) / 2
    nodes, off = counted_nodes(middle + bent.displacement(middle), true.lattice, (300, 300))
    assert np.abs(off).max() > 0.6
    np.testing.assert_array_equal(nodes - nodes[0], true.nodes - true.nodes[0])


# ------------------------------------------------------------------ links


@pytest.mark.parametrize(
    "moves",
    [
        {"drift_a": 0.3},
        {"drift_a": 3.0, "wander_a": 0.8},
        {"drift_a": 1.5, "wander_a": 0.5, "turn_deg": 0.6, "bend_a": 0.1},
    ],
)
def test_cells_keep_their_nodes_whatever_the_drift(moves):
    simulated = movie_of(1, **moves)
    frames, found = truth_of(simulated)
    links = link_frames(frames)
    right, _ = offsets_right(frames, links, found)
    assert all(right)
    assert len(right) >= len(frames) - 1
    # the field of view moves as the sheet does, but the other way
    moved = links.links[-1].drift_a - links.links[0].drift_a
    assert np.hypot(*moved) > 0.4 * simulated.plan.drift_a * len(frames)


def test_a_sheet_without_marks_is_linked_only_if_the_drift_is_known():
    scene = SCENE.model_copy(update={"contamination": 0.0, "defect_rates": (0, 0, 0, 0, 0)})
    simulated = movie_of(2, scene, frames=4, drift_a=0.3, births=0, hops=0)
    frames, found = truth_of(simulated, error=0.0)
    vague = link_frames(frames)
    assert vague.unlinked
    assert all(link.offset.probability < 0.95 for link in vague.links if link.segment < 0)
    sure = link_frames(frames, MovieSettings(largest_drift_a=0.45))
    assert not sure.unlinked
    assert all(offsets_right(frames, sure, found)[0])


def test_a_jump_to_another_place_begins_a_new_part():
    one, other = movie_of(3, frames=4, drift_a=0.5), movie_of(4, frames=4, drift_a=0.5)
    frames = [true_frame(one, i)[0] for i in range(4)]
    frames += [replace(true_frame(other, i)[0], index=4 + i) for i in range(4)]
    links = link_frames(frames)
    assert [link.segment for link in links.links] == [0, 0, 0, 0, -1, -1, 1, 1]
    assert links.unlinked == [4, 5]
    first, last = links.links[0].tracks, links.links[-1].tracks
    assert not set(first) & set(last)


def test_frames_that_were_skipped_do_not_break_the_links():
    frames, found = truth_of(movie_of(1, drift_a=2.0, wander_a=0.5))
    kept = [0, 1, 2, 5, 6, 9]
    links = link_frames([frames[i] for i in kept])
    right, _ = offsets_right([frames[i] for i in kept], links, [found[i] for i in kept])
    assert right == [True] * 6


# ------------------------------------------------------------------ histories


def looks_at(rows, misjudged=0.01, hidden=()):
    """Looks at cells whose class each frame gives as a digit; ``.`` where it is not seen."""
    frames = len(rows[0])
    likelihood = np.ones((len(rows), frames, 6), np.float32)
    begin, end = [], []
    for i, row in enumerate(rows):
        seen = [t for t, c in enumerate(row) if c != "."]
        begin.append(seen[0])
        end.append(seen[-1])
        for t in seen:
            p = np.full(6, 1e-4)
            p[int(row[t])] = 1
            likelihood[i, t] = likelihoods(p / p.sum(), SHARES, misjudged)
    return Looks(likelihood, np.array(begin), np.array(end))


def said(histories, track):
    return "".join("." if c < 0 else str(c) for c in histories.classes[track])


QUIET = ["0" * 14] * 60


def test_one_misjudged_frame_is_no_birth_and_no_death():
    rows = [*QUIET, "00000100000000", "11111101111111", "00000001111111", "..000000000000"]
    histories = find_histories(looks_at(rows))
    assert said(histories, 60) == "0" * 14
    assert said(histories, 61) == "1" * 14
    assert said(histories, 62) == "00000001111111"
    assert said(histories, 63) == "..000000000000"
    (event,) = find_events(histories)
    assert (event.kind, event.track, event.frame, event.after) == (BORN, 62, 7, DefectClass.V_X1)
    assert event.probability > 0.95
    assert event.earliest <= 7 <= event.latest


def test_what_was_defective_when_first_seen_was_not_born():
    rows = [*QUIET, "...11111111111", "11111111......"]
    assert not find_events(find_histories(looks_at(rows)))


def test_a_doubtful_stretch_leaves_the_frame_of_birth_open():
    looks = looks_at([*QUIET, "0000....111111"])
    (event,) = find_events(find_histories(looks))
    assert event.kind == BORN
    assert event.earliest <= 5
    assert event.latest == 8
    assert event.probability > 0.9


def test_growth_healing_and_the_sure_end_of_a_movie():
    rows = [*QUIET, "00011112222222", "11111100000000", "00000000000001"]
    histories = find_histories(looks_at(rows))
    events = find_events(histories)
    found = [(e.kind, e.track, e.frame) for e in events]
    assert (BORN, 60, 3) in found
    assert (CHANGED, 60, 7) in found
    assert (HEALED, 61, 6) in found
    # one look at the end may be wrong: it is no event, or one that is not sure
    assert all(e.probability < 0.95 for e in events if e.track == 62)


def test_histories_can_be_stopped():
    with pytest.raises(Stopped):
        find_histories(looks_at(QUIET), should_stop=lambda: True)


def test_chances_scaled_stay_chances():
    which = np.zeros((6, 6), bool)
    which[0, 1:] = True
    matrix = scaled(Chain().matrix, which, 20.0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(matrix[0, 1:], 20 * Chain().matrix[0, 1:])


def test_a_vacancy_that_moves_to_a_neighbour_is_not_made():
    rows = [*QUIET, "11111110000000", "00000001111111", "00000000011111"]
    looks = looks_at(rows)
    histories = find_histories(looks)
    nodes = np.array([(0, 2 * i) for i in range(60)] + [(50, 50), (50, 51), (80, 80)])
    events = with_migrations(find_events(histories), nodes, np.zeros(63, int))
    moved = {event.track: event.migration for event in events}
    assert moved == {60: 61, 61: 60, 62: -1}
    all_changes = find_rates(looks, histories)
    made = find_rates(without_migrations(looks, events), histories)
    assert all_changes["cells becoming defective"].events == pytest.approx(2, abs=0.3)
    assert made["cells becoming defective"].events == pytest.approx(1, abs=0.2)
    assert made["cells healing"].events == 0
    # in another part of the movie the neighbours are others
    apart = with_migrations(find_events(histories), nodes, np.arange(63))
    assert {event.migration for event in apart} == {-1}


def test_a_rates_interval_holds_the_truth_as_often_as_it_says():
    true_rate, covered = 0.005, 0
    for seed in range(30):
        rng = np.random.default_rng([seed, 8])
        state = np.zeros((100, 20), int)
        state[:, 0] = rng.random(100) < 0.05
        for t in range(1, 20):
            chance = rng.random(100)
            state[:, t] = np.where(state[:, t - 1] == 0, chance < true_rate, 1)
        score = rng.normal(np.where(state, 2.2, -2.2))
        p = np.full((100, 20, 6), 1e-5)
        p[..., 0], p[..., 1] = SHARES[0], SHARES[1] * np.exp(4.4 * score)
        p /= p.sum(axis=-1, keepdims=True)
        looks = Looks(likelihoods(p, SHARES, 0.01), np.zeros(100, int), np.full(100, 19))
        rate = find_rates(looks, find_histories(looks))["cells becoming defective"]
        covered += rate.low <= true_rate * rate.cell_frames <= rate.high
    # 95 % of 30, within what chance allows once in a thousand such tests
    assert covered >= 24


def test_nothing_seen_is_compatible_with_nothing_there():
    looks = looks_at(QUIET)
    rates = find_rates(looks, find_histories(looks))
    for rate in rates.values():
        assert rate.events == 0
        assert rate.low == 0
    made = rates["cells becoming defective"]
    assert 1 < made.high < 4
    assert made.cell_frames == 60 * 13
    assert "per_nm2_per_e_per_nm2" not in made.as_dict(0.1, None)
    in_units = made.as_dict(0.1, 1e5)
    assert in_units["per_nm2_per_e_per_nm2_interval95"][1] == pytest.approx(
        made.high / (60 * 13 * 0.1 * 1e5)
    )


# ------------------------------------------------------------------ whole movies


@pytest.fixture(scope="module")
def simulated():
    return movie_of(7, frames=12, drift_a=1.5, wander_a=0.4, births=0.006)


@pytest.fixture(scope="module")
def stack(simulated):
    data = simulated.stack()
    data[5] = 100
    return array_stack(data, "sheet", frame_time_s=2.0)


@pytest.fixture
def reader(monkeypatch, simulated):
    """Frames as an analysis without mistakes would find them, and how many were asked for."""
    asked = []

    def read(self, image, index, before, *, on_progress, should_stop):
        asked.append(index)
        if should_stop():
            raise Stopped
        on_progress(0.5, "cells")
        return true_frame(simulated, index)[0]

    monkeypatch.setattr(FrameReader, "read", read)
    return asked


@pytest.fixture
def found(reader, stack):
    return analyze_movie(stack, AnalysisSettings(), MovieSettings(dose_per_frame_e_nm2=2e5))


def test_a_blank_frame_is_skipped_and_the_rest_goes_on(found):
    assert [r.index for r in found.refusals] == [5]
    assert "same value" in found.refusals[0].reason
    assert len(found.frames) == 11
    assert not found.links.unlinked


def test_births_of_a_movie_are_those_of_its_history(found, simulated):
    frames = list(found.frames)
    true = [true_frame(simulated, frame.index) for frame in frames]
    right, base = offsets_right(frames, found.links, true)
    assert all(right)
    node_of = found.links.nodes + base
    seen = found.histories.classes >= 0
    begin, end = seen.argmax(axis=1), 11 - seen[:, ::-1].argmax(axis=1)
    by_node = {tuple(node): track for track, node in enumerate(node_of.tolist())}
    born = {}
    for frame, y, x, before, _ in simulated.events:
        track = by_node.get((y, x))
        if before == 0 and track is not None and begin[track] < frame <= end[track]:
            born[track] = frame
    called = {event.track: event for event in found.events if event.kind == BORN}
    # seen once or twice only, or healed a frame later: as a misjudged look would be
    late = {track for track in born if born[track] >= end[track] - 1}
    brief = {
        track
        for track, frame in born.items()
        if frame < 11 and simulated.classes[(frame + 1, *(node_of[track] - simulated.low))] == 0
    }
    assert len(born) > 10
    assert set(born) - set(called) <= late | brief
    false = set(called) - set(born)
    assert len(false) <= 1
    off = [called[track].frame - born[track] for track in set(born) & set(called)]
    # the frame after the skipped one cannot be told from it
    assert np.mean(np.abs(off)) < 0.4
    for track in set(born) & set(called):
        assert called[track].earliest - 1 <= born[track] <= called[track].latest + 1


def test_tables_and_summary_of_a_movie(found, tmp_path):
    paths = write_movie(found, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(movie_paths("sheet", tmp_path).values())
    events, frames, cells = (pd.read_csv(paths[kind]) for kind in ("events", "frames", "cells"))
    assert list(frames["frame"]) == list(range(12))
    assert frames.loc[5, "status"] == "skipped"
    assert list(frames["dose_e_nm2"]) == [2e5 * (i + 1) for i in range(12)]
    assert frames.loc[3, "time_s"] == 6.0
    born = events[events["kind"] == BORN]
    assert frames[BORN].sum() == len(born)
    first = events[events["kind"] == "first seen"]
    assert len(first) > 10
    assert (first["after"] != "Perfect").all()
    grown = events[events["became"].str.contains("V_Te2", na=False)]
    assert set(grown["after"]) <= {"V_Te1", "V_Te2", "Perfect"}
    assert len(cells) == sum(len(frame) for frame in found.frames)
    assert cells.groupby("frame")["track_id"].apply(lambda ids: ids.is_unique).all()
    # a track's cell is where its event says
    row = born.iloc[0]
    there = cells[(cells["track_id"] == row["track_id"]) & (cells["frame"] >= row["frame"])]
    assert there.iloc[0]["chalcogen_y"] == pytest.approx(row["chalcogen_y"])
    report = json.loads(paths["summary"].read_text())
    assert report["frames_skipped"][0]["frame"] == 5
    rate = report["rates"]["cells becoming defective"]
    low, high = rate["per_cell_per_frame_interval95"]
    assert low < 0.006 < high
    assert rate["per_nm2_per_e_per_nm2"] == pytest.approx(
        rate["per_cell_per_frame"] / report["cell_area_nm2"] / 2e5
    )
    assert report["events"][BORN] == len(born)
    assert paths["figure"].stat().st_size > 20_000
    with pytest.raises(PointDefectsError, match="exists"):
        write_movie(found, tmp_path)


def test_the_dose_from_current_and_dwell_time():
    options = MovieSettings(beam_current_pa=16.02176634, dwell_us=1.0)
    assert options.dose_e_nm2((0.1, 0.1)) == pytest.approx(100 / 0.01)
    assert MovieSettings().dose_e_nm2((0.1, 0.1)) is None
    with pytest.raises(PointDefectsError, match="both"):
        MovieSettings(beam_current_pa=1.0).dose_e_nm2((0.1, 0.1))
    with pytest.raises(PointDefectsError, match="not both"):
        MovieSettings(dose_per_frame_e_nm2=1.0, dwell_us=1.0).dose_e_nm2((0.1, 0.1))


def test_a_movie_of_too_few_frames_is_refused(reader, stack, monkeypatch):
    def refuse(self, image, index, before, **callbacks):
        raise PointDefectsError("no hexagonal lattice found: crop it")

    monkeypatch.setattr(FrameReader, "read", refuse)
    with pytest.raises(PointDefectsError, match=r"only 0 of 12 frames .*no hexagonal lattice"):
        analyze_movie(stack, AnalysisSettings())


def test_a_frame_that_lost_its_focus_is_skipped(reader, stack, simulated, monkeypatch):
    def read(self, image, index, before, **callbacks):
        frame = true_frame(simulated, index)[0]
        faint = replace(frame.lattice, quality=0.05 if index == 8 else 0.5)
        return replace(frame, lattice=faint)

    monkeypatch.setattr(FrameReader, "read", read)
    found = analyze_movie(stack, AnalysisSettings())
    assert [r.index for r in found.refusals] == [5, 8]
    assert "out of focus" in found.refusals[1].reason


def test_a_killed_run_goes_on_where_it_was(reader, stack, tmp_path):
    settings = AnalysisSettings()
    journal = FrameJournal.open(tmp_path / "half", stack, settings)
    with pytest.raises(Stopped):
        analyze_movie(stack, settings, store=journal, should_stop=lambda: len(reader) > 4)
    assert reader == [0, 1, 2, 3, 4]
    # the last one was killed while it was written
    kept = sorted((tmp_path / "half").glob("frame_*.npz"))
    kept[2].write_bytes(kept[2].read_bytes()[:100])
    del reader[:]
    again = FrameJournal.open(tmp_path / "half", stack, settings)
    resumed = analyze_movie(stack, settings, store=again)
    assert reader == [2, 4, 6, 7, 8, 9, 10, 11]
    whole = analyze_movie(stack, settings)
    pd.testing.assert_frame_equal(events_table(resumed), events_table(whole))
    pd.testing.assert_frame_equal(cells_table(resumed), cells_table(whole))
    pd.testing.assert_frame_equal(frames_table(resumed), frames_table(whole))
    (tmp_path / "half" / "mine.txt").write_text("keep")
    again.remove()
    assert [path.name for path in (tmp_path / "half").iterdir()] == ["mine.txt"]


def test_half_a_run_of_other_settings_is_not_gone_on_with(stack, tmp_path):
    journal = FrameJournal.open(tmp_path / "half", stack, AnalysisSettings())
    journal.save(Refusal(3, "blank"))
    other = AnalysisSettings(min_score=0.6)
    with pytest.raises(PointDefectsError, match="--overwrite"):
        FrameJournal.open(tmp_path / "half", stack, other)
    assert FrameJournal.open(tmp_path / "half", stack, AnalysisSettings()).load(3) == Refusal(
        3, "blank"
    )
    fresh = FrameJournal.open(tmp_path / "half", stack, other, overwrite=True)
    assert fresh.load(3) is None


def test_a_bent_lattice_survives_the_journal(stack, tmp_path, simulated):
    frame = true_frame(simulated, 2)[0]
    bent = Bending(np.ones((4, 4, 2)), np.zeros(2), np.full(2, 100.0))
    frame = replace(frame, lattice=replace(frame.lattice, bending=bent), warnings=("dim",))
    journal = FrameJournal.open(tmp_path / "half", stack, AnalysisSettings())
    journal.save(frame)
    back = journal.load(2)
    assert back.warnings == ("dim",)
    np.testing.assert_array_equal(back.lattice.to_image([[1, 2]]), frame.lattice.to_image([[1, 2]]))
    np.testing.assert_array_equal(back.cells.probabilities, frame.cells.probabilities)


def test_cells_of_frames_that_are_not_linked_have_no_track(simulated, stack):
    frames = [true_frame(simulated, index)[0] for index in range(6)]
    strange = replace(frames[3], nodes=np.random.default_rng(0).permutation(frames[3].nodes))
    frames[3] = strange
    links = link_frames(frames)
    assert links.unlinked == [3]
    looks = looks_of(frames, links, 12, 0.01)
    assert (looks.likelihood[:, 3] == 1).all()
    movie = follow(stack, AnalysisSettings(), MovieSettings(), frames, [], links)
    table = cells_table(movie)
    assert (table[table["frame"] == 3]["track_id"] == -1).all()
    assert (table[table["frame"] == 3]["history_label"] == "").all()
    assert frames_table(movie).loc[3, "status"] == "not linked"
    assert any("not linked" in line for line in movie.warnings())
    assert summary(movie)["frames_not_linked"] == [3]


# ------------------------------------------------------------------ the command


def run(*arguments):
    return CliRunner().invoke(app, ["movie", *map(str, arguments)])


def test_the_command_writes_and_tells(reader, stack, tmp_path):
    path = tmp_path / "sheet.npy"
    np.save(path, np.stack([stack.load(i) for i in range(12)]))
    done = run(path, "-o", tmp_path / "out", "--beam-current-pa", 20, "--dwell-us", 4)
    assert done.exit_code == 0, done.output
    assert "born" in done.output
    assert "barn" in done.output
    assert "frame 5 skipped" in done.output
    assert all(p.exists() for p in movie_paths("sheet", tmp_path / "out").values())
    assert not journal_folder("sheet", tmp_path / "out").exists()
    again = run(path, "-o", tmp_path / "out")
    assert isinstance(again.exception, PointDefectsError)
    assert "--overwrite" in str(again.exception)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--dose-per-frame", -1), "dose-per-frame"),
        (("--beam-current-pa", 20), "both the beam current and the dwell time"),
        (("--material", "Fe2"), "Fe2"),
    ],
)
def test_mistakes_are_told_before_the_work(stack, tmp_path, reader, options, text):
    path = tmp_path / "sheet.npy"
    np.save(path, np.stack([stack.load(i) for i in range(2)]))
    done = run(path, "-o", tmp_path / "out", *options)
    assert isinstance(done.exception, PointDefectsError)
    assert text in str(done.exception)
    assert not reader


def test_from_pixels_to_births(tmp_path):
    """Nothing is replaced: three small frames, with the shipped weights."""
    scene = SCENE.model_copy(update={"height_px": 224, "width_px": 224})
    simulated = movie_of(11, scene, frames=3, drift_a=0.8, births=0.02)
    path = tmp_path / "small.tif"
    tifffile.imwrite(path, simulated.stack())
    done = run(path, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    frames = pd.read_csv(tmp_path / "out" / "small_frames.csv")
    assert (frames["status"] == "linked").sum() >= 2
    cells = pd.read_csv(tmp_path / "out" / "small_cells.csv")
    true = simulated.frame(2)
    last = cells[cells["frame"] == 2]
    apart = last[["chalcogen_y", "chalcogen_x"]].to_numpy()[:, None] - true.chalcogen_px
    nearest = np.hypot(*np.moveaxis(apart, -1, 0)).argmin(axis=1)
    labels = np.array(MATERIAL.class_labels)[true.classes[nearest]]
    assert (last["label"].to_numpy() == labels).mean() > 0.97


def test_a_region_is_refused(stack):
    region = (((0, 0), (0, 99), (99, 99)),)
    with pytest.raises(PointDefectsError, match="crop the stack"):
        analysis.analyze_movie(stack, AnalysisSettings(region=region))
