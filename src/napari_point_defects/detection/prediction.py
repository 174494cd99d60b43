"""Run CNN-1 over images of any size, in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import nms

from napari_point_defects.canonical import CanonicalImage, to_canonical_image
from napari_point_defects.detection.model import DetectorSettings, build_detector, input_channels
from napari_point_defects.devices import choose_device
from napari_point_defects.errors import PointDefectsError, Stopped
from napari_point_defects.materials import HEXAGON_SIZE
from napari_point_defects.records import Hexagons, Lattice
from napari_point_defects.weights import Weights, load_weights

_MERGE_IOU = 0.4  # neighbours overlap by 0.23 at most, the same hexagon in two tiles by far more
_EMPTY_SHARE = 0.02


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
        self.network.to(self.device).eval()

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
        image = to_canonical_image(data, lattice, self.settings.pixels_per_a)
        tiles = list(self._tiles(image))
        boxes, scores = [np.zeros((0, 4))], [np.zeros(0)]
        for number, corner in enumerate(tiles):
            if should_stop():
                raise Stopped
            found, score = self._predict_tile(image, corner)
            kept = score >= min_score
            boxes.append(found[kept])
            scores.append(score[kept])
            on_progress((number + 1) / len(tiles), f"tile {number + 1} of {len(tiles)}")
        boxes, scores = np.concatenate(boxes), np.concatenate(scores)
        kept = nms(
            torch.from_numpy(boxes[:, [1, 0, 3, 2]]).float(),
            torch.from_numpy(scores).float(),
            _MERGE_IOU,
        ).numpy()
        boxes, scores = boxes[kept], scores[kept]
        canonical = np.concatenate(
            [image.to_canonical(boxes[:, :2]), image.to_canonical(boxes[:, 2:])], axis=1
        )
        return Hexagons.from_canonical_boxes(canonical, scores, lattice)

    def _tiles(self, image: CanonicalImage) -> Iterator[tuple[int, int]]:
        """Corners of tiles that overlap by two hexagons; tiles that hold no image are left out."""
        side = self.settings.tile_px
        overlap = int(2 * HEXAGON_SIZE.max() * self.settings.pixels_per_a)
        starts = []
        for length in image.pixels.shape:
            count = max(1, int(np.ceil((length - overlap) / (side - overlap))))
            starts.append(np.linspace(0, max(length - side, 0), count).astype(int))
        for top in starts[0]:
            for left in starts[1]:
                tile = image.pixels[top : top + side, left : left + side]
                if np.count_nonzero(tile) > _EMPTY_SHARE * tile.size:
                    yield int(top), int(left)

    def _predict_tile(
        self, image: CanonicalImage, corner: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (y_min, x_min, y_max, x_max) in the whole image's pixels, and scores.

        A hexagon that an inner edge of the tile cuts off is left to the neighbouring tile.
        """
        side = self.settings.tile_px
        tile = image.pixels[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        tensor = torch.from_numpy(np.ascontiguousarray(tile)).to(self.device)[None]
        with torch.inference_mode():
            found = self.network([tensor.repeat(input_channels(self.settings), 1, 1)])[0]
        boxes = found["boxes"].cpu().numpy()[:, [1, 0, 3, 2]].astype(float)
        size = np.array(tile.shape)
        start = np.array(corner)
        edge = 0.5 * HEXAGON_SIZE * self.settings.pixels_per_a
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        after_start = (start == 0) | (centres >= edge)
        before_end = (start + size >= np.array(image.pixels.shape)) | (centres < size - edge)
        whole = np.all(after_start & before_end, axis=1)
        boxes = boxes[whole] + np.tile(start, 2)
        return boxes, found["scores"].cpu().numpy()[whole].astype(float)
