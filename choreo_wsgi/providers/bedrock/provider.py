"""Amazon Bedrock, through its Converse API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session

from ...chat.answer import AnswerWriter
from ...chat.source import Reply
from ...settings import did_you_mean
from .. import (
    ChatRequest,
    ConfigurationError,
    HTTPProvider,
    HTTPRequest,
    Json,
    ProviderNotConfigured,
    Secret,
    Settings,
    Translator,
    native,
    setting,
)
from ..facts import BUILT_IN, CAPABILITIES
from . import request as bedrock_request
from .answer import BedrockTranslator, EventReader, unwrap


class Bedrock(HTTPProvider):
    """Models on Amazon Bedrock.

    Needs botocore, which the extra ``bedrock`` installs.  It decodes the binary events and, if no
    API key (bearer token) is set, signs requests (SigV4) with the credentials that it finds in
    AWS's usual places.
    """

    type = "bedrock"
    apis = frozenset(("messages",))
    facts = BUILT_IN["bedrock"]
    takes_marks = True
    blank_stops = False
    # ToolSpecification.name; the ids of calls allow more characters.
    tool_names = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
    too_long = re.compile("too long")

    @dataclass(frozen=True)
    class Options:
        """The settings of a section whose type is ``bedrock``."""

        api_key: Secret = setting("", "bearer token; without one requests are signed")
        region: str = setting("us-east-1", "AWS region")
        base_url: str = setting("", "address, instead of the region's")
        profile: str = setting("", "profile of the AWS configuration files to sign with")
        capabilities: tuple[str, ...] = setting((), CAPABILITIES)

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        # To find credentials botocore reads files, runs processes and sends requests.
        self.blocking = not self.options.api_key

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options from the environment: a key, or a region if it can sign requests."""
        options = super().from_environment(environment)
        signing = environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")
        if not options and not signing:
            return {}
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        return {"region": region or cls.Options().region, **options}

    def check(self) -> None:
        """Raise ConfigurationError for an invalid region or an unknown profile."""
        region, profile = self.options.region, self.options.profile
        if not re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}", region, re.ASCII):
            text = f"provider {self.name}: region: {region!r} is not a region such as us-east-1"
            raise ConfigurationError(text)
        if profile and profile not in (known := Session().available_profiles):
            near = did_you_mean(profile, known)
            text = f"provider {self.name}: profile: no {profile!r} in the AWS files{near}"
            raise ConfigurationError(text)

    def forwards(self, api: str, model: str) -> bool:
        """Whether requests for *model* in the format of *api* are forwarded: those of Claude."""
        return super().forwards(api, model) and "anthropic." in model

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Start the answer: Claude's own events for the Messages API, else items."""
        if request.threaded or not self.forwards(writer.api, request.model):
            return super().answer(request, writer)
        unwrapping = partial(unwrap, EventReader(self.settings.max_event_bytes))
        operation = "invoke-with-response-stream" if request.stream else "invoke"
        sent = self._post(request, operation, bedrock_request.invocation(request))
        return native.forward(
            self, request, writer, sent, unwrapping if request.stream else None, events=False
        )

    def encode(self, request: ChatRequest) -> HTTPRequest:
        """Return ``POST /model/{id}/converse-stream`` for *request*; see :meth:`signed`."""
        body = bedrock_request.body(request, self.capabilities(request.model))
        return self._post(request, "converse-stream", body)

    def _post(self, request: ChatRequest, operation: str, body: dict[str, Json]) -> HTTPRequest:
        options = self.options
        base = options.base_url or f"https://bedrock-runtime.{options.region}.amazonaws.com"
        url = f"{base.rstrip('/')}/model/{quote(request.model, safe='')}/{operation}"
        accept = "json" if operation == "invoke" else "vnd.amazon.eventstream"
        return self.post(url, {"accept": f"application/{accept}"}, body, request.marks)

    def signed(self, sent: HTTPRequest) -> HTTPRequest:
        """Return *sent* with the bearer token, or with a signature of the whole request."""
        if self.options.api_key:
            headers = {**sent.headers, "authorization": f"Bearer {self.options.api_key!s}"}
            return replace(sent, headers=headers)
        signed = AWSRequest(sent.method, sent.url, dict(sent.headers))
        frozen = self._credentials.get_frozen_credentials()
        auth = SigV4Auth(frozen, "bedrock", self.options.region)
        digest = sha256()
        for piece in sent.pieces:
            digest.update(piece)
        auth.payload = lambda request: digest.hexdigest()  # it wants the body as a whole
        auth.add_auth(signed)
        headers = {name.lower(): value for name, value in signed.headers.items()}
        return replace(sent, headers=headers)

    @cached_property
    def _credentials(self) -> Any:
        credentials = Session(profile=self.options.profile or None).get_credentials()
        if credentials is None:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set AWS_BEARER_TOKEN_BEDROCK, or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return credentials

    def translator(self, request: ChatRequest) -> Translator:
        return BedrockTranslator(self.settings.max_event_bytes)

    def meaning(
        self, status: int, headers: Mapping[str, str], message: str, error: Mapping[str, Json]
    ) -> tuple[int, str | None]:
        """Return the status and code of an error; a header has its name."""
        error = {"code": headers.get("x-amzn-errortype"), **error}
        return super().meaning(status, headers, message, error)
