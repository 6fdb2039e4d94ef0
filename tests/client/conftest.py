import pytest
from both_clients import Clients
from scripted_server import ScriptedServer


@pytest.fixture
def server():
    made = ScriptedServer()
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def clients(request):
    """Makes clients, sync ones and async ones with the same face."""
    made = Clients(request.param)
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
