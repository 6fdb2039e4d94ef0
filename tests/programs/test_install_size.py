"""``pip install .`` into an empty environment stays small."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from launched import ROOT

MEGABYTE = 1_000_000


def test_installation_is_small(tmp_path: Path) -> None:
    """At most 8 packages and 10 MB without pip, and the command runs with only these."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("choreo_wsgi", "choreoai"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
    python = target / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, str(source)], check=True, timeout=300)
    listed = subprocess.run([*pip, "list", "--format=json"], capture_output=True, check=True)
    names = {package["name"] for package in json.loads(listed.stdout)}
    assert {"choreo-wsgi", "waitress", "requests"} <= names
    assert len(names) <= 8, names
    packages = next((target / "lib").glob("python*/site-packages"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < 10 * MEGABYTE
    command = [str(target / "bin" / "choreo-wsgi"), "settings"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert printed.stdout.startswith("[choreo]\n")
