"""Converts JSON of the Backend API to `resources`; the only file that handles untyped dicts.

Properties that decide something are checked strictly: ids, flags, and when a credential expires. A
wrong one raises `BackendUnavailableError`, because such an answer cannot be used. Other properties
are read leniently: one that is not in the contract is ignored, and an instant that decides nothing
is None if it is missing or wrong.

Messages name the property, never its value. The traceback ends at the `read_…` function, because
the frames below it hold the answer, and perhaps a secret, in their locals.

The properties of an object are a table: for each attribute of the resource, the property that it is
read from (`_Property`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from clerk_m2m.backend_api.document import Document
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
from clerk_m2m.identity import MACHINE_ID, USER_ID, read_audience
from clerk_m2m.secret import Secret

T = TypeVar("T")
P = ParamSpec("P")

TOKEN_ID = re.compile(r"mt_[0-9A-Fa-f]{32}")
API_KEY_ID = re.compile(r"ak_[0-9A-Fa-f]{32}")
OAUTH_TOKEN_ID = re.compile(r"oat_[0-9A-Fa-f]{32}")
_KEY_SUBJECT = re.compile(r"(user|org|mch)_[A-Za-z0-9_]{27}")

# 2001 to 9999 in milliseconds. A value in seconds would be below, one in microseconds above.
_FIRST_MS, _LAST_MS = 1e12, 253_402_300_799_000
# Where an instant may be in seconds or milliseconds: values below this are seconds.
_SECONDS_BELOW: Final = 1e11

# Markers for a value that is rejected, and for a property that is missing.
_REFUSED: Final = object()
_ABSENT: Final = object()


def _reader(read: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Make a function accept a `Document` or a dict, and remove its frames from tracebacks."""

    @wraps(read)
    def reader(value: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            # No local may hold the members: tracebacks may show the locals of this frame.
            return read(value.members if isinstance(value, Document) else value, *args, **kwargs)
        except BackendUnavailableError as exc:
            error = exc.with_traceback(None)
        raise error

    return reader


@dataclass(frozen=True, slots=True, kw_only=True)
class _Property:
    """How a property of an answer is read.

    `name` is the property's name, if it differs from the attribute's. The value must have one of
    `types`, and a text must match `pattern`. `convert` returns the attribute's value, or None if
    the value is wrong. `null`, `absent` and `wrong` replace a null, a missing property and a wrong
    value; `_REFUSED` there rejects the whole answer.
    """

    types: tuple[type, ...]
    name: str | None = None
    pattern: re.Pattern[str] | None = None
    convert: Callable[[Any], object | None] | None = None
    null: Any = _REFUSED
    absent: Any = _REFUSED
    wrong: Any = _REFUSED


_Shape: TypeAlias = Mapping[str, _Property]


def _read(members: Any, shape: _Shape) -> dict[str, Any]:
    """Read an object by its table; raises `BackendUnavailableError` for a wrong property."""
    if not isinstance(members, dict):
        raise BackendUnavailableError(
            "Clerk's answer has another JSON type where an object is expected."
        )
    read: dict[str, Any] = {}
    for attribute, expected in shape.items():
        name = expected.name or attribute
        found = members.get(name, _ABSENT)
        if found is _ABSENT:
            found = expected.absent
        elif found is None:
            found = expected.null
        elif (
            type(found) not in expected.types  # the exact type, because True is an int in Python
            or (expected.pattern and not expected.pattern.fullmatch(found))
            or (expected.convert and (found := expected.convert(found)) is None)
        ):
            found = expected.wrong
        if found is _REFUSED:
            raise _wrong(name)
        read[attribute] = found
    return read


def _wrong(name: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"Clerk's answer lacks a valid {name!r}.")


def _count(value: float) -> int | None:
    return int(value) if 0 <= value < 1e15 else None


def _instant(value: float) -> datetime | None:
    # NaN fails the comparison, so it is rejected too.
    in_milliseconds = _FIRST_MS <= value <= _LAST_MS
    return datetime.fromtimestamp(value / 1000, UTC) if in_milliseconds else None


def _instant_of_either_unit(value: float) -> datetime | None:
    return _instant(value * 1000 if value < _SECONDS_BELOW else value)


def _texts(pattern: re.Pattern[str] | None = None) -> _Property:
    """A list of texts that may be missing; each text must match `pattern`."""

    def checked(items: list[Any]) -> tuple[str, ...] | None:
        for item in items:
            if not isinstance(item, str) or (pattern and not pattern.fullmatch(item)):
                return None
        return tuple(items)

    return _Property(types=(list,), convert=checked, null=(), absent=())


def _items(read: Callable[[Any], Any]) -> _Property:
    return _Property(types=(list,), convert=lambda items: tuple(read(item) for item in items))


_TEXT = _Property(types=(str,))
_TEXT_OR_NONE = replace(_TEXT, null=None, absent=None)
_SECRET = replace(_TEXT, convert=Secret)
_FLAG = _Property(types=(bool,))
_COUNT = _Property(types=(int, float), convert=_count)
_INSTANT = _Property(types=(int, float), convert=_instant)
# For instants that decide nothing: None if missing or wrong.
_INSTANT_IF_VALID = replace(_INSTANT, null=None, absent=None, wrong=None)
# The contract gives claims no type: they may be any JSON.
_CLAIMS = _Property(types=(dict, list, str, int, float, bool), null=None, absent=None)

_SCOPED_MACHINE: _Shape = {
    "id": replace(_TEXT, pattern=MACHINE_ID),
    "name": _TEXT,
    "instance_id": _TEXT,
    "default_token_ttl": replace(_COUNT, absent=3600),
    "created_at": _INSTANT_IF_VALID,
    "updated_at": _INSTANT_IF_VALID,
}


@_reader
def read_scoped_machine(value: Any) -> ScopedMachine:
    """Read schema `MachineWithoutScopedMachines`."""
    return ScopedMachine(**_read(value, _SCOPED_MACHINE))


_MACHINE: _Shape = {**_SCOPED_MACHINE, "scoped_machines": _items(read_scoped_machine)}
_CREATED_MACHINE: _Shape = {**_MACHINE, "secret_key": _SECRET}


@_reader
def read_machine(value: Any) -> Machine:
    """Read schema `Machine`."""
    return Machine(**_read(value, _MACHINE))


@_reader
def read_created_machine(value: Any) -> CreatedMachine:
    """Read response `Machine.Created`."""
    return CreatedMachine(**_read(value, _CREATED_MACHINE))


@_reader
def read_secret(value: Any) -> Secret:
    """Read response `Machine.SecretKey`, and the answer of `getApiKeySecret`."""
    return Secret(_read(value, {"secret": _TEXT})["secret"])


_SCOPE: _Shape = {
    "caller": replace(_TEXT, pattern=MACHINE_ID, name="from_machine_id"),
    "callee": replace(_TEXT, pattern=MACHINE_ID, name="to_machine_id"),
    "created_at": _INSTANT_IF_VALID,
}


@_reader
def read_scope(value: Any) -> MachineScope:
    """Read schema `MachineScope` or response `MachineScope.Deleted`."""
    return MachineScope(**_read(value, _SCOPE))


_CREDENTIAL: _Shape = {
    "revoked": _FLAG,
    "revocation_reason": _TEXT_OR_NONE,
    "expired": _FLAG,
    "expires_at": replace(_INSTANT, name="expiration", null=None),
    "created_at": _INSTANT_IF_VALID,
    "updated_at": _INSTANT_IF_VALID,
}
_M2M_TOKEN: _Shape = {
    "id": replace(_TEXT, pattern=TOKEN_ID),
    "subject": replace(_TEXT, pattern=MACHINE_ID),
    **_CREDENTIAL,
    "scopes": _texts(MACHINE_ID),
    "claims": _CLAIMS,
    "last_used_at": _INSTANT_IF_VALID,
}
_CREATED_M2M_TOKEN: _Shape = {**_M2M_TOKEN, "created_at": _INSTANT, "token": _SECRET}


@_reader
def read_m2m_token(value: Any) -> M2MToken:
    """Read the answer of `verifyM2MToken`, `revokeM2MToken` and an item of `getM2MTokens`."""
    return M2MToken(**_read(value, _M2M_TOKEN))


@_reader
def read_created_m2m_token(value: Any) -> CreatedM2MToken:
    """Read the answer of `createM2MToken`."""
    return CreatedM2MToken(**_read(value, _CREATED_M2M_TOKEN))


_API_KEY: _Shape = {
    "id": replace(_TEXT, pattern=API_KEY_ID),
    "subject": replace(_TEXT, pattern=_KEY_SUBJECT),
    **_CREDENTIAL,
    "scopes": _texts(),
    "claims": _CLAIMS,
    "type": replace(_TEXT, null="api_key", absent="api_key", wrong="api_key"),
    "name": _TEXT,
    "description": _TEXT_OR_NONE,
    "created_by": _TEXT_OR_NONE,
    "last_used_at": _INSTANT_IF_VALID,
}


@_reader
def read_api_key(value: Any) -> ApiKey:
    """Read the answer of `verifyApiKey` and of the other operations that return an API key."""
    return ApiKey(**_read(value, _API_KEY))


@_reader
def read_created_api_key(value: Any) -> CreatedApiKey:
    """Read the answer of `createApiKey`."""
    return CreatedApiKey(**_read(value, {**_API_KEY, "secret": _SECRET}))


_OAUTH_ACCESS_TOKEN: _Shape = {
    "id": replace(_TEXT, pattern=OAUTH_TOKEN_ID),
    "subject": replace(_TEXT, pattern=USER_ID),
    **_CREDENTIAL,
    # The contract gives all other instants in milliseconds. These are probably in seconds (its
    # example is 1716883200). The size of a value shows its unit.
    **{
        attribute: replace(_CREDENTIAL[attribute], convert=_instant_of_either_unit)
        for attribute in ("expires_at", "created_at", "updated_at")
    },
    "scopes": _texts(),
    "client_id": _TEXT,
    "audience": _Property(name="aud", types=(str, list), convert=read_audience, null=(), absent=()),
    "actor": _Property(name="act", types=(dict,), null=None, absent=None),
}


@_reader
def read_oauth_access_token(value: Any) -> OAuthAccessToken | None:
    """Read the answer of `verifyOAuthAccessToken`; return None for `{"active": false}`."""
    active = _read(value, {"active": replace(_FLAG, absent=None)})["active"]
    if active:
        raise _wrong("active")
    return None if active is False else OAuthAccessToken(**_read(value, _OAUTH_ACCESS_TOKEN))


@_reader
def read_deleted(value: Any) -> str:
    """Read the answer of a deletion: the id of the deleted resource."""
    read = _read(value, {"deleted": _FLAG, "id": _TEXT})
    if not read["deleted"]:
        raise _wrong("deleted")
    identifier: str = read["id"]
    return identifier


@_reader
def read_nothing(value: Any) -> None:
    """Read an answer without content."""


@_reader
def read_page(value: Any, name: str, read: Callable[[Any], T]) -> Page[T]:
    """Read a list answer whose items are under `name`."""
    items = replace(_items(read), name=name)
    return Page(**_read(value, {"items": items, "total_count": _COUNT}))


@_reader
def read_machines(value: Any) -> Page[Machine]:
    """Read the answer of `ListMachines`; equal scoped machines become one shared object."""
    # A page of 500 machines may list 75,000 scoped machines, most of them several times.
    seen: dict[str, tuple[Any, ScopedMachine]] = {}

    def read_once(item: Any) -> ScopedMachine:
        given, known = seen.get(_id_of(item), (None, None))
        if known is None or given != item:
            known = read_scoped_machine(item)
            seen[known.id] = item, known
        return known

    shape = {**_MACHINE, "scoped_machines": _items(read_once)}
    return read_page(value, "data", lambda item: Machine(**_read(item, shape)))


def _id_of(item: Any) -> str:
    own = item.get("id") if isinstance(item, dict) else None
    return own if isinstance(own, str) else ""


@_reader
def read_jwks(value: Any) -> Mapping[str, Any]:
    """Read schema `JWKS`: an object with a list of keys. The caller checks each key."""
    _read(value, {"keys": _Property(types=(list,))})
    key_set: Mapping[str, Any] = value
    return key_set
