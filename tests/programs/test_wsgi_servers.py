"""Other WSGI servers, started with the commands of the README and the files of ``deploy/``."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import harness
import pytest
from launched import ROOT, Launched, environment, free_port
from raw_server import RawServer
from readme_blocks import command
from real_server import Answer, ask, read_event, read_text, told_ini

PATH = "/v1/chat/completions"

#: The default of ``max_streams``.
MAX_STREAMS = 256

SILENT = "[provider silent]\ntype = echo\ndelay_ms = 3600000\nmodels = silent\n"

#: The address in the README and in the files of ``deploy/``.
SHIPPED = "127.0.0.1:8000"


def _waitress(folder: Path, port: int) -> list[str]:
    return command("waitress-serve")


def _gunicorn(folder: Path, port: int) -> list[str]:
    return command("gunicorn")


def _gunicorn_deploy(folder: Path, port: int) -> list[str]:
    return ["gunicorn", "-c", _copied(folder, port, "gunicorn.conf.py"), "choreo_wsgi:app"]


def _uwsgi(folder: Path, port: int) -> list[str]:
    return _with_python(command("uwsgi"))


def _uwsgi_deploy(folder: Path, port: int) -> list[str]:
    return _with_python(["uwsgi", "--ini", _copied(folder, port, "uwsgi.ini")])


def _wsgiref(folder: Path, port: int) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("wsgiref_program.py")), str(port)]


def _copied(folder: Path, port: int, name: str) -> str:
    """Copy a file of ``deploy/``, with *port* in it; return the copy's path."""
    text = (ROOT / "deploy" / name).read_text()
    assert SHIPPED in text
    (folder / name).write_text(text.replace(SHIPPED, f"127.0.0.1:{port}"))
    return str(folder / name)


def _with_python(words: list[str]) -> list[str]:
    """Return *words* for the installed uWSGI: Debian's has Python in a plugin."""
    uwsgi = harness.require_tool("uwsgi", "uwsgi-core")
    version = subprocess.run([uwsgi, "--version"], capture_output=True, text=True, check=True)
    plugin = ["--plugin", "python3"] if version.stdout.strip().endswith("-debian") else []
    return [words[0], *plugin, *words[1:]]


SERVERS = [_waitress, _gunicorn, _gunicorn_deploy, _uwsgi, _uwsgi_deploy, _wsgiref]


def _launch(make: Callable[[Path, int], list[str]], folder: Path, upstream: RawServer) -> Launched:
    """Start a server with the shipped files, configured by ``CHOREO_CONFIG``."""
    config = folder / "choreo.ini"
    config.write_text(told_ini(upstream) + SILENT)
    port = free_port()
    words = [word.replace(SHIPPED, f"127.0.0.1:{port}") for word in make(folder, port)]
    # Debian's uWSGI runs Debian's Python, which can use our packages, as they are pure Python.
    packages = f"{ROOT}:{sysconfig.get_path('purelib')}"
    env = environment(folder, CHOREO_CONFIG=str(config), PYTHONPATH=packages)
    return Launched(words, port, env, folder / "log", cwd=folder)


@pytest.fixture(scope="module", params=SERVERS, ids=lambda make: make.__name__.strip("_"))
def server(
    request: pytest.FixtureRequest, upstream: RawServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    """Each server in turn."""
    one = _launch(request.param, tmp_path_factory.mktemp("server"), upstream)
    yield one
    one.abandon()


def test_sends_each_frame_before_the_next_arrives(
    server: Launched, answer: Callable[[], Answer]
) -> None:
    with server.connect() as client:
        client.request("POST", PATH, ask())
        reply = answer().begin()
        head = client.read_head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert read_text(client) == ""
        for word in ("once ", "upon ", "ä 🎈"):
            reply.say(word)
            assert read_text(client) == word
        reply.finish()
        event = read_event(client)
        assert isinstance(event, dict) and event["choices"][0]["finish_reason"] == "stop"
        assert read_event(client) == "[DONE]"


def test_disconnect_cancels_the_generation(server: Launched, answer: Callable[[], Answer]) -> None:
    """Between words and before the first."""
    for words in (("one ",), ()):
        with server.connect() as client:
            client.request("POST", PATH, ask())
            reply = answer()
            if words:
                reply.begin()
                assert read_head_and_text(client) == ""
                for word in words:
                    reply.say(word)
                    assert read_text(client) == word
            else:
                # The head leaves with the first ping.
                assert client.read_head().status == 200
                assert client.read_frame() == b": ping\n"
        assert reply.call.is_left()


def read_head_and_text(client: harness.Client) -> str:
    assert client.read_head().status == 200
    return read_text(client)


def test_cut_upstream_becomes_an_error_frame(
    server: Launched, answer: Callable[[], Answer]
) -> None:
    with server.connect() as client:
        client.request("POST", PATH, ask())
        answer().begin().say("half ").call.cut()
        assert client.read_head().status == 200
        frames = list(iter(client.read_frame, b""))
    assert b'"code":"upstream_truncated"' in frames[-1]
    assert b"data: [DONE]\n\n" not in frames


def test_plain_completions_and_errors(server: Launched) -> None:
    with server.connect() as client:
        done = client.exchange("POST", PATH, ask("Hi there", model="echo", stream=False))
        assert done.json()["choices"][0]["message"]["content"] == "Hi there"
    with server.connect() as client:
        bad = client.exchange("POST", PATH, ask(model="unknown"))
        assert (bad.status, bad.error["code"]) == (404, "model_not_found")
    with server.connect() as client:
        # A server that rejects hop-by-hop headers or a body for HEAD would fail here.
        assert client.exchange("HEAD", "/v1/models").body == b""


def test_logs_one_line_per_request(server: Launched) -> None:
    """Like ``choreo-wsgi serve``; rejected requests too, and none twice."""
    with server.connect() as client:
        client.request("POST", PATH, ask("a b", model="echo"), {"x-request-id": "line-1"})
        client.read_head()
        client.read_body()
    with server.connect() as client:
        refused = client.exchange("POST", PATH, ask(model="unknown"), {"x-request-id": "line-2"})
        assert refused.status == 404

    def lines() -> list[str]:
        log = server.log.read_text().splitlines()
        return [line for line in log if "id=line-" in line]

    harness.wait_until(lambda: len(lines()) == 2, "both lines are there")
    done, failed = lines()
    assert " INFO choreo_wsgi.access: id=line-1 method=POST path=/v1/chat/completions " in done
    assert " status=200 outcome=completed api=chat model=echo provider=echo " in done
    assert " tokens_in=2 tokens_out=2 frames=5 client=127.0.0.1" in done
    assert " status=404 outcome=model_not_found " in failed


def test_without_keys_rejects_proxied_requests(server: Launched) -> None:
    """The headers that reveal a proxy reach the application."""
    foreign = {
        "X-Forwarded-For": "192.0.2.1",
        "Forwarded": "for=192.0.2.1",
        "X-Real-IP": "192.0.2.1",
        "Via": "1.1 proxy",
        "Host": "llm.example",
        "Origin": "https://page.example",
    }
    for header in foreign.items():
        with server.connect() as client:
            refused = client.exchange("POST", PATH, ask(model="echo"), [header])
        assert refused.status == 403, header
        assert refused.error["code"] in ("host_not_allowed", "origin_not_allowed"), header


def test_resumes_a_stream(server: Launched, answer: Callable[[], Answer]) -> None:
    """A client that reconnects receives the text that arrived in between."""
    with server.connect() as client:
        client.request("POST", PATH, ask(), {"Choreo-Resumable": "1"})
        reply = answer().begin()
        location = client.read_head().headers["content-location"]
        assert read_text(client) == ""
        reply.say("one ")
        assert read_text(client) == "one "
    reply.say("two ")
    with server.connect() as client:
        client.request("GET", location, headers={"Last-Event-ID": "2"})
        assert read_head_and_text(client) == "two "
        reply.say("three")
        assert read_text(client) == "three"
        reply.finish()
        assert list(iter(client.read_frame, b""))[-1].endswith(b"data: [DONE]\n\n")


def test_gunicorn_finishes_streams_on_sigterm(
    upstream: RawServer, answer: Callable[[], Answer], tmp_path: Path
) -> None:
    one = _launch(_gunicorn_deploy, tmp_path, upstream)
    try:
        with one.connect() as client:
            client.request("POST", PATH, ask())
            reply = answer().begin()
            assert read_head_and_text(client) == ""
            one.process.terminate()
            harness.wait_until(
                lambda: "signal: term" in one.log.read_text(), "gunicorn has the signal"
            )
            reply.say("the end")
            assert read_text(client) == "the end"
            reply.finish()
            assert list(iter(client.read_frame, b""))[-1] == b"data: [DONE]\n\n"
        assert one.process.wait(harness.DEADLINE) == 0
    finally:
        one.abandon()


def test_rejects_streams_beyond_max_streams(server: Launched) -> None:
    """At once, as there are more threads than streams; slots of ended streams are reused."""
    with ExitStack() as stack:
        clients = _open(server, stack, MAX_STREAMS)
        assert len(clients) == MAX_STREAMS
        with server.connect() as extra:
            rejected = extra.exchange("POST", PATH, ask(model="silent"))
        assert (rejected.status, rejected.error["code"]) == (503, "service_overloaded")
        assert int(rejected.headers["retry-after"]) > 0
        with server.connect() as other:
            assert other.exchange("GET", "/healthz").status == 200
        for client in clients:
            assert client.read_frame() == b": ping\n"
    with ExitStack() as stack:
        again: list[harness.Client] = []

        def all_have_begun() -> bool:
            again.extend(_open(server, stack, MAX_STREAMS - len(again)))
            return len(again) == MAX_STREAMS

        harness.wait_until(all_have_begun, "all slots are free again")

    def is_served() -> bool:
        with server.connect() as client:
            return client.exchange("POST", PATH, ask(model="echo")).status == 200

    # The slots become free one by one, and the next test needs one.
    harness.wait_until(is_served, "a slot is free")


def _open(server: Launched, stack: ExitStack, count: int) -> list[harness.Client]:
    """Ask for *count* silent streams at once; return those that began."""
    clients = [stack.enter_context(server.connect()) for _ in range(count)]
    for client in clients:
        client.request("POST", PATH, ask(model="silent"))
    return [client for client in clients if client.read_head().status == 200]
