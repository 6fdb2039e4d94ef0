"""The API's objects, with attributes.

Each object is laid over the dictionary that ``json.loads`` returned, which makes it cost
little more than that dictionary: its members are the object's attributes, what the server
sent beyond the documented fields included.  A documented field that is absent is None.
"""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from .options import T

if TYPE_CHECKING:
    from .models import Model, ModelList

Made = TypeVar("Made", bound="Object")
Item = TypeVar("Item")


class Object:
    """What all objects of the API have in common."""

    # Beside the members, which are the attributes, so that it is none of them.
    __slots__ = ("__dict__", "__weakref__", "_id")
    _id: str | None

    #: The documented members with their types, in their order.
    model_fields: ClassVar[dict[str, str]] = {}
    # Those that are not in OpenAI's schema, and in no dump when they are absent.
    _ours: ClassVar[frozenset[str]] = frozenset()
    # What those are made of that are objects, or lists of them.
    _kinds: ClassVar[dict[str, type[Object]]] = {}
    # Those that are never None, so that reading through them is safe, and what makes one.
    _always: ClassVar[dict[str, Callable[[], Any]]] = {}

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init_subclass__(cls) -> None:
        """Read the annotations of the class: a member without a value there is never None."""
        super().__init_subclass__()
        declared: dict[str, str] = inspect.get_annotations(cls)
        cls.model_fields = {**cls.model_fields, **declared}
        cls._kinds, cls._always = {**cls._kinds}, {**cls._always}
        for name, kind in declared.items():
            named = kind.removeprefix("list[").partition("[")[0].split()[0].rstrip("]")
            made_of = vars(sys.modules[cls.__module__]).get(named)
            if isinstance(made_of, type) and issubclass(made_of, Object):
                cls._kinds[name] = made_of
            if name not in vars(cls):
                plain = int if kind == "int" else cls._kinds.get(name, str)
                cls._always[name] = list if kind.startswith("list") else plain

    def __new__(cls: type[Made], **members: Any) -> Made:
        """Return the object for *members*, JSON's values or objects."""
        return cls.from_dict(members)

    @classmethod
    def from_dict(cls: type[Made], members: dict[str, Any]) -> Made:
        """Return the object for *members*, decoded JSON, which it takes over."""
        for name, kind in cls._kinds.items():
            if name in members:
                value = members[name]
                if type(value) is list:
                    for place, one in enumerate(value):
                        if type(one) is dict:
                            value[place] = kind.from_dict(one)
                elif type(value) is dict:
                    members[name] = kind.from_dict(value)
                elif value is None and name in cls._always:
                    members[name] = cls._always[name]()
        made = object.__new__(cls)
        made.__dict__ = members
        return made

    if not TYPE_CHECKING:  # for which an unknown name is a mistake

        def __getattr__(self, name: str) -> Any:
            if name in self._always:
                return self._always[name]()
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _request_id(self) -> str | None:
        """The ``x-request-id`` of the answer that this object is, None for a part of one."""
        return getattr(self, "_id", None)

    def to_dict(self, *, exclude_unset: bool = True, **options: Any) -> dict[str, Any]:
        """Return :meth:`model_dump` of what came: dictionaries and lists as JSON has them."""
        return self.model_dump(exclude_unset=exclude_unset, **options)

    def to_json(self, *, indent: int | None = 2, exclude_unset: bool = True, **options: Any) -> str:
        """Return :meth:`to_dict` as JSON."""
        return self.model_dump_json(indent=indent, exclude_unset=exclude_unset, **options)

    model_validate = from_dict

    @classmethod
    def model_construct(cls: type[Made], _fields_set: object = None, **members: Any) -> Made:
        """Return the object for *members*, unchecked, as all are."""
        return cls.from_dict(members)

    construct = model_construct

    @classmethod
    def model_validate_json(cls: type[Made], text: str | bytes) -> Made:
        """Return the object for *text*, JSON such as :meth:`model_dump_json` returns."""
        return cls.from_dict(json.loads(text))

    def model_dump(
        self,
        *,
        include: Any = True,
        exclude: Any = False,
        exclude_unset: bool = False,
        exclude_none: bool = False,
        exclude_defaults: bool = False,
        **others: object,
    ) -> dict[str, Any]:
        """Return the object as a dictionary, as pydantic's models do: all documented fields.

        Those that did not come are None; *exclude_unset* leaves them out, *exclude_none* and
        *exclude_defaults* all that are None.  *include* and *exclude* are the names of members, or
        dictionaries of members in members (in a list by their places, or ``__all__``).  The
        *others* of pydantic's options make no difference: all values are JSON's.
        """
        given = True if include is None else include, exclude or False
        dumped: dict[str, Any] = _dumped(
            self, *given, exclude_unset=exclude_unset, exclude_none=exclude_none or exclude_defaults
        )
        return dumped

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON."""
        separators = (",", ":") if indent is None else None
        members = self.model_dump(**options)
        return json.dumps(members, indent=indent, separators=separators, ensure_ascii=False)

    def model_copy(
        self: Made, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> Made:
        """Return a copy with the members in *update* replaced."""
        made = copy.deepcopy(self) if deep else copy.copy(self)
        made.__dict__.update(update or {})
        return made

    def __iter__(self) -> Iterator[Any]:
        """Yield the names and values of the members, as pydantic's models do."""
        absent = (name for name in self.model_fields if name not in self._ours)
        yield from {**dict.fromkeys(absent), **vars(self)}.items()

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the documented members that came."""
        return self.__dict__.keys() & set(self.model_fields)

    @property
    def model_extra(self) -> dict[str, Any]:
        """The members that came and are not documented."""
        return {name: value for name, value in vars(self).items() if name not in self.model_fields}

    def __repr__(self) -> str:
        members = [f"{name}={value!r}" for name, value in vars(self).items() if value is not None]
        return f"{type(self).__name__}({', '.join(members)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return dict(Object.__iter__(self)) == dict(Object.__iter__(other))

    __hash__ = None  # type: ignore[assignment]


class Listing(Object):
    """Models that came at once, for ``for`` and ``async for``."""

    if TYPE_CHECKING:
        data: list[Model]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)

    def __aiter__(self) -> AsyncIterator[Model]:
        return Both(self.data).__aiter__()

    def __len__(self) -> int:
        return len(self.data)

    def has_next_page(self) -> bool:
        """Return False: all is here."""
        return False

    def next_page_info(self) -> None:
        """Return None: all is here."""

    def iter_pages(self: Made) -> Both[Made]:
        """Return all pages: this one."""
        return Both([self])


class Both(list[Item]):
    """A list for ``for`` and ``async for``."""

    async def __aiter__(self) -> AsyncIterator[Item]:
        for one in self:
            yield one


class AsyncListing:
    """The models of a server, to be awaited or iterated over."""

    def __init__(self, asked: Coroutine[Any, Any, ModelList]) -> None:
        self._asked = asked

    def __await__(self) -> Generator[Any, Any, ModelList]:
        return self._asked.__await__()

    async def __aiter__(self) -> AsyncIterator[Model]:
        for model in await self:
            yield model


class ResponseText(Object):
    """What a response says."""

    if TYPE_CHECKING:
        output: list[Any]

    @property
    def output_text(self) -> str:
        """The text of all messages."""
        return "".join(part.text or "" for part in self._texts())

    def _texts(self) -> list[Any]:
        messages = (item for item in self.output if item.type == "message")
        return [part for item in messages for part in item.content if part.type == "output_text"]


class ParsedText(ResponseText, Generic[T]):
    """What a response says, parsed."""

    @property
    def output_parsed(self) -> T | None:
        """The first text as what was asked for, None for a refusal."""
        return next((part.parsed for part in self._texts() if part.parsed is not None), None)


def _dumped(value: Any, include: Any, exclude: Any, **options: bool) -> Any:
    members: Iterable[tuple[Any, Any]]
    if isinstance(value, Object):
        members = (
            (name, one)
            for name, one in Object.__iter__(value)
            if (name in vars(value) or not options["exclude_unset"])
            and (one is not None or not options["exclude_none"])
        )
    elif isinstance(value, (list, dict)):
        members = enumerate(value) if isinstance(value, list) else value.items()
    elif hasattr(value, "model_dump"):  # pydantic's, in a parsed message
        given = {"include": None if include is True else include, "exclude": exclude or None}
        return value.model_dump(**given, **options)
    else:
        return value
    kept = {
        key: _dumped(one, inside, outside, **options)
        for key, one in members
        if (inside := _part(include, key)) is not False
        and (outside := _part(exclude, key)) is not True
    }
    return [*kept.values()] if isinstance(value, list) else kept


def _part(named: Any, key: Any) -> Any:
    """Return what *named*, True for all and False for nothing, names in the member *key*."""
    if isinstance(named, bool):
        return named
    if not isinstance(named, Mapping):
        return key in named or "__all__" in named
    found = named.get(key, named.get("__all__", False))
    return True if found is ... else found
