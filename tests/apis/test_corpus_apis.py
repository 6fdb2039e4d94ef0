"""Recorded answers through the whole server: the SDK of every API reads the same content.

An upstream on a socket plays the recording, and the SDKs read from our server's socket.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import anthropic
import harness
import openai
import pytest
from corpus_cases import KEY, OPTIONS, Case, cases
from nightly import NIGHTLY
from official import events_of, judge_events, judge_order
from raw_server import RawServer

#: Responses and Messages have only one choice.
CASES = [case for case in cases() if case.request.n == 1]
#: Every third one; all in the nightly run.
TRIED = CASES[:: 1 if NIGHTLY else 3]
HELLO: Any = [{"role": "user", "content": "hi"}]


@dataclass
class Content:
    """The content of an answer; *ending* is its finish reason, empty after a failure.

    *status* is the HTTP status of an answer that is no stream.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    usage: tuple[int, int, int] = (0, 0, 0)
    ending: str = ""
    status: int = 200
    pictures: int = 0
    left_out: int = 0

    def add(self, text: str) -> None:
        """Add *text*; count it if it is the note about an omitted part."""
        if text.startswith("[left out: "):
            self.left_out += 1
        else:
            self.text += text


class Site:
    """Our server, an upstream that plays *answer*, and the stock SDKs as clients."""

    def __init__(self, case: Case, stack: ExitStack) -> None:
        self.answer = b""
        upstream = stack.enter_context(RawServer.playing(lambda request: self.answer))
        section = {"type": case.provider_type, "models": "*", "api_key": KEY}
        section |= OPTIONS.get(case.provider_type, {}) | (case.json("options.json") or {})
        section["base_url"] = upstream.url
        if case.provider_type == "azure":
            section["apis"] = "chat"  # the recordings are of chat
        app = harness.make_app({"default_model": "none"}, {"provider up": section})
        stack.callback(app.close)
        self.server = stack.enter_context(harness.Server(app))
        url = self.server.url
        self.openai = stack.enter_context(
            openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        )
        self.anthropic = stack.enter_context(
            anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        )

    def post(self, path: str, body: dict[str, Any]) -> harness.Answer:
        """Return the raw reply to *body* with ``stream``."""
        with self.server.connect() as client:
            return client.exchange("POST", path, {"stream": True, **body})


@pytest.fixture(scope="module")
def site_of() -> Iterator[Callable[[Case], Site]]:
    """Return a function that returns the site whose upstream plays the recording of a case."""
    made: dict[str, Site] = {}
    with ExitStack() as stack:

        def get(case: Case) -> Site:
            key = f"{case.provider_type} {case.json('options.json')}"
            if key not in made:
                made[key] = Site(case, stack)
            made[key].answer = (case.folder / "upstream.http").read_bytes()
            return made[key]

        yield get


def model_of(case: Case) -> str:
    """Return a model name that no other case has: failures are counted by model.

    The recordings of Bedrock are of Converse, which is not used for Messages to Claude.
    """
    return f"{case.request.model.replace('anthropic.', 'other.')}-{case.folder.name}"


# -- the SDK of each API ------------------------------------------------------------------------


def read_chat(client: openai.OpenAI, model: str) -> Content:
    result = Content()
    calls: dict[int, list[str]] = {}
    options: Any = {"include_usage": True}
    try:
        for chunk in client.chat.completions.create(
            model=model, messages=HELLO, stream=True, stream_options=options
        ):
            for choice in chunk.choices:
                delta = choice.delta
                result.text += (delta.content or "") + (delta.refusal or "")
                more = delta.model_extra or {}
                result.reasoning += more.get("reasoning_content") or ""
                result.pictures += len(more.get("images") or ())
                result.left_out += len(more.get("content_parts") or ())
                for call in delta.tool_calls or ():
                    function = call.function
                    assert function is not None
                    place = calls.setdefault(call.index, [call.id or "", function.name or "", ""])
                    place[2] += function.arguments or ""
                result.ending = choice.finish_reason or result.ending
            if usage := chunk.usage:
                details = usage.prompt_tokens_details
                cached = (details and details.cached_tokens) or 0
                result.usage = (usage.prompt_tokens, usage.completion_tokens, cached)
    except openai.APIStatusError as error:
        result.status = error.status_code
    except openai.APIError:
        result.ending = ""
    result.calls = [(id, name, arguments) for id, name, arguments in calls.values()]
    return result


def read_response(client: openai.OpenAI, model: str) -> Content:
    result = Content()
    try:
        last: Any = list(client.responses.create(model=model, input="hi", stream=True))[-1]
    except openai.APIStatusError as error:
        return Content(status=error.status_code)
    response = last.response
    result.ending = "" if response.status == "failed" else response.status
    if response.incomplete_details is not None:
        result.ending += f" {response.incomplete_details.reason}"
    for item in response.output:
        if item.type == "reasoning":
            result.reasoning += "".join(part.text for part in item.content or ())
        elif item.type == "function_call":
            result.calls.append((item.call_id, item.name, item.arguments))
        elif item.type == "image_generation_call":
            result.pictures += 1
        elif item.type == "message":
            for part in item.content:
                result.add(part.text if part.type == "output_text" else part.refusal)
    if response.usage is not None:
        cached = response.usage.input_tokens_details.cached_tokens
        result.usage = (response.usage.input_tokens, response.usage.output_tokens, cached)
    return result


def read_message(client: anthropic.Anthropic, model: str) -> Content:
    result = Content()
    try:
        with client.messages.stream(model=model, max_tokens=99, messages=HELLO) as stream:
            message = stream.get_final_message()
    except anthropic.APIStatusError as error:
        result.status = error.status_code
        return result
    except anthropic.APIError:
        return result
    for block in message.content:
        if block.type == "text":
            result.add(block.text)
        elif block.type == "thinking":
            result.reasoning += block.thinking
        elif block.type == "tool_use":
            result.calls.append((block.id, block.name, json.dumps(block.input)))
    usage = message.usage
    cached = usage.cache_read_input_tokens or 0
    prompt = usage.input_tokens + (usage.cache_creation_input_tokens or 0) + cached
    result.usage = (prompt, usage.output_tokens, cached)
    result.ending = message.stop_reason or ""
    return result


# -- the same content from every API ------------------------------------------------------------

RESPONSE_ENDINGS = {
    "": "",
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete max_output_tokens",
    "content_filter": "incomplete content_filter",
}
MESSAGE_ENDINGS = {
    "": ("",),
    "stop": ("end_turn", "stop_sequence", "pause_turn", "compaction"),
    "tool_calls": ("tool_use",),
    "length": ("max_tokens", "model_context_window_exceeded"),
    "content_filter": ("refusal",),
}


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.id)
def test_every_api_returns_the_same_content(case: Case, site_of: Callable[[Case], Site]) -> None:
    site, model = site_of(case), model_of(case)
    expected = read_chat(site.openai, model)
    response = read_response(site.openai, model)
    message = read_message(site.anthropic, model)
    status = expected.status
    if not expected.ending:  # other APIs may fail before the stream begins
        assert response.ending == ""
        # Anthropic's own events are forwarded, without a check of a call's arguments.
        assert message.ending == "" or case.id == "anthropic/call-cut-short"
        assert expected.text.startswith(response.text)
        if status != 200:
            assert (response.status, message.status) == (status, 529 if status == 503 else status)
        return
    assert (response.text, response.reasoning) == (expected.text, expected.reasoning)
    if expected.ending != "content_filter":  # Anthropic's own events have the reason elsewhere
        assert (message.text, message.reasoning) == (expected.text, expected.reasoning)
    assert (response.pictures, response.left_out) == (expected.pictures, expected.left_out)
    if "anthropic" not in case.id:  # whose own events are forwarded
        assert message.left_out == expected.pictures + expected.left_out
    assert response.usage == message.usage == expected.usage
    assert response.ending == RESPONSE_ENDINGS[expected.ending]
    assert message.ending in MESSAGE_ENDINGS[expected.ending]
    names = [name for _, name, _ in expected.calls]
    assert (
        [name for _, name, _ in response.calls] == [name for _, name, _ in message.calls] == names
    )
    assert [text for *_, text in response.calls] == [text for *_, text in expected.calls]
    if "call-cut-by" not in case.id:  # the SDK completes truncated JSON by itself
        inputs = [json.loads(text or "{}") for *_, text in expected.calls]
        assert [json.loads(text) for *_, text in message.calls] == inputs


@pytest.mark.parametrize("case", TRIED, ids=lambda case: case.id)
def test_events_match_the_official_types(case: Case, site_of: Callable[[Case], Site]) -> None:
    site, model = site_of(case), model_of(case)
    for path, body in REQUESTS:
        answer = site.post(path, {"model": model, **body})
        native = case.provider_type == "anthropic" and path == "/v1/messages"
        if answer.status != 200 or native:
            continue  # the recordings of Anthropic lack members of real events
        events = events_of(answer.body)
        judge_events(events)
        judge_order(events)
        kinds = [event["type"] for event in events]
        assert [kind for kind in kinds if kind in ENDS] == kinds[-1:]


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": HELLO, "max_tokens": 99}),
]
GOOD = {"response.completed", "response.incomplete", "message_stop"}
ENDS = GOOD | {"response.failed", "error"}


#: Ten recordings, one or two of each provider, cut at every 101st byte; at every byte in the
#: nightly run.
WHOLE: dict[str, list[Case]] = {}
for each in CASES:
    if each.answer[0] == 200 and len(each.answer[2]) < 6000:
        WHOLE.setdefault(each.provider_type, []).append(each)
CUT = [cases[at] for at in range(2) for cases in WHOLE.values() if at < len(cases)][:10]
STEP = 1 if NIGHTLY else 101
CLOSED = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n"
CHUNKED = CLOSED.replace(b"Connection: close", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("case", CUT, ids=lambda case: case.id)
def test_truncated_answer_never_completes(case: Case, site_of: Callable[[Case], Site]) -> None:
    """A cut at any byte results in the whole answer or in the API's own error.

    The cut body ends with its connection, like a complete one, or within a chunk.
    """
    site = site_of(case)
    _, headers, body = case.answer
    kind = headers.get("Content-Type", "").encode()
    for path, members in REQUESTS:
        whole = deltas_of(site.post(path, {"model": model_of(case), **members}).body)
        for cut in range(0, len(body), STEP):
            piece = body[:cut]
            site.answer = (
                CHUNKED % kind + b"%x\r\n%b" % (len(body), piece)
                if cut % 2
                else CLOSED % kind + piece
            )
            answer = site.post(path, {"model": f"m-{cut // 3}", **members})
            if answer.status != 200:
                assert answer.status >= 500
                continue
            events = events_of(answer.body)
            kinds = [event["type"] for event in events]
            assert [one for one in kinds if one in ENDS] == kinds[-1:]
            if kinds[-1] in GOOD:
                assert deltas_of(answer.body) == whole
        site.answer = (case.folder / "upstream.http").read_bytes()


def deltas_of(frames: bytes) -> list[Any]:
    """Return the deltas in *frames*, which contain no ids and times."""
    events = [event for event in events_of(frames) if event["type"] != "message_delta"]
    return [event["delta"] for event in events if "delta" in event]


def test_ten_recordings_of_all_providers_are_cut() -> None:
    assert len(CUT) == 10
    assert {case.provider_type for case in CUT} == {case.provider_type for case in CASES}
