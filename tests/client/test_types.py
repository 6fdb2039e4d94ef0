"""Type checkers on programs that use the client."""

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


@pytest.fixture(scope="module", params=CHECKERS)
def errors(request: pytest.FixtureRequest) -> dict[str, set[int]]:
    """The lines with errors by program, from one run of a checker for both programs."""
    checker = str(request.param)
    pytest.importorskip(checker, reason=f"{checker} is in the extra `check`")
    programs = ["uses_everything.py", "ten_mistakes.py"]
    command = [sys.executable, "-m", checker, *CHECKERS[checker]]
    command += [str(FOLDER / name) for name in programs]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not ran.stderr, ran.stderr
    found = re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error: ", ran.stdout)
    assert found and ran.returncode == 1, ran.stdout
    assert {name for name, _ in found} <= set(programs), ran.stdout
    return {name: {int(number) for at, number in found if at == name} for name in programs}


@pytest.mark.timeout(300)
def test_program_that_uses_everything_has_no_type_errors(errors: dict[str, set[int]]) -> None:
    assert errors["uses_everything.py"] == set()


@pytest.mark.timeout(300)
def test_type_checkers_report_each_of_ten_mistakes(errors: dict[str, set[int]]) -> None:
    text = (FOLDER / "ten_mistakes.py").read_text(encoding="utf-8")
    lines = enumerate(text.splitlines(), 1)
    mistakes = {number for number, line in lines if line.endswith("# MISTAKE")}
    assert len(mistakes) == 10
    assert errors["ten_mistakes.py"] == mistakes
