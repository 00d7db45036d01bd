"""`explain`: the middleware's own decision, the step that refuses, and the remedy."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from canaries import Aviary

from clerk_m2m import Settings, Verifier
from clerk_m2m.cli.explain.deciding import decide_on
from clerk_m2m.cli.explain.diagnosis import diagnose
from clerk_m2m.cli.instance import Instance
from clerk_m2m.cli.verifying import verify_credential
from clerk_m2m.emulator import Emulator, new_signing_key
from clerk_m2m.secret import Secret
from harness import World, calling, protected

from .conftest import Shop

OTHER_KEY = new_signing_key()
LIVE_AND_MORE = {"CLERK_M2M_ACCEPTS": "m2m_token,api_key,oauth_token"}
NO_INSTANCE_KEY = {"CLERK_SECRET_KEY": ""}
NO_MACHINE_KEY = {"CLERK_MACHINE_SECRET_KEY": ""}


def explained(shop: Shop, code: int, presented: str, *options: str, **environ: str) -> Any:
    """Explain the presented text, assert the exit code, and return the explanation."""
    ended = shop.run("explain", "--json", *options, stdin=presented, **environ)
    assert ended.code == code, ended
    return ended.json


def refusal(shop: Shop, presented: str, *options: str, **environ: str) -> tuple[str, str, str, str]:
    """Return the code, the refusing step, the reasons and the remedies."""
    document = explained(shop, 1, presented, *options, **environ)
    results = [each["result"] for each in document["steps"]]
    at = results.index("refused")
    assert results == ["passed"] * at + ["refused"] + ["not reached"] * (5 - at)
    assert document["steps"][at]["step"] == document["refused_at"]
    why, mend = " ".join(document["why"]), " ".join(document["mend"])
    return document["code"], document["refused_at"], why, mend


def test_an_accepted_credential_passes_every_step_but_the_guards(shop: Shop) -> None:
    token = shop.emulator.mint_m2m_token(shop.billing)

    ended = shop.run("explain", stdin=token.token)
    document = explained(shop, 0, f"Authorization: Bearer {token.token}")

    assert ended.code == 0
    assert "It is accepted." in ended.out
    assert f"It is live: {token.id} of {shop.billing.id}" in ended.out
    assert document["admitted"] is True
    assert document["caller"] == shop.billing.id
    assert [each["result"] for each in document["steps"]] == ["passed"] * 5 + ["unknown"]


def test_a_missing_edge_is_named_with_the_commands_that_add_it(shop: Shop) -> None:
    token = shop.token()
    shop.emulator.cut(shop.billing, shop.orders)

    code, step, why, mend = refusal(shop, token)
    document = explained(shop, 1, token)

    assert (code, step) == ("scope_denied", "edge")
    assert f"billing ({shop.billing.id}) -> orders ({shop.orders.id}) is missing" in why
    assert "the live graph" in why
    assert 'Add "orders" to `may_call` of [machines.billing]' in mend
    assert "clerk-m2m graph plan FILE, then clerk-m2m graph apply FILE" in mend
    assert document["missing_edge"] == [shop.billing.id, shop.orders.id]
    assert document["reason"] == "edge_missing"


def test_without_the_instance_key_a_missing_edge_is_named_by_ids(shop: Shop) -> None:
    _, step, _, mend = refusal(
        shop, shop.token(), **NO_INSTANCE_KEY, CLERK_MACHINE_ID=shop.audit.id
    )

    assert step == "edge"
    assert f'Add "{shop.audit.id}" to `may_call` of the machine {shop.billing.id} in' in mend


def test_without_a_callee_the_error_names_both_ways_to_set_it(shop: Shop) -> None:
    ended = shop.run("explain", stdin=shop.token(), CLERK_MACHINE_ID="")

    assert (ended.code, ended.err) == (
        2,
        "Error: Name the machine that is called: set CLERK_MACHINE_ID, or --callee.\n",
    )


def test_for_a_token_older_than_its_edge_the_remedy_is_a_new_mint(shop: Shop) -> None:
    old = shop.token(shop.audit)
    before = refusal(shop, old, **NO_MACHINE_KEY)
    shop.emulator.allow(shop.audit, shop.orders)
    after = refusal(shop, old, **NO_MACHINE_KEY)

    assert before[:2] == after[:2] == ("scope_denied", "edge")
    assert "graph apply FILE" in before[3]
    assert "The edge is there now, so the token is older" in after[2]
    assert after[3].startswith("Mint a new token")


def test_the_instance_key_explains_a_token_that_the_machine_key_cannot_verify(
    shop: Shop,
) -> None:
    token = shop.emulator.mint_m2m_token(shop.audit)

    code, step, why, mend = refusal(shop, token.token)

    assert (code, step) == ("token_invalid", "verification")
    assert f"{token.id} of {shop.audit.id}: live until" in why
    assert f"minted without the edge audit ({shop.audit.id}) -> orders ({shop.orders.id})" in why
    assert "The edge is not there now either." in why
    assert 'Add "orders" to `may_call` of [machines.audit]' in mend

    shop.emulator.allow(shop.audit, shop.orders)
    _, _, why, mend = refusal(shop, token.token)

    assert "The edge is there now, so the token is older" in why
    assert mend.startswith("Mint a new token")


def test_for_a_service_with_another_machines_key_the_remedy_is_the_right_key(shop: Shop) -> None:
    audits = {"CLERK_MACHINE_SECRET_KEY": shop.audit.secret_key}

    code, step, why, mend = refusal(shop, shop.token(), **audits)
    by_machine = refusal(shop, shop.token(), **audits, **NO_INSTANCE_KEY)

    assert (code, step) == ("token_invalid", "verification")
    assert "CLERK_MACHINE_SECRET_KEY cannot verify it" in why
    assert mend.startswith("clerk-m2m doctor")
    assert "Mint" not in mend
    assert "If the key in CLERK_MACHINE_SECRET_KEY is another machine's" in by_machine[3]


def test_an_id_instead_of_a_token_is_named(shop: Shop) -> None:
    why = refusal(shop, shop.emulator.mint_m2m_token(shop.billing).id)[2]

    assert "It has the form of an id, which is not a credential" in why


def test_without_the_instance_key_the_output_says_what_it_would_show(shop: Shop) -> None:
    code, step, why, mend = refusal(shop, shop.token(shop.audit), **NO_INSTANCE_KEY)

    assert (code, step) == ("token_invalid", "verification")
    assert "answers 404 for a token that it does not know" in why
    assert "explain cannot find out which one this is" in why
    assert "The instance's key can show it" in why
    assert f"clerk-m2m graph check CALLER {shop.orders.id}" in mend


@pytest.mark.parametrize("keys", [{}, NO_INSTANCE_KEY], ids=["instance key", "machine key"])
def test_expired_and_revoked_tokens_are_named_if_clerk_reports_them(
    shop: Shop, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.emulator._instance, "dead_token_answer", "flag")
    revoked = shop.emulator.mint_m2m_token(shop.billing)
    shop.emulator.revoke_m2m_token(revoked, "left on a train")
    expired = shop.token(seconds_until_expiration=1)
    shop.emulator.travel(20)

    assert "revoked: left on a train" in refusal(shop, revoked.token, **keys)[2]
    code, step, why, mend = refusal(shop, expired, **keys)

    assert (code, step) == ("token_invalid", "verification")
    assert "expired at 20" in why
    assert mend.startswith("Mint a new token")


def test_a_dead_token_that_is_a_404_is_explained_by_its_id(shop: Shop) -> None:
    revoked = shop.emulator.mint_m2m_token(shop.billing)
    shop.emulator.revoke_m2m_token(revoked, "left on a train")
    expired = shop.emulator.mint_m2m_token(shop.billing, seconds_until_expiration=1)
    shop.emulator.travel(20)

    by_token = refusal(shop, revoked.token)
    by_id = refusal(shop, "", "--token-id", revoked.id)

    assert "it was revoked or has expired" in by_token[2]
    assert "explain --token-id ID" in by_token[3]
    assert by_token[:2] == by_id[:2] == ("token_invalid", "verification")
    assert "revoked: left on a train" in by_id[2]
    assert "expired at 20" in refusal(shop, "", "--token-id", expired.id, "--caller=billing")[2]


def test_token_id_gives_the_same_decision_as_the_token(shop: Shop) -> None:
    live = shop.emulator.mint_m2m_token(shop.billing)
    unscoped = shop.emulator.mint_m2m_token(shop.audit)
    key = shop.emulator.add_api_key("nightly", subject=shop.billing)

    assert explained(shop, 0, "", "--token-id", live.id)["caller"] == shop.billing.id
    code, step, why, _ = refusal(shop, "", "--token-id", unscoped.id)
    assert (code, step) == ("scope_denied", "edge")
    assert "and the service answers 401 token_invalid" in why
    assert refusal(shop, "", "--token-id", key.id)[:2] == ("token_type_not_accepted", "accepted")
    explained(shop, 0, "", "--token-id", key.id, **LIVE_AND_MORE)
    shop.emulator.cut(shop.billing, shop.orders)
    assert refusal(shop, "", "--token-id", live.id)[:2] == ("scope_denied", "edge")
    shop.emulator.fail("GetMachine", status=500)
    assert explained(shop, 2, "", "--token-id", live.id)["admitted"] is None


def test_an_id_that_cannot_be_looked_up_exits_with_2(shop: Shop) -> None:
    def errors(given: str, **environ: str) -> str:
        ended = shop.run("explain", "--token-id", given, **environ)
        assert (ended.code, ended.out) == (2, "")
        return ended.err

    unknown = "mt_" + "0" * 32
    shop.secrets.append(token := shop.token())

    assert "No machine of the instance has" in errors(unknown)
    assert "no API key with this id" in errors("ak_" + "0" * 32)
    assert "set CLERK_SECRET_KEY" in errors(unknown, **NO_INSTANCE_KEY)
    assert "The credential itself goes to standard input" in errors(token)


def test_a_session_jwt_is_never_accepted(shop: Shop) -> None:
    code, step, why, mend = refusal(shop, shop.emulator.mint_session_jwt(), **LIVE_AND_MORE)

    assert (code, step) == ("token_type_not_accepted", "accepted")
    assert "never to a machine" in why
    assert "clerk-m2m tokens mint" in mend


def test_a_jwt_at_a_service_without_a_graph_is_explained(shop: Shop) -> None:
    token = shop.token(token_format="jwt")

    code, step, why, mend = refusal(shop, token, **NO_INSTANCE_KEY)

    assert (code, step) == ("token_type_not_accepted", "accepted")
    assert "Only a graph can decide whom a JWT's caller may call" in why
    assert "CLERK_M2M_GRAPH" in mend
    assert "tokens mint --format opaque" in mend
    explained(shop, 0, token)


def test_a_type_that_is_not_accepted_is_explained_with_the_setting(shop: Shop) -> None:
    key = shop.emulator.add_api_key("nightly", subject=shop.billing).secret
    oauth = shop.emulator.add_oauth_token(subject="user_" + "u" * 27).token

    code, step, _, mend = refusal(shop, key)
    assert (code, step) == ("token_type_not_accepted", "accepted")
    assert "CLERK_M2M_ACCEPTS=api_key,m2m_token." in mend
    assert "CLERK_M2M_ACCEPTS=m2m_token,oauth_token." in refusal(shop, oauth)[3]
    explained(shop, 0, key, **LIVE_AND_MORE)
    explained(shop, 0, oauth, **LIVE_AND_MORE)


def test_a_machines_secret_key_sent_as_a_token_is_named(shop: Shop) -> None:
    code, step, _, mend = refusal(shop, shop.billing.secret_key, **LIVE_AND_MORE)

    assert (code, step) == ("token_invalid", "verification")
    assert "the secret key of a machine: do not send it" in mend


@pytest.mark.parametrize(
    ("presented", "code", "step"),
    [
        ("Bearer mt_0 and more", "token_malformed", "header"),
        ('"mt_0123456789abcdef0"', "token_malformed", "header"),
        ("Authorization: Bearer mt_0\nAuthorization: Bearer mt_1", "token_malformed", "header"),
        ("Basic Zm9vOmJhcg==", "token_missing", "header"),
        ("Host: orders.example", "token_missing", "header"),
        ("X-Api-Key: mt_0123456789abcdef0", "token_type_not_accepted", "header"),
        ("mt_short", "token_invalid", "form"),
        ("whatever", "token_invalid", "form"),
    ],
)
def test_a_malformed_header_is_explained(shop: Shop, presented: str, code: str, step: str) -> None:
    header = {"CLERK_M2M_API_KEY_HEADER": "X-Api-Key", **LIVE_AND_MORE}

    found = refusal(shop, presented, **header)

    assert found[:2] == (code, step)
    assert found[3]


def test_an_invalid_jwt_is_explained_with_its_unverified_claims(shop: Shop) -> None:
    shop.emulator.travel(-100)
    expired = shop.token(token_format="jwt", seconds_until_expiration=30)
    shop.emulator.travel(100)
    foreign = Emulator(signing_key=OTHER_KEY)
    machine = foreign.add_machine("orders", id=shop.billing.id)
    forged = foreign.mint_m2m_token(machine, token_format="jwt").token
    foreign.close()

    code, step, why, mend = refusal(shop, expired)
    assert (code, step) == ("token_invalid", "verification")
    assert f"(not verified): subject {shop.billing.id}, issuer http" in why
    assert "expires 20" in why
    assert mend.startswith("Mint a new token")
    code, step, why, mend = refusal(shop, forged)
    assert (code, step) == ("token_invalid", "verification")
    assert f"It names the key {foreign.instance_id}; this instance has" in why
    assert mend.startswith("The calling service must mint with the key of a machine of this")


def test_an_outage_is_no_answer(shop: Shop) -> None:
    token = shop.token()
    shop.emulator.fail("GetMachine", status=500)
    edge = explained(shop, 2, token)
    shop.emulator.fail("verifyM2MToken", status=500)
    verification = explained(shop, 2, token)
    shop.emulator.clear_faults()
    ours = explained(shop, 2, token, CLERK_MACHINE_SECRET_KEY="ak_" + "x" * 48)

    assert [each["refused_at"] for each in (edge, verification, ours)] == [
        "edge",
        "verification",
        "verification",
    ]
    assert edge["admitted"] is None
    assert edge["steps"][3]["text"] == "It is live. (verifyM2MToken, GetMachine)"
    assert edge["code"] == "verification_unavailable"
    assert ours["code"] == "verifier_misconfigured"
    assert "clerk-m2m doctor" in " ".join(ours["mend"])


def test_another_callee_is_explained_with_the_instance_key(shop: Shop) -> None:
    token = shop.token()

    code, step, why, _ = refusal(shop, token, "--callee", "audit")
    by_id = explained(shop, 0, token, "--callee", shop.orders.id, **NO_MACHINE_KEY)
    no_key = shop.run("explain", "--callee", shop.audit.id, stdin=token, **NO_INSTANCE_KEY)
    nobody = shop.run("explain", "--callee", "nobody", stdin=token)

    assert (code, step) == ("scope_denied", "edge")
    assert f"audit ({shop.audit.id})" in why
    assert by_id["callee"] == shop.orders.id
    assert (no_key.code, "set CLERK_SECRET_KEY" in no_key.err) == (2, True)
    assert (nobody.code, "no machine nobody" in nobody.err) == (2, True)


def test_wrong_usage_is_no_answer(shop: Shop) -> None:
    assert "no credential on standard input" in shop.run("explain").err
    assert shop.run("explain").code == 2
    assert shop.run("explain", "--caller", "billing").code == 2
    assert shop.run("explain", stdin=shop.token(), CLERK_M2M_CACHE_TTL="1m").code == 2


async def answers(settings: Settings, presented: list[str]) -> list[tuple[int, str | None]]:
    """Return the answers of a service with these settings to each credential."""
    verifier = Verifier(settings)
    try:
        async with calling(protected(verifier)) as client:
            got = [
                await client.get("/", headers={"Authorization": f"Bearer {each}"})
                for each in presented
            ]
    finally:
        await verifier.aclose()
    return [(each.status_code, each.json().get("code")) for each in got]


@pytest.mark.parametrize(
    "environ",
    [LIVE_AND_MORE | NO_MACHINE_KEY, NO_INSTANCE_KEY],
    ids=["instance key", "machine key"],
)
def test_explain_decides_as_the_middleware_does(shop: Shop, environ: dict[str, str]) -> None:
    presented = [
        shop.token(),
        shop.token(shop.audit),
        shop.token(token_format="jwt"),
        shop.token(shop.audit, token_format="jwt"),
        shop.emulator.add_api_key("one", subject=shop.audit).secret,
        shop.emulator.add_api_key("two", subject="user_" + "u" * 27).secret,
        shop.emulator.mint_session_jwt(),
        "mt_x",
        "a b",
    ]

    # One process verifies all of them, so the default `unknown_rate` would refuse some.
    settings = Settings.from_env({**shop.environ, **environ}, unknown_rate=1_000.0)
    expected = asyncio.run(answers(settings, presented))

    for token, (status, code) in zip(presented, expected, strict=True):
        ended = shop.run("explain", "--json", stdin=f"Bearer {token}", **environ)
        told = ended.json
        assert (told["status"] or 200, told["code"]) == (status, code), ended
        assert (ended.code, told["admitted"]) == ((0, True) if status == 200 else (1, False))


def test_a_process_reads_the_credential_from_standard_input_only(shop: Shop) -> None:
    token = shop.token(shop.audit)
    shop.secrets.append(token)
    done = subprocess.run(
        [sys.executable, "-m", "clerk_m2m", "explain"],
        input=f"Authorization: Bearer {token}\r\n",
        env=os.environ | shop.environ,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert "The answer is 401 token_invalid." in done.stdout
    shop.assert_silent(done.stdout)


async def test_no_frame_and_no_value_of_a_failure_shows_a_secret(
    shop: Shop,
    world: World,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in shop.environ.items():
        monkeypatch.setenv(name, value)
    aviary = Aviary(world, caplog)
    for key in shop.secrets:
        aviary.keep_key(key)
    settings, instance = Settings.from_env(), Instance.from_env(machine_key=True)

    for status in (200, 404, 500):
        shop.emulator.clear_faults()
        if status != 200:
            shop.emulator.fail(status=status)
        for given in ({}, {"token_format": "jwt"}):
            token = Secret(aviary.keep(shop.token(shop.audit, **given)))
            await aviary.attempt(partial(verify_credential, instance, token))
            decided = await decide_on(settings, token)
            assert decided.refusal is not None
            aviary.look_at_error(decided.refusal)
            async with instance.client() as clerk:
                aviary.look(await diagnose(decided, settings, clerk))
            aviary.seen.append(repr(decided))

    assert ("deciding.py", "decide_on") in aviary.frames
    aviary.assert_silent()
