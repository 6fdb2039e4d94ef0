"""Writes the generated files of the client: ``choreoai/sync``, objects, parameters, stubs.

Run ``python tests/generate/unasync.py`` to write them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import from_openai

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "choreoai"
SOURCE = PACKAGE / "aio"
TARGET = PACKAGE / "sync"

#: The replacements that turn the async client's code and docstrings into the sync client's.
WORDS = (
    (r'^"""The async client\..*\n', '"""The sync client, generated from ``choreoai/aio``."""\n'),
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncListing\((.*)\)$", r"\1"),
    (r"\bimport AsyncListing, ", "import "),
    (r"-> AsyncListing\b", "-> ModelList"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bAwaitable\[(.*?)\]", r"\1"),
    (r"\bCoroutine\[Any, Any, ((?:[^][]|\[[^][]*\])*)\]", r"\1"),
    (r", (?:Awaitable|Coroutine)\b|\b(?:Awaitable|Coroutine), ", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b(_?)Async(?=[A-Z])", r"\1"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\btransports\.(loops|nonblocking)\b", "transports.blocking"),
)


def translate(text: str, name: str) -> str:
    """Return the sync source of the module *name* for its async source *text*."""
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return formatted(text, TARGET / name)


def formatted(text: str, path: Path) -> str:
    """Return *text*, the source of *path*, as ruff formats it."""
    for arguments in (["check", "--fix", "--select", "I,F401"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet"]
        command += ["--stdin-filename", str(path), "-"]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = result.stdout
    return text


def face() -> str:
    """Return the stub of the package, with its public names, for type checkers."""
    from choreoai import ALIASES, FACE

    text = "from choreo_wsgi.version import __version__ as __version__\n"
    for module, names in FACE.items():
        text += "".join(f"from .{module} import {name} as {name}\n" for name in names.split())
    text += "".join(f"{alias} = {name}\n" for alias, name in ALIASES.items())
    return formatted(text, PACKAGE / "__init__.pyi")


WRAPPED_HEAD = """# Generated from the resources in this folder by `make sync`: the types of
# ``with_raw_response`` and ``with_streaming_response``.
from collections.abc import Coroutine
from typing import Any, Literal, overload
from .raw import AsyncRawResponse, AsyncStreamedResponse
from .client import AsyncChat
from .stream import AsyncStream
from .responses import AsyncResponseStream
from ..models import ChatCompletion, Model, ModelList, ParsedChatCompletion
from ..models import ParsedResponse, Response
from ..options import NOT_GIVEN, CallOptions, T, TimeoutLike, Unpack
from ..params import CreateCompletion, CreateResponse, ParseParams, ResponseParams
"""
CLIENT_WITH = """
class Async{form}Client:
    @property
    def chat(self) -> AsyncChat[Async{form}Completions]: ...
    @property
    def models(self) -> Async{form}Models: ...
    @property
    def responses(self) -> Async{form}Responses: ...
"""


def wrapped() -> str:
    """Return the stub of the resources' methods that return raw or streamed answers."""
    text = WRAPPED_HEAD
    for form in ("Raw", "Streamed"):
        for module in ("completions", "responses", "client"):
            for node in ast.parse((SOURCE / f"{module}.py").read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef) and "AsyncResource" in map(
                    ast.unparse, node.bases
                ):
                    text += f"class {node.name.replace('Async', f'Async{form}')}:\n"
                    text += "".join(method(member, form) for member in node.body)
        text += CLIENT_WITH.format(form=form)
    return formatted(text, SOURCE / "wrapped.pyi")


def method(node: ast.stmt, form: str) -> str:
    """Return the stub of *node*, a member of a resource, in the *form* Raw or Streamed."""
    if isinstance(node, ast.AnnAssign):  # create
        pattern = r"Coroutine\[Any, Any, (\w+)\]"
        result = rf"Async{form}Response[\1]"
        result = f"Coroutine[Any, Any, {result}]" if form == "Raw" else result
        return f"    {re.sub(pattern, result, ast.unparse(node).partition(' = ')[0])}\n"
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
        return ""
    decorators = [*map(ast.unparse, node.decorator_list)]
    if "asynccontextmanager" in decorators:
        return ""
    returned = ast.unparse(node.returns or ast.Constant(None)).replace("AsyncListing", "ModelList")
    keyword = "async def" if form == "Raw" else "def"
    text = "    @overload\n" if "overload" in decorators else ""
    text += f"    {keyword} {node.name}({ast.unparse(node.args)})"
    return "" if returned == "Any" else f"{text} -> Async{form}Response[{returned}]: ...\n"


def generated() -> Iterator[tuple[Path, str]]:
    """Yield the generated files and their texts."""
    for path in sorted(SOURCE.glob("*.py")):
        yield TARGET / path.name, translate(path.read_text(encoding="utf-8"), path.name)
    for module, text in from_openai.models():
        path = PACKAGE / "models" / f"{module}.py"
        yield path, formatted(text, path)
    yield PACKAGE / "params.py", formatted(from_openai.params(), PACKAGE / "params.py")
    yield PACKAGE / "__init__.pyi", face()
    yield SOURCE / "wrapped.pyi", wrapped()
    yield TARGET / "wrapped.pyi", translate(wrapped(), "wrapped.pyi")


if __name__ == "__main__":
    for path, text in generated():
        path.write_text(text, encoding="utf-8")
