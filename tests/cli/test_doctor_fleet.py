"""`doctor` and a fleet's Redis: on a real Valkey, each fault is reported by the right check."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from test_docs import ROOT

from bench.own_valkey import own_valkey
from clerk_m2m import Fleet
from clerk_m2m.fleet.health import refused_commands

from .conftest import Shop

# When a connection attempt is cancelled in its last step, asyncio leaves the socket to the garbage
# collector, which warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)

KEY, OTHER_KEY, PASSWORD = "f" * 40, "o" * 40, "hunter22-of-redis"
Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[redis_py.Redis]:
    """A client of a server that only this module uses."""
    with (
        own_valkey(appendonly="yes") as server,
        redis_py.Redis(port=server.port, decode_responses=True) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def restored(valkey: redis_py.Redis) -> Iterator[None]:
    """Undo what a test has set on the server."""
    yield
    valkey.replicaof("NO", "ONE")
    valkey.flushall()
    valkey.config_set("maxmemory-policy", "noeviction")
    valkey.config_set("appendonly", "yes")
    gc.collect()


def url(valkey: redis_py.Redis, user: str = "") -> str:
    """Return the address of the server, with `user` (`NAME:PASSWORD@`) if it is given."""
    return f"redis://{user}127.0.0.1:{valkey.connection_pool.connection_kwargs['port']}"


def examine(shop: Shop, server: str, **environ: str) -> tuple[int, Found]:
    """Run `doctor`; return its exit code and its findings about the fleet."""
    given = {"CLERK_M2M_FLEET_URL": server, "CLERK_M2M_FLEET_KEY": KEY} | environ
    shop.secrets.append(PASSWORD)
    ended = shop.run("doctor", "--json", **given)
    checks = {each["check"]: each for each in ended.json["checks"]}
    return ended.code, {name: each for name, each in checks.items() if name.startswith("fleet")}


def test_doctor_finds_no_fault_in_a_correct_redis(shop: Shop, valkey: redis_py.Redis) -> None:
    given = {"CLERK_M2M_FLEET_URL": url(valkey), "CLERK_M2M_FLEET_KEY": KEY}
    assert shop.run("invalidate", shop.billing.id, **given).code == 0

    code, found = examine(shop, url(valkey), CLERK_M2M_FLEET_SHARE_VERDICTS="1")

    assert code == 0
    assert {each["status"] for each in found.values()} == {"ok"}
    assert re.match(
        r"Valkey \d+\.\d+\.\d+ answers in \d+\.\d ms .*rows in the log: 1\.", found["fleet"]["text"]
    )
    assert "and the shared verdicts need" in found["fleet access"]["text"]
    assert (
        "rows of the log checked: 1. All are signed with this service's fleet"
        in found["fleet key"]["text"]
    )


def test_doctor_reports_unreachable_redis(shop: Shop) -> None:
    code, found = examine(shop, f"redis://:{PASSWORD}@127.0.0.1:1")

    assert code == 2
    assert found["fleet"]["status"] == "unknown"
    assert "CLERK_M2M_FLEET_URL names a Redis that this host reaches" in found["fleet"]["remedy"]


def test_doctor_reports_refused_password(shop: Shop, valkey: redis_py.Redis) -> None:
    code, found = examine(shop, url(valkey, f"nobody:{PASSWORD}@"))

    assert code == 2
    assert found["fleet"]["text"].startswith("Redis failed with AuthenticationError.")
    assert "user and password" in found["fleet"]["remedy"]


def test_doctor_reports_rows_signed_with_another_key(shop: Shop, valkey: redis_py.Redis) -> None:
    given = {"CLERK_M2M_FLEET_URL": url(valkey)}
    for key in (OTHER_KEY, KEY, OTHER_KEY):
        assert shop.run("invalidate", shop.billing.id, CLERK_M2M_FLEET_KEY=key, **given).code == 0

    code, found = examine(shop, url(valkey))

    assert (code, found["fleet key"]["status"]) == (1, "fault")
    assert (
        "checked: 3. Signed with a key that this service does not have: 2."
        in found["fleet key"]["text"]
    )
    assert "the same CLERK_M2M_FLEET_KEY" in found["fleet key"]["remedy"]
    assert examine(shop, url(valkey), CLERK_M2M_FLEET_KEY=f"{KEY},{OTHER_KEY}")[0] == 0


def evict(valkey: redis_py.Redis) -> None:
    valkey.config_set("maxmemory-policy", "allkeys-lru")


def keep_nothing(valkey: redis_py.Redis) -> None:
    valkey.config_set("save", "")
    valkey.config_set("appendonly", "no")


def become_a_replica(valkey: redis_py.Redis) -> None:
    valkey.replicaof("127.0.0.1", "1")


@pytest.mark.parametrize(
    ("harm", "check", "ended", "text", "remedy"),
    [
        (evict, "fleet memory", (0, "warning"), "is allkeys-lru", "maxmemory-policy noeviction"),
        (keep_nothing, "fleet disk", (0, "warning"), "does not write to disk", "appendonly"),
        (become_a_replica, "fleet", (1, "fault"), "is a replica", "address of the primary"),
    ],
)
def test_doctor_reports_a_server_that_may_lose_or_refuse_rows(
    shop: Shop,
    valkey: redis_py.Redis,
    harm: Callable[[redis_py.Redis], None],
    check: str,
    ended: tuple[int, str],
    text: str,
    remedy: str,
) -> None:
    examine(shop, url(valkey))  # begins the log
    harm(valkey)

    code, found = examine(shop, url(valkey))

    assert (code, found[check]["status"]) == ended
    assert text in found[check]["text"]
    assert remedy in found[check]["remedy"]


def rules_of_the_page() -> list[str]:
    """Return the ACL rules in docs/fleet.md, with those for shared verdicts."""
    page = Path(ROOT / "docs" / "fleet.md").read_text("utf-8")
    (of_log,) = re.findall(r"reset on >PASSWORD (~\S+ .*)", page)
    (more,) = re.findall(r"Shared verdicts need more: `([^`]+)`", page)
    return [*of_log.split(), *more.split()]


def test_doctor_reports_each_acl_rule_that_the_user_of_redis_lacks(
    shop: Shop, valkey: redis_py.Redis
) -> None:
    rules, server = rules_of_the_page(), url(valkey, f"clerk:{PASSWORD}@")
    fleet = Fleet(server, keys=[KEY], share_verdicts=True)

    def give(rules: list[str]) -> None:
        command: Any = valkey.execute_command
        command("ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", *rules)

    for rule in rules:
        give([each for each in rules if each != rule])
        refused = asyncio.run(refused_commands(fleet))
        named = rule if rule.startswith("+") else re.sub(r"~\{clerk_m2m\}:", "on ", rule)
        assert named in ", ".join(refused or ()), rule
    code, found = examine(shop, server)  # the user now lacks the last rule, for shared verdicts
    assert code == 0
    code, found = examine(shop, server, CLERK_M2M_FLEET_SHARE_VERDICTS="1")
    assert (code, list(found)) == (1, ["fleet access"])
    assert f"that the fleet needs: {rules[-1]} on verdict:*" in found["fleet access"]["text"]
    assert "docs/fleet.md by ACL SETUSER" in found["fleet access"]["remedy"]

    give(rules)
    code, found = examine(shop, server, CLERK_M2M_FLEET_SHARE_VERDICTS="1")

    assert (code, found["fleet access"]["status"]) == (0, "ok")
    assert found["fleet memory"]["status"] == found["fleet disk"]["status"] == "warning"
    assert "+info" in found["fleet disk"]["remedy"]
