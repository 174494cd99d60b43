"""HTML by plain Python: what is text is escaped, numbers are written as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load for the page: nothing but what is in it, and no scripts at all."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --quiet: #5a6069; --paper: #ffffff;
  --line: #d5d9de; --band: #f4f6f8; --link: #0b57a4; --good: #1c6b33; --fair: #7a5200;
  --poor: #a8201a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #a3abb5;
  --paper: #17191c; --line: #3b4048; --band: #21242a; --link: #85b8ff; --good: #7fd694;
  --fair: #f0bd55; --poor: #ff9188; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 48rem; }
a { color: var(--link); }
.quiet, caption, figcaption { color: var(--quiet); font-size: .875rem; }
figure { margin: .5rem 0; } figure img { max-width: 100%; height: auto; display: block;
  background: #ffffff; }
svg { width: 100%; height: auto; max-width: 40rem; display: block; }
svg text { fill: currentColor; font: 12px system-ui, "DejaVu Sans", sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
caption { caption-side: bottom; text-align: left; padding-top: .35rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
thead th { background: var(--band); } tbody th { font-weight: 600; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.text { overflow-wrap: anywhere; }
tr.total th, tr.total td { border-top: 2px solid var(--line); }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .45em;
  border: 1px solid var(--quiet); vertical-align: -.08em; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.good { color: var(--good); } .fair { color: var(--fair); } .poor { color: var(--poor); }
.headline { font-size: 1.1rem; }
@media print { :root { --ink: #000; --quiet: #444; --paper: #fff; --line: #bbb; --band: #eee;
  --link: #000; --good: #000; --fair: #000; --poor: #000; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; } tr, figure, svg { break-inside: avoid; } }
"""


class Markup(str):
    """HTML that is safe as it stands; any other text is escaped where it is put into a page."""

    __slots__ = ()


def safe(text: object) -> Markup:
    """Return text as HTML that shows it letter by letter."""
    return text if isinstance(text, Markup) else Markup(escape(str(text), quote=True))


def joined(parts: Iterable[object]) -> Markup:
    """Put parts after one another, each in its line."""
    return Markup("\n".join(safe(part) for part in parts))


def element(tag: str, content: object = "", **attributes: object) -> Markup:
    """Return an element; ``class_`` stands for the attribute class, None leaves one out."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{named}>{safe(content)}</{tag}>")


def swatch(colour: str, text: str) -> Markup:
    """Return a patch of a class's colour with its name."""
    patch = element("span", class_="swatch", style=f"background:{colour}")
    return Markup(patch + safe(text))


def section(title: str, *parts: object) -> Markup:
    """Return a part of the page under a heading."""
    return element("section", joined([element("h2", title), *parts]))


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str = "",
    texts: int = 1,
    totals: int = 0,
) -> Markup:
    """Return a table whose rows begin with a heading of their own.

    Parameters
    ----------
    headings : sequence of str
        One for each column.
    rows : iterable of sequence
    caption : str
    texts : int
        How many columns, from the left, hold text; the others hold numbers.
    totals : int
        How many rows, at the bottom, stand under a line of their own.
    """
    rows = [list(row) for row in rows]
    kinds = ["text" if i < texts else "number" for i in range(len(headings))]
    head = (
        element("th", heading, scope="col", class_=kind)
        for heading, kind in zip(headings, kinds, strict=True)
    )
    body = []
    for number, row in enumerate(rows):
        first, *others = row
        cells = [element("th", first, scope="row")]
        cells += [
            element("td", cell, class_=kind) for cell, kind in zip(others, kinds[1:], strict=True)
        ]
        total = number == len(rows) - totals if totals else False
        body.append(element("tr", Markup("".join(cells)), class_="total" if total else None))
    parts = [
        *([element("caption", caption)] if caption else []),
        element("thead", element("tr", Markup("".join(head)))),
        element("tbody", joined(body)),
    ]
    return element("div", element("table", joined(parts)), class_="wide")


def scientific(*values: float) -> str:
    """Write numbers with three digits and one common power of ten, a dash between them.

    No line ends within one: its spaces do not break.

    Examples
    --------
    >>> scientific(0.0, 4.4e12).replace("\N{NO-BREAK SPACE}", " ")
    '0 – 4.40 × 10¹²'
    """
    if not all(math.isfinite(value) for value in values):
        return "–"
    largest = max(map(abs, values))
    power = math.floor(math.log10(largest)) if largest else 0
    text = " – ".join(f"{value / 10.0**power:.2f}" if value else "0" for value in values)
    if power:
        text += f" × 10{str(power).translate(_SUPERSCRIPTS)}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")
