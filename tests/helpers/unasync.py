"""Makes what is made of the client: ``choreoai/sync``, objects, parameters, a stub.

``python tests/helpers/unasync.py`` writes them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import from_openai

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "choreoai"
SOURCE = PACKAGE / "aio"
TARGET = PACKAGE / "sync"

#: What becomes of the words of the async client, in code and in docstrings.
WORDS = (
    (r'^"""The async client\..*\n', '"""The sync client, made from ``choreoai/aio``."""\n'),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncListing\((.*)\)$", r"\1"),
    (r"\bimport AsyncListing, ", "import "),
    (r"-> AsyncListing\b", "-> ModelList"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAwaitable\[(.*?)\]", r"\1"),
    (r"\bCoroutine\[Any, Any, ((?:[^][]|\[[^][]*\])*)\]", r"\1"),
    (r", (?:Awaitable|Coroutine)\b|\b(?:Awaitable|Coroutine), ", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b(_?)Async(?=[A-Z])", r"\1"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\btransports\.(loops|nonblocking)\b", "transports.blocking"),
)


def translate(text: str) -> str:
    """Return the sync source for the async *text*."""
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return formatted(text, TARGET / "x.py")


def formatted(text: str, path: Path) -> str:
    """Return *text*, the source for *path*, as ruff would have it."""
    for arguments in (["check", "--fix", "--select", "I,F401"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet"]
        command += ["--stdin-filename", str(path), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


def face() -> str:
    """Return what type checkers are told of the names in the package."""
    from choreoai import ALIASES, FACE

    text = "from choreo_wsgi.version import __version__ as __version__\n"
    for module, names in FACE.items():
        text += "".join(f"from .{module} import {name} as {name}\n" for name in names.split())
    text += "".join(f"{alias} = {name}\n" for alias, name in ALIASES.items())
    return formatted(text, PACKAGE / "__init__.pyi")


def generated() -> Iterator[tuple[Path, str]]:
    """Yield the files that are made, and what must stand in them."""
    for path in sorted(SOURCE.glob("*.py")):
        yield TARGET / path.name, translate(path.read_text(encoding="utf-8"))
    for module, text in from_openai.models():
        path = PACKAGE / "models" / f"{module}.py"
        yield path, formatted(text, path)
    yield PACKAGE / "params.py", formatted(from_openai.params(), PACKAGE / "params.py")
    yield PACKAGE / "__init__.pyi", face()


if __name__ == "__main__":
    for path, text in generated():
        path.write_text(text, encoding="utf-8")
