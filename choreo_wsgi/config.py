"""Where the configuration comes from: the ini file and the environment."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigurationError
from .settings import Configuration, load

__all__ = ["configure", "from_environment", "read_sections"]


def read_sections(path: str) -> dict[str, dict[str, str]]:
    """Return the sections of the ini file at *path* as text.

    Raises ConfigurationError when it cannot be read.
    """
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigurationError(f"the configuration file {path}: {error}") from error
    return {name: dict(parser[name]) for name in parser.sections()}


def configure(
    arguments: Mapping[str, str], environment: Mapping[str, str], path: str = ""
) -> Configuration:
    """Return the configuration: command line over environment over the file over defaults.

    *path* is the ini file; without it the variable ``CHOREO_CONFIG`` may name one.
    """
    path = path or environment.get("CHOREO_CONFIG", "")
    return load(arguments, environment, read_sections(path) if path else {})


def from_environment(environment: Mapping[str, str]) -> Configuration:
    """Return the configuration that the environment alone describes."""
    return configure({}, environment)
