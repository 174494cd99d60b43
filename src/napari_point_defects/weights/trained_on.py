"""Which materials weights have learned, as their model card says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_point_defects.json_files import read_json
from napari_point_defects.materials import MATERIALS, adopt_definitions
from napari_point_defects.weights import SHIPPED

_ADVICE = "compare some cells by eye, or train on simulated images of it (docs/own_material.md)"


def trained_materials(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the formulas that a model card lists, each once; none where it lists none."""
    return tuple(dict.fromkeys(map(str, _listed(card.get("training_set"), "materials"))))


def shipped_materials() -> tuple[str, ...]:
    """Return the formulas that both shipped networks have learned."""
    detector, classifier = (trained_materials(_read_card(kind, None)) for kind in SHIPPED)
    return tuple(formula for formula in detector if formula in classifier)


def materials_to_replay(card: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the formulas that weights with this card must not forget, known from now on.

    The shipped six where there is no card, or it lists none.

    Raises
    ------
    PointDefectsError
        If the card's definition of a material is wrong.
    """
    record = (card or {}).get("training_set")
    adopt_definitions(_listed(record, "material_definitions"), "the model card", same=False)
    return trained_materials(card or {}) or tuple(MATERIALS)


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
            known = trained_materials(_read_card(kind, path))
        except (OSError, ValueError, AttributeError, TypeError):
            continue
        if known and formula not in known:
            strangers[kind] = known
    if not strangers:
        return None
    known = tuple(dict.fromkeys(name for names in strangers.values() for name in names))
    return f"the {' and the '.join(strangers)} learned {', '.join(known)}, not {formula}: {_ADVICE}"


def with_current_warning(
    warnings: Iterable[str], formula: str, weights: Mapping[str, Path | None]
) -> list[str]:
    """Return warnings of which the one about untrained weights is that of these weights.

    The classifier may be chosen after the hexagons were found.
    """
    others = [line for line in warnings if not line.endswith(_ADVICE)]
    current = untrained_warning(formula, weights)
    return [*others, current] if current else others


def _read_card(kind: str, path: Path | None) -> dict[str, Any]:
    return read_json((path or SHIPPED[kind]).with_suffix(".json"))


def _listed(record: Any, key: str) -> Iterator[Any]:
    """Yield what a training set's record lists (of its labels) and what the sets in it do."""
    if not isinstance(record, Mapping):
        return
    for name in (key, "sets"):
        listed = record.get(name)
        for part in listed if isinstance(listed, list | tuple) else ():
            if name == key:
                yield part
            else:
                yield from _listed(part, key)
