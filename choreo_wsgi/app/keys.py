"""API keys: their names, what each may do, and the digests by which they are known."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import AuthenticationError, ConfigurationError, PermissionDenied
from ..settings import Configuration, parse_options, read_sections, setting

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class KeyOptions:
    """The settings of a section ``[key NAME]``; 0 is no limit."""

    digest: str = setting("", "SHA-256 digest of the key, in hex")
    models: tuple[str, ...] = setting(("*",), "names or patterns (*, ?) of the models it may use")
    max_streams: int = setting(0, "completions at once", minimum=0)
    requests_per_minute: int = setting(0, "completions begun in a minute", minimum=0)
    tokens_per_minute: int = setting(0, "tokens read and written in a minute", minimum=0)
    tokens_per_day: int = setting(0, "tokens read and written in 24 hours", minimum=0)
    expires: str = setting("", "date, or date and time (ISO 8601, UTC), from which it is refused")

    @property
    def limited(self) -> bool:
        """Whether there is a limit that is counted."""
        return bool(
            self.max_streams
            or self.requests_per_minute
            or self.tokens_per_minute
            or self.tokens_per_day
        )


@dataclass(frozen=True)
class Key:
    """Who calls: *id* is the beginning of the key's digest, *name* that of its section.

    Both are safe to log.  *expires* is in seconds since 1970.
    """

    id: str = ""
    name: str = ""
    options: KeyOptions = KeyOptions()
    expires: float = math.inf

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


class Keys:
    """The keys of ``api_keys``, of ``api_keys_file`` and of the sections ``[key NAME]``."""

    def __init__(self, configuration: Configuration) -> None:
        """Read the file; raises ConfigurationError if it or a section cannot be used.

        The file holds sections ``[key NAME]``, or lines that begin with a digest in hex, as
        ``sha256sum`` prints it.  The rest of such a line, empty lines and comments (``#``) are
        for people.
        """
        settings = configuration.settings
        self._known = {
            digest: _unnamed(digest) for digest in map(_digest, map(str.encode, settings.api_keys))
        }
        for name, section in configuration.keys.items():
            self._add(name, section, f"[key {name}]")
        if settings.api_keys_file:
            self._read(settings.api_keys_file)

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def limited(self) -> bool:
        """Whether any key has a limit that is counted."""
        return any(key.options.limited for key in self._known.values())

    def find(self, key: bytes) -> Key:
        """Return the key that is written *key*; raises AuthenticationError."""
        # A lookup by digest: its timing tells nothing about the keys themselves.
        known = self._known.get(_digest(key))
        if known is None:
            raise AuthenticationError("the API key is not known here")
        if known.expires <= time.time():
            raise AuthenticationError(f"the API key has expired ({known.options.expires})")
        return known

    def _add(self, name: str, section: Mapping[str, str], where: str) -> None:
        options = parse_options(KeyOptions, section, where)
        if not _DIGEST.fullmatch(options.digest):
            # The key itself may stand there by mistake, so it is not shown.
            raise ConfigurationError(f"{where}: digest is not a SHA-256 digest in hex")
        digest = bytes.fromhex(options.digest)
        if digest in self._known:
            other = self._known[digest].name or "api_keys"
            raise ConfigurationError(f"{where}: {other} has the same digest")
        expires = math.inf
        if options.expires:
            try:
                moment = datetime.fromisoformat(options.expires)
            except ValueError:
                raise ConfigurationError(
                    f"{where}: expires is not a date such as 2027-01-31: {options.expires!r}"
                ) from None
            expires = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        self._known[digest] = Key(digest.hex()[:16], name, options, expires)

    def _read(self, path: str) -> None:
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigurationError(f"api_keys_file: {path} cannot be read: {reason}") from None
        lines = [line.partition("#")[0].strip() for line in lines]
        if not any(lines):
            # No key would mean a server that is open to all of this machine.
            raise ConfigurationError(f"api_keys_file: {path} has no digest in it")
        if next(filter(None, lines)).startswith("["):
            for section, values in read_sections(path).items():
                kind, _, name = section.partition(" ")
                if kind != "key" or not name.strip():
                    raise ConfigurationError(f"api_keys_file: {path}: [{section}] is no [key NAME]")
                self._add(name.strip(), values, f"{path}: [{section}]")
            return
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            word = line.split()[0]
            if not _DIGEST.fullmatch(word):
                # The line may be a key by mistake, so it is not shown.
                raise ConfigurationError(
                    f"api_keys_file: line {number} of {path} has no SHA-256 digest"
                )
            digest = bytes.fromhex(word)
            self._known.setdefault(digest, _unnamed(digest))


def _unnamed(digest: bytes) -> Key:
    return Key(digest.hex()[:16], digest.hex()[:16])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
