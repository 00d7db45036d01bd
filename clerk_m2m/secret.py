"""Text that must not be printed by accident."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Final, NoReturn, Self, SupportsIndex, TypeAlias, TypeVar

T = TypeVar("T")

# What a callable gives that is asked for a key.
KeyAnswer: TypeAlias = "str | Secret | Awaitable[str | Secret]"

# The beginnings of Clerk's secret keys, API keys, machine keys and tokens; `eyJ` begins a JWT.
_CREDENTIAL: Final = re.compile(r"(?<![A-Za-z0-9])(sk_|ak_|mt_|oat_|eyJ)[A-Za-z0-9_\-.~+/=]{8,}")


class Secret:
    """A key or a token whose `repr` and `str` hide it; `reveal()` gives the text.

    It cannot be pickled, and neither can what holds one. A copy of it is itself. In pydantic (and
    so in an answer of FastAPI) it is written to JSON as `…`: to give it away, say `reveal()`.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | Secret) -> None:
        """Wrap `text`; wrapping a `Secret` again changes nothing."""
        self._text: str = text._text if isinstance(text, Secret) else text

    def reveal(self) -> str:
        """Give the text itself, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('…')"

    def __str__(self) -> str:
        return "…"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled("A Secret")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> Any:
        """Tell pydantic how a `Secret` is read (from text) and written (hidden)."""
        from pydantic_core import core_schema  # only pydantic calls this

        text = core_schema.str_schema()
        from_text = core_schema.no_info_after_validator_function(cls, text)
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), from_text]
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(
                str, when_used="json", return_schema=text
            ),
        )


class SecretCallable:
    """A callable that gives a key. Its `repr` hides what it wraps, which may hold one.

    (`functools.partial` shows its arguments.) Text that it gives is a `Secret` at once. `is_async`
    tells whether it is a coroutine function. It cannot be pickled. A copy of it is itself.
    """

    __slots__ = ("_call", "is_async")

    def __init__(self, call: Callable[[], KeyAnswer]) -> None:
        self._call = call
        self.is_async = iscoroutinefunction(call) or iscoroutinefunction(
            getattr(call, "__call__", None)  # noqa: B004  an object whose `__call__` is async
        )

    def __call__(self) -> KeyAnswer:
        given: KeyAnswer = hidden(self._call())
        return given

    def __repr__(self) -> str:
        return "<a callable that gives a key>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretCallable) and bool(self._call == other._call)

    def __hash__(self) -> int:
        return hash(self._call)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_pickled("A callable that gives a key")


def not_pickled(what: str) -> TypeError:
    """Give the error of something that holds a key and is asked to be pickled."""
    return TypeError(
        f"{what} cannot be pickled: the key would be written in clear. Make the settings, client "
        "or verifier in the other process, from its own environment."
    )


def hidden(value: Any) -> Any:
    """Give a text as a `Secret`, a callable as a `SecretCallable`, and anything else as it is."""
    if isinstance(value, str):
        return Secret(value)
    if callable(value) and not isinstance(value, SecretCallable):
        return SecretCallable(value)
    return value


def is_credential(text: str) -> bool:
    """Tell whether a text has the form of a Clerk key or token."""
    return _CREDENTIAL.fullmatch(text) is not None


def without_credentials(text: str) -> str:
    """Give a text with all but the beginning of each Clerk key or token in it taken out."""
    return _CREDENTIAL.sub(r"\1…", text)
