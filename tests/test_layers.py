"""The layers of modules: which may import which, and what an import loads."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("choreo_wsgi", "choreoai")

#: Sub-packages and top-level modules, from the lowest layer up.  A module imports only from lines
#: above its own; the modules of one sub-package may also import each other.
LAYERS = """
version sse errors late ids
__init__ settings
chat upstream
providers replay
streams local
apis
app
serve
wsgi doctor terminal
cli
__main__
"""
LEVEL = {name: level for level, line in enumerate(LAYERS.split("\n")) for name in line.split()}

#: Modules without I/O: no socket, clock, thread, file or environment.
PURE = """
sse errors version upstream.framing upstream.coding upstream.head local.request
chat.items chat.source chat.answer chat.request chat.schema
chat.checks chat.endings chat.errorwords chat.shapes chat.calls chat.choice chat.normalise
chat.completion chat.usages
providers.failures providers.reading providers.conversation providers.parts providers.tools
providers.support providers.capabilities
providers.openai.pattern providers.openai.relay providers.openai.events
providers.openai.chunks
providers.anthropic.request providers.anthropic.answer
providers.gemini.request providers.gemini.answer
providers.bedrock.request providers.bedrock.answer providers.blocks
"""
IMPURE = {
    *("asyncio", "http", "io", "logging", "multiprocessing", "os", "pathlib", "queue"),
    *("requests", "select", "selectors", "signal", "socket", "ssl", "subprocess"),
    *("tempfile", "threading", "time", "urllib", "urllib3", "waitress"),
}

#: Heavy or optional packages, and the only modules that may import them.
ONLY = {
    "waitress": {
        f"choreo_wsgi.serve.{name}" for name in ("listener", "parser", "server", "sockets", "tasks")
    },
    "redis": {"choreo_wsgi.replay.redis"},
    "sqlite3": {"choreo_wsgi.replay.database", "choreo_wsgi.replay.sqlite"},
    "prometheus_client": {"choreo_wsgi.app.metrics"},
    "opentelemetry": {"choreo_wsgi.app.otel"},
    "xllamacpp": {"choreo_wsgi.local.child"},
    "botocore": {f"choreo_wsgi.providers.bedrock.{name}" for name in ("answer", "provider")},
}

#: The modules of the server's package that the client may import.
SHARED = {
    *("choreo_wsgi.sse", "choreo_wsgi.version", "choreo_wsgi.errors"),
    *(f"choreo_wsgi.upstream.{name}" for name in ("coding", "framing", "head")),
    *(f"choreo_wsgi.chat.{name}" for name in ("calls", "endings", "errorwords", "shapes")),
}

#: Packages whose ``__getattr__`` imports a name at its first use.
LAZY = {"choreo_wsgi", "choreo_wsgi.upstream", "choreoai"}


@dataclass
class Module:
    """A module's source, and its imports at import time (*now*) or in a function (*later*).

    *late* are the modules that it loads at their first use (:mod:`choreo_wsgi.late`).
    """

    name: str
    path: Path
    now: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)


def find_modules() -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            module = Module(".".join(parts), path)
            found[module.name] = module
    for module in found.values():
        read_imports(module, set(found))
    return found


def read_imports(module: Module, known: set[str]) -> None:
    def visit(node: ast.AST, into: set[str] | None) -> None:
        for child in ast.iter_child_nodes(node):
            below = into
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                below = module.later
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                below = None  # for the type checker alone
            elif isinstance(child, ast.Call) and ast.unparse(child.func) == "Late":
                module.late.add(ast.literal_eval(child.args[0]))
            elif into is not None:
                into.update(imported(child, module, known))
            visit(child, below)

    visit(ast.parse(module.path.read_text(encoding="utf-8")), module.now)


def imported(node: ast.AST, module: Module, known: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            keep = len(parts) - node.level + (module.path.name == "__init__.py")
            base = ".".join([*parts[:keep], *([base] if base else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield full if full in known else base


MODULES = find_modules()
SERVER = [name for name in MODULES if name.split(".")[0] == "choreo_wsgi"]
CLIENT = [name for name in MODULES if name.split(".")[0] == "choreoai"]


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in PACKAGES}


def unit(name: str) -> str:
    """Return the module or sub-package of choreo_wsgi that *name* is or belongs to."""
    return [*name.split("."), "__init__"][1]


def test_imports_are_found() -> None:
    assert MODULES["choreo_wsgi.sse"].now == {"__future__", "collections.abc", "re", "typing"}
    assert "choreo_wsgi.streams.stream" in MODULES["choreo_wsgi.app.application"].now
    assert "choreo_wsgi.providers.base" in MODULES["choreo_wsgi.providers"].now
    assert MODULES["choreo_wsgi"].later == {"choreo_wsgi.wsgi", "choreo_wsgi.app.application"}
    assert "choreo_wsgi.sse" in MODULES["choreo_wsgi.app.completions"].now


def test_every_module_imports_only_from_lower_layers() -> None:
    for name in SERVER:
        here = unit(name)
        assert here in LEVEL, f"{here} is in no layer"
        for target in own(MODULES[name].now) | MODULES[name].late:
            if (name, target) == ("choreo_wsgi.terminal", "choreoai"):
                continue  # ``choreo-wsgi chat`` uses the client
            assert target.startswith("choreo_wsgi"), f"{name} imports the client's {target}"
            there = unit(target)
            same_package = there == here and "." in name.removeprefix("choreo_wsgi.") + "."
            assert LEVEL[there] < LEVEL[here] or same_package, f"{name} imports {target}"


def test_late_modules_exist_and_match_their_type_checking_imports() -> None:
    """A wrong name would fail only at its first use, and the type checker cannot see it."""
    for module in MODULES.values():
        assert module.late <= set(MODULES)
        tree = ast.parse(module.path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
                continue
            checked = {
                alias.asname or alias.name: target
                for child in node.body
                if isinstance(child, ast.ImportFrom)
                for alias, target in zip(
                    child.names, imported(child, module, set(MODULES)), strict=True
                )
            }
            for child in node.orelse:
                if isinstance(child, ast.Assign) and "Late(" in ast.unparse(child):
                    name, call = map(ast.unparse, (child.targets[0], child.value))
                    assert call == f"Late({checked[name]!r})"


def test_layers_name_only_existing_modules() -> None:
    assert set(LEVEL) <= {unit(name) for name in SERVER}
    assert {f"choreo_wsgi.{name}" for name in PURE.split()} <= set(SERVER)


def test_imports_have_no_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in sorted(own(MODULES[name].now) - {name}):
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == set(MODULES)


def test_functions_import_no_module_of_this_project() -> None:
    for name in sorted(set(MODULES) - LAZY):
        assert not own(MODULES[name].later), name


def test_pure_modules_import_no_io() -> None:
    for name in PURE.split():
        module = MODULES[f"choreo_wsgi.{name}"]
        assert not {target.split(".")[0] for target in module.now | module.later} & IMPURE, name


def test_optional_packages_are_imported_only_by_their_modules() -> None:
    for name in MODULES:
        module = MODULES[name]
        for target in {target.split(".")[0] for target in module.now | module.later} & set(ONLY):
            assert name in ONLY[target], f"{name} imports {target}"


def test_client_imports_only_shared_modules() -> None:
    for name in CLIENT:
        module = MODULES[name]
        server = {
            target for target in module.now | module.later if target.startswith("choreo_wsgi")
        }
        assert server <= SHARED, name


# -- what an import loads -----------------------------------------------------------------


def imported_by(statement: str) -> set[str]:
    """Return the modules that *statement* loads in a new interpreter."""
    script = f"import sys; a = set(sys.modules); {statement}; import json; b = set(sys.modules)"
    script += "; print(json.dumps(sorted(b - a)))"
    run = [sys.executable, "-c", script]
    answer = subprocess.run(run, capture_output=True, check=True, timeout=60, cwd="/")
    return set(json.loads(answer.stdout))


def test_importing_the_package_loads_only_its_version() -> None:
    new = imported_by("import choreo_wsgi")
    assert {name for name in new if name.startswith("choreo_wsgi")} == {
        "choreo_wsgi",
        "choreo_wsgi.version",
    }
    assert not {"waitress", "requests", "socket", "ssl"} & new


def test_importing_the_client_loads_no_server() -> None:
    new = imported_by("from choreoai import ChoreoAI")
    assert {name for name in new if name.startswith("choreo_wsgi")} == {
        "choreo_wsgi",
        "choreo_wsgi.chat",
        "choreo_wsgi.chat.items",  # imported by the shared modules
        "choreo_wsgi.ids",
        "choreo_wsgi.chat.jsontext",
        "choreo_wsgi.late",
        "choreo_wsgi.upstream",
        *SHARED,
    }
    assert "waitress" not in new and "asyncio" not in new


def test_importing_the_application_loads_no_optional_package() -> None:
    new = imported_by("from choreo_wsgi import create_app")
    assert "choreo_wsgi.app.application" in new
    assert (
        not {
            "waitress",
            "redis",
            "sqlite3",
            "prometheus_client",
            "xllamacpp",
            "botocore",
            "asyncio",
        }
        & new
    )


# -- names ----------------------------------------------------------------------------------


def test_every_exported_name_exists() -> None:
    for name in sorted(set(MODULES) - {"choreo_wsgi.wsgi", "choreo_wsgi.__main__"}):
        if name == "choreo_wsgi.replay.redis":
            pytest.importorskip("redis")
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        if name == "choreo_wsgi":  # creating the app reads the environment
            exported = [item for item in exported if item != "app"]
        assert [item for item in exported if not hasattr(module, item)] == [], name
        assert len(set(exported)) == len(exported), name


def test_lazy_package_raises_attribute_error() -> None:
    module = importlib.import_module("choreo_wsgi")
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


def test_no_module_is_longer_than_320_lines() -> None:
    """Blank lines, comments and docstrings count."""
    sizes = {
        path: len(path.read_text("utf-8").splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert len(sizes) > 100
    assert {path: size for path, size in sizes.items() if size > 320} == {}
