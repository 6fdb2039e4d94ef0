"""Print an answer line by line instead of word by word.

    python examples/buffered.py Write a limerick. | tee limerick.txt

On a terminal, flush every piece.  For a file, a pipe or a screen reader whole lines are better
and cheaper.
"""

import os
import sys
from collections.abc import Iterable, Iterator

from choreoai import ChoreoAI


def lines(pieces: Iterable[str]) -> Iterator[str]:
    """Join *pieces* and split the text into lines, with their line ends."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        for line in whole:
            yield line + "\n"
    if rest:
        yield rest


prompt = " ".join(sys.argv[1:]) or "Write a limerick."

with ChoreoAI() as client:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
    )
    for line in lines(stream.text):
        sys.stdout.write(line)
        sys.stdout.flush()
