"""Which provider answers for which model name.

Looked at in this order, the first that takes the name decides:

1. the names in the ``models`` lists of the ``[provider NAME]`` sections, then their patterns;
2. ``NAME/model``, with the name of a provider;
3. ``echo``;
4. without any section: the name patterns of the providers that have a key in the
   environment, then a base URL of one's own (``OPENAI_BASE_URL``);
5. ``default_model``.

:mod:`~choreo_wsgi.providers.building` makes a router from the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from ..errors import ModelNotFound, ProviderNotConfigured
from ..late import Late
from .base import Provider
from .facts import BUILT_IN

if TYPE_CHECKING:
    from ..chat import checks
else:
    checks = Late("choreo_wsgi.chat.checks")


@dataclass(frozen=True)
class Target:
    """One provider for a model, and the model's name there.

    As a rule it is for all models that *name* stands for, a pattern perhaps; *model* is empty
    where their names stay.
    """

    provider: Provider
    model: str
    priority: int = 0
    weight: float = 1.0
    name: str = ""

    @cached_property
    def label(self) -> str:
        """Who answers, as ``provider/model``."""
        return self.provider.label(self.model)

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for several."""
        return "*" in self.name

    def target(self, asked: str) -> Target:
        """Return what the rule comes to for the model name *asked*."""
        return replace(self, model=self.model or asked)


@dataclass(eq=False)
class Router:
    """The *providers* by name, the *rules* between them, in order, and the *default* target.

    *sections* says whether the configuration has provider sections; without any, a model of a
    built-in type that has no key is told apart from one that nobody knows.
    """

    providers: Mapping[str, Provider]
    rules: Sequence[Target]
    default: Target | None = None
    sections: bool = True

    def __post_init__(self) -> None:
        #: Found once for each name that is asked for.
        self.targets = lru_cache(1024)(self._targets)

    def _targets(self, model: str) -> Sequence[Target]:
        """Return who may answer for *model*, those of the lowest priority number first.

        Raises ModelNotFound, and ProviderNotConfigured when the name is of a provider whose
        key is not set.
        """
        if len(model) > checks.MAX_MODEL_NAME:
            raise ModelNotFound("no model has so long a name", param="model")
        found = self.match(model)
        if found:
            return sorted(found, key=lambda target: target.priority)
        if self.default is not None:
            return [self.default]
        if not self.sections:
            self._missing_key(model)
        raise ModelNotFound(
            f"no provider answers for the model {model[:200]!r}: GET /v1/models lists the names, "
            "and the setting default_model says what answers all others (local: the local model)",
            param="model",
        )

    def match(self, model: str) -> list[Target]:
        """Return who answers for *model* without the default, in the order of the rules."""
        exact = [rule.target(model) for rule in self.rules if rule.name == model]
        if exact:
            return exact
        name, slash, rest = model.partition("/")
        if slash and rest and name in self.providers:
            return [Target(self.providers[name], rest)]
        for rule in self.rules:
            if rule.is_pattern and fnmatchcase(model, rule.name):
                same = [other for other in self.rules if other.name == rule.name]
                return [other.target(model) for other in same]
        return []

    def _missing_key(self, model: str) -> None:
        """Raise ProviderNotConfigured if *model* is of a provider without its key."""
        prefix = model.partition("/")[0]
        for type, facts in BUILT_IN.items():
            if not facts.keys or type in self.providers:
                continue
            named = "/" in model and prefix == type
            if named or any(fnmatchcase(model, pattern) for pattern in facts.patterns):
                variables = " or ".join(facts.keys)
                raise ProviderNotConfigured(
                    f"the model {model[:200]!r} is answered by {type}, which has no key: "
                    f"set {variables}",
                    param="model",
                )

    def models(self) -> dict[str, str]:
        """Return the model names that can be asked for, each with who answers it."""
        listed: dict[str, str] = {}
        for rule in self.rules:
            if not rule.is_pattern:
                listed.setdefault(rule.name, rule.target(rule.name).label)
        for rule in self.rules:
            if rule.is_pattern:
                for name in rule.provider.models():
                    if fnmatchcase(name, rule.name):
                        listed.setdefault(name, rule.provider.label(name))
        if self.default is not None:
            listed.setdefault(self.default.label, self.default.label)
        return listed

    def describe(self) -> list[tuple[str, str]]:
        """Return each name or pattern with who answers it, for a person to read."""
        rows = [
            (rule.name, rule.provider.name if rule.is_pattern else rule.target(rule.name).label)
            for rule in self.rules
        ]
        named = {rule.provider.name for rule in self.rules}
        for name, provider in self.providers.items():
            default = self.default is not None and provider is self.default.provider
            if name not in named and not default:
                rows.append((f"{name}/*", name))
        if self.default is not None:
            rows.append(("any other name", self.default.label))
        return rows

    def close(self) -> None:
        for provider in self.providers.values():
            provider.close()
