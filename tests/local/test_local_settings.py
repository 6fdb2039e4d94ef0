"""The ``local_*`` settings of the server, used when the provider has no options."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_helpers import request

from choreo_wsgi.errors import InvalidRequest
from choreo_wsgi.local.provider import Local
from choreo_wsgi.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that passes for a model until it is loaded."""
    path = tmp_path / "tiny-model.gguf"
    path.write_bytes(b"GGUF")
    return path


def test_local_model_setting_selects_the_file(file: Path) -> None:
    provider = Local("local", {}, Settings(local_model=str(file)))
    assert provider.models() == ["tiny-model"]
    assert provider.label("any") == "local/tiny-model"
    provider.close()


@pytest.mark.parametrize("slots", [1, 4])
def test_local_context_setting_is_divided_by_the_slots(file: Path, slots: int) -> None:
    settings = Settings(local_model=str(file), local_context=1024, local_slots=slots)
    provider = Local("local", {}, settings)
    with pytest.raises(InvalidRequest, match=f" {1024 // slots} tokens") as caught:
        provider.open(request("x" * 1024 * 256))
    assert caught.value.code == "context_length_exceeded"
    provider.close()
