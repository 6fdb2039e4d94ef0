"""The settings in force as an ini file, without anything secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from ..settings import Configuration, Secret, table

_MASK = "***"

# A user's name and password in a URL, or a password in its query, as Redis takes it.
_IN_URL = re.compile(r"(?<=://)[^/?#\s]*(?=@)|(?<=password=)[^&#\s]+")
_SECRET = re.compile(r"(key|secret|token|password|headers)(_|$)")


def as_ini(configuration: Configuration, written: Callable[[Any], str]) -> Iterator[str]:
    """Yield the lines; *written* is how the value of a setting is written."""
    yield "[choreo]"
    for item, hint in table():
        value = getattr(configuration.settings, item.name)
        secret = hint in (Secret, tuple[Secret, ...]) and value
        yield f"# {item.metadata['text']}"
        yield f"{item.name} = {_MASK if secret else _IN_URL.sub(_MASK, written(value))}"
    for kind, sections in (("provider", configuration.providers), ("key", configuration.keys)):
        for name, section in sections.items():
            yield f"\n[{kind} {name}]"
            for key, text in section.items():
                # What may be a key and is not the name of a variable.
                secret = _SECRET.search(key) and not text.startswith("env:")
                shown = _MASK if secret else _IN_URL.sub(_MASK, text).replace("\n", "\n    ")
                yield f"{key} = {shown}"
