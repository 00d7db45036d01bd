"""The checks against a development instance, run here against the emulator on a real socket."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstreams import eventually

from clerk_m2m import ClerkClient, ConfigurationError, Secret
from clerk_m2m.emulator import Emulator
from harness import SIGNING_KEY, USER_ID, serve
from live.__main__ import main
from live.calls import Connection, Pace
from live.checks import CHECKS, answers, dead_tokens, jwts, limits, m2m_tokens, machines, oauth
from live.finding import Check, Finding, Verdict, check
from live.options import read_options
from live.report import Report
from live.run import run
from live.stage import Stage

ROOT = Path(__file__).parent.parent.parent
Alter = Callable[[httpx.Request, httpx.Response], httpx.Response | None]


class Network(httpx.AsyncBaseTransport):
    """Real sockets; `alter(request, response)` may replace the answer. Keeps every secret."""

    def __init__(self, alter: Alter | None = None) -> None:
        self._sockets = httpx.AsyncHTTPTransport()
        self._alter = alter
        self.secrets: set[str] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._sockets.handle_async_request(request)
        await response.aread()
        for content in (request.content, response.content):
            self._keep(content)
        return (self._alter and self._alter(request, response)) or response

    def _keep(self, content: bytes) -> None:
        value = json.loads(content) if content else None
        for name in ("token", "secret", "secret_key", "access_token"):
            text = value.get(name) if isinstance(value, dict) else None
            if isinstance(text, str) and len(text) > 16:
                self.secrets.add(text)

    async def aclose(self) -> None:
        await self._sockets.aclose()


@dataclass(kw_only=True)
class Ran:
    """A run that has ended: its report, all that it printed, and its emulator."""

    report: Report
    lines: list[str]

    def finding(self, of: Check) -> Finding:
        return next(each.finding for each in self.report.results if each.check is of)

    @property
    def output(self) -> str:
        table = io.StringIO()
        self.report.show(table)
        return "\n".join([*self.lines, table.getvalue(), self.report.as_json()])


@dataclass(kw_only=True)
class Place:
    """A served emulator, and how to run the checks against it."""

    emulator: Emulator
    origin: str
    environ: dict[str, str] = field(default_factory=dict)

    async def sleep(self, seconds: float) -> None:
        self.emulator.travel(seconds)

    async def run(
        self,
        *arguments: str,
        checks: Sequence[Check] = CHECKS,
        network: Network | None = None,
        report: Report | None = None,
    ) -> Ran:
        options = read_options(arguments, self.environ)
        ran = Ran(report=report or Report(api_url=self.origin), lines=[])
        await run(
            options,
            ran.report,
            checks=checks,
            tell=ran.lines.append,
            transport=network,
            sleep=self.sleep,
        )
        return ran

    async def names(self) -> list[str]:
        """The names of all machines of the instance."""
        key = self.emulator.secret_key
        async with ClerkClient(secret_key=key, api_url=self.origin) as clerk:
            return [machine.name async for machine in clerk.machines.iter()]

    async def keys_of(self, subject: str) -> int:
        """How many API keys a subject has."""
        key = self.emulator.secret_key
        async with ClerkClient(secret_key=key, api_url=self.origin) as clerk:
            return len(await clerk.api_keys.list(subject, include_invalid=True))


@asynccontextmanager
async def place(**given: Any) -> AsyncIterator[Place]:
    emulator = Emulator(signing_key=SIGNING_KEY, **given)
    async with serve(emulator) as origin:
        environ = {"CLERK_SECRET_KEY": emulator.secret_key, "CLERK_API_URL": origin}
        yield Place(emulator=emulator, origin=origin, environ=environ)
        emulator.clear_faults()
    emulator.close()


async def command(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """Start `python -m live` as a user does."""
    found = os.pathsep.join(path or "." for path in [*sys.path, str(ROOT)])
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CLERK_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "live",
        *arguments,
        env=clean | {"PYTHONPATH": found} | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def error(status: int, code: str) -> httpx.Response:
    """An error in Clerk's format."""
    entry = {"code": code, "message": "Scripted", "long_message": "Scripted"}
    date = {"date": "Tue, 24 Nov 2026 12:00:00 GMT"}
    return httpx.Response(status, json={"errors": [entry]}, headers=date)


# The whole run


@pytest.mark.parametrize("dead_token_answer", ["error", "flag"])
async def test_every_check_confirms_its_assumption_and_nothing_is_left_behind(
    dead_token_answer: str, tmp_path: Path
) -> None:
    async with place(dead_token_answer=dead_token_answer) as there:
        token = there.emulator.add_oauth_token(subject=USER_ID, audience="here").token
        (tmp_path / "token").write_text(token + "\n")
        there.emulator.add_machine("not of a run")
        options = ["--user", USER_ID, "--oauth-token-file", str(tmp_path / "token")]
        ran = await there.run(*options)

        assert [r.check.name for r in ran.report.results if not r.finding.lacking] == [
            each.name for each in CHECKS if each.name not in ("429 at the rate limit", EDGES)
        ]
        assert {r.finding.verdict for r in ran.report.results if not r.finding.lacking} == {
            Verdict.AS_ASSUMED
        }
        assert ran.report.exit_code == 0
        assert ran.report.counts.verifications == there.emulator.verifications > 0
        assert await there.names() == ["not of a run"]
        assert await there.keys_of(USER_ID) == 0


EDGES = "a machine with 150 edges"


async def test_many_edges_runs_the_check_of_150_edges() -> None:
    wanted = [each for each in CHECKS if each.name == EDGES]
    async with place() as there:
        ran = await there.run("--many-edges", checks=wanted)

        assert [each.finding.verdict for each in ran.report.results] == [Verdict.AS_ASSUMED]
        assert ran.report.exit_code == 0
        assert await there.names() == []


async def test_a_skipped_check_names_the_option_it_needs_and_is_no_failure() -> None:
    async with place() as there:
        ran = await there.run(checks=[oauth.instants, limits.rate_limit])

        assert ran.finding(oauth.instants).verdict is Verdict.UNKNOWN
        assert "--oauth-token-file" in ran.finding(oauth.instants).seen
        assert "--rate-limit" in ran.finding(limits.rate_limit).seen
        assert ran.report.exit_code == 0


async def test_the_command_prints_the_table_writes_the_json_and_exits_with_0(
    tmp_path: Path,
) -> None:
    async with place() as there:
        process = await command(there.environ, "--json", str(tmp_path / "live.json"))
        stdout, stderr = await process.communicate()

        assert (process.returncode, "Traceback" in stderr.decode()) == (0, False)
        written = json.loads((tmp_path / "live.json").read_text("utf-8"))
        assert [each["name"] for each in written["checks"]] == [each.name for each in CHECKS]
        assert written["exit_code"] == 0
        assert written["billed_verifications"] == there.emulator.verifications
        said = f"{there.emulator.verifications} were verifications, which Clerk bills"
        assert said in stdout.decode()
        assert await there.names() == []


# Options that are refused before any call


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sk_live_" + "a" * 40, "production instance's"),
        ("", "Set CLERK_SECRET_KEY"),
        ("ak_" + "a" * 40, "does not look like"),
        ("sk_test_a key with spaces", "does not look like"),
    ],
)
async def test_a_key_not_of_a_development_instance_exits_with_2_before_any_call(
    key: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with place() as there:
        # In a thread: it runs an event loop of its own.
        environ = there.environ | {"CLERK_SECRET_KEY": key}
        exit_code = await asyncio.to_thread(main, [], environ)
        stdout, stderr = capsys.readouterr()

        assert exit_code == 2
        assert said in stderr
        assert not stdout
        assert not key or key[3:] not in stderr
        assert not there.emulator.calls


def test_plain_http_off_loopback_needs_to_be_allowed() -> None:
    environ = {"CLERK_SECRET_KEY": "sk_test_x", "CLERK_API_URL": "http://clerk.test"}

    with pytest.raises(ConfigurationError, match="must be https"):
        read_options([], environ)
    for allowed in (
        read_options(["--allow-http"], environ),
        read_options([], environ | {"CLERK_M2M_ALLOW_HTTP": "1"}),
    ):
        assert allowed.api_url == "http://clerk.test"


@pytest.mark.parametrize(
    "arguments",
    [["--user", "u"], ["--oauth-token-file", "/nowhere"], ["--json", "/nowhere/live.json"]],
)
def test_an_option_that_cannot_work_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, {"CLERK_SECRET_KEY": "sk_test_x"}) == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_token_given_on_the_command_line_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--oauth-token", "oat_" + "a" * 40], {"CLERK_SECRET_KEY": "sk_test_x"})
    assert "aaaa" not in capsys.readouterr().err


# Answers that differ, and answers that are missing


def refuse_500(request: httpx.Request, _: httpx.Response) -> httpx.Response | None:
    return error(422, "limit_too_large") if request.url.params.get("limit") == "500" else None


def refuse_strangers_with_401(
    request: httpx.Request, response: httpx.Response
) -> httpx.Response | None:
    verifying = request.url.path.endswith("/m2m_tokens/verify")
    return error(401, "unauthorized") if verifying and response.status_code == 404 else None


def keep_revoked_tokens(_: httpx.Request, response: httpx.Response) -> httpx.Response | None:
    said = response.json()
    if said.get("revoked") is not True or "token" in said:
        return None
    return httpx.Response(200, json=said | {"revoked": False})


def drop_dates(_: httpx.Request, response: httpx.Response) -> httpx.Response:
    headers = [(name, value) for name, value in response.headers.items() if name != "date"]
    return httpx.Response(response.status_code, content=response.content, headers=headers)


def count_in_seconds(_: httpx.Request, response: httpx.Response) -> httpx.Response | None:
    said = response.json()
    if said.get("object") != "machine" or "secret_key" in said:
        return None
    seconds = {name: said[name] // 1000 for name in ("created_at", "updated_at") if name in said}
    return httpx.Response(200, json=said | seconds)


@pytest.mark.parametrize(
    ("of", "alter", "seen"),
    [
        (machines.page_size, refuse_500, "500: 422 limit_too_large"),
        (m2m_tokens.by_key, refuse_strangers_with_401, "stranger: 401 unauthorized"),
        (dead_tokens.revoked, keep_revoked_tokens, "after 10 s: 200 with revoked false"),
        (answers.dates, drop_dates, "0 of "),
        (machines.instants, count_in_seconds, "created_at: seconds"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_answer_other_than_assumed_is_different_and_exits_with_1(
    of: Check, alter: Alter, seen: str
) -> None:
    async with place(dead_token_answer="flag") as there:
        ran = await there.run(checks=[of], network=Network(alter))

        assert ran.finding(of).verdict is Verdict.DIFFERENT
        assert seen in ran.finding(of).seen
        assert ran.report.exit_code == 1
        assert seen.split(":")[0] in ran.output
        assert await there.names() == []


async def test_oauth_instants_in_milliseconds_are_different(tmp_path: Path) -> None:
    async with place(oauth_instants="milliseconds") as there:
        (tmp_path / "token").write_text(there.emulator.add_oauth_token(subject=USER_ID).token)
        given = ["--oauth-token-file", str(tmp_path / "token")]
        ran = await there.run(*given, checks=[oauth.instants])

        assert ran.finding(oauth.instants).verdict is Verdict.DIFFERENT
        assert "expiration: milliseconds" in ran.finding(oauth.instants).seen


async def test_an_answer_that_the_package_cannot_read_is_different() -> None:
    async with place() as there:
        there.emulator.fail("createM2MToken", kind="wrong_shape")
        ran = await there.run(checks=[jwts.header])

        assert ran.finding(jwts.header).verdict is Verdict.DIFFERENT
        assert "cannot read" in ran.finding(jwts.header).seen


@pytest.mark.parametrize("fault", [{"status": 500}, {"kind": "drop"}, {"status": 401}])
async def test_an_outage_is_unknown_and_exits_with_2(fault: dict[str, Any]) -> None:
    async with place() as there:
        there.emulator.fail("createM2MToken", **fault)
        ran = await there.run(checks=[jwts.header])

        assert ran.finding(jwts.header).verdict is Verdict.UNKNOWN
        assert ran.report.exit_code == 2
        assert await there.names() == []


async def test_rate_limit_runs_the_check_of_the_429() -> None:
    async with place() as there:
        there.emulator.fail("GetMachine", status=429, retry_after=2, times=3)
        limited = await there.run("--rate-limit", checks=[limits.rate_limit])
        unlimited = await there.run("--rate-limit", checks=[limits.rate_limit])

        assert limited.finding(limits.rate_limit).verdict is Verdict.AS_ASSUMED
        assert "Retry-After: 2" in limited.finding(limits.rate_limit).seen
        assert unlimited.finding(limits.rate_limit).verdict is Verdict.UNKNOWN
        assert unlimited.report.exit_code == 2


# Cleaning up


@check("a check that fails", assumed="nothing", where="live/run.py")
async def failing(stage: Stage) -> Finding:
    await stage.machine("made by it")
    raise RuntimeError("a defect of this check")


async def test_a_check_that_raises_leaves_nothing_behind() -> None:
    async with place() as there:
        with pytest.raises(RuntimeError, match="a defect"):
            await there.run(checks=[failing])

        assert there.emulator.calls["CreateMachine"] == 4
        assert await there.names() == []


async def test_a_machine_is_removed_even_if_the_answer_to_its_creation_was_lost() -> None:
    async with place() as there:
        there.emulator.fail("CreateMachine", kind="drop", performed=True, times=1)
        ran = await there.run()

        assert ran.report.exit_code == 2
        assert "cannot be created" in (ran.report.failure or "")
        assert not ran.report.results
        assert await there.names() == []


async def test_machines_that_a_run_could_not_delete_are_reported_and_clean_deletes_only_them() -> (
    None
):
    async with place() as there:
        there.emulator.add_machine("not of a run")
        there.emulator.fail("DeleteMachine", status=500)
        left = await there.run(checks=[machines.secret_key])
        assert len(await there.names()) == 4
        there.emulator.clear_faults()
        cleaned = await there.run("--clean")

        assert left.report.exit_code == 2
        assert "python -m live --clean" in left.output
        assert cleaned.report.exit_code == 0
        assert "Deleted 3 machines" in cleaned.output
        assert await there.names() == ["not of a run"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_stopped_cleans_up_and_exits_with_2(sign: signal.Signals) -> None:
    async with place() as there:
        there.emulator.fail("GetMachine", kind="hang", times=1)
        process = await command(there.environ)
        await eventually(lambda: there.emulator.calls["GetMachine"] > 0, within=20)
        process.send_signal(sign)
        stdout, _ = await process.communicate()

        assert process.returncode == 2
        assert "It was stopped" in stdout.decode()
        assert "no key at all" in stdout.decode()  # what was found before the signal is reported
        assert await there.names() == []


# Secrets, the rate limit, and the table


def echo(request: httpx.Request, response: httpx.Response) -> httpx.Response | None:
    """An error that repeats what was sent, key and token, in every place."""
    if response.status_code < 400:
        return None
    sent = f"{request.headers.get('authorization')} {request.content.decode()}"
    entry = {"code": sent, "message": sent, "long_message": sent}
    return httpx.Response(response.status_code, json={"errors": [entry], "clerk_trace_id": sent})


@pytest.mark.parametrize("alter", [None, echo], ids=["plain", "echoing"])
async def test_no_key_and_no_token_is_printed(alter: Alter | None, tmp_path: Path) -> None:
    async with place() as there:
        (tmp_path / "token").write_text(there.emulator.add_oauth_token(subject=USER_ID).token)
        network = Network(alter)
        given = ["--user", USER_ID, "--oauth-token-file", str(tmp_path / "token")]
        ran = await there.run(*given, network=network)
        secrets, printed = {*network.secrets, there.emulator.secret_key}, ran.output

        assert len(secrets) > 30
        for secret in secrets:
            pieces = [secret[at : at + 16] for at in range(4, max(5, len(secret) - 15))]
            assert not [piece for piece in pieces if piece in printed]


async def test_calls_keep_to_the_rate_limit_of_a_development_instance() -> None:
    now, sent = [0.0], []

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(sleep, now=lambda: now[0])
    for _ in range(300):
        await pace.turn()
        sent.append(now[0])

    assert max(sum(at <= each < at + 10 for each in sent) for at in sent) <= 95
    assert sent[-1] < 40


async def test_a_call_answered_with_429_is_sent_again_after_its_retry_after() -> None:
    said = [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(200)]
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    inner = httpx.MockTransport(lambda _request: said.pop(0))
    connection = Connection(inner, "clerk.test", Pace(sleep, now=lambda: 0.0), sleep)
    async with httpx.AsyncClient(transport=connection) as client:
        response = await client.get("https://clerk.test/v1/machines")

    assert response.status_code == 200
    assert waited == [7.0]
    assert connection.counts.limited == 1


def test_every_check_names_files_that_exist_and_has_a_unique_name() -> None:
    assert [file for each in CHECKS for file in each.where if not (ROOT / file).is_file()] == []
    assert len({each.name for each in CHECKS}) == len(CHECKS)


def test_the_commands_on_the_page_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "live.md").read_text("utf-8")
    lines = re.findall(r"^\$ python -m live (.*)$", page, re.MULTILINE)
    (tmp_path / "token.txt").write_text("oat_x")

    assert len(lines) == 5
    for line in lines:
        given = line.replace("user_…", USER_ID).replace("token.txt", str(tmp_path / "token.txt"))
        options = read_options(shlex.split(given), {"CLERK_SECRET_KEY": "sk_test_x"})
        assert options.secret_key == Secret("sk_test_x")
