"""The API's objects, with attributes.

The dictionary that ``json.loads`` returned becomes the object's ``__dict__``, so that an object
costs little more than the dictionary.  All members that the server sent are attributes, also
undocumented ones.  A documented field that is absent is None.
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

Obj = TypeVar("Obj", bound="Object")
Item = TypeVar("Item")


class Object:
    """The base class of the API's objects."""

    # ``_id`` is a slot because ``__dict__`` holds the members.
    __slots__ = ("__dict__", "__weakref__", "_id")
    _id: str | None

    #: The documented members with their types, in their order.
    model_fields: ClassVar[dict[str, str]] = {}
    # The members that are not in OpenAI's schema: a dump leaves them out if they are absent.
    _extensions: ClassVar[frozenset[str]] = frozenset()
    # The classes of the members that are objects or lists of objects.
    _classes: ClassVar[dict[str, type[Object]]] = {}
    # The factories of the members that are never None, so that ``a.b.c`` is safe.
    _never_none: ClassVar[dict[str, Callable[[], Any]]] = {}

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init_subclass__(cls) -> None:
        """Read the annotations of the class; a member without a default there is never None."""
        super().__init_subclass__()
        declared: dict[str, str] = inspect.get_annotations(cls)
        cls.model_fields = {**cls.model_fields, **declared}
        cls._classes, cls._never_none = {**cls._classes}, {**cls._never_none}
        for name, kind in declared.items():
            class_name = kind.removeprefix("list[").partition("[")[0].split()[0].rstrip("]")
            member_class = vars(sys.modules[cls.__module__]).get(class_name)
            if isinstance(member_class, type) and issubclass(member_class, Object):
                cls._classes[name] = member_class
            if name not in vars(cls):
                factory = int if kind == "int" else cls._classes.get(name, str)
                cls._never_none[name] = list if kind.startswith("list") else factory

    def __new__(cls: type[Obj], **members: Any) -> Obj:
        """Return the object with *members*, which are JSON values or objects."""
        return cls.from_dict(members)

    @classmethod
    def from_dict(cls: type[Obj], members: dict[str, Any]) -> Obj:
        """Return the object with *members*, decoded JSON, which becomes part of the object."""
        for name, kind in cls._classes.items():
            if name in members:
                value = members[name]
                if type(value) is list:
                    for place, item in enumerate(value):
                        if type(item) is dict:
                            value[place] = kind.from_dict(item)
                elif type(value) is dict:
                    members[name] = kind.from_dict(value)
                elif value is None and name in cls._never_none:
                    members[name] = cls._never_none[name]()
        instance = object.__new__(cls)
        instance.__dict__ = members
        return instance

    if not TYPE_CHECKING:  # type checkers must report unknown names

        def __getattr__(self, name: str) -> Any:
            if name in self._never_none:
                return self._never_none[name]()
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _request_id(self) -> str | None:
        """The ``x-request-id`` of the answer; None if this object is only a part of an answer."""
        return getattr(self, "_id", None)

    def to_dict(self, *, exclude_unset: bool = True, **options: Any) -> dict[str, Any]:
        """Return :meth:`model_dump` without the fields that the server did not send."""
        return self.model_dump(exclude_unset=exclude_unset, **options)

    def to_json(self, *, indent: int | None = 2, exclude_unset: bool = True, **options: Any) -> str:
        """Return :meth:`to_dict` as JSON."""
        return self.model_dump_json(indent=indent, exclude_unset=exclude_unset, **options)

    model_validate = from_dict

    @classmethod
    def model_construct(cls: type[Obj], _fields_set: object = None, **members: Any) -> Obj:
        """Return the object with *members*; no object of this package validates them."""
        return cls.from_dict(members)

    construct = model_construct

    @classmethod
    def model_validate_json(cls: type[Obj], text: str | bytes) -> Obj:
        """Return the object for *text*, JSON as :meth:`model_dump_json` returns it."""
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
        """Return the object as a dictionary of all documented fields, as pydantic's models do.

        Fields that the server did not send are None; *exclude_unset* leaves them out,
        *exclude_none* and *exclude_defaults* leave out all that are None.  *include* and *exclude*
        are names of members, or dictionaries for members of members (in a list by their index, or
        ``__all__``).  Pydantic's *others* have no effect, because all values are JSON values.
        """
        parts = True if include is None else include, exclude or False
        dumped: dict[str, Any] = _dumped(
            self, *parts, exclude_unset=exclude_unset, exclude_none=exclude_none or exclude_defaults
        )
        return dumped

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON."""
        separators = (",", ":") if indent is None else None
        members = self.model_dump(**options)
        return json.dumps(members, indent=indent, separators=separators, ensure_ascii=False)

    def model_copy(
        self: Obj, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> Obj:
        """Return a copy with the members in *update* replaced."""
        result = copy.deepcopy(self) if deep else copy.copy(self)
        result.__dict__.update(update or {})
        return result

    def __iter__(self) -> Iterator[Any]:
        """Yield the names and values of the members, as pydantic's models do."""
        absent = (name for name in self.model_fields if name not in self._extensions)
        yield from {**dict.fromkeys(absent), **vars(self)}.items()

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the documented members that the server sent."""
        return self.__dict__.keys() & set(self.model_fields)

    @property
    def model_extra(self) -> dict[str, Any]:
        """The undocumented members that the server sent."""
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
    """A list of models in one page, for ``for`` and ``async for``."""

    if TYPE_CHECKING:
        data: list[Model]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.data)

    def __aiter__(self) -> AsyncIterator[Model]:
        return DualList(self.data).__aiter__()

    def __len__(self) -> int:
        return len(self.data)

    def has_next_page(self) -> bool:
        """Return False: there is only one page."""
        return False

    def next_page_info(self) -> None:
        """Return None: there is only one page."""

    def iter_pages(self: Obj) -> DualList[Obj]:
        """Return all pages, which is only this one."""
        return DualList([self])


class DualList(list[Item]):
    """A list for ``for`` and ``async for``."""

    async def __aiter__(self) -> AsyncIterator[Item]:
        for item in self:
            yield item


class AsyncListing:
    """The models of a server, to be awaited or iterated over."""

    def __init__(self, request: Coroutine[Any, Any, ModelList]) -> None:
        self._request = request

    def __await__(self) -> Generator[Any, Any, ModelList]:
        return self._request.__await__()

    async def __aiter__(self) -> AsyncIterator[Model]:
        for model in await self:
            yield model


class ResponseText(Object):
    """The text of a response."""

    if TYPE_CHECKING:
        output: list[Any]

    @property
    def output_text(self) -> str:
        """The joined text of all messages."""
        return "".join(part.text or "" for part in self._texts())

    def _texts(self) -> list[Any]:
        messages = (item for item in self.output if item.type == "message")
        return [part for item in messages for part in item.content if part.type == "output_text"]


class ParsedText(ResponseText, Generic[T]):
    """The parsed text of a response."""

    @property
    def output_parsed(self) -> T | None:
        """The first text as an object of ``text_format``, None for a refusal."""
        return next((part.parsed for part in self._texts() if part.parsed is not None), None)


def _dumped(value: Any, include: Any, exclude: Any, **options: bool) -> Any:
    members: Iterable[tuple[Any, Any]]
    if isinstance(value, Object):
        members = (
            (name, member)
            for name, member in Object.__iter__(value)
            if (name in vars(value) or not options["exclude_unset"])
            and (member is not None or not options["exclude_none"])
        )
    elif isinstance(value, (list, dict)):
        members = enumerate(value) if isinstance(value, list) else value.items()
    elif hasattr(value, "model_dump"):  # a pydantic model in a parsed message
        parts = {"include": None if include is True else include, "exclude": exclude or None}
        return value.model_dump(**parts, **options)
    else:
        return value
    kept = {
        key: _dumped(member, inside, outside, **options)
        for key, member in members
        if (inside := _part(include, key)) is not False
        and (outside := _part(exclude, key)) is not True
    }
    return [*kept.values()] if isinstance(value, list) else kept


def _part(selection: Any, key: Any) -> Any:
    """Return the part of *selection* (True: all, False: nothing) that is for the member *key*."""
    if isinstance(selection, bool):
        return selection
    if not isinstance(selection, Mapping):
        return key in selection or "__all__" in selection
    found = selection.get(key, selection.get("__all__", False))
    return True if found is ... else found
