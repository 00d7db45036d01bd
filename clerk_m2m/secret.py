"""`Secret`: text that must not be printed by accident."""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Final, NoReturn, Self, SupportsIndex, TypeAlias, TypeVar

T = TypeVar("T")

# The return type of a callable that provides a key.
KeyAnswer: TypeAlias = "str | Secret | Awaitable[str | Secret]"

# The prefixes of Clerk's secret keys, API keys, machine keys and tokens, and `eyJ` of a JWT.
_CREDENTIAL: Final = re.compile(r"(?<![A-Za-z0-9])(sk_|ak_|mt_|oat_|eyJ)[A-Za-z0-9_\-.~+/=]{8,}")


class Secret:
    """A key or a token that `repr` and `str` hide; `reveal()` returns the text.

    It cannot be pickled, nor can an object that holds one. Copying returns the same object.
    Pydantic (and so FastAPI) serializes it as `…`; call `reveal()` to return it to a client.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | Secret) -> None:
        """Wrap `text`; wrapping a `Secret` again changes nothing."""
        self._text: str = text._text if isinstance(text, Secret) else text

    def reveal(self) -> str:
        """Return the text itself, for the code that sends it."""
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
        """Define how pydantic reads a `Secret` (from text) and writes it (hidden)."""
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
    """Wraps a callable that returns a key, and hides it: its `repr` may contain a key.

    (The repr of `functools.partial` shows the arguments.) Text that it returns becomes a `Secret`.
    `is_async` is True for a coroutine function. It cannot be pickled. Copying returns the same
    object.
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
    """Return the error for pickling an object that holds a key."""
    return TypeError(
        f"{what} cannot be pickled: the key would be written in clear. Make the settings, client "
        "or verifier in the other process, from its own environment."
    )


def hidden(value: Any) -> Any:
    """Return a text as a `Secret`, a callable as a `SecretCallable`, and anything else as it is."""
    if isinstance(value, str):
        return Secret(value)
    if callable(value) and not isinstance(value, SecretCallable):
        return SecretCallable(value)
    return value


def is_credential(text: str) -> bool:
    """Return whether a text has the form of a Clerk key or token."""
    return _CREDENTIAL.fullmatch(text) is not None


def without_credentials(text: str) -> str:
    """Return a text in which each Clerk key or token is cut down to its beginning."""
    return _CREDENTIAL.sub(r"\1…", text)
