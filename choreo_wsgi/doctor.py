"""``choreo-wsgi check URL``: finds proxies that disturb streams between a server and its clients.

The model ``echo`` of the server sends each word after a known delay, so the times of arrival here
show whether a proxy on the way buffers frames, compresses them, speaks HTTP/1.0, aborts a silent
stream, or keeps a generation running after its client has left.  Each finding is printed with the
line of configuration that mends it, and determines the exit status.  The requests are HTTP/1.1
only: a proxy treats a stream the same whichever version its client speaks.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection

from .chat.items import Json
from .errors import ChoreoError, ConfigurationError
from .upstream.address import parse_url
from .version import __version__

#: Exit statuses; 1 means no usable answer, 2 a wrong command line.
BUFFERED, COMPRESSED, OLD_HTTP, TIMED_OUT, NO_HEARTBEAT, NOT_NOTICED = 3, 4, 5, 6, 7, 8

#: The status of a finding, a proxy that can cause it, and the configuration that mends it.
MENDING = [
    row.split(maxsplit=2)
    for row in """\
3 nginx proxy_buffering off; and no proxy_ignore_headers X-Accel-Buffering
3 haproxy no http-response wait-for-body
3 Caddy reverse_proxy without response_buffers or buffer_responses; flush_interval -1
3 Apache ProxyPass with flushpackets=on
4 nginx gzip_types without text/event-stream, or gzip off;
4 haproxy compression type without text/event-stream
4 Caddy encode without text/event-stream in its match
4 Apache SetEnvIf Request_URI ^/v1/ no-gzip
5 nginx proxy_http_version 1.1; proxy_set_header Connection ""; chunked_transfer_encoding on;
5 Apache no SetEnv force-proxy-request-1.0
6 nginx proxy_read_timeout 330s; and proxy_send_timeout 330s;
6 haproxy timeout server 330s, timeout client 330s and no http-response wait-for-body
6 Caddy transport http with read_timeout and response_header_timeout of 330s, or none
6 Apache ProxyPass with timeout=330
6 cloudflare its limit is 100 s of silence: use streams, and a smaller heartbeat_seconds
7 proxies forward comment lines (: ping) of text/event-stream at once
8 nginx proxy_ignore_client_abort off; and no proxy_store or proxy_cache for /v1/
8 haproxy option abortonclose
""".splitlines()
]

#: The header Choreo-Saw, by which the server answers the header Choreo-Check: how it received
#: the request.
_SAW = re.compile(r"(HTTP/[0-9.]+); (forwarded|direct); heartbeat=([0-9.]+)")

NOT_OURS = "this is not choreo-wsgi's echo (see --model), or a proxy removes Choreo-Check"

_GAP = 0.25  # seconds between two words
_WORDS = 8
_PATIENCE = 5.0  # seconds within which a server should notice that its client has left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    add = parser.add_argument
    add("url", metavar="URL", help="the server's address for clients: http(s)://HOST")
    add("--key", metavar="KEY", default="", help="an API key of the server")
    add("--model", default="echo", help="the model name of its echo (%(default)s)")
    seconds = "length of the silence to test (default: 2.5 heartbeats)"
    add("--seconds", metavar="N", type=float, default=0.0, help=seconds)
    parser.epilog = (
        "Exit status: 0 no problem, 1 no usable answer, 3 buffering, 4 compression, 5 HTTP/1.0, "
        "6 a time-out, 7 no heartbeats, 8 the server does not notice that a client has left; "
        "the lowest if there are several."
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    if not (options.key.isascii() and options.key.isprintable()):
        raise ConfigurationError("--key must be printable ASCII")
    if not 0 <= options.seconds <= 3600:
        raise ConfigurationError("--seconds must be a number from 0 to 3600")
    worst = 0
    route = Route(options.url, options.key, options.model)
    for status, text in examine(route, options.seconds):
        print(f"{'FOUND' if status else 'ok':6} {text}", flush=True)
        if status:
            worst = min(worst or status, status)
            lines = {proxy: line for found, proxy, line in MENDING if found == str(status)}
            for proxy in [route.proxy] if route.proxy in lines else lines:
                print(f"       {proxy}: {lines[proxy]}", flush=True)
    return worst


@dataclass
class Answer:
    """An answer with the times at which its parts arrived, in seconds since the request.

    *wrong* describes the problem with it, ``""`` if it is complete.
    """

    status: int = 0
    headers: Message = field(default_factory=Message)
    text: str = ""
    words: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    duration: float = 0.0
    wrong: str = ""

    @property
    def proxy(self) -> str:
        """The name of the proxy, if its headers contain it; our own server adds none."""
        words = f"{self.headers.get('Server')} {self.headers.get('Via')}".lower()
        return next((proxy for _, proxy, _ in MENDING if proxy.lower() in words), "")

    def read(self, response: HTTPResponse, began: float, most: int) -> None:
        """Read *response* to its end, or until *most* words have arrived if that is not 0."""
        self.status, self.headers = response.status, response.headers
        packing = self.headers.get("Content-Encoding")
        if self.status == 200 and "Choreo-Saw" not in self.headers:
            self.wrong = f"{NOT_OURS}; its Content-Type is {self.headers.get('Content-Type')}"
            return
        while data := response.read1(65536):
            self.text += data.decode("utf-8", "replace")
            for times, mark in ((self.words, '"content":"word'), (self.pings, ": ping")):
                times += [time.monotonic() - began] * (self.text.count(mark) - len(times))
            if most and len(self.words) >= most:
                return
        found = re.search(r'"message": ?"([^"]+)', self.text)
        if packing:
            self.wrong = f"the answer is compressed with {packing}, which was not requested"
        elif self.status == 200:
            end = "data: [DONE]" if "data: " in self.text else "}"
            self.wrong = "" if self.text.rstrip().endswith(end) else "the answer was cut"
        elif self.status < 400:
            self.wrong = f"HTTP {self.status}: redirected, use {self.headers.get('Location')}"
        elif found and "x-request-id" in self.headers:
            self.wrong = f"HTTP {self.status} ({found[1][:200]})"
        else:
            self.wrong = f"HTTP {self.status} from {self.proxy or 'a proxy'}, not from the server"


@dataclass
class Route:
    """The route to a server, by which requests for its echo, *model*, are sent.

    *proxy* is the name of a proxy on it, once that is known.
    """

    url: str
    key: str
    model: str
    proxy: str = ""

    def request(
        self, count: int, delay: float = 0, most: int = 0, packing: str = "identity", **more: Json
    ) -> Answer:
        """Request *count* words from the echo, each after a *delay* in seconds.

        Disconnect after *most* words, unless that is 0.  *packing* is the Accept-Encoding; *more*
        is added to the body.
        """
        answer = Answer()
        address, target = parse_url(self.url, {})
        path = "/v1/chat/completions"
        target = target.rstrip("/").removesuffix(path).removesuffix("/v1") + path
        # With *most*, do not wait for long if a proxy buffers: the client is to leave early.
        timeout = 8 * _GAP if most else delay * count + 30
        connect = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = connect(address.host, address.port, timeout=timeout)
        message = {"role": "user", "content": " ".join(["word"] * count)}
        body = {"model": self.model, "messages": [message], "stream": True, **more}
        body["choreo_check"] = {"delay_ms": delay * 1000, **more.get("choreo_check", {})}
        headers = {"Content-Type": "application/json", "Choreo-Check": "1"}
        headers |= {"User-Agent": f"choreo-wsgi/{__version__}", "Accept-Encoding": packing}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        began = time.monotonic()
        try:
            connection.request("POST", target, json.dumps(body), headers)
            answer.read(connection.getresponse(), began, most)
        except (OSError, HTTPException) as error:
            cut = "the answer was cut: " if answer.status == 200 else ""
            answer.wrong = cut + (str(error) or type(error).__name__)
            if type(error) is BadStatusLine:
                answer.wrong = "the server does not speak HTTP"
            if getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
                answer.wrong = "the server does not speak https"
            if untrusted := getattr(error, "verify_message", ""):
                answer.wrong = f"{untrusted} (SSL_CERT_FILE names the authorities to trust)"
        finally:
            connection.close()
            answer.duration = time.monotonic() - began
        if self.key and answer.status == 401 and "key is needed" in answer.wrong:
            answer.wrong += ": a proxy removes the header Authorization"
        self.proxy = self.proxy or answer.proxy
        return answer


def examine(route: Route, seconds: float) -> Iterator[tuple[int, str]]:
    """Yield the findings about *route*: an exit status, 0 if there is no problem, and a text.

    *seconds* is the length of the silence to test; 0 means two and a half heartbeats of the
    server.  Raises ChoreoError when there is no usable answer.
    """
    paced = route.request(_WORDS, _GAP)
    saw = _SAW.fullmatch(paced.headers.get("Choreo-Saw", ""))
    if paced.wrong or saw is None or len(paced.words) != _WORDS:
        provider = paced.headers.get("Choreo-Provider", "unknown")
        arrived = f"{len(paced.words)} of {_WORDS} words arrived"
        wrong = paced.wrong or f"{arrived} (provider: {provider}; is --model the echo?)"
        raise ChoreoError(f"no usable stream: {wrong}")
    proxy = route.proxy or ("a proxy" if saw[2] == "forwarded" else "")
    yield 0, f"the server answers {f'through {proxy}' if proxy else 'directly'}"
    late = _late(paced)
    if late > 2 * _GAP:  # try again: a proxy buffers each time, a busy machine delays once
        late = min(late, _late(route.request(_WORDS, _GAP)))
    if late > 2 * _GAP:
        yield BUFFERED, f"buffering: frames arrive in bursts, up to {late:.1f} s late"
    else:
        yield 0, f"frames arrive one by one, at most {late * 1000:.0f} ms late"
    framed = "Transfer-Encoding" in paced.headers
    if saw[1] == "HTTP/1.0" or not (framed or "Content-Length" in paced.headers):
        yield OLD_HTTP, "HTTP/1.0 or no chunks: a client takes a cut stream for a complete one"
    else:
        yield 0, "HTTP/1.1 all the way: a client notices a cut stream"
    answer = route.request(2, _GAP, packing="gzip, br, zstd")
    if packing := answer.headers.get("Content-Encoding"):
        yield COMPRESSED, f"compression: frames are compressed with {packing}"
    yield _leaving(route)
    yield from _silence(route, seconds or 2.5 * float(saw[3]), float(saw[3]))


def _late(paced: Answer) -> float:
    """Return the difference between the longest and the shortest delay of a word, in seconds."""
    delays = [when - (number + 1) * _GAP for number, when in enumerate(paced.words)]
    return max(delays, default=math.inf) - min(delays, default=0.0)


def _leaving(route: Route) -> tuple[int, str]:
    """Disconnect from a long stream; return the finding whether the server notices that."""
    id = secrets.token_hex(16)
    route.request(int(60 / _GAP), _GAP, most=2, choreo_check={"id": id})
    left = time.monotonic()
    while (waited := time.monotonic() - left) < _PATIENCE:
        status = route.request(1, choreo_check={"about": id})
        if '"gone"' in status.text:
            return 0, f"a client that leaves is noticed within {waited:.1f} s"
        time.sleep(_GAP)
    if '"running"' in status.text:
        text = (
            f"a client that leaves is not noticed within {_PATIENCE:.0f} s: its generation goes on"
        )
        return NOT_NOTICED, text
    why = status.wrong or "another process answers"
    return 0, f"not tested whether a client that leaves is noticed: {why}"


def _silence(route: Route, seconds: float, heartbeat: float) -> Iterator[tuple[int, str]]:
    """Yield the findings about a stream and a document that are silent for *seconds*."""

    def request(kind: str, stream: bool) -> None:
        answers[kind] = route.request(1, seconds, stream=stream)

    answers: dict[str, Answer] = {}
    thread = threading.Thread(target=request, args=("a plain answer", False), daemon=True)
    thread.start()
    request("a silent stream", True)
    thread.join()
    for kind, answer in sorted(answers.items(), reverse=True):
        if not answer.wrong:
            yield 0, f"{kind} of {seconds:g} s passes"
        elif 400 <= answer.status < 502 or answer.status == 503:  # refused, not timed out
            raise ChoreoError(f"{kind} was refused: {answer.wrong}")
        else:
            after = f"after {answer.duration:.1f} s: {answer.wrong}"
            yield TIMED_OUT, f"time-out: {kind} is aborted {after}"
    silent = answers["a silent stream"]
    if not silent.wrong and seconds > heartbeat:
        if silent.pings and silent.pings[0] < seconds - 0.5 * heartbeat:
            yield 0, f"heartbeats pass: {len(silent.pings)} in {seconds:g} s"
        else:
            yield NO_HEARTBEAT, f"no heartbeat arrived in {seconds:g} s"
