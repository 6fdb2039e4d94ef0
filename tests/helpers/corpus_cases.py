"""The corpus: recorded answers of providers and our output for them; see tests/corpus/README.rst.

Run as a script with the paths of cases, it writes the current output of our code, which must be
reviewed before it is committed.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from email import message_from_string
from email.message import Message
from functools import cached_property
from pathlib import Path
from typing import Any

from choreo_wsgi import sse
from choreo_wsgi.apis.chat import ChunkWriter, CompletionWriter, Identity
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.request import ChatRequest, parse
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.settings import Settings
from choreo_wsgi.upstream.request import HTTPRequest

CORPUS = Path(__file__).parents[1] / "corpus"
KEY = "test-key"
IDENTITY = {"id": "chatcmpl-corpus", "created": 1700000000}
OPTIONS = {
    "azure": {"base_url": "https://example.openai.azure.com"},
    "bedrock": {"region": "eu-west-1"},
    "ollama": {"base_url": "http://127.0.0.1:11434"},
}


class Playback:
    """Replaces a provider's HTTP client, and returns the answer in *pieces*.

    ``sent`` has the requests, all of which get the same answer.  The head is received before the
    body, as can happen.
    """

    def __init__(self, status: int, headers: Message, pieces: Sequence[bytes]) -> None:
        self.sent: list[HTTPRequest] = []
        self._answer = (status, headers, pieces)

    def send(self, request: HTTPRequest) -> Playback:
        self.sent.append(request)
        self.status: int | None = None
        self.headers = Message()
        self.ended = False
        self._pieces = iter(self._answer[2])
        return self

    def receive(self, timeout: float) -> bytes:
        if self.status is None:
            self.status, self.headers, _ = self._answer
            return b""
        piece = next(self._pieces, None)
        self.ended = piece is None
        return piece or b""

    def finish(self) -> None:
        self.ended = True

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """One folder of the corpus."""

    folder: Path

    @property
    def provider_type(self) -> str:
        return self.folder.parent.name

    @property
    def id(self) -> str:
        return f"{self.provider_type}/{self.folder.name}"

    def json(self, name: str) -> Any:
        path = self.folder / name
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def provider(self, **options: str) -> Any:
        """Return the case's provider, with additional *options*."""
        common = {"api_key": KEY, **OPTIONS.get(self.provider_type, {})}
        common |= self.json("options.json") or {}
        cls = provider_class(self.provider_type)
        return cls(self.provider_type, {**common, **options}, Settings())

    @cached_property
    def request(self) -> ChatRequest:
        return parse((self.folder / "request.json").read_bytes())

    @cached_property
    def _provider(self) -> Any:
        provider = self.provider()
        provider.close()
        return provider

    def playing(
        self, pieces: Sequence[bytes] | None = None, file: str = "upstream.http"
    ) -> tuple[Any, Playback]:
        """Return the case's provider, and the playback of the answer in *file*, in *pieces*.

        Tool calls without ids get call_1, call_2 and so on.
        """
        status, headers, body = self.recorded(file)
        provider = self._provider
        provider.client = Playback(status, headers, [body] if pieces is None else pieces)
        numbers = itertools.count(1)
        provider.new_call_id = lambda: f"call_{next(numbers)}"
        return provider, provider.client

    @cached_property
    def answer(self) -> tuple[int, Message, bytes]:
        """The status, the headers and the body that the provider sent."""
        return self.recorded("upstream.http")

    def recorded(self, file: str) -> tuple[int, Message, bytes]:
        """Return the status, the headers and the body in *file*."""
        head, _, body = (self.folder / file).read_bytes().partition(b"\r\n\r\n")
        line, _, fields = head.decode("ascii").partition("\r\n")
        return int(line.split()[1]), message_from_string(fields), body


def cases(provider_type: str = "*") -> list[Case]:
    """Return the cases, in order."""
    return [Case(path.parent) for path in sorted(CORPUS.glob(f"{provider_type}/*/upstream.http"))]


def request_sent(case: Case) -> dict[str, Any]:
    """Return the request that our adapter sends for the case."""
    provider, playback = case.playing()
    provider.answer(case.request, writer(case)).close()
    request = playback.sent[0]
    return {
        "method": request.method,
        "url": request.url,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": json.loads(request.body),
    }


def writer(case: Case) -> ChunkWriter:
    request = case.request
    return ChunkWriter(Identity(request.model, **IDENTITY), request.include_usage)


def fold(case: Case) -> bytes:
    """Return the plain completion with the content of the answer."""
    provider, _ = case.playing()
    n = case.request.n
    writer = CompletionWriter(Identity(case.request.model, **IDENTITY), n)
    reply = Answer(provider.open(case.request), writer, n, "corpus")
    while not reply.ended:
        document = reply.receive(0)
    return document


def refusal(error: ChoreoError) -> dict[str, Any]:
    """Return the plain answer for a failure before the first frame."""
    headers = {name.lower(): value for name, value in error.response_headers()}
    return {"status": error.status, "headers": headers, "body": json.loads(error.body())}


def outcome(case: Case, pieces: Sequence[bytes] | None = None) -> bytes | dict[str, Any]:
    """Return the stream that the client gets, or the error answer if there is no stream."""
    provider, _ = case.playing(pieces)
    out = b""
    try:
        frames = provider.answer(case.request, writer(case))
        while not frames.ended:
            out += frames.receive(0)
    except ChoreoError as error:
        return out + sse.frame(error.body()) if out else refusal(error)
    return out + sse.DONE


def plain(case: Case, pieces: Sequence[bytes] | None = None) -> dict[str, Any]:
    """Return the answer to the same request without ``stream``, upstream_plain.http."""
    provider, _ = case.playing(pieces, "upstream_plain.http")
    request = replace(case.request, stream=False)
    folding = CompletionWriter(Identity(request.model, **IDENTITY), request.n)
    try:
        reply = provider.answer(request, folding)
        while not reply.ended:
            document = reply.receive(0)
    except ChoreoError as error:
        return refusal(error)
    return {"status": 200, "body": json.loads(document)}


def _write(case: Case) -> None:
    def dump(name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (case.folder / name).write_text(text + "\n", "utf-8")

    dump("upstream_request.json", request_sent(case))
    if (case.folder / "upstream_plain.http").exists():
        dump("plain.json", plain(case))
    for name in ("client.json", "client.sse", "completion.json"):
        (case.folder / name).unlink(missing_ok=True)
    result = outcome(case)
    if isinstance(result, dict):
        dump("client.json", result)
        return
    (case.folder / "client.sse").write_bytes(result)
    if result.endswith(sse.DONE):
        dump("completion.json", json.loads(fold(case)))


if __name__ == "__main__":
    for path in sys.argv[1:]:
        _write(Case(Path(path).absolute()))
