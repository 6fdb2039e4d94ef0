"""The local provider with the real model."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_helpers import (
    NEVER_ENDING,
    PATIENCE,
    finishes,
    goes_idle,
    read_all,
    read_first,
    request,
    text,
    usage,
)

from choreo_wsgi.chat.items import Delta, ToolCall
from choreo_wsgi.errors import (
    ConfigurationError,
    InvalidRequest,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    ProviderUnavailable,
    UpstreamTruncated,
)
from choreo_wsgi.local.provider import Local
from choreo_wsgi.settings import Settings

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture(scope="module")
def local(model_file: Path) -> Iterator[Local]:
    """A provider whose process runs: one for all tests that leave it alone."""
    provider = Local("local", {}, Settings())
    provider.preload()
    yield provider
    provider.close()


@pytest.fixture
def make(model_file: Path) -> Iterator[Callable[..., Local]]:
    """``make(option=text, ...)``: a provider of the test's own."""
    made: list[Local] = []

    def provider(settings: Settings | None = None, **options: str) -> Local:
        made.append(Local("local", options, settings or Settings()))
        return made[-1]

    yield provider
    for one in made:
        one.close()


def pid(provider: Local) -> int:
    return provider._process.run().pid


# -- what it says ---------------------------------------------------------------------------


def test_streams_sentences(local: Local) -> None:
    source = local.open(request("Hi!", temperature=0, max_tokens=100))
    items = read_first(source)
    assert not finishes(items)  # not all of it at once
    items += read_all(source)
    assert len(text(items).split()) >= 3
    assert set(finishes(items)) == {0}
    assert usage(items).completion_tokens >= len([i for i in items if isinstance(i, Delta)])
    assert usage(items).prompt_tokens > 10


def test_ends_at_max_tokens(local: Local) -> None:
    items = read_all(local.open(request("Tell me a story.", max_tokens=5)))
    assert finishes(items) == {0: "length"}
    assert usage(items).completion_tokens == 5


def test_the_limits_of_a_section(make: Callable[..., Local]) -> None:
    provider = make(max_tokens="2", max_tokens_limit="3")
    for more, expected in (({}, 2), ({"max_tokens": 9}, 3)):
        items = read_all(provider.open(request("Tell me a story.", **NEVER_ENDING, **more)))
        assert usage(items).completion_tokens == expected


def test_max_tokens_zero_asks_for_nothing(local: Local) -> None:
    items = read_all(local.open(request(max_tokens=0, n=2)))
    assert text(items) == ""
    assert finishes(items) == {0: "length", 1: "length"}


def test_ends_at_a_stop_string_across_tokens(local: Local) -> None:
    whole = text(read_all(local.open(request("Count from one to ten.", temperature=0))))
    stop = whole[20:31]  # some tokens, and not whole ones
    items = read_all(local.open(request("Count from one to ten.", temperature=0, stop=[stop])))
    assert text(items) == whole[: whole.index(stop)]
    assert finishes(items) == {0: "stop"}


def test_the_same_seed_says_the_same(local: Local) -> None:
    def say(seed: int) -> str:
        return text(read_all(local.open(request("A name?", seed=seed, max_tokens=12))))

    assert say(5) == say(5)
    assert len({say(seed) for seed in range(4)}) > 1


def test_n_choices_are_told_apart(local: Local) -> None:
    asked = {"seed": 11, "max_tokens": 12, "temperature": 1.5}
    items = read_all(local.open(request("A name?", n=2, **asked)))
    first, second = text(items, 0), text(items, 1)
    assert first != second
    assert set(finishes(items)) == {0, 1}
    indexes = [item.index for item in items if isinstance(item, Delta)]
    assert indexes != sorted(indexes)  # they come at the same time
    assert second == text(read_all(local.open(request("A name?", **{**asked, "seed": 12}))))


def test_more_choices_than_slots(local: Local) -> None:
    items = read_all(local.open(request("A name?", n=6, max_tokens=3)))
    assert len(finishes(items)) == 6
    assert usage(items).completion_tokens <= 18


def test_follows_a_schema(local: Local) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    items = read_all(local.open(request("Name a city.", response_format=form, temperature=0)))
    answer = json.loads(text(items))
    assert set(answer) == {"city", "people"}
    assert type(answer["people"]) is int


def test_names_itself(local: Local, make: Callable[..., Local], tmp_path: Path) -> None:
    assert local.label("gpt-4") == "local/SmolLM2-135M-Instruct"
    assert local.models() == ["SmolLM2-135M-Instruct"]
    other = tmp_path / "Other-7B.gguf"
    other.write_bytes(b"GGUF")
    assert make(model=str(other)).label("x") == "local/Other-7B"


# -- what it refuses ------------------------------------------------------------------------


def refusal(provider: Local, **fields: object) -> pytest.ExceptionInfo[Exception]:
    with pytest.raises(Exception) as caught:
        read_all(provider.open(request(**fields)))  # type: ignore[arg-type]
    return caught


def test_refuses_what_does_not_fit_its_context(local: Local) -> None:
    caught = refusal(local, text="word " * 3000)
    assert caught.type is InvalidRequest
    assert "2048" in str(caught.value)
    assert "3031" in str(caught.value)


def test_refuses_tools_that_it_cannot_call(local: Local) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    caught = refusal(local, tools=tools)
    assert caught.type is InvalidRequest
    assert caught.value.param == "tools"  # type: ignore[attr-defined]


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "string", "minLength": 99999}])
def test_refuses_a_schema_that_it_cannot_follow(local: Local, schema: object) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    caught = refusal(local, response_format=form)
    assert caught.type is InvalidRequest
    assert caught.value.param == "response_format"  # type: ignore[attr-defined]


def test_says_what_to_do_without_the_file(
    make: Callable[..., Local], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ProviderNotConfigured, match="choreo-wsgi fetch-model"):
        make().open(request())
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    provider = make(model=str(mine))
    mine.unlink()
    with pytest.raises(ProviderNotConfigured, match=r"mine\.gguf") as caught:
        provider.preload()
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("content", [None, b"GGU"])
def test_the_file_is_looked_at_before_the_first_request(
    make: Callable[..., Local], tmp_path: Path, content: bytes | None
) -> None:
    mine = tmp_path / "mine.gguf"
    if content is not None:
        mine.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mine\.gguf"):
        make(model=str(mine))


# -- a file of the user's -------------------------------------------------------------------

TOOLED = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


STRICT = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def templated(model_file: Path, tmp_path: Path) -> Callable[[str], str]:
    """``templated(template)``: the file of the default model with another template."""

    def make(template: str) -> str:
        data = model_file.read_bytes()
        start = data.index(b"{% for message in messages %}")
        length = int.from_bytes(data[start - 8 : start], "little")  # as GGUF has its strings
        padding = "{#" + " " * (length - len(template) - 4) + "#}"
        path = tmp_path / "mine.gguf"
        path.write_bytes(data[:start] + (template + padding).encode() + data[start + length :])
        return str(path)

    return make


def called(id: str, city: str) -> list[dict[str, Any]]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    call = {"id": id, "type": "function", "function": function}
    return [
        {"role": "user", "content": f"Weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "function": {"name": "weather"}}])
def test_calls_the_tools_of_a_model_that_can(
    make: Callable[..., Local], templated: Callable[[str], str], choice: object
) -> None:
    provider = make(model=templated(TOOLED), slots="1", context="1024")
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    # Three examples are enough for a small model to go on in the same way.
    messages = [*called("a", "Paris"), *called("b", "Oslo"), *called("c", "Berlin")]
    messages += [{"role": "user", "content": "Weather in Rome?"}]
    asked = request(messages=messages, tools=tools, tool_choice=choice, temperature=0)
    items = read_all(provider.open(asked))
    calls: list[ToolCall] = [c for i in items if isinstance(i, Delta) for c in i.tool_calls]
    assert [(call.index, call.name) for call in calls if call.name] == [(0, "weather")]
    assert set(json.loads("".join(call.arguments for call in calls))) == {"city"}
    assert finishes(items) == {0: "tool_calls"}


def test_refuses_what_the_template_refuses(
    make: Callable[..., Local], templated: Callable[[str], str]
) -> None:
    provider = make(model=templated(STRICT), slots="1", context="1024")
    assert provider.label("any") == "local/mine"
    caught = refusal(provider, messages=[{"role": "user", "content": "Hi!"}] * 2)
    assert caught.type is InvalidRequest
    assert "roles must alternate" in str(caught.value)


# -- its process ----------------------------------------------------------------------------


def test_waits_for_the_start_a_tick_at_a_time(make: Callable[..., Local]) -> None:
    source = make().open(request(max_tokens=2))
    assert source.receive(0) == []  # the process has only just been started
    assert source.fileno() is None
    assert finishes(read_all(source)) == {0: "length"}


def test_gives_up_on_a_start_that_takes_too_long(make: Callable[..., Local]) -> None:
    source = make(Settings(first_byte_timeout=0.01)).open(request())
    with pytest.raises(ProviderTimeout, match=r"0\.01 s"):
        read_all(source)


ENDLESS = {"slots": "1", "max_tokens_limit": "100000"}


@linux_only
def test_closing_between_tokens_stops_the_generation(make: Callable[..., Local]) -> None:
    provider = make(**ENDLESS)
    source = provider.open(request("Tell me.", max_tokens=100_000, **NEVER_ENDING))
    read_first(source)
    source.close()
    assert goes_idle(pid(provider))
    assert source.usage is not None
    assert source.usage.prompt_tokens > 10
    assert source.usage.completion_tokens >= 1


@linux_only
def test_closing_in_the_prefill_stops_it(make: Callable[..., Local]) -> None:
    provider = make(**ENDLESS)
    source = provider.open(request("word " * 7000))
    run = provider._process.run()
    began = run.heard_at
    while run.heard_at == began:  # until the model tells of its first piece
        assert source.receive(0.25) == []
    source.close()
    assert goes_idle(run.pid)


@linux_only
def test_closing_one_of_many_that_wait_for_a_slot(make: Callable[..., Local]) -> None:
    provider = make(slots="1", max_tokens_limit="100000")
    running = provider.open(request("Tell me.", max_tokens=100_000, **NEVER_ENDING))
    read_first(running)
    waiting = [provider.open(request(max_tokens=100_000, **NEVER_ENDING)) for _ in range(3)]
    for source in waiting:
        assert source.receive(0) == []
    for source in [*waiting, running]:
        source.close()
    assert goes_idle(pid(provider))
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_a_crash_is_an_error_and_the_next_request_works(make: Callable[..., Local]) -> None:
    provider = make(max_tokens_limit="100000")
    sources = [provider.open(request(max_tokens=100_000, **NEVER_ENDING)) for _ in range(2)]
    for source in sources:
        read_first(source)
    os.kill(pid(provider), signal.SIGKILL)
    for source in sources:
        with pytest.raises(UpstreamTruncated, match="process has ended"):
            read_all(source)
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_a_crash_before_the_answer_is_an_error(make: Callable[..., Local]) -> None:
    provider = make()
    source = provider.open(request())
    os.kill(pid(provider), signal.SIGKILL)
    with pytest.raises(ProviderUnavailable):
        read_all(source)


@linux_only
def test_a_crash_between_two_requests_goes_unnoticed(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    run = provider._process.run()
    os.kill(run.pid, signal.SIGKILL)
    assert run.has_ended(PATIENCE)
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_a_stuck_process_is_replaced(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    stuck = pid(provider)
    os.kill(stuck, signal.SIGSTOP)
    patient = provider.settings
    provider.settings = replace(patient, idle_timeout=1)
    with pytest.raises((ProviderTimeout, ProviderError)):
        read_all(provider.open(request(max_tokens=2)))
    provider.settings = patient
    assert provider._process.run().has_ended(PATIENCE) or pid(provider) != stuck
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_closing_is_final_and_can_be_repeated(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    run = provider._process.run()
    provider.close()
    provider.close()
    assert run.has_ended()
