"""Draws ``docs/rooms.svg``: the packages of the server, in layers.

Run ``python docs/rooms.py`` after a change; a test fails if that was forgotten.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURE = Path(__file__).with_name("rooms.svg")

#: The layers from the top: the name of a package or module, and its purpose.
FLOORS = (
    (
        ("cli", "the command"),
        ("doctor", "finds bad proxies"),
        ("terminal", "a chat by choreoai"),
        ("wsgi", "the plain callable"),
    ),
    (("serve", "waitress under the application: connections, the loop, the drain"),),
    (("app", "one HTTP request: routes, keys, limits, log, resumption"),),
    (("apis", "a module for each public API: its request, its answer"),),
    (("streams", "one stream's life; the carrier"), ("local", "the model on this machine")),
    (("providers", "routing, failover, adapters"), ("replay", "logs of streams")),
    (("chat", "the conversation as values"), ("upstream", "HTTP/1.1 to a provider")),
    (("settings", "one table: command line, environment, ini file, docs"),),
    (
        ("sse", "the bytes of a stream"),
        ("errors", "errors and statuses"),
        ("ids", ""),
        ("late", ""),
        ("version", ""),
    ),
)
_WIDTH, _HEIGHT, _GAP = 760, 50, 6


def picture() -> str:
    """Return the picture as SVG."""
    height = len(FLOORS) * (_HEIGHT + _GAP) + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif">',
        "<title>The packages of choreo_wsgi; each imports only from those below it</title>",
    ]
    for level, floor in enumerate(FLOORS):
        top = _GAP + level * (_HEIGHT + _GAP)
        # The width of a box is proportional to the length of its text.
        weights = [max(len(name), len(purpose)) + 8 for name, purpose in floor]
        left = float(_GAP)
        for (name, purpose), weight in zip(floor, weights, strict=True):
            width = (_WIDTH - _GAP * (len(floor) + 1)) * weight / sum(weights)
            shade = 97 - 3 * level
            lines.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{_HEIGHT}" rx="4" '
                f'fill="hsl(205 40% {shade}%)" stroke="#456"/>'
            )
            for text, y, style in (
                (name, 21 if purpose else 30, 'font-size="15" font-weight="bold"'),
                (purpose, 39, 'font-size="12"'),
            ):
                lines.append(
                    f'<text x="{left + width / 2:.0f}" y="{top + y}" text-anchor="middle" '
                    f"{style}>{escape(text)}</text>"
                )
            left += width + _GAP
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
