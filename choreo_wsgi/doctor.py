"""``choreo-wsgi check URL``: finds what stands between a client and a stream.

The model ``echo`` of the server behind the URL answers at times that are known beforehand, so
the arrivals here show what the proxies on the way do: they hold frames back, compress, speak
HTTP/1.0, give up on a silent stream, or keep a generation running whose client has left.  Each
finding comes with the line of configuration that mends it, and the exit status says which it is.

HTTP/2 and HTTP/3 are not spoken here: a proxy treats a stream alike whatever its client speaks.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import secrets
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import ChoreoError, ConfigurationError
from .upstream.address import parse_url
from .version import __version__

#: Exit statuses; 1 is no answer at all, 2 a wrong command line.
BUFFERED, COMPRESSED, OLD_HTTP, TIMED_OUT, NO_HEARTBEAT, NOT_NOTICED = 3, 4, 5, 6, 7, 8

#: The line that mends a finding, for each proxy that can be the cause.
MENDING = {
    BUFFERED: {
        "nginx": "proxy_buffering off; and no proxy_ignore_headers X-Accel-Buffering",
        "haproxy": "no http-response wait-for-body",
        "Caddy": "reverse_proxy without response_buffers or buffer_responses; flush_interval -1",
        "Apache": "ProxyPass with flushpackets=on",
    },
    COMPRESSED: {
        "nginx": "gzip_types without text/event-stream, or gzip off;",
        "haproxy": "compression type without text/event-stream",
        "Caddy": "encode without text/event-stream in its match",
        "Apache": "SetEnvIf Request_URI ^/v1/ no-gzip",
    },
    OLD_HTTP: {
        "nginx": 'proxy_http_version 1.1; with proxy_set_header Connection "";',
        "Apache": "no SetEnv force-proxy-request-1.0",
    },
    TIMED_OUT: {
        "nginx": "proxy_read_timeout 330s; and proxy_send_timeout 330s;",
        "haproxy": "timeout server 330s and timeout client 330s",
        "Caddy": "transport http with read_timeout and response_header_timeout of 330s, or none",
        "Apache": "ProxyPass with timeout=330",
        "cloudflare": "a silence of 100 s is its limit: stream, and keep heartbeat_seconds below",
    },
    NO_HEARTBEAT: {"any proxy": "pass comment lines (: ping) of text/event-stream as they come"},
    NOT_NOTICED: {
        "nginx": "proxy_ignore_client_abort off; and no proxy_store or proxy_cache for /v1/",
        "haproxy": "option abortonclose",
    },
}

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
    status = 0
    for finding in examine(Route(options.url, options.key, options.model), options.seconds):
        print(f"{'FOUND' if finding.status else 'ok':6} {finding.text}", flush=True)
        if finding.status:
            status = min(status or finding.status, finding.status)
            lines = MENDING[finding.status]
            for proxy in [finding.proxy] if finding.proxy in lines else lines:
                print(f"       {proxy}: {lines[proxy]}", flush=True)
    return status


@dataclass(frozen=True)
class Finding:
    """One result: its exit *status* (0: as it should be), and the proxy, if its name is known."""

    status: int
    text: str
    proxy: str = ""


@dataclass
class Answer:
    """An answer as it arrived; times are in seconds since the request was sent."""

    status: int = 0
    version: int = 11
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    words: list[float] = field(default_factory=list)
    pings: list[float] = field(default_factory=list)
    took: float = 0.0
    problem: str = ""

    @property
    def packing(self) -> str:
        """How it is packed: the content coding, empty if it is not."""
        return self.headers.get("content-encoding", "")

    @property
    def complete(self) -> bool:
        """Whether all of it came."""
        done = self.text.rstrip().endswith(("data: [DONE]", "}"))
        return self.status == 200 and not self.problem and done

    @property
    def why(self) -> str:
        """What is wrong with it, in a few words."""
        if not self.status:
            return self.problem
        if 300 <= self.status < 400:
            return f"HTTP {self.status} to {self.headers.get('location', 'nowhere')}: ask there"
        if self.status != 200:
            found = re.search(r'"message": ?"([^"]+)', self.text)
            if found and "x-request-id" in self.headers:
                return f"HTTP {self.status} ({found[1][:200]})"
            who = _proxy_name(self.headers) or "something else"
            return f"HTTP {self.status} from {who}, not from the server"
        return self.problem or "the answer was cut"


class Route:
    """The way to a server: sends requests for its echo along it."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._address, target = parse_url(url, {})
        self._target = target.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
        self._key = key
        self._model = model

    def ask(
        self,
        count: int,
        check: dict[str, Any],
        *,
        stream: bool = True,
        leave_after: int = 0,
        packing: str = "gzip",
    ) -> Answer:
        """Ask the echo for *count* words; with *leave_after* leave when that many came.

        *packing* is what the answer may be packed with; only gzip can be read.
        """
        answer = Answer()
        # Where frames are held back, the patience of one who leaves ends first.
        patience = 8 * _GAP if leave_after else check.get("delay_ms", 0) / 1000 * count + 30
        tls = self._address.scheme == "https"
        connect = http.client.HTTPSConnection if tls else http.client.HTTPConnection
        connection = connect(self._address.host, self._address.port, timeout=patience)
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": " ".join(["word"] * count)}],
            "stream": stream,
            "choreo_check": check,
        }
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": packing,
            "Choreo-Check": "1",
            "User-Agent": f"choreo-wsgi/{__version__}",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        began = time.monotonic()
        try:
            connection.request("POST", self._target, json.dumps(body), headers)
            response = connection.getresponse()
            answer.status, answer.version = response.status, response.version
            answer.headers = {name.lower(): value for name, value in response.getheaders()}
            if answer.status == 200 and "choreo-saw" not in answer.headers:
                answer.problem = NOT_OURS
            for text in () if answer.problem else _read(response, answer.packing):
                now = time.monotonic() - began
                answer.text += text
                count = answer.text.count('"content":"word')
                answer.words += [now] * (count - len(answer.words))
                answer.pings += [now] * (answer.text.count(": ping") - len(answer.pings))
                if leave_after and len(answer.words) >= leave_after:
                    break
        except ssl.SSLCertVerificationError as error:
            answer.problem = (
                f"{error.verify_message} (SSL_CERT_FILE names the authorities to trust)"
            )
        except (OSError, http.client.HTTPException, zlib.error) as error:
            answer.problem = str(error) or type(error).__name__
        finally:
            connection.close()
        answer.took = time.monotonic() - began
        return answer


def _read(response: http.client.HTTPResponse, encoding: str) -> Iterator[str]:
    """Yield the text of *response* piece by piece, as it arrives."""
    unpack = zlib.decompressobj(47) if encoding in ("gzip", "deflate") else None
    while data := response.read1(65536):
        yield (unpack.decompress(data) if unpack else data).decode("utf-8", "replace")


def examine(route: Route, seconds: float) -> Iterator[Finding]:
    """Yield the findings about *route* one after the other.

    *seconds* is the silence that must pass; 0 is two and a half heartbeats of the server.
    Raises ChoreoError when there is no answer to examine.
    """
    paced = route.ask(_WORDS, {"delay_ms": _GAP * 1000})
    if not paced.complete:
        raise ChoreoError(f"no stream to examine: {paced.why}")
    saw = _SAW.fullmatch(paced.headers["choreo-saw"])
    if saw is None or len(paced.words) != _WORDS:
        raise ChoreoError(f"no stream to examine: {NOT_OURS}")
    protocol, way, heartbeat = saw[1], saw[2], float(saw[3])
    proxy = _proxy_name(paced.headers)
    through = f"through {proxy}" if proxy else "directly" if way == "direct" else "through a proxy"
    yield Finding(0, f"the server answers {through}")
    yield from _examine_pace(paced, protocol, proxy)
    if not paced.packing and (packing := route.ask(1, {}, packing="br, zstd").packing):
        yield Finding(COMPRESSED, f"compression: browsers get it packed with {packing}", proxy)
    yield _examine_leaving(route, proxy)
    yield from _examine_silence(route, proxy, seconds or 2.5 * heartbeat, heartbeat)


def _proxy_name(headers: dict[str, str]) -> str:
    """Return the proxy that names itself; our own server does not."""
    words = f"{headers.get('server', '')} {headers.get('via', '')}"
    names = {proxy for lines in MENDING.values() for proxy in lines}
    return next((name for name in names if name.lower() in words.lower()), "")


def _examine_pace(answer: Answer, protocol: str, proxy: str) -> Iterator[Finding]:
    # Each word's delay over the one that was held up least: the way itself takes its time too.
    delays = [when - (number + 1) * _GAP for number, when in enumerate(answer.words)]
    late = max(delays) - min(delays)
    if answer.packing:
        text = f"compression: frames come packed with {answer.packing}, up to {late:.1f} s late"
        yield Finding(COMPRESSED, text, proxy)
    elif late > 2 * _GAP:
        text = f"buffering: frames come in bursts, up to {late:.1f} s late"
        yield Finding(BUFFERED, text, proxy)
    else:
        yield Finding(0, f"frames arrive one by one, at most {late * 1000:.0f} ms late")
    if answer.version == 10 or protocol == "HTTP/1.0":
        text = "HTTP/1.0: a stream that is cut looks like one that has ended, to the proxy as well"
        yield Finding(OLD_HTTP, text, proxy)
    else:
        yield Finding(0, "HTTP/1.1 all the way: a cut shows")


def _examine_leaving(route: Route, proxy: str) -> Finding:
    id = secrets.token_hex(16)
    route.ask(int(60 / _GAP), {"delay_ms": _GAP * 1000, "id": id}, leave_after=2)
    left = time.monotonic()
    while (waited := time.monotonic() - left) < _PATIENCE:
        asked = route.ask(1, {"about": id}, stream=False)
        if '"gone"' in asked.text:
            return Finding(0, f"a client that leaves is noticed within {waited:.1f} s")
        time.sleep(_GAP)
    if '"running"' in asked.text:
        text = f"a client that leaves is not noticed in {_PATIENCE:.0f} s: its tokens are paid for"
        return Finding(NOT_NOTICED, text, proxy)
    why = "another process answers" if asked.complete else asked.why
    return Finding(0, f"whether a leaving client is noticed cannot be told: {why}")


def _examine_silence(
    route: Route, proxy: str, seconds: float, heartbeat: float
) -> Iterator[Finding]:
    check = {"delay_ms": seconds * 1000}
    plain: list[Answer] = []
    beside = threading.Thread(
        target=lambda: plain.append(route.ask(1, check, stream=False)), daemon=True
    )
    beside.start()
    silent = route.ask(1, check)
    beside.join()
    for answer, what in ((silent, "a silent stream"), (plain[0], "a plain answer")):
        if answer.complete:
            yield Finding(0, f"{what} of {seconds:g} s passes")
        elif 400 <= answer.status < 500:
            raise ChoreoError(f"{what} cannot be asked for: {answer.why}")
        else:
            text = f"time-out: {what} is given up after {answer.took:.1f} s: {answer.why}"
            yield Finding(TIMED_OUT, text, proxy)
    if silent.complete and seconds > heartbeat:
        if silent.pings and silent.pings[0] < seconds - 0.5 * heartbeat:
            yield Finding(0, f"heartbeats pass: {len(silent.pings)} in {seconds:g} s")
        else:
            yield Finding(NO_HEARTBEAT, f"no heartbeat passed in {seconds:g} s", proxy)
