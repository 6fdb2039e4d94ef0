"""A module folder with only this project and its two dependencies."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("waitress", "requests", "urllib3", "certifi", "idna", "charset-normalizer")


@contextmanager
def bare_site() -> Iterator[Path]:
    """Create a folder of links for the module path, which every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        site.chmod(0o755)
        for name in NEEDED:
            for file in distribution(name).files or ():
                top = file.parts[0]
                if top not in ("..", "__pycache__") and not (site / top).exists():
                    (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
        for ours in ("choreo_wsgi", "choreoai"):
            (site / ours).symlink_to(ROOT / ours)
        yield site
