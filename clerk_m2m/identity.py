"""The typed identities of callers, which a handler receives.

They hold no credential, and they are immutable at every depth, so requests can share a verdict.

An identity can be serialized for a client (`as_dict`, FastAPI, pydantic), but it is never built
from a client's data: only a verification makes it. FastAPI would fill the fields of any dataclass
from the request. So pydantic accepts only an existing identity, and `_OnlyByGuard` in the
annotation of a field raises if FastAPI uses the class as a dependency. (FastAPI does not resolve
the annotations of a class if they are text, so this file has no
`from __future__ import annotations`.)
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

MACHINE_ID = re.compile(r"mch_[A-Za-z0-9_]{27}")
USER_ID = re.compile(r"user_[A-Za-z0-9_]{27}")


class FrozenMapping(Mapping[str, Any]):
    """An immutable mapping; unlike a `mappingproxy` it can be copied and pickled."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = MappingProxyType(dict(items))

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(dict(self._items))

    def __deepcopy__(self, memo: Any) -> "FrozenMapping":
        return self  # its values are immutable too: see `freeze`

    def __reduce__(self) -> tuple[type["FrozenMapping"], tuple[dict[str, Any]]]:
        return FrozenMapping, (dict(self._items),)


NO_CLAIMS: Mapping[str, Any] = FrozenMapping({})


class TokenType(StrEnum):
    """The types of machine credentials, by their names in `Settings.accepts`."""

    M2M_TOKEN = "m2m_token"
    API_KEY = "api_key"
    OAUTH_TOKEN = "oauth_token"


TokenTypeName: TypeAlias = Literal["m2m_token", "api_key", "oauth_token"]
"""The same names as plain text, for type checkers."""


class TokenClass(StrEnum):
    """The type of a credential by its form, before anything is verified."""

    M2M_OPAQUE = "opaque M2M token"
    M2M_JWT = "M2M JWT"
    API_KEY = "API key"
    OAUTH_OPAQUE = "opaque OAuth access token"
    OAUTH_JWT = "OAuth access token JWT"
    SESSION_JWT = "session JWT"
    MALFORMED = "ill-formed machine credential"
    UNKNOWN = "unknown credential"


def freeze(value: Any) -> Any:
    """Return a read-only copy of JSON: mappings become `FrozenMapping`s, lists become tuples."""
    return _rebuilt(value, FrozenMapping, tuple)


def thaw(value: Any) -> Any:
    """Return a copy of a frozen value, or of a set of text, as plain JSON."""
    return _rebuilt(sorted(value) if isinstance(value, frozenset) else value, dict, list)


def read_claims(value: Any) -> Mapping[str, Any]:
    """Return the claims of an identity, read-only. JSON that is no object is put under `claims`."""
    if value is None:
        return NO_CLAIMS
    frozen: Mapping[str, Any] = freeze(value if isinstance(value, dict) else {"claims": value})
    return frozen


def read_audience(value: Any) -> tuple[str, ...] | None:
    """Read an `aud`: a string or non-empty list of strings (RFC 7519 section 4.1.3); else None."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(item, str) for item in texts):
        return tuple(texts)
    return None


def _rebuilt(
    value: Any, mapping: Callable[[Mapping[str, Any]], Any], sequence: Callable[[list[Any]], Any]
) -> Any:
    # Without recursion, because the minter of the credential chooses how deep the claims nest.
    containers = [value]
    for each in containers:
        containers.extend(item for item in _inside(each) if isinstance(item, _CONTAINER))
    rebuilt: dict[int, Any] = {}
    for each in reversed(containers):  # inner values come before their containers
        inside = [rebuilt.get(id(item), item) for item in _inside(each)]
        if isinstance(each, _MAPPING):
            rebuilt[id(each)] = mapping(dict(zip(each, inside, strict=True)))
        elif isinstance(each, _SEQUENCE):
            rebuilt[id(each)] = sequence(inside)
    return rebuilt.get(id(value), value)


_MAPPING = (dict, FrozenMapping, Mapping)  # the common types first: the last check is slower
_SEQUENCE = (list, tuple)
_CONTAINER = _MAPPING + _SEQUENCE


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, _MAPPING):
        return value.values()
    return value if isinstance(value, _SEQUENCE) else ()


class _OnlyByGuard:
    """Raises for `Depends(MachineIdentity)` when FastAPI reads the route."""

    def __init__(self, guard: str) -> None:
        self._guard = guard

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        raise TypeError(
            "This would make an identity from what the client sends, and accept everybody. Write "
            f"Depends({self._guard}) for the verified identity of the caller."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """The common attributes of all identities.

    `token_id` is Clerk's id of the credential and may be logged. `subject` is the machine, user or
    organization that the credential belongs to. `scopes` are attested by Clerk's server; they are
    empty for a JWT of a machine. The minter of the credential chooses the `claims`: they are
    information, never a permission. `expires_at` is Unix time in seconds, None if the credential
    does not expire. `stale` is True for an expired verdict that is used while Clerk is down
    (`Settings.stale_if_error`).
    """

    token_type: ClassVar[TokenType]
    guard: ClassVar[str]  # how a route requests it, for error texts
    token_id: str
    subject: str
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=lambda: NO_CLAIMS, repr=False, hash=False)
    expires_at: float | None = None
    stale: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the type and all fields as new, plain JSON values; `scopes` are sorted.

        The claims are included, so check who may read the result. The result cannot be converted
        back to an identity.
        """
        values = {each.name: thaw(getattr(self, each.name)) for each in fields(self)}
        return {"token_type": self.token_type.value, **values}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let pydantic serialize an identity and accept an existing one, but never build one."""
        from pydantic_core import core_schema  # pydantic is installed, because it calls this

        names = ["token_type", *(each.name for each in fields(cls))]
        shown = core_schema.typed_dict_schema(
            {name: core_schema.typed_dict_field(core_schema.any_schema()) for name in names}
        )
        return core_schema.custom_error_schema(
            core_schema.is_instance_schema(cls),
            custom_error_type="identity_from_input",
            custom_error_message=(
                f"A {cls.__name__} is never made from input. In FastAPI, get the caller's with "
                f"Depends({cls.guard})."
            ),
            # Wrapped, so that include, exclude and exclude_none apply to the result of `as_dict`.
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda identity, handler: handler(identity.as_dict()), schema=shown
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Describe the result of `as_dict`."""
        own = {each.name for each in fields(cls)}
        shapes = {name: shape for name, shape in _SHAPES.items() if name in own}
        token_type = {"type": "string", "const": cls.token_type.value}
        return {
            "title": cls.__name__,
            "type": "object",
            "properties": {"token_type": token_type, **shapes},
            "required": ["token_type", *shapes],
        }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_OBJECT = {"type": "object", "additionalProperties": True}
# The JSON Schema of each field in the result of `as_dict`.
_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "token_id": _TEXT,
    "subject": _TEXT,
    "scopes": _TEXTS,
    "claims": _OBJECT,
    "expires_at": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    "stale": {"type": "boolean"},
    "token_format": {"type": "string", "enum": ["opaque", "jwt"]},
    "name": _TEXT,
    "client_id": _TEXT,
    "audience": _TEXTS,
    "actor": {"anyOf": [_OBJECT, {"type": "null"}]},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity(_Identity):
    """A machine that called with an M2M token.

    `scopes` of an opaque token are the ids of the machines that it could call when it was minted.
    """

    token_type: ClassVar[Literal[TokenType.M2M_TOKEN]] = TokenType.M2M_TOKEN
    guard: ClassVar[str] = "require_machine()"
    token_format: Annotated[Literal["opaque", "jwt"], _OnlyByGuard("require_machine()")]

    @property
    def machine_id(self) -> str:
        """The caller, `mch_…`."""
        return self.subject


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyIdentity(_Identity):
    """A user, an organization or a machine with an API key; `scopes` are the key's permissions."""

    token_type: ClassVar[Literal[TokenType.API_KEY]] = TokenType.API_KEY
    guard: ClassVar[str] = "require_api_key()"
    name: Annotated[str, _OnlyByGuard("require_api_key()")]

    @property
    def user_id(self) -> str | None:
        """The user whom the key belongs to, `user_…`, or None."""
        return self._subject_if("user_")

    @property
    def org_id(self) -> str | None:
        """The organization that the key belongs to, `org_…`, or None."""
        return self._subject_if("org_")

    @property
    def machine_id(self) -> str | None:
        """The machine that the key belongs to, `mch_…`, or None."""
        return self._subject_if("mch_")

    def _subject_if(self, prefix: str) -> str | None:
        return self.subject if self.subject.startswith(prefix) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthIdentity(_Identity):
    """A user for whom an OAuth client called; `scopes` are the permissions granted to the client.

    `audience` are the services that the token is meant for (`aud`), empty if it names none; see
    `Settings.oauth_audience`. `actor` is the party that acts for the user (`act`, RFC 8693 section
    4.1), as an immutable mapping, or None.
    """

    token_type: ClassVar[Literal[TokenType.OAUTH_TOKEN]] = TokenType.OAUTH_TOKEN
    guard: ClassVar[str] = "require_oauth()"
    client_id: Annotated[str, _OnlyByGuard("require_oauth()")]
    audience: tuple[str, ...] = ()
    actor: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @property
    def user_id(self) -> str:
        """The user who granted the access, `user_…`."""
        return self.subject


Identity: TypeAlias = MachineIdentity | ApiKeyIdentity | OAuthIdentity
"""The caller that a credential was verified for: one of the three kinds of identity."""
