"""One frame of a movie: the unit cells of the domain that is followed, on its lattice's nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_point_defects import networks, pipeline
from napari_point_defects.analysed_area import Domain
from napari_point_defects.analysis_settings import AnalysisSettings
from napari_point_defects.appraisal import measure
from napari_point_defects.detections import Detection
from napari_point_defects.errors import PointDefectsError
from napari_point_defects.lattice import find_lattice, turn_between
from napari_point_defects.materials import LATTICE_VECTORS, get_material
from napari_point_defects.movies.nodes import counted_nodes
from napari_point_defects.records import Lattice, StemImage, UnitCells
from napari_point_defects.training_check import training_warnings

_OTHER_ANGLE_DEG = 20.0  # a lattice whose X and M are exchanged lies 60° off
_LEAST_SHARE = 1e-4
_BLUR_A = 0.4  # over which the brightness about a cell is averaged
_LOCAL = 2.0  # nodes over which brightness that changes slowly is taken away
_DOUBTFUL = 0.02  # cells less perfect than that are left to the pattern of defects

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Frame:
    """The cells of one frame of a movie.

    Attributes
    ----------
    index : int
        Number of the frame in the movie, from 0.
    shape : (int, int)
        Rows and columns of the image.
    lattice : Lattice
        Of the domain that is followed.
    cells : UnitCells
        Its cells, classified, one per node.
    nodes : ndarray of shape (N, 2), int
        Steps along the two lattice vectors from the lattice's origin.
    shares : ndarray of shape (6,)
        How frequent the classes were taken to be in the probabilities.
    residue : ndarray of shape (N,)
        Brightness about each cell that is not the lattice's, in its own scatter; NaN about cells
        that may be defective.
    pixel_size_nm : (float, float)
    pixel_size_source : str
    other_cells : int
        Cells of domains that are not followed.
    warnings : tuple of str
    """

    index: int
    shape: tuple[int, int]
    lattice: Lattice
    cells: UnitCells
    nodes: np.ndarray
    shares: np.ndarray
    residue: np.ndarray
    pixel_size_nm: tuple[float, float]
    pixel_size_source: str = "none"
    other_cells: int = 0
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def middle(self) -> np.ndarray:
        """Where the image's middle lies, in nodes, shape (2,)."""
        middle = (np.array(self.shape) - 1) / 2
        return self.lattice.to_canonical(middle) @ np.linalg.inv(LATTICE_VECTORS)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A frame that was skipped, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class FrameReader:
    """Finds the cells of the frames of a movie.

    Attributes
    ----------
    settings : AnalysisSettings
    """

    settings: AnalysisSettings

    def read(
        self,
        image: StemImage,
        index: int,
        before: Lattice | None,
        *,
        on_progress: Progress = lambda share, text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Frame:
        """Find and classify the cells of a frame.

        Parameters
        ----------
        image : StemImage
        index : int
        before : Lattice or None
            Of the last frame that was read.
        on_progress, should_stop : callable

        Raises
        ------
        PointDefectsError
            If the frame shows no lattice, or not that of the frames before.
        Stopped
            If ``should_stop`` said yes.
        """
        settings, detection, domain = self._detected(image, before, on_progress, should_stop)
        cells = pipeline.classify(
            image,
            detection,
            settings,
            on_progress=lambda share, text: on_progress(0.4 + 0.6 * share, text),
            should_stop=should_stop,
        )
        own = detection.domain_map.of_cells(cells) == domain.number
        shares = shares_of(cells, settings)
        others = int((~own).sum())
        warnings = detection.warnings
        if before is None:  # the first tells how all were recorded
            measured = measure(image, detection, cells, settings)
            warnings += training_warnings(measured, detection, image.data.shape, settings)
        return frame_of(
            image.data,
            index,
            domain.lattice,
            cells.take(own),
            shares,
            detection.pixel_size_nm,
            pixel_size_source=detection.pixel_size_source,
            other_cells=others,
            warnings=warnings,
        )

    def _detected(
        self,
        image: StemImage,
        before: Lattice | None,
        on_progress: Progress,
        should_stop: Callable[[], bool],
    ) -> tuple[AnalysisSettings, Detection, Domain]:
        """Detect; where X and M are named otherwise than before, with the ranks that agree."""
        settings = self.settings
        material = get_material(settings.material)
        for attempt in range(2):
            detection = pipeline.detect(
                image,
                settings,
                start=before,
                on_progress=lambda share, text: on_progress(0.4 * share, text),
                should_stop=should_stop,
            )
            if before is None:
                return settings, detection, detection.domain_map.domains[0]
            domain = nearest_domain(detection, before)
            if domain is not None:
                return settings, detection, domain
            if attempt:
                break
            rank = _agreeing_rank(image.data, settings, material, before)
            if rank is None:
                break
            settings = settings.model_copy(update={"sublattice_rank": rank})
        raise PointDefectsError(
            "its lattice is not that of the frames before: turned, of another size, or X and M "
            "cannot be told apart"
        )


def frame_of(
    data: np.ndarray,
    index: int,
    lattice: Lattice,
    cells: UnitCells,
    shares: np.ndarray,
    pixel_size_nm: tuple[float, float],
    **known,
) -> Frame:
    """Put classified cells of one domain on the nodes of its lattice.

    Of two cells on one node the first counts.

    Raises
    ------
    PointDefectsError
        If there are none.
    """
    if not len(cells):
        raise PointDefectsError("no unit cell was found")
    nodes, _ = counted_nodes(cells.centres_px, lattice, data.shape)
    nodes, rows = np.unique(nodes, axis=0, return_index=True)
    cells = cells.take(rows)
    residue = brightness_residue(data, lattice, cells, nodes)
    return Frame(index, data.shape, lattice, cells, nodes, shares, residue, pixel_size_nm, **known)


def shares_of(cells: UnitCells, settings: AnalysisSettings) -> np.ndarray:
    """Return how frequent the classes were taken to be when the cells were judged, shape (6,)."""
    shares = networks.classifier_of(settings).calibration.shares_in(cells.probabilities)
    if shares is None:
        shares = cells.probabilities.mean(axis=0)
    shares = np.maximum(shares, _LEAST_SHARE)
    return shares / shares.sum()


def nearest_domain(detection: Detection, before: Lattice) -> Domain | None:
    """Return the domain whose lattice is nearest to that of the frame before, if any is it."""
    found = []
    for domain in detection.domain_map.domains:
        angle, size = turn_between(domain.lattice, before)
        if abs(angle) < _OTHER_ANGLE_DEG:
            found.append((abs(angle) + 100 * abs(size), domain.number, domain))
    return min(found)[2] if found else None


def _agreeing_rank(data, settings: AnalysisSettings, material, before: Lattice) -> int | None:
    """Return the likeliest naming of the columns that is that of the frame before."""
    for rank in range(6):
        if rank == settings.sublattice_rank:
            continue
        angle, _ = turn_between(find_lattice(data, material, rank=rank, start=before), before)
        if abs(angle) < _OTHER_ANGLE_DEG:
            return rank
    return None


def brightness_residue(
    data: np.ndarray, lattice: Lattice, cells: UnitCells, nodes: np.ndarray
) -> np.ndarray:
    """Return what the brightness about each cell differs by from its surroundings, shape (N,).

    All cells are sampled at the same place of the lattice, so the lattice is not in it: dirt,
    ripples and adatoms are. Slow changes, which come with the scan, are taken away too.
    """
    finite = np.isfinite(data)
    filled = np.where(finite, data, np.float32(np.nanmedian(data))).astype(np.float32)
    smooth = ndimage.gaussian_filter(filled, _BLUR_A * lattice.a_px)
    values = ndimage.map_coordinates(smooth, cells.centres_px.T, order=1, mode="nearest")
    at = tuple((nodes - nodes.min(axis=0)).T)
    grid, seen = np.zeros((2, *(nodes.max(axis=0) - nodes.min(axis=0) + 1)))
    perfect = cells.probabilities[:, 0] >= 1 - _DOUBTFUL
    if perfect.sum() < 10:
        return np.full(len(nodes), np.nan)
    middle = np.median(values[perfect])
    grid[at], seen[at] = np.where(perfect, values - middle, 0), perfect
    weight = ndimage.gaussian_filter(seen, _LOCAL, mode="constant")
    mean = ndimage.gaussian_filter(grid, _LOCAL, mode="constant") / np.maximum(weight, 1e-6)
    residue = grid[at] - mean[at]
    scatter = 1.4826 * np.median(np.abs(residue[perfect]))
    if not scatter > 0:
        return np.full(len(nodes), np.nan)
    return np.where(perfect, np.clip(residue / scatter, -6, 6), np.nan)
