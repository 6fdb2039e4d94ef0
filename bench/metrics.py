"""The cost of ``metrics = true``: the CPU time of a stream with it and without it, no sockets.

Two applications take turns in one thread, whose CPU time has less noise than a server's.  The
result is the cost of a frame and of a request in microseconds, because two rates would differ by
less than their spread.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import time
from contextlib import closing

from choreo_wsgi.app.application import Application, create_app
from choreo_wsgi.settings import configure

PAIRS = 40


def ask(app: Application, words: int) -> None:
    """Read a stream of *words* words from the echo provider of *app*, each word as one block."""
    message = {"role": "user", "content": "w " * words}
    body = json.dumps({"model": "echo", "messages": [message], "stream": True}).encode()
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat/completions",
        "HTTP_HOST": "localhost",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    with closing(app(environ, lambda *head: None)) as blocks:  # type: ignore[type-var, arg-type]
        for _ in blocks:
            pass


def main() -> None:
    """Print the cost of a request and of a frame without metrics, and the cost that metrics add."""
    logging.getLogger("choreo_wsgi").setLevel(logging.ERROR)
    apps = [create_app(configure({"metrics": word}, {})) for word in ("false", "true")]
    print("metrics: CPU us without them, + median of the additional cost (quartiles)")
    for words, streams, title in ((0, 200, "a request"), (1000, 10, "a frame")):
        costs: list[list[float]] = [[], []]
        for pair in range(PAIRS):
            for which in (0, 1) if pair % 2 else (1, 0):
                begin = time.thread_time()
                for _ in range(streams):
                    ask(apps[which], words)
                spent = time.thread_time() - begin
                costs[which].append(spent * 1e6 / streams / max(words, 1))
        added = [more - less for less, more in zip(*costs, strict=True)]
        low, middle, high = statistics.quantiles(added)
        print(
            f"  {title:12}{statistics.median(costs[0]):8.2f}  "
            f"+{middle:.2f} ({low:.2f} - {high:.2f})"
        )
    for app in apps:
        app.close()
