"""The settings in one table: each field of :class:`Settings` has its type, default and text.

The command line, the environment, the ini file and the documentation are derived from it:
``max_streams`` is ``--max-streams``, ``CHOREO_MAX_STREAMS`` and ``max_streams =`` in the section
``[choreo]``, in this order of precedence.

:func:`configure` reads the file and merges the three.  The sections ``[provider NAME]`` stay text;
each provider parses its own with :func:`parse_options` and a table of the same form.
"""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from .errors import ConfigurationError

T = TypeVar("T")


class Secret(str):
    """A string whose repr is ``'***'``, which keeps it out of logs and tracebacks."""

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
    """Return a dataclass field for a setting: its *default* and a *text* that describes it."""
    metadata = {"text": text, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """All settings of the server; times are in seconds, sizes in bytes."""

    listen: tuple[str, ...] = setting((), "addresses to listen on, HOST or HOST:PORT; repeatable")
    host: str = setting("127.0.0.1", "address to listen on if listen is not set")
    port: int = setting(8000, "port to listen on if listen has none", minimum=0, maximum=65535)
    unix_socket: str = setting("", "path of a unix socket to listen on instead")
    api_keys: tuple[Secret, ...] = setting((), "keys that callers must present, comma separated")
    api_keys_file: str = setting(
        "", "file of sections [key NAME], or of lines with SHA-256 digests"
    )
    allow_anonymous: bool = setting(False, "serve callers without API keys on any address")
    behind_proxy: bool = setting(
        False, "requests come through a proxy: do not start without API keys"
    )
    cors_origins: tuple[str, ...] = setting(("*",), "web origins that may call when there are keys")
    page: bool = setting(True, "serve a page at / to chat and to see frames arrive")
    default_model: str = setting(
        "", "model or provider/model for names that match no provider; none: refuse"
    )
    max_streams: int = setting(256, "completions at once; more are refused with 503", minimum=1)
    processes: str = setting("1", "number of server processes, or auto: one for each core")
    max_body_bytes: int = setting(32 * 1024 * 1024, "longest request body", minimum=1024)
    max_event_bytes: int = setting(8 * 1024 * 1024, "longest event from an upstream", minimum=1024)
    heartbeat_seconds: float = setting(10.0, "silence after which a ping is sent", minimum=0.05)
    send_timeout: float = setting(
        60.0, "disconnect a client that reads nothing for this long", minimum=0.1
    )
    drain_seconds: float = setting(20.0, "how long streams may continue after SIGTERM", minimum=0)
    half_close: bool = setting(
        False, "serve clients that shut down their sending side; disconnects are noticed later"
    )
    connect_timeout: float = setting(10.0, "longest wait to connect to a provider", minimum=0.01)
    first_byte_timeout: float = setting(
        300.0, "longest wait for the first byte of an answer", minimum=0.01
    )
    idle_timeout: float = setting(60.0, "longest silence within an answer", minimum=0.01)
    preload: bool = setting(False, "start the local model with the server")
    local_model: str = setting("", "GGUF file of the local model; empty: the downloaded one")
    local_threads: int = setting(1, "CPU threads of the local model", minimum=1)
    local_slots: int = setting(4, "completions the local model works on at once", minimum=1)
    local_context: int = setting(8192, "tokens of context, divided among the slots", minimum=256)
    local_max_tokens: int = setting(512, "default max_tokens of the local model", minimum=1)
    local_max_tokens_limit: int = setting(2048, "highest max_tokens of the local model", minimum=1)
    replay: str = setting("memory:", "store of resumable streams: memory:, sqlite:PATH, redis://")
    replay_ttl_seconds: float = setting(
        300.0, "how long a finished stream can be read", minimum=0.1
    )
    replay_stream_bytes: int = setting(4 * 1024 * 1024, "frames kept of one stream", minimum=1024)
    replay_total_bytes: int = setting(128 * 1024 * 1024, "frames kept of all streams", minimum=1024)
    keep_responses: bool = setting(False, "store responses unless store is false, as OpenAI does")
    orphan_seconds: float = setting(
        300.0, "how long a resumable stream continues without a client", minimum=0
    )
    max_orphans: int = setting(
        0, "refuse resumable streams while so many have no client; 0: max_streams", minimum=0
    )
    max_orphans_per_key: int = setting(0, "the same for the streams of one key", minimum=0)
    log_level: str = setting(
        "info", "least severe level that is logged", choices=("debug", "info", "warning", "error")
    )
    metrics: bool = setting(False, "serve /metrics for Prometheus (needs the extra metrics)")
    metrics_key: Secret = setting(Secret(""), "key for /metrics; empty: for this machine only")
    otel: bool = setting(False, "trace requests with OpenTelemetry (needs the extra otel)")
    log_format: str = setting("text", "format of log lines", choices=("text", "json"))


@dataclass(frozen=True)
class Configuration:
    """The settings, and the text of each section ``[provider NAME]`` and ``[key NAME]``."""

    settings: Settings
    #: Name to section; may contain API keys.
    providers: Mapping[str, Mapping[str, str]] = field(repr=False)
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    #: Reads the configuration again from the same sources, if known.
    again: Callable[[], Configuration] | None = field(default=None, repr=False, compare=False)

    @property
    def has_keys(self) -> bool:
        """Whether callers must present an API key."""
        return bool(self.settings.api_keys or self.settings.api_keys_file or self.keys)


def table(options: type[Any] = Settings) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return each setting of *options* with its type, in order."""
    hints = get_type_hints(options)
    return [(item, hints[item.name]) for item in dataclasses.fields(options)]


def configure(
    arguments: Mapping[str, str], environment: Mapping[str, str], path: str = ""
) -> Configuration:
    """Return the configuration: command line over environment over the ini file over defaults.

    *arguments* are settings by name.  *path* is the ini file, by default the value of
    ``CHOREO_CONFIG``, if any.  Raises ConfigurationError for an unknown setting or a wrong value
    in any of the sources.
    """
    path = path or environment.get("CHOREO_CONFIG", "")
    configuration = load(arguments, environment, read_sections(path) if path else {})
    return dataclasses.replace(configuration, again=lambda: configure(arguments, environment, path))


def read_sections(path: str) -> dict[str, dict[str, str]]:
    """Return the sections of the ini file at *path* as text.

    Raises ConfigurationError if it cannot be read; the message never quotes a line, which may
    contain a key.
    """
    parser = configparser.ConfigParser(
        interpolation=None,  # a percent sign in a key is a percent sign
        default_section="",
        delimiters=("=",),  # model names such as Ollama's contain colons
    )
    parser.optionxform = str  # type: ignore[method-assign, assignment]  # Max_Streams is a typo
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8-sig"), path)
    except configparser.MissingSectionHeaderError as error:
        problem = f"no [section] before line {error.lineno}"
    except UnicodeDecodeError:
        problem = "it is not text in UTF-8"
    except configparser.ParsingError as error:
        lines = ", ".join(str(number) for number, _ in error.errors)
        problem = f"neither a section nor name = value in line {lines}"
    except (OSError, configparser.Error) as error:
        problem = getattr(error, "strerror", None) or str(error)
    else:
        return {name: dict(parser[name]) for name in parser.sections()}
    raise ConfigurationError(f"the configuration file {path}: {problem}")


def load(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    sections: Mapping[str, Mapping[str, str]],
) -> Configuration:
    """Return the configuration from the command line, the environment and an ini file's text.

    Raises ConfigurationError, which names the source, for anything unknown.
    """
    named: dict[str, dict[str, Mapping[str, str]]] = {"provider": {}, "key": {}}
    values: dict[str, str] = {}
    for name, section in sections.items():
        kind, _, instance = name.partition(" ")
        if name == "choreo":
            parse_options(Settings, section, "[choreo]")
            values.update(section)
        elif kind in named and (instance := instance.strip()):
            if instance in named[kind]:
                raise ConfigurationError(f"section [{kind} {instance}] appears twice")
            named[kind][instance] = section
        elif kind in named:
            raise ConfigurationError(f"section [{name}] lacks a name: [{kind} NAME]")
        else:
            hint = did_you_mean(kind.lower(), ("choreo", *named))
            raise ConfigurationError(f"unknown section [{name}]{hint}")
    variables = {_PREFIX + item.name.upper(): item.name for item in dataclasses.fields(Settings)}
    for variable, text in environment.items():
        if variable == "CHOREO_CONFIG" or _SERVICE_LINK.fullmatch(f"{variable}={text}"):
            continue
        if variable in variables:
            parse_options(Settings, {variables[variable]: text}, variable)
            values[variables[variable]] = text
        elif variable.startswith(_PREFIX):
            near = did_you_mean(variable, [*variables, "CHOREO_CONFIG"], 0.8)  # same prefix
            raise ConfigurationError(f"{variable}: no such setting{near}")
    parse_options(Settings, arguments, "command line")
    values.update(arguments)
    settings = parse_options(Settings, values, "settings")
    return Configuration(settings, named["provider"], named["key"])


_PREFIX = "CHOREO_"

# Kubernetes sets such variables in every pod for every service, including services whose names
# begin with "choreo" (as in deploy/kubernetes).
_SERVICE_LINK = re.compile(
    r"CHOREO_(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)=.*"
    r"|CHOREO_(.+_)?PORT=(tcp|udp|sctp)://.*"
)


def parse_options(
    options: type[T], values: Mapping[str, str], where: str, also: Iterable[str] = ()
) -> T:
    """Return *options* parsed from *values*; errors name *where* these are from.

    Raises ConfigurationError for a wrong value, or for an unknown name; the error suggests a
    similar one, also from *also*.
    """
    known = {item.name: (item, hint) for item, hint in table(options)}
    parsed = {}
    for name, text in values.items():
        if name not in known:
            near = did_you_mean(name, [*known, *also])
            raise ConfigurationError(f"{where}: unknown setting {name!r}{near}")
        parsed[name] = _parse(text.strip(), *known[name], f"{where}: {name}")
    return options(**parsed)


def did_you_mean(name: str, known: Iterable[str], similarity: float = 0.6) -> str:
    """Return `` (did you mean 'x'?)`` with the nearest of *known*, if similar enough, or ``""``."""
    near = difflib.get_close_matches(name, known, 1, similarity)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _parse(text: str, item: dataclasses.Field[Any], hint: Any, where: str) -> Any:
    if hint not in _CASTS:
        raise TypeError(f"{where}: settings of type {hint} are not supported")
    shown = "the value" if hint in (Secret, tuple[Secret, ...]) else repr(text)
    cast, kind = _CASTS[hint]
    if text[1:] and text[0] == text[-1] and text[0] in "'\"":
        raise ConfigurationError(f"{where}: leave out the quotation marks around the value")
    if hint in (str, Secret) and (line := re.search(r"\n(\w+) *=", text)):  # it was indented
        raise ConfigurationError(f"{where}: begin the line {line[1]!r} in the first column")
    try:
        value = cast(text)
    except (ValueError, KeyError):
        raise ConfigurationError(f"{where}: {shown} is not {kind}") from None
    if text and value == () and hint == tuple[Secret, ...]:  # no key would mean an open server
        raise ConfigurationError(f"{where}: there is nothing between the commas")
    limits, choices = item.metadata, item.metadata["choices"]
    if choices and value not in choices:
        near = did_you_mean(text.lower(), choices)
        raise ConfigurationError(f"{where}: {shown} is not one of {', '.join(choices)}{near}")
    if limits["minimum"] is not None and value < limits["minimum"]:
        raise ConfigurationError(f"{where}: {text} is below the minimum {limits['minimum']:g}")
    if limits["maximum"] is not None and value > limits["maximum"]:
        raise ConfigurationError(f"{where}: {text} is above the maximum {limits['maximum']:g}")
    return value


_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on"), True)
_BOOLEANS |= dict.fromkeys(("0", "false", "no", "off"), False)


def _int(text: str) -> int:
    # int() would accept +1, 1_000 and the digits of other scripts.
    if not re.fullmatch("-?[0-9]+", text):
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not text.isascii() or "_" in text:
        raise ValueError(text)
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text or "9999-12-31")
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))


#: Type to the function that parses it, and its name in an error.
_CASTS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a text"),
    Secret: (Secret, "a text"),
    int: (_int, "a whole number (int)"),
    float: (_float, "a number (float)"),
    bool: (lambda text: _BOOLEANS[text.lower()], "true or false (bool)"),
    datetime: (_moment, "a date such as 2027-01-31"),
    tuple[str, ...]: (_words, "a list"),
    tuple[Secret, ...]: (lambda text: tuple(map(Secret, _words(text))), "a list"),
}
