"""Where the configuration comes from: the ini file and the environment."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigurationError
from .settings import Configuration, load, table

__all__ = ["configure", "from_environment", "read_sections"]

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
