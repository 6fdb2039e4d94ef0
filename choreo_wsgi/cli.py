"""The command ``choreo-wsgi``: serve, fetch-model, models, settings, chat."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from choreoai import terminal

from .app import log
from .app.application import create_app
from .errors import ChoreoError, ConfigurationError
from .local.fetch import fetch_model
from .serve.server import Server
from .serve.sockets import inherited_sockets
from .settings import Configuration, Secret, Settings, configure, table
from .version import __version__

_MASK = "***"
_METAVARS = {int: "N", float: "SECONDS"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that *arguments* (by default the process's) name; return its status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigurationError as error:
        print(f"choreo-wsgi: {error.message}", file=sys.stderr)
        return 2
    except ChoreoError as error:
        print(f"choreo-wsgi: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="choreo-wsgi", description="A streaming LLM server.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, text, configured in (
        ("serve", _serve, "serve completions over HTTP", True),
        ("models", _models, "show which model name is answered by what", True),
        ("settings", _settings, "show the settings in force, as an ini file", True),
        ("fetch-model", _fetch_model, "download the default local model", False),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        if configured:
            _add_settings(command)
    text = "ask a running server, in the terminal"
    chat = commands.add_parser("chat", help=text, description=text, allow_abbrev=False)
    terminal.add_arguments(chat)
    chat.set_defaults(run=terminal.run)
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", default="", help="the ini file")
    for item, hint in table():
        flag = "--" + item.name.replace("_", "-")
        text = item.metadata["text"]
        common: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
        if hint is bool:
            escaped = text.replace("%", "%%")
            command.add_argument(flag, action="store_const", const="true", help=escaped, **common)
            opposite = "--no-" + flag.removeprefix("--")
            command.add_argument(
                opposite, action="store_const", const="false", help=argparse.SUPPRESS, **common
            )
        elif item.name == "listen":
            command.add_argument(flag, action="append", metavar="HOST:PORT", help=text, **common)
        else:
            shown = _text(item.default)
            help_text = f"{text} ({shown})".replace("%", "%%") if shown else text
            metavar = _METAVARS.get(hint, "TEXT")
            command.add_argument(flag, metavar=metavar, help=help_text, **common)


def _configuration(options: argparse.Namespace) -> Configuration:
    given = vars(options)
    arguments: dict[str, str] = {}
    for item, _ in table():
        if item.name in given:
            value = given[item.name]
            arguments[item.name] = ",".join(value) if isinstance(value, list) else value
    return configure(arguments, os.environ, options.config)


# -- commands ---------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    configuration = _configuration(options)
    log.set_up(logging.getLogger(), configuration.settings)
    # It reports every client that left; the application's own line says more.
    logging.getLogger("waitress").setLevel(logging.WARNING)
    app = create_app(configuration)
    try:
        server = Server(app, inherited_sockets(os.environ, os.getpid()))
        if configuration.settings.preload:
            app.preload()
    except BaseException:
        app.close()
        raise
    text = banner(__version__, server.addresses, app.describe_models(), configuration.settings)
    print(text, flush=True)
    server.run()
    return 0


def _models(options: argparse.Namespace) -> int:
    app = create_app(_configuration(options))
    try:
        for name, answers in app.describe_models():
            print(f"{name}\t{answers}")
    finally:
        app.close()
    return 0


def _settings(options: argparse.Namespace) -> int:
    configuration = _configuration(options)
    print("[choreo]")
    for item, hint in table():
        value = getattr(configuration.settings, item.name)
        secret = hint in (Secret, tuple[Secret, ...]) and value
        print(f"# {item.metadata['text']}\n{item.name} = {_MASK if secret else _text(value)}")
    for name, section in configuration.providers.items():
        print(f"\n[provider {name}]")
        for key, text in _without_secrets(section).items():
            print(f"{key} = {text}")
    return 0


def _without_secrets(section: Mapping[str, str]) -> dict[str, str]:
    """Return *section* with ``***`` for what may be a key and is not the name of a variable."""
    words = ("key", "secret", "token", "password", "headers")
    return {
        key: _MASK
        if any(word in key for word in words) and not text.startswith("env:")
        else text.replace("\n", "\n    ")
        for key, text in section.items()
    }


def _fetch_model(options: argparse.Namespace) -> int:
    path = fetch_model(lambda line: print(line, file=sys.stderr, flush=True))
    print(path)
    return 0


def _text(value: Any) -> str:
    """Return a setting's *value* as it is written in the ini file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


#: The model that is there without any configuration.
DEMO = "local/SmolLM2-135M-Instruct"
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def banner(
    version: str,
    addresses: Sequence[str],
    models: Sequence[tuple[str, str]],
    settings: Settings,
) -> str:
    """Return the text: where the server listens, which model is answered by whom, and a curl.

    *addresses* are URLs or ``unix:PATH``; *models* are names or patterns with who answers.
    """
    width = max((len(name) for name, _ in models), default=0)
    lines = [f"choreo-wsgi {version} listens on {', '.join(addresses)}"]
    lines += [f"  {name:<{width}}  {answers}" for name, answers in models]
    if not models:
        lines.append("  no model is configured")
    if any(answers == DEMO for _, answers in models):
        lines.append(
            "  (a demo on the CPU: grammatical, mostly wrong; local_model names a better one)"
        )
    lines += ["Try:", "  " + _curl(addresses[0], _example(models), settings)]
    return "\n".join(lines)


def _example(models: Sequence[tuple[str, str]]) -> str:
    """Return a model name that is answered, rather by a model than by the echo."""
    for name, answers in models:
        if name == "any other name":
            return answers
    for name, _ in models:
        if name != "echo" and "*" not in name:
            return name
    return "echo"


def _curl(address: str, model: str, settings: Settings) -> str:
    words = ["curl", "-N"]
    if address.startswith("unix:"):
        words += ["--unix-socket", address.removeprefix("unix:")]
        address = "http://localhost"
    for wildcard, loopback in _WILDCARDS.items():
        address = address.replace(f"//{wildcard}:", f"//{loopback}:")
    message = {"role": "user", "content": "Say hello"}
    body = {"model": model, "messages": [message], "stream": True}
    words += [f"{address}/v1/chat/completions", "-H", "Content-Type: application/json"]
    line = shlex.join([*words, "-d", json.dumps(body)])
    # The key itself is never printed; the shell that set it can fill it in.
    if settings.api_keys:
        line += ' -H "Authorization: Bearer ${CHOREO_API_KEYS%%,*}"'
    elif settings.api_keys_file:
        line += ' -H "Authorization: Bearer $CHOREOAI_API_KEY"'
    return line
