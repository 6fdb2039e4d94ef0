"""What a call can ask for beside the API's parameters, and how both are declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from typing_extensions import TypeVar
    from typing_extensions import Unpack as Unpack

    #: What an answer is parsed as; None where nothing is to be parsed.
    T = TypeVar("T", default=None)
else:
    from typing import TypeVar

    T = TypeVar("T")  # Python 3.13 has defaults


class NotGiven:
    """The type of :data:`NOT_GIVEN`."""

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


#: Stands where a caller gave nothing: the client's own setting, or the server's, counts.
NOT_GIVEN = NotGiven()
omit = not_given = NOT_GIVEN


class Timeout(NamedTuple):
    """Limits in seconds; None means no limit.

    *connect*: name look-up aside, until the connection (with TLS) stands, for each address
    of the host.  *first_byte*: from the request until the answer begins; for a stream until
    its first chunk, because a server that pings while the model reads a long prompt has not
    answered yet.  *idle*: between two chunks of a stream, or two pieces of a plain answer; a
    server's pings do not count.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    idle: float | None = 300.0


TimeoutLike = Timeout | tuple[float | None, float | None] | float | None | NotGiven

_LONGEST_TIMEOUT = 366 * 86400.0


def timeout_of(value: Any) -> Timeout:
    """Return *value* as a Timeout: a number is the limit for each of its parts.

    httpx's Timeout, and the pairs *connect*, *read* of requests, limit the silence of a server.
    Raises ValueError for what is no time.
    """
    if isinstance(value, NotGiven):
        return Timeout()
    if hasattr(value, "read"):
        value = (value.connect, value.read)
    if isinstance(value, tuple) and len(value) == 2:
        value = Timeout(value[0], value[1], value[1])
    parts = value if isinstance(value, Timeout) else (value, value, value)
    for part in parts:
        right = part is None or (isinstance(part, (int, float)) and 0 < part <= _LONGEST_TIMEOUT)
        if not right:
            raise ValueError("a timeout must be None, a Timeout, or seconds: over 0, up to a year")
    return Timeout(*parts)


#: Messages as dictionaries, as objects of this package (an earlier answer's message), or as
#: anything with ``model_dump`` or ``to_dict``, such as pydantic's and openai's objects.
Messages = Iterable[Any]


class CallOptions(TypedDict, total=False):
    """What a single call can ask for beside the API's own parameters.

    *timeout*, *max_retries* and *resumable* stand in for the client's own.  *extra_headers*
    and *extra_query* are added to the client's defaults; *extra_body* is merged into the JSON
    body, and holds what a provider understands beyond the documented parameters.
    """

    timeout: TimeoutLike
    max_retries: int
    resumable: bool | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, Any] | None


#: What each API demands, where it has it.  The annotations are for type checkers alone.
REQUIRED = frozenset(("model", "messages", "input"))


F = TypeVar("F", bound=Callable[..., Any])


def declared(kind: Any) -> Callable[[F], F]:
    """Return what names the members of *kind* in a function's signature, for its ``**params``.

    Type checkers read the annotation; this is for ``help()``, notebooks and ``inspect``.
    """

    def declare(function: F) -> F:
        function.__name__ = function.__name__.strip("_")
        function.__qualname__ = function.__qualname__.replace("._", ".")
        signature = inspect.signature(function)
        named = {p.name: p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD}
        for name, annotation in kind.__annotations__.items():
            default = Parameter.empty if name in REQUIRED else NOT_GIVEN
            made = Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            named.setdefault(name, made.replace(annotation=annotation.__forward_arg__))
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(named.values())
        )
        return function

    return declare


def plain(value: Any) -> Any:
    """Return *value*, no JSON type by itself, as one: ``default`` of ``json.dumps``.

    Raises TypeError for what has no JSON form.
    """
    if isinstance(value, Mapping):
        return dict(value)
    # pydantic's models, openai's among them, iterate over pairs: asked before iterables are.
    if not isinstance(value, type):
        if callable(convert := getattr(value, "to_dict", None)):
            return convert()
        if callable(dump := getattr(value, "model_dump", None)):
            return dump(mode="json", exclude_unset=True, by_alias=True)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")
