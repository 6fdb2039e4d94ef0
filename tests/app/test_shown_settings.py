"""The ini file that ``choreo-wsgi settings`` prints."""

from __future__ import annotations

from pathlib import Path

from choreo_wsgi.app.shown import as_ini
from choreo_wsgi.cli import setting_text
from choreo_wsgi.settings import configure


def test_printed_sections_are_read_back_the_same(tmp_path: Path) -> None:
    """Values over several lines too, and the names of variables in the place of secrets."""
    path = tmp_path / "choreo.ini"
    path.write_text("[provider o]\ntype = openai\napi_key = env:A_KEY\nmodels = a,\n  b = c\n")
    first = configure({}, {"A_KEY": "hidden"}, str(path))
    text = "\n".join(as_ini(first, setting_text))
    assert "api_key = env:A_KEY\n" in text and "hidden" not in text
    path.write_text(text)
    assert configure({}, {"A_KEY": "hidden"}, str(path)).providers == first.providers
