"""docs/providers.rst is current, and the provider in it works as it stands there."""

from __future__ import annotations

import importlib.util
import re
import textwrap
from pathlib import Path

import harness
import pytest

from choreo_wsgi import sse
from choreo_wsgi.providers import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_are_current() -> None:
    spec = importlib.util.spec_from_file_location("providers_tables", DOCS / "providers_tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.page() == (DOCS / "providers.rst").read_text("utf-8")


def example() -> str:
    """Return the text of the page's provider."""
    text = (DOCS / "providers.rst").read_text("utf-8")
    found = re.search(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.M)
    assert found is not None
    return textwrap.dedent(found[1])


def test_example_is_short() -> None:
    assert len(example().split("\n")) <= 30


def test_example_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's text, installed as a package with the entry point that the page shows."""
    (tmp_path / "shout_example.py").write_text(example(), "utf-8")
    metadata = tmp_path / "shout_example-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shout-example\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[choreo_wsgi.providers]\nshout = shout_example:Shout\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        app = harness.make_app(sections={"provider shout": {"mark": "?"}})
        with harness.Server(app) as server, server.connect() as client:
            asked = {
                "model": "shout/any",
                "messages": [{"role": "user", "content": "hello big world"}],
                "stream": True,
                "stop": "WORLD",
            }
            answer = client.exchange("POST", "/v1/chat/completions", asked)
        app.close()
    finally:
        registry.provider_class.cache_clear()
    events = sse.Decoder().receive_data(answer.body)
    assert answer.status == 200
    assert events[-1].data == "[DONE]"
    assert "HELLO? " in answer.body.decode() and "BIG? " in answer.body.decode()
    assert "WORLD" not in answer.body.decode()  # the stop string is done for it
