"""What a look-up comes to: an answer with its lifetime, and the verdict on a credential."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Generic, TypeAlias, TypeVar

from clerk_m2m.identity import Identity, TokenClass

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[V]):
    """What an authority said. `lifetime` is how long it may be believed at most, in seconds.

    `negative` marks a definitive no. `refresh` lets a value in use be asked for again before its
    lifetime ends.
    """

    value: V
    lifetime: float = inf
    negative: bool = False
    refresh: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """A definitive no; `detail` says why in a sentence."""

    detail: str
    token_class: TokenClass | None = None


Verdict: TypeAlias = Identity | Refused
