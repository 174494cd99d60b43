"""Tables in Markdown, and pages that hold them between marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share in per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, spec: str) -> str:
    """Return a number, or a dash."""
    return "–" if value is None else format(value, spec)


def with_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """Return a page with what stands between ``<!-- name -->`` and ``<!-- /name -->`` replaced.

    Raises
    ------
    KeyError
        If the page lacks one of the names' marks.
    """
    for name, text in blocks.items():
        marks = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = f"{re.escape(marks[0])}.*?{re.escape(marks[1])}"
        block = f"{marks[0]}\n{text}\n{marks[1]}"
        page, found = re.subn(pattern, lambda _, block=block: block, page, flags=re.DOTALL)
        if not found:
            raise KeyError(f"the page has no mark {marks[0]}")
    return page
