"""Calls: requests, answers, proxies, retries and time limits."""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
import select
import socket
import ssl
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from both_clients import both
from raw_server import DEADLINE, answer, chat_chunk, frame

import choreoai
from choreoai.transports.base import NOT_READY, Nested

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def complete(client):
    def complete(**options):
        return client.chat.completions.create(**{"model": "m", "messages": HI, **options})

    return complete


@both
def test_create_returns_the_completion(server, complete):
    server.then(lambda peer: peer.json(COMPLETION))
    completion = complete()
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 2
    assert completion.to_dict() == COMPLETION


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_reads_a_plain_answer_in_every_framing(server, complete, framing):
    def script(peer):
        peer.head(kind="application/json", framing=framing)
        for byte in b'{"id": "x", "choices": [{}]}':
            peer.body(bytes([byte]))
        peer.end()

    server.then(script)
    assert complete().id == "x"


def test_sends_all_parameters_and_the_default_headers(server, clients, complete):
    server.then(lambda peer: peer.json(COMPLETION))
    extra = {"invented": {"a": None}}
    tools = [{"type": "function"}]
    complete(temperature=0.5, tools=tools, stop=None, stream=False, extra_body=extra)
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.json() == {
        "model": "m",
        "messages": HI,
        "temperature": 0.5,
        "tools": [{"type": "function"}],
        "invented": {"a": None},
        "stop": None,
        "stream": False,
    }
    assert request.headers["authorization"] == "Bearer sk-test"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"] == "choreoai-python"


def test_rejects_an_undocumented_parameter(server, complete):
    with pytest.raises(TypeError, match=r"'temprature'.*extra_body"):
        complete(temprature=3)
    assert server.accepted == 0


def test_extra_headers_query_and_body_override_the_defaults(server, clients):
    server.then(lambda peer: peer.json(COMPLETION))
    client = clients(
        server.url,
        default_headers={"X-A": "1", "X-B": "1", "User-Agent": "own"},
        default_query={"api-version": "0"},
    )
    client.chat.completions.create(
        model="m",
        messages=HI,
        extra_headers={"X-B": "2"},
        extra_query={"api-version": "1 2"},
        extra_body={"model": "other", "x": 1},
    )
    request = server.requests[0]
    assert request.path == "/v1/chat/completions?api-version=1+2"
    headers = [request.headers[name] for name in ("x-a", "x-b", "user-agent")]
    assert headers == ["1", "2", "own"]
    assert request.json() == {"model": "other", "messages": HI, "x": 1}


def test_sends_no_authorization_without_a_key(server, clients, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.then(lambda peer: peer.json(COMPLETION))
    clients(server.url, api_key=None).chat.completions.create(model="m", messages=HI)
    assert "authorization" not in server.requests[0].headers


def test_accepts_a_message_of_an_answer_as_input(server, complete):
    server.then(lambda peer: peer.json(COMPLETION))
    message = complete().choices[0].message
    complete(messages=(m for m in [*HI, message]))
    assert server.requests[1].json()["messages"][1] == {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        object(),
        b"bytes",
        choreoai.Usage,
        functools.reduce(lambda x, _: [x], range(99_999)),
    ],
    ids=["nan", "object", "bytes", "class", "deep"],
)
def test_rejects_values_that_have_no_json_form(server, complete, value):
    words = "type is not a JSON type" if isinstance(value, type) else "JSON"
    with pytest.raises(choreoai.ChoreoAIError, match=words):
        complete(extra_body={"x": value})
    assert server.accepted == 0


@both
def test_lists_and_retrieves_models(server, client):
    model = {"id": "a/b", "object": "model", "created": 1, "owned_by": "us"}
    server.then(
        lambda peer: peer.json({"object": "list", "data": [model]}),
        lambda peer: peer.json(model),
    )
    listed = client.models.list()
    assert [m.id for m in listed] == ["a/b"]
    assert len(listed) == 1
    assert client.models.retrieve("a/b").owned_by == "us"
    assert server.requests[1].path == "/v1/models/a%2Fb"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad", choreoai.BadRequestError),
        ("401 Bad", choreoai.AuthenticationError),
        ("403 Bad", choreoai.PermissionDeniedError),
        ("404 Bad", choreoai.NotFoundError),
        ("409 Bad", choreoai.ConflictError),
        ("410 Bad", choreoai.APIStatusError),
        ("422 Bad", choreoai.UnprocessableEntityError),
        ("429 Bad", choreoai.RateLimitError),
        ("500 Bad", choreoai.InternalServerError),
        ("503 Bad", choreoai.InternalServerError),
    ],
)
def test_each_error_status_raises_its_class(server, complete, status, kind):
    error = {"message": "why", "type": "t", "code": "c", "param": "p"}
    server.then(lambda peer: peer.json({"error": error}, status, X_Request_Id="req-1"))
    with pytest.raises(choreoai.APIStatusError, match="why") as caught:
        complete(stream=status in ("400 Bad", "503 Bad"))
    raised = caught.value
    assert type(raised) is kind
    assert raised.status_code == int(status[:3])
    assert (raised.code, raised.type, raised.param, raised.request_id) == ("c", "t", "p", "req-1")


@both
def test_reads_an_answer_sent_before_the_whole_request(clients):
    """The server rejects the body: it answers and closes without reading the rest."""

    def refuse():
        with listener.accept()[0] as peer:
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(1024)
            peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        client = clients(f"http://127.0.0.1:{listener.getsockname()[1]}")
        large = [{"role": "user", "content": "x" * 20_000_000}]
        with pytest.raises(choreoai.APIStatusError) as raised:
            client.chat.completions.create(model="m", messages=large)
        thread.join()
    assert raised.value.status_code == 413


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"\xff", b"[" * 100_000, b'{"error": {"message": "why"}}'],
    ids=["html", "binary", "deep", "error"],
)
def test_success_with_an_unusable_body_raises(server, complete, body):
    def script(peer):
        peer.head(kind="application/json", framing=len(body))
        peer.send(body)

    server.then(script)
    with pytest.raises(choreoai.APIError, match="^why$" if b"why" in body else None):
        complete()


@pytest.mark.parametrize(
    "head",
    [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Cut: 1\r\n",
        "HTTP/1.1 200 OK\r\n" + "X-Many: 1\r\n" * 200 + "\r\n",
    ],
    ids=["no HTTP", "bad length", "cut", "many headers"],
)
def test_unreadable_head_raises(server, complete, head):
    server.then(lambda peer: peer.send(head.encode()))
    with pytest.raises(choreoai.APIError):
        complete()


def test_cut_plain_answer_raises_without_a_retry(server, complete):
    def script(peer):
        peer.head(kind="application/json", framing=100)
        peer.send(b'{"id":')

    server.then(script)
    with pytest.raises(choreoai.APIConnectionError):
        complete()
    assert len(server.requests) == 1


@both
def test_refused_connection_raises_a_connection_error(clients):
    client = clients("http://127.0.0.1:9", max_retries=0)
    with pytest.raises(choreoai.APIConnectionError) as caught:
        client.models.list()
    assert isinstance(caught.value, ConnectionError)
    reason = "[Errno 111] Connection refused"
    assert str(caught.value) == f"could not connect to http://127.0.0.1:9: {reason}"


# --- proxies ----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_sends_requests_through_an_http_proxy(server, clients, monkeypatch, scheme):
    monkeypatch.setenv("http_proxy", server.url.replace("http://", scheme))
    server.then(lambda peer: peer.stream(answer("a")))
    client = clients("http://server.invalid")
    for _ in range(2):
        stream = client.chat.completions.create(model="m", messages=HI, stream=True)
        assert "".join(stream.text) == "a"
    assert server.requests[0].path == "http://server.invalid/v1/chat/completions"
    assert server.accepted == 1


def tunnel(peer):
    """Answer CONNECT as a proxy does, also over TLS."""
    host, port = peer.request.path.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as far:
        peer.send(b"HTTP/1.1 200 Connected\r\nX-A: b\r\n\r\n")
        ends = {far: peer.sock, peer.sock: far}
        while True:
            ready = [peer.sock] if getattr(peer.sock, "pending", int)() else ()
            for end in ready or select.select(list(ends), [], [], DEADLINE)[0]:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)


@both
@pytest.mark.parametrize("kind", ["http", "https"])
def test_reaches_an_https_server_through_a_tunnel(
    server, tls_server, tls_proxy, clients, monkeypatch, kind
):
    """CONNECT, then TLS through the proxy, or inside the TLS of the proxy."""
    proxy = server if kind == "http" else tls_proxy
    monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//user:word@"))
    proxy.then(tunnel)
    tls_server.then(lambda peer: peer.stream(answer("a", "x" * 400_000)))
    client = clients(tls_server.url)
    sent = [{"role": "user", "content": "y" * 3_000_000}]
    for _ in range(2):
        stream = client.chat.completions.create(model="m", messages=sent, stream=True)
        assert "".join(stream.text) == "a" + "x" * 400_000
    assert tls_server.requests[1].json()["messages"] == sent
    assert [request.method for request in proxy.requests] == ["CONNECT"]
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"
    assert proxy.accepted == tls_server.accepted == 1
    tls_server.scripts[:] = [lambda peer: peer.stream(answer("a")[:2], framing="close", done=False)]
    with pytest.raises(choreoai.StreamInterruptedError):
        list(client.chat.completions.create(model="m", messages=HI, stream=True))


def test_tls_inside_tls_loses_no_bytes_to_a_full_socket(tls):
    near, far = socket.socketpair()
    near.setblocking(False)
    is_full, received = threading.Event(), []

    def serve():
        with tls[0].wrap_socket(far, server_side=True) as peer:
            is_full.wait(DEADLINE)
            while sum(map(len, received)) < len(data):
                received.append(peer.recv(65536))
            peer.send(b"all")

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=tls[1])
    inner = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    nested = Nested(near, inner, incoming, outgoing)

    def perform(operation, *args):
        while True:
            try:
                return operation(*args)
            except NOT_READY:
                if nested.unsent:
                    is_full.set()
                write = [near] if nested.unsent else []
                assert any(select.select([near], write, [], DEADLINE))

    data = b"".join(b"%07d\n" % number for number in range(100_000))
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with near:
        perform(nested.do_handshake)
        rest = memoryview(data)
        while rest:
            rest = rest[perform(nested.send, rest) :]
        assert perform(nested.recv, 16) == b"all" and is_full.is_set()
    thread.join(DEADLINE)
    assert b"".join(received) == data


@both
def test_sends_requests_through_an_https_proxy(tls_proxy, clients, monkeypatch):
    monkeypatch.setenv("http_proxy", tls_proxy.url.replace("//", "//user:word@"))
    tls_proxy.then(lambda peer: peer.stream(answer("a")))
    stream = clients("http://server.invalid").chat.completions.create(
        model="m", messages=HI, stream=True
    )
    assert "".join(stream.text) == "a"
    assert tls_proxy.requests[0].path == "http://server.invalid/v1/chat/completions"
    assert tls_proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


@both
def test_rejects_a_proxy_with_an_untrusted_certificate(tls_proxy, clients, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("https_proxy", tls_proxy.url)
    with pytest.raises(choreoai.APIConnectionError, match="certificate"):
        clients("https://server.invalid", max_retries=2).models.list()
    assert tls_proxy.accepted == 1


@both
def test_verify_proxies_and_session_override_the_environment(
    server, tls_server, clients, monkeypatch, tls
):
    """A session does so with ``trust_env = False``."""
    server.then(lambda peer: peer.json(COMPLETION))
    tls_server.then(lambda peer: peer.json(COMPLETION))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", __file__)
    for verify in (False, tls[1]):
        client = clients(tls_server.url, verify=verify)
        client.chat.completions.create(model="m", messages=HI)
    client = clients("http://server.invalid", proxies={"http": server.url})
    client.chat.completions.create(model="m", messages=HI)
    assert server.requests[0].path == "http://server.invalid/v1/chat/completions"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    session = requests.Session()
    session.trust_env = False
    clients(server.url, http_client=session).chat.completions.create(model="m", messages=HI)
    assert server.requests[1].path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("proxy", "words"),
    [(f"http://{at}", f"'http://{at}' is not the address") for at in ("", "h:0", "h:999999")],
)
def test_proxy_without_a_valid_address_raises(clients, proxy, words):
    client = clients("https://server.invalid", proxies={"https": proxy}, max_retries=5)
    with pytest.raises(choreoai.APIConnectionError, match=words):
        client.models.list()


@both
@pytest.mark.parametrize("answer", [b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nno TLS", b""])
def test_broken_tunnel_raises_a_connection_error(server, clients, answer):
    server.then(lambda peer: peer.send(answer))
    client = clients("https://server.invalid", proxies={"https": server.url}, max_retries=0)
    with pytest.raises(choreoai.APIConnectionError):
        client.models.list()


@pytest.mark.parametrize("setting", ["verify", "cert"])
def test_missing_certificate_file_raises_before_any_request(server, clients, setting):
    for value in ["/nowhere/x.pem", *([["/nowhere/x.pem", "/y"]] if setting == "cert" else [])]:
        client = clients(server.url, max_retries=5, **{setting: value})
        with pytest.raises(choreoai.APIConnectionError, match=r"no file /nowhere/x\.pem"):
            client.models.list()
    assert not server.requests


def test_rejects_invalid_header_names_and_values(server, client):
    for value in (3, None, "\u20ac", "a\r\nB: c"):
        with pytest.raises(choreoai.ChoreoAIError):
            client.models.list(extra_headers={"X-A": value})
    for name in ("", "X A", "X-\u20ac", "X:"):
        with pytest.raises(choreoai.ChoreoAIError, match="valid name"):
            client.models.list(extra_headers={name: "a"})
    assert not server.requests


def test_header_beyond_latin_1_is_named(server, client):
    with pytest.raises(choreoai.ChoreoAIError, match="the header 'X-A' has a character beyond"):
        client.models.list(extra_headers={"X-A": "\u20ac"})
    assert not server.requests


@pytest.mark.parametrize("name", ["extra_headers", "extra_query", "extra_body", "proxies"])
def test_option_that_is_no_dictionary_is_named(server, clients, name):
    with pytest.raises(TypeError, match=f"{name} must be a dictionary"):
        if name == "proxies":
            clients(server.url, proxies="http://proxy:3128")
        clients(server.url).models.list(**{name: ["a"]})
    assert not server.requests


@pytest.mark.parametrize("stream", ["yes", 1])
def test_stream_that_is_no_boolean_is_rejected_before_any_request(server, client, stream):
    messages = [{"role": "user", "content": "hi"}]
    for create, more in (
        (client.chat.completions.create, {"messages": messages}),
        (client.responses.create, {"input": "hi"}),
    ):
        with pytest.raises(TypeError, match="stream must be True or False"):
            create(model="m", stream=stream, **more)
    assert not server.requests


def test_base_url_with_a_query_is_rejected(server, clients):
    with pytest.raises(ValueError, match="pass it as default_query"):
        clients(f"{server.url}/v1?key=1")


@pytest.mark.parametrize(
    "url",
    [
        *("http://h:99999", "http://h:abc", "http://h:-1/v1", "http://h:0", "http://h: 80"),
        *("http://:8000", "http://[::1", "http://user@", "https://h:443x/v1"),
    ],
)
def test_base_url_without_a_valid_host_and_port_is_rejected(clients, url):
    with pytest.raises(ValueError, match="no valid host and port: ") as caught:
        clients(url)
    assert repr(url) in str(caught.value)


@both
def test_https_to_a_server_of_plain_http_says_so(clients):
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor() as threads:

        def refuse():
            with plain.accept()[0] as peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        refused = threads.submit(refuse)
        client = clients(f"https://127.0.0.1:{plain.getsockname()[1]}", max_retries=2)
        with pytest.raises(choreoai.APIConnectionError, match="may speak plain http"):
            client.models.list()
        refused.result(DEADLINE)


def test_rejects_an_empty_id(server, client):
    calls = (client.models.retrieve, client.responses.retrieve, client.chat.completions.resume)
    for call in calls:
        with pytest.raises(ValueError, match="must not be empty"):
            call("")
    assert not server.requests


def test_host_header_omits_the_user_of_the_url(server, clients):
    server.then(lambda peer: peer.json({"data": []}))
    clients(server.url.replace("//", "//user:word@")).models.list()
    assert server.requests[0].headers["host"] == server.url.removeprefix("http://")


@both
def test_tries_the_next_address_of_a_host(server, clients, monkeypatch):
    def find(host, port, *args, **options):
        if options.get("flags") == socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        addresses = [("127.0.0.1", 9), ("127.0.0.1", port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    server.then(lambda peer: peer.json({"data": []}))
    clients(f"http://llm.test:{server.port}").models.list()


def test_omit_removes_a_default_header(server, client):
    server.then(lambda peer: peer.json({"data": []}))
    client.models.list(extra_headers={"Authorization": choreoai.omit})
    assert server.requests[0].headers["authorization"] is None


def test_unusable_proxy_is_rejected_and_not_bypassed(server, clients, monkeypatch):
    for proxy in ("socks5://me:secret@127.0.0.1:9", "http://me:\u20ac@127.0.0.1:9"):
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(choreoai.APIConnectionError, match="SOCKS") as caught:
            clients(server.url, max_retries=5).models.list()
        assert "me:" not in str(caught.value)
    assert server.accepted == 0


# --- retries ----------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch):
    """Replaces the backoff between retries by none; returns the list of the attempts."""
    attempts = []

    def backoff(attempt, first=0.5, most=8.0):
        attempts.append(attempt)
        return 0.001

    for module in ("aio.stream", "sync.stream", "base"):
        monkeypatch.setattr(f"choreoai.{module}.backoff", backoff)
    return attempts


def refuse(status, **headers):
    return lambda peer: peer.json({"error": {"message": "no"}}, status, **headers)


@pytest.mark.parametrize(("status", "stream"), [("429 X", True), ("503 X", False)])
def test_retries_an_overloaded_server(server, clients, attempts, status, stream):
    good = lambda peer: peer.stream(answer("x")) if stream else peer.json(COMPLETION)  # noqa: E731
    server.then(refuse(status), refuse(status), good)
    client = clients(server.url, max_retries=2)
    result = client.chat.completions.create(model="m", messages=HI, stream=stream)
    if stream:
        assert "".join(result.text) == "x"
    assert attempts == [0, 1]
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_max_retries_0_of_a_call_disables_retries(server, client, attempts):
    server.then(refuse("500 X"))
    with pytest.raises(choreoai.InternalServerError):
        client.chat.completions.create(model="m", messages=HI, max_retries=0)
    assert len(server.requests) == 1


@both
def test_options_of_a_call_override_the_clients(server, clients, attempts):
    """Also with 0 retries, no timeout, and for requests that cannot be resumed."""
    client = clients(server.url, max_retries=2, timeout=1e-6, resumable=True)
    server.then(refuse("500 X"), lambda peer: peer.json(COMPLETION))
    with pytest.raises(choreoai.InternalServerError):
        client.chat.completions.create(model="m", messages=HI, max_retries=0, timeout=None)
    assert client.chat.completions.create(model="m", messages=HI, timeout=None).id == "chatcmpl-1"
    assert len(server.requests) == 2
    for request in server.requests:  # only a stream can be resumed
        assert not {"choreo-resumable", "idempotency-key"} & {*map(str.lower, request.headers)}


@pytest.mark.parametrize("messages", ["Hi", b"Hi", HI[0], None])
def test_rejects_messages_that_are_not_a_list(server, client, messages):
    with pytest.raises(TypeError, match="list of messages"):
        client.chat.completions.create(model="m", messages=messages)
    assert not server.requests


def test_clients_and_streams_cannot_be_copied_or_pickled(server):
    server.then(lambda peer: peer.stream(answer("a", "b")))
    with choreoai.ChoreoAI(base_url=server.url) as client:
        stream = client.chat.completions.create(model="m", messages=HI, stream=True)
        for value in (client, stream):
            for make_copy in (copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cop"):
                    make_copy(value)
        with pytest.raises(TypeError):
            copy.copy(stream)
        assert "".join(stream.text) == "ab"


@both
def test_retries_at_most_max_retries_times(server, clients, attempts):
    server.then(refuse("500 X"))
    with pytest.raises(choreoai.InternalServerError):
        clients(server.url, max_retries=1).models.list()
    assert len(server.requests) == 2


def test_obeys_x_should_retry_and_retry_after(server, clients, attempts):
    server.then(
        refuse("400 X", X_Should_Retry="true", Retry_After="0"),
        refuse("500 X", X_Should_Retry="false"),
    )
    with pytest.raises(choreoai.InternalServerError):
        clients(server.url, max_retries=5).models.list()
    assert len(server.requests) == 2
    assert attempts == []


@pytest.mark.parametrize(
    ("clients", "how"),
    [("sync", "reset"), ("async", "close"), ("sync", "inside the head")],
    indirect=["clients"],
)
def test_retries_a_connection_that_breaks_before_the_head(server, clients, attempts, how):
    def broken(peer):
        if how == "inside the head":
            peer.send(b"HTTP/1.1 404 X\r\nConte")
        if how == "reset":
            peer.reset()

    server.then(broken, lambda peer: peer.json(COMPLETION))
    client = clients(server.url, max_retries=1)
    assert client.chat.completions.create(model="m", messages=HI).id == "chatcmpl-1"
    assert len(server.requests) == 2


def test_first_byte_limit_starts_again_with_each_retry(server, clients, monkeypatch):
    real, elapsed = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + elapsed)

    def backoff(attempt):
        nonlocal elapsed
        elapsed += 2 * DEADLINE
        return 0.001

    monkeypatch.setattr("choreoai.base.backoff", backoff)
    server.then(refuse("503 X"), lambda peer: peer.json(COMPLETION))
    assert clients(server.url, max_retries=1).chat.completions.create(model="m", messages=HI).id


def test_does_not_retry_after_the_first_byte(server, clients, attempts):
    server.then(lambda peer: peer.stream([chat_chunk("a")], done=False))
    client = clients(server.url, max_retries=5)
    with pytest.raises(choreoai.StreamInterruptedError):
        list(client.chat.completions.create(model="m", messages=HI, stream=True))
    assert len(server.requests) == 1


# --- time limits ------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("stream", "head"), [(False, b""), (True, b"HTTP/1.1 200 OK\r\nContent-T")]
)
def test_first_byte_limit_covers_the_head(server, clients, stream, head):
    closed = threading.Event()

    def script(peer):
        peer.send(head)
        peer.wait_until_left()
        closed.set()

    server.then(script)
    client = clients(server.url, max_retries=3, timeout=choreoai.Timeout(first_byte=0.05))
    with pytest.raises(choreoai.APITimeoutError) as caught:
        client.chat.completions.create(model="m", messages=HI, stream=stream)
    assert isinstance(caught.value, TimeoutError)
    assert closed.wait(DEADLINE)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("clients", "frames"), [("sync", 0), ("async", 2)], indirect=["clients"])
def test_pings_do_not_extend_the_limits(server, clients, frames):
    """Neither before the first chunk nor between two."""
    closed = threading.Event()

    def script(peer):
        peer.head()
        peer.body(b"".join(map(frame, answer("a")[:frames])) + b": ping\n")
        try:
            while True:
                peer.body(b": ping\n")
                if peer.is_left(0.01):
                    break
        finally:
            closed.set()

    server.then(script)
    limits = {"first_byte": 0.2, "idle": DEADLINE} if frames == 0 else {"idle": 0.2}
    client = clients(server.url, timeout=choreoai.Timeout(**limits))
    stream = client.chat.completions.create(model="m", messages=HI, stream=True)
    for _ in range(frames):
        next(stream)
    with pytest.raises(choreoai.APITimeoutError) as caught:
        next(stream)
    assert caught.value.partial_text == ("a" if frames else "")
    assert closed.wait(DEADLINE)


@both
@pytest.mark.parametrize("timeout", [None, 86400 * 300])
def test_accepts_no_timeout_and_a_very_long_one(server, clients, timeout):
    server.then(lambda peer: peer.stream(answer("a")))
    client = clients(server.url, timeout=timeout)
    stream = client.chat.completions.create(model="m", messages=HI, stream=True)
    assert "".join(stream.text) == "a"


def test_first_byte_and_idle_limits_are_independent(server, clients):
    server.then(lambda peer: peer.stream(answer("a")))
    for begun, limits in enumerate([{"first_byte": None}, {"idle": None}]):
        client = clients(server.url, timeout=choreoai.Timeout(**limits))
        with client.chat.completions.create(model="m", messages=HI, stream=True) as stream:
            assert stream._exchange.deadline(bool(begun)) == math.inf
            assert stream._exchange.deadline(not begun) < math.inf


def test_idle_limit_excludes_the_time_between_reads(server, clients, monkeypatch):
    finish = threading.Event()
    real, elapsed = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: real() + elapsed)

    def script(peer):
        peer.head()
        peer.frame(answer("a")[0])
        assert finish.wait(DEADLINE)
        for value in [*answer("a")[1:], "[DONE]"]:
            peer.frame(value)
        peer.end()

    server.then(script)
    client = clients(server.url, timeout=choreoai.Timeout(idle=DEADLINE))
    stream = client.chat.completions.create(model="m", messages=HI, stream=True)
    next(stream)
    elapsed = 2 * DEADLINE
    finish.set()
    assert "".join(stream.text) == "a"


# --- memory ------------------------------------------------------------------------


@both
def test_dropped_stream_is_freed_without_garbage_collection(server, open_stream):
    """No reference cycle holds it."""
    server.then(lambda peer: peer.stream(answer("x")))
    gc.disable()
    try:
        stream = open_stream()
        assert len(list(stream)) == 3
        gone = weakref.ref(getattr(stream, "_inner", stream))
        del stream
        assert gone() is None
    finally:
        gc.enable()
