"""Distinguish a complete answer from one that was cut, and keep the partial text.

    python examples/incomplete.py Write a long letter.

If the loop ends without an exception, the answer is complete.
"""

import os
import sys

from choreoai import APIError, ChoreoAI, StreamInterruptedError

REASONS = {
    "stop": "finished",
    "length": "stopped at the token limit",
    "content_filter": "filtered",
}

prompt = " ".join(sys.argv[1:]) or "Write a long letter."
client = ChoreoAI()

try:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            if choice.finish_reason:
                print(f"\n[{REASONS.get(choice.finish_reason, choice.finish_reason)}]")
except StreamInterruptedError as error:
    print(f"\n[cut off: {error}]")
    print(f"[kept: {error.partial_text!r}]")
    sys.exit(1)
except APIError as error:
    print(f"\n[failed: {error} (code {error.code})]")
    sys.exit(1)
finally:
    client.close()
