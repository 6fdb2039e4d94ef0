"""The sync client is what the async one says, the stub of the objects what their table says."""

from __future__ import annotations

import pytest
import unasync


def test_what_is_made_is_as_it_would_be_made_now() -> None:
    pytest.importorskip("ruff", reason="ruff is in the extra `check`")
    wanted = dict(unasync.generated())
    assert {*unasync.TARGET.glob("*.py")} == {path for path in wanted if path.suffix == ".py"}
    for path, text in wanted.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `make sync`"
