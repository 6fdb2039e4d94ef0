"""What models take and refuse, as a table: sampling, thinking, efforts, limits.

The adapters ask :func:`capabilities` for a model's name, in whatever form a platform writes it.
A model that is not in the table gets the defaults of :class:`Capabilities`; the setting
``capabilities`` of a provider goes before the table.  Each row says where it is from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from ..chat.request import ChatRequest
from ..errors import ConfigurationError, InvalidRequest

#: The words of ``reasoning_effort``, from the least to the most.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

_PAGES = "https://platform.claude.com/docs/en/"
_MODELS = _PAGES + "about-claude/models/overview"
_EFFORT = _PAGES + "build-with-claude/effort"
_GEMINI = "https://ai.google.dev/gemini-api/docs/thinking"


@dataclass(frozen=True)
class Capabilities:
    """What is known of a model.

    *sampling* is ``both``, ``one`` (temperature or top_p, not both together) or ``none``.
    *thinking* is ``budget`` (in tokens, between *least* and *most*), ``effort`` (a word), ``none``,
    or ``""`` for unknown.  *off* is how thinking is turned off: ``disabled``, ``between_tools``, or
    ``""`` where it cannot be.  *efforts* are the words that it takes; a word that is not among
    them becomes the nearest lower one.  *max_tokens* is the most that it writes, 0 for unknown.
    *forced_tools* is whether it can be made to call a tool, *system_anywhere* whether system
    messages may stand in the middle of the conversation.
    """

    sampling: str = "both"
    thinking: str = ""
    off: str = "disabled"
    efforts: tuple[str, ...] = ()
    least: int = 1024
    most: int = 32768
    max_tokens: int = 0
    forced_tools: bool = True
    system_anywhere: bool = False

    def effort(self, asked: str) -> str:
        """Return the word of the model's that comes nearest to *asked*, never a higher one
        unless there is no lower."""
        known = [word for word in EFFORTS if word in self.efforts] or [asked]
        lower = [word for word in known if EFFORTS.index(word) <= EFFORTS.index(asked)]
        return lower[-1] if lower else known[0]


@dataclass(frozen=True)
class Row:
    """What is known of the models whose name has *pattern* (a regular expression) in it."""

    pattern: str
    seen: str  # the date
    page: str
    facts: Capabilities


_ALL = ("low", "medium", "high", "xhigh", "max")
_EFFORTS = Capabilities("none", "effort", efforts=_ALL, max_tokens=128_000)
_ALWAYS = replace(_EFFORTS, off="", system_anywhere=True)
_LEVELS = Capabilities(thinking="effort", off="", efforts=("minimal", "low", "medium", "high"))
_NEVER = Capabilities(thinking="none")

#: The first row whose pattern is found decides.
TABLE: tuple[Row, ...] = (
    Row("claude-3-5", "2026-11-25", _MODELS, Capabilities("both", "none", max_tokens=8192)),
    Row("claude-3-7", "2026-11-25", _MODELS, Capabilities("both", "budget", max_tokens=64_000)),
    Row("claude-3-", "2026-11-25", _MODELS, Capabilities("both", "none", max_tokens=4096)),
    Row(
        r"claude-opus-4-1\b",
        "2026-11-25",
        _MODELS,
        Capabilities("one", "budget", max_tokens=32_000),
    ),
    Row(
        r"claude-opus-4(-0)?(-\d{8}|@|-v\d|$)",
        "2026-11-25",
        _MODELS,
        Capabilities("both", "budget", max_tokens=32_000),
    ),
    Row(
        r"claude-sonnet-4(-0)?(-\d{8}|@|-v\d|$)",
        "2026-11-25",
        _MODELS,
        Capabilities("both", "budget", max_tokens=64_000),
    ),
    Row(
        "claude-(opus|sonnet|haiku)-4-5",
        "2026-11-25",
        _MODELS,
        Capabilities("one", "budget", max_tokens=64_000),
    ),
    Row(
        "claude-opus-4-6",
        "2026-11-25",
        _EFFORT,
        Capabilities("one", "effort", efforts=("low", "medium", "high", "max"), max_tokens=128_000),
    ),
    Row(
        "claude-sonnet-4-6",
        "2026-11-25",
        _EFFORT,
        Capabilities("one", "effort", efforts=("low", "medium", "high", "max"), max_tokens=64_000),
    ),
    Row("claude-opus-4-7", "2026-11-25", _PAGES + "about-claude/models/migrating", _EFFORTS),
    Row(
        "claude-opus-4-8",
        "2026-11-25",
        _PAGES + "build-with-claude/mid-conversation-system-messages",
        replace(_EFFORTS, system_anywhere=True),
    ),
    Row(
        "claude-(opus-5-5|fable-5-[1-9]|mythos-5-[1-9])",
        "2026-11-25",
        _PAGES + "models/opus-5-5/overview",
        replace(_ALWAYS, forced_tools=False),
    ),
    Row(
        "claude-sonnet-5-5",
        "2026-11-25",
        _PAGES + "models/sonnet-5-5/overview",
        replace(_ALWAYS, off="between_tools", forced_tools=False),
    ),
    Row(
        "claude-(fable|mythos)-5", "2026-11-25", _PAGES + "models/fable-5/migration-guide", _ALWAYS
    ),
    Row(
        "claude-(opus|sonnet|haiku)-5",
        "2026-11-25",
        _EFFORT,
        replace(_EFFORTS, system_anywhere=True),
    ),
    Row(r"gemini-(1|2\.0)", "2026-11-25", _GEMINI, _NEVER),
    Row(
        r"gemini-2\.5-pro",
        "2026-11-25",
        _GEMINI,
        Capabilities(thinking="budget", off="", least=128, most=32768),
    ),
    Row(
        r"gemini-2\.5-flash-lite",
        "2026-11-25",
        _GEMINI,
        Capabilities(thinking="budget", least=512, most=24576),
    ),
    Row(
        r"gemini-2\.5", "2026-11-25", _GEMINI, Capabilities(thinking="budget", least=1, most=24576)
    ),
    Row("gemini-3-pro", "2026-11-25", _GEMINI, replace(_LEVELS, efforts=("low", "high"))),
    Row(
        r"gemini-3\.1-pro",
        "2026-11-25",
        _GEMINI,
        replace(_LEVELS, efforts=("low", "medium", "high")),
    ),
    Row("gemini-", "2026-11-25", _GEMINI, _LEVELS),
    Row(
        "gpt-oss",
        "2026-11-25",
        "https://docs.ollama.com/capabilities/thinking",
        Capabilities(thinking="effort", off="", efforts=("low", "medium", "high")),
    ),
)

Override = tuple[str, dict[str, str]]
_WORDS = {
    "sampling": ("both", "one", "none"),
    "thinking": ("budget", "effort", "none"),
    "off": ("disabled", "between_tools", "no"),
}


def capabilities(model: str, overrides: Iterable[Override] = ()) -> Capabilities:
    """Return what is known of *model*; *overrides* change members of it."""
    found = next((row.facts for row in TABLE if re.search(row.pattern, model)), Capabilities())
    for pattern, changes in overrides:
        if re.search(pattern, model):
            made: dict[str, Any] = {name: _value(name, word) for name, word in changes.items()}
            found = replace(found, **made)
    return found


def overrides(lines: Iterable[str]) -> list[Override]:
    """Return the overrides that a setting's *lines* describe.

    A line is a regular expression and then ``name=value`` for members of :class:`Capabilities`.
    Raises ConfigurationError for anything else.
    """
    made = []
    for line in lines:
        pattern, *pairs = line.split()
        changes = dict(pair.partition("=")[::2] for pair in pairs)
        try:
            re.compile(pattern)
            for name, word in changes.items():
                _value(name, word)
        except (re.error, ValueError) as error:
            raise ConfigurationError(f"capabilities: {line!r}: {error}") from None
        made.append((pattern, changes))
    return made


def _value(name: str, word: str) -> str | int | bool | tuple[str, ...]:
    kinds = {field.name: field.type for field in fields(Capabilities)}
    if name not in kinds:
        raise ValueError(f"{name!r} is not one of {', '.join(kinds)}")
    if name == "efforts":
        efforts = tuple(word.split("|"))
        if not set(efforts) <= set(EFFORTS):
            raise ValueError(f"efforts are words of {'|'.join(EFFORTS)}")
        return efforts
    if kinds[name] == "int":
        if not (word.isascii() and word.isdigit()):
            raise ValueError(f"{name} is a number")
        return int(word)
    if kinds[name] == "bool":
        if word not in ("true", "false"):
            raise ValueError(f"{name} is true or false")
        return word == "true"
    if word not in _WORDS[name]:
        raise ValueError(f"{name} is one of {', '.join(_WORDS[name])}")
    return "" if word == "no" else word


def asked_effort(request: ChatRequest) -> str | None:
    """Return the word of ``reasoning_effort`` that *request* has, or that the ``thinking`` of
    Anthropic's API in it comes to; raises InvalidRequest for other words."""
    effort, thinking = (request.body.get(name) for name in ("reasoning_effort", "thinking"))
    if effort is not None:
        if effort not in EFFORTS:
            raise InvalidRequest(
                f"reasoning_effort must be one of {', '.join(EFFORTS)}", param="reasoning_effort"
            )
        return str(effort)
    if thinking is None:
        return None
    if not isinstance(thinking, dict):
        raise InvalidRequest("thinking must be an object", param="thinking")
    if thinking.get("type") == "disabled":
        return "none"
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        return None
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"
