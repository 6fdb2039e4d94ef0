"""Azure OpenAI: OpenAI's API at the customer's own endpoint, with deployments of models.

The API has two forms: ``/openai/v1``, and with an ``api_version`` the older
``/openai/deployments/{model}``; see
https://learn.microsoft.com/en-us/azure/ai-foundry/openai/api-version-lifecycle.
The model of a request is the name of the deployment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from ...errors import ConfigurationError
from ...settings import Settings, setting
from ..facts import BUILT_IN
from .provider import OpenAI

_VERSIONS = ("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION")


class Azure(OpenAI):
    """Deployments at Azure OpenAI."""

    type = "azure"
    facts = BUILT_IN["azure"]
    strict = True

    @dataclass(frozen=True)
    class Options(OpenAI.Options):
        """The settings of a section whose type is ``azure``."""

        base_url: str = setting("", "the endpoint, as https://NAME.openai.azure.com")
        api_version: str = setting("", "as 2024-10-21; empty: the API /openai/v1, without versions")

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        super().__init__(name, options, settings)
        if not (self.options.api_version or self.options.apis):  # /openai/v1 has Responses
            self.apis |= {"responses"}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options set in the environment; none without an endpoint."""
        options = super().from_environment(environment)
        base_url = options.get("base_url") or environment.get("AZURE_OPENAI_BASE_URL")
        if not base_url:
            return {}
        options["base_url"] = base_url
        versions = [environment[name] for name in _VERSIONS if environment.get(name)]
        return {**options, "api_version": versions[0]} if versions else options

    def check(self) -> None:
        """Raise ConfigurationError without an endpoint or a key, or for a bad ``api_version``."""
        missing = [name for name in ("base_url", "api_key") if not getattr(self.options, name)]
        if missing:
            raise ConfigurationError(f"provider {self.name}: azure needs {' and '.join(missing)}")
        version = self.options.api_version
        if not re.fullmatch(r"(\d{4}-\d\d-\d\d)?(-?preview)?|latest", version, re.ASCII):
            text = f"provider {self.name}: api_version: {version!r} is not like 2024-10-21"
            raise ConfigurationError(text)

    def request_headers(self) -> dict[str, str]:
        """Return the headers of every request; the key is sent in ``api-key``."""
        headers, key = super().request_headers(), str.__str__(self.options.api_key)
        if headers.get("Authorization") == f"Bearer {key}":  # not one of the settings
            del headers["Authorization"]
            headers["api-key"] = key
        return headers

    def url(self, path: str, model: str) -> str:
        """Return the URL of *path* for the deployment *model*."""
        base = self._base_url.removesuffix("/v1").removesuffix("/openai") + "/openai"
        version = self.options.api_version
        if not version:
            return f"{base}/v1{path}"
        return f"{base}/deployments/{quote(model, safe='')}{path}?api-version={quote(version)}"

    def models(self) -> list[str]:
        """Return an empty list: the API lists models, not the names of deployments."""
        return []
