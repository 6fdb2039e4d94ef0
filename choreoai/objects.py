"""The API's objects, with attributes.

Each object is laid over the dictionary that ``json.loads`` returned, which makes it cost
little more than that dictionary: its members are the object's attributes, what the server
sent beyond the documented fields included.  A documented field that is absent is None.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

T = TypeVar("T", bound="Object")


class Object:
    """What all objects of the API have in common."""

    # Beside the members, which are the attributes, so that it is none of them.
    __slots__ = ("__dict__", "__weakref__", "_id")
    _id: str | None

    # The documented members, in their order.
    _fields: ClassVar[tuple[str, ...]] = ()
    # Those that are not in OpenAI's schema, and in no dump when they are absent.
    _ours: ClassVar[frozenset[str]] = frozenset()
    # What those are made of that are objects, or lists of them.
    _kinds: ClassVar[dict[str, type[Object]]] = {}
    # Those that are never None, so that reading through them is safe, and what makes one.
    _always: ClassVar[dict[str, Callable[[], Any]]] = {}

    def __init_subclass__(cls) -> None:
        """Read the annotations: they say which members are objects."""
        super().__init_subclass__()
        known = vars(sys.modules[cls.__module__])
        annotations = inspect.get_annotations(cls)
        added = {name: text for name, text in annotations.items() if not name.startswith("_")}
        cls._fields = tuple(dict.fromkeys((*cls._fields, *added)))
        cls._kinds, cls._always = {**cls._kinds}, {**cls._always}
        for name, text in added.items():
            for kind in map(known.get, re.findall(r"\w+", text)):
                if isinstance(kind, type) and issubclass(kind, Object):
                    cls._kinds[name] = kind
                    if "None" not in text:
                        cls._always[name] = list if text.startswith("list") else kind

    def __new__(cls: type[T], **members: Any) -> T:
        """Return the object for *members*, JSON's values or objects."""
        return cls.from_dict(members)

    @classmethod
    def from_dict(cls: type[T], members: dict[str, Any]) -> T:
        """Return the object for *members*, decoded JSON, which it takes over."""
        for name, kind in cls._kinds.items():
            if name in members:
                value = members[name]
                if type(value) is list:
                    make = kind.from_dict
                    members[name] = [make(one) if type(one) is dict else one for one in value]
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

    def to_dict(self) -> dict[str, Any]:
        """Return the object as plain dictionaries and lists, ready for ``json.dumps``."""
        return self.model_dump(exclude_unset=True)

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return :meth:`to_dict` as JSON."""
        return self.model_dump_json(indent=indent, exclude_unset=True)

    model_validate = from_dict

    def model_dump(
        self,
        *,
        include: Collection[str] | None = None,
        exclude: Collection[str] = (),
        exclude_unset: bool = False,
        exclude_none: bool = False,
        exclude_defaults: bool = False,
        **others: object,
    ) -> dict[str, Any]:
        """Return the object as a dictionary, as pydantic's models do: all documented fields.

        Those that did not come are None; *exclude_unset* leaves them out, *exclude_none* and
        *exclude_defaults* all that are None.  *include* and *exclude* name members; *exclude*
        may be a dictionary, of members in members (``__all__`` of a list).  The *others* of
        pydantic's options make no difference: all values are JSON's.
        """
        fields = dict.fromkeys(name for name in self._fields if name not in self._ours)
        if exclude_unset:
            fields = {name: None for name in fields if name in self.__dict__}
        deeper = exclude if isinstance(exclude, Mapping) else dict.fromkeys(exclude, True)
        options = {"exclude_unset": exclude_unset, "exclude_none": exclude_none or exclude_defaults}
        return {
            name: _dumped(value, {**options, "exclude": deeper.get(name) or ()})
            for name, value in {**fields, **self.__dict__}.items()
            if not (options["exclude_none"] and value is None)
            and deeper.get(name) not in (True, ...)
            and (include is None or name in include)
        }

    def model_dump_json(self, *, indent: int | None = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON."""
        separators = (",", ":") if indent is None else None
        members = self.model_dump(**options)
        return json.dumps(members, indent=indent, separators=separators, ensure_ascii=False)

    def model_copy(self: T, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> T:
        """Return a copy with the members in *update* replaced."""
        made = copy.deepcopy(self) if deep else copy.copy(self)
        made.__dict__.update(update or {})
        return made

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the documented members that came."""
        return self.__dict__.keys() & set(self._fields)

    def __repr__(self) -> str:
        members = [f"{name}={value!r}" for name, value in vars(self).items() if value is not None]
        return f"{type(self).__name__}({', '.join(members)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


def _dumped(value: Any, options: dict[str, Any]) -> Any:
    if isinstance(value, list):
        excluded = options["exclude"]
        if isinstance(excluded, Mapping):
            options = {**options, "exclude": excluded.get("__all__", ())}
        return [_dumped(item, options) for item in value]
    # Also of pydantic's, in a parsed message.
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(**options)
