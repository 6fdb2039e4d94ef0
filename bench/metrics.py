"""What ``metrics = true`` costs a stream: without sockets, beside the same without it.

Two applications take turns within one thread, whose CPU time has less noise than a server's: the
cost of a frame and of a request, in microseconds, says more than two rates that differ by less
than their spread.
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
    """Have *app*'s echo stream so many *words*, each in a block of its own."""
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
    """Print the cost of a stream without and with metrics, and of a frame alone."""
    logging.getLogger("choreo_wsgi").setLevel(logging.ERROR)
    apps = [create_app(configure({"metrics": word}, {})) for word in ("false", "true")]
    print("metrics: CPU us, median of what they add (quartiles)")
    for words, streams, what in ((0, 200, "a request"), (1000, 10, "a frame")):
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
            f"  {what:12}{statistics.median(costs[0]):8.2f}  +{middle:.2f} ({low:.2f} - {high:.2f})"
        )
    for app in apps:
        app.close()
