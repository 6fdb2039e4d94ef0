"""The command ``choreo-wsgi key``: a new API key, and the section that admits it."""

from __future__ import annotations

import argparse
import hashlib
import re
import secrets
import sys

from ..errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument("name", metavar="NAME", help="the name that the log shows")


def run(options: argparse.Namespace) -> int:
    """Print the section to standard output and the key, this once, to standard error."""
    if not re.fullmatch(r"[\w.@+-]([\w .@+-]*[\w.@+-])?", options.name):
        raise ConfigurationError("a name has letters, digits, spaces and . @ + - _ only")
    key = "sk-" + secrets.token_urlsafe(32)
    print(f"[key {options.name}]\ndigest = {hashlib.sha256(key.encode()).hexdigest()}")
    told = "The section belongs in the ini file or api_keys_file."
    print(f"The key, which is shown only now: {key}\n{told}", file=sys.stderr)
    return 0
