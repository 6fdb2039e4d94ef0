"""Checks of JSON values, made from tables of fields.

:func:`check_of` makes a check from one of these notations:

* ``str``, ``bool`` or ``dict``: a JSON string, boolean or object;
* ``"low high"``: one of a few words;
* ``[item]``: an array of *item*;
* ``{"a! b": value}``: an object whose known fields are checked.  A key names all the fields with
  the same check.  A field with ``!`` is required; any other may be null, as if it were absent;
* a check, as the functions of this module return them.

A check takes a JSON value and raises :class:`Fault`.  Each container that the fault passes through
prepends its own step to the path, so that no path is built for a valid value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Union

from ..errors import InvalidRequest
from .items import FILLING, Json

Check = Callable[[Json], None]
Notation = Union[Check, type, str, list[Any], Mapping[str, Any]]

_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


class Fault(Exception):
    """A value is invalid: *text* continues after the field's name, *path* leads to the field."""

    def __init__(self, text: str, path: str = "", code: str | None = InvalidRequest.code) -> None:
        self.text = text
        self.path = path
        self.code = code

    def under(self, step: str) -> Fault:
        """Return the fault with *step* prepended to its path."""
        self.path = step + self.path
        return self

    def error(self) -> InvalidRequest:
        """Return the error for the client."""
        param = self.path.removeprefix(".")
        return InvalidRequest(f"{param} {self.text}", param=param, code=self.code)


def demand(test: Check, value: Json) -> None:
    """Raise InvalidRequest if *value* does not pass *test*."""
    try:
        test(value)
    except Fault as fault:
        raise fault.error() from None


def passes(test: Check, value: Json) -> bool:
    """Return whether *value* passes *test*."""
    try:
        test(value)
    except Fault:
        return False
    return True


def _wrong_type(expected: str, value: Json) -> Fault:
    return Fault(f"must be {expected}, not {_NAMES[type(value)]}", code="invalid_parameter_type")


def _demand_a(kind: type, value: Json) -> None:
    if type(value) is not kind:
        raise _wrong_type(_NAMES[kind], value)


def check_of(notation: Notation) -> Check:
    """Return the check for *notation*."""
    if isinstance(notation, type):
        return partial(_demand_a, notation)
    if isinstance(notation, str):
        return _one_of(notation.split())
    if isinstance(notation, list):
        return _array(check_of(notation[0]))
    return _object_of(notation) if isinstance(notation, Mapping) else notation


def string(most: int) -> Check:
    """Check for a string of at most *most* characters."""

    def test(value: Json) -> None:
        _demand_a(str, value)
        if len(value) > most or FILLING in value:
            raise Fault(f"must have at most {most} characters")

    return test


def number(low: float, high: float) -> Check:
    """Check for a number from *low* to *high*."""

    def test(value: Json) -> None:
        if type(value) is not float and type(value) is not int:  # a bool is no number
            raise _wrong_type("a number", value)
        if not low <= value <= high:
            raise Fault(f"must be from {low} to {high}")

    return test


def integer(low: int, high: int | None = None) -> Check:
    """Check for an integer from *low* to *high*, without an upper limit if that is None."""
    span = f"at least {low}" if high is None else f"from {low} to {high}"

    def test(value: Json) -> None:
        # 1.0 is an integer too (JSON Schema 2020-12, section 4.2.3).
        if type(value) is not int and not (type(value) is float and value.is_integer()):
            name = "a fraction" if type(value) is float else _NAMES[type(value)]
            raise Fault(f"must be an integer, not {name}", code="invalid_parameter_type")
        if value < low or (high is not None and value > high):
            raise Fault(f"must be {span}")

    return test


def _array(item: Check, most: int | None = None) -> Check:
    def test(value: Json) -> None:
        _demand_a(list, value)
        if most is not None and len(value) > most:
            raise Fault(f"must have at most {most} items")
        for index, member in enumerate(value):
            try:
                item(member)
            except Fault as fault:
                raise fault.under(f"[{index}]") from None

    return test


def _object_of(fields: Mapping[str, Notation]) -> Check:
    checks: dict[str, Check] = {}
    for names, field in fields.items():
        checks |= dict.fromkeys(names.replace("!", "").split(), check_of(field))
    required = [name[:-1] for names in fields for name in names.split() if name[-1] == "!"]

    def test(value: Json) -> None:
        _demand_a(dict, value)
        for name in required:
            if name not in value:
                raise Fault("is required", "." + name, code="missing_parameter")
        for name, member in value.items():
            check = checks.get(name)
            if check is not None and (member is not None or name in required):
                try:
                    check(member)
                except Fault as fault:
                    raise fault.under("." + name) from None

    return test


def mapping_of(item: Notation) -> Check:
    """Check the values of an object with any names.

    As names are data of the client, they are quoted in the message instead of the path.
    """
    check = check_of(item)

    def test(value: Json) -> None:
        _demand_a(dict, value)
        for name, member in value.items():
            try:
                check(member)
            except Fault as fault:
                text = f"has a value at {name[:64]!r} that {fault.text}"
                raise Fault(text, code=fault.code) from None

    return test


def either(first: type, one: Notation, second: type, other: Notation) -> Check:
    """Check for a value of one of two types, each with its own check."""
    expected = f"{_NAMES[first]} or {_NAMES[second]}"
    checks = {first: check_of(one), second: check_of(other)}

    def test(value: Json) -> None:
        if type(value) not in checks:
            raise _wrong_type(expected, value)
        checks[type(value)](value)

    return test


def text_or(item: Notation, most: int | None = None) -> Check:
    """Check for a string, or an array of at most *most* values that pass *item*."""
    return either(str, str, list, _array(check_of(item), most))


def by_type(
    kinds: Mapping[str, Notation],
    kind_of: Callable[[Json], str] | None = None,
    only: bool = False,
) -> Check:
    """Check an object by its ``type``; an object of an unknown type may have any fields.

    A key of *kinds* names all the types with the same check.  With *only*, unknown types are
    invalid.  With *kind_of*, which returns the type of an object, ``type`` may be absent.
    """
    known = " ".join(kinds) if only else str
    tag = check_of({"type!" if kind_of is None else "type": known})
    checks: dict[str, Check] = {}
    for names, kind in kinds.items():
        checks |= dict.fromkeys(names.split(), check_of(kind))

    def test(value: Json) -> None:
        tag(value)
        found = checks.get(value["type"] if kind_of is None else kind_of(value))
        if found is not None:
            found(value)

    return test


def _one_of(words: list[str]) -> Check:
    listed = ", ".join(words)

    def test(value: Json) -> None:
        if value not in words:
            raise Fault(f"must be one of {listed}")

    return test


def anything(value: Json) -> None:
    """Accept any value."""
