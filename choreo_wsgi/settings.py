"""The settings, in one table: each field of :class:`Settings` owns its type, default and text.

The command line, the environment, the ini file and the documentation are all derived from
it: ``max_streams`` is ``--max-streams``, ``CHOREO_MAX_STREAMS`` and ``max_streams =`` in
section ``[choreo]``, in this order of precedence.  The sections ``[provider NAME]`` are read
with :func:`parse_options` into each provider's own table.

This module reads no environment and no file: it is given text and returns values.
"""

from __future__ import annotations

import configparser
import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from .errors import ConfigurationError

T = TypeVar("T")


class Secret(str):
    """A text that shows as ``***`` in reprs; only what is given its text, as str, shows it."""

    def __repr__(self) -> str:
        return "'***'"


def setting(
    default: Any,
    text: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that is a setting with a *default* and a describing *text*."""
    about = {"text": text, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Settings:
    """All settings of the server; times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = setting((), "HOST:PORT to listen on; repeatable, as waitress has it")
    host: str = setting("127.0.0.1", "address to listen on when there is no listen")
    port: int = setting(8000, "port to listen on when there is no listen", minimum=0, maximum=65535)
    unix_socket: str = setting("", "path of a unix socket to listen on instead")
    api_keys: tuple[Secret, ...] = setting((), "keys that callers must present, comma separated")
    api_keys_file: str = setting("", "file of SHA-256 digests of keys, one in a line, in hex")
    allow_anonymous: bool = setting(False, "serve callers without a key on any address")
    cors_origins: tuple[str, ...] = setting(("*",), "web origins that may call when there are keys")
    default_model: str = setting(
        "", "model or provider/model that answers names no rule takes, or none"
    )
    max_streams: int = setting(256, "completions at once; one more is refused with 503", minimum=1)
    max_body_bytes: int = setting(8 * 1024 * 1024, "longest request body", minimum=1024)
    max_event_bytes: int = setting(8 * 1024 * 1024, "longest event from an upstream", minimum=1024)
    heartbeat_seconds: float = setting(10.0, "silence after which a ping is sent", minimum=0.05)
    send_timeout: float = setting(
        60.0, "a client that takes no byte so long is closed", minimum=0.1
    )
    drain_seconds: float = setting(20.0, "how long streams may go on after SIGTERM", minimum=0)
    half_close: bool = setting(
        False, "serve clients that shut down their sending side; others that leave show later"
    )
    connect_timeout: float = setting(10.0, "longest wait for a connection upstream", minimum=0.01)
    first_byte_timeout: float = setting(300.0, "longest wait for the first byte", minimum=0.01)
    idle_timeout: float = setting(60.0, "longest silence inside an answer", minimum=0.01)
    preload: bool = setting(False, "start the local model with the server")
    local_model: str = setting("", "GGUF file of the local model; empty: the fetched one")
    local_threads: int = setting(1, "CPU threads of the local model", minimum=1)
    local_slots: int = setting(4, "completions the local model works on at once", minimum=1)
    local_context: int = setting(8192, "tokens of context, divided among the slots", minimum=256)
    local_max_tokens: int = setting(512, "max_tokens of the local model when not asked", minimum=1)
    local_max_tokens_limit: int = setting(2048, "highest max_tokens of the local model", minimum=1)
    replay: str = setting(
        "memory:", "where resumable streams are kept: memory:, sqlite:PATH, redis://"
    )
    replay_ttl_seconds: float = setting(
        300.0, "how long a finished stream can be read", minimum=0.1
    )
    replay_stream_bytes: int = setting(4 * 1024 * 1024, "retained of one stream", minimum=1024)
    replay_total_bytes: int = setting(128 * 1024 * 1024, "retained of all streams", minimum=1024)
    orphan_seconds: float = setting(300.0, "how long a generation goes on unread", minimum=0)
    max_orphans: int = setting(64, "unread generations at once", minimum=0)
    max_orphans_per_key: int = setting(16, "unread generations at once of one key", minimum=0)
    log_level: str = setting(
        "info", "what is logged", choices=("debug", "info", "warning", "error")
    )


Environment = Mapping[str, str]


@dataclass(frozen=True)
class Configuration:
    """The settings and, for each ``[provider NAME]``, its section's text."""

    settings: Settings
    #: As text, and so with their keys.
    providers: Mapping[str, Mapping[str, str]] = field(repr=False)


def table(options: type[Any] = Settings) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return each setting of *options* with its type, in order."""
    hints = get_type_hints(options)
    return [(item, hints[item.name]) for item in dataclasses.fields(options)]


def parse_options(options: type[T], values: Mapping[str, str], where: str) -> T:
    """Return *options* filled from text; *where* names the place in errors.

    Raises ConfigurationError for an unknown key or a value that does not fit.
    """
    known = {item.name: (item, hint) for item, hint in table(options)}
    parsed = {}
    for name, text in values.items():
        if name not in known:
            raise ConfigurationError(f"{where}: unknown setting {name!r}")
        item, hint = known[name]
        parsed[name] = _parse(text, item, hint, f"{where}: {name}")
    return options(**parsed)


def load(
    arguments: Mapping[str, str],
    environment: Environment,
    sections: Mapping[str, Mapping[str, str]],
) -> Configuration:
    """Return the configuration from the command line, the environment and an ini file's text.

    Raises ConfigurationError, which names the place, for anything that is not known.
    """
    providers: dict[str, Mapping[str, str]] = {}
    values: dict[str, str] = {}
    for name, section in sections.items():
        kind, _, instance = name.partition(" ")
        if name == "choreo":
            parse_options(Settings, section, "[choreo]")
            values.update(section)
        elif kind == "provider" and (instance := instance.strip()):
            if instance in providers:
                raise ConfigurationError(f"two sections [provider {instance}]")
            providers[instance] = section
        else:
            raise ConfigurationError(f"unknown section [{name}]")
    for item in dataclasses.fields(Settings):
        variable = "CHOREO_" + item.name.upper()
        if variable in environment:
            parse_options(Settings, {item.name: environment[variable]}, variable)
            values[item.name] = environment[variable]
    values.update(arguments)
    return Configuration(parse_options(Settings, values, "settings"), providers)


def _parse(text: str, item: dataclasses.Field[Any], hint: Any, where: str) -> Any:
    text = text.strip()
    value = _cast(text, hint, where)
    about = item.metadata
    if about.get("choices") and value not in about["choices"]:
        raise ConfigurationError(f"{where}: {value!r} is not one of {', '.join(about['choices'])}")
    for limit, outside in (("minimum", _below), ("maximum", _above)):
        bound = about.get(limit)
        if bound is not None and outside(value, bound):
            raise ConfigurationError(f"{where}: {text} is beyond the {limit} {bound:g}")
    return value


def _below(value: float, bound: float) -> bool:
    return value < bound


def _above(value: float, bound: float) -> bool:
    return value > bound


def _cast(text: str, hint: Any, where: str) -> Any:
    cast = _CASTS.get(hint)
    if cast is None:
        raise TypeError(f"{where}: no way to read a {hint}")
    try:
        return cast(text)
    except ValueError:
        kind = getattr(hint, "__name__", str(hint))
        shown = "the value" if hint in (Secret, tuple[Secret, ...]) else repr(text)
        raise ConfigurationError(f"{where}: {shown} is not a {kind}") from None


def _bool(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _int(text: str) -> int:
    # int() would take +1, 1_000 and other scripts' digits.
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not text.isascii() or "_" in text:
        raise ValueError(text)
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))


def _secrets(text: str) -> tuple[Secret, ...]:
    return tuple(map(Secret, _words(text)))


_CASTS: dict[Any, Callable[[str], Any]] = {
    str: str,
    Secret: Secret,
    int: _int,
    float: _float,
    bool: _bool,
    tuple[str, ...]: _words,
    tuple[Secret, ...]: _secrets,
}


_PREFIX = "CHOREO_"

# Kubernetes gives every pod such variables for every service, so also for one whose name
# begins with "choreo", as ours does (deploy/kubernetes).
_SERVICE_LINK = re.compile(
    r"CHOREO_(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)"
)


def read_sections(path: str) -> dict[str, dict[str, str]]:
    """Return the sections of the ini file at *path* as text.

    Raises ConfigurationError when it cannot be read.
    """
    parser = configparser.ConfigParser(
        interpolation=None,  # a percent sign in a key is one
        default_section="",
        delimiters=("=",),  # a colon may stand in a name, as in Ollama's
    )
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # Max_Streams is a typo
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8-sig"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {path}: {error}") from error
    except configparser.Error as error:
        raise ConfigurationError(f"the configuration file {path}: {_place(error)}") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _place(error: configparser.Error) -> str:
    """Return what is wrong, without the line itself: it may hold a key."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        return f"no [section] before line {error.lineno}"
    if isinstance(error, configparser.ParsingError):
        lines = ", ".join(str(number) for number, _ in error.errors)
        return f"neither a section nor name = value in line {lines}"
    return str(error)


def configure(
    arguments: Mapping[str, str], environment: Mapping[str, str], path: str = ""
) -> Configuration:
    """Return the configuration: command line over environment over the file over defaults.

    *path* is the ini file; without it the variable ``CHOREO_CONFIG`` may name one.
    Raises ConfigurationError for what is not known or does not fit, in any of them.
    """
    path = path or environment.get("CHOREO_CONFIG", "")
    ours = _our_variables(environment)
    return load(arguments, ours, read_sections(path) if path else {})


def from_environment(environment: Mapping[str, str]) -> Configuration:
    """Return the configuration that the environment alone describes."""
    return configure({}, environment)


def _our_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are settings; raises ConfigurationError for unknown ones."""
    known = {_PREFIX + item.name.upper() for item, _ in table()}
    ours = {}
    for name, text in environment.items():
        if not name.startswith(_PREFIX) or _SERVICE_LINK.fullmatch(name):
            continue
        if name == "CHOREO_CONFIG":
            continue  # where the settings are, and none itself
        if name.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://")):
            continue  # another service link
        if name not in known:
            raise ConfigurationError(f"{name}: unknown setting {name[len(_PREFIX) :].lower()!r}")
        ours[name] = text
    return ours
