"""What was found in each frame, kept in a folder until the movie is done: a killed run goes on."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_point_defects import __version__, networks
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.json_files import read_json
from napari_point_defects.movies.frames import Frame, Refusal
from napari_point_defects.outputs import atomic_write, write_json
from napari_point_defects.records import Bending, Lattice, UnitCells
from napari_point_defects.stacks import Stack

_ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class FrameJournal:
    """A folder of frames; a :class:`~napari_point_defects.movies.analysis.FrameStore`.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @classmethod
    def open(
        cls, folder: Path, stack: Stack, settings: AnalysisSettings, *, overwrite: bool = False
    ) -> FrameJournal:
        """Begin a journal, or go on with one of the same movie and settings.

        Raises
        ------
        PointDefectsError
            If there is one of another movie, other settings, weights or another version, and it
            may not be overwritten; or the folder cannot be made.
        """
        about = json.loads(json.dumps(_about(stack, settings)))
        path = folder / _ABOUT
        if path.exists():
            try:
                known = read_json(path)
            except (OSError, ValueError):
                known = None
            if known == about:
                return cls(folder)
            if not overwrite:
                raise PointDefectsError(
                    f"{folder} holds half a run of another file, other settings or another "
                    "version: give --overwrite to begin anew, or choose another folder"
                )
            cls(folder).remove()
        write_json(about, path, overwrite)
        return cls(folder)

    def load(self, index: int) -> Frame | Refusal | None:
        """Return what was kept of a frame; None if nothing was, or it cannot be read."""
        try:
            with np.load(self._path(index), allow_pickle=False) as kept:
                return _from_arrays(dict(kept))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            return None

    def save(self, found: Frame | Refusal) -> None:
        """Keep what was found in a frame: whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **_to_arrays(found))
        with atomic_write(self._path(found.index), True) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def remove(self) -> None:
        """Delete the journal of a movie that is done; what else lies in the folder stays."""
        for path in (*self.folder.glob("frame_*.npz"), self.folder / _ABOUT):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, index: int) -> Path:
        return self.folder / f"frame_{index:06d}.npz"


def _about(stack: Stack, settings: AnalysisSettings) -> dict[str, Any]:
    """Say what the frames would be others for."""
    files = []
    for path in stack.paths:
        stat = path.stat()
        files.append([path.name, stat.st_size, stat.st_mtime_ns])
    size = stack.calibration.pixel_size_nm
    return {
        "files": files,
        "shape": list(stack.shape),
        "signal": stack.signal,
        "pixel_size_nm": None if size is None else list(size),
        "settings": settings.model_dump(mode="json"),
        "weights": [
            networks.detector_of(settings).weights.version,
            networks.classifier_of(settings).weights.version,
        ],
        "version": __version__,
    }


def _to_arrays(found: Frame | Refusal) -> dict[str, Any]:
    if isinstance(found, Refusal):
        return {"index": found.index, "reason": found.reason}
    lattice, cells = found.lattice, found.cells
    arrays = {
        "index": found.index,
        "shape": found.shape,
        "origin_px": lattice.origin_px,
        "matrix_px": lattice.matrix_px,
        "quality": lattice.quality,
        "sublattice_confidence": lattice.sublattice_confidence,
        "chalcogen_px": cells.chalcogen_px,
        "metal_px": cells.metal_px,
        "votes": cells.votes,
        "probabilities": cells.probabilities,
        "domain": cells.domain,
        "nodes": found.nodes,
        "shares": found.shares,
        "residue": found.residue,
        "pixel_size_nm": found.pixel_size_nm,
        "pixel_size_source": found.pixel_size_source,
        "other_cells": found.other_cells,
        "warnings": json.dumps(found.warnings),
    }
    if lattice.bending is not None:
        bending = lattice.bending
        arrays |= {
            "bending_px": bending.field_px,
            "bending_origin_px": bending.origin_px,
            "bending_step_px": bending.step_px,
        }
    return arrays


def _from_arrays(kept: dict[str, np.ndarray]) -> Frame | Refusal:
    index = int(kept["index"])
    if "reason" in kept:
        return Refusal(index, str(kept["reason"]))
    bending = None
    if "bending_px" in kept:
        bending = Bending(kept["bending_px"], kept["bending_origin_px"], kept["bending_step_px"])
    lattice = Lattice(
        kept["origin_px"],
        kept["matrix_px"],
        float(kept["quality"]),
        float(kept["sublattice_confidence"]),
        bending,
    )
    names = ("chalcogen_px", "metal_px", "votes", "probabilities", "domain")
    return Frame(
        index,
        tuple(int(n) for n in kept["shape"]),
        lattice,
        UnitCells(*(kept[name] for name in names)),
        kept["nodes"],
        kept["shares"],
        kept["residue"],
        tuple(float(size) for size in kept["pixel_size_nm"]),
        str(kept["pixel_size_source"]),
        int(kept["other_cells"]),
        tuple(json.loads(str(kept["warnings"]))),
    )
