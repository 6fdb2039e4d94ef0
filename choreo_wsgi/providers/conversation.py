"""A conversation in OpenAI's form, taken apart for the providers that have another.

:func:`conversation` returns turns made of the parts of :mod:`~choreo_wsgi.providers.parts`; an
adapter only writes each of these in its own words.  A history that a provider would refuse
although nothing is wrong with it is mended, so that no session is stuck for good: arguments
that are not JSON, blank texts, ids that do not fit or come twice, results out of order or
without their call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from ..chat import jsontext
from ..chat.aside import parse_pieces, pieces
from ..chat.items import Json, Marks
from ..chat.longtext import LazyJson
from ..chat.request import ChatRequest
from .capabilities import Capabilities
from .parts import Call, Media, Part, Result, Text, content
from .support import check, check_media

#: Stands where a provider wants to read something and nothing was said.
EMPTY = "(empty)"
#: The kinds of thinking blocks and their members, the last of which is given back.
_THOUGHTS: dict[str, tuple[str, ...]] = {
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


@dataclass(slots=True)
class Turn:
    """What ``system``, ``user``, ``assistant`` or ``tool`` said.

    *thoughts* are the thinking blocks of an assistant.  *message* is the message as it came, for
    members that are no parts.
    """

    role: str
    parts: list[Part]
    message: dict[str, Json]
    thoughts: Sequence[dict[str, Json]] = ()


@dataclass
class Conversation:
    """A parsed *request* to a model with the capabilities *caps*.

    *system* are the messages that go before everything else, *turns* the others in order.
    """

    request: ChatRequest
    caps: Capabilities
    system: list[Turn] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    @property
    def instructions(self) -> list[Text]:
        """The texts of the system messages."""
        return [part for turn in self.system for part in turn.parts if isinstance(part, Text)]

    @property
    def media(self) -> Iterator[Media]:
        """Everything in it that is neither text nor a call."""
        for turn in (*self.system, *self.turns):
            for part in turn.parts:
                if isinstance(part, Media):
                    yield part
                elif isinstance(part, Result):
                    yield from part.media

    @property
    def called(self) -> list[str]:
        """The names of the tools that were called, each once."""
        calls = (part for turn in self.turns for part in turn.parts if isinstance(part, Call))
        return list(dict.fromkeys(call.name for call in calls))


def conversation(
    request: ChatRequest,
    provider: str,
    caps: Capabilities,
    ids: re.Pattern[str] | None = None,
    blanks: bool = False,
    system_anywhere: bool = False,
) -> Conversation:
    """Return the conversation in *request*, after a look at all that *provider* does not take.

    *caps* are the capabilities of the model.  *ids* is what the provider takes as the id of a call,
    *blanks* whether it takes texts without a visible character, *system_anywhere* whether system
    messages that come later stay in their place.  Raises InvalidRequest, naming the field, for
    what is not a conversation or what only OpenAI's own models can be told.
    """
    check(request, provider, caps)
    found = Conversation(request, caps)
    calls = _Calls(ids, request.marks)
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        turn = _turn(message, where, calls, blanks)
        if not turn.parts and turn.role == "tool":
            continue  # it goes on with a result before
        cache = message.get("cache_control")
        if cache is not None and turn.parts:
            turn.parts[-1] = replace(turn.parts[-1], cache=cache)
        first = turn.role == "system" and not (system_anywhere and found.turns)
        (found.system if first else found.turns).append(turn)
    if not blanks:
        found.turns = list(_answered(found.turns, calls))
    last = found.turns[-1] if found.turns else None
    if last and last.role == "assistant" and last.parts and isinstance(last.parts[-1], Text):
        # What the model is to go on with; Claude refuses a blank at its end.
        last.parts[-1] = Text(last.parts[-1].text.rstrip(), last.parts[-1].cache)
    check_media(found.media, provider)
    return found


def _turn(message: dict[str, Json], where: str, calls: _Calls, blanks: bool) -> Turn:
    role = message["role"]
    if role == "tool" and message["tool_call_id"] in calls.known:
        return Turn(role, calls.result(message, where, blanks), message)
    if role == "tool":  # its call was cut off the history: what it says still counts
        return Turn("user", list(content(message, where, blanks)), message)
    parts: list[Part] = list(content(message, where, blanks))
    if role == "assistant":
        parts += calls.made(message)
        return Turn(role, parts, message, _thoughts(message) or ())
    return Turn("system" if role == "developer" else role, parts, message)


def _answered(turns: list[Turn], calls: _Calls) -> Iterator[Turn]:
    """Yield *turns* with an empty result for each call that has none: a history that was broken
    off inside a round of calls is refused for good without."""
    for turn in turns:
        yield turn
        for part in turn.parts:
            if isinstance(part, Call) and part.id not in calls.results:
                result = Result(part.id, part.name, [Text(EMPTY)], part.order)
                yield Turn("tool", [result], {})


def merged(turns: list[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """Yield the turns as ``user`` and ``assistant`` alternate, beginning with ``user``.

    Results are the user's; they come first, in the order of the calls.  System messages come last
    in the user's turn.  A turn of the user may be empty; an assistant that said nothing is passed
    over.
    """
    said = (turn for turn in turns if turn.role != "assistant" or turn.parts or turn.thoughts)
    first = True
    for by_assistant, some in groupby(said, lambda turn: turn.role == "assistant"):
        run = list(some)
        if by_assistant and first:
            yield "user", []
        first = False
        yield ("assistant", run) if by_assistant else ("user", sorted(run, key=rank))
    if first:
        yield "user", []


def rank(turn: Turn) -> tuple[int, int]:
    """Return the place of *turn* among those of its side: results first, as their calls were."""
    result = turn.parts[0] if turn.role == "tool" else None
    if isinstance(result, Result):
        return 0, result.order
    return (2 if turn.role == "system" else 1), 0


class _Calls:
    """The calls so far, by the id that the caller knows them by."""

    def __init__(self, ids: re.Pattern[str] | None, marks: Marks) -> None:
        self._ids = ids
        self._marks = marks
        #: Those of the latest message with the id.
        self.known: dict[str, list[Call]] = {}
        self._taken: set[str] = set()
        self._tried: dict[str, int] = {}  # how many ids were made for each
        self.results: dict[str, Result] = {}  # by the id that the provider knows

    def made(self, message: dict[str, Json]) -> Iterator[Call]:
        """Yield the calls in an assistant's *message*."""
        made: dict[str, list[Call]] = {}
        for call in message.get("tool_calls") or ():
            function = call["function"]
            extra = call.get("extra_content")
            found = Call(
                self._fit(call["id"]),
                function["name"],
                _arguments(function.get("arguments"), self._marks),
                len(self._taken),
                extra if isinstance(extra, dict) else None,
                call.get("cache_control"),
            )
            self.known[call["id"]] = same = made.setdefault(call["id"], [])
            same.append(found)
            yield found

    def result(self, message: dict[str, Json], where: str, blanks: bool) -> list[Part]:
        """Return the result in a tool's *message*; nothing if it goes on with one before."""
        same = self.known[message["tool_call_id"]]  # several where parallel calls have one id
        while len(same) > 1 and same[0].id in self.results:
            del same[0]
        call, parts = same[0], list(content(message, where, blanks))
        if call.id in self.results:
            self.results[call.id].parts += parts
            return []
        failed = message.get("is_error") is True
        cache = next((part.cache for part in reversed(parts) if part.cache), None)
        result = Result(call.id, call.name, parts, call.order, failed, cache)
        self.results[call.id] = result
        return [result]

    def _fit(self, id: str) -> str:
        """Return *id*, or one that the provider takes; the same one in every turn, so that
        what it keeps of the conversation still matches."""
        number, made = self._tried.get(id, 0), id
        while made in self._taken or (self._ids and not self._ids.fullmatch(made)):
            made = (
                "call_"
                + hashlib.sha256(f"{number} {id}".encode("utf-8", "replace")).hexdigest()[:24]
            )
            number += 1
        self._taken.add(made)
        if number:
            self._tried[id] = number
        return made


def _arguments(given: str | None, marks: Marks) -> dict[str, Json]:
    """Return a call's arguments; ``{"_raw": text}`` for what is not an object: a call that was
    cut, or that the model got wrong, may stay in the history for good."""
    written = marks.get((given or "").encode("utf-8", "replace")) if marks else None
    value: Json = written.value if isinstance(written, LazyJson) else {}
    try:
        if not value and given and given.strip():
            value = parse_pieces(pieces(given, marks), marks, jsontext.strict)
        if isinstance(value, str):  # encoded twice
            value = parse_pieces(pieces(value, marks), marks, jsontext.strict)
    except ValueError:
        value = given
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"_raw": given}


def _thoughts(message: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the thinking blocks that can be given back: those that are signed, or hidden."""
    found = []
    for block in message.get("thinking_blocks") or ():
        kept = {name: block.get(name) or "" for name in _THOUGHTS[block["type"]]}
        if [*kept.values()][-1]:
            found.append({"type": block["type"], **kept})
    return found
