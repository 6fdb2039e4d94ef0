"""A page in headless Chromium, and the web server that serves it."""

from __future__ import annotations

import http.server
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from launched import ROOT, environment

WEB = Path(__file__).parents[1] / "programs" / "web"
MODULES = ROOT / "build" / "web" / "node_modules"

#: Seconds; a browser's first start takes long.
PATIENCE = 60.0


def compile_pages(node: str, folder: Path) -> None:
    """Write ``chat.html`` and ``reload.html`` with their scripts into *folder*."""
    env = environment(folder, NODE_PATH=str(MODULES))
    words = [node, str(WEB / "build.cjs"), str(folder)]
    subprocess.run(words, env=env, check=True, timeout=PATIENCE)
    for name in ("chat", "reload"):
        body = '<div id="root"></div><p id="answer"></p><p id="state"></p>'
        if name == "chat":  # React creates the other elements
            body = '<div id="root"></div>'
        text = f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">{body}'
        (folder / f"{name}.html").write_text(f'{text}<script src="{name}.js"></script>')


class Pages:
    """Serves *folder* on a port of its own, and so as another origin."""

    def __init__(self, folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def url(self, name: str, host: str = "localhost", **settings: str) -> str:
        """Return the address of the page *name*, with *settings* as its query."""
        return f"http://{host}:{self.port}/{name}.html?{urlencode(settings)}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Browser:
    """A headless Chromium with one page, which reports each change of its text."""

    def __init__(self, node: str, chromium: str, folder: Path) -> None:
        words = [node, str(WEB / "browser.cjs"), chromium, str(folder / "profile")]
        self._log = (folder / "browser.log").open("w+b")
        self._process = subprocess.Popen(
            words,
            env=environment(folder, NODE_PATH=str(MODULES)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._shown: queue.Queue[tuple[str, str]] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._next() == {"ready": True}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._process.stdout.close()
        self._log.close()

    def goto(self, url: str) -> None:
        """Open *url*, and discard the changes of the page before."""
        while not self._shown.empty():
            self._shown.get()
        self._command("goto", url)

    def reload(self) -> None:
        """Load the page again."""
        self._command("reload", "")

    def click(self, selector: str) -> None:
        """Click the element that matches *selector*."""
        self._command("click", selector)

    def wait_for(self, id: str, text: str) -> list[str]:
        """Return the texts that element *id* has shown since the last call, up to *text*."""
        shown: list[str] = []
        while not shown or shown[-1] != text:
            name, now = self.change(f"#{id} to be {text!r}; it was {shown!r}")
            if name == id:
                shown.append(now)
        return shown

    def until(self, id: str, text: str) -> dict[str, list[str]]:
        """Return the texts of each element since the last call, until *id* shows *text*."""
        shown: dict[str, list[str]] = {"answer": [], "state": []}
        while text not in shown[id]:
            name, now = self.change(f"#{id} to be {text!r}; there was {shown!r}")
            shown[name].append(now)
        return shown

    def change(self, expected: str) -> tuple[str, str]:
        """Return the id and the new text of the next change; *expected* is for the failure."""
        try:
            return self._shown.get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail(f"waited for {expected}\n{self._log_text()}")

    def _command(self, command: str, argument: str) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"command": command, "argument": argument})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        assert self._next() == {"finished": command}

    def _next(self) -> dict[str, Any]:
        try:
            return self._replies.get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail(f"the browser does not answer\n{self._log_text()}")

    def _log_text(self) -> str:
        return Path(str(self._log.name)).read_text()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            for name in ("answer", "state"):
                if name in message:
                    self._shown.put((name, message[name]))
                    break
            else:
                self._replies.put(message)
        self._replies.put({"ended": self._log_text()})
