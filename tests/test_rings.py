"""How many lines of this project a process loads, compared with README.rst."""

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

#: At exit a process prints the files of this project that it has loaded.
REPORT = """
import atexit, json, sys
def report():
    ours = [m for n, m in sys.modules.items() if n.split(".")[0] in ("choreo_wsgi", "choreoai")]
    print(json.dumps([m.__file__ for m in ours if getattr(m, "__file__", None)]))
atexit.register(report)
"""
SERVE = REPORT + "from choreo_wsgi.cli import main\nsys.exit(main(['serve', '--port', '0']))"
LISTENS = re.compile(r"listens on (http://\S+)")
GUNICORN = REPORT + "from choreo_wsgi import app"


MESSAGES = [{"role": "user", "content": "hi"}]
DOCUMENT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ho"}}],
}


def loaded_lines(script: str, *bodies: dict[str, object], **environment: str) -> int:
    """Return how many lines *script* loads; a server is sent *bodies*, then SIGTERM."""
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
            urlopen(f"{url}/healthz", timeout=60).close()  # once it answers it handles signals too
            for body in bodies:
                request = Request(
                    f"{url}/v1/chat/completions",
                    json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )
                urlopen(request, timeout=60).read()
            process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    files = json.loads(out.splitlines()[-1])
    return sum(len(Path(file).read_text("utf-8").splitlines()) for file in files)


def documented() -> list[int]:
    """Return the figures of the README's table, in order."""
    text = (ROOT / "README.rst").read_text("utf-8").partition("What runs for you")[2]
    return [int(found.replace(",", "")) for found in re.findall(r"at most ([\d,]+)", text)[:4]]


def test_only_configured_providers_are_loaded() -> None:
    serve, gunicorn, more, _ = documented()
    assert loaded_lines(SERVE, OPENAI_API_KEY="k") <= serve
    alone = loaded_lines(GUNICORN, OPENAI_API_KEY="k")
    assert alone <= gunicorn
    assert loaded_lines(GUNICORN, OPENAI_API_KEY="k", ANTHROPIC_API_KEY="k") - alone <= more


def test_chat_loads_at_most_the_documented_lines() -> None:
    def play(peer: Peer) -> None:
        if peer.request.json().get("stream"):
            peer.stream(answer("ho"))
        else:
            peer.json(DOCUMENT)

    plain: dict[str, object] = {"model": "m", "messages": MESSAGES}
    with RawServer(play) as upstream:
        loaded = loaded_lines(
            SERVE,
            plain,
            {**plain, "stream": True},
            OPENAI_API_KEY="k",
            OPENAI_BASE_URL=upstream.base_url,
        )
    assert loaded <= documented()[3]
