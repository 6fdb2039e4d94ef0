"""Starting the command: addresses, wrong settings, warnings, models and missing parts."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from bare_site import bare_site
from launched import free_port

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.serve.banner import banner
from choreo_wsgi.serve.sockets import bind, listen_addresses
from choreo_wsgi.settings import Settings

Start = Callable[..., Any]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


# -- addresses ---------------------------------------------------------------------------


def test_address_without_port_uses_port_setting(command: Start) -> None:
    port = free_port()
    server = command("--listen", "localhost", "--port", str(port))
    assert f"http://127.0.0.1:{port}" in server.banner.partition("\n")[0]
    with harness.Client(("127.0.0.1", port)) as client:
        assert client.exchange("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("9151", ["127.0.0.1:9151", "port = 9151"]),
        ("::1", ["[::1]"]),
        ("http://localhost:8000", ["HOST:PORT; write it without http://"]),
        ("unix:/tmp/x", ["HOST:PORT; use the setting unix_socket for"]),
        ("localhost:99999", ["65535"]),
        ("no-such-host.invalid:8000", ["unknown host", "no-such-host.invalid"]),
        ("a..b:80", ["unknown host: a..b:80"]),  # which no name can be
    ],
)
def test_invalid_address_is_quoted_in_error(run_here: Run, listen: str, words: list[str]) -> None:
    done = run_here("serve", "--listen", listen)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_accepts_ports_up_to_65535() -> None:
    assert listen_addresses(Settings(listen=("[::1]:65535",))) == ["[::1]:65535"]
    assert listen_addresses(Settings(listen=("localhost", ":82"), port=81)) == [
        "localhost:81",
        "*:82",
    ]
    for host in ("::1", "[::1]", "[::1]:81"):
        assert listen_addresses(Settings(host=host, port=81)) == ["[::1]:81"]
    assert listen_addresses(Settings(host="localhost:82", port=81)) == ["localhost:82"]
    with pytest.raises(ConfigurationError, match="no port above 65535"):
        listen_addresses(Settings(listen=("localhost:65536",)))
    with pytest.raises(ConfigurationError, match=r"'\[::1' is not HOST:PORT"):
        listen_addresses(Settings(host="[::1"))


def test_names_address_in_use(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--listen", "127.0.0.1:0", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"127.0.0.1:{port}: Address already in use" in done.stderr


# -- options and settings -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "ini", "suggestion"),
    [
        (["serv"], {}, "", "'serve'"),
        (["serve", "--max-stream", "3"], {}, "", "'--max-streams'"),
        (["models", "--defalt-model=x"], {}, "", "'--default-model'"),
        (["check", "http://h", "--second", "3"], {}, "", "'--seconds'"),
        (["models", "--log-level", "warn"], {}, "", "'warning'"),
        (["models"], {"CHOREO_API_KEY": "k"}, "", "'CHOREO_API_KEYS'"),
        (["models"], {}, "[choreo]\nmax_stream = 3\n", "'max_streams'"),
        (["models"], {}, "[chorea]\n", "'choreo'"),
        (["models"], {}, "[providers x]\n", "'provider'"),
        (["models"], {}, "[provider x]\ntype = opnai\n", "'openai'"),
        (["models"], {}, "[provider x]\ntype = openai\nmodel = x\n", "'models'"),
        (["models"], {"CHOREO_CONFGI": "k"}, "", "'CHOREO_CONFIG'"),
        (["--verison"], {}, "", "'--version'"),
        (["serve", "9000"], {}, "", "'--port 9000'"),
        (["help"], {}, "", "'--help'"),
        (["version"], {}, "", "'--version'"),
        (["models"], {}, "[Provider x]\n", "'provider'"),
        (["models", "--log-format", "JSON"], {}, "", "'json'"),
    ],
)
def test_suggests_correct_spelling(
    run_here: Run, arguments: list[str], environment: dict[str, str], ini: str, suggestion: str
) -> None:
    done = run_here(*arguments, ini=ini, **environment)
    assert done.returncode == 2
    assert f"did you mean {suggestion}" in done.stderr
    assert len(done.stderr.splitlines()) < 6


@pytest.mark.parametrize(
    ("environment", "ini"),
    [
        ({"CHOREO_API_KEYS": "'a-key'"}, ""),
        ({"OPENAI_API_KEY": '"a-key"'}, ""),  # as docker run --env-file hands it over
        ({}, '[provider o]\ntype = openai\napi_key = "a-key"\n'),
    ],
)
def test_rejects_quoted_values(run: Run, environment: dict[str, str], ini: str) -> None:
    done = run("models", ini=ini, **environment)
    assert done.returncode == 2 and "leave out the quotation marks" in done.stderr
    assert "a-key" not in done.stderr


def test_indented_setting_is_not_taken_into_the_value_above(run: Run) -> None:
    done = run("models", ini="[choreo]\nunix_socket = /s\n  port = 9\n")
    assert done.returncode == 2 and "in the first column" in done.stderr


def test_option_before_the_command_is_explained(run: Run) -> None:
    done = run("--port", "9", "serve")
    assert done.returncode == 2
    assert "put the COMMAND first: choreo-wsgi serve --port 9" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--listen", "/tmp/socket"], {}, "use the setting unix_socket for the path"),
        (["--replay", "sqlite://x.db"], {}, "names no file: write sqlite:PATH"),
        (["--replay", "redis://h/zero"], {}, "a redis address is redis://HOST:PORT/NUMBER"),
        ([], {"CHOREO_API_KEYS": " , ,"}, "CHOREO_API_KEYS: api_keys: there is nothing between"),
        ([], {"OPENAI_API_KEY": "a\nb"}, "openai: api_key: it has characters that a header cannot"),
        (
            [],
            {"OPENAI_API_KEY": "k", "https_proxy": "socks5://h:1"},
            "the proxy's URL must look",
        ),
    ],
)
def test_rejects_unusable_values_at_start(
    run: Run, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    done = run("models", *arguments, **environment)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics-key", "k"], "metrics_key has no effect without metrics = true"),
        (["--cors-origins", "https://a.example"], "cors_origins has no effect without API keys"),
        (["--allow-anonymous", "--api-keys", "k"], "allow_anonymous has no effect beside API keys"),
        (["--listen", "localhost:81", "--port", "82"], "port has no effect beside addresses"),
        (["--listen", "localhost", "--host", "::1"], "host has no effect beside listen"),
        (
            ["--listen", "localhost", "--unix-socket", "s"],
            "listen has no effect beside unix_socket",
        ),
        (["--replay", "redis://h", "--replay-total-bytes", "9999"], "with Redis, which its maxmem"),
        (["--replay-total-bytes", "9999", "--replay-stream-bytes", "10000"], "above replay_total"),
        (["--max-orphans", "3", "--max-orphans-per-key", "4"], "above max_orphans"),
        (["--local-max-tokens", "4096"], "above local_max_tokens_limit"),
    ],
)
def test_warns_of_setting_without_effect(run: Run, arguments: list[str], message: str) -> None:
    for command in ("settings", "models"):  # which starts as serve does
        done = run(command, *arguments)
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--metrics-key", "k", "--metrics"],
        ["--cors-origins", "https://a.example", "--api-keys", "k"],
        ["--listen", "localhost", "--port", "82"],
        ["--replay-total-bytes", "9999", "--replay-stream-bytes", "9999"],
        ["--max-orphans-per-key", "4"],
    ],
)
def test_does_not_warn_of_setting_with_effect(run: Run, arguments: list[str]) -> None:
    done = run("settings", *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def test_rejects_unusable_replay_file_at_start(run: Run, tmp_path: Path) -> None:
    for file in (tmp_path / "notes.txt", Path("/proc/streams.db")):  # where root may not write
        if file.parent == tmp_path:
            file.write_text("something else " * 100)
        done = run("serve", "--replay", f"sqlite:{file}")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"replay: 'sqlite:{file}' " in done.stderr


@pytest.mark.parametrize("value", ["$A_KEY", "${A_KEY}"])
def test_suggests_env_prefix_for_shell_variable(run: Run, value: str) -> None:
    done = run("models", ini=f"[provider o]\ntype = openai\napi_key = {value}\n", A_KEY="sk-1")
    assert done.returncode == 2
    assert "provider o: api_key: write a variable as env:A_KEY" in done.stderr


def test_suggests_nothing_for_dissimilar_variable(run: Run) -> None:
    done = run("models", CHOREO_DEBUG="1")
    assert done.returncode == 2 and done.stderr == "choreo-wsgi: CHOREO_DEBUG: no such setting\n"


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("[provider gemini]\n", "gemini has no key, so its models fail: GEMINI_API_KEY or GOOGLE"),
        ("[provider o]\ntype = openai\nmodels = x\n", "o has no key, so its models fail: OPENAI"),
        ("[provider o]\ntype = openai\nbase_url = http://127.0.0.1:1/v1\n", ""),
        ("[provider ollama]\n[provider vllm]\n[provider echo]\n[provider local]\n", ""),
    ],
)
def test_warns_of_provider_without_key(run: Run, ini: str, message: str) -> None:
    """Only a warning: the key may be added later, and other providers can be used."""
    done = run("models", ini=ini)
    assert done.returncode == 0
    assert message in done.stderr and len(done.stderr.splitlines()) == bool(message)


def test_settings_output_masks_only_secrets(run: Run) -> None:
    digest = f"digest = {'0' * 64}"
    ini = f"[key ann]\n{digest}\ntokens_per_minute = 500\n[provider openai]\napi_key = sk-1\n"
    output = run("settings", ini=ini).stdout
    assert digest in output and "tokens_per_minute = 500" in output
    assert "api_key = ***" in output and "sk-1" not in output


def test_help_shows_values_and_defaults(run: Run) -> None:
    output = run("serve", "--help").stdout
    assert "--log-level debug|info|warning|error" in output
    assert "--max-body-bytes BYTES" in output and "(33554432)" in output
    assert re.search(
        r"--preload \[true\|false\]\s+start the local model with the server \(false\)", output
    )
    assert "sqlite:PATH" in output and "--api-keys-file PATH" in output


@pytest.mark.parametrize("command", ["models", "settings"])
def test_help_of_read_only_commands_is_short(run: Run, command: str) -> None:
    output = run(command, "--help").stdout
    assert len(output.splitlines()) < 12
    assert "--config FILE" in output and "choreo-wsgi serve --help" in output


def test_escapes_names_for_ascii_terminal(run: Run) -> None:
    ini = "[provider s]\ntype = echo\nmodels = mod\u00e8le-\u20ac\n"
    done = run("models", ini=ini, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mod\\xe8le-\\u20ac\ts" in done.stdout


@pytest.mark.parametrize(
    ("words", "page"), [(["--page", "off"], "false"), (["--page=on"], "true"), (["--page"], "true")]
)
def test_boolean_option_accepts_a_value(run: Run, words: list[str], page: str) -> None:
    assert f"\npage = {page}\n" in run("settings", *words).stdout


def test_rejects_keys_separated_by_space(run: Run) -> None:
    done = run("models", CHOREO_API_KEYS="sk-one sk-two")
    assert (done.returncode, done.stdout) == (2, "")
    assert "api_keys: a key contains a space" in done.stderr and "sk-one" not in done.stderr


def test_bare_command_lists_subcommands(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    for name in ("serve", "models", "settings", "fetch-model", "key", "check", "chat"):
        assert f"\n    {name} " in done.stderr or f"\n    {name}\n" in done.stderr
    assert "Serve completions over HTTP." in run("serve", "--help").stdout


# -- models -------------------------------------------------------------------------------


def test_api_keys_do_not_disable_local_model(command: Start, run: Run) -> None:
    keys = {"CHOREO_API_KEYS": "k"}
    assert run("models", **keys).stdout == run("models").stdout
    server = command(**keys)
    assert "any other name  local/SmolLM2-135M-Instruct" in server.banner
    assert "default_model = none turns it off" in server.banner
    with server.connect() as client:
        answer = client.exchange("GET", "/v1/models", headers={"Authorization": "Bearer k"})
    listed = [model["id"] for model in answer.json()["data"]]
    assert listed == ["echo", "local/SmolLM2-135M-Instruct"]


def test_unknown_model_error_names_alternatives(command: Start) -> None:
    server = command("--default-model", "none")
    assert "SmolLM2" not in server.banner
    body = {"model": "nobody", "messages": [{"role": "user", "content": "Hi"}]}
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", body)
        answer = client.read_answer()
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    for word in ("'nobody'", "GET /v1/models", "default_model", "local"):
        assert word in answer.error["message"]


def test_banner_says_how_to_install_local_model(command: Start, tmp_path: Path) -> None:
    server = command(XDG_CACHE_HOME=str(tmp_path / "empty"))
    assert "It is not installed yet: choreo-wsgi fetch-model" in server.banner
    assert '"model": "echo"' in server.banner  # the line to paste works


def test_banner_shows_usable_curl_line_without_models() -> None:
    for address, usable in (("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("10.0.0.1", "10.0.0.1")):
        text = banner([f"http://{address}:81"], [])
        assert f"listens on http://{address}:81\n  no model is configured\n" in text
        assert f"http://{usable}:81/v1/chat/completions" in text


def test_banner_suggests_no_pattern_as_model() -> None:
    lines = banner(["http://h:1"], [("a*", "up"), ("model-b", "up"), ("echo", "echo")])
    assert '"model": "model-b"' in lines and "\n  a*       up\n" in lines
    assert '"model": "echo"' in banner(["http://h:1"], [("a*", "up")])


def test_provider_without_models_is_listed_with_prefix(run: Run) -> None:
    ini = "[provider fast]\ntype = openai\nbase_url = http://localhost:1/v1\napi_key = k\n"
    assert run("models", ini=ini).stdout.splitlines() == ["echo\techo", "fast/*\tfast"]
    lines = run("models", GROQ_API_KEY="k").stdout.splitlines()
    assert lines == ["echo\techo", "groq/*\tgroq"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("type = openai\nbase_url = localhost:8000/v1", ["base_url", "http://HOST"]),
        ("type = vllm\nbase_url = http://h/v1/chat/completions", ["remove /chat/completions"]),
        ("type = azure\napi_key = k", ["azure needs base_url"]),
        ("type = azure\nbase_url = https://x.openai.azure.com", ["azure needs api_key"]),
        (
            "type = azure\nbase_url = https://x.openai.azure.com\napi_key = k\napi_version = 2",
            ["api_version", "2024-10-21"],
        ),
        ("type = bedrock\napi_key = k\nregion = Virginia", ["region", "us-east-1"]),
        ("type = bedrock\nprofile = nobody", ["profile", "'nobody'"]),
        ("type = local\nmodel = /nowhere/x.gguf", ["/nowhere/x.gguf"]),
    ],
)
def test_checks_provider_options_at_start(run_here: Run, section: str, words: list[str]) -> None:
    done = run_here("models", ini=f"[provider x]\n{section}\n")
    assert done.returncode == 2
    for word in ["x", *words]:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["", "2024-10-21", "2025-03-01-preview", "preview", "latest"])
def test_accepts_documented_azure_versions(run_here: Run, version: str) -> None:
    ini = "[provider x]\ntype = azure\nbase_url = https://x.openai.azure.com\napi_key = k\n"
    done = run_here("models", ini=f"{ini}api_version = {version}\n")
    assert (done.returncode, done.stderr) == (0, "")


def test_checks_base_url_from_environment(run: Run) -> None:
    done = run("models", OPENAI_BASE_URL="localhost:8000/v1")
    assert done.returncode == 2
    assert "provider openai: base_url" in done.stderr


def test_rejects_invalid_local_model_file(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "model.gguf"
    page.write_text("<!DOCTYPE html>")
    for path in (page, tmp_path / "nowhere.gguf"):
        done = run("models", "--local-model", str(path))
        assert done.returncode == 2
        assert str(path) in done.stderr


# -- missing parts -------------------------------------------------------------------------


RUN = "from choreo_wsgi.cli import main; sys.exit(main())"


@pytest.fixture
def bare_python() -> Iterator[list[str]]:
    """A Python with only this package and its two dependencies, executable by any user."""
    executables = [path for path in (sys.executable, "/usr/bin/python3") if may_be_run(Path(path))]
    if not executables:
        pytest.skip(f"others may not run {sys.executable}")
    with bare_site() as site:
        path = f"import sys; sys.path.insert(0, {str(site)!r}); "
        yield [executables[0], "-I", "-S", "-c", path + RUN]


def may_be_run(executable: Path) -> bool:
    path = executable.resolve()
    return path.exists() and all(one.stat().st_mode & 0o001 for one in [path, *path.parents])


def test_preload_without_runtime_names_the_extra(
    bare_python: list[str], bare_environment: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "x.gguf"
    model.write_bytes(b"GGUF")
    done = subprocess.run(
        [
            *bare_python,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--preload",
            "--local-model",
            str(model),
        ],
        env=bare_environment,
        capture_output=True,
        text=True,
        timeout=2 * harness.DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "(the extra local): pip install xllamacpp==2026.10.11549"
    )
    assert "Traceback" not in done.stderr


def test_rejects_preload_without_local_model(run: Run) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", "--preload", "--default-model", "none")
    assert done.returncode == 2
    assert "preload" in done.stderr and "default_model" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to switch to an unknown user")
@pytest.mark.parametrize("home", [None, "", "/nonexistent", "/"])
def test_serves_for_user_without_home(bare_python: list[str], home: str | None) -> None:
    """As in containers whose user is a number (OpenShift, docker --user)."""
    unknown = 123456
    environment = {"PATH": os.environ["PATH"], **({} if home is None else {"HOME": home})}
    process = subprocess.Popen(
        [*bare_python, "serve", "--listen", "127.0.0.1:0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        user=unknown,
        group=unknown,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", first)
        assert found, process.communicate()[1]
        with harness.Client(("127.0.0.1", int(found[1]))) as client:
            body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
            client.request("POST", "/v1/chat/completions", body)
            assert client.read_answer().status == 200
            client.request("POST", "/v1/chat/completions", {**body, "model": "any"})
            answer = client.read_answer()
        assert (answer.status, answer.error["code"]) == (502, "provider_not_configured")
    finally:
        process.kill()
        process.communicate()


def test_serves_request_of_30_mebibytes(command: Start) -> None:
    """Agents send their screenshots again with every turn."""
    server = command("--default-model", "echo")
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "A" * (30 << 20)},
    }
    content = [picture, {"type": "text", "text": "What is it?"}]
    body = {"model": "echo", "messages": [{"role": "user", "content": content}]}
    with server.connect() as client:
        client.request("POST", "/v1/chat/completions", body)
        answer = client.read_answer()
    assert answer.status == 200, answer.body[:200]
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "What is it?"


def test_binds_ipv4_and_ipv6_separately() -> None:
    """A restarted server need not wait for connections of its predecessor."""
    sockets = bind(Settings(host="*", port=free_port(), max_streams=2000))
    try:
        for one in sockets:
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            if sys.platform == "linux":  # as many connections may wait as there may be streams
                most = int(Path("/proc/sys/net/core/somaxconn").read_text())
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
                assert int.from_bytes(info[28:], sys.byteorder) == min(2000, most)
            if one.family == socket.AF_INET6:
                assert one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    finally:
        for one in sockets:
            one.close()
