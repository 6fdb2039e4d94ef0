"""The routes of models: the model names that the caller may use.

Models are listed in OpenAI's format, or in Anthropic's for its clients.
"""

from __future__ import annotations

from datetime import datetime, timezone
from urllib.parse import parse_qsl

from ..apis.pages import page
from ..chat.items import Json
from ..providers.routing import Router
from .request import Call
from .response import Response, json_response


def all_models(call: Call, router: Router, since: int) -> Response:
    """Return the response to ``GET /v1/models``: the models that the key may use.

    *since* is their creation time in the answer, in seconds since 1970.
    """
    data = [
        _model(call, name, owner, since)
        for name, owner in router.models().items()
        if call.account.key.allows(name)
    ]
    if "HTTP_ANTHROPIC_VERSION" not in call.environ:
        return json_response({"object": "list", "data": data})
    # The default page has 1000 models, not Anthropic's 20: some clients read the first page only.
    query = dict(parse_qsl(call.environ.get("QUERY_STRING", "")))
    return json_response(page(data, query, 1000, 1000, "after_id", "before_id"))


def one_model(call: Call, router: Router, since: int) -> Response:
    """Return the response to ``GET /v1/models/{id}``.

    Raises ModelNotFound, and PermissionDenied for a model that the key may not use.
    """
    name = call.environ["PATH_INFO"].removeprefix("/v1/models/")
    name = name.encode("latin-1").decode("utf-8", "replace")  # PEP 3333: bytes as latin-1
    call.account.key.require_model(name)
    return json_response(_model(call, name, router.targets(name)[0].label, since))


def _model(call: Call, name: str, owner: str, since: int) -> dict[str, Json]:
    if "HTTP_ANTHROPIC_VERSION" in call.environ:
        when = datetime.fromtimestamp(since, timezone.utc)
        created = when.isoformat().replace("+00:00", "Z")
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
    return {"id": name, "object": "model", "created": since, "owned_by": owner}
