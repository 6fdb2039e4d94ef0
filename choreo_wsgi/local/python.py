"""The Python interpreter for other processes of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def executable() -> str:
    """Return the path of the interpreter that this process runs on.

    Inside uWSGI and mod_wsgi ``sys.executable`` is the server's binary or empty; then the
    interpreter is where its environment keeps it.
    """
    if Path(sys.executable).name.lower().startswith(("python", "pypy")):
        return sys.executable
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in (version, "python3", "python", "Scripts/python.exe", "python.exe"):
        for folder in ("bin", ""):
            path = Path(sys.exec_prefix, folder, name)
            if path.is_file():
                return str(path)
    return version


def search_path() -> str:
    """Return ``PYTHONPATH`` with which another interpreter finds what this one does."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
