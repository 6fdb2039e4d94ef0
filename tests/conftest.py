"""Fixtures for all tests; see ``harness.py``."""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import ssl
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import harness
import hypothesis
import pytest
from plain_apps import Running
from raw_server import certificate
from scripted_provider import Script, Scripted

from choreo_wsgi.app.application import Application
from choreo_wsgi.providers import registry

# No time limit for an example: the machine may be busy with other work.
hypothesis.settings.register_profile(
    "choreo", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("choreo")


#: Prefixes of the variables that our programs, the SDKs and the servers of the tests read.
SETTINGS = re.compile(
    "CHOREO|OPENAI_|AZURE_|ANTHROPIC_|AWS_|GOOGLE_|GEMINI_|OLLAMA_|OTEL_|PROMETHEUS_|GUNICORN_"
    "|WEB_CONCURRENCY|LISTEN_|NOTIFY_SOCKET|REQUESTS_CA_BUNDLE|CURL_|SSL_CERT_|NETRC"
    "|PYTHON(?!PATH|HASHSEED|DONTWRITEBYTECODE)|FORCE_COLOR|NO_COLOR|COLUMNS|.*_PROXY$",
    re.IGNORECASE,
)
#: Variables with these prefixes that configure the test run itself.
KEPT = ("CHOREO_NIGHTLY",)


def pytest_configure() -> None:
    """Make the run independent of its environment.

    Keys, addresses and proxies would be used, an ignored SIGINT would be inherited by every program
    that a test starts, and unbuffered output changes the buffered output that a forked child
    repeats.  On Debian only root's PATH contains nginx, haproxy and apache2.  Some tests open a
    thousand connections, and unix sockets, whose paths must be short.
    """
    for name in list(os.environ):
        if SETTINGS.match(name) and name not in KEPT:
            del os.environ[name]
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    if len(tempfile.gettempdir()) > 24:  # a unix socket's path has room for 107 bytes
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    _forbid_silent_exit()
    os.umask(0o022)  # servers started by root drop their rights, and must read our files
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _forbid_silent_exit() -> None:
    """Let the tests fail if a server ends this process, as one does whose drain takes too long."""
    leave, tests = os._exit, os.getpid()
    os._exit = lambda status: leave(status or (70 if os.getpid() == tests else 0))


#: Files with few long tests; one that started last would leave the other cores idle.
LONGEST = (
    *("programs/test_doctor.py", "programs/test_wsgi_servers.py", "programs/test_page.py"),
    *("docs/test_rendering.py", "programs/test_install_size.py", "client/test_types.py"),
    *("app/test_replay_memory.py", "app/test_replicas.py", "app/test_limits_served.py"),
    *("app/test_random_disconnects.py",),
    *("local/test_local_served.py", "local/test_local_provider.py", "client/test_examples.py"),
    *("serve/test_reload.py", "serve/test_other_servers.py", "serve/test_startup.py"),
    *("providers/test_arbitrary_requests.py", "providers/test_long_texts.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the LONGEST first."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the collected tests from the cyclic collector: they live to the end of the run.

    With thousands of tests each full collection would otherwise take a fifth of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture
def require_tool() -> Callable[[str, str], str]:
    """``require_tool(name, package)``: the path of the program; see ``harness.py``."""
    return harness.require_tool


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """The TLS context of a server, and the file with the certificate to trust."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve() -> Iterator[Callable[..., harness.Server]]:
    """``serve(app, **adjustments)``: a real waitress, closed after the test."""
    servers: list[harness.Server] = []

    def start(app: Any, **adjustments: Any) -> harness.Server:
        servers.append(harness.Server(app, **adjustments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Script]]:
    """Install the provider type ``scripted`` through an entry point, as third-party types are.

    The fixture is a function that returns the :class:`Script` for the next request.
    """
    metadata = tmp_path / "scripted-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[choreo_wsgi.providers]\nscripted = scripted_provider:Scripted\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    scripts: list[Script] = []
    waiting: list[Script] = []

    def make() -> Script:
        script = Script()
        scripts.append(script)
        waiting.append(script)
        return script

    monkeypatch.setattr(Scripted, "script", staticmethod(lambda _: waiting.pop(0)), raising=False)
    registry.provider_class.cache_clear()
    yield make
    registry.provider_class.cache_clear()


@pytest.fixture
def application() -> Iterator[Callable[..., Application]]:
    """``application(sections, **settings)``: closed after the test, which must end all streams."""
    apps: list[Application] = []

    def make(
        sections: Mapping[str, Mapping[str, str]] | None = None, **settings: str
    ) -> Application:
        providers = {f"provider {name}": section for name, section in (sections or {}).items()}
        common = {"default_model": "none", "listen": "127.0.0.1:0", "drain_seconds": "0"}
        apps.append(harness.make_app({**common, **settings}, providers))
        return apps[-1]

    yield make
    for app in apps:
        harness.wait_until(lambda app=app: app.active == 0, "a slot was never released")
        app.close()


def _served(**settings: str) -> Running:
    """Run the application as ``choreo-wsgi serve`` does, on a free port."""
    common = {"listen": "127.0.0.1:0", "drain_seconds": "0", "max_streams": "8"}
    return Running(harness.make_app({**common, **settings}))


@pytest.fixture(scope="session")
def keyless() -> Iterator[Running]:
    """A server without keys, whose default model is the echo."""
    server = _served(default_model="echo", max_body_bytes="20000")
    yield server
    server.close()


@pytest.fixture(scope="session")
def keyed() -> Iterator[Running]:
    """A server with API keys and one allowed CORS origin."""
    server = _served(api_keys="right-key, other-key", cors_origins="https://app.test")
    yield server
    server.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make the captured output encodable: a lone surrogate in a log would end a parallel run.

    With ``CI=true`` a test that is skipped because of a missing package fails.
    """
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    if (
        report.skipped
        and os.environ.get("CI") == "true"
        and re.search("could not import|is in the extra", str(call.excinfo))
    ):
        report.outcome = "failed"
        report.longrepr = str(call.excinfo)
    return report
