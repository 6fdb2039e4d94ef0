"""The routes of the public APIs, and the handlers of their requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Union

from .. import apis
from ..errors import InvalidRequest
from ..late import Late
from ..settings import Settings
from .completions import Completions
from .pending import Pending
from .request import Call, Environ, read_body, trace, while_parsing
from .response import Response, json_response

if TYPE_CHECKING:
    from . import stored
    from .resumable import Resumption
else:
    stored = Late("choreo_wsgi.app.stored")

Handler = Callable[[Call], Union[Response, Pending]]

#: The routes whose paths contain an id, and their methods.
TEMPLATES = {
    "/v1/models/{id}": ["GET"],
    "/v1/streams/{id}": ["GET", "DELETE"],
    "/v1/responses/{id}": ["GET", "DELETE"],
    "/v1/responses/{id}/cancel": ["POST"],
    "/v1/responses/{id}/input_items": ["GET"],
}
_RESPONSES = [
    (re.compile(path.replace("{id}", "[^/]+")), methods)
    for path, methods in TEMPLATES.items()
    if path.startswith("/v1/responses/")
]
#: A Responses request with one of these members needs stored responses.
_STORING = ("background", "store", "previous_response_id")


def _is_resumable(call: Call) -> bool:
    """Return whether the stream shall outlive its connection (``Choreo-Resumable: 1``)."""
    value = call.environ.get("HTTP_CHOREO_RESUMABLE", "0")
    if value not in ("0", "1"):
        raise InvalidRequest("Choreo-Resumable must be 1 or 0", param="Choreo-Resumable")
    return bool(value == "1")


def _header(environ: Environ, name: str) -> str:
    """Return the header *name* if it can be forwarded, else ``""``."""
    value: str = environ.get(name, "")
    return value if value.isascii() and value.isprintable() else ""


class Endpoints:
    """Reads the requests of every API and passes them to the component that answers them."""

    def __init__(
        self,
        completions: Completions,
        resumption: Callable[[], Resumption],
        settings: Settings,
    ) -> None:
        self._completions = completions
        self._resumption = resumption
        self._settings = settings
        self.routes: dict[str, dict[str, Handler]] = {
            path: {"POST": partial(self._complete, name=name)} for path, name in apis.ROUTES.items()
        }

    def find(self, path: str) -> Mapping[str, Handler] | None:
        """Return the handlers of a *path* with the id of a stream or a response, or None."""
        stream = path.removeprefix("/v1/streams/")
        if stream != path:
            return {
                "GET": lambda call: self._resumption().resume(call, stream),
                "DELETE": lambda call: self._resumption().cancel(call, stream),
            }
        for pattern, methods in _RESPONSES:
            if pattern.fullmatch(path):
                return dict.fromkeys(methods, lambda call: stored.route(self._resumption(), call))
        return None

    def _complete(self, call: Call, name: str) -> Response | Pending:
        """Answer a request of the API *name*."""
        api = apis.load(name)
        body = read_body(call.environ, self._settings)
        with while_parsing(len(body)):
            fields, marks = api.parse(body)
            if name == "responses" and self._settings.keep_responses:
                fields.setdefault("store", True)
            if name == "responses" and fields.get("background") and fields.get("store") is None:
                fields["store"] = True
            is_stored = name == "responses" and any(map(fields.get, _STORING))
            needs_digest = is_stored or "HTTP_CHOREO_RESUMABLE" in call.environ
            digest = hashlib.sha256(body).hexdigest() if needs_digest else ""
            del body  # so that it and the provider's are not in memory at once
            request = api.request(fields, marks)
        request.version = _header(call.environ, "HTTP_ANTHROPIC_VERSION")
        request.betas = _header(call.environ, "HTTP_ANTHROPIC_BETA")
        call.account.requested(name, request.model, trace(call))
        request.trace = call.account.trace
        if api.estimate is not None:
            call.account.key.require_model(request.model)
            target = self._completions.router.targets(request.model)[0]
            if not target.provider.forwards(name, target.model):
                return json_response(api.estimate(request))
        resumable = not is_stored and _is_resumable(call)
        if is_stored:
            return stored.StoredResponses(self._resumption(), call).create(api, request, digest)
        if resumable:
            return self._resumption().begin(call, api, request, digest)
        return self._completions.answer(call, api, request)
