"""Every planted fault of ``tests/mutants`` still fits the code that it breaks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.mutants.faults import Fault, read_faults  # noqa: E402

FAULTS = read_faults()


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_it_fits(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text("utf-8")
    planted = fault.planted_in(text)
    assert fault.why and planted != text
    if fault.file.endswith(".py"):
        ast.parse(planted)
    for path in fault.tests:
        if path.startswith("tests/"):
            assert (ROOT / path.partition("::")[0]).exists(), path


def test_each_is_planted_once() -> None:
    seen = [(fault.file, *fault.old, "->", *fault.new) for fault in FAULTS]
    assert len(set(seen)) == len(seen)
