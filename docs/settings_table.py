"""Writes the settings into ``docs/settings.rst`` and ``README.rst``, from their table.

Run ``python docs/settings_table.py`` after a change; a test fails if that was forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from choreo_wsgi.settings import table

PAGE = Path(__file__).with_name("settings.rst")
README = Path(__file__).parent.parent / "README.rst"
BEGIN, END = ".. settings begin\n\n", ".. settings end\n"
#: What most people set, in the README.
COMMON = (
    "listen",
    "api_keys",
    "cors_origins",
    "default_model",
    "max_streams",
    "max_body_bytes",
    "heartbeat_seconds",
    "send_timeout",
    "drain_seconds",
    "local_model",
    "replay",
)
HEAD = """\
Settings
========

.. Written by docs/settings_table.py from choreo_wsgi/settings.py.

Each setting can be given in three places; the first of these has precedence:

1. the command line of ``choreo-wsgi serve``: ``--max-streams 500``;
2. the environment: ``CHOREO_MAX_STREAMS=500``;
3. the ini file named by ``--config`` or ``CHOREO_CONFIG``: ``max_streams = 500`` in section
   ``[choreo]``.

Lists are separated by commas.  A switch is ``true`` or ``false``; on the command line it is
``--preload`` or ``--no-preload``, or ``--preload off``.  Times are in seconds, sizes in bytes.  An
unknown setting is an error.  ``choreo-wsgi settings`` prints the effective settings.

"""


def default_text(value: Any) -> str:
    """Return a default as it is written in the ini file."""
    if value is True or value is False:
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def entries(names: tuple[str, ...] = ()) -> str:
    """Return the settings *names*, or all, as a definition list."""
    lines = []
    for item, _ in table():
        if names and item.name not in names:
            continue
        lines.append(f"``{item.name}``")
        text = item.metadata["text"]
        lines.append(f"    {text[0].upper()}{text[1:]}.")
        if choices := item.metadata["choices"]:
            lines.append(f"    One of ``{'``, ``'.join(choices)}``.")
        if default := default_text(item.default):
            lines.append(f"    Default: ``{default}``.")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def page() -> str:
    """Return ``docs/settings.rst``."""
    return HEAD + entries()


def readme() -> str:
    """Return ``README.rst`` with its settings as they are now."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + entries(COMMON) + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
