"""The port that every provider of completions implements.

A :class:`Provider` opens a :class:`~choreo_wsgi.chat.source.Source` for a request: something that
hands over items as they come.  That is all a provider needs to do.  One whose bytes already are
what the caller gets (an OpenAI-compatible upstream) overrides :meth:`Provider.answer` too.
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
    from ..chat import aside, choices
    from ..chat.answer import AnswerWriter
    from ..chat.request import ChatRequest
else:
    answers = Late("choreo_wsgi.chat.answer")
    aside = Late("choreo_wsgi.chat.aside")
    choices = Late("choreo_wsgi.chat.choices")


@dataclass(frozen=True)
class SectionOptions:
    """The settings that every ``[provider NAME]`` has, beside those of its type."""

    type: str = setting("", "the provider's type; its name if not given")
    models: tuple[str, ...] = setting((), "names it answers: name, name = upstream-name, or *")
    priority: int = setting(
        0, "the lowest is tried first; without it and a weight the order of the sections counts"
    )
    weight: float = setting(1.0, "share among providers of the same priority", minimum=0)


COMMON = tuple(vars(SectionOptions()))


class Provider(ABC):
    """Answers chat completions; *name* is the instance's, from ``[provider NAME]``.

    A class names its *type* and describes its settings in a frozen dataclass ``Options``
    made of :func:`choreo_wsgi.settings.setting` fields.
    """

    type: ClassVar[str]
    #: Which of ``n``, ``stop`` and ``max_tokens`` :meth:`open` honours itself.  The others are
    #: done here: that many sources at once, the text cut, the pieces of text counted.
    native: ClassVar[frozenset[str]] = frozenset()

    #: Whether the provider takes stop strings without a visible character.
    blank_stops: ClassVar[bool] = True

    #: Whether :meth:`open` may block: it looks something up, starts a process, is not known.
    blocking: bool = True

    #: Whether :meth:`open` may be given marks for what is only told, see
    #: :func:`~choreo_wsgi.chat.aside.restore_request`.
    takes_marks: ClassVar[bool] = False

    #: The APIs beside chat that the upstream itself speaks: answered with its own bytes.
    apis: frozenset[str] = frozenset()

    #: The environment variables of its key and of its base URL.
    facts: ClassVar[Facts] = Facts()

    #: The class and options it was made from: with the same ones it outlives a reload.
    made_from: tuple[Any, Mapping[str, str]] | None = None

    @dataclass(frozen=True)
    class Options:
        """A provider without settings of its own."""

    def __init__(self, name: str, options: Mapping[str, str], settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.options: Any = parse_options(self.Options, options, f"provider {name}", COMMON)
        #: Finds what no error may show: options of the type Secret; of headers their values too.
        self.secrets = _finder(self.options)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the options that the environment sets; empty when it configures nothing."""
        options = {}
        if key := next((environment[name] for name in cls.facts.keys if environment.get(name)), ""):
            options["api_key"] = key
        if url := environment.get(cls.facts.base_url, ""):
            options["base_url"] = url
        return options

    @abstractmethod
    def open(self, request: ChatRequest) -> Source:
        """Begin to answer *request*; must not wait for the answer.

        ``request.model`` is the model's name as this provider knows it.  Raises ChoreoError
        for what can be told at once.
        """

    def label(self, model: str) -> str:
        """Return who answers for *model*, for the header ``Choreo-Provider``."""
        return f"{self.name}/{model}"

    def models(self) -> list[str]:
        """Return the names of models that this provider offers by itself."""
        return []

    def calls(self, request: ChatRequest) -> int:
        """Return how many answers are under way at once for *request*."""
        return 1 if "n" in self.native else request.n

    def answer(self, request: ChatRequest, writer: AnswerWriter) -> Reply:
        """Begin to answer *request*, as a stream or as one document, in the words of *writer*."""
        if request.native_only is not None:
            raise request.native_only
        request = aside.restore_request(request) if self.takes_marks else request.whole()
        return answers.Answer(self._open(request), writer, request.n, self.label(request.model))

    def check(self) -> None:
        """Raise ConfigurationError if the options of a section can never work.

        Called at start; asks nobody over the network.
        """

    def lacks_key(self) -> bool:
        """Return whether there is no key and nothing can be had without one."""
        facts, options = self.facts, self.options
        needed = facts.keys and facts.needs_key and not options.api_key
        return bool(needed) and facts.home in ("", (options.base_url or facts.home).rstrip("/"))

    def key(self) -> str:
        """Return the provider's key; raises ProviderNotConfigured when there is none."""
        if not self.options.api_key:
            raise ProviderNotConfigured(
                f"provider {self.name!r} has no key: set {' or '.join(self.facts.keys)}"
            )
        return str(self.options.api_key)

    def preload(self) -> None:
        """Do now what would hold up the first request."""

    def close(self) -> None:
        """Free what the provider holds: pooled connections, a process."""

    def _open(self, request: ChatRequest) -> Source:
        """Open *request* and do what :attr:`native` says that :meth:`open` does not."""
        if request.n == 1 or "n" in self.native:
            return self._limited(request, request.n)
        sources: list[Source] = []
        seed = request.body.get("seed")  # with the same one all would be the same
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
            return nothing(n)
        source = self.open(request)
        stops = request.stop
        if "stop" in self.native:
            stops = () if self.blank_stops else tuple(stop for stop in stops if not stop.strip())
        limit = None if "max_tokens" in self.native else request.max_tokens
        if stops or limit is not None:
            source = choices.Shortened(source, stops, limit, n)
        return source


def nothing(n: int) -> Source:
    """Return the answer to a request for no tokens, which few providers take: ``length``."""
    return from_deltas([*(Finish("length", index) for index in range(n)), Usage()])


def _finder(options: object) -> re.Pattern[str]:
    """Return what finds the secrets in *options*, as they are and as others may write them."""
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
