"""The text that ``choreo-wsgi serve`` prints when it is ready."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..late import Late
from ..version import __version__

if TYPE_CHECKING:
    from ..local import weights
else:
    weights = Late("choreo_wsgi.local.weights")

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def banner(addresses: Sequence[str], models: Sequence[tuple[str, str]], key: str = "") -> str:
    """Return the text: the server's addresses, its models with their targets, and a curl command.

    *addresses* are URLs or ``unix:PATH``; *models* are pairs of a name or pattern and its target.
    *key* is a shell expression for an API key, empty when none is needed.
    """
    width = max((len(name) for name, _ in models), default=0)
    lines = [f"choreo-wsgi {__version__} listens on {', '.join(addresses)}"]
    lines += [f"  {name:<{width}}  {target}" for name, target in models]
    if not models:
        lines.append("  no model is configured")
    if any(_is_demo(target) for _, target in models):
        lines += [
            "  (the local model is a demo on the CPU: grammatical, mostly wrong;",
            "   local_model names a better one, default_model = none turns it off)",
        ]
        if missing := weights.missing():
            lines.append(f"  It is not installed yet: {missing}")
    lines += ["Try:", "  " + _curl(addresses[0], _example(models), key)]
    return "\n".join(lines)


def _example(models: Sequence[tuple[str, str]]) -> str:
    """Return the name of a model to try, preferably not ``echo``."""
    for name, target in models:
        if name == "any other name" and not (_is_demo(target) and weights.missing()):
            return target
    for name, _ in models:
        if name not in ("echo", "any other name") and "*" not in name:
            return name
    return "echo"


def _is_demo(target: str) -> bool:
    return target.startswith("local/") and target == f"local/{weights.NAME}"


def _curl(address: str, model: str, key: str) -> str:
    words = ["curl", "-N"]
    if address.startswith("unix:"):
        words += ["--unix-socket", address.removeprefix("unix:")]
        address = "http://localhost"
    for wildcard, loopback in _WILDCARDS.items():
        address = address.replace(f"//{wildcard}:", f"//{loopback}:")
    message = {"role": "user", "content": "Say hello"}
    body = {"model": model, "messages": [message], "stream": True}
    words += [f"{address}/v1/chat/completions", "-H", "Content-Type: application/json"]
    line = shlex.join([*words, "-d", json.dumps(body)])
    return f'{line} -H "Authorization: Bearer {key}"' if key else line
