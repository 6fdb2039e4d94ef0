"""The objects in the events of the Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...chat import jsontext
from ...chat.items import Json, Usage

#: What a response repeats of its request, and what stands there when it was not said.
REPEATED: dict[str, Json] = {
    "instructions": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "background": False,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": None,
    "store": False,
    "text": {"format": {"type": "text"}},
    "top_logprobs": 0,
    "truncation": "disabled",
    "user": None,
}


def annotation_object(annotation: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return a chat's *annotation* as Responses has it; None for one that is not known."""
    if annotation.get("type") != "url_citation":
        return None
    told = annotation.get("url_citation") or {}
    ends = {name: told.get(name) or 0 for name in ("start_index", "end_index")}
    names = {name: str(told.get(name) or "") for name in ("title", "url")}
    return {"type": "url_citation", **ends, **names}


def logprob_objects(tokens: Iterable[Json], whole: bool = True) -> list[Json]:
    """Return the *tokens* of chat's ``logprobs``: with bytes in a *whole* part, not in an event."""

    def told(one: Mapping[str, Json]) -> dict[str, Json]:
        token = str(one.get("token") or "")
        made = {"token": token, "logprob": one.get("logprob") or 0.0}
        if whole:
            made["bytes"] = one.get("bytes") or list(token.encode("utf-8", "replace"))
        return made

    return [
        {**told(one), "top_logprobs": list(map(told, one.get("top_logprobs") or ()))}
        for one in tokens
        if isinstance(one, dict)
    ]


@dataclass
class OpenItem:
    """An output item that is being written: where it stands and what came of it so far."""

    index: int
    item: dict[str, Json]
    kind: str  # the kind of text that it is filled with
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)
    before: str = ""  # a text delta's event up to its text, and behind it
    after: str = ""

    @property
    def is_summary(self) -> bool:
        """Whether its text is the summary of some reasoning."""
        return self.kind == "reasoning_summary_text"

    def place(self) -> dict[str, Json]:
        """Return what an event about it, or about its one part, says of it."""
        where = {"item_id": self.item["id"], "output_index": self.index}
        if self.item["type"].endswith("_call"):
            return where
        return {**where, "summary_index" if self.is_summary else "content_index": 0}

    def fill(self) -> dict[str, Json]:
        """Put what came so far into the item; return its part."""
        part = part_object(self.kind, "".join(self.pieces))
        if self.kind == "output_text":
            part |= {"annotations": self.annotations, "logprobs": logprob_objects(self.logprobs)}
        self.item["summary" if self.is_summary else "content"] = [part]
        return part


def part_object(kind: str, text: str) -> dict[str, Json]:
    """Return the content part, or the part of a summary, that holds *text*."""
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": "summary_text" if kind == "reasoning_summary_text" else kind, "text": text}


def custom_input(arguments: str) -> str:
    """Return the text in the arguments of a function that stands for a custom tool."""
    try:
        return str(jsontext.parse(arguments)["input"])
    except (ValueError, KeyError, TypeError):
        return arguments


def usage_object(usage: Usage | None) -> dict[str, Json] | None:
    """Return the ``usage`` of a response; None when the provider did not report any."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total,
    }
