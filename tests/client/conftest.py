import ssl
import subprocess

import harness
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        harness.require_tool("openssl", "openssl"),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]
    command += ["-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


@pytest.fixture
def tls_servers(certificate, monkeypatch):
    """Makes servers that speak TLS."""
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert))
    made = []

    def make():
        made.append(ScriptedServer(tls=context))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def tls_server(tls_servers):
    return tls_servers()


@pytest.fixture
def tls_proxy(tls_servers):
    return tls_servers()
