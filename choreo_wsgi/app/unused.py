"""A warning for settings that have no effect beside others: most likely a mistake."""

from __future__ import annotations

import logging
import re

from ..settings import Configuration, table

logger = logging.getLogger(__name__)


def warn_unused(configuration: Configuration) -> None:
    """Log a warning for each setting that differs from its default and has no effect."""
    it = configuration.settings
    ports = it.listen and all(re.search(r":[0-9]+$", text) for text in it.listen)
    redis = not it.replay.startswith(("memory:", "sqlite:"))
    too_long = it.local_max_tokens > it.local_max_tokens_limit
    too_large = not redis and it.replay_stream_bytes > it.replay_total_bytes
    too_many = it.max_orphans_per_key > (it.max_orphans or it.max_streams)
    entries: dict[str, tuple[object, str]] = {
        "listen": (it.unix_socket, "beside unix_socket"),
        "host": (it.listen or it.unix_socket, "beside listen or unix_socket"),
        "port": (ports or it.unix_socket, "beside addresses with ports, or unix_socket"),
        "allow_anonymous": (configuration.has_keys, "beside API keys"),
        "cors_origins": (not configuration.has_keys, "without API keys"),
        "local_max_tokens": (too_long, "above local_max_tokens_limit"),
        "replay_stream_bytes": (too_large, "above replay_total_bytes"),
        "replay_total_bytes": (redis, "with Redis, which its maxmemory bounds"),
        "max_orphans_per_key": (too_many, "above max_orphans, or max_streams without it"),
        "metrics_key": (not it.metrics, "without metrics = true"),
    }
    for item, _ in table():
        idle, why = entries.get(item.name, (False, ""))
        if idle and getattr(it, item.name) != item.default:
            logger.warning("%s has no effect %s", item.name, why)
