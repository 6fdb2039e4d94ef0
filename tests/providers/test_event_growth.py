"""An event of two megabytes takes little memory in every API, whatever its parts are."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from received import Received
from work import traced

from choreo_wsgi.apis import load
from choreo_wsgi.chat import aside, jsontext
from choreo_wsgi.chat.answer import Answer
from choreo_wsgi.chat.growing import utf8_or_mark
from choreo_wsgi.chat.items import Delta, Finish, Item, ToolCall
from choreo_wsgi.errors import ProviderError, UpstreamInvalid, UpstreamTruncated
from choreo_wsgi.providers.answer import Attempt
from choreo_wsgi.providers.anthropic.answer import AnthropicTranslator
from choreo_wsgi.providers.bedrock.answer import BedrockTranslator
from choreo_wsgi.providers.gemini.answer import GeminiTranslator
from choreo_wsgi.providers.native import NativeReply
from choreo_wsgi.providers.ollama import OllamaTranslator
from choreo_wsgi.providers.openai.chunks import OpenAITranslator
from choreo_wsgi.providers.translating import EventTranslator, HTTPSource, Translator
from choreo_wsgi.providers.whole_calls import MOST_PARTS

MEBIBYTE = 1024 * 1024
#: The texts of thousands of arguments, as in JSON.
TEXTS = {
    "ascii": "y" * 336,
    "emoji": "\U0001f600" + "y" * 720,
    "quotes": '\\"' * 168,
}


def source(translator: Translator, body: bytes, size: int = 128 * 1024) -> HTTPSource:
    attempt = Attempt(
        lambda: Received(body, size),  # type: ignore[arg-type, return-value]
        lambda *answer: UpstreamInvalid("it is an error"),
        foreign=translator.foreign,
        events=isinstance(translator, EventTranslator),
        unfold=translator.unfold,
    )
    return HTTPSource(attempt, translator)


def new_answer(api: str, translator: Translator, body: bytes) -> Answer:
    """Return the answer of *api*, " plain" for a document, to *body*."""
    name, _, plain = api.partition(" ")
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "input": "hi", "stream": not plain}
    if name != "responses":
        del asked["input"]
        asked["messages"] = [{"role": "user", "content": "hi"}]
    request = load(name).read(json.dumps(asked).encode())
    return Answer(source(translator, body), load(name).writer(request), 1, "m")


def answered(api: str, translator: Translator, body: bytes) -> int:
    """Return the size of the answer of *api* to *body*."""
    answer, size = new_answer(api, translator, body), 0
    while not answer.ended:
        size += len(answer.receive(1))
    return size


def documents(api: str, translator: Translator, body: bytes) -> list[Any]:
    """Return the responses in the answer of *api* to *body*: in its events, or the document."""
    answer, whole = new_answer(api, translator, body), b""
    while not answer.ended:
        whole += answer.receive(1)
    if whole.startswith(b"{"):
        return [json.loads(whole)]
    found = [json.loads(line[6:]) for line in whole.splitlines() if line.startswith(b"data: ")]
    return [event["response"] for event in found if "response" in event]


def events(*values: str) -> bytes:
    return "".join(f"data: {value}\n\n" for value in values).encode()


def many(element: str, count: int) -> str:
    return f"[{','.join([element] * count)}]"


def claude(*blocks: str) -> bytes:
    """Return a message with *blocks*, each complete in its first event."""
    usage = '"usage":{"input_tokens":1,"output_tokens":1}'
    begun = (
        f'{{"type":"content_block_start","index":{index},"content_block":{block}}}'
        for index, block in enumerate(blocks)
    )
    stopped = [f'{{"type":"content_block_stop","index":{index}}}' for index in range(len(blocks))]
    return events(
        f'{{"type":"message_start","message":{{"id":"m",{usage}}}}}',
        *begun,
        *stopped,
        f'{{"type":"message_delta","delta":{{"stop_reason":"tool_use"}},{usage}}}',
        '{"type":"message_stop"}',
    )


def gemini(*lists: list[str]) -> bytes:
    """Return a stream with an event for each of *lists* of parts."""
    parts = (
        f'{{"candidates":[{{"index":0,"content":{{"parts":[{",".join(one)}]}}}}]}}' for one in lists
    )
    return events(*parts, '{"candidates":[{"index":0,"finishReason":"STOP"}]}')


def ollama(*messages: str) -> bytes:
    lines = (f'{{"message":{{"content":"",{message}}},"done":false}}\n' for message in messages)
    return "".join([*lines, '{"message":{"content":""},"done":true}\n']).encode()


def values(text: str) -> str:
    """Return arguments of 1.9 MB with thousands of values."""
    count = min(5_400, 1_850_000 // (len(text.encode()) + 10))
    return f'{{"x":{many(f"""{{"a":"{text}"}}""", count)}}}'


FUNCTION = '{"functionCall":{"name":"f","args":%s}}'
FORMS: dict[str, tuple[type[Translator], Callable[[str], bytes]]] = {
    "claude": (
        AnthropicTranslator,
        lambda text: claude(f'{{"type":"tool_use","id":"1","name":"f","input":{values(text)}}}'),
    ),
    "gemini": (GeminiTranslator, lambda text: gemini([FUNCTION % values(text)])),
    "ollama": (
        OllamaTranslator,
        lambda text: ollama(
            f'"tool_calls":[{{"function":{{"name":"f","arguments":{values(text)}}}}}]'
        ),
    ),
    "a thought before a text": (
        AnthropicTranslator,
        lambda text: claude(
            f'{{"type":"thinking","thinking":"{text * (1_800_000 // len(text.encode()))}"}}',
            '{"type":"text","text":"b"}',
        ),
    ),
    "a document of Gemini": (
        GeminiTranslator,
        lambda text: (
            '{"candidates":[{"finishReason":"STOP","content":{"parts":[{"text":"%s"}]}}]}'
            % (text * (1_850_000 // len(text.encode())))
        ).encode(),
    ),
    "a document of Ollama": (
        OllamaTranslator,
        lambda text: (
            '[{"done":true,"message":{"content":"%s"}}]'
            % (text * (1_850_000 // len(text.encode())))
        ).encode(),
    ),
    "texts": (
        GeminiTranslator,
        lambda text: gemini([f'{{"text":"{text * (7_400 // len(text.encode()))}"}}'] * 250),
    ),
}
APIS = ("chat", "chat plain", "responses", "responses plain", "messages", "messages plain")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", FORMS)
def test_event_of_two_megabytes_takes_four_times_its_bytes(form: str, text: str, api: str) -> None:
    """The arguments of a call have thousands of values."""
    translator, make = FORMS[form]
    body = make(TEXTS[text])
    assert 1_800_000 < len(body) < 2 * MEBIBYTE
    answered(api, translator(), make("small"))  # loads the modules
    with traced() as memory:
        assert answered(api, translator(), body) > 1_700_000
    assert memory.peak < 8 * MEBIBYTE


@pytest.mark.parametrize("letter", ["y", "\U0001f600", "\\n", "\ud83d"])
def test_checking_arguments_keeps_none_of_their_values(letter: str) -> None:
    text = aside.encoded(f'{{"x":[{",".join([f"""{{"a":"{letter * 50}"}}"""] * 20_000)}]}}')
    assert len(text) > jsontext.LARGE
    complete, cut = bytearray(text), bytearray(text[:-1])
    with traced() as memory:
        assert aside.is_object(complete)
        assert not aside.is_object(cut)
    assert memory.peak < MEBIBYTE


@pytest.mark.parametrize("more", [b"x", b"]", b",", b"{}", b"1"])
def test_text_after_long_arguments_is_no_object(more: bytes) -> None:
    text = bytearray(b'{"x":["%b"]}' % b'","'.join([b"y" * 100] * 4000))
    assert len(text) > jsontext.LARGE
    assert aside.is_object(text + b" \n")
    assert not aside.is_object(text + more)
    assert not aside.is_object(bytearray(b"[%b]" % text))


PICTURE = '{"inlineData":{"mimeType":"image/png","data":"AAAA"}}'
OLLAMA_CALL = '{"function":{"name":"f","arguments":{}}}'


def cited(count: int) -> bytes:
    return claude(f'{{"type":"text","text":"b","citations":{many("""{"url":"u"}""", count)}}}')


MANY: dict[str, tuple[type[Translator], Callable[[int], bytes]]] = {
    "gemini calls": (GeminiTranslator, lambda count: gemini(["{}"], [FUNCTION % "{}"] * count)),
    "gemini pictures": (GeminiTranslator, lambda count: gemini(["{}"], [PICTURE] * count)),
    "gemini texts": (GeminiTranslator, lambda count: gemini(["{}"], ['{"text":"a"}'] * count)),
    "ollama calls": (
        OllamaTranslator,
        lambda count: ollama(f'"tool_calls":{many(OLLAMA_CALL, count)}'),
    ),
    "ollama pictures": (
        OllamaTranslator,
        lambda count: ollama(f'"images":{many(chr(34) + "AAAA" + chr(34), count)}'),
    ),
    "claude citations": (AnthropicTranslator, cited),
}


@pytest.mark.parametrize("kind", MANY)
def test_event_with_too_many_parts_is_refused_after_those_before_it(kind: str) -> None:
    translator, make = MANY[kind]
    assert answered("chat", translator(), make(MOST_PARTS)) > 10_000
    first = {
        GeminiTranslator: gemini(['{"text":"before"}']).partition(b"\n\n")[0] + b"\n\n",
        OllamaTranslator: b'{"message":{"content":"before"},"done":false}\n',
        AnthropicTranslator: b'data: {"type":"content_block_delta","index":9,"delta":'
        b'{"type":"text_delta","text":"before"}}\n\n',
    }[translator]
    reader = source(translator(), first + make(MOST_PARTS + 1))
    items: list[Item] = []
    with pytest.raises(UpstreamInvalid, match="more than 256 parts in one event"):
        while True:
            items += reader.receive(1)
    assert items == [Delta("before")]


@pytest.mark.parametrize("api", ["responses", "responses plain", "messages", "messages plain"])
def test_parts_of_a_translated_answer_are_limited(api: str) -> None:
    """A response repeats all of them at its end."""
    texts = [['{"text":"a"}'], ['{"text":"b","thought":true}']]
    assert answered(api, GeminiTranslator(), gemini(*texts * 1000)) > 20_000
    with pytest.raises(UpstreamInvalid, match="more than 2,048 parts"):
        answered(api, GeminiTranslator(), gemini(*texts * 1100))


@pytest.mark.parametrize(
    ("size", "problem"), [(300, "more than 4,30[78] long strings"), (470, "more than 1,000 values")]
)
@pytest.mark.parametrize("form", ["claude", "gemini", "ollama"])
def test_event_with_too_many_wide_strings_is_refused(form: str, size: int, problem: str) -> None:
    """Each takes several hundred bytes, as it is set aside."""
    translator, make = FORMS[form]
    body = make("\U0001f600" + "y" * size)
    answered("chat", translator(), make("small"))  # loads the modules
    with (
        traced() as memory,
        pytest.raises(UpstreamInvalid, match=problem),
    ):
        answered("chat", translator(), body)
    assert memory.peak < 8 * MEBIBYTE


def test_large_text_in_a_document_is_read_where_no_stream_waits() -> None:
    text = "y" * 500_000
    parts = (
        f'{{"candidates":[{{"finishReason":"STOP","content":{{"parts":[{{"text":"{text}"}}]}}}}]}}'
    )
    reader = source(GeminiTranslator(), parts.encode())
    items: list[Item] = []
    while not reader.good:
        items += reader.receive(1)
    assert items
    while not reader.ended:
        items += reader.receive(0)
    assert "".join(item.text for item in items if isinstance(item, Delta)) == text


def test_signed_thought_is_limited() -> None:
    def thought(size: int) -> bytes:
        return claude(f'{{"type":"thinking","thinking":"{"y" * size}","signature":"c2ln"}}')

    longest = MEBIBYTE - 1024 - len('[{"type":"thinking","thinking":"","signature":"c2ln"}]')
    with traced() as memory:
        assert answered("responses", AnthropicTranslator(), thought(longest)) > 5 * MEBIBYTE
    assert memory.peak < 8 * MEBIBYTE
    with pytest.raises(UpstreamInvalid, match="more than 1 MiB of signed thoughts"):
        answered("responses", AnthropicTranslator(), thought(longest + 1))


@pytest.mark.parametrize(("size", "most"), [(100_000, 10), (100, 929)])
def test_signed_thoughts_of_an_answer_are_limited(size: int, most: int) -> None:
    block = f'{{"type":"thinking","thinking":"{"y" * size}","signature":"c2ln"}}'
    pair = (
        f'{{"type":"content_block_start","index":0,"content_block":{block}}}',
        '{"type":"content_block_stop","index":0}',
    )
    end = '{"type":"message_delta","delta":{"stop_reason":"end_turn"}}', '{"type":"message_stop"}'
    assert answered("chat", AnthropicTranslator(), events(*pair * most, *end)) > most * size
    with pytest.raises(UpstreamInvalid, match="more than 1 MiB of signed thoughts"):
        answered("chat", AnthropicTranslator(), events(*pair * (most + 1), *end))


@pytest.mark.parametrize("api", ["responses", "responses plain"])
def test_signed_thoughts_in_chunks_are_limited(api: str) -> None:
    """Each is repeated in base64, which a plain chat does not do."""
    most, block = 300, f'{{"type":"thinking","thinking":"{"y" * 2_400}","signature":"c2ln"}}'
    delta = f'{{"thinking_blocks":[{block}]}}'
    body = chat(delta, most)
    answered(api, OpenAITranslator(), body)  # loads the modules
    with traced() as memory:
        assert answered(api, OpenAITranslator(), body) > most * 2_400
    assert memory.peak < 8 * MEBIBYTE
    with pytest.raises(UpstreamInvalid, match="more than 1 MiB of signed thoughts"):
        answered(api, OpenAITranslator(), chat(delta, most + 10))
    assert answered("chat", OpenAITranslator(), chat(delta, most + 10)) > most * 2_400


@pytest.mark.parametrize(
    ("size", "at_once"), [(200, 1), (200, 20), (2_000, 1), (2_000, 20), (8_000, 40)]
)
def test_reasoning_details_of_a_plain_answer_are_limited(size: int, at_once: int) -> None:
    """Their texts are sent twice; a stream does not collect them."""
    detail = f'{{"type":"reasoning.text","text":"{"y" * size}"}}'
    delta = f'{{"reasoning_details":{many(detail, at_once)}}}'
    most = (MEBIBYTE - 1) // (len(many(detail, at_once)))
    body = chat(delta, most)
    answered("chat plain", OpenAITranslator(), body)  # loads the modules
    with traced() as memory:
        assert answered("chat plain", OpenAITranslator(), body) > 1.8 * most * at_once * size
    assert memory.peak < 5 * MEBIBYTE
    more = chat(delta, most + 1)
    assert answered("chat", OpenAITranslator(), more) > 1.8 * most * at_once * size
    if size * at_once < 256:  # as providers stream them
        assert answered("chat plain", OpenAITranslator(), more) > 1.8 * most * size
        return
    with pytest.raises(UpstreamInvalid, match="more than 1 MiB of reasoning details"):
        answered("chat plain", OpenAITranslator(), more)


def tokens(text: str, count: int) -> bytes:
    """Return a chat stream of *count* tokens *text* with log probabilities."""
    token = f'{{"token":"{text}","logprob":-1,"top_logprobs":[]}}'
    chosen = f'{{"index":0,"delta":{{"content":"a"}},"logprobs":{{"content":[{token}]}}}}'
    end = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    return events(*[f'{{"choices":[{chosen}]}}'] * count, end, "[DONE]")


@pytest.mark.parametrize("text", ["y" * 60, "\U0001f600" * 15, "y" * 20_000])
def test_long_tokens_of_an_answer_are_limited(text: str) -> None:
    """Each byte becomes a number, which is repeated four times."""
    most = MEBIBYTE // 4 // (len(text.encode()) - 16)
    answered("responses", OpenAITranslator(), tokens(text, 1))  # loads the modules
    with traced() as memory:
        assert answered("responses", OpenAITranslator(), tokens(text, most)) > 4 * MEBIBYTE
    assert memory.peak < 8 * MEBIBYTE
    with pytest.raises(UpstreamInvalid, match="1 MiB of long tokens with log probabilities"):
        answered("responses", OpenAITranslator(), tokens(text, most + 1))


def test_many_usual_tokens_of_an_answer_pass() -> None:
    assert answered("responses", OpenAITranslator(), tokens("y" * 16, 8_000)) > 4 * MEBIBYTE


@pytest.mark.parametrize("api", APIS)
def test_long_address_of_a_picture_is_whole(api: str) -> None:
    url = f"http://x/{'y' * 6_000}z"
    image = f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}'
    body = chat(f'{{"images":{many(image, 50)}}}')
    answer, whole = new_answer(api, OpenAITranslator(), body), b""
    while not answer.ended:
        whole += answer.receive(1)
    assert whole.count(url.encode()) >= 50
    assert b"~~more~~" not in whole


@pytest.mark.parametrize("details", ['{"a":1}', '"a"', "1", "null", "[]"])
def test_reasoning_details_that_are_no_list_are_kept(details: str) -> None:
    body = chat(f'{{"content":"a","reasoning_details":{details}}}', 2)
    (document,) = documents("chat plain", OpenAITranslator(), body)
    expected = {'"a"': "aa", "1": 1, "[]": [], '{"a":1}': {"a": 1}}
    assert document["choices"][0]["message"].get("reasoning_details") == expected.get(details)


@pytest.mark.parametrize(("count", "size"), [(1, 257), (257, 1)])
def test_log_probabilities_of_a_line_are_limited(count: int, size: int) -> None:
    def line(count: int, size: int) -> bytes:
        token = f'{{"token":"{"y" * size}","logprob":-1}}'
        return ollama('"tool_calls":[]').replace(
            b',"done":false', f',"logprobs":{many(token, count)},"done":false'.encode()
        )

    assert answered("responses", OllamaTranslator(), line(min(count, 256), min(size, 256))) > 1000
    with pytest.raises(UpstreamInvalid, match="more than 256"):
        answered("responses", OllamaTranslator(), line(count, size))


@pytest.mark.parametrize(
    ("alternatives", "token", "problem"),
    [(1_028, "y", "more than 256 parts"), (600, "y" * 250, "too long tokens")],
)
def test_alternatives_of_log_probabilities_are_limited(
    alternatives: int, token: str, problem: str
) -> None:
    def line(count: int) -> bytes:
        others = many(f'{{"token":"{token}","logprob":-1}}', count)
        tokens = f'[{{"token":"{token}","logprob":-1,"top_logprobs":{others}}}]'
        return ollama('"tool_calls":[]').replace(
            b',"done":false', f',"logprobs":{tokens},"done":false'.encode()
        )

    assert answered("responses", OllamaTranslator(), line(alternatives // 2)) > 10_000
    with pytest.raises(UpstreamInvalid, match=problem):
        answered("responses", OllamaTranslator(), line(alternatives))


@pytest.mark.parametrize("name", ["content", "text", "thinking"])
def test_long_lines_of_ollama_have_strings_as_texts(name: str) -> None:
    parts = many(f'{{"type":"text","text":"{"y" * 1_000}"}}', 200)
    with pytest.raises(UpstreamInvalid, match="long values in place of a text"):
        answered("chat", OllamaTranslator(), ollama(f'"{name}":{parts}'))


def test_what_a_translator_has_read_is_freed() -> None:
    """A document that was unfolded is one block, and the decoder has a copy of it."""

    class Noting(Translator):
        held: list[int] = []

        def translate(self, data: bytes, items: list[Item]) -> None:
            self.held.append(memory.now)

        def finish(self) -> list[Item]:
            return []

    body = b"x" * 2 * MEBIBYTE
    with traced() as memory:
        reading = source(Noting(), body, len(body) - 1)
        while not reading.ended:
            reading.receive(1)
    assert Noting.held[0] > len(body) > 5 * Noting.held[-3]


def test_unfolded_thoughts_of_bedrock_are_as_long_as_its_document() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "y" * 2_000, "signature": "c2ln"}}}
    message = {"role": "assistant", "content": [thought] * 100}
    body = json.dumps({"output": {"message": message}, "stopReason": "end_turn"}).encode()
    stream = BedrockTranslator.unfold(body)
    assert stream is not None
    assert len(stream) < 1.5 * len(body)


def bedrock_citations(count: int, cited: str) -> bytes:
    """Return a whole answer of Converse with *count* citations of the text *cited*."""
    web = {"title": "t", "sourceContent": [{"text": cited}], "location": {"web": {"url": "u"}}}
    block = {"citationsContent": {"content": [{"text": "a"}], "citations": [web] * count}}
    document = {"output": {"message": {"content": [block]}}, "stopReason": "end_turn"}
    return json.dumps(document).encode()


def test_unfolded_citations_of_bedrock_are_as_long_as_its_document() -> None:
    body = bedrock_citations(256, "y" * 2_000)
    stream = BedrockTranslator.unfold(body)
    assert stream is not None
    assert len(stream) < 1.5 * len(body)
    with pytest.raises(UpstreamInvalid, match="more than 256 parts"):
        BedrockTranslator.unfold(bedrock_citations(257, "y"))


@pytest.mark.parametrize("api", ["chat plain", "messages plain"])
def test_cited_texts_are_as_wide_as_their_bytes(api: str) -> None:
    body = BedrockTranslator.unfold(bedrock_citations(256, "\U0001f600" + "y" * 7_000))
    assert body is not None
    with traced() as memory:
        assert answered(api, BedrockTranslator(), body) > len(body) // 2
    assert memory.peak < 3 * len(body)


def test_titles_of_citations_are_as_wide_as_their_bytes() -> None:
    """A response repeats them."""
    title = "\U0001f600" + "y" * 2000
    cited = (
        '{"type":"content_block_delta","index":0,"delta":{"type":"citations_delta","citation":'
        f'{{"url":"u","title":"{title}"}}}}}}'
    )
    first, last = claude('{"type":"text","text":"a"}').split(b'data: {"type":"content_block_stop')
    body = first + events(*[cited] * 900) + b'data: {"type":"content_block_stop' + last
    with traced() as memory:
        assert answered("responses", AnthropicTranslator(), body) > 3 * len(body)
    assert memory.peak < 8 * MEBIBYTE


def test_calls_of_an_answer_are_limited_over_all_its_events() -> None:
    body = gemini(*[[FUNCTION % "{}"] * MOST_PARTS] * 17)
    with pytest.raises(UpstreamInvalid, match="more than 4,096 parts of one kind"):
        answered("chat", GeminiTranslator(), body)


@pytest.mark.parametrize("timeout", [0, 1])
@pytest.mark.parametrize("size", [10, 10_000, 300_000])
def test_document_of_bedrock_of_any_size_is_read_in_steps(size: int, timeout: int) -> None:
    content = [
        {"text": "\U0001f600" + "y" * size},
        {"toolUse": {"toolUseId": "1", "name": "f", "input": {"a": "z" * size}}},
    ]
    document = {"output": {"message": {"content": content}}, "stopReason": "tool_use"}
    reader = source(BedrockTranslator(), b" " + json.dumps(document).encode())
    items: list[Item] = []
    while not reader.ended:
        is_for_worker = (reader.fileno(), reader.due) == (None, None)
        items += reader.receive(1 if is_for_worker else timeout)
    deltas = [item for item in items if isinstance(item, Delta)]
    assert "".join(delta.text for delta in deltas) == content[0]["text"]
    arguments = "".join(call.arguments for delta in deltas for call in delta.tool_calls)
    assert json.loads(arguments) == {"a": "z" * size}
    last = items[-1]
    assert isinstance(last, Finish)
    assert last.reason == "tool_calls"


def test_block_of_a_megabyte_is_not_copied_for_each_step() -> None:
    """While other streams wait, a step reads a few kilobytes of it."""
    event = events('{"candidates":[]}')
    body = gemini(['{"text":"a"}']).partition(b"\n\n")[0] + b"\n\n" + MEBIBYTE // 20 * event
    reader = source(GeminiTranslator(), body, len(body))
    assert reader.receive(0) == [Delta("a")]
    with traced() as memory:
        for _ in range(20):
            assert reader.receive(0) == []
    assert memory.peak < MEBIBYTE // 2


@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
@pytest.mark.parametrize("given", ['"{\\"a\\":1}"', '{"a":1}', '"{}"', '" "', "null", "[]", '"[]"'])
def test_arguments_are_the_same_in_blocks_of_any_size(given: str, size: int) -> None:
    reader = source(GeminiTranslator(), gemini([FUNCTION % given]), size)
    found = ""
    while not reader.ended:
        for item in reader.receive(0):
            if isinstance(item, Delta):
                found += "".join(call.arguments for call in item.tool_calls)
            elif isinstance(item, Finish):
                assert item.reason == "tool_calls"
    assert found == ('{"a":1}' if "a" in given else "{}")


@pytest.mark.parametrize("given", ['"["', '"1"', "1", "[1]", '"[1]"', '"{\\"a\\":NaN}"'])
def test_arguments_that_are_no_object_are_refused(given: str) -> None:
    with pytest.raises(UpstreamInvalid, match="arguments are not JSON"):
        answered("chat", GeminiTranslator(), gemini([FUNCTION % given]))


def delta_of(items: list[Item]) -> dict[str, Any]:
    """Return the id, name and arguments of the one call in *items*."""
    calls = [call for item in items if isinstance(item, Delta) for call in item.tool_calls]
    return {
        "id": calls[0].id,
        "name": calls[0].name,
        "arguments": "".join(call.arguments for call in calls),
    }


def all_items(translator: Translator, body: bytes, size: int = 128 * 1024) -> list[Item]:
    answer, items = source(translator, body, size), list[Item]()
    while not answer.ended:
        items += answer.receive(1)
    return items


#: The translator and the maker of an answer of each provider with a call that has some members.
CALLS: dict[str, tuple[Callable[[], Translator], Callable[[str], bytes]]] = {
    "claude": (
        AnthropicTranslator,
        lambda call: claude(f'{{"type":"tool_use",{call},"input":{{}}}}'),
    ),
    "gemini": (
        GeminiTranslator,
        lambda call: gemini([f'{{"functionCall":{{{call},"args":{{}}}}}}']),
    ),
    "ollama": (
        OllamaTranslator,
        lambda call: ollama(f'"tool_calls":[{{{call},"arguments":{{}}}}]'),
    ),
}
FINISHED = '{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}'


def openai(*calls: str) -> bytes:
    """Return a stream with an event for each of *calls*."""
    head = '{"choices":[{"index":0,"finish_reason":null,"delta":{"tool_calls":['
    return events(*(f"{head}{call}]}}}}]}}" for call in calls), FINISHED, "[DONE]")


SHORT_CALLS: dict[str, tuple[Callable[[], Translator], Callable[[str], bytes]]] = {
    **CALLS,
    "openai": (
        OpenAITranslator,
        lambda call: openai(f'{{"index":0,{call},"arguments":"{{}}"}}'),
    ),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("member", ["id", "name"])
def test_long_id_or_name_of_a_call_is_whole(kind: str, member: str) -> None:
    """In a long event it is set aside, and a gateway may put a signature into an id."""
    translator, make = CALLS[kind]
    long = "c" * 200_000
    given = {"id": "i", "name": "n", member: long}
    call = delta_of(all_items(translator(), make(json.dumps(given)[1:-1])))
    assert call == {"arguments": "{}", **given}


@pytest.mark.parametrize("kind", CALLS)
def test_long_wide_id_of_a_call_is_refused(kind: str) -> None:
    translator, make = CALLS[kind]
    with pytest.raises(UpstreamInvalid, match="long id or name that is not ASCII"):
        all_items(translator(), make('"id":"%s","name":"n"' % ("\u6f22" * 70_000)))


@pytest.mark.parametrize("more", ["", f',"other":"{"y" * 200_000}"'], ids=["short", "long event"])
@pytest.mark.parametrize("kind", SHORT_CALLS)
@pytest.mark.parametrize("member", ["id", "name"])
def test_wide_id_or_name_of_a_call_is_short(kind: str, member: str, more: str) -> None:
    """An answer may have thousands of them, and an emoji makes each four times as wide."""
    translator, make = SHORT_CALLS[kind]

    def call_with(word: str) -> Any:
        given = {"id": "i", "name": "n", member: word}
        members = json.dumps(given, ensure_ascii=False)[1:-1] + more
        return given, delta_of(all_items(translator(), make(members)))

    for word in ("\U0001f600" + "y" * 255, "y" * 255 + "\U0001f600", "y" * 3_500):
        given, call = call_with(word)
        assert call == {"arguments": "{}", **given}
    for word in ("\U0001f600" + "y" * 256, "y" * 256 + "\U0001f600"):
        with pytest.raises(UpstreamInvalid, match="long id or name that is not ASCII"):
            call_with(word)


def test_wide_name_in_pieces_is_short() -> None:
    first = '{"index":0,"id":"i","function":{"name":"%s"}}' % ("\U0001f600" * 200)
    more = '{"index":0,"function":{"name":"%s"}}' % ("y" * 57)
    answer = openai(first, more)
    with pytest.raises(UpstreamInvalid, match="long id or name that is not ASCII"):
        all_items(OpenAITranslator(tools=frozenset(["\U0001f600" * 200 + "yyy"])), answer)


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_document_of_ollama_in_lines_is_returned_in_parts(api: str) -> None:
    """It is read at its end; its text is wide, and all of its parts at once take much more."""
    body = '{\n"done":true,"message":{"content":"%s"}}' % (("y" * 84 + "\U0001f600") * 80_000)
    answered(api, OllamaTranslator(), b'{"done":true,"message":{"content":"a"}}')
    with traced() as memory:
        assert answered(api, OllamaTranslator(), body.encode()) > 7_000_000
    assert memory.peak < 4 * len(body.encode())


def test_usage_of_a_document_of_claude_is_repeated_as_numbers_only() -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "service_tier": "standard", "other": {"a": 1}}
    message = {"type": "message", "id": "m", "stop_reason": "end_turn", "usage": usage}
    frames = AnthropicTranslator.unfold(json.dumps(message | {"content": "hi"}).encode())
    first, *_, stop, _ = (json.loads(line[6:]) for line in frames.split(b"\n")[1::3])
    assert first["message"]["usage"] == usage
    assert stop["usage"] == {"input_tokens": 3, "output_tokens": 4}


def test_names_of_an_unknown_part_are_encoded_in_parts() -> None:
    """In chat the part is sent as it is."""
    names = ",".join(f'"{number:05}{chr(92) * 600}":1' for number in range(5_000))
    body = gemini(['{"text":"a"}', f'{{"other":{{{names}}}}}'])
    answered("chat", GeminiTranslator(), gemini(['{"text":"a"}']))
    with traced() as memory:
        assert answered("chat", GeminiTranslator(), body) > 3_000_000
    assert memory.peak < 3.5 * len(body)


def test_arguments_in_a_delta_as_an_object_are_kept_once() -> None:
    begun = claude('{"type":"tool_use","id":"1","name":"f","input":{}}')
    values = many('{"a":"%s"}' % ("y" * 930), 8_000)
    delta = f'{{"type":"input_json_delta","partial_json":{{"x":{values}}}}}'
    event = events(f'{{"type":"content_block_delta","index":0,"delta":{delta}}}')
    body = begun.replace(
        b'data: {"type":"content_block_stop"', event + b'data: {"type":"content_block_stop"'
    )
    answered("chat", AnthropicTranslator(), begun)
    with traced() as memory:
        assert answered("chat", AnthropicTranslator(), body) > 7_000_000
    assert memory.peak < 3.5 * len(body)


def test_long_line_that_is_no_event_is_not_kept() -> None:
    line = f'{{"error":{{"message":"m","x":{many(chr(34) + "y" * 56 + chr(34), 48_000)}}}}}\n'
    body = gemini(['{"text":"a"}']).splitlines(keepends=True)[0] + b"\n" + line.encode()
    with traced() as memory, pytest.raises(UpstreamTruncated):
        all_items(GeminiTranslator(), body)
    assert memory.peak < 3 * len(line)


@pytest.mark.parametrize(("size", "passes"), [(120_000, True), (140_000, False)])
def test_sources_are_restored_up_to_512_kib(size: int, passes: bool) -> None:
    sources = ",".join([f'"\\ud83d\\ude00{"y" * size}"'] * 4)
    body = gemini(['{"text":"a"}']).replace(
        b'"content":', f'"groundingMetadata":{{"a":[{sources}]}},"content":'.encode()
    )
    refused = pytest.raises(UpstreamInvalid, match="very long value beside the text")
    with nullcontext() if passes else refused, traced() as memory:
        all_items(GeminiTranslator(), body)
    assert memory.peak < 8 * MEBIBYTE


LONG = "\U0001f600" * 1_000 + "y" * 3_000


@pytest.mark.parametrize(
    ("translator", "body", "extra"),
    [
        (
            GeminiTranslator,
            gemini([f'{{"text":"{"y" * 200_000}"}}']).replace(
                b'"content":', b'"groundingMetadata":{"a":["%b"]},"content":' % LONG.encode()
            ),
            {"groundingMetadata": {"a": [LONG]}, "native_finish_reason": "STOP"},
        ),
        (
            AnthropicTranslator,
            claude('{"type":"text","text":"a"}').replace(
                b'{"stop_reason":"tool_use"}',
                b'{"stop_reason":"stop_sequence","x":"%b","stop_sequence":"%b"}'
                % (b"y" * 200_000, LONG.encode()),
            ),
            {"stop_sequence": LONG, "native_finish_reason": "stop_sequence"},
        ),
    ],
    ids=["sources of Gemini", "stop sequence of Claude"],
)
def test_long_text_that_is_sent_at_the_end_is_whole(
    translator: type[Translator], body: bytes, extra: dict[str, Any]
) -> None:
    """The event that has it is long, so it is set aside, and the last event comes later."""
    items = all_items(translator(), body, len(body) - 30)
    finish = next(item for item in items if isinstance(item, Finish))
    assert finish.extra == extra


@pytest.mark.parametrize("api", ["responses", "responses plain"])
def test_picture_with_line_breaks_in_its_base64_is_valid_json(api: str) -> None:
    data = ("A" * 76 + "\n") * 100
    document = documents(api, OllamaTranslator(), ollama(f'"images":[{json.dumps(data)}]'))[-1]
    assert [item["result"] for item in document["output"]] == [data]


def test_item_is_freed_once_it_is_encoded() -> None:
    """While its frame is numbered, logged and sent."""
    names = ",".join(f'"{number:05}{"y" * 2_500}":1' for number in range(1_000))
    answer = new_answer("chat", GeminiTranslator(), gemini(['{"other":{%s}}' % names]))  # noqa: UP031
    with traced() as memory:
        while len(block := answer.receive(1)) < len(names):
            pass
        assert memory.now < 1.5 * len(block)


def forwarded(body: bytes, size: int = 128 * 1024) -> NativeReply:
    asked = {"model": "m", "max_tokens": 9, "stream": True}
    asked["messages"] = [{"role": "user", "content": "hi"}]
    writer = load("messages").writer(load("messages").read(json.dumps(asked).encode()))
    attempt = Attempt(
        lambda: Received(body, size),  # type: ignore[arg-type, return-value]
        lambda *answer: UpstreamInvalid("it is an error"),
    )
    return NativeReply(attempt, writer, "m", "m", True, 8 * MEBIBYTE)


def test_rest_of_a_large_event_that_has_begun_is_read_where_no_stream_waits() -> None:
    reply = forwarded(claude('{"type":"text","text":"%s"}' % ("y" * 200_000)), 12_000)
    assert b"message_start" in reply.receive(0)
    assert reply.receive(0) == b""  # no more than HEAVY yet
    assert (reply.receive(0), reply.fileno(), reply.due) == (b"", None, None)
    rest = b""
    while not reply.ended:
        rest += reply.receive(1)
    assert len(rest) > 200_000


@pytest.mark.parametrize("before", [0, 100])
def test_event_without_a_blank_line_for_long_is_read_where_no_stream_waits(before: int) -> None:
    """Its values may take long; events of a few kilobytes are read on the loop."""
    small = b'data: {"type":"response.output_text.delta","delta":"%s"}' % (b"y" * 1_000)
    for end in (b"\n\n", b"\r\n\r\n"):
        assert forwarded((small + end) * 100).receive(0)
        reply = forwarded((small + end) * before + b"data: {" + b" " * 40_000 + b"}" + end)
        assert reply.receive(0) == b"" and reply.due is None and reply.fileno() is None


def test_forwarded_error_of_many_values_is_parsed_once() -> None:
    error = '{"type":"error","error":{"message":"m","x":%s}}' % many('{"a":1}', 14_000)  # noqa: UP031
    with traced() as memory, pytest.raises(ProviderError, match="m"):
        forwarded(events(error)).receive(1)
    assert memory.peak < 5 * MEBIBYTE


def delta_arguments(item: Item) -> str:
    assert isinstance(item, Delta)
    return item.tool_calls[0].arguments


def test_arguments_of_many_calls_are_freed_as_they_are_encoded() -> None:
    marks: dict[Any, Any] = {}
    calls = [ToolCall(at, "1", "f", utf8_or_mark(b"y" * 10_000, marks)) for at in range(9)]
    items = [Delta(tool_calls=[call]) for call in calls]
    left, size = [], 0
    for item in aside.restored_items(items, marks):
        size += len(delta_arguments(item))
        left.append(len(marks))
    assert size == 90_000
    assert sorted({*left}) == list(range(1, 10)) and not marks


def signed_calls(count: int) -> bytes:
    part = '{"functionCall":{"name":"f","args":{}},"thoughtSignature":"%s"}' % ("i" * 100)
    return gemini(*[[part]] * count)


def test_thousands_of_calls_of_an_answer_take_four_times_its_bytes() -> None:
    body = signed_calls(4_000)
    answered("chat plain", GeminiTranslator(), signed_calls(1))  # loads the modules
    with traced() as memory:
        assert answered("chat plain", GeminiTranslator(), body) > len(body) // 2
    assert memory.peak < 4 * len(body)


def chat(delta: str, count: int = 1) -> bytes:
    """Return a chat stream with *delta* *count* times."""
    chunk = '{"id":"c","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
    return events(*[chunk % (delta, "null")] * count, chunk % ("{}", '"stop"'), "[DONE]")


@pytest.mark.parametrize("api", APIS)
def test_further_members_of_calls_are_restored(api: str) -> None:
    """Such as a signature of several kilobytes, of which the caller has to send all back."""
    signature = "c2ln" * 1_000
    call = (
        f'{{"index":%d,"id":"%d","x":{{"y":"{signature}"}},'
        '"function":{"name":"f","arguments":"{}"}}'
    )
    calls = ",".join(call % (at, at) for at in range(40))
    answer, whole = new_answer(api, OpenAITranslator(), chat(f'{{"tool_calls":[{calls}]}}')), b""
    while not answer.ended:
        whole += answer.receive(1)
    assert whole.count(signature.encode()) >= 40
    assert b"~~more~~" not in whole


@pytest.mark.parametrize("api", APIS)
def test_numbers_in_place_of_a_text_are_restored(api: str) -> None:
    delta = f'{{"content":"a","reasoning":{many("1.5", 40_000)}}}'
    answer, whole = new_answer(api, OpenAITranslator(), chat(delta)), b""
    while not answer.ended:
        whole += answer.receive(1)
    assert b"1.5,1.5" in whole
    assert b"3141592653589793" not in whole


def test_second_event_of_a_document_is_left_to_a_worker_if_it_is_large() -> None:
    blocks = [{"text": "a"}, {"text": "y" * 600_000}]
    document = {"output": {"message": {"content": blocks}}, "stopReason": "end_turn"}
    reader = source(BedrockTranslator(), json.dumps(document).encode())
    items: list[Item] = []
    while not items:
        items += reader.receive(1)
    while reader.due is not None:
        items += reader.receive(0)
    assert reader.fileno() is None
    assert items == [Delta("a")]
    while not reader.ended:
        items += reader.receive(1)
    assert sum(len(item.text) for item in items if isinstance(item, Delta)) == 600_001
