"""Non-maximum suppression whose cost grows with the number of boxes, not with its square."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def without_doubles(boxes: np.ndarray, scores: np.ndarray, most_iou: float) -> np.ndarray:
    """Return which boxes to keep: from the best down, none that overlaps a kept one too much.

    The same as ``torchvision.ops.nms``, but only boxes whose middles are near are compared.

    Parameters
    ----------
    boxes : ndarray of shape (N, 4)
        y_min, x_min, y_max, x_max.
    scores : ndarray of shape (N,)
    most_iou : float
        Boxes that overlap by more are one.

    Returns
    -------
    ndarray of int
        Rows of the boxes to keep, best first.
    """
    # in single precision, as a network gives them: equal scores stay equal
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    boxes = np.asarray(boxes, float)[order]
    if len(boxes) < 2:
        return order
    better, worse = _overlapping(boxes, most_iou)
    kept, open_ = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    while open_.any():
        # a box is safe once every better box that overlaps it is out
        threatened = np.zeros(len(boxes), bool)
        threatened[worse] = True
        safe = open_ & ~threatened
        kept |= safe
        out = np.zeros(len(boxes), bool)
        out[worse[kept[better]]] = True
        open_ &= ~(safe | out)
        live = open_[better] & open_[worse]
        better, worse = better[live], worse[live]
    return order[kept]


def _overlapping(boxes: np.ndarray, most_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, of boxes with an IoU above ``most_iou``."""
    size = boxes[:, 2:] - boxes[:, :2]
    area = size.prod(axis=1)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    # middles farther apart along an axis, in lengths of the longer box: the IoU is less
    apart = (1 - most_iou) / (1 + most_iou) + 1e-6
    common = np.maximum(1.5 * np.median(size, axis=0), 1e-12)
    tree = cKDTree(middles / (apart * common))
    pairs = tree.query_pairs(1.0, p=np.inf, output_type="ndarray")
    # an outsize box must not widen the search for all
    outsize = np.flatnonzero((size > common).any(axis=1))
    near = tree.query_ball_point(
        middles[outsize] / (apart * common), (size[outsize] / common).max(axis=1), p=np.inf
    )
    more = [np.stack(np.broadcast_arrays(i, j), 1) for i, j in zip(outsize, near, strict=True)]
    if more:
        pairs = np.sort(np.concatenate([pairs, *more]), axis=1)
        pairs = np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
    found = [np.zeros((0, 2), int)]
    for start in range(0, len(pairs), 1_000_000):
        block = np.sort(pairs[start : start + 1_000_000], axis=1)
        first, second = boxes[block[:, 0]], boxes[block[:, 1]]
        low = np.maximum(first[:, :2], second[:, :2])
        high = np.minimum(first[:, 2:], second[:, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        union = area[block[:, 0]] + area[block[:, 1]] - shared
        found.append(block[shared > most_iou * union])
    pairs = np.concatenate(found)
    return pairs[:, 0], pairs[:, 1]
