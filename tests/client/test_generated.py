"""The sync client is what the async one says."""

from __future__ import annotations

import pytest
import unasync


def test_the_sync_client_is_made_from_the_async_one() -> None:
    pytest.importorskip("ruff", reason="ruff is in the extra `check`")
    wanted = unasync.generated()
    assert {path.name for path in unasync.TARGET.glob("*.py")} == {path.name for path in wanted}
    for path, text in wanted.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run `make sync`"
