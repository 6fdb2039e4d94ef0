"""The API pages describe every request member of the official SDKs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from anthropic.types.beta import message_count_tokens_params, message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.responses import response_create_params

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "title", "params"),
    [
        ("responses", "Request members", response_create_params.ResponseCreateParamsBase),
        ("messages", "Request members", message_create_params.MessageCreateParamsBase),
        ("messages", "Request members",
         message_count_tokens_params.MessageCountTokensParams),
        ("messages", "Completions and embeddings",
         completion_create_params.CompletionCreateParamsBase),
        ("messages", "Completions and embeddings", embedding_create_params.EmbeddingCreateParams),
    ],
)  # fmt: skip
def test_table_has_every_member_of_sdk(page: str, title: str, params: Any) -> None:
    text = (DOCS / f"{page}.rst").read_text("utf-8")
    table = text.partition(f"{title}\n---")[2].partition("list-table::")[2]
    table = re.split(r"\n\n\S", table)[0]
    rows = re.findall(r"\n   \* - (.*?)\n     - ", table, re.DOTALL)
    named = {name for row in rows for name in re.findall(r"``(\w+)[\w.]*``", row)}
    assert get_type_hints(params).keys() - named == set()
