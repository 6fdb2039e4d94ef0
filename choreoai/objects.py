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
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

T = TypeVar("T", bound="Object")


class Object:
    """What all objects of the API have in common."""

    # Beside the members, which are the attributes, so that it is none of them.
    __slots__ = ("__dict__", "__weakref__", "_id")
    _id: str | None

    # The documented members, in their order.
    _fields: ClassVar[tuple[str, ...]] = ()
    # Those that are objects themselves, or lists of them.
    _nested: ClassVar[tuple[tuple[str, type[Object]], ...]] = ()
    # Those whose absence is an empty object or list, so that reading through them is safe.
    _always: ClassVar[dict[str, type]] = {}
    # Those that are not in OpenAI's schema, and in no dump when they are absent.
    _ours: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        """Read the annotations: a member that cannot be None is always there."""
        super().__init_subclass__()
        known = vars(sys.modules[cls.__module__])
        nested, always = dict(cls._nested), dict(cls._always)
        for name, annotation in inspect.get_annotations(cls).items():
            if name.startswith("_"):
                continue
            cls._fields = (*(field for field in cls._fields if field != name), name)
            for word in re.findall(r"\w+", annotation):
                kind = known.get(word)
                if isinstance(kind, type) and issubclass(kind, Object):
                    nested[name] = kind
                    if "None" not in annotation:
                        always[name] = list if annotation.startswith("list") else kind
        cls._nested, cls._always = tuple(nested.items()), always

    def __init__(self, **members: Any) -> None:
        build(type(self), members, self)

    @property
    def _request_id(self) -> str | None:
        """The ``x-request-id`` of the answer that this object is, None for a part of one."""
        return getattr(self, "_id", None)

    @classmethod
    def from_dict(cls: type[T], members: dict[str, Any]) -> T:
        """Return the object for *members*, decoded JSON, which it takes over."""
        return build(cls, members)

    def to_dict(self) -> dict[str, Any]:
        """Return the object as plain dictionaries and lists, ready for ``json.dumps``."""
        return {name: _plain(value) for name, value in self.__dict__.items()}

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

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
        members = (
            f"{name}={value!r}" for name, value in self.__dict__.items() if value is not None
        )
        return f"{type(self).__name__}({', '.join(members)})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


def build(cls: type[T], members: dict[str, Any], self: T | None = None) -> T:
    """Return *members* as an object of *cls*: the one place where objects are made."""
    made = cls.__new__(cls) if self is None else self
    for name, kind in cls._nested:
        value = members.get(name)
        if type(value) is list:
            members[name] = [build(kind, v) if type(v) is dict else v for v in value]
        elif type(value) is dict:
            members[name] = build(kind, value)
    for name, empty in cls._always.items():
        if members.get(name) is None:
            members[name] = empty()
    made.__dict__ = members
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, Object):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _dumped(value: Any, options: dict[str, Any]) -> Any:
    if isinstance(value, list):
        excluded = options["exclude"]
        if isinstance(excluded, Mapping):
            options = {**options, "exclude": excluded.get("__all__", ())}
        return [_dumped(item, options) for item in value]
    # Also of pydantic's, in a parsed message.
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(**options)
