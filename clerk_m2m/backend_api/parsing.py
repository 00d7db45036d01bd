"""JSON of the Backend API to `records`: the only home of untyped dicts.

An answer is read strictly where a decision hangs on it (ids, flags, when a credential ends) and
leniently elsewhere: a property that the contract does not know is passed over, and an instant that
decides nothing is None where it is missing or wrong. Anything else raises
`BackendUnavailableError`, because an answer that makes no sense is no answer. Messages name the
property, never its value, and the traceback ends at the `read_…` function: the frames below hold
the answer in their locals, with whatever secret is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar

from clerk_m2m.backend_api.resources import (
    ApiKey,
    CreatedApiKey,
    CreatedM2MToken,
    CreatedMachine,
    M2MToken,
    Machine,
    MachineScope,
    OAuthAccessToken,
    Page,
    ScopedMachine,
)
from clerk_m2m.errors import BackendUnavailableError
from clerk_m2m.identity import MACHINE_ID, NO_CLAIMS, USER_ID, freeze, read_audience
from clerk_m2m.secret import Secret

T = TypeVar("T")
P = ParamSpec("P")

TOKEN_ID = re.compile(r"mt_[0-9A-Fa-f]{32}")
API_KEY_ID = re.compile(r"ak_[0-9A-Fa-f]{32}")
OAUTH_TOKEN_ID = re.compile(r"oat_[0-9A-Fa-f]{32}")
_KEY_SUBJECT = re.compile(r"(user|org|mch)_[A-Za-z0-9_]{27}")

# 2001 to 9999 in milliseconds: seconds mistaken for them lie before, microseconds beyond.
_FIRST_MS, _LAST_MS = 1e12, 253_402_300_799_000
# The contract says milliseconds of every instant but those of OAuth access tokens, which are most
# likely seconds (its example is 1716883200). A value says by its size which of the two it is.
_SECONDS_BELOW = 1e11


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object as Clerk answered it; hidden, since it may hold a key or a token."""

    members: dict[str, Any] = field(repr=False)


def _reader(read: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Have a function raise without its own frames and those below."""

    @wraps(read)
    def reader(document: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(document, *args, **kwargs)
        except BackendUnavailableError as exc:
            error = exc.with_traceback(None)
        raise error

    return reader


class _Object:
    """A JSON object being read.

    What is missing or of another type raises `BackendUnavailableError`.
    """

    def __init__(self, value: Any) -> None:
        if isinstance(value, Document):
            value = value.members
        if not isinstance(value, dict):
            raise BackendUnavailableError(
                "Clerk's answer holds something else where an object belongs."
            )
        self._value: dict[str, Any] = value

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self._value.get(name)
        if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
            raise _wrong(name)
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._value.get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise _wrong(name)
        return value

    def count(self, name: str) -> int:
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            raise _wrong(name)
        return int(value)

    def texts(self, name: str, pattern: re.Pattern[str] | None = None) -> tuple[str, ...]:
        value = self._value.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise _wrong(name)
        for item in value:
            if not isinstance(item, str) or (pattern and not pattern.fullmatch(item)):
                raise _wrong(name)
        return tuple(value)

    def items(self, name: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        value = self._value.get(name)
        if not isinstance(value, list):
            raise _wrong(name)
        return tuple(read(item) for item in value)

    def claims(self) -> Mapping[str, Any]:
        value = self._value.get("claims")
        if value is None:
            return NO_CLAIMS
        if not isinstance(value, dict):
            # The contract gives claims no type: keep what is there under the name it came by.
            value = {"claims": value}
        frozen: Mapping[str, Any] = freeze(value)
        return frozen

    def instant(self, name: str) -> datetime:
        """Milliseconds since 1970 to an aware datetime."""
        instant = self.instant_if_valid(name)
        if instant is None:
            raise _wrong(name)
        return instant

    def instant_if_valid(self, name: str) -> datetime | None:
        """Like `instant`, but None where it is missing or wrong: for what decides nothing."""
        value = self._value.get(name)
        # NaN fails the comparison, so it is refused with the rest.
        if not _is_number(value) or not _FIRST_MS <= value <= _LAST_MS:
            return None
        return datetime.fromtimestamp(value / 1000, UTC)

    def nullable_instant(self, name: str) -> datetime | None:
        """Like `instant`, but it may be null; the property must be there."""
        if name in self._value and self._value[name] is None:
            return None
        return self.instant(name)

    def audience(self) -> tuple[str, ...]:
        value = self._value.get("aud")
        if value is None:
            return ()
        audience = read_audience(value)
        if audience is None:
            raise _wrong("aud")
        return audience

    def actor(self) -> Mapping[str, Any] | None:
        value = self._value.get("act")
        if value is not None and not isinstance(value, dict):
            raise _wrong("act")
        actor: Mapping[str, Any] | None = freeze(value)
        return actor


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"Clerk's answer lacks a valid {name!r}.")


def _scoped_machine(item: _Object) -> dict[str, Any]:
    ttl = item.count("default_token_ttl") if "default_token_ttl" in item._value else 3600
    return {
        "id": item.text("id", MACHINE_ID),
        "name": item.text("name"),
        "instance_id": item.text("instance_id"),
        "default_token_ttl": ttl,
        "created_at": item.instant_if_valid("created_at"),
        "updated_at": item.instant_if_valid("updated_at"),
    }


@_reader
def read_scoped_machine(value: Any) -> ScopedMachine:
    """Read schema `MachineWithoutScopedMachines`."""
    return ScopedMachine(**_scoped_machine(_Object(value)))


@_reader
def read_machine(value: Any) -> Machine:
    """Read schema `Machine`."""
    item = _Object(value)
    scoped = item.items("scoped_machines", read_scoped_machine)
    return Machine(**_scoped_machine(item), scoped_machines=scoped)


@_reader
def read_created_machine(value: Any) -> CreatedMachine:
    """Read response `Machine.Created`."""
    item = _Object(value)
    return CreatedMachine(
        **_scoped_machine(item),
        scoped_machines=item.items("scoped_machines", read_scoped_machine),
        secret_key=Secret(item.text("secret_key")),
    )


@_reader
def read_secret(value: Any) -> Secret:
    """Read response `Machine.SecretKey`, and the answer of `getApiKeySecret`."""
    return Secret(_Object(value).text("secret"))


@_reader
def read_scope(value: Any) -> MachineScope:
    """Read schema `MachineScope` or response `MachineScope.Deleted`."""
    item = _Object(value)
    return MachineScope(
        caller=item.text("from_machine_id", MACHINE_ID),
        callee=item.text("to_machine_id", MACHINE_ID),
        created_at=item.instant_if_valid("created_at"),
    )


def _credential(
    item: _Object, token_id: re.Pattern[str], subject: re.Pattern[str]
) -> dict[str, Any]:
    return {
        "id": item.text("id", token_id),
        "subject": item.text("subject", subject),
        "revoked": item.flag("revoked"),
        "revocation_reason": item.text_or_none("revocation_reason"),
        "expired": item.flag("expired"),
        "expires_at": item.nullable_instant("expiration"),
        "created_at": item.instant_if_valid("created_at"),
        "updated_at": item.instant_if_valid("updated_at"),
    }


def _m2m_token(item: _Object) -> dict[str, Any]:
    return {
        **_credential(item, TOKEN_ID, MACHINE_ID),
        "scopes": item.texts("scopes", MACHINE_ID),
        "claims": item.claims(),
        "last_used_at": item.instant_if_valid("last_used_at"),
    }


@_reader
def read_m2m_token(value: Any) -> M2MToken:
    """Read the answer of `verifyM2MToken`, `revokeM2MToken` and an item of `getM2MTokens`."""
    return M2MToken(**_m2m_token(_Object(value)))


@_reader
def read_created_m2m_token(value: Any) -> CreatedM2MToken:
    """Read the answer of `createM2MToken`."""
    item = _Object(value)
    read = _m2m_token(item) | {"created_at": item.instant("created_at")}
    return CreatedM2MToken(**read, token=Secret(item.text("token")))


def _api_key(item: _Object) -> dict[str, Any]:
    return {
        **_credential(item, API_KEY_ID, _KEY_SUBJECT),
        "scopes": item.texts("scopes"),
        "claims": item.claims(),
        "name": item.text("name"),
        "description": item.text_or_none("description"),
        "created_by": item.text_or_none("created_by"),
        "last_used_at": item.instant_if_valid("last_used_at"),
    }


@_reader
def read_api_key(value: Any) -> ApiKey:
    """Read the answer of `verifyApiKey` and of the other operations that give an API key."""
    return ApiKey(**_api_key(_Object(value)))


@_reader
def read_created_api_key(value: Any) -> CreatedApiKey:
    """Read the answer of `createApiKey`."""
    item = _Object(value)
    return CreatedApiKey(**_api_key(item), secret=Secret(item.text("secret")))


@_reader
def read_oauth_access_token(value: Any) -> OAuthAccessToken | None:
    """Read the answer of `verifyOAuthAccessToken`; None stands for `{"active": false}`."""
    item = _Object(_in_milliseconds(_Object(value)._value))
    if "active" in item._value:
        if item.flag("active"):
            raise _wrong("active")
        return None
    return OAuthAccessToken(
        **_credential(item, OAUTH_TOKEN_ID, USER_ID),
        scopes=item.texts("scopes"),
        client_id=item.text("client_id"),
        audience=item.audience(),
        actor=item.actor(),
    )


def _in_milliseconds(members: dict[str, Any]) -> dict[str, Any]:
    """Give the answer with its instants in milliseconds, whichever unit Clerk has sent."""
    instants = {name: members.get(name) for name in ("expiration", "created_at", "updated_at")}
    return members | {
        name: instant * 1000
        for name, instant in instants.items()
        if _is_number(instant) and instant < _SECONDS_BELOW
    }


@_reader
def read_deleted(value: Any) -> str:
    """Read the answer of a deletion: the id of what is gone."""
    item = _Object(value)
    if not item.flag("deleted"):
        raise _wrong("deleted")
    return item.text("id")


@_reader
def read_page(value: Any, name: str, read: Callable[[Any], T]) -> Page[T]:
    """Read a list answer whose items are under `name`."""
    item = _Object(value)
    return Page(items=item.items(name, read), total_count=item.count("total_count"))


@_reader
def read_jwks(value: Any) -> Mapping[str, Any]:
    """Read schema `JWKS`: an object with a list of keys, each of which its user checks."""
    item = _Object(value)
    item.items("keys", lambda key: key)
    return item._value
