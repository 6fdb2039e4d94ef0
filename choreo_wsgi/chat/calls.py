"""The tool calls of one choice, merged from pieces that upstreams number in many ways.

OpenAI's rule: the first piece of a call has its ``index`` (from 0, without gaps), ``id``,
``type`` and name; later pieces have the index and more of the arguments, and nothing else.
Upstreams number all calls 0, count from 1, omit indexes or ids, repeat first pieces, or send null
and ``""`` for omitted members.  A call is recognised by its index and id together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UpstreamInvalid
from ..ids import digest
from ..late import Late
from . import jsontext
from .items import Json, Marks, new_call_id
from .jsontext import encoded, whole_number
from .shapes import ARGUMENTS, arguments_in, arguments_of, listed

if TYPE_CHECKING:
    from . import aside
else:
    aside = Late("choreo_wsgi.chat.aside")

Piece = dict[str, Json]
#: Limits of calls in one answer, and of bytes in the arguments of one.
_MOST_CALLS = 4096
_LONGEST = 16 * 1024 * 1024
#: Pieces that are decoded at once, and bytes of a piece that ends them; after such a piece
#: complete arguments are freed.
_BATCH, _LARGE = 16, 512
_KNOWN = ("index", "id", "type", "function", "custom", "name", *ARGUMENTS)


@dataclass(slots=True)
class Brackets:
    """Counts the open brackets and strings of a JSON text that is received in pieces."""

    _depth: int = 0
    _inside: bool = False
    _escape: str = ""

    def add(self, text: str) -> None:
        """Count the next piece."""
        text = self._escape + text
        self._escape = "\\" * ((len(text) - len(text.rstrip("\\"))) % 2)
        text = text.removesuffix(self._escape).replace("\\\\", "").replace('\\"', "")
        parts = text.split('"')
        outside = "".join(parts[self._inside :: 2])
        self._inside ^= len(parts) % 2 == 0
        self._depth += sum(map(outside.count, "[{")) - sum(map(outside.count, "]}"))

    @property
    def closed(self) -> bool:
        """Whether every bracket and string that was opened is closed."""
        return not (self._inside or self._depth)


@dataclass(slots=True, eq=False)
class Call:
    """One tool call.  Its *number*, the index for the client, is assigned when it begins.

    Each piece of the arguments is decoded once.  The arguments of a call that has begun are freed
    once they are a complete object: they may be megabytes.
    """

    index: int | None  # the upstream's
    id: str  # the upstream's
    number: int = -1
    name: str = ""
    custom: bool = False
    size: int = 0  # bytes of arguments received
    _pieces: list[bytes] = field(default_factory=list)  # not decoded yet
    _text: bytearray = field(default_factory=bytearray)  # the decoded arguments, in UTF-8
    _brackets: Brackets = field(default_factory=Brackets)
    _broken: bool = False  # the arguments are invalid JSON, whatever follows
    _digest: bytes = b""  # of the arguments, once they are freed

    @property
    def begun(self) -> bool:
        """Whether its first piece was forwarded."""
        return self.number >= 0

    def add(self, piece: bytes) -> None:
        """Add a *piece* of the arguments, part of a JSON string with its escapes.

        Raises UpstreamInvalid if the arguments become too long.
        """
        self._pieces.append(piece)
        self.size += len(piece)
        if self.size > _LONGEST:
            raise UpstreamInvalid("the provider sent a tool call that is too long")

    @property
    def arguments(self) -> str:
        """The arguments received so far; raises UpstreamInvalid if they are no valid string."""
        self._decode()
        return self._text.decode("utf-8", "surrogatepass")

    @property
    def blank(self) -> bool:
        """Whether the arguments received so far are nothing but blanks."""
        self._decode()
        return not self._text or self._text.isspace()

    def has_arguments(self, arguments: str) -> bool:
        """Whether *arguments* are the ones received so far."""
        text = encoded(arguments)
        return digest(text) == self._digest if self._digest else text == self._text

    @property
    def complete(self) -> bool:
        """Whether the arguments are valid JSON."""
        self._decode()
        if self._digest:
            return not self._text.strip()
        try:
            aside.check(self._text, jsontext.strict)
        except ValueError:
            return False
        return True

    def free_if_complete(self) -> bool:
        """Return whether the arguments are complete; free those of a begun call.  Cheap if not."""
        if self._digest:
            return self.complete
        last = self._pieces[-1] if self._pieces else self._text
        if self._broken or last[-1:] != b"}":
            return False
        self._decode()
        if not self._brackets.closed:
            return False
        self._broken = not self.complete  # as all brackets are closed, more text cannot mend it
        if self.begun and not self._broken:
            self._digest, self._text = digest(self._text), bytearray()
        return not self._broken

    def _decode(self) -> None:
        self._pieces.reverse()
        while self._pieces:
            some = [self._pieces.pop()]
            while self._pieces and len(some) < _BATCH and len(some[-1]) < _LARGE:
                some.append(self._pieces.pop())
            try:
                text: str = json.loads(b'"%b"' % b"".join(some))
            except ValueError as error:
                raise UpstreamInvalid("the provider's tool call cannot be read") from error
            self._text += encoded(text)
            self._brackets.add(text)


def _unquoted(text: str) -> str:
    """Return the object in *text*, arguments that may have been encoded as a JSON string twice."""
    if text[:1] != '"' or aside.has_marks(text):
        return text
    try:
        inner = json.loads(text)
    except ValueError:
        return text
    return str(inner) if inner.lstrip()[:1] == "{" else text


@dataclass(eq=False)
class ToolCalls:
    """The calls of one choice; *new_id* makes the id of a call that has none.

    *tools* are the names of the request's tools, if known: the beginning of one of them may be
    continued in the next piece.  ``state`` changes with the meaning of later pieces: when a call
    begins, or when an index stands for another call.
    """

    new_id: Callable[[], str] = new_call_id
    tools: frozenset[str] = frozenset()
    marks: Marks = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    begun: list[Call] = field(default_factory=list)  # by their numbers
    state: int = 0
    _by_index: dict[int, Call] = field(default_factory=dict)
    _by_key: dict[tuple[int | None, str], Call] = field(default_factory=dict)

    def normalise(self, tool_calls: Json) -> list[Piece]:
        """Return the pieces to forward for the ``tool_calls`` of a delta or message.

        Both may have ``marks`` for long arguments.  Raises UpstreamInvalid unless *tool_calls*
        is a list of objects.
        """
        pieces = listed(tool_calls)
        if not all(isinstance(one, dict) for one in pieces):
            raise UpstreamInvalid("the provider's tool calls are not a list of objects")
        return [one for piece in pieces if (one := self._normalise(piece)) is not None]

    def close(self) -> list[Piece]:
        """End the calls; return the pieces still to send, such as ``{}`` for no arguments.

        Raises UpstreamInvalid for a call without a name or with arguments that are not JSON.
        """
        due: list[Piece] = []
        for call in self.calls:
            if call.name and not call.begun:
                due.append(self._begin(call, "function"))
            if not call.begun:
                if self.begun and not call.size:
                    continue  # an empty first piece without a successor
                raise UpstreamInvalid("the provider's tool call has no name")
            if call.custom or call.complete:
                continue
            if not call.blank:
                name = call.name[:64]
                raise UpstreamInvalid(f"the provider's call of {name!r} has broken arguments")
            call.add(b"{}")
            due.append({"index": call.number, "function": {"arguments": "{}"}})
        return due

    def _normalise(self, piece: Piece) -> Piece | None:
        """Return the piece to forward for *piece*, None for nothing."""
        kind, member = "function", "arguments"
        if isinstance(piece.get("custom"), dict):
            kind, member = "custom", "input"
        inner = piece.get(kind)
        if not isinstance(inner, dict):
            inner = {**piece, "name": inner} if isinstance(inner, str) else piece
        index = whole_number(piece.get("index"))
        id, name = piece.get("id"), inner.get("name")
        id = aside.word(id if isinstance(id, str) else "" if id is None else str(id), {})
        name = name if isinstance(name, str) else ""
        arguments = arguments_in(inner)
        # An empty object at first means that arguments follow; PHP writes it as [].
        text = "" if arguments in ({}, []) else arguments_of(arguments)
        call = self._find(index, id, name, text) or self._new_call(index, id)
        if call.begun and (id or name) and text[-1:] == "}" and call.free_if_complete():
            repeated = call.has_arguments(aside.whole(text, self.marks))
            text = "" if repeated else text  # the complete call was sent a second time
        if not call.size:
            text = "" if text in ("null", "None", "[]") else _unquoted(text)
        size, all_arguments = call.size, None if call.size else text
        for one in aside.raw_pieces(text, self.marks):
            if one:
                call.add(one if isinstance(one, bytes) else aside.escaped(one))
        extra = {key: value for key, value in piece.items() if key not in _KNOWN and value}
        if call.begun:
            later = {"index": call.number, kind: {member: text}, **extra}
            result = later if text or extra or later == piece else None
        else:
            replaces = name.startswith(call.name) and (name == call.name or self._begins_tool(name))
            call.name = aside.word(name if replaces else call.name + name, {})
            unknown = not call.size and call.name not in self.tools
            if not call.name or (unknown and self._begins_tool(call.name)):
                return None  # the call begins once its name is complete
            result = {**self._begin(call, kind, all_arguments), **extra}
        if call.size > size + _LARGE:
            call.free_if_complete()
        return result

    def _begins_tool(self, name: str) -> bool:
        return any(tool.startswith(name) for tool in self.tools)

    def _begin(self, call: Call, kind: str, arguments: str | None = None) -> Piece:
        """Number *call* and return its first piece, with *arguments* or those received so far."""
        call.number, call.custom = len(self.begun), kind == "custom"
        self.begun.append(call)
        self.state += 1
        call.id = call.id or self.new_id()
        if arguments is None:
            arguments = aside.set_aside([call.arguments], self.marks)
        body = {"name": call.name, "input" if call.custom else "arguments": arguments}
        return {"index": call.number, "id": call.id, "type": kind, kind: body}

    def _new_call(self, index: int | None, id: str) -> Call:
        if len(self.calls) >= _MOST_CALLS:
            raise UpstreamInvalid(f"the provider sent more than {_MOST_CALLS:,} tool calls")
        if self.calls:
            self.calls[-1].free_if_complete()  # not with all others at the end
        call = Call(index, "" if (None, id) in self._by_key else id)  # ids are unique
        self.calls.append(call)
        self.state += 1
        self._register(call, index, id)
        return call

    def _register(self, call: Call, index: int | None, id: str) -> None:
        if index is not None and self._by_index.get(index) is not call:
            self._by_index[index] = call
            self.state += 1
        if id:
            self._by_key[index, id] = self._by_key[None, id] = call

    def _find(self, index: int | None, id: str, name: str, text: str) -> Call | None:
        """Return the call that a piece belongs to, None if it begins a new one."""
        last = self.calls[-1] if self.calls else None
        current = last if index is None else self._by_index.get(index)
        if id:
            known = self._by_key.get((index, id))
            if known is not None and name and known.name and known.free_if_complete():
                arguments = aside.whole(text, self.marks)
                if name != known.name or (text[:1] == "{" and not known.has_arguments(arguments)):
                    return None  # another call
            if known is None and (other := self._by_key.get((None, id))) is not None:
                known = other if other.index is None else None
            # Some upstreams make a new id for every piece: then only a name begins a call.
            if (
                known is None
                and current is not None
                and (not (name or current.free_if_complete()) if current.begun else not current.id)
            ):
                known = current
                known.id = known.id or id
            if known is not None:
                self._register(known, index, id)
            return known
        if current is None:
            return None if name else last  # no call began with this index
        if not (name and current.begun):
            return current
        if name != current.name:
            return None
        # The first piece was repeated, or this is a second call of the same function.
        return None if text[:1] == "{" and current.free_if_complete() else current
