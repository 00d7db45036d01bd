"""A process that has used the package forks: parent and child both work independently."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import textwrap
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

import clerk_m2m
from clerk_m2m.emulator import Emulator
from harness import SIGNING_KEY, Instance, bearer, serve

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")

HERE = Path(__file__).parent
PYTHONPATH = os.pathsep.join([str(HERE), str(Path(clerk_m2m.__file__).parents[1])])


async def output(script: str, *arguments: str) -> list[str]:
    """Run a script that forks, in a process without threads of ours; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(script)),
        *arguments,
        env=os.environ | {"PYTHONPATH": PYTHONPATH},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert err.decode() == ""
    return out.decode().split()


class Recorder:
    """The emulator, and the ports from which each process called it.

    A process requests `/process/NAME` to say that it sends the next requests.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._process = ""
        self.ports: defaultdict[str, set[int]] = defaultdict(set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/process/"):
            self._process = scope["path"].removeprefix("/process/")
            headers = [(b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body"})
            return
        if scope["type"] == "http":
            self.ports[self._process].add(scope["client"][1])
        await self._emulator(scope, receive, send)


# The parent uses a verifier and an outbound client in a loop that stays open, then forks two
# children, one after the other. Each process verifies a new opaque token and a JWT, and sends the
# outbound token.
SCRIPT = """
import asyncio, os, sys, traceback, urllib.request
import httpx
from clerk_m2m import MachineTokenAuth, Settings, Verifier

origin, machine_id, key, instance_key, caller, *tokens = sys.argv[1:]
verifier = Verifier(Settings(machine_id=machine_id, machine_secret_key=key, api_url=origin,
                             secret_key=instance_key, graph="live"))
auth = MachineTokenAuth(caller, api_url=origin)

async def work(name):
    urllib.request.urlopen(f"{origin}/process/{name}").close()
    await verifier.verify(tokens.pop())
    await verifier.verify(tokens.pop())
    async with httpx.AsyncClient(auth=auth) as client:
        (await client.get(f"{origin}/process/{name}")).raise_for_status()

loop = asyncio.new_event_loop()
loop.run_until_complete(work("parent"))
for name in ("child1", "child2"):
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(work(name))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    del tokens[-2:]
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
loop.run_until_complete(work("parent-again"))
print(verifier.stats.paid)
loop.run_until_complete(verifier.aclose())
"""


async def test_parent_and_children_verify_over_connections_of_their_own() -> None:
    emulator = Emulator(signing_key=SIGNING_KEY)
    callee = emulator.add_machine("callee")
    caller = emulator.add_machine("caller", may_call=[callee])
    tokens = [
        minted.token
        for _ in range(4)
        for minted in (
            emulator.mint_m2m_token(caller),
            emulator.mint_m2m_token(caller, token_format="jwt"),
        )
    ]
    recorder = Recorder(emulator)

    async with serve(recorder) as origin:
        printed = await output(
            SCRIPT,
            *(origin, callee.id, callee.secret_key, emulator.secret_key, caller.secret_key),
            *tokens,
        )

    assert printed == ["0", "0", "2"]  # the children have ended well; the parent has paid twice
    assert emulator.calls["verifyM2MToken"] == 4
    assert emulator.calls["createM2MToken"] == 1  # the children send the parent's token
    ports = recorder.ports
    assert ports["parent"].isdisjoint(ports["child1"] | ports["child2"])
    assert ports["child1"].isdisjoint(ports["child2"])
    assert ports["parent-again"] & ports["parent"]  # its connection is still good
    emulator.close()


async def test_a_lock_that_a_thread_holds_during_a_fork_is_free_in_the_child() -> None:
    """The thread does not exist in the child, so nothing would ever release the lock."""
    script = """
        import os, threading, time
        from clerk_m2m import MachineTokenAuth, Settings, Verifier
        from clerk_m2m.tasks import fork_safe_lock

        key = "ak_" + "x" * 40
        auth = MachineTokenAuth(key, api_url="http://127.0.0.1:1")
        verifier = Verifier(Settings(machine_id="mch_" + "x" * 27, machine_secret_key=key))
        for lock in (
            fork_safe_lock(),
            auth._token._lock,
            verifier._verdicts._lock,
            verifier._invalidations._lock,
        ):
            held, end = threading.Event(), threading.Event()

            def hold():
                with lock:
                    held.set()
                    end.wait(0.2)

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            pid = os.fork()
            if not pid:
                os._exit(0 if lock.acquire(timeout=5) else 1)
            end.set()
            thread.join()
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lock.acquire(timeout=5))
    """
    assert await output(script) == ["0", "True"] * 4


async def test_a_fork_waits_for_a_mint_in_progress_and_the_child_can_mint() -> None:
    script = """
        import os, sys, threading, time, urllib.request
        from clerk_m2m import MachineTokenAuth

        origin, key = sys.argv[1:]
        auth = MachineTokenAuth(key, api_url=origin)
        threading.Thread(target=auth.token_sync).start()
        while auth._token._flight is None or auth._token._flight.task is None:
            time.sleep(0.001)
        pid = os.fork()
        if not pid:
            sent = auth.token_sync()
            auth.forget()
            os._exit(0 if auth.token_sync() != sent else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(auth.token_sync()[:3], auth._token._minted)
    """
    emulator = Emulator(signing_key=SIGNING_KEY)
    caller = emulator.add_machine("caller")
    emulator.fail("createM2MToken", kind="delay", delay=0.2, times=1)
    async with serve(emulator) as origin:
        printed = await output(script, origin, caller.secret_key)

    assert printed == ["0", "mt_", "1"]
    assert emulator.calls["createM2MToken"] == 2
    emulator.close()


async def test_a_child_does_not_use_the_parents_value_for_an_event_loop() -> None:
    script = """
        import asyncio, os
        from clerk_m2m.tasks import PerLoop

        registry = PerLoop(object)
        async def get():
            return registry.get()

        loop = asyncio.new_event_loop()
        value = loop.run_until_complete(get())
        pid = os.fork()
        if not pid:
            os._exit(loop.run_until_complete(get()) is value)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(loop.run_until_complete(get()) is value)
        loop.close()
    """
    assert await output(script) == ["0", "True"]


# gunicorn


@asynccontextmanager
async def gunicorn(instance: Instance) -> AsyncIterator[str]:
    """Serve `preloaded_app` with two workers of gunicorn's, forked after it is loaded."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "gunicorn",
            "--preload",
            "--workers",
            "2",
            "--log-level",
            "warning",
        ),
        *("--worker-class", "uvicorn_worker.UvicornWorker", "--bind", f"fd://{listener.fileno()}"),
        "preloaded_app:app",
        env=os.environ
        | instance.environ
        | {"PYTHONPATH": PYTHONPATH, "FIRST_TOKEN": instance.token()},
        pass_fds=[listener.fileno()],
    )
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        listener.close()


@pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None
    or importlib.util.find_spec("uvicorn_worker") is None,
    reason="gunicorn and uvicorn-worker are not installed: pip install '.[test]'",
)
async def test_each_worker_of_a_preloaded_gunicorn_verifies(instance: Instance) -> None:
    workers: set[int] = set()
    requests = 0

    async with gunicorn(instance) as origin, asyncio.timeout(60):
        while len(workers) < 2 or requests < 20:
            # A connection for each request, so that the workers share them.
            async with httpx.AsyncClient(timeout=30) as client:
                answers = await asyncio.gather(
                    *(client.get(origin, headers=bearer(instance.token())) for _ in range(10))
                )
            requests += len(answers)
            assert [answer.status_code for answer in answers] == [200] * 10
            assert {answer.json()["subject"] for answer in answers} == {instance.caller.id}
            workers |= {answer.json()["pid"] for answer in answers}

    assert instance.emulator.calls["verifyM2MToken"] == requests + 1
