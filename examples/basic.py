"""Print an answer while it is being written.

    python examples/basic.py Why is the sky blue?

The server is the one in CHOREOAI_BASE_URL, by default http://localhost:8000; a server with
keys wants one in CHOREOAI_API_KEY.
"""

import os
import sys

from choreoai import ChoreoAI

prompt = " ".join(sys.argv[1:]) or "Tell me something short about rivers."

with ChoreoAI() as client:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
    )
    for text in stream.text:
        print(text, end="", flush=True)
    print()
