"""Print an answer as it arrives, and get the whole answer at the end, with its token counts.

python examples/accumulate.py Name three rivers.
"""

import os
import sys

from choreoai import ChatCompletion, ChoreoAI


def show(client: ChoreoAI, prompt: str) -> ChatCompletion:
    """Print the answer to *prompt* as it arrives; return the whole answer."""
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for text in stream.text:
        print(text, end="", flush=True)
    print()
    # The stream has kept all chunks: this sends no second request.
    return stream.get_final_completion()


with ChoreoAI() as client:
    answer = show(client, " ".join(sys.argv[1:]) or "Name three rivers.")

choice = answer.choices[0]
print(f"characters: {len(choice.message.content or '')}")
print(f"ended because: {choice.finish_reason}")
if answer.usage is not None:
    print(f"tokens: {answer.usage.prompt_tokens} read, {answer.usage.completion_tokens} written")
