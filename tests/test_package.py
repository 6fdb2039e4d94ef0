"""``choreo_wsgi:app`` is the callable, whatever was imported before it."""

from __future__ import annotations

import subprocess
import sys

import pytest


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
def test_the_name_app_is_the_callable(statements: str) -> None:
    program = f"{statements}; print(type(app).__name__, callable(app))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("Application True\n", "")
