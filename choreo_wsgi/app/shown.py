"""The settings in force as an ini file, without anything secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..settings import Configuration, Secret, table

_MASK = "***"

# A user's name and password in a URL, or a password in its query, as Redis takes it.
_IN_URL = re.compile(r"(?<=://)[^/?#\s]*@|(?<=password=)[^&#\s]+")


def as_ini(configuration: Configuration, written: Callable[[Any], str]) -> str:
    """Return the text; *written* is how the value of a setting is written."""
    return "\n".join(_lines(configuration, written))


def _lines(configuration: Configuration, written: Callable[[Any], str]) -> Iterator[str]:
    yield "[choreo]"
    for item, hint in table():
        value = getattr(configuration.settings, item.name)
        secret = hint in (Secret, tuple[Secret, ...]) and value
        yield f"# {item.metadata['text']}"
        yield f"{item.name} = {_MASK if secret else _masked(written(value))}"
    for kind, sections in (("provider", configuration.providers), ("key", configuration.keys)):
        for name, section in sections.items():
            yield f"\n[{kind} {name}]"
            for key, text in _without_secrets(section).items():
                yield f"{key} = {text}"


def _masked(text: str) -> str:
    """Return *text* with ``***`` for the passwords of URLs."""
    return _IN_URL.sub(lambda found: _MASK + "@" * found[0].endswith("@"), text)


def _without_secrets(section: Mapping[str, str]) -> dict[str, str]:
    """Return *section* with ``***`` for what may be a key and is not the name of a variable."""
    words = ("key", "secret", "token", "password", "headers")
    return {
        key: _MASK
        if any(word in key for word in words) and not text.startswith("env:")
        else _masked(text).replace("\n", "\n    ")
        for key, text in section.items()
    }
