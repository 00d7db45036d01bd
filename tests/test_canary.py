"""No token and no key leaks, whatever fault occurs.

The tests use tokens and keys as canaries: values whose parts do not occur by chance. They are
searched for in every log record of every logger at every level, in every answer, in the `repr` of
everything that can be reached from the settings, the verifier, the identities and the errors, and
in tracebacks with the locals of our own frames, as `pytest -l` and rich show them. A token may be a
local of the middleware and of `Verifier.verify`, which receive it. No frame may have a key as a
local.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from canaries import ECHOES, Aviary, _error

from clerk_m2m import (
    ClerkClient,
    ClerkM2MError,
    ConfigurationError,
    MachineTokenAuth,
    ScopeGraph,
    Settings,
    Verifier,
)
from clerk_m2m.emulator.faults import FaultKind
from harness import API_URL, USER_ID, World, protected, serve


@pytest.fixture
def aviary(world: World, caplog: pytest.LogCaptureFixture) -> Aviary:
    """A world whose keys are canaries, with every logger at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "clerk_m2m", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    found = Aviary(world, caplog)
    found.keep_key(world.callee.secret_key)
    found.keep_key(world.emulator.secret_key)
    return found


def credentials(aviary: Aviary) -> list[str]:
    """One good credential of each kind."""
    emulator, caller = aviary.world.emulator, aviary.world.caller
    minted = [
        emulator.mint_m2m_token(caller).token,
        emulator.mint_m2m_token(caller, token_format="jwt").token,
        emulator.add_api_key("key", subject=USER_ID).secret,
        emulator.add_oauth_token(subject=USER_ID).token,
        emulator.add_oauth_token(subject=USER_ID, token_format="jwt").token,
    ]
    return [aviary.keep(token) for token in minted]


def settings(world: World, **given: Any) -> Settings:
    """Settings with all kinds of credentials, both keys, a live graph and a short timeout."""
    return world.live_settings(**({"timeout": 0.2} | given))


def timeout_for(kind: FaultKind) -> float:
    """Return the timeout of a call in seconds, short for a fault that uses all of it up."""
    return 0.05 if kind in ("hang", "drip") else 1.0


async def test_no_secret_leaks_without_a_fault(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world))

    for token in credentials(aviary):
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code == 200

    assert any(record.name == "httpx" for record in aviary.log.records)
    aviary.assert_silent()


@pytest.mark.parametrize("kind", get_args(FaultKind))
async def test_no_secret_leaks_under_any_fault(aviary: Aviary, kind: FaultKind) -> None:
    emulator = aviary.world.emulator
    verifier = aviary.world.verifier(settings(aviary.world, timeout=timeout_for(kind)))
    tokens = credentials(aviary)
    statuses = [400, 401, 403, 404, 422, 429, 500, 503] if kind == "status" else [None]
    for status in statuses:
        body = "nonsense" if kind == "body" else None
        emulator.fail(kind=kind, status=status, body=body, delay=0.01 if kind == "delay" else 0)
        for token in tokens:
            await aviary.ask(verifier, token)
        emulator.clear_faults()
        aviary.world.time.advance(60)

    assert aviary.frames or kind == "delay", "no traceback was searched"
    aviary.assert_silent()


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500])
async def test_no_secret_leaks_when_the_upstream_echoes_it(
    aviary: Aviary, status: int, echo: str
) -> None:
    async def repeat(request: httpx.Request) -> httpx.Response:
        said = request.headers.get("authorization", "") + request.content.decode()
        secrets = [canary for canary in aviary.canaries if canary in said]
        # The credential where there is one, else the key.
        return ECHOES[echo](status, secrets[-1] if secrets else "nothing")

    tokens = credentials(aviary)
    aviary.world.upstream.intercept = repeat
    verifier = aviary.world.verifier(settings(aviary.world))

    for token in tokens:
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code in (401, 503)

    aviary.assert_silent()


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_our_own_key_echoed_by_the_upstream_does_not_leak(
    aviary: Aviary, status: int
) -> None:
    async def repeat(request: httpx.Request) -> httpx.Response:
        key = request.headers.get("authorization", "")
        return httpx.Response(status, json=_error(long_message=f"What is {key}?"))

    tokens = credentials(aviary)
    aviary.world.upstream.intercept = repeat

    for token in tokens:
        await aviary.ask(aviary.world.verifier(settings(aviary.world)), token)

    aviary.assert_silent()


async def test_a_token_refused_for_its_form_does_not_leak(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world, accepts=["m2m_token"]))
    good = credentials(aviary)
    session = aviary.keep(aviary.world.emulator.mint_session_jwt())
    header, payload, signature = session.split(".")
    odd = [session, good[2], good[3], f"{header}.{payload}", f"{payload}.{header}.{signature}"]
    odd += [f"{payload}.{payload}.{payload}", session + "=", "mt_" + payload, payload]

    for token in odd:
        answer = await aviary.ask(verifier, token)
        assert answer is not None
        assert answer.status_code == 401

    aviary.assert_silent()


async def test_the_cache_holds_no_token(aviary: Aviary) -> None:
    verifier = aviary.world.verifier(settings(aviary.world))
    for token in credentials(aviary):
        await aviary.ask(verifier, token)
    assert len(verifier._verdicts) == 5

    aviary.look(verifier._verdicts._positive._entries, verifier._verdicts._negative._entries)

    aviary.assert_silent()


async def test_the_repr_of_a_client_and_its_results_shows_no_key(aviary: Aviary) -> None:
    world = aviary.world
    client = world.emulator.client(world.callee)
    created = await client.machines.create("new")
    minted = await client.m2m_tokens.create()
    key = await client.api_keys.create(name="key", subject=USER_ID)
    for secret in (created.secret_key, minted.token, key.secret):
        aviary.keep(secret.reveal())

    aviary.look(client, created, minted, key)
    await client.aclose()

    aviary.assert_silent()


async def use_client(aviary: Aviary, client: ClerkClient) -> None:
    """Call the operations that send or return a secret, with the plain text of each."""
    world = aviary.world
    api_key = aviary.keep(world.emulator.add_api_key("key", subject=USER_ID).secret)
    oauth = aviary.keep(world.emulator.add_oauth_token(subject=USER_ID).token)
    token, caller = aviary.keep(world.token()), world.caller
    aviary.keep_key(caller.secret_key)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.machines.get(caller.id),
        lambda: client.machines.get_secret_key(caller.id),
        lambda: client.m2m_tokens.create(machine_secret_key=caller.secret_key),
        lambda: client.m2m_tokens.verify(token),
        lambda: client.api_keys.verify(api_key),
        lambda: client.oauth_access_tokens.verify(oauth),
        lambda: client.jwks.get(),
        lambda: client.machines.create("name"),
    ]
    for call in calls:
        await aviary.attempt(call)


def client_of(world: World, timeout: float = 1.0) -> ClerkClient:
    """A client with both keys."""
    return world.emulator.client(world.callee, timeout=timeout)


@pytest.mark.parametrize("kind", get_args(FaultKind))
async def test_no_frame_of_a_client_shows_a_secret_under_any_fault(
    aviary: Aviary, kind: FaultKind
) -> None:
    status, body = (400 if kind == "status" else None), ("nonsense" if kind == "body" else None)
    client = client_of(aviary.world, timeout_for(kind))
    aviary.world.emulator.fail(
        kind=kind, status=status, body=body, delay=0.01 if kind == "delay" else 0
    )

    await use_client(aviary, client)
    await client.aclose()

    aviary.assert_silent()


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 401, 500])
async def test_no_frame_of_a_client_shows_a_secret_that_the_upstream_echoes(
    aviary: Aviary, status: int, echo: str
) -> None:
    async def repeat(request: httpx.Request) -> httpx.Response:
        said = request.headers.get("authorization", "") + request.content.decode()
        return ECHOES[echo](status, [canary for canary in aviary.canaries if canary in said][-1])

    client = client_of(aviary.world)
    aviary.world.upstream.intercept = repeat

    await use_client(aviary, client)
    await client.aclose()

    assert ("calls.py", "document_of") in aviary.frames or status == 200
    aviary.assert_silent()


async def test_no_frame_shows_a_new_secret_in_an_unreadable_answer(
    aviary: Aviary,
) -> None:
    secrets = {"secret_key": "ak_" + "new1" * 10, "token": "mt_" + "new2" * 10}
    secrets["secret"] = "ak_" + "new3" * 10
    for secret in secrets.values():
        aviary.keep(secret)

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=secrets | {"id": secrets["secret"], "keys": "none"})

    client = client_of(aviary.world)
    aviary.world.upstream.intercept = answer

    await use_client(aviary, client)
    await client.aclose()

    assert ("parsing.py", "reader") in aviary.frames
    aviary.assert_silent()


async def test_no_frame_of_machine_token_auth_shows_its_key_or_its_token(aviary: Aviary) -> None:
    world = aviary.world
    key = aviary.keep_key(world.caller.secret_key)
    auth = MachineTokenAuth(
        key, api_url=API_URL, transport=world.upstream, clock=world.time.clock, timeout=0.5
    )
    async with httpx.AsyncClient(
        auth=auth, transport=httpx.ASGITransport(app=protected(world.verifier()))
    ) as client:
        for kind in get_args(FaultKind):
            status, body = (401 if kind == "status" else None), ("" if kind == "body" else None)
            world.emulator.fail(
                kind=kind, status=status, body=body, delay=0.01 if kind == "delay" else 0
            )
            await aviary.attempt(lambda: client.get("http://service.test/"))
            world.emulator.clear_faults()
            world.time.advance(60)
        assert (await client.get("http://service.test/")).status_code == 200
        held = auth._token.live()
        assert held is not None
        aviary.keep(held.header.reveal().removeprefix("Bearer "))
        aviary.look(auth)
    await auth.aclose()

    assert ("auth.py", "async_auth_flow") in aviary.frames
    aviary.assert_silent()


MACHINE_ID = "mch_" + "c" * 27
MACHINE_KEY, INSTANCE_KEY = "ak_" + "0123456789" * 4, "sk_test_" + "abcdefghij" * 4
ENVIRONMENT = {
    "CLERK_MACHINE_ID": MACHINE_ID,
    "CLERK_MACHINE_SECRET_KEY": MACHINE_KEY,
    "CLERK_SECRET_KEY": INSTANCE_KEY,
}
# Constructions that are given a key and fail.
WRONG: dict[str, Callable[[], Any]] = {
    "settings": lambda: Settings(
        machine_id="billing", machine_secret_key=MACHINE_KEY, secret_key=INSTANCE_KEY
    ),
    "settings, too late": lambda: Settings(
        machine_id=MACHINE_ID, machine_secret_key=MACHINE_KEY, timeout=0
    ),
    "environment": lambda: Settings.from_env(ENVIRONMENT | {"CLERK_M2M_CACHE_TTL": "1 minute"}),
    "environment of the process": lambda: Settings.from_env(timeout=0),
    "environment and given keys": lambda: Settings.from_env(
        {}, machine_secret_key=MACHINE_KEY, secret_key=INSTANCE_KEY
    ),
    "the other key": lambda: Settings(
        machine_id=MACHINE_ID, machine_secret_key=INSTANCE_KEY, secret_key=MACHINE_KEY
    ),
    "verifier": lambda: Verifier(Settings.from_env(ENVIRONMENT | {"CLERK_M2M_GRAPH": "nowhere"})),
    "client": lambda: ClerkClient(
        secret_key=INSTANCE_KEY, machine_secret_key=MACHINE_KEY, api_url="nowhere"
    ),
    "client, the other key": lambda: ClerkClient(secret_key=MACHINE_KEY),
    "callers": lambda: MachineTokenAuth(MACHINE_KEY, timeout=0),
    "callers, the other key": lambda: MachineTokenAuth(INSTANCE_KEY),
    "callers, hosts": lambda: MachineTokenAuth(MACHINE_KEY, hosts=[]),
    "callers, environment": lambda: MachineTokenAuth(hosts=["*"]),
    "settings, callables": lambda: Settings(
        machine_id=MACHINE_ID,
        machine_secret_key=partial(str, MACHINE_KEY),
        secret_key=partial(str, INSTANCE_KEY),
        timeout=0,
    ),
    "client, callables": lambda: ClerkClient(
        secret_key=partial(str, INSTANCE_KEY),
        machine_secret_key=partial(str, MACHINE_KEY),
        api_url="http://clerk.internal",
    ),
    "callers, callable": lambda: MachineTokenAuth(partial(str, MACHINE_KEY), timeout=0),
}


@pytest.mark.parametrize("made", WRONG)
def test_no_frame_of_a_failed_construction_shows_a_key(
    aviary: Aviary, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, text in ENVIRONMENT.items():
        monkeypatch.setenv(variable, text)
    aviary.keep_key(MACHINE_KEY)
    aviary.keep_key(INSTANCE_KEY)

    with pytest.raises(ConfigurationError) as refused:
        WRONG[made]()

    aviary.look_at_error(refused.value)
    assert aviary.frames
    aviary.assert_silent()


async def _given_later(key: str) -> str:
    await asyncio.sleep(0)
    return key


def _cannot_decrypt(key: str) -> str:
    raise LookupError(f"cannot decrypt {key}")


async def _cannot_decrypt_later(key: str) -> str:
    raise LookupError(f"cannot decrypt {key}")


# Callables that return no key of a machine. The repr of a `partial` shows its arguments.
NO_KEY: dict[str, Callable[[], Any]] = {
    "the other key": partial(str, INSTANCE_KEY),
    "the other key, later": partial(_given_later, INSTANCE_KEY),
    "bytes": partial(str.encode, INSTANCE_KEY),
    "an error": partial(_cannot_decrypt, INSTANCE_KEY),
    "an error, later": partial(_cannot_decrypt_later, INSTANCE_KEY),
}


@pytest.mark.parametrize("given", NO_KEY)
async def test_no_frame_shows_a_wrong_key_that_a_callable_returns(
    aviary: Aviary, given: str
) -> None:
    aviary.keep_key(INSTANCE_KEY)
    world = aviary.world
    auth = MachineTokenAuth(NO_KEY[given], api_url=API_URL, transport=world.upstream)
    verifier = world.verifier(settings(world, machine_secret_key=NO_KEY[given]))
    client = ClerkClient(
        machine_secret_key=NO_KEY[given], api_url=API_URL, transport=world.upstream
    )

    async with httpx.AsyncClient(auth=auth) as caller:
        await aviary.attempt(lambda: caller.get("http://service.test/"))
    await aviary.ask(verifier, aviary.keep(world.token()))
    await aviary.attempt(lambda: client.m2m_tokens.list(world.caller.id))
    aviary.look(auth, client)

    assert ("key_source.py", "use") in aviary.frames
    assert not world.upstream.requests
    aviary.assert_silent()


SOURCES: dict[str, Callable[[str, Path], Any]] = {
    "callable": lambda key, _: partial(str, key),
    "async callable": lambda key, _: partial(_given_later, key),
    "file": lambda key, path: path.write_text(key, "utf-8") and path,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("status", [200, 401, 403, 500])
async def test_a_key_from_a_callable_or_a_file_does_not_leak(
    aviary: Aviary, source: str, status: int, tmp_path: Path
) -> None:
    world, give = aviary.world, SOURCES[source]
    keys = {
        "machine_secret_key": give(world.callee.secret_key, tmp_path / "machine"),
        "secret_key": give(world.emulator.secret_key, tmp_path / "instance"),
    }
    verifier = world.verifier(settings(world, **keys))
    client = ClerkClient(**keys, api_url=API_URL, timeout=0.2, transport=world.upstream)
    tokens = credentials(aviary)
    if status != 200:
        world.emulator.fail(status=status)

    for _ in range(2):
        for token in tokens:
            await aviary.ask(verifier, token)
        await use_client(aviary, client)
        world.time.advance(90)
    wrong = aviary.keep_key("canary" * 8)
    for name in ("machine", "instance"):
        SOURCES["file"](wrong, tmp_path / name)
    for token in tokens:
        await aviary.ask(verifier, token)
    aviary.look(client)
    await client.aclose()

    assert aviary.frames or status == 200
    aviary.assert_silent()


@pytest.mark.parametrize("content", [INSTANCE_KEY, MACHINE_KEY + "\n" + MACHINE_KEY, "\udcff"])
def test_no_frame_of_a_failed_construction_shows_the_content_of_a_key_file(
    aviary: Aviary, content: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text(content + MACHINE_KEY, "utf-8", errors="surrogateescape")
    aviary.keep_key(INSTANCE_KEY)
    aviary.keep_key(MACHINE_KEY)

    for make in (
        lambda: Settings(machine_id=MACHINE_ID, machine_secret_key=path),
        lambda: Settings.from_env(
            {"CLERK_MACHINE_ID": MACHINE_ID, "CLERK_MACHINE_SECRET_KEY_FILE": str(path)}
        ),
        lambda: ClerkClient(machine_secret_key=path),
        lambda: MachineTokenAuth(path),
    ):
        with pytest.raises(ConfigurationError, match=str(path)) as refused:
            make()
        aviary.look_at_error(refused.value)

    assert ("environment.py", "key_of_file") in aviary.frames
    aviary.assert_silent()


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Verifier]:
    """A verifier that reaches the emulator over a socket, through all of httpx and httpcore."""
    async with serve(world.emulator) as origin:
        verifier = Verifier(settings(world, api_url=origin, timeout=1.0), clock=world.time.clock)
        try:
            yield verifier
        finally:
            await verifier.aclose()


async def test_debug_logs_of_the_network_layers_leak_no_secret(aviary: Aviary) -> None:
    world = aviary.world
    async with served(world) as verifier:
        for token in credentials(aviary):
            answer = await aviary.ask(verifier, token)
            assert answer is not None
            assert answer.status_code == 200
        for kind in ("drop", "malformed_json", "oversize", "html"):
            world.emulator.fail(kind=kind)
            for token in credentials(aviary):
                await aviary.ask(verifier, token)
            world.emulator.clear_faults()
            world.time.advance(2)

    assert any(record.name.startswith("httpcore") for record in aviary.log.records)
    aviary.assert_silent()


def test_the_search_finds_a_part_of_a_secret_in_the_cause_of_an_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    aviary = Aviary(world, caplog)
    canary = aviary.keep("ak_" + "0123456789abcdef" * 3)
    error = ClerkM2MError("outer")
    error.__cause__ = ValueError({"deep": [f"says {canary[5:25]}"]})

    aviary.look(error)

    with pytest.raises(AssertionError, match="a secret leaked"):
        aviary.assert_silent()


@pytest.mark.parametrize("kind", ["key", "token"])
def test_the_search_finds_a_secret_in_the_locals_of_our_frames(
    world: World, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    aviary = Aviary(world, caplog)
    keep = aviary.keep_key if kind == "key" else aviary.keep
    text = f"[machines.{keep('ak_' + '0123456789abcdef' * 3)}"

    with pytest.raises(ConfigurationError) as refused:
        ScopeGraph.from_toml(text)  # which has its text in a local

    aviary.look_at_error(refused.value)
    with pytest.raises(AssertionError, match="a secret leaked"):
        aviary.assert_silent()
