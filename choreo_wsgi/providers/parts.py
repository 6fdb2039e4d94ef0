"""The parts of messages: text, media, tool calls and their results.

:func:`content` parses the content of a message in OpenAI's format.  It repairs harmless defects:
white space in base64, ``image/jpg``, a file without the prefix of a ``data:`` URL.
"""

from __future__ import annotations

import binascii
import mimetypes
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, Union

from ..chat import jsontext
from ..chat.aside import has_marks, join, parse_pieces, pieces
from ..chat.growing import decoded_or_mark
from ..chat.items import FEW, Json, Marks
from ..chat.longtext import LazyJson
from ..errors import InvalidRequest

# RFC 2397, base64 only.
_DATA_URL = re.compile(
    r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*){0,9};base64,", re.ASCII | re.I
)
#: Wrong media types that many programs send -> registered types.
_CORRECT_TYPES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "application/x-pdf": "application/pdf",
    "text/x-markdown": "text/markdown",
}
#: The first bytes of image formats, in base64.
_SIGNATURES = (
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
    """An image, an audio recording or a file: base64 *data* of *media_type*, or a *url*.

    *kind* is ``image``, ``audio`` or ``file``, *param* its place in the request, *place* the role
    of its message.  The data may hold *marks*.
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
    marks: Marks = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The decoded text of a text file; raises InvalidRequest if it is not UTF-8."""
        try:
            return decoded_or_mark(self.data, self.marks)
        except UnicodeDecodeError:
            raise InvalidRequest("the text is not UTF-8", param=self.param) from None


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call by the model.

    *json* is the text of its arguments, which may hold *marks*; new ones are added to them.
    """

    id: str
    name: str
    json: str | None
    marks: Marks
    extra: Mapping[str, Json] | None = None
    cache: Json = None

    @property
    def arguments(self) -> dict[str, Json]:
        """The arguments, ``{"_raw": json}`` if they are not a JSON object.

        A truncated or malformed call must not fail every later request of the session.
        """
        text, marks = self.json, self.marks
        lazy = marks.get((text or "").encode("utf-8", "replace")) if marks else None
        value: Json = lazy.value if isinstance(lazy, LazyJson) else {}
        try:
            if not value and text and text.strip():
                value = parse_pieces(pieces(text, marks), marks, jsontext.strict)
            if isinstance(value, str):  # encoded twice
                value = parse_pieces(pieces(value, marks), marks, jsontext.strict)
        except ValueError:
            value = text
        if value is None:
            return {}
        return value if isinstance(value, dict) else {"_raw": text}


@dataclass(slots=True)
class Result:
    """The result of the call *id* of the tool *name*."""

    id: str
    name: str
    parts: list[Text | Media]
    failed: bool = False
    cache: Json = None
    marks: Marks = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The joined texts of its parts, see :func:`joined`."""
        return joined([part.text for part in self.parts if isinstance(part, Text)], self.marks)

    @property
    def media(self) -> list[Media]:
        """The parts that are not text."""
        return [part for part in self.parts if isinstance(part, Media)]


Part = Union[Text, Media, Call, Result]


def joined(texts: list[str], marks: Marks, between: str = "") -> str:
    """Return *texts* joined; if they are many and long, a mark for them, added to *marks*."""
    if len(texts) <= FEW:
        return between.join(texts)
    return join([piece for text in texts for piece in (between, text)][1:], marks)


_T = TypeVar("_T")


def taken(values: list[_T]) -> Iterator[_T]:
    """Yield *values*, which are removed: thousands take as much memory as what is made of them."""
    values.reverse()
    while values:
        yield values.pop()


def content(
    message: dict[str, Json], where: str, blanks: bool, marks: Marks
) -> Iterator[Text | Media]:
    """Yield the parts of *message*, which may hold *marks*; its path in the request is *where*.

    Texts without a visible character are dropped unless *blanks*.  Raises InvalidRequest, naming
    the part, for a part that no provider can be sent.
    """
    place = "system" if message["role"] == "developer" else str(message["role"])
    value = message.get("content")
    members = [{"type": "text", "text": value}] if isinstance(value, str) else list(value or ())
    if message.get("refusal"):
        members.append({"type": "refusal", "refusal": message["refusal"]})
    # Images that the model generated in an earlier turn.
    images = [{**image, "type": "image_url"} for image in message.get("images") or ()]
    for name, group in (("content", members), ("images", images)):
        for index, member in enumerate(group):
            part = _part(member, place, f"{where}.{name}[{index}]")
            if isinstance(part, Media):
                yield replace(part, marks=marks)
            elif part.text if blanks else part.text.strip():
                yield part


def _part(part: dict[str, Json], place: str, where: str) -> Text | Media:
    kind = part["type"]
    cache, extra = part.get("cache_control"), part.get("extra_content")
    if kind in ("text", "refusal"):
        return Text(part[kind], cache)
    if kind == "image_url":
        extra = extra if isinstance(extra, dict) else {}
        media = Media("image", f"{where}.image_url.url", place, cache=cache, extra=extra)
        return _with_url(media, part["image_url"]["url"])
    if kind == "input_audio":
        audio = part["input_audio"]
        where = f"{where}.input_audio.data"
        data = _base64(audio["data"], where)
        return Media("audio", where, place, f"audio/{audio['format']}", data, cache=cache)
    return _file(part.get("file") or {}, f"{where}.file", place, cache)


def _file(file: dict[str, Json], where: str, place: str, cache: Json) -> Media:
    url, name = file.get("file_data"), file.get("filename") or ""
    if not url:
        text = "this provider supports files with file_data only"
        raise InvalidRequest(text, param=f"{where}.file_id")
    if not url[:8].lower().startswith(("data:", "https://", "http://")):  # plain base64
        guessed = mimetypes.guess_type(name)[0] or "application/pdf"
        url = f"data:{guessed};base64,{url}"
    return _with_url(Media("file", f"{where}.file_data", place, name=name, cache=cache), url)


def _with_url(media: Media, url: str) -> Media:
    """Return *media* with the data in *url* (``data:``), or with *url* itself (``https:``)."""
    match = _DATA_URL.match(url)
    if match:
        media_type = _CORRECT_TYPES.get(match[1].lower(), match[1].lower())
        data = _base64(url[match.end() :], media.param)
        if media.kind == "image" and not media_type.startswith("image/"):  # octet-stream
            detected = (type for start, type in _SIGNATURES if data.startswith(start))
            media_type = next(detected, media_type)
        return replace(media, media_type=media_type, data=data)
    if url[:8].lower() == "https://":
        return replace(media, url=url)
    raise InvalidRequest(
        "only data: URLs in base64 and https: URLs are supported", param=media.param
    )


def _base64(data: str, where: str) -> str:
    if has_marks(data):
        return data  # placeholders stand for checked base64 only
    data = "".join(data.split()).replace("-", "+").replace("_", "/")  # RFC 4648, section 5
    data += "=" * (-len(data) % 4)
    try:
        if b64decode(data, validate=True):
            return data
    except (binascii.Error, ValueError):
        raise InvalidRequest("the data is not base64", param=where) from None
    raise InvalidRequest("the data is empty", param=where)
