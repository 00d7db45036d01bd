"""The arguments of `Fleet`, its environment variables, and the values that are rejected."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

from clerk_m2m import ConfigurationError, Fleet, Settings
from clerk_m2m.fleet.log import client_of
from harness import World

from .services import FLEET_KEY, OTHER_KEY

URL = "redis://:hunter22@redis.internal:6379/0"


def test_a_fleet_is_read_from_the_environment() -> None:
    environ = {"CLERK_M2M_FLEET_URL": URL, "CLERK_M2M_FLEET_KEY": f"{FLEET_KEY}, {OTHER_KEY}"}

    fleet = Fleet.from_env(environ)

    assert fleet == Fleet(URL, keys=[FLEET_KEY, OTHER_KEY])
    assert Fleet.from_env({}) is None


def test_verdicts_are_shared_only_if_the_setting_says_so() -> None:
    environ = {"CLERK_M2M_FLEET_URL": URL, "CLERK_M2M_FLEET_KEY": FLEET_KEY}

    def shares(text: str) -> bool:
        fleet = Fleet.from_env(environ | {"CLERK_M2M_FLEET_SHARE_VERDICTS": text})
        assert fleet is not None
        return fleet.share_verdicts

    assert not Fleet(URL, keys=[FLEET_KEY]).share_verdicts
    assert [shares(text) for text in ("", "0", "1", "true")] == [False, False, True, True]
    with pytest.raises(ConfigurationError, match="CLERK_M2M_FLEET_SHARE_VERDICTS must be 1"):
        shares("maybe")


def test_repr_of_a_fleet_shows_no_secret() -> None:
    shown = repr(Fleet(URL, keys=[FLEET_KEY]))

    assert "hunter22" not in shown
    assert FLEET_KEY not in shown


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"CLERK_M2M_FLEET_URL": URL}, "CLERK_M2M_FLEET_KEY"),
        ({"CLERK_M2M_FLEET_KEY": FLEET_KEY}, "CLERK_M2M_FLEET_URL"),
    ],
)
def test_fleet_url_and_fleet_key_must_be_set_together(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"set {named} too"):
        Fleet.from_env(environ)


@pytest.mark.parametrize(
    ("server", "given", "text"),
    [
        ("http://redis.internal", {}, "must begin with redis://"),
        ("redis://redis.internal:99999", {}, "must begin with redis://"),
        (7, {}, "must be an address"),
        (URL, {"keys": []}, "one secret text, or two"),
        (URL, {"keys": [FLEET_KEY, OTHER_KEY, "3" * 40]}, "one secret text, or two"),
        (URL, {"keys": [FLEET_KEY, FLEET_KEY]}, "are the same"),
        (URL, {"keys": ["hunter22"]}, "shorter than 32 characters"),
        (URL, {"prefix": "a b"}, "letters, digits"),
        (URL, {"prefix": "{a}"}, "letters, digits"),
        (URL, {"require_log": "no"}, "require_log"),
    ],
)
def test_invalid_arguments_are_rejected_without_a_secret_in_the_error(
    server: Any, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        Fleet(server, **({"keys": [FLEET_KEY]} | given))
    assert "hunter22" not in str(caught.value)


def test_settings_read_the_fleet_from_the_environment() -> None:
    environ = {
        "CLERK_MACHINE_ID": "mch_" + "a" * 27,
        "CLERK_MACHINE_SECRET_KEY": "ak_" + "a" * 40,
        "CLERK_M2M_FLEET_URL": URL,
        "CLERK_M2M_FLEET_KEY": FLEET_KEY,
    }

    assert Settings.from_env(environ).fleet == Fleet(URL, keys=[FLEET_KEY])
    assert Settings.from_env(environ, fleet=None).fleet is None
    with pytest.raises(ConfigurationError, match="fleet must be a Fleet"):
        Settings.from_env(environ, fleet=URL)


def test_a_fleet_without_redis_py_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    with pytest.raises(ConfigurationError, match=r"install clerk-m2m\[fleet\]"):
        world.verifier(world.settings(fleet=Fleet(URL, keys=[FLEET_KEY])))


@pytest.mark.parametrize(
    ("server", "connection"),
    [
        ("unix:///run/valkey/socket", UnixDomainSocketConnection),
        ("rediss://redis.internal", SSLConnection),
        (URL, Connection),
    ],
)
def test_redis_py_accepts_each_kind_of_address(server: str, connection: type) -> None:
    client = client_of(Fleet(server, keys=[FLEET_KEY]))

    assert client.connection_pool.connection_class is connection
