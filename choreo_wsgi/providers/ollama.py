"""Ollama, through its own API: ``POST /api/chat``, answered in JSON lines.

The fields are documented at https://docs.ollama.com/api/chat.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ..chat.aside import word
from ..chat.endings import finish_reason
from ..chat.items import Marks, new_call_id
from ..chat.longtext import LONG
from ..chat.shapes import REASONING, arguments_in, listed, reshape
from . import (
    ChatRequest,
    Delta,
    Finish,
    HTTPProvider,
    HTTPRequest,
    InvalidRequest,
    Item,
    Json,
    Secret,
    Translator,
    UpstreamInvalid,
    UpstreamTruncated,
    Usage,
    setting,
)
from .answer import BLANK
from .capabilities import Capabilities, requested_effort
from .conversation import Turn, conversation, listed_if_few
from .facts import BUILT_IN, CAPABILITIES
from .failures import provider_error
from .parts import Call, Media, Result, Text, joined
from .reading import Counts, find_error, parse_object, text
from .support import without_empty
from .tools import Function, choice, functions, schema
from .translating import image_delta
from .unfolding import document_values, unfolded
from .whole_calls import arguments, check_parts, whole_call

_SAMPLING = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
_COUNTS = Counts("prompt_eval_count", "eval_count")
#: Members of a message, or of an answer of ``/api/generate``, -> their OpenAI names.
_NAMES = {"response": "content", "thinking": "reasoning_content"}
_THINK = {"minimal": "low", "xhigh": "high", "max": "high"}


class Ollama(HTTPProvider):
    """Models on an Ollama server, or with a key those of its cloud."""

    type = "ollama"
    facts = BUILT_IN["ollama"]
    takes_marks = True
    too_long = re.compile("context length")

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``ollama``."""

        api_key: Secret = setting("", "key, sent as a bearer token if there is one")
        base_url: str = setting("http://127.0.0.1:11434", "address, without /api")
        keep_alive: str = setting("", "how long the model stays loaded, as 10m; empty: Ollama's")
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options from the environment; a key without an address is for the cloud."""
        options = super().from_environment(environment)
        return {"base_url": "https://ollama.com", **options} if "api_key" in options else options

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST /api/chat`` for *request*."""
        options = self.options
        headers = {"accept": "application/x-ndjson"}
        if options.api_key:
            headers["authorization"] = f"Bearer {options.api_key!s}"
        payload = body(request, self.capabilities(request.model))
        if options.keep_alive:
            payload["keep_alive"] = options.keep_alive
        url = f"{options.base_url.rstrip('/')}/api/chat"
        return self.post(url, headers, payload, request.marks)

    def translator(self, request: ChatRequest) -> Translator:
        return OllamaTranslator(self.settings.max_event_bytes, self.new_call_id)


def body(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    Raises InvalidRequest, naming the parameter, if the request cannot be translated.
    """
    chat = conversation(request, "ollama", caps, blanks=True, system_anywhere=True)
    fields = request.body
    options = {
        **{name: fields.get(name) for name in _SAMPLING},
        "top_k": fields.get("top_k"),
        "stop": list(request.stop),
        "num_predict": caps.limit(request.max_tokens),
    }
    payload: dict[str, Json] = {
        "model": request.model,
        "messages": (_message(turn, request.marks) for turn in (*chat.system, *chat.turns)),
        "stream": True,
        **without_empty({"options": without_empty(options)}),
    }
    for name in ("logprobs", "top_logprobs"):
        if fields.get(name):
            payload[name] = fields[name]
    _add_tools(payload, request, caps)
    form = schema(request)
    if form is not None:
        payload["format"] = form["schema"] or "json"
    effort = requested_effort(request)
    if effort is not None:
        payload["think"] = _think(effort, caps)
    return payload


def _think(effort: str, caps: Capabilities) -> str | bool:
    if effort == "none" and caps.off != "no":
        return False
    return caps.effort(effort) if caps.efforts else _THINK.get(effort, effort)


def _add_tools(payload: dict[str, Json], request: ChatRequest, caps: Capabilities) -> None:
    tools = functions(request)
    mode, _ = choice(request, caps)
    if mode in ("required", "named"):
        raise InvalidRequest("ollama cannot be forced to call a tool", param="tool_choice")
    if tools and mode != "none":
        declared = ({"type": "function", "function": _declared(tool)} for tool in tools)
        payload["tools"] = listed_if_few(declared, len(tools))


def _declared(tool: Function) -> dict[str, Json]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.schema}


def _message(turn: Turn, marks: Marks) -> dict[str, Json]:
    texts = [part.text for part in turn.parts if isinstance(part, (Text, Result))]
    message: dict[str, Json] = {"role": turn.role, "content": joined(texts, marks)}
    images: list[str] = []
    for part in turn.parts:
        if isinstance(part, Media):
            images.append(part.data)
        elif isinstance(part, Result):
            images += [media.data for media in part.media]
            message["tool_name"] = part.name
    if images:
        message["images"] = images
    reasoning = turn.message.get("reasoning_content")
    if turn.role == "assistant" and isinstance(reasoning, str) and reasoning:
        message["thinking"] = reasoning
    calls = [part for part in turn.parts if isinstance(part, Call)]
    if calls:
        found = ({"function": {"name": call.name, "arguments": call.arguments}} for call in calls)
        message["tool_calls"] = listed_if_few(found, len(calls))
    return message


class OllamaTranslator(Translator):
    """Translates the lines of a streamed chat; *limit* is the largest size of one in bytes."""

    foreign = b"<["

    def __init__(
        self, limit: int = 8 * 1024 * 1024, new_call_id: Callable[[], str] = new_call_id
    ) -> None:
        super().__init__()
        self._limit = limit
        self._new_call_id = new_call_id
        self._rest = bytearray()  # an incomplete line
        self._indented = False  # the answer is one document with line breaks
        self._call_count = 0
        self._image_count = 0
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        return self._usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        first, newline, others = data.partition(b"\n")
        self._rest += first
        if newline and not self._indented:
            self._indented = self._rest[:99].strip() == b"{" and self._rest.strip() == b"{"
        if self._indented:
            self._rest += newline + others
        elif newline:
            lines = [bytes(self._rest), *others.split(b"\n")]
            self._rest = bytearray(lines.pop())
            for line in lines:
                self._line(line, items)
        if len(self._rest) > self._limit:
            raise UpstreamInvalid(f"a line of the answer is longer than {self._limit} bytes")

    def finish(self) -> list[Item]:
        """Return the items of a last line without a line end; the answer must be done."""
        items: list[Item] = []
        if not self.ended and self._rest.strip():
            with suppress(UpstreamInvalid):  # cut inside the line: reported as truncated below
                self._line(bytes(self._rest), items)
        if not self.ended:
            raise UpstreamTruncated("the provider's stream ended before it was done")
        return items

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return *body*, an array of the objects of a stream, as lines."""
        marks: Marks = {}
        lines = document_values(body, marks)
        if not all(isinstance(line, dict) for line in lines):
            return None
        return unfolded(lines, marks, lambda _: b"", b"\n") or None

    def _line(self, line: bytes, items: list[Item]) -> None:
        line = line.strip(BLANK).removeprefix(b"data:").strip()  # some servers send SSE frames
        if self.ended or line in (b"", b"[DONE]"):
            return
        body = parse_object(self.shorten(line))
        if not isinstance(body.get("message"), dict) and (found := find_error(body)) is not None:
            raise provider_error(found)
        # An answer in the format of /api/generate has the members of the message at the top.
        message = body.get("message") or {name: body[name] for name in _NAMES.keys() & body.keys()}
        message = {_NAMES.get(name, name): value for name, value in message.items()}
        texts = map(message.get, ("content", "text", "output_text", "refusal", *REASONING))
        if len(line) > LONG and any(isinstance(one, dict | list) for one in texts):
            raise UpstreamInvalid("the provider sent long values in place of a text")
        reshape(message)
        self._message(message, items, _logprobs(body.get("logprobs")))
        if body.get("done") is True:
            self._done(body, items)

    def _message(
        self,
        message: dict[str, Json],
        items: list[Item],
        logprobs: dict[str, Json] | None,
    ) -> None:
        if message.get("reasoning_content"):
            items.append(Delta(reasoning=text(message["reasoning_content"])))
        if message.get("content") or logprobs:
            items.append(Delta(text(message.get("content")), logprobs=logprobs))
        images, calls = message.get("images") or (), listed(message.get("tool_calls"))
        check_parts(len(images) + len(calls))
        for data in images:
            media_type = "image/jpeg" if text(data).startswith("/9j/") else "image/png"
            items.append(image_delta(self._image_count, media_type, data))
            self._image_count += 1
        for call in calls:
            function = call.get("function") or call
            id = word(text(call.get("id")), self.marks) or self._new_call_id()
            name = word(text(function["name"]), self.marks)
            given = arguments(arguments_in(function), self.marks, self.marks)
            items += whole_call(self._call_count, id, name, given)
            self._call_count += 1

    def _done(self, body: dict[str, Json], items: list[Item]) -> None:
        word = text(body.get("done_reason")) or "stop"
        reason, extra = finish_reason(word, bool(self._call_count))
        items.append(Finish(reason, extra=extra))
        self._usage = _COUNTS.read(body)
        items += [self._usage] if self._usage else []
        self.ended = True


#: Limit of bytes of a token with its log probability: each becomes a number.
_LONGEST_TOKEN = 256


def _logprobs(tokens: Json) -> dict[str, Json] | None:
    """Return the ``logprobs`` of a choice; Ollama's tokens have the members of OpenAI's."""
    if not tokens:
        return None
    others = sum(len(token.get("top_logprobs") or ()) for token in tokens)
    check_parts(max(len(tokens), others // 4))
    return {"content": [_token(token) for token in tokens], "refusal": None}


def _token(token: dict[str, Json]) -> dict[str, Json]:
    output, encoded = text(token["token"]), token.get("bytes")
    if len(output.encode()) > _LONGEST_TOKEN:
        raise UpstreamInvalid(f"the provider sent a token of more than {_LONGEST_TOKEN} bytes")
    members = {"token": output, "logprob": token["logprob"]}
    members["bytes"] = list(output.encode()) if encoded is None else encoded
    if "top_logprobs" in token:
        members["top_logprobs"] = [_token(other) for other in token["top_logprobs"] or ()]
    return members
