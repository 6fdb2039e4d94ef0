"""The errors that callers receive, as classes with an HTTP status, a type and a code.

A class has a status of its own, or is caught, or raised by providers; the rest is ``code=``.

======================  ======  =========================  ==================================
class                   status  type                       codes, the class's own first
======================  ======  =========================  ==================================
ChoreoError             500     server_error               internal_error
ConfigurationError      500     server_error               configuration_error
InsufficientStorage     507     server_error               insufficient_storage
InvalidRequest          400     invalid_request_error      invalid_parameter_value, invalid_json,
                                                           missing_parameter, stream_cancelled,
                                                           invalid_parameter_type,
                                                           invalid_messages_format,
                                                           context_length_exceeded,
                                                           previous_response_not_found,
                                                           thread_unsupported_request
ModelNotFound           404     invalid_request_error      model_not_found
MethodNotAllowed        405     invalid_request_error      method_not_allowed
IdempotencyConflict     409     invalid_request_error      idempotency_conflict
StreamGone              410     invalid_request_error      stream_gone
LengthRequired          411     invalid_request_error      length_required
BodyTooLarge            413     invalid_request_error      body_too_large
UnsupportedMediaType    415     invalid_request_error      unsupported_media_type
AuthenticationError     401     authentication_error       invalid_api_key, missing_authorization,
                                                           malformed_authorization
PermissionDenied        403     permission_error           model_not_allowed, origin_not_allowed,
                                                           host_not_allowed
NotFound                404     not_found_error            endpoint_not_found, stream_not_found,
                                                           response_not_found
RateLimited             429     rate_limit_error           rate_limit_exceeded, quota_exceeded,
                                                           insufficient_quota
ProviderError           502     provider_error             provider_api_error,
                                                           provider_authentication_failed,
                                                           provider_payment_required,
                                                           provider_permission_denied
ProviderNotConfigured   502     provider_error             provider_not_configured
UpstreamTruncated       502     provider_error             upstream_truncated
UpstreamInvalid         502     provider_error             upstream_invalid
ProducerLost            502     provider_error             producer_lost
ProviderTimeout         504     provider_error             provider_timeout
Unavailable             503     service_unavailable_error  service_overloaded, server_shutting_down
Exhausted               503     service_unavailable_error  service_overloaded
ProviderUnavailable     503     service_unavailable_error  provider_service_unavailable
ReplayUnavailable       503     service_unavailable_error  replay_unavailable
======================  ======  =========================  ==================================

Every error has the body ``{"error": {"message", "type", "code", "param"}}``, the shape of
the OpenAI API, as an HTTP body and as the data of an error frame.
"""

from __future__ import annotations

import json
import math


class ChoreoError(Exception):
    """An error that is sent to the caller; *message* is for a person to read.

    *param* names the member of the request that is wrong, as ``messages[2].content``.
    *retry_after* is in seconds.  *retry* is whether the same request could succeed later:
    False sends ``x-should-retry: false``, which the OpenAI SDKs obey.  *status*, *type* and
    *code* replace those of the class where a provider's answer is more exact.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retry: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()  # more response headers, as Allow to a 405

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        retry: bool | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        own = {"status": status, "type": type, "code": code, "retry": retry}
        for name, value in {**own, "headers": headers or None}.items():
            if value is not None:
                setattr(self, name, value)

    def body(self) -> bytes:
        """Return the error object as compact JSON, one line."""
        error = {name: getattr(self, name) for name in ("message", "type", "code", "param")}
        # A provider's message may contain a lone surrogate, which UTF-8 cannot encode.
        text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    def response_headers(self) -> list[tuple[str, str]]:
        """Return the headers of the error as an HTTP response, without Content-Length."""
        headers = [("Content-Type", "application/json"), *self.headers]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(self.retry_after)))))
        if self.retry is not None:
            headers.append(("x-should-retry", "true" if self.retry else "false"))
        return headers


class ConfigurationError(ChoreoError):
    """The server's settings are wrong."""

    code = "configuration_error"
    retry = False


class InsufficientStorage(ChoreoError):
    """The server's disk has no room for the request's body."""

    status = 507
    code = "insufficient_storage"


class InvalidRequest(ChoreoError):
    """The request is invalid; repeating it will not help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_parameter_value"
    retry = False


class ModelNotFound(InvalidRequest):
    """No provider has a model of this name."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not with this method."""

    status = 405
    code = "method_not_allowed"


class IdempotencyConflict(InvalidRequest):
    """The Idempotency-Key was used before, with another body."""

    status = 409
    code = "idempotency_conflict"


class StreamGone(InvalidRequest):
    """The requested frames are no longer stored."""

    status = 410
    code = "stream_gone"


class LengthRequired(InvalidRequest):
    """The request's body has no length."""

    status = 411
    code = "length_required"


class BodyTooLarge(InvalidRequest):
    """The request's body is longer than ``max_body_bytes``."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The request's Content-Type is not JSON."""

    status = 415
    code = "unsupported_media_type"


class AuthenticationError(ChoreoError):
    """The caller has no API key, or an unknown one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    retry = False
    headers: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)


class PermissionDenied(ChoreoError):
    """The caller is not allowed to do this."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"
    retry = False


class NotFound(ChoreoError):
    """The endpoint does not exist, or the caller has no such stream or response."""

    status = 404
    type = "not_found_error"
    code = "endpoint_not_found"
    retry = False


class RateLimited(ChoreoError):
    """The caller, or this server at the provider, exceeded a rate limit."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ProviderError(ChoreoError):
    """The provider failed, or refused the request."""

    status = 502
    type = "provider_error"
    code = "provider_api_error"


class ProviderNotConfigured(ProviderError):
    """The model's provider has no key, or lacks another required setting."""

    code = "provider_not_configured"
    retry = False


class UpstreamTruncated(ProviderError):
    """The provider's answer ended before it was complete."""

    code = "upstream_truncated"


class UpstreamInvalid(ProviderError):
    """The provider's answer is not valid."""

    code = "upstream_invalid"


class ProducerLost(ProviderError):
    """The server process that produced the stream has ended."""

    code = "producer_lost"


class ProviderTimeout(ProviderError):
    """The provider took too long."""

    status = 504
    code = "provider_timeout"


class Unavailable(ChoreoError):
    """The server cannot accept the request right now."""

    status = 503
    type = "service_unavailable_error"
    code = "service_overloaded"


class Exhausted(Unavailable):
    """This process has run out of something, such as file descriptors."""


class ProviderUnavailable(Unavailable):
    """The provider is down or overloaded."""

    code = "provider_service_unavailable"


class ReplayUnavailable(Unavailable):
    """The store of resumable streams cannot be reached."""

    code = "replay_unavailable"


_SAME_MEANING: dict[int, type[ChoreoError]] = {
    404: ModelNotFound,
    413: BodyTooLarge,
    429: RateLimited,
    503: ProviderUnavailable,
    504: ProviderTimeout,
    529: ProviderUnavailable,  # Anthropic: overloaded
}
#: Statuses about the operator's account, as codes of a 502 that the caller should not retry.
_OPERATOR_ERRORS = {
    401: "provider_authentication_failed",
    402: "provider_payment_required",
    403: "provider_permission_denied",
}


def from_provider(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
) -> ChoreoError:
    """Return the error for our caller after a provider's HTTP *status* and *message*.

    400, 404, 413, 422 and 429 keep their meaning; 401, 402 and 403, which are about our key,
    become 502.  *code* and *param* are the provider's own, if any.
    """
    if status in (400, 422) or code == "context_length_exceeded":
        ours = 422 if status == 422 else 400
        return InvalidRequest(message, status=ours, code=code, param=param)
    if status in _OPERATOR_ERRORS:
        return ProviderError(message, code=_OPERATOR_ERRORS[status], param=param, retry=False)
    kind = _SAME_MEANING.get(status, ProviderError)
    code = code if kind in (ModelNotFound, RateLimited) else None
    retry = False if code == "insufficient_quota" else None
    return kind(message, code=code, param=param, retry_after=retry_after, retry=retry)
