"""Translates a request for Gemini's ``generateContent``.

The fields are documented at https://ai.google.dev/api/generate-content.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator
from contextlib import suppress

from ...chat.aside import parse_pieces, pieces
from ...chat.items import Json, Marks
from ...chat.request import ChatRequest
from ...errors import InvalidRequest
from ..capabilities import Capabilities, requested_effort
from ..conversation import EMPTY, Turn, conversation, count_parts, listed_if_few, merged
from ..parts import Call, Media, Part, Text, joined, taken
from ..support import without_empty
from ..tools import choice, functions, schema

# Models that do not require the signatures of calls; Gemini 3 and later do.
_UNSIGNED = re.compile(r"gemini-(1|2)")
# The budgets that Google's own OpenAI-compatible endpoint uses.
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

#: Replaces the signature of a call by another model, as Google's page on thought signatures
#: recommends for conversations that are moved to Gemini.
_FOREIGN_SIGNATURE = "skip_thought_signature_validator"


def body(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    """Return the JSON object to send for *request* to a model with the capabilities *caps*.

    The URL has the model's name.  Raises InvalidRequest, naming the parameter, if the request
    cannot be translated.
    """
    chat = conversation(request, "gemini", caps)
    signed = not _UNSIGNED.match(request.model)
    payload: dict[str, Json] = {
        "contents": (_content(role, run, signed, request.marks) for role, run in merged(chat.turns))
    }
    if chat.instructions:
        texts = [text.text for text in chat.instructions]
        system = joined(texts, request.marks, "\n\n")
        payload["systemInstruction"] = {"parts": [{"text": system}], "role": "user"}
    _add_tools(payload, request, caps)
    return payload | without_empty({"generationConfig": _generation(request, caps)})


def _generation(request: ChatRequest, caps: Capabilities) -> dict[str, Json]:
    fields = request.body
    config = {theirs: fields.get(ours) for ours, theirs in _GENERATION.items()}
    modalities = fields.get("modalities") or []
    for index, modality in enumerate(modalities):
        if modality not in _MODALITIES:
            raise InvalidRequest(
                "gemini supports the modalities text and image only", param=f"modalities[{index}]"
            )
    config |= {
        "topK": fields.get("top_k"),
        "responseModalities": [_MODALITIES[modality] for modality in modalities],
        "maxOutputTokens": caps.limit(request.max_tokens),
        "stopSequences": list(request.stop),
        "candidateCount": request.n if request.n > 1 else None,
    }
    config = without_empty(config)
    form = schema(request)
    if form is not None:
        config["responseMimeType"] = "application/json"
        if form["schema"] is not None:
            config["responseJsonSchema"] = form["schema"]
    effort = requested_effort(request)
    if effort is not None:
        if caps.thinking != "none":
            config["thinkingConfig"] = _thinking(effort, fields.get("thinking"), caps)
        elif fields.get("reasoning_effort") not in (None, "none"):
            text = f"{request.model[:200]} does not support thinking"
            raise InvalidRequest(text, param="reasoning_effort")
    return config


def _thinking(effort: str, own: Json, caps: Capabilities) -> dict[str, Json]:
    """Return the ``thinkingConfig``; *own* is the request's ``thinking`` object, if any."""
    shown = {"includeThoughts": effort != "none"}
    if caps.thinking != "budget":
        return {**shown, "thinkingLevel": caps.effort(effort).upper()}
    if effort == "none" and caps.off != "no":
        return {**shown, "thinkingBudget": 0}
    budget = (own or {}).get("budget_tokens") or _BUDGETS.get(effort, caps.least)
    return {**shown, "thinkingBudget": max(caps.least, min(budget, caps.most))}


def _add_tools(payload: dict[str, Json], request: ChatRequest, caps: Capabilities) -> None:
    tools = functions(request)
    if not tools:
        return
    declarations = (
        without_empty({"name": tool.name, "description": tool.description})
        | {"parametersJsonSchema": tool.schema}
        for tool in tools
    )
    payload["tools"] = [{"functionDeclarations": listed_if_few(declarations, len(tools))}]
    mode, name = choice(request, caps)
    if mode:
        calling = {"mode": _MODES[mode], "allowedFunctionNames": [name] if name else []}
        payload["toolConfig"] = {"functionCallingConfig": without_empty(calling)}


def _content(role: str, run: list[Turn], signed: bool, marks: Marks) -> dict[str, Json]:
    found = (part for turn in taken(run) for part in _parts(turn, signed, marks))
    parts = listed_if_few(found, count_parts(run)) or [{"text": EMPTY}]
    return {"role": "user" if role == "user" else "model", "parts": parts}


def _parts(turn: Turn, signed: bool, marks: Marks) -> Iterator[dict[str, Json]]:
    """Yield the parts of *turn* with their signatures; if *signed*, a call must have one."""
    if turn.role != "assistant":
        for part in taken(turn.parts):
            yield from _translated(part, marks)
        return
    # Of parallel calls only the first has a signature, which is required.
    extras = (part.extra for part in turn.parts if isinstance(part, Call))
    lacks = signed and not any(map(_signature, extras))
    last = next((part for part in reversed(turn.parts) if isinstance(part, Text)), None)
    for part in taken(turn.parts):
        signature = ""
        if isinstance(part, Call):
            signature = _FOREIGN_SIGNATURE if lacks else _signature(part.extra)
            lacks = False
        elif part is last:
            signature = _signature(turn.message.get("extra_content"))
        for one in _translated(part, marks):
            yield {**one, "thoughtSignature": signature} if signature else one


def _signature(extra: Json) -> str:
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _translated(part: Part, marks: Marks) -> list[dict[str, Json]]:
    if isinstance(part, Text):
        return [{"text": part.text}]
    if isinstance(part, Media):
        return [_media(part)]
    if isinstance(part, Call):
        call = {"name": part.name, "args": part.arguments}
        return [{"functionCall": {**_id(part.id), **call}}]
    response = {"error": part.text} if part.failed else _response(part.text, marks)
    result = {"name": part.name, "response": response}
    # The response can only be an object, so media of a tool's result follow it.
    return [{"functionResponse": {**_id(part.id), **result}}, *map(_media, part.media)]


def _id(id: str) -> dict[str, Json]:
    """Return the id, but not one that starts with ``call_``: Gemini did not issue that."""
    return {} if not id or id.startswith("call_") else {"id": id}


def _response(text: str, marks: Marks) -> dict[str, Json]:
    """Return a tool's result as the object that Gemini requires."""
    value = None
    if text.lstrip()[:1] == "{":
        with suppress(ValueError):
            value = parse_pieces(pieces(text, marks), marks)
    return value if isinstance(value, dict) else {"result": text}


def _media(media: Media) -> dict[str, Json]:
    signature = _signature(media.extra)
    member = {"thoughtSignature": signature} if signature else {}
    if media.data:
        return {"inlineData": {"mimeType": media.media_type, "data": media.data}, **member}
    data = {"fileUri": media.url}
    guessed = mimetypes.guess_type(media.url.partition("?")[0])[0]
    return {"fileData": {**data, "mimeType": guessed} if guessed else data, **member}
