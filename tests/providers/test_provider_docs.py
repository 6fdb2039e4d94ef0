"""docs/providers.rst is current, and its example providers work."""

from __future__ import annotations

import importlib.util
import json
import re
import textwrap
from pathlib import Path

import harness
import pytest
from raw_server import RawServer

from choreo_wsgi import sse
from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.providers import registry

DOCS = Path(__file__).parents[2] / "docs"


def test_tables_are_current() -> None:
    spec = importlib.util.spec_from_file_location("providers_tables", DOCS / "providers_tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.page() == (DOCS / "providers.rst").read_text("utf-8")


def example(number: int) -> str:
    """Return the code of the page's example of that *number*."""
    text = (DOCS / "providers.rst").read_text("utf-8")
    found = re.findall(r"^\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text, re.M)
    return textwrap.dedent(found[number])


def install(folder: Path, type: str, name: str, code: str) -> None:
    """Install *code* as a package with an entry point, as the page shows it."""
    (folder / f"{type}_example.py").write_text(code, "utf-8")
    metadata = folder / f"{type}_example-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {type}-example\nVersion: 1\n", "utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        f"[choreo_wsgi.providers]\n{type} = {type}_example:{name}\n", "utf-8"
    )


def test_example_has_at_most_30_lines() -> None:
    assert len(example(0).split("\n")) <= 30


def test_example_provider_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed as a package with the entry point that the page shows."""
    install(tmp_path, "shout", "Shout", example(0))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        app = harness.make_app(sections={"provider shout": {"mark": "?"}})
        with harness.Server(app) as server, server.connect() as client:
            body = {
                "model": "shout/any",
                "messages": [{"role": "user", "content": "hello big world"}],
                "stream": True,
                "stop": "WORLD",
            }
            answer = client.exchange("POST", "/v1/chat/completions", body)
        app.close()
    finally:
        registry.provider_class.cache_clear()
    events = sse.Decoder().receive_data(answer.body)
    assert answer.status == 200
    assert events[-1].data == "[DONE]"
    assert "HELLO? " in answer.body.decode() and "BIG? " in answer.body.decode()
    assert "WORLD" not in answer.body.decode()  # the server applies the stop string


def test_http_example_provider_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "lines", "Lines", example(1))
    monkeypatch.syspath_prepend(str(tmp_path))
    with RawServer() as upstream:
        try:
            with pytest.raises(ConfigurationError, match=r"lines: base_url: .* http://HOST"):
                harness.make_app(sections={"provider lines": {"base_url": "127.0.0.1:9000"}})
            app = harness.make_app(sections={"provider lines": {"base_url": upstream.url}})
            with harness.Server(app) as server:
                for text, status in (
                    (b'{"text": "Hi"}\n{"read": 3, "written": 1}\n', 200),
                    (b'{"text": "Hi"}\n', 502),
                    (b'{"text": 1}\n', 502),
                    (b"<html>no", 502),
                ):
                    with server.connect() as client:
                        messages = [{"role": "user", "content": "hello"}]
                        body = {"model": "lines/m", "messages": messages}
                        client.request("POST", "/v1/chat/completions", body)
                        call = upstream.call()
                        assert json.loads(call.request.body) == {"model": "m", "prompt": "hello"}
                        call.head(kind="application/x-ndjson")
                        call.body(text)
                        call.end()
                        answer = client.read_answer()
                        assert answer.status == status
                        if status == 200:
                            document = json.loads(answer.body)
                            assert document["choices"][0]["message"]["content"] == "Hi"
                            assert document["usage"]["total_tokens"] == 4
            app.close()
        finally:
            registry.provider_class.cache_clear()
