"""Ollama, through its own API: ``POST /api/chat``, answered in JSON lines.

The fields are those of https://docs.ollama.com/api/chat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..chat.items import Delta, Finish, Item, Json, Usage, dump
from ..chat.request import ChatRequest
from ..errors import InvalidRequest, UpstreamInvalid, UpstreamTruncated
from ..settings import Secret, setting
from ..upstream import HTTPRequest
from .conversation import Call, Media, Result, Text, Turn, choice, conversation, functions, schema
from .facts import BUILT_IN
from .http import HTTPProvider, Translator
from .reading import arguments, count, new_call_id, parse_object, provider_failure, text, whole_call
from .support import check, check_media

_SAMPLING = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
_THINK = {"none": False, "minimal": "low", "xhigh": "high"}
_FINISHES = {"stop": "stop", "length": "length"}


class Ollama(HTTPProvider):
    """Models on an Ollama server; with a key also those of its cloud."""

    type = "ollama"
    facts = BUILT_IN["ollama"]

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``ollama``."""

        api_key: Secret = setting("", "key, sent as a bearer token if there is one")
        base_url: str = setting("http://127.0.0.1:11434", "address, without /api")
        keep_alive: str = setting("", "how long the model stays loaded, as 10m; theirs if empty")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options that the environment sets; a key alone is for Ollama's cloud."""
        options = super().from_environment(environment)
        return {"base_url": "https://ollama.com", **options} if "api_key" in options else options

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST /api/chat`` for *request*."""
        options = self.options
        headers = {"content-type": "application/json", "accept": "application/x-ndjson"}
        if options.api_key:
            headers["authorization"] = f"Bearer {options.api_key!s}"
        made = body(request)
        if options.keep_alive:
            made["keep_alive"] = options.keep_alive
        return HTTPRequest("POST", f"{options.base_url.rstrip('/')}/api/chat", headers, dump(made))

    def translator(self, request: ChatRequest) -> Translator:
        """Return what reads the answer's lines."""
        return OllamaTranslator(self.settings.max_event_bytes, self.new_call_id)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return *status*, and our code for conversations that are too long."""
        if status == 400 and "context length" in message:
            return 400, "context_length_exceeded"
        return status, None


def body(request: ChatRequest) -> dict[str, Json]:
    """Return the JSON object to send for *request*.

    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    check(request, "ollama")
    system, turns = conversation(request)
    messages = [{"role": "system", "content": text} for text in system]
    messages += [message for turn in turns for message in _messages(turn)]
    made: dict[str, Json] = {"model": request.model, "messages": messages, "stream": True}
    asked = request.body
    options = {name: asked[name] for name in _SAMPLING if asked.get(name) is not None}
    if request.stop:
        options["stop"] = list(request.stop)
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    if options:
        made["options"] = options
    _add_tools(made, request)
    wanted = schema(request)
    if wanted is not None:
        made["format"] = "json" if wanted.schema is None else wanted.schema
    effort = asked.get("reasoning_effort")
    if effort is not None:
        made["think"] = _THINK.get(effort, effort)
    return made


def _add_tools(made: dict[str, Json], request: ChatRequest) -> None:
    tools = functions(request)
    wanted = choice(request)
    if wanted is not None and wanted.mode in ("required", "named"):
        raise InvalidRequest("ollama cannot be made to call a tool", param="tool_choice")
    if not tools or (wanted is not None and wanted.mode == "none"):
        return
    made["tools"] = [
        {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description,
                "parameters": function.parameters,
            },
        }
        for function in tools
    ]


def _messages(turn: Turn) -> list[dict[str, Json]]:
    made: dict[str, Json] = {"role": turn.role}
    said = [part.text for part in turn.parts if isinstance(part, (Text, Result))]
    calls = [part for part in turn.parts if isinstance(part, Call)]
    if said or not calls:
        made["content"] = "".join(said)
    images = [_image(part) for part in turn.parts if isinstance(part, Media)]
    if images:
        made["images"] = images
    reasoning = turn.message.get("reasoning_content")
    if turn.role == "assistant" and isinstance(reasoning, str) and reasoning:
        made["thinking"] = reasoning
    if calls:
        made["tool_calls"] = [
            {"function": {"name": call.name, "arguments": call.arguments}} for call in calls
        ]
    for part in turn.parts:
        if isinstance(part, Result):
            made["tool_name"] = part.name
    return [made]


def _image(media: Media) -> str:
    check_media(media, "ollama")
    return media.data


class OllamaTranslator(Translator):
    """Reads the lines of a streamed chat; *limit* bounds the bytes of one."""

    def __init__(
        self, limit: int = 8 * 1024 * 1024, new_call_id: Callable[[], str] = new_call_id
    ) -> None:
        self._limit = limit
        self._new_call_id = new_call_id
        self._rest = bytearray()
        self._calls = 0
        self._usage: Usage | None = None

    @property
    def usage(self) -> Usage | None:
        """What the last line reported."""
        return self._usage

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes."""
        first, newline, others = data.partition(b"\n")
        self._rest += first
        if newline:
            lines = [bytes(self._rest), *others.split(b"\n")]
            self._rest = bytearray(lines.pop())
            for line in lines:
                self._line(line, items)
        if len(self._rest) > self._limit:
            raise UpstreamInvalid(f"a line of the answer is longer than {self._limit} bytes")

    def finish(self) -> list[Item]:
        """Return what a last line without its line end holds; the answer must be done."""
        items: list[Item] = []
        if not self.ended and self._rest.strip():
            self._last(bytes(self._rest), items)
        if not self.ended:
            raise UpstreamTruncated("the provider's stream ended before it was done")
        return items

    def _last(self, line: bytes, items: list[Item]) -> None:
        try:
            self._line(line, items)
        except UpstreamInvalid:  # cut inside the line: truncated is what it is
            return

    def _line(self, line: bytes, items: list[Item]) -> None:
        if self.ended or not line.strip():
            return
        body = parse_object(line)
        if "error" in body:
            told = body["error"]
            message = told.get("message") if isinstance(told, dict) else told
            raise provider_failure(count(body.get("status")) or 500, text(message), {})
        self._message(body.get("message") or {}, items)
        if body.get("done") is True:
            self._done(body, items)

    def _message(self, message: dict[str, Json], items: list[Item]) -> None:
        if message.get("thinking"):
            items.append(Delta(reasoning=text(message["thinking"])))
        if message.get("content"):
            items.append(Delta(text(message["content"])))
        for call in message.get("tool_calls") or ():
            function = call["function"]
            id = text(call.get("id")) or self._new_call_id()
            given = arguments(function.get("arguments"))
            items += whole_call(self._calls, id, text(function["name"]), given)
            self._calls += 1

    def _done(self, body: dict[str, Json], items: list[Item]) -> None:
        reason = text(body.get("done_reason")) or "stop"
        finish = Finish(_FINISHES.get(reason, "stop"))
        if reason not in _FINISHES:
            finish.extra = {"native_finish_reason": reason}
        if finish.reason == "stop" and self._calls:
            finish.reason = "tool_calls"
        items.append(finish)
        read, written = count(body.get("prompt_eval_count")), count(body.get("eval_count"))
        if read is not None or written is not None:
            self._usage = Usage(read or 0, written or 0)
            items.append(self._usage)
        self.ended = True
