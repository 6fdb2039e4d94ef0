"""The command ``choreo-wsgi``: its parser, and the commands serve, models and settings.

Each command of :data:`ELSEWHERE` is a module with ``add_arguments(parser)`` and ``run(options)``.
It is imported only when that command is called: a server does not load the client.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .app import log
from .app.application import create_app
from .app.unused import warn_unused
from .errors import ChoreoError, ConfigurationError
from .late import Late
from .serve.banner import banner
from .serve.server import Server, tune_allocation
from .serve.sockets import bind, inherited_sockets, listen_addresses
from .settings import Configuration, Secret, configure, did_you_mean, table
from .version import __version__

if TYPE_CHECKING:
    from .app import shown
    from .serve import processes
    from .serve.processes import ProcessContext
else:
    shown = Late("choreo_wsgi.app.shown")
    processes = Late("choreo_wsgi.serve.processes")

ELSEWHERE = {
    "fetch-model": ("download the default local model", "choreo_wsgi.local.fetch"),
    "key": ("create an API key and print its section", "choreo_wsgi.app.shown"),
    "check": ("find proxies that disturb streams", "choreo_wsgi.doctor"),
    "chat": ("chat with a running server in the terminal", "choreo_wsgi.terminal"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of *arguments* (by default the process's); return its exit status."""
    for stream in (sys.stdout, sys.stderr):  # a name that they cannot encode must not be an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    options = _options(sys.argv[1:] if arguments is None else arguments)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except ChoreoError as error:
        print(f"choreo-wsgi: {error.message}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    except BrokenPipeError:  # the program that reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130


# -- arguments ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the right spelling of a command."""

    def error(self, message: str) -> NoReturn:
        command = re.search(r"invalid choice: '([^']*)'", message)
        if command:
            near = did_you_mean(command[1], [*_COMMANDS, *ELSEWHERE, "--help", "--version"])
            message = f"unknown command {command[1]!r}{near}"
        super().error(message)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="choreo-wsgi",
        description="A streaming LLM server.",
        epilog="choreo-wsgi COMMAND --help describes a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    called = next((word for word in arguments if not word.startswith("-")), "")
    for name, (text, run) in _COMMANDS.items():
        usage = f"choreo-wsgi {name} [--config FILE] [--SETTING VALUE ...]"
        command = commands.add_parser(
            name, usage=usage, help=text, description=_sentence(text), allow_abbrev=False
        )
        command.set_defaults(run=run, parser=command)
        command.add_argument("--config", metavar="FILE", default="", help="the ini file")
        _add_settings(command, shown=name == "serve")
    for name, (text, module) in ELSEWHERE.items():
        command = commands.add_parser(
            name, help=text, description=_sentence(text), allow_abbrev=False
        )
        if name == called:
            found = importlib.import_module(module)
            found.add_arguments(command)
            command.set_defaults(run=found.run, parser=command)
    if not arguments:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if called and arguments[0] not in (called, "-h", "--help", "--version"):
        parser.error(f"put the COMMAND first: choreo-wsgi serve {' '.join(arguments[:2])}")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for action in options.parser._actions for flag in action.option_strings]
        port = f" (did you mean '--port {unknown[0]}'?)" if unknown[0].isdigit() else ""
        near = port or did_you_mean(unknown[0].partition("=")[0], flags)
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
    if not hasattr(options, "run"):
        parser.error("a COMMAND is missing")
    return options


def _add_settings(command: argparse.ArgumentParser, shown: bool) -> None:
    """Add an option for each setting; the help lists them only if *shown*."""
    if not shown:
        command.epilog = "Also accepts every setting of serve: see choreo-wsgi serve --help."
    for item, hint in table():
        flag, text = f"--{item.name.replace('_', '-')}", item.metadata["text"]
        if default := setting_text(item.default):
            text += f" ({default})"
        common: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS}
        common["help"] = text.replace("%", "%%") if shown else argparse.SUPPRESS
        if hint is bool:
            command.add_argument(flag, nargs="?", const="true", metavar="true|false", **common)
            common["help"] = argparse.SUPPRESS
            opposite = "--no-" + flag.removeprefix("--")
            command.add_argument(opposite, action="store_const", const="false", **common)
        else:
            action = "append" if item.name == "listen" else "store"
            command.add_argument(flag, action=action, metavar=_metavar(item, hint), **common)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _metavar(item: Any, hint: Any) -> str:
    if item.metadata["choices"]:
        return "|".join(item.metadata["choices"])
    if item.name.endswith("_bytes"):
        return "BYTES"
    if hint in (int, float):
        return "N" if hint is int else "SECONDS"
    if item.name == "listen":
        return "HOST[:PORT]"
    if item.name.endswith(("_file", "_socket", "local_model")):
        return "PATH"
    return "A,B,..." if hint in (tuple[str, ...], tuple[Secret, ...]) else "TEXT"


def _configuration(options: argparse.Namespace) -> Configuration:
    values = vars(options)
    arguments: dict[str, str] = {}
    for item, _ in table():
        if item.name in values:
            value = values[item.name]
            arguments[item.name] = ",".join(value) if isinstance(value, list) else value
    configuration = configure(arguments, os.environ, options.config)
    # Raise errors in these settings now, not only when the server starts.
    listen_addresses(configuration.settings)
    if configuration.settings.processes != "1":
        processes.process_count(configuration.settings)
    return configuration


# -- commands -----------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    configuration = _configuration(options)
    log.set_up(logging.getLogger(), configuration.settings)
    # Our log lines contain neither threads, processes nor source lines; do not look them up for
    # each record ("Optimization" in Python's documentation of logging).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    inherited = inherited_sockets(os.environ, os.getpid())
    if configuration.settings.processes == "1":
        return _serve_here(configuration, inherited)
    count = processes.process_count(configuration.settings)

    def serve(context: ProcessContext) -> int:
        try:
            return _serve_here(context.configure(_configuration(options)), context.sockets, context)
        except ChoreoError as error:
            print(f"choreo-wsgi: {error.message}", file=sys.stderr)
            return int(processes.MISCONFIGURED)

    sockets = inherited or bind(configuration.settings)
    patience = configuration.settings.drain_seconds + processes.ENDING
    try:
        return int(processes.Supervisor(count, sockets, serve, patience).run())
    finally:
        if configuration.settings.unix_socket and not inherited:
            Path(configuration.settings.unix_socket).unlink(missing_ok=True)


def _serve_here(
    configuration: Configuration,
    sockets: list[socket.socket],
    context: ProcessContext | None = None,
) -> int:
    """Serve in this process, as one of several when *context* is given."""
    over_share = None if context is None else partial(context.counts.report, context.index)
    tune_allocation()
    app = create_app(configuration)
    try:
        server = Server(app, sockets, over_share)
        if configuration.settings.preload:
            app.preload()
        server.handle_signals()
    except BaseException:
        app.close()
        raise
    key = ""
    if configuration.has_keys:  # never print the key itself: the shell inserts it
        key = "${CHOREO_API_KEYS%%,*}" if "CHOREO_API_KEYS" in os.environ else "$CHOREOAI_API_KEY"
    text = banner(server.addresses, app.router.describe(), key)
    if context is None:
        print(text, flush=True)
    else:
        context.announce(text, server.drain, server.retire)
    server.run()
    return 0


def _models(options: argparse.Namespace) -> int:
    app = create_app(_configuration(options))
    try:
        for name, target in app.router.describe():
            print(f"{name}\t{target}")
    finally:
        app.close()
    return 0


def _settings(options: argparse.Namespace) -> int:
    configuration = _configuration(options)
    print(*shown.as_ini(configuration, setting_text), sep="\n")
    warn_unused(configuration)
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[argparse.Namespace], int]]] = {
    "serve": ("serve completions over HTTP", _serve),
    "models": ("show the model names and the targets that answer them", _models),
    "settings": ("show the effective settings as an ini file", _settings),
}


def setting_text(value: Any) -> str:
    """Return a setting's *value* in the format of the ini file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
