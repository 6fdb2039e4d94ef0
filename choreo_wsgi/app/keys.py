"""API keys: their names, what each may do, and the digests by which they are known."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigurationError, PermissionDenied
from ..settings import Configuration, parse_options, read_sections, setting

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Rule(NamedTuple):
    """One limit of a key, by its option's *name*: at most *limit* in *seconds*, or at once if 0.

    *cost* is what a request adds to it, less than 0 for what it gives back.  Once it is counted,
    *left* is what there was for it, and *reset* the seconds until all of it is there again.
    """

    name: str
    limit: int
    seconds: int
    cost: int = 0
    left: int = 0
    reset: float = 0.0


#: The options that limit, with the seconds of their rules.
_LIMITS = {
    "max_streams": 0,
    "requests_per_minute": 60,
    "tokens_per_minute": 60,
    "tokens_per_day": 86400,
}


@dataclass(frozen=True)
class KeyOptions:
    """The settings of a section ``[key NAME]``; 0 is no limit."""

    digest: str = setting("", "SHA-256 digest of the key, in hex")
    models: tuple[str, ...] = setting(("*",), "names or patterns (*, ?) of the models it may use")
    max_streams: int = setting(0, "completions at once", minimum=0)
    requests_per_minute: int = setting(0, "completions begun in a minute", minimum=0)
    tokens_per_minute: int = setting(0, "tokens read and written in a minute", minimum=0)
    tokens_per_day: int = setting(0, "tokens read and written in 24 hours", minimum=0)
    expires: datetime = setting(
        datetime.max.replace(tzinfo=timezone.utc),
        "date, or date and time (ISO 8601, UTC), from which it is refused",
    )

    @property
    def limits(self) -> list[Rule]:
        """The limits that the key has."""
        given = ((name, getattr(self, name), seconds) for name, seconds in _LIMITS.items())
        return [Rule(*each) for each in given if each[1]]


@dataclass(frozen=True)
class Key:
    """Who calls: *id* is the beginning of the key's digest, *name* that of its section.

    Both are safe to log.
    """

    id: str = ""
    name: str = ""
    options: KeyOptions = KeyOptions()

    def allows(self, model: str) -> bool:
        """Return whether the key may use *model*, under the name that the caller sent."""
        patterns = self.options.models
        return "*" in patterns or any(fnmatchcase(model, pattern) for pattern in patterns)

    def demand(self, model: str) -> None:
        """Raise PermissionDenied unless the key may use *model*."""
        if not self.allows(model):
            raise PermissionDenied(
                f"this key may not use the model {model[:100]!r}",
                param="model",
                code="model_not_allowed",
            )


#: The caller of a server that has no keys.
ANYBODY = Key()


def known_keys(configuration: Configuration) -> dict[str, Key]:
    """Return the keys of *configuration* by their digests.

    They stand in ``api_keys``, in ``api_keys_file`` and in sections ``[key NAME]``.  Raises
    ConfigurationError if the file or a section cannot be used.
    """
    known: dict[str, Key] = {}
    for name, section, where in _given(configuration):
        options = parse_options(KeyOptions, section, where)
        if not options.models:
            raise ConfigurationError(f"{where}: models is empty: without it the key may use all")
        digest = options.digest.lower()
        if not _DIGEST.fullmatch(digest):
            # The key itself may stand there by mistake, so it is not shown.
            wrong = "is not a SHA-256 digest in hex" if digest else "is missing"
            raise ConfigurationError(f"{where}: digest {wrong}: see choreo-wsgi key NAME")
        if name and digest in known:
            raise ConfigurationError(f"{where}: {known[digest].name} has the same digest")
        known.setdefault(digest, Key(digest[:16], name or digest[:16], options))
    return known


def _given(configuration: Configuration) -> Iterator[tuple[str, Mapping[str, str], str]]:
    """Yield the name and the section of each key, and where it stands."""
    for key in configuration.settings.api_keys:
        if len(key.split()) > 1:
            raise ConfigurationError("api_keys: a key has a space in it; commas stand between")
        yield "", {"digest": digest_of(key.encode())}, "api_keys"
    for name, section in configuration.keys.items():
        yield name, section, f"[key {name}]"
    path = configuration.settings.api_keys_file
    if not path:
        return
    # It holds sections [key NAME], or lines that begin with a digest as sha256sum prints it.
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"api_keys_file: {path} cannot be read: {reason}") from None
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    rows = [(number, words[0]) for number, words in enumerate(lines, 1) if words]
    if not rows:
        # No key would mean a server that is open to all of this machine.
        raise ConfigurationError(f"api_keys_file: {path} has no digest in it")
    if not rows[0][1].startswith("["):
        for number, word in rows:
            yield "", {"digest": word}, f"api_keys_file: line {number} of {path}"
        return
    for title, section in read_sections(path).items():
        kind, _, name = title.partition(" ")
        if kind != "key" or not name.strip():
            raise ConfigurationError(f"api_keys_file: {path}: [{title}] is no [key NAME]")
        yield name.strip(), section, f"api_keys_file: {path}: [{title}]"


def digest_of(key: bytes) -> str:
    """Return the digest by which *key* is known."""
    return hashlib.sha256(key).hexdigest()
