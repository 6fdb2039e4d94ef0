"""The port that every provider of completions implements.

A :class:`Provider` opens a :class:`~choreo_wsgi.chat.source.Source` for a request, which returns
items as they arrive.  Nothing else is required.  A provider whose upstream already sends the bytes
that the client gets (an OpenAI-compatible one) overrides :meth:`Provider.answer` too.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from ..chat.items import Finish, Usage
from ..chat.source import Reply, Source, from_deltas
from ..errors import ProviderNotConfigured
from ..late import Late
from ..settings import Secret, Settings, parse_options, setting
from .facts import Facts

if TYPE_CHECKING:
    from ..chat import answer as answers
    from ..chat import choices, restoring
    from ..chat.answer import AnswerWriter
    from ..chat.request import ChatRequest
else:
    answers = Late("choreo_wsgi.chat.answer")
    choices = Late("choreo_wsgi.chat.choices")
    restoring = Late("choreo_wsgi.chat.restoring")


@dataclass(frozen=True)
class SectionOptions:
    """The settings of every ``[provider NAME]`` section, besides those of its type."""

    type: str = setting("", "the provider's type; its name if not given")
    models: tuple[str, ...] = setting((), "names it answers: name, name = upstream-name, or *")
    priority: int = setting(
        0, "the lowest is tried first; without it and a weight the order of the sections counts"
    )
    weight: float = setting(1.0, "share among providers of the same priority", minimum=0)


COMMON = tuple(vars(SectionOptions()))


class Provider(ABC):
    """A provider of chat completions; *name* is from its section, ``[provider NAME]``.

    A subclass sets its *type* and declares its settings in a frozen dataclass ``Options``
    made of :func:`choreo_wsgi.settings.setting` fields.
    """

    type: ClassVar[str]
    #: Which of ``n``, ``stop`` and ``max_tokens`` :meth:`open` applies itself.  The rest is applied
    #: here: several sources are opened, the text is cut, the pieces of text are counted.
    native: ClassVar[frozenset[str]] = frozenset()

    #: Whether the provider accepts stop strings without a visible character.
    blank_stops: ClassVar[bool] = True

    #: Whether :meth:`open` may block, as for a lookup or the start of a process.
    blocking: bool = True

    #: Whether :meth:`open` accepts requests with marks (placeholders of long texts), see
    #: :func:`~choreo_wsgi.chat.restoring.restore_request`.
    takes_marks: ClassVar[bool] = False

    #: The APIs besides chat that the upstream itself speaks: its bytes are forwarded.
    apis: frozenset[str] = frozenset()

    #: The environment variables of its key and base URL, among others.
    facts: ClassVar[Facts] = Facts()

    #: The class and options that it was made from: if a reload changes neither, it is kept.
    made_from: tuple[Any, Mapping[str, str]] | None = None

    @dataclass(frozen=True)
    class Options:
        """A provider without settings of its own."""

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.options: Any = parse_options(self.Options, options, f"provider {name}", COMMON)
        #: Matches the options of the type Secret and the values of headers: no error shows them.
        self.secrets = _secrets_in(self.options)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options that *environment* sets; empty if it does not configure this type."""
        options = {}
        if key := next((environment[name] for name in cls.facts.keys if environment.get(name)), ""):
            options["api_key"] = key
        if url := environment.get(cls.facts.base_url, ""):
            options["base_url"] = url
        return options

    @abstractmethod
    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*; must not wait for the answer.

        ``request.model`` is the model's name at this provider.  Raises ChoreoError for a request
        that is rejected without asking the upstream.
        """

    def label(self, model: str) -> str:
        """Return the value of the header ``Choreo-Provider`` for *model*."""
        return f"{self.name}/{model}"

    def models(self) -> list[str]:
        """Return the names of the models that the provider itself lists."""
        return []

    def calls(self, request: ChatRequest) -> int:
        """Return the number of upstream calls that *request* makes at once."""
        return 1 if "n" in self.native else request.n

    def forwards(self, api: str, model: str) -> bool:
        """Whether requests for *model* in the format of *api* are forwarded, not translated."""
        return api in self.apis

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Begin to answer *request* with a stream or a document in the format of *writer*."""
        if request.native_only is not None:
            raise request.native_only
        request = self.restored(request)
        return answers.Answer(self._open(request), writer, request.n, self.label(request.model))

    def restored(self, request: ChatRequest) -> ChatRequest:
        """Return *request* with the long strings that :meth:`open` reads in place of marks."""
        return restoring.restore_request(request) if self.takes_marks else request.whole()

    def check(self) -> None:
        """Raise ConfigurationError if the options can never work.

        Called at start; must not use the network.
        """

    def lacks_key(self) -> bool:
        """Return whether a key is required and there is none."""
        facts, options = self.facts, self.options
        needed = facts.keys and facts.needs_key and not options.api_key
        return bool(needed) and facts.home in ("", (options.base_url or facts.home).rstrip("/"))

    def key(self) -> str:
        """Return the provider's key; raises ProviderNotConfigured if there is none."""
        if not self.options.api_key:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set {' or '.join(self.facts.keys)}"
            )
        return str(self.options.api_key)

    def preload(self) -> None:
        """Do the work that would otherwise delay the first request."""

    def close(self) -> None:
        """Free the provider's resources: pooled connections, a process."""

    def _open(self, request: ChatRequest) -> Source:
        """Open *request* and apply the parameters that are not in :attr:`native`."""
        if request.n == 1 or "n" in self.native:
            return self._limited(request, request.n)
        sources: list[Source] = []
        seed = request.body.get("seed")  # the same seed would make all choices equal
        try:
            for number in range(request.n):
                more = {} if seed is None else {"seed": seed + number}
                one = replace(request, n=1, body={**request.body, **more})
                sources.append(self._limited(one, 1))
        except BaseException:
            choices.Interleaved(sources).close()
            raise
        return choices.Interleaved(sources)

    def _limited(self, request: ChatRequest, n: int) -> Source:
        if request.max_tokens == 0 and "max_tokens" not in self.native:
            return empty_answer(n)
        source = self.open(request)
        stops = request.stop
        if "stop" in self.native:
            stops = () if self.blank_stops else tuple(stop for stop in stops if not stop.strip())
        limit = None if "max_tokens" in self.native else request.max_tokens
        if stops or limit is not None:
            source = choices.Limited(source, stops, limit, n)
        return source


def empty_answer(n: int) -> Source:
    """Return an empty answer: few providers accept a request for no tokens."""
    return from_deltas([*(Finish("length", index) for index in range(n)), Usage()])


def _secrets_in(options: object) -> re.Pattern[str]:
    """Return a pattern for the secrets in *options*, as they are and as others may encode them."""
    forms: set[str] = set()
    for value in vars(options).values():
        for each in value if isinstance(value, tuple) else (value,):
            text = str.__str__(each) if isinstance(each, Secret) else ""
            for word in (text, *text.partition(":")[2].split()):
                if len(word) >= 8:  # a shorter key could be any word
                    in_base64 = b64encode(word.encode()).decode().rstrip("=")
                    forms |= {word, quote(word, safe=""), word.replace("/", r"\/"), in_base64}
    longest_first = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)", re.IGNORECASE)
