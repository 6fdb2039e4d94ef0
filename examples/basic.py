"""Print an answer as it arrives.

    python examples/basic.py Why is the sky blue?

Set CHOREOAI_BASE_URL to the server's address (by default http://localhost:8000), and
CHOREOAI_API_KEY to a key if the server has keys.
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
