"""Hypothesis strategies: tables of cells and hexagons as a store may hold them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from napari_point_defects.labels.tables import CELLS, HEXAGONS, STATES, complete

exact_floats = st.floats(-1e9, 1e9)
some_floats = exact_floats | st.just(np.nan)
words = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), max_size=12
)


@st.composite
def tables(draw, kind=CELLS, *, numbers=some_floats, max_size=4):
    """Complete tables; every revision is 0."""
    ids = draw(st.lists(st.integers(0, 2**40), unique=True, max_size=max_size))
    n = len(ids)

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    # a row of numbers at a time: Hypothesis is slow to draw many single ones
    table = pd.DataFrame(
        {kind.id: np.array(ids, np.int64), "state": column(st.sampled_from(STATES))}
    )
    for name in kind.codes:
        table[name] = np.array(column(st.integers(-1, 5)), np.int64)
    for name in kind.integers:
        table[name] = np.array(column(st.integers(0, 9)), np.int64)
    few = draw(st.lists(numbers, min_size=3, max_size=3))
    shift = draw(st.integers(0, 2))
    for i, name in enumerate(kind.floats):
        table[name] = np.array([few[(i + j + shift) % 3] for j in range(n)], float)
    table["weights"] = pd.Series(column(words), dtype=object)
    return complete(table, kind)


cell_tables = tables(CELLS)
hexagon_tables = tables(HEXAGONS)
