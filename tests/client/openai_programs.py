"""Programs written for the openai package, with PKG as the name of the package.

Each prints its results.  :class:`ProgramServer` chooses its answer by the last message.
"""

from __future__ import annotations

import json
import re
from typing import Any

from raw_server import Peer, chat_chunk

START = """
import asyncio, json
import PKG
from PKG import AsyncOpenAI, OpenAI
client = OpenAI()
HI = [{"role": "user", "content": "hi"}]
def ask(text="hi", **options):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="m", messages=messages, **options)
"""

MODEL = """
from pydantic import BaseModel, Field
class Step(BaseModel):
    explanation: str
    output: str
class Answer(BaseModel):
    "An answer in steps."
    steps: list[Step]
    final: str = Field(description="the last word")
    remark: str | None = None
"""

WEATHER = """
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
    "additionalProperties": False}, "strict": True}}]
"""

#: By name: the program that follows START.
PROGRAMS = {
    "a completion": "print(ask().choices[0].message.content)",
    "the other members of a completion": """
c = ask()
print(c.id, c.object, c.model, c.created, c.choices[0].index, c.choices[0].finish_reason)
print(c.choices[0].message.role, c.choices[0].message.refusal, c.choices[0].message.tool_calls)
print(c.system_fingerprint, c.service_tier, c.choices[0].logprobs)
""",
    "usage": """
u = ask().usage
print(u.prompt_tokens, u.completion_tokens, u.total_tokens)
print(u.prompt_tokens_details.cached_tokens, u.completion_tokens_details.reasoning_tokens)
print(u.completion_tokens_details.audio_tokens)
""",
    "a stream": """
for chunk in ask(stream=True):
    print(repr(chunk.choices[0].delta.content), chunk.choices[0].finish_reason)
""",
    "a stream in a with block": """
with ask(stream=True) as stream:
    print("".join(c.choices[0].delta.content or "" for c in stream))
""",
    "a stream closed early": """
stream = ask(stream=True)
print(next(stream).choices[0].delta.role)
stream.close()
""",
    "the usage of a stream": """
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
print(chunks[-1].choices, chunks[-1].usage.total_tokens, chunks[0].usage)
""",
    "async": """
async def main():
    async with AsyncOpenAI() as client:
        c = await client.chat.completions.create(model="m", messages=HI)
        print(c.choices[0].message.content)
asyncio.run(main())
""",
    "an async stream": """
async def main():
    client = AsyncOpenAI()
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)
    async for chunk in stream:
        print(repr(chunk.choices[0].delta.content))
    await client.close()
    print(client.is_closed())
asyncio.run(main())
""",
    "concurrent calls": """
async def main():
    async with AsyncOpenAI() as client:
        async def one(text):
            messages = [{"role": "user", "content": text}]
            c = await client.chat.completions.create(model="m", messages=messages)
            return c.choices[0].message.content
        print(await asyncio.gather(*(one(f"say {n}") for n in range(5))))
asyncio.run(main())
""",
    "n choices": """
print([(c.index, c.message.content) for c in ask(n=3).choices])
texts = ["", ""]
for chunk in ask(n=2, stream=True):
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
print(texts)
""",
    "system and developer messages": """
c = client.chat.completions.create(model="m", messages=[
    {"role": "developer", "content": "Talk like a pirate."},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
])
print(c.choices[0].message.content)
""",
    "every usual parameter": """
ask(temperature=0.2, top_p=0.9, max_tokens=10, max_completion_tokens=20, stop=["a", "b"], seed=7,
    presence_penalty=0.1, frequency_penalty=-0.1, logit_bias={"50256": -100}, user="u", n=1,
    reasoning_effort="low", verbosity="low", metadata={"a": "b"}, store=False,
    service_tier="auto", parallel_tool_calls=False, prompt_cache_key="k", logprobs=True,
    top_logprobs=2, modalities=["text"], safety_identifier="s")
print("sent")
""",
    "None, omit and NOT_GIVEN": """
ask(temperature=None, stop=PKG.omit, seed=PKG.NOT_GIVEN)
print("sent")
""",
    "an unknown parameter": """
try:
    ask(temprature=3)
except TypeError as error:
    print("temprature" in str(error))
""",
    "extra headers, query and body": """
c = ask(extra_headers={"X-Extra": "1"}, extra_query={"q": "2"}, extra_body={"own": {"a": [1]}})
print(c.choices[0].message.content)
""",
    "default headers and query": """
client = OpenAI(default_headers={"X-Default": "d"}, default_query={"api-version": "1"})
print(ask().choices[0].message.content, client.default_headers["X-Default"])
""",
    "a tool call": WEATHER
    + """
c = ask("weather", tools=TOOLS, tool_choice="auto")
call = c.choices[0].message.tool_calls[0]
print(c.choices[0].finish_reason, call.id, call.type, call.function.name)
print(json.loads(call.function.arguments), c.choices[0].message.content)
""",
    "a tool's answer": WEATHER
    + """
messages = [{"role": "user", "content": "weather"}]
c = client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
message = c.choices[0].message
messages.append(message)
for call in message.tool_calls:
    messages.append({"role": "tool", "tool_call_id": call.id, "content": "22 C"})
c = client.chat.completions.create(model="m", messages=messages, tools=TOOLS)
print(c.choices[0].message.content)
""",
    "a streamed tool call": WEATHER
    + """
calls = {}
for chunk in ask("weather", tools=TOOLS, stream=True):
    for call in chunk.choices[0].delta.tool_calls or []:
        if call.index not in calls:
            calls[call.index] = call
        else:
            calls[call.index].function.arguments += call.function.arguments
for index, call in calls.items():
    print(index, call.id, call.function.name, call.function.arguments)
""",
    "a forced tool": WEATHER
    + """
ask("weather", tools=TOOLS, tool_choice={"type": "function", "function": {"name": "weather"}})
print("sent")
""",
    "JSON mode": """
c = ask("json", response_format={"type": "json_object"})
print(json.loads(c.choices[0].message.content))
""",
    "a JSON schema": """
schema = {"name": "s", "strict": True, "schema": {"type": "object", "properties": {}}}
c = ask("json", response_format={"type": "json_schema", "json_schema": schema})
print(c.choices[0].message.content)
""",
    "parse": MODEL
    + """
c = client.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "steps"}], response_format=Answer)
message = c.choices[0].message
print(message.parsed.final, [s.output for s in message.parsed.steps], type(message.parsed).__name__)
""",
    "parse a dataclass": """
from pydantic.dataclasses import dataclass
@dataclass
class Pair:
    final: str
    steps: list
c = client.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "steps"}], response_format=Pair)
print(c.choices[0].message.parsed.final)
""",
    "parse a refusal": MODEL
    + """
c = client.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "refuse"}], response_format=Answer)
print(c.choices[0].message.parsed, c.choices[0].message.refusal)
""",
    "parse an incomplete answer": MODEL
    + """
for text in ("length", "filter"):
    try:
        client.chat.completions.parse(
            model="m", messages=[{"role": "user", "content": text}], response_format=Answer)
    except (PKG.LengthFinishReasonError, PKG.ContentFilterFinishReasonError) as error:
        print(type(error).__name__, error.completion.choices[0].finish_reason)
""",
    "parse tool arguments": """
from pydantic import BaseModel
class weather(BaseModel):
    "Tell the weather."
    city: str
tool = PKG.pydantic_function_tool(weather)
c = client.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "weather"}], tools=[tool])
print(c.choices[0].message.tool_calls[0].function.parsed_arguments.city)
print(json.dumps(tool))
""",
    "parse the arguments of a strict tool": WEATHER
    + """
c = client.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "weather"}], tools=TOOLS)
print(c.choices[0].message.tool_calls[0].function.parsed_arguments)
""",
    "async parse": MODEL
    + """
async def main():
    async with AsyncOpenAI() as client:
        c = await client.chat.completions.parse(
            model="m", messages=[{"role": "user", "content": "steps"}], response_format=Answer)
        print(c.choices[0].message.parsed)
asyncio.run(main())
""",
    "events": """
with client.chat.completions.stream(model="m", messages=HI) as stream:
    for event in stream:
        if event.type == "content.delta":
            print(event.type, repr(event.delta), repr(event.snapshot), event.parsed)
        elif event.type == "content.done":
            print(event.type, event.content, event.parsed)
        else:
            print(event.type)
print(stream.get_final_completion().choices[0].message.content)
HI[0]["content"] = "length"
with client.chat.completions.stream(model="m", messages=HI) as stream:
    print([event.type for event in stream])
""",
    "events of tool calls": WEATHER
    + """
for text in ("two calls", "text and calls"):
    messages = [{"role": "user", "content": text}]
    with client.chat.completions.stream(model="m", messages=messages, tools=TOOLS) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                print(event.type, event.index, event.name, event.arguments_delta, event.arguments)
                print(event.parsed_arguments)
            elif event.type == "tool_calls.function.arguments.done":
                print(event.type, event.index, event.name, event.arguments, event.parsed_arguments)
            else:
                print(event.type)
""",
    "events of a parsed answer": MODEL
    + """
messages = [{"role": "user", "content": "steps"}]
with client.chat.completions.stream(
        model="m", messages=messages, response_format=Answer) as stream:
    for event in stream:
        if event.type == "content.delta":
            print(event.parsed)
        if event.type == "content.done":
            print(event.parsed)
print(stream.get_final_completion().choices[0].message.parsed.final)
""",
    "events of logprobs and a refusal": """
for text in ("logprobs", "refuse"):
    messages = [{"role": "user", "content": text}]
    with client.chat.completions.stream(model="m", messages=messages, logprobs=True) as stream:
        for event in stream:
            if event.type == "logprobs.content.delta":
                print(event.type, [t.token for t in event.snapshot])
            elif event.type == "refusal.delta":
                print(event.type, event.delta, event.snapshot)
            elif event.type == "refusal.done":
                print(event.type, event.refusal)
            else:
                print(event.type)
""",
    "the snapshot": """
with client.chat.completions.stream(model="m", messages=HI) as stream:
    for event in stream:
        if event.type == "chunk":
            print(event.snapshot.choices[0].message.content, event.chunk.id)
    print(stream.current_completion_snapshot.choices[0].finish_reason)
""",
    "async events": """
async def main():
    async with AsyncOpenAI() as client:
        async with client.chat.completions.stream(model="m", messages=HI) as stream:
            async for event in stream:
                print(event.type)
            completion = await stream.get_final_completion()
            print(completion.choices[0].message.content)
asyncio.run(main())
""",
    "until_done": """
with client.chat.completions.stream(model="m", messages=HI) as stream:
    stream.until_done()
    print(stream.get_final_completion().choices[0].finish_reason)
""",
    "a raw response": """
raw = client.chat.completions.with_raw_response.create(model="m", messages=HI)
print(raw.headers["x-program"], raw.headers.get("X-Program"), raw.status_code, raw.request_id)
print(raw.parse().choices[0].message.content, json.loads(raw.text)["id"], raw.retries_taken)
""",
    "a raw stream": """
raw = client.chat.completions.with_raw_response.create(model="m", messages=HI, stream=True)
print(raw.headers["x-program"])
print("".join(c.choices[0].delta.content or "" for c in raw.parse()))
""",
    "an async raw response": """
async def main():
    async with AsyncOpenAI() as client:
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=HI)
        print(raw.headers["x-program"], raw.parse().choices[0].message.content)
asyncio.run(main())
""",
    "a streaming response": """
create = client.chat.completions.with_streaming_response.create
with create(model="m", messages=HI) as response:
    print(response.headers.get("x-program"), response.status_code)
    print(response.parse().choices[0].message.content)
with create(model="m", messages=HI, stream=True) as response:
    print([line for line in response.iter_lines() if line][-1])
with create(model="m", messages=HI, stream=True) as response:
    print(len(list(response.parse())))
with create(model="m", messages=HI) as response:
    print(response.json()["id"])
""",
    "an async streaming response": """
async def main():
    async with AsyncOpenAI() as client:
        create = client.chat.completions.with_streaming_response.create
        async with create(model="m", messages=HI) as response:
            print((await response.json())["id"])
        async with create(model="m", messages=HI) as response:
            print((await response.parse()).choices[0].message.content)
        async with create(model="m", messages=HI, stream=True) as response:
            print(len([line async for line in response.iter_lines()]))
asyncio.run(main())
""",
    "with_raw_response of the client": """
print(client.with_raw_response.chat.completions.create(model="m", messages=HI).status_code)
print([m.id for m in client.with_raw_response.models.list().parse().data])
""",
    "dumps": """
c = ask()
print(json.dumps(c.model_dump(), sort_keys=True))
print(json.dumps(c.to_dict(), sort_keys=True))
print(json.dumps(json.loads(c.model_dump_json()), sort_keys=True))
print(json.dumps(json.loads(c.to_json()), sort_keys=True))
print(json.dumps(c.choices[0].message.model_dump(exclude_none=True), sort_keys=True))
print(json.dumps(c.usage.model_dump(exclude_unset=True), sort_keys=True))
print(c.model_dump(include={"id", "model"}), "usage" in c.model_dump(exclude={"usage"}))
print(type(c).model_validate(c.model_dump()).choices[0].message.content)
""",
    "dumps of chunks": """
for chunk in ask("weather", stream=True):
    print(json.dumps(chunk.model_dump(), sort_keys=True))
    print(json.dumps(chunk.model_dump(exclude_none=True), sort_keys=True))
""",
    "logprobs": """
c = ask("logprobs", logprobs=True, top_logprobs=1)
for token in c.choices[0].logprobs.content:
    print(token.token, token.logprob, token.bytes, [t.token for t in token.top_logprobs])
print(c.choices[0].logprobs.refusal)
""",
    "annotations and audio": """
m = ask("rich").choices[0].message
print(m.annotations[0].type, m.annotations[0].url_citation.url, m.audio.id, m.audio.transcript)
""",
    "members beyond the schema": """
c = ask("rich")
print(c.citations, c.choices[0].message.own["a"], hasattr(c, "nothing"))
""",
    "errors by status": """
client = client.with_options(max_retries=0)
for status in (400, 401, 403, 404, 409, 422, 429, 500, 503):
    try:
        ask(f"status {status}")
    except PKG.APIStatusError as error:
        print(type(error).__name__, error.status_code, error.code, error.type, error.param)
        print(error.request_id, isinstance(error, PKG.APIError), "words" in str(error))
        print(error.response.status_code, error.response.headers["x-request-id"])
""",
    "the order of except clauses": """
try:
    ask("status 429", timeout=5)
except PKG.APIConnectionError:
    print("no server")
except PKG.RateLimitError as error:
    print("slow down")
except PKG.APIStatusError:
    print("another")
""",
    "no server": """
client = OpenAI(base_url="http://127.0.0.1:1/v1", max_retries=0)
try:
    ask()
except PKG.APIConnectionError as error:
    print(type(error).__name__, error.__cause__ is not None)
""",
    "a time-out": """
try:
    client.with_options(timeout=0.05, max_retries=0).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "silence"}])
except PKG.APITimeoutError as error:
    print(isinstance(error, PKG.APIConnectionError))
""",
    "an error inside a stream": """
try:
    for chunk in ask("broken", stream=True):
        print(chunk.choices[0].delta.content)
except PKG.APIError as error:
    print(error.code, error.type)
""",
    "retries": """
print(ask("flaky").choices[0].message.content)
raw = client.chat.completions.with_raw_response.create(
    model="m", messages=[{"role": "user", "content": "flaky"}])
print(raw.retries_taken)
""",
    "options of a copy": """
other = client.copy(timeout=9, max_retries=5, default_headers={"X-Copy": "c"})
print(other.timeout if isinstance(other.timeout, (int, float)) else other.timeout.first_byte)
print(other.max_retries, client.max_retries)
other.chat.completions.create(model="m", messages=HI)
other.with_options(set_default_headers={"X-Set": "s"}).chat.completions.create(
    model="m", messages=HI)
""",
    "keys, addresses and closing": """
print(client.api_key, str(client.base_url).rstrip("/")[-3:])
other = OpenAI(api_key="sk-other", base_url=str(client.base_url))
with other:
    print(other.api_key, other.is_closed())
    other.chat.completions.create(model="m", messages=HI)
print(other.is_closed())
""",
    "models": """
print([m.id for m in client.models.list()])
print(client.models.list().data[0].object, client.models.retrieve("m1").owned_by)
try:
    client.models.retrieve("none")
except PKG.NotFoundError as error:
    print(error.code)
""",
    "models, async": """
async def main():
    async with AsyncOpenAI() as client:
        print([m.id async for m in client.models.list()])
        listed = await client.models.list(timeout=5, extra_headers={"X-Extra": "1"})
        print([m.id async for m in listed], listed.has_next_page(), listed.data[0].id)
asyncio.run(main())
""",
    "a raw parse": MODEL
    + """
raw = client.chat.completions.with_raw_response.parse(
    model="m", messages=[{"role": "user", "content": "json"}], response_format=Answer
)
print(raw.headers["X-PROGRAM"], raw.status_code, raw.parse().choices[0].message.parsed)
""",
    "parse of client.beta": MODEL
    + """
c = client.beta.chat.completions.parse(
    model="m", messages=[{"role": "user", "content": "json"}], response_format=Answer
)
print(c.choices[0].message.parsed.final)
""",
    "the head of a stream": """
with ask(stream=True) as stream:
    print(stream.response.status_code, stream.response.headers["x-program"])
with client.chat.completions.stream(model="m", messages=HI) as stream:
    print([e.delta for e in stream if e.type == "content.delta"])
""",
    "the body of an error": """
try:
    ask("status 404")
except PKG.NotFoundError as error:
    print(error.body["message"], error.response.json(), error.response.headers["X-Request-ID"])
try:
    list(ask("broken", stream=True))
except PKG.APIError as error:
    print(error.body["message"], error.message, error.code)
""",
    "copies": """
import copy, pickle
c = ask()
print(copy.deepcopy(c) == c, pickle.loads(pickle.dumps(c)) == c, c == ask(), c != None)
c.model_copy(deep=True).choices[0].message.content = "own"
print(c.choices[0].message.content)
d = c.model_copy(update={"id": "z"})
print(d.id, c.id, sorted(c.model_fields_set))
c.choices[0].message.content = "new"
print(c.model_dump()["choices"][0]["message"]["content"])
""",
    "dumps with options": """
c = ask()
print(sorted(c.model_dump(mode="json", by_alias=True, warnings=False, exclude_defaults=True)))
print(c.model_dump_json(exclude={"choices", "usage"}, exclude_none=True))
print(c.choices[0].message.model_dump(exclude_unset=True, include={"role"}))
nested = {"choices": {"__all__": {"message": {"content"}, "logprobs": True}}, "usage": True}
print(sorted(c.model_dump(exclude=nested, exclude_unset=True)))
print(sorted(c.model_dump(exclude=nested, exclude_unset=True)["choices"][0]["message"]))
print(sorted(c.model_dump(exclude=nested, exclude_unset=True)["choices"][0]))
""",
    "the order of members in dumps": """
for text in ("hi", "two calls", "logprobs", "refuse"):
    print(ask(text).to_json(), ask(text).to_dict(exclude_unset=False))
    for chunk in ask(text, stream=True):
        print(chunk.to_json(indent=None), chunk.model_dump_json(), chunk.to_dict())
print(ask().to_json(exclude_none=True, indent=None), ask().to_dict(exclude_none=True))
print(client.models.retrieve("m1").model_dump(), client.models.list().to_json())
""",
    "dumps of nested members": """
c = ask("two calls", n=2)
print(c.model_dump(include={"id", "usage"}), c.model_dump(exclude={"usage", "choices"}))
print(c.model_dump(include={"choices": {0: {"message": {"content", "role"}}}}))
print(c.model_dump(include={"choices": {"__all__": {"index"}}}))
print(c.model_dump(exclude={"choices": {0: True, 1: {"message": {"tool_calls": {1: ...}}}}}))
print(c.model_dump(exclude={"choices": {"__all__": {"message"}}, "usage": {"prompt_tokens"}}))
print(c.model_dump_json(include={"choices": {1: {"index"}}}, exclude_none=True))
print(c.choices[0].message.model_dump(exclude={"tool_calls": {"__all__": {"function": {"name"}}}}))
""",
    "dumps read again": """
c = ask("two calls")
kind = type(c)
print(kind.model_validate(c.model_dump()) == c, kind.model_validate_json(c.model_dump_json()) == c)
print(kind.model_validate_json(c.to_json()) == c, kind.model_validate(ask().to_dict()) == c)
""",
    "the response of an error": """
for status in (400, 404, 422):
    try:
        ask(f"status {status}")
    except PKG.APIStatusError as error:
        print(error.response.text, error.response.content, error.response.json())
        print(error.request.method, str(error.request.url).endswith("/v1/chat/completions"))
try:
    OpenAI(base_url="http://127.0.0.1:9/v1", max_retries=0).models.list()
except PKG.APIConnectionError as error:
    print(error.request.method, error.request.url)
""",
    "a streaming response in blocks": """
create = client.chat.completions.with_streaming_response.create
with create(model="m", messages=HI) as response:
    print([len(piece) > 7 for piece in response.iter_bytes(7)].count(True))
with create(model="m", messages=HI) as response:
    print("".join(response.iter_text(chunk_size=3)))
""",
    "iterating over members": """
print(dict(ask().usage)["total_tokens"])
print([name for name, value in ask().choices[0].message if value is None])
print(ask("rich").model_extra, ask("rich").choices[0].message.model_extra, ask().model_extra)
""",
    "dumps of a parsed answer": MODEL
    + """
messages = [{"role": "user", "content": "steps"}]
c = client.chat.completions.parse(model="m", messages=messages, response_format=Answer, n=2)
print(c.to_json(warnings=False), [choice.message.parsed.final for choice in c.choices])
for part in ({"include": {"final"}}, {"exclude": {"steps"}}):
    (name, members), = part.items()
    part = {name: {"choices": {0: {"message": {"parsed": members}}}}}
    print(c.model_dump(**part, warnings=False))
""",
    "dumps of events": """
with client.chat.completions.stream(model="m", messages=HI) as stream:
    for event in stream:
        if event.type != "chunk":
            print(event.model_dump(), event.to_json())
""",
    "a streaming response as text": """
with client.chat.completions.with_streaming_response.create(model="m", messages=HI) as response:
    print(json.loads("".join(response.iter_text()))["id"], response.retries_taken)
""",
    "no attribute": """
c = ask()
print(getattr(c, "nothing", 5), bool(PKG.NOT_GIVEN), bool(PKG.omit), bool(PKG.not_given))
print(isinstance(PKG.__version__, str))
""",
    "annotations": """
def read(stream: PKG.Stream[int], other: "PKG.AsyncStream[str]") -> str:
    return "".join(c.choices[0].delta.content or "" for c in stream)
with ask(stream=True) as stream:
    print(isinstance(stream, PKG.Stream), read(stream, None), PKG.AsyncStream[int] is not None)
""",
    "calls as tasks": """
async def main():
    async with AsyncOpenAI() as client:
        asking = (client.chat.completions.create(model="m", messages=HI) for _ in range(3))
        print([c.id for c in await asyncio.gather(*map(asyncio.create_task, asking))])
asyncio.run(main())
""",
    "the id of a request": "print(ask()._request_id)",
    "messages that are pydantic models": """
from pydantic import BaseModel
class Message(BaseModel):
    role: str
    content: str
message = Message(role="user", content="hi").model_dump()
print(client.chat.completions.create(model="m", messages=[message]).choices[0].message.content)
""",
    "a response": """
r = client.responses.create(model="m", input="hi", instructions="be brief", temperature=0)
print(r.id, r.status, r.output_text, r.output[0].content[0].text, r.output[0].role, r._request_id)
print(r.usage.input_tokens, r.usage.input_tokens_details.cached_tokens, r.usage.total_tokens)
print(r.usage.output_tokens_details.reasoning_tokens, r.error, r.incomplete_details)
print(r.tools, r.tool_choice, r.object, r.temperature, r.metadata, r.reasoning, r.text, r.user)
""",
    "a response's stream": """
for event in client.responses.create(model="m", input="hi", stream=True):
    print(event.type, event.sequence_number)
    if event.type == "response.output_text.delta":
        print(event.delta, event.output_index)
    if event.type == "response.completed":
        print(event.response.output_text)
""",
    "an async response": """
async def main():
    async with AsyncOpenAI() as client:
        print((await client.responses.create(model="m", input="hi")).output_text)
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            print(event.type)
asyncio.run(main())
""",
    "a parsed response": MODEL
    + """
for text in ("steps", "refuse"):
    r = client.responses.parse(model="m", input=text, text_format=Answer, text={"verbosity": "low"})
    print(r.output_parsed, r.output_text, r.output[0].content[0].type)
try:
    client.responses.parse(model="m", input="hi", text_format=Answer)
except ValueError as error:
    print(type(error).__name__)
print(client.responses.parse(model="m", input="hi").output_parsed)
""",
    "a response's parsed calls": """
from pydantic import BaseModel
class weather(BaseModel):
    "Tell the weather."
    city: str
tools = [PKG.pydantic_function_tool(weather)]
(call,) = client.responses.parse(model="m", input="weather", tools=tools).output
print(call.type, call.name, call.call_id, call.arguments, call.parsed_arguments.city)
flat = {"type": "function", "name": "weather", "strict": True, "parameters": {"type": "object"}}
(call,) = client.responses.parse(model="m", input="weather", tools=[flat]).output
print(call.parsed_arguments)
flat["strict"] = False
(call,) = client.responses.parse(model="m", input="weather", tools=[flat]).output
print(call.parsed_arguments)
""",
    "raw and streaming responses of responses": """
r = client.responses.with_raw_response.create(model="m", input="hi")
print(r.headers["x-request-id"], r.status_code, r.parse().output_text)
r = client.responses.with_raw_response.create(model="m", input="hi", stream=True)
print(r.headers["x-request-id"], [event.type for event in r.parse()])
with client.responses.with_streaming_response.create(model="m", input="hi") as r:
    print(r.headers["x-request-id"], r.parse().output_text)
with client.responses.with_streaming_response.create(model="m", input="hi", stream=True) as r:
    print([line for line in r.iter_lines() if line][-1])
print(client.with_raw_response.responses.create(model="m", input="hi").parse().status)
async def main():
    client = AsyncOpenAI()
    r = await client.responses.with_raw_response.create(model="m", input="hi")
    print(r.headers["x-request-id"], r.parse().output_text)
    async with client.responses.with_streaming_response.create(
        model="m", input="hi", stream=True
    ) as r:
        stream = await r.parse()
        print([event.type async for event in stream])
asyncio.run(main())
""",
    "query parameters": """
client = client.copy(default_query={"a": ["b", "c"], "none": None})
ask(extra_query={"x": "y z", "l": ["a", "b"], "t": True, "n": None, "d": {"k": ["v"]}, "f": 1.5})
for both in ("headers", "query"):
    try:
        client.copy(**{f"default_{both}": {"a": "b"}, f"set_default_{both}": {"c": "d"}})
    except ValueError:
        print("not both")
""",
    "header names in any case": """
client = OpenAI(default_headers={"X-Default": "d", "authorization": "Bearer z"})
ask(extra_headers={"content-type": "application/json; charset=utf-8", "x-extra": "1"})
ask(extra_headers={"x-default": PKG.omit})
ask(extra_headers={"X-DEFAULT": "e"})
print("sent")
""",
    "a type as response_format of create": MODEL
    + """
try:
    ask(response_format=Answer)
except TypeError:
    print("a TypeError")
""",
    "pages of models": """
page = client.models.list()
print([[model.id for model in page] for page in page.iter_pages()], page.next_page_info())
async def main():
    page = await AsyncOpenAI().models.list()
    print([[model.id async for model in page] async for page in page.iter_pages()])
asyncio.run(main())
""",
    "http_response and http_request": """
r = client.chat.completions.with_raw_response.create(model="m", messages=HI)
print(r.http_response.status_code, r.http_response.headers["content-type"], r.is_closed)
print(r.http_response.json()["object"], r.http_request.method, str(r.http_request.url)[-12:])
with client.chat.completions.with_streaming_response.create(model="m", messages=HI) as r:
    print(r.is_closed, r.read() == r.read(), r.json()["object"], r.parse().id, r.is_closed)
stream = ask("broken", stream=True)
print(stream.response.request.method)
try:
    list(stream)
except PKG.APIError as error:
    print(error.request.method, str(error.request.url)[-12:])
""",
    "construct": """
kind = type(ask())
print(kind.construct(id="a").id, kind.model_construct(id="b").id, list(kind.model_fields))
print(ask(stream=PKG.NOT_GIVEN).id, ask(stream=PKG.omit).id)
""",
    "streaming responses of models": """
with client.models.with_streaming_response.list() as r:
    print(r.status_code, [model.id for model in r.parse().data])
async def main():
    async with AsyncOpenAI().models.with_streaming_response.list() as r:
        print(r.status_code, len(await r.read()) > 0)
    print((await AsyncOpenAI().models.with_raw_response.list()).parse().data[0].id)
asyncio.run(main())
""",
    "less usual parameters of responses": """
client.responses.create(model="m", input="hi", conversation="conv_1", prompt={"id": "p"})
r = client.responses.create(model="m", input="hi", context_management=[{"type": "compaction"}])
print(r.conversation, r.prompt, r.usage.model_dump())
""",
    "a response streamed and parsed": MODEL
    + """
with client.responses.stream(model="m", input="steps", text_format=Answer) as stream:
    for event in stream:
        print(event.type)
    print(stream.get_final_response().output_parsed)
with client.responses.stream(model="m", input="hi") as stream:
    stream.until_done()
    print(stream.get_final_response().output_text)
"""
    + """
from pydantic import BaseModel
class weather(BaseModel):
    city: str
tools = [PKG.pydantic_function_tool(weather)]
messages = [{"role": "user", "content": "weather"}]
with client.chat.completions.stream(model="m", messages=messages, tools=tools) as stream:
    print([e.parsed_arguments for e in stream if e.type.startswith("tool_calls")])
""",
    "a conversation": """
messages = []
for text in ("say one", "say two"):
    messages.append({"role": "user", "content": text})
    answer = client.chat.completions.create(model="m", messages=messages).choices[0].message
    messages.append(answer)
print([getattr(m, "content", None) or m["content"] for m in messages])
""",
}

_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": None},
}
_STEPS = '{"steps": [{"explanation": "e", "output": "o"}], "final": "done", "remark": null}'
_TOKEN = {"token": "he", "logprob": -0.5, "bytes": [104, 101], "top_logprobs": []}
_LOGPROBS = {"content": [{**_TOKEN, "top_logprobs": [dict(_TOKEN)]}], "refusal": None}
_CITATION = {"start_index": 0, "end_index": 2, "title": "t", "url": "http://u"}


def _call(index: int, city: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    return {"id": f"call_{index}", "type": "function", "function": function}


def _message(prompt: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return the answer to *prompt*, its finish reason, and other members of its choice."""
    made: dict[str, Any] = {"role": "assistant", "content": "hello", "refusal": None}
    if prompt in ("weather", "two calls", "text and calls"):
        calls = [_call(0, "Paris"), _call(1, "Oslo")][: 1 if prompt == "weather" else 2]
        content = "Let me see." if prompt == "text and calls" else None
        return {**made, "content": content, "tool_calls": calls}, "tool_calls", {}
    if prompt in ("steps", "json"):
        return {**made, "content": _STEPS}, "stop", {}
    if prompt == "refuse":
        return {**made, "content": None, "refusal": "I won't"}, "stop", {}
    if prompt in ("length", "filter"):
        return made, {"length": "length", "filter": "content_filter"}[prompt], {}
    if prompt == "logprobs":
        return made, "stop", {"logprobs": _LOGPROBS}
    if prompt == "rich":
        annotations = [{"type": "url_citation", "url_citation": _CITATION}]
        audio = {"id": "a1", "data": "AA==", "expires_at": 9, "transcript": "hello"}
        return {**made, "annotations": annotations, "audio": audio, "own": {"a": 1}}, "stop", {}
    if prompt.startswith("say "):
        return {**made, "content": prompt[4:]}, "stop", {}
    return made, "stop", {}


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the deltas of the chunks of *message*."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name in ("content", "refusal"):
        text = message.get(name) or ""
        deltas += [{name: part} for part in re.findall(r".{1,9}", text)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        arguments = call["function"]["arguments"]
        start = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        empty = {"content": ""} if message.get("content") else {}
        deltas.append({"tool_calls": [start], **empty})
        for part in (arguments[:6], arguments[6:]):
            piece = {"index": index, "function": {"arguments": part}}
            deltas.append({"tool_calls": [piece], **empty})
    return deltas


class ProgramServer:
    """Answers the programs; a script for a RawServer.  ``sent`` holds the requests received."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, dict[str, str | None]]] = []
        self._flaky = 0

    def __call__(self, peer: Peer) -> None:
        body = json.loads(peer.request.body) if peer.request.body else None
        headers = {name.lower(): value for name, value in peer.request.headers.items()}
        kept = ("authorization", "content-type", "x-extra", "x-default", "x-copy", "x-set")
        self.sent.append((peer.request.path, body, {name: headers.get(name) for name in kept}))
        if body is None:
            self._models(peer)
            return
        if peer.request.path.endswith("/responses"):
            self._respond(peer, body)
            return
        prompt = body["messages"][-1]["content"]
        prompt = prompt if isinstance(prompt, str) else "parts"
        if prompt == "silence":
            peer.wait_until_left()
        elif prompt == "flaky" and (flaky := self._flaky) % 3 != 2:
            self._flaky += 1
            peer.json({"error": {"message": "again"}}, "500 X", Retry_After_Ms="1")
            assert flaky >= 0
        elif prompt.startswith("status "):
            error = {"message": "words", "type": "t", "param": "p", "code": f"c{prompt[7:]}"}
            peer.json({"error": error}, f"{prompt[7:]} X", X_Request_Id="req-1")
        elif body.get("stream"):
            self._stream(peer, prompt, body)
        else:
            self._flaky += prompt == "flaky"
            self._complete(peer, prompt, body)

    def _models(self, peer: Peer) -> None:
        models = [{"id": f"m{n}", "object": "model", "created": 1, "owned_by": "o"} for n in (1, 2)]
        name = peer.request.path.rpartition("/")[2]
        if name == "none":
            peer.json({"error": {"message": "no", "code": "model_not_found"}}, "404 X")
        elif name == "m1":
            peer.json(models[0])
        else:
            peer.json({"object": "list", "data": models})

    def _complete(self, peer: Peer, prompt: str, body: dict[str, Any]) -> None:
        message, reason, more = _message(prompt)
        choices = [
            {"index": index, "message": message, "finish_reason": reason, "logprobs": None, **more}
            for index in range(body.get("n") or 1)
        ]
        made = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m"}
        own = {"citations": ["x"]} if prompt == "rich" else {}
        whole = {**made, "choices": choices, "usage": _USAGE, **own}
        peer.json(whole, X_Program="yes", X_Request_Id="req-1")

    def _respond(self, peer: Peer, body: dict[str, Any]) -> None:
        message, _, _ = _message(body["input"])
        part = {"type": "output_text", "text": message["content"], "annotations": []}
        if message["refusal"]:
            part = {"type": "refusal", "refusal": message["refusal"]}
        item = {"id": "i", "type": "message", "role": "assistant", "status": "completed"}
        output: list[dict[str, Any]] = [{**item, "content": [part]}]
        for call in message.get("tool_calls", ()):
            item = {"id": "i", "type": "function_call", "call_id": call["id"]}
            output = [{**item, "status": "completed", **call["function"]}]
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        usage["input_tokens_details"] = {"cached_tokens": 1}  # type: ignore[assignment]
        usage["output_tokens_details"] = {"reasoning_tokens": 1}  # type: ignore[assignment]
        made = {"id": "r1", "object": "response", "created_at": 7, "model": "m", "tools": []}
        made |= {"parallel_tool_calls": True, "tool_choice": "auto", "error": None}
        begun = {**made, "status": "in_progress", "output": []}
        whole = {**made, "status": "completed", "output": output, "usage": usage}
        if not body.get("stream"):
            peer.json(whole, X_Request_Id="req-1")
            return
        place = {"item_id": "i", "output_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", **place, "item": {**output[0], "content": []}},
            {"type": "response.content_part.added", **place, "content_index": 0,
             "part": {**part, "text": ""}},
            {"type": "response.output_text.delta", **place, "content_index": 0,
             "delta": part.get("text"), "logprobs": []},
            {"type": "response.output_text.done", **place, "content_index": 0,
             "text": part.get("text"), "logprobs": []},
            {"type": "response.output_item.done", **place, "item": output[0]},
            {"type": "response.completed", "response": whole},
        ]  # fmt: skip
        peer.head(X_Request_Id="req-1")
        for number, event in enumerate(events):
            peer.frame({**event, "sequence_number": number})
        peer.end()

    def _stream(self, peer: Peer, prompt: str, body: dict[str, Any]) -> None:
        message, reason, more = _message(prompt)
        peer.head(X_Program="yes", X_Request_Id="req-1")
        choices = range(body.get("n") or 1)
        for delta in _deltas(message):
            for index in choices:
                made = chat_chunk(None, index=index, **delta)
                made["choices"][0].update({"finish_reason": None, **more})
                more = {}
                peer.frame(made)
            if prompt == "broken":
                peer.frame({"error": {"message": "m", "type": "t", "code": "c"}})
                return
        for index in choices:
            peer.frame(chat_chunk(None, index=index, finish=reason))
        if (body.get("stream_options") or {}).get("include_usage"):
            peer.frame({**chat_chunk(None), "choices": [], "usage": _USAGE})
        peer.frame("[DONE]")
        peer.end()
