"""The quality of a census in words: one line, and the table behind it. Pure: no viewer, no Qt."""

from __future__ import annotations

from html import escape

from napari_point_defects.quality import Quality

_COLOURS = {"good": "#4caf50", "fair": "#ffb300", "poor": "#ff5252", None: "#9e9e9e"}


def quality_text(quality: Quality) -> str:
    """Return the verdict with its colour, and what it rests on, as rich text."""
    words = escape(quality.line.partition(": ")[2], quote=False)
    return f"{_dot(quality.verdict)} <b>Quality {quality.verdict}</b>: {words}"


def quality_table(quality: Quality) -> str:
    """Return every figure with its verdict, as rich text."""
    rows = (
        f"<tr><td>{_dot(figure.verdict)} {figure.verdict or '–'}</td>"
        f"<td>&nbsp;{escape(figure.text, quote=False)}</td></tr>"
        for figure in quality.figures.values()
    )
    return f"<p>As classified, before your corrections:</p><table>{''.join(rows)}</table>"


def _dot(verdict: str | None) -> str:
    return f"<span style='color: {_COLOURS[verdict]}'>⬤</span>"
