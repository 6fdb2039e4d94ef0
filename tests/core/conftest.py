from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import harness
import pytest

from choreo_wsgi.application import Application


@pytest.fixture
def application() -> Iterator[Callable[..., Application]]:
    """``application(sections, **settings)``: closed when the test is over, nothing running."""
    made: list[Application] = []

    def make(
        sections: Mapping[str, Mapping[str, str]] | None = None, **settings: str
    ) -> Application:
        named = {f"provider {name}": section for name, section in (sections or {}).items()}
        common = {"default_model": "none", "listen": "127.0.0.1:0", "drain_seconds": "0"}
        made.append(harness.make_app({**common, **settings}, named))
        return made[-1]

    yield make
    for app in made:
        harness.wait_until(lambda app=app: app.active == 0, "a slot was never given back")
        app.close()
