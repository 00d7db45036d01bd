"""Events, bounded log lines, `report_only`, and that no trace headers reach Clerk."""

from __future__ import annotations

import json
import logging
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from answers import code_of
from asgi_messages import ask, http_scope
from fastapi import Depends, FastAPI
from sent_credentials import UNKNOWN

from clerk_m2m import (
    ConfigurationError,
    MachineAuthMiddleware,
    MachineTokenAuth,
    Settings,
    Verifier,
    current_machine,
    require_machine,
    verifier_of,
)
from clerk_m2m.observe import Event
from harness import API_URL, Instance, World, bearer, calling, protected, serve

DOC = Path(__file__).parents[2] / "docs" / "logs.md"


def names(events: list[Event]) -> list[str]:
    return [each.name for each in events]


async def test_a_refusal_and_the_calls_to_clerk_are_events_and_a_cache_hit_is_none(
    world: World,
) -> None:
    events: list[Event] = []
    verifier = Verifier(
        world.settings(), transport=world.upstream, clock=world.time.clock, on_event=events.append
    )
    world.verifiers.append(verifier)
    app, token = protected(verifier), world.token()
    assert await code_of(app, token) is None
    assert names(events) == ["clerk_call"]
    assert events[0].fields["status"] == 200
    assert await code_of(app, token) is None
    assert names(events) == ["clerk_call"]
    assert await code_of(app, UNKNOWN) == "token_invalid"

    assert names(events) == ["clerk_call", "clerk_call", "refusal"]
    assert events[2].fields["code"] == "token_invalid"
    assert events[2].fields["source"] == "online"
    assert verifier.stats.refusals == {"token_invalid": 1}


async def test_an_event_of_a_refusal_has_the_first_of_several_user_agents(world: World) -> None:
    events: list[Event] = []
    app = protected(world.verifier(), on_event=events.append)
    scope = http_scope(token=UNKNOWN)
    scope["headers"] += [(b"user-agent", b"first"), (b"user-agent", b"second")]

    _, body = await ask(app, scope)

    assert body["code"] == "token_invalid"
    assert events[-1].fields["user_agent"] == "first"


async def test_an_exception_of_on_event_is_logged_and_suppressed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise LookupError("secret")

    app = protected(world.verifier(), on_event=broken)

    assert await code_of(app, UNKNOWN) == "token_invalid"
    assert "on_event raised LookupError" in caplog.text
    assert "secret" not in caplog.text


async def test_on_event_must_be_a_plain_function(world: World) -> None:
    async def late(event: Event) -> None: ...

    with pytest.raises(ConfigurationError) as refused:
        Verifier(world.settings(), transport=world.upstream, on_event=late)  # type: ignore[arg-type]
    assert refused.value.code == "configuration_invalid"


async def test_a_flood_of_refusals_writes_at_most_two_lines_a_second_and_counts_the_rest(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clerk_m2m")
    verifier = world.verifier()
    app = protected(verifier)
    path = "/\x1b[31m\n" + "x" * 30_000
    for _ in range(3):
        for _ in range(1000):
            assert (await ask(app, http_scope(path)))[0] == 401
        world.time.advance(1)
    await verifier.aclose()

    lines = [each.getMessage() for each in caplog.records]
    assert len(lines) == 4
    assert "999 more" in lines[1]
    assert "999 more" in lines[3]
    assert all(len(line) < 500 and "\n" not in line and "\x1b" not in line for line in lines)
    assert verifier.stats.refusals == {"token_missing": 3000}


async def test_the_breaker_logs_its_cause_when_it_opens_and_its_duration_when_it_closes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = world.verifier()
    app = protected(verifier)
    world.emulator.fail("verifyM2MToken", status=500)
    for _ in range(6):
        assert await code_of(app, world.token()) == "verification_unavailable"
    world.emulator.clear_faults()
    world.time.advance(20)
    assert await code_of(app, world.token()) is None

    texts = [each.getMessage() for each in caplog.records]
    opened = [each for each in texts if each.startswith("Calls to Clerk about")]
    closed = [each for each in texts if each.startswith("Clerk answers again")]
    assert len(opened) == len(closed) == 1
    assert "Clerk answered 500" in opened[0]
    assert closed[0].endswith("after 20 s.")


async def test_report_only_refuses_nothing_and_counts_each_would_be_refusal_once(
    world: World,
) -> None:
    events: list[Event] = []
    verifier = world.verifier(world.live_settings(graph="live"))
    app = protected(verifier, report_only=True, on_event=events.append)
    async with calling(app) as client:
        for token in (world.token(), None, UNKNOWN, world.token(world.stranger)):
            answered = await client.get("/", headers=bearer(token))
            assert answered.status_code == 200
            expected = world.caller.id if answered.json()["subject"] else None
            assert answered.json()["subject"] == expected

    assert verifier.stats.refusals == {}
    assert sum(verifier.stats.would_refuse.values()) == 3
    assert names(events) == ["would_refuse"] * 3


async def test_report_only_warns_of_the_routes_whose_guards_refuse(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()

    @app.get("/orders")
    async def orders(caller: Annotated[Any, Depends(require_machine())]) -> None: ...

    @app.get("/free")
    async def free() -> None: ...

    app.add_middleware(MachineAuthMiddleware, verifier=world.verifier(), report_only=True)
    async with calling(app) as client:
        free_answer = await client.get("/free")
        refused = await client.get("/orders", headers=bearer(UNKNOWN))

    assert free_answer.status_code == 200
    assert refused.json()["code"] == "token_invalid"
    assert "on these routes: /orders." in caplog.text


async def test_verifier_of_and_current_machine_return_the_verifier_and_the_caller(
    world: World,
) -> None:
    found: list[Any] = []
    app = FastAPI()
    verifier = world.verifier()

    @app.get("/")
    async def root() -> None:
        found.append(current_machine())

    app.add_middleware(MachineAuthMiddleware, verifier=verifier)
    async with calling(app) as client:
        await client.get("/", headers=bearer(world.token()))

    assert found[0].subject == world.caller.id
    assert current_machine() is None
    assert verifier_of(app) is verifier


async def test_trace_headers_that_others_add_do_not_reach_clerk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = httpx.AsyncClient.send

    async def traced(self: Any, request: httpx.Request, **given: Any) -> httpx.Response:
        request.headers.update({"traceparent": "00-1", "baggage": "user=anna"})
        return await send(self, request, **given)

    verifier = world.verifier()
    monkeypatch.setattr(httpx.AsyncClient, "send", traced)
    await verifier.verify(world.token())

    assert not {"traceparent", "baggage"} & set(world.upstream.requests[0].headers)


async def test_json_logger_and_structlog_show_the_fields(world: World) -> None:
    json_logger = pytest.importorskip("pythonjsonlogger.json")
    structlog = pytest.importorskip("structlog")
    as_structlog = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ExtraAdder(),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ]
    )
    handlers = []
    for formatter in (json_logger.JsonFormatter(), as_structlog):
        handlers.append(logging.StreamHandler(StringIO()))
        handlers[-1].setFormatter(formatter)
        logging.getLogger("clerk_m2m").addHandler(handlers[-1])
    logging.getLogger("clerk_m2m").setLevel(logging.INFO)
    try:
        assert await code_of(protected(world.verifier()), UNKNOWN) == "token_invalid"
    finally:
        logging.getLogger("clerk_m2m").setLevel(logging.NOTSET)
        for handler in handlers:
            logging.getLogger("clerk_m2m").removeHandler(handler)

    for handler in handlers:
        line = json.loads(handler.stream.getvalue())
        assert line["event_name"] == "refusal"
        assert line["code"] == "token_invalid"


async def test_a_mint_is_an_event_with_its_id_and_caller(world: World) -> None:
    events: list[Event] = []
    auth = MachineTokenAuth(
        world.caller.secret_key,
        api_url=API_URL,
        transport=world.upstream,
        clock=world.time.clock,
        on_event=events.append,
    )
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with auth, httpx.AsyncClient(auth=auth, transport=transport) as client:
        await client.get("https://orders.test")

    assert names(events) == ["clerk_call", "mint"]
    assert events[1].fields["caller"] == world.caller.id


async def test_opentelemetry_sends_nothing_to_clerk_and_its_span_has_the_events(
    instance: Instance,
) -> None:
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.httpx")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    seen: list[set[bytes]] = []

    async def clerk(scope: Any, receive: Any, send: Any) -> None:
        seen.append({name for name, _ in scope["headers"]})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    provider = sdk.TracerProvider()
    instrumentor = instrumentation.HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        async with serve(clerk, lifespan="off") as origin:
            settings = Settings(
                machine_id=instance.callee.id,
                machine_secret_key=instance.callee.secret_key,
                api_url=origin,
            )
            verifier = Verifier(settings)
            with provider.get_tracer("test").start_as_current_span("request") as span:
                assert await code_of(protected(verifier), UNKNOWN) == "verification_unavailable"
            await verifier.aclose()
            async with httpx.AsyncClient() as other:
                await other.get(origin)
    finally:
        instrumentor.uninstrument()

    assert [b"traceparent" in each for each in seen] == [False, True]
    assert [each.name for each in span.events] == ["clerk_m2m.clerk_call", "clerk_m2m.refusal"]


async def test_the_on_event_on_the_page_about_logs_prints_a_refusal(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace: dict[str, Any] = {}
    exec(DOC.read_text("utf-8").split("```python\n")[1].split("```")[0], namespace)

    app = protected(world.verifier(), on_event=namespace["on_event"])

    assert await code_of(app, UNKNOWN) == "token_invalid"
    assert capsys.readouterr().out == "token_invalid None\n"
