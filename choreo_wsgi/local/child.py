"""The local model's process: ``python -m choreo_wsgi.local.child``.

It reads its orders, one line of JSON, from standard input; loads the model; serves the
OpenAI API on the socket that it was told; writes one line of JSON to standard output, which
says how to reach it or why it cannot be; and leaves when standard input ends.  The other
end of that pipe is the parent's, and the kernel closes it however the parent ends.

This module is all that runs in the process: it imports nothing of the server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..chat.items import Json

if sys.platform == "linux":
    import fcntl

#: How many HTTP threads llama.cpp has beyond one for each slot: requests that wait for a
#: slot hold one, and one more is for those that are refused.
_SPARE_THREADS = 16


def main() -> None:
    """Load, tell, serve, leave."""
    report = _claim_stdout()
    orders = json.loads(sys.stdin.buffer.readline())
    # A Ctrl-C or a service manager's SIGTERM reaches the whole group at once; the parent
    # still finishes its streams then, and closes the pipe when it is done.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _offer_to_the_oom_killer()
    try:
        with _leaving_with_the_parent():
            server = _serve(orders)
        answer = _describe(server.listening_address, orders["key"])
        _silence()
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    with report:
        report.write(json.dumps(answer).encode() + b"\n")
        report.flush()
        if "error" not in answer:
            sys.stdin.buffer.read()
    _clean_up(orders)
    # Not through the interpreter's end: native threads may be in the middle of a token.
    os._exit(1 if "error" in answer else 0)


def _claim_stdout() -> Any:
    """Return standard output as a private file; what native code prints goes to stderr."""
    report = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return report


def _silence() -> None:
    """Print nothing from here on: llama.cpp shows the grammars of callers' schemas."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _offer_to_the_oom_killer() -> None:
    """When memory runs out this process should go, not the server, which can restart it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


@contextlib.contextmanager
def _leaving_with_the_parent() -> Iterator[None]:
    """End this process when standard input ends, though no Python code can run.

    Loading holds the GIL, for minutes with a large model.  Linux can tell of a pipe by
    signal, and SIGIO ends a process that does nothing about it.
    """
    if sys.platform != "linux":
        yield
        return
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)


def _serve(orders: Json) -> Any:
    """Load the model and serve it on threads of llama.cpp's own."""
    # Here and not above: that it is missing, or a library of its, must be told the parent.
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = orders["model"]
    params.hostnames = [orders["host"]]
    params.api_keys = [orders["key"]]
    params.n_parallel = orders["slots"]
    params.n_ctx = orders["context"]
    params.cpuparams.n_threads = orders["threads"]
    params.cpuparams_batch.n_threads = orders["threads"]
    params.n_threads_http = orders["slots"] + _SPARE_THREADS
    # A prompt is read in pieces of this many tokens.  Between two of them a cancelled
    # request is dropped and the other slots get their turn: 64 take 0.05-0.35 s on one core.
    params.n_batch = params.n_ubatch = 64
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    params.verbosity = -1  # its log would hold callers' texts
    params.ui = False
    params.endpoint_slots = False
    # The memory is what was asked for: measuring what is free costs a second load.
    params.fit_params = False
    return xllamacpp.Server(params)


def _describe(address: str, key: str) -> Json:
    """Return how to reach the server at *address* and what its model can do."""
    connection = _connect(address)
    try:
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
        props = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return {
        "address": address,
        "tools": bool(props.get("chat_template_caps", {}).get("supports_tools")),
        "context": props["default_generation_settings"]["n_ctx"],
    }


def _connect(address: str) -> http.client.HTTPConnection:
    scheme, _, rest = address.partition("://")
    if scheme != "unix":
        return http.client.HTTPConnection(rest)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(rest)
    return connection


def _clean_up(orders: Json) -> None:
    """Remove the socket and its folder, in case that the parent no longer can."""
    with contextlib.suppress(OSError):
        Path(orders["host"]).unlink()
    with contextlib.suppress(OSError):
        Path(orders["folder"]).rmdir()


if __name__ == "__main__":
    main()
