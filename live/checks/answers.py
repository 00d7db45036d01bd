"""What all answers have in common: errors, headers, addresses."""

from __future__ import annotations

from secrets import token_hex

from clerk_m2m import Secret
from live.calls import Answer
from live.finding import Finding, check, compare, lacking
from live.stage import VERIFY, Stage

ERRORS = ("clerk_m2m/backend_api/problems.py",)
API_KEY_VERIFY = "/v1/api_keys/verify"
OAUTH_VERIFY = "/v1/oauth_applications/access_tokens/verify"


def made_up(prefix: str) -> Secret:
    """Return a key or token that has the form of a real one and does not exist."""
    return Secret(prefix + token_hex(22))


@check(
    "a key that does not exist",
    assumed="401 in Clerk's error format, at machines, tokens, API keys and OAuth alike",
    where=ERRORS,
)
async def unknown_key(stage: Stage) -> Finding:
    key, post = made_up("sk_test_"), stage.calls.post
    answers = {
        "machines": await stage.calls.raw("GET", "/v1/machines", key=key),
        "M2M tokens": await post(VERIFY, {"token": made_up("mt_")}, key=key),
        "API keys": await post(API_KEY_VERIFY, {"secret": made_up("ak_")}, key=key),
        "OAuth": await post(OAUTH_VERIFY, {"access_token": made_up("oat_")}, key=key),
        "machine key": await post(VERIFY, {"token": made_up("mt_")}, key=made_up("ak_")),
    }
    return compare(all(each.is_error(401) for each in answers.values()), listed(answers))


@check(
    "no key at all",
    assumed="401 in Clerk's error format",
    where=(*ERRORS, "clerk_m2m/emulator/app.py"),
)
async def missing_key(stage: Stage) -> Finding:
    answer = await stage.calls.raw("GET", "/v1/machines", key=None)
    return compare(answer.is_error(401), str(answer))


@check(
    "a machine's key for a call that needs the instance's key",
    assumed="401 or 403 in Clerk's error format (the emulator: 401)",
    where=(*ERRORS, "clerk_m2m/emulator/app.py"),
)
async def machine_key_at_machines(stage: Stage) -> Finding:
    key = stage.caller.secret_key
    answers = {
        "machines": await stage.calls.raw("GET", "/v1/machines", key=key),
        "API keys": await stage.calls.post(API_KEY_VERIFY, {"secret": made_up("ak_")}, key=key),
    }
    return compare(all(each.is_error(401, 403) for each in answers.values()), listed(answers))


@check(
    "the instance's key for a call that needs a machine's key",
    assumed="createM2MToken: 401 machine_secret_key_invalid",
    where=("clerk_m2m/backend_api/calls.py", "clerk_m2m/emulator/app.py"),
)
async def instance_key_at_mint(stage: Stage) -> Finding:
    answer = await stage.calls.post("/v1/m2m_tokens", {})
    as_assumed = answer.is_error(401) and answer.codes == "machine_secret_key_invalid"
    return compare(as_assumed, str(answer))


@check(
    "403: the tokens of another machine",
    assumed="a machine's key that lists another machine's tokens: 403 in Clerk's error format",
    where=(*ERRORS, "clerk_m2m/emulator/m2m_token_operations.py"),
)
async def forbidden(stage: Stage) -> Finding:
    answer = await stage.calls.raw(
        "GET",
        "/v1/m2m_tokens",
        key=stage.stranger.secret_key,
        query={"subject": stage.caller.id},
    )
    return compare(answer.is_error(403), str(answer))


@check(
    "404: a machine that does not exist",
    assumed="404 in Clerk's error format, not a gateway's 404",
    where=(*ERRORS, "clerk_m2m/graph/live.py"),
)
async def not_found(stage: Stage) -> Finding:
    answer = await stage.calls.get("/v1/machines/mch_" + "0" * 27)
    trace = "with" if answer.get("clerk_trace_id") else "without"
    return compare(answer.is_error(404), f"{answer}, {trace} a clerk_trace_id")


@check(
    "values that break a rule",
    assumed="422 for machines, 400 for tokens (also for an unknown property), in Clerk's format",
    where=(*ERRORS, "clerk_m2m/emulator/checks.py"),
)
async def invalid(stage: Stage) -> Finding:
    post, token = stage.calls.post, made_up("mt_")
    machines = {
        "empty name": await post("/v1/machines", {"name": ""}),
        "limit=0": await stage.calls.get("/v1/machines", limit="0"),
        "order_by=secret": await stage.calls.get("/v1/machines", order_by="secret"),
    }
    tokens = {
        "token and secret": await post(VERIFY, {"token": token, "secret": token}),
        "secret alone": await post(VERIFY, {"secret": token}),
    }
    as_assumed = all(each.is_error(422) for each in machines.values()) and all(
        each.is_error(400) for each in tokens.values()
    )
    return compare(as_assumed, listed(machines | tokens))


@check(
    "paths without /v1",
    assumed="the same answers as with /v1",
    where="clerk_m2m/emulator/app.py",
)
async def bare_paths(stage: Stage) -> Finding:
    body = {"token": made_up("mt_")}
    with_v1 = await stage.calls.post(VERIFY, body)
    without = await stage.calls.post(VERIFY.removeprefix("/v1"), body)
    same = (with_v1.status, with_v1.codes) == (without.status, without.codes)
    return compare(same, f"with: {with_v1}; without: {without}")


@check(
    "compressed answers",
    assumed="none if the request has Accept-Encoding: identity",
    where="clerk_m2m/transport/http.py",
)
async def compression(stage: Stage) -> Finding:
    asked = await stage.calls.raw(
        "GET",
        "/v1/machines",
        key=stage.calls.secret_key,
        query={"limit": "100"},
        headers={"Accept-Encoding": "gzip"},
    )
    counts = stage.calls.connection.counts
    encoding = asked.headers.get("content-encoding", "none")
    seen = (
        f"{counts.compressed} of {counts.answers} compressed; for a request with gzip: {encoding}"
    )
    return compare(counts.compressed == 0, seen)


@check(
    "the Date of answers",
    assumed="every answer has a Date, and none has an Age",
    where=("clerk_m2m/clock.py", "clerk_m2m/transport/http.py"),
)
async def dates(stage: Stage) -> Finding:
    counts = stage.calls.connection.counts
    if not counts.answers:
        return lacking("there was no answer")
    seen = f"{len(counts.skews)} of {counts.answers} answers have a Date, {counts.aged} an Age"
    if counts.skews:
        seen += (
            f"; Date minus this host's clock: {min(counts.skews):.1f} to {max(counts.skews):.1f} s"
        )
    return compare(len(counts.skews) == counts.answers and not counts.aged, seen)


def listed(answers: dict[str, Answer]) -> str:
    """Return several answers as one line."""
    return "; ".join(f"{name}: {answer}" for name, answer in answers.items())
