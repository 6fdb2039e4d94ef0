"""The options of a call beside the API's parameters, and the decorator that declares both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from typing_extensions import TypeVar
    from typing_extensions import Unpack as Unpack

    #: The type that an answer is parsed into; None if it is not parsed.
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


#: The value of a parameter that was not passed: the client's or the server's default applies.
NOT_GIVEN = NotGiven()
omit = not_given = NOT_GIVEN


class Timeout(NamedTuple):
    """Limits in seconds; None means no limit.

    *connect*: for connecting (with TLS) to each address of the host, without the name look-up.
    *first_byte*: from the request to the first bytes of the answer; for a stream to its first
    chunk, because a server that sends pings while the model reads a long prompt has not answered
    yet.  *idle*: between two chunks of a stream, or two reads of a plain answer; a server's pings
    do not count.
    """

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    idle: float | None = 300.0


TimeoutLike = Timeout | tuple[float | None, float | None] | float | None | NotGiven

_LONGEST_TIMEOUT = 366 * 86400.0


def timeout_of(value: Any) -> Timeout:
    """Return *value* as a Timeout: a number is the limit for each of its parts.

    In httpx's Timeout and in requests' pair (*connect*, *read*) the read limit is used for
    *first_byte* and *idle*.  Raises ValueError for any other value.
    """
    if isinstance(value, NotGiven):
        return Timeout()
    if hasattr(value, "read"):
        value = (value.connect, value.read)
    if isinstance(value, tuple) and len(value) == 2:
        value = Timeout(value[0], value[1], value[1])
    parts = value if isinstance(value, Timeout) else (value, value, value)
    for part in parts:
        valid = part is None or (isinstance(part, (int, float)) and 0 < part <= _LONGEST_TIMEOUT)
        if not valid:
            raise ValueError("a timeout must be None, a Timeout, or seconds: over 0, up to a year")
    return Timeout(*parts)


def is_streamed(stream: Any) -> bool:
    """Return whether *stream* requests a stream; raises TypeError for what is no boolean."""
    if not isinstance(stream, bool | NotGiven | None):
        raise TypeError("stream must be True or False")
    return bool(stream)


#: Messages: dictionaries, objects of this package (an earlier answer's message), or objects with
#: ``model_dump`` or ``to_dict``, such as pydantic's and openai's.
Messages = Iterable[Any]


class CallOptions(TypedDict, total=False):
    """The options of a single call beside the API's own parameters.

    *timeout*, *max_retries* and *resumable* replace the client's own.  *extra_headers* and
    *extra_query* are added to the client's defaults; *extra_body* is merged into the JSON body
    and holds a provider's parameters that are not documented here.
    """

    timeout: TimeoutLike
    max_retries: int
    resumable: bool | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, object] | None
    extra_body: Mapping[str, Any] | None


#: The parameters that are required in each API that has them.
REQUIRED = frozenset(("model", "messages", "input"))


F = TypeVar("F", bound=Callable[..., Any])


def with_parameters(kind: Any) -> Callable[[F], F]:
    """Return a decorator that shows the members of *kind* in a signature, for ``**params``.

    Type checkers read the annotation; this is for ``help()``, notebooks and ``inspect``.
    """

    def declare(function: F) -> F:
        function.__name__ = function.__name__.strip("_")
        function.__qualname__ = function.__qualname__.replace("._", ".")
        signature = inspect.signature(function)
        shown = {p.name: p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD}
        for name, annotation in kind.__annotations__.items():
            default = Parameter.empty if name in REQUIRED else NOT_GIVEN
            parameter = Parameter(name, Parameter.KEYWORD_ONLY, default=default)
            shown.setdefault(name, parameter.replace(annotation=annotation.__forward_arg__))
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(shown.values())
        )
        return function

    return declare


def json_default(value: Any) -> Any:
    """Return *value* as a JSON type: the ``default`` function of ``json.dumps``.

    Raises TypeError for a value that has no JSON form.
    """
    if isinstance(value, Mapping):
        return dict(value)
    # Before iterables: pydantic's models (openai's too) iterate over pairs.
    if not isinstance(value, type):
        if callable(convert := getattr(value, "to_dict", None)):
            return convert()
        if callable(dump := getattr(value, "model_dump", None)):
            return dump(mode="json", exclude_unset=True, by_alias=True)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")
