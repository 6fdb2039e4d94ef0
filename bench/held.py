"""Our server, which notes how long the CPU was held in one go.

``python -m bench.held FILE serve ...`` writes to FILE the most seconds of CPU time that the
thread which moves all streams has spent in one round, whenever that was more than before.
An empty FILE begins anew.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from choreo_wsgi.cli import main
from choreo_wsgi.streams.carrier import Carrier

note = Path(sys.argv[1])
move = Carrier._round
longest = 0.0


def moved(carrier: Carrier) -> None:
    """Move what there is, as the carrier does, and note how long that took."""
    global longest
    begin = time.thread_time()
    move(carrier)
    held = time.thread_time() - begin
    if held > 0.005 and (held > longest or not note.read_text()):
        longest = held
        note.write_text(f"{held:.4f}")


Carrier._round = moved  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
