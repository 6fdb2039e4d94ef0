"""The command line, the environment and the ini file, through the real command."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.settings import configure, read_sections, table

Start = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def shown(done: subprocess.CompletedProcess[str], name: str) -> str:
    """Return the value of the setting *name* that ``choreo-wsgi settings`` printed."""
    assert done.returncode == 0, done.stderr
    found = re.search(rf"^{name} = (.*)$", done.stdout, re.MULTILINE)
    assert found
    return found.group(1)


def test_settings_precedence_is_option_environment_file(run: Run) -> None:
    ini = "[choreo]\nmax_streams = 3\n"
    environment = {"CHOREO_MAX_STREAMS": "5"}
    line = ("--max-streams", "7")
    assert shown(run("settings"), "max_streams") == "256"
    assert shown(run("settings", ini=ini), "max_streams") == "3"
    assert shown(run("settings", ini=ini, **environment), "max_streams") == "5"
    assert shown(run("settings", *line, ini=ini, **environment), "max_streams") == "7"


def test_choreo_config_names_the_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "named.ini"
    path.write_text("[choreo]\nmax_streams = 3\n")
    assert shown(run("settings", CHOREO_CONFIG=str(path)), "max_streams") == "3"


def test_settings_output_is_an_equivalent_ini_file(run: Run) -> None:
    ini = "[choreo]\ncors_origins = https://a, https://b\nhalf_close = yes\n"
    ini += "[provider echo]\ntype = echo\nmodels = echo, Mine = Upstream\ndelay_ms = 5\n"
    first = run("settings", "--idle-timeout", "1.5", "--listen", "a:1", "--listen", "b:2", ini=ini)
    assert first.returncode == 0, first.stderr
    assert shown(first, "listen") == "a:1, b:2"
    again = run("settings", ini=first.stdout)
    assert again.stdout == first.stdout
    assert "models = echo, Mine = Upstream" in again.stdout


def test_settings_output_masks_passwords_in_urls(run: Run) -> None:
    ini = "[provider up]\ntype = openai\nbase_url = http://me:hidden-1@host/v1\nmodels = m\n"
    for replay in (
        "redis://:hidden-2@h:1/0",
        "redis://u:hidden-2@h:1/0",
        "rediss://h/?password=hidden-2",
    ):
        done = run("settings", "--replay", replay, ini=ini)
        assert "hidden" not in done.stdout + done.stderr
        assert shown(done, "replay").startswith("redis")
        assert "***" in shown(done, "replay")


def test_settings_output_documents_each_setting_and_masks_keys(run: Run) -> None:
    ini = "[provider openai]\napi_key = hidden-2\nbase_url = http://localhost:1\n"
    ini += "headers = X-Token: hidden-3,\n    X-Other: hidden-4\n"
    done = run("settings", ini=ini, CHOREO_API_KEYS="hidden-1")
    for item, _ in table():
        assert f"# {item.metadata['text']}\n{item.name} =" in done.stdout
    assert "hidden" not in done.stdout
    assert shown(done, "api_keys") == shown(done, "headers") == "***"


@pytest.mark.parametrize("command", ["settings", "models"])
def test_output_that_nobody_reads_is_no_error(command: str) -> None:
    """As in ``choreo-wsgi settings | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "choreo_wsgi", command]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, timeout=harness.DEADLINE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_boolean_option_can_be_set_and_negated(run_here: Run) -> None:
    assert shown(run_here("settings"), "preload") == "false"
    assert shown(run_here("settings", "--preload"), "preload") == "true"
    assert shown(run_here("settings", CHOREO_PRELOAD="yes"), "preload") == "true"
    assert shown(run_here("settings", "--no-preload", CHOREO_PRELOAD="yes"), "preload") == "false"


@pytest.mark.parametrize(
    ("arguments", "environment", "ini", "message"),
    [
        (["--max-streams", "none"], {}, "", "max_streams"),
        (["--config", "/nowhere/choreo.ini"], {}, "", "/nowhere/choreo.ini"),
        ([], {"CHOREO_MAX_STREAMS": "three"}, "", "CHOREO_MAX_STREAMS"),
        ([], {"CHOREO_CONFIG": "/nowhere/choreo.ini"}, "", "/nowhere/choreo.ini"),
        ([], {}, "[choreo]\nMax_Streams = 3\n", "'Max_Streams'"),
        ([], {}, "[choreo]\nmax_streams = 3\nmax_streams = 4\n", "max_streams"),
        ([], {}, "[provider]\ntype = echo\n", "section [provider] lacks a name: [provider NAME]"),
        ([], {}, "[provider x]\ntype = nobody\n", "nobody"),
        ([], {}, "max_streams = 3\n", "[section]"),
        ([], {}, "[choreo]\nmax_streams\n", "line 2"),
    ],
)
def test_rejects_unknown_or_unreadable_settings(
    run_here: Run, arguments: list[str], environment: dict[str, str], ini: str, message: str
) -> None:
    done = run_here("models", *arguments, ini=ini, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_invalid_ini_line_is_not_quoted(run: Run) -> None:
    """It may contain a key."""
    done = run("models", ini="[provider x]\nhidden-key\n")
    assert done.returncode == 2
    assert "hidden-key" not in done.stderr


def test_ini_keys_keep_case_and_colons(tmp_path: Path) -> None:
    path = tmp_path / "choreo.ini"
    path.write_text("﻿[provider x]\nA:b = %(c)s\nmodels = M = N\n  , O:1b\n", encoding="utf-8")
    assert read_sections(str(path)) == {
        "provider x": {"A:b": "%(c)s", "models": "M = N\n, O:1b"},
    }


def test_ignores_variables_of_kubernetes_service_named_choreo() -> None:
    environment = {
        "CHOREO_SERVICE_HOST": "10.0.0.1",
        "CHOREO_SERVICE_PORT": "8000",
        "CHOREO_SERVICE_PORT_HTTP": "8000",
        "CHOREO_PORT": "tcp://10.0.0.1:8000",
        "CHOREO_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "CHOREO_PORT_8000_TCP_ADDR": "10.0.0.1",
    }
    assert configure({}, environment).settings.port == 8000
    with pytest.raises(ConfigurationError, match="CHOREO_PORT"):
        configure({}, {"CHOREO_PORT": "udp"})


def test_models_lists_each_pattern_with_its_provider(run: Run) -> None:
    ini = "[provider echo]\ntype = echo\nmodels = echo, parrot*\n"
    done = run("models", "--default-model", "none", ini=ini)
    assert done.stdout.splitlines() == ["echo\techo", "parrot*\techo"]


def test_chat_prints_the_reply(run: Run, command: Start) -> None:
    server = command(ini="[provider echo]\ntype = echo\nmodels = *\n")
    url = f"http://127.0.0.1:{server.port}"
    done = run("chat", "--base-url", url, "Hello", "you")
    assert (done.returncode, done.stdout) == (0, "Hello you\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0", "--port", "0"],
        ["--listen", "127.0.0.1:0", "--listen", "*:0"],
        ["--listen", "[::]:0"],
    ],
)
def test_without_keys_refuses_non_loopback_addresses(run: Run, arguments: list[str]) -> None:
    done = run("serve", *arguments)
    assert done.returncode == 2
    assert "--allow-anonymous" in done.stderr


@pytest.mark.parametrize("arguments", [["--allow-anonymous"], ["--api-keys", "k"]])
def test_keys_or_allow_anonymous_permit_any_address(command: Start, arguments: list[str]) -> None:
    server = command("--listen", "0.0.0.0:0", *arguments)
    port = int(re.search(r"http://0\.0\.0\.0:(\d+)", server.banner).group(1))  # type: ignore
    with harness.Client(("127.0.0.1", port)) as client:
        assert client.exchange("GET", "/healthz").status == 200


def test_listens_on_several_addresses(command: Start) -> None:
    server = command("--listen", "127.0.0.1:0", "--listen", "localhost:0")
    ports = re.findall(r"http://127\.0\.0\.1:(\d+)", server.banner.partition("\n")[0])
    assert len(ports) == 2
    for port in ports:
        with harness.Client(("127.0.0.1", int(port))) as client:
            assert client.exchange("GET", "/readyz").status == 200


def pasted(server: Any, environment: dict[str, str]) -> str:
    """Run the banner's curl line in a shell, as a user would; return its output."""
    line = server.banner.splitlines()[-1]
    assert line.startswith("  curl -N")
    done = subprocess.run(
        ["sh", "-c", line],
        env=environment,
        capture_output=True,
        text=True,
        timeout=harness.DEADLINE,
        check=True,
    )
    return done.stdout


def test_banner_curl_line_works_in_a_shell(
    command: Start, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("curl", "curl")
    server = command("--default-model", "none")
    assert "echo" in server.banner
    output = pasted(server, {"PATH": os.environ["PATH"]})
    assert output.endswith("data: [DONE]\n\n")
    assert json.loads(output.partition("\n")[0].removeprefix("data: "))["model"] == "echo"


def test_banner_curl_line_reads_key_from_environment(
    command: Start, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("curl", "curl")
    environment = {"CHOREO_API_KEYS": "hidden-1,hidden-2"}
    server = command(**environment)
    assert "hidden" not in server.banner
    output = pasted(server, {"PATH": os.environ["PATH"], **environment})
    assert output.endswith("data: [DONE]\n\n")


def test_serves_unix_socket_and_removes_it(
    command: Start, tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("curl", "curl")
    path = tmp_path / "choreo socket"
    server = command("--unix-socket", str(path), "--default-model", "none")
    assert f"unix:{path}" in server.banner
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with harness.Client(str(path)) as client:
        assert client.exchange("GET", "/healthz").status == 200
    assert pasted(server, {"PATH": os.environ["PATH"]}).endswith("data: [DONE]\n\n")
    server.signal(15)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert server.process.returncode == 0 and not path.exists()
    assert " client=localhost" in log


def test_refuses_unix_socket_path_of_a_regular_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("important")
    done = run("serve", "--unix-socket", str(path))
    assert (done.returncode, path.read_text()) == (2, "important")
    assert f"{path}: the file exists and is not a socket" in done.stderr


def test_refuses_unix_socket_of_a_running_server(command: Start, run: Run, tmp_path: Path) -> None:
    """A socket that a killed server has left is replaced."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = command("--unix-socket", str(path))
    done = run("serve", "--unix-socket", str(path))
    assert done.returncode == 2 and f"{path}: another server listens there" in done.stderr
    with harness.Client(str(path)) as client:
        assert client.exchange("GET", "/healthz").status == 200
    server.signal(15)


def test_request_path_cannot_forge_log_lines(command: Start) -> None:
    server = command()
    with server.connect() as client:
        client.send(b"GET /a%0A2026-01-01%20forged%1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.read_answer().status == 404
    server.signal(15)
    _, log = server.process.communicate(timeout=harness.DEADLINE)
    assert not any(line.startswith("2026-01-01 forged") for line in log.splitlines())
    assert "\x1b" not in log
