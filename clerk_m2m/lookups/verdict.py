"""What a look-up comes to: an answer with its lifetime, and the verdict on a credential."""

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
    """What an authority said. `lifetime` is how long it may be believed at most, in seconds.

    `age` is how many seconds ago it was asked, where that was not just now.
    `negative` marks a definitive no. `refresh` lets a value in use be asked for again before its
    lifetime ends.
    """

    value: V
    lifetime: float = inf
    age: float = 0.0
    negative: bool = False
    refresh: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A definitive no; `detail` says why in a sentence."""

    detail: str
    token_class: TokenClass | None = None


Verdict: TypeAlias = Identity | Refused


class Ask(Protocol):
    """Finds out about an opaque credential; `demand` tells who wants to know."""

    async def __call__(self, credential: OpaqueCredential, demand: Demand) -> Answer[Verdict]:
        """Give the verdict; raises `BackendAPIError` where there is none."""
