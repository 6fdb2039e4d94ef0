"""``choreo-wsgi check URL``: finds what stands between a client and a stream.

The model ``echo`` of the server behind the URL answers at times that are known beforehand, so
the arrivals here show what the proxies on the way do: they hold frames back, compress, speak
HTTP/1.0, give up on a silent stream, or keep a generation running whose client has left.  Each
finding comes with the line of configuration that mends it, and the exit status says which it is.
HTTP/2 and HTTP/3 are not spoken: a proxy treats a stream alike whatever its client speaks.
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

#: Exit statuses; 1 is no answer at all, 2 a wrong command line.
BUFFERED, COMPRESSED, OLD_HTTP, TIMED_OUT, NO_HEARTBEAT, NOT_NOTICED = 3, 4, 5, 6, 7, 8

#: The status of a finding, a proxy that can be the cause, and how its configuration mends it.
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
6 cloudflare a silence of 100 s is its limit: stream, and keep heartbeat_seconds below
7 proxies pass comment lines (: ping) of text/event-stream on as they come
8 nginx proxy_ignore_client_abort off; and no proxy_store or proxy_cache for /v1/
8 haproxy option abortonclose
""".splitlines()
]

#: How the server says that its request arrived, in answer to the header Choreo-Check.
_SAW = re.compile(r"(HTTP/[0-9.]+); (forwarded|direct); heartbeat=([0-9.]+)")

NOT_OURS = "it is not choreo-wsgi's echo (--model), or the header Choreo-Check does not pass"

_GAP = 0.25  # seconds between two words
_WORDS = 8
_PATIENCE = 5.0  # seconds in which a server should notice that its client left


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    parser.add_argument("url", metavar="URL", help="where clients reach the server: http(s)://HOST")
    parser.add_argument("--key", metavar="KEY", default="", help="an API key of the server")
    parser.add_argument("--model", default="echo", help="the name of its echo (%(default)s)")
    parser.add_argument(
        "--seconds", metavar="N", type=float, default=0.0, help="silence to pass (2.5 heartbeats)"
    )
    parser.epilog = (
        "Exit status: 0 nothing found, 1 no answer, 3 frames come in bursts, 4 compressed, 5 "
        "HTTP/1.0, 6 a time-out, 7 no heartbeats, 8 leaving is not noticed; of several the lowest."
    )


def run(options: argparse.Namespace) -> int:
    """Carry out the command; return the exit status."""
    if not (options.key.isascii() and options.key.isprintable()):
        raise ConfigurationError("--key has characters that no API key has")
    if not 0 <= options.seconds <= 3600:
        raise ConfigurationError("--seconds is a number from 0 to 3600")
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
    """An answer as it arrived; times are in seconds since the request was sent.

    *wrong* is what is wrong with it, in a few words; nothing when all of it came.
    """

    status: int = 0
    headers: Message = field(default_factory=Message)
    text: str = ""
    words: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    took: float = 0.0
    wrong: str = ""

    @property
    def proxy(self) -> str:
        """The name of the proxy, if it names itself; our own server does not."""
        words = f"{self.headers.get('Server')} {self.headers.get('Via')}".lower()
        return next((proxy for _, proxy, _ in MENDING if proxy.lower() in words), "")

    def read(self, response: HTTPResponse, began: float, most: int) -> None:
        """Read *response* until *most* words have come, if it is no 0, else to its end."""
        self.status, self.headers = response.status, response.headers
        packing = self.headers.get("Content-Encoding")
        if self.status == 200 and "Choreo-Saw" not in self.headers:
            self.wrong = f"{NOT_OURS}; the answer is {self.headers.get('Content-Type')}"
            return
        while data := response.read1(65536):
            self.text += data.decode("utf-8", "replace")
            for times, mark in ((self.words, '"content":"word'), (self.pings, ": ping")):
                times += [time.monotonic() - began] * (self.text.count(mark) - len(times))
            if most and len(self.words) >= most:
                return
        found = re.search(r'"message": ?"([^"]+)', self.text)
        if packing:
            self.wrong = f"the answer is packed with {packing}, asked for or not"
        elif self.status == 200:
            end = "data: [DONE]" if "data: " in self.text else "}"
            self.wrong = "" if self.text.rstrip().endswith(end) else "the answer was cut"
        elif self.status < 400:
            self.wrong = f"HTTP {self.status} to {self.headers.get('Location')}: ask there"
        elif found and "x-request-id" in self.headers:
            self.wrong = f"HTTP {self.status} ({found[1][:200]})"
        else:
            self.wrong = f"HTTP {self.status} from {self.proxy or 'a proxy'}, not from the server"


@dataclass
class Route:
    """The way to a server: sends requests for its echo, *model*, along it.

    *proxy* is the name of the one on the way, if it is known.
    """

    url: str
    key: str
    model: str
    proxy: str = ""

    def ask(
        self, count: int, delay: float = 0, most: int = 0, packing: str = "identity", **more: Json
    ) -> Answer:
        """Ask the echo for *count* words, each after a *delay* in seconds.

        Leave when *most* came, unless it is 0.  *packing* is what the answer may be packed with,
        *more* is sent in the body.
        """
        answer = Answer()
        address, target = parse_url(self.url, {})
        path = "/v1/chat/completions"
        target = target.rstrip("/").removesuffix(path).removesuffix("/v1") + path
        # Where frames are held back, the patience of one who leaves ends first.
        patience = 8 * _GAP if most else delay * count + 30
        connect = HTTPSConnection if address.scheme == "https" else HTTPConnection
        connection = connect(address.host, address.port, timeout=patience)
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
                answer.wrong = "what answers does not speak HTTP"
            if untrusted := getattr(error, "verify_message", ""):
                answer.wrong = f"{untrusted} (SSL_CERT_FILE names the authorities to trust)"
        finally:
            connection.close()
            answer.took = time.monotonic() - began
        if self.key and answer.status == 401 and "key is needed" in answer.wrong:
            answer.wrong += ": Authorization does not pass"
        self.proxy = self.proxy or answer.proxy
        return answer


def examine(route: Route, seconds: float) -> Iterator[tuple[int, str]]:
    """Yield the findings about *route*: an exit status, 0 where all is well, and what to say.

    *seconds* is the silence that must pass; 0 is two and a half heartbeats of the server.
    Raises ChoreoError when there is no answer to examine.
    """
    paced = route.ask(_WORDS, _GAP)
    saw = _SAW.fullmatch(paced.headers.get("Choreo-Saw", ""))
    if paced.wrong or saw is None or len(paced.words) != _WORDS:
        wrong = paced.wrong or f"{_WORDS} words were asked for, {len(paced.words)} came"
        raise ChoreoError(f"no stream to examine: {wrong}")
    proxy = route.proxy or ("a proxy" if saw[2] == "forwarded" else "")
    yield 0, f"the server answers {f'through {proxy}' if proxy else 'directly'}"
    late = _late(paced)
    if late > 2 * _GAP:  # a proxy holds back each time, a busy machine once
        late = min(late, _late(route.ask(_WORDS, _GAP)))
    if late > 2 * _GAP:
        yield BUFFERED, f"buffering: frames come in bursts, up to {late:.1f} s late"
    else:
        yield 0, f"frames arrive one by one, at most {late * 1000:.0f} ms late"
    framed = "Transfer-Encoding" in paced.headers
    if saw[1] == "HTTP/1.0" or not (framed or "Content-Length" in paced.headers):
        yield OLD_HTTP, "HTTP/1.0 or no chunks: a stream that is cut looks as if it had ended"
    else:
        yield 0, "HTTP/1.1 all the way: a cut shows"
    if packing := route.ask(2, _GAP, packing="gzip, br, zstd").headers.get("Content-Encoding"):
        yield COMPRESSED, f"compression: frames come packed with {packing}"
    yield _leaving(route)
    yield from _silence(route, seconds or 2.5 * float(saw[3]), float(saw[3]))


def _late(paced: Answer) -> float:
    """Return the longest delay of a word over that of the one that was held up least."""
    delays = [when - (number + 1) * _GAP for number, when in enumerate(paced.words)]
    return max(delays, default=math.inf) - min(delays, default=0.0)


def _leaving(route: Route) -> tuple[int, str]:
    id = secrets.token_hex(16)
    route.ask(int(60 / _GAP), _GAP, most=2, choreo_check={"id": id})
    left = time.monotonic()
    while (waited := time.monotonic() - left) < _PATIENCE:
        asked = route.ask(1, choreo_check={"about": id})
        if '"gone"' in asked.text:
            return 0, f"a client that leaves is noticed within {waited:.1f} s"
        time.sleep(_GAP)
    if '"running"' in asked.text:
        text = f"a client that leaves is not noticed in {_PATIENCE:.0f} s: its tokens are paid for"
        return NOT_NOTICED, text
    why = asked.wrong or "another process answers"
    return 0, f"whether a leaving client is noticed cannot be told: {why}"


def _silence(route: Route, seconds: float, heartbeat: float) -> Iterator[tuple[int, str]]:
    def ask(what: str, stream: bool) -> None:
        answers[what] = route.ask(1, seconds, stream=stream)

    answers: dict[str, Answer] = {}
    beside = threading.Thread(target=ask, args=("a plain answer", False), daemon=True)
    beside.start()
    ask("a silent stream", True)
    beside.join()
    for what, answer in sorted(answers.items(), reverse=True):
        if not answer.wrong:
            yield 0, f"{what} of {seconds:g} s passes"
        elif 400 <= answer.status < 502 or answer.status == 503:  # a limit, not a time
            raise ChoreoError(f"{what} cannot be asked for: {answer.wrong}")
        else:
            after = f"after {answer.took:.1f} s: {answer.wrong}"
            yield TIMED_OUT, f"time-out: {what} is given up {after}"
    silent = answers["a silent stream"]
    if not silent.wrong and seconds > heartbeat:
        if silent.pings and silent.pings[0] < seconds - 0.5 * heartbeat:
            yield 0, f"heartbeats pass: {len(silent.pings)} in {seconds:g} s"
        else:
            yield NO_HEARTBEAT, f"no heartbeat passed in {seconds:g} s"
