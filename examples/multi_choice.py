"""Request two answers to one question; their chunks arrive interleaved.

python examples/multi_choice.py Give me a name for a boat.
"""

import os
import sys

from choreoai import ChoreoAI

N = 2
prompt = " ".join(sys.argv[1:]) or "Give me a name for a boat."

with ChoreoAI() as client:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        n=N,
        stream=True,
    )
    for chunk in stream:
        # A chunk belongs to one of the answers, or to none if it has the token counts.
        for choice in chunk.choices:
            if choice.delta.content:
                print(f"{choice.index}: {choice.delta.content!r}")

for choice in stream.get_final_completion().choices:
    print(f"\nAnswer {choice.index + 1}:\n{choice.message.content}")
