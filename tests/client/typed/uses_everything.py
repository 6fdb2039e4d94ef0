"""Uses the whole client, for the type checkers: no error under mypy and pyright, both strict."""

# pyright: strict
from __future__ import annotations

from typing import Any

import requests
from pydantic import BaseModel

import choreoai
from choreoai import (
    NOT_GIVEN,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncChoreoAI,
    AsyncStream,
    ChatCompletion,
    ChatCompletionChunk,
    ChoreoAI,
    Fold,
    LengthFinishReasonError,
    Message,
    Stream,
    StreamInterruptedError,
    Timeout,
    pydantic_function_tool,
)

HI: list[dict[str, str]] = [{"role": "user", "content": "hi"}]


class Answer(BaseModel):
    final: str


def settings() -> ChoreoAI:
    client = ChoreoAI(
        api_key="k",
        base_url="http://localhost:8000",
        timeout=Timeout(connect=1.0, first_byte=2.0, idle=None),
        max_retries=3,
        resumable=True,
        default_headers={"X-A": "b"},
        default_query={"q": 1},
        proxies={"http": "http://proxy:1"},
        verify="/roots.pem",
        cert=("/cert.pem", "/key.pem"),
        http_client=requests.Session(),
    )
    other: ChoreoAI = client.with_options(timeout=5, max_retries=0).copy(api_key="x")
    limits: Timeout = other.timeout
    headers: dict[str, str] = client.default_headers
    closed: bool = client.is_closed()
    print(limits.connect, headers, closed, client.base_url, client.api_key, client.default_query)
    return other


def whole(client: ChoreoAI) -> Message:
    completion: ChatCompletion = client.chat.completions.create(
        model="m",
        messages=HI,
        temperature=0.5,
        top_p=1,
        max_tokens=5,
        stop=["a"],
        n=2,
        seed=None,
        tools=[{"type": "function", "function": {"name": "f"}}, pydantic_function_tool(Answer)],
        tool_choice="auto",
        logit_bias={"1": 2},
        response_format={"type": "json_object"},
        reasoning_effort="low",
        stream_options=None,
        metadata={"a": "b"},
        timeout=NOT_GIVEN,
        resumable=False,
        extra_headers={"a": "b"},
        extra_query={"a": 1},
        extra_body={"own": [1]},
    )
    choice = completion.choices[0]
    if completion.usage is not None and completion.usage.prompt_tokens_details is not None:
        cached: int | None = completion.usage.prompt_tokens_details.cached_tokens
        print(cached)
    if choice.logprobs is not None:
        for token in choice.logprobs.content or ():
            print(token.token, token.logprob, [top.token for top in token.top_logprobs or ()])
    for call in choice.message.tool_calls or ():
        print(call.id, call.function.name, call.function.arguments)
    for annotation in choice.message.annotations or ():
        print(annotation.url_citation.url if annotation.url_citation else None)
    dumped: dict[str, Any] = completion.model_dump(exclude_none=True)
    text: str = completion.model_dump_json(indent=2) + completion.to_json()
    print(dumped, text, completion.to_dict(), choice.message.reasoning_content)
    return choice.message


def streamed(client: ChoreoAI) -> str:
    stream: Stream = client.chat.completions.create(model="m", messages=HI, stream=True)
    chunk: ChatCompletionChunk
    fold = Fold()
    with stream:
        for chunk in stream:
            fold.add(chunk)
            content: str | None = chunk.choices[0].delta.content
            print(content, chunk.choices[0].finish_reason)
    texts: list[str] = list(stream.text)
    final: ChatCompletion = stream.get_final_completion()
    number: int | None = stream.last_event_id
    if stream.id is not None:
        again: Stream = client.chat.completions.resume(stream.id, after=number or 0, timeout=3)
        again.cancel()
    print(stream.headers.get("a"), stream.request_id, stream.partial.choices, texts, final)
    return stream.partial_text + fold.text(1)


def either(client: ChoreoAI, stream: bool) -> ChatCompletion | Stream:
    return client.chat.completions.create(model="m", messages=HI, stream=stream)


def parsed(client: ChoreoAI) -> str:
    completion = client.chat.completions.parse(model="m", messages=HI, response_format=Answer)
    answer: Answer | None = completion.choices[0].message.parsed
    with client.chat.completions.stream(model="m", messages=HI, response_format=Answer) as stream:
        for event in stream:
            if event.type == "content.delta":
                print(event.delta, event.snapshot)
            elif event.type == "content.done":
                done: Answer | None = event.parsed
                print(done)
            elif event.type == "tool_calls.function.arguments.done":
                print(event.name, event.index, event.arguments)
            elif event.type == "chunk":
                print(event.snapshot.choices[0].message.content)
        final: Answer | None = stream.get_final_completion().choices[0].message.parsed
    return (answer.final if answer else "") + (final.final if final else "")


def raw(client: ChoreoAI) -> None:
    response = client.chat.completions.with_raw_response.create(model="m", messages=HI)
    completion: ChatCompletion = response.parse()
    opened = client.chat.completions.with_raw_response.create(model="m", messages=HI, stream=True)
    stream: Stream = opened.parse()
    create = client.chat.completions.with_streaming_response.create
    with create(model="m", messages=HI) as answer:
        line: str
        for line in answer.iter_lines():
            print(line)
        print(answer.status_code, answer.headers, answer.read(), answer.parse().choices)
    names: list[str | None] = [model.id for model in client.models.list()]
    status: int = client.with_raw_response.models.retrieve("m").status_code
    print(completion, stream, names, status, response.headers["a"], response.text, response.json())


def responses(client: ChoreoAI) -> str:
    whole = client.responses.create(model="m", input="hi", temperature=0.5)
    stream = client.responses.create(model="m", input="hi", stream=True)
    for event in stream:
        print(event.type)
    with client.responses.stream(model="m", input="hi") as opened:
        print(opened.get_final_response().id)
    stream = client.responses.retrieve("resp_1", stream=True, starting_after=3)
    return whole.output_text + stream.get_final_response().output_text


def failing(client: ChoreoAI) -> None:
    try:
        whole(client)
    except StreamInterruptedError as error:
        print(error.partial_text, error.partial)
    except APITimeoutError as error:
        print(error.message)
    except APIConnectionError as error:
        print(error.__cause__)
    except choreoai.RateLimitError as error:
        print(error.headers.get("retry-after"))
    except APIStatusError as error:
        print(error.status_code, error.request_id, error.code, error.body)
    except APIError as error:
        print(error.type, error.param)
    except LengthFinishReasonError as error:
        print(error.completion.choices)


async def asynchronous() -> str:
    async with AsyncChoreoAI(api_key="k") as client:
        completion: ChatCompletion = await client.chat.completions.create(model="m", messages=HI)
        stream: AsyncStream = await client.chat.completions.create(
            model="m", messages=HI, stream=True, temperature=1
        )
        async for chunk in stream:
            print(chunk.choices[0].delta.content)
        texts: list[str] = [text async for text in stream.text]
        final: ChatCompletion = await stream.get_final_completion()
        answer = await client.chat.completions.parse(model="m", messages=HI, response_format=Answer)
        said: Answer | None = answer.choices[0].message.parsed
        async with client.chat.completions.stream(model="m", messages=HI) as events:
            async for event in events:
                print(event.type)
        response = await client.chat.completions.with_raw_response.create(model="m", messages=HI)
        whole: ChatCompletion = response.parse()
        create = client.chat.completions.with_streaming_response.create
        async with create(model="m", messages=HI) as opened:
            lines: list[str] = [line async for line in opened.iter_lines()]
        await stream.cancel()
        await stream.close()
        models = await client.models.list(timeout=3)
        listed: list[str | None] = [model.id async for model in client.models.list()]
        raw = await client.chat.completions.with_raw_response.parse(
            model="m", messages=HI, response_format=Answer
        )
        parsed: Answer | None = raw.parse().choices[0].message.parsed
        named: AsyncStream[ChatCompletionChunk] = stream
        print(listed, parsed, named.response.status_code, named.response.headers)
        print(completion, texts, final, said, whole, lines, len(models), client.is_closed())
    return completion.choices[0].message.content or ""
