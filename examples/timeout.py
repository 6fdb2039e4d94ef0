"""Two kinds of time limit: one for silence, and one for the whole answer.

    LIMIT=5 python examples/timeout.py Write a very long story.

``Timeout`` limits silence.  An alarm signal limits the whole answer (on Unix, in the main thread):
the exception of its handler leaves the loop unchanged, the connection is closed, and the server
stops the generation.
"""

import os
import signal
import sys

from choreoai import APITimeoutError, ChoreoAI, Timeout


class OutOfTime(Exception):
    """The whole answer took too long."""


def ring(signum: int, frame: object) -> None:
    raise OutOfTime


prompt = " ".join(sys.argv[1:]) or "Write a very long story."
client = ChoreoAI(timeout=Timeout(connect=5, first_byte=120, idle=30))

signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, float(os.environ.get("LIMIT", "20")))
stream = None
try:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
    )
    for text in stream.text:
        print(text, end="", flush=True)
    print("\n[complete]")
except OutOfTime:
    came = len(stream.partial_text) if stream else 0
    print(f"\n[out of time after {came} characters]")
except APITimeoutError as error:
    print(f"\n[{error}]")
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    client.close()
