"""Which cells are shown: by class, by confidence, by state, by doubt. Pure: no viewer, no Qt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from napari_point_defects.napari_ui.cell_tables import STATES, open_questions


@dataclass(frozen=True, slots=True)
class CellFilter:
    """What is shown.

    Attributes
    ----------
    hidden : frozenset of str
        Names of the classes not shown.
    states : frozenset of str
        States shown.
    confidence : (float, float)
        Smallest and largest confidence of the network, 0 to 1, shown. A cell that the network
        never saw has none and is shown whatever the limits.
    only_unsure : bool
        Show only the cells that the network is unsure of and nobody has decided on.
    """

    hidden: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset(STATES)
    confidence: tuple[float, float] = (0.0, 1.0)
    only_unsure: bool = False

    def shows(self, table: pd.DataFrame) -> np.ndarray:
        """Tell which rows of a table are shown, shape (N,), bool."""
        low, high = self.confidence
        confidence = table["confidence"].to_numpy(float)
        shown = ~((confidence < low) | (confidence > high))
        if self.hidden:
            shown &= ~table["label"].isin(self.hidden).to_numpy()
        if len(self.states) < len(STATES):
            shown &= table["state"].isin(self.states).to_numpy()
        if self.only_unsure:
            shown &= open_questions(table)
        return shown
