"""Generates ``choreoai/models`` and ``choreoai/params.py`` from the types of the openai package.

So each object has the documented members in their order, and each call the documented parameters.
This module only lists the classes, describes them, and adds members that OpenAI's do not have.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from inspect import cleandoc
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typing_extensions import Required, get_type_hints

#: Each class with the class of openai that provides its members, and its docstring; then the
#: members that are never None (``!``), those that openai's class does not have (``+``), and those
#: that have another type here.
MODELS = {
    "chat": """
Function = types.chat.chat_completion_message_function_tool_call.Function
    The function of a call; *arguments* is JSON text, *parsed_arguments* its value.
    + parsed_arguments: Any
ToolCall = types.chat.ChatCompletionMessageFunctionToolCall
    A tool call.
    ! function
ChunkToolCall = types.chat.chat_completion_chunk.ChoiceDeltaToolCall
    A piece of the tool call number *index*.
    ! function
    function: Function
URLCitation = types.chat.chat_completion_message.AnnotationURLCitation
    A web page cited from *start_index* to *end_index* of the text.
Annotation = types.chat.chat_completion_message.Annotation
    An annotation of the text.
Audio = types.chat.ChatCompletionAudio
    Spoken output of the model; *data* is base64.
Message = types.chat.ChatCompletionMessage
    A message of the model.
    function_call: Function
    tool_calls: list[ToolCall]
    + reasoning_content: str
Delta = types.chat.chat_completion_chunk.ChoiceDelta
    A piece of a message.
    audio: Audio
    function_call: Function
    + annotations: list[Annotation]
    + reasoning_content: str
PromptTokensDetails = types.completion_usage.PromptTokensDetails
    The numbers of input tokens by kind.
CompletionTokensDetails = types.completion_usage.CompletionTokensDetails
    The numbers of output tokens by kind.
Usage = types.CompletionUsage
    The numbers of input and output tokens of the call.
TopLogprob = types.chat.chat_completion_token_logprob.TopLogprob
    An alternative token and the logarithm of its probability.
TokenLogprob = types.chat.ChatCompletionTokenLogprob
    A token of the answer, and the most probable tokens in its place.
Logprobs = types.chat.chat_completion.ChoiceLogprobs
    The tokens of a choice with their probabilities.
Choice = types.chat.chat_completion.Choice
    One of the *n* answers.
    ! index message
ChunkChoice = types.chat.chat_completion_chunk.Choice
    A piece of one of the *n* answers.
    ! delta index
    logprobs: Logprobs
ChatCompletion = types.chat.ChatCompletion
    A whole answer.
    ! choices
ChatCompletionChunk = types.chat.ChatCompletionChunk
    A piece of a streamed answer; the last one may have the usage and no choices.
    ! choices
ParsedMessage(Message, Generic[T])
    A message; *parsed* is its content, None for a refusal.
    parsed: T
ParsedChoice(Choice, Generic[T])
    One of the answers, parsed.
    ! message
    message: ParsedMessage[T]
ParsedChatCompletion(ChatCompletion, Generic[T])
    A whole answer, parsed.
    ! choices
    choices: list[ParsedChoice[T]]
Model = types.Model
    A model of the server; requests name it by its *id*.
ModelList(Listing)
    The models of a server; iterating yields those in *data*.
    ! data
    data: list[Model]
    object: str
""",
    "responses": """
ResponsePart
    A part of a message or of reasoning: output_text, refusal, summary_text ...
    ! type
    type: str
    text: str
    refusal: str
    annotations: list[Any]
    + parsed: Any
ResponseItem
    An output item: message, reasoning, function_call, custom_tool_call ...
    ! id type content summary
    id: str
    type: str
    status: str
    role: str
    content: list[ResponsePart]
    summary: list[ResponsePart]
    call_id: str
    name: str
    arguments: str
    input: str
    encrypted_content: str
    + parsed_arguments: Any
ResponseFailure
    The error of a failed response, or the *reason* of an incomplete one.
    code: str
    message: str
    reason: str
InputTokensDetails = types.responses.response_usage.InputTokensDetails
    The numbers of input tokens by kind.
OutputTokensDetails = types.responses.response_usage.OutputTokensDetails
    The numbers of output tokens by kind.
ResponseUsage = types.responses.ResponseUsage
    The numbers of tokens of a response.
    ! input_tokens output_tokens
Response(ResponseText) = types.responses.Response
    A response, whole or so far: see its *status*.
    ! id model output status
    error: ResponseFailure
    incomplete_details: ResponseFailure
    output: list[ResponseItem]
ParsedResponse(Response, ParsedText[T])
    A response whose texts were parsed.
ResponseEvent
    An event of a response's stream; its members depend on the *type*.
    ! type sequence_number
    type: str
    sequence_number: int
    response: Response
    item: ResponseItem
    part: ResponsePart
    delta: str
    text: str
    arguments: str
    output_index: int
""",
    "events": """
ContentDeltaEvent = lib.streaming.chat.ContentDeltaEvent
    A piece of the text, *delta*; *snapshot* is the text so far, *parsed* its value as JSON.
    ! type delta snapshot
ContentDoneEvent(Object, Generic[T]) = lib.streaming.chat.ContentDoneEvent
    The text is complete.
    ! type content
    parsed: T
RefusalDeltaEvent = lib.streaming.chat.RefusalDeltaEvent
    A piece of the refusal.
    ! type delta snapshot
RefusalDoneEvent = lib.streaming.chat.RefusalDoneEvent
    The refusal is complete.
    ! type refusal
FunctionToolCallArgumentsDeltaEvent = lib.streaming.chat.FunctionToolCallArgumentsDeltaEvent
    A piece of a call's *arguments*, *arguments_delta*.
    ! type name index arguments arguments_delta
FunctionToolCallArgumentsDoneEvent = lib.streaming.chat.FunctionToolCallArgumentsDoneEvent
    The *arguments* of a call are complete.
    ! type name index arguments
LogprobsContentDeltaEvent = lib.streaming.chat.LogprobsContentDeltaEvent
    The probabilities of new tokens of the text.
    ! type content snapshot
LogprobsContentDoneEvent = lib.streaming.chat.LogprobsContentDoneEvent
    The probabilities of the text's tokens are complete.
    ! type content
LogprobsRefusalDeltaEvent = lib.streaming.chat.LogprobsRefusalDeltaEvent
    The probabilities of new tokens of a refusal.
    ! type refusal snapshot
LogprobsRefusalDoneEvent = lib.streaming.chat.LogprobsRefusalDoneEvent
    The probabilities of a refusal's tokens are complete.
    ! type refusal
""",
}

MODEL_HEAD = """
from __future__ import annotations
from typing import Any, Generic, Literal, Union
from ..objects import Listing, Object, ParsedText, ResponseText
from ..options import T
"""

#: The parameters that have another type here: servers have more models and tiers than OpenAI.
PARAMS = {
    "model": "Required[str]",
    "messages": "Required[Messages]",
    "input": "Required[Any]",
    "include": "Iterable[str] | None",
    "metadata": "Mapping[str, str] | None",
    "parallel_tool_calls": "bool | None",
    "service_tier": "str | None",
    "tools": "Iterable[Any]",
}

PARAM_HEAD = '''
"""The documented parameters, generated from the types of openai {version} by `make sync`.

With them a type checker knows every parameter of ``create``, ``parse`` and ``stream``; a
misspelled one is an error for the type checker and at run time.
"""
from __future__ import annotations
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload
from .options import CallOptions, Messages, T
if TYPE_CHECKING:
    from typing_extensions import Required, Unpack

'''
PARAM_TAIL = '''
class FormattedParams(CompletionParams, total=False):
    """The parameters of ``create``, where the response format is JSON and not a type."""

    response_format: Mapping[str, Any]

if TYPE_CHECKING:  # generic TypedDicts need Python 3.11

    class ParseParams(CompletionParams, Generic[T], total=False):
        """The parameters of ``parse`` and ``stream``: the format may be a type."""

        response_format: type[T] | Mapping[str, Any] | None

    W = TypeVar("W", covariant=True)
    S = TypeVar("S", covariant=True)
'''
CREATE = '''
    class Create{api}(Protocol[W, S]):
        """The signature of ``create``, which returns *W*, or *S* for a stream."""

        @overload
        def __call__(
            self, *, stream: Literal[False] | None = None, **params: Unpack[{params}]
        ) -> W: ...
        @overload
        def __call__(self, *, stream: Literal[True], **params: Unpack[{params}]) -> S: ...
        @overload
        def __call__(self, *, stream: bool | None, **params: Unpack[{params}]) -> W | S: ...
'''


def find(path: str) -> Any:
    """Return the class of openai at *path*."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"openai.{module}"), name)


def spelled(kind: Any, known: Mapping[Any, str], narrow: bool = False) -> str:
    """Return the annotation for *kind*, a type of openai's; *known* are the classes made so far.

    A type without a name here is ``Any``; with *narrow* (for parameters) dictionaries are
    Mappings, and strings of a few values are Literals.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind in known:
        return known[kind]
    if kind in (str, int, float, bool):
        return str(kind.__name__)
    if kind is type(None):
        return "None"
    if origin in (Required, Annotated):
        return spelled(parts[0], known, narrow)
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parts))}]" if narrow else "str"
    if origin in (Union, types.UnionType):
        names = dict.fromkeys(spelled(part, known, narrow) for part in parts)
        names = dict.fromkeys(sorted(names, key="None".__eq__))
        if "str" in names and narrow:
            names = {name: None for name in names if not name.startswith("Literal")}
        return " | ".join(names) if narrow or len(names) <= 2 - ("None" not in names) else "Any"
    inside = [spelled(part, known, narrow) for part in parts]
    if origin is dict:
        return f"{'Mapping' if narrow else 'dict'}[{', '.join(inside)}]"
    if origin is list:
        return f"{'Sequence' if narrow else 'list'}[{inside[0]}]"
    if origin is not None and narrow:
        return f"{origin.__name__}[{inside[0]}]"
    return "Mapping[str, Any]" if narrow else "Any"


def types_of(source: str) -> list[tuple[str, str]]:
    """Return the value of the member ``type`` and the name of each class in *source*."""
    return [
        (k, n) for n, k in re.findall(r"class (\w+)[^:]*:.*?type: Literal\[(.*?)\]", source, re.S)
    ]


def models() -> Iterator[tuple[str, str]]:
    """Yield the names and the sources of the modules of ``choreoai.models``."""
    known: dict[Any, str] = {}
    homes: dict[str, str] = {}
    for module, spec in MODELS.items():
        body = ""
        for block in cleandoc(spec).replace("\n    ", "\0").split("\n"):
            declared, doc, *rows = block.split("\0")
            declared, _, path = declared.partition(" = ")
            name, _, bases = declared.removesuffix(")").partition("(")
            homes[name] = module
            theirs = find(path) if path else None
            members = {}
            if theirs is not None:
                known[theirs] = name
                for member, field in theirs.model_fields.items():
                    members[member] = spelled(field.annotation, known)
                    if member == "type" and module == "events":
                        members[member] = spelled(field.annotation, known, narrow=True)
            always = {*rows[0][2:].split()} if rows and rows[0][0] == "!" else set()
            extensions = []
            for row in rows[bool(always) :]:
                member, kind = row.removeprefix("+ ").split(": ")
                members[member] = kind
                extensions += [member] if row[0] == "+" else []
            body += f'class {name}({bases or "Object"}):\n    """{doc}"""\n\n'
            body += f"    _extensions = frozenset({tuple(extensions)!r})\n" if extensions else ""
            for member, kind in members.items():
                kind = kind.removesuffix(" | None")
                ignored = "  # type: ignore[assignment]" if "[ParsedChoice" in kind else ""
                absent = " = None" if kind == "Any" else " | None = None"
                body += f"    {member}: {kind}{ignored if member in always else absent}\n"
        head = f'"""Generated from the types of openai {version("openai")} by `make sync`."""\n'
        head += MODEL_HEAD
        for name, home in homes.items():
            head += f"from .{home} import {name}\n" if home != module and name in body else ""
        if module == "events":
            body += "BY_TYPE: dict[str, type[Object]] = {\n"
            for kind, name in types_of(body):
                body += f"    {kind}: {name},\n"
            body += "}\nStreamEvent = Union[\n"
            for _, name in types_of(body):
                generic = f"class {name}(Object, Generic[T])" in body
                body += f"    {name}{'[T]' if generic else ''},\n"
            body += "]\n"
        yield module, head + body
    face = (
        '"""The API\'s objects, with the members of openai\'s, and the events of ``stream()``."""\n'
    )
    yield "__init__", face + "".join(f"from .{h} import {n} as {n}\n" for n, h in homes.items())


def params() -> str:
    """Return the module ``choreoai.params``."""
    text = PARAM_HEAD.format(version=version("openai"))
    for name, api, path in (
        ("CompletionParams", "chat completions", "chat.completion_create_params.CompletionCreate"),
        ("ResponseParams", "responses", "responses.response_create_params.ResponseCreate"),
    ):
        text += f"class {name}(CallOptions, total=False):\n"
        text += f'    """The parameters of {api}, as in OpenAI\'s reference."""\n\n'
        theirs = get_type_hints(find(f"types.{path}ParamsBase"), include_extras=True)
        for member, kind in theirs.items():
            if member != "response_format":
                text += f"    {member}: {PARAMS.get(member) or spelled(kind, {}, narrow=True)}\n"
    text += PARAM_TAIL + CREATE.format(api="Completion", params="FormattedParams")
    return text + CREATE.format(api="Response", params="ResponseParams")
