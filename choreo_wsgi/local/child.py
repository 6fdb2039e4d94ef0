"""The local model's process: ``python -m choreo_wsgi.local.child``.

It reads its orders, one line of JSON, from standard input; loads the model; serves the OpenAI
API on the socket that the orders name; reports, in one line of JSON on standard output, how to
reach it or why it failed; and leaves when standard input ends.  The parent holds the other end
of that pipe, and the kernel closes it however the parent ends.

This module is all that runs in the process: it imports nothing of the server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
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

#: A model's own metadata are in the first so many bytes of its file, before the vocabulary.
_METADATA = 256 * 1024


def main() -> None:
    """Load the model, report, serve until the parent closes the pipe, and leave."""
    # The report goes to standard output; what native code prints goes to stderr.
    report = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = json.loads(sys.stdin.buffer.readline())
    # A Ctrl-C or a service manager's SIGTERM reaches the whole group at once; the parent
    # still finishes its streams then, and closes the pipe when it is done.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # When memory runs out this process should go, not the server, which can restart it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    try:
        with _leaving_with_the_parent():
            server = _serve(orders)
        answer = _describe(server.listening_address, orders["key"])
        # Nothing is printed from here on: llama.cpp shows the grammars of callers' schemas.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    with report:
        report.write(json.dumps(answer).encode() + b"\n")
        report.flush()
        if "error" not in answer:
            sys.stdin.buffer.read()
    # In case the parent no longer can.
    with contextlib.suppress(OSError):
        Path(orders["host"]).unlink()
    with contextlib.suppress(OSError):
        Path(orders["folder"]).rmdir()
    # Not through the interpreter's end: native threads may be in the middle of a token.
    os._exit(1 if "error" in answer else 0)


@contextlib.contextmanager
def _leaving_with_the_parent() -> Iterator[None]:
    """End this process when standard input ends, although no Python code can run.

    Loading holds the GIL, for minutes with a large model.  Linux can report a pipe's end by
    SIGIO, whose default action ends the process.
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
    # Imported here, so that a missing package or library is reported to the parent.
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
    # Chat and completions are not changed by this, nor slowed down.
    params.embedding = True
    if _pools(Path(orders["model"])):
        # A pooled text is read in one piece.
        params.n_batch = params.n_ubatch = max(64, orders["context"] // orders["slots"])
    else:
        # A model made for text has no pooling of its own: its last state has seen all.
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    params.verbosity = -1  # its log would hold callers' texts
    params.ui = False
    params.endpoint_slots = False
    # The context is as large as asked for: measuring the free memory costs a second load.
    params.fit_params = False
    return xllamacpp.Server(params)


def _pools(path: Path) -> bool:
    """Whether the GGUF file at *path* says how its states make an embedding.

    Its metadata come first: a key ``ARCHITECTURE.pooling_type``, the type 4 (uint32), the value,
    of which 0 means none.  See the GGUF specification.
    """
    with path.open("rb") as file:
        found = re.search(rb"\.pooling_type\x04\0\0\0(.)", file.read(_METADATA), re.DOTALL)
    return found is not None and found[1] != b"\0"


def _describe(address: str, key: str) -> Json:
    """Return how to reach the server at *address* and what its model can do."""
    scheme, _, rest = address.partition("://")
    connection = http.client.HTTPConnection("localhost" if scheme == "unix" else rest)
    if scheme == "unix":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(rest)
    try:
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {key}"})
        props = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    tools = bool(props.get("chat_template_caps", {}).get("supports_tools"))
    return {"address": address, "tools": tools}


if __name__ == "__main__":
    main()
