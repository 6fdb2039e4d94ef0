"""``python -m bench hostile``: the worst effect of one request, or one event, on other streams.

For each kind: the longest pause in a stream of 100 frames a second, the most CPU time of one round
of the thread that moves all streams, and the peak growth of the process's memory, as a multiple
of the bytes sent, or of LEAST bytes if they are fewer.  The last lines show the worst of each; the
status is 1 if any growth is more than MOST times, or if a request is refused whose name does not
say so, as that measures little.

``python -m bench.hostile WORD`` runs the kinds with WORD in their names.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

from . import giant_answers, giant_requests, giants, odd_answers
from .actor import EVENTS, HEAD, Actor, Server, chat, chunked, event, post, read

MEBIBYTE = 1024 * 1024
#: The multiple of the size, or of LEAST bytes, by which the process may grow.
MOST, LEAST = 4, 2 * MEBIBYTE
SIZE = 8_000_000
#: The server's limit of bytes in one event.
LARGEST = 8 * MEBIBYTE

#: The values of an unknown member of a request.
MEMBERS: dict[str, Callable[[], bytes]] = {
    "one word": lambda: b'"%b"' % (b"x" * SIZE),
    "escapes": lambda: b'"%b"' % (b"\\n" * (SIZE // 2)),
    "quotes": lambda: b'"%b"' % (b'\\"' * (SIZE // 2)),
    "pairs": lambda: b'"%b"' % (b"\\ud83d\\ude00" * (SIZE // 12)),
    "one escaped emoji": lambda: b'"\\ud83d\\ude00%b"' % (b"x" * SIZE),
    "one emoji": lambda: b'"%b"' % ("\U0001f600".encode() + b"x" * SIZE),
    "lists, refused": lambda: b"[" + b"[]," * (SIZE // 3) + b"[]]",
    "objects, refused": lambda: b"[" + b"{}," * (SIZE // 3) + b"{}]",
    "numbers": lambda: b"[" + b"1.5," * (SIZE // 4) + b"1]",
    "as many values as allowed": lambda: b"[" + b'{"a":1},' * 10_100 + b"1]",
    "deep, refused": lambda: b"[" * SIZE,
}


#: The pause (ms), the longest round (ms), the growth and the name of each row.
WORST: list[tuple[float, float, float, str]] = []
#: The names of the requests that were refused or not, unlike their names.
MISNAMED: list[str] = []


class Watch:
    """Reads a stream of 100 frames a second and notes the longest pause."""

    def __init__(self, server: Server) -> None:
        self.longest = 0.0
        self._connection = server.connect()
        self._connection.sendall(post(chat({"frames": 100_000, "pause": 0.01})))
        self._connection.recv(65536)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        last = time.monotonic()
        while self._connection.recv(65536):
            now = time.monotonic()
            self.longest = max(self.longest, now - last)
            last = now


def measure(
    name: str,
    sent: bytes,
    size: int,
    answer: bytes = b"",
    small: bytes = b"",
    replay: str = "memory:",
) -> None:
    """Send the request *sent* and print a row; it or its *answer* has *size* bytes.

    *small* is a small request of the same kind, sent before to load the modules.  *replay* is the
    store of logs.
    """
    with tempfile.TemporaryDirectory() as folder:
        note, sections = Path(folder, "held"), Path(folder, "choreo.ini")
        note.touch()
        actor = Actor()
        actor.giants = {"it": answer, "models": answer, **NOTHING}
        sections.write_text(giants.PROVIDERS.format(url=actor.url.removesuffix("/v1")))
        # A new process for each measurement: it would use freed memory again.
        server = Server(
            actor.url,
            "--config",
            str(sections),
            *("--drain-seconds", "0", "--replay", replay.format(folder=folder)),
            module=f"bench.held {note}",
        )
        try:
            watch = Watch(server)
            for request in filter(None, (small, small)):
                with server.connect() as connection:
                    connection.sendall(request)
                    read(connection)
            time.sleep(0.5)
            server.forget_peak()
            before = server.memory()
            watch.longest = 0.0
            note.write_text("")
            with server.connect() as connection:
                connection.sendall(sent)
                received = read(connection)
            time.sleep(0.3)
            grown = (server.memory("VmHWM") - before) * 1024
            held = float(note.read_text() or 0)
        finally:
            server.close()
    values = sum(map((answer or sent).count, b",{["))
    growth = grown / max(size, LEAST)
    WORST.append((watch.longest * 1000, held * 1000, growth, name))
    status = received.split(b"\r\n", 1)[0].decode()
    if name.startswith("request") and ("refused" in name) is (" 200 " in status):
        MISNAMED.append(name)
    too_much = "" if growth <= MOST else "  TOO MUCH"
    failed = "  FAILED" if b'"error":{' in received[-2000:] or b"event: error" in received else ""
    print(
        f"  {name:46}{size / MEBIBYTE:6.1f} MiB   pause {watch.longest * 1000:5.0f} ms   "
        f"held {held * 1000:5.0f} ms   {grown / MEBIBYTE:5.1f} MiB   {growth:5.2f} x   "
        f"{values:6} values   {status}{failed}{too_much}",
        flush=True,
    )


def _response(kind: str, body: bytes) -> bytes:
    return HEAD % kind.encode() + chunked(body) + b"0\r\n\r\n"


#: Small answers of each kind.
NOTHING = {
    name: _response(kind, make("ok")) for name, (kind, make) in giant_answers.ANSWERS.items()
}


def members() -> None:
    """Measure chat requests with a large unknown member."""
    for name, make in MEMBERS.items():
        if wanted(title := f"request: {name}"):
            body = chat({"frames": 3})[:-1] + b',"x":' + make() + b"}"
            measure(title, post(body), len(body))


def requests() -> None:
    """Measure requests of each API to each kind of provider."""
    for model, small, api, title, make in (*giants.requests(), *giant_requests.requests()):
        if wanted(name := f"request: {api} to {model}, {title}"):
            body, path = (
                make().replace(b"giant:none", b"giant:" + small.encode()),
                giant_requests.PATHS[api],
            )
            form = giant_requests.FORMS.get(api, api)
            warm = giants.request(form, model, f'"giant:{small}"')
            sent, first = post(body, path=path), post(warm, path=path)
            measure(name, sent, len(body), small=first)
            if api == "stored":
                logs = "sqlite:{folder}/logs"
                measure(f"{name}, in SQLite", sent, len(body), small=first, replay=logs)


def answers() -> None:
    """Measure answers of each kind of provider in each API, with one large event."""
    for model, answer, api in giants.answer_cases():
        kind, make = giant_answers.ANSWERS[answer]
        path = giants.PATHS[api.partition(" ")[0]]
        sent, small = (
            post(giants.request(api, model, f'"giant:{giant}"'), path=path)
            for giant in ("it", answer)
        )
        for title, text in giants.TEXTS.items():
            if wanted(name := f"event: {answer} as {api}, {title}"):
                given = text()
                if "stored" in api and title == "escapes":  # as many as a log may have
                    given = ("\\n" + "x" * 14) * (giants.SIZE // 16)
                stream = make(given)
                if len(stream) > LARGEST:  # backslashes are doubled in arguments
                    stream = make(given[: giants.SIZE // 2])
                body = _response(kind, stream)
                measure(name, sent, len(stream), body, small)
                if "stored" in api:
                    logs = "sqlite:{folder}/logs"
                    measure(f"{name}, in SQLite", sent, len(stream), body, small, logs)


def odd() -> None:
    """Measure odd answers of providers."""
    for title, model, api, kind, make in odd_answers.cases():
        if not wanted(name := f"event: odd {title} as {api}"):
            continue
        body = make().encode()
        if api == "models":
            measure(
                name,
                b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                len(body),
                _response(kind, body),
            )
            continue
        usual = "chat many calls" if model == "m" else f"{model} text"
        small = odd_answers.SMALL.get((model, api), usual)
        sent, warm = (
            post(
                giants.request(api, model, f'"giant:{giant}"'),
                path=giants.PATHS[api.partition(" ")[0]],
            )
            for giant in ("it", small)
        )
        measure(name, sent, len(body), _response(kind, body), warm)


def events() -> None:
    """Measure chat events with a large text or a large unknown member."""
    sent = post(giants.request("chat", "m", '"giant:it"'))
    start, end = event('{"role":"assistant","content":""}'), event("{}", '"stop"')
    for name, make in EVENTS.items():
        if wanted(title := f"event: {name}"):
            stream = _response(giant_answers.EVENTS, start + make() + end + b"data: [DONE]\n\n")
            measure(title, sent, len(stream), stream)


def wanted(name: str) -> bool:
    """Return whether all words of the command line are in *name*."""
    return __name__ != "__main__" or all(word in name for word in sys.argv[1:])


def main() -> None:
    """Print the table."""
    print("hostile: the longest pause of another stream, and the growth per byte sent")
    measure("nothing", post(chat({"frames": 3})), MEBIBYTE)
    for part in (members, requests, answers, odd, events):
        part()
    pause, held = (max(WORST, key=itemgetter(figure)) for figure in range(2))
    print(f"worst: pause {pause[0]:.0f} ms ({pause[3]}); held {held[1]:.0f} ms ({held[3]});")
    for kind in ("request", "event"):
        for row in sorted(WORST, key=itemgetter(2))[::-1]:
            if row[3].startswith(kind):
                print(f"growth of {kind}s: {row[2]:.2f} x ({row[3]}); {MOST} x is allowed")
                break
    if above := [row for row in WORST if row[2] > MOST]:
        print(f"{len(above)} of {len(WORST)} rows grow by more than {MOST} x")
    if MISNAMED:
        print("refused or not, unlike their names:", *MISNAMED, sep="\n  ")
    sys.exit(bool(above or MISNAMED))


if __name__ == "__main__":
    main()
