"""`machines`, `tokens` and `keys`: their changes, their output, and the handling of secrets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command

from clerk_m2m.emulator import Emulator

from .conftest import Shop

NO_INSTANCE_KEY = {"CLERK_SECRET_KEY": ""}


def held(path: Path) -> str:
    """The secret in a file that only its owner can read."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text("utf-8").strip()


def test_machines_are_listed_for_people_and_for_programs(shop: Shop) -> None:
    table = shop.run("machines", "list")
    document = shop.run("machines", "list", "--query", "bill", "--json").json

    assert [line.split()[1] for line in table.out.splitlines()] == [
        "name",
        "orders",
        "billing",
        "audit",
    ]
    [billing] = document["machines"]
    assert (billing["id"], billing["may_call"]) == (shop.billing.id, [shop.orders.id])


def test_a_new_machine_and_its_key_are_written(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "stock.key"
    ended = shop.run(
        "machines",
        "create",
        "stock",
        "--may-call=orders",
        "--token-ttl=60",
        "--json",
        f"--secret-file={file}",
    )
    made = ended.json["machine"]

    assert ended.code == 0
    assert "Talking to the development instance at http" in ended.err
    assert (made["may_call"], made["default_token_ttl"]) == ([shop.orders.id], 60)
    assert held(file) == shop.emulator.machine(made["id"]).secret_key
    shop.secrets.append(held(file))
    shop.assert_silent(ended.out + ended.err)
    without = shop.run("machines", "create", "books")
    assert (without.code, "ak_" in without.out) == (0, False)


def test_a_rotated_key_is_printed_alone_with_show_secret(shop: Shop) -> None:
    ended = shop.run("machines", "rotate-key", "orders", "--show-secret", "--keep-old=0")

    assert ended.code == 0
    assert ended.out.strip() == shop.emulator.machine(shop.orders.id).secret_key
    assert ended.out.strip() != shop.orders.secret_key
    assert "The old one works for 0 s more." in ended.err


@pytest.mark.parametrize(
    "command",
    [
        ("machines", "rotate-key", "orders"),
        ("tokens", "mint"),
        ("keys", "create", "nightly", "billing"),
    ],
)
def test_a_new_secret_needs_a_target_and_overwrites_no_file(
    shop: Shop, command: tuple[str, ...], tmp_path: Path
) -> None:
    there, new = tmp_path / "there", tmp_path / "new"
    there.write_text("kept")
    calls = shop.emulator.calls.copy()

    nowhere = shop.run(*command)
    both = shop.run(*command, "--show-secret", f"--secret-file={new}")
    over = shop.run(*command, f"--secret-file={there}")

    assert [each.code for each in (nowhere, both, over)] == [2, 2, 2]
    assert "Where is the new secret to go?" in nowhere.err
    assert f"{there} exists already" in over.err
    assert there.read_text() == "kept"
    assert not new.exists()
    assert shop.emulator.calls == calls, "nothing was made of which the secret would be lost"


def test_a_call_that_fails_leaves_no_file(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "key"

    ended = shop.run("machines", "rotate-key", "nobody", f"--secret-file={file}")

    assert (ended.code, ended.err.splitlines()[-1]) == (
        2,
        "Error: The instance has no machine nobody.",
    )
    assert not file.exists()


def test_a_change_of_a_live_instance_needs_confirmation(shop: Shop, tmp_path: Path) -> None:
    live = {"CLERK_SECRET_KEY": "sk_live_" + "x" * 40}

    for command in (
        ["machines", "create", "stock"],
        ["machines", "rotate-key", "orders", "--show-secret"],
        ["keys", "revoke", "ak_" + "0" * 32],
        ["tokens", "revoke", "mt_" + "0" * 32],
    ):
        ended = shop.run(*command, **live)
        assert ended.code == 2
        assert "LIVE instance" in ended.err
        assert "Nothing was changed" in ended.err


def test_with_only_a_machine_key_confirmation_is_needed_off_loopback(shop: Shop) -> None:
    alone = {"CLERK_MACHINE_SECRET_KEY": shop.billing.secret_key, "CLERK_SECRET_KEY": ""}
    shop.secrets.append(shop.billing.secret_key)

    minted = shop.run("tokens", "mint", "--show-secret", **alone)
    declined = shop.run("tokens", "mint", "--show-secret", "--api-url=https://clerk.test", **alone)

    assert minted.code == 0
    assert minted.err.startswith("Talking to the instance at http://127.0.0.1:")
    assert declined.code == 2
    assert "in the instance at https://clerk.test, which may be LIVE? [y/N]" in declined.err


def test_a_token_is_minted_verified_and_revoked(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "token"
    as_billing = {"CLERK_MACHINE_SECRET_KEY": shop.billing.secret_key}

    minted = shop.run(
        "tokens",
        "mint",
        "--ttl=60",
        '--claims={"run": 7}',
        f"--secret-file={file}",
        "--json",
        **as_billing,
    ).json["token"]
    live = shop.run("tokens", "verify", "--json", stdin=held(file))
    table = shop.run("tokens", "verify", stdin=held(file))
    revoked = shop.run("tokens", "revoke", minted["id"], "--reason=drill", "--json", **as_billing)
    dead = shop.run("tokens", "verify", stdin=held(file))

    assert (minted["subject"], minted["scopes"]) == (shop.billing.id, [shop.orders.id])
    assert (live.code, live.json["id"], live.json["live"]) == (0, minted["id"], True)
    assert f"whose   {shop.billing.id}" in table.out
    assert "live until 20" in table.out
    assert (revoked.code, revoked.json["token"]["revoked"]) == (0, True)
    assert dead.code == 1
    assert "unknown to this instance, revoked or expired" in dead.out


def test_a_dead_token_is_reported_if_clerk_reports_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.emulator._instance, "dead_token_answer", "flag")
    token = shop.emulator.mint_m2m_token(shop.billing)
    shop.emulator.revoke_m2m_token(token, "drill")

    ended = shop.run("tokens", "verify", stdin=token.token)

    assert ended.code == 1
    assert "revoked: drill" in ended.out


def test_every_type_of_credential_is_verified(shop: Shop) -> None:
    user = "user_" + "u" * 27
    oauth_jwt = shop.emulator.add_oauth_token(
        subject=user, token_format="jwt", audience="https://orders.example"
    )
    presented = {
        "API key": shop.emulator.add_api_key("one", subject=user).secret,
        "opaque OAuth access token": shop.emulator.add_oauth_token(subject=user).token,
        "OAuth access token JWT": oauth_jwt.token,
        "M2M JWT": shop.token(token_format="jwt"),
    }
    for what, token in presented.items():
        ended = shop.run("tokens", "verify", "--json", stdin=token)
        assert (ended.code, ended.json["what"]) == (0, what)
        assert ended.json["subject"] == (shop.billing.id if "M2M" in what else user)
    for what, token in {
        "session JWT": shop.emulator.mint_session_jwt(),
        "unknown credential": "whatever",
        "ill-formed machine credential": "mt_short",
    }.items():
        ended = shop.run("tokens", "verify", "--json", stdin=token)
        assert (ended.code, ended.json["what"]) == (1, what)


def test_a_jwt_of_another_instance_is_not_live(shop: Shop) -> None:
    foreign = Emulator()
    token = foreign.mint_m2m_token(foreign.add_machine("billing"), token_format="jwt").token
    foreign.close()

    ended = shop.run("tokens", "verify", stdin=token)

    assert ended.code == 1
    assert "not from a key of this instance" in ended.out


def test_a_token_that_cannot_be_verified_exits_with_2(shop: Shop) -> None:
    shop.emulator.fail("verifyM2MToken", status=500)
    shop.emulator.fail("GetJWKS", status=500)

    for token in (shop.token(), shop.token(token_format="jwt")):
        assert shop.run("tokens", "verify", stdin=token).code == 2
        assert shop.run("tokens", "verify", stdin="").code == 2
    key = shop.emulator.add_api_key("one", subject=shop.billing).secret
    for token in (key, shop.token(token_format="jwt")):
        ended = shop.run("tokens", "verify", stdin=token, **NO_INSTANCE_KEY)
        assert (ended.code, "set CLERK_SECRET_KEY" in ended.err) == (2, True)


def test_a_machine_key_verifies_only_tokens_for_its_machine(shop: Shop) -> None:
    mine = shop.run("tokens", "verify", stdin=shop.token(), **NO_INSTANCE_KEY)
    hidden = shop.run("tokens", "verify", stdin=shop.token(shop.audit), **NO_INSTANCE_KEY)

    assert (mine.code, hidden.code) == (0, 1)
    assert "with CLERK_SECRET_KEY more can be told" in hidden.out


def test_api_keys_are_created_listed_and_revoked(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = shop.run(
        "keys",
        "create",
        "nightly",
        "billing",
        "--scope=read",
        "--ttl=60",
        "--json",
        f"--secret-file={file}",
    ).json["key"]
    listed = shop.run("keys", "list", "billing")
    shop.secrets.append(held(file))
    revoked = shop.run("keys", "revoke", made["id"])
    left = shop.run("keys", "list", shop.billing.id, "--json").json["keys"]
    every = shop.run("keys", "list", shop.billing.id, "--all", "--json").json["keys"]

    assert (made["subject"], made["scopes"]) == (shop.billing.id, ["read"])
    assert "live until 20" in listed.out
    assert (revoked.code, "revoked" in revoked.out) == (0, True)
    assert (left, [each["revoked"] for each in every]) == ([], [True])


def test_a_machine_whose_name_starts_like_an_id_is_found_by_name(shop: Shop) -> None:
    machine = shop.emulator.add_machine("user_service")
    key = shop.emulator.add_api_key("nightly", subject=machine)

    assert key.id in shop.run("keys", "list", "user_service").out


def test_a_secret_in_the_arguments_is_rejected_and_not_quoted(shop: Shop) -> None:
    token = shop.token()
    key = shop.emulator.add_api_key("one", subject=shop.billing).secret
    shop.secrets += [token, key]

    assert "never the token itself" in shop.run("tokens", "revoke", token).err
    assert "never the key itself" in shop.run("keys", "revoke", key).err
    assert shop.run("tokens", "mint", "--claims=[1]", "--show-secret").code == 2
    no_key = {"CLERK_MACHINE_SECRET_KEY": ""}
    assert "CLERK_MACHINE_SECRET_KEY" in shop.run("tokens", "mint", **no_key).err


def test_input_that_is_not_utf_8_exits_with_2(shop: Shop) -> None:
    done = run_command("tokens", "verify", stdin=b"\xff\xfe", environ=shop.environ)

    assert (done.code, done.err) == (2, "Error: Standard input is not UTF-8 text.\n")


def test_a_secret_file_has_mode_0600_whatever_the_umask(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "token"
    done = subprocess.run(
        [sys.executable, "-m", "clerk_m2m", "tokens", "mint", "--secret-file", str(file)],
        env=os.environ | shop.environ,
        capture_output=True,
        text=True,
        umask=0,
    )

    assert done.returncode == 0, done.stderr
    shop.secrets.append(held(file))
    shop.assert_silent(done.stdout + done.stderr)
    assert held(file).startswith("mt_")
