"""What messages are made of: text, media, tool calls and their results.

:func:`content` takes the content of a message in OpenAI's form apart.  What is wrong in a
harmless way is mended: blanks in base64, ``image/jpg``, a file without its data: prefix.
"""

from __future__ import annotations

import binascii
import mimetypes
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Union

from ..chat.aside import has_marks
from ..chat.items import Json
from ..errors import InvalidRequest

# RFC 2397; only base64 occurs, and only that is taken.
_DATA_URL = re.compile(
    r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*){0,9};base64,", re.ASCII | re.I
)
#: Types that many programs write, and what they should be.
_MENDED = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "application/x-pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
}


#: How pictures begin, in base64.
_SEEN = (
    *(("iVBORw0KGg", "image/png"), ("/9j/", "image/jpeg")),
    *(("R0lGOD", "image/gif"), ("UklGR", "image/webp")),
)


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text; *cache* is its ``cache_control``."""

    text: str
    cache: Json = None


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, a recording or a document: base64 *data* of *media_type*, or a *url*.

    *kind* is ``image``, ``audio`` or ``file``; *param* where it stood in the request, *place* the
    role of its message.
    """

    kind: str
    param: str
    place: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""
    cache: Json = None
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of a document of text; raises InvalidRequest if it is not UTF-8."""
        try:
            return b64decode(self.data).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidRequest("the text is not UTF-8", param=self.param) from None


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model made; *order* is its place among all calls."""

    id: str
    name: str
    arguments: dict[str, Json]
    order: int
    extra: Mapping[str, Json] | None = None
    cache: Json = None


@dataclass(slots=True)
class Result:
    """What the call *id* of the tool *name* came to; *order* is the place of the call."""

    id: str
    name: str
    parts: list[Text | Media]
    order: int
    failed: bool = False
    cache: Json = None

    @property
    def text(self) -> str:
        """Its texts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def media(self) -> list[Media]:
        """What it has beside text."""
        return [part for part in self.parts if isinstance(part, Media)]


Part = Union[Text, Media, Call, Result]


def content(message: dict[str, Json], where: str, blanks: bool) -> Iterator[Text | Media]:
    """Yield the content of *message*, which stands at *where* in the request.

    Texts without a visible character are left out unless *blanks*.  Raises InvalidRequest,
    naming the part, for what cannot be passed on to any provider.
    """
    place = "system" if message["role"] == "developer" else str(message["role"])
    said = message.get("content")
    parts = [{"type": "text", "text": said}] if isinstance(said, str) else list(said or ())
    if message.get("refusal"):
        parts.append({"type": "refusal", "refusal": message["refusal"]})
    # What the model drew in an earlier turn.
    drawn = [{**image, "type": "image_url"} for image in message.get("images") or ()]
    for name, several in (("content", parts), ("images", drawn)):
        for index, part in enumerate(several):
            made = _part(part, place, f"{where}.{name}[{index}]")
            if not isinstance(made, Text) or (made.text if blanks else made.text.strip()):
                yield made


def _part(part: dict[str, Json], place: str, where: str) -> Text | Media:
    kind = part["type"]
    cache, extra = part.get("cache_control"), part.get("extra_content")
    if kind in ("text", "refusal"):
        return Text(part[kind], cache)
    if kind == "image_url":
        extra = extra if isinstance(extra, dict) else {}
        media = Media("image", f"{where}.image_url.url", place, cache=cache, extra=extra)
        return _located(media, part["image_url"]["url"])
    if kind == "input_audio":
        audio = part["input_audio"]
        where = f"{where}.input_audio.data"
        data = _base64(audio["data"], where)
        return Media("audio", where, place, f"audio/{audio['format']}", data, cache=cache)
    return _file(part.get("file") or {}, f"{where}.file", place, cache)


def _file(file: dict[str, Json], where: str, place: str, cache: Json) -> Media:
    given, name = file.get("file_data"), file.get("filename") or ""
    if not given:
        raise InvalidRequest("only files with file_data can be passed on", param=f"{where}.file_id")
    if not given[:8].lower().startswith(("data:", "https://", "http://")):  # base64 alone
        guessed = mimetypes.guess_type(name)[0] or "application/pdf"
        given = f"data:{guessed};base64,{given}"
    return _located(Media("file", f"{where}.file_data", place, name=name, cache=cache), given)


def _located(media: Media, url: str) -> Media:
    """Return *media* with what *url* holds, or with *url* itself; nothing is fetched here."""
    match = _DATA_URL.match(url)
    if match:
        media_type = _MENDED.get(match[1].lower(), match[1].lower())
        data = _base64(url[match.end() :], media.param)
        if media.kind == "image" and not media_type.startswith("image/"):  # octet-stream
            media_type = next((seen for start, seen in _SEEN if data.startswith(start)), media_type)
        return replace(media, media_type=media_type, data=data)
    if url[:8].lower() == "https://":
        return replace(media, url=url)
    raise InvalidRequest(
        "only data: URLs in base64 and https: URLs are supported", param=media.param
    )


def _base64(data: str, where: str) -> str:
    if has_marks(data):
        return data  # only what is base64 was set aside
    data = "".join(data.split()).replace("-", "+").replace("_", "/")  # RFC 4648, section 5
    data += "=" * (-len(data) % 4)
    try:
        if b64decode(data, validate=True):
            return data
    except (binascii.Error, ValueError):
        raise InvalidRequest("the data is not base64", param=where) from None
    raise InvalidRequest("the data is empty", param=where)
