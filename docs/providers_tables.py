"""Writes the tables of ``docs/providers.rst`` from the code.

``python docs/providers_tables.py`` does it; a test tells when that was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from choreo_wsgi.providers import Provider
from choreo_wsgi.providers.registry import provider_class
from choreo_wsgi.providers.support import PROVIDERS, TABLE, Cell
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
#: Those whose settings are their own; the others have those of ``openai``.
OWN_SETTINGS = ("openai", "anthropic", "gemini", "azure", "bedrock", "ollama")


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"``{name}``" for name in names if name)


def _home(cls: type[Provider]) -> str:
    home = cls.facts.home or getattr(cls.Options(), "base_url", "")
    return str(home) or ("the region's" if cls.type == "bedrock" else "of your own")


def _list_table(rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    for first, *others in rows:
        lines.append(f"   * - {first}")
        lines += [f"     - {cell}".rstrip() for cell in others]
    return "\n".join(lines) + "\n"


def providers() -> str:
    """Return the table of the providers: keys, addresses, model names."""
    rows = [("type", "key", "base URL", "by default", "models without an ini file")]
    for type in TYPES:
        cls = provider_class(type)
        address = _code((cls.facts.base_url,))
        rows.append(
            (f"``{type}``", _code(cls.facts.keys), address, _home(cls), _code(cls.facts.patterns))
        )
    return _list_table(rows)


def support() -> str:
    """Return the table of what becomes of each parameter and content part."""
    rows = [("parameter", *PROVIDERS)]
    for row in TABLE:
        shown = f"``{row.name}``" if row.name.replace("_", "").isalpha() else row.name
        rows.append((shown, *(_shown(row.cells[name]) for name in PROVIDERS)))
    return _list_table(rows)


def _shown(cell: Cell) -> str:
    return f"{cell.how} ({cell.note})" if cell.note else cell.how


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
    for name, content in (
        ("providers", providers()),
        ("support", support()),
        ("settings", settings()),
    ):
        begin, end = f".. {name} begin\n\n", f".. {name} end\n"
        before, found, rest = text.partition(begin)
        assert found, f"{PAGE} has no {name}"
        text = before + begin + content + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
