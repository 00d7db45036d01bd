"""The common behaviour of M2M tokens, API keys and OAuth access tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clerk_m2m.emulator import Emulator

USER = "user_" + "u" * 27

Revoke = Callable[[str], None]


def m2m_token(emulator: Emulator) -> tuple[str, dict[str, str], Revoke]:
    token = emulator.mint_m2m_token(emulator.add_machine("caller"))
    return (
        "/m2m_tokens/verify",
        {"token": token.token},
        lambda reason: emulator.revoke_m2m_token(token, reason),
    )


def api_key(emulator: Emulator) -> tuple[str, dict[str, str], Revoke]:
    key = emulator.add_api_key("reports", subject=USER)
    return (
        "/api_keys/verify",
        {"secret": key.secret},
        lambda reason: emulator.revoke_api_key(key, reason),
    )


def oauth_token(emulator: Emulator) -> tuple[str, dict[str, str], Revoke]:
    token = emulator.add_oauth_token(subject=USER)
    return (
        "/oauth_applications/access_tokens/verify",
        {"access_token": token.token},
        lambda reason: emulator.revoke_oauth_token(token, reason),
    )


@pytest.mark.parametrize("make", [m2m_token, api_key, oauth_token])
async def test_a_second_revocation_changes_nothing(client: Any, make: Any) -> None:
    emulator = Emulator(dead_token_answer="flag", clock=lambda: 1_700_000_000.0)
    path, body, revoke = make(emulator)

    revoke("leaked")
    emulator.travel(60)
    revoke("again")
    answer = (await client(emulator.secret_key, emulator).post(path, json=body)).json()

    assert answer["revoked"] is True
    assert answer["revocation_reason"] == "leaked"
    assert answer["updated_at"] == answer["created_at"]
    emulator.close()
