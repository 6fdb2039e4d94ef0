"""/metrics agrees with the requests and frames, in one process and in two."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import Client, Server, make_app, wait_until
from launched import Launched, environment, free_port
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from raw_server import RawServer, sized
from scripted_provider import Script
from wsgi_calls import call, chat

from choreo_wsgi.chat.items import Finish
from choreo_wsgi.errors import ConfigurationError, ProviderError, ProviderUnavailable

CHAT = "/v1/chat/completions"
KEY = "sk-ann"
ANN = {"key ann": {"digest": hashlib.sha256(KEY.encode()).hexdigest()}}
AUTHORIZED = {"HTTP_AUTHORIZATION": f"Bearer {KEY}"}


def parse(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the value of each sample by its name and label values, sorted by label name."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples(app: Any) -> dict[tuple[str, tuple[str, ...]], float]:
    answer = call(app, "GET", "/metrics")
    assert answer.status == 200 and answer.headers["content-type"] == CONTENT_TYPE_LATEST
    return parse(answer.body.decode())


def requests_of(found: dict[Any, float]) -> dict[tuple[str, ...], float]:
    return {
        labels: value for (name, labels), value in found.items() if name == "choreo_requests_total"
    }


def bounds(found: dict[tuple[str, tuple[str, ...]], float], bucket: str) -> list[float]:
    return [float(labels[0]) for name, labels in found if name == bucket]


def test_requests_tokens_and_frames_are_counted() -> None:
    app = make_app({"metrics": "on", "default_model": "none"}, ANN)
    for _ in range(3):
        call(app, "POST", CHAT, chat("one two three", stream=True), **AUTHORIZED)
    call(app, "POST", CHAT, chat("one two", max_tokens=1), **AUTHORIZED)
    call(app, "POST", CHAT, chat("one", model="nobody"), **AUTHORIZED)
    call(app, "POST", CHAT, chat("one"))
    found = samples(app)
    assert requests_of(found) == {
        ("chat", "echo", "completed"): 4,
        ("chat", "", "model_not_found"): 1,
        ("", "", "missing_authorization"): 1,
    }
    assert found["choreo_tokens_total", ("in", "ann", "echo")] == 3 * 3 + 2
    assert found["choreo_tokens_total", ("out", "ann", "echo")] == 3 * 3 + 1
    assert found["choreo_frames_total", ()] == 3 * 6
    assert found["choreo_request_seconds_count", ()] == 6
    assert found["choreo_first_token_seconds_count", ()] == 3
    assert found["choreo_active_streams", ()] == found["choreo_heartbeats_total", ()] == 0
    assert bounds(found, "choreo_request_seconds_bucket") == [
        *(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, math.inf)
    ]
    assert bounds(found, "choreo_frame_gap_seconds_bucket") == [
        *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, math.inf)
    ]
    assert samples(app)["choreo_requests_total", ("", "", "ok")] == 1  # the scrape before


def test_gaps_and_seconds_agree_with_the_log(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "choreo_wsgi")
    slow = {"type": "echo", "delay_ms": "20", "models": "slow"}
    app = make_app({"metrics": "on"}, {"provider slow": slow})
    with serve(app).connect() as client:
        client.request("POST", CHAT, chat("w " * 10, model="slow", stream=True))
        client.read_head()
        blocks = len(list(iter(client.read_chunk, b"")))

    def lines() -> list[dict[str, Any]]:
        return [record.account for record in caplog.records if hasattr(record, "account")]

    wait_until(lines, "the line is logged")
    line = lines()[0]
    found = samples(app)
    assert found["choreo_frame_gap_seconds_count", ()] == blocks - 1
    seconds = found["choreo_request_seconds_sum", ()]
    assert abs(seconds - line["seconds"]) < 0.001
    assert abs(found["choreo_first_token_seconds_sum", ()] - line["first"]) < 0.001
    gaps, first = found["choreo_frame_gap_seconds_sum", ()], line["first"]
    assert 0 < gaps <= seconds - first + 0.001
    # Each gap is in its bucket: the sum is at least that of the buckets' lower bounds.
    least = bound = before = 0.0
    for (name, labels), count in found.items():
        if name == "choreo_frame_gap_seconds_bucket":
            least += (count - before) * bound
            bound, before = float(labels[0]), count
    assert gaps / 4 <= least <= gaps and before == blocks - 1


def test_gauges_report_streams_orphans_and_readers(
    serve: Callable[..., Server], scripted: Callable[[], Script]
) -> None:
    app = make_app(
        {"metrics": "on", "heartbeat_seconds": "0.1"},
        {"provider s": {"type": "scripted", "models": "s"}},
    )
    server = serve(app)
    script = scripted()
    client = server.connect()
    client.request("POST", CHAT, chat("x", model="s", stream=True), {"Choreo-Resumable": "1"})
    id = client.read_head().headers["choreo-stream-id"]
    assert client.read_frame() == client.read_frame() == b": ping\n"
    assert samples(app)["choreo_active_streams", ()] == 1
    client.reset()
    wait_until(lambda: samples(app)["choreo_orphans", ()] == 1, "the stream is an orphan")
    wait_until(lambda: samples(app)["choreo_client_disconnects_total", ()] == 1, "it is counted")
    with server.connect() as again:
        again.request("GET", f"/v1/streams/{id}")
        assert again.read_head().status == 200
        again.read_frame()
        assert samples(app)["choreo_readers", ()] == 1
    wait_until(lambda: samples(app)["choreo_readers", ()] == 0, "the reader has disconnected")
    found = samples(app)
    assert found["choreo_active_streams", ()] == 1  # it keeps its slot
    assert found["choreo_heartbeats_total", ()] >= 2
    script.finish()
    wait_until(lambda: samples(app)["choreo_active_streams", ()] == 0, "the stream has ended")
    app.close()


@pytest.mark.parametrize("stream", [True, False])
def test_failure_before_the_stream_is_counted_by_its_code(
    scripted: Callable[[], Script], stream: bool
) -> None:
    app = make_app({"metrics": "on"}, {"provider a": {"type": "scripted", "models": "m"}})
    scripted().say(ProviderError("too long", status=400, code="too_long"))
    assert call(app, "POST", CHAT, chat("x", model="m", stream=stream)).status == 400
    assert requests_of(samples(app)) == {("chat", "m", "too_long"): 1}


def test_disconnect_before_the_head_is_counted(scripted: Callable[[], Script]) -> None:
    scripted()
    app = make_app({"metrics": "on"}, {"provider s": {"type": "scripted", "models": "echo"}})
    disconnected: Any = {"waitress.client_disconnected": lambda: True}
    call(app, "POST", CHAT, chat("one"), **disconnected)
    assert samples(app)["choreo_client_disconnects_total", ()] == 1


@pytest.mark.parametrize("stream", [True, False])
def test_failovers_and_open_breakers_are_reported(
    scripted: Callable[[], Script], stream: bool
) -> None:
    app = make_app(
        {"metrics": "on"},
        {
            "provider a": {"type": "scripted", "models": "m", "priority": "1"},
            "provider b": {"type": "echo", "models": "m", "priority": "2"},
        },
    )
    for _ in range(6):
        scripted().say(ProviderUnavailable("down"))
        assert call(app, "POST", CHAT, chat("x", model="m", stream=stream)).status == 200
    found = samples(app)
    assert found["choreo_failovers_total", ("m",)] == 5  # then the circuit is open
    (target,) = [labels[0] for name, labels in found if name == "choreo_breaker_open"]
    assert target.startswith("a") and found["choreo_breaker_open", (target,)] == 1


def test_each_failed_target_of_a_request_is_counted(scripted: Callable[[], Script]) -> None:
    kinds = {"a": "scripted", "b": "scripted", "c": "echo"}
    app = make_app(
        {"metrics": "on"},
        {
            f"provider {name}": {"type": kind, "models": "m", "priority": str(number)}
            for number, (name, kind) in enumerate(kinds.items(), 1)
        },
    )
    for _ in range(2):
        scripted().say(ProviderUnavailable("down"))
    assert call(app, "POST", CHAT, chat("x", model="m")).status == 200
    assert samples(app)["choreo_failovers_total", ("m",)] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_breaker_gauge_falls_when_the_circuit_closes(
    scripted: Callable[[], Script], stream: bool
) -> None:
    both = {"type": "scripted", "models": "m"}
    app = make_app(
        {"metrics": "on"},
        {"provider a": {**both, "priority": "1"}, "provider b": {**both, "priority": "2"}},
    )
    for _ in range(5):
        for _ in both:
            scripted().say(ProviderUnavailable("down"))
        assert call(app, "POST", CHAT, chat("x", model="m", stream=stream)).status == 503
    found = samples(app)
    assert found["choreo_failovers_total", ("m",)] == 5
    assert [found[one] for one in found if one[0] == "choreo_breaker_open"] == [1, 1]
    scripted().finish("x", Finish())
    assert call(app, "POST", CHAT, chat("x", model="m", stream=stream)).status == 200
    found = samples(app)
    assert sorted(found[one] for one in found if one[0] == "choreo_breaker_open") == [0, 1]


def test_open_circuits_beyond_the_first_200_are_reported_as_other() -> None:
    """A caller can make their names up: provider/name."""
    app = make_app({"metrics": "on"}, {"provider a": {"type": "echo", "models": "m"}})
    for number in range(300):
        for _ in range(app.breakers.failures):
            app.breakers.failed(f"a/{number}")
    found = [one for one in samples(app).items() if one[0][0] == "choreo_breaker_open"]
    assert len(found) == 201 and (("choreo_breaker_open", ("other",)), 1) in found
    for number in range(300):
        app.breakers.succeeded(f"a/{number}")
    assert {value for (name, _), value in samples(app).items() if "breaker" in name} == {0}


def test_gauges_are_read_by_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app: Any = make_app({"metrics": "on"}, {"provider a": {"type": "echo", "models": "m"}})
    metrics = app.observers[0]
    monkeypatch.setattr(app.breakers, "open_circuits", lambda: {"a"})
    gauge = metrics._metrics["breaker_open"]
    real = gauge.labels

    def labels(target: str) -> Any:
        metrics._failing.add(f"{target}, in the other thread")
        return real(target)

    monkeypatch.setattr(gauge, "labels", labels)
    assert samples(app)["choreo_breaker_open", ("a",)] == 1


def test_unreachable_replay_store_is_counted() -> None:
    """A request that fails because of it is counted; nothing listens at the address."""
    app = make_app({"metrics": "on", "replay": f"redis://127.0.0.1:{free_port()}"})
    answer = call(app, "GET", "/v1/streams/strm_" + "x" * 32)
    assert (answer.status, answer.error["code"]) == (503, "replay_unavailable")
    found = samples(app)
    assert found["choreo_replay_errors_total", ()] == 1
    assert found["choreo_replay_reachable", ()] == 0
    app.close()


@pytest.mark.parametrize("name", ["metrics", "otel"])
def test_missing_extra_is_named_at_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"metrics": "prometheus_client", "otel": "opentelemetry"}[name]
    monkeypatch.delitem(sys.modules, f"choreo_wsgi.app.{name}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=f"{name}: needs the extra {name}: pip install"):
        make_app({name: "on"})


def test_model_labels_are_bounded() -> None:
    app = make_app({"metrics": "on"}, {"provider e": {"type": "echo", "models": "*"}})
    for number in range(230):
        assert call(app, "POST", CHAT, chat("x", model=f"m{number}")).status == 200
    models = {labels[1]: value for labels, value in requests_of(samples(app)).items()}
    assert len(models) <= 202 and models["other"] >= 29


def test_outcome_labels_are_bounded(upstream: Callable[..., RawServer]) -> None:
    """Errors of the request keep the code of the provider."""
    numbers = iter(range(300))
    server = upstream(
        lambda peer: peer.send(
            sized(b'{"error":{"code":"odd_%d","message":"no"}}' % next(numbers), "400 Bad Request")
        )
    )
    options = {"type": "openai", "base_url": server.url, "models": "m"}
    app = make_app({"metrics": "on"}, {"provider p": options})
    for _ in range(230):
        assert call(app, "POST", CHAT, chat("x", model="m")).status == 400
    assert call(app, "POST", CHAT, chat("x")).status == 200
    outcomes = {labels[2]: value for labels, value in requests_of(samples(app)).items()}
    app.close()
    assert len(outcomes) <= 202 and outcomes["other"] >= 29 and outcomes["completed"] == 1


def test_metrics_access_is_restricted() -> None:
    off = call(make_app({}), "GET", "/metrics")
    assert (off.status, off.error["code"]) == (404, "endpoint_not_found")
    local = make_app({"metrics": "on"}, ANN)
    assert call(local, "GET", "/metrics").status == 200
    for more in ({"REMOTE_ADDR": "10.0.0.1"}, {"HTTP_X_FORWARDED_FOR": "1.2.3.4"}):
        refused = call(local, "GET", "/metrics", **more, **AUTHORIZED)
        assert (refused.status, refused.error["code"]) == (403, "host_not_allowed")
        assert "metrics_key" in refused.error["message"]
    foreign = make_app({"metrics": "on", "metrics_key": "schlüssel"}, ANN)
    sent = "Bearer schlüssel".encode().decode("latin-1")  # as WSGI passes it
    assert call(foreign, "GET", "/metrics", HTTP_AUTHORIZATION=sent).status == 200
    keyed = make_app({"metrics": "on", "metrics_key": "sk-watch"}, ANN)
    far = {"REMOTE_ADDR": "10.0.0.1"}
    assert call(keyed, "GET", "/metrics", **far).status == 401
    assert call(keyed, "GET", "/metrics", **far, **AUTHORIZED).status == 401
    watch = {"HTTP_AUTHORIZATION": "Bearer sk-watch"}
    assert call(keyed, "GET", "/metrics", **far, **watch).status == 200
    assert call(keyed, "GET", "/v1/models", **watch).status == 401


# -- two processes -------------------------------------------------------------------------


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What is closed at the end of the test, however it ends."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Launched]:
    """gunicorn with two worker processes."""
    config = tmp_path / "choreo.ini"
    config.write_text(
        "[choreo]\nmetrics = on\nheartbeat_seconds = 0.2\n"
        "[provider slow]\ntype = echo\ndelay_ms = 60000\nmodels = slow\n"
    )
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "histogram_0.db").touch()  # of a process that is just starting
    env = environment(tmp_path, CHOREO_CONFIG=str(config), PROMETHEUS_MULTIPROC_DIR=str(folder))
    port = free_port()
    words = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "gthread",
        "-w",
        "2",
        "--threads",
        "16",
        "-b",
        f"127.0.0.1:{port}",
    ]
    one = Launched([*words, "choreo_wsgi:app"], port, env, tmp_path / "log", tmp_path)
    wait_until(lambda: len(list(folder.glob("counter_*"))) == 2, "both have loaded the app", 60)
    yield one
    one.abandon()


IDLE = """
import time
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from harness import make_app
from wsgi_calls import call, chat

app, others = make_app({"metrics": "on"}), CollectorRegistry()
MultiProcessCollector(others)
app.gauges["active_streams"] = lambda: 3
call(app, "POST", "/v1/chat/completions", chat("x"))
deadline = time.monotonic() + 20
while others.get_sample_value("choreo_active_streams") != 3:
    assert time.monotonic() < deadline
"""


def test_idle_process_updates_its_gauges(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", IDLE], env=env, timeout=60, check=True)


MERGED = """
import os
from harness import make_app
from wsgi_calls import call, chat

def answer(value):
    names = [*app.gauges, "carried_streams", "loop_lag_seconds"]
    app.gauges.update(dict.fromkeys(names, lambda: value))
    app.breakers.open_circuits = lambda: {"a"}
    call(app, "POST", "/v1/chat/completions", chat("x"))

app = make_app({"metrics": "on"})
answer(2)
for role in (lambda: answer(3), lambda: make_app({"metrics": "on"})):
    if not os.fork():
        role()
        os._exit(0)
    os.wait()
print(call(app, "GET", "/metrics").body.decode())
"""


def test_gauges_of_three_processes_are_merged(tmp_path: Path) -> None:
    """Sums, the longest lag, and whether all reach the log; the third has had no request."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    (tmp_path / "histogram_0.db").touch()  # of a process that is just starting
    words = [sys.executable, "-c", MERGED]
    found = parse(subprocess.run(words, env=env, timeout=60, check=True, stdout=-1).stdout.decode())
    for name in ("active_streams", "orphans", "readers", "carried_streams"):
        assert found[f"choreo_{name}", ()] == 5, name
    assert found["choreo_loop_lag_seconds", ()] == 3
    assert found["choreo_replay_reachable", ()] == 1
    assert found["choreo_breaker_open", ("a",)] == 1
    assert found["choreo_requests_total", ("chat", "echo", "completed")] == 2
    assert found["choreo_request_seconds_bucket", ("+Inf",)] == 2


def test_two_processes_report_common_values(gunicorn: Launched, opened: ExitStack) -> None:
    """Whichever is scraped: a persistent connection stays with one process."""
    address = ("127.0.0.1", gunicorn.port)
    scraper = opened.enter_context(Client(address))

    def scrape() -> dict[tuple[str, tuple[str, ...]], float]:
        answer = scraper.exchange("GET", "/metrics")
        assert answer.status == 200
        return parse(answer.body.decode())

    # A process's gauges are 0 until it has set them for the first time.
    wait_until(lambda: scrape()["choreo_replay_reachable", ()] == 1, "both processes report", 30)
    clients = [opened.enter_context(Client(address)) for _ in range(8)]
    for client in clients:
        client.request("POST", CHAT, chat("w w", model="slow", stream=True))
    wait_until(lambda: scrape()["choreo_active_streams", ()] == 8, "both report streams", 30)
    for client in clients:
        client.reset()
    wait_until(lambda: scrape()["choreo_active_streams", ()] == 0, "both report streams", 30)
    wait_until(lambda: scrape()["choreo_client_disconnects_total", ()] == 8, "all are counted", 30)
    for number in range(8):
        with Client(address) as client:
            body = chat("w " * 40, model="echo", stream=True)
            client.request("POST", CHAT, body, {"Connection": "close"})
            assert client.read_head().status == 200
            assert client.read_body().endswith(b"data: [DONE]\n\n"), number
    wait_until(lambda: ("chat", "echo", "completed") in requests_of(scrape()), "one is counted")
    wait_until(lambda: requests_of(scrape())["chat", "echo", "completed"] == 8, "all are counted")
    found = scrape()
    assert requests_of(found)["chat", "slow", "client_closed"] == 8
    assert found["choreo_tokens_total", ("out", "", "echo")] == 8 * 40
    assert found["choreo_first_token_seconds_count", ()] == 8

    def lines() -> int:
        return gunicorn.log.read_text().count(" path=/v1/chat/completions status=200 outcome=comp")

    wait_until(lambda: lines() == 8, "each has its log line")
    log = gunicorn.log.read_text()
    workers = set(re.findall(r"Booting worker with pid: (\d+)", log))
    assert len(workers) == 2
    files = {re.sub(r"\D", "", path.name) for path in (gunicorn.log.parent / "metrics").iterdir()}
    assert files == workers | {"0"}, "both processes have written metrics"
    assert found["choreo_replay_reachable", ()] == 1
