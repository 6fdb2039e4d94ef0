"""Lists that are told page by page."""

from __future__ import annotations

from collections.abc import Mapping

from ..chat.items import Json
from ..errors import InvalidRequest


def page(
    items: list[dict[str, Json]],
    asked: Mapping[str, str],
    most: int,
    limit: int,
    after: str,
    before: str = "",
) -> dict[str, Json]:
    """Return the page of *items* that the query *asked* for.

    Its ``limit`` is at most *most*, without one it is *limit*.  *after* and *before* are the names
    of the parameters with the id of an item that the page begins behind, or ends before.  Raises
    InvalidRequest.
    """
    given = asked.get("limit", str(limit))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= most):
        raise InvalidRequest(f"limit must be from 1 to {most}", param="limit")
    size, ids = int(given), [item["id"] for item in items]
    first, last = 0, len(ids)
    for name in filter(asked.get, (after, before)):
        if asked[name] not in ids:
            raise InvalidRequest(f"{name} must be the id of one that is listed", param=name)
    if asked.get(after):
        first = ids.index(asked[after]) + 1
    if asked.get(before):
        last = ids.index(asked[before])
        data = items[max(first, last - size) : last]
    else:
        data = items[first:last][:size]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": len(data) < last - first, **ends}
