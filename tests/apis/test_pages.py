"""A page of a list: the parameters that select it."""

from __future__ import annotations

import pytest

from choreo_wsgi.apis.pages import page
from choreo_wsgi.errors import InvalidRequest

ITEMS = [{"id": id} for id in "abcdef"]


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        ({}, "abc", True),
        ({"limit": "6"}, "abcdef", False),
        ({"after": "c"}, "def", False),
        ({"after": "b"}, "cde", True),
        ({"before": "c"}, "ab", False),
        ({"before": "f"}, "cde", True),
        ({"after": "a", "before": "d"}, "bc", False),
        ({"after": "a", "before": "f"}, "cde", True),
        ({"after": "d", "before": "b"}, "", False),
        ({"after": "f"}, "", False),
    ],
)
def test_query_selects_the_page(query: dict[str, str], ids: str, has_more: bool) -> None:
    found = page(ITEMS, query, 6, 3, "after", "before")
    assert "".join(item["id"] for item in found["data"]) == ids
    assert found["has_more"] == has_more
    ends = {name: found.get(name) for name in ("first_id", "last_id")}
    assert ends == {"first_id": ids[:1] or None, "last_id": ids[-1:] or None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "7"),
        ("limit", ""),
        ("limit", "\u0663"),
        ("limit", "1" * 5000),
        ("after", "x"),
        ("before", "x"),
    ],
)
def test_invalid_parameter_is_rejected_by_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        page(ITEMS, {name: value}, 6, 3, "after", "before")
    assert raised.value.param == name
