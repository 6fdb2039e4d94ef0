"""All names that a provider needs, in one import line.

A provider answers chat completions.  It is a subclass of :class:`Provider` whose ``open`` returns
a :class:`Source`, or of :class:`HTTPProvider` whose ``encode`` makes a request and whose
``translator`` reads the bytes of the answer.  The providers of this package use the same names.
docs/providers.rst has complete examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..chat.items import Delta, Finish, Item, Json, ToolCall, Usage, dump
from ..chat.source import Source, from_deltas
from ..errors import (
    ChoreoError,
    ConfigurationError,
    InvalidRequest,
    ProviderNotConfigured,
    UpstreamInvalid,
    UpstreamTruncated,
    from_provider,
)
from ..late import Late
from ..settings import Secret, Settings, setting
from ..upstream.request import HTTPRequest
from .base import Provider

if TYPE_CHECKING:
    from ..chat.request import ChatRequest
    from .http import HTTPProvider
    from .translating import EventTranslator, Translator

__all__ = [
    "ChatRequest",
    "ChoreoError",
    "ConfigurationError",
    "Delta",
    "EventTranslator",
    "Finish",
    "HTTPProvider",
    "HTTPRequest",
    "InvalidRequest",
    "Item",
    "Json",
    "Provider",
    "ProviderNotConfigured",
    "Secret",
    "Settings",
    "Source",
    "ToolCall",
    "Translator",
    "UpstreamInvalid",
    "UpstreamTruncated",
    "Usage",
    "dump",
    "from_deltas",
    "from_provider",
    "setting",
]

_translating = Late("choreo_wsgi.providers.translating")
#: Loaded at first use: OpenAI's provider, which relays bytes, needs none of the translators.
_LATE = {
    "ChatRequest": Late("choreo_wsgi.chat.request"),
    "EventTranslator": _translating,
    "HTTPProvider": Late("choreo_wsgi.providers.http"),
    "Translator": _translating,
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_LATE[name], name)
