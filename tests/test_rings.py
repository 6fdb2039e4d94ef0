"""What runs for you: how many lines of ours a process loads, as README.rst says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from raw_server import Peer, RawServer, answer

ROOT = Path(__file__).resolve().parents[1]

#: Prints at its end which of our files a process has loaded.
TELL = """
import atexit, json, sys
def tell():
    ours = [m for n, m in sys.modules.items() if n.split(".")[0] in ("choreo_wsgi", "choreoai")]
    print(json.dumps([m.__file__ for m in ours if getattr(m, "__file__", None)]))
atexit.register(tell)
"""
SERVE = TELL + "from choreo_wsgi.cli import main\nsys.exit(main(['serve', '--port', '0']))"
LISTENS = re.compile(r"listens on (http://\S+)")
GUNICORN = TELL + "from choreo_wsgi import app"


MESSAGES = [{"role": "user", "content": "hi"}]
DOCUMENT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ho"}}],
}


def lines(script: str, *bodies: dict[str, object], **environment: str) -> int:
    """Return the lines that *script* loads; one that serves answers *bodies* and is stopped."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, **environment},
    )
    assert process.stdout is not None and process.stderr is not None
    with process, process.stdout, process.stderr:
        if script is SERVE:
            found = map(LISTENS.search, iter(process.stdout.readline, ""))
            url = next(match[1] for match in found if match)
            urlopen(f"{url}/healthz", timeout=60).close()  # answered: it handles signals too
            for body in bodies:
                asked = Request(
                    f"{url}/v1/chat/completions",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                urlopen(asked, timeout=60).read()
            process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    files = json.loads(out.splitlines()[-1])
    return sum(len(Path(file).read_text("utf-8").splitlines()) for file in files)


def promised() -> list[int]:
    """Return the figures of the README's table, in order."""
    text = (ROOT / "README.rst").read_text("utf-8").partition("What runs for you")[2]
    return [int(found.replace(",", "")) for found in re.findall(r"at most ([\d,]+)", text)[:4]]


def test_only_what_is_configured_is_loaded() -> None:
    serve, gunicorn, more, _ = promised()
    assert lines(SERVE, OPENAI_API_KEY="k") <= serve
    alone = lines(GUNICORN, OPENAI_API_KEY="k")
    assert alone <= gunicorn
    assert lines(GUNICORN, OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k") - alone <= more


def test_a_chat_loads_what_it_needs() -> None:
    def play(peer: Peer) -> None:
        if peer.request.json().get("stream"):
            peer.stream(answer("ho"))
        else:
            peer.json(DOCUMENT)

    plain: dict[str, object] = {"model": "m", "messages": MESSAGES}
    with RawServer(play) as upstream:
        loaded = lines(
            SERVE,
            plain,
            {**plain, "stream": True},
            OPENAI_API_KEY="k",
            OPENAI_BASE_URL=upstream.base_url,
        )
    assert loaded <= promised()[3]
