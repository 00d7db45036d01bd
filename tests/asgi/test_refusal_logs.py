"""The log of a refusal: what it contains and what it must not contain."""

from __future__ import annotations

import logging

import pytest
from answers import code_of
from asgi_messages import CONNECT, ask, http_scope, play, websocket_scope
from sent_credentials import UNKNOWN

from harness import World, protected


async def test_a_refusal_is_logged_in_one_line_without_the_credential(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    app = protected(world.verifier())
    await ask(app, http_scope("/a\r\nFAKE line", UNKNOWN))
    world.time.advance(1)
    await play(app, websocket_scope(UNKNOWN, denial=True), CONNECT)

    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        (
            "INFO",
            "Refused GET '/aFAKE line' with 401 token_invalid: The credential is unknown to Clerk, "
            "or minted without access to this service. [client unknown, user agent 'unknown']",
        ),
        (
            "INFO",
            "Refused WEBSOCKET '/ws' with 401 token_invalid: The credential is unknown to Clerk, "
            "or minted without access to this service. [client unknown, user agent 'unknown']",
        ),
    ]


async def test_an_outage_is_logged_as_a_warning_with_what_clerk_said_but_no_secret(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    token = world.token()
    said = {"errors": [{"code": "odd", "message": f"cannot digest {token}"}]}
    world.emulator.fail("verifyM2MToken", status=500, body=said)

    assert await code_of(protected(world.verifier()), token) == "verification_unavailable"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "verifyM2MToken: Clerk answered 500." in record.getMessage()
    assert token not in caplog.text


async def test_a_refused_key_of_our_own_is_logged_as_an_error_for_the_operator(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = protected(world.verifier(world.settings(machine_secret_key="ak_" + "x" * 40)))

    assert await code_of(app, world.token()) == "verifier_misconfigured"
    assert [each.levelname for each in caplog.records] == ["ERROR", "WARNING"]
    assert "Clerk refused this service's own key" in caplog.records[0].getMessage()
    assert "`clerk-m2m doctor` in this environment" in caplog.records[0].getMessage()
    assert "xxxx" not in caplog.text


async def test_a_permitted_request_logs_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="clerk_m2m")

    assert await code_of(protected(world.verifier()), world.token()) is None
    assert caplog.records == []
