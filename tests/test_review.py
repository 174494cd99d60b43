"""The order of the review; known answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_point_defects.review import review_order, uncertainty


def test_uncertainty_is_one_less_the_margin():
    p = [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.1, 0.7], [np.nan] * 3, [0.3, np.nan, 0.7]]
    np.testing.assert_allclose(uncertainty(p), [0, 1, 0.5, np.nan, np.nan])
    assert uncertainty(np.empty((0, 6))).shape == (0,)


def test_order_is_least_sure_first_then_by_id():
    unsure = np.array([0.2, 0.9, np.nan, 0.2, 0.5, 0.0])
    ids = np.array([7, 1, 2, 3, 4, 5])
    assert ids[review_order(unsure, ids)].tolist() == [1, 4, 3, 7, 5]
    waiting = np.array([True, False, True, True, True, True])
    assert ids[review_order(unsure, ids, waiting)].tolist() == [4, 3, 7, 5]
    assert review_order(np.empty(0), np.empty(0, int)).tolist() == []


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_order_does_not_depend_on_that_of_the_table(rows, random):
    p = np.array(rows) + 1e-3
    p /= p.sum(axis=1, keepdims=True)
    ids = np.arange(len(p))
    shuffled = ids.copy()
    random.shuffle(shuffled)
    expected = ids[review_order(uncertainty(p), ids)]
    np.testing.assert_array_equal(
        ids[shuffled][review_order(uncertainty(p[shuffled]), ids[shuffled])], expected
    )
    values = uncertainty(p)
    assert ((values >= 0) & (values <= 1)).all()
