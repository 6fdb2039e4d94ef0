"""The literal blocks of README.rst, with their languages."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from launched import ROOT

# ``.. code-block:: LANGUAGE`` or a paragraph that ends in ``::``, a blank line, and lines that are
# indented by four spaces.
_BLOCK = re.compile(
    r"^(?:\.\. code-block:: (?P<language>\w+)|(?!\.\. ).*::)\n\n(?P<text>(?:(?: {4}.*)?\n)+)",
    re.MULTILINE,
)


class Block(NamedTuple):
    """One block; *language* is ``""`` for a plain one, which holds shell commands."""

    language: str
    text: str


def read_blocks() -> list[Block]:
    """Return all blocks in order, without their indentation."""
    readme = (ROOT / "README.rst").read_text("utf-8")
    return [
        Block(
            match["language"] or "",
            re.sub("^ {4}", "", match["text"], flags=re.MULTILINE).strip() + "\n",
        )
        for match in _BLOCK.finditer(readme)
    ]


def commands(block: Block) -> list[str]:
    """Return the shell commands of *block*, one per line; of a console those behind ``$``."""
    text = block.text.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return lines


def command(program: str) -> list[str]:
    """Return the words of the one command that starts *program*."""
    found = [
        shlex.split(line, comments=True)
        for block in read_blocks()
        if block.language in ("", "console")
        for line in commands(block)
        if line.split()[0] == program
    ]
    assert len(found) == 1, found
    return found[0]
