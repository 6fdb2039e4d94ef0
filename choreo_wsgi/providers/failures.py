"""What a provider reports as an error, of whatever shape, as our caller is told of it.

The one reader of errors: for the body of a refusal, for an object inside a stream, and for a
document that came with status 200.  Shapes that were met::

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
from ..upstream.head import retry_after as retry_after
from .reading import find_error

#: Longest code, and longest name of a parameter, that is passed on.
_MAX_WORD = 200
#: Longest message, and longest piece of an unknown body, that is passed on.
_MAX_MESSAGE = 4000
_SHOWN = 500

_WORDS = (
    *("code", "type", "error_type", "errorType", "status", "error_code", "reason", "__type"),
    "Code",
)
_NUMBERS = (
    *("code", "status", "status_code", "statusCode", "http_status", "error_code", "StatusCode"),
)

#: The HTTP status that a word in an error stands for; the first that is found in it.
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
#: An error may come as an event of the stream that was asked for.
_EVENT = re.compile(r"^(event:.*\s+)?data:\s*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+")
#: Google's: a key of ours that is wrong is there an invalid argument, a 400.
_WRONG_KEY = "API_KEY_INVALID"
#: Servers that have no code for it say so in the words of OpenAI, vLLM, SGLang or llama.cpp.
_TOO_LONG = re.compile(
    r"maximum context length|context (length|size|window) (exceeded|is too)|"
    r"exceeds? the (available|model's|maximum) context|prompt is too long",
    re.I,
)
#: Returns the status and code that a status, headers, a message and its object really mean.
Meaning = Callable[[int, Mapping[str, str], str, Mapping[str, Json]], "tuple[int, str | None]"]
_NO_MONEY = re.compile(r"insufficient_quota|insufficient_credit|insufficient_balance")


def provider_error(
    error: Json, status: int | None = None, retry_after: float | None = None
) -> ChoreoError:
    """Return *error*, an object of whatever shape, as our caller is told of it.

    *status* is the answer's HTTP status; None where the error itself has to name one.
    *retry_after* is in seconds.
    """
    error = _within(error)
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    members = error if isinstance(error, dict) else {}
    message = error_words(error) or "the provider reported an error"
    words = _words(members)
    given = (word for name in _WORDS if isinstance(word := members.get(name), str))
    own = next((word[:_MAX_WORD] for word in given if word and not word.isdigit()), None)
    if any(word.startswith(("context_length", "exceed_context_size")) for word in words) or (
        status in (400, 413) and _TOO_LONG.search(message[:_MAX_MESSAGE])
    ):
        own = "context_length_exceeded"
    if status is None:
        status = next(_numbers(members), None) or named_status(members) or 502
    if any(map(_NO_MONEY.search, words)):
        own = "insufficient_quota"
    param = members.get("param")
    return from_provider(
        status,
        message[:_MAX_MESSAGE],
        code=own,
        param=param[:_MAX_WORD] if isinstance(param, str) else None,
        retry_after=retry_delay(members) if retry_after is None else retry_after,
    )


def _within(value: Json) -> Json:
    """Return the error that *value* reports, or *value*; the first of several."""
    found = find_error(value)
    found = value if found is None else found
    while isinstance(found, list) and found:
        found = found[0]
    return found


def retry_delay(error: Mapping[str, Json]) -> float | None:
    """Return the seconds to wait that a google.rpc.RetryInfo in an *error* names, or None."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (found := _SECONDS.fullmatch(delay)):
            return float(found[1])
    return None


def stream_error(told: Json) -> ChoreoError:
    """Return the error that *told*, of whatever shape, is with the status that its words mean."""
    members = told if isinstance(told, dict) else {}
    status = named_status(members) or next(_numbers(members), 502)
    message = error_words(told)[:_MAX_MESSAGE] or "the provider reported an error"
    return from_provider(status, message)


def read_body(body: bytes) -> tuple[str, dict[str, Json]]:
    """Return the message in the *body* of an error, and the object that it stood in.

    The message is ``""`` for an empty body and for HTML; a body of another kind is its own
    message, cut short.
    """
    shown = _EVENT.sub("", body.decode("utf-8-sig", "replace").strip())
    try:
        value = jsontext.parse(shown)
    except ValueError:
        return ("" if shown.startswith("<") else shown[:_SHOWN]), {}
    error = _within(value)
    message = error_words(error) or (shown[:_SHOWN] if value else "")
    return message, error if isinstance(error, dict) else value if isinstance(value, dict) else {}


def response_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    meaning: Meaning | None = None,
) -> ChoreoError:
    """Return what an answer means that is not what was asked for.

    The names in *headers* are in lower case; *now* is the time in seconds since 1970.  *meaning*
    is for errors whose words are not OpenAI's.
    """
    message, error = read_body(body)
    if 200 <= status < 300:
        if find_error(error) is not None or (error and "choices" not in error):
            return provider_error(error)
        said = ": it is empty" if not body.strip() else f": {message}" if message else ""
        if message[:1] in ("{", "["):
            said = ": JSON that is cut off, or of another kind"
        return UpstreamInvalid(f"the provider's answer is not what was asked for{said}")
    if status < 400:
        return UpstreamInvalid(f"the provider answered {status}, which is not followed")
    message = message or f"the provider answered {status}"
    wait = retry_after(headers, now)
    if meaning is None:
        return provider_error({**error, "error": None, "message": message}, status, wait)
    wait = retry_delay(error) if wait is None else wait
    status, code = meaning(status, headers, message, error)
    return from_provider(status, message, code=code, retry_after=wait)


def named_status(members: Mapping[str, Json]) -> int | None:
    """Return the HTTP status that a word in an error's *members* stands for, or None."""
    found = (status for word in _words(members) for part, status in _STATUSES if part.search(word))
    return next(found, None)


def _words(members: Mapping[str, Json]) -> list[str]:
    """Return the words for programs in an error, as ``not_found``, the surest first."""
    given = [members.get(name) for name in _WORDS]
    if _WRONG_KEY in str(members.get("details")):
        given.insert(0, _WRONG_KEY)
    # AWS has namespaces before a name, and pages behind it.
    names = (word.rpartition("#")[2].partition(":")[0] for word in given if isinstance(word, str))
    words = (_CAMEL.sub("_", name.strip()).lower() for name in names)
    return [word for word in words if word and not word.isdigit()]


def _numbers(members: Mapping[str, Json]) -> Iterator[int]:
    """Yield the HTTP statuses that an error has as numbers, the surest first."""
    for name in _NUMBERS:
        value = members.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value < 600:
            yield value
