"""Event loops, threads and processes that come and go share one mint."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import httpx
import pytest
from outbound_calls import MINT, settle

from clerk_m2m import MachineTokenAuth
from clerk_m2m.background import Background
from clerk_m2m.emulator import EmulatedMachine
from clerk_m2m.testing import ClerkEmulatorServer
from harness import FakeTime


@pytest.fixture
def caller(clerk_emulator_server: ClerkEmulatorServer) -> EmulatedMachine:
    return clerk_emulator_server.emulator.add_machine("caller")


def auth_of(server: ClerkEmulatorServer, caller: EmulatedMachine, **given: Any) -> MachineTokenAuth:
    return MachineTokenAuth(caller.secret_key, api_url=server.url, **given)


async def call(auth: MachineTokenAuth, *, work: float = 0) -> None:
    """A job: one call of a service that answers at once, and some seconds of work."""
    service = httpx.MockTransport(lambda request: httpx.Response(200))
    async with httpx.AsyncClient(transport=service, auth=auth) as client:
        (await client.get("http://callee.test/")).raise_for_status()
    await asyncio.sleep(work)


def in_child(script: str, *arguments: str) -> tuple[int, str]:
    """Run a script in a process of its own; gives its exit code, and what it wrote to stderr."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=50,  # a mint that hangs would take 60
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return run.returncode, run.stderr


def test_sixty_jobs_with_an_event_loop_each_renew_the_token_once(
    clerk_emulator_server: ClerkEmulatorServer, caller: EmulatedMachine
) -> None:
    clock = FakeTime()
    auth = auth_of(clerk_emulator_server, caller, clock=clock.clock, seconds_until_expiration=3600)
    asyncio.run(call(auth))
    # Each job ends before the answer of the mint that it has begun.
    clerk_emulator_server.emulator.fail(MINT, kind="delay", delay=0.05)
    clock.advance(3296)
    for _ in range(60):
        clock.advance(5)
        asyncio.run(call(auth, work=0.008))
    asyncio.run(settle())

    assert clerk_emulator_server.emulator.calls[MINT] == 2


def test_eight_event_loops_in_threads_share_one_renewal(
    clerk_emulator_server: ClerkEmulatorServer, caller: EmulatedMachine
) -> None:
    clock = FakeTime()
    auth = auth_of(clerk_emulator_server, caller, clock=clock.clock, seconds_until_expiration=60)
    asyncio.run(call(auth))
    clock.advance(56)
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        for _ in range(5):
            asyncio.run(call(auth))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(settle())

    assert clerk_emulator_server.emulator.calls[MINT] == 2


def test_a_loop_that_closes_while_it_waits_leaves_the_mint_to_the_others(
    clerk_emulator_server: ClerkEmulatorServer,
    caller: EmulatedMachine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = clerk_emulator_server.emulator
    emulator.fail(MINT, kind="delay", delay=0.1, times=1)
    auth = auth_of(clerk_emulator_server, caller)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(auth.token())
    loop.run_until_complete(asyncio.sleep(0.02))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)
    loop.close()

    assert auth.token_sync().startswith("mt_")
    auth.close()  # the mint has told all its waiters
    assert emulator.calls[MINT] == 1
    assert caplog.records == []


THREADS = """
    import sys, threading, time
    from clerk_m2m import MachineTokenAuth
    from clerk_m2m.background import BACKGROUND

    def threads():
        return sum(each.name == "clerk_m2m background" for each in threading.enumerate())

    def ended():
        until = time.monotonic() + 10
        while threads() and time.monotonic() < until:
            time.sleep(0.001)
        return not threads()

    origin, key = sys.argv[1:]
    for end in (MachineTokenAuth.close, lambda auth: None):
        auth = MachineTokenAuth(key, api_url=origin)
        assert threads() == 0
        auth.token_sync()
        assert threads() == 1
        end(auth)
        del auth
        assert ended()
    assert BACKGROUND._loop is None
"""


def test_the_thread_ends_with_aclose_and_with_the_auth(
    clerk_emulator_server: ClerkEmulatorServer, caller: EmulatedMachine
) -> None:
    # In a process of its own: in this one, other tests may still have users of the thread.
    assert in_child(THREADS, clerk_emulator_server.url, caller.secret_key) == (0, "")


def test_the_thread_ends_however_its_last_user_and_its_look_at_the_users_interleave() -> None:
    class User:
        """Something that uses the thread."""

    async def nothing() -> None:
        return None

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            background, user = Background(), User()
            background.start(user, nothing)
            time.sleep(0.0005)  # its thread waits by then
            del user
            until = time.monotonic() + 2
            while background._loop is not None and time.monotonic() < until:
                time.sleep(0.0002)
            assert background._loop is None
    finally:
        sys.setswitchinterval(interval)


SCRIPT = """
    import asyncio, sys, threading
    from clerk_m2m import MachineTokenAuth

    origin, key, how = sys.argv[1:]
    auth = MachineTokenAuth(key, api_url=origin, timeout=60)
    if how == "sync":
        auth.token_sync()
    elif how == "async":
        asyncio.run(auth.token())
    else:
        threading.Thread(target=auth.token_sync, daemon=True).start()
        while auth._token._flight is None:
            pass
"""


@pytest.mark.parametrize("how", ["sync", "async", "while a mint hangs"])
def test_a_process_ends_at_once_and_without_a_warning(
    clerk_emulator_server: ClerkEmulatorServer, caller: EmulatedMachine, how: str
) -> None:
    if how.startswith("while"):
        clerk_emulator_server.emulator.fail(MINT, kind="hang")

    assert in_child(SCRIPT, clerk_emulator_server.url, caller.secret_key, how) == (0, "")
