"""Translators of answers, and what they have in common: calls that came whole, long texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from .. import sse
from ..chat import aside
from ..chat.items import Delta, Item, Json, Marks, ToolCall, Usage
from ..chat.longtext import restore
from ..chat.source import Source
from ..errors import ChoreoError, UpstreamInvalid
from .answer import Attempt, UpstreamAnswer
from .openai.lane import Lane
from .openai.pattern import new_pattern
from .reading import SHAPE_ERRORS, decode, parse_json, parse_object, unknown_shape
from .tools import restore_names

#: Characters of long texts that are returned at once.
MAX_BATCH = 256 * 1024


class Translator:
    """Turns the bytes of one answer, split anywhere, into items.

    ``ended`` is true once the provider's terminal event came; ``usage`` is what was
    reported so far.  A failure inside the answer is kept in ``failure`` while the items
    before it are returned; the next call raises it.
    """

    ended = False
    failure: ChoreoError | None = None
    #: What is around a plain text in the next events, probably; what came last is looked at.
    ends: tuple[bytes, bytes] | None = None
    _undelivered: Iterator[Item] | None = None
    #: With these bytes no body begins that this reads.
    foreign = b"{[<"

    def __init__(self) -> None:
        #: What the marks stand for that are in the place of long strings until the items are
        #: returned.
        self.marks: Marks = {}
        #: Puts marks for the long strings into JSON.  No method: who reads the events has it.
        self.shorten: Callable[[bytes], bytes] = partial(aside.shorten_into, self.marks)

    @property
    def waiting(self) -> bool:
        """Whether there are more items already, which ``receive_data(b"")`` returns."""
        return self._undelivered is not None

    def receive_data(self, data: bytes) -> list[Item]:
        """Take the next bytes; return the items that they complete, in order.

        Of very long ones some are *waiting* then: all at once would take several times their bytes.
        Raises what the provider reported, and UpstreamInvalid for bytes without meaning,
        unless there are items to return first.
        """
        if self.waiting and not data:
            return self._some()
        before = self._all()
        if self.failure is not None and not before:
            raise self.failure
        if self.ended or self.failure is not None:
            return before
        items: list[Item] = []
        try:
            self.translate(data, items)
        except ChoreoError as error:
            self.failure = error
        except SHAPE_ERRORS as error:
            self.failure = unknown_shape(error)
        if self.failure is not None and not (before or items):
            raise self.failure
        return before + self._spread(items)

    def _spread(self, items: list[Item]) -> list[Item]:
        marks = getattr(self, "marks", None)  # others' translators have no constructor to call
        if not marks:
            return items
        self._undelivered = aside.restored_items(items, dict(marks))
        marks.clear()
        return self._some()

    def _all(self) -> list[Item]:
        items, self._undelivered = list(self._undelivered or ()), None
        return items

    def _some(self) -> list[Item]:
        """Return items of about MAX_BATCH characters, of those that wait."""
        items: list[Item] = []
        size = 0
        for item in self._undelivered or ():
            items.append(item)
            if isinstance(item, Delta):
                size += len(item.text) + len(item.reasoning) + len(item.refusal)
                size += sum(len(call.arguments) for call in item.tool_calls)
            if size > MAX_BATCH:
                return items
        self._undelivered = None
        return items

    def end(self) -> list[Item]:
        """Say that the bytes have ended; return what was held back for that.

        Raises UpstreamTruncated when the provider's terminal event was not seen.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return [*self._all(), *self._spread(self.finish()), *self._all()]
        except SHAPE_ERRORS as error:
            raise unknown_shape(error) from error

    @property
    def usage(self) -> Usage | None:
        """What the provider reported so far, or None."""
        return None

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append to *items* what *data* completes; sets ``ended``, raises ChoreoError."""
        raise NotImplementedError

    def finish(self) -> list[Item]:
        """Return what the end of the bytes completes, or raise UpstreamTruncated."""
        raise NotImplementedError

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return the bytes of the stream that says what *body*, a whole document, says.

        Servers and proxies that cannot stream send one all the same.  None if it is something else.
        """
        return None


class EventTranslator(Translator):
    """A translator of Server-Sent Events of at most *limit* bytes, which *decoder* reads."""

    #: Reads the data of an event.
    parse: Callable[[str], dict[str, Json]] = staticmethod(parse_object)

    def __init__(
        self, limit: int = 8 * 1024 * 1024, decoder: type[sse.Decoder] = sse.Decoder
    ) -> None:
        super().__init__()
        self._decoder = decoder(limit, errors="strict")
        self._limit = limit
        self._decoder.shorten = self.shorten

    def events(self, data: bytes) -> list[sse.Event]:
        """Return the events that *data* completes; those before undecodable bytes too."""
        try:
            return self._decoder.receive_data(data)
        except sse.DecodeError as error:
            self.failure = UpstreamInvalid(f"the provider's answer cannot be read: {error}")
            return error.events

    def objects(self, data: bytes) -> Iterator[dict[str, Json]]:
        """Yield the JSON objects of the events that *data* completes: not of empty keep-alives,
        nor of the end marker that some put behind answers that have none."""
        for event in self.events(data):
            if event.data.strip() not in ("", "[DONE]"):
                yield self.parse(event.data)


class HTTPSource(UpstreamAnswer, Source):
    """The answer to *attempt*, read by *translator*.

    *names* are the names of tools that were made for the provider, and what they stand for.
    """

    def __init__(
        self, attempt: Attempt, translator: Translator, names: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(attempt)
        self._translator = translator
        self._names = names or {}

    def receive(self, timeout: float) -> list[Item]:
        """Return what came within *timeout* seconds, in order; what came before a failure first."""
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            self._receive(timeout, items)
        except ChoreoError as error:
            self.fail(error)
            self.usage = self._translator.usage
            if not items:
                raise
        if self._names:
            restore_names(items, self._names)
        return items

    def _receive(self, timeout: float, items: list[Item]) -> None:
        translator = self._translator
        data = b""
        try:
            if not translator.waiting:
                data = self.read(timeout)
        except ChoreoError:
            if not self.good:
                raise
            # All that matters may have come before the connection broke.
            with suppress(ChoreoError):
                items += translator.end()
                self._leave()
            if not self.ended:
                raise
            return
        if data or translator.waiting:
            items += translator.receive_data(data)
            if items:
                self.bytes_without_output = 0
            if translator.waiting:
                return
            if translator.failure is not None:
                raise translator.failure
        if self.body_ended or translator.ended:
            items += translator.end()
            self._leave()

    def _leave(self) -> None:
        """The answer is complete: leave the connection to others, if it can be."""
        self.ended, self._failure = True, None
        self.usage = self._translator.usage
        self._exchange.finish()

    def lane(self, ends: tuple[bytes, bytes]) -> Lane | None:
        """Return a lane for events of a plain text, which becomes a frame with these *ends*."""
        came = self._translator.ends
        if came is None or self._translator.waiting or self.ended or self._failure is not None:
            return None
        return self.new_lane(new_pattern(*came, *ends), plain=True)

    def fileno(self) -> int | None:
        """Return the file descriptor to poll for more, or None while only attempt tells."""
        at_once = self.ended or self._failure is not None or self._translator.waiting
        return None if at_once else super().fileno()

    @property
    def due(self) -> float | None:
        """When to ask again although nothing came: at once where all has come."""
        return 0.0 if self.ended or self._translator.waiting else super().due

    def close(self) -> None:
        """Stop the generation."""
        self.usage = self._translator.usage
        super().close()


def json_values(body: bytes) -> list[Json]:
    """Return the values in *body*: of one document, of an array, or of JSON lines; else none."""
    for texts in ([body], body.splitlines()):
        try:
            values = [parse_json(text) for text in texts if text.strip() not in (b"", b"[DONE]")]
        except UpstreamInvalid:
            continue
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return []


def arguments(value: Json, marks: Marks | None = None) -> list[str]:
    """Return a call's arguments, which came whole, as compact JSON text, in pieces.

    Raises UpstreamInvalid for what is not an object, or the JSON text of one.
    """
    marks = marks or {}
    given: list[str] = []
    if isinstance(value, str):
        given = list(aside.pieces(value, marks)) if value.strip() else []
        try:
            value = aside.parse_pieces(given, {}, decode) if given else {}
        except ValueError:
            value = [value]
    value = {} if value in (None, []) else value
    if not isinstance(value, dict):
        raise UpstreamInvalid("the provider sent a tool call whose arguments are not JSON")
    if given and value:
        return given
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not aside.has_marks(text):
        return [text]
    return list(aside.decode_pieces(restore(text.encode("utf-8", "backslashreplace"), marks)))


def whole_call(
    number: int,
    id: str,
    name: str,
    given: Iterable[str],
    index: int = 0,
    extra: dict[str, Json] | None = None,
) -> list[Item]:
    """Return a tool call that came whole as any other: who is called first, then with what."""
    calls = [ToolCall(number, id, name, "", extra)]
    calls += [ToolCall(number, arguments=piece) for piece in given]
    return [Delta(index=index, tool_calls=[call]) for call in calls]


def image_delta(
    number: int,
    media_type: str,
    data: str,
    index: int = 0,
    extra: Mapping[str, Json] | None = None,
) -> Delta:
    """Return a picture that the model drew, in OpenRouter's form; *data* is base64.

    *number* counts the pictures of a choice, so that a client that folds deltas keeps them apart.
    """
    url = f"data:{media_type};base64,{data}"
    image = {"index": number, "type": "image_url", "image_url": {"url": url}, **(extra or {})}
    return Delta(index=index, extra={"images": [image]})
