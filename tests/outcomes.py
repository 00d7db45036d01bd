"""What a verification comes to, told in a word."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest

from clerk_m2m import (
    Identity,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    VerificationUnavailableError,
    Verifier,
)


def at_once(coroutine: Coroutine[Any, Any, Identity]) -> Identity:
    """Give what a verification returns without waiting once; fails where it has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        identity: Identity = done.value
        return identity
    coroutine.close()
    raise AssertionError("the request had to wait")


async def accepts(verifier: Verifier, token: str) -> bool:
    """Whether the token is good; a 401 is the only other answer that will do."""
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True


async def denied(verifier: Verifier, token: str) -> bool:
    """Whether the scope policy refuses a token that is good."""
    try:
        await verifier.verify(token)
    except ScopeDeniedError:
        return True
    return False


async def unavailable(verifier: Verifier, token: str) -> None:
    """Assert that it cannot be found out, and is said to be so."""
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "verification_unavailable"


async def outcome(verifier: Verifier, token: str) -> str:
    """Give the code of the refusal, with the reason of a scope decision, or "allowed"."""
    try:
        await verifier.verify(token)
    except ScopeDeniedError as refused:
        return f"{refused.code}: {refused.decision.reason}"
    except RefusalError as refused:
        return refused.code
    return "allowed"


async def code(verifier: Verifier, token: str) -> str:
    """What the verifier says of the token, in a word."""
    try:
        await verifier.verify(token)
    except RefusalError as refusal:
        return refusal.code
    return "accepted"
