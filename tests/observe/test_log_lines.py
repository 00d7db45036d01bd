"""Log lines while Clerk is down; the limit of one line does not suppress another."""

from __future__ import annotations

import asyncio
import logging

import pytest
from answers import code_of

from clerk_m2m import Verifier
from clerk_m2m.observe import Event
from harness import World, protected


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [each.getMessage() for each in caplog.records if part in each.getMessage()]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_failed_refreshes_are_logged_once_a_minute_with_the_cause(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    verifier, tokens = world.verifier(), [world.token() for _ in range(3)]
    for token in tokens:
        await verifier.verify(token)
    world.time.advance(46.0)  # due for a refresh, not yet expired
    world.emulator.fail("verifyM2MToken", status=500)
    for _ in range(5):
        for token in tokens:
            await verifier.verify(token)
            await settled()
        world.time.advance(1.5)

    (line,) = lines(caplog, "cannot be refreshed")
    assert "Clerk answered 500" in line


async def test_the_use_of_stale_verdicts_is_logged_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, token = world.verifier(world.settings(stale_if_error=600)), world.token()
    await verifier.verify(token)
    world.emulator.fail("verifyM2MToken", status=500)
    for _ in range(70):
        world.time.advance(1.0)
        await verifier.verify(token)
    assert verifier.stats.stale > 5
    assert len(lines(caplog, "Expired verdicts are used")) == 1

    world.time.advance(60.0)
    await verifier.verify(token)
    assert len(lines(caplog, "Expired verdicts are used")) == 2


async def test_warnings_about_an_outage_do_not_suppress_the_error_about_our_key(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = protected(world.verifier())
    world.emulator.fail("verifyM2MToken", status=500, times=1)
    world.emulator.fail("verifyM2MToken", status=401)

    assert await code_of(app, world.token()) == "verification_unavailable"
    assert await code_of(app, world.token()) == "verifier_misconfigured"
    assert [each.levelname for each in caplog.records] == ["WARNING", "ERROR", "WARNING"]
    assert "own key" in caplog.records[1].getMessage()


async def test_an_invalidation_is_an_event_that_names_what_was_invalidated(world: World) -> None:
    events: list[Event] = []
    verifier = Verifier(world.settings(), transport=world.upstream, on_event=events.append)
    verifier.invalidate(machine_id=world.caller.id)
    verifier.invalidate(token=world.token())

    assert [each.name for each in events] == ["invalidation", "invalidation"]
    assert events[0].fields["machine_id"] == world.caller.id
    assert "mt_" not in str(events[1].fields)
