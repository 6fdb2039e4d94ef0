"""The default local model: which file it is, and where it is kept on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

#: The extra ``local``, as pip names it.
RUNTIME = "xllamacpp==2026.10.11549"

#: 135 million parameters: answers in grammatical sentences, which are often wrong.
NAME = "SmolLM2-135M-Instruct"
LICENCE = "Apache-2.0"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder(
    environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> Path | None:
    """Return the folder for fetched models; it need not exist.

    ``XDG_CACHE_HOME`` comes first on every *platform* when it is an absolute path (the XDG
    base directory specification says to ignore others), then the platform's own place.  None
    where there is no home folder: a container's user may have none.
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
    if not home.is_absolute():  # nor is an empty HOME a place
        return None
    return home / ("Library/Caches" if platform == "darwin" else ".cache") / "choreo-wsgi"


def model_path() -> Path | None:
    """Return where the file is, or will be once it is fetched; None without a home folder."""
    folder = cache_folder()
    return None if folder is None else folder / FILE


def missing() -> str:
    """Return the command that installs what the default model lacks here, or nothing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return f"pip install {RUNTIME}"
    path = model_path()
    return "" if path is not None and path.is_file() else "choreo-wsgi fetch-model"
