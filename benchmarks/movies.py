"""How well movies are followed, on simulated ones whose history is known.

Links, births, false births, and what starting each lattice search from the frame before saves; the
coverage of the rates' intervals is measured on simulated looks, for it takes hundreds of movies.
Times are of the process, in seconds of one core. Run: ``python -m benchmarks.movies``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.lattice import find_lattice
from napari_point_defects.materials import LATTICE_VECTORS, get_material
from napari_point_defects.movies.analysis import Movie, follow
from napari_point_defects.movies.events import BORN
from napari_point_defects.movies.frames import Frame, FrameReader
from napari_point_defects.movies.histories import Looks, find_histories
from napari_point_defects.movies.linking import link_frames
from napari_point_defects.movies.offsets import Drift, Sheet, find_offset
from napari_point_defects.movies.rates import find_rates
from napari_point_defects.movies.settings import MovieSettings
from napari_point_defects.outputs import write_json
from napari_point_defects.records import Lattice, StemImage
from napari_point_defects.simulation.movies import MovieFrame, MoviePlan, SimulatedMovie
from napari_point_defects.simulation.noise import NoiseSettings
from napari_point_defects.simulation.scenes import SceneSettings
from napari_point_defects.stacks import array_stack

SEED = 70_707
A_PX = 19.0
BIRTHS = "cells becoming defective"


def plan(
    frames: int, side_px: int, *, peak_counts: float, dirt: float, **moves: float
) -> MoviePlan:
    """Return a plan with the usual history of vacancies."""
    scene = SceneSettings(
        height_px=side_px,
        width_px=side_px,
        a_px=A_PX,
        angle_deg=57.0,
        contamination=dirt,
        jitter_a=0.01,
        defect_rates=(0.03, 0.01, 0.01, 0.0, 0.0),
    )
    noise = NoiseSettings(poisson_lambda=peak_counts, gaussian_mu=4.0)
    history = {"births": 0.004, "growth": 0.02, "healing": 0.01, "hops": 0.01}
    return MoviePlan(scene=scene, noise=noise, frames=frames, **history | moves)


def plans(frames: int, side_px: int) -> dict[str, MoviePlan]:
    """Return the movies that are measured."""
    bright, dim = {"peak_counts": 8.0, "dirt": 0.1}, {"peak_counts": 2.0, "dirt": 0.1}
    return {
        "slow drift, 0.3 a": plan(frames, side_px, drift_a=0.3, wander_a=0.05, **bright),
        "fast drift, 2.5 a": plan(frames, side_px, drift_a=2.5, wander_a=0.7, **bright),
        "fast, turning, bending": plan(
            frames, side_px, drift_a=1.5, wander_a=0.7, turn_deg=0.4, bend_a=0.08, **bright
        ),
        "fast, dim": plan(frames, side_px, drift_a=2.0, wander_a=0.5, **dim),
        "fast, no dirt": plan(
            frames, side_px, drift_a=2.0, wander_a=0.5, peak_counts=8.0, dirt=0.0
        ),
    }


def measure(movie_plan: MoviePlan, seed: int) -> tuple[dict, list[dict]]:
    """Analyse one movie; return its figures, and those of pairs of its frames."""
    simulated = SimulatedMovie(movie_plan, seed)
    truth = list(simulated)
    reader = FrameReader(AnalysisSettings())
    frames: list[Frame] = []
    seconds = 0.0
    for index, true in enumerate(truth):
        before = frames[-1].lattice if frames else None
        image = StemImage(true.image.astype(np.float32))
        start = time.process_time()
        frames.append(reader.read(image, index, before))
        seconds += time.process_time() - start
    start = time.process_time()
    links = link_frames(frames)
    stack = array_stack(np.stack([true.image for true in truth]))
    settings = AnalysisSettings(), MovieSettings()
    movie = follow(stack, *settings, frames, [], links)
    after = time.process_time() - start
    row = {
        "frames": len(frames),
        "cells_per_frame": float(np.mean([len(frame) for frame in frames])),
        "seconds_per_frame": seconds / len(frames),
        "seconds_per_frame_linking_and_histories": after / len(frames),
        **lattice_seconds(truth, frames),
        **judged(movie, simulated, truth),
    }
    return row, pairs(frames, truth)


def lattice_seconds(truth: list[MovieFrame], frames: list[Frame]) -> dict:
    """Time the lattice search from nothing and from the frame before; compare what they find."""
    material = get_material("MoTe2")
    cold = warm = apart = 0.0
    for index in range(1, len(frames)):
        data, before = truth[index].image.astype(np.float32), frames[index - 1].lattice
        start = time.process_time()
        from_nothing = find_lattice(data, material)
        middle = time.process_time()
        from_before = find_lattice(data, material, start=before)
        end = time.process_time()
        cold, warm = cold + middle - start, warm + end - middle
        apart = max(apart, nodes_apart_px(from_nothing, from_before, data.shape))
    count = len(frames) - 1
    return {
        "lattice_seconds_cold": cold / count,
        "lattice_seconds_warm": warm / count,
        "warm_against_cold_px": apart,
    }


def nodes_apart_px(one: Lattice, other: Lattice, shape: tuple[int, int]) -> float:
    """Return how far apart two lattices' nodes lie at most over an image, whatever their names."""
    points = np.stack(np.meshgrid(*[np.linspace(0, n - 1, 9) for n in shape], indexing="ij"), -1)
    inverse = np.linalg.inv(LATTICE_VECTORS)
    nodes = one.to_image(np.rint(one.to_canonical(points) @ inverse) @ LATTICE_VECTORS)
    back = other.to_image(np.rint(other.to_canonical(nodes) @ inverse) @ LATTICE_VECTORS)
    return float(np.abs(back - nodes).max())


def judged(movie: Movie, simulated: SimulatedMovie, truth: list[MovieFrame]) -> dict:
    """Compare links, births and rate of a movie with its history."""
    votes: dict[int, list[np.ndarray]] = {}
    steps, wrong_class, cells = [], 0, 0
    for frame, link in zip(movie.frames, movie.links.links, strict=True):
        rows, true_nodes, true_classes = matched(frame, truth[frame.index])
        known = movie.histories.classes[link.tracks[rows], frame.index]
        if link.segment < 0:
            continue
        steps.append(true_nodes - movie.links.nodes[link.tracks[rows]])
        wrong_class += int((known != true_classes).sum())
        cells += len(rows)
        for track, node in zip(link.tracks[rows], true_nodes, strict=True):
            votes.setdefault(int(track), []).append(node)
    usual = _mode(steps[0])
    wrong_frames = sum(bool((_mode(each) != usual).any()) for each in steps)
    misplaced = sum(int((each != usual).any(axis=1).sum()) for each in steps)
    node_of = movie.links.nodes + usual
    found = births(movie, simulated, node_of)
    rate = movie.rates[BIRTHS]
    # hops apart: what is made, as the plan has it
    true_rate = simulated.plan.births
    low, high = (limit / rate.cell_frames for limit in (rate.low, rate.high))
    return {
        "cell_frames": cells,
        "frames_linked": len(steps),
        "frames_linked_wrongly": wrong_frames,
        "cells_misplaced": misplaced,
        "history_errors": wrong_class,
        **found,
        "false_births_per_1000_cell_frames": 1000 * found["births_false"] / max(cells, 1),
        "rate": rate.events / rate.cell_frames,
        "rate_interval95": [low, high],
        "rate_true": true_rate,
        "rate_covered": bool(low <= true_rate <= high),
    }


def births(movie: Movie, simulated: SimulatedMovie, node_of: np.ndarray) -> dict:
    """Compare births with those that took place while the cells were followed."""
    classes = movie.histories.classes
    seen = classes >= 0
    begin, end = seen.argmax(axis=1), seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    at = tuple((node_of - simulated.low).T)
    inside = np.all(
        (node_of >= simulated.low)
        & (node_of < simulated.low + np.array(simulated.classes.shape[1:])),
        axis=1,
    )
    history = np.zeros_like(classes)
    history[inside] = simulated.classes[:, at[0][inside], at[1][inside]].T
    true = {
        (track, frame)
        for track, frame in np.argwhere((history[:, :-1] == 0) & (history[:, 1:] > 0)) + (0, 1)
        if begin[track] < frame <= end[track]
    }
    errors, false = [], 0
    left = set(true)
    for event in movie.events:
        if event.kind != BORN:
            continue
        same = [key for key in left if key[0] == event.track]
        if not same:
            false += 1
            continue
        nearest = min(same, key=lambda key: abs(key[1] - event.frame))
        left.discard(nearest)
        errors.append(event.frame - nearest[1])
    return {
        "births_true": len(true),
        "births_found": len(errors),
        "births_missed": len(left),
        "births_missed_in_last_two_frames_seen": sum(key[1] >= end[key[0]] - 1 for key in left),
        "births_false": false,
        "birth_frame_exact": sum(error == 0 for error in errors),
        "birth_frame_error_mean": float(np.mean(np.abs(errors))) if errors else None,
        "birth_frame_error_largest": int(np.abs(errors).max()) if errors else None,
    }


def pairs(frames: list[Frame], truth: list[MovieFrame], farthest: int = 4) -> list[dict]:
    """Find the offset of pairs of frames by themselves, without any knowledge of the drift."""
    found = []
    matches = [matched(frame, true) for frame, true in zip(frames, truth, strict=True)]
    for i in range(len(frames)):
        for j in range(i + 1, min(i + 1 + farthest, len(frames))):
            sheets = [
                Sheet(frames[k].nodes, frames[k].cells.probabilities, frames[k].residue)
                for k in (i, j)
            ]
            vague = Drift(frames[j].middle + 0.0, 1e3)
            offset = find_offset(
                *sheets, frames[j].shares, frames[j].middle, vague, LATTICE_VECTORS
            )
            if offset is None:
                continue
            names = [
                _mode(m[1] - frames[k].nodes[m[0]]) for k, m in ((i, matches[i]), (j, matches[j]))
            ]
            right = bool((offset.step == names[1] - names[0]).all())
            found.append({"apart": j - i, "probability": offset.probability, "right": right})
    return found


def matched(frame: Frame, true: MovieFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of cells that are there, their true nodes and classes."""
    distance, index = cKDTree(true.chalcogen_px).query(frame.cells.chalcogen_px)
    rows = np.flatnonzero(distance < 0.3 * A_PX)
    return rows, true.nodes[index[rows]], true.classes[index[rows]]


def _mode(steps: np.ndarray) -> np.ndarray:
    values, counts = np.unique(steps, axis=0, return_counts=True)
    return values[counts.argmax()]


def coverage(births_per_cell: float, separation: float, misjudged: float, movies: int) -> dict:
    """Measure how often a rate's interval holds the truth, on looks at 300 cells in 30 frames.

    Parameters
    ----------
    births_per_cell : float
        Per frame.
    separation : float
        Between the scores of perfect and of defective cells, in their scatter.
    misjudged : float
        Share of looks that are surely wrong, whatever the score.
    movies : int
    """
    covered = below = above = true_births = called = false = 0
    for number in range(movies):
        rng = np.random.default_rng([SEED, number, int(1e6 * births_per_cell)])
        state, looks = simulated_looks(rng, births_per_cell, separation, misjudged)
        histories = find_histories(looks)
        rate = find_rates(looks, histories)[BIRTHS]
        expected = births_per_cell * rate.cell_frames
        covered += rate.low <= expected <= rate.high
        above += rate.low > expected
        below += rate.high < expected
        frames = np.arange(1, state.shape[1])
        within = (frames > looks.begin[:, None]) & (frames <= looks.end[:, None])
        born = (state[:, :-1] == 0) & (state[:, 1:] == 1) & within
        found = (histories.classes[:, :-1] == 0) & (histories.classes[:, 1:] > 0)
        true_births += int(born.sum())
        called += int(found.sum())
        false += sum(not born[t, max(0, f - 4) : f + 5].any() for t, f in np.argwhere(found))
    return {
        "births_per_cell_and_frame": births_per_cell,
        "separation": separation,
        "misjudged": misjudged,
        "movies": movies,
        "covered": covered / movies,
        "interval_above_truth": above / movies,
        "interval_below_truth": below / movies,
        "births_true": true_births,
        "births_called": called,
        "births_false": false,
    }


def simulated_looks(
    rng: np.random.Generator, births_per_cell: float, separation: float, misjudged: float
) -> tuple[np.ndarray, Looks]:
    """Draw what becomes of 300 cells and what 30 frames show of them; some enter and leave."""
    cells, frames, floor = 300, 30, MovieSettings().misjudged
    state = np.zeros((cells, frames), int)
    state[:, 0] = rng.random(cells) < 0.04
    for t in range(1, frames):
        chance = rng.random(cells)
        state[:, t] = np.where(state[:, t - 1] == 0, chance < births_per_cell, chance >= 0.01)
    score = rng.normal(np.where(state, separation / 2, -separation / 2))
    shares = np.array([0.92, 0.05, 0.01, 0.01, 0.005, 0.005])
    p = np.empty((cells, frames, 6))
    p[..., 0], p[..., 1] = shares[0], shares[1] * np.exp(separation * score)
    p[..., 2:] = shares[2:] * 1e-3
    wrong = rng.random((cells, frames)) < misjudged
    p[wrong] = [0.02, 0.97, 0.004, 0.004, 0.001, 0.001]
    p /= p.sum(axis=-1, keepdims=True)
    likelihood = ((1 - floor) * p / shares + floor).astype(np.float32)
    begin, end = np.zeros(cells, int), np.full(cells, frames - 1)
    begin[cells // 2 :] = rng.integers(0, frames // 3, cells - cells // 2)
    end[: cells // 4] = rng.integers(frames // 2, frames, cells // 4)
    at = np.arange(frames)
    likelihood[(at < begin[:, None]) | (at > end[:, None])] = 1
    return state, Looks(likelihood, begin, end)


def main() -> None:
    """Measure all movies and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "movies.json")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=384)
    parser.add_argument("--coverage-movies", type=int, default=200)
    parser.add_argument("--only", nargs="+", help="names of movies, or coverage; others are kept")
    options = parser.parse_args()
    report: dict = {"movies": {}, "coverage": []}
    if options.only and options.out.exists():
        report = json.loads(options.out.read_text(encoding="utf-8"))
    for number, (name, movie_plan) in enumerate(plans(options.frames, options.side).items()):
        if options.only and name not in options.only:
            continue
        row, of_pairs = measure(movie_plan, SEED + number)
        report["movies"][name] = row | {"side_px": options.side, "pairs": summed(of_pairs)}
        print(name, json.dumps(row, default=float), flush=True)
        write_json(report, options.out, True)
    if not options.only or "coverage" in options.only:
        cases = (0.002, 5, 0), (0.0005, 5, 0), (0.002, 3, 0), (0.002, 5, 0.003), (0, 4, 0.003)
        report["coverage"] = [coverage(*case, options.coverage_movies) for case in cases]
        write_json(report, options.out, True)


def summed(of_pairs: list[dict]) -> dict:
    """Count how many offsets of pairs are right, and of those that are sure."""
    sure = [pair for pair in of_pairs if pair["probability"] >= MovieSettings().least_link]
    return {
        "pairs": len(of_pairs),
        "right": sum(pair["right"] for pair in of_pairs),
        "sure": len(sure),
        "sure_right": sum(pair["right"] for pair in sure),
    }


if __name__ == "__main__":
    main()
