"""Our own key: its forms, its rotation, and what happens when Clerk refuses it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from answers import assert_retry_after

from clerk_m2m import (
    BackendUnavailableError,
    ClerkClient,
    ConfigurationError,
    KeyRefusedError,
    KeyUnavailableError,
    MachineTokenAuth,
    NotFoundError,
    Secret,
    Settings,
    Verifier,
)
from clerk_m2m.backend_api.client import Revocation
from clerk_m2m.environment import SecretKey
from harness import API_URL, USER_ID, World, bearer, calling, open_world, protected, serve

MACHINE_ID = "mch_" + "c" * 27
OLD, NEW, NEWEST = ("ak_" + name * 10 for name in ("old1", "new2", "new3"))
LIVE_KEY = "sk_live_" + "abcdefghij" * 4


class Store:
    """A store of keys that is read through a callable, with a count of the reads."""

    def __init__(self, key: str) -> None:
        self.key: str | Exception = key
        self.asked = 0
        self.answers: asyncio.Event | None = None

    def get(self) -> str:
        self.asked += 1
        if isinstance(self.key, Exception):
            raise self.key
        return self.key

    async def fetch(self) -> str:
        key = self.get()
        if self.answers is not None:
            await self.answers.wait()
        return key


class AsyncObject:
    """An object whose `__call__` is a coroutine function."""

    def __init__(self, key: str) -> None:
        self.key = key

    async def __call__(self) -> str:
        return self.key


def in_file(path: Path, key: str) -> Path:
    path.write_text(key, "utf-8")
    return path


async def _later(key: str) -> str:
    return key


FORMS: dict[str, Callable[[str, Path], SecretKey]] = {
    "text": lambda key, _: key,
    "Secret": lambda key, _: Secret(key),
    "callable": lambda key, _: lambda: key,
    "callable of a Secret": lambda key, _: lambda: Secret(key),
    "callable of a line": lambda key, _: lambda: f"{key}\n",
    "partial": lambda key, _: partial(str, key),
    "async callable": lambda key, _: partial(_later, key),
    "callable of a coroutine": lambda key, _: lambda: _later(key),
    "async object": lambda key, _: AsyncObject(key),
    "file": lambda key, path: in_file(path, f" {key}\r\n"),
}


def client(world: World, key: SecretKey, **given: Any) -> ClerkClient:
    """A client with a machine's own key."""
    defaults: dict[str, Any] = {
        "machine_secret_key": key,
        "api_url": API_URL,
        "transport": world.upstream,
        "clock": world.time.clock,
    }
    return ClerkClient(**(defaults | given))


def sent(world: World) -> list[str]:
    """The keys that were sent, in order."""
    return [
        request.headers["authorization"].removeprefix("Bearer ")
        for request in world.upstream.requests
    ]


def take_only(world: World, *keys: str, status: int = 401) -> None:
    """Make Clerk refuse every key but these; it treats them as the machine's own key."""

    async def check(request: httpx.Request) -> httpx.Response | None:
        if request.headers["authorization"].removeprefix("Bearer ") not in keys:
            error = {"code": "invalid", "message": "no", "long_message": "The key is not valid."}
            return httpx.Response(status, json={"errors": [error]})
        await asyncio.sleep(0)
        token = {"id": "mt_" + "0" * 32, "subject": world.caller.id, "revoked": False}
        return httpx.Response(200, json=token | {"expired": False, "expiration": None})

    world.upstream.intercept = check


async def verify(clerk: ClerkClient) -> None:
    await clerk.m2m_tokens.verify("mt_" + "t" * 40)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  a file is read in a thread, which sets no event
            await asyncio.sleep(0.001)


# The forms of a key


@pytest.mark.parametrize("form", FORMS)
async def test_a_key_may_be_given_in_each_of_its_forms(
    world: World, form: str, tmp_path: Path
) -> None:
    machine = FORMS[form](world.callee.secret_key, tmp_path / "machine")
    instance = FORMS[form](world.emulator.secret_key, tmp_path / "instance")
    settings = world.live_settings(machine_secret_key=machine, secret_key=instance)
    async with calling(protected(world.verifier(settings))) as service:
        answers = [
            await service.get("/", headers=bearer(token)) for token in (world.token(), world.jwt())
        ]
    async with client(world, machine, secret_key=instance) as clerk:
        await clerk.machines.list()
        await clerk.m2m_tokens.create()
    auth = MachineTokenAuth(
        FORMS[form](world.caller.secret_key, tmp_path / "caller"),
        api_url=API_URL,
        transport=world.upstream,
    )
    transport = httpx.ASGITransport(app=protected(world.verifier()))
    async with httpx.AsyncClient(auth=auth, transport=transport) as caller:
        answers.append(await caller.get("http://service.test/"))

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    own = {world.callee.secret_key, world.emulator.secret_key, world.caller.secret_key}
    assert set(sent(world)) == own


MAKERS: dict[str, Callable[[Any], Any]] = {
    "settings": lambda key: Settings(machine_id=MACHINE_ID, machine_secret_key=key),
    "client": lambda key: ClerkClient(machine_secret_key=key),
    "auth": MachineTokenAuth,
}
CONTENTS = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n", "the file is empty"),
    "the other key": (LIVE_KEY.encode(), "the file holds no key that starts with ak_"),
    "two lines": (b"ak_canary\nak_canary", "the file holds no key that starts with ak_"),
    "binary": (b"ak_canary\xff\xfe", "the file is not text"),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_without_a_key_is_named_but_not_quoted(
    make: str, content: str, tmp_path: Path
) -> None:
    path = tmp_path / "machine.key"
    path.write_bytes(CONTENTS[content][0])

    with pytest.raises(ConfigurationError) as refused:
        MAKERS[make](path)

    said = f"machine_secret_key cannot be read from {path}: {CONTENTS[content][1]}."
    assert (refused.value.code, str(refused.value)) == ("configuration_invalid", said)
    assert refused.value.__cause__ is refused.value.__context__ is None


@pytest.mark.parametrize("make", MAKERS)
def test_a_missing_key_file_is_named_at_construction(make: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere: No such file") as refused:
        MAKERS[make](tmp_path / "nowhere")

    assert refused.value.code == "configuration_invalid"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("given", [7, b"ak_bytes", ["ak_list"]])
def test_a_key_of_the_wrong_type_is_rejected(make: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="machine_secret_key must be text") as refused:
        MAKERS[make](given)

    assert refused.value.code == "configuration_invalid"


# The environment


def test_the_environment_may_name_files_that_hold_the_keys(tmp_path: Path) -> None:
    machine = in_file(tmp_path / "machine", OLD)
    instance = in_file(tmp_path / "instance", "sk_test_instance")
    settings = Settings.from_env(
        {
            "CLERK_MACHINE_ID": MACHINE_ID,
            "CLERK_MACHINE_SECRET_KEY": " ",
            "CLERK_MACHINE_SECRET_KEY_FILE": str(machine),
            "CLERK_SECRET_KEY_FILE": f"{instance}\n",
        }
    )

    assert (settings.machine_secret_key, settings.secret_key) == (machine, instance)
    assert settings.graph == "live"


async def test_machine_token_auth_reads_the_key_file_from_the_environment(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_file(tmp_path / "caller", world.caller.secret_key)
    monkeypatch.delenv("CLERK_MACHINE_SECRET_KEY", raising=False)
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY_FILE", str(path))
    auth = MachineTokenAuth(api_url=API_URL, transport=world.upstream)
    transport = httpx.ASGITransport(app=protected(world.verifier()))
    async with httpx.AsyncClient(auth=auth, transport=transport) as caller:
        answer = await caller.get("http://service.test/")

    assert answer.status_code == 200


@pytest.mark.parametrize("variable", ["CLERK_MACHINE_SECRET_KEY", "CLERK_SECRET_KEY"])
def test_setting_both_a_key_and_its_file_is_an_error(variable: str) -> None:
    environ = {"CLERK_MACHINE_ID": MACHINE_ID, variable: OLD, f"{variable}_FILE": "/nowhere"}

    with pytest.raises(ConfigurationError) as refused:
        Settings.from_env(environ)

    assert refused.value.code == "configuration_invalid"
    assert str(refused.value) == f"{variable} and {variable}_FILE are both set: set one of them."
    key = "machine_secret_key" if "MACHINE" in variable else "secret_key"
    given: dict[str, Any] = {key: OLD if "MACHINE" in variable else "sk_test_given"}
    assert Settings.from_env(environ, **given).machine_id == MACHINE_ID


def test_a_missing_key_file_is_named_with_its_variable() -> None:
    environ = {"CLERK_MACHINE_ID": MACHINE_ID, "CLERK_MACHINE_SECRET_KEY_FILE": "/nowhere/key"}

    with pytest.raises(ConfigurationError, match=r"^CLERK_MACHINE_SECRET_KEY_FILE: .*/nowhere"):
        Settings.from_env(environ)


# Plain http


def test_a_live_key_from_a_file_is_rejected_with_plain_http(tmp_path: Path) -> None:
    path = in_file(tmp_path / "key", LIVE_KEY)

    for made in (
        lambda: ClerkClient(secret_key=path, api_url="http://clerk.internal", allow_http=True),
        lambda: Verifier(
            Settings(
                machine_id=MACHINE_ID,
                secret_key=path,
                jwks_url="http://clerk.internal/jwks",
                allow_http=True,
            )
        ),
    ):
        with pytest.raises(ConfigurationError, match="secret_key is a live instance's") as refused:
            made()
        assert refused.value.code == "configuration_invalid"


async def test_a_live_key_from_a_callable_is_not_sent_over_plain_http() -> None:
    clerk = ClerkClient(
        secret_key=lambda: LIVE_KEY, api_url="http://clerk.internal", allow_http=True
    )

    with pytest.raises(KeyUnavailableError, match="secret_key is a live instance's") as failed:
        await clerk.machines.list()

    assert failed.value.code == "key_unavailable"


# Reading the source


async def test_a_plain_callable_is_called_for_each_call(world: World) -> None:
    store = Store(OLD)
    take_only(world, OLD)
    async with client(world, store.get) as clerk:
        for _ in range(3):
            await verify(clerk)

    assert store.asked == 3


async def test_an_async_callable_is_called_at_first_use_and_then_once_a_minute(
    world: World,
) -> None:
    store = Store(OLD)
    take_only(world, OLD)
    async with client(world, store.fetch) as clerk:
        assert store.asked == 0
        for second in range(180):
            await verify(clerk)
            await asyncio.sleep(0)
            assert store.asked == 1 + second // 60
            world.time.advance(1)


async def test_a_new_key_in_a_file_is_used_within_a_minute(world: World, tmp_path: Path) -> None:
    path = in_file(tmp_path / "key", OLD)
    take_only(world, OLD, NEW)
    async with client(world, path) as clerk:
        await verify(clerk)
        in_file(path, NEW)
        world.time.advance(59.9)
        await verify(clerk)
        world.time.advance(0.1)
        await verify(clerk)  # starts the read and does not wait for it
        source = clerk._api.machine_key()
        await until(lambda: source._keys[0] == Secret(NEW))
        await verify(clerk)

    assert sent(world) == [OLD, OLD, OLD, NEW]


async def test_concurrent_first_calls_share_one_read(world: World) -> None:
    store = Store(OLD)
    take_only(world, OLD)
    async with client(world, store.fetch) as clerk:
        await asyncio.gather(*(verify(clerk) for _ in range(20)))

    assert store.asked == 1
    assert sent(world) == [OLD] * 20


async def test_a_slow_source_does_not_delay_calls_that_have_a_key(world: World) -> None:
    store = Store(OLD)
    take_only(world, OLD)
    async with client(world, store.fetch) as clerk:
        await verify(clerk)
        store.answers = asyncio.Event()
        world.time.advance(60)
        for _ in range(3):
            await verify(clerk)
        store.answers.set()

    assert store.asked == 2


async def test_a_call_fails_after_its_timeout_if_the_key_source_hangs(world: World) -> None:
    store = Store(OLD)
    store.answers = asyncio.Event()
    async with client(world, store.fetch, timeout=0.05) as clerk:
        with pytest.raises(KeyUnavailableError, match="not returned a key in time") as failed:
            await verify(clerk)
        store.answers.set()

    assert failed.value.code == "key_unavailable"
    assert sent(world) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (LookupError(f"cannot decrypt {OLD}"), "its callable raised LookupError"),
        (LIVE_KEY, r"machine_secret_key .* does not look like one: it starts with ak_"),
        ("", "machine_secret_key is empty"),
        (None, "its callable returned NoneType instead of text"),
    ],
)
@pytest.mark.parametrize("form", ["get", "fetch"])
async def test_an_error_names_a_callable_that_returns_no_key_and_it_is_called_again(
    world: World, answer: Any, said: str, form: str
) -> None:
    store = Store(OLD)
    store.key = answer
    take_only(world, OLD)
    async with client(world, getattr(store, form)) as clerk:
        for _ in range(3):
            with pytest.raises(KeyUnavailableError, match=said) as failed:
                await verify(clerk)
            assert (failed.value.code, failed.value.retry_after) == ("key_unavailable", 1.0)
            assert failed.value.__cause__ is failed.value.__context__ is None
        assert store.asked == (3 if form == "get" else 1)
        store.key = OLD
        world.time.advance(1)
        await verify(clerk)

    assert sent(world) == [OLD]


async def test_listeners_are_not_notified_of_a_revocation_that_had_no_key(world: World) -> None:
    store, told = Store(OLD), list[Revocation]()
    store.key = LookupError()
    async with client(world, store.get) as clerk:
        clerk.on_revocation(told.append)
        with pytest.raises(KeyUnavailableError) as failed:
            await clerk.m2m_tokens.revoke("mt_1")

    assert failed.value.code == "key_unavailable"
    assert told == []


async def test_a_service_without_its_key_answers_503_and_recovers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(world.callee.secret_key)
    store.key = LookupError(f"cannot decrypt {world.callee.secret_key}")
    verifier = world.verifier(world.settings(machine_secret_key=store.fetch))
    async with calling(protected(verifier)) as service:
        refused = await service.get("/", headers=bearer(world.token()))
        store.key = world.callee.secret_key
        world.time.advance(1)
        answer = await service.get("/", headers=bearer(world.token()))

    assert (refused.status_code, refused.json()["code"]) == (503, "verifier_misconfigured")
    assert_retry_after(refused, 1)
    assert "its callable raised LookupError" in caplog.text
    assert world.callee.secret_key not in caplog.text
    assert answer.status_code == 200


@pytest.mark.parametrize("form", ["file", "get", "fetch"])
async def test_if_a_source_fails_the_last_key_stays_in_use_and_one_warning_a_minute_is_logged(
    world: World, form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, path = Store(OLD), in_file(tmp_path / "key", OLD)
    take_only(world, OLD)
    async with client(world, path if form == "file" else getattr(store, form)) as clerk:
        source = clerk._api.machine_key()
        await verify(clerk)
        path.unlink()
        store.key = LookupError(f"cannot decrypt {OLD}")
        for _ in range(13):
            world.time.advance(10)
            await verify(clerk)
            await until(lambda: source._readings.get().under_way() is None)

    lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(lines) == (3 if form == "get" else 2)
    assert all("The last good key stays in use" in line for line in lines)
    assert not [line for line in lines if OLD[3:] in line]
    assert set(sent(world)) == {OLD}


# Rotation


async def test_rotating_a_key_fails_no_request_and_empties_no_cache(
    world: World, tmp_path: Path
) -> None:
    path = in_file(tmp_path / "key", world.callee.secret_key)
    verifier = world.verifier(world.settings(machine_secret_key=path, cache_ttl=300))
    known, statuses = world.token(seconds_until_expiration=3600), []
    async with calling(protected(verifier)) as service:

        async def ask(token: str) -> None:
            statuses.append((await service.get("/", headers=bearer(token))).status_code)

        await ask(known)
        async with ClerkClient(
            secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
        ) as admin:
            new = await admin.machines.rotate_secret_key(world.callee.id, previous_token_ttl=120)
        for second in range(180):
            if second == 30:
                in_file(path, new.reveal())
            await asyncio.gather(ask(known), *(ask(world.token()) for _ in range(3)))
            world.time.advance(1)
        paid = verifier.stats.paid
        await ask(known)

    assert set(statuses) == {200}
    assert verifier.stats.paid == paid == 1 + 3 * 180
    assert sent(world)[-1] == new.reveal()


@pytest.mark.parametrize("form", ["file", "get", "fetch"])
async def test_an_expired_key_is_replaced_by_one_read_after_its_refusal(
    world: World, form: str, tmp_path: Path
) -> None:
    store, path = Store(world.callee.secret_key), in_file(tmp_path / "key", world.callee.secret_key)
    key = path if form == "file" else getattr(store, form)
    verifier = world.verifier(world.settings(machine_secret_key=key))
    async with calling(protected(verifier)) as service:
        await service.get("/", headers=bearer(world.token()))
        async with ClerkClient(
            secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
        ) as admin:
            new = await admin.machines.rotate_secret_key(world.callee.id, previous_token_ttl=0)
        store.key = in_file(path, new.reveal()).read_text("utf-8")
        headers = [bearer(world.token()) for _ in range(10)]
        answers = await asyncio.gather(*(service.get("/", headers=each) for each in headers))

    assert {answer.status_code for answer in answers} == {200}
    if form == "fetch":
        assert store.asked == 2
    assert len(sent(world)) <= 2 + 2 * 10


@pytest.mark.parametrize("status", [401, 403])
async def test_a_write_whose_key_was_refused_is_sent_again_with_the_new_key(
    world: World, status: int
) -> None:
    store = Store(OLD)

    async def check(request: httpx.Request) -> httpx.Response | None:
        if request.headers["authorization"] == f"Bearer {OLD}":
            return httpx.Response(status, json={"errors": [{"code": "invalid", "message": "no"}]})
        return None

    world.upstream.intercept = check
    async with client(world, store.fetch) as clerk:
        await clerk._api.machine_key().use("warm", _later_secret, timeout=1)
        store.key = world.caller.secret_key
        token = await clerk.m2m_tokens.create()

    assert token.subject == world.caller.id
    assert sent(world) == [OLD, world.caller.secret_key]


async def _later_secret(key: Secret) -> str:
    return key.reveal()


async def test_a_403_from_a_gateway_causes_no_second_attempt(world: World) -> None:
    store = Store(OLD)

    async def gateway(_request: httpx.Request) -> httpx.Response:
        store.key = NEW
        return httpx.Response(403, html="<h1>Forbidden</h1>")

    world.upstream.intercept = gateway
    async with client(world, store.get) as clerk:
        for _ in range(2):
            with pytest.raises(BackendUnavailableError, match="a gateway or proxy") as failed:
                await verify(clerk)
            assert failed.value.code == "backend_unavailable"

    assert sent(world) == [OLD, NEW]


async def test_the_last_accepted_key_is_sent_if_the_newest_is_refused(
    world: World, tmp_path: Path
) -> None:
    """The file is ahead of Clerk, or is wrong: the old key is used while Clerk accepts it."""
    path = in_file(tmp_path / "key", OLD)
    take_only(world, OLD)
    async with client(world, path) as clerk:
        source = clerk._api.machine_key()
        await verify(clerk)
        in_file(path, NEW)
        world.time.advance(60)
        await verify(clerk)
        await until(lambda: source._keys[0] == Secret(NEW))
        await verify(clerk)
        await verify(clerk)  # while NEW is in a pause, OLD is sent at once
        assert sent(world) == [OLD, OLD, NEW, OLD, OLD]
        world.upstream.requests.clear()
        take_only(world, NEW)
        world.time.advance(1)
        await verify(clerk)
        await verify(clerk)

    assert sent(world) == [NEW, NEW]


async def test_a_wrong_key_in_the_file_does_not_replace_the_accepted_key(
    world: World,
) -> None:
    store = Store(OLD)
    take_only(world, OLD)
    async with client(world, store.get) as clerk:
        await verify(clerk)
        for key in (NEW, NEWEST):
            store.key = key
            await verify(clerk)
            world.time.advance(1)

    assert sent(world) == [OLD, NEW, OLD, NEWEST, OLD]


async def test_a_key_that_the_source_returns_again_later_is_sent_at_once(world: World) -> None:
    store = Store(OLD)
    take_only(world)
    async with client(world, store.get) as clerk:
        for seconds, key in ((0, OLD), (1, OLD), (2, OLD), (1, NEW), (1, NEWEST)):
            world.time.advance(seconds)
            store.key = key
            with pytest.raises(KeyRefusedError) as refused:
                await verify(clerk)
            assert refused.value.code == "key_refused"
        take_only(world, OLD)
        world.time.advance(1)
        store.key = OLD  # 3 s after its third refusal, of a pause of 4 s
        await verify(clerk)

    assert sent(world) == [OLD, OLD, OLD, NEW, NEWEST, NEW, OLD]


async def test_a_read_that_began_before_the_refusal_is_followed_by_another(
    world: World,
) -> None:
    store = Store(OLD)
    take_only(world, NEW)
    async with client(world, store.fetch) as clerk:
        await clerk._api.machine_key().use("warm", _later_secret, timeout=1)
        store.answers = asyncio.Event()
        world.time.advance(60)
        call = asyncio.create_task(verify(clerk))
        await until(lambda: len(sent(world)) == 1 and store.asked == 2)
        store.key = NEW  # after the read that is due each minute returned OLD
        store.answers.set()
        await call

    assert sent(world) == [OLD, NEW]
    assert store.asked == 3


async def test_a_call_repeated_with_another_key_keeps_the_first_deadline(world: World) -> None:
    keys = iter([OLD, NEW])

    async def check(request: httpx.Request) -> httpx.Response | None:
        if request.headers["authorization"] == f"Bearer {OLD}":
            return httpx.Response(401, json={"errors": []})
        await asyncio.Event().wait()
        return None

    world.upstream.intercept = check
    async with client(world, lambda: next(keys), timeout=0.05) as clerk:
        with pytest.raises(BackendUnavailableError, match="no answer came within") as failed:
            await verify(clerk)

    assert failed.value.code == "backend_unavailable"


def test_event_loops_and_threads_share_a_source(tmp_path: Path) -> None:
    path, statuses = tmp_path / "key", []

    async def ask(verifier: Verifier, tokens: list[str]) -> None:
        async with calling(protected(verifier)) as service:
            for token in tokens:
                statuses.append((await service.get("/", headers=bearer(token))).status_code)
        await verifier.aclose()

    async def main() -> None:
        async with open_world() as world, serve(world.emulator) as origin:
            in_file(path, world.callee.secret_key)
            verifier = Verifier(
                world.settings(machine_secret_key=path, api_url=origin, timeout=5),
                clock=world.time.clock,
            )
            await ask(verifier, [world.token()])
            async with ClerkClient(secret_key=world.emulator.secret_key, api_url=origin) as admin:
                new = await admin.machines.rotate_secret_key(world.callee.id, previous_token_ttl=0)
            in_file(path, new.reveal())
            threads = [
                threading.Thread(
                    target=asyncio.run, args=(ask(verifier, [world.token() for _ in range(5)]),)
                )
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)

    asyncio.run(main())

    assert statuses == [200] * 21


# Refusals


async def test_a_refused_key_is_sent_after_growing_pauses_and_the_error_has_the_pause(
    world: World,
) -> None:
    verifier, began_at = world.verifier(), world.time.monotonic
    told: dict[float, httpx.Response] = {}
    last = httpx.Response(200)
    world.emulator.fail("verifyM2MToken", status=401)
    async with calling(protected(verifier)) as service:
        for _ in range(420):
            calls = len(world.upstream.requests)
            last = await service.get("/", headers=bearer(world.token()))
            assert (last.status_code, last.json()["code"]) == (503, "verifier_misconfigured")
            if len(world.upstream.requests) > calls:
                told[world.time.monotonic - began_at] = last
            world.time.advance(0.125)
        world.emulator.clear_faults()
        world.time.advance(30)
        answers = [await service.get("/", headers=bearer(world.token())) for _ in range(3)]

    pauses = {0: 1, 1: 2, 3: 4, 7: 8, 15: 16, 31: 30}
    assert told.keys() == pauses.keys()
    for at, pause in pauses.items():
        assert_retry_after(told[at], pause)
    assert_retry_after(last, 8.625)  # 52.375 s after the first, of 61
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_a_pause_of_the_machine_key_does_not_affect_the_instance_key(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    world.emulator.fail("verifyM2MToken", status=401)
    api_key = world.emulator.add_api_key("key", subject=USER_ID).secret
    oauth = world.emulator.add_oauth_token(subject=USER_ID).token
    async with calling(protected(verifier)) as service:
        statuses = [
            (await service.get("/", headers=bearer(token))).status_code
            for token in (world.token(), api_key, world.token(), oauth, world.jwt())
        ]

    assert statuses == [503, 200, 503, 200, 200]


async def test_a_403_of_one_operation_does_not_pause_other_operations_with_that_key(
    world: World,
) -> None:
    async with client(world, world.caller.secret_key) as clerk:
        for _ in range(2):
            with pytest.raises(KeyRefusedError) as refused:
                await clerk.m2m_tokens.list(world.stranger.id)
            assert (refused.value.code, refused.value.status) == ("key_refused", 403)
        token = await clerk.m2m_tokens.create()

    assert token.subject == world.caller.id
    assert len(sent(world)) == 2


async def test_an_answer_about_the_credential_ends_the_pause(world: World) -> None:
    take_only(world)
    async with client(world, world.callee.secret_key) as clerk:
        for pause in (1.0, 2.0, 4.0):
            with pytest.raises(KeyRefusedError) as refused:
                await verify(clerk)
            assert refused.value.retry_after == pause
            world.time.advance(pause)
        world.upstream.intercept = None
        for _ in range(3):
            with pytest.raises(NotFoundError) as unknown:
                await verify(clerk)
            assert unknown.value.code == "not_found"
        take_only(world)
        world.time.advance(1)
        with pytest.raises(KeyRefusedError) as refused:
            await verify(clerk)

    assert (refused.value.code, refused.value.retry_after) == ("key_refused", 1.0)


async def test_after_the_pause_one_call_tries_the_key_and_the_others_are_refused_at_once(
    world: World,
) -> None:
    take_only(world)
    async with client(world, OLD) as clerk:
        await asyncio.gather(*(verify(clerk) for _ in range(10)), return_exceptions=True)
        assert len(sent(world)) == 10  # all of them were sent before the first was refused
        world.time.advance(1)
        await asyncio.gather(*(verify(clerk) for _ in range(10)), return_exceptions=True)

    assert len(sent(world)) == 11


@pytest.mark.parametrize("form", ["file", "get", "fetch"])
async def test_during_a_pause_the_source_is_read_once_a_second(
    world: World, form: str, tmp_path: Path
) -> None:
    store, path = Store(OLD), in_file(tmp_path / "key", OLD)
    take_only(world, NEW)
    async with client(world, path if form == "file" else getattr(store, form)) as clerk:
        source = clerk._api.machine_key()
        for _ in range(100):  # 10 s: refused at 0, 1, 3 and 7 s
            with pytest.raises(KeyRefusedError) as refused:
                await verify(clerk)
            assert refused.value.code == "key_refused"
            await until(lambda: source._readings.get().under_way() is None)
            world.time.advance(0.1)
        assert sent(world) == [OLD] * 4
        assert store.asked <= 2 + 10
        store.key = in_file(path, NEW).read_text("utf-8")
        world.time.advance(1)
        if form != "get":
            with pytest.raises(KeyRefusedError):
                await verify(clerk)
            await until(lambda: source._keys[0] == Secret(NEW))
        await verify(clerk)

    assert sent(world) == [*[OLD] * 4, NEW]
