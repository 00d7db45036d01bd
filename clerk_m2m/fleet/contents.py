"""The contents of a sealed entry: the identity of a token, and when Clerk was asked for it.

If a member is missing, unknown or of another type, the whole entry is ignored: a later version of
this package may have written it with another meaning.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any, Final

from clerk_m2m.fleet.applied import Mark
from clerk_m2m.identity import (
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenClass,
    freeze,
    read_claims,
    thaw,
)

# Bytes. An identity takes about 300, its claims may take more. A larger verdict is not shared.
MAX_CONTENTS: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A verdict as it is shared.

    A process asked Clerk for it at `asked_at` (Unix s), after it had applied the log up to `mark`.
    The credential expires `left` seconds after `asked_at`.
    """

    identity: Identity
    asked_at: float
    left: float
    mark: Mark

    def write(self) -> bytes | None:
        """Return the verdict as bytes, or None if it cannot be shared."""
        identity = {
            each.name: thaw(getattr(self.identity, each.name))
            for each in fields(self.identity)
            if each.name not in ("stale", "token_format")
        }
        said = {
            "identity": identity,
            "asked_at": self.asked_at,
            "left": None if self.left == inf else self.left,
            "epoch": self.mark.epoch,
            "number": self.mark.number,
        }
        try:
            contents = json.dumps(said, allow_nan=False, separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            return None  # claims that JSON cannot express, or that are nested too deeply
        return contents if len(contents) <= MAX_CONTENTS else None


def read(kind: TokenClass, contents: bytes) -> Shared | None:
    """Read what `write` returned for a credential of this kind; return None for anything else."""
    try:
        said = _Members(json.loads(contents))
        shared = Shared(
            identity=_READERS[kind](_Members(said.take("identity", dict))),
            asked_at=said.seconds("asked_at"),
            left=said.seconds_or("left", inf),
            mark=Mark(said.take("epoch", str), said.take("number", int)),
        )
        said.end()
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return shared


class _Members:
    """The members of a JSON object; each is taken once. Raises `ValueError` or `KeyError`."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError("no object")
        self._values = value

    def take(self, name: str, kind: type[Any]) -> Any:
        value = self._values.pop(name)
        if type(value) is not kind:  # not `isinstance`: a bool is an int
            raise ValueError(name)
        return value

    def take_or(self, name: str, kind: type[Any], default: Any) -> Any:
        if self._values[name] is None:
            del self._values[name]
            return default
        return self.take(name, kind)

    def seconds(self, name: str) -> float:
        value = self._values.pop(name)
        if type(value) not in (int, float) or not isfinite(value):
            raise ValueError(name)
        return float(value)

    def seconds_or(self, name: str, default: Any) -> Any:
        if self._values[name] is None:
            del self._values[name]
            return default
        return self.seconds(name)

    def texts(self, name: str) -> list[str]:
        values: list[str] = self.take(name, list)
        if not all(type(each) is str for each in values):
            raise ValueError(name)
        return values

    def end(self) -> None:
        if self._values:
            raise ValueError("unknown members")


def _machine(said: _Members) -> MachineIdentity:
    return MachineIdentity(token_format="opaque", **_claimed(said))


def _api_key(said: _Members) -> ApiKeyIdentity:
    return ApiKeyIdentity(name=said.take("name", str), **_claimed(said))


def _oauth(said: _Members) -> OAuthIdentity:
    client_id, audience = said.take("client_id", str), tuple(said.texts("audience"))
    actor = said.take_or("actor", dict, None)
    return OAuthIdentity(
        client_id=client_id, audience=audience, actor=freeze(actor), **_claimed(said)
    )


def _claimed(said: _Members) -> dict[str, Any]:
    """Read the members that every identity has. Call it last: it refuses what is left over."""
    read_members = {
        "token_id": said.take("token_id", str),
        "subject": said.take("subject", str),
        "scopes": frozenset(said.texts("scopes")),
        "claims": read_claims(said.take("claims", dict) or None),
        "expires_at": said.seconds_or("expires_at", None),
    }
    said.end()
    return read_members


_READERS: Final[Mapping[TokenClass, Callable[[_Members], Identity]]] = {
    TokenClass.M2M_OPAQUE: _machine,
    TokenClass.API_KEY: _api_key,
    TokenClass.OAUTH_OPAQUE: _oauth,
}
