"""The sync client is what the async one says, the objects have the members of openai's."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import unasync


def test_what_is_made_is_as_it_would_be_made_now() -> None:
    pytest.importorskip("ruff", reason="ruff is in the extra `check`")
    wanted = dict(unasync.generated())
    assert {*unasync.TARGET.glob("*.py*")} == {
        path for path in wanted if path.parent == unasync.TARGET
    }
    for path, text in wanted.items():
        made = path.read_text(encoding="utf-8")
        if "types of openai" in made[:100] and f"openai {version('openai')} " not in made:
            continue  # another release: nothing is known of that
        assert made == text, f"{path}: run `make sync`"
