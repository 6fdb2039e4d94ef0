"""Usage in the forms of other providers, and its sums."""

from __future__ import annotations

from typing import Any

import pytest

from choreo_wsgi.chat.items import Usage
from choreo_wsgi.chat.usages import complete_usage, take_usage


@pytest.mark.parametrize("name", ["usageMetadata", "usage_metadata", "token_usage", "tokenUsage"])
def test_usage_is_taken_from_other_members(name: str) -> None:
    chunk = {name: {"total_tokens": 1}, "x": 1}
    assert take_usage(chunk) == {"total_tokens": 1}
    assert chunk == {"x": 1}


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": "3", "completion_tokens": 4.0, "total_tokens": 0}, (3, 4, 0)),
        ({"prompt_tokens": "\u00b2", "completion_tokens": "\u0663"}, (0, 0, 0)),
        ({"prompt_tokens": "9" * 5000, "completion_tokens": -1}, (0, 0, 0)),
        ({"prompt_tokens": 1.5, "completion_tokens": True}, (0, 0, 0)),
        ({"input_token_count": 3, "output_token_count": 4}, (3, 4, 7)),
        ({"inputTokenCount": 3, "outputTokenCount": 4, "total_token_count": 9}, (3, 4, 9)),
    ],
)
def test_counts_are_completed(usage: dict[str, Any], counts: tuple[int, ...]) -> None:
    completed = complete_usage(usage)
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert tuple(completed[name] for name in names) == counts


def test_sum_of_usages_keeps_a_reported_total() -> None:
    added = Usage(1, 2, cached_tokens=1, total_tokens=9) + Usage(3, 4, reasoning_tokens=0)
    assert added == Usage(4, 6, cached_tokens=1, reasoning_tokens=0, total_tokens=16)
    assert added.to_dict()["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert Usage(cached_tokens=0).to_dict()["prompt_tokens_details"] == {"cached_tokens": 0}
