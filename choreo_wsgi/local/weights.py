"""The default local model: its file, and the place of that on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: The requirement of the extra ``local``.
RUNTIME = "xllamacpp==2026.10.11549"

#: A model of 135 million parameters: its sentences are grammatical, but often wrong.
NAME = "SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> Path | None:
    """Return the folder for fetched models; it need not exist.

    It is in ``XDG_CACHE_HOME`` if that is an absolute path (the XDG base directory specification
    says to ignore others), else in the usual place of the *platform*.  None if there is no home
    folder: the user of a container may have none.
    """
    environ = os.environ if environ is None else environ
    xdg = environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():
        return Path(xdg) / "choreo-wsgi"
    if platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "choreo-wsgi"
    try:
        home = Path(environ.get("HOME", "~")).expanduser()
    except RuntimeError:
        return None
    if not home.is_absolute():  # HOME is empty or relative
        return None
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "choreo-wsgi"


def model_path() -> Path | None:
    """Return the path of the file, which may not be fetched yet; None without a home folder."""
    folder = cache_folder()
    return None if folder is None else folder / FILE


def missing() -> str:
    """Return the command that installs the missing part of the default model, or ``""``."""
    if importlib.util.find_spec("xllamacpp") is None:
        return f"pip install {RUNTIME}"
    path = model_path()
    return "" if path is not None and path.is_file() else "choreo-wsgi fetch-model"
