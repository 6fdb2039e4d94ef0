"""Pages of lists."""

from __future__ import annotations

from collections.abc import Mapping

from ..chat.items import Json
from ..errors import InvalidRequest


def page(
    items: list[dict[str, Json]],
    query: Mapping[str, str],
    most: int,
    default: int,
    after: str,
    before: str = "",
) -> dict[str, Json]:
    """Return the page of *items* that *query*, a request's query parameters, selects.

    The parameter ``limit`` is at most *most*, and *default* when absent.  *after* and *before*
    name the parameters that hold an item's id: the page begins after, or ends before, that item.
    Raises InvalidRequest.
    """
    limit = query.get("limit", str(default))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= most):
        raise InvalidRequest(f"limit must be from 1 to {most}", param="limit")
    size, ids = int(limit), [item["id"] for item in items]
    ends = {after: -1, before: len(ids)}
    for name in filter(query.get, ends):
        if query[name] not in ids:
            raise InvalidRequest(f"{name} must be the id of a listed item", param=name)
        ends[name] = ids.index(query[name])
    between = items[ends[after] + 1 : ends[before]]
    data = between[-size:] if query.get(before) else between[:size]
    found = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": len(data) < len(between), **found}
