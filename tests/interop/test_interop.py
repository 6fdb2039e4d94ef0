"""Our adapters with third-party servers as upstreams: llama.cpp and the LiteLLM proxy.

``make interop`` runs it.  LiteLLM is installed into ``build/interop``; llama.cpp's server
is the one in the local model's process.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import openai
import pytest
from dialects import DIALECTS
from raw_server import RawServer, Request

from choreo_wsgi.local.fetch import fetch_model
from choreo_wsgi.local.process import Endpoint, Launch, ModelProcess

pytestmark = pytest.mark.interop

#: Pinned: releases of it have been malicious before (PyPI, March 2026: 1.82.7 and 1.82.8).
LITELLM = "litellm[proxy]==1.106.2"
VENV = Path(__file__).parents[2] / "build" / "interop"
#: Seconds; LiteLLM starts slowly on a busy machine.
PATIENCE = 300.0

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="session")
def litellm() -> Path:
    """The LiteLLM program, in a virtual environment that is made once."""
    stamp = VENV / LITELLM.replace("[", "-").replace("]", "")
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", LITELLM], check=True)
        stamp.touch()
    return VENV / "bin" / "litellm"


def fake_openai(request: Request) -> bytes:
    """Return the answer of an OpenAI server: a tool call, or a text that ends by its limit."""
    dialect = DIALECTS["openai"]
    called = request.body and json.loads(request.body)["model"] == "tool"
    cut = dialect.plain_ending.replace(b'"stop"', b'"length"')
    body = dialect.start + dialect.text("Hel") + dialect.text("lo")
    body += dialect.call + dialect.ending if called else cut
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return head.encode() + body


@pytest.fixture(scope="session")
def proxy(litellm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The proxy's URL and key; its upstream is a fake OpenAI server."""
    folder = tmp_path_factory.mktemp("litellm")
    key = "sk-" + secrets.token_urlsafe(48)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with RawServer.playing(fake_openai) as fake:
        # hosted_vllm is OpenAI's chat completions; for openai/ it would use /responses.
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"hosted_vllm/{name}",
                    "api_base": f"{fake.url}/v1",
                    "api_key": "none",
                },
            }
            for name in ("text", "tool")
        ]
        config = folder / "config.yaml"
        config.write_text(json.dumps({"model_list": models}))  # JSON is YAML
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        environment = {**os.environ, **quiet, "LITELLM_MASTER_KEY": key, "HOME": str(folder)}
        command = [litellm, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(f"{url}/health/liveliness", process, folder / "log")
            yield url, key
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"litellm does not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def llama() -> Iterator[Endpoint]:
    """llama.cpp's server with the default model, on a port."""
    launch = Launch(str(fetch_model(print)), slots=1, context=1024)
    process = ModelProcess(launch, unix=False)
    try:
        endpoint = process.run().wait(PATIENCE)
        assert endpoint is not None
        yield endpoint
    finally:
        process.close()


@contextmanager
def client_of(section: dict[str, str]) -> Iterator[openai.OpenAI]:
    """The stock SDK, pointed at our server with the provider of *section*."""
    app = harness.make_app(sections={"provider p": section})
    try:
        with (
            harness.Server(app) as server,
            openai.OpenAI(api_key="x", base_url=f"{server.url}/v1", max_retries=0) as client,
        ):
            yield client
    finally:
        app.close()


def stream(client: openai.OpenAI, model: str, **more: Any) -> list[Any]:
    """Return the chunks of a stream, after a check of the first and the last."""
    messages: Any = [{"role": "user", "content": "Tell me a long story."}]
    usage: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=f"p/{model}", messages=messages, stream=True, stream_options=usage, **more
        )
    )
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    return chunks


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def section(type: str, url: str, key: str) -> dict[str, str]:
    return {"type": type, "base_url": url, "api_key": key}


@pytest.mark.parametrize(("type", "path"), [("openai", "/v1"), ("anthropic", "")])
def test_llama_cpp_streams_until_max_tokens(llama: Endpoint, type: str, path: str) -> None:
    with client_of(section(type, llama.url + path, llama.key)) as client:
        chunks = stream(client, "m", max_tokens=8)
        assert text_of(chunks)
        assert len(chunks) > 4  # not one chunk at the end
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage.completion_tokens == 8
        assert chunks[-1].usage.prompt_tokens > 0


@pytest.mark.parametrize("type", ["anthropic", "gemini"])
def test_litellm_streams_text(proxy: tuple[str, str], type: str) -> None:
    with client_of(section(type, *proxy)) as client:
        chunks = stream(client, "text", max_tokens=20)
        assert text_of(chunks) == "Hello"
        assert chunks[-2].choices[0].finish_reason == "length"


@pytest.mark.parametrize("type", ["anthropic", "gemini"])
def test_litellm_streams_a_tool_call(proxy: tuple[str, str], type: str) -> None:
    with client_of(section(type, *proxy)) as client:
        chunks = stream(client, "tool", tools=[TOOL], max_tokens=20)
        assert text_of(chunks) == "Hello"
        assert chunks[-2].choices[0].finish_reason == "tool_calls"
        calls = [call for chunk in chunks[:-1] for call in chunk.choices[0].delta.tool_calls or ()]
        assert {call.index for call in calls} == {0}
        assert [call.function.name for call in calls if call.id] == ["get_weather"]
        arguments = "".join(call.function.arguments for call in calls)
        assert json.loads(arguments) == {"city": "Paris"}
