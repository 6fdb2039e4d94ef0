"""Runs the providers' own SDKs: what they send, and what they read in an answer."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from corpus_cases import KEY, Case

from choreo_wsgi.chat.items import Delta, Finish, Usage
from choreo_wsgi.chat.source import Source
from choreo_wsgi.errors import ChoreoError


@dataclass
class Reading:
    """The content of an answer: texts by choice, and the calls of all choices in order.

    *usage* is the prompt, completion, cached and reasoning tokens, where the SDK has them.
    """

    text: dict[int, str] = field(default_factory=dict)
    reasoning: str = ""
    calls: list[tuple[int, str, Any]] = field(default_factory=list)
    stops: dict[int, str] = field(default_factory=dict)
    usage: tuple[int | None, ...] = ()
    failed: bool = False

    def add_text(self, text: str, index: int = 0) -> None:
        if text:
            self.text[index] = self.text.get(index, "") + text


def ours(source: Source) -> Reading:
    """Return what our adapter reads in *source*."""
    found = Reading()
    calls: dict[tuple[int, int], list[str]] = {}
    try:
        while not source.ended:
            for item in source.receive(10):
                if isinstance(item, Usage):
                    found.usage = (
                        item.prompt_tokens,
                        item.completion_tokens,
                        item.cached_tokens,
                        item.reasoning_tokens,
                    )
                elif isinstance(item, Finish):
                    found.stops[item.index] = item.reason
                else:
                    _add(found, calls, item)
    except ChoreoError:
        found.failed = True
    finally:
        source.close()
    if not found.failed:
        found.calls = [
            (index, name, json.loads("".join(parts)))
            for (index, _), (name, *parts) in sorted(calls.items())
        ]
    return found


def _add(found: Reading, calls: dict[tuple[int, int], list[str]], delta: Delta) -> None:
    found.add_text(delta.text, delta.index)
    found.reasoning += delta.reasoning
    for call in delta.tool_calls:
        place = calls.setdefault((delta.index, call.index), [])
        if call.id:
            place.append(call.name)
        place.append(call.arguments)


# -- each SDK: (case, URL) -> its Reading ------------------------------------------------

_ANTHROPIC_STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def anthropic(case: Case, url: str) -> Reading:
    from anthropic import Anthropic, AnthropicError

    found = Reading()
    version = {"anthropic-version": "2023-06-01"}
    with Anthropic(api_key=KEY, base_url=url, max_retries=0, default_headers=version) as client:
        try:
            with client.messages.stream(**case.json("sdk.json")) as stream:
                message = stream.get_final_message()
        except (AnthropicError, AssertionError):
            found.failed = True
            return found
    for block in message.content:
        if block.type == "text":
            found.add_text(block.text)
        elif block.type == "thinking":
            found.reasoning += block.thinking
        elif block.type == "tool_use":
            found.calls.append((0, block.name, block.input))
    if message.stop_reason:
        found.stops[0] = _ANTHROPIC_STOPS[message.stop_reason]
    usage = message.usage
    prompt = usage.input_tokens
    prompt += usage.cache_creation_input_tokens or 0
    prompt += usage.cache_read_input_tokens or 0
    details = usage.output_tokens_details
    thinking = details.thinking_tokens if details else None
    found.usage = (prompt, usage.output_tokens, usage.cache_read_input_tokens, thinking)
    return found


_GEMINI_STOPS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "OTHER": "stop",
    "SAFETY": "content_filter",
}


def gemini(case: Case, url: str) -> Reading:
    from google import genai
    from google.genai import errors

    found = Reading()
    client = genai.Client(api_key=KEY, http_options={"base_url": url, "api_version": "v1beta"})
    try:
        for chunk in client.models.generate_content_stream(**case.json("sdk.json")):
            _gemini_chunk(found, chunk)
    except errors.APIError:
        found.failed = True
    finally:
        client.close()
    for index in {index for index, _, _ in found.calls}:
        if found.stops.get(index) == "stop":
            found.stops[index] = "tool_calls"
    return found


def _gemini_chunk(found: Reading, chunk: Any) -> None:
    feedback = chunk.prompt_feedback
    if feedback and feedback.block_reason:
        found.stops[0] = "content_filter"
    for candidate in chunk.candidates or ():
        index = candidate.index or 0
        for part in (candidate.content and candidate.content.parts) or ():
            if part.function_call:
                call = part.function_call
                found.calls.append((index, call.name, call.args or {}))
            elif part.thought:
                found.reasoning += part.text or ""
            else:
                found.add_text(part.text or "", index)
        if candidate.finish_reason:
            found.stops[index] = _GEMINI_STOPS[candidate.finish_reason.value]
    usage = chunk.usage_metadata
    if usage:
        found.usage = (
            usage.prompt_token_count or 0,
            (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
            usage.cached_content_token_count,
            usage.thoughts_token_count,
        )


def ollama(case: Case, url: str) -> Reading:
    from ollama import Client, ResponseError

    found = Reading()
    client = Client(host=url)
    try:
        for part in client.chat(stream=True, **case.json("sdk.json")):
            found.add_text(part.message.content or "")
            found.reasoning += part.message.thinking or ""
            for call in part.message.tool_calls or ():
                found.calls.append((0, call.function.name, dict(call.function.arguments)))
            if part.done:
                found.stops[0] = {"length": "length"}.get(part.done_reason, "stop")
                found.usage = (part.prompt_eval_count or 0, part.eval_count or 0, None, None)
    except ResponseError:
        found.failed = True
    finally:
        client._client.close()
    if found.calls:
        found.stops[0] = "tool_calls"
    return found


_BEDROCK_STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def _with_bytes(value: Any) -> Any:
    """Return *value* with each ``{"base64": ...}`` as the bytes it stands for."""
    if isinstance(value, dict):
        if value.keys() == {"base64"}:
            return b64decode(value["base64"])
        return {name: _with_bytes(item) for name, item in value.items()}
    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


def bedrock(case: Case, url: str) -> Reading:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    found = Reading()
    session = boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-west-1")
    config = Config(retries={"max_attempts": 0}, parameter_validation=True)
    client = session.client("bedrock-runtime", endpoint_url=url, config=config)
    calls: dict[int, list[str]] = {}
    stream = None
    try:
        stream = client.converse_stream(**_with_bytes(case.json("sdk.json")))["stream"]
        for event in stream:
            _bedrock_event(found, calls, event)
    except (ClientError, BotoCoreError):
        found.failed = True
    finally:
        if stream is not None:
            stream.close()
        client.close()
    if not found.failed:
        found.calls = [
            (0, name, json.loads("".join(parts) or "{}")) for name, *parts in calls.values()
        ]
    return found


def _bedrock_event(found: Reading, calls: dict[int, list[str]], event: Any) -> None:
    ((kind, body),) = event.items()
    if kind == "contentBlockStart" and "toolUse" in body["start"]:
        calls[body["contentBlockIndex"]] = [body["start"]["toolUse"]["name"]]
    elif kind == "contentBlockDelta":
        delta = body["delta"]
        found.add_text(delta.get("text", ""))
        found.reasoning += delta.get("reasoningContent", {}).get("text", "")
        if "toolUse" in delta:
            calls[body["contentBlockIndex"]].append(delta["toolUse"]["input"])
    elif kind == "messageStop":
        found.stops[0] = _BEDROCK_STOPS[body["stopReason"]]
    elif kind == "metadata":
        usage = body["usage"]
        cached = usage.get("cacheReadInputTokens")
        prompt = usage["inputTokens"] + (cached or 0) + usage.get("cacheWriteInputTokens", 0)
        found.usage = (prompt, usage["outputTokens"], cached, None)


def azure(case: Case, url: str) -> Reading:
    from openai import AzureOpenAI, OpenAI, OpenAIError

    version = (case.json("options.json") or {}).get("api_version")
    client: OpenAI
    if version:
        client = AzureOpenAI(api_key=KEY, azure_endpoint=url, api_version=version, max_retries=0)
    else:
        client = OpenAI(api_key=KEY, base_url=f"{url}/openai/v1", max_retries=0)
    found = Reading()
    calls: dict[tuple[int, int], list[str]] = {}
    with client:
        try:
            for chunk in client.chat.completions.create(**case.json("sdk.json")):
                _openai_chunk(found, calls, chunk)
        except OpenAIError:
            found.failed = True
    if found.stops:
        found.calls = [
            (index, name, json.loads("".join(parts)))
            for (index, _), (name, *parts) in sorted(calls.items())
        ]
    return found


def _openai_chunk(found: Reading, calls: dict[tuple[int, int], list[str]], chunk: Any) -> None:
    for choice in chunk.choices:
        delta = choice.delta
        if delta is not None:
            found.add_text(delta.content or "", choice.index)
            for call in delta.tool_calls or ():
                place = calls.setdefault((choice.index, call.index), [])
                if call.id:
                    place.append(call.function.name)
                place.append(call.function.arguments)
        if choice.finish_reason:
            found.stops[choice.index] = choice.finish_reason
    usage = chunk.usage
    if usage:
        found.usage = (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens_details.reasoning_tokens,
        )


SDKS: dict[str, Callable[[Case, str], Reading]] = {
    "anthropic": anthropic,
    "azure": azure,
    "bedrock": bedrock,
    "gemini": gemini,
    "ollama": ollama,
}
