"""Sections of the ini file that commands print: the effective settings, and a new key's."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ConfigurationError
from ..settings import Configuration, Secret, table
from .keys import digest_of

_MASK = "***"

# A user's name and password in a URL, or a password in its query, as Redis takes it.
_IN_URL = re.compile(r"(?<=://)[^/?#\s]*(?=@)|(?<=password=)[^&#\s]+")
_SECRET = re.compile(r"(key|secret|token|password|headers)(_|$)")


def as_ini(configuration: Configuration, written: Callable[[Any], str]) -> Iterator[str]:
    """Yield the lines of the ini file, secrets masked; *written* formats the value of a setting."""
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
                # Mask whatever may be a secret, except the name of an environment variable.
                secret = _SECRET.search(key) and not text.startswith("env:")
                shown = _MASK if secret else _IN_URL.sub(_MASK, text).replace("\n", "\n    ")
                yield f"{key} = {shown}"


# -- the command choreo-wsgi key ----------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument("name", metavar="NAME", help="the name that the log shows")


def run(options: argparse.Namespace) -> int:
    """Print the section to standard output, and the key, only once, to standard error."""
    if not re.fullmatch(r"[\w.@+-]([\w .@+-]*[\w.@+-])?", options.name):
        raise ConfigurationError("NAME may contain letters, digits, spaces and . @ + - _ only")
    key = "sk-" + secrets.token_urlsafe(32)
    print(f"[key {options.name}]\ndigest = {digest_of(key.encode())}")
    hint = "Add the section to the ini file or to api_keys_file."
    print(f"The key (it is not shown again): {key}\n{hint}", file=sys.stderr)
    return 0
