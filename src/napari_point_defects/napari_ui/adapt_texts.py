"""What adapting gained, in words, and which of the new weights are worth having. No Qt."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_point_defects.evaluation import BoxScores
    from napari_point_defects.retraining.adapting import Adapted

_CLEAR = 2.0
"""Standard deviations of a difference of two counts that are called more than chance."""


def verdict(adapted: Adapted, image_name: str) -> str:
    """Say what the new weights are worth on held-out images, as rich text."""
    scores = adapted.classifier
    wrong = tuple(s.n_cells - int(np.trace(s.confusion)) for s in (scores.before, scores.after))
    found = _change(*wrong, f"of {scores.after.n_cells:,} cells wrong")
    lines = [f"On held-out simulated images like {escape(image_name)}:", f"CNN-2: {found}."]
    if adapted.detector is None:
        f1 = adapted.detection.f1
        lines.append(f"CNN-1: kept, it finds the hexagons of such images (F1 {f1:.3f}).")
    else:
        boxes = adapted.detector.before, adapted.detector.after
        wrong = tuple(s.wanted + s.found - 2 * s.hits for s in boxes)
        found = _change(*wrong, f"of {boxes[1].wanted:,} hexagons missed or false")
        lines.append(f"CNN-1: {found}.")
    return "<br>".join(lines)


def _change(before: int, after: int, of_what: str) -> str:
    """Say whether there are fewer errors, unless the difference may be chance."""
    counts = f"{before:,} → {after:,} {of_what}"
    if abs(before - after) <= _CLEAR * np.sqrt(before + after):
        return f"<b>no clear difference</b>, {counts}; more held-out images would tell"
    if after < before:
        return f"<b>better</b>, {counts}"
    return f"<b>worse</b>, {counts}: keep the weights you have"


def worth_using(adapted: Adapted) -> dict[str, Path]:
    """Return the files of those weights that score higher than before, by network."""
    better = {"classifier"} if adapted.is_better else set()
    detector = adapted.detector
    if detector is not None and _f1(detector.after) > _f1(detector.before):
        better.add("detector")
    return {kind: path for kind, path in adapted.weights.items() if kind in better}


def _f1(scores: BoxScores) -> float:
    """Return F1; 0 where nothing was found."""
    return float(np.nan_to_num(scores.f1))
