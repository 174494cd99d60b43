"""Run CNN-1 over images of any size, in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from napari_point_defects.canonical import Resampler, to_canonical_image
from napari_point_defects.detection.model import DetectorSettings, build_detector, input_channels
from napari_point_defects.detection.overlaps import without_doubles
from napari_point_defects.devices import choose_device
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.folded_networks import folded
from napari_point_defects.materials import HEXAGON_SIZE
from napari_point_defects.records import Hexagons, Lattice
from napari_point_defects.weights import Weights, load_weights

_MERGE_IOU = 0.4  # neighbours overlap by 0.23 at most, the same hexagon in two tiles by far more
_EMPTY_SHARE = 0.02
_WHOLE_PX = 25_000_000  # canonical pixels that are held at once: 100 MB
_PIECE_PX = 2048  # side of a piece of a larger image


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a canonical image, with the tiles in it.

    Attributes
    ----------
    pixels : ndarray of shape (M, N), float32
    corner : (int, int)
        Its first pixel in the whole.
    whole : (int, int)
        Size of the whole canonical image.
    whole_origin : ndarray of shape (2,)
        Canonical position of the whole's first pixel.
    tiles : list of (int, int)
        Corners in the whole.
    share : (float, float)
        How much of the work is done before and after it.
    """

    pixels: np.ndarray
    corner: tuple[int, int]
    whole: tuple[int, int]
    whole_origin: np.ndarray
    tiles: list[tuple[int, int]]
    share: tuple[float, float]


class Detector:
    """CNN-1 with its weights, ready to predict.

    Parameters
    ----------
    weights : Path, optional
        Default: the shipped ones.
    device : str

    Raises
    ------
    PointDefectsError
        If the weights cannot be used.
    """

    def __init__(self, weights: Path | None = None, device: str = "auto") -> None:
        self.weights: Weights = load_weights("detector", weights)
        self.device = choose_device(device)
        try:
            self.settings = DetectorSettings.model_validate(self.weights.card["settings"])
            self.network = build_detector(
                self.settings.model_copy(update={"backbone_weights": None})
            )
            self.network.load_state_dict(self.weights.tensors)
        except (RuntimeError, ValueError) as error:
            raise PointDefectsError(
                f"{self.weights.path} does not fit this program's detector; train it again"
            ) from error
        on_processor = self.device.type == "cpu"
        self.network = folded(self.network) if on_processor else self.network.to(self.device)
        self.network.eval()

    def predict(
        self,
        data: np.ndarray,
        lattice: Lattice,
        *,
        min_score: float = 0.4,
        on_progress: Callable[[float, str], None] = lambda share, text: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Hexagons:
        """Find the hexagonal cells of an image.

        Parameters
        ----------
        data : ndarray of shape (M, N)
            NaN where nothing was recorded.
        lattice : Lattice
        min_score : float
            Hexagons with a lower score are dropped.
        on_progress, should_stop : callable

        Returns
        -------
        Hexagons

        Raises
        ------
        Stopped
            If ``should_stop`` said yes.
        """
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        origin = np.zeros(2)
        for piece in self._pieces(data, lattice):
            origin = piece.whole_origin
            for number, corner in enumerate(piece.tiles):
                if should_stop():
                    raise Stopped
                found, score = self._predict_tile(piece, corner)
                kept = score >= min_score
                boxes.append(found[kept])
                scores.append(score[kept])
                within = (number + 1) / len(piece.tiles)
                share = piece.share[0] + (piece.share[1] - piece.share[0]) * within
                on_progress(share, f"{share:.0%} of the image")
        boxes, scores = np.concatenate(boxes), np.concatenate(scores)
        kept = without_doubles(boxes, scores, _MERGE_IOU)
        boxes, scores = boxes[kept], scores[kept]
        canonical = boxes / self.settings.pixels_per_a + np.tile(origin, 2)
        return Hexagons.from_canonical_boxes(canonical, scores, lattice)

    def _pieces(self, data: np.ndarray, lattice: Lattice) -> Iterator[_Piece]:
        """Resample an image: at once, or, where it is large, some tiles at a time."""
        source = Resampler(data, lattice, self.settings.pixels_per_a)
        if np.prod(source.shape) <= _WHOLE_PX:
            image = to_canonical_image(data, lattice, self.settings.pixels_per_a)
            tops, lefts = (self._starts(length) for length in image.pixels.shape)
            shape = image.pixels.shape
            yield self._piece(image.pixels, (0, 0), shape, image.origin, (tops, lefts), (0, 1))
            return
        side = self.settings.tile_px
        # as many tiles as fit, but no more of the image than that, where it is the finer one
        reach = max(side, _PIECE_PX * min(1, self.settings.pixels_per_a / lattice.a_px))
        groups = [_grouped(self._starts(length), reach - side) for length in source.shape]
        for i, tops in enumerate(groups[0]):
            for j, lefts in enumerate(groups[1]):
                corner = int(tops[0]), int(lefts[0])
                size = int(tops[-1]) + side - corner[0], int(lefts[-1]) + side - corner[1]
                flat, valid = source.part(*corner, *size)
                done = i * len(groups[1]) + j
                share = np.array([done, done + 1]) / (len(groups[0]) * len(groups[1]))
                if valid.any():
                    flat /= source.spread
                    yield self._piece(
                        flat, corner, source.shape, source.origin, (tops, lefts), share
                    )

    def _starts(self, length: int) -> np.ndarray:
        """Where tiles start that cover a length and overlap by two hexagons."""
        side = self.settings.tile_px
        overlap = int(2 * HEXAGON_SIZE.max() * self.settings.pixels_per_a)
        count = max(1, int(np.ceil((length - overlap) / (side - overlap))))
        return np.linspace(0, max(length - side, 0), count).astype(int)

    def _piece(
        self,
        pixels: np.ndarray,
        corner: tuple[int, int],
        whole: tuple[int, int],
        origin: np.ndarray,
        starts: tuple[np.ndarray, np.ndarray],
        share: Sequence[float],
    ) -> _Piece:
        """Leave out tiles that hold no image."""
        side, tiles = self.settings.tile_px, []
        for top in starts[0]:
            for left in starts[1]:
                y, x = top - corner[0], left - corner[1]
                tile = pixels[y : y + side, x : x + side]
                if np.count_nonzero(tile) > _EMPTY_SHARE * tile.size:
                    tiles.append((int(top), int(left)))
        return _Piece(pixels, corner, whole, origin, tiles, (float(share[0]), float(share[1])))

    def _predict_tile(
        self, piece: _Piece, corner: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (y_min, x_min, y_max, x_max) in the whole image's pixels, and scores.

        A hexagon that an inner edge of the tile cuts off is left to the neighbouring tile.
        """
        side = self.settings.tile_px
        y, x = corner[0] - piece.corner[0], corner[1] - piece.corner[1]
        tile = piece.pixels[y : y + side, x : x + side]
        tensor = torch.from_numpy(np.ascontiguousarray(tile)).to(self.device)[None]
        with torch.inference_mode():
            found = self.network([tensor.repeat(input_channels(self.settings), 1, 1)])[0]
        boxes = found["boxes"].cpu().numpy()[:, [1, 0, 3, 2]].astype(float)
        size = np.array(tile.shape)
        start = np.array(corner)
        edge = 0.5 * HEXAGON_SIZE * self.settings.pixels_per_a
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        after_start = (start == 0) | (centres >= edge)
        before_end = (start + size >= np.array(piece.whole)) | (centres < size - edge)
        whole = np.all(after_start & before_end, axis=1)
        boxes = boxes[whole] + np.tile(start, 2)
        return boxes, found["scores"].cpu().numpy()[whole].astype(float)


def _grouped(starts: np.ndarray, reach: float) -> list[np.ndarray]:
    """Split ascending starts into groups that span no more than ``reach``."""
    groups: list[list[int]] = []
    for start in starts:
        if not groups or start - groups[-1][0] > reach:
            groups.append([])
        groups[-1].append(start)
    return [np.array(group) for group in groups]
