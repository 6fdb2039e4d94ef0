"""``client.responses`` against the server itself, through connections that break."""

from __future__ import annotations

import harness
import pytest
from both_clients import both

import choreoai

WORDS = " ".join(f"w{number}" for number in range(60))


@pytest.fixture
def app(application):
    return application({"slow": {"type": "echo", "models": "slow", "delay_ms": "5"}})


@pytest.fixture
def served(app, serve):
    return serve(app)


@pytest.fixture
def responses(clients, served):
    return clients(served.url).responses


@both
def test_create_returns_a_response_or_its_events(responses):
    response = responses.create(model="slow", input="one two", instructions="be brief")
    assert (response.output_text, response.status) == ("one two", "completed")
    assert response.usage.output_tokens == 2
    stream = responses.create(model="slow", input="one two", stream=True)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    assert stream.response.output_text == stream.partial_text == "one two"
    assert responses.create(model="slow", input="a", stream=True).get_final_response().id
    with responses.stream(model="slow", input="one two") as stream:
        assert next(stream).type == "response.created"
        assert stream.get_final_response().output_text == "one two"


@both
def test_retrieves_streams_and_deletes_a_background_response(responses):
    response = responses.create(model="slow", input=WORDS, background=True)
    assert response.status == "queued"
    stream = responses.retrieve(response.id, stream=True)
    assert stream.get_final_response().output_text == WORDS
    rest = list(responses.retrieve(response.id, stream=True, starting_after=9))
    assert rest[0].sequence_number == 10
    assert responses.retrieve(response.id).output_text == WORDS
    responses.delete(response.id)
    with pytest.raises(choreoai.NotFoundError):
        responses.retrieve(response.id)


@both
def test_cancel_ends_the_stream_with_an_error(responses):
    stream = responses.create(model="slow", input=WORDS, stream=True, resumable=True)
    id = next(stream).response.id
    assert responses.cancel(id).status == "cancelled"
    with pytest.raises(choreoai.APIError) as raised:
        list(stream)
    assert WORDS.startswith(raised.value.partial_text)


def numbered(first, last):
    """Return the events *first* to *last* of a response of eight."""
    events = [{"type": "response.created", "response": {"id": "resp_1", "output": []}}]
    events += [{"type": "response.output_text.delta", "delta": f"w{n} "} for n in range(6)]
    events += [{"type": "response.completed", "response": {"id": "resp_1", "output": []}}]
    return [{**events[n], "sequence_number": n} for n in range(first, last + 1)]


@both
@pytest.mark.parametrize("how", ["resumable", "background", "retrieved"])
def test_resumable_stream_resumes_over_another_connection(clients, server, how):
    def begin(peer):
        assert how == "retrieved" or peer.request.json()["background"] is True
        peer.head(Choreo_Stream_Id="strm_1")
        for event in numbered(0, 3):
            peer.frame(event, event["sequence_number"] + 2)
        peer.reset()

    def resume(peer):
        assert (peer.request.path, peer.request.headers["last-event-id"]) == (
            "/v1/streams/strm_1",
            "5",
        )
        peer.head(Choreo_Stream_Id="strm_1")
        for event in numbered(3, 7):  # event 3 is sent twice
            peer.frame(event, event["sequence_number"] + 2)
        peer.end()

    server.then(begin, resume)
    responses = clients(server.url).responses
    if how == "retrieved":
        stream = responses.retrieve("resp_1", stream=True)
    else:
        stream = responses.create(model="m", input="x", stream=True, **{how: True})
    assert [event.sequence_number for event in stream] == list(range(8))
    assert stream.partial_text == "w0 w1 w2 w3 w4 w5 "


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([(0, {"type": "response.created"}), (2, {"type": "response.completed"})], "is missing"),
        ([(0, {"type": "response.created"})], "before the end"),
        ([(0, {"type": "response.failed", "response": {"status": "failed", "error":
            {"code": "server_error", "message": "broken"}}})], "broken"),
    ],
)  # fmt: skip
def test_missing_event_cut_and_failure_raise(clients, server, events, message):
    def script(peer):
        peer.head()
        for number, event in events:
            peer.frame({**event, "sequence_number": number})
        peer.end()

    server.then(script)
    stream = clients(server.url).responses.create(model="m", input="x", stream=True)
    with pytest.raises(choreoai.APIError, match=message):
        list(stream)


def test_failed_response_raises(clients, server):
    failed = {"status": "failed", "error": {"code": "server_error", "message": "broken"}}
    server.then(lambda peer: peer.json(failed))
    with pytest.raises(choreoai.APIError, match="broken"):
        clients(server.url).responses.create(model="m", input="x")


def test_retrieve_returns_a_failed_response(clients, server):
    error = {"code": "server_error", "message": "broken", "type": "provider_timeout"}
    server.then(lambda peer: peer.json({"object": "response", "status": "failed", "error": error}))
    responses = clients(server.url).responses
    assert responses.retrieve("resp_1").error.message == "broken"
    with pytest.raises(choreoai.APIError, match="broken") as caught:
        responses.create(model="m", input="x")
    assert caught.value.code == "provider_timeout"  # the server's own code


def test_unknown_or_missing_parameter_raises_type_error(responses):
    with pytest.raises(TypeError, match="max_tokens"):
        responses.create(model="slow", input="x", max_tokens=5)
    with pytest.raises(TypeError, match="input"):
        responses.create(model="slow")


@both
def test_leaving_a_with_block_stops_the_generation(app, responses):
    with responses.create(model="slow", input=WORDS, stream=True) as stream:
        next(stream)
    harness.wait_until(lambda: app.active == 0, "the generation still runs")


def send_events(*values):
    """Return a script that sends *values*, valid or not, as events."""

    def script(peer):
        peer.head()
        for value in values:
            peer.frame(value)
        peer.end()

    return script


LAST = {"type": "response.completed", "response": {"id": "resp_1", "output": []}}


def test_stream_of_an_incomplete_response_is_complete(clients, server):
    server.then(send_events({**LAST, "type": "response.incomplete"}))
    stream = clients(server.url).responses.create(model="m", input="x", stream=True)
    assert stream.get_final_response().id == "resp_1"


def test_accepts_unnumbered_events_and_done(clients, server):
    delta = {"type": "response.output_text.delta", "delta": "Hi"}
    server.then(send_events({"type": "response.created"}, delta, delta, LAST, "[DONE]"))
    stream = clients(server.url).responses.create(model="m", input="x", stream=True)
    assert len(list(stream)) == 4
    assert (stream.partial_text, stream.response.id) == ("HiHi", "resp_1")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"type": "error", "code": "c", "message": "boom"}, "boom"),
        ("[DONE]", "before its last event"),
        ({"type": "response.failed", "response": "odd"}, "the response was"),
        ({"type": 5}, "event without a type"),
    ],
)
def test_failure_events_raise_with_the_partial_text(clients, server, event, message):
    delta = {"type": "response.output_text.delta", "delta": "half"}
    server.then(send_events(delta, event, LAST))
    stream = clients(server.url).responses.create(model="m", input="x", stream=True)
    with pytest.raises(choreoai.APIError, match=message) as caught:
        list(stream)
    assert caught.value.partial_text == "half"
