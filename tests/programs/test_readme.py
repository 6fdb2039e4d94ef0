"""The blocks of README.rst are run unchanged, except for a free port instead of 8000."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from launched import ROOT, Launched, environment, free_port, running
from raw_server import RawServer
from readme_blocks import Block, command, commands, read_blocks
from real_server import KEY, Answer, ask, read_printed, read_rest, read_text, told_ini

CHAT = "/v1/chat/completions"

#: Words that only occur in one block, and the test that runs it.
BLOCKS = {
    "make run ": "test_make_has_both_targets",
    '"content": "Say hello"': "test_first_answer_has_the_printed_shape",
    "pip install .": "test_package_and_extras_have_these_names",
    "export OPENAI_API_KEY": "test_keys_in_the_environment_route_the_names",
    "[provider fast]": "test_ini_file_falls_back_to_backup",
    "from choreoai import": "test_choreoai_prints_each_word_at_once",
    "from openai import": "test_openai_client_prints_the_answer",
    "await fetch": "test_fetch_reads_each_word_at_once",
    "CHOREO_API_KEYS=": "test_only_the_listed_api_keys_are_accepted",
    "def site(": "test_runs_within_another_application",
    "waitress-serve": "test_other_servers_are_those_tested",
    "proxy_pass": "test_nginx_streams_and_accepts_long_bodies",
    "choreo-wsgi check": "test_check_reports_single_frames",
    "Choreo-Resumable": "test_second_curl_line_resumes_the_stream",
}


def block(words: str) -> Block:
    """Return the one block that contains *words*."""
    found = [one for one in read_blocks() if words in one.text]
    assert len(found) == 1, (words, found)
    return found[0]


def shell(text: str, env: dict[str, str], cwd: Path) -> str:
    """Run *text* in a shell; return its output."""
    process = subprocess.Popen(
        ["sh", "-c", text], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return read_rest(process)


@contextmanager
def process(words: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    one = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield one
    finally:
        one.kill()
        one.communicate()


@contextmanager
def launched(line: str, folder: Path, **variables: str) -> Iterator[Launched]:
    """Run the README's *line*, which starts a server, on a free port."""
    port = free_port()
    line = re.sub(r"[\d.]+:8000", f"127.0.0.1:{port}", line)
    if str(port) not in line:
        line += f" --listen 127.0.0.1:{port}"
    *assignments, program = line.rpartition("choreo-wsgi ")[0], "exec choreo-wsgi "
    words = ["sh", "-c", "".join([*assignments, program, line.rpartition("choreo-wsgi ")[2]])]
    env = environment(folder, **variables)
    one = Launched(words, port, env, folder / "log", cwd=folder)
    try:
        yield one
    finally:
        one.abandon()


def shape(value: Any) -> Any:
    """Return the keys of *value* and of its members, in their order."""
    if isinstance(value, dict):
        return [(key, shape(member)) for key, member in value.items()]
    return [shape(member) for member in value] if isinstance(value, list) else None


def test_every_block_is_run() -> None:
    tests = {words: [one.text for one in read_blocks() if words in one.text] for words in BLOCKS}
    assert {words: len(found) for words, found in tests.items()} == dict.fromkeys(BLOCKS, 1)
    shown = [one.text for one in read_blocks()]
    assert [text for text in shown if [text] not in tests.values()] == []
    assert [name for name in BLOCKS.values() if name not in globals()] == []
    readme = (ROOT / "README.rst").read_text()
    assert len(re.findall(r"::$|^\.\. code-block::", readme, re.MULTILINE)) == len(shown)


def test_make_has_both_targets(tmp_path: Path) -> None:
    harness.require_tool("make", "make")
    for line in commands(block("make run ")):
        recipe = shell(
            f"make -n -C {shlex.quote(str(ROOT))} {line[5:]}", environment(tmp_path), tmp_path
        )
        assert ("choreo-wsgi serve" if "make run" in line else "pytest") in recipe


def test_first_answer_has_the_printed_shape(local_server: Launched, tmp_path: Path) -> None:
    """The curl line returns frames like those below it, from the local model."""
    harness.require_tool("curl", "curl")
    shown = block('"content": "Say hello"')
    (line,) = commands(shown)
    assert "127.0.0.1:8000" in line
    line = line.replace("127.0.0.1:8000", f"127.0.0.1:{local_server.port}")
    printed = shell(f"{line} -sS -D {tmp_path}/head", environment(tmp_path), tmp_path)
    assert (tmp_path / "head").read_text().lower().count("choreo-provider: local/") == 1
    expected = [one[6:] for one in shown.text.splitlines() if one.startswith("data: {")]
    frames = [one for one in printed.split("\n\n") if one]
    assert frames[-1] == "data: [DONE]"
    received = [frame[6:] for frame in frames[:-1]]
    assert len(received) > len(expected)
    first, second, *_, last = expected
    for theirs, ours in ((first, received[0]), (second, received[1]), (last, received[-1])):
        assert shape(json.loads(theirs)) == shape(json.loads(ours))
        assert ours == json.dumps(json.loads(ours), separators=(",", ":"), ensure_ascii=False)
        assert json.loads(ours)["model"] == "gpt-4"
    assert json.loads(received[0])["choices"] == json.loads(first)["choices"]


def test_package_and_extras_have_these_names(tmp_path: Path) -> None:
    """``test_install_size`` installs the package."""
    lines = commands(block("pip install ."))
    extras = re.search(r"^Extras: (.*?)\n\n", (ROOT / "README.rst").read_text(), re.M | re.S)
    assert extras is not None
    named = re.findall(r"``(\w+)``", extras[1]) + re.findall(r"\[(\w+)\]", "".join(lines))
    setup = (ROOT / "setup.cfg").read_text()
    assert "name = choreo-wsgi\n" in setup
    assert len(named) >= 3
    assert all(re.search(f"^{name} =$", setup, re.M) for name in named)
    assert lines[-1].split("#")[0].strip() == "choreo-wsgi serve"


def test_keys_in_the_environment_route_the_names(tmp_path: Path) -> None:
    """Each name in the paragraph below goes to the provider there."""
    export, serve = commands(block("export OPENAI_API_KEY"))
    below = (ROOT / "README.rst").read_text().split("$ choreo-wsgi serve\n")[1]
    sentence = " ".join(below.split(";")[0].split())
    env = {"GEMINI_API_KEY": "x", "XAI_API_KEY": "x"}
    owners = {"OpenAI": "openai", "Anthropic": "anthropic", "Google": "gemini", "xAI": "xai"}
    parts = re.findall(r"(.*?) (?:are answered )?by (\w+)(?:, |$)", sentence)
    assert [who for _, who in parts] == list(owners)
    with launched(f"{export}; {serve}", tmp_path, **env) as server:
        for text, who in parts:
            names = re.findall("``(.*?)``", text)
            assert names
            for name in names:
                model = name.replace("*", "x")
                with server.connect() as client:
                    found = client.exchange("GET", f"/v1/models/{model}").json()
                assert found["owned_by"] == f"{owners[who]}/{model}"


def test_ini_file_falls_back_to_backup(upstream: RawServer, tmp_path: Path) -> None:
    """``fast`` cannot be reached here, so ``backup`` answers."""
    text = block("[provider fast]").text
    closed_port = free_port()
    (tmp_path / "choreo.ini").write_text(text.replace("10.0.0.5:8000", f"127.0.0.1:{closed_port}"))
    env = {"OPENAI_API_KEY": "secret", "OPENAI_BASE_URL": f"{upstream.url}/v1"}
    with launched("choreo-wsgi serve --config choreo.ini", tmp_path, **env) as server:
        with server.connect() as client:
            client.request("POST", CHAT, ask(model="gpt-4"))
            reply = Answer(upstream.call())
            assert reply.asked["model"] == "gpt-4o-mini"
            assert reply.call.request.headers["authorization"] == "Bearer secret"
            reply.begin().say("from the backup").finish()
            head = client.read_head()
            assert head.headers["choreo-provider"] == "backup/gpt-4o-mini"
            assert [read_text(client), read_text(client)] == ["", "from the backup"]
        with server.connect() as client:
            found = client.exchange("GET", "/v1/models/qwen").json()
            assert found["owned_by"] == "fast/Qwen/Qwen3-8B"


def test_choreoai_prints_each_word_at_once(
    server: Launched, answer: Callable[[], Answer], tmp_path: Path
) -> None:
    env = environment(tmp_path, CHOREOAI_BASE_URL=server.url)
    with process([sys.executable, "-c", block("from choreoai import").text], env) as program:
        reply = answer().begin()
        assert reply.asked["model"] == "told"
        for word in ("five ", "seven ", "five"):
            reply.say(word)
            read_printed(program, word)
        reply.finish()
        assert read_rest(program) == ""


def test_openai_client_prints_the_answer(server: Launched, tmp_path: Path) -> None:
    text = block("from openai import").text.replace("localhost:8000", f"localhost:{server.port}")
    text += (
        "answer = client.chat.completions.create(model='echo', messages=[{'role': 'user', "
        "'content': 'Hi'}])\nprint(answer.choices[0].message.content)\n"
    )
    with process([sys.executable, "-c", text], environment(tmp_path)) as program:
        assert read_rest(program) == "Hi\n"


def test_fetch_reads_each_word_at_once(
    server: Launched, answer: Callable[[], Answer], tmp_path: Path
) -> None:
    """The reader returns text, which is printed here at once."""
    node = harness.require_tool("node", "nodejs")
    text = block("await fetch").text.replace("localhost:8000", f"localhost:{server.port}")
    script = tmp_path / "fetch.mjs"
    script.write_text(
        f"{text}\nfor (;;) {{\n  const {{done, value}} = await reader.read();\n"
        "  if (done) break;\n  process.stdout.write(value);\n}\n"
    )
    with process([node, str(script)], environment(tmp_path)) as program:
        reply = answer().begin()
        reply.say("ä 🎈")
        printed = ""
        assert program.stdout is not None
        while printed != "ä 🎈":  # the emoji may be escaped
            line = program.stdout.readline()
            assert line, printed
            if line.startswith(b"data: "):
                delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
                printed += delta.get("content", "")
        reply.finish()
        assert read_rest(program).endswith("\ndata: [DONE]\n\n")


def test_only_the_listed_api_keys_are_accepted(tmp_path: Path) -> None:
    """Also as digests in a file."""
    (line,) = commands(block("CHOREO_API_KEYS="))
    with launched(line, tmp_path) as server:
        assert [request_status(server, key) for key in ("first-key", "second-key")] == [200, 200]
        assert [request_status(server, key) for key in ("third-key", None)] == [401, 401]
    found = re.search(r"``(printf .*? \| sha256sum)``", (ROOT / "README.rst").read_text())
    assert found is not None
    digest = shell(found[1].replace("KEY", "a-key"), environment(tmp_path), tmp_path)
    (tmp_path / "digests").write_text(digest)
    line = "choreo-wsgi serve --api-keys-file digests"
    with launched(line, tmp_path) as server:
        assert [request_status(server, key) for key in ("a-key", "KEY", None)] == [200, 401, 401]


def request_status(server: Launched, key: str | None) -> int:
    """Return the status of an answer to a request with *key*."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with server.connect() as client:
        return client.exchange("POST", CHAT, ask(model="echo"), headers).status


def test_runs_within_another_application(
    upstream: RawServer, answer: Callable[[], Answer], tmp_path: Path
) -> None:
    """It streams, resumes and cancels under ``/llm`` of another site, whose other paths work."""
    (tmp_path / "mysite.py").write_text(block("def site(").text)
    (tmp_path / "choreo.ini").write_text(told_ini(upstream))
    port = free_port()
    words = [
        word.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(
            "choreo_wsgi:app", "mysite:site"
        )
        for word in command("waitress-serve")
    ]
    variables = {"CHOREO_CONFIG": str(tmp_path / "choreo.ini"), "PYTHONPATH": str(tmp_path)}
    one = Launched(words, port, environment(tmp_path, **variables), tmp_path / "log")
    try:
        with one.connect() as client:
            assert client.exchange("GET", "/about").body == b"the rest of the site\n"
            assert client.exchange("GET", "/llm/healthz").status == 200
            assert client.exchange("GET", "/llm/nothing").error["code"] == "endpoint_not_found"
        with one.connect() as client:
            client.request("POST", f"/llm{CHAT}", ask(), {"Choreo-Resumable": "1"})
            reply = answer().begin()
            location = client.read_head().headers["content-location"]
            assert read_text(client) == ""
            reply.say("one ")
            assert read_text(client) == "one "
        reply.say("two ")
        with one.connect() as client:
            client.request("GET", f"{location}?after=2")
            assert client.read_head().status == 200
            assert read_text(client) == "two "
            reply.finish()
        with one.connect() as client:
            client.request("POST", f"/llm{CHAT}", ask())
            reply = answer().begin()
            assert client.read_head().status == 200
        assert reply.call.is_left()
        with one.connect() as client:
            client.request("POST", f"/llm{CHAT}", ask(stream=False))
            reply = answer()
        assert reply.call.is_left()
    finally:
        one.abandon()


def test_other_servers_are_those_tested() -> None:
    """By ``test_wsgi_servers``."""
    lines = commands(block("waitress-serve"))
    assert [line.split()[0] for line in lines] == ["waitress-serve", "gunicorn", "uwsgi"]


def nginx_with(location: str, nginx: str, server: int, folder: Path) -> Launched:
    """Start nginx with the README's *location* in front of the port *server*."""
    port = free_port()
    assert "127.0.0.1:8000" in location
    location = location.replace("127.0.0.1:8000", f"127.0.0.1:{server}")
    folders = " ".join(
        f"{kind}_temp_path {folder};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{'user root; ' if os.geteuid() == 0 else ''}"  # other users may not enter the folder
        f"pid {folder}/pid; daemon off; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/bodies; {folders}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location}\n}} }}\n"
    )
    words = [nginx, "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")]
    return Launched(words, port, environment(folder), folder / "log")


def test_nginx_streams_and_accepts_long_bodies(
    keyed_server: Launched, answer: Callable[[], Answer], tmp_path: Path
) -> None:
    """Frames and pings pass at once, bodies up to the server's limit."""
    nginx = harness.require_tool("nginx", "nginx-light")
    one = nginx_with(block("proxy_pass").text, nginx, keyed_server.port, tmp_path)
    key = {"Authorization": f"Bearer {KEY}"}
    try:
        with one.connect() as client:
            client.request("POST", CHAT, ask(), key)
            reply = answer().begin()
            assert client.read_head().headers["content-type"].startswith("text/event-stream")
            assert read_text(client) == ""
            for word in ("once ", "upon "):
                reply.say(word)
                assert read_text(client) == word
            assert client.read_frame() == b": ping\n"
        assert reply.call.is_left()
        with one.connect() as client:
            body = ask("x" * 33_000_000, model="echo", stream=False, max_tokens=1)
            assert client.exchange("POST", CHAT, body, key).status == 200
            body = ask("x" * 33_600_000, model="echo")
            assert client.exchange("POST", CHAT, body, key).error["code"] == "body_too_large"
        with one.connect() as client:
            assert client.exchange("POST", CHAT, ask()).status == 401
    finally:
        one.abandon()


def test_nginx_does_not_bypass_the_host_check(server: Launched, tmp_path: Path) -> None:
    """The server has no keys, and the Host header names this machine."""
    nginx = harness.require_tool("nginx", "nginx-light")
    one = nginx_with(block("proxy_pass").text, nginx, server.port, tmp_path)
    try:
        for host in ("localhost", "127.0.0.1:8000", "[::1]"):
            with one.connect() as client:
                answer = client.exchange("GET", "/v1/models", headers={"Host": host})
                assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
    finally:
        one.abandon()


def test_check_reports_single_frames(keyed_server: Launched, tmp_path: Path) -> None:
    """``test_doctor`` tests the findings."""
    (line,) = commands(block("choreo-wsgi check"))
    line = line.replace("https://llm.example.com", keyed_server.url).replace("first-key", KEY)
    printed = shell(f"{line} --seconds 1", environment(tmp_path), tmp_path)
    assert "frames arrive one by one" in printed


def test_second_curl_line_resumes_the_stream(server: Launched, tmp_path: Path) -> None:
    """It prints the frames of the first after the one that it names."""
    harness.require_tool("curl", "curl")
    shown = block("Choreo-Resumable")
    first, second = commands(shown)
    assert first.endswith(" ...")
    body = shlex.quote(json.dumps(ask("one two three", model="paced")))
    first = f"{first[:-4]} -sS -H Content-Type:application/json -d {body}"
    env = environment(tmp_path)
    address = f"127.0.0.1:{server.port}"
    printed = shell(first.replace("127.0.0.1:8000", address), env, tmp_path)
    head, _, frames = printed.replace("\r\n", "\n").partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.split("\n")[1:])
    stream = headers["Choreo-Stream-Id"]
    assert headers["Content-Location"] == f"/v1/streams/{stream}"
    expected = ["Choreo-Stream-Id: strm_", "Content-Location: /v1/streams/strm_", "id: 1\ndata: {"]
    assert all(words in printed.replace("\r\n", "\n") for words in expected)
    assert all(words in shown.text for words in expected)
    after = re.sub("strm_[^?]*", stream, second).replace("127.0.0.1:8000", address)
    assert shell(f"{after} -sS", env, tmp_path) == frames[frames.index("id: 2\n") :]


def test_curl_line_of_the_banner_works(tmp_path: Path) -> None:
    """``choreo-wsgi serve`` prints a curl line to paste."""
    harness.require_tool("curl", "curl")
    with running(tmp_path, "[choreo]\ndefault_model = echo\n") as one:
        harness.wait_until(lambda: "  curl" in one.log.read_text(), "the banner is there")
        lines = [line for line in one.log.read_text().splitlines() if line.startswith("  curl")]
        printed = shell(f"{lines[0]} -sS", environment(tmp_path), tmp_path)
    assert printed.endswith("data: [DONE]\n\n")
