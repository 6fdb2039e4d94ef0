"""Our server, with a measurement of the carrier thread's longest round.

``python -m bench.held FILE serve ...`` writes to FILE the CPU seconds of the longest round of the
thread that moves all streams, each time there is a longer one.  Emptying FILE resets the maximum.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from choreo_wsgi.cli import main
from choreo_wsgi.streams.carrier import Carrier

file = Path(sys.argv[1])
original_round = Carrier._round
longest = 0.0


def measured_round(carrier: Carrier) -> None:
    """Run a round of *carrier* and write its CPU time if it is the longest so far."""
    global longest
    begin = time.thread_time()
    original_round(carrier)
    held = time.thread_time() - begin
    if held > 0.005 and (held > longest or not file.read_text()):
        longest = held
        file.write_text(f"{held:.4f}")


Carrier._round = measured_round  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
