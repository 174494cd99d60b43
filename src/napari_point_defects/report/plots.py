"""Histograms of classes as SVG inside the page: sharp at any size, in the ink of the theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_point_defects.report.markup import Markup, element, joined

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 36, 20, 44
_FLOOR = 0.5  # where the logarithmic axis begins: one cell is seen


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values occur in each class.

    Attributes
    ----------
    edges : ndarray of shape (B + 1,)
    counts : ndarray of shape (C, B), int
        By class; values beyond the edges count in the first and the last bin.
    title, x_label : str
    marks : mapping of str to float
        Lines across the plot, by what they say.
    """

    edges: np.ndarray
    counts: np.ndarray
    title: str
    x_label: str
    marks: Mapping[str, float]


def histogram(
    values: np.ndarray,
    classes: np.ndarray,
    edges: np.ndarray,
    n_classes: int,
    *,
    title: str,
    x_label: str,
    marks: Mapping[str, float] | None = None,
) -> Histogram:
    """Count values by bin and class; those that are not finite are left out."""
    seen = np.isfinite(values)
    clipped = np.clip(values, edges[0], edges[-1])
    counts = [
        np.histogram(clipped[seen & (classes == number)], edges)[0] for number in range(n_classes)
    ]
    return Histogram(edges, np.array(counts), title, x_label, dict(marks or {}))


def histogram_svg(found: Histogram, colours: Sequence[str], names: Sequence[str]) -> Markup:
    """Draw each class as steps in its colour, cells on a logarithmic axis: defects are rare."""
    top = max(math.ceil(math.log10(max(found.counts.max(initial=0), 1) * 1.05)), 1)
    low, high = float(found.edges[0]), float(found.edges[-1])
    base = _HEIGHT - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(count: float) -> float:
        share = math.log10(max(count, _FLOOR) / _FLOOR) / (top - math.log10(_FLOOR))
        return base - share * (base - _TOP)

    parts = [element("title", found.title), *_axes(found, x, y, top)]
    # the rarer in front
    for number in np.argsort(-found.counts.sum(axis=1), kind="stable"):
        counts = found.counts[number]
        if not counts.any():
            continue
        points = [(x(low), base)]
        for left, right, count in zip(found.edges[:-1], found.edges[1:], counts, strict=True):
            points += [(x(left), y(count)), (x(right), y(count))]
        points.append((x(high), base))
        parts.append(
            element(
                "polygon",
                element("title", f"{names[number]}: {int(counts.sum())} cells"),
                points=" ".join(f"{px:.1f},{py:.1f}" for px, py in points),
                fill=colours[number],
                fill_opacity="0.9",
                stroke="currentColor",
                stroke_width="0.7",
            )
        )
    for name, value in found.marks.items():
        if low <= value <= high:
            parts.append(_line(x(value), _TOP, x(value), base, stroke_dasharray="5 4"))
            parts.append(_text(x(value), _TOP - 4, name, text_anchor="middle"))
    return element(
        "svg", joined(parts), viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=found.title
    )


def _axes(found: Histogram, x, y, top: int) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    parts = [_line(_LEFT, base, _WIDTH - _RIGHT, base), _line(_LEFT, _TOP, _LEFT, base)]
    for power in range(top + 1):
        at = y(10**power)
        parts.append(_line(_LEFT, at, _WIDTH - _RIGHT, at, stroke_opacity="0.18"))
        parts.append(_text(_LEFT - 6, at + 4, f"{10**power:,}", text_anchor="end"))
    for value in _ticks(float(found.edges[0]), float(found.edges[-1])):
        parts.append(_line(x(value), base, x(value), base + 4))
        parts.append(_text(x(value), base + 17, f"{value:.4g}", text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_text(middle, _HEIGHT - 8, found.x_label, text_anchor="middle"))
    turned = f"rotate(-90 13 {(_TOP + base) / 2})"
    parts.append(_text(13, (_TOP + base) / 2, "cells", text_anchor="middle", transform=turned))
    return parts


def _ticks(low: float, high: float) -> np.ndarray:
    rough = (high - low) / 6
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(m * decade for m in (1, 2, 5, 10) if m * decade >= rough)
    first = math.ceil(low / step - 1e-9)
    return step * np.arange(first, math.floor(high / step + 1e-9) + 1)


def _line(x1: float, y1: float, x2: float, y2: float, **more: object) -> Markup:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", stroke="currentColor", **ends, **more)


def _text(x: float, y: float, text: str, **more: object) -> Markup:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", **more)
