"""The code blocks of the client's tutorial run unchanged, one after another."""

from __future__ import annotations

import re
import signal

import harness
import pytest
from launched import ROOT
from scripted_provider import Scripted

from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall
from choreo_wsgi.chat.request import ChatRequest
from choreo_wsgi.chat.source import Source, from_deltas

_BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in _BLOCK.findall(text)]


def answer(request: ChatRequest) -> Source:
    """Answer the requests of the page."""
    last = request.messages[-1]
    items: list[Item] = [Delta("one "), Delta("two "), Delta("three"), Finish()]
    if last["role"] == "tool":
        items = [Delta(str(last["content"])), Finish()]
    elif request.body.get("tools"):
        call = ToolCall(0, "call_1", "weather", '{"city": "Paris"}')
        items = [Delta(tool_calls=(call,)), Finish("tool_calls")]
    elif request.body.get("response_format"):
        items = [Delta('{"names": ["Seine", '), Delta('"Po", "Ebro"]}'), Finish()]
    return from_deltas(items)


@pytest.mark.usefixtures("scripted")
def test_tutorial_code_runs(serve, monkeypatch, capsys) -> None:
    for needed in ("pydantic", "trio"):
        pytest.importorskip(needed)
    monkeypatch.setattr(Scripted, "script", staticmethod(answer))
    section = {"type": "scripted", "models": "default"}
    app = harness.make_app({"default_model": "none"}, {"provider scripted": section})
    monkeypatch.setenv("CHOREOAI_BASE_URL", serve(app).url)
    old = signal.getsignal(signal.SIGALRM)
    names: dict[str, object] = {}
    printed = []
    try:
        for block in blocks("client.rst"):
            exec(compile(block, "client.rst", "exec", 0, True), names)
            printed.append(capsys.readouterr().out)
    finally:
        signal.signal(signal.SIGALRM, old)
        app.close()
    assert printed == [
        "one two three\n",
        "one two threestop None\n",
        "one \nso far: one \n",
        "['one two three', 'one two three']\n",
        "22 C in Paris\n",
        "['Seine', 'Po', 'Ebro']\n",
        # The first chunk has the role and an empty text.
        " None\n"
        "{\"names\": [\"Seine\",  {'names': ['Seine']}\n"
        "\"Po\", \"Ebro\"]} {'names': ['Seine', 'Po', 'Ebro']}\n"
        "['Seine', 'Po', 'Ebro']\n",
        "one two three",
        "one two three\n",  # resumed
        "Timeout(connect=5, first_byte=120, idle=30)\n",
        "one two three\n",
        "['one two three', 'one two three']\n",
        "one two three\n",
    ]
