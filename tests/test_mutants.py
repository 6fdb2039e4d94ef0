"""Every fault in ``tests/mutants`` still applies to the code."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.mutants.faults import Fault, read_faults  # noqa: E402

FAULTS = read_faults()


def _missing(tests: list[str]) -> list[str]:
    """Return the files, and the names in *tests* of tests in them, that do not exist.

    pytest runs nothing for the former name of a test, so that its fault seems to be unseen.
    """
    paths = [path for path in tests if path.startswith("tests/")]
    files = [ROOT / path.partition("::")[0] for path in paths]
    if missing := [str(file) for file in files if not file.exists()]:
        return missing
    names = [path.partition("::")[2].partition("[")[0] for path in paths]
    if "-k" in tests:
        expression = " ".join(tests[tests.index("-k") + 1 :])
        names += set(re.findall(r"\w+", expression)) - {"and", "or", "not"}
    text = "".join(f"{file} {file.read_text('utf-8')}" for file in files if file.is_file()).lower()
    return [name for name in names if name.lower() not in text]


def problem_with(fault: Fault) -> str:
    """Return why *fault* cannot be planted, or an empty string."""
    text = (ROOT / fault.file).read_text("utf-8")
    try:
        planted = fault.planted_in(text)
        if fault.file.endswith(".py"):
            ast.parse(planted)
    except (ValueError, SyntaxError) as error:
        return str(error) if isinstance(error, ValueError) else f"{fault}: {error}"
    missing = _missing(fault.tests)
    if missing or planted == text or not fault.why:
        return f"{fault}: missing tests {missing}, or no change, or no description"
    return ""


def test_every_fault_applies() -> None:
    assert [problem for problem in map(problem_with, FAULTS) if problem] == []


def test_no_fault_is_listed_twice() -> None:
    seen = [(fault.file, *fault.old, "->", *fault.new) for fault in FAULTS]
    assert len(set(seen)) == len(seen)
