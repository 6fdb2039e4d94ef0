"""Builds the providers and routing rules from the configuration and the environment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..chat.source import Source
from ..errors import ConfigurationError, ProviderNotConfigured
from ..settings import Configuration, Secret, Settings, parse_options, table
from ..upstream.address import parse_url
from .base import COMMON, Provider, SectionOptions
from .facts import BUILT_IN, Facts
from .registry import Unusable, provider_class
from .routing import Router, Target

if TYPE_CHECKING:
    from ..chat.request import ChatRequest

logger = logging.getLogger(__name__)

#: Types without a key and network: they do not count as a configured provider.
_KEYLESS = ("echo", "local")


class Broken(Provider):
    """Replaces a provider that cannot be loaded: requests for its models fail with *reason*."""

    type = "broken"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, {}, Settings())
        self.reason = reason

    def open(self, request: ChatRequest) -> Source:
        raise ProviderNotConfigured(f"provider {self.name!r} cannot be used: {self.reason}")


def build(
    configuration: Configuration,
    environment: Mapping[str, str],
    kept: Mapping[str, Provider] | None = None,
) -> Router:
    """Return the router for *configuration* and the keys in *environment*.

    *kept* are the providers before a reload, by name: one whose options have not changed is reused.
    A provider whose code cannot be loaded is logged, and its models fail; the others work.
    Raises ConfigurationError for invalid settings.
    """
    return _Builder(configuration, environment, kept or {}).router()


def _check(
    name: str, type: str, options: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """Raise ConfigurationError for an invalid API key, base_url or proxy."""
    facts = BUILT_IN.get(type, Facts())
    key, url = options.get("api_key", ""), options.get("base_url", "") or facts.home
    try:
        if url:
            parse_url(url, environment)
    except ConfigurationError as error:
        raise ConfigurationError(f"provider {name}: base_url: {error.message}") from None
    if type not in BUILT_IN:
        return  # how it uses its key and address is not known
    if not key.isprintable() or max(key, default="") > "\xff":
        text = f"provider {name}: api_key: it has characters that a header cannot have"
        raise ConfigurationError(text)
    for path in ("/chat/completions", "/completions", "/messages", "/responses"):
        if url.rstrip("/").endswith(path):
            text = f"provider {name}: base_url: remove {path}, which is added to it"
            raise ConfigurationError(text)


@dataclass
class _Builder:
    _configuration: Configuration
    _environment: Mapping[str, str]
    _kept: Mapping[str, Provider]
    _providers: dict[str, Provider] = field(default_factory=dict)
    _rules: list[Target] = field(default_factory=list)

    def router(self) -> Router:
        sections = self._configuration.providers
        for name, section in sections.items():
            self._add_section(name, section)
        if not sections:
            self._add_environment()
        if "echo" not in self._providers:
            self._providers["echo"] = self._make("echo", "echo", {})
        echo = self._providers["echo"]
        if echo.type == "echo" and all(rule.name != "echo" for rule in self._rules):
            self._rules.append(Target(echo, "", name="echo"))
        default = self._default()
        types = {provider.type for provider in self._providers.values()}
        if self._configuration.settings.preload and "local" not in types:
            raise ConfigurationError(
                "preload: there is no local model to start; default_model = local adds it"
            )
        for name, provider in self._providers.items():
            if provider.lacks_key():
                variables = " or ".join(provider.facts.keys)
                logger.warning("provider %s has no key, so its models fail: %s", name, variables)
        return Router(self._providers, self._rules, default, bool(sections))

    def _make(self, name: str, type: str, options: Mapping[str, str] | None = None) -> Provider:
        """Return the provider *name*; its *options* default to those of its section."""
        try:
            cls = provider_class(type)
            if options is None:
                options = self._section_options(name, cls)
            if type in BUILT_IN or hasattr(cls, "attempt"):  # it is reached over HTTP
                _check(name, type, options, self._environment)
            made_from = (cls, options)
            if name in self._kept and self._kept[name].made_from == made_from:
                return self._kept[name]
            provider = cls(name, options, self._configuration.settings)
            provider.made_from = made_from
            return provider
        except Unusable as error:
            reason = error.message
        except ConfigurationError:
            raise
        except Exception as error:  # a third-party provider can raise anything
            reason = f"{error.__class__.__name__}: {error}"
        logger.error("provider %s cannot be used: %s", name, reason)
        return Broken(name, reason)

    def _add_section(self, name: str, section: Mapping[str, str]) -> None:
        where = f"provider {name}"
        options = {key: value for key, value in section.items() if key in COMMON}
        common = parse_options(SectionOptions, options, where)
        provider = self._providers[name] = self._make(name, common.type or name)
        provider.check()
        ordered = not {"priority", "weight"} & section.keys()
        priority = len(self._providers) if ordered else common.priority
        for entry in common.models:
            model, equals, upstream = (part.strip() for part in entry.partition("="))
            if not model or (equals and not upstream):
                raise ConfigurationError(f"{where}: models: a name is missing in {entry!r}")
            self._rules.append(Target(provider, upstream, priority, common.weight, model))

    def _section_options(self, name: str, cls: type[Provider]) -> dict[str, str]:
        """Return the options of a section, its ``env:NAME`` secrets from the environment."""
        section = self._configuration.providers[name]
        options = {key: value for key, value in section.items() if key not in COMMON}
        for item, hint in table(cls.Options):
            value = options.get(item.name, "")
            if hint is Secret and value.startswith("$"):
                raise ConfigurationError(
                    f"provider {name}: {item.name}: write a variable as env:{value.strip('${}')}"
                )
            if hint is Secret and value.startswith("env:"):
                variable = value.removeprefix("env:")
                if variable not in self._environment:
                    raise ConfigurationError(
                        f"provider {name}: {item.name}: the variable {variable} is not set"
                    )
                options[item.name] = self._environment[variable]
        if "base_url" not in options:
            # A key from the environment must not be sent to another address than the provider's.
            options = {**cls.from_environment(self._environment), **options}
        return options

    def _add_environment(self) -> None:
        fallback = None
        for type, options in self._environment_options():
            provider = self._providers[type] = self._make(type, type, options)
            if "base_url" in options and type == "openai":
                fallback = provider
            patterns = BUILT_IN[type].patterns
            self._rules += [Target(provider, "", name=pattern) for pattern in patterns]
        if fallback is not None:
            self._rules.append(Target(fallback, "", name="*"))

    def _environment_options(self) -> list[tuple[str, dict[str, str]]]:
        """Return the types for which the environment has a key or an address, and their options."""
        found: list[tuple[str, dict[str, str]]] = []
        for type, facts in BUILT_IN.items():
            names = (*facts.keys, facts.base_url, *facts.also)
            if not any(map(self._environment.get, names)):
                continue
            try:
                options = provider_class(type).from_environment(self._environment)
            except Unusable:
                # AWS credentials are often set for other reasons; without botocore only a key or
                # an address makes Bedrock a provider, which then reports what is missing.
                if any(map(self._environment.get, (*facts.keys, facts.base_url))):
                    found.append((type, {}))
                continue
            found += [(type, options)] if options else []
        return found

    def _default(self) -> Target | None:
        """Return the target for models that no rule matches, or None."""
        name = self._configuration.settings.default_model
        if not name:
            types = {provider.type for provider in self._providers.values()} - set(_KEYLESS)
            name = "none" if types or self._environment_options() else "local"
        if name == "none":
            return None
        if name == "local" and "local" not in self._providers:
            self._providers["local"] = self._make("local", "local", {})
        provider = self._providers.get(name)
        if provider is not None:
            return Target(provider, next(iter(provider.models()), name))
        found = Router(self._providers, self._rules).match(name)
        if not found:
            raise ConfigurationError(f"default_model: no provider has the model {name!r}")
        return found[0]
