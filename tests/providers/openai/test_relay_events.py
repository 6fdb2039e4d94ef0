"""The relay without a socket: forwarding, ends of streams, errors, repairs."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo_wsgi import sse
from choreo_wsgi.chat.items import Usage
from choreo_wsgi.chat.normalise import Normaliser
from choreo_wsgi.errors import (
    ChoreoError,
    InvalidRequest,
    ProviderError,
    RateLimited,
    UpstreamInvalid,
    UpstreamTruncated,
)
from choreo_wsgi.providers.openai import template
from choreo_wsgi.providers.openai.relay import EventRelay

NULL = ',"usage":null'
USAGE = '{"prompt_tokens":4,"completion_tokens":7,"total_tokens":11}'
Json = Any


def event(delta: str, finish: str = "null", usage: str = NULL, index: int = 0) -> bytes:
    return (
        'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
        f'"choices":[{{"index":{index},"delta":{delta},"finish_reason":{finish}}}]{usage}}}\n\n'
    ).encode()


def text(content: str, **more: Any) -> bytes:
    return event(f'{{"content":{json.dumps(content, ensure_ascii=False)}}}', **more)


ROLE = event('{"role":"assistant","content":""}')
STOP = event("{}", '"stop"')
USED = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    f'"choices":[],"usage":{USAGE}}}\n\n'
).encode()
STREAM = [ROLE, text("Hello"), text(" wörld \U0001f600"), text(' "q" \\ \n'), STOP, USED, sse.DONE]


def relay_all(
    blocks: list[bytes], n: int = 1, limit: int = 1 << 23, **rewriting: Any
) -> tuple[bytes, ChoreoError | None, EventRelay]:
    """Relay *blocks*; return the frames, the error that ends them, if any, and the relay."""
    include_usage = rewriting.pop("include_usage", False)
    relay = EventRelay(Normaliser(n, **rewriting), include_usage, limit)
    frames = b""
    try:
        for block in blocks:
            frames += relay.receive_data(block)
        frames += relay.end()
    except ChoreoError as error:
        return frames, error, relay
    return frames, None, relay


def chunks(frames: bytes) -> list[Json]:
    """Return the JSON of each of *frames*; each must be exactly ``data: {...}``."""
    lines = frames.split(b"\n\n")
    assert lines.pop() == b""
    for line in lines:
        assert line.startswith(b"data: {") and line.endswith(b"}") and b"\n" not in line
    return [json.loads(line[6:]) for line in lines]


def contents(frames: bytes, key: str = "content", index: int = 0) -> str:
    found = [one for chunk in chunks(frames) for one in chunk["choices"] if one["index"] == index]
    return "".join(one["delta"].get(key) or "" for one in found)


def finishes(frames: bytes) -> list[tuple[int, str]]:
    return [
        (one["index"], one["finish_reason"])
        for chunk in chunks(frames)
        for one in chunk["choices"]
        if one["finish_reason"]
    ]


def without_usage(blocks: list[bytes]) -> bytes:
    return b"".join(blocks).replace(NULL.encode(), b"")


# -- forwarding -----------------------------------------------------------------------


def test_forwards_events_byte_for_byte_without_usage() -> None:
    frames, error, relay = relay_all([b"".join(STREAM)])
    assert error is None and relay.normaliser.done
    assert frames == without_usage(STREAM[:-2])
    assert relay.usage == Usage(4, 7)


def test_sends_requested_usage_once_at_end() -> None:
    frames, error, _ = relay_all([b"".join(STREAM)], include_usage=True)
    assert error is None
    assert frames == b"".join(STREAM[:-1])


def test_frames_are_same_at_every_split() -> None:
    raw = b"".join(STREAM)
    for at in range(len(raw) + 1):
        frames, error, relay = relay_all([raw[:at], raw[at:]])
        assert error is None and frames == without_usage(STREAM[:-2]), at
        assert relay.usage == Usage(4, 7)


def test_frames_are_same_byte_by_byte() -> None:
    raw = b"".join(STREAM)
    frames, error, _ = relay_all([raw[at : at + 1] for at in range(len(raw))])
    assert error is None and frames == without_usage(STREAM[:-2])


def test_returns_complete_event_at_once() -> None:
    relay = EventRelay(Normaliser())
    for one in STREAM[:-2]:
        assert relay.receive_data(one) == without_usage([one])


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_accepts_cr_and_crlf_line_ends(end: bytes) -> None:
    raw = b"".join(STREAM).replace(b"\n", end)
    for at in range(len(raw) + 1):
        frames, error, _ = relay_all([raw[:at], raw[at:]])
        assert error is None and frames == without_usage(STREAM[:-2]), at
    relay = EventRelay(Normaliser())
    assert relay.receive_data(STREAM[0].replace(b"\n", end)) == without_usage(STREAM[:1])


def test_accepts_mixed_line_ends_byte_by_byte() -> None:
    """CR, LF, LF are a line end and a blank line: the last byte completes the event."""
    for end in (b"\r\n\n", b"\n\r\n", b"\r\r\n", b"\r\n\r"):
        relay = EventRelay(Normaliser())
        frames = [relay.receive_data(bytes([byte])) for byte in ROLE.removesuffix(b"\n\n") + end]
        if not frames[-1] and end.endswith(b"\r\n"):
            frames.pop()  # the CR completed it
        assert not any(frames[:-1]) and frames[-1] == without_usage([ROLE]), end


def test_keeps_members_beside_repeated_finish_reason() -> None:
    again = STOP.replace(b',"usage":null', b',"citations":["u"]')
    frames, error, _ = relay_all([ROLE, text("a"), STOP, again, sse.DONE])
    assert error is None
    assert [chunk["citations"] for chunk in chunks(frames) if "citations" in chunk] == [["u"]]


def test_second_end_returns_no_frames() -> None:
    relay = EventRelay(Normaliser(), include_usage=True)
    relay.receive_data(b"".join(STREAM))
    assert b'"usage":{' in relay.end()
    assert relay.end() == b""


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            '{"prompt_tokens":-4,"completion_tokens":true,"total_tokens":3}',
            Usage(0, 0, total_tokens=3),
        ),
        (
            '{"prompt_tokens":4,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":-1}}',
            Usage(4, 7),
        ),
    ],
)
def test_relay_usage_ignores_invalid_token_counts(usage: str, expected: Usage) -> None:
    used = USED.replace(USAGE.encode(), usage.encode())
    _, error, relay = relay_all([ROLE, STOP, used, sse.DONE])
    assert error is None and relay.usage == expected


def test_normalises_sse_framing() -> None:
    raw = (
        b"\xef\xbb\xbfretry: 5\n: OPENROUTER PROCESSING\n\nevent: message\nid: 7\n"
        + ROLE.replace(b"data: ", b"data:")
        + b"\n\n: ping\n"
        + text("Hello").replace(b'"choices"', b'\ndata: "choices"')
        + STOP.replace(b"\n\n", b" \t\n\n")
        + sse.DONE
    )
    for at in range(len(raw) + 1):
        frames, error, _ = relay_all([raw[:at], raw[at:]])
        assert error is None and frames == without_usage([ROLE, text("Hello"), STOP]), at


def test_drops_comments_and_empty_events() -> None:
    empty = [b"data: {}\n\n", b"data:\n\n", b'{"note":1}\n\n']
    frames, error, _ = relay_all([ROLE, b": keep-alive\n\n", text("a") * 3, *empty, STOP, sse.DONE])
    assert error is None and frames == without_usage([ROLE, text("a") * 3, STOP])


def test_ignores_bytes_after_done_marker() -> None:
    for garbage in (b"garbage\n\n", b"data: <html>\n\n", b"\xff\xfe\n\n", text("more"), b"data: ["):
        frames, error, relay = relay_all([*STREAM, garbage])
        assert error is None and frames == without_usage(STREAM[:-2])
        assert relay.receive_data(garbage) == b""
        assert relay_all([b"".join(STREAM) + garbage])[0] == frames
    assert relay_all([b"".join(STREAM) + b"x" * 3000], limit=2000)[1] is None


@given(
    st.lists(st.text(max_size=20) | st.sampled_from(['"', "\\", "\\\\", '"},"finish_r', "\n"])),
    st.lists(st.integers(0, 5000), max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_relays_any_text_in_any_pieces(
    texts: list[str], cuts: list[int], ascii: bool, renamed: bool
) -> None:
    stream = [ROLE]
    for one in texts:
        stream.append(event(json.dumps({"content": one}, ensure_ascii=ascii)))
    raw = b"".join([*stream, STOP, USED, sse.DONE])
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    blocks = [raw[a:b] for a, b in itertools.pairwise(edges)]
    frames, error, relay = relay_all(blocks, model="asked" if renamed else "")
    assert error is None and relay.usage == Usage(4, 7)
    assert [one["choices"][0]["delta"].get("content") for one in chunks(frames)] == [
        "",
        *texts,
        None,
    ]
    assert {one["model"] for one in chunks(frames)} == {"asked" if renamed else "m"}
    if not renamed:
        assert frames == without_usage([*stream, STOP])


def test_bulk_and_single_events_give_same_frames() -> None:
    stream = [ROLE, *(text(f"w{number} é\\n") for number in range(300)), STOP, USED, sse.DONE]
    for rewriting in ({}, {"model": "asked"}, {"include_usage": True}, {"repair": False}):
        in_bulk = relay_all([b"".join(stream)], **rewriting)
        one_by_one = relay_all(stream, **rewriting)
        assert in_bulk[:2] == one_by_one[:2] and in_bulk[1] is None
        assert len(chunks(in_bulk[0])) == 302 + bool(rewriting.get("include_usage"))


def test_relays_events_with_random_padding() -> None:
    def padded(number: int) -> bytes:
        pad = f',"usage":null,"obfuscation":"{number * 7919 % 10007}"'
        return text(f"w{number}", usage=pad)

    stream = [ROLE, *map(padded, range(400)), STOP, USED, sse.DONE]
    expected = without_usage(stream[:-2])
    assert relay_all([b"".join(stream)])[0] == expected
    blocks = [b"".join(stream[at : at + 7]) for at in range(0, 404, 7)]
    frames, error, relay = relay_all(blocks)
    assert error is None and frames == expected and relay.usage == Usage(4, 7)
    asked, error, _ = relay_all(
        [b"".join(stream[at : at + 7]) for at in range(0, 404, 7)], include_usage=True
    )
    assert error is None and asked == b"".join(stream[:-1])


def test_keeps_spaces_in_json() -> None:
    spaced = [one.replace(b'":', b'": ').replace(b",", b", ") for one in STREAM[:-1]]
    frames, error, _ = relay_all([*spaced, sse.DONE])
    assert error is None
    assert frames == b"".join(spaced[:-1]).replace(b', "usage": null', b"")


def test_renames_model_in_every_frame() -> None:
    frames, error, _ = relay_all(
        [b"".join([ROLE, text("a") * 50, STOP, USED, sse.DONE])], model="alias", include_usage=True
    )
    assert error is None
    assert frames == b"".join([ROLE, text("a") * 50, STOP, USED]).replace(b'"m"', b'"alias"')


def test_relays_interleaved_choices() -> None:
    stream = [event('{"role":"assistant","content":""}', index=number) for number in range(3)]
    for word in range(50):
        stream += [text(f"{word} ", index=number) for number in range(3)]
    stream += [event("{}", '"stop"', index=number) for number in range(3)]
    for blocks in ([b"".join(stream)], stream):
        frames, error, _ = relay_all([*blocks, USED, sse.DONE], n=3)
        assert error is None and frames == without_usage(stream)


def test_remembers_eight_patterns_and_candidates() -> None:
    relay = EventRelay(Normaliser(9))
    for number in range(9):
        for delta in ('{"role":"assistant","content":""}', '{"content":"a"}', '{"content":"b"}'):
            relay.receive_data(event(delta, index=number))
    assert len(relay._patterns.known) == len(relay._patterns._candidates) == 8


# -- ends of streams ------------------------------------------------------------------------


def test_stream_cut_anywhere_is_truncated_unless_finished() -> None:
    raw = b"".join(STREAM)
    # A complete last event counts without its blank line.
    finished = raw.index(STOP) + len(STOP) - 2
    for at in range(len(raw)):
        frames, error, _ = relay_all([raw[:at]])
        if at >= finished:
            assert error is None and frames == without_usage(STREAM[:-2])
        else:
            assert isinstance(error, UpstreamTruncated), at
            assert without_usage(STREAM).startswith(frames)
            assert not finishes(frames)


def test_end_requires_finish_of_every_choice() -> None:
    stream = [ROLE, event('{"role":"assistant","content":""}', index=1), STOP]
    assert isinstance(relay_all(stream, n=2)[1], UpstreamTruncated)
    frames, error, _ = relay_all([*stream, event("{}", '"length"', index=1)], n=2)
    assert error is None and finishes(frames) == [(0, "stop"), (1, "length")]


def test_done_marker_after_content_counts_as_stop() -> None:
    frames, error, _ = relay_all([ROLE, text("Hi"), sse.DONE])
    assert error is None and contents(frames) == "Hi" and finishes(frames) == [(0, "stop")]
    last = chunks(frames)[-1]
    assert last["id"] == "chatcmpl-1" and last["choices"][0]["delta"] == {}
    untouched, error, _ = relay_all([ROLE, text("Hi"), sse.DONE], repair=False)
    assert error is None and finishes(untouched) == []


@pytest.mark.parametrize("stream", [[], [sse.DONE], [USED, sse.DONE]])
def test_end_before_any_choice_is_truncation(stream: list[bytes]) -> None:
    frames, error, _ = relay_all(stream)
    assert frames == b"" and isinstance(error, UpstreamTruncated)


@pytest.mark.parametrize(
    "bad",
    [
        b"data: <html>\n\n",
        b"data: [1]\n\n",
        b"data: {broken}\n\n",
        b"data: null\n\n",
        b'data: {"choices":7}\n\n',
        b'data: {"choices":[7]}\n\n',
        b'data: {"choices":[{"index":0,"delta":5}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":7}]}\n\n',
        b'data: {"choices":[],"usage":NaN}\n\n',
        b'data: {"a":' + b"[" * 100000 + b"}\n\n",
        b'data: {"a":"\xff"}\n\n',
        text("x").replace(b'"x"', b'"\xff"'),
        text("x").replace(b'"x"', b'"'),  # the ends of the pattern overlap
        text("x").replace(b'"x"', b'"\xc3"') + text("x").replace(b'"x"', b'"\xa9"'),
    ],
)
def test_invalid_event_raises_after_earlier_frames(bad: bytes) -> None:
    good = [ROLE, text("a"), text("b"), text("c")]
    for blocks in ([b"".join(good) + bad + STOP], [*good, bad, STOP]):
        relay = EventRelay(Normaliser())
        frames, failure = b"", None
        for block in [*blocks, b""]:
            try:
                frames += relay.receive_data(block)
            except ChoreoError as error:
                failure = error
                break
        assert frames == without_usage(good) and isinstance(failure, UpstreamInvalid)
        assert len(failure.message) < 300
        with pytest.raises(UpstreamInvalid):
            relay.end()


def test_rejects_events_above_size_limit() -> None:
    large = text("x" * 3000)
    for at in (10, 1500, len(large) - 1, len(large)):
        frames, error, _ = relay_all([ROLE, large[:at], large[at:], STOP, sse.DONE], limit=2000)
        assert frames == without_usage([ROLE]) and isinstance(error, UpstreamInvalid), at
    frames, error, _ = relay_all([ROLE + large * 3], limit=2000)
    assert isinstance(error, UpstreamInvalid)
    many = [ROLE, text("x" * 1000) * 50, STOP, sse.DONE]
    assert relay_all([b"".join(many)], limit=2000)[1] is None


def test_rejects_event_above_size_limit_after_known_pattern() -> None:
    good, large = [ROLE, *map(text, "abc")], text("x" * 3000)
    for bad in ([large], [text("d") + large], [text("d") + large + text("e")]):
        frames, error, _ = relay_all([*good, *bad, STOP, sse.DONE], limit=2000)
        assert contents(frames) == "abc" + "d" * (len(bad[0]) > len(large))
        assert isinstance(error, UpstreamInvalid)
    frames, error, _ = relay_all(STREAM, limit=len(ROLE) - 3)  # although a template is known
    assert frames == b"" and isinstance(error, UpstreamInvalid)
    frames, error, _ = relay_all([ROLE, text("x" * 200_000), STOP], limit=150_000)
    assert frames == without_usage([ROLE]) and isinstance(error, UpstreamInvalid)
    relay = EventRelay(Normaliser(), max_event_bytes=2000)
    for block in good:
        relay.receive_data(block)
    assert relay.pattern is None  # a lane does not check the size


def test_relays_event_of_one_megabyte() -> None:
    large = text("é" * 500_000)
    raw = b"".join([ROLE, large, STOP, sse.DONE])
    frames, error, _ = relay_all([raw[at : at + 65536] for at in range(0, len(raw), 65536)])
    assert error is None and frames == without_usage([ROLE, large, STOP])


def test_keeps_no_part_of_a_long_event() -> None:
    relay = EventRelay(Normaliser())
    assert len(relay.receive_data(ROLE + text("é" * 500_000))) > 1_000_000
    assert not relay.normaliser.marks


# -- errors inside the stream ------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (b'data: {"error":{"message":"m","type":"x","code":null}}', ProviderError, "m"),
        (b'event: error\ndata: {"message":"m","code":429}', RateLimited, "m"),
        (b"event: error\ndata: no JSON", ProviderError, "no JSON"),
        (b'error: {"code":500,"message":"m","type":"server_error"}', ProviderError, "m"),
        (b'error: {"code":429,"message":"m"}\nerror: {"message":"n"}', RateLimited, "m"),
        (
            b'data: {"error":{"message":"m","type":"exceed_context_size_error","code":400}}',
            InvalidRequest,
            "m",
        ),
        (event("{}", '"error"', ',"error":{"code":502,"message":"m"}'), ProviderError, "m"),
        (event("{}", '"error"'), ProviderError, "error"),
    ],
)
def test_error_events_raise_providers_error(
    bad: bytes, kind: type[ChoreoError], message: str
) -> None:
    good = [ROLE, text("a"), text("b")]
    bad = bad.removesuffix(b"\n\n") + b"\n\n"
    for blocks in ([b"".join(good) + bad + text("c") + STOP], [*good, bad, STOP], [bad]):
        relay = EventRelay(Normaliser())
        frames, failure = b"", None
        for block in [*blocks, b""]:
            try:
                frames += relay.receive_data(block)
            except ChoreoError as error:
                failure = error
                break
        assert type(failure) is kind and message in failure.message
        assert frames == (without_usage(good) if len(blocks) != 1 or good[0] in blocks[0] else b"")


# -- repairs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "expected"),
    [("chatcmpl-of-another", True), ('of "it" \\ x', False), ("1700000000,", False), ("7", False)],
)
def test_stream_uses_template_of_earlier_stream(id: str, expected: bool) -> None:
    """From the first text, and with the new stream's own id, time and model."""
    relay_all(STREAM, model="asked")
    named = [block.replace(b'"chatcmpl-1"', json.dumps(id).encode()) for block in STREAM]
    later = [block.replace(b'"created":1,', b'"created":1700000000,') for block in named]
    relay = EventRelay(Normaliser(model="asked"))
    frames = b"".join(map(relay.receive_data, later[:2]))
    assert (relay.pattern is not None) == expected
    frames += b"".join(map(relay.receive_data, later[2:])) + relay.end()
    identities = {(one["id"], one["created"], one["model"]) for one in chunks(frames)}
    assert identities == {(id, 1700000000, "asked")}
    assert contents(frames) == 'Hello wörld \U0001f600 "q" \\ \n'


def test_templates_are_limited_in_label_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "_MOST", 2)
    for size, known in ((256, True), (257, False), (1, True), (2, True)):
        for _ in range(2):
            relay = EventRelay(Normaliser(), label="x" * size)
            relay.receive_data(ROLE)
            assert len(template._KNOWN) <= 2
            for block in STREAM[1:]:
                relay.receive_data(block)
        relay = EventRelay(Normaliser(), label="x" * size)
        relay.receive_data(ROLE)
        assert (relay.pattern is not None) == known


OWN = {"id": "chatcmpl-made-up", "created": 2, "model": "m"}


@pytest.mark.parametrize("include_usage", [False, True])
def test_pattern_of_first_text_comes_from_earlier_stream(include_usage: bool) -> None:
    """With the stream's own id and time; events that do not match are parsed."""
    relay_all(STREAM, include_usage=include_usage, identity=OWN)
    relay_all([block.replace(b"chatcmpl-1", b"chatcmpl-2") for block in STREAM])
    named = [block.replace(b"chatcmpl-1", b"chatcmpl-own") for block in STREAM]
    own = [block.replace(b'"created":1,', b'"created":1700000000,') for block in named]
    relay = EventRelay(Normaliser(identity=OWN), include_usage)
    frames = relay.receive_data(own[0])
    assert relay.pattern is not None and b'"chatcmpl-own"' in relay.pattern.new_prefix
    odd = [named[1], STREAM[1], text("x").replace(b'"m"', b'"other"'), event('{"content":null}')]
    frames += b"".join(map(relay.receive_data, [own[1], *odd, *own[2:]])) + relay.end()
    identities = {(one["id"], one["created"], one["model"]) for one in chunks(frames)}
    assert identities == {("chatcmpl-own", 1700000000, "m")}
    assert contents(frames) == 'HelloHelloHellox wörld \U0001f600 "q" \\ \n'
    assert all(("usage" in one) == include_usage for one in chunks(frames))


@pytest.mark.parametrize(
    "before",
    [
        [ROLE, event('{"content":"a"}', usage=f',"usage":{USAGE}')] * 3,
        [ROLE, *[event('{"role":"assistant","content":"a"}')] * 3],
        [ROLE, *[event('{"content":"a"}').replace(b'"m"', b'"another"')] * 3],
        [ROLE, *[event('{"content":"a","tool_calls":null}')] * 3],
    ],
)
def test_learns_no_template_from_mended_events(
    before: list[bytes],
) -> None:
    for _ in range(2):
        relay_all([*before, STOP, sse.DONE], identity=OWN)
    frames, failure, relay = relay_all([*before, STOP, sse.DONE], identity=OWN)
    assert failure is None and contents(frames) == "a" * (len(before) - before.count(ROLE))
    for number, one in enumerate(chunks(frames)):
        assert one["model"] == "m"
        for choice in one["choices"]:
            assert ("role" in choice["delta"]) == (number == 0) and "tool_calls" not in choice
    assert (relay.usage is not None) == (b"prompt_tokens" in before[1])


def test_drops_repeated_role_despite_known_template() -> None:
    stream = [event(f'{{"role":"assistant","content":"{word}"}}') for word in "abcd"]
    for repair in (False, True, True):
        frames, failure, _ = relay_all([*stream, STOP, sse.DONE], repair=repair)
        assert failure is None and contents(frames) == "abcd"
        roles = [
            one for chunk in chunks(frames) for one in chunk["choices"] if "role" in one["delta"]
        ]
        assert len(roles) == (1 if repair else 4)


def test_mends_changing_id_despite_known_template() -> None:
    relay_all(STREAM)
    own = [block.replace(b"chatcmpl-1", b"chatcmpl-own") for block in STREAM]
    frames, failure, _ = relay_all([own[0], *STREAM[1:]])
    assert failure is None
    assert {one["id"] for one in chunks(frames)} == {"chatcmpl-own"}


def test_renames_reasoning_to_reasoning_content() -> None:
    reasoning = [event(f'{{"reasoning":"t{number}"}}') for number in range(40)]
    both = event('{"content":"","reasoning":"end"}')
    stream = [ROLE, *reasoning, both, text("a"), text("b"), STOP, sse.DONE]
    for blocks in ([b"".join(stream)], stream):
        frames, error, _ = relay_all(blocks)
        assert error is None and contents(frames) == "ab"
        expected = "".join(f"t{number}" for number in range(40)) + "end"
        assert contents(frames, "reasoning_content") == expected
        assert b'"reasoning":' not in frames
    assert b'"reasoning":' in relay_all(stream, repair=False)[0]


def test_sends_reasoning_under_two_names_once() -> None:
    both = event('{"reasoning_content":"why","reasoning":"same"}')
    for blocks in ([both] * 4, [both * 4]):
        frames, failure, _ = relay_all([ROLE, *blocks, STOP, sse.DONE])
        assert failure is None and contents(frames, "reasoning_content") == "why" * 4


def test_renames_reasoning_beside_content_within_burst() -> None:
    mixed = event('{"content":"x","reasoning":"why"}')
    frames, error, _ = relay_all([ROLE, text("a") * 5, text("a") + mixed + text("b"), STOP])
    assert error is None and contents(frames, "reasoning_content") == "why"
    assert contents(frames) == "aaaaaaxb"


def test_learns_no_pattern_from_string_outside_delta() -> None:
    odd = [event('{"reasoning" :"t"}', usage=f',"x":{{"reasoning":"{word}"}}') for word in "abcd"]
    frames, error, _ = relay_all([ROLE, *odd, STOP])
    assert error is None and contents(frames, "reasoning_content") == "tttt"


def calls(members: str) -> bytes:
    return event(f'{{"tool_calls":[{members}]}}')


def test_adds_tool_call_index_and_finish_reason() -> None:
    stream = [
        ROLE,
        calls('{"id":"c1","type":"function","function":{"name":"f","arguments":""}}'),
        calls('{"function":{"arguments":"{\\"a\\":"}}'),
        calls('{"function":{"arguments":"1}"}}'),
        calls('{"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}'),
        STOP,
        sse.DONE,
    ]
    for blocks in ([b"".join(stream)], stream):
        frames, error, _ = relay_all(blocks)
        assert error is None and finishes(frames) == [(0, "tool_calls")]
        arguments: dict[int, str] = {}
        for chunk in chunks(frames):
            for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
                index, piece = call["index"], call["function"]["arguments"]
                arguments[index] = arguments.get(index, "") + piece
        assert arguments == {0: '{"a":1}', 1: "{}"}


def call(**piece: Any) -> bytes:
    """Return an event with a piece of the first tool call."""
    return event(json.dumps({"tool_calls": [{"index": 0, **piece}]}))


def test_checks_completeness_of_arguments_sent_in_bursts() -> None:
    """Complete arguments are forwarded as they are; incomplete ones end in an error."""
    start = call(id="c", type="function", function={"name": "f", "arguments": ""})
    inner = '{"word": "' + 'grün \\" \\\\ ' * 40 + '"}'
    last = event("{}", '"tool_calls"')
    for complete, arguments in ((True, inner), (False, inner[:-1])):
        burst = [
            call(function={"arguments": piece})
            for piece in (arguments[at : at + 3] for at in range(0, len(arguments), 3))
        ]
        for blocks in ([b"".join(burst)], [*burst[:9], b"".join(burst[9:])]):
            frames, failure, _ = relay_all([ROLE, start, *blocks, last, sse.DONE])
            assert (failure is None) is complete
            pieces = [
                call["function"]["arguments"]
                for chunk in chunks(frames.removesuffix(sse.DONE))
                for call in chunk["choices"][0]["delta"].get("tool_calls", ())
            ]
            assert "".join(pieces) == arguments


def test_rejects_string_that_continues_in_next_event() -> None:
    """Joined with the next text, which begins with n, its backslash would form an escape."""
    good = [text(word) for word in ("a", "b", "c")]
    bad = text("d").replace(b'"d"', b'"d\\"') + text("next")
    frames, failure, _ = relay_all([ROLE, *good, bad, STOP, sse.DONE])
    assert isinstance(failure, UpstreamInvalid)
    assert contents(frames) == "abc"


def test_rejects_endless_event() -> None:
    relay = EventRelay(Normaliser(), max_event_bytes=1000)
    relay.receive_data(b"data: " + b"x" * 994)
    with pytest.raises(UpstreamInvalid):
        relay.receive_data(b"x")


def test_event_of_type_error_raises_its_text() -> None:
    bad = b'event: error\ndata: {"reason":"overloaded","note":"the cause"}\n\n'
    _, failure, _ = relay_all([ROLE, text("a"), bad, STOP, sse.DONE])
    assert failure is not None and failure.status == 503 and "the cause" in failure.message


def test_rejects_invalid_utf8_within_burst() -> None:
    good = [text(word) for word in ("a", "b", "c")]
    bad = text("d") + text("e").replace(b'"e"', b'"\xff"') + text("f")
    frames, failure, _ = relay_all([ROLE, *good, bad, STOP, sse.DONE])
    assert isinstance(failure, UpstreamInvalid)
    assert contents(frames) == "abcd"


def test_numbers_choices_without_index_by_position() -> None:
    both = (
        b'data: {"id":"x","choices":[{"delta":{"content":"a"},"finish_reason":null},'
        b'{"delta":{"content":"b"},"finish_reason":null}]}\n\n'
    )
    ending = both.replace(b'"content"', b'"x"').replace(b":null", b':"stop"')
    for blocks in ([both] * 4, [both * 4]):
        frames, failure, _ = relay_all([*blocks, ending], n=2)
        assert failure is None
        assert (contents(frames), contents(frames, index=1)) == ("aaaa", "bbbb")


@pytest.mark.parametrize(("n", "index"), [(1, 1), (2, 2), (2, -1)])
def test_rejects_choice_index_out_of_range(n: int, index: int) -> None:
    frames, failure, _ = relay_all([ROLE, text("a"), text("b", index=index)], n)
    assert isinstance(failure, UpstreamInvalid) and contents(frames) == "a"


def test_merges_calls_without_index_per_choice() -> None:
    """Each piece names its function, and nothing else identifies its call."""

    def piece(arguments: str, index: int) -> bytes:
        function = {"name": f"f{index}", "arguments": arguments}
        return event(json.dumps({"tool_calls": [{"function": function}]}), index=index)

    stream = [piece(part, index) for part in ('{"a"', ":1", "}") for index in (0, 1)]
    ends = [event("{}", '"tool_calls"', index=index) for index in (0, 1)]
    frames, failure, _ = relay_all([*stream, *ends, sse.DONE], n=2)
    assert failure is None
    for index in (0, 1):
        found = [
            one
            for chunk in chunks(frames.removesuffix(sse.DONE))
            for choice in chunk["choices"]
            if choice["index"] == index
            for one in choice["delta"].get("tool_calls", ())
        ]
        assert [one["function"]["name"] for one in found if "id" in one] == [f"f{index}"]
        assert "".join(one["function"]["arguments"] for one in found) == '{"a":1}'
        assert {one["index"] for one in found} == {0}


@pytest.mark.parametrize("size", [1, 200_000])
def test_new_call_ends_pattern_of_earlier_arguments(size: int) -> None:
    """All have the index 0; the pieces belong to the latest call, whose first event may be long."""

    def begin(name: str, arguments: str) -> bytes:
        function = json.dumps({"name": name, "arguments": arguments})
        return calls(f'{{"index":0,"id":"c-{name}","type":"function","function":{function}}}')

    pieces = [calls(f'{{"index":0,"function":{{"arguments":"{digit}"}}}}') for digit in "1234"]
    ends = [
        calls('{"index":0,"function":{"arguments":"]"}}'),
        event("{}", '"tool_calls"'),
        sse.DONE,
    ]
    first, second = begin("f", "[0,"), begin("g", "[" + " " * size)
    frames, error, _ = relay_all([ROLE, first, *pieces, ends[0], second, *pieces, *ends])
    assert error is None
    found = ["", ""]
    for chunk in chunks(frames.removesuffix(sse.DONE)):
        for call in chunk["choices"][0]["delta"].get("tool_calls", ()):
            found[call["index"]] += call["function"]["arguments"]
    assert found == ["[0,1234]", "[" + " " * size + "1234]"]


def test_forwards_valid_tool_calls_unchanged() -> None:
    stream = [
        ROLE,
        calls('{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":""}}'),
        calls('{"index":0,"function":{"arguments":"[0"}}'),
        *[calls(f'{{"index":0,"function":{{"arguments":",{number}"}}}}') for number in range(30)],
        calls('{"index":0,"function":{"arguments":"]"}}'),
        event("{}", '"tool_calls"'),
    ]
    for blocks in ([b"".join(stream)], stream):
        frames, error, _ = relay_all([*blocks, sse.DONE])
        assert error is None and frames == without_usage(stream)


def test_sends_content_of_last_chunk_before_finish() -> None:
    last = event('{"content":"!"}', '"stop"', f',"usage":{USAGE}')  # Mistral
    frames, error, relay = relay_all([ROLE, text("Hi"), last, sse.DONE], include_usage=True)
    assert error is None and contents(frames) == "Hi!" and relay.usage == Usage(4, 7)
    content, finish, usage = chunks(frames)[-3:]
    assert content["choices"][0]["finish_reason"] is None and content["usage"] is None
    assert finish["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert usage["choices"] == [] and usage["usage"] == json.loads(USAGE)


@pytest.mark.parametrize(
    "report",
    [
        USED,
        event("{}", "null", f',"usage":{USAGE}'),
        USED.replace(b'"choices":[],', b'"choices":[{"index":0,"delta":{}}],'),
        USED.replace(b'"choices":[],', b""),
        USED + USED,
    ],
)
def test_usage_becomes_one_chunk_without_choices(report: bytes) -> None:
    frames, error, relay = relay_all([ROLE, text("a"), STOP, report, sse.DONE], include_usage=True)
    assert error is None and relay.usage == Usage(4, 7)
    found = [chunk for chunk in chunks(frames) if chunk["usage"]]
    assert len(found) == 1 and chunks(frames)[-1] == found[0]
    assert found[0]["choices"] == [] and found[0]["usage"] == json.loads(USAGE)
    hidden, error, _ = relay_all([ROLE, text("a"), STOP, report, sse.DONE])
    assert error is None and b"usage" not in hidden and len(chunks(hidden)) == 3


def test_removes_usage_from_every_chunk() -> None:
    def counted(number: int) -> bytes:
        usage = f',"usage":{{"prompt_tokens":4,"completion_tokens":{number},"total_tokens":9}}'
        return text("a", usage=usage)

    stream = [ROLE, *map(counted, range(1, 30)), STOP, sse.DONE]
    for blocks in ([b"".join(stream)], stream):
        frames, error, relay = relay_all(blocks)
        assert (
            error is None and relay.usage == Usage(4, 29, total_tokens=9) and b"usage" not in frames
        )
        assert len(chunks(frames)) == 31


def test_sends_zero_for_invalid_token_counts() -> None:
    report = b'data: {"choices":[],"usage":{"prompt_tokens":true,"completion_tokens":-2}}\n\n'
    frames, failure, relay = relay_all([ROLE, STOP, report, sse.DONE], include_usage=True)
    assert failure is None and relay.usage == Usage(0, 0)
    sent = chunks(frames)[-1]["usage"]
    assert sent["prompt_tokens"] == 0 and sent["prompt_tokens"] is not False


def test_raises_error_beside_choices_within_burst() -> None:
    """OpenRouter sends errors beside choices."""
    bad = STOP.replace(b'"choices"', b'"error":{"code":429,"message":"slow down"},"choices"')
    for burst in ([b"".join([text("a")] * 40) + bad], [text("a"), text("b"), text("c") + bad]):
        frames, failure, _ = relay_all([ROLE, *burst])
        assert isinstance(failure, RateLimited) and "slow down" in failure.message
        assert contents(frames).strip("abc") == ""
    frames, failure, _ = relay_all([ROLE, b"error: no JSON\n\n"])
    assert isinstance(failure, UpstreamInvalid) and chunks(frames)


def test_reads_usage_from_x_groq() -> None:
    last = event("{}", '"stop"', f',"x_groq":{{"id":"r","usage":{USAGE}}}')
    _, error, relay = relay_all([ROLE, text("a"), last, sse.DONE])
    assert error is None and relay.usage == Usage(4, 7)


def test_reads_and_forwards_usage_details() -> None:
    detailed = USED.replace(
        b'"total_tokens":11',
        b'"total_tokens":12,"prompt_tokens_details":{"cached_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":5},"cost":0.1',
    )
    frames, _, relay = relay_all([ROLE, STOP, detailed, sse.DONE], include_usage=True)
    assert relay.usage == Usage(4, 7, cached_tokens=0, reasoning_tokens=5, total_tokens=12)
    assert frames.endswith(detailed)


def test_adds_usage_null_if_upstream_omits_it() -> None:
    stream = [one.replace(NULL.encode(), b"") for one in (ROLE, text("a") * 20, STOP)]
    frames, error, _ = relay_all([b"".join(stream), USED, sse.DONE], include_usage=True)
    assert error is None
    assert frames == b"".join([ROLE, text("a") * 20, STOP, USED])


def test_drops_azures_first_event() -> None:
    first = (
        b'data: {"id":"","object":"","created":0,"model":"","choices":[],'
        b'"prompt_filter_results":[{"prompt_index":0}]}\n\n'
    )
    frames, error, _ = relay_all([first, ROLE, text("a"), sse.DONE])
    assert error is None and all(chunk["choices"] for chunk in chunks(frames))
    assert {chunk["id"] for chunk in chunks(frames)} == {"chatcmpl-1"}


def test_accepts_chunks_with_missing_members() -> None:
    stream = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', event("null", '"stop"')]
    frames, error, _ = relay_all(stream)
    assert error is None and contents(frames) == "a" and finishes(frames) == [(0, "stop")]


def test_empty_finish_reason_does_not_finish() -> None:
    stream = [ROLE, *[text(str(number), finish='""') for number in range(20)], STOP, sse.DONE]
    frames, error, _ = relay_all([b"".join(stream)])
    assert error is None and finishes(frames) == [(0, "stop")]
    assert isinstance(relay_all(stream[:-2])[1], UpstreamTruncated)


def test_forwards_unusual_valid_json_unchanged() -> None:
    choice = b'{"finish_reason":null,"delta":{"content":"a","x":[1.0e0]},"index":0}'
    odd = b'data: {"id":"chatcmpl-1","created":1,"choices":[%b], "b":1E2}\n\n' % choice
    frames, error, _ = relay_all([ROLE, odd * 3, STOP, sse.DONE])
    assert error is None and frames == without_usage([ROLE, odd * 3, STOP])


def test_usage_chunk_gets_id_of_stream() -> None:
    """Even without repair."""
    used = b'data: {"choices":[],"usage":%b}\n\n' % USAGE.encode()
    blocks = [ROLE, text("a"), STOP, used, sse.DONE]
    frames, error, _ = relay_all(blocks, include_usage=True, repair=False)
    assert error is None
    last = chunks(frames)[-1]
    assert (last["id"], last["created"], last["usage"]) == ("chatcmpl-1", 1, json.loads(USAGE))


def test_renames_model_without_repair() -> None:
    frames, error, _ = relay_all([ROLE, text("a"), STOP, sse.DONE], model="alias", repair=False)
    assert error is None
    assert {chunk["model"] for chunk in chunks(frames)} == {"alias"}


@pytest.mark.parametrize(("usual", "odd"), [(0, 1), (1, 0)])
def test_keeps_index_of_other_choice_within_burst(usual: int, odd: int) -> None:
    roles = [event('{"role":"assistant","content":""}', index=index) for index in (0, 1)]
    alike = [text(word, index=usual) for word in "abc"]
    burst = text("d", index=usual) + text("e", index=odd) + text("f", index=usual)
    stops = [event("{}", '"stop"', index=index) for index in (0, 1)]
    frames, failure, _ = relay_all([*roles, *alike, burst, *stops, sse.DONE], n=2)
    assert failure is None
    sent = [chunk["choices"][0] for chunk in chunks(frames.removesuffix(sse.DONE))]
    found = [(one["index"], word) for one in sent if (word := one["delta"].get("content"))]
    assert found == [(odd if word == "e" else usual, word) for word in "abcdef"]


@pytest.mark.parametrize(
    "first", ['{"id":"","created":0,"model":"","choices":[]}', '{"id":"ping","choices":[]}']
)
def test_events_without_choices_do_not_identify_stream(first: str) -> None:
    """Such as Azure's first event, which has neither id nor model, and keep-alives."""
    model = f"m{len(first)}"  # else a template would match
    stream = [block.replace(b'"model":"m"', f'"model":"{model}"'.encode()) for block in STREAM]
    frames, failure, _ = relay_all([f"data: {first}\n\n".encode(), *stream])
    assert failure is None
    for chunk in chunks(frames.removesuffix(sse.DONE)):
        assert (chunk["id"], chunk["created"], chunk["model"]) == ("chatcmpl-1", 1, model)
