"""Every planted fault of ``tests/mutants`` still fits the code that it breaks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.mutants.faults import Fault, read_faults  # noqa: E402

FAULTS = read_faults()


def wrong_with(fault: Fault) -> str:
    """Return why *fault* cannot be planted, or nothing."""
    text = (ROOT / fault.file).read_text("utf-8")
    try:
        planted = fault.planted_in(text)
        if fault.file.endswith(".py"):
            ast.parse(planted)
    except (ValueError, SyntaxError) as error:
        return str(error) if isinstance(error, ValueError) else f"{fault}: {error}"
    missing = [
        path
        for path in fault.tests
        if path.startswith("tests/") and not (ROOT / path.partition("::")[0]).exists()
    ]
    if missing or planted == text or not fault.why:
        return f"{fault}: no such tests {missing}, or nothing is changed, or nothing is said"
    return ""


def test_they_fit() -> None:
    assert [wrong for wrong in map(wrong_with, FAULTS) if wrong] == []


def test_each_is_planted_once() -> None:
    seen = [(fault.file, *fault.old, "->", *fault.new) for fault in FAULTS]
    assert len(set(seen)) == len(seen)
