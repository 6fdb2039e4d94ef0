"""Named keys: their models, limits and expiry, and the errors about them."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import Server, make_app, wait_until
from scripted_provider import Script
from wsgi_calls import Called, call, chat

from choreo_wsgi.app.application import Application
from choreo_wsgi.app.keys import KeyOptions, Rule, digest_of, known_keys
from choreo_wsgi.app.limits import Counts, Limits, count, refused
from choreo_wsgi.chat.items import Finish, Usage
from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.settings import Configuration, Settings

CHAT = "/v1/chat/completions"
KEY = "sk-ann"
ANN = {"HTTP_AUTHORIZATION": f"Bearer {KEY}"}
SCRIPTED = {"provider s": {"type": "scripted", "models": "echo"}}
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


def app_with(limits: dict[str, str], **sections: dict[str, str]) -> Application:
    return make_app(
        {"default_model": "none", "heartbeat_seconds": "0.2"},
        {"key ann": {"digest": DIGEST, **limits}, **sections},
    )


def post(app: Application, text: str = "one two", **more: Any) -> Called:
    return call(app, "POST", CHAT, chat(text, **more), **ANN)


# -- models --------------------------------------------------------------------------------


def test_key_uses_and_lists_only_its_models() -> None:
    app = app_with({"models": "other, ec*"})
    assert post(app).status == 200
    for model in ("gpt-4o", "ECHO", "xecho", "e", "m" * 250):
        refused = post(app, model=model)
        assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")
        assert refused.error["param"] == "model" and len(refused.error["message"]) < 150
        assert refused.headers["x-should-retry"] == "false"
    sections = {"provider x": {"type": "echo", "models": "mine, echo-2"}}
    app = app_with({"models": "mine"}, **sections)
    listed = call(app, "GET", "/v1/models", **ANN).json()["data"]
    assert [model["id"] for model in listed] == ["mine"]
    assert call(app, "GET", "/v1/models/mine", **ANN).status == 200
    assert call(app, "GET", "/v1/models/echo-2", **ANN).error["code"] == "model_not_allowed"


# -- limits --------------------------------------------------------------------------------


def test_count_tokens_rejects_models_that_the_key_may_not_use() -> None:
    app = app_with({"models": "other"})
    body = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
    answer = call(app, "POST", "/v1/messages/count_tokens", body, **ANN)
    assert answer.status == 403
    app.close()


def test_requests_per_minute_is_enforced() -> None:
    app = app_with({"requests_per_minute": "3"})
    left = []
    for _ in range(3):
        answer = post(app)
        assert answer.status == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "3"
        left.append(answer.headers["x-ratelimit-remaining-requests"])
    assert left == ["2", "1", "0"]
    refused = post(app)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert app.active == 0
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch("1m0s|[0-5]?[0-9]s", refused.headers["x-ratelimit-reset-requests"])
    assert call(app, "GET", "/v1/models", **ANN).status == 200  # not a completion


def test_first_exceeded_limit_is_reported() -> None:
    app = app_with({"requests_per_minute": "1", "tokens_per_minute": "15"})
    assert post(app, max_tokens=9).status == 200
    refused = post(app, max_tokens=9)
    assert refused.status == 429 and "requests" in refused.error["message"]


def test_retry_after_is_that_of_the_exceeded_limit() -> None:
    """With two token limits the headers report that of the minute."""
    app = app_with({"requests_per_minute": "9", "tokens_per_day": "20"})
    while (answer := post(app, max_tokens=9)).status == 200:
        assert answer.headers["x-ratelimit-limit-tokens"] == "20"
    assert answer.error["code"] == "quota_exceeded" and int(answer.headers["retry-after"]) > 60
    app = app_with({"tokens_per_minute": "500", "tokens_per_day": "9000"})
    answer = post(app)
    assert answer.headers["x-ratelimit-limit-tokens"] == "500"
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 500


def test_long_prompt_is_counted() -> None:
    app = app_with({"tokens_per_minute": "100000"})
    answer = post(app, "long " * 60_000, max_tokens=1)  # long enough to be parsed separately
    assert 20_000 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 26_000


def test_request_above_the_limit_is_admitted_alone() -> None:
    """It reserves the whole limit, otherwise it could never run; each choice counts."""
    app = app_with({"tokens_per_minute": "1000"})
    assert post(app, max_tokens=5000).headers["x-ratelimit-remaining-tokens"] == "0"
    app = app_with({"tokens_per_minute": "1000"})
    assert post(app, max_tokens=100, n=3).headers["x-ratelimit-remaining-tokens"] == "695"


def test_clock_set_back_rejects_no_request() -> None:
    """The processes of a machine share its clock and the file."""
    minute, places = Rule("requests_per_minute", 1, 60, 1), Rule("max_streams", 1, 0, 1)
    counts: Counts = {}
    assert refused(count([minute, places], counts, 10_000.0, "died", 60.0)) is None
    assert refused(count([minute], counts, 10_001.0, "lives", 60.0)) == minute._replace(
        remaining=0, reset=59.0
    )
    assert refused(count([minute, places], counts, 6_400.0, "lives", 60.0)) is None


def test_minute_begins_with_its_first_request() -> None:
    minute, counts = Rule("requests_per_minute", 2, 60, 1), Counts()
    for now, reset in ((0.0, 60.0), (30.0, 30.0), (61.0, 60.0)):
        (counted,) = count([minute], counts, now)
        assert refused([counted]) is None and counted.reset == reset


def test_lease_is_held_while_it_is_renewed() -> None:
    counts: Counts = {}
    place = Rule("max_streams", 1, 0, 1)
    assert refused(count([place], counts, 0.0, "a", 60.0)) is None
    for now in (50.0, 100.0, 150.0):
        assert refused(count([place._replace(cost=0)], counts, now, "a", 60.0)) is None
        assert refused(count([place], counts, now + 59.0, "b", 60.0)) is not None
    assert refused(count([place], counts, 211.0, "b", 60.0)) is None
    # A release after the lease has expired makes no room for another.
    assert refused(count([place._replace(cost=-1)], counts, 212.0, "a", 60.0)) is None
    assert refused(count([place], counts, 213.0, "a", 60.0)) is not None


def test_usage_above_the_limit_leaves_zero_remaining(
    scripted: Callable[[], Script],
) -> None:
    app = app_with({"tokens_per_minute": "100"}, **SCRIPTED)
    scripted().finish("x", Finish(), Usage(10, 500))
    assert post(app, max_tokens=5).status == 200
    answer = post(app, max_tokens=5)
    assert (answer.status, answer.headers["x-ratelimit-remaining-tokens"]) == (429, "0")


def test_each_key_has_its_own_limits() -> None:
    other = hashlib.sha256(b"sk-bob").hexdigest()
    app = app_with({"requests_per_minute": "1"}, **{"key bob": {"digest": other}})
    assert [post(app).status for _ in range(2)] == [200, 429]
    for _ in range(3):
        answer = call(app, "POST", CHAT, chat("x"), HTTP_AUTHORIZATION="Bearer sk-bob")
        assert answer.status == 200 and "x-ratelimit-limit-requests" not in answer.headers


def test_reported_usage_replaces_the_reservation(scripted: Callable[[], Script]) -> None:
    app = app_with({"tokens_per_minute": "1000"}, **SCRIPTED)
    scripted().finish("x", Finish(), Usage(100, 300))
    first = post(app, max_tokens=500)
    assert first.headers["x-ratelimit-remaining-tokens"] == str(1000 - 500 - 5)
    scripted().finish("x", Finish(), Usage(100, 200))
    second = post(app, max_tokens=500, stream=True)
    assert second.headers["x-ratelimit-remaining-tokens"] == str(1000 - 400 - 505)
    refused = post(app, max_tokens=500)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-remaining-tokens"] == "300"
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
    scripted().finish("x", Finish(), Usage(100, 150))
    resumable = {**ANN, "HTTP_CHOREO_RESUMABLE": "1"}
    assert (
        call(app, "POST", CHAT, chat("x", stream=True, max_tokens=200), **resumable).status == 200
    )
    refused = post(app, max_tokens=500)
    assert refused.headers["x-ratelimit-remaining-tokens"] == "50"


def test_without_max_tokens_the_mean_usage_is_reserved(
    scripted: Callable[[], Script],
) -> None:
    app = app_with({"tokens_per_minute": "1000"}, **SCRIPTED)
    left = []
    for tokens in (80, 160, 80):
        scripted().finish("x", Finish(), Usage(5, tokens))
        left.append(int(post(app).headers["x-ratelimit-remaining-tokens"]))
    mean = 80 + (160 - 80) // 8  # one answer counts for an eighth
    assert left == [1000 - 5, 1000 - 85 - 85, 1000 - 85 - 165 - (5 + mean)]


def test_failed_request_costs_no_tokens(scripted: Callable[[], Script]) -> None:
    app = app_with({"tokens_per_minute": "1000", "requests_per_minute": "9"}, **SCRIPTED)
    scripted().say(RuntimeError("no"))
    assert post(app, max_tokens=995).status == 500
    scripted().finish("x", Finish(), Usage(1, 1))
    answer = post(app, max_tokens=995)  # all of it, with the 5 of the prompt
    assert answer.status == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert answer.headers["x-ratelimit-remaining-requests"] == "7"


def test_tokens_per_day_is_a_quota() -> None:
    app = app_with({"tokens_per_day": "20"})
    assert [post(app, max_tokens=2).status for _ in range(4)] == [200] * 4  # 4 tokens each
    refused = post(app, max_tokens=2)
    assert (refused.status, refused.error["code"]) == (429, "quota_exceeded")
    assert refused.headers["x-should-retry"] == "false"
    assert 86000 < int(refused.headers["retry-after"]) <= 86400
    reset = refused.headers["x-ratelimit-reset-tokens"]
    assert re.fullmatch("24h0m0s|23h5[0-9]m[0-9]{1,2}s", reset)


def test_max_streams_of_a_key_is_enforced(
    serve: Callable[..., Server], scripted: Callable[[], Script]
) -> None:
    """The slot is free before the last bytes are sent: a client that has them may send again."""
    app = app_with({"max_streams": "1"}, **SCRIPTED)
    server = serve(app)
    headers = {"Authorization": f"Bearer {KEY}"}
    script = scripted()
    with server.connect() as one, server.connect() as two:
        one.request("POST", CHAT, chat("x", stream=True), headers)
        one.read_head()
        refused = two.exchange("POST", CHAT, chat("x"), headers)
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        script.finish("x", Finish())
        frames = list(iter(one.read_frame, b""))
        assert frames[-1] == b"data: [DONE]\n\n"
        for _ in range(20):
            scripted().finish("x", Finish())
            assert two.exchange("POST", CHAT, chat("x"), headers).status == 200


def test_each_upstream_call_of_n_choices_counts_as_a_stream() -> None:
    up = {"type": "anthropic", "api_key": "k", "models": "one", "base_url": "http://127.0.0.1:1"}
    app = app_with({"max_streams": "1"}, **{"provider up": up})
    answer = post(app, model="one", n=2)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")


def test_cut_stream_is_charged_by_its_frames(
    serve: Callable[..., Server], scripted: Callable[[], Script]
) -> None:
    app = app_with({"tokens_per_minute": "1000"}, **SCRIPTED)
    headers = {"Authorization": f"Bearer {KEY}"}
    script = scripted()
    server = serve(app)
    with server.connect() as one:
        one.request("POST", CHAT, chat("x" * 40, stream=True, max_tokens=900), headers)
        one.read_head()
        script.say(*["word "] * 50)
        for _ in range(51):
            one.read_frame()
        one.reset()
        assert script.closed.wait(harness.DEADLINE)
        wait_until(lambda: app.active == 0, "the stream is closed")
    scripted().finish("x", Finish())
    with server.connect() as one:
        answer = one.exchange("POST", CHAT, chat("x", max_tokens=1), headers)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - (14 + 51) - (4 + 1))


def test_200_concurrent_requests_are_counted_exactly() -> None:
    """Requests and tokens; the echo uses 2 + 2 tokens, after 5 + 2 were reserved."""
    for limit, most in (({"requests_per_minute": "100"}, 100), ({"tokens_per_minute": "707"}, 101)):
        app = app_with(limit)
        barrier = threading.Barrier(200)

        def one(_: int, app: Application = app, barrier: threading.Barrier = barrier) -> int:
            barrier.wait(harness.DEADLINE)
            return post(app, max_tokens=2).status

        with ThreadPoolExecutor(200) as pool:
            statuses = Counter(pool.map(one, range(200)))
        assert statuses.keys() == {200, 429}
        if "requests_per_minute" in limit:
            assert statuses[200] == most
        else:  # more if some ended before the last started
            assert most <= statuses[200] <= 707 // 4


def test_two_threads_are_counted_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(counted: Sequence[Rule]) -> Rule | None:
        time.sleep(0.02)  # between reading the counts and changing them
        return refused(counted)

    monkeypatch.setattr(sys.modules[Limits.__module__], "refused", slow)
    limits, rule = Limits(), Rule("requests_per_minute", 1, 60, 1)
    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(lambda _: limits.take("k", [rule])[0], range(2)))
    assert sorted(refused(rules) is None for rules in taken) == [False, True]


# -- expiry --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expires", "status"),
    [
        ("2020-01-01", 401),
        ("2999-12-31", 200),
        ((datetime.now(timezone.utc) + timedelta(hours=1)).isoformat(), 200),
        ((datetime.now(timezone.utc) - timedelta(seconds=1)).isoformat(), 401),
        ("", 200),
    ],
    ids=["past", "future", "in an hour", "a second ago", "never"],
)
def test_expired_key_is_rejected(expires: str, status: int) -> None:
    answer = post(app_with({"expires": expires}))
    assert answer.status == status
    if status == 401:
        assert answer.error["code"] == "invalid_api_key"
        assert f"expired ({expires[:10]}" in answer.error["message"]


# -- invalid sections ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "digest is missing"),
        ({"digest": "a" * 64, "models": ""}, "models is empty; leave it out"),
        ({"digest": KEY}, "digest"),
        *(
            ({"digest": "a" * 64, name: "-1"}, name)
            for name in KeyOptions.__annotations__
            if "_" in name
        ),
        ({"digest": "a" * 64, "expires": "tomorrow"}, "expires.*'tomorrow'"),
    ],
)
def test_invalid_key_section_is_rejected(section: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\[key ann\].*{message}") as caught:
        known_keys(Configuration(Settings(), {}, {"ann": section}))
    assert KEY not in caught.value.message


def test_duplicate_digest_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="ann has the same digest"):
        known_keys(
            Configuration(Settings(), {}, {"ann": {"digest": DIGEST}, "bob": {"digest": DIGEST}})
        )


def test_keys_file_may_contain_key_sections(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who may call\n[key ann]\ndigest = {DIGEST}\nmodels = echo\n")
    keys = known_keys(Configuration(Settings(api_keys_file=str(path)), {}))
    assert keys[digest_of(KEY.encode())].name == "ann"
    for title in ("provider ann", "key"):
        path.write_text(f"[{title}]\ndigest = {DIGEST}\n")
        with pytest.raises(ConfigurationError, match=rf"\[{title}\] is not a \[key NAME\]"):
            known_keys(Configuration(Settings(api_keys_file=str(path)), {}))
    path.write_text(DIGEST)  # a line without a name does not lift the limits of a section
    both = Configuration(Settings(api_keys_file=str(path)), {}, {"ann": {"digest": DIGEST}})
    assert known_keys(both)[DIGEST].name == "ann"
