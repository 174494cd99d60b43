"""The tables in docs are what the reports in benchmarks/results say."""

import pytest

from benchmarks.markdown import table, with_blocks
from benchmarks.tables import DOCS, pages, written


@pytest.mark.parametrize("page", pages())
def test_tables_are_those_of_the_reports(page):
    assert written(page) == (DOCS / page).read_text(), "run python -m benchmarks.tables"


def test_a_block_is_replaced_and_the_rest_kept():
    page = "before\n\n<!-- x -->\nold | \\1\n<!-- /x -->\n\nafter\n"
    text = table(["a", "b"], [["1", "\\g<0>"]])
    found = with_blocks(page, {"x": text})
    assert found == f"before\n\n<!-- x -->\n{text}\n<!-- /x -->\n\nafter\n"
    assert with_blocks(found, {"x": text}) == found


def test_a_page_without_the_mark_is_refused():
    with pytest.raises(KeyError, match="<!-- y -->"):
        with_blocks("text", {"y": "table"})
