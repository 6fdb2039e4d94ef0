from contextlib import ExitStack

import pytest
from both_clients import Clients
from raw_server import RawServer


@pytest.fixture
def server():
    with RawServer() as server:
        yield server


@pytest.fixture
def clients(request):
    """Makes sync clients; with the mark ``both`` also async ones with the same interface."""
    clients = Clients(getattr(request, "param", "sync"))
    yield clients
    clients.close()


@pytest.fixture
def client(clients, server):
    return clients(server.url)


@pytest.fixture
def open_stream(client):
    """Opens a stream."""

    def open_stream(**options):
        options = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **options}
        return client.chat.completions.create(stream=True, **options)

    return open_stream


@pytest.fixture(autouse=True)
def _clear_environment(monkeypatch):
    for name in ("CHOREOAI_API_KEY", "CHOREOAI_BASE_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tls_servers(tls, monkeypatch):
    """Makes servers that speak TLS."""
    context, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    with ExitStack() as servers:
        yield lambda: servers.enter_context(RawServer(context=context))


@pytest.fixture
def tls_server(tls_servers):
    return tls_servers()


@pytest.fixture
def tls_proxy(tls_servers):
    return tls_servers()
