"""Ten lines with a MISTAKE: type checkers must report each of them, and nothing else."""

# pyright: strict
from __future__ import annotations

from choreoai import AsyncChoreoAI, ChatCompletion, ChoreoAI, Stream

HI = [{"role": "user", "content": "hi"}]
client = ChoreoAI()
completions = client.chat.completions

completions.create(model="m", messages=HI, temprature=3)  # MISTAKE
completions.create(model="m", messages=HI, temperature="hot")  # MISTAKE
completions.create(messages=HI)  # MISTAKE
completions.create(model="m", messages=HI, reasoning_effort="huge")  # MISTAKE
ChoreoAI(max_retry=3)  # MISTAKE

whole: ChatCompletion = completions.create(model="m", messages=HI)
stream: Stream = completions.create(model="m", messages=HI, stream=True)
text: str = whole.choices[0].message.content  # MISTAKE
print(stream.choices)  # MISTAKE
print(whole.choices[0].delta)  # MISTAKE
print(whole.usage.total_tokens)  # MISTAKE


async def main() -> None:
    answer = AsyncChoreoAI().chat.completions.create(model="m", messages=HI)
    print(answer.choices)  # MISTAKE
    await answer
