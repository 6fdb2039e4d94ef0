"""Which provider answers for which model name.

Looked at in this order, the first that takes the name decides:

1. the names in the ``models`` lists of the ``[provider NAME]`` sections, then their patterns;
2. ``NAME/model``, with the name of a provider;
3. ``echo``;
4. without any section: the name patterns of the providers that have a key in the
   environment, then a base URL of one's own (``OPENAI_BASE_URL``);
5. ``default_model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import ConfigurationError, ModelNotFound, ProviderNotConfigured
from ..settings import Configuration, Secret, parse_options, setting, table
from .base import Provider
from .facts import BUILT_IN
from .registry import provider_class

#: Types that need no key and no network: they do not count as a configured provider.
_KEYLESS = ("echo", "local")


@dataclass(frozen=True)
class Common:
    """What every ``[provider NAME]`` section may say, beside its type's own settings."""

    type: str = setting("", "the provider's type; its name if not given")
    models: tuple[str, ...] = setting((), "names it answers: name, name = upstream-name, or *")
    priority: int = setting(
        0, "the lowest is tried first; without it and a weight the order of the sections counts"
    )
    weight: float = setting(1.0, "share among providers of the same priority", minimum=0)


@dataclass(frozen=True)
class Target:
    """One provider for a model, and the model's name there."""

    provider: Provider
    model: str
    priority: int = 0
    weight: float = 1.0

    @property
    def label(self) -> str:
        """Who answers, as ``provider/model``."""
        return self.provider.label(self.model)


@dataclass(frozen=True)
class Rule:
    """A model name or pattern, and who takes it; *model* is empty when the name stays."""

    name: str
    provider: Provider
    model: str = ""
    priority: int = 0
    weight: float = 1.0

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for several."""
        return "*" in self.name

    def target(self, asked: str) -> Target:
        """Return the target for the model name *asked*."""
        return Target(self.provider, self.model or asked, self.priority, self.weight)


class Router:
    """The providers of a configuration and the rules between them."""

    def __init__(self, configuration: Configuration, environment: Mapping[str, str]) -> None:
        self._settings = configuration.settings
        self._environment = environment
        self.providers: dict[str, Provider] = {}
        self._rules: list[Rule] = []
        for name, section in configuration.providers.items():
            self._add_section(name, section)
        self._zero_config = not self.providers
        if self._zero_config:
            self._add_environment()
        self._add_echo()
        self._default = self._find_default()

    # -- building ---------------------------------------------------------------------

    def _make(self, name: str, type: str, options: Mapping[str, str]) -> Provider:
        provider = provider_class(type)(name, options, self._settings)
        self.providers[name] = provider
        return provider

    def _add_section(self, name: str, section: Mapping[str, str]) -> None:
        ours = {item.name for item, _ in table(Common)}
        where = f"provider {name}"
        common = parse_options(Common, {k: v for k, v in section.items() if k in ours}, where)
        type = common.type or name
        cls = provider_class(type)
        options = {key: value for key, value in section.items() if key not in ours}
        if "base_url" not in options:
            # A key from the environment belongs to the provider's own address only.
            options = {**cls.from_environment(self._environment), **options}
        provider = self._make(name, type, self._with_secrets(cls, options, where))
        ordered = not {"priority", "weight"} & section.keys()
        priority = len(self.providers) if ordered else common.priority
        for entry in common.models:
            model, equals, upstream = (part.strip() for part in entry.partition("="))
            if not model or (equals and not upstream):
                raise ConfigurationError(f"{where}: models: {entry!r} lacks a name")
            self._rules.append(Rule(model, provider, upstream, priority, common.weight))

    def _with_secrets(
        self, cls: type[Provider], options: Mapping[str, str], where: str
    ) -> dict[str, str]:
        """Return *options* with ``env:NAME`` in secrets replaced by what the environment has."""
        secrets = {item.name for item, hint in table(cls.Options) if hint is Secret}
        resolved = dict(options)
        for name in secrets & options.keys():
            if options[name].startswith("env:"):
                variable = options[name].removeprefix("env:")
                if variable not in self._environment:
                    raise ConfigurationError(f"{where}: {name}: no variable {variable} is set")
                resolved[name] = self._environment[variable]
        return resolved

    def _add_environment(self) -> None:
        everything = None
        for type, options in self._environment_options():
            provider = self._make(type, type, options)
            if "base_url" in options and type == "openai":
                everything = provider
            self._rules += [Rule(pattern, provider) for pattern in BUILT_IN[type].patterns]
        if everything is not None:
            self._rules.append(Rule("*", everything))

    def _add_echo(self) -> None:
        if "echo" not in self.providers:
            self._make("echo", "echo", {})
        echo = self.providers["echo"]
        if echo.type == "echo" and all(rule.name != "echo" for rule in self._rules):
            self._rules.append(Rule("echo", echo))

    def _environment_options(self) -> list[tuple[str, dict[str, str]]]:
        """Return the types that the environment has a key or an address for, with it."""
        found = []
        for type, facts in BUILT_IN.items():
            if facts.may_be_configured(self._environment):
                options = provider_class(type).from_environment(self._environment)
                found += [(type, options)] if options else []
        return found

    def _has_provider(self) -> bool:
        """Whether there is a provider, or a key for one, beside those that need nothing."""
        types = {provider.type for provider in self.providers.values()}
        return bool(types - set(_KEYLESS) or self._environment_options())

    def _find_default(self) -> Target | None:
        """Return what answers for names that no rule takes, None for nothing."""
        name = self._settings.default_model
        if not name:
            keys = self._settings.api_keys or self._settings.api_keys_file
            alone = not keys and not self._has_provider()
            name = "local" if alone else "none"
        if name == "none":
            return None
        if name == "local" and "local" not in self.providers:
            self._make("local", "local", {})
        provider = self.providers.get(name)
        if provider is not None:
            return Target(provider, next(iter(provider.models()), name))
        found = self._by_rules(name)
        if not found:
            raise ConfigurationError(f"default_model: no provider takes the model {name!r}")
        return found[0]

    # -- asking -----------------------------------------------------------------------

    def targets(self, model: str) -> list[Target]:
        """Return who may answer for *model*, those of the lowest priority number first.

        Raises ModelNotFound, and ProviderNotConfigured when the name is of a provider whose
        key is not set.
        """
        found = self._by_rules(model)
        if found:
            return sorted(found, key=lambda target: target.priority)
        if self._default is not None:
            return [self._default]
        if self._zero_config:
            self._missing_key(model)
        raise ModelNotFound(f"no provider answers for the model {model!r}", param="model")

    def _by_rules(self, model: str) -> list[Target]:
        exact = [rule.target(model) for rule in self._rules if rule.name == model]
        if exact:
            return exact
        name, slash, rest = model.partition("/")
        if slash and rest and name in self.providers:
            return [Target(self.providers[name], rest)]
        for rule in self._rules:
            if rule.is_pattern and fnmatchcase(model, rule.name):
                same = [other for other in self._rules if other.name == rule.name]
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
                    f"the model {model!r} is answered by {type}, which has no key: set {variables}",
                    param="model",
                )

    def models(self) -> dict[str, str]:
        """Return the model names that can be asked for, each with who answers it."""
        listed: dict[str, str] = {}
        for rule in self._rules:
            if not rule.is_pattern:
                listed.setdefault(rule.name, rule.target(rule.name).label)
        for rule in self._rules:
            if rule.is_pattern:
                for name in rule.provider.models():
                    if fnmatchcase(name, rule.name):
                        listed.setdefault(name, rule.provider.label(name))
        if self._default is not None:
            listed.setdefault(self._default.label, self._default.label)
        return listed

    def describe(self) -> list[tuple[str, str]]:
        """Return each name or pattern with who answers it, for a person to read."""
        rows: list[tuple[str, str]] = []
        for rule in self._rules:
            answers = rule.provider.name if rule.is_pattern else rule.target(rule.name).label
            rows.append((rule.name, answers))
        if self._default is not None:
            rows.append(("any other name", self._default.label))
        return rows

    def close(self) -> None:
        """Close every provider."""
        for provider in self.providers.values():
            provider.close()
