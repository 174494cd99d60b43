"""Which colours stand for the classes: the paper's, or ones that colour-blind people tell apart.

Under deuteranopia the paper's red and olive are one colour. The other palette takes Okabe and
Ito's colours, and a grey that is none of them to colour-blind eyes either. Layers, legends, plots,
overlays and reports all ask :func:`colours_in_use`.

References
----------
.. [1] M. Okabe, K. Ito, Color Universal Design (2008), https://jfly.uni-koeln.de/color/.
.. [2] B. Wong, Nature Methods 8 (2011) 441, doi:10.1038/nmeth.1618.
"""

from __future__ import annotations

import os

from napari_point_defects.errors import PointDefectsError
from napari_point_defects.materials import CLASS_COLOURS, DefectClass

ENVIRONMENT = "POINT_DEFECTS_PALETTE"
"""Names another palette than the paper's, for this program and those that it starts."""

PAPER, COLOUR_BLIND = "paper", "colour-blind"

PALETTES: dict[str, dict[DefectClass, str]] = {
    PAPER: CLASS_COLOURS,
    COLOUR_BLIND: {
        DefectClass.PERFECT: "#c0c0c0",
        DefectClass.V_X1: "#d55e00",  # vermilion
        DefectClass.V_X2: "#f0e442",  # yellow
        DefectClass.V_M: "#0072b2",  # blue
        DefectClass.V_X1_V_M: "#009e73",  # bluish green
        DefectClass.V_X2_V_M: "#56b4e9",  # sky blue
    },
}
"""Colours of the classes by the palette's name, in class order."""

_chosen: str | None = None


def use_palette(name: str | None) -> None:
    """Draw in another palette from now on; None for the usual one.

    Raises
    ------
    PointDefectsError
        If there is none of that name.
    """
    global _chosen
    _chosen = None if name is None else _known(name)


def palette_in_use() -> str:
    """Return the name of the palette: the chosen one, the environment's, or the paper's."""
    return _chosen or _known(os.environ.get(ENVIRONMENT) or PAPER)


def colours_in_use() -> dict[DefectClass, str]:
    """Return the colour of each class, ``#rrggbb``, in class order."""
    return PALETTES[palette_in_use()]


def _known(name: str) -> str:
    if name not in PALETTES:
        raise PointDefectsError(f"unknown palette {name!r}: choose {' or '.join(PALETTES)}")
    return name
