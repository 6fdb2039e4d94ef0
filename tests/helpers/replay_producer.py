"""A process that writes a stream until it is killed: ``replay_producer.py URL``.

It prints the stream's id, the number of each frame after its append, and ``fenced`` when another
writer has taken the stream over.
"""

from __future__ import annotations

import sys
import time

from replay_helpers import frame

from choreo_wsgi.replay import Fenced, open_store
from choreo_wsgi.settings import Settings


def main(url: str) -> None:
    writer = open_store(url, Settings(replay=url)).create("alice").writer
    assert writer is not None
    print(writer.id, flush=True)
    try:
        while True:
            writer.append(frame(writer.last + 1), 1)
            print(writer.last, flush=True)
            time.sleep(0.01)
    except Fenced:
        print("fenced", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
