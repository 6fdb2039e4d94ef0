"""What can go wrong, as classes that know their HTTP status, type and code.

::

    ChoreoError                        500 server_error
      InternalError                        internal_error
      ConfigurationError                   configuration_error
      InvalidRequest                   400 invalid_request_error
        InvalidJSON                        invalid_json
        MissingParameter                   missing_parameter
        InvalidType                        invalid_parameter_type
        InvalidValue                       invalid_parameter_value
        InvalidMessages                    invalid_messages_format
        ContextLengthExceeded              context_length_exceeded
        ModelNotFound                  404 model_not_found
        MethodNotAllowed               405 method_not_allowed
        IdempotencyConflict            409 idempotency_conflict
        StreamGone                     410 stream_gone
        LengthRequired                 411 length_required
        BodyTooLarge                   413 body_too_large
        UnsupportedMediaType           415 unsupported_media_type
        StreamCancelled                    stream_cancelled (only in a frame)
      AuthenticationError              401 authentication_error
        MissingAuthorization               missing_authorization
        MalformedAuthorization             malformed_authorization
        InvalidAPIKey                      invalid_api_key
      PermissionDenied                 403 permission_error
        ModelNotAllowed                    model_not_allowed
        OriginNotAllowed                   origin_not_allowed
        HostNotAllowed                     host_not_allowed
      NotFound                         404 not_found_error
        EndpointNotFound                   endpoint_not_found
        StreamNotFound                     stream_not_found
      RateLimited                      429 rate_limit_error
        RateLimitExceeded                  rate_limit_exceeded
        QuotaExceeded                      quota_exceeded
      ProviderError                    502 provider_error
        ProviderAPIError                   provider_api_error
        ProviderNotConfigured              provider_not_configured
        UpstreamTruncated                  upstream_truncated
        UpstreamInvalid                    upstream_invalid
        ProducerLost                       producer_lost
        ProviderTimeout                504 provider_timeout
      Unavailable                      503 service_unavailable_error
        Overloaded                         service_overloaded
        ShuttingDown                       server_shutting_down
        ProviderUnavailable                provider_service_unavailable
        ReplayUnavailable                  replay_unavailable

Every error has the body ``{"error": {"message", "type", "code", "param"}}``, the shape of
the OpenAI API, as an HTTP body and as the data of an error frame.
"""

from __future__ import annotations

import json
import math


class ChoreoError(Exception):
    """An error that a caller is told about; *message* is for a person to read.

    *param* names the field of the request that is at fault, as ``messages[2].content``.
    *retry_after* is in seconds.  *retry* is whether the same request could succeed later:
    False sends ``x-should-retry: false``, which the OpenAI SDKs obey.  *status*, *type* and
    *code* stand in for the class's own where a provider's answer says it better.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    retry: bool | None = None

    #: More response headers that belong to the error, as ``Allow`` to a 405.
    headers: tuple[tuple[str, str], ...] = ()

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
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type
        if code is not None:
            self.code = code
        if retry is not None:
            self.retry = retry
        if headers:
            self.headers = headers

    def body(self) -> bytes:
        """Return the error object as compact JSON, one line."""
        error = {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
        }
        # A provider's message may hold a lone surrogate, which UTF-8 cannot carry.
        text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    def response_headers(self) -> list[tuple[str, str]]:
        """Return the headers of the plain HTTP answer, without Content-Length."""
        headers = [("Content-Type", "application/json"), *self.headers]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(self.retry_after)))))
        if self.retry is not None:
            headers.append(("x-should-retry", "true" if self.retry else "false"))
        return headers


class InternalError(ChoreoError):
    """A fault of ours; the message says nothing about the inside."""


class ConfigurationError(ChoreoError):
    """The server's settings are wrong."""

    code = "configuration_error"
    retry = False


class InvalidRequest(ChoreoError):
    """The request is wrong and will stay so."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_parameter_value"
    retry = False


class InvalidJSON(InvalidRequest):
    """The body is not the JSON that can be accepted."""

    code = "invalid_json"


class MissingParameter(InvalidRequest):
    """A required field is not there."""

    code = "missing_parameter"


class InvalidType(InvalidRequest):
    """A field has the wrong JSON type."""

    code = "invalid_parameter_type"


class InvalidValue(InvalidRequest):
    """A field has the right type and an impossible value."""


class InvalidMessages(InvalidRequest):
    """The conversation is not one."""

    code = "invalid_messages_format"


class ContextLengthExceeded(InvalidRequest):
    """The conversation is longer than the model can read."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """No provider takes this model name."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class IdempotencyConflict(InvalidRequest):
    """The Idempotency-Key was used before, with another body."""

    status = 409
    code = "idempotency_conflict"


class StreamGone(InvalidRequest):
    """The stream's retained window begins after the asked number."""

    status = 410
    code = "stream_gone"


class LengthRequired(InvalidRequest):
    """A body without a length."""

    status = 411
    code = "length_required"


class BodyTooLarge(InvalidRequest):
    """The body is over ``max_body_bytes``."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not declared as JSON."""

    status = 415
    code = "unsupported_media_type"


class StreamCancelled(InvalidRequest):
    """The stream was stopped by a DELETE; only ever the data of a frame."""

    code = "stream_cancelled"


class AuthenticationError(ChoreoError):
    """The caller is not known."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    retry = False
    headers: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)


class MissingAuthorization(AuthenticationError):
    """No Authorization header."""

    code = "missing_authorization"


class MalformedAuthorization(AuthenticationError):
    """The Authorization header is not ``Bearer KEY``."""

    code = "malformed_authorization"


class InvalidAPIKey(AuthenticationError):
    """The key is not one of ours."""


class PermissionDenied(ChoreoError):
    """The caller may not do this."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"
    retry = False


class ModelNotAllowed(PermissionDenied):
    """This key may not use the model."""


class OriginNotAllowed(PermissionDenied):
    """A web page of this origin may not call."""

    code = "origin_not_allowed"


class HostNotAllowed(PermissionDenied):
    """Without API keys only callers on this machine are served."""

    code = "host_not_allowed"


class NotFound(ChoreoError):
    """There is nothing of this name."""

    status = 404
    type = "not_found_error"
    code = "endpoint_not_found"
    retry = False


class EndpointNotFound(NotFound):
    """No route has this path."""


class StreamNotFound(NotFound):
    """No stream of this id that the caller may read."""

    code = "stream_not_found"


class RateLimited(ChoreoError):
    """Too much, too fast."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class RateLimitExceeded(RateLimited):
    """More requests or tokens in a time than allowed."""


class QuotaExceeded(RateLimited):
    """The allowance is used up."""

    code = "quota_exceeded"
    retry = False


class ProviderError(ChoreoError):
    """The provider did not do what was asked of it."""

    status = 502
    type = "provider_error"
    code = "provider_api_error"


class ProviderAPIError(ProviderError):
    """The provider answered with an error."""


class ProviderNotConfigured(ProviderError):
    """The model's provider has no key."""

    code = "provider_not_configured"
    retry = False


class UpstreamTruncated(ProviderError):
    """The provider's stream ended before its end."""

    code = "upstream_truncated"


class UpstreamInvalid(ProviderError):
    """The provider's answer cannot be read."""

    code = "upstream_invalid"


class ProducerLost(ProviderError):
    """The server that was producing the stream is gone."""

    code = "producer_lost"


class ProviderTimeout(ProviderError):
    """The provider took too long."""

    status = 504
    code = "provider_timeout"


class Unavailable(ChoreoError):
    """Not now."""

    status = 503
    type = "service_unavailable_error"
    code = "service_overloaded"


class Overloaded(Unavailable):
    """All stream slots are taken."""


class ShuttingDown(Unavailable):
    """The server is going down."""

    code = "server_shutting_down"


class ProviderUnavailable(Unavailable):
    """The provider is down or overloaded."""

    code = "provider_service_unavailable"


class ReplayUnavailable(Unavailable):
    """The store of resumable streams cannot be reached."""

    code = "replay_unavailable"


_KEPT: dict[int, type[ChoreoError]] = {
    404: ModelNotFound,
    413: BodyTooLarge,
    429: RateLimitExceeded,
    503: ProviderUnavailable,
    504: ProviderTimeout,
    529: ProviderUnavailable,  # Anthropic: overloaded
}
#: A caller's own fault, which another try or another target would not mend.
CALLER_FAULTS: frozenset[int] = frozenset((400, 404, 413, 422))


def from_provider(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    retry_after: float | None = None,
) -> ChoreoError:
    """Return the error that a provider's HTTP *status* and *message* mean for our caller.

    400, 404, 413, 422 and 429 keep their meaning.  401 and 403 become 502: the caller's
    key was fine, ours was not.  *code* and *param* are the provider's own, when it gave any.
    """
    if code == "context_length_exceeded":
        return ContextLengthExceeded(message, param=param)
    if status in (400, 422):
        return InvalidRequest(message, status=status, code=code, param=param)
    kind = _KEPT.get(status, ProviderAPIError)
    keep = code if kind in (ModelNotFound, RateLimitExceeded) else None
    return kind(message, code=keep, param=param, retry_after=retry_after)
