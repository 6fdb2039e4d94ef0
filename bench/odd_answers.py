"""Odd answers of providers: those that took the most memory for their bytes.

A generator of forms, sizes, lengths of strings and kinds of characters found them.
"""

# ruff: noqa: UP031  (JSON is full of braces)

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from .giant_answers import EVENTS

DOCUMENT = "application/json"
#: Bytes of most answers: the process may grow by 8 MiB for as many.
_SIZE = 1_900_000
_EMOJI = "\U0001f600"
#: A short string that an emoji, or a letter of two bytes, makes wide.
_WIDE, _DOUBLE = _EMOJI + "y" * 85, "\u044f" + "y" * 255
_HEAD = '"id":"c","object":"chat.completion.chunk","created":1,"model":"m"'


def many(element: str, size: int = _SIZE) -> str:
    """Return the elements of a JSON list of *size* bytes; ``@`` in *element* is their number."""
    count = size // (len(element.encode()) + 1)
    return ",".join(element.replace("@", f"{at:05}") for at in range(count))


def _chunk(delta: str, finish: str = "null", more: str = "", choice: str = "") -> str:
    one = f'{{"index":0,"delta":{delta},"finish_reason":{finish}{choice}}}'
    return f'{{{_HEAD},"choices":[{one}]{more}}}'


def _stream(*events: str) -> str:
    first, last = _chunk('{"role":"assistant","content":""}'), _chunk("{}", '"stop"')
    return "".join(f"data: {event}\n\n" for event in (first, *events, last, "[DONE]"))


def _delta(delta: str) -> str:
    return _stream(_chunk(delta))


def _document(message: str, usage: str = "") -> str:
    return (
        '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
        f'"message":{{"role":"assistant",{message}}},"finish_reason":"stop"}}]{usage}}}'
    )


def _response(created: str = "", completed: str = "") -> str:
    """Return a stream of Responses with more members in its first and its last event."""
    event = '{"type":"response.%s","response":{"id":"resp_1","object":"response","model":"m"%s}}'
    return "".join(
        f"event: response.{name}\ndata: {event % (name, more)}\n\n"
        for name, more in (("created", created), ("completed", completed))
    )


def _tools(size: int) -> str:
    schema = '{"type":"object","properties":{"a":{"type":"string","description":"%s"}}}' % (
        "y" * 90
    )
    return ',"tools":[%s]' % many('{"type":"function","name":"f@","parameters":%s}' % schema, size)


def _logprobs(tokens: int) -> str:
    one = '{"token":"y","logprob":-0.1234,"bytes":[104,105]%s}'
    top = ',"top_logprobs":[%s]' % ",".join([one % ""] * 20)
    return ',"logprobs":{"content":[%s]}' % ",".join([one % top] * tokens)


_TEXT = '{"type":"text","text":"%s"}'
_CALL = '{"index":"@","id":"@","type":"function","function":{"name":"f","arguments":%s}}'
_CITATION = '{"type":"url_citation","url_citation":{"url":"u","title":"%s"}}'
_IMAGE = '{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}'
_ALL = ("chat", "responses", "messages", "responses plain", "messages plain")
_CHAT, _PLAIN, _BOTH = ("chat",), ("chat plain",), ("chat", "responses")


def _calls(text: str) -> str:
    return many(_CALL % json.dumps('{"a":"%s"}' % text, ensure_ascii=False))


def _claude(block: str) -> str:
    return (
        '{"type":"message","id":"m","role":"assistant","model":"m","stop_reason":"tool_use",'
        f'"usage":{{"input_tokens":1,"output_tokens":1}},"content":[{block}]}}'
    )


def _bedrock(blocks: str) -> str:
    return f'{{"output":{{"message":{{"content":[{blocks}]}}}},"stopReason":"end_turn"}}'


def _gemini(part: str) -> str:
    content = f'{{"role":"model","parts":[{{"text":"a"}},{part}]}}'
    return f'data: {{"candidates":[{{"content":{content},"finishReason":"STOP"}}]}}\n\n'


_DETAIL = '{"type":"reasoning.text","text":"%s"}'
_SIGNED = '{"type":"thinking","thinking":"%s","signature":"c2ln"}'
_USE = '{"type":"tool_use","id":"1","name":"f","input":{"a":[%s]}}'
_THOUGHT = '{"reasoningContent":{"reasoningText":{"text":"%s","signature":"c2ln"}}}'
_CONVERSE = '{"toolUse":{"toolUseId":"t","name":"f","input":{"a":[%s]}}}'
_CITED = '{"citationsContent":{"content":[{"text":"a"}],"citations":[%s]}}'
_CITATION = '{"sourceContent":[{"text":"%s"}],"location":{"web":{"url":"http://a/@"}}}'
_TOKEN = '{"token":"%s","logprob":-0.5}'
_EACH = (*_ALL, "chat plain")


#: By name: the model, the APIs, the content type and the maker of the body.
ODD: dict[str, tuple[str, tuple[str, ...], str, Callable[[], str]]] = {
    "wide strings": (
        *("m", _ALL, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('"%s"' % _WIDE, 800_000)),
    ),
    "refused wide strings": (
        *("m", _BOTH, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('"%s"' % _WIDE)),
    ),
    "double strings": (
        *("m", _BOTH, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('"%s"' % _DOUBLE)),
    ),
    "strings set aside": (
        *("m", _BOTH, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('"%s"' % (_WIDE * 12), 4_000_000)),
    ),
    "refused strings": (
        *("m", _BOTH, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('"%s"' % (_WIDE * 4), 4_000_000)),
    ),
    "objects": (
        *("m", _ALL, EVENTS),
        lambda: _delta('{"content":"a","x":[%s]}' % many('{"a":"%s"}' % ("y" * 330))),
    ),
    "parts": (
        *("m", _ALL, EVENTS),
        lambda: _delta('{"content":[%s]}' % many(_TEXT % ("y" * 460))),
    ),
    "refusals": (
        *("m", (*_BOTH, "messages plain"), EVENTS),
        lambda: _delta('{"refusal":[%s]}' % many('{"text":"%s"}' % ("y" * 1_000), 4_000_000)),
    ),
    "details with quotes": (
        *("m", _BOTH, EVENTS),
        lambda: _delta(
            '{"reasoning_details":[%s]}' % many('{"text":"%s"}' % ('\\"' * 1_000), 1_000_000)
        ),
    ),
    "details in chunks": (
        *("m", _EACH, EVENTS),
        lambda: _stream(*[_chunk('{"reasoning_details":[%s]}' % (_DETAIL % ("y" * 190)))] * 10_000),
    ),
    "long details in chunks": (
        *("m", _EACH, EVENTS),
        lambda: _stream(*[_chunk('{"reasoning_details":[%s]}' % (_DETAIL % ("y" * 2_000)))] * 500),
    ),
    "signed thoughts in chunks": (
        *("m", _EACH, EVENTS),
        lambda: _stream(*[_chunk('{"thinking_blocks":[%s]}' % (_SIGNED % ("y" * 2_000)))] * 330),
    ),
    "refused thoughts in chunks": (
        *("m", _BOTH, EVENTS),
        lambda: _stream(*[_chunk('{"thinking_blocks":[%s]}' % (_SIGNED % ("y" * 7_000)))] * 600),
    ),
    "calls": ("m", _ALL, EVENTS, lambda: _delta('{"tool_calls":[%s]}' % _calls("y" * 3_800))),
    "calls with objects": (
        *("m", _BOTH, EVENTS),
        lambda: _delta(
            '{"tool_calls":[%s]}' % many(_CALL.replace("@", "0") % ('{"a":"%s"}' % ("y" * 3_800)))
        ),
    ),
    "a call with an object": (
        *("m", _ALL, EVENTS),
        lambda: _delta(
            '{"tool_calls":[%s]}'
            % (_CALL.replace("@", "0") % ("[%s]" % many('"%s"' % ("y" * 330), 1_000_000)))
        ),
    ),
    "an object for a text": (
        *("m", _BOTH, EVENTS),
        lambda: _delta('{"content":{"a":[%s]}}' % many('"%s"' % ("\u044f" * 500), 1_000_000)),
    ),
    "citations": (
        *("m", _ALL, EVENTS),
        lambda: _delta('{"content":"a","annotations":[%s]}' % many(_CITATION % ("y" * 3_900))),
    ),
    "pictures": (
        *("m", _ALL, EVENTS),
        lambda: _delta('{"images":[%s]}' % many(_IMAGE % ("A" * 3_900))),
    ),
    "log probabilities": (
        *("m", _ALL, EVENTS),
        lambda: _stream(_chunk('{"content":"a"}', choice=_logprobs(280))),
    ),
    "choices": (
        *("m", _BOTH, EVENTS),
        lambda: _stream(
            '{%s,"choices":[%s]}'
            % (_HEAD, many('{"index":0,"delta":{"content":"%s"}}' % ("\u6f22" * 1_300)))
        ),
    ),
    "joined chunks": (
        *("m", _BOTH, EVENTS),
        lambda: _stream("[%s]" % many('{"choices":[{"delta":{"content":"a"}}]}', 240_000)),
    ),
    "joined chunks with a long id": (
        *("m", _CHAT, EVENTS),
        lambda: _stream("[%s]" % many('{"choices":[{"delta":{"content":"a"}}]}', 240_000)).replace(
            '"id":"c"', '"id":"%s"' % ("c" * 60_000), 1
        ),
    ),
    "members beside no choices": (
        *("m", _CHAT, EVENTS),
        lambda: _stream('{"choices":[],"x":[%s]}' % many('"%s"' % (_WIDE * 12), 7_000_000)),
    ),
    "an error of strings": (
        *("m", _BOTH, EVENTS),
        lambda: _stream('{"error":{"message":[%s]}}' % many('"%s"' % (_WIDE * 12), 4_000_000)),
    ),
    "an error outside of data": (
        *("m", _BOTH, EVENTS),
        lambda: "error: " + '{"error":{"message":[%s]}}\n\n' % many('"%s"' % _WIDE, 4_000_000),
    ),
    "a named event": (
        *("m", _BOTH, EVENTS),
        lambda: "event: message\n" + _delta('{"content":"a","x":[%s]}' % many('"%s"' % _WIDE)),
    ),
    "document in place of a stream": (
        *("m", _BOTH, DOCUMENT),
        lambda: _document('"content":[%s]' % many(_TEXT % (_WIDE * 12))),
    ),
    "chunks in place of a stream": (
        *("m", _BOTH, DOCUMENT),
        lambda: f"""[{many(_chunk('{"content":"%s"}' % _WIDE))},{_chunk("{}", '"stop"')}]""",
    ),
    "lines in place of a stream": (
        *("m", _BOTH, DOCUMENT),
        lambda: many(_chunk('{"content":"%s"}' % _WIDE)).replace("},{", "}\n{"),
    ),
    "mended document": (
        *("m", _PLAIN, DOCUMENT),
        lambda: _document('"content":"a","reasoning":"b","x":[%s]' % many('"%s"' % ("y" * 190))),
    ),
    "mended document of parts": (
        *("m", _PLAIN, DOCUMENT),
        lambda: _document('"content":[%s]' % many(_TEXT % _DOUBLE)),
    ),
    "mended document of details": (
        *("m", _PLAIN, DOCUMENT),
        lambda: _document(
            '"content":"a","reasoning_details":[%s]' % many(_TEXT % ("y" * 90), 1_000_000)
        ),
    ),
    "document that is an error": (
        *("m", (*_PLAIN, "chat"), DOCUMENT),
        lambda: '{"error":{"message":[%s]}}' % many('"%s"' % (_WIDE * 12), 4_000_000),
    ),
    "legacy strings": (
        *("m", ("completions",), EVENTS),
        lambda: (
            'data: {"choices":[{"text":"a","x":[%s]}]}\n\ndata: [DONE]\n\n'
            % many('"%s"' % _DOUBLE, 4_000_000)
        ),
    ),
    "embeddings in base64": (
        *("m", ("embeddings",), DOCUMENT),
        lambda: (
            '{"object":"list","data":[%s],"model":"x"}'
            % many('{"index":"@","embedding":"%s"}' % ("A" * 2_060))
        ),
    ),
    "tools": ("own", ("responses",), EVENTS, lambda: _response(_tools(1_500_000))),
    "metadata": (
        *("own", ("responses",), EVENTS),
        lambda: _response(
            completed=',"metadata":{%s}' % many('"k@":"%s"' % (_WIDE * 12), 4_000_000)
        ),
    ),
    "forwarded error": (
        *("own", ("responses", "responses plain"), EVENTS),
        lambda: _response(completed=',"error":{"x":[%s]}' % many('"%s"' % (_WIDE * 12))),
    ),
    "output": (
        *("own", ("responses",), EVENTS),
        lambda: _response(completed=',"output":[%s]' % many(_TEXT % _DOUBLE, 4_000_000)),
    ),
    "a text of parts": (
        *("m", ("responses", "responses plain"), EVENTS),
        lambda: _delta('{"text":[%s]}' % many(_TEXT % ("\u044f" * 1_000), 7_000_000)),
    ),
    "calls beside a delta": (
        *("m", ("responses",), EVENTS),
        lambda: _stream(
            _chunk("{}", choice=',"tool_calls":[%s]' % many(_CALL % ('"%s"' % ("y" * 1_000))))
        ),
    ),
    "log probabilities without bytes": (
        *("m", ("responses", "responses plain"), EVENTS),
        lambda: _stream(
            _chunk(
                '{"content":"a"}',
                choice=',"logprobs":{"content":[%s]}' % many(_TOKEN % ("y" * 90), 1_000_000),
            )
        ),
    ),
    "many lines": (
        *("m", _BOTH, EVENTS),
        lambda: "data: [\n" + "data: 1,\n" * 400_000 + "data: 2]\n\n",
    ),
    "long lines": (
        *("m", (*_BOTH, "chat plain"), EVENTS),
        lambda: _delta('{"x":[\n%s]}' % many('"%s"' % ("y" * 2_000), 4_000_000)).replace(
            '","', '",\ndata: "'
        ),
    ),
    "lines of escapes": (
        *("m", _CHAT, DOCUMENT),
        lambda: many(_chunk('{"content":"%s"}' % ('\\"' * 1_000))).replace("},{", "}\n{"),
    ),
    "many members": (
        *("own", ("responses",), EVENTS),
        lambda: _response(completed=',"metadata":{%s}' % many('"k@":"y"', 440_000)),
    ),
    "an error document": (
        *("own", ("responses plain",), DOCUMENT),
        lambda: '{"error":{"message":[%s]}}' % many('{"msg":"%s"}' % ("y" * 2_000), 7_000_000),
    ),
    "a document of Claude": (
        *("claude", _EACH, DOCUMENT),
        lambda: _claude(_USE % many('{"a":"%s"}' % ("y" * 2_000), 7_000_000)),
    ),
    "a document of Claude with values": (
        *("claude", _EACH, DOCUMENT),
        lambda: _claude(_USE % many('{"a":"%s"}' % ("y" * 336))),
    ),
    "a document of Bedrock": (
        *("bedrock", _EACH, DOCUMENT),
        lambda: _bedrock(_CONVERSE % many('{"a":"%s"}' % ("y" * 2_000), 7_000_000)),
    ),
    "objects of Bedrock": (
        *("bedrock", _EACH, DOCUMENT),
        lambda: _bedrock(_CONVERSE % many('{"a":{"b":{"c":"%s"}}}' % ("y" * 600))),
    ),
    "thoughts of Bedrock": (
        *("bedrock", _EACH, DOCUMENT),
        lambda: _bedrock(many(_THOUGHT % ("y" * 2_000), 710_000)),
    ),
    "citations of Bedrock": (
        *("bedrock", _EACH, DOCUMENT),
        lambda: _bedrock(_CITED % many(_CITATION % (_EMOJI + "y" * 22_000), 5_600_000)),
    ),
    "names of Gemini": (
        *("gemini", _ALL, EVENTS),
        lambda: (
            'data: {"candidates":[{"index":0,"finishReason":"STOP","content":{"parts":'
            '[{"functionCall":{"name":"f","args":{"a":[%s]}}}]}}]}\n\n'
            % many('{"@%s":1}' % ("\\ud83d\\ude00" + "y" * 1_980), 2_500_000)
        ),
    ),
    "sources of Gemini": (
        *("gemini", _EACH, EVENTS),
        lambda: (
            'data: {"candidates":[{"index":0,"finishReason":"STOP","content":{"parts":'
            '[{"text":"a"}]},"groundingMetadata":{"a":[%s]}}]}\n\n'
            % many('{"a":"%s"}' % (_EMOJI + "y" * 26), 500_000)
        ),
    ),
    "long sources of Gemini": (
        *("gemini", _EACH, EVENTS),
        lambda: (
            'data: {"candidates":[{"index":0,"finishReason":"STOP","content":{"parts":'
            '[{"text":"a"}]},"groundingMetadata":{"a":[%s]}}]}\n\n'
            % many('{"a":"%s"}' % ("\\ud83d\\ude00" + "y" * 125_000), 500_000)
        ),
    ),
    "an error of Ollama": (
        *("ollama", ("chat",), "application/x-ndjson"),
        lambda: '{"error":[%s]}\n' % many('{"a":{"b":{"c":"%s"}}}' % ("y" * 23), 350_000),
    ),
    "alternatives of Ollama": (
        *("ollama", _EACH, "application/x-ndjson"),
        lambda: (
            '{"message":{"content":"a"},"logprobs":[{"token":"y","logprob":-1,"top_logprobs":'
            '[%s]}],"done":true}\n' % many(_TOKEN % ("y" * 250), 280_000)
        ),
    ),
    "an error of Gemini in a line": (
        *("gemini", ("chat",), EVENTS),
        lambda: (
            'data: {"candidates":[]}\n\n{"error":{"x":[%s]}}\n\n'
            % many('"%s"' % ("y" * 130), 6_900_000)
        ),
    ),
    "names in a part of Gemini": (
        *("gemini", ("chat", "chat plain"), EVENTS),
        lambda: _gemini('{"other":{%s}}' % many('"@%s":1' % ("\\\\" * 303), 6_000_000)),
    ),
    "names in a citation of Claude": (
        *("claude", ("chat", "chat plain"), DOCUMENT),
        lambda: _claude(
            '{"type":"text","text":"a","citations":[{%s}]}'
            % many('"@%s":1' % ("y" * 2_100 + _EMOJI), 4_000_000)
        ),
    ),
    "usage of Claude": (
        *("claude", _EACH, DOCUMENT),
        lambda: _claude("").replace(
            '"output_tokens":1', many('"k@":"%s"' % ('\\"' * 1_050), 7_800_000)
        ),
    ),
    "a document of Ollama in lines": (
        *("ollama", _ALL, DOCUMENT),
        lambda: (
            '{\n"done":true,"message":{"content":"%s"}}' % (("\\ud83d\\ude00" + "y" * 70) * 93_000)
        ),
    ),
    "list of models": (
        *("m", ("models",), DOCUMENT),
        lambda: '{"object":"list","data":[%s]}' % many('{"id":"m@","x":"%s"}' % _WIDE),
    ),
}


#: The small answers that load the modules first; "chat many calls" for others of the model m.
SMALL = {
    ("m", "chat plain"): "chat document",
    ("m", "completions"): "legacy text",
    ("m", "embeddings"): "embedding",
    ("own", "responses"): "response text",
    ("own", "responses plain"): "response text",
}


def cases() -> Iterator[tuple[str, str, str, str, Callable[[], str]]]:
    """Yield the name, the model, the API, the content type and the maker of each answer."""
    for name, (model, apis, kind, make) in ODD.items():
        for api in apis:
            yield name, model, api, kind, make
