"""Translators of answers, and their common parts: complete tool calls, long texts, images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

from .. import sse
from ..chat import aside
from ..chat.items import Delta, Item, Json, Marks, Usage
from ..chat.source import Source
from ..errors import ChoreoError, UpstreamInvalid
from .answer import Attempt, UpstreamAnswer
from .held import Held, hold, shorten_event, taken
from .openai.lane import Lane
from .openai.pattern import new_pattern
from .reading import PIECE, SHAPE_ERRORS, parse_object, unknown_shape
from .tools import restore_names

#: Characters of long texts after which a batch of items is returned.
MAX_BATCH = 256 * 1024
#: Bytes that are translated at once: a document in place of a stream is one block of events.
_BLOCK = 128 * 1024


class Translator:
    """Turns the bytes of one answer, split anywhere, into items.

    ``ended`` is true after the provider's terminal event; ``usage`` is the usage reported so
    far.  An error inside the answer is stored in ``failure`` while the items before it are
    returned; the next call raises it.
    """

    ended = False
    failure: ChoreoError | None = None
    #: The bytes before and after a plain text in the last event, which the next ones likely share.
    ends: tuple[bytes, bytes] | None = None
    _undelivered: Iterator[Item] | None = None
    #: First bytes of bodies that the translator does not read: errors, HTML pages, documents.
    foreign = b"{[<"

    def __init__(self) -> None:
        #: The long strings by their marks, which are in their place until items are returned.
        self.marks: Marks = {}
        #: Replaces long strings in JSON by marks.  No method: the decoder would refer to self.
        self.shorten: Callable[[bytes], bytes] = partial(shorten_event, self.marks)

    @property
    def waiting(self) -> bool:
        """Whether there are more items, which ``receive_data(b"")`` returns."""
        return self._undelivered is not None

    def receive_data(self, data: bytes) -> list[Item]:
        """Parse the next bytes; return the items that they complete, in order.

        If their texts are very long, only a batch of the items is returned and more are *waiting*:
        all at once would take several times their bytes.  Raises the error that the provider
        reports, or UpstreamInvalid for invalid data, once all items before it were returned.
        """
        if self.waiting and not data:
            return self._next_batch()
        before = self._all_waiting()
        if self.failure is not None and not before:
            raise self.failure
        if self.ended or self.failure is not None:
            return before
        items: list[Item] = []
        try:
            self.translate(data, items)
        except ChoreoError as error:
            error.message = aside.beginning(error.message, getattr(self, "marks", {}))
            self.failure = error
        except SHAPE_ERRORS as error:
            self.failure = unknown_shape(error)
        if self.failure is not None and not (before or items):
            raise self.failure
        return before + self._restore(items)

    def _restore(self, items: list[Item]) -> list[Item]:
        """Put the long strings into *items*; return the first batch of them."""
        marks = getattr(self, "marks", None)  # subclasses need not call our constructor
        if not marks:
            return items
        self._undelivered = aside.restored_items(items, dict(marks))
        marks.clear()
        return self._next_batch()

    def _all_waiting(self) -> list[Item]:
        items, self._undelivered = list(self._undelivered or ()), None
        return items

    def _next_batch(self) -> list[Item]:
        """Return waiting items of about MAX_BATCH characters."""
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
        """Return the last items, after the end of the bytes; more may be *waiting*.

        Raises UpstreamTruncated if there was no terminal event.
        """
        if self.failure is not None:
            raise self.failure
        try:
            return [*self._all_waiting(), *self._restore(self.finish())]
        except SHAPE_ERRORS as error:
            raise unknown_shape(error) from error

    @property
    def usage(self) -> Usage | None:
        """The usage that the provider has reported so far, or None."""
        return None

    def translate(self, data: bytes, items: list[Item]) -> None:
        """Append the items that *data* completes to *items*; sets ``ended``, raises ChoreoError."""
        raise NotImplementedError

    def finish(self) -> list[Item]:
        """Return the items that the end of the bytes completes, or raise UpstreamTruncated."""
        raise NotImplementedError

    @staticmethod
    def unfold(body: bytes) -> bytes | None:
        """Return *body*, a document, as the bytes of an equivalent stream; None if that fails.

        Servers and proxies that cannot stream send documents in place of streams.
        """
        return None


class EventTranslator(Translator):
    """A translator of Server-Sent Events of at most *limit* bytes, parsed by *decoder*."""

    #: Parses the data of an event.
    parse: Callable[[str | bytes], dict[str, Json]] = staticmethod(parse_object)

    def __init__(
        self, limit: int = 8 * 1024 * 1024, decoder: type[sse.Decoder] = sse.Decoder
    ) -> None:
        super().__init__()
        self._decoder = decoder(limit, errors="strict")
        self._limit = limit
        #: The values, or errors, of long events; the strings in their place are the events' data.
        self._held: Held = {}
        self._decoder.shorten = partial(hold, self._held, self.shorten, self.parse)

    def events(self, data: bytes) -> list[sse.Event]:
        """Return the events that *data* completes, up to any bytes that cannot be decoded."""
        try:
            return self._decoder.receive_data(data)
        except sse.DecodeError as error:
            self.failure = UpstreamInvalid(f"the provider's answer cannot be read: {error}")
            return error.events

    def objects(self, data: bytes) -> Iterator[dict[str, Json]]:
        """Yield the events that *data* completes as objects, except keep-alives and ``[DONE]``."""
        for event in self.events(data):
            if self._held and event.data in self._held:  # which hashes all of the data
                yield taken(self._held, event.data)
            elif event.data.strip() not in ("", "[DONE]"):
                yield self.parse(event.data)


class HTTPSource(UpstreamAnswer, Source):
    """The answer to *attempt*, translated by *translator*.

    *names* maps the tool names that were made up for the provider to those of the request.
    """

    def __init__(
        self, attempt: Attempt, translator: Translator, names: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(attempt)
        self._translator = translator
        self._names = names or {}
        #: A block that the translator has not read, and where it continues.
        self._unread: tuple[bytes, int] | None = None
        self._is_heavy = False  # whether a worker has to read on
        self._at_the_end = False  # whether the translator was told that the bytes have ended

    def receive(self, timeout: float) -> list[Item]:
        """Return the items received within *timeout* seconds; those before a failure first."""
        if self._failure is not None:
            raise self._failure
        items: list[Item] = []
        if self.ended:
            return items
        try:
            self._receive(timeout, items)
        except ChoreoError as error:
            self.fail(error)
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
                data = self._next(timeout)
        except ChoreoError:
            if not self.good:
                raise
            # The answer may have been complete when the connection broke.
            with suppress(ChoreoError):
                self._end(items)
            if not self._at_the_end:
                raise
            return
        if data or translator.waiting:
            items += translator.receive_data(data)
            # A large event of a document is parsed here, not while other streams wait for it.
            while timeout > 0 and self.behind and not (items or translator.failure):
                items += translator.receive_data(self._next(timeout))
            if items:
                self.bytes_without_output = 0
            if translator.waiting:
                return
            if translator.failure is not None:
                raise translator.failure
        if self.body_ended or translator.ended or self._at_the_end:
            self._end(items)

    def _end(self, items: list[Item]) -> None:
        """Append the last items; the answer is complete once no more of them wait."""
        if not self._at_the_end:
            items += self._translator.end()
            self._at_the_end = True
        if not self._translator.waiting:
            self._complete()

    def _next(self, timeout: float) -> bytes:
        """Return the next bytes; at most a PIECE of them if other streams wait for this one."""
        if self._unread is not None:
            self.bytes_without_output += PIECE
        # In the middle of a large event, perhaps: the loop leaves it to a worker.
        self._is_heavy = self.bytes_without_output > 2 * _BLOCK and self.behind and timeout <= 0
        if self._is_heavy:
            return b""
        block, at = self._unread or (self.read(timeout), 0)
        end = at + (PIECE if timeout <= 0 else _BLOCK)
        self.behind = end < len(block)
        piece = block[at:end]
        if 2 * end > len(block):  # what was read is freed
            block, end = block[end:], 0
        self._unread = (block, end) if self.behind else None
        return piece

    def _complete(self) -> None:
        """End a complete answer; its connection is reused if possible."""
        self.ended, self._failure = True, None
        self.usage = self._translator.usage
        self._exchange.finish()

    def lane(self, ends: tuple[bytes, bytes]) -> Lane | None:
        """Return a lane for events of a plain text, which becomes a frame with *ends* around it."""
        around = self._translator.ends
        if around is None or self._translator.waiting or self.ended or self._failure is not None:
            return None
        return self.new_lane(new_pattern(*around, *ends), plain=True)

    def fileno(self) -> int | None:
        at_once = self.ended or self._failure is not None or self._translator.waiting
        return None if at_once else super().fileno()

    @property
    def due(self) -> float | None:
        if self.ended or self._translator.waiting:
            return 0.0
        return None if self._is_heavy else super().due

    def close(self) -> None:
        self.usage = self._translator.usage
        super().close()


def image_delta(
    number: int,
    media_type: str,
    data: str,
    index: int = 0,
    extra: Mapping[str, Json] | None = None,
) -> Delta:
    """Return the delta of a generated image, in OpenRouter's format; *data* is base64.

    *number* counts the images of a choice, so that clients that merge deltas keep them separate.
    """
    url = f"data:{media_type};base64,{data}"
    image = {"index": number, "type": "image_url", "image_url": {"url": url}, **(extra or {})}
    return Delta(index=index, extra={"images": [image]})
