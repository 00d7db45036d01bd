"""`doctor`: it reports each fault by name, and reports unknown for a check that cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clerk_m2m import Settings
from clerk_m2m.cli.doctor.findings import Finding
from clerk_m2m.cli.doctor.limits import check_admission
from clerk_m2m.cli.doctor.remote import latency

from .conftest import Shop

DEAD = "http://127.0.0.1:9"  # the discard port, on which no server listens


def found(
    shop: Shop, code: int, check: str, *options: str, **environ: str
) -> list[tuple[str, str, str]]:
    """Return the findings of the check with this name: status, text and remedy."""
    ended = shop.run("doctor", "--json", *options, **environ)
    assert ended.code == code, ended
    return [
        (each["status"], each["text"], each["remedy"] or "")
        for each in ended.json["checks"]
        if each["check"] == check
    ]


def fault(shop: Shop, check: str, **environ: str) -> str:
    """Assert that there is one fault, in the check with this name; return its text and remedy."""
    ended = shop.run("doctor", "--json", **environ)
    faults = [each for each in ended.json["checks"] if each["status"] == "fault"]
    assert (ended.code, [each["check"] for each in faults]) == (1, [check]), ended
    return f"{faults[0]['text']} {faults[0]['remedy']}"


def test_doctor_reports_no_fault_in_a_working_service(shop: Shop) -> None:
    ended = shop.run("doctor")

    assert ended.code == 0, ended.out
    assert {line.split()[0] for line in ended.out.splitlines()} == {"ok"}
    assert f"{shop.orders.id} is orders" in ended.out
    assert "belongs to CLERK_MACHINE_ID: it is the machine's current key" in ended.out
    assert "billing may call this machine" in ended.out
    assert "Accepted: opaque M2M tokens, M2M JWTs." in ended.out
    assert shop.emulator.verifications == 0, "it costs nothing"


def test_doctor_reports_the_key_of_another_machine(shop: Shop) -> None:
    text = fault(shop, "machine key", CLERK_MACHINE_SECRET_KEY=shop.audit.secret_key)

    assert "belongs to another machine than CLERK_MACHINE_ID" in text
    assert f"machines rotate-key {shop.orders.id}" in text


def test_doctor_reports_a_machine_key_that_clerk_does_not_know(shop: Shop) -> None:
    text = fault(shop, "machine key", CLERK_MACHINE_SECRET_KEY="ak_" + "x" * 48)

    assert "Clerk refuses the key in CLERK_MACHINE_SECRET_KEY" in text


def test_doctor_reports_an_instance_key_that_clerk_does_not_know(shop: Shop) -> None:
    rows = found(shop, 1, "machine", CLERK_SECRET_KEY="sk_test_" + "x" * 40)

    assert rows[0][0] == "fault"
    assert "Clerk refuses the key in CLERK_SECRET_KEY" in rows[0][1]


@pytest.mark.parametrize(
    ("variable", "key", "words"),
    [
        ("CLERK_MACHINE_SECRET_KEY", "instance", "belongs in CLERK_SECRET_KEY"),
        ("CLERK_SECRET_KEY", "machine", "belongs in CLERK_MACHINE_SECRET_KEY"),
        ("CLERK_SECRET_KEY", "pk_test_" + "p" * 40, "begins like a publishable key"),
    ],
)
def test_doctor_reports_a_key_in_the_wrong_variable(
    shop: Shop, variable: str, key: str, words: str
) -> None:
    keys = {"instance": shop.emulator.secret_key, "machine": shop.orders.secret_key}

    text = fault(shop, "keys", **{variable: keys.get(key, key)})

    assert text.startswith(f"{variable} does not look like one")
    assert words in text


def test_doctor_reports_a_missing_key_file(shop: Shop, tmp_path: Path) -> None:
    given = {"CLERK_SECRET_KEY": "", "CLERK_SECRET_KEY_FILE": str(tmp_path / "none")}

    assert "No such file" in fault(shop, "keys", **given)


def test_doctor_reports_a_variable_that_is_not_read(shop: Shop) -> None:
    assert "Did you mean CLERK_M2M_GRAPH_TTL?" in fault(shop, "variables", CLERK_M2M_GRAPH_TLL="5")


def test_doctor_reports_an_invalid_setting(shop: Shop) -> None:
    text = fault(shop, "settings", CLERK_M2M_CACHE_TTL="1m")

    assert text.startswith("CLERK_M2M_CACHE_TTL must be a number, without a unit.")
    assert "api_url must be https" in fault(shop, "settings", CLERK_API_URL="http://clerk.test")


@pytest.mark.parametrize(("seconds", "words"), [(120, "behind"), (-120, "ahead of")])
def test_doctor_reports_a_wrong_clock(shop: Shop, seconds: int, words: str) -> None:
    shop.emulator.travel(seconds)

    text = fault(shop, "clock")

    assert f" s {words} Clerk's. JWTs are refused" in text
    assert "NTP" in text


def test_doctor_reports_a_graph_file_without_this_machine(shop: Shop, tmp_path: Path) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text(f'[machines.audit]\nid = "{shop.audit.id}"\n')

    text = fault(shop, "graph", CLERK_M2M_GRAPH=str(graph))

    assert f"{graph} does not have this machine ({shop.orders.id})" in text
    assert "clerk-m2m graph plan FILE" in text


def test_doctor_reports_a_graph_without_callers_of_this_machine(shop: Shop, tmp_path: Path) -> None:
    graph = tmp_path / "graph.toml"
    graph.write_text(
        f'[machines.orders]\nid = "{shop.orders.id}"\n'
        f'[machines.billing]\nid = "{shop.billing.id}"\nmay_call = ["orders"]\n'
    )
    shop.emulator.cut(shop.billing, shop.orders)

    assert "By the live graph no machine may call this machine" in fault(shop, "graph")
    [(status, text, _)] = found(shop, 0, "graph", CLERK_M2M_GRAPH=str(graph))
    assert (status, text) == (
        "ok",
        f"By the file {graph}, these may call this machine (1): billing.",
    )
    graph.write_text("[machines.orders")
    assert "not valid TOML" in fault(shop, "graph", CLERK_M2M_GRAPH=str(graph))


def test_doctor_reports_a_machine_of_another_instance(shop: Shop) -> None:
    other = "mch_" + "o" * 27

    rows = found(shop, 1, "machine", CLERK_MACHINE_ID=other, CLERK_MACHINE_SECRET_KEY="")

    assert rows[0][0] == "fault"
    assert f"CLERK_MACHINE_ID names {other}, which the instance" in rows[0][1]


def test_doctor_reports_unknown_if_clerk_is_unreachable(shop: Shop) -> None:
    [(status, text, remedy)] = found(shop, 2, "clerk", CLERK_API_URL=DEAD)

    assert status == "unknown"
    assert f"Clerk did not answer at {DEAD}" in text
    assert "Check CLERK_API_URL" in remedy


def test_doctor_reports_the_outage_of_one_operation(shop: Shop) -> None:
    shop.emulator.fail("ListMachines", status=500)
    shop.emulator.fail("GetJWKS", status=500)
    shop.emulator.fail("getM2MTokens", status=500)

    for check in ("graph", "key set", "machine key"):
        assert [status for status, *_ in found(shop, 2, check)] == ["unknown"]


def test_doctor_reports_a_broken_jwt_key(shop: Shop, tmp_path: Path) -> None:
    assert "is not a PEM public key" in fault(shop, "key set", CLERK_JWT_KEY="nonsense")
    rows = found(shop, 0, "key set", CLERK_JWT_KEY=shop.emulator.public_key_pem())
    assert rows[0][1].startswith("One fixed key (CLERK_JWT_KEY).")


def test_doctor_reports_a_wrong_jwks_url(shop: Shop) -> None:
    elsewhere = f"{shop.environ['CLERK_API_URL']}/v1/nothing"

    text = fault(shop, "key set", CLERK_M2M_JWKS_URL=elsewhere)

    assert f"No key set from {elsewhere}" in text
    assert "CLERK_M2M_JWKS_URL" in text


def test_doctor_reports_checks_that_need_the_instance_key(shop: Shop) -> None:
    [(status, text, remedy)] = found(shop, 0, "machine key", CLERK_SECRET_KEY="")
    [(_, graph, _)] = found(shop, 0, "graph", CLERK_SECRET_KEY="")

    assert status == "warning"
    assert "does not prove that the key is its own" in text
    assert "CLERK_SECRET_KEY" in remedy
    assert "A machine's key cannot read who may call" in graph

    shop.token(shop.orders)
    [(status, text, _)] = found(shop, 0, "machine key", CLERK_SECRET_KEY="")
    assert (status, f"it lists tokens of {shop.orders.id}" in text) == ("ok", True)


def test_doctor_reports_credential_types_that_are_always_refused(
    shop: Shop, tmp_path: Path
) -> None:
    rows = found(shop, 0, "accepted types", CLERK_M2M_ACCEPTS="m2m_token,oauth_token")
    assert [status for status, *_ in rows] == ["warning", "ok"]
    assert "CLERK_M2M_OAUTH_AUDIENCE" in rows[0][2]

    graph = tmp_path / "graph.toml"
    graph.write_text(
        f'[machines.billing]\nid = "{shop.billing.id}"\nmay_call = ["{shop.orders.id}"]\n'
    )
    only_jwts = {
        "CLERK_SECRET_KEY": "",
        "CLERK_MACHINE_SECRET_KEY": "",
        "CLERK_JWT_KEY": shop.emulator.public_key_pem(),
        "CLERK_M2M_GRAPH": str(graph),
    }
    rows = found(shop, 0, "accepted types", **only_jwts)
    assert rows[0][1].startswith("An opaque M2M token is refused: This service has no key")
    assert "never asks Clerk" in found(shop, 0, "clerk", **only_jwts)[0][1]


def test_doctor_compares_admission_with_the_rate_limit_of_the_instance() -> None:
    def admission(workers: int, *, live: bool = False, **given: Any) -> list[Finding]:
        settings = Settings(machine_id="mch_" + "m" * 27, machine_secret_key="ak_x", **given)
        return list(check_admission(settings, workers, live=live))

    [well] = admission(2, unknown_rate=4.0)
    assert (well.status, well.text) == (
        "ok",
        "2 workers stay within the 100 requests in 10 s of a development instance.",
    )
    [rate] = admission(3, unknown_rate=4.0)
    assert rate.text.startswith("3 x 4 unknown tokens a second (CLERK_M2M_UNKNOWN_RATE) exceed")
    assert rate.remedy == "Set CLERK_M2M_UNKNOWN_RATE to 1.67 or less."
    [_, burst] = admission(6, unknown_rate=4.0)
    assert burst.text.startswith("6 x 20 calls at once (CLERK_M2M_MAX_INFLIGHT)")
    assert burst.remedy == "Set CLERK_M2M_MAX_INFLIGHT to 16 or less."
    [adapting] = admission(1)
    assert (adapting.status, "lowers it after a 429" in adapting.text) == ("warning", True)
    [least, _] = admission(11)
    assert (least.status, "Even the lowest rate" in least.text) == ("fault", True)
    assert [each.status for each in admission(2, live=True)] == ["ok"]


def test_doctor_multiplies_by_workers_and_uses_the_kind_of_instance(shop: Shop) -> None:
    [(_, text, _)] = found(shop, 0, "admission", "--workers=3")
    [(status, live, _)] = found(shop, 0, "admission", CLERK_SECRET_KEY="")

    assert text.startswith("3 x 4 unknown tokens")
    assert (status, "a production instance" in live) == ("ok", True)


def test_doctor_reports_a_slow_clerk() -> None:
    settings = Settings(machine_id="mch_" + "m" * 27, machine_secret_key="ak_x")

    well, slow = latency(settings, [0.9, 0.04, 0.05]), latency(settings, [0.9, 0.6, 0.7])

    assert (well.status, "answers in 50 ms (p50 of 3 calls" in well.text) == ("ok", True)
    assert (slow.status, "CLERK_M2M_TIMEOUT is 2 s" in slow.text) == ("warning", True)
