"""What OpenAI-compatible upstreams get wrong in their chunks, put right.

A :class:`Repair` belongs to one stream: it takes each chunk as a parsed object and returns
what should have been sent.  Known offenders stand beside each rule.
"""

from __future__ import annotations

from ...chat.items import Json
from ...errors import UpstreamInvalid
from ..reading import provider_error
from .events import Progress, finish_error

Chunk = dict[str, Json]


class Repair:
    """Checks and repairs the chunks of one stream, and keeps *progress*.

    With *active* false nothing is changed but usage, which is always taken out: it is kept
    in ``usage`` (the API's object) together with ``usage_chunk``, the chunk it came in.
    """

    def __init__(self, progress: Progress, active: bool = True) -> None:
        self.progress = progress
        self.active = active
        self.usage: dict[str, Json] | None = None
        self.usage_chunk: Chunk | None = None
        self._calls: dict[int, dict[str, int]] = {}  # choice -> id of a tool call -> its index
        self._last_call: dict[int, int] = {}
        self._names: dict[str, Json] | None = None  # id and created, as they were first

    def take(self, chunk: Chunk) -> tuple[list[Chunk], bool]:
        """Return the chunks to send for *chunk*, and whether they differ from it.

        *chunk* may be changed.  ``usage`` is left as it is when it is null.  Raises the
        provider's error for one inside the chunk, and UpstreamInvalid for what is no chunk.
        """
        if chunk.get("error"):  # also beside choices (OpenRouter)
            raise provider_error(chunk)
        choices = chunk.get("choices")
        if not chunk and self.active:
            return [], True  # a keep-alive
        if choices is None and "usage" in chunk:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
            raise UpstreamInvalid("the provider sent an event that is not a chat chunk")
        changed = self._pin(chunk)
        if self._take_usage(chunk, choices):
            if self._only_usage(choices):
                return [], True
            changed = True
        if not choices and self.active:
            return [], True  # Azure's prompt filter results, keep-alives: clients read choices[0]
        if self.active and not chunk.get("id") and self._only_usage(choices):
            return [], True  # Azure's late filter results, without the stream's id
        late: list[Json] = []
        for choice in choices:
            changed |= self._take_choice(choice, late)
        if late:
            return [chunk, {**chunk, "choices": late}], True
        return [chunk], changed

    def _pin(self, chunk: Chunk) -> bool:
        """Keep ``id`` and ``created`` as they were first (llama.cpp's time goes on)."""
        if not self.active or not chunk.get("id"):
            return False
        if self._names is None:
            self._names = {name: chunk[name] for name in ("id", "created") if name in chunk}
        changed = any(chunk.get(name) != value for name, value in self._names.items())
        chunk.update(self._names)
        return changed

    def _take_usage(self, chunk: Chunk, choices: list[Json]) -> bool:
        """Take a chunk's usage out; it is sent in a chunk of its own (Mistral, xAI, Groq)."""
        usage = chunk.get("usage")
        if usage is None:
            groq = chunk.get("x_groq")
            usage = groq.get("usage") if isinstance(groq, dict) else None
            if not isinstance(usage, dict):
                return False
        elif isinstance(usage, dict):
            chunk["usage"] = None
        else:
            raise UpstreamInvalid("the provider's usage is not an object")
        self.usage = usage
        self.usage_chunk = {**chunk, "choices": []}
        return True

    @staticmethod
    def _only_usage(choices: list[Json]) -> bool:
        """Whether a chunk with usage has nothing else; some send ``choices:[{delta:{}}]``."""
        return not any(one.get("delta") or one.get("finish_reason") for one in choices)

    def _take_choice(self, choice: Chunk, late: list[Json]) -> bool:
        index = choice.get("index")
        changed = False
        if type(index) is not int:
            choice["index"] = index = 0
            changed = True
        self.progress.seen.add(index)
        delta = choice.get("delta")
        if delta is None:
            choice["delta"] = delta = {}
            changed = True
        if not isinstance(delta, dict):
            raise UpstreamInvalid("the provider's delta is not an object")
        calls = delta.get("tool_calls")
        if calls:
            changed |= self._take_calls(index, calls)
        reason = choice.get("finish_reason")
        if not self.active:
            if reason:
                self._finish(index, reason)
            return changed
        changed |= _rename_reasoning(delta)
        if reason is None:
            changed |= "finish_reason" not in choice
            choice.setdefault("finish_reason", None)
        else:
            changed |= self._take_finish(choice, index, delta, reason, late)
        return changed

    def _take_calls(self, choice: int, calls: Json) -> bool:
        """Give tool calls their index: dense from 0, by id (Gemini and others leave it out)."""
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise UpstreamInvalid("the provider's tool calls are not a list of objects")
        known = self._calls.setdefault(choice, {})
        changed = False
        for call in calls:
            index, id = call.get("index"), call.get("id")
            if type(index) is not int:
                if not self.active:
                    continue
                last = self._last_call.get(choice, -1)
                index = known.get(id, last + 1) if id or last < 0 else last
                call["index"] = index
                changed = True
            if isinstance(id, str) and id:
                known[id] = index
            self._last_call[choice] = index
        return changed

    def _take_finish(
        self, choice: Chunk, index: int, delta: Chunk, reason: Json, late: list[Json]
    ) -> bool:
        if reason == "":  # several write "" for null
            choice["finish_reason"] = None
            return True
        self._finish(index, reason)
        changed = False
        if reason == "stop" and index in self._calls:  # Gemini, Ollama, older vLLM
            choice["finish_reason"] = reason = "tool_calls"
            changed = True
        if any(value for key, value in delta.items() if key != "role"):
            # Content in the last chunk (Mistral, Groq) is overlooked by clients that stop
            # at the finish reason.
            choice["finish_reason"] = None
            late.append({"index": index, "delta": {}, "finish_reason": reason})
            return True
        return changed

    def _finish(self, index: int, reason: Json) -> None:
        if not isinstance(reason, str):
            raise UpstreamInvalid("the provider's finish reason is not a string")
        error = finish_error(reason)
        if error is not None:
            raise error
        self.progress.finished.add(index)

    def closing(self) -> list[Json]:
        """Return the choices that ``[DONE]`` left without a finish reason, with one."""
        if not self.active:
            return []
        return [
            {
                "index": index,
                "delta": {},
                "finish_reason": "tool_calls" if index in self._calls else "stop",
            }
            for index in self.progress.unfinished
        ]


def _rename_reasoning(delta: Chunk) -> bool:
    """Call reasoning as most clients know it (vLLM, OpenRouter and Ollama say ``reasoning``)."""
    if "reasoning" not in delta or not isinstance(delta["reasoning"], (str, type(None))):
        return False
    text = delta.pop("reasoning")
    if text is not None and not delta.get("reasoning_content"):
        delta["reasoning_content"] = text
    return True


def repair_completion(reply: dict[str, Json]) -> bool:
    """Mend a plain completion in place; return whether anything had to be."""
    changed = False
    for choice in reply["choices"]:
        message = choice["message"]
        changed |= _rename_reasoning(message)
        if message.get("tool_calls") and choice.get("finish_reason") == "stop":
            choice["finish_reason"] = "tool_calls"
            changed = True
    return changed
