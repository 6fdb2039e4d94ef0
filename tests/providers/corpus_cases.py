"""The corpus: recorded answers of providers, and what they become; see tests/corpus/README.rst.

Run as a script with the paths of cases it writes what our code makes of them now, to be read
before it is committed.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from choreo_wsgi import sse
from choreo_wsgi.chat import ChatRequest, parse
from choreo_wsgi.chunks import ChunkEncoder, Item
from choreo_wsgi.encoded import EncodedFrames, FoldedReply
from choreo_wsgi.errors import ChoreoError
from choreo_wsgi.providers import provider_class
from choreo_wsgi.providers.http import HTTPProvider, Translator
from choreo_wsgi.settings import Settings
from choreo_wsgi.source import Source

CORPUS = Path(__file__).parents[1] / "corpus"
KEY = "test-key"
OPTIONS = {
    "azure": {"base_url": "https://example.openai.azure.com"},
    "bedrock": {"region": "eu-west-1"},
    "ollama": {"base_url": "http://127.0.0.1:11434"},
}


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

    def provider(self, **options: str) -> HTTPProvider:
        """Return the case's provider, with *options* besides."""
        given = {"api_key": KEY, **OPTIONS.get(self.provider_type, {})}
        given |= self.json("options.json") or {}
        made = provider_class(self.provider_type)(
            self.provider_type, {**given, **options}, Settings()
        )
        assert isinstance(made, HTTPProvider)
        return made

    @cached_property
    def request(self) -> ChatRequest:
        return parse((self.folder / "request.json").read_bytes())

    @cached_property
    def _own_provider(self) -> HTTPProvider:
        provider = self.provider()
        provider.close()
        return provider

    def translator(self) -> Translator:
        """Return what reads the answer; calls without ids get call_1, call_2 and so on."""
        numbers = itertools.count(1)
        self._own_provider.new_call_id = lambda: f"call_{next(numbers)}"
        return self._own_provider.translator(self.request)

    def error(self, status: int, headers: dict[str, str], body: bytes) -> ChoreoError:
        return self._own_provider.error(status, headers, body)

    @cached_property
    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body that the provider sent."""
        head, _, body = (self.folder / "upstream.http").read_bytes().partition(b"\r\n\r\n")
        line, *fields = head.decode("ascii").split("\r\n")
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers, body


def cases(provider_type: str = "*") -> list[Case]:
    """Return the cases, in order."""
    return [Case(path.parent) for path in sorted(CORPUS.glob(f"{provider_type}/*/upstream.http"))]


class Recorded(Source):
    """An answer that comes in *pieces*, read by *translator*."""

    def __init__(self, translator: Translator, pieces: Sequence[bytes]) -> None:
        self._translator = translator
        self._pieces: Iterator[bytes] = iter(pieces)

    def receive(self, timeout: float) -> list[Item]:
        piece = None if self._translator.ended else next(self._pieces, None)
        if piece is not None:
            return self._translator.receive_data(piece)
        items = self._translator.end()
        self.ended = True
        return items


def request_sent(case: Case) -> dict[str, Any]:
    """Return what our adapter sends for the case."""
    provider = case.provider()
    try:
        request = provider.encode(case.request)
    finally:
        provider.close()
    return {
        "method": request.method,
        "url": request.url,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": json.loads(request.body),
    }


def encoder(case: Case) -> ChunkEncoder:
    asked = case.request
    return ChunkEncoder("chatcmpl-corpus", 1700000000, asked.model, asked.include_usage)


def play(case: Case, pieces: Sequence[bytes]) -> tuple[bytes, ChoreoError | None]:
    """Return the frames for the answer in *pieces*, and how it failed."""
    source = Recorded(case.translator(), pieces)
    frames = EncodedFrames(source, encoder(case), case.request.n, "corpus")
    out = b""
    try:
        while not frames.ended:
            out += frames.receive(0)
    except ChoreoError as error:
        return out, error
    return out + sse.DONE, None


def fold(case: Case) -> bytes:
    """Return the plain completion that the answer folds to."""
    source = Recorded(case.translator(), [case.answer[2]])
    reply = FoldedReply(source, encoder(case), case.request.n, "corpus")
    while not reply.ended:
        document = reply.receive(0)
    return document


def refusal(error: ChoreoError) -> dict[str, Any]:
    """Return the plain answer for a failure before the first frame."""
    headers = {name.lower(): value for name, value in error.response_headers()}
    return {"status": error.status, "headers": headers, "body": json.loads(error.body())}


def outcome(case: Case, pieces: Sequence[bytes] | None = None) -> bytes | dict[str, Any]:
    """Return the bytes that the client gets, or the plain answer when there is no stream."""
    status, headers, body = case.answer
    kind = headers["content-type"].partition(";")[0]
    if status != 200 or kind in ("text/html", "application/json"):
        return refusal(case.error(status, headers, body))
    frames, error = play(case, [body] if pieces is None else pieces)
    if error is not None and not frames:
        return refusal(error)
    return frames if error is None else frames + sse.frame(error.body())


def _write(case: Case) -> None:
    def dump(name: str, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (case.folder / name).write_text(text + "\n", "utf-8")

    dump("upstream_request.json", request_sent(case))
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
