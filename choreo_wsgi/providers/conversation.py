"""Parses a conversation in OpenAI's format for the providers that have another format.

:func:`conversation` returns turns made of the parts of :mod:`~choreo_wsgi.providers.parts`; an
adapter only encodes these.  Harmless defects that make a provider refuse a history are repaired,
because they would fail every later request of the session: arguments that are not JSON, blank
texts, invalid or duplicate ids of calls, results out of order or without their call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from ..chat.items import FEW, Json, Marks
from ..chat.request import ChatRequest
from .capabilities import Capabilities
from .parts import Call, Media, Part, Result, Text, content
from .support import check, check_media

#: Replaces an empty text where a provider requires one.
EMPTY = "(empty)"
#: The types of thinking blocks and their members; without the last the provider refuses the block.
_THOUGHTS: dict[str, tuple[str, ...]] = {
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
}


@dataclass(slots=True)
class Turn:
    """A message of the *role* ``system``, ``user``, ``assistant`` or ``tool``.

    *thoughts* are the thinking blocks of an assistant.  *message* is the original, for adapters
    that read further members.
    """

    role: str
    parts: list[Part]
    message: dict[str, Json]
    thoughts: Sequence[dict[str, Json]] = ()


@dataclass
class Conversation:
    """A parsed *request* to a model with the capabilities *caps*.

    *system* has the system messages to send before all others, *turns* the others in order.
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
        """The images, audio and files in all turns, those in results of tools included."""
        for turn in (*self.system, *self.turns):
            for part in turn.parts:
                if isinstance(part, Media):
                    yield part
                elif isinstance(part, Result):
                    yield from part.media

    @property
    def called(self) -> list[str]:
        """The names of the tools called, without duplicates."""
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
    """Return the conversation in *request*, checked for all that *provider* does not support.

    *caps* are the capabilities of the model.  *ids* matches the ids of calls that the provider
    accepts, *blanks* says whether it accepts texts without a visible character, *system_anywhere*
    whether system messages between others may stay there.  Raises InvalidRequest, naming the field,
    for an invalid conversation or a member that only OpenAI supports.
    """
    check(request, provider, caps)
    chat = Conversation(request, caps)
    calls = _Calls(ids, request.marks)
    for index, message in enumerate(request.messages):
        where = f"messages[{index}]"
        turn = _turn(message, where, calls, blanks)
        if not turn.parts and turn.role == "tool":
            continue  # its parts were added to an earlier result of the same call
        cache = message.get("cache_control")
        if cache is not None and turn.parts:
            turn.parts[-1] = replace(turn.parts[-1], cache=cache)
        leads = turn.role == "system" and not (system_anywhere and chat.turns)
        (chat.system if leads else chat.turns).append(turn)
    chat.turns = list(_answered(chat.turns, blanks))
    last = chat.turns[-1] if chat.turns else None
    if last and last.role == "assistant" and last.parts and isinstance(last.parts[-1], Text):
        # The model continues this text (prefill); Claude refuses white space at its end.
        last.parts[-1] = Text(last.parts[-1].text.rstrip(), last.parts[-1].cache)
    check_media(chat.media, provider)
    return chat


def _turn(message: dict[str, Json], where: str, calls: _Calls, blanks: bool) -> Turn:
    role = message["role"]
    if role == "tool" and message["tool_call_id"] in calls.known:
        return Turn(role, calls.result(message, where, blanks), message)
    if role == "tool":  # its call is missing in the history: keep its content as the user's
        return Turn("user", list(content(message, where, blanks, calls.marks)), message)
    parts: list[Part] = list(content(message, where, blanks, calls.marks))
    if role == "assistant":
        parts += calls.add(message)
        return Turn(role, parts, message, _thoughts(message) or ())
    return Turn("system" if role == "developer" else role, parts, message)


def _answered(turns: list[Turn], blanks: bool) -> Iterator[Turn]:
    """Yield *turns* with the results of calls directly behind these, in their order.

    Providers refuse anything between, another order, and calls without a result, as an interrupted
    session leaves behind: unless *blanks* these get an empty one.  Adjacent turns of the assistant
    count as one.
    """
    results = {part.id: turn for turn in turns for part in turn.parts if isinstance(part, Result)}
    # Shared, as thousands of calls may have none.
    nothing: list[Text | Media] = [Text(EMPTY)]
    marks: Marks = {}
    for _, run in groupby(turns, lambda turn: turn.role == "assistant"):
        calls: list[Call] = []
        for turn in run:
            calls += [part for part in turn.parts if isinstance(part, Call)]
            if turn.role != "tool":
                yield turn
        for has_result, some in groupby(calls, lambda call: call.id in results):
            if has_result:
                yield from (results[call.id] for call in some)
            elif not blanks:
                empty: list[Part] = [Result(one.id, one.name, nothing, marks=marks) for one in some]
                yield Turn("tool", empty, {})


def merged(turns: list[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """Yield runs of turns whose sides alternate, ``user`` first.

    The user's side may be empty; tool results and system messages belong to it.  Empty turns of the
    assistant are dropped.  *turns* is emptied meanwhile: thousands of them take as much memory as
    the request that is made of them.
    """
    turns[:] = [t for t in reversed(turns) if t.role != "assistant" or t.parts or t.thoughts]
    if not turns or turns[-1].role == "assistant":
        yield "user", []
    taken = (turns.pop() for _ in range(len(turns)))
    for by_assistant, run in groupby(taken, lambda turn: turn.role == "assistant"):
        yield "assistant" if by_assistant else "user", list(run)


def count_parts(run: list[Turn]) -> int:
    """Return how many parts the turns of *run* have."""
    count = 0
    for turn in run:
        count += len(turn.parts)
    return count


def listed_if_few(values: Iterable[Json], count: int) -> Json:
    """Return *values*, about *count*, as a list if they are few; many are encoded one by one."""
    return values if count > FEW else list(values)


class _Calls:
    """The tool calls of a conversation so far, and their results."""

    def __init__(self, ids: re.Pattern[str] | None, marks: Marks) -> None:
        self._ids = ids
        self.marks = marks
        #: By the client's id: its calls in the latest message that has the id.
        self.known: dict[str, list[Call]] = {}
        self._used: set[str] = set()  # the ids sent to the provider
        self._attempts: dict[str, int] = {}  # ids generated for each id of the client
        self.results: dict[str, Result] = {}  # by the provider's id

    def add(self, message: dict[str, Json]) -> Iterator[Call]:
        """Add and yield the calls in an assistant's *message*."""
        by_id: dict[str, list[Call]] = {}
        for member in message.get("tool_calls") or ():
            function = member["function"]
            extra = member.get("extra_content")
            call = Call(
                self._valid_id(member["id"]),
                function["name"],
                function.get("arguments"),
                self.marks,
                extra if isinstance(extra, dict) else None,
                member.get("cache_control"),
            )
            self.known[member["id"]] = same = by_id.setdefault(member["id"], [])
            same.append(call)
            yield call

    def result(self, message: dict[str, Json], where: str, blanks: bool) -> list[Part]:
        """Return the result in a tool's *message*; add it to an earlier one of the same call."""
        same = self.known[message["tool_call_id"]]  # several if parallel calls share the id
        while len(same) > 1 and same[0].id in self.results:
            del same[0]
        call, parts = same[0], list(content(message, where, blanks, self.marks))
        if call.id in self.results:
            self.results[call.id].parts += parts
            return []
        failed = message.get("is_error") is True
        cache = next((part.cache for part in reversed(parts) if part.cache), None)
        result = Result(call.id, call.name, parts, failed, cache, self.marks)
        self.results[call.id] = result
        return [result]

    def _valid_id(self, id: str) -> str:
        """Return *id*, or a hash of it if it is not unique or the provider does not accept it.

        The hash is the same in every request, so that the provider's prompt cache still matches.
        """
        number, valid = self._attempts.get(id, 0), id
        while valid in self._used or (self._ids and not self._ids.fullmatch(valid)):
            digest = hashlib.sha256(f"{number} {id}".encode("utf-8", "replace")).hexdigest()
            valid = f"call_{digest[:24]}"
            number += 1
        self._used.add(valid)
        if number:
            self._attempts[id] = number
        return valid


def _thoughts(message: dict[str, Json]) -> list[dict[str, Json]]:
    """Return the thinking blocks that the provider accepts: signed or redacted ones."""
    thoughts = []
    for block in message.get("thinking_blocks") or ():
        members = {name: block.get(name) or "" for name in _THOUGHTS[block["type"]]}
        if [*members.values()][-1]:
            thoughts.append({"type": block["type"], **members})
    return thoughts
