"""Writes the tables of ``docs/providers.rst`` from the code.

Run ``python docs/providers_tables.py`` to write them; a test fails if they are not current.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from choreo_wsgi.providers import Provider
from choreo_wsgi.providers.capabilities import TABLE as MODELS
from choreo_wsgi.providers.capabilities import Capabilities
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.support import (
    COLUMNS,
    KINDS,
    MESSAGES,
    PLACES,
    PROVIDERS,
    TABLE,
    Cell,
    Row,
    accepts,
)
from choreo_wsgi.settings import table

PAGE = Path(__file__).with_name("providers.rst")
TYPES = (
    "openai",
    "anthropic",
    "gemini",
    "xai",
    "azure",
    "bedrock",
    "ollama",
    "openrouter",
    "groq",
    "mistral",
    "deepseek",
    "vllm",
    "sglang",
)
#: The types with settings of their own; the others have those of ``openai``.
OWN_SETTINGS = ("openai", "anthropic", "gemini", "azure", "bedrock", "ollama")


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"``{name}``" for name in names if name)


def _home(cls: type[Provider]) -> str:
    home = cls.facts.home or getattr(cls.Options(), "base_url", "")
    return str(home) or ("the region's" if cls.type == "bedrock" else "your own")


def _list_table(rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for first, *others in rows:
        lines.append(f"   * - {first}")
        lines += [f"     - {cell}".rstrip() for cell in others]
    return "\n".join(lines) + "\n"


def providers() -> str:
    """Return the table of the providers: keys, addresses, model names."""
    rows = [("type", "variables for key and address", "default address", "names of its models")]
    for type in TYPES:
        cls = provider_class(type)
        variables = _code((*cls.facts.keys, cls.facts.base_url))
        rows.append((f"``{type}``", variables, _home(cls), _code(cls.facts.patterns)))
    return _list_table(rows)


def support(name: str, rows: Iterable[Row], types: Sequence[str]) -> str:
    """Return the table of how providers of these *types* treat each of *rows*."""
    table = [(name, *types)]
    for row in rows:
        table.append((f"``{row.name}``", *(_shown(row.cells[type]) for type in types)))
    return _list_table(table)


def contents() -> str:
    """Return the table of the content that each provider accepts in each role's messages."""
    table = [("content", *PROVIDERS)]
    for kind in KINDS:
        cells = []
        for type in PROVIDERS:
            places = [place for place in PLACES if accepts(type, place, kind)]
            cells.append(f"sent in {', '.join(places)}" if places else "refused")
        table.append((kind, *cells))
    return _list_table(table)


def _shown(cell: Cell) -> str:
    return f"{cell.how} ({cell.note})" if cell.note else cell.how


def models() -> str:
    """Return the table of the models' capabilities."""
    table = [("models (a regular expression)", "capabilities", "source")]
    for row in MODELS:
        facts = [
            f"{field.name} {_fact(getattr(row.facts, field.name))}"
            for field in fields(Capabilities)
            if getattr(row.facts, field.name) != field.default
        ]
        page = f"{row.seen}, {row.page}"
        table.append((f"``{row.pattern}``", "; ".join(facts), page))
    return _list_table(table)


def _fact(value: Any) -> str:
    if isinstance(value, tuple):
        return "|".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or "no"


def _options(cls: type[Provider]) -> Iterator[str]:
    inherited = {item.name for base in cls.__mro__[1:] for item in _own(base)}
    for item, _ in table(cls.Options):
        own = item.name not in inherited or item.name in ("base_url", "api_key")
        if cls.type == "openai" or own:
            default = _default(item.default)
            yield f"``{item.name}``"
            text = item.metadata["text"]
            yield f"    {_sentence(text)}." + (f"  Default: ``{default}``." if default else "")
            yield ""


def _own(base: type[Any]) -> list[Any]:
    options = base.__dict__.get("Options")
    return [item for item, _ in table(options)] if options else []


def _sentence(text: str) -> str:
    is_name = "_" in text.split()[0]
    return text if is_name else text[0].upper() + text[1:]


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in ("", ()) else f"{value:g}" if isinstance(value, float) else str(value)


def settings() -> str:
    """Return the settings of each type, as definition lists."""
    lines = []
    for type in OWN_SETTINGS:
        lines += [f"``{type}``", "~" * (len(type) + 4), "", *_options(provider_class(type))]
    return "\n".join(lines).rstrip() + "\n"


def page() -> str:
    """Return ``docs/providers.rst`` with its tables as they are now."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {
        "providers": providers(),
        "support": support("parameter", TABLE, COLUMNS),
        "messages": support("member", MESSAGES, PROVIDERS),
        "contents": contents(),
        "models": models(),
        "settings": settings(),
    }
    for name, content in tables.items():
        begin, end = f".. {name} begin\n\n", f".. {name} end\n"
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE} has no {name}"
        text = before + begin + content + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
