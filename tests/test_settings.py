"""Settings: their sources, values, errors and secrets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from choreo_wsgi.errors import ConfigurationError
from choreo_wsgi.providers import registry
from choreo_wsgi.settings import (
    Configuration,
    Secret,
    Settings,
    configure,
    load,
    parse_options,
    setting,
    table,
)

NAMES = [item.name for item, _ in table()]
#: The options of all provider types; some share a class.
OPTIONS = dict.fromkeys(registry.provider_class(type).Options for type in registry.installed())


def as_text(value: Any) -> str:
    """Write *value* as in an ini file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def other_value(item: dataclasses.Field[Any], hint: Any, nth: int) -> tuple[str, Any]:
    """Return the *nth* other value than the default: as text, and parsed."""
    if item.metadata["choices"]:
        value = item.metadata["choices"][-nth % len(item.metadata["choices"])]
        return value, value
    if hint is bool:
        return ("no", False) if item.default else ("yes", True)
    if hint is int:
        return str(item.default + nth), item.default + nth
    if hint is float:
        return f" {item.default + nth / 2} ", item.default + nth / 2
    if hint in (str, Secret):
        return f"value {nth}", f"value {nth}"
    return f"a{nth}, b", (f"a{nth}", "b")


# -- every setting ------------------------------------------------------------------------


def test_every_default_can_be_parsed() -> None:
    defaults = Settings()
    for name in NAMES:
        value = getattr(defaults, name)
        assert parse_options(Settings, {name: as_text(value)}, "here") == defaults, name


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: one.__qualname__)
def test_every_default_of_every_provider_can_be_parsed(options: Any) -> None:
    defaults = options()
    for item, _ in table(options):
        value = getattr(defaults, item.name)
        if value is not None:
            assert parse_options(options, {item.name: as_text(value)}, "here") == defaults


def test_every_setting_has_a_one_line_description() -> None:
    for item, _ in table():
        text = item.metadata["text"]
        assert text and "\n" not in text and len(text) < 80 and not text.endswith("."), item.name


@pytest.mark.parametrize(("item", "hint"), table(), ids=NAMES)
def test_command_line_overrides_environment_overrides_file(
    item: dataclasses.Field[Any], hint: Any
) -> None:
    name = item.name
    ways: dict[str, tuple[str, Any]] = {
        "file": other_value(item, hint, 1),
        "environment": other_value(item, hint, 2),
        "arguments": other_value(item, hint, 3),
    }
    texts = {way: text for way, (text, _) in ways.items()}
    variable = "CHOREO_" + name.upper()

    def value(arguments: bool, environment: bool, file: bool) -> Any:
        loaded = load(
            {name: texts["arguments"]} if arguments else {},
            {variable: texts["environment"]} if environment else {},
            {"choreo": {name: texts["file"]}} if file else {},
        )
        return getattr(loaded.settings, name)

    assert value(True, True, True) == ways["arguments"][1]
    assert value(False, True, True) == ways["environment"][1]
    assert value(False, False, True) == ways["file"][1] != item.default
    assert value(True, False, False) == ways["arguments"][1]
    assert value(False, False, False) == item.default


# -- invalid values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_streems": "1"}, ["unknown setting", "max_streems"]),
        ({"max_streams": "0"}, ["max_streams", "minimum 1"]),
        ({"max_streams": "+5"}, ["max_streams", "'+5'", "int"]),
        ({"max_streams": "1_000"}, ["int"]),
        ({"max_streams": "١٢"}, ["int"]),
        ({"max_streams": ""}, ["int"]),
        ({"max_streams": "9" * 5000}, ["max_streams"]),
        ({"port": "65536"}, ["port", "maximum 65535"]),
        ({"heartbeat_seconds": "nan"}, ["heartbeat_seconds", "float"]),
        ({"heartbeat_seconds": "1e999"}, ["float"]),
        ({"heartbeat_seconds": "1_0"}, ["float"]),
        ({"heartbeat_seconds": "٣"}, ["float"]),
        ({"heartbeat_seconds": "0"}, ["minimum 0.05"]),
        ({"heartbeat_seconds": "10s"}, ["float"]),
        ({"preload": "maybe"}, ["preload", "bool"]),
        ({"log_level": "loud"}, ["log_level", "debug, info"]),
    ],
)
def test_error_names_place_setting_and_rule(values: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_options(Settings, values, "[somewhere]")
    for word in ["[somewhere]", *words]:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("TRUE", True), ("Yes", True), ("on", True), ("0", False), ("False", False),
     ("no", False), ("OFF", False)],
)  # fmt: skip
def test_booleans_are_parsed(text: str, value: bool) -> None:
    assert parse_options(Settings, {"preload": text}, "here").preload is value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("port", "65535", 65535), ("replay", "'", "'"), ("replay", "'a", "'a")],
)
def test_unusual_value_is_accepted(name: str, text: str, value: Any) -> None:
    assert getattr(parse_options(Settings, {name: text}, "here"), name) == value


@pytest.mark.parametrize("text", ["", " , ,"])
def test_list_may_be_empty(text: str) -> None:
    assert parse_options(Settings, {"cors_origins": text}, "here").cors_origins == ()


@pytest.mark.parametrize(
    ("arguments", "environment", "sections", "place"),
    [
        ({"port": "x"}, {}, {}, "port"),
        ({"prt": "1"}, {}, {}, "prt"),
        ({}, {"CHOREO_PORT": "x"}, {}, "CHOREO_PORT"),
        ({}, {}, {"choreo": {"port": "x"}}, "[choreo]"),
        ({"port": "1"}, {}, {"choreo": {"port": "x"}}, "[choreo]"),
        ({}, {}, {"server": {}}, "[server]"),
        ({}, {}, {"provider ": {}}, "[provider ]"),
        ({}, {}, {"provider a": {}, "provider  a": {}}, "appears twice"),
    ],
)
def test_overridden_invalid_value_is_reported_with_its_place(
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    sections: Mapping[str, Mapping[str, str]],
    place: str,
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load(arguments, environment, sections)
    assert place in str(raised.value)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", "2027-01-31T00:00:00+00:00"),
        ("2027-01-31T12:00+02:00", "2027-01-31T12:00:00+02:00"),
    ],
)
def test_date_without_a_zone_is_in_utc(text: str, moment: str) -> None:
    @dataclass(frozen=True)
    class Options:
        until: datetime = setting(None, "x")

    assert parse_options(Options, {"until": text}, "here").until.isoformat() == moment


@pytest.mark.parametrize(
    ("environment", "sections", "expected"),
    [
        ({}, {}, False),
        ({"CHOREO_API_KEYS": "k"}, {}, True),
        ({"CHOREO_API_KEYS_FILE": "file"}, {}, True),
        ({}, {"key name": {}}, True),
    ],
)
def test_any_source_of_keys_counts(
    environment: dict[str, str], sections: dict[str, dict[str, str]], expected: bool
) -> None:
    assert load({}, environment, sections).has_keys is expected


def test_unsupported_type_raises_type_error() -> None:
    @dataclass(frozen=True)
    class Options:
        odd: "set[str]" = setting(None, "x")  # noqa: UP037

    with pytest.raises(TypeError):
        parse_options(Options, {"odd": "1"}, "here")


# -- the file and the environment ---------------------------------------------------------


def test_kubernetes_service_variables_are_ignored() -> None:
    links = {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "CHOREOAI_API_KEY": "k",
        "CHOREO_SERVICE_HOST": "10.0.0.1",
        "CHOREO_SERVICE_PORT": "8000",
        "CHOREO_SERVICE_PORT_HTTP": "8000",
        "CHOREO_PORT": "tcp://10.0.0.1:8000",
        "CHOREO_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "CHOREO_PORT_8000_TCP_ADDR": "10.0.0.1",
        "CHOREO_PORT_53_UDP_PROTO": "udp",
        "CHOREO_PORT_9_SCTP": "sctp://10.0.0.1:9",
        "CHOREO_DNS_PORT": "udp://10.0.0.1:53",
        "CHOREO_SIGNALS_PORT": "sctp://10.0.0.1:9",
        "CHOREO_B_SERVICE_HOST": "10.0.0.2",
        "CHOREO_B_PORT_80_TCP_PORT": "80",
    }
    prefixed = {name.replace("CHOREO_", "CHOREO_WSGI_"): text for name, text in links.items()}
    assert configure({}, {**links, **prefixed}).settings == Settings()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, r"choreo\.ini: No such file or directory"),
        (b"[choreo]\nhost = \xff\n", "it is not text in UTF-8"),
        (b"port = 1\n", r"no \[section\] before line 1"),
        (b"[choreo]\nhost\nport\n", "neither a section nor name = value in line 2, 3"),
        (b"[choreo]\nport = 1\nport = 2\n", "already exists"),
        (b"[DEFAULT]\nport = 1\n", r"unknown section \[DEFAULT\]"),
        (b"[choreo]\nPort = 1\n", "did you mean 'port'"),
        (b"[choreo]\nport : 1\n", "in line 2"),
        (b"[PROVIDER x]\n", "did you mean 'provider'"),
    ],
)
def test_unusable_configuration_file_is_reported(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "choreo.ini"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        configure({}, {}, str(path))


@pytest.mark.parametrize("name", ["CHOREO_MAX_STREEMS", "CHOREO_", "CHOREO_PORTS", "CHOREO_x"])
def test_unknown_choreo_variable_is_rejected(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        configure({}, {name: "1"})


def test_configuration_file_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "choreo.ini"
    path.write_text(
        "\ufeff# a comment\n"
        "[choreo]\n"
        "max_streams = 7\n"
        "cors_origins =\n"
        "    https://a.example,\n"
        "    https://b.example\n"
        "[provider mine]\n"
        "type = openai\n"
        "base_url = http://127.0.0.1:1/v1\n"
        "api_key = 100%%-sure\n"
        "models = a = b, ft:x:y, *\n",
        encoding="utf-8",
    )
    other = tmp_path / "other.ini"
    other.write_text("[choreo]\nmax_streams = 8\n")
    assert configure({}, {"CHOREO_CONFIG": str(path)}, str(other)).settings.max_streams == 8
    loaded = configure({}, {"CHOREO_CONFIG": str(path)})
    assert loaded.settings.max_streams == 7
    assert loaded.settings.cors_origins == ("https://a.example", "https://b.example")
    assert loaded.providers["mine"]["api_key"] == "100%%-sure"
    assert loaded.providers["mine"]["models"] == "a = b, ft:x:y, *"


# -- secrets --------------------------------------------------------------------------------

KEY = "sk-do-not-show-me"


def test_repr_hides_secrets() -> None:
    assert KEY not in repr(Secret(KEY)) + repr([Secret(KEY)]) + repr({"k": Secret(KEY)})
    loaded = load(
        {},
        {"CHOREO_API_KEYS": f"{KEY},{KEY}2"},
        {"provider a": {"type": "openai", "api_key": KEY}},
    )
    assert loaded.settings.api_keys == (KEY, KEY + "2")
    assert KEY not in repr(loaded) and KEY not in repr(loaded.settings)
    assert isinstance(loaded, Configuration)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda one: one.__qualname__)
def test_repr_hides_provider_keys(options: Any) -> None:
    if "api_key" in {item.name for item, _ in table(options)}:
        parsed = parse_options(options, {"api_key": KEY}, "here")
        assert parsed.api_key == KEY and KEY not in repr(parsed)


def test_errors_do_not_contain_secrets() -> None:
    @dataclass(frozen=True)
    class Options:
        key: Secret = setting(Secret(""), "x", choices=("a", "b"))

    for values in ({"key": KEY}, {KEY[:2]: KEY}):
        with pytest.raises(ConfigurationError) as raised:
            parse_options(Options, values, "here")
        assert KEY not in str(raised.value)
