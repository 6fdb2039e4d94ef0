"""``choreo-wsgi check`` through real proxies, each with one wrong setting."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import harness
import pytest
from launched import Launched, free_port, running
from raw_server import RawServer, certificate
from real_server import KEY

from choreo_wsgi import doctor
from choreo_wsgi.errors import ChoreoError

NGINX = """
worker_processes 1; pid FOLDER/pid; error_log FOLDER/error.log; daemon off;
events { worker_connections 100; }
http {
    access_log off;
    client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
    server {
        listen 127.0.0.1:FRONT;
        location / {
            proxy_pass http://127.0.0.1:BACK;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            WRONG
        }
    }
}
"""
HTTP_1_1 = 'proxy_http_version 1.1; proxy_set_header Connection "";'
HAPROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    option forwardfor
frontend front
    bind 127.0.0.1:FRONT
    default_backend back
backend back
    server one 127.0.0.1:BACK
    WRONG
"""
CADDY = """
{
    admin off
    auto_https off
}
http://127.0.0.1:FRONT {
    WRONG
}
"""

APACHE = "\n".join(
    [
        *("ServerRoot FOLDER", "ServerName localhost", "PidFile FOLDER/pid", "ErrorLog FOLDER/log"),
        *("Listen 127.0.0.1:FRONT", "Mutex file:FOLDER"),
        *(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so"
            for name in ("mpm_event", "authz_core", "filter", "deflate", "env", "proxy")
        ),
        "LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so",
        "WRONG",
    ]
)


class Case(NamedTuple):
    """A proxy, its wrong setting, the exit status, and words of the printed finding."""

    program: str
    wrong: str
    status: int
    words: tuple[str, ...] = ()
    heartbeat: str = "0.5"
    seconds: str = "2"


CASES = {
    "nginx-correct": Case(
        "nginx",
        HTTP_1_1 + "proxy_buffering off; proxy_read_timeout 330s;",
        0,
        ("answers through nginx", "one by one", "HTTP/1.1 all the way", "heartbeats pass"),
    ),
    "nginx-buffers": Case(
        "nginx",
        # With HTTP/1.0, as it forwards each chunk of HTTP/1.1 at once in any case.
        "proxy_ignore_headers X-Accel-Buffering;",
        3,
        ("buffering: frames arrive in bursts", "nginx: proxy_buffering off;"),
    ),
    "nginx-compresses": Case(
        "nginx",
        HTTP_1_1 + "gzip on; gzip_proxied any; gzip_min_length 0; gzip_types text/event-stream;",
        4,
        ("compression: ", "gzip", "nginx: gzip_types"),
    ),
    "nginx-http-1.0": Case("nginx", "", 5, ("HTTP/1.0", "nginx: proxy_http_version 1.1;")),
    "nginx-without-chunks": Case(
        "nginx",
        HTTP_1_1 + "chunked_transfer_encoding off;",
        5,
        ("one by one", "HTTP/1.0 or no chunks", "chunked_transfer_encoding on;"),
    ),
    "nginx-times-out": Case(
        "nginx",
        HTTP_1_1 + "proxy_read_timeout 1s;",
        6,
        ("time-out: a plain answer is aborted after 1.", "HTTP 504", "proxy_read_timeout 330s;"),
    ),
    "nginx-times-out-with-streams": Case(
        "nginx",
        HTTP_1_1 + "proxy_read_timeout 1s;",
        6,
        ("time-out: a silent stream is aborted", "proxy_read_timeout 330s;"),
        heartbeat="9",
    ),
    "nginx-removes-heartbeats": Case(
        "nginx",
        HTTP_1_1 + "sub_filter_types text/event-stream; sub_filter_once off;"
        " sub_filter ': ping\\n' '';",
        7,
        ("no heartbeat arrived",),
    ),
    "nginx-ignores-disconnects": Case(
        "nginx",
        HTTP_1_1 + "proxy_ignore_headers X-Accel-Buffering; proxy_store FOLDER/kept;",
        8,
        ("a client that leaves is not noticed", "nginx: proxy_ignore_client_abort off;"),
    ),
    "haproxy-correct": Case("haproxy", "", 0, ("through a proxy", "one by one")),
    "haproxy-buffers": Case(
        "haproxy", "http-response wait-for-body time 20s", 3, ("haproxy: no http-response",)
    ),
    # It respects no-transform, so it does not compress streams.
    "haproxy-compresses-but-not-streams": Case(
        "haproxy",
        "compression algo gzip\n    compression type text/event-stream",
        0,
        ("one by one",),
    ),
    "haproxy-times-out": Case(
        "haproxy", "timeout server 1s", 6, ("a plain answer", "haproxy: timeout server 330s")
    ),
    "apache-correct": Case(
        "apache2", "ProxyPass / http://127.0.0.1:BACK/ timeout=330", 0, ("through Apache",)
    ),
    "apache-compresses": Case(
        "apache2",
        "ProxyPass / http://127.0.0.1:BACK/ timeout=330\nSetOutputFilter DEFLATE",
        4,
        ("Apache: SetEnvIf",),
    ),
    "apache-http-1.0": Case(
        "apache2",
        "SetEnv force-proxy-request-1.0\nProxyPass / http://127.0.0.1:BACK/ timeout=330",
        5,
        ("Apache: no SetEnv",),
    ),
    "apache-times-out": Case(
        "apache2",
        "ProxyPass / http://127.0.0.1:BACK/ timeout=1",
        6,
        ("a plain answer", "Apache: ProxyPass with timeout=330"),
    ),
    "caddy-correct": Case("caddy", "reverse_proxy 127.0.0.1:BACK", 0, ("through Caddy",)),
    "caddy-compresses-but-not-streams": Case(
        "caddy", "encode gzip\nreverse_proxy 127.0.0.1:BACK", 0, ("one by one",)
    ),
    "caddy-buffers": Case(
        "caddy",
        "reverse_proxy 127.0.0.1:BACK {\nbuffer_responses\n}",
        3,
        ("Caddy: reverse_proxy without",),
    ),
    "caddy-compresses": Case(
        "caddy",
        "encode gzip {\nmatch header Content-Type text/event-stream*\nminimum_length 1\n}\n"
        "reverse_proxy 127.0.0.1:BACK {\nheader_down -Cache-Control\n}",
        4,
        ("Caddy: encode without text/event-stream",),
    ),
    # It does not use gzip, which the check requests first, but it compresses for browsers.
    "caddy-compresses-for-browsers": Case(
        "caddy",
        "encode zstd {\nmatch header Content-Type text/event-stream*\nminimum_length 1\n}\n"
        "reverse_proxy 127.0.0.1:BACK {\nheader_down -Cache-Control\n}",
        4,
        ("one by one", "compressed with zstd", "Caddy: encode without text/event-stream"),
    ),
    "caddy-times-out": Case(
        "caddy",
        "reverse_proxy 127.0.0.1:BACK {\ntransport http {\nresponse_header_timeout 1s\n}\n}",
        6,
        ("a plain answer", "Caddy: transport http"),
    ),
}

COMMANDS = {
    "nginx": (NGINX, ["nginx", "-e", "FOLDER/error.log", "-c", "FILE"]),
    "haproxy": (HAPROXY, ["haproxy", "-f", "FILE"]),
    "apache2": (APACHE, ["apache2", "-f", "FILE", "-DFOREGROUND"]),
    "caddy": (CADDY, ["caddy", "run", "--config", "FILE", "--adapter", "caddyfile"]),
}

Result = subprocess.CompletedProcess[str]


def check(url: str, *arguments: str, **environment: str) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "choreo_wsgi", "check", url, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=3 * harness.DEADLINE,
        check=False,
    )


def examine(case: Case, back: int, folder: Path) -> Result:
    """Run the check through the proxy of *case* in front of the server at the port *back*."""
    template, command = COMMANDS[case.program]
    front = free_port()
    if os.geteuid() == 0:  # their workers must be able to write to our folder
        template = {"nginx": "user root;\n", "apache2": "User nobody\n"}.get(
            case.program, ""
        ) + template
    text = template.replace("WRONG", case.wrong).replace("FOLDER", str(folder))
    file = folder / "config"
    file.write_text(text.replace("FRONT", str(front)).replace("BACK", str(back)))
    arguments = [word.replace("FOLDER", str(folder)).replace("FILE", str(file)) for word in command]
    proxy = Launched(arguments, front, {**os.environ, "HOME": str(folder)}, folder / "log")
    try:
        return check(proxy.url, "--key", KEY, "--seconds", case.seconds)
    finally:
        proxy.abandon()


@pytest.fixture(scope="module")
def checked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Result]]:
    """``checked(name)``: the result of a case.  The selected ones run in parallel: they wait."""
    selected = {item.name for item in request.session.items}
    back = {}
    with ThreadPoolExecutor(6) as pool:
        servers = []
        for heartbeat in sorted({case.heartbeat for case in CASES.values()}):
            ini = f"[choreo]\napi_keys = {KEY}\nheartbeat_seconds = {heartbeat}\n"
            server = running(tmp_path_factory.mktemp("serve"), ini)
            back[heartbeat] = server.__enter__().port
            servers.append(server)
        found: dict[str, Future[Result]] = {
            name: pool.submit(examine, case, back[case.heartbeat], tmp_path_factory.mktemp(name))
            for name, case in CASES.items()
            if f"test_check_diagnoses_the_proxy[{name}]" in selected
        }
        yield lambda name: found[name].result()
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("name", CASES)
def test_check_diagnoses_the_proxy(
    name: str, checked: Callable[[str], Result], require_tool: Callable[[str, str], str]
) -> None:
    case = CASES[name]
    require_tool(case.program, case.program)
    result = checked(name)
    assert result.stderr == ""
    assert result.returncode == case.status, result.stdout
    for word in case.words:
        assert word in result.stdout
    assert ("FOUND" in result.stdout) == bool(case.status)


def test_check_passes_without_a_proxy(keyed_server: Launched) -> None:
    result = check(keyed_server.url, "--key", KEY, "--seconds", "1")
    assert result.returncode == 0, result.stdout
    for word in ("answers directly", "one by one", "a client that leaves is noticed", "heartbeats"):
        assert word in result.stdout


def test_one_late_frame_is_not_reported_as_buffering() -> None:
    app = harness.make_app({"default_model": "echo", "heartbeat_seconds": "0.5"})
    streams = []

    def busy(environ: Any, start_response: Any) -> Iterator[bytes]:
        """Delay a word of the first stream."""
        streams.append(environ)
        is_first = len(streams) == 1
        with contextlib.closing(app(environ, start_response)) as blocks:  # type: ignore[type-var]
            for number, block in enumerate(blocks):
                if is_first and number == 3:
                    time.sleep(1)
                yield block

    with harness.Server(busy) as server:
        found = list(doctor.examine(doctor.Route(server.url, "", "echo"), 0.5))
    app.close()
    assert not any(status for status, _ in found), found


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--key", "wrong"], 1, "HTTP 401"),
        (["--key", KEY, "--model", "unknown"], 1, "HTTP 404"),
        ([], 1, "HTTP 401"),
    ],
)
def test_check_reports_http_errors(
    keyed_server: Launched, arguments: list[str], status: int, message: str
) -> None:
    result = check(keyed_server.url, *arguments)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("url", "status", "message"),
    [
        ("http://127.0.0.1:FREE", 1, "refused"),
        ("127.0.0.1:8000", 2, "http://HOST"),
        ("http://127.0.0.1:port", 2, "http://HOST"),
        ("http://127.0.0.1/\u00fc", 2, "ASCII"),
        ("http://no-such-host.invalid", 1, "[Errno -"),
    ],
)
def test_check_reports_unusable_addresses(url: str, status: int, message: str) -> None:
    result = check(url.replace("FREE", str(free_port())))
    assert result.returncode == status
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("end", ["/", "/v1", "/v1/", "/v1/chat/completions"])
def test_address_may_have_the_path_of_the_api(keyed_server: Launched, end: str) -> None:
    answer = doctor.Route(keyed_server.url + end, KEY, "echo").request(1)
    assert (answer.status, answer.wrong, len(answer.words)) == (200, "", 1)


def test_server_of_another_protocol_is_reported() -> None:
    with RawServer.playing(b"SSH-2.0-x\r\n") as server:
        answer = doctor.Route(server.url, "", "echo").request(1)
    assert answer.wrong == "the server does not speak HTTP"


def test_https_to_a_server_of_plain_http_is_reported(keyed_server: Launched) -> None:
    answer = doctor.Route(keyed_server.url.replace("http:", "https:"), KEY, "echo").request(1)
    assert answer.wrong == "the server does not speak https"


@pytest.mark.parametrize("status", [503, 504])
def test_only_a_gateway_status_is_a_time_out(status: int) -> None:
    def refuse(environ: Any, start_response: Any) -> list[bytes]:
        start_response(f"{status} No", [("Content-Length", "2")])
        return [b"{}"]

    with harness.Server(refuse) as server:
        findings = doctor._silence(doctor.Route(server.url, "", "echo"), 0.5, 1.0)
        if status == 503:
            with pytest.raises(ChoreoError, match="was refused: HTTP 503"):
                list(findings)
        else:
            assert [found for found, _ in findings] == [doctor.TIMED_OUT] * 2


def test_check_names_the_target_of_a_redirect(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    """For example that of a proxy that serves only https."""
    require_tool("caddy", "caddy")
    case = Case("caddy", "redir https://llm.example.com{uri} 308", 1)
    result = examine(case, 1, tmp_path)
    assert result.returncode == 1
    assert "redirected, use https://llm.example.com/v1/chat/completions" in result.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("respond hello", "not choreo-wsgi's echo"),
        (
            "header Content-Type text/html\nrespond <form>login</form>",
            "its Content-Type is text/html",
        ),
        (
            'header Choreo-Saw "HTTP/1.1; direct; heartbeat=1"\nrespond "data: {}\n\n"',
            "the answer was cut",  # without its last frame
        ),
        ('header Content-Type text/event-stream\nrespond "data: [DONE]\n\n"', "not choreo-wsgi's"),
        ('respond "{\\"message\\": \\"no\\"}" 401', "HTTP 401 from Caddy, not from the server"),
        ("redir {uri}/ 301", "HTTP 301: redirected, use /v1/chat/completions/"),
        ("reverse_proxy 127.0.0.1:1", "HTTP 502 from Caddy"),
        (
            "rewrite * /llm{uri}\nreverse_proxy 127.0.0.1:BACK",
            "HTTP 404 (the path '/llm/v1/chat/completions' does not exist",
        ),
        (
            "reverse_proxy 127.0.0.1:BACK {\nheader_up -Authorization\n}",
            "Bearer KEY): a proxy removes the header Authorization",
        ),
        ("reverse_proxy 127.0.0.1:BACK {\nheader_down -Choreo-Saw\n}", "removes Choreo-Check"),
    ],
)
def test_check_reports_foreign_answers(
    wrong: str,
    message: str,
    keyed_server: Launched,
    tmp_path: Path,
    require_tool: Callable[[str, str], str],
) -> None:
    require_tool("caddy", "caddy")
    result = examine(Case("caddy", wrong, 1), keyed_server.port, tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--seconds", "nan"], ["--seconds", "-1"], ["--seconds", "3601"], ["--key", "\u2026"]],
)
def test_check_rejects_invalid_options(arguments: list[str]) -> None:
    result = check("http://127.0.0.1:1", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert arguments[0] in result.stderr and "Traceback" not in result.stderr


def test_control_c_ends_the_check_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = [sys.executable, "-m", "choreo_wsgi", "check", url]
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        assert (process.wait(harness.DEADLINE), process.communicate()[1]) == (130, "")
        connection.close()


def test_check_trusts_a_self_signed_certificate_by_its_file(
    keyed_server: Launched, tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    """Without the file the check names the reason; over IPv6 too, if the machine has it."""
    hosts, host = "127.0.0.1", "127.0.0.1"
    with contextlib.suppress(OSError):
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        hosts, host = "127.0.0.1 ::1", "[::1]"
    require_tool("caddy", "caddy")
    _, trusted = certificate(tmp_path)
    port = free_port()
    site = f"https://localhost:{port} {{\nbind {hosts}\ntls {trusted} {tmp_path}/key.pem\n"
    text = CADDY.partition("http://")[0] + f"{site}reverse_proxy {keyed_server.url}\n}}\n"
    (tmp_path / "config").write_text(text)
    arguments = [word.replace("FILE", str(tmp_path / "config")) for word in COMMANDS["caddy"][1]]
    env = {**os.environ, "HOME": str(tmp_path)}
    proxy = Launched(arguments, port, env, tmp_path / "log")
    try:
        options = ["--key", KEY, "--seconds", "0.5"]
        refused = check(f"https://localhost:{port}", *options)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "self-signed certificate" in refused.stderr and "SSL_CERT_FILE" in refused.stderr
        result = check(f"https://localhost:{port}", *options, SSL_CERT_FILE=trusted)
        assert result.returncode == 0, result.stdout + result.stderr
        plain = check(f"http://{host}:{port}", *options)
        assert (plain.returncode, plain.stdout) == (1, "")
        # Caddy closes with the request unread, so a reset may overtake its answer.
        assert "HTTP 400" in plain.stderr or "reset by peer" in plain.stderr
    finally:
        proxy.abandon()


def test_check_ends_with_a_rate_limited_key(tmp_path: Path) -> None:
    """The check still ends, and reports what it could not test."""
    digest = hashlib.sha256(b"few").hexdigest()
    ini = f"[key few]\ndigest = {digest}\nrequests_per_minute = 2\n"
    with running(tmp_path, ini) as server:
        result = check(server.url, "--key", "few", "--seconds", "0.5")
    assert "one by one" in result.stdout
    assert "not tested whether a client that leaves is noticed: HTTP 429" in result.stdout
    assert result.returncode == 1
    assert "a silent stream was refused: HTTP 429" in result.stderr
