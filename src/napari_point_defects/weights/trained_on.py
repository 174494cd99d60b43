"""Which materials weights have learned, as their model card says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_point_defects.weights import SHIPPED


def trained_materials(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the formulas that a model card lists, each once; none where it lists none."""
    return tuple(dict.fromkeys(_formulas(card.get("training_set"))))


def shipped_materials() -> tuple[str, ...]:
    """Return the formulas that both shipped networks have learned."""
    cards = (json.loads(path.with_suffix(".json").read_text()) for path in SHIPPED.values())
    first, *others = (trained_materials(card) for card in cards)
    return tuple(name for name in first if all(name in other for other in others))


def _formulas(record: Any) -> Iterator[str]:
    """Yield the formulas of a training set's record, of the sets in it and of its labels."""
    if not isinstance(record, Mapping):
        return
    yield from map(str, record.get("materials") or ())
    for part in record.get("sets") or ():
        yield from _formulas(part)
    yield from _formulas(record.get("labels"))


def untrained_warning(formula: str, weights: Mapping[str, Path | None]) -> str | None:
    """Return a line that says which networks have not learned a material; None if all have.

    Parameters
    ----------
    formula : str
    weights : mapping of str to Path
        ``detector`` and ``classifier`` with their files; None for the shipped ones.

    Notes
    -----
    A card that cannot be read is passed over: loading the weights says what is wrong with them.
    """
    strangers = {}
    for kind, path in weights.items():
        try:
            card = json.loads((path or SHIPPED[kind]).with_suffix(".json").read_text())
            known = trained_materials(card)
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        if known and formula not in known:
            strangers[kind] = known
    if not strangers:
        return None
    known = tuple(dict.fromkeys(name for names in strangers.values() for name in names))
    return (
        f"the {' and the '.join(strangers)} learned {', '.join(known)}, not {formula}: compare "
        "some cells by eye, or train on simulated images of it (docs/own_material.md)"
    )
