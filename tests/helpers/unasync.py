"""Makes ``choreoai/sync`` from ``choreoai/aio``: ``python tests/helpers/unasync.py``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "choreoai" / "aio"
TARGET = ROOT / "choreoai" / "sync"

#: What becomes of the words of the async client, in code and in docstrings.
WORDS = (
    (r'^"""The async client\..*\n', '"""The sync client, made from ``choreoai/aio``."""\n'),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncListing\((.*)\)$", r"\1"),
    (r"\bAsyncListing, ", ""),
    (r"\bAsyncListing\b", "ModelList"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAwaitable\[(.*?)\]", r"\1"),
    (r"\bCoroutine\[Any, Any, ((?:[^][]|\[[^][]*\])*)\]", r"\1"),
    (r", (?:Awaitable|Coroutine)\b|\b(?:Awaitable|Coroutine), ", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b(_?)Async(?=[A-Z])", r"\1"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\btransports\.nonblocking\b", "transports.blocking"),
)


def translate(text: str) -> str:
    """Return the sync source for the async *text*."""
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    for arguments in (["check", "--fix", "--select", "I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet"]
        command += ["--stdin-filename", str(TARGET / "x.py"), "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


def generated() -> dict[Path, str]:
    """Return the files of the sync client, and what must stand in them."""
    return {
        TARGET / path.name: translate(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.glob("*.py"))
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
