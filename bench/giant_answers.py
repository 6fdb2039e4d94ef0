"""The largest answers within the server's limits, of each kind of provider."""

# ruff: noqa: UP031  (JSON is full of braces)

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable

EVENTS = "text/event-stream"


def _chat(delta: str, finish: str = "null") -> str:
    return (
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
        f'"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}\n\n'
    )


def _stream(delta: str) -> bytes:
    """Return a chat stream with one event with *delta* before its end."""
    return f"""{_chat(delta)}{_chat("{}", '"stop"')}data: [DONE]\n\n""".encode()


def chat_text(text: str) -> bytes:
    """Return a chat stream in which one event has *text*."""
    start, end = _chat('{"role":"assistant","content":""}'), _chat("{}", '"stop"')
    middle = _chat('{"content":"%s"}' % text)
    return f"{start}{middle}{end}data: [DONE]\n\n".encode()


def chat_arguments(text: str) -> bytes:
    """Return a chat stream in which one event has arguments with *text*."""
    arguments = json.dumps('{"a":"%s"}' % text, ensure_ascii=False)
    function = f'{{"name":"f","arguments":{arguments}}}'
    call = f'{{"index":0,"id":"1","type":"function","function":{function}}}'
    end = _chat("{}", '"tool_calls"')
    return f'{_chat(f"""{{"tool_calls":[{call}]}}""")}{end}data: [DONE]\n\n'.encode()


def chat_many(text: str) -> bytes:
    """Return a chat stream in which one event has 500 calls with pieces of *text*."""
    piece = text[: len(text) // 500 // 12 * 12]
    arguments = json.dumps('{"a":"%s"}' % piece, ensure_ascii=False)
    calls = ",".join(
        f'{{"index":{at},"id":"{at}","type":"function","function":'
        f'{{"name":"f","arguments":{arguments}}}}}'
        for at in range(500)
    )
    end = _chat("{}", '"tool_calls"')
    return f'{_chat(f"""{{"tool_calls":[{calls}]}}""")}{end}data: [DONE]\n\n'.encode()


def chat_member(text: str) -> bytes:
    """Return a chat stream in which one event has *text* in a member that chat does not have."""
    return _stream('{"content":"a","x":{"y":["%s"]}}' % text)


def chat_details(text: str) -> bytes:
    """Return a chat stream in which one event has as many reasoning details as allowed."""
    details = ",".join(['{"type":"reasoning.text","text":"%s"}' % text[:1_980]] * 510)
    return _stream('{"reasoning_details":[%s]}' % details)


def chat_parts(text: str) -> bytes:
    """Return a chat stream in which one event has thousands of content parts."""
    content = ",".join(['{"type":"text","text":"%s"}' % text[:2_000]] * (len(text) // 2_700))
    return _stream('{"content":[%s]}' % content)


def chat_thoughts(text: str) -> bytes:
    """Return a chat stream in which one event has as long a signed thought as is translated."""
    thought = '{"type":"thinking","thinking":"%s","signature":"c2ln"}' % text[: 390_000 // 12 * 12]
    return _stream('{"thinking_blocks":[%s]}' % thought)


def chat_citations(text: str) -> bytes:
    """Return a chat stream in which one event has 500 citations with long titles."""
    citation = '{"type":"url_citation","url_citation":{"url":"u","title":"%s"}}'
    citations = ",".join([citation % text[: len(text) // 550 // 12 * 12]] * 500)
    return _stream('{"content":"a","annotations":[%s]}' % citations)


def chat_strings(text: str) -> bytes:
    """Return a chat stream in which one event has as many short strings as allowed, or fewer."""
    strings = ",".join(['"%s"' % text[:90]] * min(9_000, max(1, len(text) // 100)))
    return _stream('{"content":"a","x":[%s]}' % strings)


def chat_document(text: str) -> bytes:
    """Return a plain completion with *text*."""
    return (
        '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
        f'"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],'
        '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    ).encode()


def _named(*events: str) -> bytes:
    """Return *events*, JSON objects, as events with their types as names."""
    names = (json.loads(event[: event.index(",")] + "}")["type"] for event in events)
    return "".join(
        f"event: {name}\ndata: {event}\n\n" for name, event in zip(names, events, strict=True)
    ).encode()


def _message(block: str, delta: str) -> bytes:
    usage = '{"input_tokens":1,"output_tokens":1}'
    return _named(
        '{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
        f'"model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{usage}}}}}',
        f'{{"type":"content_block_start","index":0,"content_block":{block}}}',
        f'{{"type":"content_block_delta","index":0,"delta":{delta}}}',
        '{"type":"content_block_stop","index":0}',
        f'{{"type":"message_delta","delta":{{"stop_reason":"end_turn","stop_sequence":null}},'
        f'"usage":{usage}}}',
        '{"type":"message_stop","x":1}',
    )


def claude_text(text: str) -> bytes:
    """Return a message in which one event has *text*."""
    return _message('{"type":"text","text":""}', '{"type":"text_delta","text":"%s"}' % text)


def claude_arguments(text: str) -> bytes:
    """Return a message in which one event has arguments with *text*."""
    piece = json.dumps('{"a":"%s"}' % text, ensure_ascii=False)
    block = '{"type":"tool_use","id":"1","name":"f","input":{}}'
    message = _message(block, '{"type":"input_json_delta","partial_json":%s}' % piece)
    return message.replace(b'"end_turn"', b'"tool_use"')


def claude_values(text: str) -> bytes:
    """Return a message in which one event of 2 MB has a call with as many values as allowed."""
    values = ",".join(['{"a":"%s"}' % text[:336]] * 5_500)
    return _message(
        '{"type":"tool_use","id":"1","name":"f","input":{"x":[%s]}}' % values,
        '{"type":"input_json_delta","partial_json":""}',
    ).replace(b'"end_turn"', b'"tool_use"')


def claude_thought(text: str) -> bytes:
    """Return a message with as long a signed thought as allowed."""
    thought = text[: 1_020_000 // 12 * 12]
    start = '{"type":"thinking","thinking":"%s","signature":"c2ln"}' % thought
    return _message(start, '{"type":"thinking_delta","thinking":""}')


def claude_pile(text: str) -> bytes:
    """Return a message with 2,000 calls, each in events of its own."""
    call = '{"type":"tool_use","id":"1","name":"f","input":{"a":"%s"}}' % text[:480]
    events = (
        f'{{"type":"content_block_start","index":{index},"content_block":{call}}}'
        for index in range(1, 2_000)
    )
    head, stop, tail = _message(call, '{"type":"input_json_delta","partial_json":""}').partition(
        b"event: content_block_stop"
    )
    return head + _named(*events) + stop + tail.replace(b'"end_turn"', b'"tool_use"')


def _gemini(part: str) -> bytes:
    return (
        f'data: {{"candidates":[{{"index":0,"content":{{"role":"model","parts":[{part}]}}}}]}}\n\n'
        'data: {"candidates":[{"index":0,"finishReason":"STOP"}],'
        '"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1}}\n\n'
    ).encode()


def gemini_text(text: str) -> bytes:
    """Return a stream in which one event has *text*."""
    return _gemini('{"text":"%s"}' % text)


def gemini_arguments(text: str) -> bytes:
    """Return a stream in which one event has a call with *text*."""
    return _gemini('{"functionCall":{"name":"f","args":{"a":"%s"}}}' % text)


def gemini_picture(text: str) -> bytes:
    """Return a stream in which one event has a picture, as long as *text*."""
    data = "A" * (len(text) // 4 * 4)
    return _gemini('{"inlineData":{"mimeType":"image/png","data":"%s"}}' % data)


def _ollama(message: str) -> bytes:
    return (
        f'{{"model":"m","message":{{"role":"assistant",{message}}},"done":false}}\n'
        '{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop"}\n'
    ).encode()


def gemini_calls(text: str) -> bytes:
    """Return a stream in which one event of 2 MB has as many calls as allowed."""
    call = '{"functionCall":{"name":"f","args":{"a":"%s"}}}' % text[:7_200]
    return _gemini(",".join([call] * 256))


def gemini_texts(text: str) -> bytes:
    """Return a stream in which one event of 2 MB has as many texts as allowed."""
    return _gemini(",".join(['{"text":"%s"}' % text[:7_200]] * 256))


def gemini_pictures(text: str) -> bytes:
    """Return a stream in which one event of 2 MB has as many pictures as allowed."""
    picture = '{"inlineData":{"mimeType":"image/png","data":"%s"}}' % ("A" * 7_200)
    return _gemini(",".join([picture] * 256))


def gemini_document(text: str) -> bytes:
    """Return a document in place of a stream, with *text*."""
    parts = '{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"%s"}]}}]}'
    return (parts % text).encode()


def ollama_text(text: str) -> bytes:
    """Return lines, one of which has *text*."""
    return _ollama('"content":"%s"' % text)


def ollama_arguments(text: str) -> bytes:
    """Return lines, one of which has a call with *text*."""
    return _ollama(
        '"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":"%s"}}}]' % text
    )


def _aws(kind: str, payload: bytes) -> bytes:
    head = b"".join(
        bytes((len(name),)) + name + struct.pack(">BH", 7, len(value)) + value
        for name, value in ((b":message-type", b"event"), (b":event-type", kind.encode()))
    )
    message = struct.pack(">II", len(head) + len(payload) + 16, len(head))
    message += struct.pack(">I", zlib.crc32(message)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


def bedrock_text(text: str) -> bytes:
    """Return messages, one of which has *text*."""
    delta = '{"contentBlockIndex":0,"delta":{"text":"%s"}}' % text
    return (
        _aws("contentBlockDelta", delta.encode())
        + _aws("contentBlockStop", b'{"contentBlockIndex":0}')
        + _aws("messageStop", b'{"stopReason":"end_turn"}')
        + _aws("metadata", b'{"usage":{"inputTokens":1,"outputTokens":1}}')
    )


def bedrock_picture(text: str) -> bytes:
    """Return messages, one of which has a picture, as long as *text*."""
    delta = '{"contentBlockIndex":0,"delta":{"image":{"format":"png","source":{"bytes":"%s"}}}}'
    return bedrock_text("a").replace(
        _aws("contentBlockStop", b'{"contentBlockIndex":0}'),
        _aws("contentBlockStop", b'{"contentBlockIndex":0}')
        + _aws("contentBlockDelta", (delta % ("A" * (len(text) // 4 * 4))).encode())
        + _aws("contentBlockStop", b'{"contentBlockIndex":0}'),
    )


def response_text(text: str) -> bytes:
    """Return a response's stream in which one event has *text*, and the last event repeats it."""
    part = '{"type":"output_text","text":"%s"}'
    message = '{"type":"message","id":"msg_1","role":"assistant","content":[%s]}' % part
    return _named(
        '{"type":"response.created","response":{"id":"resp_1","model":"m","output":[]}}',
        '{"type":"response.output_text.delta","item_id":"msg_1","delta":"%s"}' % text,
        '{"type":"response.completed","response":{"id":"resp_1","model":"m","output":[%s]}}'
        % (message % text),
    )


def legacy_text(text: str) -> bytes:
    """Return a stream of legacy completions in which one event has *text*."""
    event = 'data: {"id":"c","object":"text_completion","choices":[{"index":0,"text":"%s"}]}\n\n'
    return (event % text + "data: [DONE]\n\n").encode()


def embedding(text: str) -> bytes:
    """Return a document of embeddings as long as *text*."""
    numbers = ",".join(["0.0123456"] * (len(text) // 10))
    return (
        f'{{"object":"list","data":[{{"index":0,"embedding":[{numbers}]}}],"model":"m"}}'.encode()
    )


#: The answers by name, with their content types.
ANSWERS: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "chat text": (EVENTS, chat_text),
    "chat arguments": (EVENTS, chat_arguments),
    "chat many calls": (EVENTS, chat_many),
    "chat member": (EVENTS, chat_member),
    "chat details": (EVENTS, chat_details),
    "chat parts": (EVENTS, chat_parts),
    "chat thoughts": (EVENTS, chat_thoughts),
    "chat citations": (EVENTS, chat_citations),
    "chat strings": (EVENTS, chat_strings),
    "chat document": ("application/json", chat_document),
    "claude text": (EVENTS, claude_text),
    "claude arguments": (EVENTS, claude_arguments),
    "claude values": (EVENTS, claude_values),
    "claude thought": (EVENTS, claude_thought),
    "claude pile": (EVENTS, claude_pile),
    "gemini text": (EVENTS, gemini_text),
    "gemini arguments": (EVENTS, gemini_arguments),
    "gemini picture": (EVENTS, gemini_picture),
    "gemini calls": (EVENTS, gemini_calls),
    "gemini texts": (EVENTS, gemini_texts),
    "gemini pictures": (EVENTS, gemini_pictures),
    "gemini document": ("application/json", gemini_document),
    "ollama text": ("application/x-ndjson", ollama_text),
    "ollama arguments": ("application/x-ndjson", ollama_arguments),
    "bedrock text": ("application/vnd.amazon.eventstream", bedrock_text),
    "bedrock picture": ("application/vnd.amazon.eventstream", bedrock_picture),
    "response text": (EVENTS, response_text),
    "legacy text": (EVENTS, legacy_text),
    "embedding": ("application/json", embedding),
}
