"""The capabilities of models: sampling, thinking, efforts, limits.

Adapters look up a model by name with :func:`capabilities`.  The rows of the table,
``capabilities.txt``, have patterns, because platforms write a name differently.  A model that is
not in it gets the defaults of :class:`Capabilities`; a provider's setting ``capabilities``
overrides the table.
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

#: The values of ``reasoning_effort``, from the lowest to the highest.
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True)
class Capabilities:
    """The capabilities of a model."""

    sampling: str = setting(
        "both", "one: temperature or top_p, not both together", choices=("both", "one", "none")
    )
    thinking: str = setting(
        *("", "requested as a number of tokens or as a word; empty: not known"),
        choices=("", "budget", "effort", "none"),
    )
    off: str = setting(
        *("disabled", "how thinking is turned off; no: it cannot be"),
        choices=("disabled", "between_tools", "no"),
    )
    efforts: tuple[str, ...] = setting((), "the efforts it accepts; others become the next lower")
    least: int = setting(1024, "tokens of the smallest budget", minimum=0)
    most: int = setting(32768, "tokens of the largest budget", minimum=0)
    max_tokens: int = setting(0, "the most that it writes, 0 for unknown", minimum=0)
    parallel: str = setting(
        *("choose", "one: it calls one tool at a time, and refuses parallel_tool_calls"),
        choices=("choose", "one"),
    )
    forced_tools: bool = setting(True, "whether it can be forced to call a tool")
    system_anywhere: bool = setting(False, "whether system messages may stand in the middle")

    def effort(self, requested: str) -> str:
        """Return *requested* if the model accepts it, else its next lower effort or its lowest."""
        accepted = [word for word in EFFORTS if word in self.efforts] or [requested]
        lower = [word for word in accepted if EFFORTS.index(word) <= EFFORTS.index(requested)]
        return lower[-1] if lower else accepted[0]

    def limit(self, requested: int | None) -> int | None:
        """Return the token limit *requested*, or the model's own if that is lower.

        The model refuses a limit above its own.
        """
        return requested if requested is None else min(requested, self.max_tokens or requested)


@dataclass(frozen=True)
class Row:
    """The capabilities of models in whose name *pattern*, a regular expression, is found.

    They were read on the date *seen* from *page*, which may be several.
    """

    pattern: str
    seen: str
    page: str
    facts: Capabilities


Override = tuple[str, dict[str, str]]


def capabilities(model: str, overrides: Iterable[Override] = ()) -> Capabilities:
    """Return the capabilities of *model*, changed by those *overrides* whose pattern matches."""
    caps = _in_table(model)
    for pattern, changes in overrides:
        if re.search(pattern, model):
            caps = _changed(caps, changes)
    return caps


@lru_cache(1024)
def _in_table(model: str) -> Capabilities:
    return next((row.facts for row in TABLE if re.search(row.pattern, model)), Capabilities())


def _changed(facts: Capabilities, changes: Mapping[str, str]) -> Capabilities:
    parsed = parse_options(Capabilities, changes, "capabilities")
    if not set(parsed.efforts) <= set(EFFORTS):
        raise ConfigurationError(f"efforts are some of {'|'.join(EFFORTS)}")
    return replace(facts, **{name: getattr(parsed, name) for name in changes})


def overrides(lines: Iterable[str]) -> list[Override]:
    """Return the overrides in the *lines* of a setting.

    A line is a regular expression followed by ``name=value`` for members of :class:`Capabilities`.
    Raises ConfigurationError for an invalid line.
    """
    parsed = []
    for line in lines:
        pattern, *pairs = line.split()
        try:
            re.compile(pattern)
            _changed(Capabilities(), _pairs(pairs))
        except (re.error, ConfigurationError) as error:
            raise ConfigurationError(f"capabilities: {line!r}: {error}") from None
        parsed.append((pattern, _pairs(pairs)))
    return parsed


def _pairs(words: Iterable[str]) -> dict[str, str]:
    return dict(word.replace("|", ",").partition("=")[::2] for word in words)


def requested_effort(request: ChatRequest) -> str | None:
    """Return the ``reasoning_effort`` of *request*, or that closest to Anthropic's ``thinking``."""
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
    """Yield the rows of *text*; the comment at its start describes the format."""
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
