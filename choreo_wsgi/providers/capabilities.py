"""What models take and refuse, as a table: sampling, thinking, efforts, limits.

The adapters ask :func:`capabilities` for a model's name, in whatever form a platform writes it.
A model that is not in the table gets the defaults of :class:`Capabilities`; the setting
``capabilities`` of a provider goes before the table.  Each row says where it is from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from ..chat.request import ChatRequest
from ..errors import ConfigurationError
from ..settings import parse_options, setting

#: The words of ``reasoning_effort``, from the least to the most.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True)
class Capabilities:
    """What is known of a model."""

    sampling: str = setting(
        "both", "one: temperature or top_p, not both together", choices=("both", "one", "none")
    )
    thinking: str = setting(
        *("", "asked for by a number of tokens or by a word; empty: not known"),
        choices=("", "budget", "effort", "none"),
    )
    off: str = setting(
        *("disabled", "how thinking is turned off, if it can be"),
        choices=("disabled", "between_tools", "no"),
    )
    efforts: tuple[str, ...] = setting((), "the words that it takes: others become the next lower")
    least: int = setting(1024, "tokens of the smallest budget", minimum=0)
    most: int = setting(32768, "tokens of the largest budget", minimum=0)
    max_tokens: int = setting(0, "the most that it writes, 0 for unknown", minimum=0)
    parallel: str = setting(
        *("choose", "one: it calls one tool at a time, and refuses parallel_tool_calls"),
        choices=("choose", "one"),
    )
    forced_tools: bool = setting(True, "whether it can be made to call a tool")
    system_anywhere: bool = setting(False, "whether system messages may stand in the middle")

    def effort(self, asked: str) -> str:
        """Return the word of the model's that comes nearest to *asked*, never a higher one
        unless there is no lower."""
        known = [word for word in EFFORTS if word in self.efforts] or [asked]
        lower = [word for word in known if EFFORTS.index(word) <= EFFORTS.index(asked)]
        return lower[-1] if lower else known[0]

    def limit(self, asked: int | None) -> int | None:
        """Return the limit of tokens to send for the one *asked* for.

        The model writes no more than its own limit either way, and refuses a higher one.
        """
        return asked if asked is None else min(asked, self.max_tokens or asked)


@dataclass(frozen=True)
class Row:
    """What is known of the models whose name has *pattern* (a regular expression) in it."""

    pattern: str
    seen: str  # the date
    page: str  # or several
    facts: Capabilities


#: Where the facts are from, by the name that a row has for it.
PAGES = {
    "claude": "https://platform.claude.com/docs/en/about-claude/models/overview",
    "effort": "https://platform.claude.com/docs/en/build-with-claude/effort",
    "middle": (
        "https://platform.claude.com/docs/en/build-with-claude/mid-conversation-system-messages"
    ),
    "fable": "https://platform.claude.com/docs/en/models/fable-5/migration-guide",
    "opus55": "https://platform.claude.com/docs/en/models/opus-5-5/overview",
    "sonnet55": "https://platform.claude.com/docs/en/models/sonnet-5-5/overview",
    "gemini": "https://ai.google.dev/gemini-api/docs/thinking",
    "gemini25": "https://ai.google.dev/gemini-api/docs/models/gemini-2.5-pro",
    "gemini3": "https://ai.google.dev/gemini-api/docs/models/gemini-3-pro-preview",
    "gemini31": "https://ai.google.dev/gemini-api/docs/models/gemini-3.1-pro-preview",
    "lite20": "https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini/2-0-flash-lite",
    "lite25": "https://cloud.google.com/vertex-ai/generative-ai/docs/models/gemini/2-5-flash-lite",
    "o-series": "https://github.com/run-llama/llama_index/issues/20865",
    "ollama": "https://docs.ollama.com/capabilities/thinking",
}

_NEW = "sampling=none thinking=effort efforts=low|medium|high|xhigh|max max_tokens=128000"
_OLDER = "sampling=one thinking=effort efforts=low|medium|high|max"
_ALWAYS = f"{_NEW} off=no system_anywhere=true"
_OLD = r"(-0)?(-\d{8}|@|-v\d|$)"
_LEVELS = "thinking=effort off=no efforts"
_FLASH = "most=24576 max_tokens=65536"
_PRO = "thinking=budget off=no least=128 most=32768 max_tokens=65536"
_TABLE = rf"""
claude-3-5                  2026-11-25 claude  thinking=none max_tokens=8192
claude-3-7                  2026-11-25 claude  thinking=budget max_tokens=64000
claude-3-                   2026-11-25 claude  thinking=none max_tokens=4096
claude-opus-4-1\b           2026-11-25 claude  sampling=one thinking=budget max_tokens=32000
claude-opus-4{_OLD}         2026-11-25 claude  thinking=budget max_tokens=32000
claude-sonnet-4{_OLD}       2026-11-25 claude  thinking=budget max_tokens=64000
claude-\w+-4-5              2026-11-25 claude  sampling=one thinking=budget max_tokens=64000
claude-opus-4-6             2026-11-25 effort  {_OLDER} max_tokens=128000
claude-sonnet-4-6           2026-11-25 effort  {_OLDER} max_tokens=64000
claude-opus-4-7             2026-11-25 effort  {_NEW}
claude-opus-4-8             2026-11-25 middle  {_NEW} system_anywhere=true
claude-opus-5-5             2026-11-25 opus55  {_ALWAYS} forced_tools=false
claude-(fable|mythos)-5-\d  2026-11-25 opus55  {_ALWAYS} forced_tools=false
claude-sonnet-5-5           2026-11-25 sonnet55 {_ALWAYS} off=between_tools forced_tools=false
claude-(fable|mythos)-5     2026-11-25 fable   {_ALWAYS}
claude-\w+-5                2026-11-25 effort  {_NEW} system_anywhere=true
gemini-1                    2026-11-25 gemini  thinking=none
gemini-2\.0                 2026-11-26 gemini+lite20 thinking=none max_tokens=8192
gemini-2\.5-pro             2026-11-25 gemini25 {_PRO}
gemini-2\.5-flash-lite      2026-11-26 gemini+lite25 thinking=budget least=512 {_FLASH}
gemini-2\.5                 2026-11-25 gemini  thinking=budget least=1 most=24576
gemini-3-pro                2026-11-26 gemini+gemini3 {_LEVELS}=low|high max_tokens=65536
gemini-3\.1-pro             2026-11-26 gemini+gemini31 {_LEVELS}=low|medium|high max_tokens=65536
gemini-                     2026-11-25 gemini  {_LEVELS}=minimal|low|medium|high
gpt-oss                     2026-11-25 ollama  {_LEVELS}=low|medium|high
^(openai/)?o(1|3|4-mini)\b  2026-11-25 o-series parallel=one
"""


Override = tuple[str, dict[str, str]]


def capabilities(model: str, overrides: Iterable[Override] = ()) -> Capabilities:
    """Return what is known of *model*; *overrides* change members of it."""
    found = _known(model)
    for pattern, changes in overrides:
        if re.search(pattern, model):
            found = _changed(found, changes)
    return found


@lru_cache(1024)
def _known(model: str) -> Capabilities:
    return next((row.facts for row in TABLE if re.search(row.pattern, model)), Capabilities())


def _changed(facts: Capabilities, changes: Mapping[str, str]) -> Capabilities:
    parsed = parse_options(Capabilities, changes, "capabilities")
    if not set(parsed.efforts) <= set(EFFORTS):
        raise ConfigurationError(f"efforts are words of {'|'.join(EFFORTS)}")
    return replace(facts, **{name: getattr(parsed, name) for name in changes})


def overrides(lines: Iterable[str]) -> list[Override]:
    """Return the overrides that a setting's *lines* describe.

    A line is a regular expression and then ``name=value`` for members of :class:`Capabilities`.
    Raises ConfigurationError for anything else.
    """
    made = []
    for line in lines:
        pattern, *pairs = line.split()
        try:
            re.compile(pattern)
            _changed(Capabilities(), _pairs(pairs))
        except (re.error, ConfigurationError) as error:
            raise ConfigurationError(f"capabilities: {line!r}: {error}") from None
        made.append((pattern, _pairs(pairs)))
    return made


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return dict(word.replace("|", ",").partition("=")[::2] for word in words)


def asked_effort(request: ChatRequest) -> str | None:
    """Return the word of ``reasoning_effort`` that *request* has, or that the ``thinking`` of
    Anthropic's API in it comes to."""
    effort, thinking = (request.body.get(name) for name in ("reasoning_effort", "thinking"))
    if effort is not None or thinking is None:
        return None if effort is None else str(effort)
    if thinking.get("type") == "disabled":
        return "none"
    budget = thinking.get("budget_tokens")
    if type(budget) is not int:
        return None
    return "low" if budget <= 2048 else "medium" if budget <= 8192 else "high"


def _row(line: str) -> Row:
    pattern, seen, page, *pairs = line.split()
    pages = ", ".join(PAGES[name] for name in page.split("+"))
    return Row(pattern, seen, pages, _changed(Capabilities(), _pairs(pairs)))


#: The first row whose pattern is found decides.
TABLE = tuple(map(_row, _TABLE.strip().splitlines()))
