"""API keys: their names, permissions and limits, and the digests that identify them."""

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
    """One limit of a key: at most *limit* per *seconds*, or at the same time if *seconds* is 0.

    *name* is that of the option.  *cost* is the amount that a request adds to the count, negative
    to give back.  A counted rule has *remaining*, the amount that was free before this cost, and
    *reset*, the seconds until the whole limit is free again.
    """

    name: str
    limit: int
    seconds: int
    cost: int = 0
    remaining: int = 0
    reset: float = 0.0


#: The options that set limits, with the period of each in seconds.
_LIMITS = {
    "max_streams": 0,
    "requests_per_minute": 60,
    "tokens_per_minute": 60,
    "tokens_per_day": 86400,
}


@dataclass(frozen=True)
class KeyOptions:
    """The settings of a section ``[key NAME]``; 0 means no limit."""

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
        """The rules of the limits that are set."""
        rules = (Rule(name, getattr(self, name), seconds) for name, seconds in _LIMITS.items())
        return [rule for rule in rules if rule.limit]


@dataclass(frozen=True)
class Key:
    """An API key: *id* is the beginning of its digest, *name* that of its section.

    Both are safe to log.
    """

    id: str = ""
    name: str = ""
    options: KeyOptions = KeyOptions()

    def allows(self, model: str) -> bool:
        """Return whether the key may use *model*, the name that the caller sent."""
        patterns = self.options.models
        return "*" in patterns or any(fnmatchcase(model, pattern) for pattern in patterns)

    def require_model(self, model: str) -> None:
        """Raise PermissionDenied unless the key may use *model*."""
        if not self.allows(model):
            raise PermissionDenied(
                f"this key may not use the model {model[:100]!r}",
                param="model",
                code="model_not_allowed",
            )


#: The key of a caller without one.
ANONYMOUS = Key()


def known_keys(configuration: Configuration) -> dict[str, Key]:
    """Return the keys of *configuration* by their digests.

    The sources are ``api_keys``, ``api_keys_file`` and sections ``[key NAME]``.  Raises
    ConfigurationError if the file or a section is invalid.
    """
    keys: dict[str, Key] = {}
    for name, section, where in _key_sections(configuration):
        options = parse_options(KeyOptions, section, where)
        if not options.models:
            raise ConfigurationError(f"{where}: models is empty; leave it out to allow all models")
        digest = options.digest.lower()
        if not _DIGEST.fullmatch(digest):
            # The value may be the key itself by mistake, so the message does not show it.
            wrong = "is not a SHA-256 digest in hex" if digest else "is missing"
            raise ConfigurationError(f"{where}: digest {wrong}: see choreo-wsgi key NAME")
        if name and digest in keys:
            raise ConfigurationError(f"{where}: {keys[digest].name} has the same digest")
        keys.setdefault(digest, Key(digest[:16], name or digest[:16], options))
    return keys


def _key_sections(configuration: Configuration) -> Iterator[tuple[str, Mapping[str, str], str]]:
    """Yield the name, the section and the source (for messages) of each key."""
    for key in configuration.settings.api_keys:
        if len(key.split()) > 1:
            raise ConfigurationError("api_keys: a key contains a space; separate keys by commas")
        yield "", {"digest": digest_of(key.encode())}, "api_keys"
    for name, section in configuration.keys.items():
        yield name, section, f"[key {name}]"
    path = configuration.settings.api_keys_file
    if not path:
        return
    # The file has sections [key NAME], or lines that begin with a digest, as sha256sum prints.
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"api_keys_file: {path} cannot be read: {reason}") from None
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    rows = [(number, words[0]) for number, words in enumerate(lines, 1) if words]
    if not rows:
        # Without keys the server would be open to every program on this machine.
        raise ConfigurationError(f"api_keys_file: {path} contains no digest")
    if not rows[0][1].startswith("["):
        for number, word in rows:
            yield "", {"digest": word}, f"api_keys_file: line {number} of {path}"
        return
    for title, section in read_sections(path).items():
        kind, _, name = title.partition(" ")
        if kind != "key" or not name.strip():
            raise ConfigurationError(f"api_keys_file: {path}: [{title}] is not a [key NAME]")
        yield name.strip(), section, f"api_keys_file: {path}: [{title}]"


def digest_of(key: bytes) -> str:
    """Return the SHA-256 digest of *key* in hex."""
    return hashlib.sha256(key).hexdigest()
