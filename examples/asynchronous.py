"""Send several questions at once on one event loop, and cancel the slow ones.

    python examples/asynchronous.py "What is a tide?" "What is a delta?"

Each answer has LIMIT seconds (by default 60).  Cancelling a task closes its connection, which
stops the generation on the server.
"""

import asyncio
import os
import sys

from choreoai import AsyncChoreoAI

LIMIT = float(os.environ.get("LIMIT", "60"))
questions = sys.argv[1:] or ["What is a tide?", "What is a delta?"]


async def ask(client: AsyncChoreoAI, question: str) -> str:
    stream = await client.chat.completions.create(
        model=os.environ.get("MODEL", "default"),
        messages=[{"role": "user", "content": question}],
        stream=True,
    )
    pieces = [text async for text in stream.text]
    return "".join(pieces)


async def ask_in_time(client: AsyncChoreoAI, question: str) -> None:
    try:
        answer = await asyncio.wait_for(ask(client, question), LIMIT)
    except asyncio.TimeoutError:
        answer = f"(nothing within {LIMIT:g} seconds)"
    print(f"{question}\n  {answer}")


async def main() -> None:
    async with AsyncChoreoAI() as client:
        await asyncio.gather(*(ask_in_time(client, question) for question in questions))


asyncio.run(main())
