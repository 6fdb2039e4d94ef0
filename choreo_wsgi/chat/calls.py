"""The tool calls of one choice, put together from pieces that upstreams number as they like.

OpenAI's rule: the first piece of a call has its ``index`` (from 0, without gaps), ``id``,
``type`` and name; later pieces have the index and more of the arguments, and nothing else.
Upstreams number all calls 0, count from 1, leave indexes or ids out, repeat starts, or send
null and ``""`` for what is left out.  A call is recognised by its index and id together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from ..errors import UpstreamInvalid
from ..late import Late
from . import jsontext
from .items import Json, Marks, new_call_id
from .jsontext import whole_number
from .shapes import arguments_of

if TYPE_CHECKING:
    from . import aside
else:
    aside = Late("choreo_wsgi.chat.aside")

Piece = dict[str, Json]
#: Calls in one answer, and characters of the arguments of one.
_MOST_CALLS = 4096
_LONGEST = 16 * 1024 * 1024
#: So many pieces are looked at at once.
_BATCH = 16
#: Where arguments stand, the name of OpenAI's API first.
_ARGUMENTS = ("arguments", "parameters", "input")
_KNOWN = ("index", "id", "type", "function", "custom", "name", *_ARGUMENTS)


@dataclass(slots=True, eq=False)
class Call:
    """One tool call, and what came of it.  Its *number* is counted when it begins, from 0.

    Each piece of the arguments is looked at once, however often somebody asks for them.
    """

    index: int | None  # the upstream's
    id: str  # the upstream's
    number: int = -1
    name: str = ""
    custom: bool = False
    size: int = 0  # of the arguments that have come
    _pieces: list[str | bytes] = field(default_factory=list)  # those that have come since
    _text: bytearray = field(default_factory=bytearray)  # these were read, in UTF-8; behind them
    _depth: int = 0  # so many brackets are open,
    _inside: bool = False  # a string is,
    _escape: str = ""  # and perhaps an escape
    _broken: bool = False  # no JSON, whatever follows

    @property
    def begun(self) -> bool:
        """Whether its first piece was passed on."""
        return self.number >= 0

    def add(self, piece: str | bytes) -> None:
        """Take a *piece* of the arguments: text, or the inside of a JSON string as it came.

        Raises UpstreamInvalid when they are too long.
        """
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size > _LONGEST:
            raise UpstreamInvalid("the provider sent a tool call that does not end")

    @property
    def arguments(self) -> str:
        """What has come of the arguments; raises UpstreamInvalid where they are no text."""
        self._read()
        return self._text.decode("utf-8", "surrogatepass")

    @property
    def complete(self) -> bool:
        """Whether the arguments are JSON."""
        try:
            self._read()
            aside.parse_aside(self._text, {}, jsontext.strict)
        except ValueError:
            return False
        return True

    @property
    def closed(self) -> bool:
        """Whether the arguments are a whole object; asked for each piece, so quick to say no."""
        last = self._pieces[-1] if self._pieces else self._text
        if self._broken or last[-1:] not in ("}", b"}"):
            return False
        self._read()
        if self._inside or self._depth:
            return False
        self._broken = not self.complete  # what is no JSON although all is closed never will be
        return not self._broken

    def _read(self) -> None:
        for raw, some in _batches(_taken(self._pieces)):
            text = _text(b"".join(some)) if raw else "".join(some)
            self._text += text.encode("utf-8", "surrogatepass")
            text = self._escape + text
            self._escape = "\\" * ((len(text) - len(text.rstrip("\\"))) % 2)
            text = text.removesuffix(self._escape).replace("\\\\", "").replace('\\"', "")
            parts = text.split('"')
            outside = "".join(parts[self._inside :: 2])
            self._inside ^= len(parts) % 2 == 0
            self._depth += sum(map(outside.count, "[{")) - sum(map(outside.count, "]}"))


def _taken(pieces: list[str | bytes]) -> Iterator[str | bytes]:
    """Yield *pieces*, which are held no longer then."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()


def _batches(pieces: Iterable[str | bytes]) -> Iterator[tuple[bool, list[Any]]]:
    """Yield runs of *pieces* of one type, none of which is very long."""
    for raw, run in groupby(pieces, lambda piece: isinstance(piece, bytes)):
        while some := list(islice(run, _BATCH)):
            yield raw, some


def _text(inside: bytes) -> str:
    try:
        return str(json.loads(b'"' + inside + b'"'))
    except ValueError as error:
        raise UpstreamInvalid("the provider's tool call cannot be read") from error


def _once(text: str) -> str:
    """Return *text*, arguments, which may be JSON that was written as a JSON string once more."""
    if text[:1] != '"' or aside.has_marks(text):
        return text
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return str(inner) if inner.lstrip()[:1] == "{" else text


def _is_another(call: Call, name: str, text: str) -> bool:
    """Return whether a start with *name* and the arguments *text* does not repeat *call*.

    That one is complete.
    """
    same = name == call.name and (text[:1] != "{" or text == call.arguments)
    return bool(name and call.name) and not same


@dataclass(eq=False)
class ToolCalls:
    """The calls of one choice; *new_id* makes the id of one that came without.

    *tools* are the names that can be called, if they are known: a name that only begins one of
    them may go on in the next piece.  ``state`` counts what changes the meaning of later pieces:
    which call an index stands for.
    """

    new_id: Callable[[], str] = new_call_id
    tools: frozenset[str] = frozenset()
    marks: Marks = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    begun: list[Call] = field(default_factory=list)  # by their numbers
    state: int = 0
    _by_index: dict[int, Call] = field(default_factory=dict)
    _by_key: dict[tuple[int | None, str], Call] = field(default_factory=dict)

    def take(self, given: Json) -> list[Piece]:
        """Return the pieces to pass on for *given*, the ``tool_calls`` of a delta or message.

        Long arguments are marks of ``marks`` in both.  Raises UpstreamInvalid for what is no list
        of objects.
        """
        if isinstance(given, dict):
            given = [given]
        if not (isinstance(given, list) and all(isinstance(one, dict | None) for one in given)):
            raise UpstreamInvalid("the provider's tool calls are not a list of objects")
        made = map(self._take, filter(None, given))
        return [piece for piece in made if piece is not None]

    def close(self) -> list[Piece]:
        """Say that the calls are complete; return the pieces still due: ``{}`` for no arguments.

        Raises UpstreamInvalid for a call without a name, or whose arguments are not JSON.
        """
        due: list[Piece] = []
        for call in self.calls:
            if call.name and not call.begun:
                due.append(self._begin(call, "function"))
            if not call.begun:
                if self.begun and not call.size:
                    continue  # an empty start that nothing came of
                raise UpstreamInvalid("the provider's tool call has no name")
            if call.custom or call.complete:
                continue
            if call.arguments.strip():
                name = call.name[:64]
                raise UpstreamInvalid(f"the provider's call of {name!r} has broken arguments")
            call.add("{}")
            due.append({"index": call.number, "function": {"arguments": "{}"}})
        return due

    def _take(self, piece: Piece) -> Piece | None:
        kind, member = "function", "arguments"
        if isinstance(piece.get("custom"), dict):
            kind, member = "custom", "input"
        inner = piece.get(kind)
        inner = inner if isinstance(inner, dict) else piece
        index = whole_number(piece.get("index"))
        id, name = piece.get("id"), inner.get("name")
        id = id if isinstance(id, str) else "" if id is None else str(id)
        name = name if isinstance(name, str) else ""
        given = next((found for key in _ARGUMENTS if (found := inner.get(key)) is not None), None)
        # An empty object at the start is where the arguments will be; PHP has no other than [].
        text = "" if given in ({}, []) else arguments_of(given)
        call = self._find(index, id, name, text) or self._open(index, id)
        if call.begun and (id or name) and text[-1:] == "}" and call.closed:
            again = call.arguments == aside.whole(text, self.marks)
            text = "" if again else text  # the whole call once more
        if not call.size:
            text = "" if text in ("null", "None", "[]") else _once(text)
        given = None if call.size else text
        for one in aside.insides(text, self.marks):
            if one:
                call.add(one)
        extra = {key: value for key, value in piece.items() if key not in _KNOWN and value}
        if call.begun:
            made = {"index": call.number, kind: {member: text}, **extra}
            return made if text or extra or made == piece else None
        again = name == call.name or (name.startswith(call.name) and self._is_begun(name))
        call.name = name if again else call.name + name
        if not call.name or (not call.size and self._may_go_on(call.name)):
            return None  # it begins when its name has come
        return {**self._begin(call, kind, given), **extra}

    def _may_go_on(self, name: str) -> bool:
        return name not in self.tools and self._is_begun(name)

    def _is_begun(self, name: str) -> bool:
        return any(tool.startswith(name) for tool in self.tools)

    def _begin(self, call: Call, kind: str, given: str | None = None) -> Piece:
        call.number, call.custom = len(self.begun), kind == "custom"
        self.begun.append(call)
        self.state += 1
        call.id = call.id or self.new_id()
        if given is None:
            given = aside.set_aside([call.arguments], self.marks)
        body = {"name": call.name, "input" if call.custom else "arguments": given}
        return {"index": call.number, "id": call.id, "type": kind, kind: body}

    def _open(self, index: int | None, id: str) -> Call:
        if len(self.calls) >= _MOST_CALLS:
            raise UpstreamInvalid(f"the provider sent more than {_MOST_CALLS:,} tool calls")
        call = Call(index, "" if (None, id) in self._by_key else id)  # no two have the same
        self.calls.append(call)
        self.state += 1
        self._know(call, index, id)
        return call

    def _know(self, call: Call, index: int | None, id: str) -> None:
        if index is not None and self._by_index.get(index) is not call:
            self._by_index[index] = call
            self.state += 1
        if id:
            self._by_key[index, id] = self._by_key[None, id] = call

    def _find(self, index: int | None, id: str, name: str, text: str) -> Call | None:
        """Return the call that a piece belongs to, or None: it begins one."""
        last = self.calls[-1] if self.calls else None
        current = last if index is None else self._by_index.get(index)
        if id:
            known = self._by_key.get((index, id))
            if known is not None and known.closed and _is_another(known, name, text):
                return None
            if known is None and (other := self._by_key.get((None, id))) is not None:
                known = other if other.index is None else None
            if known is None and current is not None and self._goes_on(current, name):
                known = current
                known.id = known.id or (id if not known.begun else "")
            if known is not None:
                self._know(known, index, id)
            return known
        if current is None:
            return None if name else last  # pieces under an index that no call began with
        if not (name and current.begun):
            return current
        if name != current.name:
            return None
        # The same start once more, or a second call of the same function.
        return None if text[:1] == "{" and current.closed else current

    @staticmethod
    def _goes_on(call: Call, name: str) -> bool:
        """Whether a piece with an id that is new, and *name*, still belongs to *call*."""
        if not call.begun:
            return not call.id
        # Ids that are made anew for every piece: only a name can begin a call.
        return not name and not call.closed
