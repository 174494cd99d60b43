"""Tables of a movie: its events, its frames and every cell in every frame; and their summary."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pandas as pd

from napari_point_defects import __version__, networks
from napari_point_defects.movies.analysis import Movie
from napari_point_defects.movies.chains import N_CLASSES
from napari_point_defects.movies.events import BORN, CHANGED, HEALED

FIRST_SEEN = "first seen"
"""What the table of events calls a cell that was defective when it came into view."""

RATE_METHOD = (
    "95 % interval of the posterior of the rate: likelihood of all looks under the hidden Markov "
    "model of the cells' histories, Jeffreys' prior"
)


def axis_of(movie: Movie, frames: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the values of frames along the axis of dose, time or number, and its title."""
    frames = np.asarray(frames, float)
    if movie.dose_e_nm2 is not None:
        return (frames + 1) * movie.dose_e_nm2, "dose [e/nm²]"
    if movie.frame_time_s is not None:
        return frames * movie.frame_time_s, "time [s]"
    return frames, "frame"


def counts_by_history(movie: Movie) -> np.ndarray:
    """Return how many cells seen in each frame are of each class by all frames, shape (T, 6)."""
    found = np.zeros((len(movie.stack), N_CLASSES), int)
    for index, tracks in movie.track_of.items():
        classes = movie.histories.classes[tracks[tracks >= 0], index]
        found[index] = np.bincount(classes[classes >= 0], minlength=N_CLASSES)
    return found


def events_table(movie: Movie) -> pd.DataFrame:
    """Return one row per event, and one per cell that was defective when it was first seen.

    ``became`` tells what the cell was later on; positions are those in the first frame, from the
    event on, in which the cell was seen.
    """
    labels = movie.material.class_labels
    later: dict[int, list[tuple[int, str]]] = {}
    for event in movie.events:
        later.setdefault(event.track, []).append((event.frame, labels[event.after]))
    rows = []
    for track, frame in _first_defects(movie):
        rows.append(
            {
                "kind": FIRST_SEEN,
                "track_id": track,
                "frame": frame,
                "before": "",
                "after": labels[movie.histories.classes[track, frame]],
                "probability": float(movie.histories.probability[track, frame]),
                "earliest_frame": frame,
                "latest_frame": frame,
                "migration_track": -1,
            }
        )
    for event in movie.events:
        rows.append(
            {
                "kind": event.kind,
                "track_id": event.track,
                "frame": event.frame,
                "before": labels[event.before],
                "after": labels[event.after],
                "probability": event.probability,
                "earliest_frame": event.earliest,
                "latest_frame": event.latest,
                "migration_track": event.migration,
            }
        )
    rows.sort(key=lambda row: (row["frame"], row["track_id"]))
    seen = _seen_at(movie, {row["track_id"] for row in rows})
    for row in rows:
        track, frame = row["track_id"], row["frame"]
        row["became"] = "; ".join(f"{name}@{at}" for at, name in later.get(track, []) if at > frame)
        frames, places = seen[track]
        at = min(int(np.searchsorted(frames, frame)), len(frames) - 1)
        row |= dict(
            zip(("chalcogen_y", "chalcogen_x", "metal_y", "metal_x"), places[at], strict=True)
        )
        row["node_1"], row["node_2"] = (int(n) for n in movie.links.nodes[track])
        row["part"] = int(movie.links.segments[track])
    columns = "event_id kind track_id frame time_s dose_e_nm2 before after probability "
    columns += "earliest_frame latest_frame became migration_track chalcogen_y chalcogen_x metal_y "
    columns += "metal_x node_1 node_2 part"
    table = pd.DataFrame(rows, columns=columns.split())
    table["event_id"] = np.arange(len(table))
    if len(table):
        table["time_s"], table["dose_e_nm2"] = _time_and_dose(movie, table["frame"].to_numpy())
    return table


def frames_table(movie: Movie) -> pd.DataFrame:
    """Return one row per frame of the movie, those that were skipped too.

    ``n_…`` are counts by the frame alone, ``history_…`` by all frames together.
    """
    labels = movie.material.class_labels
    by_history = counts_by_history(movie)
    kinds = pd.Series([(e.frame, e.kind) for e in movie.events], dtype=object).value_counts()
    frames = {frame.index: frame for frame in movie.frames}
    links = {link.index: link for link in movie.links.links}
    reasons = {refusal.index: refusal.reason for refusal in movie.refusals}
    indices = np.arange(len(movie.stack))
    time, dose = _time_and_dose(movie, indices)
    rows = []
    for index in indices:
        frame, link = frames.get(index), links.get(index)
        row: dict[str, Any] = {"frame": index, "time_s": time[index], "dose_e_nm2": dose[index]}
        row |= {kind: int(kinds.get((index, kind), 0)) for kind in (BORN, HEALED, CHANGED)}
        if frame is None:
            rows.append(row | {"status": "skipped", "reason": reasons.get(index, "")})
            continue
        linked = link.segment >= 0
        offset = link.offset
        counts = np.bincount(frame.cells.classes, minlength=N_CLASSES)
        area = len(frame) * frame.lattice.cell_area_px * float(np.prod(frame.pixel_size_nm))
        row |= {
            "status": "linked" if linked else "not linked",
            "reason": "" if linked else "its offset from the frames before is not certain",
            "part": link.segment,
            "n_cells": len(frame),
            "area_nm2": area,
            "offset_1": offset.step[0] if linked and offset else 0 if linked else None,
            "offset_2": offset.step[1] if linked and offset else 0 if linked else None,
            "offset_probability": 1.0
            if offset is None and linked
            else offset and offset.probability,
            "moved_y_a": link.drift_a[0],
            "moved_x_a": link.drift_a[1],
            "a_px": frame.lattice.a_px,
            "angle_deg": frame.lattice.angle_deg,
            "other_domains_cells": frame.other_cells,
            **{f"n_{name}": int(n) for name, n in zip(labels, counts, strict=True)},
        }
        if linked:
            row |= {
                f"history_{name}": int(n) for name, n in zip(labels, by_history[index], strict=True)
            }
        rows.append(row)
    return pd.DataFrame(rows)


def cells_table(movie: Movie) -> pd.DataFrame:
    """Return every cell of every frame: position, class by the frame, class by all frames.

    ``track_id`` is −1 in frames that are not linked.
    """
    labels = np.array(movie.material.class_labels)
    parts = []
    for frame, link in zip(movie.frames, movie.links.links, strict=True):
        tracks, cells = link.tracks, frame.cells
        linked = tracks >= 0
        known = np.where(linked, movie.histories.classes[tracks, frame.index], -1)
        parts.append(
            pd.DataFrame(
                {
                    "frame": frame.index,
                    "track_id": tracks,
                    "node_1": np.where(linked, movie.links.nodes[tracks, 0], frame.nodes[:, 0]),
                    "node_2": np.where(linked, movie.links.nodes[tracks, 1], frame.nodes[:, 1]),
                    "chalcogen_y": cells.chalcogen_px[:, 0],
                    "chalcogen_x": cells.chalcogen_px[:, 1],
                    "metal_y": cells.metal_px[:, 0],
                    "metal_x": cells.metal_px[:, 1],
                    "label": labels[cells.classes],
                    "confidence": cells.confidence,
                    "history_label": np.where(known >= 0, labels[known], ""),
                    "history_probability": np.where(
                        linked, movie.histories.probability[tracks, frame.index], np.nan
                    ),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def summary(movie: Movie) -> dict[str, Any]:
    """Return what a movie is in numbers, ready for JSON."""
    dose, area = movie.dose_e_nm2, movie.cell_area_nm2
    rates = {name: rate.as_dict(area, dose) for name, rate in movie.rates.items()}
    every = {name: rate.as_dict(area, dose) for name, rate in movie.rates_with_migrations.items()}
    kinds = {kind: [e for e in movie.events if e.kind == kind] for kind in (BORN, HEALED, CHANGED)}
    arrived = sum(event.migration >= 0 for event in kinds[BORN])
    chain = movie.histories.chain
    probabilities = [link.offset.probability for link in movie.links.links if link.offset]
    files = movie.settings
    return {
        "movie": movie.stack.name,
        "material": movie.material.formula,
        "frames": len(movie.stack),
        "frames_read": len(movie.frames),
        "frames_skipped": [{"frame": r.index, "reason": r.reason} for r in movie.refusals],
        "frames_not_linked": movie.links.unlinked,
        "least_offset_probability": min(probabilities, default=None),
        "parts": len(set(movie.links.segments.tolist())),
        "tracks": len(movie.links.nodes),
        "cell_frames": sum(len(frame) for frame in movie.frames),
        "pixel_size_nm": list(movie.pixel_size_nm),
        "pixel_size_source": movie.frames[0].pixel_size_source,
        "cell_area_nm2": area,
        "frame_time_s": movie.frame_time_s,
        "dose_per_frame_e_nm2": dose,
        "defective_when_first_seen": len(_first_defects(movie)),
        "events": {kind: len(found) for kind, found in kinds.items()},
        "expected_events": {kind: float(getattr(movie.histories, kind).sum()) for kind in kinds},
        "born_by_migration": arrived,
        "rates": rates,
        "rates_with_migrations": every,
        "interval": RATE_METHOD,
        "chances_per_frame": {
            "missing_chalcogens": chain.chalcogen,
            "metal_missing": chain.metal,
        },
        "warnings": movie.warnings(),
        "weights": {
            "detector": networks.detector_of(files).weights.version,
            "classifier": networks.classifier_of(files).weights.version,
        },
        "versions": {"napari-point-defects": __version__, "python": platform.python_version()},
        "settings": movie.settings.model_dump(mode="json", exclude={"region"})
        | {"movie": movie.options.model_dump(mode="json")},
    }


def findings(movie: Movie) -> list[str]:
    """Say in a line each what was found."""
    born = [event for event in movie.events if event.kind == BORN]
    moved = sum(event.migration >= 0 for event in born)
    count = {kind: sum(e.kind == kind for e in movie.events) for kind in (HEALED, CHANGED)}
    lines = [
        f"{len(movie.frames)} of {len(movie.stack)} frames, "
        f"{len(movie.links.nodes):,} cells followed",
        f"{len(_first_defects(movie))} defective when first seen, {len(born)} born"
        + (f" ({moved} of them moved in from a neighbour)" if moved else "")
        + f", {count[CHANGED]} changed, {count[HEALED]} healed",
    ]
    rate = movie.rates["cells becoming defective"].as_dict(movie.cell_area_nm2, movie.dose_e_nm2)
    low, high = rate["per_nm2_per_frame_interval95"]
    lines.append(
        f"made: {rate['per_nm2_per_frame']:.3g} per nm² and frame ({low:.2g} to {high:.2g})"
    )
    if movie.dose_e_nm2 is not None:
        low, high = rate["cross_section_per_cell_barn_interval95"]
        lines.append(
            f"cross section {rate['cross_section_per_cell_barn']:.3g} barn per cell "
            f"({low:.2g} to {high:.2g})"
        )
    return lines


def _first_defects(movie: Movie) -> list[tuple[int, int]]:
    """Tracks that were defective when they were first seen, and when that was."""
    classes = movie.histories.classes
    if not len(classes):
        return []
    first = (classes >= 0).argmax(axis=1)
    rows = np.flatnonzero(classes[np.arange(len(classes)), first] > 0)
    return [(int(row), int(first[row])) for row in rows]


def _time_and_dose(movie: Movie, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return time at the frames' beginning and dose at their end, NaN where not known."""
    time = np.nan if movie.frame_time_s is None else movie.frame_time_s
    dose = np.nan if movie.dose_e_nm2 is None else movie.dose_e_nm2
    return frames * time, (frames + 1) * dose


def _seen_at(movie: Movie, tracks: set[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return in which frames each of some tracks was seen, and where its columns lay, (K, 4)."""
    wanted = np.array(sorted(tracks), int)
    found: dict[int, tuple[list[int], list[np.ndarray]]] = {t: ([], []) for t in tracks}
    for frame, link in zip(movie.frames, movie.links.links, strict=True):
        for row in np.flatnonzero(np.isin(link.tracks, wanted)):
            frames, places = found[int(link.tracks[row])]
            frames.append(frame.index)
            cells = frame.cells
            places.append(np.concatenate([cells.chalcogen_px[row], cells.metal_px[row]]))
    return {t: (np.array(frames), np.array(places)) for t, (frames, places) in found.items()}
