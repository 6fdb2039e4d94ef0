"""The relay's tests use the upstream server and the fixtures of ``tests/upstream``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_UPSTREAM = Path(__file__).parent.parent / "upstream"
sys.path.insert(0, str(_UPSTREAM))
_spec = importlib.util.spec_from_file_location("upstream_fixtures", _UPSTREAM / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

client = _fixtures.client
tls = _fixtures.tls
upstream = _fixtures.upstream
