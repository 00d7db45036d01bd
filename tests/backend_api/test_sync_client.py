"""`SyncClerkClient`: the same operations for code that does not await."""

from __future__ import annotations

import asyncio
import gc
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from api_clients import UNKNOWN_MACHINE

from clerk_m2m import (
    BackendUnavailableError,
    ClerkClient,
    ConfigurationError,
    NotFoundError,
    SyncClerkClient,
)
from clerk_m2m.backend_api import CreatedMachine, Revocation
from clerk_m2m.testing import ClerkEmulator
from harness import API_URL, USER_ID

KEY = "sk_test_" + "k" * 40
TOO_MANY = {"errors": [{"code": "too_many_requests", "message": "slow down"}]}


@pytest.fixture
def emulator() -> Iterator[ClerkEmulator]:
    """An instance that uses the real time."""
    emulator = ClerkEmulator(secret_key=KEY)
    yield emulator
    emulator.close()


@pytest.fixture
def clerk(emulator: ClerkEmulator) -> Iterator[SyncClerkClient]:
    """A client with the instance's key."""
    with SyncClerkClient(secret_key=KEY, api_url=API_URL, transport=emulator.transport) as opened:
        yield opened


class Network(httpx.AsyncBaseTransport):
    """Answers as `answer` does."""

    def __init__(self, answer: Callable[[httpx.Request], Any]) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        response: httpx.Response = await self._answer(request)
        return response


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "clerk-m2m"]


def public(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_every_method_of_the_client_has_a_synchronous_counterpart() -> None:
    """Fails until a new method of a resource, or a new resource, has one."""
    client, sync = ClerkClient(secret_key=KEY), SyncClerkClient(secret_key=KEY)
    resources = {name for name in vars(client) if not name.startswith("_")}

    assert public(sync) == public(client) - {"aclose"} | {"close"}
    for name in resources:
        ours, theirs = getattr(sync, name), getattr(client, name)
        assert public(ours) == public(theirs), name
        for method in public(theirs):
            made, original = getattr(type(ours), method), getattr(type(theirs), method)
            assert inspect.unwrap(made) is original, f"{name}.{method}"
            assert made.__doc__ == original.__doc__
            assert inspect.isasyncgenfunction(original) or inspect.iscoroutinefunction(original)
            assert not inspect.iscoroutinefunction(made)


def test_a_script_reads_its_keys_and_its_address_from_the_environment(
    instance: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Over a real socket: `CLERK_API_URL` is the emulator's address."""
    file = tmp_path / "key"
    file.write_text(f"{instance.emulator.secret_key}\n")
    monkeypatch.delenv("CLERK_SECRET_KEY", raising=False)
    monkeypatch.setenv("CLERK_SECRET_KEY_FILE", str(file))

    with SyncClerkClient.from_env() as clerk:
        page = clerk.machines.list(limit=20, order_by="-created_at")
        minted = clerk.m2m_tokens.create()

    assert [machine.name for machine in page] == ["caller", "callee"]
    assert minted.subject == instance.callee.id
    assert instance.emulator.calls["ListMachines"] == 1


async def test_arguments_override_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.host} {request.headers['authorization']}")
        return httpx.Response(200, json={"keys": []})

    monkeypatch.setenv("CLERK_SECRET_KEY", KEY)
    monkeypatch.setenv("CLERK_API_URL", "https://environment.test")
    for given in ({}, {"secret_key": "sk_test_given", "api_url": "https://given.test"}):
        options: Any = {"transport": Network(answer), **given}
        async with ClerkClient.from_env(**options) as clerk:
            await clerk.jwks.get()

    assert asked == [f"environment.test Bearer {KEY}", "given.test Bearer sk_test_given"]


@pytest.mark.parametrize("make", [ClerkClient.from_env, SyncClerkClient.from_env])
def test_an_error_names_the_variables_if_there_is_no_key(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]
) -> None:
    for name in ("CLERK_SECRET_KEY", "CLERK_MACHINE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)

    with pytest.raises(ConfigurationError, match="Set CLERK_SECRET_KEY"):
        make()


def test_plain_http_needs_allow_http_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLERK_API_URL", "http://emulator.test")
    with pytest.raises(ConfigurationError, match="api_url must be https"):
        SyncClerkClient(secret_key=KEY)

    monkeypatch.setenv("CLERK_M2M_ALLOW_HTTP", "1")
    SyncClerkClient(secret_key=KEY)


def test_it_behaves_like_the_asynchronous_client(clerk: SyncClerkClient) -> None:
    machine, created = clerk.machines.find_or_create("orders", default_token_ttl=60)
    again, created_again = clerk.machines.find_or_create("orders")
    walk = clerk.machines.iter()

    assert isinstance(machine, CreatedMachine)
    assert (created, created_again, again.id) == (True, False, machine.id)
    assert next(walk).id == machine.id
    assert list(walk) == []
    with pytest.raises(NotFoundError) as missing:
        clerk.machines.get(UNKNOWN_MACHINE)
    assert missing.value.code == "not_found"


def test_many_threads_share_one_client_with_one_thread(
    emulator: ClerkEmulator, clerk: SyncClerkClient
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(clerk.machines.create, [f"machine {number}" for number in range(40)]))

    assert len({machine.id for machine in made}) == 40
    assert emulator.calls["CreateMachine"] == 40
    assert len(threads()) == 1


async def test_inside_a_running_event_loop_it_works_and_blocks(clerk: SyncClerkClient) -> None:
    assert clerk.machines.list().total_count == 0
    assert (await asyncio.to_thread(clerk.machines.list)).total_count == 0


def test_ctrl_c_interrupts_a_call_and_closes_the_client_at_once(emulator: ClerkEmulator) -> None:
    """The network never answers, and the deadline is long."""

    async def hang(request: httpx.Request) -> httpx.Response:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    began_at = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        SyncClerkClient(
            secret_key=KEY, api_url=API_URL, transport=Network(hang), timeout=60.0
        ) as clerk,
    ):
        clerk.machines.list()

    assert threads() == []
    assert time.monotonic() - began_at < 30


def test_a_closed_client_reopens_and_an_unclosed_one_is_closed_when_collected(
    emulator: ClerkEmulator,
) -> None:
    clerk = SyncClerkClient(secret_key=KEY, api_url=API_URL, transport=emulator.transport)
    clerk.close()
    clerk.machines.list()
    clerk.close()
    assert threads() == []

    clerk.machines.list()
    assert len(threads()) == 1
    del clerk
    gc.collect()
    assert threads() == []


def test_a_script_that_closes_nothing_exits_without_output(instance: Any) -> None:
    script = (
        "from clerk_m2m import SyncClerkClient; clerk = SyncClerkClient.from_env();"
        f"print(clerk.m2m_tokens.list('{instance.callee.id}').total_count)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_closing_the_client_from_another_thread_ends_all_waits() -> None:
    asked, failed = threading.Event(), list[BaseException]()

    async def hang(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    clerk = SyncClerkClient(secret_key=KEY, api_url=API_URL, transport=Network(hang), timeout=0.2)

    def call() -> None:
        try:
            clerk.machines.list()
        except Exception as exc:  # noqa: BLE001  any exception shows that the wait has ended
            failed.append(exc)

    caller = threading.Thread(target=call)
    caller.start()
    assert asked.wait(10)
    clerk.close()
    caller.join(10)

    assert not caller.is_alive()
    assert [type(each) for each in failed] == [BackendUnavailableError]  # the call's deadline


def test_closing_the_client_during_an_iteration_raises(emulator: ClerkEmulator) -> None:
    """The next page is not requested."""
    for number in range(5):
        emulator.add_machine(f"machine {number}")
    asked, go = threading.Event(), threading.Event()

    async def wait(request: httpx.Request) -> httpx.Response:
        asked.set()
        await asyncio.to_thread(go.wait, 10)
        return httpx.Response(429, headers={"retry-after": "60"}, json=TOO_MANY)

    clerk = SyncClerkClient(secret_key=KEY, api_url=API_URL, transport=Network(wait), timeout=10.0)
    with ThreadPoolExecutor(1) as pool:
        walk = pool.submit(lambda: list(clerk.machines.iter(page_size=2)))
        assert asked.wait(10)
        go.set()
        clerk.close()
        with pytest.raises(RuntimeError, match="Another thread has closed"):
            walk.result(10)


def test_ctrl_c_interrupts_an_iteration_and_the_client_stays_open(emulator: ClerkEmulator) -> None:
    for number in range(9):
        emulator.add_machine(f"machine {number}")
    go = threading.Event()

    async def interrupt(request: httpx.Request) -> httpx.Response:
        if request.url.params["offset"] == "1":  # the second page
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.to_thread(go.wait, 10)
        return await emulator.transport.handle_async_request(request)

    with SyncClerkClient(secret_key=KEY, api_url=API_URL, transport=Network(interrupt)) as clerk:
        with pytest.raises(KeyboardInterrupt):
            list(clerk.machines.iter(page_size=2))
        go.set()
        for _ in range(5):
            clerk.machines.list()

    assert emulator.calls["ListMachines"] == 2 + 5


def test_a_listener_runs_in_the_clients_thread_and_cannot_call_the_client(
    emulator: ClerkEmulator, clerk: SyncClerkClient
) -> None:
    key = emulator.add_api_key("reports", subject=USER_ID)
    told: list[object] = []

    def listen(revocation: Revocation) -> None:
        told.append((threading.current_thread().name, revocation.token_id))
        try:
            clerk.machines.list()
        except RuntimeError as exc:
            told.append(str(exc))

    stop = clerk.on_revocation(listen)
    clerk.api_keys.revoke(key.id)
    stop()
    clerk.api_keys.delete(key.id)

    (first, second) = told
    assert first == ("clerk-m2m", key.id)
    assert "its event loop would wait for itself" in str(second)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX only")
# The warning is about a fork in a process with several threads.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_its_own_thread(
    emulator: ClerkEmulator, clerk: SyncClerkClient
) -> None:
    clerk.machines.create("orders")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_list_once, args=(clerk,))
    child.start()
    child.join(20)

    assert child.exitcode == 0
    assert clerk.machines.list().total_count == 1


def _list_once(clerk: SyncClerkClient) -> None:
    os._exit(0 if clerk.machines.list().total_count == 1 else 1)


def test_no_frame_holds_a_key_in_its_locals_when_a_call_fails(clerk: SyncClerkClient) -> None:
    with pytest.raises(NotFoundError) as failed:
        clerk.api_keys.verify("ak_canary")

    frame = failed.value.__traceback__
    shown = []
    while frame is not None:
        if "clerk_m2m" in frame.tb_frame.f_code.co_filename:
            shown.append(repr(frame.tb_frame.f_locals))
        frame = frame.tb_next
    assert shown
    assert "canary" not in "".join(shown)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_sys_exit_in_a_key_callable_fails_only_its_call(
    emulator: ClerkEmulator, kind: type[BaseException]
) -> None:
    """Otherwise `sys.exit()` in a key callable would stop the thread and every call in progress."""
    answers: list[BaseException | str] = [KEY, kind(), KEY]

    def key() -> str:
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    with SyncClerkClient(secret_key=key, api_url=API_URL, transport=emulator.transport) as clerk:
        clerk.machines.list()
        (thread,) = threads()
        with pytest.raises(kind):
            clerk.machines.list()
        clerk.machines.list()
        assert threads() == [thread]
