"""What ``choreo-wsgi serve`` says when it is ready."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from .settings import Settings

__all__ = ["banner"]

#: The model that is there without any configuration.
DEMO = "local/SmolLM2-135M-Instruct"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def banner(
    version: str,
    addresses: Sequence[str],
    models: Sequence[tuple[str, str]],
    settings: Settings,
) -> str:
    """Return the text: where the server listens, which model is answered by whom, and a curl.

    *addresses* are URLs or ``unix:PATH``; *models* are names or patterns with who answers.
    """
    width = max((len(name) for name, _ in models), default=0)
    lines = [f"choreo-wsgi {version} listens on {', '.join(addresses)}"]
    lines += [f"  {name:<{width}}  {answers}" for name, answers in models]
    if not models:
        lines.append("  no model is configured")
    if any(answers == DEMO for _, answers in models):
        lines.append(
            "  (a demo on the CPU: grammatical, mostly wrong; local_model names a better one)"
        )
    lines += ["Try:", "  " + _curl(addresses[0], _example(models), settings)]
    return "\n".join(lines)


def _example(models: Sequence[tuple[str, str]]) -> str:
    """Return a model name that is answered, rather by a model than by the echo."""
    for name, answers in models:
        if name == "any other name":
            return answers
    for name, _ in models:
        if name != "echo" and "*" not in name:
            return name
    return "echo"


def _curl(address: str, model: str, settings: Settings) -> str:
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
    # The key itself is never printed; the shell that set it can fill it in.
    if settings.api_keys:
        line += ' -H "Authorization: Bearer ${CHOREO_API_KEYS%%,*}"'
    elif settings.api_keys_file:
        line += ' -H "Authorization: Bearer $CHOREOAI_API_KEY"'
    return line
