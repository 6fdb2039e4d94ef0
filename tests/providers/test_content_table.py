"""The tables of messages and of content are true in every cell."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from adapter_requests import MODELS, sent

from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.providers.support import KINDS, MESSAGES, PLACES, PROVIDERS, Row, accepts

DATA = "iVBORw0KGgo="
OFFICE = "application/vnd.openxmlformats-officedocument."
LINK = "https://example.com/a.png"

#: Each kind of content as a part, and a text in the body if it was sent.
PARTS: dict[str, tuple[dict[str, Any], str]] = {
    "image, data: URL": ({"image_url": {"url": f"data:image/png;base64,{DATA}"}}, DATA),
    "image, https: URL": ({"image_url": {"url": LINK}}, LINK),
    "audio": ({"input_audio": {"data": DATA, "format": "wav"}}, DATA),
    "PDF file, data: URL": (
        {"file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{DATA}"}},
        DATA,
    ),
    "text file, data: URL": (
        {"file": {"filename": "a.csv", "file_data": "data:text/csv;base64,YSxiCg=="}},
        "csv",
    ),
    "other file, data: URL": (
        {"file": {"filename": "a.doc", "file_data": f"data:application/msword;base64,{DATA}"}},
        DATA,
    ),
    "file, https: URL": ({"file": {"file_data": LINK}}, LINK),
}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def messages_with(place: str, content: Any, **members: Any) -> list[dict[str, Any]]:
    """Return messages in which one of role *place* has *content*."""
    message = {"role": place, "content": content, **members}
    user = {"role": "user", "content": "hi"}
    if place == "tool":
        call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        return [user, call, {**message, "tool_call_id": "c1"}]
    if place == "assistant":
        return [user, message, user]
    return [message] if place == "user" else [message, user]


def param_of(place: str) -> str:
    return f"messages[{ {'tool': 2, 'assistant': 1}.get(place, 0) }]"


def test_every_kind_has_a_sample() -> None:
    assert list(KINDS) == list(PARTS)


@pytest.mark.parametrize("type", PROVIDERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_content_is_sent_or_rejected_as_in_the_table(kind: str, place: str, type: str) -> None:
    part, shown = PARTS[kind]
    content = [{"type": "text", "text": "look"}, {"type": next(iter(part)), **part}]
    messages = messages_with(place, content)
    if accepts(type, place, kind):
        body = json.dumps(sent(type, messages=messages))
        assert (shown in body or "a,b" in body) and "look" in body
        return
    with pytest.raises(InvalidRequest) as caught:
        sent(type, messages=messages)
    assert caught.value.status == 400
    assert str(caught.value.param).startswith(f"{param_of(place)}.content[1].")
    assert type in caught.value.message and kind in caught.value.message


@pytest.mark.parametrize(
    ("kind", "place", "type"),
    [
        *itertools.product(("text", "refusal", "video_url"), ["user"], PROVIDERS),
        *itertools.product(("refusal", "thinking"), PLACES, ["anthropic"]),
    ],
)
def test_other_content_is_sent_or_rejected_by_type(kind: str, place: str, type: str) -> None:
    messages = messages_with(
        place, [{"type": "text", "text": "look"}, {"type": kind, kind: "x-1-x"}]
    )
    if kind in ("text", "refusal"):
        assert "x-1-x" in json.dumps(sent(type, messages=messages))
        return
    with pytest.raises(InvalidRequest) as caught:
        sent(type, messages=messages)
    assert caught.value.param == f"{param_of(place)}.content[1].type"


#: The role of a message that may have each member, and a value.
SAMPLES: dict[str, tuple[str, Any]] = {
    "name": ("user", "Ann"),
    "refusal": ("assistant", "no"),
    "reasoning_content": ("assistant", "hm"),
    "thinking_blocks": ("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}]),
    "extra_content": ("assistant", {"google": {"thought_signature": "s"}}),
    "cache_control": ("user", {"type": "ephemeral"}),
    "is_error": ("tool", True),
    "function_call": ("assistant", {"name": "f", "arguments": "{}"}),
    "audio": ("assistant", {"id": "audio-1"}),
}


@pytest.mark.parametrize("type", PROVIDERS)
@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row.name)
def test_message_members_are_handled_as_in_the_table(row: Row, type: str) -> None:
    place, value = SAMPLES[row.name]
    messages = messages_with(place, "look", **{row.name: value})
    if row.cells[type].how == "refused":
        with pytest.raises(InvalidRequest) as caught:
            sent(type, messages=messages)
        assert caught.value.param == f"{param_of(place)}.{row.name}"
        return
    changed = sent(type, messages=messages) != sent(type, messages=messages_with(place, "look"))
    assert changed == (row.cells[type].how == "sent")


@pytest.mark.parametrize("type", PROVIDERS)
def test_generated_images_are_sent_back_or_rejected(type: str) -> None:
    """Sent to providers with models that can generate images."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}
    messages = messages_with("assistant", "", images=[image])
    if accepts(type, "assistant", "image, data: URL"):
        assert DATA in json.dumps(sent(type, messages=messages))
        return
    with pytest.raises(InvalidRequest) as caught:
        sent(type, messages=messages)
    assert caught.value.param == "messages[1].images[0].image_url.url"


@pytest.mark.parametrize("type", ["anthropic", "bedrock"])
@pytest.mark.parametrize("place", ["user", "tool", "assistant", "system", "tools", "root", "call"])
def test_sends_cache_control_from_every_place(type: str, place: str) -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    tool = {"type": "function", "function": {"name": "f"}}
    fields: dict[str, Any] = {"messages": messages_with("user", "hi")}
    if place == "tools":
        fields["tools"] = [{**tool, **mark}]
    elif place == "root":
        fields.update(mark)
    elif place == "call":
        fields["messages"] = messages_with("tool", "ok")
        fields["messages"][1]["tool_calls"] = [{**CALL, **mark}]
    else:
        fields["messages"] = messages_with(place, [{"type": "text", "text": "long", **mark}])
    body = json.dumps(sent(type, **fields))
    assert ("cache_control" if type == "anthropic" else "cachePoint") in body
    assert '"1h"' in body


def test_bedrock_gets_one_cache_point_with_a_known_ttl() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "2h"}}
    content = [{"type": "text", "text": "long", **mark}]
    body = json.dumps(sent("bedrock", messages=messages_with("user", content), **mark))
    assert body.count("cachePoint") == 1 and "2h" not in body


def test_the_result_has_the_cache_control_of_its_parts() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}}
    content = [{"type": "text", "text": "look", **mark}, image]
    body = sent("anthropic", messages=messages_with("tool", content))
    (result,) = body["messages"][2]["content"]
    assert mark.items() <= result.items()
    assert "cache_control" not in json.dumps(result["content"])


CORRECTED = [
    ("data:image/jpg;base64,/9j/4AAQ", "image/jpeg"),
    ("DATA:IMAGE/PNG;BASE64,iVBORw0KGgo=", "image/png"),
    ("data:image/png;base64,iVBOR\\nw0KGgo", "image/png"),
    ("data:image/pjpeg;base64,/9j/4AAQ", "image/jpeg"),
    ("data:image/x-png;base64,iVBORw0KGgo=", "image/png"),
    ("data:application/octet-stream;base64,iVBORw0KGgo=", "image/png"),
    ("data:application/octet-stream;base64,/9j/4AAQ", "image/jpeg"),
    ("data:application/octet-stream;base64,R0lGODlh", "image/gif"),
    ("data:a/b;name=x;charset=x;base64,UklGRgAA", "image/webp"),
]


@pytest.mark.parametrize(
    ("url", "media_type", "type"),
    [*((*corrected, "anthropic") for corrected in CORRECTED), (*CORRECTED[0], "gemini")],
)
def test_corrects_the_media_type_of_images(url: str, media_type: str, type: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url.replace("\\n", "\n")}}
    body = sent(type, messages=messages_with("user", [part]))
    assert media_type in json.dumps(body)


def test_accepts_file_data_without_a_data_url() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}
    body = sent("anthropic", messages=messages_with("user", [part]))
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert body["messages"][0]["content"] == [
        {"type": "document", "source": source, "title": "a.pdf"}
    ]


def test_a_file_name_gives_the_media_type_of_base64() -> None:
    part = {"type": "file", "file": {"filename": "a.txt", "file_data": "YQ=="}}
    body = sent("anthropic", messages=messages_with("user", [part]))
    assert body["messages"][0]["content"][0]["source"]["media_type"] == "text/plain"


def test_an_image_url_may_have_an_upper_case_scheme() -> None:
    part = {"type": "image_url", "image_url": {"url": LINK.replace("https", "HTTPS")}}
    body = sent("anthropic", messages=messages_with("user", [part]))
    assert body["messages"][0]["content"][0]["source"]["type"] == "url"


def test_every_provider_has_a_sample_model() -> None:
    assert set(MODELS) == set(PROVIDERS)


@pytest.mark.parametrize(
    ("type", "media_type", "expected"),
    [
        ("anthropic", "application/x-pdf", "application/pdf"),
        ("bedrock", "application/x-pdf", "pdf"),
        ("bedrock", "text/x-markdown", "md"),
        ("bedrock", "text/markdown", "md"),
        ("bedrock", "text/html", "html"),
        ("bedrock", "text/plain", "txt"),
        ("bedrock", "application/msword", "doc"),
        ("bedrock", OFFICE + "wordprocessingml.document", "docx"),
        ("bedrock", "application/vnd.ms-excel", "xls"),
        ("bedrock", OFFICE + "spreadsheetml.sheet", "xlsx"),
    ],
)
def test_sends_the_providers_format_of_a_document(
    type: str, media_type: str, expected: str
) -> None:
    part = {"type": "file", "file": {"file_data": f"data:{media_type};base64,YSxiCg=="}}
    text = {"type": "text", "text": "read"}
    blocks = sent(type, messages=messages_with("user", [text, part]))["messages"][0]["content"]
    if type == "bedrock":
        source = {"bytes": "YSxiCg=="}
        assert blocks[1] == {"document": {"format": expected, "source": source, "name": "document"}}
    else:
        assert blocks[1]["source"]["media_type"] == expected


@pytest.mark.parametrize(
    "form", ["mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "m4a", "mpeg", "webm", "pcm"]
)
def test_bedrock_accepts_audio_formats(form: str) -> None:
    part = {"type": "input_audio", "input_audio": {"data": DATA, "format": form}}
    (block,) = sent("bedrock", messages=messages_with("user", [part]))["messages"][0]["content"]
    assert block == {"audio": {"format": form, "source": {"bytes": DATA}}}


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "webp"])
def test_bedrock_accepts_image_formats(form: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{DATA}"}}
    (block,) = sent("bedrock", messages=messages_with("user", [part]))["messages"][0]["content"]
    assert block == {"image": {"format": form, "source": {"bytes": DATA}}}


def test_drops_the_byte_order_mark_of_a_text_file() -> None:
    part = {"type": "file", "file": {"file_data": "data:text/plain;base64,77u/YQ=="}}
    (block,) = sent("anthropic", messages=messages_with("user", [part]))["messages"][0]["content"]
    assert block["source"]["data"] == "a"
