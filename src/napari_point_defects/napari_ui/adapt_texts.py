"""What adapting gained, in words, and which of the new weights are worth having. No Qt."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_point_defects.evaluation import ClassScores
    from napari_point_defects.retraining.adapting import Adapted

_CLEAR = 2.0
"""Standard deviations of a difference of two counts that are called more than chance."""


def verdict(adapted: Adapted, image_name: str) -> str:
    """Say what the new weights are worth on held-out images, as rich text."""
    scores = adapted.classifier
    before, after = _wrong(scores.before), _wrong(scores.after)
    counts = f"{before:,} → {after:,} of {scores.after.n_cells:,} cells wrong"
    if abs(before - after) <= _CLEAR * np.sqrt(before + after):
        found = f"<b>no clear difference</b>, {counts}; more held-out images would tell"
    elif after < before:
        found = f"<b>better</b>, {counts}"
    else:
        found = f"<b>worse</b>, {counts}: keep the weights you have"
    lines = [f"On held-out simulated images like {escape(image_name)}:", f"CNN-2: {found}."]
    if adapted.detector is None:
        f1 = adapted.detection.f1
        lines.append(f"CNN-1: kept, it finds the hexagons of such images (F1 {f1:.3f}).")
    else:
        old, new = (_f1(s) for s in (adapted.detector.before, adapted.detector.after))
        found = "<b>better</b>" if new > old else "<b>no better</b>: keep the weights you have"
        lines.append(f"CNN-1: {found} (F1 {old:.3f} → {new:.3f}).")
    return "<br>".join(lines)


def worth_using(adapted: Adapted) -> dict[str, Path]:
    """Return the files of those weights that score higher than before, by network."""
    better = {"classifier"} if adapted.is_better else set()
    detector = adapted.detector
    if detector is not None and _f1(detector.after) > _f1(detector.before):
        better.add("detector")
    return {kind: path for kind, path in adapted.weights.items() if kind in better}


def _wrong(scores: ClassScores) -> int:
    return int(scores.confusion.sum() - np.trace(scores.confusion))


def _f1(scores) -> float:
    """Return F1; 0 where nothing was found."""
    return float(np.nan_to_num(scores.f1))
