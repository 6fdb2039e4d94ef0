"""``python -m bench [encoder] [relay] [pace] [translated] ...``: run benchmarks, print figures."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from choreo_wsgi.apis.chat import ChunkWriter, Identity
from choreo_wsgi.chat.items import Delta

from . import client, hostile, metrics, pace, processes
from .load import PYTHON, Gateway, Upstream, documents, gateway, streams

RUNS = 3
RELAYS = "bench.relays"


def serve(port: int, *more: str) -> list[str]:
    """Return the command that runs our server."""
    return [PYTHON, "-m", "choreo_wsgi", "serve", "--listen", f"127.0.0.1:{port}", *more]


def bare(port: int) -> list[str]:
    """Return the command that runs the bare WSGI stream."""
    listen = f"--listen=127.0.0.1:{port}"
    return [PYTHON, "-m", "waitress", "--threads=20", listen, f"{RELAYS}:bare"]


def flask(port: int) -> list[str]:
    """Return the command that runs the Flask relay."""
    gthread = ["-k", "gthread", "--threads", "64", "--log-level", "error"]
    return [PYTHON, "-m", "gunicorn", *gthread, "-b", f"127.0.0.1:{port}", f"{RELAYS}:flask_app()"]


def fastapi(port: int) -> list[str]:
    """Return the command that runs the FastAPI relay."""
    factory = ["--factory", "--log-level", "error", "--port", str(port)]
    return [PYTHON, "-m", "uvicorn", *factory, f"{RELAYS}:fastapi_app"]


def show(name: str, figures: list[float], unit: str, base: float | None = None) -> float:
    """Print a row: the median of *figures* and its ratio to *base*; return the median."""
    median = statistics.median(figures)
    spread = f"{min(figures):,.3g} - {max(figures):,.3g}"
    ratio = f"{median / base:8.2f} x" if base else ""
    print(f"  {name:34}{median:12,.6g} {unit:18}{ratio:12}  ({spread})", flush=True)
    return median


def encoder() -> None:
    """Measure the encoder alone, and the echo provider beside a bare WSGI stream."""
    print("encoder: frames per CPU second")
    figures = []
    for _ in range(RUNS):
        write = ChunkWriter(Identity("gpt-4")).write
        begin = time.process_time()
        for number in range(100_000):
            write(Delta(f"word {number}"))
        figures.append(100_000 / (time.process_time() - begin))
    show("the encoder alone", figures, "frames/CPU s")

    words = 5000
    content = " ".join(["word"] * words)
    environment = {"FRAMES": str(words)}
    with (
        gateway(bare, environment) as a,
        gateway(lambda port: serve(port, "--default-model", "echo")) as b,
    ):
        rates = interleaved([a, b], lambda running: streams(running.port, 8, 4, content))
    base = show("bare waitress, one constant frame", rates[0], "frames/CPU s")
    show("echo provider through our server", rates[1], "frames/CPU s", base)


def interleaved(gateways: list[Gateway], load: Callable[[Gateway], int]) -> list[list[float]]:
    """Return each gateway's units (those that *load* returns) per CPU second, after a warm-up."""
    rates: list[list[float]] = [[] for _ in gateways]
    for run in range(RUNS + 1):
        for running, figures in zip(gateways, rates, strict=True):
            before = running.cpu()
            units = load(running)
            if run:
                figures.append(units / max(running.cpu() - before, 0.01))
    return rates


def relay() -> None:
    """Measure our relay beside hand-written relays in Flask and in FastAPI."""
    upstream = Upstream(10_000)
    environment = {"UPSTREAM": upstream.url}
    ours = {"OPENAI_BASE_URL": upstream.url, "OPENAI_API_KEY": "sk-upstream"}
    with (
        gateway(flask, environment) as a,
        gateway(fastapi, environment) as b,
        gateway(serve, ours) as c,
    ):
        print("relay: frames per CPU second, 10 streams at once as fast as they go")
        rates = interleaved([a, b, c], lambda running: streams(running.port, 10, 10))
        base = show("Flask and requests, gunicorn", rates[0], "frames/CPU s")
        show("FastAPI and httpx, uvicorn", rates[1], "frames/CPU s", base)
        show("choreo-wsgi", rates[2], "frames/CPU s", base)
        print("relay: the same, resumable, its log in memory")
        resumable = b"Choreo-Resumable: 1\r\n"
        rates = interleaved([c], lambda ours: streams(ours.port, 10, 10, headers=resumable))
        show("choreo-wsgi, resumable", rates[0], "frames/CPU s", base)
        print("relay: plain completions per CPU second")

        def plain(running: Gateway) -> int:
            documents(running.port, 200)
            return 200

        rates = interleaved([a, b, c], plain)
        base = show("Flask and requests, gunicorn", rates[0], "requests/CPU s")
        show("FastAPI and httpx, uvicorn", rates[1], "requests/CPU s", base)
        show("choreo-wsgi", rates[2], "requests/CPU s", base)
    upstream.close()


BENCHES = {
    "encoder": encoder,
    "relay": relay,
    "pace": pace.pace,
    "translated": pace.translated,
    "client": client.main,
    "hostile": hostile.main,
    "many": pace.many,
    "processes": processes.main,
    "metrics": metrics.main,
}


def main() -> None:
    """Run the benchmarks named in the arguments, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHES)}")
    names = parser.parse_args().names or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            parser.error(f"there is no benchmark {name!r}")
        BENCHES[name]()


main()
