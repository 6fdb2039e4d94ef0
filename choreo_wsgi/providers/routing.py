"""Which provider answers requests for which model name.

The first of these rules that matches the name decides:

1. a name in the ``models`` list of a ``[provider NAME]`` section, or ``echo``;
2. ``NAME/model``, where NAME is the name of a provider;
3. a pattern in a ``models`` list;
4. without any section: the name patterns of the providers that have a key in the
   environment, then a custom base URL (``OPENAI_BASE_URL``);
5. ``default_model``.

:mod:`~choreo_wsgi.providers.building` builds a router from the configuration.
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
    """A provider, and the name of a model there.

    It is also a routing rule, for the model name or pattern *name*: *model* is then empty if the
    requested name is kept.
    """

    provider: Provider
    model: str
    priority: int = 0
    weight: float = 1.0
    name: str = ""

    @cached_property
    def label(self) -> str:
        """The provider and the model, as ``provider/model``."""
        return self.provider.label(self.model)

    @property
    def is_pattern(self) -> bool:
        """Whether the name is a pattern."""
        return "*" in self.name

    def resolve(self, requested: str) -> Target:
        """Return the target of this rule for the model name *requested*."""
        return replace(self, model=self.model or requested)


@dataclass(eq=False)
class Router:
    """The *providers* by name, the routing *rules* in order, and the *default* target.

    *sections* is whether the configuration has provider sections.  If not, the error for a model
    of a built-in type whose key is missing says so.
    """

    providers: Mapping[str, Provider]
    rules: Sequence[Target]
    default: Target | None = None
    sections: bool = True

    def __post_init__(self) -> None:
        #: Cached for each requested name.
        self.targets = lru_cache(1024)(self._targets)

    def _targets(self, model: str) -> Sequence[Target]:
        """Return the targets for *model*, those with the lowest priority number first.

        Raises ModelNotFound if there is none, and ProviderNotConfigured if the name belongs to a
        provider whose key is not set.
        """
        if len(model) > checks.MAX_MODEL_NAME:
            raise ModelNotFound("the model name is too long", param="model")
        if found := self.match(model):
            return sorted(found, key=lambda target: target.priority)
        if self.default is not None:
            return [self.default]
        if not self.sections:
            self._check_key(model)
        raise ModelNotFound(
            f"no provider answers for the model {model[:200]!r}: GET /v1/models lists the names, "
            "and the setting default_model names the model for all others (local: the local model)",
            param="model",
        )

    def match(self, model: str) -> list[Target]:
        """Return the targets for *model* by the rules, in their order; none if none matches."""
        if exact := [rule.resolve(model) for rule in self.rules if rule.name == model]:
            return exact
        name, slash, rest = model.partition("/")
        if slash and rest and name in self.providers:
            return [Target(self.providers[name], rest)]
        for rule in self.rules:
            if rule.is_pattern and fnmatchcase(model, rule.name):
                return [other.resolve(model) for other in self.rules if other.name == rule.name]
        return []

    def forwards(self, api: str, model: str) -> bool:
        """Whether a target of *model* forwards requests in the format of *api*."""
        return any(one.provider.forwards(api, one.model) for one in self.targets(model))

    def _check_key(self, model: str) -> None:
        """Raise ProviderNotConfigured if *model* belongs to a provider whose key is not set."""
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
        """Return the model names that may be requested, each with the label of its target."""
        listed: dict[str, str] = {}
        for rule in self.rules:
            if not rule.is_pattern:
                listed.setdefault(rule.name, rule.resolve(rule.name).label)
        for rule in self.rules:
            if rule.is_pattern:
                for name in rule.provider.models():
                    if fnmatchcase(name, rule.name):
                        listed.setdefault(name, rule.provider.label(name))
        if self.default is not None:
            listed.setdefault(self.default.label, self.default.label)
        return listed

    def describe(self) -> list[tuple[str, str]]:
        """Return each name or pattern with its provider or target, for a person to read."""
        rows = [
            (rule.name, rule.provider.name if rule.is_pattern else rule.resolve(rule.name).label)
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
