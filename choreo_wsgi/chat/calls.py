"""The tool calls of one choice, put together from pieces that upstreams number as they like.

OpenAI's rule: the first piece of a call has its ``index`` (from 0, without gaps), ``id``,
``type`` and name; later pieces have the index and more of the arguments, and nothing else.
Upstreams number all calls 0, count from 1, leave indexes or ids out, repeat starts, or send
null and ``""`` for what is left out.  A call is recognised by its index and id together.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UpstreamInvalid
from ..ids import digest
from ..late import Late
from . import jsontext
from .items import Json, Marks, new_call_id
from .jsontext import whole_number
from .shapes import ARGUMENTS, arguments_in, arguments_of, listed

if TYPE_CHECKING:
    from . import aside
else:
    aside = Late("choreo_wsgi.chat.aside")

Piece = dict[str, Json]
#: Calls in one answer, and characters of the arguments of one.
_MOST_CALLS = 4096
_LONGEST = 16 * 1024 * 1024
#: So many pieces are looked at at once; behind a larger one, whether the arguments are whole.
_BATCH, _LARGE = 16, 2 * 1024
_KNOWN = ("index", "id", "type", "function", "custom", "name", *ARGUMENTS)


class Brackets:
    """Whether a JSON text that comes in pieces is whole: neither a string nor a bracket is open."""

    _depth, _inside, _escape = 0, False, ""

    def add(self, text: str) -> None:
        """Take the next piece."""
        text = self._escape + text
        self._escape = "\\" * ((len(text) - len(text.rstrip("\\"))) % 2)
        text = text.removesuffix(self._escape).replace("\\\\", "").replace('\\"', "")
        parts = text.split('"')
        outside = "".join(parts[self._inside :: 2])
        self._inside ^= len(parts) % 2 == 0
        self._depth += sum(map(outside.count, "[{")) - sum(map(outside.count, "]}"))

    @property
    def closed(self) -> bool:
        """Whether all is closed that was opened."""
        return not (self._inside or self._depth)


@dataclass(slots=True, eq=False)
class Call:
    """One tool call, and what came of it.  Its *number* is counted when it begins, from 0.

    Each piece of the arguments is looked at once, however often somebody asks for them.  Those of a
    call that has begun are not kept once they are a whole object: they may be megabytes.
    """

    index: int | None  # the upstream's
    id: str  # the upstream's
    number: int = -1
    name: str = ""
    custom: bool = False
    size: int = 0  # of the arguments that have come
    _pieces: deque[bytes] = field(default_factory=deque)  # those that have come since
    _text: bytearray = field(default_factory=bytearray)  # these were read, in UTF-8
    _brackets: Brackets = field(default_factory=Brackets)
    _broken: bool = False  # no JSON, whatever follows
    _digest: bytes = b""  # of the arguments, once they are not kept

    @property
    def begun(self) -> bool:
        """Whether its first piece was passed on."""
        return self.number >= 0

    def add(self, piece: bytes) -> None:
        """Take a *piece* of the arguments, the inside of a JSON string as it came.

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

    def says(self, arguments: str) -> bool:
        """Whether *arguments* are what has come."""
        text = arguments.encode("utf-8", "surrogatepass")
        return digest(text) == self._digest if self._digest else text == self._text

    @property
    def complete(self) -> bool:
        """Whether the arguments are JSON."""
        self._read()
        if self._digest:
            return not self._text.strip()
        try:
            aside.parse_aside(self._text, {}, jsontext.strict)
        except ValueError:
            return False
        return True

    @property
    def closed(self) -> bool:
        """Whether the arguments are a whole object; asked for each piece, so quick to say no."""
        if self._digest:
            return self.complete
        last = self._pieces[-1] if self._pieces else self._text
        if self._broken or last[-1:] != b"}":
            return False
        self._read()
        if not self._brackets.closed:
            return False
        self._broken = not self.complete  # what is no JSON although all is closed never will be
        if self.begun and not self._broken:
            self._digest, self._text = digest(self._text), bytearray()
        return not self._broken

    def _read(self) -> None:
        while self._pieces:
            some = [self._pieces.popleft() for _ in range(min(_BATCH, len(self._pieces)))]
            try:
                text: str = json.loads(b'"%b"' % b"".join(some))
            except ValueError as error:
                raise UpstreamInvalid("the provider's tool call cannot be read") from error
            self._text += text.encode("utf-8", "surrogatepass")
            self._brackets.add(text)


def _once(text: str) -> str:
    """Return *text*, arguments, which may be JSON that was written as a JSON string once more."""
    if text[:1] != '"' or aside.has_marks(text):
        return text
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return str(inner) if inner.lstrip()[:1] == "{" else text


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
        pieces = listed(given)
        if not all(isinstance(one, dict) for one in pieces):
            raise UpstreamInvalid("the provider's tool calls are not a list of objects")
        return [made for piece in pieces if (made := self._take(piece)) is not None]

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
            call.add(b"{}")
            due.append({"index": call.number, "function": {"arguments": "{}"}})
        return due

    def _take(self, piece: Piece) -> Piece | None:
        kind, member = "function", "arguments"
        if isinstance(piece.get("custom"), dict):
            kind, member = "custom", "input"
        inner = piece.get(kind)
        if not isinstance(inner, dict):
            inner = {**piece, "name": inner} if isinstance(inner, str) else piece
        index = whole_number(piece.get("index"))
        id, name = piece.get("id"), inner.get("name")
        id = id if isinstance(id, str) else "" if id is None else str(id)
        name = name if isinstance(name, str) else ""
        given = arguments_in(inner)
        # An empty object at the start is where the arguments will be; PHP has no other than [].
        text = "" if given in ({}, []) else arguments_of(given)
        call = self._find(index, id, name, text) or self._open(index, id)
        if call.begun and (id or name) and text[-1:] == "}" and call.closed:
            again = call.says(aside.whole(text, self.marks))
            text = "" if again else text  # the whole call once more
        if not call.size:
            text = "" if text in ("null", "None", "[]") else _once(text)
        size, given = call.size, None if call.size else text
        for one in aside.raw_pieces(text, self.marks):
            if one:
                call.add(one if isinstance(one, bytes) else aside.escaped(one))
        extra = {key: value for key, value in piece.items() if key not in _KNOWN and value}
        if call.begun:
            made = {"index": call.number, kind: {member: text}, **extra}
            passed = made if text or extra or made == piece else None
        else:
            again = name == call.name or (name.startswith(call.name) and self._is_begun(name))
            call.name = name if again else call.name + name
            unknown = not call.size and call.name not in self.tools
            if not call.name or (unknown and self._is_begun(call.name)):
                return None  # it begins when its name has come
            passed = {**self._begin(call, kind, given), **extra}
        if call.size > size + _LARGE:
            _ = call.closed  # then they are kept no longer
        return passed

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
            if known is not None and name and known.name and known.closed:
                given = aside.whole(text, self.marks)
                if name != known.name or (text[:1] == "{" and not known.says(given)):
                    return None  # another call
            if known is None and (other := self._by_key.get((None, id))) is not None:
                known = other if other.index is None else None
            # Ids that are made anew for every piece: only a name can begin a call.
            if (
                known is None
                and current is not None
                and (not (name or current.closed) if current.begun else not current.id)
            ):
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
