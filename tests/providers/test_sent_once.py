"""A request that the provider may have begun is never sent twice, in any API."""

from __future__ import annotations

import threading

import harness
import pytest
from raw_server import Peer, RawServer, sized

MESSAGES = [{"role": "user", "content": "hi"}]
PATHS = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
}


CHAT, RESPONSES, MESSAGES_PATH, COMPLETIONS, EMBEDDINGS = PATHS
BEGUN = (b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n\r\n", sized(b'{"a":1}')[:-3])


@pytest.mark.parametrize(
    ("path", "provider", "begun"),
    [
        *((CHAT, "openai", begun) for begun in BEGUN),
        *((CHAT, one, BEGUN[2]) for one in ("anthropic", "gemini", "ollama")),
        # Forwarded unchanged, then translated.
        *((path, "openai", BEGUN[2]) for path in (RESPONSES, COMPLETIONS, EMBEDDINGS)),
        (MESSAGES_PATH, "anthropic", BEGUN[2]),
        (RESPONSES, "gemini", BEGUN[2]),
        (MESSAGES_PATH, "ollama", BEGUN[2]),
    ],
)
def test_never_resends_when_a_reused_connection_breaks_mid_answer(
    path: str, provider: str, begun: bytes
) -> None:
    """The first request leaves the connection open; the second's answer is cut on it."""
    requests, reused = threading.Semaphore(0), threading.Event()

    def play(peer: Peer) -> None:
        requests.release()
        if not reused.is_set():
            reused.set()
            peer.send(sized(b'{"error":{"message":"no"}}', "400 No"))
        else:
            peer.send(begun)
            peer.cut()

    with RawServer(play) as upstream:
        url = upstream.base_url if provider == "openai" else upstream.url
        options = {"base_url": url, "api_key": "k", "models": "m", "type": provider}
        if provider == "openai":
            options |= {"apis": "chat, responses, messages", "usage": "off"}
        app = harness.make_app(sections={"provider up": options})
        try:
            with harness.Server(app) as server, server.connect() as client:
                client.request("POST", path, {"model": "m", **PATHS[path]})
                assert client.read_answer().status == 400
                client.request("POST", path, {"model": "m", **PATHS[path]})
                assert client.read_answer().status == 502
        finally:
            app.close()
        assert requests.acquire(blocking=False) and requests.acquire(blocking=False)
        assert not requests.acquire(blocking=False)
