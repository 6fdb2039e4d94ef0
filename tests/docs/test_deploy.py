"""The files of ``deploy/`` are valid, and work with their programs if these are installed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import kubernetes_validate
import pytest
import yaml
from bare_site import bare_site
from launched import Launched, accepts, environment, free_port, launch_nginx
from raw_server import Peer, RawServer

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"


def objects() -> Iterator[dict[str, Any]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def one(kind: str, name: str) -> Any:
    (found,) = [o for o in objects() if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def container(deployment: str) -> Any:
    (only,) = one("Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return only


# -- Kubernetes -----------------------------------------------------------------------------


def test_manifests_match_kubernetes_schemas() -> None:
    """Except the objects of the Gateway API, whose schemas are separate."""
    checked = [item for item in objects() if not item["apiVersion"].startswith("gateway.")]
    assert {item["kind"] for item in checked} >= {"Deployment", "ConfigMap", "NetworkPolicy"}
    for item in checked:
        kubernetes_validate.validate(item, "1.30", strict=True)


def test_pods_have_least_privileges() -> None:
    for item in objects():
        if item["kind"] != "Deployment":
            continue
        pod = item["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for each in pod["containers"]:
            assert each["imagePullPolicy"] == "IfNotPresent"
            assert not each["image"].endswith(":latest") and ":" in each["image"]
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_config_map_is_a_valid_configuration(tmp_path: Path) -> None:
    ini = tmp_path / "choreo.ini"
    ini.write_text(one("ConfigMap", "choreo-wsgi")["data"]["choreo.ini"])
    replay = "redis://:p@h:6379/0"
    variables = {"OPENAI_API_KEY": "k", "CHOREO_API_KEYS": "k", "CHOREO_REPLAY": replay}
    assert {each["name"] for each in container("choreo-wsgi")["env"]} >= set(variables)
    done = subprocess.run(
        [sys.executable, "-m", "choreo_wsgi", "models", "--config", str(ini)],
        env={**variables, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "openai" in done.stdout
    command = container("choreo-wsgi")
    (volume,) = [each for each in command["volumeMounts"] if each["name"] == "config"]
    assert command["args"] == ["serve", "--config", f"{volume['mountPath']}/choreo.ini"]


def test_redis_requires_password_and_admits_only_replicas(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    server = require_tool("redis-server", "redis-server")
    words = [
        word.replace("$(REDIS_PASSWORD)", "secret") for word in container("choreo-redis")["args"]
    ]
    port = free_port()
    process = subprocess.Popen(
        [server, *words, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        harness.wait_until(lambda: accepts(port), "Redis listens")
        with socket.create_connection(("127.0.0.1", port), harness.DEADLINE) as client:
            client.sendall(b"PING\r\n")
            assert client.recv(100).startswith(b"-NOAUTH")
            client.sendall(b"AUTH secret\r\n")
            assert client.recv(100) == b"+OK\r\n"
    finally:
        process.kill()
        process.wait()
    policy = one("NetworkPolicy", "choreo-redis")["spec"]
    labels = one("Deployment", "choreo-redis")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"] == labels
    (rule,) = policy["ingress"]
    (caller,) = rule["from"]
    assert caller["podSelector"]["matchLabels"] == {"app": "choreo-wsgi"}


def test_ingress_allows_long_streams_and_retries_no_post() -> None:
    notes = one("Ingress", "choreo-wsgi")["metadata"]["annotations"]
    notes = {name.rpartition("/")[2]: value for name, value in notes.items()}
    assert notes["proxy-read-timeout"] == "330" and notes["proxy-buffering"] == "off"
    assert "non_idempotent" not in notes["proxy-next-upstream"]
    (rule,) = one("HTTPRoute", "choreo-wsgi")["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"} and "retry" not in rule


# -- nginx ----------------------------------------------------------------------------------


def test_nginx_does_not_retry_accepted_post(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    require_tool("nginx", "nginx-light")
    # Replicas that accept a request and close the connection without a reply.
    replicas = [RawServer(Peer.close) for _ in range(3)]
    nginx = launch_nginx(tmp_path, [replica.port for replica in replicas])
    try:
        with harness.Client(("127.0.0.1", nginx.port)) as client:
            client.request("POST", "/v1/chat/completions", {"model": "echo", "messages": []})
            assert client.read_answer().status == 502
        assert sum(len(replica.requests) for replica in replicas) == 1
    finally:
        nginx.end()
        for replica in replicas:
            replica.close()


def test_nginx_tries_next_replica_if_one_is_unreachable(
    tmp_path: Path, require_tool: Callable[[str, str], str], serve: Callable[..., Any]
) -> None:
    require_tool("nginx", "nginx-light")
    server = serve(harness.make_app({"api_keys": "k"}))
    nginx = launch_nginx(tmp_path, [free_port(), free_port(), server.port])
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
    key = {"Authorization": "Bearer k"}
    try:
        for _ in range(4):
            with harness.Client(("127.0.0.1", nginx.port)) as client:
                client.request("POST", "/v1/chat/completions", body, key)
                assert client.read_answer().status == 200
    finally:
        nginx.end()


# -- Docker ---------------------------------------------------------------------------------


def test_dockerfile_copies_exactly_what_dockerignore_allows() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for name in line.split()[:-1]
    ]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / name).exists() for name in copied)


def test_docker_build_argument_selects_extras(tmp_path: Path) -> None:
    """In shell syntax: none, one and several."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    (words,) = re.findall(r'pip install --no-cache-dir (".+")$', text, re.MULTILINE)
    for extras, expected in (("", "."), ("redis", ".[redis]"), ("redis,local", ".[redis,local]")):
        printed = subprocess.run(
            ["sh", "-c", f"printf %s {words}"],
            env={"EXTRAS": extras},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert printed.stdout == expected


def test_docker_health_check_detects_missing_server(serve: Callable[..., Any]) -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    (program,) = re.findall(r'CMD \["python", "-c", \\\n +"(.+)"\]$', text, re.MULTILINE)
    server = serve(harness.make_app({"api_keys": "k"}))

    def run(port: int) -> int:
        words = [sys.executable, "-c", program.replace("127.0.0.1:8000", f"127.0.0.1:{port}")]
        return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode

    assert run(server.port) == 0
    assert run(free_port()) != 0


# -- systemd --------------------------------------------------------------------------------


def test_systemd_verifies_units(tmp_path: Path, require_tool: Callable[[str, str], str]) -> None:
    analyze = require_tool("systemd-analyze", "systemd")
    units = []
    for name in ("choreo-wsgi.service", "choreo-wsgi.socket"):
        text = (ROOT / "deploy" / name).read_text()
        units.append(tmp_path / name)
        units[-1].write_text(text.replace("/opt/choreo-wsgi/bin/choreo-wsgi", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", *units], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- mod_wsgi -------------------------------------------------------------------------------


def test_apache_forwards_authorization_header(require_tool: Callable[[str, str], str]) -> None:
    """With ``deploy/apache.conf`` in a real Apache, which drops the header by default."""
    apache = require_tool("apache2", "apache2-bin")
    module = Path("/usr/lib/apache2/modules/mod_wsgi.so")
    if not module.exists():
        require_tool("mod_wsgi", "libapache2-mod-wsgi-py3")
    with bare_site() as folder:
        (folder / "choreo.wsgi").write_text("from choreo_wsgi.wsgi import app as application\n")
        text = (ROOT / "deploy" / "apache.conf").read_text()
        text = text.replace("python-home=/opt/choreo-wsgi", f"home={folder} python-path={folder}")
        text = text.replace("/opt/choreo-wsgi", str(folder)).replace("threads=272", "threads=5")
        compiled = subprocess.run([apache, "-l"], capture_output=True, text=True, check=True)
        loads = [
            f"LoadModule {name}_module {module.parent}/mod_{name}.so"
            for name in ("mpm_event", "authn_core", "authz_core", "setenvif", "alias", "wsgi")
            if f"mod_{name}.c" not in compiled.stdout
        ]
        who = ["User nobody", "Group nogroup"] if os.geteuid() == 0 else []
        port = free_port()
        lines = [
            *(f"ServerRoot {folder}", "ServerName localhost", f"PidFile {folder}/pid"),
            *(f"Listen 127.0.0.1:{port}", f"ErrorLog {folder}/errors", f"Mutex file:{folder}"),
            *(*who, *loads, f"WSGISocketPrefix {folder}/wsgi", text),
        ]
        (folder / "apache.conf").write_text("\n".join(lines))
        words = [apache, "-f", str(folder / "apache.conf"), "-DFOREGROUND"]
        keys = {"CHOREO_API_KEYS": "k", "CHOREO_DEFAULT_MODEL": "none"}
        one = Launched(words, port, environment(folder, **keys), folder / "log")
        body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        key = {"Authorization": "Bearer k"}
        try:
            with one.connect() as client:
                answer = client.exchange("GET", "/v1/models")
                assert answer.status == 401, (folder / "errors").read_text()
            with one.connect() as client:
                client.request("POST", "/v1/chat/completions", body, key)
                assert client.read_head().status == 200
                assert json.loads(client.read_frame()[6:])["model"] == "echo"
        finally:
            one.abandon()


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*")), ids=lambda p: p.name)
def test_every_deploy_file_is_documented(path: Path) -> None:
    if path.is_file():
        pages = [*(ROOT / "docs").glob("*.rst"), ROOT / "README.rst"]
        assert any(path.name in page.read_text() for page in pages), "no page describes it"
