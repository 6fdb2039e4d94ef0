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
    DEADLINE,
    ENDLESS,
    becomes_idle,
    finishes,
    read_all,
    read_first,
    request,
    text,
    usage,
)

from choreo_wsgi.chat.items import Delta, Finish, ToolCall
from choreo_wsgi.errors import (
    ConfigurationError,
    InvalidRequest,
    ProviderError,
    ProviderNotConfigured,
    ProviderTimeout,
    ProviderUnavailable,
    UpstreamTruncated,
)
from choreo_wsgi.local.process import ModelProcess
from choreo_wsgi.local.provider import Local
from choreo_wsgi.settings import Settings

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture(scope="module")
def local(model_file: Path) -> Iterator[Local]:
    """A provider with a running process, shared by the tests that do not change it."""
    provider = Local("local", {}, Settings())
    provider.preload()
    yield provider
    provider.close()


@pytest.fixture
def make(model_file: Path) -> Iterator[Callable[..., Local]]:
    """``make(option=text, ...)``: a new provider, closed after the test."""
    made: list[Local] = []

    def provider(settings: Settings | None = None, **options: str) -> Local:
        made.append(Local("local", options, settings or Settings()))
        return made[-1]

    yield provider
    for one in made:
        one.close()


def pid(provider: Local) -> int:
    return provider._process.run().pid


# -- generated text -------------------------------------------------------------------------


def test_reply_is_streamed_in_pieces(local: Local) -> None:
    source = local.open(request("Hi!", temperature=0, max_tokens=100))
    items = read_first(source)
    assert not finishes(items)  # the first items do not contain the whole reply
    items += read_all(source)
    assert len(text(items).split()) >= 3
    assert set(finishes(items)) == {0}
    assert usage(items).completion_tokens >= len([i for i in items if isinstance(i, Delta)])
    assert usage(items).prompt_tokens > 10


def test_reply_ends_at_max_tokens(local: Local) -> None:
    items = read_all(local.open(request("Tell me a story.", max_tokens=5)))
    assert finishes(items) == {0: "length"}
    assert usage(items).completion_tokens == 5


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (Settings(), {"max_tokens": "2", "max_tokens_limit": "3"}),
        (Settings(local_max_tokens=2, local_max_tokens_limit=3), {}),
    ],
    ids=["options", "settings"],
)
def test_max_tokens_has_a_configured_default_and_maximum(
    make: Callable[..., Local], settings: Settings, options: dict[str, str]
) -> None:
    provider = make(settings, **options)
    for more, expected in (({}, 2), ({"max_tokens": 9}, 3)):
        items = read_all(provider.open(request("Tell me a story.", **ENDLESS, **more)))
        assert usage(items).completion_tokens == expected


def test_max_tokens_zero_generates_nothing(local: Local) -> None:
    items = read_all(local.open(request(max_tokens=0, n=2)))
    assert text(items) == ""
    assert finishes(items) == {0: "length", 1: "length"}


def test_reply_ends_at_a_stop_string_across_tokens(local: Local) -> None:
    uncut = read_all(local.open(request("Count from one to ten.", temperature=0)))
    whole = text(uncut)
    stop = whole[20:31]  # several tokens, beginning and ending within one
    items = read_all(local.open(request("Count from one to ten.", temperature=0, stop=["~", stop])))
    assert text(items) == whole[: whole.index(stop)]
    (finish,) = [item for item in items if isinstance(item, Finish)]
    assert (finish.reason, finish.stop) == ("stop", stop)
    assert 0 < usage(items).completion_tokens < usage(uncut).completion_tokens


def test_usage_of_a_stopped_answer_counts_tokens_not_pieces(local: Local) -> None:
    """A character of several tokens is one piece of text."""
    schema = {"const": "\N{PARTY POPPER}\N{PARTY POPPER}\N{PARTY POPPER}a"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    items = read_all(local.open(request(temperature=0, response_format=form, stop=["a"])))
    assert text(items) == '"' + "\N{PARTY POPPER}" * 3
    assert usage(items).completion_tokens >= 9


def test_same_seed_gives_the_same_text(local: Local) -> None:
    def generate(seed: int) -> str:
        return text(read_all(local.open(request("A name?", seed=seed, max_tokens=12))))

    assert generate(5) == generate(5)
    assert len({generate(seed) for seed in range(4)}) > 1


def test_n_choices_have_consecutive_seeds(local: Local) -> None:
    fields = {"seed": 11, "max_tokens": 12, "temperature": 1.5}
    items = read_all(local.open(request("A name?", n=2, **fields)))
    first, second = text(items, 0), text(items, 1)
    assert first != second
    assert set(finishes(items)) == {0, 1}
    indexes = [item.index for item in items if isinstance(item, Delta)]
    assert indexes != sorted(indexes)  # the choices are generated concurrently
    assert second == text(read_all(local.open(request("A name?", **{**fields, "seed": 12}))))


def test_more_choices_than_slots_are_all_answered(local: Local) -> None:
    items = read_all(local.open(request("A name?", n=6, max_tokens=3)))
    assert len(finishes(items)) == 6
    assert usage(items).completion_tokens <= 18


def test_reply_follows_a_json_schema(local: Local) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    items = read_all(local.open(request("Name a city.", response_format=form, temperature=0)))
    place = json.loads(text(items))
    assert set(place) == {"city", "people"}
    assert type(place["people"]) is int


def test_label_has_the_name_of_the_file(
    local: Local, make: Callable[..., Local], tmp_path: Path
) -> None:
    assert local.label("gpt-4") == "local/SmolLM2-135M-Instruct"
    assert local.models() == ["SmolLM2-135M-Instruct"]
    other = tmp_path / "Other-7B.gguf"
    other.write_bytes(b"GGUF")
    assert make(model=str(other)).label("x") == "local/Other-7B"


# -- rejected requests ----------------------------------------------------------------------


def request_error(provider: Local, **fields: object) -> pytest.ExceptionInfo[Exception]:
    with pytest.raises(Exception) as caught:
        read_all(provider.open(request(**fields)))  # type: ignore[arg-type]
    return caught


def test_message_longer_than_the_context_is_rejected(local: Local) -> None:
    caught = request_error(local, text="word " * 3000)
    assert caught.type is InvalidRequest
    assert "2048" in str(caught.value)
    assert "3031" in str(caught.value)


def test_tools_are_rejected_if_the_template_has_none(local: Local) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    caught = request_error(local, tools=tools)
    assert caught.type is InvalidRequest
    assert caught.value.param == "tools"  # type: ignore[attr-defined]
    assert str(caught.value) == "the model local/SmolLM2-135M-Instruct cannot call tools"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": "string", "minLength": 99999}])
def test_unsupported_schema_is_rejected(local: Local, schema: object) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    caught = request_error(local, response_format=form)
    assert caught.type is InvalidRequest
    assert caught.value.param == "response_format"  # type: ignore[attr-defined]


def test_missing_file_is_reported_with_the_fetch_command(
    make: Callable[..., Local], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ProviderNotConfigured, match="choreo-wsgi fetch-model"):
        make().open(request())
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    provider = make(model=str(file))
    file.unlink()
    with pytest.raises(ProviderNotConfigured, match=r"mine\.gguf") as caught:
        provider.preload()
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("content", "model"),
    [
        (b"", "~/missing/mine.gguf"),
        (b"GGU", "~/mine.gguf"),
        (b"", "~no-such-user/mine.gguf"),
        (b"", "\0mine.gguf"),
        (b"GGUF", "~/mine.gguf"),
    ],
)
def test_model_option_is_checked_at_creation(
    make: Callable[..., Local],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    model: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.gguf").write_bytes(content)
    if content == b"GGUF":
        assert make(model=model).label("any") == "local/mine"
        return
    with pytest.raises(ConfigurationError, match=r"mine\.gguf"):
        make(model=model)


# -- user's model file ----------------------------------------------------------------------

TOOL_TEMPLATE = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n{{ c.function | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


STRICT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def templated(model_file: Path, tmp_path: Path) -> Callable[[str], str]:
    """``templated(template)``: a copy of the default model's file with this chat template."""

    def make(template: str) -> str:
        data = model_file.read_bytes()
        start = data.index(b"{% for message in messages %}")
        length = int.from_bytes(data[start - 8 : start], "little")  # precedes a GGUF string
        padding = "{#" + " " * (length - len(template) - 4) + "#}"
        path = tmp_path / "mine.gguf"
        path.write_bytes(data[:start] + (template + padding).encode() + data[start + length :])
        return str(path)

    return make


def call_messages(id: str, city: str) -> list[dict[str, Any]]:
    function = {"name": "weather", "arguments": json.dumps({"city": city})}
    call = {"id": id, "type": "function", "function": function}
    return [
        {"role": "user", "content": f"Weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "function": {"name": "weather"}}])
def test_tools_are_called_if_the_template_supports_them(
    make: Callable[..., Local], templated: Callable[[str], str], choice: object
) -> None:
    provider = make(model=templated(TOOL_TEMPLATE), slots="1", context="1024")
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    # Three examples suffice to make this small model call the tool again.
    messages = [
        *call_messages("a", "Paris"),
        *call_messages("b", "Oslo"),
        *call_messages("c", "Berlin"),
    ]
    messages += [{"role": "user", "content": "Weather in Rome?"}]
    chat = request(messages=messages, tools=tools, tool_choice=choice, temperature=0)
    items = read_all(provider.open(chat))
    calls: list[ToolCall] = [c for i in items if isinstance(i, Delta) for c in i.tool_calls]
    assert [(call.index, call.name) for call in calls if call.name] == [(0, "weather")]
    assert set(json.loads("".join(call.arguments for call in calls))) == {"city"}
    assert finishes(items) == {0: "tool_calls"}


def test_template_error_rejects_the_request(
    make: Callable[..., Local], templated: Callable[[str], str]
) -> None:
    provider = make(model=templated(STRICT_TEMPLATE), slots="1", context="1024")
    assert provider.label("any") == "local/mine"
    caught = request_error(provider, messages=[{"role": "user", "content": "Hi!"}] * 2)
    assert caught.type is InvalidRequest
    assert "roles must alternate" in str(caught.value)


# -- model process --------------------------------------------------------------------------


def test_receive_returns_while_the_process_starts(make: Callable[..., Local]) -> None:
    source = make().open(request(max_tokens=2))
    assert source.receive(0) == []  # the process has just been started
    assert source.fileno() is None
    assert finishes(read_all(source)) == {0: "length"}


def test_start_is_limited_by_first_byte_timeout(make: Callable[..., Local]) -> None:
    source = make(Settings(first_byte_timeout=0.01)).open(request())
    with pytest.raises(ProviderTimeout, match=r"0\.01 s"):
        read_all(source)


UNLIMITED = {"slots": "1", "max_tokens_limit": "100000"}


@linux_only
def test_close_between_tokens_stops_the_generation(make: Callable[..., Local]) -> None:
    provider = make(**UNLIMITED)
    source = provider.open(request("Tell me.", max_tokens=100_000, **ENDLESS))
    read_first(source)
    source.close()
    assert becomes_idle(pid(provider))
    assert source.usage is not None
    assert source.usage.prompt_tokens > 10
    assert source.usage.completion_tokens >= 1


@linux_only
def test_close_during_the_prefill_stops_it(make: Callable[..., Local]) -> None:
    provider = make(**UNLIMITED)
    source = provider.open(request("word " * 7000))
    run = provider._process.run()
    started_at = run.heard_at
    while run.heard_at == started_at:  # until the model reports progress
        assert source.receive(0.25) == []
    source.close()
    assert becomes_idle(run.pid)


@linux_only
def test_close_while_waiting_for_a_slot_stops_the_model(make: Callable[..., Local]) -> None:
    provider = make(slots="1", max_tokens_limit="100000")
    running = provider.open(request("Tell me.", max_tokens=100_000, **ENDLESS))
    read_first(running)
    waiting = [provider.open(request(max_tokens=100_000, **ENDLESS)) for _ in range(3)]
    for source in waiting:
        assert source.receive(0) == []
    for source in [*waiting, running]:
        source.close()
    assert becomes_idle(pid(provider))
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_crash_truncates_replies_and_the_next_request_works(make: Callable[..., Local]) -> None:
    provider = make(max_tokens_limit="100000")
    sources = [provider.open(request(max_tokens=100_000, **ENDLESS)) for _ in range(2)]
    for source in sources:
        read_first(source)
    os.kill(pid(provider), signal.SIGKILL)
    for source in sources:
        with pytest.raises(UpstreamTruncated, match="process has ended"):
            read_all(source)
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_crash_before_the_reply_is_provider_unavailable(make: Callable[..., Local]) -> None:
    provider = make()
    source = provider.open(request())
    os.kill(pid(provider), signal.SIGKILL)
    with pytest.raises(ProviderUnavailable):
        read_all(source)


@linux_only
def test_crash_between_two_requests_is_not_visible(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    run = provider._process.run()
    os.kill(run.pid, signal.SIGKILL)
    assert run.has_ended(DEADLINE)
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_proxy_variables_are_ignored(
    make: Callable[..., Local], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make()
    provider._process = ModelProcess(provider._launch, unix=False)
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_process_that_was_idle_is_not_taken_for_stuck(make: Callable[..., Local]) -> None:
    provider = make()
    run = provider._process.run()
    assert run.wait(DEADLINE)
    run.heard_at -= provider.settings.idle_timeout + 1
    source = provider.open(request(max_tokens=2))
    assert source.receive(0) == []
    assert finishes(read_all(source)) == {0: "length"}


def test_stopped_process_is_replaced(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    stopped = pid(provider)
    os.kill(stopped, signal.SIGSTOP)
    settings = provider.settings
    provider.settings = replace(settings, idle_timeout=1)
    with pytest.raises((ProviderTimeout, ProviderError)):
        read_all(provider.open(request(max_tokens=2)))
    provider.settings = settings
    assert provider._process.run().has_ended(DEADLINE) or pid(provider) != stopped
    assert finishes(read_all(provider.open(request(max_tokens=2)))) == {0: "length"}


def test_close_ends_the_process_and_can_be_repeated(make: Callable[..., Local]) -> None:
    provider = make()
    read_all(provider.open(request(max_tokens=2)))
    run = provider._process.run()
    provider.close()
    provider.close()
    assert run.has_ended()
