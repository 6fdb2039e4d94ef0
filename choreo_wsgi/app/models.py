"""The routes of models: which names the caller may ask for.

Models are listed in OpenAI's shape, or in Anthropic's for its clients.
"""

from __future__ import annotations

from datetime import datetime, timezone
from urllib.parse import parse_qsl

from ..chat.items import Json
from ..errors import InvalidRequest
from ..providers.routing import Router
from .request import Call
from .response import Response, json_response


def all_models(call: Call, router: Router, since: int) -> Response:
    """Return the response to ``GET /v1/models``: the models that the key may use.

    *since* is when they are said to be made, in seconds since 1970.
    """
    data = [
        _model(call, name, owner, since)
        for name, owner in router.models().items()
        if call.key.allows(name)
    ]
    if "HTTP_ANTHROPIC_VERSION" not in call.environ:
        return json_response({"object": "list", "data": data})
    return json_response(_page(data, call.environ.get("QUERY_STRING", "")))


def _page(models: list[dict[str, Json]], query: str) -> dict[str, Json]:
    """Return the page of *models* that Anthropic's ``limit``, ``after_id`` and ``before_id`` name.

    Without a limit it has up to 1,000, where Anthropic's has 20.  Raises InvalidRequest.
    """
    asked = dict(parse_qsl(query))
    ids = [model["id"] for model in models]
    limit = asked.get("limit", "1000")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= 1000):
        raise InvalidRequest("must be from 1 to 1000", param="limit")
    first, last = 0, len(ids)
    for name in ("after_id", "before_id"):
        if name in asked and asked[name] not in ids:
            raise InvalidRequest("must be the id of a model", param=name)
    if "after_id" in asked:
        first = ids.index(asked["after_id"]) + 1
    if "before_id" in asked:
        last = ids.index(asked["before_id"])
        first = max(first, last - int(limit))
    data = models[first : min(last, first + int(limit))]
    more = first > 0 if "before_id" in asked else first + len(data) < last
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": more, **ends}


def one_model(call: Call, router: Router, since: int) -> Response:
    """Return the response to ``GET /v1/models/{id}``.

    Raises ModelNotFound, and PermissionDenied for a model that the key may not use.
    """
    name = call.environ["PATH_INFO"].removeprefix("/v1/models/")
    name = name.encode("latin-1").decode("utf-8", "replace")  # PEP 3333: bytes as latin-1
    call.key.demand(name)
    return json_response(_model(call, name, router.targets(name)[0].label, since))


def _model(call: Call, name: str, owner: str, since: int) -> dict[str, Json]:
    if "HTTP_ANTHROPIC_VERSION" in call.environ:
        when = datetime.fromtimestamp(since, timezone.utc)
        created = when.isoformat().replace("+00:00", "Z")
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
    return {"id": name, "object": "model", "created": since, "owned_by": owner}
