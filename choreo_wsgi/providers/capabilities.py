"""What models take and refuse, as a table: sampling, thinking, efforts, limits.

The adapters ask :func:`capabilities` for a model's name, in whatever form a platform writes it.
The table is ``capabilities.txt``.  A model that is not in it gets the defaults of
:class:`Capabilities`; the setting ``capabilities`` of a provider goes before the table.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
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


def requested_effort(request: ChatRequest) -> str | None:
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


def _table(text: str) -> Iterator[Row]:
    """Yield the rows of *text*, whose first lines say how it is written."""
    words: dict[str, str] = {}
    for line in filter(None, text.splitlines()):
        for word, meaning in words.items():
            line = line.replace(f"{{{word}}}", meaning)
        name, defined, meaning = line.partition(" := ")
        if defined:
            words[name] = meaning
        elif not line.startswith("#"):
            pattern, seen, page, *pairs = line.split()
            pages = ", ".join(words[name] for name in page.split("+"))
            yield Row(pattern, seen, pages, _changed(Capabilities(), _pairs(pairs)))


#: The first row whose pattern is found decides.
TABLE = tuple(_table((pkgutil.get_data(__package__, "capabilities.txt") or b"").decode()))
