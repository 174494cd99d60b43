"""A lattice's bending as JSON holds it, in training sets and in the label store."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_point_defects.records import Bending


def bending_fields(bending: Bending) -> dict[str, Any]:
    """Return a lattice's bending as JSON knows it."""
    return {
        "field": _rounded(bending.field_px, 3),
        "origin": _rounded(bending.origin_px, 3),
        "step": _rounded(bending.step_px, 6),
    }


def bending_of(fields: dict[str, Any] | None) -> Bending | None:
    """Make a lattice's bending of what :func:`bending_fields` returned.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it is not as it must be.
    """
    if fields is None:
        return None
    field, origin, step = (np.array(fields[name], float) for name in ("field", "origin", "step"))
    if field.ndim != 3 or field.shape[2] != 2 or min(field.shape[:2]) < 2:
        raise ValueError("a bending needs a field of at least 2 x 2 displacements")
    if origin.shape != (2,) or step.shape != (2,) or not (step > 0).all():
        raise ValueError("a bending needs an origin and a step above 0 along y and x")
    if not (np.isfinite(field).all() and np.isfinite(origin).all() and np.isfinite(step).all()):
        raise ValueError("a bending must be finite")
    return Bending(field, origin, step)


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.round(values, digits).tolist()
