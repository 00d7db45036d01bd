"""The result of a look-up: an answer with its lifetime, and the verdict on a credential."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeAlias, TypeVar

from clerk_m2m.credentials import OpaqueCredential
from clerk_m2m.identity import Identity, TokenClass
from clerk_m2m.lookups.single_flight import Demand

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[V]):
    """The answer of an authority, such as Clerk.

    `lifetime` is the longest time, in seconds, for which the answer may be used from now on. `age`
    is the number of seconds since the authority was asked. `negative` marks a negative verdict.
    `refresh` allows a refresh of a value in use before its lifetime ends.
    """

    value: V
    lifetime: float = inf
    age: float = 0.0
    negative: bool = False
    refresh: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A negative verdict; `detail` is a sentence that says why."""

    detail: str
    token_class: TokenClass | None = None


Verdict: TypeAlias = Identity | Refused


class Ask(Protocol):
    """A function that verifies an opaque credential; `demand` tells how many requests wait."""

    async def __call__(self, credential: OpaqueCredential, demand: Demand) -> Answer[Verdict]:
        """Return the verdict; raises `BackendAPIError` if there is none."""
