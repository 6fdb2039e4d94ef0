"""The local model's process: ``python -m choreo_wsgi.local.child``.

It reads its options, one line of JSON, from standard input; loads the model; serves the OpenAI
API on the socket named in the options; reports its address, or why it failed, in one line of JSON
on standard output; and exits when standard input ends.  The parent has the other end of that
pipe, and the kernel closes it however the parent ends.

The process runs this module alone: it imports nothing of the server.
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

#: HTTP threads of llama.cpp beyond one for each slot: a request that waits for a slot, or is
#: refused, needs one.
_SPARE_THREADS = 16

#: Bytes at the start of a model's file that have its metadata; the vocabulary follows.
_METADATA = 256 * 1024


def main() -> None:
    """Load the model, report, serve until the parent closes the pipe, and exit."""
    # Standard output is for the report alone: redirect the output of native code to stderr.
    report = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    options = json.loads(sys.stdin.buffer.readline())
    # Ctrl-C and a service manager's SIGTERM reach the whole process group.  The parent first
    # finishes its streams, then closes the pipe.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # If memory runs out, the kernel is to kill this process and not the server.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    try:
        with _exiting_with_the_parent():
            server = _serve(options)
        result = _describe(server.listening_address, options["key"])
        # Discard all output from here on: llama.cpp prints the grammars of clients' schemas.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    except Exception as error:
        result = {"error": type(error).__name__, "message": str(error)}
    with report:
        report.write(json.dumps(result).encode() + b"\n")
        report.flush()
        if "error" not in result:
            sys.stdin.buffer.read()
    # The parent does this, too, unless it was killed.
    with contextlib.suppress(OSError):
        Path(options["host"]).unlink()
    with contextlib.suppress(OSError):
        Path(options["folder"]).rmdir()
    # Skip the interpreter's shutdown: native threads may still be generating.
    os._exit(1 if "error" in result else 0)


@contextlib.contextmanager
def _exiting_with_the_parent() -> Iterator[None]:
    """End this process when standard input ends, even if no Python code can run.

    Loading a model holds the GIL, for minutes if it is large.  Linux can report the end of a pipe
    by SIGIO, whose default action ends the process.
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


def _serve(options: Json) -> Any:
    """Load the model and start llama.cpp's server, which has its own threads."""
    # Imported here, so that a missing package or library is reported to the parent.
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.hostnames = [options["host"]]
    params.api_keys = [options["key"]]
    params.n_parallel = options["slots"]
    params.n_ctx = options["context"]
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.n_threads_http = options["slots"] + _SPARE_THREADS
    # Tokens of a prompt processed at once.  Only between two batches are cancelled requests
    # dropped and other slots served; 64 tokens take 0.05-0.35 s on one core.
    params.n_batch = params.n_ubatch = 64
    # Does not change chat and completions, nor slow them down.
    params.embedding = True
    if _pools(Path(options["model"])):
        # Pooling requires the whole text in one batch.
        params.n_batch = params.n_ubatch = max(64, options["context"] // options["slots"])
    else:
        # A text model has no pooling of its own; the state of the last token depends on them all.
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.cache_ram_mib = 0  # the default keeps up to 8 GiB of old prompts
    params.verbosity = -1  # its log would contain clients' texts
    params.ui = False
    params.endpoint_slots = False
    # Do not fit the context to the free memory: measuring it loads the model twice.
    params.fit_params = False
    return xllamacpp.Server(params)


def _pools(path: Path) -> bool:
    """Return whether the GGUF file at *path* defines a pooling type, as embedding models do.

    In its metadata this is the key ``ARCHITECTURE.pooling_type``, the type 4 (uint32) and the
    value, 0 for none.  See the GGUF specification.
    """
    with path.open("rb") as file:
        found = re.search(rb"\.pooling_type\x04\0\0\0(.)", file.read(_METADATA), re.DOTALL)
    return found is not None and found[1] != b"\0"


def _describe(address: str, key: str) -> Json:
    """Return the *address* of the server and whether its model can call tools."""
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
