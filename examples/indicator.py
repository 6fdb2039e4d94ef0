"""Show a spinner until the first word arrives.

    python examples/indicator.py Think of a long word.

The spinner has its own thread, because the main thread waits for the server.
"""

import itertools
import os
import sys
import threading

from choreoai import ChoreoAI


class Wheel:
    """Spins on standard error while the ``with`` block runs, or until ``stop()``."""

    def __enter__(self) -> "Wheel":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()
        return self

    def _turn(self) -> None:
        for mark in itertools.cycle("|/-\\"):
            sys.stderr.write(f"\r{mark}")
            sys.stderr.flush()
            if self._over.wait(0.1):
                break
        sys.stderr.write("\r \r")
        sys.stderr.flush()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def __exit__(self, *error: object) -> None:
        self.stop()


prompt = " ".join(sys.argv[1:]) or "Think of a long word."

with ChoreoAI() as client, Wheel() as wheel:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
    )
    for text in stream.text:
        wheel.stop()
        print(text, end="", flush=True)
    print()
