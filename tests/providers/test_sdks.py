"""Our adapters send the same as the providers' own SDKs, and read the same in an answer."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from corpus_cases import KEY, Case, cases
from raw_server import RawServer, Request
from sdk_readers import SDKS, Reading, ours

CASES = [case for case in cases() if (case.folder / "sdk.json").exists()]

#: Headers of the connection, of the client library and of the key: Anthropic's SDK has changed
#: from x-api-key to a bearer token, and both are accepted; it sends traceparent if another test
#: has set OpenTelemetry up, which cannot be undone.
_INCIDENTAL = re.compile(
    r"host|connection|content-length|accept.*|user-agent|authorization|(x-)?api-key|"
    r"x-stainless-.*|x-goog-api-client|x-amz-.*|amz-sdk-.*|openai-.*|traceparent"
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_sdk_and_adapter_agree(case: Case) -> None:
    if case.id == "gemini/unicode" and sys.version_info < (3, 11):
        pytest.skip("the last google-genai for this Python ends a line at U+2028")
    with RawServer.playing((case.folder / "upstream.http").read_bytes()) as server:
        sdk_reading = SDKS[case.provider_type](case, server.url)
        theirs = server.requests[-1]
        provider = case.provider(base_url=server.url)
        try:
            our_reading = ours(provider.open(case.request))
        finally:
            provider.close()
    sent = server.requests[server.requests.index(theirs) + 1]
    assert comparable(sent) == comparable(theirs)
    assert KEY in str(sent.headers.items())
    compare(case, our_reading, sdk_reading)


def comparable(request: Request) -> dict[str, Any]:
    """Return the parts of a request in which ours and the SDK's must be equal."""
    headers = {
        name.lower(): value
        for name, value in request.headers.items()
        if not _INCIDENTAL.fullmatch(name.lower())
    }
    body = json.loads(request.body)
    if body.get("tools") == []:  # which Ollama's SDK sends for none
        del body["tools"]
    for message in body.get("messages", ()):  # Ollama's SDK leaves an empty one out
        message.setdefault("content", "")
    if "contents" in body:
        body = camel_case(body)
        if body.get("generationConfig") == {}:  # as Google's SDK does
            del body["generationConfig"]
    return {"method": request.method, "target": request.path, "headers": headers, "body": body}


def camel_case(value: Any) -> Any:
    """Return Google's JSON with all names in camel case; Google accepts snake case too."""
    if isinstance(value, list):
        return [camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, item in value.items():
        head, *tail = name.split("_")
        name = head + "".join(word.title() for word in tail)
        verbatim = name in ("args", "response") or name.endswith("JsonSchema")
        made[name] = item if verbatim else camel_case(item)
    if "mimeType" in made and "data" in made:  # base64 in its other alphabet
        made["data"] = made["data"].replace("-", "+").replace("_", "/")
    return made


def compare(case: Case, our_reading: Reading, sdk_reading: Reading) -> None:
    if "truncated" in case.folder.name:
        assert our_reading.failed  # which no SDK notices
        assert our_reading.text == sdk_reading.text or sdk_reading.failed
        return
    assert our_reading.failed == sdk_reading.failed
    if not our_reading.failed:
        assert our_reading == sdk_reading
