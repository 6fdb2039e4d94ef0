"""Turns the errors that providers report, of whatever shape, into :class:`ChoreoError`.

They are in the body of a response with an error status, in an object inside a stream, or in a
document with status 200.  Shapes seen in the wild::

    {"error": {"message", "type", "code", "param"}}      OpenAI, and nearly everybody
    {"error": "..."}   {"errors": [{"message"}]}         Ollama, Cloudflare
    {"status": 503, "error": "...", "message"}           Spring
    {"Error": {"Code", "Message"}}   {"fault": {...}}    AWS, Apigee
    [{"error": {"message", "status"}}]                   Gemini
    {"object": "error", "message", "code": 400}          vLLM before 0.11
    {"detail": "..."}  {"detail": [{"loc", "msg"}]}      FastAPI
    {"code": "InvalidParameter", "message"}              DashScope
    {"error_type", "error_message", "choices": null}     DeepInfra
    {"base_resp": {"status_code": 1008, "status_msg"}}   MiniMax
    {"code": 400, "details": "..."}                      guardrails in front of vLLM
    plain text, HTML
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from ..chat import jsontext
from ..chat.errorwords import error_words
from ..chat.items import Json
from ..errors import ChoreoError, UpstreamInvalid, from_provider
from ..upstream.head import retry_after
from .reading import find_error

#: Limit of characters of a code, or of the name of a parameter, that is passed on.
_MAX_WORD = 200
#: Limits of characters of a message, and of a body without one, that are passed on.
_MAX_MESSAGE = 4000
#: Bytes of the longest body that is read.
_LONGEST = 64 * 1024
_SHOWN = 500

#: The members of an error that may hold a word for programs, or a status.
_WORD_MEMBERS = (
    *("code", "type", "error_type", "errorType", "status", "error_code", "reason", "__type"),
    "Code",
)
_STATUS_MEMBERS = (
    *("code", "status", "status_code", "statusCode", "http_status", "error_code", "StatusCode"),
)

#: HTTP statuses of the words for programs in errors; the first pattern that matches counts.
_STATUSES = (
    (re.compile("context_length|context_size|context_window"), 400),
    (re.compile("rate_limit|too_many_requests|throttl|exhausted|quota|not_ready"), 429),
    (re.compile("billing|payment|insufficient_(credit|balance|fund)|arrearage"), 402),
    (re.compile("authenticat|unauthori[sz]ed|api_key"), 401),
    (re.compile("permission|forbidden|access_denied"), 403),
    (re.compile("not_found|does_not_exist"), 404),
    (re.compile("too_large"), 413),
    (re.compile("timeout|timed_out|deadline"), 504),
    (re.compile("overload|unavailable|busy|capacity"), 503),
    (re.compile("invalid|bad_request|validation|malformed|unsupported"), 400),
    (re.compile("failed_precondition|out_of_range"), 400),
)
_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s", re.ASCII)
#: An error may be sent as an event of the requested stream.
_EVENT = re.compile(r"^(event:.*\s+)?data:\s*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+")
#: Google reports a wrong API key as an invalid argument, with status 400 and this reason.
_WRONG_KEY = "API_KEY_INVALID"
#: Messages of OpenAI, vLLM, SGLang and llama.cpp for a prompt that is too long.
_TOO_LONG = re.compile(
    r"maximum context length|context (length|size|window) (exceeded|is too)|"
    r"exceeds? the (available|model's|maximum) context|prompt is too long",
    re.I,
)
#: Returns the real status and code of an error from its status, headers, message and object.
Meaning = Callable[[int, Mapping[str, str], str, Mapping[str, Json]], "tuple[int, str | None]"]
_NO_MONEY = re.compile(r"insufficient_quota|insufficient_credit|insufficient_balance")


def provider_error(
    error: Json, status: int | None = None, retry_after: float | None = None
) -> ChoreoError:
    """Return the error that the object *error*, of whatever shape, reports.

    *status* is the HTTP status of the answer; if it is None, the status is read from the error
    itself.  *retry_after* is in seconds.
    """
    error = _within(error)
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    members = error if isinstance(error, dict) else {}
    message = error_words(error) or "the provider reported an error"
    words = _words(members)
    codes = (code for name in _WORD_MEMBERS if isinstance(code := members.get(name), str))
    code = next((code[:_MAX_WORD] for code in codes if code and not code.isdigit()), None)
    if any(word.startswith(("context_length", "exceed_context_size")) for word in words) or (
        status in (400, 413) and _TOO_LONG.search(message[:_MAX_MESSAGE])
    ):
        code = "context_length_exceeded"
    if status is None:
        status = next(_numbers(members), None) or named_status(members) or 502
    if any(map(_NO_MONEY.search, words)):
        code = "insufficient_quota"
    param = members.get("param")
    return from_provider(
        status,
        message[:_MAX_MESSAGE],
        code=code,
        param=param[:_MAX_WORD] if isinstance(param, str) else None,
        retry_after=retry_delay(members) if retry_after is None else retry_after,
    )


def _within(value: Json) -> Json:
    """Return the part of *value* that reports an error, the first of several, or *value*."""
    found = find_error(value)
    found = value if found is None else found
    while isinstance(found, list) and found:
        found = found[0]
    return found


def retry_delay(error: Mapping[str, Json]) -> float | None:
    """Return the seconds in the google.rpc.RetryInfo of *error*, or None."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (found := _SECONDS.fullmatch(delay)):
            return float(found[1])
    return None


def stream_error(error: Json) -> ChoreoError:
    """Return the error that *error*, an object in a stream, reports.

    Its words give the status; a number wins over one that only means 400, which some send always.
    """
    members = error if isinstance(error, dict) else {}
    status = named_status(members)
    if status in (None, 400):
        status = next(_numbers(members), status or 502)
    message = error_words(error)[:_MAX_MESSAGE] or "the provider reported an error"
    return from_provider(status, message)


def read_body(body: bytes) -> tuple[str, dict[str, Json]]:
    """Return the message in the *body* of an error, and the object that contained it.

    The message is ``""`` for an empty body and for HTML; any other body without a message is
    itself the message, truncated.
    """
    shown = _EVENT.sub("", body[:_LONGEST].decode("utf-8-sig", "replace").strip())
    try:
        value = jsontext.parse(shown)
    except ValueError:
        return ("" if shown.startswith("<") else shown[:_SHOWN]), {}
    error = _within(value)
    message = error_words(error) or (shown[:_SHOWN] if value else "")
    return message, error if isinstance(error, dict) else value if isinstance(value, dict) else {}


def response_error(
    status: int, headers: Mapping[str, str], body: bytes, now: float, meaning: Meaning | None = None
) -> ChoreoError:
    """Return the error for a response that is not the expected one.

    The names in *headers* are in lower case; *now* is the time in seconds since 1970.  *meaning*
    interprets errors whose words are not OpenAI's.
    """
    message, error = read_body(body)
    if 200 <= status < 300:
        if find_error(error) is not None or (error and "choices" not in error):
            return provider_error(error)
        reason = ": it is empty" if not body.strip() else f": {message}" if message else ""
        if message[:1] in ("{", "["):
            reason = ": JSON that is cut off, or of another kind"
        return UpstreamInvalid(f"the provider's answer is not what was asked for{reason}")
    if status < 400:
        return UpstreamInvalid(f"the provider answered {status}; redirects are not followed")
    message = message or f"the provider answered {status}"
    wait = retry_after(headers, now)
    if meaning is None:
        return provider_error({**error, "error": None, "message": message}, status, wait)
    wait = retry_delay(error) if wait is None else wait
    status, code = meaning(status, headers, message, error)
    return from_provider(status, message, code=code, retry_after=wait)


def named_status(members: Mapping[str, Json]) -> int | None:
    """Return the HTTP status that a word in the *members* of an error stands for, or None."""
    found = (status for word in _words(members) for part, status in _STATUSES if part.search(word))
    return next(found, None)


def _words(members: Mapping[str, Json]) -> list[str]:
    """Return the words for programs in an error, as ``not_found``, the most reliable first."""
    values = [members.get(name) for name in _WORD_MEMBERS]
    if _WRONG_KEY in str(members.get("details")):
        values.insert(0, _WRONG_KEY)
    # AWS writes a namespace before the name and the URL of a page after it.
    names = (word.rpartition("#")[2].partition(":")[0] for word in values if isinstance(word, str))
    words = (_CAMEL.sub("_", name.strip()).lower() for name in names)
    return [word for word in words if word and not word.isdigit()]


def _numbers(members: Mapping[str, Json]) -> Iterator[int]:
    """Yield the HTTP statuses that an error has as numbers, the most reliable first."""
    for name in _STATUS_MEMBERS:
        value = members.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value < 600:
            yield value
