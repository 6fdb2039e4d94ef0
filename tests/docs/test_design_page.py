"""The design page names packages and modules that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "choreo_wsgi"


def packages() -> tuple[set[str], str, str]:
    """Return the packages drawn by ``docs/rooms.py``, its picture, and the committed picture."""
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "rooms.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = {name for floor in module.FLOORS for name, _ in floor}
    return drawn, module.picture(), module.PICTURE.read_text(encoding="utf-8")


def test_picture_shows_every_package_and_is_current() -> None:
    drawn, picture, committed = packages()
    existing = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    existing |= {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert drawn == existing
    assert committed == picture, "python docs/rooms.py draws it"


def test_picture_stacks_packages_in_import_order() -> None:
    drawn, _, committed = packages()
    layers = (ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8")
    table = re.search(r'LAYERS = """\n(.*?)"""', layers, re.DOTALL)
    assert table
    level = {name: n for n, line in enumerate(table[1].split("\n")) for name in line.split()}
    height = {
        name: int(y)
        for y, name in re.findall(r'y="(\d+)" text-anchor="middle" [^>]*bold">(\w+)<', committed)
    }
    assert set(height) == drawn
    for upper in drawn:
        for lower in drawn:
            if level[upper] > level[lower]:
                assert height[upper] <= height[lower] + 9, f"{upper} stands above {lower}"


def test_every_named_module_exists() -> None:
    text = (ROOT / "docs" / "design.rst").read_text(encoding="utf-8")
    named = re.findall(r"``([a-z]+(?:/[a-z_]+)+)``", text)
    assert len(named) > 30
    homes = (PACKAGE, ROOT)
    missing = [
        name
        for name in named
        if not any((home / name).is_dir() or (home / f"{name}.py").is_file() for home in homes)
    ]
    assert missing == []
