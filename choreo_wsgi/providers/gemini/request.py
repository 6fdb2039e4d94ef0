"""A request in the words of Gemini's ``generateContent``.

Every field is that of https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import mimetypes
import re
from contextlib import suppress

from ...chat.aside import parse_pieces, pieces
from ...chat.items import Json, Marks
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..capabilities import Capabilities, requested_effort
from ..conversation import EMPTY, Turn, conversation, merged
from ..parts import Call, Media, Part, Text
from ..support import without_empty
from ..tools import choice, functions, schema

# Gemini 3 and later demand the signatures of calls.
_UNSIGNED = re.compile(r"gemini-(1|2)")
# The numbers are those of Google's own OpenAI-compatible endpoint.
_BUDGETS = {"low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 32768}
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE", "named": "ANY"}
_GENERATION = {
    "temperature": "temperature",
    "top_p": "topP",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_MODALITIES = {"text": "TEXT", "image": "IMAGE"}

#: What stands for the signature of a call that another model made; Google's page on
#: thought signatures gives it for conversations that were moved.
_FOREIGN_SIGNATURE = "skip_thought_signature_validator"


def body(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    The model's name is in the URL.  Raises InvalidRequest, naming the parameter, for what cannot
    be sent.
    """
    chat = conversation(request, "gemini", caps)
    signed = not _UNSIGNED.match(request.model)
    made: dict[str, Json] = {
        "contents": (_content(role, run, signed, request.marks) for role, run in merged(chat.turns))
    }
    if chat.instructions:
        said = "\n\n".join(text.text for text in chat.instructions)
        made["systemInstruction"] = {"parts": [{"text": said}], "role": "user"}
    _add_tools(made, request, caps)
    return made | without_empty({"generationConfig": _generation(request, caps)})


def _generation(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    asked = request.body
    made = {theirs: asked.get(ours) for ours, theirs in _GENERATION.items()}
    modalities = asked.get("modalities") or []
    for index, modality in enumerate(modalities):
        if modality not in _MODALITIES:
            raise InvalidRequest(
                "gemini answers in text and image only", param=f"modalities[{index}]"
            )
    made |= {
        "topK": request.body.get("top_k"),
        "responseModalities": [_MODALITIES[modality] for modality in modalities],
        "maxOutputTokens": caps.limit(request.max_tokens),
        "stopSequences": list(request.stop),
        "candidateCount": request.n if request.n > 1 else None,
    }
    made = without_empty(made)
    wanted = schema(request)
    if wanted is not None:
        made["responseMimeType"] = "application/json"
        if wanted["schema"] is not None:
            made["responseJsonSchema"] = wanted["schema"]
    effort = requested_effort(request)
    if effort is not None:
        if caps.thinking != "none":
            made["thinkingConfig"] = _thinking(effort, asked.get("thinking"), caps)
        elif asked.get("reasoning_effort") not in (None, "none"):
            raise InvalidRequest(f"{request.model[:200]} does not think", param="reasoning_effort")
    return made


def _thinking(effort: str, own: Json, caps: Capabilities) -> dict[str, Json]:
    shown = {"includeThoughts": effort != "none"}
    if caps.thinking != "budget":
        return {**shown, "thinkingLevel": caps.effort(effort).upper()}
    if effort == "none" and caps.off != "no":
        return {**shown, "thinkingBudget": 0}
    budget = (own or {}).get("budget_tokens") or _BUDGETS.get(effort, caps.least)
    return {**shown, "thinkingBudget": max(caps.least, min(budget, caps.most))}


def _add_tools(made: dict[str, Json], request: ChatRequest, caps: Capabilities) -> None:
    tools = functions(request)
    if not tools:
        return
    declared = [
        without_empty({"name": tool.name, "description": tool.description})
        | {"parametersJsonSchema": tool.schema}
        for tool in tools
    ]
    made["tools"] = [{"functionDeclarations": declared}]
    mode, name = choice(request, caps)
    if mode:
        calling = {"mode": _MODES[mode], "allowedFunctionNames": [name] if name else []}
        made["toolConfig"] = {"functionCallingConfig": without_empty(calling)}


def _content(role: str, run: list[Turn], signed: bool, marks: Marks) -> dict[str, Json]:
    parts: list[dict[str, Json]] = []
    for turn in run:
        said = [made for part in turn.parts for made in _parts(part, marks)]
        if role == "assistant":
            _sign(said, turn, signed)
        parts += said
    return {"role": "user" if role == "user" else "model", "parts": parts or [{"text": EMPTY}]}


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


def _parts(part: Part, marks: Marks) -> list[dict[str, Json]]:
    if isinstance(part, Text):
        return [{"text": part.text}]
    if isinstance(part, Media):
        return [_media(part)]
    if isinstance(part, Call):
        called = {"name": part.name, "args": part.arguments}
        return [{"functionCall": {**_id(part.id), **called}}]
    response = {"error": part.text} if part.failed else _response(part.text, marks)
    result = {"name": part.name, "response": response}
    # What a tool showed stands beside its answer, which can only be an object.
    return [{"functionResponse": {**_id(part.id), **result}}, *map(_media, part.media)]


def _id(id: str) -> dict[str, Json]:
    """Return the id as Gemini knows it: those that begin so were made by us, or by others."""
    return {} if not id or id.startswith("call_") else {"id": id}


def _response(text: str, marks: Marks) -> dict[str, Json]:
    """Return a tool's *text* as the object that must be sent."""
    value = None
    if text.lstrip()[:1] == "{":
        with suppress(ValueError):
            value = parse_pieces(pieces(text, marks), marks)
    return value if isinstance(value, dict) else {"result": text}


def _media(media: Media) -> dict[str, Json]:
    signature = _signature(media.extra)
    signed = {"thoughtSignature": signature} if signature else {}
    if media.data:
        return {"inlineData": {"mimeType": media.media_type, "data": media.data}, **signed}
    data = {"fileUri": media.url}
    guessed = mimetypes.guess_type(media.url.partition("?")[0])[0]
    return {"fileData": {**data, "mimeType": guessed} if guessed else data, **signed}
