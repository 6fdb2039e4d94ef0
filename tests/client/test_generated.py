"""The generated files: the sync client, and the objects with the members of openai's."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import unasync


def test_generated_files_are_up_to_date() -> None:
    pytest.importorskip("ruff", reason="ruff is in the extra `check`")
    expected = dict(unasync.generated())
    assert {*unasync.TARGET.glob("*.py*")} == {
        path for path in expected if path.parent == unasync.TARGET
    }
    for path, text in expected.items():
        found = path.read_text(encoding="utf-8")
        if "types of openai" in found[:100] and f"openai {version('openai')} " not in found:
            continue  # another release has other types
        assert found == text, f"{path}: run `make sync`"
