"""What type checkers say about programs that use the client."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "typed"
CHECKERS = {
    "mypy": ["--strict", "--config-file=", "--no-error-summary", "--hide-error-context"],
    "pyright": ["--pythonpath", sys.executable],  # strict by a comment in the files
}


def lines_with_errors(checker: str, name: str) -> set[int]:
    """Return the numbers of the lines of the program *name* that *checker* objects to."""
    pytest.importorskip(checker, reason=f"{checker} is in the extra `check`")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], str(FOLDER / name)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not ran.stderr, ran.stderr
    found = re.findall(rf"{name}:(\d+)(?::\d+)?(?: -|:) error: (.*)", ran.stdout)
    assert found or ran.returncode == 0, ran.stdout
    return {int(number) for number, _ in found}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_program_that_uses_everything_is_right(checker: str) -> None:
    assert lines_with_errors(checker, "uses_everything.py") == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_each_of_ten_mistakes_is_found(checker: str) -> None:
    text = (FOLDER / "ten_mistakes.py").read_text(encoding="utf-8")
    lines = enumerate(text.splitlines(), 1)
    mistakes = {number for number, line in lines if line.endswith("# MISTAKE")}
    assert len(mistakes) == 10
    assert lines_with_errors(checker, "ten_mistakes.py") == mistakes
