"""The package's public ``app``, and the script that installs the tests' tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "statements",
    [
        "from choreo_wsgi import app",
        "import choreo_wsgi; app = choreo_wsgi.app; app = choreo_wsgi.app",
        "import choreo_wsgi.app.application; from choreo_wsgi import app",
        "from choreo_wsgi import create_app, app",
        "from choreo_wsgi.wsgi import app",
    ],
)
def test_app_is_the_wsgi_callable(statements: str) -> None:
    program = f"{statements}; print(type(app).__name__, callable(app))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("Application True\n", "")


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_missing_tools_fail_only_in_ci(tmp_path: Path, ci: str, status: int) -> None:
    """``make tools`` on a machine without tools and without a package manager."""
    shell = shutil.which("sh")
    assert shell
    done = subprocess.run(
        [shell, str(ROOT / "tests" / "tools.sh")],
        env={"PATH": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status
    for name in ("nginx-light", "redis-server", "chromium", "npm"):
        assert name in done.stderr


def test_ci_script_exports_ci() -> None:
    assert "export CI=true" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
