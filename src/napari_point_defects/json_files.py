"""JSON from disk, from anybody: whatever is wrong with it is a ``ValueError`` in few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_LONGEST = 200


def load_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises
    ------
    ValueError
        If it is no JSON, or lists in lists without end.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file says.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it holds no JSON.
    """
    return load_json(path.read_text(encoding="utf-8"))


def brief(error: BaseException) -> str:
    """Return what an error says in one short line; a missing key by its name."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    if isinstance(error, UnicodeDecodeError):
        text = "it is no text in UTF-8"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
