"""The APIs that are only forwarded to providers that support them: legacy completions, embeddings.

https://platform.openai.com/docs/api-reference/completions and /embeddings.
"""

from __future__ import annotations

from functools import partial

from ..chat.answer import AnswerWriter
from ..chat.checks import MAX_TOKENS, SAMPLING, model_name
from ..chat.items import Json, Marks
from ..chat.request import ChatRequest, loads_marked
from ..chat.schema import Fault, anything, check_of, demand, either, integer
from ..errors import InvalidRequest
from . import API

#: Limit of JSON values in a request: texts may be lists of tokens.  OpenAI accepts 2,048 lists and
#: 300,000 tokens; those in lists of at least 256 bytes are set aside and do not count.
_VALUES = 120_000
_TOKEN = integer(0)


def _prompt_list(value: Json) -> None:
    """Check a list: of texts, of the tokens of one text, or of lists of tokens."""
    if not (value and value[0] != []):
        raise Fault("must not be empty")
    kind = type(value[0])
    check_of([str if kind is str else [_TOKEN] if kind is list else _TOKEN])(value)


_PROMPT = either(str, anything, list, _prompt_list)
_CHECKS = {
    "completions": check_of(
        {
            **SAMPLING,
            "model!": model_name,
            "prompt!": _PROMPT,
            "stream echo": bool,
            "max_tokens": integer(0, MAX_TOKENS),
            "logprobs": integer(0, 5),
            "suffix": str,
            "best_of": integer(0, 20),
            "stream_options": {"include_usage": bool},
        }
    ),
    "embeddings": check_of(
        {
            "model!": model_name,
            "input!": _PROMPT,
            "dimensions": integer(1),
            "encoding_format": "float base64",
            "user": str,
        }
    ),
}


def _api(name: str) -> API:
    def request(fields: dict[str, Json], marks: Marks) -> ChatRequest:
        demand(_CHECKS[name], fields)
        prompts = fields.get("prompt")
        if not isinstance(prompts, list) or type(prompts[0]) is int:
            prompts = [prompts]
        return ChatRequest(
            model=fields["model"],
            messages=[],
            body={},
            stream=bool(fields.get("stream")),
            n=len(prompts) * int(fields.get("n") or 1),
            original=fields,
            native_only=InvalidRequest(f"this model has no {name}", param="model"),
            marks=marks,
        )

    parse = partial(loads_marked, values=_VALUES)
    return API(parse, request, lambda request: AnswerWriter(request.model, name))


APIS = {name: _api(name) for name in _CHECKS}
