"""The outcome of a verification, as one word."""

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
    """Return the result of a verification that never awaits; fail if it does."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        identity: Identity = done.value
        return identity
    coroutine.close()
    raise AssertionError("the request had to wait")


async def accepts(verifier: Verifier, token: str) -> bool:
    """Return True if the token is accepted, False for a 401; any other error fails the test."""
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True


async def denied(verifier: Verifier, token: str) -> bool:
    """Return True if the scope policy refuses a good token."""
    try:
        await verifier.verify(token)
    except ScopeDeniedError:
        return True
    return False


async def unavailable(verifier: Verifier, token: str) -> None:
    """Assert that the verification raises `VerificationUnavailableError`."""
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "verification_unavailable"


async def outcome(verifier: Verifier, token: str) -> str:
    """Return the code of the refusal, with the reason of a scope decision, or "allowed"."""
    try:
        await verifier.verify(token)
    except ScopeDeniedError as refused:
        return f"{refused.code}: {refused.decision.reason}"
    except RefusalError as refused:
        return refused.code
    return "allowed"


async def code(verifier: Verifier, token: str) -> str:
    """Return the code of the refusal, or "accepted"."""
    try:
        await verifier.verify(token)
    except RefusalError as refusal:
        return refusal.code
    return "accepted"
