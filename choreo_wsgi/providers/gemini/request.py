"""A request in the words of Gemini's ``generateContent``.

Every field is that of https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import json
import mimetypes
import re

from ...chat.items import Json
from ...chat.request import ChatRequest
from ..conversation import (
    Call,
    Media,
    Part,
    Result,
    Text,
    Turn,
    choice,
    conversation,
    functions,
    merged,
    schema,
)
from ..support import check, check_media

_BY_BUDGET = re.compile(r"gemini-(1|2)")
# The numbers are those of Google's own OpenAI-compatible endpoint.
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
_LEVELS = {"none": "MINIMAL"}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE", "named": "ANY"}
_GENERATION = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}

#: What stands for the signature of a call that another model made; Google's page on
#: thought signatures gives it for conversations that were moved.
_FOREIGN_SIGNATURE = "skip_thought_signature_validator"


def body(request: ChatRequest) -> dict[str, Json]:
    """Return the JSON object to send for *request*; the model's name is in the URL.

    Raises InvalidRequest, naming the parameter, for what cannot be sent.
    """
    check(request, "gemini")
    system, turns = conversation(request)
    signed = not _BY_BUDGET.match(request.model)
    made: dict[str, Json] = {
        "contents": [_content(role, run, signed) for role, run in merged(turns)]
    }
    if system:
        made["systemInstruction"] = {"parts": [{"text": "\n\n".join(system)}], "role": "user"}
    _add_tools(made, request)
    generation = _generation(request)
    if generation:
        made["generationConfig"] = generation
    return made


def _generation(request: ChatRequest) -> dict[str, Json]:
    asked = request.body
    made = {
        theirs: asked[ours] for ours, theirs in _GENERATION.items() if asked.get(ours) is not None
    }
    if request.max_tokens is not None:
        made["maxOutputTokens"] = request.max_tokens
    if request.stop:
        made["stopSequences"] = list(request.stop)
    if request.n > 1:
        made["candidateCount"] = request.n
    wanted = schema(request)
    if wanted is not None:
        made["responseMimeType"] = "application/json"
        if wanted.schema is not None:
            made["responseJsonSchema"] = wanted.schema
    effort = asked.get("reasoning_effort")
    if effort is not None:
        made["thinkingConfig"] = _thinking(request.model, effort)
    return made


def _thinking(model: str, effort: str) -> dict[str, Json]:
    shown = {"includeThoughts": effort != "none"}
    if _BY_BUDGET.match(model):
        return {**shown, "thinkingBudget": _BUDGETS.get(effort, _BUDGETS["high"])}
    return {**shown, "thinkingLevel": _LEVELS.get(effort, effort.upper())}


def _add_tools(made: dict[str, Json], request: ChatRequest) -> None:
    tools = functions(request)
    if not tools:
        return
    declared = []
    for function in tools:
        declaration: dict[str, Json] = {"name": function.name}
        if function.description:
            declaration["description"] = function.description
        declaration["parametersJsonSchema"] = function.parameters
        declared.append(declaration)
    made["tools"] = [{"functionDeclarations": declared}]
    wanted = choice(request)
    if wanted is not None:
        calling: dict[str, Json] = {"mode": _MODES[wanted.mode]}
        if wanted.name:
            calling["allowedFunctionNames"] = [wanted.name]
        made["toolConfig"] = {"functionCallingConfig": calling}


def _content(role: str, run: list[Turn], signed: bool) -> dict[str, Json]:
    parts: list[dict[str, Json]] = []
    for turn in run:
        said = [_part(part) for part in turn.parts]
        if role == "assistant":
            _sign(said, turn, signed)
        parts += said
    return {"role": "user" if role == "user" else "model", "parts": parts or [{"text": ""}]}


def _sign(parts: list[dict[str, Json]], turn: Turn, signed: bool) -> None:
    """Put the signatures back where they came from: on the calls, or on the last text."""
    calls = [part for part in parts if "functionCall" in part]
    for part, call in zip(calls, (p for p in turn.parts if isinstance(p, Call)), strict=True):
        signature = _signature(call.extra)
        if signature:
            part["thoughtSignature"] = signature
    # In a round of parallel calls only the first one is signed, and it must be.
    if signed and calls and not any("thoughtSignature" in part for part in calls):
        calls[0]["thoughtSignature"] = _FOREIGN_SIGNATURE
    signature = _signature(turn.message.get("extra_content"))
    texts = [part for part in parts if "text" in part]
    if signature and texts:
        texts[-1]["thoughtSignature"] = signature


def _signature(extra: Json) -> str:
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _part(part: Part) -> dict[str, Json]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Media):
        return _media(part)
    if isinstance(part, Call):
        called = {"name": part.name, "args": part.arguments}
        return {"functionCall": {**_id(part.id), **called}}
    assert isinstance(part, Result)
    result = {"name": part.name, "response": _response(part.text)}
    return {"functionResponse": {**_id(part.id), **result}}


def _id(id: str) -> dict[str, Json]:
    """Return the id as Gemini knows it: those that begin so were made by us, or by others."""
    return {} if id.startswith("call_") else {"id": id}


def _response(text: str) -> dict[str, Json]:
    """Return a tool's *text* as the object that must be sent."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"result": text}


def _media(media: Media) -> dict[str, Json]:
    check_media(media, "gemini")
    if media.data:
        return {"inlineData": {"mimeType": media.media_type, "data": media.data}}
    data = {"fileUri": media.url}
    guessed = mimetypes.guess_type(media.url.partition("?")[0])[0]
    return {"fileData": {**data, "mimeType": guessed} if guessed else data}
