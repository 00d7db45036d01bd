"""One verifier, several event loops: threads, test clients, forked workers."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import clerk_m2m
from clerk_m2m import MachineIdentity, Settings, Verifier
from clerk_m2m.emulator import EmulatedMachine
from clerk_m2m.testing import ClerkEmulator
from harness import bearer, protected, serve

with warnings.catch_warnings():
    # Starlette warns that it prefers another HTTP client. Only its event loops matter here.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

ROUNDS = 20


@pytest.fixture
def callee(clerk_emulator: ClerkEmulator) -> EmulatedMachine:
    return clerk_emulator.add_machine("callee")


@pytest.fixture
def mint(clerk_emulator: ClerkEmulator, callee: EmulatedMachine) -> Callable[[], str]:
    caller = clerk_emulator.add_machine("caller", may_call=[callee])
    return lambda: clerk_emulator.mint_m2m_token(caller).token


def test_a_test_client_with_a_loop_per_request_verifies_each_token_once(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    client = TestClient(protected(clerk_emulator.verifier(callee)))
    token = mint()

    for _ in range(ROUNDS):
        assert client.get("/", headers=bearer(mint())).status_code == 200
        assert client.get("/", headers=bearer(token)).status_code == 200
    assert clerk_emulator.calls["verifyM2MToken"] == ROUNDS + 1


def test_a_due_verdict_is_refreshed_in_the_loop_that_uses_it(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    # With 0 every request verifies. With 0.02 s some requests start a refresh in a loop that ends
    # before the answer arrives.
    for cache_ttl in (0.0, 0.02):
        client = TestClient(protected(clerk_emulator.verifier(callee, cache_ttl=cache_ttl)))
        token = mint()
        for _ in range(ROUNDS):
            assert client.get("/", headers=bearer(token)).status_code == 200


def test_a_service_works_again_after_its_lifespan_has_ended(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    app = protected(clerk_emulator.verifier(callee))

    for _ in range(3):
        with TestClient(app) as client:
            assert client.get("/", headers=bearer(mint())).status_code == 200


async def test_ended_loops_leave_no_connection_open(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    async with serve(clerk_emulator) as origin:
        settings = Settings(
            machine_id=callee.id, machine_secret_key=callee.secret_key, api_url=origin
        )
        verifier = Verifier(settings)

        def use_a_loop() -> None:
            async def verify_and_close() -> None:
                assert isinstance(await verifier.verify(mint()), MachineIdentity)
                await verifier.aclose()

            asyncio.run(verify_and_close())

        for _ in range(ROUNDS):
            await asyncio.to_thread(use_a_loop)
        assert isinstance(await verifier.verify(mint()), MachineIdentity)
        await verifier.aclose()
    gc.collect()  # a connection that was left open would warn now, and warnings are errors


def test_two_threads_with_a_loop_each_share_a_verifier(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    verifier, tokens = clerk_emulator.verifier(callee), [mint() for _ in range(40)]
    failures: list[BaseException] = []
    ready = threading.Barrier(2)

    async def verify_all() -> None:
        for _ in range(5):
            await asyncio.gather(*(verifier.verify(token) for token in tokens))
            verifier.invalidate(token=tokens[0])
        await verifier.aclose()

    def run() -> None:
        ready.wait()
        try:
            for _ in range(5):
                asyncio.run(verify_all())
        except BaseException as exc:  # noqa: BLE001  the main thread reports it
            failures.append(exc)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert failures == []
    assert clerk_emulator.calls["verifyM2MToken"] < 2 * 5 * 5 * len(tokens)


def test_an_invalidation_in_one_thread_applies_in_the_loop_of_another(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    verifier, token = clerk_emulator.verifier(callee), mint()
    asyncio.run(verifier.verify(token))

    thread = threading.Thread(target=verifier.invalidate, kwargs={"token": token})
    thread.start()
    thread.join()

    asyncio.run(verifier.verify(token))
    assert clerk_emulator.calls["verifyM2MToken"] == 2


PRELOADED = textwrap.dedent(
    """
    import asyncio, os, sys, warnings
    from clerk_m2m import Settings, Verifier

    warnings.simplefilter("error")
    origin, machine_id, key, use_before, *tokens = sys.argv[1:]
    settings = Settings(machine_id=machine_id, machine_secret_key=key, api_url=origin)
    verifier = Verifier(settings)

    async def verify(tokens):
        for token in tokens:
            await verifier.verify(token)
        await verifier.aclose()

    if use_before == "yes":
        asyncio.run(verify(tokens[:1]))
    workers = []
    for _ in range(3):
        pid = os.fork()
        if not pid:
            try:
                asyncio.run(verify(tokens))
                paid = verifier.stats.paid
            except BaseException as exc:
                print(repr(exc), file=sys.stderr, flush=True)
                os._exit(99)
            os._exit(paid)
        workers.append(pid)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers))
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")
@pytest.mark.parametrize("use_before", ["no", "yes"])
async def test_workers_forked_after_construction_each_verify_by_themselves(
    clerk_emulator: ClerkEmulator,
    callee: EmulatedMachine,
    mint: Callable[[], str],
    use_before: str,
) -> None:
    async with serve(clerk_emulator) as origin:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PRELOADED),
            *(origin, callee.id, callee.secret_key, use_before, mint(), mint()),
            cwd=Path(clerk_m2m.__file__).parents[1],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate()

    assert err.decode() == ""
    assert out.decode().split() == ["2", "2", "2"]  # verifications that each has paid for


def test_unknown_rate_holds_for_all_event_loops_of_a_verifier_together(
    clerk_emulator: ClerkEmulator, callee: EmulatedMachine, mint: Callable[[], str]
) -> None:
    # So low a rate allows one call during the whole test.
    verifier = clerk_emulator.verifier(callee, unknown_rate=0.001)

    async def codes() -> list[str]:
        answers = await asyncio.gather(
            *(verifier.verify(mint()) for _ in range(5)), return_exceptions=True
        )
        await verifier.aclose()
        return [getattr(each, "code", "accepted") for each in answers]

    first, second = asyncio.run(codes()), asyncio.run(codes())

    assert sorted(first) == ["accepted", *["verification_unavailable"] * 4]
    assert second == ["verification_unavailable"] * 5
    assert clerk_emulator.calls["verifyM2MToken"] == 1
