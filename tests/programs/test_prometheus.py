"""The alert rules and the dashboard of ``deploy/``, with a real Prometheus and real numbers."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import harness
import pytest
import requests
from launched import ROOT, Launched, environment, free_port, running

DEPLOY = ROOT / "deploy"
INI = """
[choreo]
metrics = on
default_model = none

[provider down]
type = openai
base_url = http://127.0.0.1:1/v1
api_key = k
models = failing
priority = 1

[provider spare]
type = echo
models = failing
priority = 2
"""


def expressions() -> dict[str, str]:
    """Return each query of the dashboard by its panel's title, as Grafana would send it."""
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    found = {}
    for panel in board["panels"]:
        for number, target in enumerate(panel["targets"]):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            assert "$" not in text
            found[f"{panel['title']} {number}"] = text
    return found


@pytest.mark.parametrize("words", [["check", "rules", "alerts.yml"], ["check", "config"], ["test"]])
def test_promtool_accepts_the_files(words: list[str]) -> None:
    files = {"config": ["prometheus.yml"], "test": ["rules", "alerts_test.yml"]}
    words = [*words, *files.get(words[-1], [])]
    promtool = harness.require_tool("promtool", "prometheus")
    run = subprocess.run(
        [promtool, *words],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that scrapes a server with some requests."""
    program = harness.require_tool("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with running(folder, INI) as server:
        body = {"model": "echo", "messages": [{"role": "user", "content": "a b c"}], "stream": True}
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}").replace("15s", "1s")
        (folder / "prometheus.yml").write_text(text)
        (folder / "alerts.yml").write_text((DEPLOY / "prometheus" / "alerts.yml").read_text())
        port = free_port()
        words = [program, "--config.file=prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        words += [f"--web.listen-address=127.0.0.1:{port}"]
        one = Launched(words, port, environment(folder), folder / "prometheus.log", folder)
        url = f"http://127.0.0.1:{port}"

        def has_scraped() -> bool:
            for model in ("echo", "unknown", "failing"):
                requests.post(
                    f"{server.url}/v1/chat/completions", json={**body, "model": model}, timeout=10
                ).close()
            ready = "rate(choreo_frame_gap_seconds_count[1m]) > 0 and on() choreo_breaker_open"
            return bool(query(url, ready))

        try:
            harness.wait_until(has_scraped, "Prometheus has scraped several times", 60)
            yield url
        finally:
            one.process.terminate()
            one.process.wait(harness.DEADLINE)


def query(url: str, text: str) -> list[Any]:
    answer = requests.get(f"{url}/api/v1/query", params={"query": text}, timeout=10)
    if answer.status_code == 503:  # it is still starting
        return []
    assert answer.status_code == 200, (text, answer.text)
    return list(answer.json()["data"]["result"])


@pytest.mark.parametrize("name", expressions())
def test_each_panel_has_data(prometheus: str, name: str) -> None:
    found = query(prometheus, expressions()[name])
    assert found


def test_alerts_name_existing_metrics(prometheus: str) -> None:
    rules = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    answer = requests.get(f"{prometheus}/api/v1/label/__name__/values", timeout=10)
    known = set(answer.json()["data"])
    assert set(re.findall(r"choreo_\w+", rules)) <= known
    loaded = requests.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"]
    assert len(loaded[0]["rules"]) == rules.count("alert: ")


def test_dashboard_is_valid_for_grafana() -> None:
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids) and board["uid"] and board["schemaVersion"] >= 36
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
