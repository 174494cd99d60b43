"""A movie in one figure: defects and births against dose or time, where they are, the links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_point_defects.materials import LATTICE_VECTORS, DefectClass
from napari_point_defects.movies.events import BORN, HEALED
from napari_point_defects.movies.tables import axis_of, counts_by_history
from napari_point_defects.palettes import colours_in_use

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from napari_point_defects.movies.analysis import Movie

_RIM = "#303030"
_BORN, _HEALED, _RATE = "#b3261e", "#2e7d32", "#8a8a8a"
_MOST_SAMPLES = 700


def movie_figure(movie: Movie) -> Figure:
    """Draw a movie on white paper."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 8.0), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 3)
    draw_counts(axes[0, 0], movie)
    draw_births(axes[0, 1], movie)
    _draw_links(axes[0, 2], movie)
    _draw_frame(axes[1, 0], movie, movie.frames[0].index)
    _draw_frame(axes[1, 1], movie, movie.frames[-1].index)
    _draw_map(figure, axes[1, 2], movie)
    return figure


def draw_counts(ax: Axes, movie: Movie, *, ink: str = "black", legend: bool = True) -> None:
    """Draw the share of cells of each kind of defect, against dose, time or frame."""
    counts = counts_by_history(movie)
    total = counts.sum(axis=1)
    seen = np.flatnonzero(total)
    at, title = axis_of(movie, seen)
    for kind, label in zip(DefectClass, movie.material.class_labels, strict=True):
        if kind and counts[:, kind].any():
            ax.plot(
                at,
                100 * counts[seen, kind] / total[seen],
                ".-",
                color=colours_in_use()[kind],
                label=label,
                markeredgecolor=_RIM,
                markeredgewidth=0.3,
            )
    ax.set_title("defects in view, by all frames together", fontsize=9, color=ink)
    ax.set_ylabel("cells [%]", fontsize=8, color=ink)
    ax.set_xlabel(title, fontsize=8, color=ink)
    ax.set_ylim(bottom=0)
    if legend and ax.lines:
        ax.legend(fontsize=7, frameon=False, labelcolor=ink)
    _plain(ax, ink)


def draw_births(ax: Axes, movie: Movie, *, ink: str = "black") -> None:
    """Draw how many vacancies were made and healed up to each frame, and the rate's band."""
    frames = np.arange(len(movie.stack))
    at, title = axis_of(movie, frames)
    rate = movie.rates["cells becoming defective"]
    at_risk = _at_risk(movie)
    share = np.cumsum(at_risk) / max(at_risk.sum(), 1)
    ax.fill_between(at, rate.low * share, rate.high * share, color=_RATE, alpha=0.3, linewidth=0)
    ax.plot(at, rate.events * share, color=_RATE, linewidth=1, label="rate, 95 %")
    for kind, colour, label in ((BORN, _BORN, "made"), (HEALED, _HEALED, "healed")):
        events = [e.frame for e in movie.events if e.kind == kind and e.migration < 0]
        count = np.cumsum(np.bincount(np.array(events, int), minlength=len(frames)))
        ax.step(at, count, where="post", color=colour, label=label)
    ax.set_title("made and healed, without migration", fontsize=9, color=ink)
    ax.set_ylabel("cells so far", fontsize=8, color=ink)
    ax.set_xlabel(title, fontsize=8, color=ink)
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=7, frameon=False, labelcolor=ink, loc="upper left")
    _plain(ax, ink)


def _at_risk(movie: Movie) -> np.ndarray:
    """Perfect cells that could have become defective up to each frame, shape (T,)."""
    classes = movie.histories.classes
    found = np.zeros(classes.shape[1])
    found[1:] = ((classes[:, :-1] == 0) & (classes[:, 1:] >= 0)).sum(axis=0)
    return found


def _draw_links(ax: Axes, movie: Movie) -> None:
    """Draw the path of the field of view; frames that are not linked are crosses below."""
    linked = [link for link in movie.links.links if link.segment >= 0]
    path = np.array([link.drift_a for link in linked])
    frames = [link.index for link in linked]
    for part in sorted({link.segment for link in linked}):
        rows = [i for i, link in enumerate(linked) if link.segment == part]
        ax.plot(path[rows, 1], path[rows, 0], "-", color=_RATE, linewidth=0.8)
    drawn = ax.scatter(path[:, 1], path[:, 0], c=frames, s=14, cmap="viridis")
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label="frame").ax.tick_params(labelsize=7)
    ax.invert_yaxis()
    ax.set_aspect("equal", adjustable="datalim")
    unlinked = len(movie.links.unlinked)
    title = "path of the field of view on the sheet"
    ax.set_title(f"{title}; {unlinked} not linked" if unlinked else title, fontsize=9)
    ax.set_xlabel("along the lattice row [a]", fontsize=8)
    ax.set_ylabel("across [a]", fontsize=8)
    _plain(ax, "black")


def _draw_frame(ax: Axes, movie: Movie, index: int) -> None:
    """Draw a frame with its defective cells, by all frames together where it is linked."""
    data = movie.stack.frame(index).data
    step = max(1, -(-max(data.shape) // _MOST_SAMPLES))
    low, high = np.nanpercentile(data[::step, ::step], (0.5, 99.5))
    extent = (-0.5, data.shape[1] - 0.5, data.shape[0] - 0.5, -0.5)
    ax.imshow(data[::step, ::step], cmap="gray", vmin=low, vmax=high, extent=extent)
    frame = next(frame for frame in movie.frames if frame.index == index)
    tracks = movie.track_of[index]
    known = movie.histories.classes[tracks, index]
    classes = np.where((tracks >= 0) & (known >= 0), known, frame.cells.classes)
    places = frame.cells.centres_px
    for kind in DefectClass:
        rows = classes == kind
        if kind and rows.any():
            ax.scatter(
                places[rows, 1],
                places[rows, 0],
                s=22,
                facecolor=colours_in_use()[kind],
                edgecolor="black",
                linewidth=0.5,
            )
    ax.set_axis_off()
    ax.set_title(f"frame {index}", fontsize=9)


def _draw_map(figure: Figure, ax: Axes, movie: Movie) -> None:
    """Draw where on the sheet vacancies were born, and when; the largest part only."""
    links = movie.links
    part = np.bincount(links.segments).argmax()
    places = links.nodes @ LATTICE_VECTORS
    mine = links.segments == part
    ax.plot(places[mine, 1], places[mine, 0], ",", color="#cccccc")
    born = [e for e in movie.events if e.kind == BORN and mine[e.track]]
    if born:
        at, title = axis_of(movie, np.array([event.frame for event in born]))
        tracks = [event.track for event in born]
        drawn = ax.scatter(
            places[tracks, 1],
            places[tracks, 0],
            c=at,
            s=22,
            cmap="viridis",
            edgecolor="black",
            linewidth=0.4,
        )
        figure.colorbar(drawn, ax=ax, shrink=0.8, label=title).ax.tick_params(labelsize=7)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.set_title("births on the sheet", fontsize=9)
    ax.set_xlabel("[a]", fontsize=8)
    _plain(ax, "black")


def _plain(ax: Axes, ink: str) -> None:
    ax.tick_params(labelsize=7, colors=ink)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_offset_text().set(size=7, color=ink)
    for spine in ax.spines.values():
        spine.set_color(ink)
        spine.set_alpha(0.4)
