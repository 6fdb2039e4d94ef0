from contextlib import ExitStack

import pytest
from both_clients import Clients
from raw_server import RawServer


@pytest.fixture
def server():
    with RawServer() as made:
        yield made


@pytest.fixture
def clients(request):
    """Makes sync clients; with the mark ``both`` also async ones with the same face."""
    made = Clients(getattr(request, "param", "sync"))
    yield made
    made.close()


@pytest.fixture
def client(clients, server):
    return clients(server.url)


@pytest.fixture
def ask(client):
    """Opens a stream."""

    def ask(**options):
        options = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **options}
        return client.chat.completions.create(stream=True, **options)

    return ask


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("CHOREOAI_API_KEY", "CHOREOAI_BASE_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tls_servers(tls, monkeypatch):
    """Makes servers that speak TLS."""
    context, certificate = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate)
    with ExitStack() as made:
        yield lambda: made.enter_context(RawServer(context=context))


@pytest.fixture
def tls_server(tls_servers):
    return tls_servers()


@pytest.fixture
def tls_proxy(tls_servers):
    return tls_servers()
